# Made by tests/support/public_stub.py from the list in __init__.py: do not edit.

from kling_async import providers as providers
from kling_async import webhooks as webhooks
from kling_async._bulk.outcome import (
    Outcome,
)
from kling_async._bulk.progress import (
    BulkStatistics,
)
from kling_async._bulk.run import (
    BulkRun,
)
from kling_async._client import (
    Client,
    Statistics,
)
from kling_async._errors import (
    AllRefused,
    BudgetExceeded,
    BulkStopped,
    ConfigurationError,
    ContentRejected,
    DownloadFailed,
    GenerationCancelled,
    GenerationFailed,
    GenerationTimeout,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    KeyConflict,
    KlingError,
    LedgerFailed,
    NotOffered,
    ProviderUnavailable,
    RateLimited,
    Remedy,
    SubmissionUnknown,
    TransportFailed,
    Unauthorized,
    WebhookRejected,
)
from kling_async._http.limits import (
    Limits,
)
from kling_async._job.job import (
    Job,
)
from kling_async._ledger.inspection import (
    LedgerContents,
    inspect_ledger,
)
from kling_async._ledger.memory import (
    MemoryLedger,
)
from kling_async._ledger.opening import (
    open_ledger,
)
from kling_async._ledger.postgres import (
    PostgresLedger,
)
from kling_async._ledger.protocol import (
    Ledger,
    ReceivedAnswer,
    SpendingGroup,
    Submission,
    SubmissionState,
)
from kling_async._ledger.sqlite import (
    SqliteLedger,
)
from kling_async._media.prepared_image import (
    PreparedImage,
    prepare_image,
)
from kling_async._models import (
    Artifact,
    Choice,
    Cost,
    Event,
    Failure,
    JobRef,
    Result,
    Status,
)
from kling_async._polling.settings import (
    Polling,
)
from kling_async._routing.quotes import (
    ProviderHealth,
    Quote,
)
from kling_async._scheduling.schedules import (
    Learned,
    Progressive,
)
from kling_async._submission.budget import (
    Budget,
    BudgetStatistics,
)
from kling_async._submission.observer import (
    Attempt,
    JobEnd,
    Observer,
)
from kling_async.providers import (
    fal,
    inferencesh,
    kling,
    pixeldojo,
    replicate,
    runblob,
    runware,
)
from kling_async.providers._base.portable import (
    Image,
    Video,
)
from kling_async.providers._base.request import (
    Request,
)
from kling_async.providers.fal import (
    Fal,
)
from kling_async.providers.inferencesh import (
    InferenceSh,
)
from kling_async.providers.kling import (
    Kling,
)
from kling_async.providers.pixeldojo import (
    PixelDojo,
)
from kling_async.providers.replicate import (
    Replicate,
)
from kling_async.providers.runblob import (
    RunBlob,
)
from kling_async.providers.runware import (
    Runware,
)
from kling_async.webhooks import (
    Delivery,
    Webhooks,
)

__version__: str
__all__ = [
    "AllRefused",
    "Artifact",
    "Attempt",
    "Budget",
    "BudgetExceeded",
    "BudgetStatistics",
    "BulkRun",
    "BulkStatistics",
    "BulkStopped",
    "Choice",
    "Client",
    "ConfigurationError",
    "ContentRejected",
    "Cost",
    "Delivery",
    "DownloadFailed",
    "Event",
    "Failure",
    "Fal",
    "GenerationCancelled",
    "GenerationFailed",
    "GenerationTimeout",
    "Image",
    "InferenceSh",
    "InsufficientCredits",
    "InvalidRequest",
    "Job",
    "JobEnd",
    "JobNotFound",
    "JobRef",
    "KeyConflict",
    "Kling",
    "KlingError",
    "Learned",
    "Ledger",
    "LedgerContents",
    "LedgerFailed",
    "Limits",
    "MemoryLedger",
    "NotOffered",
    "Observer",
    "Outcome",
    "PixelDojo",
    "Polling",
    "PostgresLedger",
    "PreparedImage",
    "Progressive",
    "ProviderHealth",
    "ProviderUnavailable",
    "Quote",
    "RateLimited",
    "ReceivedAnswer",
    "Remedy",
    "Replicate",
    "Request",
    "Result",
    "RunBlob",
    "Runware",
    "SpendingGroup",
    "SqliteLedger",
    "Statistics",
    "Status",
    "Submission",
    "SubmissionState",
    "SubmissionUnknown",
    "TransportFailed",
    "Unauthorized",
    "Video",
    "WebhookRejected",
    "Webhooks",
    "fal",
    "inferencesh",
    "inspect_ledger",
    "kling",
    "open_ledger",
    "pixeldojo",
    "prepare_image",
    "replicate",
    "runblob",
    "runware",
]

"""kling_async: the async-first client for Kling image and video generation, over every provider that sells it.

::

    async with kling_async.Client() as client:
        result = await client.run(kling_async.runblob.O3Video(prompt="a paper boat in the rain"))
        await result.save("out")
"""

from kling_async._budget import Budget, BudgetStatistics
from kling_async._bulk import BulkStatistics, Outcome, Outcomes
from kling_async._cadence import Learned, Progressive
from kling_async._client import Client, Statistics
from kling_async._engine import Limits
from kling_async._errors import (
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
    ProviderUnavailable,
    RateLimited,
    SubmissionUnknown,
    TransportFailed,
    Unauthorized,
    WebhookRejected,
)
from kling_async._job import Job
from kling_async._ledger import Ledger, MemoryLedger, Submission, SubmissionState
from kling_async._models import Artifact, Cost, Event, Failure, JobRef, Result, Status
from kling_async._poller import Polling
from kling_async._requests import Request
from kling_async._sqlite import SqliteLedger
from kling_async.providers import inferencesh, pixeldojo, runblob, runware
from kling_async.providers.inferencesh import InferenceSh
from kling_async.providers.pixeldojo import PixelDojo
from kling_async.providers.runblob import RunBlob
from kling_async.providers.runware import Runware
from kling_async.webhooks import Delivery, Webhooks

__all__ = [
    "Artifact",
    "Budget",
    "BudgetExceeded",
    "BudgetStatistics",
    "BulkStatistics",
    "BulkStopped",
    "Client",
    "ConfigurationError",
    "ContentRejected",
    "Cost",
    "Delivery",
    "DownloadFailed",
    "Event",
    "Failure",
    "GenerationCancelled",
    "GenerationFailed",
    "GenerationTimeout",
    "InferenceSh",
    "InsufficientCredits",
    "InvalidRequest",
    "Job",
    "JobNotFound",
    "JobRef",
    "KeyConflict",
    "KlingError",
    "Learned",
    "Ledger",
    "LedgerFailed",
    "Limits",
    "MemoryLedger",
    "Outcome",
    "Outcomes",
    "PixelDojo",
    "Polling",
    "Progressive",
    "ProviderUnavailable",
    "RateLimited",
    "Request",
    "Result",
    "RunBlob",
    "Runware",
    "SqliteLedger",
    "Statistics",
    "Status",
    "Submission",
    "SubmissionState",
    "SubmissionUnknown",
    "TransportFailed",
    "Unauthorized",
    "WebhookRejected",
    "Webhooks",
    "inferencesh",
    "pixeldojo",
    "runblob",
    "runware",
]

__version__ = "0.1.0"

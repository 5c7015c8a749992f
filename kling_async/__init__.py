"""kling_async: the async-first client for Kling image and video generation, over every provider that sells it.

::

    async with kling_async.Client() as client:
        result = await client.run(kling_async.runblob.O3Video(prompt="a paper boat in the rain"))
        await result.save("out")

A name is loaded when it is first named, with what it stands on (PEP 562): ``import kling_async`` costs next to nothing,
errors and statuses need no HTTP client, a client needs no database. ``from kling_async import Client, runblob`` at the
head of a module loads them there, before an event loop runs that would have to wait.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kling_async._bulk import BulkRun, BulkStatistics, Outcome
    from kling_async._client import Client, Statistics
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
        Remedy,
        SubmissionUnknown,
        TransportFailed,
        Unauthorized,
        WebhookRejected,
    )
    from kling_async._http.limits import Limits
    from kling_async._job import Job
    from kling_async._ledger.inspection import LedgerContents, inspect_ledger
    from kling_async._ledger.memory import MemoryLedger
    from kling_async._ledger.protocol import Ledger, ReceivedAnswer, SpendingGroup, Submission, SubmissionState
    from kling_async._ledger.sqlite import SqliteLedger
    from kling_async._models import Artifact, Cost, Event, Failure, JobRef, Result, Status
    from kling_async._polling.settings import Polling
    from kling_async._scheduling.schedules import Learned, Progressive
    from kling_async._submission.budget import Budget, BudgetStatistics
    from kling_async.providers import inferencesh, pixeldojo, runblob, runware
    from kling_async.providers._base.request import Request
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
    "BulkRun",
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
    "LedgerContents",
    "LedgerFailed",
    "Limits",
    "MemoryLedger",
    "Outcome",
    "PixelDojo",
    "Polling",
    "Progressive",
    "ProviderUnavailable",
    "RateLimited",
    "ReceivedAnswer",
    "Remedy",
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
    "WebhookRejected",
    "Webhooks",
    "inferencesh",
    "inspect_ledger",
    "pixeldojo",
    "runblob",
    "runware",
]

__version__ = "0.1.0"

_HOMES = {
    name: home
    for home, names in {
        "_submission.budget": ("Budget", "BudgetStatistics"),
        "_bulk": ("BulkStatistics", "Outcome", "BulkRun"),
        "_scheduling.schedules": ("Learned", "Progressive"),
        "_client": ("Client", "Statistics"),
        "_http.limits": ("Limits",),
        "_errors": (
            "BudgetExceeded",
            "BulkStopped",
            "ConfigurationError",
            "ContentRejected",
            "DownloadFailed",
            "GenerationCancelled",
            "GenerationFailed",
            "GenerationTimeout",
            "InsufficientCredits",
            "InvalidRequest",
            "JobNotFound",
            "KeyConflict",
            "KlingError",
            "LedgerFailed",
            "ProviderUnavailable",
            "RateLimited",
            "Remedy",
            "SubmissionUnknown",
            "TransportFailed",
            "Unauthorized",
            "WebhookRejected",
        ),
        "_job": ("Job",),
        "_ledger.protocol": (
            "Ledger",
            "ReceivedAnswer",
            "SpendingGroup",
            "Submission",
            "SubmissionState",
        ),
        "_ledger.inspection": ("LedgerContents", "inspect_ledger"),
        "_ledger.memory": ("MemoryLedger",),
        "_models": ("Artifact", "Cost", "Event", "Failure", "JobRef", "Result", "Status"),
        "_polling.settings": ("Polling",),
        "providers._base.request": ("Request",),
        "_ledger.sqlite": ("SqliteLedger",),
        "providers": ("providers",),
        "providers.inferencesh": ("InferenceSh", "inferencesh"),
        "providers.pixeldojo": ("PixelDojo", "pixeldojo"),
        "providers.runblob": ("RunBlob", "runblob"),
        "providers.runware": ("Runware", "runware"),
        "webhooks": ("Delivery", "Webhooks", "webhooks"),
    }.items()
    for name in names
}
"""The module of each name, as type checkers are told it above; and the public modules, by their own names."""

if not TYPE_CHECKING:  # a type checker would take every misspelt name for one that is found here

    def __getattr__(name: str) -> Any:
        try:
            home = _HOMES[name]
        except KeyError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
        module = import_module(f"{__name__}.{home}")
        found = module if home.rpartition(".")[2] == name else getattr(module, name)
        globals()[name] = found  # an attribute like any other from now on
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

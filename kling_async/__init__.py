"""kling_async: the async-first client for Kling image and video generation, over several providers that sell it.

::

    async with kling_async.Client() as client:
        result = await client.run(kling_async.runblob.O3Video(prompt="a paper boat in the rain"))
        await result.save("out")

A name is loaded when it is first used (PEP 562). ``import kling_async`` costs little, errors and statuses need
no HTTP client, and a client needs no database. ``from kling_async import Client, runblob`` at the head of a module
loads them there, before an event loop runs that would have to wait.
"""

from importlib import import_module as _import_module

from kling_async.providers import BUILT_IN as _BUILT_IN

__version__ = "0.1.0"

_PUBLIC = {
    "_bulk.outcome": ("Outcome",),
    "_bulk.progress": ("BulkStatistics",),
    "_bulk.run": ("BulkRun",),
    "_client": ("Client", "Statistics"),
    "_errors": (
        "AllRefused",
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
        "NotOffered",
        "ProviderUnavailable",
        "RateLimited",
        "Remedy",
        "SubmissionUnknown",
        "TransportFailed",
        "Unauthorized",
        "WebhookRejected",
    ),
    "_http.limits": ("Limits",),
    "_job.job": ("Job",),
    "_ledger.inspection": ("LedgerContents", "inspect_ledger"),
    "_ledger.memory": ("MemoryLedger",),
    "_ledger.protocol": ("Ledger", "ReceivedAnswer", "SpendingGroup", "Submission", "SubmissionState"),
    "_ledger.opening": ("open_ledger",),
    "_ledger.postgres": ("PostgresLedger",),
    "_ledger.sqlite": ("SqliteLedger",),
    "_models": ("Artifact", "Choice", "Cost", "Event", "Failure", "JobRef", "Result", "Status"),
    "_submission.observer": ("Attempt", "JobEnd", "Observer"),
    "_polling.settings": ("Polling",),
    "_media.prepared_image": ("PreparedImage", "prepare_image"),
    "_routing.quotes": ("ProviderHealth", "Quote"),
    "_scheduling.schedules": ("Learned", "Progressive"),
    "_submission.budget": ("Budget", "BudgetStatistics"),
    "providers._base.portable": ("Image", "Video"),
    "providers._base.request": ("Request",),
    "webhooks": ("Delivery", "Webhooks"),
}
"""The public names by module. This is the only list: the stub beside this file is made from it by
``python -m tests.support.public_stub``, and the names of the providers come from their registry."""
_MODULES = ("providers", "webhooks")
_HOMES = {name: home for home, names in _PUBLIC.items() for name in names}
_HOMES |= {kind: f"providers.{module}" for module, kind in _BUILT_IN.items()}

__all__ = sorted([*_HOMES, *_BUILT_IN])  # noqa: PLE0605  # type checkers read the stub


def __getattr__(name: str) -> object:
    if name in _BUILT_IN:
        found = _import_module(f"{__name__}.providers.{name}")
    elif name in _MODULES:
        found = _import_module(f"{__name__}.{name}")
    elif name in _HOMES:
        found = getattr(_import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found  # from now on an attribute like any other
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])

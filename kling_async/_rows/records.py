"""What has become of a row, as JSON values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from pydantic import ValidationError

from kling_async import (
    BudgetExceeded,
    ContentRejected,
    Cost,
    GenerationCancelled,
    GenerationFailed,
    GenerationTimeout,
    InsufficientCredits,
    InvalidRequest,
    KeyConflict,
    KlingError,
    LedgerFailed,
    NotOffered,
    Outcome,
    Result,
    SubmissionUnknown,
    Unauthorized,
)
from kling_async._rows.advice import in_one_sentence, message_of, steps_of
from kling_async._rows.amounts import amount_of, as_json
from kling_async._rows.requests import find

__all__ = ["Record", "State", "described", "record_of"]

State: TypeAlias = Literal["waiting", "completed", "failed", "refused", "unknown", "running", "unsaved"]
"""What has become of a row: it is still to be bought, it is made (and saved), the job failed or was cancelled, the
provider refused the request, a job may have been bought, the job still runs, the job is done and a file is not saved.
"""


@dataclass(frozen=True, slots=True)
class Record:
    """What has become of one row, as JSON values.

    Attributes:
        key: The row's key.
        digest: Of the row's cells: another one under the same key is another request.
        line: Where the row stands in the file.
        endpoint: Where it went.
        state: See `State`.
        request: What was asked for, images that were given inline as their digests.
        folder: Where relative paths in the request start, as a path from the output directory.
        prepared: The files that were sent in place of images of the request, as paths from the output directory.
        asked: The endpoint that the row names, ``video`` or ``image``, where another one made it.
        columns: The cells that ``--ignore-columns`` ignored.
        attempt: Which purchase this is, from 1: ``--retry-failed`` makes another.
        ref: The job's address, once there is one.
        started: When it was bought, ISO 8601.
        elapsed: How long it took, in seconds.
        cost: Its amount as text, and its unit, or None if nothing was spent in the end, or no cost is reported.
        refunded: In place of `cost`, what the provider took and gave back because the job failed.
        estimate: In place of `cost`, the documented price, where the provider reports no cost.
        before: What earlier attempts cost.
        files: Its files: ``path`` from the output directory, ``kind``, ``bytes``, ``seed``.
        urls: Where the files are (for a while), where they are not saved.
        error: What went wrong: ``kind``, ``message``, ``code``.
        retryable: Whether ``--retry-failed`` buys it again.
    """

    key: str
    digest: str
    line: int
    endpoint: str
    state: State
    request: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    prepared: Mapping[str, str] = field(default_factory=dict)
    asked: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 1
    ref: str | None = None
    started: str | None = None
    elapsed: float | None = None
    cost: Mapping[str, str] | None = None
    refunded: Mapping[str, str] | None = None
    estimate: Mapping[str, str] | None = None
    before: Mapping[str, str] | None = None
    files: tuple[Mapping[str, Any], ...] = ()
    urls: tuple[str, ...] = ()
    error: Mapping[str, str | None] | None = None
    retryable: bool = False

    @property
    def submission(self) -> str:
        """The key under which it is bought: each attempt is a purchase of its own."""
        return self.key if self.attempt == 1 else f"{self.key}#{self.attempt}"

    @property
    def spent(self) -> Cost | None:
        """What the row cost in the end, all attempts together."""
        found = [cost for cost in (amount_of(self.cost), amount_of(self.before)) if cost is not None]
        return Cost(sum((cost.amount for cost in found), Decimal(0)), found[0].unit) if found else None

    @property
    def reported_cost(self) -> Cost | None:
        """What this attempt cost, as the provider reports it."""
        return amount_of(self.cost)

    @property
    def estimated(self) -> Cost | None:
        """The documented price, where the provider reports no cost."""
        return amount_of(self.estimate)

    @property
    def price(self) -> Cost | None:
        """What the provider took for this attempt, be it that it was given back."""
        return amount_of(self.cost or self.refunded)

    @property
    def stopped_by(self) -> str | None:
        """The kind of its error, if that stopped the buying: then no other row was submitted either."""
        kind = self.error["kind"] if self.error is not None and self.state == "waiting" else None
        return kind if kind in _STOPPING else None

    def whole(self, size_of: Callable[[str], int | None], *, save: bool) -> bool:
        """Whether all its files are where they were saved, as large as they were.

        Args:
            size_of: Returns the bytes of a file by its path, None if there is none.
            save: Whether files that were not saved at all are wanted.
        """
        if save and self.urls and not self.files:
            return False
        return all(size_of(file["path"]) == file["bytes"] for file in self.files)


_STOPPING = frozenset(kind.__name__ for kind in (BudgetExceeded, InsufficientCredits, Unauthorized, LedgerFailed))


def record_of(before: Record, outcome: Outcome) -> Record:
    """What has become of a row, by its outcome. The files are not saved yet.

    Args:
        before: The row when it was still to be bought.
        outcome: What came of it.
    """
    job, error, result = outcome.job, outcome.error, outcome.result
    cost = as_json(job.cost) if job else None
    if job is not None:
        # Of a row for any provider, the one that made it.
        asked = before.endpoint if before.endpoint != job.ref.endpoint else None
        before = replace(before, endpoint=job.ref.endpoint, asked=asked)
    refunded = job is not None and job.refunded
    first, last = (job.events[0], job.events[-1]) if job and job.events else (None, None)
    return replace(
        before,
        state="unsaved" if error is None else _state(error),
        ref=str(job.ref) if job else None,
        started=first.at.isoformat(timespec="seconds") if first else None,
        elapsed=round(last.elapsed, 1) if last and last.status.terminal else None,
        cost=None if refunded else cost,
        refunded=cost if refunded else None,
        estimate=_estimate(before, outcome) if job and cost is None and not refunded else None,
        urls=tuple(result.urls) if isinstance(result, Result) else (),
        error=described(error) if error is not None else None,
        retryable=isinstance(error, GenerationCancelled)
        or (isinstance(error, GenerationFailed) and error.retryable is not False),
    )


def described(error: KlingError | ValidationError, before: str = "") -> dict[str, str | None]:
    """An error as a record has it.

    Args:
        error: What went wrong.
        before: What stands before its message.
    """
    if isinstance(error, KlingError):
        sentence = in_one_sentence(message_of(error), steps_of(error))
        return {"kind": type(error).__name__, "message": f"{before}{sentence}", "code": error.code}
    return {"kind": type(error).__name__, "message": f"{before}{error}", "code": None}


def _estimate(before: Record, outcome: Outcome) -> dict[str, str] | None:
    if isinstance(outcome.error, GenerationFailed | GenerationCancelled):
        return None  # nobody knows whether it was charged
    request = outcome.job.request if outcome.job is not None else None
    price = find(before.endpoint)[1].price(request or outcome.request)
    return as_json(price.cost if price is not None else None)


def _state(error: Exception) -> State:
    if isinstance(error, GenerationFailed | GenerationCancelled):
        return "failed"
    if isinstance(error, InvalidRequest | ContentRejected | KeyConflict | NotOffered | ValueError):
        return "refused"
    if isinstance(error, SubmissionUnknown):
        return "unknown"
    if isinstance(error, GenerationTimeout):
        return "running"
    return "running" if getattr(error, "ref", None) else "waiting"  # not reached, not now: the next run tries again

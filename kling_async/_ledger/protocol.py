"""The ledger: a durable record of what was paid for. The contract, and a ledger in memory that keeps it.

Theory of operation
-------------------
A *submission* is one intent to buy one generation, named by its key. The client writes it down before the paid call
(`claim`), and writes down what became of that call (`record_outcome`) before anyone hears of it. From then on every
event of the job is recorded before it is published (`append_events`). So, whenever the process dies:

- what was never begun was never sent;
- what was begun and not settled may have been bought (``sending`` or ``unknown``): it is listed, and not sent again
  unless the provider recognises the repetition;
- what was accepted is known by its address, and can be followed to its end.

::

    not-submitted ──begin──> sending ──settle──> accepted | refused | unknown | not-submitted
         ^                      ^                              |          |
         └──────────────────────┴── begin, with the same key <─┘ (refused)│
                                                  settle <────────────────┘ (it was found, or given up)

A ledger belongs to one client at a time. It never sees an API key, and keeps no address that carries a token.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from kling_async._errors import Remedy
from kling_async._models import Cost, Event, JobRef, Status

__all__ = ["LEDGER_METHODS", "Ledger", "Submission", "SubmissionState"]


class SubmissionState(enum.StrEnum):
    """What became of a submission's paid call."""

    NOT_SUBMITTED = "not-submitted"
    """It surely did not reach the provider; its key is free."""
    SENDING = "sending"
    """It is on its way."""
    ACCEPTED = "accepted"
    """The provider took it: there is a job."""
    REFUSED = "refused"
    """The provider refused it, nothing was bought; its key is free."""
    UNKNOWN = "unknown"
    """It was sent, and its answer was lost: a job may have been bought."""

    @property
    def key_reusable(self) -> bool:
        """Whether nothing was bought, so that the key may be submitted again."""
        return self in _FREE


_FREE = frozenset({SubmissionState.NOT_SUBMITTED, SubmissionState.REFUSED})


@dataclass(frozen=True, slots=True)
class Submission:
    """One intent to buy one generation, and what became of it.

    Attributes:
        key: Its name: the user's own, or the purchase's id where the user gave none.
        endpoint: Full name, such as ``"runblob/o3-video"``.
        request: What was asked for, as JSON. Inline images are ``sha256:...`` unless the ledger keeps them; of a
            callback address only the host is kept.
        fingerprint: Equal for equal requests.
        purchase: The UUID under which it is bought; a new one for every new attempt.
        started: When it was first sent (aware, UTC).
        state: What became of the paid call.
        ref: The job's address, once it is accepted.
        reason: Why it is refused, unknown or not submitted.
        latest: The job's last recorded event.
        files: Where the job's files were saved.
        remedies: What can be done about it, where it needs attention. Set by the client, not stored.
    """

    key: str
    endpoint: str
    request: Mapping[str, Any] = field(repr=False)
    fingerprint: str = field(repr=False)
    attempt_id: str
    started: datetime
    state: SubmissionState = SubmissionState.SENDING
    ref: JobRef | None = None
    reason: str | None = None
    latest: Event | None = field(default=None, repr=False)
    files: tuple[Path, ...] = ()
    remedies: tuple[Remedy, ...] = ()

    @property
    def provider(self) -> str:
        """The provider's name, such as ``"runblob"``."""
        return self.endpoint.partition("/")[0]

    @property
    def status(self) -> Status | None:
        """Where the job stands, as far as was recorded; None while there is no job."""
        if self.ref is None:
            return None
        return self.latest.status if self.latest else Status.PENDING

    @property
    def cost(self) -> Cost | None:
        """What the job costs, where the provider tells."""
        return self.latest.cost if self.latest else None

    @property
    def unfinished(self) -> bool:
        """Whether it needs attention: its job has not ended, or it is not known whether there is one."""
        if self.state is SubmissionState.ACCEPTED:
            return not (self.latest and self.latest.status.terminal)
        return not self.state.key_reusable


class Ledger(Protocol):
    """Where submissions and their jobs are written down.

    Every method is safe to cancel: what it was to write is then written wholly or not at all. None blocks the event
    loop. A call sees what those before it have written; of calls that overlap, any may be first, and a long list may
    have one part of it from before the other call and one from after. A write that raises has left no trace: what was
    there before is there still.

    All methods raise `LedgerFailed` when the storage cannot be read or written, and `ConfigurationError` when it is
    closed, is not a ledger, or is owned by another process.
    """

    keep_images: bool
    """Whether inline images are kept as they are, so that their requests can be submitted again after a restart."""

    async def claim(self, submission: Submission) -> Submission:
        """Claim a key, before the paid call.

        Atomic: of several calls with one key, one wins. If the key is new or free (`SubmissionState.key_reusable`), the
        submission is durable when this returns, in place of an earlier one of that key, and is returned. Otherwise
        nothing is written.

        Returns:
            What the ledger now has under that key. The claim was won if its ``attempt_id`` is the one that was given.
        """
        ...

    async def record_outcome(self, submission: Submission) -> None:
        """Write down what became of a submission: ``state``, ``ref`` and ``reason`` are durable when this returns.

        It may be called twice. It does nothing if the key has been claimed by another purchase since.
        """
        ...

    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> None:
        """Append to a job's log, before the events are published: all of them are durable when this returns.

        It may be called twice: an event whose number is in the log already is left as it is.
        """
        ...

    async def record_file(self, ref: JobRef, index: int, path: Path) -> None:
        """Write down where a job's file of that index was saved. The last place counts."""
        ...

    async def find(
        self, *, key: str | None = None, attempt_id: str | None = None, ref: JobRef | None = None
    ) -> Submission | None:
        """The submission of that key, purchase or job (exactly one is given); None: there is none."""
        ...

    async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
        """All submissions, or those that need attention (`Submission.unfinished`), in the order of their start."""
        ...

    async def events(self, ref: JobRef) -> list[Event]:
        """A job's log."""
        ...

    async def set_value(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name, in place of an earlier one. It is durable when this returns."""
        ...

    async def get_value(self, name: str) -> Any:
        """The value kept under a name; None: there is none."""
        ...

    async def aclose(self) -> None:
        """Release the storage; what was written stays. Closing twice is harmless."""
        ...


LEDGER_METHODS = tuple(name for name in vars(Ledger) if not name.startswith("_"))
"""The methods that every ledger has."""

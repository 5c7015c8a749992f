"""The ledger: a durable record of paid calls and of the jobs that they bought. This module is the contract.

Theory of operation
-------------------
A *submission* is one attempt to buy one generation. Its key names the generation, its `attempt_id` names the attempt.
The client stores the submission before the paid call (`Ledger.claim`), and stores the outcome of that call before it
notifies anyone (`Ledger.record_outcome`). With the outcome it stores the job's first event, and from then on every
event before it publishes the event (`Ledger.append_events`). So, whenever the process dies:

- A submission that was never claimed was never sent.
- A submission without an outcome may have been bought (``sending`` or ``unknown``). It is listed, and it is not sent
  again unless the provider recognises the repeated call.
- An accepted submission has a job reference, and its job can be followed to its end.

::

    not-submitted ──claim──> sending ──record_outcome──> accepted | refused | unknown | not-submitted

A key holds one attempt at a time: the *current* one. The key can be claimed again when nothing was bought
(`SubmissionState.key_reusable`), or when the user freed it (`Ledger.release`). The attempts before the current one stay
in the ledger as they were (`Ledger.attempts`), so their costs still count.

A `SharedLedger` may be open in several processes: see `leases`. Any other belongs to one client at a time. It never
contains an API key, or a URL that carries a token.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kling_async._errors import ReceivedAnswer, Remedy
from kling_async._models import Cost, Event, JobRef, Status

__all__ = [
    "LEDGER_METHODS",
    "NOT_STORABLE",
    "Balance",
    "Charge",
    "LeaseWatcher",
    "Ledger",
    "NoRoom",
    "NoSlot",
    "ReceivedAnswer",
    "SharedLedger",
    "Slot",
    "SpendingGroup",
    "Submission",
    "SubmissionState",
    "UncountedAttempts",
    "is_shielded",
    "shielded",
]


MethodT = TypeVar("MethodT", bound=Callable[..., Any])

NOT_STORABLE = "not_storable"
"""The code of a `LedgerFailed` that is the fault of the values that were to be stored. Others can be."""


class SubmissionState(enum.StrEnum):
    """The outcome of a submission's paid call."""

    NOT_SUBMITTED = "not-submitted"
    """The call certainly did not reach the provider. The key can be used again."""
    SENDING = "sending"
    """The call is in progress, in this process or in another one that lives."""
    ACCEPTED = "accepted"
    """The provider accepted it: there is a job."""
    REFUSED = "refused"
    """The provider refused it, and nothing was bought. The key can be used again."""
    UNKNOWN = "unknown"
    """The call was sent, and its answer was lost: a job may have been bought."""

    @property
    def key_reusable(self) -> bool:
        """Whether nothing was bought, so that the key may be submitted again."""
        return self in _NOTHING_BOUGHT


_NOTHING_BOUGHT = frozenset({SubmissionState.NOT_SUBMITTED, SubmissionState.REFUSED})


@dataclass(frozen=True, slots=True)
class Submission:
    """One attempt to buy one generation, and its outcome.

    Attributes:
        key: The user's idempotency key, or the `attempt_id` of the first attempt where the user gave none.
        endpoint: Full name, such as ``"runblob/o3-video"``.
        request: The request as JSON. An inline image is a ``sha256:...`` digest unless the ledger keeps images. Only
            the host of a callback URL is kept.
        fingerprint: Equal for equal requests.
        attempt_id: The UUID of this attempt. Every new attempt has a new one.
        started: When it was first sent (aware, UTC).
        state: The outcome of the paid call.
        ref: The job's reference, once the submission is accepted.
        reason: Why it is refused, unknown or not submitted.
        answer: What the provider answered, where the outcome is unknown although there was an answer.
        released: Why the user freed the key although something was bought, or may have been. None if the user did not.
        latest: The job's last recorded event.
        files: Where the job's files were saved: paths, and addresses of objects as text.
        tags: What the user stored with it, such as ``{"customer": "17"}``.
        remedies: What can be done about it, where it needs attention. The client sets them. They are not stored.
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
    answer: ReceivedAnswer | None = field(default=None, repr=False)
    released: str | None = None
    latest: Event | None = field(default=None, repr=False)
    files: tuple[Path | str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    remedies: tuple[Remedy, ...] = ()

    @property
    def provider(self) -> str:
        """The provider's name, such as ``"runblob"``."""
        return self.endpoint.partition("/")[0]

    @property
    def status(self) -> Status | None:
        """The job's last recorded status. None while there is no job."""
        if self.ref is None:
            return None
        return self.latest.status if self.latest else Status.PENDING

    @property
    def cost(self) -> Cost | None:
        """What the job costs, where the provider reports it."""
        return self.latest.cost if self.latest else None

    @property
    def key_reusable(self) -> bool:
        """Whether its key can be claimed again: nothing was bought, or the user freed the key."""
        return self.released is not None or self.state.key_reusable

    @property
    def unfinished(self) -> bool:
        """Whether it needs attention: its job has not ended, or it is not known whether there is a job."""
        if self.key_reusable:
            return False
        return not (self.state is SubmissionState.ACCEPTED and self.latest and self.latest.status.terminal)


@dataclass(frozen=True, slots=True)
class SpendingGroup:
    """Attempts that bought the same kind of generation, or may have, with the same result.

    Attributes:
        endpoint: Full name of the endpoint.
        request: The request of one of them.
        status: The last recorded status of their jobs. None if there is no job.
        cost: What the provider reported for each of them. None if it reported nothing.
        count: How many there are.
    """

    endpoint: str
    request: Mapping[str, Any] = field(repr=False)
    status: Status | None
    cost: Cost | None
    count: int


@dataclass(frozen=True, slots=True)
class Charge:
    """What a new attempt counts for in the budgets of all processes, until its provider reports what it costs.

    Attributes:
        expected: What it is expected to cost.
        price: The documented price, in the same unit. While the job runs it counts for this at least, because its
            provider may report a part. None if there is none.
        refunds: Whether the provider takes nothing for a job that failed.
        guessed: Whether the price is not known, so that such attempts are sent one at a time.
        limit: What all attempts in the ledger may come to in that unit. None if there is no limit.
    """

    expected: Cost
    price: Decimal | None = None
    refunds: bool = False
    guessed: bool = False
    limit: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """What the attempts in a ledger come to, in one unit.

    Attributes:
        spent: Costs that were reported, and what ended jobs were expected to cost.
        reserved: What all others are expected to cost.
        pending: The part of `reserved` that is being sent. The answers may make room.
        guesses: How many with a guessed price are being sent.
    """

    spent: Decimal = Decimal(0)
    reserved: Decimal = Decimal(0)
    pending: Decimal = Decimal(0)
    guesses: int = 0

    @property
    def total(self) -> Decimal:
        """All of it."""
        return self.spent + self.reserved


@dataclass(frozen=True, slots=True)
class UncountedAttempts:
    """Attempts for the same kind of generation that no budget counts yet: they were stored without a `Charge`.

    Attributes:
        endpoint: Full name of the endpoint.
        request: The request of one of them.
        numbers: Which ones, by the ledger's own numbers.
    """

    endpoint: str
    request: Mapping[str, Any] = field(repr=False)
    numbers: Sequence[int] = field(repr=False)


class NoRoom(Exception):
    """A claim does not fit into its limit. Nothing was written.

    Args:
        balance: What all attempts in the ledger come to.
    """

    def __init__(self, balance: Balance) -> None:
        super().__init__("the claim does not fit into its limit")
        self.balance = balance


@dataclass(frozen=True, slots=True)
class Slot:
    """The place that a job takes among those that run at its provider's account, from its claim to its end.

    Attributes:
        account: Names the account. It contains no key.
        limit: How many jobs of the account may be unfinished at once. None if there is no limit.
        queued: Whether a claim that finds no free slot gets a place in the queue of all processes.
    """

    account: str
    limit: int | None = None
    queued: bool = True


class NoSlot(Exception):
    """A claim found no free slot. The submission was not written.

    Args:
        running: How many submissions hold a slot.
        ahead: How many wait for one before this claim.
        unknown: Keys of some that hold one because their outcome is unknown.
    """

    def __init__(self, running: int, ahead: int = 0, unknown: Sequence[str] = ()) -> None:
        super().__init__("no slot is free")
        self.running = running
        self.ahead = ahead
        self.unknown = unknown


class Ledger(Protocol):
    """Where submissions and their jobs are stored.

    Every method is safe to cancel: a write then takes place as a whole or not at all. No method blocks the event loop.
    A call sees what earlier calls have written. Calls that overlap may take place in any order, and a long list may
    show one part from before the other call and one part from after it. A write that raises has changed nothing.

    All methods raise `LedgerFailed` when the storage cannot be read or written, and `ConfigurationError` when it is
    closed or is not a ledger.
    """

    keep_images: bool
    """Whether inline images are stored as they are, so that their requests can be submitted again after a restart."""

    async def claim(self, submission: Submission) -> Submission:
        """Claim a key, before the paid call.

        Atomic: of several calls with one key, one wins. If the key is new or reusable (`Submission.key_reusable`), the
        submission is durable when this returns. It is then the key's current attempt, and it is returned. Otherwise
        nothing is written.

        Returns:
            The key's current attempt. The claim was won if its ``attempt_id`` is the given one.
        """
        ...

    async def record_outcome(self, submission: Submission) -> bool | None:
        """Store the outcome of an attempt: ``state``, ``ref``, ``reason`` and ``answer`` are durable when this returns.

        It may be called twice. Only the attempt with this ``attempt_id`` changes. One that is accepted stays accepted:
        a webhook may have named its job in another process before its own process lost the answer.

        With a ``ref``, ``latest`` may be the first event of the job. A ledger may append it in the same step, which
        costs less than `append_events` afterwards.

        Returns:
            True if ``latest`` is in the job's log now. Otherwise the client appends it, which also tells it what
            the log has in its place.
        """
        ...

    async def release(self, key: str, attempt_id: str, reason: str) -> None:
        """Free a key, on the user's word. The attempt stays as it is, and so do its job and its cost.

        It does nothing if another attempt has claimed the key since.
        """
        ...

    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> Sequence[Event]:
        """Append to a job's log, before the events are published: all of them are durable when this returns.

        It may be called twice: an event whose number is in the log already stays as it is.

        Returns:
            The job's log from the first of these numbers on, if other events had been recorded under them. Empty
            otherwise.
        """
        ...

    async def record_file(self, ref: JobRef, index: int, place: Path | str) -> None:
        """Store where the job's file with that index was saved: its path, or the address of an object as text.

        The last place replaces earlier ones.
        """
        ...

    async def find(
        self, *, key: str | None = None, attempt_id: str | None = None, ref: JobRef | None = None
    ) -> Submission | None:
        """The current attempt of that key, or the attempt with that id or job. Exactly one is given.

        Returns:
            None if there is none.
        """
        ...

    async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
        """The current attempt of every key, or those that need attention (`Submission.unfinished`), oldest first."""
        ...

    async def attempts(self, key: str) -> list[Submission]:
        """All attempts with that key, oldest first. The last one is the current one."""
        ...

    async def spending(self, ignored_fields: Collection[str] = ()) -> list[SpendingGroup]:
        """All attempts that bought something, or may have, except those that are `Submission.unfinished`.

        They are grouped, so that the list of a large ledger stays short. Two attempts are in one group if
        endpoint, status, cost and request are equal. Of the request, the named fields are ignored. So are addresses and
        contents of images: only their number counts.
        """
        ...

    async def events(self, ref: JobRef) -> list[Event]:
        """A job's log."""
        ...

    async def set_value(self, name: str, value: Any) -> None:
        """Store a JSON value under a name, in place of an earlier one. It is durable when this returns."""
        ...

    async def get_value(self, name: str) -> Any:
        """The value stored under a name. None if there is none."""
        ...

    async def aclose(self) -> None:
        """Release the storage. Everything stored stays. Closing twice is harmless."""
        ...


class LeaseWatcher(Protocol):
    """Who is notified of what other processes do with the jobs that are waited for here. In the event loop."""

    def on_leased(self, refs: Sequence[str]) -> None:
        """These jobs are ours to poll now."""

    def on_lost(self, refs: Sequence[str]) -> None:
        """These jobs are not ours to poll any more: this process was stopped for longer than a lease lasts."""

    def on_recorded(self, ref: str, events: Sequence[Event]) -> None:
        """Another process has recorded these events of a job."""

    def on_poll_requested(self, ref: str, report: Any) -> None:
        """A webhook of the job reached another process. The report is what `SharedLedger.request_poll` was given."""


class SharedLedger(Ledger, Protocol):
    """A ledger that several processes may have open, with the leases of their jobs. See `leases`."""

    async def claim(self, submission: Submission, charge: Charge | None = None, slot: Slot | None = None) -> Submission:
        """Claim a key, count what the attempt is expected to cost, and take its slot. See `Ledger.claim`.

        The slot is held until the job's end is recorded, the attempt is known to have bought nothing, or the user frees
        its key. An attempt whose outcome is unknown holds it.

        Args:
            submission: The attempt.
            charge: What it counts for. If None, nothing is known of its price.
            slot: Which account's slot it takes. If None, that of any account of its provider, without a limit.

        Raises:
            NoRoom: The key could be claimed, but the charge does not fit into its limit: not into what the attempts of
                all processes leave of it, or it is guessed and another such attempt is being sent.
            NoSlot: The key could be claimed, and the charge fits, but as many jobs of the account are unfinished as the
                slot allows, or others wait. Unless ``slot.queued`` is False, the claim has a place in the queue now:
                wait for `slot_free` and claim again, or call `leave_queue`.
        """
        ...

    async def slot_free(self, submission: Submission, slot: Slot) -> None:
        """Wait until an attempt that is in the queue of its account may be claimed. The claim decides in the end."""
        ...

    def leave_queue(self, submission: Submission) -> None:
        """Give up the attempt's place in the queue. To be called in the event loop. It does not wait."""

    @property
    def balances(self) -> Mapping[str, Balance]:
        """What all attempts come to, by unit, as it was when this process last wrote, or read it.

        Empty until `read_balances` is called. It does not say what is `pending`.
        """
        ...

    async def read_balances(self) -> Mapping[str, Balance]:
        """What all attempts come to, by unit. From now on, `balances` is kept up to date."""
        ...

    async def uncounted(self, ignored_fields: Collection[str] = ()) -> Sequence[UncountedAttempts]:
        """The attempts that no budget counts yet, grouped as in `Ledger.spending`."""
        ...

    async def count(self, charges: Sequence[tuple[Sequence[int], Charge]]) -> None:
        """Count attempts from now on, and what is recorded of their jobs. One that is counted already stays as it is.

        Args:
            charges: The numbers of attempts (see `UncountedAttempts`), and what each of them counts for.
        """
        ...

    def watch(self, watcher: LeaseWatcher) -> None:
        """Notify the client of what other processes do."""

    def want(self, ref: str) -> bool:
        """Ask for the lease of a job. To be called in the event loop.

        Returns:
            Whether we have it. If not, `LeaseWatcher.on_leased` is called once we have it. Until then, what others
            record of the job is given to `LeaseWatcher.on_recorded`.
        """
        ...

    def unwant(self, ref: str, *, ended: bool) -> None:
        """Give the lease of a job back, a moment later, or give up asking for it.

        Args:
            ref: The job.
            ended: Whether it has ended, so that nobody needs the lease.
        """

    def keeps(self, name: str) -> bool:
        """Whether an outcome or events could not be stored, and the ledger tries again by itself.

        Args:
            name: The ``attempt_id``, or the job's reference.
        """
        ...

    @property
    def others(self) -> bool:
        """Whether other processes are at work on the ledger. It may be late by a moment."""
        ...

    def lease_left(self) -> float:
        """Seconds for which other processes surely take what we are sending for being sent."""
        ...

    async def settled(self, attempt_id: str) -> Submission | None:
        """Wait until the attempt is not being sent any more: it has an outcome, or its sender has died.

        Returns:
            The attempt. None if there is none.
        """
        ...

    async def update_value(self, name: str, change: Callable[[Any], Any]) -> None:
        """Replace a stored JSON value by what is made of it, in one step for all processes. See `Ledger.set_value`.

        Args:
            name: Its name.
            change: Makes the new value of the stored one (None if there is none). It is called in another thread, and
                may be called again.
        """
        ...

    async def request_poll(self, ref: JobRef, report: Any = None) -> None:
        """Let whoever has the lease of the job poll it soon.

        Args:
            ref: The job.
            report: A JSON value for that process, such as the reason of a failure.
        """
        ...

    async def take_over(
        self, limit: int, *, since: datetime, without: Collection[JobRef] = (), account: str | None = None
    ) -> Sequence[Submission]:
        """Take the leases of running jobs that no living process polls, this process's share of them at most.

        Args:
            limit: How many at most.
            since: Only jobs that were submitted at this time or later.
            without: Jobs that are passed over.
            account: Only jobs of that account (see `Slot`). If None, of all.

        Returns:
            Their submissions, the oldest first.
        """
        ...

    async def next_call(self, account: str, interval: float) -> float:
        """Take a place in the row of an account's calls, which all processes share.

        Args:
            account: Names the provider's account. It contains no key.
            interval: Seconds between two calls.

        Returns:
            Seconds until the call may be made.
        """
        ...


LEDGER_METHODS = tuple(name for name in vars(Ledger) if not name.startswith("_"))
"""The methods that every ledger has."""


def shielded(method: MethodT) -> MethodT:
    """Mark a method of a ledger that waits for its end also if a scope around its caller is cancelled.

    Its caller needs no shielded scope, which costs more than the rest of the call.
    """
    method.shielded = True  # type: ignore[attr-defined]
    return method


def is_shielded(ledger: object, name: str) -> bool:
    """Whether that method of a ledger is marked so. One that a class of the user's has in its place is not."""
    return getattr(getattr(type(ledger), name, None), "shielded", False) is True

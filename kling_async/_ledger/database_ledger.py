"""What the ledgers in databases have in common: their methods, by the statements of each database."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from kling_async._errors import LedgerFailed
from kling_async._ledger.charges import Balances, Claim
from kling_async._ledger.group_commit import Database, Kind, LedgerThread
from kling_async._ledger.leases import Leases, Recorded, lease_seconds
from kling_async._ledger.protocol import (
    Balance,
    Charge,
    LeaseWatcher,
    NoRoom,
    NoSlot,
    Slot,
    SpendingGroup,
    Submission,
    UncountedAttempts,
    shielded,
)
from kling_async._ledger.serialization import storable_text
from kling_async._models import Event, JobRef

__all__ = ["DatabaseLedger"]

T = TypeVar("T")


class DatabaseLedger(ABC):
    """A ledger in a database. One thread does all of its operations (see `group_commit`).

    Args:
        name: What it is called in messages.
        label: What its thread is called.
        statements: The module with the statements of this kind of database.
        lease_statements: The module with those of owners and leases.
        keep_images: See `Ledger.keep_images`.
        lease: For how long a lease lasts, in seconds. See `lease_seconds`.
    """

    def __init__(  # the parts of a ledger, each by its name
        self,
        name: str,
        label: str,
        *,
        statements: Any,
        lease_statements: Any,
        keep_images: bool,
        lease: float | None,
    ) -> None:
        self.keep_images = keep_images
        self._statements, self._lease_statements = statements, lease_statements
        self._leases = Leases(lease_seconds(type(self).__name__, lease))
        self._balances = Balances()
        self._thread = LedgerThread(name, label, self._open, self._explained, self._leases)

    @abstractmethod
    def _open(self) -> Database:
        """Open the database. In the thread."""

    @abstractmethod
    def _explained(self, error: Exception) -> Exception:
        """The error for one task that waits."""

    @shielded
    async def claim(self, submission: Submission, charge: Charge | None = None, slot: Slot | None = None) -> Submission:
        """See `SharedLedger.claim`."""
        self._leases.sending.add(submission.attempt_id)
        try:
            claim = Claim(submission, charge, slot)
            found: Submission | Balance | NoSlot = await self._perform(self._statements.claim, claim, shielded=True)
        except BaseException:
            self._leases.sending.discard(submission.attempt_id)
            raise
        waits = isinstance(found, NoSlot) and slot is not None and slot.queued
        if not waits and (not isinstance(found, Submission) or found.attempt_id != submission.attempt_id):
            self._leases.sending.discard(submission.attempt_id)
        if isinstance(found, Balance):
            raise NoRoom(found)
        if isinstance(found, NoSlot):
            raise found
        return found

    async def slot_free(self, submission: Submission, slot: Slot) -> None:
        """See `SharedLedger.slot_free`."""
        await self._perform(self._statements.slot_free, (submission.attempt_id, slot))

    def leave_queue(self, submission: Submission) -> None:
        """See `SharedLedger.leave_queue`."""
        attempt_id = submission.attempt_id
        self._leases.sending.discard(attempt_id)
        self._thread.post(self._statements.leave_queue, attempt_id, f"queue {attempt_id}")

    @shielded
    async def record_outcome(self, submission: Submission) -> bool | None:
        """See `Ledger.record_outcome`."""
        try:
            recorded: Recorded = await self._perform(
                self._statements.record_outcome, submission, submission.attempt_id, shielded=True
            )
        except LedgerFailed:
            if submission.ref is not None:
                self._leases.own_unrecorded(str(submission.ref))
            raise
        return recorded.begun

    async def release(self, key: str, attempt_id: str, reason: str) -> None:
        """See `Ledger.release`."""
        await self._perform(self._statements.release, (key, attempt_id, reason))

    @shielded
    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> Sequence[Event]:
        """See `Ledger.append_events`."""
        conflicting: Sequence[Event] = await self._perform(
            self._statements.append_events, (ref, events), str(ref), shielded=True
        )
        return conflicting

    async def record_file(self, ref: JobRef, index: int, place: Path | str) -> None:
        """See `Ledger.record_file`."""
        await self._perform(self._statements.record_file, (str(ref), index, storable_text(str(place))))

    async def find(
        self, *, key: str | None = None, attempt_id: str | None = None, ref: JobRef | None = None
    ) -> Submission | None:
        """See `Ledger.find`."""
        work = partial(self._statements.find, key=key, attempt_id=attempt_id, ref=ref)
        found: Submission | None = await self._read(work)
        return found

    @abstractmethod
    async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
        """See `Ledger.submissions`."""

    async def attempts(self, key: str) -> list[Submission]:
        """See `Ledger.attempts`."""
        found: list[Submission] = await self._read(partial(self._statements.attempts, key=key))
        return found

    async def spending(self, ignored_fields: Collection[str] = ()) -> list[SpendingGroup]:
        """See `Ledger.spending`."""
        work = partial(self._statements.spending, ignored_fields=ignored_fields)
        found: list[SpendingGroup] = await self._read(work)
        return found

    async def events(self, ref: JobRef) -> list[Event]:
        """See `Ledger.events`."""
        found: list[Event] = await self._read(partial(self._statements.events, ref=ref))
        return found

    async def set_value(self, name: str, value: Any) -> None:
        """See `Ledger.set_value`."""
        await self._perform(self._statements.set_value, (name, json.dumps(value)))

    async def get_value(self, name: str) -> Any:
        """See `Ledger.get_value`."""
        return await self._read(partial(self._statements.get_value, name=name))

    async def aclose(self) -> None:
        """Finish what is queued, give everything back and close the database. Closing twice is harmless."""
        await self._thread.aclose()

    # What it shares with other processes.

    def watch(self, watcher: LeaseWatcher) -> None:
        """See `SharedLedger.watch`."""
        self._thread.watcher = watcher

    def want(self, ref: str) -> bool:
        """See `SharedLedger.want`."""
        return self._thread.want(ref)

    def unwant(self, ref: str, *, ended: bool) -> None:
        """See `SharedLedger.unwant`."""
        self._thread.unwant(ref, ended=ended)

    def keeps(self, name: str) -> bool:
        """See `SharedLedger.keeps`."""
        return self._thread.keeps(name)

    @property
    def others(self) -> bool:
        """See `SharedLedger.others`."""
        return self._leases.others

    def lease_left(self) -> float:
        """See `SharedLedger.lease_left`."""
        return self._leases.left()

    async def settled(self, attempt_id: str) -> Submission | None:
        """See `SharedLedger.settled`."""
        found: Submission | None = await self._perform(self._lease_statements.settled, attempt_id)
        return found

    async def update_value(self, name: str, change: Callable[[Any], Any]) -> None:
        """See `SharedLedger.update_value`."""
        await self._perform(self._statements.update_value, (name, change))

    async def request_poll(self, ref: JobRef, report: Any = None) -> None:
        """See `SharedLedger.request_poll`."""
        text = None if report is None else json.dumps(report)
        await self._perform(self._lease_statements.request_poll, (str(ref), text))

    async def take_over(
        self, limit: int, *, since: datetime, without: Collection[JobRef] = (), account: str | None = None
    ) -> Sequence[Submission]:
        """See `SharedLedger.take_over`."""
        work = (limit, since.timestamp(), [str(ref) for ref in without], account)
        found: Sequence[Submission] = await self._perform(self._lease_statements.take_over, work)
        return found

    async def next_call(self, account: str, interval: float) -> float:
        """See `SharedLedger.next_call`."""
        wait: float = await self._perform(self._lease_statements.next_call, (account, interval))
        return wait

    @property
    def balances(self) -> Mapping[str, Balance]:
        """See `SharedLedger.balances`."""
        return self._balances.known

    async def read_balances(self) -> Mapping[str, Balance]:
        """See `SharedLedger.read_balances`."""
        self._balances.wanted = True
        self._balances.known = await self._read(partial(self._statements.balances, pending=True))
        return self._balances.known

    async def uncounted(self, ignored_fields: Collection[str] = ()) -> Sequence[UncountedAttempts]:
        """See `SharedLedger.uncounted`."""
        work = partial(self._statements.uncounted, ignored_fields=ignored_fields)
        found: Sequence[UncountedAttempts] = await self._read(work)
        return found

    async def count(self, charges: Sequence[tuple[Sequence[int], Charge]]) -> None:
        """See `SharedLedger.count`."""
        await self._perform(self._statements.count_attempts, charges)

    async def _read(self, work: Callable[[Any], T]) -> T:
        """Let the thread read anything."""
        return cast("T", await self._perform(self._statements.each, work))

    def _perform(
        self, kind: Kind, argument: Any, keep: str | None = None, *, shielded: bool = False
    ) -> Coroutine[Any, Any, Any]:
        """Let the thread do something, and wait until it is durable. See `LedgerThread.perform`."""
        return self._thread.perform(kind, argument, keep, shielded=shielded)

"""The ledger in a SQLite file.

Theory of operation
-------------------
One thread owns the file (see `group_commit`). All operations of one kind in a group are one statement (see
`sqlite_schema`). A long list is read page by page, so that writes can take place in between.

*Durability.* WAL with ``synchronous=FULL``: a commit survives ``kill -9`` and a power cut.

Several processes of one computer may have the file open (see `leases`). Reading disturbs nobody, because WAL lets
others read (see `inspection`).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, cast

from kling_async._ledger import sqlite_leases
from kling_async._ledger import sqlite_schema as statements
from kling_async._ledger.group_commit import Kind, LedgerThread
from kling_async._ledger.leases import Leases, lease_seconds
from kling_async._ledger.protocol import LeaseWatcher, SpendingGroup, Submission
from kling_async._ledger.sqlite_database import SqliteDatabase
from kling_async._ledger.sqlite_file import Identity, explained, require_file_name
from kling_async._models import Event, JobRef
from kling_async._validation import require

__all__ = ["SqliteLedger"]

T = TypeVar("T")

_PAGE = 500  # attempts read in one operation


class SqliteLedger:
    """A ledger in a SQLite file. It is opened by the first call and closed by `aclose`, which the client calls.

    Several processes of one computer may use the file at the same time, each with a ledger and a client of its own: a
    key is bought once by all of them, each job is polled by one of them, and all who wait for it see its events. Works
    on asyncio and trio, and over several event loops one after the other.

    Args:
        path: The file. It is made if need be, readable by its owner only. Its directory must exist.
        keep_images: Keep inline images as they are (a third larger), so that such requests can be submitted again
            after a restart without giving them again. Otherwise they are kept as a digest.
        lease: Seconds after its last sign of life for which other processes leave to a process what it is doing: its
            submission then counts as unknown, and its jobs are polled by others. It gives three signs in that time. If
            None, the variable ``KLING_LEASE``, or 30.

    Raises:
        ConfigurationError: The path is an address, such as that of a database server, or the lease is too short.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep_images: bool = False, lease: float | None = None) -> None:
        require("SqliteLedger(path)", path, str | os.PathLike, 'a path, such as "jobs.db"')
        require_file_name(path)
        self.path = Path(path).absolute()  # the working directory may change before it is opened
        self.keep_images = keep_images
        self._identity: Identity | None = None
        self._leases = Leases(lease_seconds("SqliteLedger", lease))
        self._thread = LedgerThread(
            str(self.path),
            f"ledger {self.path.name}",
            self._open,
            lambda error: explained(self.path, error),
            self._leases,
        )

    def __repr__(self) -> str:
        return f"<SqliteLedger {self.path}{' closed' if self._thread.closed else ''}>"

    async def claim(self, submission: Submission) -> Submission:
        """See `Ledger.claim`."""
        self._leases.sending.add(submission.attempt_id)
        try:
            claimed: Submission = await self._perform(statements.claim, submission)
        except BaseException:
            self._leases.sending.discard(submission.attempt_id)
            raise
        if claimed.attempt_id != submission.attempt_id:
            self._leases.sending.discard(submission.attempt_id)
        return claimed

    async def record_outcome(self, submission: Submission) -> None:
        """See `Ledger.record_outcome`."""
        await self._perform(statements.record_outcome, submission)
        self._leases.sending.discard(submission.attempt_id)

    async def release(self, key: str, attempt_id: str, reason: str) -> None:
        """See `Ledger.release`."""
        await self._perform(statements.release, (key, attempt_id, reason))

    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> Sequence[Event]:
        """See `Ledger.append_events`."""
        conflicting: Sequence[Event] = await self._perform(statements.append_events, (ref, events))
        return conflicting

    async def record_file(self, ref: JobRef, index: int, place: Path | str) -> None:
        """See `Ledger.record_file`."""
        await self._perform(statements.record_file, (str(ref), index, str(place)))

    async def find(
        self, *, key: str | None = None, attempt_id: str | None = None, ref: JobRef | None = None
    ) -> Submission | None:
        """See `Ledger.find`."""
        if key is not None:
            condition, value = "s.current AND s.key = ?", key
        elif attempt_id is not None:
            condition, value = "s.attempt_id = ?", attempt_id
        else:
            condition, value = "s.ref = ?", str(ref)
        found = await self._read(lambda connection: statements.select(connection, condition, value))
        return found[-1] if found else None

    async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
        """See `Ledger.submissions`."""
        condition = statements.UNFINISHED if unfinished else statements.CURRENT
        found: dict[str, Submission] = {}  # a key that is claimed again between two pages is on both
        last: int | None = 0
        while last is not None:
            page, last = await self._read(partial(statements.page, condition=condition, after=last, size=_PAGE))
            found.update((submission.key, submission) for submission in page)
        return sorted(found.values(), key=attrgetter("started"))

    async def attempts(self, key: str) -> list[Submission]:
        """See `Ledger.attempts`."""
        return await self._read(partial(statements.attempts, key=key))

    async def spending(self, ignored_fields: Collection[str] = ()) -> list[SpendingGroup]:
        """See `Ledger.spending`."""
        return await self._read(partial(statements.spending, ignored_fields=ignored_fields))

    async def events(self, ref: JobRef) -> list[Event]:
        """See `Ledger.events`."""
        return await self._read(partial(statements.events, ref=ref))

    async def set_value(self, name: str, value: Any) -> None:
        """See `Ledger.set_value`."""
        await self._perform(statements.set_value, (name, json.dumps(value)))

    async def get_value(self, name: str) -> Any:
        """See `Ledger.get_value`."""
        return await self._read(partial(statements.get_value, name=name))

    async def aclose(self) -> None:
        """Finish what is queued, close the file and give it free. Closing twice is harmless."""
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

    @property
    def others(self) -> bool:
        """See `SharedLedger.others`."""
        return self._leases.others

    def lease_left(self) -> float:
        """See `SharedLedger.lease_left`."""
        return self._leases.left()

    async def settled(self, attempt_id: str) -> Submission | None:
        """See `SharedLedger.settled`."""
        found: Submission | None = await self._perform(sqlite_leases.settled, attempt_id)
        return found

    async def request_poll(self, ref: JobRef, report: Any = None) -> None:
        """See `SharedLedger.request_poll`."""
        text = None if report is None else json.dumps(report)
        await self._perform(sqlite_leases.request_poll, (str(ref), text))

    async def take_over(self, limit: int, *, since: datetime, without: Collection[JobRef] = ()) -> Sequence[Submission]:
        """See `SharedLedger.take_over`."""
        work = (limit, since.timestamp(), [str(ref) for ref in without])
        found: Sequence[Submission] = await self._perform(sqlite_leases.take_over, work)
        return found

    async def next_call(self, account: str, interval: float) -> float:
        """See `SharedLedger.next_call`."""
        wait: float = await self._perform(sqlite_leases.next_call, (account, interval))
        return wait

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Let the thread do any work with the connection."""
        return cast("T", await self._perform(statements.each, work))

    async def _perform(self, kind: Kind, argument: Any) -> Any:
        """Let the thread do something, and wait until it is durable."""
        return await self._thread.perform(kind, argument)

    def _open(self) -> SqliteDatabase:
        database = SqliteDatabase(self.path, self._identity, self._leases)
        self._identity = database.identity
        return database

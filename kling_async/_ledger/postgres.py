"""The ledger in a PostgreSQL database, for processes on any number of computers.

Theory of operation
-------------------
One thread owns the connection (see `group_commit` and `postgres_database`), and a second connection brings what other
processes report (see `postgres_listener`). Claims, leases and the rows of calls are those of every shared ledger (see
`leases`), on the clock of the server.

*Loss of the server.* Nothing is bought that cannot be recorded: a claim fails. Jobs that run are polled on, and what
could not be recorded is recorded when the server is back (see `writer`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kling_async._ledger.group_commit import Kind, LedgerThread
from kling_async._ledger.leases import Leases, lease_seconds
from kling_async._ledger.postgres_address import parse_address
from kling_async._ledger.protocol import LeaseWatcher, SpendingGroup, Submission
from kling_async._models import Event, JobRef

if TYPE_CHECKING:
    from kling_async._ledger.postgres_database import PostgresDatabase
    from kling_async._ledger.postgres_statements import Session

__all__ = ["PostgresLedger"]

T = TypeVar("T")


class PostgresLedger:
    """A ledger in a PostgreSQL database. It is opened by the first call and closed by `aclose`, which the client calls.

    Any number of processes, on any number of computers, may use it at the same time, each with a ledger and a client of
    its own: a key is bought once by all of them, each job is polled by one of them, and all who wait for it see its
    events. Works on asyncio and trio, and over several event loops one after the other. It needs the extra
    ``[postgres]``.

    Args:
        dsn: The address, ``postgresql://user:password@host:port/database``. The password may come from ``PGPASSWORD``
            or ``~/.pgpass`` instead, and so may everything else that libpq knows. It is never shown.
        schema: The schema that has the tables. It is made if need be. One database may have several ledgers in schemas
            of their own. If None, the address names it (``?schema=``), or it is ``kling``.
        keep_images: Keep inline images as they are (a third larger), so that such requests can be submitted again
            after a restart without giving them again. Otherwise they are kept as a digest.
        lease: Seconds after its last sign of life for which other processes leave to a process what it is doing: its
            submission then counts as unknown, and its jobs are polled by others. It gives three signs in that time. If
            None, the variable ``KLING_LEASE``, or 30.

    Raises:
        ConfigurationError: The address cannot be read, psycopg is not installed, or the lease is too short.
    """

    def __init__(
        self, dsn: str, *, schema: str | None = None, keep_images: bool = False, lease: float | None = None
    ) -> None:
        self._address = parse_address(dsn, schema)
        self.keep_images = keep_images
        # They need psycopg, whose absence `parse_address` has explained.
        from kling_async._ledger import postgres_leases, postgres_statements  # noqa: PLC0415
        from kling_async._ledger.postgres_connection import Connector, explained  # noqa: PLC0415

        self._statements, self._lease_statements = postgres_statements, postgres_leases
        self._connector = Connector(self._address)
        self._leases = Leases(lease_seconds("PostgresLedger", lease))
        self._withdrawn: set[str] = set()
        self._thread = LedgerThread(
            self._address.shown,
            f"ledger {self._address.schema}",
            self._open,
            lambda error: explained(self._address, error),
            self._leases,
        )

    def __repr__(self) -> str:
        return f"<PostgresLedger {self._address}{' closed' if self._thread.closed else ''}>"

    @property
    def address(self) -> str:
        """Where it is, without the password."""
        return self._address.shown

    async def claim(self, submission: Submission) -> Submission:
        """See `Ledger.claim`."""
        self._leases.sending.add(submission.attempt_id)
        try:
            claimed: Submission = await self._perform(self._statements.claim, submission)
        except BaseException:
            self._leases.sending.discard(submission.attempt_id)
            raise
        if claimed.attempt_id != submission.attempt_id:
            self._leases.sending.discard(submission.attempt_id)
        return claimed

    async def record_outcome(self, submission: Submission) -> None:
        """See `Ledger.record_outcome`."""
        await self._perform(self._statements.record_outcome, submission)
        self._leases.sending.discard(submission.attempt_id)

    async def release(self, key: str, attempt_id: str, reason: str) -> None:
        """See `Ledger.release`."""
        await self._perform(self._statements.release, (key, attempt_id, reason))

    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> Sequence[Event]:
        """See `Ledger.append_events`."""
        conflicting: Sequence[Event] = await self._perform(self._statements.append_events, (ref, events))
        return conflicting

    async def record_file(self, ref: JobRef, index: int, place: Path | str) -> None:
        """See `Ledger.record_file`."""
        await self._perform(self._statements.record_file, (str(ref), index, str(place)))

    async def find(
        self, *, key: str | None = None, attempt_id: str | None = None, ref: JobRef | None = None
    ) -> Submission | None:
        """See `Ledger.find`."""
        if key is not None:
            condition, value = "s.current AND s.key = %s", key
        elif attempt_id is not None:
            condition, value = "s.attempt_id = %s", attempt_id
        else:
            condition, value = "s.ref = %s", str(ref)
        select = self._statements.select
        found = await self._read(lambda session: select(session, condition, (value,), last=1))
        return found[-1] if found else None

    async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
        """See `Ledger.submissions`."""
        condition = self._statements.UNFINISHED if unfinished else self._statements.CURRENT
        return await self._read(partial(self._statements.select, condition=condition))

    async def attempts(self, key: str) -> list[Submission]:
        """See `Ledger.attempts`."""
        return await self._read(partial(self._statements.attempts, key=key))

    async def spending(self, ignored_fields: Collection[str] = ()) -> list[SpendingGroup]:
        """See `Ledger.spending`."""
        return await self._read(partial(self._statements.spending, ignored_fields=ignored_fields))

    async def events(self, ref: JobRef) -> list[Event]:
        """See `Ledger.events`."""
        return await self._read(partial(self._statements.events, ref=ref))

    async def set_value(self, name: str, value: Any) -> None:
        """See `Ledger.set_value`."""
        await self._perform(self._statements.set_value, (name, json.dumps(value)))

    async def get_value(self, name: str) -> Any:
        """See `Ledger.get_value`."""
        return await self._read(partial(self._statements.get_value, name=name))

    async def aclose(self) -> None:
        """Finish what is queued, and close the connections. Closing twice is harmless."""
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
        found: Submission | None = await self._perform(self._lease_statements.settled, attempt_id)
        return found

    async def request_poll(self, ref: JobRef, report: Any = None) -> None:
        """See `SharedLedger.request_poll`."""
        text = None if report is None else json.dumps(report)
        await self._perform(self._lease_statements.request_poll, (str(ref), text))

    async def take_over(self, limit: int, *, since: datetime, without: Collection[JobRef] = ()) -> Sequence[Submission]:
        """See `SharedLedger.take_over`."""
        work = (limit, since.timestamp(), [str(ref) for ref in without])
        found: Sequence[Submission] = await self._perform(self._lease_statements.take_over, work)
        return found

    async def next_call(self, account: str, interval: float) -> float:
        """See `SharedLedger.next_call`."""
        wait: float = await self._perform(self._lease_statements.next_call, (account, interval))
        return wait

    async def _read(self, work: Callable[[Session], T]) -> T:
        """Let the thread read anything."""
        return cast("T", await self._perform(self._statements.each, work))

    async def _perform(self, kind: Kind, argument: Any) -> Any:
        """Let the thread do something, and wait until it is durable."""
        return await self._thread.perform(kind, argument)

    def _open(self) -> PostgresDatabase:
        from kling_async._ledger.postgres_database import PostgresDatabase  # noqa: PLC0415  # as above

        return PostgresDatabase(self._connector, self._leases, self._withdrawn)

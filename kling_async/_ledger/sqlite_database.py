"""The ledger's file as its thread uses it: transactions, and what is shared with other processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kling_async._ledger import sqlite_leases
from kling_async._ledger import sqlite_schema as statements
from kling_async._ledger.charges import Balances
from kling_async._ledger.group_commit import News, Operation, by_kind
from kling_async._ledger.leases import Leases, now_with_sleep
from kling_async._ledger.serialization import event_from_json
from kling_async._ledger.sqlite_file import File, Identity
from kling_async._models import Event, JobRef

__all__ = ["SqliteDatabase"]

_READING = frozenset({statements.each, statements.slot_free, sqlite_leases.settled})
_COUNTING = frozenset({statements.claim, statements.record_outcome, statements.append_events})


class SqliteDatabase:
    """The open file. See `group_commit.Database`.

    Args:
        path: Where it is.
        expected: The file that was open there before. None for the first time.
        leases: What this process owns in it.
        balances: What all attempts in it come to, as it was last seen.

    Raises:
        ConfigurationError, LedgerFailed, sqlite3.Error: Same as `File`.
    """

    def __init__(self, path: Path, expected: Identity | None, leases: Leases, balances: Balances) -> None:
        self._path = path
        self._file = File(path, expected, leases.owner)
        self._connection = self._file.connection
        self._leases = leases
        self._balances = balances
        self._seen = self._data_version()  # SQLite's number of the last change by others that we know
        self._position = (0, 0)

    @property
    def identity(self) -> Identity | None:
        """Which file it is."""
        return self._file.identity

    def commit(self, operations: Sequence[Operation]) -> None:
        """Do the operations in one transaction."""
        kinds = by_kind(operations)
        with self._transaction(writing=not _READING.issuperset(kinds)):
            for kind, alike in kinds.items():
                values = kind(self._connection, [operation.argument for operation in alike])
                for operation, value in zip(alike, values, strict=True):
                    operation.value = value
            sums = self._balances.known
            if self._balances.wanted and not _COUNTING.isdisjoint(kinds):
                sums = statements.balances(self._connection)
        self._balances.known = sums
        recorded = [each.value.leased for each in kinds.get(statements.record_outcome, ())]
        self._leases.grant([ref for ref in recorded if ref is not None])
        for each in kinds.get(sqlite_leases.take_over, ()):
            self._leases.grant([str(submission.ref) for submission in each.value])

    @contextmanager
    def _transaction(self, *, writing: bool = True, renewing: bool = False) -> Iterator[None]:
        """One transaction. One that writes renews our row when that is due, so that no write is an unknown owner's."""
        connection, begin = self._connection, now_with_sleep()
        renewed = None
        try:
            connection.execute("BEGIN IMMEDIATE" if writing else "BEGIN")
            self._file.require_same_file()
            if writing and (renewing or self._leases.renewal_due()):
                renewed = sqlite_leases.renew(connection, self._path, self._leases.seconds)
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        if renewed is not None:
            self._leases.renewed_as(renewed[0], begin, others=renewed[1])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def end(self) -> None:
        """Let others have at once what this process owns."""
        if self._leases.owner is not None:
            with self._transaction():
                sqlite_leases.end_owner(self._connection)

    def renew(self) -> None:
        """Renew this process's row in a transaction of its own."""
        with self._transaction(renewing=True):
            pass

    def changed(self) -> bool:
        """Whether others have written since the last call."""
        before, self._seen = self._seen, self._data_version()
        if before != self._seen:
            self._leases.others = True
        return before != self._seen

    def _data_version(self) -> int:
        [number] = self._connection.execute("PRAGMA data_version").fetchone()
        return int(number)

    def news(self, *, restart: bool) -> News:
        """Read what others have recorded since the last call."""
        with self._transaction(writing=False):
            since, self._position = self._position, sqlite_leases.position(self._connection)
            if restart:
                return News()
            events = sqlite_leases.recorded_since(self._connection, since[0])
            requests = sqlite_leases.requested_since(self._connection, since[1])
        wanted = set(self._leases.wanted_among({ref for ref, _ in (*events, *requests)}))
        return News(
            [(ref, read) for ref, text in events if ref in wanted and (read := _read(text))],
            [(ref, json.loads(report) if report else None) for ref, report in requests if ref in wanted],
        )

    def logs(self, refs: Sequence[str]) -> News:
        """Read the whole logs of jobs."""
        with self._transaction(writing=False):
            logs = [(ref, statements.events(self._connection, JobRef.parse(ref))) for ref in refs]
        return News([(ref, log) for ref, log in logs if log])

    def take(self, refs: Sequence[str]) -> Sequence[str]:
        """Take the leases of these jobs that are free. Return those that are ours now."""
        with self._transaction():
            return sqlite_leases.take(self._connection, refs)

    def give_back(self, refs: Sequence[str]) -> None:
        """Let others poll these jobs."""
        with self._transaction():
            sqlite_leases.give_back(self._connection, refs)


def _read(text: str) -> Sequence[Event]:
    """The event, if it can be read. Whoever reads the whole log is warned of one that cannot."""
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        return [event_from_json(text)]
    return ()

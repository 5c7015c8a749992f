"""A PostgreSQL database as the ledger's thread uses it: transactions, and what is shared with other processes.

Theory of operation
-------------------
A group of operations is one transaction, sent in one round trip (pipeline mode): five hundred writes cost little more
than one. What is only read is read afterwards.

*Lost connection.* Every write of ours may be repeated without harm, so a group whose connection breaks is done once
more over a new one. If that fails, too, its operations fail, and nothing is bought. A claim among them may be durable
all the same, because the server may have died between the commit and its answer. Such claims are withdrawn before
anything else is written over the next connection: nothing was sent for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

import psycopg

from kling_async._ledger import postgres_leases
from kling_async._ledger import postgres_statements as statements
from kling_async._ledger.charges import Balances, Claim
from kling_async._ledger.group_commit import News, Operation, by_kind
from kling_async._ledger.leases import Leases, now_with_sleep
from kling_async._ledger.postgres_connection import Connector, explained, is_lost
from kling_async._ledger.postgres_listener import Listener
from kling_async._ledger.postgres_schema import prepare
from kling_async._ledger.postgres_statements import Session
from kling_async._ledger.protocol import Balance
from kling_async._ledger.serialization import event_from_json
from kling_async._models import Event

__all__ = ["PostgresDatabase"]

T = TypeVar("T")

_READING = frozenset({statements.each, statements.slot_free, postgres_leases.settled})
_COUNTING = frozenset({statements.claim, statements.record_outcome, statements.append_events})
_PATIENCE = "30s"  # for which a statement may wait for locks of others
_NOT_SENT = "the ledger did not confirm that it had stored it, so it was not sent"


class PostgresDatabase:
    """The open database. See `group_commit.Database`.

    Args:
        connector: Makes its connections.
        leases: What this process owns in it.
        balances: What all attempts in it come to, as it was last seen.
        withdrawn: The attempts whose claims failed without a word of the server whether they are stored.

    Raises:
        ConfigurationError, LedgerFailed: It cannot be opened.
    """

    def __init__(self, connector: Connector, leases: Leases, balances: Balances, withdrawn: set[str]) -> None:
        self._connector = connector
        self._address = connector.address
        self._leases = leases
        self._balances = balances
        self._withdrawn = withdrawn
        self._listener = Listener(connector)
        self._positions: dict[str, int] = {}  # by job: the last event of others that we know
        self._session: Session | None = None
        self._open()

    def _open(self) -> Session:
        """The connection, made anew if it was lost."""
        if self._session is not None and not self._session.connection.closed:
            return self._session
        connection = self._connector.connect()
        try:
            prepare(connection, self._address)
            self._connector.check_clock(connection)
        except BaseException:
            connection.close()
            raise
        self._session = Session(connection, self._address.schema, self._leases.owner, self._connector.ahead)
        return self._session

    def close(self) -> None:
        """Close the connections."""
        self._listener.close()
        if self._session is not None:
            self._session.connection.close()

    def commit(self, operations: Sequence[Operation]) -> None:
        """Do the operations: those that write in one transaction, then those that read."""
        writing = [each for each in operations if each.kind not in _READING]
        if writing:
            try:
                self._again(lambda session: self._write(session, writing))
            except Exception:
                if len(writing) == len(operations) == 1 and writing[0].kind is statements.claim:
                    self._withdrawn.add(writing[0].argument.submission.attempt_id)
                raise
        for operation in operations:
            if operation.kind in _READING:
                self._read(operation)

    def _write(self, session: Session, operations: Sequence[Operation]) -> None:
        kinds = by_kind(operations)
        claims = [operation.argument for operation in kinds.get(statements.claim, ())]
        sums: Callable[[], Mapping[str, Balance]] | None = None
        with self._transaction(session, claims):
            finishing = [
                (alike, kind(session, [operation.argument for operation in alike])) for kind, alike in kinds.items()
            ]
            if self._balances.wanted and not _COUNTING.isdisjoint(kinds):
                sums = statements.read_balances(session)
        if sums is not None:
            self._balances.known = sums()
        for alike, finish in finishing:
            for operation, value in zip(alike, finish(), strict=True):
                operation.value = value
        recorded = [each.value.leased for each in kinds.get(statements.record_outcome, ())]
        self._leases.grant([ref for ref in recorded if ref is not None])
        for each in kinds.get(postgres_leases.take_over, ()):
            self._leases.grant([str(submission.ref) for submission in each.value])

    def _read(self, operation: Operation) -> None:
        try:
            [operation.value] = self._again(lambda session: operation.kind(session, [operation.argument])())
        except psycopg.Error as error:
            operation.error = explained(self._address, error)

    @contextmanager
    def _transaction(self, session: Session, claims: Sequence[Claim]) -> Iterator[None]:
        """One transaction in one round trip. Our row is renewed before it, so that we are known to live."""
        if self._leases.renewal_due():
            self._renew(session)
        connection = session.connection
        try:
            with connection.pipeline():
                connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                connection.execute(_SETTINGS)
                statements.lock_limits(session, claims)
                if self._withdrawn:
                    session.execute(
                        """UPDATE {s}.attempts SET state = 'not-submitted', reason = %s
                            WHERE attempt_id = ANY(%s) AND state = 'sending'""",
                        (_NOT_SENT, sorted(self._withdrawn)),
                    )
                yield
                connection.execute("COMMIT")
        except BaseException:
            with suppress(psycopg.Error):
                if connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                    connection.execute("ROLLBACK")
            raise
        self._withdrawn.clear()

    def _renew(self, session: Session) -> None:
        begin = now_with_sleep()
        session.owner, others = postgres_leases.renew(session, self._leases.seconds)
        self._leases.renewed_as(session.owner, begin, others=others)

    def _again(self, work: Callable[[Session], T]) -> T:
        """Do something that may be repeated, and repeat it over a new connection if the one that there is was lost."""
        session = self._open()
        try:
            return work(session)
        except psycopg.Error as error:
            if not is_lost(error, session.connection):
                raise
            session.connection.close()
            self._listener.close()
        return work(self._open())

    # What is shared with other processes.

    def end(self) -> None:
        """Let others have at once what this process owns."""
        if self._session is not None and self._leases.owner is not None:
            postgres_leases.end_owner(self._session)

    def renew(self) -> None:
        """Renew this process's row."""
        self._again(self._renew)

    def changed(self) -> bool:
        """Whether others have written since the last call, or may have."""
        changed = self._listener.changed(self._open())
        if self._listener.heard:
            self._leases.others = True
        return changed

    def news(self, *, restart: bool) -> News:
        """Read what others have recorded since the last call."""
        listener = self._listener
        if restart:
            self._positions.clear()
            listener.jobs.clear()
            listener.all = False
            return News()
        everything, listener.all = listener.all, False
        changed, listener.jobs = listener.jobs, set()
        known = set(self._leases.wanted_among(self._positions))
        self._positions = {ref: seq for ref, seq in self._positions.items() if ref in known}
        wanted = known if everything else set(self._leases.wanted_among(changed))
        positions = [(ref, self._positions.get(ref, -1)) for ref in sorted(wanted)]
        rows = self._again(lambda session: postgres_leases.recorded_after(session, positions)) if positions else []
        requests = self._again(postgres_leases.take_poll_requests)
        return News(
            [(ref, read) for ref, seq, text in rows if (read := self._passed(ref, seq, text))],
            [(ref, json.loads(report) if report else None) for ref, report in requests],
        )

    def logs(self, refs: Sequence[str]) -> News:
        """Read the whole logs of jobs."""
        rows = self._again(lambda session: postgres_leases.recorded_after(session, [(ref, -1) for ref in refs]))
        logs: dict[str, list[Event]] = {}
        self._positions.update((ref, -1) for ref in refs)
        for ref, seq, text in rows:
            logs.setdefault(ref, []).extend(self._passed(ref, seq, text))
        return News(list(logs.items()))

    def _passed(self, ref: str, seq: int, text: str) -> Sequence[Event]:
        """The event, if it can be read. Whoever reads the whole log is warned of one that cannot."""
        self._positions[ref] = max(seq, self._positions.get(ref, -1))
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            return [event_from_json(text)]
        return ()

    def take(self, refs: Sequence[str]) -> Sequence[str]:
        """Take the leases of these jobs that are free. Return those that are ours now."""

        def work(session: Session) -> Sequence[str]:
            if self._leases.renewal_due():
                self._renew(session)
            with session.connection.transaction():
                return postgres_leases.take(session, refs)

        return self._again(work)

    def give_back(self, refs: Sequence[str]) -> None:
        """Let others poll these jobs."""
        self._again(lambda session: postgres_leases.give_back(session, refs))


# A server that answers before its disk has it is asked to wait for the disk.
_SETTINGS = f"""SELECT set_config('statement_timeout', '{_PATIENCE}', true), set_config('synchronous_commit',
    CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END,
    true)"""

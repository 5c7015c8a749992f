"""Wake-ups from other processes: ``LISTEN`` on a connection of its own, or reading the tables where that does not work.

A pooler that gives each transaction another connection of the server accepts ``LISTEN`` and delivers nothing. So the
listener sends itself a message first. If it does not come, that is logged once, and the tables are read instead.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from kling_async._errors import KlingError
from kling_async._ledger.leases import now_with_sleep
from kling_async._ledger.postgres_connection import Connection, Connector
from kling_async._ledger.postgres_statements import Session

__all__ = ["Listener"]

log = logging.getLogger("kling_async")

_PROOF = 3.0  # s in which the listener's own message comes. On a healthy server it takes a millisecond
_READ_EVERY = 0.25  # s between two reads of the tables where nothing is delivered
_CHECK_EVERY = 10.0  # s between two reads of the tables all the same


@dataclass(slots=True)
class Listener:
    """Collects what other processes report.

    Args:
        connector: Makes the connection.
        clock: Seconds.

    Attributes:
        jobs: References of jobs of which others have recorded events, since they were last taken.
        all: Whether any job may have changed.
        heard: Whether the last call of `changed` received a report of another process.
    """

    connector: Connector
    clock: Callable[[], float] = now_with_sleep
    jobs: set[str] = field(default_factory=set)
    all: bool = True
    heard: bool = False
    _connection: Connection | None = None
    _mark: str = ""
    _proven: bool = False
    _opened: float = 0.0
    _read: float = 0.0

    def changed(self, session: Session) -> bool:
        """Whether other processes have written since the last call, or may have."""
        self.heard = self._collect(session)
        if self.clock() - self._read >= (_CHECK_EVERY if self._proven else _READ_EVERY):
            self._read, self.all = self.clock(), True
        return self.heard or self.all

    def close(self) -> None:
        """Close the connection. It is opened anew by the next call."""
        connection, self._connection, self._proven = self._connection, None, False
        if connection is not None:
            connection.close()

    def _collect(self, session: Session) -> bool:
        """Read what was delivered. Return whether it matters to us."""
        heard = False
        try:
            if self._connection is None and not self.connector.deaf:
                self._open(session)
            if self._connection is not None:
                own = session.connection.info.backend_pid
                for message in self._connection.notifies(timeout=0):
                    kind, *names = message.payload.split("\n")
                    if kind == self._mark:
                        self._proven = True
                    elif message.pid != own and kind in _KINDS:
                        heard = True
                        self.jobs.update(names)
        except (psycopg.Error, OSError, KlingError) as error:
            log.debug("the ledger's listener was interrupted: %s", type(error).__name__)
            self.close()
            self.all = True
        if self._connection is not None and not self._proven and self.clock() - self._opened > _PROOF:
            self.connector.deaf = True
            self.close()
            level = logging.DEBUG if str(self.connector.address) in _REPORTED else logging.WARNING
            _REPORTED.add(str(self.connector.address))
            log.log(
                level,
                "the ledger %s delivers no notifications (a pooler that shares its connections between transactions, "
                "for instance). Its tables are read every %g s instead; connect to the server directly, or to a pool "
                "of sessions, to do without",
                self.connector.address,
                _READ_EVERY,
            )
        return heard

    def _open(self, session: Session) -> None:
        self._connection = self.connector.connect()
        self._opened, self._mark, self.all = self.clock(), f"proof {uuid.uuid4()}", True
        self._connection.execute(psycopg.sql.SQL("LISTEN {}").format(psycopg.sql.Identifier(session.channel)))
        session.execute("SELECT pg_notify(%s, %s)", (session.channel, self._mark))


_REPORTED: set[str] = set()
"""The addresses of which this process has logged that they deliver nothing."""
_KINDS = frozenset({"events", "outcome", "polls"})

"""Connections to a database server, and what their errors mean. With `postgres_address`, the place that knows psycopg.

Theory of operation
-------------------
A server that cannot be reached is not asked again at once: a group of writes that fails is tried one by one, and while
somebody waits for a job the ledger is read many times a second. So after a failure the next connection is made after a
pause, which grows. Until then every call fails with the error of the last try.

*No password in errors.* The frames of psycopg hold the address with its password, and its errors lead to those frames.
So none of its errors leaves this module: the ledger's errors are new ones with its text.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import errors

from kling_async._errors import KlingError, LedgerFailed
from kling_async._ledger.group_commit import not_storable
from kling_async._ledger.postgres_address import PostgresAddress

__all__ = ["Connection", "Connector", "explained", "is_lost"]

log = logging.getLogger("kling_async")

Connection = psycopg.Connection[tuple[Any, ...]]

_PASSING = ("57P", "40")  # how codes begin: a server that ends, has crashed or begins; a deadlock
_SKEW = 30.0  # s between two clocks that are worth a warning
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0  # s


@dataclass(slots=True)
class Connector:
    """Makes connections to one database.

    Args:
        address: Where it is.
        clock: Seconds.

    Attributes:
        deaf: Whether no notifications come over its connections (see `postgres_listener`).
        clock_checked: Whether this computer's clock was compared with the server's.
        ahead: Seconds by which it is ahead, if that is much. The times at which submissions were started are stored by
            the server's clock, and read by ours, so that a job is as old for every computer.
    """

    address: PostgresAddress
    clock: Callable[[], float] = time.monotonic
    deaf: bool = False
    clock_checked: bool = False
    ahead: float = 0.0
    _pause: float = 0.0
    _next: float = 0.0
    _reached: bool = False
    _failure: LedgerFailed | None = field(default=None, repr=False)

    def connect(self) -> Connection:
        """A new connection, on which each statement is a transaction of its own.

        Raises:
            LedgerFailed: The server cannot be reached, or does not let us in.
        """
        if self._failure is not None and self.clock() < self._next:
            raise copy.copy(self._failure)
        try:
            # Prepared statements would be those of another connection behind a pooler.
            made = psycopg.connect(
                **self.address.parameters, autocommit=True, prepare_threshold=None, client_encoding="utf8"
            )
        except (psycopg.Error, OSError) as error:
            self._failure = explained(self.address, error)
            self._failure.temporary &= self._reached
        else:
            self._pause, self._failure, self._reached = 0.0, None, True
            return made
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._next = self.clock() + self._pause
        raise copy.copy(self._failure)

    def check_clock(self, connection: Connection) -> None:
        """Log once when this computer's clock and the server's are far apart."""
        if self.clock_checked:
            return
        self.clock_checked = True
        before = time.time()
        row: Any = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
        ahead = (before + time.time()) / 2 - row[0]
        if abs(ahead) >= _SKEW:
            self.ahead = ahead
            log.warning(
                "the clock of this computer is %.0f s %s that of the ledger %s. Leases and deadlines hold all the "
                "same, but the times that it shows and those of events that it records are wrong; set the clock (NTP)",
                *(abs(ahead), "ahead of" if ahead > 0 else "behind", self.address),
            )


def is_lost(error: BaseException, connection: Connection) -> bool:
    """Whether an error means that the connection is of no use any more."""
    if isinstance(error, errors.ReadOnlySqlTransaction):  # the server was demoted: another one may be the primary
        return True
    return connection.closed or connection.broken


def explained(address: PostgresAddress, error: Exception) -> Any:
    """The error for one task that waits: never psycopg's own, whose frames hold the password."""
    if isinstance(error, KlingError):
        return copy.copy(error)
    if not isinstance(error, psycopg.Error | OSError):
        return error
    text = " ".join(str(error).split()).partition(" Is the server running")[0].removesuffix(".")
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError | errors.ProgramLimitExceeded):
        return not_storable(str(address), text)
    fact, remedy = _fact_and_remedy(address, error, text)
    message = f"the ledger {address} {fact}. Nothing is submitted without it; {remedy}"
    return LedgerFailed(message, temporary=_is_temporary(error, text))


def _is_temporary(error: Exception, text: str) -> bool:
    """Whether the server does not answer, ends or begins, or was busy. Not whether it refuses us."""
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_PASSING)
    if _SESSION_READ_ONLY in text:  # of several hosts, one is about to become the primary
        return True
    return isinstance(error, psycopg.OperationalError | OSError) and not any(part in text for part, _, _ in _REFUSED)


def _fact_and_remedy(address: PostgresAddress, error: Exception, text: str) -> tuple[str, str]:
    for kind, fact, remedy in _KNOWN:
        if isinstance(error, kind):
            return fact.format(text=text), remedy.format(schema=address.schema)
    if getattr(error, "sqlstate", None) is None and isinstance(error, psycopg.OperationalError | OSError):
        for part, fact, remedy in _REFUSED:  # before a connection is there, the code is missing
            if part in text:
                return fact.format(text=text), remedy
        return f"cannot be reached: {text}", "start the server or check the address, and try again"
    return f"cannot be used: {text}", "check the server and the address"


_PASSWORD = ("does not accept the user or the password: {text}", "check both, also in PGPASSWORD and ~/.pgpass")
_READ_ONLY = (
    "only allows reading: it is a replica, or default_transaction_read_only is on",
    "give the address of the primary (several hosts: target_session_attrs=read-write)",
)
_SESSION_READ_ONLY = "session is read-only"
_REFUSED: tuple[tuple[str, str, str], ...] = (
    ("password authentication failed", *_PASSWORD),
    ("no password supplied", *_PASSWORD),
    ("no pg_hba.conf entry", "does not let this user in from here: {text}", "add a line for it to pg_hba.conf"),
    ("too many clients", "has no connection left: {text}", "raise max_connections of the server, or use a pooler"),
    (_SESSION_READ_ONLY, *_READ_ONLY),
)
"""Parts of what libpq says when a server does not let us in."""
_KNOWN: tuple[tuple[type[Exception], str, str], ...] = (
    (errors.DiskFull, "cannot be written: {text}", "free some space on the server and try again"),
    (errors.ReadOnlySqlTransaction, *_READ_ONLY),
    (errors.InvalidPassword, *_PASSWORD),
    (
        errors.InsufficientPrivilege,
        "does not allow this: {text}",
        "let an administrator run CREATE SCHEMA {schema} AUTHORIZATION your_user, or give the user all rights on it",
    ),
    (errors.QueryCanceled, "took too long: {text}", "look for locks that others hold (pg_stat_activity)"),
    (errors.DeadlockDetected, "was busy: {text}", "try again"),
)
"""Errors of the server, what they mean for the ledger, and what to do."""

"""The ledger's file: who owns it, whether it can be read, and a look into it by those who do not own it."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from anyio import to_thread

from kling_async._errors import ConfigurationError, KlingError, LedgerFailed
from kling_async._ledger.protocol import Submission, SubmissionState
from kling_async._ledger.sqlite_schema import CURRENT, MIGRATIONS, select

__all__ = ["Contents", "File", "explained", "inspect"]

_APPLICATION = 0x4B4C4E47  # "KLNG"; marks the file as ours
_BUSY = 5.0  # s for which a commit waits for somebody else's look at the file
_PROBE = 0.25  # s for which an owner to be waits for somebody else's look at the lock

_DIED = "the process ended while it was being sent"


class File:
    """The open file: the connection that reads and writes it, and the one that holds the lock. Of one thread.

    Raises:
        ConfigurationError: It is owned by another process, or is not a ledger that this version can read.
        sqlite3.Error: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.parent.is_dir():
            raise ConfigurationError(f"the ledger {path} cannot be made: there is no directory {path.parent}")
        if path.is_dir():
            raise ConfigurationError(
                f"{path} is a directory, and a ledger is a file; name one, such as {path / 'jobs.db'}"
            )
        self._lock = sqlite3.connect(_lock_of(path), timeout=_PROBE, isolation_level=None)
        try:
            self._own()
            path.touch(mode=0o600)
            self.connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
            try:
                self._prepare(self.connection)
            except BaseException:
                self.connection.close()
                raise
        except BaseException:
            self._lock.close()
            raise

    def close(self) -> None:
        """Close the file and give it free."""
        with closing(self._lock), closing(self.connection):
            pass

    def _own(self) -> None:
        try:
            self._lock.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            owner = _owner(self.path)
            user, remedy = f"process {owner}" if owner else "another process", "Wait for it, end it"
            if owner == str(os.getpid()):
                user, remedy = "another client of this process", "Share that client, close it first"
            raise ConfigurationError(
                f"the ledger {self.path} is in use by {user}: a ledger belongs to one client at a time. {remedy}, "
                "or use another file"
            ) from None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = _version(self.path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute("INSERT OR REPLACE INTO stored_values VALUES ('owner', ?)", (str(os.getpid()),))
        # Nobody else can be sending: we own the ledger. Whoever was sending died, and it is not known how far it came.
        connection.execute("UPDATE attempts SET state = 'unknown', reason = ? WHERE state = 'sending'", (_DIED,))
        connection.execute("COMMIT")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a ledger had when somebody looked.

    Attributes:
        submissions: All of them, in the order of their start.
        owner: The process that has it open (``"?"``: one that has not said yet); None: nobody has.
    """

    submissions: list[Submission]
    owner: str | None


async def inspect(path: Path) -> Contents:
    """Look into a ledger without owning it, also while another process does. Nothing is changed.

    What nobody is sending any more (its process ended) is told as unknown.

    Raises:
        ConfigurationError: There is no such file, or it is not a ledger that this version can read.
        LedgerFailed: It cannot be read.
    """

    def look() -> Contents:
        if not path.is_file():
            raise ConfigurationError(f"there is no ledger {path}")
        try:
            with closing(sqlite3.connect(_read_only(path), uri=True, timeout=_BUSY)) as connection:
                known = _version(path, connection)
                owner = (_owner(path) or "?") if _is_owned(path) else None
                submissions = select(connection, CURRENT) if known else []
        except sqlite3.Error as error:
            raise explained(path, error) from error
        if owner is None:
            submissions = [_abandoned(submission) for submission in submissions]
        return Contents(submissions, owner)

    return await to_thread.run_sync(look)


def _lock_of(path: Path) -> Path:
    """The lock's file: one for a ledger, by whatever link it is reached."""
    whole = path.resolve()
    return whole.with_name(f"{whole.name}-lock")


def _read_only(path: Path) -> str:
    return f"{path.resolve().as_uri()}?mode=ro"


def _is_owned(path: Path) -> bool:
    """Whether a process holds the lock. To find out, it is taken for a moment, for which an owner to be waits."""
    if not _lock_of(path).exists():
        return False
    with closing(sqlite3.connect(_lock_of(path), timeout=0.0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            return error.sqlite_errorcode == sqlite3.SQLITE_BUSY  # anything else: it is not ours to take
        lock.execute("ROLLBACK")
    return False


def _abandoned(submission: Submission) -> Submission:
    """The submission as its ledger tells it once nobody is sending it any more."""
    if submission.state is not SubmissionState.SENDING:
        return submission
    return replace(submission, state=SubmissionState.UNKNOWN, reason=submission.reason or _DIED)


def _version(path: Path, connection: sqlite3.Connection) -> int:
    """The version of the file; 0: it is new.

    Raises:
        ConfigurationError: It is no ledger, or of a version that this one does not know.
    """
    version, application = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id")
    )
    if application != _APPLICATION and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise ConfigurationError(f"{path} is a database, but not a ledger; choose another file")
    if version > len(MIGRATIONS):
        raise ConfigurationError(f"the ledger {path} was written by a newer version of kling_async; upgrade this one")
    return int(version)


def _owner(path: Path) -> str | None:
    """The process that owns the file, as it wrote there itself."""
    try:
        with closing(sqlite3.connect(_read_only(path), uri=True, timeout=1.0)) as connection:
            return str(connection.execute("SELECT value FROM stored_values WHERE name = 'owner'").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return None  # it was opened a moment ago, and has written nothing yet


def explained(path: Path, error: Exception) -> Exception:
    """The error for one task that waits."""
    if isinstance(error, KlingError):
        return type(error)(error.message)
    if not isinstance(error, sqlite3.Error | OSError):
        return error
    remedy = "check the file, or use another one"
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        remedy = "free some space and try again"
    failure = LedgerFailed(f"the ledger {path} cannot be used: {error}. Nothing is submitted without it; {remedy}")
    failure.__cause__ = error
    return failure

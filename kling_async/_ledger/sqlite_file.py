"""The ledger's file: who owns it, whether this version can read it, and whether it is still the file that was opened.

Theory of operation
-------------------
*Lock.* The owner holds a write lock on an empty database beside the file (``jobs.db-lock``) until it closes the ledger.
The operating system releases the lock when the process ends, so the lock is never stale. The lock is SQLite's own: a
lock of the `flock` kind, which lock libraries use, would stay with forked children after the owner has ended. Where the
system has them, the owner also locks one byte of the database itself, far beyond its end: deleting the lock file then
admits no second owner.

*Identity.* An open file may be deleted or moved. Everything that is written afterwards is lost for the next process.
So the name must still lead to the opened file before each commit.

*Locks that hold nothing.* Some network file systems grant every lock. So the owner locks the byte a second time, over
another descriptor, and does not use a file where that succeeds. Locks may also hold on each machine, and not between
machines. So each owner stores a random mark when it opens the file, and no key is claimed after another mark has
replaced it.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import struct
import uuid
import weakref
from contextlib import closing, suppress
from pathlib import Path
from typing import NoReturn

from kling_async._errors import ConfigurationError, KlingError, LedgerFailed
from kling_async._ledger.sqlite_schema import MIGRATIONS

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "File",
    "Identity",
    "connect_read_only",
    "explained",
    "file_version",
    "is_owned",
    "recorded_owner",
    "require_file_name",
]

_APPLICATION = 0x4B4C4E47  # "KLNG". Marks the file as ours
_BUSY = 5.0  # s for which a commit waits for a reader
_PROBE = 0.25  # s for which a new owner waits for a reader that tries the lock
# Two letters at least: C:/jobs.db is a file. One slash is enough, because `Path` makes one of two
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_LOCKED_BYTE = 1 << 62  # SQLite locks bytes at 1 GiB. Nothing is ever written here

PROCESS_ENDED = "the process ended while it was being sent"

Identity = tuple[int, int]
"""Device and inode."""

_open_files: weakref.WeakSet[File] = weakref.WeakSet()


class File:
    """The open file: the connection that reads and writes it, and its locks. Used by one thread.

    Args:
        path: Where it is.
        expected: The file that was open there before. None for the first time: the file is created if need be.

    Raises:
        ConfigurationError: Another process owns it, or it is not a ledger that this version can read.
        LedgerFailed: It is not the expected file.
        sqlite3.Error: It cannot be opened.
    """

    def __init__(self, path: Path, expected: Identity | None = None) -> None:
        self.path = path
        self._mark = json.dumps({"pid": os.getpid(), "mark": str(uuid.uuid4())})
        if not path.parent.is_dir():
            raise ConfigurationError(f"the ledger {path} cannot be made: there is no directory {path.parent}")
        if path.is_dir():
            raise ConfigurationError(
                f"{path} is a directory, and a ledger is a file; name one, such as {path / 'jobs.db'}"
            )
        if expected is not None and _identity(path) != expected:
            self._raise_replaced()
        self._own_descriptor: int | None = None
        self._lock = sqlite3.connect(lock_of(path), timeout=_PROBE, isolation_level=None)
        try:
            self._acquire_lock()
            path.touch(mode=0o600)
            self._lock_own_byte()
            self.connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
            try:
                self._prepare(self.connection)
            except BaseException:
                self.connection.close()
                raise
        except BaseException:
            self._lock.close()
            self.close_descriptor()
            raise
        self.identity = _identity(path)
        _open_files.add(self)

    def close(self) -> None:
        """Close the file and release its locks."""
        with closing(self._lock), closing(self.connection):
            pass
        self.close_descriptor()  # last: closing any descriptor of a file ends this process's own locks on it

    def close_descriptor(self) -> None:
        """Close the descriptor that locks the database itself."""
        descriptor, self._own_descriptor = self._own_descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def require_same_file(self) -> None:
        """Check that the path still leads to the file that was opened.

        Raises:
            LedgerFailed: The file was deleted, moved or replaced.
        """
        if _identity(self.path) != self.identity:
            self._raise_replaced()

    def require_ownership(self) -> None:
        """Check that no other process has opened the file as its owner. To be called in the transaction of a claim.

        Raises:
            LedgerFailed: Another one has.
        """
        if _stored_mark(self.connection) != self._mark:
            raise LedgerFailed(
                f"the ledger {self.path} was opened by process {recorded_owner(self.path) or '?'} while this process "
                "had it open: its file system grants locks that hold nothing, or its lock file was deleted. Nothing is "
                "submitted without it; keep the ledger on a local disk, with one process for each file"
            )

    def _raise_replaced(self) -> NoReturn:
        raise LedgerFailed(
            f"the ledger {self.path} was deleted, moved or replaced while it was in use. Nothing is submitted without "
            "it; put the file back in its place"
        )

    def _acquire_lock(self) -> None:
        try:
            self._lock.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            self._raise_in_use()

    def _lock_own_byte(self) -> None:
        """Lock a byte of the database itself, where the system can do that for one open file."""
        command = getattr(fcntl, "F_OFD_SETLK", None)
        if command is None:
            return
        self._own_descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_BYTE, 1, 0)
        try:
            fcntl.fcntl(self._own_descriptor, command, request)
        except (BlockingIOError, PermissionError):
            self._raise_in_use()
        except OSError:  # a file system without such locks
            self.close_descriptor()
            return
        other = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.fcntl(other, command, request)
        except OSError:
            return  # refused: the lock holds
        finally:
            os.close(other)
        raise LedgerFailed(
            f"the ledger {self.path} is on a file system that grants locks which hold nothing, so that two processes "
            "could buy the same. Nothing is submitted with it; keep the ledger on a local disk"
        )

    def _raise_in_use(self) -> NoReturn:
        owner = recorded_owner(self.path)
        user, remedy = f"process {owner}" if owner else "another process", "Wait for it, end it"
        if owner == str(os.getpid()):
            user, remedy = "another client of this process", "Share that client, close it first"
        raise ConfigurationError(
            f"the ledger {self.path} is in use by {user}: a ledger belongs to one client at a time. {remedy}, "
            "or use another file"
        ) from None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = file_version(self.path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute("INSERT OR REPLACE INTO stored_values VALUES ('owner', ?)", (self._mark,))
        # Nobody else can be sending: we own the ledger. The sender died, and it is not known how far the call came.
        connection.execute(
            "UPDATE attempts SET state = 'unknown', reason = ? WHERE state = 'sending'", (PROCESS_ENDED,)
        )
        connection.execute("COMMIT")


def _close_inherited_descriptors() -> None:
    """In a forked child: a lock of an open file lasts until every process has closed it."""
    for file in list(_open_files):
        with suppress(OSError):
            file.close_descriptor()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_descriptors)


def _identity(path: Path) -> Identity | None:
    """Which file the path leads to. None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def lock_of(path: Path) -> Path:
    """The lock's file: the same for every link to the ledger."""
    whole = path.resolve()
    return whole.with_name(f"{whole.name}-lock")


def connect_read_only(path: Path, timeout: float = _BUSY) -> sqlite3.Connection:
    """A connection that changes nothing and needs no ownership."""
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=timeout)


def require_file_name(path: str | os.PathLike[str]) -> None:
    """Check that a path is not an address. The address itself is never repeated: it may hold a password.

    Raises:
        ConfigurationError: It is one.
    """
    address = _ADDRESS.match(os.fsdecode(path))
    if address is not None:
        raise ConfigurationError(
            f"a ledger is a file on a local disk, not an address that begins with {address[1]}: (the rest may hold a "
            "password, and is not shown). Nothing was opened or sent; name a file, such as jobs.db"
        )


def is_owned(path: Path) -> bool:
    """Whether a process holds the lock. To find out, it is taken for a moment, for which a new owner waits."""
    if not lock_of(path).exists():
        return False
    with closing(sqlite3.connect(lock_of(path), timeout=0.0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            return error.sqlite_errorcode == sqlite3.SQLITE_BUSY  # anything else: it is not ours to take
        lock.execute("ROLLBACK")
    return False


def file_version(path: Path, connection: sqlite3.Connection) -> int:
    """The version of the file. 0 if it is new.

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


def recorded_owner(path: Path) -> str | None:
    """The process that owns the file, as it stored itself. None if that cannot be read."""
    try:
        with closing(connect_read_only(path, timeout=1.0)) as connection:
            return str(json.loads(_stored_mark(connection) or "")["pid"])
    except (sqlite3.Error, ValueError, TypeError, KeyError):
        return None  # it was opened a moment ago, and nothing is stored yet


def _stored_mark(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT value FROM stored_values WHERE name = 'owner'").fetchone()
    return str(row[0]) if row else None


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

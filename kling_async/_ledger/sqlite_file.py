"""The ledger's file: whether this version can read it, whether its locks hold, and whether it is still the same file.

Theory of operation
-------------------
Several processes of one computer may have the file open (see `leases`). SQLite lets one of them write at a time.

*Identity.* An open file may be deleted or moved. Everything that is written afterwards is lost for the next process.
So the name must still lead to the opened file before each commit.

*Locks that hold nothing.* Some network file systems grant every lock. So when the ledger is
opened, a file beside it is locked over two descriptors, where the system can do that. A ledger where the second lock is
granted is not used. Locks may also hold on each computer, and not between computers. So a file that a living process of
another computer has open is not used (see `sqlite_leases.renew`).
"""

from __future__ import annotations

import copy
import os
import re
import sqlite3
import struct
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from kling_async._errors import ConfigurationError, KlingError, LedgerFailed
from kling_async._ledger import sqlite_leases
from kling_async._ledger.group_commit import not_storable
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
    "require_file_name",
]

_APPLICATION = 0x4B4C4E47  # "KLNG". Marks the file as ours
_AGAIN = 0.01  # s between two tries of what SQLite does not wait for itself
_BUSY = 30.0  # s for which a commit waits for those of other processes. They take milliseconds, on a slow disk more
# Two letters at least: C:/jobs.db is a file. One slash is enough, because `Path` makes one of two
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")

Identity = tuple[int, int]
"""Device and inode."""


class File:
    """The open file: the connection that reads and writes it. Used by one thread.

    Args:
        path: Where it is.
        expected: The file that was open there before. None for the first time: the file is created if need be.
        owner: As whom this process wrote there before (see `leases`). None for the first time.

    Raises:
        ConfigurationError: It is not a ledger that this version can read.
        LedgerFailed: It is not the expected file, or its locks hold nothing.
        sqlite3.Error: It cannot be opened.
    """

    def __init__(self, path: Path, expected: Identity | None = None, owner: int | None = None) -> None:
        self.path = path
        if not path.parent.is_dir():
            raise ConfigurationError(f"the ledger {path} cannot be made: there is no directory {path.parent}")
        if path.is_dir():
            raise ConfigurationError(
                f"{path} is a directory, and a ledger is a file; name one, such as {path / 'jobs.db'}"
            )
        if expected is not None and _identity(path) != expected:
            self._raise_replaced()
        path.touch(mode=0o600)
        self._require_locks()
        self.connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
        try:
            self._prepare(self.connection)
            sqlite_leases.prepare(self.connection, owner)
        except BaseException:
            self.connection.close()
            raise
        self.identity = _identity(path)

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def require_same_file(self) -> None:
        """Check that the path still leads to the file that was opened.

        Raises:
            LedgerFailed: The file was deleted, moved or replaced.
        """
        if _identity(self.path) != self.identity:
            self._raise_replaced()

    def _raise_replaced(self) -> NoReturn:
        raise LedgerFailed(
            f"the ledger {self.path} was deleted, moved or replaced while it was in use. Nothing is submitted without "
            "it; put the file back in its place"
        )

    def _require_locks(self) -> None:
        """Check that locks beside the file hold, where the system can lock a file for one descriptor.

        Raises:
            LedgerFailed: It does not.
        """
        command = getattr(fcntl, "F_OFD_SETLK", None)
        if command is None:
            return
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        # A file of its own, because closing a descriptor of the ledger would end SQLite's locks in this process.
        with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=f".{self.path.name}-") as probe:
            second = os.open(probe.name, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.fcntl(probe.fileno(), command, request)
                fcntl.fcntl(second, command, request)
            except OSError:
                return  # the second was refused, so locks hold; or the file system has no such locks
            finally:
                os.close(second)
        raise LedgerFailed(
            f"the ledger {self.path} is on a file system that grants locks which hold nothing, so that two processes "
            "could buy the same. Nothing is submitted with it; keep the ledger on a local disk"
        )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        file_version(self.path, connection)  # nothing is written into a file that is not ours
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        version = file_version(self.path, connection)  # another process may be making it
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute("COMMIT")


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch a file to the write-ahead log, or find that it is switched.

    Where two processes make one file, SQLite refuses one of them at once, without waiting for `_BUSY`: each might wait
    for the other.
    """
    patience = time.monotonic() + _BUSY
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                raise
            time.sleep(_AGAIN)
        else:
            return


def _identity(path: Path) -> Identity | None:
    """Which file the path leads to. None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


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


def file_version(path: Path, connection: sqlite3.Connection) -> int:
    """The version of the file. 0 if it is new.

    Raises:
        ConfigurationError: It is no ledger, or of a version that this one does not know.
    """
    version, application, used = connection.execute(  # at one moment: another process may be making it
        """SELECT user_version, application_id, EXISTS (SELECT 1 FROM sqlite_master)
            FROM pragma_user_version, pragma_application_id"""
    ).fetchone()
    if used and application != _APPLICATION:
        raise ConfigurationError(f"{path} is a database, but not a ledger; choose another file")
    if version > len(MIGRATIONS):
        raise ConfigurationError(f"the ledger {path} was written by a newer version of kling_async; upgrade this one")
    return int(version)


def explained(path: Path, error: Exception) -> Exception:
    """The error for one task that waits."""
    if isinstance(error, KlingError):
        return copy.copy(error)
    if not isinstance(error, sqlite3.Error | OSError):
        return error
    if isinstance(error, sqlite3.DataError | sqlite3.IntegrityError):  # of the values themselves, such as their size
        return not_storable(str(path), str(error))
    remedy = "check the file, or use another one"
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        remedy = "free some space and try again"
    failure = LedgerFailed(f"the ledger {path} cannot be used: {error}. Nothing is submitted without it; {remedy}")
    failure.__cause__ = error
    return failure

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

import os
from functools import partial
from operator import attrgetter
from pathlib import Path

from kling_async._ledger import sqlite_leases
from kling_async._ledger import sqlite_schema as statements
from kling_async._ledger.database_ledger import DatabaseLedger
from kling_async._ledger.protocol import Submission
from kling_async._ledger.sqlite_database import SqliteDatabase
from kling_async._ledger.sqlite_file import Identity, explained, require_file_name
from kling_async._validation import require

__all__ = ["SqliteLedger"]

_PAGE = 500  # attempts read in one operation


class SqliteLedger(DatabaseLedger):
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
        self._identity: Identity | None = None
        super().__init__(
            str(self.path),
            f"ledger {self.path.name}",
            statements=statements,
            lease_statements=sqlite_leases,
            keep_images=keep_images,
            lease=lease,
        )

    def __repr__(self) -> str:
        return f"<SqliteLedger {self.path}{' closed' if self._thread.closed else ''}>"

    async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
        """See `Ledger.submissions`."""
        condition = statements.UNFINISHED if unfinished else statements.CURRENT
        found: dict[str, Submission] = {}  # a key that is claimed again between two pages is on both
        last: int | None = 0
        while last is not None:
            page, last = await self._read(partial(statements.page, condition=condition, after=last, size=_PAGE))
            found.update((submission.key, submission) for submission in page)
        return sorted(found.values(), key=attrgetter("started"))

    def _open(self) -> SqliteDatabase:
        database = SqliteDatabase(self.path, self._identity, self._leases, self._balances)
        self._identity = database.identity
        return database

    def _explained(self, error: Exception) -> Exception:
        return explained(self.path, error)

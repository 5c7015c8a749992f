"""The ledger in a SQLite file.

Theory of operation
-------------------
One thread owns the file (see `group_commit`). All operations of one kind in a group are one statement (see
`sqlite_schema`). A long list is read page by page, so that writes can take place in between.

*Durability.* WAL with ``synchronous=FULL``: a commit survives ``kill -9`` and a power cut.

*Ownership.* One process owns the file (see `sqlite_file`). Reading needs no ownership and disturbs nobody, because WAL
lets others read (see `inspection`).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Collection, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, cast

from kling_async._ledger import sqlite_schema as statements
from kling_async._ledger.group_commit import Kind, LedgerThread, Operation, by_kind
from kling_async._ledger.protocol import SpendingGroup, Submission
from kling_async._ledger.sqlite_file import File, Identity, explained, require_file_name
from kling_async._models import Event, JobRef
from kling_async._validation import require

__all__ = ["SqliteLedger"]

T = TypeVar("T")

_PAGE = 500  # attempts read in one operation


class SqliteLedger:
    """A ledger in a SQLite file. It is opened by the first call and closed by `aclose`, which the client calls.

    Works on asyncio and trio, and over several event loops one after the other.

    Args:
        path: The file. It is made if need be, readable by its owner only. Its directory must exist.
        keep_images: Keep inline images as they are (a third larger), so that such requests can be submitted again
            after a restart without giving them again. Otherwise they are kept as a digest.

    Raises:
        ConfigurationError: The path is an address, such as that of a database server.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep_images: bool = False) -> None:
        require("SqliteLedger(path)", path, str | os.PathLike, 'a path, such as "jobs.db"')
        require_file_name(path)
        self.path = Path(path).absolute()  # the working directory may change before it is opened
        self.keep_images = keep_images
        self._identity: Identity | None = None
        self._thread = LedgerThread(
            str(self.path), f"ledger {self.path.name}", self._open, lambda error: explained(self.path, error)
        )

    def __repr__(self) -> str:
        return f"<SqliteLedger {self.path}{' closed' if self._thread.closed else ''}>"

    async def claim(self, submission: Submission) -> Submission:
        """See `Ledger.claim`."""
        claimed: Submission = await self._perform(statements.claim, submission)
        return claimed

    async def record_outcome(self, submission: Submission) -> None:
        """See `Ledger.record_outcome`."""
        await self._perform(statements.record_outcome, submission)

    async def release(self, key: str, attempt_id: str, reason: str) -> None:
        """See `Ledger.release`."""
        await self._perform(statements.release, (key, attempt_id, reason))

    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> None:
        """See `Ledger.append_events`."""
        await self._perform(statements.append_events, (ref, events))

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

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Let the thread do any work with the connection."""
        return cast("T", await self._perform(statements.each, work))

    async def _perform(self, kind: Kind, argument: Any) -> Any:
        """Let the thread do something, and wait until it is durable."""
        return await self._thread.perform(kind, argument)

    def _open(self) -> _Transactions:
        file = File(self.path, self._identity)
        self._identity = file.identity
        return _Transactions(file)


class _Transactions:
    """The open file as the thread uses it."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.close = file.close

    def commit(self, operations: Sequence[Operation]) -> None:
        """Do the operations in one transaction."""
        connection = self._file.connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._file.require_same_file()
            kinds = by_kind(operations)
            if statements.claim in kinds:
                self._file.require_ownership()
            for kind, alike in kinds.items():
                values = kind(connection, [operation.argument for operation in alike])
                for operation, value in zip(alike, values, strict=True):
                    operation.value = value
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

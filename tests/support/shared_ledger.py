"""Ledgers that processes share, and what stands in them."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from kling_async import JobRef, PostgresLedger, SqliteLedger, Submission
from kling_async._ledger.sqlite_schema import MIGRATIONS
from support.postgres import Server

__all__ = ["NOON", "Opened", "Shared", "file_of_version", "ref_of", "shared_ledger", "submission"]

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
Shared: TypeAlias = SqliteLedger | PostgresLedger
Opened: TypeAlias = Callable[[], Shared]
"""Opens the ledger once more, as another process does."""


@asynccontextmanager
async def shared_ledger(path: Path, server: Server | None, **options: Any) -> AsyncIterator[Opened]:
    """A ledger that may be opened many times: a file, or a schema of a server. All are closed afterwards."""
    schema = server.schema() if server is not None else ""

    def open_it() -> Shared:
        if server is None:
            return close_later(SqliteLedger(path, **options))
        return close_later(PostgresLedger(server.dsn(), schema=schema, **options))

    def close_later(ledger: Shared) -> Shared:
        stack.push_async_callback(ledger.aclose)
        return ledger

    async with AsyncExitStack() as stack:
        yield open_it


def submission(key: str, **more: Any) -> Submission:
    """A submission that is being sent."""
    return Submission(key, "runblob/o3-video", {"prompt": "a boat", "duration": 5}, "f", f"a-{key}", NOON, **more)


def ref_of(key: str) -> JobRef:
    """The job of that submission."""
    return JobRef("runblob", "o3-video", f"id-{key}")


def file_of_version(path: Path, version: int, *rows: tuple[str, tuple[Any, ...]]) -> None:
    """Write a file as an earlier version of the library has left it, with rows: statements and their values."""
    with closing(sqlite3.connect(path)) as old, old:
        for statements in MIGRATIONS[:version]:
            for statement in statements:
                old.execute(statement)
        old.execute(f"PRAGMA user_version = {version}")
        old.execute(f"PRAGMA application_id = {0x4B4C4E47}")
        for statement, values in rows:
            old.execute(statement, values)

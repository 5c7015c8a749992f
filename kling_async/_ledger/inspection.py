"""Reading a ledger that other processes may have open."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from anyio import to_thread

from kling_async._errors import ConfigurationError
from kling_async._ledger.postgres_address import is_address, parse_address
from kling_async._ledger.protocol import Submission
from kling_async._ledger.sqlite_file import connect_read_only, explained, file_version
from kling_async._ledger.sqlite_leases import living_processes
from kling_async._ledger.sqlite_schema import (
    CURRENT,
    JOB_STATUS,
    OLDEST_READABLE,
    UNFINISHED,
    UNSAVED,
    count,
    select_last,
)
from kling_async._models import Status

__all__ = ["LedgerContents", "inspect_ledger"]


@dataclass(frozen=True, slots=True)
class LedgerContents:
    """What a ledger contained when it was read.

    Attributes:
        submissions: The chosen submissions, oldest first.
        total: How many submissions fulfil the conditions, without `last`.
        unfinished: How many submissions of the whole ledger need attention (`Submission.unfinished`).
        processes: The processes that are at work on it: that send submissions, or poll jobs.
    """

    submissions: list[Submission]
    total: int
    unfinished: int
    processes: tuple[int, ...]


async def inspect_ledger(
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    endpoint: str | None = None,
    status: Status | None = None,
    since: datetime | None = None,
    unfinished: bool = False,
    unsaved: bool = False,
    last: int | None = None,
) -> LedgerContents:
    """Read a ledger, also while other processes use it. Nothing is changed.

    A submission whose sender has died is unknown once the sender's lease has expired. Only what is asked for is read,
    so a large ledger takes no longer than a small one to show its last submissions.

    Args:
        path: The ledger's file, or the address of its database (``postgresql://...``).
        key: Only the submission with this key.
        endpoint: Only submissions at this endpoint, such as ``"runblob/o3-video"``, or at this provider.
        status: Only submissions whose job has this status.
        since: Only submissions that were sent at this time or later.
        unfinished: Only submissions that need attention (`Submission.unfinished`).
        unsaved: Only completed jobs with files that were not saved. With `unfinished`: either of the two.
        last: Only the newest ones, that many. Defaults to all.

    Raises:
        ConfigurationError: There is no such file, or it is not a ledger that this version can read.
        LedgerFailed: It cannot be read.
    """
    if is_address(path):
        address = parse_address(path)  # before psycopg is needed: it explains how to get it
        from kling_async._ledger import postgres_inspection  # noqa: PLC0415  # it needs psycopg

        chosen = postgres_inspection.Conditions(
            key=key, endpoint=endpoint, status=status, since=since, unfinished=unfinished, unsaved=unsaved, last=last
        )
        return LedgerContents(*await to_thread.run_sync(partial(postgres_inspection.read, address, chosen)))
    conditions: list[str] = [CURRENT]
    values: list[str | float] = []
    for condition, value in (
        ("s.key = ?", key),
        ("? IN (s.endpoint, substr(s.endpoint, 1, instr(s.endpoint, '/') - 1))", endpoint),
        (f"{JOB_STATUS} = ?", str(status) if status is not None else None),
        ("s.started >= ?", since.timestamp() if since is not None else None),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    if attention := [condition for wanted, condition in ((unfinished, UNFINISHED), (unsaved, UNSAVED)) if wanted]:
        conditions.append(" OR ".join(f"({condition})" for condition in attention))
    condition = " AND ".join(f"({each})" for each in conditions)
    file = Path(path)

    def read() -> LedgerContents:
        if not file.is_file():
            raise ConfigurationError(f"there is no ledger {file}")
        try:
            with closing(connect_read_only(file)) as connection:
                version = file_version(file, connection)
                if not version:
                    return LedgerContents([], 0, 0, ())
                if version < OLDEST_READABLE:
                    raise ConfigurationError(
                        f"the ledger {file} was written by an older version of kling_async; open it once with a client "
                        "(SqliteLedger), which upgrades it"
                    )
                submissions = select_last(connection, condition, values, last)
                total = count(connection, condition, values)
                left = count(connection, UNFINISHED)
                processes = living_processes(connection)
        except sqlite3.Error as error:
            raise explained(file, error) from error
        return LedgerContents(submissions, total, left, tuple(processes))

    return await to_thread.run_sync(read)

"""The statements of owners and leases in the ledger's file. See `leases`, which says what they mean.

The connection writes as the owner in its temporary table ``own``.
"""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from kling_async._errors import LedgerFailed
from kling_async._ledger.group_commit import NOT_YET
from kling_async._ledger.leases import LONGEST_ROW
from kling_async._ledger.protocol import Submission, SubmissionState
from kling_async._ledger.sqlite_schema import HOLDS_SLOT, NOW, OWN, count, select

__all__ = [
    "computer",
    "end_owner",
    "give_back",
    "living_processes",
    "next_call",
    "position",
    "prepare",
    "recorded_since",
    "renew",
    "request_poll",
    "requested_since",
    "settled",
    "take",
    "take_over",
]

_FORGOTTEN = 86_400.0  # s after its end for which an owner stays, for those who look at the file
_REQUESTS = 1_000  # poll requests that are kept. They are read within a moment, or not at all


@cache
def computer() -> str:
    """Which computer this is, the same in all of its containers. Locks of a file hold within one computer."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{uuid.getnode():x}"


@cache
def namespace() -> str:
    """Where the number of this process means something: containers number theirs by themselves."""
    with suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def prepare(connection: sqlite3.Connection, owner: int | None) -> None:
    """Note on a new connection as whom it writes."""
    connection.execute("CREATE TEMP TABLE own (id INTEGER)")
    connection.execute("INSERT INTO temp.own VALUES (?)", (owner,))


def renew(connection: sqlite3.Connection, path: Path, seconds: float) -> tuple[int, bool]:
    """Say that this owner lives for so many seconds more. One whose time is over becomes a new one.

    Returns:
        The owner, and whether others live.

    Raises:
        LedgerFailed: A process of another computer has the file open.
    """
    elsewhere = connection.execute(
        f"SELECT process FROM owners WHERE host != ? AND expires > {NOW} LIMIT 1",  # noqa: S608  # constants
        (computer(),),
    ).fetchone()
    if elsewhere is not None:
        raise LedgerFailed(
            f"the ledger {path} is open in process {elsewhere[0]} of another computer: the locks of a file hold on one "
            'computer only. Nothing is submitted with it; use PostgresLedger("postgresql://...") for several computers'
        )
    renewed = connection.execute(
        f"UPDATE owners SET expires = {NOW} + ? WHERE id = {OWN} AND expires > {NOW}",  # noqa: S608  # constants
        (seconds,),
    )
    if not renewed.rowcount:
        connection.execute(f"DELETE FROM owners WHERE expires < {NOW} - ?", (_FORGOTTEN,))  # noqa: S608  # constants
        connection.execute("DELETE FROM slot_queue WHERE owner NOT IN (SELECT id FROM owners)")
        made = connection.execute(
            f"INSERT INTO owners (process, namespace, host, expires) VALUES (?, ?, ?, {NOW} + ?)",  # noqa: S608  # constants
            (os.getpid(), namespace(), computer(), seconds),
        )
        connection.execute("UPDATE temp.own SET id = ?", (made.lastrowid,))
    owner, living = connection.execute(
        f"SELECT (SELECT id FROM temp.own), count(*) FROM owners WHERE expires > {NOW}"  # noqa: S608  # constants
    ).fetchone()
    return int(owner), living > 1


def end_owner(connection: sqlite3.Connection) -> None:
    """Say that this owner ends now: what it owns is free."""
    connection.execute(f"DELETE FROM slot_queue WHERE owner = {OWN}")  # noqa: S608  # constants
    connection.execute(f"DELETE FROM owners WHERE id = {OWN}")  # noqa: S608  # constants


def living_processes(connection: sqlite3.Connection) -> list[int]:
    """The processes that own something in the file, and live."""
    rows = connection.execute(
        f"SELECT DISTINCT process, namespace FROM owners WHERE expires > {NOW} ORDER BY id",  # noqa: S608  # constants
    )
    return [int(process) for process, numbered in rows if numbered != namespace() or _exists(process)]


def _exists(process: int) -> bool:
    """Whether a process of our namespace exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's, or this is Windows
        return True
    return True


def take(connection: sqlite3.Connection, refs: Sequence[str]) -> list[str]:
    """Take the leases that are free, or of owners that have died. Return those that are ours now.

    A job that the ledger does not have needs no lease.
    """
    _mark_gone(connection)
    wanted = json.dumps(list(refs))
    connection.execute(
        f"""UPDATE attempts SET poller = {OWN} WHERE ref IN (SELECT value FROM json_each(?))
            AND (poller IS NULL OR NOT {_polls("attempts.poller")})""",  # noqa: S608  # constants
        (wanted,),
    )
    rows = connection.execute(
        f"SELECT ref FROM attempts WHERE ref IN (SELECT value FROM json_each(?)) AND poller != {OWN}",  # noqa: S608  # constants
        (wanted,),
    )
    others = {ref for (ref,) in rows}
    return [ref for ref in refs if ref not in others]


def _polls(owner: str) -> str:
    """The condition that an owner polls the jobs that it has."""
    return f"EXISTS (SELECT 1 FROM owners WHERE id = {owner} AND expires > {NOW} AND NOT gone)"  # noqa: S608  # constants


def _mark_gone(connection: sqlite3.Connection) -> None:
    """Note which owners poll no more although their leases have not expired, because their processes are gone.

    Two who poll one job would do no harm. So the system's word is enough here. It is not enough to say that a
    submission is not being sent any more.
    """
    rows = connection.execute(
        f"SELECT id, process FROM owners WHERE expires > {NOW} AND namespace = ? AND NOT gone AND id IS NOT {OWN}",  # noqa: S608  # constants
        (namespace(),),
    )
    gone = [(owner,) for owner, process in rows.fetchall() if not _exists(process)]
    connection.executemany("UPDATE owners SET gone = 1 WHERE id = ?", gone)


def give_back(connection: sqlite3.Connection, refs: Sequence[str]) -> None:
    """Let others poll these jobs."""
    connection.execute(
        f"UPDATE attempts SET poller = NULL WHERE ref IN (SELECT value FROM json_each(?)) AND poller = {OWN}",  # noqa: S608  # constants
        (json.dumps(list(refs)),),
    )


def settled(connection: sqlite3.Connection, attempt_ids: Sequence[str]) -> Sequence[Any]:
    """The attempts, or `NOT_YET` for those that are being sent. See `SharedLedger.settled`."""
    found = select(
        connection, "s.attempt_id IN (SELECT value FROM json_each(?))", json.dumps(list(dict.fromkeys(attempt_ids)))
    )
    known = {submission.attempt_id: submission for submission in found}
    return [
        NOT_YET if (one := known.get(each)) is not None and one.state is SubmissionState.SENDING else one
        for each in attempt_ids
    ]


def request_poll(connection: sqlite3.Connection, rows: Sequence[tuple[str, str | None]]) -> Sequence[None]:
    """Ask for polls of jobs. See `SharedLedger.request_poll`."""
    connection.executemany(f"INSERT INTO poll_requests (ref, writer, report) VALUES (?, {OWN}, ?)", rows)  # noqa: S608  # constants
    connection.execute(
        "DELETE FROM poll_requests WHERE number <= (SELECT max(number) FROM poll_requests) - ?", (_REQUESTS,)
    )
    return [None] * len(rows)


def position(connection: sqlite3.Connection) -> tuple[int, int]:
    """The last event and the last poll request that are recorded."""
    found: tuple[int, int] = connection.execute(
        "SELECT (SELECT coalesce(max(rowid), 0) FROM events), (SELECT coalesce(max(number), 0) FROM poll_requests)"
    ).fetchone()
    return found


def recorded_since(connection: sqlite3.Connection, event: int) -> list[tuple[str, str]]:
    """What others have recorded after that event: references and events as JSON, in order."""
    return connection.execute(
        f"SELECT ref, event FROM events WHERE rowid > ? AND writer IS NOT {OWN} ORDER BY rowid",  # noqa: S608  # constants
        (event,),
    ).fetchall()


def requested_since(connection: sqlite3.Connection, request: int) -> list[tuple[str, str | None]]:
    """The polls that others have asked for after that request: references and reports as JSON."""
    return connection.execute(
        f"SELECT ref, report FROM poll_requests WHERE number > ? AND writer != {OWN} ORDER BY number",  # noqa: S608  # constants
        (request,),
    ).fetchall()


def take_over(
    connection: sqlite3.Connection, works: Sequence[tuple[int, float, Sequence[str], str | None]]
) -> Sequence[list[Submission]]:
    """Take the leases of running jobs that no living owner has. See `SharedLedger.take_over`.

    Args:
        connection: Where they are.
        works: How many at most, since when they were submitted (POSIX seconds), and the jobs that are passed
            over, and their account (None: any).
    """
    return [_take_over(connection, *work) for work in works]


def _take_over(
    connection: sqlite3.Connection, limit: int, since: float, without: Sequence[str], account: str | None
) -> list[Submission]:
    free = f"""{HOLDS_SLOT} AND s.state = 'accepted' AND s.started >= ?
        AND (s.poller IS NULL OR NOT {_polls("s.poller")})
        AND s.ref NOT IN (SELECT value FROM json_each(?)){"" if account is None else " AND s.account IN (?, ?)"}"""  # noqa: S608  # constants
    _mark_gone(connection)
    values = (since, json.dumps(list(without)), *(() if account is None else (account, account.partition(" ")[0])))
    living = connection.execute(f"SELECT count(*) FROM owners WHERE expires > {NOW}").fetchone()[0]  # noqa: S608  # constants
    share = -(-count(connection, free, values) // max(living, 1))
    chosen = f"SELECT number FROM attempts s WHERE {free} ORDER BY number LIMIT ?"  # noqa: S608  # constants
    numbers = [number for (number,) in connection.execute(chosen, (*values, min(limit, share)))]
    found = select(connection, "s.number IN (SELECT value FROM json_each(?))", json.dumps(numbers))
    take(connection, [str(submission.ref) for submission in found])
    return found


def next_call(connection: sqlite3.Connection, rows: Sequence[tuple[str, float]]) -> Sequence[float]:
    """Take places in the rows of accounts' calls: seconds until each call. See `SharedLedger.next_call`."""
    waits = []
    for account, interval in rows:
        [now] = connection.execute(f"SELECT {NOW}").fetchone()
        stored = connection.execute("SELECT next FROM calls WHERE account = ?", (account,)).fetchone()
        free = stored[0] if stored else now
        at = now if free > now + LONGEST_ROW else max(now, free)
        connection.execute("INSERT OR REPLACE INTO calls VALUES (?, ?)", (account, at + interval))
        waits.append(at - now)
    return waits

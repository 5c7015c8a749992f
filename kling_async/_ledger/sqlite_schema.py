"""What the ledger's file is told and asked: its tables, its statements, and its rows as submissions and events.

All operations of one kind in a group are one SQL statement over a JSON array. `sqlite3` lets go of the interpreter's
lock around each step of a statement, and under a busy event loop it takes milliseconds to get it back: a statement for
each write would be as slow as a commit for each write.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kling_async._errors import LedgerFailed
from kling_async._ledger.protocol import Submission, SubmissionState
from kling_async._ledger.serialization import event_from_json, event_to_json
from kling_async._models import Event, JobRef

__all__ = [
    "ALL",
    "MIGRATIONS",
    "UNFINISHED",
    "Kind",
    "append_events",
    "claim",
    "each",
    "events",
    "get_value",
    "page",
    "record_file",
    "record_outcome",
    "select",
    "set_value",
]

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE submissions (
            key TEXT PRIMARY KEY, purchase TEXT NOT NULL UNIQUE, endpoint TEXT NOT NULL, request TEXT NOT NULL,
            fingerprint TEXT NOT NULL, started REAL NOT NULL, state TEXT NOT NULL, ref TEXT, reason TEXT)""",
        "CREATE INDEX submissions_by_ref ON submissions (ref) WHERE ref IS NOT NULL",
        """CREATE TABLE events (
            ref TEXT NOT NULL, seq INTEGER NOT NULL, terminal INTEGER NOT NULL, event BLOB NOT NULL,
            PRIMARY KEY (ref, seq))""",
        """CREATE TABLE files (
            ref TEXT NOT NULL, position INTEGER NOT NULL, path TEXT NOT NULL, PRIMARY KEY (ref, position))""",
        "CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    ),
)
"""One entry a version of the file; ``user_version`` counts those that have been applied."""

_COLUMNS = """s.key, s.purchase, s.endpoint, s.request, s.fingerprint, s.started, s.state, s.ref, s.reason,
    (SELECT event FROM events WHERE ref = s.ref ORDER BY seq DESC LIMIT 1),
    (SELECT json_group_array(path) FROM (SELECT path FROM files WHERE ref = s.ref ORDER BY position))"""
ALL = "1"
"""The condition of every submission."""
UNFINISHED = """s.state IN ('sending', 'unknown') OR (s.state = 'accepted' AND NOT EXISTS
    (SELECT 1 FROM events WHERE ref = s.ref AND terminal))"""
"""The condition of those that need attention, as of `Submission.unfinished`."""

Kind = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
"""What is done for all operations of a kind at once: takes their arguments, gives their results."""


def claim(connection: sqlite3.Connection, submissions: Sequence[Submission]) -> Sequence[Submission]:
    """Claim keys: for each submission, what the ledger now has under its key. See `Ledger.priority`."""
    rows = [
        (s.key, s.attempt_id, s.endpoint, json.dumps(s.request), s.fingerprint, s.started.timestamp(), s.state)
        for s in submissions
    ]
    connection.execute(
        f"""INSERT INTO submissions SELECT {_fields(7)}, NULL, NULL FROM json_each(?) WHERE 1
            ON CONFLICT (key) DO UPDATE SET (purchase, endpoint, request, fingerprint, started, state, ref, reason) =
            (excluded.purchase, excluded.endpoint, excluded.request, excluded.fingerprint, excluded.started,
            excluded.state, NULL, NULL) WHERE submissions.state IN ('not-submitted', 'refused')""",  # noqa: S608  # constants
        (json.dumps(rows),),
    )
    taken = select(
        connection,
        "s.purchase != json_extract(value, '$[1]')",
        json.dumps([(s.key, s.attempt_id) for s in submissions]),
        source="json_each(?) CROSS JOIN submissions s ON s.key = json_extract(value, '$[0]')",
    )
    held = {submission.key: submission for submission in taken}
    return [held.get(s.key, s) for s in submissions]


def record_outcome(connection: sqlite3.Connection, submissions: Sequence[Submission]) -> Sequence[None]:
    """Write down what became of submissions. See `Ledger.record_outcome`."""
    # By purchase, too: a claim that is not the key's any more must not push out the word about the one that is.
    last = {
        (s.key, s.attempt_id): (s.key, s.attempt_id, s.state, str(s.ref) if s.ref else None, s.reason)
        for s in submissions
    }
    connection.execute(
        f"""UPDATE submissions SET state = new.c2, ref = new.c3, reason = new.c4
            FROM (SELECT {_fields(5, named=True)} FROM json_each(?)) AS new
            WHERE submissions.key = new.c0 AND submissions.purchase = new.c1""",  # noqa: S608  # constants
        (json.dumps(list(last.values())),),
    )
    return [None] * len(submissions)


def append_events(connection: sqlite3.Connection, entries: Sequence[tuple[JobRef, Sequence[Event]]]) -> Sequence[None]:
    """Append to the logs of jobs. See `Ledger.append_events`."""
    rows = [(str(ref), e.seq, e.status.terminal, event_to_json(e)) for ref, events in entries for e in events]
    statement = f"INSERT OR IGNORE INTO events SELECT {_fields(4)} FROM json_each(?)"  # noqa: S608  # constants
    connection.execute(statement, (json.dumps(rows),))
    return [None] * len(entries)


def record_file(connection: sqlite3.Connection, rows: Sequence[tuple[str, int, str]]) -> Sequence[None]:
    """Write down where files of jobs were saved. See `Ledger.record_file`."""
    connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
    return [None] * len(rows)


def set_value(connection: sqlite3.Connection, rows: Sequence[tuple[str, str]]) -> Sequence[None]:
    """Keep values under their names. See `Ledger.set_value`."""
    connection.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", rows)
    return [None] * len(rows)


def each(connection: sqlite3.Connection, works: Sequence[Callable[[sqlite3.Connection], Any]]) -> Sequence[Any]:
    """Do work of any kind, one after the other."""
    return [work(connection) for work in works]


def _fields(count: int, *, named: bool = False) -> str:
    """The columns of a JSON array of rows."""
    return ", ".join(f"json_extract(value, '$[{i}]')" + (f" AS c{i}" if named else "") for i in range(count))


def select(
    connection: sqlite3.Connection, condition: str, *values: str | int, source: str = "submissions s"
) -> list[Submission]:
    """Submissions in the order of their start.

    Args:
        connection: Where they are.
        condition: Which ones; an expression of ours.
        *values: What its question marks stand for.
        source: Tables to choose from; ours.
    """
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM {source} WHERE {condition} ORDER BY s.started, s.rowid",  # noqa: S608  # constants
        values,
    )
    return [_submission(*row) for row in rows]


def page(connection: sqlite3.Connection, condition: str, after: int, size: int) -> tuple[list[Submission], int | None]:
    """Those among the next submissions for which a condition holds.

    Args:
        connection: Where they are.
        condition: Which ones; an expression of ours.
        after: The row number at which the page before ended; 0: there is none before.
        size: How many submissions are looked at.

    Returns:
        The submissions, and the row number at which the page ends; None: there are no further ones. A submission keeps
        its number and none is deleted, so pages leave none out and give none twice, whatever is written between them.
    """
    looked_at = "SELECT rowid FROM submissions WHERE rowid > ? ORDER BY rowid LIMIT ?"
    count, last = connection.execute(
        f"SELECT count(*), max(rowid) FROM ({looked_at})",  # noqa: S608  # constants
        (after, size),
    ).fetchone()
    found = select(connection, f"s.rowid > ? AND s.rowid <= ? AND ({condition})", after, last) if count else []
    return found, last if count == size else None


def events(connection: sqlite3.Connection, ref: JobRef) -> list[Event]:
    """A job's log."""
    rows = connection.execute("SELECT event FROM events WHERE ref = ? ORDER BY seq", (str(ref),))
    return [event_from_json(event) for (event,) in rows]


def get_value(connection: sqlite3.Connection, name: str) -> Any:
    """The value that is kept under a name; None: there is none."""
    row = connection.execute("SELECT value FROM kept WHERE name = ?", (name,)).fetchone()
    return json.loads(row[0]) if row else None


def _submission(key: str, attempt_id: str, endpoint: str, request: str, fingerprint: str, *rest: Any) -> Submission:
    started, state, ref, reason, latest, files = rest
    try:
        return Submission(
            key=key,
            endpoint=endpoint,
            request=json.loads(request),
            fingerprint=fingerprint,
            attempt_id=attempt_id,
            started=datetime.fromtimestamp(started, UTC),
            state=SubmissionState(state),
            ref=JobRef.parse(ref) if ref else None,
            reason=reason,
            latest=event_from_json(latest) if latest else None,
            files=tuple(Path(path) for path in json.loads(files)),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerFailed(
            f"the ledger's record of {key!r:.200} cannot be read ({error}): the file is damaged, or was changed by "
            "something else. Restore it from a copy, or use another one"
        ) from error

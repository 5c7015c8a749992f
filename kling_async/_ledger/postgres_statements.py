"""What a ledger in PostgreSQL writes and reads.

All operations of one kind in a group are a few statements over arrays. A kind that writes sends its statements and
returns a function for the results: the statements of all kinds go to the server together, with the commit, in one round
trip (pipeline mode), and the results are read after it. Rows are written in the order of their keys, so that two
processes that claim the same keys wait for each other instead of locking each other out.

The time is the server's (``clock_timestamp()``), so that the clocks of the computers are never compared.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Any, TypeAlias

import psycopg

from kling_async._ledger.postgres_connection import Connection
from kling_async._ledger.postgres_schema import written
from kling_async._ledger.protocol import SpendingGroup, Submission
from kling_async._ledger.rows import answer_to_json, log_from_rows, spending_group_from_row, submission_from_row
from kling_async._ledger.serialization import comparable_fields, event_to_json
from kling_async._models import Event, JobRef

__all__ = [
    "CURRENT",
    "NOW",
    "UNFINISHED",
    "UNSAVED",
    "Finish",
    "Session",
    "append_events",
    "claim",
    "conflicting",
    "count",
    "each",
    "events",
    "find",
    "get_value",
    "last_event",
    "lives",
    "record_file",
    "record_outcome",
    "release",
    "select",
    "set_value",
    "spending",
]

logger = logging.getLogger("kling_async")

Finish: TypeAlias = Callable[[], Sequence[Any]]
"""Gives the results of a kind that writes, after the commit."""

NOW = "clock_timestamp()"
_SENDER_DIED = "the process ended while it was being sent"


def lives(owner: str) -> str:
    """The condition that an owner lives."""
    return f"EXISTS (SELECT 1 FROM {{s}}.owners o WHERE o.id = {owner} AND o.expires > {NOW})"  # noqa: S608  # constants


def last_event(column: str) -> str:
    """A column of the last event of an attempt's job."""
    return f"(SELECT e.{column} FROM {{s}}.events e WHERE e.ref = s.ref ORDER BY e.seq DESC LIMIT 1)"  # noqa: S608  # constants


_REUSABLE = "(s.state IN ('not-submitted', 'refused') OR s.released IS NOT NULL)"
CURRENT = "s.current"
"""The condition of the current attempts."""
UNFINISHED = "s.current AND NOT s.ended AND s.released IS NULL AND s.state NOT IN ('not-submitted', 'refused')"
"""The condition of the attempts that need attention, same as `Submission.unfinished`."""
UNSAVED = f"""s.current AND s.ended AND {last_event("status")} = 'completed'
    AND {last_event("artifacts")} > (SELECT count(*) FROM {{s}}.files f WHERE f.ref = s.ref)"""  # noqa: S608  # constants
"""The condition of the attempts whose job is completed and has files that were not saved."""
_ABANDONED = f"(s.state = 'sending' AND NOT {lives('s.sender')})"
_COLUMNS = f"""s.key, s.attempt_id, s.endpoint, s.request, s.fingerprint, s.started,
    CASE WHEN {_ABANDONED} THEN 'unknown' ELSE s.state END, s.ref,
    coalesce(s.reason, CASE WHEN {_ABANDONED} THEN '{_SENDER_DIED}' END), s.answer, s.released, s.tags,
    {last_event("event")},
    coalesce((SELECT json_agg(f.path ORDER BY f.position) FROM {{s}}.files f WHERE f.ref = s.ref), '[]')::text"""  # noqa: S608  # constants


class Session:
    """A connection, and as whom it writes.

    Args:
        connection: The connection.
        schema: Where the tables are.
        owner: Our number among the owners. None until something is written.
    """

    def __init__(self, connection: Connection, schema: str, owner: int | None = None) -> None:
        self.connection = connection
        self.schema = schema
        self.owner = owner
        self.channel = f"kling_ledger {schema}"[:63]

    def execute(self, statement: str, values: Sequence[Any] = ()) -> psycopg.Cursor[tuple[Any, ...]]:
        """Send a statement, with the schema in place of ``{s}``."""
        return self.connection.execute(written(statement, self.schema), values)

    def notify(self, kind: str, names: Sequence[str] = ()) -> None:
        """Wake other processes after the commit. The server takes 8000 bytes at once."""
        message = kind
        for name in sorted(set(names)):
            if len(message.encode()) + len(name.encode()) > _LONGEST_MESSAGE:
                self.execute("SELECT pg_notify(%s, %s)", (self.channel, message))
                message = kind
            message += f"\n{name}"
        self.execute("SELECT pg_notify(%s, %s)", (self.channel, message))


_LONGEST_MESSAGE = 7000


def claim(session: Session, submissions: Sequence[Submission]) -> Finish:
    """Claim keys: for each submission, the current attempt of its key. See `Ledger.claim`."""
    ordered = sorted(submissions, key=attrgetter("key"))
    session.execute(
        f"""UPDATE {{s}}.attempts a SET current = false FROM (
                SELECT s.number FROM {{s}}.attempts s WHERE s.current AND s.key = ANY(%s) AND {_REUSABLE}
                ORDER BY s.key FOR UPDATE) free
            WHERE a.number = free.number""",  # noqa: S608  # constants
        ([s.key for s in ordered],),
    )
    session.execute(
        """INSERT INTO {s}.attempts (
                key, attempt_id, endpoint, request, comparable, fingerprint, started, state, tags, sender)
            SELECT *, %s::bigint FROM unnest(
                %s::text[], %s::text[], %s::text[], %s::text[], %s::jsonb[], %s::text[], %s::float8[], %s::text[],
                %s::text[])
            ON CONFLICT (key) WHERE current DO NOTHING""",
        (
            session.owner,
            [s.key for s in ordered],
            [s.attempt_id for s in ordered],
            [s.endpoint for s in ordered],
            [json.dumps(s.request) for s in ordered],
            [_comparable(s) for s in ordered],
            [s.fingerprint for s in ordered],
            [s.started.timestamp() for s in ordered],
            [str(s.state) for s in ordered],
            [json.dumps(dict(s.tags)) if s.tags else None for s in ordered],
        ),
    )
    others = session.execute(
        f"""SELECT {_COLUMNS} FROM unnest(%s::text[], %s::text[]) AS w (key, attempt_id)
            JOIN {{s}}.attempts s ON s.key = w.key AND s.current AND s.attempt_id <> w.attempt_id""",  # noqa: S608  # constants
        ([s.key for s in ordered], [s.attempt_id for s in ordered]),
    )

    def finish() -> Sequence[Submission]:
        current = {row[0]: submission_from_row(*row) for row in others}
        return [current.get(s.key, s) for s in submissions]

    return finish


def _comparable(submission: Submission) -> str:
    """What `spending` groups by. PostgreSQL has no text with a NUL in it."""
    return json.dumps(comparable_fields(submission.request)).replace("\\u0000", "")


def record_outcome(session: Session, submissions: Sequence[Submission]) -> Finish:
    """Store outcomes of attempts. See `Ledger.record_outcome`.

    Its results are the references of those jobs whose lease is ours by that.
    """
    last = sorted({s.attempt_id: s for s in submissions}.values(), key=attrgetter("attempt_id"))
    rows = session.execute(
        """UPDATE {s}.attempts a SET state = n.state, ref = n.ref, reason = n.reason, answer = n.answer,
                poller = coalesce(a.poller, CASE WHEN n.ref IS NOT NULL THEN %s::bigint END)
            FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
                AS n (attempt_id, state, ref, reason, answer)
            WHERE a.attempt_id = n.attempt_id AND (n.ref IS NOT NULL OR a.state <> 'accepted')
            RETURNING a.ref, a.poller""",
        (
            session.owner,
            [s.attempt_id for s in last],
            [str(s.state) for s in last],
            [str(s.ref) if s.ref else None for s in last],
            [_text(s.reason) for s in last],
            [answer_to_json(s.answer) for s in last],
        ),
    )
    session.execute(  # events of a webhook that was earlier
        """UPDATE {s}.attempts SET ended = true WHERE ref = ANY(%s) AND NOT ended
            AND EXISTS (SELECT 1 FROM {s}.events e WHERE e.ref = attempts.ref AND e.terminal)""",
        ([str(s.ref) for s in last if s.ref],),
    )
    session.notify("outcome")

    def finish() -> Sequence[str | None]:
        leased = {ref for ref, poller in rows if poller == session.owner}
        return [str(s.ref) if str(s.ref) in leased else None for s in submissions]

    return finish


def release(session: Session, rows: Sequence[tuple[str, str, str]]) -> Finish:
    """Free keys. See `Ledger.release`."""
    for key, attempt_id, reason in rows:
        session.execute(
            "UPDATE {s}.attempts SET released = %s WHERE key = %s AND attempt_id = %s AND current",
            (_text(reason), key, attempt_id),
        )
    return lambda: [None] * len(rows)


def append_events(session: Session, entries: Sequence[tuple[JobRef, Sequence[Event]]]) -> Finish:
    """Append to the logs of jobs. See `Ledger.append_events`.

    Its results are those logs that have other events under these numbers: see `conflicting`.
    """
    listed = [(str(ref), event, event_to_json(event)) for ref, log in entries for event in log]
    ordered = sorted({(ref, event.seq): (ref, event, text) for ref, event, text in reversed(listed)}.items())
    rows = [row for _, row in ordered]
    inserted = session.execute(
        """INSERT INTO {s}.events (ref, seq, terminal, status, amount, unit, artifacts, event, writer)
            SELECT *, %s::bigint FROM unnest(
                %s::text[], %s::int[], %s::bool[], %s::text[], %s::text[], %s::text[], %s::int[], %s::text[])
            ON CONFLICT DO NOTHING RETURNING 1""",
        (
            session.owner,
            [ref for ref, _, _ in rows],
            [event.seq for _, event, _ in rows],
            [event.status.terminal for _, event, _ in rows],
            [str(event.status) for _, event, _ in rows],
            [str(event.cost.amount) if event.cost else None for _, event, _ in rows],
            [event.cost.unit if event.cost else None for _, event, _ in rows],
            [len(event.artifacts) for _, event, _ in rows],
            [text for _, _, text in rows],
        ),
    )
    if ends := sorted({ref for ref, event, _ in rows if event.status.terminal}):
        session.execute("UPDATE {s}.attempts SET ended = true WHERE ref = ANY(%s) AND NOT ended", (ends,))
    if rows:
        session.notify("events", [ref for ref, _, _ in rows])

    def finish() -> Sequence[Sequence[Event]]:
        if inserted.rowcount == len(listed):
            return [()] * len(entries)
        return [conflicting(session, ref, log) for ref, log in entries]

    return finish


def conflicting(session: Session, ref: JobRef, log: Sequence[Event]) -> Sequence[Event]:
    """The recorded log from the first of these events on, if it has others under their numbers."""
    stored = events(session, ref, log[0].seq) if log else []
    theirs = {event.seq: event_to_json(event) for event in stored}
    return stored if any(theirs.get(event.seq) != event_to_json(event) for event in log) else ()


def record_file(session: Session, rows: Sequence[tuple[str, int, str]]) -> Finish:
    """Store where files of jobs were saved. See `Ledger.record_file`."""
    for row in rows:
        session.execute(
            """INSERT INTO {s}.files VALUES (%s, %s, %s)
                ON CONFLICT (ref, position) DO UPDATE SET path = excluded.path""",
            row,
        )
    return lambda: [None] * len(rows)


def set_value(session: Session, rows: Sequence[tuple[str, str]]) -> Finish:
    """Store values under their names. See `Ledger.set_value`."""
    for row in rows:
        session.execute(
            """INSERT INTO {s}.stored_values VALUES (%s, %s)
                ON CONFLICT (name) DO UPDATE SET value = excluded.value""",
            row,
        )
    return lambda: [None] * len(rows)


def each(session: Session, works: Sequence[Callable[[Session], Any]]) -> Finish:
    """Read anything, one after the other."""
    return lambda: [work(session) for work in works]


def select(
    session: Session, condition: str, values: Sequence[Any] = (), *, last: int | None = None
) -> list[Submission]:
    """Submissions in the order of their start.

    Args:
        session: Where they are.
        condition: Which ones, an expression of ours.
        values: What its placeholders stand for.
        last: Only the newest ones, that many. If None, all.
    """
    rows = session.execute(
        f"""SELECT {_COLUMNS} FROM {{s}}.attempts s WHERE {condition}
            ORDER BY s.started DESC, s.number DESC LIMIT %s""",  # noqa: S608  # constants
        (*values, last),
    ).fetchall()
    return [submission_from_row(*row) for row in reversed(rows)]


def count(session: Session, condition: str, values: Sequence[Any] = ()) -> int:
    """For how many attempts a condition holds."""
    row = session.execute(f"SELECT count(*) FROM {{s}}.attempts s WHERE {condition}", values).fetchone()  # noqa: S608  # constants
    return int(row[0]) if row else 0


def find(
    session: Session, *, key: str | None = None, attempt_id: str | None = None, ref: JobRef | None = None
) -> Submission | None:
    """The attempt with that key, id or job. See `Ledger.find`."""
    if key is not None:
        condition, value = "s.current AND s.key = %s", key
    elif attempt_id is not None:
        condition, value = "s.attempt_id = %s", attempt_id
    else:
        condition, value = "s.ref = %s", str(ref)
    found = select(session, condition, (value,), last=1)
    return found[-1] if found else None


def attempts(session: Session, key: str) -> list[Submission]:
    """All attempts with a key, oldest first. See `Ledger.attempts`."""
    rows = session.execute(
        f"SELECT {_COLUMNS} FROM {{s}}.attempts s WHERE s.key = %s ORDER BY s.number",  # noqa: S608  # constants
        (key,),
    )
    return [submission_from_row(*row) for row in rows]


def spending(session: Session, ignored_fields: Collection[str]) -> list[SpendingGroup]:
    """Groups of attempts that bought something, or may have. See `Ledger.spending`."""
    rows = session.execute(
        f"""SELECT g.endpoint, (SELECT request FROM {{s}}.attempts WHERE number = g.first), g.status, g.amount, g.unit,
                g.has_job, g.count
            FROM (SELECT s.endpoint, min(s.number) AS first, s.comparable - %s::text[] AS comparable,
                    e.status, e.amount, e.unit, s.ref IS NOT NULL AS has_job, count(*) AS count
                FROM {{s}}.attempts s LEFT JOIN LATERAL (
                    SELECT status, amount, unit FROM {{s}}.events e WHERE e.ref = s.ref ORDER BY e.seq DESC LIMIT 1
                ) e ON true
                WHERE s.state NOT IN ('not-submitted', 'refused') AND NOT ({UNFINISHED})
                GROUP BY s.endpoint, 3, e.status, e.amount, e.unit, has_job) g
            ORDER BY g.first""",  # noqa: S608  # constants
        (list(ignored_fields),),
    )
    return [
        spending_group_from_row(endpoint, request, status, amount, unit, has_job=has_job, count=count)
        for endpoint, request, status, amount, unit, has_job, count in rows
    ]


def events(session: Session, ref: JobRef, first: int = 0) -> list[Event]:
    """A job's log, from that number on."""
    rows = session.execute("SELECT event FROM {s}.events WHERE ref = %s AND seq >= %s ORDER BY seq", (str(ref), first))
    return log_from_rows(rows, ref, first)


def get_value(session: Session, name: str) -> Any:
    """The value stored under a name. None if there is none."""
    row = session.execute("SELECT value FROM {s}.stored_values WHERE name = %s", (name,)).fetchone()
    return json.loads(row[0]) if row else None


def _text(text: str | None) -> str | None:
    """A text from outside. PostgreSQL has none with a NUL in it."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if text is not None else None

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
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from operator import attrgetter, itemgetter
from typing import Any, TypeAlias

import psycopg

from kling_async._ledger.charges import Claim, account_of, all_fit, exceeds, limited, slots_of
from kling_async._ledger.group_commit import NOT_YET
from kling_async._ledger.leases import Recorded
from kling_async._ledger.postgres_connection import Connection
from kling_async._ledger.postgres_schema import written
from kling_async._ledger.protocol import Balance, Charge, NoSlot, Slot, SpendingGroup, Submission, UncountedAttempts
from kling_async._ledger.rows import (
    answer_to_json,
    log_from_rows,
    request_of,
    spending_group_from_row,
    submission_from_row,
)
from kling_async._ledger.serialization import comparable_fields, event_to_json, storable_text
from kling_async._models import Event, JobRef, Status

__all__ = [
    "CURRENT",
    "NOW",
    "UNFINISHED",
    "UNSAVED",
    "Finish",
    "Session",
    "accounts_of",
    "append_events",
    "balances",
    "claim",
    "conflicting",
    "count",
    "count_attempts",
    "each",
    "events",
    "find",
    "fold_balances",
    "get_value",
    "last_event",
    "leave_queue",
    "lives",
    "lock_limits",
    "read_balances",
    "record_file",
    "record_outcome",
    "release",
    "select",
    "set_value",
    "slot_free",
    "spending",
    "uncounted",
    "update_value",
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
        ahead: Seconds by which this computer's clock is ahead of the server's, if that is much.
    """

    def __init__(self, connection: Connection, schema: str, owner: int | None = None, ahead: float = 0.0) -> None:
        self.connection = connection
        self.schema = schema
        self.owner = owner
        self.ahead = ahead
        self.channel = f"kling_ledger {schema}"[:63]

    def execute(self, statement: str, values: Sequence[Any] = ()) -> psycopg.Cursor[tuple[Any, ...]]:
        """Send a statement, with the schema in place of ``{s}``."""
        return self.connection.execute(written(statement, self.schema), values)

    def submission(self, row: Sequence[Any]) -> Submission:
        """The submission in a row, with the time of its start by this computer's clock."""
        found = submission_from_row(*row)
        return replace(found, started=found.started + timedelta(seconds=self.ahead)) if self.ahead else found

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


def lock_limits(session: Session, claims: Sequence[Claim]) -> None:
    """Let claims with a limit wait for those of other processes. To be sent first in a transaction."""
    if limited(claims):
        session.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_BUDGET_LOCK, session.schema))
    for account in slots_of(claims):  # in order, so that no two processes wait for each other
        session.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_SLOT_LOCK, f"{session.schema} {account}"))


def claim(session: Session, claims: Sequence[Claim]) -> Finish:
    """Claim keys: for each, the current attempt, or why it does not fit. See `SharedLedger.claim`."""
    fit = not limited(claims) or all_fit(claims, balances(session))
    if fit and all(_all_free(session, account, *counts) for account, counts in slots_of(claims).items()):
        return _claim(session, claims)
    found = [_claim_one(session, one) for one in claims]
    return lambda: found


def _claim_one(session: Session, one: Claim) -> Submission | Balance | NoSlot:
    """Claim a key where little is left of a limit."""
    current = select(session, "s.current AND s.key = %s", (one.submission.key,))
    if not current or current[0].key_reusable:
        if one.charge is not None and one.charge.limit is not None:
            sums = balances(session, pending=True)
            if exceeds(one.charge, sums):
                return sums.get(one.charge.expected.unit, Balance())
        if one.slot is not None and one.slot.limit is not None:
            running, ahead = _usage(session, one.slot.account, one.submission.attempt_id)
            if running + ahead >= one.slot.limit:
                return _no_slot(session, one.submission, one.slot, running, ahead)
    if one.slot is not None and one.slot.limit is not None:
        leave_queue(session, [one.submission.attempt_id])
    [claimed] = _claim(session, [one])()
    return claimed


def _all_free(session: Session, account: str, taken: int, limit: int) -> bool:
    """Whether an account has so many free slots, and nobody waits for them."""
    running, ahead = _usage(session, account)
    return not ahead and running + taken <= limit


def _usage(session: Session, account: str, attempt_id: str = "") -> tuple[int, int]:
    """How many attempts hold a slot of an account, and how many wait for one before this attempt."""
    row = session.execute(
        f"""SELECT (SELECT count(*) FROM {{s}}.attempts s WHERE s.account = ANY(%s) AND {UNFINISHED}),
            (SELECT count(*) FROM {{s}}.slot_queue q WHERE q.account = %s AND q.attempt_id <> %s AND {lives("q.owner")}
                AND (q.number < (SELECT number FROM {{s}}.slot_queue WHERE attempt_id = %s)) IS NOT FALSE)""",  # noqa: S608  # constants
        (accounts_of(account), account, attempt_id, attempt_id),
    ).fetchone()
    return (row[0], row[1]) if row is not None else (0, 0)


def accounts_of(account: str) -> list[str]:
    """The account, and what attempts have of which only the provider is known."""
    return [account, account.partition(" ")[0]]


def _no_slot(session: Session, submission: Submission, slot: Slot, running: int, ahead: int) -> NoSlot:
    """Give an attempt a place in the queue. Return what holds the slots."""
    if slot.queued:
        session.execute(
            """INSERT INTO {s}.slot_queue (account, attempt_id, owner) VALUES (%s, %s, %s)
                ON CONFLICT (attempt_id) DO UPDATE SET owner = excluded.owner""",
            (slot.account, submission.attempt_id, session.owner),
        )
    unknown = session.execute(
        f"""SELECT s.key FROM {{s}}.attempts s WHERE s.account = ANY(%s) AND {UNFINISHED}
            AND (s.state = 'unknown' OR {_ABANDONED}) ORDER BY s.number""",  # noqa: S608  # constants
        (accounts_of(slot.account),),
    )
    return NoSlot(running, ahead, [key for (key,) in unknown])


def slot_free(session: Session, rows: Sequence[tuple[str, Slot]]) -> Finish:
    """None for the attempts whose turn it is, `NOT_YET` for the others. See `SharedLedger.slot_free`."""
    return lambda: [
        NOT_YET if slot.limit is not None and sum(_usage(session, slot.account, attempt_id)) >= slot.limit else None
        for attempt_id, slot in rows
    ]


def leave_queue(session: Session, attempt_ids: Sequence[str]) -> Finish:
    """Give up places in queues. See `SharedLedger.leave_queue`."""
    session.execute("DELETE FROM {s}.slot_queue WHERE attempt_id = ANY(%s)", (list(attempt_ids),))
    session.notify("outcome")
    return lambda: [None] * len(attempt_ids)


def _claim(session: Session, claims: Sequence[Claim]) -> Callable[[], Sequence[Submission]]:
    in_order = sorted(claims, key=lambda one: one.submission.key)
    ordered = [one.submission for one in in_order]
    session.execute(
        f"""UPDATE {{s}}.attempts a SET current = false FROM (
                SELECT s.number FROM {{s}}.attempts s WHERE s.current AND s.key = ANY(%s) AND {_REUSABLE}
                ORDER BY s.key FOR UPDATE) free
            WHERE a.number = free.number""",  # noqa: S608  # constants
        ([s.key for s in ordered],),
    )
    session.execute(
        """INSERT INTO {s}.attempts (
                key, attempt_id, endpoint, request, comparable, fingerprint, started, state, tags,
                unit, expected, price, refunds, guessed, account, sender)
            SELECT *, %s::bigint FROM unnest(
                %s::text[], %s::text[], %s::text[], %s::text[], %s::jsonb[], %s::text[], %s::float8[], %s::text[],
                %s::text[], %s::text[], %s::numeric[], %s::numeric[], %s::bool[], %s::bool[], %s::text[])
            ON CONFLICT (key) WHERE current DO NOTHING""",
        (
            session.owner,
            [s.key for s in ordered],
            [s.attempt_id for s in ordered],
            [s.endpoint for s in ordered],
            [json.dumps(s.request) for s in ordered],
            [_comparable(s) for s in ordered],
            [s.fingerprint for s in ordered],
            [s.started.timestamp() - session.ahead for s in ordered],
            [str(s.state) for s in ordered],
            [json.dumps(dict(s.tags)) if s.tags else None for s in ordered],
            *_charge_columns([one.charge for one in in_order]),
            list(map(account_of, in_order)),
        ),
    )
    others = session.execute(
        f"""SELECT {_COLUMNS} FROM unnest(%s::text[], %s::text[]) AS w (key, attempt_id)
            JOIN {{s}}.attempts s ON s.key = w.key AND s.current AND s.attempt_id <> w.attempt_id""",  # noqa: S608  # constants
        ([s.key for s in ordered], [s.attempt_id for s in ordered]),
    )

    def finish() -> Sequence[Submission]:
        current = {row[0]: session.submission(row) for row in others}
        return [current.get(one.submission.key, one.submission) for one in claims]

    return finish


def _comparable(submission: Submission) -> str:
    """What `spending` groups by. PostgreSQL has no text with a NUL in it."""
    return json.dumps(comparable_fields(submission.request)).replace("\\u0000", "")


def record_outcome(session: Session, submissions: Sequence[Submission]) -> Finish:
    """Store outcomes of attempts, and first events. See `Ledger.record_outcome`. Its results are `Recorded`."""
    begun = [(s.ref, [s.latest]) for s in submissions if s.ref is not None and s.latest is not None]
    inserted = _insert_events(session, begun) if begun else None
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
            [storable_text(s.reason) for s in last],
            [answer_to_json(s.answer) for s in last],
        ),
    )
    session.execute(  # what is recorded of their jobs: first events, and those of a webhook that was earlier
        f"""UPDATE {{s}}.attempts a SET {_RECORDED} FROM {{s}}.events e
            WHERE a.ref = ANY(%s) AND NOT a.ended AND {_LAST_OF_IT}""",  # noqa: S608  # constants
        ([str(s.ref) for s in last if s.ref],),
    )
    session.notify("outcome")

    def finish() -> Sequence[Recorded]:
        leased = {ref for ref, poller in rows if poller == session.owner}
        theirs = inserted() if inserted is not None else ()
        own = {ref for (ref, _), other in zip(begun, theirs, strict=True) if not other}
        return [Recorded(str(s.ref) if str(s.ref) in leased else None, begun=s.ref in own) for s in submissions]

    return finish


def release(session: Session, rows: Sequence[tuple[str, str, str]]) -> Finish:
    """Free keys. See `Ledger.release`."""
    for key, attempt_id, reason in rows:
        session.execute(
            "UPDATE {s}.attempts SET released = %s WHERE key = %s AND attempt_id = %s AND current",
            (storable_text(reason), key, attempt_id),
        )
    return lambda: [None] * len(rows)


def append_events(session: Session, entries: Sequence[tuple[JobRef, Sequence[Event]]]) -> Finish:
    """Append to the logs of jobs. See `Ledger.append_events`.

    Its results are those logs that have other events under these numbers: see `conflicting`.
    """
    finish = _insert_events(session, entries)
    counting = {
        str(ref): e for ref, log in sorted(entries, key=itemgetter(0)) for e in log if e.status.terminal or e.cost
    }
    if counting:
        session.execute(
            """UPDATE {s}.attempts a SET ended = a.ended OR n.ended, failed = coalesce(a.failed, n.failed),
                    cost = coalesce(n.cost, a.cost), cost_unit = coalesce(n.unit, a.cost_unit)
                FROM unnest(%s::text[], %s::bool[], %s::bool[], %s::numeric[], %s::text[])
                    AS n (ref, ended, failed, cost, unit)
                WHERE a.ref = n.ref AND (n.ended AND NOT a.ended OR n.cost IS DISTINCT FROM a.cost)""",
            (
                list(counting),
                [event.status.terminal for event in counting.values()],
                [event.status is Status.FAILED or None for event in counting.values()],
                [_amount(event.cost.amount) if event.cost else None for event in counting.values()],
                [storable_text(event.cost.unit) if event.cost else None for event in counting.values()],
            ),
        )
    return finish


def _insert_events(
    session: Session, entries: Sequence[tuple[JobRef, Sequence[Event]]]
) -> Callable[[], Sequence[Sequence[Event]]]:
    """Insert events, and tell other processes. What logs have in place of them is known after the commit."""
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
            [storable_text(event.cost.unit) if event.cost else None for _, event, _ in rows],
            [len(event.artifacts) for _, event, _ in rows],
            [text for _, _, text in rows],
        ),
    )
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


def update_value(session: Session, rows: Sequence[tuple[str, Callable[[Any], Any]]]) -> Finish:
    """Change stored values. See `SharedLedger.update_value`."""
    for name, change in sorted(rows, key=lambda row: row[0]):
        session.execute("INSERT INTO {s}.stored_values VALUES (%s, 'null') ON CONFLICT (name) DO NOTHING", (name,))
        session.execute("SELECT 1 FROM {s}.stored_values WHERE name = %s FOR UPDATE", (name,))
        set_value(session, [(name, json.dumps(change(get_value(session, name))))])
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
    return [session.submission(row) for row in reversed(rows)]


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


def balances(session: Session, *, pending: bool = False) -> dict[str, Balance]:
    """What all attempts come to, by unit.

    Args:
        session: Where they are.
        pending: Whether to look at what is being sent, too.
    """
    finish = read_balances(session)
    if not pending:
        return finish()
    sent = {
        unit: (amount, guesses)
        for unit, amount, guesses in session.execute(
            f"""SELECT s.unit, sum(s.expected), count(*) FILTER (WHERE s.guessed) FROM {{s}}.attempts s
                WHERE s.state = 'sending' AND {lives("s.sender")} AND s.expected IS NOT NULL GROUP BY s.unit"""  # noqa: S608  # constants
        )
    }
    return {unit: Balance(one.spent, one.reserved, *sent.get(unit, ())) for unit, one in finish().items()}


def read_balances(session: Session) -> Callable[[], dict[str, Balance]]:
    """Ask what all attempts come to, by unit. Each connection that ever wrote has sums of its own."""
    rows = session.execute("SELECT unit, sum(spent), sum(reserved) FROM {s}.balances GROUP BY unit")
    return lambda: {unit: Balance(spent, reserved) for unit, spent, reserved in rows}


def fold_balances(session: Session) -> None:
    """Add up the sums of earlier connections, so that there are never many."""
    session.execute(
        """WITH old AS (
                DELETE FROM {s}.balances WHERE (slot, unit) IN (
                    SELECT slot, unit FROM {s}.balances WHERE slot <> 0 FOR UPDATE SKIP LOCKED)
                RETURNING unit, spent, reserved)
            INSERT INTO {s}.balances AS b (slot, unit, spent, reserved)
                SELECT 0, unit, sum(spent), sum(reserved) FROM old GROUP BY unit ORDER BY unit
            ON CONFLICT (slot, unit)
                DO UPDATE SET spent = b.spent + excluded.spent, reserved = b.reserved + excluded.reserved"""
    )


def uncounted(session: Session, ignored_fields: Collection[str]) -> list[UncountedAttempts]:
    """Attempts that were stored without a charge. See `SharedLedger.uncounted`."""
    rows = session.execute(
        """SELECT g.endpoint, (SELECT request FROM {s}.attempts WHERE number = g.numbers[1]), g.numbers
            FROM (SELECT s.endpoint, array_agg(s.number) AS numbers FROM {s}.attempts s WHERE s.expected IS NULL
                GROUP BY s.endpoint, s.comparable - %s::text[]) g""",
        (list(ignored_fields),),
    )
    return [UncountedAttempts(endpoint, request_of(text), numbers) for endpoint, text, numbers in rows]


def count_attempts(session: Session, works: Sequence[Sequence[tuple[Sequence[int], Charge]]]) -> Finish:
    """Count attempts that were stored without a charge. See `SharedLedger.count`."""
    for numbers, charge in (one for work in works for one in work):
        session.execute(
            f"""UPDATE {{s}}.attempts a SET {_RECORDED} FROM {{s}}.events e
                WHERE a.number = ANY(%s) AND a.expected IS NULL AND {_LAST_OF_IT}""",  # noqa: S608  # constants
            (list(numbers),),
        )
        session.execute(
            """UPDATE {s}.attempts a SET unit = n.unit, expected = n.expected, price = n.price, refunds = n.refunds,
                    guessed = n.guessed
                FROM unnest(%s::text[], %s::numeric[], %s::numeric[], %s::bool[], %s::bool[])
                    AS n (unit, expected, price, refunds, guessed)
                WHERE a.number = ANY(%s) AND a.expected IS NULL""",
            (*_charge_columns([charge]), list(numbers)),
        )
    return lambda: [None] * len(works)


def _charge_columns(charges: Sequence[Charge | None]) -> tuple[list[Any], ...]:
    """``unit, expected, price, refunds, guessed`` of new attempts."""
    return (
        [one and one.expected.unit for one in charges],
        [one and one.expected.amount for one in charges],
        [one and one.price for one in charges],
        [one and one.refunds for one in charges],
        [one and one.guessed for one in charges],
    )


def _amount(amount: Decimal) -> Decimal:
    """An amount that can be added up."""
    return Decimal(0) if amount.is_nan() else min(max(amount, -_MOST), _MOST)


_MOST = Decimal(10**18)  # more than anybody pays
_BUDGET_LOCK = 0x4B4C4E42  # "KLNB". With the schema's name, the advisory lock of claims that have a limit
_SLOT_LOCK = 0x4B4C4E53  # "KLNS". With the names of schema and account, that of claims that need one of its slots
_RECORDED = """cost = coalesce(e.amount::numeric, a.cost), cost_unit = coalesce(e.unit, a.cost_unit),
    failed = e.status = 'failed', ended = a.ended OR e.terminal"""
"""What is recorded of an attempt's job and matters to its charge."""
_LAST_OF_IT = """e.ref = a.ref
    AND e.seq = (SELECT l.seq FROM {s}.events l WHERE l.ref = a.ref ORDER BY l.seq DESC LIMIT 1)"""


def events(session: Session, ref: JobRef, first: int = 0) -> list[Event]:
    """A job's log, from that number on."""
    rows = session.execute("SELECT event FROM {s}.events WHERE ref = %s AND seq >= %s ORDER BY seq", (str(ref), first))
    return log_from_rows(rows, ref, first)


def get_value(session: Session, name: str) -> Any:
    """The value stored under a name. None if there is none."""
    row = session.execute("SELECT value FROM {s}.stored_values WHERE name = %s", (name,)).fetchone()
    return json.loads(row[0]) if row else None

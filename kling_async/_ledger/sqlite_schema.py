"""The tables of the ledger's file, its statements, and its rows as submissions and events.

All operations of one kind in a group are one SQL statement over a JSON array. `sqlite3` lets go of the interpreter's
lock around each step of a statement, and under a busy event loop it takes milliseconds to get it back: a statement for
each write would be as slow as a commit for each write.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any, TypeVar

from kling_async._ledger.charges import Claim, account_of, all_fit, exceeds, limited, slots_of
from kling_async._ledger.group_commit import NOT_YET
from kling_async._ledger.leases import Recorded
from kling_async._ledger.protocol import Balance, Charge, NoSlot, Slot, SpendingGroup, Submission, UncountedAttempts
from kling_async._ledger.rows import (
    answer_to_json,
    log_from_rows,
    request_of,
    spending_group_from_row,
    submission_from_row,
)
from kling_async._ledger.serialization import IMAGE_PREFIXES, event_record, event_to_json, storable_text, stored_json
from kling_async._models import Event, JobRef, Status

__all__ = [
    "CURRENT",
    "HOLDS_SLOT",
    "JOB_STATUS",
    "MIGRATIONS",
    "NOW",
    "OLDEST_READABLE",
    "OWN",
    "SENDER_DIED",
    "UNFINISHED",
    "UNSAVED",
    "append_events",
    "attempts",
    "balances",
    "claim",
    "count",
    "count_attempts",
    "each",
    "events",
    "find",
    "get_value",
    "leave_queue",
    "lives",
    "page",
    "record_file",
    "record_outcome",
    "release",
    "select",
    "select_last",
    "set_value",
    "slot_free",
    "spending",
    "uncounted",
    "update_value",
]

T = TypeVar("T")
logger = logging.getLogger("kling_async")

_EPOCH = datetime.fromtimestamp(0, UTC)

_CHARGED = "coalesce(cost_unit, unit)"
_SETTLED = "(cost IS NOT NULL OR ended IS NOT NULL)"
_BALANCE = """UPDATE balances SET spent = spent {sign} iif({row}.settled, {row}.charge, 0),
    reserved = reserved {sign} iif({row}.settled, 0, {row}.charge) WHERE unit = {row}.charged;"""

HOLDS_SLOT = "current AND ended IS NULL AND released IS NULL AND state NOT IN ('not-submitted', 'refused')"
"""The condition of the attempts that hold a slot of their account, as the index has it."""

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
    (
        """CREATE TABLE attempts (
            number INTEGER PRIMARY KEY, key TEXT NOT NULL, attempt_id TEXT NOT NULL UNIQUE, endpoint TEXT NOT NULL,
            request TEXT NOT NULL, fingerprint TEXT NOT NULL, started REAL NOT NULL, state TEXT NOT NULL, ref TEXT,
            reason TEXT, answer TEXT, released TEXT, current INTEGER NOT NULL DEFAULT 1)""",
        """INSERT INTO attempts (key, attempt_id, endpoint, request, fingerprint, started, state, ref, reason)
            SELECT key, purchase, endpoint, request, fingerprint, started, state, ref, reason FROM submissions
            ORDER BY rowid""",
        "DROP TABLE submissions",
        "CREATE UNIQUE INDEX current_attempts ON attempts (key) WHERE current",
        "CREATE INDEX attempts_by_key ON attempts (key)",
        "CREATE INDEX attempts_by_ref ON attempts (ref) WHERE ref IS NOT NULL",
        "CREATE TABLE stored_values (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        "INSERT INTO stored_values SELECT name, value FROM kept WHERE name != 'owner'",
        "DROP TABLE kept",
    ),
    ("ALTER TABLE attempts ADD COLUMN tags TEXT",),
    (
        """CREATE TABLE owners (
            id INTEGER PRIMARY KEY AUTOINCREMENT, process INTEGER NOT NULL, namespace TEXT NOT NULL, host TEXT NOT NULL,
            expires REAL NOT NULL, gone INTEGER NOT NULL DEFAULT 0)""",
        "ALTER TABLE attempts ADD COLUMN sender INTEGER",
        "ALTER TABLE attempts ADD COLUMN poller INTEGER",
        "ALTER TABLE attempts ADD COLUMN ended INTEGER",
        """UPDATE attempts SET ended = 1 WHERE ref IS NOT NULL
            AND EXISTS (SELECT 1 FROM events WHERE ref = attempts.ref AND terminal)""",
        """CREATE INDEX running_attempts ON attempts (number)
            WHERE current AND state = 'accepted' AND ended IS NULL AND released IS NULL""",
        "ALTER TABLE events ADD COLUMN writer INTEGER",
        """CREATE TABLE poll_requests (
            number INTEGER PRIMARY KEY AUTOINCREMENT, ref TEXT NOT NULL, writer INTEGER NOT NULL, report TEXT)""",
        "CREATE TABLE calls (account TEXT PRIMARY KEY, next REAL NOT NULL)",
        "DELETE FROM stored_values WHERE name = 'owner'",
    ),
    (  # amounts are in billionths, so that they add up exactly
        "ALTER TABLE attempts ADD COLUMN unit TEXT",
        "ALTER TABLE attempts ADD COLUMN expected INTEGER",
        "ALTER TABLE attempts ADD COLUMN price INTEGER",
        "ALTER TABLE attempts ADD COLUMN refunds INTEGER",
        "ALTER TABLE attempts ADD COLUMN guessed INTEGER",
        "ALTER TABLE attempts ADD COLUMN cost INTEGER",
        "ALTER TABLE attempts ADD COLUMN cost_unit TEXT",
        "ALTER TABLE attempts ADD COLUMN failed INTEGER",
        f"ALTER TABLE attempts ADD COLUMN charged TEXT AS ({_CHARGED}) VIRTUAL",
        f"ALTER TABLE attempts ADD COLUMN settled INTEGER AS ({_SETTLED}) VIRTUAL",
        """ALTER TABLE attempts ADD COLUMN charge INTEGER AS (CASE
            WHEN expected IS NULL OR state IN ('not-submitted', 'refused') OR (failed AND refunds) THEN 0
            WHEN cost IS NULL THEN expected
            WHEN ended IS NOT NULL OR price IS NULL OR cost_unit != unit THEN cost
            ELSE max(cost, price) END) VIRTUAL""",
        "CREATE INDEX uncounted_attempts ON attempts (number) WHERE expected IS NULL",
        "CREATE INDEX sending_attempts ON attempts (number) WHERE state = 'sending'",
        "CREATE TABLE balances (unit TEXT PRIMARY KEY, spent INTEGER NOT NULL, reserved INTEGER NOT NULL)",
        "INSERT INTO balances VALUES ('USD', 0, 0), ('credits', 0, 0)",
        f"""CREATE TRIGGER attempt_counts AFTER INSERT ON attempts WHEN new.charge != 0
            BEGIN {_BALANCE.format(row="new", sign="+")} END""",
        f"""CREATE TRIGGER charge_changes AFTER UPDATE OF state, ended, failed, expected, cost, cost_unit ON attempts
            WHEN (old.charge, old.charged, old.settled) IS NOT (new.charge, new.charged, new.settled)
            BEGIN {_BALANCE.format(row="old", sign="-")} {_BALANCE.format(row="new", sign="+")} END""",
    ),
    (  # slots of accounts. Of earlier attempts, only the provider is known
        "ALTER TABLE attempts ADD COLUMN account TEXT",
        f"UPDATE attempts SET account = substr(endpoint, 1, instr(endpoint, '/') - 1) WHERE {HOLDS_SLOT}",  # noqa: S608  # constants
        "DROP INDEX running_attempts",
        f"CREATE INDEX held_slots ON attempts (account, number) WHERE {HOLDS_SLOT}",
        """CREATE TABLE slot_queue (
            number INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, attempt_id TEXT NOT NULL UNIQUE,
            owner INTEGER NOT NULL)""",
    ),
    (  # an index on random keys costs a claim a page more. Few keys have earlier attempts
        "DROP INDEX attempts_by_key",
        "CREATE INDEX earlier_attempts ON attempts (key) WHERE NOT current",
    ),
)
"""One entry for each version of the file. ``user_version`` counts those that have been applied."""
OLDEST_READABLE = 4
"""The first version whose columns are those that `select` reads."""

NOW = "((julianday('now') - 2440587.5) * 86400.0)"
"""POSIX seconds on the clock of the database."""
OWN = "(SELECT id FROM temp.own)"
"""The owner that this connection writes as (see `sqlite_leases`)."""


def lives(owner: str) -> str:
    """The condition that an owner lives."""
    return f"EXISTS (SELECT 1 FROM owners WHERE id = {owner} AND expires > {NOW})"  # noqa: S608  # constants


_ABANDONED = f"s.state = 'sending' AND NOT {lives('s.sender')}"
SENDER_DIED = "the process ended while it was being sent"
_COLUMNS = f"""s.key, s.attempt_id, s.endpoint, s.request, s.fingerprint, s.started,
    iif({_ABANDONED}, 'unknown', s.state), s.ref,
    coalesce(s.reason, iif({_ABANDONED}, '{SENDER_DIED}', NULL)), s.answer, s.released, s.tags,
    (SELECT event FROM events WHERE ref = s.ref ORDER BY seq DESC LIMIT 1),
    (SELECT json_group_array(path) FROM (SELECT path FROM files WHERE ref = s.ref ORDER BY position))"""  # noqa: S608  # constants
_REUSABLE = "(s.state IN ('not-submitted', 'refused') OR s.released IS NOT NULL)"
CURRENT = "s.current"
"""The condition of the current attempts."""
UNFINISHED = f"""s.current AND NOT {_REUSABLE} AND NOT (s.state = 'accepted' AND EXISTS
    (SELECT 1 FROM events WHERE ref = s.ref AND terminal))"""  # noqa: S608  # constants
"""The condition of the attempts that need attention, same as `Submission.unfinished`."""

JOB_STATUS = """iif(s.ref IS NULL, NULL, coalesce(
    (SELECT iif(json_valid(event), event ->> '$.status', NULL) FROM events WHERE ref = s.ref ORDER BY seq DESC LIMIT 1),
    'pending'))"""
"""The last recorded status of an attempt's job."""
UNSAVED = """s.current AND s.ref IS NOT NULL AND (
    SELECT iif(json_valid(event), event ->> '$.status' = 'completed' AND
        json_array_length(event, '$.artifacts') > (SELECT count(*) FROM files WHERE ref = s.ref), 0)
    FROM events WHERE ref = s.ref ORDER BY seq DESC LIMIT 1)"""
"""The condition of the attempts whose job is completed and has files that were not saved."""


def claim(connection: sqlite3.Connection, claims: Sequence[Claim]) -> Sequence[Submission | Balance | NoSlot]:
    """Claim keys: for each, the current attempt, or why it does not fit. See `SharedLedger.claim`."""
    fit = not limited(claims) or all_fit(claims, balances(connection))
    if fit and all(_all_free(connection, account, *counts) for account, counts in slots_of(claims).items()):
        return _claim(connection, claims)
    return [_claim_one(connection, one) for one in claims]


def _claim_one(connection: sqlite3.Connection, one: Claim) -> Submission | Balance | NoSlot:
    """Claim a key where little is left of a limit."""
    current = select(connection, "s.current AND s.key = ?", one.submission.key)
    if not current or current[0].key_reusable:
        if one.charge is not None and one.charge.limit is not None:
            sums = balances(connection, pending=True)
            if exceeds(one.charge, sums):
                return sums[one.charge.expected.unit]
        if one.slot is not None and one.slot.limit is not None:
            running, ahead = _usage(connection, one.slot.account, one.submission.attempt_id)
            if running + ahead >= one.slot.limit:
                return _no_slot(connection, one.submission, one.slot, running, ahead)
    if one.slot is not None and one.slot.limit is not None:
        leave_queue(connection, [one.submission.attempt_id])
    [claimed] = _claim(connection, [one])
    return claimed


def _all_free(connection: sqlite3.Connection, account: str, taken: int, limit: int) -> bool:
    """Whether an account has so many free slots, and nobody waits for them."""
    running, ahead = _usage(connection, account)
    return not ahead and running + taken <= limit


def _usage(connection: sqlite3.Connection, account: str, attempt_id: str = "") -> tuple[int, int]:
    """How many attempts hold a slot of an account, and how many wait for one before this attempt."""
    found: tuple[int, int] = connection.execute(
        f"""SELECT (SELECT count(*) FROM attempts WHERE account IN (?1, ?2) AND {HOLDS_SLOT}),
            (SELECT count(*) FROM slot_queue q WHERE q.account = ?1 AND q.attempt_id != ?3 AND {lives("q.owner")}
                AND q.number < coalesce((SELECT number FROM slot_queue WHERE attempt_id = ?3), 9e18))""",  # noqa: S608  # constants
        (account, account.partition(" ")[0], attempt_id),
    ).fetchone()
    return found


def _no_slot(connection: sqlite3.Connection, submission: Submission, slot: Slot, running: int, ahead: int) -> NoSlot:
    """Give an attempt a place in the queue. Return what holds the slots."""
    if slot.queued:
        connection.execute(
            f"""INSERT INTO slot_queue (account, attempt_id, owner) VALUES (?, ?, {OWN})
                ON CONFLICT (attempt_id) DO UPDATE SET owner = excluded.owner""",  # noqa: S608  # constants
            (slot.account, submission.attempt_id),
        )
    unknown = connection.execute(
        f"""SELECT s.key FROM attempts s WHERE s.account IN (?, ?) AND {HOLDS_SLOT}
            AND (s.state = 'unknown' OR ({_ABANDONED})) ORDER BY s.number""",  # noqa: S608  # constants
        (slot.account, slot.account.partition(" ")[0]),
    )
    return NoSlot(running, ahead, [key for (key,) in unknown])


def slot_free(connection: sqlite3.Connection, rows: Sequence[tuple[str, Slot]]) -> Sequence[Any]:
    """None for the attempts whose turn it is, `NOT_YET` for the others. See `SharedLedger.slot_free`."""
    return [
        NOT_YET if slot.limit is not None and sum(_usage(connection, slot.account, attempt_id)) >= slot.limit else None
        for attempt_id, slot in rows
    ]


def leave_queue(connection: sqlite3.Connection, attempt_ids: Sequence[str]) -> Sequence[None]:
    """Give up places in queues. See `SharedLedger.leave_queue`."""
    connection.executemany("DELETE FROM slot_queue WHERE attempt_id = ?", [(each,) for each in attempt_ids])
    return [None] * len(attempt_ids)


def _claim(connection: sqlite3.Connection, claims: Sequence[Claim]) -> Sequence[Submission]:
    others = _insert(connection, claims)
    if reusable := {key for key, current in others.items() if current.key_reusable}:
        connection.execute(
            f"""UPDATE attempts AS s SET current = 0 WHERE s.current AND {_REUSABLE}
                AND s.key IN (SELECT value FROM json_each(?))""",  # noqa: S608  # constants
            (json.dumps(list(reusable)),),
        )
        others = {key: current for key, current in others.items() if key not in reusable}
        others |= _insert(connection, [one for one in claims if one.submission.key in reusable])
    return [others.get(one.submission.key, one.submission) for one in claims]


def _insert(connection: sqlite3.Connection, claims: Sequence[Claim]) -> dict[str, Submission]:
    """Insert the attempts whose keys have no current one. Return the current ones of the other keys."""
    rows = [
        (
            s.key,
            s.attempt_id,
            s.endpoint,
            json.dumps(s.request),
            s.fingerprint,
            s.started.timestamp(),
            s.state,
            json.dumps(dict(s.tags)) if s.tags else None,
            *_charge_columns(charge),
            account_of(one),
        )
        for one in claims
        for s, charge, _ in (one,)
    ]
    inserted = connection.execute(_INSERT, (stored_json(rows),))
    if inserted.rowcount == len(rows):
        return {}
    others = select(
        connection,
        "s.current AND s.attempt_id != json_extract(value, '$[1]')",
        json.dumps([row[:2] for row in rows]),
        source="json_each(?) CROSS JOIN attempts s ON s.key = json_extract(value, '$[0]')",
    )
    return {submission.key: submission for submission in others}


def record_outcome(connection: sqlite3.Connection, submissions: Sequence[Submission]) -> Sequence[Recorded]:
    """Store outcomes of attempts, and first events. See `Ledger.record_outcome`."""
    begun = [(s.ref, [s.latest]) for s in submissions if s.ref is not None and s.latest is not None]
    theirs = _insert_events(connection, begun) if begun else ()
    own = {ref for (ref, _), other in zip(begun, theirs, strict=True) if not other}
    firsts = {s.ref: s.latest for s in submissions if s.latest is not None and s.latest.seq == 0 and s.ref in own}
    last = {
        s.attempt_id: (
            s.attempt_id,
            s.state,
            str(s.ref) if s.ref else None,
            storable_text(s.reason),
            answer_to_json(s.answer),
            *((1, *_counted(firsts[s.ref])) if s.ref in firsts else (0,)),
        )
        for s in submissions
    }
    rows = connection.execute(_RECORD, (stored_json(list(last.values())),))
    leased = {ref for ref, ours in rows.fetchall() if ours}
    return [Recorded(str(s.ref) if s.ref in leased else None, begun=s.ref in own) for s in submissions]


def release(connection: sqlite3.Connection, rows: Sequence[tuple[str, str, str]]) -> Sequence[None]:
    """Free keys. See `Ledger.release`."""
    connection.executemany("UPDATE attempts SET released = ?3 WHERE key = ?1 AND attempt_id = ?2 AND current", rows)
    return [None] * len(rows)


def append_events(
    connection: sqlite3.Connection, entries: Sequence[tuple[JobRef, Sequence[Event]]]
) -> Sequence[Sequence[Event]]:
    """Append to the logs of jobs. See `Ledger.append_events`."""
    theirs = _insert_events(connection, entries)
    if counting := _counting(entries):
        connection.execute(_COUNT, (stored_json(counting),))
    return theirs


def _insert_events(
    connection: sqlite3.Connection, entries: Sequence[tuple[JobRef, Sequence[Event]]]
) -> Sequence[Sequence[Event]]:
    """Insert events. Return what logs have in place of them."""
    rows = [(str(ref), e.seq, e.status.terminal, event_record(e)) for ref, log in entries for e in log]
    inserted = connection.execute(_INSERT_EVENTS, (stored_json(rows),))  # events as they are, and not as texts in JSON
    if inserted.rowcount == len(rows):
        return [()] * len(entries)
    return [_conflicting(connection, ref, log) for ref, log in entries]


def _counting(entries: Sequence[tuple[JobRef, Sequence[Event]]]) -> list[tuple[Any, ...]]:
    """Jobs of which an end or a cost is recorded: ``ref, ended, failed, cost, cost_unit``."""
    found = {}
    for ref, log in entries:
        for e in log:
            if e.cost or e.status.terminal:
                found[ref] = (str(ref), *_counted(e))
    return list(found.values())


def _counted(event: Event) -> tuple[Any, ...]:
    """What an event says of a job's end and cost: ``ended, failed, cost, cost_unit``."""
    cost = (_billionths(event.cost.amount), storable_text(event.cost.unit)) if event.cost else (None, None)
    return *((1, event.status is Status.FAILED) if event.status.terminal else (None, None)), *cost


def _conflicting(connection: sqlite3.Connection, ref: JobRef, log: Sequence[Event]) -> Sequence[Event]:
    """The recorded log from the first of these events on, if it has others under their numbers."""
    stored = events(connection, ref, log[0].seq) if log else []
    theirs = {event.seq: event_to_json(event) for event in stored}
    return stored if any(theirs.get(event.seq) != event_to_json(event) for event in log) else ()


def record_file(connection: sqlite3.Connection, rows: Sequence[tuple[str, int, str]]) -> Sequence[None]:
    """Write down where files of jobs were saved. See `Ledger.record_file`."""
    connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
    return [None] * len(rows)


def set_value(connection: sqlite3.Connection, rows: Sequence[tuple[str, str]]) -> Sequence[None]:
    """Keep values under their names. See `Ledger.set_value`."""
    connection.executemany("INSERT OR REPLACE INTO stored_values VALUES (?, ?)", rows)
    return [None] * len(rows)


def update_value(connection: sqlite3.Connection, rows: Sequence[tuple[str, Callable[[Any], Any]]]) -> Sequence[None]:
    """Change kept values. See `SharedLedger.update_value`."""
    for name, change in rows:
        set_value(connection, [(name, json.dumps(change(get_value(connection, name))))])
    return [None] * len(rows)


def each(connection: sqlite3.Connection, works: Sequence[Callable[[sqlite3.Connection], Any]]) -> Sequence[Any]:
    """Do work of any kind, one after the other."""
    return [work(connection) for work in works]


def _fields(count: int, *, named: bool = False) -> str:
    """The columns of a JSON array of rows."""
    return ", ".join(f"json_extract(value, '$[{i}]')" + (f" AS c{i}" if named else "") for i in range(count))


def select(
    connection: sqlite3.Connection, condition: str, *values: str | int, source: str = "attempts s"
) -> list[Submission]:
    """Submissions in the order of their start.

    Args:
        connection: Where they are.
        condition: Which ones, an expression of ours.
        *values: What its question marks stand for.
        source: Tables to choose from, ours.
    """
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM {source} WHERE {condition} ORDER BY s.started, s.number",  # noqa: S608  # constants
        values,
    )
    return [submission_from_row(*row) for row in rows]


def select_last(
    connection: sqlite3.Connection, condition: str, values: Sequence[str | float], last: int | None
) -> list[Submission]:
    """The newest submissions for which a condition holds, oldest first."""
    chosen = f"SELECT number FROM attempts s WHERE {condition} ORDER BY started DESC, number DESC LIMIT ?"  # noqa: S608  # constants
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM attempts s WHERE s.number IN ({chosen}) ORDER BY s.started, s.number",  # noqa: S608  # constants
        (*values, -1 if last is None else last),
    )
    return [submission_from_row(*row) for row in rows]


def count(connection: sqlite3.Connection, condition: str, values: Sequence[str | float] = ()) -> int:
    """For how many attempts a condition holds."""
    [found] = connection.execute(f"SELECT count(*) FROM attempts s WHERE {condition}", values).fetchone()  # noqa: S608  # constants
    return int(found)


def find(
    connection: sqlite3.Connection, *, key: str | None = None, attempt_id: str | None = None, ref: JobRef | None = None
) -> Submission | None:
    """The attempt with that key, id or job. See `Ledger.find`."""
    if key is not None:
        condition, value = "s.current AND s.key = ?", key
    elif attempt_id is not None:
        condition, value = "s.attempt_id = ?", attempt_id
    else:
        condition, value = "s.ref = ?", str(ref)
    found = select(connection, condition, value)
    return found[-1] if found else None


def attempts(connection: sqlite3.Connection, key: str) -> list[Submission]:
    """All attempts with a key, oldest first. See `Ledger.attempts`."""
    rows = connection.execute(
        f"""SELECT {_COLUMNS} FROM attempts s WHERE s.current AND s.key = ?1 OR NOT s.current AND s.key = ?1
            ORDER BY s.number""",  # noqa: S608  # constants
        (key,),
    )
    return [submission_from_row(*row) for row in rows]


_IS_IMAGE = " OR ".join(f"f.value LIKE '{prefix}%'" for prefix in IMAGE_PREFIXES)
_COMPARABLE = f"""CASE WHEN json_valid(s.request) THEN (
    SELECT json_group_array(json_array(f.key, CASE
        WHEN f.type = 'array' AND NOT EXISTS (SELECT 1 FROM json_each(f.value) WHERE type != 'text')
        THEN json_array_length(f.value)
        WHEN f.type = 'text' AND ({_IS_IMAGE}) THEN 'image'
        ELSE f.value END))
    FROM json_each(s.request) f
    WHERE f.type != 'null' AND f.key NOT IN (SELECT value FROM json_each(?))) END"""  # noqa: S608  # constants
"""`comparable_request` in SQL: parsing 200 000 requests in Python would take half a minute."""


def spending(connection: sqlite3.Connection, ignored_fields: Collection[str]) -> list[SpendingGroup]:
    """Groups of attempts that bought something, or may have. See `Ledger.spending`.

    The unfinished ones are left out at the end, by groups: so the last event of each job is read only once.
    """
    rows = connection.execute(
        f"""SELECT endpoint, (SELECT request FROM attempts WHERE number = first), has_job, last_event, count
            FROM (SELECT s.endpoint, min(s.number) AS first, {_COMPARABLE} AS comparable, s.ref IS NOT NULL AS has_job,
                    (SELECT terminal || iif(json_valid(event),
                        json_extract(event, '$.status', '$.cost.amount', '$.cost.unit'), '[null, null, null]')
                        FROM events WHERE ref = s.ref ORDER BY seq DESC LIMIT 1) AS last_event,
                    s.current AND s.released IS NULL AS holds_key, count(*) AS count
                FROM attempts s WHERE s.state NOT IN ('not-submitted', 'refused')
                GROUP BY s.endpoint, comparable, has_job, last_event, holds_key)
            WHERE NOT holds_key OR last_event LIKE '1%'""",  # noqa: S608  # constants
        (json.dumps(list(ignored_fields)),),
    )
    return [_spending_group(*row) for row in rows]


def balances(connection: sqlite3.Connection, *, pending: bool = False) -> dict[str, Balance]:
    """What all attempts come to, by unit.

    Args:
        connection: Where they are.
        pending: Whether to look at what is being sent, too.
    """
    sums = connection.execute("SELECT unit, spent, reserved FROM balances").fetchall()
    sent = {}
    if pending:
        sent = {
            unit: (amount, guesses)
            for unit, amount, guesses in connection.execute(
                f"""SELECT s.charged, sum(s.charge), sum(s.guessed) FROM attempts s
                    WHERE s.state = 'sending' AND {lives("s.sender")} AND s.charged IS NOT NULL GROUP BY s.charged"""  # noqa: S608  # constants
            )
        }
    return {
        unit: Balance(
            _amount(spent), _amount(reserved), _amount(sent.get(unit, (0, 0))[0]), int(sent.get(unit, (0, 0))[1])
        )
        for unit, spent, reserved in sums
    }


def uncounted(connection: sqlite3.Connection, ignored_fields: Collection[str]) -> list[UncountedAttempts]:
    """Attempts that were stored without a charge. See `SharedLedger.uncounted`."""
    rows = connection.execute(
        f"""SELECT endpoint, (SELECT request FROM attempts WHERE number = first), numbers
            FROM (SELECT s.endpoint, min(s.number) AS first, {_COMPARABLE} AS comparable,
                    json_group_array(s.number) AS numbers
                FROM attempts s WHERE s.expected IS NULL GROUP BY s.endpoint, comparable)""",  # noqa: S608  # constants
        (json.dumps(list(ignored_fields)),),
    )
    return [UncountedAttempts(endpoint, request_of(text), json.loads(numbers)) for endpoint, text, numbers in rows]


def count_attempts(
    connection: sqlite3.Connection, works: Sequence[Sequence[tuple[Sequence[int], Charge]]]
) -> Sequence[None]:
    """Count attempts that were stored without a charge. See `SharedLedger.count`."""
    for numbers, charge in (one for work in works for one in work):
        connection.execute(
            f"""UPDATE attempts SET unit = ?, expected = ?, price = ?, refunds = ?, guessed = ?,
                    {_recorded("attempts.ref")}
                WHERE expected IS NULL AND number IN (SELECT value FROM json_each(?))""",  # noqa: S608  # constants
            (*_charge_columns(charge), json.dumps(list(numbers))),
        )
    return [None] * len(works)


def _charge_columns(charge: Charge | None) -> tuple[Any, ...]:
    """``unit, expected, price, refunds, guessed`` of a new attempt."""
    if charge is None:
        return None, None, None, None, None
    return (
        charge.expected.unit,
        _billionths(charge.expected.amount),
        None if charge.price is None else _billionths(charge.price),
        charge.refunds,
        charge.guessed,
    )


@lru_cache(maxsize=1024)  # prices repeat
def _billionths(amount: Decimal) -> int:
    if amount.is_nan():
        return 0
    return int(min(max(amount * _BILLION, -_MOST), _MOST).to_integral_value(ROUND_CEILING))


def _amount(billionths: int) -> Decimal:
    return Decimal(billionths) / _BILLION


_BILLION = 10**9
_MOST = Decimal(10**18)  # more than anybody pays, and SQLite can add up some of them


def _last(ref: str, what: str) -> str:
    """A part of the last event of a job."""
    return f"(SELECT iif(json_valid(event), {what}, NULL) FROM events WHERE ref = {ref} ORDER BY seq DESC LIMIT 1)"  # noqa: S608  # constants


_RECORDED = {
    "ended": "nullif(terminal, 0)",
    "failed": "event ->> '$.status' = 'failed'",
    "cost": "CAST(round((event ->> '$.cost.amount') * 1e9) AS INTEGER)",
    "cost_unit": "event ->> '$.cost.unit'",
}


def _recorded(ref: str) -> str:
    """The assignments of what is recorded of an attempt's job and matters to its charge."""
    return ", ".join(f"{name} = coalesce({_last(ref, what)}, {name})" for name, what in _RECORDED.items())


def _known_or_recorded() -> str:
    """The same for new outcomes. Of a log that begins with them, all is known, and it need not be read."""
    return ", ".join(
        f"{name} = coalesce(iif(new.c5, new.c{column}, {_last('new.c2', what)}), {name})"
        for column, (name, what) in enumerate(_RECORDED.items(), 6)
    )


_INSERT = f"""INSERT INTO attempts (key, attempt_id, endpoint, request, fingerprint, started, state, tags,
        unit, expected, price, refunds, guessed, account, sender)
    SELECT {_fields(14)}, {OWN} FROM json_each(?) WHERE 1 ON CONFLICT (key) WHERE current DO NOTHING"""  # noqa: S608  # constants
_RECORD = f"""UPDATE attempts SET state = new.c1, ref = new.c2, reason = new.c3, answer = new.c4,
        poller = coalesce(poller, iif(new.c2 IS NOT NULL, {OWN}, NULL)), {_known_or_recorded()}
    FROM (SELECT {_fields(10, named=True)} FROM json_each(?)) AS new
    WHERE attempts.attempt_id = new.c0 AND (new.c2 IS NOT NULL OR state != 'accepted')
    RETURNING ref, poller = {OWN}"""  # noqa: S608  # constants
_INSERT_EVENTS = f"INSERT OR IGNORE INTO events SELECT {_fields(4)}, {OWN} FROM json_each(?)"  # noqa: S608  # constants
_COUNT = f"""UPDATE attempts SET ended = coalesce(ended, new.c1), failed = coalesce(new.c2, failed),
        cost = coalesce(new.c3, cost), cost_unit = coalesce(new.c4, cost_unit)
    FROM (SELECT {_fields(5, named=True)} FROM json_each(?)) AS new
    WHERE attempts.ref = new.c0 AND (ended IS NULL AND new.c1 OR failed IS NOT coalesce(new.c2, failed)
        OR cost IS NOT coalesce(new.c3, cost) OR cost_unit IS NOT coalesce(new.c4, cost_unit))"""  # noqa: S608  # constants


def _spending_group(endpoint: str, request: str, has_job: int, last_event: str | None, count: int) -> SpendingGroup:
    status, amount, unit = json.loads(last_event[1:]) if last_event else [None, None, None]
    return spending_group_from_row(endpoint, request, status, amount, unit, has_job=bool(has_job), count=count)


def page(connection: sqlite3.Connection, condition: str, after: int, size: int) -> tuple[list[Submission], int | None]:
    """Those among the next submissions for which a condition holds.

    Args:
        connection: Where they are.
        condition: Which ones, an expression of ours.
        after: The row number at which the page before ended. 0: there is none before.
        size: How many attempts are read.

    Returns:
        The submissions, and the row number at which the page ends (None for the last page). An attempt keeps its number
        and none is deleted, so pages leave none out and give none twice, also if others write between them.
    """
    examined = "SELECT number FROM attempts WHERE number > ? ORDER BY number LIMIT ?"
    count, last = connection.execute(
        f"SELECT count(*), max(number) FROM ({examined})",  # noqa: S608  # constants
        (after, size),
    ).fetchone()
    found = select(connection, f"s.number > ? AND s.number <= ? AND ({condition})", after, last) if count else []
    return found, last if count == size else None


def events(connection: sqlite3.Connection, ref: JobRef, first: int = 0) -> list[Event]:
    """A job's log, from that number on."""
    rows = connection.execute("SELECT event FROM events WHERE ref = ? AND seq >= ? ORDER BY seq", (str(ref), first))
    return log_from_rows(rows, ref, first)


def get_value(connection: sqlite3.Connection, name: str) -> Any:
    """The value stored under a name. None if there is none."""
    row = connection.execute("SELECT value FROM stored_values WHERE name = ?", (name,)).fetchone()
    return json.loads(row[0]) if row else None

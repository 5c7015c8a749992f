"""The statements of owners and leases in PostgreSQL. See `leases`, which says what they mean."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

from kling_async._ledger.group_commit import NOT_YET
from kling_async._ledger.leases import LONGEST_ROW
from kling_async._ledger.postgres_statements import (
    NOW,
    Finish,
    Session,
    accounts_of,
    fold_balances,
    lives,
    select,
)
from kling_async._ledger.protocol import Submission, SubmissionState

__all__ = [
    "end_owner",
    "give_back",
    "living_processes",
    "next_call",
    "recorded_after",
    "renew",
    "request_poll",
    "settled",
    "take",
    "take_over",
    "take_poll_requests",
]

_FORGOTTEN = 86_400  # s after its end for which an owner stays, for those who look at the ledger
_OLDEST_REQUEST = 600  # s for which a poll request is kept that nobody reads

_RUNNING = "s.current AND NOT s.ended AND s.released IS NULL AND s.state = 'accepted'"


def renew(session: Session, seconds: float) -> tuple[int, bool]:
    """Say that this owner lives for so many seconds more. One whose time is over becomes a new one.

    Returns:
        The owner, and whether others live.
    """
    row = session.execute(
        f"""UPDATE {{s}}.owners SET expires = {NOW} + make_interval(secs => %s)
            WHERE id = %s AND expires > {NOW} RETURNING id""",  # noqa: S608  # constants
        (seconds, session.owner),
    ).fetchone()
    if row is None:
        session.execute(
            f"DELETE FROM {{s}}.owners WHERE expires < {NOW} - make_interval(secs => %s)",  # noqa: S608  # constants
            (_FORGOTTEN,),
        )
        session.execute("DELETE FROM {s}.slot_queue WHERE owner NOT IN (SELECT id FROM {s}.owners)")
        fold_balances(session)
        row = session.execute(
            f"""INSERT INTO {{s}}.owners (process, host, expires)
                VALUES (%s, %s, {NOW} + make_interval(secs => %s)) RETURNING id""",  # noqa: S608  # constants
            (os.getpid(), platform.node(), seconds),
        ).fetchone()
    owner = int(row[0]) if row else 0
    others = session.execute(
        f"SELECT 1 FROM {{s}}.owners WHERE expires > {NOW} AND id <> %s LIMIT 1",  # noqa: S608  # constants
        (owner,),
    )
    return owner, others.fetchone() is not None


def end_owner(session: Session) -> None:
    """Say that this owner ends now: what it owns is free."""
    session.execute("DELETE FROM {s}.slot_queue WHERE owner = %s", (session.owner,))
    session.execute("DELETE FROM {s}.owners WHERE id = %s", (session.owner,))
    session.notify("outcome")


def living_processes(session: Session) -> list[int]:
    """The processes that own something, and live."""
    rows = session.execute(
        f"SELECT process FROM {{s}}.owners WHERE expires > {NOW} ORDER BY id"  # noqa: S608  # constants
    )
    return list(dict.fromkeys(int(process) for (process,) in rows))


def take(session: Session, refs: Sequence[str]) -> list[str]:
    """Take the leases that are free, or of owners that have died. Return those that are ours now.

    A job that the ledger does not have needs no lease.
    """
    wanted = list(refs)
    session.execute(
        f"""UPDATE {{s}}.attempts a SET poller = %s FROM (
                SELECT s.number FROM {{s}}.attempts s
                WHERE s.ref = ANY(%s) AND (s.poller IS NULL OR NOT {lives("s.poller")})
                ORDER BY s.number FOR UPDATE SKIP LOCKED) free
            WHERE a.number = free.number""",  # noqa: S608  # constants
        (session.owner, wanted),
    )
    rows = session.execute(
        "SELECT ref FROM {s}.attempts WHERE ref = ANY(%s) AND poller IS DISTINCT FROM %s", (wanted, session.owner)
    )
    others = {ref for (ref,) in rows}
    return [ref for ref in refs if ref not in others]


def give_back(session: Session, refs: Sequence[str]) -> None:
    """Let others poll these jobs."""
    session.execute(
        "UPDATE {s}.attempts SET poller = NULL WHERE ref = ANY(%s) AND poller = %s", (list(refs), session.owner)
    )
    session.notify("outcome")


def settled(session: Session, attempt_ids: Sequence[str]) -> Finish:
    """The attempts, or `NOT_YET` for those that are being sent. See `SharedLedger.settled`."""

    def finish() -> Sequence[Any]:
        found = select(session, "s.attempt_id = ANY(%s)", (list(attempt_ids),))
        known = {submission.attempt_id: submission for submission in found}
        return [
            NOT_YET if (one := known.get(each)) is not None and one.state is SubmissionState.SENDING else one
            for each in attempt_ids
        ]

    return finish


def request_poll(session: Session, rows: Sequence[tuple[str, str | None]]) -> Finish:
    """Ask for polls of jobs. See `SharedLedger.request_poll`."""
    for ref, report in rows:
        session.execute("INSERT INTO {s}.poll_requests (ref, report) VALUES (%s, %s)", (ref, report))
    session.execute(
        f"DELETE FROM {{s}}.poll_requests WHERE at < {NOW} - make_interval(secs => %s)",  # noqa: S608  # constants
        (_OLDEST_REQUEST,),
    )
    session.notify("polls")
    return lambda: [None] * len(rows)


def take_poll_requests(session: Session) -> list[tuple[str, str | None]]:
    """The polls that were asked for of jobs whose leases are ours: references and reports as JSON."""
    return session.execute(
        """DELETE FROM {s}.poll_requests p USING {s}.attempts a
            WHERE a.ref = p.ref AND a.poller = %s RETURNING p.ref, p.report""",
        (session.owner,),
    ).fetchall()


def recorded_after(session: Session, positions: Sequence[tuple[str, int]]) -> list[tuple[str, int, str]]:
    """What was recorded of jobs after an event of each: references, numbers and events as JSON, in order."""
    return session.execute(
        """SELECT e.ref, e.seq, e.event FROM unnest(%s::text[], %s::int[]) AS w (ref, seq)
            JOIN {s}.events e ON e.ref = w.ref AND e.seq > w.seq ORDER BY e.ref, e.seq""",
        ([ref for ref, _ in positions], [seq for _, seq in positions]),
    ).fetchall()


def take_over(session: Session, works: Sequence[tuple[int, float, Sequence[str], str | None]]) -> Finish:
    """Take the leases of running jobs that no living owner has. See `SharedLedger.take_over`.

    Args:
        session: Where they are.
        works: How many at most, since when they were submitted (POSIX seconds), and the jobs that are passed
            over, and their account (None: any).
    """
    return lambda: [_take_over(session, *work) for work in works]


def _take_over(
    session: Session, limit: int, since: float, without: Sequence[str], account: str | None
) -> list[Submission]:
    free = f"""{_RUNNING} AND s.started >= %s AND (s.poller IS NULL OR NOT {lives("s.poller")})
        AND s.ref <> ALL(%s::text[]) AND (%s::text[] IS NULL OR s.account = ANY(%s::text[]))"""
    values = (since - session.ahead, list(without), *(2 * [None if account is None else accounts_of(account)]))
    rows = session.execute(
        f"""WITH free AS (SELECT s.number FROM {{s}}.attempts s WHERE {free}),
                share AS (SELECT ceil((SELECT count(*) FROM free)::float8
                    / greatest(1, (SELECT count(*) FROM {{s}}.owners WHERE expires > {NOW})))::bigint AS size),
                chosen AS (SELECT s.number FROM {{s}}.attempts s WHERE {free}
                    ORDER BY s.number LIMIT (SELECT least(size, %s) FROM share) FOR UPDATE SKIP LOCKED)
            UPDATE {{s}}.attempts a SET poller = %s FROM chosen WHERE a.number = chosen.number
            RETURNING a.number""",  # noqa: S608  # constants
        (*values, *values, limit, session.owner),
    )
    return select(session, "s.number = ANY(%s)", ([number for (number,) in rows],))


def next_call(session: Session, rows: Sequence[tuple[str, float]]) -> Finish:
    """Take places in the rows of accounts' calls: seconds until each call. See `SharedLedger.next_call`."""
    waits = {
        index: session.execute(
            f"""INSERT INTO {{s}}.calls AS c (account, next) VALUES (%s, {NOW} + make_interval(secs => %s))
                ON CONFLICT (account) DO UPDATE SET next = make_interval(secs => %s) + CASE
                    WHEN c.next > {NOW} + make_interval(secs => {LONGEST_ROW}) THEN {NOW}
                    ELSE greatest(c.next, {NOW}) END
                RETURNING extract(epoch FROM c.next - {NOW})::float8 - %s""",  # noqa: S608  # constants
            (account, interval, interval, interval),
        )
        for index, (account, interval) in sorted(enumerate(rows), key=lambda row: row[1][0])
    }
    return lambda: [max(0.0, float(_one(waits[index]))) for index in range(len(rows))]


def _one(cursor: Any) -> Any:
    return cursor.fetchone()[0]

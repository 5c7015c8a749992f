"""Reading a ledger in PostgreSQL that others use."""

from __future__ import annotations

from datetime import datetime
from typing import Any, TypedDict

import psycopg

from kling_async._ledger.postgres_address import PostgresAddress
from kling_async._ledger.postgres_connection import Connector, explained
from kling_async._ledger.postgres_leases import living_processes
from kling_async._ledger.postgres_schema import require_current
from kling_async._ledger.postgres_statements import CURRENT, UNFINISHED, UNSAVED, Session, count, last_event, select
from kling_async._ledger.protocol import Submission
from kling_async._models import Status

__all__ = ["Conditions", "read"]

_JOB_STATUS = f"CASE WHEN s.ref IS NOT NULL THEN coalesce({last_event('status')}, 'pending') END"


class Conditions(TypedDict):
    """Which submissions are read. See `inspect_ledger`."""

    key: str | None
    endpoint: str | None
    status: Status | None
    since: datetime | None
    unfinished: bool
    unsaved: bool
    last: int | None


def read(address: PostgresAddress, conditions: Conditions) -> tuple[list[Submission], int, int, tuple[int, ...]]:
    """The chosen submissions, how many there are, how many are unfinished, and the processes at work.

    Raises:
        ConfigurationError: It is not a ledger that this version can read.
        LedgerFailed: It cannot be read.
    """
    condition, values = _condition(conditions)
    try:
        with Connector(address).connect() as connection:
            connection.read_only = True
            with connection.transaction():  # all of it is of one moment
                if not require_current(connection, address):
                    return [], 0, 0, ()
                session = Session(connection, address.schema)
                found = select(session, condition, values, last=conditions["last"])
                total = count(session, condition, values)
                return found, total, count(session, UNFINISHED), tuple(living_processes(session))
    except psycopg.Error as error:
        raise explained(address, error) from None


def _condition(wanted: Conditions) -> tuple[str, list[Any]]:
    """The condition in SQL, and what its placeholders stand for."""
    conditions: list[str] = [CURRENT]
    values: list[Any] = []
    for condition, value in (
        ("s.key = %s", wanted["key"]),
        ("%s IN (s.endpoint, split_part(s.endpoint, '/', 1))", wanted["endpoint"]),
        (f"{_JOB_STATUS} = %s", str(wanted["status"]) if wanted["status"] is not None else None),
        ("s.started >= %s", wanted["since"].timestamp() if wanted["since"] is not None else None),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    chosen = ((wanted["unfinished"], UNFINISHED), (wanted["unsaved"], UNSAVED))
    if attention := [f"({condition})" for named, condition in chosen if named]:
        conditions.append(" OR ".join(attention))
    return " AND ".join(f"({condition})" for condition in conditions), values

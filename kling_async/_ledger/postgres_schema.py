"""The ledger's tables in a PostgreSQL schema: whether they are there, ours, and of this version.

They are made and upgraded in one transaction under an advisory lock, so that of many processes that start at once, one
does it and the others wait.
"""

from __future__ import annotations

from psycopg import sql

from kling_async._errors import ConfigurationError, LedgerFailed
from kling_async._ledger.postgres_address import PostgresAddress
from kling_async._ledger.postgres_connection import Connection

__all__ = ["MIGRATIONS", "prepare", "require_current", "written"]

_LOCK = 0x4B4C4E47  # "KLNG". With the schema's name, the advisory lock

_CHARGE = """CASE
    WHEN {row}.expected IS NULL OR {row}.state IN ('not-submitted', 'refused') THEN 0
    WHEN {row}.failed AND {row}.refunds THEN 0
    WHEN {row}.cost IS NULL THEN {row}.expected
    WHEN {row}.ended OR {row}.price IS NULL OR {row}.cost_unit <> {row}.unit THEN {row}.cost
    ELSE greatest({row}.cost, {row}.price) END"""
"""What an attempt counts for: see `charges`."""
_CHARGED = """SELECT coalesce({row}.cost_unit, {row}.unit) AS unit, {row}.cost IS NOT NULL OR {row}.ended AS settled,
    {sign} {charge} AS amount FROM {row}"""
_COUNT = """CREATE FUNCTION {{s}}.{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO {{s}}.balances AS b (slot, unit, spent, reserved)
    SELECT pg_backend_pid(), c.unit, coalesce(sum(c.amount) FILTER (WHERE c.settled), 0),
        coalesce(sum(c.amount) FILTER (WHERE NOT c.settled), 0)
    FROM ({charges}) c WHERE c.unit IS NOT NULL AND c.amount <> 0 GROUP BY c.unit
    HAVING coalesce(sum(c.amount) FILTER (WHERE c.settled), 0) <> 0
        OR coalesce(sum(c.amount) FILTER (WHERE NOT c.settled), 0) <> 0
    ON CONFLICT (slot, unit) DO UPDATE SET spent = b.spent + excluded.spent, reserved = b.reserved + excluded.reserved;
    RETURN NULL; END $$"""


_UNFINISHED = "current AND NOT ended AND released IS NULL AND state NOT IN ('not-submitted', 'refused')"


def _charged(row: str, sign: str) -> str:
    return _CHARGED.format(row=row, sign=sign, charge=_CHARGE.format(row=row))


MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE {s}.attempts (
            number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL, attempt_id text NOT NULL UNIQUE,
            endpoint text NOT NULL, request text NOT NULL, comparable jsonb NOT NULL, fingerprint text NOT NULL,
            started double precision NOT NULL, state text NOT NULL, ref text, reason text, answer text, released text,
            tags text, current boolean NOT NULL DEFAULT true, sender bigint, poller bigint,
            ended boolean NOT NULL DEFAULT false)""",
        "CREATE UNIQUE INDEX current_attempts ON {s}.attempts (key) WHERE current",
        "CREATE INDEX attempts_by_key ON {s}.attempts (key)",
        "CREATE INDEX attempts_by_ref ON {s}.attempts (ref) WHERE ref IS NOT NULL",
        "CREATE INDEX attempts_by_start ON {s}.attempts (started) WHERE current",
        """CREATE INDEX unfinished_attempts ON {s}.attempts (number)
            WHERE current AND NOT ended AND released IS NULL AND state NOT IN ('not-submitted', 'refused')""",
        """CREATE TABLE {s}.events (
            ref text NOT NULL, seq integer NOT NULL, terminal boolean NOT NULL, status text NOT NULL, amount text,
            unit text, artifacts integer NOT NULL, writer bigint, event text NOT NULL, PRIMARY KEY (ref, seq))""",
        """CREATE TABLE {s}.files (
            ref text NOT NULL, position integer NOT NULL, path text NOT NULL, PRIMARY KEY (ref, position))""",
        "CREATE TABLE {s}.stored_values (name text PRIMARY KEY, value text NOT NULL)",
        """CREATE TABLE {s}.owners (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, process integer NOT NULL, host text NOT NULL,
            expires timestamptz NOT NULL)""",
        """CREATE TABLE {s}.poll_requests (
            number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, ref text NOT NULL, report text,
            at timestamptz NOT NULL DEFAULT clock_timestamp())""",
        "CREATE TABLE {s}.calls (account text PRIMARY KEY, next timestamptz NOT NULL)",
        "CREATE TABLE {s}.kling_ledger (version integer NOT NULL)",
        "INSERT INTO {s}.kling_ledger VALUES (0)",
    ),
    (  # each connection has sums of its own, so that none waits for the others. See `postgres_statements.balances`
        """ALTER TABLE {s}.attempts ADD COLUMN unit text, ADD COLUMN expected numeric, ADD COLUMN price numeric,
            ADD COLUMN refunds boolean, ADD COLUMN guessed boolean, ADD COLUMN cost numeric, ADD COLUMN cost_unit text,
            ADD COLUMN failed boolean""",
        "CREATE INDEX uncounted_attempts ON {s}.attempts (number) WHERE expected IS NULL",
        "CREATE INDEX sending_attempts ON {s}.attempts (number) WHERE state = 'sending'",
        """CREATE TABLE {s}.balances (
            slot integer NOT NULL, unit text NOT NULL, spent numeric NOT NULL, reserved numeric NOT NULL,
            PRIMARY KEY (slot, unit)) WITH (fillfactor = 50)""",
        _COUNT.format(name="count_new", charges=_charged("new_rows", "")),
        _COUNT.format(
            name="count_changed", charges=f"{_charged('old_rows', '-')} UNION ALL {_charged('new_rows', '')}"
        ),
        """CREATE TRIGGER attempts_count AFTER INSERT ON {s}.attempts REFERENCING NEW TABLE AS new_rows
            FOR EACH STATEMENT EXECUTE FUNCTION {s}.count_new()""",
        """CREATE TRIGGER charges_change AFTER UPDATE ON {s}.attempts
            REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
            FOR EACH STATEMENT EXECUTE FUNCTION {s}.count_changed()""",
    ),
    (  # slots of accounts. Of earlier attempts, only the provider is known
        "ALTER TABLE {s}.attempts ADD COLUMN account text",
        "DROP INDEX {s}.unfinished_attempts",
        f"UPDATE {{s}}.attempts SET account = split_part(endpoint, '/', 1) WHERE {_UNFINISHED}",  # noqa: S608  # constants
        f"CREATE INDEX unfinished_attempts ON {{s}}.attempts (account, number) WHERE {_UNFINISHED}",
        """CREATE TABLE {s}.slot_queue (
            number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account text NOT NULL,
            attempt_id text NOT NULL UNIQUE, owner bigint NOT NULL)""",
    ),
)
"""One entry for each version of the tables. ``kling_ledger`` has the number of those that have been applied."""
_OLDEST_READABLE = 1
"""The first version whose columns are those that `postgres_statements.select` reads."""


def written(statement: str, schema: str) -> sql.Composed:
    """The statement with the schema in place of ``{s}``."""
    return sql.SQL(statement).format(s=sql.Identifier(schema))  # constants of ours


def prepare(connection: Connection, address: PostgresAddress) -> None:
    """Make the tables, or bring them to this version, if need be.

    Raises:
        ConfigurationError: They are not ours, or of a newer version, or the database does not store all characters.
        LedgerFailed: The server only allows reading.
        psycopg.Error: They cannot be made.
    """
    row = connection.execute("SHOW server_encoding").fetchone()
    if row is None or row[0] != "UTF8":
        raise ConfigurationError(
            f"the ledger {address} has the encoding {row and row[0]}, which cannot store every prompt. Nothing was "
            "submitted; make a database with it: createdb --encoding=UTF8 --template=template0"
        )
    row = connection.execute("SHOW transaction_read_only").fetchone()
    if row is not None and row[0] == "on":
        raise LedgerFailed(
            f"the ledger {address} only allows reading: it is a replica, or default_transaction_read_only is on. "
            "Nothing is submitted without it; give the address of the primary (several hosts: "
            "target_session_attrs=read-write)"
        )
    if _version(connection, address) == len(MIGRATIONS):
        return
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, address.schema))
        version = _version(connection, address)  # another process may have made them meanwhile
        if not version and not _exists(connection, address.schema):
            connection.execute(written("CREATE SCHEMA {s}", address.schema))
        for number, statements in enumerate(MIGRATIONS[version:], version + 1):
            for statement in statements:
                connection.execute(written(statement, address.schema))
            connection.execute(written("UPDATE {s}.kling_ledger SET version = %s", address.schema), (number,))


def require_current(connection: Connection, address: PostgresAddress) -> bool:
    """Check that the tables are of a version that can be read, without changing them. Return whether there are any.

    Raises:
        ConfigurationError: They are not ours, or of another version.
    """
    version = _version(connection, address)
    if 0 < version < _OLDEST_READABLE:
        raise ConfigurationError(
            f"the ledger {address} was written by an older version of kling_async; open it once with a client "
            "(PostgresLedger), which upgrades it"
        )
    return version > 0


def _exists(connection: Connection, schema: str) -> bool:
    return connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone() is not None


def _version(connection: Connection, address: PostgresAddress) -> int:
    """The version of the tables. 0 if there are none.

    Raises:
        ConfigurationError: The schema has tables that are not ours, or of a version that this one does not know.
    """
    rows = connection.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY c.relname",
        (address.schema,),
    ).fetchall()
    names = [name for (name,) in rows]
    if not names:
        return 0
    if "kling_ledger" not in names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")  # noqa: PLR2004  # a few
        raise ConfigurationError(
            f"the ledger {address} cannot be made: the schema {address.schema} has tables of something else ({shown}). "
            "They were left alone, and nothing was submitted; name another schema: "
            'PostgresLedger(dsn, schema="...") or ?schema=... in the address'
        )
    row = connection.execute(written("SELECT version FROM {s}.kling_ledger", address.schema)).fetchone()
    version = int(row[0]) if row else 0
    if version > len(MIGRATIONS):
        raise ConfigurationError(
            f"the ledger {address} was written by a newer version of kling_async (its tables are of version {version}, "
            f"and this one knows {len(MIGRATIONS)}). Nothing was submitted; upgrade kling_async here"
        )
    return version

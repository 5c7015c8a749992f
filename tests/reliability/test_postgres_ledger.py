"""`PostgresLedger` on a real server: what can be wrong with a database, and a server that goes and comes back."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from psycopg import sql

from kling_async import (
    Client,
    ConfigurationError,
    Event,
    JobRef,
    KlingError,
    LedgerFailed,
    Polling,
    PostgresLedger,
    Status,
    Submission,
    SubmissionState,
    inspect_ledger,
    open_ledger,
    runblob,
)
from kling_async.sandbox import Sandbox
from support.deaf_pooler import deaf_pooler
from support.postgres import PASSWORD, Server, serving

pytestmark = pytest.mark.anyio

PATIENCE = 120.0
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
REF = JobRef("runblob", "o3-video", "550e8400-e29b-41d4-a716-446655440000")
REQUEST = runblob.O3Video("a paper boat", duration=5)


def submission(key: str = "row-1", attempt_id: str = "a-1", **more: Any) -> Submission:
    return Submission(
        key=key,
        attempt_id=attempt_id,
        endpoint="runblob/o3-video",
        request={"prompt": "a boat, 船\0"},
        fingerprint="f-1",
        started=NOON,
        **more,
    )


def event(seq: int, status: Status = Status.PROCESSING) -> Event:
    return Event(seq, status, NOON + timedelta(seconds=seq), float(seq), "poll")


@asynccontextmanager
async def client_of(sandbox: Sandbox, ledger: PostgresLedger) -> AsyncIterator[Client]:
    [provider] = [each for each in sandbox.providers() if each.name == "runblob"]
    async with Client(provider, ledger=ledger) as client:
        yield client


def execute(server: Server, statement: str, schema: str, *more: str) -> None:
    with server.connect() as connection:
        names = {"s": sql.Identifier(schema), **{f"n{i}": sql.Identifier(name) for i, name in enumerate(more)}}
        connection.execute(sql.SQL(statement).format(**names))


async def made(server: Server) -> str:
    """A schema with the tables of this version."""
    schema = server.schema()
    ledger = PostgresLedger(server.dsn(), schema=schema)
    await ledger.set_value("a", 1)
    await ledger.aclose()
    return schema


async def failure_of(dsn: str, schema: str | None = None) -> KlingError:
    """The error of a first claim. It shows the password nowhere."""
    ledger = PostgresLedger(dsn, schema=schema)
    with pytest.raises((LedgerFailed, ConfigurationError)) as failed:
        await ledger.claim(submission())
    shown = "".join(traceback.TracebackException.from_exception(failed.value, capture_locals=False).format())
    frames = failed.value.__traceback__
    values = [repr(value) for frame, _ in traceback.walk_tb(frames) for value in frame.f_locals.values()]
    inner = [text for text in values if "dsn" not in text]
    for text in (str(failed.value), repr(ledger), shown, *inner):
        assert PASSWORD not in text
    assert failed.value.__cause__ is None
    await ledger.aclose()
    return failed.value


async def test_a_server_that_cannot_be_reached_is_named_and_nothing_is_bought(sandbox: Sandbox, tmp_path: Path) -> None:
    ledger = PostgresLedger("postgresql://me:se%3Acret@127.0.0.1:9/jobs")
    async with client_of(sandbox, ledger) as client:
        with pytest.raises(
            LedgerFailed, match=r"postgresql://me@127\.0\.0\.1:9/jobs cannot be reached: .*refused"
        ) as no:
            await client.submit(REQUEST, key="row-1")
    assert "start the server or check the address" in str(no.value)
    assert sandbox.counters.bought["runblob"] == 0


async def test_a_wrong_password_is_refused_and_never_shown(postgres: Server) -> None:
    error = await failure_of(postgres.dsn(password="wrong"))
    assert "does not accept the user or the password" in str(error)
    assert "wrong" not in str(error)
    assert "~/.pgpass" in str(error)


async def test_a_database_that_is_not_there_is_named(postgres: Server) -> None:
    error = await failure_of(postgres.dsn(database="nowhere"))
    assert 'database "nowhere" does not exist' in str(error)


async def test_a_server_that_only_allows_reading_is_refused(postgres: Server) -> None:
    schema, role = await made(postgres), postgres.schema()
    execute(postgres, f"CREATE ROLE {{n0}} LOGIN SUPERUSER PASSWORD '{PASSWORD}'", schema, role)
    execute(postgres, "ALTER ROLE {n0} SET default_transaction_read_only = on", schema, role)
    error = await failure_of(postgres.dsn(user=role), schema)
    assert "only allows reading" in str(error)
    assert "target_session_attrs=read-write" in str(error)
    contents = await inspect_ledger(f"{postgres.dsn(user=role)}?schema={schema}")
    assert contents.submissions == []


async def test_a_user_without_rights_learns_what_an_administrator_must_do(postgres: Server) -> None:
    role = postgres.schema()
    execute(postgres, f"CREATE ROLE {{n0}} LOGIN PASSWORD '{PASSWORD}'", role, role)
    error = await failure_of(postgres.dsn(user=role), "their_schema")
    assert "CREATE SCHEMA their_schema AUTHORIZATION" in str(error)


async def test_tables_of_something_else_are_left_alone(postgres: Server) -> None:
    schema = postgres.schema()
    execute(postgres, "CREATE SCHEMA {s}", schema)
    execute(postgres, "CREATE TABLE {s}.attempts (a int)", schema)
    error = await failure_of(postgres.dsn(), schema)
    assert isinstance(error, ConfigurationError)
    assert f"the schema {schema} has tables of something else (attempts)" in str(error)
    with postgres.connect() as connection:
        rows = connection.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (schema,))
        assert rows.fetchall() == [("attempts",)]
    with pytest.raises(ConfigurationError, match="tables of something else"):
        await inspect_ledger(f"{postgres.dsn()}?schema={schema}")


async def test_tables_of_the_first_version_are_upgraded_and_what_they_have_is_read(postgres: Server) -> None:
    """As that version made them, by hand."""
    schema = postgres.schema()
    statements = [
        "CREATE SCHEMA {s}",
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
        "CREATE TABLE {s}.files (ref text, position integer, path text NOT NULL, PRIMARY KEY (ref, position))",
        "CREATE TABLE {s}.stored_values (name text PRIMARY KEY, value text NOT NULL)",
        """CREATE TABLE {s}.owners (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, process integer NOT NULL,
            host text NOT NULL, expires timestamptz NOT NULL)""",
        """CREATE TABLE {s}.poll_requests (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, ref text NOT NULL,
            report text, at timestamptz NOT NULL DEFAULT clock_timestamp())""",
        "CREATE TABLE {s}.calls (account text PRIMARY KEY, next timestamptz NOT NULL)",
        "CREATE TABLE {s}.kling_ledger (version integer NOT NULL)",
        "INSERT INTO {s}.kling_ledger VALUES (1)",
        """INSERT INTO {s}.attempts (key, attempt_id, endpoint, request, comparable, fingerprint, started, state, ref)
            VALUES ('old', 'a-old', 'runblob/o3-video', '{{}}', '{{}}', 'f', 1, 'accepted', 'runblob/o3-video/1'),
                ('lost', 'a-lost', 'runblob/o3-video', '{{}}', '{{}}', 'f', 2, 'unknown', NULL)""",
    ]
    for statement in statements:
        execute(postgres, statement, schema)
    contents = await inspect_ledger(f"{postgres.dsn()}?schema={schema}")
    assert [one.key for one in contents.submissions] == ["old", "lost"], "reading needs no upgrade"
    ledger = PostgresLedger(postgres.dsn(), schema=schema)
    claims = [await ledger.claim(submission(key, f"a-new-{key}")) for key in ("old", "new")]
    assert [one.attempt_id for one in claims] == ["a-old", "a-new-new"]
    await ledger.append_events(JobRef("runblob", "o3-video", "1"), [event(0, Status.COMPLETED)])
    assert [one.key for one in await ledger.submissions(unfinished=True)] == ["lost", "new"]
    await ledger.aclose()


async def test_a_newer_ledger_is_refused(postgres: Server) -> None:
    schema = await made(postgres)
    execute(postgres, "UPDATE {s}.kling_ledger SET version = 99", schema)
    assert "its tables are of version 99" in str(await failure_of(postgres.dsn(), schema))


async def test_a_full_disk_of_the_server_is_named_and_nothing_is_bought(postgres: Server, sandbox: Sandbox) -> None:
    """The server's own code for it, raised by a trigger. The ledger works on when there is space."""
    schema = await made(postgres)
    with postgres.connect() as connection:
        connection.execute(
            sql.SQL(
                """CREATE FUNCTION {s}.no_space() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
                END $$"""
            ).format(s=sql.Identifier(schema))
        )
    execute(postgres, "CREATE TRIGGER no_space BEFORE INSERT ON {s}.attempts EXECUTE FUNCTION {s}.no_space()", schema)
    async with client_of(sandbox, PostgresLedger(postgres.dsn(), schema=schema)) as client:
        with pytest.raises(LedgerFailed, match=r"No space left on device.*free some space on the server"):
            await client.submit(REQUEST, key="row-1")
        assert sandbox.counters.bought["runblob"] == 0
        execute(postgres, "DROP TRIGGER no_space ON {s}.attempts", schema)
        await client.submit(REQUEST, key="row-1")
    assert sandbox.counters.bought["runblob"] == 1


async def test_a_database_that_cannot_store_every_character_is_refused(postgres: Server) -> None:
    name = postgres.schema()
    with postgres.connect() as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {n} ENCODING 'LATIN1' TEMPLATE template0").format(n=sql.Identifier(name))
        )
    error = await failure_of(postgres.dsn(database=name))
    assert "encoding LATIN1" in str(error)
    assert "createdb --encoding=UTF8" in str(error)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:se/cret@host/db",
        "postgresql://me:se@cret:1@host:x/db",
        "postgresql://host/db?nonsense=secret",
        "postgresql://host:secret/db",
    ],
)
def test_an_address_that_cannot_be_read_is_not_repeated(dsn: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        PostgresLedger(dsn)
    assert "cret" not in str(refused.value)
    assert "percent-encoded" in str(refused.value)


def test_an_address_is_shown_without_its_secrets() -> None:
    dsn = "postgresql://me:s3cret@one,two:5433/jobs?sslmode=require&sslpassword=s3cret&schema=a%20b"
    shown = repr(PostgresLedger(dsn))
    assert shown == "<PostgresLedger postgresql://me@one,two:5433/jobs?schema=a%20b>"
    assert "s3cret" not in repr(vars(PostgresLedger(dsn)))


@pytest.mark.parametrize("wrong", ["jobs.db", "mysql://host/db", 7, None])
def test_what_is_no_address_of_postgresql_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="begins with postgresql://"):
        PostgresLedger(wrong)


def test_without_psycopg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'kling-async\[postgres\]'"):
        open_ledger("postgresql://host/db")


@pytest.mark.parametrize(("ahead", "words"), [(3600, "s ahead of that of"), (-3600, "s behind that of"), (5, None)])
async def test_a_clock_that_is_an_hour_wrong_is_reported_once(
    postgres: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ahead: float, words: str | None
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    ledger = PostgresLedger(postgres.dsn(), schema=postgres.schema())
    for number in range(2):
        await ledger.claim(submission(f"row-{number}", f"a-{number}"))
    await ledger.aclose()
    monkeypatch.undo()
    found = [record.getMessage() for record in caplog.records if "the clock of this computer" in record.getMessage()]
    assert len(found) == (words is not None)
    assert all(words in message and "set the clock" in message for message in found if words)


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
async def test_a_computer_whose_clock_is_an_hour_wrong_waits_for_the_jobs_of_others_as_long_as_they_do(
    postgres: Server, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    schema, real = postgres.schema(), time.time
    polling = Polling(deadline=1800)
    [provider] = [each for each in sandbox.providers() if each.name == "runblob"]

    def opened() -> Client:
        return Client(provider, ledger=PostgresLedger(postgres.dsn(), schema=schema), polling=polling)

    async with opened() as right:
        theirs = await right.submit(REQUEST, key="theirs")
        with monkeypatch.context() as wrong_clock:
            wrong_clock.setattr(time, "time", lambda: real() + ahead)
            wrong = opened()
            own = await wrong.submit(REQUEST, key="own")
        async with wrong:
            assert wrong.ledger is not None
            assert right.ledger is not None
            seen = [await one.ledger.find(key="own") for one in (right, wrong) if one.ledger is not None]
            started = [one.started.timestamp() for one in seen if one is not None]
            assert started[1] - started[0] == pytest.approx(ahead, abs=30)
            assert started[0] == pytest.approx(real(), abs=PATIENCE)
            found = {job.key: job for job in await wrong.all_jobs()}
            for job in (found["theirs"], own, *(await right.all_jobs()), theirs):
                assert await job.wait() is Status.COMPLETED  # and not `GenerationTimeout`


async def test_of_many_that_start_at_once_one_makes_the_tables(postgres: Server) -> None:
    schema = postgres.schema()
    ledgers = [PostgresLedger(postgres.dsn(), schema=schema) for _ in range(8)]
    winners = set()

    async def start(ledger: PostgresLedger, number: int) -> None:
        winners.add((await ledger.claim(submission(attempt_id=f"a-{number}"))).attempt_id)

    async with anyio.create_task_group() as group:
        for number, ledger in enumerate(ledgers):
            group.start_soon(start, ledger, number)
    assert len(winners) == 1
    for ledger in ledgers:
        await ledger.aclose()


async def test_ledgers_in_schemas_of_their_own_do_not_see_each_other(postgres: Server) -> None:
    one, other = (PostgresLedger(postgres.dsn(), schema=postgres.schema()) for _ in range(2))
    await one.claim(submission())
    assert await other.find(key="row-1") is None
    assert (await other.claim(submission(attempt_id="a-2"))).attempt_id == "a-2"
    await one.aclose()
    await other.aclose()


async def test_a_ledger_is_inspected_while_it_is_used(postgres: Server) -> None:
    schema = postgres.schema()
    ledger = PostgresLedger(postgres.dsn(), schema=schema)
    for number in range(5):
        one = submission(f"row-{number}", f"a-{number}")
        await ledger.claim(replace(one, started=NOON + timedelta(hours=number)))
        ref = JobRef("runblob", "o3-video", f"job-{number}")
        await ledger.record_outcome(replace(one, state=SubmissionState.ACCEPTED, ref=ref))
        await ledger.append_events(ref, [event(0), event(1, Status.COMPLETED if number % 2 else Status.PROCESSING)])
    place = f"{postgres.dsn()}?schema={schema}"
    contents = await inspect_ledger(place, last=2)
    assert [one.key for one in contents.submissions] == ["row-3", "row-4"]
    assert (contents.total, contents.unfinished) == (5, 3)
    assert len(contents.processes) == 1
    assert (await inspect_ledger(place, status=Status.COMPLETED)).total == 2
    assert (await inspect_ledger(place, unfinished=True)).total == 3
    assert (await inspect_ledger(place, endpoint="runblob", since=NOON + timedelta(hours=3))).total == 2
    assert [one.key for one in (await inspect_ledger(place, key="row-1")).submissions] == ["row-1"]
    await ledger.aclose()


async def test_a_connection_that_the_server_ends_is_made_anew(postgres: Server) -> None:
    """Its own name, because other tests are at work on the same server."""
    schema = await made(postgres)
    ledger = PostgresLedger(f"{postgres.dsn()}?application_name={schema}", schema=schema)
    await ledger.claim(submission())
    with postgres.connect() as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", (schema,)
        ).fetchall()
        assert ended
    assert (await ledger.claim(submission(attempt_id="a-2"))).attempt_id == "a-1"
    await ledger.aclose()


class Watcher:
    """Keeps what the ledger notifies of."""

    def __init__(self) -> None:
        self.recorded: list[Event] = []
        self.woken = anyio.Event()

    def on_leased(self, refs: Any) -> None: ...

    def on_lost(self, refs: Any) -> None: ...

    def on_poll_requested(self, ref: str, report: Any) -> None: ...

    def on_recorded(self, ref: str, events: Any) -> None:
        self.recorded += events
        self.woken.set()


async def test_behind_a_pooler_that_breaks_listen_the_tables_are_read_and_that_is_said_once(
    postgres: Server, caplog: pytest.LogCaptureFixture
) -> None:
    schema = await made(postgres)
    watcher = Watcher()
    with deaf_pooler(postgres) as dsn:
        writer, reader = PostgresLedger(dsn, schema=schema), PostgresLedger(dsn, schema=schema)
        reader.watch(watcher)
        await writer.claim(submission())
        await writer.record_outcome(submission(state=SubmissionState.ACCEPTED, ref=REF))
        assert writer.want(str(REF))
        assert not reader.want(str(REF))
        number = 0
        with anyio.fail_after(PATIENCE), caplog.at_level(logging.WARNING):
            while "delivers no notifications" not in caplog.text:
                await writer.append_events(REF, [event(number)])
                await watcher.woken.wait()
                watcher.woken, number = anyio.Event(), number + 1
        assert [one.seq for one in watcher.recorded] == list(range(number))
        assert caplog.text.count("delivers no notifications") == 1
        assert PASSWORD not in caplog.text
        await reader.aclose()
        await writer.aclose()


@pytest.mark.slow
@pytest.mark.sandbox(speed=60)
async def test_a_server_that_stops_and_comes_back_loses_nothing(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    with serving() as server:
        ledger = PostgresLedger(server.dsn())
        async with client_of(sandbox, ledger) as client:
            running = await client.submit(REQUEST, key="running")
            server.stop()
            with anyio.fail_after(PATIENCE):
                await running  # polled on, though its events cannot be recorded
                with pytest.raises(LedgerFailed, match="cannot be reached"):
                    await client.submit(REQUEST, key="refused")
            assert sandbox.counters.bought["runblob"] == 1
            server.start()
            with anyio.fail_after(PATIENCE):
                # What could not be recorded is recorded without being asked for.
                while (await inspect_ledger(server.dsn())).unfinished:  # noqa: ASYNC110  # the ledger's thread
                    await anyio.sleep(0.1)
                while True:
                    try:
                        job = await client.submit(REQUEST, key="refused")
                        break
                    except LedgerFailed:
                        await anyio.lowlevel.checkpoint()
                await job
        assert sandbox.counters.bought["runblob"] == 2
        contents = await inspect_ledger(server.dsn())
        assert {one.key: one.status for one in contents.submissions} == {
            "running": Status.COMPLETED,
            "refused": Status.COMPLETED,
        }
        assert PASSWORD not in caplog.text


async def test_a_claim_whose_confirmation_was_lost_is_withdrawn(postgres: Server) -> None:
    """The server died between its commit and its answer: the claim is durable, and nothing was sent for it."""
    schema = await made(postgres)
    ledger = PostgresLedger(postgres.dsn(), schema=schema)
    await ledger.set_value("a", 1)
    execute(
        postgres,
        "INSERT INTO {s}.attempts (key, attempt_id, endpoint, request, comparable, fingerprint, started, state) "
        "VALUES ('row-1', 'lost', 'runblob/o3-video', '{{}}', '{{}}', 'f', 0, 'sending')",
        schema,
    )
    ledger._withdrawn.add("lost")
    assert (await ledger.claim(submission(attempt_id="a-2"))).attempt_id == "a-2"
    lost = await ledger.find(attempt_id="lost")
    assert lost is not None
    assert lost.state is SubmissionState.NOT_SUBMITTED
    assert "did not confirm" in str(lost.reason)
    await ledger.aclose()


def test_the_server_of_the_tests_speaks(postgres: Server) -> None:
    with postgres.connect() as connection:
        assert isinstance(connection, psycopg.Connection)
        assert connection.info.server_version >= 150000

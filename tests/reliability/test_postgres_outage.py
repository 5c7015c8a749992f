"""A database server that stops in the middle of a bulk run, and is started again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

import anyio
import pytest

from kling_async import (
    BulkStopped,
    Client,
    LedgerFailed,
    Outcome,
    PostgresLedger,
    Request,
    Status,
    inspect_ledger,
    runblob,
)
from kling_async.sandbox import Sandbox
from support.postgres import PASSWORD, Server, serving

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.network_sandbox]

PATIENCE = 120.0
ROWS = 40

Row: TypeAlias = tuple[str, Request]


@contextmanager
def noticing(text: str) -> Iterator[anyio.Event]:
    """An event that is set when a message with this text is logged."""
    found = anyio.Event()

    class Notice(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert PASSWORD not in record.getMessage()
            if text in record.getMessage():
                found.set()

    handler = Notice()
    log = logging.getLogger("kling_async")
    log.addHandler(handler)
    try:
        yield found
    finally:
        log.removeHandler(handler)


async def in_two_parts(rows: Sequence[Row], stopped: anyio.Event) -> AsyncIterator[Row]:
    """The rows, the second half of them only when the server was stopped, so that some are left that need it."""
    for number, row in enumerate(rows):
        if number == len(rows) // 2:
            await stopped.wait()
        yield row


@pytest.mark.sandbox(speed=600, scale=0.1)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the ledger's thread is the same
async def test_rows_wait_for_a_server_that_is_started_again(sandbox: Sandbox, tmp_path: Path) -> None:
    rows: list[Row] = [(f"row-{row}", runblob.O3Photo(f"boat {row}", resolution="1k")) for row in range(ROWS)]
    [provider] = [each for each in sandbox.providers() if each.name == "runblob"]
    outcomes: list[Outcome] = []
    stopped = anyio.Event()

    async def restart(server: Server, waiting: anyio.Event) -> None:
        await anyio.to_thread.run_sync(server.stop)
        stopped.set()
        await waiting.wait()
        await anyio.to_thread.run_sync(server.start)

    with serving() as server, noticing("Rows wait for it") as waiting:
        async with Client(provider, ledger=PostgresLedger(server.dsn())) as client:
            with anyio.fail_after(PATIENCE):
                async with (
                    anyio.create_task_group() as group,
                    client.map(in_two_parts(rows, stopped), in_flight=4, save_to=tmp_path) as run,
                ):
                    async for outcome in run:
                        outcomes.append(outcome)
                        if len(outcomes) == ROWS // 4:
                            group.start_soon(restart, server, waiting)
        contents = await inspect_ledger(server.dsn())
    assert waiting.is_set()
    assert [outcome.error for outcome in outcomes] == [None] * ROWS
    assert {outcome.key for outcome in outcomes} == {key for key, _ in rows}
    assert sandbox.counters.bought["runblob"] == ROWS
    assert {one.key: one.files for one in contents.submissions} == {one.key: one.files for one in outcomes}
    assert {one.key: one.status for one in contents.submissions} == {key: Status.COMPLETED for key, _ in rows}


async def test_a_server_that_was_never_there_is_not_waited_for(sandbox: Sandbox) -> None:
    [provider] = [each for each in sandbox.providers() if each.name == "runblob"]
    ledger = PostgresLedger("postgresql://me@127.0.0.1:9/jobs")
    async with Client(provider, ledger=ledger) as client, client.map([runblob.O3Photo("a boat")]) as run:
        outcome = await anext(run)
        with pytest.raises(BulkStopped, match="cannot be reached"):
            await anext(run)
    assert isinstance(outcome.error, LedgerFailed)
    assert not outcome.error.temporary
    assert sandbox.counters.bought["runblob"] == 0


@pytest.mark.sandbox(speed=600, scale=0.1)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the same
async def test_rows_wait_for_a_replica_that_becomes_the_primary(sandbox: Sandbox) -> None:
    """A real one. Before that, it is named as what it is, and nothing is bought."""
    rows: list[Row] = [(f"row-{row}", runblob.O3Photo(f"boat {row}", resolution="1k")) for row in range(ROWS // 2)]
    [provider] = [each for each in sandbox.providers() if each.name == "runblob"]
    outcomes: list[Outcome] = []
    stopped = anyio.Event()

    async def fail_over(server: Server, replica: Server, waiting: anyio.Event) -> None:
        await anyio.to_thread.run_sync(server.stop)
        stopped.set()
        await waiting.wait()
        await anyio.to_thread.run_sync(replica.promote)

    with serving() as server, server.replica() as replica, noticing("Rows wait for it") as waiting:
        with server.connect() as connection:  # no commit is lost with the primary
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        async with Client(provider, ledger=PostgresLedger(replica.dsn())) as client:
            with pytest.raises(LedgerFailed, match=r"only allows reading: it is a replica.*address of the primary"):
                await client.submit(rows[0][1], key="row-0")
        assert sandbox.counters.bought["runblob"] == 0
        hosts = f"host={server.home},{replica.home}&target_session_attrs=read-write"
        dsn = f"postgresql://postgres:{quote(PASSWORD, safe='')}@/postgres?{hosts}"
        async with Client(provider, ledger=PostgresLedger(dsn)) as client:
            with anyio.fail_after(PATIENCE):
                async with (
                    anyio.create_task_group() as group,
                    client.map(in_two_parts(rows, stopped), in_flight=4) as run,
                ):
                    async for outcome in run:
                        outcomes.append(outcome)
                        if len(outcomes) == len(rows) // 4:
                            group.start_soon(fail_over, server, replica, waiting)
        contents = await inspect_ledger(replica.dsn())
    assert waiting.is_set()
    assert [outcome.error for outcome in outcomes] == [None] * len(rows)
    assert [one.status for one in contents.submissions] == [Status.COMPLETED] * len(rows)
    assert sandbox.counters.bought["runblob"] == len(rows)

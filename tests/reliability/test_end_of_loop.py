"""Paid calls that are under way when an event loop ends, on real sockets, judged by the sandbox's counters."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kling_async import Client, Limits, Polling, Progressive, SqliteLedger, inspect_ledger, runblob
from kling_async.sandbox import Fault, Sandbox

PHOTO = runblob.O3Photo("a boat", resolution="1k")
QUICK = Polling(schedule=Progressive(0.1), status_calls_per_minute=math.inf, deadline=60)
JOBS = 10


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(speed=600) as made:
        made.faults.add(Fault.delay, kind="submit", seconds=0.5)
        yield made


def make_client(sandbox: Sandbox, **settings: Any) -> Client:
    [provider] = [provider for provider in sandbox.providers() if provider.name == "runblob"]
    return Client(provider, polling=QUICK, **settings)


async def buy(sandbox: Sandbox, client: Client) -> set[asyncio.Task[Any]]:
    """Begin to submit, and return when the provider has received every request."""
    tasks = {asyncio.create_task(client.submit(PHOTO, key=f"row-{number}")) for number in range(JOBS)}
    while sandbox.counters.requests["runblob", "submit"] < JOBS:  # noqa: ASYNC110  # another thread counts
        await asyncio.sleep(0.01)
    return tasks


def test_the_end_of_asyncio_run_waits_for_paid_calls_that_were_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    client = make_client(sandbox, ledger=SqliteLedger(tmp_path / "jobs.db"), limits=Limits(cancel_grace=60))
    kept: list[set[asyncio.Task[Any]]] = []

    async def program() -> None:
        kept.append(await buy(sandbox, client))

    asyncio.run(program())
    assert sandbox.counters.bought["runblob"] == JOBS
    assert len(list(client.jobs)) == JOBS
    assert all(task.cancelled() for task in kept[0])
    asyncio.run(client.aclose())
    stored = asyncio.run(inspect_ledger(tmp_path / "jobs.db")).submissions
    assert [submission.state for submission in stored] == ["accepted"] * JOBS


def test_a_program_that_cancels_all_tasks_loses_no_job(sandbox: Sandbox) -> None:
    async def program() -> None:
        async with make_client(sandbox, limits=Limits(cancel_grace=60)) as client:
            await buy(sandbox, client)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.wait(others)
            assert len(list(client.jobs)) == JOBS

    asyncio.run(program())
    assert sandbox.counters.bought["runblob"] == JOBS


def test_the_grace_time_bounds_the_end_of_asyncio_run(sandbox: Sandbox) -> None:
    sandbox.faults.clear()
    sandbox.faults.add(Fault.delay, kind="submit", seconds=600)
    client = make_client(sandbox, limits=Limits(cancel_grace=0.2, call=1000))

    async def program() -> None:
        await buy(sandbox, client)

    asyncio.run(program())
    assert list(client.jobs) == []
    asyncio.run(client.aclose())

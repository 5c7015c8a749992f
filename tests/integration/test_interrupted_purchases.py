"""Cancelled or killed in the middle of a purchase at Kling and Runware, which know a purchase by an id of ours.

fal and Replicate are asked in another way: `test_killed_and_cancelled.py`.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio
import pytest

from kling_async import (
    Client,
    Job,
    Polling,
    Progressive,
    Request,
    SqliteLedger,
    SubmissionUnknown,
    kling,
    runware,
)
from kling_async.providers import ALL_PROVIDERS
from kling_async.sandbox import Fault, Sandbox
from support.cancel_at_step import cancelled_at

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox(speed=600)]
QUICK = Polling(schedule=Progressive(0.02), status_calls_per_minute=math.inf)
PATIENCE = 120.0  # s
LONGEST = 200  # steps of one submission
SELLERS: dict[str, Callable[[object], Request]] = {
    "kling": lambda row: kling.ImageGeneration(f"lamp {row}"),
    "runware": lambda row: runware.ImageO3(f"lamp {row}"),
}


def request(seller: str, row: object) -> Request:
    return SELLERS[seller](row)


def client_at(seller: str, api_key: str, base_url: str, ledger: Path) -> Client:
    [kind] = [kind for kind in ALL_PROVIDERS if kind.name == seller]
    provider = kind(api_key, base_url)
    provider.speed = 600
    return Client(provider, polling=QUICK, ledger=SqliteLedger(ledger))


async def submit_again(client: Client, seller: str, rows: range) -> tuple[list[Job], list[str]]:
    """Submit the same keys again. What came of them: jobs, and the keys that nobody can say anything about."""
    jobs, unknown = [], []
    for row in rows:
        try:
            jobs.append(await client.submit(request(seller, row), key=f"row-{row}"))
        except SubmissionUnknown as error:
            unknown.append(str(error.key))
    return jobs, unknown


@pytest.mark.parametrize("native", [False, True], ids=["scope", "task"])
@pytest.mark.parametrize("fault", [None, Fault.accept_then_reset], ids=["answered", "lost"])
@pytest.mark.parametrize("seller", SELLERS)
async def test_cancelled_at_any_step_of_a_submission_nothing_is_lost_or_bought_twice(
    sandbox: Sandbox, tmp_path: Path, seller: str, fault: Fault | None, native: bool, anyio_backend_name: str
) -> None:
    if native and anyio_backend_name == "trio":
        pytest.skip("a task cannot be cancelled but by its scope")
    if fault is not None:
        sandbox.faults.add(fault, kind="submit", provider=seller, every=2)
    address = sandbox.api_key(seller), sandbox.base_url(seller)
    row, under_way = 0, True
    async with client_at(seller, *address, tmp_path / "jobs.db") as client:
        while under_way and row < LONGEST:
            row += 1
            submission = partial(client.submit, request(seller, row), key=f"row-{row}")
            try:
                under_way = await cancelled_at(row, submission, native=native)
            except SubmissionUnknown:
                under_way = False
        assert not under_way
        assert row > 1
        sandbox.faults.clear()
        sandbox.state.clock.advance(3000)
        await client.resume()
        jobs, unknown = await submit_again(client, seller, range(1, row + 1))
        assert sorted(unknown) == sorted(str(each.key) for each in await client.unresolved())
    assert len({job.ref for job in jobs}) == len(jobs)
    assert len(jobs) <= sandbox.counters.bought[seller] <= len(jobs) + len(unknown)
    if fault is None:
        assert not unknown, "a call that was answered is waited for"


def program(ready: Connection, seller: str, api_key: str, base_url: str, ledger: str) -> None:
    """Submits one request after the other, and says when the first is accepted."""

    async def main() -> None:
        async with client_at(seller, api_key, base_url, Path(ledger)) as client:
            for row in range(1000):
                await client.submit(request(seller, row), key=f"row-{row}")
                if row == 0:
                    ready.send(None)

    anyio.run(main)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the program is the same
@pytest.mark.parametrize("delay", [0.0, 0.07])
@pytest.mark.parametrize("seller", SELLERS)
async def test_a_program_that_is_killed_while_it_buys_loses_no_job_and_buys_none_twice(
    sandbox: Sandbox, tmp_path: Path, seller: str, delay: float
) -> None:
    address: tuple[Any, ...] = sandbox.api_key(seller), sandbox.base_url(seller), tmp_path / "jobs.db"
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=program, args=(theirs, seller, *map(str, address)))
    process.start()
    try:
        assert await anyio.to_thread.run_sync(mine.poll, PATIENCE)
        await anyio.sleep(delay)  # the moment of death
    finally:
        process.kill()
        await anyio.to_thread.run_sync(process.join)
        mine.close()
        theirs.close()
    sandbox.state.clock.advance(3000)
    async with client_at(seller, *address) as client:
        resumed = await client.resume()
        bought = sandbox.counters.bought[seller]
        unknown = await client.unresolved()
        assert 1 <= len(resumed) <= bought <= len(resumed) + len(unknown)
        jobs, lost = await submit_again(client, seller, range(len(resumed) + len(unknown)))
        assert {job.ref for job in resumed} <= {job.ref for job in jobs}
        assert len(lost) <= len(unknown)
        assert (await resumed[0]).urls
    assert sandbox.counters.bought[seller] <= len(jobs) + len(lost)

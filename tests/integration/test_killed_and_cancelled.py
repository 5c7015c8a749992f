"""Killed while buying, or cancelled at any moment, no job is lost and none is bought twice.

fal and Replicate can list what was bought. Kling and Runware know a purchase by an id of ours, and are asked again.

A submission and its recovery run in a task of their own, which a cancellation does not reach, so that their caller has
few steps. They are cancelled at many turns of the event loop as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from kling_async import MemoryLedger, SqliteLedger, SubmissionUnknown
from kling_async.sandbox import Fault, Sandbox
from support.cancel_at_step import reached
from support.seller_process import SELLERS, buying_program, client_of, request

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox(speed=2000)]
LISTING = ("fal", "replicate")
ASKED_AGAIN = ("kling", "runware")
STEPS = 400  # more than any of the operations has
TURNS = (*range(1, 12), *range(12, 60, 6))  # of the event loop: from before the first byte to after the answer
LATER = 3000.0  # s, after which fal's list of finished requests has every job


async def cancelled_after(turns: int, operation: Callable[[], Awaitable[Any]]) -> None:
    """Cancel the operation after so many turns of the event loop, or let it end before."""
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await operation()
            group.cancel_scope.cancel()

        group.start_soon(run)
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


@pytest.mark.parametrize("name", LISTING)
async def test_cancelled_at_any_turn_of_a_submission_its_key_buys_one_job(
    sandbox: Sandbox, tmp_path: Path, name: str
) -> None:
    async with client_of(sandbox, name, ledger=SqliteLedger(tmp_path / "jobs.db")) as client:
        for count, turns in enumerate(TURNS, 1):
            submit = partial(client.submit, request(name, f"row-{turns}"), key=f"row-{turns}")
            await cancelled_after(turns, submit)
            job = await submit()
            assert sandbox.counters.bought[name] == sandbox.counters.requests[name, "submit"] == count
            assert job.key == f"row-{turns}"
        assert await client.unresolved() == []


@pytest.mark.sandbox(speed=1)  # faster, Replicate deletes a request before a slow machine has looked for it
@pytest.mark.parametrize("name", LISTING)
async def test_cancelled_at_any_turn_of_a_recovery_the_lost_job_is_found_later(
    sandbox: Sandbox, tmp_path: Path, name: str
) -> None:
    async with client_of(sandbox, name, ledger=SqliteLedger(tmp_path / "jobs.db")) as client:
        for count, turns in enumerate(TURNS, 1):
            sandbox.faults.add(Fault.accept_then_reset, kind="submit", provider=name, times=1)
            with pytest.raises(SubmissionUnknown):
                await client.submit(request(name, f"row-{turns}"), key=f"row-{turns}")
            sandbox.state.clock.advance(LATER)
            await cancelled_after(turns, client.resume)
            await client.resume()
            assert await client.unresolved() == []
            assert sandbox.counters.bought[name] == sandbox.counters.requests[name, "submit"] == count


@pytest.mark.sandbox(speed=60)  # Replicate deletes results after an hour, which is a minute here
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the killed program is the same
@pytest.mark.parametrize("delay", [0.0, 0.07])
@pytest.mark.parametrize("name", SELLERS)
async def test_a_program_killed_while_it_buys_loses_no_job_and_buys_none_twice(
    sandbox: Sandbox, tmp_path: Path, name: str, delay: float
) -> None:
    path = tmp_path / "jobs.db"
    async with buying_program(sandbox, name, path):
        await anyio.sleep(delay)  # the moment of death
    sandbox.state.clock.advance(LATER)
    async with client_of(sandbox, name, ledger=SqliteLedger(path)) as client:
        jobs = await client.resume()
        unknown = await client.unresolved()
        assert len(unknown) <= 1, "one submission was on its way when it died"
        bought = sandbox.counters.bought[name]
        assert jobs
        assert len(jobs) <= bought <= len(jobs) + len(unknown)
        for job in jobs:
            assert job.key is not None
            assert (await client.submit(request(name, job.key), key=job.key)).ref == job.ref
        assert (await jobs[0]).urls
    assert sandbox.counters.bought[name] == bought


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("name", SELLERS)
async def test_cancelled_at_any_step_of_a_submission_its_key_buys_one_job(
    sandbox: Sandbox, name: str, native: bool, anyio_backend_name: str
) -> None:
    if native and anyio_backend_name == "trio":
        pytest.skip("a task cannot be cancelled but by its scope")
    async with client_of(sandbox, name, ledger=MemoryLedger()) as client:
        for count in itertools.count(1):
            key = f"row-{count}"
            submit = partial(client.submit, request(name, key), key=key)
            under_way = await reached(count, submit, native=native)
            job = await submit()
            assert job.key == key
            assert sandbox.counters.bought[name] == count
            assert count < STEPS
            if not under_way:
                break
        assert count > 1
        assert await client.unresolved() == []


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("name", ASKED_AGAIN)
async def test_cancelled_at_any_step_while_answers_are_lost_each_key_buys_one_job(
    sandbox: Sandbox, tmp_path: Path, name: str, native: bool, anyio_backend_name: str
) -> None:
    if native and anyio_backend_name == "trio":
        pytest.skip("a task cannot be cancelled but by its scope")
    sandbox.faults.add(Fault.accept_then_reset, kind="submit", provider=name, every=2)
    async with client_of(sandbox, name, ledger=SqliteLedger(tmp_path / "jobs.db")) as client:
        for count in itertools.count(1):
            submit = partial(client.submit, request(name, f"row-{count}"), key=f"row-{count}")
            under_way = await reached(count, submit, native=native)
            assert count < STEPS
            if not under_way:
                break
        assert count > 1
        await client.resume()
        rows = range(1, count + 1)
        jobs = [await client.submit(request(name, f"row-{row}"), key=f"row-{row}") for row in rows]
        assert await client.unresolved() == []
    assert len({job.ref for job in jobs}) == count
    assert sandbox.counters.bought[name] == count


@pytest.mark.parametrize("name", LISTING)
async def test_cancelled_at_any_step_of_a_recovery_the_lost_job_is_found_later(sandbox: Sandbox, name: str) -> None:
    async with client_of(sandbox, name, ledger=MemoryLedger()) as client:
        for count in itertools.count(1):
            key = f"row-{count}"
            sandbox.faults.add(Fault.accept_then_reset, kind="submit", provider=name, times=1)
            with pytest.raises(SubmissionUnknown):
                await client.submit(request(name, key), key=key)
            sandbox.state.clock.advance(LATER)
            under_way = await reached(count, client.resume, native=False)
            await client.resume()
            assert await client.unresolved() == []
            assert sandbox.counters.bought[name] == sandbox.counters.requests[name, "submit"] == count
            assert count < STEPS
            if not under_way:
                break
        assert count > 1


@pytest.mark.parametrize("name", SELLERS)
async def test_cancelled_at_any_step_of_reading_a_result_it_is_read_later(sandbox: Sandbox, name: str) -> None:
    async with client_of(sandbox, name, ledger=MemoryLedger()) as client:
        for count in itertools.count(1):
            job = await client.submit(request(name, f"row-{count}"))

            async def read(job: Any = job) -> None:
                await job

            under_way = await reached(count, read, native=False)
            with anyio.fail_after(120):
                assert (await job).urls
            assert count < STEPS
            if not under_way:
                break
        assert count > 1
    assert sandbox.counters.bought[name] == count

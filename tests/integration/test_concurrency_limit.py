"""`Limits(concurrency=...)` against a real server: how many jobs of an account run at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from kling_async import (
    Client,
    Job,
    KlingError,
    Ledger,
    Limits,
    MemoryLedger,
    Polling,
    PostgresLedger,
    Progressive,
    RateLimited,
    SqliteLedger,
    SubmissionUnknown,
    runblob,
)
from kling_async.sandbox import Sandbox

pytestmark = pytest.mark.anyio

PATIENCE = 120.0
Opened = Callable[[], Ledger | None]


with_a_ledger = pytest.mark.parametrize("opened", ["memory", "sqlite", "postgres"], indirect=True)


@pytest.fixture(params=["none", "sqlite", "postgres"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens the ledger of a client."""
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        schema = server.schema()
        return lambda: PostgresLedger(server.dsn(), schema=schema)
    made: dict[str, Opened] = {
        "none": lambda: None,
        "memory": MemoryLedger,
        "sqlite": lambda: SqliteLedger(tmp_path / "jobs.db"),
    }
    return made[request.param]


def make_client(sandbox: Sandbox, ledger: Ledger | None, concurrency: Any = 2, **limits: Any) -> Client:
    [provider] = [each for each in sandbox.providers() if each.name == "runblob"]
    polling = Polling(schedule=Progressive(0.02), status_calls_per_minute=float("inf"))
    return Client(provider, ledger=ledger, limits=Limits(concurrency=concurrency, **limits), polling=polling)


def request(number: int) -> runblob.O3Photo:
    return runblob.O3Photo(f"a boat, study {number}", resolution="1k")


def peak(sandbox: Sandbox) -> int:
    """The most jobs that ran at once, by what the server knows."""
    jobs = list(sandbox.state.jobs.values())
    return max((sum(other.created <= job.created < other.ends for other in jobs) for job in jobs), default=0)


async def test_jobs_submitted_one_after_the_other_and_awaited_later(sandbox: Sandbox, opened: Opened) -> None:
    """Nobody waits for the first ones while the third is submitted: the submission has them polled."""
    async with make_client(sandbox, opened()) as client:
        with anyio.fail_after(PATIENCE):
            jobs = [await client.submit(request(number)) for number in range(5)]
            results = [await job for job in jobs]
    assert all(result.urls for result in results)
    assert peak(sandbox) == 2


async def test_a_bulk_run_and_single_submissions_share_the_slots(sandbox: Sandbox, opened: Opened) -> None:
    done: list[Any] = []
    async with make_client(sandbox, opened(), {"runblob": 3}) as client:

        async def single(number: int) -> None:
            done.append(await client.run(request(number)))

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for number in range(4):
                    group.start_soon(single, number)
                async with client.map([request(100 + number) for number in range(6)]) as outcomes:
                    done += [outcome async for outcome in outcomes if outcome.error is None]
    assert len(done) == 10
    assert peak(sandbox) == 3
    assert sandbox.counters.bought["runblob"] == 10


async def test_who_waits_can_be_cancelled_and_times_out_with_nothing_bought(
    sandbox: Sandbox, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.faults.add("stuck:job:times=1")
    async with make_client(sandbox, opened(), 1, slot_timeout=0.3) as client:
        await client.submit(request(1))
        with caplog.at_level(logging.INFO, "kling_async"), anyio.move_on_after(0.05) as scope:
            await client.submit(request(2), key="two")
        assert scope.cancelled_caught
        assert "'two' waits for a free slot: 1 jobs may run at once at the runblob account" in caplog.text
        with pytest.raises(RateLimited, match=r"1 jobs are unfinished, and at most 1 may run.*nothing was sent") as no:
            await client.submit(request(2), key="two")
        assert no.value.code == "concurrency"
    assert sandbox.counters.bought["runblob"] == 1


@with_a_ledger
async def test_an_unknown_submission_keeps_its_slot_until_the_user_decides(
    sandbox: Sandbox, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.faults.add("reset-before-reading:submit:times=1")
    async with make_client(sandbox, opened(), 1, slot_timeout=0.1) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(request(1), key="lost")
        assert "submission 'lost' keeps one of the 1 slots of the runblob account" in caplog.text
        with pytest.raises(RateLimited, match="The outcome of 1 of these submissions is unknown \\('lost'\\)") as no:
            await client.submit(request(2), key="two")
        assert "client.forget('lost')" in str(no.value)
        await client.forget("lost")
        await client.run(request(2), key="two")
    assert sandbox.counters.bought["runblob"] == 1


@with_a_ledger
async def test_a_key_that_has_a_job_needs_no_slot(sandbox: Sandbox, opened: Opened) -> None:
    sandbox.faults.add("stuck:job:times=1")
    async with make_client(sandbox, opened(), 1) as client:
        first = await client.submit(request(1), key="one")
        waiting = anyio.Event()

        async def wait() -> None:
            waiting.set()
            await client.submit(request(2), key="two")

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await waiting.wait()
            again = await client.submit(request(1), key="one")
            group.cancel_scope.cancel()
        assert again.ref == first.ref


async def test_a_client_that_is_closed_lets_nobody_wait(sandbox: Sandbox, opened: Opened) -> None:
    sandbox.faults.add("stuck:job:times=1")
    client = make_client(sandbox, opened(), 1)
    await client.submit(request(1))
    ended: list[KlingError] = []

    async def wait() -> None:
        try:
            await client.submit(request(2))
        except KlingError as error:
            ended.append(error)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await client.aclose()
    assert len(ended) == 1
    assert "closed" in str(ended[0])
    assert sandbox.counters.bought["runblob"] == 1


async def test_two_clients_with_one_ledger_share_the_slots_and_one_takes_over_from_the_dead(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """The jobs of a process that is gone end because another one that needs their slots has them polled."""
    gone = make_client(sandbox, SqliteLedger(tmp_path / "jobs.db", lease=1))
    await gone.submit(request(1))
    await gone.submit(request(2))
    await gone.aclose()
    async with make_client(sandbox, SqliteLedger(tmp_path / "jobs.db", lease=1)) as client:
        with anyio.fail_after(PATIENCE):
            job: Job = await client.submit(request(3))
            assert (await job).urls
            assert len(await client.all_jobs()) < 2
    assert peak(sandbox) == 2


async def test_a_provider_without_a_number_has_no_limit(sandbox: Sandbox) -> None:
    async with make_client(sandbox, None, {"fal": 1}) as client:
        jobs = [await client.submit(request(number)) for number in range(3)]
        for job in jobs:
            await job
    assert peak(sandbox) == 3

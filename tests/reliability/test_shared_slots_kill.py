"""Processes that share an account's slots are killed at random: never too many jobs at once, and all of them end.

In a normal run one seed for each kind of ledger. ``KLING_KILL_SEEDS`` is another number of seeds.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from kling_async import Ledger, RunBlob, Status
from kling_async.sandbox import Sandbox
from support import sharing_process
from support.sharing_process import Team

SEEDS = int(os.environ.get("KLING_KILL_SEEDS", "1"))
KEYS, PROCESSES, KILLS, LIMIT = 40, 3, 2, 5


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.sandbox(speed=200)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the killed programs are the same
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_never_more_jobs_at_once_than_the_limit_and_all_of_them_end(
    sandbox: Sandbox, tmp_path: Path, shared: tuple[Callable[[str], Ledger], str], seed: int
) -> None:
    dice = random.Random(seed)
    opened, place = shared
    keys = [f"row-{number}" for number in range(KEYS)]
    seller = {"api_key": sandbox.api_key("runblob"), "base_url": sandbox.base_url("runblob")}
    team = Team(seller, opened, place, tmp_path / "notes", keys, concurrency=LIMIT)
    for _ in range(PROCESSES):
        await anyio.to_thread.run_sync(team.start)
    for kill in range(1, KILLS + 1):
        while sandbox.counters.bought["runblob"] < kill * KEYS // (KILLS + 2):  # noqa: ASYNC110  # of another thread
            await anyio.sleep(0.01)
        await anyio.sleep(dice.uniform(0.0, 0.2))  # the moment of death: what this test is about
        await anyio.to_thread.run_sync(team.kill, dice.randrange(len(team.running)))
        await anyio.to_thread.run_sync(team.start)
    await anyio.to_thread.run_sync(team.join)
    client = sharing_process.make_client(RunBlob(**seller), opened(place), concurrency=LIMIT)
    async with client:
        for job in await client.resume():
            await job.wait()
        assert client.ledger is not None
        submissions = await client.ledger.submissions()
        unresolved = {submission.key for submission in await client.unresolved()}
    assert team.killed
    assert Counter(submission.key for submission in submissions) == Counter(keys)
    finished = {submission.key for submission in submissions if submission.status is Status.COMPLETED}
    assert finished | unresolved == set(keys)
    bought = list(sandbox.state.jobs.values())
    at_once = [sum(other.created <= job.created < other.ends for other in bought) for job in bought]
    assert max(at_once) <= LIMIT

"""Processes that share a ledger are killed at random: nothing is bought twice, and nothing is left."""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

from kling_async import Status
from support import sharing_process
from support.remote_sandbox import RemoteSandbox

KEYS = 120
PROCESSES = 4
KILLS = 6
PATIENCE = 120.0  # s


class Team:
    """Processes that all submit the same keys."""

    def __init__(self, seller: dict[str, Any], place: str, keys: list[str]) -> None:
        self._seller, self._place, self._keys = seller, place, keys
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["kling_async", "support.sharing_process"])
        self.running: list[Any] = []
        self._started = 0

    def start(self) -> None:
        receiving, sending = self._context.Pipe(duplex=False)
        arguments = (
            sending,
            self._seller["api_key"],
            self._seller["base_url"],
            sharing_process.sqlite,
            self._place,
            self._keys,
            self._started,
        )
        process = self._context.Process(target=sharing_process.run, args=arguments)
        process.start()
        assert receiving.poll(PATIENCE)
        self.running.append(process)
        self._started += 1

    def kill(self, index: int) -> bool:
        """Kill one. Return whether it was still at work."""
        process = self.running.pop(index)
        alive: bool = process.is_alive()
        process.kill()
        process.join()
        return alive

    def join(self) -> None:
        for process in self.running:
            process.join(PATIENCE)
            assert process.exitcode == 0


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the killed programs are the same
@pytest.mark.parametrize("seed", range(2))
async def test_of_four_processes_some_are_killed_and_every_key_is_bought_once(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    keys = [f"row-{number}" for number in range(KEYS)]
    place = str(tmp_path / "jobs.db")
    with RemoteSandbox("--speed", "60", "--fault", "delay:submit:every=2,seconds=0.1") as sandbox:
        seller = sandbox.providers["runblob"]
        team = Team(seller, place, keys)
        for _ in range(PROCESSES):
            await anyio.to_thread.run_sync(team.start)
        killed = 0
        for _ in range(KILLS):
            await anyio.sleep(dice.uniform(0.0, 0.5))  # the moment of death: what this test is about
            killed += team.kill(dice.randrange(len(team.running)))
            await anyio.to_thread.run_sync(team.start)
        await anyio.to_thread.run_sync(team.join)
        client = sharing_process.make_client(seller["api_key"], seller["base_url"], sharing_process.sqlite(place))
        async with client:
            for job in await client.resume():
                await job.wait()
            submissions = await client._ledger.ledger.submissions()
            unresolved = {submission.key for submission in await client.unresolved()}
        bought = sandbox.counters()["bought"].get("runblob", 0)
    assert killed >= 1
    assert Counter(submission.key for submission in submissions) == Counter(keys)
    finished = {submission.key for submission in submissions if submission.status is Status.COMPLETED}
    assert finished | unresolved == set(keys)
    assert finished.isdisjoint(unresolved)
    assert len(finished) <= bought <= len(finished) + len(unresolved)
    assert len({submission.ref for submission in submissions if submission.ref}) == len(finished)

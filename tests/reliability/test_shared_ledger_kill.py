"""Processes that share a ledger are killed at random: nothing is bought twice, and nothing is left.

In a normal run one seed for each kind of ledger, and few keys. ``KLING_KILL_SEEDS``, ``KLING_KILL_KEYS`` and
``KLING_KILL_KILLS`` are other numbers. Figures of each seed are logged: ``pytest --log-cli-level=INFO``.
"""

from __future__ import annotations

import logging
import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import anyio
import pytest

from kling_async import Ledger, RunBlob, Status
from support import sharing_process
from support.remote_sandbox import RemoteSandbox
from support.sharing_process import LEASE, Notes, Poll, Team

log = logging.getLogger(__name__)

SEEDS = int(os.environ.get("KLING_KILL_SEEDS", "1"))
KEYS = int(os.environ.get("KLING_KILL_KEYS", "80"))
PROCESSES = 4
KILLS = int(os.environ.get("KLING_KILL_KILLS", "4"))


def polled_by_two(polls: list[Poll], killed: dict[int, float]) -> list[tuple[Poll, Poll]]:
    """Pairs of status calls about one job that different processes made at the same time."""
    by_job: dict[str, list[Poll]] = defaultdict(list)
    for poll in polls:
        by_job[poll.ref].append(poll)
    found = []
    for calls in by_job.values():
        for first, second in pairwise(sorted(calls, key=lambda call: call.begin)):
            end = first.end or killed[first.process]
            if first.process != second.process and second.begin < end:
                found.append((first, second))
    return found


def hand_overs(polls: list[Poll], killed: dict[int, float], waits: dict[tuple[str, int], float]) -> list[float]:
    """Seconds for which a job had to wait for its next status call: from the death of the process that polled it.

    Or from the moment at which another process began to wait for it, if that was later.
    """
    waiting: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for (ref, process), since in waits.items():
        waiting[ref].append((process, since))
    calls: dict[str, list[Poll]] = defaultdict(list)
    for poll in sorted(polls, key=lambda poll: poll.begin):
        calls[poll.ref].append(poll)
    found = []
    for first, second in (pair for each in calls.values() for pair in pairwise(each)):
        death = killed.get(first.process, math.inf)
        if first.process != second.process and second.begin > death:
            alive = [since for one, since in waiting[first.ref] if killed.get(one, math.inf) > second.begin]
            found.append(second.begin - max(death, min(alive)))
    return found


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the killed programs are the same
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_of_four_processes_some_are_killed_and_every_key_is_bought_once(
    tmp_path: Path, shared: tuple[Callable[[str], Ledger], str], seed: int
) -> None:
    dice = random.Random(seed)
    keys = [f"row-{number}" for number in range(KEYS)]
    opened, place = shared
    with RemoteSandbox("--speed", "60", "--fault", "delay:submit:every=2,seconds=0.1") as sandbox:
        seller = sandbox.providers["runblob"]
        team = Team(seller, opened, place, tmp_path / "notes", keys)
        for _ in range(PROCESSES):
            await anyio.to_thread.run_sync(team.start)
        for _ in range(KILLS):
            await anyio.sleep(dice.uniform(0.0, 0.5))  # the moment of death: what this test is about
            await anyio.to_thread.run_sync(team.kill, dice.randrange(len(team.running)))
            await anyio.to_thread.run_sync(team.start)
        await anyio.to_thread.run_sync(team.join)
        provider = RunBlob(seller["api_key"], seller["base_url"])
        client = sharing_process.make_client(provider, opened(place))
        async with client:
            for job in await client.resume():
                await job.wait()
            submissions = await client._ledger.ledger.submissions()
            unresolved = {submission.key for submission in await client.unresolved()}
        bought = sandbox.counters()["bought"].get("runblob", 0)
    notes = Notes(tmp_path / "notes")
    polls = list(notes.polls())
    twice = polled_by_two(polls, team.killed)
    waits = hand_overs(polls, team.killed, notes.waits())
    log.info(
        "%s, seed %d: %d keys, %d killed, %d bought, %d unresolved; %d polls, %d by two at once; "
        "%d taken over, at most %.2f s after the death or the beginning of the wait",
        *(opened.__name__, seed, len(keys), len(team.killed), bought, len(unresolved), len(polls), len(twice)),
        *(len(waits), max(waits, default=0.0)),
    )
    assert team.killed
    assert Counter(submission.key for submission in submissions) == Counter(keys)
    finished = {submission.key for submission in submissions if submission.status is Status.COMPLETED}
    assert finished | unresolved == set(keys)
    assert finished.isdisjoint(unresolved)
    assert len(finished) <= bought <= len(finished) + len(unresolved)
    assert len({submission.ref for submission in submissions if submission.ref}) == len(finished)
    # A process that could not run for the time of its lease has lost it in the middle of a call.
    assert [pair for pair in twice if pair[1].begin - pair[0].begin < LEASE] == []

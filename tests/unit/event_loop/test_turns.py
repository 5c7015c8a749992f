"""What is done for every one of many thousand submissions leaves the event loop to others in between."""

from __future__ import annotations

import gc
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kling_async import (
    Budget,
    Client,
    Cost,
    Event,
    JobRef,
    Ledger,
    MemoryLedger,
    RunBlob,
    Status,
    Submission,
    SubmissionState,
)
from kling_async._event_loop.spared_heap import SparedHeap
from kling_async._event_loop.turns import Crowd, TurnLimit, cooperative_map
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = pytest.mark.anyio

PATIENCE = 120

COUNT = 1000
TURNS = COUNT // 100 - 2  # at least. The first and the last may fall beside what is counted
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@asynccontextmanager
async def counted_turns() -> AsyncIterator[Callable[[], int]]:
    """Tells how often another task has had its turn."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        yield lambda: turns
        group.cancel_scope.cancel()


async def filled(state: SubmissionState) -> MemoryLedger:
    """A ledger with many submissions in that state. Of accepted ones, the jobs have ended."""
    ledger = MemoryLedger()
    request = {"prompt": "a boat", "duration": 5}
    for number in range(COUNT):
        sent = Submission(f"row-{number}", "runblob/o3-video", request, "f", f"p-{number}", NOON)
        await ledger.claim(sent)
        ref = JobRef("runblob", "o3-video", str(number)) if state is SubmissionState.ACCEPTED else None
        await ledger.record_outcome(replace(sent, state=state, ref=ref))
        if ref is not None:
            end = Event(0, Status.COMPLETED, NOON, 9.0, "poll", cost=Cost(Decimal("0.2"), "USD"))
            await ledger.append_events(ref, [end])
    return ledger


async def test_every_item_is_made_in_order_with_turns_in_between() -> None:
    async with counted_turns() as turns:
        assert await cooperative_map(str, range(COUNT)) == [str(number) for number in range(COUNT)]
        assert turns() >= TURNS


async def test_an_error_ends_it() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await cooperative_map(int, ["1", "two", "3"])


async def test_a_ledger_in_memory_lists_in_turns() -> None:
    ledger = await filled(SubmissionState.ACCEPTED)
    async with counted_turns() as turns:
        found = await ledger.submissions()
        assert turns() >= TURNS
    assert [s.key for s in found] == [f"row-{number}" for number in range(COUNT)]


async def test_what_can_be_done_is_written_in_turns() -> None:
    ledger = await filled(SubmissionState.UNKNOWN)
    listed = await spent(lambda: ledger.submissions(unfinished=True))
    async with Client(RunBlob(KEY), http=FakeRunBlob(), ledger=ledger) as client:
        assert await spent(client.unresolved) - listed >= TURNS


async def spent(work: Callable[[], Awaitable[object]]) -> int:
    """The turns that others have while something is done."""
    async with counted_turns() as turns:
        before = turns()
        await work()
        return turns() - before


async def test_what_earlier_runs_spent_is_counted_in_turns() -> None:
    """Prices are found, prices are learned, amounts are counted: each of them in turns."""
    ledger: Ledger = await filled(SubmissionState.ACCEPTED)
    budget = Budget(usd=1000)
    async with Client(RunBlob(KEY), http=FakeRunBlob(), ledger=ledger, budget=budget) as client:
        listed = await spent(ledger.submissions)
        taken = await spent(client.resume)
        assert taken - 2 * listed >= TURNS  # most of it is summed in the database
        [total] = budget.statistics().spent
        assert total == Cost(Decimal("0.2") * COUNT, "USD")


@pytest.fixture
def thawed() -> Iterator[None]:
    """As in a program: the test suite has the collector leave out its modules."""
    gc.unfreeze()
    yield
    gc.freeze()


@pytest.mark.usefixtures("thawed")
def test_the_collector_leaves_out_what_is_alive_while_a_large_run_goes_on() -> None:
    small, large, other = SparedHeap(), SparedHeap(), SparedHeap()
    small.begin(100)
    small.grow(999)
    assert gc.get_freeze_count() == 0
    large.begin(50_000)
    frozen = gc.get_freeze_count()
    assert frozen
    kept = [[number] for number in range(5_000)]
    large.grow(999)
    assert gc.get_freeze_count() < frozen + 1_000
    large.grow(1_000)
    assert gc.get_freeze_count() > frozen + len(kept) - 1_000
    other.begin(2_000)
    large.end()
    large.end()
    assert gc.get_freeze_count()
    other.end()
    small.end()
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("thawed")
def test_a_program_that_cares_for_the_collector_itself_is_left_alone() -> None:
    heap = SparedHeap()
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        heap.begin(2_000)
        heap.end()
        assert gc.get_freeze_count() <= frozen
        assert gc.get_freeze_count()
    finally:
        gc.unfreeze()
    gc.disable()
    try:
        heap.begin(2_000)
        assert gc.get_freeze_count() == 0
    finally:
        gc.enable()


async def test_a_crowd_is_woken_a_hundred_at_a_time_whoever_has_left() -> None:
    crowd = Crowd()
    woken: list[int] = []
    turns: list[int] = []
    scopes = [anyio.CancelScope() for _ in range(1_000)]

    async def wait(number: int) -> None:
        with scopes[number]:
            await crowd.wait()
            woken.append(number)

    async def count(scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                turns.append(len(woken))
                await checkpoint()

    async with anyio.create_task_group() as group:
        for number in range(1_000):
            group.start_soon(wait, number)
            if number % 100 == 99:  # trio starts tasks in any order
                await anyio.wait_all_tasks_blocked()
        for number in range(100, 300):  # nobody of two hundred is left
            scopes[number].cancel()
        scopes[300].cancel()
        await anyio.wait_all_tasks_blocked()
        counting = anyio.CancelScope()
        group.start_soon(count, counting)
        await checkpoint()
        crowd.call()
        for number in range(50):  # cancelled in the moment in which they are woken: the next hundred is all the same
            scopes[number].cancel()
        with anyio.fail_after(PATIENCE):
            while len(woken) < 799 - 50:
                await checkpoint()
        counting.cancel()
    assert set(range(301, 1_000)) <= set(woken)
    assert not set(woken) & set(range(100, 301))
    assert max(later - earlier for earlier, later in itertools.pairwise(turns)) <= 200


async def test_only_some_tasks_go_on_in_a_turn() -> None:
    limit = TurnLimit(4)
    turn = 0
    turns: list[int] = []

    async def step() -> None:
        for _ in range(3):
            await limit.step()
            turns.append(turn)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(step)
        with anyio.fail_after(PATIENCE):
            while len(turns) < 150:
                await checkpoint()
                turn += 1
    most = max(turns.count(each) for each in set(turns))
    assert most <= 2 * 4, "a turn of this task may lie in two of the others"
    assert len(set(turns)) <= 80, "no turn is lost"

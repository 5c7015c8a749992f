"""`BulkRun.stop` ends the waiting of rows of which nothing was sent. In virtual time, on asyncio and trio."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint

from kling_async import (
    Budget,
    BulkRun,
    Client,
    GenerationFailed,
    Ledger,
    LedgerFailed,
    Limits,
    MemoryLedger,
    Outcome,
    Polling,
    Progressive,
    Request,
    RunBlob,
    Submission,
    Video,
    runblob,
)
from support.fake_runblob import KEY, FakeRunBlob
from support.fake_sellers import FakeSeller, Hosts, seller

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

Rows = Sequence[tuple[str, Request]]
TURNS = 400  # until two rows are submitted, at most


def rows(count: int) -> Rows:
    return [(f"row-{number}", runblob.O3Video(f"clip {number}")) for number in range(count)]


def client_of(server: FakeRunBlob, ledger: Ledger | None = None, **options: Any) -> Client:
    polling = Polling(schedule="documented", status_calls_per_minute=math.inf)
    return Client(RunBlob(KEY), http=server, ledger=ledger, polling=polling, **options)


async def stopped(
    client: Client, wanted: Rows, stop: Callable[[BulkRun], Any], **options: Any
) -> tuple[list[Outcome], BulkRun]:
    """The outcomes of a run that `stop` stops meanwhile."""
    async with client.map(wanted, **options) as run, anyio.create_task_group() as group:
        group.start_soon(stop, run)
        found = [outcome async for outcome in run]
        group.cancel_scope.cancel()
    return found, run


def after(seconds: float) -> Callable[[BulkRun], Any]:
    async def stop(run: BulkRun) -> None:
        await anyio.sleep(seconds)
        run.stop()

    return stop


async def test_rows_that_wait_for_a_free_slot_are_left(server: FakeRunBlob) -> None:
    async with client_of(server, limits=Limits(concurrency=2)) as client:
        found, run = await stopped(client, rows(12), after(10))
    assert [outcome.error for outcome in found] == [None, None]
    assert (server.bought, run.statistics().left, run.statistics().in_flight) == (2, 10, 0)


async def test_the_numbers_are_right_at_once(server: FakeRunBlob) -> None:
    async with (
        client_of(server, limits=Limits(concurrency=2)) as client,
        client.map(rows(12)) as run,
    ):
        await anyio.sleep(10)
        assert (run.statistics().in_flight, run.statistics().left) == (12, 0)
        run.stop()
        assert (run.statistics().in_flight, run.statistics().left) == (2, 10)
        assert len([outcome async for outcome in run]) == 2
    assert (run.statistics().in_flight, run.statistics().left) == (0, 10)


@pytest.mark.parametrize("hint", [None, "100"], ids=["no hint", "a hint"])
@pytest.mark.parametrize("wanted", [rows(5), [("any", Video(prompt="a boat", duration=5))]], ids=["own", "portable"])
async def test_rows_whose_provider_says_not_now_are_left_at_once(
    server: FakeRunBlob, wanted: Rows, hint: str | None
) -> None:
    async def busy(request: httpx.Request) -> httpx.Response | None:
        headers = {} if hint is None else {"retry-after": hint}
        return httpx.Response(429, json={"detail": "RATE_LIMITED"}, headers=headers)

    server.intercept = busy
    async with client_of(server) as client:
        begin = anyio.current_time()
        found, run = await stopped(client, wanted, after(10))
        assert anyio.current_time() - begin < 11
    assert found == []
    assert (run.statistics().left, server.bought) == (len(wanted), 0)


@pytest.mark.parametrize("refused", [False, True], ids=["accepted", "not now"])
async def test_a_row_whose_call_is_on_its_way_is_followed_unless_it_is_refused(
    server: FakeRunBlob, refused: bool
) -> None:
    runs: list[BulkRun] = []

    async def stop_first(request: httpx.Request) -> httpx.Response | None:
        if request.method == "POST":
            runs[0].stop()
        return httpx.Response(429, json={"detail": "RATE_LIMITED"}) if refused else None

    server.intercept = stop_first
    async with client_of(server, ledger := MemoryLedger()) as client, client.map(rows(1)) as run:
        runs.append(run)
        found = [outcome async for outcome in run]
        assert [outcome.error for outcome in found] == [None] * server.bought
        assert (server.bought, run.statistics().left) == ((0, 1) if refused else (1, 0))
        stored = await ledger.find(key="row-0")
        assert stored is not None
        assert stored.key_reusable == refused


async def test_rows_that_wait_for_room_in_a_budget_are_left(server: FakeRunBlob) -> None:
    server.latency = 20
    async with client_of(server, budget=Budget(usd=0.3)) as client:
        found, run = await stopped(client, rows(5), after(10))
        assert [outcome.error for outcome in found] == [None] * server.bought
        assert 0 < server.bought == 5 - run.statistics().left < 5
        budget = client.statistics().budget
        assert budget is not None
        assert budget.reserved == ()


async def test_rows_that_wait_for_a_ledger_are_left(server: FakeRunBlob) -> None:
    class Away(MemoryLedger):
        async def claim(self, submission: Submission, *more: Any) -> Submission:
            raise LedgerFailed("the server is away", temporary=True)

    async with client_of(server, Away()) as client:
        found, run = await stopped(client, rows(3), after(10))
    assert found == []
    assert (run.statistics().left, server.bought) == (3, 0)


async def test_a_row_that_waits_to_be_bought_again_ends_with_the_failure_of_its_job() -> None:
    shop, ledger, wanted = FakeSeller(price="0.10"), MemoryLedger(), [("row", Video("a boat"))]
    shop.failure = "API_ERROR"

    async def stop(run: BulkRun) -> None:
        await anyio.sleep(30)
        shop.at_once = 0  # the first job runs, and no other one is taken
        await anyio.sleep(100)
        run.stop()

    polling = Polling(schedule=Progressive(5))
    async with Client(seller("alpha", "0.10"), http=Hosts(alpha=shop), ledger=ledger, polling=polling) as client:
        [outcome], run = await stopped(client, wanted, stop, retry_failed=1)
        assert isinstance(outcome.error, GenerationFailed)
        assert (run.statistics().failed, run.statistics().left) == (1, 0)
        shop.at_once, shop.failure = 1, None
        [again] = await outcomes_of(client, wanted)
    assert (again.error, shop.bought) == (None, 2)


async def outcomes_of(client: Client, wanted: Rows) -> list[Outcome]:
    async with client.map(wanted) as run:
        return [outcome async for outcome in run]


@pytest.mark.parametrize("kept", [False, True], ids=["no ledger", "a ledger"])
async def test_stopped_at_any_turn_a_row_is_bought_and_followed_or_left_with_nothing_of_it(
    server: FakeRunBlob, kept: bool
) -> None:
    """Between each two steps of its tasks the run is stopped once."""
    server.latency = 0
    for turns in itertools.count():
        ledger = MemoryLedger() if kept else None
        before, submitted = server.bought, list[int]()

        async def stop(run: BulkRun, turns: int = turns, submitted: list[int] = submitted) -> None:
            for _ in range(turns):
                await checkpoint()
            run.stop()
            submitted.append(run.statistics().submitted)

        async with client_of(server, ledger, limits=Limits(concurrency=2), budget=Budget(usd=10)) as client:
            found, run = await stopped(client, rows(3), stop)
            assert [outcome.error for outcome in found] == [None] * (server.bought - before)
            assert run.statistics().in_flight == 0
            budget = client.statistics().budget
            assert budget is not None
            assert budget.reserved == ()
            if ledger is not None:
                assert await client.unresolved() == []
                again = await outcomes_of(client, rows(3))
                assert sum(outcome.new for outcome in again) == 3 - len(found)
                assert server.bought - before == 3
            else:
                assert not client.jobs
                await client.run(runblob.O3Video("the slots are free"))
        assert turns < TURNS
        if submitted == [2]:  # and the third row waits for its slot
            break
    assert turns > 5

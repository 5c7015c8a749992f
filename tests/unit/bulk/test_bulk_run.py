"""`client.map`: bounded, one outcome a row, nothing lost. In virtual time, on asyncio and trio."""

from __future__ import annotations

import gc
import json
import math
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import anyio
import anyio.lowlevel
import httpx
import pytest

import kling_async
from kling_async import (
    BulkRun,
    BulkStopped,
    Client,
    ConfigurationError,
    Limits,
    MemoryLedger,
    Outcome,
    Polling,
    Progressive,
    Request,
    runblob,
    runware,
)
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


@pytest.fixture
def polling() -> Polling:
    return Polling(schedule="documented", status_calls_per_minute=math.inf)


def rows(count: int) -> list[tuple[str, Request]]:
    return [(f"row-{n}", runblob.O3Video(f"clip {n}")) for n in range(count)]


async def collect(client: Client, *, count: int, in_flight: int = 100, ordered: bool = False) -> list[Outcome]:
    async with client.map(rows(count), in_flight=in_flight, ordered=ordered) as outcomes:
        return [outcome async for outcome in outcomes]


async def drain(outcomes: BulkRun, into: list[Outcome]) -> None:
    """Collect outcomes. Those that came before an error are kept."""
    async for outcome in outcomes:
        into.append(outcome)  # noqa: PERF401  # an error would lose a comprehension's


def answer(error: httpx.Response, *, at: int) -> Callable[[httpx.Request], Awaitable[httpx.Response | None]]:
    """An intercept that refuses submission number `at` and all later ones."""
    seen = 0

    async def intercept(request: httpx.Request) -> httpx.Response | None:
        nonlocal seen
        seen += request.method == "POST"
        return error if request.method == "POST" and seen >= at else None

    return intercept


@pytest.fixture
def thawed() -> Iterator[None]:
    """As in a program: the test suite has the collector leave out its modules."""
    gc.unfreeze()
    yield
    gc.freeze()


async def test_every_row_has_its_outcome(client: Client, server: FakeRunBlob) -> None:
    outcomes = await collect(client, count=60)
    assert sorted(outcome.index for outcome in outcomes) == list(range(60))
    assert all(outcome.key == f"row-{outcome.index}" for outcome in outcomes)
    assert all(outcome.result is not None and outcome.error is None for outcome in outcomes)
    assert server.bought == 60


async def test_no_more_than_in_flight_run_at_once(client: Client, server: FakeRunBlob) -> None:
    running, most = 0, 0
    async with client.map(rows(50), in_flight=7) as outcomes:
        async for _ in outcomes:
            running = outcomes.statistics().in_flight
            most = max(most, running + 1)
    assert most <= 7
    starts = sorted(generation.created for generation in server.generations.values())
    assert all(later - earlier >= server.duration - 1 for earlier, later in zip(starts, starts[7:], strict=False))


async def test_a_job_in_flight_is_few_objects(client: Client, server: FakeRunBlob) -> None:
    """One, where the program does not keep its request: each more is work for the garbage collector."""

    def ours() -> Counter[str]:
        gc.collect()
        gc.collect()  # what was held by garbage with a finalizer
        kinds = Counter(map(type, gc.get_objects()))
        found: Counter[str] = Counter()
        for kind, count in kinds.items():
            if str(kind.__module__).startswith("kling_async."):
                found[kind.__name__] += count
        return found

    before = ours()
    requests = (runblob.O3Video(f"clip {number}") for number in range(200))
    async with client.map(requests, in_flight=200):
        await anyio.sleep(server.duration - 13)  # no poll is under way
        kept = {name: count for name, count in (ours() - before).items() if count > 100}
    assert server.bought == 200
    assert set(kept) == {"TrackedJob"}
    assert sum(kept.values()) <= 200


async def test_a_recorded_job_keeps_no_lock_between_its_events(server: FakeRunBlob, polling: Polling) -> None:
    """One takes 800 bytes."""

    def locks() -> int:
        gc.collect()
        kinds = Counter(map(type, gc.get_objects()))
        return sum(count for kind, count in kinds.items() if issubclass(kind, anyio.Lock))

    before = locks()
    made = Client(kling_async.RunBlob(KEY), http=server, ledger=MemoryLedger(), polling=polling)
    async with made as client, client.map(rows(60), in_flight=60):
        await anyio.sleep(server.duration - 13)  # no poll is under way
        assert [len(job.events) for job in client.jobs] == [2] * 60
        assert locks() < before + 30


async def test_a_job_that_has_ended_is_gone_without_the_garbage_collector(client: Client) -> None:
    """Else its request would stay until a full collection, and to the end of a run that has many jobs in flight."""
    gc.collect()
    gc.disable()
    try:
        async with client.map((each for _, each in rows(20)), in_flight=5) as outcomes:
            jobs = [weakref.ref(outcome.job._tracked) async for outcome in outcomes if outcome.job is not None]
            assert len(jobs) == 20
            await anyio.wait_all_tasks_blocked()
        assert sum(job() is not None for job in jobs) <= 1  # the last one that was read
    finally:
        gc.enable()


@pytest.mark.usefixtures("thawed")
async def test_the_collector_visits_everything_again_after_a_large_run(client: Client) -> None:
    requests = (runblob.O3Video(f"clip {number}") for number in range(5))
    async with client.map(requests, in_flight=2_000) as outcomes:
        assert gc.get_freeze_count()
        assert len([outcome async for outcome in outcomes]) == 5
    assert gc.get_freeze_count() == 0
    async with client.map(rows(5), in_flight=2_000) as outcomes:  # there will never be more than five
        assert gc.get_freeze_count() == 0
        assert len([outcome async for outcome in outcomes]) == 5


async def test_an_outcome_has_the_request_of_its_row(client: Client) -> None:
    """The same one where the program keeps it, and an equal one where it does not."""
    given = [
        runblob.O3Video(
            f"clip {number}", duration=10, first_frame="https://cdn.test/a.png", last_frame="https://cdn.test/b.png"
        )
        for number in "ab"
    ]
    given.append(given[0].model_copy(update={"prompt": "clip c"}))
    async with client.map(given, ordered=True) as outcomes:
        kept = [outcome async for outcome in outcomes]
    async with client.map((each for each in given), ordered=True) as outcomes:
        made = [outcome async for outcome in outcomes]
    for request, one, other in zip(given, kept, made, strict=True):
        assert one.request is request
        assert one.job is not None
        assert one.job.request is request
        assert other.request == request
        assert other.request.model_fields_set == request.model_fields_set
        assert other.job is not None
        assert other.job.request == request


async def test_rows_are_pulled_only_when_there_is_room(client: Client) -> None:
    pulled = 0

    def endless() -> Iterator[Request]:
        nonlocal pulled
        while True:
            pulled += 1
            yield runblob.O3Video("again")

    async with client.map(endless(), in_flight=5) as outcomes:
        taken = 0
        async for _ in outcomes:
            taken += 1
            assert pulled <= 2 * 5 + taken + 1
            if taken == 20:
                break


async def test_a_slow_reader_slows_the_run(client: Client, server: FakeRunBlob) -> None:
    async with client.map(rows(1000), in_flight=10) as outcomes:
        await anyio.sleep(10_000)
        assert server.bought <= 20
        assert outcomes.statistics().done <= 20


async def test_outcomes_come_in_order_if_wanted(client: Client, server: FakeRunBlob) -> None:
    server.spread = 37
    outcomes = await collect(client, count=60, in_flight=20, ordered=True)
    assert [outcome.index for outcome in outcomes] == list(range(60))


async def test_an_async_iterable_is_read_and_closed(client: Client) -> None:
    closed = False

    async def source() -> AsyncIterator[Request]:
        nonlocal closed
        try:
            for n in range(1000):
                await anyio.sleep(1)
                yield runblob.O3Photo(f"picture {n}")
        finally:
            closed = True

    async with client.map(source(), in_flight=3) as outcomes:
        async for outcome in outcomes:
            if outcome.index >= 10:
                break
    assert closed


async def test_one_rows_error_is_its_own(client: Client, server: FakeRunBlob) -> None:
    async def moody(request: httpx.Request) -> httpx.Response | None:
        if request.method == "POST" and server.requests["submit"] % 10 == 0:
            return httpx.Response(422, json={"detail": "INVALID_IMAGE"})
        if request.method == "POST" and server.requests["submit"] % 10 == 5:
            server.accept("o3-video", {"prompt": "lost"})
            raise httpx.ReadError("reset", request=request)
        return None

    server.intercept = moody
    async with client.map(rows(100)) as outcomes:
        found = [outcome async for outcome in outcomes]
        statistics = outcomes.statistics()
    kinds = [type(outcome.error).__name__ for outcome in found]
    assert (kinds.count("InvalidRequest"), kinds.count("SubmissionUnknown"), kinds.count("NoneType")) == (10, 10, 80)
    assert (statistics.done, statistics.failed, statistics.unknown, statistics.in_flight) == (80, 10, 10, 0)
    assert [str(cost) for cost in statistics.cost] == ["$12.00"]
    assert server.bought == 90


async def test_what_was_given_back_for_failed_jobs_is_not_spent(client: Client, server: FakeRunBlob) -> None:
    async def fail_every_fifth(request: httpx.Request) -> httpx.Response | None:
        if request.method != "POST":
            return None
        server.failure = "TASK_FAILED" if server.bought % 5 == 0 else None
        return server.accept("o3-video", {"prompt": "a fox"})

    server.intercept = fail_every_fifth
    async with client.map(rows(50)) as outcomes:
        found = [outcome async for outcome in outcomes]
        statistics = outcomes.statistics()
    failed = [outcome.job for outcome in found if outcome.error is not None]
    assert (len(failed), statistics.failed, server.bought) == (10, 10, 50)
    assert {str(job.cost) for job in failed if job} == {"$0.15"}, "they have a price all the same"
    assert [str(cost) for cost in statistics.cost] == ["$6.00"]


async def test_failed_jobs_and_deadlines_are_outcomes(server: FakeRunBlob) -> None:
    server.duration = 50
    server.failure = "CONTENT_POLICY_VIOLATION"
    polling = Polling(status_calls_per_minute=math.inf, deadline=100)
    async with Client(kling_async.RunBlob(KEY), http=server, polling=polling) as client:
        [failed] = await collect(client, count=1)
        assert isinstance(failed.error, kling_async.GenerationFailed)
        server.duration = 1000
        [late] = await collect(client, count=1)
        assert isinstance(late.error, kling_async.GenerationTimeout)
        assert late.job is late.error.job


async def test_no_credits_stop_the_run_and_lose_nothing(client: Client, server: FakeRunBlob) -> None:
    server.intercept = answer(httpx.Response(402, json={"detail": "INSUFFICIENT_CREDITS"}), at=31)
    found: list[Outcome] = []
    async with client.map(rows(1000), in_flight=20) as outcomes:
        with pytest.raises(BulkStopped, match="30 rows are done") as stopped:
            await drain(outcomes, found)
    assert isinstance(stopped.value.cause, kling_async.InsufficientCredits)
    assert sum(outcome.result is not None for outcome in found) == server.bought == 30
    assert server.requests["submit"] < 60


async def test_the_same_key_twice_in_one_run_is_paid_once(server: FakeRunBlob) -> None:
    same = [("twin", runblob.O3Video("the same"))] * 2
    client = Client(kling_async.RunBlob(KEY), http=server, ledger=MemoryLedger())
    async with client, client.map(same) as outcomes:
        found = [outcome async for outcome in outcomes]
    assert [outcome.result is not None for outcome in found] == [True, True]
    assert server.bought == 1


async def test_an_error_of_the_input_comes_after_what_is_in_flight(client: Client, server: FakeRunBlob) -> None:
    def broken() -> Iterator[Request]:
        yield runblob.O3Video("fine")
        raise RuntimeError("the file ends in the middle of a line")

    found: list[Outcome] = []
    async with client.map(broken()) as outcomes:
        with pytest.raises(RuntimeError, match="middle of a line"):
            await drain(outcomes, found)
    assert len(found) == server.bought == 1


async def test_a_row_that_is_no_request_is_named(client: Client) -> None:
    async with client.map([{"prompt": "a boat"}]) as outcomes:  # type: ignore[list-item]  # that is the point
        with pytest.raises(TypeError, match="row 0 of the input is dict"):
            await drain(outcomes, [])


async def test_leaving_early_stops_submitting_and_the_jobs_can_still_be_awaited(
    client: Client, server: FakeRunBlob
) -> None:
    server.spread = 60
    async with client.map(rows(1000), in_flight=10) as outcomes:
        async for _ in outcomes:
            break
    bought = server.bought
    await anyio.sleep(1000)
    assert server.bought == bought <= 20
    running = client.jobs
    assert running
    async with anyio.create_task_group() as group:
        for job in running:
            group.start_soon(job.wait)
    assert client.statistics().running == 0


async def test_a_stopped_run_finishes_what_is_in_flight(client: Client, server: FakeRunBlob) -> None:
    server.spread = 30
    found: list[Outcome] = []
    async with client.map(rows(1000), in_flight=10) as outcomes:
        async for outcome in outcomes:
            found.append(outcome)
            outcomes.stop()
    assert all(outcome.result is not None for outcome in found)
    assert len(found) == server.bought <= 20
    assert client.statistics().running == 0


async def test_a_stopped_run_does_not_wait_for_its_input(client: Client, server: FakeRunBlob) -> None:
    async def source() -> AsyncIterator[Request]:
        yield runblob.O3Video("the only one for a long time")
        await anyio.sleep_forever()

    async with client.map(source(), in_flight=3) as outcomes:
        async for outcome in outcomes:
            assert outcome.result is not None
            outcomes.stop()
    assert server.bought == 1


async def test_an_exception_in_the_block_comes_out_as_it_is(client: Client) -> None:
    async def fail() -> None:
        async with client.map(rows(10)) as outcomes:
            async for _ in outcomes:
                _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_cancelling_the_block_cancels_it(client: Client, server: FakeRunBlob) -> None:
    with anyio.move_on_after(30) as scope:
        async with client.map(rows(10)) as outcomes:
            async for _ in outcomes:
                pytest.fail("no clip takes less than 30 s")
    assert scope.cancelled_caught
    assert client.statistics().running == server.bought == 10


async def test_a_job_of_a_run_may_be_awaited_as_well(client: Client, server: FakeRunBlob) -> None:
    """The waiter and the run share the polls, and the run goes on when the waiter leaves."""
    async with client.map(rows(1)) as outcomes:
        await anyio.sleep(2)
        [job] = client.jobs
        with anyio.move_on_after(20):
            await job
        [outcome] = [outcome async for outcome in outcomes]
    assert outcome.job == job
    [generation] = server.generations.values()
    assert [round(at) for at in generation.polls] == [5, 10, 20, 35, 50, 65]


async def test_two_runs_at_once_share_the_polls(client: Client, server: FakeRunBlob) -> None:
    found: list[list[Outcome]] = []

    async def run() -> None:
        found.append(await collect(client, count=30))

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        group.start_soon(run)
    assert [len(outcomes) for outcomes in found] == [30, 30]
    assert server.bought == 60


@pytest.mark.parametrize("leaving", [3.0, 5.04, 5.08, 10.06])
async def test_a_run_that_is_left_leaves_the_other_running(client: Client, server: FakeRunBlob, leaving: float) -> None:
    """Also when the tasks that poll for the one were just polling a job of the other."""

    async def leave() -> None:
        with anyio.move_on_after(leaving):
            await collect(client, count=3)

    async with anyio.create_task_group() as group:
        group.start_soon(leave)
        await anyio.sleep(0.01)
        outcomes = await collect(client, count=20)
    assert sum(outcome.result is not None for outcome in outcomes) == 20


async def test_a_rate_limit_holds_in_a_run(server: FakeRunBlob) -> None:
    server.duration = 100
    async with Client(kling_async.RunBlob(KEY), http=server) as client:
        start = anyio.current_time()
        outcomes = await collect(client, count=60, in_flight=30)
        assert server.requests["poll"] <= anyio.current_time() - start + 1
    assert all(outcome.result for outcome in outcomes)


async def test_progress_is_reported_as_data(client: Client) -> None:
    async with client.map(rows(40), in_flight=10) as outcomes:
        seen = [outcomes.statistics() async for _ in outcomes]
        last = outcomes.statistics()
    assert [statistics.done for statistics in seen] == list(range(1, 41)) or seen[-1].done == 40
    assert seen[20].eta is not None
    assert 0 < seen[20].rate < 1
    assert (last.done, last.eta, last.submitted) == (40, 0.0, 40)


def test_in_flight_must_be_positive(server: FakeRunBlob) -> None:
    with pytest.raises(kling_async.ConfigurationError, match="in_flight is 0"):
        Client(kling_async.RunBlob(KEY), http=server).map([], in_flight=0)


async def test_a_run_that_was_left_has_ended(client: Client) -> None:
    async with client.map(rows(10)) as outcomes:
        pass
    assert [outcome async for outcome in outcomes] == []


async def test_rows_not_sent_when_the_block_is_left_are_not_submitted(server: FakeRunBlob) -> None:
    """Submissions that wait for a connection are withdrawn. The one that was sent is caught."""
    server.latency = 1.0
    async with Client(kling_async.RunBlob(KEY), http=server, limits=kling_async.Limits(connections=1)) as client:
        with anyio.move_on_after(2.5):
            async with anyio.create_task_group() as group:
                for _, request in rows(50):
                    group.start_soon(client.submit, request)
        assert server.bought == 3
        assert client.statistics().running == 3


async def test_leaving_unsubscribes_jobs_that_are_polled_in_one_batch() -> None:
    """Jobs of a poll that was not made yet: to give up the first is the end of those whose deadline has passed."""

    async def answer(request: httpx.Request) -> httpx.Response:
        tasks = json.loads(await request.aread())
        if tasks[0]["taskType"] == "getResponse" and stuck:
            await anyio.sleep(50)
        rows = [{"taskType": task["taskType"], "taskUUID": task["taskUUID"], "status": "processing"} for task in tasks]
        return httpx.Response(200, json={"data": rows})

    stuck = False
    polling = Polling(schedule=Progressive(5), deadline=60)
    transport = httpx.MockTransport(answer)
    requests = [runware.ImageO3(f"image {number}", width=1024, height=1024) for number in range(40)]
    limits = Limits(connections=2)
    async with Client(kling_async.Runware(KEY), http=transport, limits=limits, polling=polling) as client:
        poller = client._sessions["runware"].poller
        for left in range(0, 140, 20):
            stuck = False
            with anyio.CancelScope():
                async with client.map(requests, in_flight=40):
                    await anyio.sleep(12)
                    stuck = True
                    await anyio.sleep(left)
            assert len(poller._queue) == 0
            assert not any(job._tracked.subscribers for job in client.jobs)


async def test_leaving_a_run_with_many_jobs_in_flight_does_not_hold_up_other_tasks(
    client: Client, server: FakeRunBlob
) -> None:
    queue = client._sessions["runblob"].poller._queue
    lengths: set[int] = set()

    async def watch() -> None:
        while len(queue):
            lengths.add(len(queue))
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group, client.map(rows(250), in_flight=250):
        await anyio.sleep(server.duration - 10)
        group.start_soon(watch)
        await anyio.lowlevel.checkpoint()
    assert server.bought == 250
    assert any(0 < length < 240 for length in lengths)


async def test_a_run_that_was_not_begun_says_how(client: Client, server: FakeRunBlob) -> None:
    with pytest.raises(ConfigurationError, match="the run has not begun: async with"):
        _ = [outcome async for outcome in client.map(rows(3))]
    assert server.bought == 0

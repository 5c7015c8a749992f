"""The hand-over of looking between those who wait, in virtual time: nobody sleeps for ever, nobody looks in vain."""

from __future__ import annotations

import gc
import math
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint

import kling_async
from kling_async import Client, GenerationTimeout, Job, Limits, Polling, Status, runblob
from kling_async._models import StatusReport
from kling_async._polling.poller import Poller
from kling_async._scheduling.poll_queue import PollQueue
from kling_async._tracking.tracked_job import TrackedJob
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

VIDEO = runblob.O3Video("a paper boat in the rain")
FREE: dict[str, Any] = {"schedule": "documented", "status_calls_per_minute": math.inf}


@pytest.fixture
def server() -> FakeRunBlob:
    return FakeRunBlob()


@pytest.fixture
async def client(server: FakeRunBlob) -> AsyncIterator[Client]:
    async with Client(kling_async.RunBlob(KEY), http=server, polling=Polling(**FREE)) as made:
        yield made


@pytest.fixture
async def rationed(server: FakeRunBlob) -> AsyncIterator[Client]:
    async with Client(kling_async.RunBlob(KEY), http=server, polling=Polling(schedule="documented")) as made:
        yield made


def idle(client: Client) -> bool:
    """Whether the poller holds nothing of those who have gone."""
    poller = client._sessions["runblob"].poller
    left = (poller._election, poller._workers, poller._batches, poller._subscribed, poller._granted, poller._resting)
    return not any(left) and len(poller._queue) == 0


async def submit(client: Client, count: int) -> list[Job]:
    return [await client.submit(VIDEO) for _ in range(count)]


def identity(request: httpx.Request) -> str:
    return request.url.path.rpartition("/")[2]


async def test_a_run_that_ends_leaves_the_watch_to_those_who_wait(client: Client, server: FakeRunBlob) -> None:
    """While a bulk run is under way its patrol keeps the watch; leaving its block hands that over."""
    server.duration = 300
    [job] = await submit(client, 1)
    server.duration = 20
    async with anyio.create_task_group() as group:
        async with client.map([VIDEO], in_flight=1) as outcomes:
            await anyio.sleep(1)
            group.start_soon(job.wait)
            assert [outcome.error async for outcome in outcomes] == [None]
        await anyio.sleep(400)
        assert job.status is Status.COMPLETED
        group.cancel_scope.cancel()
    assert idle(client)


async def test_looks_that_were_awarded_to_a_run_that_ended_block_nobody(server: FakeRunBlob) -> None:
    """More looks wait for somebody to make them than may; then those who would have made them go."""
    async with Client(
        kling_async.RunBlob(KEY), http=server, polling=Polling(**FREE), limits=Limits(connections=2)
    ) as client:
        slow = anyio.Event()

        async def hang(request: httpx.Request) -> httpx.Response | None:
            if request.method == "GET":
                await slow.wait()
            return None

        async with client.map([VIDEO] * 150, in_flight=150) as outcomes:
            await anyio.sleep(4.5)
            assert outcomes.statistics().submitted == 150
            server.intercept = hang
            await anyio.sleep(30)
        server.intercept = None
        assert idle(client)
        for job in client.jobs[:3]:
            with anyio.fail_after(200):
                assert (await job).urls


async def test_a_run_that_ends_loses_no_job_of_another_run(client: Client, server: FakeRunBlob) -> None:
    """Runs share the looking: a look that one makes for the other is not lost when the one ends."""
    outcomes: list[kling_async.Outcome] = []

    async def long() -> None:
        async with client.map([VIDEO] * 20, in_flight=20) as run:
            async for outcome in run:
                outcomes.append(outcome)  # noqa: PERF401  # what came before a failure is kept

    async with anyio.create_task_group() as group:
        async with client.map([VIDEO], in_flight=20):
            await anyio.sleep(0.01)
            group.start_soon(long)
            server.latency = 2
            await anyio.sleep(11.5)  # in the middle of the looks at 10 s
        server.latency = 0.05
        await anyio.sleep(400)
        group.cancel_scope.cancel()
    assert len(outcomes) == 20
    assert idle(client)


async def test_a_look_that_takes_long_holds_up_no_other_job(client: Client, server: FakeRunBlob) -> None:
    """Somebody always keeps the watch, also when the one asked first is busy with a look of its own."""
    first, second, third = await submit(client, 3)
    slow = {first.ref.id, second.ref.id}

    async def hang(request: httpx.Request) -> httpx.Response | None:
        if identity(request) in slow:
            await anyio.sleep(50)
        return None

    server.intercept = hang
    async with anyio.create_task_group() as group:
        for job in (first, second, third):
            group.start_soon(job.wait)
    looks = [round(at) for at in server.generations[third.ref.id].looks]
    assert looks == [5, 10, 20, 35, 50, 65]


async def test_everyone_who_waits_hears_at_once_that_the_provider_stays_away(
    client: Client, server: FakeRunBlob
) -> None:
    [job] = await submit(client, 1)

    async def gone(request: httpx.Request) -> httpx.Response | None:
        raise httpx.ConnectError("refused", request=request)

    server.intercept = gone
    start = anyio.current_time()
    heard: list[float] = []

    async def wait() -> None:
        with pytest.raises(kling_async.TransportFailed):
            await job
        heard.append(anyio.current_time() - start)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(wait)
    assert len(heard) == 5
    assert max(heard) < 300


async def test_everyone_who_waits_hears_of_the_deadline_by_one_look(client: Client, server: FakeRunBlob) -> None:
    server.duration = 10_000
    [job] = await submit(client, 1)
    errors: list[GenerationTimeout] = []

    async def wait() -> None:
        with pytest.raises(GenerationTimeout) as late:
            await job
        errors.append(late.value)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(wait)
    assert len({id(error) for error in errors}) == 20, "each is raised on its own"
    [generation] = server.generations.values()
    assert sum(at >= 899 for at in generation.looks) == 1


async def test_an_end_that_is_heard_of_during_a_look_outweighs_its_failure(client: Client, server: FakeRunBlob) -> None:
    """A webhook tells the end while a look is under way which then fails for good."""
    [job] = await submit(client, 1)
    artifact = kling_async.Artifact("video", "https://cdn.runblob.test/x")

    async def ends(request: httpx.Request) -> httpx.Response | None:
        await job._tracked.apply(StatusReport(Status.COMPLETED, artifacts=(artifact,)), "webhook")
        return httpx.Response(401, json={"error": "Unauthorized", "message": "the key is revoked"})

    server.intercept = ends
    assert (await job).urls == ["https://cdn.runblob.test/x"]
    assert server.requests["poll"] == 1


async def test_a_refresh_is_served_while_hundreds_compete(rationed: Client, server: FakeRunBlob) -> None:
    """Who asks for a look now comes next, under a ration of one a second that is never free."""
    server.duration = 500
    jobs = await submit(rationed, 300)
    async with anyio.create_task_group() as group:
        for job in jobs[:299]:
            group.start_soon(job.wait)
        await anyio.sleep(60)
        for _ in range(3):
            start = anyio.current_time()
            with anyio.fail_after(30):
                assert await jobs[299].refresh() is Status.PENDING
            assert anyio.current_time() - start < 3
        before = server.requests["poll"]
        await anyio.sleep(60)
        assert server.requests["poll"] - before == pytest.approx(60, abs=2)
        group.cancel_scope.cancel()
    assert idle(rationed)


async def test_deadlines_are_kept_while_hundreds_compete(server: FakeRunBlob) -> None:
    """A ration of one a second, 300 jobs, five of them with an earlier deadline: they hear of it in time."""
    server.duration = 2000
    late: list[float] = []
    async with Client(kling_async.RunBlob(KEY), http=server, polling=Polling(schedule="documented")) as client:

        async def wait(request: kling_async.Request) -> None:
            start = anyio.current_time()
            with pytest.raises(GenerationTimeout):
                await client.run(request)
            late.append(anyio.current_time() - start)

        async with anyio.create_task_group() as group:
            for number in range(300):
                group.start_soon(wait, VIDEO if number % 60 else runblob.O3Photo("a boat"))
            await anyio.sleep(400)
            assert len(late) == 5
            assert max(late) < 310
            group.cancel_scope.cancel()
        assert idle(client)


async def test_a_lane_that_is_told_to_wait_keeps_the_deadline(client: Client, server: FakeRunBlob) -> None:
    """The provider refuses every status call for hours: the wait ends at the deadline all the same."""
    jobs = await submit(client, 50)

    async def limited(request: httpx.Request) -> httpx.Response | None:
        return httpx.Response(429, json={"detail": "too many requests"}, headers={"retry-after": "100"})

    server.intercept = limited
    start = anyio.current_time()
    ends: list[float] = []

    async def wait(job: Job) -> None:
        with pytest.raises((GenerationTimeout, kling_async.RateLimited)):
            await job
        ends.append(anyio.current_time() - start)

    async with anyio.create_task_group() as group:
        for job in jobs:
            group.start_soon(wait, job)
    assert max(ends) < 900 + 61


@pytest.mark.parametrize("waiting", ["await", "events", "map"])
async def test_finished_jobs_leave_nothing_behind(rationed: Client, server: FakeRunBlob, waiting: str) -> None:
    server.duration = 5
    poller = rationed._sessions["runblob"].poller
    poller._rate_limiter._interval = 0.001

    async def one() -> None:
        job = await rationed.submit(VIDEO)
        if waiting == "await":
            await job
        else:
            async for _ in job:
                pass

    if waiting == "map":
        async with rationed.map([VIDEO] * 300) as outcomes:
            assert len([outcome async for outcome in outcomes]) == 300
        del outcomes
    else:
        async with anyio.create_task_group() as group:
            for _ in range(300):
                group.start_soon(one)
    assert idle(rationed)
    assert rationed.jobs == ()
    await checkpoint()
    gc.collect()
    left = sum(isinstance(thing, TrackedJob) for thing in gc.get_objects())
    assert left <= 50, "a few may stay until the heaps are swept"


class CountingContest(PollQueue[TrackedJob]):
    """Counts how often it is asked: once a turn of the keeper's loop, and once a job that enters."""

    turns = 0

    def next_due(self) -> float:
        self.turns += 1
        return super().next_due()


async def test_the_watch_does_not_spin(client: Client, server: FakeRunBlob) -> None:
    """A thousand jobs take some turns of the keeper's loop a look, however long they wait."""
    server.duration = 100
    queue = client._sessions["runblob"].poller._queue = CountingContest()
    async with anyio.create_task_group() as group:
        for _ in range(1000):
            group.start_soon(client.run, VIDEO)
    assert queue.turns <= 8 * server.requests["poll"]


async def test_a_granted_poll_wakes_one_bulk_worker(
    client: Client, server: FakeRunBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred workers rest, and one poll is work for one: the others are not woken to find nothing to do."""
    rests = 0
    rest = Poller._rest

    async def counted(poller: Poller, worker: Any) -> None:
        nonlocal rests
        rests += 1
        await rest(poller, worker)

    monkeypatch.setattr(Poller, "_rest", counted)
    server.duration = 100
    requests = (runblob.O3Video(f"clip {number}") for number in range(500))
    async with client.map(requests, in_flight=500) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 500
    assert rests <= server.requests["poll"] + 2 * 100


async def test_a_granted_poll_is_sent_though_the_worker_that_is_called_leaves(
    client: Client, server: FakeRunBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs share their workers. One run is cancelled, and one of its workers is called before all have gone."""
    call = Poller._call_bulk_worker
    server.duration = 30
    scope = anyio.CancelScope()

    def cancelled(poller: Poller) -> None:
        scope.cancel()
        call(poller)

    async def leave() -> None:
        await anyio.sleep(1)  # so that these rest last, and are called first
        with scope:
            async with client.map([VIDEO] * 10) as leaving:
                async for _ in leaving:
                    pass

    monkeypatch.setattr(Poller, "_call_bulk_worker", cancelled)
    async with anyio.create_task_group() as group:
        group.start_soon(leave)
        async with client.map([VIDEO]) as staying:
            assert len([outcome async for outcome in staying]) == 1
    assert scope.cancel_called
    assert [round(at) for at in next(iter(server.generations.values())).looks] == [5, 10, 20, 35]
    assert idle(client)

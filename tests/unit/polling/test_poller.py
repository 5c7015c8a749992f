"""How those who wait share the polling, in virtual time: nobody sleeps for ever, and nobody polls without need."""

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
from kling_async._polling.poller import Poller
from kling_async._scheduling.poll_queue import PollQueue
from kling_async._tracking.tracked_job import TrackedJob
from kling_async.providers.base import StatusReport
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

VIDEO = runblob.O3Video("a paper boat in the rain")
FREE: dict[str, Any] = {"schedule": "documented", "status_calls_per_minute": math.inf}


@pytest.fixture
def polling() -> Polling:
    return Polling(**FREE)


@pytest.fixture
async def limited(server: FakeRunBlob) -> AsyncIterator[Client]:
    async with Client(kling_async.RunBlob(KEY), http=server, polling=Polling(schedule="documented")) as made:
        yield made


def idle(client: Client) -> bool:
    """Whether the poller holds nothing of those who have gone."""
    poller = client._sessions["runblob"].poller
    left = (poller._election, poller._workers, poller._batches, poller._granted, poller._resting)
    subscribed = any(job._tracked.subscribers for job in client.jobs)
    return not any(left) and not subscribed and len(poller._queue) == 0


async def submit(client: Client, count: int) -> list[Job]:
    return [await client.submit(VIDEO) for _ in range(count)]


def identity(request: httpx.Request) -> str:
    return request.url.path.rpartition("/")[2]


async def test_when_a_bulk_run_ends_a_task_that_waits_becomes_the_driver(client: Client, server: FakeRunBlob) -> None:
    """While a bulk run is under way, one of its workers drives. A task that waits takes over when the run ends."""
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


async def test_polls_that_were_granted_to_a_run_that_ended_block_nobody(server: FakeRunBlob) -> None:
    """As many granted polls wait for a worker as may. Then the workers leave."""
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
    """Runs share their workers: a poll that one run sends for the other is not lost when the one ends."""
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
            await anyio.sleep(11.5)  # in the middle of the polls at 10 s
        server.latency = 0.05
        await anyio.sleep(400)
        group.cancel_scope.cancel()
    assert len(outcomes) == 20
    assert idle(client)


async def test_a_slow_poll_delays_no_other_job(client: Client, server: FakeRunBlob) -> None:
    """Somebody always drives, also when the first driver is busy with a poll of its own."""
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
    polls = [round(at) for at in server.generations[third.ref.id].polls]
    assert polls == [5, 10, 20, 35, 50, 65]


async def test_an_unreachable_provider_is_raised_to_all_who_wait(client: Client, server: FakeRunBlob) -> None:
    [job] = await submit(client, 1)

    async def gone(request: httpx.Request) -> httpx.Response | None:
        raise httpx.ConnectError("refused", request=request)

    server.intercept = gone
    start = anyio.current_time()
    raised: list[float] = []

    async def wait() -> None:
        with pytest.raises(kling_async.TransportFailed):
            await job
        raised.append(anyio.current_time() - start)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(wait)
    assert len(raised) == 5
    assert max(raised) < 300


async def test_one_poll_at_the_deadline_ends_the_wait_of_all(client: Client, server: FakeRunBlob) -> None:
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
    assert sum(at >= 899 for at in generation.polls) == 1


async def test_an_end_that_is_reported_during_a_poll_outweighs_its_failure(client: Client, server: FakeRunBlob) -> None:
    """A webhook reports the end during a poll, which then fails for good."""
    [job] = await submit(client, 1)
    artifact = kling_async.Artifact("video", "https://cdn.runblob.test/x")

    async def ends(request: httpx.Request) -> httpx.Response | None:
        await job._tracked.apply(StatusReport(Status.COMPLETED, artifacts=(artifact,)), "webhook")
        return httpx.Response(401, json={"error": "Unauthorized", "message": "the key is revoked"})

    server.intercept = ends
    assert (await job).urls == ["https://cdn.runblob.test/x"]
    assert server.requests["poll"] == 1


async def test_a_refresh_is_served_while_hundreds_compete(limited: Client, server: FakeRunBlob) -> None:
    """A refresh comes next, although other jobs compete for every call that the limit of one a second allows."""
    server.duration = 500
    jobs = await submit(limited, 200)
    async with anyio.create_task_group() as group:
        for job in jobs[:199]:
            group.start_soon(job.wait)
        await anyio.sleep(60)
        for _ in range(3):
            start = anyio.current_time()
            with anyio.fail_after(30):
                assert await jobs[199].refresh() is Status.PENDING
            assert anyio.current_time() - start < 3
        before = server.requests["poll"]
        await anyio.sleep(60)
        assert server.requests["poll"] - before == pytest.approx(60, abs=2)
        group.cancel_scope.cancel()
    assert idle(limited)


async def test_deadlines_are_kept_while_hundreds_compete(server: FakeRunBlob) -> None:
    """One status call a second is allowed, and five of 200 jobs have an earlier deadline."""
    server.duration = 2000
    late: list[float] = []
    async with Client(kling_async.RunBlob(KEY), http=server, polling=Polling(schedule="documented")) as client:

        async def wait(request: kling_async.Request) -> None:
            start = anyio.current_time()
            with pytest.raises(GenerationTimeout):
                await client.run(request)
            late.append(anyio.current_time() - start)

        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(wait, VIDEO if number % 40 else runblob.O3Photo("a boat"))
            await anyio.sleep(400)
            assert len(late) == 5
            assert max(late) < 310
            group.cancel_scope.cancel()
        assert idle(client)


async def test_throttled_polls_keep_the_deadline(client: Client, server: FakeRunBlob) -> None:
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
async def test_finished_jobs_leave_nothing_behind(limited: Client, server: FakeRunBlob, waiting: str) -> None:
    server.duration = 5
    poller = limited._sessions["runblob"].poller
    poller._rate_limiter._interval = 0.001

    async def one() -> None:
        job = await limited.submit(VIDEO)
        if waiting == "await":
            await job
        else:
            async for _ in job:
                pass

    if waiting == "map":
        async with limited.map([VIDEO] * 120) as outcomes:
            assert len([outcome async for outcome in outcomes]) == 120
        del outcomes
    else:
        async with anyio.create_task_group() as group:
            for _ in range(120):
                group.start_soon(one)
    assert idle(limited)
    assert limited.jobs == ()
    await checkpoint()
    gc.collect()
    left = sum(isinstance(thing, TrackedJob) for thing in gc.get_objects())
    assert left <= 50, "a few may stay until the heaps are cleaned"


async def test_many_tasks_that_wait_do_not_lengthen_the_pauses_of_the_collector(
    client: Client, server: FakeRunBlob
) -> None:
    server.duration = 600
    job = await client.submit(VIDEO)

    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            await job

    scopes = [anyio.CancelScope() for _ in range(600)]
    gc.unfreeze()  # as in a program: the test suite has the collector leave out its modules
    try:
        async with anyio.create_task_group() as group:
            for number, scope in enumerate(scopes):
                if number == 400:
                    await anyio.wait_all_tasks_blocked()
                    assert gc.get_freeze_count() == 0
                group.start_soon(wait, scope)
            await anyio.wait_all_tasks_blocked()
            assert gc.get_freeze_count()
            for scope in scopes:
                scope.cancel()
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()


class CountingQueue(PollQueue[TrackedJob]):
    """Counts how often it is asked: once in each turn of the driver's loop, and once for each job that enters."""

    turns = 0

    def next_due(self) -> float:
        self.turns += 1
        return super().next_due()


async def test_the_driver_does_not_spin(client: Client, server: FakeRunBlob) -> None:
    """Fifty jobs take a few turns of the driver's loop for each poll, however long they wait."""
    server.duration = 100
    queue = client._sessions["runblob"].poller._queue = CountingQueue()
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(client.run, VIDEO)
    assert queue.turns <= 8 * server.requests["poll"]


async def test_a_granted_poll_wakes_one_bulk_worker(
    client: Client, server: FakeRunBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty workers rest, and one poll is work for one: the others are not woken to find nothing to do."""
    rests = 0
    rest = Poller._rest

    async def counted(poller: Poller, worker: Any) -> None:
        nonlocal rests
        rests += 1
        await rest(poller, worker)

    monkeypatch.setattr(Poller, "_rest", counted)
    server.duration = 100
    requests = (runblob.O3Video(f"clip {number}") for number in range(60))
    async with client.map(requests, in_flight=60) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 60
    assert rests <= server.requests["poll"] + 2 * 50


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
    assert [round(at) for at in next(iter(server.generations.values())).polls] == [5, 10, 20, 35]
    assert idle(client)


async def bought_lags(client: Client, server: FakeRunBlob, strangers: int) -> list[float]:
    """Buy 8 jobs, let strangers ask about jobs that do not exist, and return how late each bought end was known."""
    server.duration = 60
    lags: list[float] = []

    async def buy() -> None:
        job = await client.submit(VIDEO)
        created = server.generations[job.ref.id].created
        await job
        lags.append(anyio.current_time() - created - 60)

    async def read(number: int) -> None:
        job = client.attach(f"runblob/o3-video/00000000-0000-4000-8000-{number:012}")
        with anyio.move_on_after(5), pytest.raises(kling_async.JobNotFound):
            await job

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(buy)
        await anyio.sleep(1)
        for start in range(0, strangers, 10):
            for number in range(start, start + 10):
                group.start_soon(read, number)
            await anyio.sleep(2)
    return sorted(lags)


async def test_jobs_that_nobody_has_confirmed_do_not_delay_bought_jobs(server: FakeRunBlob) -> None:
    """300 strangers attach to jobs that do not exist, and leave after 5 s. One status call a second is allowed."""
    lags = []
    for strangers in (0, 300):
        polling = Polling(schedule="documented")
        async with Client(kling_async.RunBlob(KEY), http=server, polling=polling) as client:
            lags.append(await bought_lags(client, server, strangers))
            assert idle(client)
            assert client.jobs == ()
    without, beside = lags
    assert len(beside) == len(without) == 8
    assert max(beside) <= max(without) + 2


class KeptLedger(kling_async.MemoryLedger):
    """A ledger that the next client can open, as a file would be."""

    async def aclose(self) -> None:
        """Stay open."""


async def test_a_job_that_was_attached_competes_for_polls_if_the_ledger_has_it(server: FakeRunBlob) -> None:
    """100 bought jobs use the whole limit. The attached job has ended, and its last recorded event is older."""
    ledger = KeptLedger()
    server.duration = 30
    async with Client(kling_async.RunBlob(KEY), http=server, ledger=ledger) as earlier:
        ref = (await earlier.submit(VIDEO, key="a")).ref
    server.duration = 10_000
    polling = Polling(schedule="documented", deadline=5000)
    async with Client(kling_async.RunBlob(KEY), http=server, ledger=ledger, polling=polling) as client:
        jobs = await submit(client, 100)
        attached = client.attach(ref)
        async with anyio.create_task_group() as group:
            for job in jobs:
                group.start_soon(job.wait)
            with anyio.fail_after(900):
                await attached.wait()
            assert attached.status is Status.COMPLETED
            group.cancel_scope.cancel()


async def test_repeated_webhooks_for_one_job_do_not_delay_other_jobs(limited: Client, server: FakeRunBlob) -> None:
    """379 webhooks come for one job. Each interval of its schedule has one urgent poll at most."""
    server.duration = 60
    jobs = await submit(limited, 10)
    lags: list[float] = []

    async def wait(job: Job) -> None:
        await job
        lags.append(anyio.current_time() - server.generations[job.ref.id].created - 60)

    poller = limited._sessions["runblob"].poller
    async with anyio.create_task_group() as group:
        for job in jobs:
            group.start_soon(wait, job)
        await anyio.sleep(0.1)
        for _ in range(379):
            poller.poll_soon(jobs[0]._tracked)
            await anyio.sleep(0.1)
    assert len(server.generations[jobs[0].ref.id].polls) <= 12
    assert max(lags) < 15 + 10


async def test_urgent_polls_leave_half_of_the_rate_limit(limited: Client, server: FakeRunBlob) -> None:
    """A hundred tasks refresh jobs again and again. The polls by schedule go on."""
    server.duration = 500
    jobs = await submit(limited, 60)
    refreshed = 0

    async def refresh(job: Job) -> None:
        nonlocal refreshed
        while True:
            await job.refresh()
            refreshed += 1

    async with anyio.create_task_group() as group:
        for job in jobs:
            group.start_soon(job.wait)
        for job in (*jobs, *jobs[:40]):
            group.start_soon(refresh, job)
        await anyio.sleep(60)
        before, refreshed = server.requests["poll"], 0
        await anyio.sleep(60)
        assert server.requests["poll"] - before == pytest.approx(60, abs=2)
        assert refreshed == pytest.approx(30, abs=2)
        group.cancel_scope.cancel()
    assert idle(limited)


async def test_a_job_that_the_provider_does_not_know_is_polled_no_more(client: Client, server: FakeRunBlob) -> None:
    """`Client.follow` gives up a job that is not found. A later submission does not make it ask again."""
    [job] = await submit(client, 1)
    del server.generations[job.ref.id]
    async with anyio.create_task_group() as group:
        group.start_soon(client.follow)
        await anyio.sleep(120)
        assert client.jobs == ()
        before = server.requests["poll"]
        server.duration = 1000
        await submit(client, 5)
        await anyio.sleep(4)
        assert server.requests["poll"] == before
        group.cancel_scope.cancel()


@pytest.mark.parametrize("failure", ["HTTP 500", "reset"])
async def test_failed_status_calls_are_repeated_within_the_rate_limit(
    limited: Client, server: FakeRunBlob, failure: str
) -> None:
    """A hundred jobs are polled for 30 s. The provider allows one status call a second, and all of them fail."""
    jobs = await submit(limited, 100)

    async def fail(request: httpx.Request) -> httpx.Response | None:
        if failure == "reset":
            raise httpx.ReadError("reset by peer", request=request)
        return httpx.Response(500, json={"error": "INTERNAL_ERROR"})

    server.intercept = fail
    with anyio.move_on_after(30):
        async with anyio.create_task_group() as group:
            for job in jobs:
                group.start_soon(job.wait)
    assert 25 <= server.requests["poll"] <= 31


async def test_a_poll_that_finds_nothing_new_wakes_none_of_those_who_wait_beside_its_task(
    client: Client, server: FakeRunBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else ten thousand who wait for one job would be woken twice for each of its polls."""
    waits = 0
    change = TrackedJob.change

    async def counted(self: TrackedJob) -> None:
        nonlocal waits
        waits += 1
        await change(self)

    monkeypatch.setattr(TrackedJob, "change", counted)
    server.duration = 300
    job = await client.submit(runblob.O3Video("a boat"))
    async with anyio.create_task_group() as group:
        for _ in range(200):
            group.start_soon(job.wait)
    polls = client.statistics().providers["runblob"].polls
    assert polls >= 10
    assert waits <= 200 * len(job.events)

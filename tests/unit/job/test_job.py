"""Waiting for jobs: `await`, event iteration, deadlines, shared looking. In virtual time, on asyncio and trio."""

from __future__ import annotations

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint

import kling_async
from kling_async import Client, Event, GenerationFailed, GenerationTimeout, Job, Limits, Polling, Progressive, Status
from kling_async.providers.runblob import O3Photo, O3Video
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

VIDEO = O3Video(prompt="a paper boat in the rain")


def polls(server: FakeRunBlob) -> list[float]:
    """The seconds after submission at which the one job was polled."""
    [generation] = server.generations.values()
    return [round(at) for at in generation.polls]


async def collect(job: Job) -> list[Event]:
    return [event async for event in job]


async def test_a_job_is_awaited_and_gives_its_result(client: Client, server: FakeRunBlob) -> None:
    job = await client.submit(VIDEO)
    assert (job.status, str(job.cost)) == (Status.PENDING, "$0.15")
    result = await job
    assert result.urls == [f"https://cdn.runblob.test/{job.ref.id}"]
    assert result.artifacts[0].kind == "video"
    assert server.bought == 1


async def test_video_is_polled_on_the_documented_schedule(client: Client, server: FakeRunBlob) -> None:
    server.duration = 100
    await client.run(VIDEO)
    assert polls(server) == [5, 10, 20, 35, 50, 65, 80, 95, 110]


async def test_a_photo_is_polled_every_five_seconds(client: Client, server: FakeRunBlob) -> None:
    server.duration = 22
    await client.run(O3Photo(prompt="a boat"))
    assert polls(server) == [5, 10, 15, 20, 25]


async def test_by_default_polls_are_timed_by_a_learned_duration_model(server: FakeRunBlob) -> None:
    """Fewer polls than the documented schedule, from the first job on, and closer to the end after a few."""
    server.duration = 147
    lags: list[float] = []
    async with Client(kling_async.RunBlob(KEY), http=server) as client:
        for _ in range(20):
            start = anyio.current_time()
            await client.run(VIDEO)
            lags.append(anyio.current_time() - start - server.duration)
    assert server.requests["poll"] <= 20 * 7 < 20 * 12, "the documented schedule takes 12 polls"
    assert sum(lags[10:]) < sum(lags[:10])


async def test_each_event_comes_once_and_in_order(client: Client) -> None:
    job = await client.submit(VIDEO)
    events = await collect(job)
    assert [event.seq for event in events] == [0, 1, 2]
    assert [event.status for event in events] == [Status.PENDING, Status.PROCESSING, Status.COMPLETED]
    assert [event.source for event in events] == ["submit", "poll", "poll"]
    assert [round(event.elapsed) for event in events] == [0, 20, 65]
    assert events[0].at < events[1].at < events[2].at
    assert tuple(events) == job.events


async def test_late_readers_replay_and_many_readers_share_the_polls(client: Client, server: FakeRunBlob) -> None:
    job = await client.submit(VIDEO)
    logs: list[list[Event]] = []

    async def read() -> None:
        logs.append(await collect(job))

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(read)
        await anyio.sleep(30)
        group.start_soon(read)
    logs.append(await collect(job))
    assert len(logs) == 52
    assert all(log == list(job.events) for log in logs)
    assert polls(server) == [5, 10, 20, 35, 50, 65]


async def test_a_result_may_be_awaited_again_without_a_call(client: Client, server: FakeRunBlob) -> None:
    job = await client.submit(VIDEO)
    first = await job
    calls = server.requests.total()
    assert await job == first
    assert server.requests.total() == calls


async def test_a_cancelled_waiter_loses_nothing(client: Client, server: FakeRunBlob) -> None:
    """The waiter that did the looking is cancelled. The other goes on without a gap."""
    job = await client.submit(VIDEO)
    results: list[kling_async.Result] = []

    async def wait() -> None:
        results.append(await job)

    async with anyio.create_task_group() as group:
        with anyio.move_on_after(12):
            async with anyio.create_task_group() as doomed:
                doomed.start_soon(wait)
                await checkpoint()
                group.start_soon(wait)
        assert not results
    assert len(results) == 1
    assert polls(server) == [5, 10, 20, 35, 50, 65]


async def test_a_job_is_not_polled_while_nobody_waits(client: Client, server: FakeRunBlob) -> None:
    await client.submit(VIDEO)
    await anyio.sleep(1000)
    assert server.requests["poll"] == 0


async def test_a_failed_job_raises_its_reason(client: Client, server: FakeRunBlob) -> None:
    server.failure = "CONTENT_POLICY_VIOLATION"
    job = await client.submit(VIDEO)
    with pytest.raises(GenerationFailed, match="CONTENT_POLICY_VIOLATION") as failed:
        await job
    assert (failed.value.job, failed.value.code, failed.value.retryable) == (job, "CONTENT_POLICY_VIOLATION", False)
    assert str(job.ref) in str(failed.value)
    assert (await job.wait()) is Status.FAILED


async def test_a_timeout_of_the_provider_is_worth_another_submission(client: Client, server: FakeRunBlob) -> None:
    server.failure = "TIMEOUT"
    with pytest.raises(GenerationFailed) as failed:
        await client.run(VIDEO)
    assert failed.value.retryable


@pytest.mark.parametrize(
    ("code", "retryable", "advice"),
    [
        ("INTERNAL_ERROR", True, "submit the same request again"),
        ("SENSITIVE_WORDS", False, "the same one would fail again"),
        ("INVALID_IMAGE", False, "the same one would fail again"),
        ("NONSENSE_CODE", None, "change the request or submit it again"),
    ],
)
async def test_a_failure_says_whether_another_submission_may_help_or_that_it_is_not_known(
    client: Client, server: FakeRunBlob, code: str, retryable: bool | None, advice: str
) -> None:
    server.failure = code
    with pytest.raises(GenerationFailed) as failed:
        await client.run(VIDEO)
    assert failed.value.retryable is retryable
    assert advice in str(failed.value)
    assert ("is not known" in str(failed.value)) is (retryable is None)


async def test_the_deadline_ends_the_wait_and_not_the_job(client: Client, server: FakeRunBlob) -> None:
    server.duration = 905
    job = await client.submit(VIDEO)
    with pytest.raises(GenerationTimeout, match="attach") as timeout:
        await job
    assert timeout.value.job == job
    assert polls(server)[-1] == 900
    await anyio.sleep(10)
    assert (await job).artifacts, "awaiting again polls again"


@pytest.mark.parametrize(("request_", "limit"), [(VIDEO, 900), (O3Photo(prompt="x"), 300)])
async def test_deadlines_are_the_documented_ones(
    client: Client, server: FakeRunBlob, request_: kling_async.Request, limit: float
) -> None:
    server.duration = 10_000
    start = anyio.current_time()
    with pytest.raises(GenerationTimeout):
        await client.run(request_)
    assert anyio.current_time() - start == pytest.approx(limit, abs=1)


async def test_wait_is_bounded_and_raises_nothing(client: Client, server: FakeRunBlob) -> None:
    server.failure = "API_ERROR"
    job = await client.submit(VIDEO)
    start = anyio.current_time()
    assert await job.wait(timeout=25) is Status.PROCESSING
    assert anyio.current_time() - start == pytest.approx(25, abs=0.1)
    assert await job.wait() is Status.FAILED


async def test_refresh_polls_now(client: Client, server: FakeRunBlob) -> None:
    job = await client.submit(VIDEO)
    await anyio.sleep(30)
    assert job.status is Status.PENDING
    assert await job.refresh() is Status.PROCESSING
    assert polls(server) == [30]


async def test_an_attached_job_is_polled_at_once(client: Client, server: FakeRunBlob) -> None:
    ref = str((await client.submit(VIDEO)).ref)
    await anyio.sleep(100)
    async with Client(kling_async.RunBlob(KEY), http=server) as other:
        job = other.attach(ref)
        assert (job.request, job.events) == (None, ())
        assert (await job).urls == [f"https://cdn.runblob.test/{job.ref.id}"]
        assert [event.source for event in job.events] == ["poll"]
    assert polls(server) == [100]


async def test_a_status_that_is_not_understood_is_a_warning_once_for_each_job(
    client: Client, server: FakeRunBlob, caplog: pytest.LogCaptureFixture
) -> None:
    async def unknown(request: httpx.Request) -> httpx.Response | None:
        odd = {"generation_id": request.url.path.rpartition("/")[2], "status": "resting"}
        return httpx.Response(200, json=odd) if request.method == "GET" else None

    server.intercept = unknown
    jobs = [await client.submit(VIDEO) for _ in range(2)]
    for _ in range(3):
        for job in jobs:
            await job.refresh()
    warnings = [record for record in caplog.records if "not understood" in record.getMessage()]
    assert len(warnings) == len(jobs)


def test_a_reference_takes_long_ids() -> None:
    ref = kling_async.JobRef("runblob", "o3-video", "a" * 300)
    assert kling_async.JobRef.of(str(ref)) == ref


async def test_attaching_a_running_job_gives_an_equal_handle(client: Client) -> None:
    job = await client.submit(VIDEO)
    other = await client.submit(VIDEO)
    assert client.attach(job.ref) == job != other
    assert len({job, other, *client.jobs, client.attach(str(job.ref))}) == 2
    assert job != job.ref
    await job
    assert client.attach(job.ref) == job, "also when it has ended"


async def test_an_unknown_job_is_not_found_at_once_when_attached(client: Client) -> None:
    job = client.attach("runblob/o3-video/11111111-2222-3333-4444-555555555555")
    with pytest.raises(kling_async.JobNotFound, match="runblob/o3-video/11111111"):
        await job


async def test_not_found_right_after_the_submission_is_forgiven(client: Client, server: FakeRunBlob) -> None:
    async def late(request: httpx.Request) -> httpx.Response | None:
        young = server.requests["poll"] <= 4 and request.method == "GET"
        return httpx.Response(404, json={"detail": "GENERATION_NOT_FOUND"}) if young else None

    server.intercept = late
    assert (await client.run(VIDEO)).urls
    assert server.bought == 1


async def test_a_lasting_not_found_is_raised(client: Client, server: FakeRunBlob) -> None:
    job = await client.submit(VIDEO)
    server.generations.clear()
    start = anyio.current_time()
    with pytest.raises(kling_async.JobNotFound):
        await job
    assert 50 < anyio.current_time() - start < 90


async def test_failed_polls_do_not_fail_the_job(client: Client, server: FakeRunBlob) -> None:
    async def failing(request: httpx.Request) -> httpx.Response | None:
        if request.method == "GET" and server.requests["poll"] < 10:
            raise httpx.ReadTimeout("slow", request=request)
        return None

    server.intercept = failing
    job = await client.submit(VIDEO)
    assert (await job).urls
    assert [event.status for event in job.events] == [Status.PENDING, Status.COMPLETED]


async def test_a_provider_that_stays_unreachable_is_raised_after_a_while(client: Client, server: FakeRunBlob) -> None:
    job = await client.submit(VIDEO)

    async def gone(request: httpx.Request) -> httpx.Response | None:
        raise httpx.ConnectError("refused", request=request)

    server.intercept = gone
    start = anyio.current_time()
    with pytest.raises(kling_async.TransportFailed, match="could not be reached"):
        await job
    assert 180 <= anyio.current_time() - start < 300
    server.intercept = None
    assert (await job).urls, "the job is not lost"


async def test_a_revoked_key_is_raised_at_once(client: Client, server: FakeRunBlob) -> None:
    job = await client.submit(VIDEO)

    async def revoked(_: httpx.Request) -> httpx.Response | None:
        return httpx.Response(401, json={"error": "Unauthorized", "message": f"the key {KEY} is revoked"})

    server.intercept = revoked
    with pytest.raises(kling_async.Unauthorized) as refused:
        await job
    assert server.requests["poll"] == 1
    assert KEY not in str(refused.value)


async def test_an_unknown_status_word_keeps_the_job_running(
    client: Client, server: FakeRunBlob, caplog: pytest.LogCaptureFixture
) -> None:
    async def odd(request: httpx.Request) -> httpx.Response | None:
        if request.method == "GET" and server.requests["poll"] < 3:
            return httpx.Response(200, json={"generation_id": request.url.path.rpartition("/")[2], "status": "paused"})
        return None

    server.intercept = odd
    job = await client.submit(VIDEO)
    await job
    assert [event.status for event in job.events] == [Status.PENDING, Status.PROCESSING, Status.COMPLETED]
    assert "paused" in caplog.text


async def test_cancel_is_refused_where_the_provider_cannot(client: Client) -> None:
    job = await client.submit(VIDEO)
    with pytest.raises(kling_async.ConfigurationError, match="no way to cancel"):
        await job.cancel()


async def test_the_limit_on_status_calls_holds_over_all_jobs(client: Client, server: FakeRunBlob) -> None:
    """RunBlob: 60 status calls a minute for all jobs of a key (docs: kling/o3-photo-status)."""
    server.duration = 120
    start = anyio.current_time()
    async with anyio.create_task_group() as group:
        for _ in range(40):
            group.start_soon(client.run, VIDEO)
    seconds = anyio.current_time() - start
    assert server.requests["poll"] <= seconds + 1
    assert all(generation.polls for generation in server.generations.values())


async def test_the_limit_on_status_calls_can_be_changed(server: FakeRunBlob) -> None:
    server.duration = 120
    polling = Polling(status_calls_per_minute=float("inf"), schedule=Progressive(1))
    async with Client(kling_async.RunBlob(KEY), http=server, polling=polling) as client:
        start = anyio.current_time()
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(client.run, VIDEO)
        assert anyio.current_time() - start < 123
    assert server.requests["poll"] > 5 * 100, "the documented limit would allow 120"


async def test_hundreds_of_waiting_jobs_hold_at_most_the_connections_they_may(server: FakeRunBlob) -> None:
    active, most = 0, 0

    async def count(_: httpx.Request) -> httpx.Response | None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await anyio.sleep(0.05)
        active -= 1
        return None

    server.intercept = count
    polling = Polling(status_calls_per_minute=float("inf"))
    async with Client(kling_async.RunBlob(KEY), http=server, polling=polling, limits=Limits(connections=20)) as client:
        async with anyio.create_task_group() as group:
            for _ in range(200):
                group.start_soon(client.run, VIDEO)
        assert client.statistics().submitted == 200
        assert client.statistics().running == 0
    assert most == 20
    assert server.bought == 200


async def test_follow_takes_jobs_to_their_end_without_a_waiter(client: Client) -> None:
    first = await client.submit(VIDEO)
    async with anyio.create_task_group() as group:
        group.start_soon(client.follow)
        await anyio.sleep(10)
        second = await client.submit(VIDEO)
        await anyio.sleep(200)
        assert (first.status, second.status) == (Status.COMPLETED, Status.COMPLETED)
        assert client.statistics().running == 0
        group.cancel_scope.cancel()

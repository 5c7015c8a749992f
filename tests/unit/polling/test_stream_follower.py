"""Listening to a provider's stream: what the watch makes of good, cut, deaf and silent ones. In virtual time."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx
import pytest
from anyio.lowlevel import checkpoint

from kling_async import (
    Client,
    Delivery,
    Event,
    GenerationTimeout,
    InferenceSh,
    Job,
    Limits,
    Polling,
    Status,
    Unauthorized,
    Webhooks,
    inferencesh,
)
from kling_async._models import Source

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

REQUEST = inferencesh.ImageO1("a paper boat in the rain")
OUTPUT = {"image": "https://cloud.inference.test/out.png"}
STAGES = {"queued": 2, "preparing": 4, "serving": 5, "running": 7, "uploading": 9, "completed": 10}


class Lines(httpx.AsyncByteStream):
    """The body of one stream: what becomes true while it is open, and heartbeats."""

    def __init__(self, server: FakeInferenceSh, identity: str) -> None:
        self.server = server
        self.identity = identity
        self.opened = anyio.current_time()
        self.reported = server.stage if server.snapshot else None
        self.first = server.snapshot and not server.deaf
        self.lines = 0
        server.open_streams += 1

    def __aiter__(self) -> Lines:
        return self

    async def __anext__(self) -> bytes:
        server = self.server
        if self.lines == server.close_after or (self.reported == "completed" and not self.first and not server.deaf):
            if server.breaks:
                raise httpx.ReadError("connection reset by peer")
            raise StopAsyncIteration
        self.lines += 1
        if server.garbled:
            await checkpoint()
            return b"<html>\n" * 3
        if self.first:
            self.first = False
            return self.line(server.task(self.identity))
        await anyio.sleep(min(server.heartbeat, server.until_change()))
        if server.deaf or server.stage == (self.reported or self.server.stage_at(self.opened)):
            return self.line({"type": "heartbeat"})
        self.reported = server.stage
        part = {name: value for name, value in server.task(self.identity).items() if name in {"status", "output"}}
        return self.line({"data": part, "fields": list(part)})

    def line(self, said: dict[str, Any]) -> bytes:
        return json.dumps(said).encode() + b"\n"

    async def aclose(self) -> None:
        self.server.open_streams -= 1


@dataclass
class FakeInferenceSh(httpx.AsyncBaseTransport):
    """Tasks that go through their stages at the given seconds, told by polls and by streams."""

    plan: dict[str, float] = field(default_factory=lambda: {"queued": 0.0, "running": 5.0, "completed": 24.0})
    heartbeat: float = 10.0
    snapshot: bool = True
    deaf: bool = False
    close_after: int | None = None
    breaks: bool = False
    garbled: bool = False
    stream_status: int = 200
    poll_status: int = 200
    born: float = 0.0
    bought: int = 0
    webhook: str = ""
    polls: list[float] = field(default_factory=list)
    streams: list[float] = field(default_factory=list)
    open_streams: int = 0
    most_streams: int = 0

    @property
    def age(self) -> float:
        return anyio.current_time() - self.born

    @property
    def stage(self) -> str:
        return self.stage_at(anyio.current_time())

    def stage_at(self, moment: float) -> str:
        # A hair's breadth early: sleeping until a moment may end just before it.
        return [name for name, at in self.plan.items() if at <= moment - self.born + 1e-6][-1]

    def until_change(self) -> float:
        return min([at - self.age for at in self.plan.values() if at > self.age + 1e-6], default=1e9)

    def task(self, identity: str) -> dict[str, Any]:
        output = OUTPUT if self.stage == "completed" else None
        return {"id": identity, "status": STAGES[self.stage], "output": output}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/apps/run":
            self.born = anyio.current_time()
            self.bought += 1
            self.webhook = str(json.loads(await request.aread()).get("webhook"))
            return httpx.Response(200, json={"data": {"id": f"task-{self.bought}", "status": 1}})
        identity = path.split("/")[2]
        if path.endswith("/stream"):
            self.streams.append(round(self.age, 1))
            if self.stream_status != 200:
                return httpx.Response(self.stream_status, json={"title": "no", "status": self.stream_status})
            lines = Lines(self, identity)
            self.most_streams = max(self.most_streams, self.open_streams)
            return httpx.Response(200, stream=lines)
        if path.endswith("/status"):
            self.polls.append(round(self.age, 1))
        if self.poll_status != 200:
            return httpx.Response(self.poll_status, json={"title": "no", "status": self.poll_status})
        return httpx.Response(200, json={"data": self.task(identity)})


@pytest.fixture
def server() -> FakeInferenceSh:
    return FakeInferenceSh()


@pytest.fixture
async def client(server: FakeInferenceSh) -> AsyncIterator[Client]:
    made = Client(InferenceSh("inf_made_up"), http=server, polling=Polling(schedule="documented"))
    yield made
    await made.aclose()
    assert server.open_streams == 0, "a stream was left open"


def reported(job: Job) -> list[tuple[Source, str | None, int]]:
    """The log as (where from, stage, second)."""
    return [(event.source, event.message or event.status, round(event.elapsed)) for event in job.events]


async def test_an_awaited_job_is_followed_to_its_end_on_one_stream(client: Client, server: FakeInferenceSh) -> None:
    job = await client.submit(REQUEST)
    result = await job
    assert result.urls == [OUTPUT["image"]]
    assert reported(job) == [
        ("submit", "received", 0),
        ("stream", "queued", 0),
        ("stream", "running", 5),
        ("stream", "completed", 24),
    ]
    assert (len(server.streams), server.polls) == (1, [])


async def test_iterating_gives_every_event_once_and_the_end_at_once(client: Client, server: FakeInferenceSh) -> None:
    server.plan = {name: 3.0 * number for number, name in enumerate(STAGES)}
    job = await client.submit(REQUEST)
    events = [event async for event in job]
    assert [event.message or event.status for event in events] == ["received", *STAGES]
    assert [event.seq for event in events] == list(range(7))
    assert (round(events[-1].elapsed), server.polls) == (15, [])


async def test_ten_minutes_of_heartbeats_are_no_failure(client: Client, server: FakeInferenceSh) -> None:
    server.plan = {"queued": 0, "running": 1, "completed": 600}
    job = await client.submit(REQUEST)
    await job
    assert reported(job)[-1] == ("stream", "completed", 600)
    assert server.streams == [0]
    assert len(server.polls) == 19, "one check for every 30 s of silence"


async def test_a_stream_that_stays_open_and_reports_nothing_costs_little_time(
    client: Client, server: FakeInferenceSh
) -> None:
    server.deaf = True
    job = await client.submit(REQUEST)
    await job
    assert (server.polls, server.streams) == ([2, 6, 14, 30], [0])
    assert reported(job)[-1] == ("poll", "completed", 30)


async def test_a_webhook_counts_beside_a_silent_stream(server: FakeInferenceSh) -> None:
    """It leads to a poll at once, although a task follows the stream."""
    server.deaf, server.plan = True, {"queued": 0, "running": 1, "completed": 20}
    webhooks = Webhooks("https://example.com", "an old and very secret secret")
    async with Client(InferenceSh("inf_made_up"), http=server, webhooks=webhooks) as client:
        job = await client.submit(REQUEST)
        async with anyio.create_task_group() as group:
            group.start_soon(job.wait)
            await anyio.sleep(20)
            *_, provider, key, token = server.webhook.split("/")
            body = json.dumps({"id": job.ref.id, "status": 10, "output": OUTPUT}).encode()
            assert await client.deliver(Delivery(provider, key, token, body))
    assert (server.polls, server.streams) == ([2, 6, 14, 20], [0])
    assert reported(job)[-1] == ("poll", "completed", 20)


async def test_a_stream_that_is_silent_for_ten_minutes_does_no_harm(client: Client, server: FakeInferenceSh) -> None:
    server.deaf, server.plan = True, {"queued": 0, "running": 1, "completed": 600}
    job = await client.submit(REQUEST)
    await job
    assert reported(job)[-1][:2] == ("poll", "completed")
    assert server.polls[-1] <= 630
    assert len(server.polls) <= 24


async def test_an_end_that_came_before_the_stream_was_open_is_not_missed(
    client: Client, server: FakeInferenceSh
) -> None:
    """If the first line of a stream does not report the status, a poll does."""
    server.snapshot = False
    job = await client.submit(REQUEST)
    server.plan = {"queued": 0, "completed": 0}
    await job
    assert reported(job)[-1] == ("poll", "completed", 2)


async def test_changes_are_reported_without_a_first_line_too(client: Client, server: FakeInferenceSh) -> None:
    server.snapshot = False
    job = await client.submit(REQUEST)
    await job
    assert reported(job)[1:] == [("poll", "queued", 2), ("stream", "running", 5), ("stream", "completed", 24)]


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_stream_that_closes_is_opened_again_without_losing_or_repeating_an_event(
    client: Client, server: FakeInferenceSh, *, breaks: bool
) -> None:
    """Each event sets the count of failures back: there are more closes than are allowed, each after an event."""
    server.plan = {name: 3.0 * number for number, name in enumerate(STAGES)}
    server.close_after, server.breaks, server.heartbeat = 2, breaks, 100.0
    job = await client.submit(REQUEST)
    await job
    assert [event.message or event.status for event in job.events] == ["received", *STAGES]
    assert [event.seq for event in job.events] == list(range(7))
    assert len(server.streams) >= 5
    assert round(job.events[-1].elapsed) == 15


async def test_after_several_failed_streams_a_job_is_only_polled(client: Client, server: FakeInferenceSh) -> None:
    server.close_after, server.plan = 0, {"queued": 0, "running": 1, "completed": 60}
    job = await client.submit(REQUEST)
    await job
    assert len(server.streams) == 5
    assert reported(job)[-1][:2] == ("poll", "completed")
    gaps = [later - earlier for earlier, later in zip(server.polls, server.polls[1:], strict=False)]
    assert all(1.9 <= gap <= 2.1 for gap in gaps[5:])
    assert 60 <= job.events[-1].elapsed <= 62.1


@pytest.mark.parametrize("status", [404, 406, 500, 503])
async def test_a_server_without_streams_is_polled(client: Client, server: FakeInferenceSh, status: int) -> None:
    server.stream_status = status
    job = await client.submit(REQUEST)
    await job
    assert reported(job)[-1][:2] == ("poll", "completed")
    assert len(server.streams) == 5


async def test_a_throttled_stream_pauses_all_calls(client: Client, server: FakeInferenceSh) -> None:
    server.stream_status = 429
    job = await client.submit(REQUEST)
    await job
    assert job.status is Status.COMPLETED
    assert server.streams[1] > 0.9, "no second call follows at once"


async def test_more_jobs_than_streams_are_served_all_the_same(server: FakeInferenceSh) -> None:
    """Half of the connections are kept free of streams. A job without a stream is polled."""
    async with Client(InferenceSh("inf_made_up"), http=server, limits=Limits(connections=4)) as client:
        jobs = [await client.submit(REQUEST) for _ in range(6)]
        async with anyio.create_task_group() as group:
            for job in jobs:
                group.start_soon(job.wait)
    assert [job.status for job in jobs] == [Status.COMPLETED] * 6
    assert sorted(job.events[-1].source for job in jobs) == ["poll"] * 4 + ["stream"] * 2
    assert server.most_streams == 2


async def test_a_refused_key_ends_the_wait_with_its_own_error(client: Client, server: FakeInferenceSh) -> None:
    """Not wrapped in a group, although it is found beside an open stream."""
    server.deaf = True
    job = await client.submit(REQUEST)
    server.poll_status = 401
    with pytest.raises(Unauthorized, match="INFERENCE_API_KEY"):
        await job
    assert server.polls == [2]


async def test_polls_that_fail_beside_a_stream_do_not_end_it(client: Client, server: FakeInferenceSh) -> None:
    server.plan = {"queued": 0, "running": 1, "completed": 100}
    job = await client.submit(REQUEST)
    server.poll_status = 500
    await job
    assert reported(job)[-1] == ("stream", "completed", 100)


async def test_the_deadline_comes_although_the_stream_is_open(server: FakeInferenceSh) -> None:
    server.plan = {"queued": 0, "running": 1, "completed": 5000}
    client = Client(InferenceSh("inf_made_up"), http=server, polling=Polling(deadline=45))
    job = await client.submit(REQUEST)
    with pytest.raises(GenerationTimeout, match="still processing after 45 s"):
        await job
    assert round(server.polls[-1]) == 45, "a last poll before giving up"
    assert server.open_streams == 0
    await client.aclose()


async def test_a_cancelled_waiter_closes_its_stream_and_loses_nothing(client: Client, server: FakeInferenceSh) -> None:
    job = await client.submit(REQUEST)
    with anyio.move_on_after(10):
        await job
    assert server.open_streams == 0
    assert reported(job)[-1] == ("stream", "running", 5)
    await job
    assert reported(job)[-1] == ("stream", "completed", 24)
    assert len(server.streams) == 2


async def test_many_readers_share_one_stream(client: Client, server: FakeInferenceSh) -> None:
    server.plan = {"queued": 0, "running": 5, "completed": 24}
    job = await client.submit(REQUEST)
    logs: list[list[Event]] = []

    async def read() -> None:
        logs.append([event async for event in job])

    async with anyio.create_task_group() as group:
        group.start_soon(job.wait)
        await anyio.wait_all_tasks_blocked()
        for _ in range(10):
            group.start_soon(read)
    assert len(logs) == 10
    assert all(log == list(job.events) for log in logs)
    assert (server.most_streams, len(server.streams)) == (1, 1)


async def test_an_unreadable_line_ends_the_stream_and_not_the_job(client: Client, server: FakeInferenceSh) -> None:
    job = await client.submit(REQUEST)
    server.garbled = True
    await job
    assert reported(job)[-1][:2] == ("poll", "completed")
    assert len(server.streams) == 5

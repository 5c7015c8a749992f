"""Streams that end when the server is to stop, without a server."""

from __future__ import annotations

import gc
import itertools
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import anyio
import pytest
import sniffio
from anyio.lowlevel import checkpoint

from kling_async import Client, runblob
from kling_async.starlette import cancel_at_shutdown, event_response
from support.fake_runblob import FakeRunBlob

pytestmark = pytest.mark.anyio

STREAMS = 200
PATIENCE = 120.0  # s


class Server:
    """What is known of a uvicorn server: its signal handler is a method, and it says whether it is to stop."""

    def __init__(self) -> None:
        self.stopping = False
        self.looks = 0

    @property
    def should_exit(self) -> bool:
        self.looks += 1
        return self.stopping

    def handle(self, number: int, frame: FrameType | None) -> None:
        raise AssertionError


@pytest.fixture
def uvicorn() -> Iterator[Server]:
    server = Server()
    before = signal.signal(signal.SIGTERM, server.handle)
    yield server
    signal.signal(signal.SIGTERM, before)


async def test_one_stream_looks_for_all_and_all_end(uvicorn: Server) -> None:
    scopes = [anyio.CancelScope() for _ in range(STREAMS)]
    async with anyio.create_task_group() as group:

        async def stream(scope: anyio.CancelScope) -> None:
            with scope:
                await cancel_at_shutdown(scope)
                await anyio.sleep_forever()

        for scope in scopes:
            group.start_soon(stream, scope)
        await anyio.wait_all_tasks_blocked()
        assert uvicorn.looks == STREAMS
        for _ in range(3):  # whoever looks leaves, and another goes on
            next(scope for scope in scopes if not scope.cancel_called).cancel()
            await anyio.wait_all_tasks_blocked()
        assert uvicorn.looks <= STREAMS + 3
        uvicorn.stopping = True
    assert all(scope.cancelled_caught for scope in scopes)
    assert uvicorn.looks <= 2 * STREAMS + 3


class Browser:
    """A reader of events: what it was sent, and whether it is still there."""

    def __init__(self, pinged: anyio.Event | None = None) -> None:
        self.gone = anyio.Event()
        self.pinged = pinged or anyio.Event()
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message.get("body") == b": ping\n\n":
            self.pinged.set()

    @property
    def pings(self) -> int:
        return sum(message.get("body") == b": ping\n\n" for message in self.sent)


@pytest.mark.virtual_time
async def test_one_task_keeps_all_streams_open_until_the_server_stops(
    client: Client, server: FakeRunBlob, uvicorn: Server
) -> None:
    server.duration = 600
    job = await client.submit(runblob.O3Video("a boat"))
    browsers = [Browser() for _ in range(20)]
    async with anyio.create_task_group() as group:
        for browser in browsers:
            group.start_soon(event_response(job, ping=2), {"type": "http"}, browser.receive, browser.send)
        await anyio.sleep(11)
        assert {browser.pings for browser in browsers} == {5}
        for browser in browsers[:3]:  # one after the other has the task
            browser.gone.set()
            await checkpoint()
        for browser in browsers[10:12]:
            browser.gone.set()
        await anyio.sleep(20)
        left = [browser for browser in browsers if not browser.gone.is_set()]
        assert {browser.pings for browser in browsers if browser not in left} == {5}
        assert {browser.pings for browser in left} <= {14, 15}
        before = uvicorn.looks
        await anyio.sleep(10)
        assert uvicorn.looks - before <= 21
        uvicorn.stopping = True
    for browser in left:
        assert browser.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
        assert not any(b"event: end" in message.get("body", b"") for message in browser.sent)
    assert all(
        message.get("more_body", True) for browser in browsers if browser not in left for message in browser.sent
    )


@pytest.mark.virtual_time
async def test_streams_that_were_opened_together_are_not_all_written_to_in_one_turn(
    client: Client, server: FakeRunBlob
) -> None:
    server.duration = 600
    job = await client.submit(runblob.O3Video("a boat"))
    first = anyio.Event()
    browsers = [Browser(first) for _ in range(400)]
    turns: list[int] = []

    async with anyio.create_task_group() as group:
        for browser in browsers:
            group.start_soon(event_response(job, ping=2), {"type": "http"}, browser.receive, browser.send)
        await first.wait()
        with anyio.fail_after(PATIENCE):
            while not turns or turns[-1] < len(browsers):
                turns.append(sum(browser.pings for browser in browsers))
                await checkpoint()
        group.cancel_scope.cancel()
    assert max(later - earlier for earlier, later in itertools.pairwise([0, *turns])) <= 200


async def test_readers_leave_nothing_to_the_collector_and_many_of_them_do_not_lengthen_its_pauses(
    client: Client, server: FakeRunBlob
) -> None:
    server.duration = 600
    job = await client.submit(runblob.O3Video("a boat"))
    browsers = [Browser() for _ in range(600)]
    gc.unfreeze()  # as in a program: the test suite has the collector leave out its modules
    try:
        async with anyio.create_task_group() as group:
            for browser in browsers:
                group.start_soon(event_response(job), {"type": "http"}, browser.receive, browser.send)
            await anyio.wait_all_tasks_blocked()
            assert gc.get_freeze_count()
            gc.collect()
            gc.disable()
            for browser in browsers:
                browser.gone.set()
        assert gc.get_freeze_count() == 0
        found = gc.collect()
    finally:
        gc.enable()
        gc.freeze()
    if sniffio.current_async_library() == "asyncio":  # trio itself leaves some
        assert found < 10 * len(browsers)

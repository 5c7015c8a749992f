"""Streams that end when the server is to stop, without a server."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import FrameType

import anyio
import pytest

from kling_async.starlette import cancel_at_shutdown

pytestmark = pytest.mark.anyio

STREAMS = 200


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
def server() -> Iterator[Server]:
    server = Server()
    before = signal.signal(signal.SIGTERM, server.handle)
    yield server
    signal.signal(signal.SIGTERM, before)


async def test_one_stream_looks_for_all_and_all_end(server: Server) -> None:
    scopes = [anyio.CancelScope() for _ in range(STREAMS)]
    async with anyio.create_task_group() as group:

        async def stream(scope: anyio.CancelScope) -> None:
            with scope:
                await cancel_at_shutdown(scope)
                await anyio.sleep_forever()

        for scope in scopes:
            group.start_soon(stream, scope)
        await anyio.wait_all_tasks_blocked()
        assert server.looks == STREAMS
        for _ in range(3):  # whoever looks leaves, and another goes on
            next(scope for scope in scopes if not scope.cancel_called).cancel()
            await anyio.wait_all_tasks_blocked()
        assert server.looks <= STREAMS + 3
        server.stopping = True
    assert all(scope.cancelled_caught for scope in scopes)
    assert server.looks <= 2 * STREAMS + 3

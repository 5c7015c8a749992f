"""A web application on a real socket, in the event loop of the test, and what it answered."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import uvicorn

__all__ = ["Site", "serve"]

PATIENCE = 120.0  # s. No wait of these tests is longer, and none should come near it


class Site:
    """An ASGI application that is served, and the statuses of its answers in their order."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.app: Any = None
        self.answers: list[tuple[str, int]] = []
        self._news = anyio.Event()

    @property
    def statuses(self) -> list[int]:
        return [status for _, status in self.answers]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def reported(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                self.answers.append((scope["path"], message["status"]))
                self._news.set()

        await self.app(scope, receive, reported)

    async def answered(self, count: int) -> None:
        """Wait until so many answers were given."""
        with anyio.fail_after(PATIENCE):
            while len(self.answers) < count:
                self._news = anyio.Event()
                await self._news.wait()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are the test runner's


@contextlib.asynccontextmanager
async def serve(site: Site, app: Any, **settings: Any) -> AsyncIterator[Site]:
    """Serve `app` at the site's address until the block ends. Its lifespan is run."""
    site.app = app
    config = uvicorn.Config(site, log_config=None, ws="none", timeout_graceful_shutdown=1, **settings)
    server = _Server(config)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(site.socket.close)
        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(server.serve, [site.socket])
        with anyio.fail_after(PATIENCE):
            while not server.started:
                await anyio.lowlevel.checkpoint()
        try:
            yield site
        finally:
            server.should_exit = True

"""Time that passes at once, for tests whose HTTP is mocked."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self
from unittest import mock

from anyio import to_thread

__all__ = ["VirtualClock"]

_REAL_WAIT = 0.05  # s for which a working thread is waited for at a time


class VirtualClock:
    """The time of asyncio's event loops in this thread: when nothing is ready, it jumps to the next timer.

    A job of three minutes ends in milliseconds, because polls, time limits and deadlines of the client follow the event
    loop's time. It is for tests whose HTTP is mocked (respx, ``httpx.MockTransport``, an ASGI application). A real
    server works while nothing is ready here, so time limits would pass. A sandbox has a speed instead.

    Work in threads is waited for in real time, as far as it goes through anyio (the client reads and writes files so)
    or through ``loop.run_in_executor``. trio has such a clock itself: ``trio.testing.MockClock``. A loop that is none
    of asyncio's own, such as uvloop's, is not changed.

    Use it as a context manager around the test or inside of it, or as the fixture ``kling_clock``.

    Attributes:
        passed: Seconds that were jumped over.
    """

    def __init__(self) -> None:
        self.passed = 0.0
        self._begin = 0.0
        self._thread = 0
        self._working = 0
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        self._thread = threading.get_ident()
        kind = type(selectors.DefaultSelector())
        self._patch(asyncio.BaseEventLoop, "time", self._time)
        self._patch(kind, "select", self._select)
        self._patch(asyncio.BaseEventLoop, "run_in_executor", self._run_in_executor)
        self._patch(asyncio.BaseEventLoop, "shutdown_default_executor", self._shutdown_default_executor)
        real = to_thread.run_sync

        async def run_sync(*arguments: Any, **options: Any) -> Any:
            with self._thread_works():
                return await real(*arguments, **options)

        self._patches.enter_context(mock.patch.object(to_thread, "run_sync", run_sync))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()

    def _patch(self, owner: Any, name: str, replacement: Callable[..., Any]) -> None:
        """Replace a method for this thread. Other threads, such as a sandbox's, go on in real time."""
        real, thread = getattr(owner, name), self._thread

        def method(this: Any, *arguments: Any, **options: Any) -> Any:
            if threading.get_ident() == thread:
                return replacement(real, this, *arguments, **options)
            return real(this, *arguments, **options)

        self._patches.enter_context(mock.patch.object(owner, name, method))

    def _time(self, real: Callable[..., float], loop: Any) -> float:
        del real, loop
        return self._begin + self.passed

    def _select(self, real: Callable[..., list[Any]], selector: Any, timeout: float | None = None) -> list[Any]:
        """Do not sleep, and count for how long the loop would have slept."""
        ready = real(selector, 0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None:  # nothing is planned: only a thread or a socket can change that
            return real(selector, None)
        while self._working and not ready:
            ready = real(selector, _REAL_WAIT)
        if not ready:
            self.passed += timeout
        return ready

    def _run_in_executor(self, real: Callable[..., Any], loop: Any, *arguments: Any) -> Awaitable[Any]:
        future: asyncio.Future[Any] = real(loop, *arguments)
        self._working += 1
        future.add_done_callback(lambda _: self._end())
        return future

    async def _shutdown_default_executor(self, real: Callable[..., Any], loop: Any, *arguments: Any) -> None:
        """Wait for the threads of the executor, for which asyncio sets a time limit since Python 3.12."""
        with self._thread_works():
            await real(loop, *arguments)

    def _end(self) -> None:
        self._working -= 1

    @contextlib.contextmanager
    def _thread_works(self) -> Any:
        self._working += 1
        try:
            yield
        finally:
            self._end()

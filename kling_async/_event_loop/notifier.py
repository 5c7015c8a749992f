"""What wakes one task."""

from __future__ import annotations

import asyncio

import anyio

from kling_async._event_loop.clock import on_asyncio

__all__ = ["Notifier"]


class Notifier:
    """Wakes the one task that waits for it, if it waits. Nothing is remembered for later.

    On asyncio that is a future. An event of anyio costs five times as much, and each poll of a bulk run waits for one.
    """

    __slots__ = ("_loop", "_waiting")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None  # of asyncio, once the task has waited
        self._waiting: asyncio.Future[None] | anyio.Event | None = None

    async def wait(self) -> None:
        """Wait for the next notification."""
        if self._loop is None and on_asyncio():
            self._loop = asyncio.get_running_loop()
        if self._loop is not None:
            self._waiting = future = self._loop.create_future()
            await future
        else:
            self._waiting = event = anyio.Event()
            await event.wait()

    def notify(self) -> None:
        """Wake the task."""
        waiting, self._waiting = self._waiting, None
        if isinstance(waiting, asyncio.Future):
            if not waiting.done():  # its task was cancelled
                waiting.set_result(None)
        elif waiting is not None:
            waiting.set()

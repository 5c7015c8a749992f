"""One time for everything: POSIX seconds that advance with the event loop.

Deadlines and polls need a clock that never jumps. A ledger, another process and another event loop need one that means
the same everywhere. So each event loop's clock is anchored to the wall clock once, when it is first asked, and never
before what an earlier loop returned: a wall clock that is set back between two would let jobs wait for the difference.
A virtual loop clock (in tests and simulations) moves this one along.
"""

from __future__ import annotations

import asyncio
import math
import time

import anyio
from anyio.lowlevel import current_token

__all__ = ["Clock", "current_loop", "loop_time", "on_asyncio"]


def current_loop() -> object:
    """The event loop that runs here, to be compared with others.

    These two functions are called some ten times a status call. To ask asyncio first costs a tenth of what it costs to
    have anyio find out which library runs.

    Raises:
        anyio.NoEventLoopError: None does.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return current_token()


def loop_time() -> float:
    """Seconds on the clock of the event loop that runs here.

    Raises:
        anyio.NoEventLoopError: None does.
    """
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return anyio.current_time()


def on_asyncio() -> bool:
    """Whether this is a task of asyncio. One of trio may run within asyncio's loop (guest mode)."""
    try:
        return asyncio.current_task() is not None
    except RuntimeError:
        return False


class Clock:
    """POSIX seconds that never go back, within an event loop and from one to the next."""

    def __init__(self) -> None:
        self._loop: object = None
        self._offset = 0.0
        self._latest = -math.inf

    def now(self) -> float:
        """The time in POSIX seconds. Outside of an event loop, the wall clock's."""
        loop: object
        try:
            loop = running = asyncio.get_running_loop()
            ticks = running.time()
        except RuntimeError:
            try:
                loop, ticks = current_token(), anyio.current_time()
            except anyio.NoEventLoopError:
                return time.time()
        if loop is not self._loop and loop != self._loop:
            self._loop = loop
            self._offset = max(time.time(), self._latest) - ticks
        self._latest = ticks + self._offset
        return self._latest

    def on_loop(self, time: float) -> float:
        """A time near `now`, which was asked before, on the clock of the event loop that runs here."""
        return time - self._offset

"""The sandbox's clock: simulated seconds since the start, faster than the wall, movable by hand."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import time
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """Simulated time.

    Everything in the sandbox that takes time (a generation, a rate limit, the life of a URL, a webhook's
    next attempt) is given in simulated seconds, so that one factor makes all of it faster together.

    Args:
        speed: Simulated seconds per real second. 60 makes a minute pass in a second, 0 stops the clock so
            that it moves by `advance` alone.
        source: Real seconds, monotonic.

    Raises:
        ValueError: The speed is negative or not a number.
    """

    def __init__(self, speed: float = 1.0, source: Callable[[], float] = time.monotonic) -> None:
        if not 0 <= speed < math.inf:
            raise ValueError(f"speed={speed} is not a usable speed: give 0 (stopped) or more, such as 60")
        self.speed = speed
        self._source = source
        self._origin = source()
        self._skipped = 0.0
        self._epoch = dt.datetime.now(tz=dt.UTC)
        self._subscribers: set[Callable[[], object]] = set()

    def now(self) -> float:
        """Simulated seconds since the clock was made."""
        return (self._source() - self._origin) * self.speed + self._skipped

    def at(self, moment: float) -> dt.datetime:
        """The aware date and time of a simulated moment (seconds since the start)."""
        return self._epoch + dt.timedelta(seconds=moment)

    def advance(self, seconds: float) -> None:
        """Jump ahead by so many simulated seconds, from any thread. Waiters whose moment has come are notified."""
        self._skipped += seconds
        for subscriber in list(self._subscribers):
            subscriber()

    def real(self, seconds: float) -> float:
        """How many real seconds a simulated wait takes, infinite while the clock is stopped."""
        return seconds / self.speed if self.speed else math.inf

    async def until(self, moment: float, woken: asyncio.Event | None = None) -> None:
        """Wait in the server's loop until a simulated moment or until `woken` is set. Jumps count."""
        loop = asyncio.get_running_loop()
        while (left := moment - self.now()) > 0 and not (woken and woken.is_set()):
            stirred = woken or asyncio.Event()
            subscriber = partial(loop.call_soon_threadsafe, stirred.set)
            self._subscribers.add(subscriber)
            seconds = self.real(left)
            try:
                async with asyncio.timeout(seconds if math.isfinite(seconds) else None):
                    await stirred.wait()
            except TimeoutError:
                pass
            finally:
                self._subscribers.discard(subscriber)

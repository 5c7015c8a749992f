"""The ration of status calls that a provider grants a key, shared by all who look at its jobs."""

from __future__ import annotations

import math

import anyio

from kling_async._clock import Clock

__all__ = ["RateLimiter"]


class RateLimiter:
    """When the next status call of a lane is allowed.

    Calls are spread evenly: one an interval, and none saved up, because providers count over windows that they do not
    tell.

    Args:
        calls_per_minute: How many; None: as many as one likes.
        clock: The client's clock.
    """

    def __init__(self, calls_per_minute: float | None, clock: Clock) -> None:
        self._interval = 60.0 / calls_per_minute if calls_per_minute else 0.0
        self._clock = clock
        self._next = -math.inf
        self._callers = 0

    @property
    def limited(self) -> bool:
        """Whether a job may have to wait behind others."""
        return self._interval > 0

    @property
    def next_allowed(self) -> float:
        """When the next call is allowed to those who compete: after all who take their `acquire`."""
        return self._next + self._callers * self._interval

    def consume(self, now: float) -> None:
        """Take the call that is allowed now."""
        self._next = max(now, self._next) + self._interval

    def refund(self) -> None:
        """Return a call that was taken and not made."""
        self._next -= self._interval

    async def acquire(self) -> None:
        """Wait until a call is allowed, and take it before all who compete."""
        self._callers += 1
        try:
            while (wait := self._next - self._clock.now()) > 0:  # noqa: ASYNC110  # others move the time meanwhile
                await anyio.sleep(wait)
            self.consume(self._clock.now())
        finally:
            self._callers -= 1

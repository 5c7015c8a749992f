"""The limit on status calls that a provider sets for a key, shared by all who poll its jobs."""

from __future__ import annotations

import math

import anyio

from kling_async._event_loop.clock import Clock

__all__ = ["RateLimiter"]

_URGENT_SHARE = 0.5  # of the limit, for polls that cannot wait for their turn
_URGENT_BURST = 4  # urgent polls in a row, after a time without any


class RateLimiter:
    """When the next status call to a provider is allowed.

    Calls are spread evenly: one an interval, and none saved up, because providers count over windows that they do not
    document.

    Urgent polls come before all others, and anybody who sends webhooks or opens a page can ask for them. So they
    spend from a share of the limit, a token bucket. The rest is left to the polls that are due by schedule.

    Args:
        calls_per_minute: The limit. If None, there is none.
        clock: The client's clock.

    Attributes:
        limited: Whether a job may have to wait behind others.
    """

    def __init__(self, calls_per_minute: float | None, clock: Clock) -> None:
        self._interval = 60.0 / calls_per_minute if calls_per_minute else 0.0
        self.limited = self._interval > 0
        self._clock = clock
        self._next = -math.inf
        self._bucket_full = -math.inf  # when the share of urgent polls will be whole again
        self._callers = 0

    @property
    def interval(self) -> float:
        """Seconds between two calls. 0 if there is no limit."""
        return self._interval

    def hold(self, until: float) -> None:
        """Allow no call before that time: other processes have taken the turns before it."""
        self._next = max(self._next, until)

    @property
    def next_allowed(self) -> float:
        """When the next call is allowed to the jobs that compete: after the one in `acquire` that may go first."""
        if self._callers and self._next_urgent <= max(self._next, self._clock.now()):
            return self._next + self._interval
        return self._next

    @property
    def _next_urgent(self) -> float:
        """When the share of urgent polls has a call left."""
        return self._bucket_full - (_URGENT_BURST - 1) * self._interval / _URGENT_SHARE

    def _wait_for_urgent(self) -> float:
        return max(self._next, self._next_urgent) - self._clock.now()

    def take_urgent(self, now: float) -> bool:
        """Take one call from the share of urgent polls. Return whether there was one."""
        if self._next_urgent > now:
            return False
        self._bucket_full = max(now, self._bucket_full) + self._interval / _URGENT_SHARE
        return True

    def consume(self, now: float) -> None:
        """Take the call that is allowed now."""
        self._next = max(now, self._next) + self._interval

    def refund(self) -> None:
        """Return a call that was taken and not made."""
        self._next -= self._interval

    async def acquire(self) -> None:
        """Wait until an urgent call is allowed, and take it before the jobs that compete."""
        self._callers += 1
        try:
            while (wait := self._wait_for_urgent()) > 0:  # noqa: ASYNC110  # others move the time meanwhile
                await anyio.sleep(wait)
            now = self._clock.now()
            self.take_urgent(now)
            self.consume(now)
        finally:
            self._callers -= 1

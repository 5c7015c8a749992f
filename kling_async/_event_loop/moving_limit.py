"""A time limit that moves with each step of a task that goes on for long."""

from __future__ import annotations

import asyncio
import math

import anyio

from kling_async._event_loop.clock import on_asyncio

__all__ = ["MovingLimit"]


class MovingLimit:
    """Ends a scope when the limit of the step has passed that is under way.

    To set the deadline of a scope for each step, and to take it back after, makes and cancels a timer each time, which
    is 2 % of the CPU of a job. Here one timer stays. When it fires, it is set again to the limit of that moment
    (``python -m benchmarks.jobs``). On trio, which has no timers of its own, the scope's deadline moves.

    Args:
        scope: What is ended. It has been entered.
    """

    __slots__ = ("_limit", "_loop", "_scope", "_timer")

    def __init__(self, scope: anyio.CancelScope) -> None:
        self._scope = scope
        self._loop = asyncio.get_running_loop() if on_asyncio() else None
        self._limit = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, limit: float) -> None:
        """Begin a step that is over at `limit` at the latest, on the loop's clock."""
        if self._loop is None:
            self._scope.deadline = limit
            return
        self._limit = limit
        if self._timer is None or self._timer.when() > limit:
            self.close()
            self._timer = self._loop.call_at(limit, self._check_clock, self._loop)

    def end(self) -> None:
        """The step is over."""
        self._limit = math.inf
        if self._loop is None:
            self._scope.deadline = math.inf

    def close(self) -> None:
        """Let go of the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check_clock(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._limit <= loop.time():
            self._scope.cancel()
        elif self._limit < math.inf:
            self._timer = loop.call_at(self._limit, self._check_clock, loop)

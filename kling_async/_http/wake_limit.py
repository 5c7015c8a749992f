"""How many tasks go on in one turn of asyncio's loop because their answers have come."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque

from anyio.lowlevel import RunVar

__all__ = ["WakeLimit"]

_AT_ONCE = 8  # tasks. What follows an answer takes 0.4 ms on a quiet machine


class WakeLimit:
    """Wakes at most eight tasks in a turn of the loop. The others are woken in the next ones, in their order.

    A process that did not run for a while, because others used the machine or the garbage collector worked, finds an
    answer in each of its sockets. Thirty paid answers in one turn, and what follows each, held up the loop for 25 ms on
    a busy machine (``python -m benchmarks.jobs``). Here they come one after the other, and what else is due comes
    between. The count goes on from turn to turn until the ninth comes, who waits for the next one: to begin each turn
    anew took two calls of the loop for an answer.
    """

    def __init__(self) -> None:
        # Nothing here leads to the loop: what a loop's variables lead to is kept as long as they are.
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._woken = 0  # in this turn, or since one before it
        self._called = False  # whether the loop will say that the next turn has begun

    @classmethod
    def of_loop(cls) -> WakeLimit:
        """The one of the event loop that runs here."""
        known = _LIMIT.get(None)
        limit = None if known is None else known()
        if limit is None:
            limit = cls()
            _LIMIT.set(weakref.ref(limit))
        return limit

    def wake(self, waiting: asyncio.Future[None]) -> None:
        """End the wait of a task, in this turn or in a later one. Until then anything else may end it, too."""
        if self._woken < _AT_ONCE and not self._waiting:
            self._woken += 1
            waiting.set_result(None)
        else:
            self._waiting.append(waiting)
            if not self._called:
                self._called = True
                asyncio.get_running_loop().call_soon(self._begin_turn)

    def wake_all(self) -> None:
        """Wake all who wait for their turn. Somebody's time is over, whose answer may be among those that have come."""
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)

    def _begin_turn(self) -> None:
        self._woken = 0
        while self._waiting and self._woken < _AT_ONCE:
            waiting = self._waiting.popleft()
            if not waiting.done():
                self._woken += 1
                waiting.set_result(None)
        self._called = bool(self._waiting)
        if self._called:
            asyncio.get_running_loop().call_soon(self._begin_turn)


# The sockets have it. Held here, it would keep its event loop, and what that has, for ever.
_LIMIT: RunVar[weakref.ref[WakeLimit] | None] = RunVar("kling_async._http.wake_limit")

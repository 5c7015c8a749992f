"""Work in many turns of the event loop: it is shared with everything else of the program, so no turn takes long."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import anyio
from anyio.lowlevel import checkpoint

__all__ = ["Crowd", "TurnLimit", "cooperative_map"]

T = TypeVar("T")
R = TypeVar("R")

_AT_ONCE = 100  # tasks that one event wakes
_BATCH = 100  # items. One item takes some 20 us.


async def cooperative_map(make: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return what `make` gives for each item, in order. Other tasks run after every hundred."""
    made = []
    for number, item in enumerate(items, 1):
        made.append(make(item))
        if number % _BATCH == 0:
            await checkpoint()
    return made


class Crowd:
    """Tasks that wait for one thing, any number of them, and are woken a hundred in a turn of the event loop.

    Ten thousand tasks that are woken at once hold up the loop for as long as all of them take: 0.2 s. Here each
    hundred wakes the next one (``python -m benchmarks.fanout``).
    """

    __slots__ = ("_first", "_last")

    def __init__(self) -> None:
        self._first = self._last = _Hundred()

    async def wait(self) -> None:
        """Wait for the call."""
        if self._last.waiting >= _AT_ONCE:
            self._last.following = self._last = _Hundred()
        await self._last.wait()

    def call(self) -> None:
        """Wake all who wait."""
        self._first.call()


class _Hundred:
    """Some of the tasks of a crowd.

    Attributes:
        waiting: How many wait.
        following: Those who came when these were enough. The first of these that goes on wakes them.
    """

    __slots__ = ("_called", "following", "waiting")

    def __init__(self) -> None:
        self._called = anyio.Event()
        self.waiting = 0
        self.following: _Hundred | None = None

    async def wait(self) -> None:
        self.waiting += 1
        try:
            await self._called.wait()
        finally:  # also one that is cancelled at that moment
            self.waiting -= 1
            if self._called.is_set():
                self._call_following()

    def call(self) -> None:
        self._called.set()
        if not self.waiting:  # all were cancelled before
            self._call_following()

    def _call_following(self) -> None:
        following, self.following = self.following, None
        if following is not None:
            following.call()


class TurnLimit:
    """Lets some tasks go on in each turn of the event loop, and all others in the next ones, first come, first served.

    Each that goes on wakes the next one. That a hundred tasks look each turn whether it is theirs was 4 % of the CPU of
    a job (``python -m benchmarks.jobs``).

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: dict[anyio.Event, None] = {}

    async def step(self) -> None:
        """Go on in the next turn, or in one after it."""
        if self._free:
            self._free -= 1
            try:
                await checkpoint()
            finally:
                self._pass_on()
            return
        turn = anyio.Event()
        self._waiting[turn] = None
        try:
            await turn.wait()
        finally:
            if self._waiting.pop(turn, turn) is turn:  # it was woken, if only to be cancelled
                self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            turn = next(iter(self._waiting))
            del self._waiting[turn]
            turn.set()
        else:
            self._free += 1

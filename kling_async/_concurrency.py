"""Work on the event loop that is shared with everything else, and the event loop that a client belongs to."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar, checkpoint

from kling_async._clock import current_loop
from kling_async._errors import ConfigurationError, Remedy

__all__ = ["Crowd", "LoopGuard", "SparedHeap", "TurnLimit", "cooperative_map", "file_readers"]

T = TypeVar("T")
R = TypeVar("R")

_READERS = 2  # threads. More read no faster, keep more in memory, and take more of the interpreter's time at once
_limiter: RunVar[CapacityLimiter] = RunVar("kling_async_file_readers")
_AT_ONCE = 100  # tasks that one event wakes
_MANY_JOBS = 1_000  # from which on the collector's pauses matter
_MORE_JOBS = 10_000  # that the collector visits at most, for each run that only grows
_BATCH = 100  # items. One item takes some 20 us.


async def cooperative_map(make: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return what `make` gives for each item, in order. Other tasks run after every hundred."""
    made = []
    for number, item in enumerate(items, 1):
        made.append(make(item))
        if number % _BATCH == 0:
            await checkpoint()
    return made


def file_readers() -> CapacityLimiter:
    """How many threads of this event loop read local files at once."""
    try:
        return _limiter.get()
    except LookupError:
        made = CapacityLimiter(_READERS)
        _limiter.set(made)
        return made


class LoopGuard:
    """Makes sure that a client is used in the process that made it, and by one running event loop at a time.

    Several event loops one after another are allowed. A client shares connections, locks and waiters among its calls,
    and these belong to one event loop.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._loop: object = None
        self._calls = 0

    @property
    def forked(self) -> bool:
        """Whether this is another process than the one that made the client."""
        return os.getpid() != self._pid

    def require_process(self) -> None:
        """Make sure that this is the process that made the client.

        Raises:
            ConfigurationError: It is another one.
        """
        if self.forked:
            raise ConfigurationError(
                f"the client was made in process {self._pid} and is used in process {os.getpid()}",
                remedies=(Remedy("configure", detail="make the client after the fork, one in each process"),),
            )

    @contextmanager
    def call(self) -> Iterator[None]:
        """Surrounds a call of the client.

        Raises:
            ConfigurationError: Another running event loop has calls under way, or this is another process.
        """
        self.require_process()
        loop = current_loop()
        with self._lock:
            if self._calls and self._loop != loop:
                if _runs(self._loop):
                    raise ConfigurationError(
                        "the client is being used by another event loop, in another thread",
                        remedies=(
                            Remedy(
                                "configure",
                                detail="make one client for each event loop, or call this one on its own event loop, "
                                "for example with asyncio.run_coroutine_threadsafe",
                            ),
                        ),
                    )
                self._calls = 0  # the other event loop was stopped in the middle of its calls
            self._loop = loop
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                if self._loop == loop:
                    self._calls = max(self._calls - 1, 0)


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
    """Lets some tasks go on in each turn of the event loop, and all others in the next ones.

    Args:
        most: How many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._turn = self._steps = 0

    async def step(self) -> None:
        """Go on in the next turn, or in one after it."""
        while True:
            turn = self._turn
            await checkpoint()
            if turn == self._turn:  # the first that comes back in a new turn
                self._turn += 1
                self._steps = 0
            if self._steps < self._most:
                self._steps += 1
                return


class SparedHeap:
    """Keeps the pauses of CPython's garbage collector short while thousands of jobs are in flight.

    A full collection visits every object that may refer to others, and nothing else runs meanwhile: 30 ms for the
    modules of a small program, and 50 ms for each hundred thousand jobs (``python -m benchmarks.scale``). While a bulk
    run of that size goes on, the collector is to leave out what is alive (``gc.freeze``): at its beginning, and again
    whenever the jobs in flight have doubled or are 10 000 more. What nobody refers to any more is freed as
    always. Only garbage that refers to itself, and that was alive then, waits for the end of the last such run, when
    everything counts again (``gc.unfreeze``). A program that has frozen objects itself, or has switched the collector
    off, has decided otherwise, and nothing is done.
    """

    _lock = threading.Lock()
    _users = 0  # of all threads

    def __init__(self) -> None:
        self._next = 0
        self._used = False

    def begin(self, expected: int) -> None:
        """Note how many jobs may be in flight at once. With less than 1 000 nothing is done."""
        self._next = 0 if expected >= _MANY_JOBS else _MANY_JOBS
        self.grow(0)

    def grow(self, jobs: int) -> None:
        """Note how many jobs are in flight now."""
        if jobs < self._next:
            return
        self._next = max(_MANY_JOBS, min(2 * jobs, jobs + _MORE_JOBS))
        with self._lock:
            if not self._used and (not gc.isenabled() or (gc.get_freeze_count() and not SparedHeap._users)):
                return
            SparedHeap._users += not self._used
            self._used = True
            gc.collect(1)  # the latest garbage, in a millisecond or two
            gc.freeze()

    def end(self) -> None:
        """Let the collector visit everything again, if nobody else needs that it does not."""
        with self._lock:
            SparedHeap._users -= self._used
            if self._used and not SparedHeap._users:
                gc.unfreeze()
            self._used = False


def _runs(loop: object) -> bool:
    """Return whether an event loop is running. Only asyncio has one that can be stopped in the middle of a call."""
    native = getattr(loop, "native_token", loop)  # anyio wraps the loop, from version 4.11 on
    return not isinstance(native, asyncio.AbstractEventLoop) or native.is_running()

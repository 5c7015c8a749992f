"""What the garbage collector leaves out while thousands of jobs or readers are there, so that it holds up no loop."""

from __future__ import annotations

import gc
import threading

__all__ = ["SparedHeap"]

_MANY_JOBS = 1_000  # from which on the collector's pauses matter
_MORE_JOBS = 2_000  # that the collector visits at most, while they only become more


class SparedHeap:
    """Keeps the pauses of CPython's garbage collector short while thousands of jobs are in flight.

    A full collection visits every object that may refer to others, and nothing else runs meanwhile: 30 ms for the
    modules of a small program, and 50 ms for each hundred thousand jobs (``python -m benchmarks.scale``). While a bulk
    run of that size goes on, the collector is to leave out what is alive (``gc.freeze``): at its beginning, and again
    whenever the jobs in flight have doubled or are 2 000 more. What nobody refers to any more is freed as
    always. Only garbage that refers to itself, and that was alive then, waits for the end of the last such run, when
    everything counts again (``gc.unfreeze``). A program that has frozen objects itself, or has switched the collector
    off, has decided otherwise, and nothing is done.

    The same goes for what else is counted by the thousand, such as tasks that wait for jobs.

    Args:
        many: How many jobs, or others, are worth it.
        more: How many the collector visits at most, while they only become more.
    """

    _lock = threading.Lock()
    _users = 0  # of all threads

    def __init__(self, many: int = _MANY_JOBS, more: int = _MORE_JOBS) -> None:
        self._many = many
        self._more = more
        self._next = many
        self._used = False

    def begin(self, expected: int) -> None:
        """Note how many jobs may be in flight at once. If they are not many, nothing is done."""
        self._next = 0 if expected >= self._many else self._many
        self.grow(0)

    def grow(self, jobs: int) -> None:
        """Note how many jobs are in flight now."""
        if jobs < self._next:
            return
        self._next = max(self._many, min(2 * jobs, jobs + self._more))
        with self._lock:
            if not self._used and (not gc.isenabled() or (gc.get_freeze_count() and not SparedHeap._users)):
                return
            SparedHeap._users += not self._used
            self._used = True
            gc.collect(1)  # the latest garbage, in a millisecond or two
            gc.freeze()

    def shrink(self, jobs: int) -> None:
        """Note that they have become less. Once they are few, this is the end."""
        if self._used and jobs < self._many // 2:
            self.end()

    def end(self) -> None:
        """Let the collector visit everything again, if nobody else needs that it does not."""
        self._next = self._many
        with self._lock:
            SparedHeap._users -= self._used
            if self._used and not SparedHeap._users:
                gc.unfreeze()
            self._used = False

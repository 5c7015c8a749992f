"""What the garbage collector leaves out while thousands of jobs are in flight, so that it does not hold up the loop."""

from __future__ import annotations

import gc
import threading

__all__ = ["SparedHeap"]

_MANY_JOBS = 1_000  # from which on the collector's pauses matter
_MORE_JOBS = 10_000  # that the collector visits at most, for each run that only grows


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

"""Which job is polled next, and which ones travel with it. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from math import inf
from typing import Generic, Protocol, TypeVar

__all__ = ["JobT", "PollQueue", "Pollable"]


JobT = TypeVar("JobT", bound="Pollable")


class Pollable(Protocol):
    """A job in a `PollQueue`. All times are on one clock of the caller's, which never goes back.

    Attributes:
        queue_number: Its number in the queue. None outside. Only the queue changes it.
    """

    queue_number: int | None

    def due(self) -> float:
        """When it is to be polled next."""

    def priority(self, now: float) -> float:
        """What a poll is worth now: the lag in seconds. It grows by at most a second per second."""


class PollQueue(Generic[JobT]):
    """Which job is polled next, where the rate of polls is limited.

    The poller enters each job after its submission, and again after every poll that found it running. Whenever a poll
    is allowed, the poller calls `pop_most_urgent`.

    That takes O(log n) for the jobs that are not due. Of those that are due, it computes the priorities that may have
    become the highest since they were last computed: a few on average, however many jobs there are. The heaps hold
    numbers only, because there may be a hundred thousand jobs, and the garbage collector skips what refers to nothing.

    A job's number is its place in a list, and belongs to its entry in a heap: it is free again when that entry is gone.
    So an entry whose place is empty is one of a job that left. A dict by ascending numbers takes 52 to 105 bytes a job,
    and the list takes 8 (``python -m benchmarks.scale``). A job is in one queue at a time, and has its number itself.
    """

    __slots__ = ("_due", "_free", "_jobs", "_standing", "_waiting", "price")

    def __init__(self) -> None:
        self.price = 0.0
        """The priority of the last job that was polled, in seconds of lag. If it is high, the rate limit is too low."""
        self._jobs: list[JobT | None] = []  # by number. None: it left, or the number is free
        self._free: list[int] = []
        self._standing = 0  # jobs
        self._waiting: list[tuple[float, int]] = []  # by the time at which it is due
        self._due: list[tuple[float, int]] = []  # by now - priority, which never falls

    def __len__(self) -> int:
        return self._standing

    def __iter__(self) -> Iterator[JobT]:
        return (job for job in self._jobs if job is not None)

    def __contains__(self, job: JobT) -> bool:
        return job.queue_number is not None

    def enter(self, job: JobT) -> bool:
        """Let a job compete for polls. Return whether it is due before all others.

        Enter it again when it was polled, and when its priority jumps, for example at its deadline. A priority is
        computed again only when it may have become the highest by growing.
        """
        if job.queue_number is not None:
            self.leave(job)
        due = job.due()
        if self._free:
            number = self._free.pop()
            self._jobs[number] = job
        else:
            number = len(self._jobs)
            self._jobs.append(job)
        job.queue_number = number
        self._standing += 1
        heappush(self._waiting, (due, number))
        return self._waiting[0][1] == number and not self._due

    def leave(self, job: JobT) -> None:
        """Take a job out: it has ended, or nobody waits for it. Unknown jobs are ignored."""
        if (number := job.queue_number) is not None:
            self._jobs[number] = job.queue_number = None
            self._standing -= 1
            self._clean()

    def next_due(self) -> float:
        """When the next job is due: ``-inf`` if one is due already, ``inf`` if there is no job."""
        for heap in (self._due, self._waiting):
            while heap and self._jobs[heap[0][1]] is None:
                self._release(heappop(heap)[1])
        if self._due:
            return -inf
        return self._waiting[0][0] if self._waiting else inf

    def pop_most_urgent(self, now: float) -> JobT | None:
        """Return the due job with the highest priority, or None. It leaves the queue until it is entered again."""
        while self._waiting and self._waiting[0][0] <= now:
            _, number = heappop(self._waiting)
            if (job := self._jobs[number]) is None:
                self._release(number)
                continue
            priority = job.priority(now)
            if not self._due and not (self._waiting and self._waiting[0][0] <= now):
                # The only one that is due, as nearly always where polls are not limited.
                self.price = priority
                self._release(number)
                return job
            heappush(self._due, (now - priority, number))
        while self._due:
            _, number = heappop(self._due)
            if (job := self._jobs[number]) is None:
                self._release(number)
                continue
            priority = job.priority(now)
            if self._due and now - priority > self._due[0][0]:
                heappush(self._due, (now - priority, number))
                continue
            self.price = priority
            self._release(number)
            return job
        return None

    def pop_batch(self, until: float, room: int) -> list[JobT]:
        """Return the jobs that would be due by `until`, the earliest first, at most `room`. They leave the queue too.

        For a provider with status calls that take several ids: another id costs no further call.
        """
        jobs: list[JobT] = []
        for heap in (self._due, self._waiting):
            while heap and len(jobs) < room and (heap is self._due or heap[0][0] <= until):
                _, number = heappop(heap)
                if (job := self._jobs[number]) is not None:
                    jobs.append(job)
                self._release(number)
        return jobs

    def _release(self, number: int) -> None:
        """Free the number of an entry that has left its heap. Its job, if it did not leave before, leaves too."""
        if (job := self._jobs[number]) is not None:
            self._jobs[number] = job.queue_number = None
            self._standing -= 1
        self._free.append(number)
        if len(self._free) == len(self._jobs):  # there is no entry any more
            self._free.clear()
            self._jobs.clear()

    def _clean(self) -> None:
        """Drop the entries of jobs that left, once they are the greater part."""
        for heap in (self._waiting, self._due):
            if len(heap) > 2 * self._standing + 16:
                left = [number for _, number in heap if self._jobs[number] is None]
                heap[:] = [entry for entry in heap if self._jobs[entry[1]] is not None]
                heapify(heap)
                for number in left:
                    self._release(number)

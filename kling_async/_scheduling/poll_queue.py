"""Which job is polled next, and which ones travel with it. Pure."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
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
    numbers only, because there may be ten thousand jobs, and the garbage collector skips what refers to nothing. A job
    is in one queue at a time, and has its number itself: a second table would cost as much as the first.
    """

    __slots__ = ("_due", "_order", "_standing", "_waiting", "price")

    def __init__(self) -> None:
        self.price = 0.0
        """The priority of the last job that was polled, in seconds of lag. If it is high, the rate limit is too low."""
        self._standing: dict[int, JobT] = {}
        self._waiting: list[tuple[float, int]] = []  # by the time at which it is due
        self._due: list[tuple[float, int]] = []  # by now - priority, which never falls
        self._order = count()

    def __len__(self) -> int:
        return len(self._standing)

    def __contains__(self, job: JobT) -> bool:
        return job.queue_number is not None

    def enter(self, job: JobT) -> None:
        """Let a job compete for polls.

        Enter it again when it was polled, and when its priority jumps, for example at its deadline. A priority is
        computed again only when it may have become the highest by growing.
        """
        self.leave(job)
        number = job.queue_number = next(self._order)
        self._standing[number] = job
        heappush(self._waiting, (job.due(), number))

    def leave(self, job: JobT) -> None:
        """Take a job out: it has ended, or nobody waits for it. Unknown jobs are ignored."""
        if job.queue_number is not None:
            del self._standing[job.queue_number]
            job.queue_number = None
            self._clean()

    def next_due(self) -> float:
        """When the next job is due: ``-inf`` if one is due already, ``inf`` if there is no job."""
        for heap in (self._due, self._waiting):
            while heap and heap[0][1] not in self._standing:
                heappop(heap)
        if self._due:
            return -inf
        return self._waiting[0][0] if self._waiting else inf

    def pop_most_urgent(self, now: float) -> JobT | None:
        """Return the due job with the highest priority, or None. It leaves the queue until it is entered again."""
        while self._waiting and self._waiting[0][0] <= now:
            _, number = heappop(self._waiting)
            if (job := self._standing.get(number)) is not None:
                heappush(self._due, (now - job.priority(now), number))
        while self._due:
            _, number = heappop(self._due)
            if (job := self._standing.get(number)) is None:
                continue
            priority = job.priority(now)
            if self._due and now - priority > self._due[0][0]:
                heappush(self._due, (now - priority, number))
                continue
            self.price = priority
            self.leave(job)
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
                if (job := self._standing.pop(number, None)) is not None:
                    job.queue_number = None
                    jobs.append(job)
        return jobs

    def _clean(self) -> None:
        """Drop the entries of jobs that left, once they are the greater part."""
        for heap in (self._waiting, self._due):
            if len(heap) > 2 * len(self._standing) + 16:
                heap[:] = [entry for entry in heap if entry[1] in self._standing]
                heapify(heap)

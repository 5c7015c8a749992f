"""Which job is polled next, and which ones travel with it. Pure."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Generic, Protocol, TypeVar

__all__ = ["JobT", "PollQueue", "Pollable"]


JobT = TypeVar("JobT", bound="Pollable")


class Pollable(Protocol):
    """A job in a `PollQueue`. All times are on one clock of the caller's, which never goes back."""

    def due(self) -> float:
        """When it is to be looked at next."""

    def priority(self, now: float) -> float:
        """What a look at it is worth now: seconds of lag that have accrued. It grows by at most a second per second."""


class PollQueue(Generic[JobT]):
    """Which job gets the next look, where looks are rationed.

    The lane enters each job after its submission and again after every look that said "not yet"; whenever it
    has a look to spend it asks `pop_most_urgent`.

    A look costs O(log n) for the jobs that are not due, and for those that are, as many claims as have
    overtaken the highest one's bound since they were last computed: a handful on average, however many jobs
    there are. The heaps hold numbers alone, because there may be ten thousand jobs: what refers to nothing is
    no work for the garbage collector.
    """

    __slots__ = ("_due", "_numbers", "_order", "_standing", "_waiting", "price")

    def __init__(self) -> None:
        self.price = 0.0
        """What the last look went for, in seconds of lag. Far above lambda, the ration is too small."""
        self._numbers: dict[JobT, int] = {}
        self._standing: dict[int, JobT] = {}
        self._waiting: list[tuple[float, int]] = []  # by the time at which it is due
        self._due: list[tuple[float, int]] = []  # by now - claim, which never falls
        self._order = count()

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, job: object) -> bool:
        return job in self._numbers

    def enter(self, job: JobT) -> None:
        """Let a job compete for looks.

        Enter it again when it was looked at, and when its claim jumps (its deadline passes, say): claims are
        computed again only when they may have become the highest by growing.
        """
        self.leave(job)
        number = self._numbers[job] = next(self._order)
        self._standing[number] = job
        heappush(self._waiting, (job.due(), number))

    def leave(self, job: JobT) -> None:
        """Take a job out: a webhook told its end, or nobody waits for it. Unknown jobs are ignored."""
        number = self._numbers.pop(job, None)
        if number is not None:
            del self._standing[number]
            self._sweep()

    def next_due(self) -> float:
        """When `pop_most_urgent` will have an answer: ``-inf`` if a job is due already, ``inf`` if there is no job."""
        for heap in (self._due, self._waiting):
            while heap and heap[0][1] not in self._standing:
                heappop(heap)
        if self._due:
            return -inf
        return self._waiting[0][0] if self._waiting else inf

    def pop_most_urgent(self, now: float) -> JobT | None:
        """The due job with the highest claim, or None; it leaves the contest until it is entered again."""
        while self._waiting and self._waiting[0][0] <= now:
            _, number = heappop(self._waiting)
            if (job := self._standing.get(number)) is not None:
                heappush(self._due, (now - job.priority(now), number))
        while self._due:
            _, number = heappop(self._due)
            if (job := self._standing.get(number)) is None:
                continue
            claim = job.priority(now)
            if self._due and now - claim > self._due[0][0]:
                heappush(self._due, (now - claim, number))
                continue
            self.price = claim
            self.leave(job)
            return job
        return None

    def pop_batch(self, until: float, room: int) -> list[JobT]:
        """The jobs that would be due by `until`, at most `room`, soonest first; they leave the contest too.

        For a provider whose look takes an array of ids: once a look is made, another id in it is free.
        """
        jobs: list[JobT] = []
        for heap in (self._due, self._waiting):
            while heap and len(jobs) < room and (heap is self._due or heap[0][0] <= until):
                _, number = heappop(heap)
                if (job := self._standing.pop(number, None)) is not None:
                    del self._numbers[job]
                    jobs.append(job)
        return jobs

    def _sweep(self) -> None:
        """Drop the entries of jobs that left, once they are the greater part."""
        for heap in (self._waiting, self._due):
            if len(heap) > 2 * len(self._numbers) + 16:
                heap[:] = [entry for entry in heap if entry[1] in self._standing]
                heapify(heap)

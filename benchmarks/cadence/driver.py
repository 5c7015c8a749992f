"""What carries a schedule through a number of jobs, and the schedules that exist only to compare with.

A driver knows nothing of laws and schedules: it is given durations, and reports how often it looked and how late it
heard. `simulate` is the cadence alone, without network or poller.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Protocol

from kling_async._cadence import Cadence, Contest, Law, Schedule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEY = "provider/endpoint"


@dataclass(frozen=True, slots=True)
class Heard:
    """One job's cost: how many looks, and how many seconds after its end the last of them came."""

    looks: int
    lag: float


class Driver(Protocol):
    """Runs jobs and tells what they cost."""

    def __call__(
        self,
        schedule: Schedule,
        prior: Law,
        durations: Sequence[float],
        *,
        in_flight: int,
        per_minute: float = inf,
    ) -> list[Heard]:
        """Run one job per duration, `in_flight` at a time, a new one for each that was heard of.

        Args:
            schedule: Under test; it keeps what it learns.
            prior: What it is told of the jobs.
            durations: In seconds, in the order of submission.
            in_flight: Jobs at a time.
            per_minute: Looks allowed a minute, over all jobs.

        Returns:
            One `Heard` per job, in the order of submission.
        """


@dataclass(slots=True)
class _Running:
    cadence: Cadence
    submitted: float
    last: float
    looks: int = 0


def simulate(
    schedule: Schedule, prior: Law, durations: Sequence[float], *, in_flight: int, per_minute: float = inf
) -> list[Heard]:
    """The cadence alone; see `Driver`."""
    heard: list[Heard | None] = [None] * len(durations)
    contest = Contest[int]()
    running: dict[int, _Running] = {}
    waiting = iter(range(len(durations)))

    def submit(now: float) -> None:
        number = next(waiting, None)
        if number is not None:
            job = running[number] = _Running(schedule.cadence(KEY, prior), now, now)
            contest.enter(number, job.cadence, submitted=now)

    for _ in range(in_flight):
        submit(0.0)
    now = token = 0.0
    while running:
        now = max(now, token, contest.next_due())
        number = contest.award(now)
        assert number is not None
        token = now + 60 / per_minute
        job = running[number]
        job.looks += 1
        ended = job.submitted + durations[number]
        if now < ended:
            job.last = now
            contest.enter(number, job.cadence, submitted=job.submitted, last=now)
            continue
        job.cadence.finished(job.last - job.submitted, now - job.submitted)
        heard[number] = Heard(job.looks, now - ended)
        del running[number]
        submit(now)
    return [one for one in heard if one is not None]


class Frozen:
    """A schedule as it is now: what is measured with it teaches it nothing."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def cadence(self, key: str, prior: Law) -> Cadence:
        """The timing of a job whose end is not told."""
        return _Deaf(self._schedule.cadence(key, prior))


class _Deaf:
    __slots__ = ("_cadence",)

    def __init__(self, cadence: Cadence) -> None:
        self._cadence = cadence

    def next_look(self, last: float) -> float:
        return self._cadence.next_look(last)

    def accrued(self, last: float, now: float) -> float:
        return self._cadence.accrued(last, now)

    def finished(self, after: float, by: float) -> None:
        pass

    def abandoned(self, at: float) -> None:
        pass


class Planned:
    """Looks at times fixed beforehand, the same for every job: the optimum of the dynamic programme."""

    def __init__(self, times: Sequence[float]) -> None:
        self._times = times

    def cadence(self, key: str, prior: Law) -> Cadence:  # noqa: ARG002  one plan for all
        """The timing of one job."""
        return _Plan(self._times)


class Clairvoyant:
    """Knows every end beforehand and looks at that moment: nobody can hear earlier. A bound, not a schedule."""

    def __init__(self, durations: Sequence[float]) -> None:
        self._durations: Iterator[float] = iter(durations)

    def cadence(self, key: str, prior: Law) -> Cadence:  # noqa: ARG002  jobs come in the order of the durations
        """The timing of the next job."""
        return _Plan((next(self._durations),))


class _Plan(_Deaf):
    __slots__ = ("_times",)

    def __init__(self, times: Sequence[float]) -> None:
        self._times = times

    def next_look(self, last: float) -> float:
        return next((time for time in self._times if time > last + 1e-6), last + 15.0)

    def accrued(self, last: float, now: float) -> float:
        return max(now - self.next_look(last), 0.0)

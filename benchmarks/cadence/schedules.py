"""Schedules that exist only to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kling_async._scheduling.schedules import DurationPrior, PollTimer, Progressive, Schedule

SOURCE = Progressive(5, 5, 10, 15)
"""What the source documents do for video."""

ROUND_ROBIN = Progressive(0.5)
"""Under a rate limit: always due, so every poll goes to the job that has waited longest."""


class Frozen:
    """A schedule as it is now: what is measured with it teaches it nothing."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def timer(self, key: str, prior: DurationPrior) -> PollTimer:
        """The timing of a job whose end is not reported."""
        return _Deaf(self._schedule.timer(key, prior))


class _Deaf:
    __slots__ = ("_cadence",)

    def __init__(self, cadence: PollTimer) -> None:
        self._cadence = cadence

    def next_poll(self, last: float) -> float:
        return self._cadence.next_poll(last)

    def expected_lag(self, last: float, now: float) -> float:
        return self._cadence.expected_lag(last, now)

    def observe_end(self, after: float, by: float) -> None:
        pass

    def observe_running(self, at: float) -> None:
        pass


class Planned:
    """Polls at times fixed beforehand, the same for every job: the optimum of the dynamic programme."""

    def __init__(self, times: Sequence[float]) -> None:
        self._times = times

    def timer(self, key: str, prior: DurationPrior) -> PollTimer:  # noqa: ARG002  # one plan for all
        """The timing of one job."""
        return _Plan(self._times)


class Clairvoyant:
    """Knows every end beforehand and polls at that moment: no poll can detect it earlier. A bound, not a schedule."""

    def __init__(self, durations: Sequence[float]) -> None:
        self._durations: Iterator[float] = iter(durations)

    def timer(self, key: str, prior: DurationPrior) -> PollTimer:  # noqa: ARG002  # jobs come in the order of the durations
        """The timing of the next job."""
        return _Plan((next(self._durations),))


class _Plan:
    __slots__ = ("_times",)

    def __init__(self, times: Sequence[float]) -> None:
        self._times = times

    def next_poll(self, last: float) -> float:
        # The clock is a sum of floats: a poll planned for 101.3 s may have been at 101.29999999.
        return next((time for time in self._times if time > last + 1e-6), last + 15.0)

    def expected_lag(self, last: float, now: float) -> float:
        return max(now - self.next_poll(last), 0.0)

    def observe_end(self, after: float, by: float) -> None:
        pass

    def observe_running(self, at: float) -> None:
        pass

"""When to poll a job next, and which job is polled first where the rate of polls is limited. Pure: no clock, no I/O.

Theory. A poll costs a request. Not polling costs *lag*: the seconds between a job's end and the time when we learn of
it. One number relates them: lambda, the seconds of lag that one poll is worth. With F the distribution of durations and
S = 1 - F, a job that ran at t has ended by a later time u with probability ``(F(u) - F(t)) / S(t)``. The integral of
that from t to s is the lag that is expected if the next poll is at s. `Learned` polls when it reaches lambda. The rule
needs no horizon and no dynamic programming, gives the first poll too, and costs about one percent more than the optimum
(`benchmarks/cadence`). The distribution is learned while the jobs run (`kling_async._scheduling.durations`).

Two things bound the rule, because the distribution is only an estimate. A step is never shorter than half a second.
After the first poll it is never longer than 15 s or an eighth of the median, the larger of the two. And past the 97th
percentile the distribution does not fit this job, so the steps do not come from it any more: they start from the last
one that did, and grow by a factor of 1.3 each, to 15 s.

Where the rate of polls is limited (RunBlob: 60 a minute for all jobs of a key), the same number is the job's priority.
The priority of a job that is due is the expected lag since its last poll, and each poll goes to the job with the
highest one. While polls are plenty, a job is polled at lambda. When they are not, it is polled at a higher priority. No
setting is needed. The priority of a job that is not polled ends up growing by a second a second, so every job gets its
turn. Before its end is plausible, a job has almost no priority, so its first poll is not wasted. `PollQueue` finds the
highest priority without asking every job. A priority grows by at most a second per second, so ``priority - now`` only
falls, and a value that was computed earlier is an upper bound. So the first of the heap is computed again until it
stays the first (lazy greedy evaluation, Minoux, 1978).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Protocol

from kling_async._scheduling.durations import RECENT, DurationModel, DurationPrior, Observation, SurvivalCurve

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DurationPrior", "Learned", "PollTimer", "Progressive", "Schedule", "merged"]


_SHORTEST = 0.5  # s between polls. Shorter intervals cost more than they save
_LONGEST = 15.0  # s. The longest interval of the source documents' own schedules
_GROWTH = 1.3  # of the step from poll to poll, past the 97th percentile


class PollTimer(Protocol):
    """When one job is polled. All times are seconds since that job's submission."""

    def next_poll(self, last: float) -> float:
        """When to poll next, later than `last`: the poll that found the job running, or 0.0 before the first."""

    def expected_lag(self, last: float, now: float) -> float:
        """The expected lag in seconds from `last` to `now`: the job's priority where the rate of polls is limited.

        Never falls as `now` grows, and never grows by more than a second per second.
        """

    def observe_end(self, after: float, by: float) -> None:
        """The job ended in ``(after, by]``. If they are equal, at that time: a webhook or a stream reported it."""

    def observe_running(self, at: float) -> None:
        """The job was still running when it was last polled, at `at`, and will not be polled again."""


class Schedule(Protocol):
    """A policy of polling. One per client, shared by its jobs."""

    def timer(self, variant: str, prior: DurationPrior) -> PollTimer:
        """Return the timer of one new job.

        Args:
            variant: What decides how long it takes, as ``"runblob/o3-video duration=10 model=kling_o3_pro"``.
                Jobs of the same variant are taken to have one distribution of durations.
            prior: What the provider documents about it.
        """


@dataclass(frozen=True, init=False)
class Progressive:
    """Poll after each of the intervals in turn. The last one repeats.

    ``Progressive(5, 5, 10, 15)`` polls 5, 10, 20, 35, 50, 65 ... seconds after submission. The current interval follows
    from the job's age. So a late poll shifts those after it, and a job that is resumed after a restart is not polled as
    if it were new.

    Args:
        intervals: Seconds.
        first: Seconds to the first poll, before the intervals begin.

    Raises:
        ValueError: There is no interval, or one is not a positive finite number.
    """

    intervals: tuple[float, ...]
    first: float | None

    def __init__(self, *intervals: float, first: float | None = None) -> None:
        steps = intervals if first is None else (first, *intervals)
        if not intervals or not all(_is_wait(step) for step in steps):
            raise ValueError(f"a schedule needs positive finite intervals in seconds, got {steps!r}")
        object.__setattr__(self, "intervals", intervals)
        object.__setattr__(self, "first", first)

    def faster(self, factor: float) -> Progressive:
        """The same schedule for a provider that is `factor` times as fast."""
        if factor == 1:
            return self
        first = None if self.first is None else self.first / factor
        return Progressive(*(step / factor for step in self.intervals), first=first)

    def timer(self, variant: str, prior: DurationPrior) -> PollTimer:  # noqa: ARG002  one schedule for every kind of job
        """Return the timer of one new job: see `Schedule`."""
        return self._timer

    @cached_property
    def _timer(self) -> PollTimer:
        """One for all jobs, because it has no state."""
        return _Intervals(self.intervals if self.first is None else (self.first, *self.intervals))


class _Intervals:
    """Fixed intervals. Learns nothing."""

    __slots__ = ("_steps",)

    def __init__(self, steps: tuple[float, ...]) -> None:
        self._steps = steps

    def next_poll(self, last: float) -> float:
        return last + self._step(last)

    def expected_lag(self, last: float, now: float) -> float:
        """As if the end were equally likely at any moment of the current interval, and certain at its end."""
        return _uniform_lag(now - last, self._step(last))

    def observe_end(self, after: float, by: float) -> None:
        pass

    def observe_running(self, at: float) -> None:
        pass

    def _step(self, age: float) -> float:
        begins = 0.0
        for step in self._steps:
            begins += step
            if age < begins:
                return step
        return self._steps[-1]


@dataclass(frozen=True)
class Learned:
    """Poll when the expected lag since the last poll is worth a poll. The duration model is learned from jobs that end.

    It starts from the documented durations and takes each completion as evidence. Not for use from several threads.

    Args:
        lag_per_poll: Lambda: seconds of lag that one poll is worth. Larger means fewer polls and more lag.

    Raises:
        ValueError: `lag_per_poll` is not a positive finite number.
    """

    lag_per_poll: float = 0.5
    _models: dict[str, DurationModel] = field(default_factory=dict, init=False, repr=False, compare=False)
    _kept: dict[str, list[object]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _is_wait(self.lag_per_poll):
            raise ValueError(f"lag_per_poll is seconds of lag, positive and finite, got {self.lag_per_poll!r}")

    def timer(self, variant: str, prior: DurationPrior) -> PollTimer:
        """Return the timer of one new job: see `Schedule`."""
        model = self._models.get(variant)
        if model is None:
            model = self._models[variant] = DurationModel(prior)
            model.observe(end for row in self._kept.pop(variant, ()) if (end := Observation.read(row)) is not None)
            model.forget_new()  # they are stored
        return _Expected(model, self.lag_per_poll)

    def curve(self, variant: str, prior: DurationPrior) -> SurvivalCurve | None:
        """Return how long jobs of that variant take, if at least one has ended. Same arguments as `timer`."""
        if variant in self._kept:
            self.timer(variant, prior)  # which reads them
        model = self._models.get(variant)
        return model.survival if model is not None and model.ends else None

    def state(self) -> dict[str, Any]:
        """What was learned, as JSON: for each variant the latest ends, ``[after, by]``, `by` null if not known."""
        learned = {key: [end.plain() for end in model.ends] for key, model in self._models.items() if model.ends}
        return {"version": 1, "ends": {**self._kept, **learned}}

    def new_state(self) -> dict[str, Any]:
        """What was learned since the start, or the last `forget_new`, in the form of `state`."""
        learned = {key: [end.plain() for end in model.new_ends] for key, model in self._models.items()}
        return {"version": 1, "ends": {key: ends for key, ends in learned.items() if ends}}

    def forget_new(self) -> None:
        """Note that what was learned is stored."""
        for model in self._models.values():
            model.forget_new()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Start from what an earlier `state` had learned. What cannot be read is ignored.

        Variants that this schedule has already seen keep what was learned here.
        """
        ends = state.get("ends")
        if state.get("version") == 1 and isinstance(ends, dict):
            rows = {key: rows for key, rows in ends.items() if isinstance(rows, list)}
            self._kept.update({key: rows[key] for key in rows if key not in self._models})


def merged(stored: object, new: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `Learned.state` of which others have stored a part: what they stored, then what is new.

    Args:
        stored: What is stored. Anything that is no state is replaced.
        new: A state with what this process has learned since it read the other.
    """
    ends: dict[str, Any] = {}
    if isinstance(stored, dict) and stored.get("version") == 1 and isinstance(stored.get("ends"), dict):
        ends = {key: rows for key, rows in stored["ends"].items() if isinstance(rows, list)}
    for key, rows in new["ends"].items():
        ends[key] = [*ends.get(key, ()), *rows][-RECENT:]
    return {"version": 1, "ends": ends}


class _Expected:
    """The expected-lag rule for one job."""

    __slots__ = ("_age", "_lag_per_poll", "_model")

    def __init__(self, model: DurationModel, lag_per_poll: float) -> None:
        self._age = 0
        self._model = model
        self._lag_per_poll = lag_per_poll

    def next_poll(self, last: float) -> float:
        self._age = self._model.running(self._age, last)
        survival = self._model.survival
        if last >= survival.cutoff:
            return last + self._guarded_step(last)
        due = survival.time_for_lag(last, self._lag_per_poll)
        latest = last + max(_LONGEST, survival.median / 8)
        if due > latest:  # a poll before the first one that the model asks for does not bring that one forward
            due = max(latest, min(survival.time_for_lag(0.0, self._lag_per_poll), survival.cutoff))
        return max(due, last + _SHORTEST)

    def expected_lag(self, last: float, now: float) -> float:
        if now <= last:
            return 0.0
        if last < self._model.survival.cutoff:
            return self._model.survival.lag(last, now)
        # The model does not fit any more. It is as if the end were equally likely at any moment of a span at which
        # the priority at the next poll is lambda, same as for all other jobs.
        return _uniform_lag(now - last, self._guarded_step(last) ** 2 / (2 * self._lag_per_poll))

    def observe_end(self, after: float, by: float) -> None:
        self._leave()
        self._model.observe([Observation(after, by)])

    def observe_running(self, at: float) -> None:
        self._leave()
        self._model.observe([Observation(at, inf)])

    def __del__(self) -> None:
        self._leave()  # a job that is dropped is no evidence any more

    def _leave(self) -> None:
        self._age = self._model.running(self._age, 0.0)

    def _guarded_step(self, last: float) -> float:
        """The step at that age. Steps grow by `_GROWTH` from poll to poll, and depend on the time since the cutoff."""
        survival = self._model.survival
        began = survival.time_for_lag(survival.cutoff, self._lag_per_poll) - survival.cutoff
        began = min(max(began, _SHORTEST), max(_LONGEST, survival.median / 8))
        return min(began + (_GROWTH - 1) * (last - survival.cutoff), max(_LONGEST, began))


def _is_wait(seconds: object) -> bool:
    """Whether a value of any type is a time that can be waited."""
    return isinstance(seconds, int | float) and isfinite(seconds) and seconds > 0


def _uniform_lag(waited: float, span: float) -> float:
    """Return the expected lag after that wait, if the end is equally likely at any moment of the first `span`."""
    if waited <= 0:
        return 0.0
    return waited * waited / (2 * span) if waited < span else waited - span / 2

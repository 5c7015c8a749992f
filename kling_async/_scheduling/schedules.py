"""When to look at a job next, and who is looked at first where looks are rationed. Pure: no clock, no I/O.

Theory. A look costs a request; not looking costs *lag*, the seconds between a job's end and our hearing of
it. One number joins them: lambda, the seconds of lag that one look is worth. With F the law of durations and
S = 1 - F, a job that was not finished at t has, at a later u, been finished with probability ``(F(u) - F(t))
/ S(t)``. The integral of that from t to s is the lag that waiting from t until s is expected to cost, and
`Learned` looks when it reaches lambda. It needs no horizon and no dynamic programme, gives the first look
too, and costs about one percent more than the optimum (`benchmarks/cadence`). The law is learned while the
jobs run (`kling_async._scheduling.durations`).

Two things bound the rule, because a law is only a belief. A step is never shorter than half a second, and
after the first look never longer than 15 s or an eighth of the median, whichever is more. And past the 97th
percentile the law has failed for this job, so the steps no longer come from it: they start from the last one
that did and grow by a factor of 1.3 each, to 15 s.

Where looks are rationed (RunBlob: 60 a minute for all jobs of a key), the same number is the bid. A job that
is due claims its accrued lag; each look goes to the highest claim. So the price of a look is lambda while
looks are plenty, and rises to what the marginal job bids when they are not. It needs no tuning: a job not
looked at ends up claiming a second per second, so none starves; and before its end is plausible it claims
next to nothing, so its first look is not wasted. `PollQueue` finds the highest claim without asking every job.
A claim grows by at most a second per second, so ``claim - now`` only falls, and a value computed earlier is
an upper bound: re-evaluate the top of the heap until it stays on top (lazy greedy evaluation; Minoux, 1978).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import inf, isfinite
from typing import TYPE_CHECKING, Any, Protocol

from kling_async._scheduling.durations import DurationModel, DurationPrior, Observation

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DurationPrior", "Learned", "PollTimer", "Progressive", "Schedule"]


_SHORTEST = 0.5  # s; looks closer together than this cost more than they can tell
_LONGEST = 15.0  # s; the longest interval of the source documents' own schedules
_GROWTH = 1.3  # of the step from look to look, past the 97th percentile


class PollTimer(Protocol):
    """The timing of one job's looks. All times are seconds since that job's submission."""

    def next_poll(self, last: float) -> float:
        """When to look next, later than `last`: the look that said "not yet", or 0.0 before the first."""

    def expected_lag(self, last: float, now: float) -> float:
        """Seconds of lag expected to have accrued from `last` to `now`: the job's claim on a rationed look.

        Never falls as `now` grows, and never grows by more than a second per second.
        """

    def observe_end(self, after: float, by: float) -> None:
        """The job ended in ``(after, by]``; ``after == by``: at that time, as a webhook or a stream tells."""

    def observe_running(self, at: float) -> None:
        """The job was still running when it was last looked at, at `at`, and will not be looked at again."""


class Schedule(Protocol):
    """A policy of looks. One per client, shared by its jobs."""

    def timer(self, variant: str, prior: DurationPrior) -> PollTimer:
        """The timing of one new job.

        Args:
            variant: What decides how long it takes, as ``"runblob/o3-video duration=10 model=kling_o3_pro"``.
                Jobs with the same key are taken to follow one law.
            prior: What the provider's documents say of that law.
        """


@dataclass(frozen=True, init=False)
class Progressive:
    """Look after each of the intervals in turn; the last one repeats.

    ``Progressive(5, 5, 10, 15)`` looks 5, 10, 20, 35, 50, 65 ... seconds after submission. The interval in
    force follows from the job's age, so a late look shifts those behind it, and a job taken up again after a
    restart is not looked at as if it were new.

    Args:
        intervals: Seconds.
        first: Seconds to the first look, before the intervals begin.

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
        """The timing of one new job; see `Schedule`."""
        return self._timer

    @cached_property
    def _timer(self) -> PollTimer:
        """One for all jobs: it remembers nothing of them."""
        return _Intervals(self.intervals if self.first is None else (self.first, *self.intervals))


class _Intervals:
    """Fixed intervals. Learns nothing."""

    __slots__ = ("_steps",)

    def __init__(self, steps: tuple[float, ...]) -> None:
        self._steps = steps

    def next_poll(self, last: float) -> float:
        return last + self._step(last)

    def expected_lag(self, last: float, now: float) -> float:
        """As if the end were equally likely at any moment of the interval in force, and sure at its end."""
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
    """Look when the lag expected since the last look is worth a look, under a law learned on the way.

    It starts from the documented times and takes each completion as evidence. Not for use from several
    threads.

    Args:
        lag_per_look: Lambda: seconds of lag that one look is worth. Larger means fewer looks and later news.

    Raises:
        ValueError: `lag_per_poll` is not a positive finite number.
    """

    lag_per_poll: float = 0.5
    _models: dict[str, DurationModel] = field(default_factory=dict, init=False, repr=False, compare=False)
    _kept: dict[str, list[object]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _is_wait(self.lag_per_poll):
            raise ValueError(f"lag_per_look is seconds of lag, positive and finite, got {self.lag_per_poll!r}")

    def timer(self, variant: str, prior: DurationPrior) -> PollTimer:
        """The timing of one new job; see `Schedule`."""
        law = self._models.get(variant)
        if law is None:
            law = self._models[variant] = DurationModel(prior)
            law.observe(end for row in self._kept.pop(variant, ()) if (end := Observation.read(row)) is not None)
        return _Expected(law, self.lag_per_poll)

    def state(self) -> dict[str, Any]:
        """What was learned, as JSON: of each key the latest ends, ``[after, by]``, `by` null if not seen."""
        learned = {key: [end.plain() for end in law.ends] for key, law in self._models.items() if law.ends}
        return {"version": 1, "ends": {**self._kept, **learned}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Start from what an earlier `state` had learned; what cannot be read of it is ignored.

        Keys that this schedule has already seen keep what they learned here.
        """
        ends = state.get("ends")
        if state.get("version") == 1 and isinstance(ends, dict):
            rows = {key: rows for key, rows in ends.items() if isinstance(rows, list)}
            self._kept.update({key: rows[key] for key in rows if key not in self._models})


class _Expected:
    """The expected-lag rule for one job."""

    __slots__ = ("_age", "_lag_per_poll", "_model")

    def __init__(self, law: DurationModel, lag_per_look: float) -> None:
        self._age = 0
        self._model = law
        self._lag_per_poll = lag_per_look

    def next_poll(self, last: float) -> float:
        self._age = self._model.running(self._age, last)
        survival = self._model.survival
        if last >= survival.cutoff:
            return last + self._guarded_step(last)
        due = survival.time_for_lag(last, self._lag_per_poll)
        latest = last + max(_LONGEST, survival.median / 8)
        if due > latest:  # a look before the first one that the law asks for does not bring that one forward
            due = max(latest, min(survival.time_for_lag(0.0, self._lag_per_poll), survival.cutoff))
        return max(due, last + _SHORTEST)

    def expected_lag(self, last: float, now: float) -> float:
        if now <= last:
            return 0.0
        if last < self._model.survival.cutoff:
            return self._model.survival.lag(last, now)
        # No law any more: as if the end were equally likely at any moment for so long that the claim at the
        # next look comes to lambda, as it does for everyone else.
        return _uniform_lag(now - last, self._guarded_step(last) ** 2 / (2 * self._lag_per_poll))

    def observe_end(self, after: float, by: float) -> None:
        self._leave()
        self._model.observe([Observation(after, by)])

    def observe_running(self, at: float) -> None:
        self._leave()
        self._model.observe([Observation(at, inf)])

    def __del__(self) -> None:
        self._leave()  # dropped without a word, a job is no evidence any more

    def _leave(self) -> None:
        self._age = self._model.running(self._age, 0.0)

    def _guarded_step(self, last: float) -> float:
        """Steps that grow by `_GROWTH` from look to look, as a function of the time since the guard alone."""
        survival = self._model.survival
        began = survival.time_for_lag(survival.cutoff, self._lag_per_poll) - survival.cutoff
        began = min(max(began, _SHORTEST), max(_LONGEST, survival.median / 8))
        return min(began + (_GROWTH - 1) * (last - survival.cutoff), max(_LONGEST, began))


def _is_wait(seconds: object) -> bool:
    """Whether that is a time that can be waited, whatever was given for one."""
    return isinstance(seconds, int | float) and isfinite(seconds) and seconds > 0


def _uniform_lag(waited: float, span: float) -> float:
    """Expected lag after `waited` seconds, if the end is equally likely at any moment of the first `span`."""
    if waited <= 0:
        return 0.0
    return waited * waited / (2 * span) if waited < span else waited - span / 2

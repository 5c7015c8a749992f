"""What is measured: fixed schedules, learning, and the rate limit. Everything is seeded, on every machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean
from time import process_time
from timeit import Timer

from benchmarks.cadence.durations import CLIPS, DISTRIBUTIONS, Nature
from benchmarks.cadence.optimum import optimal_polls
from benchmarks.cadence.poller import Detection, run
from benchmarks.cadence.schedules import ROUND_ROBIN, SOURCE, Clairvoyant, Frozen, Planned
from kling_async._scheduling.schedules import DurationPrior, Learned, Progressive, Schedule

LAMBDA = 0.5
"""Seconds of lag that one poll is worth."""
CHECKPOINTS = (0, 1, 5, 20, 100)
PRIORS = {"right": 1.0, "half": 0.5, "double": 2.0}
CONGESTED = 0.1
POLLS_PER_MINUTE = 60.0
IN_FLIGHT = (10, 50, 100, 150, 200, 300)
BURSTS = (50, 100, 300)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is simulated.

    Attributes:
        sample: Jobs by which one learner is measured once. Other schedules are measured by eight times as many, unless
            they poll so often that it makes no difference.
        learners: Repetitions of learning.
        rate_limits: Repetitions under a rate limit.
    """

    sample: int
    learners: int
    rate_limits: int


FULL = Size(sample=50, learners=20, rate_limits=2)
QUICK = Size(sample=20, learners=4, rate_limits=1)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a job costs on average: polls, lag in seconds, and the lag that one in twenty exceeds."""

    polls: float
    lag: float
    late: float

    @classmethod
    def of(cls, detections: Iterable[Detection]) -> Cost:
        """The cost of these jobs."""
        detections = list(detections)
        lags = sorted(one.lag for one in detections)
        return cls(fmean(one.polls for one in detections), fmean(lags), lags[int(0.95 * len(lags))])

    @property
    def total(self) -> float:
        """In seconds of lag."""
        return self.lag + LAMBDA * self.polls


def fixed(name: str, nature: Nature, size: Size) -> dict[str, Cost]:
    """The schedules that do not learn."""
    schedules: dict[str, Schedule] = {
        "source documents": SOURCE,
        "every 0.1 s": Progressive(0.1),
        "every 0.5 s": Progressive(0.5),
        "every 2 s": Progressive(2),
        "every 6 s": Progressive(6),
        "optimum": Planned(optimal_polls(nature, LAMBDA)),
    }
    costs = {}
    for row, schedule in schedules.items():
        durations = nature.sample(size.sample if row in {"every 0.1 s", "every 0.5 s"} else 8 * size.sample)
        costs[row] = Cost.of(run(schedule, DISTRIBUTIONS[name], durations, in_flight=len(durations)))
    return costs


def learned(nature: Nature, prior: DurationPrior, size: Size) -> dict[int, Cost]:
    """`Learned` after some completions, one job at a time. At each checkpoint it is measured without learning."""
    detections: dict[int, list[Detection]] = {number: [] for number in CHECKPOINTS}
    test = nature.sample(size.sample)
    for seed in range(size.learners):
        schedule = Learned(LAMBDA)
        durations = nature.draw(Random(seed), CHECKPOINTS[-1])  # noqa: S311  # repeatable on purpose
        done = 0
        for number in CHECKPOINTS:
            run(schedule, prior, durations[done:number])
            done = number
            detections[number] += run(Frozen(schedule), prior, test)
    return {number: Cost.of(jobs) for number, jobs in detections.items()}


@dataclass(frozen=True, slots=True)
class RateLimited:
    """Three ways to poll within the same rate limit."""

    round_robin: Cost
    learned: Cost
    clairvoyant: Cost


def kept_in_flight(number: int, size: Size) -> RateLimited:
    """5 s clips under the rate limit, a new one for each that has been detected, after the start and before the end."""
    steady = 1000 + 2 * number
    return _rate_limited(
        number, 3 * number + steady, lambda detections: detections[2 * number : 2 * number + steady], size.rate_limits
    )


def burst(number: int, size: Size) -> RateLimited:
    """So many 5 s clips, submitted at once under the rate limit."""
    return _rate_limited(number, number, lambda detections: detections, 10 * size.rate_limits)


def arithmetic() -> dict[str, float]:
    """CPU microseconds of the rule itself: the best of several rounds, because other programs share the machine."""
    schedule, distribution = Learned(LAMBDA), CLIPS["5 s clip"]
    running = [schedule.timer("key", distribution) for _ in range(100)]
    random = Random(1)  # noqa: S311  # repeatable on purpose
    for cadence in running:
        cadence.next_poll(random.uniform(100.0, 200.0))

    def completion() -> None:
        schedule.timer("key", distribution).observe_end(140.0, 148.0)
        schedule.timer("key", distribution).next_poll(0.0)

    work = {
        "a poll": lambda: running[0].next_poll(130.0),
        "a claim": lambda: running[0].expected_lag(130.0, 140.0),
        "a completion, on average": completion,
    }
    return {what: 1e6 / 50 * min(Timer(do, timer=process_time).repeat(20, 50)) for what, do in work.items()}


def _rate_limited(
    in_flight: int, jobs: int, part: Callable[[Sequence[Detection]], Sequence[Detection]], repetitions: int
) -> RateLimited:
    distribution = CLIPS["5 s clip"]
    costs: list[list[Detection]] = [[], [], []]
    for seed in range(repetitions):
        durations = Nature(distribution).draw(Random(1000 + seed), jobs)  # noqa: S311  # repeatable on purpose
        schedules: tuple[Schedule, ...] = (ROUND_ROBIN, Learned(LAMBDA), Clairvoyant(durations))
        for place, schedule in enumerate(schedules):
            detections = run(schedule, distribution, durations, in_flight=in_flight, per_minute=POLLS_PER_MINUTE)
            costs[place] += part(detections)
    return RateLimited(*(Cost.of(detections) for detections in costs))

"""The distributions of durations: the four of the providers' documents, plain or with congested jobs."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from random import Random
from statistics import NormalDist

from kling_async._scheduling.schedules import DurationPrior

CLIPS = {
    "5 s clip": DurationPrior(147.0, 0.158),
    "10 s clip": DurationPrior(232.0, 0.199),
    "15 s clip": DurationPrior(355.0, 0.131),
}
DISTRIBUTIONS = {"image": DurationPrior(24.0, 0.545), **CLIPS}

_NORMAL = NormalDist()
_FAR = 5.2  # standard deviations. One job in ten million is farther out


@dataclass(frozen=True)
class Nature:
    """What really decides how long a job takes: a distribution, and a share of jobs that wait in a queue.

    Args:
        distribution: Of the ordinary jobs.
        congested: Share of the jobs that wait longer.
        slowdown: The factor by which these take longer.
    """

    prior: DurationPrior
    congested: float = 0.0
    slowdown: float = 3.0

    def draw(self, random: Random, number: int) -> list[float]:
        """Durations in seconds."""
        return [
            self.prior.median
            * exp(self.prior.sigma * random.gauss())
            * (self.slowdown if random.random() < self.congested else 1.0)
            for _ in range(number)
        ]

    def sample(self, number: int) -> list[float]:
        """Durations at evenly spaced quantiles, which are as exact as ten times as many drawn ones."""
        slow = round(number * self.congested)
        return [
            self.quantile((place + 0.5) / size) * factor
            for factor, size in ((1.0, number - slow), (self.slowdown, slow))
            for place in range(size)
        ]

    def quantile(self, share: float) -> float:
        """The time by which this share of the ordinary jobs has ended."""
        return self.prior.median * exp(self.prior.sigma * _NORMAL.inv_cdf(share))

    def ended(self, time: float) -> float:
        """The share of all jobs that has ended by `time`."""
        shares = ((1.0, 1 - self.congested), (self.slowdown, self.congested))
        return sum(share * self._ended(time / factor) for factor, share in shares if share)

    def _ended(self, time: float) -> float:
        ordinary = NormalDist(0.0, self.prior.sigma)
        return ordinary.cdf(log(time / self.prior.median)) if time > 0 else 0.0

    @property
    def range(self) -> tuple[float, float]:
        """Between these times, in seconds, all jobs end."""
        longest = self.slowdown if self.congested else 1.0
        far = exp(_FAR * self.prior.sigma)
        return self.prior.median / far, longest * self.prior.median * far

"""The laws that draw durations: the four of the providers' documents, plain or with congested jobs among them."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from statistics import NormalDist
from typing import TYPE_CHECKING

from kling_async._cadence import Law

if TYPE_CHECKING:
    from random import Random

IMAGE = Law(24.0, 0.545)
CLIPS = {"5 s clip": Law(147.0, 0.158), "10 s clip": Law(232.0, 0.199), "15 s clip": Law(355.0, 0.131)}
LAWS = {"image": IMAGE, **CLIPS}

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Nature:
    """What really decides a duration: a law, and a share of jobs that a queue holds up by a factor."""

    law: Law
    congested: float = 0.0
    slowdown: float = 3.0

    def draw(self, random: Random) -> float:
        """One duration in seconds."""
        factor = self.slowdown if random.random() < self.congested else 1.0
        return factor * self.law.median * exp(self.law.sigma * random.gauss())

    def sample(self, size: int) -> list[float]:
        """Durations at evenly spaced quantiles: as good as ten times as many drawn ones."""
        slow = round(size * self.congested)
        return [
            factor * exp(log(self.law.median) + self.law.sigma * _NORMAL.inv_cdf((at + 0.5) / number))
            for factor, number in ((1.0, size - slow), (self.slowdown, slow))
            for at in range(number)
        ]

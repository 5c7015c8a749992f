"""The yardstick: the best possible times to look when the law is known, by dynamic programme."""

from __future__ import annotations

from math import exp, log
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kling_async._cadence import Law


def optimal_looks(law: Law, lag_per_look: float, *, cells: int = 900) -> list[float]:
    """The look times, in seconds after submission, that minimise E[lag + lag_per_look * looks].

    Let W(t) = S(t) V(t), with V(t) the cost still to come for a job not finished at t, just looked at. Then W(t) is the
    minimum over s > t of ``lag_per_look S(t) + integral from t to s of (F(u) - F(t)) du + W(s)``, solved backwards
    on a grid evenly spaced between the 1e-7 quantiles, with submission as its first point.

    Args:
        law: The true law.
        lag_per_look: Seconds of lag that one look is worth.
        cells: Points of the grid.
    """
    normal = NormalDist()
    width = normal.inv_cdf(1 - 1e-7)
    shortest, longest = (law.median * exp(sign * width * law.sigma) for sign in (-1, 1))
    times = [0.0] + [shortest + (longest - shortest) * at / cells for at in range(cells + 1)]
    ended = [0.0] + [_ended(law, time) for time in times[1:]]
    area = [0.0]
    for at in range(1, len(times)):
        area.append(area[-1] + (times[at] - times[at - 1]) * (ended[at] + ended[at - 1]) / 2)
    worth = [0.0] * len(times)
    chosen = [len(times) - 1] * len(times)
    for at in range(len(times) - 2, -1, -1):

        def cost(then: int, at: int = at) -> float:
            return area[then] - area[at] - ended[at] * (times[then] - times[at]) + worth[then]

        best = min(range(at + 1, len(times)), key=cost)
        chosen[at] = best
        worth[at] = lag_per_look * (1 - ended[at]) + cost(best)
    looks = []
    at = 0
    while at < len(times) - 1:
        at = chosen[at]
        looks.append(times[at])
    return looks


def _ended(law: Law, time: float) -> float:
    return NormalDist(0.0, law.sigma).cdf(log(time / law.median))

"""How long a job takes: a lognormal distribution, learned from ends that are known only to an interval.

Theory. A job's duration is taken as lognormal, ``ln T ~ N(mu, sigma^2)``, with `mu` and `sigma` unknown. What is
believed about them is a weight on every cell of a fixed grid: the prior (the documented durations) plus the *evidence*,
a sum of log-likelihoods. A completion is known only to lie in ``(last poll before it, first poll after it]``, and the
probability of that interval is its likelihood. Midpoints would be simpler and are wrong: the distribution would then
follow the polls that it caused itself. A job that was given up while it ran means ``T > t``. A webhook or a stream
reports a time, which is taken as a narrow interval.

Jobs that still run are evidence too. When a hundred start together, the first to end are the short ones, and a
distribution learned from them alone would have the other ninety polled all the time. So each job is counted at the age
at which it was last seen running, and means ``T > age`` until it ends.

The evidence is a sum, so the order of completions cannot matter. It is multiplied by `_MEMORY` before each new term, so
that the model follows a provider that becomes slower after some dozens of jobs. Every likelihood is mixed with a tenth
of a very wide distribution: one absurd duration is bounded evidence, and no sequence can empty the grid.

Polling needs the *predictive* distribution, a mixture of the cells. Given sigma, the weights of mu are close to normal,
so each sigma contributes one lognormal with the same two moments, and nine of them make the survival function S. It is
tabulated together with its integral, whenever enough has been observed since the last time. Then every question of a
schedule is a search in a sorted list.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from math import erf, exp, inf, isfinite, log, sqrt
from typing import TYPE_CHECKING

from kling_async._records import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MEMORY = 0.995  # weight of the evidence after each later end: the last 200 ends count
# How far the documented durations are trusted. ln median has Student's t with 3 degrees of freedom. With its tails,
# even the first job is polled sensibly if the documents are wrong by a factor of two. ln sigma is normal.
_MEDIAN_SPREAD = 0.3
_SIGMA_SPREAD = 0.5
_OUTLIERS = 0.1  # share of jobs outside the distribution (a queue that hangs), and how wide they scatter
_OUTLIER_SIGMA = 1.5
_RESOLUTION = 0.01  # relative. The grid cannot distinguish ends that are closer
_FARTHEST = 7.0  # natural log of duration over prior median. Beyond a factor of 1 000 all is the same
RECENT = 64  # ends kept for `ends`: replaying them restores the model within a percent

_PITCH = 0.06  # of the grid in mu
_REACH = 40  # cells on either side of the prior median: a factor of 11
_OFFSETS = tuple(_PITCH * step for step in range(-_REACH, _REACH + 1))  # mu - ln(prior median)
_RATIOS = tuple(1.4**step for step in range(-4, 5))  # sigma over prior sigma: a factor of 3.8 either way
_BELIEF = tuple(
    tuple(-2 * log(1 + (mu / _MEDIAN_SPREAD) ** 2 / 3) - (log(ratio) / _SIGMA_SPREAD) ** 2 / 2 for mu in _OFFSETS)
    for ratio in _RATIOS
)
_GRAIN = _PITCH**2 / 12  # variance of mu inside a cell
# The predictive distribution is computed again when an eighth of the ends, or of the running jobs, is new to it.
_RENEWAL = 8
_MOVES = 32  # jobs that grew older, at least, before that is done for their sake
_MANY = 8  # jobs running at once, at least, before that is done for their sake
_AT_ONCE = 64  # ends that are added to the evidence in one go, at most
_NEGLIGIBLE = 1e-3  # a sigma with less weight than this is left out of the predictive distribution

_NODES = tuple(-4.5 + 9.0 * step / 79 for step in range(80))  # of the table, in standard deviations


@dataclass(frozen=True, slots=True)
class DurationPrior:
    """A lognormal distribution of a job's duration.

    Args:
        median: Half of the jobs take longer, in seconds.
        sigma: Standard deviation of the natural logarithm of the duration. "2 to 3 minutes", read as four
            jobs in five, is a median of 147 s and a sigma of 0.158.

    Raises:
        ValueError: One of them is not a positive finite number.
    """

    median: float
    sigma: float

    def __post_init__(self) -> None:
        if not (isfinite(self.median) and self.median > 0 and isfinite(self.sigma) and self.sigma > 0):
            raise ValueError(f"it needs a positive finite median and sigma, got {self.median!r}, {self.sigma!r}")

    @property
    def p90(self) -> float:
        """Nine of ten jobs take less, in seconds."""
        return self.median * exp(1.2815515655446004 * self.sigma)

    def faster(self, factor: float) -> DurationPrior:
        """Return the same for a provider that is `factor` times as fast."""
        return self if factor == 1 else DurationPrior(self.median / factor, self.sigma)

    @classmethod
    def from_range(cls, shortest: float, longest: float) -> DurationPrior:
        """Return the one for "shortest to longest" seconds in a document: the middle 80 % of the jobs."""
        return cls(sqrt(shortest * longest), log(longest / shortest) / (2 * 1.2815515655446004))


@record
class Observation:
    """What is known of one job's end: it lies in ``(after, by]`` seconds after submission.

    If they are equal, the time is exact. If `by` is infinite, the job was given up at `after`, still running.
    """

    after: float
    by: float

    def plain(self) -> list[float | None]:
        """Return it as JSON, to a hundredth of a second, with null for infinity."""
        return [round(self.after, 2), None if self.by == inf else round(self.by, 2)]

    @classmethod
    def read(cls, plain: object) -> Observation | None:
        """Return what `plain` wrote. None for anything else."""
        match plain:
            case [int() | float() as after, int() | float() | None as by]:
                return cls(float(after), inf if by is None else float(by))
        return None


class SurvivalCurve:
    """A distribution of durations as a table: S(t), the chance to last longer than t, and the lag that waiting costs.

    Args:
        parts: The lognormal distributions that it mixes, as (weight, mean of ln T, standard deviation of ln T). The
            weights sum to 1.

    Attributes:
        median: Half of the jobs take longer, in seconds.
        cutoff: The 97th percentile, in seconds. The distribution does not fit a job that runs longer.
    """

    __slots__ = ("_area", "_chance", "_times", "cutoff", "median")

    def __init__(self, parts: Sequence[tuple[float, float, float]]) -> None:
        mean = sum(weight * mu for weight, mu, _ in parts)
        spread = sqrt(sum(weight * (sd * sd + (mu - mean) ** 2) for weight, mu, sd in parts))
        logs = [mean + spread * z for z in _NODES]
        chances = [0.5] * len(logs)
        for weight, mu, sd in parts:
            scale = 1 / (sd * sqrt(2))
            half = weight / 2
            chances = [chance - half * erf((x - mu) * scale) for chance, x in zip(chances, logs, strict=True)]
        chances[0] = 1.0
        times = [exp(x) for x in logs]
        area = times[0]
        areas = [area]
        for index in range(1, len(times)):
            area += (times[index] - times[index - 1]) * (chances[index] + chances[index - 1]) / 2
            areas.append(area)
        self._times, self._chance, self._area = times, chances, areas
        self.median = self.quantile(0.5)
        self.cutoff = self.quantile(0.97)

    def _at(self, t: float) -> tuple[int, float, float]:
        """Return the number of nodes up to `t`, S(t), and the integral of S from 0 to `t`."""
        index = bisect_right(self._times, t)
        if index == 0:
            return 0, 1.0, t
        start, chance, area = self._times[index - 1], self._chance[index - 1], self._area[index - 1]
        if index == len(self._times):
            return index, chance, area + chance * (t - start)
        slope = (self._chance[index] - chance) / (self._times[index] - start)
        here = chance + slope * (t - start)
        return index, here, area + (t - start) * (chance + here) / 2

    def quantile(self, share: float) -> float:
        """Return the time by which this share of the jobs has ended, in seconds."""
        wanted = 1 - share
        index = min(bisect_right(self._chance, -wanted, key=lambda chance: -chance), len(self._times) - 1)
        high, low = self._chance[index - 1], self._chance[index]
        part = (high - wanted) / (high - low) if high > low else 0.0
        return self._times[index - 1] + part * (self._times[index] - self._times[index - 1])

    def lag(self, last: float, now: float) -> float:
        """Return the expected seconds at `now` since the end of a job that ran at `last`."""
        _, chance, area = self._at(last)
        _, _, until = self._at(now)
        return min(max(now - last - (until - area) / chance, 0.0), now - last)

    def time_for_lag(self, last: float, lag: float) -> float:
        """Return the time at which the expected lag since `last` reaches `lag` seconds: the inverse of `lag`."""
        index, chance, area = self._at(last)
        target = last + lag - area / chance
        times, areas = self._times, self._area
        found = bisect_right(range(len(times)), target, lo=index, key=lambda at: times[at] - areas[at] / chance)
        if found == index:
            start, here, gone = last, chance, area
        else:
            start, here, gone = times[found - 1], self._chance[found - 1], areas[found - 1]
        missing = max(target - start + gone / chance, 0.0)
        if found == len(times):
            return start + missing / max(1 - here / chance, 1e-9)
        # Between two nodes S is a line, so the lag is a quadratic. This form of its root cannot cancel.
        falling = (here - self._chance[found]) / (times[found] - start) if times[found] > start else 0.0
        linear = 1 - here / chance
        root = linear + sqrt(linear * linear + 2 * missing * falling / chance)
        return start + 2 * missing / root if root > 0 else times[found]


class DurationModel:
    """What is believed about the durations of one variant, and the `SurvivalCurve` that follows from it.

    Args:
        prior: The documented durations: the centre of the grid, and all that is known before the first end.
        memory: What is left of the weight of an end after each later one.
    """

    __slots__ = (
        "_ends",
        "_evidence",
        "_memory",
        "_moves",
        "_new",
        "_pending",
        "_prior",
        "_recent",
        "_running",
        "_sigmas",
        "_survival",
    )

    def __init__(self, prior: DurationPrior, *, memory: float = _MEMORY) -> None:
        self._prior = prior
        self._memory = memory
        self._running = [0] * len(_OFFSETS)  # how many jobs still run, by age on the grid. Place 0 is not used
        self._moves = 0  # of jobs between ages, since the predictive distribution was computed
        self._ends = 0  # since then
        self._sigmas = tuple(prior.sigma * ratio for ratio in _RATIOS)
        self._evidence = [[0.0] * len(_OFFSETS) for _ in _RATIOS]
        self._pending: list[tuple[float, float]] = []  # ends that are not in the evidence yet, oldest first
        self._recent: deque[Observation] = deque(maxlen=RECENT)
        self._new = 0  # ends observed since the last `forget_new`
        self._survival: SurvivalCurve | None = None

    @property
    def ends(self) -> Sequence[Observation]:
        """The most recent ends, oldest first: what is worth keeping of a model."""
        return tuple(self._recent)

    @property
    def new_ends(self) -> Sequence[Observation]:
        """Those of `ends` that were observed since the last call of `forget_new`."""
        return tuple(self._recent)[len(self._recent) - self._new :]

    def forget_new(self) -> None:
        """Note that all ends are stored."""
        self._new = 0

    @property
    def survival(self) -> SurvivalCurve:
        """The predictive distribution. It is the same object until enough was observed to compute another."""
        if self._survival is None:
            self._take_pending()
            self._moves = self._ends = 0
            self._survival = SurvivalCurve(self._parts())
        return self._survival

    def running(self, age: int, last: float) -> int:
        """Note that a job was still running at `last`.

        Args:
            age: What this method last returned for the same job. 0 if it never did.
            last: Seconds since submission. With 0.0, the job is taken out.

        Returns:
            The job's age on the grid.
        """
        place = self._log(last) / _PITCH + _REACH
        now = round(min(max(place, 0), 2 * _REACH))
        if now != age:
            self._running[age] -= 1
            self._running[now] += 1
            self._running[0] = 0
            self._moves += 1
            # A job's own age would count twice for its polls, here and in their condition. Among many that is little.
            if self._moves >= _MOVES:
                jobs = sum(self._running)
                if jobs >= _MANY and self._moves >= jobs // _RENEWAL:
                    self._survival = None
        return now

    def observe(self, ends: Iterable[Observation]) -> None:
        """Take ends as evidence. Those without meaning (no number, or still running at 0 s) are ignored."""
        for end in ends:
            if not isfinite(end.after) or not end.by > -inf or (end.after <= 0 and end.by == inf):
                continue
            self._recent.append(end)
            self._new = min(self._new + 1, RECENT)
            self._pending.append(self._bounds(end))
            if len(self._pending) >= _AT_ONCE:
                self._take_pending()
            self._ends += 1
            if self._ends >= len(self._recent) // _RENEWAL:
                self._survival = None

    def _bounds(self, end: Observation) -> tuple[float, float]:
        """Return an end as an interval of ln(T / prior median), in steps that the grid can resolve."""
        after, by = sorted((self._log(end.after), self._log(end.by)))
        after, by = min(after, _FARTHEST), max(by, -_FARTHEST)
        if by - after < 2 * _RESOLUTION:
            middle = (after + by) / 2
            after, by = middle - _RESOLUTION, middle + _RESOLUTION
        return _rounded(after), _rounded(by)

    def _log(self, seconds: float) -> float:
        """Return ln(T / prior median), of any float."""
        if not seconds > 0:  # not a number, too
            return -inf
        if seconds == inf:
            return inf
        return min(max(log(seconds) - log(self._prior.median), -_FARTHEST), _FARTHEST)

    def _take_pending(self) -> None:
        """Add the latest ends to the evidence. Equal ones are added once, with the sum of their weights.

        Where thousands of jobs end within seconds, many are equal, and each addition is one to 700 cells.
        """
        weights: dict[tuple[float, float], float] = {}
        weight = 1.0
        for end in reversed(self._pending):
            weights[end] = weights.get(end, 0.0) + weight
            weight *= self._memory
        self._pending.clear()
        evidence = [[weight * old for old in row] for row in self._evidence]
        for (after, by), gain in weights.items():
            gained = _likelihoods(self._prior.sigma, after, by)
            evidence = [
                [old + gain * new for old, new in zip(row, more, strict=True)]
                for row, more in zip(evidence, gained, strict=True)
            ]
        self._evidence = evidence

    def _parts(self) -> list[tuple[float, float, float]]:
        """Return one lognormal for each sigma: its weight, and mean and standard deviation of ln T in seconds."""
        scores = [
            self._with_running([belief + gained for belief, gained in zip(*rows, strict=True)], sigma)
            for *rows, sigma in zip(_BELIEF, self._evidence, self._sigmas, strict=True)
        ]
        best = max(map(max, scores))
        parts = []
        for sigma, row in zip(self._sigmas, scores, strict=True):
            weights = [exp(score - best) for score in row]
            total = sum(weights)
            if total > 0:
                mean = sum(weight * mu for weight, mu in zip(weights, _OFFSETS, strict=True)) / total
                square = sum(weight * mu * mu for weight, mu in zip(weights, _OFFSETS, strict=True)) / total
                parts.append((total, mean, sqrt(max(square - mean * mean, 0.0) + _GRAIN + sigma * sigma)))
        everything = sum(weight for weight, _, _ in parts)
        parts = [part for part in parts if part[0] >= _NEGLIGIBLE * everything]
        everything = sum(weight for weight, _, _ in parts)
        shift = log(self._prior.median)
        return [(weight / everything, mean + shift, sd) for weight, mean, sd in parts]

    def _with_running(self, scores: list[float], sigma: float) -> list[float]:
        lasts = _lasts(sigma)
        for age, jobs in enumerate(self._running):
            if jobs:
                part = lasts[2 * _REACH - age :]
                scores = [score + jobs * last for score, last in zip(scores, part, strict=False)]
        return scores


def _rounded(x: float) -> float:
    """Return a logarithm as the grid resolves it."""
    return round(x / _RESOLUTION) * _RESOLUTION if isfinite(x) else x


@lru_cache(maxsize=256)
def _likelihoods(prior_sigma: float, after: float, by: float) -> tuple[array[float], ...]:
    """The log-likelihood of an end in ``(after, by]`` for each sigma and each mu.

    To compute it takes most of a millisecond, and among thousands of jobs of one kind there are some dozens of it.
    """
    scale = 1 / (_OUTLIER_SIGMA * sqrt(2))
    stray = _OUTLIERS / 2 * (erf(by * scale) - erf(after * scale))
    half = (1 - _OUTLIERS) / 2
    rows = []
    for ratio in _RATIOS:
        scale = 1 / (prior_sigma * ratio * sqrt(2))
        rows.append(
            array("d", [log(stray + half * (erf((by - mu) * scale) - erf((after - mu) * scale))) for mu in _OFFSETS])
        )
    return tuple(rows)


@lru_cache(maxsize=64)
def _lasts(sigma: float) -> tuple[float, ...]:
    """The log-likelihood of "still running" with mu from -80 to 80 cells above the log of the job's age."""
    scale = _PITCH / (sigma * sqrt(2))
    return tuple(
        log(_OUTLIERS + (1 - _OUTLIERS) * (1 + erf(cells * scale)) / 2) for cells in range(-2 * _REACH, 2 * _REACH + 1)
    )

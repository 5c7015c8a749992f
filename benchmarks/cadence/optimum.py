"""The best possible times to poll when the distribution is known, by dynamic programming."""

from __future__ import annotations

from itertools import accumulate, pairwise

from benchmarks.cadence.durations import Nature


def optimal_polls(nature: Nature, lag_per_poll: float, *, cells: int = 1500) -> list[float]:
    """The poll times, in seconds after submission, that minimise E[lag + lag_per_poll * polls].

    F is the distribution, S = 1 - F, and V(t) the cost still to come for a job seen running at t. W(t) = S(t) V(t) is
    the minimum over s > t of ``lag_per_poll S(t) + integral from t to s of (F(u) - F(t)) du + W(s)``. It is solved
    backwards on an even grid over the times at which jobs end, with submission as its first point.

    Args:
        nature: The true distribution.
        lag_per_poll: Seconds of lag that one poll is worth.
        cells: Points of the grid.
    """
    first, last = nature.range
    times = [0.0, *(first + (last - first) * cell / cells for cell in range(cells + 1))]
    ended = [nature.ended(time) for time in times]
    slices = (
        (then - now) * (more + less) / 2
        for (now, then), (less, more) in zip(pairwise(times), pairwise(ended), strict=True)
    )
    area = list(accumulate(slices, initial=0.0))
    end = len(times) - 1
    best_next = [end] * len(times)
    # W(s) plus the integral of F up to s: what "next poll at s" costs, but for the terms in F(t).
    tail = [0.0] * end + [area[end]]
    for now in range(end - 1, -1, -1):
        gone = ended[now]
        best = min(range(now + 1, end + 1), key=lambda then: tail[then] - gone * times[then])
        best_next[now] = best
        tail[now] = lag_per_poll * (1 - gone) + tail[best] - gone * (times[best] - times[now])
    polls = [best_next[0]]
    while polls[-1] < end:
        polls.append(best_next[polls[-1]])
    return [times[poll] for poll in polls]

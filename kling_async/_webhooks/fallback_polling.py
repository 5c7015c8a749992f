"""Slow polling while webhooks are expected."""

from __future__ import annotations

from collections.abc import Callable

from kling_async._scheduling.schedules import PollTimer

__all__ = ["FallbackTimer"]


_INTERVAL = 60.0  # s between the looks of a backstop
_LATE = 2.0  # standard deviations of the law, past which 98 of 100 jobs have ended
_MISSED = 3  # jobs in a row without a delivery before it is not counted on any more


class WebhookHealth:
    """Whether a provider's deliveries can be counted on: they can, until several in a row have failed to come."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._missed = 0
        self._changed = changed

    @property
    def reliable(self) -> bool:
        return self._missed < _MISSED

    def delivered(self) -> None:
        self._move(0)

    def missed(self) -> None:
        self._move(self._missed + 1)

    def _move(self, missed: int) -> None:
        before, self._missed = self.reliable, missed
        if self.reliable is not before:
            self._changed()


class FallbackTimer:
    """The cadence of a job of which a delivery is expected.

    Args:
        cadence: The job's cadence where none is, or after one has come.
        expectation: Whether the provider's deliveries can be counted on.
        late: Seconds after submission at which the delivery is late.
        interval: Seconds between looks from then on; not more than `late`.
    """

    def __init__(self, timer: PollTimer, expectation: WebhookHealth, late: float, interval: float) -> None:
        self.heard = False
        """Whether a delivery has come."""
        self._timer = timer
        self._expectation = expectation
        self._late = late
        self._interval = interval

    def next_poll(self, last: float) -> float:
        """See `Cadence.next_poll`."""
        due = self._timer.next_poll(last)
        if self.heard or not self._expectation.reliable:
            return due
        return max(due, self._late, last + self._interval)

    def expected_lag(self, last: float, now: float) -> float:
        """See `Cadence.expected_lag`."""
        return self._timer.expected_lag(last, now)

    def observe_end(self, after: float, by: float) -> None:
        """See `Cadence.observe_end`."""
        self._timer.observe_end(after, by)
        if not self.heard:
            self._expectation.missed()

    def observe_running(self, at: float) -> None:
        """See `Cadence.observe_running`."""
        self._timer.observe_running(at)

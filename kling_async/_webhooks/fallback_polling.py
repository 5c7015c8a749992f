"""Slow polling while webhooks are expected."""

from __future__ import annotations

from collections.abc import Callable

from kling_async._scheduling.schedules import PollTimer

__all__ = ["FALLBACK_INTERVAL", "LATE_DEVIATIONS", "FallbackTimer", "WebhookHealth"]


FALLBACK_INTERVAL = 60.0
"""Seconds between the polls of a job while its delivery is expected."""
LATE_DEVIATIONS = 2.0
"""Standard deviations of a job's duration after which 98 of 100 jobs have ended."""
_MISSED = 3  # jobs in a row without a delivery before deliveries are not expected any more


class WebhookHealth:
    """Whether a provider's deliveries can be expected: they can, until several in a row have not come.

    Args:
        changed: Called when the answer changes.
    """

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
    """The poll timer of a job for which a delivery is expected.

    Args:
        timer: The timer without webhooks. It is used after a delivery has come, or when none can be expected.
        health: Whether the provider's deliveries can be expected.
        late: Seconds after submission at which the delivery is late.
        interval: Seconds between polls from then on. Not more than `late`.
    """

    def __init__(self, timer: PollTimer, health: WebhookHealth, late: float, interval: float) -> None:
        self.delivered = False
        """Whether a delivery has come."""
        self._timer = timer
        self._health = health
        self._late = late
        self._interval = interval

    def next_poll(self, last: float) -> float:
        """See `PollTimer.next_poll`."""
        due = self._timer.next_poll(last)
        if self.delivered or not self._health.reliable:
            return due
        return max(due, self._late, last + self._interval)

    def expected_lag(self, last: float, now: float) -> float:
        """See `PollTimer.expected_lag`."""
        return self._timer.expected_lag(last, now)

    def observe_end(self, after: float, by: float) -> None:
        """See `PollTimer.observe_end`."""
        self._timer.observe_end(after, by)
        if not self.delivered:
            self._health.missed()

    def observe_running(self, at: float) -> None:
        """See `PollTimer.observe_running`."""
        self._timer.observe_running(at)

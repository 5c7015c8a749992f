"""When a job was polled, and when it is to be polled next.

It is one object with the job's log (`TrackedJob` extends it), because a job in flight is to be few objects. Only the
`_polling` package writes it. A test enforces that.
"""

from __future__ import annotations

import math
from typing import Any

from kling_async._errors import KlingError
from kling_async._scheduling.schedules import PollTimer

__all__ = ["PollState"]

_UNCONFIRMED = 1e9  # s by which the priority of a job that is not confirmed is lower
_LONGEST_INTERVAL = 15.0  # s. Where webhooks are expected, the timer's own interval may be minutes


class PollState:
    """What the poller knows of one job. All times are POSIX seconds.

    Args:
        timer: When to poll it.
        started: When it was submitted.
        longest_wait: Seconds after `started` for which it is waited for.
        submitted_here: Whether we submitted it. Then `started` is true, its duration can be learned from, and a
            provider that does not know it yet is asked again.

    Attributes:
        subscribers: Who has it polled without waiting for it. There may be thousands of jobs, so it is no collection
            unless there are several.
        last_polled: When it was last polled, with any answer.
        last_seen_running: When it was last known to run. It ended later than this.
        confirmed: Whether the job is known to exist: it was submitted here, or the provider has reported on it. Other
            jobs rank below all of these.
        poll_now: Whether a poll is due now, before the timer's time.
        next_urgent: Before this time no poll is urgent: an urgent one was sent, and its interval is not over.
        leased: Whether this process polls it. If False, another one does, and records what it learns in the ledger.
        lease_waiters: How many wait for it here, if it is in a ledger that several processes share.
        poll_granted: Whether the next poll was granted to it and is not sent yet.
        being_polled: Whether a task is its worker.
        queue_number: Its number in the queue of polls. None outside.
        poll_error: The permanent error of the last poll. It is raised to those who wait, once, and cleared by the next
            successful poll.
        wait_error: How the last wait of a worker ended without an event, for those who waited beside it.
        failing_since: When polls began to fail without a success between. None if the last one succeeded.
        stream_failures: How often in a row a stream closed without an event.
    """

    __slots__ = (
        "being_polled",
        "confirmed",
        "failing_since",
        "last_polled",
        "last_seen_running",
        "lease_waiters",
        "leased",
        "longest_wait",
        "next_urgent",
        "poll_error",
        "poll_granted",
        "poll_now",
        "queue_number",
        "started",
        "stream_failures",
        "submitted_here",
        "subscribers",
        "timer",
        "wait_error",
    )

    def __init__(self, timer: PollTimer, started: float, longest_wait: float, *, submitted_here: bool) -> None:
        self.timer = timer
        self.started = started
        self.longest_wait = longest_wait
        self.submitted_here = submitted_here
        self.last_polled = started
        self.last_seen_running = started
        self.confirmed = submitted_here
        self.poll_now = not submitted_here
        self.next_urgent = -math.inf
        self.leased = True
        self.lease_waiters = 0
        self.subscribers: Any = None
        self.queue_number: int | None = None
        self.poll_granted = False
        self.being_polled = False
        self.poll_error: KlingError | None = None
        self.wait_error: Exception | None = None
        self.failing_since: float | None = None
        self.stream_failures = 0

    @property
    def deadline(self) -> float:
        """When waiting for it ends. All jobs of an endpoint share the number of seconds from its start."""
        return self.started + self.longest_wait

    def due(self) -> float:
        """When it is polled next: at the time of its timer, at its deadline, and as soon as allowed if `poll_now`."""
        if self.poll_now and self.next_urgent <= self.last_polled:
            return self.last_polled
        due = self.started + self.timer.next_poll(self.last_polled - self.started)
        if self.poll_now:
            due = min(due, self.next_urgent)
        deadline = self.started + self.longest_wait
        return deadline if self.last_polled < deadline < due else due

    def priority(self, now: float) -> float:
        """What a poll is worth: the lag expected since the last one. Infinite at its deadline.

        Anybody can attach to a reference that does not exist. So a job that is not confirmed ranks below all that are.
        """
        if not self.confirmed:
            return now - self.last_polled - _UNCONFIRMED
        if now >= self.started + self.longest_wait:
            return math.inf
        return self.timer.expected_lag(self.last_polled - self.started, now - self.started)

    def begin_poll(self, now: float) -> None:
        """Note that it is polled now. If that was urgent, the next poll is not before the interval is over."""
        if self.poll_now:
            age = now - self.started
            self.next_urgent = now + min(self.timer.next_poll(age) - age, _LONGEST_INTERVAL)
        self.last_polled, self.poll_now = now, False

    def confirm(self) -> None:
        """Note that the job exists."""
        self.confirmed = True

    def resume_from(self, known: float) -> None:
        """Take over what an earlier process knew: the job ran at that time."""
        self.last_seen_running = self.last_polled = max(self.started, known)

    def raise_poll_error(self) -> None:
        """Raise the permanent error of the last poll, once."""
        if self.poll_error is not None:
            error, self.poll_error = self.poll_error, None
            raise error

    def learn(self, now: float, *, completed: bool, exact: bool) -> None:
        """Teach the timer how long the job took. A failure shows only that the job was not done before.

        Args:
            now: When we learned of the end.
            completed: Whether the job completed.
            exact: Whether the job ended at this moment, not some time since the last poll.
        """
        last = self.last_seen_running - self.started
        if completed:
            age = now - self.started
            self.timer.observe_end(age if exact else last, age)
        else:
            self.timer.observe_running(last)

"""What the client holds of one job: its log of events, and when it was looked at.

Many tasks may wait on a trail; one of them at a time does the looking (`poller`), the others read the log. A waiter
that is cancelled loses nothing: the log stays, and the next waiter goes on from it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

import anyio

from kling_async._clock import Clock
from kling_async._errors import KlingError
from kling_async._models import Cost, Event, JobRef, Source, Status, StatusReport
from kling_async._scheduling.schedules import PollTimer
from kling_async._tracking.packed_events import Packed, pack, unpack
from kling_async._tracking.transitions import STATUS_ORDER, advance
from kling_async.providers._base.request import Request

__all__ = ["TrackedJob"]

log = logging.getLogger("kling_async")

Record = Callable[[JobRef, Event], Awaitable[None]]
"""Makes an event durable before it is published."""


class TrackedJob:
    """The log of one job.

    Args:
        ref: The job.
        cadence: When to look at it.
        request: What was submitted; None for a job that was attached by its address.
        started: POSIX time of the submission.
        deadline: POSIX time at which waiting for it ends.
        clock: The client's clock.
        record: Makes an event durable; None: nothing does.
        settled: Told when waiting for the job is over: it ended, or its deadline passed.
        fresh: Whether we submitted it, so that `started` is true, its duration can be learned from, and a provider
            that does not know it yet is forgiven.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_changed",
        "_clock",
        "_lock",
        "_log",
        "_record",
        "_status",
        "being_polled",
        "deadline",
        "failing_since",
        "key",
        "last_polled",
        "last_seen_running",
        "on_end",
        "poll_error",
        "poll_granted",
        "poll_now",
        "reported_failure",
        "request",
        "settled",
        "started",
        "stream_failures",
        "submitted_here",
        "timer",
        "wait_error",
    )

    def __init__(  # noqa: PLR0913  # the facts of a job, each by its name
        self,
        ref: JobRef,
        timer: PollTimer,
        *,
        request: Request | None = None,
        started: float,
        deadline: float,
        clock: Clock,
        record: Record | None = None,
        settled: Callable[[JobRef], None] = lambda _: None,
        submitted_here: bool = True,
    ) -> None:
        self._address = str(ref)
        self.timer = timer
        self.request = request
        self.started = started
        self.deadline = deadline
        self.settled = settled
        self.submitted_here = submitted_here
        self.key: str | None = None
        """The key of its submission, where it is known."""
        self._log: tuple[Packed, ...] = ()
        self._status = Status.PENDING
        self.last_seen_running = started
        """When a look last said "not yet": the job ended later than this."""
        self.last_polled = started
        """When it was last looked at, whatever came of it."""
        self.poll_now = not submitted_here
        """Whether a look is due now, whatever the cadence says."""
        self.being_polled = False
        """Whether a task is doing the looking."""
        self.poll_granted = False
        """Whether the next look has been awarded to it."""
        self.failing_since: float | None = None
        self.on_end: Callable[[TrackedJob], None] | None = None
        """Told when the job has ended, for those who do not wait for it."""
        self.poll_error: KlingError | None = None
        """Why looking at it makes no sense now; raised to whoever waits, and cleared by the next good look."""
        self.wait_error: Exception | None = None
        """How the last wait that did the looking ended without the job's end, for those who waited beside it."""
        self.stream_failures = 0
        self.reported_failure: StatusReport | None = None
        """The failure that a webhook told, which is not believed until a look says that the job failed."""
        self._clock = clock
        self._record = record
        self._changed: anyio.Event | None = None
        self._lock: anyio.Lock | None = None

    def __repr__(self) -> str:
        return f"<Trail {self.ref} {self.status}, {self.count} events>"

    @property
    def ref(self) -> JobRef:
        """The job, made anew from plain text; see `_tracking.packed_events`."""
        return str.__new__(JobRef, self._address)

    @property
    def count(self) -> int:
        """How many events there are."""
        return len(self._log)

    @property
    def events(self) -> tuple[Event, ...]:
        """The log so far."""
        return tuple(map(unpack, self._log))

    def event(self, place: int) -> Event:
        """The event at that place of the log."""
        return unpack(self._log[place])

    @property
    def latest(self) -> Event | None:
        """The last event; None before the first."""
        return self.event(-1) if self._log else None

    @property
    def status(self) -> Status:
        """Where the job stands, as far as is known."""
        return self._status

    @property
    def cost(self) -> Cost | None:
        """What it costs, where the provider tells."""
        latest = self.latest
        return latest.cost if latest else None

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self.status.terminal

    def has_news(self, seen: int) -> bool:
        """Whether a wait is over: the job has more than `seen` events, or has ended."""
        return len(self._log) > seen or self.ended

    def raise_poll_error(self) -> None:
        """Raise why looking at it makes no sense, once."""
        if self.poll_error is not None:
            error, self.poll_error = self.poll_error, None
            raise error

    def due(self) -> float:
        """When it is to be looked at next: as its cadence wants it, when its deadline comes, and at once if urgent."""
        if self.poll_now:
            return self.last_polled
        due = self.started + self.timer.next_poll(self.last_polled - self.started)
        return min(due, self.deadline) if self.last_polled < self.deadline else due

    def priority(self, now: float) -> float:
        """What a look at it is worth: the lag expected since the last; infinite when it must be made now."""
        if self.poll_now or now >= self.deadline:
            return math.inf
        return self.timer.expected_lag(self.last_polled - self.started, now - self.started)

    def replay(self, events: Iterable[Event]) -> None:
        """Take in the log as a ledger has it, before anything else."""
        self._log = ()
        for event in events:
            self._append(replace(event, source="ledger"))
        latest = self.latest
        if latest is not None:
            known = min(latest.at.timestamp(), self._clock.now())  # the clock may have been set back since
            self.last_seen_running = self.last_polled = max(self.started, known)

    @property
    def recorded(self) -> bool:
        """Whether events are made durable before they are published."""
        return self._record is not None

    def _append(self, event: Event) -> None:
        self._log = (*self._log, pack(event))
        self._status = event.status

    async def start_recording(self, record: Record, known: Sequence[Event]) -> None:
        """Have the log recorded from now on, after what is recorded of the job already.

        Args:
            record: Makes an event durable.
            known: The log as the ledger has it.
        """
        if self._record is not None:
            return
        latest = self.latest
        if latest is None:
            self._record = record
            self.replay(known)
            if self.ended:
                self._end()
            self.wake()
            return
        told = known[-1] if known else None
        news = told is None or STATUS_ORDER[latest.status] > STATUS_ORDER[told.status]
        # Readers have seen our numbers, and the ledger goes on with its own.
        shift = (told.seq + 1 if told else 0) - latest.seq - (not news)

        async def renumbered(ref: JobRef, event: Event) -> None:
            await record(ref, replace(event, seq=event.seq + shift))

        self._record = renumbered
        self._lock = anyio.Lock()
        async with self._lock:
            if news:
                with anyio.CancelScope(shield=True):
                    await renumbered(self.ref, latest)

    async def apply(self, report: StatusReport, source: Source, *, exact: bool = False) -> Event | None:
        """Take in what was said about the job; the one way into the log.

        Args:
            report: What was said.
            source: Where.
            exact: It was said at the moment it became true (a webhook, a stream), so its time can be learned from.

        Returns:
            The event that it amounted to, now in the log (and durable, with a ledger); None if it was no news.
        """
        if report.unrecognized:
            log.warning(
                "job %s: the provider said %s, which is not understood; the job goes on",
                self.ref,
                report.unrecognized,
            )
        now = self._clock.now()
        if self._record is None:
            return self._publish(self._advance(report, source, now), now, exact=exact)
        if self._lock is None:
            self._lock = anyio.Lock()
        async with self._lock:
            event = self._advance(report, source, now)
            if event is not None:
                with anyio.CancelScope(shield=True):
                    await self._record(self.ref, event)
            return self._publish(event, now, exact=exact)

    def _advance(self, report: StatusReport, source: Source, now: float) -> Event | None:
        if self.reported_failure is not None and report.status is Status.FAILED and not report.has_reason:
            # Some providers tell the reason in the webhook alone; that the job failed is confirmed by this reading.
            message = report.message or self.reported_failure.message
            report = replace(report, message=message, failures=self.reported_failure.failures)
        return advance(self.latest, report, source=source, at=now, started=self.started)

    def _publish(self, event: Event | None, now: float, *, exact: bool) -> Event | None:
        if event is None:
            return None
        self._append(event)
        if event.status.terminal:
            if self.submitted_here:
                self._learn(event, now, exact=exact)
            self._end()
        self.wake()
        return event

    def _end(self) -> None:
        """Tell those who do not wait that the job has ended."""
        self.settled(self.ref)
        if self.on_end is not None:
            self.on_end(self)

    def _learn(self, event: Event, now: float, *, exact: bool) -> None:
        """Tell the cadence how long the job took. How long it took to fail says only that it was not done before."""
        last = self.last_seen_running - self.started
        if event.status is Status.COMPLETED:
            age = now - self.started
            self.timer.observe_end(age if exact else last, age)
        else:
            self.timer.observe_running(last)

    async def change(self) -> None:
        """Wait for news: an event, trouble, or the grant of a look. It may also return without."""
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def wake(self) -> None:
        """Let everyone who waits have another look at the log."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

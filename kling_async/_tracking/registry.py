"""The jobs that one client knows.

A job that was submitted or resumed stays in the registry until it ends, its deadline passes, or the provider does not
know it. A job that was only attached by its reference stays for as long as somebody holds its handle or waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Literal, Protocol
from weakref import WeakValueDictionary

import anyio

from kling_async._event_loop.clock import Clock
from kling_async._models import Event, JobRef, StatusReport
from kling_async._records import record
from kling_async._scheduling.durations import DurationPrior
from kling_async._scheduling.schedules import Learned, PollTimer, Schedule
from kling_async._tracking.tracked_job import NO_TAGS, EventStore, TrackedJob
from kling_async.providers._base.provider import Provider, WebhookItem
from kling_async.providers._base.request import Request

__all__ = ["AcceptedSubmission", "JobRegistry", "TimerSource"]

log = logging.getLogger("kling_async")


@record
class AcceptedSubmission:
    """A submission that the provider accepted.

    Attributes:
        ref: Its job.
        started: When it was sent, in POSIX seconds.
        report: What the provider reported on accepting it. None if it was accepted earlier.
        first: What follows from the report, the job's first event, if it was stored with the outcome.
        attempt_id: The UUID of the attempt. Webhooks are addressed by it.
        key: Its key.
        tags: What the user stored with it.
        deliveries: What webhooks reported about it before it was accepted.
    """

    ref: JobRef
    started: float
    report: StatusReport | None
    attempt_id: str
    key: str
    deliveries: Sequence[WebhookItem] = ()
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    first: Event | None = None


class TimerSource(Protocol):
    """Decides how the poll timer of a new job is changed, because its provider reports to a webhook."""

    def timer(self, ref: JobRef, timer: PollTimer, prior: DurationPrior) -> PollTimer:
        """Return the timer to use in place of `timer`."""
        ...


class JobRegistry:
    """Finds, adds and releases the jobs of one client.

    Args:
        providers: The client's providers, by name.
        schedule: When to poll. ``"documented"`` stands for the schedule that each provider documents.
        deadline: Seconds after which waiting for a job ends. If None, each endpoint's own.
        clock: The client's clock.
        store: Where events are stored.
        timers: Changes the timers of jobs that webhooks report on. If None, there are no webhooks.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        schedule: Schedule | Literal["documented"],
        deadline: float | None,
        clock: Clock,
        store: EventStore,
        timers: TimerSource | None = None,
    ) -> None:
        self._providers = providers
        self._schedule = schedule
        self._deadline = deadline
        self._clock = clock
        self._store = store
        self._timers = timers
        self._running: dict[str, TrackedJob] = {}  # by reference
        self._attached: WeakValueDictionary[str, TrackedJob] = WeakValueDictionary()
        self._by_attempt: WeakValueDictionary[str, TrackedJob] = WeakValueDictionary()
        self._arrival: anyio.Event | None = None  # while somebody waits for the next job
        self.on_release: Callable[[TrackedJob], None] = lambda _: None
        """Notified when a job that was submitted has ended, or its deadline has passed."""

    def __len__(self) -> int:
        return len(self._running) + len(self._attached)

    def __iter__(self) -> Iterator[TrackedJob]:
        """All unfinished jobs: those that were submitted or resumed, then those that are only attached."""
        yield from list(self._running.values())
        yield from list(self._attached.values())

    @property
    def running(self) -> Mapping[str, TrackedJob]:
        """The unfinished jobs that were submitted or resumed here, by reference, oldest first."""
        return self._running

    @property
    def arrival(self) -> anyio.Event:
        """Set when the next job is added to `running`."""
        self._arrival = self._arrival or anyio.Event()
        return self._arrival

    def find(self, ref: JobRef) -> TrackedJob | None:
        """Return the unfinished job with this reference."""
        return self._running.get(ref) or self._attached.get(ref)

    def find_attempt(self, attempt_id: str) -> TrackedJob | None:
        """Return the job of the attempt that a webhook names, as long as somebody holds the job."""
        return self._by_attempt.get(attempt_id)

    def attach(self, ref: JobRef) -> TrackedJob:
        """Return the job with this reference. Nothing is known of when it was submitted."""
        known = self.find(ref)
        if known is None:
            known = self._attached[str(ref)] = self._track(ref, None, None)
        return known

    async def adopt(self, accepted: AcceptedSubmission, request: Request | None, *, kept: bool = True) -> TrackedJob:
        """Return the job of an accepted submission. Its recorded events are replayed, and new ones are recorded.

        Args:
            accepted: The submission.
            request: What was submitted, if that is known.
            kept: Whether it belongs to the jobs that run here. Otherwise another process may follow it, and this one
                does not hear of its end.
        """
        events: Sequence[Event] = ()
        if accepted.report is None and accepted.ref not in self._running and self._store.enabled:
            events = await self._store.events(accepted.ref)
        known = self.find(accepted.ref)
        if known is None:
            reported = accepted.report is not None and (request is None or request.callback_url is None)
            known = self._track(accepted.ref, request, accepted.started, events, reported=reported)
        elif self._store.enabled and not known.recorded:  # it was only attached, and the ledger has it
            await known.start_recording(self._store, await self._store.events(known.ref))
        known.confirm()
        known.key = accepted.key
        known.tags = accepted.tags or NO_TAGS  # an empty one for each is 64 bytes a job
        if self._timers is not None:
            self._by_attempt[accepted.attempt_id] = known
        if known.ended or known.address in self._running:
            return known
        if not kept:
            self._attached[known.address] = known
        else:
            self._attached.pop(known.address, None)
            self._running[known.address] = known
            if self._arrival is not None:
                self._arrival.set()
                self._arrival = None
        return known

    def release(self, ref: JobRef) -> None:
        """Remove a job that has ended, whose deadline has passed, or that the provider does not know."""
        self._attached.pop(str(ref), None)
        tracked = self._running.pop(str(ref), None)
        if tracked is not None:
            self.on_release(tracked)

    def _track(
        self,
        ref: JobRef,
        request: Request | None,
        started: float | None,
        events: Sequence[Event] = (),
        *,
        reported: bool = False,
    ) -> TrackedJob:
        """Make the job.

        Args:
            ref: Its reference.
            request: What was submitted, if that is known.
            started: When it was submitted. None if it was not submitted here.
            events: Its events, as the ledger has them.
            reported: Its provider was given the URL of our webhooks.
        """
        now = self._clock.now()
        timer, prior = self._timer(ref, request, submitted_here=started is not None)
        if reported and self._timers is not None:
            timer = self._timers.timer(ref, timer, prior)
        # A clock that was set back since then would put the next poll, and the deadline, off by as much.
        since = now if started is None else min(started, now)
        endpoint = self._providers[ref.provider].endpoint(ref.endpoint)
        tracked = TrackedJob(
            ref,
            timer,
            request=request,
            started=since,
            longest_wait=self._deadline or endpoint.deadline,
            clock=self._clock,
            store=self._store if self._store.enabled and started is not None else None,
            owner=self,
            submitted_here=started is not None,
        )
        tracked.replay(events)
        return tracked

    def _timer(self, ref: JobRef, request: Request | None, *, submitted_here: bool) -> tuple[PollTimer, DurationPrior]:
        """When to poll the job, and how long it is expected to take."""
        provider = self._providers[ref.provider]
        endpoint = provider.endpoint(ref.endpoint)
        schedule = self._schedule
        if schedule == "documented" or (isinstance(schedule, Learned) and not submitted_here):
            # A duration model estimates when a job of known age will end. The age of an attached job is not known.
            schedule = endpoint.schedule.faster(provider.speed)
        try:
            variant = f"{ref.endpoint} {endpoint.variant(request)}" if request is not None else ref.endpoint
            prior = endpoint.duration_prior(request).faster(provider.speed)
        except Exception:  # a job that was paid for must not be lost because its duration cannot be estimated
            if request is None:
                raise
            log.warning("job %s: its duration cannot be estimated from its request", ref, exc_info=True)
            return self._timer(ref, None, submitted_here=submitted_here)
        return schedule.timer(variant.rstrip(), prior), prior

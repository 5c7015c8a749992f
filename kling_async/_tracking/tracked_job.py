"""One job, as this process knows it: its event log, and those who wait for it.

Many tasks may wait for a job. One of them at a time polls it (`_polling`). The others read the log. A waiter that is
cancelled loses nothing: the log stays, and the next waiter continues from it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

import anyio

from kling_async._event_loop.clock import Clock
from kling_async._event_loop.turns import Crowd
from kling_async._models import Cost, Event, JobRef, Source, Status, StatusReport
from kling_async._scheduling.schedules import PollTimer
from kling_async._tracking.packed_events import EMPTY, Log, appended, event_at, events_of, length
from kling_async._tracking.packed_request import PackedRequest, pack_request, unpack_request
from kling_async._tracking.poll_state import PollState
from kling_async._tracking.transitions import STATUS_ORDER, advance, repeats
from kling_async.providers._base.request import Request

__all__ = ["NO_TAGS", "EndListener", "EventStore", "JobOwner", "TrackedJob"]

log = logging.getLogger("kling_async")
NO_TAGS: Mapping[str, str] = MappingProxyType({})


class EventStore(Protocol):
    """Where the events of jobs are stored: the client's side of the ledger."""

    @property
    def enabled(self) -> bool:
        """Whether there is a ledger."""

    async def append_events(self, ref: JobRef, event: Event) -> Sequence[Event]:
        """Store an event before it is published, also if a scope around the caller is cancelled meanwhile.

        Returns:
            What another process stored under its number before.
        """
        ...

    async def events(self, ref: JobRef) -> Sequence[Event]:
        """Return the stored events of a job."""
        ...


class EndListener(Protocol):
    """Somebody who is notified of a job's end without waiting for it."""

    def on_end(self, tracked: TrackedJob) -> None:
        """Take note that the job has ended."""


class JobOwner(Protocol):
    """Who keeps the job while it is tracked: the registry."""

    def release(self, ref: JobRef) -> None:
        """Keep the job no longer."""


class TrackedJob(PollState):
    """The event log of one job.

    Args:
        ref: The job.
        timer: When to poll it.
        request: What was submitted. None for a job that was attached by its reference.
        started: POSIX time of the submission.
        longest_wait: Seconds after that for which it is waited for.
        clock: The client's clock.
        store: Where events are stored before they are published. If None, they are kept in memory only.
        owner: Keeps the job until it ends. If None, nobody does.
        submitted_here: Whether we submitted it (see `PollState`).

    Attributes:
        key: The key of its submission. None if it is not known.
        tags: What the user stored with its submission.
        sought: Whether the ledger was asked for it, because it was only attached.
        listener: Notified of the end.
        reported_failure: The failure that a webhook reported. It counts once a poll reports that the job failed.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_changed",
        "_clock",
        "_later",
        "_log",
        "_owner",
        "_recording",
        "_request",
        "_seq_shift",
        "_status",
        "_store",
        "_unrecognized",
        "_worker_called",
        "key",
        "listener",
        "reported_failure",
        "sought",
        "tags",
    )

    def __init__(  # noqa: PLR0913  # the facts of a job, each by its name
        self,
        ref: JobRef,
        timer: PollTimer,
        *,
        request: Request | None = None,
        started: float,
        longest_wait: float,
        clock: Clock,
        store: EventStore | None = None,
        owner: JobOwner | None = None,
        submitted_here: bool = True,
    ) -> None:
        super().__init__(timer, started, longest_wait, submitted_here=submitted_here)
        self._request: PackedRequest | None = request
        self._owner = owner
        self.key: str | None = None
        self.tags: Mapping[str, str] = NO_TAGS
        self.sought = False
        self.listener: EndListener | None = None
        self.reported_failure: StatusReport | None = None
        self._address = str(ref)
        self._log: Log = EMPTY
        self._status = Status.PENDING
        self._unrecognized: str | None = None
        self._clock = clock
        self._store = store
        self._seq_shift = 0  # from our event numbers to the ledger's
        self._changed: Crowd | None = None
        self._worker_called: anyio.Event | None = None
        self._recording: anyio.Event | bool = False  # an event if somebody waits for the end of it
        self._later: Sequence[Event] = ()  # recorded by others while we record

    def __repr__(self) -> str:
        return f"<TrackedJob {self.ref} {self.status}, {self.count} events>"

    @property
    def request(self) -> Request | None:
        """What was submitted. None for a job that was attached by its reference."""
        return None if self._request is None else unpack_request(self._request)

    def pack_request(self) -> None:
        """Keep the request in less memory: `request` is then an equal one, made each time."""
        if isinstance(self._request, Request):
            self._request = pack_request(self._request)

    @property
    def address(self) -> str:
        """The text of the job's reference, one object for all who keep it."""
        return self._address

    @property
    def ref(self) -> JobRef:
        """The job's reference, made from plain text each time (see `packed_events`)."""
        return str.__new__(JobRef, self._address)

    @property
    def count(self) -> int:
        """How many events there are."""
        return length(self._log)

    @property
    def events(self) -> tuple[Event, ...]:
        """The log so far."""
        return tuple(events_of(self._log))

    def event(self, place: int) -> Event:
        """The event at this index of the log."""
        return event_at(self._log, place)

    @property
    def latest(self) -> Event | None:
        """The last event. None before the first."""
        return self.event(-1) if self._log else None

    @property
    def status(self) -> Status:
        """The job's last known status."""
        return self._status

    @property
    def cost(self) -> Cost | None:
        """What it costs, if the provider reports that."""
        latest = self.latest
        return latest.cost if latest else None

    @property
    def ended(self) -> bool:
        """Whether the job has ended."""
        return self._status.terminal

    def has_changed(self, seen: int) -> bool:
        """Whether a wait is over: the job has more than `seen` events, or has ended."""
        return self._status.terminal or self.count > seen

    def replay(self, events: Iterable[Event]) -> None:
        """Take over the events that a ledger has, before anything else."""
        self._log = EMPTY
        for event in events:
            self._append(replace(event, source="ledger"))
        latest = self.latest
        if latest is not None:
            self.resume_from(min(latest.at.timestamp(), self._clock.now()))  # the clock may have been set back since

    @property
    def recorded(self) -> bool:
        """Whether events are made durable before they are published."""
        return self._store is not None

    def _append(self, event: Event) -> None:
        self._log = appended(self._log, event)
        self._status = event.status

    def extend(self, events: Iterable[Event]) -> None:
        """Append what another process has recorded in the ledger. What is known already is passed over."""
        if self._recording:  # their numbers may be ours, too: see `apply`
            self._later = (*self._later, *events)
            return
        for event in events:
            latest = self.latest
            seq = event.seq - self._seq_shift
            if self.ended or seq != (latest.seq + 1 if latest else 0):
                continue
            self._append(replace(event, seq=seq, source="ledger"))
            self.confirm()
            if event.status.terminal:
                self._end()
            self.wake()

    def _take_later(self) -> None:
        """Append what others recorded while we did. To be called when we have done so."""
        later, self._later = self._later, ()
        if later:
            self.extend(later)

    async def start_recording(self, store: EventStore, known: Sequence[Event]) -> None:
        """Record the log from now on, after the events that are recorded already.

        Args:
            store: Where events are stored before they are published.
            known: The events that the ledger has.
        """
        if self._store is not None:
            return
        latest = self.latest
        if latest is None:
            self._store = store
            self.replay(known)
            if self.ended:
                self._end()
            self.wake()
            return
        last = known[-1] if known else None
        newer = last is None or STATUS_ORDER[latest.status] > STATUS_ORDER[last.status]
        # Readers have seen our numbers, and the ledger continues with its own.
        self._seq_shift = (last.seq + 1 if last else 0) - latest.seq - (not newer)
        self._store = store
        if newer:
            self._recording = True
            try:
                await self._record(store, latest)
            finally:
                self._end_recording()
        self._take_later()

    def begin(self, event: Event) -> bool:
        """Publish the job's first event, which is stored already. Return whether it is the first one."""
        if self._log or self._store is None or self._recording:
            return False
        self._publish(event, event.at.timestamp(), exact=False)
        return True

    async def apply(self, report: StatusReport, source: Source, *, exact: bool = False) -> Event | None:
        """Apply a status report. This is the only way into the log.

        Args:
            report: What the provider reported.
            source: How it was reported.
            exact: Whether it was reported at the moment it became true (a webhook, a stream), so that its time can be
                learned from.

        Returns:
            The new event, which is in the log (and durable, with a ledger). None if the report changed nothing.
        """
        if report.unrecognized:
            # The same words come with every poll.
            level = logging.DEBUG if report.unrecognized == self._unrecognized else logging.WARNING
            self._unrecognized = report.unrecognized
            log.log(
                level,
                "job %s: the provider reported %s, which is not understood; the job goes on",
                self.ref,
                report.unrecognized,
            )
        elif self._log and repeats(report, self._status):
            return None
        now = self._clock.now()
        store = self._store
        if store is None:
            return self._publish(self._advance(report, source, now), now, exact=exact)
        while True:
            await self._begin_recording()
            try:
                event = self._advance(report, source, now)
                theirs: Sequence[Event] = () if event is None else await self._record(store, event)
                if not theirs:
                    self._publish(event, now, exact=exact)
            finally:
                self._end_recording()
            before = self.count
            self.extend(theirs)  # another process has recorded an event first: ours comes after it
            self._take_later()
            if not theirs or self.count == before:
                return event if not theirs else None

    async def _begin_recording(self) -> None:
        """Wait until no other task records an event. A lock of its own for each job would take 800 bytes."""
        while self._recording:
            if not isinstance(self._recording, anyio.Event):
                self._recording = anyio.Event()
            await self._recording.wait()
        self._recording = True

    def _end_recording(self) -> None:
        recording, self._recording = self._recording, False
        if isinstance(recording, anyio.Event):
            recording.set()

    async def _record(self, store: EventStore, event: Event) -> Sequence[Event]:
        if self._seq_shift:
            event = replace(event, seq=event.seq + self._seq_shift)
        return await store.append_events(self.ref, event) or ()

    def _advance(self, report: StatusReport, source: Source, now: float) -> Event | None:
        if self.reported_failure is not None and report.status is Status.FAILED and not report.has_reason:
            # Some providers give the reason in the webhook alone. This report confirms that the job failed.
            message = report.message or self.reported_failure.message
            report = replace(report, message=message, failures=self.reported_failure.failures)
        return advance(self.latest, report, source=source, at=now, started=self.started)

    def _publish(self, event: Event | None, now: float, *, exact: bool) -> Event | None:
        if event is None:
            return None
        self._append(event)
        if event.status.terminal:
            if self.submitted_here:
                self.learn(now, completed=event.status is Status.COMPLETED, exact=exact)
            self._end()
        self.wake()
        return event

    def _end(self) -> None:
        """Notify those who do not wait that the job has ended."""
        self.release()
        if self.listener is not None:
            self.listener.on_end(self)

    def release(self) -> None:
        """Track the job no longer: it has ended, its deadline has passed, or the provider does not know it."""
        if self._owner is not None:
            self._owner.release(self.ref)

    async def change(self) -> None:
        """Wait for a change: an event, or an error. It may also return without one."""
        if self._changed is None:
            self._changed = Crowd()
        await self._changed.wait()

    async def change_or_grant(self) -> None:
        """The same for the one task that polls the job. The grant of a poll wakes it, and none of the others."""
        if self._worker_called is None:
            self._worker_called = anyio.Event()
        await self._worker_called.wait()

    def wake(self) -> None:
        """Let all who wait check the log again."""
        self.wake_worker()
        if self._changed is not None:
            changed, self._changed = self._changed, None
            changed.call()

    def wake_worker(self) -> None:
        """Let the task that polls the job check it again."""
        if self._worker_called is not None:
            self._worker_called.set()
            self._worker_called = None

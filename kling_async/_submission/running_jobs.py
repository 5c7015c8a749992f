"""A limit on the jobs that run at once at a provider's account: ``Limits(concurrency=...)``.

Theory of operation
-------------------
A submission takes a *slot* of its account before anything is sent. The slot is free again when the job has ended, or
when it is certain that nothing was bought. A submission whose outcome is unknown keeps its slot until that is resolved:
it may be a job.

With a ledger that several processes share, the claim of the key takes the slot, in the very transaction (see
`_ledger.charges`). Otherwise the slots of this client are counted here.

Submissions that find no free slot wait in a line, in the order in which they came. Only the first of the line asks, so
that a thousand that wait cost no more than one. In a shared ledger that first one has a place in the queue of all
processes, and is woken as whoever waits for a job of another process is.

A job ends for us when somebody polls it. So the first of the line also has those jobs polled that hold a slot and for
which nobody waits: of this client, and in a shared ledger those of processes that have died. Otherwise a program that
submits its jobs one after the other, and then waits for them, would wait for a slot that never becomes free.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias, TypeVar

import anyio

from kling_async._errors import ConfigurationError, JobNotFound, KlingError, RateLimited, Remedy
from kling_async._event_loop.clock import Clock
from kling_async._ledger.protocol import NoSlot, Slot, Submission
from kling_async._models import JobRef
from kling_async._tracking.registry import JobRegistry
from kling_async._tracking.tracked_job import TrackedJob

__all__ = ["AccountSlots", "JobPoller"]

T = TypeVar("T")
log = logging.getLogger("kling_async")

_INTERVAL = 1.0  # s between two searches for jobs of this client for which nobody waits
_LEDGER_INTERVAL = 5.0  # s between two reads of the ledger for jobs that no process polls
_POLLS = 8  # that are sent at once, of jobs for which nobody waits
_TAKEN = 500
_SHOWN = 3  # keys that are named


class JobPoller(Protocol):
    """Polls the jobs of the account's provider."""

    def subscribe(self, tracked: TrackedJob, subscriber: AccountSlots) -> None:
        """Have a job polled by those who `run_workers`. `AccountSlots.on_done` is notified of its end."""

    def unsubscribe(self, tracked: TrackedJob, subscriber: AccountSlots) -> None:
        """Poll it no more for that subscriber."""

    def followed(self, tracked: TrackedJob) -> bool:
        """Whether somebody waits for the job, so that it is polled."""
        ...

    async def run_workers(self, workers: int) -> None:
        """Poll the subscribed jobs, until cancelled."""


Adopt: TypeAlias = Callable[[int, Sequence[JobRef]], Awaitable[Sequence[TrackedJob]]]
"""Takes over jobs: so many at most, and not these."""


class AccountSlots:
    """The slots of one account, as one client sees them.

    Args:
        provider: The provider, by name.
        account: Names the account in a ledger.
        limit: How many jobs may be unfinished at once.
        timeout: Seconds without one free slot after which those who wait give up.
        clock: The client's clock.
        registry: The client's jobs.
        poller: Polls them.
    """

    def __init__(
        self,
        provider: str,
        account: str,
        limit: int,
        timeout: float,
        *,
        clock: Clock,
        registry: JobRegistry,
        poller: JobPoller,
    ) -> None:
        self.provider = provider
        self.limit = limit
        self._account = account
        self._timeout = timeout
        self._clock = clock
        self._registry = registry
        self._poller = poller
        self._line = anyio.Lock()
        self._waiting = 0
        self._progress = 0.0
        self._reported: frozenset[str] = frozenset()  # keys of unknown submissions of which the user was told
        # Without a shared ledger: what holds a slot, by attempt. A job has its reference.
        self._held: dict[str, JobRef | None] = {}
        self._attempts: dict[JobRef, str] = {}
        self._unknown: dict[str, str] = {}  # keys by attempt
        self._change: anyio.Event | None = None
        self._hopeless: set[TrackedJob] = set()  # that could not be polled
        self._closed = False

    @property
    def crowded(self) -> bool:
        """Whether submissions wait here."""
        return self._waiting > 0

    def slot(self, *, queued: bool) -> Slot:
        """What a claim takes in a shared ledger."""
        return Slot(self._account, self.limit, queued)

    # The line.

    async def run(
        self,
        key: str,
        attempt: Callable[[Slot], Awaitable[T]],
        free: Callable[[Slot], Awaitable[None]],
        adopt: Adopt | None = None,
        *,
        may_wait: bool,
    ) -> T:
        """Make an attempt, again and again while it raises `NoSlot`.

        Args:
            key: Of the submission.
            attempt: Takes a slot. Only the first of the line takes a place in the queue of all processes. With more
                places, it could wait behind one of its own that is not asking.
            free: Waits until it may find one.
            adopt: Takes over jobs of the ledger that no process polls. None if there are none.
            may_wait: Whether it waits for a slot. Otherwise it is refused at once if there is none.

        Raises:
            RateLimited: No slot became free in time. Nothing was sent.
        """
        if not self._waiting:
            try:
                return await attempt(self.slot(queued=False))
            except NoSlot as full:
                if not may_wait:
                    raise self._refused(full) from None
        elif not may_wait:
            raise self._refused(NoSlot(self.limit, self._waiting))
        if not self._waiting:
            self._progress = self._clock.now()
        self._waiting += 1
        log.info(
            "submission %r waits for a free slot: %d jobs may run at once at the %s account (Limits.concurrency)",
            key,
            self.limit,
            self.provider,
        )
        begin = self._clock.now()
        try:
            async with self._line:
                done = await self._first_of_line(attempt, free, adopt)
        finally:
            self._waiting -= 1
        log.debug("submission %r has a slot after %.1f s", key, self._clock.now() - begin)
        return done

    async def _first_of_line(
        self,
        attempt: Callable[[Slot], Awaitable[T]],
        free: Callable[[Slot], Awaitable[None]],
        adopt: Adopt | None,
    ) -> T:
        ahead: int | None = None
        while True:
            try:
                done = await attempt(self.slot(queued=True))
            except NoSlot as full:
                self._report_unknown(full.unknown)
                now = self._clock.now()
                if ahead is not None and full.ahead < ahead:  # others before us got theirs
                    self._progress = now
                ahead = full.ahead
                if now - self._progress >= self._timeout:
                    raise self._refused(full, now - self._progress) from None
            else:
                self._progress = self._clock.now()
                return done
            await self._wait(free, adopt, self._progress + self._timeout - self._clock.now())

    async def _wait(self, free: Callable[[Slot], Awaitable[None]], adopt: Adopt | None, seconds: float) -> None:
        """Wait until a slot may be free, and have the jobs polled meanwhile for which nobody waits."""
        failures: list[Exception] = []

        async def run(part: Callable[[], Awaitable[None]]) -> None:
            try:
                await part()
            except Exception as error:  # noqa: BLE001  # raised below, and not as a group
                failures.append(error)
                group.cancel_scope.cancel()

        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as group:
                group.start_soon(run, partial(self._poller.run_workers, _POLLS))
                group.start_soon(run, self._follow)
                if adopt is not None:
                    group.start_soon(run, partial(self._take_over, adopt))
                await run(partial(free, self.slot(queued=True)))
                group.cancel_scope.cancel()
        if failures:
            raise failures[0]

    async def _follow(self) -> None:
        """Have this client's jobs polled for which nobody waits, until cancelled."""
        subscribed: dict[TrackedJob, None] = {}
        self._hopeless.clear()
        try:
            while True:
                here = [each for each in self._registry if each.ref.provider == self.provider]
                # A job whose deadline has passed is not in the registry any more. It may run all the same.
                known = {each.ref for each in here}
                late = [self._registry.attach(ref) for ref in self._attempts if ref not in known]
                for tracked in (*here, *late):
                    if not self._poller.followed(tracked) and tracked not in self._hopeless:
                        subscribed[tracked] = None
                        self._poller.subscribe(tracked, self)
                await anyio.sleep(_INTERVAL)
        finally:
            for tracked in subscribed:
                self._poller.unsubscribe(tracked, self)

    async def _take_over(self, adopt: Adopt) -> None:
        """Have jobs of the ledger polled that no process polls, until cancelled."""
        taken: dict[TrackedJob, None] = {}
        try:
            while True:
                for tracked in await adopt(_TAKEN, [each.ref for each in taken]):
                    taken[tracked] = None
                    self._poller.subscribe(tracked, self)
                await anyio.sleep(_LEDGER_INTERVAL)
        finally:
            for tracked in taken:
                self._poller.unsubscribe(tracked, self)

    def on_done(self, tracked: TrackedJob, reason: object) -> None:
        """A job that was polled for us has ended, or is not polled any more."""
        if tracked.ended or isinstance(reason, JobNotFound):
            self.end(tracked.ref)
        elif isinstance(reason, KlingError):
            self._hopeless.add(tracked)
            log.debug("job %s holds a slot, and cannot be polled: %s", tracked.ref, reason)

    # The messages.

    def _report_unknown(self, keys: Sequence[str]) -> None:
        """Tell the user once which submissions hold a slot until they are resolved."""
        if new := [key for key in keys if key not in self._reported]:
            self._reported |= {*keys}
            log.warning(
                "%d of the %d slots of the %s account are held by submissions whose outcome is unknown (%s), until you "
                "resolve or forget them. Submissions wait for the others",
                len(keys),
                self.limit,
                self.provider,
                _shown(new),
                extra={"event": "slots_unknown"},
            )

    def _refused(self, full: NoSlot, waited: float | None = None) -> RateLimited:
        """The error of a submission that gets no slot."""
        message = (
            f"no slot is free at the {self.provider} account: {full.running} jobs are unfinished, and at most "
            f"{self.limit} may run at once (Limits.concurrency)"
        )
        if full.unknown:
            message += f". The outcome of {len(full.unknown)} of these submissions is unknown ({_shown(full.unknown)})"
        if waited is not None:
            message += f". None became free in {waited:.0f} s (Limits.slot_timeout)"
        remedies = [Remedy("forget", key, detail="if it bought nothing") for key in full.unknown[:_SHOWN]]
        return RateLimited(
            f"{message}; nothing was sent",
            code="concurrency",
            provider=self.provider,
            remedies=(*remedies, Remedy("retry", detail="submit it again when jobs have ended, or raise the limit")),
        )

    # Without a shared ledger: the slots of this client.

    async def take(self, submission: Submission) -> None:
        """Take a slot for an attempt.

        Raises:
            NoSlot: None is free.
            ConfigurationError: The client was closed meanwhile.
        """
        if self._closed:
            raise ConfigurationError("the client was closed before the call was made; nothing was sent")
        if submission.attempt_id in self._held:
            return
        if len(self._held) >= self.limit:
            raise NoSlot(len(self._held), 0, list(self._unknown.values()))
        self._held[submission.attempt_id] = None

    async def freed(self, _: Slot) -> None:
        """Wait until a slot may be free."""
        while len(self._held) >= self.limit and not self._closed:
            self._change = self._change or anyio.Event()
            await self._change.wait()

    def load(self, unfinished: Sequence[Submission]) -> None:
        """Count what an earlier client has left unfinished in a ledger that is not shared."""
        for submission in unfinished:
            if submission.provider == self.provider and submission.attempt_id not in self._held:
                self._held[submission.attempt_id] = None
                self.commit(submission)

    def commit(self, submission: Submission) -> None:
        """Process the outcome of an attempt."""
        attempt_id = submission.attempt_id
        if attempt_id not in self._held:
            return
        self._unknown.pop(attempt_id, None)
        if submission.key_reusable:
            self._free(attempt_id)
        elif submission.ref is not None:
            self._held[attempt_id] = submission.ref
            self._attempts[submission.ref] = attempt_id
        else:
            self._unknown[attempt_id] = submission.key

    def end(self, ref: JobRef) -> None:
        """A job has ended: its slot is free."""
        attempt_id = self._attempts.get(ref)
        if attempt_id is not None:
            self._free(attempt_id)

    def release(self, submission: Submission) -> None:
        """The attempt is over: free its slot if it was never sent."""
        attempt_id = submission.attempt_id
        if self._held.get(attempt_id, submission) is None and attempt_id not in self._unknown:
            self._free(attempt_id)

    def forget(self, submission: Submission) -> None:
        """The user has freed the key: the slot is free, too."""
        self._free(submission.attempt_id)

    def _free(self, attempt_id: str) -> None:
        ref = self._held.pop(attempt_id, None)
        self._unknown.pop(attempt_id, None)
        if ref is not None:
            self._attempts.pop(ref, None)
        self._wake()

    def _wake(self) -> None:
        if self._change is not None:
            self._change.set()
            self._change = None

    def close(self) -> None:
        """Let nobody wait for a slot any more: the client is closed."""
        self._closed = True
        self._wake()


def _shown(keys: Sequence[str]) -> str:
    """Some of the keys."""
    return ", ".join(map(repr, keys[:_SHOWN])) + (", ..." if len(keys) > _SHOWN else "")

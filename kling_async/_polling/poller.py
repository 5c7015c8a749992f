"""Who looks at which job, and when.

Theory of operation
-------------------
There is no background task. Whoever waits for a job calls `Watch.wait`, and one of the tasks that wait for the same
job becomes the job's *leader*; the others sleep on its log. There is one watch a lane. Leaders enter their jobs into
the watch's contest, and one of them is the *keeper*: it alone sleeps until the next job is due (and, where status calls
are rationed, until the next call is allowed), awards the look to the job with the highest claim, and wakes that job's
leader, which makes the call. A keeper that leaves, for whatever reason, wakes another to take its place.

So ten thousand waiting jobs hold one timer; a ration is served in the order of the claims, whoever waits; and where a
status call can ask about many jobs, those due soon travel with the one that is due now.

Of a bulk run no task waits for each job. Its jobs are *pursued*: they compete as all others do, and the few tasks that
*patrol* keep the watch and make the looks that were awarded to them, their errands.

The rest is told elsewhere: what a look is (`status_call`), when a leader listens to a stream instead
(`stream_follower`), and when a rationed call is allowed (`rate_limiter`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import chain, count
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint

from kling_async._clock import Clock
from kling_async._errors import KlingError
from kling_async._http.transport import ProviderTransport
from kling_async._polling.rate_limiter import RateLimiter
from kling_async._polling.status_call import StatusCaller, copy_error
from kling_async._polling.stream_follower import StreamFollower
from kling_async._scheduling.poll_queue import PollQueue
from kling_async._tracking.tracked_job import TrackedJob

__all__ = ["DeadlinePassed", "Poller", "Subscriber"]

_COMPANY = 0.5  # part of the longest wait by which a job's look may come early when it travels for free
_LINGER = 0.02  # s for which a look that is due waits for others, where many jobs travel in one call
_ERRANDS = 8  # awarded looks that may wait for somebody to make them: few, so that no burst of them holds up the loop
_AWARDS = 8  # in a row, before other tasks have their turn


class DeadlinePassed(Exception):
    """The job's deadline has passed, and it still runs."""


class Subscriber(Protocol):
    """One who has jobs looked at without waiting for each."""

    def on_done(self, tracked: TrackedJob, reason: KlingError | DeadlinePassed | None) -> None:
        """Told once of each job: that it has ended (None), or why it is not pursued any more."""


class _Round:
    """One who patrols: keeps the watch in place of those who wait."""

    poll_granted = False

    def __init__(self) -> None:
        self._changed = anyio.Event()

    async def change(self) -> None:
        await self._changed.wait()

    def wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class Poller:
    """The looking at all jobs of one lane.

    Args:
        lane: Where the calls go.
        clock: The client's clock.
        calls_per_minute: The ration of status calls; None: none.
    """

    def __init__(self, transport: ProviderTransport, clock: Clock, calls_per_minute: float | None) -> None:
        self._transport = transport
        self._clock = clock
        self._queue: PollQueue[TrackedJob] = PollQueue()
        self._rate_limiter = RateLimiter(calls_per_minute, clock)
        self._status_caller = StatusCaller(transport, clock)
        self._stream_follower = StreamFollower(transport, clock, self._status_caller, self._rate_limiter)
        self._deadlines: list[tuple[float, int, TrackedJob]] = []  # where looks are rationed: see `_award`
        self._limited: dict[TrackedJob, int] = {}  # the number of each job's entry in it
        self._order = count()
        self._features = transport.provider.features
        self._leaders: dict[TrackedJob, None] = {}
        self._idle: dict[TrackedJob, None] = {}  # leaders who sleep, so that they can keep the watch
        self._companies: dict[TrackedJob, list[TrackedJob]] = {}  # who travels along with a look that was awarded
        self._subscribers: dict[TrackedJob, Subscriber] = {}
        self._beside: dict[
            TrackedJob, list[Subscriber]
        ] = {}  # the second and further pursuers of a job, which few have
        self._rounds: list[_Round] = []
        self._errands: deque[TrackedJob] = deque()  # pursued jobs whose look was awarded
        self._runners: dict[anyio.Event, None] = {}  # those who wait for an errand, the last one last
        self._keeper: TrackedJob | _Round | None = None
        self._on_end: Callable[[TrackedJob], None] = lambda tracked: self._release(tracked, None)  # one for all trails

    async def wait(self, tracked: TrackedJob, seen: int) -> None:
        """Return when the job has more than `seen` events, or has ended.

        Raises:
            DeadlinePassed: The job's deadline has passed, and it still runs.
            KlingError: The job cannot be looked at: unknown to the provider, key refused, or no good answer for long.
        """
        before = tracked.wait_error
        while not tracked.has_news(seen):
            if tracked.being_polled:
                await tracked.change()
                continue
            if tracked.wait_error is not None and tracked.wait_error is not before:
                raise copy_error(tracked.wait_error)  # the leader's: one look has told all who waited
            tracked.being_polled = True
            try:
                await self._lead(tracked, seen)
            except (KlingError, DeadlinePassed) as verdict:
                tracked.wait_error = copy_error(verdict)
                raise
            finally:
                tracked.being_polled = False
                tracked.wake()

    async def poll_now(self, tracked: TrackedJob) -> None:
        """Look at the job now (when the ration allows), and at those that can come along for free.

        Raises:
            KlingError: As of `wait`.
        """
        await self._rate_limiter.acquire()
        await self._ask(tracked)
        tracked.raise_poll_error()

    def subscribe(self, tracked: TrackedJob, pursuer: Subscriber) -> None:
        """Have the job looked at by those who `run_workers`, until it ends; no task waits for it.

        Args:
            tracked: The job.
            pursuer: Told when that is over.
        """
        tracked.on_end = self._on_end
        if tracked in self._subscribers:
            self._beside.setdefault(tracked, []).append(pursuer)
            return
        self._subscribers[tracked] = pursuer
        if tracked.ended:
            self._release(tracked, None)
        elif tracked not in self._leaders:
            self._enter(tracked)

    def unsubscribe(self, tracked: TrackedJob, pursuer: Subscriber) -> None:
        """Pursue the job no longer for that one, who is told no more of it."""
        beside = self._beside.pop(tracked, [])
        if pursuer in beside:
            beside.remove(pursuer)
        elif self._subscribers.get(tracked) is pursuer and beside:
            self._subscribers[tracked] = beside.pop()
        elif self._subscribers.get(tracked) is pursuer:
            del self._subscribers[tracked]
            tracked.on_end = None
            if tracked not in self._leaders:
                self._leave(tracked)
        if beside:
            self._beside[tracked] = beside

    async def run_workers(self, workers: int) -> None:
        """Look at the pursued jobs when they are due, `workers` at a time, until cancelled."""
        round_ = _Round()
        self._rounds.append(round_)
        try:
            async with anyio.create_task_group() as group:
                for _ in range(workers):
                    group.start_soon(self._run_errands)
                while True:
                    if self._keeper is None:
                        await self._keep(round_, lambda: True)
                    await round_.change()
        finally:
            self._rounds.remove(round_)
            self._appoint()  # another round may have waited for this one to keep the watch

    async def _run_errands(self) -> None:
        while True:
            while not self._errands:
                await self._called()
            tracked = self._errands.popleft()
            if len(self._errands) == _ERRANDS - 1 and self._keeper is not None:
                self._keeper.wake()
            if tracked.poll_granted and tracked in self._subscribers:
                tracked.poll_granted = False
                try:
                    with self._status_caller.in_time(tracked):
                        await self._ask(tracked)
                finally:
                    self._go_on(tracked)  # also for a job of another run, when this one ends

    async def _called(self) -> None:
        """Wait to be called for an errand."""
        call = anyio.Event()
        self._runners[call] = None
        try:
            await call.wait()
        except BaseException:
            if call not in self._runners and self._errands:
                self._call()  # it was for this one, who leaves
            self._runners.pop(call, None)
            raise

    def _call(self) -> None:
        """Have one errand run, by the one who rested last; not by all who rest, for one can."""
        if self._runners:
            call, _ = self._runners.popitem()
            call.set()

    def _go_on(self, tracked: TrackedJob) -> None:
        """Decide how the pursuit of a job goes on after a look."""
        if tracked not in self._subscribers or tracked.ended:
            return
        if tracked.poll_error is not None:
            error, tracked.poll_error = tracked.poll_error, None
            self._release(tracked, error)
        elif self._clock.now() >= tracked.deadline:
            self._release(tracked, DeadlinePassed())
        else:
            self._enter(tracked)

    def _release(self, tracked: TrackedJob, reason: KlingError | DeadlinePassed | None) -> None:
        first = self._subscribers.pop(tracked, None)
        pursuers = [*([first] if first else []), *self._beside.pop(tracked, [])]
        tracked.on_end = None
        if tracked not in self._leaders:
            self._leave(tracked)
        for pursuer in pursuers:
            pursuer.on_done(tracked, reason)

    def poll_soon(self, tracked: TrackedJob) -> None:
        """Let the job be looked at now, before all others, by whoever waits for it or will."""
        tracked.poll_now = True
        if tracked in self._queue:
            self._enter(tracked)
        tracked.wake()

    def reschedule(self) -> None:
        """Compute again when the jobs are due: their cadences have changed."""
        for tracked in dict.fromkeys((*self._leaders, *self._subscribers)):
            if tracked in self._queue:
                self._enter(tracked)

    async def _lead(self, tracked: TrackedJob, seen: int) -> None:
        """Do the looking at one job: until there is news, or once where a stream is the better way to wait."""
        if await self._stream_follower.follow(tracked, seen):
            return
        began = self._clock.now()
        tracked.poll_now = tracked.poll_now or began >= tracked.deadline
        self._enter(tracked)
        self._leaders[tracked] = None
        try:
            while not tracked.has_news(seen):
                if tracked.poll_granted:
                    tracked.poll_granted = False
                    with self._status_caller.in_time(tracked):
                        await self._ask(tracked)
                    tracked.raise_poll_error()
                    if not tracked.has_news(seen) and self._clock.now() >= tracked.deadline:
                        raise DeadlinePassed
                    if self._features.stream:
                        return
                    self._enter(tracked)
                elif self._keeper is None:
                    await self._keep(tracked, partial(_waits, tracked, tracked.count))
                elif tracked in self._queue and tracked.last_polled >= max(tracked.deadline, began):
                    raise DeadlinePassed  # it was looked at in another's company
                else:
                    await self._sleep(tracked)
                tracked.raise_poll_error()
        finally:
            del self._leaders[tracked]
            self._leave(tracked)

    async def _sleep(self, tracked: TrackedJob) -> None:
        """Wait for news, the grant of a look, or the call to keep the watch."""
        self._idle[tracked] = None
        try:
            await tracked.change()
        finally:
            del self._idle[tracked]

    def _enter(self, tracked: TrackedJob) -> None:
        """Let the job compete for the next look."""
        if tracked.ended:
            return
        before = self._queue.next_due()
        self._queue.enter(tracked)
        if self._rate_limiter.limited and tracked not in self._limited:
            number = self._limited[tracked] = next(self._order)
            heappush(self._deadlines, (tracked.deadline, number, tracked))
        if self._keeper is not None and self._queue.next_due() < before:
            self._keeper.wake()

    def _leave(self, tracked: TrackedJob) -> None:
        self._queue.leave(tracked)
        self._unlimit(tracked)
        if tracked.poll_granted:  # the look was awarded and not made: the next in the contest shall have it
            tracked.poll_granted = False
            self._rate_limiter.refund()
            self._dismiss(self._companies.pop(tracked, []))
            if tracked in self._errands:
                self._errands.remove(tracked)
            if self._keeper is not None:
                self._keeper.wake()
        if tracked in self._subscribers:
            self._enter(tracked)
        self._appoint()

    def _unlimit(self, tracked: TrackedJob) -> None:
        """Forget the deadline of a job that left; its entry goes once such entries are the greater part."""
        if self._limited.pop(tracked, None) is not None and len(self._deadlines) > 2 * len(self._limited) + 16:
            self._deadlines = [entry for entry in self._deadlines if self._limited.get(entry[2]) == entry[1]]
            heapify(self._deadlines)

    def _appoint(self) -> None:
        """Wake somebody to keep the watch, if nobody does."""
        if self._keeper is None:
            candidates: Iterable[TrackedJob | _Round] = chain(self._rounds, self._idle)
            for candidate in candidates:
                if not candidate.poll_granted:
                    candidate.wake()
                    break

    async def _keep(self, keeper: TrackedJob | _Round, free: Callable[[], bool]) -> None:
        """Keep the watch for as long as `free` says that the keeper has nothing else to do."""
        self._keeper = keeper
        lingered = self._features.batch == 1
        awards = 0
        try:
            while free():
                now = self._clock.now()
                wait = max(self._queue.next_due(), self._rate_limiter.next_allowed) - now
                if wait > 0:
                    lingered = self._features.batch == 1
                    with anyio.move_on_after(wait if wait < math.inf else None):
                        await keeper.change()
                elif not lingered:
                    lingered = True
                    await anyio.sleep(_LINGER)
                elif len(self._errands) >= _ERRANDS:
                    await keeper.change()  # those who run the errands are busy; more awards would not be looks
                elif (awarded := self._award(now)) is not None:
                    self._rate_limiter.consume(now)
                    awarded.poll_granted = True
                    # At once: of many jobs that are due together, each would otherwise be awarded a look of its own.
                    self._companies[awarded] = self._company(awarded, now)
                    self._tell(awarded)
                    awards += 1
                    if awards % _AWARDS == 0:
                        await checkpoint()
        finally:
            self._keeper = None
            self._appoint()

    def _award(self, now: float) -> TrackedJob | None:
        """The job that gets the next look.

        A claim that grows steadily is found without asking every job; a deadline makes it jump, so a job whose deadline
        has come is entered anew. Only where looks are rationed does a job wait behind others.
        """
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number, tracked = heappop(self._deadlines)
            if self._limited.get(tracked) != number:
                continue
            del self._limited[tracked]
            if tracked in self._queue:
                self._queue.enter(tracked)
        return self._queue.pop_most_urgent(now)

    def _tell(self, awarded: TrackedJob) -> None:
        """Let whoever makes the looks at a job know that one was awarded to it."""
        if awarded in self._leaders:
            awarded.wake()
        else:
            self._errands.append(awarded)
            self._call()

    async def _ask(self, tracked: TrackedJob) -> None:
        """Make one status call, for `tracked` and for those that come along, and take in what it says."""
        now = self._clock.now()
        company = self._companies.pop(tracked, None)
        if company is None:
            company = self._company(tracked, now)
        try:
            await self._status_caller.poll((tracked, *company))
        finally:
            self._dismiss(company)

    def _company(self, tracked: TrackedJob, now: float) -> list[TrackedJob]:
        """Take the jobs that can come along with a look at `tracked` out of the contest: those that are due soon."""
        if self._features.batch == 1:
            return []
        soon = now + _COMPANY * (tracked.started + tracked.timer.next_poll(now - tracked.started) - now)
        return self._queue.pop_batch(soon, self._features.batch - 1)

    def _dismiss(self, company: list[TrackedJob]) -> None:
        """Let those that came along compete again."""
        for other in company:
            if other in self._leaders:
                self._enter(other)
                other.wake()
            else:
                self._go_on(other)


def _waits(tracked: TrackedJob, seen: int) -> bool:
    """Whether a job's leader has nothing to do: no look was awarded to it, and nothing has happened."""
    return not tracked.poll_granted and tracked.count == seen and tracked.poll_error is None

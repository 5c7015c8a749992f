"""Who polls which job, and when.

Theory of operation
-------------------
There is no background task. A task that waits for a job calls `Poller.wait`. One of the tasks that wait for the same
job is the job's *worker*. The others sleep until the job's event log changes. A bulk run brings workers of its own
(`run_workers`), which serve all jobs that the run subscribed, so that no task waits for each of them. A waiter is a
worker with one job, and a bulk worker is a worker with many: both do the same.

There is one poller for each provider. Jobs that are waited for stand in its `PollQueue`. One of the workers is the
*driver* (`DriverElection`). It sleeps until the next job is due and the rate limit allows a call, *grants* the poll to
the job with the highest priority, and wakes the worker that serves this job, which sends the status call. When the
driver stops waiting, another worker takes over.

So ten thousand waiting jobs hold one timer, and the rate limit is spent in the order of the priorities. Where one
status call can ask about several jobs, those that are due soon travel with the one that is due now.

What a status call is and what its answer means stands in `status_call`. When a worker follows a stream instead stands
in `stream_follower`. When a call is allowed stands in `rate_limiter`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint

from kling_async._errors import KlingError
from kling_async._event_loop.clock import Clock
from kling_async._event_loop.moving_limit import MovingLimit
from kling_async._event_loop.notifier import Notifier
from kling_async._event_loop.spared_heap import SparedHeap
from kling_async._http.transport import ProviderTransport
from kling_async._models import JobRef, StatusReport
from kling_async._polling.driver import DriverElection
from kling_async._polling.leases import JobLeases
from kling_async._polling.rate_limiter import RateLimiter
from kling_async._polling.status_call import StatusCaller, copy_error
from kling_async._polling.stream_follower import StreamFollower
from kling_async._scheduling.poll_queue import PollQueue
from kling_async._tracking.tracked_job import TrackedJob

__all__ = ["DeadlinePassed", "Poller", "Subscriber"]

_EARLY = 0.5  # part of the longest wait by which a job's poll may come early when it travels with another
_GATHER = 0.02  # s for which a poll that is due waits for others, where one call asks about several jobs
_MANY_WAIT = 500  # tasks. A full collection of garbage visits all that belongs to them in 5 to 20 ms
_UNSERVED = 8  # granted polls that may wait for a worker. More would hold up the loop in bursts
_GRANTS = 4  # in a row, before other tasks have their turn


class DeadlinePassed(Exception):
    """The job's deadline has passed, and it still runs."""


class Subscriber(Protocol):
    """Somebody who has jobs polled without waiting for each."""

    def on_done(self, tracked: TrackedJob, reason: KlingError | DeadlinePassed | None) -> None:
        """Notified once of each job: that it has ended (None), or why it is polled no more."""


class _JobWorker:
    """The worker of one job: a task that waits for it."""

    __slots__ = ("tracked",)

    def __init__(self, tracked: TrackedJob) -> None:
        self.tracked = tracked

    @property
    def busy(self) -> bool:
        """Whether a poll of its job was granted."""
        return self.tracked.poll_granted

    def wake(self) -> None:
        """Let the task that waits check the job again."""
        self.tracked.wake_worker()

    def change(self) -> Awaitable[None]:
        """Wait for an event of the job, the grant of a poll, or the call to drive."""
        return self.tracked.change_or_grant()


class _BulkWorker:
    """A worker of a bulk run: it serves all jobs that are subscribed."""

    __slots__ = ("_changed", "busy")

    def __init__(self) -> None:
        self.busy = False
        """Whether it was called for a poll, and has not begun it."""
        self._changed = Notifier()

    def wake(self) -> None:
        """End the wait."""
        self._changed.notify()

    def change(self) -> Awaitable[None]:
        """Wait for the grant of a poll, or the call to drive."""
        return self._changed.wait()


_Worker = _JobWorker | _BulkWorker


class Poller:
    """Polls the jobs of one provider.

    Args:
        transport: Where the calls go.
        clock: The client's clock.
        calls_per_minute: The limit on status calls. If None, there is no limit.
        leases: Which jobs are ours to poll. If None, all are.
    """

    def __init__(
        self,
        transport: ProviderTransport,
        clock: Clock,
        calls_per_minute: float | None,
        leases: JobLeases | None = None,
    ) -> None:
        self._clock = clock
        self._leases = leases or JobLeases(None)
        self._leases.add_user(transport.provider.name, self)
        self._limits = transport.limits
        self._queue: PollQueue[TrackedJob] = PollQueue()
        self._rate_limiter = RateLimiter(calls_per_minute, clock)
        self._status_caller = StatusCaller(transport, clock, retry=not self._rate_limiter.limited)
        self._stream_follower = StreamFollower(transport, clock, self._status_caller, self._rate_limiter)
        self._account = transport.provider.config.account
        self._features = transport.provider.features
        self._election: DriverElection[_Worker] = DriverElection()
        self._workers: dict[TrackedJob, _JobWorker] = {}  # of the jobs that tasks wait for
        self._batches: dict[TrackedJob, list[TrackedJob]] = {}  # the jobs that travel with a poll that was granted
        self._granted: deque[TrackedJob] = deque()  # subscribed jobs that were granted a poll
        self._resting: dict[_BulkWorker, None] = {}  # bulk workers without work. The last one is called first
        self._deadlines: list[tuple[float, int, TrackedJob]] = []  # where calls are limited: see `_next_grant`
        self._limited: dict[TrackedJob, int] = {}  # the number of each job's entry in it
        self._urgent: list[tuple[float, int, TrackedJob]] = []  # the same, by when each may be polled before others
        self._order = count()
        self._waiting = 0  # tasks
        # Ten thousand of them, such as readers of events, have a million objects, which take half a second to visit.
        self._heap = SparedHeap(_MANY_WAIT, _MANY_WAIT)

    # What users of the poller call.

    async def wait(self, tracked: TrackedJob, seen: int) -> None:
        """Return when the job has more than `seen` events, or has ended.

        Raises:
            DeadlinePassed: The job's deadline has passed, and it still runs.
            KlingError: The job cannot be polled: it is unknown to the provider, the key is refused, or calls have
                failed for long.
        """
        if tracked.has_changed(seen):
            return
        self._leases.want(tracked)
        self._waiting += 1
        self._heap.grow(self._waiting)
        try:
            await self._wait(tracked, seen)
        finally:
            self._waiting -= 1
            self._heap.shrink(self._waiting)
            self._leases.unwant(tracked)

    async def _wait(self, tracked: TrackedJob, seen: int) -> None:
        before = tracked.wait_error
        while not tracked.has_changed(seen):
            if tracked.being_polled:
                await tracked.change()
                continue
            if tracked.wait_error is not None and tracked.wait_error is not before:
                raise copy_error(tracked.wait_error)  # one poll informs all who wait
            tracked.being_polled = True
            try:
                if not tracked.leased:
                    await self._read_ledger(tracked, seen)
                elif not await self._stream_follower.follow(tracked, seen):
                    await self._poll_until_changed(tracked, seen)
            except (KlingError, DeadlinePassed) as error:
                tracked.wait_error = copy_error(error)
                raise
            finally:
                tracked.being_polled = False
                tracked.wake()

    async def _read_ledger(self, tracked: TrackedJob, seen: int) -> None:
        """Wait while another process polls the job, for its events or for the lease.

        Raises:
            DeadlinePassed: The job's deadline has passed, and the other process has learned of no end.
        """
        late = tracked.deadline + self._limits.call  # the other process polls the job once more at its deadline
        with anyio.move_on_after(max(late - self._clock.now(), self._limits.call)) as wait:
            while not tracked.leased and not tracked.has_changed(seen):
                await tracked.change_or_grant()
        if wait.cancelled_caught:
            raise DeadlinePassed

    def lease_changed(self, tracked: TrackedJob) -> None:
        """The job has become ours to poll, or another process's."""
        if not tracked.leased:
            self._dequeue(tracked)
        elif _is_subscribed(tracked):
            self._enqueue(tracked)
        tracked.wake()

    async def poll_now(self, tracked: TrackedJob) -> None:
        """Poll the job as soon as the rate limit allows, and those that can travel with it.

        Raises:
            KlingError: Same as `wait`.
        """
        await self._rate_limiter.acquire()
        await self._await_turn()
        await self._send(tracked)
        tracked.raise_poll_error()

    async def ask(self, ref: JobRef) -> StatusReport | None:
        """Return what the provider reports of a job, as soon as the rate limit allows, and change nothing.

        Raises:
            KlingError: The call failed.
        """
        await self._rate_limiter.acquire()
        await self._await_turn()
        return await self._status_caller.ask(ref)

    def poll_soon(self, tracked: TrackedJob) -> None:
        """Have the job polled before all others, as far as the share of urgent polls allows it.

        There is at most one such poll in each interval of the job's schedule. It is sent by those who wait for the job,
        now or later.
        """
        if tracked.poll_now:
            return
        tracked.poll_now = True
        if tracked in self._queue:
            self._enqueue(tracked)
        tracked.wake_worker()

    async def request_poll(self, tracked: TrackedJob) -> None:
        """Have the job polled soon, by this process or by the one that has its lease.

        Raises:
            LedgerFailed: The other process cannot be asked.
        """
        self.poll_soon(tracked)
        await self._leases.request_poll(tracked)

    def rank_again(self, tracked: TrackedJob) -> None:
        """Compute the job's priority again, which has jumped: the job was only attached, and is known to exist now."""
        if tracked in self._queue:
            self._enqueue(tracked)

    def subscribe(self, tracked: TrackedJob, subscriber: Subscriber) -> None:
        """Have the job polled by those who `run_workers`, until it ends. No task waits for it.

        Args:
            tracked: The job.
            subscriber: Notified when that is over.
        """
        first = not _is_subscribed(tracked)
        _set_subscribers(tracked, dict.fromkeys((*_subscribers(tracked), subscriber)))
        tracked.listener = self
        if first:
            self._leases.want(tracked)
        if tracked.ended:
            self._release(tracked, None)
        elif first and tracked not in self._workers:
            self._enqueue(tracked)

    def unsubscribe(self, tracked: TrackedJob, subscriber: Subscriber) -> None:
        """Poll the job no more for that subscriber, who is not notified."""
        if self._drop(tracked, subscriber) and not _is_subscribed(tracked):
            self._forget(tracked)

    def followed(self, tracked: TrackedJob) -> bool:
        """Whether somebody waits for the job, so that it is polled, here or in the process that has its lease."""
        return tracked.being_polled or _is_subscribed(tracked)

    def _drop(self, tracked: TrackedJob, subscriber: Subscriber) -> bool:
        """End one subscription. Whether there was one."""
        subscribers = _subscribers(tracked)
        if subscriber not in subscribers:
            return False
        _set_subscribers(tracked, [each for each in subscribers if each is not subscriber])
        if not _is_subscribed(tracked):
            self._leases.unwant(tracked)
        return True

    async def run_workers(self, workers: int) -> None:
        """Poll the subscribed jobs when they are due, with so many workers at a time, until cancelled."""
        async with anyio.create_task_group() as group:
            for _ in range(workers):
                group.start_soon(self._serve_subscribed)

    def reschedule(self) -> None:
        """Compute again when the jobs are due: their timers have changed."""
        for tracked in list(self._queue):
            self._enqueue(tracked)

    # What a worker does: poll when that was granted, else drive, else rest.

    async def _poll_until_changed(self, tracked: TrackedJob, seen: int) -> None:
        """Poll one job until it has an event. Poll it once where a stream is the better way to wait."""
        began = self._clock.now()
        tracked.poll_now = tracked.poll_now or began >= tracked.deadline
        self._enqueue(tracked)
        worker = self._workers[tracked] = _JobWorker(tracked)
        try:
            while tracked.leased and not tracked.has_changed(seen):
                if tracked.poll_granted:
                    with self._status_caller.in_time(tracked):
                        await self._send_granted(tracked, self._clock.now())
                    tracked.raise_poll_error()
                    if not tracked.has_changed(seen) and self._clock.now() >= tracked.deadline:
                        raise DeadlinePassed
                    if self._features.stream:
                        return
                    self._enqueue(tracked)
                elif (
                    self._election.driver is not None
                    and tracked in self._queue
                    and tracked.last_polled >= max(tracked.deadline, began)
                ):
                    raise DeadlinePassed  # it was polled in another's batch
                else:
                    await self._drive_or_rest(worker, partial(_has_nothing_to_do, tracked, tracked.count))
                tracked.raise_poll_error()
        finally:
            del self._workers[tracked]
            self._dequeue(tracked)

    async def _serve_subscribed(self) -> None:
        """Poll the subscribed jobs, one granted poll after the other.

        One scope bounds many polls, each to its own time. A scope for each is 6 % of the CPU of a job
        (``python -m benchmarks.jobs``).
        """
        worker = _BulkWorker()
        while True:
            with anyio.CancelScope() as scope:
                limit = MovingLimit(scope)
                try:
                    while not scope.cancel_called:
                        await self._serve_next(worker, limit)
                finally:
                    limit.close()

    async def _serve_next(self, worker: _BulkWorker, limit: MovingLimit) -> None:
        """Wait for the grant of a poll, and send it within its time."""
        while not self._granted:
            await self._drive_or_rest(worker, self._others_may_serve)
        worker.busy = False
        tracked = self._granted.popleft()
        if len(self._granted) == _UNSERVED - 1:
            self._election.wake_driver()
        if tracked.poll_granted and tracked.subscribers is not None:
            now = self._clock.now()
            limit.begin(self._status_caller.latest(tracked, now))
            try:
                await self._send_granted(tracked, now)
            finally:
                limit.end()
                self._continue(tracked)  # also for a job of another run, when this one ends

    def _others_may_serve(self) -> bool:
        """Whether a bulk worker may drive: no poll was granted, or another one rests, who will send it."""
        return not self._granted or bool(self._resting)

    def _drive_or_rest(self, worker: _Worker, idle: Callable[[], bool]) -> Awaitable[None]:
        """Drive for as long as the worker has nothing else to do (`idle`). Rest if another one drives."""
        return self._drive(worker, idle) if self._election.driver is None else self._rest(worker)

    async def _rest(self, worker: _Worker) -> None:
        """Wait until there is something to do, ready to be called to drive or to poll."""
        if isinstance(worker, _BulkWorker):
            self._resting[worker] = None
        self._election.begin_rest(worker)
        try:
            try:
                await worker.change()
            finally:
                self._election.end_rest(worker)
        except BaseException:
            if isinstance(worker, _BulkWorker) and worker not in self._resting and self._granted:
                self._call_bulk_worker()  # it was called for a poll, and leaves
            self._election.call()
            raise
        finally:
            if isinstance(worker, _BulkWorker):
                self._resting.pop(worker, None)
                worker.busy = False

    async def _drive(self, worker: _Worker, idle: Callable[[], bool]) -> None:
        """Grant polls when they are due and allowed."""
        with self._election.driving(worker):
            await self._grant_polls(worker, idle)

    async def _grant_polls(self, worker: _Worker, idle: Callable[[], bool]) -> None:
        gathered = self._features.batch == 1
        grants = 0
        while idle():
            now = self._clock.now()
            wait = self._queue.next_due() - now
            if self._rate_limiter.limited:
                wait = max(wait, self._rate_limiter.next_allowed - now)
            if wait > 0:
                gathered = self._features.batch == 1
                with anyio.move_on_after(wait if wait < math.inf else None):
                    await worker.change()
            elif not gathered:
                gathered = True
                await anyio.sleep(_GATHER)
            elif len(self._granted) >= _UNSERVED:
                await worker.change()  # all bulk workers are busy. More grants would not be polls
            elif (tracked := self._next_grant(now)) is not None:
                self._grant(tracked, now)
                grants += 1
                if grants % _GRANTS == 0:
                    await checkpoint()

    def _next_grant(self, now: float) -> TrackedJob | None:
        """The job that is polled next.

        A priority that grows steadily is found without asking every job. A deadline makes it jump, so a job whose
        deadline has come is entered anew. Only where calls are limited does a job wait behind others.
        """
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number, tracked = heappop(self._deadlines)
            if self._limited.get(tracked) != number:
                continue
            del self._limited[tracked]
            if tracked in self._queue:
                if not tracked.confirmed:
                    tracked.poll_now = True  # its priority does not jump, but its wait must come to an end
                    self._enqueue_urgent(tracked)
                self._queue.enter(tracked)
        urgent = self._take_urgent(now) if self._urgent else None
        return urgent or self._queue.pop_most_urgent(now)

    def _take_urgent(self, now: float) -> TrackedJob | None:
        """The job that is polled next because it is urgent. It leaves the queue."""
        while self._urgent and self._urgent[0][0] <= now:
            tracked = self._urgent[0][2]
            urgent = self._is_urgent(tracked) and tracked.next_urgent <= now
            if urgent and not self._rate_limiter.take_urgent(now):
                return None
            heappop(self._urgent)
            if urgent:
                self._queue.leave(tracked)
                return tracked
        return None

    def _is_urgent(self, tracked: TrackedJob) -> bool:
        return tracked.poll_now and tracked in self._queue

    def _enqueue_urgent(self, tracked: TrackedJob) -> None:
        """Let the job come before others. The entries of jobs that left go once they are the greater part."""
        self._clean_urgent()
        heappush(self._urgent, (tracked.next_urgent, next(self._order), tracked))

    def _clean_urgent(self) -> None:
        if len(self._urgent) > 2 * len(self._queue) + 16 * bool(self._queue):
            last = {id(entry[2]): entry for entry in self._urgent if self._is_urgent(entry[2])}
            self._urgent = list(last.values())
            heapify(self._urgent)

    def _grant(self, tracked: TrackedJob, now: float) -> None:
        """Let the worker that serves the job poll it."""
        if self._rate_limiter.limited:
            self._rate_limiter.consume(now)
        tracked.poll_granted = True
        if self._features.batch > 1:
            # The batch is taken at once: of many jobs that are due together, each would otherwise be granted a poll.
            self._batches[tracked] = self._take_batch(tracked, now)
        worker = self._workers.get(tracked)
        if worker is not None:
            worker.wake()
        else:
            self._granted.append(tracked)
            self._call_bulk_worker()

    def _call_bulk_worker(self) -> None:
        """Wake the bulk worker that rested last. One granted poll is work for one."""
        if self._resting:
            worker, _ = self._resting.popitem()
            worker.busy = True
            worker.wake()

    # Sending, and what follows.

    def _send_granted(self, tracked: TrackedJob, now: float) -> Awaitable[None]:
        """Send the poll that was granted."""
        tracked.poll_granted = False
        if self._rate_limiter.limited or self._features.batch > 1:
            return self._send_in_turn(tracked)
        return self._status_caller.poll((tracked,), now)

    async def _send_in_turn(self, tracked: TrackedJob) -> None:
        await self._await_turn()
        await self._send(tracked)

    async def _await_turn(self) -> None:
        """Wait until the limit on status calls, which all processes with our ledger share, allows one."""
        if not self._rate_limiter.limited:
            return
        wait = await self._leases.next_call(self._account, self._rate_limiter.interval)
        if wait > 0:
            self._rate_limiter.hold(self._clock.now() + wait)
            await anyio.sleep(wait)

    async def _send(self, tracked: TrackedJob) -> None:
        """Send one status call about the job and its batch, and take in the answer."""
        now = self._clock.now()
        if self._features.batch == 1:
            await self._status_caller.poll((tracked,), now)
            return
        batch = self._batches.pop(tracked, None)
        if batch is None:
            batch = self._take_batch(tracked, now)
        try:
            await self._status_caller.poll((tracked, *batch), now)
        finally:
            self._release_batch(batch)

    def _take_batch(self, tracked: TrackedJob, now: float) -> list[TrackedJob]:
        """Take out of the queue the jobs that can travel with a poll of this one: those that are due soon."""
        soon = now + _EARLY * (tracked.started + tracked.timer.next_poll(now - tracked.started) - now)
        return self._queue.pop_batch(soon, self._features.batch - 1)

    def _release_batch(self, batch: list[TrackedJob]) -> None:
        """Let the jobs of a batch compete again."""
        for other in batch:
            worker = self._workers.get(other)
            if worker is not None:
                self._enqueue(other)
                worker.wake()
            else:
                self._continue(other)

    def _continue(self, tracked: TrackedJob) -> None:
        """Decide what happens to a subscribed job after a poll."""
        if tracked.ended or tracked.subscribers is None:
            return
        if tracked.poll_error is not None:
            error, tracked.poll_error = tracked.poll_error, None
            self._release(tracked, error)
        elif self._clock.now() >= tracked.deadline:
            self._release(tracked, DeadlinePassed())
        else:
            self._enqueue(tracked)

    def on_end(self, tracked: TrackedJob) -> None:
        """Notify the subscribers of a job that it has ended. The job calls it."""
        self._release(tracked, None)

    def _release(self, tracked: TrackedJob, reason: KlingError | DeadlinePassed | None) -> None:
        """Notify the subscribers of a job that it is polled no more."""
        subscribers = _subscribers(tracked)
        for subscriber in subscribers:
            self._drop(tracked, subscriber)
        self._forget(tracked)
        for subscriber in subscribers:
            subscriber.on_done(tracked, reason)

    def _forget(self, tracked: TrackedJob) -> None:
        tracked.listener = None
        if tracked not in self._workers:
            self._dequeue(tracked)

    # The queue.

    def _enqueue(self, tracked: TrackedJob) -> None:
        """Let the job compete for the next poll."""
        if tracked.ended or not tracked.leased:
            return
        first = self._queue.enter(tracked)
        if self._rate_limiter.limited:
            if tracked not in self._limited:
                number = self._limited[tracked] = next(self._order)
                heappush(self._deadlines, (tracked.deadline, number, tracked))
            if tracked.poll_now and tracked.confirmed:
                self._enqueue_urgent(tracked)
        if first:
            self._election.wake_driver()

    def _dequeue(self, tracked: TrackedJob) -> None:
        """Take out a job that nobody waits for as before. A poll that was granted and not sent goes to the next one."""
        self._queue.leave(tracked)
        self._forget_deadline(tracked)
        self._clean_urgent()
        if tracked.poll_granted:
            tracked.poll_granted = False
            self._rate_limiter.refund()
            self._release_batch(self._batches.pop(tracked, []))
            if tracked in self._granted:
                self._granted.remove(tracked)
            self._election.wake_driver()
        if _is_subscribed(tracked):
            self._enqueue(tracked)
        self._election.call()

    def _forget_deadline(self, tracked: TrackedJob) -> None:
        """Forget the deadline of a job that left. Its entry goes once such entries are the greater part."""
        if self._limited.pop(tracked, None) is not None and len(self._deadlines) > 2 * len(self._limited) + 16:
            self._deadlines = [entry for entry in self._deadlines if self._limited.get(entry[2]) == entry[1]]
            heapify(self._deadlines)


def _is_subscribed(tracked: TrackedJob) -> bool:
    return tracked.subscribers is not None


def _subscribers(tracked: TrackedJob) -> tuple[Subscriber, ...]:
    """Who subscribed to a job."""
    found: Subscriber | tuple[Subscriber, ...] | None = tracked.subscribers
    if found is None:
        return ()
    return found if isinstance(found, tuple) else (found,)


def _set_subscribers(tracked: TrackedJob, subscribers: Collection[Subscriber]) -> None:
    [*several] = subscribers
    tracked.subscribers = tuple(several) if len(several) > 1 else several[0] if several else None


def _has_nothing_to_do(tracked: TrackedJob, seen: int) -> bool:
    """Whether the worker of a job may drive: no poll was granted to the job, and nothing has happened."""
    idle = not tracked.poll_granted and tracked.count == seen and tracked.poll_error is None
    return idle and tracked.leased

"""The driver: the library's own poller (`Poller`, `TrackedJob`, `PollQueue`) in virtual time. Only HTTP is left out."""

from __future__ import annotations

import asyncio
import selectors
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, cast

import anyio

from kling_async._event_loop.clock import Clock
from kling_async._http.limits import Limits
from kling_async._http.transport import ProviderTransport
from kling_async._models import JobRef, Status, StatusReport
from kling_async._polling.poller import Poller
from kling_async._scheduling.schedules import DurationPrior, Schedule
from kling_async._tracking.tracked_job import TrackedJob
from kling_async.providers._base.endpoint import Features

KEY = "provider/endpoint"


@dataclass(frozen=True, slots=True)
class Detection:
    """What one job cost: how many polls, and how many seconds after its end the last of them came."""

    polls: int
    lag: float


def run(
    schedule: Schedule, prior: DurationPrior, durations: Sequence[float], *, in_flight: int = 1, per_minute: float = inf
) -> list[Detection]:
    """Run one job per duration, `in_flight` at a time, a new one for each that ended.

    Args:
        schedule: Under test. It keeps what it learns.
        prior: The prior of the jobs' durations.
        durations: In seconds, in the order of submission.
        in_flight: Jobs at a time.
        per_minute: Polls allowed a minute, over all jobs.

    Returns:
        One `Detection` per job, in the order of submission.
    """
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(_run(schedule, prior, durations, in_flight, per_minute))


async def _run(
    schedule: Schedule, prior: DurationPrior, durations: Sequence[float], in_flight: int, per_minute: float
) -> list[Detection]:
    clock = _VirtualClock()
    transport = _Lane()
    poller = Poller(cast("ProviderTransport", transport), clock, None if per_minute == inf else per_minute)
    detections: dict[int, Detection] = {}

    async def work(numbers: Iterator[int]) -> None:
        for number in numbers:
            started = clock.now()
            ref = JobRef("simulated", "clip", str(number))
            transport.ends[ref] = started + durations[number]
            tracked = TrackedJob(ref, schedule.timer(KEY, prior), started=started, longest_wait=inf, clock=clock)
            while not tracked.ended:
                await poller.wait(tracked, tracked.count)
            detections[number] = Detection(transport.polls.pop(ref), clock.now() - transport.ends.pop(ref))

    numbers = iter(range(len(durations)))
    async with anyio.create_task_group() as workers:
        for _ in range(min(in_flight, len(durations))):
            workers.start_soon(work, numbers)
    return [detections[number] for number in range(len(durations))]


class _Lane:
    """Answers status calls at once from a table of ends, in place of HTTP.

    It has the part of `ProviderTransport` that the poller uses.
    """

    features = Features()
    limits = Limits()

    def __init__(self) -> None:
        self.ends: dict[JobRef, float] = {}
        self.polls: Counter[JobRef] = Counter()

    @property
    def provider(self) -> _Lane:
        return self

    def poll(self, refs: Iterable[JobRef]) -> Iterable[JobRef]:
        return refs

    async def perform(self, refs: Iterable[JobRef]) -> dict[JobRef, StatusReport]:
        now = anyio.current_time()
        self.polls.update(refs)
        return {ref: StatusReport(Status.COMPLETED if now >= self.ends[ref] else Status.PROCESSING) for ref in refs}


class _VirtualClock(Clock):
    """The loop's time as it is, so that every run computes the same."""

    def now(self) -> float:
        return anyio.current_time()


class _VirtualSelector(selectors.DefaultSelector):
    """A selector that counts the time that it should sleep, and does not sleep."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready:
            assert timeout is not None, "nothing is planned: a simulated job would never be polled again"
            self.now += max(timeout, 0.0)
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, *arguments: Any) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual, *arguments)

    def time(self) -> float:
        return self._virtual.now

"""Waiting for a job over its provider's stream.

Theory of operation
-------------------
A stream is trusted once it has reported the job's status. From then on a poll checks it only when it is silent for
long. Until then the job is polled beside it, at growing intervals. So what happened before the stream was open is not
missed, and a stream that stays open and reports nothing does no harm.

A stream that closes before the job's end is opened again after a poll. When that has happened several times without an
event between, the job is only polled. At most half of the provider's connections serve streams. The others are for
polls, submissions and cancellations.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import anyio

from kling_async._errors import KlingError
from kling_async._event_loop.clock import Clock
from kling_async._http.transport import ProviderTransport
from kling_async._polling.rate_limiter import RateLimiter
from kling_async._polling.status_call import StatusCaller
from kling_async._tracking.tracked_job import TrackedJob
from kling_async.providers._base.provider import Stream

__all__ = ["StreamFollower"]

log = logging.getLogger("kling_async")

_SILENCE = 30.0  # s without an event after which a poll checks a stream, which may be broken
_START = 2.0  # s until the first poll beside a stream that has reported nothing yet. Each next wait is twice as long
_FAILURES = 5  # in a row, without an event between them, before a job is polled instead


@dataclass(slots=True, eq=False, repr=False)
class _OpenStream:
    """An open stream: whether it has reported the job's status yet, and whether it has closed."""

    stream: Stream
    reported: bool = False
    closed: bool = False


class StreamFollower:
    """Follows the streams of one provider.

    Args:
        transport: Where they are opened.
        clock: The client's clock.
        status_caller: Makes the polls beside a stream.
        rate_limiter: Limits these polls.
    """

    def __init__(
        self, transport: ProviderTransport, clock: Clock, status_caller: StatusCaller, rate_limiter: RateLimiter
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._status_caller = status_caller
        self._rate_limiter = rate_limiter
        self._open = 0

    async def follow(self, tracked: TrackedJob, seen: int) -> bool:
        """Wait until the job has more than `seen` events, or has ended.

        Returns:
            Whether that is so. If False, there is no stream, it closed, or the deadline has passed: a poll is due.

        Raises:
            KlingError: The job cannot be polled.
        """
        full = self._open >= self._transport.limits.connections // 2
        if not self._transport.provider.features.stream or full or tracked.stream_failures >= _FAILURES:
            return False
        stream = self._transport.provider.stream(tracked.ref)
        if stream is None or self._clock.now() >= tracked.deadline:
            return False
        opened = _OpenStream(stream)
        failure: Exception | None = None
        self._open += 1
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._receive, tracked, opened)
                try:
                    await self._check(tracked, seen, opened)
                except Exception as error:  # noqa: BLE001  # carried out of the task group as it is, not in a group
                    failure = error
                group.cancel_scope.cancel()
        finally:
            self._open -= 1
        if failure is not None:
            raise failure
        tracked.raise_poll_error()
        if tracked.has_changed(seen):
            return True
        # The first close after an event is followed by a poll at once, further ones by a poll on schedule.
        tracked.poll_now = tracked.poll_now or tracked.stream_failures == 1
        return False

    async def _check(self, tracked: TrackedJob, seen: int, opened: _OpenStream) -> None:
        """Wait while a stream is open, and poll the job whenever the stream is silent for too long."""
        quiet = _START
        while not tracked.has_changed(seen) and tracked.poll_error is None and not opened.closed:
            left = tracked.deadline - self._clock.now()
            if left <= 0:
                return
            if opened.reported:
                quiet = _SILENCE
            urgent = max(tracked.next_urgent - self._clock.now(), 0.0) if tracked.poll_now else math.inf
            with anyio.move_on_after(min(urgent, quiet, left)) as wait:
                await tracked.change_or_grant()
            if wait.cancelled_caught and min(urgent, quiet) < left:
                quiet = min(2 * quiet, _SILENCE)
                await self._rate_limiter.acquire()
                with self._status_caller.in_time(tracked):
                    await self._status_caller.poll([tracked], self._clock.now())

    async def _receive(self, tracked: TrackedJob, opened: _OpenStream) -> None:
        """Apply what a stream reports, until it closes."""

        async def line(text: str) -> None:
            report = opened.stream.read(text)
            if opened.stream.ended:
                tracked.poll_now = True
                tracked.wake()
            if report is None:
                return
            # What the first line reports has been true for an unknown time.
            first, opened.reported = not opened.reported, True
            if await tracked.apply(report, "stream", exact=not first) is not None:
                tracked.stream_failures = 0
            elif first:
                tracked.wake()
            tracked.failing_since = None
            tracked.confirm()
            if not tracked.ended:
                tracked.last_seen_running = self._clock.now()

        try:
            await self._transport.stream(opened.stream.call, line)
        except KlingError as error:
            log.info("the stream of job %s broke off: %s", tracked.ref, error)
        tracked.stream_failures += not tracked.ended
        opened.closed = True
        tracked.wake()

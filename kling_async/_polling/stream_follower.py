"""Waiting for a job over its provider's stream.

Theory of operation
-------------------
A stream is believed once it has told where the job stands, and then checked by a look only when it is quiet for long;
until then looks go on beside it, ever further apart. So what happened before it was open is not missed, and a stream
that stays open and tells nothing does no harm; neither does a job that is silent for long. A stream that closes before
the job's end is opened again after a look; when that has happened several times without an event between, looks alone
go on. Half of the lane's connections serve streams, at most: the others are for looks, submissions and cancellations.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import anyio

from kling_async._clock import Clock
from kling_async._errors import KlingError
from kling_async._http.transport import ProviderTransport
from kling_async._polling.rate_limiter import RateLimiter
from kling_async._polling.status_call import StatusCaller
from kling_async._tracking.tracked_job import TrackedJob
from kling_async.providers._base.provider import Stream

__all__ = ["StreamFollower"]

log = logging.getLogger("kling_async")

_SILENCE = 30.0  # s without news after which a look checks a stream: gone deaf, it is like that of a quiet job
_START = 2.0  # s until the first look beside a stream that has told nothing yet; the next ones double
_FAILURES = 5  # in a row, without an event between them, before a job is polled instead


@dataclass(slots=True)
class _OpenStream:
    """An open stream: whether it has told anything about the job yet, and whether it has closed."""

    stream: Stream
    spoken: bool = False
    closed: bool = False


class StreamFollower:
    """Listens to the streams of one lane.

    Args:
        lane: Where they are opened.
        clock: The client's clock.
        looker: Makes the looks beside a stream.
        ration: Of these looks.
    """

    def __init__(
        self, transport: ProviderTransport, clock: Clock, looker: StatusCaller, rate_limiter: RateLimiter
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._status_caller = looker
        self._rate_limiter = rate_limiter
        self._open = 0

    async def follow(self, tracked: TrackedJob, seen: int) -> bool:
        """Wait until the job has more than `seen` events, or has ended.

        Returns:
            Whether that is so. False: there is no stream, it closed, or the deadline has come: a look is due.

        Raises:
            KlingError: The job cannot be looked at.
        """
        full = self._open >= self._transport.limits.connections // 2
        if not self._transport.provider.features.stream or full or tracked.stream_failures >= _FAILURES:
            return False
        stream = self._transport.provider.stream(tracked.ref)
        if stream is None or self._clock.now() >= tracked.deadline:
            return False
        hearing = _OpenStream(stream)
        failure: Exception | None = None
        self._open += 1
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._hear, tracked, hearing)
                try:
                    await self._mind(tracked, seen, hearing)
                except Exception as error:  # noqa: BLE001  # carried out of the task group as it is, not in a group
                    failure = error
                group.cancel_scope.cancel()
        finally:
            self._open -= 1
        if failure is not None:
            raise failure
        tracked.raise_poll_error()
        if tracked.has_news(seen):
            return True
        # The first close after an event is followed by a look at once, further ones when the cadence wants it.
        tracked.poll_now = tracked.poll_now or tracked.stream_failures == 1
        return False

    async def _mind(self, tracked: TrackedJob, seen: int, hearing: _OpenStream) -> None:
        """Wait while a stream is listened to, with a look whenever it is too quiet."""
        patience = _START
        while not tracked.has_news(seen) and tracked.poll_error is None and not hearing.closed:
            left = tracked.deadline - self._clock.now()
            if left <= 0:
                return
            if hearing.spoken:
                patience = _SILENCE
            with anyio.move_on_after(0 if tracked.poll_now else min(patience, left)) as wait:
                await tracked.change()
            if wait.cancelled_caught and (tracked.poll_now or patience < left):
                patience = min(2 * patience, _SILENCE)
                await self._rate_limiter.acquire()
                with self._status_caller.in_time(tracked):
                    await self._status_caller.poll([tracked])

    async def _hear(self, tracked: TrackedJob, hearing: _OpenStream) -> None:
        """Take in what a stream says, until it closes."""

        async def line(text: str) -> None:
            report = hearing.stream.read(text)
            if report is None:
                return
            # What the first line says has been true for an unknown time.
            first, hearing.spoken = not hearing.spoken, True
            if await tracked.apply(report, "stream", exact=not first) is not None:
                tracked.stream_failures = 0
            elif first:
                tracked.wake()
            tracked.failing_since = None
            if not tracked.ended:
                tracked.last_seen_running = self._clock.now()

        try:
            await self._transport.stream(hearing.stream.call, line)
        except KlingError as error:
            log.info("the stream of job %s broke off: %s", tracked.ref, error)
        tracked.stream_failures += not tracked.ended
        hearing.closed = True
        tracked.wake()

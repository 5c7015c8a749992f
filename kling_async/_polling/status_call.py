"""One poll: a status call about one or several jobs, and what its answer means for each of them.

A poll that fails is not a job that failed: the job is polled again later, until polls have failed for
`Limits.poll_failure_timeout` seconds without a success between. "Not found" is no failure for a while after the
submission, because providers answer it before their own database has caught up.

Where the provider limits status calls, the transport does not send one again after a failure: the repetition would not
be counted. The job is polled again in its turn.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import TypeVar

import anyio

from kling_async._errors import ConfigurationError, JobNotFound, KlingError, Remedy, Unauthorized
from kling_async._event_loop.clock import Clock
from kling_async._http.transport import ProviderTransport
from kling_async._models import JobRef, StatusReport
from kling_async._tracking.tracked_job import TrackedJob

__all__ = ["StatusCaller", "copy_error"]

log = logging.getLogger("kling_async")
ErrorT = TypeVar("ErrorT", bound=Exception)

_FORGIVEN = 60.0  # s after submission for which "not found" means "not yet"


class StatusCaller:
    """Makes the status calls to one provider.

    Args:
        transport: Where they go.
        clock: The client's clock.
        retry: Whether the transport may send a failed call again. False where calls are limited.
    """

    def __init__(self, transport: ProviderTransport, clock: Clock, *, retry: bool) -> None:
        self._transport = transport
        self._clock = clock
        self._retry = retry
        self._failure_logged = False  # a poll has failed since the last success: one warning, not one for each job

    def in_time(self, tracked: TrackedJob) -> anyio.CancelScope:
        """Bound a poll, so that the job's deadline is noticed while the provider makes calls wait."""
        return anyio.CancelScope(deadline=self.latest(tracked, self._clock.now()))

    def latest(self, tracked: TrackedJob, now: float) -> float:
        """When a poll that begins now is over at the latest, on the clock of the event loop."""
        return self._clock.on_loop(max(now, tracked.deadline)) + self._transport.limits.call

    async def ask(self, ref: JobRef) -> StatusReport | None:
        """Make one status call about a job, and return what is reported.

        Raises:
            KlingError: The call failed.
        """
        self._transport.count_poll()
        answer = (await self._transport.run(self._transport.provider.poll([ref]), retry=self._retry)).get(ref)
        if isinstance(answer, KlingError):
            raise answer
        return answer

    async def poll(self, tracked_jobs: Sequence[TrackedJob], now: float) -> None:
        """Make one status call about these jobs, and apply what is reported of each.

        If polling a job again would not help, the error becomes its `poll_error`.

        Args:
            tracked_jobs: The jobs.
            now: The time on the client's clock.
        """
        refs = [tracked.ref for tracked in tracked_jobs]
        for each in tracked_jobs:
            each.begin_poll(now)
        answers: Mapping[JobRef, StatusReport | KlingError]
        self._transport.count_poll()
        try:
            answers = await self._transport.run(self._transport.provider.poll(refs), retry=self._retry)
        except KlingError as error:
            answers = {ref: copy_error(error) for ref in refs}
        for ref, tracked in zip(refs, tracked_jobs, strict=True):
            answer = answers.get(ref)
            if isinstance(answer, KlingError):
                self._record_failure(tracked, answer, now)
                continue
            tracked.failing_since = tracked.poll_error = None
            self._failure_logged = False
            if answer is not None:
                tracked.confirm()
                await tracked.apply(answer, "poll")
            tracked.last_seen_running = now

    def _record_failure(self, tracked: TrackedJob, error: KlingError, now: float) -> None:
        """Note that a poll failed, and decide whether the error is raised to those who wait."""
        if tracked.ended:  # meanwhile, by a webhook
            return
        tracked.failing_since = now if tracked.failing_since is None else tracked.failing_since
        error.ref = error.ref or str(tracked.ref)
        if isinstance(error, JobNotFound):
            final = not (tracked.submitted_here and now - tracked.started < _FORGIVEN)
        else:
            lasting = now - tracked.failing_since >= self._transport.limits.poll_failure_timeout
            final = lasting or isinstance(error, Unauthorized | ConfigurationError)
        level = logging.INFO if self._failure_logged and not final else logging.WARNING
        self._failure_logged = True
        event = {"event": "poll_failed_for_good" if final else "poll_failed"}
        goes_on = "" if final else " and is repeated later"
        log.log(level, "the poll of job %s failed%s: %s", tracked.ref, goes_on, error, extra=event)
        if final:
            if tracked.submitted_here:
                error.message += "; the job was bought and is not lost"
                error.remedies = (Remedy("attach", ref=str(tracked.ref), detail="to go on"), *error.remedies)
            tracked.poll_error = error
            tracked.failing_since = None
            if isinstance(error, JobNotFound):
                tracked.release()  # polling it again would have no result
            tracked.wake()


def copy_error(error: ErrorT) -> ErrorT:
    """Return a copy for one of several jobs or tasks: each names its own job, and is raised on its own."""
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied

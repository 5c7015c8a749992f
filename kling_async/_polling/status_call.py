"""One look: a status call about one or several jobs, and what its answer means for each of them.

A look that fails is not a job that failed: the job is looked at again later, until looks have failed without a break
for `Limits.poll_failure_timeout` seconds. "Not found" is forgiven for a while after the submission: providers answer it
before their own database has caught up.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from typing import TypeVar

import anyio

from kling_async._clock import Clock
from kling_async._errors import ConfigurationError, JobNotFound, KlingError, Remedy, Unauthorized
from kling_async._http.transport import ProviderTransport
from kling_async._models import JobRef, StatusReport
from kling_async._tracking.tracked_job import TrackedJob

__all__ = ["StatusCaller", "copy_error"]

log = logging.getLogger("kling_async")
ErrorT = TypeVar("ErrorT", bound=Exception)

_FORGIVEN = 60.0  # s after submission for which "not found" means "not yet"


class StatusCaller:
    """Makes the status calls of one lane.

    Args:
        lane: Where they go.
        clock: The client's clock.
    """

    def __init__(self, transport: ProviderTransport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self._failure_logged = False  # a look has failed since the last good one: said once, not once a job

    def in_time(self, tracked: TrackedJob) -> anyio.CancelScope:
        """Bounds a look: a provider that lets the lane wait must not let the job's deadline pass unnoticed."""
        return anyio.move_on_after(max(tracked.deadline - self._clock.now(), 0.0) + self._transport.limits.call)

    async def poll(self, tracked_jobs: Iterable[TrackedJob]) -> None:
        """Make one status call about these jobs, and let each know what is said of it.

        What makes no sense to ask again is the job's `poll_error` then.
        """
        now = self._clock.now()
        asked = {tracked.ref: tracked for tracked in tracked_jobs}
        for each in asked.values():
            each.last_polled, each.poll_now = now, False
        answers: Mapping[JobRef, StatusReport | KlingError]
        try:
            answers = await self._transport.run(self._transport.provider.poll(list(asked)))
        except KlingError as error:
            answers = {ref: copy_error(error) for ref in asked}
        for ref, tracked in asked.items():
            answer = answers.get(ref)
            if isinstance(answer, KlingError):
                self._stumble(tracked, answer, now)
                continue
            tracked.failing_since = tracked.poll_error = None
            self._failure_logged = False
            if answer is not None:
                await tracked.apply(answer, "poll")
            tracked.last_seen_running = now

    def _stumble(self, tracked: TrackedJob, error: KlingError, now: float) -> None:
        """A look failed: decide whether those who wait should hear of it."""
        if tracked.ended:  # meanwhile, by a webhook
            return
        tracked.failing_since = now if tracked.failing_since is None else tracked.failing_since
        error.ref = error.ref or str(tracked.ref)
        if isinstance(error, JobNotFound):
            final = not (tracked.submitted_here and now - tracked.started < _FORGIVEN)
        else:
            lasting = now - tracked.failing_since >= self._transport.limits.poll_failure_timeout
            final = lasting or isinstance(error, Unauthorized | ConfigurationError)
        said = logging.INFO if self._failure_logged and not final else logging.WARNING
        self._failure_logged = True
        event = {"event": "poll_failed_for_good" if final else "poll_failed"}
        log.log(said, "a look at job %s failed%s: %s", tracked.ref, "" if final else ", it goes on", error, extra=event)
        if final:
            if tracked.submitted_here:
                error.message += "; the job was bought and is not lost"
                error.remedies = (Remedy("attach", ref=str(tracked.ref), detail="to go on"), *error.remedies)
            tracked.poll_error = error
            tracked.failing_since = None
            tracked.wake()


def copy_error(error: ErrorT) -> ErrorT:
    """A copy for one of several jobs or tasks: each names its own job, and is raised on its own."""
    copied = copy.copy(error)
    copied.__cause__ = error.__cause__
    return copied

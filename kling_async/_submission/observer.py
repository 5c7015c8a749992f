"""What a client reports to an observer: submissions, the ends of jobs, and the counts of its calls. For telemetry."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from kling_async._ledger.protocol import Submission
from kling_async._models import Cost, Event, JobRef
from kling_async.providers._base.request import Request

__all__ = ["Attempt", "CallCounts", "JobEnd", "Observer", "observed", "suppressed"]

log = logging.getLogger("kling_async")

CallCounts: TypeAlias = Callable[[], Mapping[str, Mapping[str, int]]]
"""Returns, by provider, how many calls were made so far: ``calls``, ``polls``, ``retried``, ``throttled``, ``lost``."""


@dataclass(slots=True)
class Attempt:
    """A submission under way.

    Attributes:
        tags: Set by the observer: texts that are stored with the submission, beside the user's own. The job's end
            has them, also in another process.
        ref: Set by the client once there is a job.
        new: Set by the client: whether this submission paid for the job. If False, its key was submitted before.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    ref: JobRef | None = None
    new: bool = False


@dataclass(frozen=True, slots=True)
class JobEnd:
    """A job that has ended.

    Attributes:
        ref: Its reference.
        key: The key of its submission.
        tags: What was stored with the submission.
        started: When it was submitted (aware, UTC).
        events: Its events. The last one is its end.
        lag: Seconds between the last poll that saw it running and the one that saw its end, which is the most that its
            end can have gone unnoticed. None if it was not polled, or a webhook reported the end.
    """

    ref: JobRef
    key: str | None
    tags: Mapping[str, str]
    started: datetime
    events: tuple[Event, ...]
    lag: float | None

    @property
    def last(self) -> Event:
        """The event that ended it."""
        return self.events[-1]

    @property
    def cost(self) -> Cost | None:
        """What it costs, where the provider reports that."""
        return self.last.cost


class Observer:
    """Observes a client: ``Client(observer=...)``. Override what you need. Every method here does nothing.

    The methods are called on the event loop, between two steps of the client, and must not block. An error that one of
    them raises is logged, and changes nothing for the job.
    """

    def opened(self, counts: CallCounts) -> None:
        """A client was made.

        Args:
            counts: Returns the counts of its calls so far. It may be called from any thread.
        """

    def closed(self, counts: CallCounts) -> None:
        """A client was closed.

        Args:
            counts: The same that `opened` was given.
        """

    def submission(self, submission: Submission, request: Request, attempt: Attempt) -> AbstractContextManager[object]:
        """Return a context manager that surrounds a submission. It sees the error of one that fails.

        Args:
            submission: The submission, before it is stored. It names key and endpoint.
            request: What is submitted.
            attempt: What is known of it. The client completes it before the context manager is left.
        """
        del submission, request, attempt
        return nullcontext()

    def ended(self, job: JobEnd) -> None:
        """A job that was submitted or resumed by this client has ended."""


def observed(
    observer: Observer | None, submission: Submission, request: Request
) -> AbstractContextManager[Attempt, bool | None]:
    """Surround a submission with what an observer makes of it. Only the errors of the submission are raised."""
    attempt = Attempt()
    return nullcontext(attempt) if observer is None else _observed(observer, submission, request, attempt)


@contextmanager
def _observed(observer: Observer, submission: Submission, request: Request, attempt: Attempt) -> Iterator[Attempt]:
    manager: AbstractContextManager[object] = nullcontext()
    with suppressed():
        entering = observer.submission(submission, request, attempt)
        entering.__enter__()
        manager = entering
    try:
        yield attempt
    except BaseException as error:
        with suppressed(error):
            manager.__exit__(type(error), error, error.__traceback__)
        raise
    with suppressed():
        manager.__exit__(None, None, None)


@contextmanager
def suppressed(known: BaseException | None = None) -> Iterator[None]:
    """Log what an observer raises. It must not change the outcome of a job.

    Args:
        known: An error that the observer was given, and may raise again.
    """
    try:
        yield
    except Exception as error:
        if error is not known:
            log.exception("the observer raised an error, which changes nothing for the job")

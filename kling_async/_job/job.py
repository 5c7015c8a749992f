"""The handle to one generation: awaitable, and iterable for its events."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from dataclasses import replace
from typing import Any, NoReturn, TypeAlias

import anyio

from kling_async._errors import GenerationCancelled, GenerationFailed, GenerationTimeout, KlingError, Remedy
from kling_async._files.downloads import Downloader
from kling_async._job.session import ProviderSession
from kling_async._models import Artifact, Choice, Cost, Event, EventLog, JobRef, Result, Status
from kling_async._polling.poller import DeadlinePassed
from kling_async._tracking.tracked_job import TrackedJob
from kling_async._validation import require_seconds
from kling_async.providers._base.request import Request

__all__ = ["Job", "OnEvent", "final_outcome"]

OnEvent: TypeAlias = Callable[[Event], object]
"""Is called with the events of a job. What it returns is awaited if it can be."""


class Job:
    """Handle to one generation.

    ``await job`` waits for the end and returns the `Result`. It may be repeated, and many tasks may do it.
    ``async for event in job`` yields every `Event` from the first on, and ends after the terminal one. Each loop has
    its own place in the log, so a late reader misses nothing.

    A job is polled only while somebody waits for it. A waiter that stops (by cancellation, for example) loses nothing:
    the job goes on at the provider, and waiting can be taken up again, here or, by its `ref`, in another process.

    Two handles to one job are equal.
    """

    __slots__ = ("_session", "_tracked")

    def __init__(self, tracked: TrackedJob, session: ProviderSession) -> None:
        self._tracked = tracked
        self._session = session

    def __eq__(self, other: object) -> bool:
        """Whether it is a handle to the same job of the same client."""
        if not isinstance(other, Job):
            return NotImplemented
        return self._session.transport is other._session.transport and self.ref == other.ref

    def __hash__(self) -> int:
        return hash(self.ref)

    def __repr__(self) -> str:
        return f"<Job {self.ref} {self.status}>"

    def _repr_html_(self) -> str:
        """For notebooks: the events so far. No call is made."""
        from kling_async._html import title  # noqa: PLC0415  # notebooks alone need it

        return title(repr(self)) + self.events._repr_html_()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a job is bound to its client; pickle str(job.ref) and use client.attach({str(self.ref)!r})")

    @property
    def ref(self) -> JobRef:
        """The job's reference. Its text can be stored, and used in another process."""
        return self._tracked.ref

    @property
    def key(self) -> str | None:
        """The key of its submission. If None, the job was attached by its reference."""
        return self._tracked.key

    @property
    def tags(self) -> Mapping[str, str]:
        """What was stored with its submission: ``submit(request, tags={...})``. Empty if the job was attached."""
        return self._tracked.tags

    @property
    def request(self) -> Request | None:
        """What was submitted. If None, the job was attached by its reference."""
        return self._tracked.request

    @property
    def choice(self) -> Choice | None:
        """Which endpoint was chosen for a portable request, and why. None for a provider's own request."""
        return self._tracked.event(0).choice if self._tracked.count else None

    @property
    def status(self) -> Status:
        """The last known status. No call is made."""
        return self._tracked.status

    @property
    def events(self) -> EventLog:
        """The events so far."""
        return EventLog(self._tracked.events)

    @property
    def cost(self) -> Cost | None:
        """What the job costs, where the provider reports it."""
        return self._tracked.cost

    @property
    def refunded(self) -> bool:
        """Whether the provider gave the cost back, because the job failed."""
        return self._session.provider.features.refunded(self.status)

    def __await__(self) -> Generator[Any, Any, Result]:
        return self._outcome().__await__()

    def __aiter__(self) -> AsyncIterator[Event]:
        return _Cursor(self)

    async def wait(self, timeout: float | None = None) -> Status:  # noqa: ASYNC109  # a bound on the wait, not an error
        """Wait for the end, and raise nothing if the job fails.

        Args:
            timeout: Seconds to wait at most. If None, until the job's deadline.

        Returns:
            The status then. It is not terminal if the time ran out.
        """
        require_seconds("wait(timeout=...)", timeout)
        with anyio.move_on_after(timeout):
            with contextlib.suppress(GenerationTimeout):
                await self._until_end()
        return self.status

    async def result(self, timeout: float | None = None, *, on_event: OnEvent | None = None) -> Result:  # noqa: ASYNC109  # raises an error of its own
        """Wait for the result, for a limited time. The same as ``await job``, apart from that.

        Args:
            timeout: Seconds to wait at most. If None, until the job's deadline.
            on_event: Called with every event of the job, a function or a coroutine function. An error that it raises
                ends the wait. The job goes on.

        Raises:
            GenerationTimeout: The time is over. The job is not cancelled, and has no result yet.
            KlingError: Same as ``await job``.
        """
        require_seconds("result(timeout=...)", timeout)
        with anyio.move_on_after(timeout):
            if on_event is not None:
                async for event in self:
                    returned = on_event(event)
                    if inspect.isawaitable(returned):
                        await returned
            return await self._outcome()
        raise GenerationTimeout(
            f"the job is still {self.status} after waiting for {timeout:g} s; it was not cancelled",
            job=self,
            remedies=(Remedy("attach", ref=str(self.ref), detail="to go on waiting"),),
            ref=str(self.ref),
            provider=self.ref.provider,
        )

    async def refresh(self) -> Status:
        """Ask the provider now, if the job has not ended.

        Returns:
            The status.

        Raises:
            KlingError: The provider could not be asked, and asking again would not help.
        """
        if not self._tracked.ended:
            with self._session.guard.call():
                await self._session.poller.poll_now(self._tracked)
        return self.status

    async def cancel(self) -> bool:
        """Ask the provider to cancel the job.

        Most providers charge for the job all the same.

        Returns:
            Whether the provider accepted. False if the job had ended already.

        Raises:
            ConfigurationError: The provider has no way to cancel. The job goes on.
            KlingError: The call failed.
        """
        if self._tracked.ended:
            return False
        with self._session.guard.call():
            taken = await self._session.transport.run(self._session.provider.cancel(self.ref))
        await self.refresh()
        return taken

    async def _until_end(self) -> None:
        # One wait to the end, not one an event: a stream is then opened once, not once an event.
        while not self._tracked.ended:
            await self._until_more_than(sys.maxsize)

    async def _until_more_than(self, seen: int) -> None:
        try:
            with self._session.guard.call():
                await self._session.submitter.recall(self._tracked)
                await self._session.poller.wait(self._tracked, seen)
        except DeadlinePassed:
            raise self._late() from None

    def _late(self) -> GenerationTimeout:
        """Return the error of a job whose deadline has passed. Its duration so far is learned, once."""
        tracked = self._tracked
        tracked.release()
        if tracked.submitted_here:
            tracked.submitted_here = False  # learned once, however many tasks wait for the job
            tracked.timer.observe_running(tracked.last_seen_running - tracked.started)
        return GenerationTimeout(
            f"the job is still {self.status} after {tracked.deadline - tracked.started:.0f} s, its deadline; it "
            f"was not cancelled and may yet finish",
            job=self,
            remedies=(Remedy("attach", ref=str(self.ref), detail="to go on waiting"),),
            ref=str(self.ref),
            provider=self.ref.provider,
        )

    async def _outcome(self) -> Result:
        await self._until_end()
        return self._end()

    def _end(self) -> Result:
        """Return the result of a job that has ended, or raise its error."""
        event = self._tracked.event(-1)
        facts: dict[str, Any] = {"job": self, "ref": str(self.ref), "provider": self.ref.provider}
        if event.status is Status.CANCELLED:
            raise GenerationCancelled(
                "the job was cancelled at the provider",
                remedies=(Remedy("retry", detail="submit the request again if it is still wanted"),),
                **facts,
            )
        if event.status is Status.FAILED:
            reason = event.failures[0] if event.failures else None
            retryable = reason.retryable if reason is not None else None
            message = f"the generation failed: {str(reason or 'no reason given').rstrip('.')}"
            if retryable:
                remedy = Remedy("retry", detail="submit the same request again, which may succeed")
            elif retryable is False:
                remedy = Remedy("change_request", detail="the request, because the same one would fail again")
            else:
                message += "; whether submitting it again would help is not known"
                remedy = Remedy("change_request", detail="the request or submit it again")
            raise GenerationFailed(
                message,
                remedies=(remedy,),
                code=reason.code if reason else None,
                retryable=retryable,
                **facts,
            )
        return event.result(self.ref, self._saver())

    def _saver(self) -> Downloader:
        session = self._session
        local = session.provider.base_url.startswith("http:")
        ended = self._tracked.event(-1).at if self.status.terminal else None
        saver = Downloader(session.downloads, self.ref, local, self._renew, ended=ended, key=self.key)
        if session.ledger is None or not self._tracked.recorded:
            return saver
        return replace(saver, saved=session.ledger.record_file, files=session.ledger.files)

    async def _renew(self) -> tuple[Artifact, ...]:
        """Return the artifacts as the provider names them now. The events stay as they are."""
        report = await self._session.poller.ask(self.ref)
        return report.artifacts if report is not None else ()


def final_outcome(job: Job, reason: KlingError | DeadlinePassed | None) -> Result | KlingError:
    """Return what ``await job`` returns or raises when waiting for it is over for that reason.

    Args:
        job: The job.
        reason: Why waiting for it is over. If None, it has ended.
    """
    if isinstance(reason, DeadlinePassed):
        return job._late()  # noqa: SLF001  # a part of the job that its users do not need
    if reason is not None:
        return reason
    try:
        return job._end()  # noqa: SLF001  # the same
    except KlingError as error:
        return error


class _Cursor:
    """A reader's place among a job's events."""

    __slots__ = ("_job", "_next")

    def __init__(self, job: Job) -> None:
        self._job = job
        self._next = 0

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        tracked = self._job._tracked  # noqa: SLF001  # the cursor is a part of the job
        if self._next >= tracked.count:
            if tracked.ended:
                raise StopAsyncIteration
            await self._job._until_more_than(self._next)  # noqa: SLF001  # the same
        event = tracked.event(self._next)
        self._next += 1
        return event

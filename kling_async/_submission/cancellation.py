"""A paid call that is cancelled gets time to end.

Theory of operation
-------------------
Two kinds of cancellation reach a submission:

- The caller is cancelled: by a cancel scope, a time-out, or its own ``task.cancel()``. A submission that was not sent
  ends at once. One that was sent is waited for, for a grace time.
- All tasks of an event loop are cancelled: at the end of ``asyncio.run``, or by a program that shuts down. So on
  asyncio the paid call runs in a task of a class of its own, `_PayingTask`, which does not accept that while its call
  is under way. Its caller, which is cancelled as well, ends it when the grace time is over.

The caller never leaves before the paid call has ended, so nothing runs in the background.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import anyio

from kling_async._event_loop.clock import on_asyncio
from kling_async._http.last_read import end_after, last_read
from kling_async._http.paid_call import PaidCallTrace

__all__ = ["finish_within_grace"]

T = TypeVar("T")


async def finish_within_grace(operation: Callable[[], Awaitable[T]], trace: PaidCallTrace, grace: float) -> T:
    """Run a paid operation. If the caller is cancelled after the request was sent, wait for its answer first.

    Args:
        operation: Makes its paid call with `trace`. Until that is sent, a cancellation takes effect at once.
        trace: Reports when the paid call is sent, and when it is over.
        grace: How many seconds to wait for the answer, at most.
    """
    submission = _Submission(operation, trace)
    if on_asyncio():
        await _run_in_paying_task(submission, grace)
    else:
        ended = submission.ended = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(submission.run)
            try:
                await ended.wait()
            except anyio.get_cancelled_exc_class():
                if submission.give_up(grace):
                    group.start_soon(submission.end_after, grace, ended)
                raise
    if submission.failure is not None:
        raise submission.failure
    return submission.outcome[0]


class _Submission(Generic[T]):
    """A paid operation, and how it ended."""

    def __init__(self, operation: Callable[[], Awaitable[T]], trace: PaidCallTrace) -> None:
        self._operation = operation
        self.scope = anyio.CancelScope()
        self._given_up = False
        self.ended: anyio.Event | None = None  # on trio
        self.outcome: list[T] = []
        self.failure: Exception | None = None
        trace.on_commit = self._commit

    @property
    def committed(self) -> bool:
        """Whether giving up would lose something."""
        return self.scope.shield

    def _commit(self, needed: bool) -> None:
        self.scope.shield = needed
        if self._given_up and not needed:
            self.scope.cancel()

    def give_up(self, grace: float) -> bool:
        """The caller was cancelled: end now, or after the grace time if the request was sent. Whether it goes on."""
        self._given_up = True
        goes_on = self.committed and grace > 0
        if not goes_on:
            self.scope.cancel()
        return goes_on

    async def end_after(self, seconds: float, ended: anyio.Event) -> None:
        """On trio: end after so many seconds and the last read."""
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(seconds):
                await ended.wait()
                return
            await last_read()
        self.scope.cancel()

    async def run(self) -> None:
        """Run the operation."""
        try:
            with self.scope:
                try:
                    self.outcome.append(await self._operation())
                except Exception as error:  # noqa: BLE001  # raised by the caller, so not in an exception group
                    self.failure = error
        finally:
            if self.ended is not None:
                self.ended.set()


class _PayingTask(asyncio.Task[None]):
    """Runs a paid operation. While its call is under way, it is not cancelled with all other tasks of its loop."""

    submission: _Submission[Any] | None = None

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel the task, unless that would lose a job.

        Scopes and time-outs inside of the task cancel it as well, from a callback of the loop or, with a message, from
        anywhere. They end a part of it, so they are obeyed.
        """
        committed = self.submission is not None and self.submission.committed
        if committed and msg is None and self._is_cancelled_by_others():
            return False
        return super().cancel(msg)

    def _is_cancelled_by_others(self) -> bool:
        loop = self.get_loop()
        if not loop.is_running():
            return True  # the end of `asyncio.run`
        return asyncio.current_task(loop) not in {None, self}


async def _run_in_paying_task(submission: _Submission[Any], grace: float) -> None:
    """Run the operation in a task of its own, to its end."""
    task = _PayingTask(submission.run(), loop=asyncio.get_running_loop(), name="kling_async paid call")
    task.submission = submission
    timer: asyncio.TimerHandle | None = None
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        if submission.give_up(grace):
            timer = end_after(submission.scope, grace)
        while not task.done():
            try:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait((task,))
            except asyncio.CancelledError:  # once more: the grace time ends the wait
                continue
        raise
    finally:
        if timer is not None:
            timer.cancel()
        if not task.done():  # an error that is no cancellation, such as the end of a generator
            task.cancel()
    task.result()

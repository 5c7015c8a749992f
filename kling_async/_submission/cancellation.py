"""A paid call that is cancelled gets time to end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

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
    done = anyio.Event()
    shield = anyio.CancelScope()
    trace.on_commit = lambda needed: setattr(shield, "shield", needed)
    outcome: list[T] = []
    failure: list[Exception] = []

    async def run() -> None:
        with shield:
            try:
                outcome.append(await operation())
            except Exception as error:  # noqa: BLE001  # raised outside of the task group, so not in an exception group
                failure.append(error)
        done.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            shield.deadline = anyio.current_time() + grace
            raise
    if failure:
        raise failure[0]
    return outcome[0]

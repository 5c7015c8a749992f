"""A paid call that is cancelled has a grace period to end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from kling_async._http.paid_call import PaidCallTrace
from kling_async._submission.submitter import T

__all__ = ["finish_within_grace"]


async def finish_within_grace(operation: Callable[[PaidCallTrace], Awaitable[T]], grace: float) -> T:
    """Run a paid operation to its end, also when the caller is cancelled after the request was sent.

    Args:
        operation: Is given the trace to make its paid call with. As long as that is not sent, it is cancelled at once.
        grace: Seconds.
    """
    done = anyio.Event()
    shield = anyio.CancelScope()
    trace = PaidCallTrace(on_commit=lambda needed: setattr(shield, "shield", needed))
    outcome: list[T] = []
    failure: list[Exception] = []

    async def run() -> None:
        with shield:
            try:
                outcome.append(await operation(trace))
            except Exception as error:  # noqa: BLE001  # carried out of the task group as it is, not in an exception group
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

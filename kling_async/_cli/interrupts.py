"""Interrupts: before a command begins, and during the paid call.

This is the first module that is loaded, and an impatient user presses Ctrl-C while the program is being loaded. So it
imports nothing that takes time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kling_async import Client, Job
    from kling_async._cli.output.reports import Report

__all__ = ["exit_on_sigint", "submit_or_note"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_STANDARD_ERROR = 2
_MAYBE = (
    "a job may have been bought: check the provider's account, follow the job with `kling watch REF` if it is there, "
    "and generate it again only if it is not"
)


@contextmanager
def exit_on_sigint() -> Iterator[None]:
    """End the process at SIGINT, in one sentence, until a command begins and answers it itself.

    There is nothing to be cleaned up yet, and an exception out of the middle of an import is not sure to arrive.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, say, by a shell that put us in the background
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(_number: int, _frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(_STANDARD_ERROR, b"interrupted; nothing was bought\n")  # the file object may be in use just now
    os._exit(_INTERRUPTED)


async def submit_or_note(submission: Awaitable[Job], client: Client, key: str, report: Report) -> Job:
    """The job that a submission buys. If interrupted, it reports what it may have bought.

    Args:
        submission: What buys it.
        client: Has a ledger, or else a budget: one of them knows.
        key: The submission's name.
        report: Reports it when the program ends.

    Raises:
        KlingError: Same as `Client.submit`.
    """
    import anyio  # noqa: PLC0415  # this module is the first that is loaded

    from kling_async._cli.output.events import JobStarted  # noqa: PLC0415  # the same

    try:
        job = await submission
    except anyio.get_cancelled_exc_class():
        for job in client.jobs:  # the id came, and its handle was lost with the cancellation
            report.emit(JobStarted(job.ref))
        if not client.jobs:
            with anyio.CancelScope(shield=True):
                report.interrupt_note = await _doubt(client, key) or report.interrupt_note
        raise
    report.interrupt_note = None
    return job


async def _doubt(client: Client, key: str) -> str | None:
    """What may have been bought, and what to do about it. If None, it is certain that nothing was bought."""
    from kling_async import KlingError  # noqa: PLC0415  # the same
    from kling_async._rows.advice import as_commands  # noqa: PLC0415  # the same

    budget = client.statistics().budget
    if budget is not None:
        return _MAYBE if budget.spent or budget.reserved else None
    try:
        found = [submission for submission in await client.unresolved() if submission.key == key]
    except KlingError as error:
        return f"a job may have been bought, and the ledger does not know: {error}"
    return f"a job may have been bought. Next: {', or '.join(as_commands(found[0].remedies))}" if found else None

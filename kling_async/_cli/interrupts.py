"""A purchase that the user interrupts: what has become of it is found out before the program leaves."""

from __future__ import annotations

from collections.abc import Awaitable

import anyio

from kling_async._cli.output.advice import as_commands
from kling_async._cli.output.reports import Report
from kling_async._client import Client
from kling_async._errors import KlingError
from kling_async._job import Job

__all__ = ["bought"]


async def bought(submission: Awaitable[Job], client: Client, key: str, report: Report) -> Job:
    """The job that a submission buys. Interrupted, the report is told what it may have bought.

    Args:
        submission: What buys it.
        client: Has a ledger, or else a budget: one of them knows.
        key: The submission's name.
        report: Tells of it when the program leaves.

    Raises:
        KlingError: As of `Client.submit`.
    """
    try:
        job = await submission
    except anyio.get_cancelled_exc_class():
        for job in client.jobs:  # the id came, and its handle was lost with the cancellation
            report.begun(job.ref)
        if not client.jobs:
            with anyio.CancelScope(shield=True):
                report.interrupt_note = await _doubt(client, key) or report.interrupt_note
        raise
    report.interrupt_note = None
    return job


async def _doubt(client: Client, key: str) -> str | None:
    """What may have been bought, and what to do about it; None: it is certain that nothing was."""
    budget = client.statistics().budget
    if budget is not None:
        return _MAYBE if budget.spent or budget.reserved else None
    try:
        found = [submission for submission in await client.unresolved() if submission.key == key]
    except KlingError as error:
        return f"a job may have been bought, and the ledger cannot tell: {error}"
    return f"a job may have been bought. Next: {', or '.join(as_commands(found[0].remedies))}" if found else None


_MAYBE = (
    "a job may have been bought: look at the provider's account, follow the job with `kling watch REF` if it is there, "
    "and generate it again only if it is not"
)

"""``kling cancel``: ask a provider to end a job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kling_async import Client, JobRef
from kling_async._cli.options import AsJson
from kling_async._cli.output.events import CancellationRequested
from kling_async._cli.output.reports import Report
from kling_async._cli.request_arguments import find, job_ref
from kling_async._cli.runner import choose_report, handle_errors, open_client, run

__all__ = ["cancel"]


def cancel(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The job's reference, such as fal/image/550e8400-...")],
    *,
    as_json: AsJson = False,
) -> None:
    """Ask the provider to cancel a job. Most providers charge for it all the same."""
    report = choose_report(as_json=as_json, directory=Path())
    with handle_errors(report):
        address = job_ref(ref)
        kind, _ = find(address.endpoint)
        client = open_client([kind], None)
        run(lambda: _cancel(client, address, report), report)


async def _cancel(client: Client, ref: JobRef, report: Report) -> None:
    async with client:
        job = client.attach(ref)
        accepted = await job.cancel()
        report.emit(CancellationRequested(ref, accepted, job.status))

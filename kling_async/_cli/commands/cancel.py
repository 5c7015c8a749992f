"""``kling cancel``: ask a provider to end a job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kling_async._cli.ledger import LedgerFile, key_of
from kling_async._cli.options import AsJson
from kling_async._cli.output.events import CancellationRequested
from kling_async._cli.output.reports import Report
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._cli.request_arguments import job_ref
from kling_async._cli.runner import open_client, run
from kling_async._rows.requests import find

if TYPE_CHECKING:
    from kling_async import Client, JobRef

__all__ = ["cancel"]


def cancel(
    ref: Annotated[str, typer.Argument(metavar="REF", help="The job's reference, such as fal/image/550e8400-...")],
    *,
    as_json: AsJson = False,
    ledger: LedgerFile = None,
) -> None:
    """Ask the provider to cancel a job. Most providers charge for it all the same."""
    report = choose_report(as_json=as_json, directory=Path())
    with handle_errors(report):
        address = job_ref(ref)
        kind, _ = find(address.endpoint)
        known = key_of(address, ledger)
        client = open_client([kind], None, known[0] if known else None)
        run(lambda: _cancel(client, address, known and known[1], report), report)


async def _cancel(client: Client, ref: JobRef, key: str | None, report: Report) -> None:
    async with client:
        job = client.attach(ref) if key is None else await client.resolve(key, ref)
        accepted = await job.cancel()
        report.emit(CancellationRequested(ref, accepted, job.status))

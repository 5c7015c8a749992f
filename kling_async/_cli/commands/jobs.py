"""``kling jobs``: what a ledger has."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kling_async import Cost, LedgerContents, Status, Submission, SubmissionState, inspect_ledger
from kling_async._cli.errors import CommandError
from kling_async._cli.ledger import LedgerFile, existing
from kling_async._cli.options import AsJson
from kling_async._cli.output.formatting import duration, printable
from kling_async._cli.output.reports import Report
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._rows.amounts import as_json
from kling_async.providers import find_provider

__all__ = ["GIVEN_UP", "jobs", "standing", "unsaved"]

GIVEN_UP = Path("(given up)")
"""Where the ledger has a file that will not be saved."""
_LAST = 100  # submissions that are listed where nothing else is asked for
_PIPE = 10_000  # columns: where no terminal sets a limit, a line is a job, whole
_HOUR, _DAY = 3600.0, 86_400.0
_COLOURS = {
    "pending": "yellow",
    "processing": "cyan",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
    "unknown": "bold red",
}
_UNKNOWN = "unknown"


def jobs(
    *,
    ledger: LedgerFile = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Only unfinished ones: running jobs and unknown outcomes.")
    ] = False,
    status: Annotated[
        str | None,
        typer.Option(metavar="STATUS", help=f"Only jobs with this status: {', '.join(_COLOURS)}.", show_default=False),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only this endpoint or provider, such as runblob.", show_default=False),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only what was submitted since then: 2h, 3d or 2026-11-27.", show_default=False
        ),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Only the last N; 0: all.", show_default=f"{_LAST}, and with --json all"),
    ] = None,
    as_lines: AsJson = False,
) -> None:
    """List the submissions of a ledger: status, cost and files.

    The newest comes last. It needs no API key and makes no call, and works while another program uses the ledger. The
    ledger is --ledger, KLING_LEDGER, kling.db in the working directory if there is one, or else your history.
    """
    report = choose_report(as_json=as_lines, directory=None)
    with handle_errors(report):
        path = existing(ledger)
        shown = (None if as_lines else _LAST) if last is None else last or None
        now = datetime.now(UTC)
        chosen, contents = _read(path, now, status, endpoint, since, unfinished=unfinished, last=shown)
        if as_lines:
            for submission in chosen:
                print(json.dumps(_fields(submission, now)))  # noqa: T201  # what was asked for
            return
        if chosen and sys.stdout.isatty():
            _show_records(chosen, now)
        elif chosen:
            _show(_table(chosen, now))
        if chosen:
            report.say(_sum(chosen))
        if last is None and len(chosen) < contents.total:
            report.say(f"These are the last {len(chosen)} of {contents.total:,}; --last 0 lists all.")
        recent = anyio.run(partial(inspect_ledger, path, unsaved=True, since=now - 2 * timedelta(seconds=_DAY)))
        waiting = contents.unfinished + sum(unsaved(submission) for submission in recent.submissions)
        _advise(waiting, contents.processes, report)


def _read(
    path: Path,
    now: datetime,
    status: str | None,
    endpoint: str | None,
    since: str | None,
    *,
    unfinished: bool,
    last: int | None,
) -> tuple[list[Submission], LedgerContents]:
    """Return the submissions that were asked for, and what else the ledger says.

    Raises:
        CommandError: A status or a time is not one.
    """
    if status is not None and status not in _COLOURS:
        raise CommandError(f"--status {status!r:.40}: it is one of {', '.join(_COLOURS)}")
    uncertain = status == _UNKNOWN
    contents = anyio.run(
        partial(
            inspect_ledger,
            path,
            endpoint=endpoint,
            status=None if status is None or uncertain else Status(status),
            since=None if since is None else _moment(since, now),
            unfinished=unfinished or uncertain,
            last=None if uncertain else last,
        )
    )
    chosen = contents.submissions
    if uncertain:  # of the submission, which has no job and no status yet
        chosen = [submission for submission in chosen if submission.status is None]
    return chosen, contents


def _moment(text: str, now: datetime) -> datetime:
    """The moment that ``2h``, ``3d`` or a date stands for.

    Raises:
        CommandError: It is none of these.
    """
    unit = {"m": 60.0, "h": _HOUR, "d": _DAY}.get(text[-1:])
    if unit is not None and text[:-1].isdigit():
        return now - timedelta(seconds=int(text[:-1]) * unit)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"--since {text!r:.40}: give 30m, 2h, 3d, a date or a time such as 2026-11-27T09:00"
        ) from None
    return found if found.tzinfo else found.astimezone()


def _sum(submissions: Sequence[Submission]) -> str:
    """How many they are, and what they cost together."""
    costs: dict[str, Decimal] = {}
    for submission in submissions:
        if submission.cost is not None and not _refunded(submission):
            costs[submission.cost.unit] = costs.get(submission.cost.unit, Decimal(0)) + submission.cost.amount
    amounts = [str(Cost(amount, unit)) for unit, amount in sorted(costs.items())]  # type: ignore[arg-type]  # of Costs
    count = f"{len(submissions):,} job{'s' if len(submissions) != 1 else ''}"
    untold = sum(submission.cost is None and submission.ref is not None for submission in submissions)
    rest = f", {untold:,} without a reported cost" if untold else ""
    return f"{count}: {' and '.join(amounts) or 'no reported cost'}{rest if amounts else ''}."


def _show_records(submissions: Iterable[Submission], now: datetime) -> None:
    """Print two lines for each: what it is, and where its files are. No key, path or reference is broken."""
    console = Console(highlight=False)
    for submission in submissions:
        word = standing(submission)
        age = _age((now - submission.started).total_seconds())
        line = Text.assemble(
            (f"{word:<11}", _COLOURS.get(word, "")),
            f"{_cost(submission):>9} {age:>5}  ",
            (f"{submission.endpoint}  ", "dim"),
            printable(submission.key),
        )
        console.print(line, soft_wrap=True)
        if outcome := _outcome(submission):
            console.print(Text(f"  {outcome}"), soft_wrap=True)


def _show(table: Table) -> None:
    """Print the table on lines of any length, without the blanks that pad its last column."""
    console = Console(highlight=False, width=_PIPE)
    with console.capture() as lines:
        console.print(table)
    for line in lines.get().splitlines():
        print(line.rstrip())  # noqa: T201  # what was asked for


def _advise(waiting: int, processes: Sequence[int], report: Report) -> None:
    """What there is to be done, on standard error."""
    if processes:
        report.say(f"In use by process {', '.join(map(str, processes))}.")
    elif waiting:
        report.say(f"{waiting} to be finished: `kling resume` follows and saves them, and lists what it cannot.")
    else:
        report.say("All jobs are done.")


def standing(submission: Submission) -> str:
    """Where a submission or its job stands, in a word."""
    return str(submission.status or submission.state)


def unsaved(submission: Submission) -> bool:
    """Whether its job made files that were not all saved, and whose addresses should still work."""
    latest = submission.latest
    if latest is None or latest.status is not Status.COMPLETED or len(submission.files) >= len(latest.artifacts):
        return False
    now = datetime.now(UTC)
    if any(artifact.expires is not None and artifact.expires <= now for artifact in latest.artifacts):
        return False
    return (now - latest.at).total_seconds() < _DAY  # where nothing else is documented, they work for a day


def _table(submissions: Iterable[Submission], now: datetime) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("Key", "Endpoint", "Status", "Cost", "Age", "Files"):
        table.add_column(name, overflow="fold", justify="right" if name in {"Cost", "Age"} else "left")
    for submission in submissions:
        word = standing(submission)
        table.add_row(
            Text(printable(submission.key)),
            Text(submission.endpoint),
            Text(word, style=_COLOURS.get(word, "")),
            _cost(submission),
            _age((now - submission.started).total_seconds()),
            Text(_outcome(submission)),
        )
    return table


def _cost(submission: Submission) -> str:
    """What it costs, unless that was given back."""
    if submission.cost is None:
        return ""
    return "refunded" if _refunded(submission) else str(submission.cost)


def _refunded(submission: Submission) -> bool:
    if submission.status not in {Status.FAILED, Status.CANCELLED}:
        return False  # no provider gives back what a job cost that goes on or has ended well, so none is loaded
    provider = find_provider(submission.provider)
    return provider is not None and provider.features.refunded(submission.status)


def _outcome(submission: Submission) -> str:
    """Where the files are, or why there are none."""
    if submission.files:
        return printable(", ".join(map(str, submission.files)))
    if unsaved(submission):
        return "(not saved)"
    latest = submission.latest
    if latest is not None and latest.status is Status.FAILED and latest.failures:
        return printable(latest.failures[0])
    if submission.state is not SubmissionState.ACCEPTED:
        return printable(submission.reason or "")
    return str(submission.ref) if submission.unfinished else ""


def _age(seconds: float) -> str:
    """Seconds as ``2:05``, above an hour as ``3 h``, above two days as ``5 d``."""
    if seconds < _HOUR:
        return duration(seconds)
    return f"{seconds / _HOUR:.0f} h" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} d"


def _fields(submission: Submission, now: datetime) -> dict[str, Any]:
    """``{"type": "job", ...}``."""
    latest = submission.latest
    return {
        "type": "job",
        "key": submission.key,
        "endpoint": submission.endpoint,
        "state": submission.state,
        "status": submission.status,
        "ref": str(submission.ref) if submission.ref else None,
        "cost": as_json(submission.cost),
        "refunded": _refunded(submission),
        "started": submission.started.isoformat(),
        "age": round((now - submission.started).total_seconds(), 3),
        "reason": submission.reason,
        "failures": [str(failure) for failure in latest.failures] if latest else [],
        "files": [str(path) for path in submission.files],
        "request": submission.request,
    }

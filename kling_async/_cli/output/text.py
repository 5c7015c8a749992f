"""Events as lines of text for a person, each when it happens."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kling_async import Event, JobRef, Status, Submission
from kling_async._cli.errors import Problem
from kling_async._cli.output.events import (
    CancellationRequested,
    Estimated,
    Failed,
    FilesSaved,
    Interrupted,
    JobChanged,
    JobSubmitted,
    JobUnresolved,
    Note,
    Product,
    ReportEvent,
    RowDone,
    RowsRejected,
    RunDone,
    RunProgressed,
    RunStarted,
    SellerChosen,
    Unfinished,
    Warned,
)
from kling_async._cli.output.formatting import duration, error_line, plural, printable
from kling_async._rows.advice import as_commands

if TYPE_CHECKING:
    from kling_async._cli.bulk.plan import EndpointEstimate
    from kling_async._cli.bulk.progress import BulkProgress
    from kling_async._rows.records import Record

__all__ = ["QuietRenderer", "TextRenderer", "hints", "print_product", "say"]

_SHOWN = 20  # invalid rows that are shown
_ALIKE = 3  # rows for which the same error is shown
_EVERY = 10.0  # s between two lines about the progress of a bulk run
_MESSAGE = 200  # characters of a provider's message


def say(text: str) -> None:
    """Print a message for a person, on standard error."""
    print(printable(text), file=sys.stderr, flush=True)  # noqa: T201  # a command line program prints


def print_product(text: str) -> None:
    """Print a line of what the user asked for, unchanged where a program reads it."""
    print(printable(text) if sys.stdout.isatty() else text, flush=True)  # noqa: T201  # the same


class TextRenderer:
    """Shows events as lines.

    Args:
        say: Prints a message.
        product: Prints a line of what the user asked for.
    """

    def __init__(self, say: Callable[[str], None] = say, product: Callable[[str], None] = print_product) -> None:
        self._say = say
        self._product = product
        self._progress: BulkProgress | None = None
        self._last_line = time.monotonic()
        self._reasons: Counter[str] = Counter()
        self._stopping: dict[str, str] = {}  # by the kind of the error

    def render(self, event: ReportEvent) -> None:
        """Show an event, or nothing if users need not see it."""
        match event:
            case Note(text) | Warned(text) | SellerChosen(text=text):
                self._say(text)
            case Product(text):
                self._product(text)
            case JobChanged(ref, change):
                self._say(_change(ref, change))
            case FilesSaved(result, paths):
                self._say_all(f"{result.ref}: a file was not generated: {failure}" for failure in result.failures)
                self._product_all(paths)
            case JobSubmitted(ref):
                self._product(str(ref))
                self._say(_submitted(event))
            case CancellationRequested(ref, accepted, status):
                self._product(f"{ref} {status}")
                self._say(_cancellation(ref, accepted=accepted, status=status))
            case JobUnresolved(submission):
                self._say_all(_unresolved(submission))
            case Failed(problem, unfinished):
                self._say_all([*_problem(problem), *hints(unfinished)])
            case Interrupted(message, unfinished):
                self._say_all([message, *hints(unfinished)])
            case _:
                self._render_bulk(event)

    def close(self) -> None:
        """Do nothing: lines need no end."""

    def _render_bulk(self, event: ReportEvent) -> None:
        match event:
            case RowsRejected(rows):
                self._say_all(map(str, rows[:_SHOWN]))
                if len(rows) > _SHOWN:
                    self._say(f"... and {len(rows) - _SHOWN} more")
            case Estimated(rows, todo):
                self._say(f"{plural(rows, 'valid row')}, {rows - todo:,} of them done; nothing was bought")
                _print_estimates(event.endpoints)
            case RunStarted(progress):
                self._progress = progress
            case RunProgressed():
                self._say_progress()
            case RowDone(record):
                self._say_error(record)
            case RunDone(progress, outputs, cause):
                self._say_all(line for kind, line in self._stopping.items() if kind != cause)
                self._say_all(self._repeated_errors())
                self._say(progress.words())
                self._product_all(outputs)

    def _say_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._say(line)

    def _product_all(self, paths: Iterable[Path | str]) -> None:
        for path in paths:
            self._product(str(path))

    def _say_progress(self) -> None:
        if self._progress is not None and time.monotonic() - self._last_line >= _EVERY:
            self._last_line = time.monotonic()
            left = f"; about {duration(self._progress.eta)} left" if self._progress.eta else ""
            self._say(f"{self._progress.words()}{left}")

    def _say_error(self, record: Record) -> None:
        """The error of a row, if it has one. If many rows have the same one, the first few are shown."""
        line = error_line(record)
        if record.error is None or line is None:
            return
        if record.stopped_by is not None:  # it will be in all rows that are left
            self._stopping.setdefault(record.stopped_by, line)
            return
        reason = str(record.error["message"])
        self._reasons[reason] += 1
        if self._reasons[reason] <= _ALIKE:
            self._say(line)

    def _repeated_errors(self) -> Iterable[str]:
        for reason, count in self._reasons.items():
            if count > _ALIKE:
                yield f"... and {plural(count - _ALIKE, 'more row')}: {reason}"


class QuietRenderer:
    """Shows results, warnings and errors."""

    def __init__(self) -> None:
        self._loud = TextRenderer()
        self._silent = TextRenderer(say=lambda _: None)

    def render(self, event: ReportEvent) -> None:
        """Show an event, or nothing if users need not see it."""
        needed = isinstance(event, Failed | Interrupted | JobUnresolved | RowDone | RowsRejected | Warned)
        (self._loud if needed else self._silent).render(event)

    def close(self) -> None:
        """Do nothing: lines need no end."""


def hints(unfinished: Iterable[Unfinished]) -> list[str]:
    """Unfinished jobs in words. The commands stand on lines of their own, to be copied."""
    commands: dict[str, list[str]] = {}
    for job in unfinished:
        saving = f"is {job.status} and not saved; save it"
        outcome = saving if job.status.terminal else "goes on at its provider; see how it ends"
        commands.setdefault(job.command, []).append(f"job {job.ref} {outcome} with:")
    return [line for command, lines in commands.items() for line in (*lines, f"  {command}")]


def _change(ref: JobRef, event: Event) -> str:
    progress = f"  {event.progress:.0%}" if event.progress is not None and not event.status.terminal else ""
    message = f"  {printable(event.message)[:_MESSAGE]}" if event.message else ""
    return f"{ref}  {event.status}  {duration(event.elapsed)}{progress}{message}"


def _cancellation(ref: JobRef, *, accepted: bool, status: Status) -> str:
    if status is Status.COMPLETED:
        return f"the job was not cancelled: it is completed. To save its files: kling watch {ref}"
    if not accepted:
        return f"the job was not cancelled: it is {status}"
    charged = "most providers charge for the job all the same"
    if status.terminal:
        return f"the job is {status}; {charged}"
    return f"the provider accepted the cancellation, and the job is still {status}; {charged}"


def _submitted(event: JobSubmitted) -> str:
    return f"bought{f' for {event.cost}' if event.cost else ''}; see how it ends with: {event.command}"


def _problem(problem: Problem) -> Iterable[str]:
    first, *rest = problem.lines()
    return [f"error: {first}", *rest]


def _unresolved(submission: Submission) -> Iterable[str]:
    known = f"{submission.state}{f' ({submission.reason})' if submission.reason else ''}"
    yield f"unresolved: {submission.key}  {submission.endpoint}  {known}"
    for number, command in enumerate(as_commands(submission.remedies)):
        yield f"  {'or' if number else 'next'}: {command}"


def _print_estimates(endpoints: Mapping[str, EndpointEstimate]) -> None:
    if not endpoints:
        return
    table = Table(box=None, padding=(0, 3, 0, 0))
    for title in ("Endpoint", "Rows", "Estimate", ""):
        table.add_column(title, justify="right" if title in {"Rows", "Estimate"} else "left")
    for name, sums in endpoints.items():
        unpriced = f"{sums.unpriced} price unknown until the first purchase" if sums.unpriced else ""
        table.add_row(name, f"{sums.rows:,}", sums.words(), Text(unpriced, style="dim"))
    Console(highlight=False).print(table)

"""Events on a terminal: a table of jobs or the progress of a bulk run, drawn anew as things change, and lines above."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kling_async import JobRef, Status
from kling_async._cli.output.events import (
    AllJobsEnded,
    FileProgress,
    FilesSaved,
    JobChanged,
    JobStarted,
    ReportEvent,
    RowDone,
    RunDone,
    RunProgressed,
    RunStarted,
    Submitting,
)
from kling_async._cli.output.formatting import duration, plural, printable, size
from kling_async._cli.output.terminal import Display
from kling_async._cli.output.text import TextRenderer, print_product

if TYPE_CHECKING:
    from kling_async._cli.bulk.progress import BulkProgress

__all__ = ["LiveRenderer"]

_MARKS = {  # and what an ASCII terminal shows
    Status.PENDING: ("○", "o", "yellow"),
    Status.PROCESSING: ("●", "*", "cyan"),
    Status.COMPLETED: ("✓", "+", "green"),
    Status.FAILED: ("✗", "x", "red"),
    Status.CANCELLED: ("✗", "x", "magenta"),
}
_STATES = {
    "completed": "green",
    "failed": "red",
    "refused": "red",
    "unknown": "yellow",
    "running": "cyan",
    "unsaved": "magenta",
    "waiting": "dim",
}
_ALMOST = 0.95  # an estimate never shows a job as done
_BAR = 16  # columns
_SHARE = 5  # columns, for " ~95%"
_STATUS = 12  # columns: a mark and the longest word
_GAP = 2  # columns between two others


@dataclass(slots=True)
class _Row:
    """One job in the table. Times are those of ``time.monotonic``."""

    begun: float
    expected: float | None
    status: Status = Status.PENDING
    progress: float | None = None
    ended: float | None = None
    outcome: str = ""

    def change(self, change: JobChanged) -> None:
        event = change.event
        self.status, self.progress = event.status, event.progress
        if event.status.terminal:
            self.ended = time.monotonic()
            self.outcome = str(event.failures[0]) if event.failures and event.status is Status.FAILED else ""
        if event.status is Status.COMPLETED:
            self.outcome = "saving"

    def age(self) -> float:
        return (self.ended or time.monotonic()) - self.begun

    def share(self) -> tuple[float, str] | None:
        """How far the job is, and the same in words. A ``~`` marks an estimate from the documented times."""
        if self.progress is not None:
            return self.progress, f"{self.progress:.0%}"
        if self.expected is None:
            return None
        share = min(self.age() / self.expected, _ALMOST)
        return share, f"~{share:.0%}"


class LiveRenderer:
    """Draws on standard error. Paths and references still go to standard output.

    Args:
        console: A terminal behind standard error.
        show_refs: Show the full reference of each job that starts, because the job outlives the program.
    """

    def __init__(self, console: Console, *, show_refs: bool) -> None:
        self._show_refs = show_refs
        self._rows: dict[JobRef, _Row] = {}
        self._progress: BulkProgress | None = None
        self._products: list[str] = []
        self._display = Display(console, self._drawn)
        self._lines = TextRenderer(say=self._display.say, product=self._product)

    def render(self, event: ReportEvent) -> None:
        """Draw an event, or show it as a line above."""
        match event:
            case Submitting(endpoint):
                self._display.say(f"submitting to {endpoint} ...")
            case JobStarted(ref, expected) if self._progress is None:
                if self._show_refs:
                    self._display.say(str(ref))
                self._rows[ref] = _Row(time.monotonic(), expected)
                self._display.start()
            case JobChanged(ref):
                self._rows[ref].change(event)
            case FileProgress(ref):
                self._rows[ref].outcome = _saving(event)
            case FilesSaved(result):
                self._rows[result.ref].outcome = _saved(event)
                self._lines.render(event)
            case AllJobsEnded():
                self.close()
            case RunStarted() | RunProgressed() | RowDone() | RunDone():
                self._render_run(event)
            case _:
                self._lines.render(event)

    def close(self) -> None:
        """Let the drawing stand still, and print the lines that the user asked for."""
        self._display.stop()
        for text in self._products:
            print_product(text)
        self._products.clear()

    def _product(self, text: str) -> None:
        """Print a line of what the user asked for, after the drawing: both may be on the same terminal."""
        if self._display.moving:
            self._products.append(text)
        else:
            print_product(text)

    def _render_run(self, event: RunStarted | RunProgressed | RowDone | RunDone) -> None:
        match event:  # the display shows the rows and their progress
            case RunStarted(progress):
                self._progress = progress
                self._display.start()
            case RunDone(_, outputs, _):
                self.close()
                for path in outputs:
                    self._product(str(path))

    def _drawn(self) -> RenderableType:
        return self._table() if self._progress is None else _bulk(self._progress)

    def _table(self) -> RenderableType:
        """The jobs. Where it is narrow, the bars go first, then how far the jobs are. Then names are cut."""
        names = max((len(ref.endpoint) for ref in self._rows), default=0)
        room = self._display.width - names - _STATUS - len("Elapsed") - 3 * _GAP
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, expand=False)
        table.add_column("Job", overflow="ellipsis")
        table.add_column("Status", no_wrap=True, min_width=_STATUS)
        table.add_column("Elapsed", no_wrap=True, justify="right")
        if room >= _SHARE:
            table.add_column("Progress", no_wrap=True, overflow="ellipsis", max_width=room)
        for ref, row in list(self._rows.items()):
            mark, plain, colour = _MARKS[row.status]
            cells: list[RenderableType] = [
                Text(ref.endpoint, no_wrap=True, overflow="ellipsis"),
                Text(f"{plain if self._display.ascii_only else mark} {row.status}", style=colour),
                duration(row.age()),
            ]
            if room >= _SHARE:
                cells.append(_progress(row, bar=room >= _BAR + _SHARE))
            table.add_row(*cells)
        return table


def _saving(event: FileProgress) -> str:
    return f"saving {size(event.done)}{f' of {size(event.total)}' if event.total else ''}"


def _saved(event: FilesSaved) -> str:
    files = f"{len(event.paths)} files, " if len(event.paths) > 1 else ""
    return f"saved {files}{size(sum(path.stat().st_size for path in event.paths))}"


def _progress(row: _Row, *, bar: bool) -> RenderableType:
    if row.status.terminal:
        return Text(printable(row.outcome), style=_MARKS[row.status][-1] if row.status is not Status.COMPLETED else "")
    share = row.share()
    if share is None:
        return Text("")
    if not bar:
        return Text(share[1], style="dim")
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_row(
        ProgressBar(total=1.0, completed=share[0], width=_BAR, complete_style="cyan"), Text(share[1], style="dim")
    )
    return grid


def _bulk(progress: BulkProgress) -> RenderableType:
    bar = Table.grid(padding=(0, 2, 0, 0))
    bar.add_row(
        ProgressBar(total=max(progress.rows, 1), completed=progress.settled, width=40, complete_style="green"),
        Text(f"{progress.settled:,} of {plural(progress.rows, 'row')} done", style="bold"),
        Text(duration(progress.seconds), style="dim"),
        Text(f"{progress.ended * 60 / max(progress.seconds, 1e-3):,.0f} rows/min", style="dim"),
        Text(f"about {duration(progress.eta)} left" if progress.eta else "", style="dim"),
    )
    counts = Text("  ").join(_counts(progress))
    errors = [Text(f"  {text}", style="red", no_wrap=True, overflow="ellipsis") for text in progress.errors]
    return Group(bar, counts, *errors)


def _counts(progress: BulkProgress) -> Iterable[Text]:
    if progress.stopping:
        yield Text("stopping", style="bold")
    for state, words in progress.counts:
        yield Text(words, style=_STATES[state])
    for cost in progress.costs:
        yield Text(cost, style="bold")

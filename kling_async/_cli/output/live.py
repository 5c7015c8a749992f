"""The live table: every job with its status, its age, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kling_async import Event, JobRef, Result, Status
from kling_async._cli.output.formatting import duration, printable, size
from kling_async._cli.output.reports import PlainReport
from kling_async._cli.output.terminal import Display

__all__ = ["LiveReport"]

_MARKS = {
    Status.PENDING: ("○", "yellow"),
    Status.PROCESSING: ("●", "cyan"),
    Status.COMPLETED: ("✓", "green"),
    Status.FAILED: ("✗", "red"),
    Status.CANCELLED: ("✗", "magenta"),
}
_ALMOST = 0.95  # an estimate never says that a job is done
_BAR = 16  # columns
_SHARE = 5  # columns, for " ~95%"
_STATUS = 12  # columns: a mark and the longest word
_GAP = 2  # columns between two others


@dataclass(slots=True)
class _Row:
    """One job in the table; times are those of ``time.monotonic``."""

    begun: float
    expected: float | None
    status: Status = Status.PENDING
    progress: float | None = None
    ended: float | None = None
    outcome: str = ""

    def age(self) -> float:
        return (self.ended or time.monotonic()) - self.begun

    def share(self) -> tuple[float, str] | None:
        """How far the job is, and the same in words; a ``~`` marks an estimate from the documented times."""
        if self.progress is not None:
            return self.progress, f"{self.progress:.0%}"
        if self.expected is None:
            return None
        share = min(self.age() / self.expected, _ALMOST)
        return share, f"~{share:.0%}"


class LiveReport(PlainReport):
    """A table that follows the jobs, on standard error; paths and references still go to standard output.

    Args:
        console: A terminal behind standard error.
        resume: The command that goes on with a job; None: nothing does, the jobs end with the program.
    """

    def __init__(self, console: Console, resume: Callable[[JobRef], str] | None = None) -> None:
        super().__init__(resume)
        self._rows: dict[JobRef, _Row] = {}
        self._products: list[str] = []
        self._display = Display(console, self._table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_drawing()
        super().__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Words for a human, above the table."""
        self._display.say(text)

    def product(self, text: str) -> None:
        """A line of what the user asked for; it comes when the table is done, which may stand on the same terminal."""
        if self._display.moving:
            self._products.append(text)
        else:
            super().product(text)

    def begun(self, ref: JobRef, expected: float | None = None) -> None:
        """A row for the job; its full address is shown once if it outlives us, to be at hand whatever happens."""
        super().begun(ref, expected)
        if self._resume:
            self.say(str(ref))
        self._rows[ref] = _Row(time.monotonic(), expected)
        self._display.start()

    def event(self, ref: JobRef, event: Event) -> None:
        """A job changed."""
        self._unfinished[ref] = event.status
        row = self._rows[ref]
        row.status, row.progress = event.status, event.progress
        if event.status.terminal:
            row.ended = time.monotonic()
            row.outcome = str(event.failures[0]) if event.failures and event.status is Status.FAILED else ""
        if event.status is Status.COMPLETED:
            row.outcome = "saving"

    def saving(self, ref: JobRef, done: int, total: int | None) -> None:
        """A part of a job's file has arrived."""
        self._rows[ref].outcome = f"saving {size(done)}{f' of {size(total)}' if total else ''}"

    def saved(self, result: Result, paths: Sequence[Path]) -> None:
        """A job's files are on the disk."""
        super().saved(result, paths)
        files = f"{len(paths)} files, " if len(paths) > 1 else ""
        self._rows[result.ref].outcome = f"saved {files}{size(sum(path.stat().st_size for path in paths))}"

    def stop_drawing(self) -> None:
        """The table stands still, and what the user asked for follows."""
        self._display.stop()
        for text in self._products:
            super().product(text)
        self._products.clear()

    def _table(self) -> RenderableType:
        """The jobs. Where it is narrow, the bars go first, then how far the jobs are; then names are cut."""
        names = max((len(ref.endpoint) for ref in self._rows), default=0)
        room = self._display.width - names - _STATUS - len("Elapsed") - 3 * _GAP
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, expand=False)
        table.add_column("Job", overflow="ellipsis")
        table.add_column("Status", no_wrap=True, min_width=_STATUS)
        table.add_column("Elapsed", no_wrap=True, justify="right")
        if room >= _SHARE:
            table.add_column("Progress", no_wrap=True, overflow="ellipsis", max_width=room)
        for ref, row in list(self._rows.items()):
            mark, colour = _MARKS[row.status]
            cells: list[RenderableType] = [
                Text(ref.endpoint, no_wrap=True, overflow="ellipsis"),
                Text(f"{mark} {row.status}", style=colour),
                duration(row.age()),
            ]
            if room >= _SHARE:
                cells.append(_progress(row, bar=room >= _BAR + _SHARE))
            table.add_row(*cells)
        return table


def _progress(row: _Row, *, bar: bool) -> RenderableType:
    if row.status.terminal:
        return Text(printable(row.outcome), style=_MARKS[row.status][1] if row.status is not Status.COMPLETED else "")
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

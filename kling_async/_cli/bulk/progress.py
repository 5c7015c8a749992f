"""How far a bulk run has come, as users see it: a live display on a terminal, lines elsewhere, JSON for programs."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kling_async import Cost, JobRef
from kling_async._cli.bulk.results import Record
from kling_async._cli.bulk.rows import BadRow
from kling_async._cli.errors import Problem
from kling_async._cli.output.formatting import duration, money, printable
from kling_async._cli.output.reports import JsonReport, PlainReport, as_json, resume_command
from kling_async._cli.output.terminal import Display, terminal

__all__ = ["BulkProgress", "BulkReport", "choose_bulk_report", "error_line"]

_SHOWN = 20  # bad rows that are told to a human
_ALIKE = 3  # rows of which the same error is told
_ERRORS = 3  # last errors on the live display
_EVERY = 10.0  # s between two lines about how far the run is
_STATES = {
    "completed": "green",
    "failed": "red",
    "refused": "red",
    "unknown": "yellow",
    "running": "cyan",
    "unsaved": "magenta",
    "waiting": "dim",
}


@dataclass(slots=True)
class BulkProgress:
    """How far a run has come.

    Attributes:
        rows: How many there are.
        states: Rows by what has become of them, those of earlier runs included.
        in_flight: Jobs that run now.
        saving: Jobs whose files are being saved now.
        spent: What the jobs that this run bought cost, by unit, as far as providers report it.
        estimated: The documented prices of the other jobs that it bought, by provider.
        begun: When the run began, as of ``time.monotonic``.
        todo: Rows that this run is about.
        ended: Of these, how many it is done with.
        errors: The last errors.
        over: Whether the run is.
    """

    rows: int
    states: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    saving: int = 0
    spent: dict[str, Cost] = field(default_factory=dict)
    estimated: dict[str, Cost] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    todo: int = 0
    ended: int = 0
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=_ERRORS))
    over: bool = False

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.begun

    @property
    def settled(self) -> int:
        """Rows about which nothing more is to be done."""
        return self.rows - self.states["waiting"]

    @property
    def eta(self) -> float | None:
        """Seconds until the last row, at the rate so far; None: it cannot be told, or will not come."""
        if self.over or not self.ended:
            return None
        return (self.todo - self.ended) * self.seconds / self.ended

    def add_cost(self, record: Record) -> None:
        """Count what a row that this run bought cost."""
        provider = record.endpoint.partition("/")[0]
        cost = record.reported_cost
        if cost is not None:
            _add(self.spent, cost.unit, cost)
        elif record.estimated is not None:
            _add(self.estimated, provider, record.estimated)

    @property
    def costs(self) -> list[str]:
        """What was spent, and separately what is only estimated."""
        guesses = self.estimated.items()
        return [
            *(money(cost) for cost in self.spent.values()),
            *(f"about {money(cost)} at {name}, which reports no price" for name, cost in guesses),
        ]

    def words(self) -> str:
        """The same on one line."""
        states = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()) if count)
        cost = f"; {' and '.join(self.costs)}" if self.costs else ""
        return f"{self.settled}/{self.rows} rows: {states}; {self.in_flight} in flight{cost}"


def _add(sums: dict[str, Cost], name: str, cost: Cost) -> None:
    known = sums.get(name)
    sums[name] = Cost(cost.amount + known.amount, cost.unit) if known else cost


class BulkReport(Protocol):
    """What a bulk run tells, beside what every command tells (`Report`)."""

    def bad(self, rows: Sequence[BadRow]) -> None:
        """Rows that are not acceptable."""

    def watch(self, progress: BulkProgress) -> None:
        """Tell of it from now on."""

    def row(self, record: Record) -> None:
        """A row has come to its end."""

    def tick(self) -> None:
        """Some time has passed."""

    def done(self, progress: BulkProgress, outputs: Sequence[Path]) -> None:
        """The run is over, and these files tell of it."""


class PlainBulkReport(PlainReport):
    """Lines: each error, and from time to time how far the run is."""

    def __init__(self, resume: Callable[[JobRef], str]) -> None:
        super().__init__(resume)
        self._progress: BulkProgress | None = None
        self._told = time.monotonic()
        self._reasons: Counter[str] = Counter()

    def bad(self, rows: Sequence[BadRow]) -> None:
        """The first of them, and how many more there are."""
        for row in rows[:_SHOWN]:
            self.say(str(row))
        if len(rows) > _SHOWN:
            self.say(f"... and {len(rows) - _SHOWN} more")

    def watch(self, progress: BulkProgress) -> None:
        """Tell of it from now on."""
        self._progress = progress

    def row(self, record: Record) -> None:
        """Its error, if it has one; the same of many rows (a provider is down, say) is told of the first few."""
        if record.error is None or (text := error_line(record)) is None:
            return
        reason = str(record.error["message"])
        self._reasons[reason] += 1
        if self._reasons[reason] <= _ALIKE:
            self.say(text)

    def tick(self) -> None:
        """How far the run is, once in a while."""
        if self._progress is not None and time.monotonic() - self._told >= _EVERY:
            self._told = time.monotonic()
            left = f"; about {duration(self._progress.eta)} left" if self._progress.eta else ""
            self.say(f"{self._progress.words()}{left}")

    def done(self, progress: BulkProgress, outputs: Sequence[Path]) -> None:
        """What came of it, and the files that tell more."""
        for reason, count in self._reasons.items():
            if count > _ALIKE:
                self.say(f"... and {count - _ALIKE:,} more rows: {reason}")
        self.say(progress.words())
        for path in outputs:
            self.product(str(path))

    def failed(self, problem: Problem) -> None:
        """The problem in words."""
        for line in problem.lines():
            self.say(line if line.startswith(" ") else f"error: {line}")


class LiveBulkReport(PlainBulkReport):
    """A display that follows the run, on standard error."""

    def __init__(self, console: Console, resume: Callable[[JobRef], str]) -> None:
        super().__init__(resume)
        self._display = Display(console, self._drawn)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()
        super().__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """Words for a human, above the display."""
        self._display.say(text)

    def watch(self, progress: BulkProgress) -> None:
        """Show it from now on."""
        super().watch(progress)
        self._display.start()

    def row(self, record: Record) -> None:
        """Its error is on the display."""

    def tick(self) -> None:
        """The display refreshes itself."""

    def done(self, progress: BulkProgress, outputs: Sequence[Path]) -> None:
        """The display stands still, and the files follow."""
        self._display.stop()
        for path in outputs:
            self.product(str(path))
        del progress

    def _drawn(self) -> RenderableType:
        progress = self._progress
        if progress is None:
            return Text("")
        bar = Table.grid(padding=(0, 2, 0, 0))
        bar.add_row(
            ProgressBar(total=max(progress.rows, 1), completed=progress.settled, width=40, complete_style="green"),
            Text(f"{progress.settled:,} of {progress.rows:,} rows", style="bold"),
            Text(duration(progress.seconds), style="dim"),
            Text(f"{progress.ended * 60 / max(progress.seconds, 1e-3):,.0f} rows/min", style="dim"),
            Text(f"about {duration(progress.eta)} left" if progress.eta else "", style="dim"),
        )
        counts = Text("  ").join(_counts(progress))
        errors = [Text(f"  {text}", style="red", no_wrap=True, overflow="ellipsis") for text in progress.errors]
        return Group(bar, counts, *errors)


class JsonBulkReport(JsonReport):
    """One JSON object a line: each row as ``results.jsonl`` has it, and at the end a summary."""

    def bad(self, rows: Sequence[BadRow]) -> None:
        """``{"type": "bad-row", ...}`` each."""
        for row in rows:
            self.tell(type="bad-row", **asdict(row))

    def watch(self, progress: BulkProgress) -> None:
        """Nothing: rows are told as they end."""

    def row(self, record: Record) -> None:
        """``{"type": "row", ...}``: the row as ``results.jsonl`` has it."""
        self.tell(type="row", **asdict(record))

    def tick(self) -> None:
        """Nothing: programs count for themselves."""

    def done(self, progress: BulkProgress, outputs: Sequence[Path]) -> None:
        """``{"type": "summary", ...}``."""
        spent: dict[str, Decimal] = {cost.unit: cost.amount.normalize() + 0 for cost in progress.spent.values()}
        self.tell(
            type="summary",
            rows=progress.rows,
            states={state: count for state, count in progress.states.items() if count},
            spent=spent,
            estimated={name: as_json(cost) for name, cost in progress.estimated.items()},
            seconds=round(progress.seconds, 3),
            outputs=outputs,
        )


def choose_bulk_report(*, as_json: bool, directory: Path) -> PlainBulkReport | JsonBulkReport:
    """JSON lines if asked for, a live display on a terminal, lines elsewhere.

    Args:
        as_json: Whether JSON was asked for.
        directory: Where results are saved; part of the command that goes on with a job that no ledger has.
    """

    def resume(ref: JobRef) -> str:
        return resume_command(ref, directory)

    if as_json:
        return JsonBulkReport(resume)
    console = terminal()
    return LiveBulkReport(console, resume) if console else PlainBulkReport(resume)


def _counts(progress: BulkProgress) -> Iterable[Text]:
    yield Text(f"{progress.in_flight:,} in flight", style="cyan")
    if progress.saving:
        yield Text(f"{progress.saving:,} saving", style="cyan")
    for state, style in _STATES.items():
        if progress.states[state]:
            yield Text(f"{progress.states[state]:,} {'to do' if state == 'waiting' else state}", style=style)
    for cost in progress.costs:
        yield Text(cost, style="bold")


def error_line(record: Record) -> str | None:
    """What went wrong with a row, on one line; None: nothing."""
    if record.error is None or record.state == "completed":
        return None
    return f"line {record.line}: {record.state}: {printable(record.error['message'])}"

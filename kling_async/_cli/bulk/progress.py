"""The state of a bulk run: rows, jobs, costs and time."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field

from kling_async import Cost
from kling_async._cli.output.formatting import plural
from kling_async._rows.records import Record

__all__ = ["BulkProgress"]

_ERRORS = 3  # last errors on the live display
_WORDS = {
    "completed": "completed",
    "failed": "failed",
    "refused": "refused",
    "unknown": "with an unknown outcome",
    "running": "still running",
    "unsaved": "not saved",
    "waiting": "not submitted",
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
        begun: When the run began, on the clock of ``time.monotonic``.
        todo: Rows that this run is about.
        ended: Of these, how many it is done with.
        errors: The last errors.
        stopping: Whether the user has stopped it: no further row is bought, and the running jobs are waited for.
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
    stopping: bool = False
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
        """Seconds until the last row, at the rate so far, or None if there is no estimate."""
        if self.over or self.stopping or not self.ended:
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
            *(str(cost) for cost in self.spent.values()),
            *(f"about {cost} at {name}, which reports no price" for name, cost in guesses),
        ]

    @property
    def counts(self) -> list[tuple[str, str]]:
        """How many rows are where, in words. Each has the state that it is about."""
        under_way = [("running", self.in_flight, "running"), ("running", self.saving, "being saved")]
        unsubmitted = max(self.states["waiting"] - self.in_flight - self.saving, 0)
        rows = {**self.states, "waiting": unsubmitted}
        found = [*under_way, *((state, rows.get(state, 0), words) for state, words in _WORDS.items())]
        return [(state, f"{count:,} {words}") for state, count, words in found if count]

    def words(self) -> str:
        """The same on one line."""
        states = ", ".join(words for _, words in self.counts)
        where = " in this run" if self.todo < self.rows else ""
        cost = f"; {' and '.join(self.costs)} spent{where}" if self.costs else ""
        stopping = "stopping; " if self.stopping and not self.over else ""
        return f"{stopping}{self.settled:,} of {plural(self.rows, 'row')} done: {states or 'nothing'}{cost}"


def _add(sums: dict[str, Cost], name: str, cost: Cost) -> None:
    known = sums.get(name)
    sums[name] = Cost(cost.amount + known.amount, cost.unit) if known else cost

"""How far a bulk run has come."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import anyio

from kling_async._bulk.outcome import Outcome
from kling_async._errors import SubmissionUnknown
from kling_async._models import Cost

__all__ = ["BulkStatistics", "Progress", "counted_rows"]


@dataclass(frozen=True, slots=True)
class BulkStatistics:
    """How far a bulk run has come.

    Attributes:
        submitted: Jobs that were submitted, or found in the ledger.
        in_flight: Rows that are being submitted, and jobs that have not ended yet.
        done: Rows with a result.
        failed: Rows with an error, the unknown ones not counted.
        unknown: Rows whose submission may or may not have bought a job.
        left: Rows that were not submitted, because submissions to their provider have stopped, or because the run was
            stopped while they waited for something.
        cost: What the jobs that this run submitted have cost, as far as their providers report it, without what was
            refunded. One entry per unit.
        rate: Rows ended per second, over the whole run.
        eta: Seconds until the last row, at that rate. None if it is not known.
        saving: Rows whose results are being saved.
        total: Rows of the input. None if it has no length.
    """

    submitted: int
    in_flight: int
    done: int
    failed: int
    unknown: int
    left: int
    cost: tuple[Cost, ...]
    rate: float
    eta: float | None
    saving: int = 0
    total: int | None = None

    @property
    def ended(self) -> int:
        """Rows that have an outcome, or will have none."""
        return self.done + self.failed + self.unknown + self.left

    def __str__(self) -> str:
        """The same in words, such as ``37 of 100 rows: 35 done, 2 failed, 20 in flight, $1.05``."""
        counts = {
            "done": self.done,
            "failed": self.failed,
            "unknown": self.unknown,
            "in flight": self.in_flight,
            "being saved": self.saving,
            "not submitted": self.left,
        }
        words = [f"{count} {name}" for name, count in counts.items() if count] + [str(cost) for cost in self.cost]
        if self.eta:
            words.append(f"about {int(self.eta) // 60}:{int(self.eta) % 60:02} left")
        rows = counted_rows(self.ended, self.total)
        return f"{rows}: {', '.join(words)}" if words else rows


def counted_rows(ended: int, total: int | None) -> str:
    """Such as ``3 of 5 rows``."""
    noun = "row" if (ended if total is None else total) == 1 else "rows"
    return f"{ended} {noun}" if total is None else f"{ended} of {total} {noun}"


@dataclass(slots=True, eq=False, repr=False)
class Progress:
    """Counts the rows of a run."""

    total: int | None = None
    submitted: int = 0
    in_flight: int = 0
    saving: int = 0
    done: int = 0
    failed: int = 0
    unknown: int = 0
    left: int = 0
    costs: dict[str, Decimal] = field(default_factory=dict)
    started: float | None = None
    stopped: float | None = None

    @property
    def ended(self) -> int:
        """Rows that have an outcome."""
        return self.done + self.failed + self.unknown

    def end(self, outcome: Outcome) -> None:
        """Count the outcome of a row."""
        error = outcome.error
        self.done += error is None
        self.unknown += isinstance(error, SubmissionUnknown)
        self.failed += error is not None and not isinstance(error, SubmissionUnknown)
        job = outcome.job
        if outcome.new and job is not None and not job.refunded and (cost := job.cost) is not None:
            self.costs[cost.unit] = self.costs.get(cost.unit, Decimal(0)) + cost.amount

    def statistics(self, leaving: int = 0) -> BulkStatistics:
        """How far the run has come.

        Args:
            leaving: How many of the rows in flight were given up before they were sent.
        """
        seconds = (self.stopped or anyio.current_time()) - self.started if self.started is not None else 0.0
        rate = self.ended / seconds if seconds > 0 else 0.0
        known = self.total is not None and rate > 0
        return BulkStatistics(
            submitted=self.submitted,
            in_flight=self.in_flight - leaving,
            done=self.done,
            failed=self.failed,
            unknown=self.unknown,
            left=self.left + leaving,
            cost=tuple(Cost(amount, unit) for unit, amount in sorted(self.costs.items())),  # type: ignore[arg-type]  # units come from Costs
            rate=rate,
            eta=((self.total or 0) - self.ended - self.left - leaving) / rate if known else None,
            saving=self.saving,
            total=self.total,
        )

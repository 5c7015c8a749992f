"""What a bulk run has to do: the rows that are not settled by earlier runs, and what they would cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kling_async import Cost
from kling_async._cli.bulk.progress import JsonBulkReport, PlainBulkReport
from kling_async._cli.bulk.results import Record, Results
from kling_async._cli.bulk.rows import BadRow, Row, Shard
from kling_async._cli.output.formatting import money
from kling_async._cli.output.reports import as_json

__all__ = ["OutputPaths", "Task", "conflicts", "estimate", "plan_of", "record_before"]


@dataclass(frozen=True, slots=True)
class OutputPaths:
    """Where everything is. Shards share a directory, and nothing in it but the files of results.

    Attributes:
        directory: What ``--output`` names.
        results: See `kling_async._cli.bulk.results`.
        page: See `kling_async._cli.bulk.html_report`.
        ledger: What was bought is written down here; None: nowhere.
    """

    directory: Path
    results: Path
    page: Path
    ledger: Path | None

    @classmethod
    def of(cls, directory: Path, shard: Shard | None, ledger: Path | None, *, kept: bool) -> OutputPaths:
        """The places in a directory."""
        mark = f"-{shard.number}-of-{shard.of}" if shard else ""
        return cls(
            directory,
            directory / f"results{mark}.jsonl",
            directory / f"report{mark}.html",
            (ledger or directory / f"ledger{mark}.db") if kept else None,
        )


@dataclass(frozen=True, slots=True)
class Task:
    """A row to be bought, or found again in the ledger, and which purchase of it that is.

    Attributes:
        row: The row.
        record: What is known of it before.
    """

    row: Row
    record: Record

    @property
    def key(self) -> str:
        """The key of the purchase."""
        return self.record.submission


def conflicts(rows: Iterable[Row], results: Results, places: OutputPaths) -> Iterable[BadRow]:
    """Rows whose keys are known from earlier runs as other rows."""
    for row in rows:
        known = results.records.get(row.key)
        if known is not None and known.digest != row.digest and known.state not in {"waiting", "refused"}:
            yield BadRow(row.line, "key", f"{row.key!r:.60} is another row in {places.results}; use another key")


def plan_of(rows: Sequence[Row], results: Results, places: OutputPaths, *, retry: bool, save: bool) -> list[Task]:
    """What is to be done: everything that is not settled."""
    plan = []
    for row in rows:
        fresh, known = record_before(row), results.records.get(row.key)
        if known is None:
            plan.append(Task(row, fresh))
        elif known.digest != row.digest:
            plan.append(Task(row, replace(fresh, attempt=known.attempt)))
        elif not _is_done(known, places, retry=retry, save=save):
            plan.append(Task(row, _again(fresh, known)))
    return plan


def _again(fresh: Record, known: Record) -> Record:
    """The record of a row's next attempt, if the last one failed; else of the same one, which goes on."""
    if known.state == "failed":
        return replace(fresh, attempt=known.attempt + 1, before=as_json(known.spent))
    return replace(fresh, attempt=known.attempt, before=known.before)


def _is_done(known: Record, places: OutputPaths, *, retry: bool, save: bool) -> bool:
    """Whether nothing is to be done about a row of which an earlier run tells."""
    if known.state == "waiting":
        return False
    if known.state == "failed":
        return not (retry and known.retryable)
    if known.state == "refused":
        return not retry
    if places.ledger is None:
        return True  # nobody would know the job: what may have been bought is not bought again
    return known.state == "completed" and known.whole(places.directory, save=save)


def record_before(row: Row) -> Record:
    """A row that is still to be bought."""
    return Record(
        row.key,
        row.digest,
        row.line,
        row.endpoint.name,
        "waiting",
        request=row.request.describe(),
        columns=row.columns,
    )


def estimate(
    plan: Sequence[Task], rows: Sequence[Row], results: Results, report: PlainBulkReport | JsonBulkReport
) -> None:
    """Tell what it would cost, by endpoint: by documented prices, else by what rows of earlier runs cost."""
    seen = results.prices()
    sums: dict[str, dict[str, Any]] = {}
    for task in plan:
        name = task.row.endpoint.name
        price = task.row.endpoint.price(task.row.request) or seen.get(name)
        entry = sums.setdefault(name, {"rows": 0, "unpriced": 0, "cost": None})
        entry["rows"] += 1
        if price is None:
            entry["unpriced"] += 1
        else:
            spent = entry["cost"].amount if entry["cost"] else Decimal(0)
            entry["cost"] = Cost(spent + price.amount, price.unit)
    report.say(f"{len(rows)} valid rows, {len(rows) - len(plan)} of them done; nothing was bought")
    if isinstance(report, JsonBulkReport):
        told = {name: {**entry, "cost": entry["cost"] and str(entry["cost"])} for name, entry in sums.items()}
        report.tell(type="dry-run", rows=len(rows), todo=len(plan), endpoints=told)
        return
    table = Table(box=None, padding=(0, 3, 0, 0))
    for title in ("Endpoint", "Rows", "Estimate", ""):
        table.add_column(title, justify="right" if title in {"Rows", "Estimate"} else "left")
    for name, entry in sums.items():
        unpriced = f"{entry['unpriced']} price unknown until the first purchase" if entry["unpriced"] else ""
        table.add_row(
            name,
            f"{entry['rows']:,}",
            money(entry["cost"]) if entry["cost"] else "unknown",
            Text(unpriced, style="dim"),
        )
    Console(highlight=False).print(table)

"""What a bulk run has to do: the rows that earlier runs did not finish, and what they would cost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kling_async import Client, Cost
from kling_async._cli.bulk.results import Results
from kling_async._cli.bulk.store import RunStore
from kling_async._rows.amounts import as_json
from kling_async._rows.reader import BadRow, Row, Shard
from kling_async._rows.records import Record

__all__ = [
    "EndpointEstimate",
    "OutputPaths",
    "Task",
    "conflicts",
    "estimates",
    "plan_of",
    "record_before",
    "resembling",
]

_BOUGHT = frozenset({"completed", "failed", "unknown", "running", "unsaved"})


@dataclass(frozen=True, slots=True)
class OutputPaths:
    """Where everything is. Shards share a directory, and nothing in it but the files of results.

    Attributes:
        directory: What ``--output`` names.
        results: See `kling_async._cli.bulk.results`.
        page: See `kling_async._cli.bulk.html_report`.
        ledger: Where submissions are stored. If None, nowhere.
        store: The object store that `--output` names. The directory is then one of this machine. If None, there is
            none.
    """

    directory: Path
    results: Path
    page: Path
    ledger: Path | None
    store: RunStore | None = None

    def size_of(self, path: str) -> int | None:
        """The bytes of a file of the results. None if there is none."""
        if self.store is not None:
            return self.store.sizes.get(path)
        place = self.directory / path
        return place.stat().st_size if place.is_file() else None

    @classmethod
    def of(
        cls, directory: Path, shard: Shard | None, ledger: Path | None, *, kept: bool, store: RunStore | None = None
    ) -> OutputPaths:
        """The places in a directory."""
        mark = f"-{shard.number}-of-{shard.of}" if shard else ""
        return cls(
            directory,
            directory / f"results{mark}.jsonl",
            directory / f"report{mark}.html",
            (ledger or directory / f"ledger{mark}.db") if kept else None,
            store,
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
    """What is to be done: everything that is not finished."""
    plan = []
    for row in rows:
        fresh, known = record_before(row, places.directory), results.records.get(row.key)
        if known is None:
            plan.append(Task(row, fresh))
        elif known.digest != row.digest:
            plan.append(Task(row, replace(fresh, attempt=known.attempt)))
        elif not _is_done(known, places, retry=retry, save=save):
            plan.append(Task(row, _again(fresh, known)))
    return plan


def resembling(plan: Sequence[Task], results: Results) -> list[Task]:
    """Rows to be bought whose endpoint and prompt are those of another row that was bought earlier.

    A row that means the same is the same row, whatever its form. This finds those with other settings, which may be
    an oversight. Letter case and blanks of the prompt make no difference.
    """
    bought = {
        (record.endpoint, _folded(record.request))
        for record in results.records.values()
        if record.state in _BOUGHT and _folded(record.request)
    }
    new = [task for task in plan if task.row.key not in results.records]
    return [task for task in new if (task.row.endpoint.name, _folded(task.row.request.describe())) in bought]


def _folded(request: Mapping[str, Any] | None) -> str:
    prompt = (request or {}).get("prompt")
    return " ".join(prompt.split()).casefold() if isinstance(prompt, str) else ""


def _again(fresh: Record, known: Record) -> Record:
    """The record of a row's next attempt, if the last one failed, else of the same one, which goes on."""
    if known.state == "failed":
        return replace(fresh, attempt=known.attempt + 1, before=as_json(known.spent))
    return replace(fresh, attempt=known.attempt, before=known.before)


def _is_done(known: Record, places: OutputPaths, *, retry: bool, save: bool) -> bool:
    """Whether nothing is to be done about a row of which an earlier run has a record."""
    if known.state == "waiting":
        return False
    if known.state == "failed":
        return not (retry and known.retryable)
    if known.state == "refused":
        return not retry
    if places.ledger is None:
        return True  # nobody would know the job: what may have been bought is not bought again
    return known.state == "completed" and known.whole(places.size_of, save=save)


def record_before(row: Row, directory: Path) -> Record:
    """A row that is still to be bought.

    Args:
        row: The row.
        directory: The output directory.
    """
    return Record(
        row.key,
        row.digest,
        row.line,
        row.endpoint.name,
        "waiting",
        request=row.described(),
        folder=_way(row.folder, directory),
        prepared={original: _way(file, directory) for original, file in row.prepared().items()},
        columns=row.columns,
    )


def _way(folder: Path, directory: Path) -> str:
    """The path from the output directory to the folder of the rows."""
    try:
        return Path(os.path.relpath(folder, directory)).as_posix()
    except ValueError:  # another drive
        return folder.absolute().as_posix()


@dataclass(slots=True)
class EndpointEstimate:
    """What the rows of one endpoint would cost.

    Attributes:
        rows: How many rows would be bought.
        unpriced: For how many of these no price is known.
        cost: The sum for the others.
        estimated: Whether the sum has a price that no provider states as binding.
    """

    rows: int = 0
    unpriced: int = 0
    cost: Cost | None = None
    estimated: bool = False

    def add(self, cost: Cost | None, *, estimated: bool) -> None:
        """Count one row."""
        self.rows += 1
        if cost is None:
            self.unpriced += 1
            return
        self.cost = Cost(cost.amount + (self.cost.amount if self.cost else 0), cost.unit)
        self.estimated = self.estimated or estimated

    def words(self) -> str:
        """The sum in words."""
        if self.cost is None:
            return "unknown"
        return f"{'about ' if self.estimated else ''}{self.cost}"

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        cost = str(self.cost) if self.cost else None
        return {"rows": self.rows, "unpriced": self.unpriced, "cost": cost, "estimated": self.estimated}


async def estimates(plan: Sequence[Task], client: Client, prices: Mapping[str, Cost]) -> dict[str, EndpointEstimate]:
    """What the plan would cost, by endpoint.

    The figures are those of the budget: the documented price, or the cost of the same settings in the ledger, if
    that was more. Where neither is known, it is what rows of earlier runs cost at most.

    Args:
        plan: The rows that would be bought.
        client: Estimates requests. It has the providers of all rows, and the run's ledger.
        prices: What rows of earlier runs cost at most, by endpoint.
    """
    sums: dict[str, EndpointEstimate] = {}
    for task in plan:
        # The first quote is that of the provider that would make the row.
        quote = (await client.quote(task.row.request))[0]
        name = quote.endpoint if quote.available else task.row.endpoint.name
        cost = quote.cost or prices.get(name)
        sums.setdefault(name, EndpointEstimate()).add(cost, estimated=quote.price != "exact")
    return sums

"""What has become of the rows of a bulk run: ``results.jsonl``, one line a row.

While the run goes on, lines are added, and the last line of a key counts: nothing that was written is ever in danger.
When the run ends, the file is written anew, in the order of the rows, and takes the place of the old one at once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from io import FileIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from kling_async import (
    BudgetExceeded,
    ContentRejected,
    Cost,
    GenerationCancelled,
    GenerationFailed,
    GenerationTimeout,
    InsufficientCredits,
    InvalidRequest,
    KeyConflict,
    LedgerFailed,
    NotOffered,
    Outcome,
    Result,
    SubmissionUnknown,
    Unauthorized,
)
from kling_async._cli.atomic_file import unwritten, written_anew
from kling_async._cli.errors import CommandError, explain
from kling_async._cli.output.formatting import as_json, printable
from kling_async._cli.request_arguments import find

__all__ = ["Record", "Results", "State", "makers", "record_of"]

State: TypeAlias = Literal["waiting", "completed", "failed", "refused", "unknown", "running", "unsaved"]
"""What has become of a row: it is still to be bought, it is made (and saved), the job failed or was cancelled, the
provider refused the request, a job may have been bought, the job still runs, the job is done and a file is not saved.
"""


@dataclass(frozen=True, slots=True)
class Record:
    """What has become of one row, as JSON values.

    Attributes:
        key: The row's key.
        digest: Of the row's cells: another one under the same key is another request.
        line: Where the row stands in the file.
        endpoint: Where it went.
        state: See `State`.
        request: What was asked for, images that were given inline as their digests.
        folder: Where relative paths in the request start, as a path from the output directory.
        prepared: The files that were sent in place of images of the request, as paths from the output directory.
        asked: The endpoint that the row names, ``video`` or ``image``, where another one made it.
        columns: The cells that ``--ignore-columns`` ignored.
        attempt: Which purchase this is, from 1: ``--retry-failed`` makes another.
        ref: The job's address, once there is one.
        started: When it was bought, ISO 8601.
        elapsed: How long it took, in seconds.
        cost: Its amount as text, and its unit, or None if nothing was spent in the end, or no cost is reported.
        refunded: In place of `cost`, what the provider took and gave back because the job failed.
        estimate: In place of `cost`, the documented price, where the provider reports no cost.
        before: What earlier attempts cost.
        files: Its files: ``path`` from the output directory, ``kind``, ``bytes``, ``seed``.
        urls: Where the files are (for a while), where they are not saved.
        error: What went wrong: ``kind``, ``message``, ``code``.
        retryable: Whether ``--retry-failed`` buys it again.
    """

    key: str
    digest: str
    line: int
    endpoint: str
    state: State
    request: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    prepared: Mapping[str, str] = field(default_factory=dict)
    asked: str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 1
    ref: str | None = None
    started: str | None = None
    elapsed: float | None = None
    cost: Mapping[str, str] | None = None
    refunded: Mapping[str, str] | None = None
    estimate: Mapping[str, str] | None = None
    before: Mapping[str, str] | None = None
    files: tuple[Mapping[str, Any], ...] = ()
    urls: tuple[str, ...] = ()
    error: Mapping[str, str | None] | None = None
    retryable: bool = False

    @property
    def submission(self) -> str:
        """The key under which it is bought: each attempt is a purchase of its own."""
        return self.key if self.attempt == 1 else f"{self.key}#{self.attempt}"

    @property
    def spent(self) -> Cost | None:
        """What the row cost in the end, all attempts together."""
        found = [cost for cost in (_amount(self.cost), _amount(self.before)) if cost is not None]
        return Cost(sum((cost.amount for cost in found), Decimal(0)), found[0].unit) if found else None

    @property
    def reported_cost(self) -> Cost | None:
        """What this attempt cost, as the provider reports it."""
        return _amount(self.cost)

    @property
    def estimated(self) -> Cost | None:
        """The documented price, where the provider reports no cost."""
        return _amount(self.estimate)

    @property
    def price(self) -> Cost | None:
        """What the provider took for this attempt, be it that it was given back."""
        return _amount(self.cost or self.refunded)

    @property
    def error_line(self) -> str | None:
        """What went wrong, on one line. If None, nothing did."""
        if self.error is None or self.state == "completed":
            return None
        return f"line {self.line}: {printable(self.error['message'])}"

    @property
    def stopped_by(self) -> str | None:
        """The kind of its error, if that stopped the buying: then no other row was submitted either."""
        kind = self.error["kind"] if self.error is not None and self.state == "waiting" else None
        return kind if kind in _STOPPING else None

    def whole(self, size_of: Callable[[str], int | None], *, save: bool) -> bool:
        """Whether all its files are where they were saved, as large as they were.

        Args:
            size_of: Returns the bytes of a file by its path, None if there is none.
            save: Whether files that were not saved at all are wanted.
        """
        if save and self.urls and not self.files:
            return False
        return all(size_of(file["path"]) == file["bytes"] for file in self.files)


_STOPPING = frozenset(kind.__name__ for kind in (BudgetExceeded, InsufficientCredits, Unauthorized, LedgerFailed))


def record_of(before: Record, outcome: Outcome) -> Record:
    """What has become of a row, by its outcome. The files are not saved yet.

    Args:
        before: The row when it was still to be bought.
        outcome: What came of it.
    """
    job, error, result = outcome.job, outcome.error, outcome.result
    cost = as_json(job.cost) if job else None
    if job is not None:
        # Of a row for any provider, the one that made it.
        asked = before.endpoint if before.endpoint != job.ref.endpoint else None
        before = replace(before, endpoint=job.ref.endpoint, asked=asked)
    refunded = job is not None and job.refunded
    first, last = (job.events[0], job.events[-1]) if job and job.events else (None, None)
    problem = explain(error) if error else None
    return replace(
        before,
        state="unsaved" if error is None else _state(error),
        ref=str(job.ref) if job else None,
        started=first.at.isoformat(timespec="seconds") if first else None,
        elapsed=round(last.elapsed, 1) if last and last.status.terminal else None,
        cost=None if refunded else cost,
        refunded=cost if refunded else None,
        estimate=_estimate(before, outcome) if job and cost is None and not refunded else None,
        urls=tuple(result.urls) if isinstance(result, Result) else (),
        error={"kind": problem.kind, "message": problem.sentence, "code": getattr(error, "code", None)}
        if problem
        else None,
        retryable=isinstance(error, GenerationCancelled)
        or (isinstance(error, GenerationFailed) and error.retryable is not False),
    )


def makers(records: Iterable[Record]) -> list[str]:
    """Who made how many rows, and what they cost. Empty if one endpoint made all of them."""
    rows: Counter[str] = Counter()
    costs: dict[str, dict[str, Decimal]] = {}
    for record in records:
        if record.state != "completed":
            continue
        rows[record.endpoint] += 1
        cost = record.reported_cost or record.estimated
        if cost is not None:
            sums = costs.setdefault(record.endpoint, {})
            sums[cost.unit] = sums.get(cost.unit, Decimal(0)) + cost.amount
    if len(rows) < 2:  # noqa: PLR2004  # one needs no list
        return []
    return [
        f"{endpoint}: {count:,} row{'s' if count != 1 else ''}"
        + "".join(f", {Cost(amount, unit)!s}" for unit, amount in costs.get(endpoint, {}).items())  # type: ignore[arg-type]  # units come from Costs
        for endpoint, count in rows.most_common()
    ]


def _estimate(before: Record, outcome: Outcome) -> dict[str, str] | None:
    if isinstance(outcome.error, GenerationFailed | GenerationCancelled):
        return None  # nobody knows whether it was charged
    request = outcome.job.request if outcome.job is not None else None
    price = find(before.endpoint)[1].price(request or outcome.request)
    return as_json(price.cost if price is not None else None)


def _amount(fields: Mapping[str, str] | None) -> Cost | None:
    """The amount that `as_json` wrote."""
    return Cost(Decimal(fields["amount"]), "credits" if fields["unit"] == "credits" else "USD") if fields else None


def _state(error: Exception) -> State:
    if isinstance(error, GenerationFailed | GenerationCancelled):
        return "failed"
    if isinstance(error, InvalidRequest | ContentRejected | KeyConflict | NotOffered | ValueError):
        return "refused"
    if isinstance(error, SubmissionUnknown):
        return "unknown"
    if isinstance(error, GenerationTimeout):
        return "running"
    return "running" if getattr(error, "ref", None) else "waiting"  # not reached, not now: the next run tries again


_RECORD = TypeAdapter(Record)


class Results:
    """The file of results, read and written.

    Args:
        path: The file. It is made by the first line.

    Raises:
        OSError: It cannot be read.
        CommandError: A line is JSON, and not a record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[str, Record] = {}
        self._file: FileIO | None = None
        if path.exists():
            for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
                try:
                    record = _read(line)
                except ValueError as error:
                    raise CommandError(
                        f"{path}, line {number}: it is not a record of kling bulk ({error}); correct the line or "
                        "remove it. Nothing was bought"
                    ) from error
                if record is not None:
                    self.records[record.key] = record

    def add(self, record: Record) -> None:
        """Add a line, which is in the hands of the operating system when this returns.

        A power failure may lose it. Then the ledger has the job, and its files are asked for again.

        Raises:
            CommandError: It cannot be written.
        """
        self.records[record.key] = record
        try:
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
                self._write(b"\n" if self._file.tell() else b"")  # the last line may be torn
            self._write(_line(record))
        except OSError as error:
            self._done()
            raise unwritten(self.path, error) from error

    def _done(self) -> None:
        """No more lines are added for now."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, line: bytes) -> None:
        while line and self._file is not None:
            line = line[self._file.write(line) :]

    def close(self, order: Iterable[str]) -> None:
        """Write the file anew, one line a key: those of `order` first, and then those of rows that it lacks.

        Raises:
            CommandError: It cannot be written.
        """
        self._done()
        if not self.records:
            return
        keys = [key for key in dict.fromkeys([*order, *self.records]) if key in self.records]
        with written_anew(self.path) as file:
            for key in keys:
                file.write(_line(self.records[key]))

    def prices(self) -> dict[str, Cost]:
        """What rows have cost, by endpoint: the dearest of each."""
        dearest: dict[str, Cost] = {}
        for record in self.records.values():
            cost = record.price
            if cost is not None and (record.endpoint not in dearest or dearest[record.endpoint].amount < cost.amount):
                dearest[record.endpoint] = cost
        return dearest


def _line(record: Record) -> bytes:
    fields = {name: value for name, value in asdict(record).items() if value not in (None, (), {}, False, "")}
    return json.dumps(fields, default=str).encode() + b"\n"


def _read(line: bytes) -> Record | None:
    """The record of a line. If None, the line is empty, or only a part of it was written.

    Raises:
        ValueError: It is JSON, and not a record.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    try:
        record: Record = _RECORD.validate_python(values)
        _ = record.spent, record.price, record.estimated
        if all(isinstance(file["path"], str) and isinstance(file["bytes"], int) for file in record.files):
            return record
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'the line'}: {first['msg']}") from error
    except (KeyError, TypeError, ArithmeticError) as error:
        raise ValueError(f"an amount or a file is incomplete: {error!r}") from error
    raise ValueError("files: a file needs its path and its size")

"""What has become of the rows of a bulk run: ``results.jsonl``, one line a row.

While the run goes on, lines are added, and the last line of a key counts: nothing that was written is ever in danger.
When the run ends, the file is written anew, in the order of the rows, and takes the place of the old one at once.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from decimal import Decimal
from io import FileIO
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from kling_async import Cost
from kling_async._cli.atomic_file import unwritten, written_anew
from kling_async._cli.errors import CommandError
from kling_async._rows.records import Record

__all__ = ["Results", "makers"]


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

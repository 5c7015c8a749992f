"""The rows of a bulk file: from JSONL, CSV or Parquet to validated requests, or to what is wrong with them.

A row's cells are the fields of its request, and:

- ``endpoint_id``, such as ``runblob/o3-video``;
- ``key``, the row's name; a digest of its cells where there is none, so that the same file names its rows the same;
- ``request``, in place of the fields: the provider's own JSON.

References are addresses, data URIs, ids of uploaded images, or paths, which count from the file's directory.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import ValidationError

from kling_async._cli.errors import CommandError
from kling_async._cli.request_arguments import acceptable, decoded, find, images, is_uuid
from kling_async._urls import is_url
from kling_async.providers._base.endpoint import Endpoint
from kling_async.providers._base.request import Request

__all__ = ["BadRow", "Cells", "Row", "Shard", "read_cells", "rows_from"]

Cells: TypeAlias = dict[str, Any]

SEPARATOR = "|"
"""What stands between the references of one CSV cell."""

_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv", ".parquet": "parquet"}
_NAMES = ("endpoint", "key", "request")  # columns that are no fields
_KEY = 200  # characters
_CELL = 2**31 - 1  # bytes of one CSV cell: data URIs are large
_DIGEST = 16  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class Row:
    """One row that can be bought.

    Attributes:
        line: Where it stands in the file, from 1 (of Parquet: the number of the row).
        key: Its name.
        digest: Of its cells: equal for rows that say the same.
        endpoint: Where it goes.
        request: What is to be generated.
    """

    line: int
    key: str
    digest: str
    endpoint: Endpoint[Any]
    request: Request


@dataclass(frozen=True, slots=True)
class BadRow:
    """What is wrong with a row: one field of it."""

    line: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a file: every row whose key falls to it, whatever the order of the rows.

    Attributes:
        number: Which, from 1.
        of: How many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that ``3/16`` spells.

        Raises:
            CommandError: It spells none.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise CommandError(f"--shard {text!r:.40}: it is of the form 3/16, the third of sixteen parts")
        return cls(int(number), int(of))

    def has(self, key: str) -> bool:
        """Whether the row of that key belongs to it."""
        return int(_digest(key), 16) % self.of == self.number - 1


def read_cells(source: Path | None, form: str | None = None) -> Iterator[tuple[int, Cells | BadRow]]:
    """The cells of each row with its line, or what is wrong with the line.

    Args:
        source: The file; None: standard input.
        form: ``jsonl``, ``csv`` or ``parquet``; None: as the file's name says, JSONL from standard input.

    Raises:
        CommandError: The file's format is not known, or it is not of that format at all.
        OSError: It cannot be read.
    """
    if form not in {None, *_FORMATS.values()}:
        raise CommandError(f"--format {form!r:.40}: it is jsonl, csv or parquet")
    if source is not None and source.is_dir():
        raise CommandError(f"{source}: it is a directory; name the file of prompts")
    if source is not None and not source.exists():
        raise CommandError(f"{source}: there is no such file; name the file of prompts, or - for standard input")
    form = form or ("jsonl" if source is None else _FORMATS.get(source.suffix.lower()))
    if form is None:
        raise CommandError(f"{source}: the name does not tell the format; say --format jsonl, csv or parquet")
    if form == "parquet":
        return _parquet(source)
    data = sys.stdin.buffer.read() if source is None else source.read_bytes()
    return _jsonl(data) if form == "jsonl" else _csv(data)


def _jsonl(data: bytes) -> Iterator[tuple[int, Cells | BadRow]]:
    for line, text in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            value = json.loads(text.decode())  # bytes that are no UTF-8 would be taken for UTF-16
        except UnicodeDecodeError:
            yield line, BadRow(line, "the line", "it is not UTF-8 text")
        except (ValueError, RecursionError) as error:
            yield line, BadRow(line, "the line", f"it is not JSON: {error}")
        else:
            good = isinstance(value, dict)
            yield line, value if good else BadRow(line, "the line", 'it is no JSON object, such as {"prompt": "..."}')


def _csv(data: bytes) -> Iterator[tuple[int, Cells | BadRow]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise CommandError(f"line {line}: the file is not UTF-8 text; save it as UTF-8") from error
    csv.field_size_limit(_CELL)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    names = reader.fieldnames or []
    if len(set(names)) < len(names) or not all(name.strip() for name in names):
        raise CommandError("line 1: the header of the CSV file names a column twice, or not at all")
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CommandError(f"line {line}: it is not CSV: {error}") from error
        if None in cells:
            yield line, BadRow(line, "the line", f"it has more cells than the header ({len(names)})")
        else:
            yield line, {name.strip(): cell for name, cell in cells.items() if cell}


def _parquet(source: Path | None) -> Iterator[tuple[int, Cells | BadRow]]:
    if source is None:
        raise CommandError("Parquet cannot be read from standard input; name the file")
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415  # an optional extra, missed with a sentence
    except ModuleNotFoundError as error:
        raise CommandError("Parquet files need pyarrow: pip install 'kling-async[parquet]'") from error
    try:
        table = parquet.ParquetFile(source)
        rows = (row for batch in table.iter_batches(1000) for row in batch.to_pylist())
        yield from enumerate(rows, 1)
    except ArrowException as error:
        raise CommandError(f"{source}: it is not a Parquet file: {error}") from error


def rows_from(
    lines: Iterable[tuple[int, Cells | BadRow]], *, default: str | None, folder: Path, shard: Shard | None = None
) -> tuple[list[Row], list[BadRow]]:
    """All rows (of a shard), and all that is wrong.

    Args:
        lines: What `read_cells` gives.
        default: The endpoint of rows that name none.
        folder: Where relative paths count from.
        shard: Which part of the rows; None: all of them.
    """
    rows: list[Row] = []
    bad: list[BadRow] = []
    named: dict[str, int] = {}
    seen: dict[str, int] = {}
    for line, cells in lines:
        if isinstance(cells, BadRow):
            bad.append(cells)
            continue
        given = {name: cell for name, cell in cells.items() if cell is not None}
        given.setdefault("endpoint", default)
        digest = _digest(json.dumps(given, sort_keys=True, default=str))
        try:
            key = _key(given, digest, seen, named)
            named[key] = line
            if shard is None or shard.has(key):
                endpoint, request = _request(given, folder)
                rows.append(Row(line, key, digest, endpoint, request))
        except _Bad as error:
            bad.extend(BadRow(line, field, reason) for field, reason in error.reasons.items())
    return rows, bad


class _Bad(Exception):
    """What is wrong with a row, by field."""

    def __init__(self, field: str, reason: str, others: Mapping[str, str] | None = None) -> None:
        super().__init__(field, reason)
        self.reasons = {field: reason, **(others or {})}


def _key(given: Cells, digest: str, seen: dict[str, int], named: Mapping[str, int]) -> str:
    """The row's name: its own, or its digest, numbered where rows are equal."""
    key = _name(given, digest, seen)
    if key in named:
        raise _Bad("key", f"{key!r:.60} is the key of line {named[key]}, too")
    return key


def _name(given: Cells, digest: str, seen: dict[str, int]) -> str:
    if "key" in given:
        key = given["key"]
        if isinstance(key, bool) or not isinstance(key, str | int) or not 0 < len(str(key).strip()) <= _KEY:
            raise _Bad("key", f"it must be 1 to {_KEY} characters of text, got {key!r:.60}")
        try:
            str(key).encode()
        except UnicodeEncodeError:
            raise _Bad("key", "it has characters that are none (lone surrogates)") from None
        return str(key)
    seen[digest] = seen.get(digest, 0) + 1
    return digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def _request(given: Cells, folder: Path) -> tuple[Endpoint[Any], Request]:
    if not isinstance(name := given.get("endpoint"), str):
        raise _Bad("endpoint", "it is missing; add the column, or say --endpoint, such as runblob/o3-video")
    try:
        _, endpoint = find(name)
    except CommandError as error:
        raise _Bad("endpoint", error.message) from error
    own = {name: cell for name, cell in given.items() if name not in _NAMES}
    if own and "request" in given:
        raise _Bad("request", f"it stands for all fields, and {', '.join(own)} is given, too; give one of them")
    try:
        with acceptable(endpoint):
            request: Request = (
                endpoint.request.model_validate(_native(given["request"]))
                if "request" in given
                else _ours(endpoint, own, folder)
            )
    except CommandError as error:
        field, reason = next(iter(error.fields.items()), ("references", error.message))
        raise _Bad(field, reason, error.fields) from error
    return endpoint, request


def _native(value: Any) -> Mapping[str, Any]:
    """The provider's own JSON, also as text."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise _Bad("request", f"it is not JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise _Bad("request", "it is not a JSON object, as the provider documents it")
    return found


def _ours(endpoint: Endpoint[Any], own: Cells, folder: Path) -> Request:
    """The request that the cells describe; text is taken for what it spells where the model asks for it."""
    values = {name: cell for name, cell in own.items() if name not in {"reference", "references"}}
    names = [name for name in ("references", "reference") if name in own]
    found = [_image(reference, folder) for name in names for reference in _listed(own[name])]
    if found:
        values |= images(endpoint, found)
    model: type[Request] = endpoint.request
    try:
        return model.model_validate(values)
    except ValidationError as error:
        refused = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        texts = {name: cell for name, cell in values.items() if isinstance(cell, str) and name != "prompt"}
        spelled = decoded(texts, refused)
        if not spelled:
            raise
        return model.model_validate(values | spelled)


def _listed(cell: Any) -> list[str]:
    """The references of one cell: a list, JSON of a list, or text with separators."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError as error:
            raise _Bad("references", f"it begins like a JSON list, and is none: {error}") from error
    if isinstance(cell, str):
        cell = [part.strip() for part in cell.split(SEPARATOR)]
    if not isinstance(cell, list) or not all(isinstance(part, str) and part for part in cell):
        raise _Bad("references", "it must be a list of addresses or paths (in CSV with | between them)")
    return cell


def _image(text: str, folder: Path) -> str | Path:
    path = folder / text
    if is_url(text) or text.startswith("data:") or (is_uuid(text) and not path.exists()):
        return text
    return path


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]

"""Rows: from their cells to validated requests, or to what is wrong with them.

The columns of a row are the fields of its request, and:

- ``endpoint``, such as ``runblob/o3-video``, or ``video`` or ``image`` for whichever provider is the best.
- ``key``, the row's name. A row without one is named by a digest of its request, so the same request has the same name
  in every format and on every platform.
- ``request``, in place of the fields: the provider's own JSON.

References are URLs, data URIs, ids of uploaded images, or paths. Relative paths start at the file's directory.

A line of ``results.jsonl`` is a row as well: the one that it reports on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from pydantic import ValidationError

from kling_async import Request
from kling_async._rows.errors import InputError
from kling_async._rows.prepared_images import prepared
from kling_async._rows.requests import (
    acceptable,
    decoded,
    find_any,
    image_of,
    images,
    require_offered,
    require_words,
    with_local_files,
)
from kling_async.providers.base import Endpoint

__all__ = ["OWN_COLUMNS", "BadRow", "Cells", "Row", "RowReader", "Shard", "column_name", "numbered"]

Cells: TypeAlias = dict[str, Any]

SEPARATOR = "|"
"""What stands between the references of one CSV cell."""

OWN_COLUMNS = ("endpoint", "key", "request")  # columns that are not fields
_KEY = 200  # characters
_DIGEST = 16  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class Row:
    """One valid row.

    Attributes:
        line: Where it stands in the file, from 1 (in Parquet: the number of the row).
        key: Its name.
        digest: Of its request. Equal for rows that ask for the same, however they are written.
        endpoint: Where it goes.
        request: What is to be generated.
        folder: Where its relative paths start.
        columns: The cells that ``--ignore-columns`` ignored. They are copied to ``results.jsonl``.
        named: Whether the row has a key of its own. Otherwise its key was made of its request.
        originals: Of which images its prepared ones were made. A row is described by those.
    """

    line: int
    key: str
    digest: str
    endpoint: Endpoint[Any]
    request: Request
    folder: Path = Path()
    columns: Mapping[str, Any] = field(default_factory=dict)
    named: bool = True
    originals: Mapping[str, str] = field(default_factory=dict)

    def described(self) -> dict[str, Any]:
        """The request as JSON values, with paths as the row has them."""
        return _described(self.request, self.folder, self.originals)

    def prepared(self) -> dict[str, Path]:
        """The files that are sent in place of images, by the images as `described` has them."""
        made = {file: self.originals.get(str(file)) for file in self.request.files}
        return {name.removeprefix(f"{self.folder}/"): file for file, name in made.items() if name is not None}


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
    """A part of a file: every row whose key belongs to it. The order of the rows does not matter.

    Attributes:
        number: Which part, from 1.
        of: How many parts there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that ``3/16`` names.

        Raises:
            InputError: The text does not name a shard.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise InputError(f"--shard {text!r:.40}: write it like 3/16, the third of sixteen parts")
        return cls(int(number), int(of))

    def has(self, key: str) -> bool:
        """Whether the row with that key belongs to it."""
        return int(_digest(key), 16) % self.of == self.number - 1


def numbered(digest: str, count: int) -> str:
    """The key of the row without a key of its own that is the count-th with this digest."""
    return digest if count == 1 else f"{digest}-{count}"


class _Bad(Exception):
    """What is wrong with a row, by field."""

    def __init__(self, field: str, reason: str, others: Mapping[str, str] | None = None) -> None:
        super().__init__(field, reason)
        self.reasons = {field: reason, **(others or {})}


class FilePreparer(Protocol):
    """Makes of a local image the file that is given to the request, and remembers of which image it was made."""

    @property
    def originals(self) -> Mapping[str, str]: ...

    def __call__(self, path: Path, most: int) -> Path: ...


@dataclass(slots=True)
class RowReader:
    """Makes requests of cells.

    Attributes:
        folder: Where relative paths start.
        endpoint: The endpoint of rows that name none.
        settings: Fields for the rows that lack them.
        ignore_columns: Whether columns that are not fields are ignored. Otherwise they are errors.
        prepare: Prepares local images. If None, they are taken as they are.
    """

    folder: Path
    endpoint: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    ignore_columns: bool = False
    prepare: FilePreparer | None = None
    _lines: dict[str, int] = field(default_factory=dict)  # by key
    _seen: dict[str, int] = field(default_factory=dict)  # how many rows without a key, by digest

    @property
    def count(self) -> int:
        """How many valid rows were read, those of other shards included."""
        return len(self._lines)

    def read(
        self, lines: Iterable[tuple[int, Cells | BadRow]], shard: Shard | None = None
    ) -> tuple[list[Row], list[BadRow]]:
        """All valid rows (of a shard), and everything that is wrong (in the whole file).

        Args:
            lines: What `files.read_cells` gives.
            shard: Which part of the rows. If None, all of them.
        """
        rows: list[Row] = []
        bad: list[BadRow] = []
        for line, cells in lines:
            if isinstance(cells, BadRow):
                bad.append(cells)
                continue
            try:
                row = self._row(line, cells)
            except _Bad as error:
                bad.extend(BadRow(line, field, reason) for field, reason in error.reasons.items())
                continue
            if shard is None or shard.has(row.key):
                rows.append(row)
        return rows, bad

    def parse(self, line: int, cells: Cells) -> Row | list[BadRow]:
        """A row by itself, or everything that is wrong with it.

        A row without a key has the digest of its request for one. Equal rows are not told apart: see `numbered`.

        Args:
            line: Where it stands.
            cells: Its cells.
        """
        try:
            return self._parsed(line, cells)
        except _Bad as error:
            return [BadRow(line, field, reason) for field, reason in error.reasons.items()]

    def _parsed(self, line: int, cells: Cells) -> Row:
        folder = self.folder
        if cells.keys() >= _REPORT:
            cells, folder = _reported(cells, folder)
        given = _normalized(cells)
        key = _key(given)
        endpoint, request, columns = self._request(given, folder)
        originals = self.prepare.originals if self.prepare is not None else {}
        digest = _meaning(request, folder, originals)
        return Row(line, key or digest, digest, endpoint, request, folder, columns, key is not None, originals)

    def _row(self, line: int, cells: Cells) -> Row:
        row = self._parsed(line, cells)
        if not row.named:
            self._seen[row.digest] = self._seen.get(row.digest, 0) + 1
            row = replace(row, key=numbered(row.digest, self._seen[row.digest]))
        if row.key in self._lines:
            raise _Bad("key", f"line {self._lines[row.key]} has the key {row.key!r:.60}, too")
        self._lines[row.key] = line
        return row

    def _request(self, given: Cells, folder: Path) -> tuple[Endpoint[Any], Request, Cells]:
        if not isinstance(name := given.get("endpoint", self.endpoint), str):
            raise _Bad("endpoint", "it is missing; add the column, or --endpoint, such as runblob/o3-video")
        try:
            _, endpoint = find_any(name)
        except InputError as error:
            raise _Bad("endpoint", error.message) from error
        own = {name: cell for name, cell in given.items() if name not in OWN_COLUMNS}
        columns: Cells = {}
        if self.ignore_columns:
            known = {*endpoint.request.model_fields, "reference", "references"}
            columns = {name: own.pop(name) for name in list(own) if name not in known}
        if own and "request" in given:
            raise _Bad("request", f"it holds all fields, and {', '.join(own)} is given, too; leave one of them out")
        try:
            with acceptable(endpoint):
                if "request" in given:
                    return endpoint, endpoint.request.model_validate(_native(given["request"])), columns
                defaults = {name: text for name, text in self.settings.items() if name in endpoint.request.model_fields}
                request = _ours(endpoint, {**defaults, **own}, folder, self.prepare)
            require_offered(request)
        except InputError as error:
            if isinstance(error.__cause__, ImportError):
                raise
            field, reason = next(iter(error.fields.items()), ("references", error.message))
            raise _Bad(field, reason, error.fields) from error
        return endpoint, request, columns


_REPORT = frozenset({"digest", "line", "state", "attempt", "request"})
"""Columns that only a line of ``results.jsonl`` has all of."""


def _reported(record: Cells, folder: Path) -> tuple[Cells, Path]:
    """The row on which a line of ``results.jsonl`` reports, and where its relative paths start.

    Raises:
        _Bad: The line does not have all of the row.
    """
    request, columns, start = record["request"], record.get("columns") or {}, record.get("folder") or ""
    if not isinstance(request, Mapping) or not isinstance(columns, Mapping) or not isinstance(start, str):
        raise _Bad("request", "the line looks like one of results.jsonl, but its request is not a JSON object")
    for name, value in request.items():
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and _DIGEST_ONLY.fullmatch(text) for text in texts):
            raise _Bad(name, "results.jsonl has only the digest of an inline image; give the image again")
    asked = {name: value for name, value in request.items() if name != "callback_url"}
    endpoint = record.get("asked") or record.get("endpoint")
    return {**columns, **asked, "endpoint": endpoint, "key": record.get("key")}, folder / start


_DIGEST_ONLY = re.compile(r"sha256:[0-9a-f]{64}")


def _normalized(cells: Cells) -> Cells:
    """The cells under the names of their fields, and with line feeds as line ends.

    Raises:
        _Bad: Two columns are one field.
    """
    given: Cells = {}
    for name, cell in cells.items():
        if cell is None:
            continue
        column = column_name(name)
        if column in given:
            raise _Bad(column, "two columns have this name")
        given[column] = re.sub(r"\r\n?", "\n", cell) if isinstance(cell, str) else cell
    return given


def column_name(name: str) -> str:
    """A column's name as fields are written: ``Aspect Ratio`` is ``aspect_ratio``."""
    return re.sub(r"[\s-]+", "_", str(name).strip().casefold())


def _key(given: Cells) -> str | None:
    if "key" not in given:
        return None
    key = given["key"]
    if isinstance(key, bool) or not isinstance(key, str | int) or not 0 < len(str(key).strip()) <= _KEY:
        raise _Bad("key", f"it must be 1 to {_KEY} characters of text, got {key!r:.60}")
    try:
        str(key).encode()
    except UnicodeEncodeError:
        raise _Bad("key", "it contains invalid characters (lone surrogates)") from None
    return str(key)


def _native(value: Any) -> Mapping[str, Any]:
    """The provider's own JSON, also as text."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError) as error:
        raise _Bad("request", f"it is not JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise _Bad("request", "it must be a JSON object, as the provider documents it")
    return found


def _ours(endpoint: Endpoint[Any], own: Cells, folder: Path, prepare: FilePreparer | None) -> Request:
    """The request that the cells describe. Text becomes a number or a list where the field needs one."""
    values = {name: cell for name, cell in own.items() if name not in {"reference", "references"}}
    require_words(values)
    names = [name for name in ("references", "reference") if name in own]
    found = [image_of(reference, folder) for name in names for reference in _listed(own[name])]
    values = with_local_files(endpoint, values, folder)
    if found:
        values |= images(endpoint, found)
    values = prepared(endpoint, values, prepare)
    model: type[Request] = endpoint.request
    try:
        return model.model_validate(values)
    except ValidationError as error:
        refused = {str(item["loc"][0]) for item in error.errors() if item["loc"]}
        texts = {name: cell for name, cell in values.items() if isinstance(cell, str) and name != "prompt"}
        parsed = decoded(texts, refused)
        if not parsed:
            raise
        return model.model_validate(values | parsed)


def _listed(cell: Any) -> list[str]:
    """The references of one cell: a list, JSON of a list, or text with separators."""
    if isinstance(cell, str) and cell.lstrip().startswith("["):
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise _Bad("references", f"it begins like a JSON list, and is not one: {error}") from error
    if isinstance(cell, str):
        cell = [part.strip() for part in cell.split(SEPARATOR)]
    if not isinstance(cell, list) or not all(isinstance(part, str) and part for part in cell):
        raise _Bad("references", "it must be a list of URLs or paths (in CSV with | between them)")
    return cell


def _described(request: Request, folder: Path, originals: Mapping[str, str]) -> dict[str, Any]:
    found = request.describe()
    start = f"{folder}/"
    for name in request.reference_fields:
        value = found.get(name)
        if isinstance(value, list):
            found[name] = [originals.get(str(text), str(text)).removeprefix(start) for text in value]
        elif isinstance(value, str):
            found[name] = originals.get(value, value).removeprefix(start)
    return found


def _meaning(request: Request, folder: Path, originals: Mapping[str, str]) -> str:
    """A digest of what the request asks for: equal however the row is written, and wherever its folder is.

    Fields that have their default do not count, so a field that a later version adds changes no row's name.
    """
    asked = _described(request, folder, originals)
    for name, info in type(request).model_fields.items():
        if name == "callback_url" or getattr(request, name) == info.default:
            asked.pop(name, None)
    return _digest(json.dumps([request.endpoint, asked], sort_keys=True, default=str))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]

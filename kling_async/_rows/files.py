"""The cells of the rows of a file: JSONL, CSV, Parquet or plain text."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from kling_async._rows.errors import InputError
from kling_async._rows.reader import OWN_COLUMNS, BadRow, Cells, column_name
from kling_async._rows.requests import field_names

__all__ = ["read_cells"]

_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "txt",
}
_FORMAT_NAMES = "jsonl, csv, parquet or txt"
_DELIMITERS = ",;\t"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CELL = 2**31 - 1  # bytes of one CSV cell: data URIs are large


def read_cells(source: Path | None, form: str | None = None) -> Iterator[tuple[int, Cells | BadRow]]:
    """The cells of each row with its line, or what is wrong with the line.

    Args:
        source: The file. If None, standard input.
        form: ``jsonl``, ``csv``, ``parquet`` or ``txt``. Defaults to the format of the file's name, and to JSONL for
            standard input.

    Raises:
        InputError: The format is not known, or the file does not have it.
        OSError: The file cannot be read.
    """
    if form not in {None, *_FORMATS.values()}:
        raise InputError(f"--format {form!r:.40}: it must be {_FORMAT_NAMES}")
    if source is not None and source.is_dir():
        raise InputError(f"{source} is a directory; name the file of prompts")
    if source is not None and not source.exists():
        raise InputError(f"{source}: there is no such file; name the file of prompts, or - for standard input")
    guessed = source is None and form is None
    form = form or ("jsonl" if source is None else _FORMATS.get(source.suffix.lower()))
    if form is None:
        raise InputError(f"{source}: its name does not show the format; add --format {_FORMAT_NAMES}")
    if form == "parquet":
        return _parquet(source)
    data = sys.stdin.buffer.read() if source is None else source.read_bytes()
    if guessed and data.removeprefix(codecs.BOM_UTF8).lstrip()[:1] not in {b"", b"{"}:
        raise InputError("standard input is not JSON lines; add --format txt (one prompt a line) or --format csv")
    if data.startswith(_UTF_16):
        raise InputError(f"{source or 'standard input'} is UTF-16 text; save it as UTF-8 (Excel: CSV UTF-8)")
    return {"jsonl": _jsonl, "csv": _csv, "txt": _txt}[form](data)


def _jsonl(data: bytes) -> Iterator[tuple[int, Cells | BadRow]]:
    for line, text in enumerate(data.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
        if not text.strip():
            continue
        try:
            value = json.loads(text.decode())  # json.loads(bytes) would guess UTF-16 for bytes that are not UTF-8
        except UnicodeDecodeError:
            yield line, BadRow(line, "the line", "it is not UTF-8 text")
        except (ValueError, RecursionError) as error:
            yield line, BadRow(line, "the line", f"it is not JSON: {error}")
        else:
            good = isinstance(value, dict)
            yield line, value if good else BadRow(line, "the line", 'it must be a JSON object, such as {"prompt": "a"}')


def _txt(data: bytes) -> Iterator[tuple[int, Cells | BadRow]]:
    """One prompt a line. Empty lines are skipped."""
    for line, text in enumerate(_decoded_text(data).splitlines(), 1):
        if text.strip():
            yield line, {"prompt": text.strip()}


def _csv(data: bytes) -> Iterator[tuple[int, Cells | BadRow]]:
    text = _decoded_text(data)
    csv.field_size_limit(_CELL)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text))
        names = [name.strip() for name in reader.fieldnames or []]
    except csv.Error as error:
        raise InputError(f"line 1: the header is not CSV: {error}") from error
    reader.fieldnames = names
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled or not all(names):
        problem = f"names {doubled[0]!r:.60} twice" if doubled and doubled[0] else "has a column without a name"
        raise InputError(f"line 1: the header of the CSV file {problem}; every column needs a name of its own")
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"line {line}: it is not CSV: {error}") from error
        if None in cells:
            yield line, BadRow(line, "the line", f"it has more cells than the header ({len(names)})")
        else:
            yield line, {name: cell for name, cell in cells.items() if cell}


def _decoded_text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"line {line}: the file is not UTF-8 text; save it as UTF-8") from error


def _delimiter(text: str) -> str:
    """The character between the cells: the one with which the header has the most columns that we know."""
    header = text.lstrip("\r\n").partition("\n")[0]
    known = {*OWN_COLUMNS, "reference", "references", *(name for names in field_names().values() for name in names)}

    def columns(delimiter: str) -> int:
        return sum(column_name(name.strip(' "\r')) in known for name in header.split(delimiter))

    return max(_DELIMITERS, key=columns)


def _parquet(source: Path | None) -> Iterator[tuple[int, Cells | BadRow]]:
    if source is None:
        raise InputError("Parquet cannot be read from standard input; name the file")
    try:
        from pyarrow import ArrowException, parquet  # noqa: PLC0415  # an optional extra
    except ModuleNotFoundError as error:
        raise InputError("Parquet files need pyarrow: pip install 'kling-async[parquet]'") from error
    try:
        table = parquet.ParquetFile(source)
        rows = (row for batch in table.iter_batches(1000) for row in batch.to_pylist())
        yield from enumerate(rows, 1)
    except ArrowException as error:
        raise InputError(f"{source} is not a Parquet file: {error}") from error

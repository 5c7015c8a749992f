"""The rows of a bulk file: three formats, one meaning, and every mistake named by line and field."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from kling_async._rows.errors import InputError
from kling_async._rows.files import read_cells
from kling_async._rows.reader import BadRow, Row, RowReader, Shard
from kling_async.providers.inferencesh import ImageO1
from kling_async.providers.runblob import O3Photo, O3Video

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


def read(
    path: Path, default: str | None = "runblob/o3-video", shard: Shard | None = None, **options: Any
) -> tuple[list[Row], list[BadRow]]:
    return RowReader(path.parent, default, **options).read(read_cells(path), shard)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def complaints(path: Path) -> list[str]:
    return [str(bad) for bad in read(path)[1]]


def test_jsonl_rows_are_the_requests_that_they_describe(tmp_path: Path) -> None:
    (tmp_path / "boat.png").write_bytes(PNG)
    path = write(
        tmp_path / "rows.jsonl",
        {"prompt": "a boat", "duration": 10, "references": ["boat.png"], "key": "first"},
        "",
        {"endpoint": "runblob/o3-photo", "prompt": "a fox", "references": "https://a.test/1.png|https://a.test/2.png"},
        {"endpoint": "inferencesh/image-o1", "prompt": "a tram", "references": ["boat.png"], "count": None},
        {"request": {"prompt": "theirs", "images_url": ["https://a.test/1.png"], "duration": "15"}},
    )
    rows, bad = read(path)
    assert bad == []
    assert [(row.line, row.request) for row in rows] == [
        (1, O3Video("a boat", duration=10, references=(tmp_path / "boat.png",))),
        (3, O3Photo("a fox", references=("https://a.test/1.png", "https://a.test/2.png"))),
        (4, ImageO1("a tram", reference=tmp_path / "boat.png")),
        (5, O3Video("theirs", duration=15, references=("https://a.test/1.png",))),
    ]
    assert rows[0].key == "first"


def test_csv_says_the_same_in_text(tmp_path: Path) -> None:
    (tmp_path / "boat.png").write_bytes(PNG)
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "endpoint", "duration", "keep_original_sound", "references", "count"])
        writer.writerow(['two\nlines, and a "quote"', "runblob/o3-video", "10", "false", "boat.png|boat.png", ""])
        writer.writerow(["ein Fuchs, ein Füchslein", "inferencesh/image-o1", "", "", '["boat.png"]', "1"])
    rows, bad = read(path, default=None)
    assert bad == []
    boat = tmp_path / "boat.png"
    assert [(row.line, row.request) for row in rows] == [
        (2, O3Video('two\nlines, and a "quote"', duration=10, keep_original_sound=False, references=(boat, boat))),
        (4, ImageO1("ein Fuchs, ein Füchslein", reference=boat)),
    ]


def test_parquet_says_the_same(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"prompt": "a boat", "duration": 10, "key": "x"}, {"prompt": "a fox", "duration": None, "key": "y"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found, bad = read(tmp_path / "rows.parquet")
    assert bad == []
    assert [(row.key, row.request) for row in found] == [("x", O3Video("a boat", duration=10)), ("y", O3Video("a fox"))]
    write(tmp_path / "false.parquet", "no Parquet at all")
    with pytest.raises(InputError, match="not a Parquet file"):
        read(tmp_path / "false.parquet")


def test_parquet_without_its_extra_is_missed_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    write(tmp_path / "rows.parquet", "PAR1")
    with pytest.raises(InputError, match=r"pip install 'kling-async\[parquet\]'"):
        read(tmp_path / "rows.parquet")


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ("{not json", "the line", "it is not JSON"),
        ("[1, 2]", "the line", "must be a JSON object"),
        ({"prompt": ""}, "prompt", "it is empty"),
        ({"prompt": "x" * 2501}, "prompt", "2501 characters"),
        ({"prompt": "a", "duration": 7}, "duration", "5, 10 or 15, got 7"),
        ({"prompt": "a", "colour": "red"}, "colour", "has no such field"),
        ({"prompt": "a", "aspect": "16:9"}, "aspect", "did you mean aspect_ratio?"),
        ({"prompt": " \n"}, "prompt", "only blanks"),
        ({"prompt": None}, "prompt", "it is missing"),
        ({"prompt": "a", "Duration": 5, "duration ": 10}, "duration", "two columns have this name"),
        ({"prompt": "a", "references": "[" * 100_000}, "references", "begins like a JSON list"),
        ({"request": "[" * 100_000}, "request", "it is not JSON"),
        ({"prompt": "a", "duration": "[" * 100_000}, "duration", "100000 characters"),
        ({"prompt": "a", "keep_original_sound": "perhaps"}, "keep_original_sound", "it must be true or false"),
        ({"prompt": "a", "references": ["missing.png"]}, "references", "No such file"),
        ({"prompt": "a", "references": [7]}, "references", "list of URLs or paths"),
        ({"prompt": "a", "references": "[broken"}, "references", "begins like a JSON list"),
        ({"prompt": "a", "endpoint": "runblob/o4-video"}, "endpoint", "did you mean runblob/o3-video"),
        ({"prompt": "a", "key": ""}, "key", "1 to 200 characters"),
        ({"prompt": "a", "key": "k" * 201}, "key", "1 to 200 characters"),
        ({"prompt": "a", "key": "\ud800"}, "key", "lone surrogates"),
        ({"prompt": "half \ud800"}, "prompt", "valid"),
        ({"request": {"prompt": "a"}, "prompt": "b"}, "request", "prompt is given, too"),
        ({"request": "{broken"}, "request", "it is not JSON"),
        ({"request": [1]}, "request", "must be a JSON object"),
        ({"request": {"prompt": "a", "images_url": ["file:///etc/passwd"]}}, "references", "neither"),
    ],
)
def test_a_mistake_is_named_by_line_field_and_reason(tmp_path: Path, row: Any, field: str, reason: str) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "good"}, row, {"prompt": "good, too"})
    rows, bad = read(path)
    assert len(rows) == 2
    assert (bad[0].line, bad[0].field) == (2, field)
    assert reason in bad[0].reason


def test_every_field_of_a_row_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "", "duration": 7, "colour": "red"})
    assert {bad.field for bad in read(path)[1]} == {"prompt", "duration", "colour"}


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"prompt": "a"}\n{"prompt": "\xff"}\n')
    assert complaints(tmp_path / "rows.jsonl") == ["line 2: the line: it is not UTF-8 text"]
    (tmp_path / "rows.csv").write_bytes(b"prompt\na\n\xff\n")
    with pytest.raises(InputError, match="line 3: the file is not UTF-8"):
        read(tmp_path / "rows.csv")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("prompt,prompt\na,b\n", "names 'prompt' twice"),
        ("prompt,\na,b\n", "column without a name"),
        ("prompt,prompt \na,b\n", "names 'prompt' twice"),
        ('prompt\n"a\n', "not CSV"),
    ],
)
def test_a_csv_file_that_is_none_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(InputError, match=reason):
        read(tmp_path / "rows.csv")


def test_a_csv_row_with_too_many_cells_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("prompt\na\nb,c\n")
    assert complaints(tmp_path / "rows.csv") == ["line 3: the line: it has more cells than the header (1)"]


def test_an_unknown_name_asks_for_the_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--format"):
        read(write(tmp_path / "rows.dat", {"prompt": "a"}))


def test_rows_without_a_key_are_named_by_what_they_say(tmp_path: Path) -> None:
    """Wherever they stand, equal rows are told apart by their number."""
    one, two = {"prompt": "one"}, {"prompt": "two", "duration": 5}
    first, _ = read(write(tmp_path / "a.jsonl", one, two, one))
    second, _ = read(write(tmp_path / "b.jsonl", {"duration": 5, "prompt": "two"}, one, one))
    assert {row.key for row in first} == {row.key for row in second}
    assert len({row.key for row in first}) == 3
    assert first[2].key == f"{first[0].key}-2"


def test_a_key_that_comes_twice_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "a", "key": 7}, {"prompt": "b", "key": "7"})
    assert complaints(path) == ["line 2: key: line 1 has the key '7', too"]


def test_shards_are_disjoint_and_complete_whatever_the_order(tmp_path: Path) -> None:
    rows = [{"prompt": f"row {n}"} for n in range(200)]
    whole, _ = read(write(tmp_path / "rows.jsonl", *rows))
    backwards = write(tmp_path / "back.jsonl", *reversed(rows))
    parts = [{row.key for row in read(backwards, shard=Shard(n, 8))[0]} for n in range(1, 9)]
    assert sum(len(part) for part in parts) == 200
    assert set().union(*parts) == {row.key for row in whole}
    assert min(len(part) for part in parts) > 5


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "1/0", "-1/4", ""])
def test_a_shard_is_a_part_of_a_whole(text: str) -> None:
    with pytest.raises(InputError, match="3/16"):
        Shard.parse(text)


def test_a_row_has_the_same_name_however_it_is_written(tmp_path: Path) -> None:
    """Line ends, number formats, defaults that are written out, the file's format and its folder change nothing."""
    (tmp_path / "moved").mkdir()
    for folder in (tmp_path, tmp_path / "moved"):
        (folder / "boat.png").write_bytes(PNG)
    row = {"prompt": "two\nlines", "duration": 5, "references": ["boat.png"]}
    one = write(tmp_path / "a.jsonl", row)
    two = write(tmp_path / "moved" / "b.jsonl", {**row, "prompt": "two\r\nlines", "duration": 5.0})
    three = tmp_path / "c.csv"
    three.write_bytes(b'Prompt,Duration,References\r\n"two\r\nlines",5,boat.png\r\n')
    assert len({read(path)[0][0].key for path in (one, two, three)}) == 1


@pytest.mark.parametrize("delimiter", [";", "\t", ","])
def test_the_delimiter_of_a_csv_file_is_detected(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "rows.csv"
    lines = [("Endpoint", "Prompt", "Aspect Ratio"), ("runblob/o3-video", '"a, b; c"', "16:9")]
    path.write_bytes(b"\xef\xbb\xbf" + "".join(delimiter.join(line) + "\r\n" for line in lines).encode())
    rows, bad = read(path, default=None)
    assert bad == []
    assert rows[0].request == O3Video("a, b; c", aspect_ratio="16:9")


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl", "rows.txt"])
def test_a_utf_16_file_is_named_as_such(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes("prompt\na\n".encode("utf-16"))
    with pytest.raises(InputError, match="is UTF-16 text; save it as UTF-8"):
        read(tmp_path / name)


def test_a_text_file_has_one_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text("a boat\n\n a fox \n")
    rows, bad = read(tmp_path / "rows.txt", settings={"duration": "10"})
    assert bad == []
    assert [row.request for row in rows] == [O3Video("a boat", duration=10), O3Video("a fox", duration=10)]


def test_columns_that_are_not_fields_can_be_ignored_and_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": "a boat", "Customer": "A-7"})
    assert read(path)[1][0].field == "customer"
    rows, bad = read(path, ignore_columns=True)
    assert bad == []
    assert rows[0].columns == {"customer": "A-7"}


def test_a_header_that_is_not_csv_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('"prompt"x,key\na,b\n')
    with pytest.raises(InputError, match="the header is not CSV"):
        read(tmp_path / "rows.csv")


def test_a_line_of_results_is_the_row_that_it_reports_on(tmp_path: Path) -> None:
    line = {
        "key": "boat",
        "digest": "0" * 16,
        "line": 7,
        "endpoint": "runblob/o3-video",
        "state": "failed",
        "request": {"prompt": "a boat", "first_frame": "img/a.png", "last_frame": "img/a.png"},
        "folder": "..",
        "columns": {"customer": "A-7"},
        "attempt": 2,
        "error": {"kind": "GenerationFailed", "message": "it failed", "code": "X"},
    }
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / "a.png").write_bytes(PNG)
    (tmp_path / "out").mkdir()
    path = write(tmp_path / "out" / "results.jsonl", line)
    rows, bad = read(path, ignore_columns=True)
    assert bad == []
    picture = tmp_path / "out" / ".." / "img" / "a.png"
    assert rows[0].request == O3Video("a boat", first_frame=picture, last_frame=picture)
    assert (rows[0].key, rows[0].columns) == ("boat", {"customer": "A-7"})
    source = write(tmp_path / "rows.jsonl", {"prompt": "a boat", "first_frame": "img/a.png", "last_frame": "img/a.png"})
    assert read(source)[0][0].digest == rows[0].digest


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"prompt": "a", "references": ["sha256:" + "0" * 64]}, "references: results.jsonl has only the digest"),
        ({"prompt": "a", "first_frame": "sha256:" + "0" * 64}, "first_frame: results.jsonl has only the digest"),
        ("a", "request: the line looks like one of results.jsonl"),
    ],
)
def test_a_line_of_results_that_lacks_an_image_is_refused(tmp_path: Path, request_: Any, reason: str) -> None:
    line = {"key": "k", "digest": "d", "line": 1, "endpoint": "runblob/o3-video", "state": "failed", "attempt": 1}
    path = write(tmp_path / "results.jsonl", line | {"request": request_})
    assert [reason in complaint for complaint in complaints(path)] == [True]


@pytest.mark.parametrize("text", ["a boat\na fox\n", "prompt,key\na,b\n", "[1]"])
def test_standard_input_is_not_guessed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    with pytest.raises(InputError, match="add --format txt"):
        read_cells(None)


def test_standard_input_has_a_prompt_a_line_if_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a boat\n\na fox\n")))
    assert list(read_cells(None, "txt")) == [(1, {"prompt": "a boat"}), (3, {"prompt": "a fox"})]


def test_a_prompt_that_is_null_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"prompt": None, "references": []})
    assert complaints(path) == ["line 1: prompt: it is missing"]

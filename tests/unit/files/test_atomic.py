"""Atomic writes: the old file or the whole new one, and nothing beside it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kling_async._files.atomic import written_atomically


def write(path: Path, content: bytes) -> None:
    with written_atomically(path) as file:
        for place in range(0, len(content), 1000):
            file.write(content[place : place + 1000])


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(b"old")
    with written_atomically(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()], ids=repr)
def test_a_block_that_raises_changes_nothing(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(b"old")

    def fail() -> None:
        with written_atomically(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_renamed_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(OSError, match="folder"):
        write(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_writes_at_once_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    contents = [bytes([number]) * 100_000 for number in range(20)]
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda content: write(path, content), contents))
    assert path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_the_longest_name_of_a_file_system_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write(path, b"new")
    assert path.read_bytes() == b"new"

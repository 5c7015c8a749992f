"""The program `kling` in this process, and a sandbox for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kling_async._cli import main
from kling_async.sandbox import Sandbox
from support.cli_process import Answer, Run, environment


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox whose clock stands still, and an environment that leads to it."""
    with Sandbox(speed=0, scale=0.1) as running:
        for name, value in environment(running).items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def kling(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The program in this process, in a directory of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return run

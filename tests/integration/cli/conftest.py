"""The program `kling` in this process, and a sandbox for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kling_async._cli import main
from support.cli_process import Answer, Run


@pytest.fixture
def sandbox_defaults() -> dict[str, Any]:
    """A clock that stands still, and an environment that leads RunBlob to the sandbox."""
    return {"speed": 0, "scale": 0.03, "environment": ["runblob"]}


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

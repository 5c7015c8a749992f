"""How the program names itself in the commands that it prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kling_async._cli.places import program


@pytest.mark.parametrize(
    ("started", "path", "named"),
    [
        (".venv/bin/kling", "/usr/bin", ".venv/bin/kling"),
        ("{here}/.venv/bin/kling", "/usr/bin", ".venv/bin/kling"),
        ("{here}/.venv/bin/kling", "{here}/.venv/bin:/usr/bin", "kling"),
        ("/opt/my tools/kling", "/usr/bin", "'/opt/my tools/kling'"),
        ("/usr/bin/pytest", "/usr/bin", "kling"),
    ],
)
def test_a_command_is_printed_as_it_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, started: str, path: str, named: str
) -> None:
    script = tmp_path / ".venv" / "bin" / "kling"
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", path.format(here=tmp_path))
    monkeypatch.setattr(sys, "argv", [started.format(here=tmp_path)])
    assert program() == named


def test_as_a_module_it_is_started_by_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/site-packages/kling_async/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    assert program() == ".venv/bin/python -m kling_async"

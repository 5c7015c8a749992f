"""What `kling` writes for shells: variables in their own form, and completions."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from kling_async._cli.commands.sandbox import environment, exports
from kling_async.sandbox import Sandbox
from support.cli_process import Run


@pytest.mark.parametrize("value", ["simple", "it's", "a b", "back\\slash", "$HOME"])
@pytest.mark.parametrize(
    ("shell", "written"),
    [
        ("sh", {"it's": """export NAME='it'"'"'s'""", "simple": "export NAME=simple"}),
        ("fish", {"it's": r"set -gx NAME 'it\'s'", "back\\slash": r"set -gx NAME 'back\\slash'"}),
        ("powershell", {"it's": "$env:NAME = 'it''s'", "back\\slash": r"$env:NAME = 'back\slash'"}),
        ("env", {"simple": "NAME=simple", "a b": "NAME='a b'"}),
    ],
)
def test_values_are_quoted_as_the_shell_reads_them(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, shell: str, written: dict[str, str], value: str
) -> None:
    monkeypatch.setattr("kling_async._cli.commands.sandbox.environment", lambda _: {"NAME": value})
    [line] = exports(sandbox, shell)
    assert line == written.get(value, line)
    if shell == "fish" and not shutil.which("fish"):
        return
    program = {"sh": "sh", "fish": "fish", "env": "sh"}.get(shell)
    if program:
        shown = subprocess.run(
            [program, "-c", f'{line}\nprintf %s "$NAME"'], capture_output=True, text=True, check=True
        )
        assert shown.stdout == value


def test_every_form_has_every_variable(sandbox: Sandbox) -> None:
    for shell in ("sh", "fish", "powershell", "env"):
        lines = exports(sandbox, shell)
        for line, (name, value) in zip(lines, environment(sandbox).items(), strict=True):
            assert name in line
            assert value in line


def test_an_unknown_shell_is_refused_with_those_that_there_are(kling: Run) -> None:
    answer = kling("sandbox", "--shell", "tcsh")
    assert answer.code == 2, answer
    assert all(shell in answer.err for shell in ("sh", "fish", "powershell", "env"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("kling ca", {"cancel"}),
        ("kling generate runblob/o3-", {"runblob/o3-video", "runblob/o3-photo"}),
        ("kling generate vid", {"video"}),
        ("kling sandbox --she", {"--shell"}),
    ],
)
def test_the_shell_completes_commands_endpoints_and_options(
    kling: Run, monkeypatch: pytest.MonkeyPatch, words: str, expected: set[str]
) -> None:
    monkeypatch.setenv("_KLING_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert set(kling().out.split()) == expected
    assert "KLING_API_KEY" not in os.environ

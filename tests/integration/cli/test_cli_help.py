"""`kling X --help`: nothing that was written for it is lost, and it fits a terminal of any width."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from kling_async._cli.app import app
from kling_async._cli.errors import EXITS
from support.cli_process import Run

GROUP: Any = typer.main.get_command(app)  # what it is made of differs from one typer to the next
COMMANDS = [(), *((name,) for name in GROUP.commands)]


@pytest.fixture(params=COMMANDS, ids=lambda names: " ".join(names) or "kling")
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The words of one command."""
    names: tuple[str, ...] = request.param
    return names


def entry_of(command: tuple[str, ...]) -> Any:
    """What typer made of it."""
    return GROUP.commands[command[0]] if command else GROUP


def shown(kling: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], width: int, **variables: str) -> str:
    """Its help on a terminal of that width."""
    for name, value in {"COLUMNS": str(width), **variables}.items():
        monkeypatch.setenv(name, value)
    answer = kling(*command, "--help")
    assert (answer.code, answer.err) == (0, "")
    return answer.out


def written(command: tuple[str, ...]) -> Iterator[str]:
    """Every text that was written for it."""
    entry = entry_of(command)
    yield entry.help
    yield entry.epilog.replace("\b", "") if entry.epilog else ""
    for parameter in entry.params:
        yield parameter.help or ""
        yield parameter.metavar or ""
        if isinstance(parameter.show_default, str):
            yield parameter.show_default
        yield from parameter.opts if parameter.param_type_name == "option" else ()


def flat(text: str) -> str:
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def test_every_word_is_shown(kling: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]) -> None:
    """Square brackets, too, which some would take for markup."""
    page = flat(shown(kling, monkeypatch, command, 400))
    for text in written(command):
        assert flat(text) in page
    if not command:
        assert all(flat(entry.help) in page for entry in GROUP.commands.values())
        assert all(flat(f"{code} {meaning}") in page for code, meaning in EXITS.items())


@pytest.mark.parametrize("width", [60, 80, 132])
def test_no_line_is_longer_than_the_terminal_and_none_is_broken_early(
    kling: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], width: int
) -> None:
    page = shown(kling, monkeypatch, command, width)
    assert max(map(len, page.splitlines())) <= width
    for paragraph in entry_of(command).help.split("\n\n"):
        for line in textwrap.wrap(paragraph, width - (2 if command else 4), break_on_hyphens=False):
            assert re.search(rf" {re.escape(line)}[ \n]", page)


@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_where_there_is_no_terminal_there_are_no_colours(
    kling: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], variables: dict[str, str]
) -> None:
    page = shown(kling, monkeypatch, command, 80, **variables)
    assert "\x1b" not in page
    assert "<bool>" not in page


def test_an_argument_is_shown_by_its_name_alone(
    kling: Run, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    page = flat(shown(kling, monkeypatch, command, 132))
    usage = page.partition("Usage: ")[2].partition(" Arguments")[0]
    assert not re.search(r"[{}]|\[\[", usage[:80])
    assert "<str>" not in page

"""The live table, on terminals of any width."""

from __future__ import annotations

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from kling_async import Event, JobRef, Status
from kling_async._cli.output.events import JobChanged, JobStarted
from kling_async._cli.output.live import LiveRenderer
from kling_async._cli.output.reports import Report

REFS = [JobRef("runblob", "o3-video", "a"), JobRef("inferencesh", "image-o1", "b")]


def screen(width: int) -> list[str]:
    """What stands in the table of two jobs: one half done, of the other nothing is told."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    renderer = LiveRenderer(console, show_refs=False)
    with Report(renderer) as report:
        for ref in REFS:
            report.emit(JobStarted(ref, expected=60.0))
        report.emit(JobChanged(REFS[0], _event(Status.PROCESSING, progress=0.5)))
        paper = Console(file=io.StringIO(), width=width)
        with paper.capture() as shown:
            paper.print(renderer._table())
    return shown.get().splitlines()


def _event(status: Status, progress: float | None = None) -> Event:
    return Event(seq=1, status=status, at=datetime.now(UTC), elapsed=5.0, source="poll", progress=progress)


@pytest.mark.parametrize(
    ("width", "percent", "bar"), [(80, True, True), (60, True, False), (46, False, False), (30, False, False)]
)
def test_a_narrow_table_loses_the_bar_then_the_progress_and_never_its_header(
    width: int, percent: bool, bar: bool
) -> None:
    lines = screen(width)
    assert len(lines) == 3
    assert "Elapsed" in lines[0]
    assert ("Progress" in lines[0], "50%" in lines[1], "━" in lines[1]) == (percent, percent, bar)
    for line, word in zip(lines[1:], ["processing", "pending"], strict=True):
        assert word in line
        assert "0:00" in line
        assert len(line) <= width


def test_a_terminal_without_unicode_gets_ascii_marks() -> None:
    paper = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=paper, force_terminal=True, width=80, color_system=None)
    renderer = LiveRenderer(console, show_refs=False)
    with Report(renderer) as report:
        report.emit(JobStarted(REFS[0], expected=60.0))
        report.emit(JobChanged(REFS[0], _event(Status.PROCESSING)))
    paper.flush()
    assert "* processing" in paper.buffer.getvalue().decode()

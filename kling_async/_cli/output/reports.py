"""What a command reports: it emits events, and a renderer shows them as text, as JSON lines or as a live table.

Results (paths, references, JSON) go to standard output, everything else to standard error.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from kling_async import Cost, JobRef, KlingError, Status
from kling_async._cli.errors import Problem
from kling_async._cli.output.events import (
    Failed,
    FilesSaved,
    Interrupted,
    JobChanged,
    JobOver,
    JobStarted,
    JobSubmitted,
    Note,
    Product,
    ReportEvent,
    Unfinished,
    Warned,
)
from kling_async._cli.output.text import hints
from kling_async._rows.advice import facts_of

__all__ = ["Renderer", "Report", "resume_command", "take_up_command"]


def resume_command(ref: JobRef, directory: Path | None) -> str:
    """The command that watches a job again, fit to be pasted into a shell."""
    return shlex.join(["kling", "watch", str(ref), *(["-o", str(directory)] if directory is not None else [])])


def take_up_command(ledger: Path, directory: Path | None) -> str:
    """The command that goes on with all jobs of a ledger, fit to be pasted into a shell."""
    place = ["-o", str(directory)] if directory is not None else []
    return shlex.join(["kling", "resume", "--ledger", str(ledger), *place])


class Renderer(Protocol):
    """Shows events to users."""

    def render(self, event: ReportEvent) -> None:
        """Show an event, or nothing if users need not see it."""

    def close(self) -> None:
        """Stop drawing. Messages may follow."""


class Report:
    """Keeps which jobs are unfinished, and passes events to a renderer.

    Args:
        renderer: Shows the events.
        resume: The command that continues with a job. If None, the jobs end with the program.
        log_level: The least level of the library's log that is shown.
    """

    interrupt_note: str | None = "nothing was bought"
    """What an interruption means for the user's money now. If None, the unfinished jobs are listed instead."""

    def __init__(
        self, renderer: Renderer, resume: Callable[[JobRef], str] | None = None, log_level: int = logging.WARNING
    ) -> None:
        self._renderer = renderer
        self._resume = resume
        self._unfinished: dict[JobRef, Status] = {}
        self._log = _Log(self, log_level)
        self._level_before = logging.NOTSET

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self._log)
        log = logging.getLogger("kling_async")
        self._level_before = log.level
        if self._log.level < logging.WARNING:
            log.setLevel(self._log.level)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._renderer.close()
        logging.getLogger().removeHandler(self._log)
        logging.getLogger("kling_async").setLevel(self._level_before)

    def emit(self, event: ReportEvent) -> None:
        """Report an event."""
        match event:  # before it is shown, which may fail
            case JobStarted(ref):
                self._unfinished[ref] = Status.PENDING
                if self._resume:
                    self.interrupt_note = None
            case JobSubmitted(ref):
                self._unfinished[ref] = Status.PENDING
            case JobChanged(ref, change):
                self._unfinished[ref] = change.status
            case FilesSaved(result):
                self._unfinished.pop(result.ref, None)
            case JobOver(ref):
                self._unfinished.pop(ref, None)
        self._renderer.render(event)

    def say(self, text: str) -> None:
        """Report a message for a person."""
        self.emit(Note(text))

    def product(self, text: str) -> None:
        """Report a line of what the user asked for."""
        self.emit(Product(text))

    def submitted(self, ref: JobRef, cost: Cost | None) -> None:
        """Report a job for which the command does not wait."""
        self.emit(JobSubmitted(ref, cost, self.command(ref)))

    def failed(self, problem: Problem) -> None:
        """Report an error, with the unfinished jobs that it is about."""
        self.emit(Failed(problem, self.unfinished(problem.ref)))

    def interrupted(self) -> None:
        """Report that the user stopped the command."""
        self.emit(Interrupted(self.farewell(), self.unfinished()))

    def command(self, ref: JobRef) -> str:
        """The command that continues with a job."""
        return self._resume(ref) if self._resume else resume_command(ref, None)

    def unfinished(self, ref: str | None = None) -> list[Unfinished]:
        """The jobs whose files are not saved and which outlive the program: all of them, or the one with this ref."""
        if self._resume is None:
            return []
        return [
            Unfinished(job, status, self._resume(job))
            for job, status in self._unfinished.items()
            if ref in {None, str(job)}
        ]

    def farewell(self) -> str:
        """The message about an interruption."""
        return f"interrupted; {self.interrupt_note}" if self.interrupt_note else "interrupted"

    def hints(self) -> list[str]:
        """The unfinished jobs in words. The commands stand on lines of their own, to be copied."""
        return hints(self.unfinished())


class _Log(logging.Handler):
    """Shows the library's log through the report. Written past it, it would disturb a live table."""

    def __init__(self, report: Report, level: int) -> None:
        super().__init__(level)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "stamina" or getattr(record, "event", None) in _REPORTED_OTHERWISE:
            return
        self._report.emit(Warned(f"{record.levelname.lower()}: {_message(record)}"))


_REPORTED_OTHERWISE = frozenset({"poll_failed_for_good", "not_resumed", "bought_while_cancelled"})
"""Warnings about what the report shows in full: a raised error, `Client.unresolved`, the jobs that go on."""


def _message(record: logging.LogRecord) -> str:
    """The record's message. Errors in it are shown without their advice, which is Python."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    shown = tuple(facts_of(argument) if isinstance(argument, KlingError) else argument for argument in arguments)
    return record.msg % shown if shown and isinstance(record.msg, str) else record.getMessage()

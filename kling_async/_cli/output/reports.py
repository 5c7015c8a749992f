"""What the user sees of jobs: a live table on a terminal, lines elsewhere, JSON lines for programs.

Results (paths, references, JSON) go to standard output, everything else to standard error.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kling_async import Artifact, Cost, Event, JobRef, KlingError, Result, Status, Submission
from kling_async._cli.errors import INTERRUPTED, Problem
from kling_async._cli.output.advice import as_commands, facts_of
from kling_async._cli.output.formatting import duration, money, printable

__all__ = ["JsonReport", "PlainReport", "Report", "as_json", "resume_command", "take_up_command"]


def resume_command(ref: JobRef, directory: Path | None) -> str:
    """The command that watches a job again, fit to be pasted into a shell."""
    return shlex.join(["kling", "watch", str(ref), *(["-o", str(directory)] if directory is not None else [])])


def take_up_command(ledger: Path, directory: Path | None) -> str:
    """The command that goes on with all jobs of a ledger, fit to be pasted into a shell."""
    place = ["-o", str(directory)] if directory is not None else []
    return shlex.join(["kling", "resume", "--ledger", str(ledger), *place])


class Report:
    """Tells of jobs in lines; the other reports refine it.

    Args:
        resume: The command that goes on with a job; None: nothing does, the jobs end with the program.
    """

    interrupt_note: str | None = "nothing was bought"
    """What an interruption now means for the user's money, and what to do; None: the jobs that go on are named."""

    def __init__(self, resume: Callable[[JobRef], str] | None = None) -> None:
        self._resume = resume
        self._unfinished: dict[JobRef, Status] = {}
        self._warnings = _Warnings(self)

    def __enter__(self) -> Self:
        logging.getLogger().addHandler(self._warnings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger().removeHandler(self._warnings)

    def say(self, text: str) -> None:
        """Words for a human."""

    def warn(self, text: str) -> None:
        """Words for whoever looks after the program, where there is one; never among the results."""
        self.say(text)

    def product(self, text: str) -> None:
        """A line of what the user asked for."""

    def begun(self, ref: JobRef, expected: float | None = None) -> None:
        """A job is followed from now on; it takes about `expected` seconds, if that is known."""
        del expected
        self._unfinished[ref] = Status.PENDING
        if self._resume:
            self.interrupt_note = None

    def event(self, ref: JobRef, event: Event) -> None:
        """A job changed."""
        self._unfinished[ref] = event.status

    def saving(self, ref: JobRef, done: int, total: int | None) -> None:
        """A part of a job's file has arrived: bytes so far, and in all."""

    def saved(self, result: Result, paths: Sequence[Path]) -> None:
        """A job's files are on the disk."""
        del paths
        self._unfinished.pop(result.ref, None)

    def submitted(self, ref: JobRef, cost: Cost | None) -> None:
        """A job was bought, and is left to itself."""
        del cost
        self._unfinished[ref] = Status.PENDING  # before it is told, which may fail

    def unresolved(self, submission: Submission) -> None:
        """A submission of the ledger that could be neither followed nor settled."""

    def failed(self, problem: Problem) -> None:
        """Something went wrong, with one job or altogether."""

    def interrupted(self) -> None:
        """The user wants out."""

    def over(self, ref: JobRef) -> None:
        """There is nothing to go on with."""
        self._unfinished.pop(ref, None)

    def stop_drawing(self) -> None:
        """All jobs have ended; what follows are words."""

    def command(self, ref: JobRef) -> str:
        """The command that goes on with a job."""
        return self._resume(ref) if self._resume else resume_command(ref, None)

    def left(self) -> list[tuple[JobRef, Status, str]]:
        """The jobs whose files are not saved, where they stand, and the command that goes on with each."""
        if self._resume is None:
            return []
        return [(ref, status, self._resume(ref)) for ref, status in self._unfinished.items()]

    def farewell(self) -> str:
        """What is said when the user wants out."""
        return f"interrupted; {self.interrupt_note}" if self.interrupt_note else "interrupted"

    def hints(self, ref: str | None = None) -> list[str]:
        """The same in words, of that job or of all; the commands on lines of their own, to be copied."""
        commands: dict[str, list[str]] = {}
        for job, status, command in self.left():
            if ref in {None, str(job)}:
                saving = f"is {status} and not saved; save it"
                outcome = saving if status.terminal else "goes on at its provider; see how it ends"
                commands.setdefault(command, []).append(f"job {job} {outcome} with:")
        return [line for command, lines in commands.items() for line in (*lines, f"  {command}")]


class PlainReport(Report):
    """Lines for a human: each thing that happens, when it happens."""

    def say(self, text: str) -> None:
        """Words for a human, on standard error."""
        print(printable(text), file=sys.stderr, flush=True)  # noqa: T201  # a command line program talks

    def product(self, text: str) -> None:
        """A line of what the user asked for, on standard output; exactly, where a program reads it."""
        print(printable(text) if sys.stdout.isatty() else text, flush=True)  # noqa: T201  # the same

    def event(self, ref: JobRef, event: Event) -> None:
        """A job changed: its address, where it stands, its age, and the provider's words."""
        super().event(ref, event)
        progress = f"  {event.progress:.0%}" if event.progress is not None and not event.status.terminal else ""
        message = f"  {printable(event.message)[:200]}" if event.message else ""
        self.say(f"{ref}  {event.status}  {duration(event.elapsed)}{progress}{message}")

    def saved(self, result: Result, paths: Sequence[Path]) -> None:
        """The paths, one a line."""
        super().saved(result, paths)
        for failure in result.failures:
            self.say(f"{result.ref}: a file was not made: {failure}")
        for path in paths:
            self.product(str(path))

    def submitted(self, ref: JobRef, cost: Cost | None) -> None:
        """The job's address, and how to follow it."""
        super().submitted(ref, cost)
        self.product(str(ref))
        self.say(f"bought{f' for {money(cost)}' if cost else ''}; see how it ends with: {self.command(ref)}")

    def unresolved(self, submission: Submission) -> None:
        """What is known of it, and the ways out."""
        known = f"{submission.state}{f' ({submission.reason})' if submission.reason else ''}"
        self.say(f"unresolved: {submission.key}  {submission.endpoint}  {known}")
        for number, command in enumerate(as_commands(submission.remedies)):
            self.say(f"  {'or' if number else 'next'}: {command}")

    def failed(self, problem: Problem) -> None:
        """The problem in words, and how to go on where a job does."""
        first, *rest = problem.lines()
        self.say(f"error: {first}")
        for line in rest:
            self.say(line)
        for hint in self.hints(problem.ref):
            self.say(hint)

    def interrupted(self) -> None:
        """What was bought, and how to go on if there is anything to go on with."""
        self.say(self.farewell())
        for hint in self.hints():
            self.say(hint)


class JsonReport(Report):
    """One JSON object a line, on standard output, and nothing else there."""

    def tell(self, **fields: Any) -> None:
        """One line. Non-ASCII is escaped, so a line is safe to show on a terminal, too."""
        print(json.dumps(fields, default=str), flush=True)  # noqa: T201  # a command line program talks

    def warn(self, text: str) -> None:
        """Words for a human, on standard error: a program that reads the results has them shown or kept."""
        print(printable(text), file=sys.stderr, flush=True)  # noqa: T201  # a command line program talks

    def event(self, ref: JobRef, event: Event) -> None:
        """``{"type": "event", ...}``: the fields of the event."""
        super().event(ref, event)
        self.tell(
            type="event",
            ref=str(ref),
            seq=event.seq,
            status=event.status,
            at=event.at.isoformat(),
            elapsed=round(event.elapsed, 3),
            source=event.source,
            progress=event.progress,
            message=event.message,
        )

    def saved(self, result: Result, paths: Sequence[Path]) -> None:
        """``{"type": "result", ...}``: the job's files, where they came from and where they are."""
        super().saved(result, paths)
        self.tell(
            type="result",
            ref=str(result.ref),
            status=Status.COMPLETED,
            cost=as_json(result.cost),
            artifacts=[_artifact(artifact, path) for artifact, path in zip(result.artifacts, paths, strict=True)],
            failures=[str(failure) for failure in result.failures],
        )

    def submitted(self, ref: JobRef, cost: Cost | None) -> None:
        """``{"type": "submitted", ...}``: the job's address and price."""
        super().submitted(ref, cost)
        self.tell(type="submitted", ref=str(ref), cost=as_json(cost), watch=self.command(ref))

    def unresolved(self, submission: Submission) -> None:
        """``{"type": "unresolved", ...}``: what is known of it, and the ways out."""
        self.tell(
            type="unresolved",
            key=submission.key,
            endpoint=submission.endpoint,
            state=submission.state,
            reason=submission.reason,
            next_steps=as_commands(submission.remedies),
        )

    def failed(self, problem: Problem) -> None:
        """``{"type": "error", ...}``: what went wrong, and how to go on where a job does."""
        self.tell(**problem.as_json(), **self._unfinished_fields(problem.ref))

    def interrupted(self) -> None:
        """``{"type": "interrupted", ...}``: what was bought, and the jobs that go on."""
        self.tell(type="interrupted", message=self.farewell(), exit_code=INTERRUPTED, **self._unfinished_fields())

    def _unfinished_fields(self, ref: str | None = None) -> dict[str, Any]:
        left = [
            {"ref": str(job), "status": status, "watch": command}
            for job, status, command in self.left()
            if ref in {None, str(job)}
        ]
        return {"unfinished": left} if left else {}


class _Warnings(logging.Handler):
    """Shows the library's warnings through the report. Written past it, they would disturb a live table."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "stamina" or getattr(record, "event", None) in _REPORTED_OTHERWISE:
            return
        self._report.warn(f"{record.levelname.lower()}: {_message(record)}")


_REPORTED_OTHERWISE = frozenset({"poll_failed_for_good", "not_resumed", "bought_while_cancelled"})
"""Warnings about what the report shows in full: a raised error, `Client.unresolved`, the jobs that go on."""


def _message(record: logging.LogRecord) -> str:
    """The record's message. Errors in it are shown without their advice, which is Python."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    shown = tuple(facts_of(argument) if isinstance(argument, KlingError) else argument for argument in arguments)
    return record.msg % shown if shown and isinstance(record.msg, str) else record.getMessage()


def as_json(cost: Cost | None) -> dict[str, str] | None:
    """An amount as JSON values."""
    return {"amount": str(cost.amount), "unit": cost.unit} if cost else None


def _artifact(artifact: Artifact, path: Path) -> dict[str, Any]:
    return {
        "kind": artifact.kind,
        "path": str(path),
        "bytes": path.stat().st_size,
        "url": artifact.url,
        "seed": artifact.seed,
        "expires": artifact.expires.isoformat() if artifact.expires else None,
    }

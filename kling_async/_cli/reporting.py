"""How every command begins: it chooses what shows its report, and answers each error with one message.

Commands that need no client, such as ``kling jobs``, load this and not the `runner`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import typer

from kling_async import JobRef
from kling_async._cli.errors import INTERRUPTED, PIPE_CLOSED, TRACEBACK, explain, is_output_error, print_final_message
from kling_async._cli.ledger import work_with
from kling_async._cli.output.json_lines import JsonRenderer
from kling_async._cli.output.loudness import is_quiet, log_level
from kling_async._cli.output.reports import Report, resume_command, take_up_command
from kling_async._cli.output.terminal import terminal
from kling_async._cli.output.text import QuietRenderer, TextRenderer

__all__ = ["choose_report", "handle_errors"]


def choose_report(
    *, as_json: bool, directory: Path | None, resumable: bool = True, ledger: Path | None = None
) -> Report:
    """JSON lines if asked for, a live table on a terminal, lines elsewhere.

    Args:
        as_json: Whether JSON was asked for.
        directory: Where results are saved, part of the command that goes on with a job.
        resumable: Whether jobs outlive the program.
        ledger: The ledger that has the jobs. `kling resume` goes on with all of it.
    """
    work_with(ledger)
    place = None if directory == Path() else directory

    def resume(ref: JobRef) -> str:
        return resume_command(ref, place) if ledger is None else take_up_command(ledger, place)

    follow = resume if resumable else None
    if as_json:
        return Report(JsonRenderer(), follow, log_level())
    if is_quiet():
        return Report(QuietRenderer(), follow)
    console = terminal()
    if console is None:
        return Report(TextRenderer(), follow, log_level())
    from kling_async._cli.output.live import LiveRenderer  # noqa: PLC0415  # what draws is loaded where it draws

    return Report(LiveRenderer(console, show_refs=resumable), follow, log_level())


@contextmanager
def handle_errors(report: Report) -> Iterator[None]:
    """Answer every error that a user can cause or meet with its message and its exit code.

    Raises:
        typer.Exit: The answer.
    """
    if callable(signal.getsignal(signal.SIGINT)):  # otherwise it is ignored, and stays so
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with report:
            yield
    except BrokenPipeError:
        print_final_message(report.hints())
        raise typer.Exit(PIPE_CLOSED) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        problem = explain(error)
        words = [*problem.lines(), *report.hints()]
        if is_output_error(error):
            print_final_message(words)
        else:
            _tell(partial(report.failed, problem), words)
        raise typer.Exit(problem.code) from None
    except KeyboardInterrupt:
        _tell(report.interrupted, [report.farewell(), *report.hints()])
        raise typer.Exit(INTERRUPTED) from None


def _tell(tell: Callable[[], None], words: Iterable[str]) -> None:
    """Report it. If the report's stream cannot be written, write text to the other one."""
    try:
        tell()
    except OSError as error:
        if not is_output_error(error):
            raise
        print_final_message(words)

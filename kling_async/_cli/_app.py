"""The commands, and what ``kling --help`` says of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import kling_async
from kling_async._cli._bulk import bulk
from kling_async._cli._command import Command, Group
from kling_async._cli._demo import demo
from kling_async._cli._endpoints import endpoints
from kling_async._cli._exits import EXITS, PIPE_CLOSED
from kling_async._cli._generate import generate, watch
from kling_async._cli._jobs import jobs
from kling_async._cli._resume import resolve, resume
from kling_async._cli._run import hang_up
from kling_async._cli._sandbox import sandbox

__all__ = ["app", "run"]

_EPILOG = "\b\nExit codes:\n" + "\n".join(f"{code:>3}  {meaning}" for code, meaning in EXITS.items())

_FOLLOWED = (generate, watch, bulk, resume, resolve)
"""Commands that say by their exit code what became of a job."""

app = typer.Typer(
    name="kling",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (demo, generate, watch, bulk, jobs, resume, resolve, sandbox, endpoints):
    app.command(cls=Command, epilog=_EPILOG if command in _FOLLOWED else None)(command)


def _version(value: bool) -> None:  # as typer calls it
    if value:
        print(f"kling_async {kling_async.__version__}")  # noqa: T201  # what was asked for
        raise typer.Exit


@app.callback()
def kling(
    *,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Kling images and video, from every provider that sells them.

    Try it without a key: kling demo
    """
    del version


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command; see `kling_async._cli.main`."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character must not end a program that has just paid for something.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    try:
        return _called(arguments)
    except BrokenPipeError:
        hang_up()
        return PIPE_CLOSED


def _called(arguments: Sequence[str] | None) -> int:
    """Its exit code, with all its output written.

    Raises:
        BrokenPipeError: Whoever read the output has left.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="kling")
        code = 0
    except SystemExit as done:
        # Typer and rich make exit code 1 of it; that is the code of a failed generation.
        if isinstance(done.__context__, BrokenPipeError):
            raise done.__context__ from None
        code = done.code if isinstance(done.code, int) else 1
    sys.stdout.flush()
    return code

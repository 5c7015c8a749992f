"""The commands, and their descriptions in ``kling --help``: they are listed here, and loaded when they are run."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from contextvars import copy_context
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer

import kling_async
from kling_async._cli.errors import (
    EXITS,
    PIPE_CLOSED,
    USAGE,
    CommandError,
    close_output,
    explain,
    is_output_error,
    print_final_message,
)
from kling_async._cli.options import Command, Group
from kling_async._cli.output.formatting import printable

__all__ = ["app", "run"]

_ANY_WIDTH = 1000  # columns: all that the terminal has
_REHEARSAL_SPEED = 60.0
_SEE_EXITS = "Exit codes: kling --help"
_SETTINGS = {"help_option_names": ["-h", "--help"]}


class _Listed(NamedTuple):
    home: str
    """The module of the function that has its name."""
    summary: str
    """What it does, in the words that its own help begins with."""
    epilog: str | None = None


_COMMANDS = {
    "demo": _Listed("commands.demo", "Make a video and some images on a local sandbox: no key, no cost."),
    "generate": _Listed("commands.generate", "Buy one generation, wait for it, and save the files.", _SEE_EXITS),
    "watch": _Listed(
        "commands.generate", "Wait for an existing job and save its files. Nothing is bought.", _SEE_EXITS
    ),
    "bulk": _Listed(
        "bulk.command",
        "Buy every row of a file once, and save the results. The same command again continues.",
        _SEE_EXITS,
    ),
    "jobs": _Listed(
        "commands.jobs",
        "List the submissions of a ledger: status, cost and files.",
    ),
    "open": _Listed("commands.open", "Open the saved file of a job, or its address."),
    "balance": _Listed("commands.balance", "Show what the accounts have left, where the providers tell."),
    "cancel": _Listed(
        "commands.cancel",
        "Ask the provider to cancel a job. Most providers charge for it all the same.",
        _SEE_EXITS,
    ),
    "resume": _Listed("commands.resume", "Wait for all unfinished jobs of a ledger, and save their files.", _SEE_EXITS),
    "resolve": _Listed(
        "commands.resume",
        "Decide about a submission with an unknown outcome: it is job REF, forget it, or submit it again.",
        _SEE_EXITS,
    ),
    "sandbox": _Listed("commands.sandbox", "Run a local imitation of all providers: no key, no cost."),
    "quote": _Listed(
        "commands.quote", "Show what a request costs and how long it takes, provider by provider. Nothing is bought."
    ),
    "doctor": _Listed(
        "commands.doctor",
        "Check keys, region, clock, proxy, certificates, ledger and versions. It costs nothing.",
    ),
    "endpoints": _Listed("commands.endpoints", "List the endpoints with their fields."),
    "studio": _Listed("commands.studio", "Open a page that makes, follows and shows images and videos."),
    "mcp": _Listed("commands.mcp", "Serve an assistant by the Model Context Protocol, within a budget."),
}


class _OnDemand(Group):
    """Lists the commands by their summaries. One is loaded, and most of the library with it, when it is to run.

    Its own help is plain text: rich, which draws that of the commands, would double the time that it takes.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the arguments. If there are none, print the help."""
        if not args and not ctx.resilient_parsing:  # a shell that completes parses no arguments, too
            typer.echo(ctx.get_help())
            ctx.exit(USAGE)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write all of each summary. Typer would cut it to a line."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in _COMMANDS.items()])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write what the exit codes mean."""
        del ctx
        with formatter.section("Exit codes"):
            formatter.write_dl([(f"{code:>3}", meaning) for code, meaning in EXITS.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and _loaded(str(listed.name)), rest


def _loaded(name: str) -> Any:
    from kling_async._cli.output.loudness import with_loudness  # noqa: PLC0415  # kling --help needs none of it

    home, _, epilog = _COMMANDS[name]
    module = import_module(f"kling_async._cli.{home}")
    if name == "sandbox":
        epilog = module.faults_help()
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=_SETTINGS)
    alone.command(name, cls=Command, epilog=epilog)(with_loudness(getattr(module, name)))
    return typer.main.get_command(alone)


app = typer.Typer(
    name="kling",
    cls=_OnDemand,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={**_SETTINGS, "max_content_width": _ANY_WIDTH},
)
for _name, _command in _COMMANDS.items():
    app.command(_name, help=_command.summary)(lambda: None)


def _version(value: bool) -> None:  # as typer calls it
    if value:
        print(f"kling_async {kling_async.__version__}")  # noqa: T201  # what was asked for
        raise typer.Exit


@app.callback()
def kling(
    context: typer.Context,
    *,
    sandbox: Annotated[
        bool,
        typer.Option("--sandbox", help="Run the command on a sandbox of its own, 60 times faster: no key, no cost."),
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Kling images and video from several providers.

    Try it without a key: kling demo
    """
    del version
    if context.resilient_parsing:
        return
    before = dict(os.environ)

    def restore() -> None:
        os.environ.clear()
        os.environ.update(before)

    context.call_on_close(restore)
    _read_settings(context)
    if sandbox:
        _rehearse(context)


def _read_settings(context: typer.Context) -> None:
    """Have the command begin with what the files of settings say, where there are any.

    Raises:
        BadParameter: One cannot be used.
    """
    from kling_async._cli.settings import apply_files, found_files  # noqa: PLC0415  # loaded only where it is wanted

    name = context.invoked_subcommand or ""
    if not found_files():
        return
    try:
        chosen = apply_files(name, _COMMANDS, lambda: _parameters(name))
    except CommandError as error:
        sys.stderr.write(f"error: {printable(error.message)}\n")
        raise typer.Exit(error.code) from None
    context.default_map = {name: chosen}


def _parameters(name: str) -> dict[str, str]:
    """The parameters of a command by the names of their options."""
    options = [parameter for parameter in _loaded(name).params if parameter.param_type_name == "option"]
    return {max(option.opts, key=len).lstrip("-"): str(option.name) for option in options}


def _rehearse(context: typer.Context) -> None:
    """Start a sandbox for the command, and lead it there.

    Raises:
        Exit: What it needs is not installed.
    """
    from kling_async._cli.commands.sandbox import environment  # noqa: PLC0415  # loaded only where it is wanted

    try:
        from kling_async.sandbox import Sandbox  # noqa: PLC0415  # the same
    except ImportError as error:
        sys.stderr.write(f"error: {printable(error)}\n")
        raise typer.Exit(USAGE) from None
    stage = context.with_resource(Sandbox(speed=_REHEARSAL_SPEED, seed=secrets.randbits(31)))
    os.environ.update(environment(stage))
    sys.stderr.write(f"On a sandbox: nothing is bought, and time runs {_REHEARSAL_SPEED:g} times faster.\n")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command. See `kling_async._cli.main`."""
    # Who has closed them wants to read nothing. The next file that is opened must not take their place.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115  # for as long as the program runs
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115  # the same
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character must not end a program that has just paid for something.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    try:
        return copy_context().run(_called, arguments)  # what a command sets is its own
    except BrokenPipeError:
        close_output()
        return PIPE_CLOSED
    except OSError as error:
        if not is_output_error(error):
            raise
        problem = explain(error)
        print_final_message(problem.lines())
        return problem.code


def _called(arguments: Sequence[str] | None) -> int:
    """Its exit code, with all its output written.

    Raises:
        BrokenPipeError: The reader of the output closed the pipe.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="kling")
        code = 0
    except SystemExit as done:
        # Typer and rich make exit code 1 of it. That is the code of a failed generation.
        if isinstance(done.__context__, BrokenPipeError):
            raise done.__context__ from None
        code = done.code if isinstance(done.code, int) else 1
    sys.stdout.flush()
    return code

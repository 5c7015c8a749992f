"""``kling sandbox``: a stand-in for the providers, to rehearse on."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import anyio
import typer
from rich.markup import escape

from kling_async._cli.errors import CommandError
from kling_async._cli.options import AsJson, options_from
from kling_async._cli.output.reports import Report
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._cli.runner import run
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers._base.credentials import SPEED_VARIABLE  # read by the providers, not set by users

if TYPE_CHECKING:
    from kling_async.sandbox import Sandbox

__all__ = ["environment", "exports", "faults_help", "run_inside", "sandbox"]


_PORT = 8765


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of ``kling sandbox``."""

    port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=0,
            max=65535,
            help="TCP port on 127.0.0.1; 0 takes any free one.",
            show_default=f"{_PORT}, and with a command any free one",
        ),
    ] = None
    speed: Annotated[
        float, typer.Option(metavar="FACTOR", min=0, max=3600, help="How many times faster than real time.")
    ] = 1.0
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Seed of keys, ids, durations and images. By default, all are random."),
    ] = None
    scale: Annotated[
        float | None,
        typer.Option(metavar="FACTOR", min=0.01, max=1, help="Size of results relative to what was asked."),
    ] = None
    rate_limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Status calls in 60 simulated seconds. 0 means no limit. [default: what each provider documents]",
        ),
    ] = None
    credit: Annotated[
        float | None,
        typer.Option("--credits", metavar="AMOUNT", min=0, help="Credit of each account, in its provider's unit."),
    ] = None
    lifetime: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="Simulated seconds until result URLs expire."),
    ] = None
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAULT",
            help="A fault to simulate, such as accept-then-reset:submit:every=10; --fault help lists all.",
        ),
    ] = None
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROVIDER.NAME=VALUE",
            help="How a provider answers where its versions differ, such as inferencesh.progress=yes. May be repeated.",
        ),
    ] = None
    shell: Annotated[
        Literal["sh", "fish", "powershell", "env"] | None,
        typer.Option(
            "--shell",
            help="Print the variables as commands of this shell, or as lines of an .env file.",
            show_default="powershell on Windows, and sh elsewhere",
        ),
    ] = None
    as_json: AsJson = False
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- COMMAND ...]",
            help="Run this program with the variables set, and end with it.",
            show_default=False,
        ),
    ] = None

    def stage(self) -> Sandbox:
        """The sandbox that is wanted.

        Raises:
            CommandError: A fault or an option is not one.
        """
        from kling_async.sandbox import Sandbox  # noqa: PLC0415  # an optional extra

        stage = Sandbox(
            speed=self.speed,
            # Else each sandbox would number its jobs alike, and they meet in one history.
            seed=secrets.randbits(31) if self.seed is None else self.seed,
            port=self.port if self.port is not None else 0 if self.command else _PORT,
            scale=self.scale,
            rate_limit="documented" if self.rate_limit is None else self.rate_limit or None,
            credits=self.credit,
            lifetime=self.lifetime,
        )
        for text in self.fault or ():
            try:
                stage.faults.add(text)
            except ValueError as error:
                raise CommandError(f"--fault: {error}") from error
        for text in self.option or ():
            try:
                stage.set_option(text)
            except ValueError as error:
                raise CommandError(f"--option: {error}") from error
        return stage


@options_from(_Options)
def sandbox(options: _Options) -> None:
    """Run a local imitation of all providers: no key, no cost.

    It prints the environment variables that lead kling, and all programs with this library, to the sandbox, and runs
    until Ctrl-C. With a command, it runs that program with the variables set, and ends with it:

    kling sandbox --speed 60 -- kling generate runblob/o3-video "a paper boat"
    """
    report = choose_report(as_json=options.as_json, directory=None, resumable=False)
    with handle_errors(report):
        stage = options.stage()
        try:
            if options.command:
                with stage:
                    raise typer.Exit(run_inside(stage, options.command))
            run(lambda: _serve(stage, report, as_json=options.as_json, shell=options.shell), report)
        except KeyboardInterrupt:
            report.say("The sandbox has ended.")  # as it was asked to: exit code 0


async def _serve(stage: Sandbox, report: Report, *, as_json: bool, shell: str | None) -> None:
    async with stage:
        if as_json:
            described = {"type": "sandbox", **stage.describe(), "environment": environment(stage)}
            print(json.dumps(described), flush=True)  # noqa: T201  # what was asked for
        for line in exports(stage, shell):
            report.product(line)
        report.say(f"The sandbox serves on {stage.url}; Ctrl-C ends it.")
        await anyio.sleep_forever()


def run_inside(stage: Sandbox, command: Sequence[str]) -> int:
    """Run a program with the variables of a sandbox that serves. Return its exit code.

    Raises:
        CommandError: It cannot be started.
    """
    try:
        with subprocess.Popen(command, env={**os.environ, **environment(stage)}) as process:  # noqa: S603  # the user's
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:  # the program got it as well, and decides when it ends
                    continue
    except OSError as error:
        raise CommandError(f"{command[0]!r:.80} cannot be started: {error.strerror or error}") from error


def environment(stage: Sandbox) -> dict[str, str]:
    """The variables that send every provider of this library to the sandbox. Its keys open nothing else."""
    played = stage.describe()["providers"]
    speed = stage.state.clock.speed
    found = {} if speed in {0.0, 1.0} else {SPEED_VARIABLE: f"{speed:g}"}
    for kind in ALL_PROVIDERS:
        if kind.name in played:
            key, address = kind.env_vars
            found |= {key: played[kind.name]["api_key"], address: played[kind.name]["base_url"]}
    return found


def exports(stage: Sandbox, shell: str | None = None) -> list[str]:
    """The same as commands of a shell.

    Args:
        stage: The sandbox.
        shell: ``sh``, ``fish``, ``powershell`` or ``env``. If None, the usual one of this system.
    """
    write = _FORMS[shell or ("powershell" if os.name == "nt" else "sh")]
    return [write(name, value) for name, value in environment(stage).items()]


def _in_fish(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"set -gx {name} '{escaped}'"


def _in_powershell(name: str, value: str) -> str:
    escaped = value.replace("'", "''")
    return f"$env:{name} = '{escaped}'"


_FORMS: Mapping[str, Callable[[str, str], str]] = {
    "sh": lambda name, value: f"export {name}={shlex.quote(value)}",
    "fish": _in_fish,
    "powershell": _in_powershell,
    "env": lambda name, value: f"{name}={shlex.quote(value)}",
}


def faults_help() -> str:
    """The faults of ``--fault`` and the directives in prompts, for ``--help``."""
    from kling_async.sandbox.emulator.jobs import DIRECTIVES  # noqa: PLC0415  # an optional extra
    from kling_async.sandbox.faults.catalog import Fault  # noqa: PLC0415  # the same

    faults = "\n".join(f"  {fault.value:<22}{fault.description}" for fault in Fault)
    directives = escape("\n".join(f"  {text:<32}{effect}" for text, effect in DIRECTIVES.items()))
    return f"\b\nFaults (NAME:KIND:OPTION=VALUE):\n{faults}\n\n\b\nIn a prompt:\n{directives}"

"""``kling sandbox``: a stand-in for the providers, to rehearse on."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from kling_async._cli.errors import CommandError
from kling_async._cli.options import AsJson, options_from
from kling_async._cli.output.reports import Report
from kling_async._cli.runner import choose_report, handle_errors, run
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers._base.credentials import SPEED_VARIABLE  # read by the providers, not set by users

if TYPE_CHECKING:
    from kling_async.sandbox import Sandbox

__all__ = ["exports", "sandbox"]


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of ``kling sandbox``."""

    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="TCP port on 127.0.0.1; 0 takes any free one.")
    ] = 8765
    speed: Annotated[
        float, typer.Option(metavar="FACTOR", min=0, max=3600, help="How many times faster than real time.")
    ] = 1.0
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Seed of keys, ids, durations and images. By default, keys are random."),
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
    as_json: AsJson = False

    def stage(self) -> Sandbox:
        """The sandbox that is wanted.

        Raises:
            CommandError: A fault is not one.
        """
        from kling_async.sandbox import Sandbox  # noqa: PLC0415  # an optional extra

        stage = Sandbox(
            speed=self.speed,
            seed=self.seed,
            port=self.port,
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
        return stage


@options_from(_Options)
def sandbox(options: _Options) -> None:
    """Run a local imitation of all providers until Ctrl-C: no key, no cost.

    It prints the environment variables that lead kling, and all programs with this library, to the sandbox.
    """
    report = choose_report(as_json=options.as_json, directory=None, resumable=False)
    with handle_errors(report):
        stage = options.stage()
        try:
            run(lambda: _serve(stage, report, as_json=options.as_json), report)
        except KeyboardInterrupt:
            report.say("The sandbox has ended.")  # as it was asked to: exit code 0


async def _serve(stage: Sandbox, report: Report, *, as_json: bool) -> None:
    async with stage:
        if as_json:
            print(json.dumps({"type": "sandbox", **stage.describe()}), flush=True)  # noqa: T201  # what was asked for
        for line in exports(stage):
            report.product(line)
        report.say(f"The sandbox serves on {stage.url}; Ctrl-C ends it.")
        await anyio.sleep_forever()


def exports(stage: Sandbox) -> list[str]:
    """The shell commands that send every provider of this library to the sandbox. Its keys open nothing else."""
    played = stage.describe()["providers"]
    speed = stage.state.clock.speed
    pace = [] if speed in {0.0, 1.0} else [f"export {SPEED_VARIABLE}={speed:g}"]
    return pace + [
        f"export {variable}={shlex.quote(value)}"
        for kind in ALL_PROVIDERS
        if kind.name in played
        for variable, value in zip(
            kind.env_vars, (played[kind.name]["api_key"], played[kind.name]["base_url"]), strict=True
        )
    ]

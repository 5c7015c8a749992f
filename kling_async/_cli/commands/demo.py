"""``kling demo``: one video and some pictures at once, on a sandbox, for nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer
from pydantic import ValidationError

from kling_async import Client, KlingError, Polling, Progressive, Request
from kling_async._cli.commands.sandbox import exports
from kling_async._cli.errors import explain
from kling_async._cli.file_names import ensure_writable
from kling_async._cli.options import AsJson
from kling_async._cli.output.events import AllJobsEnded, JobStarted
from kling_async._cli.output.reports import Report
from kling_async._cli.runner import choose_report, collect, destination, handle_errors, run
from kling_async.providers.base import Endpoint, Provider

if TYPE_CHECKING:
    from kling_async.sandbox import Sandbox

__all__ = ["demo", "programme"]

_PICTURES = 2
_SMALL = "1k"  # the resolution, where it can be chosen: large enough to see, and drawn in a moment
_VIDEO = re.compile("to-video|o3-video|omni-video|v3-video")
_PICTURE = re.compile("photo|image")
_SHORTEST = 0.05  # s between two polls, however fast time runs
_INTERVALS = (5.0, 5.0, 10.0, 15.0)  # s, the documented schedule, divided by the speed
_PROMPTS = (
    "a paper boat in the rain, seen from a child's height",
    "a lighthouse above a sea of clouds at dawn",
    "a fox asleep in fresh snow",
    "a tram crossing a bridge on a summer evening",
    "a greenhouse full of ferns after a storm",
)


def demo(
    *,
    speed: Annotated[
        float, typer.Option(metavar="FACTOR", min=1, max=3600, help="How many times faster than real time.")
    ] = 60.0,
    scale: Annotated[
        float,
        typer.Option(
            metavar="FACTOR",
            min=0.05,
            max=1,
            help="Size of the results. Smaller ones are drawn sooner on a slow machine.",
        ),
    ] = 1.0,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Output directory.")] = Path(
        "kling-demo"
    ),
    as_json: AsJson = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the sandbox running afterwards, to try other commands on.")
    ] = False,
) -> None:
    """Make a video and some images on a local sandbox: no key, no cost.

    The sandbox answers as the providers do. It takes the time that they document, divided by --speed.
    """
    report = choose_report(as_json=as_json, directory=None, resumable=False)
    with handle_errors(report):
        from kling_async.sandbox import Sandbox  # noqa: PLC0415  # an optional extra

        show = _Demo(Sandbox(speed=speed, scale=scale), speed, destination(output), report)
        try:
            run(lambda: show.run(keep=keep), report)
        except KeyboardInterrupt:
            if not show.finished:
                raise  # otherwise it has ended the sandbox that was kept, as it was asked to
        raise typer.Exit(show.code)


@dataclass(slots=True)
class _Demo:
    """One show: the jobs of it, all at once."""

    sandbox: Sandbox
    speed: float
    directory: Path
    report: Report
    finished: bool = False
    code: int = 0

    async def run(self, *, keep: bool) -> None:
        """Make everything. Then end, or keep the sandbox for the user."""
        await ensure_writable(self.directory)
        schedule = Progressive(*(max(interval / self.speed, _SHORTEST) for interval in _INTERVALS))
        polling = Polling(schedule=schedule, status_calls_per_minute=math.inf)
        async with self.sandbox:
            providers = self.sandbox.providers()
            self.report.say(
                f"On a sandbox, {self.sandbox.url}: nothing is bought, and time runs {self.speed:g} times faster."
            )
            async with Client(providers, polling=polling) as client, anyio.create_task_group() as group:
                for endpoint, request in programme(providers):
                    group.start_soon(self._make, client, endpoint, request)
            self.finished = True
            self.report.emit(AllJobsEnded())
            if keep:
                self.report.say("The sandbox goes on; Ctrl-C ends it. To send it jobs from another terminal:")
                for line in exports(self.sandbox):
                    self.report.product(line)
                await anyio.sleep_forever()

    async def _make(self, client: Client, endpoint: Endpoint[Any], request: Request) -> None:
        """One job. Its failure is reported and does not stop the others."""
        try:
            job = await client.submit(request)
            self.report.emit(JobStarted(job.ref, endpoint.duration_prior(request).median / self.speed))
            await collect(job, self.directory, self.report)
        except KlingError as error:
            problem = explain(error)
            self.code = self.code or problem.code
            self.report.failed(problem)


def programme(providers: Sequence[Provider]) -> list[tuple[Endpoint[Any], Request]]:
    """One video and one picture of each provider that has them, and at least two pictures, each with its own prompt."""
    videos: list[Endpoint[Any]] = []
    pictures: list[Endpoint[Any]] = []
    for provider in providers:
        simple = [endpoint for endpoint in provider.endpoints if _request(endpoint, _PROMPTS[0]) is not None]
        videos += [endpoint for endpoint in simple if _VIDEO.search(endpoint.name)][:1]
        pictures += [endpoint for endpoint in simple if _PICTURE.search(endpoint.name)][:1]
    pictures = list(islice(cycle(pictures), max(len(pictures), _PICTURES)))
    jobs = [(endpoint, _request(endpoint, text)) for endpoint, text in zip([*videos, *pictures], cycle(_PROMPTS))]
    return [(endpoint, request) for endpoint, request in jobs if request is not None]


def _request(endpoint: Endpoint[Any], prompt: str) -> Request | None:
    """A request of a prompt alone. If None, the endpoint needs more, such as an image."""
    known = endpoint.request.model_json_schema()["properties"].get("resolution", {})
    chosen = {"resolution": _SMALL} if _SMALL in str(known) else {}
    try:
        request: Request = endpoint.request.model_validate({"prompt": prompt, **chosen})
    except ValidationError:
        return None
    return request

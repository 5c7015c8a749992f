"""``kling demo``: one video and some pictures at once, on a sandbox, for nothing."""

from __future__ import annotations

import math
import re
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer
from pydantic import ValidationError

from kling_async import Client, Cost, Job, KlingError, Polling, Progressive, Request, Result
from kling_async._cli.bulk.html_report import write_page
from kling_async._cli.commands.sandbox import exports
from kling_async._cli.errors import explain
from kling_async._cli.file_names import ensure_writable
from kling_async._cli.options import AsJson
from kling_async._cli.output.events import AllJobsEnded, JobStarted
from kling_async._cli.output.formatting import duration, plural
from kling_async._cli.output.reports import Report
from kling_async._cli.places import program
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._cli.runner import collect, destination, run
from kling_async._rows.amounts import as_json
from kling_async._rows.records import Record
from kling_async._rows.requests import find
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
    "雨の中の紙の船, a paper boat again",
    "a hot-air balloon over the desert at noon 🎈",
    "夜晚的城市和一只猫",
    "a lighthouse keeper's table, seen from above",
    "an old train in the mountains, Zürich to Chiasso",
    "the first snow on a city by the sea",
    "waves under a violet sky ✨",
)
_ENCORE = "the same, at night and from far away"


def demo(
    *,
    speed: Annotated[
        float, typer.Option(metavar="FACTOR", min=1, max=3600, help="How many times faster than real time.")
    ] = 60.0,
    scale: Annotated[
        float | None,
        typer.Option(
            metavar="FACTOR",
            min=0.05,
            max=1,
            help="Size of the results. Smaller ones are drawn sooner on a slow machine.",
            show_default="pictures whole, clips half as wide and high",
        ),
    ] = None,
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
    records: list[Record] = field(default_factory=list)

    async def run(self, *, keep: bool) -> None:
        """Make everything. Then end, or keep the sandbox for the user."""
        await ensure_writable(self.directory)
        schedule = Progressive(*(max(interval / self.speed, _SHORTEST) for interval in _INTERVALS))
        polling = Polling(schedule=schedule, status_calls_per_minute=math.inf)
        began = time.monotonic()
        async with self.sandbox:
            providers = self.sandbox.providers()
            self.report.say(
                f"On a sandbox, {self.sandbox.url}: nothing is bought, and time runs {self.speed:g} times faster."
            )
            async with Client(providers, polling=polling) as client:
                async with anyio.create_task_group() as group:
                    for endpoint, request in programme(providers):
                        group.start_soon(self._make, client, endpoint, request)
                await self._encore(client, providers)
            self.finished = True
            self.report.emit(AllJobsEnded())
            self._conclude(time.monotonic() - began)
            if keep:
                self.report.say("The sandbox goes on; Ctrl-C ends it. To send it jobs from another terminal:")
                for line in exports(self.sandbox):
                    self.report.product(line)
                await anyio.sleep_forever()

    async def _encore(self, client: Client, providers: Sequence[Provider]) -> None:
        """One more picture, with one of the first as its reference."""
        made = [file["path"] for record in self.records for file in record.files if file["kind"] == "image"]
        takers = [each for provider in providers for each in provider.endpoints if _PICTURE.search(each.name)]
        for endpoint in takers if made else ():
            if "references" in endpoint.request.model_fields:
                given = {"prompt": _ENCORE, "references": (self.directory / made[0],), **_small(endpoint)}
                await self._make(client, endpoint, endpoint.request.model_validate(given))
                return

    def _conclude(self, seconds: float) -> None:
        """Write the page with the results, and say what was made, what it would have cost, and how to go on."""
        if not self.records:
            return
        page = self.directory / "report.html"
        write_page(
            page,
            self.records,
            title="kling demo: made on a sandbox, nothing was bought",
            now=datetime.now(UTC),
            seconds=seconds,
        )
        costs: dict[str, Cost] = {}
        for record in self.records:
            if (cost := record.spent or record.estimated) is not None:
                before = costs.get(cost.unit)
                costs[cost.unit] = Cost(cost.amount + (before.amount if before else 0), cost.unit)
        kinds = Counter(str(file["kind"]) for record in self.records for file in record.files)
        made = " and ".join(plural(count, kind) for kind, count in sorted(kinds.items()))
        worth = " and ".join(map(str, costs.values()))
        self.report.say(f"{made} in {duration(seconds)}; with real keys they would have cost {worth}. Look at them:")
        self.report.product(str(page))
        me = program()
        for line in (
            f"  {me} open {shlex.quote(str(self.directory))}",
            "Make your own, still without a key and without cost:",
            f'  {me} --sandbox generate video "a cat on a skateboard" --duration 5 -o out/',
            "What it costs at each provider:",
            f'  {me} quote "a cat on a skateboard" --duration 5',
        ):
            self.report.say(line)

    async def _make(self, client: Client, endpoint: Endpoint[Any], request: Request) -> None:
        """One job. Its failure is reported and does not stop the others."""
        try:
            job = await client.submit(request)
            self.report.emit(JobStarted(job.ref, endpoint.duration_prior(request).median / self.speed))
            result, paths = await collect(job, self.directory, self.report)
            self.records.append(_record(len(self.records) + 1, job, request, result, paths))
        except KlingError as error:
            problem = explain(error)
            self.code = self.code or problem.code
            self.report.failed(problem)


def _record(line: int, job: Job, request: Request, result: Result, paths: Sequence[Path]) -> Record:
    """The job as a row of the page."""
    files = tuple(
        {"path": path.name, "kind": artifact.kind, "bytes": path.stat().st_size, "seed": artifact.seed}
        for artifact, path in zip(result.artifacts, paths, strict=True)
    )
    price = None if job.cost is not None else find(job.ref.endpoint)[1].price(request)
    return Record(
        key=job.ref.endpoint,
        digest="",
        line=line,
        endpoint=job.ref.endpoint,
        state="completed",
        request={name: value for name, value in request.describe().items() if isinstance(value, str | int | float)},
        ref=str(job.ref),
        elapsed=job.events[-1].elapsed,
        cost=as_json(job.cost),
        estimate=as_json(Cost(price.amount, price.unit)) if price else None,
        files=files,
    )


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
    try:
        request: Request = endpoint.request.model_validate({"prompt": prompt, **_small(endpoint)})
    except ValidationError:
        return None
    return request


def _small(endpoint: Endpoint[Any]) -> dict[str, str]:
    """The smallest resolution, where it can be chosen."""
    field = endpoint.request.model_fields.get("resolution")
    return {"resolution": _SMALL} if field is not None and _SMALL in str(field.annotation) else {}

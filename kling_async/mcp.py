"""The client as tools of a Model Context Protocol server, for assistants that make images and videos.

::

    client = Client(ledger=SqliteLedger("jobs.db"), budget=Budget(usd=5))
    server(client, Path("out")).run()

``kling mcp --budget 5`` does the same. The budget and the ledger are required: an assistant decides what is bought, so
the budget is the limit, and the ledger is its memory. Each generation has a key that the assistant chooses. A tool call
that is repeated with the same key returns the same job, and nothing is bought twice.

No API key and no file of this machine reaches the assistant, except results, which are saved in one directory.
Reference images are https URLs, data URIs or files of that directory.
"""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from anyio import to_thread
from pydantic import BaseModel, Field, ValidationError

from kling_async import __version__
from kling_async._client import Client
from kling_async._errors import ConfigurationError, KlingError, Remedy
from kling_async._job.job import Job
from kling_async._ledger.protocol import Submission
from kling_async._models import Artifact, Result, Status
from kling_async.providers import load_providers
from kling_async.providers._base.field_errors import describe_problem
from kling_async.providers._base.offers import ImageOffer, VideoOffer
from kling_async.providers._base.portable import Image as PortableImage
from kling_async.providers._base.portable import Video
from kling_async.providers._base.public_body import OPERATOR_FIELDS, public_schema
from kling_async.providers._base.request import Request

if TYPE_CHECKING:
    from kling_async.providers._base.endpoint import Endpoint
    from kling_async.providers._base.provider import Provider

try:
    from mcp.server.mcpserver import Context, Image, MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp.types import ToolAnnotations
except ModuleNotFoundError as missing:
    raise ImportError(
        f"kling_async.mcp needs {missing.name}, which is not installed: pip install 'kling-async[mcp]'"
    ) from missing

__all__ = ["server"]

_PREVIEW = 1024  # pixels of the longer side: an image as an assistant sees it
_WAIT = 50.0  # seconds: less than the minute after which clients give up a tool call
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_BUYS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=True)
_SAVES = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=True)
_INSTRUCTIONS = """\
Makes images and videos with Kling models, for money. Call list_endpoints, then describe_endpoint for the fields, then
quote for the price, then generate, which returns at once. The endpoints video and image go to the best provider that
makes exactly what the fields say: use them unless the user names a provider. A video takes minutes: call watch until
the status is completed, then save. Choose one key for each thing that you make. The same key again returns the same job
and costs nothing. Never choose a new key because an answer is missing: call list_jobs first. A reference image is an
https URL, a data URI, or the path of a file that save returned."""

Key = Annotated[
    str, Field(description="Your name for this generation, such as boat-1. The same key is bought once.", min_length=1)
]


class EndpointInfo(BaseModel):
    """One kind of generation that can be bought."""

    endpoint: str
    summary: str
    typical_seconds: float


class JobInfo(BaseModel):
    """A generation and how far it is."""

    key: str | None
    endpoint: str
    status: str = Field(description="pending, processing, completed, failed or cancelled; unknown: it may be bought")
    ref: str | None = None
    cost: str | None = None
    choice: str | None = Field(
        default=None, description="Which provider made it and why, with the endpoint video or image"
    )
    progress: float | None = None
    message: str | None = None
    urls: list[str] = []
    files: list[str] = []
    budget_left: str | None = None


class Quote(BaseModel):
    """What a generation is expected to cost."""

    endpoint: str = Field(description="Who would make it: for video and image the first choice")
    cost: str | None = Field(description="None: the price is not known before one was bought")
    budget_left: str | None


def server(client: Client, directory: str | Path) -> MCPServer:
    """Return a server whose tools buy, watch, list and save generations.

    It resumes the unfinished jobs of the ledger when it starts, and follows all jobs while it runs.

    Args:
        client: The client, with a ledger and a budget. The server closes it at its end.
        directory: Where results are saved, and where local reference images are taken from.

    Raises:
        ConfigurationError: The client has no ledger or no budget.
    """
    if client.ledger is None or client.statistics().budget is None:
        raise ConfigurationError(
            "an assistant decides what is bought, so the client needs a budget and a ledger",
            remedies=(Remedy("configure", detail="Client(ledger=SqliteLedger(path), budget=Budget(usd=5))"),),
        )
    return _Tools(client, Path(directory)).server()


class _Tools:
    """The tools. Their docstrings are what the assistant reads."""

    def __init__(self, client: Client, directory: Path) -> None:
        self._client = client
        self._directory = directory.resolve()
        self._jobs: dict[str, Job] = {}  # by key, those of this process

    def server(self) -> MCPServer:
        made: MCPServer = MCPServer(
            "kling",
            title="Kling image and video generation",
            instructions=_INSTRUCTIONS,
            version=__version__,
            lifespan=self._lifespan,
            log_level="WARNING",
        )
        for tool, hints in (
            (self.list_endpoints, _READS),
            (self.describe_endpoint, _READS),
            (self.quote, _READS),
            (self.generate, _BUYS),
            (self.list_jobs, _READS),
            (self.save, _SAVES),
        ):
            made.add_tool(tool, annotations=hints)
        made.add_tool(self.watch, annotations=_READS, structured_output=False)
        return made

    @asynccontextmanager
    async def _lifespan(self, _: MCPServer) -> AsyncIterator[None]:
        async with self._client, anyio.create_task_group() as group:
            for job in await self._client.resume():
                self._jobs[job.key or str(job.ref)] = job
            group.start_soon(self._client.follow)
            yield
            group.cancel_scope.cancel()

    async def list_endpoints(self) -> list[EndpointInfo]:
        """List what can be generated: one endpoint for each model and provider. Costs nothing."""
        return [
            EndpointInfo(
                endpoint=name,
                summary=(kind.__doc__ or "").partition("\n")[0],
                typical_seconds=round(self._typical(name), 1),
            )
            for name, kind in self._kinds().items()
        ]

    async def describe_endpoint(self, endpoint: str) -> dict[str, Any]:
        """Return the JSON schema of an endpoint's fields, with limits and defaults. Costs nothing."""
        return public_schema(self._kind(endpoint))

    async def quote(self, endpoint: str, fields: dict[str, Any]) -> Quote:
        """Return what a generation is expected to cost, and what is left of the budget. Costs nothing."""
        with _explained():
            best, *_ = quotes = await self._client.quote(self._request(endpoint, fields))
        if not best.available:
            reasons = "; ".join(f"{each.endpoint}: {each.reason}" for each in quotes)
            raise ToolError(f"nobody makes exactly this {endpoint} ({reasons}); change the fields")
        return Quote(endpoint=best.endpoint, cost=str(best.cost) if best.cost else None, budget_left=self._left())

    async def generate(self, key: Key, endpoint: str, fields: dict[str, Any]) -> JobInfo:
        """Buy one generation, and return at once. It goes on by itself; call watch to see its end.

        The same key again returns the same job and costs nothing. If the outcome of the purchase is unknown, it is not
        repeated, and a person has to decide.
        """
        with _explained():
            job = await self._client.submit(self._request(endpoint, fields), key=key)
        self._jobs[key] = job
        return self._info(job)

    async def watch(self, key: Key, context: Context[Any, Any], seconds: float = _WAIT) -> list[Any]:
        """Wait for a generation, at most so many seconds. A completed image is shown. Costs nothing."""
        job = await self._job(key)
        with anyio.move_on_after(max(0.0, min(seconds, _WAIT))), _explained():
            async for event in job:
                await context.report_progress(event.progress or 0.0, 1.0, str(event.status))
        shown: list[Any] = [json.dumps(self._info(job).model_dump(exclude_defaults=True))]
        if job.status is Status.COMPLETED:
            with _explained():
                result = await job
                shown += [await _preview(artifact) for artifact in result.artifacts if artifact.kind == "image"]
        return shown

    async def list_jobs(self, last: int = 20) -> list[JobInfo]:
        """List the last generations of the ledger, the newest last. Costs nothing."""
        with _explained():
            submissions = await self._ledger().submissions()
        return [_recorded(submission) for submission in submissions[-max(1, last) :]]

    async def save(self, key: Key) -> JobInfo:
        """Save the files of a completed generation on the user's machine, and return their paths."""
        job = await self._job(key)
        with _explained():
            if job.status is not Status.COMPLETED and await job.refresh() is not Status.COMPLETED:
                raise ToolError(f"{key} is {job.status}; call watch until it is completed")
            result = await job
            paths = await result.save(self._directory)
        return self._info(job, result).model_copy(update={"files": [str(path) for path in paths]})

    def _ledger(self) -> Any:
        return self._client.ledger  # `server` makes sure that there is one

    def _endpoints(self) -> dict[str, Endpoint[Any]]:
        """The endpoints of the client's providers, by name."""
        return {endpoint.name: endpoint for kind in self._providers() for endpoint in kind.endpoints}

    def _providers(self) -> list[type[Provider]]:
        names = self._client.statistics().providers
        return [kind for kind in load_providers() if kind.name in names]

    def _makers(self, name: str) -> set[str]:
        """The endpoints that make some portable requests of that name. Empty for any other name."""
        offer_kind = {"video": VideoOffer, "image": ImageOffer}.get(name)
        offers = [offer for kind in self._providers() for offer in kind.portable]
        return {offer.request.endpoint for offer in offers if offer_kind and isinstance(offer, offer_kind)}

    def _typical(self, name: str) -> float:
        makers = self._makers(name) or {name}
        return statistics.median(self._endpoints()[maker].duration_prior(None).median for maker in makers)

    def _kinds(self) -> dict[str, type[Request]]:
        """The classes of the requests that can be bought, by endpoint; the portable ones first."""
        portable = {kind.endpoint: kind for kind in (Video, PortableImage) if self._makers(kind.endpoint)}
        return portable | {name: endpoint.request for name, endpoint in self._endpoints().items()}

    def _kind(self, name: str) -> type[Request]:
        known = self._kinds()
        if name not in known:
            raise ToolError(f"there is no endpoint {name!r:.80}; there are: {', '.join(known)}")
        return known[name]

    def _request(self, endpoint: str, fields: dict[str, Any]) -> Request:
        """Return the request, without what belongs to the operator and without files of other directories."""
        kind = self._kind(endpoint)
        refused = sorted(OPERATOR_FIELDS & set(fields))
        if refused:
            raise ToolError(f"these fields are not accepted here: {', '.join(refused)}")
        try:
            request = kind.model_validate({name: self._own_files(value) for name, value in fields.items()})
        except ValidationError as error:
            raise ToolError(f"{endpoint}: {_problems(error)}") from error
        return request

    def _own_files(self, value: Any) -> Any:
        """Return the value, with paths in place of the texts that name files of the directory.

        A text is never taken for a path otherwise, so an assistant reaches no other file.
        """
        if isinstance(value, list):
            return [self._own_files(one) for one in value]
        if isinstance(value, str) and value.startswith(str(self._directory)):
            path = Path(value).resolve()
            if path.is_relative_to(self._directory) and path.is_file():
                return path
        return value

    async def _job(self, key: str) -> Job:
        if (job := self._jobs.get(key)) is not None:
            return job
        with _explained():
            found: Submission | None = await self._ledger().find(key=key)
            if found is None:
                raise ToolError(f"there is no generation with the key {key!r:.80}; call list_jobs")
            if found.ref is None:
                raise ToolError(f"{key} has no job: {found.state}, {found.reason or 'no reason is known'}")
            job = self._jobs[key] = self._client.attach(found.ref)
        return job

    def _info(self, job: Job, result: Result | None = None) -> JobInfo:
        latest = job.events[-1] if job.events else None
        artifacts = result.artifacts if result else latest.artifacts if latest else ()
        failures = latest.failures if latest else ()
        return JobInfo(
            key=job.key,
            endpoint=job.ref.endpoint,
            status=str(job.status),
            ref=str(job.ref),
            cost=str(job.cost) if job.cost else None,
            choice=str(job.choice) if job.choice else None,
            progress=latest.progress if latest else None,
            message="; ".join(map(str, failures)) or (latest.message if latest else None),
            urls=[artifact.url for artifact in artifacts if artifact.url],
            budget_left=self._left(),
        )

    def _left(self) -> str | None:
        budget = self._client.statistics().budget
        return ", ".join(map(str, budget.left)) if budget else None


def _recorded(submission: Submission) -> JobInfo:
    latest = submission.latest
    return JobInfo(
        key=submission.key,
        endpoint=submission.endpoint,
        status=str(submission.status or submission.state),
        ref=str(submission.ref) if submission.ref else None,
        cost=str(submission.cost) if submission.cost else None,
        message=submission.reason or ("; ".join(map(str, latest.failures)) if latest else None) or None,
        files=[str(path) for path in submission.files],
    )


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {describe_problem(one)}" for one in error.errors())


@contextmanager
def _explained() -> Iterator[None]:
    """Report to the assistant what happened and what can be done, instead of a crash."""
    try:
        yield
    except KlingError as error:
        raise ToolError(str(error)) from error
    except ValidationError as error:  # a reference image that is not acceptable
        raise ToolError(_problems(error)) from error
    except OSError as error:
        raise ToolError(f"the file cannot be read or written: {error.strerror or error}") from error


async def _preview(artifact: Artifact) -> Image:
    data = await artifact.read()
    return Image(data=await to_thread.run_sync(_scaled, data), format="jpeg")


def _scaled(data: bytes) -> bytes:
    from PIL import Image as Pillow  # noqa: PLC0415  # only where an image is shown

    with Pillow.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
    small.thumbnail((_PREVIEW, _PREVIEW))
    written = io.BytesIO()
    small.save(written, "JPEG", quality=85)
    return written.getvalue()

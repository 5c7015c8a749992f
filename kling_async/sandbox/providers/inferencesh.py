"""inference.sh's emulation: uploads, runs of the Kling apps, tasks, streams, lists and webhooks.

As documented at /docs/api/rest/overview.md and in the types of the official client (PyPI `inferencesh` 0.36.0). It
speaks today's way: answers as `{"data", "messages"}`, errors as problem+json, statuses as the integers of client 0.6.5
and later. `Options` make it speak as earlier servers did, and its streams misbehave as real ones do.
Of the apps `falai/kling-*` only the prompt and the form of the common fields are checked.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
from dataclasses import dataclass, field
from decimal import Decimal
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from starlette.responses import Response, StreamingResponse

from kling_async.sandbox.emulator.accounts import Account, InsufficientCreditsError
from kling_async.sandbox.emulator.images import MAX_BYTES, BadImageError, check_data_uri, check_url, thumbnails
from kling_async.sandbox.emulator.jobs import CLIP_DURATIONS, IMAGE_DURATION, Clip, Job, Order, Phase, Picture
from kling_async.sandbox.providers.emulation import Emulation, Operation, Webhook, reply
from kling_async.sandbox.server.protocol import connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from starlette.requests import Request

    from kling_async.providers._base.provider import Provider
    from kling_async.sandbox.emulator.provider_state import ProviderState

_PRICE = Decimal("0.028")  # USD an image. N are charged, one is made
_HEARTBEAT = 10.0  # s
_PIXELS = {"1k": 1024, "2k": 2048, "4k": 4096}  # side of a square. Other ratios keep the area
_PAGE = 50  # tasks

_COMMON = ("unknown", "received", "queued", "dispatched", "preparing", "serving", "setting_up", "running")
_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "current": (*_COMMON, "cancelling", "uploading", "completed", "failed", "cancelled", "rejected"),
    "older": (*_COMMON, "uploading", "completed", "failed", "cancelled"),
}
_TITLES = {
    "unauthorized": 401,
    "payment_required": 402,
    "not_found": 404,
    "invalid_transition": 409,
    "validation_error": 422,
    "rate_limited": 429,
    "internal_error": 500,
    "app_maintenance": 503,
}
# When a task that waits until 0 and then works until 1 changes its status.
_WAITING = ((0.0, "received"), (0.1, "queued"), (0.9, "dispatched"))
_WORKING = ((0.0, "preparing"), (0.05, "serving"), (0.08, "setting_up"), (0.12, "running"), (0.92, "uploading"))
_STUCK_AT = 60.0  # s of work that a stuck task is taken to have: it hangs in "running"


T = TypeVar("T", bound=BaseModel)


@dataclass(slots=True)
class Options:
    """How it speaks where its versions differ, and how its streams behave. Change it at any time.

    Args:
        envelope: `current`: `{"data", "messages"}`. `v2`: the bare object. `v1`: `{"success", "status", "data"}`, with
            errors at HTTP 200.
        statuses: Integers of the `current` or the `older` table, or `words`.
        progress: Whether tasks report their progress in percent.
        snapshot: Whether a stream begins with the whole task.
        deaf: Whether a stream carries nothing but heartbeats.
        lines: A stream closes after so many lines, wherever the task stands. If None, at the task's end.
        reset: A stream that closes early does so by a reset of the connection, not in good order.
    """

    envelope: Literal["current", "v1", "v2"] = "current"
    statuses: Literal["current", "older", "words"] = "current"
    progress: bool = False
    snapshot: bool = True
    deaf: bool = False
    lines: int | None = None
    reset: bool = False

    def status(self, name: str) -> int | str:
        """A status as it is sent."""
        if self.statuses == "words":
            return name
        table = _NUMBERS[self.statuses]
        return table.index(name) if name in table else table.index("running")


class _Input(BaseModel):
    """The app's input schema."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=2500)]
    image: str | None = None
    negative_prompt: str | None = None
    aspect_ratio: Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9"] = "16:9"
    resolution: str = Field(default="1k", pattern="^[12]k$")
    n: Annotated[int, Field(ge=1, le=9)] = 1


class _Image3o(_Input):
    """`klingai/image-3o`."""

    resolution: Literal["1k", "2k", "4k"] = "1k"


class _ImageV3(_Input):
    """`klingai/image-v3`, which takes no image."""

    image: None = None


class _Clip(BaseModel):
    """What the video apps have in common."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=2500)]
    image: str | None = None
    end_image: str | None = None
    aspect_ratio: Literal["16:9", "9:16", "1:1"] | None = None
    resolution: Literal["720p", "1080p", "4k"] = "1080p"
    duration: Annotated[int, Field(ge=3, le=15)] = 5
    sound: bool = False

    @model_validator(mode="after")
    def _check_frames(self) -> Self:
        if self.end_image is not None and self.image is None:
            raise ValueError("end_image needs image")
        return self

    @property
    def pictures(self) -> list[str]:
        """The images that it refers to."""
        return [image for image in (self.image, self.end_image) if image is not None]


class _VideoV3(_Clip):
    sound: bool = True
    multi_shot: bool = True


class _VideoO1(_Clip):
    resolution: Literal["720p", "1080p"] = "1080p"
    duration: Annotated[int, Field(ge=3, le=10)] = 5
    sound: Literal[False] = False
    reference_images: Annotated[list[str], Field(max_length=7)] = []
    reference_video: Annotated[str, Field(pattern="^https?://")] | None = None
    reference_video_type: Literal["feature", "base"] = "feature"
    watermark: bool = False

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        if self.reference_video is not None and len(self.reference_images) > 4:  # noqa: PLR2004  # documented
            raise ValueError("at most 4 reference images beside a video")
        return self

    @property
    def pictures(self) -> list[str]:
        """The images that it refers to."""
        return [*super().pictures, *self.reference_images]


class _VideoV26(_Clip):
    resolution: Literal["720p", "1080p"] = "1080p"
    duration: Literal[5, 10] = 5
    sound: bool = True
    voice_id: str | None = None


class _VideoV25(_Clip):
    resolution: Literal["720p", "1080p"] = "720p"
    duration: Literal[5, 10] = 5
    sound: Literal[False] = False


class _FalClip(BaseModel):
    """The apps `falai/kling-*`, whose fields are fal's."""

    model_config = ConfigDict(extra="allow")

    prompt: Annotated[str, Field(min_length=1)]
    image: str | None = None
    end_image: str | None = None
    aspect_ratio: Literal["16:9", "9:16", "1:1"] | None = None
    resolution: Literal["720p", "1080p"] = "1080p"
    duration: int = 5
    sound: bool = False

    @property
    def pictures(self) -> list[str]:
        """The images that it refers to."""
        return [image for image in (self.image, self.end_image) if image is not None]


_AppInput: TypeAlias = _Input | _Clip | _FalClip
_APPS: Mapping[str, type[_AppInput]] = {
    "klingai/image-o1": _Input,
    "klingai/image-3o": _Image3o,
    "klingai/image-v3": _ImageV3,
    "klingai/video-v3": _VideoV3,
    "klingai/video-o1": _VideoO1,
    "klingai/video-v2-6": _VideoV26,
    "klingai/video-v2-5": _VideoV25,
}
# USD a second: silent, with sound, with a video.
_RATES: Mapping[str, Mapping[str, tuple[str, str, str]]] = {
    "klingai/video-v3": {
        "720p": ("0.084", "0.126", "0.126"),
        "1080p": ("0.112", "0.168", "0.168"),
        "4k": ("0.42", "0.42", "0.42"),
    },
    "klingai/video-o1": {"720p": ("0.084", "0.084", "0.126"), "1080p": ("0.112", "0.112", "0.168")},
    "klingai/video-v2-6": {"720p": ("0.042", "0.042", "0.042"), "1080p": ("0.07", "0.14", "0.14")},
    "klingai/video-v2-5": {"720p": ("0.042", "0.042", "0.042"), "1080p": ("0.07", "0.07", "0.07")},
}
_SHORT_SIDE = {"720p": 720, "1080p": 1080, "4k": 2160}


def _app_of(name: str) -> type[_AppInput] | None:
    """The input schema of an app, by its name without version and function."""
    return _FalClip if name.startswith("falai/kling-") else _APPS.get(name)


class _Run(BaseModel):
    """`ApiAppRunRequest` of the official client."""

    model_config = ConfigDict(strict=True, extra="forbid")

    app: Annotated[str, StringConstraints(pattern=r"^[\w-]+/[\w-]+(@\w+)?(:\w+)?$")]
    input: dict[str, Any]
    webhook: str | None = None
    function: Literal["run"] | None = None
    infra: Literal["cloud", "private", "private_first"] | None = None
    workers: list[str] | None = None
    setup: Any = None
    session: str | None = None
    session_timeout: Annotated[int, Field(ge=1, le=3600)] | None = None
    run_at: str | None = None
    metadata: dict[str, Any] | None = None
    stream: bool = False
    wait: bool = False


class _PartialFile(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    uri: str = ""
    filename: str | None = None
    content_type: str
    path: str | None = None
    size: Annotated[int, Field(gt=0, le=MAX_BYTES)]
    public: bool | None = None


class _Files(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    files: Annotated[list[_PartialFile], Field(min_length=1)]
    category: str | None = None


class _List(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    cursor: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = _PAGE
    direction: Literal["next", "prev"] | None = None
    sort: list[dict[str, str]] = []
    search: Any = None
    filters: list[Any] | None = None
    fields: list[str] | None = None


@dataclass(slots=True)
class _Upload:
    """A file that was announced, and its content once it has come."""

    account: Account
    announced: _PartialFile
    content: bytes = b""


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


@dataclass(slots=True)
class _Service:
    """The API, and what it remembers besides the jobs."""

    state: ProviderState
    options: Options = field(default_factory=Options)
    uploads: dict[str, _Upload] = field(default_factory=dict)

    async def announce(self, request: Request) -> Response:
        """`POST /files`: answers where to put the content."""
        account = self._account(request)
        made = []
        for announced in _read(_Files, await request.body()).files:
            identity = self.state.secret(f"upload {len(self.uploads)}")
            self.uploads[identity] = _Upload(account, announced)
            url = f"{request.url.scheme}://{request.url.netloc}/inferencesh/storage/{identity}"
            entry = announced.model_dump() | {"id": identity, "uri": url}
            made.append(entry | {"upload_url": f"{url}?signature={self._signature(identity)}"})
        return self._say(made)

    async def put(self, request: Request) -> Response:
        """`PUT` to the presigned address: the object store's, so it knows no API key and no JSON."""
        identity = request.path_params["identity"]
        upload = self.uploads.get(identity)
        if upload is None or request.query_params.get("signature") != self._signature(identity):
            return _stored("SignatureDoesNotMatch", 403)
        content = await request.body()
        if request.headers.get("content-type") != upload.announced.content_type:
            return _stored("SignatureDoesNotMatch", 403)
        if len(content) != upload.announced.size:
            return _stored("EntityTooLarge" if len(content) > upload.announced.size else "IncompleteBody", 400)
        if "authorization" in request.headers:
            return _stored("InvalidRequest", 400)  # "Only one auth mechanism allowed"
        upload.content = content
        return Response(status_code=200)

    async def get(self, request: Request) -> Response:
        """`GET` of an uploaded file."""
        upload = self.uploads.get(request.path_params["identity"])
        if upload is None or not upload.content:
            return _stored("NoSuchKey", 404)
        return Response(upload.content, media_type=upload.announced.content_type)

    async def run(self, request: Request) -> Response:
        """`POST /apps/run`."""
        account = self._account(request)
        sent = _read(_Run, await request.body())
        name = sent.app.partition("@")[0].partition(":")[0]
        schema = _app_of(name)
        if schema is None:
            raise _RefusedError("not_found", f"app {sent.app} not found")
        given = _checked(schema, sent.input, "input.")
        if sent.webhook is not None and not sent.webhook.startswith(
            ("https://", "http://127.0.0.1", "http://localhost")
        ):
            raise _RefusedError("validation_error", "webhook: must be an https URL")
        pictures = ([given.image] if given.image else []) if isinstance(given, _Input) else given.pictures
        for picture in pictures:
            await asyncio.to_thread(self._check_image, picture)
        try:
            job = self.state.submit(_order(account, sent, name, given))
        except InsufficientCreditsError as error:
            raise _RefusedError("payment_required", str(error)) from error
        task = self._task(job)
        if self.options.statuses == "current":
            task["status_text"] = "received"
        return self._say(task)

    async def task(self, request: Request) -> Response:
        """`GET /tasks/{id}`."""
        return self._say(self._task(self._job(request, counted=True)))

    async def status(self, request: Request) -> Response:
        """`GET /tasks/{id}/status`."""
        task = self._task(self._job(request, counted=True))
        return self._say({name: task[name] for name in ("id", "status", "updated_at")})

    async def cancel(self, request: Request) -> Response:
        """`POST /tasks/{id}/cancel`."""
        job = self._job(request)
        if not self.state.cancel(job):
            raise _RefusedError("invalid_transition", f"a task that is {self.state.phase(job)} cannot be cancelled")
        return self._say(self._task(job))

    async def list(self, request: Request) -> Response:
        """`POST /tasks/list`, the newest first."""
        account = self._account(request)
        asked = _read(_List, await request.body())
        jobs = [job for job in self.state.jobs.values() if job.order.account is account]
        jobs.sort(key=lambda job: job.created, reverse=True)
        try:
            start = int(asked.cursor or 0)
        except ValueError as error:
            raise _RefusedError("validation_error", "cursor: not one of ours") from error
        end = start + asked.limit
        page = {
            "items": [self._task(job) for job in jobs[start:end]],
            "next_cursor": str(end),
            "prev_cursor": str(max(0, start - asked.limit)),
            "has_next": end < len(jobs),
            "has_previous": start > 0,
            "items_per_page": asked.limit,
        }
        return self._say(page)

    async def stream(self, request: Request) -> Response:
        """`GET /tasks/{id}/stream`: lines of JSON for who accepts them, otherwise server-sent events."""
        job = self._job(request)
        plain = "application/x-ndjson" in request.headers.get("accept", "")

        async def lines() -> AsyncIterator[str]:
            sent = 0
            async for event, said in self._updates(job):
                if sent == self.options.lines:
                    if self.options.reset:
                        connection(request).reset()
                    return
                text = json.dumps(said, separators=(",", ":"))
                yield f"{text}\n" if plain else f"event: {event}\ndata: {text}\n\n"
                sent += 1

        kind = "application/x-ndjson" if plain else "text/event-stream"
        return StreamingResponse(lines(), media_type=kind, headers={"cache-control": "no-cache"})

    async def _updates(self, job: Job) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """What a stream of the task sends, as it becomes true."""
        clock = self.state.clock
        reported = _name(job, clock.now())
        if self.options.snapshot and not self.options.deaf:
            yield "update", self._task(job)
        while self.options.deaf or reported not in _ENDED:
            now = clock.now()
            changes = [moment for moment, _ in _timeline(job) if moment > now]
            await clock.until(min([now + _HEARTBEAT, *changes]))
            name = _name(job, clock.now())
            if name == reported or self.options.deaf:
                yield "heartbeat", {"type": "heartbeat"}
                continue
            reported = name
            task = self._task(job)
            fields = ["status", "updated_at", *(["output", "error"] if reported in _ENDED else [])]
            fields += ["progress"] if "progress" in task else []
            part = {name: task[name] for name in ("id", *fields)}
            yield "done" if reported in _ENDED else "update", {"data": part, "fields": fields}

    def callback(self, job: Job, name: str) -> dict[str, Any]:
        """The body of the webhook for a task in that status."""
        task = self._task(job, name)
        return {
            field: task[field]
            for field in ("id", "status", "output", "error", "session_id", "created_at", "updated_at")
        }

    def answered(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint with its refusals as answers."""

        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request)
            except _RefusedError as error:
                status = _TITLES[error.code]
                body = self.error(error.code, error.detail)
                return reply(body, 200 if self.options.envelope == "v1" else status)

        return answer

    def error(self, code: str, detail: str) -> dict[str, Any]:
        """An error, in the shape of the envelope's time."""
        status = _TITLES[code]
        if self.options.envelope == "v1":
            return {"success": False, "status": status, "error": {"code": code, "message": detail}}
        return {
            "type": f"https://api.inference.sh/errors/{code}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
        }

    def _say(self, data: Any) -> Response:
        shapes = {
            "current": {"data": data, "messages": []},
            "v1": {"success": True, "status": 200, "data": data},
            "v2": data,
        }
        return reply(shapes[self.options.envelope])

    def _account(self, request: Request) -> Account:
        account = self.state.account("inferencesh", request.headers.get("authorization"))
        if account is None:
            raise _RefusedError("unauthorized", "the API key is missing or not valid")
        return account

    def _job(self, request: Request, *, counted: bool = False) -> Job:
        account = self._account(request)
        if counted and not account.may_poll(self.state.clock.now()):
            raise _RefusedError("rate_limited", "too many requests")
        job = self.state.status(account, request.path_params["task_id"])
        if job is None or job.provider != "inferencesh":
            raise _RefusedError("not_found", "task not found")
        return job

    def _task(self, job: Job, name: str | None = None) -> dict[str, Any]:
        """The task as its full read has it: now, or as if it were in the status `endpoint`."""
        clock = self.state.clock
        name = name or _name(job, clock.now())
        since = max([moment for moment, known in _timeline(job) if known == name] or [job.created])
        asked = job.order.params["input"]
        kind = "image" if isinstance(job.files[0].media, Picture) else "video"
        app = job.order.params["name"]
        model = "kling-image-o1" if app == "klingai/image-o1" else app
        meta = {"type": kind, "count": asked.get("n", 1), "extra": {"model": model}}
        made = {kind: self.state.file_url(job, job.files[0]), "output_meta": {"inputs": [], "outputs": [meta]}}
        used = {"type": kind, "model": model, "quantity": asked.get("n", 1), "unit": kind}
        task = {
            "id": job.id,
            "created_at": clock.at(job.created).isoformat(),
            "updated_at": clock.at(since).isoformat(),
            "status": self.options.status(name),
            "app": dict(zip(("namespace", "name"), app.split("/"), strict=True)),
            "function": "run",
            "input": asked,
            "output": made if name == "completed" else None,
            "error": f"{job.failure}: the upstream task failed" if name == "failed" else None,
            "logs": [],
            "events": [
                {"status": self.options.status(known), "event_time": clock.at(moment).isoformat()}
                for moment, known in _timeline(job)
                if moment <= clock.now()
            ],
            "usage_events": [used] if name == "completed" else [],
            "webhook": job.order.callback_url,
            "session_id": None,
        }
        return task | {"progress": self._percent(job)} if self.options.progress else task

    def _percent(self, job: Job) -> int:
        whole = job.ends - job.created
        return 0 if math.isinf(whole) else min(100, round(100 * (self.state.clock.now() - job.created) / whole))

    def _check_image(self, uri: str) -> None:
        """What the app finds when it hands the image to Kling: JPEG or PNG, up to 10 MB."""
        upload = self.uploads.get(uri.rpartition("/")[2])
        try:
            if upload is None:
                check_url(uri)
            else:
                text = base64.b64encode(upload.content).decode()  # nothing yet is no image
                check_data_uri(f"data:{upload.announced.content_type};base64,{text}", {"JPEG", "PNG"})
        except (BadImageError, OSError) as error:
            raise _RefusedError("validation_error", f"input.image: {error}") from error

    def _signature(self, identity: str) -> str:
        return self.state.secret(f"signature {identity}")


_ENDED = frozenset({"completed", "failed", "cancelled"})


def emulate(state: ProviderState) -> Emulation:
    """inference.sh, as the sandbox plays it."""
    service = _Service(state)

    def error_body(status: int, _path: str, retry_after: float | None) -> Mapping[str, Any]:
        code = {429: "rate_limited", 503: "app_maintenance"}.get(status, "internal_error")
        body = service.error(code, "the service cannot do this now") | {"status": status}
        return body if retry_after is None else {**body, "retry_after": retry_after}

    def ended(job: Job) -> str:
        return "cancelled" if job.cancelled is not None else "failed" if job.failure else "completed"

    verbs = (
        ("submit", "POST", "/apps/run", service.run),
        ("list", "POST", "/tasks/list", service.list),
        ("status", "GET", "/tasks/{task_id}", service.task),
        ("status", "GET", "/tasks/{task_id}/status", service.status),
        ("stream", "GET", "/tasks/{task_id}/stream", service.stream),
        ("cancel", "POST", "/tasks/{task_id}/cancel", service.cancel),
        ("upload", "POST", "/files", service.announce),
        ("upload", "PUT", "/storage/{identity}", service.put),
        ("download", "GET", "/storage/{identity}", service.get),
    )
    return Emulation(
        name="inferencesh",
        api_key=f"inf_{state.secret('inferencesh')}",
        operations=[Operation(kind, method, path, service.answered(end)) for kind, method, path, end in verbs],
        error_body=error_body,
        client=_client,
        webhook=Webhook(
            moments=lambda job: [job.ends if job.cancelled is None else job.cancelled],
            body=lambda job, _: service.callback(job, ended(job)),
            running=lambda job: service.callback(job, "running"),
            pauses=(),  # no page promises a second attempt
        ),
        options=service.options,
    )


def _client(api_key: str, base_url: str) -> Provider:
    from kling_async.providers.inferencesh import InferenceSh  # noqa: PLC0415 - the server does not need the client

    return InferenceSh(api_key=api_key, base_url=base_url)


def _read(model: type[Any], body: bytes) -> Any:
    try:
        sent = json.loads(body)
    except ValueError as error:
        raise _RefusedError("validation_error", f"the body is not JSON: {error}") from error
    return _checked(model, sent)


def _checked(model: type[T], sent: Any, prefix: str = "") -> T:
    try:
        return model.model_validate(sent)
    except ValidationError as error:
        places = [f"{prefix}{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise _RefusedError("validation_error", "; ".join(places)) from error


def _order(account: Account, sent: _Run, name: str, given: _AppInput) -> Order:
    """What is sold: one picture, whatever the number, or one clip."""
    media: Picture | Clip
    if isinstance(given, _Input):
        width, height = _size(given)
        media, durations = Picture(width, height, "png", given.prompt), IMAGE_DURATION
        price = _PRICE * given.n * (2 if given.resolution == "4k" else 1)
    else:
        across, down = map(int, (given.aspect_ratio or "16:9").split(":"))
        unit = _SHORT_SIDE[given.resolution] / min(across, down)
        media = Clip(round(across * unit), round(down * unit), given.duration, given.prompt)
        durations = CLIP_DURATIONS[min(CLIP_DURATIONS, key=lambda known: abs(known - given.duration))]
        video = isinstance(given, _VideoO1) and given.reference_video is not None
        rates = _RATES.get(name, _RATES["klingai/video-v3"])[given.resolution]
        price = Decimal(rates[2 if video else 1 if given.sound else 0]) * given.duration
    return Order(
        account=account,
        endpoint=name.partition("/")[2],
        prompt=given.prompt,
        media=(media,),
        durations=durations,
        price=price,
        params={"app": sent.app, "name": name, "input": given.model_dump(exclude_unset=True)},
        callback_url=sent.webhook,
        references=thumbnails(given),
    )


def _timeline(job: Job) -> list[tuple[float, str]]:
    """When the task is in which status, as far as it can be planned. A cancellation cuts the plan off."""
    waits, works = job.began - job.created, job.ends - job.began
    plan = [(job.created + share * waits, name) for share, name in _WAITING]
    if math.isfinite(works):
        plan += [(job.began + share * works, name) for share, name in _WORKING]
        plan.append((job.ends, "failed" if job.failure else "completed"))
    else:
        plan += [(job.began + share * _STUCK_AT, name) for share, name in _WORKING[:-1]]
    if job.cancelled is None:
        return plan
    return [entry for entry in plan if entry[0] < job.cancelled] + [(job.cancelled, "cancelled")]


def _name(job: Job, now: float) -> str:
    phase = job.phase(now)
    if phase is Phase.CANCELLED:
        return "cancelled"
    return [name for moment, name in _timeline(job) if moment <= now or name == "received"][-1]


def _stored(code: str, status: int) -> Response:
    """An error of the object store behind the presigned addresses."""
    return Response(f"<Error><Code>{code}</Code></Error>", status, media_type="application/xml")


def _size(sent: _Input) -> tuple[int, int]:
    across, down = map(int, sent.aspect_ratio.split(":"))
    unit = (_PIXELS[sent.resolution] ** 2 / (across * down)) ** 0.5
    return round(across * unit / 16) * 16, round(down * unit / 16) * 16

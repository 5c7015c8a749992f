"""PixelDojo's emulation: `kling-image` and the Kling videos, as documented at pixeldojo.ai.

The schema is strict: a field that it does not list is refused, `num_images` (the count's name in a newer edition of the
page) included, and so is an explicit null. What the sources leave open is decided here: a submission is answered with
202, a job that waits is `pending` and one that is made is `processing`, a failed one has its code as text in `error`,
an error is `{"error": {"code", "message", "status"}}`, and a webhook's body is the job object, delivered again after
30, 60 and 120 s. An account without a limit claims to have 1 000 000 credits.
A motion control lasts 5 s, because no video is read.
"""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kling_async.sandbox.emulator.accounts import Account, InsufficientCreditsError
from kling_async.sandbox.emulator.images import check_data_uri, check_url, thumbnails
from kling_async.sandbox.emulator.jobs import (
    CLIP_DURATIONS,
    IMAGE_DURATION,
    Clip,
    Job,
    Order,
    Phase,
    Picture,
    UnknownDirectiveError,
)
from kling_async.sandbox.providers.emulation import Emulation, Operation, Webhook, reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from kling_async.providers._base.provider import Provider
    from kling_async.sandbox.emulator.provider_state import ProviderState

_MODEL = "kling-image"
_PRICE = Decimal(1)  # credits for one image
_ENDLESS = Decimal(1_000_000)  # credits that an account without a limit shows
_SIDE = {"1K": 1024, "2K": 2048}  # pixels of a square. Other ratios keep the area
_PREFIX = "job_"
_3_TO_15 = r"^([3-9]|1[0-5])$"
_BESIDE_A_VIDEO = 4

_CODES = {
    401: ("unauthorized", "Missing or invalid API key"),
    402: ("insufficient_credits", "Not enough credits for this generation"),
    404: ("job_not_found", "No such job"),
    429: ("rate_limited", "Too many requests"),
    500: ("internal_error", "Something went wrong"),
    503: ("internal_error", "Temporarily unavailable"),
}


class _Submission(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: Annotated[str, Field(min_length=1)]
    negative_prompt: str = ""
    resolution: Literal["1K", "2K"] = "1K"
    aspect_ratio: Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9"] = "1:1"
    num_outputs: Annotated[int, Field(ge=1, le=9)] = 1
    output_format: Literal["png", "jpeg", "webp"] = "png"
    webhook_url: str = ""


class _Shot(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: Annotated[str, Field(min_length=1)]
    duration: Annotated[str, Field(pattern=r"^([1-9]|1[0-5])$")]


class _Text(BaseModel):
    """`kling-video-v3-pro-text`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: str = ""
    multi_prompt: Annotated[list[_Shot], Field(max_length=6)] = []
    duration: Annotated[str, Field(pattern=_3_TO_15)] = "5"
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = "16:9"
    generate_audio: bool = True
    voice_ids: Annotated[list[str], Field(max_length=2)] = []
    shot_type: Literal["customize", "intelligent"] = "customize"
    negative_prompt: str = ""
    cfg_scale: Annotated[float, Field(ge=0, le=1)] = 0.5
    webhook_url: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.prompt) == bool(self.multi_prompt):
            raise ValueError("prompt or multi_prompt, not both")
        if self.multi_prompt and sum(int(shot.duration) for shot in self.multi_prompt) != int(self.duration):
            raise ValueError("the durations of multi_prompt must add up to duration")
        return self


class _References(BaseModel):
    """`kling-reference-to-video`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: Annotated[str, Field(min_length=1)]
    reference_type: str = ""
    tier: Literal["standard", "pro"] = "standard"
    start_image_url: str = ""
    end_image_url: str = ""
    video_url: str = ""
    image_urls: Annotated[list[str], Field(max_length=7)] = []
    duration: Annotated[str, Field(pattern=_3_TO_15)] = "5"
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = "16:9"
    generate_audio: bool = False
    keep_audio: bool = True
    webhook_url: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.end_image_url and not self.start_image_url:
            raise ValueError("end_image_url needs start_image_url")
        if not (self.start_image_url or self.video_url or self.image_urls):
            raise ValueError("nothing to refer to")
        if self.video_url and len(self.image_urls) > _BESIDE_A_VIDEO:
            raise ValueError("at most 4 images beside a video")
        _check_images(self.start_image_url, self.end_image_url, *self.image_urls)
        return self


class _Motion(BaseModel):
    """`kling-motion-control` and `kling-motion-control-pro`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    video: Annotated[str, Field(pattern=r"^https?://")]
    character_image: Annotated[str, Field(min_length=1)]
    prompt: str = ""
    character_orientation: Literal["video", "image"] = "video"
    keep_original_sound: bool = True
    webhook_url: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_images(self.character_image)
        return self


def _check_images(*images: str) -> None:
    for image in filter(None, images):
        try:
            if image.startswith("data:"):
                check_data_uri(image, {"JPEG", "PNG"})
            else:
                check_url(image)
        except OSError as error:
            raise ValueError(str(error)) from error


_Sent: TypeAlias = _Submission | _Text | _References | _Motion
_WIRES: Mapping[str, type[_Sent]] = {
    _MODEL: _Submission,
    "kling-video-v3-pro-text": _Text,
    "kling-reference-to-video": _References,
    "kling-motion-control": _Motion,
    "kling-motion-control-pro": _Motion,
}
_BY_THE_SECOND = {"kling-video-v3-pro-text": 8, "kling-motion-control": 3, "kling-motion-control-pro": 4}  # credits
_REFERENCE_PRICE = Decimal(15)


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str | None = None, message: str | None = None) -> None:
        super().__init__(status, code, message)
        known = _CODES.get(status, ("invalid_request", "The request is not valid"))
        self.status = status
        self.body = {"error": {"code": code or known[0], "message": message or known[1], "status": status}}


class _Api:
    """The endpoints."""

    def __init__(self, state: ProviderState) -> None:
        self._state = state

    async def submit(self, request: Request) -> Response:
        """`POST /models/{apiId}/run`."""
        try:
            return await self._sell(request)
        except _RefusedError as error:
            return reply(error.body, error.status)

    async def status(self, request: Request) -> Response:
        """`GET /jobs/{jobId}`."""
        try:
            return self._look(request)
        except _RefusedError as error:
            return reply(error.body, error.status)

    async def models(self, request: Request) -> Response:
        """`GET /models`: what can be generated, with the schema if `detailed=true`."""
        wanted = request.query_params.get("modality", "image")
        detailed = request.query_params.get("detailed") == "true"
        shown = [_described(name, detailed=detailed) for name in _WIRES if _modality(name) == wanted]
        return reply({"models": shown, "total": len(shown)})

    async def model(self, request: Request) -> Response:
        """`GET /models/{apiId}`."""
        if request.path_params["model"] not in _WIRES:
            return reply(_RefusedError(404, "model_not_found", "No such model").body, 404)
        return reply(_described(request.path_params["model"], detailed=True))

    async def schema(self, request: Request) -> Response:
        """`GET /models/{apiId}/schema`: the JSON schema of the body of a submission."""
        if request.path_params["model"] not in _WIRES:
            return reply(_RefusedError(404, "model_not_found", "No such model").body, 404)
        return reply(_WIRES[request.path_params["model"]].model_json_schema())

    async def openapi(self, request: Request) -> Response:
        """`GET /api/openapi`: the API in OpenAPI's words."""
        return reply(_openapi(f"{request.url.scheme}://{request.url.netloc}/pixeldojo/api/v1"))

    async def _sell(self, request: Request) -> Response:
        account = self._account(request)
        if (model := request.path_params["model"]) not in _WIRES:
            raise _RefusedError(404, "model_not_found", f"Model {model} does not exist")
        sent = _read(request, await request.body(), _WIRES[model])
        order = _order(account, sent) if isinstance(sent, _Submission) else _clip_order(account, model, sent)
        try:
            job = self._state.submit(order)
        except InsufficientCreditsError as error:
            raise _RefusedError(402) from error
        except UnknownDirectiveError as error:
            raise _RefusedError(400, "invalid_request", f"prompt: {error}") from error
        name, left = _public_id(job), account.balance(self._state.clock.now())
        root = request.url.path.removesuffix(f"/models/{model}/run")
        return reply(
            {
                "jobId": name,
                "status": "pending",
                "statusUrl": str(request.url.replace(path=f"{root}/jobs/{name}", query="")),
                "creditCost": _number(job.order.price),
                "creditsRemaining": _number(_ENDLESS if left is None else left),
            },
            202,
        )

    def _look(self, request: Request) -> Response:
        account = self._account(request)
        if not account.may_poll(self._state.clock.now()):
            raise _RefusedError(429)
        job = self._state.status(account, _own_id(request.path_params["job_id"]))
        if job is None:
            raise _RefusedError(404)
        return reply(self.job(job, self._state.phase(job)))

    def job(self, job: Job, phase: Phase) -> dict[str, Any]:
        """The job object, as status answers and webhooks have it."""
        answer: dict[str, Any] = {
            "jobId": _public_id(job),
            "status": phase.value,
            "output": None,
            "creditCost": _number(job.order.price),
        }
        if phase is Phase.COMPLETED:
            made = [file for file in job.files if file.failure is None]
            urls = [self._state.file_url(job, file) for file in made]
            answer["output"] = {"images": urls} if job.order.endpoint == "image-v3" else {"video": urls[0]}
        if phase is Phase.FAILED:
            answer["error"] = job.failure
            answer["creditCost"] = 0  # given back
        return answer

    def _account(self, request: Request) -> Account:
        account = self._state.account("pixeldojo", request.headers.get("authorization"))
        if account is None:
            raise _RefusedError(401)
        return account


def emulate(state: ProviderState) -> Emulation:
    """PixelDojo, as the sandbox plays it."""
    api = _Api(state)

    def error_body(status: int, path: str, retry_after: float | None) -> Mapping[str, Any]:
        del path
        body: dict[str, Any] = _RefusedError(status).body
        return body if retry_after is None else {**body, "retry_after": retry_after}

    return Emulation(
        name="pixeldojo",
        api_key=f"pd_sandbox_{state.secret('pixeldojo')}",
        operations=[
            Operation("submit", "POST", "/models/{model}/run", api.submit),
            Operation("status", "GET", "/jobs/{job_id}", api.status),
            Operation("list", "GET", "/models", api.models),
            Operation("list", "GET", "/models/{model}", api.model),
            Operation("list", "GET", "/models/{model}/schema", api.schema),
            Operation("list", "GET", "/openapi", api.openapi, outside_base=True),
        ],
        error_body=error_body,
        client=_client,
        webhook=Webhook(
            moments=lambda job: [job.ends],
            body=lambda job, _: api.job(job, job.phase(job.ends)),
            running=lambda job: api.job(job, Phase.PROCESSING),
            pauses=(30.0, 60.0, 120.0),
        ),
        base_path="/api/v1",
    )


def _modality(name: str) -> str:
    return "image" if name == _MODEL else "video"


def _described(name: str, *, detailed: bool) -> dict[str, Any]:
    model: dict[str, Any] = {
        "apiId": name,
        "name": name.replace("-", " ").title(),
        "modality": _modality(name),
        "creditCost": _number(_PRICE if name == _MODEL else Decimal(_BY_THE_SECOND.get(name, 15))),
        "runUrl": f"/api/v1/models/{name}/run",
    }
    return model | {"inputSchema": _WIRES[name].model_json_schema()} if detailed else model


def _openapi(server: str) -> dict[str, Any]:
    body = {"content": {"application/json": {"schema": _Submission.model_json_schema()}}}
    job = {"name": "jobId", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "PixelDojo API", "version": "1"},
        "servers": [{"url": server}],
        "components": {"securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer"}}},
        "security": [{"apiKey": []}],
        "paths": {
            "/models": {"get": {"responses": {"200": {"description": "The models"}}}},
            f"/models/{_MODEL}/run": {"post": {"requestBody": body, "responses": {"202": {"description": "The job"}}}},
            "/jobs/{jobId}": {"get": {"parameters": [job], "responses": {"200": {"description": "The job"}}}},
        },
    }


def _client(api_key: str, base_url: str) -> Provider:
    from kling_async.providers.pixeldojo import PixelDojo  # noqa: PLC0415 - the server does not need the client

    return PixelDojo(api_key=api_key, base_url=base_url)


def _read(request: Request, body: bytes, wire: type[_Sent]) -> _Sent:
    if "application/json" not in request.headers.get("content-type", ""):
        raise _RefusedError(400, "invalid_request", "The body must be JSON")
    try:
        sent = wire.model_validate(json.loads(body))
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in error.errors())
        raise _RefusedError(400, "invalid_request", "; ".join(problems)) from error
    except ValueError as error:
        raise _RefusedError(400, "invalid_request", f"The body is not JSON: {error}") from error
    if "webhook_url" in sent.model_fields_set and not _callable(sent.webhook_url):
        raise _RefusedError(400, "invalid_request", "webhook_url: must be an https URL")
    return sent


def _order(account: Account, sent: _Submission) -> Order:
    width, height = _size(sent.resolution, sent.aspect_ratio)
    return Order(
        account=account,
        endpoint="image-v3",
        prompt=sent.prompt,
        media=(Picture(width, height, sent.output_format, sent.prompt),) * sent.num_outputs,
        durations=IMAGE_DURATION,
        price=_PRICE * sent.num_outputs,
        params={"sent": sent.model_dump()},
        references=thumbnails(sent),
        callback_url=sent.webhook_url or None,
    )


def _clip_order(account: Account, model: str, sent: _Text | _References | _Motion) -> Order:
    seconds = 5 if isinstance(sent, _Motion) else int(sent.duration)
    pro = model.endswith(("-pro", "-pro-text")) or (isinstance(sent, _References) and sent.tier == "pro")
    across, down = map(int, ("16:9" if isinstance(sent, _Motion) else sent.aspect_ratio).split(":"))
    unit = (1080 if pro else 720) / min(across, down)
    shots = sent.multi_prompt if isinstance(sent, _Text) else []
    prompt = sent.prompt or " ".join(shot.prompt for shot in shots)
    price = Decimal(_BY_THE_SECOND[model] * seconds) if model in _BY_THE_SECOND else _REFERENCE_PRICE
    return Order(
        account=account,
        endpoint=model,
        prompt=prompt,
        media=(Clip(round(across * unit), round(down * unit), seconds, prompt),),
        durations=CLIP_DURATIONS[min(CLIP_DURATIONS, key=lambda known: abs(known - seconds))],
        price=price,
        params={"sent": sent.model_dump(exclude={"start_image_url", "end_image_url", "image_urls", "character_image"})},
        references=thumbnails(sent),
        callback_url=sent.webhook_url or None,
    )


def _size(resolution: str, ratio: str) -> tuple[int, int]:
    """Width and height of that area and about that ratio, in multiples of 16 as image models give them."""
    across, down = map(int, ratio.split(":"))
    unit = _SIDE[resolution] / (across * down) ** 0.5
    return round(across * unit / 16) * 16, round(down * unit / 16) * 16


def _callable(url: str) -> bool:
    """HTTPS only. Plain http is let through to this machine, where tests listen."""
    parts = urlsplit(url)
    on_this_machine = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost", "::1"}
    return bool(parts.hostname) and (parts.scheme == "https" or on_this_machine)


def _public_id(job: Job) -> str:
    return f"{_PREFIX}{job.id.replace('-', '')}"


def _own_id(public: str) -> str:
    """The state's id of a job behind PixelDojo's, or the empty string, which no job has, where there is none."""
    try:
        return str(uuid.UUID(hex=public.removeprefix(_PREFIX))) if public.startswith(_PREFIX) else ""
    except ValueError:
        return ""


def _number(amount: Decimal) -> int | float:
    return int(amount) if amount == amount.to_integral_value() else float(amount)

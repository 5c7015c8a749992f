"""PixelDojo's emulation: `kling-image` as documented at pixeldojo.ai/api-platform/kling-image.

The schema is strict: a field that it does not list is refused, `num_images` (the count's name in a newer edition of the
page) included, and so is an explicit null. What the sources leave open is decided here: a submission is answered with
202, a job that waits is `pending` and one that is made is `processing`, a failed one has its code as text in `error`,
an error is `{"error": {"code", "message", "status"}}`, and a webhook's body is the job object, delivered again after
30, 60 and 120 s. An account without a limit claims to have 1 000 000 credits.
"""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kling_async.sandbox.emulator.accounts import Account, InsufficientCreditsError
from kling_async.sandbox.emulator.jobs import IMAGE_DURATION, Job, Order, Phase, Picture, UnknownDirectiveError
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
        shown = [_described(detailed=detailed)] if wanted == "image" else []
        return reply({"models": shown, "total": len(shown)})

    async def model(self, request: Request) -> Response:
        """`GET /models/{apiId}`."""
        if request.path_params["model"] != _MODEL:
            return reply(_RefusedError(404, "model_not_found", "No such model").body, 404)
        return reply(_described(detailed=True))

    async def schema(self, request: Request) -> Response:
        """`GET /models/{apiId}/schema`: the JSON schema of the body of a submission."""
        if request.path_params["model"] != _MODEL:
            return reply(_RefusedError(404, "model_not_found", "No such model").body, 404)
        return reply(_Submission.model_json_schema())

    async def openapi(self, request: Request) -> Response:
        """`GET /api/openapi`: the API in OpenAPI's words."""
        return reply(_openapi(f"{request.url.scheme}://{request.url.netloc}/pixeldojo/api/v1"))

    async def _sell(self, request: Request) -> Response:
        account = self._account(request)
        if (model := request.path_params["model"]) != _MODEL:
            raise _RefusedError(404, "model_not_found", f"Model {model} does not exist")
        order = _order(account, _read(request, await request.body()))
        try:
            job = self._state.submit(order)
        except InsufficientCreditsError as error:
            raise _RefusedError(402) from error
        except UnknownDirectiveError as error:
            raise _RefusedError(400, "invalid_request", f"prompt: {error}") from error
        name, left = _public_id(job), account.balance(self._state.clock.now())
        root = request.url.path.removesuffix(f"/models/{_MODEL}/run")
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
            answer["output"] = {"images": [self._state.file_url(job, file) for file in made]}
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


def _described(*, detailed: bool) -> dict[str, Any]:
    model: dict[str, Any] = {
        "apiId": _MODEL,
        "name": "Kling Image",
        "modality": "image",
        "creditCost": _number(_PRICE),
        "runUrl": f"/api/v1/models/{_MODEL}/run",
    }
    return model | {"inputSchema": _Submission.model_json_schema()} if detailed else model


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


def _read(request: Request, body: bytes) -> _Submission:
    if "application/json" not in request.headers.get("content-type", ""):
        raise _RefusedError(400, "invalid_request", "The body must be JSON")
    try:
        sent = _Submission.model_validate(json.loads(body))
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

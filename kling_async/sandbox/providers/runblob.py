"""RunBlob's emulation: Kling O3 photo and video, as documented at docs.runblob.io/api-reference/kling.

Where its pages disagree, each endpoint answers as on its own page: the photo page has `{"success": false, "message":
CODE}`, the video page `{"detail": CODE}`. The example clients of both pages read `detail`, so it stands in every error.
It is always a text. The list that FastAPI makes of a malformed body stands in `errors`. A wrong key is answered as on
the authentication page, a missing one on the video endpoints as on the video page. The pages for polling give no reason
for a failure, a related page gives `message`: here the video answers have it and the photo answers do not.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kling_async.sandbox.emulator.accounts import Account, InsufficientCreditsError
from kling_async.sandbox.emulator.images import BadImageError, check_data_uri, check_url
from kling_async.sandbox.emulator.jobs import CLIP_DURATIONS, Clip, DurationRange, Job, Order, Phase, Picture
from kling_async.sandbox.providers.emulation import Emulation, Operation, Webhook, reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from kling_async.providers._base.provider import Provider
    from kling_async.sandbox.emulator.provider_state import ProviderState

_BODY_ON_THE_LOOP = 64 * 1024  # bytes. Larger bodies hold images and are checked in a worker thread
_GIVES_UP = 900.0  # s. "15 min (server auto-fails too, credits refunded)"

# "pending 10-30 s, then 1-3 min": 70-210 s are two standard deviations to either side.
_PHOTO_DURATION = DurationRange(median=121, sigma=0.275, limit=_GIVES_UP)
_PRO = 1.4  # "pro +30-50 %" of time
_PRO_PRICE = 2  # "about 2x price"
_PHOTO_PRICE = Decimal("0.0500")
_VIDEO_PRICE = Decimal("0.1500")  # for 5 s. Longer clips in proportion

_PIXELS = {"1k": 1024, "2k": 2048, "4k": 4096}  # side of a square. Other ratios keep the area
_SHORT_SIDE = {"kling_o3": 720, "kling_o3_pro": 1080}
_MODES = {"std": "kling_o3", "pro": "kling_o3_pro"}
_FORMATS = {"photo": {"JPEG", "PNG", "WEBP"}, "video": {"JPEG", "PNG", "WEBP", "GIF"}}
_DURATIONS = {"5", "10", "15"}
_MAX_IMAGES = {"photo": 10, "video": 5}

Prompt = Annotated[str, Field(min_length=1, max_length=2500)]


class _Submission(BaseModel):
    """What both endpoints accept. Explicit nulls are refused: the pages know no null."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: Prompt
    images_url: list[str] = []
    images_base64: list[str] = []
    callback_url: str = ""


class _Photo(_Submission):
    img_resolution: Literal["1k", "2k", "4k"] = "4k"
    aspect_ratio: Literal["auto", "1:1", "9:16", "2:3", "3:4", "4:3", "3:2", "16:9", "21:9"] = "1:1"
    prefer_multi_shots: bool = False


class _Video(_Submission):
    # Plain strings: these two have error codes of their own.
    duration: str = "5"
    model: str = "kling_o3"
    mode: Literal["std", "pro"] | None = None  # an older name of the model, in the examples of the page
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = "16:9"
    keep_original_sound: bool = True


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class _Page:
    """One documentation page: an endpoint and the shapes that it uses."""

    name: Literal["photo", "video"]
    state: ProviderState

    async def submit(self, request: Request) -> Response:
        """`POST /v1/kling/o3-{name}/generate`."""
        try:
            account = self._account(request)
            body = await request.body()
            if "application/json" not in request.headers.get("content-type", ""):
                raise _malformed("model_attributes_type", "Input should be a valid dictionary")
            large = len(body) > _BODY_ON_THE_LOOP
            submission = await asyncio.to_thread(self._read, body) if large else self._read(body)
            job = self.state.submit(self._order(account, submission))
        except _RefusedError as error:
            return reply(error.body, error.status)
        except InsufficientCreditsError:
            return reply(self.error("INSUFFICIENT_CREDITS"), 402)
        price = f"{job.order.price:.4f}"
        return reply({"generation_id": job.id, "status": "pending", "price": price}, 201)

    async def status(self, request: Request) -> Response:
        """`GET /v1/kling/o3-{name}/generations/{generation_id}`."""
        try:
            account = self._account(request)
        except _RefusedError as error:
            return reply(error.body, error.status)
        if not account.may_poll(self.state.clock.now()):
            return reply(self.error("RATE_LIMIT_EXCEEDED"), 429)
        job = self.state.status(account, request.path_params["generation_id"])
        if job is None or job.order.endpoint != f"o3-{self.name}":
            return reply(self.error("GENERATION_NOT_FOUND"), 404)
        phase = self.state.phase(job)
        answer = {
            "generation_id": job.id,
            "status": phase.value,
            "prompt": job.order.prompt,
            f"{self._file}_url": self._url(job, phase),
            "model": job.order.params["display"],
        }
        if phase is Phase.FAILED and self.name == "video":
            answer["message"] = job.failure
        return reply(answer)

    def error(self, code: str) -> dict[str, Any]:
        """An error as this page shows it."""
        return {"detail": code} if self.name == "video" else {"success": False, "message": code, "detail": code}

    def callback(self, job: Job, phase: Phase) -> dict[str, Any]:
        """The body of the webhook for a job in that phase."""
        return {
            "generation_id": job.id,
            "status": phase.value,
            f"{self._file}_url": self._url(job, phase),
            "model": job.order.params["model"],
            "message": job.failure if phase is Phase.FAILED else None,
        }

    @property
    def _file(self) -> str:
        return "image" if self.name == "photo" else "video"

    def _url(self, job: Job, phase: Phase) -> str | None:
        return self.state.file_url(job, job.files[0]) if phase is Phase.COMPLETED else None

    def _account(self, request: Request) -> Account:
        authorization = request.headers.get("authorization")
        account = self.state.account("runblob", authorization)
        if account is not None:
            return account
        if self.name == "video" and authorization is None:
            raise _RefusedError(401, {"detail": "Missing credentials"})
        problem = "Missing API key" if authorization is None else "Invalid API key"
        raise _RefusedError(401, {"error": "Unauthorized", "message": problem, "detail": problem})

    def _read(self, body: bytes) -> _Photo | _Video:
        try:
            sent = (_Photo if self.name == "photo" else _Video).model_validate(json.loads(body))
        except ValidationError as error:
            raise _invalid(error) from error
        except ValueError as error:
            raise _malformed("json_invalid", f"JSON decode error: {error}") from error
        code = _unacceptable(sent, self.name)
        if code is not None:
            raise _RefusedError(400, self.error(code))
        return sent

    def _order(self, account: Account, sent: _Photo | _Video) -> Order:
        params: dict[str, Any] = {"sent": sent.model_dump(exclude={"images_base64"})}
        media: Picture | Clip
        if isinstance(sent, _Photo):
            width, height = _photo_size(sent)
            media = Picture(width, height, "png", sent.prompt, shots=4 if sent.prefer_multi_shots else 1)
            durations, price = _PHOTO_DURATION, _PHOTO_PRICE
            params |= {"model": "kling_o3_photo", "display": "kling_o3_photo"}
        else:
            seconds, pro = int(sent.duration), _model(sent) == "kling_o3_pro"
            width, height = _video_size(sent)
            media = Clip(width, height, seconds, sent.prompt)
            documented = CLIP_DURATIONS[seconds]
            durations = DurationRange(documented.median * (_PRO if pro else 1), documented.sigma, limit=_GIVES_UP)
            price = _VIDEO_PRICE * seconds / 5 * (_PRO_PRICE if pro else 1)
            tier = "pro" if pro else "std"
            params |= {"model": _model(sent), "display": f"kling-o3-video-{seconds}s-{tier}"}
        return Order(
            account=account,
            endpoint=f"o3-{self.name}",
            prompt=sent.prompt,
            media=(media,),
            durations=durations,
            price=price,
            params=params,
            callback_url=sent.callback_url or None,
        )


def emulate(state: ProviderState) -> Emulation:
    """RunBlob, as the sandbox plays it."""
    pages = {page.name: page for page in (_Page("photo", state), _Page("video", state))}

    def page_of(job: Job) -> _Page:
        return pages["photo" if job.order.endpoint == "o3-photo" else "video"]

    def error_body(status: int, path: str, retry_after: float | None) -> Mapping[str, Any]:
        code = {429: "RATE_LIMIT_EXCEEDED", 503: "MAINTENANCE"}.get(status, "API_ERROR")
        body = pages["photo" if "photo" in path else "video"].error(code)
        return body if retry_after is None else {**body, "retry_after": retry_after}

    return Emulation(
        name="runblob",
        api_key=f"rb-sandbox-{state.secret('runblob')}",
        operations=[
            operation
            for name, page in pages.items()
            for operation in (
                Operation("submit", "POST", f"/v1/kling/o3-{name}/generate", page.submit),
                Operation("status", "GET", f"/v1/kling/o3-{name}/generations/{{generation_id}}", page.status),
            )
        ],
        error_body=error_body,
        client=_client,
        rate_limit=60,
        webhook=Webhook(
            moments=lambda job: [job.ends],
            body=lambda job, _: page_of(job).callback(job, job.phase(job.ends)),
            running=lambda job: page_of(job).callback(job, Phase.PROCESSING),
            pauses=(30.0, 30.0, 30.0, 30.0),
        ),
    )


def _client(api_key: str, base_url: str) -> Provider:
    from kling_async.providers.runblob import RunBlob  # noqa: PLC0415 - the server does not need the client

    return RunBlob(api_key=api_key, base_url=base_url)


def _malformed(kind: str, message: str) -> _RefusedError:
    """The answer to a body that cannot be read at all."""
    return _unprocessable([{"type": kind, "loc": ["body"], "msg": message}])


def _invalid(error: ValidationError) -> _RefusedError:
    """The answer to fields of a wrong name, type or value."""
    problems = [
        {"type": item["type"], "loc": ["body", *item["loc"]], "msg": item["msg"]}
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return _unprocessable(problems)


def _unprocessable(problems: list[dict[str, Any]]) -> _RefusedError:
    """A 422 that the example clients of the pages can show: `detail` is a text, FastAPI's list stands in `errors`."""
    places = (".".join(str(part) for part in problem["loc"][1:]) or "body" for problem in problems)
    text = "; ".join(f"{place}: {problem['msg']}" for place, problem in zip(places, problems, strict=True))
    return _RefusedError(422, {"detail": text, "success": False, "message": "INVALID_PARAMETERS", "errors": problems})


def _unacceptable(sent: _Photo | _Video, page: str) -> str | None:
    """RunBlob's code for a submission that is well formed and still not served."""
    if isinstance(sent, _Video) and sent.duration not in _DURATIONS:
        return "INVALID_DURATION"
    if isinstance(sent, _Video) and _model(sent) not in _SHORT_SIDE:
        return "INVALID_MODEL"
    if "callback_url" in sent.model_fields_set and not _callable(sent.callback_url):
        return "INVALID_PARAMETERS"
    return _images_problem(sent, page)


def _images_problem(sent: _Photo | _Video, page: str) -> str | None:
    if sent.images_url and sent.images_base64:
        return "MIXED_IMAGE_INPUTS"
    if len(sent.images_url + sent.images_base64) > _MAX_IMAGES[page]:
        return "TOO_MANY_IMAGES"
    try:
        for uri in sent.images_base64:
            check_data_uri(uri, _FORMATS[page])
        for url in sent.images_url:
            check_url(url)
    except BadImageError:
        return "INVALID_IMAGE"
    except OSError:
        return "IMAGE_INACCESSIBLE"
    return None


def _callable(url: str) -> bool:
    """HTTPS only, as documented. Plain http is let through to this machine, where tests listen."""
    parts = urlsplit(url)
    on_this_machine = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost", "::1"}
    return bool(parts.hostname) and (parts.scheme == "https" or on_this_machine)


def _photo_size(sent: _Photo) -> tuple[int, int]:
    return _with_area(_PIXELS[sent.img_resolution] ** 2, _ratio(sent.aspect_ratio))


def _model(sent: _Video) -> str:
    """The model that is asked for, whether by `model` or by `mode`. Contradictions name no model."""
    if sent.mode is None:
        return sent.model
    model = _MODES[sent.mode]
    return model if "model" not in sent.model_fields_set or sent.model == model else ""


def _video_size(sent: _Video) -> tuple[int, int]:
    short = _SHORT_SIDE[_model(sent)]
    across, down = _ratio(sent.aspect_ratio)
    return short * across // min(across, down), short * down // min(across, down)


def _ratio(text: str) -> tuple[int, int]:
    if text == "auto":  # "auto" follows the references. What they show is not modelled
        return 1, 1
    across, down = map(int, text.split(":"))
    return across, down


def _with_area(pixels: int, ratio: Sequence[int]) -> tuple[int, int]:
    """The size of that ratio and about that area, in multiples of 16 as image models give it."""
    across, down = ratio
    unit = (pixels / (across * down)) ** 0.5
    return round(across * unit / 16) * 16, round(down * unit / 16) * 16

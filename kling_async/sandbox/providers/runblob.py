"""RunBlob's emulation: Kling O3, O1 and `/v1/kling/generate`, as documented at docs.runblob.io/api-reference/kling.

Where its pages disagree, each endpoint answers as on its own page: the photo page has `{"success": false, "message":
CODE}`, the video page `{"detail": CODE}`. The example clients of both pages read `detail`, so it stands in every error.
It is always a text. The list that FastAPI makes of a malformed body stands in `errors`. A wrong key is answered as on
the authentication page, a missing one on the video endpoints as on the video page. The pages for polling give no reason
for a failure, a related page gives `message`: here the video answers have it and the photo answers do not. No page has
prices for O1 video and `/v1/kling/generate`: here they cost what O3 costs.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kling_async.sandbox.emulator.accounts import Account, InsufficientCreditsError
from kling_async.sandbox.emulator.images import BadImageError, check_data_uri, check_url, thumbnails
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
_FORMATS = {"o3-video": {"JPEG", "PNG", "WEBP", "GIF"}}  # the others do not take GIF
_DURATIONS = {"5", "10", "15"}
_O1_DURATIONS = {"5", "8", "10"}
_MAX_IMAGES = {"o3-photo": 10}
_FEW_IMAGES = 5
_O1_PHOTO_PRICE = Decimal("0.0290")
_BY_THE_SECOND = {"kling_3": 720, "kling_3_pro": 1080}
_OLDER = {
    "kling_2.6": 1080,
    "kling_2.5_turbo": 720,
    "kling_2.5_turbo_pro": 1080,
    "kling_2.1": 720,
    "kling_2.1_pro": 1080,
    "kling_2.1_master": 1080,
    "kling_1.6": 720,
    "kling_1.6_pro": 1080,
}
_MOTION = {"kling_3_motion": 720, "kling_3_motion_pro": 1080, "kling_2.6_motion": 720, "kling_2.6_motion_pro": 1080}

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


class _O3Video(_Video):
    """Fields that only RunBlob's client package has."""

    first_frame_url: str = ""
    first_frame_base64: str = ""
    end_frame_url: str = ""
    end_frame_base64: str = ""
    customize_multi_shots: bool = False
    prefer_multi_shots: bool = False


class _O1Photo(_Submission):
    img_resolution: Literal["1k", "2k"] = "2k"
    aspect_ratio: Literal["9:16", "2:3", "3:4", "1:1", "4:3", "3:2", "16:9", "21:9"] = "1:1"


class _O1Video(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: Prompt
    images_urls: list[str] = []
    images_base64: list[str] = []
    callback_url: str = ""
    duration: str = "5"
    aspect_ratio: Literal["16:9", "9:16", "1:1"] | None = None
    keep_original_sound: bool = True
    first_frame_image_url: str = ""
    first_frame_image_base64: str = ""
    end_frame_image_url: str = ""
    end_frame_image_base64: str = ""

    @property
    def images_url(self) -> list[str]:
        """Under the name of the other pages."""
        return self.images_urls


class _Generate(BaseModel):
    """`POST /v1/kling/generate`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: Prompt
    negative_prompt: Annotated[str, Field(max_length=2500)] = ""
    model: str = "kling_2.5_turbo"
    duration: int | str = "5"
    aspect_ratio: Literal["16:9", "9:16", "1:1"] | None = None
    cfg_scale: Annotated[float, Field(ge=0, le=1)] = 0.5
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    callback_url: str = ""
    image_url: str = ""
    image_base64: str = ""
    reference_video_url: str = ""
    reference_image_url: str = ""
    reference_image_base64: str = ""
    motion_direction: Literal["video", "image"] | None = None


_Sent: TypeAlias = _Photo | _Video | _O1Photo | _O1Video | _Generate


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body


@dataclass(frozen=True, slots=True)
class _Page:
    """One documentation page: an endpoint and the shapes that it uses."""

    name: str
    state: ProviderState
    wire: type[_Photo | _Video | _O1Photo | _O1Video | _Generate]

    @property
    def path(self) -> str:
        """Its address."""
        return "/v1/kling" if self.name == "video" else f"/v1/kling/{self.name}"

    async def submit(self, request: Request) -> Response:
        """`POST /v1/kling/{name}/generate`."""
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
        """`GET /v1/kling/{name}/generations/{generation_id}`."""
        try:
            account = self._account(request)
        except _RefusedError as error:
            return reply(error.body, error.status)
        if not account.may_poll(self.state.clock.now()):
            return reply(self.error("RATE_LIMIT_EXCEEDED"), 429)
        job = self.state.status(account, request.path_params["generation_id"])
        if job is None or job.order.endpoint != self.name:
            return reply(self.error("GENERATION_NOT_FOUND"), 404)
        phase = self.state.phase(job)
        answer = {
            "generation_id": job.id,
            "status": phase.value,
            "prompt": job.order.prompt,
            f"{self._file}_url": self._url(job, phase),
            "model": job.order.params["display"],
        }
        if phase is Phase.FAILED and self._file == "video":
            answer["message"] = job.failure
        return reply(answer)

    def error(self, code: str) -> dict[str, Any]:
        """An error as this page shows it."""
        return {"detail": code} if self._file == "video" else {"success": False, "message": code, "detail": code}

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
        return "image" if self.name.endswith("photo") else "video"

    def _url(self, job: Job, phase: Phase) -> str | None:
        return self.state.file_url(job, job.files[0]) if phase is Phase.COMPLETED else None

    def _account(self, request: Request) -> Account:
        authorization = request.headers.get("authorization")
        account = self.state.account("runblob", authorization)
        if account is not None:
            return account
        if self._file == "video" and authorization is None:
            raise _RefusedError(401, {"detail": "Missing credentials"})
        problem = "Missing API key" if authorization is None else "Invalid API key"
        raise _RefusedError(401, {"error": "Unauthorized", "message": problem, "detail": problem})

    def _read(self, body: bytes) -> _Sent:
        try:
            sent = self.wire.model_validate(json.loads(body))
        except ValidationError as error:
            raise _invalid(error) from error
        except ValueError as error:
            raise _malformed("json_invalid", f"JSON decode error: {error}") from error
        code = _unacceptable(sent, self.name)
        if code is not None:
            raise _RefusedError(400, self.error(code))
        return sent

    def _order(self, account: Account, sent: _Sent) -> Order:
        params: dict[str, Any] = {"sent": sent.model_dump(exclude={"images_base64"})}
        media: Picture | Clip
        if isinstance(sent, _Photo | _O1Photo):
            width, height = _photo_size(sent)
            shots: Literal[1, 4] = 4 if isinstance(sent, _Photo) and sent.prefer_multi_shots else 1
            media = Picture(width, height, "png", sent.prompt, shots=shots)
            durations, price = _PHOTO_DURATION, _PHOTO_PRICE if isinstance(sent, _Photo) else _O1_PHOTO_PRICE
            name = "kling_o3_photo" if isinstance(sent, _Photo) else "kling_o1_photo"
            params |= {"model": name, "display": name}
        elif isinstance(sent, _O1Video | _Generate):
            model = sent.model if isinstance(sent, _Generate) else "kling_o1"
            seconds, short = int(sent.duration), _short_side(model)
            width, height = _sides(short, sent.aspect_ratio or "16:9")
            media = Clip(width, height, seconds, sent.prompt)
            nearest = min(CLIP_DURATIONS, key=lambda known: abs(known - seconds))
            durations = DurationRange(CLIP_DURATIONS[nearest].median, CLIP_DURATIONS[nearest].sigma, limit=_GIVES_UP)
            price = _VIDEO_PRICE * seconds / 5 * (1 if short == _SHORT_SIDE["kling_o3"] else _PRO_PRICE)
            params |= {"model": model, "display": model}
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
            endpoint=self.name,
            prompt=sent.prompt,
            media=(media,),
            durations=durations,
            price=price,
            params=params,
            callback_url=sent.callback_url or None,
            references=thumbnails(sent),
        )


def emulate(state: ProviderState) -> Emulation:
    """RunBlob, as the sandbox plays it."""
    wires: Mapping[str, type[_Photo | _Video | _O1Photo | _O1Video | _Generate]] = {
        "o3-photo": _Photo,
        "o3-video": _O3Video,
        "o1-photo": _O1Photo,
        "o1-video": _O1Video,
        "video": _Generate,
    }
    pages = {name: _Page(name, state, wire) for name, wire in wires.items()}

    def page_of(job: Job) -> _Page:
        return pages[job.order.endpoint]

    def error_body(status: int, path: str, retry_after: float | None) -> Mapping[str, Any]:
        code = {429: "RATE_LIMIT_EXCEEDED", 503: "MAINTENANCE"}.get(status, "API_ERROR")
        body = pages["o3-photo" if "photo" in path else "o3-video"].error(code)
        return body if retry_after is None else {**body, "retry_after": retry_after}

    return Emulation(
        name="runblob",
        api_key=f"rb-sandbox-{state.secret('runblob')}",
        operations=[
            operation
            for page in pages.values()
            for operation in (
                Operation("submit", "POST", f"{page.path}/generate", page.submit),
                Operation("status", "GET", f"{page.path}/generations/{{generation_id}}", page.status),
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


def _unacceptable(sent: _Sent, page: str) -> str | None:
    """RunBlob's code for a submission that is well formed and still not served."""
    if isinstance(sent, _Video) and sent.duration not in _DURATIONS:
        return "INVALID_DURATION"
    if isinstance(sent, _O1Video) and sent.duration not in _O1_DURATIONS:
        return "INVALID_DURATION"
    if isinstance(sent, _Video) and _model(sent) not in _SHORT_SIDE:
        return "INVALID_MODEL"
    if "callback_url" in sent.model_fields_set and not _callable(sent.callback_url):
        return "INVALID_PARAMETERS"
    return (_generate_problem(sent) if isinstance(sent, _Generate) else None) or _images_problem(sent, page)


def _generate_problem(sent: _Generate) -> str | None:
    """What does not fit the model."""
    if sent.model in _BY_THE_SECOND:
        fits = type(sent.duration) is int and sent.duration in range(3, 16)
    else:
        fits = sent.duration in {"5", "10"}
    if sent.model not in {*_BY_THE_SECOND, *_OLDER, *_MOTION}:
        return "INVALID_MODEL"
    if not fits:
        return "INVALID_DURATION"
    image = bool(sent.image_url or sent.image_base64)
    person = bool(sent.reference_image_url) + bool(sent.reference_image_base64)
    if sent.model in _MOTION:
        return None if sent.reference_video_url and person == 1 and not image else "INVALID_PARAMETERS"
    moved = bool(sent.reference_video_url or person or sent.motion_direction)
    return "INVALID_PARAMETERS" if moved or (image and sent.aspect_ratio) else None


def _pictures(sent: _Sent) -> list[tuple[list[str], list[str]]]:
    """The images of each field: URLs, and data URIs."""
    fields = ("image", "reference_image", "first_frame", "end_frame", "first_frame_image", "end_frame_image")
    found = []
    for name in fields:
        pair = [getattr(sent, f"{name}_{form}", "") for form in ("url", "base64")]
        found.append(([pair[0]] if pair[0] else [], [pair[1]] if pair[1] else []))
    return found if isinstance(sent, _Generate) else [*found, (sent.images_url, sent.images_base64)]


def _images_problem(sent: _Sent, page: str) -> str | None:
    pictures = _pictures(sent)
    if any(urls and inline for urls, inline in pictures):
        return "MIXED_IMAGE_INPUTS"
    if any(len(urls + inline) > _MAX_IMAGES.get(page, _FEW_IMAGES) for urls, inline in pictures):
        return "TOO_MANY_IMAGES"
    ends = [bool(urls or inline) for urls, inline in pictures[2:6]]
    if ends[0] != ends[1] or ends[2] != ends[3]:  # the client package checks that frames come in pairs
        return "INVALID_PARAMETERS"
    try:
        for urls, inline in pictures:
            for uri in inline:
                check_data_uri(uri, _FORMATS.get(page, {"JPEG", "PNG", "WEBP"}))
            for url in urls:
                check_url(url)
    except BadImageError:
        return "INVALID_IMAGE"
    except OSError:
        return "IMAGE_INACCESSIBLE"
    return None


def _short_side(model: str) -> int:
    """Pixels. O1 is taken to be 1080p: no page says it."""
    return {**_BY_THE_SECOND, **_OLDER, **_MOTION, "kling_o1": 1080}[model]


def _callable(url: str) -> bool:
    """HTTPS only, as documented. Plain http is let through to this machine, where tests listen."""
    parts = urlsplit(url)
    on_this_machine = parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost", "::1"}
    return bool(parts.hostname) and (parts.scheme == "https" or on_this_machine)


def _photo_size(sent: _Photo | _O1Photo) -> tuple[int, int]:
    return _with_area(_PIXELS[sent.img_resolution] ** 2, _ratio(sent.aspect_ratio))


def _model(sent: _Video) -> str:
    """The model that is asked for, whether by `model` or by `mode`. Contradictions name no model."""
    if sent.mode is None:
        return sent.model
    model = _MODES[sent.mode]
    return model if "model" not in sent.model_fields_set or sent.model == model else ""


def _video_size(sent: _Video) -> tuple[int, int]:
    return _sides(_SHORT_SIDE[_model(sent)], sent.aspect_ratio)


def _sides(short: int, ratio: str) -> tuple[int, int]:
    across, down = _ratio(ratio)
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

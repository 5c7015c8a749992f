"""Kling's emulation: both generations of its own API, as documented at kling.ai/document-api.

New paths (`/omni-video/kling-3.0-omni`) and `/v1` share one account, one store of tasks and one set of external ids.
What the sources leave open is settled here: a wrong key is code 1002, tasks are listed newest first, a task that failed
costs nothing, and there are as many slots as `options.slots` says for each kind of pack and model. Fields that no
source names (text and video to audio, the search for faces) are accepted as they come. Callbacks are sent at each
status, and signed if `options.webhook_secret` is set.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from kling_async.sandbox.emulator.accounts import Account, InsufficientCreditsError
from kling_async.sandbox.emulator.jobs import (
    IMAGE_DURATION,
    Clip,
    DurationRange,
    Job,
    Order,
    Phase,
    Picture,
    UnknownDirectiveError,
)
from kling_async.sandbox.emulator.provider_state import DuplicateJobError
from kling_async.sandbox.providers.emulation import Emulation, Endpoint, Operation, Webhook, reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from kling_async.providers._base.provider import Provider
    from kling_async.sandbox.emulator.provider_state import ProviderState

_MONTH = 30 * 86400.0
_MOST_IDS = 20
_CODES: Mapping[int, tuple[int, str]] = {
    1001: (401, "Authorization is empty"),
    1002: (401, "Authorization is invalid"),
    1003: (401, "Authorization is not yet valid"),
    1004: (401, "Authorization has expired"),
    1102: (429, "Account balance not enough"),
    1201: (400, "Invalid parameters"),
    1203: (404, "The requested resource does not exist"),
    1301: (400, "Trigger content security policy of the platform"),
    1302: (429, "Too many requests"),
    1303: (429, "parallel task over resource pack limit"),
    5000: (500, "Server internal error"),
    5001: (503, "Server temporarily unavailable"),
    5002: (504, "Server internal timeout"),
}
_BY_STATUS = {401: 1002, 404: 1203, 429: 1302, 500: 5000, 502: 5000, 503: 5001, 504: 5002}
_OPTIONS = {"external_task_id", "callback_url", "watermark_info"}
_3_TO_15, _SHORT = frozenset(range(3, 16)), frozenset({5, 10})
_LOW, _ALL = frozenset({"720p", "1080p"}), frozenset({"720p", "1080p", "4k"})
_RATIOS = frozenset({"16:9", "9:16", "1:1"})
_NO: frozenset[Any] = frozenset()


def _settings(resolution: frozenset[str], duration: frozenset[int], *audio: str, shots: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {"resolution": resolution, "duration": duration, "audio": frozenset(audio)}
    found["multi_shot"] = frozenset({True, False}) if shots else _NO
    return {name: values for name, values in found.items() if values}


_PLAIN = {
    "kling-3.0-turbo": _settings(_LOW, _3_TO_15),
    "kling-3.0": _settings(_ALL, _3_TO_15, "native", "off", shots=True),
    "kling-2.6": _settings(_LOW, _SHORT, "native", "off"),
    "kling-2.5-turbo": _settings(_LOW, _SHORT),
}
_MOTION = {**_settings(_LOW, _NO, "original", "off"), "character_orientation": frozenset({"image", "video"})}
_NEW: Mapping[str, Mapping[str, Mapping[str, frozenset[Any]]]] = {
    "text-to-video": {name: {**values, "aspect_ratio": _RATIOS} for name, values in _PLAIN.items()},
    "image-to-video": _PLAIN,
    "omni-video": {
        "kling-3.0-omni": {
            **_settings(_ALL, _3_TO_15, "native", "original", "off", shots=True),
            "aspect_ratio": _RATIOS,
        },
        "kling-o1": {**_settings(_LOW, frozenset(range(3, 11)), "original", "off"), "aspect_ratio": _RATIOS},
    },
    "motion-control": {"kling-3.0": _MOTION, "kling-2.6": _MOTION},
}
_CONTENTS = {
    "image-to-video": {"prompt", "first_frame", "last_frame", "element", "voice"},
    "omni-video": {"prompt", "first_frame", "last_frame", "refer_image", "feature_video", "base_video", "element"},
    "motion-control": {"prompt", "image", "video", "element"},
}
_NEEDED = {"image-to-video": {"first_frame"}, "omni-video": {"prompt"}, "motion-control": {"image", "video"}}


@dataclass(frozen=True, slots=True)
class _Legacy:
    """One path of `/v1`. Without `fields`, no source names them."""

    makes: Literal["image", "video", "audio"]
    needed: str = ""
    fields: str | None = None


_LEGACY: Mapping[str, _Legacy] = {
    "/v1/images/omni-image": _Legacy(
        "image",
        "prompt",
        "model_name image_list element_list resolution result_type n series_amount aspect_ratio",
    ),
    "/v1/images/generations": _Legacy(
        "image",
        "prompt",
        "model_name negative_prompt image image_reference image_fidelity human_fidelity element_list resolution n "
        "aspect_ratio",
    ),
    "/v1/images/multi-image2image": _Legacy(
        "image", "subject_image_list", "model_name prompt scene_image style_image n aspect_ratio"
    ),
    "/v1/images/editing/expand": _Legacy(
        "image",
        "image",
        "up_expansion_ratio down_expansion_ratio left_expansion_ratio right_expansion_ratio prompt n",
    ),
    "/v1/images/kolors-virtual-try-on": _Legacy("image", "human_image", "model_name cloth_image"),
    "/v1/videos/avatar/image2video": _Legacy("video", "image", "audio_id sound_file prompt mode"),
    "/v1/videos/advanced-lip-sync": _Legacy("video", "session_id face_choose", ""),
    "/v1/videos/effects": _Legacy("video", "effect_scene input", ""),
    "/v1/audio/text-to-audio": _Legacy("audio"),
    "/v1/audio/video-to-audio": _Legacy("audio"),
}


@dataclass(slots=True)
class KlingOptions:
    """What a test may choose.

    Args:
        slots: How many tasks of one kind of pack and model run at once. If None, there is no limit.
        webhook_secret: Signs callbacks (`whsec_...`). If None, they are not signed.
    """

    slots: int | None = None
    webhook_secret: str | None = None


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: int, message: str | None = None) -> None:
        super().__init__(code, message)
        self.status, usual = _CODES[code]
        self.body = {"code": code, "message": message or usual, "request_id": str(uuid.uuid4())}


class _Api:
    """The endpoints."""

    def __init__(self, state: ProviderState, options: KlingOptions) -> None:
        self._state = state
        self._options = options
        self.access_key = f"ak-sandbox-{state.secret('kling access')}"
        self.secret_key = state.secret("kling secret")

    async def create_new(self, request: Request) -> Response:
        """`POST /{product}/{model}`."""
        account = self._account(request)
        product, model = request.url.path.rsplit("/", 2)[-2:]
        body = _object(await request.body())
        if model not in _NEW[product]:
            raise _RefusedError(1203)
        prompt = _check_new(product, model, body)
        settings, options = body.get("settings", {}), body.get("options", {})
        seconds = float(settings.get("duration", 5))
        media = Clip(1280, 720, seconds, prompt)
        return self._accept(account, f"{product}/{model}", prompt, (media,), options, "video", seconds)

    async def create_legacy(self, request: Request) -> Response:
        """`POST /v1/...`."""
        account = self._account(request)
        path = _path(request)
        body = _object(await request.body())
        known = _LEGACY[path]
        _check_legacy(known, body)
        prompt = str(body.get("prompt", path))
        count = 1
        if known.makes == "image":
            series = body.get("result_type") == "series"
            amount = body.get("series_amount", 4) if series else body.get("n", 1)
            count = 4 if amount == "auto" else int(amount)
        media: Clip | Picture = (
            Picture(1024, 1024, "png", prompt) if known.makes == "image" else Clip(1280, 720, 5.0, prompt)
        )
        return self._accept(
            account, f"{path} {body.get('model_name', '')}", prompt, (media,) * count, body, known.makes, 5.0
        )

    def _accept(
        self,
        account: Account,
        pack: str,
        prompt: str,
        media: tuple[Clip | Picture, ...],
        options: Mapping[str, Any],
        makes: str,
        seconds: float,
    ) -> Response:
        new = not pack.startswith("/v1")
        self._require_slots(account, pack, len(media))
        external = options.get("external_task_id")
        if external is not None and (not isinstance(external, str) or not external):
            raise _RefusedError(1201, "external_task_id is not a text")
        price = Decimal("0.028") * len(media) if makes == "image" else Decimal("0.084") * Decimal(str(seconds))
        order = Order(
            account=account,
            endpoint=pack,
            prompt=prompt,
            media=media,
            durations=IMAGE_DURATION if makes != "video" else DurationRange(median=20 + 22 * seconds, sigma=0.4),
            price=price if makes != "audio" else Decimal("0.035"),
            params={"new": new, "makes": makes, "external": external, "seconds": seconds},
            callback_url=options.get("callback_url"),
            id=external,
            lifetime=_MONTH,
        )
        try:
            job = self._state.submit(order)
        except DuplicateJobError as error:
            raise _RefusedError(1201, f"external_task_id {external} already exists") from error
        except InsufficientCreditsError as error:
            raise _RefusedError(1102) from error
        except UnknownDirectiveError as error:
            raise _RefusedError(1201, f"prompt: {error}") from error
        task = self.task(job, Phase.PENDING)
        return _ok({name: value for name, value in task.items() if name not in {"outputs", "billing", "message"}})

    def _require_slots(self, account: Account, pack: str, needed: int) -> None:
        if self._options.slots is None:
            return
        running = [
            len(job.order.media)
            for job in self._state.jobs.values()
            if job.order.account is account and job.order.endpoint == pack and not self._state.phase(job).terminal
        ]
        if sum(running) + needed > self._options.slots:
            raise _RefusedError(1303)

    async def tts(self, request: Request) -> Response:
        """`POST /v1/audio/tts`: the answer is the result."""
        account = self._account(request)
        body = _object(await request.body())
        if not isinstance(body.get("text"), str) or not 1 <= len(body["text"]) <= 1000:  # noqa: PLR2004
            raise _RefusedError(1201, "text has 1 to 1000 characters")
        _unknown(body, {"text", "voice_id", "voice_language", "voice_speed"})
        media = (Clip(320, 320, 1.0, body["text"]),)
        params = {"new": False, "makes": "audio", "external": None, "seconds": 1.0}
        order = Order(account, "tts", body["text"], media, DurationRange(0.1, 0.01), Decimal("0.007"), params)
        job = self._state.submit(order)
        job.end_at(self._state.clock.now())
        return _ok(self.task(job, Phase.COMPLETED))

    async def faces(self, request: Request) -> Response:
        """`POST /v1/videos/identify-face`."""
        self._account(request)
        _object(await request.body())
        face = {"face_id": "0", "start_time": 0, "end_time": 5000}
        return _ok({"session_id": str(uuid.uuid4()), "face_data": [face]})

    async def tasks(self, request: Request) -> Response:
        """`GET /tasks`."""
        account = self._account(request)
        given = request.query_params.multi_items()
        if len(given) != 1 or given[0][0] not in {"task_ids", "external_task_ids"}:
            raise _RefusedError(1201, "give task_ids or external_task_ids")
        name, ids = given[0][0], given[0][1].split(",")
        if len(ids) > _MOST_IDS:
            raise _RefusedError(1201, f"{len(ids)} ids, more than {_MOST_IDS}")
        if not account.may_poll(self._state.clock.now()):
            raise _RefusedError(1302)
        found = [self._find(account, one, external=name == "external_task_ids") for one in ids]
        return _ok([self.task(job, self._state.phase(job), new=True) for job in found if job is not None])

    def _find(self, account: Account, identity: str, *, external: bool) -> Job | None:
        if external:
            return self._state.status(account, identity)
        own = next((job.id for job in self._state.jobs.values() if _number(job) == identity), "")
        return self._state.status(account, own)

    async def legacy_task(self, request: Request) -> Response:
        """`GET /v1/.../{id}`, by either id."""
        account = self._account(request)
        identity = request.path_params["task"]
        job = self._find(account, identity, external=True) or self._find(account, identity, external=False)
        if job is None:
            raise _RefusedError(1201, "Task not found by id / external id")
        return _ok(self.task(job, self._state.phase(job), new=False))

    async def balance(self, request: Request) -> Response:
        """`POST /account/billing/balance`. No source names the fields."""
        account = self._account(request)
        left = account.balance(self._state.clock.now())
        return _ok({"balance": "1000000" if left is None else str(left), "currency": "USD"})

    async def costs(self, request: Request) -> Response:
        """`GET /account/costs`."""
        self._account(request)
        if not {"start_time", "end_time"} <= set(request.query_params):
            raise _RefusedError(1201, "give start_time and end_time")
        return _ok({"code": 0, "msg": "SUCCEED", "resource_pack_subscribe_infos": []})

    async def empty(self, request: Request) -> Response:
        """A list of elements or voices, or a deletion."""
        self._account(request)
        return _ok([])

    def task(self, job: Job, phase: Phase, *, new: bool | None = None) -> dict[str, Any]:
        """A task in the form of a generation. If `new` is None, of the one that made it."""
        params = job.order.params
        form = params["new"] if new is None else new
        failed, done = phase is Phase.FAILED, phase is Phase.COMPLETED
        created = int(job.created * 1000)
        changed = int(min(job.ends, self._state.clock.now()) * 1000)
        reason = (job.failure or "") if failed else ""
        makes = params["makes"]
        if form:
            return {
                "id": _number(job),
                "status": _word(phase, done="succeeded"),
                "message": reason,
                "create_time": created,
                "update_time": changed,
                "external_id": params["external"] or "",
                "outputs": [{"type": makes, **output} for output in self._outputs(job)] if done else [],
                "billing": [_bill(job)] if done else [],
            }
        task: dict[str, Any] = {
            "task_id": _number(job),
            "task_status": _word(phase, done="succeed"),
            "task_status_msg": reason,
            "task_info": {"external_task_id": params["external"] or ""},
            "created_at": created,
            "updated_at": changed,
        }
        if done:
            task["task_result"] = {f"{makes}s": self._outputs(job)}
            task["final_unit_deduction"] = "0"
        return task

    def _outputs(self, job: Job) -> list[dict[str, Any]]:
        made = [file for file in job.files if file.failure is None]
        return [
            {"id": file.id, "url": self._state.file_url(job, file), "watermark_url": "", "index": index}
            for index, file in enumerate(made)
        ]

    def _account(self, request: Request) -> Account:
        header = request.headers.get("authorization")
        if not header:
            raise _RefusedError(1001)
        account = self._state.account("kling", header)
        token = header.removeprefix("Bearer ")
        if account is None and token.count(".") == 2:  # noqa: PLR2004  # the parts of a JWT
            if not _path(request).startswith(("/v1/", "/account/")):
                raise _RefusedError(1002, "current API does not support AK/SK")
            self._check_token(token)
            account = next(iter(self._state.accounts("kling")), None)
        if account is None:
            raise _RefusedError(1002)
        return account

    def _check_token(self, token: str) -> None:
        signed, _, signature = token.rpartition(".")
        right = hmac.new(self.secret_key.encode(), signed.encode(), hashlib.sha256).digest()
        try:
            claims = json.loads(_decoded(signed.partition(".")[2]))
            genuine = hmac.compare_digest(right, _decoded(signature)) and claims["iss"] == self.access_key
            begin, end = claims["nbf"], claims["exp"]
        except (ValueError, KeyError, TypeError):
            raise _RefusedError(1002) from None
        if not genuine:
            raise _RefusedError(1002)
        if end <= time.time():
            raise _RefusedError(1004)
        if begin > time.time():
            raise _RefusedError(1003)

    def callback(self, job: Job, index: int) -> dict[str, Any]:
        """The body of the callback about one status."""
        return self.task(job, (Phase.PENDING, Phase.PROCESSING, job.phase(job.ends))[index])

    def signature(self, job: Job, body: bytes) -> Mapping[str, str]:
        """The headers of Standard Webhooks, if there is a secret."""
        del job
        if self._options.webhook_secret is None:
            return {}
        number, stamp = str(uuid.uuid4()), str(int(time.time()))
        key = base64.b64decode(self._options.webhook_secret.removeprefix("whsec_"))
        mac = hmac.new(key, f"{number}.{stamp}.".encode() + body, hashlib.sha256).digest()
        signed = f"v1,{base64.b64encode(mac).decode()}"
        return {"webhook-id": number, "webhook-timestamp": stamp, "webhook-signature": signed}


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Answer a refusal with the error that it stands for."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except _RefusedError as error:
            return reply(error.body, error.status)

    return answer


def emulate(state: ProviderState) -> Emulation:
    """Kling, as the sandbox plays it."""
    options = KlingOptions()
    api = _Api(state, options)
    operations = [Operation("submit", "POST", f"/{product}/{{model}}", _guarded(api.create_new)) for product in _NEW]
    for path in _LEGACY:
        operations.append(Operation("submit", "POST", path, _guarded(api.create_legacy)))
        operations.append(Operation("status", "GET", f"{path}/{{task}}", _guarded(api.legacy_task)))
    lists = ("advanced-custom-elements", "advanced-presets-elements", "custom-voices", "presets-voices")
    removals = ("delete-advanced-elements", "delete-elements", "delete-voices")
    return Emulation(
        name="kling",
        api_key=f"api-key-kling-{state.secret('kling')}",
        operations=[
            *operations,
            Operation("submit", "POST", "/v1/audio/tts", _guarded(api.tts)),
            Operation("search", "POST", "/v1/videos/identify-face", _guarded(api.faces)),
            Operation("status", "GET", "/tasks", _guarded(api.tasks)),
            Operation("list", "POST", "/account/billing/balance", _guarded(api.balance)),
            Operation("list", "GET", "/account/costs", _guarded(api.costs)),
            *(Operation("list", "GET", f"/v1/general/{name}", _guarded(api.empty)) for name in lists),
            *(Operation("cancel", "POST", f"/v1/general/{name}", _guarded(api.empty)) for name in removals),
        ],
        error_body=_error_body,
        client=_client,
        options=options,
        webhook=Webhook(
            moments=lambda job: [job.created, job.began, job.ends],
            body=api.callback,
            running=lambda job: api.task(job, Phase.PROCESSING),
            pauses=(30.0, 60.0),
            headers=api.signature,
        ),
    )


def _client(api_key: str, base_url: str) -> Provider:
    from kling_async.providers.kling import Kling  # noqa: PLC0415 - the server does not need the client

    return Kling(api_key=api_key, base_url=base_url)


def _error_body(status: int, _path: str, _retry_after: float | None) -> dict[str, Any]:
    return _RefusedError(_BY_STATUS.get(status, 5000)).body


def _path(request: Request) -> str:
    path: str = request.url.path
    return path.removeprefix("/kling")


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _RefusedError(1201, "the body is not a JSON object")
    return found


def _unknown(body: Mapping[str, Any], allowed: set[str]) -> None:
    if unknown := sorted(body.keys() - allowed):
        raise _RefusedError(1201, f"unknown fields: {', '.join(unknown)}")


def _check_new(product: str, model: str, body: Mapping[str, Any]) -> str:
    """The prompt of a body that the model takes."""
    text_only = product == "text-to-video"
    _unknown(body, {"prompt" if text_only else "contents", "settings", "options"})
    options = body.get("options", {})
    _unknown(options, _OPTIONS)
    settings, allowed = body.get("settings", {}), _NEW[product][model]
    _unknown(settings, set(allowed))
    for name, value in settings.items():
        if isinstance(value, bool) != (name == "multi_shot") or value not in allowed[name]:
            raise _RefusedError(1201, f"settings.{name} is {value!r}")
    if product == "motion-control" and "character_orientation" not in settings:
        raise _RefusedError(1201, "settings.character_orientation is required")
    if text_only:
        return _checked_prompt(body.get("prompt"))
    contents = body.get("contents")
    if not isinstance(contents, list) or not all(isinstance(item, dict) for item in contents):
        raise _RefusedError(1201, "contents is a list of objects")
    kinds = [item.get("type") for item in contents]
    if wrong := [kind for kind in kinds if kind not in _CONTENTS[product]]:
        raise _RefusedError(1201, f"contents has {wrong[0]!r}")
    if lacking := _NEEDED[product] - set(kinds):
        raise _RefusedError(1201, f"contents lacks {min(lacking)}")
    decided = {"first_frame", "feature_video", "base_video"} & set(kinds)
    if product == "omni-video" and not decided and "aspect_ratio" not in settings:
        raise _RefusedError(1201, "settings.aspect_ratio is required")
    _check_items(contents)
    prompts = [item.get("text") for item in contents if item["type"] == "prompt"]
    return _checked_prompt(prompts[0]) if prompts else "motion"


def _check_items(contents: Sequence[Mapping[str, Any]]) -> None:
    names = [item["id"] for item in contents if "id" in item]
    if len(names) != len(set(names)):
        raise _RefusedError(1201, "two contents have one id")
    for item in contents:
        url = item.get("url")
        if item["type"] not in {"prompt", "element", "voice"} and (not isinstance(url, str) or not url):
            raise _RefusedError(1201, f"{item['type']} has no url")
        if isinstance(url, str) and url.startswith("data:"):
            raise _RefusedError(1201, f"{item['type']} has a data: prefix; raw base64 is expected")


def _checked_prompt(prompt: object) -> str:
    if not isinstance(prompt, str) or not 1 <= len(prompt) <= 3072:  # noqa: PLR2004  # the page's number
        raise _RefusedError(1201, "the prompt has 1 to 3072 characters")
    return prompt


def _check_legacy(known: _Legacy, body: Mapping[str, Any]) -> None:
    needed = known.needed.split()
    if lacking := [name for name in needed if not body.get(name)]:
        raise _RefusedError(1201, f"{lacking[0]} is required")
    if known.fields is not None:
        _unknown(body, {*needed, *known.fields.split(), *_OPTIONS})
    number = body.get("n", 1)
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 9:  # noqa: PLR2004
        raise _RefusedError(1201, f"n is {number!r}, not 1 to 9")


def _word(phase: Phase, *, done: str) -> str:
    return {Phase.PENDING: "submitted", Phase.PROCESSING: "processing", Phase.COMPLETED: done}.get(phase, "failed")


def _bill(job: Job) -> dict[str, str]:
    price = str(job.order.price)
    return {
        "charge_type": "cash",
        "cash_type": "balance",
        "amount": price,
        "currency": "USD",
        "package_type": job.order.params["makes"],
        "list_price": price,
    }


def _number(job: Job) -> str:
    """Kling's own id of a task: a number as text."""
    return str(int.from_bytes(hashlib.sha256(job.id.encode()).digest()[:8], "big")).zfill(18)[:18]


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _ok(data: Any) -> Response:
    return reply({"code": 0, "message": "SUCCEED", "request_id": str(uuid.uuid4()), "data": data})

"""Kling's emulation: both generations of its own API, as documented at kling.ai/document-api.

New paths (`/omni-video/kling-3.0-omni`) and `/v1` share one account, one store of tasks and one set of external ids.
What the sources leave open is decided here: a wrong key is code 1002, tasks are listed newest first, a task that failed
costs nothing, and there are as many slots as `options.slots` has for each kind of pack and model. Bodies are judged by
`sandbox/rules`. Fields that no source names (text and video to audio, the search for faces) are accepted as they come.
Tasks are paid in cash, or from resource packs with `options.billing = "unit"`. Callbacks are sent at each status, and
signed if `options.webhook_secret` is set.
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
from kling_async.sandbox.emulator.images import thumbnails
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
from kling_async.sandbox.emulator.signatures import standard_signature
from kling_async.sandbox.providers.emulation import Emulation, Endpoint, Operation, Webhook, reply
from kling_async.sandbox.rules.fields import problems_of
from kling_async.sandbox.rules.kling_legacy import COMMON, LEGACY, PRESETS, slots
from kling_async.sandbox.rules.kling_video import NEW_MODELS, problems_of_new

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
_PRODUCTS = sorted({path.partition("/")[0] for path in NEW_MODELS})
_UNITS: Mapping[str, Decimal] = {"video": Decimal("0.14"), "image": Decimal("0.0035")}
"""USD for one unit of a resource pack. No source tells the unit of a pack of sounds, so these are paid in cash."""
_IMAGE_PRICE, _SOUND_PRICE, _SECOND_PRICE = Decimal("0.028"), Decimal("0.035"), Decimal("0.084")
_FACE_PRICE = Decimal("0.007")
_SHOWN = (
    "watermark_info",
    "result_type",
    "reference_type",
    "tag_list",
    "element_name",
    "element_description",
    "voice_name",
)
"""What a task keeps of the body that made it, to show it again."""
_SIZES: Mapping[str, tuple[int, int]] = {"9:16": (720, 1280), "1:1": (960, 960)}


@dataclass(slots=True)
class KlingOptions:
    """What a test may choose.

    Args:
        slots: How many tasks of one kind of pack and model run at once. If None, there is no limit.
        webhook_secret: Signs callbacks (`whsec_...`). If None, they are not signed.
        billing: Whether tasks are paid in `cash` or from resource packs, in the `unit` of the pack.
        characters: The ids of elements that are video characters, besides those made here from a video.
    """

    slots: int | None = None
    webhook_secret: str | None = None
    billing: Literal["cash", "unit"] = "cash"
    characters: frozenset[str] = frozenset()


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
        self._deleted: set[str] = set()

    async def create_new(self, request: Request) -> Response:
        """`POST /{product}/{model}`."""
        account = self._account(request)
        path = _path(request).strip("/")
        body = _object(await request.body())
        if path not in NEW_MODELS:
            raise _RefusedError(1203)
        _refuse_problems(path, problems_of_new(path, body, self._options.characters | self._characters())[0])
        words = [item["text"] for item in body.get("contents", ()) if item["type"] == "prompt"]
        prompt = str(body.get("prompt") or (words[0] if words else "motion"))
        settings, options = body.get("settings", {}), body.get("options", {})
        seconds = float(settings.get("duration", 5))
        media = Clip(
            *_SIZES.get(settings.get("aspect_ratio", ""), (1280, 720)), seconds, prompt, references=thumbnails(body)
        )
        return self._accept(account, path, prompt, (media,), options, "video", seconds)

    async def create_legacy(self, request: Request) -> Response:
        """`POST /v1/...`."""
        account = self._account(request)
        path = _path(request)
        body = _object(await request.body())
        _refuse_problems(path.strip("/"), _legacy_problems(path, body))
        makes = LEGACY[path].makes
        prompt = str(body.get("prompt") or body.get("element_name") or body.get("voice_name") or path)
        media: Clip | Picture = Clip(1280, 720, 5.0, prompt, references=thumbnails(body))
        if makes in {"image", "element"}:
            media = Picture(1024, 1024, "png", prompt, references=thumbnails(body))
        pack = f"{path} {body.get('model_name', '')}".strip()
        return self._accept(account, pack, prompt, (media,) * slots(path, body), body, makes, 5.0)

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
        prices = {
            "image": _IMAGE_PRICE * len(media),
            "audio": _SOUND_PRICE,
            "element": Decimal(0),
            "voice": _FACE_PRICE,
        }
        price = prices.get(makes, _SECOND_PRICE * Decimal(str(seconds)))
        order = Order(
            account=account,
            endpoint=pack,
            prompt=prompt,
            media=media,
            durations=IMAGE_DURATION if makes != "video" else DurationRange(median=20 + 22 * seconds, sigma=0.4),
            price=price,
            params={
                "new": new,
                "makes": makes,
                "external": external,
                "seconds": seconds,
                "body": {name: options[name] for name in _SHOWN if name in options},
            },
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
        _refuse_problems("v1/audio/tts", _legacy_problems("/v1/audio/tts", body))
        media = (Clip(320, 320, 1.0, body["text"]),)
        params = {"new": False, "makes": "audio", "external": None, "seconds": 1.0, "body": {}}
        order = Order(account, "tts", body["text"], media, DurationRange(0.1, 0.01), _FACE_PRICE, params)
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

    async def legacy_list(self, request: Request) -> Response:
        """`GET /v1/...`: the tasks of one path, newest first."""
        account = self._account(request)
        number, size = _page(request)
        found = [
            job
            for job in reversed(self._state.jobs.values())
            if job.order.account is account and job.order.endpoint.split(" ")[0] == _path(request)
        ]
        kept = [job for job in found if self._item_id(job) not in self._deleted]
        page = kept[(number - 1) * size : number * size]
        return _ok([self.task(job, self._state.phase(job), new=False) for job in page])

    async def presets(self, request: Request) -> Response:
        """`GET /v1/general/presets-voices` and the like: this sandbox offers none."""
        self._account(request)
        _page(request)
        return _ok([])

    async def delete(self, request: Request) -> Response:
        """`POST /v1/general/delete-voices` and the like."""
        self._account(request)
        name = "voice_id" if _path(request).endswith("voices") else "element_id"
        body = _object(await request.body())
        if set(body) != {name} or not isinstance(body[name], str | int):
            raise _RefusedError(1201, f"the body has {name}, and nothing else")
        self._deleted.add(str(body[name]))
        return _ok({"task_id": str(uuid.uuid4().int)[:18], "task_status": "succeed"})

    def _characters(self) -> frozenset[str]:
        """The elements that were made from a video."""
        made = [job for job in self._state.jobs.values() if job.order.params.get("makes") == "element"]
        return frozenset(
            self._item_id(job) for job in made if job.order.params["body"].get("reference_type") == "video_refer"
        )

    def _item_id(self, job: Job) -> str:
        """The id of the element or the voice that a task makes: a number, and another one than the task's."""
        return _number(job)[::-1].replace("0", "7")

    def task(self, job: Job, phase: Phase, *, new: bool | None = None) -> dict[str, Any]:
        """A task in the form of a generation. If `new` is None, of the one that made it."""
        params = job.order.params
        form = params["new"] if new is None else new
        failed, done = phase is Phase.FAILED, phase is Phase.COMPLETED
        clock = self._state.clock
        created, changed = (
            int(clock.at(moment).timestamp() * 1000) for moment in (job.created, min(job.ends, clock.now()))
        )
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
                "outputs": [{"type": makes, **output} for output in self._outputs(job, new=True)] if done else [],
                "billing": [self._bill(job)] if done else [],
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
            series = params["body"].get("result_type") == "series"
            task["task_result"] = {"series_images" if series else f"{makes}s": self._outputs(job, new=False)}
            bill = self._bill(job)
            cash = bill["charge_type"] == "cash"
            task["final_unit_deduction"] = "0" if cash else bill["amount"]
            if cash:
                task["final_balance_deduction"] = {"quota": bill["amount"], "list_price": bill["list_price"]}
        return task

    def _outputs(self, job: Job, *, new: bool) -> list[dict[str, Any]]:
        params = job.order.params
        body = params["body"]
        made = [file for file in job.files if file.failure is None]
        if params["makes"] == "voice":
            known = {"owned_by": "user", "status": "succeed"}
            url, name = self._state.file_url(job, made[0]), body.get("voice_name", "")
            if new:
                return [{"id": self._item_id(job), "name": name, "url": url, **known}]
            return [{"voice_id": self._item_id(job), "voice_name": name, "trial_url": url, **known}]
        if params["makes"] == "element":
            return [self._element(job, body, new=new)]
        marked = body.get("watermark_info", {}).get("enabled", False)
        urls = [self._state.file_url(job, file) for file in made]
        return [
            {"id": file.id, "url": url, "watermark_url": url if marked else "", "index": index}
            for index, (file, url) in enumerate(zip(made, urls, strict=True))
        ]

    def _element(self, job: Job, body: Mapping[str, Any], *, new: bool) -> dict[str, Any]:
        name, words = body.get("element_name", ""), body.get("element_description", "")
        kind, tags = body.get("reference_type", "image_refer"), body.get("tag_list", [])
        known = {"owned_by": "user", "status": "succeed"}
        if new:
            more = {"element_type": kind, "references": [], "tags": tags}
            return {"id": self._item_id(job), "name": name, "description": words, **more, **known}
        more = {"reference_type": kind, "tag_list": tags}
        return {
            "element_id": int(self._item_id(job)),
            "element_name": name,
            "element_description": words,
            **more,
            **known,
        }

    def _bill(self, job: Job) -> dict[str, str]:
        makes, price = job.order.params["makes"], job.order.price
        if self._options.billing == "unit" and makes in _UNITS:
            amount = f"{(price / _UNITS[makes]).normalize():f}"
            return {"charge_type": "unit", "package_type": makes, "amount": amount, "list_price": str(price)}
        return {
            "charge_type": "cash",
            "cash_type": "balance",
            "amount": str(price),
            "currency": "USD",
            "package_type": makes,
            "list_price": str(price),
        }

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
        secret = self._options.webhook_secret
        return {} if secret is None else standard_signature(secret, body)


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
    create, read, listed = (_guarded(call) for call in (api.create_legacy, api.legacy_task, api.legacy_list))
    operations = [
        Operation("submit", "POST", f"/{product}/{{model}}", _guarded(api.create_new)) for product in _PRODUCTS
    ]
    for path, known in LEGACY.items():
        if not known.sync:
            operations.append(Operation("submit", "POST", path, create))
            operations.append(Operation("status", "GET", f"{path}/{{task}}", read))
            operations.append(Operation("list", "GET", path, listed))
    removals = [path for path in LEGACY if "/delete-" in path]
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
            *(Operation("list", "GET", path, _guarded(api.presets)) for path in PRESETS),
            *(Operation("cancel", "POST", path, _guarded(api.delete)) for path in removals),
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


def _refuse_problems(name: str, problems: Sequence[str]) -> None:
    if problems:
        raise _RefusedError(1201, f"{name}: {'; '.join(problems)}")


def _legacy_problems(path: str, body: Mapping[str, Any]) -> list[str]:
    """What is wrong with a body. Where no source names the fields, only those of every create are judged."""
    known = LEGACY[path]
    common = {} if known.sync else COMMON
    if known.model.fields is None:
        return problems_of({name: body[name] for name in COMMON if name in body}, common, ())
    return problems_of(body, {**known.model.fields, **common}, known.model.rules)


def _page(request: Request) -> tuple[int, int]:
    """Number and size of a page."""
    found = []
    for name, usual, most in (("pageNum", "1", 1000), ("pageSize", "30", 500)):
        value = request.query_params.get(name, usual)
        if not value.isdigit() or not 1 <= int(value) <= most:
            raise _RefusedError(1201, f"{name} is {value!r:.20}, not 1 to {most}")
        found.append(int(value))
    return found[0], found[1]


def _word(phase: Phase, *, done: str) -> str:
    return {Phase.PENDING: "submitted", Phase.PROCESSING: "processing", Phase.COMPLETED: done}.get(phase, "failed")


def _number(job: Job) -> str:
    """Kling's own id of a task: a number as text."""
    return str(int.from_bytes(hashlib.sha256(job.id.encode()).digest()[:8], "big")).zfill(18)[:18]


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _ok(data: Any) -> Response:
    return reply({"code": 0, "message": "SUCCEED", "request_id": str(uuid.uuid4()), "data": data})

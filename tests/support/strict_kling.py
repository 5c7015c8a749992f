"""A strict fake of the official Kling API, written from docs/providers/kling.md alone: a judge of a client.

What the facts do not allow is recorded in `violations` and refused. Where sources disagree, or none tells, every shape
is accepted, and what the server answers can be chosen.
"""

import hashlib
import hmac
import json
import math
import uuid
from base64 import b64decode, b64encode, urlsafe_b64decode
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kling_async.sandbox.rules.fields import problems_of
from kling_async.sandbox.rules.kling_legacy import COMMON, LEGACY, PRESETS, left_to_default, slots
from kling_async.sandbox.rules.kling_video import NEW_MODELS, problems_of_new
from support.strict_checks import Delivery, How, Refusal, StrictServer, lost_answer

ERRORS: Mapping[int, tuple[int, str]] = {
    1000: (401, "Authentication failed"),
    1001: (401, "Authorization is empty"),
    1002: (401, "Authorization is invalid"),
    1003: (401, "Authorization is not yet valid"),
    1004: (401, "Authorization has expired"),
    1100: (429, "Account exception"),
    1101: (429, "Account in arrears"),
    1102: (429, "Account balance not enough"),
    1103: (403, "Unauthorized access to requested resource"),
    1200: (400, "Invalid request parameters"),
    1201: (400, "Invalid parameters"),
    1202: (404, "The requested method is invalid"),
    1203: (404, "The requested resource does not exist"),
    1300: (400, "Trigger strategy of the platform"),
    1301: (400, "Trigger content security policy of the platform"),
    1302: (429, "Too many requests"),
    1303: (429, "parallel task over resource pack limit"),
    1304: (429, "Trigger IP whitelist policy of the platform"),
    5000: (500, "Server internal error"),
    5001: (503, "Server temporarily unavailable"),
    5002: (504, "Server internal timeout"),
}
_DAY = 86400
_MOST_IDS = 20
_MOST_LIFETIME = 1800
_CLOCK_TOLERANCE = 60
_STATUSES = ("submitted", "processing", "succeeded", "failed")
_PRODUCT_TYPES = ("video", "image", "try_on")

Shape = Literal["by path", "new", "legacy", "enveloped"]


@dataclass(frozen=True)
class KlingOutcome:
    """How a task ends. With `error`, it is failed and this is the reason.

    Attributes:
        billing: What the task cost. Defaults to units for a success and to nothing for a failure.
    """

    error: str | None = None
    billing: tuple[Mapping[str, str], ...] | None = None


@dataclass
class KlingTask:
    """A task that the server accepted."""

    id: str
    path: str
    body: dict[str, Any]
    created: float
    starts: float
    ends: float
    outcome: KlingOutcome
    slots: int
    reads: int = 0
    announced: int = 0

    @property
    def new(self) -> bool:
        return not self.path.startswith("/v1/")

    @property
    def options(self) -> Mapping[str, Any]:
        return self.body.get("options", {}) if self.new else self.body

    @property
    def external_id(self) -> str | None:
        return self.options.get("external_task_id")

    @property
    def makes(self) -> str:
        return "video" if self.new else LEGACY[self.path].makes

    @property
    def product_type(self) -> str | None:
        if self.path.endswith("try-on"):
            return "try_on"
        return self.makes if self.makes in _PRODUCT_TYPES else None

    @property
    def pack(self) -> tuple[str, str]:
        """What the concurrency limit is counted for: pack type and model."""
        model = self.path.rsplit("/", 1)[1] if self.new else str(self.body.get("model_name", self.path))
        return self.makes, model


@dataclass
class StrictKling(StrictServer):
    """Both generations of the official API, and its media host, as one ASGI app.

    The hosts are told apart by address. To serve both at one socket use `StrictKling.at(address)`.

    Attributes:
        access_key: `iss` of a JWT.
        secret_key: What signs a JWT.
        wrong_key_code: The code for a wrong key. No source tells which.
        queued_seconds: How long a task is submitted.
        running_seconds: How long a task is processing.
        reads_to_finish: If given, the read of this number finds the task finished, whatever the time is.
        concurrency: How many slots a pack type and model have. If None, there is no limit.
        characters: The ids of the elements that are video characters.
        webhook_secrets: The webhook secrets that are valid. If there are none, callbacks are not signed.
        callback_shape: The form of a callback. Sources disagree.
        materials: An element's references are named `materials`. If False, `references`. Sources disagree.
        legacy_reads_any_path: A legacy read finds the tasks of other paths too. No source tells.
        outcomes: How the next accepted tasks end, in order.
        tasks: What was accepted, by id.
        already_exists: The external ids of refused creates whose id is taken.
    """

    base: str = "https://api-singapore.klingai.com"
    media: str = "https://media.klingai.example"
    access_key: str = "made-up-access-key"
    secret_key: str = "made-up-secret-key-of-32-characters"
    wrong_key_code: int = 1002
    queued_seconds: float = 0.05
    running_seconds: float = 0.05
    reads_to_finish: int | None = None
    concurrency: int | None = None
    characters: frozenset[str] = frozenset()
    webhook_secrets: list[str] = field(default_factory=list)
    callback_shape: Shape = "by path"
    materials: bool = False
    legacy_reads_any_path: bool = False
    outcomes: deque[KlingOutcome] = field(default_factory=deque)
    tasks: dict[str, KlingTask] = field(default_factory=dict)
    already_exists: list[str] = field(default_factory=list)
    sync_bought: int = 0
    _refusals: deque[tuple[int, str | None]] = field(default_factory=deque)
    _last_costs: float = -math.inf

    @classmethod
    def at(cls, address: str) -> "StrictKling":
        """Both hosts below one address."""
        return cls(base=address, media=f"{address}/media")

    @property
    def bought(self) -> int:
        """How many creates were accepted, whether the client saw the answer or not."""
        return len(self.tasks) + self.sync_bought

    def refuse_next(self, code: int, kind: str | None = None) -> None:
        """Answer the next request with this code of the error table. If `kind` is None, whatever its kind is."""
        self._refusals.append((code, kind))

    async def answer(self, request: Request) -> Response | None:
        address = f"{request.headers.get('host', '')}{request.url.path}"
        media = urlsplit(self.media)
        if address.startswith(f"{media.netloc}{media.path}/"):
            return self._media(request)
        base = urlsplit(self.base)
        if not address.startswith(f"{base.netloc}{base.path}/"):
            self.violate(f"{request.method} {request.url}: not a host of this account's region")
            _refuse(1000)
        path = request.url.path.removeprefix(base.path)
        self._authorize(request, path)
        return await self._route(request, path)

    async def _route(self, request: Request, path: str) -> Response | None:
        if path == "/tasks":
            return await self._tasks(request)
        if path.startswith("/account/"):
            return await self._account(request, path)
        if path in PRESETS:
            return self._presets(request, path)
        if path.removeprefix("/") in NEW_MODELS or path in LEGACY:
            return await self._product(request, path)
        parent, _, name = path.rpartition("/")
        if parent in LEGACY and not LEGACY[parent].sync:
            return self._legacy_read(request, parent, name)
        return self._unknown(request, path)

    async def _product(self, request: Request, path: str) -> Response | None:
        if request.method == "POST":
            return await self._create(request, path)
        if path in LEGACY and request.method == "GET" and not LEGACY[path].sync:
            return self._legacy_list(request, path)
        return self._wrong_method(request, path)

    def _wrong_method(self, request: Request, path: str) -> NoReturn:
        self.violate(f"{request.method} {path}: there is no such method")
        _refuse(1202)

    def _unknown(self, request: Request, path: str) -> NoReturn:
        self.violate(f"{request.method} {path}: there is no such path or model")
        _refuse(1203)

    # Authentication -------------------------------------------------------------------------------------------------

    def _authorize(self, request: Request, path: str) -> None:
        if self.key in str(request.url):
            self.violate("the key stands in the address")
        given = request.headers.get("authorization")
        if not given:
            self.violate(f"{request.method} {path} has no Authorization header")
            _refuse(1001)
        scheme, _, token = given.partition(" ")
        if scheme != "Bearer":
            self.violate("Authorization does not have the form `Bearer <key>`")
            _refuse(1002)
        if token == self.key:
            return
        if token.count(".") != 2:
            _refuse(self.wrong_key_code)
        if not path.startswith(("/v1/", "/account/")):
            self.violate(f"{request.method} {path}: a JWT works on the legacy paths only")
            _refuse(1002, "current API does not support AK/SK")
        self._check_jwt(token)

    def _check_jwt(self, token: str) -> None:
        signed, _, signature = token.rpartition(".")
        try:
            header, claims = (json.loads(_unpadded(part)) for part in signed.split("."))
            right = hmac.new(self.secret_key.encode(), signed.encode(), hashlib.sha256).digest()
            genuine = hmac.compare_digest(right, _unpadded(signature))
        except ValueError:
            self.violate("the JWT cannot be decoded")
            _refuse(1002)
        problems = _jwt_problems(header, claims)
        if problems:
            self.violations += problems
            _refuse(1002)
        if not genuine or claims["iss"] != self.access_key:
            _refuse(self.wrong_key_code)
        if claims["exp"] > self.now + _MOST_LIFETIME + _CLOCK_TOLERANCE:
            self.violate(f"the JWT is valid for more than {_MOST_LIFETIME} s")
            _refuse(1002)
        if claims["exp"] <= self.now:
            _refuse(1004)
        if claims["nbf"] > self.now:
            _refuse(1003)

    # Create -----------------------------------------------------------------------------------------------------------

    def _begin(self, kind: str) -> None:
        self.requests[kind] += 1
        if self._refusals and self._refusals[0][1] in {None, kind}:
            _refuse(self._refusals.popleft()[0])
        if self.throttled(kind) is not None:
            _refuse(1302)

    def _bad(self, problems: Iterable[str]) -> NoReturn:
        listed = list(problems)
        self.violations += listed
        _refuse(1201, f"Invalid parameters: {'; '.join(listed)}")

    async def _json(self, request: Request) -> dict[str, Any]:
        where = f"{request.method} {request.url.path}"
        if request.query_params:
            self._bad([f"{where} has a query: {request.url.query}"])
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            self._bad([f"{where}: Content-Type is not application/json"])
        try:
            body = json.loads(await request.body())
        except ValueError:
            body = None
        if not isinstance(body, dict):
            self._bad([f"{where}: the body is not a JSON object"])
        return dict(body)

    async def _create(self, request: Request, path: str) -> Response | None:
        self._begin("create")
        body = await self._json(request)
        left = self._judge(path, body)
        self._refuse_known_id(path, body)
        count = slots(path, body)
        if path in LEGACY and LEGACY[path].sync:
            return self._create_sync(path, body)
        task = self._task(path, body, count)
        self._refuse_over_limit(task)
        loss = self.next_loss()
        if loss is None or loss[0]:
            same = any(other.path == path and _input(other) == _input(task) for other in self.tasks.values())
            self.duplicates += [task.id] if same else []
            self.tasks[task.id] = task
            self.left_to_default += [f"{path.strip('/')}: {name}" for name in left]
            if self.outcomes:
                task.outcome = self.outcomes.popleft()
        return self._created(task) if loss is None else _lost(loss[1])

    def _judge(self, path: str, body: dict[str, Any]) -> list[str]:
        """Refuse what the facts do not allow. Return the price inputs that are left to the seller."""
        name = path.strip("/")
        if name in NEW_MODELS:
            found, left = problems_of_new(name, body, self.characters)
        else:
            known = LEGACY[path]
            common = {} if known.sync else COMMON
            if known.model.fields is None:
                self.unchecked.append(name)
                found = problems_of({key: body[key] for key in COMMON if key in body}, common, ())
            else:
                found = problems_of(body, {**known.model.fields, **common}, known.model.rules)
            left = [] if found else left_to_default(path, body)
        if found:
            self._bad(f"{name}: {problem}" for problem in found)
        if name == "omni-video/kling-o1" and _is_text_only(body) and body.get("settings", {}).get("duration", 5) % 5:
            self.unchecked.append(f"{name}: sources disagree on this duration of text to video")
        return left

    def _refuse_known_id(self, path: str, body: Mapping[str, Any]) -> None:
        options = body if path in LEGACY else body.get("options", {})
        external_id = options.get("external_task_id")
        if external_id is not None and any(task.external_id == external_id for task in self.tasks.values()):
            self.already_exists.append(external_id)
            _refuse(1201, f"external_task_id {external_id} already exists")

    def _refuse_over_limit(self, task: KlingTask) -> None:
        if self.concurrency is None:
            return
        taken = sum(
            other.slots
            for other in self.tasks.values()
            if other.pack == task.pack and self.status_of(other) in {"submitted", "processing"}
        )
        if taken + task.slots > self.concurrency:
            _refuse(1303)

    def _task(self, path: str, body: dict[str, Any], count: int) -> KlingTask:
        starts = self.now + self.queued_seconds
        number = str(uuid.uuid4().int)[:18]
        return KlingTask(number, path, body, self.now, starts, starts + self.running_seconds, KlingOutcome(), count)

    def _created(self, task: KlingTask) -> Response:
        created = _ms(task.created)
        if task.new:
            data = {"id": task.id, "status": "submitted", "create_time": created, "update_time": created}
            return _ok(data | {"external_id": task.external_id or ""})
        info = {"external_task_id": task.external_id or ""}
        data = {"task_id": task.id, "task_status": "submitted", "created_at": created, "updated_at": created}
        return _ok(data | {"task_info": info})

    def _create_sync(self, path: str, body: Mapping[str, Any]) -> Response | None:
        loss = self.next_loss() if LEGACY[path].paid else None
        if loss is not None and not loss[0]:
            return _lost(loss[1])
        self.sync_bought += LEGACY[path].paid
        if loss is not None:
            return _lost(loss[1])
        number = str(uuid.uuid4().int)[:18]
        if path.endswith("tts"):
            sound = {"id": number, "url": self._url(number, "mp3", self.now), "duration": "3.0"}
            return _ok({"task_id": number, "task_status": "succeed", "task_result": {"audios": [sound]}})
        if path.endswith("identify-face"):  # no source tells this shape beyond the two ids
            face = {"face_id": "0", "face_image": self._url(number, "jpg", self.now), "start_time": 0, "end_time": 5000}
            return _ok({"session_id": number, "face_data": [face]})
        return _ok({"task_id": number, "task_status": "succeed"})

    # Read -------------------------------------------------------------------------------------------------------------

    def status_of(self, task: KlingTask) -> str:
        """The status of a task now, as the new generation spells it."""
        end = "failed" if task.outcome.error is not None else "succeeded"
        if self.reads_to_finish is not None:
            if task.reads >= self.reads_to_finish:
                return end
            return "submitted" if task.reads <= 1 else "processing"
        if self.now >= task.ends:
            return end
        return "submitted" if self.now < task.starts else "processing"

    def _read(self, task: KlingTask, *, listed: bool = False) -> str:
        task.reads += 0 if listed else 1
        return self.status_of(task)

    async def _tasks(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._cursor_list(request)
        if request.method != "GET":
            self.violate(f"{request.method} /tasks: there is no such method")
            _refuse(1202)
        self._begin("read")
        given = request.query_params.multi_items()
        if len(given) != 1 or given[0][0] not in {"task_ids", "external_task_ids"}:
            self._bad(["GET /tasks takes task_ids or external_task_ids, once, and nothing else"])
        name, text = given[0]
        ids = text.split(",")
        if not all(one and one == one.strip() for one in ids):
            self._bad([f"GET /tasks: {name} has an empty id or a space"])
        if len(ids) > _MOST_IDS:
            self._bad([f"GET /tasks: {len(ids)} ids, more than {_MOST_IDS}"])
        found = [
            task
            for task in self.tasks.values()
            if (task.id if name == "task_ids" else task.external_id) in ids  # no source tells the order
        ]
        return _ok([self.new_form(task, self._read(task)) for task in reversed(found)])

    async def _cursor_list(self, request: Request) -> Response:
        self._begin("list")
        body = await self._json(request)
        problems = _list_problems(body)
        if problems:
            self._bad(f"POST /tasks: {problem}" for problem in problems)
        cursor = body.get("cursor") or ""
        begin, start, end = 0, body.get("start_time", _ms(self.now - 30 * _DAY)), body.get("end_time", _ms(self.now))
        if cursor:
            begin, start, end = self._cursor(cursor)
        limit = body.get("limit", 100)
        wanted = [task for task in self.tasks.values() if start <= _ms(task.created) <= end]
        for one in body.get("filters", ()):
            wanted = [task for task in wanted if self._filtered(task, one["key"]) in one["values"]]
        wanted.sort(key=lambda task: task.created, reverse=True)
        page = wanted[begin : begin + limit]
        more = begin + limit < len(wanted)
        following = f"{begin + limit}.{start}.{end}" if more else ""
        result = [self.new_form(task, self._read(task, listed=True)) for task in page]
        return _ok({"result": result, "count": len(page), "next_cursor": following, "has_more": more})

    def _cursor(self, cursor: str) -> tuple[int, int, int]:
        try:
            begin, start, end = map(int, cursor.split("."))
        except ValueError:
            self._bad([f"POST /tasks: cursor {cursor!r} was not handed out"])
        return begin, start, end

    def _filtered(self, task: KlingTask, key: str) -> str | None:
        return self.status_of(task) if key == "status" else task.product_type

    def _legacy_list(self, request: Request, path: str) -> Response:
        self._begin("list")
        number, size = self._page(request)
        tasks = [task for task in self.tasks.values() if task.path == path][::-1]
        page = tasks[(number - 1) * size : number * size]
        return _ok([self.legacy_form(task, self._read(task, listed=True)) for task in page])

    def _page(self, request: Request) -> tuple[int, int]:
        query = request.query_params
        problems = [f"the query has {name}" for name in query if name not in {"pageNum", "pageSize"}]
        for name, most in (("pageNum", 1000), ("pageSize", 500)):
            value = query.get(name, "1")
            if not value.isdigit() or not 1 <= int(value) <= most:
                problems.append(f"{name} is {value!r}, not 1 to {most}")
        if problems:
            self._bad(f"GET {request.url.path}: {problem}" for problem in problems)
        return int(query.get("pageNum", 1)), int(query.get("pageSize", 30))

    def _legacy_read(self, request: Request, path: str, name: str) -> Response:
        if request.method != "GET":
            self.violate(f"{request.method} {path}/{name}: there is no such method, and no cancel")
            _refuse(1202)
        self._begin("read")
        if request.query_params:
            self._bad([f"GET {path}/{name} has a query"])
        found = [
            task
            for task in self.tasks.values()
            if name in {task.id, task.external_id} and (self.legacy_reads_any_path or task.path == path)
        ]
        if not found:
            _refuse(1201, "Task not found by id / external id")
        return _ok(self.legacy_form(found[0], self._read(found[0])))

    # What a task looks like -------------------------------------------------------------------------------------------

    def _url(self, name: str, ending: str, made: float) -> str:
        """A signed URL, which ends 30 days after the task."""
        return f"{self.media}/{name}.{ending}?expires={int(made + 30 * _DAY)}"

    def _marked(self, task: KlingTask, name: str, ending: str) -> str:
        wanted = task.options.get("watermark_info", {}).get("enabled", False)
        return self._url(f"{name}-watermark", ending, task.ends) if wanted else ""

    def _seconds(self, task: KlingTask) -> str:
        settings = task.body.get("settings", {}) if task.new else task.body
        return f"{float(settings.get('duration', 5)) + 0.1:.1f}"

    def outputs_of(self, task: KlingTask) -> list[dict[str, Any]]:
        """The outputs of a task that succeeded, as the new generation writes them."""
        one = f"{task.id}-0"
        match task.makes:
            case "image":
                names = [f"{task.id}-{number}" for number in range(task.slots)]
                return [
                    {
                        "type": "image",
                        "url": self._url(name, "png", task.ends),
                        "watermark_url": self._marked(task, name, "png"),
                        "group_id": "",
                    }
                    for name in names
                ]
            case "audio":
                urls = {f"{kind}_url": self._url(one, kind, task.ends) for kind in ("mp3", "wav")}
                return [{"type": "audio", "id": one, **urls, "mp3_duration": "3.0", "wav_duration": "3.0"}]
            case "voice":
                known = {"id": one, "name": "voice", "url": self._url(one, "mp3", task.ends)}
                return [{"type": "voice", **known, "owned_by": "user", "status": "succeed"}]
            case "element":
                references = "materials" if self.materials else "references"
                known = {"id": one, "name": "element", "description": "", "element_type": "image"}
                more = {references: [], "owned_by": "user", "status": "succeed", "tags": []}
                return [{"type": "element", **known, **more}]
        urls = {"url": self._url(one, "mp4", task.ends), "watermark_url": self._marked(task, one, "mp4")}
        return [{"type": "video", "id": one, **urls, "duration": self._seconds(task)}]

    def new_form(self, task: KlingTask, status: str) -> dict[str, Any]:
        """A task as `/tasks` and the callback of the new generation write it."""
        done = status == "succeeded"
        return {
            "id": task.id,
            "status": status,
            "message": task.outcome.error or "" if status == "failed" else "",
            "create_time": _ms(task.created),
            "update_time": self._updated(task, status),
            "external_id": task.external_id or "",
            "outputs": self.outputs_of(task) if done else [],
            "billing": self._billing(task) if done or status == "failed" else [],
        }

    def legacy_form(self, task: KlingTask, status: str) -> dict[str, Any]:
        """A task as a legacy read and a legacy callback write it."""
        done = status == "succeeded"
        form: dict[str, Any] = {
            "task_id": task.id,
            "task_status": "succeed" if done else status,
            "task_status_msg": task.outcome.error or "" if status == "failed" else "",
            "task_info": {"external_task_id": task.external_id or ""},
            "created_at": _ms(task.created),
            "updated_at": self._updated(task, status),
        }
        if not done:
            return form
        outputs = [{key: value for key, value in one.items() if key != "type"} for one in self.outputs_of(task)]
        if task.makes == "image":
            series = task.body.get("result_type") == "series"
            images = [
                {"index": number, "url": one["url"], "watermark_url": one["watermark_url"]}
                for number, one in enumerate(outputs)
            ]
            kind = {"result_type": "series" if series else "single"} if task.path.endswith("omni-image") else {}
            form["task_result"] = kind | {"series_images" if series else "images": images}
        else:
            form["task_result"] = {f"{task.makes}s": outputs}
        units = [one["amount"] for one in self._billing(task) if one["charge_type"] == "unit"]
        return form | {"final_unit_deduction": units[0] if units else "0"}

    def _updated(self, task: KlingTask, status: str) -> int:
        times = {"submitted": task.created, "processing": task.starts}
        return _ms(min(times.get(status, task.ends), self.now))

    def _billing(self, task: KlingTask) -> list[dict[str, str]]:
        if task.outcome.billing is not None:
            return [dict(one) for one in task.outcome.billing]
        if task.outcome.error is not None:  # a failed task costs nothing
            return []
        kind = task.makes if task.makes in {"video", "image", "audio"} else "video"
        amount = "0.5" if kind == "video" else f"{8 * task.slots}"
        return [{"charge_type": "unit", "package_type": kind, "amount": amount}]

    # Media, account, presets ------------------------------------------------------------------------------------------

    def _media(self, request: Request) -> Response:
        self.requests["media"] += 1
        if "authorization" in request.headers or self.key in str(request.url):
            self.violate(f"{request.method} {request.url.path}: the key was sent to the media host")
        if request.method not in {"GET", "HEAD"}:
            self.violate(f"{request.method} {request.url.path}: media is only read")
            return Response(status_code=405)
        expires = request.query_params.get("expires", "")
        if not expires.isdigit() or int(expires) <= self.now:
            return Response(status_code=403)
        return Response(b"\x00\x00\x00\x18ftypmp42", media_type="application/octet-stream")

    def _presets(self, request: Request, path: str) -> Response:
        if request.method != "GET":
            self.violate(f"{request.method} {path}: there is no such method")
            _refuse(1202)
        self._begin("list")
        self._page(request)
        return _ok([])

    async def _account(self, request: Request, path: str) -> Response:
        methods = {"/account/costs": "GET", "/account/billing/balance": "POST", "/account/billing/package": "POST"}
        if methods.get(path) != request.method:
            self.violate(f"{request.method} {path}: there is no such call")
            _refuse(1202 if path in methods else 1203)
        self._begin("account")
        if request.method == "POST":  # no source names the fields
            self.unchecked.append(path.strip("/"))
            return _ok({"balance": "100.00", "currency": "USD"} if path.endswith("balance") else [])
        query = request.query_params
        if set(query) != {"start_time", "end_time"} or not all(value.isdigit() for value in query.values()):
            self._bad(["GET /account/costs takes start_time and end_time, in milliseconds"])
        if self.now - self._last_costs < 1:
            _refuse(1302)
        self._last_costs = self.now
        return _ok({"code": 0, "msg": "SUCCEED", "resource_pack_subscribe_infos": []})

    # Callbacks --------------------------------------------------------------------------------------------------------

    def delivery(self, task_id: str, status: str | None = None, *, at: float | None = None) -> Delivery:
        """The callback of a task for one status. Defaults to its status now, signed now by the server's clock."""
        task = self.tasks[task_id]
        reported = self._callback_form(task, status or self.status_of(task))
        body = json.dumps(reported).encode()
        headers = {"content-type": "application/json"}
        if self.webhook_secrets:
            stamp, number = str(int(self.now if at is None else at)), str(uuid.uuid4().int)[:10]
            signatures = [signature(secret, number, stamp, body) for secret in self.webhook_secrets]
            headers |= {"webhook-id": number, "webhook-timestamp": stamp, "webhook-signature": " ".join(signatures)}
        return Delivery(task.options.get("callback_url", ""), headers, body)

    def _callback_form(self, task: KlingTask, status: str) -> dict[str, Any]:
        new = task.new if self.callback_shape == "by path" else self.callback_shape == "new"
        if new:
            return self.new_form(task, status)
        form = self.legacy_form(task, status)
        return _envelope(form) if self.callback_shape == "enveloped" else form

    def deliveries(self) -> list[Delivery]:
        """The callbacks of every status change that happened since the last call."""
        made = []
        for task in self.tasks.values():
            now = self.status_of(task)
            passed = ["submitted", "processing", now][: {"submitted": 1, "processing": 2}.get(now, 3)]
            if "callback_url" in task.options:
                made += [self.delivery(task.id, status) for status in passed[task.announced :]]
            task.announced = len(passed)
        return made


def signature(secret: str, number: str, stamp: str, body: bytes) -> str:
    """One signature of a callback, in the form of Standard Webhooks."""
    key = b64decode(secret.removeprefix("whsec_"))
    message = f"{number}.{stamp}.".encode() + body
    return f"v1,{b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()}"


def _refuse(code: int, message: str | None = None) -> NoReturn:
    status, usual = ERRORS[code]
    raise Refusal(status, {"code": code, "message": message or usual, "request_id": str(uuid.uuid4())})


def _envelope(data: Any) -> dict[str, Any]:
    return {"code": 0, "message": "SUCCEED", "request_id": str(uuid.uuid4()), "data": data}


def _ok(data: Any) -> Response:
    return JSONResponse(_envelope(data))


def _lost(how: How) -> Response | None:
    code = {"500": 5000, "504": 5002}.get(how)
    if code is None:
        return lost_answer(how, "<html>Bad Gateway</html>")
    return JSONResponse({"code": code, "message": ERRORS[code][1], "request_id": str(uuid.uuid4())}, ERRORS[code][0])


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _unpadded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _jwt_problems(header: Any, claims: Any) -> list[str]:
    if not isinstance(header, dict) or not isinstance(claims, dict):
        return ["the JWT is not made of objects"]
    found = []
    if header != {"alg": "HS256", "typ": "JWT"}:
        found.append(f"the header of the JWT is {header}, not HS256 and JWT")
    found += [f"the JWT has no {name}" for name in ("iss", "exp", "nbf") if name not in claims]
    found += [f"the JWT has the claim {name}" for name in claims if name not in {"iss", "exp", "nbf", "iat"}]
    times = [name for name in ("exp", "nbf", "iat") if name in claims and type(claims[name]) is not int]
    return found + [f"{name} of the JWT is not a whole number" for name in times]


def _list_problems(body: Mapping[str, Any]) -> list[str]:
    kinds: dict[str, type] = {"start_time": int, "end_time": int, "cursor": str, "limit": int, "filters": list}
    found = [f"{name} is not a field" for name in body if name not in kinds]
    found += [
        f"{name} is not {kind.__name__}" for name, kind in kinds.items() if type(body.get(name, kind())) is not kind
    ]
    if found:
        return found
    if not 1 <= body.get("limit", 100) <= 500:
        found.append(f"limit is {body['limit']}, not 1 to 500")
    if body.get("start_time", 0) > body.get("end_time", math.inf):
        found.append("start_time is after end_time")
    allowed = {"status": _STATUSES, "product_type": _PRODUCT_TYPES}
    for one in body.get("filters", ()):
        if not isinstance(one, dict) or set(one) != {"key", "values"} or one["key"] not in list(allowed):
            found.append(f"the filter {one!r} has not a key of {list(allowed)} and values")
        elif not isinstance(one["values"], list) or any(value not in allowed[one["key"]] for value in one["values"]):
            found.append(f"the values of the filter {one!r} are not of {allowed[one['key']]}")
    return found


def _is_text_only(body: Mapping[str, Any]) -> bool:
    return all(item["type"] == "prompt" for item in body["contents"])


def _input(task: KlingTask) -> dict[str, Any]:
    ours = {"external_task_id", "callback_url"}
    if not task.new:
        return {name: value for name, value in task.body.items() if name not in ours}
    options = {name: value for name, value in task.options.items() if name not in ours}
    return task.body | {"options": options}

"""A strict fake of Replicate's predictions API, written from docs/providers/replicate.md alone: a judge of a client.

What the facts do not allow is recorded in `violations` and refused. Where sources disagree, or none tells, every shape
is accepted, and what the server answers can be chosen.
"""

import base64
import hashlib
import hmac
import json
import math
import re
import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kling_async.sandbox.rules.fields import problems_of
from kling_async.sandbox.rules.replicate import MODELS
from support.strict_checks import Delivery, Refusal, StrictServer, lost_answer

_DATA_URI_BYTES = 256 * 1024
_EVENTS = {"start", "output", "logs", "completed"}
_TOP = {"input", "webhook", "webhook_events_filter"}
_LIST_PARAMETERS = {"created_after", "created_before", "cursor", "source"}
_PAGE = 100
_REMOVED_AFTER = 3600
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class ReplicateOutcome:
    """How a prediction ends: succeeded, or failed with `error`."""

    error: str | None = None
    output: Any = None


@dataclass
class Prediction:
    """A prediction that the server accepted."""

    id: str
    model: str
    input: dict[str, Any]
    webhook: str | None
    events: frozenset[str]
    created: float
    starts: float
    ends: float
    outcome: ReplicateOutcome
    deadline: float | None = None
    stopped: str | None = None
    started: bool = True


@dataclass
class StrictReplicate(StrictServer):
    """Replicate's API and its delivery host as one ASGI app.

    The hosts are told apart by address. To serve both at one socket use `StrictReplicate.at(address)`.

    Attributes:
        queued_seconds: How long a prediction is `starting`.
        running_seconds: How long it is `processing`.
        removed_after: Seconds from the end until input, output, logs and files are removed.
        early_cancel_status: The status after a cancel before the start, `canceled` or `aborted`. No source tells.
        waiting_code: The code of an answer to `Prefer: wait` that is not final, 201 or 202. No source tells.
        secret_field: The field of the secret's answer. No source tells.
        delivery_wants_key: Output files answer 401 without the key, as the OpenAPI document says and nobody sees.
        outcomes: How the next accepted predictions end, in order.
    """

    api: str = "https://api.replicate.com/v1"
    files_at: str = "https://replicate.delivery"
    queued_seconds: float = 0.05
    running_seconds: float = 0.05
    removed_after: float = _REMOVED_AFTER
    early_cancel_status: str = "canceled"
    waiting_code: int = 201
    secret_field: str = "key"
    delivery_wants_key: bool = False
    outcomes: deque[ReplicateOutcome] = field(default_factory=deque)
    predictions: dict[str, Prediction] = field(default_factory=dict)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    secret: str = "whsec_" + base64.b64encode(b"made-up secret of a strict server").decode()

    @classmethod
    def at(cls, address: str) -> "StrictReplicate":
        """Both hosts below one address."""
        return cls(api=f"{address}/v1", files_at=f"{address}/delivery")

    @property
    def bought(self) -> int:
        """How many predictions were accepted, whether the client saw the answer or not."""
        return len(self.predictions)

    @property
    def billed(self) -> int:
        """How many of them cost something: those that were stopped before they started cost nothing."""
        return sum(1 for prediction in self.predictions.values() if self._settle(prediction).started)

    async def answer(self, request: Request) -> Response | None:
        address = f"{request.headers.get('host', '')}{request.url.path}"
        files, api = (urlsplit(base) for base in (self.files_at, self.api))
        if address.startswith(f"{files.netloc}{files.path}/"):
            return self._deliver_file(request, request.url.path.removeprefix(files.path))
        if not address.startswith(f"{api.netloc}{api.path}/"):
            self.violate(f"{request.method} {request.url} is at no host of Replicate")
            raise _problem(404, "Not found", "The requested resource could not be found.")
        self._authorize(request)
        path = request.url.path.removeprefix(api.path)
        create = re.fullmatch(r"/models/([^/]+/[^/]+)/predictions", path)
        if request.method == "POST" and (path == "/predictions" or create):
            return await self._create(request, create.group(1) if create else None)
        return await self._other(request, path)

    async def _other(self, request: Request, path: str) -> Response:
        one = re.fullmatch(r"/predictions/([^/]+)(/cancel)?", path)
        a_file = re.fullmatch(r"/files/([^/]+)", path)
        if one and request.method == ("POST" if one.group(2) else "GET"):
            return self._one(request, one.group(1), cancel=bool(one.group(2)))
        if path == "/predictions" and request.method == "GET":
            return self._list(request)
        if path == "/webhooks/default/secret" and request.method == "GET":
            self._count("secret")
            return JSONResponse({self.secret_field: self.secret})
        if path == "/files" and request.method == "POST":
            return await self._upload(request)
        if a_file and request.method in {"GET", "DELETE"}:
            return self._file(request, a_file.group(1))
        self.violate(f"{request.method} {path} is not a call of the API that a client needs")
        raise _problem(404, "Not found", "The requested resource could not be found.")

    def _authorize(self, request: Request) -> None:
        given = request.headers.get("authorization")
        if given == f"Bearer {self.key}":
            return
        if given is None:
            self.violate(f"{request.method} {request.url.path} has no Authorization header")
        elif not given.startswith("Bearer "):
            self.violate(f"Authorization has the form {given.split(' ')[0]!r}; Replicate wants `Bearer <token>`")
        raise _problem(401, "Unauthenticated", "You did not pass a valid authentication token")

    def _count(self, kind: str) -> None:
        self.requests[kind] += 1
        if (after := self.throttled(kind)) is not None:
            raise _problem(429, "Too many requests", "Request was throttled.", {"retry-after": after})

    def _refuse_as_invalid(self, problems: list[str]) -> None:
        for problem in problems:
            self.violate(problem)
        raise _problem(422, "Input validation failed", "; ".join(problems))

    # Create -----------------------------------------------------------------------------------------------------

    async def _create(self, request: Request, named: str | None) -> Response | None:
        self._count("submit")
        body = await self._json(request)
        model = self._model(body, named)
        self._check(request, body, model)
        loss = self.next_loss()
        if loss is not None and not loss[0]:
            return lost_answer(loss[1], "<html>Bad Gateway</html>")
        prediction = self._accept(model, body, request.headers.get("cancel-after"))
        if loss is not None:
            return lost_answer(loss[1], "<html>Bad Gateway</html>")
        wait = _wait(request.headers.get("prefer"))
        while wait > 0 and self._status(prediction) in {"starting", "processing"}:
            await anyio.sleep(0.01)
            wait -= 0.01
        final = self._status(prediction) not in {"starting", "processing"}
        waited_in_vain = "prefer" in request.headers and not final
        return JSONResponse(self.shown(prediction), self.waiting_code if waited_in_vain else 201)

    async def _json(self, request: Request) -> dict[str, Any]:
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            self._refuse_as_invalid(["Content-Type of a submit is not application/json"])
        try:
            body = json.loads(await request.body())
        except ValueError:
            body = None
        if not isinstance(body, dict) or not isinstance(body.get("input"), dict):
            self._refuse_as_invalid(["the body of a submit is not a JSON object with an object `input`"])
        return dict(body)

    def _model(self, body: Mapping[str, Any], named: str | None) -> str:
        model = named if named is not None else body.get("version")
        if not isinstance(model, str) or model not in MODELS:
            self.violate(f"{model!r} is no Kling model; version has the form owner/name")
            raise _problem(404 if named else 422, "Not found", "The requested model could not be found.")
        return model

    def _check(self, request: Request, body: Mapping[str, Any], model: str) -> None:
        known = MODELS[model]
        top = _TOP if "/models/" in request.url.path else _TOP | {"version"}
        found = [f"{name} is not a top-level key of this call" for name in body if name not in top]
        found += [f"the query parameter {name} is not one of a submit" for name in request.query_params]
        found += _webhook_problems(body) + _header_problems(request.headers)
        found += [f"input.{name} is a data URI of more than 256 kB" for name in _large(body["input"])]
        if known.fields is None:
            self.unchecked.append(model)
        else:
            found += [f"{model}: {problem}" for problem in problems_of(body["input"], known.fields, known.rules)]
        if found:
            self._refuse_as_invalid(found)
        for name, known_field in (known.fields or {}).items():
            if known_field.money and name not in body["input"]:
                self.left_to_default.append(f"{model}: {name}")

    def _accept(self, model: str, body: Mapping[str, Any], cancel_after: str | None) -> Prediction:
        starts = self.now + self.queued_seconds
        prediction = Prediction(
            uuid.uuid4().hex[:26],
            model,
            dict(body["input"]),
            body.get("webhook"),
            frozenset(body.get("webhook_events_filter", _EVENTS)),
            self.now,
            starts,
            starts + self.running_seconds,
            self.outcomes.popleft() if self.outcomes else ReplicateOutcome(),
            None if cancel_after is None else self.now + _duration(cancel_after),
        )
        others = self.predictions.values()
        if any(other.model == model and other.input == prediction.input for other in others):
            self.duplicates.append(prediction.id)
        self.predictions[prediction.id] = prediction
        return prediction

    # Read, cancel, list -------------------------------------------------------------------------------------------

    def _settle(self, prediction: Prediction) -> Prediction:
        """Apply the deadline of `Cancel-After`, once it has passed."""
        deadline = prediction.deadline
        if deadline is not None and prediction.stopped is None and deadline <= self.now and deadline < prediction.ends:
            prediction.started = deadline >= prediction.starts
            prediction.stopped = "canceled" if prediction.started else "aborted"
            prediction.ends = deadline
        return prediction

    def _status(self, prediction: Prediction) -> str:
        self._settle(prediction)
        if prediction.stopped is not None:
            return prediction.stopped
        if self.now < prediction.starts:
            return "starting"
        if self.now < prediction.ends:
            return "processing"
        return "succeeded" if prediction.outcome.error is None else "failed"

    def shown(self, prediction: Prediction) -> dict[str, Any]:
        """A prediction as the API shows it now."""
        status, address = self._status(prediction), f"{self.api}/predictions/{prediction.id}"
        done = status not in {"starting", "processing"}
        removed = done and self.now > prediction.ends + self.removed_after
        output = None
        if status == "succeeded" and not removed:
            output = prediction.outcome.output or f"{self.files_at}/{prediction.id}/output.mp4"
        started = prediction.started and status != "starting"
        shown: dict[str, Any] = {
            "id": prediction.id,
            "model": prediction.model,
            "version": "hidden",
            "input": {} if removed else prediction.input,
            "output": output,
            "logs": "Generating\n" if started and not removed else "",
            "error": prediction.outcome.error if status == "failed" else None,
            "status": status,
            "created_at": _iso(prediction.created),
            "started_at": _iso(prediction.starts) if started else None,
            "completed_at": _iso(prediction.ends) if done else None,
            "data_removed": removed,
            "source": "api",
            "urls": {
                "get": address,
                "cancel": f"{address}/cancel",
                "web": f"https://replicate.com/p/{prediction.id}",
            },
            "metrics": {},
        }
        if prediction.deadline is not None:
            shown["deadline"] = _iso(prediction.deadline)
        if done:
            shown["metrics"] = {"total_time": prediction.ends - prediction.created}
            if started:
                shown["metrics"]["predict_time"] = prediction.ends - prediction.starts
        return shown

    def _one(self, request: Request, prediction_id: str, *, cancel: bool) -> Response:
        self._count("cancel" if cancel else "status")
        for name in request.query_params:
            self.violate(f"the query parameter {name} is not one of a read or a cancel")
        prediction = self.predictions.get(prediction_id)
        if prediction is None:
            raise _problem(404, "Not found", "The requested resource could not be found.")
        status = self._status(prediction)
        if cancel and status in {"starting", "processing"}:
            prediction.started = status == "processing"
            prediction.stopped = "canceled" if prediction.started else self.early_cancel_status
            prediction.ends = self.now
        return JSONResponse(self.shown(prediction))

    def _list(self, request: Request) -> Response:
        self._count("list")
        query = request.query_params
        problems = [f"{name} is not a parameter of the list" for name in query if name not in _LIST_PARAMETERS]
        times = {name: _seconds_of(query.get(name)) for name in ("created_after", "created_before")}
        problems += [f"{name}={query[name]} is not a time" for name, at in times.items() if at is None]
        if query.get("source", "web") != "web":
            problems.append(f"source={query['source']} is not web")
        if problems:
            self._refuse_as_invalid(problems)
        after, before = times["created_after"] or 0.0, times["created_before"] or math.inf
        found = [one for one in reversed(self.predictions.values()) if after <= one.created <= before]
        if "source" in query:  # everything here was made with the API
            found = []
        begin = int(query.get("cursor", "0"))
        return JSONResponse(
            {
                "previous": self._page(query, begin - _PAGE) if begin else None,
                "next": self._page(query, begin + _PAGE) if begin + _PAGE < len(found) else None,
                "results": [self.shown(one) for one in found[begin : begin + _PAGE]],
            }
        )

    def _page(self, query: Mapping[str, str], begin: int) -> str:
        return f"{self.api}/predictions?{urlencode(dict(query) | {'cursor': str(max(begin, 0))})}"

    # Files ------------------------------------------------------------------------------------------------------

    async def _upload(self, request: Request) -> Response:
        self._count("upload")
        kind = request.headers.get("content-type", "")
        boundary = re.search(r'boundary="?([^";]+)', kind)
        parts = (await request.body()).split(b"--" + boundary.group(1).encode()) if boundary else []
        content = next((part for part in parts if b'name="content"' in part.partition(b"\r\n\r\n")[0]), None)
        if not kind.startswith("multipart/form-data") or content is None:
            self._refuse_as_invalid(["POST /files wants multipart/form-data with a part `content`"])
        head, _, data = (content or b"").partition(b"\r\n\r\n")
        data = data.removesuffix(b"\r\n")
        media = re.search(rb"(?i)content-type: ([^\r\n]+)", head)
        name = re.search(rb'filename="([^"]*)"', head)
        file_id = uuid.uuid4().hex
        shown = {
            "id": file_id,
            "name": name.group(1).decode() if name else "file",
            "content_type": media.group(1).decode() if media else "application/octet-stream",
            "size": len(data),
            "checksums": {"sha256": hashlib.sha256(data).hexdigest()},
            "metadata": {},
            "created_at": _iso(self.now),
            "expires_at": _iso(self.now + 86400),
            "urls": {"get": f"{self.api}/files/{file_id}"},
        }
        self.uploads[file_id] = shown
        return JSONResponse(shown, 201)

    def _file(self, request: Request, file_id: str) -> Response:
        self._count("file")
        shown = self.uploads.get(file_id)
        if shown is None:
            raise _problem(404, "Not found", "The requested resource could not be found.")
        if request.method == "DELETE":
            del self.uploads[file_id]
            return Response(status_code=204)
        return JSONResponse(shown)

    def _deliver_file(self, request: Request, path: str) -> Response:
        self.requests["media"] += 1
        if any(self.key in value for value in (*request.headers.values(), str(request.url))):
            if not self.delivery_wants_key:
                self.violate(f"{request.method} {path}: the token was sent to the delivery host")
        elif self.delivery_wants_key:
            raise _problem(401, "Unauthenticated", "You did not pass an authentication token")
        if request.method not in {"GET", "HEAD"}:
            self.violate(f"{request.method} {path} is not a call of the delivery host")
            raise _problem(405, "Method not allowed", "Method not allowed")
        prediction = self.predictions.get(path.strip("/").split("/")[0])
        if prediction is None or self.shown(prediction)["output"] is None:
            raise _problem(404, "Not found", "The file was removed or never existed.")
        return Response(b"\x00\x00\x00\x18ftypmp42", media_type="video/mp4")

    # Webhooks ---------------------------------------------------------------------------------------------------

    def delivery(self, prediction_id: str, *, at: float | None = None) -> Delivery:
        """The signed webhook of a prediction as it is now. Defaults to being signed now, by the server's clock."""
        prediction = self.predictions[prediction_id]
        body = json.dumps(self.shown(prediction)).encode()
        message_id, stamp = f"msg_{uuid.uuid4().hex}", str(int(self.now if at is None else at))
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        digest = hmac.new(key, f"{message_id}.{stamp}.".encode() + body, hashlib.sha256).digest()
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        }
        return Delivery(prediction.webhook or "", headers, body)

    def deliveries(self) -> list[Delivery]:
        """The webhooks of the present state of every prediction whose submit asked for it."""
        event = {"starting": "start", "processing": "logs"}
        return [
            self.delivery(one.id)
            for one in self.predictions.values()
            if one.webhook and event.get(self._status(one), "completed") in one.events
        ]


def _problem(status: int, title: str, detail: str, headers: Mapping[str, str] | None = None) -> Refusal:
    body = {"title": title, "detail": detail, "status": status, "type": "about:blank"}
    refusal = Refusal(status, body, headers)
    refusal.response.headers["content-type"] = "application/problem+json"
    return refusal


def _webhook_problems(body: Mapping[str, Any]) -> list[str]:
    found = []
    webhook = body.get("webhook")
    if "webhook" in body and not (isinstance(webhook, str) and urlsplit(webhook).scheme in {"http", "https"}):
        found.append("webhook is not a URL")
    events = body.get("webhook_events_filter", [])
    if not isinstance(events, list) or not set(map(str, events)) <= _EVENTS:
        found.append(f"webhook_events_filter is {events!r}; its items are {sorted(_EVENTS)}")
    return found


def _header_problems(headers: Mapping[str, str]) -> list[str]:
    found = []
    prefer, cancel_after = headers.get("prefer"), headers.get("cancel-after")
    if prefer is not None and _wait(prefer) == 0:
        found.append(f"Prefer is {prefer!r}, not wait or wait=1 to wait=60")
    if cancel_after is not None and _duration(cancel_after) == 0:
        found.append(f"Cancel-After is {cancel_after!r}, not a duration such as 1m")
    return found


def _wait(prefer: str | None) -> float:
    match = re.fullmatch(r"wait(?:=(\d+))?", prefer or "")
    if match is None:
        return 0
    seconds = int(match.group(1) or 60)
    return seconds if 1 <= seconds <= 60 else 0


def _duration(text: str) -> float:
    """The seconds of `30`, `90s`, `1m`, `1h30m`. No source tells the whole grammar. 0: not a duration."""
    if not re.fullmatch(r"(\d+[smh])+|\d+", text):
        return 0
    return float(sum(int(number) * _UNIT_SECONDS[unit] for number, unit in re.findall(r"(\d+)([smh]?)", text)))


def _large(given: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in given.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and text.startswith("data:"):
                head, _, data = text.partition(",")
                size = len(data) * 3 // 4 - data[-2:].count("=") if head.endswith(";base64") else len(data)
                if size > _DATA_URI_BYTES:
                    found.append(name)
    return found


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _seconds_of(text: str | None) -> float | None:
    """Unix seconds of a time, 0 if it is absent, None if it is no time."""
    try:
        return 0.0 if text is None else datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None

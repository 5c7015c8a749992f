"""A strict fake of fal's queue API, written from docs/providers/fal.md alone: a judge of a client.

What the facts do not allow is recorded in `violations` and refused. Where sources disagree, or none tells, every shape
is accepted, and what the server answers can be chosen.
"""

import hashlib
import json
import math
import uuid
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import anyio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from kling_async.sandbox.rules.fields import problems_of
from support.strict_checks import Delivery, Refusal, StrictServer, lost_answer
from support.strict_fal_models import model_of

_HEADERS = {
    "x-fal-request-start-timeout",
    "x-fal-queue-priority",
    "x-fal-runner-hint",
    "x-fal-no-retry",
    "x-fal-retry-config",
    "x-fal-store-io",
    "x-fal-object-lifecycle-preference",
    "x-fal-disable-fallbacks",
}
_LIST_PARAMETERS = {"endpoint_id", "start", "end", "status", "request_id", "expand", "limit", "cursor"}
_LARGE_BODY = 10_000
_PAGE = 100


@dataclass(frozen=True)
class FalOutcome:
    """How a job ends. With `error`, it is COMPLETED with an error inside and the result answers `code`.

    Attributes:
        payload_error: If given, the webhook has no payload but this sentence.
    """

    error: str | None = None
    error_type: str | None = None
    code: int = 200
    detail: Any = None
    output: Mapping[str, Any] | None = None
    payload_error: str | None = None


@dataclass
class FalJob:
    """A job that the server accepted."""

    id: str
    model: str
    input: dict[str, Any]
    webhook: str | None
    created: float
    starts: float
    ends: float
    outcome: FalOutcome
    cancelled: bool = False
    gateway_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def app(self) -> str:
        return "/".join(self.model.split("/")[:2])


@dataclass
class StrictFal(StrictServer):
    """fal's queue, platform listing, storage, media host and JWKS as one ASGI app.

    The hosts are told apart by address. To serve all of them at one socket use `StrictFal.at(address)`.

    Attributes:
        queued_seconds: How long a job waits.
        running_seconds: How long a job runs.
        result_seconds: How long a result can be read. If None, an hour, or 6 minutes from 10 KB on.
        cancel_answers_ok: The cancel answer says OK instead of CANCELLATION_REQUESTED. No source tells when it does.
        gone_after_cancel: A cancelled job is not found. If False, it is COMPLETED with an error. No source tells.
        queue_length: What `fal_max_queue_length` is compared with.
        outcomes: How the next accepted jobs end, in order.
    """

    queue: str = "https://queue.fal.run"
    rest: str = "https://rest.fal.ai"
    platform: str = "https://api.fal.ai/v1"
    media: str = "https://v3.fal.media"
    queued_seconds: float = 0.05
    running_seconds: float = 0.05
    result_seconds: float | None = None
    cancel_answers_ok: bool = False
    gone_after_cancel: bool = False
    queue_length: int = 0
    early_result_code: int = 400
    outcomes: deque[FalOutcome] = field(default_factory=deque)
    jobs: dict[str, FalJob] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    _private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    _tickets: dict[str, str] = field(default_factory=dict)

    @classmethod
    def at(cls, address: str) -> "StrictFal":
        """All hosts of fal below one address."""
        return cls(
            queue=f"{address}/queue",
            rest=f"{address}/rest",
            platform=f"{address}/platform/v1",
            media=f"{address}/media",
        )

    @property
    def bought(self) -> int:
        """How many jobs were accepted, whether the client saw the answer or not."""
        return len(self.jobs)

    async def answer(self, request: Request) -> Response | None:
        room, path = self._place(request)
        if room == "media":
            return await self._media(request, path)
        if room == "rest" and path == "/.well-known/jwks.json":
            self.requests["jwks"] += 1
            return JSONResponse({"keys": [self.jwk()]})
        if room is None:
            self.violate(f"{request.method} {request.url}: no host of fal that a client of the queue may use")
            raise Refusal(404, {"detail": "Not found"})
        self._authorize(request)
        if room == "platform":
            return self._list(request, path)
        if room == "rest":
            return await self._initiate(request, path)
        return await self._queue(request, path)

    def _place(self, request: Request) -> tuple[str | None, str]:
        address = f"{request.headers.get('host', '')}{request.url.path}"
        for name in ("media", "rest", "platform", "queue"):
            parts = urlsplit(getattr(self, name))
            base = parts.netloc + parts.path
            if address == base or address.startswith(base + "/"):
                return name, address.removeprefix(base)
        if request.headers.get("host") == "queue.falrun.com":  # the backup of the queue
            return "queue", request.url.path
        return None, request.url.path

    def _authorize(self, request: Request) -> None:
        given = request.headers.get("authorization")
        if given == f"Key {self.key}":
            return
        if given is None:
            self.violate(f"{request.method} {request.url.path} has no Authorization header")
        elif not given.startswith("Key "):
            self.violate(f"Authorization has the form {given.split(' ')[0]!r}; fal wants `Key <key>`")
        raise Refusal(401, {"detail": "Authentication is required to access this application."})

    def _throttle_or_go_on(self, kind: str) -> None:
        self.requests[kind] += 1
        if (after := self.throttled(kind)) is not None:
            raise Refusal(429, {"detail": "Too many requests"}, {"Retry-After": after})

    # Submit -----------------------------------------------------------------------------------------------------

    async def _queue(self, request: Request, path: str) -> Response | None:
        parts = path.strip("/").split("/")
        if "requests" in parts:
            return self._one(request, parts)
        if request.method != "POST":
            self.violate(f"{request.method} {path}: a submit is a POST")
            raise Refusal(405, {"detail": "Method Not Allowed"})
        self._throttle_or_go_on("submit")
        body = await self._body(request, "/".join(parts))
        problems = self._header_problems(request.headers) + self._query_problems(request)
        if problems:
            self._refuse_as_invalid(problems)
        most = request.query_params.get("fal_max_queue_length")
        if most is not None and self.queue_length > int(most):
            raise Refusal(429, {"detail": "The queue is longer than fal_max_queue_length"})
        loss = self.next_loss()
        if loss is not None and not loss[0]:
            return lost_answer(loss[1], "<html>Bad Gateway</html>")
        job = self._accept("/".join(parts), body, request)
        return self._accepted(job) if loss is None else lost_answer(loss[1], "<html>Bad Gateway</html>")

    async def _body(self, request: Request, model_id: str) -> dict[str, Any]:
        model = model_of(model_id)
        if model is None:
            self.violate(f"POST /{model_id}: no Kling model has this id; a submit takes the full model id")
            raise Refusal(404, {"detail": f"Application {model_id!r} not found"})
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            self._refuse_as_invalid(["Content-Type of a submit is not application/json"])
        try:
            body = json.loads(await request.body())
        except ValueError:
            body = None
        if not isinstance(body, dict):
            self._refuse_as_invalid(["the body of a submit is not a JSON object"])
        if model.fields is None:
            self.unchecked.append(model_id)
            return dict(body)
        problems = problems_of(body, model.fields, model.rules)
        if problems:
            self._refuse_as_invalid([f"{model_id}: {problem}" for problem in problems])
        priced = {name for name, known in model.fields.items() if known.money}
        if body.get("result_type") == "series":  # num_images is ignored for a series
            priced = priced - {"num_images"} | {"series_amount"}
        if all("duration" in shot for shot in body.get("multi_prompt", [{}])):  # the shots tell the duration
            priced -= {"duration"}
        self.left_to_default += [f"{model_id}: {name}" for name in model.fields if name in priced - set(body)]
        return dict(body)

    def _refuse_as_invalid(self, problems: list[str]) -> None:
        for problem in problems:
            self.violate(problem)
        raise Refusal(
            422,
            {"detail": [{"loc": ["body"], "msg": problem, "type": "value_error"} for problem in problems]},
            {"x-fal-error-type": "validation_error"},
        )

    def _header_problems(self, headers: Mapping[str, str]) -> list[str]:
        found = []
        if "x-fal-request-timeout" in headers:
            found.append("X-Fal-Request-Timeout is deprecated; X-Fal-Request-Start-Timeout replaces it")
        for name, value in headers.items():
            if name.startswith("x-fal-") and name != "x-fal-request-timeout":
                found += _problem_of_header(name, value)
        return found

    def _query_problems(self, request: Request) -> list[str]:
        found = [
            f"the query parameter {name} is not one of a submit"
            for name in request.query_params
            if name not in {"fal_webhook", "fal_max_queue_length"}
        ]
        webhook = request.query_params.get("fal_webhook")
        if webhook is not None and urlsplit(webhook).scheme not in {"http", "https"}:
            found.append("fal_webhook is not a URL")
        if not request.query_params.get("fal_max_queue_length", "0").isdigit():
            found.append("fal_max_queue_length is not a number")
        return found

    def _accept(self, model: str, body: dict[str, Any], request: Request) -> FalJob:
        outcome = self.outcomes.popleft() if self.outcomes else FalOutcome()
        starts = self.now + self.queued_seconds
        ends = starts + self.running_seconds
        limit = float(request.headers.get("x-fal-request-start-timeout", math.inf))
        if limit < self.queued_seconds:
            starts = ends = self.now + limit
            # No source tells the error_type of an expired start timeout.
            outcome = FalOutcome("Request timed out before it started", "request_timeout", 504, "Request timed out")
        job = FalJob(
            str(uuid.uuid4()),
            model,
            body,
            request.query_params.get("fal_webhook"),
            self.now,
            starts,
            ends,
            outcome,
        )
        if any(other.model == model and other.input == body for other in self.jobs.values()):
            self.duplicates.append(job.id)
        self.jobs[job.id] = job
        return job

    def _address(self, job: FalJob) -> str:
        return f"{self.queue}/{job.app}/requests/{job.id}"

    def _accepted(self, job: FalJob) -> Response:
        address = self._address(job)
        body = {
            "status": "IN_QUEUE",
            "request_id": job.id,
            "response_url": address,
            "status_url": f"{address}/status",
            "cancel_url": f"{address}/cancel",
            "queue_position": self.queue_length,
        }
        return JSONResponse(body, headers={"x-fal-request-id": job.id})

    # Status, stream, result, cancel -------------------------------------------------------------------------------

    def _one(self, request: Request, parts: list[str]) -> Response:
        at = parts.index("requests")
        app, job_id, rest = "/".join(parts[:at]), "".join(parts[at + 1 : at + 2]), "/".join(parts[at + 2 :])
        wanted = {
            "status": ("GET", "status"),
            "status/stream": ("GET", "stream"),
            "": ("GET", "result"),
            "cancel": ("PUT", "cancel"),
        }.get(rest)
        if wanted is None or request.method != wanted[0]:
            self.violate(f"{request.method} /{'/'.join(parts)} is not a call of the queue API")
            raise Refusal(405 if wanted else 404, {"detail": "Method Not Allowed" if wanted else "Not found"})
        self._throttle_or_go_on(wanted[1])
        allowed = {"logs"} if wanted[1] in {"status", "stream"} else set()
        for name, value in request.query_params.items():
            if name not in allowed or value not in {"0", "1"}:
                self.violate(f"the query {name}={value} is not one of a {wanted[1]} call")
        job = self.jobs.get(job_id)
        if at != 2 or (job is not None and job.app != app):
            self.violate(f"/{'/'.join(parts)}: status, result and cancel use owner/app, as in the returned URLs")
            job = None
        if job is None or (job.cancelled and self.gone_after_cancel):
            raise Refusal(404, {"detail": "Request not found", "status": "NOT_FOUND"})
        logs = request.query_params.get("logs") == "1"
        match wanted[1]:
            case "status":
                body = self.status_of(job, logs=logs)
                return JSONResponse(body, 200 if body["status"] == "COMPLETED" else 202)
            case "stream":
                return self._stream(job, logs=logs)
            case "result":
                return self._result(job)
            case _:
                return self._cancel(job)

    def status_of(self, job: FalJob, *, logs: bool = False) -> dict[str, Any]:
        """The body of a status answer."""
        body = {
            "request_id": job.id,
            "response_url": self._address(job),
            "status_url": f"{self._address(job)}/status",
            "cancel_url": f"{self._address(job)}/cancel",
        }
        if self.now < job.starts:
            ahead = sum(1 for other in self.jobs.values() if other.created < job.created and self.now < other.starts)
            return body | {"status": "IN_QUEUE", "queue_position": self.queue_length + ahead}
        lines = [{"message": "Generating", "level": "INFO", "source": "USER", "timestamp": _iso(job.starts)}]
        reported: dict[str, Any] = {"logs": lines if logs else None}
        if self.now < job.ends:
            return body | reported | {"status": "IN_PROGRESS"}
        reported |= {"status": "COMPLETED", "metrics": {"inference_time": job.ends - job.starts}}
        if job.outcome.error is not None:
            reported["error"] = job.outcome.error
            if job.outcome.error_type is not None:
                reported["error_type"] = job.outcome.error_type
        return body | reported

    def _stream(self, job: FalJob, *, logs: bool) -> Response:
        async def lines() -> Any:
            last = None
            while last != "COMPLETED":
                body = self.status_of(job, logs=logs)
                if body["status"] != last:
                    yield f"data: {json.dumps(body)}\n\n"
                last = body["status"]
                if last != "COMPLETED":
                    await anyio.sleep(0.01)

        return StreamingResponse(lines(), media_type="text/event-stream")

    def output_of(self, job: FalJob) -> dict[str, Any]:
        """The output of a job that succeeded."""
        if job.outcome.output is not None:
            return dict(job.outcome.output)
        if "image" in job.model.split("/")[1] or "try-on" in job.model:
            series = job.input.get("result_type") == "series"
            count = job.input.get("series_amount", 4) if series else job.input.get("num_images", 1)
            suffix = job.input.get("output_format", "png")
            return {
                "images": [
                    {"url": f"{self.media}/files/{job.id}-{number}.{suffix}", "content_type": f"image/{suffix}"}
                    for number in range(4 if count == "auto" else count)
                ]
            }
        video = {"content_type": "video/mp4", "file_name": "output.mp4", "file_size": 24}
        return {"video": {"url": f"{self.media}/files/{job.id}.mp4"} | video}

    def _result(self, job: FalJob) -> Response:
        if self.now < job.ends:  # no source tells this code
            raise Refusal(self.early_result_code, {"detail": "Request is still in progress"})
        headers = {"x-fal-request-id": job.id}
        if job.outcome.error is not None:
            if job.outcome.error_type is not None:
                headers["x-fal-error-type"] = job.outcome.error_type
            if job.outcome.error_type == "request_timeout":
                headers["X-Fal-Request-Timeout-Type"] = "user"
            code = job.outcome.code if job.outcome.code != 200 else 500
            body: dict[str, Any] = {"detail": job.outcome.detail or job.outcome.error}
            if job.outcome.error_type is not None:
                body["error_type"] = job.outcome.error_type
            return JSONResponse(body, code, headers)
        output = self.output_of(job)
        life = self.result_seconds
        if life is None:
            life = 360 if len(json.dumps(output)) >= _LARGE_BODY else 3600
        if self.now > job.ends + life:  # no source tells this code
            raise Refusal(404, {"detail": "The result is no longer stored"})
        return JSONResponse(output, headers=headers)

    def _cancel(self, job: FalJob) -> Response:
        if self.now >= job.ends:
            return JSONResponse({"status": "ALREADY_COMPLETED"}, 400)
        job.cancelled = True
        job.starts, job.ends = min(job.starts, self.now), self.now
        job.outcome = FalOutcome("Request was cancelled", "request_cancelled", 499)
        if self.cancel_answers_ok:
            return JSONResponse({"status": "OK"})
        return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202)

    # Platform ---------------------------------------------------------------------------------------------------

    def _list(self, request: Request, path: str) -> Response:
        if request.method != "GET" or path != "/models/requests/by-endpoint":
            self.violate(f"{request.method} {path} is not a call of the platform API that a client needs")
            raise Refusal(404, {"detail": "Not found"})
        self._throttle_or_go_on("list")
        query = request.query_params
        endpoints = [name for text in query.getlist("endpoint_id") for name in text.split(",") if name]
        limit = query.get("limit", str(_PAGE))
        problems = [f"{name} is not a parameter of the list" for name in query if name not in _LIST_PARAMETERS]
        if not 1 <= len(endpoints) <= 50:
            problems.append(f"the list wants 1 to 50 endpoint_id, not {len(endpoints)}")
        problems += [f"endpoint_id {name} is no Kling model" for name in endpoints if model_of(name) is None]
        if query.get("status", "success") not in {"success", "error", "user_error"}:
            problems.append(f"status={query['status']} is not success, error or user_error")
        if query.get("expand", "payloads") != "payloads":
            problems.append(f"expand={query['expand']} is not payloads")
        if not (limit.isdigit() and 1 <= int(limit) <= _PAGE):
            problems.append(f"limit={limit} is not 1 to {_PAGE}")
        problems += [f"{name}={query[name]} is not a time" for name in ("start", "end") if not _time(query.get(name))]
        if problems:
            self._refuse_as_invalid(problems)
        found = self._finished(query, endpoints)
        begin = int(query.get("cursor", "0"))
        page = found[begin : begin + int(limit)]
        more = begin + int(limit) < len(found)
        items = [self._item(job, payloads="expand" in query) for job in page]
        # The items are named. The envelope around them is not.
        return JSONResponse(
            {"items": items, "next_cursor": str(begin + int(limit)) if more else None, "has_more": more}
        )

    def _finished(self, query: Mapping[str, str], endpoints: list[str]) -> list[FalJob]:
        start = _seconds_of(query["start"]) if "start" in query else self.now - 86400
        end = _seconds_of(query["end"]) if "end" in query else self.now
        return sorted(
            (
                job
                for job in self.jobs.values()
                if job.ends <= self.now
                and start <= job.ends <= end + 1
                and job.model in endpoints
                and query.get("request_id", job.id) == job.id
                and query.get("status", _kind(job)) == _kind(job)
            ),
            key=lambda job: job.ends,
            reverse=True,
        )

    def _item(self, job: FalJob, *, payloads: bool) -> dict[str, Any]:
        failed = job.outcome.error is not None
        item: dict[str, Any] = {
            "request_id": job.id,
            "endpoint_id": job.model,
            "sent_at": _iso(job.created),
            "started_at": _iso(job.starts),
            "ended_at": _iso(job.ends),
            "status_code": job.outcome.code if failed else 200,
            "duration": job.ends - job.starts,
        }
        if payloads:
            item["json_input"] = job.input
            item["json_output"] = {"detail": job.outcome.error} if failed else self.output_of(job)
        return item

    # Storage and media --------------------------------------------------------------------------------------------

    async def _initiate(self, request: Request, path: str) -> Response:
        if request.method != "POST" or path != "/storage/upload/initiate":
            self.violate(f"{request.method} {path} is not a call of the storage API")
            raise Refusal(404, {"detail": "Not found"})
        self._throttle_or_go_on("upload")
        try:
            body = json.loads(await request.body())
        except ValueError:
            body = {}
        if not isinstance(body, dict) or not isinstance(body.get("content_type"), str):
            self._refuse_as_invalid(["storage initiate wants a JSON object with content_type and file_name"])
        name = f"{uuid.uuid4().hex}-{body.get('file_name', 'file')}"
        self._tickets[name] = body["content_type"]
        # No source tells this envelope.
        return JSONResponse({"upload_url": f"{self.media}/put/{name}", "file_url": f"{self.media}/files/{name}"})

    async def _media(self, request: Request, path: str) -> Response:
        self.requests["put" if request.method == "PUT" else "media"] += 1
        if "authorization" in request.headers:
            self.violate(f"{request.method} {path}: the key was sent to the media host")
        if any(self.key in value for value in (*request.headers.values(), str(request.url))):
            self.violate("the key stands in a header or the address of a call to the media host")
        name = path.rsplit("/", 1)[-1]
        if request.method == "PUT" and path.startswith("/put/"):
            return await self._put(request, name)
        if request.method not in {"GET", "HEAD"}:
            self.violate(f"{request.method} {path} is not a call of the media host")
            raise Refusal(405, {"detail": "Method Not Allowed"})
        made = any(name.startswith(job_id) for job_id in self.jobs)
        if name not in self.uploads and not made:
            raise Refusal(404, {"detail": "Not found"})
        return Response(self.uploads.get(name, b"\x00\x00\x00\x18ftypmp42"), media_type="application/octet-stream")

    async def _put(self, request: Request, name: str) -> Response:
        if name not in self._tickets:
            self.violate(f"PUT of {name}, for which no upload was initiated")
            raise Refusal(403, {"detail": "Forbidden"})
        if request.headers.get("content-type") != self._tickets[name]:
            self.violate("PUT has another Content-Type than the initiated upload")
        self.uploads[name] = await request.body()
        return Response(status_code=200)

    # Webhooks ---------------------------------------------------------------------------------------------------

    def jwk(self) -> dict[str, str]:
        """The public key that signs webhooks."""
        raw = self._private.public_key().public_bytes_raw()
        return {"kty": "OKP", "crv": "Ed25519", "x": urlsafe_b64encode(raw).decode().rstrip("=")}

    def delivery(self, request_id: str, *, at: float | None = None) -> Delivery:
        """The signed webhook of a job. Defaults to being signed now, by the server's clock."""
        job = self.jobs[request_id]
        failed, payload_error = job.outcome.error is not None, job.outcome.payload_error
        payload = {"detail": job.outcome.detail or job.outcome.error} if failed else self.output_of(job)
        reported: dict[str, Any] = {
            "request_id": job.id,
            "gateway_request_id": job.gateway_id,
            "status": "ERROR" if failed else "OK",
            "payload": None if payload_error is not None else payload,
        }
        if failed:
            reported["error"] = job.outcome.error
        if payload_error is not None:
            reported["payload_error"] = payload_error
        body = json.dumps(reported).encode()
        stamp = str(int(self.now if at is None else at))
        message = "\n".join((job.id, "user-1", stamp, hashlib.sha256(body).hexdigest()))
        headers = {
            "content-type": "application/json",
            "x-fal-webhook-request-id": job.id,
            "x-fal-webhook-user-id": "user-1",
            "x-fal-webhook-timestamp": stamp,
            "x-fal-webhook-signature": self._private.sign(message.encode()).hex(),
        }
        return Delivery(job.webhook or "", headers, body)

    def deliveries(self) -> list[Delivery]:
        """The webhooks of all finished jobs whose submit asked for one."""
        done = [job for job in self.jobs.values() if job.webhook and job.ends <= self.now]
        return [self.delivery(job.id) for job in done]


def _problem_of_header(name: str, value: str) -> list[str]:
    if name not in _HEADERS:
        return [f"the header {name} is not one of fal's"]
    right: dict[str, Callable[[], bool]] = {
        "x-fal-request-start-timeout": lambda: float(value) > 0.1 and math.isfinite(float(value)),
        "x-fal-queue-priority": lambda: value in {"normal", "low"},
        "x-fal-no-retry": lambda: value in {"1", "true", "yes"},
        "x-fal-store-io": lambda: value == "0",
        "x-fal-retry-config": lambda: isinstance(json.loads(value), dict),
        "x-fal-object-lifecycle-preference": lambda: set(json.loads(value)) == {"expiration_duration_seconds"},
    }
    try:
        fine = name not in right or right[name]()
    except (ValueError, TypeError):
        fine = False
    return [] if fine else [f"the header {name} has the value {value!r}, which fal does not take"]


def _kind(job: FalJob) -> str:
    if job.outcome.error is None:
        return "success"
    return "user_error" if job.outcome.code < 500 else "error"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _seconds_of(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _time(text: str | None) -> bool:
    try:
        return text is None or bool(_seconds_of(text))
    except ValueError:
        return False

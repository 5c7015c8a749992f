"""fal's emulation: queue, status stream, results, cancellation, uploads, the platform's list and signed webhooks.

As docs/providers/fal.md describes them. The queue is at the base URL. What has hosts of its own at fal is below it:
uploads and public keys at `/rest`, the platform's API at `/platform/v1`, uploaded files at `/media`. What the sources
leave open is settled here: a bad body is refused at submit, a cancelled job is COMPLETED with an error (or not found,
see `FalOptions`), and a result that has vanished is a 404. Webhooks are signed if the package `cryptography` is there.
"""

from __future__ import annotations

import hashlib
import json
import time
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from starlette.responses import Response, StreamingResponse

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
from kling_async.sandbox.providers._fal_models import model_of
from kling_async.sandbox.providers.emulation import Emulation, Operation, Webhook, reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from starlette.requests import Request

    from kling_async.providers._base.provider import Provider
    from kling_async.sandbox.emulator.provider_state import ProviderState
    from kling_async.sandbox.providers.emulation import Endpoint

_LIFE, _SHORT_LIFE, _LARGE = 3600.0, 360.0, 10_000  # s, s, bytes: for how long a result can be read
_DAY = 86_400.0
_PAGE = 100
_TRIES = (30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1200.0, 1800.0, 2100.0)  # pauses: 10 tries in 2 hours
_PIXELS = {"1K": 1024, "2K": 2048, "4K": 4096}  # side of a square; other ratios keep the area
_SHORT_SIDE = {"standard": 720, "pro": 1080, "4k": 2160}
_USD_A_SECOND = {"standard": Decimal("0.084"), "pro": Decimal("0.112"), "4k": Decimal("0.42")}
_USD_AN_IMAGE = Decimal("0.028")
_PARAMETERS = {"endpoint_id", "start", "end", "status", "request_id", "expand", "limit", "cursor"}
_TIMEOUT = "start timeout"
_KEY_TYPE = "Ed25519"


@dataclass(slots=True)
class FalOptions:
    """How it behaves where the sources leave it open. Change it at any time.

    Args:
        gone_after_cancel: A cancelled job is not found. If False, it is COMPLETED with an error.
        cancel_answers_ok: A cancellation is answered with OK. If False, with CANCELLATION_REQUESTED.
        payload_error: Webhooks have no payload, but say why.
    """

    gone_after_cancel: bool = False
    cancel_answers_ok: bool = False
    payload_error: bool = False


class _RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, detail: Any, kind: str | None = None) -> None:
        super().__init__(status, detail)
        self.status = status
        self.body = {"detail": detail} | ({"error_type": kind} if kind else {})


def _invalid(*problems: tuple[str, str]) -> _RefusedError:
    return _RefusedError(
        422, [{"loc": ["body", name], "msg": said, "type": "value_error"} for name, said in problems], None
    )


@dataclass(slots=True)
class _Service:
    """The API, and what it remembers besides the jobs."""

    state: ProviderState
    options: FalOptions = field(default_factory=FalOptions)
    tickets: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)

    # The queue.

    async def submit(self, request: Request) -> Response:
        """`POST /{full model id}`."""
        account = self._account(request)
        model_id = request.path_params["model"]
        model = model_of(model_id)
        if model is None:
            raise _RefusedError(404, f"Application {model_id!r} not found")
        body = await _object(request)
        if problems := [*model.problems(body), *_problems_of_call(request)]:
            raise _invalid(*problems)
        media, durations, price = _work(model_id, body)
        try:
            job = self.state.submit(
                Order(
                    account=account,
                    endpoint=model_id,
                    prompt=_prompt(body),
                    media=media,
                    durations=durations,
                    price=price,
                    params={"input": body},
                    references=thumbnails(body),
                    callback_url=request.query_params.get("fal_webhook"),
                    lifetime=_lifetime(request),
                )
            )
        except InsufficientCreditsError as error:
            raise _RefusedError(403, "User is locked. Reason: Exhausted balance. Top up your balance.") from error
        except UnknownDirectiveError as error:
            raise _invalid(("prompt", str(error))) from error
        limit = request.headers.get("x-fal-request-start-timeout", request.headers.get("x-fal-request-timeout"))
        if limit is not None and job.began - job.created > float(limit):
            job.end_at(job.created + float(limit))
            job.failure = _TIMEOUT
        return reply(
            {"status": "IN_QUEUE", "queue_position": 0, **self._links(request, job)},
            headers={"x-fal-request-id": job.id},
        )

    async def status(self, request: Request) -> Response:
        """`GET .../requests/{id}/status`."""
        job = self._job(request, counted=True)
        body = self._status(request, job)
        return reply(body, 200 if body["status"] == "COMPLETED" else 202)

    async def stream(self, request: Request) -> Response:
        """`GET .../requests/{id}/status/stream`: server-sent events until the job is COMPLETED."""
        job = self._job(request)

        async def lines() -> AsyncIterator[str]:
            while True:
                body = self._status(request, job)
                yield f"data: {json.dumps(body, separators=(',', ':'))}\n\n"
                if body["status"] == "COMPLETED":
                    return
                now = self.state.clock.now()
                moments = [moment for moment in (job.began, job.ends, job.cancelled or 0.0) if moment > now]
                await self.state.clock.until(min([now + 10.0, *moments]))

        return StreamingResponse(lines(), media_type="text/event-stream", headers={"cache-control": "no-cache"})

    async def result(self, request: Request) -> Response:
        """`GET .../requests/{id}`: the status code and the body of the model."""
        job = self._job(request)
        phase = self.state.phase(job)
        if not phase.terminal:
            raise _RefusedError(400, "Request is still in progress")
        if phase is not Phase.COMPLETED:
            code, body, headers = self._failure(job)
            return reply(body, code, headers)
        output = self._output(job)
        life = _SHORT_LIFE if len(json.dumps(output)) >= _LARGE else _LIFE
        if self.state.clock.now() > job.ends + life:
            raise _RefusedError(404, "The result is no longer stored")
        return reply(output, headers={"x-fal-request-id": job.id})

    async def cancel(self, request: Request) -> Response:
        """`PUT .../requests/{id}/cancel`."""
        job = self._job(request)
        if not self.state.cancel(job):
            return reply({"status": "ALREADY_COMPLETED"}, 400)
        if self.options.cancel_answers_ok:
            return reply({"status": "OK"})
        return reply({"status": "CANCELLATION_REQUESTED"}, 202)

    def _links(self, request: Request, job: Job) -> dict[str, str]:
        app = "/".join(job.order.endpoint.split("/")[:2])
        address = f"{_base(request)}/{app}/requests/{job.id}"
        return {
            "request_id": job.id,
            "response_url": address,
            "status_url": f"{address}/status",
            "cancel_url": f"{address}/cancel",
        }

    def _status(self, request: Request, job: Job) -> dict[str, Any]:
        links = self._links(request, job)
        phase = self.state.phase(job)
        if phase is Phase.PENDING:
            return {"status": "IN_QUEUE", "queue_position": self._position(job), **links}
        lines = [{"message": "Generating", "level": "INFO", "timestamp": self._iso(job.began)}]
        logs = {"logs": lines if request.query_params.get("logs") == "1" else None}
        if phase is Phase.PROCESSING:
            return {"status": "IN_PROGRESS", **logs, **links}
        body = {"status": "COMPLETED", "metrics": {"inference_time": _worked(job)}, **logs, **links}
        if phase is not Phase.COMPLETED:
            code, said, _ = self._failure(job)
            body |= {"error": f"Request failed with status code {code}", "error_type": said.get("error_type", "error")}
        return body

    def _position(self, job: Job) -> int:
        """How many jobs of the account wait before it."""
        now = self.state.clock.now()
        return sum(
            other.order.account is job.order.account
            and other.created < job.created
            and other.phase(now) is Phase.PENDING
            for other in self.state.jobs.values()
        )

    def _failure(self, job: Job) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status code, body and headers of the result of a job without one."""
        if job.cancelled is not None:
            return 499, {"detail": "Request was cancelled", "error_type": "client_cancelled"}, {}
        if job.failure == _TIMEOUT:
            body = {"detail": "Request timed out before it was started", "error_type": "request_timeout"}
            return 504, body, {"x-fal-request-timeout-type": "user", "x-fal-error-type": "request_timeout"}
        entry = {"loc": ["body", "prompt"], "msg": "the generation failed", "type": (job.failure or "").lower()}
        return 422, {"detail": [entry]}, {}

    def _output(self, job: Job) -> dict[str, Any]:
        files = []
        for file in job.files:
            ending = self.state.extension(file)
            kind = "image" if isinstance(file.media, Picture) else "video"
            url = self.state.file_url(job, file)
            files.append({"url": url, "content_type": f"{kind}/{ending}", "file_name": f"{file.id}.{ending}"})
        return {"images": files} if isinstance(job.files[0].media, Picture) else {"video": files[0]}

    # The platform.

    async def listed(self, request: Request) -> Response:
        """`GET /platform/v1/models/requests/by-endpoint`: finished requests, the last to end first."""
        account = self._account(request)
        query = request.query_params
        endpoints = query.getlist("endpoint_id")
        if problem := _problem_of_list(query, endpoints):
            raise _invalid(("query", problem))
        clock = self.state.clock
        start = _time(query["start"]) if "start" in query else clock.at(clock.now() - _DAY)
        end = _time(query["end"]) if "end" in query else clock.at(clock.now())
        found = [
            job
            for job in self.state.jobs.values()
            if job.order.account is account
            and job.order.endpoint in endpoints
            and self.state.phase(job).terminal
            and start <= clock.at(_end(job)) <= end
            and query.get("request_id", job.id) == job.id
            and query.get("status", self._outcome(job)) == self._outcome(job)
        ]
        found.sort(key=_end, reverse=True)
        begin, limit = int(query.get("cursor", "0")), int(query.get("limit", str(_PAGE)))
        rows = [self._row(job, payloads="expand" in query) for job in found[begin : begin + limit]]
        more = begin + limit < len(found)
        return reply({"items": rows, "next_cursor": str(begin + limit) if more else None, "has_more": more})

    def _outcome(self, job: Job) -> str:
        if self.state.phase(job) is Phase.COMPLETED:
            return "success"
        return "user_error" if self._failure(job)[0] < 500 else "error"  # noqa: PLR2004  # HTTP's own border

    def _row(self, job: Job, *, payloads: bool) -> dict[str, Any]:
        fine = self.state.phase(job) is Phase.COMPLETED
        row: dict[str, Any] = {
            "request_id": job.id,
            "endpoint_id": job.order.endpoint,
            "sent_at": self._iso(job.created),
            "started_at": self._iso(job.began),
            "ended_at": self._iso(_end(job)),
            "status_code": 200 if fine else self._failure(job)[0],
            "duration": _worked(job),
        }
        if payloads:
            row["json_input"] = job.order.params["input"]
            row["json_output"] = self._output(job) if fine else self._failure(job)[1]
        return row

    # Uploads.

    async def initiate(self, request: Request) -> Response:
        """`POST /rest/storage/upload/initiate`: says where to put a file."""
        self._account(request)
        body = await _object(request)
        names = [body.get(name) for name in ("content_type", "file_name")]
        if not all(isinstance(name, str) and name for name in names):
            raise _invalid(("content_type", "content_type and file_name are texts"))
        safe = "".join(c for c in str(names[1]) if c.isalnum() or c in "._-")
        name = f"{self.state.secret(f'fal upload {len(self.tickets)}')[:16]}_{safe}"
        self.tickets[name] = str(names[0])
        media = f"{_base(request)}/media"
        return reply({"upload_url": f"{media}/put/{name}", "file_url": f"{media}/files/{name}"})

    async def put(self, request: Request) -> Response:
        """`PUT` of a file: the media host's, which must never see the key."""
        name = request.path_params["name"]
        if "authorization" in request.headers or name not in self.tickets:
            raise _RefusedError(403, "Forbidden")
        if request.headers.get("content-type") != self.tickets[name]:
            raise _RefusedError(400, "Content-Type is not the one that was announced")
        self.uploads[name] = await request.body()
        return Response(status_code=200)

    async def get(self, request: Request) -> Response:
        """`GET` of an uploaded file."""
        name = request.path_params["name"]
        if name not in self.uploads:
            raise _RefusedError(404, "Not found")
        return Response(self.uploads[name], media_type=self.tickets[name])

    # Webhooks.

    async def keys(self, request: Request) -> Response:
        """`GET /rest/.well-known/jwks.json`."""
        del request
        raw = self._private().public_key().public_bytes_raw()
        key = {"kty": "OKP", "crv": _KEY_TYPE, "x": urlsafe_b64encode(raw).decode().rstrip("=")}
        return reply({"keys": [key]})

    def _private(self) -> Any:
        try:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415  # an extra
        except ImportError as error:
            raise _RefusedError(500, "the sandbox needs the package cryptography to sign fal's webhooks") from error
        return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(self.state.secret("fal webhooks").encode()).digest())

    def signature(self, job: Job, body: bytes) -> Mapping[str, str]:
        """The headers of a signed webhook. Without `cryptography` there are none."""
        stamp = str(int(time.time()))
        message = "\n".join((job.id, "sandbox", stamp, hashlib.sha256(body).hexdigest()))
        try:
            signed = self._private().sign(message.encode()).hex()
        except _RefusedError:
            return {}
        return {
            "x-fal-webhook-request-id": job.id,
            "x-fal-webhook-user-id": "sandbox",
            "x-fal-webhook-timestamp": stamp,
            "x-fal-webhook-signature": signed,
        }

    def callback(self, job: Job) -> dict[str, Any]:
        """The body of the webhook about the end."""
        failed = job.failure is not None or job.cancelled is not None
        body: dict[str, Any] = {
            "request_id": job.id,
            "gateway_request_id": job.id,
            "status": "ERROR" if failed else "OK",
        }
        if failed:
            code, said, _ = self._failure(job)
            return body | {"error": f"Invalid status code: {code}", "payload": said}
        if self.options.payload_error:
            return body | {"payload": None, "payload_error": "Response payload is too large"}
        return body | {"payload": self._output(job)}

    # What all need.

    def answered(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint with its refusals as answers."""

        async def answer(request: Request) -> Response:
            try:
                return await endpoint(request)
            except _RefusedError as error:
                return reply(error.body, error.status)

        return answer

    def _account(self, request: Request) -> Account:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        account = self.state.account("fal", f"Bearer {key}") if scheme == "Key" else None
        if account is None:
            raise _RefusedError(401, "Authentication is required to access this application.")
        return account

    def _job(self, request: Request, *, counted: bool = False) -> Job:
        account = self._account(request)
        if counted and not account.may_poll(self.state.clock.now()):
            raise _RefusedError(429, "Too many requests")
        if extra := set(request.query_params) - {"logs"}:
            raise _invalid(("query", f"{min(extra)} is not a parameter of this call"))
        job = self.state.status(account, request.path_params["job"])
        app = f"{request.path_params['owner']}/{request.path_params['app']}"
        if job is None or job.provider != "fal" or not job.order.endpoint.startswith(f"{app}/"):
            raise _RefusedError(404, "Request not found")
        if job.cancelled is not None and self.options.gone_after_cancel:
            raise _RefusedError(404, "Request not found")
        return job

    def _iso(self, moment: float) -> str:
        return self.state.clock.at(moment).astimezone(UTC).isoformat()


def emulate(state: ProviderState) -> Emulation:
    """fal, as the sandbox plays it."""
    service = _Service(state)
    one = "/{owner}/{app}/requests/{job}"
    verbs = (
        ("list", "GET", "/platform/v1/models/requests/by-endpoint", service.listed),
        ("list", "GET", "/rest/.well-known/jwks.json", service.keys),
        ("upload", "POST", "/rest/storage/upload/initiate", service.initiate),
        ("upload", "PUT", "/media/put/{name}", service.put),
        ("download", "GET", "/media/files/{name}", service.get),
        ("status", "GET", f"{one}/status", service.status),
        ("stream", "GET", f"{one}/status/stream", service.stream),
        ("status", "GET", one, service.result),
        ("cancel", "PUT", f"{one}/cancel", service.cancel),
        ("submit", "POST", "/{model:path}", service.submit),
    )
    return Emulation(
        name="fal",
        api_key=f"fal-key-id:{state.secret('fal')}",
        operations=[Operation(kind, method, path, service.answered(end)) for kind, method, path, end in verbs],
        error_body=lambda status, _path, _retry_after: {"detail": f"the service cannot do this now ({status})"},
        client=_client,
        options=service.options,
        webhook=Webhook(
            moments=lambda job: [job.ends if job.cancelled is None else job.cancelled],
            body=lambda job, _: service.callback(job),
            running=lambda job: {"request_id": job.id, "gateway_request_id": job.id, "status": "OK", "payload": None},
            pauses=_TRIES,
            timeout=15.0,
            headers=service.signature,
        ),
    )


def _client(api_key: str, base_url: str) -> Provider:
    from kling_async.providers.fal import Fal  # noqa: PLC0415 - the server does not need the client

    return Fal(api_key=api_key, base_url=base_url)


def _base(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}/fal"


def _end(job: Job) -> float:
    return job.ends if job.cancelled is None else job.cancelled


def _worked(job: Job) -> float:
    """Seconds for which it ran. A job may be cancelled before it begins."""
    return round(max(0.0, _end(job) - job.began), 3)


async def _object(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise _invalid(("body", "Content-Type is not application/json"))
    try:
        body = json.loads(await request.body())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise _invalid(("body", "not a JSON object"))
    return body


def _problems_of_call(request: Request) -> list[tuple[str, str]]:
    """What is wrong with the query and the headers of a submit."""
    found = [("query", f"{name} is unknown") for name in request.query_params if name not in _SUBMIT_PARAMETERS]
    for name, allowed in _HEADERS.items():
        value = request.headers.get(name)
        if value is not None and not allowed(value):
            found.append((name, f"{value!r} is not a value of this header"))
    found += [
        (name, "there is no such header")
        for name in request.headers
        if name.startswith("x-fal-") and name not in _HEADERS and name not in _OTHER_HEADERS
    ]
    return found


def _seconds(value: str) -> bool:
    try:
        return 0.1 < float(value) < 1e9  # noqa: PLR2004  # fal's documents: more than 0.1 s
    except ValueError:
        return False


def _preference(value: str) -> bool:
    try:
        return set(json.loads(value)) == {"expiration_duration_seconds"}
    except (ValueError, TypeError):
        return False


_SUBMIT_PARAMETERS = {"fal_webhook", "fal_max_queue_length"}
_HEADERS = {
    "x-fal-request-start-timeout": _seconds,
    "x-fal-request-timeout": _seconds,  # deprecated, and what the official client 1.0.3 still sends
    "x-fal-queue-priority": lambda value: value in {"normal", "low"},
    "x-fal-object-lifecycle-preference": _preference,
}
_OTHER_HEADERS = {
    "x-fal-runner-hint",
    "x-fal-no-retry",
    "x-fal-retry-config",
    "x-fal-store-io",
    "x-fal-disable-fallbacks",
}


def _lifetime(request: Request) -> float | None:
    text = request.headers.get("x-fal-object-lifecycle-preference")
    seconds = json.loads(text)["expiration_duration_seconds"] if text else None
    return None if seconds is None else float(seconds)


def _problem_of_list(query: Mapping[str, str], endpoints: list[str]) -> str | None:
    """What is wrong with the query of the list."""
    if unknown := set(query) - _PARAMETERS:
        return f"{min(unknown)} is unknown"
    if not 1 <= len(endpoints) <= 50:  # noqa: PLR2004  # fal's own number
        return "1 to 50 endpoint_id are wanted"
    limit = query.get("limit", str(_PAGE))
    if not (limit.isdigit() and 1 <= int(limit) <= _PAGE and query.get("cursor", "0").isdigit()):
        return "limit is 1 to 100, and cursor one of ours"
    try:
        for name in ("start", "end"):
            _time(query.get(name, "2026-01-01"))
    except ValueError:
        return "start and end are times"
    return None


def _time(text: str) -> datetime:
    when = datetime.fromisoformat(text)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _prompt(body: Mapping[str, Any]) -> str:
    shots = body.get("multi_prompt")
    texts = [body.get("prompt"), body.get("text")]
    texts += [shot.get("prompt") for shot in shots if isinstance(shot, dict)] if isinstance(shots, list) else []
    return " ".join(text for text in texts if isinstance(text, str)) or "motion"


def _work(model_id: str, body: Mapping[str, Any]) -> tuple[tuple[Picture | Clip, ...], DurationRange, Decimal]:
    """What a job makes, how long it takes, and what it costs."""
    prompt = _prompt(body)
    if "/kling-image/" in model_id or "try-on" in model_id:
        count = body.get("series_amount", 4) if body.get("result_type") == "series" else body.get("num_images", 1)
        count = count if isinstance(count, int) else 4
        side = _PIXELS.get(str(body.get("resolution", "1K")), 1024)
        width, height = _size(str(body.get("aspect_ratio", "1:1")), side)
        picture = Picture(width, height, body.get("output_format", "png"), prompt)
        return (picture,) * count, IMAGE_DURATION, _USD_AN_IMAGE * count
    tier = next((name for name in _SHORT_SIDE if f"/{name}" in model_id), "pro")
    text = str(body.get("duration", "5"))
    seconds = min(int(text), 15) if text.isdigit() else 5
    across, down = _ratio(str(body.get("aspect_ratio", "16:9")), (16, 9))
    short = _SHORT_SIDE[tier]
    clip = Clip(short * across // min(across, down), short * down // min(across, down), float(seconds), prompt)
    factor = Decimal("1.5") if body.get("generate_audio") else Decimal(1)
    return (clip,), DurationRange(median=20 + 22 * seconds, sigma=0.4), _USD_A_SECOND[tier] * seconds * factor


def _ratio(text: str, default: tuple[int, int]) -> tuple[int, int]:
    across, colon, down = text.partition(":")
    return (int(across), int(down)) if colon and across.isdigit() and down.isdigit() else default


def _size(ratio: str, side: int) -> tuple[int, int]:
    across, down = _ratio(ratio, (1, 1))
    unit = (side**2 / (across * down)) ** 0.5
    return round(across * unit / 16) * 16, round(down * unit / 16) * 16

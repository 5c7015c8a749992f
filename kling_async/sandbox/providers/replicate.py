"""Replicate's emulation: predictions of official and other models, lists, cancellation, files and signed webhooks.

As documented in docs/providers/replicate.md. The inputs of the Kling models are judged field by field. Those of other
models are taken as they are, because no page describes them.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlencode, urlsplit

from starlette.responses import Response

from kling_async.sandbox.emulator.accounts import Account, InsufficientCreditsError
from kling_async.sandbox.emulator.images import BadImageError, check_data_uri, check_url, thumbnails
from kling_async.sandbox.emulator.jobs import CLIP_DURATIONS, Clip, Job, Order, Phase
from kling_async.sandbox.emulator.signatures import standard_signature
from kling_async.sandbox.providers.emulation import Emulation, Endpoint, Operation, Webhook, reply
from kling_async.sandbox.rules.fields import problems_of
from kling_async.sandbox.rules.replicate import MODELS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from starlette.requests import Request

    from kling_async.providers._base.provider import Provider
    from kling_async.sandbox.emulator.provider_state import ProviderState

_TOP = {"input", "webhook", "webhook_events_filter"}
_EVENTS = ("start", "output", "logs", "completed")
_LIST = {"created_after", "created_before", "cursor", "source"}
_PAGE = 100
_KEPT = 3600.0  # s from the end until input, output, logs and files are removed
_LONGEST_DATA_URI = 256 * 1024  # bytes
_LONGEST = 15  # s of a video
_LONGEST_WAIT = 60  # s
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_USD_A_SECOND = {False: Decimal("0.168"), True: Decimal("0.252")}  # without and with audio
_IMAGES = ("start_image", "end_image", "image", "reference_images")
_WORDS = {
    Phase.PENDING: "starting",
    Phase.PROCESSING: "processing",
    Phase.COMPLETED: "succeeded",
    Phase.FAILED: "failed",
    Phase.CANCELLED: "canceled",
}


@dataclass(slots=True)
class Options:
    """How it answers where no source tells. Change it at any time.

    Args:
        early_cancel: The status after a cancellation before the start: `canceled` or `aborted`.
    """

    early_cancel: str = "canceled"


class _RefusedError(Exception):
    """A request that is answered with a problem document."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


def _refuse(status: int, detail: str) -> NoReturn:
    raise _RefusedError(status, detail)


@dataclass(slots=True)
class _Api:
    """The API, and what it remembers besides the jobs."""

    state: ProviderState
    options: Options = field(default_factory=Options)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def webhook_secret(self) -> str:
        """What signs the webhooks of the account."""
        return f"whsec_{base64.b64encode(self.state.secret('replicate webhooks').encode()).decode()}"

    async def create(self, request: Request) -> Response:
        """`POST /models/{owner}/{name}/predictions`, or `POST /predictions` with a version."""
        account = self._account(request)
        body = _object(await request.body())
        named = "owner" in request.path_params
        model = f"{request.path_params['owner']}/{request.path_params['name']}" if named else body.get("version")
        problems = [f"{name} is not allowed" for name in body if name not in _TOP | (set() if named else {"version"})]
        problems += _webhook_problems(body)
        if not isinstance(body.get("input"), dict):
            problems.append("input is required, and an object")
        if problems:
            _refuse(422, "; ".join(problems))
        if not isinstance(model, str) or (model.startswith("kwaivgi/") and model not in MODELS):
            _refuse(404, "The requested resource could not be found.")
        await asyncio.to_thread(self._check_input, model, body["input"])
        limit = _seconds(request.headers.get("cancel-after"), "Cancel-After")
        wait = _wait(request.headers.get("prefer"))
        job = self._submit(account, model, body, limit)
        if limit is not None and job.created + limit < job.ends:
            self._stop(job, job.created + limit)
        shown = self.shown(job)
        if wait:
            await self.state.clock.until(min(job.created + wait, job.ends))
            if self.state.phase(job).terminal:
                shown = self.shown(job)
        return reply(shown, 201)  # "starting" if the wait was in vain: the official client 1.0.7 relies on it

    def _submit(self, account: Account, model: str, body: Mapping[str, Any], limit: float | None) -> Job:
        given = body["input"]
        seconds = given.get("duration", 5)
        seconds = seconds if isinstance(seconds, int) and 1 <= seconds <= _LONGEST else 5
        width, height = {"9:16": (720, 1280), "1:1": (960, 960)}.get(given.get("aspect_ratio"), (1280, 720))
        prompt = next(
            (text for name in ("prompt", "multi_prompt", "text") if isinstance(text := given.get(name), str)), ""
        )
        durations = CLIP_DURATIONS[min((known for known in CLIP_DURATIONS if known >= seconds), default=_LONGEST)]
        try:
            return self.state.submit(
                Order(
                    account=account,
                    endpoint=model,
                    prompt=prompt,
                    media=(Clip(width, height, seconds, prompt),),
                    durations=durations,
                    price=_USD_A_SECOND[given.get("generate_audio") is True] * seconds,
                    params={
                        "model": model,
                        "input": given,
                        "limit": limit,
                        "events": tuple(body.get("webhook_events_filter", _EVENTS)),
                    },
                    callback_url=body.get("webhook"),
                    references=thumbnails(given),
                    lifetime=_KEPT,
                )
            )
        except InsufficientCreditsError:
            _refuse(402, "You have insufficient credit to run this model. Buy credit at the billing page.")

    def _check_input(self, model: str, given: Mapping[str, Any]) -> None:
        """Check the fields of a Kling model, and its images."""
        known = MODELS.get(model)
        if known is not None and known.fields is not None:
            problems = problems_of(given, known.fields, known.rules)
            if problems:
                _refuse(422, f"Input validation failed: {'; '.join(problems)}")
        for name in _IMAGES if known is not None else ():
            value = given.get(name, ())
            for image in value if isinstance(value, list) else [value] if value else []:
                self._check_image(name, image)

    def _check_image(self, name: str, image: str) -> None:
        if urlsplit(image).path.rpartition("/")[2] in self.uploads:
            return
        if image.startswith("data:") and len(image) > _LONGEST_DATA_URI:
            _refuse(422, f"input.{name}: a data URI of more than 256 kB; upload the file")
        try:
            check_data_uri(image, {"JPEG", "PNG"}) if image.startswith("data:") else check_url(image)
        except (BadImageError, OSError) as error:
            _refuse(422, f"input.{name}: {error}")

    async def read(self, request: Request) -> Response:
        """`GET /predictions/{id}`."""
        return reply(self.shown(self._job(request, counted=True)))

    async def cancel(self, request: Request) -> Response:
        """`POST /predictions/{id}/cancel`."""
        job = self._job(request)
        if not self.state.phase(job).terminal:
            self._stop(job, self.state.clock.now())
        return reply(self.shown(job))

    def _stop(self, job: Job, moment: float) -> None:
        """Cancel a job at a moment. What has not begun by then is not billed."""
        if moment <= self.state.clock.now():
            self.state.cancel(job)
        else:
            job.cancelled = moment
        if moment < job.began:
            job.order.account.refund(job.order.price, moment)

    async def listed(self, request: Request) -> Response:
        """`GET /predictions`, the newest first, a hundred a page."""
        account = self._account(request)
        query = request.query_params
        unknown = [name for name in query if name not in _LIST]
        if unknown:
            _refuse(422, f"unknown parameters: {', '.join(unknown)}")
        after, before = (_moment(query.get(name), name) for name in ("created_after", "created_before"))
        clock = self.state.clock
        jobs = [
            job
            for job in self.state.jobs.values()
            if job.order.account is account
            and (after is None or clock.at(job.created) >= after)
            and (before is None or clock.at(job.created) <= before)
            and "source" not in query  # what was made on the web page
        ]
        jobs.reverse()
        text = query.get("cursor", "0")
        begin = int(text) if text.isdigit() else 0
        page = {
            "previous": self._page(request, begin - _PAGE) if begin else None,
            "next": self._page(request, begin + _PAGE) if begin + _PAGE < len(jobs) else None,
            "results": [self.shown(job) for job in jobs[begin : begin + _PAGE]],
        }
        return reply(page)

    async def upload(self, request: Request) -> Response:
        """`POST /files`: a form with the part `content`."""
        self._account(request)
        kind = request.headers.get("content-type", "")
        boundary = re.search(r'boundary="?([^";]+)', kind)
        parts = (await request.body()).split(b"--" + boundary[1].encode()) if boundary else []
        content = next((part for part in parts if b'name="content"' in part.partition(b"\r\n\r\n")[0]), None)
        if not kind.startswith("multipart/form-data") or content is None:
            _refuse(422, "content: a form with this part is needed")
        head, _, data = content.partition(b"\r\n\r\n")
        data = data.removesuffix(b"\r\n")
        media = re.search(rb"(?i)content-type: ([^\r\n]+)", head)
        name = re.search(rb'filename="([^"]*)"', head)
        identity = self.state.secret(f"replicate file {len(self.uploads)}")
        created = self.state.clock.at(self.state.clock.now())
        shown = {
            "id": identity,
            "name": name[1].decode() if name else "file",
            "content_type": media[1].decode() if media else "application/octet-stream",
            "size": len(data),
            "etag": hashlib.sha256(data).hexdigest()[:32],  # required by the official client 1.0.7
            "checksums": {"sha256": hashlib.sha256(data).hexdigest()},
            "metadata": {},
            "created_at": created.isoformat(),
            "expires_at": (created + dt.timedelta(days=1)).isoformat(),
            "urls": {"get": f"{_base(request)}/files/{identity}"},
        }
        self.uploads[identity] = shown
        return reply(shown, 201)

    async def file(self, request: Request) -> Response:
        """`GET` or `DELETE` of an uploaded file's facts."""
        self._account(request)
        shown = self.uploads.get(request.path_params["identity"])
        if shown is None:
            _refuse(404, "The requested resource could not be found.")
        if request.method == "DELETE":
            del self.uploads[shown["id"]]
            return Response(status_code=204)
        return reply(shown)

    async def secret(self, request: Request) -> Response:
        """`GET /webhooks/default/secret`."""
        self._account(request)
        return reply({"key": self.webhook_secret})

    def shown(self, job: Job, phase: Phase | None = None) -> dict[str, Any]:
        """The prediction as it is now, or as it is in that phase."""
        clock = self.state.clock
        phase = phase or self.state.phase(job)
        ended = job.ends if job.cancelled is None else job.cancelled
        began = job.began <= min(clock.now(), ended)
        removed = phase.terminal and clock.now() > ended + _KEPT
        status = _WORDS[phase]
        if phase is Phase.CANCELLED and not began:
            limit = job.order.params["limit"]
            expired = limit is not None and job.created + limit <= ended
            status = "aborted" if expired else self.options.early_cancel
        output = self.state.file_url(job, job.files[0]) if phase is Phase.COMPLETED and not removed else None
        address = f"/replicate/v1/predictions/{job.id}"
        host = self.state.file_url(job, job.files[0]).partition("/cdn/")[0]
        metrics = {"total_time": ended - job.created} if phase.terminal else {}
        if phase.terminal and began:
            metrics["predict_time"] = ended - job.began
        return {
            "id": job.id,
            "model": job.order.params["model"],
            "version": "hidden",
            "input": {} if removed else job.order.params["input"],
            "output": output,
            "logs": self._logs(job) if began and not removed else "",
            "error": f"{job.failure}: the model failed" if phase is Phase.FAILED else None,
            "status": status,
            "created_at": _iso(clock.at(job.created)),
            "started_at": _iso(clock.at(job.began)) if began else None,
            "completed_at": _iso(clock.at(ended)) if phase.terminal else None,
            "data_removed": removed,
            "source": "api",
            "urls": {"get": f"{host}{address}", "cancel": f"{host}{address}/cancel", "web": f"{host}/p/{job.id}"},
            "metrics": metrics,
        }

    def _logs(self, job: Job) -> str:
        whole = job.ends - job.began
        share = 0.0 if math.isinf(whole) else (self.state.clock.now() - job.began) / max(whole, 1e-9)
        return f"Generating\n{min(100, round(100 * share))}%\n"

    def moments(self, job: Job) -> Sequence[float]:
        """When webhooks are due: at the start and at the end, as far as they were asked for."""
        return [moment for moment, _ in self._deliveries(job)]

    def callback(self, job: Job, index: int) -> dict[str, Any]:
        """The body of the webhook with that index."""
        return self.shown(job, self._deliveries(job)[index][1])

    def _deliveries(self, job: Job) -> list[tuple[float, Phase]]:
        events = job.order.params["events"]
        ended = job.ends if job.cancelled is None else job.cancelled
        due: list[tuple[float, Phase]] = []
        if "start" in events and job.began <= ended:
            due.append((job.began, Phase.PROCESSING))
        if "completed" in events:
            due.append((ended, job.phase(ended)))
        return due

    def _account(self, request: Request) -> Account:
        account = self.state.account("replicate", request.headers.get("authorization"))
        if account is None:
            _refuse(401, "You did not pass a valid authentication token")
        return account

    def _job(self, request: Request, *, counted: bool = False) -> Job:
        account = self._account(request)
        if counted and not account.may_poll(self.state.clock.now()):
            _refuse(429, "Request was throttled. Expected available in 1 second.")
        job = self.state.status(account, request.path_params["identity"])
        if job is None or job.provider != "replicate":
            _refuse(404, "The requested resource could not be found.")
        return job

    def _page(self, request: Request, begin: int) -> str:
        query = {**request.query_params, "cursor": str(max(begin, 0))}
        return f"{_base(request)}/predictions?{urlencode(query)}"


def emulate(state: ProviderState) -> Emulation:
    """Replicate, as the sandbox plays it."""
    options = Options()
    api = _Api(state, options)

    def error_body(status: int, _path: str, _retry_after: float | None) -> Mapping[str, Any]:
        return _problem(status, "The service cannot do this now.")

    operations: list[tuple[str, str, str, Callable[[Request], Any]]] = [
        ("submit", "POST", "/models/{owner}/{name}/predictions", api.create),
        ("submit", "POST", "/predictions", api.create),
        ("list", "GET", "/predictions", api.listed),
        ("status", "GET", "/predictions/{identity}", api.read),
        ("cancel", "POST", "/predictions/{identity}/cancel", api.cancel),
        ("upload", "POST", "/files", api.upload),
        ("upload", "GET", "/files/{identity}", api.file),
        ("upload", "DELETE", "/files/{identity}", api.file),
        ("list", "GET", "/webhooks/default/secret", api.secret),
    ]
    return Emulation(
        name="replicate",
        api_key=f"r8_{state.secret('replicate')}",
        base_path="/v1",
        rate_limit=3000,
        operations=[Operation(kind, method, path, _guarded(end)) for kind, method, path, end in operations],
        error_body=error_body,
        client=_client,
        options=options,
        webhook=Webhook(
            moments=api.moments,
            body=api.callback,
            running=lambda job: api.shown(job, Phase.PROCESSING),
            pauses=(30.0, 60.0),
            headers=lambda _job, body: standard_signature(api.webhook_secret, body),
        ),
    )


def _client(api_key: str, base_url: str) -> Provider:
    from kling_async.providers.replicate import Replicate  # noqa: PLC0415 - the server does not need the client

    return Replicate(api_key=api_key, base_url=base_url)


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Answer a refusal with the problem document that it stands for."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except _RefusedError as error:
            headers = {"retry-after": "1"} if error.status == HTTPStatus.TOO_MANY_REQUESTS else {}
            answered = reply(_problem(error.status, error.detail), error.status, headers)
            answered.headers["content-type"] = "application/problem+json"
            return answered

    return answer


def _problem(status: int, detail: str) -> dict[str, Any]:
    return {"title": HTTPStatus(status).phrase, "detail": detail, "status": status, "type": "about:blank"}


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else _refuse(422, "the body is not a JSON object")


def _webhook_problems(body: Mapping[str, Any]) -> list[str]:
    found = []
    webhook = body.get("webhook")
    if "webhook" in body and not (isinstance(webhook, str) and urlsplit(webhook).scheme in {"http", "https"}):
        found.append("webhook: not a URL")
    events = body.get("webhook_events_filter", [])
    if not isinstance(events, list) or not set(map(str, events)) <= set(_EVENTS):
        found.append(f"webhook_events_filter: its items are {', '.join(_EVENTS)}")
    return found


def _seconds(text: str | None, name: str) -> float | None:
    """The seconds of `30`, `90s`, `1m` or `1h30m`."""
    if text is None:
        return None
    if not re.fullmatch(r"(\d+[smh])+|\d+", text):
        _refuse(422, f"{name}: not a duration such as 1m")
    return float(sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smh]?)", text)))


def _wait(prefer: str | None) -> float:
    """The seconds of `Prefer: wait` or `wait=n`. 0: the answer comes at once."""
    if prefer is None:
        return 0.0
    found = re.fullmatch(r"wait(?:=(\d+))?", prefer)
    seconds = int(found[1] or _LONGEST_WAIT) if found else 0
    return float(seconds) if 1 <= seconds <= _LONGEST_WAIT else _refuse(422, "Prefer: not wait or wait=1 to wait=60")


def _moment(text: str | None, name: str) -> dt.datetime | None:
    try:
        return None if text is None else dt.datetime.fromisoformat(text)
    except ValueError:
        return _refuse(422, f"{name}: not a time")


def _base(request: Request) -> str:
    return f"{request.url.scheme}://{request.url.netloc}/replicate/v1"


def _iso(moment: dt.datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")

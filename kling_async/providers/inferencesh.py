"""inference.sh: the app ``klingai/image-o1`` (Kling Image O1).

Wire facts: the app's published page and client examples, ``/docs/api/rest/overview.md`` and the streaming, files and
errors pages of inference.sh, the official clients (PyPI ``inferencesh`` 0.4.0 to 0.36.0, ``inference-sh/sdk-js``),
and the app's own source (``inference-sh/grid``, ``api/klingai/video/image-o1``). Where they disagree:

- Answers come in three envelopes: ``{"success", "data"}`` (which may state an error at HTTP 200), the bare object, and
  ``{"data", "messages"}``. All are read, everywhere.
- Statuses are words or integers, and from 8 on the integers have two meanings: version 0.6.5 of the client put
  ``cancelling`` in, and the app's page still shows the old 9 for "completed". A word always wins. How an integer is
  weighed is told at `InferenceSh`.
- The page reads a ``progress`` in percent from updates; no type of the clients has it. It is passed on where it is.
- The app takes ``n`` up to 9 and is billed for all, and its source returns one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import pydantic_core
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints

from kling_async._cadence import Law, Progressive
from kling_async._errors import (
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    KlingError,
    ProviderUnavailable,
    RateLimited,
    Unauthorized,
)
from kling_async._models import Artifact, Cost, Failure, JobRef, Reading, Status
from kling_async._provider import Accepted, Delivered, Endpoint, Features, Provider, Stream
from kling_async._requests import (
    ImageRule,
    Prompt,
    Reference,
    Request,
    as_number,
    decode_data_uri,
    is_secure,
    is_url,
    sniff,
)
from kling_async._wire import Call, Effect, Flow, Reply

__all__ = ["CURRENT", "OLDER", "ImageO1", "InferenceSh"]

_SINCE_EVER = ("unknown", "received", "queued", "dispatched", "preparing", "serving", "setting_up", "running")
CURRENT = (*_SINCE_EVER, "cancelling", "uploading", "completed", "failed", "cancelled", "rejected")
"""What the integers mean since version 0.6.5 of the official client: the position is the integer."""
OLDER = (*_SINCE_EVER, "uploading", "completed", "failed", "cancelled")
"""What they meant before."""


@dataclass(frozen=True, slots=True)
class _Stage:
    """What a task's status amounts to. No status: it does not tell where the task stands."""

    status: Status | None
    step: int = 0
    message: str | None = None


_STAGES: Mapping[str, _Stage] = {
    "unknown": _Stage(None),
    "received": _Stage(Status.PENDING, 1, "received"),
    "queued": _Stage(Status.PENDING, 2, "queued"),
    "dispatched": _Stage(Status.PENDING, 3, "dispatched"),
    "scheduled": _Stage(Status.PENDING, 3, "scheduled"),  # the older word
    "preparing": _Stage(Status.PROCESSING, 4, "preparing"),
    "serving": _Stage(Status.PROCESSING, 5, "serving"),
    "setting_up": _Stage(Status.PROCESSING, 6, "setting_up"),
    "running": _Stage(Status.PROCESSING, 7, "running"),
    "cancelling": _Stage(Status.PROCESSING, 8, "cancelling"),
    "uploading": _Stage(Status.PROCESSING, 9, "uploading"),
    "completed": _Stage(Status.COMPLETED),
    "failed": _Stage(Status.FAILED),
    "cancelled": _Stage(Status.CANCELLED),
    "rejected": _Stage(Status.FAILED, message="rejected"),
}
_UNCLEAR = _Stage(None)
_BUSY = _Stage(Status.PROCESSING, 8)  # cancelling or uploading: at work in either table
_UPLOAD_PATIENCE = timedelta(seconds=15)  # the result is one image: its upload is no longer at work after that

# Kling itself takes JPEG and PNG up to 10 MB, and the app hands it the image's address as it is.
_IMAGE = ImageRule(formats=("jpeg", "png"), most=1)


def _one_image(reference: Reference) -> Reference:
    _IMAGE.check(reference, "the reference")
    return reference


OneReference: TypeAlias = Annotated[Reference, AfterValidator(_one_image)]
AppName: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^klingai/image-o1(@[A-Za-z0-9]{1,64})?(:[A-Za-z0-9_-]{1,64})?$")
]


class ImageO1(Request):
    """One picture by Kling Image O1.

    Source: the page of the app ``klingai/image-o1`` and its input schema.

    Args:
        prompt: 1 to 2 500 characters.
        reference: One image (JPEG or PNG, 10 MiB: what Kling, to which the app passes it, accepts). An inline one is
            uploaded to inference.sh first.
        negative_prompt: What to avoid. The app accepts it and, by its source, does not forward it to Kling.
        aspect_ratio: One of the documented ratios.
        resolution: ``1k`` or ``2k``.
        count: 1 to 9. It is billed per image, although the app returns one: for more, submit more requests.
        app: The app, which may be pinned to a version and a function: ``klingai/image-o1@abc123:run``.
        callback_url: Where inference.sh is to report the end (https).
    """

    endpoint: ClassVar[str] = "inferencesh/image-o1"
    wire_names: ClassVar[Mapping[str, str]] = {"image": "reference", "n": "count", "webhook": "callback_url"}

    prompt: Prompt
    reference: OneReference | None = None
    negative_prompt: str | None = None
    aspect_ratio: Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9"] = "16:9"
    resolution: Literal["1k", "2k"] = "1k"
    count: Annotated[int, BeforeValidator(as_number), Field(strict=True, ge=1, le=9)] = 1
    app: AppName = "klingai/image-o1"

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The app's input, or the whole body of a run (``{"app", "input", "webhook"}``), in our field names."""
        if "input" in data:
            inner = data.pop("input")
            if not isinstance(inner, Mapping):
                raise ValueError(f"input must be an object, not {type(inner).__name__}")
            if twice := data.keys() & inner.keys():
                raise ValueError(f"{', '.join(sorted(twice))}: given both in the input and beside it")
            data |= inner
        return super().translate(data)


class InferenceSh(Provider):
    """inference.sh, https://inference.sh. Environment: ``INFERENCE_API_KEY``, ``INFERENCE_BASE_URL``.

    Args:
        api_key: The key. None: the client takes it from the environment.
        base_url: Another address than the provider's own.
        statuses: What the integers mean that a task's status may be: `CURRENT` or `OLDER`, taken at their word. None:
            today's meaning, except where it contradicts the rest of what is said: a "completed" without output and
            with an error is an older server's "failed", and an "uploading" that has its output and has not moved for
            15 s is an older server's "completed". A webhook, whose meaning no page settles, is always judged by its
            error and output.
    """

    name: ClassVar[str] = "inferencesh"
    title: ClassVar[str] = "inference.sh"
    address: ClassVar[str] = "https://api.inference.sh"
    variables: ClassVar[tuple[str, str]] = ("INFERENCE_API_KEY", "INFERENCE_BASE_URL")
    features: ClassVar[Features] = Features(webhook=True, stream=True, cancel=True, list=True)
    endpoints: ClassVar[tuple[Endpoint[Any], ...]] = (
        Endpoint(
            ImageO1,
            Progressive(2, first=0.5),  # the official client's own: at once, then every 2 s
            # Nothing ends a stuck task at the provider: the app swallows its own limit of 300 s. So ours ends the
            # wait, well after the ten minutes for which a task may be silent and still end well.
            deadline=900.0,
            law=lambda _: Law(24.0, 0.545),
            variant=lambda request: f"resolution={request.resolution}",
            price=lambda request: Cost(Decimal("0.028") * request.count, "USD"),
        ),
    )
    codes: ClassVar[Mapping[str, type[KlingError]]] = {
        "validation_error": InvalidRequest,
        "requirements_not_met": InvalidRequest,
        "app_not_found": InvalidRequest,
        "app_retired": InvalidRequest,
        "invalid_transition": InvalidRequest,
        "unauthorized": Unauthorized,
        "insufficient_scope": Unauthorized,
        "feature_not_available": Unauthorized,
        "payment_required": InsufficientCredits,
        "payment_method_required": InsufficientCredits,
        "limit_exceeded": InsufficientCredits,
        "rejected": InsufficientCredits,
        "not_found": JobNotFound,
        "rate_limited": RateLimited,
        "entitlement_unavailable": ProviderUnavailable,
        "app_maintenance": ProviderUnavailable,
    }

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        *,
        statuses: Sequence[str] | None = None,
    ) -> None:
        super().__init__(api_key, base_url)
        self.statuses = statuses

    def configured(self, environment: Mapping[str, str]) -> InferenceSh:
        """This provider with what was not given taken from environment variables."""
        found = super().configured(environment)
        return self if found is self else type(self)(found.api_key, found.base_url, statuses=self.statuses)

    def submit(self, request: ImageO1, key: str, callback_url: str | None) -> Flow[Accepted]:
        """Upload the inline image, if there is one, then run the app. There is no id of ours for the run."""
        del key
        image = request.reference
        if isinstance(image, str) and not is_url(image):
            image = decode_data_uri(image, "the reference")
        if isinstance(image, bytes):
            image = yield from self._upload(image)
        payload = {"app": request.app, "input": _input(request, image)}
        callback = request.callback_url or callback_url
        if callback:
            payload["webhook"] = callback
        reply = yield Call.post("/apps/run", payload, Effect.PAID)
        try:
            data = self.expect(reply)
        except JobNotFound as error:  # there is no job yet: it is the app that is not found
            raise self.make_error(error.http_status, "app_not_found", f"it has no app {request.app}") from error
        try:
            ref = JobRef(self.name, "image-o1", data["id"])
        except (TypeError, KeyError, ValueError) as error:
            raise self.unreadable("it has no task id") from error
        stage = self._stage(data)
        if stage == _STAGES["rejected"]:
            # A run that was refused admission (no balance, no payment method) is kept as a task that has ended.
            raise self.make_error(402, "rejected", _text(data.get("error")))
        return Accepted(ref.id, self._reading(data, stage))

    def _upload(self, content: bytes) -> Flow[str]:
        """Announce the image, put it where the provider says, and return its address for the app."""
        kind = sniff(content[:16]) or "octet-stream"
        entry = {
            "uri": "",
            "filename": f"reference.{kind}",
            "content_type": f"image/{kind}",
            "path": "",
            "size": len(content),
            "public": False,
        }
        reply = yield Call.post("/files", {"files": [entry]}, Effect.WRITE)
        data = self.expect(reply)
        file = data[0] if isinstance(data, list) and data else None
        uri, target = (file.get("uri"), file.get("upload_url")) if isinstance(file, dict) else (None, None)
        if not (isinstance(uri, str) and uri and isinstance(target, str)):
            raise self.unreadable("it does not say where to upload the reference image")
        if not (is_secure(target) and (target.startswith("https:") or self.base_url.startswith("http:"))):
            raise self.unreadable(
                "it wants the reference image uploaded to an address that is not https; it was not sent"
            )
        headers = {"content-type": f"image/{kind}"}
        stored = yield Call("PUT", target, Effect.WRITE, content, headers, json=False)
        if not stored.ok:
            raise ProviderUnavailable(
                "inference.sh did not take the upload of the reference image; nothing was bought, try again later",
                provider=self.name,
                http_status=stored.status,
            )
        return uri

    def poll(self, refs: Sequence[JobRef]) -> Flow[Mapping[JobRef, Reading | KlingError]]:
        """The light status, and the whole task only where that does not say for sure that it still runs."""
        [ref] = refs
        reply = yield Call.get(f"/tasks/{ref.id}/status")
        if reply.ok:
            data = self._task(self.expect(reply), ref)
            stage = self._stage(data)
            if stage is not None and stage.status is not None and not stage.status.terminal:
                return {ref: self._reading(data, stage)}
        elif reply.status not in _NO_SUCH_VERB:
            self.expect(reply)
        reply = yield Call.get(f"/tasks/{ref.id}")
        # A whole task that has no output may leave the field out.
        data = {"output": None} | self._task(self.expect(reply), ref)
        stage = self._stage(data)
        if stage is _UNCLEAR and _has_rested(data, reply):
            stage = _STAGES["completed"]
        return {ref: self._reading(data, stage)}

    def cancel(self, ref: JobRef) -> Flow[bool]:
        """One POST without a body, as the official clients send it. What Kling has begun may still be charged."""
        reply = yield Call("POST", f"/tasks/{ref.id}/cancel", Effect.WRITE, json=False)
        error = self.refusal(reply)
        if reply.status == _CONFLICT or (error is not None and error.code == "invalid_transition"):
            return False
        if error is not None or not reply.ok:
            raise error or self.make_error(reply.status, None, None)
        return True

    def stream(self, ref: JobRef) -> Stream:
        """The task's updates, as lines of JSON."""
        return _TaskStream(self, ref)

    def search(self, request: Request, callback_url: str | None, since: datetime) -> Flow[Sequence[Accepted]]:
        """List the newest tasks, and pick those that can be the submission.

        The callback address is unique where the client made it, and a task repeats it, so it decides where both have
        one. Otherwise the app's input decides; an inline image cannot be compared, because its address was made for it.
        """
        if not isinstance(request, ImageO1):
            return []
        wanted = _input(request, request.reference)
        wanted_callback = request.callback_url or callback_url
        found: list[Accepted] = []
        cursor: Any = None
        for _ in range(_PAGES):
            page = {"limit": 50, "sort": [{"field": "created_at", "dir": "desc"}]}
            body = page if cursor is None else {**page, "cursor": cursor, "direction": "next"}
            reply = yield Call.post("/tasks/list", body, Effect.READ)
            data = self.expect(reply)
            items = data.get("items") if isinstance(data, dict) else None
            if not isinstance(items, list):
                raise self.unreadable("it lists no tasks")
            tasks = [item for item in items if isinstance(item, dict)]
            recent = [task for task in tasks if (_moment(task.get("created_at")) or since) >= since - _SKEW]
            fitting = [task for task in recent if _same(task, wanted, wanted_callback)]
            found += [Accepted(task["id"], self._reading(task, self._stage(task))) for task in fitting]
            cursor = data.get("next_cursor")
            if not (data.get("has_next") and cursor) or len(recent) < len(tasks):
                break
        return found

    def webhook(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Delivered]:
        """A body says how a task ended; where it does not say so for sure, the reading has no status: look."""
        del headers
        data = _unwrapped(Reply(200, content=body).json())
        if not isinstance(data, dict) or not ({"status", "status_text"} & data.keys()):
            raise self.unreadable("a webhook body without a status")
        identity = data.get("id")
        stage = self._stage(data, ended=True)
        return [Delivered(identity if isinstance(identity, str) else None, self._reading(data, stage))]

    def expect(self, reply: Reply) -> Any:
        """The decoded body, out of whichever envelope.

        Raises:
            KlingError: The reply is a refusal (the oldest envelope refuses at HTTP 200 too), or cannot be read.
        """
        data = super().expect(reply)
        if isinstance(data, dict) and data.get("success") is False:
            raise self.refusal(reply) or self.make_error(reply.status, None, None)
        return _unwrapped(data)

    def error(self, data: Any) -> tuple[str | None, str | None] | None:
        """The error shapes: problem+json, the list of unmet requirements, and ``success: false``."""
        if not isinstance(data, dict):
            return None
        unmet = data.get("errors")
        if isinstance(unmet, list) and "id" not in data:
            lines = [f"{item.get('key')}: {item.get('message')}" for item in unmet if isinstance(item, dict)]
            return "requirements_not_met", "; ".join(lines) or None
        if data.get("success") is False:
            stated = data.get("error")
            inner = stated if isinstance(stated, dict) else {"message": stated or data.get("message")}
            return _code(inner, data.get("status")), _text(inner.get("message") or inner.get("detail"))
        problem = isinstance(data.get("type"), str) or type(data.get("status")) is int
        if problem and "id" not in data and {"title", "detail"} & data.keys():
            return _code(data, data.get("status")), _text(data.get("detail") or data.get("title"))
        return None

    def _task(self, data: Any, ref: JobRef) -> dict[str, Any]:
        if not isinstance(data, dict) or data.get("id", ref.id) != ref.id:
            raise self.unreadable("it is about another task, or about none", ref)
        return data

    def _stage(self, data: Mapping[str, Any], *, ended: bool = False) -> _Stage | None:
        """Where a task stands; None: in words or numbers that nobody documents.

        Args:
            data: What was said of it.
            ended: It is only said of a task that has ended (a webhook), though not reliably by its number.
        """
        for word in (data.get("status"), data.get("status_text")):
            if isinstance(word, str) and (stage := _STAGES.get(word.strip().lower())):
                return stage
        number = as_number(data.get("status"))
        if type(number) is not int or not 0 <= number < len(CURRENT):
            return None
        table = self.statuses or CURRENT
        meanings = {names[number] for names in (CURRENT, OLDER) if number < len(names)}
        if len(meanings) > 1 and (ended or self.statuses is None):
            return _weighed(table[number], data, ended=ended)
        return _STAGES[table[number]] if number < len(table) else None

    def _reading(self, data: dict[str, Any], stage: _Stage | None) -> Reading:
        if stage is None:
            return Reading(None, oddity=f"the status {self.redact(repr(data.get('status')), 60)}", raw=data)
        images = _images(data.get("output")) if stage.status is Status.COMPLETED else ()
        if stage.status is Status.COMPLETED and not images:
            return Reading(None, oddity="that the task is completed, without an image", raw=data)
        text = _text(data.get("error"))
        text = text and self.redact(text, _LONGEST_REASON)
        return Reading(
            stage.status,
            step=stage.step,
            progress=_progress(data.get("progress")),
            message=(text or stage.message) if stage.status is Status.FAILED else stage.message,
            artifacts=images,
            failures=(_failure(text, stage.message),) if stage.status is Status.FAILED else (),
            cost=_cost(data.get("usage_events")),
            raw=data,
        )


class _TaskStream(Stream):
    """The updates of one task.

    A line is a whole task, a part of one (``{"data", "fields"}``, merged into what is known), a heartbeat, or a delta
    of a language model's text, which is not for us. Lines of server-sent events, the default form, are read too.
    """

    def __init__(self, provider: InferenceSh, ref: JobRef) -> None:
        self.call = Call.get(f"/tasks/{ref.id}/stream", headers={"accept": "application/x-ndjson"})
        self._provider = provider
        self._ref = ref
        self._task: dict[str, Any] = {}
        self._event = ""

    def read(self, line: str) -> Reading | None:
        """What `line` says of the task, joined with the lines before it."""
        event = ""
        if not line.startswith("{"):
            field, _, value = line.partition(":")
            line = value.strip()
            if field not in _EVENT_FIELDS:
                raise self._provider.unreadable("a line of its stream is neither JSON nor an event", self._ref)
            if field == "event":
                self._event = line
            if field != "data":
                return None
            event, self._event = self._event, ""
            if not line.startswith("{"):
                return None
        try:
            said = pydantic_core.from_json(line)
        except ValueError as error:
            raise self._provider.unreadable("a line of its stream is not JSON", self._ref) from error
        event = said.get("event") or event
        if event == "delta" or said.get("type") == "heartbeat":
            return None
        if event == "error":
            words = self._provider.redact(_text(said.get("data") or said) or "no reason given")
            raise self._provider.unreadable(f"its stream reports an error ({words})", self._ref)
        return self._merge(said)

    def _merge(self, said: dict[str, Any]) -> Reading | None:
        data = self._provider._task(_unwrapped(said), self._ref)  # noqa: SLF001  # the stream is a part of the provider
        fields = said.get("fields")
        if isinstance(fields, list):
            data = {name: value for name, value in data.items() if name in fields}
        elif data:
            self._task.setdefault("output", None)  # a whole task; one that has no output may leave the field out
        if "status" in data:
            self._task.pop("status_text", None)  # it named the status before
        self._task.update(data)
        if not {"status", "status_text"} & self._task.keys():
            return None
        stage = self._provider._stage(self._task)  # noqa: SLF001  # the same
        reading = self._provider._reading(dict(self._task), stage)  # noqa: SLF001  # the same
        # A completion may come a line before its output, and what is not clear here is asked for once the stream ends.
        return reading if reading.status else None


_NO_SUCH_VERB = frozenset({404, 405})  # older servers may have no light status; the whole task decides
_CONFLICT = 409
_PAGES = 20  # of 50 tasks: what a busy account starts within minutes
_SKEW = timedelta(seconds=60)  # between the provider's clock and ours
_MICROCENTS = 10**8  # in a dollar
_LONGEST_REASON = 1000  # characters of a failure's text, which may be a whole traceback
_EVENT_FIELDS = frozenset({"event", "data", "id", "retry", ""})
_CODE_BY_STATUS = {401: "unauthorized", 402: "payment_required", 404: "not_found", 429: "rate_limited"}
# A worker that vanished says nothing about the request; the rest of the failures come as text without a code.
_RETRYABLE = frozenset({"WORKER_LOST", "TIMEOUT", "SESSION_NOT_FOUND", "SESSION_EXPIRED", "SESSION_ENDED"})


def _input(request: ImageO1, image: Any) -> dict[str, Any]:
    fields = {
        "prompt": request.prompt,
        "image": image,
        "negative_prompt": request.negative_prompt,
        "aspect_ratio": request.aspect_ratio,
        "resolution": request.resolution,
        "n": request.count,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _unwrapped(data: Any) -> Any:
    """What an answer is about, out of its envelope: ``{"data", ...}`` of the first and the latest kind, or bare."""
    return data["data"] if isinstance(data, dict) and "data" in data else data


def _weighed(name: str, data: Mapping[str, Any], *, ended: bool) -> _Stage:
    """The stage behind an integer that has two meanings, by what is said beside it."""
    failed, output = bool(data.get("error")), data.get("output")
    if ended:
        return _STAGES["failed"] if failed else _UNCLEAR if output is None else _STAGES["completed"]
    if name == "cancelling":
        return _BUSY
    if name == "uploading" and ("output" not in data or output is not None):
        return _UNCLEAR
    if name == "completed" and failed and output is None:
        return _STAGES["failed"]
    return _STAGES[name]


def _has_rested(data: Mapping[str, Any], reply: Reply) -> bool:
    """Whether a task with output has not changed for a while, by the provider's own clock."""
    updated = _moment(data.get("updated_at"))
    try:
        now = _aware(parsedate_to_datetime(reply.headers.get("date", "")))
    except ValueError:
        return False
    return bool(_images(data.get("output"))) and updated is not None and now - updated > _UPLOAD_PATIENCE


def _moment(text: Any) -> datetime | None:
    try:
        return _aware(datetime.fromisoformat(text))
    except (TypeError, ValueError):
        return None


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _same(task: Mapping[str, Any], wanted: Mapping[str, Any], callback: str | None) -> bool:
    """Whether a listed task can be the submission of this input with this callback address."""
    if not isinstance(task.get("id"), str):
        return False
    if task.get("webhook"):
        return bool(task["webhook"] == callback)
    app, given = task.get("app"), task.get("input")
    if isinstance(app, dict):
        app = f"{app.get('namespace')}/{app.get('name')}"
    if not isinstance(given, dict) or (isinstance(app, str) and not app.startswith("klingai/image-o1")):
        return False
    return all(
        bool(given.get(name)) if name == "image" and not is_url(value) else given.get(name) == value
        for name, value in wanted.items()
    )


def _images(output: Any) -> tuple[Artifact, ...]:
    """The images of an output: one address, though lists and file objects occur in sibling apps."""
    fields = output if isinstance(output, dict) else {"image": output}
    listed = fields.get("images")
    files = [fields.get("image"), *(listed if isinstance(listed, list) else ())]
    named = [file.get("uri") or file.get("url") if isinstance(file, dict) else file for file in files]
    urls = dict.fromkeys(uri for uri in named if isinstance(uri, str) and is_url(uri))
    return tuple(Artifact("image", url, index=index) for index, url in enumerate(urls))


def _progress(percent: Any) -> float | None:
    number = isinstance(percent, int | float) and not isinstance(percent, bool)
    return percent / 100 if number and 0 <= percent <= 100 else None  # noqa: PLR2004  # percent


def _cost(events: Any) -> Cost | None:
    """What was used, in dollars, where the events say so; the documented ones carry quantities only."""
    listed = events if isinstance(events, list) else []
    amounts = [event.get("microcents") for event in listed if isinstance(event, dict)]
    known = [amount for amount in amounts if type(amount) is int]
    return Cost(Decimal(sum(known)) / _MICROCENTS, "USD") if known else None


def _failure(text: str | None, word: str | None) -> Failure:
    head = (text or "").partition(":")[0].strip()
    code = head if head.isupper() and " " not in head else word or "unknown"
    return Failure(code, text, retryable=code in _RETRYABLE)


def _code(error: Mapping[str, Any], status: Any) -> str | None:
    """The code of an error: a field, the end of its ``type`` URL, or the usual one for its status."""
    kind = error.get("type")
    tail = kind.rpartition("/errors/")[2] if isinstance(kind, str) and kind != "about:blank" else None
    code = error.get("code") or tail
    if isinstance(code, str) and code:
        return code
    return _CODE_BY_STATUS.get(status) if isinstance(status, int) else None


def _text(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("message") or value.get("detail") or value.get("error")
    return value if isinstance(value, str) and value else None

"""inference.sh: the Kling apps, ``klingai/*`` and ``falai/kling-*``.

Wire facts: the app's published page and client examples, ``/docs/api/rest/overview.md`` and the streaming, files and
errors pages of inference.sh, the official clients (PyPI ``inferencesh`` 0.4.0 to 0.36.0, ``inference-sh/sdk-js``),
and the app's own source (``inference-sh/grid``, ``api/klingai/video/image-o1``). Where they disagree:

- Answers come in three envelopes: ``{"success", "data"}`` (which may state an error at HTTP 200), the bare object, and
  ``{"data", "messages"}``. All are read, everywhere.
- Statuses are words or integers, and from 8 on the integers have two meanings: version 0.6.5 of the client put
  ``cancelling`` in, and the app's page still shows the old 9 for "completed". A word always wins. How an integer is
  weighed is described at `InferenceSh`.
- The page reads a ``progress`` in percent from updates. No type of the clients has it. It is passed on where it is.
- The app of Image O1 takes ``n`` up to 9 and is billed for all, and its source returns one image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from pydantic import SecretStr

from kling_async._errors import (
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    KlingError,
    ProviderUnavailable,
    RateLimited,
    Unauthorized,
)
from kling_async._exchange.calls import Call, Effect, Flow, Reply
from kling_async._exchange.urls import is_secure, is_url
from kling_async._media.local_file import LocalFile
from kling_async._models import JobRef, StatusReport
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async.providers._base.endpoint import Endpoint, Features, Price
from kling_async.providers._base.error_mapping import Accepted, ErrorMapper, job_id
from kling_async.providers._base.images import Reference, decode_data_uri, image_format
from kling_async.providers._base.offers import Offer
from kling_async.providers._base.provider import Provider, Stream, WebhookItem, path_id, webhook_job_id
from kling_async.providers._base.request import Request
from kling_async.providers.inferencesh.apps import Image, Video
from kling_async.providers.inferencesh.apps import Request as AnyApp
from kling_async.providers.inferencesh.portable import OFFERS
from kling_async.providers.inferencesh.request import ImageO1
from kling_async.providers.inferencesh.tasks import (
    STAGES,
    UNCLEAR,
    TaskReader,
    TaskStream,
    has_rested,
    moment,
    text_of,
    unwrapped,
)

__all__ = ["InferenceSh"]

AppRequest: TypeAlias = ImageO1 | Video | AnyApp


class InferenceShErrors(ErrorMapper):
    """Reads the errors of inference.sh."""

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

    def expect_json(self, reply: Reply) -> Any:
        """The decoded body, out of whichever envelope.

        Raises:
            KlingError: The reply is a refusal (the oldest envelope refuses at HTTP 200 too), or cannot be read.
        """
        data = super().expect_json(reply)
        inner = data.get("data") if isinstance(data, dict) else None
        if isinstance(inner, dict) and webhook_job_id(inner.get("id")) is not None:
            return unwrapped(data)  # a task that has an id exists, with anything else beside it
        if isinstance(data, dict) and data.get("success") is False:
            raise self.parse_error(reply) or self.make_error(reply.status, None, reply.excerpt())
        return unwrapped(data)

    def read_error(self, data: Any) -> tuple[str | None, str | None] | None:
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
            return _code(inner, data.get("status")), text_of(inner.get("message") or inner.get("detail"))
        problem = isinstance(data.get("type"), str) or type(data.get("status")) is int
        if problem and "id" not in data and {"title", "detail"} & data.keys():
            return _code(data, data.get("status")), text_of(data.get("detail") or data.get("title"))
        return None


_READ = date(2026, 11, 27)
_CLIP_DURATION = DurationPrior.from_range(60, 420)  # not documented. What RunBlob documents for the same models


def _image_price(request: Image) -> Price:
    # Kling's list price. The page of image-v3 has $0.0035 (read 2026-09-21), which is the price of a unit of Kling's.
    amount = Decimal("0.056" if request.resolution == "4k" else "0.028") * request.count
    return Price(amount, "USD", estimated=True, source="inference.sh/apps/klingai.md", date=_READ)


class InferenceSh(Provider):
    """inference.sh, https://inference.sh. Environment: ``INFERENCE_API_KEY``, ``INFERENCE_BASE_URL``.

    Args:
        api_key: The key. If None, the client takes it from the environment.
        base_url: Another address than the provider's own.
        statuses: What the integers mean that a task's status may be: `CURRENT` or `OLDER`, taken at their word. None:
            today's meaning, except where it contradicts the rest of the report: a "completed" without output and
            with an error is an older server's "failed", and an "uploading" that has its output and has not moved for
            15 s is an older server's "completed". A webhook, whose meaning no page documents, is always judged by its
            error and output.
    """

    name: ClassVar[str] = "inferencesh"
    display_name: ClassVar[str] = "inference.sh"
    default_url: ClassVar[str] = "https://api.inference.sh"
    env_vars: ClassVar[tuple[str, str]] = ("INFERENCE_API_KEY", "INFERENCE_BASE_URL")
    features: ClassVar[Features] = Features(webhook=True, stream=True, cancel=True, lists_jobs=True)
    endpoints: ClassVar[tuple[Endpoint[Any], ...]] = (
        Endpoint(
            ImageO1,
            Progressive(2, first=0.5),  # the official client's own: at once, then every 2 s
            # Nothing ends a stuck task at the provider: the app swallows its own limit of 300 s. So ours ends the
            # wait, well after the ten minutes for which a task may be silent and still end well.
            deadline=900.0,
            duration_prior=lambda _: DurationPrior(24.0, 0.545),
            variant=lambda request: f"resolution={request.resolution}",
            price=lambda request: Price(
                Decimal("0.028") * request.count,
                "USD",
                estimated=True,  # inference.sh reports no price in its answers
                source="inference.sh, page of the app klingai/image-o1",
                date=_READ,
            ),
        ),
        Endpoint(
            Image,
            Progressive(2, first=0.5),
            deadline=900.0,
            duration_prior=lambda _: DurationPrior(24.0, 0.545),
            variant=lambda request: f"app={request.app} resolution={request.resolution}",
            price=_image_price,
        ),
        Endpoint(
            Video,
            Progressive(5, first=2),
            deadline=1800.0,
            duration_prior=lambda _: _CLIP_DURATION,
            variant=lambda request: f"app={request.app} duration={request.duration} resolution={request.tier}",
            price=lambda request: Price(
                request.usd, "USD", estimated=True, source="inference.sh/apps/klingai.md", date=_READ
            ),
        ),
        Endpoint(
            AnyApp,
            Progressive(5, first=2),
            deadline=1800.0,
            duration_prior=lambda _: _CLIP_DURATION,
            variant=lambda request: f"app={request.app}",
        ),
    )
    portable: ClassVar[Sequence[Offer]] = OFFERS
    error_mapper: ClassVar[type[ErrorMapper]] = InferenceShErrors

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        *,
        statuses: Sequence[str] | None = None,
    ) -> None:
        super().__init__(api_key, base_url)
        self.statuses = statuses

    @property
    def _reader(self) -> TaskReader:
        return TaskReader(self.errors, self.statuses)

    def submit(self, request: AppRequest, attempt_id: str, callback_url: str | None) -> Flow[Accepted]:
        """Upload the inline images, if there are any, then run the app. There is no id of ours for the run."""
        del attempt_id
        images: dict[str, Any] = {}
        for name in request.reference_fields:
            given = getattr(request, name, None)
            if isinstance(given, tuple):
                images[name] = []
                for one in given:
                    images[name].append((yield from self._address(one)))
            elif given is not None:
                images[name] = yield from self._address(given)
        payload = {"app": request.app, "input": request.app_input(images)}
        callback = request.callback_url or callback_url
        if callback:
            payload["webhook"] = callback
        reply = yield Call.post("/apps/run", payload, Effect.PAID)
        try:
            data = self.errors.expect_json(reply)
        except JobNotFound as error:  # there is no job yet: it is the app that is not found
            raise self.errors.make_error(error.http_status, "app_not_found", f"it has no app {request.app}") from error
        try:
            ref = JobRef(self.name, request.endpoint.partition("/")[2], job_id(data["id"]))
        except (TypeError, KeyError, ValueError) as error:
            named = data.get("id") if isinstance(data, dict) else None
            shown = f"its task id cannot be used: {named!r:.200}" if named is not None else "it has no task id"
            raise self.errors.unreadable(shown) from error
        stage = self._reader.stage(data)
        if stage == STAGES["rejected"]:
            # A run that was refused admission (no balance, no payment method) is kept as a task that has ended.
            raise self.errors.make_error(402, "rejected", text_of(data.get("error")))
        return Accepted(ref.id, self._reader.report(data, stage))

    def _address(self, image: Reference) -> Flow[str]:
        """The address of an image for the app. An inline one is uploaded."""
        if isinstance(image, str) and not is_url(image):
            image = decode_data_uri(image, "the reference")
        return (yield from self._upload(image)) if isinstance(image, bytes | LocalFile) else str(image)

    def _upload(self, content: bytes | LocalFile) -> Flow[str]:
        """Announce the image, put it where the provider wants it, and return its address for the app."""
        kind = image_format(content) or "octet-stream"
        entry = {
            "uri": "",
            "filename": f"reference.{kind}",
            "content_type": f"image/{kind}",
            "path": "",
            "size": len(content),
            "public": False,
        }
        reply = yield Call.post("/files", {"files": [entry]}, Effect.WRITE)
        data = self.errors.expect_json(reply)
        file = data[0] if isinstance(data, list) and data else None
        uri, target = (file.get("uri"), file.get("upload_url")) if isinstance(file, dict) else (None, None)
        if not (isinstance(uri, str) and uri and isinstance(target, str)):
            raise self.errors.unreadable("it does not say where to upload the reference image")
        if not (is_secure(target) and (target.startswith("https:") or self.base_url.startswith("http:"))):
            raise self.errors.unreadable(
                "it wants the reference image uploaded to an address that is not https; it was not sent"
            )
        headers = {"content-type": f"image/{kind}"}
        stored = yield Call.upload("PUT", target, content, headers, json=False)
        if not stored.ok:
            raise ProviderUnavailable(
                "inference.sh did not take the upload of the reference image; nothing was bought, try again later",
                provider=self.name,
                http_status=stored.status,
            )
        return uri

    def poll(self, refs: Sequence[JobRef]) -> Flow[Mapping[JobRef, StatusReport | KlingError]]:
        """The light status, and the whole task only where that does not say for sure that it still runs."""
        [ref] = refs
        reply = yield Call.get(f"/tasks/{path_id(ref)}/status")
        if reply.ok:
            data = self._reader.task(self.errors.expect_json(reply), ref)
            stage = self._reader.stage(data)
            if stage is not None and stage.status is not None and not stage.status.terminal:
                return {ref: self._reader.report(data, stage)}
        elif reply.status not in _NO_SUCH_VERB:
            self.errors.expect_json(reply)
        reply = yield Call.get(f"/tasks/{path_id(ref)}")
        # A whole task that has no output may leave the field out.
        data = {"output": None} | self._reader.task(self.errors.expect_json(reply), ref)
        stage = self._reader.stage(data)
        if stage is UNCLEAR and has_rested(data, reply):
            stage = STAGES["completed"]
        report = self._reader.report(data, stage)
        if report.status is not None and report.status.terminal:
            self.errors.require_id(data, ref, "id")
        return {ref: report}

    def cancel(self, ref: JobRef) -> Flow[bool]:
        """One POST without a body, as the official clients send it. What Kling has begun may still be charged."""
        reply = yield Call("POST", f"/tasks/{path_id(ref)}/cancel", Effect.WRITE, json=False)
        error = self.errors.parse_error(reply)
        if reply.status == _CONFLICT or (error is not None and error.code == "invalid_transition"):
            return False
        if error is not None or not reply.ok:
            raise error or self.errors.make_error(reply.status, None, reply.excerpt())
        return True

    def stream(self, ref: JobRef) -> Stream:
        """The task's updates, as lines of JSON."""
        return TaskStream(self._reader, ref)

    def search(self, request: Request, callback_url: str | None, since: datetime) -> Flow[Sequence[Accepted]]:
        """List the newest tasks, and pick those that can be the submission.

        The callback address is unique where the client made it, and a task repeats it, so it decides where both have
        one. Otherwise the app's input decides. An inline image cannot be compared, because its address was made for it.
        """
        if not isinstance(request, ImageO1 | Video | AnyApp):
            return []
        wanted = request.app_input({name: getattr(request, name, None) for name in request.reference_fields})
        wanted_callback = request.callback_url or callback_url
        found: list[Accepted] = []
        cursor: Any = None
        for _ in range(_PAGES):
            page = {"limit": 50, "sort": [{"field": "created_at", "dir": "desc"}]}
            body = page if cursor is None else {**page, "cursor": cursor, "direction": "next"}
            reply = yield Call.post("/tasks/list", body, Effect.READ)
            data = self.errors.expect_json(reply)
            items = data.get("items") if isinstance(data, dict) else None
            if not isinstance(items, list):
                raise self.errors.unreadable("it lists no tasks")
            tasks = [item for item in items if isinstance(item, dict)]
            recent = [task for task in tasks if (moment(task.get("created_at")) or since) >= since - _SKEW]
            fitting = [task for task in recent if _same(task, request.app, wanted, wanted_callback)]
            found += [
                Accepted(job_id(task["id"]), self._reader.report(task, self._reader.stage(task))) for task in fitting
            ]
            cursor = data.get("next_cursor")
            if not (data.get("has_next") and cursor) or len(recent) < len(tasks):
                break
        return found

    def parse_webhook(self, body: bytes, headers: Mapping[str, str]) -> Sequence[WebhookItem]:
        """A body reports how a task ended. If that is not certain, the report has no status, and the task is polled."""
        del headers
        data = unwrapped(Reply(200, content=body).json())
        if not isinstance(data, dict) or not ({"status", "status_text"} & data.keys()):
            raise self.errors.unreadable("a webhook body without a status")
        stage = self._reader.stage(data, ended=True)
        return [WebhookItem(webhook_job_id(data.get("id")), self._reader.report(data, stage))]


_NO_SUCH_VERB = frozenset({404, 405})  # older servers may have no light status. The whole task decides
_CONFLICT = 409
_PAGES = 20  # of 50 tasks: what a busy account starts within minutes
_SKEW = timedelta(seconds=60)  # between the provider's clock and ours
_CODE_BY_STATUS = {401: "unauthorized", 402: "payment_required", 404: "not_found", 429: "rate_limited"}


def _same(task: Mapping[str, Any], app: str, wanted: Mapping[str, Any], callback: str | None) -> bool:
    """Whether a listed task can be the submission of this input with this callback address."""
    if webhook_job_id(task.get("id")) is None:
        return False
    echoed = "webhook" in task
    if echoed and (task["webhook"] or None) != callback:
        return False
    return (echoed and callback is not None) or _asks(task, app, wanted)


def _asks(task: Mapping[str, Any], app: str, wanted: Mapping[str, Any]) -> bool:
    """Whether a listed task is of this app with this input."""
    listed, given = task.get("app"), task.get("input")
    if isinstance(listed, dict):
        listed = f"{listed.get('namespace')}/{listed.get('name')}"
    name = app.partition("@")[0].partition(":")[0]
    if not isinstance(given, dict) or (isinstance(listed, str) and not listed.startswith(name)):
        return False
    return all(_equal(given.get(field), value) for field, value in wanted.items())


def _equal(given: Any, value: Any) -> bool:
    """Whether a listed field can be this one. The address of an inline image was made for it, so any will do."""
    if isinstance(value, tuple):
        alike = isinstance(given, list) and len(given) == len(value)
        return alike and all(_equal(one, other) for one, other in zip(given, value, strict=True))
    if isinstance(value, bytes | Path | LocalFile) or (isinstance(value, str) and value.startswith("data:")):
        return bool(given)
    return bool(given == value)


def _code(error: Mapping[str, Any], status: Any) -> str | None:
    """The code of an error: a field, the end of its ``type`` URL, or the usual one for its status."""
    kind = error.get("type")
    tail = kind.rpartition("/errors/")[2] if isinstance(kind, str) and kind != "about:blank" else None
    code = error.get("code") or tail
    if isinstance(code, str) and code:
        return code
    return _CODE_BY_STATUS.get(status) if isinstance(status, int) else None

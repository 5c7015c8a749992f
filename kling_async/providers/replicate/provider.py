"""Replicate: the Kling models, and any other model.

Wire facts: docs/providers/replicate.md. Where sources disagree or none states it:

- A submission goes to ``/models/{owner}/{name}/predictions``, and to ``/predictions`` when a version is named.
- Output files are read without the token. The OpenAPI document wants it, practice does not, and the token must not
  travel to another host.
- ``Cancel-After`` is written in seconds, such as ``90s``. The documents show ``1m`` and do not give the grammar.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import urlencode

from pydantic import SecretStr

from kling_async._errors import KlingError
from kling_async._exchange.calls import Call, Effect, FileBody, Flow, Reply
from kling_async._media.local_file import FileText, LocalFile
from kling_async._models import Artifact, Failure, JobRef, Status, StatusReport
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async.providers._base.endpoint import Endpoint, Features, Price
from kling_async.providers._base.error_mapping import Accepted, ErrorMapper
from kling_async.providers._base.images import data_uri, decode_data_uri, image_format
from kling_async.providers._base.offers import Offer
from kling_async.providers._base.provider import Provider, WebhookItem, path_id
from kling_async.providers.replicate.portable import OFFERS
from kling_async.providers.replicate.request import (
    LipSync,
    O1Video,
    ReplicateRequest,
    Request,
    V3OmniVideo,
    V3Video,
    V20Video,
    V21Video,
    V25TurboVideo,
)

__all__ = ["Replicate"]

_LIFETIME = 3600.0  # s from the end until Replicate removes the input, the output and the files of a prediction
_LONGEST_DATA_URI = 250_000  # characters. 256 kB are documented, and no source states whether of bytes or of text
_DEADLINE = 2100.0  # s. A prediction runs for at most 30 minutes, and may wait before
_SKEW = timedelta(minutes=2)  # between our clock and Replicate's
_PAGES = 10  # of 100 predictions each, when a lost submission is searched for
_DURATION = DurationPrior.from_range(60, 360)
_USD_A_SECOND = {False: Decimal("0.168"), True: Decimal("0.252")}  # kling-v3-video, without and with audio


def _price(request: ReplicateRequest) -> Price | None:
    """About twice the list price, reported by users. Replicate publishes no table for the other models."""
    if type(request) is not V3Video:
        return None
    amount = _USD_A_SECOND[request.generate_audio] * request.duration
    return Price(amount, "USD", estimated=True, source="github.com/pollinations/pollinations/pull/15176", date=_READ)


_READ = dt.date(2026, 11, 27)


def _variant(request: ReplicateRequest) -> str:
    given = {name: getattr(request, name, None) for name in ("duration", "mode", "generate_audio", "model")}
    return " ".join(f"{name}={value}" for name, value in given.items() if value is not None)


class ReplicateErrors(ErrorMapper):
    """Reads Replicate's problem documents."""

    def read_error(self, data: Any) -> tuple[str | None, str | None] | None:
        """``title``, ``detail``, ``status`` and ``type``, ``detail`` alone on some answers."""
        if not isinstance(data, dict) or "id" in data:
            return None
        title, detail = data.get("title"), data.get("detail")
        words = [word for word in (title, detail) if isinstance(word, str) and word]
        return (None, ": ".join(dict.fromkeys(words))) if words else None


class Replicate(Provider):
    """Replicate, https://replicate.com. Environment: ``REPLICATE_API_TOKEN``, ``REPLICATE_BASE_URL``.

    Args:
        api_key: The token. If None, the client takes it from the environment.
        base_url: Another address than Replicate's own.
        cancel_on_deadline: Ask Replicate to cancel each job at its endpoint's deadline, so that a job for which nobody
            waits any more costs nothing further.
    """

    name: ClassVar[str] = "replicate"
    display_name: ClassVar[str] = "Replicate"
    default_url: ClassVar[str] = "https://api.replicate.com/v1"
    env_vars: ClassVar[tuple[str, str]] = ("REPLICATE_API_TOKEN", "REPLICATE_BASE_URL")
    webhook_secret_variable: ClassVar[str | None] = "REPLICATE_WEBHOOK_SECRET"  # noqa: S105  # its name, not its value
    features: ClassVar[Features] = Features(webhook=True, cancel=True, lists_jobs=True, status_calls_per_minute=3000)
    endpoints: ClassVar[tuple[Endpoint[Any], ...]] = tuple(
        Endpoint(
            kind, Progressive(5), deadline=_DEADLINE, duration_prior=lambda _: _DURATION, variant=_variant, price=_price
        )
        for kind in (V3Video, V3OmniVideo, O1Video, V25TurboVideo, V21Video, V20Video, LipSync, Request)
    )
    portable: ClassVar[Sequence[Offer]] = OFFERS
    error_mapper: ClassVar[type[ErrorMapper]] = ReplicateErrors

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        *,
        cancel_on_deadline: bool = False,
    ) -> None:
        super().__init__(api_key, base_url)
        self.cancel_on_deadline = cancel_on_deadline

    def submit(self, request: ReplicateRequest, attempt_id: str, callback_url: str | None) -> Flow[Accepted]:
        """Upload what is too large for the body, then one POST. Replicate knows no id of ours."""
        del attempt_id
        given = request.model_input()
        for name in request.reference_fields:
            if name in given:
                given[name] = yield from self._as_urls(given[name])
        payload: dict[str, Any] = {"input": _wire(given)}
        callback = request.callback_url or callback_url
        if callback:
            payload |= {"webhook": callback, "webhook_events_filter": ["start", "completed"]}
        model, _, version = request.target.partition(":")
        path = f"/models/{model}/predictions"
        if version:
            path = "/predictions"
            payload["version"] = version
        headers = {}
        seconds = request.cancel_after or (
            self.endpoint(request.endpoint).deadline if self.cancel_on_deadline else None
        )
        if seconds is not None:
            headers["cancel-after"] = f"{seconds:.0f}s"
        reply = yield Call.post(path, payload, Effect.PAID, headers=headers)
        return self.errors.parse_accepted(reply, request.endpoint, "id", self._report)

    def _as_urls(self, value: Any) -> Flow[Any]:
        """Images as Replicate takes them: a URL, a small data URI, or the URL of an uploaded file."""
        if isinstance(value, tuple):
            urls: list[Any] = []
            for item in value:
                url = yield from self._as_urls(item)
                urls.append(url)
            return urls
        if isinstance(value, str) and len(value) <= _LONGEST_DATA_URI:
            return value
        content = value if isinstance(value, bytes | LocalFile) else decode_data_uri(value, "the image")
        as_text = data_uri(content)
        if (as_text.length if isinstance(as_text, FileText) else len(as_text)) <= _LONGEST_DATA_URI:
            return as_text
        reply = yield _upload(content)
        address = self.errors.expect_json(reply)
        urls_of_file = address.get("urls") if isinstance(address, dict) else None
        found = urls_of_file.get("get") if isinstance(urls_of_file, dict) else None
        if not isinstance(found, str):
            raise self.errors.unreadable("the answer to an upload names no URL")
        return found

    def poll(self, refs: Sequence[JobRef]) -> Flow[Mapping[JobRef, StatusReport | KlingError]]:
        """One GET for the one job: Replicate has no call for several."""
        [ref] = refs
        reply = yield Call.get(f"/predictions/{path_id(ref)}")
        return {ref: self.errors.redact_report(self._report(self.errors.expect_job(reply, ref, "id"), ref))}

    def cancel(self, ref: JobRef) -> Flow[bool]:
        """Cancel a job, also one that runs. What has run is billed."""
        reply = yield Call("POST", f"/predictions/{path_id(ref)}/cancel", Effect.WRITE)
        word = self.errors.expect_job(reply, ref, "id").get("status")
        return word not in ("succeeded", "failed")  # any JSON value

    def search(self, request: ReplicateRequest, callback_url: str | None, since: datetime) -> Flow[Sequence[Accepted]]:
        """Search the list of predictions for those of the same model with the same input, made since then."""
        wanted = _wire(request.model_input())
        callback = request.callback_url or callback_url
        begin = since - _SKEW
        query = urlencode({"created_after": begin.astimezone(UTC).isoformat().replace("+00:00", "Z")})
        path: str | None = f"/predictions?{query}"
        found: list[Accepted] = []
        for _ in range(_PAGES):
            if path is None:
                break
            page = self.errors.expect_json((yield Call.get(path)))
            rows = page.get("results") if isinstance(page, dict) else None
            if not isinstance(rows, list):
                raise self.errors.unreadable("the list of predictions has no results")
            for row in rows:
                if isinstance(row, dict) and self._fits(row, request, wanted, callback):
                    ref = JobRef(self.name, request.endpoint.partition("/")[2], row["id"])
                    found.append(Accepted(ref.id, self.errors.redact_report(self._report(row, ref))))
            path = self._next_page(page)
        return found

    def _fits(
        self, row: Mapping[str, Any], request: ReplicateRequest, wanted: Mapping[str, Any], callback: str | None
    ) -> bool:
        """Whether a listed prediction can be the one that was submitted."""
        model, _, version = request.target.partition(":")
        if not isinstance(row.get("id"), str) or row.get("source", "api") != "api":
            return False
        if (row.get("version") if version else row.get("model")) != (version or model):
            return False
        if callback and row.get("webhook") not in (None, callback):
            return False
        given = row.get("input")
        if not isinstance(given, Mapping):  # removed an hour after the end
            return False
        images = {
            _WIRE.get(name, name) for name in request.reference_fields
        }  # they may have been uploaded, and have other URLs there
        return {n: v for n, v in given.items() if n not in images} == {
            n: v for n, v in wanted.items() if n not in images
        } and given.keys() & images == wanted.keys() & images

    def _next_page(self, page: Mapping[str, Any]) -> str | None:
        """The path of the next page. Only a path on this API is followed, because the token travels with the call."""
        address = page.get("next")
        if not isinstance(address, str) or not address.startswith(f"{self.base_url}/predictions?"):
            return None
        return address.removeprefix(self.base_url)

    def parse_webhook(self, body: bytes, headers: Mapping[str, str]) -> Sequence[WebhookItem]:
        """The body is the prediction."""
        del headers
        data = Reply(HTTPStatus.OK, content=body).json()
        if not isinstance(data, dict) or "status" not in data:
            raise self.errors.unreadable("a webhook body without a status")
        identity = data.get("id")
        report = self.errors.redact_report(self._report(data, None))
        return [WebhookItem(identity if isinstance(identity, str) else None, report)]

    def _report(self, data: Mapping[str, Any], ref: JobRef | None) -> StatusReport:
        word = data.get("status")
        status = _STATUSES.get(word.strip().lower()) if isinstance(word, str) else None
        if status is Status.COMPLETED:
            return self._completed(data, ref)
        if status is Status.FAILED:
            error = data.get("error")
            words = error if isinstance(error, str) and error else None
            return StatusReport(status, message=words, failures=(Failure("failed", words),), raw=data)
        if status is Status.CANCELLED:
            words = "it was stopped before it started, and is not billed" if word == "aborted" else None
            return StatusReport(status, message=words, raw=data)
        unrecognized = None if status else f"the status {word!r}"
        return StatusReport(status, message=_last_line(data.get("logs")), unrecognized=unrecognized, raw=data)

    def _completed(self, data: Mapping[str, Any], ref: JobRef | None) -> StatusReport:
        artifacts = tuple(Artifact(_kind(url), url) for url in _urls(data.get("output")))
        if not artifacts:
            if data.get("data_removed") is True:
                words = "Replicate has removed the result: it keeps one for an hour"
                return StatusReport(Status.COMPLETED, message=words, raw=data)
            raise self.errors.unreadable("it says succeeded and has no output file", ref)
        return StatusReport(Status.COMPLETED, artifacts=artifacts, lifetime=_LIFETIME, raw=data)


_WIRE = {"references": "reference_images", "speech": "text"}


def _wire(given: Mapping[str, Any]) -> dict[str, Any]:
    """An input by Replicate's names."""
    return {_WIRE.get(name, name): value for name, value in given.items()}


_STATUSES: Mapping[str, Status] = {
    "starting": Status.PENDING,
    "processing": Status.PROCESSING,
    "succeeded": Status.COMPLETED,
    "failed": Status.FAILED,
    "canceled": Status.CANCELLED,
    "aborted": Status.CANCELLED,
}


def _upload(content: bytes | LocalFile) -> Call:
    """A file as Replicate's ``POST /files`` takes it: one part of a form, named ``content``."""
    kind = image_format(content) or "octet-stream"
    mark = uuid.uuid4().hex
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="content"; filename="image.{kind}"\r\n'
        f"Content-Type: image/{kind}\r\n\r\n"
    )
    tail = f"\r\n--{mark}--\r\n"
    headers = {"content-type": f"multipart/form-data; boundary={mark}"}
    if isinstance(content, LocalFile):
        streamed = FileBody((head.encode(), content, tail.encode()))
        return Call("POST", "/files", Effect.WRITE, headers=headers, streamed=streamed)
    return Call("POST", "/files", Effect.WRITE, head.encode() + content + tail.encode(), headers)


def _urls(output: Any) -> list[str]:
    """The file URLs in a model's output: one, a list, or anywhere in an object."""
    if isinstance(output, str):
        return [output] if output.startswith(("https://", "http://")) else []
    if isinstance(output, Mapping):
        output = list(output.values())
    return [url for item in output for url in _urls(item)] if isinstance(output, list) else []


def _kind(url: str) -> Any:
    ending = url.partition("?")[0].rpartition(".")[2].lower()
    return "image" if ending in {"png", "jpg", "jpeg", "webp", "gif", "avif"} else "video"


def _last_line(logs: Any) -> str | None:
    lines = logs.strip().splitlines() if isinstance(logs, str) else []
    return lines[-1].strip() or None if lines else None

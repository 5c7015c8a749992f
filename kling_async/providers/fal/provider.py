"""fal: the Kling models, and any other model, through its queue.

Wire facts: docs/providers/fal.md. Where sources disagree or none tells:

- A start timeout of a second or more is taken: fal's documents say more than 0.1 s, older code more than 1 s.
- Which field of the platform's list holds the rows, and which the cursor, no source tells: several names are read.
- After a cancellation the job may be COMPLETED with an error, or not found. Both are read.
- The duration of a shot is sent as a text, as all of fal's durations are.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import Any, ClassVar
from urllib.parse import urlencode

from pydantic import SecretStr

from kling_async._errors import ConfigurationError, JobNotFound, KlingError, ProviderUnavailable, Remedy
from kling_async._exchange.calls import Call, Effect, Flow, Reply
from kling_async._exchange.urls import Url
from kling_async._media.local_file import LocalFile
from kling_async._models import Failure, JobRef, Status, StatusReport
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async.providers._base.credentials import Secret
from kling_async.providers._base.endpoint import Endpoint, Features, Price
from kling_async.providers._base.error_mapping import Accepted, ErrorMapper
from kling_async.providers._base.images import decode_data_uri, image_format
from kling_async.providers._base.offers import Offer
from kling_async.providers._base.provider import Provider, Stream, WebhookItem, webhook_job_id
from kling_async.providers.fal.portable import OFFERS
from kling_async.providers.fal.replies import (
    FalErrors,
    JobAddress,
    failed,
    finished,
    is_result_of_model,
    of_list,
    queued,
    status_word,
)
from kling_async.providers.fal.request import (
    Avatar,
    FalRequest,
    Image,
    ImageToVideo,
    LipSync,
    MotionControl,
    ReferenceToVideo,
    Request,
    TextToVideo,
    VideoEdit,
)
from kling_async.providers.fal.signatures import is_signed, read_keys

__all__ = ["Fal"]

_QUEUE = "https://queue.fal.run"
_REST = "https://rest.fal.ai"
_PLATFORM = "https://api.fal.ai/v1"
_MEDIA_HOSTS = ("fal.media", "fal.ai")  # and all below them: where files are uploaded to
_DEADLINE = 3600.0  # s; the queue never refuses a job, so it may wait long
_SKEW = timedelta(minutes=2)  # between our clock and fal's
_PAGES = 10  # of 100 requests each, when a lost submission is searched for
_KEYS_AGE = 86_400.0  # s for which the public keys are kept; fal documents a day at most
_KEYS_REST = 60.0  # s after which they are read again for a signature that fits none of them
_VIDEO_DURATION = DurationPrior.from_range(60, 360)
_IMAGE_DURATION = DurationPrior.from_range(10, 60)
_READ = dt.date(2026, 11, 27)
_PRICE_SOURCE = "docs/providers/fal.md, section 4"
_USD_A_SECOND: Mapping[str, Mapping[bool, Decimal]] = {  # v3, without and with sound
    "standard": {False: Decimal("0.084"), True: Decimal("0.126")},
    "pro": {False: Decimal("0.112"), True: Decimal("0.168")},  # an older page had twice as much
    "4k": {False: Decimal("0.42"), True: Decimal("0.42")},
}
_USD_AN_IMAGE = Decimal("0.028")


def _price(request: FalRequest) -> Price | None:
    if isinstance(request, Image):
        amount = _USD_AN_IMAGE * (request.series or request.count)
    elif isinstance(request, TextToVideo | ImageToVideo) and request.model == "v3" and request.tier is not None:
        amount = _USD_A_SECOND[request.tier][bool(request.generate_audio)] * request.duration
    else:
        return None
    return Price(amount, "USD", estimated=True, source=_PRICE_SOURCE, date=_READ)


def _variant(request: FalRequest) -> str:
    given = {name: getattr(request, name, None) for name in ("duration", "generate_audio", "resolution")}
    return " ".join([request.target, *(f"{name}={value}" for name, value in given.items() if value is not None)])


class StatusStream(Stream):
    """The server-sent events of one job.

    The last one says COMPLETED, which says nothing about success. A poll then reads the result.
    """

    def __init__(self, errors: ErrorMapper, ref: JobRef, path: str) -> None:
        self.call = Call.get(f"{path}/status/stream?logs=1", headers={"accept": "text/event-stream"})
        self._errors = errors
        self._ref = ref

    def read(self, line: str) -> StatusReport | None:
        """The report in a line ``data: {...}``. Other lines, such as comments, are heartbeats."""
        name, _, text = line.partition(":")
        if name != "data":
            return None
        try:
            data = json.loads(text)
        except ValueError:
            raise self._errors.unreadable("an event of the stream is not JSON", self._ref) from None
        if not isinstance(data, dict) or "status" not in data:
            raise self._errors.unreadable("an event of the stream has no status", self._ref)
        if "request_id" in data and not self._errors.is_about(data, self._ref, "request_id"):
            raise self._errors.unreadable("an event of the stream is about another job", self._ref)
        self.ended = status_word(data) == "COMPLETED"
        if self.ended:
            return None
        return self._errors.redact_report(queued(data))


class Fal(Provider):
    """fal, https://fal.ai. Environment: ``FAL_KEY`` (or ``FAL_KEY_ID`` and ``FAL_KEY_SECRET``), ``FAL_BASE_URL``.

    Args:
        api_key: The key. If None, the client takes it from the environment.
        base_url: Another address than that of fal's queue. Uploads, the list of requests and the public keys are then
            expected below it as well, at ``/rest`` and ``/platform/v1``, so that the key travels to no other host.
        file_lifetime: Seconds for which fal keeps the files of each job, uploads included. Afterwards fal deletes them
            for good. If None, the account's own setting holds.

    Raises:
        ConfigurationError: The lifetime is no positive number.
    """

    name: ClassVar[str] = "fal"
    display_name: ClassVar[str] = "fal"
    default_url: ClassVar[str] = _QUEUE
    env_vars: ClassVar[tuple[str, str]] = ("FAL_KEY", "FAL_BASE_URL")
    other_secrets: ClassVar[tuple[tuple[Secret, ...], ...]] = (
        (Secret("key_id", "FAL_KEY_ID"), Secret("key_secret", "FAL_KEY_SECRET")),
    )
    features: ClassVar[Features] = Features(webhook=True, stream=True, cancel=True, lists_jobs=True)
    endpoints: ClassVar[tuple[Endpoint[Any], ...]] = tuple(
        Endpoint(
            kind,
            Progressive(5, first=2) if kind is not Image else Progressive(2),
            deadline=_DEADLINE,
            duration_prior=lambda _, kind=kind: _IMAGE_DURATION if kind is Image else _VIDEO_DURATION,  # type: ignore[misc]  # a default binds the class of this turn
            variant=_variant,
            price=_price,
        )
        for kind in (
            TextToVideo,
            ImageToVideo,
            ReferenceToVideo,
            VideoEdit,
            MotionControl,
            Image,
            Avatar,
            LipSync,
            Request,
        )
    )
    portable: ClassVar[Sequence[Offer]] = OFFERS
    error_mapper: ClassVar[type[ErrorMapper]] = FalErrors

    def __init__(
        self,
        api_key: str | SecretStr | None = None,
        base_url: str | None = None,
        *,
        file_lifetime: int | None = None,
    ) -> None:
        super().__init__(api_key, base_url)
        if file_lifetime is not None and (isinstance(file_lifetime, bool) or not file_lifetime > 0):
            raise ConfigurationError(
                f"Fal(file_lifetime={file_lifetime!r}): it must be a number of seconds greater than 0", provider="fal"
            )
        self.file_lifetime = file_lifetime
        self._keys: tuple[bytes, ...] = ()
        self._keys_read = -_KEYS_AGE

    @property
    def rest(self) -> str:
        """The address of uploads and of the public keys."""
        return _REST if self.base_url == _QUEUE else f"{self.base_url}/rest"

    @property
    def platform(self) -> str:
        """The address of the platform API."""
        return _PLATFORM if self.base_url == _QUEUE else f"{self.base_url}/platform/v1"

    def is_own(self, url: str) -> bool:
        """The queue, the uploads and the list of requests. Not the media hosts, and not the public keys."""
        return super().is_own(url) or url.startswith((f"{self.rest}/storage/", f"{self.platform}/models/requests/"))

    def credentials(self) -> Mapping[str, str]:
        """The key, in fal's own scheme."""
        self.config.require_complete()
        secrets = {name: value.get_secret_value() for name, value in self.config.values.items()}
        key = secrets.get("api_key") or f"{secrets['key_id']}:{secrets['key_secret']}"
        return {"authorization": f"Key {key}"}

    def submit(self, request: FalRequest, attempt_id: str, callback_url: str | None) -> Flow[Accepted]:
        """Upload the files, then one POST. fal knows no id of ours, so it is never repeated."""
        del attempt_id
        given = request.model_input()
        uploaded: dict[str, str] = {}
        for name in sorted(request.image_fields & given.keys()):
            given[name] = yield from self._as_urls(given[name], uploaded)
        callback = request.callback_url or callback_url
        query = f"?{urlencode({'fal_webhook': callback})}" if callback else ""
        headers = dict(self._lifecycle())
        if request.start_timeout is not None:
            headers["x-fal-request-start-timeout"] = f"{request.start_timeout:g}"
        if request.priority is not None:
            headers["x-fal-queue-priority"] = request.priority
        reply = yield Call.post(f"/{request.target}{query}", given, Effect.PAID, headers=headers)
        accepted = self.errors.parse_accepted(reply, request.endpoint, "request_id", lambda data, _: queued(data))
        data = reply.json()
        address = JobAddress.of(request.target, accepted.id, data.get("response_url"), self.base_url)
        return Accepted(address.reference_id, accepted.report)

    def _lifecycle(self) -> Mapping[str, str]:
        if self.file_lifetime is None:
            return {}
        preference = {"expiration_duration_seconds": self.file_lifetime}
        return {"x-fal-object-lifecycle-preference": json.dumps(preference)}

    def _as_urls(self, value: Any, uploaded: dict[str, str]) -> Flow[Any]:
        """Images as URLs: a file is uploaded, once for each content."""
        if isinstance(value, list):
            urls: list[Any] = []
            for item in value:
                url = yield from self._as_urls(item, uploaded)
                urls.append(url)
            return urls
        if isinstance(value, str) and not value.startswith("data:"):
            return value
        content = value if isinstance(value, bytes | LocalFile) else decode_data_uri(value, "the image")
        digest = _digest(content)
        if digest not in uploaded:
            uploaded[digest] = yield from self._upload(content, digest)
        return uploaded[digest]

    def _upload(self, content: bytes | LocalFile, digest: str) -> Flow[str]:
        """Store a file at fal, under a name by which a lost submission is recognised."""
        kind = image_format(content) or "octet-stream"
        media_type = f"image/{kind}" if kind != "octet-stream" else "application/octet-stream"
        entry = {"content_type": media_type, "file_name": f"{digest}.{kind}"}
        address = f"{self.rest}/storage/upload/initiate?storage_type=fal-cdn-v3"
        reply = yield Call.post(address, entry, Effect.WRITE, headers=self._lifecycle())
        data = self.errors.expect_json(reply)
        target, url = (data.get("upload_url"), data.get("file_url")) if isinstance(data, dict) else (None, None)
        if not (isinstance(target, str) and isinstance(url, str)):
            raise self.errors.unreadable("it does not say where to upload the file")
        if not (self._takes_files(target) and self._takes_files(url)):
            raise self.errors.unreadable("it wants the file uploaded to a host that is not fal's; it was not sent")
        stored = yield Call.upload("PUT", target, content, {"content-type": media_type}, json=False)
        if not stored.ok:
            raise ProviderUnavailable(
                "fal did not take the upload of the file; nothing was bought, try again later",
                provider=self.name,
                http_status=stored.status,
            )
        return url

    def _takes_files(self, address: str) -> bool:
        """Whether files may be sent to an address that fal returned: one of its media hosts, or our own base URL's."""
        try:
            url, own = Url.parse(address), Url.parse(self.base_url)
        except ValueError:
            return False
        if url.origin == own.origin:
            return True
        return url.scheme == "https" and any(f".{url.host}".endswith(f".{host}") for host in _MEDIA_HOSTS)

    def job_id(self, reported: str, endpoint: str, request: Mapping[str, Any]) -> str:
        """The id for our reference: fal's own, with the model that the submission ran."""
        try:
            model = self.endpoint(endpoint).request.target_of(request)
        except (ConfigurationError, KeyError):
            return reported
        return JobAddress.of(model, reported).reference_id

    def same_job(self, job_id: str, reported: str) -> bool:
        """Whether a webhook that names `reported` is about the job `job_id`, which names the model as well."""
        return job_id.rpartition(":")[2] == reported

    def _address(self, ref: JobRef) -> JobAddress:
        """Where the job is.

        Raises:
            ConfigurationError: The reference does not name the model.
        """
        default = {Image.endpoint: "fal-ai/kling-image", Request.endpoint: None}.get(ref.endpoint, "fal-ai/kling-video")
        address = JobAddress.parse(ref.id, default)
        if address is None:
            raise ConfigurationError(
                f"the reference {ref} does not name the model, and fal finds no job by its id alone",
                provider=self.name,
                ref=str(ref),
                remedies=(
                    Remedy(
                        "configure",
                        detail="write the reference as fal/model/OWNER~APP:REST~OF~THE~MODEL:REQUEST-ID, such as "
                        "fal/model/fal-ai~kling-video:v3~pro~text-to-video:REQUEST-ID",
                    ),
                ),
            )
        return address

    def poll(self, refs: Sequence[JobRef]) -> Flow[Mapping[JobRef, StatusReport | KlingError]]:
        """The queue's status. When the job has ended, its result at once, because fal keeps it for minutes only."""
        [ref] = refs
        address = self._address(ref)
        reply = yield Call.get(f"{address.path}/status?logs=1")
        if reply.status == HTTPStatus.NOT_FOUND:
            listed = yield from self._listed(address)
            if listed is None:
                raise self.errors.parse_error(reply) or self.errors.make_error(reply.status, None, reply.excerpt())
            return {ref: self.errors.redact_report(listed)}
        data = self.errors.expect_job(reply, ref, "request_id")
        if status_word(data) != "COMPLETED":
            return {ref: self.errors.redact_report(queued(data))}
        self.errors.require_id(data, ref, "request_id")
        result = yield Call("GET", address.path, Effect.READ, any_status=True)
        report = yield from self._ended(data, result, address, ref)
        return {ref: self.errors.redact_report(replace(report, logs=queued(data).logs))}

    def _ended(self, status: Mapping[str, Any], result: Reply, address: JobAddress, ref: JobRef) -> Flow[StatusReport]:
        """What became of a job that is COMPLETED, by the status and by the answer of its result."""
        if result.ok and "error" not in status:
            report = finished(self.errors.expect_json(result), len(result.content), self.file_lifetime)
            if report is None:
                raise self.errors.unreadable("its result names no file", ref)
            return report
        if result.ok or is_result_of_model(status, result):
            code = None if result.ok else result.status
            try:
                said = None if result.ok else self.errors.parse_error(result) and result.json()
            except KlingError:
                said = None
            return failed(status, code, said, result.headers)
        if result.status not in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
            self.errors.expect_json(result)
        listed = yield from self._listed(address)
        return listed or _lost_result()

    def _listed(self, address: JobAddress) -> Flow[StatusReport | None]:
        """What the platform's list says about a job. None if it does not say how the job ended."""
        if address.model is None:
            return None
        query = {"endpoint_id": address.model, "request_id": address.request_id, "expand": "payloads"}
        reply = yield Call.get(f"{self.platform}/models/requests/by-endpoint?{urlencode(query)}", max_bytes=_MOST_BYTES)
        if not reply.ok:
            return None
        rows, _ = _page(reply.json())
        for row in rows or ():
            if row.get("request_id") == address.request_id:
                report = of_list(row, self.file_lifetime)
                return report if report.status is not None else None
        return None

    def cancel(self, ref: JobRef) -> Flow[bool]:
        """Cancel a job, also one that runs."""
        reply = yield Call("PUT", f"{self._address(ref).path}/cancel", Effect.WRITE)
        if reply.ok:
            return True
        data = _json(reply)
        if isinstance(data, Mapping) and data.get("status") == "ALREADY_COMPLETED":
            return False
        if reply.status == HTTPStatus.NOT_FOUND:
            raise JobNotFound(
                f"fal does not know the job {ref}, so it was not cancelled", provider=self.name, ref=str(ref)
            )
        self.errors.expect_json(reply)
        return False

    def stream(self, ref: JobRef) -> Stream:
        """The changes of a job as server-sent events."""
        return StatusStream(self.errors, ref, self._address(ref).path)

    def search(self, request: FalRequest, callback_url: str | None, since: datetime) -> Flow[Sequence[Accepted]]:
        """Search the platform's list for the same model with the same input. It has finished requests only."""
        del callback_url
        begin = since - _SKEW
        query = {
            "endpoint_id": request.target,
            "start": begin.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "expand": "payloads",
            "limit": "100",
        }
        wanted = request.model_input()
        found: list[Accepted] = []
        cursor: str | None = None
        for _ in range(_PAGES):
            page = query if cursor is None else {**query, "cursor": cursor}
            address = f"{self.platform}/models/requests/by-endpoint?{urlencode(page)}"
            rows, cursor = _page(self.errors.expect_json((yield Call.get(address, max_bytes=_MOST_BYTES))))
            if rows is None:
                raise self.errors.unreadable("the list of requests has no rows")
            for row in rows:
                identity = webhook_job_id(row.get("request_id"))
                sent = _moment(row.get("sent_at")) or _moment(row.get("started_at"))
                if identity is None or (sent is not None and sent < begin):
                    continue
                if row.get("endpoint_id", request.target) == request.target and _same(row.get("json_input"), wanted):
                    report = self.errors.redact_report(of_list(row, self.file_lifetime))
                    found.append(Accepted(JobAddress.of(request.target, identity).reference_id, report))
            if cursor is None:
                break
        return found

    def check_signature(self, body: bytes, headers: Mapping[str, str], now: float) -> Flow[bool]:
        """Check a webhook's Ed25519 signature with the public keys that fal publishes at a fixed address."""
        age = abs(now - self._keys_read)
        if age < _KEYS_AGE and is_signed(body, headers, self._keys, now):
            return True
        if age < _KEYS_REST:
            return False
        reply = yield Call.get(f"{self.rest}/.well-known/jwks.json")
        try:
            self._keys = read_keys(self.errors.expect_json(reply))
        except ValueError as error:
            raise self.errors.unreadable(str(error)) from None
        self._keys_read = now
        return is_signed(body, headers, self._keys, now)

    def parse_webhook(self, body: bytes, headers: Mapping[str, str]) -> Sequence[WebhookItem]:
        """The end of one job. Where the payload was left out (``payload_error``), a poll must read the result."""
        del headers
        data = Reply(HTTPStatus.OK, content=body).json()
        if not isinstance(data, dict) or data.get("status") not in ("OK", "ERROR"):  # any JSON value
            raise self.errors.unreadable("a webhook body without a status OK or ERROR")
        payload = data.get("payload")
        if data["status"] == "ERROR":
            report = failed(data, None, payload, {})
        elif isinstance(payload, Mapping) and not data.get("payload_error"):
            report = finished(payload, 0, self.file_lifetime) or StatusReport(None, raw=data)
        else:
            report = StatusReport(None, raw=data)
        return [WebhookItem(webhook_job_id(data.get("request_id")), self.errors.redact_report(report))]


_MOST_BYTES = 16 * 1024 * 1024  # of a page of the platform's list, which repeats inputs and outputs


def _lost_result() -> StatusReport:
    words = (
        "the job ended, and fal no longer has its result: it keeps one for an hour, and for 6 minutes if it is 10 kB "
        "or larger. Its files may still be in the account's history"
    )
    return StatusReport(Status.FAILED, message=words, failures=(Failure("result_expired", words, retryable=True),))


def _digest(content: bytes | LocalFile) -> str:
    """What an uploaded file is named by."""
    if isinstance(content, LocalFile):
        return content.digest[:32]
    return hashlib.sha256(content).hexdigest()[:32]


def _json(reply: Reply) -> Any:
    try:
        return reply.json()
    except KlingError:
        return None


def _page(data: Any) -> tuple[list[dict[str, Any]] | None, str | None]:
    """The rows of a page of the platform's list, and the cursor of the next page."""
    if isinstance(data, list):
        return [row for row in data if isinstance(row, dict)], None
    if not isinstance(data, dict):
        return None, None
    rows = next(
        (data[name] for name in ("items", "requests", "data", "results") if isinstance(data.get(name), list)), None
    )
    cursor = next((data[name] for name in ("next_cursor", "cursor", "next") if isinstance(data.get(name), str)), None)
    more = data.get("has_more", True) is not False
    return (None if rows is None else [row for row in rows if isinstance(row, dict)]), (
        cursor or None
    ) if more else None


def _moment(text: Any) -> datetime | None:
    """A time of the list, aware. None if it is none."""
    try:
        when = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _same(listed: Any, wanted: Any) -> bool:
    """Whether a listed input is the one that was sent. An uploaded file is recognised by the digest in its name."""
    if isinstance(wanted, bytes | LocalFile):
        return isinstance(listed, str) and _digest(wanted) in listed
    if isinstance(wanted, str) and wanted.startswith("data:") and wanted != listed:
        try:
            return _same(listed, decode_data_uri(wanted, "the image"))
        except ValueError:
            return False
    if isinstance(wanted, Mapping):
        return (
            isinstance(listed, Mapping)
            and listed.keys() == wanted.keys()
            and all(_same(listed[name], value) for name, value in wanted.items())
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(listed, list)
            and len(listed) == len(wanted)
            and all(_same(one, other) for one, other in zip(listed, wanted, strict=True))
        )
    return bool(listed == wanted)

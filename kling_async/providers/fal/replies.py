"""What fal's answers mean: the queue's status, the result of a model, a row of the platform's list. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from kling_async._errors import ContentRejected, KlingError, UnreadableReply
from kling_async._exchange.calls import Reply
from kling_async._models import Artifact, Failure, JobRef, Status, StatusReport
from kling_async.providers._base.error_mapping import ErrorMapper
from kling_async.providers._base.images import decode_data_uri

__all__ = [
    "FalErrors",
    "JobAddress",
    "failed",
    "finished",
    "is_result_of_model",
    "of_list",
    "queued",
    "status_word",
    "words",
]

_RESULT_LIFE = 3600.0  # s for which a result can be read
_SHORT_LIFE = 360.0  # s, where it is large
_LARGE = 10_000  # bytes from which on a result is large
_MOST_LINES = 200  # of a log that are kept
_SEGMENT = r"[A-Za-z0-9][\w.-]*"
_APP = re.compile(rf"{_SEGMENT}(/{_SEGMENT}){{1,2}}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAMESPACES = ("workflows", "comfy")  # ids that begin so have one segment more before the request


@dataclass(frozen=True, slots=True)
class JobAddress:
    """Where a job is in fal's queue, and which model it runs. It is kept in the id of our reference.

    Attributes:
        app: ``owner/app``: what the paths of status, result and cancel begin with.
        model: The full id of the model. None if it is not known, because only fal's request id was given.
        request_id: fal's id of the request.
    """

    app: str
    model: str | None
    request_id: str

    @classmethod
    def of(cls, model: str, request_id: str, response_url: Any = None, base: str = "") -> JobAddress:
        """The address of a new job.

        fal wants the returned URLs to be used. Of the returned URL only the path to the app is taken, and only if it is
        on the queue's own address, names this request, and is the beginning of the model's id.

        Args:
            model: The full id of the model.
            request_id: fal's id of the request.
            response_url: The URL that fal returned.
            base: The queue's address.
        """
        parts = model.split("/")
        app = "/".join(parts[: 3 if parts[0] in _NAMESPACES else 2])
        end = f"/requests/{request_id}"
        if isinstance(response_url, str) and response_url.startswith(f"{base}/") and response_url.endswith(end):
            named = response_url.removeprefix(f"{base}/").removesuffix(end)
            if _APP.fullmatch(named) and f"{model}/".startswith(f"{named}/"):
                app = named
        return cls(app, model, request_id)

    @classmethod
    def parse(cls, identity: str, default: str | None) -> JobAddress | None:
        """The address in the id of a reference. None if it has none.

        Args:
            identity: What `reference_id` made, or fal's request id alone.
            default: The app, where the id is fal's request id alone.
        """
        app, colon, rest = identity.partition(":")
        if not colon:
            return None if default is None else cls(default, None, identity)
        tail, colon, request_id = rest.partition(":")
        app = app.replace("~", "/")
        if not (colon and _APP.fullmatch(app) and _ID.fullmatch(request_id)):
            return None
        return cls(app, f"{app}/{tail.replace('~', '/')}" if tail else app, request_id)

    @property
    def reference_id(self) -> str:
        """The id for our reference, such as ``fal-ai~kling-video:v3~pro~text-to-video:REQUEST-ID``."""
        tail = (self.model or self.app).removeprefix(self.app).strip("/")
        return f"{self.app.replace('/', '~')}:{tail.replace('/', '~')}:{self.request_id}"

    @property
    def path(self) -> str:
        """The path of the request below the queue's address."""
        return f"/{self.app}/requests/{self.request_id}"


class FalErrors(ErrorMapper):
    """Reads fal's error bodies: ``detail``, which is a text or a list, and ``error_type``."""

    codes = {"content_policy_violation": ContentRejected}  # noqa: RUF012  # a mapping that nobody changes
    request_id_headers = ("x-fal-request-id", "x-request-id")

    def read_error(self, data: Any) -> tuple[str | None, str | None] | None:
        """The type and the sentences of an error."""
        if not isinstance(data, dict) or not ("detail" in data or "error_type" in data):
            return None
        return words(data)

    def make_error(
        self, http_status: int | None, code: str | None, message: str | None, *, request_id: str | None = None
    ) -> KlingError:
        """The typed error. An account without money is locked, and that answer is a 403 (unverified)."""
        locked = http_status == HTTPStatus.FORBIDDEN and "balance" in (message or "").lower()
        read_as = int(HTTPStatus.PAYMENT_REQUIRED) if locked else http_status
        error = super().make_error(read_as, code, message, request_id=request_id)
        error.http_status = http_status
        return error

    def is_about(self, data: Mapping[str, Any], ref: JobRef, id_field: str) -> bool:
        """Whether an answer names the job: fal's id is the last part of ours."""
        return data.get(id_field) == ref.id.rpartition(":")[2]


def words(data: Any) -> tuple[str | None, str | None]:
    """The type and the sentences of an error body. Each is None where there is none."""
    if not isinstance(data, Mapping):
        return None, None
    kind, detail = data.get("error_type"), data.get("detail", data.get("error"))
    if isinstance(detail, list):
        items = [item for item in detail if isinstance(item, Mapping)]
        kind = next((item["type"] for item in items if isinstance(item.get("type"), str)), kind)
        sentences = [_sentence(item) for item in items]
        detail = "; ".join(sentence for sentence in sentences if sentence)
    message = detail if isinstance(detail, str) and detail else None
    return (kind if isinstance(kind, str) and kind else None), message


def _sentence(item: Mapping[str, Any]) -> str:
    place, said = item.get("loc"), item.get("msg")
    names = [str(part) for part in place if part != "body"] if isinstance(place, list) else []
    said = said if isinstance(said, str) else ""
    return f"{'.'.join(names)}: {said}" if names and said else said


def _content(reply: Reply) -> Any:
    try:
        return reply.json()
    except UnreadableReply:
        return None


_WORDS: Mapping[str, Status] = {"IN_QUEUE": Status.PENDING, "IN_PROGRESS": Status.PROCESSING}


def status_word(data: Mapping[str, Any]) -> object:
    """The status in an answer or an event, without regard to case."""
    said = data.get("status")
    return said.strip().upper() if isinstance(said, str) else said


def queued(data: Mapping[str, Any]) -> StatusReport:
    """The report in a status answer of a job that has not ended.

    For COMPLETED there is no status in it: that word says only that the result can be read.
    """
    said = status_word(data)
    status = _WORDS.get(said) if isinstance(said, str) else None
    position = data.get("queue_position")
    lines = tuple(_lines(data.get("logs")))
    unrecognized = None if status or said == "COMPLETED" else f"the status {said!r}"
    return StatusReport(
        status,
        message=lines[-1] if lines else None,
        unrecognized=unrecognized,
        raw=data,
        queue_position=position if isinstance(position, int) and not isinstance(position, bool) else None,
        logs=lines,
    )


def _lines(logs: Any) -> Iterator[str]:
    for entry in logs[:_MOST_LINES] if isinstance(logs, list) else ():
        message = entry.get("message") if isinstance(entry, Mapping) else entry
        if isinstance(message, str) and message.strip():
            yield message.strip()


def failed(status: Mapping[str, Any], code: int | None, data: Any, headers: Mapping[str, str]) -> StatusReport:
    """The report about a job that ended without a result.

    Args:
        status: What the queue said about the end: ``error`` and ``error_type``, where it did.
        code: The status code that the model answered with.
        data: The body that the model answered with.
        headers: The headers of that answer, by lower-case name.
    """
    kind, message = words(data)
    kind = kind or headers.get("x-fal-error-type")
    known, said = words({name: status.get(name) for name in ("error", "error_type")})
    kind, message = kind or known, message or said
    if headers.get("x-fal-request-timeout-type") == "user":
        message = f"it was not started within its start_timeout: {message or 'no reason given'}"
    if code == _HUNG_UP or "cancel" in f"{kind} {known}".lower():
        return StatusReport(Status.CANCELLED, message=message, raw=data)
    again = code is not None and code >= HTTPStatus.INTERNAL_SERVER_ERROR
    failure = Failure(kind or (f"HTTP {code}" if code else "unknown"), message, retryable=again)
    return StatusReport(Status.FAILED, message=message, failures=(failure,), raw=data)


_HUNG_UP = 499


def is_result_of_model(status: Mapping[str, Any], reply: Reply) -> bool:
    """Whether an answer with an error status is the model's own, and not that of a gateway before it."""
    if "error" in status:
        return True
    if reply.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return reply.status not in _NOT_OF_THE_MODEL
    data = _content(reply)
    return "x-fal-error-type" in reply.headers or (isinstance(data, dict) and "error_type" in data)


_NOT_OF_THE_MODEL = frozenset({401, 403, 404, 408, 410, 429})


def finished(output: Any, size: int, lifetime: float | None) -> StatusReport | None:
    """The report about a job that made these files. None if there are none.

    Args:
        output: The model's output.
        size: Bytes of the answer that it came in.
        lifetime: Seconds for which the files are kept, where that was asked for.
    """
    artifacts = tuple(_files(output))
    if not artifacts:
        return None
    life = lifetime or (_SHORT_LIFE if size >= _LARGE else _RESULT_LIFE)
    return StatusReport(Status.COMPLETED, artifacts=artifacts, lifetime=life, raw=output)


def _files(output: Any) -> Iterator[Artifact]:
    """The files in a model's output: every object with a ``url``, wherever it stands."""
    if isinstance(output, list):
        for item in output:
            yield from _files(item)
    elif isinstance(output, Mapping):
        url = output.get("url")
        if isinstance(url, str) and url.startswith(("https://", "http://")):
            yield Artifact(_kind(url, output.get("content_type")), url)
        elif isinstance(url, str) and url.startswith("data:"):
            yield Artifact(_kind(url, url[len("data:") :]), data=decode_data_uri(url, "the file"))
        else:
            for item in output.values():
                yield from _files(item)


def _kind(url: str, content_type: Any) -> Literal["image", "video", "audio"]:
    general = content_type.partition("/")[0] if isinstance(content_type, str) else ""
    for kind in _KINDS:
        if general == kind:
            return kind
    ending = url.partition("?")[0].rpartition(".")[2].lower()
    if ending in {"png", "jpg", "jpeg", "webp", "gif", "avif"}:
        return "image"
    return "audio" if ending in {"mp3", "wav", "m4a", "aac", "ogg", "flac"} else "video"


_KINDS: tuple[Literal["image", "video", "audio"], ...] = ("image", "video", "audio")


def of_list(row: Mapping[str, Any], lifetime: float | None) -> StatusReport:
    """The report in a row of the platform's list. Its status is None where the row does not decide."""
    code, output = row.get("status_code"), row.get("json_output")
    if not isinstance(code, int) or isinstance(code, bool):
        return StatusReport(None, raw=row)
    if code < HTTPStatus.BAD_REQUEST:
        return finished(output, 0, lifetime) or StatusReport(None, raw=row)
    return failed({}, code, output, {})

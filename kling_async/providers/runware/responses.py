"""What Runware's answers report: rows about files and errors, in any envelope, sorted by the classes of its SDK."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple, TypeAlias

from kling_async._errors import (
    ContentRejected,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    KlingError,
    ProviderUnavailable,
    RateLimited,
    Unauthorized,
)
from kling_async._models import Artifact, Cost, Failure, Status, StatusReport
from kling_async.providers._base.images import decode_data_uri

__all__ = ["TAKEN", "Answer", "Row", "Task", "classify", "entries", "is_generation", "status_report", "text"]


@dataclass(frozen=True, slots=True)
class Task:
    """What a job's id contains: the ``taskUUID``, how many images (None if unknown), and whether they come inline."""

    uuid: str
    count: int | None = None
    inline: bool = False

    @property
    def id(self) -> str:
        """The id that contains it: the bare UUID for one image by URL, else ``UUID~count``, with ``i`` for inline."""
        if not self.inline and self.count in {None, 1}:
            return self.uuid
        return f"{self.uuid}~{self.count}{'i' if self.inline else ''}"

    @classmethod
    def parse(cls, identity: str) -> Task | None:
        """The task that an id names, or None if it is not an id of Runware's."""
        match = _ID.fullmatch(identity)
        return match and cls(match["uuid"], int(match["count"]) if match["count"] else None, bool(match["inline"]))


_ID = re.compile(
    r"(?P<uuid>[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})(~(?P<count>\d\d?)(?P<inline>i)?)?", re.IGNORECASE
)


class _Class(NamedTuple):
    codes: str
    """Regular expression of the codes."""
    error: type[KlingError]
    retryable: bool = False


# The classes into which runware-sdk 1.8.0 (errors.py) sorts Runware's codes, in its order: the first that fits.
# Where it searches for a capitalised part, we ignore case, for its own rule misses the documented timeoutProvider.
_CLASSES = (
    _Class(r"(?i:.*(credits|quota|balance).*)|paymentRequired|environmentPaused", InsufficientCredits),
    _Class(r"(?i:.*ratelimit.*)", RateLimited, retryable=True),
    _Class(r"(c|providerC)ontentPolicyViolation|(sensitive|unsafe|nsfw)ContentDetected", ContentRejected),
    _Class(r"(prompt|image)Blocked|moderationFailed|invalidProviderContent", ContentRejected),
    _Class(r"(?i:.*apikey.*)|unauthorized|forbidden|permissionDenied|insufficientPermissions", Unauthorized),
    _Class(r"auth(entication)?Failed|authTimeout|invalid(Authentication|Credentials)", Unauthorized),
    _Class(r"missingAuthentication|token(Expired|Invalid|Missing|Revoked)", Unauthorized),
    _Class(r"(account|organization|workspace)(Suspended|Disabled)", Unauthorized),
    _Class(r"(?i:.*timeout.*)", ProviderUnavailable, retryable=True),
    _Class(r"task(FailedOr)?NotFound|taskCancelled|taskExpired", JobNotFound),
    _Class(r".*(NotFound|Expired)|unknownModel", InvalidRequest),  # what the request names does not exist
    _Class(r"internalServerError|(service|server)Unavailable", ProviderUnavailable, retryable=True),
    _Class(r"(standard|unknown|undefined|default)Error|unrecognizedResponse", ProviderUnavailable, retryable=True),
    _Class(r"provider.*|inferenceError|processingFailed|taskFailed", ProviderUnavailable, retryable=True),
    _Class(r"(down|up)loadFailed|noAvailableServer", ProviderUnavailable, retryable=True),
    _Class(r"model(Unavailable|Disabled|NotReady)", ProviderUnavailable, retryable=True),
    _Class(r"(invalid|missing|conflict|duplicate|unsupported|value|array|max).*|.*Conflict.*", InvalidRequest),
    _Class(r"unknownParameter|incompatibleParameters|validationFailed", InvalidRequest),
)
TAKEN = "conflictTaskUUID"
_CANCELLED = "taskCancelled"
_TASK_TYPES = ("imageInference", "videoInference")
# Errors of these kinds are about the question, unless they say that they are a generation's.
_ABOUT_THE_CALL = (Unauthorized, RateLimited, InsufficientCredits, JobNotFound)

_STATUSES = (None, "pending", "processing")  # None is an acknowledgement. "pending" is the word of an older page
_FAILED = ("error", "failed")
_INLINE = frozenset({"imageBase64Data", "imageDataURI"})


def _class_of(code: str | None) -> _Class | None:
    return next((kind for kind in _CLASSES if re.fullmatch(kind.codes, code)), None) if code else None


def classify(code: str | None) -> type[KlingError] | None:
    """The class of error that a code stands for, by rule: there are hundreds, and they may change."""
    kind = _class_of(code)
    return kind.error if kind else None


Row: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer holds about one task."""

    rows: list[Row] = field(default_factory=list)
    errors: list[Row] = field(default_factory=list)


def entries(data: Any) -> tuple[list[Row], list[Row]]:
    """The rows and the errors of an answer or a webhook body, in any envelope, each error flat."""
    rows: list[Row]
    stated: list[Row] = []
    if isinstance(data, dict) and not data.keys().isdisjoint({"data", "errors", "error"}):
        outer = {name: data[name] for name in ("taskUUID", "taskType", "status") if name in data}
        rows = _objects(data.get("data"))
        stated = [*_objects(data.get("errors")), *({**outer, **row} for row in _objects(data.get("error")))]
    else:
        rows = _objects(data)
    good: list[Row] = []
    for row in rows:
        failed = _word(row) in _FAILED or row.get("code") or row.get("error")
        (stated if failed else good).append(row)
    return good, [{**row, **(row["error"] if isinstance(row.get("error"), dict) else {})} for row in stated]


def _objects(value: Any) -> list[Row]:
    return [row for row in (value if isinstance(value, list) else [value]) if isinstance(row, dict)]


def status_report(task: Task, answer: Answer) -> StatusReport:
    """What an answer reports about its task.

    Raises:
        ValueError: It cannot be used. The message has the reason.
    """
    made = _artifacts(answer.rows)
    failures = tuple(_failure(row) for row in _distinct(answer.errors))
    running = [row for row in answer.rows if not _is_made(row)]
    finished = len(made) + len(failures)
    words = [_word(row) for row in running]
    odd = [word for word in words if word not in _STATUSES]
    status: Status | None = None
    if _ended(task, finished, failed=bool(failures), running=bool(running)):
        status = Status.COMPLETED if made else _verdict(failures)
    elif finished or "processing" in words:
        status = Status.PROCESSING
    elif len(odd) < len(words):
        status = Status.PENDING
    return StatusReport(
        status,
        progress=_progress(running, finished) if status is Status.PROCESSING else None,
        message=failures[0].message if status is Status.FAILED else None,
        artifacts=made,
        failures=failures,
        cost=_cost(answer.rows),
        unrecognized=f"the status {odd[0]!r}" if odd else None,
        raw=_without_images(answer),
    )


def _ended(task: Task, finished: int, *, failed: bool, running: bool) -> bool:
    """Whether no more is to come. See the head of ``runware`` for the sources of this rule."""
    if task.count is not None and finished >= task.count:
        return True
    return finished > 0 and not running and (failed or task.count is None)


def _verdict(failures: Sequence[Failure]) -> Status:
    return Status.CANCELLED if all(failure.code == _CANCELLED for failure in failures) else Status.FAILED


def is_generation(row: Row) -> bool:
    """Whether an error reports that a generation failed, not that the question about it did."""
    kind, code = row.get("taskType"), text(row, "code")
    if "status" in row or kind in _TASK_TYPES or code == _CANCELLED:
        return True
    return kind != "getResponse" and classify(code) not in _ABOUT_THE_CALL


def text(row: Row, name: str) -> str | None:
    """The value if it is a text with something in it."""
    value = row.get(name)
    return value if isinstance(value, str) and value else None


def _word(row: Row) -> Any:
    """The status of a row, without regard to case."""
    status = row.get("status")
    return status.strip().lower() if isinstance(status, str) else status


def _is_made(row: Row) -> bool:
    status = _word(row)
    return status == "success" or (status is None and not row.keys().isdisjoint({"imageURL", "videoURL", *_INLINE}))


def _distinct(rows: Iterable[Row]) -> list[Row]:
    """The rows without those that an answer repeats. Two errors may read the same and still be two images'."""
    found: dict[object, Row] = {}
    for place, row in enumerate(rows):
        identity = row.get("imageUUID") or row.get("videoUUID") or row.get("resultIndex")
        found.setdefault(identity if isinstance(identity, str | int) else -place - 1, row)
    return list(found.values())


def _artifacts(rows: Iterable[Row]) -> tuple[Artifact, ...]:
    """The images made.

    Raises:
        ValueError: One is reported as made, and is not there.
    """
    found: dict[object, Artifact] = {}
    for row in rows:
        if not _is_made(row):
            continue
        video = text(row, "videoURL")
        url, seed, flagged = video or text(row, "imageURL"), row.get("seed"), row.get("NSFWContent")
        artifact = Artifact(
            "video" if video else "image",
            url,
            None if url else _content(row),
            id=text(row, "videoUUID" if video else "imageUUID"),
            seed=seed if isinstance(seed, int) else None,
            flagged=flagged if isinstance(flagged, bool) else None,
            index=len(found),
        )
        found.setdefault(artifact.identity, artifact)
    return tuple(found.values())


def _content(row: Row) -> bytes:
    given = text(row, "imageDataURI") or text(row, "imageBase64Data")
    if given is None:
        raise ValueError("it says success and has neither a URL nor an image")
    try:
        content = decode_data_uri(given, "it") if given.startswith("data:") else base64.b64decode(given, validate=True)
    except ValueError as error:
        raise ValueError(f"it says success and its image is broken base64: {error}") from error
    if not content:
        raise ValueError("it says success and its image is empty")
    return content


def _failure(row: Row) -> Failure:
    code = text(row, "code")
    kind = _class_of(code)
    return Failure(code or "unknown", text(row, "message"), kind.retryable if kind is not None else None)


def _progress(running: Sequence[Row], finished: int) -> float | None:
    """The part done of all images listed. None where no progress is reported (``progress`` is 0 to 100, and rare)."""
    shares: list[float] = [row["progress"] for row in running if isinstance(row.get("progress"), int | float)]
    if not shares:
        return None
    return min(max((sum(shares) / 100 + finished) / (len(running) + finished), 0.0), 1.0)


def _cost(rows: Iterable[Row]) -> Cost | None:
    """What the images made cost together. None if it is not reported."""
    amounts = []
    for row in _distinct(row for row in rows if _is_made(row)):
        try:
            amounts.append(Decimal(str(row["cost"])))
        except (KeyError, InvalidOperation):
            continue
    complete = amounts and all(amount.is_finite() for amount in amounts)
    return Cost.parse(str(sum(amounts, Decimal(0))), "USD") if complete else None


def _without_images(answer: Answer) -> dict[str, list[Row]]:
    """The answer for the log: inline images are kept once, as artifacts."""
    rows = [{name: value for name, value in row.items() if name not in _INLINE} for row in answer.rows]
    return {"data": rows, "errors": list(answer.errors)}

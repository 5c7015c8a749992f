"""What inference.sh reports about a task: its status (words and two tables of integers), its output and its stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from kling_async._exchange.calls import Call, Reply
from kling_async._exchange.json_body import read_json
from kling_async._exchange.urls import is_url
from kling_async._models import Artifact, Cost, Failure, JobRef, Status, StatusReport
from kling_async.providers._base.error_mapping import ErrorMapper
from kling_async.providers._base.provider import Stream, path_id
from kling_async.providers._base.request import as_number

__all__ = [
    "CURRENT",
    "OLDER",
    "STAGES",
    "UNCLEAR",
    "Stage",
    "TaskReader",
    "TaskStream",
    "has_rested",
    "moment",
    "text_of",
    "unwrapped",
]

_SINCE_EVER = ("unknown", "received", "queued", "dispatched", "preparing", "serving", "setting_up", "running")
CURRENT = (*_SINCE_EVER, "cancelling", "uploading", "completed", "failed", "cancelled", "rejected")
"""What the integers mean since version 0.6.5 of the official client: the position is the integer."""
OLDER = (*_SINCE_EVER, "uploading", "completed", "failed", "cancelled")
"""What they meant before."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What a task's status amounts to. No status: it does not show where the task stands."""

    status: Status | None
    step: int = 0
    message: str | None = None


STAGES: Mapping[str, Stage] = {
    "unknown": Stage(None),
    "received": Stage(Status.PENDING, 1, "received"),
    "queued": Stage(Status.PENDING, 2, "queued"),
    "dispatched": Stage(Status.PENDING, 3, "dispatched"),
    "scheduled": Stage(Status.PENDING, 3, "scheduled"),  # the older word
    "preparing": Stage(Status.PROCESSING, 4, "preparing"),
    "serving": Stage(Status.PROCESSING, 5, "serving"),
    "setting_up": Stage(Status.PROCESSING, 6, "setting_up"),
    "running": Stage(Status.PROCESSING, 7, "running"),
    "cancelling": Stage(Status.PROCESSING, 8, "cancelling"),
    "uploading": Stage(Status.PROCESSING, 9, "uploading"),
    "completed": Stage(Status.COMPLETED),
    "failed": Stage(Status.FAILED),
    "cancelled": Stage(Status.CANCELLED),
    "rejected": Stage(Status.FAILED, message="rejected"),
}
UNCLEAR = Stage(None)
"""Of a number that can mean two things: the one or the other will show."""
_BUSY = Stage(Status.PROCESSING, 8)  # cancelling or uploading: at work in either table
_UPLOAD_PATIENCE = timedelta(seconds=15)  # the result is one image: its upload is no longer at work after that
_MICROCENTS = 10**8  # in a dollar
_EVENT_FIELDS = frozenset({"event", "data", "id", "retry", ""})
# A worker that vanished proves nothing about the request. The rest of the failures come as text without a code.
_PASSING = frozenset({"worker_lost", "session_not_found", "session_expired", "session_ended"})


class TaskReader:
    """Reads tasks.

    Args:
        errors: Makes the errors.
        statuses: What the integers mean. If None, to be weighed, see `InferenceSh`.
    """

    def __init__(self, errors: ErrorMapper, statuses: Sequence[str] | None) -> None:
        self.errors = errors
        self.statuses = statuses

    def task(self, data: Any, ref: JobRef) -> dict[str, Any]:
        """The task that an answer is about.

        Raises:
            UnreadableReply: It is about another, or about none.
        """
        if not isinstance(data, dict) or ("id" in data and not self.errors.is_about(data, ref, "id")):
            raise self.errors.unreadable("it is about another task, or about none", ref)
        return data

    def stage(self, data: Mapping[str, Any], *, ended: bool = False) -> Stage | None:
        """Where a task stands, or None for words or numbers that are not documented.

        Args:
            data: What was reported about it.
            ended: The report comes only when a task has ended (a webhook), but its number is not reliable.
        """
        for word in (data.get("status"), data.get("status_text")):
            if isinstance(word, str) and (stage := STAGES.get(word.strip().lower())):
                return stage
        number = as_number(data.get("status"))
        if type(number) is not int or not 0 <= number < len(CURRENT):
            return None
        table = self.statuses or CURRENT
        meanings = {names[number] for names in (CURRENT, OLDER) if number < len(names)}
        if len(meanings) > 1 and (ended or self.statuses is None):
            return _weighed(table[number], data, ended=ended)
        return STAGES[table[number]] if number < len(table) else None

    def report(self, data: dict[str, Any], stage: Stage | None) -> StatusReport:
        """What is reported about a task at that stage. A completion that names no file is none."""
        if stage is None:
            return StatusReport(
                None, unrecognized=f"the status {self.errors.redact(repr(data.get('status')), 100)}", raw=data
            )
        files = _files(data.get("output")) if stage.status is Status.COMPLETED else ()
        if stage.status is Status.COMPLETED and not files:
            return StatusReport(None, unrecognized="that the task is completed, without a file", raw=data)
        text = text_of(data.get("error"))
        reading = StatusReport(
            stage.status,
            step=stage.step,
            progress=_progress(data.get("progress")),
            message=(text or stage.message) if stage.status is Status.FAILED else stage.message,
            artifacts=files,
            failures=(self._failure(text, stage.message),) if stage.status is Status.FAILED else (),
            cost=_cost(data.get("usage_events")),
            raw=data,
        )
        return self.errors.redact_report(reading)

    def _failure(self, text: str | None, word: str | None) -> Failure:
        head = (text or "").partition(":")[0].strip()
        code = head if head.isupper() and " " not in head else word
        return self.errors.make_failure(code, text, _PASSING)


class TaskStream(Stream):
    """The updates of one task.

    A line is a whole task, a part of one (``{"data", "fields"}``, merged into what is known), a heartbeat, or a delta
    of a language model's text, which is not for us. Lines of server-sent events, the default form, are read too.
    """

    def __init__(self, reader: TaskReader, ref: JobRef) -> None:
        self.call = Call.get(f"/tasks/{path_id(ref)}/stream", headers={"accept": "application/x-ndjson"})
        self._reader = reader
        self._ref = ref
        self._task: dict[str, Any] = {}
        self._event = ""

    def read(self, line: str) -> StatusReport | None:
        """What `line` reports about the task, joined with the lines before it."""
        event = ""
        if not line.startswith("{"):
            field, _, value = line.partition(":")
            line = value.strip()
            if field not in _EVENT_FIELDS:
                raise self._reader.errors.unreadable("a line of its stream is neither JSON nor an event", self._ref)
            if field == "event":
                self._event = line
            if field != "data":
                return None
            event, self._event = self._event, ""
            if not line.startswith("{"):
                return None
        try:
            said = read_json(line)
        except ValueError as error:
            raise self._reader.errors.unreadable("a line of its stream is not JSON", self._ref) from error
        event = said.get("event") or event
        if event == "delta" or said.get("type") == "heartbeat":
            return None
        if event == "error":
            words = self._reader.errors.redact(text_of(said.get("data") or said) or "no reason given")
            raise self._reader.errors.unreadable(f"its stream reports an error ({words})", self._ref)
        return self._merge(said)

    def _merge(self, said: dict[str, Any]) -> StatusReport | None:
        data = self._reader.task(unwrapped(said), self._ref)
        fields = said.get("fields")
        if isinstance(fields, list):
            data = {name: value for name, value in data.items() if name in fields}
        elif data:
            self._task.setdefault("output", None)  # a whole task. One that has no output may leave the field out
        if "status" in data:
            self._task.pop("status_text", None)  # it named the status before
        self._task.update(data)
        if not {"status", "status_text"} & self._task.keys():
            return None
        stage = self._reader.stage(self._task)
        reading = self._reader.report(dict(self._task), stage)
        # A completion may come a line before its output, and what is not clear here is asked for once the stream ends.
        return reading if reading.status else None


def unwrapped(data: Any) -> Any:
    """What an answer is about, out of its envelope: ``{"data", ...}`` of the first and the latest kind, or bare."""
    return data["data"] if isinstance(data, dict) and "data" in data else data


def _weighed(name: str, data: Mapping[str, Any], *, ended: bool) -> Stage:
    """The stage behind an integer that has two meanings, by the fields beside it."""
    failed, output = bool(data.get("error")), data.get("output")
    if ended:
        return STAGES["failed"] if failed else UNCLEAR if output is None else STAGES["completed"]
    if name == "cancelling":
        return _BUSY
    if name == "uploading" and ("output" not in data or output is not None):
        return UNCLEAR
    if name == "completed" and failed and output is None:
        return STAGES["failed"]
    return STAGES[name]


def has_rested(data: Mapping[str, Any], reply: Reply) -> bool:
    """Whether a task with output has not changed for a while, by the provider's own clock."""
    updated = moment(data.get("updated_at"))
    try:
        now = _aware(parsedate_to_datetime(reply.headers.get("date", "")))
    except ValueError:
        return False
    return bool(_files(data.get("output"))) and updated is not None and now - updated > _UPLOAD_PATIENCE


def moment(text: Any) -> datetime | None:
    """A time as the provider writes it, aware, or None if it is none."""
    try:
        return _aware(datetime.fromisoformat(text))
    except (TypeError, ValueError):
        return None


def _aware(when: datetime) -> datetime:
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _files(output: Any) -> tuple[Artifact, ...]:
    """The files of an output: one address, though lists and file objects occur too."""
    fields = output if isinstance(output, dict) else {_kind_of(output): output}
    found: dict[str, Literal["image", "video", "audio"]] = {}
    for kind in _KINDS:
        listed = fields.get(f"{kind}s")
        for file in (fields.get(kind), *(listed if isinstance(listed, list) else ())):
            uri = file.get("uri") or file.get("url") if isinstance(file, dict) else file
            if isinstance(uri, str) and is_url(uri):
                found.setdefault(uri, kind)
    return tuple(Artifact(kind, uri, index=index) for index, (uri, kind) in enumerate(found.items()))


_KINDS: tuple[Literal["image", "video", "audio"], ...] = ("image", "video", "audio")


def _kind_of(output: Any) -> str:
    """What a bare address is of, by the ending of its path."""
    path = output.partition("?")[0].lower() if isinstance(output, str) else ""
    return "video" if path.endswith((".mp4", ".mov", ".webm")) else "image"


def _progress(percent: Any) -> float | None:
    number = isinstance(percent, int | float) and not isinstance(percent, bool)
    return percent / 100 if number and 0 <= percent <= 100 else None  # noqa: PLR2004  # percent


def _cost(events: Any) -> Cost | None:
    """What was used, in dollars, where the events say so. The documented ones carry quantities only."""
    listed = events if isinstance(events, list) else []
    amounts = [event.get("microcents") for event in listed if isinstance(event, dict)]
    known = [amount for amount in amounts if type(amount) is int]
    return Cost.parse(str(Decimal(sum(known)) / _MICROCENTS), "USD") if known else None


def text_of(value: Any) -> str | None:
    """An explanation, as a text or as an object that holds one."""
    if isinstance(value, dict):
        value = value.get("message") or value.get("detail") or value.get("error")
    return value if isinstance(value, str) and value else None

"""Rows of a ledger's tables as submissions and groups of spending, and logs, the same for every database."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeVar

from kling_async._ledger.protocol import ReceivedAnswer, SpendingGroup, Submission, SubmissionState
from kling_async._ledger.serialization import event_from_json, place_of, storable_text
from kling_async._models import Cost, Event, JobRef, Status

__all__ = ["answer_to_json", "log_from_rows", "request_of", "spending_group_from_row", "submission_from_row"]

T = TypeVar("T")
logger = logging.getLogger("kling_async")

_EPOCH = datetime.fromtimestamp(0, UTC)


def submission_from_row(
    key: str, attempt_id: str, endpoint: str, request: str, fingerprint: str, *rest: Any
) -> Submission:
    """The submission in a row. A row that cannot be read becomes a submission of unknown outcome with that reason."""
    started, state, ref, reason, answer, released, tags, latest, files = rest
    unreadable: list[str] = []

    def read(name: str, parse: Callable[[], T], otherwise: T) -> T:
        try:
            return parse()
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError) as error:
            unreadable.append(f"{name}: {error}")
            return otherwise

    submission = Submission(
        key=key,
        endpoint=endpoint,
        request=read("request", lambda: _object(request), {}),
        fingerprint=fingerprint,
        attempt_id=attempt_id,
        started=read("started", lambda: datetime.fromtimestamp(started, UTC), _EPOCH),
        state=read("state", lambda: SubmissionState(state), SubmissionState.UNKNOWN),
        ref=read("ref", lambda: JobRef.parse(ref) if ref else None, None),
        reason=reason,
        answer=read("answer", lambda: ReceivedAnswer(**json.loads(answer)) if answer else None, None),
        released=released,
        latest=read("event", lambda: event_from_json(latest) if latest else None, None),
        tags=read("tags", lambda: _object(tags) if tags else {}, {}),
        files=read("files", lambda: tuple(place_of(text) for text in json.loads(files)), ()),
    )
    if not unreadable:
        return submission
    problem = f"the ledger's record of it cannot be read ({'; '.join(unreadable)}): it was damaged or edited"
    lost = submission.state is SubmissionState.ACCEPTED and submission.ref is None
    return replace(submission, reason=problem, state=SubmissionState.UNKNOWN if lost else submission.state)


def log_from_rows(rows: Iterable[tuple[Any, ...]], ref: JobRef, first: int) -> list[Event]:
    """The log in rows of events as JSON, from that number on. It ends before the first one that cannot be read."""
    log: list[Event] = []
    for (event,) in rows:
        try:
            log.append(event_from_json(event))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning(
                "the recorded events of job %s cannot be read from event %d on: %s", ref, first + len(log), error
            )
            break
    return log


def spending_group_from_row(
    endpoint: str, request: str, status: str | None, amount: str | None, unit: Any, *, has_job: bool, count: int
) -> SpendingGroup:
    """The group in a row. What cannot be read of it is left out."""
    cost = None
    with suppress(ArithmeticError, ValueError, TypeError):
        cost = Cost(Decimal(amount), unit) if amount is not None else None
    known = Status(status) if status in set(Status) else Status.PENDING
    return SpendingGroup(endpoint, request_of(request), known if has_job else None, cost, count)


def request_of(text: str) -> Mapping[str, Any]:
    """A stored request. Nothing if it cannot be read."""
    with suppress(ValueError, TypeError, RecursionError):
        return _object(text)
    return {}


def answer_to_json(answer: ReceivedAnswer | None) -> str | None:
    """A provider's answer as it is stored."""
    if answer is None:
        return None
    facts = asdict(answer)
    facts["body"] = storable_text(answer.body)
    facts["headers"] = {storable_text(name): storable_text(value) for name, value in answer.headers.items()}
    return json.dumps(facts)


def _object(text: str) -> Mapping[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise TypeError("it is not a JSON object")
    return found

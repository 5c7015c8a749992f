"""Events and requests as JSON and back. Pure: no I/O, and no secret in the result."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pydantic_core

from kling_async._exchange.redaction import NOT_KEPT
from kling_async._models import Artifact, Choice, Cost, Event, Failure, Status

if TYPE_CHECKING:  # to read a ledger, no request class is needed, and no pydantic, which takes long to load
    from kling_async.providers._base.request import Request

__all__ = [
    "comparable_fields",
    "comparable_request",
    "event_from_json",
    "event_record",
    "event_to_json",
    "fingerprint",
    "place_of",
    "request_from_json",
    "request_to_json",
    "storable_text",
    "stored_json",
]

RequestT = TypeVar("RequestT", bound="Request")

IMAGE_PREFIXES = ("https://", "http://", "data:", "sha256:")
"""What a text begins with that stands for an image."""


def event_to_json(event: Event) -> str:
    """The event as JSON. Files that came inline as base64, amounts and times as text."""
    return stored_json(event_record(event))


def event_record(event: Event) -> dict[str, Any]:
    """What of an event is stored, for `stored_json`."""
    values = zip(_EVENT_FIELDS, _EVENT_VALUES(event), strict=True)
    record = {name: value for name, value in values if value is not None and value != ()}
    record["artifacts"] = [
        dict(zip(_ARTIFACT_FIELDS, _ARTIFACT_VALUES(artifact), strict=True)) for artifact in event.artifacts
    ]
    return record


def stored_json(value: Any) -> str:
    """A value as it is stored: a record of an event, or rows with such records in them."""
    try:
        return _to_json(value)
    except ValueError:  # half a character, in what the provider sent
        return _to_json(_storable(value))


def _to_json(value: Any) -> str:
    return pydantic_core.to_json(value, bytes_mode="base64", inf_nan_mode="null", fallback=str).decode()


def storable_text(text: str | None) -> str | None:
    """A text from outside without what a database cannot store: halves of characters, and NUL."""
    if text is None or not _UNSTORABLE.search(text):
        return text
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _storable(value: Any) -> Any:
    """A JSON value with texts that can be stored."""
    if isinstance(value, str):
        return _HALF.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, Mapping):
        return {_storable(name): _storable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _storable(_shallow(value))
    return value


def event_from_json(text: str) -> Event:
    """The event that `event_to_json` wrote. Fields that this version does not know are left out.

    Raises:
        ValueError, KeyError, TypeError: It did not.
    """
    record = pydantic_core.from_json(text)
    record["status"] = Status(record["status"])
    record["at"] = datetime.fromisoformat(record["at"])
    record["artifacts"] = tuple(_artifact(item) for item in record.get("artifacts", ()))
    record["failures"] = tuple(Failure(**_known(Failure, item)) for item in record.get("failures", ()))
    if choice := record.get("choice"):
        passed_over = tuple((endpoint, reason) for endpoint, reason in choice["passed_over"])
        record["choice"] = Choice(choice["endpoint"], choice["reason"], passed_over)
    record["logs"] = tuple(record.get("logs", ()))
    for name in ("cost", "balance"):
        if amount := record.get(name):
            record[name] = Cost(Decimal(amount["amount"]), amount["unit"])
    return Event(**_known(Event, record))


def request_to_json(request: Request, *, keep_images: bool) -> Mapping[str, Any]:
    """The request as it is stored. Callback addresses often carry a token, so only their host is."""
    description = request.describe(inline=keep_images)
    if keep_images and request.callback_url is not None:
        description["callback_url"] = request.describe()["callback_url"]
    stored: Mapping[str, Any] = pydantic_core.to_jsonable_python(description)
    return stored


def request_from_json(kind: type[RequestT], description: Mapping[str, Any], *, exact: bool = False) -> RequestT | None:
    """The request that was stored. None if it cannot be made again from what was kept.

    Args:
        kind: Its class.
        description: What `request_to_json` made of it.
        exact: It is to be sent, so that a callback address that was not kept is missing, too.
    """
    fields = dict(description)
    if NOT_KEPT in str(fields.get("callback_url", "")):
        if exact:
            return None
        del fields["callback_url"]
    try:
        return kind.model_validate(fields)
    except pydantic_core.ValidationError:
        return None


def fingerprint(request: Request, described: Mapping[str, Any] | None = None) -> str:
    """Equal for requests that buy the same.

    Where the provider reports to is not part of it, nor are fields that have their default, so that a field that a
    later version adds makes no conflict.

    Args:
        request: The request.
        described: What `request_to_json` made of it without its images, if that is known.
    """
    if described is None:
        described = request_to_json(request, keep_images=False)
    known = type(request).model_fields
    asked = {
        name: value
        for name, value in described.items()
        if name != "callback_url" and not (name in known and getattr(request, name) == known[name].default)
    }
    text = json.dumps([request.endpoint, asked], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def comparable_request(description: Mapping[str, Any], ignored_fields: Collection[str]) -> str:
    """Equal for requests whose price is the same: see `Ledger.spending`.

    A list of texts, such as addresses of images, counts by its length, and one address by its presence.
    """
    compared = {name: value for name, value in comparable_fields(description).items() if name not in ignored_fields}
    return json.dumps(compared, sort_keys=True)


def comparable_fields(description: Mapping[str, Any]) -> dict[str, Any]:
    """What `comparable_request` compares, by field."""
    compared: dict[str, Any] = {}
    for name, value in description.items():
        if value is None:
            continue
        if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            compared[name] = len(value)
        elif isinstance(value, str) and value.startswith(IMAGE_PREFIXES):
            compared[name] = "image"
        else:
            compared[name] = value
    return compared


def _artifact(record: dict[str, Any]) -> Artifact:
    if record.get("data") is not None:
        record["data"] = base64.urlsafe_b64decode(record["data"])
    if record.get("expires") is not None:
        record["expires"] = datetime.fromisoformat(record["expires"])
    return Artifact(**_known(Artifact, record))


def _shallow(record: Any) -> dict[str, Any]:
    return {item.name: getattr(record, item.name) for item in fields(record)}


def _known(kind: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(kind)}
    return {name: value for name, value in record.items() if name in names}


def place_of(text: str) -> Path | str:
    """Where a file was saved, of the text that was stored: a path, or the address of an object, which stays text."""
    return text if _ADDRESS.match(text) else Path(text)


_EVENT_FIELDS = tuple(item.name for item in fields(Event))
_EVENT_VALUES = attrgetter(*_EVENT_FIELDS)
_ARTIFACT_FIELDS = tuple(item.name for item in fields(Artifact))
_ARTIFACT_VALUES = attrgetter(*_ARTIFACT_FIELDS)
_ADDRESS = re.compile(r"(s3|gs|az)://")
_HALF = re.compile(r"[\ud800-\udfff]")
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")

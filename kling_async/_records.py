"""Events as JSON and back, for whoever stores them. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any

import pydantic_core

from kling_async._models import Artifact, Cost, Event, Failure, Status

__all__ = ["event_from_json", "event_to_json", "without_secrets"]

_CALLBACKS = frozenset({"callback", "callback_url", "callbackurl", "webhook", "webhook_url", "webhookurl"})
_DERIVED = {"saver"}


def event_to_json(event: Event) -> bytes:
    """The event as JSON; files that came inline as base64, amounts and times as text."""
    record = {name: value for name, value in _shallow(event).items() if value is not None and value != ()}
    record["artifacts"] = [_shallow(artifact) for artifact in event.artifacts]
    return pydantic_core.to_json(record, bytes_mode="base64", inf_nan_mode="constants", fallback=str)


def event_from_json(text: bytes | str) -> Event:
    """The event that `event_to_json` wrote. Fields that this version does not know are left out.

    Raises:
        ValueError, KeyError, TypeError: It did not.
    """
    record = pydantic_core.from_json(text)
    record["status"] = Status(record["status"])
    record["at"] = datetime.fromisoformat(record["at"])
    record["artifacts"] = tuple(_artifact(item) for item in record.get("artifacts", ()))
    record["failures"] = tuple(Failure(**_known(Failure, item)) for item in record.get("failures", ()))
    if cost := record.get("cost"):
        record["cost"] = Cost(Decimal(cost["amount"]), cost["unit"])
    return Event(**_known(Event, record))


def without_secrets(value: Any, secret: str | None) -> Any:
    """A provider's decoded answer as it may be stored: callback addresses, which carry tokens, are left out.

    Args:
        value: Decoded JSON.
        secret: The API key, which some providers repeat.
    """
    if isinstance(value, Mapping):
        return {
            name: "[left out]" if item and str(name).lower() in _CALLBACKS else without_secrets(item, secret)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(item, secret) for item in value]
    if isinstance(value, str) and secret:
        return value.replace(secret, "[the key]")
    return value


def _artifact(record: dict[str, Any]) -> Artifact:
    if record.get("data") is not None:
        record["data"] = base64.urlsafe_b64decode(record["data"])
    if record.get("expires") is not None:
        record["expires"] = datetime.fromisoformat(record["expires"])
    return Artifact(**_known(Artifact, record))


def _shallow(record: Any) -> dict[str, Any]:
    return {item.name: getattr(record, item.name) for item in fields(record) if item.name not in _DERIVED}


def _known(kind: Any, record: Mapping[str, Any]) -> dict[str, Any]:
    names = {item.name for item in fields(kind)} - _DERIVED
    return {name: value for name, value in record.items() if name in names}

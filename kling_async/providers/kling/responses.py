"""What Kling's answers say: tasks in the form of the new generation or of ``/v1``, chosen by what is there. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, TypeGuard

from kling_async._models import Artifact, Cost, Failure, Status, StatusReport
from kling_async.providers.kling.prices import UNIT_PRICE

__all__ = ["RESULT_LIFETIME", "external_id", "is_task", "task_id", "task_report"]

RESULT_LIFETIME = timedelta(days=30)
"""Kling deletes results after this time."""
_POLICY = re.compile(r"risk.?control|policy|sensitive|violat", re.IGNORECASE)
_STATUSES: Mapping[str, Status] = {
    "submitted": Status.PENDING,
    "processing": Status.PROCESSING,
    "succeed": Status.COMPLETED,  # /v1
    "succeeded": Status.COMPLETED,  # the new generation
    "failed": Status.FAILED,
}
_LISTS: Mapping[str, Literal["image", "video", "audio"]] = {
    "images": "image",
    "series_images": "image",
    "videos": "video",
    "audios": "audio",
}


def task_id(task: Mapping[str, Any]) -> str | None:
    """Kling's own id of a task."""
    value = task.get("id") if "id" in task else task.get("task_id")
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else None


def external_id(task: Mapping[str, Any]) -> str | None:
    """Our id of a task. None if it has none."""
    info = task.get("task_info")
    value = task.get("external_id") or (info.get("external_task_id") if isinstance(info, Mapping) else None)
    value = value or task.get("external_task_id")
    return value if isinstance(value, str) and value else None


def is_task(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a decoded object is a task of either form."""
    return (
        isinstance(value, dict)
        and task_id(value) is not None
        and not value.keys().isdisjoint({"status", "task_status"})
    )


def _failure(reason: str | None) -> Failure:
    """Why a task failed. Kling gives no code. The same request would be stopped by its policy again."""
    stopped = reason is not None and _POLICY.search(reason) is not None
    return Failure("unknown", reason, False if stopped else None)


def task_report(task: Mapping[str, Any]) -> StatusReport:
    """What a task's answer reports.

    Raises:
        ValueError: Its status is success, and it names no file.
    """
    word = task.get("task_status", task.get("status"))
    status = _STATUSES.get(word.strip().lower()) if isinstance(word, str) else None
    # The reason of a failure. The message around a task of /v1 stays "SUCCEED" even then, and is never read.
    reason = task.get("task_status_msg") or (task.get("message") if "task_status" not in task else None)
    reason = reason if isinstance(reason, str) and reason else None
    artifacts: tuple[Artifact, ...] = ()
    if status is Status.COMPLETED:
        artifacts = tuple(_artifacts(task))
        if not artifacts:
            raise ValueError("it says that the task succeeded and names no file")
    failed = status is Status.FAILED
    return StatusReport(
        status,
        message=reason if failed else None,
        artifacts=artifacts,
        failures=(_failure(reason),) if failed else (),
        cost=_cost(task, artifacts) if status is not None and status.terminal else None,
        lifetime=RESULT_LIFETIME.total_seconds() if any(file.expires is None for file in artifacts) else None,
        unrecognized=None if status is not None else f"the status {word!r}",
        raw=dict(task),
    )


def _artifacts(task: Mapping[str, Any]) -> Iterator[Artifact]:
    expires = _expires(task)
    for index, (kind, item) in enumerate(_files(task)):
        url = next((item[name] for name in ("url", "mp3_url", "url_mp3", "wav_url", "url_wav") if item.get(name)), None)
        if isinstance(url, str):
            named = item.get("id")
            yield Artifact(kind, url, id=str(named) if named else None, expires=expires, index=index)


def _files(task: Mapping[str, Any]) -> Iterator[tuple[Literal["image", "video", "audio"], Mapping[str, Any]]]:
    outputs = task.get("outputs")
    if isinstance(outputs, list):
        for item in outputs:
            if isinstance(item, dict) and item.get("type") in ("image", "video", "audio"):  # any JSON value
                yield item["type"], item
        return
    result = task.get("task_result")
    for name, kind in _LISTS.items():
        items = result.get(name) if isinstance(result, Mapping) else None
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict):
                yield kind, item


def _expires(task: Mapping[str, Any]) -> datetime | None:
    """When the files are deleted, counted from the task's last change."""
    changed = task.get("update_time", task.get("updated_at"))
    if not isinstance(changed, int) or not 0 < changed < 10**14:
        return None
    return datetime.fromtimestamp(changed / 1000, UTC) + RESULT_LIFETIME


def _cost(task: Mapping[str, Any], artifacts: tuple[Artifact, ...]) -> Cost | None:
    """What the task cost in USD. None if it does not say, or not in a currency that we count in."""
    billing = task.get("billing")
    if isinstance(billing, list) and billing:
        amounts = [_billed(entry) for entry in billing]
    else:
        kinds = {artifact.kind for artifact in artifacts}
        balance = task.get("final_balance_deduction")
        units = task.get("final_unit_deduction")
        quota = balance.get("quota") if isinstance(balance, Mapping) else None
        if quota not in (None, "", "0", 0):  # any JSON value
            return None  # its currency is not reported
        amounts = [_units(units, next(iter(kinds), ""))] if units not in (None, "") else []
    known = [amount for amount in amounts if amount is not None]
    if not known or len(known) != len(amounts):
        return None
    return Cost(sum(known, Decimal(0)), "USD")


def _billed(entry: Any) -> Decimal | None:
    if not isinstance(entry, dict):
        return None
    if entry.get("charge_type") == "unit":
        return _units(entry.get("amount"), str(entry.get("package_type", "")))
    return _decimal(entry.get("amount")) if entry.get("currency") == "USD" else None


def _units(amount: Any, pack: str) -> Decimal | None:
    number, rate = _decimal(amount), UNIT_PRICE.get(pack)
    if number == 0:
        return Decimal(0)
    return number * rate if number is not None and rate is not None else None


def _decimal(value: Any) -> Decimal | None:
    cost = Cost.parse(str(value), "USD") if isinstance(value, str | int | float) else None
    return cost.amount if cost is not None else None

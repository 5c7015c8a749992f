"""Status words are read without regard to case, at every provider whose words are letters."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any

import pytest

from kling_async import Status
from kling_async._exchange.calls import Call, Reply
from kling_async._models import JobRef
from kling_async.providers import load_providers
from kling_async.providers._base.provider import Provider

KINDS = {kind.name: kind for kind in load_providers()}
ID = "550e8400-e29b-41d4-a716-446655440000"
ANSWERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "runblob": (f"runblob/o3-video/{ID}", {"generation_id": ID, "status": "processing"}),
    "pixeldojo": (f"pixeldojo/image-v3/{ID}", {"jobId": ID, "status": "processing"}),
    "kling": (
        f"kling/image-generation/{ID}",
        {"code": 0, "data": [{"id": "7", "external_id": ID, "status": "processing"}]},
    ),
    "fal": (f"fal/image/fal-ai~kling-image:o1:{ID}", {"request_id": ID, "status": "IN_PROGRESS"}),
    "replicate": (f"replicate/kling-o1/{ID}", {"id": ID, "status": "processing"}),
}


def spelled(value: Any, change: Any) -> Any:
    """The answer with its status words changed."""
    if isinstance(value, list):
        return [spelled(part, change) for part in value]
    if not isinstance(value, dict):
        return value
    return {name: change(part) if name == "status" else spelled(part, change) for name, part in value.items()}


def poll(provider: Provider, ref: JobRef, answer: Any) -> Any:
    flow: Generator[Call, Reply, Any] = provider.poll([ref])
    reply = Reply(200, {"content-type": "application/json"}, json.dumps(answer).encode())
    try:
        next(flow)
        while True:
            flow.send(reply)
    except StopIteration as end:
        return end.value[ref]


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title, lambda word: f" {word} "])
@pytest.mark.parametrize("name", ANSWERS)
def test_status_words_are_read_without_regard_to_case(name: str, change: Any) -> None:
    ref, answer = ANSWERS[name]
    report = poll(KINDS[name](api_key="key"), JobRef.parse(ref), spelled(answer, change))
    assert (report.status, report.unrecognized) == (Status.PROCESSING, None)

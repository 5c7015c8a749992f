"""The recorded samples that the client is tested with are what the sandbox speaks: one truth, two readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from kling_async.sandbox.emulator.jobs import Phase

if TYPE_CHECKING:
    from kling_async.sandbox import Sandbox

SAMPLES = Path(__file__).parents[2] / "samples" / "runblob"
PAGES = {"photo": "/v1/kling/o3-photo", "video": "/v1/kling/o3-video"}
ENOUGH = 1000.0

#: Submissions whose recorded answer is what the documentation shows. The other samples record oddities.
SUBMISSIONS = [
    f"{page}-submit-{name}"
    for page, names in {
        "photo": ("defaults", "full", "inline", "native"),
        "video": ("defaults", "full", "inline", "native-mode", "native-mode-std", "native-model"),
    }.items()
    for name in names
]

Buy = Callable[..., str]


def _sample(name: str) -> dict[str, Any]:
    sample: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text())
    return sample


def _exchange(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recorded call and reply."""
    exchange = _sample(name)["exchanges"][0]
    return exchange["call"], exchange["reply"]


def _shape(body: dict[str, Any]) -> dict[str, str]:
    """The names and types. A URL and no URL are two types."""
    return {name: type(value).__name__ for name, value in body.items()}


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_every_recorded_submission_is_accepted_with_the_recorded_shape(client: httpx.Client, name: str) -> None:
    call, recorded = _exchange(name)
    answer = client.request(call["method"], call["url"], json=call["json"])
    assert answer.status_code == recorded["status"]
    assert _shape(answer.json()) == _shape(recorded["json"])
    assert answer.json()["status"] == recorded["json"]["status"]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("word", ["pending", "processing", "completed"])
def test_status_answers_have_the_recorded_shape(
    sandbox: Sandbox, client: httpx.Client, bought: Buy, page: str, word: str
) -> None:
    sandbox.plan_next(duration=100)
    job = bought(PAGES[page])
    sandbox.state.clock.advance({"pending": 0, "processing": 50, "completed": 100}[word])
    answer = client.get(f"{PAGES[page]}/generations/{job}")
    _, recorded = _exchange(f"{page}-poll-{word}")
    assert answer.status_code == recorded["status"]
    assert _shape(answer.json()) == _shape(recorded["json"])
    assert answer.json()["status"] == word
    assert answer.json()["model"] == recorded["json"]["model"]


@pytest.mark.parametrize(
    ("page", "name", "code"), [("photo", "failed-silent", "TASK_FAILED"), ("video", "failed-timeout", "TIMEOUT")]
)
def test_failures_have_the_recorded_shape(
    sandbox: Sandbox, client: httpx.Client, bought: Buy, page: str, name: str, code: str
) -> None:
    sandbox.plan_next(fail=code)
    job = bought(PAGES[page])
    sandbox.state.clock.advance(ENOUGH)
    answer = client.get(f"{PAGES[page]}/generations/{job}").json()
    _, recorded = _exchange(f"{page}-poll-{name}")
    assert _shape(answer) == _shape(recorded["json"])
    assert answer.get("message") == recorded["json"].get("message")


def _as_on_the_page(answer: httpx.Response) -> dict[str, Any]:
    """The body without the `detail` that the sandbox adds for the example clients, where the page does not have it."""
    body: dict[str, Any] = answer.json()
    if body.get("detail") == body.get("message"):
        del body["detail"]
    return body


@pytest.mark.parametrize(
    ("name", "page", "fields"),
    [
        ("error-invalid-duration", "video", {"duration": "7"}),
        ("error-invalid-model", "video", {"model": "kling_o9"}),
        ("error-invalid-image", "video", {"images_base64": ["data:image/png;base64,aGVsbG8="]}),
        ("error-image-inaccessible", "video", {"images_url": ["https://nowhere.invalid/a.png"]}),
        ("error-invalid-parameters", "video", {"callback_url": "http://example.com/hook"}),
        ("error-too-many-images", "photo", {"images_url": ["https://example.com/a.png"] * 11}),
        ("error-mixed-image-inputs", "photo", {"images_url": ["https://a.example/a"], "images_base64": ["data:"]}),
    ],
)
def test_refusals_are_the_recorded_ones(client: httpx.Client, name: str, page: str, fields: dict[str, Any]) -> None:
    answer = client.post(f"{PAGES[page]}/generate", json={"prompt": "a fox", **fields})
    _, recorded = _exchange(name)
    assert (answer.status_code, _as_on_the_page(answer)) == (recorded["status"], recorded["json"])


@pytest.mark.parametrize(
    ("name", "fault"),
    [("error-429", "rate-limited"), ("error-maintenance", "unavailable"), ("video-poll-rate-limited", "rate-limited")],
)
def test_refusals_for_now_are_the_recorded_ones(sandbox: Sandbox, client: httpx.Client, name: str, fault: str) -> None:
    sandbox.faults.add(fault)
    call, recorded = _exchange(name)
    answer = client.request(call["method"], call["url"], json=call.get("json"))
    assert (answer.status_code, _as_on_the_page(answer)) == (recorded["status"], recorded["json"])


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("error-missing-credentials", {}),
        ("error-error-message", {"Authorization": "Bearer wrong"}),
        ("video-poll-unauthorized", {"Authorization": "Bearer wrong"}),
    ],
)
def test_strangers_hear_the_recorded_words(sandbox: Sandbox, name: str, headers: dict[str, str]) -> None:
    call, recorded = _exchange(name)
    url = sandbox.base_url("runblob") + call["url"]
    answer = httpx.request(call["method"], url, json=call.get("json"), headers=headers, trust_env=False)
    assert (answer.status_code, _as_on_the_page(answer)) == (recorded["status"], recorded["json"])


@pytest.mark.parametrize("page", PAGES)
def test_unknown_jobs_are_denied_in_the_recorded_words(client: httpx.Client, page: str) -> None:
    call, recorded = _exchange(f"{page}-poll-not-found")
    answer = client.get(call["url"])
    assert (answer.status_code, _as_on_the_page(answer)) == (recorded["status"], recorded["json"])


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("ending", "code"), [("completed", None), ("failed", "CONTENT_POLICY_VIOLATION")])
def test_webhooks_have_the_recorded_shape(
    sandbox: Sandbox, bought: Buy, page: str, ending: str, code: str | None
) -> None:
    sandbox.plan_next(fail=code)
    bought(PAGES[page])
    (job,) = sandbox.state.jobs.values()
    assert job.phase(job.ends) is Phase(ending)
    habit = sandbox._emulations["runblob"].webhook
    assert habit is not None
    body = habit.body(job, 0)
    recorded = _sample(f"{page}-webhook-{ending}")["body"]
    assert _shape(body) == _shape(recorded)
    assert body["status"] == recorded["status"]

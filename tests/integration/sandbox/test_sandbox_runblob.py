"""Every wire fact of RunBlob's pages, as the sandbox speaks it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from kling_async.sandbox import Sandbox

VIDEO = "/v1/kling/o3-video"
PHOTO = "/v1/kling/o3-photo"
ENOUGH = 1000.0  # simulated seconds after which every job has ended

Buy = Callable[..., str]
Uri = Callable[..., str]


@pytest.mark.parametrize(("page", "price"), [(PHOTO, "0.0500"), (VIDEO, "0.1500")])
def test_submit_answers_201_with_an_id_pending_and_the_price_as_text(
    client: httpx.Client, sandbox: Sandbox, page: str, price: str
) -> None:
    answer = client.post(f"{page}/generate", json={"prompt": "a fox"})
    assert answer.status_code == 201
    body = answer.json()
    assert uuid.UUID(body.pop("generation_id")).version == 4
    assert body == {"status": "pending", "price": price}
    assert sandbox.counters.bought == {"runblob": 1}


@pytest.mark.parametrize(
    ("fields", "price"),
    [
        ({"duration": "10"}, "0.3000"),
        ({"duration": "15"}, "0.4500"),
        ({"model": "kling_o3_pro"}, "0.3000"),
        ({"duration": "15", "model": "kling_o3_pro"}, "0.9000"),
    ],
)
def test_the_price_follows_length_and_model(client: httpx.Client, fields: dict[str, str], price: str) -> None:
    answer = client.post(f"{VIDEO}/generate", json={"prompt": "a fox", **fields})
    assert answer.json()["price"] == price


def test_a_video_goes_through_pending_and_processing_to_completed(
    client: httpx.Client, sandbox: Sandbox, bought: Buy
) -> None:
    sandbox.plan_next(duration=100)
    generation = bought(VIDEO, duration="10", model="kling_o3_pro")
    seen = []
    for _ in range(3):
        seen.append(client.get(f"{VIDEO}/generations/{generation}").json())
        sandbox.state.clock.advance(51)
    running = {
        "generation_id": generation,
        "prompt": "a fox in the snow",
        "video_url": None,
        "model": "kling-o3-video-10s-pro",
    }
    assert seen[0] == {**running, "status": "pending"}
    assert seen[1] == {**running, "status": "processing"}
    url = seen[2].pop("video_url")
    assert seen[2] == {k: v for k, v in running.items() if k != "video_url"} | {"status": "completed"}
    assert url.startswith(f"{sandbox.url}/cdn/")
    assert url.endswith(".mp4")


def test_a_photo_has_an_image_url_and_its_own_model_name(client: httpx.Client, sandbox: Sandbox, bought: Buy) -> None:
    generation = bought(PHOTO, prompt="a still fox")
    sandbox.state.clock.advance(ENOUGH)
    answer = client.get(f"{PHOTO}/generations/{generation}")
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("image_url").endswith(".png")
    assert body == {
        "generation_id": generation,
        "status": "completed",
        "prompt": "a still fox",
        "model": "kling_o3_photo",
    }


def test_a_failed_photo_says_no_reason_when_polled(client: httpx.Client, sandbox: Sandbox, bought: Buy) -> None:
    """The O3 status pages send the reader to the webhook for the reason."""
    sandbox.plan_next(fail="CONTENT_POLICY_VIOLATION")
    generation = bought(PHOTO)
    sandbox.state.clock.advance(ENOUGH)
    body = client.get(f"{PHOTO}/generations/{generation}").json()
    assert (body["status"], body["image_url"]) == ("failed", None)
    assert "message" not in body


def test_a_failed_video_carries_the_code_as_message(client: httpx.Client, sandbox: Sandbox, bought: Buy) -> None:
    """A sibling page shows `message` in status answers."""
    generation = bought(VIDEO, prompt="a fox [sandbox: fail=CONTENT_POLICY_VIOLATION duration=3]")
    sandbox.state.clock.advance(3)
    body = client.get(f"{VIDEO}/generations/{generation}").json()
    assert (body["status"], body["message"]) == ("failed", "CONTENT_POLICY_VIOLATION")


def test_a_job_longer_than_15_minutes_fails_with_timeout(client: httpx.Client, sandbox: Sandbox, bought: Buy) -> None:
    sandbox.plan_next(duration=5000)
    generation = bought(VIDEO)
    sandbox.state.clock.advance(899)
    assert client.get(f"{VIDEO}/generations/{generation}").json()["status"] == "processing"
    sandbox.state.clock.advance(1)
    body = client.get(f"{VIDEO}/generations/{generation}").json()
    assert (body["status"], body["message"]) == ("failed", "TIMEOUT")


def test_a_stuck_job_never_ends(client: httpx.Client, sandbox: Sandbox, bought: Buy) -> None:
    generation = bought(VIDEO, prompt="a fox [sandbox: stuck]")
    sandbox.state.clock.advance(1e6)
    assert client.get(f"{VIDEO}/generations/{generation}").json()["status"] == "processing"


@pytest.mark.parametrize(
    ("page", "body"),
    [
        (VIDEO, {"detail": "GENERATION_NOT_FOUND"}),
        (PHOTO, {"success": False, "message": "GENERATION_NOT_FOUND", "detail": "GENERATION_NOT_FOUND"}),
    ],
)
def test_an_unknown_generation_is_404_in_the_pages_own_envelope(
    client: httpx.Client, page: str, body: dict[str, Any]
) -> None:
    answer = client.get(f"{page}/generations/550e8400-e29b-41d4-a716-446655440000")
    assert (answer.status_code, answer.json()) == (404, body)


def test_a_video_is_not_found_among_the_photos(client: httpx.Client, bought: Buy) -> None:
    assert client.get(f"{PHOTO}/generations/{bought(VIDEO)}").status_code == 404


@pytest.mark.parametrize(
    ("page", "authorization", "body"),
    [
        (VIDEO, None, {"detail": "Missing credentials"}),
        (PHOTO, None, {"error": "Unauthorized", "message": "Missing API key", "detail": "Missing API key"}),
        (VIDEO, "Bearer wrong", {"error": "Unauthorized", "message": "Invalid API key", "detail": "Invalid API key"}),
        (PHOTO, "Bearer wrong", {"error": "Unauthorized", "message": "Invalid API key", "detail": "Invalid API key"}),
        (VIDEO, "Basic {key}", {"error": "Unauthorized", "message": "Invalid API key", "detail": "Invalid API key"}),
        (VIDEO, "{key}", {"error": "Unauthorized", "message": "Invalid API key", "detail": "Invalid API key"}),
    ],
)
def test_without_a_good_key_every_call_is_401(
    sandbox: Sandbox, page: str, authorization: str | None, body: dict[str, str]
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.format(key=sandbox.api_key("runblob"))}
    with httpx.Client(base_url=sandbox.base_url("runblob"), headers=headers, trust_env=False) as stranger:
        submit = stranger.post(f"{page}/generate", json={"prompt": "a fox"})
        status = stranger.get(f"{page}/generations/550e8400-e29b-41d4-a716-446655440000")
    assert (submit.status_code, submit.json()) == (401, body)
    assert (status.status_code, status.json()) == (401, body)
    assert sandbox.counters.jobs_bought == 0


def test_a_revoked_key_is_401_from_then_on(client: httpx.Client, sandbox: Sandbox, bought: Buy) -> None:
    generation = bought()
    sandbox.state.accounts("runblob")[0].revoked = True
    assert client.get(f"{VIDEO}/generations/{generation}").status_code == 401


@pytest.mark.parametrize(
    ("page", "body"),
    [
        (VIDEO, {"detail": "INSUFFICIENT_CREDITS"}),
        (PHOTO, {"success": False, "message": "INSUFFICIENT_CREDITS", "detail": "INSUFFICIENT_CREDITS"}),
    ],
)
def test_without_credits_402_and_nothing_is_bought(
    connect: Callable[[Sandbox], httpx.Client], page: str, body: dict[str, Any]
) -> None:
    with Sandbox(speed=0, credits=0.04) as sandbox:
        answer = connect(sandbox).post(f"{page}/generate", json={"prompt": "a fox"})
        assert (answer.status_code, answer.json()) == (402, body)
        assert sandbox.counters.jobs_bought == 0


def test_a_failed_job_gives_its_credits_back_when_it_ends(connect: Callable[[Sandbox], httpx.Client]) -> None:
    with Sandbox(speed=0, credits={"runblob": 0.15}) as sandbox:
        client = connect(sandbox)
        sandbox.plan_next(fail="TASK_FAILED", duration=60)
        order = {"prompt": "a fox"}
        codes = [client.post(f"{VIDEO}/generate", json=order).status_code for _ in range(2)]
        sandbox.state.clock.advance(60)
        codes.append(client.post(f"{VIDEO}/generate", json=order).status_code)
        assert codes == [201, 402, 201]
        assert sandbox.counters.bought["runblob"] == 2
        assert sandbox.counters.refused["runblob", 402] == 1


@pytest.mark.parametrize(
    ("page", "body"),
    [
        (VIDEO, {"detail": "RATE_LIMIT_EXCEEDED"}),
        (PHOTO, {"success": False, "message": "RATE_LIMIT_EXCEEDED", "detail": "RATE_LIMIT_EXCEEDED"}),
    ],
)
def test_status_calls_are_limited_per_key_over_all_jobs(
    connect: Callable[[Sandbox], httpx.Client], page: str, body: dict[str, Any]
) -> None:
    with Sandbox(speed=0, rate_limit=60) as sandbox:
        client = connect(sandbox)
        ids = [client.post(f"{page}/generate", json={"prompt": "f"}).json()["generation_id"] for _ in range(2)]
        calls = [client.get(f"{page}/generations/{ids[n % 2]}").status_code for n in range(60)]
        refused = client.get(f"{page}/generations/{ids[0]}")
        assert set(calls) == {200}
        assert (refused.status_code, refused.json()) == (429, body)
        assert "retry-after" not in refused.headers
        sandbox.state.clock.advance(60)
        assert client.get(f"{page}/generations/{ids[0]}").status_code == 200
        assert sandbox.counters.status_calls == 62


def test_durations_follow_the_documented_distributions() -> None:
    """The middle 80 % of 100 jobs lie in the documented ranges, give or take a tenth."""
    ranges = {
        (VIDEO, "5", "kling_o3"): (120, 180),
        (VIDEO, "10", "kling_o3"): (180, 300),
        (VIDEO, "15", "kling_o3"): (300, 420),
        (VIDEO, "5", "kling_o3_pro"): (120 * 1.3, 180 * 1.5),
        (PHOTO, None, None): (70, 210),
    }
    with Sandbox(speed=0) as sandbox:
        for (page, duration, model), (least, most) in ranges.items():
            fields = {"duration": duration, "model": model} if duration else {}
            _buy_many(sandbox, page, fields, 100)
            lives = sorted(job.ends - job.created for job in sandbox.state.jobs.values())
            assert least / 1.1 < lives[10] < lives[90] < most * 1.1, (page, duration, model)
            sandbox.state.jobs.clear()


def _buy_many(sandbox: Sandbox, page: str, fields: dict[str, Any], count: int) -> None:
    headers = {"Authorization": f"Bearer {sandbox.api_key('runblob')}"}
    with httpx.Client(base_url=sandbox.base_url("runblob"), headers=headers, trust_env=False) as client:
        for number in range(count):
            answer = client.post(f"{page}/generate", json={"prompt": f"fox {number}", **fields})
            assert answer.status_code == 201


def test_equal_seeds_and_orders_give_equal_jobs_in_any_order(
    connect: Callable[[Sandbox], httpx.Client],
) -> None:
    prompts = ["a fox", "a bear", "a fox"]
    plans = []
    for order, seed in ((prompts, 7), (prompts[::-1], 7), (prompts, 8)):
        with Sandbox(speed=0, seed=seed) as sandbox:
            client = connect(sandbox)
            for prompt in order:
                client.post(f"{VIDEO}/generate", json={"prompt": prompt})
            plans.append({(job.id, job.order.prompt, job.ends) for job in sandbox.state.jobs.values()})
    assert len(plans[0]) == 3
    assert plans[0] == plans[1]
    assert not {job_id for job_id, *_ in plans[0]} & {job_id for job_id, *_ in plans[2]}


def test_unknown_addresses_are_404_and_wrong_methods_405(client: httpx.Client) -> None:
    assert client.get("/v1/kling/o9-video/generations/1").status_code == 404
    assert client.get(f"{VIDEO}/generate").status_code == 405
    assert client.delete(f"{VIDEO}/generations/1").status_code == 405


def test_references_of_either_kind_are_accepted(client: httpx.Client, data_uri: Uri) -> None:
    urls = [f"https://example.com/{n}.jpg" for n in range(5)]
    assert client.post(f"{VIDEO}/generate", json={"prompt": "x", "images_url": urls}).status_code == 201
    inline = [data_uri(kind) for kind in ("png", "jpeg", "webp", "gif")]
    assert client.post(f"{VIDEO}/generate", json={"prompt": "x", "images_base64": inline}).status_code == 201
    ten = [data_uri()] * 10
    photo = {"prompt": "x", "images_base64": ten, "aspect_ratio": "auto", "prefer_multi_shots": True}
    assert client.post(f"{PHOTO}/generate", json=photo).status_code == 201


def test_every_documented_value_is_accepted(client: httpx.Client) -> None:
    for ratio in ("auto", "1:1", "9:16", "2:3", "3:4", "4:3", "3:2", "16:9", "21:9"):
        for resolution in ("1k", "2k", "4k"):
            body = {"prompt": "x", "aspect_ratio": ratio, "img_resolution": resolution}
            assert client.post(f"{PHOTO}/generate", json=body).status_code == 201
    for ratio in ("16:9", "9:16", "1:1"):
        for model in ("kling_o3", "kling_o3_pro"):
            body = {"prompt": "x" * 2500, "aspect_ratio": ratio, "model": model}
            full = {**body, "keep_original_sound": False, "callback_url": "https://example.com/hook"}
            assert client.post(f"{VIDEO}/generate", json=full).status_code == 201


@pytest.mark.parametrize(("mode", "model", "price"), [("std", "kling_o3", "0.1500"), ("pro", "kling_o3_pro", "0.3000")])
def test_mode_is_another_name_of_the_model(
    client: httpx.Client, sandbox: Sandbox, mode: str, model: str, price: str
) -> None:
    for fields in ({"mode": mode}, {"mode": mode, "model": model}):
        answer = client.post(f"{VIDEO}/generate", json={"prompt": "a fox", **fields})
        assert (answer.status_code, answer.json()["price"]) == (201, price)
    assert {job.order.params["model"] for job in sandbox.state.jobs.values()} == {model}


@pytest.mark.parametrize("page", [VIDEO, PHOTO])
@pytest.mark.parametrize(
    ("fields", "status"),
    [({}, 422), ({"prompt": "x", "callback_url": "no"}, 400), ({"prompt": "x", "img_resolution": "8k"}, 422)],
)
def test_every_error_has_a_detail_that_can_be_shown(
    client: httpx.Client, page: str, fields: dict[str, str], status: int
) -> None:
    """The example clients of both pages raise `Error(body.detail)`."""
    answer = client.post(f"{page}/generate", json=fields)
    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)
    assert answer.json()["detail"]

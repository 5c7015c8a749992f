"""The sandbox's PixelDojo, on real sockets: as strict as the documents, and understood by the client."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from kling_async import (
    Client,
    Cost,
    GenerationFailed,
    InsufficientCredits,
    InvalidRequest,
    PixelDojo,
    Polling,
    Progressive,
    Status,
    SubmissionUnknown,
    Unauthorized,
    pixeldojo,
)
from kling_async.sandbox import Sandbox
from support.samples import SAMPLES, Sample

pytestmark = pytest.mark.sandbox(speed=0, credits={"pixeldojo": 10})

RUN = "/models/kling-image/run"


@pytest.fixture
def api(sandbox: Sandbox) -> Iterator[httpx.Client]:
    """A bare HTTP client with the customer's key."""
    headers = {"authorization": f"Bearer {sandbox.api_key('pixeldojo')}"}
    with httpx.Client(base_url=sandbox.base_url("pixeldojo"), headers=headers, timeout=10) as client:
        yield client


def client_of(sandbox: Sandbox, **polling: Any) -> Client:
    quick = Polling(schedule=Progressive(0.01), status_calls_per_minute=1e9, **polling)
    provider = PixelDojo(sandbox.api_key("pixeldojo"), sandbox.base_url("pixeldojo"))
    return Client(provider, polling=quick)


# The dialect.


def test_a_submission_is_answered_as_documented(sandbox: Sandbox, api: httpx.Client) -> None:
    answer = api.post(RUN, json={"prompt": "a fox", "num_outputs": 3})
    assert answer.status_code == 202
    body = answer.json()
    assert set(body) == {"jobId", "status", "statusUrl", "creditCost", "creditsRemaining"}
    assert body["jobId"].startswith("job_")
    assert (body["status"], body["creditCost"], body["creditsRemaining"]) == ("pending", 3, 7)
    assert body["statusUrl"] == f"{sandbox.base_url('pixeldojo')}/jobs/{body['jobId']}"
    assert sandbox.counters.bought["pixeldojo"] == 1


def test_a_job_goes_from_pending_over_processing_to_its_images(sandbox: Sandbox, api: httpx.Client) -> None:
    sandbox.plan_next("pixeldojo", duration=20)
    job = api.post(RUN, json={"prompt": "a fox", "num_outputs": 2}).json()["jobId"]
    seen = []
    for _ in range(3):
        seen.append(api.get(f"/jobs/{job}").json())
        sandbox.state.clock.advance(10)
    assert [body["status"] for body in seen] == ["pending", "processing", "completed"]
    assert [body["output"] for body in seen[:2]] == [None, None]
    assert len(set(seen[2]["output"]["images"])) == 2
    assert all(body["jobId"] == job for body in seen)


REFUSED = {
    "no prompt": {},
    "an empty prompt": {"prompt": ""},
    "a prompt that is no text": {"prompt": 7},
    "the newer page's num_images": {"prompt": "a fox", "num_images": 2},
    "our own word for the count": {"prompt": "a fox", "count": 2},
    "an image field": {"prompt": "a fox", "image": "https://img.example/1.png"},
    "lower case": {"prompt": "a fox", "resolution": "1k"},
    "4K": {"prompt": "a fox", "resolution": "4K"},
    "an unlisted ratio": {"prompt": "a fox", "aspect_ratio": "auto"},
    "no images": {"prompt": "a fox", "num_outputs": 0},
    "ten images": {"prompt": "a fox", "num_outputs": 10},
    "a count as text": {"prompt": "a fox", "num_outputs": "2"},
    "jpg": {"prompt": "a fox", "output_format": "jpg"},
    "null": {"prompt": "a fox", "negative_prompt": None},
    "a callback to plain http": {"prompt": "a fox", "webhook_url": "http://example.com/hook"},
    "an empty callback": {"prompt": "a fox", "webhook_url": ""},
    "a list": [],
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_what_the_schema_does_not_list_is_refused(sandbox: Sandbox, api: httpx.Client, body: Any) -> None:
    answer = api.post(RUN, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["status"]) == ("invalid_request", 400)
    assert error["message"]
    assert sandbox.counters.bought["pixeldojo"] == 0


def test_bodies_that_are_no_json_are_refused(api: httpx.Client) -> None:
    answers = [
        api.post(RUN, content=b'{"prompt": "a f', headers={"content-type": "application/json"}),
        api.post(RUN, content=b'{"prompt": "a fox"}', headers={"content-type": "text/plain"}),
        api.post(RUN, content=b"\xff\xfe", headers={"content-type": "application/json"}),
    ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (400, "invalid_request")
    ] * 3


def test_every_refusal_has_the_documented_code(sandbox: Sandbox, api: httpx.Client) -> None:
    stranger = {"authorization": "Bearer pd_nobody"}
    assert api.post(RUN, json={"prompt": "a fox", "num_outputs": 9}).status_code == 202
    answers = [
        api.post(RUN, json={"prompt": "a fox"}, headers=stranger),
        api.post(RUN, json={"prompt": "a fox", "num_outputs": 2}),
        api.post("/models/kling-video/run", json={"prompt": "a fox"}),
        api.get("/jobs/job_ffffffffffffffffffffffffffffffff"),
    ]
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [
        (401, "unauthorized"),
        (402, "insufficient_credits"),
        (404, "model_not_found"),
        (404, "job_not_found"),
    ]
    assert sandbox.counters.bought["pixeldojo"] == 1


def test_an_order_that_the_sandbox_does_not_know_is_refused_in_pixeldojos_words(api: httpx.Client) -> None:
    answer = api.post(RUN, json={"prompt": "a fox [sandbox: fly]"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert "it knows fail=CODE" in answer.json()["error"]["message"]


def test_faults_speak_pixeldojos_words(sandbox: Sandbox, api: httpx.Client) -> None:
    sandbox.faults.add("rate-limited:submit:times=1,hint=body,seconds=7")
    limited = api.post(RUN, json={"prompt": "a fox"})
    assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limited")
    assert limited.json()["retry_after"] == 7
    sandbox.faults.add("server-error:submit:times=1")
    broken = api.post(RUN, json={"prompt": "a fox"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (500, "internal_error")
    assert sandbox.counters.bought["pixeldojo"] == 0


@pytest.mark.parametrize("job", ["job_", "job_xyz", "ffffffffffffffffffffffffffffffff", "job_7", "%2e%2e"])
def test_an_id_that_is_none_is_not_found(api: httpx.Client, job: str) -> None:
    assert api.get(f"/jobs/{job}").status_code == 404


def test_polls_are_limited_if_asked(api: httpx.Client) -> None:
    with Sandbox(speed=0, rate_limit={"pixeldojo": 2}) as sandbox:
        headers = {"authorization": f"Bearer {sandbox.api_key('pixeldojo')}"}
        with httpx.Client(base_url=sandbox.base_url("pixeldojo"), headers=headers) as client:
            job = client.post(RUN, json={"prompt": "a fox"}).json()["jobId"]
            answers = [client.get(f"/jobs/{job}") for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 429]
            assert answers[2].json()["error"]["code"] == "rate_limited"
            sandbox.state.clock.advance(60)
            assert client.get(f"/jobs/{job}").status_code == 200


def test_an_account_without_a_limit_never_runs_dry() -> None:
    with Sandbox(speed=0) as sandbox:
        headers = {"authorization": f"Bearer {sandbox.api_key('pixeldojo')}"}
        with httpx.Client(base_url=sandbox.base_url("pixeldojo"), headers=headers) as client:
            left = [client.post(RUN, json={"prompt": "a fox"}).json()["creditsRemaining"] for _ in range(2)]
            assert left == [1_000_000, 1_000_000]


@pytest.mark.parametrize(
    "sample",
    [s for s in SAMPLES if s.name.startswith("pixeldojo/submit-") and "num-images" not in s.name],
    ids=lambda sample: str(sample.name),
)
def test_what_the_client_sends_is_what_the_sandbox_takes(sample: Sample, api: httpx.Client) -> None:
    """Every recorded submission. The answer has the same fields as the recorded one."""
    [exchange] = sample.exchanges
    answer = api.post(exchange["call"]["url"], json=exchange["call"]["json"])
    assert answer.status_code == 202
    assert set(exchange["reply"]["json"]) <= set(answer.json())


def test_the_newer_name_of_the_count_is_taken_by_no_strict_schema_of_the_older(api: httpx.Client) -> None:
    [sample] = [s for s in SAMPLES if s.name == "pixeldojo/submit-count-field-num-images"]
    assert api.post(RUN, json=sample.exchanges[0]["call"]["json"]).status_code == 400


# The client on the sandbox.


@pytest.mark.anyio
@pytest.mark.sandbox(speed=0, credits={"pixeldojo": 10}, scale=None)
async def test_a_client_gets_its_pictures(sandbox: Sandbox, tmp_path: Path) -> None:
    """Three pictures of the right format and shape, saved, what they cost and what is left."""
    sandbox.plan_next("pixeldojo", duration=20)
    async with client_of(sandbox) as client:
        job = await client.submit(pixeldojo.ImageV3("a fox", "people", "1k", "3:2", 3, "webp"))
        assert job.ref.endpoint == "pixeldojo/image-v3"
        statuses = [job.status]
        for _ in range(2):
            sandbox.state.clock.advance(10)
            statuses.append(await job.refresh())
        assert statuses == [Status.PENDING, Status.PROCESSING, Status.COMPLETED]
        result = await job
        paths = await result.save(tmp_path / "out")
    assert (result.cost, result.balance) == (Cost(Decimal(3), "credits"), Cost(Decimal(7), "credits"))
    assert len(set(paths)) == 3
    for path in paths:
        with Image.open(path) as picture:
            assert picture.format == "WEBP"
            width, height = picture.size
            assert abs(width / height - 3 / 2) < 0.03
            assert abs(width * height / 1024**2 - 1) < 0.05
    assert sandbox.counters.bought["pixeldojo"] == 1


@pytest.mark.anyio
async def test_an_empty_account_is_reported_and_nothing_is_bought(sandbox: Sandbox) -> None:
    [provider] = [one for one in sandbox.providers() if one.name == "pixeldojo"]
    async with Client(provider) as client:
        await client.submit(pixeldojo.ImageV3("a fox", count=9))
        with pytest.raises(InsufficientCredits, match="insufficient_credits") as refused:
            await client.submit(pixeldojo.ImageV3("a fox", count=2))
    assert refused.value.http_status == 402
    assert sandbox.counters.bought["pixeldojo"] == 1


@pytest.mark.anyio
async def test_a_wrong_key_is_reported_without_being_repeated(sandbox: Sandbox) -> None:
    provider = PixelDojo("pd_wrong_key", sandbox.base_url("pixeldojo"))
    async with Client(provider) as client:
        with pytest.raises(Unauthorized, match="check PIXELDOJO_API_KEY") as refused:
            await client.submit(pixeldojo.ImageV3("a fox"))
    assert "pd_wrong_key" not in str(refused.value)


@pytest.mark.anyio
async def test_the_other_name_of_the_count_is_refused_before_anything_is_bought(sandbox: Sandbox) -> None:
    key, address = sandbox.api_key("pixeldojo"), sandbox.base_url("pixeldojo")
    async with Client(PixelDojo(key, address, count_field="num_images")) as client:
        with pytest.raises(InvalidRequest, match="num_images: Extra inputs are not permitted"):
            await client.submit(pixeldojo.ImageV3("a fox", count=2))
    assert sandbox.counters.bought["pixeldojo"] == 0


@pytest.mark.anyio
@pytest.mark.parametrize(("code", "retryable"), [("internal_error", True), ("content_policy", False)])
async def test_a_failed_job_says_why_and_gives_its_credits_back(sandbox: Sandbox, code: str, retryable: bool) -> None:
    sandbox.plan_next("pixeldojo", duration=20, fail=code)
    async with client_of(sandbox) as client:
        job = await client.submit(pixeldojo.ImageV3("a fox", count=4))
        sandbox.state.clock.advance(20)
        with pytest.raises(GenerationFailed, match=code) as failed:
            await job
        assert (failed.value.code, failed.value.retryable) == (code, retryable)
        assert job.cost == Cost(Decimal(0), "credits")
        again = await client.submit(pixeldojo.ImageV3("a fox"))
        assert again.events[0].balance == Cost(Decimal(9), "credits")


@pytest.mark.anyio
async def test_a_lost_answer_is_not_sent_again(sandbox: Sandbox) -> None:
    """PixelDojo has no id of ours: one job is bought, and the user is told that it is not known."""
    sandbox.faults.add("accept-then-reset:submit:times=1")
    async with client_of(sandbox) as client:
        with pytest.raises(SubmissionUnknown, match="check the PixelDojo account") as lost:
            await client.submit(pixeldojo.ImageV3("a fox"), key="row-17")
    assert lost.value.key == "row-17"
    assert sandbox.counters.bought["pixeldojo"] == 1


class Receiver(BaseHTTPRequestHandler):
    """Takes deliveries."""

    bodies: queue.Queue[bytes]

    def do_POST(self) -> None:
        self.bodies.put(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name that http.server gives it
        """Stay silent."""


@pytest.fixture
def receiver() -> Iterator[tuple[str, queue.Queue[bytes]]]:
    bodies: queue.Queue[bytes] = queue.Queue()
    handler = type("Handler", (Receiver,), {"bodies": bodies})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/hook", bodies
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("fail", [None, "internal_error"])
def test_the_webhook_is_the_job_object_and_is_understood(
    sandbox: Sandbox, api: httpx.Client, receiver: tuple[str, queue.Queue[bytes]], fail: str | None
) -> None:
    url, bodies = receiver
    sandbox.plan_next("pixeldojo", duration=20, fail=fail)
    job = api.post(RUN, json={"prompt": "a fox", "webhook_url": url}).json()["jobId"]
    sandbox.state.clock.advance(20)
    body = bodies.get(timeout=10)
    assert json.loads(body) == api.get(f"/jobs/{job}").json()
    [delivered] = PixelDojo("key").parse_webhook(body, {})
    assert delivered.id == job
    assert delivered.report.status is (Status.FAILED if fail else Status.COMPLETED)
    assert len(delivered.report.artifacts) == (0 if fail else 1)


def test_models_and_openapi_describe_the_api() -> None:
    with Sandbox(speed=0) as sandbox:
        base = sandbox.base_url("pixeldojo")

        def get(url: str) -> httpx.Response:
            return httpx.get(url, trust_env=False)

        [listed] = get(f"{base}/models").json()["models"]
        assert listed["apiId"] == "kling-image"
        assert "inputSchema" in get(f"{base}/models?detailed=true").json()["models"][0]
        assert len(get(f"{base}/models?modality=video").json()["models"]) == 4
        assert get(f"{base}/models?modality=audio").json()["models"] == []
        schema = get(f"{base}/models/kling-image/schema").json()
        assert get(f"{base}/models/kling-image").json()["inputSchema"] == schema
        assert schema["required"] == ["prompt"]
        assert get(f"{base}/models/kling-video/schema").status_code == 404
        described = get(f"{sandbox.url}/pixeldojo/api/openapi").json()
        assert described["servers"] == [{"url": base}]
        assert "/models/kling-image/run" in described["paths"]

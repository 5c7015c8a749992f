import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from support.strict_replicate import ReplicateOutcome, StrictReplicate

pytestmark = pytest.mark.asyncio
API = "https://api.replicate.com/v1"
V3 = f"{API}/models/kwaivgi/kling-v3-video/predictions"
INPUT: dict[str, Any] = {"prompt": "a lamp", "duration": 5, "mode": "pro", "generate_audio": False}


@asynccontextmanager
async def client_of(server: StrictReplicate) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {server.key}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server), headers=headers) as client:
        yield client


async def test_a_prediction_goes_through_its_states_and_its_data_is_removed() -> None:
    server = StrictReplicate(queued_seconds=10, running_seconds=10)
    async with client_of(server) as client:
        created = await client.post(V3, json={"input": INPUT})
        url = created.json()["urls"]["get"]
        assert (created.status_code, created.json()["status"]) == (201, "starting")
        server.advance(11)
        assert (await client.get(url)).json()["status"] == "processing"
        server.advance(11)
        done = (await client.get(url)).json()
        assert (done["status"], done["output"][:27]) == ("succeeded", "https://replicate.delivery/")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(server)) as public:
            assert (await public.get(done["output"])).status_code == 200
        server.advance(3601)
        gone = (await client.get(url)).json()
        assert (gone["data_removed"], gone["input"], gone["output"]) == (True, {}, None)
        await client.get(done["output"])
    assert server.violations == [
        f"GET {done['output'].removeprefix('https://replicate.delivery')}: the token was sent to the delivery host"
    ]


@pytest.mark.parametrize(
    ("url", "body", "sentence"),
    [
        (V3, {"input": INPUT | {"duration": "5"}}, "duration must be an integer"),
        (V3, {"input": INPUT | {"mode": "std"}}, "not one of"),
        (V3, {"input": INPUT | {"multi_prompt": [{"prompt": "a"}]}}, "multi_prompt must be a string"),
        (V3, {"input": INPUT | {"multi_prompt": "a lamp"}}, "not JSON"),
        (V3, {"input": INPUT, "version": "kwaivgi/kling-v3-video"}, "version is not a top-level key"),
        (V3, {"input": INPUT, "webhook_events_filter": ["done"]}, "webhook_events_filter"),
        (V3, {"input": INPUT | {"start_image": "data:a/b;base64," + "A" * 400_000}}, "256 kB"),
        (f"{API}/predictions", {"input": INPUT, "version": "kling-v3-video"}, "no Kling model"),
        (f"{API}/predictions", {"input": {"mode": "std", "duration": 7}, "version": "kwaivgi/kling-o1"}, "5 or 10"),
    ],
)
async def test_a_body_that_the_api_does_not_take_is_refused(url: str, body: dict[str, Any], sentence: str) -> None:
    server = StrictReplicate()
    async with client_of(server) as client:
        answer = await client.post(url, json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert any(sentence in violation for violation in server.violations)
    assert server.bought == 0


async def test_wrong_headers_are_violations_and_left_out_prices_are_recorded() -> None:
    server = StrictReplicate()
    async with client_of(server) as client:
        wrong = {"Prefer": "wait=61", "Cancel-After": "soon"}
        assert (await client.post(V3, json={"input": INPUT}, headers=wrong)).status_code == 422
        token = {"Authorization": f"Token {server.key}"}
        assert (await client.post(V3, json={"input": INPUT}, headers=token)).status_code == 401
        assert len(server.violations) == 3
        await client.post(V3, json={"input": {"prompt": "a"}})
    assert [entry.split(": ")[1] for entry in server.left_to_default] == ["mode", "duration", "generate_audio"]


async def test_prefer_wait_answers_with_the_end() -> None:
    server = StrictReplicate()
    server.outcomes.append(ReplicateOutcome(error="flagged"))
    async with client_of(server) as client:
        answer = (await client.post(V3, json={"input": INPUT}, headers={"Prefer": "wait=5"})).json()
    assert (answer["status"], answer["error"]) == ("failed", "flagged")


@pytest.mark.parametrize(("queued", "status", "billed"), [(120, "aborted", 0), (30, "canceled", 1)])
async def test_cancel_after_stops_a_prediction(queued: float, status: str, billed: int) -> None:
    server = StrictReplicate(queued_seconds=queued, running_seconds=90)
    async with client_of(server) as client:
        headers = {"Cancel-After": "1m"}
        url = (await client.post(V3, json={"input": INPUT}, headers=headers)).json()["urls"]["get"]
        server.advance(61)
        assert (await client.get(url)).json()["status"] == status
    assert server.billed == billed


async def test_cancel_stops_a_prediction_once() -> None:
    server = StrictReplicate(queued_seconds=60, early_cancel_status="aborted")
    async with client_of(server) as client:
        urls = (await client.post(V3, json={"input": INPUT})).json()["urls"]
        assert (await client.post(urls["cancel"])).json()["status"] == "aborted"
        assert (await client.post(urls["cancel"])).json()["status"] == "aborted"
    assert server.requests == {"submit": 1, "cancel": 2}


async def test_lost_answers_are_found_in_the_list_by_their_input() -> None:
    server = StrictReplicate()
    async with client_of(server) as client:
        server.lose_next_answer(accept=True, how="504")
        assert (await client.post(V3, json={"input": INPUT})).status_code == 504
        found = (await client.get(f"{API}/predictions", params={"created_after": "2020-01-01T00:00:00Z"})).json()
        assert [one["input"] for one in found["results"]] == [INPUT]
        server.throttle(retry_after=2, kind="status")
        url = found["results"][0]["urls"]["get"]
        refused = await client.get(url)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "2")
        assert (await client.get(url)).status_code == 200
        await client.post(V3, json={"input": INPUT})
    assert (server.bought, len(server.duplicates), server.violations) == (2, 1, [])


async def test_the_list_has_pages_of_100_newest_first() -> None:
    server = StrictReplicate()
    async with client_of(server) as client:
        for number in range(101):
            await client.post(V3, json={"input": INPUT | {"prompt": str(number)}})
        first = (await client.get(f"{API}/predictions")).json()
        second = (await client.get(first["next"])).json()
    assert first["results"][0]["input"]["prompt"] == "100"
    assert ([one["input"]["prompt"] for one in second["results"]], second["next"]) == (["0"], None)


async def test_a_file_is_uploaded_as_a_part_named_content() -> None:
    server = StrictReplicate()
    async with client_of(server) as client:
        files = {"content": ("a.png", b"png", "image/png")}
        shown = await client.post(f"{API}/files", files=files)
        assert (shown.status_code, shown.json()["size"], shown.json()["content_type"]) == (201, 3, "image/png")
        assert (await client.get(shown.json()["urls"]["get"])).json() == shown.json()
        assert (await client.post(f"{API}/files", files={"file": b"png"})).status_code == 422


async def test_webhooks_are_signed_by_the_rule_of_standard_webhooks() -> None:
    server = StrictReplicate(queued_seconds=0, running_seconds=0)
    async with client_of(server) as client:
        body = {"input": INPUT, "webhook": "https://me.example/hook", "webhook_events_filter": ["completed"]}
        await client.post(f"{API}/predictions", json=body | {"version": "kwaivgi/kling-v3-video"})
        secret = (await client.get(f"{API}/webhooks/default/secret")).json()["key"]
    (delivery,) = server.deliveries()
    assert json.loads(delivery.body)["status"] == "succeeded"
    signed = f"{delivery.headers['webhook-id']}.{delivery.headers['webhook-timestamp']}.".encode() + delivery.body
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    assert delivery.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"

import asyncio
import hashlib
import json
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from support.strict_fal import FalOutcome, StrictFal

pytestmark = pytest.mark.asyncio
QUEUE = "https://queue.fal.run"
MODEL = "fal-ai/kling-video/v3/standard/text-to-video"
BODY: dict[str, Any] = {"prompt": "a lamp", "duration": "5", "generate_audio": False}


@asynccontextmanager
async def client_of(server: StrictFal) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Key {server.key}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server), headers=headers) as client:
        yield client


async def test_a_job_goes_through_its_states_and_its_result_vanishes() -> None:
    server = StrictFal(queued_seconds=10, running_seconds=10)
    async with client_of(server) as client:
        answer = (await client.post(f"{QUEUE}/{MODEL}", json=BODY)).json()
        queued = await client.get(answer["status_url"])
        assert (queued.status_code, queued.json()["queue_position"]) == (202, 0)
        server.advance(11)
        running = await client.get(answer["status_url"], params={"logs": "1"})
        assert (running.status_code, len(running.json()["logs"])) == (202, 1)
        server.advance(11)
        assert (await client.get(answer["status_url"])).status_code == 200
        assert "video" in (await client.get(answer["response_url"])).json()
        server.advance(3600)
        assert (await client.get(answer["response_url"])).status_code == 404
    assert (server.bought, server.violations, server.left_to_default) == (1, [], [])


@pytest.mark.parametrize(
    ("model", "body", "sentence"),
    [
        ("v3/pro/text-to-video", BODY | {"duration": 5}, "duration must be a string"),
        ("v3/pro/text-to-video", BODY | {"seed": 1}, "seed is not a field"),
        ("v3/pro/text-to-video", BODY | {"multi_prompt": []}, "exactly one of"),
        ("v3/pro/text-to-video", BODY | {"duration": "2"}, "not one of"),
        ("v3/pro/text-to-video", BODY | {"shot_type": "intelligence"}, "not one of"),
        ("o3/pro/image-to-video", {"prompt": "a", "start_image_url": "https://x.example/a.png"}, "start_image_url"),
        ("v2.5-turbo/standard/image-to-video", {"tail_image_url": "https://x.example/a.png"}, "tail_image_url is not"),
        ("v9/pro/text-to-video", BODY, "no Kling model"),
    ],
)
async def test_a_body_that_the_model_does_not_take_is_refused(model: str, body: dict[str, Any], sentence: str) -> None:
    server = StrictFal()
    async with client_of(server) as client:
        answer = await client.post(f"{QUEUE}/fal-ai/kling-video/{model}", json=body)
    assert answer.status_code in {404, 422}
    assert any(sentence in violation for violation in server.violations)
    assert server.bought == 0


async def test_price_inputs_left_to_the_seller_are_recorded() -> None:
    server = StrictFal()
    async with client_of(server) as client:
        await client.post(f"{QUEUE}/{MODEL}", json={"prompt": "a lamp"})
    assert server.left_to_default == [f"{MODEL}: duration", f"{MODEL}: generate_audio"]


@pytest.mark.parametrize(
    ("model", "body", "left"),
    [
        ("kling-image/o3/text-to-image", {"resolution": "4K", "result_type": "series"}, ["series_amount"]),
        ("kling-image/o3/text-to-image", {"resolution": "4K", "result_type": "single", "num_images": 2}, []),
        ("kling-image/v3/text-to-image", {}, ["resolution", "num_images"]),
        ("kling-video/o1/image-to-video", {"start_image_url": "https://x.example/a.png"}, ["duration"]),
    ],
)
async def test_each_model_has_its_own_price_inputs(model: str, body: dict[str, Any], left: list[str]) -> None:
    server = StrictFal()
    async with client_of(server) as client:
        assert (await client.post(f"{QUEUE}/fal-ai/{model}", json={"prompt": "a"} | body)).status_code == 200
    assert server.left_to_default == [f"fal-ai/{model}: {name}" for name in left]


async def test_shots_that_have_a_duration_leave_none_to_the_seller() -> None:
    server = StrictFal()
    shots = [{"prompt": "a", "duration": "3"}, {"prompt": "b", "duration": "4"}]
    async with client_of(server) as client:
        body = {"multi_prompt": shots, "generate_audio": True, "shot_type": "customize"}
        assert (await client.post(f"{QUEUE}/{MODEL}", json=body)).status_code == 200
    assert (server.violations, server.left_to_default) == ([], [])


async def test_status_at_the_full_model_id_and_wrong_headers_are_violations() -> None:
    server = StrictFal()
    async with client_of(server) as client:
        job = (await client.post(f"{QUEUE}/{MODEL}", json=BODY)).json()["request_id"]
        assert (await client.get(f"{QUEUE}/{MODEL}/requests/{job}/status")).status_code == 404
        wrong = {"X-Fal-Queue-Priority": "high", "X-Fal-Request-Timeout": "5"}
        assert (await client.post(f"{QUEUE}/{MODEL}", json=BODY, headers=wrong)).status_code == 422
        bearer = {"Authorization": f"Bearer {server.key}"}
        assert (await client.post(f"{QUEUE}/{MODEL}", json=BODY, headers=bearer)).status_code == 401
        await client.get(f"{server.media}/files/{job}.mp4")
    assert len(server.violations) == 6


async def test_completed_with_an_error_answers_the_models_code() -> None:
    server = StrictFal(queued_seconds=0, running_seconds=0)
    server.outcomes.append(FalOutcome("Content policy", "content_policy_violation", 422))
    async with client_of(server) as client:
        answer = (await client.post(f"{QUEUE}/{MODEL}", json=BODY)).json()
        status = (await client.get(answer["status_url"])).json()
        assert (status["status"], status["error"]) == ("COMPLETED", "Content policy")
        assert (await client.get(answer["response_url"])).status_code == 422
        cancel = await client.put(answer["cancel_url"])
        assert (cancel.status_code, cancel.json()["status"]) == (400, "ALREADY_COMPLETED")


async def test_a_start_timeout_ends_in_504() -> None:
    server = StrictFal(queued_seconds=60)
    async with client_of(server) as client:
        headers = {"X-Fal-Request-Start-Timeout": "5"}
        answer = (await client.post(f"{QUEUE}/{MODEL}", json=BODY, headers=headers)).json()
        server.advance(6)
        result = await client.get(answer["response_url"])
    assert (result.status_code, result.headers["x-fal-request-timeout-type"]) == (504, "user")


async def test_lost_answers_and_throttling() -> None:
    server = StrictFal()
    async with client_of(server) as client:
        server.lose_next_answer(accept=True)
        with pytest.raises(ConnectionResetError):
            await client.post(f"{QUEUE}/{MODEL}", json=BODY)
        server.lose_next_answer(accept=False, how="502")
        assert (await client.post(f"{QUEUE}/{MODEL}", json=BODY)).status_code == 502
        assert server.bought == 1
        server.throttle(retry_after=3)
        assert (await client.post(f"{QUEUE}/{MODEL}", json=BODY)).headers["retry-after"] == "3"
        await client.post(f"{QUEUE}/{MODEL}", json=BODY)
    assert (server.bought, len(server.duplicates), server.requests["submit"]) == (2, 1, 4)


async def test_the_stream_tells_every_state() -> None:
    server = StrictFal(queued_seconds=0.05, running_seconds=0.05)
    async with client_of(server) as client:
        answer = (await client.post(f"{QUEUE}/{MODEL}", json=BODY)).json()
        text = (await client.get(answer["status_url"] + "/stream")).text
    states = [json.loads(line[5:])["status"] for line in text.splitlines() if line]
    assert states == ["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]


async def test_finished_requests_are_listed_with_their_input() -> None:
    server = StrictFal(queued_seconds=1)
    url = f"{server.platform}/models/requests/by-endpoint"
    query = {"endpoint_id": MODEL, "expand": "payloads", "status": "success"}
    async with client_of(server) as client:
        await client.post(f"{QUEUE}/{MODEL}", json=BODY)
        assert (await client.get(url, params=query)).json()["items"] == []
        server.advance(3)
        (item,) = (await client.get(url, params=query)).json()["items"]
        assert item["json_input"] == BODY
        assert (await client.get(url, params={"limit": "500"})).status_code == 422


async def test_upload_sends_no_key_to_the_media_host() -> None:
    server = StrictFal()
    async with client_of(server) as client:
        wanted = {"content_type": "image/png", "file_name": "a.png"}
        ticket = (await client.post(f"{server.rest}/storage/upload/initiate", json=wanted)).json()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(server)) as client:
        await client.put(ticket["upload_url"], content=b"png", headers={"Content-Type": "image/png"})
        assert (await client.get(ticket["file_url"])).content == b"png"
    assert server.violations == []


async def test_webhooks_are_signed_with_the_published_key() -> None:
    server = StrictFal(queued_seconds=0, running_seconds=0)
    server.outcomes.append(FalOutcome(payload_error="too big"))
    async with client_of(server) as client:
        await client.post(f"{QUEUE}/{MODEL}", params={"fal_webhook": "https://me.example/hook"}, json=BODY)
        (jwk,) = (await client.get(f"{server.rest}/.well-known/jwks.json")).json()["keys"]
    (delivery,) = server.deliveries()
    sent = json.loads(delivery.body)
    assert (sent["status"], sent["payload"], sent["payload_error"]) == ("OK", None, "too big")
    names = ("request-id", "user-id", "timestamp")
    values = [delivery.headers[f"x-fal-webhook-{name}"] for name in names]
    message = "\n".join([*values, hashlib.sha256(delivery.body).hexdigest()])
    key = Ed25519PublicKey.from_public_bytes(urlsafe_b64decode(jwk["x"] + "="))
    key.verify(bytes.fromhex(delivery.headers["x-fal-webhook-signature"]), message.encode())


async def test_all_hosts_can_stand_at_one_address() -> None:
    server = StrictFal.at("http://127.0.0.1:9")
    async with client_of(server) as client:
        answer = await client.post(f"{server.queue}/{MODEL}", json=BODY)
        assert answer.json()["status_url"].startswith("http://127.0.0.1:9/queue/fal-ai/kling-video/requests/")


async def test_a_lost_answer_drops_the_connection_of_a_real_socket() -> None:
    server = StrictFal()
    config = uvicorn.Config(server, port=0, log_level="critical", ws="none")
    running = uvicorn.Server(config)
    serving = asyncio.create_task(running.serve())
    while not running.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    host, port = running.servers[0].sockets[0].getsockname()
    server.queue = f"http://{host}:{port}/queue"
    server.lose_next_answer(accept=True)
    async with httpx.AsyncClient(headers={"Authorization": f"Key {server.key}"}) as client:
        with pytest.raises(httpx.TransportError):
            await client.post(f"{server.queue}/{MODEL}", json=BODY)
        assert (await client.post(f"{server.queue}/{MODEL}", json=BODY)).status_code == 200
    running.should_exit = True
    await serving
    assert (server.bought, len(server.duplicates)) == (2, 1)

"""The sandbox's fal, on real sockets: as strict as the documents, and understood by the client."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from kling_async import (
    Client,
    Fal,
    GenerationCancelled,
    GenerationFailed,
    InvalidRequest,
    KlingError,
    Polling,
    Progressive,
    Request,
    SqliteLedger,
    SubmissionUnknown,
    Unauthorized,
    fal,
)
from kling_async.sandbox import Fault, Sandbox

SPEED = 600
pytestmark = [pytest.mark.anyio, pytest.mark.sandbox(speed=SPEED)]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
IMAGE = "https://x.example/a.png"
VIDEO = "https://x.example/a.mp4"
SOUND = "https://x.example/a.mp3"
QUICK = Polling(schedule=Progressive(0.02), status_calls_per_minute=math.inf)
REQUESTS: list[Request] = [
    fal.TextToVideo("a lamp", tier="pro", generate_audio=True),
    fal.TextToVideo(multi_prompt=[fal.Shot(prompt="a", duration=3), fal.Shot(prompt="b", duration=2)], model="o3"),
    fal.ImageToVideo(PNG, "a lamp", end_image=IMAGE, model="o1"),
    fal.ReferenceToVideo("@Image1 glows", [IMAGE]),
    fal.VideoEdit("night", VIDEO, "reference"),
    fal.MotionControl(IMAGE, VIDEO, "image"),
    fal.Image("a lamp", count=2),
    fal.Image("a lamp", [PNG], model="o1"),
    fal.Avatar(IMAGE, SOUND),
    fal.LipSync(VIDEO, sound=SOUND),
    fal.Request(model="fal-ai/kling-video/v2.1/master/text-to-video", input={"prompt": "a lamp"}),
]


def client_of(sandbox: Sandbox, **more: Any) -> Client:
    provider = Fal(sandbox.api_key("fal"), sandbox.base_url("fal"))
    provider.speed = SPEED
    return Client(provider, **{"polling": QUICK, **more})


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
async def test_every_endpoint_makes_its_files(sandbox: Sandbox, request_: Request) -> None:
    async with client_of(sandbox) as client:
        result = await client.run(request_)
    assert len(result.urls) == getattr(request_, "count", 1)
    assert sandbox.counters.bought["fal"] == 1
    assert not {status for provider, status in sandbox.counters.refused if provider == "fal"}


async def test_a_result_is_saved(sandbox: Sandbox, tmp_path: Path) -> None:
    async with client_of(sandbox) as client:
        [path] = await (await client.run(fal.Image("a lamp"))).save(tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")


async def test_the_stream_alone_is_enough(sandbox: Sandbox) -> None:
    async with client_of(sandbox, polling=Polling(schedule=Progressive(3000))) as client:
        job = await client.submit(fal.Image("a lamp"))
        assert (await job).urls
    assert sandbox.counters.requests["fal", "stream"] >= 1


async def test_a_failure_has_the_words_of_the_model(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        with pytest.raises(GenerationFailed, match="no_media_generated: prompt: the generation failed"):
            await client.run(fal.TextToVideo("a lamp [sandbox: fail=NO_MEDIA_GENERATED]"))


async def test_a_job_that_waits_too_long_in_the_queue_fails(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        with pytest.raises(GenerationFailed, match="not started within its start_timeout"):
            await client.run(fal.TextToVideo("a lamp [sandbox: duration=1000]", start_timeout=1))


@pytest.mark.parametrize("gone", [False, True], ids=["completed", "gone"])
async def test_a_job_is_cancelled(sandbox: Sandbox, gone: bool) -> None:
    sandbox.options("fal").gone_after_cancel = gone
    async with client_of(sandbox) as client:
        job = await client.submit(fal.TextToVideo("a lamp [sandbox: stuck]"))
        assert await job.cancel()
        with anyio.fail_after(60), pytest.raises(GenerationCancelled):
            await job
    assert sandbox.counters.bought["fal"] == 1


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        (Fault.accept_then_reset, {}),
        (Fault.truncated_json, {}),
        (Fault.html, {}),
        (Fault.empty_json, {}),
        (Fault.server_error, {"accepted": True}),
    ],
    ids=lambda value: value.value if isinstance(value, Fault) else "",
)
async def test_a_lost_submission_is_found_once_its_job_has_ended(
    sandbox: Sandbox, tmp_path: Path, fault: Fault, options: dict[str, Any]
) -> None:
    sandbox.faults.add(fault, kind="submit", provider="fal", times=1, **options)
    async with client_of(sandbox, ledger=SqliteLedger(tmp_path / "jobs.db")) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(fal.ImageToVideo(IMAGE, "a lamp"), key="row-1")
        sandbox.state.clock.advance(3000)
        [job] = await client.resume()
        assert (await job).urls
        assert await client.unresolved() == []
        assert (await client.submit(fal.ImageToVideo(IMAGE, "a lamp"), key="row-1")).ref == job.ref
    assert sandbox.counters.bought["fal"] == 1
    assert sandbox.counters.requests["fal", "submit"] == 1


async def test_a_submission_that_did_not_arrive_stays_unknown(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Fault.server_error, kind="submit", provider="fal", times=1)
    async with client_of(sandbox, ledger=SqliteLedger(tmp_path / "jobs.db")) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(fal.TextToVideo("a lamp"), key="row-1")
        sandbox.state.clock.advance(3000)
        assert await client.resume() == []
        assert [submission.key for submission in await client.unresolved()] == ["row-1"]
    assert sandbox.counters.bought["fal"] == 0


async def test_the_same_key_buys_once(sandbox: Sandbox, tmp_path: Path) -> None:
    client = client_of(sandbox, ledger=SqliteLedger(tmp_path / "jobs.db"))
    async with client, anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(lambda: client.run(fal.Image("a lamp"), key="row-1"))
    assert sandbox.counters.bought["fal"] == 1


@pytest.mark.parametrize("fault", [Fault.truncated_json, Fault.server_error, Fault.html, Fault.wrong_types])
async def test_a_bad_answer_to_a_poll_loses_nothing(sandbox: Sandbox, fault: Fault) -> None:
    sandbox.faults.add(fault, kind="status", provider="fal", times=3)
    async with client_of(sandbox) as client:
        assert (await client.run(fal.Image("a lamp"))).urls
    assert sandbox.counters.bought["fal"] == 1


async def test_the_sandbox_refuses_what_the_documents_do(sandbox: Sandbox) -> None:
    key = sandbox.api_key("fal")
    async with httpx.AsyncClient(base_url=sandbox.base_url("fal"), headers={"authorization": f"Key {key}"}) as api:

        async def code(path: str, body: Any = None, **headers: str) -> int:
            return (await api.post(path, json=body, headers=headers)).status_code

        video = "/fal-ai/kling-video/v3/pro/text-to-video"
        good = {"prompt": "a lamp", "duration": "5"}
        assert await code(video, good) == 200
        assert await code("/fal-ai/kling-video", good) == 404
        assert await code(video, {**good, "duration": 5}) == 422
        assert await code(video, {**good, "duration": "16"}) == 422
        assert await code(video, {**good, "seed": 1}) == 422
        assert await code(video, {"duration": "5"}) == 422
        assert await code(video, {**good, "multi_prompt": []}) == 422
        assert await code(f"{video}?webhook=https://a.example", good) == 422
        assert await code(video, good, **{"x-fal-queue-priority": "high"}) == 422
        assert await code(video, good, **{"x-fal-request-start-timeout": "0.1"}) == 422
        assert await code(video, good, authorization=f"Bearer {key}") == 401
        answer = (await api.post(video, json=good)).json()
        assert (await api.get(answer["status_url"])).status_code == 202
        assert (await api.get(answer["response_url"])).status_code == 400
        whole = answer["status_url"].replace("/fal-ai/kling-video/", "/fal-ai/kling-video/v3/pro/text-to-video/")
        assert (await api.get(whole)).status_code in {404, 405}
        assert (await api.put(answer["cancel_url"])).json() == {"status": "CANCELLATION_REQUESTED"}
        assert (await api.put(answer["cancel_url"])).json() == {"status": "ALREADY_COMPLETED"}
        assert (await api.get("/platform/v1/models/requests/by-endpoint")).status_code == 422


async def test_a_wrong_key_and_a_bad_input_are_refused(sandbox: Sandbox) -> None:
    async with Client(Fal("wrong", sandbox.base_url("fal"))) as client:
        with pytest.raises(Unauthorized):
            await client.submit(fal.TextToVideo("a lamp"))
    async with client_of(sandbox) as client:
        with pytest.raises(InvalidRequest, match="seed: Extra inputs are not permitted"):
            await client.submit(
                fal.Request(model="fal-ai/kling-image/v3/text-to-image", input={"prompt": "a", "seed": 1})
            )
        with pytest.raises(KlingError, match="nothing to submit to"):
            await client.submit(fal.Request(model="fal-ai/kling-video/v9", input={}))
    assert sandbox.counters.bought["fal"] == 0

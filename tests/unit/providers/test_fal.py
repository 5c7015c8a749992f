"""fal's requests and provider, judged by a strict server that was written from the facts alone."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from kling_async import (
    Client,
    ConfigurationError,
    Delivery,
    GenerationCancelled,
    GenerationFailed,
    JobRef,
    KlingError,
    MemoryLedger,
    Polling,
    Progressive,
    SubmissionUnknown,
    WebhookRejected,
    Webhooks,
)
from kling_async._exchange.calls import Reply
from kling_async.providers import fal
from kling_async.providers.fal.replies import JobAddress
from kling_async.providers.fal.signatures import is_signed, read_keys
from support import plain_ed25519
from support.strict_checks import How
from support.strict_fal import FalOutcome, StrictFal

URL = "https://a.example/boat.png"
VIDEO = "https://a.example/v.mp4"
SOUND = "https://a.example/s.mp3"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
QUICK = Polling(schedule=Progressive(0.02), status_calls_per_minute=100_000)
SHOTS = [fal.Shot(prompt="one", duration=3), fal.Shot(prompt="two", duration=4)]
ELEMENT = fal.Element(frontal_image_url=URL, reference_image_urls=[URL], voice_id="v1")

TEXT_MODELS: Any = ("v3", "o3", "v2.6", "v2.5-turbo")
MORE: list[tuple[Any, dict[str, Any]]] = [("v3", {"negative_prompt": "rain", "cfg_scale": 0.2}), ("o3", {})]
SMALLEST: list[Any] = [
    *(fal.TextToVideo("a boat", model=model) for model in TEXT_MODELS),
    *(fal.ImageToVideo(URL, "a boat", model=model) for model in ("v3", "o3", "o1", "v2.6", "v2.5-turbo")),
    fal.ReferenceToVideo("a boat"),
    fal.ReferenceToVideo("a boat", [URL], model="o1"),
    *(fal.VideoEdit("a boat", VIDEO, mode, model=model) for mode in ("edit", "reference") for model in ("o3", "o1")),
    *(fal.MotionControl(URL, VIDEO, "image", model=model) for model in ("v3", "v2.6")),
    fal.Image("a boat"),
    fal.Image("a boat", [URL]),
    fal.Image("a boat", [URL], model="o1"),
    fal.Image("a boat", model="v3"),
    fal.Image("a boat", [URL], model="v3"),
    fal.Avatar(URL, SOUND),
    fal.LipSync(VIDEO, sound=SOUND),
    fal.Request(model="fal-ai/kling-video/v2.1/master/text-to-video", input={"prompt": "a boat"}),
]
FULL: list[Any] = [
    *(
        fal.TextToVideo(
            model=model,
            tier="pro",
            duration=7,
            aspect_ratio="9:16",
            generate_audio=True,
            multi_prompt=SHOTS,
            shot_type="customize",
            start_timeout=90,
            priority="low",
            **extra,
        )
        for model, extra in MORE
    ),
    fal.TextToVideo("a boat", model="v3", tier="4k", duration=15, generate_audio=True),
    fal.TextToVideo("a", model="v2.6", duration=10, generate_audio=True, negative_prompt="rain", cfg_scale=1),
    fal.ImageToVideo(
        PNG,
        "@Element1 on a boat",
        end_image=URL,
        tier="pro",
        elements=[ELEMENT],
        generate_audio=True,
        negative_prompt="rain",
        cfg_scale=0,
    ),
    fal.ImageToVideo(URL, multi_prompt=SHOTS, end_image=PNG, model="o3", tier="pro", shot_type="intelligent"),
    fal.ImageToVideo(URL, "a boat", end_image=PNG, model="o1", tier="pro", duration=10),
    fal.ImageToVideo(URL, "a boat", end_image=PNG, model="v2.6", voice_ids=["a", "b"], generate_audio=True),
    fal.ImageToVideo(URL, "a", end_image=PNG, model="v2.5-turbo", tier="pro", duration=10, cfg_scale=0.1),
    fal.ReferenceToVideo(
        "@Image1 and @Element1",
        [URL, PNG],
        [ELEMENT],
        tier="pro",
        duration=15,
        aspect_ratio="1:1",
        generate_audio=True,
        start_image=URL,
        end_image=PNG,
    ),
    fal.ReferenceToVideo("@Image6", [URL] * 6, [ELEMENT], model="o1", tier="pro", duration=10, aspect_ratio="1:1"),
    fal.VideoEdit("@Video1 with @Image1", VIDEO, references=[PNG] * 3, elements=[ELEMENT], keep_audio=False),
    fal.VideoEdit("a", VIDEO, "reference", tier="pro", duration=9, aspect_ratio="auto"),
    fal.MotionControl(PNG, VIDEO, "video", "a dance", tier="pro", keep_original_sound=False, elements=[ELEMENT]),
    fal.Image("a", resolution="4k", count=9, aspect_ratio="21:9", output_format="webp", elements=[ELEMENT]),
    fal.Image("a", [PNG] * 10, resolution="2k", series=9, aspect_ratio="3:4"),
    fal.Image("@Image2", [URL, PNG], model="o1", resolution="2k", aspect_ratio="16:9", output_format="jpeg"),
    fal.Image("a", model="v3", negative_prompt="rain", resolution="2k", count=2),
    fal.Avatar(PNG, SOUND, "a nod", tier="pro"),
    fal.LipSync(VIDEO, speech="hello", voice_id="oversea_male1", voice_language="en", voice_speed=1.2),
]


def make_client(server: StrictFal, provider: fal.Fal | None = None, **options: Any) -> Client:
    return Client(provider or fal.Fal(server.key), http=httpx.ASGITransport(server), **{"polling": QUICK, **options})


@pytest.mark.asyncio
@pytest.mark.parametrize("request_", SMALLEST + FULL, ids=lambda request: type(request).__name__)
async def test_every_request_is_what_the_facts_allow(request_: Any) -> None:
    server = StrictFal()
    async with make_client(server) as client:
        result = await client.run(request_)
    assert server.violations == []
    assert server.left_to_default == []
    assert server.bought == 1
    count = (request_.series or request_.count) if isinstance(request_, fal.Image) else 1
    kind = "image" if isinstance(request_, fal.Image) else "video"
    assert [artifact.kind for artifact in result.artifacts] == [kind] * count
    assert all(artifact.expires is not None for artifact in result.artifacts)


@pytest.mark.asyncio
async def test_a_local_image_is_uploaded_once_and_the_key_goes_to_no_media_host() -> None:
    server = StrictFal()
    async with make_client(server) as client:
        result = await client.run(fal.ImageToVideo(PNG, "a boat", end_image=PNG))
        assert await result.artifacts[0].read()
    assert server.violations == []
    assert list(server.uploads.values()) == [PNG]
    assert server.requests["submit"] == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "request_", [fal.TextToVideo("a boat"), fal.ImageToVideo(PNG, "a boat")], ids=lambda request: type(request).__name__
)
@pytest.mark.parametrize(("how", "accept"), list(itertools.product(("drop", "500", "502", "504"), (True, False))))
async def test_a_lost_answer_buys_nothing_twice(request_: Any, how: How, accept: bool) -> None:
    """The platform lists finished requests only. Until then the submission stays unknown, and is never sent again."""
    server = StrictFal()
    async with make_client(server, ledger=MemoryLedger()) as client:
        server.lose_next_answer(accept, how)
        with pytest.raises(SubmissionUnknown):
            await client.run(request_, key="row-1")
        server.advance(1)
        if accept:
            assert (await client.run(request_, key="row-1")).artifacts
        else:
            with pytest.raises(SubmissionUnknown):
                await client.run(request_, key="row-1")
        assert [submission.key for submission in await client.unresolved()] == ([] if accept else ["row-1"])
    assert (server.bought, server.requests["submit"]) == (accept, 1)
    assert server.violations == []
    assert server.duplicates == []


@pytest.mark.asyncio
async def test_a_running_job_is_not_listed_so_its_submission_stays_unknown_until_it_has_ended() -> None:
    server = StrictFal(running_seconds=1000)
    async with make_client(server, ledger=MemoryLedger()) as client:
        server.lose_next_answer(accept=True, how="drop")
        with pytest.raises(SubmissionUnknown):
            await client.run(fal.TextToVideo("a boat"), key="row-1")
        assert await client.resume() == []
        server.advance(2000)
        [job] = await client.resume()
        assert (await job).artifacts
    assert server.bought == 1


@pytest.mark.asyncio
async def test_two_requests_that_look_alike_are_not_guessed_between() -> None:
    server = StrictFal()
    async with make_client(server, ledger=MemoryLedger()) as client:
        for key in ("first", "second"):
            server.lose_next_answer(accept=True, how="502")
            with pytest.raises(SubmissionUnknown):
                await client.run(fal.TextToVideo("a boat"), key=key)
        server.advance(1)
        assert await client.resume() == []
    assert server.bought == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("code", [422, 500, 504])
async def test_completed_with_an_error_inside_is_a_failure_with_the_words_of_the_model(code: int) -> None:
    server = StrictFal()
    detail = [{"loc": ["body", "prompt"], "msg": "flagged", "type": "content_policy_violation"}]
    server.outcomes.append(FalOutcome("Unprocessable", "user_error", code, detail=detail))
    async with make_client(server) as client:
        with pytest.raises(GenerationFailed, match="content_policy_violation: prompt: flagged") as failed:
            await client.run(fal.TextToVideo("a boat"))
    assert failed.value.retryable is (code >= 500)
    assert server.violations == []


@pytest.mark.asyncio
async def test_a_job_that_did_not_start_in_time_says_so() -> None:
    server = StrictFal(queued_seconds=1000)
    async with make_client(server) as client:
        job = await client.submit(fal.TextToVideo("a boat", start_timeout=5))
        server.advance(10)
        with pytest.raises(GenerationFailed, match="not started within its start_timeout"):
            await job
    assert server.bought == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("ok", [False, True])
async def test_a_running_job_is_cancelled(gone: bool, ok: bool) -> None:
    server = StrictFal(
        queued_seconds=0, running_seconds=1000, gone_after_cancel=gone, cancel_answers_ok=ok, early_result_code=409
    )
    async with make_client(server) as client:
        job = await client.submit(fal.TextToVideo("a boat"))
        assert await job.cancel()
        with pytest.raises(GenerationCancelled):
            await job
    assert server.violations == []


@pytest.mark.asyncio
async def test_a_job_that_has_ended_is_not_cancelled() -> None:
    server = StrictFal()
    async with make_client(server) as client:
        job = await client.submit(fal.TextToVideo("a boat"))
        server.advance(10)
        assert not await job.cancel()
        assert (await job).artifacts


@pytest.mark.asyncio
async def test_a_result_that_has_vanished_is_read_from_the_list() -> None:
    server = StrictFal()
    async with make_client(server) as client:
        job = await client.submit(fal.TextToVideo("a boat"))
        server.advance(7200)
        assert (await job).artifacts
    assert server.requests["list"] == 1
    assert server.violations == []


@pytest.mark.asyncio
async def test_a_result_that_is_nowhere_any_more_says_what_happened() -> None:
    server = StrictFal()
    async with make_client(server) as client:
        job = await client.submit(fal.TextToVideo("a boat"))
        server.advance(3 * 86_400)
        with pytest.raises(GenerationFailed, match="fal no longer has its result"):
            await job


@pytest.mark.asyncio
async def test_events_have_the_position_in_the_queue_and_the_log() -> None:
    server = StrictFal(queue_length=3, running_seconds=0.3)
    async with make_client(server) as client:
        job = await client.submit(fal.TextToVideo("a boat"))
        events = [event async for event in job]
    assert events[0].queue_position == 3
    assert events[-1].queue_position is None
    assert events[-1].logs == ("Generating",)


@pytest.mark.parametrize("status", ["IN_PROGRESS", "COMPLETED"])
def test_the_key_is_hidden_in_the_lines_of_a_log(status: str) -> None:
    provider = fal.Fal("a-key-of-fal-0123456789")
    flow = provider.poll([JobRef("fal", "text-to-video", "r-1")])
    next(flow)
    logs = [{"message": "called with a-key-of-fal-0123456789"}]
    try:
        flow.send(Reply(200, content=json.dumps({"status": status, "request_id": "r-1", "logs": logs}).encode()))
        flow.send(Reply(200, content=b'{"video": {"url": "https://v3.fal.media/a.mp4"}}'))
    except StopIteration as end:
        [report] = end.value.values()
    assert report.logs == ("called with [the key]",)


@pytest.mark.asyncio
async def test_a_reference_names_the_model_and_a_bare_request_id_is_enough_for_the_kling_models() -> None:
    server = StrictFal()
    async with make_client(server) as client:
        job = await client.submit(fal.TextToVideo("a boat", tier="pro"))
        [identity] = server.jobs
        assert job.ref == f"fal/text-to-video/fal-ai~kling-video:v3~pro~text-to-video:{identity}"
        attached = client.attach(JobRef("fal", "text-to-video", identity))
        assert (await attached).urls == (await job).urls
        image = await client.submit(fal.Image("a", [URL], model="o1"))
        assert image.ref.id.startswith("fal-ai~kling-image:o1:")
        assert (await image).urls
        with pytest.raises(KlingError, match="does not name the model"):
            await client.attach(JobRef("fal", "model", identity))
    assert server.violations == []


@pytest.mark.asyncio
async def test_the_lifetime_of_files_travels_with_the_submission_and_is_in_the_artifact() -> None:
    server = StrictFal()
    async with make_client(server, fal.Fal(server.key, file_lifetime=600)) as client:
        job = await client.submit(fal.ImageToVideo(PNG, "a boat"))
        result = await job
    [artifact] = result.artifacts
    assert artifact.expires is not None
    assert (artifact.expires - job.events[-1].at).total_seconds() == 600
    assert server.violations == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (fal.TextToVideo, "give a prompt, or multi_prompt"),
        (lambda: fal.TextToVideo("a", multi_prompt=SHOTS), "and not both"),
        (lambda: fal.TextToVideo("a", duration=16), "v3 makes videos of 3 to 15 s"),
        (lambda: fal.TextToVideo("a", model="v2.6", duration=7), "v2.6 makes videos of 5 or 10 s"),
        (lambda: fal.TextToVideo("a", model="v2.6", tier="standard"), "v2.6 has 'pro' only"),
        (lambda: fal.TextToVideo("a", model="o3", tier="4k"), "o3 has 'standard' and 'pro' only"),
        (lambda: fal.TextToVideo("a", model="o3", cfg_scale=0.5), "only v3 and v2.6 and v2.5-turbo"),
        (lambda: fal.TextToVideo("a", model="v2.5-turbo", generate_audio=True), "no such input"),
        (lambda: fal.TextToVideo("a", shot_type="customize"), "shot_type needs multi_prompt"),
        (lambda: fal.TextToVideo(multi_prompt=SHOTS, duration=5), "last 7 s together"),
        (lambda: fal.TextToVideo("a", start_timeout=0), "greater than or equal to 1"),
        (lambda: fal.TextToVideo("a", cfg_scale=1.1), "less than or equal to 1"),
        (lambda: fal.ImageToVideo("boat.png", "a"), "neither an http"),
        (lambda: fal.ImageToVideo(URL, "@Element1"), "names @Element1"),
        (lambda: fal.ImageToVideo(URL, "a", model="o1", duration=11), "o1 makes videos of 3 to 10 s"),
        (lambda: fal.ImageToVideo(URL, "a", model="v2.5-turbo", end_image=URL), "in tier 'pro' only"),
        (lambda: fal.ImageToVideo(URL, "a", model="v2.6", voice_ids=["a", "b", "c"]), "at most 2"),
        (lambda: fal.ImageToVideo(URL, "a", voice_ids=["a"]), "only v2.6"),
        (lambda: fal.ReferenceToVideo("@Image2", [URL]), "names @Image2, but 1 images"),
        (lambda: fal.ReferenceToVideo("a", [URL] * 7, [ELEMENT], model="o1"), "at most 7 together"),
        (lambda: fal.ReferenceToVideo("a", model="o1"), "give references or elements"),
        (lambda: fal.ReferenceToVideo(multi_prompt=SHOTS, references=[URL], model="o1"), "only o3"),
        (lambda: fal.VideoEdit("a", VIDEO, references=[URL] * 5), "at most 4 together"),
        (lambda: fal.VideoEdit("a", VIDEO, duration=5), "need mode 'reference'"),
        (lambda: fal.VideoEdit("a", "v.mp4"), "http"),
        (lambda: fal.MotionControl(URL, VIDEO, "image", elements=[ELEMENT, ELEMENT]), "at most 1 together"),
        (lambda: fal.MotionControl(URL, VIDEO, "image", model="v2.6", elements=[ELEMENT]), "only v3"),
        (lambda: fal.Element(voice_id="v"), "needs a frontal_image_url or a video_url"),
        (lambda: fal.Image("a", model="o1"), "no images from words alone"),
        (lambda: fal.Image("a", [URL] * 11), "at most 10"),
        (lambda: fal.Image("a", [URL] * 2, model="v3"), "at most one"),
        (lambda: fal.Image("a", model="v3", resolution="4k"), "only o3 has it"),
        (lambda: fal.Image("a", aspect_ratio="auto"), "needs references"),
        (lambda: fal.Image("a", negative_prompt="b"), "for model 'v3'"),
        (lambda: fal.Image("a", count=10), "less than or equal to 9"),
        (lambda: fal.Image("a", series=1), "greater than or equal to 2"),
        (lambda: fal.Image("a", series=3, count=2), "takes the place of count"),
        (lambda: fal.LipSync(VIDEO), "speech or sound"),
        (lambda: fal.LipSync(VIDEO, speech="hello"), "needs a voice_id"),
        (lambda: fal.LipSync(VIDEO, sound=SOUND, voice_id="a"), "need speech"),
        (lambda: fal.Request(model="kling", input={}), "model"),
        (lambda: fal.Request(model="fal-ai/../x", input={}), "model"),
        (lambda: fal.Fal("k", file_lifetime=0), "greater than 0"),
    ],
)
def test_a_limit_that_is_broken_is_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises((ValidationError, KlingError), match=words):
        make()


def test_the_names_of_fal_are_taken_as_well() -> None:
    asked = fal.ImageToVideo.model_validate(
        {
            "model": "v3",
            "tier": "pro",
            "start_image_url": URL,
            "multi_prompt": [{"prompt": "one", "duration": "3"}, {"prompt": "two", "duration": "2"}],
        }
    )
    assert (asked.start_image, asked.duration) == (URL, 5)
    image = fal.Image.model_validate({"prompt": "a", "image_urls": [URL], "resolution": "2K", "num_images": 2})
    assert (image.references, image.resolution, image.count, image.aspect_ratio) == ((URL,), "2k", 2, "auto")


@pytest.mark.asyncio
async def test_the_stream_reports_the_end_and_the_result_is_read_at_once() -> None:
    server = StrictFal(queued_seconds=0.2, running_seconds=0.3)
    slow = Polling(schedule=Progressive(3000))
    async with make_client(server, polling=slow) as client:
        job = await client.submit(fal.TextToVideo("a boat"))
        events = [event async for event in job]
        assert (await job).artifacts
    assert "stream" in {event.source for event in events}
    assert server.requests["stream"] >= 1
    assert server.requests["result"] == 1
    assert server.violations == []


# Webhooks.

HOOKS = "https://app.example/hooks"


def as_received(client: Client, server: StrictFal, **changes: Any) -> Delivery:
    """The webhook of the server's only job, as a web framework passes it on."""
    [sent] = [server.delivery(identity, at=changes.get("at")) for identity in server.jobs]
    provider, attempt_id, token = sent.url.removeprefix(f"{HOOKS}/").split("/")
    return Delivery(
        provider, attempt_id, token, changes.get("body", sent.body), {**sent.headers, **changes.get("headers", {})}
    )


def listening(server: StrictFal, *, confirm: bool = True) -> Client:
    webhooks = Webhooks(HOOKS, "0123456789abcdefghijklmnopqrstuv", confirm=confirm)
    return make_client(server, webhooks=webhooks, ledger=MemoryLedger(), polling=None)


@pytest.mark.asyncio
async def test_a_signed_webhook_ends_the_job_and_the_public_keys_are_read_once() -> None:
    server = StrictFal()
    async with listening(server, confirm=False) as client:
        job = await client.submit(fal.TextToVideo("a boat"))
        server.advance(1)
        for _ in range(2):
            assert await client.deliver(as_received(client, server))
        assert job.status == "completed"
        assert (await job).artifacts
    assert server.requests["jwks"] == 1
    assert server.requests["status"] == 0
    assert server.violations == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "changes",
    [
        {"body": b'{"request_id": "x", "status": "OK", "payload": {}}'},
        {"at": 1_000_000_000.0},
        {"headers": {"x-fal-webhook-signature": "00" * 64}},
        {"headers": {"x-fal-webhook-signature": "no hex"}},
        {"headers": {"x-fal-webhook-user-id": "another"}},
        {"headers": {"x-fal-webhook-timestamp": "soon"}},
    ],
    ids=["body", "old", "forged", "no hex", "user", "time"],
)
async def test_a_webhook_with_a_wrong_signature_changes_nothing(changes: dict[str, Any]) -> None:
    server = StrictFal()
    async with listening(server, confirm=False) as client:
        job = await client.submit(fal.TextToVideo("a boat"))
        server.advance(1)
        with pytest.raises(WebhookRejected, match="not signed by fal"):
            await client.deliver(as_received(client, server, **changes))
        assert job.status == "pending"


@pytest.mark.asyncio
async def test_a_webhook_without_its_payload_is_followed_by_a_read() -> None:
    server = StrictFal(outcomes=deque([FalOutcome(payload_error="Response payload is too large")]))
    async with listening(server, confirm=False) as client:
        job = await client.submit(fal.TextToVideo("a boat"))
        server.advance(1)
        assert await client.deliver(as_received(client, server))
        assert job.status == "pending"
        assert (await job).artifacts
    assert server.requests["result"] == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "request_",
    [fal.TextToVideo("a boat", tier="pro"), fal.Request(model="fal-ai/kling-video/v1/tts", input={"text": "hello"})],
    ids=lambda request: type(request).__name__,
)
async def test_a_webhook_names_the_job_of_a_submission_whose_answer_was_lost(request_: Any) -> None:
    server = StrictFal(running_seconds=1)
    async with listening(server) as client:
        server.lose_next_answer(accept=True, how="drop")
        with pytest.raises(SubmissionUnknown):
            await client.submit(request_, key="row-1")
        server.advance(2)
        assert await client.deliver(as_received(client, server))
        [job] = client.jobs
        assert job.ref.id.startswith("fal-ai~kling-video:v")
        assert (await job).artifacts
    assert (server.bought, server.requests["submit"]) == (1, 1)
    assert server.violations == []


def test_a_signature_made_by_another_implementation_is_right() -> None:
    """Made with the Ed25519 of RFC 8032's own Python code (`support.plain_ed25519`), not with `cryptography`."""
    secret = bytes(range(32))
    body = b'{"request_id": "r-1", "status": "OK"}'
    message = "\n".join(("r-1", "user-1", "1790000000", hashlib.sha256(body).hexdigest())).encode()
    document = {
        "keys": [
            {"kty": "RSA", "n": "AQAB"},
            {"kty": "OKP", "crv": "Ed25519", "x": "not base64!"},
            {"kty": "OKP", "crv": "Ed25519", "x": urlsafe_b64encode(plain_ed25519.public_key(bytes(32))).decode()},
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "x": urlsafe_b64encode(plain_ed25519.public_key(secret)).decode().rstrip("="),
            },
        ]
    }
    headers = {
        "x-fal-webhook-request-id": "r-1",
        "x-fal-webhook-user-id": "user-1",
        "x-fal-webhook-timestamp": "1790000000",
        "x-fal-webhook-signature": plain_ed25519.sign(secret, message).hex(),
    }
    keys = read_keys(document)
    assert len(keys) == 2
    assert is_signed(body, headers, keys, 1790000300.0)
    assert is_signed(body, headers, keys, 1789999700.0)
    assert not is_signed(body, headers, keys, 1790000301.0)
    assert not is_signed(body, headers, keys, 1789999699.0)
    assert not is_signed(body + b" ", headers, keys, 1790000000.0)
    assert not is_signed(body, headers, keys[:1], 1790000000.0)


def test_the_plain_implementation_agrees_with_the_vectors_of_rfc_8032() -> None:
    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert plain_ed25519.public_key(secret).hex() == public
    assert plain_ed25519.sign(secret, b"\x72").hex() == signature


@pytest.mark.parametrize("document", [None, [], {}, {"keys": None}, {"keys": {"x": "a"}}])
def test_what_is_no_key_set_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="not a JSON Web Key Set"):
        read_keys(document)


def test_without_the_package_that_checks_signatures_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(ConfigurationError, match=r"kling-async\[fal\]"):
        is_signed(b"{}", {}, [], 0.0)


# Addresses.


@pytest.mark.parametrize(
    ("returned", "app"),
    [
        ("https://queue.fal.run/fal-ai/kling-video/requests/r-1", "fal-ai/kling-video"),
        ("https://queue.fal.run/fal-ai/kling-video/v3/requests/r-1", "fal-ai/kling-video/v3"),
        ("https://queue.fal.run/evil/app/requests/r-1", "fal-ai/kling-video"),
        ("https://queue.fal.run/fal-ai/kling-video/requests/other", "fal-ai/kling-video"),
        ("https://queue.fal.run.evil.example/fal-ai/kling-video/v3/requests/r-1", "fal-ai/kling-video"),
        ("https://queue.fal.run/fal-ai/../kling-video/requests/r-1", "fal-ai/kling-video"),
        ("https://evil.example/fal-ai/kling-video/v3/requests/r-1", "fal-ai/kling-video"),
        (None, "fal-ai/kling-video"),
        (7, "fal-ai/kling-video"),
    ],
)
def test_a_returned_url_is_used_only_after_a_check_of_its_host_and_path(returned: Any, app: str) -> None:
    model = "fal-ai/kling-video/v3/pro/text-to-video"
    address = JobAddress.of(model, "r-1", returned, "https://queue.fal.run")
    assert address.path == f"/{app}/requests/r-1"
    assert JobAddress.parse(JobRef("fal", "model", address.reference_id).id, None) == address


@pytest.mark.parametrize("identity", ["r-1", "a:b:c", "fal-ai~x:y", "fal-ai~x:y:", "fal-ai~x:y:a:b", "~:y:r-1"])
def test_an_id_without_an_address_is_no_address(identity: str) -> None:
    assert JobAddress.parse(identity, None) is None


def test_the_key_goes_to_the_queue_the_uploads_and_the_list_only() -> None:
    provider = fal.Fal("k")
    assert provider.is_own("/fal-ai/x")
    assert provider.is_own("https://rest.fal.ai/storage/upload/initiate")
    assert provider.is_own("https://api.fal.ai/v1/models/requests/by-endpoint?limit=1")
    for elsewhere in (
        "https://rest.fal.ai/.well-known/jwks.json",
        "https://rest.fal.ai.evil.example/storage/upload/initiate",
        "https://v3.fal.media/files/a.mp4",
        "http://rest.fal.ai/storage/upload/initiate",
    ):
        assert not provider.is_own(elsewhere)


def test_a_key_id_and_a_key_secret_are_taken_from_the_environment() -> None:
    provider = fal.Fal().with_environment({"FAL_KEY_ID": "one", "FAL_KEY_SECRET": "two"})
    assert provider.credentials() == {"authorization": "Key one:two"}
    assert "two" not in repr(provider)

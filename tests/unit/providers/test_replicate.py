"""Replicate's requests and provider, judged by a strict server that was written from the facts alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from kling_async import (
    Client,
    GenerationCancelled,
    GenerationFailed,
    KlingError,
    MemoryLedger,
    Polling,
    Progressive,
    SubmissionUnknown,
)
from kling_async.providers import replicate
from support.strict_checks import How
from support.strict_replicate import ReplicateOutcome, StrictReplicate

URL = "https://a.example/boat.png"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)
QUICK = Polling(schedule=Progressive(0.02), status_calls_per_minute=100_000)

SMALLEST: list[Any] = [
    replicate.V3Video("a boat"),
    replicate.V3OmniVideo("a boat"),
    replicate.O1Video("a boat"),
    replicate.V25TurboVideo("a boat"),
    replicate.V21Video("a boat", URL),
    replicate.V20Video("a boat"),
    replicate.LipSync("https://a.example/v.mp4", speech="hello"),
    replicate.Request(model="kwaivgi/kling-v3-video", input=replicate.V3Video("a boat").model_input()),
]
FULL: list[Any] = [
    replicate.V3Video(
        "a boat",
        duration=7,
        mode="pro",
        aspect_ratio="9:16",
        generate_audio=True,
        start_image=URL,
        end_image=PNG,
        negative_prompt="rain",
        multi_prompt=[replicate.Shot(prompt="one", duration=3), replicate.Shot(prompt="two", duration=4)],
        cancel_after=90,
    ),
    replicate.V3OmniVideo(
        "<<<image_1>>> on <<<video_1>>>",
        duration=15,
        mode="standard",
        generate_audio=False,
        references=[URL, PNG],
        reference_video="https://a.example/v.mp4",
        video_reference_type="base",
        keep_original_sound=False,
    ),
    replicate.O1Video(
        "a boat",
        duration=3,
        mode="std",
        start_image=URL,
        end_image=URL,
        references=[URL],
        reference_video="https://a.example/v.mp4",
        video_reference_type="feature",
        keep_original_sound=True,
    ),
    replicate.V25TurboVideo("a boat", duration=10, aspect_ratio="1:1", start_image=PNG, end_image=URL),
    replicate.V21Video("a boat", PNG, duration=10, mode="pro", end_image=URL, negative_prompt="rain"),
    replicate.V20Video("a boat", duration=10, start_image=URL, cfg_scale=0.2, negative_prompt="rain"),
    replicate.LipSync("https://a.example/v.mp4", audio_file="https://a.example/s.mp3", voice_speed=1.2),
]


def make_client(server: StrictReplicate, **options: Any) -> Client:
    provider = replicate.Replicate(server.key, cancel_on_deadline=options.pop("cancel_on_deadline", False))
    return Client(provider, http=httpx.ASGITransport(server), polling=QUICK, **options)


@pytest.mark.asyncio
@pytest.mark.parametrize("request_", SMALLEST + FULL, ids=lambda request: type(request).__name__)
async def test_every_request_is_what_the_facts_allow(request_: Any) -> None:
    server = StrictReplicate()
    async with make_client(server) as client:
        result = await client.run(request_)
    assert server.violations == []
    assert server.left_to_default == []
    assert server.bought == 1
    assert [artifact.kind for artifact in result.artifacts] == ["video"]


@pytest.mark.asyncio
async def test_a_large_image_is_uploaded_before_the_paid_call() -> None:
    server = StrictReplicate()
    async with make_client(server) as client:
        await client.run(replicate.V21Video("a boat", PNG + bytes(400_000)))
    assert server.violations == []
    assert len(server.uploads) == 1
    assert server.requests["submit"] == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(("how", "accept"), list(itertools.product(("drop", "500", "502", "504"), (True, False))))
async def test_a_lost_answer_buys_nothing_twice(how: How, accept: bool) -> None:
    """The list of predictions tells what was bought. Where it cannot, the submission stays unknown."""
    server = StrictReplicate()
    async with make_client(server, ledger=MemoryLedger()) as client:
        server.lose_next_answer(accept, how)
        with pytest.raises(SubmissionUnknown):
            await client.run(replicate.V3Video("a boat"), key="row-1")
        jobs = await client.resume()
        assert [job.key for job in jobs] == (["row-1"] if accept else [])
        for job in jobs:
            assert (await job).artifacts
        assert [submission.key for submission in await client.unresolved()] == ([] if accept else ["row-1"])
        assert server.bought == accept
        assert server.requests["submit"] == 1
    assert server.violations == []
    assert server.duplicates == []


@pytest.mark.asyncio
async def test_two_predictions_that_look_alike_are_not_guessed_between() -> None:
    server = StrictReplicate()
    async with make_client(server, ledger=MemoryLedger()) as client:
        await client.submit(replicate.V3Video("a boat"), key="first")
        server.lose_next_answer(accept=True, how="502")
        with pytest.raises(SubmissionUnknown):
            await client.run(replicate.V3Video("a boat"), key="second")
    assert server.bought == 2


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("outcome", "error"),
    [(ReplicateOutcome(error="E005: flagged as sensitive"), GenerationFailed)],
)
async def test_a_failed_prediction_gives_its_reason(outcome: ReplicateOutcome, error: type[KlingError]) -> None:
    server = StrictReplicate()
    server.outcomes.append(outcome)
    async with make_client(server) as client:
        with pytest.raises(error, match="E005"):
            await client.run(replicate.V3Video("a boat"))


@pytest.mark.asyncio
@pytest.mark.parametrize("status", ["canceled", "aborted"])
async def test_a_cancelled_prediction_ends_as_cancelled(status: str) -> None:
    server = StrictReplicate(queued_seconds=60, early_cancel_status=status)
    async with make_client(server) as client:
        job = await client.submit(replicate.V3Video("a boat"))
        assert await job.cancel()
        with pytest.raises(GenerationCancelled):
            await job
    assert server.violations == []


@pytest.mark.asyncio
async def test_the_deadline_travels_with_the_submission_when_that_is_asked_for() -> None:
    server = StrictReplicate(queued_seconds=10_000)
    async with make_client(server, cancel_on_deadline=True) as client:
        job = await client.submit(replicate.V3Video("a boat"))
        server.advance(2_200)
        with pytest.raises(GenerationCancelled):
            await job
    assert server.violations == []


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (replicate.V3Video, "give a prompt"),
        (lambda: replicate.V3Video("a", duration=16), "less than or equal to 15"),
        (lambda: replicate.V3Video("a", end_image=URL), "needs a start_image"),
        (lambda: replicate.V3Video("a", mode="standard", start_image=URL, end_image=URL), "needs mode 'pro'"),
        (lambda: replicate.V3Video(multi_prompt=[replicate.Shot(prompt="a", duration=2)]), "last 2 s together"),
        (lambda: replicate.V3Video.model_validate({"prompt": "a", "multi_prompt": "no JSON"}), "not JSON"),
        (lambda: replicate.V3OmniVideo("<<<image_2>>>", references=[URL]), "names <<<image_2>>>"),
        (lambda: replicate.V3OmniVideo("a", video_reference_type="base"), "need a reference_video"),
        (lambda: replicate.O1Video("a", duration=7), "5 or 10"),
        (lambda: replicate.O1Video.model_validate({"prompt": "a", "mode": "standard"}), "'std' or 'pro'"),
        (lambda: replicate.O1Video("a", references=[URL] * 5, reference_video=URL), "at most 4"),
        (lambda: replicate.V25TurboVideo.model_validate({"prompt": "a", "duration": 7}), "5 or 10"),
        (lambda: replicate.V21Video("a", "boat.png"), "neither an http"),
        (lambda: replicate.LipSync(URL), "speech or audio_file"),
        (lambda: replicate.Request(model="kling", input={}), "model"),
    ],
)
def test_a_limit_that_is_broken_is_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make()

"""Runware's video and image requests: what each model takes, what is sent, and what it costs."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from kling_async import Runware, runware
from kling_async.sandbox.providers._runware_models import RULES

KEY = "6f1c1f0e-3c1b-4c7e-9a55-0d7f6a1f2b3c"
FRAME, LAST = "https://example.com/a.png", "https://example.com/b.png"
CLIP = "https://example.com/a.mp4"
MODELS = sorted(RULES)


def of(model: str, **fields: Any) -> runware.Video:
    """A request that the model takes."""
    needed = {"first_frame": FRAME} if model == "klingai:6@0" else {}
    return runware.Video.model_validate({"prompt": "a boat", "model": model, **needed, **fields})


def sent(request: runware.Video) -> dict[str, Any]:
    """The task as it is sent."""
    [task] = json.loads(next(Runware("key").submit(request, KEY, None)).body)
    return dict(task)


@pytest.mark.parametrize("model", MODELS)
def test_what_changes_the_price_is_always_sent(model: str) -> None:
    task = sent(of(model))
    assert {"model", "duration", "numberResults"} <= task.keys()
    assert ("width" in task) != ("inputs" in task)
    rule = RULES[model]
    assert task.get("providerSettings") == ({"klingai": {"sound": False}} if "sound" in rule.settings else None)


@pytest.mark.parametrize("model", MODELS)
def test_the_price_of_each_model_is_that_of_the_independent_table(model: str) -> None:
    endpoint = Runware("key").endpoint("runware/video")
    rule = RULES[model]
    for seconds in sorted(rule.durations & {5, 10}):
        for audio in (False, True) if "sound" in rule.settings else (None,):
            request = of(model, duration=seconds, audio=audio, count=3)
            size = "x".join(map(str, request.size)) if request.size else ""
            price = endpoint.price(request)
            assert price is not None
            assert price.amount == 3 * rule.price(size, seconds, sound=bool(audio), source=False)


def test_a_video_to_refer_to_costs_what_the_table_of_that_model_says() -> None:
    assert of("klingai:kling@o1-standard", reference_video=CLIP).usd == Decimal("0.63")  # Runware's own example
    assert of("klingai:kling-video@o3-pro", edit_video=CLIP).usd == 5 * Decimal("0.168")


@pytest.mark.parametrize(
    ("model", "fields", "words"),
    [
        ("klingai:kling-video@3-pro", {"duration": 2}, "greater than or equal to 3"),
        ("klingai:kling-video@3-pro", {"duration": 16}, "less than or equal to 15"),
        ("klingai:kling-video@2.6-pro", {"duration": 7}, "duration is 7; klingai:kling-video@2.6-pro makes 5 or 10"),
        ("klingai:6@1", {"duration": 15}, "duration is 15; klingai:6@1 makes 5 or 10"),
        ("klingai:kling@o1", {"duration": 11}, "duration is 11; klingai:kling@o1 makes 3 to 10"),
        ("klingai:kling@o1", {"duration": 7}, "without references klingai:kling@o1 makes 5 or 10"),
        ("klingai:kling@o1", {"duration": 7, "first_frame": FRAME}, "without references klingai:kling@o1 makes 5 or"),
        ("klingai:kling-video@3-pro", {"resolution": "720p"}, "klingai:kling-video@3-pro makes 1080p"),
        ("klingai:kling-video@3.0-turbo", {"resolution": "4k"}, "makes 720p or 1080p"),
        ("klingai:kling-video@3.0-turbo", {"audio": False}, "always makes sound"),
        ("klingai:6@1", {"audio": True}, "makes no sound"),
        ("klingai:kling@o1", {"audio": True}, "makes no sound"),
        ("klingai:kling-video@o3-pro", {"audio": True, "edit_video": CLIP}, "with a video no sound is generated"),
        ("klingai:kling-video@3-pro", {"references": [FRAME]}, "klingai:kling-video@3-pro takes none"),
        ("klingai:kling-video@o3-pro", {"references": [FRAME] * 8}, "8 reference images were given; at most 7"),
        ("klingai:kling-video@o3-pro", {"references": [FRAME] * 5, "edit_video": CLIP}, "at most 4 are allowed"),
        ("klingai:kling@o1", {"references": [FRAME], "first_frame": FRAME}, "takes one of them"),
        ("klingai:kling-video@3-pro", {"reference_video": CLIP}, "a video is given; klingai:kling-video@3-pro takes"),
        ("klingai:kling-video@o3-pro", {"reference_video": CLIP, "edit_video": CLIP}, "give one of them"),
        ("klingai:kling-video@o3-pro", {"reference_video": "a.mp4"}, "a video is given as an http"),
        ("klingai:kling-video@o3-pro", {"keep_original_sound": True}, "it needs reference_video or edit_video"),
        ("klingai:kling-video@3-pro", {"last_frame": LAST}, "last_frame is given without first_frame"),
        ("klingai:kling-video@2.6-pro", {"first_frame": FRAME, "last_frame": LAST}, "2.6-pro takes none"),
        ("klingai:kling-video@3-pro", {"first_frame": FRAME, "aspect_ratio": "1:1"}, "decides the aspect ratio"),
        ("klingai:kling-video@3-pro", {"first_frame": "a.png"}, "neither an http"),
        ("klingai:6@0", {"first_frame": None}, "makes videos from an image only"),
        ("klingai:kling-video@o3-pro", {"negative_prompt": "rain"}, "negative_prompt is given"),
        ("klingai:kling-video@3.0-turbo", {"negative_prompt": "rain"}, "only with a first frame"),
        ("klingai:kling-video@3-pro", {"cfg_scale": 0.5}, "cfg_scale is given; klingai:kling-video@3-pro takes none"),
        ("klingai:6@1", {"cfg_scale": 1.5}, "less than or equal to 1"),
        ("klingai:kling-video@3-pro", {"count": 21}, "less than or equal to 20"),
        ("klingai:kling-video@3-pro", {"ttl": 59}, "greater than or equal to 60"),
        ("klingai:kling-video@9", {}, "klingai:kling-video@3-standard"),
    ],
)
def test_a_limit_of_a_model_is_refused_with_what_the_model_allows(
    model: str, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        of(model, **fields)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"width": 1000, "height": 1000}, "1000x1000 is not a size of this model; there are 1280x720"),
        ({"width": 1280, "height": 720, "aspect_ratio": "1:1"}, "1280x720 has aspect_ratio 16:9"),
        ({"taskType": "imageInference"}, "for videos it is 'videoInference'"),
        ({"deliveryMethod": "sync"}, "deliveryMethod is 'sync', but for videos it is 'async'"),
        ({"inputs": {"frames": []}}, "inputs is an object with the fields frameImages"),
        ({"inputs": {"frameImages": FRAME}}, "inputs.frameImages must be a list"),
        ({"inputs": {"frameImages": [{"image": FRAME}, {"image": LAST, "frame": "first"}]}}, "at most one image"),
        ({"inputs": {"referenceVideos": [CLIP, CLIP]}}, "more than one video"),
        ({"inputs": {"video": CLIP}, "edit_video": CLIP}, "given both in inputs and beside it"),
        ({"providerSettings": {"google": {}}}, "providerSettings is an object with klingai"),
        ({"providerSettings": {"klingai": {"generateAudio": True}}}, "which has sound and keepOriginalSound"),
        ({"providerSettings": {"klingai": {"sound": True}}, "audio": True}, "given both in providerSettings"),
    ],
)
def test_a_task_of_runwares_own_that_cannot_be_meant_is_refused(task: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        runware.Video.model_validate({"positivePrompt": "a boat", **task})
    assert words in str(refused.value)


def test_an_older_form_of_the_frames_is_read_too() -> None:
    given = {"positivePrompt": "a boat", "inputs": {"frameImages": [{"inputImage": FRAME}, LAST]}}
    request = runware.Video.model_validate(given)
    assert (request.first_frame, request.last_frame) == (FRAME, LAST)


def test_the_upload_address_of_a_video_is_shown_without_its_signature() -> None:
    request = runware.Video("a boat", upload_endpoint="https://bucket.example.com/put?X-Signature=secret")
    assert "secret" not in repr(request)


def test_only_image_o3_makes_4k() -> None:
    assert runware.Image("a boat", resolution="4k", model="klingai:kling-image@o3").width == 4096
    with pytest.raises(ValidationError, match="resolution is 4k; klingai:kling-image@3 makes 1k and 2k"):
        runware.Image("a boat", resolution="4k")


def test_an_image_task_with_another_kind_of_model_is_refused() -> None:
    with pytest.raises(ValidationError, match="klingai:kling-image@3"):
        runware.Image.model_validate({"positivePrompt": "a boat", "model": "klingai:kling-video@3-pro"})

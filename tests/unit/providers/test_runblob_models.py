"""RunBlob's other models: what each takes, and what is sent."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from kling_async import Request, RunBlob, runblob
from kling_async.providers.runblob.models import VideoModel

FRAME, LAST, CLIP = "https://example.com/a.png", "https://example.com/b.png", "https://example.com/a.mp4"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
MOTION = {"reference": FRAME, "reference_video": CLIP}


def sent(request: Any) -> dict[str, Any]:
    """The JSON that is posted for a request."""
    call = next(RunBlob("key").submit(request, "attempt", None))
    return dict(json.loads(call.body))


@pytest.mark.parametrize("model", get_args(VideoModel))
def test_the_duration_is_a_number_for_models_that_are_priced_by_the_second_and_text_for_the_others(model: str) -> None:
    body = sent(runblob.Video("a fox", model=model, duration=10))  # type: ignore[arg-type]  # one of the values
    assert (body["model"], body["duration"]) == (model, 10 if model.startswith("kling_3") else "10")


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (runblob.Video, {"duration": 2}, "greater than or equal to 3"),
        (runblob.Video, {"duration": 16}, "less than or equal to 15"),
        (runblob.Video, {"duration": 7, "model": "kling_2.6"}, "duration is 7; kling_2.6 makes 5 or 10 seconds"),
        (runblob.Video, {"model": "kling_3_motion"}, "kling_2.1_master"),
        (runblob.Video, {"cfg_scale": 1.1}, "less than or equal to 1"),
        (runblob.Video, {"seed": -1}, "greater than or equal to 0"),
        (runblob.Video, {"seed": 2_147_483_648}, "less than or equal to 2147483647"),
        (runblob.Video, {"negative_prompt": "x" * 2501}, "at most 2500 characters"),
        (runblob.Video, {"first_frame": FRAME, "aspect_ratio": "1:1"}, "decides the aspect ratio"),
        (runblob.Video, {"first_frame": "a.png"}, "neither an http"),
        (runblob.Video, {"first_frame": b"GIF89a..."}, "allowed are JPEG, PNG, WEBP"),
        (runblob.Video, {"image_url": FRAME, "image_base64": "data:"}, "'image_base64' and 'first_frame'"),
        (runblob.MotionControl, {}, "reference"),
        (runblob.MotionControl, {**MOTION, "reference_video": "a.mp4"}, "a video is given as an http"),
        (runblob.MotionControl, {**MOTION, "model": "kling_3"}, "kling_3_motion_pro"),
        (runblob.MotionControl, {**MOTION, "duration": 15}, "makes 5 or 10 seconds"),
        (runblob.MotionControl, {**MOTION, "motion_direction": "left"}, "'video' or 'image'"),
        (runblob.O1Video, {"duration": 15}, "it must be 5, 8 or 10 seconds"),
        (runblob.O1Video, {"first_frame": FRAME}, "first_frame and last_frame belong together"),
        (runblob.O1Video, {"last_frame": LAST}, "first_frame and last_frame belong together"),
        (runblob.O1Video, {"references": [FRAME] * 6}, "6 reference images were given; at most 5"),
        (runblob.O1Video, {"references": [FRAME, PNG]}, "cannot be mixed"),
        (runblob.O1Video, {"references": [FRAME], "first_frame": FRAME, "last_frame": LAST}, "or both frames"),
        (runblob.O1Video, {"aspect_ratio": "1:1", "first_frame": FRAME, "last_frame": LAST}, "decide the aspect"),
        (runblob.O1Photo, {"resolution": "4k"}, "'1k' or '2k'"),
        (runblob.O1Photo, {"aspect_ratio": "auto"}, "'9:16'"),
        (runblob.O1Photo, {"references": [FRAME] * 6}, "at most 5"),
        (runblob.O3Video, {"first_frame": FRAME}, "first_frame and last_frame belong together"),
    ],
)
def test_a_limit_of_a_model_is_refused_with_what_is_allowed(
    kind: type[Request], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate({"prompt": "a fox", **fields})
    assert words in str(refused.value)


def test_an_image_is_sent_as_its_url_or_inline() -> None:
    assert sent(runblob.Video("a fox", first_frame=FRAME))["image_url"] == FRAME
    assert sent(runblob.Video("a fox", first_frame=PNG))["image_base64"].startswith("data:image/png;base64,")
    assert "reference_image_base64" in sent(runblob.MotionControl("a fox", PNG, CLIP))
    assert sent(runblob.O1Video("a fox", [PNG]))["images_base64"][0].startswith("data:image/png;base64,")


def test_what_only_the_client_package_has_is_sent_only_if_it_is_given() -> None:
    body = sent(runblob.O3Video("a fox"))
    assert not {"first_frame_url", "end_frame_url", "customize_multi_shots", "prefer_multi_shots"} & body.keys()
    assert not {"cfg_scale", "seed", "negative_prompt"} & sent(runblob.Video("a fox")).keys()

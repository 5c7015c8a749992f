"""PixelDojo's videos: what each model takes, what is sent, and what it costs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from kling_async import PixelDojo, Request, pixeldojo

FRAME, LAST, CLIP = "https://example.com/a.png", "https://example.com/b.png", "https://example.com/a.mp4"
SHOTS = [{"prompt": "a boat", "duration": 3}, {"prompt": "it sinks", "duration": "4"}]
MOTION = {"reference": FRAME, "reference_video": CLIP}


def sent(request: Any) -> tuple[str, dict[str, Any]]:
    """The address and the JSON that are posted for a request."""
    call = next(PixelDojo("key").submit(request, "attempt", None))
    return call.url, json.loads(call.body)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (pixeldojo.TextToVideo, {"prompt": None}, "give prompt or multi_prompt, and not both"),
        (pixeldojo.TextToVideo, {"multi_prompt": SHOTS, "duration": 7}, "give prompt or multi_prompt, and not both"),
        (pixeldojo.TextToVideo, {"prompt": None, "multi_prompt": SHOTS}, "last 7 s together, but duration is 5 s"),
        (pixeldojo.TextToVideo, {"prompt": None, "multi_prompt": [SHOTS[0]] * 7, "duration": 15}, "at most 6"),
        (pixeldojo.TextToVideo, {"duration": 2}, "greater than or equal to 3"),
        (pixeldojo.TextToVideo, {"duration": 16}, "less than or equal to 15"),
        (pixeldojo.TextToVideo, {"cfg_scale": 1.1}, "less than or equal to 1"),
        (pixeldojo.TextToVideo, {"voice_ids": ["a", "b", "c"]}, "at most 2"),
        (pixeldojo.TextToVideo, {"aspect_ratio": "4:3"}, "'16:9', '9:16' or '1:1'"),
        (pixeldojo.ReferenceToVideo, {}, "nothing to refer to is given"),
        (pixeldojo.ReferenceToVideo, {"last_frame": LAST}, "last_frame is given without first_frame"),
        (pixeldojo.ReferenceToVideo, {"references": [FRAME] * 8}, "8 reference images were given; at most 7"),
        (pixeldojo.ReferenceToVideo, {"references": [FRAME] * 5, "reference_video": CLIP}, "at most 4 are allowed"),
        (pixeldojo.ReferenceToVideo, {"reference_video": "a.mp4"}, "a video is given as an http"),
        (pixeldojo.ReferenceToVideo, {"references": [FRAME], "tier": "4k"}, "'standard' or 'pro'"),
        (pixeldojo.MotionControl, {"reference": FRAME}, "reference_video"),
        (pixeldojo.MotionControl, {**MOTION, "character_orientation": "left"}, "'video' or 'image'"),
    ],
)
def test_a_limit_of_a_model_is_refused_with_what_is_allowed(
    kind: type[Request], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate({"prompt": "a fox", **fields})
    assert words in str(refused.value)


def test_what_changes_the_price_is_always_sent() -> None:
    _, text = sent(pixeldojo.TextToVideo("a fox"))
    assert {"duration": "5", "generate_audio": True}.items() <= text.items()
    _, references = sent(pixeldojo.ReferenceToVideo("a fox", references=[FRAME]))
    assert {"tier": "standard", "generate_audio": False}.items() <= references.items()
    assert not {"duration", "aspect_ratio", "reference_type"} & references.keys()


def test_the_tier_of_a_motion_control_chooses_the_address() -> None:
    assert sent(pixeldojo.MotionControl(FRAME, CLIP))[0] == "/models/kling-motion-control/run"
    assert sent(pixeldojo.MotionControl(FRAME, CLIP, tier="pro"))[0] == "/models/kling-motion-control-pro/run"


def test_a_second_of_text_to_video_costs_eight_credits() -> None:
    price = PixelDojo("key").endpoint("pixeldojo/text-to-video").price(pixeldojo.TextToVideo("a fox", duration=7))
    assert price is not None
    assert str(price) == "56 credits"

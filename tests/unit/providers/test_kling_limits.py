"""What Kling's requests refuse before anything is sent: each limit with field, value and what the model allows."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from pydantic import ValidationError

from kling_async import Kling, Webhooks, kling
from kling_async.webhooks import standard_signature

IMAGE = "https://x.example/a.png"
VIDEO = "https://x.example/a.mp4"
CAT = kling.Element(id="1", name="cat")
CHARACTER = kling.Element(id="2", name="anna", video_character=True)

REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (kling.TextToVideo, {"duration": 7, "model": "kling-2.6"}, r"duration is 7; kling-2.6 allows 5, 10 .*kling-3.0"),
    (kling.TextToVideo, {"duration": 16}, "duration is 16; kling-3.0 allows 3 to 15"),
    (kling.TextToVideo, {"resolution": "4k", "model": "kling-2.6"}, "resolution is '4k'; kling-2.6 allows 720p, 1080p"),
    (kling.TextToVideo, {"audio": "native", "model": "kling-2.6"}, "kling-2.6 makes sound .* only at 1080p"),
    (kling.TextToVideo, {"audio": "off", "model": "kling-2.5-turbo"}, "kling-2.5-turbo has no such setting"),
    (kling.TextToVideo, {"multi_shot": True, "model": "kling-2.6"}, "multi_shot is True, but kling-2.6"),
    (kling.TextToVideo, {"prompt": "x" * 2501, "model": "kling-2.6"}, "2501 characters; kling-2.6 allows at most 2500"),
    (kling.TextToVideo, {"prompt": "@cat sleeps"}, "names @cat, and no input has that name"),
    (kling.TextToVideo, {"prompt": "<<<image_1>>>"}, "form of the image endpoints"),
    (kling.TextToVideo, {"prompt": "shot 1, 3, a; shot 2, 3, b;"}, "last 6 s together, but duration is 5"),
    (kling.TextToVideo, {"omit": ["audio"]}, "omit is for models that this version does not know"),
    (kling.ImageToVideo, {"first_frame": b"GIF89a"}, "GIF by its content"),
    (kling.ImageToVideo, {"voices": [{"id": "v", "name": "v"}]}, "voices has 1; kling-3.0 takes none"),
    (kling.ImageToVideo, {"model": "kling-2.6", "last_frame": IMAGE}, "takes a last frame only at 1080p"),
    (kling.OmniVideo, {"last_frame": IMAGE}, "last_frame is given without first_frame"),
    (kling.OmniVideo, {"references": [IMAGE] * 5, "base_video": VIDEO}, "5 together; .* at most 4 with a video"),
    (kling.OmniVideo, {"feature_video": VIDEO, "base_video": VIDEO}, "at most one video"),
    (kling.OmniVideo, {"feature_video": VIDEO, "audio": "native"}, "feature_video allows only 'off'"),
    (kling.OmniVideo, {"base_video": VIDEO, "multi_shot": True}, "base_video takes no shots"),
    (kling.OmniVideo, {"base_video": b"x"}, "base_video"),
    (kling.OmniVideo, {"base_video": "https://x.example/a.webm"}, r"ends in \.webm; allowed are MP4 and MOV"),
    (kling.OmniVideo, {"model": "kling-o1", "duration": 4}, "kling-o1 allows 5 or 10"),
    (kling.OmniVideo, {"model": "kling-o1", "elements": [CHARACTER]}, "kling-o1 takes no video characters"),
    (kling.OmniVideo, {"elements": [CAT, kling.Element(id="3", name="cats")]}, "'cat' is a part of the name 'cats'"),
    (kling.OmniVideo, {"elements": [CAT, CHARACTER], "base_video": VIDEO}, "goes with no other element"),
    (kling.MotionControl, {"elements": [CAT], "character_orientation": "image"}, "with an element it must be 'video'"),
    (kling.OmniImage, {"resolution": "4k", "model": "kling-image-o1"}, "kling-image-o1 allows 1k, 2k"),
    (kling.OmniImage, {"series": 3, "model": "kling-image-o1"}, "kling-image-o1 makes none"),
    (kling.OmniImage, {"series": 3, "count": 2}, "a series has its own number"),
    (kling.OmniImage, {"aspect_ratio": "auto"}, "needs a ratio where there is no image"),
    (kling.OmniImage, {"prompt": "<<<image_2>>>", "references": [IMAGE]}, "references has 1"),
    (kling.ImageGeneration, {"likeness": "face", "reference": IMAGE}, "kling-v3 has no such setting"),
    (kling.ImageGeneration, {"negative_prompt": "x", "reference": IMAGE}, "only without reference"),
    (kling.ExpandImage, {"up": 2, "left": 2}, "9 times the old one; at most 3"),
    (kling.ExpandImage, {}, "nothing would be added"),
    (kling.Avatar, {}, "neither is given"),
    (kling.LipSync, {"sound_end": 5, "sound_start": 5, "audio_id": "1", "video_id": "1"}, "must be after sound_start"),
    (kling.LipSync, {"sound_end": 5, "audio_id": "1"}, "0 videos are given"),
    (kling.VideoToAudio, {}, "give one of video_url and video_id"),
    (kling.Effects, {"scene": "hug", "references": []}, "an effect needs 1 or 2 images"),
]
REQUIRED: dict[Any, dict[str, Any]] = {
    kling.ImageToVideo: {"first_frame": IMAGE},
    kling.MotionControl: {"reference": IMAGE, "motion_video": VIDEO},
    kling.ExpandImage: {"reference": IMAGE},
    kling.Avatar: {"reference": IMAGE},
}


@pytest.mark.parametrize(("kind", "fields", "message"), REFUSED)
def test_a_limit_is_named_with_what_is_allowed(kind: Any, fields: dict[str, Any], message: str) -> None:
    words = {"prompt": "a lamp"} if "prompt" in kind.model_fields else {}
    with pytest.raises(ValidationError, match=message):
        kind.model_validate({**words, **REQUIRED.get(kind, {}), **fields})


def test_an_unknown_model_is_passed_on_and_may_omit_settings() -> None:
    request = kling.TextToVideo("a lamp", model="kling-9", duration=30, omit=["audio", "multi_shot"])
    assert request.settings() == {"resolution": "720p", "duration": 30, "aspect_ratio": "16:9"}


def test_the_vendors_test_vector_of_a_signature_is_met() -> None:
    body = (
        b'{"id":"1234567890","status":"succeeded","message":"","create_time":1781080778802,"update_time":1781080794151}'
    )
    secret = "whsec_dGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0c2VjcmV0MTI="
    assert base64.b64decode(secret.removeprefix("whsec_"))
    assert "signing_secrets" in Webhooks.__dataclass_fields__
    assert standard_signature(secret, "9876543210", "1781080794", body) == (
        "v1,UsKlJP00XoQyOn410NM9xv34sP+Gl0jnOO9Lcpr7NJ4="
    )


def test_the_region_chooses_the_host() -> None:
    assert Kling("k").base_url == "https://api-singapore.klingai.com"
    assert Kling("k", region="china").base_url == "https://api-beijing.klingai.com"
    assert "secret" not in repr(Kling(access_key="secret-a", secret_key="secret-b"))

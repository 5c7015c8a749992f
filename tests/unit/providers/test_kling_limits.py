"""What Kling's requests refuse before anything is sent: each limit with field, value and what the model allows."""

from __future__ import annotations

import ast
import base64
import importlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from kling_async import Kling, Webhooks, kling
from kling_async.providers.base import Request
from kling_async.providers.kling.models import IMAGE_MODELS, OMNI_IMAGE_MODELS, VIDEO_MODELS
from kling_async.webhooks import standard_signature
from support.kling_requests import BARE, SPEECH

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
    (kling.TextToVideo, {"duration": 9, "prompt": f"shot 1, 9, {'x' * 513};"}, "has 513 characters; at most 512"),
    (kling.TextToVideo, {"prompt": "shot 1, 5, a; shot 3, 0, b;"}, r"numbers its shots \[1, 3\]"),
    (kling.TextToVideo, {"prompt": "shot 1, 5, a; shot 2, 0, b;"}, "shot 2 of the prompt lasts 0 s; at least 1 s"),
    (
        kling.TextToVideo,
        {"duration": 7, "prompt": "".join(f"shot {n}, 1, a;" for n in range(1, 8))},
        "has 7 shots; at most 6 are allowed",
    ),
    (kling.ImageToVideo, {"elements": [CAT, kling.Element(id="3", name="cat")]}, "two inputs have the name 'cat'"),
    (
        kling.ImageToVideo,
        {"model": "kling-2.6", "last_frame": IMAGE, "resolution": "1080p", "audio": "native"},
        "kling-2.6 takes a last frame only without sound",
    ),
    (kling.ImageToVideo, {"model": "kling-2.6", "voices": [{"id": "v", "name": "v"}]}, "voices need audio='native'"),
    (kling.ImageToVideo, {"last_frame_name": "end"}, "last_frame_name is 'end', and there is no last_frame to name"),
    (kling.OmniVideo, {"video_name": "clip"}, "video_name is 'clip', and there is no video to name"),
    (kling.OmniVideo, {"references": [IMAGE], "reference_names": ["a", "b"]}, "has 2 names for 1 references"),
    (
        kling.OmniVideo,
        {"model": "kling-o1", "first_frame": IMAGE, "last_frame": IMAGE, "references": [IMAGE]},
        "kling-o1 with both frames takes no references and no elements",
    ),
    (
        kling.OmniVideo,
        {"model": "kling-o1", "first_frame": IMAGE, "last_frame": IMAGE, "feature_video": VIDEO},
        "kling-o1 with a feature_video takes no last_frame",
    ),
    (kling.OmniVideo, {"audio": "original"}, "the sound of a base_video, and there is none"),
    (kling.OmniVideo, {"base_video": VIDEO, "first_frame": IMAGE}, "base_video takes no frames"),
    (kling.OmniVideo, {"base_video": VIDEO, "audio": "native"}, "base_video allows 'off' or 'original'"),
    (kling.OmniVideo, {"feature_video": VIDEO, "multi_shot": False}, "multi_shot is False; feature_video allows"),
    (
        kling.OmniVideo,
        {"first_frame": IMAGE, "elements": [{"id": "1", "name": f"e{n}"} for n in range(4)]},
        "elements has 4; with a frame at most 3",
    ),
    (
        kling.OmniVideo,
        {"elements": [{"id": "1", "name": f"e{n}", "video_character": True} for n in range(4)]},
        "4 elements are video characters; at most 3",
    ),
    (kling.OmniImage, {"references": [IMAGE] * 6, "element_ids": ["1"] * 5}, "11 together; at most 10"),
    (kling.OmniVideo, {"references": [IMAGE] * 8}, "8 reference images were given; at most 7"),
    (kling.ImageGeneration, {"likeness": "face"}, "there is no reference to take it from"),
    (kling.MultiImageToImage, {"references": []}, "1 to 4 images of subjects are needed"),
    (kling.MultiImageToImage, {"references": [IMAGE] * 5}, "5 reference images were given; at most 4"),
    (kling.LipSync, {"sound_end": 5, "audio_id": "1", "session_id": "s"}, "session_id and face_id belong together"),
    (kling.Avatar, {"sound": "https://x.example/a.ogg"}, r"ends in \.ogg; allowed are MP3, WAV, M4A and AAC"),
    (kling.Avatar, {"sound": "a.mp3"}, r"neither an http\(s\) URL nor a data URI"),
    (kling.Avatar, {"sound": b"ID3" + bytes(5_000_000)}, "has 5000003 bytes; at most 5000000"),
    (kling.Avatar, {"sound": b"hello"}, "the sound is none by its content"),
    (kling.Avatar, {"sound": Path("/nowhere/a.mp3")}, "the sound /nowhere/a.mp3 cannot be read"),
    (kling.OmniVideo, {"base_video": "clip.mp4"}, r"not the http\(s\) URL of a video"),
    (kling.ImageToVideo, {"first_frame": Image.new("RGB", (299, 400))}, "299x400; each side must have at least 300"),
    (kling.ImageToVideo, {"first_frame": Image.new("RGB", (300, 751))}, "300x751; its sides may be at most 1:2.5"),
]
REQUIRED: dict[Any, dict[str, Any]] = {
    kling.ImageToVideo: {"first_frame": IMAGE},
    kling.MotionControl: {"reference": IMAGE, "motion_video": VIDEO},
    kling.ExpandImage: {"reference": IMAGE},
    kling.Avatar: {"reference": IMAGE},
}


def make(kind: Any, fields: dict[str, Any]) -> Request:
    words = {"prompt": "a lamp"} if "prompt" in kind.model_fields else {}
    found: Request = kind.model_validate({**words, **REQUIRED.get(kind, {}), **fields})
    return found


@pytest.mark.parametrize(("kind", "fields", "message"), REFUSED)
def test_a_limit_is_named_with_what_is_allowed(kind: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make(kind, fields)


def refusals(module: str) -> set[int]:
    """The lines of a module on which a request is refused."""
    tree = ast.parse(inspect.getsource(importlib.import_module(module)))
    raised = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return {node.lineno for node in raised if ast.unparse(node).startswith("raise ValueError(")}


@pytest.mark.parametrize("name", ["video", "legacy", "media", "models"])
def test_every_limit_of_the_code_is_walked(name: str) -> None:
    """No line that refuses a request is without an example above."""
    module = f"kling_async.providers.kling.{name}"
    file, walked = importlib.import_module(module).__file__, set()
    for kind, fields, _ in REFUSED:
        with pytest.raises(ValidationError) as refused:
            make(kind, fields)
        for line in refused.value.errors():
            trace = line.get("ctx", {}).get("error", ValueError()).__traceback__
            while trace is not None:
                walked |= {trace.tb_lineno} if trace.tb_frame.f_code.co_filename == file else set()
                trace = trace.tb_next
    assert refusals(module) - walked == set()


CLASSES: Mapping[str, Any] = {
    "text-to-video": kling.TextToVideo,
    "image-to-video": kling.ImageToVideo,
    "omni-video": kling.OmniVideo,
    "motion-control": kling.MotionControl,
}
ALL_VALUES: Mapping[str, tuple[Any, ...]] = {
    "resolution": ("720p", "1080p", "4k"),
    "duration": tuple(range(1, 18)),
    "audio": ("native", "original", "off"),
    "multi_shot": (True, False),
}


def settings() -> Iterator[tuple[str, str, str, Any]]:
    """Product, model, field and value: every model with every value that any model has, and a few more."""
    for product, models in VIDEO_MODELS.items():
        for model in models:
            for name, values in ALL_VALUES.items():
                if name in CLASSES[product].model_fields:
                    yield from ((product, model, name, value) for value in values)


def companions(product: str, model: str, name: str, value: Any) -> dict[str, Any]:
    """What goes with a value so that no rule between fields refuses it."""
    if product == "omni-video" and (name, value) == ("audio", "original"):
        return {"base_video": VIDEO}
    if product == "omni-video" and model == "kling-o1":
        return {"references": [IMAGE]}
    return {"resolution": "1080p"} if (name, value) == ("audio", "native") else {}


@pytest.mark.parametrize(("product", "model", "name", "value"), list(settings()))
def test_every_value_of_every_setting_is_checked_by_model(product: str, model: str, name: str, value: Any) -> None:
    known = VIDEO_MODELS[product][model]
    allowed: Mapping[str, tuple[Any, ...]] = {
        "resolution": known.resolutions,
        "duration": known.durations,
        "audio": known.audio,
        "multi_shot": (True, False) if known.multi_shot else (),
    }
    fields = {"model": model, name: value, **companions(product, model, name, value)}
    if value in allowed[name]:
        assert getattr(make(CLASSES[product], fields), name) == value
        return
    with pytest.raises(ValidationError) as refused:
        make(CLASSES[product], fields)
    message = str(refused.value)
    assert name in message
    assert str(value) in message
    # A value that no model of the product has is refused by the type, which names the values that there are.
    by_type = any(line["type"] != "value_error" for line in refused.value.errors())
    assert by_type or model in message


@pytest.mark.parametrize(
    ("kind", "model", "resolution"),
    [
        (kind, model, resolution)
        for kind, models in ((kling.OmniImage, OMNI_IMAGE_MODELS), (kling.ImageGeneration, IMAGE_MODELS))
        for model in models
        for resolution in ("1k", "2k", "4k", "8k")
    ],
)
def test_every_resolution_of_pictures_is_checked_by_model(kind: Any, model: str, resolution: str) -> None:
    models = {**OMNI_IMAGE_MODELS, **IMAGE_MODELS}
    if resolution in models[model].resolutions:
        assert make(kind, {"model": model, "resolution": resolution}).describe()["resolution"] == resolution
        return
    with pytest.raises(ValidationError, match=f"(?s)resolution.*{resolution}"):
        make(kind, {"model": model, "resolution": resolution})


def bounds(schema: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any, bool]]:
    """Values at and beyond each bound that the JSON schema names: field, value, whether it is allowed."""
    parts = [schema, *schema.get("anyOf", ())]
    for part in parts:
        for bound, beyond in (("minimum", -1), ("maximum", 1)):
            if bound in part:
                yield name, part[bound], True
                yield name, part[bound] + beyond, False
        for value in part.get("enum", ()):
            yield name, value, True
        if "enum" in part or "const" in part:
            yield name, "unheard-of", False
        if "maxLength" in part and "pattern" not in part:
            yield name, "x" * part["maxLength"], True
            yield name, "x" * (part["maxLength"] + 1), False
        if part.get("minLength"):
            yield name, "", False
        if part.get("type") == "boolean":
            yield name, "perhaps", False


SAMPLES: list[Request] = [request for request in [*BARE, *SPEECH[:1]] if not isinstance(request, kling.ExpandImage)]
BOUNDS = [
    (request, *bound)
    for request in [*SAMPLES, kling.ExpandImage(IMAGE, up=0.1)]
    for name, schema in type(request).model_json_schema()["properties"].items()
    if name not in {"callback_url", "model"}
    for bound in bounds(schema, name)
]


def complaints(request: Request, name: str, value: Any) -> list[tuple[Any, ...]]:
    """Where the request with that value is refused. Empty for a rule between fields, which names no single field."""
    try:
        type(request).model_validate({**dict(request), name: value})
    except ValidationError as refused:
        return [line["loc"] for line in refused.errors()]
    return []


@pytest.mark.parametrize(
    ("request_", "name", "value", "allowed"), BOUNDS, ids=lambda value: type(value).__name__ if value else "empty"
)
def test_every_bound_of_every_field_is_checked(request_: Request, name: str, value: Any, allowed: bool) -> None:
    """The bound itself is accepted, unless a rule between fields refuses it. What lies beyond is refused there."""
    places = complaints(request_, name, value)
    assert any(name in place for place in places) is not allowed, f"{name}={value!r}: {places}"


def test_the_bounds_are_many() -> None:
    assert len(BOUNDS) > 200


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


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (kling.NewElement, {"name": "x" * 21, "images": [IMAGE]}, "name"),
        (kling.NewElement, {"description": "x" * 101, "images": [IMAGE]}, "description"),
        (kling.NewElement, {}, "give one of images and video_url"),
        (kling.NewElement, {"images": [IMAGE], "video_url": VIDEO}, "give one of images and video_url"),
        (kling.NewElement, {"images": [IMAGE], "voice_id": "7"}, "only an element from a video takes a voice"),
        (kling.NewElement, {"images": [Path(__file__)]}, "by its content|local file"),
        (kling.NewElement, {"images": [IMAGE] * 5}, "5 reference images were given; at most 4"),
        (kling.NewVoice, {}, "give one of url and video_id"),
        (kling.NewVoice, {"url": "a.mp3"}, "url"),
    ],
)
def test_what_cannot_become_an_element_or_a_voice_is_refused(kind: Any, fields: dict[str, Any], message: str) -> None:
    words = {"description": "a cat"} if kind is kling.NewElement else {}
    with pytest.raises(ValidationError, match=message):
        kind.model_validate({"name": "cat", **words, **fields})

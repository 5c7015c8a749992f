"""The legacy paths of the official Kling API and their bodies, from docs/providers/kling.md alone.

A path whose `fields` are None exists, but no source names its fields. Only the fields of every create are judged there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from kling_async.sandbox.rules.fields import Field, Model, Rule, at_least_one, exactly_one, together_at_most
from kling_async.sandbox.rules.kling_media import legacy_image, mask_image, sound_problem, video_problem
from kling_async.sandbox.rules.kling_video import OPTIONS

COMMON: Mapping[str, Field] = OPTIONS
Makes = Literal["video", "image", "audio", "voice", "element"]

_RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9")
_VIDEO_RATIO = Field("a string", values=("16:9", "9:16", "1:1"))
_TEXT = Field("a string")


def _length(most: int) -> Any:
    return lambda value: f"has {len(value)} characters, more than {most}" if len(value) > most else None


_LONG = _length(2500)
_PROMPT = Field("a string", check=_LONG)
_NEEDED_PROMPT = Field("a text that is not empty", required=True, check=_LONG)
_IMAGE = Field("a text that is not empty", check=legacy_image)
_NEEDED_IMAGE = replace(_IMAGE, required=True)
_NEEDED_VIDEO = Field("a text that is not empty", required=True, check=video_problem)
_SOUND_FILE = Field("a text that is not empty", check=sound_problem)
_ID = Field("a text that is not empty")
_NEEDED_ID = Field("a text that is not empty", required=True)
_ELEMENTS = Field("a list of objects", fields={"element_id": Field("an integer", required=True)})
_COUNT = Field("an integer", low=1, high=9, money=True)
_SHARE = Field("a number", low=0, high=1)
_VOLUME = Field("a number", low=0, high=2)
_YES_NO = Field("a string", values=("yes", "no"))
_ON_OFF = Field("a string", values=("on", "off"), money=True)
_STD_PRO = Field("a string", values=("std", "pro"), money=True)
_MODE = Field("a string", values=("std", "pro", "4k"), money=True)


def _model(*names: str) -> Field:
    return Field("a string", values=names, money=True)


def _image_items(what: str) -> Any:
    """A check of items whose shape no source tells: a picture, or an object of one picture."""

    def check(value: list[Any]) -> str | None:
        for number, item in enumerate(value):
            single = next(iter(item.values())) if isinstance(item, dict) and len(item) == 1 else item
            if (complaint := legacy_image(single)) is not None:
                return f"item {number} {complaint}"
        return None if value else f"has no {what}"

    return check


# Images -----------------------------------------------------------------------------------------------------------


def _omni_image_model(body: Mapping[str, Any]) -> str | None:
    if body.get("model_name", "kling-image-o1") == "kling-v3-omni":
        text_only = not body.get("image_list") and not body.get("element_list")
        if text_only and body.get("aspect_ratio", "auto") == "auto":
            return "aspect_ratio auto (the default) is not supported by kling-v3-omni without images"
        return None
    if body.get("resolution") == "4k":
        return "resolution 4k is not one of kling-image-o1"
    return "result_type series is not one of kling-image-o1" if body.get("result_type") == "series" else None


def _series_amount(value: Any) -> str | None:
    allowed = {"auto", *map(str, range(2, 10))}
    return None if str(value) in allowed else f"is {value!r}, neither 2 to 9 nor auto"


def _generations_model(body: Mapping[str, Any]) -> str | None:
    first = [name for name in ("image_reference", "image_fidelity", "human_fidelity") if name in body]
    if first and body.get("model_name", "kling-v3") != "kling-v2-1":
        return f"{', '.join(first)}: of kling-v2-1 only"
    if "image_reference" in body and "image" not in body:
        return "image_reference needs image"
    if "negative_prompt" in body and "image" in body:
        return "negative_prompt is for text to image only"
    together = len(body.get("element_list", ())) + ("image" in body)
    return f"image and elements are {together} together, more than 10" if together > 10 else None  # noqa: PLR2004  # the page's number


def _new_area(body: Mapping[str, Any]) -> str | None:
    up, down, left, right = (body.get(f"{side}_expansion_ratio", 0) for side in ("up", "down", "left", "right"))
    area = (1 + up + down) * (1 + left + right)
    return f"the new area is {area:g} times the old one, more than 3" if area > 3 + 1e-9 else None


_IMAGES: dict[str, Model] = {
    "omni-image": Model(
        {
            "model_name": _model("kling-image-o1", "kling-v3-omni"),
            "prompt": _NEEDED_PROMPT,
            "image_list": Field("a list of objects", fields={"image": _NEEDED_IMAGE}),
            "element_list": _ELEMENTS,
            "resolution": Field("a string", values=("1k", "2k", "4k"), money=True),
            "result_type": Field("a string", values=("single", "series"), money=True),
            "n": _COUNT,
            "series_amount": Field("a string or an integer", money=True, check=_series_amount),
            "aspect_ratio": Field("a string", values=(*_RATIOS, "auto")),
        },
        (together_at_most(10, "image_list", "element_list"), _omni_image_model),
    ),
    "generations": Model(
        {
            "model_name": _model("kling-v3", "kling-v2-1"),
            "prompt": _NEEDED_PROMPT,
            "negative_prompt": _PROMPT,
            "image": _IMAGE,
            "image_reference": Field("a string", values=("subject", "face")),
            "image_fidelity": _SHARE,
            "human_fidelity": _SHARE,
            "element_list": _ELEMENTS,
            "resolution": Field("a string", values=("1k", "2k"), money=True),
            "n": _COUNT,
            "aspect_ratio": Field("a string", values=_RATIOS),
        },
        (_generations_model,),
    ),
    # No source tells whether the prompt is required.
    "multi-image2image": Model(
        {
            "model_name": _model("kling-v2-1"),
            "prompt": _PROMPT,
            "subject_image_list": Field("a list", required=True, most=4, check=_image_items("subject image")),
            "scene_image": _IMAGE,
            "style_image": _IMAGE,
            "n": _COUNT,
            "aspect_ratio": Field("a string", values=_RATIOS),
        }
    ),
    "editing/expand": Model(
        {
            "image": _NEEDED_IMAGE,
            **{f"{side}_expansion_ratio": Field("a number", low=0, high=2) for side in ("up", "down", "left", "right")},
            "prompt": _PROMPT,
            "n": _COUNT,
        },
        (_new_area,),
    ),
    "kolors-virtual-try-on": Model(
        {
            "model_name": _model("kolors-virtual-try-on-v1", "kolors-virtual-try-on-v1-5"),
            "human_image": _NEEDED_IMAGE,
            "cloth_image": _IMAGE,
        }
    ),
}

# Videos -----------------------------------------------------------------------------------------------------------

_V1 = ("kling-v1", "kling-v1-5", "kling-v1-6")
_V2 = ("kling-v2-master", "kling-v2-1", "kling-v2-1-master", "kling-v2-5-turbo")
_CAMERAS = ("simple", "down_back", "forward_up", "right_turn_forward", "left_turn_forward")
_MOVES = ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")
_SECONDS = tuple(str(second) for second in range(3, 16))

_CAMERA = Field(
    "an object",
    fields={
        "type": Field("a string", values=_CAMERAS),
        "config": Field("an object", fields={move: Field("a number", low=-10, high=10) for move in _MOVES}),
    },
)
# No source tells the type of a shot's duration: both are accepted.
_MULTI_SHOT: dict[str, Field] = {
    "multi_shot": Field("a boolean"),
    "shot_type": Field("a string", values=("customize", "intelligence")),
    "multi_prompt": Field(
        "a list of objects",
        most=6,
        fields={
            "index": Field("an integer", required=True, low=1),
            "prompt": Field("a text that is not empty", required=True, check=_length(512)),
            "duration": Field("a string or an integer", required=True),
        },
    ),
}
_TEXT2VIDEO: dict[str, Field] = {
    "model_name": _model(*_V1, *_V2, "kling-v2-6", "kling-v3"),
    "prompt": _PROMPT,
    "negative_prompt": _PROMPT,
    "sound": _ON_OFF,
    "cfg_scale": _SHARE,
    "mode": _MODE,
    "aspect_ratio": _VIDEO_RATIO,
    "duration": Field("a string", values=_SECONDS, money=True),
    "camera_control": _CAMERA,
    "voice_list": Field("a list", most=2),
    "element_list": replace(_ELEMENTS, most=3),
    **_MULTI_SHOT,
}


def _points(value: list[Any]) -> str | None:
    for number, item in enumerate(value):
        trajectory = item.get("trajectories")
        if isinstance(trajectory, list) and not 2 <= len(trajectory) <= 77:  # noqa: PLR2004  # the page's number
            return f"item {number} has {len(trajectory)} points; a trajectory has 2 to 77"
    return None


_IMAGE2VIDEO: dict[str, Field] = {
    **_TEXT2VIDEO,
    "image": _IMAGE,
    "image_tail": _IMAGE,
    "static_mask": Field("a text that is not empty", check=mask_image),
    "dynamic_masks": Field("a list of objects", most=6, check=_points),
}


def _legacy_model(body: Mapping[str, Any]) -> str | None:
    name, mode = body.get("model_name"), body.get("mode", "std")
    if name is None:  # no source tells the default model
        return None
    if name != "kling-v3":
        newer = [field for field in _MULTI_SHOT if field in body]
        if newer:
            return f"{', '.join(newer)}: of kling-v3 only"
        if mode == "4k":
            return f"mode 4k is not one of {name}"
        if body.get("duration", "5") not in {"5", "10"}:
            return f"duration {body['duration']!r} is not one of {name}"
    return _legacy_sound(body, name, mode)


def _legacy_sound(body: Mapping[str, Any], name: str, mode: str) -> str | None:
    if "sound" in body and name not in {"kling-v2-6", "kling-v3"}:
        return f"sound is not a field of {name}"
    if body.get("sound") == "on" and name == "kling-v2-6" and mode != "pro":
        return "sound on of kling-v2-6 needs mode pro"
    if "cfg_scale" in body and name.startswith("kling-v2"):
        return f"cfg_scale is not a field of {name}"
    return None


_VIDEO_RULES: tuple[Rule, ...] = (
    _legacy_model,
    lambda body: "element_list does not go with voice_list" if {"element_list", "voice_list"} <= set(body) else None,
)


def _omni_model(body: Mapping[str, Any]) -> str | None:
    if body.get("model_name", "kling-video-o1") == "kling-v3-omni":
        return None
    newer = [field for field in _MULTI_SHOT if field in body]
    if newer:
        return f"{', '.join(newer)}: of kling-v3-omni only"
    if body.get("mode") == "4k" or body.get("sound") == "on":
        return "mode 4k and sound on are not of kling-video-o1"
    return f"duration {body['duration']!r} is not one of kling-video-o1" if int(body.get("duration", 5)) > 10 else None  # noqa: PLR2004  # the page's number


def _omni_inputs(body: Mapping[str, Any]) -> str | None:
    frames = [item["type"] for item in body.get("image_list", ()) if "type" in item]
    video = body.get("video_list")
    if len(frames) != len(set(frames)):
        return "image_list has two frames of one type"
    if "end_frame" in frames and "first_frame" not in frames:
        return "image_list has an end_frame and no first_frame"
    if video and body.get("sound") == "on":
        return "sound on does not go with a video"
    if not video and "first_frame" not in frames and "aspect_ratio" not in body:
        return "aspect_ratio is required without a first frame or a video"
    count = len(body.get("image_list", ())) - len(frames) + len(body.get("element_list", ()))
    most = 4 if video else 7
    return f"images and elements are {count} together, more than {most}" if count > most else None


_VIDEOS: dict[str, Model] = {
    "text2video": Model(_TEXT2VIDEO, (*_VIDEO_RULES, at_least_one("prompt", "multi_prompt"))),
    "image2video": Model(_IMAGE2VIDEO, (*_VIDEO_RULES, at_least_one("image", "image_tail"))),
    "omni-video": Model(
        {
            "model_name": _model("kling-video-o1", "kling-v3-omni"),
            "prompt": _PROMPT,
            "image_list": Field(
                "a list of objects",
                fields={"image_url": _NEEDED_IMAGE, "type": Field("a string", values=("first_frame", "end_frame"))},
            ),
            "video_list": Field(
                "a list of objects",
                most=1,
                fields={
                    "video_url": _NEEDED_VIDEO,
                    "refer_type": Field("a string", values=("base", "feature")),
                    "keep_original_sound": _YES_NO,
                },
            ),
            "element_list": _ELEMENTS,
            "sound": _ON_OFF,
            "mode": _MODE,
            "aspect_ratio": _VIDEO_RATIO,
            "duration": Field("a string", values=_SECONDS, money=True),
            **_MULTI_SHOT,
        },
        (_omni_model, _omni_inputs, at_least_one("prompt", "multi_prompt")),
    ),
    "motion-control": Model(
        {
            "model_name": _model("kling-v2-6", "kling-v3"),
            "image_url": _NEEDED_IMAGE,
            "video_url": _NEEDED_VIDEO,
            "character_orientation": Field("a string", values=("image", "video")),
            "keep_original_sound": replace(_YES_NO, money=True),
            "mode": _STD_PRO,
            "prompt": _PROMPT,
        }
    ),
    "multi-image2video": Model(None),
    "video-extend": Model(None),
    "lip-sync": Model(None),
    "multi-elements": Model(None),
    "effects": Model(
        {
            "effect_scene": _NEEDED_ID,
            "input": Field(
                "an object",
                required=True,
                fields={"image": _IMAGE, "images": Field("a list", most=2, check=_image_items("image"))},
            ),
        },
        (
            lambda body: exactly_one("image", "images")(body["input"]),
            lambda body: "input.images has not 2 images" if len(body["input"].get("images", "22")) != 2 else None,  # noqa: PLR2004  # the page's number
        ),
    ),
    "avatar/image2video": Model(
        {
            "image": _NEEDED_IMAGE,
            "audio_id": _ID,
            "sound_file": _SOUND_FILE,
            "prompt": _PROMPT,
            "mode": _STD_PRO,
        },
        (exactly_one("audio_id", "sound_file"),),
    ),
    "advanced-lip-sync": Model(
        {
            "session_id": _NEEDED_ID,
            "face_choose": Field(
                "a list of objects",
                required=True,
                most=1,
                fields={
                    "face_id": _NEEDED_ID,
                    "audio_id": _ID,
                    "sound_file": _SOUND_FILE,
                    "sound_start_time": Field("an integer", required=True, low=0),
                    "sound_end_time": Field("an integer", required=True, low=0),
                    "sound_insert_time": Field("an integer", required=True, low=0),
                    "sound_volume": _VOLUME,
                    "original_audio_volume": _VOLUME,
                },
            ),
        },
        (lambda body: _face(body["face_choose"]),),
    ),
}


def _face(faces: list[dict[str, Any]]) -> str | None:
    if len(faces) != 1:
        return "face_choose has not 1 face"
    if faces[0]["sound_end_time"] <= faces[0]["sound_start_time"]:
        return "sound_end_time is not after sound_start_time"
    return exactly_one("audio_id", "sound_file")(faces[0])


# All paths --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LegacyPath:
    """One legacy path.

    Attributes:
        makes: What its tasks make.
        sync: The answer of the POST is the result, and there is no task and no external id.
        paid: A POST costs money.
    """

    model: Model
    makes: Makes = "video"
    sync: bool = False
    paid: bool = True


_TTS = Model(
    {
        "text": Field("a text that is not empty", required=True, check=_length(1000)),
        "voice_id": _ID,
        "voice_language": Field("a string", values=("zh", "en")),
        "voice_speed": Field("a number", low=0.8, high=2),
    }
)
_UNKNOWN = Model(None)

LEGACY: Mapping[str, LegacyPath] = {
    **{f"/v1/images/{name}": LegacyPath(model, "image") for name, model in _IMAGES.items()},
    **{f"/v1/videos/{name}": LegacyPath(model) for name, model in _VIDEOS.items()},
    "/v1/general/ai-multi-shot": LegacyPath(_UNKNOWN, "image"),
    "/v1/general/advanced-custom-elements": LegacyPath(_UNKNOWN, "element"),
    "/v1/general/custom-voices": LegacyPath(_UNKNOWN, "voice"),
    "/v1/audio/text-to-audio": LegacyPath(_UNKNOWN, "audio"),
    "/v1/audio/video-to-audio": LegacyPath(_UNKNOWN, "audio"),
    "/v1/audio/tts": LegacyPath(_TTS, "audio", sync=True),
    "/v1/videos/identify-face": LegacyPath(_UNKNOWN, sync=True),
    "/v1/videos/image-recognize": LegacyPath(_UNKNOWN, "image", sync=True),
    **{
        f"/v1/videos/multi-elements/{step}": LegacyPath(_UNKNOWN, sync=True, paid=False)
        for step in ("init-selection", "add-selection", "delete-selection", "clear-selection", "preview-selection")
    },
    "/v1/general/delete-advanced-elements": LegacyPath(_UNKNOWN, "element", sync=True, paid=False),
    "/v1/general/delete-elements": LegacyPath(_UNKNOWN, "element", sync=True, paid=False),
    "/v1/general/delete-voices": LegacyPath(_UNKNOWN, "voice", sync=True, paid=False),
}

PRESETS = {
    "/v1/general/advanced-presets-elements": "element",
    "/v1/general/presets-voices": "voice",
}


def slots(path: str, body: Mapping[str, Any]) -> int:
    """How many slots of the concurrency limit a task holds."""
    known = LEGACY.get(path)
    if known is None or known.makes != "image":
        return 1
    if body.get("result_type") == "series":
        amount = body.get("series_amount", 4)
        return 4 if amount == "auto" else int(amount)
    return int(body.get("n", 1))


def left_to_default(path: str, body: Mapping[str, Any]) -> list[str]:
    """The price inputs that a body leaves to the seller."""
    fields = LEGACY[path].model.fields or {}
    priced = {name for name, known in fields.items() if known.money}
    series = body.get("result_type") == "series"
    priced -= {"n"} if series else {"series_amount"}
    if body.get("model_name") in {*_V1, *_V2, "kling-video-o1"} or body.get("video_list"):
        priced -= {"sound"}  # these take no sound
    return [name for name in fields if name in priced - set(body)]

"""What fal's Kling models take, field by field: section 3 of docs/providers/fal.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Model", "model_of"]

Check: TypeAlias = "Callable[[Any], bool]"


@dataclass(frozen=True, slots=True)
class Model:
    """One model.

    Args:
        needed: The fields that it requires.
        fields: All fields, each with its check. None: no source names them.
        shots: Whether exactly one of `prompt` and `multi_prompt` must be there.
        most_inputs: How many image URLs and elements there may be together.
    """

    needed: tuple[str, ...] = ()
    fields: Mapping[str, Check] | None = None
    shots: bool = False
    most_inputs: int = 1000

    def problems(self, body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What is wrong with a body: the field, and a sentence."""
        if self.fields is None:
            return
        for name in self.needed:
            if name not in body:
                yield name, "Field required"
        for name, value in body.items():
            if name not in self.fields:
                yield name, "Extra inputs are not permitted"
            elif not self.fields[name](value):
                yield name, f"Input {str(value)[:60]!r} is not one that the model takes"
        if self.shots and ("prompt" in body) == ("multi_prompt" in body):
            yield "prompt", "Give prompt or multi_prompt"
        inputs = [body.get(name, ()) for name in ("image_urls", "elements")]
        if sum(len(value) for value in inputs if isinstance(value, list)) > self.most_inputs:
            yield "image_urls", f"At most {self.most_inputs} images and elements together"


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _url(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("https://", "http://", "data:"))


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _one_of(*allowed: str) -> Check:
    return lambda value: isinstance(value, str) and value in allowed


def _number(low: float, high: float, *, whole: bool = False) -> Check:
    kinds = (int,) if whole else (int, float)
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high


def _list(check: Check, most: int = 1000) -> Check:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(check, value))


def _object(**fields: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(name in fields and fields[name](value[name]) for name in value)


def _seconds(low: int, high: int) -> Check:
    return _one_of(*map(str, range(low, high + 1)))


_RATIO = _one_of("16:9", "9:16", "1:1")
_IMAGE_RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9")
_ELEMENT = _object(frontal_image_url=_url, reference_image_urls=_list(_url), video_url=_url, voice_id=_text)
_SHOT = _object(prompt=_text, duration=lambda value: isinstance(value, str | int))
_V25: dict[str, Check] = {
    "prompt": _text,
    "duration": _one_of("5", "10"),
    "negative_prompt": _text,
    "cfg_scale": _number(0, 1),
}
_O3: dict[str, Check] = {
    "prompt": _text,
    "multi_prompt": _list(_SHOT),
    "duration": _seconds(3, 15),
    "generate_audio": _boolean,
    "shot_type": _one_of("customize", "intelligent"),
}
_V3: dict[str, Check] = {**_O3, "negative_prompt": _text, "cfg_scale": _number(0, 1)}
_MOTION: dict[str, Check] = {
    "image_url": _url,
    "video_url": _url,
    "character_orientation": _one_of("image", "video"),
    "keep_original_sound": _boolean,
    "prompt": _text,
}
_EDIT: dict[str, Check] = {
    "prompt": _text,
    "video_url": _url,
    "image_urls": _list(_url),
    "elements": _list(_ELEMENT),
    "keep_audio": _boolean,
}
_REFERENCE: dict[str, Check] = {
    **_EDIT,
    "duration": _seconds(3, 15),
    "aspect_ratio": _one_of("auto", "16:9", "9:16", "1:1"),
}


def _image(resolutions: tuple[str, ...], *ratios: str, **more: Check) -> dict[str, Check]:
    return {
        "prompt": _text,
        "elements": _list(_ELEMENT),
        "resolution": _one_of(*resolutions),
        "num_images": _number(1, 9, whole=True),
        "aspect_ratio": _one_of(*ratios, *_IMAGE_RATIOS),
        "output_format": _one_of("jpeg", "png", "webp"),
        **more,
    }


_O3_IMAGE: dict[str, Check] = {
    "sync_mode": _boolean,
    "result_type": _one_of("single", "series"),
    "series_amount": lambda value: value == "auto" or _number(2, 9, whole=True)(value),
}
_TIER, _O1 = "(standard|pro)", "o1(/standard)?"
_VIDEO = "kling-video"
_MODELS: Mapping[str, Model] = {
    rf"{_VIDEO}/v2\.5-turbo/pro/text-to-video": Model(("prompt",), {**_V25, "aspect_ratio": _RATIO}),
    rf"{_VIDEO}/v2\.5-turbo/pro/image-to-video": Model(
        ("prompt", "image_url"), {**_V25, "image_url": _url, "tail_image_url": _url}
    ),
    rf"{_VIDEO}/v2\.5-turbo/standard/image-to-video": Model(("prompt", "image_url"), {**_V25, "image_url": _url}),
    rf"{_VIDEO}/v2\.6/pro/text-to-video": Model(
        ("prompt",), {**_V25, "aspect_ratio": _RATIO, "generate_audio": _boolean}
    ),
    rf"{_VIDEO}/v2\.6/pro/image-to-video": Model(
        ("prompt", "start_image_url"),
        {
            "prompt": _text,
            "start_image_url": _url,
            "end_image_url": _url,
            "duration": _one_of("5", "10"),
            "generate_audio": _boolean,
            "voice_ids": _list(_text, 2),
        },
    ),
    rf"{_VIDEO}/v2\.6/{_TIER}/motion-control": Model(("image_url", "video_url", "character_orientation"), _MOTION),
    rf"{_VIDEO}/v3/{_TIER}/motion-control": Model(
        ("image_url", "video_url", "character_orientation"), {**_MOTION, "elements": _list(_ELEMENT, 1)}
    ),
    rf"{_VIDEO}/v3/(standard|pro|4k)/text-to-video": Model((), {**_V3, "aspect_ratio": _RATIO}, shots=True),
    rf"{_VIDEO}/v3/(standard|pro|4k)/image-to-video": Model(
        ("start_image_url",),
        {**_V3, "start_image_url": _url, "end_image_url": _url, "elements": _list(_ELEMENT)},
        shots=True,
    ),
    rf"{_VIDEO}/{_O1}/image-to-video": Model(
        ("prompt", "start_image_url"),
        {"prompt": _text, "start_image_url": _url, "end_image_url": _url, "duration": _seconds(3, 10)},
    ),
    rf"{_VIDEO}/{_O1}/reference-to-video": Model(
        ("prompt",),
        {
            "prompt": _text,
            "image_urls": _list(_url),
            "elements": _list(_ELEMENT),
            "duration": _seconds(3, 10),
            "aspect_ratio": _RATIO,
        },
        most_inputs=7,
    ),
    rf"{_VIDEO}/({_O1}|o3/{_TIER})/video-to-video/edit": Model(("prompt", "video_url"), _EDIT, most_inputs=4),
    rf"{_VIDEO}/({_O1}|o3/{_TIER})/video-to-video/reference": Model(("prompt", "video_url"), _REFERENCE, most_inputs=4),
    rf"{_VIDEO}/o3/{_TIER}/text-to-video": Model((), {**_O3, "aspect_ratio": _RATIO}, shots=True),
    rf"{_VIDEO}/o3/{_TIER}/image-to-video": Model(
        ("image_url",), {**_O3, "aspect_ratio": _RATIO, "image_url": _url, "end_image_url": _url}, shots=True
    ),
    rf"{_VIDEO}/o3/{_TIER}/reference-to-video": Model(
        (),
        {
            **_O3,
            "aspect_ratio": _RATIO,
            "start_image_url": _url,
            "end_image_url": _url,
            "image_urls": _list(_url),
            "elements": _list(_ELEMENT),
        },
        shots=True,
    ),
    "kling-image/o1": Model(
        ("prompt", "image_urls"), _image(("1K", "2K"), "auto", image_urls=_list(_url, 10), sync_mode=_boolean)
    ),
    "kling-image/o3/text-to-image": Model(("prompt",), _image(("1K", "2K", "4K"), **_O3_IMAGE)),
    "kling-image/o3/image-to-image": Model(
        ("prompt", "image_urls"), _image(("1K", "2K", "4K"), "auto", image_urls=_list(_url, 10), **_O3_IMAGE)
    ),
    "kling-image/v3/text-to-image": Model(("prompt",), _image(("1K", "2K"), negative_prompt=_text)),
    "kling-image/v3/image-to-image": Model(("prompt", "image_url"), _image(("1K", "2K"), image_url=_url)),
    rf"{_VIDEO}/ai-avatar/v2/{_TIER}": Model(
        ("image_url", "audio_url"), {"image_url": _url, "audio_url": _url, "prompt": _text}
    ),
    rf"{_VIDEO}/lipsync/(audio-to-video|text-to-video)": Model(("video_url",)),
    rf"{_VIDEO}/(v1/tts|create-voice|video-to-audio)": Model(),
    rf"{_VIDEO}/(v1|v1\.5|v1\.6|v2|v2\.0|v2\.1|v4)/.+": Model(),
    r"kling/v1-5/kolors-virtual-try-on": Model(),
}


def model_of(model_id: str) -> Model | None:
    """The model with this full id. None if there is none."""
    for pattern, model in _MODELS.items():
        if re.fullmatch(f"fal-ai/{pattern}", model_id):
            return model
    return None

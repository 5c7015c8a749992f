"""fal's Kling models, field by field, from section 3 of docs/providers/fal.md."""

import re
from collections.abc import Mapping
from typing import Any

from kling_async.sandbox.rules.fields import Field, Model, at_least_one, exactly_one, together_at_most

_VIDEO_RATIOS = ("16:9", "9:16", "1:1")
_IMAGE_RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9")
_URL = Field("a URL or data URI")
_NEEDED_URL = Field("a URL or data URI", required=True)
_PROMPT = Field("a text that is not empty", required=True)
_OPTIONAL_PROMPT = Field("a text that is not empty")
_TEXT = Field("a string")
_CFG = Field("a number", low=0, high=1)
_AUDIO = Field("a boolean", money=True)
_KEEP = Field("a boolean")
_SHOTS = Field("a string", values=("customize", "intelligent"))
_URLS = Field("a list of URLs")
_ELEMENTS = Field(
    "a list of objects",
    fields={"frontal_image_url": _URL, "reference_image_urls": _URLS, "video_url": _URL, "voice_id": _TEXT},
)
# No source tells the type of a shot's duration: both are accepted.
_MULTI_PROMPT = Field(
    "a list of objects", fields={"prompt": _PROMPT, "duration": Field("a string or an integer", money=True)}
)
_RATIO = Field("a string", values=_VIDEO_RATIOS)


def _seconds(low: int, high: int) -> Field:
    return Field("a string", values=tuple(str(second) for second in range(low, high + 1)), money=True)


_FIVE_OR_TEN = Field("a string", values=("5", "10"), money=True)
_V25: dict[str, Field] = {"prompt": _PROMPT, "duration": _FIVE_OR_TEN, "negative_prompt": _TEXT, "cfg_scale": _CFG}
_V3: dict[str, Field] = {
    "prompt": _OPTIONAL_PROMPT,
    "multi_prompt": _MULTI_PROMPT,
    "duration": _seconds(3, 15),
    "generate_audio": _AUDIO,
    "shot_type": _SHOTS,
    "negative_prompt": _TEXT,
    "cfg_scale": _CFG,
}
_O3: dict[str, Field] = {
    "prompt": _OPTIONAL_PROMPT,
    "multi_prompt": _MULTI_PROMPT,
    "duration": _seconds(3, 15),
    "aspect_ratio": _RATIO,
    "generate_audio": _AUDIO,
    "shot_type": _SHOTS,
}
_MOTION: dict[str, Field] = {
    "image_url": _NEEDED_URL,
    "video_url": _NEEDED_URL,
    "character_orientation": Field("a string", required=True, values=("image", "video")),
    "keep_original_sound": _KEEP,
    "prompt": _TEXT,
}
_VIDEO_EDIT: dict[str, Field] = {
    "prompt": _PROMPT,
    "video_url": _NEEDED_URL,
    "image_urls": _URLS,
    "elements": _ELEMENTS,
    "keep_audio": _KEEP,
}
# No source tells the duration of video-to-video/reference: it is accepted.
_VIDEO_REFERENCE = _VIDEO_EDIT | {
    "duration": Field("a string", values=tuple(str(second) for second in range(3, 16))),
    "aspect_ratio": Field("a string", values=("auto", *_VIDEO_RATIOS)),
}
_FORMAT = Field("a string", values=("jpeg", "png", "webp"))
_COUNT = Field("an integer", low=1, high=9, money=True)


def _series(body: Mapping[str, Any]) -> str | None:
    amount = body.get("series_amount")
    if isinstance(amount, str) and amount != "auto":
        return f"series_amount is {amount!r}; it is an integer or auto"
    if isinstance(amount, int) and not 2 <= amount <= 9:
        return f"series_amount is {amount!r}, not 2 to 9"
    return None


def _image(resolutions: tuple[str, ...], ratios: tuple[str, ...], **more: Field) -> dict[str, Field]:
    return {
        "prompt": _PROMPT,
        "elements": _ELEMENTS,
        "resolution": Field("a string", values=resolutions, money=True),
        "num_images": _COUNT,
        "aspect_ratio": Field("a string", values=ratios),
        "output_format": _FORMAT,
        **more,
    }


_IMAGES = Field("a list of URLs", required=True, most=10)
_O3_IMAGE = {
    "sync_mode": _KEEP,
    "result_type": Field("a string", values=("single", "series"), money=True),
    "series_amount": Field("a string or an integer"),
}
_ONE_PROMPT = (exactly_one("prompt", "multi_prompt"),)
_ANY_PROMPT = (at_least_one("prompt", "multi_prompt"),)
_TIER = "(standard|pro)"

_TABLE: tuple[tuple[str, Model], ...] = (
    ("kling-video/v2.5-turbo/pro/text-to-video", Model(_V25 | {"aspect_ratio": _RATIO})),
    ("kling-video/v2.5-turbo/pro/image-to-video", Model(_V25 | {"image_url": _NEEDED_URL, "tail_image_url": _URL})),
    ("kling-video/v2.5-turbo/standard/image-to-video", Model(_V25 | {"image_url": _NEEDED_URL})),
    ("kling-video/v2.6/pro/text-to-video", Model(_V25 | {"aspect_ratio": _RATIO, "generate_audio": _AUDIO})),
    (
        "kling-video/v2.6/pro/image-to-video",
        Model(
            {
                "prompt": _PROMPT,
                "start_image_url": _NEEDED_URL,
                "end_image_url": _URL,
                "duration": _FIVE_OR_TEN,
                "generate_audio": _AUDIO,
                "voice_ids": Field("a list of strings", most=2),
            }
        ),
    ),
    (f"kling-video/v2.6/{_TIER}/motion-control", Model(_MOTION)),
    (
        f"kling-video/v3/{_TIER}/motion-control",
        Model(_MOTION | {"elements": Field("a list of objects", most=1, fields=_ELEMENTS.fields)}),
    ),
    ("kling-video/v3/(standard|pro|4k)/text-to-video", Model(_V3 | {"aspect_ratio": _RATIO}, _ONE_PROMPT)),
    (
        "kling-video/v3/(standard|pro|4k)/image-to-video",
        Model(_V3 | {"start_image_url": _NEEDED_URL, "end_image_url": _URL, "elements": _ELEMENTS}, _ONE_PROMPT),
    ),
    (
        "kling-video/o1(/standard)?/image-to-video",
        Model({"prompt": _PROMPT, "start_image_url": _NEEDED_URL, "end_image_url": _URL, "duration": _seconds(3, 10)}),
    ),
    (
        "kling-video/o1(/standard)?/reference-to-video",
        Model(
            {
                "prompt": _PROMPT,
                "image_urls": _URLS,
                "elements": _ELEMENTS,
                "duration": _seconds(3, 10),
                "aspect_ratio": _RATIO,
            },
            (together_at_most(7, "image_urls", "elements"),),
        ),
    ),
    (
        f"kling-video/(o1(/standard)?|o3/{_TIER})/video-to-video/edit",
        Model(_VIDEO_EDIT, (together_at_most(4, "image_urls", "elements"),)),
    ),
    (
        f"kling-video/(o1(/standard)?|o3/{_TIER})/video-to-video/reference",
        Model(_VIDEO_REFERENCE, (together_at_most(4, "image_urls", "elements"),)),
    ),
    (f"kling-video/o3/{_TIER}/text-to-video", Model(_O3, _ANY_PROMPT)),
    # No source tells whether o3 image-to-video takes a ratio: it is accepted.
    (
        f"kling-video/o3/{_TIER}/image-to-video",
        Model(_O3 | {"image_url": _NEEDED_URL, "end_image_url": _URL}, _ANY_PROMPT),
    ),
    (
        f"kling-video/o3/{_TIER}/reference-to-video",
        Model(
            _O3 | {"start_image_url": _URL, "end_image_url": _URL, "image_urls": _URLS, "elements": _ELEMENTS},
            _ANY_PROMPT,
        ),
    ),
    (
        "kling-image/o1",
        Model(_image(("1K", "2K"), ("auto", *_IMAGE_RATIOS), image_urls=_IMAGES, sync_mode=_KEEP)),
    ),
    ("kling-image/o3/text-to-image", Model(_image(("1K", "2K", "4K"), _IMAGE_RATIOS, **_O3_IMAGE), (_series,))),
    (
        "kling-image/o3/image-to-image",
        Model(
            _image(("1K", "2K", "4K"), ("auto", *_IMAGE_RATIOS), image_urls=_IMAGES, **_O3_IMAGE),
            (_series,),
        ),
    ),
    ("kling-image/v3/text-to-image", Model(_image(("1K", "2K"), _IMAGE_RATIOS, negative_prompt=_TEXT))),
    ("kling-image/v3/image-to-image", Model(_image(("1K", "2K"), _IMAGE_RATIOS, image_url=_NEEDED_URL))),
    # These exist. No source names their fields.
    (r"kling-video/v1/tts", Model(None)),
    (r"kling-video/v(1|1\.5|1\.6|2|2\.0|2\.1|4)/.+", Model(None)),
    (r"kling-video/ai-avatar/v2/(standard|pro)", Model(None)),
    (r"kling-video/lipsync/(audio-to-video|text-to-video)", Model(None)),
    (r"kling-video/(create-voice|video-to-audio)", Model(None)),
    (r"kling-video/v3/4k/.+", Model(None)),
    (r"kling/v1-5/kolors-virtual-try-on", Model(None)),
)


def model_of(model_id: str) -> Model | None:
    """The model with this full id, or None."""
    for pattern, model in _TABLE:
        if re.fullmatch(f"fal-ai/(?:{pattern.replace('v2.', 'v2[.]')})", model_id):
            return model
    return None

"""Replicate's Kling models, field by field. See docs/providers/replicate.md, section 3."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kling_async.sandbox.rules.fields import Field, Model, at_least_one, exactly_one

__all__ = ["MODELS"]

_BESIDE_A_VIDEO = 4  # reference images

_PROMPT = Field("a text that is not empty", required=True)
_OPTIONAL_PROMPT = Field("a text that is not empty")
_TEXT = Field("a string")
_URL = Field("a URL or data URI")
_NEEDED_URL = Field("a URL or data URI", required=True)
_RATIO = Field("a string", values=("16:9", "9:16", "1:1"))
_FIVE_OR_TEN = Field("an integer", values=(5, 10), money=True)
_MODE = Field("a string", values=("standard", "pro"), money=True)
_FLAG = Field("a boolean")

_REFERENCES: dict[str, Field] = {
    "reference_images": Field("a list of URLs", most=7),
    "reference_video": _URL,
    "video_reference_type": Field("a string", values=("feature", "base")),
    "keep_original_sound": _FLAG,
}
_V3: dict[str, Field] = {
    "prompt": _OPTIONAL_PROMPT,
    "negative_prompt": _TEXT,
    "start_image": _URL,
    "end_image": _URL,
    "mode": _MODE,
    "aspect_ratio": _RATIO,
    "duration": Field("an integer", low=3, high=15, money=True),
    "generate_audio": Field("a boolean", money=True),
    "multi_prompt": _TEXT,
}


def _end_needs_pro(body: Mapping[str, Any]) -> str | None:
    return "end_image needs mode pro" if "end_image" in body and body.get("mode") != "pro" else None


def _shots_are_json(body: Mapping[str, Any]) -> str | None:
    if "multi_prompt" not in body:
        return None
    try:
        shots = json.loads(body["multi_prompt"])
    except ValueError:
        return "multi_prompt is a string, but not JSON"
    return None if isinstance(shots, list) and shots else "multi_prompt is JSON, but not a list of shots"


def _fewer_beside_a_video(body: Mapping[str, Any]) -> str | None:
    count = len(body.get("reference_images", ()))
    if "reference_video" in body and count > _BESIDE_A_VIDEO:
        return f"reference_images has {count} items beside a reference_video, more than 4"
    return None


def _o1_seconds(body: Mapping[str, Any]) -> str | None:
    feature = "reference_video" in body and body.get("video_reference_type", "feature") == "feature"
    if "duration" in body and body["duration"] not in {5, 10} and not feature:
        return f"duration is {body['duration']}; without a feature video it is 5 or 10"
    return None


MODELS: dict[str, Model] = {
    "kwaivgi/kling-v2.0": Model(
        {
            "prompt": _PROMPT,
            "start_image": _URL,
            "cfg_scale": Field("a number", low=0, high=1),
            "duration": _FIVE_OR_TEN,
            "negative_prompt": _TEXT,
            "aspect_ratio": _RATIO,
        }
    ),
    "kwaivgi/kling-v2.1": Model(
        {
            "prompt": _PROMPT,
            "start_image": _NEEDED_URL,
            "end_image": _URL,
            "mode": _MODE,
            "duration": _FIVE_OR_TEN,
            "negative_prompt": _TEXT,
        },
        (_end_needs_pro,),
    ),
    "kwaivgi/kling-v2.5-turbo-pro": Model(
        {
            "prompt": _PROMPT,
            "start_image": _URL,
            "image": _URL,  # deprecated, still accepted
            "end_image": _URL,
            "duration": _FIVE_OR_TEN,
            "aspect_ratio": _RATIO,
            "negative_prompt": _TEXT,
        }
    ),
    "kwaivgi/kling-v3-video": Model(_V3, (at_least_one("prompt", "multi_prompt"), _shots_are_json)),
    "kwaivgi/kling-v3-omni-video": Model(
        _V3 | _REFERENCES, (at_least_one("prompt", "multi_prompt"), _shots_are_json, _fewer_beside_a_video)
    ),
    # No source tells whether o1 needs a prompt: it may be absent.
    "kwaivgi/kling-o1": Model(
        {
            "prompt": _OPTIONAL_PROMPT,
            "start_image": _URL,
            "end_image": _URL,
            "mode": Field("a string", values=("std", "pro"), money=True),
            "aspect_ratio": _RATIO,
            "duration": Field("an integer", low=3, high=10, money=True),
            **_REFERENCES,
        },
        (_fewer_beside_a_video, _o1_seconds),
    ),
    "kwaivgi/kling-lip-sync": Model(
        {
            "video": _NEEDED_URL,
            "text": _TEXT,
            "audio_file": _URL,
            "voice_id": _TEXT,
            "voice_speed": Field("a number"),
        },
        (exactly_one("text", "audio_file"),),
    ),
    # It exists. No source names its fields.
    "kwaivgi/kling-v2.6-motion-control": Model(None),
}

"""Which portable requests Replicate serves.

Kling 2.0 is left out, because its page does not say which resolution it makes. Kling 2.5 Turbo Pro and the mode ``pro``
of the others are 1080p, same as Kling's own mode of that name. Replicate ignores the aspect ratio where there is a
first frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kling_async.providers._base.offers import Offer, VideoOffer
from kling_async.providers._base.portable import Video
from kling_async.providers.replicate.request import O1Video, V3OmniVideo, V3Video, V21Video, V25TurboVideo

__all__ = ["OFFERS"]

_MENTION = "<<<image_{}>>>"
_3_TO_15 = tuple(range(3, 16))
_MODES = {"720p": "standard", "1080p": "pro"}
_O1_MODES = {"720p": "std", "1080p": "pro"}


def _frames(wanted: Video) -> dict[str, Any]:
    fields: dict[str, Any] = {"duration": wanted.duration}
    if wanted.ratio is not None:
        fields["aspect_ratio"] = wanted.ratio
    if wanted.first_frame is not None:
        fields |= {"start_image": wanted.first_frame, "end_image": wanted.last_frame}
    return fields


def _v3(wanted: Video) -> Mapping[str, Any]:
    return {
        **_frames(wanted),
        "mode": _MODES[wanted.resolution],
        "generate_audio": wanted.audio,
        "negative_prompt": wanted.negative_prompt,
    }


def _omni(wanted: Video) -> Mapping[str, Any]:
    return {**_v3(wanted), "references": wanted.references}


def _o1(wanted: Video) -> Mapping[str, Any]:
    return {**_frames(wanted), "mode": _O1_MODES[wanted.resolution], "references": wanted.references}


def _turbo(wanted: Video) -> Mapping[str, Any]:
    return {**_frames(wanted), "negative_prompt": wanted.negative_prompt}


def _v21(wanted: Video) -> Mapping[str, Any]:
    return {**_turbo(wanted), "mode": _MODES[wanted.resolution]}


OFFERS: tuple[Offer, ...] = (
    VideoOffer(
        V3Video,
        "kling-3.0",
        _v3,
        durations=_3_TO_15,
        resolutions=tuple(_MODES),
        audio=(False, True),
        first_frame="optional",
        last_frame=True,
        negative_prompt=True,
    ),
    VideoOffer(
        V3OmniVideo,
        "kling-3.0-omni",
        _omni,
        durations=_3_TO_15,
        resolutions=tuple(_MODES),
        audio=(False, True),
        first_frame="optional",
        last_frame=True,
        references=7,
        negative_prompt=True,
        mention=_MENTION,
    ),
    VideoOffer(
        O1Video,
        "kling-o1",
        _o1,
        durations=(5, 10),
        resolutions=tuple(_O1_MODES),
        first_frame="optional",
        last_frame=True,
        references=7,
        mention=_MENTION,
    ),
    VideoOffer(
        V25TurboVideo,
        "kling-2.5-turbo",
        _turbo,
        durations=(5, 10),
        resolutions=("1080p",),
        first_frame="optional",
        last_frame=True,
        negative_prompt=True,
    ),
    VideoOffer(
        V21Video,
        "kling-2.1",
        _v21,
        durations=(5, 10),
        resolutions=tuple(_MODES),
        aspect_ratios=(),
        first_frame="required",
        last_frame=True,
        negative_prompt=True,
    ),
)

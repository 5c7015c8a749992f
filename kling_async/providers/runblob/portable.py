"""Which portable requests RunBlob serves.

Kling's own name of O3 is 3.0 Omni. The endpoint for video has no setting for sound, so it is offered for silent clips.
Its pages do not say how a prompt names a reference image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kling_async.providers._base.offers import ImageOffer, Offer, VideoOffer
from kling_async.providers._base.portable import Image, Video
from kling_async.providers.runblob.request import O3Photo, O3Video

__all__ = ["OFFERS"]

_MODELS = {"720p": "kling_o3", "1080p": "kling_o3_pro"}


def _video(wanted: Video) -> Mapping[str, Any]:
    return {
        "model": _MODELS[wanted.resolution],
        "duration": wanted.duration,
        "aspect_ratio": wanted.ratio,
        "references": wanted.references,
    }


def _photo(wanted: Image) -> Mapping[str, Any]:
    return {
        "resolution": wanted.resolution,
        "aspect_ratio": wanted.aspect_ratio,
        "references": wanted.references,
    }


OFFERS: tuple[Offer, ...] = (
    VideoOffer(O3Video, "kling-3.0-omni", _video, durations=(5, 10, 15), resolutions=tuple(_MODELS), references=5),
    ImageOffer(O3Photo, "kling-image-3.0-omni", _photo, resolutions=("1k", "2k", "4k"), references=10),
)

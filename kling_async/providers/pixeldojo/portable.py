"""Which portable requests PixelDojo serves.

Its endpoint for images takes none. Reference-to-video is left out: its page tells neither the allowed lengths, nor
whether its price is that of a clip or of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kling_async.providers._base.offers import ImageOffer, Offer, VideoOffer
from kling_async.providers._base.portable import Image, Video
from kling_async.providers.pixeldojo.request import ImageV3
from kling_async.providers.pixeldojo.video import TextToVideo

__all__ = ["OFFERS"]


def _image(wanted: Image) -> Mapping[str, Any]:
    return {
        "resolution": wanted.resolution,
        "aspect_ratio": wanted.aspect_ratio,
        "count": wanted.count,
        "negative_prompt": wanted.negative_prompt,
    }


def _video(wanted: Video) -> Mapping[str, Any]:
    return {
        "duration": wanted.duration,
        "aspect_ratio": wanted.ratio,
        "generate_audio": wanted.audio,
        "negative_prompt": wanted.negative_prompt,
    }


OFFERS: tuple[Offer, ...] = (
    VideoOffer(
        TextToVideo,
        "kling-3.0",
        _video,
        durations=tuple(range(3, 16)),
        resolutions=("1080p",),
        audio=(False, True),
        negative_prompt=True,
    ),
    ImageOffer(ImageV3, "kling-image-3.0", _image, resolutions=("1k", "2k"), count=9, negative_prompt=True),
)

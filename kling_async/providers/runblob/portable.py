"""Which portable requests RunBlob serves.

Kling's own name of O3 is 3.0 Omni. The endpoint of O3 has no setting for sound, so it is offered for silent clips. The
pages do not say how a prompt names a reference image. O1 video and the models before 2.6 are left out, because the
pages do not tell the size of their clips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kling_async.providers._base.offers import ImageOffer, Offer, VideoOffer
from kling_async.providers._base.portable import Image
from kling_async.providers._base.portable import Video as PortableVideo
from kling_async.providers.runblob.models import O1Photo, Video
from kling_async.providers.runblob.request import O3Photo, O3Video

__all__ = ["OFFERS"]

_O3 = {"720p": "kling_o3", "1080p": "kling_o3_pro"}
_3 = {"720p": "kling_3", "1080p": "kling_3_pro"}
_26 = {"1080p": "kling_2.6"}


def _o3_video(wanted: PortableVideo) -> Mapping[str, Any]:
    return {
        "model": _O3[wanted.resolution],
        "duration": wanted.duration,
        "aspect_ratio": wanted.ratio,
        "references": wanted.references,
    }


def _video(models: Mapping[str, str]) -> Callable[[PortableVideo], Mapping[str, Any]]:
    return lambda wanted: {
        "model": models[wanted.resolution],
        "duration": wanted.duration,
        "aspect_ratio": wanted.ratio,
        "first_frame": wanted.first_frame,
        "negative_prompt": wanted.negative_prompt,
    }


def _photo(wanted: Image) -> Mapping[str, Any]:
    return {
        "resolution": wanted.resolution,
        "aspect_ratio": wanted.aspect_ratio,
        "references": wanted.references,
    }


OFFERS: tuple[Offer, ...] = (
    VideoOffer(O3Video, "kling-3.0-omni", _o3_video, durations=(5, 10, 15), resolutions=tuple(_O3), references=5),
    VideoOffer(
        Video,
        "kling-3.0",
        _video(_3),
        durations=tuple(range(3, 16)),
        resolutions=tuple(_3),
        first_frame="optional",
        negative_prompt=True,
    ),
    VideoOffer(
        Video,
        "kling-2.6",
        _video(_26),
        durations=(5, 10),
        resolutions=tuple(_26),
        audio=(True,),
        first_frame="optional",
        negative_prompt=True,
    ),
    ImageOffer(O3Photo, "kling-image-3.0-omni", _photo, resolutions=("1k", "2k", "4k"), references=10),
    ImageOffer(O1Photo, "kling-image-o1", _photo, resolutions=("1k", "2k"), references=5),
)

"""Which portable requests Runware serves. Kling's own name of O3 is 3.0 Omni.

Runware's pages do not say how a prompt names a reference image. Kling 2.5 Turbo is left out, because the pages disagree
on its resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kling_async.providers._base.offers import ImageOffer, Offer, VideoOffer
from kling_async.providers._base.portable import Image as PortableImage
from kling_async.providers._base.portable import Video as PortableVideo
from kling_async.providers.runware.request import Image, ImageO3
from kling_async.providers.runware.video import Video

__all__ = ["OFFERS"]

_3_TO_15 = tuple(range(3, 16))
_ALL = {
    "720p": "klingai:kling-video@3-standard",
    "1080p": "klingai:kling-video@3-pro",
    "4k": "klingai:kling-video@3-4k",
}
_OMNI = {
    "720p": "klingai:kling-video@o3-standard",
    "1080p": "klingai:kling-video@o3-pro",
    "4k": "klingai:kling-video@o3-4k",
}
_TURBO = dict.fromkeys(("720p", "1080p"), "klingai:kling-video@3.0-turbo")
_O1 = {"720p": "klingai:kling@o1-standard", "1080p": "klingai:kling@o1"}
_26 = {"1080p": "klingai:kling-video@2.6-pro"}


def _image(wanted: PortableImage) -> Mapping[str, Any]:
    return {
        "resolution": wanted.resolution,
        "aspect_ratio": wanted.aspect_ratio,
        "count": wanted.count,
        "references": wanted.references,
    }


def _image_by(model: str) -> Callable[[PortableImage], Mapping[str, Any]]:
    return lambda wanted: {**_image(wanted), "model": model}


def _video(models: Mapping[str, str]) -> Callable[[PortableVideo], Mapping[str, Any]]:
    return lambda wanted: {
        "model": models[wanted.resolution],
        "resolution": wanted.resolution,
        "duration": wanted.duration,
        "aspect_ratio": wanted.ratio,
        "first_frame": wanted.first_frame,
        "last_frame": wanted.last_frame,
        "references": wanted.references,
        "audio": wanted.audio,
        "negative_prompt": wanted.negative_prompt,
    }


OFFERS: tuple[Offer, ...] = (
    VideoOffer(
        Video,
        "kling-3.0",
        _video(_ALL),
        durations=_3_TO_15,
        resolutions=tuple(_ALL),
        audio=(False, True),
        first_frame="optional",
        last_frame=True,
        negative_prompt=True,
    ),
    VideoOffer(
        Video,
        "kling-3.0-omni",
        _video(_OMNI),
        durations=_3_TO_15,
        resolutions=tuple(_OMNI),
        audio=(False, True),
        first_frame="optional",
        last_frame=True,
        references=7,
    ),
    VideoOffer(
        Video,
        "kling-3.0-turbo",
        _video(_TURBO),
        durations=_3_TO_15,
        resolutions=tuple(_TURBO),
        audio=(True,),
        first_frame="optional",
        last_frame=True,
        negative_prompt=True,
    ),
    VideoOffer(
        Video,
        "kling-o1",
        _video(_O1),
        durations=(5, 10),
        resolutions=tuple(_O1),
        first_frame="optional",
        last_frame=True,
    ),
    VideoOffer(
        Video,
        "kling-2.6",
        _video(_26),
        durations=(5, 10),
        resolutions=tuple(_26),
        audio=(False, True),
        first_frame="optional",
        negative_prompt=True,
    ),
    ImageOffer(ImageO3, "kling-image-3.0-omni", _image, resolutions=("1k", "2k", "4k"), count=20, references=10),
    ImageOffer(
        Image,
        "kling-image-3.0",
        _image_by("klingai:kling-image@3"),
        resolutions=("1k", "2k"),
        count=20,
        references=10,
    ),
    ImageOffer(
        Image,
        "kling-image-o1",
        _image_by("klingai:kling-image@o1"),
        resolutions=("1k", "2k"),
        count=20,
        references=10,
    ),
)

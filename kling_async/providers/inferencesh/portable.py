"""Which portable requests inference.sh serves.

The apps for images return one picture whatever the count, and do not pass a negative prompt on, so neither is offered.
The apps for videos have no negative prompt, and their pages do not say how a prompt names a reference image. Of O1 only
5 and 10 seconds are offered, because Kling's own pages disagree on the others. The same holds for a last frame with 2.6
and 2.5 Turbo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kling_async.providers._base.offers import ImageOffer, Offer, VideoOffer
from kling_async.providers._base.portable import Image as PortableImage
from kling_async.providers._base.portable import Video as PortableVideo
from kling_async.providers.inferencesh.apps import Image, Video
from kling_async.providers.inferencesh.request import ImageO1

__all__ = ["OFFERS"]


def _image(wanted: PortableImage) -> Mapping[str, Any]:
    return {
        "resolution": wanted.resolution,
        "aspect_ratio": wanted.aspect_ratio,
        "reference": wanted.references[0] if wanted.references else None,
    }


def _image_by(app: str) -> Callable[[PortableImage], Mapping[str, Any]]:
    return lambda wanted: {**_image(wanted), "app": app}


def _video(app: str) -> Callable[[PortableVideo], Mapping[str, Any]]:
    return lambda wanted: {
        "app": app,
        "duration": wanted.duration,
        "resolution": wanted.resolution,
        "aspect_ratio": wanted.ratio,
        "first_frame": wanted.first_frame,
        "last_frame": wanted.last_frame,
        "references": wanted.references,
        "audio": wanted.audio,
    }


OFFERS: tuple[Offer, ...] = (
    VideoOffer(
        Video,
        "kling-3.0",
        _video("klingai/video-v3"),
        durations=tuple(range(3, 16)),
        resolutions=("720p", "1080p", "4k"),
        audio=(False, True),
        first_frame="optional",
        last_frame=True,
    ),
    VideoOffer(
        Video,
        "kling-o1",
        _video("klingai/video-o1"),
        durations=(5, 10),
        resolutions=("720p", "1080p"),
        first_frame="optional",
        last_frame=True,
        references=7,
    ),
    VideoOffer(
        Video,
        "kling-2.6",
        _video("klingai/video-v2-6"),
        durations=(5, 10),
        resolutions=("720p", "1080p"),
        audio=(False, True),
        first_frame="optional",
    ),
    VideoOffer(
        Video,
        "kling-2.5-turbo",
        _video("klingai/video-v2-5"),
        durations=(5, 10),
        resolutions=("720p", "1080p"),
        first_frame="optional",
    ),
    ImageOffer(
        Image,
        "kling-image-3.0-omni",
        _image_by("klingai/image-3o"),
        resolutions=("1k", "2k", "4k"),
        references=1,
    ),
    ImageOffer(Image, "kling-image-3.0", _image_by("klingai/image-v3"), resolutions=("1k", "2k")),
    ImageOffer(ImageO1, "kling-image-o1", _image, resolutions=("1k", "2k"), references=1),
)

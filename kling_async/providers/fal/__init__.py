"""fal: the Kling models, and any other model. The request classes, and the provider."""

from kling_async.providers.fal.provider import Fal
from kling_async.providers.fal.request import (
    Avatar,
    Element,
    Image,
    ImageToVideo,
    LipSync,
    MotionControl,
    ReferenceToVideo,
    Request,
    Shot,
    TextToVideo,
    VideoEdit,
)

__all__ = [
    "Avatar",
    "Element",
    "Fal",
    "Image",
    "ImageToVideo",
    "LipSync",
    "MotionControl",
    "ReferenceToVideo",
    "Request",
    "Shot",
    "TextToVideo",
    "VideoEdit",
]


def __dir__() -> list[str]:
    return __all__

"""PixelDojo: Kling Image V3, and the Kling videos. The request classes, and the provider."""

from kling_async.providers.pixeldojo.provider import PixelDojo
from kling_async.providers.pixeldojo.request import ImageV3
from kling_async.providers.pixeldojo.video import MotionControl, ReferenceToVideo, Shot, TextToVideo

__all__ = ["ImageV3", "MotionControl", "PixelDojo", "ReferenceToVideo", "Shot", "TextToVideo"]


def __dir__() -> list[str]:
    return __all__

"""Runware: the Kling image and video models. The request classes, and the provider."""

from kling_async.providers.runware.provider import Runware
from kling_async.providers.runware.request import Image, ImageO3
from kling_async.providers.runware.video import Video

__all__ = ["Image", "ImageO3", "Runware", "Video"]


def __dir__() -> list[str]:
    return __all__

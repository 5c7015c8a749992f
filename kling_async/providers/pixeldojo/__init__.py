"""PixelDojo: Kling Image V3. The request class, and the provider."""

from kling_async.providers.pixeldojo.provider import PixelDojo
from kling_async.providers.pixeldojo.request import ImageV3

__all__ = ["ImageV3", "PixelDojo"]


def __dir__() -> list[str]:
    return __all__

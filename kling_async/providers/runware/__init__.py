"""Runware: Kling Image O3. The request class, and the provider."""

from kling_async.providers.runware.provider import Runware
from kling_async.providers.runware.request import ImageO3

__all__ = ["ImageO3", "Runware"]


def __dir__() -> list[str]:
    return __all__

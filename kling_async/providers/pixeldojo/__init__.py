"""PixelDojo: Kling Image V3. The request classes, and the provider."""

from kling_async.providers.pixeldojo.provider import ImageV3, PixelDojo

__all__ = ["ImageV3", "PixelDojo"]

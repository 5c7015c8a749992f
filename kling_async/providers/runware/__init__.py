"""Runware: Kling Image O3. The request classes, and the provider."""

from kling_async.providers.runware.provider import ImageO3, Runware

__all__ = ["ImageO3", "Runware"]

"""inference.sh: Kling Image O1. The request classes, and the provider."""

from kling_async.providers.inferencesh.provider import ImageO1, InferenceSh

__all__ = ["ImageO1", "InferenceSh"]

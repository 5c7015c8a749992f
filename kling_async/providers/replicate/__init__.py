"""Replicate: the Kling models, and any other model. The request classes, and the provider."""

from kling_async.providers.replicate.provider import Replicate
from kling_async.providers.replicate.request import (
    LipSync,
    O1Video,
    Request,
    Shot,
    V3OmniVideo,
    V3Video,
    V20Video,
    V21Video,
    V25TurboVideo,
)

__all__ = [
    "LipSync",
    "O1Video",
    "Replicate",
    "Request",
    "Shot",
    "V3OmniVideo",
    "V3Video",
    "V20Video",
    "V21Video",
    "V25TurboVideo",
]


def __dir__() -> list[str]:
    return __all__

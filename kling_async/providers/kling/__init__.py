"""Kling's own API. The request classes, and the provider."""

from kling_async.providers.kling.account import (
    AccountElement,
    AccountVoice,
    KlingAccount,
    KlingCollection,
    KlingElements,
    KlingVoices,
    NewElement,
    NewVoice,
)
from kling_async.providers.kling.legacy import (
    Avatar,
    Effects,
    ExpandImage,
    ImageGeneration,
    LipSync,
    MultiImageToImage,
    OmniImage,
    TextToAudio,
    TextToSpeech,
    VideoToAudio,
    VirtualTryOn,
)
from kling_async.providers.kling.provider import Kling
from kling_async.providers.kling.video import Element, ImageToVideo, MotionControl, OmniVideo, TextToVideo, Voice

__all__ = [
    "AccountElement",
    "AccountVoice",
    "Avatar",
    "Effects",
    "Element",
    "ExpandImage",
    "ImageGeneration",
    "ImageToVideo",
    "Kling",
    "KlingAccount",
    "KlingCollection",
    "KlingElements",
    "KlingVoices",
    "LipSync",
    "MotionControl",
    "MultiImageToImage",
    "NewElement",
    "NewVoice",
    "OmniImage",
    "OmniVideo",
    "TextToAudio",
    "TextToSpeech",
    "TextToVideo",
    "VideoToAudio",
    "VirtualTryOn",
    "Voice",
]


def __dir__() -> list[str]:
    return __all__

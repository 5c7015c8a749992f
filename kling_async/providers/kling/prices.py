"""Kling's list prices in USD. Pure.

Source: ``kling.ai/document-api``, pricing of videos and of images, read on 2026-09-22. An account that pays from a
resource pack may pay less. The real cost of a job comes from ``billing``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from kling_async.providers._base.endpoint import Price
from kling_async.providers.kling.legacy import (
    Avatar,
    ExpandImage,
    ImageGeneration,
    LipSync,
    MultiImageToImage,
    OmniImage,
)
from kling_async.providers.kling.models import OMNI_IMAGE_MODELS
from kling_async.providers.kling.video import ImageToVideo, MotionControl, OmniVideo, TextToVideo

__all__ = ["PRICES_READ_ON", "UNIT_PRICE", "price"]

PRICES_READ_ON = date(2026, 9, 22)
UNIT_PRICE: Mapping[str, Decimal] = {"video": Decimal("0.14"), "image": Decimal("0.0035")}
"""USD for one unit of a resource pack, by the type of the pack."""


def _row(low: str | None, high: str | None, ultra: str | None = None) -> dict[str, Decimal]:
    tiers = {"720p": low, "1080p": high, "4k": ultra}
    return {tier: Decimal(value) for tier, value in tiers.items() if value is not None}


# USD a second, by model and kind, then by resolution.
_PER_SECOND: Mapping[tuple[str, str], Mapping[str, Decimal]] = {
    ("kling-3.0-turbo", "audio"): _row("0.112", "0.14"),
    ("kling-3.0", "silent"): _row("0.084", "0.112", "0.42"),
    ("kling-3.0", "audio"): _row("0.126", "0.168", "0.42"),
    ("kling-3.0-omni", "silent"): _row("0.084", "0.112", "0.42"),
    ("kling-3.0-omni", "audio"): _row("0.112", "0.14", "0.42"),
    ("kling-3.0-omni", "video"): _row("0.126", "0.168", "0.42"),
    ("kling-o1", "silent"): _row("0.084", "0.112"),
    ("kling-o1", "video"): _row("0.126", "0.168"),
    ("kling-2.6", "silent"): _row("0.042", "0.07"),
    ("kling-2.6", "audio"): _row(None, "0.14"),
    ("kling-2.6", "voice"): _row(None, "0.168"),
    ("kling-2.5-turbo", "silent"): _row("0.042", "0.07"),
}
_MOTION: Mapping[str, Mapping[str, Decimal]] = {
    "kling-3.0": _row("0.126", "0.168"),
    "kling-2.6": _row("0.07", "0.112"),
}
_LONGEST_MOTION = {"image": 10, "video": 30}  # s. The length follows from the video, which is not read
_AVATAR = {"std": Decimal("0.056"), "pro": Decimal("0.112")}  # USD a second
_LONGEST_SOUND = 300  # s
_LIP_SYNC = Decimal("0.07")  # USD for each 5 s begun
_FACES = Decimal("0.007")
_SOUNDS: Mapping[str, Decimal] = {
    "kling/text-to-audio": Decimal("0.035"),
    "kling/video-to-audio": Decimal("0.035"),
    "kling/text-to-speech": Decimal("0.007"),
}
_IMAGE = Decimal("0.028")
_IMAGE_FROM_WORDS = Decimal("0.014")  # by the 2.1 model
_MULTI_IMAGE = Decimal("0.056")
_IMAGE_4K = Decimal("0.056")
_SERIES_AUTO = 9  # pictures that `auto` makes at most


def price(request: Any) -> Price | None:
    """The list price of a request. None if it is not listed.

    Where the length is not known before, it is the most that it can be, and an estimate.
    """
    amount = _amount(request)
    if amount is None:
        return None
    longest = isinstance(request, MotionControl | Avatar)
    longest = longest or (isinstance(request, OmniImage) and request.series == "auto")
    return Price(amount, "USD", longest, "kling.ai/document-api, pricing", PRICES_READ_ON)


def _amount(request: Any) -> Decimal | None:
    if isinstance(request, TextToVideo | ImageToVideo | OmniVideo):
        return _times(_PER_SECOND.get((request.model, _kind(request)), {}).get(request.resolution), request.duration)
    if isinstance(request, MotionControl):
        rate = _MOTION.get(request.model, {}).get(request.resolution)
        return _times(rate, _LONGEST_MOTION[request.character_orientation])
    if isinstance(request, Avatar):
        return _AVATAR[request.mode] * _LONGEST_SOUND
    if isinstance(request, LipSync):
        parts = -(-(request.sound_end - request.sound_start) // 5000)
        return _LIP_SYNC * parts + (_FACES if request.session_id is None else 0)
    return _picture(request)


def _times(rate: Decimal | None, count: int) -> Decimal | None:
    return None if rate is None else rate * count


def _kind(request: TextToVideo | ImageToVideo | OmniVideo) -> str:
    if isinstance(request, OmniVideo) and (request.feature_video or request.base_video):
        return "video"
    if isinstance(request, ImageToVideo) and request.voices:
        return "voice"
    return "audio" if request.audio == "native" or request.model == "kling-3.0-turbo" else "silent"


def _picture(request: Any) -> Decimal | None:
    if isinstance(request, OmniImage):
        if request.model not in OMNI_IMAGE_MODELS:
            return None
        many = request.count if request.series is None else request.series
        return (_IMAGE_4K if request.resolution == "4k" else _IMAGE) * (_SERIES_AUTO if many == "auto" else many)
    if isinstance(request, ImageGeneration):
        old = _IMAGE_FROM_WORDS if request.reference is None else _IMAGE
        return _times({"kling-v3": _IMAGE, "kling-v2-1": old}.get(request.model), request.count)
    if isinstance(request, MultiImageToImage):
        return _MULTI_IMAGE * request.count if request.model == "kling-v2-1" else None
    if isinstance(request, ExpandImage):
        return _IMAGE * request.count
    return _SOUNDS.get(request.endpoint)

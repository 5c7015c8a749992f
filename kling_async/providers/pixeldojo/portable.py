"""Which portable requests PixelDojo serves. Its endpoint takes no image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kling_async.providers._base.offers import ImageOffer, Offer
from kling_async.providers._base.portable import Image
from kling_async.providers.pixeldojo.request import ImageV3

__all__ = ["OFFERS"]


def _image(wanted: Image) -> Mapping[str, Any]:
    return {
        "resolution": wanted.resolution,
        "aspect_ratio": wanted.aspect_ratio,
        "count": wanted.count,
        "negative_prompt": wanted.negative_prompt,
    }


OFFERS: tuple[Offer, ...] = (
    ImageOffer(ImageV3, "kling-image-3.0", _image, resolutions=("1k", "2k"), count=9, negative_prompt=True),
)

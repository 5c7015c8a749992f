"""Which portable requests Runware serves. Kling's own name of Image O3 is Image 3.0 Omni."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kling_async.providers._base.offers import ImageOffer, Offer
from kling_async.providers._base.portable import Image
from kling_async.providers.runware.request import ImageO3

__all__ = ["OFFERS"]


def _image(wanted: Image) -> Mapping[str, Any]:
    return {
        "resolution": wanted.resolution,
        "aspect_ratio": wanted.aspect_ratio,
        "count": wanted.count,
        "references": wanted.references,
    }


OFFERS: tuple[Offer, ...] = (
    ImageOffer(ImageO3, "kling-image-3.0-omni", _image, resolutions=("1k", "2k", "4k"), count=20, references=10),
)

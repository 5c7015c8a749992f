"""Which portable requests inference.sh serves.

The app returns one picture whatever the count, and does not pass a negative prompt on, so neither is offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kling_async.providers._base.offers import ImageOffer, Offer
from kling_async.providers._base.portable import Image
from kling_async.providers.inferencesh.request import ImageO1

__all__ = ["OFFERS"]


def _image(wanted: Image) -> Mapping[str, Any]:
    return {
        "resolution": wanted.resolution,
        "aspect_ratio": wanted.aspect_ratio,
        "reference": wanted.references[0] if wanted.references else None,
    }


OFFERS: tuple[Offer, ...] = (ImageOffer(ImageO1, "kling-image-o1", _image, resolutions=("1k", "2k"), references=1),)

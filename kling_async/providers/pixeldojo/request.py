"""The requests that PixelDojo serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from kling_async.providers._base.request import Request, as_number

__all__ = ["ImageV3"]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class ImageV3(Request):
    """Pictures by Kling Image V3, from text alone: the page lists "image to image", but has no field for an image.

    Source: ``pixeldojo.ai/api-platform/kling-image``.

    Args:
        prompt: At least 1 character; no upper limit is documented.
        negative_prompt: What the pictures shall not show.
        resolution: ``1k`` or ``2k``; the provider's own ``1K`` and ``2K`` are accepted.
        aspect_ratio: One of the documented ratios.
        count: Number of pictures, 1 to 9; each is charged.
        output_format: ``png``, ``jpeg`` or ``webp``.
        callback_url: Where PixelDojo is to report the end (https).
    """

    endpoint: ClassVar[str] = "pixeldojo/image-v3"
    wire_names: ClassVar[Mapping[str, str]] = {
        "num_outputs": "count",
        "num_images": "count",
        "webhook_url": "callback_url",
    }

    prompt: Annotated[str, StringConstraints(min_length=1)]
    negative_prompt: str | None = None
    resolution: Annotated[Literal["1k", "2k"], BeforeValidator(_lower)] = "1k"
    aspect_ratio: Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9"] = "1:1"
    count: Annotated[int, Field(strict=True, ge=1, le=9), BeforeValidator(as_number)] = 1
    output_format: Literal["png", "jpeg", "webp"] = "png"

"""The requests that PixelDojo serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from kling_async.providers._base.request import AnyPrompt, Request, Text, as_number

__all__ = ["ImageV3"]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class ImageV3(Request):
    """Pictures by Kling Image V3, from text alone: the page lists "image to image", but has no field for an image.

    Source: ``pixeldojo.ai/api-platform/kling-image``.
    """

    endpoint: ClassVar[str] = "pixeldojo/image-v3"
    wire_names: ClassVar[Mapping[str, str]] = {
        "num_outputs": "count",
        "num_images": "count",
        "webhook_url": "callback_url",
    }

    prompt: AnyPrompt = Field(
        description="What the pictures show. At least 1 character. PixelDojo documents no upper limit."
    )
    negative_prompt: Text | None = Field(default=None, description="What the pictures must not show.")
    resolution: Annotated[Literal["1k", "2k"], BeforeValidator(_lower)] = Field(
        default="1k",
        description="Size of a picture: 1k or 2k (about 1 000 or 2 000 pixels a side). 1K and 2K work.",
    )
    aspect_ratio: Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9"] = Field(
        default="1:1", description="Width to height."
    )
    count: Annotated[int, BeforeValidator(as_number)] = Field(
        default=1, strict=True, ge=1, le=9, description="Number of pictures, 1 to 9. Each is charged."
    )
    output_format: Literal["png", "jpeg", "webp"] = Field(default="png", description="File format of the pictures.")

"""The requests that inference.sh serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from kling_async.providers._base.images import ImageRule, OneImage, Reference
from kling_async.providers._base.request import Prompt, Request, Text, as_number

__all__ = ["ImageO1", "flattened"]

# Kling itself takes JPEG and PNG up to 10 MB, and the app hands it the image's address as it is.
_IMAGE = ImageRule(formats=("jpeg", "png"), most=1)


_one_image = OneImage(_IMAGE, "the reference")


def _single(value: Any) -> Any:
    if isinstance(value, list | tuple):
        raise PydanticCustomError("reference_type", "give one image, not a list: reference=...")
    return value


OneReference: TypeAlias = Annotated[Reference, AfterValidator(_one_image), BeforeValidator(_single)]
AppName: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^klingai/image-o1(@[A-Za-z0-9]{1,64})?(:[A-Za-z0-9_-]{1,64})?$")
]


class ImageO1(Request):
    """One picture by Kling Image O1.

    Source: the page of the app ``klingai/image-o1`` and its input schema.
    """

    endpoint: ClassVar[str] = "inferencesh/image-o1"
    wire_names: ClassVar[Mapping[str, str]] = {"image": "reference", "n": "count", "webhook": "callback_url"}

    prompt: Prompt = Field(description="What the picture shows. 1 to 2 500 characters.")
    reference: OneReference | None = Field(
        default=None,
        description="One reference image, JPEG or PNG, at most 10 MiB. A local one is uploaded to inference.sh first.",
    )
    negative_prompt: Text | None = Field(
        default=None,
        description="What to avoid. The app accepts it and, by its source, does not pass it on to Kling.",
    )
    aspect_ratio: Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9"] = Field(
        default="16:9", description="Width to height."
    )
    resolution: Literal["1k", "2k"] = Field(
        default="1k", description="Size of the picture: 1k or 2k (about 1 000 or 2 000 pixels a side)."
    )
    count: Annotated[int, BeforeValidator(as_number)] = Field(
        default=1,
        strict=True,
        ge=1,
        le=9,
        description="Number of pictures that are billed, 1 to 9. The app returns one picture whatever the number, so "
        "more than 1 needs bill_extra=True. For several pictures submit several requests.",
    )
    app: AppName = Field(
        default="klingai/image-o1",
        description="The app, optionally pinned to a version and a function: klingai/image-o1@abc123:run.",
    )
    bill_extra: bool = Field(
        default=False, description="Allow a count above 1, although the app returns one picture and bills all."
    )

    @model_validator(mode="after")
    def _one_is_returned(self) -> Self:
        if self.count > 1 and not self.bill_extra:
            raise ValueError(
                f"count={self.count} would be billed {self.count} times, and the app returns one picture; submit "
                "several requests, or pass bill_extra=True"
            )
        return self

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The app's input, or the whole body of a run (``{"app", "input", "webhook"}``), in our field names."""
        return super().translate(flattened(data))

    def app_input(self, images: Mapping[str, Any]) -> dict[str, Any]:
        """The app's input, with these images. What changes the price is always in it."""
        fields = {
            "prompt": self.prompt,
            "image": images.get("reference"),
            "negative_prompt": self.negative_prompt,
            "aspect_ratio": self.aspect_ratio,
            "resolution": self.resolution,
            "n": self.count,
        }
        return {name: value for name, value in fields.items() if value is not None}


def flattened(data: dict[str, Any]) -> dict[str, Any]:
    """The whole body of a run as one object: its ``input`` beside the rest.

    Raises:
        ValueError: The input is no object, or a field is given twice.
    """
    if "input" not in data:
        return data
    inner = data.pop("input")
    if not isinstance(inner, Mapping):
        raise ValueError(f"input must be an object, not {type(inner).__name__}")  # noqa: TRY004  # pydantic reports these
    if twice := data.keys() & inner.keys():
        raise ValueError(f"{', '.join(sorted(twice))}: given both in the input and beside it")
    return {**data, **inner}

"""The requests that inference.sh serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from kling_async.providers._base.images import ImageRule, Reference
from kling_async.providers._base.request import Prompt, Request, as_number

__all__ = ["ImageO1"]

# Kling itself takes JPEG and PNG up to 10 MB, and the app hands it the image's address as it is.
_IMAGE = ImageRule(formats=("jpeg", "png"), most=1)


def _one_image(reference: Reference) -> Reference:
    _IMAGE.check(reference, "the reference")
    return reference


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

    Args:
        prompt: 1 to 2 500 characters.
        reference: One image (JPEG or PNG, 10 MiB: what Kling, to which the app passes it, accepts). An inline one is
            uploaded to inference.sh first.
        negative_prompt: What to avoid. The app accepts it and, by its source, does not forward it to Kling.
        aspect_ratio: One of the documented ratios.
        resolution: ``1k`` or ``2k``.
        count: 1 to 9. It is billed per image, although the app returns one: for more, submit more requests.
        app: The app, which may be pinned to a version and a function: ``klingai/image-o1@abc123:run``.
        callback_url: Where inference.sh is to report the end (https).
    """

    endpoint: ClassVar[str] = "inferencesh/image-o1"
    wire_names: ClassVar[Mapping[str, str]] = {"image": "reference", "n": "count", "webhook": "callback_url"}

    prompt: Prompt
    reference: OneReference | None = None
    negative_prompt: str | None = None
    aspect_ratio: Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9"] = "16:9"
    resolution: Literal["1k", "2k"] = "1k"
    count: Annotated[int, BeforeValidator(as_number), Field(strict=True, ge=1, le=9)] = 1
    app: AppName = "klingai/image-o1"

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The app's input, or the whole body of a run (``{"app", "input", "webhook"}``), in our field names."""
        if "input" in data:
            inner = data.pop("input")
            if not isinstance(inner, Mapping):
                raise ValueError(f"input must be an object, not {type(inner).__name__}")
            if twice := data.keys() & inner.keys():
                raise ValueError(f"{', '.join(sorted(twice))}: given both in the input and beside it")
            data |= inner
        return super().translate(data)

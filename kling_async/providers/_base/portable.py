"""Portable requests: what is wanted, in words that no provider owns. `_base.offers` translates them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from kling_async.providers._base.images import NO_IMAGES, ImageRule, OneImage, Reference, References
from kling_async.providers._base.request import AnyPrompt, Request, as_number

__all__ = ["Image", "ModelName", "PortableRequest", "Ratio", "Video"]

_ANY_IMAGE = ImageRule(formats=("jpeg", "png", "gif", "webp"), most=10, max_bytes=50_000_000)
_ALIASES: Mapping[str, str] = {"kling-o3": "kling-3.0-omni", "kling-image-o3": "kling-image-3.0-omni"}


_MODEL = r"^kling-[a-z0-9][a-z0-9.-]*$"


def _model_name(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name = value.strip().lower()
    if not re.match(_MODEL, name):
        raise ValueError(f"{value!r:.80} is no model's name; it begins with kling-, as in kling-3.0")
    return name


ModelName: TypeAlias = Annotated[
    str,
    BeforeValidator(_model_name),
    StringConstraints(pattern=_MODEL, max_length=64),
    AfterValidator(lambda name: _ALIASES.get(name, name)),
]
Ratio: TypeAlias = Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9"]
_Images: TypeAlias = Annotated[References, AfterValidator(_ANY_IMAGE)]
_Frame: TypeAlias = Annotated[Reference, AfterValidator(OneImage(_ANY_IMAGE))]
_Whole: TypeAlias = Annotated[int, BeforeValidator(as_number)]

_MENTION_HELP = "The prompt may name the first reference image as @image_1, and so on."


class PortableRequest(Request):
    """What `Video` and `Image` have in common.

    A portable request goes to any provider that can make exactly what it describes. Nothing of it is ever changed: an
    endpoint that has another length or ratio, or no sound, is not offered.
    """

    if TYPE_CHECKING:  # each kind has them, in an order of its own
        prompt: AnyPrompt
        model: ModelName | None
        references: _Images

    def __init__(self, prompt: Any = ..., /, **fields: Any) -> None:
        # All other fields go by name, so that a request reads the same with any field added later.
        super().__init__(**(fields if prompt is ... else {"prompt": prompt, **fields}))

    @classmethod
    def _shown_signature(cls) -> inspect.Signature:
        """The prompt by position, and all else by name."""
        found = super()._shown_signature()
        by_name = [
            one if one.name == "prompt" else one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for one in found.parameters.values()
        ]
        return found.replace(parameters=by_name)

    @classmethod
    def known_values(cls, name: str) -> Sequence[Any]:
        """The models that somebody makes; else none."""
        from kling_async.providers._base.offers import models_of  # noqa: PLC0415  # which needs these classes

        return models_of(cls.endpoint) if name == "model" else ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """The fields with images that are given."""
        return tuple(name for name in self.reference_fields if getattr(self, name, None))

    def for_(self, place: str) -> Request:
        """Return the provider's own request that makes exactly this.

        Args:
            place: A provider, such as ``"runware"``, or an endpoint, such as ``"runblob/o3-video"``.

        Raises:
            NotOffered: Nothing there can make it. The error has the reason, and the nearest change that would work.
            ConfigurationError: There is no such provider or endpoint.
        """
        from kling_async.providers._base.offers import translated  # noqa: PLC0415  # which needs these classes

        return translated(self, place)


class Video(PortableRequest):
    """One clip, by whichever provider can make exactly this."""

    endpoint: ClassVar[str] = "video"
    reference_fields: ClassVar[tuple[str, ...]] = ("first_frame", "last_frame", "references")

    prompt: AnyPrompt = Field(description=f"What the clip shows. {_MENTION_HELP}")
    model: ModelName | None = Field(
        default=None,
        description="Such as kling-3.0, kling-3.0-omni, kling-o1 or kling-2.6. If None, kling-3.0 or kling-3.0-omni.",
    )
    duration: _Whole = Field(default=5, ge=1, le=60, description="Length of the clip in seconds.")
    resolution: Literal["720p", "1080p", "4k"] = Field(default="720p", description="720p, 1080p or 4k.")
    aspect_ratio: Ratio | None = Field(
        default=None,
        description="Width to height. If None, 16:9, or that of the first frame. With a first frame, leave it out.",
    )
    first_frame: _Frame | None = Field(default=None, description="The image that the clip begins with.")
    last_frame: _Frame | None = Field(
        default=None, description="The image that the clip ends with. It needs a first frame."
    )
    references: _Images = Field(default=NO_IMAGES, description=f"Images that the clip refers to. {_MENTION_HELP}")
    audio: bool = Field(default=False, description="Whether the clip has sound.")
    negative_prompt: AnyPrompt | None = Field(default=None, description="What the clip must not show.")

    @model_validator(mode="after")
    def _check_frames(self) -> Self:
        if self.last_frame is not None and self.first_frame is None:
            raise ValueError("last_frame is given without first_frame; give both")
        if self.first_frame is not None and self.aspect_ratio is not None:
            raise ValueError("with a first frame the frame decides the aspect ratio; leave aspect_ratio out")
        return self

    @property
    def ratio(self) -> str | None:
        """Its aspect ratio. None if the first frame decides it."""
        return None if self.first_frame is not None else self.aspect_ratio or "16:9"


class Image(PortableRequest):
    """One or more pictures, by whichever provider can make exactly this."""

    endpoint: ClassVar[str] = "image"
    reference_fields: ClassVar[tuple[str, ...]] = ("references",)

    prompt: AnyPrompt = Field(description=f"What the pictures show. {_MENTION_HELP}")
    model: ModelName | None = Field(
        default=None,
        description="Such as kling-image-3.0, kling-image-3.0-omni or kling-image-o1. If None, one of the first two.",
    )
    count: _Whole = Field(default=1, ge=1, le=20, description="Number of pictures.")
    resolution: Literal["1k", "2k", "4k"] = Field(
        default="1k", description="Size of a picture: 1k, 2k or 4k (about 1 000, 2 000 or 4 000 pixels a side)."
    )
    aspect_ratio: Ratio = Field(default="1:1", description="Width to height.")
    references: _Images = Field(default=NO_IMAGES, description=f"Images that the pictures refer to. {_MENTION_HELP}")
    negative_prompt: AnyPrompt | None = Field(default=None, description="What the pictures must not show.")

    @property
    def ratio(self) -> str | None:
        """Its aspect ratio."""
        return self.aspect_ratio


# These are built when this module is loaded, unlike the requests of the providers: with its first model pydantic looks
# for its plugins, which takes some 25 ms. Whoever names them at the top of a program has no event loop wait for that.
for _kind in (Video, Image):
    _kind.model_rebuild()

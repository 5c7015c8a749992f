"""The requests that RunBlob serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from kling_async.providers._base.images import ImageRule, References
from kling_async.providers._base.request import Prompt, Request, as_number

__all__ = ["O3Photo", "O3Video"]

_PHOTO_IMAGES = ImageRule(formats=("jpeg", "png", "webp"), most=10, uniform=True)
_VIDEO_IMAGES = ImageRule(formats=("jpeg", "png", "gif", "webp"), most=5, uniform=True)
_MODES = {"std": "kling_o3", "pro": "kling_o3_pro"}

PhotoReferences: TypeAlias = Annotated[References, AfterValidator(_PHOTO_IMAGES)]
VideoReferences: TypeAlias = Annotated[References, AfterValidator(_VIDEO_IMAGES)]


class _RunBlobRequest(Request):
    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The provider's own JSON in our field names: ``images_url`` and ``images_base64`` are the references."""
        theirs = {name: data.pop(name) for name in ("images_url", "images_base64") if name in data}
        if theirs:
            if "references" in data:
                raise ValueError(f"{' and '.join(theirs)} and 'references' are the same field; give one of them")
            for name, images in theirs.items():
                if not isinstance(images, list | tuple | None):
                    kind = type(images).__name__
                    raise ValueError(f"{name} must be a list, not {kind}")  # noqa: TRY004  # pydantic reports these
            data["references"] = tuple(image for images in theirs.values() for image in images or ())
        return super().translate(data)


class O3Photo(_RunBlobRequest):
    """One picture by Kling O3.

    Source: ``docs.runblob.io/api-reference/kling/o3-photo-generate``.
    """

    endpoint: ClassVar[str] = "runblob/o3-photo"
    wire_names: ClassVar[Mapping[str, str]] = {"img_resolution": "resolution"}

    prompt: Prompt = Field(description="What the picture shows. 1 to 2 500 characters.")
    references: PhotoReferences = Field(
        default=(),
        description="Reference images: at most 10, JPEG, PNG or WEBP, 10 MiB each. All are URLs, or all are inline "
        "(files, bytes, data URIs).",
    )
    resolution: Literal["1k", "2k", "4k"] = Field(
        default="4k", description="Size of the picture: 1k, 2k or 4k (about 1 000, 2 000 or 4 000 pixels a side)."
    )
    aspect_ratio: Literal["auto", "1:1", "9:16", "2:3", "3:4", "4:3", "3:2", "16:9", "21:9"] = Field(
        default="1:1", description="Width to height. With auto, the model decides."
    )
    prefer_multi_shots: bool = Field(
        default=False, description="Whether the model may put several variations into one picture. Experimental."
    )


class O3Video(_RunBlobRequest):
    """One clip by Kling O3.

    Source: ``docs.runblob.io/api-reference/kling/o3-video-generate``.
    """

    endpoint: ClassVar[str] = "runblob/o3-video"

    labels: ClassVar[Mapping[str, Mapping[Any, tuple[str, str]]]] = {
        "model": {
            "kling_o3": ("Standard (720p)", "faster generation, lower cost"),
            "kling_o3_pro": ("Pro (1080p)", "higher quality"),
        }
    }

    prompt: Prompt = Field(description="What the clip shows. 1 to 2 500 characters.")
    references: VideoReferences = Field(
        default=(),
        description="Reference images: at most 5, JPEG, PNG, GIF or WEBP, 10 MiB each. All are URLs, or all are inline "
        "(files, bytes, data URIs).",
    )
    duration: Annotated[Literal[5, 10, 15], BeforeValidator(as_number)] = Field(
        default=5, description="Length of the clip in seconds: 5, 10 or 15."
    )
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = Field(
        default="16:9", description="Width to height: 16:9 (landscape), 9:16 (portrait) or 1:1 (square)."
    )
    model: Literal["kling_o3", "kling_o3_pro"] = Field(
        default="kling_o3",
        description="kling_o3 makes 720p. kling_o3_pro makes 1080p at about twice the price. The older field mode "
        "(std, pro) is accepted in its place.",
    )
    keep_original_sound: bool = Field(
        default=True,
        description="Whether the sound of a source video is kept. RunBlob documents the field, although this endpoint "
        "takes no source video, so it has no known effect.",
    )

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The provider's own JSON in our field names, ``mode`` read as ``model``."""
        if "mode" in data:
            mode = data.pop("mode")
            if not isinstance(mode, str) or mode not in _MODES:
                raise ValueError(f"mode is {mode!r:.40}; allowed are 'std' (kling_o3) and 'pro' (kling_o3_pro)")
            if data.get("model", _MODES[mode]) != _MODES[mode]:
                raise ValueError(f"mode {mode!r} and model {data['model']!r:.40} contradict each other; give one")
            data["model"] = _MODES[mode]
        return super().translate(data)

"""The requests that RunBlob serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator

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

    Args:
        prompt: 1 to 2 500 characters.
        references: Up to 10 images (JPEG, PNG, WEBP; 10 MiB each): all URLs, or all inline.
        resolution: ``1k``, ``2k`` or ``4k``.
        aspect_ratio: ``auto`` or one of the documented ratios.
        prefer_multi_shots: Several variations inside one picture; experimental.
        callback_url: Where RunBlob is to report the end (https).
    """

    endpoint: ClassVar[str] = "runblob/o3-photo"
    wire_names: ClassVar[Mapping[str, str]] = {"img_resolution": "resolution"}

    prompt: Prompt
    references: PhotoReferences = ()
    resolution: Literal["1k", "2k", "4k"] = "4k"
    aspect_ratio: Literal["auto", "1:1", "9:16", "2:3", "3:4", "4:3", "3:2", "16:9", "21:9"] = "1:1"
    prefer_multi_shots: bool = False


class O3Video(_RunBlobRequest):
    """One clip by Kling O3.

    Source: ``docs.runblob.io/api-reference/kling/o3-video-generate``.

    Args:
        prompt: 1 to 2 500 characters.
        references: Up to 5 images (JPEG, PNG, GIF, WEBP; 10 MiB each): all URLs, or all inline.
        duration: Length of the clip in seconds: 5, 10 or 15.
        aspect_ratio: ``16:9``, ``9:16`` or ``1:1``.
        model: ``kling_o3`` (720p) or ``kling_o3_pro`` (1080p, about twice the price). The older ``mode`` (``std``,
            ``pro``) is accepted in its place.
        keep_original_sound: Whether the sound of the source is kept.
        callback_url: Where RunBlob is to report the end (https).
    """

    endpoint: ClassVar[str] = "runblob/o3-video"

    prompt: Prompt
    references: VideoReferences = ()
    duration: Annotated[Literal[5, 10, 15], BeforeValidator(as_number)] = 5
    aspect_ratio: Literal["16:9", "9:16", "1:1"] = "16:9"
    model: Literal["kling_o3", "kling_o3_pro"] = "kling_o3"
    keep_original_sound: bool = True

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

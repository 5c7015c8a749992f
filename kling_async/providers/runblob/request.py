"""The requests that RunBlob serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kling_async._exchange.urls import is_url
from kling_async._media.local_file import LocalFile
from kling_async.providers._base.images import NO_IMAGES, ImageRule, OneImage, Reference, References, data_uri
from kling_async.providers._base.request import Prompt, Request, as_number

__all__ = ["O3Photo", "O3Video", "RunBlobRequest", "image_fields"]

_PHOTO_IMAGES = ImageRule(formats=("jpeg", "png", "webp"), most=10, uniform=True)
_FRAME = ImageRule(formats=("jpeg", "png", "gif", "webp"), most=1)
_VIDEO_IMAGES = ImageRule(formats=("jpeg", "png", "gif", "webp"), most=5, uniform=True)
_IMAGE_LISTS = ("images_url", "images_urls", "images_base64")  # O1 video spells its own with another s
_MODES = {"std": "kling_o3", "pro": "kling_o3_pro"}

PhotoReferences: TypeAlias = Annotated[References, AfterValidator(_PHOTO_IMAGES)]
VideoReferences: TypeAlias = Annotated[References, AfterValidator(_VIDEO_IMAGES)]


Frame: TypeAlias = Annotated[Reference, AfterValidator(OneImage(_FRAME, "the frame"))]


def image_fields(name: str, image: Reference | None) -> dict[str, str]:
    """One image as RunBlob takes it: ``NAME_url``, or ``NAME_base64`` with a data URI."""
    if image is None:
        return {}
    if is_url(image):
        return {f"{name}_url": str(image)}
    return {f"{name}_base64": data_uri(image) if isinstance(image, bytes | LocalFile) else str(image)}


class RunBlobRequest(Request):
    """What RunBlob's requests have in common."""

    def images_payload(self, name: str) -> dict[str, list[str]]:
        """The references as RunBlob takes them: URLs under that name, or data URIs."""
        given: Sequence[Any] = getattr(self, "references", ())
        if not given:
            return {}
        field = name if is_url(given[0]) else "images_base64"
        return {field: [data_uri(one) if isinstance(one, bytes | LocalFile) else str(one) for one in given]}

    def payload(self) -> dict[str, Any]:
        """The body of a submission. What changes the price is always in it."""
        raise NotImplementedError

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The provider's own JSON in our field names: its lists of images are the references."""
        theirs = {name: data.pop(name) for name in _IMAGE_LISTS if name in data}
        if theirs:
            if "references" in data:
                raise ValueError(f"{' and '.join(theirs)} and 'references' are the same field; give one of them")
            for name, images in theirs.items():
                if not isinstance(images, list | tuple | None):
                    kind = type(images).__name__
                    raise ValueError(f"{name} must be a list, not {kind}")  # noqa: TRY004  # pydantic reports these
            data["references"] = tuple(image for images in theirs.values() for image in images or ())
        return super().translate(data)


class O3Photo(RunBlobRequest):
    """One picture by Kling O3.

    Source: ``docs.runblob.io/api-reference/kling/o3-photo-generate``.
    """

    endpoint: ClassVar[str] = "runblob/o3-photo"
    wire_names: ClassVar[Mapping[str, str]] = {"img_resolution": "resolution"}

    prompt: Prompt = Field(description="What the picture shows. 1 to 2 500 characters.")
    references: PhotoReferences = Field(
        default=NO_IMAGES,
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

    def payload(self) -> dict[str, Any]:
        """The body. What changes the price is always in it."""
        return {
            "prompt": self.prompt,
            "aspect_ratio": self.aspect_ratio,
            "img_resolution": self.resolution,
            "prefer_multi_shots": self.prefer_multi_shots,
            **self.images_payload("images_url"),
        }


class O3Video(RunBlobRequest):
    """One clip by Kling O3.

    Unverified, because only RunBlob's client package has them: the frames, `customize_multi_shots` and
    `prefer_multi_shots`. They are sent only if they are given.

    Source: ``docs.runblob.io/api-reference/kling/o3-video-generate``, and the package runblob 0.3.1.
    """

    endpoint: ClassVar[str] = "runblob/o3-video"
    reference_fields: ClassVar[tuple[str, ...]] = ("references", "first_frame", "last_frame")
    wire_names: ClassVar[Mapping[str, str]] = {
        "first_frame_url": "first_frame",
        "first_frame_base64": "first_frame",
        "end_frame_url": "last_frame",
        "end_frame_base64": "last_frame",
    }

    labels: ClassVar[Mapping[str, Mapping[Any, tuple[str, str]]]] = {
        "model": {
            "kling_o3": ("Standard (720p)", "faster generation, lower cost"),
            "kling_o3_pro": ("Pro (1080p)", "higher quality"),
        }
    }

    prompt: Prompt = Field(description="What the clip shows. 1 to 2 500 characters.")
    references: VideoReferences = Field(
        default=NO_IMAGES,
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
    first_frame: Frame | None = Field(
        default=None, description="The image that the clip begins with, together with last_frame. Unverified."
    )
    last_frame: Frame | None = Field(
        default=None, description="The image that the clip ends with, together with first_frame. Unverified."
    )
    customize_multi_shots: bool = Field(
        default=False, description="Whether the prompt describes several shots. Unverified."
    )
    prefer_multi_shots: bool = Field(default=False, description="Whether the model may make several shots. Unverified.")

    @model_validator(mode="after")
    def _check_frames(self) -> Self:
        if (self.first_frame is None) != (self.last_frame is None):
            raise ValueError("first_frame and last_frame belong together; give both")
        return self

    def payload(self) -> dict[str, Any]:
        """The body. What changes the price is always in it."""
        shots = {
            "customize_multi_shots": self.customize_multi_shots,
            "prefer_multi_shots": self.prefer_multi_shots,
        }
        return {
            "prompt": self.prompt,
            "aspect_ratio": self.aspect_ratio,
            "duration": str(self.duration),
            "model": self.model,
            "keep_original_sound": self.keep_original_sound,
            **self.images_payload("images_url"),
            **image_fields("first_frame", self.first_frame),
            **image_fields("end_frame", self.last_frame),
            **{name: value for name, value in shots.items() if value},
        }

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

"""The requests for RunBlob's other Kling models: ``/v1/kling/generate``, O1 video and O1 photo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kling_async.providers._base.images import NO_IMAGES, ImageRule, OneImage, Reference, References
from kling_async.providers._base.request import Prompt, as_number, plain_text
from kling_async.providers.runblob.request import RunBlobRequest, image_fields

__all__ = ["MotionControl", "O1Photo", "O1Video", "Video"]

AspectRatio: TypeAlias = Literal["16:9", "9:16", "1:1"]
VideoModel: TypeAlias = Literal[
    "kling_3",
    "kling_3_pro",
    "kling_2.6",
    "kling_2.5_turbo",
    "kling_2.5_turbo_pro",
    "kling_2.1",
    "kling_2.1_pro",
    "kling_2.1_master",
    "kling_1.6",
    "kling_1.6_pro",
]
MotionModel: TypeAlias = Literal["kling_3_motion", "kling_3_motion_pro", "kling_2.6_motion", "kling_2.6_motion_pro"]

_BY_THE_SECOND = ("kling_3", "kling_3_pro")
_5_OR_10 = (5, 10)
_O1_DURATIONS = (5, 8, 10)
_IMAGE = ImageRule(formats=("jpeg", "png", "webp"), most=1)
_O1_IMAGES = ImageRule(formats=("jpeg", "png", "webp"), most=5, uniform=True)


def _web_address(value: str) -> str:
    if not plain_text(value).startswith(("https://", "http://")):
        raise ValueError("a video is given as an http(s) URL")
    return value


OneReference: TypeAlias = Annotated[Reference, AfterValidator(OneImage(_IMAGE))]
O1References: TypeAlias = Annotated[References, AfterValidator(_O1_IMAGES)]
VideoUrl: TypeAlias = Annotated[str, AfterValidator(_web_address)]

_INLINE_HELP = "JPEG, PNG or WEBP, at most 10 MiB, as URL, path, bytes or data URI."


class Video(RunBlobRequest):
    """One clip by any Kling model from 1.6 to 3.0 except O1 and O3, from text or from an image.

    Unverified: the default of `cfg_scale`, which is sent only if it is given. RunBlob publishes no prices for these
    models. It reports the price of each job it accepts.

    Source: ``docs.runblob.io/api-reference/kling/generate``.
    """

    endpoint: ClassVar[str] = "runblob/video"
    reference_fields: ClassVar[tuple[str, ...]] = ("first_frame",)
    wire_names: ClassVar[Mapping[str, str]] = {"image_url": "first_frame", "image_base64": "first_frame"}

    prompt: Prompt = Field(description="What the clip shows. 1 to 2 500 characters.")
    model: VideoModel = Field(
        default="kling_3",
        description="The model. kling_3 makes 720p and kling_3_pro 1080p. kling_2.6 always has sound and is always of "
        "the quality of pro. The others are silent.",
    )
    duration: Annotated[int, BeforeValidator(as_number)] = Field(
        default=5,
        ge=3,
        le=15,
        description="Length of the clip in seconds: 3 to 15 for kling_3 and kling_3_pro, 5 or 10 for the others.",
    )
    aspect_ratio: AspectRatio | None = Field(
        default=None, description="Width to height. If None, 16:9, or that of the first frame."
    )
    first_frame: OneReference | None = Field(
        default=None, description=f"The image that the clip begins with: {_INLINE_HELP}"
    )
    negative_prompt: Prompt | None = Field(
        default=None, description="What the clip must not show. At most 2 500 characters."
    )
    cfg_scale: float | None = Field(
        default=None, ge=0, le=1, description="How closely the clip follows the prompt, 0 to 1."
    )
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] | None = Field(
        default=None, description="A number for the same clip again, 0 to 2 147 483 647."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model not in _BY_THE_SECOND and self.duration not in _5_OR_10:
            raise ValueError(f"duration is {self.duration}; {self.model} makes 5 or 10 seconds")
        if self.first_frame is not None and self.aspect_ratio is not None:
            raise ValueError("with a first frame the frame decides the aspect ratio; leave aspect_ratio out")
        return self

    def payload(self) -> dict[str, Any]:
        """The body. What changes the price is always in it."""
        by_the_second = self.model in _BY_THE_SECOND
        ratio = {} if self.first_frame is not None else {"aspect_ratio": self.aspect_ratio or "16:9"}
        optional = {"negative_prompt": self.negative_prompt, "cfg_scale": self.cfg_scale, "seed": self.seed}
        return {
            "prompt": self.prompt,
            "model": self.model,
            "duration": self.duration if by_the_second else str(self.duration),
            **ratio,
            **image_fields("image", self.first_frame),
            **{name: value for name, value in optional.items() if value is not None},
        }


class MotionControl(RunBlobRequest):
    """One clip in which the person of an image moves like the person of a video.

    Unverified, because only RunBlob's client package has them: `motion_direction`, and whether `duration` has an
    effect. RunBlob publishes no prices for these models. It reports the price of each job it accepts.

    Source: ``docs.runblob.io/api-reference/kling/generate`` and the package runblob 0.3.1.
    """

    endpoint: ClassVar[str] = "runblob/motion-control"
    reference_fields: ClassVar[tuple[str, ...]] = ("reference",)
    wire_names: ClassVar[Mapping[str, str]] = {
        "reference_image_url": "reference",
        "reference_image_base64": "reference",
        "reference_video_url": "reference_video",
    }

    prompt: Prompt = Field(description="What the clip shows. 1 to 2 500 characters.")
    reference: OneReference = Field(description=f"The image of the person: {_INLINE_HELP}")
    reference_video: VideoUrl = Field(
        description="URL of the video with the motion: MP4, MOV or WEBM, 3 to 30 seconds."
    )
    model: MotionModel = Field(
        default="kling_3_motion",
        description="kling_3_motion or kling_2.6_motion, each also with _pro, which costs more.",
    )
    duration: Annotated[int, BeforeValidator(as_number)] = Field(
        default=5, description="Length in seconds that is asked for: 5 or 10."
    )
    motion_direction: Literal["video", "image"] = Field(
        default="video", description="Whether the person faces as in the video or as in the image. Unverified."
    )
    negative_prompt: Prompt | None = Field(
        default=None, description="What the clip must not show. At most 2 500 characters."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.duration not in _5_OR_10:
            raise ValueError(f"duration is {self.duration}; {self.model} makes 5 or 10 seconds")
        return self

    def payload(self) -> dict[str, Any]:
        """The body. What changes the price is always in it."""
        fields = {
            "prompt": self.prompt,
            "model": self.model,
            "duration": str(self.duration),
            "reference_video_url": self.reference_video,
            **image_fields("reference_image", self.reference),
            "motion_direction": self.motion_direction,
        }
        return fields if self.negative_prompt is None else {**fields, "negative_prompt": self.negative_prompt}


class O1Video(RunBlobRequest):
    """One clip by Kling O1, from text, from reference images, or between two frames.

    Unverified, because only RunBlob's client package has them: the frames and `keep_original_sound`. The page has a
    duration of 8 seconds, and the package does not. RunBlob publishes no price. It reports the price of each job it
    accepts.

    Source: ``docs.runblob.io/api-reference/kling`` and the package runblob 0.3.1.
    """

    endpoint: ClassVar[str] = "runblob/o1-video"
    reference_fields: ClassVar[tuple[str, ...]] = ("references", "first_frame", "last_frame")
    wire_names: ClassVar[Mapping[str, str]] = {
        "first_frame_image_url": "first_frame",
        "first_frame_image_base64": "first_frame",
        "end_frame_image_url": "last_frame",
        "end_frame_image_base64": "last_frame",
    }

    prompt: Prompt = Field(description="What the clip shows. 1 to 2 500 characters.")
    references: O1References = Field(
        default=NO_IMAGES,
        description="Reference images: at most 5, JPEG, PNG or WEBP, 10 MiB each. All are URLs, or all are inline "
        "(files, bytes, data URIs).",
    )
    duration: Annotated[int, BeforeValidator(as_number)] = Field(
        default=5, description="Length of the clip in seconds: 5, 8 or 10."
    )
    aspect_ratio: AspectRatio | None = Field(
        default=None, description="Width to height. If None, 16:9, or that of the frames."
    )
    first_frame: OneReference | None = Field(
        default=None, description=f"The image that the clip begins with, together with last_frame: {_INLINE_HELP}"
    )
    last_frame: OneReference | None = Field(
        default=None, description="The image that the clip ends with. It needs a first frame."
    )
    keep_original_sound: bool = Field(default=True, description="Whether the sound is kept.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.duration not in _O1_DURATIONS:
            raise ValueError(f"duration is {self.duration}; it must be 5, 8 or 10 seconds")
        if (self.first_frame is None) != (self.last_frame is None):
            raise ValueError("first_frame and last_frame belong together; give both")
        if self.first_frame is not None and self.references:
            raise ValueError("references and frames are given; give references, or both frames")
        if self.first_frame is not None and self.aspect_ratio is not None:
            raise ValueError("with frames these decide the aspect ratio; leave aspect_ratio out")
        return self

    def payload(self) -> dict[str, Any]:
        """The body. What changes the price is always in it."""
        ratio = {} if self.first_frame is not None else {"aspect_ratio": self.aspect_ratio or "16:9"}
        return {
            "prompt": self.prompt,
            "duration": str(self.duration),
            **ratio,
            "keep_original_sound": self.keep_original_sound,
            **self.images_payload("images_urls"),
            **image_fields("first_frame_image", self.first_frame),
            **image_fields("end_frame_image", self.last_frame),
        }


class O1Photo(RunBlobRequest):
    """One picture by Kling O1.

    Its page takes 5 reference images, and RunBlob's client package 10. The smaller number is the limit here.

    Source: ``docs.runblob.io/api-reference/kling/photo-generate``.
    """

    endpoint: ClassVar[str] = "runblob/o1-photo"
    wire_names: ClassVar[Mapping[str, str]] = {"img_resolution": "resolution"}

    prompt: Prompt = Field(description="What the picture shows. 1 to 2 500 characters.")
    references: O1References = Field(
        default=NO_IMAGES,
        description="Reference images: at most 5, JPEG, PNG or WEBP, 10 MiB each. All are URLs, or all are inline "
        "(files, bytes, data URIs).",
    )
    resolution: Literal["1k", "2k"] = Field(
        default="2k", description="Size of the picture: 1k or 2k (about 1 000 or 2 000 pixels a side)."
    )
    aspect_ratio: Literal["9:16", "2:3", "3:4", "1:1", "4:3", "3:2", "16:9", "21:9"] = Field(
        default="1:1", description="Width to height."
    )

    def payload(self) -> dict[str, Any]:
        """The body. What changes the price is always in it."""
        return {
            "prompt": self.prompt,
            "img_resolution": self.resolution,
            "aspect_ratio": self.aspect_ratio,
            **self.images_payload("images_url"),
        }

"""The requests for PixelDojo's Kling videos. Their field names are those of fal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, GetPydanticSchema, model_validator

from kling_async._media.local_file import LocalFile
from kling_async.providers._base.images import NO_IMAGES, ImageRule, OneImage, Reference, References, data_uri
from kling_async.providers._base.request import AnyPrompt, Request, Text, as_number, plain_text

__all__ = ["MotionControl", "ReferenceToVideo", "Shot", "TextToVideo", "VideoRequest"]

AspectRatio: TypeAlias = Literal["16:9", "9:16", "1:1"]
Tier: TypeAlias = Literal["standard", "pro"]

_IMAGE = ImageRule(formats=("jpeg", "png"), most=1)
_IMAGES = ImageRule(formats=("jpeg", "png"), most=7)
_BESIDE_A_VIDEO = 4  # reference images, where there is a video as well


def _web_address(value: str) -> str:
    if not plain_text(value).startswith(("https://", "http://")):
        raise ValueError("a video is given as an http(s) URL")
    return value


OneReference: TypeAlias = Annotated[Reference, AfterValidator(OneImage(_IMAGE))]
VideoUrl: TypeAlias = Annotated[str, AfterValidator(_web_address)]

_IMAGE_HELP = "JPEG or PNG, at most 10 MiB. A URL, or inline (path, bytes, data URI), which is unverified."


class Shot(BaseModel):
    """One shot of a clip with several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[AnyPrompt, Field(description="What the shot shows.")]
    duration: Annotated[int, Field(ge=1, le=15, description="Length in whole seconds."), BeforeValidator(as_number)]


Shots: TypeAlias = Annotated[Sequence[Shot], GetPydanticSchema(lambda _, schema: schema(tuple[Shot, ...]))]


def _wire(image: Reference) -> str:
    return data_uri(image) if isinstance(image, bytes | LocalFile) else str(image)


class VideoRequest(Request):
    """What the requests for videos have in common."""

    @property
    def api_id(self) -> str:
        """The model, by PixelDojo's own name."""
        raise NotImplementedError

    def payload(self) -> dict[str, Any]:
        """The body, without the webhook's address. What changes the price is always in it."""
        raise NotImplementedError


class TextToVideo(VideoRequest):
    """One clip by Kling 3.0 Pro, from text (``kling-video-v3-pro-text``).

    Give `prompt`, or `multi_prompt` for several shots. Unverified: whether the API wants durations as text. They are
    sent as text, as fal wants them, whose fields these are.

    Source: ``pixeldojo.ai/llm/kling-video-v3-pro-text.txt``.
    """

    endpoint: ClassVar[str] = "pixeldojo/text-to-video"
    wire_names: ClassVar[Mapping[str, str]] = {"webhook_url": "callback_url"}

    prompt: AnyPrompt | None = Field(
        default=None, description="What the clip shows. Required without `multi_prompt`, and not together with it."
    )
    duration: Annotated[int, BeforeValidator(as_number)] = Field(
        default=5, ge=3, le=15, description="Length of the clip in seconds, 3 to 15. 8 credits for each."
    )
    aspect_ratio: AspectRatio = Field(default="16:9", description="Width to height.")
    generate_audio: bool = Field(default=True, description="Whether the clip has sound.")
    multi_prompt: Annotated[Shots, Field(max_length=6)] = Field(
        default=(), description="Up to 6 shots. Their durations must add up to `duration`."
    )
    shot_type: Literal["customize", "intelligent"] | None = Field(
        default=None, description="Whether the shots are those of `multi_prompt`, or the model's own."
    )
    voice_ids: Annotated[Sequence[Text], GetPydanticSchema(lambda _, schema: schema(tuple[Text, ...]))] = Field(
        default=(), max_length=2, description="Up to 2 voices, by PixelDojo's ids."
    )
    negative_prompt: Text | None = Field(default=None, description="What the clip must not show.")
    cfg_scale: float = Field(default=0.5, ge=0, le=1, description="How closely the clip follows the prompt, 0 to 1.")

    @property
    def api_id(self) -> str:
        """The model, by PixelDojo's own name."""
        return "kling-video-v3-pro-text"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.prompt is None) == (not self.multi_prompt):
            raise ValueError("give prompt or multi_prompt, and not both")
        total = sum(shot.duration for shot in self.multi_prompt)
        if self.multi_prompt and total != self.duration:
            raise ValueError(f"the shots of multi_prompt last {total} s together, but duration is {self.duration} s")
        return self

    def payload(self) -> dict[str, Any]:
        """The body. What changes the price is always in it."""
        shots = [{"prompt": shot.prompt, "duration": str(shot.duration)} for shot in self.multi_prompt]
        optional = {
            "prompt": self.prompt,
            "multi_prompt": shots,
            "shot_type": self.shot_type,
            "voice_ids": list(self.voice_ids),
            "negative_prompt": self.negative_prompt,
        }
        return {
            **{name: value for name, value in optional.items() if value},
            "duration": str(self.duration),
            "aspect_ratio": self.aspect_ratio,
            "generate_audio": self.generate_audio,
            "cfg_scale": self.cfg_scale,
        }


class ReferenceToVideo(VideoRequest):
    """One clip by Kling 3.0 Omni, from frames, reference images or a video (``kling-reference-to-video``).

    Unverified: the values of `reference_type`, `duration` and `aspect_ratio`, which are sent only if they are given.
    Also whether the price of 15 credits is that of a clip or of a second.

    Source: ``pixeldojo.ai/llm/kling-reference-to-video.txt``.
    """

    endpoint: ClassVar[str] = "pixeldojo/reference-to-video"
    reference_fields: ClassVar[tuple[str, ...]] = ("first_frame", "last_frame", "references")
    wire_names: ClassVar[Mapping[str, str]] = {
        "start_image_url": "first_frame",
        "end_image_url": "last_frame",
        "image_urls": "references",
        "video_url": "reference_video",
        "webhook_url": "callback_url",
    }

    prompt: AnyPrompt = Field(description="What the clip shows.")
    tier: Tier = Field(default="standard", description="The quality: standard or pro.")
    first_frame: OneReference | None = Field(
        default=None, description=f"The image that the clip begins with: {_IMAGE_HELP}"
    )
    last_frame: OneReference | None = Field(
        default=None, description="The image that the clip ends with. It needs a first frame."
    )
    references: Annotated[References, AfterValidator(_IMAGES)] = Field(
        default=NO_IMAGES, description="Reference images: at most 7, and at most 4 beside a video."
    )
    reference_video: VideoUrl | None = Field(default=None, description="URL of a video to refer to.")
    reference_type: Text | None = Field(default=None, description="What the references are for. Unverified.")
    duration: Annotated[int, Field(ge=3, le=15), BeforeValidator(as_number)] | None = Field(
        default=None, description="Length of the clip in seconds, 3 to 15. Unverified."
    )
    aspect_ratio: AspectRatio | None = Field(default=None, description="Width to height. Unverified.")
    generate_audio: bool = Field(default=False, description="Whether the clip has sound.")
    keep_audio: bool = Field(default=True, description="Whether the sound of the reference video is kept.")

    @property
    def api_id(self) -> str:
        """The model, by PixelDojo's own name."""
        return "kling-reference-to-video"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.last_frame is not None and self.first_frame is None:
            raise ValueError("last_frame is given without first_frame; give both")
        if self.first_frame is None and not self.references and self.reference_video is None:
            raise ValueError("nothing to refer to is given; give first_frame, references or reference_video")
        if self.reference_video is not None and len(self.references) > _BESIDE_A_VIDEO:
            raise ValueError(f"{len(self.references)} references are given; beside a video at most 4 are allowed")
        return self

    def payload(self) -> dict[str, Any]:
        """The body. What changes the price is always in it."""
        frames = {"start_image_url": self.first_frame, "end_image_url": self.last_frame}
        optional = {
            **{name: _wire(image) for name, image in frames.items() if image is not None},
            "image_urls": [_wire(image) for image in self.references],
            "video_url": self.reference_video,
            "reference_type": self.reference_type,
            "duration": None if self.duration is None else str(self.duration),
            "aspect_ratio": self.aspect_ratio,
        }
        return {
            "prompt": self.prompt,
            "tier": self.tier,
            **{name: value for name, value in optional.items() if value},
            "generate_audio": self.generate_audio,
            "keep_audio": self.keep_audio,
        }


class MotionControl(VideoRequest):
    """One clip in which the person of an image moves like the person of a video.

    It is ``kling-motion-control`` (3 credits a second) or, with the tier pro, ``kling-motion-control-pro`` (4 credits a
    second). The video decides the length, so the price is not known before.

    Source: ``pixeldojo.ai/llm/kling-motion-control.txt``.
    """

    endpoint: ClassVar[str] = "pixeldojo/motion-control"
    reference_fields: ClassVar[tuple[str, ...]] = ("reference",)
    wire_names: ClassVar[Mapping[str, str]] = {
        "video": "reference_video",
        "character_image": "reference",
        "webhook_url": "callback_url",
    }

    reference: OneReference = Field(description=f"The image of the person: {_IMAGE_HELP}")
    reference_video: VideoUrl = Field(description="URL of the video with the motion.")
    prompt: AnyPrompt | None = Field(default=None, description="What the clip shows.")
    tier: Tier = Field(default="standard", description="The quality: standard or pro.")
    character_orientation: Literal["video", "image"] = Field(
        default="video", description="Whether the person faces as in the video or as in the image."
    )
    keep_original_sound: bool = Field(default=True, description="Whether the sound of the video is kept.")

    @property
    def api_id(self) -> str:
        """The model, by PixelDojo's own name."""
        return "kling-motion-control-pro" if self.tier == "pro" else "kling-motion-control"

    def payload(self) -> dict[str, Any]:
        """The body. What changes the price is in the address."""
        fields = {
            "video": self.reference_video,
            "character_image": _wire(self.reference),
            "character_orientation": self.character_orientation,
            "keep_original_sound": self.keep_original_sound,
        }
        return fields if self.prompt is None else {**fields, "prompt": self.prompt}

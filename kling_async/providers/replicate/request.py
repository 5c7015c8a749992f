"""The requests that Replicate's Kling models serve."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetPydanticSchema, JsonValue, model_validator

from kling_async.providers._base.images import NO_IMAGES, ImageRule, OneImage, Reference, References
from kling_async.providers._base.request import AnyPrompt, as_number, plain_text
from kling_async.providers._base.request import Request as BaseRequest

__all__ = [
    "LipSync",
    "O1Video",
    "ReplicateRequest",
    "Request",
    "Shot",
    "V3OmniVideo",
    "V3Video",
    "V20Video",
    "V21Video",
    "V25TurboVideo",
]

_MIB = 1024 * 1024
_IMAGE = ImageRule(formats=("jpeg", "png"), most=1, max_bytes=10 * _MIB)
_REFERENCE_IMAGES = ImageRule(formats=("jpeg", "png"), most=7, max_bytes=10 * _MIB)
_BESIDE_A_VIDEO = 4  # reference images, when there is a reference video as well
_PROMPT_REFERENCE = re.compile(r"<<<(image|video)_(\d+)>>>")
_MODEL = re.compile(r"[\w.-]+/[\w.-]+(:[0-9a-f]{64})?")


_one_image = OneImage(_IMAGE)


def _web_address(value: str) -> str:
    if not value.startswith(("https://", "http://")):
        raise ValueError("a video or sound is given as an http(s) URL")
    return value


Image: TypeAlias = Annotated[Reference, AfterValidator(_one_image)]
MediaUrl: TypeAlias = Annotated[str, AfterValidator(_web_address)]
Text: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(plain_text)]
AspectRatio: TypeAlias = Literal["16:9", "9:16", "1:1"]

# Descriptions that several classes share.
_RATIO_HELP = "Width to height of the video. Default 16:9."
_NEGATIVE_HELP = "What the video should not show."
_START_HELP = "The first frame: JPEG or PNG, at most 10 MiB, as URL, path, bytes or data URI."
_END_HELP = "The last frame. It needs a first frame."
_AUDIO_HELP = "Whether the video gets a sound track. It changes the price. Default false."
_DURATION_HELP = "Length of the video in seconds: {}. Default 5."


class Shot(BaseModel):
    """One shot of a video with several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[AnyPrompt, Field(description="What the shot shows.")]
    duration: Annotated[int, Field(ge=1, le=15, description="Length of the shot in whole seconds.")]


Shots: TypeAlias = Annotated[Sequence[Shot], GetPydanticSchema(lambda _, schema: schema(tuple[Shot, ...]))]


class ReplicateRequest(BaseRequest):
    """What the requests of all models have in common."""

    model_name: ClassVar[str] = ""
    """The model on Replicate, ``owner/name``."""
    reference_fields: ClassVar[tuple[str, ...]] = ("start_image", "end_image", "references")
    wire_names: ClassVar[Mapping[str, str]] = {"webhook": "callback_url"}

    cancel_after: Annotated[int, Field(ge=5, le=86_400)] | None = Field(
        default=None,
        kw_only=True,
        description="Seconds after which Replicate cancels the job itself. A job cancelled before it has started is "
        "not billed. If None, it runs to its end.",
    )

    @classmethod
    def _own(cls) -> list[str]:
        return [name for name in super()._own() if name != "cancel_after"]

    @property
    def target(self) -> str:
        """The model to run, ``owner/name`` or ``owner/name:version``."""
        return self.model_name

    def model_input(self) -> dict[str, Any]:
        """The model's input, by our names. What changes the price is always in it."""
        left_out = {"callback_url", "cancel_after"}
        return {
            name: value
            for name, value in dict(self).items()
            if name not in left_out and value is not None and value != ()
        }

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Replicate's own JSON in our field names: the ``input`` of a prediction, with numbers as numbers."""
        given = data.pop("input", None)
        if isinstance(given, dict):
            data = {**given, **data}
        if "duration" in data:
            data["duration"] = as_number(data["duration"])
        shots = data.get("multi_prompt")
        if isinstance(shots, str):
            try:
                data["multi_prompt"] = json.loads(shots)
            except ValueError:
                raise ValueError("multi_prompt is a text, but not JSON; give a list of shots") from None
        return super().translate(data)


def _require_start(start: object, end: object) -> None:
    if end is not None and start is None:
        raise ValueError("end_image needs a start_image")


def _check_prompt_references(prompt: str | None, *, images: int, videos: int) -> None:
    """Refuse ``<<<image_2>>>`` where only one image was given."""
    for kind, number in _PROMPT_REFERENCE.findall(prompt or ""):
        given = images if kind == "image" else videos
        if not 1 <= int(number) <= given:
            raise ValueError(f"the prompt names <<<{kind}_{number}>>>, but {given or 'no'} {kind}s were given")


class V3Video(ReplicateRequest):
    """A video by Kling 3.0 (``kwaivgi/kling-v3-video``).

    Give `prompt`, or `multi_prompt` for several shots. Source: docs/providers/replicate.md, section 3.
    """

    endpoint: ClassVar[str] = "replicate/kling-v3-video"
    model_name: ClassVar[str] = "kwaivgi/kling-v3-video"

    prompt: Annotated[AnyPrompt | None, Field(description="What the video shows. Required without `multi_prompt`.")] = (
        None
    )
    duration: Annotated[int, Field(ge=3, le=15, description=_DURATION_HELP.format("3 to 15"))] = 5
    mode: Annotated[
        Literal["standard", "pro"], Field(description="`standard` (720p) or `pro` (1080p, dearer). Default pro.")
    ] = "pro"
    aspect_ratio: Annotated[AspectRatio, Field(description=_RATIO_HELP)] = "16:9"
    generate_audio: Annotated[bool, Field(description=_AUDIO_HELP)] = False
    start_image: Annotated[Image | None, Field(description=_START_HELP)] = None
    end_image: Annotated[Image | None, Field(description=_END_HELP + " It needs mode `pro`.")] = None
    negative_prompt: Annotated[AnyPrompt | None, Field(description=_NEGATIVE_HELP)] = None
    multi_prompt: Annotated[
        Shots, Field(max_length=6, description="Up to 6 shots. Their durations must add up to `duration`.")
    ] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.prompt and not self.multi_prompt:
            raise ValueError("give a prompt, or multi_prompt with at least one shot")
        if self.multi_prompt and sum(shot.duration for shot in self.multi_prompt) != self.duration:
            total = sum(shot.duration for shot in self.multi_prompt)
            raise ValueError(f"the shots of multi_prompt last {total} s together, but duration is {self.duration} s")
        _require_start(self.start_image, self.end_image)
        if self.end_image is not None and self.mode != "pro":
            raise ValueError("end_image needs mode 'pro'")
        return self

    def model_input(self) -> dict[str, Any]:
        """The input. Replicate takes the shots as JSON inside a string."""
        given = super().model_input()
        if self.multi_prompt:
            given["multi_prompt"] = json.dumps([dict(shot) for shot in self.multi_prompt], ensure_ascii=False)
        return given


_REFERENCES_HELP = "Up to 7 reference images (4 with a reference video), named <<<image_1>>> ... in the prompt."
_VIDEO_HELP = "URL of one reference video, named <<<video_1>>> in the prompt."
_TYPE_HELP = "`feature`: take its look or motion. `base`: edit this video. Only with `reference_video`."
_SOUND_HELP = "Whether the reference video's sound is kept. Only with `reference_video`."


class V3OmniVideo(V3Video):
    """A video by Kling 3.0 Omni (``kwaivgi/kling-v3-omni-video``): as `V3Video`, with references.

    Source: docs/providers/replicate.md, section 3.
    """

    endpoint: ClassVar[str] = "replicate/kling-v3-omni-video"
    model_name: ClassVar[str] = "kwaivgi/kling-v3-omni-video"
    wire_names: ClassVar[Mapping[str, str]] = {"reference_images": "references", "webhook": "callback_url"}

    references: Annotated[References, AfterValidator(_REFERENCE_IMAGES), Field(description=_REFERENCES_HELP)] = (
        NO_IMAGES
    )
    reference_video: Annotated[MediaUrl | None, Field(description=_VIDEO_HELP)] = None
    video_reference_type: Annotated[Literal["feature", "base"] | None, Field(description=_TYPE_HELP)] = None
    keep_original_sound: Annotated[bool | None, Field(description=_SOUND_HELP)] = None

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        _check_video_references(self)
        return self


class O1Video(ReplicateRequest):
    """A video by Kling O1 (``kwaivgi/kling-o1``), with references.

    Replicate ignores `aspect_ratio` when there is a first frame. Source: docs/providers/replicate.md, section 3.
    """

    endpoint: ClassVar[str] = "replicate/kling-o1"
    model_name: ClassVar[str] = "kwaivgi/kling-o1"
    wire_names: ClassVar[Mapping[str, str]] = {"reference_images": "references", "webhook": "callback_url"}

    prompt: Annotated[AnyPrompt, Field(description="What the video shows.")]
    duration: Annotated[
        int, Field(ge=3, le=10, description="Seconds: 5 or 10; 3 to 10 with a feature video. Default 5.")
    ] = 5
    mode: Annotated[Literal["std", "pro"], Field(description="`std` (720p) or `pro` (1080p). Default pro.")] = "pro"
    aspect_ratio: Annotated[AspectRatio, Field(description=_RATIO_HELP)] = "16:9"
    start_image: Annotated[Image | None, Field(description=_START_HELP)] = None
    end_image: Annotated[Image | None, Field(description=_END_HELP)] = None
    references: Annotated[References, AfterValidator(_REFERENCE_IMAGES), Field(description=_REFERENCES_HELP)] = (
        NO_IMAGES
    )
    reference_video: Annotated[MediaUrl | None, Field(description=_VIDEO_HELP)] = None
    video_reference_type: Annotated[Literal["feature", "base"] | None, Field(description=_TYPE_HELP)] = None
    keep_original_sound: Annotated[bool | None, Field(description=_SOUND_HELP)] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_start(self.start_image, self.end_image)
        _check_video_references(self)
        feature = self.reference_video is not None and self.video_reference_type != "base"
        if not feature and self.duration not in {5, 10}:
            raise ValueError(f"duration is {self.duration}; without a feature video it is 5 or 10")
        return self


def _check_video_references(request: V3OmniVideo | O1Video) -> None:
    images, video = len(request.references), request.reference_video
    if video is not None and images > _BESIDE_A_VIDEO:
        raise ValueError(f"{images} reference images were given; beside a reference video at most 4 are allowed")
    if video is None and (request.video_reference_type is not None or request.keep_original_sound is not None):
        raise ValueError("video_reference_type and keep_original_sound need a reference_video")
    _check_prompt_references(request.prompt, images=images, videos=0 if video is None else 1)


class V25TurboVideo(ReplicateRequest):
    """A video by Kling 2.5 Turbo Pro (``kwaivgi/kling-v2.5-turbo-pro``).

    Source: docs/providers/replicate.md, section 3.
    """

    endpoint: ClassVar[str] = "replicate/kling-v2-5-turbo-pro"
    model_name: ClassVar[str] = "kwaivgi/kling-v2.5-turbo-pro"

    prompt: Annotated[AnyPrompt, Field(description="What the video shows.")]
    duration: Annotated[Literal[5, 10], Field(description=_DURATION_HELP.format("5 or 10"))] = 5
    aspect_ratio: Annotated[AspectRatio, Field(description=_RATIO_HELP)] = "16:9"
    start_image: Annotated[Image | None, Field(description=_START_HELP)] = None
    end_image: Annotated[Image | None, Field(description=_END_HELP)] = None
    negative_prompt: Annotated[AnyPrompt | None, Field(description=_NEGATIVE_HELP)] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_start(self.start_image, self.end_image)
        return self


class V21Video(ReplicateRequest):
    """A video from an image by Kling 2.1 (``kwaivgi/kling-v2.1``).

    Source: docs/providers/replicate.md, section 3.
    """

    endpoint: ClassVar[str] = "replicate/kling-v2-1"
    model_name: ClassVar[str] = "kwaivgi/kling-v2.1"

    prompt: Annotated[AnyPrompt, Field(description="What the video shows.")]
    start_image: Annotated[Image, Field(description=_START_HELP)]
    duration: Annotated[Literal[5, 10], Field(description=_DURATION_HELP.format("5 or 10"))] = 5
    mode: Annotated[
        Literal["standard", "pro"], Field(description="`standard` (720p) or `pro` (1080p, dearer). Default standard.")
    ] = "standard"
    end_image: Annotated[Image | None, Field(description=_END_HELP + " It needs mode `pro`.")] = None
    negative_prompt: Annotated[AnyPrompt | None, Field(description=_NEGATIVE_HELP)] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.end_image is not None and self.mode != "pro":
            raise ValueError("end_image needs mode 'pro'")
        return self


class V20Video(ReplicateRequest):
    """A video by Kling 2.0 (``kwaivgi/kling-v2.0``). Source: docs/providers/replicate.md, section 3."""

    endpoint: ClassVar[str] = "replicate/kling-v2-0"
    model_name: ClassVar[str] = "kwaivgi/kling-v2.0"

    prompt: Annotated[AnyPrompt, Field(description="What the video shows.")]
    duration: Annotated[Literal[5, 10], Field(description=_DURATION_HELP.format("5 or 10"))] = 5
    aspect_ratio: Annotated[AspectRatio, Field(description=_RATIO_HELP)] = "16:9"
    start_image: Annotated[Image | None, Field(description=_START_HELP)] = None
    cfg_scale: Annotated[
        float, Field(ge=0, le=1, description="How closely the video follows the prompt, 0 to 1. Default 0.5.")
    ] = 0.5
    negative_prompt: Annotated[AnyPrompt | None, Field(description=_NEGATIVE_HELP)] = None


class LipSync(ReplicateRequest):
    """A video whose speaker's lips follow words or a sound (``kwaivgi/kling-lip-sync``).

    Give `speech` or `audio_file`. Source: docs/providers/replicate.md, section 3.
    """

    endpoint: ClassVar[str] = "replicate/kling-lip-sync"
    model_name: ClassVar[str] = "kwaivgi/kling-lip-sync"
    wire_names: ClassVar[Mapping[str, str]] = {"text": "speech", "webhook": "callback_url"}
    reference_fields: ClassVar[tuple[str, ...]] = ()

    video: Annotated[MediaUrl, Field(description="URL of the video that shows the speaker.")]
    speech: Annotated[Text | None, Field(description="The words that are spoken. Not with `audio_file`.")] = None
    audio_file: Annotated[MediaUrl | None, Field(description="URL of the sound that is spoken.")] = None
    voice_id: Annotated[Text | None, Field(description="The voice for `speech`, one of Replicate's list.")] = None
    voice_speed: Annotated[
        float | None, Field(gt=0, description="Speed of the voice. If None, Replicate's own default.")
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.speech is None) == (self.audio_file is None):
            raise ValueError("give speech or audio_file, and not both")
        return self


class Request(ReplicateRequest):
    """Any model on Replicate, unchecked: ``replicate.Request(model="owner/name", input={...})``.

    Nothing of the input is checked here. Put no secret into it, because Replicate lists the inputs of the account.
    """

    endpoint: ClassVar[str] = "replicate/model"
    reference_fields: ClassVar[tuple[str, ...]] = ()

    model: Annotated[
        str,
        Field(pattern=f"^{_MODEL.pattern}$", description="The model: `owner/name`, or `owner/name:version` (64 hex)."),
    ]
    input: Annotated[dict[str, JsonValue], Field(description="The model's input, as its page documents it.")]

    @property
    def target(self) -> str:
        """The model to run."""
        return self.model

    def model_input(self) -> dict[str, Any]:
        """The input as it was given."""
        return dict(self.input)

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """As given: the input belongs to the model."""
        return data

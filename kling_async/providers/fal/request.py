"""The requests that fal's Kling models serve."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetPydanticSchema, JsonValue, model_validator

from kling_async.providers._base.images import NO_IMAGES, ImageRule, OneImage, Reference, References
from kling_async.providers._base.request import AnyPrompt, as_number, plain_text
from kling_async.providers._base.request import Request as BaseRequest
from kling_async.providers.fal.models import (
    IMAGE_TO_VIDEO,
    MOTION_CONTROL,
    REFERENCE_TO_VIDEO,
    TEXT_TO_VIDEO,
    VIDEO_EDIT,
    VideoModel,
)

__all__ = [
    "Avatar",
    "Element",
    "FalRequest",
    "Image",
    "ImageToVideo",
    "LipSync",
    "MotionControl",
    "ReferenceToVideo",
    "Request",
    "Shot",
    "TextToVideo",
    "VideoEdit",
]

_MIB = 1024 * 1024
_FORMATS = ("jpeg", "png", "webp")
_IMAGE = ImageRule(formats=_FORMATS, most=1, max_bytes=10 * _MIB)
_SEVERAL = ImageRule(formats=_FORMATS, most=10, max_bytes=10 * _MIB)
_MENTION = re.compile(r"@(Image|Element|Video)(\d+)\b")
_MODEL = r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*){1,7}$"


def _web_address(value: str) -> str:
    if not value.startswith(("https://", "http://")):
        raise ValueError("a video, a sound and an element's image are given as http(s) URLs")
    return value


SingleImage: TypeAlias = Annotated[Reference, AfterValidator(OneImage(_IMAGE))]
MediaUrl: TypeAlias = Annotated[str, AfterValidator(plain_text), AfterValidator(_web_address)]
Text: TypeAlias = Annotated[str, Field(min_length=1), AfterValidator(plain_text)]
Tier: TypeAlias = Literal["standard", "pro"]
VideoRatio: TypeAlias = Literal["16:9", "9:16", "1:1"]
CfgScale: TypeAlias = Annotated[float, Field(ge=0, le=1)]


class Shot(BaseModel):
    """One shot of a video with several."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[AnyPrompt, Field(description="What the shot shows.")]
    duration: Annotated[int, Field(ge=1, le=15, description="Length of the shot in whole seconds.")]

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        return {**data, "duration": as_number(data.get("duration"))} if isinstance(data, Mapping) else data


class Element(BaseModel):
    """A character or thing that the prompt names ``@Element1``, ``@Element2`` ..., in the order of the list.

    Its images and its video are given as URLs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    frontal_image_url: Annotated[MediaUrl | None, Field(description="An image that shows it from the front.")] = None
    reference_image_urls: Annotated[
        Sequence[MediaUrl],
        GetPydanticSchema(lambda _, schema: schema(tuple[MediaUrl, ...])),
        Field(description="More images of it."),
    ] = ()
    video_url: Annotated[MediaUrl | None, Field(description="URL of a video of the character or thing.")] = None
    voice_id: Annotated[Text | None, Field(description="The voice with which it speaks.")] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.frontal_image_url is None and self.video_url is None:
            raise ValueError("an element needs a frontal_image_url or a video_url")
        return self

    def wire(self) -> dict[str, Any]:
        """The element as fal takes it."""
        return {name: value for name, value in dict(self).items() if value not in (None, ())}


# Given as any sequence, kept as a tuple, so that a request can be hashed.
Shots: TypeAlias = Annotated[Sequence[Shot], GetPydanticSchema(lambda _, schema: schema(tuple[Shot, ...]))]
Elements: TypeAlias = Annotated[Sequence[Element], GetPydanticSchema(lambda _, schema: schema(tuple[Element, ...]))]
Voices: TypeAlias = Annotated[Sequence[Text], GetPydanticSchema(lambda _, schema: schema(tuple[Text, ...]))]
Images: TypeAlias = Annotated[References, AfterValidator(_SEVERAL)]

# Descriptions that several classes share.
_TIER_HELP = "`{}`. The tier decides the resolution and the price. If None, the first of these that the model has."
_PROMPT_HELP = "What the video shows. Not together with `multi_prompt`."
_DURATION_HELP = "Length of the video in seconds: {}. With `multi_prompt` it defaults to the sum of the shots."
_RATIO_HELP = "Width to height of the video."
_AUDIO_HELP = (
    "Whether the video gets a sound track, which changes the price ({}). It is always sent, because fal's own default "
    "differs by model. If None, false."
)
_NEGATIVE_HELP = "What the video should not show ({})."
_CFG_HELP = "How closely the video follows the prompt, 0 to 1 ({}). If None, fal's own default, 0.5."
_SHOTS_HELP = "Several shots in place of `prompt` ({}). Their durations must add up to `duration`."
_SHOT_TYPE_HELP = "How fal cuts the shots ({})."
_START_HELP = "The first frame: JPEG, PNG or WebP, at most 10 MiB (unverified), as URL, path, bytes or data URI."
_END_HELP = "The last frame{}."
_REFERENCES_HELP = "Reference images, named `@Image1`, `@Image2` ... in the prompt.{}"
_ELEMENTS_HELP = "Elements, named `@Element1`, `@Element2` ... in the prompt.{}"
_VIDEO_HELP = "URL of the video{}."


class FalRequest(BaseRequest):
    """What the requests of all models have in common."""

    reference_fields: ClassVar[tuple[str, ...]] = ("start_image", "end_image", "references")
    image_fields: ClassVar[frozenset[str]] = frozenset(
        {"image_url", "start_image_url", "end_image_url", "tail_image_url", "image_urls"}
    )
    """fal's names of the fields that hold images."""
    wire_names: ClassVar[Mapping[str, str]] = {"fal_webhook": "callback_url"}
    models: ClassVar[Mapping[str, VideoModel]] = {}
    """What the models of this endpoint allow."""

    start_timeout: Annotated[float, Field(ge=1, le=86_400)] | None = Field(
        default=None,
        kw_only=True,
        description="Seconds within which fal must start the job. Otherwise the job fails, and nothing is billed. If "
        "None, it waits as long as it must.",
    )
    priority: Literal["normal", "low"] | None = Field(
        default=None,
        kw_only=True,
        description="Its priority in fal's queue. If None, fal's own default, normal.",
    )

    @classmethod
    def _own(cls) -> list[str]:
        return [name for name in super()._own() if name not in {"start_timeout", "priority"}]

    @classmethod
    def target_of(cls, fields: Mapping[str, Any]) -> str:
        """The full id of the model that a request with these fields runs."""
        return cls.models[fields["model"]].target(fields["tier"])

    @property
    def target(self) -> str:
        """The full id of the model, such as ``fal-ai/kling-video/v3/pro/text-to-video``."""
        return self.target_of(dict(self))

    def model_input(self) -> dict[str, Any]:
        """The model's input by fal's names, images as they were given. What changes the price is always in it."""
        raise NotImplementedError

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The fields, with the tier and the sound filled in: they are never left to a default of fal's."""
        data = super().translate(data)
        if "duration" in data:
            data["duration"] = as_number(data["duration"])
        if not cls.models:
            return data
        known = cls.models.get(str(data.get("model", cls.model_fields["model"].default)))
        if known is None:
            return data
        if data.get("tier") is None:
            data["tier"] = known.tiers[0]
        if "generate_audio" in cls.model_fields and data.get("generate_audio") is None:
            data.pop("generate_audio", None)
            if "generate_audio" in known.optional:
                data["generate_audio"] = False
        shots = data.get("multi_prompt")
        if data.get("duration") is None and isinstance(shots, list | tuple) and shots:
            lengths = [
                as_number(shot.get("duration")) if isinstance(shot, Mapping) else getattr(shot, "duration", None)
                for shot in shots
            ]
            if all(isinstance(length, int) for length in lengths):
                data["duration"] = sum(lengths)
        return data

    def _value(self, name: str) -> Any:
        """A field that not every class has. None where it is absent or empty."""
        value = getattr(self, name, None)
        return None if value == () else value

    def _check_model(self) -> VideoModel:
        """Check what depends on the model, and return what the model allows."""
        model, tier = self._value("model"), self._value("tier")
        known = self.models[model]
        if tier not in known.tiers:
            raise ValueError(f"tier is {tier!r}; {model} has {' and '.join(map(repr, known.tiers))} only")
        duration = self._value("duration")
        if duration is not None and duration not in known.seconds:
            allowed = "5 or 10" if len(known.seconds) == len((5, 10)) else f"{known.seconds[0]} to {known.seconds[-1]}"
            raise ValueError(f"duration is {duration}; {model} makes videos of {allowed} s")
        for name in _OF_SOME_MODELS & set(type(self).model_fields):
            if self._value(name) not in (None, False) and name not in known.optional and not self._everywhere(name):
                having = [other for other, one in self.models.items() if name in one.optional]
                raise ValueError(f"{name} is given; {model} has no such input, only {' and '.join(having)}")
        if self._value("end_image") is not None and known.end_tiers and tier not in known.end_tiers:
            raise ValueError(f"end_image is given; {model} takes one in tier {known.end_tiers[0]!r} only")
        images, elements = len(self._value("references") or ()), len(self._value("elements") or ())
        if known.most_inputs is not None and images + elements > known.most_inputs:
            raise ValueError(
                f"{images} reference images and {elements} elements were given; {model} takes at most "
                f"{known.most_inputs} together"
            )
        return known

    def _everywhere(self, name: str) -> bool:
        """Whether every model of this endpoint has the field."""
        return not any(name in known.optional for known in self.models.values())

    def _check_shots(self) -> None:
        shots: Sequence[Shot] = self._value("multi_prompt") or ()
        prompt = self._value("prompt")
        if (prompt is None) == (not shots):
            raise ValueError("give a prompt, or multi_prompt with at least one shot, and not both")
        total = sum(shot.duration for shot in shots)
        if shots and total != self._value("duration"):
            raise ValueError(
                f"the shots of multi_prompt last {total} s together, but duration is {self._value('duration')} s"
            )
        if self._value("shot_type") is not None and not shots:
            raise ValueError("shot_type needs multi_prompt")

    def _check_mentions(self, *, images: int, elements: int, videos: int = 0) -> None:
        """Refuse ``@Image2`` where only one image was given."""
        prompts = [self._value("prompt") or "", *(shot.prompt for shot in self._value("multi_prompt") or ())]
        given = {"Image": images, "Element": elements, "Video": videos}
        for kind, number in _MENTION.findall(" ".join(prompts)):
            if not 1 <= int(number) <= given[kind]:
                count = given[kind] or "no"
                raise ValueError(f"the prompt names @{kind}{number}, but {count} {kind.lower()}s were given")

    def _wire(self, **names: str) -> dict[str, Any]:
        """The fields that are given, as fal takes them: by these names, or by their own."""
        found: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = self._value(name)
            if value is None or name in _NO_INPUT:
                continue
            if name == "multi_prompt":
                # No source tells the type of a shot's duration. fal's durations are texts.
                value = [{"prompt": shot.prompt, "duration": str(shot.duration)} for shot in value]
            elif name == "elements":
                value = [element.wire() for element in value]
            elif isinstance(value, tuple):
                value = list(value)
            found[names.get(name, name)] = str(value) if name == "duration" else value
        return found


_OF_SOME_MODELS = frozenset(
    {
        "elements",
        "end_image",
        "generate_audio",
        "multi_prompt",
        "negative_prompt",
        "cfg_scale",
        "shot_type",
        "start_image",
        "voice_ids",
    }
)
_NO_INPUT = frozenset({"model", "tier", "callback_url", "start_timeout", "priority"})


class TextToVideo(FalRequest):
    """A video from words, by Kling on fal.

    Give `prompt`, or `multi_prompt` for several shots. Source: docs/providers/fal.md, section 3.
    """

    endpoint: ClassVar[str] = "fal/text-to-video"
    models: ClassVar[Mapping[str, VideoModel]] = TEXT_TO_VIDEO
    reference_fields: ClassVar[tuple[str, ...]] = ()

    prompt: Annotated[AnyPrompt | None, Field(description=_PROMPT_HELP)] = None
    model: Annotated[
        Literal["v3", "o3", "v2.6", "v2.5-turbo"], Field(description="`v3`, `o3`, `v2.6` or `v2.5-turbo`.")
    ] = "v3"
    tier: Annotated[
        Literal["standard", "pro", "4k"] | None,
        Field(description=_TIER_HELP.format("standard`, `pro` or (v3) `4k")),
    ] = None
    duration: Annotated[int, Field(description=_DURATION_HELP.format("3 to 15 (v2.6 and v2.5-turbo: 5 or 10)"))] = 5
    aspect_ratio: Annotated[VideoRatio, Field(description=_RATIO_HELP)] = "16:9"
    generate_audio: Annotated[bool | None, Field(description=_AUDIO_HELP.format("v3, o3 and v2.6"))] = None
    multi_prompt: Annotated[Shots, Field(description=_SHOTS_HELP.format("v3 and o3"))] = ()
    shot_type: Annotated[
        Literal["customize", "intelligent"] | None, Field(description=_SHOT_TYPE_HELP.format("v3 and o3"))
    ] = None
    negative_prompt: Annotated[AnyPrompt | None, Field(description=_NEGATIVE_HELP.format("not o3"))] = None
    cfg_scale: Annotated[CfgScale | None, Field(description=_CFG_HELP.format("not o3"))] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_model()
        self._check_shots()
        return self

    def model_input(self) -> dict[str, Any]:
        """The model's input by fal's names."""
        return self._wire()


class ImageToVideo(FalRequest):
    """A video that begins with an image, by Kling on fal.

    Give `prompt`, or `multi_prompt` for several shots. The video has the image's shape. Source: docs/providers/fal.md,
    section 3.
    """

    endpoint: ClassVar[str] = "fal/image-to-video"
    models: ClassVar[Mapping[str, VideoModel]] = IMAGE_TO_VIDEO
    wire_names: ClassVar[Mapping[str, str]] = {
        "image_url": "start_image",
        "start_image_url": "start_image",
        "end_image_url": "end_image",
        "tail_image_url": "end_image",
        "fal_webhook": "callback_url",
    }

    start_image: Annotated[SingleImage, Field(description=_START_HELP)]
    prompt: Annotated[AnyPrompt | None, Field(description=_PROMPT_HELP)] = None
    end_image: Annotated[SingleImage | None, Field(description=_END_HELP.format(" (v2.5-turbo: tier pro only)"))] = None
    model: Annotated[
        Literal["v3", "o3", "o1", "v2.6", "v2.5-turbo"],
        Field(description="`v3`, `o3`, `o1`, `v2.6` or `v2.5-turbo`."),
    ] = "v3"
    tier: Annotated[
        Literal["standard", "pro", "4k"] | None,
        Field(description=_TIER_HELP.format("standard`, `pro` or (v3) `4k")),
    ] = None
    duration: Annotated[
        int, Field(description=_DURATION_HELP.format("3 to 15 (o1: 3 to 10; v2.6 and v2.5-turbo: 5 or 10)"))
    ] = 5
    generate_audio: Annotated[bool | None, Field(description=_AUDIO_HELP.format("v3, o3 and v2.6"))] = None
    elements: Annotated[Elements, Field(description=_ELEMENTS_HELP.format(" Only v3."))] = ()
    voice_ids: Annotated[Voices, Field(max_length=2, description="Up to 2 voices. Only v2.6.")] = ()
    multi_prompt: Annotated[Shots, Field(description=_SHOTS_HELP.format("v3 and o3"))] = ()
    shot_type: Annotated[
        Literal["customize", "intelligent"] | None, Field(description=_SHOT_TYPE_HELP.format("v3 and o3"))
    ] = None
    negative_prompt: Annotated[AnyPrompt | None, Field(description=_NEGATIVE_HELP.format("v3 and v2.5-turbo"))] = None
    cfg_scale: Annotated[CfgScale | None, Field(description=_CFG_HELP.format("v3 and v2.5-turbo"))] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_model()
        self._check_shots()
        if self.model == "v3":
            self._check_mentions(images=0, elements=len(self.elements))
        return self

    def model_input(self) -> dict[str, Any]:
        """The model's input by fal's names."""
        known = self.models[self.model]
        return self._wire(start_image=known.start, end_image=known.end)


class ReferenceToVideo(FalRequest):
    """A video with the people and things of reference images, by Kling on fal.

    Give `prompt`, or (o3) `multi_prompt` for several shots. Source: docs/providers/fal.md, section 3.
    """

    endpoint: ClassVar[str] = "fal/reference-to-video"
    models: ClassVar[Mapping[str, VideoModel]] = REFERENCE_TO_VIDEO
    wire_names: ClassVar[Mapping[str, str]] = {
        "image_urls": "references",
        "start_image_url": "start_image",
        "end_image_url": "end_image",
        "fal_webhook": "callback_url",
    }

    prompt: Annotated[AnyPrompt | None, Field(description=_PROMPT_HELP)] = None
    references: Annotated[Images, Field(description=_REFERENCES_HELP.format(" With `elements` at most 7 (o1)."))] = (
        NO_IMAGES
    )
    elements: Annotated[Elements, Field(description=_ELEMENTS_HELP.format(""))] = ()
    model: Annotated[Literal["o3", "o1"], Field(description="Generation of the model: `o3` or `o1`.")] = "o3"
    tier: Annotated[Tier | None, Field(description=_TIER_HELP.format("standard` or `pro"))] = None
    duration: Annotated[int, Field(description=_DURATION_HELP.format("3 to 15 (o1: 3 to 10)"))] = 5
    aspect_ratio: Annotated[VideoRatio, Field(description=_RATIO_HELP)] = "16:9"
    generate_audio: Annotated[bool | None, Field(description=_AUDIO_HELP.format("o3"))] = None
    start_image: Annotated[SingleImage | None, Field(description=f"{_START_HELP} Only o3.")] = None
    end_image: Annotated[SingleImage | None, Field(description=_END_HELP.format(" (o3)"))] = None
    multi_prompt: Annotated[Shots, Field(description=_SHOTS_HELP.format("o3"))] = ()
    shot_type: Annotated[
        Literal["customize", "intelligent"] | None, Field(description=_SHOT_TYPE_HELP.format("o3"))
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_model()
        self._check_shots()
        if self.model == "o1" and not (self.references or self.elements):
            raise ValueError("give references or elements; for a video from words alone there is fal.TextToVideo")
        self._check_mentions(images=len(self.references), elements=len(self.elements))
        return self

    def model_input(self) -> dict[str, Any]:
        """The model's input by fal's names."""
        return self._wire(references="image_urls", start_image="start_image_url", end_image="end_image_url")


class VideoEdit(FalRequest):
    """A video made from another one, by Kling on fal.

    The given video is ``@Video1`` in the prompt. Source: docs/providers/fal.md, section 3.
    """

    endpoint: ClassVar[str] = "fal/video-edit"
    models: ClassVar[Mapping[str, VideoModel]] = VIDEO_EDIT
    wire_names: ClassVar[Mapping[str, str]] = {
        "image_urls": "references",
        "video_url": "video",
        "fal_webhook": "callback_url",
    }

    prompt: Annotated[AnyPrompt, Field(description="What the video shows, or what changes in it.")]
    video: Annotated[MediaUrl, Field(description=_VIDEO_HELP.format(" that is edited or taken as a reference"))]
    mode: Annotated[
        Literal["edit", "reference"],
        Field(description="`edit` changes the video. `reference` makes a new one with its look or motion."),
    ] = "edit"
    model: Annotated[Literal["o3", "o1"], Field(description="Generation of the model: `o3` or `o1`.")] = "o3"
    tier: Annotated[Tier | None, Field(description=_TIER_HELP.format("standard` or `pro"))] = None
    references: Annotated[Images, Field(description=_REFERENCES_HELP.format(" With `elements` at most 4."))] = NO_IMAGES
    elements: Annotated[Elements, Field(description=_ELEMENTS_HELP.format(""))] = ()
    keep_audio: Annotated[
        bool | None,
        Field(description="Whether the video's own sound is kept. If None, fal's own default (o3: it is kept)."),
    ] = None
    duration: Annotated[
        int | None,
        Field(description="Length in seconds, only with mode `reference` (unverified). If None, fal's own default."),
    ] = None
    aspect_ratio: Annotated[
        Literal["auto", "16:9", "9:16", "1:1"] | None,
        Field(description="Shape, only with mode `reference` (unverified). If None, fal's own default."),
    ] = None

    @classmethod
    def target_of(cls, fields: Mapping[str, Any]) -> str:
        """The full id of the model that a request with these fields runs."""
        return f"{super().target_of(fields)}/{fields['mode']}"

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_model()
        if self.mode == "edit" and (self.duration is not None or self.aspect_ratio is not None):
            raise ValueError("duration and aspect_ratio need mode 'reference'; an edited video keeps its own")
        self._check_mentions(images=len(self.references), elements=len(self.elements), videos=1)
        return self

    def model_input(self) -> dict[str, Any]:
        """The model's input by fal's names."""
        given = self._wire(references="image_urls", video="video_url")
        del given["mode"]
        return given


class MotionControl(FalRequest):
    """A video in which the person of an image moves as in another video, by Kling on fal.

    Source: docs/providers/fal.md, section 3.
    """

    endpoint: ClassVar[str] = "fal/motion-control"
    models: ClassVar[Mapping[str, VideoModel]] = MOTION_CONTROL
    reference_fields: ClassVar[tuple[str, ...]] = ("reference",)
    wire_names: ClassVar[Mapping[str, str]] = {
        "image_url": "reference",
        "video_url": "motion_video",
        "fal_webhook": "callback_url",
    }

    reference: Annotated[SingleImage, Field(description=f"The person. {_START_HELP.partition(': ')[2]}")]
    motion_video: Annotated[MediaUrl, Field(description=_VIDEO_HELP.format(" that shows the motion"))]
    character_orientation: Annotated[
        Literal["image", "video"],
        Field(description="Whether the person looks as in the image (`reference`) or as in the `motion_video`."),
    ]
    prompt: Annotated[AnyPrompt | None, Field(description="What the video shows besides the motion.")] = None
    model: Annotated[Literal["v3", "v2.6"], Field(description="Generation of the model: `v3` or `v2.6`.")] = "v3"
    tier: Annotated[Tier | None, Field(description=_TIER_HELP.format("standard` or `pro"))] = None
    keep_original_sound: Annotated[bool, Field(description="Whether the sound of the video is kept.")] = True
    elements: Annotated[Elements, Field(description=_ELEMENTS_HELP.format(" At most 1, only v3."))] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._check_model()
        return self

    def model_input(self) -> dict[str, Any]:
        """The model's input by fal's names."""
        return self._wire(reference="image_url", motion_video="video_url")


class Image(FalRequest):
    """Images from words, or from reference images, by Kling on fal.

    Without `references`, o3 and v3 make images from words alone. Source: docs/providers/fal.md, section 3.
    """

    endpoint: ClassVar[str] = "fal/image"
    wire_names: ClassVar[Mapping[str, str]] = {
        "image_urls": "references",
        "image_url": "references",
        "num_images": "count",
        "series_amount": "series",
        "fal_webhook": "callback_url",
    }

    prompt: Annotated[AnyPrompt, Field(description="What the image shows.")]
    references: Annotated[
        Images, Field(description=_REFERENCES_HELP.format(" Up to 10; o1 needs one; v3 takes at most one."))
    ] = NO_IMAGES
    model: Annotated[Literal["o3", "o1", "v3"], Field(description="`o3`, `o1` or `v3`.")] = "o3"
    resolution: Annotated[Literal["1k", "2k", "4k"], Field(description="`1k`, `2k` or (o3) `4k`.")] = "1k"
    count: Annotated[int, Field(ge=1, le=9, description="How many images. Each one is billed.")] = 1
    series: Annotated[
        int | None,
        Field(ge=2, le=9, description="Make a series of so many images that belong together (o3). Not with `count`."),
    ] = None
    aspect_ratio: Annotated[
        Literal["auto", "16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9"] | None,
        Field(
            description="Width to height. `auto` takes that of the references (o1 and o3). If None, `auto` where that "
            "is allowed, else 16:9."
        ),
    ] = None
    output_format: Annotated[Literal["png", "jpeg", "webp"], Field(description="Format of the files.")] = "png"
    elements: Annotated[Elements, Field(description=_ELEMENTS_HELP.format(""))] = ()
    negative_prompt: Annotated[
        AnyPrompt | None, Field(description="What the image should not show (v3 without references).")
    ] = None

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """What fal calls the fields, in our names, with the ratio filled in."""
        if isinstance(data.get("resolution"), str):
            data["resolution"] = data["resolution"].lower()
        if data.get("result_type") in {"single", "series"}:
            data.pop("result_type")
        data = super().translate(data)
        if data.get("aspect_ratio") is None:
            auto = data.get("references") and data.get("model", "o3") != "v3"
            data["aspect_ratio"] = "auto" if auto else "16:9"
        return data

    @classmethod
    def target_of(cls, fields: Mapping[str, Any]) -> str:
        """The full id of the model that a request with these fields runs."""
        if fields["model"] == "o1":
            return "fal-ai/kling-image/o1"
        return f"fal-ai/kling-image/{fields['model']}/{'image' if fields.get('references') else 'text'}-to-image"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model == "o1" and not self.references:
            raise ValueError("o1 makes no images from words alone; give references, or take model 'o3' or 'v3'")
        if self.model == "v3" and len(self.references) > 1:
            raise ValueError(f"{len(self.references)} reference images were given; v3 takes at most one")
        if self.resolution == "4k" and self.model != "o3":
            raise ValueError("resolution is '4k'; only o3 has it")
        if self.aspect_ratio == "auto" and (self.model == "v3" or not self.references):
            raise ValueError("aspect_ratio is 'auto'; that needs references and model 'o1' or 'o3'")
        if self.negative_prompt is not None and (self.model != "v3" or self.references):
            raise ValueError("negative_prompt is for model 'v3' without references")
        if self.series is not None and (self.model != "o3" or self.count != 1):
            raise ValueError("series is for model 'o3', and takes the place of count")
        self._check_mentions(images=len(self.references), elements=len(self.elements))
        return self

    def model_input(self) -> dict[str, Any]:
        """The model's input by fal's names."""
        given = self._wire(references="image_urls", count="num_images", series="series_amount")
        given["resolution"] = self.resolution.upper()
        if self.model == "v3" and self.references:
            [given["image_url"]] = given.pop("image_urls")
        if self.model == "o3":
            given["result_type"] = "single" if self.series is None else "series"
        if self.series is not None:  # fal ignores the count then
            del given["num_images"]
        return given


class Avatar(FalRequest):
    """A video of a person who speaks a given sound, by Kling on fal.

    Sources: docs/providers/fal.md, section 3, and fal's page of the model.
    """

    endpoint: ClassVar[str] = "fal/avatar"
    reference_fields: ClassVar[tuple[str, ...]] = ("reference",)
    wire_names: ClassVar[Mapping[str, str]] = {
        "image_url": "reference",
        "audio_url": "sound",
        "fal_webhook": "callback_url",
    }

    reference: Annotated[SingleImage, Field(description=f"The person. {_START_HELP.partition(': ')[2]}")]
    sound: Annotated[
        MediaUrl, Field(description="URL of the sound that is spoken. It decides the length of the video.")
    ]
    prompt: Annotated[AnyPrompt | None, Field(description="What the person does besides speaking.")] = None
    model: Annotated[Literal["v2"], Field(description="Generation of the model: `v2`.")] = "v2"
    tier: Annotated[Tier, Field(description="`standard` or `pro`. The tier decides the resolution and the price.")] = (
        "standard"
    )

    @classmethod
    def target_of(cls, fields: Mapping[str, Any]) -> str:
        """The full id of the model that a request with these fields runs."""
        return f"fal-ai/kling-video/ai-avatar/{fields['model']}/{fields['tier']}"

    def model_input(self) -> dict[str, Any]:
        """The model's input by fal's names."""
        return self._wire(reference="image_url", sound="audio_url")


class LipSync(FalRequest):
    """A video whose speaker's lips follow words or a sound, by Kling on fal.

    Give `speech` and `voice_id`, or `sound`. The names of the fields are those of fal's model pages (unverified).
    """

    endpoint: ClassVar[str] = "fal/lip-sync"
    reference_fields: ClassVar[tuple[str, ...]] = ()
    wire_names: ClassVar[Mapping[str, str]] = {
        "video_url": "video",
        "audio_url": "sound",
        "text": "speech",
        "fal_webhook": "callback_url",
    }

    video: Annotated[MediaUrl, Field(description=_VIDEO_HELP.format(" that shows the speaker"))]
    speech: Annotated[Text | None, Field(description="The words that are spoken. Not with `sound`.")] = None
    sound: Annotated[MediaUrl | None, Field(description="URL of the sound that is spoken.")] = None
    voice_id: Annotated[Text | None, Field(description="The voice for `speech`, one of fal's list.")] = None
    voice_language: Annotated[
        Literal["en", "zh"] | None, Field(description="Language of the voice. If None, fal's own default.")
    ] = None
    voice_speed: Annotated[
        float | None, Field(ge=0.8, le=2, description="Speed of the voice, 0.8 to 2. If None, fal's own default.")
    ] = None

    @classmethod
    def target_of(cls, fields: Mapping[str, Any]) -> str:
        """The full id of the model that a request with these fields runs."""
        return f"fal-ai/kling-video/lipsync/{'audio' if fields.get('sound') else 'text'}-to-video"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.speech is None) == (self.sound is None):
            raise ValueError("give speech or sound, and not both")
        voice = (self.voice_id, self.voice_language, self.voice_speed)
        if self.speech is None and any(value is not None for value in voice):
            raise ValueError("voice_id, voice_language and voice_speed need speech")
        if self.speech is not None and self.voice_id is None:
            raise ValueError("speech needs a voice_id")
        return self

    def model_input(self) -> dict[str, Any]:
        """The model's input by fal's names."""
        return self._wire(video="video_url", sound="audio_url", speech="text")


class Request(FalRequest):
    """Any model on fal, unchecked: ``fal.Request(model="fal-ai/...", input={...})``.

    Nothing of the input is checked here, and its files must be URLs. Put no secret into it, because fal lists the
    inputs of the account.
    """

    endpoint: ClassVar[str] = "fal/model"
    reference_fields: ClassVar[tuple[str, ...]] = ()
    image_fields: ClassVar[frozenset[str]] = frozenset()
    wire_names: ClassVar[Mapping[str, str]] = {}

    model: Annotated[
        str,
        Field(
            pattern=_MODEL,
            max_length=150,
            description="The full id of the model, such as `fal-ai/kling-video/v3/pro/text-to-video`.",
        ),
    ]
    input: Annotated[dict[str, JsonValue], Field(description="The model's input, as its page documents it.")]

    @classmethod
    def target_of(cls, fields: Mapping[str, Any]) -> str:
        """The full id of the model that a request with these fields runs."""
        return str(fields["model"])

    def model_input(self) -> dict[str, Any]:
        """The input as it was given."""
        return dict(self.input)

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """As given: the input belongs to the model."""
        return data

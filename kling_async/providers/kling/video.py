"""The requests of Kling's new generation: text, image and omni to video, and motion control."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    StringConstraints,
    model_validator,
)

from kling_async.providers._base.images import NO_IMAGES, Reference, References
from kling_async.providers._base.request import AnyPrompt, Request, as_number
from kling_async.providers.kling.media import NEW_BYTES, NewImage, VideoUrl, images, wire
from kling_async.providers.kling.models import LONG_PROMPT, VIDEO_MODELS, VideoModel, others, require, unknown_model
from kling_async.providers.kling.native import decode_media, unpack_new

__all__ = ["Element", "ImageToVideo", "MotionControl", "OmniVideo", "TextToVideo", "VideoRequest", "Voice"]

Setting: TypeAlias = Literal["resolution", "duration", "aspect_ratio", "audio", "multi_shot"]
LongPrompt: TypeAlias = Annotated[AnyPrompt, StringConstraints(max_length=LONG_PROMPT)]
Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^\w[\w-]*$", max_length=64)]
Id: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=128)]
ModelName: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=64)]
Seconds: TypeAlias = Annotated[int, Field(ge=1, le=60), BeforeValidator(as_number)]
Ratio: TypeAlias = Literal["16:9", "9:16", "1:1"]


_SHOT = re.compile(r"\s*shot\s+(\d+)\s*,\s*(\d+)\s*,\s*([^;]*);?", re.IGNORECASE)
_FIRST_SHOT = re.compile(r"\s*shot\s+1\s*,\s*\d+\s*,", re.IGNORECASE)
_MENTION = re.compile(r"(?<![\w.@])@(\w[\w-]*)")
_MOST_SHOTS = 6
_SHOT_WORDS = 512
_LIMITED_BY_MODEL = ("resolution", "duration", "audio", "multi_shot")


def _omitted(data: Mapping[str, Any]) -> Sequence[Any]:
    """The settings that are not sent. What is no list is refused later, with its own message."""
    found = data.get("omit")
    return found if isinstance(found, list | tuple) else ()


class Element(BaseModel):
    """An element of the account, such as a character or a thing, under the name that the prompt uses for it.

    Args:
        id: The element's id, from `client.kling.elements`.
        name: Its name in the prompt, where it is written ``@name``.
        video_character: Whether it is a character made from a video. Other limits hold for these, and Kling's answer
            about an element does not say it in a documented way.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[Id, Field(description="The element's id, from the account's elements.")]
    name: Annotated[Name, Field(description="Its name in the prompt, where it is written @name.")]
    video_character: Annotated[bool, Field(description="Whether it is a character made from a video.")] = False


class Voice(BaseModel):
    """A voice under the name that the prompt uses for it.

    Args:
        id: The voice's id, from `client.kling.voices`.
        name: Its name in the prompt, where it is written ``@name``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[Id, Field(description="The voice's id, from the account's voices.")]
    name: Annotated[Name, Field(description="Its name in the prompt, where it is written @name.")]


# Given as any sequence, kept as a tuple, so that a request can be hashed.
Elements: TypeAlias = Annotated[Sequence[Element], GetPydanticSchema(lambda _, schema: schema(tuple[Element, ...]))]
Voices: TypeAlias = Annotated[Sequence[Voice], GetPydanticSchema(lambda _, schema: schema(tuple[Voice, ...]))]
Names: TypeAlias = Annotated[Sequence[Name], GetPydanticSchema(lambda _, schema: schema(tuple[Name, ...]))]
Settings: TypeAlias = Annotated[Sequence[Setting], GetPydanticSchema(lambda _, schema: schema(tuple[Setting, ...]))]


class VideoRequest(Request):
    """What the requests of the new generation have in common.

    They are also made from Kling's own JSON (``contents``, ``settings``, ``options``) with `model` beside it. What that
    JSON leaves out has the defaults of these classes, not Kling's.
    """

    product: ClassVar[str]
    """The first segment of the path, and the key in `VIDEO_MODELS`."""
    content_fields: ClassVar[Mapping[str, str]] = {"prompt": "prompt"}
    """The field for each type of item in ``contents``."""
    name_fields: ClassVar[Mapping[str, str]] = {}
    """The field for the name of a single item, by its type."""

    @classmethod
    def known_values(cls, name: str) -> Sequence[Any]:
        """The models that this version knows."""
        return tuple(VIDEO_MODELS[cls.product]) if name == "model" else ()

    @classmethod
    def limits(cls, model: object) -> VideoModel | None:
        """What the model allows. None if this version does not know the model."""
        return VIDEO_MODELS[cls.product].get(str(model))

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The fields, with those that change the price filled in: they are never left to Kling's default."""
        if not data.keys().isdisjoint({"contents", "settings", "options"}):
            data = unpack_new(data, cls.content_fields, cls.name_fields)
        data = super().translate(data)
        data |= {name: decode_media(data[name]) for name in cls.reference_fields if data.get(name) is not None}
        model = data.get("model", cls.model_fields["model"].default)
        known = cls.limits(model)
        omitted = _omitted(data)
        if cls._has("audio") and data.get("audio") is None and "audio" not in omitted:
            if known is None or known.audio:
                data["audio"] = cls.quiet(data)
            else:
                data.pop("audio", None)
        if cls._has("multi_shot") and data.get("multi_shot") is None and "multi_shot" not in omitted:
            if known is None or known.multi_shot:
                data["multi_shot"] = cls.wants_shots(data)
            else:
                data.pop("multi_shot", None)
        return data

    @classmethod
    def _has(cls, name: str) -> bool:
        return name in cls.model_fields

    @classmethod
    def quiet(cls, data: Mapping[str, Any]) -> str:
        """The value of `audio` where none is given."""
        del data
        return "off"

    @classmethod
    def wants_shots(cls, data: Mapping[str, Any]) -> bool:
        """The value of `multi_shot` where none is given: whether the prompt lists shots."""
        return bool(_FIRST_SHOT.match(str(data.get("prompt") or "")))

    def value(self, name: str) -> Any:
        """A field that not every class has. None where it is absent."""
        return getattr(self, name, None)

    @property
    def known(self) -> VideoModel | None:
        """What its model allows. None if this version does not know the model."""
        return self.limits(self.value("model"))

    def named(self) -> Iterator[str]:
        """The names that the prompt may use, as ``@name``."""
        yield from ()

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        known = self.known
        if known is None:
            unknown_model(self.endpoint, self.value("model"), tuple(VIDEO_MODELS[self.product]))
            return self
        if self.value("omit"):
            raise ValueError(
                f"omit is for models that this version does not know; {self.value('model')} gets all its settings, "
                "because they change the price"
            )
        self._check_settings(known)
        self._check_prompt(known)
        self._check_inputs(known)
        return self

    def _check_settings(self, known: VideoModel) -> None:
        require(
            "resolution",
            self.value("resolution"),
            self.value("model"),
            known.resolutions,
            others(self.product, lambda model: model.resolutions),
        )
        if self._has("duration"):
            require(
                "duration",
                self.value("duration"),
                self.value("model"),
                known.durations,
                others(self.product, lambda m: m.durations),
            )
        if self.value("audio") is not None:
            require(
                "audio", self.value("audio"), self.value("model"), known.audio, others(self.product, lambda m: m.audio)
            )
        if self._has("multi_shot") and self.value("multi_shot") is not None and not known.multi_shot:
            require(
                "multi_shot",
                self.value("multi_shot"),
                self.value("model"),
                (),
                others(self.product, lambda m: (True, False)[: 2 * m.multi_shot]),
            )

    def _check_prompt(self, known: VideoModel) -> None:
        prompt = self.value("prompt") or ""
        if len(prompt) > known.prompt:
            fitting = [name for name, model in VIDEO_MODELS[self.product].items() if model.prompt >= len(prompt)]
            elsewhere = f" ({', '.join(fitting)} takes more)" if fitting else ""
            raise ValueError(
                f"prompt has {len(prompt)} characters; {self.value('model')} allows at most {known.prompt}{elsewhere}"
            )
        if "<<<" in prompt:
            raise ValueError(
                "prompt has a reference such as <<<image_1>>>, which is the form of the image endpoints; "
                f"here an input is named @{next(self.named(), 'name')}"
            )
        names = list(self.named())
        _check_names(names)
        for mention in _MENTION.finditer(prompt):
            if not any(mention[1].startswith(name) for name in names):
                inputs = f"the inputs are {', '.join('@' + name for name in names)}" if names else "there are none"
                raise ValueError(
                    f"prompt names @{mention[1]}, and no input has that name ({inputs}); Kling reads every @word as "
                    "the name of an input"
                )
        if self._has("duration") and (known.multi_shot or self.value("model") == "kling-3.0-turbo"):
            self._check_shots(prompt)

    def _check_shots(self, prompt: str) -> None:
        if self.value("multi_shot") is False or not _FIRST_SHOT.match(prompt):
            return
        shots = [(int(match[1]), int(match[2]), match[3].strip()) for match in _SHOT.finditer(prompt)]
        if len(shots) > _MOST_SHOTS:
            raise ValueError(f"prompt has {len(shots)} shots; at most {_MOST_SHOTS} are allowed")
        if [number for number, _, _ in shots] != list(range(1, len(shots) + 1)):
            raise ValueError(f"prompt numbers its shots {[number for number, _, _ in shots]}; they must be 1, 2, 3 ...")
        for number, seconds, words in shots:
            if seconds < 1:
                raise ValueError(f"shot {number} of the prompt lasts {seconds} s; at least 1 s is allowed")
            if len(words) > _SHOT_WORDS:
                raise ValueError(f"shot {number} of the prompt has {len(words)} characters; at most {_SHOT_WORDS}")
        total = sum(seconds for _, seconds, _ in shots)
        if total != self.value("duration"):
            raise ValueError(
                f"the shots of the prompt last {total} s together, but duration is {self.value('duration')}"
            )

    def _check_inputs(self, known: VideoModel) -> None:
        """Check what is particular to the product."""

    def settings(self) -> dict[str, Any]:
        """The ``settings`` object of the body."""
        names = ("resolution", "duration", "aspect_ratio", "audio", "multi_shot", "character_orientation")
        found = {name: getattr(self, name) for name in names if self._has(name) and name not in self.value("omit")}
        return {name: value for name, value in found.items() if value is not None}

    def contents(self) -> list[dict[str, Any]]:
        """The ``contents`` list of the body. Empty for text to video."""
        return []


def _check_names(names: list[str]) -> None:
    for position, one in enumerate(names):
        for place, other in enumerate(names):
            if position < place and one == other:
                raise ValueError(f"two inputs have the name {one!r}; each needs its own")
            if position != place and one != other and one in other:
                raise ValueError(
                    f"the name {one!r} is a part of the name {other!r}, so that @{other} could mean either; rename one"
                )


class TextToVideo(VideoRequest):
    """One clip from words, by Kling's own API.

    Source: ``kling.ai/document-api``, the pages "3.0 turbo", "3.0", "2.6" and "2.5 turbo", text to video.

    Args:
        prompt: Up to 3 072 characters (``kling-2.6`` and ``kling-2.5-turbo``: 2 500). Several shots are written
            ``shot 1, 3, words; shot 2, 2, words;``: at most 6, whose seconds add up to `duration`.
        model: ``kling-3.0``, ``kling-3.0-turbo``, ``kling-2.6`` or ``kling-2.5-turbo``. Another name is passed on with
            a warning, and its limits are not checked.
        resolution: ``720p``, ``1080p`` or (``kling-3.0``) ``4k``.
        duration: Seconds: 3 to 15 (``kling-2.6`` and ``kling-2.5-turbo``: 5 or 10).
        aspect_ratio: ``16:9``, ``9:16`` or ``1:1``.
        audio: ``off`` or ``native`` (``kling-2.6``: only at 1080p). ``kling-3.0-turbo`` always makes sound and
            ``kling-2.5-turbo`` never, so they have no such setting. If None, ``off``.
        multi_shot: Whether ``kling-3.0`` cuts the clip into shots. If None, only where the prompt lists shots. Kling's
            own default is true.
        watermark: Whether to make a version with a watermark as well.
        omit: Settings that are not sent, for a model that this version does not know.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/text-to-video"
    product: ClassVar[str] = "text-to-video"

    prompt: LongPrompt
    model: ModelName = "kling-3.0"
    resolution: Literal["720p", "1080p", "4k"] = "720p"
    duration: Seconds = 5
    aspect_ratio: Ratio = "16:9"
    audio: Literal["native", "off"] | None = None
    multi_shot: bool | None = None
    watermark: bool = False
    omit: Settings = ()

    def _check_inputs(self, known: VideoModel) -> None:
        del known
        _check_native(self.model, self.audio, self.resolution)


def _check_native(model: str, audio: str | None, resolution: str) -> None:
    if model == "kling-2.6" and audio == "native" and resolution != "1080p":
        raise ValueError(f"resolution is {resolution!r}; kling-2.6 makes sound (audio 'native') only at 1080p")


class ImageToVideo(VideoRequest):
    """One clip that begins with an image, and may end with one, by Kling's own API.

    Source: ``kling.ai/document-api``, the pages "3.0 turbo", "3.0", "2.6" and "2.5 turbo", image to video.

    Args:
        prompt: Up to 3 072 characters (``kling-2.6`` and ``kling-2.5-turbo``: 2 500).
        first_frame: The image that the clip begins with (JPEG or PNG, up to 50 MB, 300 pixels a side or more).
        last_frame: The image that it ends with.
        model: ``kling-3.0``, ``kling-3.0-turbo``, ``kling-2.6`` or ``kling-2.5-turbo``. Another name is passed on with
            a warning, and its limits are not checked.
        resolution: ``720p``, ``1080p`` or (``kling-3.0``) ``4k``. ``kling-2.6`` with both frames: 1080p.
        duration: Seconds: 3 to 15 (``kling-2.6`` and ``kling-2.5-turbo``: 5 or 10).
        audio: ``off`` or ``native``. Same as `TextToVideo`. ``kling-2.6`` with both frames is silent (sources
            disagree).
        multi_shot: Same as `TextToVideo`.
        elements: Up to 3, ``kling-3.0`` only (unverified).
        voices: Up to 2, ``kling-2.6`` only, with sound at 1080p.
        first_frame_name: A name for the first frame, for ``@name`` in the prompt.
        last_frame_name: The same for the last frame.
        watermark: Whether to make a version with a watermark as well.
        omit: Settings that are not sent, for a model that this version does not know.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/image-to-video"
    product: ClassVar[str] = "image-to-video"
    reference_fields: ClassVar[tuple[str, ...]] = ("first_frame", "last_frame")
    content_fields: ClassVar[Mapping[str, str]] = {
        "prompt": "prompt",
        "first_frame": "first_frame",
        "last_frame": "last_frame",
        "element": "elements",
        "voice": "voices",
    }
    name_fields: ClassVar[Mapping[str, str]] = {"first_frame": "first_frame_name", "last_frame": "last_frame_name"}

    prompt: LongPrompt
    first_frame: NewImage
    last_frame: NewImage | None = None
    model: ModelName = "kling-3.0"
    resolution: Literal["720p", "1080p", "4k"] = "720p"
    duration: Seconds = 5
    audio: Literal["native", "off"] | None = None
    multi_shot: bool | None = None
    elements: Elements = ()
    voices: Voices = ()
    first_frame_name: Name | None = None
    last_frame_name: Name | None = None
    watermark: bool = False
    omit: Settings = ()

    def named(self) -> Iterator[str]:
        """The frames that have a name, the elements and the voices."""
        yield from _given(self.first_frame_name, self.last_frame_name)
        yield from (element.name for element in self.elements)
        yield from (voice.name for voice in self.voices)

    def _check_inputs(self, known: VideoModel) -> None:
        _check_named(self, "last_frame")
        _check_native(self.model, self.audio, self.resolution)
        _check_number("elements", len(self.elements), self.model, known.elements)
        _check_number("voices", len(self.voices), self.model, known.voices)
        if self.model == "kling-2.6" and self.last_frame is not None:
            if self.resolution != "1080p":
                raise ValueError(f"resolution is {self.resolution!r}; kling-2.6 takes a last frame only at 1080p")
            if self.audio == "native":
                raise ValueError("audio is 'native'; kling-2.6 takes a last frame only without sound")
        if self.voices and (self.audio == "off" or self.resolution != "1080p"):
            raise ValueError("voices need audio='native' and resolution='1080p'")

    def contents(self) -> list[dict[str, Any]]:
        """Words, frames, elements and voices."""
        return [
            _words(self.prompt),
            *_frames(self),
            *_elements(self.elements),
            *({"type": "voice", "voice_id": voice.id, "id": voice.name} for voice in self.voices),
        ]


def _check_number(name: str, given: int, model: str, most: int) -> None:
    if given > most:
        allowed = f"at most {most}" if most else "none"
        raise ValueError(f"{name} has {given}; {model} takes {allowed}")


def _words(prompt: str) -> dict[str, Any]:
    return {"type": "prompt", "text": prompt}


def _given(*names: str | None) -> Iterator[str]:
    yield from (name for name in names if name is not None)


def _check_named(request: VideoRequest, *inputs: str) -> None:
    for name in inputs:
        if request.value(f"{name}_name") is not None and request.value(name) is None:
            raise ValueError(f"{name}_name is {request.value(f'{name}_name')!r}, and there is no {name} to name")


def _frames(request: ImageToVideo | OmniVideo) -> Iterator[dict[str, Any]]:
    yield from _single("first_frame", request.first_frame, request.first_frame_name)
    yield from _single("last_frame", request.last_frame, request.last_frame_name)


def _single(kind: str, content: Reference | None, name: str | None) -> Iterator[dict[str, Any]]:
    if content is not None:
        yield {"type": kind, "url": wire(content), **({} if name is None else {"id": name})}


def _elements(elements: Sequence[Element]) -> Iterator[dict[str, Any]]:
    for element in elements:
        yield {"type": "element", "element_id": element.id, "id": element.name}


class OmniVideo(VideoRequest):
    """One clip from words, reference images, elements, frames or one video, by Kling's own API.

    Source: ``kling.ai/document-api``, the pages "3.0 omni" and "O1", and the capability map of videos.

    Args:
        prompt: Up to 3 072 characters (``kling-o1``: 2 500). It names the inputs: ``@image_1`` is the first of
            `references`, unless `reference_names` gives other names.
        references: Images that the clip refers to. Together with `elements` at most 7. With a video or a
            video character at most 4.
        reference_names: A name for each of `references`, in place of ``image_1``, ``image_2`` and so on.
        first_frame: The image that the clip begins with. At most 3 elements go with it.
        last_frame: The image that it ends with. It needs a first frame.
        feature_video: URL of a video whose style or motion is taken. It takes `audio` ``off`` only.
        base_video: URL of a video that is edited. No frames, no shots, no native sound go with it.
        elements: Elements of the account.
        model: ``kling-3.0-omni`` or ``kling-o1``. Another name is passed on with a warning, and its limits are not
            checked.
        resolution: ``720p``, ``1080p`` or (``kling-3.0-omni``) ``4k``.
        duration: Seconds: 3 to 15. ``kling-o1`` 3 to 10, and only 5 or 10 from words or one first frame alone
            (sources disagree, the stricter reading).
        aspect_ratio: ``16:9``, ``9:16`` or ``1:1``. If None, ``16:9``, unless a frame or a video decides it.
        audio: ``off``, ``native`` (``kling-3.0-omni``) or ``original`` (the sound of the video). If None, ``off``.
        multi_shot: Whether ``kling-3.0-omni`` cuts the clip into shots. If None, only where the prompt lists shots, or
            where there is a `feature_video`, which allows nothing else. Kling's own default is true.
        first_frame_name: A name for the first frame, for ``@name`` in the prompt.
        last_frame_name: The same for the last frame.
        video_name: The same for the video.
        watermark: Whether to make a version with a watermark as well.
        omit: Settings that are not sent, for a model that this version does not know.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/omni-video"
    product: ClassVar[str] = "omni-video"
    reference_fields: ClassVar[tuple[str, ...]] = ("references", "first_frame", "last_frame")
    content_fields: ClassVar[Mapping[str, str]] = {
        "prompt": "prompt",
        "first_frame": "first_frame",
        "last_frame": "last_frame",
        "refer_image": "references",
        "feature_video": "feature_video",
        "base_video": "base_video",
        "element": "elements",
    }
    name_fields: ClassVar[Mapping[str, str]] = {
        "first_frame": "first_frame_name",
        "last_frame": "last_frame_name",
        "feature_video": "video_name",
        "base_video": "video_name",
    }

    prompt: LongPrompt
    references: Annotated[References, images(7, NEW_BYTES)] = NO_IMAGES
    first_frame: NewImage | None = None
    last_frame: NewImage | None = None
    feature_video: VideoUrl | None = None
    base_video: VideoUrl | None = None
    elements: Elements = ()
    reference_names: Names = ()
    model: ModelName = "kling-3.0-omni"
    resolution: Literal["720p", "1080p", "4k"] = "720p"
    duration: Seconds = 5
    aspect_ratio: Ratio | None = None
    audio: Literal["native", "original", "off"] | None = None
    multi_shot: bool | None = None
    first_frame_name: Name | None = None
    last_frame_name: Name | None = None
    video_name: Name | None = None
    watermark: bool = False
    omit: Settings = ()

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The fields, with the ratio that Kling requires where no input decides it."""
        data = super().translate(data)
        decided = any(data.get(name) for name in ("first_frame", "feature_video", "base_video"))
        if data.get("aspect_ratio") is None and not decided and "aspect_ratio" not in _omitted(data):
            data["aspect_ratio"] = "16:9"
        return data

    @classmethod
    def wants_shots(cls, data: Mapping[str, Any]) -> bool:
        """Same as elsewhere. A feature video allows nothing but shots, and a base video none."""
        if data.get("base_video"):
            return False
        return bool(data.get("feature_video")) or super().wants_shots(data)

    def _image_names(self) -> list[str]:
        return list(self.reference_names) or [f"image_{number}" for number in range(1, len(self.references) + 1)]

    def named(self) -> Iterator[str]:
        """The reference images, the elements, and the frames and the video that have a name."""
        yield from self._image_names()
        yield from _given(self.first_frame_name, self.last_frame_name, self.video_name)
        yield from (element.name for element in self.elements)

    def _check_inputs(self, known: VideoModel) -> None:
        if self.reference_names and len(self.reference_names) != len(self.references):
            raise ValueError(
                f"reference_names has {len(self.reference_names)} names for {len(self.references)} references"
            )
        _check_named(self, "first_frame", "last_frame")
        if self.video_name is not None and not (self.feature_video or self.base_video):
            raise ValueError(f"video_name is {self.video_name!r}, and there is no video to name")
        _check_number("elements", len(self.elements), self.model, known.elements)
        self._check_frames()
        self._check_video()
        self._check_counts()

    def _check_frames(self) -> None:
        if self.last_frame is None:
            return
        if self.first_frame is None:
            raise ValueError("last_frame is given without first_frame; Kling takes a last frame only with a first one")
        if self.model == "kling-o1" and (self.references or self.elements):
            raise ValueError("kling-o1 with both frames takes no references and no elements; kling-3.0-omni does")
        if self.model == "kling-o1" and self.feature_video:
            raise ValueError("kling-o1 with a feature_video takes no last_frame; kling-3.0-omni does")

    def _check_video(self) -> None:
        if self.feature_video and self.base_video:
            raise ValueError("feature_video and base_video are both given; a clip has at most one video")
        if self.audio == "original" and not self.base_video:
            raise ValueError("audio is 'original', which is the sound of a base_video, and there is none")
        if self.base_video:
            if self.first_frame is not None:
                raise ValueError("base_video takes no frames; leave out first_frame and last_frame")
            if self.multi_shot:
                raise ValueError("base_video takes no shots; leave out multi_shot")
            if self.audio == "native":
                raise ValueError("audio is 'native'; base_video allows 'off' or 'original'")
        if self.feature_video:
            if self.audio != "off":
                raise ValueError(f"audio is {self.audio!r}; feature_video allows only 'off'")
            if self.multi_shot is False:
                raise ValueError("multi_shot is False; feature_video allows only True")

    def _check_counts(self) -> None:
        video = bool(self.feature_video or self.base_video)
        characters = sum(element.video_character for element in self.elements)
        together = len(self.references) + len(self.elements)
        most = 4 if video or characters else 7
        if together > most:
            reason = " with a video" if video else " with a video character" if characters else ""
            raise ValueError(
                f"references and elements are {together} together; {self.model} takes at most {most}{reason}"
            )
        if self.model == "kling-o1":
            if characters:
                raise ValueError("kling-o1 takes no video characters; kling-3.0-omni does")
            alone = not (self.references or self.elements or video) and self.last_frame is None
            if alone and self.duration not in {5, 10}:
                raise ValueError(
                    f"duration is {self.duration}; kling-o1 allows 5 or 10 from words or a first frame alone, and 3 to "
                    "10 with references"
                )
            return
        if self.first_frame is not None and len(self.elements) > 3:  # noqa: PLR2004  # the page's number
            raise ValueError(f"elements has {len(self.elements)}; with a frame at most 3 are allowed")
        if characters > (1 if video else 3):
            raise ValueError(
                f"{characters} elements are video characters; at most {1 if video else 3} are allowed"
                + (" with a video" if video else "")
            )
        if video and characters and together > characters:
            raise ValueError("with a video, a video character goes with no other element and no reference image")

    def contents(self) -> list[dict[str, Any]]:
        """Words and all inputs."""
        videos = {"feature_video": self.feature_video, "base_video": self.base_video}
        named = zip(self.references, self._image_names(), strict=True)
        return [
            _words(self.prompt),
            *_frames(self),
            *({"type": "refer_image", "url": wire(image), "id": name} for image, name in named),
            *(item for kind, url in videos.items() for item in _single(kind, url, self.video_name)),
            *_elements(self.elements),
        ]


class MotionControl(VideoRequest):
    """One clip in which a person does what a person in a video does, by Kling's own API.

    Source: ``kling.ai/document-api``, the pages of motion control.

    Args:
        reference: The image of the person (JPEG or PNG, up to 50 MB, 300 pixels a side or more).
        motion_video: URL of the video of the motion: MP4 or MOV, 3 to 30 s (orientation ``image``: to 10 s).
        prompt: Up to 2 500 characters.
        character_orientation: Whether the person faces as in the ``image`` or as in the ``video``.
        elements: Up to 1, ``kling-3.0`` only, with orientation ``video``.
        model: ``kling-3.0`` or ``kling-2.6``. Another name is passed on with a warning, and its limits are not checked.
        resolution: ``720p`` or ``1080p``.
        audio: ``original`` (the sound of the video, as Kling does by default) or ``off``. If None, ``original``.
        watermark: Whether to make a version with a watermark as well.
        omit: Settings that are not sent, for a model that this version does not know.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/motion-control"
    product: ClassVar[str] = "motion-control"
    content_fields: ClassVar[Mapping[str, str]] = {
        "prompt": "prompt",
        "image": "reference",
        "video": "motion_video",
        "element": "elements",
    }

    reference: NewImage
    motion_video: VideoUrl
    prompt: LongPrompt | None = None
    character_orientation: Literal["image", "video"] = "video"
    elements: Elements = ()
    model: ModelName = "kling-3.0"
    resolution: Literal["720p", "1080p", "4k"] = "720p"
    audio: Literal["original", "off"] | None = None
    watermark: bool = False
    omit: Settings = ()

    @classmethod
    def quiet(cls, data: Mapping[str, Any]) -> str:
        """The sound of the video, as Kling does by default."""
        del data
        return "original"

    def named(self) -> Iterator[str]:
        """The element."""
        yield from (element.name for element in self.elements)

    def _check_inputs(self, known: VideoModel) -> None:
        _check_number("elements", len(self.elements), self.model, known.elements)
        if self.elements and self.character_orientation != "video":
            raise ValueError("character_orientation is 'image'; with an element it must be 'video'")

    def contents(self) -> list[dict[str, Any]]:
        """Words, the person and the motion."""
        return [
            *([_words(self.prompt)] if self.prompt else []),
            {"type": "image", "url": wire(self.reference)},
            {"type": "video", "url": self.motion_video},
            *_elements(self.elements),
        ]

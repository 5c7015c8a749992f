"""Kling's video models at Runware: what each model takes, and the request for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kling_async.providers._base.images import NO_IMAGES, ImageRule, OneImage, Reference, References
from kling_async.providers._base.request import Prompt, Request, as_number, plain_text
from kling_async.providers.runware.request import UploadEndpoint, bare_image, safety_mode

__all__ = ["VIDEO_FORMATS", "VIDEO_MODELS", "Video", "VideoModel"]

AspectRatio: TypeAlias = Literal["16:9", "9:16", "1:1"]
Resolution: TypeAlias = Literal["720p", "1080p", "4k"]
ModelName: TypeAlias = Literal[
    "klingai:kling-video@3-standard",
    "klingai:kling-video@3-pro",
    "klingai:kling-video@3-4k",
    "klingai:kling-video@3.0-turbo",
    "klingai:kling-video@o3-standard",
    "klingai:kling-video@o3-pro",
    "klingai:kling-video@o3-4k",
    "klingai:kling@o1-standard",
    "klingai:kling@o1",
    "klingai:kling-video@2.6-pro",
    "klingai:6@1",
    "klingai:6@0",
]

_720P = {"16:9": (1280, 720), "9:16": (720, 1280), "1:1": (960, 960)}
_1080P = {"16:9": (1920, 1080), "9:16": (1080, 1920), "1:1": (1440, 1440)}
_4K = {"16:9": (3840, 2160), "9:16": (2160, 3840), "1:1": (2880, 2880)}
_5_OR_10 = (5, 10)
_3_TO_10 = tuple(range(3, 11))
_3_TO_15 = tuple(range(3, 16))


def _usd(silent: str, sound: str | None = None, inputs: str | None = None) -> tuple[Decimal, Decimal, Decimal]:
    """USD a second: silent, with sound, and with images or a video to refer to."""
    return Decimal(silent), Decimal(sound or silent), Decimal(inputs or silent)


@dataclass(frozen=True, slots=True)
class VideoModel:
    """What one model takes.

    Attributes:
        sizes: Width and height by resolution and aspect ratio. The first resolution is the default.
        durations: Seconds.
        usd: USD a second by resolution: silent, with sound, with references.
        sound: Whether sound is a setting of ours, is always made, or never.
        text: Whether it makes videos from text alone.
        last_frame: Whether it takes a last frame.
        references: The largest number of reference images.
        video: Whether it takes a video, as a reference or to edit.
        negative: Whether it takes a negative prompt.
        cfg: Whether it takes a CFG scale.
    """

    sizes: Mapping[str, Mapping[str, tuple[int, int]]]
    durations: tuple[int, ...]
    usd: Mapping[str, tuple[Decimal, Decimal, Decimal]]
    sound: Literal["setting", "always", "never"] = "setting"
    text: bool = True
    last_frame: bool = True
    references: int = 0
    video: bool = False
    negative: bool = False
    cfg: bool = False


def _v3(resolution: str, sizes: Mapping[str, tuple[int, int]], silent: str, sound: str) -> VideoModel:
    return VideoModel({resolution: sizes}, _3_TO_15, {resolution: _usd(silent, sound)}, negative=True)


def _o3(resolution: str, sizes: Mapping[str, tuple[int, int]], *usd: str) -> VideoModel:
    return VideoModel({resolution: sizes}, _3_TO_15, {resolution: _usd(*usd)}, references=7, video=True)


def _o1(resolution: str, sizes: Mapping[str, tuple[int, int]], silent: str, inputs: str) -> VideoModel:
    return VideoModel(
        {resolution: sizes},
        _3_TO_10,
        {resolution: _usd(silent, inputs=inputs)},
        sound="never",
        references=7,
        video=True,
    )


# runware.ai/docs/models/klingai-*.md and the typed task map of runware-sdk 1.8.0. The sizes of 2.5 Turbo Pro and of
# 2.6 Pro stand only on the older page of all Kling models (docs/en/providers/klingai), which calls 1280x720 the size of
# 2.5 Turbo Pro, where its own newer page says 1080p. The prices of these two are Kling's list prices, as Runware's are.
VIDEO_MODELS: Mapping[str, VideoModel] = {
    "klingai:kling-video@3-standard": _v3("720p", _720P, "0.084", "0.126"),
    "klingai:kling-video@3-pro": _v3("1080p", _1080P, "0.112", "0.168"),
    "klingai:kling-video@3-4k": _v3("4k", _4K, "0.42", "0.42"),
    "klingai:kling-video@3.0-turbo": VideoModel(
        {"720p": _720P, "1080p": _1080P},
        _3_TO_15,
        {"720p": _usd("0.112"), "1080p": _usd("0.14")},
        sound="always",
        negative=True,
    ),
    "klingai:kling-video@o3-standard": _o3("720p", _720P, "0.084", "0.112", "0.126"),
    "klingai:kling-video@o3-pro": _o3("1080p", _1080P, "0.112", "0.14", "0.168"),
    "klingai:kling-video@o3-4k": _o3("4k", _4K, "0.42", "0.42", "0.42"),
    "klingai:kling@o1-standard": _o1("720p", _720P, "0.084", "0.126"),
    "klingai:kling@o1": _o1("1080p", _1080P, "0.112", "0.168"),
    "klingai:kling-video@2.6-pro": VideoModel(
        {"1080p": {**_1080P, "1:1": (1080, 1080)}},
        _5_OR_10,
        {"1080p": _usd("0.07", "0.14")},
        last_frame=False,
        negative=True,
        cfg=True,
    ),
    "klingai:6@1": VideoModel(
        {"720p": {**_720P, "1:1": (720, 720)}},
        _5_OR_10,
        {"720p": _usd("0.07")},
        sound="never",
        negative=True,
        cfg=True,
    ),
    "klingai:6@0": VideoModel(
        {"720p": _720P},
        _5_OR_10,
        {"720p": _usd("0.042")},
        sound="never",
        text=False,
        last_frame=False,
        negative=True,
        cfg=True,
    ),
}
"""What each model takes, by its AIR."""
VIDEO_FORMATS = {"mp4": "MP4", "webm": "WEBM", "mov": "MOV"}
_BESIDE_A_VIDEO = 4  # reference images, where there is a video as well
_TURBO = "klingai:kling-video@3.0-turbo"
_MIB = 1024 * 1024
_FRAME = ImageRule(formats=("jpeg", "png", "webp"), most=1, max_bytes=20 * _MIB, uuids=True)
_REFERENCES = ImageRule(formats=("jpeg", "png", "webp"), most=7, max_bytes=20 * _MIB, uuids=True)


def _web_address(value: str) -> str:
    if not plain_text(value).startswith(("https://", "http://")):
        raise ValueError("a video is given as an http(s) URL")
    return value


def _our_format(value: Any) -> Any:
    return next((ours for ours, theirs in VIDEO_FORMATS.items() if value == theirs), value)


Frame: TypeAlias = Annotated[Reference, AfterValidator(OneImage(_FRAME, "the frame"))]
VideoUrl: TypeAlias = Annotated[str, AfterValidator(_web_address)]


class Video(Request):
    """One or more clips by a Kling video model at Runware.

    `model` is Runware's own name of the model (its AIR). It decides the resolution, except for 3.0 Turbo, and what else
    can be given. A task object of Runware's own JSON validates too. Its ``taskUUID`` is dropped: every purchase gets a
    fresh one.

    Unverified: the sizes of 2.5 Turbo Pro (``klingai:6@1``) and of 2.6 Pro, because Runware's pages disagree or are
    old. Whether Runware counts reference images as the input that costs more. The estimate assumes that it does.

    Source: ``runware.ai/docs/models/klingai-*`` and runware-sdk 1.8.0.
    """

    endpoint: ClassVar[str] = "runware/video"
    reference_fields: ClassVar[tuple[str, ...]] = ("first_frame", "last_frame", "references")
    wire_names: ClassVar[Mapping[str, str]] = {
        "positivePrompt": "prompt",
        "negativePrompt": "negative_prompt",
        "CFGScale": "cfg_scale",
        "numberResults": "count",
        "outputFormat": "video_format",
        "outputQuality": "output_quality",
        "uploadEndpoint": "upload_endpoint",
        "includeCost": "include_cost",
        "webhookURL": "callback_url",
    }

    prompt: Prompt = Field(description="What the clip shows. 1 to 2 500 characters.")
    model: ModelName = Field(
        default="klingai:kling-video@3-standard",
        description="The model, by its AIR. Kling 3.0, 3.0 Turbo, 3.0 Omni (o3), O1, 2.6 Pro (2.6-pro), 2.5 Turbo Pro "
        "(6@1) or 2.5 Turbo Standard (6@0, which needs a first frame).",
    )
    duration: Annotated[int, BeforeValidator(as_number)] = Field(
        default=5,
        ge=3,
        le=15,
        description="Length of the clip in seconds. 3 to 15 for 3.0, 3.0 Turbo and 3.0 Omni. 5 or 10 for 2.5 and 2.6. "
        "5 or 10 for O1, and 3 to 10 with references.",
    )
    resolution: Resolution | None = Field(
        default=None,
        description="720p, 1080p or 4k. If None, the model's own, and 720p for 3.0 Turbo, which makes 1080p too.",
    )
    aspect_ratio: AspectRatio | None = Field(
        default=None, description="Width to height. If None, 16:9, or that of the first frame."
    )
    first_frame: Frame | None = Field(
        default=None,
        description="The image that the clip begins with: JPEG, PNG or WEBP, at most 20 MiB, or the UUID of an image "
        "that was uploaded to Runware.",
    )
    last_frame: Frame | None = Field(
        default=None, description="The image that the clip ends with. It needs a first frame."
    )
    references: Annotated[References, AfterValidator(_REFERENCES)] = Field(
        default=NO_IMAGES,
        description="Reference images for 3.0 Omni and O1: at most 7, and at most 4 beside a video.",
    )
    reference_video: VideoUrl | None = Field(
        default=None, description="URL of a video whose look or motion is used. For 3.0 Omni and O1."
    )
    edit_video: VideoUrl | None = Field(
        default=None, description="URL of a video that is edited as the prompt says. For 3.0 Omni and O1."
    )
    audio: bool | None = Field(
        default=None,
        description="Whether the clip has sound. It changes the price. If None, it has none, except with 3.0 Turbo, "
        "which always makes sound.",
    )
    keep_original_sound: bool | None = Field(
        default=None, description="Whether the sound of the given video is kept. If None, it is. Only with a video."
    )
    negative_prompt: Prompt | None = Field(
        default=None,
        description="What the clip must not show. Not for 3.0 Omni and O1. With 3.0 Turbo it needs a first frame.",
    )
    cfg_scale: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="How closely the clip follows the prompt, 0 to 1. For 2.5 and 2.6. If None, Runware's own default.",
    )
    count: Annotated[int, BeforeValidator(as_number)] = Field(
        default=1, ge=1, le=20, description="Number of clips, 1 to 20. Each is charged."
    )
    video_format: Annotated[Literal["mp4", "webm", "mov"], BeforeValidator(_our_format)] = Field(
        default="mp4", description="File format of the clip. Runware's MP4, WEBM and MOV are accepted too."
    )
    output_quality: int = Field(default=95, ge=20, le=99, description="Quality of the compression, 20 to 99.")
    upload_endpoint: UploadEndpoint | None = Field(
        default=None, description="Presigned https URL to which Runware sends the clips as raw bytes with PUT."
    )
    safety: Literal["none", "fast"] = Field(
        default="none",
        description="With fast, Runware checks the clips for unsafe content. The result is in Artifact.flagged.",
    )
    ttl: Annotated[int, Field(ge=60)] | None = Field(
        default=None, description="Seconds for which the URLs of the clips work, at least 60."
    )
    include_cost: bool = Field(default=True, description="Whether Runware reports the cost of the job.")

    @property
    def facts(self) -> VideoModel:
        """What its model takes."""
        return VIDEO_MODELS[self.model]

    @property
    def tier(self) -> str:
        """Its resolution, as given or as the model decides it."""
        return self.resolution or next(iter(self.facts.sizes))

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height. None if the first frame, or the references of O1, take their place."""
        sizes = self.facts.sizes[self.tier]
        if self.first_frame is not None or (self.references and not self.video and self.model in _O1):
            return None
        return sizes[self.aspect_ratio or "16:9"]

    @property
    def video(self) -> str | None:
        """The video that is referred to or edited."""
        return self.reference_video or self.edit_video

    @property
    def usd(self) -> Decimal:
        """The list price of all its clips."""
        silent, sound, inputs = self.facts.usd[self.tier]
        rate = inputs if self.video or (self.references and self.model in _O1) else sound if self.audio else silent
        return rate * self.duration * self.count

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Runware's own JSON in our field names."""
        for name, constant in _CONSTANTS.items():
            given = data.pop(name, constant)
            if given != constant:
                raise ValueError(f"{name} is {given!r:.60}, but for videos it is {constant!r}")
        data.pop("taskUUID", None)
        inputs, settings = data.pop("inputs", {}), data.pop("providerSettings", None)
        data |= _from_inputs(inputs, data)
        if settings is not None:
            data |= _from_settings(settings, data)
        if isinstance(data.get("safety"), Mapping):
            data["safety"] = safety_mode(data["safety"])
        return _from_size(super().translate(data))

    @model_validator(mode="after")
    def _check(self) -> Self:
        facts, name = self.facts, self.model
        if self.resolution is not None and self.resolution not in facts.sizes:
            raise ValueError(f"resolution is {self.resolution}; {name} makes {' or '.join(facts.sizes)}")
        if self.duration not in facts.durations:
            raise ValueError(f"duration is {self.duration}; {name} makes {_spelled(facts.durations)} seconds")
        self._check_frames()
        self._check_references()
        if facts.sound != "setting" and self.audio is (facts.sound == "never"):
            raise ValueError(f"audio is {self.audio}; {name} {_SOUND[facts.sound]}")
        if self.audio and self.video:
            raise ValueError("audio is true; with a video no sound is generated. See keep_original_sound")
        if self.negative_prompt is not None and not facts.negative:
            raise ValueError(f"negative_prompt is given; {name} takes none")
        if self.negative_prompt is not None and name == _TURBO and self.first_frame is None:
            raise ValueError(f"negative_prompt is given; {name} takes one only with a first frame")
        if self.cfg_scale is not None and not facts.cfg:
            raise ValueError(f"cfg_scale is given; {name} takes none")
        return self

    def _check_frames(self) -> None:
        facts, name = self.facts, self.model
        if self.first_frame is None:
            if self.last_frame is not None:
                raise ValueError("last_frame is given without first_frame; give both")
            if not facts.text:
                raise ValueError(f"first_frame is missing; {name} makes videos from an image only")
            return
        if self.last_frame is not None and not facts.last_frame:
            raise ValueError(f"last_frame is given; {name} takes none")
        if self.aspect_ratio is not None:
            raise ValueError("with a first frame the frame decides the aspect ratio; leave aspect_ratio out")
        if name in _O1 and self.references:
            raise ValueError(f"first_frame and references are given; {name} takes one of them")

    def _check_references(self) -> None:
        facts, name = self.facts, self.model
        if len(self.references) > facts.references:
            most = f"at most {facts.references}" if facts.references else "none"
            raise ValueError(f"{len(self.references)} references are given; {name} takes {most}")
        if self.video is not None and not facts.video:
            raise ValueError(f"a video is given; {name} takes none")
        if self.reference_video is not None and self.edit_video is not None:
            raise ValueError("reference_video and edit_video are given; give one of them")
        if self.video is not None and len(self.references) > _BESIDE_A_VIDEO:
            raise ValueError(f"{len(self.references)} references are given; beside a video at most 4 are allowed")
        if self.keep_original_sound is not None and self.video is None:
            raise ValueError("keep_original_sound is given; it needs reference_video or edit_video")
        if name in _O1 and not self.references and not self.video and self.duration not in _5_OR_10:
            raise ValueError(f"duration is {self.duration}; without references {name} makes 5 or 10 seconds")

    def __repr_args__(self) -> Any:
        """Fields as shown in a repr: the upload address without its signature."""
        for name, value in super().__repr_args__():
            yield name, value.partition("?")[0] if name == "upload_endpoint" else value


_O1 = frozenset({"klingai:kling@o1", "klingai:kling@o1-standard"})
_SOUND = {"always": "always makes sound", "never": "makes no sound"}
_CONSTANTS = {"taskType": "videoInference", "outputType": "URL", "deliveryMethod": "async"}
_INPUTS = {"frameImages", "referenceImages", "referenceVideos", "video"}
_SETTINGS = {"sound": "audio", "keepOriginalSound": "keep_original_sound"}


def _spelled(durations: tuple[int, ...]) -> str:
    return "5 or 10" if durations == _5_OR_10 else f"{durations[0]} to {durations[-1]}"


def _listed(value: object, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        kind = type(value).__name__
        raise ValueError(f"{name} must be a list, not {kind}")  # noqa: TRY004  # pydantic reports these
    return list(value)


def _from_inputs(inputs: object, beside: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a task's ``inputs`` stand for."""
    if not isinstance(inputs, Mapping) or not inputs.keys() <= _INPUTS:
        raise ValueError(f"inputs is an object with the fields {', '.join(sorted(_INPUTS))}")
    found: dict[str, Any] = {}
    for position, frame in enumerate(_listed(inputs.get("frameImages", []), "inputs.frameImages")):
        given = frame if isinstance(frame, Mapping) else {"image": frame}
        place = given.get("frame", "last" if position else "first")
        if place not in {"first", "last"} or f"{place}_frame" in found:
            raise ValueError("inputs.frameImages has at most one image with frame 'first', and one with 'last'")
        found[f"{place}_frame"] = bare_image(given.get("image", given.get("inputImage")))
    if "referenceImages" in inputs:
        found["references"] = [bare_image(one) for one in _listed(inputs["referenceImages"], "inputs.referenceImages")]
    videos = _listed(inputs.get("referenceVideos", []), "inputs.referenceVideos")
    if len(videos) > 1:
        raise ValueError("inputs.referenceVideos has more than one video; one is taken")
    if videos:
        found["reference_video"] = videos[0]
    if "video" in inputs:
        found["edit_video"] = inputs["video"]
    if twice := found.keys() & beside.keys():
        raise ValueError(f"{', '.join(sorted(twice))}: given both in inputs and beside it")
    return found


def _from_settings(settings: object, beside: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that ``providerSettings`` stand for."""
    own = settings.get("klingai") if isinstance(settings, Mapping) and settings.keys() == {"klingai"} else None
    if not isinstance(own, Mapping) or not own.keys() <= _SETTINGS.keys():
        raise ValueError(f"providerSettings is an object with klingai, which has {' and '.join(_SETTINGS)}")
    found = {_SETTINGS[name]: value for name, value in own.items()}
    if twice := found.keys() & beside.keys():
        raise ValueError(f"{', '.join(sorted(twice))}: given both in providerSettings and beside it")
    return found


def _from_size(data: dict[str, Any]) -> dict[str, Any]:
    """The fields with ``width`` and ``height`` as resolution and aspect ratio."""
    if "width" not in data and "height" not in data:
        return data
    pair = (as_number(data.pop("width", None)), as_number(data.pop("height", None)))
    model = VIDEO_MODELS.get(str(data.get("model", "klingai:kling-video@3-standard")))
    if model is None:
        return data  # the field itself refuses the model
    for resolution, sizes in model.sizes.items():
        for ratio, size in sizes.items():
            if size != pair:
                continue
            for name, value in (("resolution", resolution), ("aspect_ratio", ratio)):
                if data.setdefault(name, value) != value:
                    raise ValueError(f"{pair[0]}x{pair[1]} has {name} {value}, but {name} is {data[name]!r:.40}")
            return data
    known = ", ".join(f"{w}x{h}" for sizes in model.sizes.values() for w, h in sizes.values())
    raise ValueError(f"{pair[0]}x{pair[1]} is not a size of this model; there are {known}")

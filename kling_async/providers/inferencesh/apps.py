"""The requests for the other Kling apps at inference.sh: images, videos, and any app with an unchecked input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, StringConstraints, model_validator

from kling_async.providers._base.images import NO_IMAGES, ImageRule, OneImage, Reference, References
from kling_async.providers._base.request import Prompt, Text, as_number, plain_text
from kling_async.providers._base.request import Request as BaseRequest
from kling_async.providers.inferencesh.request import ImageO1, flattened

__all__ = ["VIDEO_APPS", "Image", "Request", "Video"]

ImageApp: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^klingai/(image-3o|image-v3)(@[A-Za-z0-9]{1,64})?(:[A-Za-z0-9_-]{1,64})?$")
]
AnyApp: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9-]+/[a-z0-9._-]+(@[A-Za-z0-9]{1,64})?(:[A-Za-z0-9_-]{1,64})?$")
]
VideoApp: TypeAlias = Literal["klingai/video-v3", "klingai/video-o1", "klingai/video-v2-6", "klingai/video-v2-5"]
Resolution: TypeAlias = Literal["720p", "1080p", "4k"]

_FRAME = ImageRule(formats=("jpeg", "png"), most=1)
_REFERENCES = ImageRule(formats=("jpeg", "png"), most=7)
_BESIDE_A_VIDEO = 4  # reference images, where there is a video as well
_5_OR_10 = (5, 10)
_3_TO_10 = tuple(range(3, 11))
_3_TO_15 = tuple(range(3, 16))


def _web_address(value: str) -> str:
    if not plain_text(value).startswith(("https://", "http://")):
        raise ValueError("a video is given as an http(s) URL")
    return value


Frame: TypeAlias = Annotated[Reference, AfterValidator(OneImage(_FRAME, "the frame"))]
VideoUrl: TypeAlias = Annotated[str, AfterValidator(_web_address)]


@dataclass(frozen=True, slots=True)
class App:
    """What one video app takes.

    Attributes:
        durations: Seconds.
        usd: USD a second by resolution: silent, with sound, with a video. The first resolution is the default.
        sound: Whether sound is a setting.
        multi_shot: Whether the number of shots is a setting.
    """

    durations: tuple[int, ...]
    usd: Mapping[str, tuple[str, str, str]]
    sound: bool = False
    multi_shot: bool = False


# Kling's list prices, which are inference.sh's (inference.sh/apps/klingai.md). Of 2.6, only 1080p has sound.
VIDEO_APPS: Mapping[str, App] = {
    "klingai/video-v3": App(
        _3_TO_15,
        {
            "1080p": ("0.112", "0.168", "0.168"),
            "720p": ("0.084", "0.126", "0.126"),
            "4k": ("0.42", "0.42", "0.42"),
        },
        sound=True,
        multi_shot=True,
    ),
    "klingai/video-o1": App(_3_TO_10, {"1080p": ("0.112", "0.112", "0.168"), "720p": ("0.084", "0.084", "0.126")}),
    "klingai/video-v2-6": App(
        _5_OR_10, {"1080p": ("0.07", "0.14", "0.14"), "720p": ("0.042", "0.042", "0.042")}, sound=True
    ),
    "klingai/video-v2-5": App(_5_OR_10, {"720p": ("0.042",) * 3, "1080p": ("0.07",) * 3}),
}
"""The video apps, by name."""


class Image(ImageO1):
    """One picture by Kling Image 3.0 Omni (``klingai/image-3o``) or Image 3.0 (``klingai/image-v3``).

    The fields are those of `ImageO1`. Unverified: whether these apps return one picture whatever the number, as Image
    O1's app does. It is assumed.

    Source: the pages of the apps, and the repository ``inference-sh/grid``.
    """

    endpoint: ClassVar[str] = "inferencesh/image"

    resolution: Literal["1k", "2k", "4k"] = Field(  # type: ignore[assignment]  # one more than its base class
        default="1k", description="Size of the picture: 1k, 2k, or with image-3o 4k."
    )
    app: ImageApp = Field(
        default="klingai/image-3o",
        description="The app, klingai/image-3o or klingai/image-v3, optionally pinned to a version and a function. "
        "image-v3 takes no image.",
    )

    @model_validator(mode="after")
    def _check_app(self) -> Self:
        if self.app.startswith("klingai/image-v3"):
            if self.resolution == "4k":
                raise ValueError("resolution is 4k; klingai/image-v3 makes 1k and 2k, and klingai/image-3o makes 4k")
            if self.reference is not None:
                raise ValueError("reference is given; klingai/image-v3 takes no image, and klingai/image-3o does")
        return self


class Video(BaseRequest):
    """One clip by Kling's video apps at inference.sh: 3.0, O1, 2.6 and 2.5 Turbo.

    Unverified: whether `aspect_ratio` has an effect beside a first frame, and which fields of an output hold the video.
    ``video`` and ``videos`` are read. Cancelling does not stop what Kling has begun, and does not save its price.

    Source: the pages of the apps, and the repository ``inference-sh/grid``.
    """

    endpoint: ClassVar[str] = "inferencesh/video"
    reference_fields: ClassVar[tuple[str, ...]] = ("first_frame", "last_frame", "references")
    wire_names: ClassVar[Mapping[str, str]] = {
        "image": "first_frame",
        "end_image": "last_frame",
        "reference_images": "references",
        "sound": "audio",
        "webhook": "callback_url",
    }

    prompt: Prompt = Field(description="What the clip shows. 1 to 2 500 characters.")
    app: VideoApp = Field(
        default="klingai/video-v3",
        description="The app: klingai/video-v3, klingai/video-o1, klingai/video-v2-6 or klingai/video-v2-5.",
    )
    duration: Annotated[int, BeforeValidator(as_number)] = Field(
        default=5,
        ge=3,
        le=15,
        description="Length of the clip in seconds: 3 to 15 with video-v3, 3 to 10 with video-o1, 5 or 10 with the "
        "others.",
    )
    resolution: Resolution | None = Field(
        default=None,
        description="720p or 1080p, and with video-v3 4k. If None, 1080p, and 720p with video-v2-5. It is always sent.",
    )
    aspect_ratio: Literal["16:9", "9:16", "1:1"] | None = Field(
        default=None, description="Width to height. If None, 16:9, or that of the first frame."
    )
    first_frame: Frame | None = Field(
        default=None,
        description="The image that the clip begins with: JPEG or PNG, at most 10 MiB. A local one is uploaded to "
        "inference.sh first.",
    )
    last_frame: Frame | None = Field(
        default=None, description="The image that the clip ends with. It needs a first frame."
    )
    references: Annotated[References, AfterValidator(_REFERENCES)] = Field(
        default=NO_IMAGES, description="Reference images for video-o1: at most 7, and at most 4 beside a video."
    )
    reference_video: VideoUrl | None = Field(default=None, description="URL of a reference video, for video-o1.")
    reference_video_type: Literal["feature", "base"] | None = Field(
        default=None,
        description="Whether its look or motion is used (feature), or it is edited (base). If None, feature.",
    )
    audio: bool | None = Field(
        default=None,
        description="Whether the clip has sound, with video-v3 and video-v2-6. It changes the price. If None, it has "
        "none. Where the app has the setting, it is always sent, because the app's own default is true.",
    )
    multi_shot: bool = Field(
        default=False,
        description="Whether the model may make several shots. Only with video-v3, and always sent there.",
    )
    voice_id: Text | None = Field(default=None, description="A voice, with video-v2-6.")
    watermark: bool | None = Field(default=None, description="Whether the clip has a watermark, with video-o1.")

    @property
    def facts(self) -> App:
        """What its app takes."""
        return VIDEO_APPS[self.app]

    @property
    def tier(self) -> str:
        """Its resolution, as given or as the app's default."""
        return self.resolution or next(iter(self.facts.usd))

    @property
    def usd(self) -> Decimal:
        """The list price."""
        silent, sound, video = self.facts.usd[self.tier]
        return Decimal(video if self.reference_video else sound if self.audio else silent) * self.duration

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The app's input, or the whole body of a run (``{"app", "input", "webhook"}``), in our field names."""
        return super().translate(flattened(data))

    @model_validator(mode="after")
    def _check(self) -> Self:
        facts, name = self.facts, self.app
        if self.duration not in facts.durations:
            allowed = "5 or 10" if facts.durations == _5_OR_10 else f"{facts.durations[0]} to {facts.durations[-1]}"
            raise ValueError(f"duration is {self.duration}; {name} makes {allowed} seconds")
        if self.resolution is not None and self.resolution not in facts.usd:
            raise ValueError(f"resolution is {self.resolution}; {name} makes {' and '.join(sorted(facts.usd))}")
        if self.last_frame is not None and self.first_frame is None:
            raise ValueError("last_frame is given without first_frame; give both")
        if self.audio and not facts.sound:
            raise ValueError(f"audio is true; {name} makes no sound")
        if self.audio and name == "klingai/video-v2-6" and self.tier != "1080p":
            raise ValueError("audio is true; klingai/video-v2-6 makes sound with resolution 1080p only")
        if self.multi_shot and not facts.multi_shot:
            raise ValueError(f"multi_shot is true; {name} has no such setting")
        if self.voice_id is not None and name != "klingai/video-v2-6":
            raise ValueError(f"voice_id is given; {name} takes none")
        self._check_references()
        return self

    def _check_references(self) -> None:
        video = self.reference_video is not None
        if self.app != "klingai/video-o1":
            given = {"references": bool(self.references), "reference_video": video, "watermark": self.watermark}
            for name, there in given.items():
                if there not in {None, False} or (name == "watermark" and there is not None):
                    raise ValueError(f"{name} is given; {self.app} takes none, and klingai/video-o1 does")
        if video and len(self.references) > _BESIDE_A_VIDEO:
            raise ValueError(f"{len(self.references)} references are given; beside a video at most 4 are allowed")
        if self.reference_video_type is not None and not video:
            raise ValueError("reference_video_type is given; it needs a reference_video")

    def app_input(self, images: Mapping[str, Any]) -> dict[str, Any]:
        """The app's input, with these images. What changes the price is always in it."""
        fields: dict[str, Any] = {
            "prompt": self.prompt,
            "duration": self.duration,
            "resolution": self.tier,
            "aspect_ratio": self.aspect_ratio or (None if self.first_frame is not None else "16:9"),
            "image": images.get("first_frame"),
            "end_image": images.get("last_frame"),
            "reference_images": images.get("references") or None,
            "reference_video": self.reference_video,
            "reference_video_type": (self.reference_video_type or "feature") if self.reference_video else None,
            "sound": bool(self.audio) if self.facts.sound else None,
            "multi_shot": self.multi_shot if self.facts.multi_shot else None,
            "voice_id": self.voice_id,
            "watermark": self.watermark,
        }
        return {name: value for name, value in fields.items() if value is not None}


class Request(BaseRequest):
    """Any app at inference.sh, unchecked: ``inferencesh.Request(app="falai/kling-video-o3-t2v", input={...})``.

    For the apps ``falai/kling-*`` (fields as at fal), ``klingai/avatar``, ``klingai/lip-sync`` and others. Nothing of
    the input is checked here, files are not uploaded, and no price is known. Send what changes the price: an app's own
    defaults may be dearer.
    """

    endpoint: ClassVar[str] = "inferencesh/app"
    reference_fields: ClassVar[tuple[str, ...]] = ()

    app: AnyApp = Field(description="The app, optionally pinned to a version and a function.")
    input: dict[str, JsonValue] = Field(description="The app's input, as its page documents it.")

    def app_input(self, images: Mapping[str, Any]) -> dict[str, Any]:
        """The input as it was given."""
        del images
        return dict(self.input)

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """As given: the input belongs to the app."""
        if "webhook" in data:
            data.setdefault("callback_url", data.pop("webhook"))
        return data

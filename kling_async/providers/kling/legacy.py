"""The requests that Kling serves under ``/v1``: pictures, avatar, lip-sync, sound and effects."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, GetPydanticSchema, StringConstraints, model_validator

from kling_async.providers._base.images import NO_IMAGES, References
from kling_async.providers._base.request import AnyPrompt, Prompt, Request, as_number
from kling_async.providers.kling.media import LegacyImage, Sound, VideoUrl, images, wire
from kling_async.providers.kling.models import (
    IMAGE_MODELS,
    OMNI_IMAGE_MODELS,
    ImageModel,
    require,
    unknown_model,
)
from kling_async.providers.kling.native import decode_media, unpack_legacy
from kling_async.providers.kling.video import Id, ModelName

__all__ = [
    "Avatar",
    "Effects",
    "ExpandImage",
    "ImageGeneration",
    "LegacyRequest",
    "LipSync",
    "MultiImageToImage",
    "OmniImage",
    "TextToAudio",
    "TextToSpeech",
    "VideoToAudio",
    "VirtualTryOn",
]

Ratio: TypeAlias = Literal["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9"]
Count: TypeAlias = Annotated[int, Field(ge=1, le=9), BeforeValidator(as_number)]
ElementId: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,19}$")]
ElementIds: TypeAlias = Annotated[
    Sequence[ElementId], GetPydanticSchema(lambda _, schema: schema(tuple[ElementId, ...]))
]
Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Part: TypeAlias = Annotated[float, Field(ge=0, le=2)]
Volume: TypeAlias = Annotated[float, Field(ge=0, le=2)]
Milliseconds: TypeAlias = Annotated[int, Field(ge=0), BeforeValidator(as_number)]
_MODEL_AND_COUNT = {"model_name": "model", "n": "count"}
_MOST_TOGETHER = 10
_MOST_AREA = 3.0
_AREA_ERROR = 1e-9


class LegacyRequest(Request):
    """What the requests under ``/v1`` have in common. They are also made from Kling's own JSON."""

    path: ClassVar[str]
    """Where they are sent."""
    models: ClassVar[tuple[str, ...]] = ()
    """The models that this version knows."""

    @classmethod
    def known_values(cls, name: str) -> Sequence[Any]:
        """The models that this version knows."""
        return cls.models if name == "model" else ()

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Kling's own JSON in our fields."""
        data = super().translate(unpack_legacy(data, cls.model_fields))
        data |= {name: decode_media(data[name]) for name in cls.reference_fields if data.get(name) is not None}
        return data

    def body(self) -> dict[str, Any]:
        """The body without what every create has. Values of None are left out."""
        raise NotImplementedError

    def _check_model(self, model: str, known: Mapping[str, ImageModel]) -> ImageModel | None:
        found = known.get(model)
        if found is None:
            unknown_model(self.endpoint, model, tuple(known))
        return found


def _check_together(references: int, elements: int) -> None:
    if references + elements > _MOST_TOGETHER:
        raise ValueError(
            f"references and element_ids are {references + elements} together; at most {_MOST_TOGETHER} are allowed"
        )


def _resolutions(models: Mapping[str, ImageModel]) -> list[tuple[str, Sequence[str]]]:
    return [(name, model.resolutions) for name, model in models.items()]


def _element_list(ids: Sequence[str]) -> list[dict[str, int]] | None:
    return [{"element_id": int(one)} for one in ids] or None


class OmniImage(LegacyRequest):
    """One to nine pictures, or a series, by Kling Image O1 or 3.0 Omni, from Kling's own API.

    Source: ``kling.ai/document-api``, the pages "image O1" and "image omni", and the capability map of images.

    Args:
        prompt: 1 to 2 500 characters. It names the inputs: ``<<<image_1>>>`` is the first of `references`,
            ``<<<element_1>>>`` or ``<<<object_1>>>`` the first of `element_ids` (sources spell it in three ways).
        references: Images (JPEG, PNG, 10 MB, 300 pixels a side or more). Together with `element_ids` at most 10.
        model: ``kling-v3-omni`` or ``kling-image-o1``. Another name is passed on with a warning, and its limits are
            not checked.
        resolution: ``1k``, ``2k`` or (``kling-v3-omni``) ``4k``.
        aspect_ratio: A ratio, or ``auto`` where there is an image. If None, ``auto`` with images and ``16:9`` without.
        count: How many pictures, 1 to 9. Not for a series.
        series: A series of 2 to 9 pictures that belong together, or ``auto``, in place of single ones
            (``kling-v3-omni``).
        element_ids: Ids of elements of the account.
        watermark: Whether to make a version with a watermark as well.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/omni-image"
    path: ClassVar[str] = "/v1/images/omni-image"
    models: ClassVar[tuple[str, ...]] = tuple(OMNI_IMAGE_MODELS)
    wire_names: ClassVar[Mapping[str, str]] = _MODEL_AND_COUNT

    prompt: Prompt
    references: Annotated[References, images(10)] = NO_IMAGES
    model: ModelName = "kling-v3-omni"
    resolution: Literal["1k", "2k", "4k"] = "1k"
    aspect_ratio: Literal[Ratio, "auto"] | None = None
    count: Count = 1
    series: Annotated[Literal[2, 3, 4, 5, 6, 7, 8, 9, "auto"], BeforeValidator(as_number)] | None = None
    element_ids: ElementIds = ()
    watermark: bool = False

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The fields, with a ratio: without images Kling's own default is one that it refuses."""
        data = super().translate(data)
        if data.get("aspect_ratio") is None:
            data["aspect_ratio"] = "auto" if data.get("references") or data.get("element_ids") else "16:9"
        return data

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_together(len(self.references), len(self.element_ids))
        _check_mentions(self.prompt, len(self.references), len(self.element_ids))
        if self.series is not None and self.count != 1:
            raise ValueError(f"count is {self.count}; a series has its own number (series={self.series!r})")
        known = self._check_model(self.model, OMNI_IMAGE_MODELS)
        if known is None:
            return self
        require("resolution", self.resolution, self.model, known.resolutions, _resolutions(OMNI_IMAGE_MODELS))
        if self.series is not None and not known.series:
            raise ValueError(f"series is {self.series!r}; {self.model} makes none (kling-v3-omni does)")
        bare = not self.references and not self.element_ids
        if bare and self.aspect_ratio == "auto" and not known.auto_without_images:
            raise ValueError(f"aspect_ratio is 'auto'; {self.model} needs a ratio where there is no image")
        return self

    def body(self) -> dict[str, Any]:
        """The body."""
        amount = {"n": self.count} if self.series is None else {"series_amount": self.series}
        return {
            "model_name": self.model,
            "prompt": self.prompt,
            "image_list": [{"image": wire(image)} for image in self.references] or None,
            "element_list": _element_list(self.element_ids),
            "resolution": self.resolution,
            "result_type": "single" if self.series is None else "series",
            "aspect_ratio": self.aspect_ratio,
            **amount,
        }


def _check_mentions(prompt: str, images: int, elements: int) -> None:
    for kind, number in re.findall(r"<<<?(image|element|object)_(\d+)>>>?", prompt):
        name, most = ("references", images) if kind == "image" else ("element_ids", elements)
        if not 1 <= int(number) <= most:
            raise ValueError(f"prompt names <<<{kind}_{number}>>>, and {name} has {most}")


class ImageGeneration(LegacyRequest):
    """One to nine pictures by Kling Image 3.0 or 2.1, from Kling's own API.

    Source: ``kling.ai/document-api``, the page "image generation".

    Args:
        prompt: 1 to 2 500 characters.
        reference: An image to start from (JPEG, PNG, 10 MB, 300 pixels a side or more).
        negative_prompt: What is not wanted. Only without `reference`.
        model: ``kling-v3`` or ``kling-v2-1``. Another name is passed on with a warning, and its limits are not checked.
        resolution: ``1k`` or ``2k``.
        aspect_ratio: One of the eight ratios.
        count: How many pictures, 1 to 9.
        likeness: What is taken from `reference`: the ``subject`` or the ``face`` (``kling-v2-1``).
        image_fidelity: How close to `reference`, 0 to 1 (``kling-v2-1``).
        human_fidelity: How close to the person in `reference`, 0 to 1 (``kling-v2-1``).
        element_ids: Ids of elements of the account. Together with `reference` at most 10.
        watermark: Whether to make a version with a watermark as well.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/image-generation"
    path: ClassVar[str] = "/v1/images/generations"
    models: ClassVar[tuple[str, ...]] = tuple(IMAGE_MODELS)
    wire_names: ClassVar[Mapping[str, str]] = {
        **_MODEL_AND_COUNT,
        "image": "reference",
        "image_reference": "likeness",
    }

    prompt: Prompt
    reference: LegacyImage | None = None
    negative_prompt: Prompt | None = None
    model: ModelName = "kling-v3"
    resolution: Literal["1k", "2k"] = "1k"
    aspect_ratio: Ratio = "16:9"
    count: Count = 1
    likeness: Literal["subject", "face"] | None = None
    image_fidelity: Share | None = None
    human_fidelity: Share | None = None
    element_ids: ElementIds = ()
    watermark: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_together(int(self.reference is not None), len(self.element_ids))
        if self.negative_prompt is not None and self.reference is not None:
            raise ValueError("negative_prompt goes only without reference")
        if self.likeness is not None and self.reference is None:
            raise ValueError(f"likeness is {self.likeness!r}, and there is no reference to take it from")
        known = self._check_model(self.model, IMAGE_MODELS)
        if known is None:
            return self
        require("resolution", self.resolution, self.model, known.resolutions, _resolutions(IMAGE_MODELS))
        for name in ("likeness", "image_fidelity", "human_fidelity"):
            value = getattr(self, name)
            if value is not None and not known.likeness:
                raise ValueError(f"{name} is {value!r}, but {self.model} has no such setting (kling-v2-1 does)")
        return self

    def body(self) -> dict[str, Any]:
        """The body."""
        return {
            "model_name": self.model,
            "prompt": self.prompt,
            "negative_prompt": self.negative_prompt,
            "image": wire(self.reference) if self.reference is not None else None,
            "image_reference": self.likeness,
            "image_fidelity": self.image_fidelity,
            "human_fidelity": self.human_fidelity,
            "element_list": _element_list(self.element_ids),
            "resolution": self.resolution,
            "n": self.count,
            "aspect_ratio": self.aspect_ratio,
        }


class MultiImageToImage(LegacyRequest):
    """One to nine pictures from up to four subjects, a scene and a style, from Kling's own API.

    Source: ``kling.ai/document-api``, the page "image 2.1, multi-image to image". The shape of an item of
    ``subject_image_list`` is unverified.

    Args:
        references: 1 to 4 images of subjects (JPEG, PNG, 10 MB, 300 pixels a side or more).
        prompt: Up to 2 500 characters. Whether Kling requires it is unverified.
        scene: An image of the scene.
        style: An image of the style.
        model: ``kling-v2-1``. Another name is passed on.
        aspect_ratio: One of the eight ratios.
        count: How many pictures, 1 to 9.
        watermark: Whether to make a version with a watermark as well.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/multi-image-to-image"
    path: ClassVar[str] = "/v1/images/multi-image2image"
    models: ClassVar[tuple[str, ...]] = ("kling-v2-1",)
    reference_fields: ClassVar[tuple[str, ...]] = ("references", "scene", "style")
    wire_names: ClassVar[Mapping[str, str]] = {
        **_MODEL_AND_COUNT,
        "scene_image": "scene",
        "style_image": "style",
    }

    references: Annotated[References, images(4)]
    prompt: Prompt | None = None
    scene: LegacyImage | None = None
    style: LegacyImage | None = None
    model: ModelName = "kling-v2-1"
    aspect_ratio: Ratio = "16:9"
    count: Count = 1
    watermark: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.references:
            raise ValueError("references is empty; 1 to 4 images of subjects are needed")
        if self.model not in self.models:
            unknown_model(self.endpoint, self.model, self.models)
        return self

    def body(self) -> dict[str, Any]:
        """The body."""
        return {
            "model_name": self.model,
            "prompt": self.prompt,
            "subject_image_list": [{"subject_image": wire(image)} for image in self.references],
            "scene_image": wire(self.scene) if self.scene is not None else None,
            "style_image": wire(self.style) if self.style is not None else None,
            "n": self.count,
            "aspect_ratio": self.aspect_ratio,
        }


class ExpandImage(LegacyRequest):
    """An image with more around it, from Kling's own API.

    Source: ``kling.ai/document-api``, the page "outpainting".

    Args:
        reference: The image (JPEG, PNG, 10 MB, 300 pixels a side or more).
        up: What is added above, as a part of the height, 0 to 2. The new area is at most three times the old one.
        down: What is added below, as a part of the height.
        left: What is added at the left, as a part of the width.
        right: What is added at the right, as a part of the width.
        prompt: Up to 2 500 characters.
        count: How many pictures, 1 to 9.
        watermark: Whether to make a version with a watermark as well.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/expand-image"
    path: ClassVar[str] = "/v1/images/editing/expand"
    wire_names: ClassVar[Mapping[str, str]] = {
        "n": "count",
        "image": "reference",
        **{f"{side}_expansion_ratio": side for side in ("up", "down", "left", "right")},
    }

    reference: LegacyImage
    up: Part = 0.0
    down: Part = 0.0
    left: Part = 0.0
    right: Part = 0.0
    prompt: Prompt | None = None
    count: Count = 1
    watermark: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        area = (1 + self.up + self.down) * (1 + self.left + self.right)
        if area > _MOST_AREA + _AREA_ERROR:
            raise ValueError(f"the new area is {area:g} times the old one; at most {_MOST_AREA:g} times is allowed")
        if area == 1:
            raise ValueError("up, down, left and right are all 0, so nothing would be added; give one of them")
        return self

    def body(self) -> dict[str, Any]:
        """The body."""
        sides = {f"{side}_expansion_ratio": getattr(self, side) for side in ("up", "down", "left", "right")}
        return {"image": wire(self.reference), **sides, "prompt": self.prompt, "n": self.count}


class VirtualTryOn(LegacyRequest):
    """A person who wears a garment, from Kling's own API.

    Source: KwaiVGI's and ComfyUI's nodes, and the log of ``kling.ai/document-api``.

    Args:
        person: The image of the person (JPEG, PNG, 10 MB, 300 pixels a side or more).
        garment: The image of the garment. Whether Kling requires it is unverified.
        model: ``kolors-virtual-try-on-v1-5`` or ``kolors-virtual-try-on-v1``. Another name is passed on.
        watermark: Whether to make a version with a watermark as well.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/virtual-try-on"
    path: ClassVar[str] = "/v1/images/kolors-virtual-try-on"
    models: ClassVar[tuple[str, ...]] = ("kolors-virtual-try-on-v1-5", "kolors-virtual-try-on-v1")
    reference_fields: ClassVar[tuple[str, ...]] = ("person", "garment")
    wire_names: ClassVar[Mapping[str, str]] = {
        "model_name": "model",
        "human_image": "person",
        "cloth_image": "garment",
    }

    person: LegacyImage
    garment: LegacyImage | None = None
    model: ModelName = "kolors-virtual-try-on-v1-5"
    watermark: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.model not in self.models:
            unknown_model(self.endpoint, self.model, self.models)
        return self

    def body(self) -> dict[str, Any]:
        """The body."""
        garment = wire(self.garment) if self.garment is not None else None
        return {"model_name": self.model, "human_image": wire(self.person), "cloth_image": garment}


def _check_sound(request: Avatar | LipSync) -> None:
    if (request.audio_id is None) == (request.sound is None):
        given = "both are given" if request.sound is not None else "neither is given"
        raise ValueError(f"{given}; give one of audio_id and sound")


class Avatar(LegacyRequest):
    """A person in an image who speaks, from Kling's own API.

    Source: ``kling.ai/document-api``, the page "avatar".

    Args:
        reference: The image of the person (JPEG, PNG, 10 MB, 300 pixels a side or more).
        sound: What is spoken: MP3 or WAV, up to 5 MB, 2 to 300 s. In place of `audio_id`.
        audio_id: The id of a sound that Kling made. In place of `sound`.
        prompt: Up to 2 500 characters.
        mode: ``std`` or ``pro``.
        watermark: Whether to make a version with a watermark as well.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/avatar"
    path: ClassVar[str] = "/v1/videos/avatar/image2video"
    reference_fields: ClassVar[tuple[str, ...]] = ("reference", "sound")
    wire_names: ClassVar[Mapping[str, str]] = {"sound_file": "sound", "image": "reference"}

    reference: LegacyImage
    sound: Sound | None = None
    audio_id: Id | None = None
    prompt: Prompt | None = None
    mode: Literal["std", "pro"] = "std"
    watermark: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_sound(self)
        return self

    def body(self) -> dict[str, Any]:
        """The body."""
        return {
            "image": wire(self.reference),
            "sound_file": wire(self.sound) if self.sound is not None else None,
            "audio_id": self.audio_id,
            "prompt": self.prompt,
            "mode": self.mode,
        }


class LipSync(LegacyRequest):
    """A video whose person says something else, from Kling's own API.

    The video is first searched for faces, which is a call of its own (0.007 USD) that Kling does not deduplicate. It is
    left out if `session_id` and `face_id` of an earlier search are given.

    Source: ``kling.ai/document-api``, the pages "lip-sync" and "face recognition". The fields of the search are
    unverified.

    Args:
        video_url: URL of the video (MP4 or MOV). In place of `video_id`.
        video_id: The id of a video that Kling made.
        sound: What is said: MP3 or WAV, up to 5 MB, 2 to 60 s. In place of `audio_id`.
        audio_id: The id of a sound that Kling made. In place of `sound`.
        sound_start: Where in the sound to begin, in milliseconds.
        sound_end: Where in the sound to end, in milliseconds.
        insert_at: Where in the video the sound begins, in milliseconds.
        face: Which of the faces found, from 0.
        session_id: The search that found the face. With `face_id`, in place of the video.
        face_id: The face that speaks, of those that the search found. With `session_id`.
        sound_volume: Volume of the new sound, 0 to 2.
        original_volume: Volume of the video's own sound, 0 to 2.
        watermark: Whether to make a version with a watermark as well.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/lip-sync"
    path: ClassVar[str] = "/v1/videos/advanced-lip-sync"
    reference_fields: ClassVar[tuple[str, ...]] = ("sound",)
    wire_names: ClassVar[Mapping[str, str]] = {
        "sound_file": "sound",
        "sound_start_time": "sound_start",
        "sound_end_time": "sound_end",
        "sound_insert_time": "insert_at",
        "original_audio_volume": "original_volume",
    }

    sound_end: Milliseconds
    video_url: VideoUrl | None = None
    sound: Sound | None = None
    sound_start: Milliseconds = 0
    insert_at: Milliseconds = 0
    audio_id: Id | None = None
    video_id: Id | None = None
    face: Annotated[int, Field(ge=0), BeforeValidator(as_number)] = 0
    session_id: Id | None = None
    face_id: Id | None = None
    sound_volume: Volume = 1.0
    original_volume: Volume = 1.0
    watermark: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_sound(self)
        if (self.session_id is None) != (self.face_id is None):
            raise ValueError("session_id and face_id belong together; give both, or the video")
        videos = sum(value is not None for value in (self.video_url, self.video_id, self.session_id))
        if videos != 1:
            raise ValueError(f"{videos} videos are given; give one of video_url, video_id, and session_id with face_id")
        if self.sound_end <= self.sound_start:
            raise ValueError(f"sound_end is {self.sound_end}; it must be after sound_start ({self.sound_start})")
        return self

    def search_body(self) -> dict[str, Any]:
        """The body of the search for faces."""
        return {"video_url": self.video_url} if self.video_url is not None else {"video_id": self.video_id}

    def body_for(self, session_id: str, face_id: str) -> dict[str, Any]:
        """The body, for a face that was found."""
        face = {
            "face_id": face_id,
            "audio_id": self.audio_id,
            "sound_file": wire(self.sound) if self.sound is not None else None,
            "sound_start_time": self.sound_start,
            "sound_end_time": self.sound_end,
            "sound_insert_time": self.insert_at,
            "sound_volume": self.sound_volume,
            "original_audio_volume": self.original_volume,
        }
        chosen = {name: value for name, value in face.items() if value is not None}
        return {"session_id": session_id, "face_choose": [chosen]}


class TextToAudio(LegacyRequest):
    """A sound from words, from Kling's own API. The fields are unverified.

    Args:
        prompt: Description of what is heard.
        duration: Seconds, 3 to 10.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/text-to-audio"
    path: ClassVar[str] = "/v1/audio/text-to-audio"

    prompt: Prompt
    duration: Annotated[int, Field(ge=3, le=10), BeforeValidator(as_number)] = 5

    def body(self) -> dict[str, Any]:
        """The body."""
        return {"prompt": self.prompt, "duration": self.duration}


class VideoToAudio(LegacyRequest):
    """A sound for a video, from Kling's own API. The fields are unverified.

    Args:
        video_url: URL of the video (MP4 or MOV). In place of `video_id`.
        video_id: The id of a video that Kling made.
        prompt: Description of what is heard.
        music: What music is heard.
        asmr: Whether the sounds are close and detailed.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/video-to-audio"
    path: ClassVar[str] = "/v1/audio/video-to-audio"
    wire_names: ClassVar[Mapping[str, str]] = {
        "sound_effect_prompt": "prompt",
        "bgm_prompt": "music",
        "asmr_mode": "asmr",
    }

    video_url: VideoUrl | None = None
    video_id: Id | None = None
    prompt: Prompt | None = None
    music: Prompt | None = None
    asmr: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.video_url is None) == (self.video_id is None):
            raise ValueError("give one of video_url and video_id")
        return self

    def body(self) -> dict[str, Any]:
        """The body."""
        return {
            "video_url": self.video_url,
            "video_id": self.video_id,
            "sound_effect_prompt": self.prompt,
            "bgm_prompt": self.music,
            "asmr_mode": self.asmr or None,
        }


class TextToSpeech(LegacyRequest):
    """Words spoken, from Kling's own API. The answer to the submission is the result.

    Kling takes no id of ours here, so a submission whose answer is lost stays unknown: no call shows whether it was
    bought.

    Source: ``kling.ai/document-api``, the page "text to speech".

    Args:
        prompt: What is said, 1 to 1 000 characters.
        voice_id: The voice, from Kling's list.
        voice_language: ``en`` or ``zh``.
        voice_speed: Speed of the speech, 0.8 to 2 times the normal one.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/text-to-speech"
    path: ClassVar[str] = "/v1/audio/tts"
    wire_names: ClassVar[Mapping[str, str]] = {"text": "prompt"}

    prompt: Annotated[AnyPrompt, StringConstraints(max_length=1000)]
    voice_id: Id | None = None
    voice_language: Literal["en", "zh"] = "en"
    voice_speed: Annotated[float, Field(ge=0.8, le=2)] = 1.0

    def body(self) -> dict[str, Any]:
        """The body."""
        return {
            "text": self.prompt,
            "voice_id": self.voice_id,
            "voice_language": self.voice_language,
            "voice_speed": self.voice_speed,
        }


class Effects(LegacyRequest):
    """One clip of a ready-made effect on one image or two, from Kling's own API.

    Source: ``kling.ai/document-api``, the page "video effects". Its list of scenes grows each month, so any name is
    passed on.

    Args:
        scene: The name of the effect, such as ``hug``.
        references: 1 or 2 images (JPEG, PNG, 10 MB, 300 pixels a side or more), as the effect needs.
        watermark: Whether to make a version with a watermark as well.
        callback_url: https URL to which the provider sends a webhook when the job ends. If None, the client's own
            webhook address, if it has one.
    """

    endpoint: ClassVar[str] = "kling/effects"
    path: ClassVar[str] = "/v1/videos/effects"
    wire_names: ClassVar[Mapping[str, str]] = {"effect_scene": "scene"}

    scene: Id
    references: Annotated[References, images(2)]
    watermark: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.references:
            raise ValueError("references is empty; an effect needs 1 or 2 images")
        return self

    def body(self) -> dict[str, Any]:
        """The body."""
        sent = [wire(image) for image in self.references]
        return {"effect_scene": self.scene, "input": {"image": sent[0]} if len(sent) == 1 else {"images": sent}}

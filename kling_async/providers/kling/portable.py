"""Which portable requests Kling's own API serves, from the capability maps in `models`.

A portable request is one clip without cuts, so ``multi_shot`` is always False.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kling_async.providers._base.offers import ImageOffer, Offer, VideoOffer
from kling_async.providers._base.portable import Image, Video
from kling_async.providers.kling.legacy import ImageGeneration, OmniImage
from kling_async.providers.kling.models import IMAGE_MODELS, OMNI_IMAGE_MODELS, VIDEO_MODELS, VideoModel
from kling_async.providers.kling.video import ImageToVideo, OmniVideo, TextToVideo

__all__ = ["OFFERS"]

_ALWAYS_SOUND = frozenset({"kling-3.0-turbo"})
_NEWEST_FIRST = ("kling-3.0", "kling-3.0-turbo", "kling-2.6", "kling-2.5-turbo")
_IMAGES = {
    "kling-image-3.0": ("kling-v3", IMAGE_MODELS),
    "kling-image-2.1": ("kling-v2-1", IMAGE_MODELS),
    "kling-image-3.0-omni": ("kling-v3-omni", OMNI_IMAGE_MODELS),
    "kling-image-o1": ("kling-image-o1", OMNI_IMAGE_MODELS),
}
"""The common name of each image model, with Kling's own name and where its limits are."""


def _sound(model: str, known: VideoModel) -> tuple[bool, ...]:
    if model in _ALWAYS_SOUND:
        return (True,)
    return (False, True) if "native" in known.audio else (False,)


def _settings(model: str, known: VideoModel, wanted: Video) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": model, "resolution": wanted.resolution, "duration": wanted.duration}
    if known.audio:
        fields["audio"] = "native" if wanted.audio else "off"
    if known.multi_shot:
        fields["multi_shot"] = False
    return fields


def _from_words(model: str, known: VideoModel) -> VideoOffer:
    def write(wanted: Video) -> Mapping[str, Any]:
        return {**_settings(model, known, wanted), "aspect_ratio": wanted.ratio}

    return VideoOffer(
        TextToVideo,
        model,
        write,
        durations=known.durations,
        resolutions=known.resolutions,
        audio=_sound(model, known),
    )


def _from_frames(model: str, known: VideoModel) -> VideoOffer:
    def write(wanted: Video) -> Mapping[str, Any]:
        frames = {"first_frame": wanted.first_frame, "last_frame": wanted.last_frame}
        return {**_settings(model, known, wanted), **frames}

    return VideoOffer(
        ImageToVideo,
        model,
        write,
        durations=known.durations,
        resolutions=known.resolutions,
        aspect_ratios=(),
        audio=_sound(model, known),
        first_frame="required",
        last_frame=True,
    )


def _omni(model: str, known: VideoModel) -> VideoOffer:
    def write(wanted: Video) -> Mapping[str, Any]:
        return {
            **_settings(model, known, wanted),
            "aspect_ratio": wanted.ratio,
            "references": wanted.references,
            "first_frame": wanted.first_frame,
            "last_frame": wanted.last_frame,
        }

    return VideoOffer(
        OmniVideo,
        model,
        write,
        durations=known.durations,
        resolutions=known.resolutions,
        audio=_sound(model, known),
        first_frame="optional",
        last_frame=True,
        references=7,
        mention="@image_{}",
    )


def _picture(wanted: Image) -> dict[str, Any]:
    return {"resolution": wanted.resolution, "aspect_ratio": wanted.aspect_ratio, "count": wanted.count}


def _pictures() -> Iterator[ImageOffer]:
    for model, (own, models) in _IMAGES.items():
        omni = models is OMNI_IMAGE_MODELS

        def write(wanted: Image, own: str = own, omni: bool = omni) -> Mapping[str, Any]:
            if omni:
                return {"model": own, **_picture(wanted), "references": wanted.references}
            reference = wanted.references[0] if wanted.references else None
            return {
                "model": own,
                **_picture(wanted),
                "reference": reference,
                "negative_prompt": wanted.negative_prompt,
            }

        yield ImageOffer(
            OmniImage if omni else ImageGeneration,
            model,
            write,
            resolutions=models[own].resolutions,
            count=9,
            references=10 if omni else 1,
            negative_prompt=not omni,
            mention="<<<image_{}>>>" if omni else None,
        )


def _videos() -> Iterator[VideoOffer]:
    for model in _NEWEST_FIRST:
        yield _from_words(model, VIDEO_MODELS["text-to-video"][model])
        yield _from_frames(model, VIDEO_MODELS["image-to-video"][model])
    for model, known in VIDEO_MODELS["omni-video"].items():
        yield _omni(model, known)


OFFERS: tuple[Offer, ...] = (*_videos(), *_pictures())

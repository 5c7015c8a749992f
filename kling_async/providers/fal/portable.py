"""Which portable requests fal serves, from the models in `models`.

A tier of fal stands for a resolution: ``standard`` for 720p, ``pro`` for 1080p, same as Kling's own modes. fal's names
``o3`` and ``v3`` are Kling 3.0 Omni and 3.0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kling_async.providers._base.offers import ImageOffer, Offer, VideoOffer
from kling_async.providers._base.portable import Image as PortableImage
from kling_async.providers._base.portable import Video
from kling_async.providers.fal.models import IMAGE_TO_VIDEO, REFERENCE_TO_VIDEO, TEXT_TO_VIDEO, VideoModel
from kling_async.providers.fal.request import Image, ImageToVideo, ReferenceToVideo, TextToVideo

__all__ = ["OFFERS"]

_RESOLUTIONS = {"standard": "720p", "pro": "1080p", "4k": "4k"}
_TIERS = {resolution: tier for tier, resolution in _RESOLUTIONS.items()}
_VIDEO_NAMES = {
    "v3": "kling-3.0",
    "o3": "kling-3.0-omni",
    "o1": "kling-o1",
    "v2.6": "kling-2.6",
    "v2.5-turbo": "kling-2.5-turbo",
}
_IMAGE_NAMES = {"v3": "kling-image-3.0", "o3": "kling-image-3.0-omni", "o1": "kling-image-o1"}
_MENTION = "@Image{}"


def _settings(model: str, known: VideoModel, wanted: Video) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": model, "tier": _TIERS[wanted.resolution], "duration": wanted.duration}
    if "generate_audio" in known.optional:
        fields["generate_audio"] = wanted.audio
    if wanted.negative_prompt is not None:
        fields["negative_prompt"] = wanted.negative_prompt
    return fields


def _limits(known: VideoModel) -> dict[str, Any]:
    return {
        "durations": known.seconds,
        "resolutions": tuple(_RESOLUTIONS[tier] for tier in known.tiers),
        "audio": (False, True) if "generate_audio" in known.optional else (False,),
        "negative_prompt": "negative_prompt" in known.optional,
    }


def _from_words(model: str, known: VideoModel) -> VideoOffer:
    def write(wanted: Video) -> Mapping[str, Any]:
        return {**_settings(model, known, wanted), "aspect_ratio": wanted.ratio}

    return VideoOffer(TextToVideo, _VIDEO_NAMES[model], write, **_limits(known))


def _from_frames(model: str, known: VideoModel) -> VideoOffer:
    def write(wanted: Video) -> Mapping[str, Any]:
        frames = {"start_image": wanted.first_frame, "end_image": wanted.last_frame}
        return {**_settings(model, known, wanted), **frames}

    return VideoOffer(
        ImageToVideo,
        _VIDEO_NAMES[model],
        write,
        **_limits(known),
        aspect_ratios=(),
        first_frame="required",
        last_frame="end_image" in known.optional,
    )


def _from_references(model: str, known: VideoModel) -> VideoOffer:
    def write(wanted: Video) -> Mapping[str, Any]:
        # With a first frame there is no ratio to give: fal's page does not say whether it is ignored then.
        return {**_settings(model, known, wanted), "aspect_ratio": wanted.ratio, "references": wanted.references}

    return VideoOffer(
        ReferenceToVideo,
        _VIDEO_NAMES[model],
        write,
        **_limits(known),
        references=7,
        least_references=1,
        mention=_MENTION,
    )


def _pictures(model: str, *, most: int, least: int = 0) -> ImageOffer:
    def write(wanted: PortableImage) -> Mapping[str, Any]:
        return {
            "model": model,
            "resolution": wanted.resolution,
            "aspect_ratio": wanted.aspect_ratio,
            "count": wanted.count,
            "references": wanted.references,
            "negative_prompt": wanted.negative_prompt,
        }

    return ImageOffer(
        Image,
        _IMAGE_NAMES[model],
        write,
        resolutions=("1k", "2k", "4k") if model == "o3" else ("1k", "2k"),
        count=9,
        references=most,
        least_references=least,
        negative_prompt=model == "v3",
        mention=_MENTION,
    )


def _videos() -> Iterator[VideoOffer]:
    for model, known in TEXT_TO_VIDEO.items():
        yield _from_words(model, known)
    for model, known in IMAGE_TO_VIDEO.items():
        yield _from_frames(model, known)
    for model, known in REFERENCE_TO_VIDEO.items():
        yield _from_references(model, known)


OFFERS: tuple[Offer, ...] = (
    *_videos(),
    _pictures("v3", most=1),
    _pictures("o3", most=10),
    _pictures("o1", most=10, least=1),
)

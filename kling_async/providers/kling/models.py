"""What each model of Kling's own API allows, and the checks that use it. Pure.

Source: ``kling.ai/document-api`` (the pages of the models and the capability maps), read in September 2026. Where two
pages disagree the stricter one is used, so that nothing is sent that one of them forbids.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

__all__ = ["IMAGE_MODELS", "OMNI_IMAGE_MODELS", "VIDEO_MODELS", "ImageModel", "VideoModel", "require", "unknown_model"]

log = logging.getLogger("kling_async")

LONG_PROMPT = 3072  # characters
SHORT_PROMPT = 2500
_3_TO_15 = tuple(range(3, 16))
_SOUND = ("native", "off")
_LOW = ("720p", "1080p")
_ALL = ("720p", "1080p", "4k")


@dataclass(frozen=True, slots=True)
class VideoModel:
    """What a model allows on one path.

    Attributes:
        prompt: Longest prompt in characters.
        resolutions: Values of `resolution`.
        durations: Values of `duration` in seconds. Empty: the length follows from the input.
        audio: Values of `audio`. Empty: the model has no such setting.
        multi_shot: Whether it has the setting `multi_shot`.
        elements: How many elements it takes.
        voices: How many voices it takes.
    """

    prompt: int = SHORT_PROMPT
    resolutions: tuple[str, ...] = _LOW
    durations: tuple[int, ...] = (5, 10)
    audio: tuple[str, ...] = ()
    multi_shot: bool = False
    elements: int = 0
    voices: int = 0


_TURBO = VideoModel(LONG_PROMPT, _LOW, _3_TO_15)
VIDEO_MODELS: Mapping[str, Mapping[str, VideoModel]] = {
    "text-to-video": {
        "kling-3.0-turbo": _TURBO,
        "kling-3.0": VideoModel(LONG_PROMPT, _ALL, _3_TO_15, _SOUND, multi_shot=True),
        "kling-2.6": VideoModel(audio=_SOUND),
        "kling-2.5-turbo": VideoModel(),
    },
    "image-to-video": {
        "kling-3.0-turbo": _TURBO,
        # The table of contents names elements for 3.0, and no page states whether this path is meant: unverified.
        "kling-3.0": VideoModel(LONG_PROMPT, _ALL, _3_TO_15, _SOUND, multi_shot=True, elements=3),
        "kling-2.6": VideoModel(audio=_SOUND, voices=2),
        "kling-2.5-turbo": VideoModel(),
    },
    "omni-video": {
        "kling-3.0-omni": VideoModel(
            LONG_PROMPT, _ALL, _3_TO_15, ("native", "original", "off"), multi_shot=True, elements=7
        ),
        "kling-o1": VideoModel(SHORT_PROMPT, _LOW, tuple(range(3, 11)), ("original", "off"), elements=7),
    },
    "motion-control": {
        "kling-3.0": VideoModel(durations=(), audio=("original", "off"), elements=1),
        "kling-2.6": VideoModel(durations=(), audio=("original", "off")),
    },
}
"""By product and model."""


@dataclass(frozen=True, slots=True)
class ImageModel:
    """What a model of still pictures allows.

    Attributes:
        resolutions: Values of `resolution`.
        series: Whether it makes series.
        likeness: Whether it takes a subject or a face from the reference.
        auto_without_images: Whether it chooses the ratio itself where there is no image.
    """

    resolutions: tuple[str, ...] = ("1k", "2k")
    series: bool = False
    likeness: bool = False
    auto_without_images: bool = True


OMNI_IMAGE_MODELS: Mapping[str, ImageModel] = {
    # Whether O1 takes `auto` without images is not documented: unverified.
    "kling-image-o1": ImageModel(),
    "kling-v3-omni": ImageModel(("1k", "2k", "4k"), series=True, auto_without_images=False),
}
IMAGE_MODELS: Mapping[str, ImageModel] = {"kling-v3": ImageModel(), "kling-v2-1": ImageModel(likeness=True)}


@cache
def unknown_model(endpoint: str, model: str, known: tuple[str, ...]) -> None:
    """Warn once that a model is not known, so that only Kling itself checks its limits."""
    log.warning(
        "%s: this version of kling_async does not know the model %r (it knows %s), so its limits and its price are not "
        "checked here; Kling checks the limits",
        endpoint,
        model,
        ", ".join(known),
    )


def require(
    name: str, value: Any, model: str, allowed: Sequence[Any], others: Iterable[tuple[str, Sequence[Any]]] = ()
) -> None:
    """Check a value against what the model allows.

    Args:
        name: The field.
        value: What was given.
        model: The model.
        allowed: What the model allows. Empty: the model has no such field.
        others: What other models allow, to name those that allow the value.

    Raises:
        ValueError: It is not allowed. Names the field, the value, and what the model allows.
    """
    if value in allowed:
        return
    fitting = [other for other, values in others if value in values]
    elsewhere = f" ({value!r} is allowed by {', '.join(fitting)})" if fitting else ""
    if not allowed:
        raise ValueError(f"{name} is {value!r}, but {model} has no such setting; leave it out{elsewhere}")
    raise ValueError(f"{name} is {value!r}; {model} allows {spelled(allowed)}{elsewhere}")


def spelled(values: Sequence[Any]) -> str:
    """Values as text, a run of numbers as ``3 to 15``."""
    run = len(values) > 2 and list(values) == list(range(values[0], values[0] + len(values)))  # noqa: PLR2004
    return f"{values[0]} to {values[-1]}" if run else ", ".join(map(str, values))


def others(product: str, read: Callable[[VideoModel], Sequence[Any]]) -> list[tuple[str, Sequence[Any]]]:
    """What the models of a product allow in one field."""
    return [(name, read(model)) for name, model in VIDEO_MODELS[product].items()]

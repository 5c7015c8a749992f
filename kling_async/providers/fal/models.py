"""What each of fal's Kling models allows. Source: docs/providers/fal.md, section 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["IMAGE_TO_VIDEO", "MOTION_CONTROL", "REFERENCE_TO_VIDEO", "TEXT_TO_VIDEO", "VIDEO_EDIT", "VideoModel"]

_FIVE_OR_TEN = (5, 10)
_UP_TO_TEN = tuple(range(3, 11))
_UP_TO_FIFTEEN = tuple(range(3, 16))


@dataclass(frozen=True, slots=True)
class VideoModel:
    """What one model allows at one endpoint.

    Attributes:
        path: The model's full id, with ``{tier}`` where the tier stands.
        tiers: The tiers that it has. The first one is the default.
        seconds: The lengths of its videos.
        optional: The fields that not every model has, and that this one has.
        start: fal's name for the first frame.
        end: fal's name for the last frame. Empty if there is none.
        end_tiers: The tiers that take a last frame. Empty: all.
        most_inputs: How many reference images and elements there may be together. None: no source tells.
    """

    path: str
    tiers: tuple[str, ...] = ("standard", "pro")
    seconds: tuple[int, ...] = ()
    optional: frozenset[str] = frozenset()
    start: str = "start_image_url"
    end: str = "end_image_url"
    end_tiers: tuple[str, ...] = ()
    most_inputs: int | None = None

    def target(self, tier: str) -> str:
        """The full id of the model in this tier."""
        if tier == "pro" and self.path.startswith(_O1):  # its better tier has no name in the path
            return self.path.replace("/{tier}", "")
        return self.path.replace("{tier}", tier)


_O1 = "fal-ai/kling-video/o1/"
_KLING = "fal-ai/kling-video"
_CFG = frozenset({"negative_prompt", "cfg_scale"})
_SHOTS = frozenset({"multi_prompt", "shot_type", "generate_audio"})

TEXT_TO_VIDEO: Mapping[str, VideoModel] = {
    "v3": VideoModel(f"{_KLING}/v3/{{tier}}/text-to-video", ("standard", "pro", "4k"), _UP_TO_FIFTEEN, _SHOTS | _CFG),
    "o3": VideoModel(f"{_KLING}/o3/{{tier}}/text-to-video", seconds=_UP_TO_FIFTEEN, optional=_SHOTS),
    "v2.6": VideoModel(f"{_KLING}/v2.6/{{tier}}/text-to-video", ("pro",), _FIVE_OR_TEN, _CFG | {"generate_audio"}),
    "v2.5-turbo": VideoModel(f"{_KLING}/v2.5-turbo/{{tier}}/text-to-video", ("pro",), _FIVE_OR_TEN, _CFG),
}
IMAGE_TO_VIDEO: Mapping[str, VideoModel] = {
    "v3": VideoModel(
        f"{_KLING}/v3/{{tier}}/image-to-video",
        ("standard", "pro", "4k"),
        _UP_TO_FIFTEEN,
        _SHOTS | _CFG | {"elements", "end_image"},
    ),
    "o3": VideoModel(
        f"{_KLING}/o3/{{tier}}/image-to-video",
        seconds=_UP_TO_FIFTEEN,
        optional=_SHOTS | {"end_image"},
        start="image_url",
    ),
    "o1": VideoModel(f"{_O1}{{tier}}/image-to-video", seconds=_UP_TO_TEN, optional=frozenset({"end_image"})),
    "v2.6": VideoModel(
        f"{_KLING}/v2.6/{{tier}}/image-to-video",
        ("pro",),
        _FIVE_OR_TEN,
        frozenset({"generate_audio", "voice_ids", "end_image"}),
    ),
    "v2.5-turbo": VideoModel(
        f"{_KLING}/v2.5-turbo/{{tier}}/image-to-video",
        seconds=_FIVE_OR_TEN,
        optional=_CFG | {"end_image"},
        start="image_url",
        end="tail_image_url",
        end_tiers=("pro",),
    ),
}
REFERENCE_TO_VIDEO: Mapping[str, VideoModel] = {
    "o3": VideoModel(
        f"{_KLING}/o3/{{tier}}/reference-to-video",
        seconds=_UP_TO_FIFTEEN,
        optional=_SHOTS | {"start_image", "end_image"},
    ),
    "o1": VideoModel(f"{_O1}{{tier}}/reference-to-video", seconds=_UP_TO_TEN, most_inputs=7),
}
VIDEO_EDIT: Mapping[str, VideoModel] = {
    "o3": VideoModel(f"{_KLING}/o3/{{tier}}/video-to-video", seconds=_UP_TO_FIFTEEN, most_inputs=4),
    "o1": VideoModel(f"{_O1}{{tier}}/video-to-video", seconds=_UP_TO_TEN, most_inputs=4),
}
MOTION_CONTROL: Mapping[str, VideoModel] = {
    "v3": VideoModel(f"{_KLING}/v3/{{tier}}/motion-control", optional=frozenset({"elements"}), most_inputs=1),
    "v2.6": VideoModel(f"{_KLING}/v2.6/{{tier}}/motion-control"),
}

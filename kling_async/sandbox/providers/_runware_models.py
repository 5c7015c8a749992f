"""What Runware's pages say of each Kling video model: sizes, lengths, inputs and prices.

Written out here once more, from ``runware.ai/docs/models/klingai-*`` and the types of runware-sdk 1.8.0, so that a slip
in the client's table shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

__all__ = ["HD", "O1", "RULES", "Rule"]

HD = "1280x720 720x1280 960x960"
FULL_HD = "1920x1080 1080x1920 1440x1440"
UHD = "3840x2160 2160x3840 2880x2880"
SHORT, MIDDLE, LONG = {5, 10}, {*range(3, 11)}, {*range(3, 16)}
COMMON = {"inputs", "positivePrompt", "duration"}
SIZED = {*COMMON, "width", "height"}


@dataclass(frozen=True, slots=True)
class Rule:
    """One model.

    Args:
        sizes: Those that width and height may have.
        durations: Seconds.
        fields: What a task may have beside the fields that every video task has.
        inputs: What `inputs` may have.
        settings: What `providerSettings.klingai` may have.
        silent: USD a second.
        sound: USD a second with sound.
        source: USD a second with a video, and for O1 with reference images.
        resolutions: Values of `resolution`, and their price if it is another one.
        last: Whether a last frame is taken.
        prompt: Whether a prompt is required.
    """

    sizes: str
    durations: set[int]
    fields: set[str]
    inputs: set[str]
    settings: set[str]
    silent: str
    sound: str = ""
    source: str = ""
    resolutions: Mapping[str, str] | None = None
    last: bool = True
    prompt: bool = False

    def price(self, size: str, seconds: int, *, sound: bool, source: bool) -> Decimal:
        """USD for one clip."""
        rate = self.source if source and self.source else self.sound if sound and self.sound else self.silent
        if self.resolutions is not None:
            rate = self.resolutions["1080p" if size in FULL_HD.split() else "720p"]
        return Decimal(rate) * seconds


_V3 = {*SIZED, "negativePrompt", "providerSettings"}
_V3_INPUTS = {"frameImages"}
_O3 = {*SIZED, "resolution", "providerSettings"}
_ALL_INPUTS = {"frameImages", "referenceImages", "referenceVideos", "video"}
_V3_SOUND, _O3_SOUND, _O1_SOUND = {"sound"}, {"sound", "keepOriginalSound"}, {"keepOriginalSound"}

RULES: Mapping[str, Rule] = {
    "klingai:6@0": Rule(
        "", SHORT, {*COMMON, "negativePrompt", "CFGScale"}, {"frameImages"}, set(), "0.042", last=False, prompt=True
    ),
    "klingai:6@1": Rule(
        "1280x720 720x1280 720x720",
        SHORT,
        {*SIZED, "negativePrompt", "CFGScale"},
        {"frameImages"},
        set(),
        "0.07",
        prompt=True,
    ),
    "klingai:kling-video@2.6-pro": Rule(
        "1920x1080 1080x1920 1080x1080",
        SHORT,
        {*SIZED, "negativePrompt", "CFGScale", "providerSettings"},
        {"frameImages"},
        _V3_SOUND,
        "0.07",
        "0.14",
        last=False,
    ),
    "klingai:kling-video@3-standard": Rule(HD, LONG, _V3, _V3_INPUTS, _V3_SOUND, "0.084", "0.126"),
    "klingai:kling-video@3-pro": Rule(FULL_HD, LONG, _V3, _V3_INPUTS, _V3_SOUND, "0.112", "0.168"),
    "klingai:kling-video@3-4k": Rule(UHD, LONG, _V3, _V3_INPUTS, _V3_SOUND, "0.42"),
    "klingai:kling-video@3.0-turbo": Rule(
        f"{HD} {FULL_HD}",
        LONG,
        {*SIZED, "negativePrompt", "resolution"},
        {"frameImages"},
        set(),
        "0.112",
        resolutions={"720p": "0.112", "1080p": "0.14"},
        prompt=True,
    ),
    "klingai:kling-video@o3-standard": Rule(HD, LONG, _O3, _ALL_INPUTS, _O3_SOUND, "0.084", "0.112", "0.126"),
    "klingai:kling-video@o3-pro": Rule(FULL_HD, LONG, _O3, _ALL_INPUTS, _O3_SOUND, "0.112", "0.14", "0.168"),
    "klingai:kling-video@o3-4k": Rule(UHD, LONG, _O3, _ALL_INPUTS, _O3_SOUND, "0.42"),
    "klingai:kling@o1-standard": Rule(
        HD, MIDDLE, {*SIZED, "providerSettings"}, _ALL_INPUTS, _O1_SOUND, "0.084", source="0.126", prompt=True
    ),
    "klingai:kling@o1": Rule(
        FULL_HD, MIDDLE, {*SIZED, "providerSettings"}, _ALL_INPUTS, _O1_SOUND, "0.112", source="0.168", prompt=True
    ),
}
"""The models, by AIR."""
O1 = frozenset({"klingai:kling@o1", "klingai:kling@o1-standard"})

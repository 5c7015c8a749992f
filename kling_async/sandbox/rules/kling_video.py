"""The bodies of the new generation of the official Kling API, from docs/providers/kling.md alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kling_async.sandbox.rules.fields import Field, problems_of
from kling_async.sandbox.rules.kling_media import address_problem, new_image, video_problem

_RATIOS = ("16:9", "9:16", "1:1")
_LOW = ("720p", "1080p")
_ALL = ("720p", "1080p", "4k")
_3_TO_15 = tuple(range(3, 16))
_3_TO_10 = tuple(range(3, 11))
_LONG_PROMPT = 3072
_PROMPT = 2500
_MOST_SHOTS = 6
_SHOT_WORDS = 512
_SHOT = re.compile(r"\s*shot\s+(\d+)\s*,\s*(\d+)\s*,\s*([^;]*);?", re.IGNORECASE)


@dataclass(frozen=True)
class NewModel:
    """What one path takes."""

    prompt: int
    resolutions: tuple[str, ...] = _LOW
    durations: tuple[int, ...] = ()
    audio: tuple[str, ...] = ()
    multi_shot: bool = False
    contents: frozenset[str] = frozenset()


_FRAMES = frozenset({"prompt", "first_frame", "last_frame"})
_OMNI = _FRAMES | {"refer_image", "feature_video", "base_video", "element"}
_MOTION = frozenset({"prompt", "image", "video"})
_SOUND = ("native", "off")

NEW_MODELS: Mapping[str, NewModel] = {
    "text-to-video/kling-3.0-turbo": NewModel(_LONG_PROMPT, _LOW, _3_TO_15),
    "text-to-video/kling-3.0": NewModel(_LONG_PROMPT, _ALL, _3_TO_15, _SOUND, multi_shot=True),
    "text-to-video/kling-2.6": NewModel(_PROMPT, _LOW, (5, 10), _SOUND),
    "text-to-video/kling-2.5-turbo": NewModel(_PROMPT, _LOW, (5, 10)),
    "image-to-video/kling-3.0-turbo": NewModel(_LONG_PROMPT, _LOW, _3_TO_15, contents=_FRAMES),
    # No source tells whether image-to-video of 3.0 takes elements.
    "image-to-video/kling-3.0": NewModel(
        _LONG_PROMPT, _ALL, _3_TO_15, _SOUND, multi_shot=True, contents=_FRAMES | {"element"}
    ),
    "image-to-video/kling-2.6": NewModel(_PROMPT, _LOW, (5, 10), _SOUND, contents=_FRAMES | {"voice"}),
    "image-to-video/kling-2.5-turbo": NewModel(_PROMPT, _LOW, (5, 10), contents=_FRAMES),
    "omni-video/kling-3.0-omni": NewModel(
        _LONG_PROMPT, _ALL, _3_TO_15, ("native", "original", "off"), multi_shot=True, contents=_OMNI
    ),
    # One source says that multi_shot works on o1 too, but no field table has it.
    "omni-video/kling-o1": NewModel(_PROMPT, _LOW, _3_TO_10, ("original", "off"), contents=_OMNI),
    "motion-control/kling-3.0": NewModel(_PROMPT, _LOW, (), ("original", "off"), contents=_MOTION | {"element"}),
    "motion-control/kling-2.6": NewModel(_PROMPT, _LOW, (), ("original", "off"), contents=_MOTION),
}

_TYPE = Field("a string", required=True)
_NAME = Field("a text that is not empty")
_IMAGE = {
    "type": _TYPE,
    "url": Field("a text that is not empty", required=True, check=new_image),
    "id": _NAME,
}
_VIDEO = {
    "type": _TYPE,
    "url": Field("a text that is not empty", required=True, check=video_problem),
    "id": _NAME,
}


def _named(what: str) -> dict[str, Field]:
    needed = Field("a text that is not empty", required=True)
    return {"type": _TYPE, what: needed, "id": needed}


_ITEMS: Mapping[str, Mapping[str, Field]] = {
    "prompt": {"type": _TYPE, "text": Field("a text that is not empty", required=True)},
    "first_frame": _IMAGE,
    "last_frame": _IMAGE,
    "refer_image": _IMAGE,
    "feature_video": _VIDEO,
    "base_video": _VIDEO,
    "image": {name: known for name, known in _IMAGE.items() if name != "id"},
    "video": {name: known for name, known in _VIDEO.items() if name != "id"},
    "element": _named("element_id"),
    "voice": _named("voice_id"),
}

OPTIONS = {
    "callback_url": Field("a text that is not empty", check=address_problem),
    "external_task_id": Field("a text that is not empty"),
    "watermark_info": Field("an object", fields={"enabled": Field("a boolean", required=True)}),
}


def _settings(path: str, model: NewModel) -> dict[str, Field]:
    product = path.partition("/")[0]
    fields = {"resolution": Field("a string", values=model.resolutions, money=True)}
    if model.durations:
        fields["duration"] = Field("an integer", values=model.durations, money=True)
    if product in {"text-to-video", "omni-video"}:
        fields["aspect_ratio"] = Field("a string", values=_RATIOS)
    if model.audio:
        fields["audio"] = Field("a string", values=model.audio, money=True)
    if model.multi_shot:
        fields["multi_shot"] = Field("a boolean", money=True)
    if product == "motion-control":
        fields["character_orientation"] = Field("a string", required=True, values=("image", "video"))
    return fields


@dataclass(frozen=True)
class Body:
    """A body whose fields have the right types, ready for the rules between fields."""

    path: str
    model: NewModel
    settings: Mapping[str, Any]
    items: list[dict[str, Any]]
    prompt: str
    characters: frozenset[str]

    @property
    def product(self) -> str:
        """The first part of the path."""
        return self.path.partition("/")[0]

    @property
    def name(self) -> str:
        """The model."""
        return self.path.partition("/")[2]

    def of(self, *types: str) -> list[dict[str, Any]]:
        """The items of these types."""
        return [item for item in self.items if item["type"] in types]


def problems_of_new(path: str, body: Mapping[str, Any], characters: frozenset[str]) -> tuple[list[str], list[str]]:
    """What is wrong with a body, and which price inputs it leaves to the seller.

    Args:
        path: Product and model, such as `omni-video/kling-o1`.
        body: The body.
        characters: The ids of the elements that are video characters.
    """
    model = NEW_MODELS[path]
    settings = _settings(path, model)
    required = any(known.required for known in settings.values())
    fields = {
        "settings": Field("an object", required=required, fields=settings),
        "options": Field("an object", fields=OPTIONS),
    }
    if model.contents:
        fields["contents"] = Field("a list of objects", required=True)
    else:
        fields["prompt"] = Field("a text that is not empty", required=True)
    found = problems_of(body, fields, ())
    if found:
        return found, []
    items = body.get("contents", [])
    found = [problem for number, item in enumerate(items) for problem in _item_problems(model, number, item)]
    if found:
        return found, []
    prompt = body.get("prompt") or "".join(item["text"] for item in items if item["type"] == "prompt")
    given = body.get("settings", {})
    whole = Body(path, model, given, items, prompt, characters)
    left = [name for name, known in settings.items() if known.money and name not in given]
    return [problem for rule in _RULES for problem in rule(whole)], left


def _item_problems(model: NewModel, number: int, item: Mapping[str, Any]) -> list[str]:
    kind = item.get("type")
    if not isinstance(kind, str) or kind not in model.contents:
        return [f"contents[{number}].type is {kind!r}, which is not one of {sorted(model.contents)}"]
    return problems_of(item, _ITEMS[kind], (), f"contents[{number}].")


# Rules between fields ---------------------------------------------------------------------------------------------


def _counts(body: Body) -> Iterator[str]:
    count = Counter(item["type"] for item in body.items)
    for kind in ("prompt", "first_frame", "last_frame", "image", "video"):
        if count[kind] > 1:
            yield f"contents has {count[kind]} items of type {kind}, more than 1"
    if count["last_frame"] and not count["first_frame"]:
        yield "contents has a last_frame and no first_frame"
    if body.product == "image-to-video" and not count["first_frame"]:
        yield "image-to-video has no first_frame"
    if body.product == "motion-control" and not (count["image"] and count["video"]):
        yield "motion-control needs an image and a video"
    if body.product == "motion-control" and count["element"] > 1:
        yield f"motion-control has {count['element']} elements, more than 1"
    if body.product != "omni-video" and count["element"] > 3:  # noqa: PLR2004  # the page's number
        yield f"contents has {count['element']} elements, more than 3"
    if count["voice"] > 2:  # noqa: PLR2004  # the page's number
        yield f"contents has {count['voice']} voices, more than 2"


def _prompt(body: Body) -> Iterator[str]:
    if len(body.prompt) > body.model.prompt:
        yield f"the prompt has {len(body.prompt)} characters, more than {body.model.prompt}"
    if "<<<" in body.prompt:
        yield "the prompt has a reference of the legacy form <<<name>>>; the new generation takes @id"


def _references(body: Body) -> Iterator[str]:
    names = [item["id"] for item in body.items if "id" in item]
    for name, times in Counter(names).items():
        if times > 1:
            yield f"the id {name!r} stands {times} times in contents"
    elements = [item["id"] for item in body.of("element")]
    for one in elements:
        for other in elements:
            if one != other and one in other:
                yield f"the element name {one!r} is a part of the element name {other!r}"
    for match in re.finditer(r"(?<![\w.@])@(\w[\w-]*)", body.prompt):
        if not any(match[1].startswith(name.removeprefix("@")) for name in names):
            yield f"the prompt has @{match[1]}, and no item of contents has this id"


def _sound(body: Body) -> Iterator[str]:
    audio, resolution = body.settings.get("audio", "off"), body.settings.get("resolution", "720p")
    if body.name != "kling-2.6" or body.product == "motion-control":
        return
    if audio == "native" and resolution != "1080p":
        yield "audio native of kling-2.6 needs resolution 1080p"
    if body.of("last_frame") and resolution != "1080p":
        yield "first and last frame of kling-2.6 need resolution 1080p"
    if body.of("voice") and (audio == "off" or resolution != "1080p"):
        yield "a voice needs audio that is not off, and resolution 1080p"


def _shots(body: Body) -> Iterator[str]:
    turbo = body.name == "kling-3.0-turbo"
    if not (body.model.multi_shot or turbo) or body.settings.get("multi_shot") is False:
        return
    if not re.match(r"\s*shot\s+1\s*,\s*\d+\s*,", body.prompt, re.IGNORECASE):
        return
    shots = [(int(match[1]), int(match[2]), match[3].strip()) for match in _SHOT.finditer(body.prompt)]
    if len(shots) > _MOST_SHOTS:
        yield f"the prompt has {len(shots)} shots, more than {_MOST_SHOTS}"
    if [shot[0] for shot in shots] != list(range(1, len(shots) + 1)):
        yield f"the shots are numbered {[shot[0] for shot in shots]}"
    if any(shot[1] < 1 for shot in shots):
        yield "a shot is shorter than 1 second"
    if any(len(shot[2]) > _SHOT_WORDS for shot in shots):
        yield f"the words of a shot are longer than {_SHOT_WORDS} characters"
    total, duration = sum(shot[1] for shot in shots), body.settings.get("duration", 5)
    if total != duration:
        yield f"the shots last {total} seconds together, and duration is {duration}"


def _omni_ratio(body: Body) -> Iterator[str]:
    if body.product != "omni-video":
        return
    if not body.of("first_frame", "feature_video", "base_video") and "aspect_ratio" not in body.settings:
        yield "aspect_ratio is required without a first frame or a reference video"


def _omni_video(body: Body) -> Iterator[str]:
    feature, base = body.of("feature_video"), body.of("base_video")
    audio, multi_shot = body.settings.get("audio"), body.settings.get("multi_shot")
    if len(feature) + len(base) > 1:
        yield f"contents has {len(feature) + len(base)} videos, more than 1"
    if base and body.of("first_frame", "last_frame"):
        yield "base_video takes no frames"
    if base and multi_shot:  # no source tells what the default does here
        yield "base_video takes no multi-shot"
    if base and audio == "native":
        yield "base_video takes no native audio"
    if feature and audio not in {None, "off"}:
        yield f"feature_video takes audio off only, not {audio}"
    if feature and multi_shot is False:
        yield "feature_video takes multi_shot true only"


def _omni_counts(body: Body) -> Iterator[str]:
    if body.product != "omni-video":
        return
    elements, images = body.of("element"), body.of("refer_image")
    characters = [item for item in elements if item["element_id"] in body.characters]
    video = body.of("feature_video", "base_video")
    most = 4 if video or characters else 7
    if len(elements) + len(images) > most:
        yield f"contents has {len(elements) + len(images)} images and elements together, more than {most}"
    if body.name == "kling-o1":
        yield from _o1(body, bool(characters))
        return
    if body.of("first_frame") and len(elements) > 3:  # noqa: PLR2004  # the page's number
        yield f"contents has a frame and {len(elements)} elements, more than 3"
    if len(characters) > (1 if video else 3):
        yield f"contents has {len(characters)} video-character elements, more than {1 if video else 3}"
    if video and characters and len(characters) < len(elements):
        yield "a reference video takes image elements or one video-character element, not both kinds"


def _o1(body: Body, has_characters: bool) -> Iterator[str]:
    first, last = body.of("first_frame"), body.of("last_frame")
    others = body.of("refer_image", "element", "feature_video", "base_video")
    if has_characters:
        yield "kling-o1 takes no video-character elements"
    if last and body.of("refer_image", "element"):
        yield "kling-o1 with both frames takes no reference images and no elements"
    if last and body.of("feature_video"):
        yield "kling-o1 with a feature_video takes no last_frame"
    duration = body.settings.get("duration", 5)
    # Sources disagree on text-to-video, which is accepted, and none tells about both frames.
    if first and not last and not others and duration not in {5, 10}:
        yield f"kling-o1 with only a first frame takes duration 5 or 10, not {duration}"


_RULES: tuple[Callable[[Body], Iterator[str]], ...] = (
    _counts,
    _prompt,
    _references,
    _sound,
    _shots,
    _omni_ratio,
    _omni_video,
    _omni_counts,
)

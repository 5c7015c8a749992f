"""A portable request means the same at every provider that is offered for it, or it is not offered there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kling_async import Image, NotOffered, Request, Video
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers.base import nearest_change, options

FRAME, LAST = "https://example.test/first.png", "https://example.test/last.png"
PICTURES = tuple(f"https://example.test/{number}.png" for number in range(1, 11))
MODELS = sorted({offer.model for kind in ALL_PROVIDERS for offer in kind.portable})
RATIOS = ("16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9")


@dataclass(frozen=True)
class Meaning:
    """What an endpoint's own request asks for, read back from it by hand."""

    model: str
    duration: int | None = None
    resolution: str | None = None
    ratio: str | None = None
    audio: bool = False
    count: int = 1
    first: object = None
    last: object = None
    references: tuple[object, ...] = ()
    negative: str | None = None


def _kling_video(request: Any) -> Meaning:
    return Meaning(
        request.model,
        request.duration,
        request.resolution,
        getattr(request, "aspect_ratio", None),
        request.audio == "native" or request.model == "kling-3.0-turbo",
        first=getattr(request, "first_frame", None),
        last=getattr(request, "last_frame", None),
        references=getattr(request, "references", ()),
    )


def _kling_image(request: Any) -> Meaning:
    names = {
        "kling-v3": "kling-image-3.0",
        "kling-v2-1": "kling-image-2.1",
        "kling-v3-omni": "kling-image-3.0-omni",
        "kling-image-o1": "kling-image-o1",
    }
    single = getattr(request, "reference", None)
    return Meaning(
        names[request.model],
        resolution=request.resolution,
        ratio=request.aspect_ratio,
        count=request.count,
        references=getattr(request, "references", (single,) if single else ()),
        negative=getattr(request, "negative_prompt", None),
    )


def _replicate(model: str) -> Callable[[Any], Meaning]:
    def read(request: Any) -> Meaning:
        mode = getattr(request, "mode", "pro")
        given = request.model_input()
        first = given.get("start_image")
        return Meaning(
            model,
            request.duration,
            "1080p" if mode == "pro" else "720p",
            None if first else given.get("aspect_ratio"),
            given.get("generate_audio", False),
            first=first,
            last=given.get("end_image"),
            references=given.get("references", ()),
            negative=given.get("negative_prompt"),
        )

    return read


def _picture(model: str) -> Callable[[Any], Meaning]:
    def read(request: Any) -> Meaning:
        single = getattr(request, "reference", None)
        return Meaning(
            model,
            resolution=request.resolution,
            ratio=request.aspect_ratio,
            count=getattr(request, "count", 1),
            references=getattr(request, "references", (single,) if single else ()),
            negative=getattr(request, "negative_prompt", None),
        )

    return read


RUNWARE_MODELS = {
    "klingai:kling-video@3-standard": ("kling-3.0", "720p"),
    "klingai:kling-video@3-pro": ("kling-3.0", "1080p"),
    "klingai:kling-video@3-4k": ("kling-3.0", "4k"),
    "klingai:kling-video@3.0-turbo": ("kling-3.0-turbo", None),
    "klingai:kling-video@o3-standard": ("kling-3.0-omni", "720p"),
    "klingai:kling-video@o3-pro": ("kling-3.0-omni", "1080p"),
    "klingai:kling-video@o3-4k": ("kling-3.0-omni", "4k"),
    "klingai:kling@o1-standard": ("kling-o1", "720p"),
    "klingai:kling@o1": ("kling-o1", "1080p"),
    "klingai:kling-video@2.6-pro": ("kling-2.6", "1080p"),
    "klingai:kling-image@3": ("kling-image-3.0", None),
    "klingai:kling-image@o1": ("kling-image-o1", None),
}


def _runware_video(request: Any) -> Meaning:
    model, resolution = RUNWARE_MODELS[request.model]
    return Meaning(
        model,
        request.duration,
        resolution or request.resolution,
        request.aspect_ratio,
        request.audio,
        first=request.first_frame,
        last=request.last_frame,
        references=request.references,
        negative=request.negative_prompt,
    )


FAL_VIDEOS = {
    "v3": "kling-3.0",
    "o3": "kling-3.0-omni",
    "o1": "kling-o1",
    "v2.6": "kling-2.6",
    "v2.5-turbo": "kling-2.5-turbo",
}
FAL_IMAGES = {"v3": "kling-image-3.0", "o3": "kling-image-3.0-omni", "o1": "kling-image-o1"}


def _fal_video(request: Any) -> Meaning:
    sent = request.model_input()
    frames = {name: getattr(request, name, None) for name in ("start_image", "end_image")}
    tier = {"standard": "720p", "pro": "1080p", "4k": "4k"}[request.tier]
    return Meaning(
        FAL_VIDEOS[request.model],
        int(sent["duration"]),
        tier,
        sent.get("aspect_ratio"),
        sent.get("generate_audio", False),
        first=frames["start_image"],
        last=frames["end_image"],
        references=getattr(request, "references", ()),
        negative=sent.get("negative_prompt"),
    )


def _fal_image(request: Any) -> Meaning:
    return Meaning(
        FAL_IMAGES[request.model],
        resolution=request.resolution,
        ratio=request.aspect_ratio,
        count=request.count,
        references=request.references,
        negative=request.negative_prompt,
    )


RUNBLOB_VIDEOS = {
    "kling_3": ("kling-3.0", "720p"),
    "kling_3_pro": ("kling-3.0", "1080p"),
    "kling_2.6": ("kling-2.6", "1080p"),
}
APPS = {
    "klingai/video-v3": "kling-3.0",
    "klingai/video-o1": "kling-o1",
    "klingai/video-v2-6": "kling-2.6",
    "klingai/video-v2-5": "kling-2.5-turbo",
    "klingai/image-3o": "kling-image-3.0-omni",
    "klingai/image-v3": "kling-image-3.0",
}


def _runblob_video(request: Any) -> Meaning:
    sent = request.payload()
    model, resolution = RUNBLOB_VIDEOS[sent["model"]]
    return Meaning(
        model,
        int(sent["duration"]),
        resolution,
        sent.get("aspect_ratio"),
        sent["model"] == "kling_2.6",
        first=sent.get("image_url"),
        negative=sent.get("negative_prompt"),
    )


def _pixeldojo_video(request: Any) -> Meaning:
    sent = request.payload()
    return Meaning(
        "kling-3.0",
        int(sent["duration"]),
        "1080p",
        sent["aspect_ratio"],
        sent["generate_audio"],
        negative=sent.get("negative_prompt"),
    )


def _app_video(request: Any) -> Meaning:
    sent = request.app_input({name: getattr(request, name) for name in request.reference_fields})
    return Meaning(
        APPS[request.app],
        sent["duration"],
        sent["resolution"],
        sent.get("aspect_ratio"),
        sent.get("sound", False),
        first=sent.get("image"),
        last=sent.get("end_image"),
        references=tuple(sent.get("reference_images", ())),
    )


READERS: dict[str, Callable[[Any], Meaning]] = {
    "kling/text-to-video": _kling_video,
    "kling/image-to-video": _kling_video,
    "kling/omni-video": _kling_video,
    "kling/omni-image": _kling_image,
    "kling/image-generation": _kling_image,
    "runblob/o3-video": lambda request: Meaning(
        "kling-3.0-omni",
        request.duration,
        {"kling_o3": "720p", "kling_o3_pro": "1080p"}[request.model],
        request.aspect_ratio,
        references=request.references,
    ),
    "runblob/video": _runblob_video,
    "runblob/o1-photo": _picture("kling-image-o1"),
    "runblob/o3-photo": _picture("kling-image-3.0-omni"),
    "fal/text-to-video": _fal_video,
    "fal/image-to-video": _fal_video,
    "fal/reference-to-video": _fal_video,
    "fal/image": _fal_image,
    "runware/image-o3": _picture("kling-image-3.0-omni"),
    "runware/image": lambda request: _picture(RUNWARE_MODELS[request.model][0])(request),
    "runware/video": _runware_video,
    "pixeldojo/text-to-video": _pixeldojo_video,
    "pixeldojo/image-v3": _picture("kling-image-3.0"),
    "inferencesh/video": _app_video,
    "inferencesh/image": lambda request: _picture(APPS[request.app])(request),
    "inferencesh/image-o1": _picture("kling-image-o1"),
    "replicate/kling-v3-video": _replicate("kling-3.0"),
    "replicate/kling-v3-omni-video": _replicate("kling-3.0-omni"),
    "replicate/kling-o1": _replicate("kling-o1"),
    "replicate/kling-v2-5-turbo-pro": _replicate("kling-2.5-turbo"),
    "replicate/kling-v2-1": _replicate("kling-2.1"),
}
"""Reads the request of each endpoint. Written apart from the offers, from the providers' pages."""


def wanted(portable: Video | Image, model: str) -> Meaning:
    if isinstance(portable, Image):
        return Meaning(
            model,
            resolution=portable.resolution,
            ratio=portable.aspect_ratio,
            count=portable.count,
            references=tuple(portable.references),
            negative=portable.negative_prompt,
        )
    return Meaning(
        model,
        portable.duration,
        portable.resolution,
        portable.ratio,
        portable.audio,
        first=portable.first_frame,
        last=portable.last_frame,
        references=tuple(portable.references),
        negative=portable.negative_prompt,
    )


@st.composite
def videos(draw: st.DrawFn) -> Video:
    first = draw(st.sampled_from((None, None, FRAME)))
    return Video(
        draw(st.sampled_from(("a paper boat", "a boat like @image_1", "shot 1, 5, a boat;", "x" * 2600))),
        model=draw(st.sampled_from((None, *MODELS))),
        duration=draw(st.sampled_from((5, 10, *range(1, 20)))),
        resolution=draw(st.sampled_from(("720p", "1080p", "4k"))),
        aspect_ratio=None if first else draw(st.sampled_from((None, *RATIOS))),
        first_frame=first,
        last_frame=draw(st.sampled_from((None, LAST))) if first else None,
        references=PICTURES[: draw(st.sampled_from((0, 0, 1, 2, 5, 7, 10)))],
        audio=draw(st.booleans()),
        negative_prompt=draw(st.sampled_from((None, None, "rain"))),
    )


@st.composite
def images(draw: st.DrawFn) -> Image:
    return Image(
        draw(st.sampled_from(("a paper boat", "a boat like @image_1"))),
        model=draw(st.sampled_from((None, *MODELS))),
        count=draw(st.sampled_from((1, 1, 2, 9, 10, 20))),
        resolution=draw(st.sampled_from(("1k", "2k", "4k"))),
        aspect_ratio=draw(st.sampled_from(RATIOS)),
        references=PICTURES[: draw(st.sampled_from((0, 0, 1, 2, 5, 7, 10)))],
        negative_prompt=draw(st.sampled_from((None, None, "rain"))),
    )


def test_every_offer_has_an_independent_reader() -> None:
    built_in = {offer.request.endpoint for kind in ALL_PROVIDERS for offer in kind.portable}
    assert built_in == set(READERS)


@settings(max_examples=400, deadline=None)
@given(st.one_of(videos(), images()))
def test_a_translated_request_is_valid_and_means_the_same(portable: Video | Image) -> None:
    for option in options(portable, ALL_PROVIDERS):
        if option.request is None:
            assert option.reason
            continue
        assert type(option.request).model_validate(dict(option.request)) == option.request
        assert READERS[option.endpoint](option.request) == wanted(portable, option.model)
        assert portable.model in {None, option.model}


@settings(max_examples=200, deadline=None)
@given(st.one_of(videos(), images()))
def test_a_proposed_change_makes_an_endpoint_serve_the_request(portable: Video | Image) -> None:
    near = nearest_change(portable, options(portable, ALL_PROVIDERS))
    if near is None:
        return
    change, proposed = near
    changed = type(portable).model_validate({**dict(portable), **change})
    served = {option.endpoint for option in options(changed, ALL_PROVIDERS) if option.request is not None}
    assert proposed.endpoint in served


def test_a_mention_of_a_reference_is_written_as_each_provider_wants_it() -> None:
    portable = Video("a boat like @image_2, as in @image_1", references=PICTURES[:2])
    prompts = {option.endpoint: getattr(option.request, "prompt", None) for option in options(portable, ALL_PROVIDERS)}
    assert prompts["kling/omni-video"] == "a boat like @image_2, as in @image_1"
    assert prompts["replicate/kling-v3-omni-video"] == "a boat like <<<image_2>>>, as in <<<image_1>>>"
    assert prompts["fal/reference-to-video"] == "a boat like @Image2, as in @Image1"
    assert prompts["runblob/o3-video"] is None


def test_a_request_that_nothing_serves_names_the_reasons_and_the_nearest_change() -> None:
    with pytest.raises(NotOffered) as caught:
        Video("a boat", model="kling-3.0-omni", duration=7).for_("runblob/o3-video")
    error = caught.value
    assert error.reasons == {"runblob/o3-video": "duration is 7; it has 5, 10, 15"}
    assert error.change == {"duration": 5}
    assert "change duration to 5 (runblob/o3-video serves that)" in str(error)


def test_for_returns_the_request_of_a_provider_or_of_an_endpoint() -> None:
    portable: Request = Image("a boat").for_("runware")
    assert portable.endpoint == "runware/image-o3"
    assert Video("a boat").for_("kling/omni-video").endpoint == "kling/omni-video"


def test_a_misspelt_model_is_answered_with_the_closest_one() -> None:
    with pytest.raises(NotOffered, match=r"model to kling-3\.0"):
        Video("a boat", model="kling-3").for_("replicate")


def test_another_name_of_a_model_is_the_same_model() -> None:
    assert Video("a boat", model="Kling-O3") == Video("a boat", model="kling-3.0-omni")


def test_a_first_frame_decides_the_ratio() -> None:
    with pytest.raises(ValidationError, match="leave aspect_ratio out"):
        Video("a boat", first_frame=FRAME, aspect_ratio="16:9")

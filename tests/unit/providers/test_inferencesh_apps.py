"""The other Kling apps at inference.sh: what each takes, what is sent, and what it costs."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Literal

import pytest
from pydantic import ValidationError

from kling_async import InferenceSh, Request, inferencesh
from kling_async.providers.base import Call, Reply
from kling_async.providers.inferencesh.apps import VIDEO_APPS

FRAME, LAST, CLIP = "https://example.com/a.png", "https://example.com/b.png", "https://example.com/a.mp4"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8
O1: Literal["klingai/video-o1"] = "klingai/video-o1"
V26, V25 = "klingai/video-v2-6", "klingai/video-v2-5"


def run(request: Any) -> Call:
    """The first call of a submission."""
    return next(InferenceSh("key").submit(request, "attempt", None))


def sent(request: Any) -> dict[str, Any]:
    """The input of the app that is run."""
    return dict(json.loads(run(request).body)["input"])


@pytest.mark.parametrize("app", sorted(VIDEO_APPS))
def test_what_changes_the_price_is_always_sent(app: str) -> None:
    given = sent(inferencesh.Video.model_validate({"prompt": "a fox", "app": app}))
    assert {"duration", "resolution"} <= given.keys()
    facts = VIDEO_APPS[app]
    assert given.get("sound") == (False if facts.sound else None)
    assert given.get("multi_shot") == (False if facts.multi_shot else None)


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (inferencesh.Video, {"duration": 2}, "greater than or equal to 3"),
        (inferencesh.Video, {"duration": 16}, "less than or equal to 15"),
        (inferencesh.Video, {"duration": 11, "app": O1}, "klingai/video-o1 makes 3 to 10 seconds"),
        (inferencesh.Video, {"duration": 7, "app": V26}, "klingai/video-v2-6 makes 5 or 10 seconds"),
        (inferencesh.Video, {"resolution": "4k", "app": V25}, "klingai/video-v2-5 makes 1080p and 720p"),
        (inferencesh.Video, {"audio": True, "app": O1}, "klingai/video-o1 makes no sound"),
        (inferencesh.Video, {"audio": True, "app": V26, "resolution": "720p"}, "with resolution 1080p only"),
        (inferencesh.Video, {"multi_shot": True, "app": O1}, "klingai/video-o1 has no such setting"),
        (inferencesh.Video, {"voice_id": "v1"}, "klingai/video-v3 takes none"),
        (inferencesh.Video, {"references": [FRAME]}, "klingai/video-v3 takes none, and klingai/video-o1 does"),
        (inferencesh.Video, {"watermark": False}, "klingai/video-v3 takes none, and klingai/video-o1 does"),
        (inferencesh.Video, {"references": [FRAME] * 8, "app": O1}, "8 reference images were given; at most 7"),
        (inferencesh.Video, {"references": [FRAME] * 5, "reference_video": CLIP, "app": O1}, "at most 4 are allowed"),
        (inferencesh.Video, {"reference_video_type": "base", "app": O1}, "it needs a reference_video"),
        (inferencesh.Video, {"reference_video": "a.mp4", "app": O1}, "a video is given as an http"),
        (inferencesh.Video, {"last_frame": LAST}, "last_frame is given without first_frame"),
        (inferencesh.Image, {"resolution": "4k", "app": "klingai/image-v3"}, "klingai/image-v3 makes 1k and 2k"),
        (inferencesh.Image, {"reference": FRAME, "app": "klingai/image-v3"}, "klingai/image-v3 takes no image"),
        (inferencesh.Image, {"app": "klingai/image-o1"}, "klingai/(image-3o|image-v3)"),
        (inferencesh.Image, {"count": 2}, "would be billed 2 times"),
    ],
)
def test_a_limit_of_an_app_is_refused_with_what_is_allowed(
    kind: type[Request], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate({"prompt": "a fox", **fields})
    assert words in str(refused.value)


def test_each_local_image_is_uploaded_before_the_app_runs() -> None:
    flow = InferenceSh("key").submit(inferencesh.Video("a fox", app=O1, references=[PNG, FRAME, PNG]), "attempt", None)
    call, uploads = next(flow), 0
    while call.url != "/apps/run":
        uploads += call.url == "/files"
        entry = {"uri": f"https://files.example/{uploads}", "upload_url": f"https://store.example/{uploads}"}
        call = flow.send(Reply(200, {"content-type": "application/json"}, json.dumps({"data": [entry]}).encode()))
    assert uploads == 2
    given = json.loads(call.body)["input"]["reference_images"]
    assert given == ["https://files.example/1", FRAME, "https://files.example/2"]


def test_any_app_can_be_run_with_an_input_of_its_own() -> None:
    request = inferencesh.Request("falai/kling-video-o3-t2v", {"prompt": "a fox", "tier": "pro"})
    assert json.loads(run(request).body) == {
        "app": "falai/kling-video-o3-t2v",
        "input": {"prompt": "a fox", "tier": "pro"},
    }


def test_the_price_of_a_video_follows_its_resolution_sound_and_reference() -> None:
    assert inferencesh.Video("a fox").usd == Decimal("0.56")
    assert inferencesh.Video("a fox", audio=True, resolution="720p").usd == Decimal("0.63")
    assert inferencesh.Video("a fox", app=O1, reference_video=CLIP).usd == Decimal("0.84")

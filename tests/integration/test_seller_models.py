"""Every model of the endpoints that have a model as a field: a job on the sandbox, smallest and with much set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kling_async import Client, Polling, Progressive, Request, inferencesh, pixeldojo, runblob, runware
from kling_async.sandbox import Sandbox
from kling_async.sandbox.providers._runware_models import O1, RULES

FRAME, LAST, CLIP = "https://example.com/a.png", "https://example.com/b.png", "https://example.com/a.mp4"


def _runware() -> Iterator[Request]:
    for model, rule in RULES.items():
        frames: dict[str, Any] = {"first_frame": FRAME, **({"last_frame": LAST} if rule.last else {})}
        fields: dict[str, Any] = {"prompt": "a boat", "model": model}
        if rule.sizes:
            for ratio in ("16:9", "9:16", "1:1"):
                yield runware.Video.model_validate({**fields, "aspect_ratio": ratio})
        yield runware.Video.model_validate({**fields, **frames, "duration": 10, "count": 2, "ttl": 60})
        if "sound" in rule.settings:
            yield runware.Video.model_validate({**fields, "audio": True})
        if "CFGScale" in rule.fields:
            yield runware.Video.model_validate({**fields, **frames, "cfg_scale": 0.7, "negative_prompt": "rain"})
        if "referenceImages" in rule.inputs:
            duration = 7 if model in O1 else 12
            yield runware.Video.model_validate({**fields, "references": [FRAME] * 7, "duration": duration})
            yield runware.Video.model_validate({**fields, "references": [FRAME] * 4, "reference_video": CLIP})
            yield runware.Video.model_validate({**fields, "edit_video": CLIP, "keep_original_sound": False})
    for model in ("klingai:kling-image@3", "klingai:kling-image@o1", "klingai:kling-image@o3"):
        tier = "4k" if model.endswith("o3") else "2k"
        fields = {"prompt": "a boat", "model": model, "resolution": tier, "references": [FRAME] * 10, "count": 3}
        yield runware.Image.model_validate(fields)


def _runblob() -> Iterator[Request]:
    names = ("3", "3_pro", "2.6", "2.5_turbo", "2.5_turbo_pro", "2.1", "2.1_pro", "2.1_master", "1.6", "1.6_pro")
    for name in names:
        fields: dict[str, Any] = {"prompt": "a boat", "model": f"kling_{name}"}
        yield runblob.Video.model_validate(fields)
        more = {"cfg_scale": 0.7, "seed": 7, "negative_prompt": "rain"}
        yield runblob.Video.model_validate({**fields, **more, "first_frame": FRAME, "duration": 10})
    for name in ("3_motion", "3_motion_pro", "2.6_motion", "2.6_motion_pro"):
        fields = {"prompt": "a boat", "model": f"kling_{name}", "reference": FRAME, "reference_video": CLIP}
        yield runblob.MotionControl.model_validate(fields)
    yield runblob.O1Video("a boat", [FRAME] * 5, 8, "9:16")
    yield runblob.O1Video("a boat", first_frame=FRAME, last_frame=LAST, keep_original_sound=False)
    yield runblob.O1Photo("a boat", [FRAME] * 5, "1k", "21:9")
    yield runblob.O3Video("a boat", first_frame=FRAME, last_frame=LAST, prefer_multi_shots=True)


def _pixeldojo() -> Iterator[Request]:
    shots = [pixeldojo.Shot(prompt="a boat", duration=7), pixeldojo.Shot(prompt="it sinks", duration=8)]
    yield pixeldojo.TextToVideo(multi_prompt=shots, duration=15, shot_type="customize", voice_ids=["a", "b"])
    frames: dict[str, Any] = {"first_frame": FRAME, "last_frame": LAST}
    yield pixeldojo.ReferenceToVideo("a boat", "pro", **frames, references=[FRAME] * 4, reference_video=CLIP)
    yield pixeldojo.MotionControl(FRAME, CLIP, "a boat", "pro", "image", keep_original_sound=False)


def _inferencesh() -> Iterator[Request]:
    for app, resolution, duration in (
        ("video-v3", "4k", 15),
        ("video-o1", "720p", 10),
        ("video-v2-6", "1080p", 10),
        ("video-v2-5", "1080p", 10),
    ):
        fields: dict[str, Any] = {"prompt": "a boat", "app": f"klingai/{app}"}
        yield inferencesh.Video.model_validate(fields)
        more = {"first_frame": FRAME, "last_frame": LAST, "resolution": resolution, "duration": duration}
        sound = {"audio": True} if app in {"video-v3", "video-v2-6"} else {}
        yield inferencesh.Video.model_validate({**fields, **more, **sound})
    references = {"references": [FRAME] * 4, "reference_video": CLIP, "reference_video_type": "base"}
    yield inferencesh.Video.model_validate({"prompt": "a boat", "app": "klingai/video-o1", **references})
    yield inferencesh.Image("a boat", FRAME, resolution="4k")
    yield inferencesh.Image("a boat", app="klingai/image-v3", resolution="2k")
    yield inferencesh.Request("falai/kling-video-o3-t2v", {"prompt": "a boat", "tier": "pro", "generate_audio": False})


REQUESTS = {"runware": _runware, "runblob": _runblob, "pixeldojo": _pixeldojo, "inferencesh": _inferencesh}


@pytest.mark.anyio
@pytest.mark.parametrize("provider", REQUESTS)
async def test_a_job_of_every_model_is_bought_once_at_the_expected_price(provider: str) -> None:
    """Whatever the client accepts for a model, the sandbox, which has tables of its own, accepts too."""
    requests = list(REQUESTS[provider]())
    with Sandbox(speed=5000, scale=0.02) as sandbox:
        known = [one for one in sandbox.providers() if one.name == provider]
        polling = Polling(schedule=Progressive(0.01), status_calls_per_minute=1e9)
        async with Client(*known, polling=polling) as client:
            for request in requests:
                before = {*sandbox.state.jobs}
                job = await client.submit(request)
                [bought] = [one for name, one in sandbox.state.jobs.items() if name not in before]
                price = known[0].endpoint(request.endpoint).price(request)
                if price is not None and provider != "runblob":  # which publishes examples of its prices only
                    assert price.amount == bought.order.price, request
                result = await job
                assert len(result.urls) == getattr(request, "count", 1)
        assert sandbox.counters.bought[provider] == len(requests)

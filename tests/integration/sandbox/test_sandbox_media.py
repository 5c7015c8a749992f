"""Result files are what was ordered: real pictures and playable video, drawn once, on demand."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import av
import httpx
import pytest
from PIL import Image, ImageChops, ImageStat

from kling_async.sandbox import Sandbox
from kling_async.sandbox.emulator.jobs import Clip, Picture
from kling_async.sandbox.media.render import clip_extension, draw_clip, draw_picture

VIDEO = "/v1/kling/o3-video"
PHOTO = "/v1/kling/o3-photo"
ENOUGH = 1000.0

Connect = Callable[[Sandbox], httpx.Client]


def _result(sandbox: Sandbox, client: httpx.Client, page: str, **fields: object) -> httpx.Response:
    """Buy, let the time pass, and download."""
    answer = client.post(f"{page}/generate", json={"prompt": "a fox in the snow", **fields})
    sandbox.state.clock.advance(ENOUGH)
    status = client.get(f"{page}/generations/{answer.json()['generation_id']}").json()
    return httpx.get(status.get("video_url") or status["image_url"], trust_env=False, timeout=60)


@pytest.mark.parametrize(
    ("resolution", "ratio", "size"),
    [
        ("1k", "1:1", (1024, 1024)),
        ("2k", "1:1", (2048, 2048)),
        ("1k", "16:9", (1360, 768)),
        ("1k", "9:16", (768, 1360)),
        ("1k", "21:9", (1568, 672)),
        ("1k", "auto", (1024, 1024)),
    ],
)
def test_a_photo_has_the_size_and_aspect_asked_for(
    sandbox: Sandbox, client: httpx.Client, resolution: str, ratio: str, size: tuple[int, int]
) -> None:
    answer = _result(sandbox, client, PHOTO, img_resolution=resolution, aspect_ratio=ratio)
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as image:
        image.load()
        assert (image.format, image.size) == ("PNG", size)


def test_4k_is_the_default_of_a_photo(connect: Connect) -> None:
    with Sandbox(speed=0, scale=0.125) as sandbox:
        answer = _result(sandbox, connect(sandbox), PHOTO)
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.size == (4096 // 8, 4096 // 8)


@pytest.mark.parametrize(
    ("fields", "size", "seconds"),
    [
        ({}, (1280, 720), 5),
        ({"duration": "10", "aspect_ratio": "9:16"}, (720, 1280), 10),
        ({"duration": "15", "aspect_ratio": "1:1"}, (720, 720), 15),
        ({"model": "kling_o3_pro"}, (1920, 1080), 5),
    ],
)
def test_a_video_has_the_size_length_and_codec_that_browsers_play(
    connect: Connect, fields: dict[str, str], size: tuple[int, int], seconds: int
) -> None:
    with Sandbox(speed=0, scale=0.1) as sandbox:
        answer = _result(sandbox, connect(sandbox), VIDEO, **fields)
    assert answer.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(answer.content), "r") as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (size[0] // 10, size[1] // 10)
        assert video.duration == seconds * av.time_base
        assert len(list(video.decode(video=0))) == seconds * 24


def test_video_is_half_size_unless_asked_otherwise(sandbox: Sandbox, client: httpx.Client) -> None:
    with av.open(io.BytesIO(_result(sandbox, client, VIDEO).content), "r") as video:
        assert (video.streams.video[0].width, video.streams.video[0].height) == (640, 360)


def test_the_index_of_a_video_comes_first() -> None:
    """A browser plays such a file ("faststart") before it has everything."""
    data = draw_clip(Clip(320, 180, 1, "a fox"))
    assert clip_extension() == "mp4"
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_a_video_moves() -> None:
    with av.open(io.BytesIO(draw_clip(Clip(320, 180, 2, "a fox"))), "r") as video:
        assert video.streams.video[0].average_rate == Fraction(24)
        frames = [_picture(frame) for frame in video.decode(video=0)]
    assert _difference(frames[0], frames[-1]) > 10
    assert 0 < _difference(frames[0], frames[1]) < _difference(frames[0], frames[-1])


def _picture(frame: av.VideoFrame) -> Image.Image:
    picture: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]  # PyAV has no types here
    return picture


def _difference(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of two pictures, from 0 to 255."""
    return float(ImageStat.Stat(ImageChops.difference(one, other).convert("L")).mean[0])


def test_the_prompt_decides_the_colours_and_stands_on_the_picture() -> None:
    drawn = [
        Image.open(io.BytesIO(draw_picture(Picture(256, 256, "png", prompt, seed=1)))) for prompt in ("a fox", "a bear")
    ]
    corner = (0, 0, 256, 60)  # sky: no text there
    assert _difference(drawn[0].crop(corner), drawn[1].crop(corner)) > 1
    written = Image.open(io.BytesIO(draw_picture(Picture(256, 256, "png", "a fox " * 20, seed=1))))
    white = [sum(image.convert("L").histogram()[235:]) for image in (drawn[0], written)]
    assert white[1] > white[0] + 200


@pytest.mark.parametrize("prompt", ["x" * 2500, "word " * 500, "   ", "\U0001f98a \u6c34 \u0430", "a\n\nb"])
@pytest.mark.parametrize("size", [(64, 64), (400, 16), (16, 400)])
def test_no_prompt_and_no_size_is_too_odd_to_draw(prompt: str, size: tuple[int, int]) -> None:
    with Image.open(io.BytesIO(draw_picture(Picture(*size, "png", prompt)))) as image:
        assert image.size == size


def test_several_shots_are_tiles_of_one_picture() -> None:
    with Image.open(io.BytesIO(draw_picture(Picture(256, 256, "png", "a fox", shots=4)))) as image:
        tiles = [image.crop((x, y, x + 128, y + 60)) for x in (0, 128) for y in (0, 128)]
        assert image.size == (256, 256)
    assert all(_difference(tiles[0], other) > 1 for other in tiles[1:])


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_pictures_come_in_three_formats(kind: str) -> None:
    with Image.open(io.BytesIO(draw_picture(Picture(64, 48, kind, "a fox")))) as image:  # type: ignore[arg-type]
        assert (image.format, image.size) == (kind.upper(), (64, 48))


def test_equal_descriptions_give_equal_files_and_other_seeds_others() -> None:
    assert draw_picture(Picture(64, 64, "png", "a", 1)) == draw_picture(Picture(64, 64, "png", "a", 1))
    assert draw_picture(Picture(64, 64, "png", "a", 1)) != draw_picture(Picture(64, 64, "png", "a", 2))
    assert draw_clip(Clip(64, 64, 1, "a", 1)) == draw_clip(Clip(64, 64, 1, "a", 1))
    assert draw_clip(Clip(64, 64, 1, "a", 1)) != draw_clip(Clip(64, 64, 1, "a", 2))


def test_a_photo_of_multiple_shots_is_asked_for_by_its_field(connect: Connect) -> None:
    with Sandbox(speed=0, scale=0.05) as sandbox:
        client = connect(sandbox)
        one, several = (_result(sandbox, client, PHOTO, prefer_multi_shots=wanted) for wanted in (False, True))
        shots = [
            job.order.media[0].shots for job in sandbox.state.jobs.values() if isinstance(job.order.media[0], Picture)
        ]
    assert shots == [1, 4]
    assert one.content != several.content


def test_a_file_is_drawn_once_and_only_when_it_is_wanted(connect: Connect) -> None:
    with Sandbox(speed=0, scale=0.05) as sandbox:
        client = connect(sandbox)
        url = str(_result(sandbox, client, PHOTO).url)
        for number in range(20):
            client.post(f"{PHOTO}/generate", json={"prompt": f"fox {number}"})
        sandbox.state.clock.advance(ENOUGH)
        assert (sandbox.counters.renders, sandbox.counters.jobs_bought) == (1, 21)
        with ThreadPoolExecutor(8) as threads:
            bodies = set(threads.map(lambda _: httpx.get(url, trust_env=False).content, range(16)))
        assert len(bodies) == 1
        assert sandbox.counters.renders == 1
        assert sandbox.counters.requests["runblob", "download"] == 17


def test_different_prompts_give_different_pictures() -> None:
    colours = set()
    for prompt in ("a tram in Lisbon", "a lighthouse", "a boat", "a fox in the snow"):
        with Image.open(io.BytesIO(draw_picture(Picture(64, 64, "png", prompt)))) as image:
            colours.add(image.convert("RGB").getpixel((32, 2)))
    assert len(colours) == 4


def test_a_clip_has_a_sound_track_as_long_as_its_pictures() -> None:
    with av.open(io.BytesIO(draw_clip(Clip(64, 64, 5, "a fox"))), "r") as video:
        [sound] = video.streams.audio
        assert sound.duration is not None
        assert sound.time_base is not None
        assert float(sound.duration * sound.time_base) == pytest.approx(5, abs=0.1)
        samples = b"".join(bytes(frame.planes[0]) for frame in video.decode(sound))
    assert samples.strip(b"\0")  # not silent


@pytest.mark.parametrize("prompt", ["一只狐狸在雪地里", "a fox \N{FOX FACE}", "лиса", "\ufffe"])
def test_prompts_in_every_script_are_drawn(prompt: str) -> None:
    with Image.open(io.BytesIO(draw_picture(Picture(96, 96, "png", prompt)))) as image:
        assert image.size == (96, 96)

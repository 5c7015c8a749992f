"""A request of every class of Kling's own API: with what it requires, and with all that goes together."""

from __future__ import annotations

import io

from PIL import Image

from kling_async import kling
from kling_async.providers.base import Request

IMAGE_URL = "https://x.example/a.png"
VIDEO_URL = "https://x.example/a.mp4"
CALLBACK = "https://hooks.example/kling"


def picture(kind: str = "PNG", size: tuple[int, int] = (300, 400)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    return file.getvalue()


SOUND = b"ID3" + bytes(100)
ELEMENT = kling.Element(id="901", name="cat")
BARE: list[Request] = [
    kling.TextToVideo("a lamp"),
    kling.ImageToVideo("a lamp", IMAGE_URL),
    kling.OmniVideo("a lamp"),
    kling.MotionControl(IMAGE_URL, VIDEO_URL),
    kling.OmniImage("a lamp"),
    kling.ImageGeneration("a lamp"),
    kling.MultiImageToImage([IMAGE_URL]),
    kling.ExpandImage(IMAGE_URL, up=0.5),
    kling.VirtualTryOn(IMAGE_URL),
    kling.Avatar(IMAGE_URL, audio_id="7"),
    kling.LipSync(3000, session_id="s", face_id="0", audio_id="7"),
    kling.TextToAudio("rain"),
    kling.VideoToAudio(VIDEO_URL),
    kling.Effects("hug", [IMAGE_URL]),
]
"""Every class with what it requires."""
FULL: list[Request] = [
    *(
        kling.TextToVideo(
            "a lamp",
            model=model,
            resolution="1080p",
            duration=10,
            aspect_ratio="9:16",
            audio="native" if audio else None,
            watermark=True,
            callback_url=CALLBACK,
        )
        for model, audio in (("kling-3.0-turbo", 0), ("kling-3.0", 1), ("kling-2.6", 1), ("kling-2.5-turbo", 0))
    ),
    kling.TextToVideo("shot 1, 3, a lamp; shot 2, 4, a cat;", duration=7, resolution="4k"),
    kling.ImageToVideo(
        "@cat sleeps",
        picture(),
        picture("JPEG"),
        resolution="4k",
        duration=15,
        audio="native",
        multi_shot=True,
        elements=[ELEMENT],
        watermark=True,
    ),
    kling.ImageToVideo(
        "@anna speaks",
        IMAGE_URL,
        model="kling-2.6",
        resolution="1080p",
        audio="native",
        voices=[kling.Voice(id="v", name="anna")],
    ),
    kling.ImageToVideo("a lamp", IMAGE_URL, IMAGE_URL, model="kling-2.6", resolution="1080p"),
    kling.ImageToVideo("a lamp", IMAGE_URL, model="kling-3.0-turbo", duration=3),
    kling.OmniVideo(
        "@lamp glows on @image_b and @cat, from @begin to @end",
        references=[picture(), IMAGE_URL],
        reference_names=["lamp", "image_b"],
        first_frame=IMAGE_URL,
        last_frame=picture("JPEG"),
        elements=[ELEMENT],
        resolution="4k",
        duration=15,
        audio="native",
        aspect_ratio="1:1",
        multi_shot=True,
        first_frame_name="begin",
        last_frame_name="end",
        watermark=True,
    ),
    kling.OmniVideo("like @clip", video_name="clip", feature_video=VIDEO_URL, references=[IMAGE_URL]),
    kling.OmniVideo("change it", base_video=VIDEO_URL, audio="original"),
    kling.OmniVideo("@image_1 glows", references=[IMAGE_URL], model="kling-o1", duration=7),
    kling.OmniVideo("from here to there", first_frame=IMAGE_URL, last_frame=IMAGE_URL, model="kling-o1"),
    kling.OmniVideo("a lamp", model="kling-o1", duration=10),
    kling.OmniVideo("@cat", elements=[kling.Element(id="901", name="cat", video_character=True)], base_video=VIDEO_URL),
    kling.MotionControl(
        picture(),
        VIDEO_URL,
        prompt="@cat dances",
        elements=[ELEMENT],
        resolution="1080p",
        audio="off",
        watermark=True,
    ),
    kling.MotionControl(IMAGE_URL, VIDEO_URL, model="kling-2.6", character_orientation="image"),
    kling.OmniImage(
        "<<<image_1>>> with <<<element_1>>>",
        references=[picture(), IMAGE_URL],
        resolution="4k",
        aspect_ratio="21:9",
        series=9,
        element_ids=["901"],
        watermark=True,
    ),
    kling.OmniImage("a lamp", model="kling-image-o1", resolution="2k", count=9),
    kling.OmniImage("a lamp", series="auto"),
    kling.ImageGeneration("a lamp", negative_prompt="a cat", resolution="2k", count=9, aspect_ratio="2:3"),
    kling.ImageGeneration(
        "a lamp",
        picture(),
        model="kling-v2-1",
        likeness="face",
        image_fidelity=0.5,
        human_fidelity=0.4,
        element_ids=["901"],
        watermark=True,
    ),
    kling.MultiImageToImage(
        [picture()] * 4, prompt="a lamp", scene=IMAGE_URL, style=picture(), count=9, aspect_ratio="4:3", watermark=True
    ),
    kling.ExpandImage(picture(), up=0.2, down=0.2, left=0.3, right=0.3, prompt="sky", count=2, watermark=True),
    kling.VirtualTryOn(picture(), picture("JPEG"), model="kolors-virtual-try-on-v1", watermark=True),
    kling.Avatar(picture(), SOUND, prompt="smile", mode="pro", watermark=True),
    kling.LipSync(
        9000, VIDEO_URL, SOUND, sound_start=10, insert_at=5, sound_volume=2, original_volume=0, watermark=True
    ),
    kling.LipSync(3000, video_id="v", audio_id="7"),
    kling.TextToAudio("rain", duration=10),
    kling.VideoToAudio(video_id="v", prompt="rain", music="piano", asmr=True),
    kling.Effects("hug", [picture(), IMAGE_URL], watermark=True),
]
"""Every class with all its fields, as far as they go together, and every model."""
SPEECH = [kling.TextToSpeech("hello"), kling.TextToSpeech("hello", voice_id="v", voice_language="zh", voice_speed=2)]

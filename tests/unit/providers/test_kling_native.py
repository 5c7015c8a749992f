"""Kling's own JSON as the input of a request: what a request sends makes the same request again."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from kling_async import kling
from kling_async.providers.base import Call, Flow, Request
from support.kling_requests import BARE, FULL, IMAGE_URL, SPEECH, VIDEO_URL, picture

ATTEMPT = "6f1c1f0e-3c1b-4c7e-9a55-0d7f6a1f2b3c"
RAW = base64.b64encode(picture()).decode()


def sent(request: Request) -> dict[str, Any]:
    """The body of the paid call."""
    flow: Flow[Any] = kling.Kling("a-key").submit(request, ATTEMPT, None)
    call: Call = next(flow)
    flow.close()
    found: dict[str, Any] = json.loads(call.body)
    return found


def without_ids(body: dict[str, Any]) -> dict[str, Any]:
    """The body without our id of the purchase, which a request does not hold."""
    body.pop("external_task_id", None)
    if "options" in body:
        body["options"].pop("external_task_id")
    return body


def content(request: Request) -> dict[str, Any]:
    """The request with inline images as data URIs, so that bytes and base64 compare equal."""
    return request.describe(inline=True)


def is_whole(request: Request) -> bool:
    """Whether the body holds all of it. A search for faces comes first, and no body tells of video characters."""
    elements = getattr(request, "elements", ())
    return not isinstance(request, kling.LipSync) and not any(element.video_character for element in elements)


RECOGNISED = [request for request in [*BARE, *FULL, *SPEECH] if is_whole(request)]


@pytest.mark.parametrize("request_", RECOGNISED, ids=lambda request: type(request).__name__)
def test_what_a_request_sends_makes_the_same_request(request_: Request) -> None:
    """The model of the new generation stands in the path, so it is given beside the body."""
    model = {"model": request_.model} if "settings" in (body := without_ids(sent(request_))) else {}  # type: ignore[attr-defined]
    again = type(request_).model_validate({**body, **model})
    assert content(again) == content(request_)


def test_the_new_generation_is_read_as_its_documents_write_it() -> None:
    request = kling.OmniVideo.model_validate(
        {
            "contents": [
                {"type": "prompt", "text": "@lamp glows beside @start"},
                {"type": "refer_image", "url": "https://x.example/l.png", "id": "lamp"},
                {"type": "refer_image", "url": RAW},
                {"type": "first_frame", "url": IMAGE_URL, "id": "start"},
                {"type": "element", "element_id": 842250903629086785, "id": "cat"},
            ],
            "settings": {"resolution": "1080p", "duration": 6, "audio": "off", "multi_shot": False},
            "options": {"callback_url": "", "external_task_id": "", "watermark_info": {"enabled": True}},
        }
    )
    assert request.prompt == "@lamp glows beside @start"
    assert request.references == ("https://x.example/l.png", picture())
    assert request.reference_names == ("lamp", "image_2")
    assert (request.first_frame, request.first_frame_name) == (IMAGE_URL, "start")
    assert request.elements == (kling.Element(id="842250903629086785", name="cat"),)
    assert (request.resolution, request.duration, request.watermark) == ("1080p", 6, True)
    assert [item.get("id") for item in request.contents()] == [None, "start", "lamp", "image_2", "cat"]


def test_a_series_ignores_the_number_of_single_pictures_as_kling_does() -> None:
    body = {"prompt": "a", "result_type": "series", "n": 3, "series_amount": "5", "model_name": "kling-v3-omni"}
    assert kling.OmniImage.model_validate(body).series == 5
    single = kling.OmniImage.model_validate({"prompt": "a", "result_type": "single", "n": 3, "series_amount": 5})
    assert (single.count, single.series) == (3, None)


def test_a_face_that_was_found_is_read_as_its_documents_write_it() -> None:
    face = {"face_id": "0", "audio_id": "7", "sound_start_time": 5, "sound_end_time": 3000, "sound_insert_time": 1}
    request = kling.LipSync.model_validate({"session_id": "s", "face_choose": [face]})
    assert (request.face_id, request.sound_start, request.sound_end, request.insert_at) == ("0", 5, 3000, 1)
    assert without_ids(sent(request))["face_choose"] == [{**face, "sound_volume": 1.0, "original_audio_volume": 1.0}]


WORDS = {"type": "prompt", "text": "a"}
REFUSED: list[tuple[type[Request], dict[str, Any], str]] = [
    (kling.OmniVideo, {"contents": "a"}, "contents is 'a'; in Kling's own JSON it is a list"),
    (kling.OmniVideo, {"contents": ["a"]}, r"contents\[0\] is 'a'; in Kling's own JSON it is an object"),
    (kling.OmniVideo, {"contents": [{"type": "image"}]}, r"type is 'image'; this endpoint takes prompt, first_frame"),
    (kling.OmniVideo, {"contents": [{"type": "prompt"}]}, r"contents\[0\] is of type 'prompt' and has no 'text'"),
    (kling.OmniVideo, {"contents": [WORDS, WORDS]}, r"contents\[1\] is the second item of type 'prompt'"),
    (kling.OmniVideo, {"contents": [WORDS], "prompt": "b"}, "'contents' and 'prompt' are the same field"),
    (kling.OmniVideo, {"contents": [{**WORDS, "id": "x"}]}, "which has no 'id'"),
    (kling.OmniVideo, {"contents": [{**WORDS, "weight": 1}]}, "has 'weight', which Kling does not document"),
    (kling.OmniVideo, {"contents": [WORDS, {"type": "element", "element_id": "1"}]}, "has no 'id', the name"),
    (kling.OmniVideo, {"contents": [WORDS], "settings": 5}, "settings is 5; in Kling's own JSON it is an object"),
    (kling.OmniVideo, {"contents": [WORDS], "settings": {"seed": 5}}, "There is no such field"),
    (kling.OmniVideo, {"contents": [WORDS], "options": {"external_task_id": "mine"}}, "chosen by the client"),
    (kling.OmniVideo, {"contents": [WORDS], "options": {"x": 1}}, "options has 'x'"),
    (kling.OmniImage, {"prompt": "a", "external_task_id": "mine"}, "chosen by the client"),
    (kling.OmniImage, {"prompt": "a", "image_list": [{"url": IMAGE_URL}]}, r"image_list\[0\] has no 'image'"),
    (kling.OmniImage, {"prompt": "a", "result_type": "many"}, "result_type is 'many'"),
    (kling.OmniImage, {"prompt": "a", "watermark_info": {"on": 1}}, "watermark_info has 'on'"),
    (kling.TextToAudio, {"prompt": "a", "watermark_info": {"enabled": True}}, "not a field of this endpoint"),
    (kling.LipSync, {"session_id": "s", "face_choose": []}, "face_choose has 0 faces; Kling takes 1"),
    (kling.ImageToVideo, {"prompt": "a", "first_frame": "aGVsbG8="}, "neither an http"),
]


@pytest.mark.parametrize(("kind", "body", "message"), REFUSED)
def test_json_that_kling_does_not_document_is_refused(kind: type[Request], body: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind.model_validate(body)


def pictures() -> list[Any]:
    """The same picture in every form in which users hold it."""
    content = picture()
    image = Image.open(io.BytesIO(content))
    return [content, bytearray(content), io.BytesIO(content), image, base64.b64encode(content).decode()]


@pytest.mark.parametrize("form", range(5), ids=["bytes", "bytearray", "file", "PIL", "base64"])
@pytest.mark.parametrize(
    ("kind", "fields", "name"),
    [
        (kling.ImageToVideo, {"prompt": "a"}, "first_frame"),
        (kling.OmniVideo, {"prompt": "a"}, "references"),
        (kling.MotionControl, {"motion_video": VIDEO_URL}, "reference"),
        (kling.OmniImage, {"prompt": "a"}, "references"),
        (kling.ImageGeneration, {"prompt": "a"}, "reference"),
        (kling.MultiImageToImage, {}, "references"),
        (kling.ExpandImage, {"up": 1}, "reference"),
        (kling.VirtualTryOn, {}, "person"),
        (kling.Avatar, {"audio_id": "1"}, "reference"),
        (kling.Effects, {"scene": "hug"}, "references"),
    ],
)
def test_an_image_in_every_form_is_sent_as_raw_base64(
    kind: type[Request], fields: dict[str, Any], name: str, form: int
) -> None:
    request = kind.model_validate({**fields, name: pictures()[form]})
    [image] = value if isinstance(value := getattr(request, name), tuple) else (value,)
    assert isinstance(image, bytes)
    with Image.open(io.BytesIO(image)) as opened:
        assert (opened.format, opened.size) == ("PNG", (300, 400))
    assert base64.b64encode(image).decode() in str(sent(request))


@pytest.mark.parametrize(("size", "reason"), [((299, 300), "each side must have at least 300"), ((301, 900), "1:2.5")])
def test_a_pil_image_of_a_wrong_size_is_refused(size: tuple[int, int], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        kling.ImageToVideo("a", Image.new("RGB", size))

"""What the sandbox refuses: it is there to catch the mistakes of a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from kling_async.sandbox import Sandbox

VIDEO = "/v1/kling/o3-video"
PHOTO = "/v1/kling/o3-photo"


@pytest.mark.parametrize(
    ("page", "fields", "kind", "field"),
    [
        (VIDEO, {}, "missing", "prompt"),
        (PHOTO, {"prompt": ""}, "string_too_short", "prompt"),
        (VIDEO, {"prompt": "x" * 2501}, "string_too_long", "prompt"),
        (VIDEO, {"prompt": 5}, "string_type", "prompt"),
        (VIDEO, {"prompt": None}, "string_type", "prompt"),
        (VIDEO, {"prompt": "x", "duration": 5}, "string_type", "duration"),
        (VIDEO, {"prompt": "x", "mode": "best"}, "literal_error", "mode"),
        (VIDEO, {"prompt": "x", "seed": 1}, "extra_forbidden", "seed"),
        (VIDEO, {"prompt": "x", "img_resolution": "4k"}, "extra_forbidden", "img_resolution"),
        (PHOTO, {"prompt": "x", "duration": "5"}, "extra_forbidden", "duration"),
        (PHOTO, {"prompt": "x", "n": 2}, "extra_forbidden", "n"),
        (PHOTO, {"prompt": "x", "img_resolution": "4K"}, "literal_error", "img_resolution"),
        (PHOTO, {"prompt": "x", "aspect_ratio": "5:4"}, "literal_error", "aspect_ratio"),
        (VIDEO, {"prompt": "x", "aspect_ratio": "21:9"}, "literal_error", "aspect_ratio"),
        (VIDEO, {"prompt": "x", "keep_original_sound": "true"}, "bool_type", "keep_original_sound"),
        (PHOTO, {"prompt": "x", "prefer_multi_shots": 1}, "bool_type", "prefer_multi_shots"),
        (VIDEO, {"prompt": "x", "images_url": "https://example.com/a.png"}, "list_type", "images_url"),
        (VIDEO, {"prompt": "x", "images_url": None}, "list_type", "images_url"),
        (VIDEO, {"prompt": "x", "callback_url": None}, "string_type", "callback_url"),
    ],
)
def test_fields_of_a_wrong_name_type_or_value_get_422_with_a_text_and_a_list(
    client: httpx.Client, sandbox: Sandbox, page: str, fields: dict[str, Any], kind: str, field: str
) -> None:
    answer = client.post(f"{page}/generate", json=fields)
    assert answer.status_code == 422
    (problem,) = answer.json()["errors"]
    assert (problem["type"], problem["loc"]) == (kind, ["body", field])
    assert answer.json()["detail"] == f"{field}: {problem['msg']}"  # the example clients of the pages show this text
    assert sandbox.counters.jobs_bought == 0


def test_a_wrong_element_is_named_by_its_index(client: httpx.Client) -> None:
    answer = client.post(f"{VIDEO}/generate", json={"prompt": "x", "images_url": ["https://a.example/x", 3]})
    assert [problem["loc"] for problem in answer.json()["errors"]] == [["body", "images_url", 1]]


@pytest.mark.parametrize(
    ("page", "envelope"),
    [(VIDEO, lambda code: {"detail": code}), (PHOTO, lambda code: {"success": False, "message": code, "detail": code})],
)
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"images_url": ["ftp://example.com/a.png"]}, "INVALID_IMAGE"),
        ({"images_url": ["/tmp/a.png"]}, "INVALID_IMAGE"),  # noqa: S108 - a path where a URL belongs
        ({"images_url": ["https://nowhere.invalid/a.png"]}, "IMAGE_INACCESSIBLE"),
        ({"images_url": ["https://example.com/a.png"] * 11}, "TOO_MANY_IMAGES"),
        ({"images_base64": ["aGVsbG8="]}, "INVALID_IMAGE"),
        ({"images_base64": ["data:image/png;base64,aGVsbG8="]}, "INVALID_IMAGE"),
        ({"images_base64": ["data:image/png;base64,***"]}, "INVALID_IMAGE"),
        ({"images_base64": ["data:text/plain;base64,aGVsbG8="]}, "INVALID_IMAGE"),
        ({"callback_url": "http://example.com/hook"}, "INVALID_PARAMETERS"),
        ({"callback_url": "example.com/hook"}, "INVALID_PARAMETERS"),
        ({"callback_url": ""}, "INVALID_PARAMETERS"),
    ],
)
def test_unacceptable_values_get_their_code_in_the_pages_own_envelope(
    client: httpx.Client,
    sandbox: Sandbox,
    page: str,
    envelope: Callable[[str], dict[str, Any]],
    fields: dict[str, Any],
    code: str,
) -> None:
    answer = client.post(f"{page}/generate", json={"prompt": "a fox", **fields})
    assert (answer.status_code, answer.json()) == (400, envelope(code))
    assert sandbox.counters.jobs_bought == 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"duration": "7"}, "INVALID_DURATION"),
        ({"duration": "05"}, "INVALID_DURATION"),
        ({"model": "kling_o3_photo"}, "INVALID_MODEL"),
        ({"model": "pro"}, "INVALID_MODEL"),
        ({"model": "kling_o3", "mode": "pro"}, "INVALID_MODEL"),
        ({"images_url": ["https://example.com/a.png"] * 6}, "TOO_MANY_IMAGES"),
    ],
)
def test_the_video_page_has_codes_of_its_own(client: httpx.Client, fields: dict[str, Any], code: str) -> None:
    answer = client.post(f"{VIDEO}/generate", json={"prompt": "a fox", **fields})
    assert (answer.status_code, answer.json()) == (400, {"detail": code})


def test_urls_and_inline_images_do_not_mix(client: httpx.Client, data_uri: Callable[..., str]) -> None:
    mixed = {"prompt": "x", "images_url": ["https://example.com/a.png"], "images_base64": [data_uri()]}
    for page in (VIDEO, PHOTO):
        answer = client.post(f"{page}/generate", json=mixed)
        assert (answer.status_code, "MIXED_IMAGE_INPUTS" in answer.text) == (400, True)


def test_the_content_of_an_image_counts_not_its_label(client: httpx.Client, data_uri: Callable[..., str]) -> None:
    cases = {
        data_uri("jpeg", called="png"): 400,  # says one thing, is another
        data_uri("bmp"): 400,  # a format that nobody accepts
        data_uri("gif"): 400,  # accepted for video only
        data_uri("png"): 201,
    }
    for uri, status in cases.items():
        answer = client.post(f"{PHOTO}/generate", json={"prompt": "x", "images_base64": [uri]})
        assert answer.status_code == status, uri[:30]


def test_half_an_image_is_no_image(client: httpx.Client, data_uri: Callable[..., str]) -> None:
    whole = data_uri("png", side=100)
    half = whole[: len(whole) // 8 * 4 + len("data:image/png;base64,") % 4]
    answer = client.post(f"{PHOTO}/generate", json={"prompt": "x", "images_base64": [half]})
    assert answer.json() == {"success": False, "message": "INVALID_IMAGE", "detail": "INVALID_IMAGE"}


def test_ten_megabytes_are_the_limit_for_one_image(client: httpx.Client, data_uri: Callable[..., str]) -> None:
    fitting, too_large = data_uri("png", side=1800), data_uri("png", side=1900)
    codes = [
        client.post(f"{PHOTO}/generate", json={"prompt": "x", "images_base64": [uri]}).status_code
        for uri in (fitting, too_large)
    ]
    assert codes == [201, 400]


@pytest.mark.parametrize(
    ("content", "content_type", "kind"),
    [
        (b'{"prompt": "a', "application/json", "json_invalid"),
        (b"\xff\xfe", "application/json", "json_invalid"),
        (b"", "application/json", "json_invalid"),
        (b'["prompt"]', "application/json", "model_type"),
        (b'{"prompt": "a fox"}', "text/plain", "model_attributes_type"),
    ],
)
def test_bodies_that_are_no_json_object_get_422(
    client: httpx.Client, content: bytes, content_type: str, kind: str
) -> None:
    answer = client.post(f"{VIDEO}/generate", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == 422
    assert [problem["type"] for problem in answer.json()["errors"]] == [kind]


def test_a_misspelt_directive_is_refused_with_what_there_is(client: httpx.Client, sandbox: Sandbox) -> None:
    answer = client.post(f"{VIDEO}/generate", json={"prompt": "a fox [sandbox: fial=X]"})
    assert answer.status_code == 400
    assert "fail=CODE, duration=SECONDS and stuck" in answer.json()["detail"]
    assert sandbox.counters.jobs_bought == 0


def test_refusals_are_counted_by_status(client: httpx.Client, sandbox: Sandbox) -> None:
    client.post(f"{VIDEO}/generate", json={"prompt": ""})
    client.post(f"{VIDEO}/generate", json={"prompt": "x", "duration": "7"})
    assert sandbox.counters.refused == {("runblob", 422): 1, ("runblob", 400): 1}
    assert sandbox.counters.requests == {("runblob", "submit"): 2}

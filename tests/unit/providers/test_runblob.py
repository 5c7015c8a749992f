"""RunBlob's requests: every field, default, limit and exclusion, and what is said when one is broken.

The wire itself is recorded in ``samples/runblob`` and driven by the contract test.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kling_async import (
    ContentRejected,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    JobRef,
    KlingError,
    ProviderUnavailable,
    RateLimited,
    RunBlob,
    Unauthorized,
    runblob,
)
from kling_async.providers._base.request import Request
from kling_async.providers.base import Effect, Reply

MIB = 1024 * 1024
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00\xff\xd9"
WEBP = b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\x00\x00\x00\x10\x07\x10\x11\x11\x88\x88\xfe\x07\x00"
GIF = (
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
)
URL = "https://img.example/1.jpg"

both = pytest.mark.parametrize("model", [runblob.O3Photo, runblob.O3Video], ids=["photo", "video"])


def uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def refused(model: type[Request], /, **fields: Any) -> tuple[str, str]:
    """The field that is blamed (empty: the whole request), and what is said about it."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate({"prompt": "a fox", **fields})
    [error] = caught.value.errors()
    return ".".join(str(part) for part in error["loc"]), error["msg"].removeprefix("Value error, ")


def sent(request: runblob.O3Photo | runblob.O3Video, callback_url: str | None = None) -> dict[str, Any]:
    """The JSON that is posted for a request."""
    flow = RunBlob("key").submit(request, "purchase", callback_url)
    call = next(flow)
    flow.close()
    assert call.effect is Effect.PAID
    body: dict[str, Any] = json.loads(call.body)
    return body


# Fields and defaults (docs/providers/runblob.md, section 3).


def test_the_defaults_are_the_documented_ones() -> None:
    photo, video = runblob.O3Photo("a fox"), runblob.O3Video("a fox")
    assert (photo.resolution, photo.aspect_ratio, photo.prefer_multi_shots) == ("4k", "1:1", False)
    assert (video.duration, video.aspect_ratio, video.model, video.keep_original_sound) == (5, "16:9", "kling_o3", True)
    for request in (photo, video):
        assert request.references == ()
        assert request.callback_url is None


@both
@pytest.mark.parametrize("length", [1, 2500])
def test_prompts_up_to_the_limit_are_accepted(model: type[Request], length: int) -> None:
    assert model.model_validate({"prompt": "x" * length}).describe()["prompt"] == "x" * length


@both
def test_prompts_beyond_the_limits_are_refused(model: type[Request]) -> None:
    assert refused(model, prompt="") == ("prompt", "String should have at least 1 character")
    assert refused(model, prompt="x" * 2501) == ("prompt", "String should have at most 2500 characters")
    assert refused(model, prompt=None) == ("prompt", "Input should be a valid string")
    assert refused(model, prompt=b"a fox \xff")[0] == "prompt"


@both
def test_a_missing_prompt_is_named(model: type[Request]) -> None:
    with pytest.raises(ValidationError, match=r"prompt\n  Field required"):
        model.model_validate({})


ALLOWED = [
    (runblob.O3Photo, "resolution", ["1k", "2k", "4k"], ["1K", "8k", "", 4, None]),
    (
        runblob.O3Photo,
        "aspect_ratio",
        ["auto", "1:1", "9:16", "2:3", "3:4", "4:3", "3:2", "16:9", "21:9"],
        ["16x9", "9:21", "AUTO", None],
    ),
    (runblob.O3Photo, "prefer_multi_shots", [True, False], ["perhaps", None, 2]),
    (runblob.O3Video, "duration", [5, 10, 15], [0, 6, 20, "5s", "", 7.5, None]),
    (runblob.O3Video, "aspect_ratio", ["16:9", "9:16", "1:1"], ["auto", "4:3", "21:9", None]),
    (runblob.O3Video, "model", ["kling_o3", "kling_o3_pro"], ["kling_o1", "pro", "", None]),
    (runblob.O3Video, "keep_original_sound", [True, False], ["perhaps", None, 2]),
]


@pytest.mark.parametrize(("model", "field", "good", "bad"), ALLOWED, ids=[f"{m.__name__}-{f}" for m, f, *_ in ALLOWED])
def test_only_the_documented_values_are_accepted(
    model: type[Request], field: str, good: list[Any], bad: list[Any]
) -> None:
    """Each documented value is taken as it is. Each other is refused, naming the field and what is allowed."""
    for value in good:
        assert getattr(model.model_validate({"prompt": "a fox", field: value}), field) == value
    for value in bad:
        place, message = refused(model, **{field: value})
        assert place == field
        if not isinstance(good[0], bool):
            assert all(str(option) in message for option in good), message


@pytest.mark.parametrize(("given", "meant"), [("5", 5), ("10", 10), ("15", 15), (10, 10)])
def test_durations_are_numbers_to_users_and_strings_on_the_wire(given: str | int, meant: int) -> None:
    request = runblob.O3Video.model_validate({"prompt": "a fox", "duration": given})
    assert request.duration == meant
    assert sent(request)["duration"] == str(meant)


def test_unknown_fields_are_refused() -> None:
    """Fields of the other endpoint, and those that RunBlob documents not to have."""
    for name in ("n", "seed", "negative_prompt", "count", "resolution", "img_resolution"):
        place, message = refused(runblob.O3Video, **{name: "1k"})
        assert place == name
        assert message.startswith("There is no such field")
    for name in ("n", "duration", "model", "mode", "keep_original_sound"):
        place, message = refused(runblob.O3Photo, **{name: 5})
        assert place == name
        assert message.startswith("There is no such field")


# The provider's own JSON.


@pytest.mark.parametrize(("mode", "model"), [("std", "kling_o3"), ("pro", "kling_o3_pro")])
def test_mode_is_another_word_for_model(mode: str, model: str) -> None:
    request = runblob.O3Video.model_validate({"prompt": "a fox", "mode": mode})
    assert request == runblob.O3Video.model_validate({"prompt": "a fox", "mode": mode, "model": model})
    assert sent(request)["model"] == model
    assert "mode" not in sent(request)


def test_a_mode_that_is_unknown_or_contradicts_the_model_is_refused() -> None:
    assert refused(runblob.O3Video, mode="turbo")[1] == (
        "mode is 'turbo'; allowed are 'std' (kling_o3) and 'pro' (kling_o3_pro)"
    )
    assert refused(runblob.O3Video, mode="std", model="kling_o3_pro")[1] == (
        "mode 'std' and model 'kling_o3_pro' contradict each other; give one"
    )
    assert "mode is ['std']" in refused(runblob.O3Video, mode=["std"])[1]


@both
@pytest.mark.parametrize("name", ["images_url", "images_base64"])
def test_their_names_of_the_references_are_ours(model: type[Request], name: str) -> None:
    images = [URL] if name == "images_url" else [uri(PNG, "png")]
    assert model.model_validate({"prompt": "a fox", name: images}) == model(prompt="a fox", references=tuple(images))
    assert model.model_validate({"prompt": "a fox", name: None}) == model(prompt="a fox")
    assert model.model_validate({"prompt": "a fox", name: []}) == model(prompt="a fox")
    message = refused(model, **{name: images, "references": images})[1]
    assert message == f"{name} and 'references' are the same field; give one of them"
    assert refused(model, **{name: "one"})[1] == f"{name} must be a list, not str"


def test_resolution_under_both_names_is_refused() -> None:
    assert runblob.O3Photo.model_validate({"prompt": "a fox", "img_resolution": "2k"}).resolution == "2k"
    message = refused(runblob.O3Photo, img_resolution="2k", resolution="1k")[1]
    assert message == "'img_resolution' and 'resolution' are the same field; give one of them"


@pytest.mark.parametrize(
    "url", ["http://example.com/hook", "ftp://example.com", "example.com/hook", "", "https://", "javascript:alert(1)"]
)
def test_callbacks_go_to_https_only(url: str) -> None:
    place, message = refused(runblob.O3Video, callback_url=url)
    assert place == "callback_url"
    assert "must be an https:// URL (http:// only to this machine)" in message


def test_a_callback_of_the_request_comes_before_the_clients() -> None:
    own = runblob.O3Video("a fox", callback_url="http://127.0.0.1:8080/hook")
    assert sent(own, "https://hooks.example/k/t")["callback_url"] == "http://127.0.0.1:8080/hook"
    assert sent(runblob.O3Video("a fox"), "https://hooks.example/k/t")["callback_url"] == "https://hooks.example/k/t"
    assert "callback_url" not in sent(runblob.O3Video("a fox"))


# References: URL, data URI, local file, bytes.


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(PNG)
    return path


def test_urls_travel_as_urls() -> None:
    urls = (URL, "http://img.example/2.png")
    assert sent(runblob.O3Video("a fox", references=urls))["images_url"] == list(urls)


def test_bytes_files_and_data_uris_travel_as_data_uris_of_their_real_type(tmp_path: Path) -> None:
    """The type is told from the content: a PNG that is called .jpg is sent as a PNG."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(PNG)
    request = runblob.O3Video("a fox", references=(path, WEBP, uri(JPEG, "jpeg")))
    assert request.files == [path]
    body = sent(request.with_files({path: PNG}))
    assert body["images_base64"] == [uri(PNG, "png"), uri(WEBP, "webp"), uri(JPEG, "jpeg")]
    assert "images_url" not in body


@pytest.mark.parametrize(("content", "kind"), [(PNG, "png"), (JPEG, "jpeg"), (WEBP, "webp")])
@both
def test_the_documented_formats_are_accepted(model: type[Request], content: bytes, kind: str) -> None:
    assert model(prompt="a fox", references=(content, uri(content, kind))).files == []


def test_gif_is_for_videos_only() -> None:
    assert runblob.O3Video("a fox", references=(GIF,)).references == (GIF,)
    place, message = refused(runblob.O3Photo, references=(GIF,))
    assert place == "references"
    assert message.startswith(
        "reference 1 is a GIF by its content; allowed are JPEG, PNG, WEBP; convert it to JPEG or PNG first"
    )
    assert "prepare_image(...)" in message


@pytest.mark.parametrize(("model", "most"), [(runblob.O3Video, 5), (runblob.O3Photo, 10)])
def test_the_number_of_references_is_limited(model: type[runblob.O3Photo | runblob.O3Video], most: int) -> None:
    assert sent(model("a fox", references=(URL,) * most))["images_url"] == [URL] * most
    assert refused(model, references=(URL,) * (most + 1)) == (
        "references",
        f"{most + 1} reference images were given; at most {most} are allowed",
    )


@both
def test_urls_and_inline_images_do_not_mix(model: type[Request], photo: Path) -> None:
    said = (
        "URLs and inline images (files, bytes, data URIs) cannot be mixed in one request; "
        "give all as URLs or all inline"
    )
    for inline in (PNG, photo, uri(PNG, "png")):
        assert refused(model, references=(URL, inline)) == ("references", said)
    assert refused(model, images_url=[URL], images_base64=[uri(PNG, "png")]) == ("references", said)
    assert model(prompt="a fox", references=(PNG, photo, uri(PNG, "png"))).files == [photo]


def test_an_image_may_have_ten_mebibytes_and_no_more(tmp_path: Path) -> None:
    whole, larger = PNG.ljust(10 * MIB, b"\0"), PNG.ljust(11 * MIB, b"\0")
    path = tmp_path / "large.png"
    path.write_bytes(larger)
    assert runblob.O3Video("a fox", references=(whole,)).references == (whole,)
    for reference in (larger, path, uri(larger, "png")):
        place, message = refused(runblob.O3Video, references=(reference,))
        assert place == "references"
        assert message.startswith("reference 1")
        assert "has 11.0 MiB; at most 10 MiB are allowed; make it smaller" in message
    over = refused(runblob.O3Video, references=(whole + b"\0",))[1]
    assert "10.1 MiB; at most 10 MiB" in over, "a size that looks allowed must not be called too large"


def test_a_file_that_is_no_image_is_refused_whatever_it_is_called(tmp_path: Path) -> None:
    """Missing, empty, a directory, a text: each message names the file, its place and the finding."""
    (tmp_path / "empty.png").touch()
    (tmp_path / "note.png").write_text("not a picture at all")
    findings = {
        "missing.png": "cannot be read: No such file or directory",
        "empty.png": "is empty",
        "note.png": "is not an image by its content; allowed are JPEG, PNG, GIF, WEBP",
        "": "is a directory; an image file is needed",
        "pipe.png": "is not a regular file; an image file is needed",
    }
    os.mkfifo(tmp_path / "pipe.png")  # opening one waits for a writer, for ever if need be
    (tmp_path / "good.png").write_bytes(PNG)
    for name, finding in findings.items():
        path = tmp_path / name
        assert refused(runblob.O3Video, references=(tmp_path / "good.png", path)) == (
            "references",
            f"reference 2 ({path}) {finding}",
        )


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (b"", "reference 1 is empty"),
        (b"GIF8", "reference 1 is not an image by its content; allowed are JPEG, PNG, GIF, WEBP"),
        ("data:image/png;base64,", "reference 1 is empty"),
        ("data:image/png,abc", "reference 1 is a data URI, but not of the form data:image/...;base64,..."),
        ("data:image/png;base64,????", "reference 1 is a data URI whose base64 is broken"),
        (uri(b"hello", "png"), "reference 1 is not an image by its content"),
        (
            "photo.png",
            "reference 1 is 'photo.png', which is neither an http(s) URL nor a data URI; for a local file pass",
        ),
        ("/etc/passwd", "for a local file pass pathlib.Path(...), for image data pass bytes"),
        ("file:///etc/passwd", "which is neither an http(s) URL nor a data URI"),
        ("6f1c1f0e-3c1b-4c7e-9a55-0d7f6a1f2b3c", "which is neither an http(s) URL nor a data URI"),
        ("https://", "which is not a complete URL"),
    ],
)
def test_what_is_no_reference_is_refused(reference: str | bytes, message: str) -> None:
    place, said = refused(runblob.O3Video, references=(reference,))
    assert place == "references"
    assert message in said


def test_a_file_that_changed_after_the_check_is_checked_again(photo: Path) -> None:
    request = runblob.O3Video("a fox", references=(photo,))
    with pytest.raises(ValidationError, match="reference 1 is not an image by its content"):
        request.with_files({photo: b"gone bad"})


def test_images_do_not_flood_a_repr() -> None:
    content = PNG.ljust(MIB, b"\0")
    assert len(repr(runblob.O3Video("a fox", references=(content, uri(content, "png"))))) < 500


# Errors.

KINDS: dict[str, type[KlingError]] = {
    "INSUFFICIENT_CREDITS": InsufficientCredits,
    "GENERATION_NOT_FOUND": JobNotFound,
    "INVALID_PARAMETERS": InvalidRequest,
    "INVALID_IMAGE": InvalidRequest,
    "IMAGE_INACCESSIBLE": InvalidRequest,
    "TOO_MANY_IMAGES": InvalidRequest,
    "MIXED_IMAGE_INPUTS": InvalidRequest,
    "INVALID_DURATION": InvalidRequest,
    "INVALID_MODEL": InvalidRequest,
    "CONTENT_POLICY_VIOLATION": ContentRejected,
    "MODERATION_FAILED": ContentRejected,
    "MAINTENANCE": ProviderUnavailable,
}
ENVELOPES = {
    "detail": lambda code: {"detail": code},
    "success": lambda code: {"success": False, "message": code},
    "error": lambda code: {"error": code, "message": "Explained."},
}


@pytest.mark.parametrize("code", KINDS)
@pytest.mark.parametrize("envelope", ENVELOPES)
def test_every_code_is_understood_in_every_envelope(code: str, envelope: str) -> None:
    """Whatever the HTTP status: the code decides."""
    body = json.dumps(ENVELOPES[envelope](code)).encode()
    for status in (400, 418, 422):
        error = RunBlob("key").errors.parse_error(Reply(status, {"x-request-id": "req-7"}, body))
        assert type(error) is KINDS[code]
        assert (error.code, error.http_status, error.provider, error.request_id) == (code, status, "runblob", "req-7")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, Unauthorized),
        (402, InsufficientCredits),
        (404, JobNotFound),
        (422, InvalidRequest),
        (429, RateLimited),
        (500, ProviderUnavailable),
        (503, ProviderUnavailable),
    ],
)
def test_without_a_known_code_the_status_decides(status: int, kind: type[KlingError]) -> None:
    error = RunBlob("key").errors.parse_error(Reply(status, content=b'{"detail": "Something is wrong"}'))
    assert type(error) is kind
    assert "Something is wrong" in str(error)


def test_a_list_of_complaints_names_every_field() -> None:
    detail = [
        {"type": "missing", "loc": ["body", "prompt"], "msg": "Field required"},
        {"type": "x", "loc": None, "msg": "Odd"},
        "a text",
    ]
    error = RunBlob("key").errors.parse_error(Reply(422, content=json.dumps({"detail": detail}).encode()))
    assert isinstance(error, InvalidRequest)
    assert "body.prompt: Field required" in error.message
    assert "a text" in error.message


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', b"{}", b'{"message": "x"}', b'{"success": true}'])
def test_what_is_no_envelope_is_no_refusal(body: bytes) -> None:
    """So that a gateway's page is never taken for the provider's word."""
    assert RunBlob("key").errors.parse_error(Reply(400, content=body)) is None


def test_an_error_never_repeats_the_key() -> None:
    key = "rb_secret_9c1f"
    body = json.dumps({"error": key, "message": f"Invalid API key {key}"}).encode()
    error = RunBlob(key).errors.parse_error(Reply(401, content=body))
    assert isinstance(error, Unauthorized)
    assert key not in f"{error} {error!r} {error.code}"
    assert "[the key]" in str(error)


@pytest.mark.parametrize("word", ["COMPLETED", "Completed", " completed "])
def test_status_words_are_read_in_any_case(word: str) -> None:
    ref = JobRef("runblob", "o3-photo", "7")
    flow = runblob.RunBlob("key").poll([ref])
    next(flow)
    body = {"generation_id": 7, "status": word, "image_url": "https://cdn.example/a.png"}
    with pytest.raises(StopIteration) as done:
        flow.send(Reply(200, content=json.dumps(body).encode()))
    assert done.value.value[ref].status == "completed"


def test_an_unknown_word_beside_a_result_is_reported_as_such() -> None:
    ref = JobRef("runblob", "o3-photo", "7")
    flow = runblob.RunBlob("key").poll([ref])
    next(flow)
    body = {"generation_id": "7", "status": "ready", "image_url": "https://cdn.example/a.png"}
    with pytest.raises(StopIteration) as done:
        flow.send(Reply(200, content=json.dumps(body).encode()))
    assert done.value.value[ref].unrecognized == "the status 'ready' beside a result"

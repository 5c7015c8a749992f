"""Making a request: what its fields accept, and what is said of a mistake."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from kling_async import Request, inferencesh, pixeldojo, runblob, runware
from kling_async.providers import ALL_PROVIDERS
from support.samples import SAMPLES

CLASSES: list[type[Request]] = [endpoint.request for kind in ALL_PROVIDERS for endpoint in kind.endpoints]
SEVERAL = [runblob.O3Video, runblob.O3Photo, runware.ImageO3]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(100))


def refused(make: Callable[[], object]) -> dict[str, tuple[str, str]]:
    """The type of each error and its message, by the field that is blamed."""
    with pytest.raises(ValidationError) as caught:
        make()
    return {".".join(map(str, line["loc"])): (line["type"], line["msg"]) for line in caught.value.errors()}


@pytest.mark.parametrize("kind", CLASSES)
def test_a_request_is_made_by_position_in_the_order_that_checkers_see(kind: type[Request]) -> None:
    """Type checkers read the annotations: fields by position, those that are named alone by name."""
    own = [name for name, info in kind.model_fields.items() if not info.kw_only]
    recorded = next(s for s in SAMPLES if s.kind == "submit" and s.endpoint == kind.endpoint)
    given = recorded.request(recorded.provider())
    sample = kind.model_validate({name: getattr(given, name) for name in own})
    values = [getattr(sample, name) for name in own]
    assert kind(*values) == sample
    assert "callback_url" not in own
    with pytest.raises(TypeError, match=f"at most {len(own)} positional arguments, {len(own) + 1} were given"):
        kind(*values, "https://app.example/hook")


@pytest.mark.parametrize("kind", SEVERAL)
@pytest.mark.parametrize("container", [list, tuple])
def test_references_are_given_in_any_list_and_kept_as_a_tuple(
    kind: Callable[..., Any], container: Callable[..., Any], tmp_path: Path
) -> None:
    boat = tmp_path / "boat.png"
    boat.write_bytes(PNG)
    request = kind("a boat", references=container([boat, PNG]))
    assert request.references == (boat, PNG)
    assert hash(request) == hash(kind("a boat", (boat, PNG)))
    assert request.files == [boat]


@pytest.mark.parametrize("kind", SEVERAL)
def test_a_single_image_needs_no_list(kind: Callable[..., Any], tmp_path: Path) -> None:
    boat = tmp_path / "boat.png"
    boat.write_bytes(PNG)
    for single in (boat, "https://img.example/boat.png", PNG):
        assert kind("a boat", references=single).references == (single,)


@pytest.mark.parametrize("kind", SEVERAL)
def test_images_come_as_open_files_buffers_and_pictures(
    kind: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boat = tmp_path / "boat.png"
    boat.write_bytes(PNG)
    with boat.open("rb") as file:
        assert kind("a boat", references=file).references == (PNG,)
    assert kind("a boat", references=[io.BytesIO(PNG), bytearray(PNG)]).references == (PNG, PNG)
    [picture] = kind("a boat", references=[Image.new("CMYK", (8, 8)).convert("RGB")]).references
    assert picture.startswith(b"\x89PNG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kind("a boat", references=Path("~/boat.png")).files == [boat]


@pytest.mark.parametrize("kind", SEVERAL)
@pytest.mark.parametrize("wrong", [5, {"a": 1}, [5], [None], [["https://a.example"]]], ids=repr)
def test_what_is_no_image_gives_one_clear_error(kind: Callable[..., Any], wrong: object) -> None:
    [(place, (code, message))] = refused(lambda: kind("a boat", references=wrong)).items()
    assert place.startswith("references")
    assert code in {"references_type", "reference_type"}
    assert "give a list of images" in message or "an image is a URL or data URI" in message


@pytest.mark.parametrize("written", ["image/png", "image/jpg", "application/octet-stream", "image/jpeg;name=a"])
def test_a_data_uri_is_sent_with_the_type_of_its_content(written: str) -> None:
    jpeg = b"\xff\xd8\xff\xe0" + bytes(600)
    payload = base64.b64encode(jpeg).decode()
    [reference] = runblob.O3Photo("a boat", references=[f"data:{written};base64,{payload}"]).references
    assert str(reference).startswith("data:image/jpeg")
    assert str(reference).endswith(f";base64,{payload}")


def test_an_open_file_at_its_end_is_refused_with_what_to_do() -> None:
    buffer = io.BytesIO()
    buffer.write(PNG)
    errors = refused(lambda: runblob.O3Photo.model_validate({"prompt": "a boat", "references": buffer}))
    assert errors["references.0"][1].endswith("call seek(0) first")


def test_a_file_that_is_open_as_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "boat.txt"
    path.write_text("boat")
    with path.open() as file:
        assert refused(lambda: runblob.O3Photo("a boat", references=[file]))["references.0"][1].endswith("mode 'rb'")  # type: ignore[list-item]


FORMATS = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1",
    "TIFF": b"II*\0\x08\0\0\0",
    "BMP": b"BM\x9a\0\0\0\0\0\0\0\x7a\0\0\0\x6c\0\0\0",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
}


@pytest.mark.parametrize("name", FORMATS)
def test_an_image_of_another_format_is_named_with_what_to_do(name: str) -> None:
    [(_, message)] = refused(lambda: runblob.O3Photo("a boat", references=[FORMATS[name] + bytes(64)])).values()
    assert f" {name} by its content" in message
    assert "convert it to JPEG or PNG first" in message


@pytest.mark.parametrize("path", ["x" * 5000, "a\0b"], ids=["long", "NUL"])
def test_a_path_that_cannot_exist_is_refused_like_one_that_does_not(path: str) -> None:
    [(_, message)] = refused(lambda: runblob.O3Photo("a boat", references=[Path(path)])).values()
    assert "cannot be read" in message


def test_half_a_character_is_refused_in_every_text() -> None:
    for make in (
        lambda: inferencesh.ImageO1("a boat", negative_prompt="\ud83d"),
        lambda: pixeldojo.ImageV3("a boat", negative_prompt="\ud83d"),
        lambda: runblob.O3Photo("a boat", callback_url="https://a.example/\ud83d"),
        lambda: runware.ImageO3("a boat", upload_endpoint="https://a.example/\ud83d"),
    ):
        assert refused(make)


def test_a_list_in_place_of_one_image_is_refused_in_so_many_words() -> None:
    errors = refused(lambda: inferencesh.ImageO1.model_validate({"prompt": "a boat", "reference": [PNG]}))
    assert errors == {"reference": ("reference_type", "give one image, not a list: reference=...")}


@pytest.mark.parametrize(
    ("kind", "given", "meant"),
    [
        (runblob.O3Video, "durration", "duration"),
        (runblob.O3Photo, "aspect_ration", "aspect_ratio"),
        (runware.ImageO3, "reference", "references"),
        (inferencesh.ImageO1, "references", "reference"),
        (pixeldojo.ImageV3, "counts", "count"),
    ],
)
def test_of_an_unknown_field_it_is_said_what_was_meant(kind: type[Request], given: str, meant: str) -> None:
    errors = refused(lambda: kind("a boat", **{given: 5}))
    assert set(errors) == {given}
    category, message = errors[given]
    assert category == "extra_forbidden"
    assert message.startswith(f"There is no such field; did you mean {meant!r}? {kind.__name__} has prompt, ")
    assert all(name in message for name in kind.model_fields)


def test_of_a_field_unlike_any_other_it_is_said_which_there_are() -> None:
    _, message = refused(lambda: runblob.O3Video.model_validate({"prompt": "a boat", "xyz": 1}))["xyz"]
    assert message == (
        "There is no such field. O3Video has prompt, references, duration, aspect_ratio, model, "
        "keep_original_sound, first_frame, last_frame, customize_multi_shots, prefer_multi_shots, callback_url"
    )


def test_all_mistakes_are_reported_at_once_each_as_what_it_is() -> None:
    """An unknown field changes nothing about what is said of the others."""
    wrong: dict[str, Any] = {"prompt": "", "duration": 7, "references": ["{boat}.png"], "callback_url": "http://a.test"}
    alone = refused(lambda: runblob.O3Video.model_validate(wrong))
    errors = refused(lambda: runblob.O3Video.model_validate({**wrong, "durration": 5}))
    assert errors.pop("durration")[0] == "extra_forbidden"
    assert errors == alone
    assert {name: category for name, (category, _) in alone.items()} == {
        "prompt": "string_too_short",
        "duration": "literal_error",
        "references": "reference_text",
        "callback_url": "value_error",
    }


def test_a_text_that_begins_with_data_is_only_text() -> None:
    """Only the fields of images hold data URIs. A prompt is a prompt."""
    for prompt in ("data: rain of numbers", "data:image/png;base64,AAAA"):
        request = runblob.O3Photo(prompt)
        assert request.describe()["prompt"] == prompt
        assert prompt in repr(request)
        assert not request.inline

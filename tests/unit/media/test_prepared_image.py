"""`prepare_image` with pictures that Pillow and pillow-heif make: what comes out, and what is said about it."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from PIL import Image, ImageCms

from kling_async import PreparedImage, kling, prepare_image, runblob

SIDE = 320


def picture(mode: str = "RGB", size: tuple[int, int] = (SIDE, 200)) -> Image.Image:
    """A picture whose left upper corner is red, and everything else blue."""
    made = Image.new("RGB", size, (0, 0, 255))
    made.paste((255, 0, 0), (0, 0, size[0] // 4, size[1] // 4))
    return made if mode == "RGB" else made.convert(mode)


def noise(size: tuple[int, int]) -> Image.Image:
    """A picture that is hard to compress."""
    return Image.effect_noise(size, 80).convert("RGB")


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def heic(image: Image.Image, **options: Any) -> bytes:
    content = io.BytesIO()
    pillow_heif.from_pillow(image).save(content, quality=90, **options)
    return content.getvalue()


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def opened(prepared: PreparedImage) -> Image.Image:
    image = Image.open(io.BytesIO(prepared))
    image.load()
    assert image.format == prepared.format.upper()
    assert image.size == (prepared.width, prepared.height)
    assert image.mode in {"RGB", "RGBA", "L", "LA", "P", "1"}
    assert image.getexif().get(0x0112, 1) == 1
    return image


def is_red(image: Image.Image, place: tuple[int, int]) -> bool:
    red, green, blue = image.convert("RGB").getpixel(place)  # type: ignore[misc]  # three numbers
    return bool(red > 150 and green < 100 and blue < 100)


@pytest.mark.parametrize(
    ("content", "kind", "changes"),
    [
        (heic(picture()), "jpeg", ("converted from HEIC to JPEG",)),
        (written(picture(), "AVIF"), "jpeg", ("converted from AVIF to JPEG",)),
        (written(picture(), "WEBP"), "jpeg", ("converted from WEBP to JPEG",)),
        (written(picture(), "TIFF"), "png", ("converted from TIFF to PNG",)),
        (written(picture(), "BMP"), "png", ("converted from BMP to PNG",)),
        (written(picture("P"), "GIF"), "png", ("converted from GIF to PNG",)),
        (written(picture("RGBA"), "PNG"), "png", ()),
        (written(picture(), "TGA"), "png", ("converted from TGA to PNG",)),
        (written(picture("CMYK"), "JPEG"), "jpeg", ("colours converted from CMYK to RGB",)),
        (
            written(picture("CMYK"), "TIFF"),
            "png",
            ("converted from TIFF to PNG", "colours converted from CMYK to RGB"),
        ),
        (
            written(picture("P"), "GIF", save_all=True, append_images=[Image.new("P", (SIDE, 200), 3)]),
            "png",
            ("converted from GIF to PNG", "the first of 2 frames taken"),
        ),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value),
)
def test_what_endpoints_do_not_take_is_converted(content: bytes, kind: str, changes: tuple[str, ...]) -> None:
    prepared = prepare_image(content)
    assert (prepared.format, prepared.changes) == (kind, changes)
    image = opened(prepared)
    assert is_red(image, (5, 5))
    assert not is_red(image, (SIDE - 5, 195))
    assert prepare_image(prepared).changes == ()  # it needs nothing more


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_what_needs_nothing_keeps_its_content(kind: str, tmp_path: Path) -> None:
    content = written(picture(), kind)
    path = tmp_path / "misnamed.heic"
    path.write_bytes(content)
    for source in (content, bytearray(content), path, str(path), io.BytesIO(content)):
        prepared = prepare_image(source)  # type: ignore[arg-type]  # bytearray, for one
        assert prepared == content
        assert prepared.changes == ()


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "pillow"])
def test_a_photo_is_turned_upright(orientation: int, kind: str) -> None:
    """The red corner comes to where the orientation puts it."""
    content = written(picture(), "PNG" if kind == "pillow" else kind, exif=exif(orientation))
    prepared = prepare_image(Image.open(io.BytesIO(content)) if kind == "pillow" else content)
    assert prepared.changes == (f"turned upright, as its EXIF orientation {orientation} says",)
    image = opened(prepared)
    right, bottom = image.width - 5, image.height - 5
    corner = {
        2: (right, 5),
        3: (right, bottom),
        4: (5, bottom),
        5: (5, 5),
        6: (right, 5),
        7: (right, bottom),
        8: (5, bottom),
    }
    assert is_red(image, corner[orientation])
    assert image.size == ((200, SIDE) if orientation > 4 else (SIDE, 200))


def test_a_photo_of_a_phone_is_turned_once() -> None:
    """Its container says how to turn it, and its EXIF data says the same again."""
    prepared = prepare_image(heic(picture(), exif=exif(6)))
    assert opened(prepared).size == (200, SIDE)
    assert is_red(opened(prepared), (195, 5))


@pytest.mark.parametrize(
    "content",
    [
        written(picture("L").convert("I;16").point(lambda value: value * 257), "PNG"),
        written(picture("L").convert("I;16").point(lambda value: value * 257), "TIFF"),
    ],
    ids=["PNG", "TIFF"],
)
def test_sixteen_bits_become_eight(content: bytes) -> None:
    prepared = prepare_image(content)
    assert "reduced from 16 to 8 bits a channel" in prepared.changes
    dark, bright = sorted(colour for _, colour in opened(prepared).getcolors() or ())
    assert (dark, bright) == (29, 76)  # blue and red in grey: not black, and not white


def test_a_colour_png_of_sixteen_bits_is_found() -> None:
    """Pillow reduces it while it reads, and says nothing of that. It writes none, so this one is made by hand."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pixel = struct.pack(">3H", 0xF000, 0x1000, 0x1000)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    content += chunk(b"IDAT", zlib.compress(b"\0" + pixel * 2)) + chunk(b"IEND", b"")
    prepared = prepare_image(content)
    assert prepared.changes == ("reduced from 16 to 8 bits a channel",)
    assert is_red(opened(prepared), (0, 0))


def test_colours_of_a_profile_are_kept_for_the_eye() -> None:
    """What is written has no profile, so the numbers must change."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    content = written(picture("LAB"), "TIFF", icc_profile=lab)
    prepared = prepare_image(content)
    assert prepared.changes[1] == "colours converted from LAB with a profile to sRGB"
    assert is_red(opened(prepared), (5, 5))
    assert "icc_profile" not in opened(prepared).info


def test_transparent_pixels_stay_and_opaque_ones_make_no_png() -> None:
    opaque = prepare_image(written(picture("RGBA"), "WEBP"))
    assert opaque.format == "jpeg"
    clear = picture("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    prepared = prepare_image(written(clear, "WEBP", lossless=True))
    assert prepared.format == "png"
    assert opened(prepared).convert("RGBA").getpixel((0, 0)) == (0, 0, 0, 0)
    assert prepare_image(written(clear, "PNG"), max_bytes=700).format == "png"


def test_it_is_made_smaller_only_when_that_is_asked_for() -> None:
    content = written(noise((640, 480)), "JPEG", quality=100)
    assert prepare_image(content) == content
    scaled = prepare_image(content, max_side=320)
    assert scaled.changes == ("scaled down from 640x480 to 320x240",)
    assert opened(scaled).size == (320, 240)
    for most in (100_000, 20_000, 800):
        small = prepare_image(content, max_bytes=most)
        assert len(small) <= most
        assert small.changes[0].startswith("compressed from ")
        opened(small)
    assert "scaled down from 640x480" in small.changes[0]
    with pytest.raises(ValueError, match="the image cannot be made as small as 100 bytes"):
        prepare_image(content, max_bytes=100)


def test_a_png_with_too_many_bytes_becomes_a_jpeg() -> None:
    prepared = prepare_image(written(noise((300, 300)), "PNG"), max_bytes=80_000)
    assert prepared.changes[0] == "converted from PNG to JPEG"
    assert opened(prepared).size == (300, 300)


def test_what_was_done_is_in_the_log_and_in_the_description(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "boat.heic").write_bytes(heic(picture()))
    with caplog.at_level(logging.INFO, "kling_async"):
        prepared = prepare_image("~/boat.heic")
    [record] = caplog.records
    assert record.getMessage() == f"{tmp_path / 'boat.heic'}: {prepared.describe()}"
    assert repr(prepared) == f"<PreparedImage {prepared.describe()}>"
    assert prepared.describe().startswith("JPEG 320x200, ")
    assert prepared.describe().endswith(" KiB: converted from HEIC to JPEG")


def test_it_is_bytes_that_can_be_copied_and_pickled() -> None:
    prepared = prepare_image(heic(picture()))
    for same in (pickle.loads(pickle.dumps(prepared)), copy.deepcopy(prepared)):  # noqa: S301  # our own
        assert same == prepared
        assert (same.format, same.width, same.height, same.changes) == ("jpeg", SIDE, 200, prepared.changes)


def test_requests_take_it_wherever_they_take_an_image() -> None:
    """Kling checks the sides of an image as well."""
    prepared = prepare_image(heic(picture(size=(400, 320))))
    assert runblob.O3Photo("a boat", references=[prepared, prepared]).references == (prepared, prepared)
    assert kling.ImageToVideo("a boat", first_frame=prepared).first_frame == prepared


def test_a_pillow_image_in_a_request_is_prepared(caplog: pytest.LogCaptureFixture) -> None:
    sideways = Image.open(io.BytesIO(written(picture("CMYK"), "JPEG", exif=exif(6))))
    with caplog.at_level(logging.INFO, "kling_async"):
        [reference] = runblob.O3Photo("a boat", references=sideways).references
    assert Image.open(io.BytesIO(reference)).size == (200, SIDE)  # type: ignore[arg-type]  # its content
    assert "turned upright" in caplog.text
    assert "colours converted from CMYK to RGB" in caplog.text
    with pytest.raises(ValueError, match="floating point; convert them to 8 bits first"):
        runblob.O3Photo("a boat", references=Image.new("F", (9, 9)))


def unreadable(tmp_path: Path) -> dict[str, tuple[Callable[[], object], str]]:
    jpeg = written(noise((64, 64)), "JPEG")
    buffer = io.BytesIO(jpeg)
    buffer.seek(0, io.SEEK_END)
    return {
        "empty": (lambda: prepare_image(b""), "the image is empty"),
        "at its end": (lambda: prepare_image(buffer), r"call seek\(0\) first"),
        "text": (lambda: prepare_image(b"hello"), "the image is no image that Pillow can read"),
        "heic": (lambda: prepare_image(heic(picture())[:200]), "is damaged or not complete"),
        "jpeg": (lambda: prepare_image(jpeg[:-900]), "is damaged or not complete: image file is truncated"),
        "svg": (lambda: prepare_image(b"<svg xmlns=''/>"), "an SVG, which has no pixels; render it to a PNG first"),
        "video": (lambda: prepare_image(b"\0\0\0 ftypisom" + bytes(99)), r"is video \(MP4\), not an image"),
        "url": (lambda: prepare_image("https://img.example/a.heic"), "is a URL, and nothing is fetched"),
        "data": (lambda: prepare_image("data:image/png;base64,AAAA"), "is a data URI; give its decoded bytes"),
        "folder": (lambda: prepare_image(tmp_path), "is not a regular file"),
        "float": (lambda: prepare_image(Image.new("F", (9, 9))), "pixels of floating point"),
        "deep": (lambda: prepare_image(Image.new("I", (9, 9), 70_000)), "has pixels of 32 bits"),
        "none": (
            lambda: prepare_image(jpeg, max_side=0),
            r"prepare_image\(max_side=...\) takes a whole number above 0",
        ),
        "part": (lambda: prepare_image(jpeg, max_bytes=1.5), r"max_bytes=...\) .*, not 1.5"),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("name", list(unreadable(Path())))
def test_what_cannot_be_prepared_says_why(name: str, tmp_path: Path) -> None:
    call, message = unreadable(tmp_path)[name]
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_of_the_wrong_type_or_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="not an object of type int"):
        prepare_image(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="open it with mode 'rb'"):
        prepare_image(io.StringIO("a"))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"boat\.png"):
        prepare_image(tmp_path / "boat.png")


def test_a_picture_with_too_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"more pixels than PIL\.Image\.MAX_IMAGE_PIXELS allows"):
        prepare_image(written(noise((640, 480)), "PNG"))


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(
        ImportError, match=r"the image is a HEIC, which needs pillow-heif.*pip install 'kling-async\[images\]'"
    ):
        prepare_image(heic(picture()))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"prepare_image needs Pillow.*pip install 'kling-async\[images\]'"):
        prepare_image(b"")

"""What the official Kling API takes as a picture, a video, a sound or an address (docs/providers/kling.md)."""

from __future__ import annotations

import io
from base64 import b64decode
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

_MEGABYTE = 1_000_000
_SHORTEST_SIDE = 300
_WIDEST = 2.5
_SOUND_BYTES = 5 * _MEGABYTE
_SOUNDS = {".mp3", ".wav", ".m4a", ".aac"}
_STARTS_OF_SOUNDS = (b"RIFF", b"ID3", b"ADIF")


def address_problem(value: Any) -> str | None:
    """What is wrong with an address, or None."""
    parts = urlsplit(value) if isinstance(value, str) else None
    if parts is None or parts.scheme not in {"http", "https"} or not parts.netloc:
        return f"is not an http or https URL: {str(value)[:40]!r}"
    return None


def _wrong_ending(value: str, endings: set[str]) -> str | None:
    ending = PurePosixPath(urlsplit(value).path).suffix.lower()
    known = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".heic", ".avif", ".tiff", ".svg"}
    known |= {".mp4", ".mov", ".webm", ".avi", ".mkv", ".m4v"} | _SOUNDS | {".ogg", ".flac"}
    return f"ends in {ending}, which is not one of {sorted(endings)}" if ending in known - endings else None


def _decoded(value: str) -> bytes | str:
    """The bytes of raw base64, or a complaint."""
    if value.startswith("data:"):
        return "has a data: prefix; Kling takes raw base64"
    try:
        return b64decode(value, validate=True)
    except ValueError:
        return f"is neither a URL nor raw base64: {value[:40]!r}"


def image_problem(most_bytes: int, *, mask: bool = False) -> Callable[[Any], str | None]:
    """A check of a picture: a URL, or raw base64 of a JPEG or PNG of the right size."""

    def check(value: Any) -> str | None:
        if not isinstance(value, str) or not value:
            return "is not a URL or raw base64 of an image"
        if "://" in value[:10]:
            return address_problem(value) or _wrong_ending(value, {".jpg", ".jpeg", ".png"})
        data = _decoded(value)
        return data if isinstance(data, str) else _picture_problem(data, most_bytes, mask=mask)

    return check


def _picture_problem(data: bytes, most_bytes: int, *, mask: bool) -> str | None:
    if len(data) > most_bytes:
        return f"has {len(data)} bytes, more than {most_bytes}"
    try:
        with Image.open(io.BytesIO(data)) as picture:
            kind, (width, height) = picture.format, picture.size
            picture.load()
    except (OSError, ValueError, SyntaxError):
        return "is base64 of something that is not an image"
    if kind not in {"JPEG", "PNG"}:
        return f"is a {kind}, not a JPEG or PNG"
    # A mask has the size of its picture, which can be anywhere.
    return None if mask else _size_problem(width, height)


def _size_problem(width: int, height: int) -> str | None:
    if min(width, height) < _SHORTEST_SIDE:
        return f"is {width}x{height}; each side has at least {_SHORTEST_SIDE} pixels"
    if max(width, height) > _WIDEST * min(width, height):
        return f"is {width}x{height}; the ratio is 1:2.5 to 2.5:1"
    return None


new_image = image_problem(50 * _MEGABYTE)
legacy_image = image_problem(10 * _MEGABYTE)
mask_image = image_problem(10 * _MEGABYTE, mask=True)


def video_problem(value: Any) -> str | None:
    """What is wrong with a video, or None. A video is a URL, never base64."""
    return address_problem(value) or _wrong_ending(value, {".mp4", ".mov"})


def sound_problem(value: Any) -> str | None:
    """What is wrong with a sound, or None. Sources disagree on m4a and aac, which are accepted."""
    if not isinstance(value, str) or not value:
        return "is not a URL or raw base64 of a sound"
    if "://" in value[:10]:
        return address_problem(value) or _wrong_ending(value, _SOUNDS)
    data = _decoded(value)
    if isinstance(data, str):
        return data
    if len(data) > _SOUND_BYTES:
        return f"has {len(data)} bytes, more than {_SOUND_BYTES}"
    frame = data[:1] == b"\xff" and len(data) > 1 and data[1] >= 0xE0  # the sync word of MPEG and ADTS  # noqa: PLR2004  # the sync word
    if not frame and not data.startswith(_STARTS_OF_SOUNDS) and data[4:8] != b"ftyp":
        return "is base64 of something that is not mp3, wav, m4a or aac"
    return None

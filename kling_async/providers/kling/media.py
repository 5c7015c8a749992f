"""Images, videos and sounds as Kling takes them: checked locally, and sent as URL or raw base64."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from kling_async._exchange.urls import is_url
from kling_async._media.local_file import FileText, LocalFile
from kling_async.providers._base.images import ImageRule, Reference, decode_data_uri

__all__ = [
    "LegacyImage",
    "NewImage",
    "Sound",
    "VideoUrl",
    "image_size",
    "images",
    "wire",
]

_MB = 1_000_000
NEW_BYTES = 50 * _MB  # the new generation
LEGACY_BYTES = 10 * _MB  # /v1
_SHORTEST_SIDE = 300  # pixels
_WIDEST = 2.5
_HEADER_BYTES = 256 * 1024  # of a file. A JPEG's size comes after its metadata
_PNG = b"\x89PNG\r\n\x1a\n"
_FRAMES_OF_JPEG = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_VIDEOS = (".mp4", ".mov")
_SOUNDS = (".mp3", ".wav", ".m4a", ".aac")
_OTHER_ENDINGS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".gif",
    ".webm",
    ".avi",
    ".mkv",
    ".ogg",
    ".flac",
    *_SOUNDS,
    *_VIDEOS,
)
_SOUND_BYTES = 5 * _MB


def image_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG or JPEG in pixels. None if its beginning does not contain them."""
    if content.startswith(_PNG) and len(content) >= 24:  # noqa: PLR2004  # signature, IHDR, two numbers
        width, height = struct.unpack(">II", content[16:24])
        return width, height
    if not content.startswith(b"\xff\xd8"):
        return None
    place = 2
    while place + 9 <= len(content) and content[place] == 0xFF:  # noqa: PLR2004  # the start of a segment
        kind = content[place + 1]
        if kind in _FRAMES_OF_JPEG:
            height, width = struct.unpack(">HH", content[place + 5 : place + 9])
            return width, height
        # A padding byte stands alone. Every other segment here has a length.
        place += 1 if kind == 0xFF else 2 + int.from_bytes(content[place + 2 : place + 4], "big")  # noqa: PLR2004
    return None


def _beginning(image: Reference) -> bytes | None:
    """The first bytes of an image that is not at a URL."""
    if isinstance(image, LocalFile):
        image = image.path
    if isinstance(image, Path):
        with image.open("rb") as file:
            return file.read(_HEADER_BYTES)
    if isinstance(image, bytes):
        return image
    text = str(image)
    return decode_data_uri(text, "the image") if text.startswith("data:") else None


def _check_size(image: Reference, label: str) -> None:
    content = _beginning(image)
    size = image_size(content) if content is not None else None
    if size is None:
        return
    width, height = size
    if min(size) < _SHORTEST_SIDE:
        raise ValueError(f"{label} is {width}x{height}; each side must have at least {_SHORTEST_SIDE} pixels")
    if max(size) > _WIDEST * min(size):
        raise ValueError(f"{label} is {width}x{height}; its sides may be at most 1:2.5 or 2.5:1")


@dataclass(frozen=True, slots=True)
class _SizedRule:
    """A rule of images that checks their sides as well: for a field of one image, or of several."""

    rule: ImageRule

    def __call__(self, value: Any) -> Any:
        if isinstance(value, tuple):
            self.rule(value)
            for position, image in enumerate(value, 1):
                _check_size(image, f"reference {position}")
        else:
            self.rule.check(value, "the image")
            _check_size(value, "the image")
        return value


def images(most: int, max_bytes: int = LEGACY_BYTES) -> AfterValidator:
    """A validator of a field of several images."""
    return AfterValidator(_SizedRule(ImageRule(formats=("jpeg", "png"), most=most, max_bytes=max_bytes)))


NewImage: TypeAlias = Annotated[
    Reference, AfterValidator(_SizedRule(ImageRule(formats=("jpeg", "png"), max_bytes=NEW_BYTES)))
]
"""A JPEG or PNG of at most 50 MB, sides of 300 pixels or more, ratio 1:2.5 to 2.5:1."""
LegacyImage: TypeAlias = Annotated[
    Reference, AfterValidator(_SizedRule(ImageRule(formats=("jpeg", "png"), max_bytes=LEGACY_BYTES)))
]
"""Same as `NewImage`, of at most 10 MB."""


def _ending(url: str) -> str:
    path = urlsplit(url).path.lower()
    return next((ending for ending in _OTHER_ENDINGS if path.endswith(ending)), "")


def _video(url: str) -> str:
    if not is_url(url) or not urlsplit(url).hostname:
        raise ValueError(
            f"{url!r:.80} is not the http(s) URL of a video; Kling takes videos by URL only and has no upload"
        )
    if (ending := _ending(url)) and ending not in _VIDEOS:
        raise ValueError(f"the video ends in {ending}; allowed are MP4 and MOV")
    return url


VideoUrl: TypeAlias = Annotated[str, AfterValidator(_video)]
"""The URL of an MP4 or MOV. Kling has no upload and takes no video inline."""


def _sound(value: Reference) -> Reference:
    if isinstance(value, str) and is_url(value):
        if (ending := _ending(value)) and ending not in _SOUNDS:
            raise ValueError(f"the sound ends in {ending}; allowed are MP3, WAV, M4A and AAC")
        return value
    if isinstance(value, LocalFile):
        size, head = value.size, value.head
    elif isinstance(value, Path):
        try:
            size = value.stat().st_size
            with value.open("rb") as file:
                head = file.read(16)
        except OSError as error:
            raise ValueError(f"the sound {value} cannot be read: {error.strerror}") from error
    elif isinstance(value, bytes) or str(value).startswith("data:"):
        content = value if isinstance(value, bytes) else decode_data_uri(str(value), "the sound")
        size, head = len(content), content[:16]
    else:
        raise PydanticCustomError(
            "reference_text",
            "{text} is neither an http(s) URL nor a data URI; for a local file pass pathlib.Path(...)",
            {"text": f"{value!r:.80}"},
        )
    if size > _SOUND_BYTES:
        raise ValueError(f"the sound has {size} bytes; at most {_SOUND_BYTES} are allowed")
    if not _is_sound(head):
        raise ValueError("the sound is none by its content; allowed are MP3, WAV, M4A and AAC")
    return value


def _is_sound(head: bytes) -> bool:
    frame = len(head) > 1 and head[0] == 0xFF and head[1] >= 0xE0  # noqa: PLR2004  # the sync word of MPEG and ADTS
    return frame or head.startswith((b"RIFF", b"ID3", b"ADIF")) or head[4:8] == b"ftyp"


Sound: TypeAlias = Annotated[Reference, AfterValidator(_sound)]
"""An MP3 or WAV of at most 5 MB: a URL, a data URI, a local file or its content. M4A and AAC are documented and were
refused when somebody tried."""


def wire(image: Reference) -> str:
    """An image or a sound as it is sent: a URL as it is, all else as raw base64, without a ``data:`` prefix."""
    if isinstance(image, LocalFile):
        return FileText(image)
    if isinstance(image, bytes):
        return base64.b64encode(image).decode("ascii")
    text = str(image)
    return text.partition(",")[2] if text.startswith("data:") else text

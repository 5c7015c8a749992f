"""The file formats that images and videos come in, recognised by their first bytes. Pure."""

from __future__ import annotations

import re
from typing import Literal

from kling_async._records import record

__all__ = ["HEAD_BYTES", "MediaType", "media_type"]

HEAD_BYTES = 512
"""How many bytes at a file's beginning determine its format."""


@record
class MediaType:
    """A file format.

    Attributes:
        name: Its name in lower case, such as ``"jpeg"``.
        kind: What it holds.
        extension: The usual ending of a file name, with the dot.
        mime: Its media type, such as ``"image/jpeg"``.
        signature: Matches the beginning of such a file.
    """

    name: str
    kind: Literal["image", "video", "audio"]
    extension: str
    mime: str
    signature: re.Pattern[bytes]


def _type(name: str, mime: str, extension: str, signature: bytes) -> MediaType:
    kinds: dict[str, Literal["image", "video", "audio"]] = {"image": "image", "video": "video", "audio": "audio"}
    kind = kinds[mime.partition("/")[0]]
    return MediaType(name, kind, extension, mime, re.compile(signature, re.DOTALL))


_TYPES = (
    _type("jpeg", "image/jpeg", ".jpg", rb"\xff\xd8\xff"),
    _type("png", "image/png", ".png", rb"\x89PNG\r\n\x1a\n"),
    _type("gif", "image/gif", ".gif", rb"GIF8[79]a"),
    _type("webp", "image/webp", ".webp", rb"RIFF....WEBP"),
    _type("avif", "image/avif", ".avif", rb"....ftypavi[fs]"),
    # Photos of phones. The general brands of the container (mif1, msf1) are AVIF as well if they name it.
    _type("avif", "image/avif", ".avif", rb"....ftypm(?:if|sf)1.{4}(?:.{4}){0,8}?avi[fs]"),
    _type("heic", "image/heic", ".heic", rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)"),
    _type("tiff", "image/tiff", ".tiff", rb"II[*+]\x00|MM\x00[*+]"),
    _type("bmp", "image/bmp", ".bmp", rb"BM.{4}\x00{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00"),
    _type(
        "svg",
        "image/svg+xml",
        ".svg",
        rb"(?:\xef\xbb\xbf)?\s*+(?:<\?xml[^>]*+>\s*+)?(?:<!--(?:(?!-->).)*+-->\s*+)*+(?:<!DOCTYPE\s+svg[^>]*+>\s*+)?<svg[\s>]",
    ),
    _type("m4a", "audio/mp4", ".m4a", rb"....ftypM4A"),
    _type("mov", "video/quicktime", ".mov", rb"....ftypqt  "),
    _type("mp4", "video/mp4", ".mp4", rb"....ftyp"),
    _type("wav", "audio/wav", ".wav", rb"RIFF....WAVE"),
    _type("mp3", "audio/mpeg", ".mp3", rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]"),
    _type("webm", "video/webm", ".webm", rb"\x1aE\xdf\xa3"),
)


def media_type(head: bytes) -> MediaType | None:
    """The format of a file that begins with `head`, which should be `HEAD_BYTES` long, or None if it is not known."""
    return next((kind for kind in _TYPES if kind.signature.match(head)), None)

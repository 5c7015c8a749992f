"""What providers check about reference images: format by content, size, whether they can be had."""

from __future__ import annotations

import base64
import binascii
import colorsys
import io
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from PIL import Image, ImageOps
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_BYTES = 10 * 1024 * 1024  # every provider's limit for one image
_MOST_THUMBNAILS = 3
_THUMBNAIL = (96, 96)  # px
_LARGE = 1 << 20  # characters of an inline image above which it is not decoded a second time
_INLINE = ("data:image/", "/9j/", "iVBORw0KGgo")  # data URIs, and JPEG and PNG as bare base64
_IMAGE_NAME = re.compile(r"\.(png|jpe?g|webp|gif)([?#]|$)|/(uploads?|files|images?)/", re.IGNORECASE)
_DATA_URI = re.compile(r"data:(image/[a-z+.-]+);base64,", re.ASCII)


class BadImageError(ValueError):
    """A reference image that a provider would refuse."""


def check_data_uri(uri: str, formats: Collection[str]) -> None:
    """Check an inline image: decodable, whole, not too large, of an accepted format and honest about it.

    Args:
        uri: `data:image/png;base64,...`.
        formats: Accepted formats in Pillow's words: `JPEG`, `PNG`, `WEBP`, `GIF`.

    Raises:
        BadImageError: It is not such an image. The message has the reason.
    """
    head = _DATA_URI.match(uri)
    if head is None:
        raise BadImageError("not a data URI of an image (data:image/...;base64,...)")
    try:
        data = base64.b64decode(uri[head.end() :], validate=True)
    except binascii.Error as error:
        raise BadImageError(f"not base64: {error}") from error
    if len(data) > MAX_BYTES:
        raise BadImageError(f"{len(data)} bytes; the limit is {MAX_BYTES}")
    found = _format(data)
    if found is None or found not in formats:
        raise BadImageError(f"the content is {found or 'no image'}; accepted are {', '.join(sorted(formats))}")
    if head[1] != f"image/{found.lower()}":
        raise BadImageError(f"called {head[1]}, but the content is {found}")


def thumbnails(*sent: Any) -> tuple[bytes, ...]:
    """Small PNG files of the images in what was sent: JSON values, or objects of pydantic.

    An image that is not in the request, but on the web, is a plain tile whose colour its address decides.
    """
    found = (_thumbnail(text) for text in islice(_image_texts(sent), _MOST_THUMBNAILS))
    return tuple(picture for picture in found if picture is not None)


def _image_texts(value: Any) -> Iterator[str]:
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, str):
        if value.startswith(_INLINE) or (value.startswith(("http://", "https://")) and _IMAGE_NAME.search(value)):
            yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _image_texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _image_texts(part)


def _thumbnail(text: str) -> bytes | None:
    if text.startswith("http") or len(text) > _LARGE:
        colour = colorsys.hsv_to_rgb(zlib.crc32(text[-_LARGE:].encode()) / 2**32, 0.6, 0.8)
        tile = Image.new("RGB", _THUMBNAIL, tuple(round(part * 255) for part in colour))
    else:
        try:
            with Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2]))) as image:
                image.draft("RGB", _THUMBNAIL)  # JPEG is decoded at a fraction of its size
                tile = ImageOps.fit(image.convert("RGB"), _THUMBNAIL)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            return None  # the provider's own check has said what is wrong
    file = io.BytesIO()
    tile.save(file, "png")
    return file.getvalue()


def check_url(url: str) -> None:
    """Check the address of an image that a provider would fetch. Hosts under `.invalid` cannot be reached.

    Raises:
        BadImageError: It is no http or https URL.
        OSError: Nothing can be fetched from there.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BadImageError("not an http or https URL")
    if parts.hostname.endswith(".invalid"):
        raise OSError(f"{parts.hostname} cannot be reached")


def _format(data: bytes) -> str | None:
    """The format by content, or None unless the whole image can be read."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return image.format
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None

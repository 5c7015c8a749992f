"""What providers check about reference images: format by content, size, whether they can be had."""

from __future__ import annotations

import base64
import binascii
import io
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_BYTES = 10 * 1024 * 1024  # every provider's limit for one image
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

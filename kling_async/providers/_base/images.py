"""Reference images: as URL, path, bytes or data URI."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    GetPydanticSchema,
)
from pydantic_core import PydanticCustomError

from kling_async._urls import _scheme_and_host, is_url

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # the same class, by a public way

__all__ = ["ImageRule", "Reference", "References", "data_uri", "decode_data_uri", "sniff"]


Reference: TypeAlias = str | Path | bytes
"""An image: a URL or data URI (str, never a path), a local file (Path), or its content (bytes)."""


def _several(value: Any) -> Any:
    if isinstance(value, str | Path | bytes):
        raise PydanticCustomError("tuple_type", "give a list, even of one image: references=[...]")
    return value


References: TypeAlias = Annotated[
    Sequence[Reference],
    GetPydanticSchema(lambda _, schema: schema(tuple[Reference, ...])),  # frozen and hashable, whatever was given
    BeforeValidator(_several),
]
"""Images, as a list, tuple or the like; kept as a tuple."""
_SIGNATURES: Mapping[str, re.Pattern[bytes]] = {
    "jpeg": re.compile(rb"\xff\xd8\xff"),
    "png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "gif": re.compile(rb"GIF8[79]a"),
    "webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}
_HEAD = 16  # bytes; the longest signature has 12
_MIB = 1024 * 1024


def sniff(head: bytes) -> str | None:
    """The image format that the first bytes of a file show: ``jpeg``, ``png``, ``gif``, ``webp`` or None."""
    return next((name for name, signature in _SIGNATURES.items() if signature.match(head)), None)


def data_uri(content: bytes) -> str:
    """The image as a data URI, its type told from its content."""
    return f"data:image/{sniff(content[:_HEAD])};base64,{base64.b64encode(content).decode('ascii')}"


@dataclass(frozen=True, slots=True)
class ImageRule:
    """What an endpoint accepts as reference images; a validator for a field of references.

    Attributes:
        formats: Names as `sniff` gives them. Decided by content, never by file name.
        most: How many at most.
        max_bytes: Largest size of one.
        uniform: All must be URLs, or none.
        uuids: Whether a bare UUID (an image uploaded before) is accepted.
    """

    formats: tuple[str, ...] = ("jpeg", "png", "webp")
    most: int = 10
    max_bytes: int = 10 * _MIB
    uniform: bool = False
    uuids: bool = False

    def __call__(self, references: tuple[Reference, ...]) -> tuple[Reference, ...]:
        """The same references, each checked.

        Raises:
            ValueError: One is not acceptable; says which, what it is, and what is allowed.
        """
        if len(references) > self.most:
            raise ValueError(f"{len(references)} reference images were given; at most {self.most} are allowed")
        for position, reference in enumerate(references, 1):
            self.check(reference, f"reference {position}")
        if self.uniform and len({is_url(reference) for reference in references}) > 1:
            raise ValueError(
                "URLs and inline images (files, bytes, data URIs) cannot be mixed in one request; "
                "give all as URLs or all inline"
            )
        return references

    def check(self, reference: Reference, label: str) -> None:
        """Check one reference; `label` names it in the message."""
        if isinstance(reference, Path):
            self._check_file(reference, f"{label} ({reference})")
        elif isinstance(reference, bytes):
            self._check_content(reference[:_HEAD], len(reference), label)
        elif reference.startswith("data:"):
            content = decode_data_uri(reference, label)
            self._check_content(content[:_HEAD], len(content), label)
        elif is_url(reference):
            if not _scheme_and_host(reference)[1]:
                raise ValueError(f"{label} is {reference!r:.80}, which is not a complete URL: it names no host")
        elif not (self.uuids and _UUID.fullmatch(reference)):
            raise ValueError(
                f"{label} is {reference!r:.80}, which is neither an http(s) URL nor a data URI; "
                "for a local file pass pathlib.Path(...), for image data pass bytes"
            )

    def _check_file(self, path: Path, label: str) -> None:
        if path.is_dir():
            raise ValueError(f"{label} is a directory; an image file is needed")
        try:
            size = path.stat().st_size
            if not path.is_file():  # opening a pipe or a device may block for ever
                raise ValueError(f"{label} is not a regular file; an image file is needed")
            with path.open("rb") as file:
                head = file.read(_HEAD)
        except OSError as error:
            raise ValueError(f"{label} cannot be read: {error.strerror}") from error
        self._check_content(head, size, label)

    def _check_content(self, head: bytes, size: int, label: str) -> None:
        if size == 0:
            raise ValueError(f"{label} is empty")
        if size > self.max_bytes:
            # Rounded up: one byte too many must not read as "10.0 MiB; at most 10 MiB".
            shown = math.ceil(size / _MIB * 10) / 10
            raise ValueError(f"{label} has {shown} MiB; at most {self.max_bytes / _MIB:.0f} MiB are allowed")
        found = sniff(head)
        if found not in self.formats:
            raise ValueError(
                f"{label} is {'a ' + found.upper() if found else 'not an image'} by its content; "
                f"allowed are {', '.join(name.upper() for name in self.formats)}"
            )


def decode_data_uri(uri: str, label: str) -> bytes:
    """The content of a base64 data URI.

    Raises:
        ValueError: It is none.
    """
    head, _, payload = uri.partition(",")
    if not head.endswith(";base64"):
        raise ValueError(f"{label} is a data URI, but not of the form data:image/...;base64,...")
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise ValueError(f"{label} is a data URI whose base64 is broken: {error}") from error


_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

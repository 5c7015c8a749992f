"""Reference images: as URL, path, bytes or data URI."""

from __future__ import annotations

import base64
import binascii
import math
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeAlias

from pydantic import BeforeValidator, GetPydanticSchema
from pydantic_core import PydanticCustomError, core_schema

from kling_async._exchange.urls import _scheme_and_host, is_url
from kling_async._media.local_file import FileText, LocalFile
from kling_async._media.media_types import HEAD_BYTES, media_type
from kling_async._media.prepared_image import prepare_image
from kling_async._records import record

__all__ = [
    "NO_IMAGES",
    "ImageRule",
    "OneImage",
    "Reference",
    "References",
    "data_uri",
    "decode_data_uri",
    "image_format",
    "sniff",
]


def to_reference(value: Any) -> Any:
    """An image in any of the usual forms, as text, `Path` or bytes.

    Raises:
        PydanticCustomError: It is no image, or a file that cannot be read.
    """
    if isinstance(value, str) and value.startswith("data:"):
        return _with_its_type(value)
    if isinstance(value, str | bytes | LocalFile):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if hasattr(value, "__fspath__"):
        return _expanded(Path(value))
    if callable(getattr(value, "read", None)):  # an open file, BytesIO
        return _read(value)
    if callable(getattr(value, "save", None)) and hasattr(value, "getbands"):  # a Pillow image: it is in no format yet
        try:
            return bytes(prepare_image(value))
        except ValueError as error:
            raise PydanticCustomError("reference_image", "{error}", {"error": str(error)}) from error
    kind = type(value).__name__
    raise PydanticCustomError(
        "reference_type",
        "an image is a URL or data URI (text), pathlib.Path(...) of a local file, its bytes, an open binary file or a "
        "Pillow image, not an object of type {kind}",
        {"kind": kind},
    )


def _with_its_type(uri: str) -> str:
    """The data URI, with the type that its content has, whichever one was written there."""
    head, _, payload = uri.partition(";base64,")
    try:
        found = media_type(base64.b64decode(payload[: 4 * -(-HEAD_BYTES // 3)]))
    except binascii.Error:
        return uri  # what is broken is refused by the rule of the field
    written_type = head.removeprefix("data:").partition(";")[0]
    if found is None or found.kind != "image" or found.mime == written_type:
        return uri
    return f"data:{found.mime};base64,{payload}"


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise PydanticCustomError(
            "reference_path", "{path}: {error}", {"path": str(path), "error": str(error)}
        ) from None


def _read(file: Any) -> bytes:
    try:
        content = file.read()
    except (OSError, ValueError) as error:
        raise PydanticCustomError(
            "reference_file", "the file cannot be read: {error}", {"error": str(error)}
        ) from error
    if not isinstance(content, bytes):
        raise PydanticCustomError("reference_file", "the file is open as text; open it with mode 'rb'")
    if not content:
        raise PydanticCustomError(
            "reference_file", "the open file has nothing left to read; if it was just written, call seek(0) first"
        )
    return content


def _text_schema(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


_IN_JSON = "An http(s) URL of an image, or the image as a data URI (data:image/png;base64,...)."


class _ReferenceSchema:
    """One image for pydantic: any of the usual forms in, one clear error, text in the JSON schema."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        image = core_schema.no_info_before_validator_function(to_reference, handler(source))

        def checked(value: Any, inner: Any) -> Any:
            return value if isinstance(value, LocalFile) else inner(value)  # in place of its `Path`, by the client

        return core_schema.no_info_wrap_validator_function(checked, image)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        del schema, handler
        return _text_schema(_IN_JSON)


class PathLike(Protocol):
    """A path of any package (`os.PathLike[str]`)."""

    def __fspath__(self) -> str:
        """The path as text."""
        ...


class BinaryFile(Protocol):
    """A file that is open for reading bytes, such as ``open("boat.png", "rb")`` or a ``BytesIO``."""

    def read(self, size: int = -1, /) -> bytes:
        """Some bytes of it, or all that are left."""
        ...


class PillowImage(Protocol):
    """A ``PIL.Image.Image``, without Pillow."""

    def getbands(self) -> tuple[str, ...]:
        """The names of its channels, such as ``("R", "G", "B")``."""
        ...


if TYPE_CHECKING:  # what may be given. A request keeps a text, a `Path` or bytes of it
    Reference: TypeAlias = str | PathLike | bytes | bytearray | memoryview | BinaryFile | PillowImage
else:
    Reference = Annotated[str | Path | bytes, _ReferenceSchema]
"""An image: a URL or data URI (str, never a path), a local file (a `Path` or alike), its content (bytes, or an open
binary file), or a Pillow image."""


def _several(value: Any) -> Any:
    single = isinstance(value, str | bytes | bytearray | memoryview | LocalFile) or hasattr(value, "__fspath__")
    if single or hasattr(value, "read") or hasattr(value, "getbands"):
        return [value]
    if not isinstance(value, list | tuple | Sequence):
        raise PydanticCustomError("references_type", "give a list of images: references=[...]")
    return value


if TYPE_CHECKING:

    class References:
        """What type checkers see: several images or one may be given, and a tuple is read."""

        def __get__(self, request: object, kind: Any = None) -> tuple[str | Path | bytes, ...]: ...

        def __set__(self, request: object, images: Sequence[Reference] | Reference) -> None: ...

else:
    References = Annotated[
        Sequence[Reference],
        GetPydanticSchema(lambda _, schema: schema(tuple[Reference, ...])),  # frozen and hashable, for every input
        BeforeValidator(_several),
    ]
"""Images, as a list, tuple or the like, or a single one. They are kept as a tuple."""
NO_IMAGES: Any = ()
"""The default of a field of images, which is no `References` to a type checker."""
_HEAD = HEAD_BYTES
_MIB = 1024 * 1024
_CONVERT = "convert it to JPEG or PNG first"
_PREPARE = " (prepare_image(...) and kling --prepare do, with kling-async[images])"


def sniff(head: bytes) -> str | None:
    """The image format that the first bytes of a file show, such as ``jpeg`` or ``heic``. None if it is no image."""
    found = media_type(head)
    return found.name if found is not None and found.kind == "image" else None


def image_format(content: bytes | LocalFile) -> str | None:
    """The image format of a content, such as ``jpeg``. None if it is no image."""
    return sniff(content.head if isinstance(content, LocalFile) else content[:_HEAD])


def data_uri(content: bytes | LocalFile) -> str:
    """The image as a data URI. Its content decides the type. A file is read only while it is sent."""
    if isinstance(content, LocalFile):
        return FileText(content, f"data:image/{image_format(content)};base64,")
    return f"data:image/{sniff(content[:_HEAD])};base64,{base64.b64encode(content).decode('ascii')}"


@record
class ImageRule:
    """What an endpoint accepts as reference images, and a validator for a field of references.

    Attributes:
        formats: Names as `sniff` gives them. The content decides, never the file name.
        most: Largest number of images.
        max_bytes: Largest size of one image, in bytes.
        uniform: Whether URLs and inline images exclude each other in one request.
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
            ValueError: One is not acceptable. The message names it, its kind, and what is allowed.
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
        """Check one reference. `label` names it in the message."""
        if isinstance(reference, LocalFile):
            self._check_content(reference.head, reference.size, f"{label} ({str(reference.path)[:200]})")
        elif isinstance(reference, Path):
            self._check_file(reference, f"{label} ({str(reference)[:200]})")
        elif isinstance(reference, bytes):
            self._check_content(reference[:_HEAD], len(reference), label)
        elif (text := str(reference)).startswith("data:"):
            content = decode_data_uri(text, label)
            self._check_content(content[:_HEAD], len(content), label)
        elif is_url(text):
            if not _scheme_and_host(text)[1]:
                raise ValueError(f"{label} is {text!r:.80}, which is not a complete URL: it names no host")
        elif not (self.uuids and _UUID.fullmatch(text)):
            raise PydanticCustomError(
                "reference_text",
                "{label} is {text}, which is neither an http(s) URL nor a data URI; "
                "for a local file pass pathlib.Path(...), for image data pass bytes",
                {"label": label, "text": f"{text!r:.80}"},
            )

    def _check_file(self, path: Path, label: str) -> None:
        try:
            found = path.stat()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise ValueError(f"{label} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if stat.S_ISDIR(found.st_mode):
            raise ValueError(f"{label} is a directory; an image file is needed")
        if not stat.S_ISREG(found.st_mode):  # opening a pipe or a device may block for ever
            raise ValueError(f"{label} is not a regular file; an image file is needed")
        size = found.st_size
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            raise ValueError(f"{label} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        self._check_content(head, size, label)

    def _check_content(self, head: bytes, size: int, label: str) -> None:
        if size == 0:
            raise ValueError(f"{label} is empty")
        if size > self.max_bytes:
            # Rounded up: one byte too many must not read as "10.0 MiB. At most 10 MiB".
            mebibytes = math.ceil(size / _MIB * 10) / 10
            raise ValueError(
                f"{label} has {mebibytes} MiB; at most {self.max_bytes / _MIB:.0f} MiB are allowed; make it smaller "
                "(prepare_image(..., max_bytes=...) and kling --prepare do, with kling-async[images])"
            )
        found = sniff(head)
        if found not in self.formats:
            allowed = ", ".join(name.upper() for name in self.formats)
            remedy = f"; {_CONVERT}{' (it has no pixels: render it)' if found == 'svg' else _PREPARE}" if found else ""
            shown = f"{'an' if found in {'avif', 'svg'} else 'a'} {found.upper()}" if found else "not an image"
            raise ValueError(f"{label} is {shown} by its content; allowed are {allowed}{remedy}")


@record
class OneImage:
    """A validator of a field of one image.

    Attributes:
        rule: What is accepted.
        label: Names the image in messages.
    """

    rule: ImageRule
    label: str = "the image"

    def __call__(self, reference: Reference) -> Reference:
        """The same image, checked.

        Raises:
            ValueError: It is not acceptable.
        """
        self.rule.check(reference, self.label)
        return reference


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

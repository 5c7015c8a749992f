"""What every request has in common: strict fields, reference images, and a form that can be stored."""

from __future__ import annotations

import base64
import binascii
import difflib
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeAlias, dataclass_transform
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # the same class, by a public way

__all__ = [
    "NOT_KEPT",
    "CallbackUrl",
    "ImageRule",
    "Prompt",
    "Reference",
    "References",
    "Request",
    "as_number",
    "data_uri",
    "is_secure",
    "sniff",
]

Prompt: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=2500)]
"""1 to 2 500 characters: the limit that RunBlob, Runware and inference.sh document alike."""

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
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")
_MIB = 1024 * 1024


def sniff(head: bytes) -> str | None:
    """The image format that the first bytes of a file show: ``jpeg``, ``png``, ``gif``, ``webp`` or None."""
    return next((name for name, signature in _SIGNATURES.items() if signature.match(head)), None)


def is_secure(url: str) -> bool:
    """Whether `url` is https, or plain http to this very machine."""
    scheme, host = _scheme_and_host(url)
    return bool(host) and (scheme == "https" or (scheme == "http" and _LOOPBACK.fullmatch(host) is not None))


def _scheme_and_host(url: str) -> tuple[str, str]:
    """Both empty if the text cannot be a URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", ""
    return parts.scheme, parts.hostname or ""


def data_uri(content: bytes) -> str:
    """The image as a data URI, its type told from its content."""
    return f"data:image/{sniff(content[:_HEAD])};base64,{base64.b64encode(content).decode('ascii')}"


def as_number(value: Any) -> Any:
    """A string of digits as the number that it spells (providers write some numbers as strings)."""
    return int(value) if isinstance(value, str) and value.isdecimal() and value.isascii() else value


def _callback(value: str) -> str:
    if not is_secure(value):
        raise ValueError("the callback address must be an https:// URL (http:// only to this machine)")
    return value


CallbackUrl: TypeAlias = Annotated[str, AfterValidator(_callback)]
"""An https URL that the provider is to call; plain http only to this machine."""


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


NOT_KEPT = "[not kept]"
"""Stands where a callback address had what is not stored or shown."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def is_url(reference: Reference) -> bool:
    """Whether the reference is an http(s) URL."""
    return isinstance(reference, str) and reference.startswith(("https://", "http://"))


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


_GIVEN: dict[frozenset[str], set[str]] = {}


@dataclass_transform(kw_only_default=False, frozen_default=True, field_specifiers=(Field,))
class _RequestType(ModelMetaclass):
    """Tells type checkers that a request may be made by position, which pydantic's own metaclass denies."""


class Request(BaseModel, metaclass=_RequestType):
    """One generation at one endpoint of one provider: frozen and validated when it is made.

    Subclasses name their endpoint, and the provider's own field names where they differ from ours.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64")

    endpoint: ClassVar[str]
    """Full name, ``provider/endpoint``, such as ``"runblob/o3-video"``."""
    wire_names: ClassVar[Mapping[str, str]] = {}
    """The provider's field name to ours."""

    callback_url: CallbackUrl | None = Field(
        default=None,
        kw_only=True,
        description="Where the provider is to report the end (https). None: the client's own webhook address, "
        "if it has one.",
    )

    def __init__(self, /, *values: Any, **fields: Any) -> None:
        # Positional arguments, in the order of the fields: a request reads as what it is, O3Video("a boat").
        names = self._own()
        if len(values) > len(names):
            raise TypeError(
                f"{type(self).__name__} takes at most {len(names)} positional arguments, {len(values)} were given"
            )
        for name, value in zip(names, values, strict=False):
            if name in fields:
                raise TypeError(f"{type(self).__name__} got {name!r} twice, by position and by name")
            fields[name] = value
        super().__init__(**fields)

    def model_post_init(self, context: Any, /) -> None:  # noqa: ARG002  # pydantic's signature
        """Share what pydantic keeps of which fields were given; a set a request is much where there are thousands."""
        given = self.__pydantic_fields_set__
        object.__setattr__(self, "__pydantic_fields_set__", _GIVEN.setdefault(frozenset(given), set(given)))

    @classmethod
    def _own(cls) -> list[str]:
        """The fields of this endpoint, in their order."""
        return [name for name in cls.model_fields if name not in Request.model_fields]

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Say of an unknown field which fields there are; pydantic says that it is unknown."""
        try:
            return validate(data)
        except ValidationError as error:
            lines = error.errors(include_url=False)
            if not any(line["type"] == "extra_forbidden" for line in lines):
                raise
            raise ValidationError.from_exception_data(error.title, [cls._explained(line) for line in lines]) from None

    @classmethod
    def _explained(cls, line: ErrorDetails) -> InitErrorDetails:
        kind, message = line["type"], line["msg"]
        if kind == "extra_forbidden":
            near = difflib.get_close_matches(str(line["loc"][-1]), cls.model_fields, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else "."
            message = f"There is no such field{meant} {cls.__name__} has {', '.join([*cls._own(), 'callback_url'])}"
        reason = PydanticCustomError(kind, message, line.get("ctx"))
        return {"type": reason, "loc": line["loc"], "input": line["input"]}

    @model_validator(mode="before")
    @classmethod
    def _translate(cls, data: Any) -> Any:
        return cls.translate(dict(data)) if isinstance(data, Mapping) else data

    @classmethod
    def translate(cls, data: dict[str, Any]) -> dict[str, Any]:
        """The provider's own JSON in our field names.

        Raises:
            ValueError: A field is given under both names.
        """
        for theirs, ours in cls.wire_names.items():
            if theirs in data:
                if ours in data:
                    raise ValueError(f"{theirs!r} and {ours!r} are the same field; give one of them")
                data[ours] = data.pop(theirs)
        return data

    @property
    def files(self) -> list[Path]:
        """The local files it refers to."""
        return [value for value in self._references() if isinstance(value, Path)]

    @property
    def inline(self) -> bool:
        """Whether it carries images itself, as bytes or data URIs."""
        return any(isinstance(value, bytes) or str(value).startswith("data:") for value in self._references())

    def _references(self) -> tuple[Reference, ...]:
        found = getattr(self, "references", None) or getattr(self, "reference", None) or ()
        return found if isinstance(found, tuple) else (found,)

    def with_files(self, contents: Mapping[Path, bytes]) -> Self:
        """The same request with each local file replaced by its content, checked again: it may have changed.

        Raises:
            pydantic.ValidationError: A file's content is not acceptable any more.
        """

        def inline(value: Reference) -> Reference:
            return contents[value] if isinstance(value, Path) else value

        fields = dict(self)
        if fields.get("references"):
            fields["references"] = tuple(inline(value) for value in fields["references"])
        if fields.get("reference"):
            fields["reference"] = inline(fields["reference"])
        return type(self).model_validate(fields)

    def describe(self, *, inline: bool = False) -> dict[str, Any]:
        """The request as JSON values; a stored or printed request looks like this.

        Args:
            inline: Keep inline images as data URIs, and all of the callback address. Otherwise an image becomes
                ``sha256:...``, and of the address, which often carries a token, the host is left: enough to tell two
                requests apart, not enough to submit it again.
        """

        def shown(value: Any) -> Any:
            if isinstance(value, bytes):
                return data_uri(value) if inline else f"sha256:{hashlib.sha256(value).hexdigest()}"
            if isinstance(value, str) and value.startswith("data:") and not inline:
                return shown(decode_data_uri(value, "reference"))
            if isinstance(value, tuple):
                return [shown(item) for item in value]
            return str(value) if isinstance(value, Path) else value

        given = {name: getattr(self, name) for name in type(self).model_fields}
        if self.callback_url is not None and not inline:
            parts = urlsplit(self.callback_url)
            given["callback_url"] = f"{parts.scheme}://{parts.hostname}/{NOT_KEPT}"
        return {name: shown(value) for name, value in given.items() if value is not None}

    def __repr_args__(self) -> Any:
        """Fields as shown in a repr: images by their digest, not by their megabytes, and without secrets."""
        return self.describe().items()

"""What every request has in common: strict fields, reference images, and a form that can be stored."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeAlias, dataclass_transform
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from kling_async._redaction import NOT_KEPT
from kling_async._urls import is_secure
from kling_async.providers._base.images import Reference, data_uri, decode_data_uri

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # the same class, by a public way

__all__ = ["CallbackUrl", "Prompt", "Request", "as_number"]

Prompt: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=2500)]
"""1 to 2 500 characters: the limit that RunBlob, Runware and inference.sh document alike."""


def as_number(value: Any) -> Any:
    """A string of digits as the number that it spells (providers write some numbers as strings)."""
    return int(value) if isinstance(value, str) and value.isdecimal() and value.isascii() else value


def _callback(value: str) -> str:
    if not is_secure(value):
        raise ValueError("the callback address must be an https:// URL (http:// only to this machine)")
    return value


CallbackUrl: TypeAlias = Annotated[str, AfterValidator(_callback)]
"""An https URL that the provider is to call; plain http only to this machine."""
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
    reference_fields: ClassVar[tuple[str, ...]] = ("references", "reference")
    """The fields that hold images, one or several each. In these a text is a URL or a data URI. All others are text."""

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

    def _references(self) -> list[Reference]:
        found: list[Reference] = []
        for name in self.reference_fields:
            value = getattr(self, name, None)
            if value is not None:
                found.extend(value if isinstance(value, tuple) else (value,))
        return found

    def with_files(self, contents: Mapping[Path, bytes]) -> Self:
        """The same request with each local file replaced by its content, checked again: it may have changed.

        Raises:
            pydantic.ValidationError: A file's content is not acceptable any more.
        """

        def inline(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(inline(item) for item in value)
            return contents[value] if isinstance(value, Path) else value

        fields = dict(self)
        fields |= {name: inline(fields[name]) for name in self.reference_fields if fields.get(name)}
        return type(self).model_validate(fields)

    def describe(self, *, inline: bool = False) -> dict[str, Any]:
        """The request as JSON values; a stored or printed request looks like this.

        Args:
            inline: Keep inline images as data URIs, and all of the callback address. Otherwise an image becomes
                ``sha256:...``, and of the address, which often carries a token, the host is left: enough to tell two
                requests apart, not enough to submit it again.
        """

        def image(value: Any) -> Any:
            if isinstance(value, bytes):
                return data_uri(value) if inline else f"sha256:{hashlib.sha256(value).hexdigest()}"
            if isinstance(value, str) and value.startswith("data:") and not inline:
                return image(decode_data_uri(value, "reference"))
            if isinstance(value, tuple):
                return [image(item) for item in value]
            return str(value) if isinstance(value, Path) else value

        given = {name: getattr(self, name) for name in type(self).model_fields}
        if self.callback_url is not None and not inline:
            parts = urlsplit(self.callback_url)
            given["callback_url"] = f"{parts.scheme}://{parts.hostname}/{NOT_KEPT}"
        images = set(self.reference_fields)
        return {
            name: image(value) if name in images else _plain(value)
            for name, value in given.items()
            if value is not None
        }

    def __repr_args__(self) -> Any:
        """Fields as shown in a repr: images by their digest, not by their megabytes, and without secrets."""
        return self.describe().items()


def _plain(value: Any) -> Any:
    """A field that holds no image, as a JSON value."""
    if isinstance(value, BaseModel):
        return {name: _plain(item) for name, item in dict(value).items() if item is not None}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value

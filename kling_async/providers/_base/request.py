"""What every request has in common: strict fields, reference images, and a form that can be stored."""

from __future__ import annotations

import hashlib
import inspect
import textwrap
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    TypeAlias,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
)
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError, core_schema

from kling_async._exchange.redaction import NOT_KEPT
from kling_async._exchange.urls import is_secure
from kling_async._media.local_file import LocalFile
from kling_async.providers._base.choices import image_inputs, schema_with_images
from kling_async.providers._base.images import Reference, data_uri, decode_data_uri

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # the same class, by a public way

__all__ = ["AnyPrompt", "CallbackUrl", "Prompt", "Request", "Text", "as_number", "plain_text"]


def plain_text(value: str) -> str:
    """The text itself, if it can be sent.

    Raises:
        PydanticCustomError: It has half of a surrogate pair, which no encoding can carry.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "text_encoding",
            "the character at position {position} is half of a surrogate pair and cannot be sent; remove it",
            {"position": error.start},
        ) from None
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank_prompt", "the prompt is blank; say what to generate")
    return plain_text(value)


Text: TypeAlias = Annotated[str, AfterValidator(plain_text)]
"""Any text that can be sent."""
AnyPrompt: TypeAlias = Annotated[str, StringConstraints(min_length=1), AfterValidator(_not_blank)]
"""Text that is not blank, of any length."""
Prompt: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=2500), AfterValidator(_not_blank)]
"""1 to 2 500 characters, not all blank: the limit that RunBlob, Runware and inference.sh document alike."""


def as_number(value: Any) -> Any:
    """A string of digits as the number that it spells (providers write some numbers as strings)."""
    return int(value) if isinstance(value, str) and value.isdecimal() and value.isascii() else value


def _callback(value: str) -> str:
    if not is_secure(plain_text(value)):
        raise ValueError("the callback address must be an https:// URL (http:// only to this machine)")
    return value


CallbackUrl: TypeAlias = Annotated[str, AfterValidator(_callback)]
"""An https URL that the provider is to call. Plain http only to this machine."""


@dataclass_transform(kw_only_default=False, frozen_default=True, field_specifiers=(Field,))
class _RequestType(ModelMetaclass):
    """The class of request classes.

    It shows type checkers that a request may be made by position, which pydantic's own metaclass denies. And it lists
    the names of a class without pydantic's machinery, so that ``help(runblob.O3Video)`` fits on a page. The validator
    of a class is built with its first request: building all of them is a third of what loading a provider costs.
    """

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **settings: Any) -> Any:
        made: Any = super().__new__(mcs, name, bases, namespace, defer_build=True, **settings)
        made.model_config["defer_build"] = False  # of this class alone, not of what FastAPI builds with it
        return made

    def __dir__(cls) -> list[str]:  # a metaclass: its self is a class
        hidden = {*dir(BaseModel)} - _SHOWN
        return sorted(name for name in super().__dir__() if name not in hidden and not name.startswith("_"))


_GIVEN: dict[frozenset[str], set[str]] = {}


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

    labels: ClassVar[Mapping[str, Mapping[Any, tuple[str, str]]]] = {}
    """Label and hint of a field's values, where they mean something particular at this endpoint."""

    callback_url: CallbackUrl | None = Field(
        default=None,
        kw_only=True,
        description="https URL to which the provider sends a webhook when the job ends. If None, the client's own "
        "webhook address, if it has one.",
    )

    def __init__(self, /, *values: Any, **fields: Any) -> None:
        # Positional arguments, in the order of the fields: a request reads as what it is, O3Video("a boat").
        if values:  # none while it is validated again
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

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Give the class a signature with plain types, and describe each field in its docstring and in its schema.

        The descriptions stand in the fields or under "Args:" in the docstring. The other place is made from them.
        """
        super().__pydantic_init_subclass__(**kwargs)
        missing = {name for name, info in cls.model_fields.items() if info.description is None}
        found = {name: text for name, text in _documented(cls.__doc__ or "").items() if name in missing}
        for name, text in found.items():
            cls.model_fields[name].description = text
        cls.__signature__ = cls._shown_signature()
        if cls.model_fields and "Args:" not in (cls.__doc__ or ""):
            cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\nArgs:\n{_field_lines(cls)}\n"

    @classmethod
    def __pydantic_on_complete__(cls) -> None:
        """Keep the signature: pydantic, when the first request of the class is made, has put another in its place."""
        cls.__signature__ = cls._shown_signature()

    @classmethod
    def _shown_signature(cls) -> inspect.Signature:
        return _signature(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> Any:
        """The schema: the fields describe themselves, so the docstring's lines about them are left out."""
        found = handler.resolve_ref_schema(handler(schema))
        found["description"] = inspect.cleandoc(cls.__doc__ or "").partition("\n\nArgs:")[0]
        schema_with_images(found, image_inputs(cls.model_fields, cls.reference_fields))
        properties = found.get("properties", {})
        for name in Request.model_fields:
            if name in properties:
                properties[name] = properties.pop(name)  # to the end
        return found

    def validated(self) -> Self:
        """The same request, validated again.

        ``model_copy(update=...)``, ``model_construct`` and old pickles make requests that were never checked. The
        client calls this before it buys.

        Raises:
            pydantic.ValidationError: A field is missing or not acceptable.
        """
        return type(self).model_validate(dict(self))

    @classmethod
    def known_values(cls, name: str) -> Sequence[Any]:
        """The known values of a field that takes others too, such as the name of a model."""
        del name
        return ()

    @classmethod
    def example(cls) -> dict[str, Any]:
        """The fields of a small request, for estimates: a prompt, and the images that the endpoint requires."""
        required = {name for name, info in cls.model_fields.items() if info.is_required()}
        found: dict[str, Any] = dict.fromkeys(cls.reference_fields, "https://example.com/image.png")
        return {name: value for name, value in {**found, "prompt": "a prompt"}.items() if name in required}

    @classmethod
    def _own(cls) -> list[str]:
        """The fields of this endpoint, in their order."""
        everywhere = Request.model_fields  # pydantic takes its time for each look at it
        return [name for name in cls.model_fields if name not in everywhere]

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Name the known fields in the error for an unknown one, which pydantic does not."""
        try:
            request = validate(data)
        except ValidationError as error:
            lines = error.errors(include_url=False)
            if not any(line["type"] == "extra_forbidden" for line in lines):
                raise
            raise ValidationError.from_exception_data(error.title, [cls._explained(line) for line in lines]) from None
        # Requests do not change, so those that were given the same fields share the set that lists them. A set for
        # each is a third of the memory of a request, and thousands of them are more work for the garbage collector.
        given = request.__pydantic_fields_set__
        object.__setattr__(request, "__pydantic_fields_set__", _GIVEN.setdefault(frozenset(given), given))
        return request

    @classmethod
    def _explained(cls, line: ErrorDetails) -> InitErrorDetails:
        kind, message = line["type"], line["msg"]
        if kind == "extra_forbidden":
            import difflib  # noqa: PLC0415  # errors alone need it

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
        found = (value.path if isinstance(value, LocalFile) else value for value in self._references())
        return [value for value in found if isinstance(value, Path)]

    @property
    def inline(self) -> bool:
        """Whether it carries images itself, as bytes or data URIs."""
        return any(
            isinstance(value, bytes | LocalFile) or str(value).startswith("data:") for value in self._references()
        )

    def _references(self) -> list[Reference | LocalFile]:
        found: list[Reference | LocalFile] = []
        for name in self.reference_fields:
            value = getattr(self, name, None)
            if value is not None:
                found.extend(value if isinstance(value, tuple) else (value,))
        return found

    def with_files(self, contents: Mapping[Path, bytes | LocalFile]) -> Self:
        """The same request with each local file replaced by its content, checked again: it may have changed.

        A `LocalFile` stands for a content that is read when it is sent.

        Raises:
            pydantic.ValidationError: A file's content is not acceptable any more.
        """

        def inline(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(inline(item) for item in value)
            if isinstance(value, LocalFile):
                return contents[value.path]
            return contents[value] if isinstance(value, Path) else value

        fields = dict(self)
        fields |= {name: inline(fields[name]) for name in self.reference_fields if fields.get(name)}
        return type(self).model_validate(fields)

    def describe(self, *, inline: bool = False) -> dict[str, Any]:
        """The request as JSON values. A stored or printed request looks like this.

        Args:
            inline: Keep inline images as data URIs, and all of the callback address. Otherwise an image becomes
                ``sha256:...``, and of the address, which often carries a token, the host is left: enough to tell two
                requests apart, not enough to submit it again.
        """

        def image(value: Any) -> Any:
            if isinstance(value, LocalFile):
                return data_uri(value.content()) if inline else f"sha256:{value.digest}"
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
    if value is None or isinstance(value, str | int | float):  # nearly all
        return value
    if isinstance(value, BaseModel):
        return {name: _plain(item) for name, item in dict(value).items() if item is not None}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value


_SHOWN = frozenset(
    {"model_copy", "model_dump", "model_dump_json", "model_fields", "model_json_schema", "model_validate"}
)
"""The names of pydantic's base class that a user of a request needs."""


def _signature(cls: type[BaseModel]) -> inspect.Signature:
    """How a request is made: own fields by position or name, the rest by name, with plain types and defaults."""
    parameters = []
    for name, info in cls.model_fields.items():
        by_name = name in Request.model_fields
        kind = inspect.Parameter.KEYWORD_ONLY if by_name else inspect.Parameter.POSITIONAL_OR_KEYWORD
        default = inspect.Parameter.empty if info.is_required() else info.get_default(call_default_factory=True)
        parameters.append(inspect.Parameter(name, kind, default=default, annotation=_plain_type(info.annotation)))
    parameters.sort(key=lambda parameter: parameter.kind)
    # Not validated: a required field may follow one with a default where the provider's order asks for it.
    return inspect.Signature(parameters, __validate_parameters__=False)


def _plain_type(annotation: Any) -> Any:
    """A type as a reader wants it: without pydantic's metadata."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _plain_type(args[0])
    if not args or origin is Literal:
        return annotation
    plain = tuple(_plain_type(arg) for arg in args)
    if origin in {Union, types.UnionType}:
        return Union[plain]  # noqa: UP007  # made at run time
    return origin[plain]


def _field_lines(cls: type[BaseModel]) -> str:
    """The fields with their descriptions, as the section of a docstring."""
    lines = []
    for name, info in sorted(cls.model_fields.items(), key=lambda item: item[0] in Request.model_fields):
        default = "" if info.is_required() else f" Defaults to {info.get_default(call_default_factory=True)!r}."
        text = f"{name}: {info.description or ''}{default}"
        lines.append(textwrap.fill(text, 116, initial_indent="    ", subsequent_indent="        "))
    return "\n".join(lines)


def _documented(docstring: str) -> dict[str, str]:
    """The descriptions under "Args:" in a docstring, by field."""
    _, _, lines = inspect.cleandoc(docstring).partition("\nArgs:\n")
    found: dict[str, list[str]] = {}
    for line in lines.splitlines():
        if not line.startswith("    "):
            break
        name, colon, text = line.strip().partition(": ")
        if line[4] != " " and colon and name.isidentifier():
            found[name] = [text]
        elif found:
            found[next(reversed(found))].append(line.strip())
    return {name: " ".join(parts) for name, parts in found.items()}

"""Endpoints and their fields: from the words of a command line to a validated request, and back to words."""

from __future__ import annotations

import difflib
import inspect
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kling_async._cli.errors import CommandError
from kling_async._urls import is_url
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers._base.endpoint import Endpoint
from kling_async.providers._base.provider import Provider
from kling_async.providers._base.request import Request

__all__ = [
    "NAMED",
    "Field",
    "acceptable",
    "build",
    "decoded",
    "fields",
    "find",
    "images",
    "is_uuid",
    "known",
    "parse_settings",
]

NAMED = ("duration", "aspect_ratio", "resolution", "model", "negative_prompt", "count")
"""The fields that have an option of their own; ``--set`` reaches the others."""

_SHOWN = 60  # characters of a wrong value that are repeated to the user


def known() -> list[str]:
    """The names of all endpoints."""
    return [endpoint.name for kind in ALL_PROVIDERS for endpoint in kind.endpoints]


def find(name: str) -> tuple[type[Provider], Endpoint[Any]]:
    """The provider and the endpoint of that full name.

    Raises:
        CommandError: There is none; the known ones are listed.
    """
    for kind in ALL_PROVIDERS:
        for endpoint in kind.endpoints:
            if endpoint.name == name:
                return kind, endpoint
    near = difflib.get_close_matches(name, known(), n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise CommandError(f"there is no endpoint {name!r:.80}{meant} (known: {', '.join(known())})")


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """``name=value`` pairs as a mapping.

    Raises:
        CommandError: One is no such pair, or a name comes twice.
    """
    found: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise CommandError(f"--set {setting!r:.80} is not of the form name=value, such as --set duration=10")
        if name in found:
            raise CommandError(f"{name} is set twice; give it once (a list is written as JSON: --set {name}='[...]')")
        found[name] = value
    return found


def build(endpoint: Endpoint[Any], prompt: str, references: Sequence[str], given: Mapping[str, str]) -> Request:
    """The request that the words of a command line describe; the endpoint's own model decides what is acceptable.

    A value is taken as text; where the model does not accept the text and it is JSON, as what the JSON says.

    Raises:
        CommandError: It is not acceptable; says which field, what it got, and what is allowed.
    """
    values: dict[str, Any] = {"prompt": prompt, **given}
    if references:
        values |= images(endpoint, [_image(reference) for reference in references])
    model: type[Request] = endpoint.request
    with acceptable(endpoint):
        try:
            return model.model_validate(values)
        except ValidationError as error:
            spelled = decoded(given, {str(item["loc"][0]) for item in error.errors() if item["loc"]})
            if not spelled:
                raise
            return model.model_validate(values | spelled)


def _image(text: str) -> str | Path:
    """A reference as it is written on the command line: an address, an image uploaded before, or a local file."""
    if is_url(text) or text.startswith("data:"):
        return text
    path = Path(text)
    return text if is_uuid(text) and not path.exists() else path


def is_uuid(text: str) -> bool:
    """Whether the text is a UUID, the id of an image that was uploaded before."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def images(endpoint: Endpoint[Any], found: Sequence[str | Path]) -> dict[str, Any]:
    """The field in which the endpoint takes images, with these.

    Raises:
        CommandError: It takes only one.
    """
    if "references" in endpoint.request.model_fields or "reference" not in endpoint.request.model_fields:
        return {"references": tuple(found)}
    if len(found) > 1:
        raise CommandError(f"{endpoint.name} takes one reference image; {len(found)} were given")
    return {"reference": found[0]}


def decoded(given: Mapping[str, str], refused: set[str]) -> dict[str, Any]:
    """What those of the refused values that are JSON spell."""
    found = {}
    for name in refused & set(given):
        try:
            found[name] = json.loads(given[name])
        except ValueError:
            continue
    return found


@contextmanager
def acceptable(endpoint: Endpoint[Any]) -> Iterator[None]:
    """Tell what the endpoint's model refuses in terms of the command line.

    Raises:
        CommandError: In place of a ``ValidationError``.
    """
    try:
        yield
    except ValidationError as error:
        reasons: dict[str, str] = {}
        for item in error.errors():
            name = str(item["loc"][0]) if item["loc"] else "the request"
            reasons.setdefault(name, _reason(endpoint, item))
        raise CommandError(
            f"this request is not acceptable to {endpoint.name}; nothing was sent", fields=reasons
        ) from error


def _reason(endpoint: Endpoint[Any], item: ErrorDetails) -> str:
    if item["type"] == "extra_forbidden":
        return f"{endpoint.name} has no such field; it has {', '.join(field.name for field in fields(endpoint))}"
    rule = re.sub(r"^(Value|Assertion) error, ", "", item["msg"])
    if rule != item["msg"]:  # our own validators say what they got
        return rule
    got = item["input"]
    shown = f"{len(got)} characters" if isinstance(got, str) and len(got) > _SHOWN else repr(got)[:_SHOWN]
    return f"{rule[0].lower()}{rule[1:]}, got {shown}"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an endpoint, in words.

    Attributes:
        name: Its name.
        option: How it is given on the command line.
        default: Its default as text; None: it must be given.
        meaning: What it says, and what is allowed.
    """

    name: str
    option: str
    default: str | None
    meaning: str


def fields(endpoint: Endpoint[Any]) -> list[Field]:
    """The fields of an endpoint in the order of its model, those that every endpoint has at the end."""
    meanings = _meanings(endpoint.request)
    found = []
    everywhere = Request.model_fields
    for name, info in sorted(endpoint.request.model_fields.items(), key=lambda item: item[0] in everywhere):
        default = None if info.is_required() else _default(info.get_default(call_default_factory=True))
        found.append(Field(name, _option(name), default, meanings.get(name) or info.description or ""))
    return found


def _option(name: str) -> str:
    if name == "prompt":
        return "PROMPT"
    if name in {"references", "reference"}:
        return "--reference"
    return f"--{name.replace('_', '-')}" if name in NAMED else f"--set {name}="


def _default(value: Any) -> str:
    if value is None or value == ():
        return "none"
    return json.dumps(value, default=str) if isinstance(value, bool | int | float | dict | list) else str(value)


def _meanings(request: type[Request]) -> dict[str, str]:
    """The ``Args`` section of the model's docstring, by name."""
    section = inspect.getdoc(request) or ""
    section = section.partition("\nArgs:\n")[2]
    entry = re.compile(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", re.MULTILINE)
    return {name: re.sub(r"\s+", " ", text).replace("`", "") for name, text in entry.findall(section)}

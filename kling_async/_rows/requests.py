"""Endpoints and their fields, as they are written in a command or a row: what they mean, and what is allowed."""

from __future__ import annotations

import difflib
import inspect
import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from kling_async import Image, Request, Video
from kling_async._exchange.urls import is_url  # decides as the library does whether a text is a URL or a path
from kling_async._rows.errors import InputError
from kling_async.providers import find_provider, load_providers
from kling_async.providers._base.field_errors import describe_problem, problem_place  # one wording for all
from kling_async.providers.base import (
    Endpoint,
    ImageOffer,
    Provider,
    VideoOffer,
    not_offered,
    options,
    portable_endpoints,
)

__all__ = [
    "NAMED",
    "PORTABLE",
    "Field",
    "acceptable",
    "decoded",
    "field_names",
    "fields",
    "find",
    "find_any",
    "image_of",
    "images",
    "is_url",
    "known",
    "require_offered",
    "require_words",
    "with_local_files",
]

NAMED = ("duration", "aspect_ratio", "resolution", "model", "negative_prompt", "count")
"""The fields that have an option of their own. ``--set`` reaches the others."""


_SHOWN = 60  # characters of a wrong value that are repeated to the user


PORTABLE: Mapping[str, Endpoint[Any]] = portable_endpoints()
"""``video`` and ``image``, which go to the best provider, as endpoints."""


def known() -> list[str]:
    """The names of all endpoints."""
    return [endpoint.name for kind in load_providers() for endpoint in kind.endpoints]


def find_any(name: str) -> tuple[list[type[Provider]], Endpoint[Any]]:
    """The endpoint of that name, and the providers that may serve it: several for ``video`` and ``image``.

    Raises:
        InputError: There is none. The message lists the known ones.
    """
    if name in PORTABLE:
        makers = [kind for kind in load_providers() if any(isinstance(offer, _OFFERS[name]) for offer in kind.portable)]
        return makers, PORTABLE[name]
    kind, endpoint = find(name)
    return [kind], endpoint


_OFFERS: Mapping[str, type[VideoOffer | ImageOffer]] = {"video": VideoOffer, "image": ImageOffer}


def find(name: str) -> tuple[type[Provider], Endpoint[Any]]:
    """The provider and the endpoint with that full name.

    Raises:
        InputError: There is none. The message lists the known ones.
    """
    kind = find_provider(name.partition("/")[0])
    for endpoint in kind.endpoints if kind else ():
        if kind and endpoint.name == name:
            return kind, endpoint
    near = difflib.get_close_matches(name, [*known(), *PORTABLE], n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise InputError(f"there is no endpoint {name!r:.80}{meant} (known: {', '.join([*PORTABLE, *known()])})")


def require_offered(request: Request) -> None:
    """Make sure that some provider makes exactly what a portable request describes.

    Raises:
        InputError: None does. The message has the reasons, and the nearest change that would work.
    """
    if not isinstance(request, Video | Image):
        return
    makers, _ = find_any(request.endpoint)
    found = options(request, makers)
    if any(option.request is not None for option in found):
        return
    error = not_offered(request, found, "no provider")
    near = next(iter(error.change), "request")
    steps = f"; {', or '.join(map(str, error.remedies))}" if error.remedies else ""
    raise InputError(f"{error.message}{steps}", fields={near: f"{error.message}{steps}"})


def field_names() -> dict[str, list[str]]:
    """The names of the fields, by endpoint."""
    endpoints = [*PORTABLE.values(), *(endpoint for kind in load_providers() for endpoint in kind.endpoints)]
    return {endpoint.name: list(endpoint.request.model_fields) for endpoint in endpoints}


def require_words(values: Mapping[str, Any]) -> None:
    """Refuse a prompt of blanks: a provider takes it, and the money for it.

    Raises:
        InputError: The prompt has no visible character.
    """
    prompt = values.get("prompt")
    if isinstance(prompt, str) and prompt and not prompt.strip():
        reason = "it contains only blanks; write what to generate"
        raise InputError("the prompt is empty; nothing was sent", fields={"prompt": reason})


def image_of(text: str, folder: Path = Path()) -> str | Path:
    """A reference as it is written in a command or a row: a URL, the id of an uploaded image, or a local file.

    Args:
        text: What was written.
        folder: Where relative paths start.
    """
    if is_url(text) or text.startswith("data:"):
        return text
    path = folder / Path(text).expanduser()
    return text if _is_uuid(text) and not path.exists() else path


def with_local_files(endpoint: Endpoint[Any], values: Mapping[str, Any], folder: Path = Path()) -> dict[str, Any]:
    """The values, with paths in place of the texts that name local files, such as that of ``first_frame``.

    In a field of images each text that is no URL is a path. A sound may also be an id, so there a path has an ending.

    Args:
        endpoint: The endpoint.
        values: The fields without the references, which `images` has.
        folder: Where relative paths start.
    """
    pictures = {field.field for field in endpoint.images}
    found = dict(values)
    for name in endpoint.request.reference_fields:
        text = values.get(name)
        if isinstance(text, str) and text and (name in pictures or _FILE_NAME.search(text)):
            found[name] = image_of(text, folder)
    return found


_FILE_NAME = re.compile(r"\.[A-Za-z0-9]{2,5}$")


def _is_uuid(text: str) -> bool:
    """Whether the text is a UUID, as ids of uploaded images are."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def images(endpoint: Endpoint[Any], found: Sequence[str | Path]) -> dict[str, Any]:
    """The images as the field that the endpoint has for them.

    Raises:
        InputError: The endpoint takes only one.
    """
    if "references" in endpoint.request.model_fields or "reference" not in endpoint.request.model_fields:
        return {"references": tuple(found)}
    if len(found) > 1:
        raise InputError(f"{endpoint.name} takes one reference image; {len(found)} were given")
    return {"reference": found[0]}


def decoded(given: Mapping[str, str], refused: set[str]) -> dict[str, Any]:
    """The refused values that are JSON, parsed."""
    found = {}
    for name in refused & set(given):
        try:
            found[name] = json.loads(given[name])
        except (ValueError, RecursionError):
            continue
    return found


@contextmanager
def acceptable(endpoint: Endpoint[Any], *, options: bool = False) -> Iterator[None]:
    """Report what the endpoint's model refuses in terms of the command line.

    Args:
        endpoint: The endpoint.
        options: Name the options of ``kling generate``. Otherwise the fields, as the columns of a bulk file are named.

    Raises:
        InputError: In place of a ``ValidationError``.
    """
    try:
        yield
    except ValidationError as error:
        reasons: dict[str, str] = {}
        for item in error.errors():
            reasons.setdefault(str(item["loc"][0]) if item["loc"] else "the request", _reason(endpoint, item))
        fields_and_references = {*endpoint.request.model_fields, "references"} - {"prompt"}
        known = [name for name in reasons if options and name in fields_and_references]
        raise InputError(
            f"{endpoint.name} does not accept this request; nothing was sent",
            fields=reasons,
            labels={name: _option(name).removesuffix("=") for name in known},
        ) from error


_SAID_ALREADY = frozenset({"missing", "string_too_long", "string_too_short", "blank_prompt"})
"""Kinds of errors that need not repeat what was given."""


def _reason(endpoint: Endpoint[Any], item: ErrorDetails) -> str:
    if item["type"] == "extra_forbidden":
        if item["loc"][-1] == "references":
            places = " and ".join(f"{_option(field.field)}FILE" for field in endpoint.images)
            return f"{endpoint.name} takes no reference images{f'; its images are {places}' if places else ''}"
        if item["loc"][-1] == "prompt":
            return f'{endpoint.name} takes no prompt; give an empty one: ""'
        names = [field.name for field in fields(endpoint)]
        near = difflib.get_close_matches(str(item["loc"][-1]), names, n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        return f"{endpoint.name} has no such field{meant} (its fields: {', '.join(names)})"
    place = problem_place(item)
    reason = f"{place}: {describe_problem(item)}" if place else describe_problem(item)
    if item["type"] in _SAID_ALREADY or not reason.startswith("it "):  # our own validators say what they got
        return reason
    got = item["input"]
    shown = f"{len(got)} characters" if isinstance(got, str) and len(got) > _SHOWN else repr(got)[:_SHOWN]
    return f"{reason}, got {shown}"


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an endpoint, described.

    Attributes:
        name: Its name.
        option: How it is given on the command line.
        default: Its default as text. If None, the field is required.
        meaning: What it means, and what is allowed.
    """

    name: str
    option: str
    default: str | None
    meaning: str


def fields(endpoint: Endpoint[Any]) -> list[Field]:
    """The fields of an endpoint in the order of its model. Those that every endpoint has come last."""
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

"""The shapes of the recorded replies, and how a real reply differs from them.

``shapes.json`` has, for each provider and operation, the paths of all fields with their types, the status words, the
status codes and the headers of all recorded samples. It is made from the samples by ``tests/support/shapes.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from kling_async.providers.base import Reply, UnreadableReply

__all__ = ["Difference", "differences", "is_word", "paths", "redacted"]

_WORD_FIELDS = frozenset({"status", "task_status", "state"})
_WORD = re.compile(r"[A-Za-z_ -]{1,40}")
_COMMON = re.compile(
    r"(access-control|cf|content|cross-origin|x-amz|x-cache|x-fastly|x-ratelimit|x-served|sec)-.*|accept-ranges|age|"
    r"alt-svc|apigw-requestid|cache-control|connection|date|etag|expires|keep-alive|last-modified|nel|pragma|"
    r"ratelimit.*|referrer-policy|report-to|reporting-endpoints|retry-after|server|server-timing|set-cookie|"
    r"strict-transport-security|transfer-encoding|vary|via|x-(content-type|frame|powered|request|trace|xss).*"
)
"""Headers that any server may send."""
_LONGEST = 200  # entries of a list that are read, and characters of a path that are kept


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in a reply that no sample has.

    Attributes:
        kind: ``field``, ``type``, ``status word``, ``HTTP status``, ``header`` or ``body``.
        place: Where: the path of a field, or the name of a header.
        found: What was found there: a type, a word or a code.
    """

    kind: str
    place: str
    found: str

    def __str__(self) -> str:
        return f"{self.kind} {self.place}: {self.found}" if self.place else f"{self.kind} {self.found}"


def differences(provider: str, operation: str, reply: Reply) -> list[Difference]:
    """How a reply differs from all samples of that operation.

    Its fields and words are compared with those of all operations: providers describe a job in the same way everywhere.
    """
    known = _shapes().get(provider, {}).get(operation)
    if known is None:
        return [Difference("body", "", "there is no sample of this operation")]
    found: dict[Difference, None] = {}
    if reply.status not in known["statuses"]:
        found[Difference("HTTP status", "", str(reply.status))] = None
    try:
        body = reply.json()
    except UnreadableReply:
        return [*found, Difference("body", "", f"not JSON, but {reply.media_type or 'no content type'}")]
    found |= dict.fromkeys(_in_body(body, *_described(provider)))
    new = [name for name in reply.headers if name not in known["headers"] and not _COMMON.fullmatch(name)]
    return [*found, *(Difference("header", name[:_LONGEST], "new") for name in new)]


@cache
def _described(provider: str) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The types of each field, and the words of each status, in any operation."""
    merged: list[dict[str, list[str]]] = []
    for part in ("fields", "words"):
        found: dict[str, set[str]] = {}
        for operation in _shapes()[provider].values():
            for path, values in operation[part].items():
                found.setdefault(path, set()).update(values)
        merged.append({path: sorted(values) for path, values in found.items()})
    return merged[0], merged[1]


def _in_body(body: Any, fields: Mapping[str, list[str]], words: Mapping[str, list[str]]) -> Iterator[Difference]:
    for path, kind, word in paths(body):
        types = fields.get(path)
        if types is None:
            if _parent(path) in fields:  # of a new object, its name alone
                yield Difference("field", path, kind)
        elif kind not in types and kind != "null":
            yield Difference("type", path, f"{kind}, and not {' or '.join(types)}")
        elif word is not None and path in words and word not in words[path]:
            yield Difference("status word", path, word)


def paths(value: Any, path: str = "") -> Iterator[tuple[str, str, str | None]]:
    """Each field of a JSON value: its path, its type, and the word that it holds if it is a status."""
    kind = _type(value)
    last = path.rpartition(".")[2]
    word = str(value) if last in _WORD_FIELDS and is_word(value) else None
    yield path, kind, word
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from paths(part, f"{path}.{name}"[:_LONGEST].removeprefix("."))
    elif isinstance(value, list):
        for part in value[:_LONGEST]:
            yield from paths(part, f"{path}[]")


def is_word(value: Any) -> bool:
    """Whether a value is one of a few, such as a status: a short word, or a small number."""
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _LONGEST


def redacted(value: Any, path: str = "") -> Any:
    """The JSON value with its types in place of its values. Status words stay."""
    if isinstance(value, Mapping):
        return {str(name)[:_LONGEST]: redacted(part, str(name)) for name, part in value.items()}
    if isinstance(value, list):
        return [redacted(part, path) for part in value[:_LONGEST]]
    if value is None or isinstance(value, bool) or (path in _WORD_FIELDS and is_word(value)):
        return value
    return f"<{_type(value)}>"


def _type(value: Any) -> str:
    if value is None:
        return "null"
    for kind, name in ((bool, "boolean"), (str, "text"), (Mapping, "object"), (list, "list")):
        if isinstance(value, kind):
            return name
    return "number"


def _parent(path: str) -> str:
    """The path of the object or list that has the field."""
    return path.removesuffix("[]") if path.endswith("[]") else path.rpartition(".")[0]


@cache
def _shapes() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(resources.files(__package__).joinpath("shapes.json").read_text("utf-8"))
    return found

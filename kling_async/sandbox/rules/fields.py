"""Rules of a body: the type and the values of each field, and what holds between fields. Errors are sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Field", "Model", "Rule", "at_least_one", "exactly_one", "problems_of", "together_at_most"]

Rule = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True)
class Field:
    """One field of a body: its type, its values, and whether its absence leaves the price to the seller.

    Attributes:
        fields: The fields of the object, or of each object in the list.
        check: Returns what is wrong with a value of the right type, to be read after the field's name.
    """

    kind: str
    required: bool = False
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    most: int | None = None
    money: bool = False
    fields: Mapping[str, Field] | None = None
    check: Callable[[Any], str | None] | None = None

    def problems(self, name: str, value: Any) -> list[str]:
        """What is wrong with a value, in sentences."""
        if not _KINDS[self.kind](value):
            return [f"{name} must be {self.kind}, not {type(value).__name__} {str(value)[:40]!r}"]
        found = []
        if self.values and value not in self.values:
            found.append(f"{name} is {value!r}, which is not one of {list(self.values)}")
        if self.low is not None and isinstance(value, int | float) and value < self.low:
            found.append(f"{name} is {value!r}, less than {self.low}")
        if self.high is not None and isinstance(value, int | float) and value > self.high:
            found.append(f"{name} is {value!r}, more than {self.high}")
        if self.most is not None and isinstance(value, list) and len(value) > self.most:
            found.append(f"{name} has {len(value)} items, more than {self.most}")
        if self.check is not None and (complaint := self.check(value)) is not None:
            found.append(f"{name} {complaint}")
        if self.fields is not None and isinstance(value, dict):
            found += problems_of(value, self.fields, (), f"{name}.")
        elif self.fields is not None:
            for number, item in enumerate(value):
                found += problems_of(item, self.fields, (), f"{name}[{number}].")
        return found


def _is_url(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    parts = urlsplit(value)
    return (parts.scheme in {"http", "https"} and bool(parts.netloc)) or (parts.scheme == "data" and "," in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "a string": lambda value: isinstance(value, str),
    "a text that is not empty": lambda value: isinstance(value, str) and bool(value.strip()),
    "a boolean": lambda value: isinstance(value, bool),
    "an integer": _is_integer,
    "a number": _is_number,
    "a string or an integer": lambda value: isinstance(value, str) or _is_integer(value),
    "a URL or data URI": _is_url,
    "a list of URLs": lambda value: isinstance(value, list) and all(map(_is_url, value)),
    "a list of strings": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "an object": lambda value: isinstance(value, dict),
    "a list": lambda value: isinstance(value, list),
    "a list of objects": lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value),
}


@dataclass(frozen=True)
class Model:
    """The body of one model: its fields and the rules between them. If `fields` is None, no source names them."""

    fields: Mapping[str, Field] | None
    rules: Sequence[Rule] = ()


def problems_of(
    body: Mapping[str, Any], fields: Mapping[str, Field], rules: Sequence[Rule], where: str = ""
) -> list[str]:
    """Everything in a body that the facts do not allow."""
    found = [f"{where}{name} is not a field of this model" for name in body if name not in fields]
    for name, known in fields.items():
        if name not in body:
            if known.required:
                found.append(f"{where}{name} is required and absent")
        else:
            found += known.problems(where + name, body[name])
    if not found:
        found += [problem for rule in rules if (problem := rule(body)) is not None]
    return found


def exactly_one(*names: str) -> Rule:
    """A rule: one of the fields, and no other of them."""

    def rule(body: Mapping[str, Any]) -> str | None:
        given = [name for name in names if name in body]
        return None if len(given) == 1 else f"exactly one of {', '.join(names)} must be given, not {given}"

    return rule


def at_least_one(*names: str) -> Rule:
    """A rule: one of the fields or more."""

    def rule(body: Mapping[str, Any]) -> str | None:
        return None if any(name in body for name in names) else f"one of {', '.join(names)} must be given"

    return rule


def together_at_most(most: int, *names: str) -> Rule:
    """A rule: the lists together have at most so many items."""

    def rule(body: Mapping[str, Any]) -> str | None:
        count = sum(len(body.get(name, ())) for name in names)
        return None if count <= most else f"{' and '.join(names)} have {count} items together, more than {most}"

    return rule

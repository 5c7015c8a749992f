"""Arguments of the wrong kind are refused at once, with what to give instead. Pure.

The message names only the kind of what was given, because it may be a key in the wrong place.
"""

from __future__ import annotations

from types import UnionType
from typing import Any

from kling_async._errors import ConfigurationError

__all__ = ["count_of", "given", "require", "require_seconds"]


def require(argument: str, value: object, kind: type | UnionType, wanted: str) -> None:
    """Refuse an argument that is not of its kind.

    Args:
        argument: Its name, such as ``"Client(limits=...)"``.
        value: What was given.
        kind: What it must be.
        wanted: The same in words, or an example.

    Raises:
        ConfigurationError: It is something else.
    """
    if not isinstance(value, kind):
        raise ConfigurationError(f"{argument} takes {wanted}, not {given(value)}")


def require_seconds(argument: str, value: object) -> None:
    """Refuse a time limit that is no number of seconds. None is no limit.

    Raises:
        ConfigurationError: It is none.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (number and value >= 0):  # type: ignore[operator]  # a number
        return
    raise ConfigurationError(
        f"{argument} takes seconds, a number from 0 on, or None, not {value if number else given(value)}"
    )


def count_of(name: str, value: Any, least: int = 0) -> int:
    """Return a number that the user gave.

    Raises:
        ConfigurationError: It is no whole number, or less than `least`.
    """
    if not (isinstance(value, int) and value >= least):
        raise ConfigurationError(f"{name} is {value!r}; it must be a whole number, at least {least}")
    return value


def given(value: object) -> str:
    """What was given, in words that do not repeat it."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return "None" if value is None else f"an object of type {type(value).__name__}"

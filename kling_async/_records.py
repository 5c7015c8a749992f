"""Classes of plain values that live for a moment: a call, its reply, what was reported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

__all__ = ["record"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Make a dataclass with slots, of which type checkers see to it that nobody assigns to its fields.

    ``dataclass(frozen=True)`` checks that at run time, too, and then takes four times as long for each object: 0.9 us
    in place of 0.2 with five fields, 4.5 in place of 1.1 with fourteen. A job makes thirty of them. What users hold,
    such as events and results, is frozen.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)

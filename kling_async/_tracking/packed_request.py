"""A request in the form in which a bulk run keeps it while its job runs.

A request is two objects for CPython's garbage collector and half a KiB, most of it fields that have their defaults.
With a hundred thousand jobs in flight, that is a third of the memory and most of the collector's pauses. So the given
fields are kept as a tuple of plain values, which the collector skips, and an equal request is made again when somebody
reads it. It saves 0.4 KiB a job (``python -m benchmarks.scale``).
"""

from __future__ import annotations

from itertools import count
from operator import is_
from typing import Any, NamedTuple, TypeAlias

from kling_async.providers._base.request import Request

__all__ = ["PackedRequest", "pack_request", "unpack_request"]

PackedRequest: TypeAlias = Request | tuple[Any, ...]
"""A request, or the number of its shape and its plain values."""

_PLAIN = frozenset({str, int, float, bool, type(None)})
_shapes: dict[int, _Shape] = {}  # a few in any program
_numbers: dict[tuple[type[Request], frozenset[str]], int] = {}
_order = count()


class _Shape(NamedTuple):
    """Requests of one class that were given the same fields, and one of them, of which copies are made."""

    given: tuple[str, ...]
    others: tuple[str, ...]
    defaults: tuple[Any, ...]
    example: Request


def pack_request(request: Request) -> PackedRequest:
    """Return the request as plain values. Return the request itself if it holds more than these."""
    kind, values = type(request), request.__dict__
    key = kind, frozenset(request.model_fields_set)
    number = _numbers.get(key)
    if number is None:
        number = next(_order)  # two threads may get one each, for the same
        defaults = {name: info.default for name, info in kind.model_fields.items() if name not in key[1]}
        example = kind.model_construct(set(key[1]), **dict.fromkeys(key[1]))
        _shapes[number] = _Shape(tuple(key[1]), tuple(defaults), tuple(defaults.values()), example)
        _numbers[key] = number
    given, others, usual, _ = _shapes[number]
    packed = (number, *map(values.__getitem__, given))
    plain = len(values) == len(given) + len(others) and not request.__pydantic_private__
    if plain and _PLAIN.issuperset(map(type, packed)) and all(map(is_, map(values.__getitem__, others), usual)):
        return packed
    return request


def unpack_request(packed: PackedRequest) -> Request:
    """Return the request that was packed, or an equal one."""
    if isinstance(packed, Request):
        return packed
    number, *values = packed
    given, _, _, example = _shapes[number]
    return example.model_copy(update=dict(zip(given, values, strict=True)))

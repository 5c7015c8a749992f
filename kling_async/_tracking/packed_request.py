"""A request in the form in which a bulk run keeps it while its job runs.

A request is two objects for CPython's garbage collector and half a KiB, most of it fields that have their defaults.
With a hundred thousand jobs in flight, that is a third of the memory and most of the collector's pauses. So the given
fields are kept as a tuple of plain values, which the collector skips, and an equal request is made again when somebody
reads it. It saves 0.4 KiB a job (``python -m benchmarks.scale``).
"""

from __future__ import annotations

from itertools import count
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
    """Requests of one class that were given the same fields."""

    kind: type[Request]
    given: tuple[str, ...]
    defaults: tuple[tuple[str, Any], ...]


def pack_request(request: Request) -> PackedRequest:
    """Return the request as plain values. Return the request itself if it holds more than these."""
    kind, values = type(request), request.__dict__
    key = kind, frozenset(request.model_fields_set)
    number = _numbers.get(key)
    if number is None:
        number = next(_order)  # two threads may get one each, for the same
        others = [(name, info.default) for name, info in kind.model_fields.items() if name not in key[1]]
        _shapes[number] = _Shape(kind, tuple(key[1]), tuple(others))
        _numbers[key] = number
    _, given, defaults = _shapes[number]
    packed = (number, *(values[name] for name in given))
    plain = len(values) == len(given) + len(defaults) and not request.__pydantic_private__
    if plain and _PLAIN.issuperset(map(type, packed)) and all(values[name] is default for name, default in defaults):
        return packed
    return request


def unpack_request(packed: PackedRequest) -> Request:
    """Return the request that was packed, or an equal one."""
    if isinstance(packed, Request):
        return packed
    number, *values = packed
    kind, given, _ = _shapes[number]
    return kind.model_construct(set(given), **dict(zip(given, values, strict=True)))

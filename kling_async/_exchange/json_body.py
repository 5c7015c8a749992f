"""Reading JSON that comes from outside: answers, webhooks, lines of a stream, stored records. Pure.

A paid call that was answered must not count as lost because of a stray byte in the answer. So what strict JSON refuses
is read a second time with more tolerance, and every value returned can be encoded, stored and printed.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from typing import Any

import pydantic_core

__all__ = ["read_json"]

_DEEPEST = 200  # levels of nesting. The same as the strict reader's own limit
_LONGEST_NUMBER = 300  # digits. A longer whole number fits no float, and Python refuses to print much longer ones
# Each run of digits is tried once, from its first digit, so that the search takes time in proportion to the text. The
# beginning of a number tells it from a UUID, which may contain e8400.
_ABSURD = re.compile(rb"(?:^|(?<=[\s,:\[]))-?\d+(?:(?<=\d{%d})|(?:\.\d+)?[eE]\+?\d{3})" % (_LONGEST_NUMBER + 1))
# To search for one takes 20 us of a status answer, and 3 ms of one with 25 kB. So two searches that take a fifth come
# before: for the end of such an exponent, and for digits that stand in three steps one after the other.
_EXPONENT = re.compile(rb"[eE]\+?[0-9]{3}[0-9]*(?:[\s,}\]]|\Z)")
_STEP = _LONGEST_NUMBER // 3
_LONG = re.compile(rb"[0-9]{3}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark is the beginning of this one
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_json(data: bytes | str) -> Any:
    """Decode JSON from outside.

    Accepted beyond strict JSON: a byte order mark, bytes that are not UTF-8 and lone surrogates (read as U+FFFD),
    control characters in strings, and numbers that no float can hold, such as ``NaN`` or ``1e999`` (read as None).

    Raises:
        ValueError: It is not JSON, or is nested more than 200 levels deep.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    suspicious = _EXPONENT.search(raw) or (len(raw) > _LONGEST_NUMBER and _LONG.search(raw[::_STEP]))
    if not suspicious or _ABSURD.search(raw) is None:
        try:
            return pydantic_core.from_json(raw, allow_inf_nan=False)
        except ValueError:
            pass
    try:
        value = json.loads(_decode(raw), strict=False, parse_constant=_no_number, parse_float=_float, parse_int=_int)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return _clean(value, _DEEPEST)


def _decode(raw: bytes) -> str:
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return raw[len(mark) :].decode(encoding, "replace")
    return raw.decode("utf-8", "replace")


def _no_number(_: str) -> None:
    return None


def _float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _int(text: str) -> int | None:
    return int(text) if len(text) <= _LONGEST_NUMBER else None


def _clean(value: Any, levels: int) -> Any:
    """The value with lone surrogates replaced."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if not isinstance(value, dict | list):
        return value
    if not levels:
        raise ValueError("it is nested too deeply")
    if isinstance(value, list):
        return [_clean(item, levels - 1) for item in value]
    return {_clean(name, 1): _clean(item, levels - 1) for name, item in value.items()}

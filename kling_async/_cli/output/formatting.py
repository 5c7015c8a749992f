"""Formats text and numbers for the terminal. Text from elsewhere (prompts, file names, messages) is made safe first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kling_async._rows.records import Record

__all__ = ["counted", "duration", "error_line", "plural", "printable", "size"]

# C0 and C1 controls (escape sequences begin with one), line and paragraph separators, lone surrogates, and the marks
# that turn the direction of what follows (https://trojansource.codes).
_BREAKS = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]+")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
_KIB = 1024


def printable(text: object) -> str:
    """`text` on one line, without control sequences."""
    return _UNSAFE.sub("", _BREAKS.sub(" ", str(text)))


def duration(seconds: float) -> str:
    """Seconds as a clock shows them: ``0:05``, ``2:05`` or ``1:02:05``."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def plural(count: int, noun: str) -> str:
    """A number of things: ``1 row``, ``2 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def counted(count: int, noun: str) -> str:
    """A number of things and its verb: ``1 row is``, ``2 rows are``."""
    return f"{plural(count, noun)} {'is' if count == 1 else 'are'}"


def size(count: float) -> str:
    """A number of bytes as ``1.2 MiB``."""
    for unit in ("B", "KiB", "MiB"):
        if count < _KIB:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= _KIB
    return f"{count:.1f} GiB"


def error_line(record: Record) -> str | None:
    """What went wrong with a row, on one line. If None, nothing did."""
    if record.error is None or record.state == "completed":
        return None
    return f"line {record.line}: {printable(record.error['message'])}"

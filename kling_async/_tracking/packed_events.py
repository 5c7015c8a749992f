"""A job's events in the form in which they are kept.

CPython's garbage collector visits every object that may refer to another, and stops the program meanwhile. With ten
thousand jobs in flight this is the longest stall of the event loop (`benchmarks.jobs`). The collector skips a tuple of
plain values. So an event without files and failures is kept as such a tuple, and made again when somebody reads it.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any, TypeAlias

from kling_async._models import Cost, Event, Status

__all__ = ["Packed", "pack", "unpack"]

Packed: TypeAlias = "Event | tuple[Any, ...]"
"""An event, or its plain values."""


def pack(event: Event) -> Packed:
    """Return the event as plain values. Return the event itself if it holds more than these."""
    if event.artifacts or event.failures or event.raw is not None or event.choice is not None or event.at.tzinfo != UTC:
        return event
    values = (
        event.seq,
        event.status.value,
        event.at.timestamp(),  # exact: a time has microseconds, and a float of this size some tenths of one
        event.elapsed,
        event.source,
        event.step,
        *_plain(event.cost),
        event.progress,
        event.message,
        event.queue_position,
        event.logs or None,
        *_plain(event.balance),
    )
    length = len(values)
    while values[length - 1] is None:  # most events have nothing of the last ones
        length -= 1
    return values[:length]


def unpack(packed: Packed) -> Event:
    """Return the event that was packed."""
    if isinstance(packed, Event):
        return packed
    values = packed + _NOTHING[len(packed) :]
    seq, status, at, elapsed, source, step, amount, unit, progress, message, position, logs, left, left_unit = values
    return Event(
        seq,
        Status(status),
        datetime.fromtimestamp(at, UTC),
        elapsed,
        source,
        progress,
        message,
        cost=_cost(amount, unit),
        step=step,
        balance=_cost(left, left_unit),
        queue_position=position,
        logs=logs or (),
    )


_NOTHING: tuple[Any, ...] = (None,) * 14


def _plain(cost: Cost | None) -> tuple[str | None, str | None]:
    # Thousands of jobs of one price share its text.
    return (sys.intern(str(cost.amount)), cost.unit) if cost else (None, None)


def _cost(amount: Any, unit: Any) -> Cost | None:
    return None if amount is None else Cost.parse(amount, unit)

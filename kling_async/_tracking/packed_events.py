"""A job's events in the form in which they are kept.

CPython's garbage collector visits every object that may refer to another, and stops the program meanwhile. With ten
thousand jobs in flight this is the longest stall of the event loop (`benchmarks.jobs`). The collector skips a tuple of
plain values. So an event without files and failures is kept as such a tuple, and made again when somebody reads it.

Most events of a job that runs differ from those of other jobs by their times alone. As long as a job has no others, its
log is bytes: the two times of each event, and the number of what thousands of events share. Two events take 80 bytes,
and 416 as tuples (``python -m benchmarks.scale``).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from struct import Struct
from typing import Any, TypeAlias

from kling_async._models import Cost, Event, Status

__all__ = ["EMPTY", "Log", "Packed", "appended", "event_at", "events_of", "length", "pack", "unpack"]

Packed: TypeAlias = "Event | tuple[Any, ...]"
"""An event, or its plain values."""

Log: TypeAlias = "bytes | tuple[Packed, ...]"
"""The events of one job: an `_ENTRY` each, or each packed."""

EMPTY: Log = b""

_ENTRY = Struct("<Hdd")  # the number of what it shares, `at` and `elapsed`
_MOST_SHARED = 4_096
_shared: dict[int, tuple[Any, ...]] = {}  # a few in any program: all plain values but the times
_numbers: dict[tuple[Any, ...], int] = {}
_order = count()


def length(log: Log) -> int:
    """Return how many events a log has."""
    return len(log) // _ENTRY.size if isinstance(log, bytes) else len(log)


def event_at(log: Log, place: int) -> Event:
    """Return the event at this index of a log, as of a list."""
    if isinstance(log, bytes):
        return unpack(_packed_at(log, place))
    return unpack(log[place])


def _packed_at(log: bytes, place: int) -> tuple[Any, ...]:
    start = range(0, len(log), _ENTRY.size)[place]
    number, at, elapsed = _ENTRY.unpack_from(log, start)
    shared = _shared[number]
    return (*shared[:_TIMES], at, elapsed, *shared[_TIMES:])


def events_of(log: Log) -> Iterator[Event]:
    """Return the events of a log."""
    return (event_at(log, place) for place in range(length(log)))


def appended(log: Log, event: Event) -> Log:
    """Return a log with one more event."""
    packed = pack(event)
    if isinstance(log, bytes):
        entry = _entry(packed)
        if entry is not None:
            return log + entry
        log = tuple(_packed_at(log, place) for place in range(length(log)))
    return (*log, packed)


def _entry(packed: Packed) -> bytes | None:
    """Return an event that differs from others by its times alone. None for one that has more of its own."""
    if not isinstance(packed, tuple) or len(packed) > _COMMON:
        return None
    shared = packed[:_TIMES] + packed[_TIMES + 2 :]
    number = _numbers.get(shared)
    if number is None:
        if len(_numbers) >= _MOST_SHARED:
            return None
        number = next(_order)  # two threads may get one each, for the same
        _shared[number] = shared
        _numbers[shared] = number
    return _ENTRY.pack(number, *packed[_TIMES : _TIMES + 2])


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
_TIMES = 2  # the place of `at` and `elapsed` among the values
_COMMON = 8  # values up to and with the cost. Those after it are an event's own


def _plain(cost: Cost | None) -> tuple[str | None, str | None]:
    # Thousands of jobs of one price share its text.
    return (sys.intern(str(cost.amount)), cost.unit) if cost else (None, None)


def _cost(amount: Any, unit: Any) -> Cost | None:
    return None if amount is None else Cost.parse(amount, unit)

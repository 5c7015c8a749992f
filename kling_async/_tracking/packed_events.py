"""A job's events in the form in which they are kept.

CPython's garbage collector visits every object that may refer to another, and stops the program meanwhile. With ten
thousand jobs in flight this is the longest stall of the event loop (`benchmarks.jobs`). The collector skips a tuple of
plain values. So an event without files and failures is kept as such a tuple, and made again when somebody reads it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from kling_async._models import Cost, Event, Status

__all__ = ["Packed", "pack", "unpack"]

Packed: TypeAlias = "Event | tuple[Any, ...]"
"""An event, or its plain values."""


def pack(event: Event) -> Packed:
    """Return the event as plain values. Return the event itself if it holds more than these."""
    if event.artifacts or event.failures or event.raw is not None or event.choice is not None:
        return event
    return (
        event.seq,
        event.status.value,
        event.at,
        event.elapsed,
        event.source,
        event.progress,
        event.message,
        event.step,
        event.queue_position,
        event.logs,
        *_plain(event.cost),
        *_plain(event.balance),
    )


def unpack(packed: Packed) -> Event:
    """Return the event that was packed."""
    if isinstance(packed, Event):
        return packed
    seq, status, at, elapsed, source, progress, message, step, position, logs, *amounts = packed
    cost, balance = _cost(*amounts[:2]), _cost(*amounts[2:])
    return Event(
        seq,
        Status(status),
        at,
        elapsed,
        source,
        progress,
        message,
        cost=cost,
        step=step,
        balance=balance,
        queue_position=position,
        logs=logs,
    )


def _plain(cost: Cost | None) -> tuple[str | None, str | None]:
    return (str(cost.amount), cost.unit) if cost else (None, None)


def _cost(amount: Any, unit: Any) -> Cost | None:
    return None if amount is None else Cost.parse(amount, unit)

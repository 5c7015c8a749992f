"""A job's events at rest.

CPython's garbage collector goes through every object that may refer to another, and holds up the program meanwhile:
with ten thousand jobs in flight that is the event loop's longest stall (`benchmarks.jobs`). A tuple of plain values is
nothing to it. So an event is kept as one, until it has files or failures, and made again when somebody reads it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from kling_async._models import Cost, Event, Status

__all__ = ["Packed", "pack", "unpack"]

Packed: TypeAlias = "Event | tuple[Any, ...]"
"""An event, or its plain values."""


def pack(event: Event) -> Packed:
    """The event as plain values; itself, if it has more to it."""
    if event.artifacts or event.failures or event.raw is not None:
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
        *_plain(event.cost),
        *_plain(event.balance),
    )


def unpack(packed: Packed) -> Event:
    """The event that was packed."""
    if isinstance(packed, Event):
        return packed
    seq, status, at, elapsed, source, progress, message, step, *amounts = packed
    cost, balance = _cost(*amounts[:2]), _cost(*amounts[2:])
    return Event(seq, Status(status), at, elapsed, source, progress, message, cost=cost, step=step, balance=balance)


def _plain(cost: Cost | None) -> tuple[str | None, str | None]:
    return (str(cost.amount), cost.unit) if cost else (None, None)


def _cost(amount: Any, unit: Any) -> Cost | None:
    return None if amount is None else Cost.parse(amount, unit)

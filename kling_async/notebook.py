"""Live displays in notebooks: ``async for outcome in live(outcomes)``.

A cell that ends with a job, a result or a bulk run shows it as it is then. `live` shows it while it changes. Outside of
a notebook it shows nothing, and iterates all the same.
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, overload

import anyio

from kling_async import sync
from kling_async._bulk.outcome import Outcome
from kling_async._bulk.run import BulkRun
from kling_async._job.job import Job
from kling_async._models import Event

__all__ = ["live"]

_TICK = 1.0  # s after which a bulk run is shown again, though no row has ended
_PAUSE = 0.2  # s between two updates, however many rows end


@overload
def live(source: BulkRun) -> AsyncIterator[Outcome]: ...
@overload
def live(source: Job) -> AsyncIterator[Event]: ...
@overload
def live(source: sync.BulkRun) -> Iterator[sync.Outcome]: ...
@overload
def live(source: sync.Job) -> Iterator[Event]: ...
def live(source: Any) -> AsyncIterator[Any] | Iterator[Any]:
    """Iterate over a bulk run or a job, and show below the cell how far it has come.

    ::

        async with client.map(requests, save_to="out") as outcomes:
            async for outcome in live(outcomes):
                ...

    Args:
        source: A bulk run that has begun, or a job: those of `kling_async.Client`, or those of the client without
            ``await``, over which ``for`` iterates.

    Returns:
        What iterating over it returns: outcomes, or events.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(source, BulkRun | Job):
        return _live(source)
    if isinstance(source, sync.BulkRun | sync.Job):
        return _live_without_await(source)
    raise TypeError(f"live(...) takes a bulk run or a job, not an object of type {type(source).__name__}")


async def _live(source: BulkRun | Job) -> AsyncIterator[Any]:
    shown = _Display(source)
    try:
        async for item in _ticking(source):
            shown.update()
            if item is not None:
                yield item
    finally:
        shown.update(last=True)


def _live_without_await(source: sync.BulkRun | sync.Job) -> Iterator[Any]:
    shown = _Display(source)
    try:
        for item in source._pieces(_ticking):  # noqa: SLF001  # what is shown in between is no part of the iteration
            shown.update()
            if item is not None:
                yield item
    finally:
        shown.update(last=True)


async def _ticking(source: BulkRun | Job) -> AsyncIterator[Any]:
    """Yield what iterating over it yields, and None in between after a while.

    A job has no such pauses: its waiter polls, and a poll that is cancelled is wasted.
    """
    limit = _TICK if isinstance(source, BulkRun) else None
    items = aiter(source)
    while True:
        item = None
        with anyio.move_on_after(limit):
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
        yield item


class _Display:
    """What is shown below a cell. Nothing is, where no notebook runs."""

    def __init__(self, source: object) -> None:
        self._source = source
        self._handle = _displayed(source)
        self._updated = time.monotonic()

    def update(self, *, last: bool = False) -> None:
        """Show it as it is now, but not too often."""
        now = time.monotonic()
        if self._handle is not None and (last or now - self._updated >= _PAUSE):
            self._updated = now
            self._handle.update(self._source)


def _displayed(source: object) -> Any:
    """Show something below the cell, and return what changes it there. None if no notebook runs."""
    interactive: Any = sys.modules.get("IPython")  # a notebook has loaded it
    shell = interactive.get_ipython() if interactive is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return interactive.display.display(source, display_id=True)

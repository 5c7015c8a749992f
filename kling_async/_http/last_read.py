"""The end of the time of a paid exchange, which comes after the last read.

A process that was stopped (a laptop that slept, ``docker pause``) finds the end of the time and the answer in the
socket at the same moment. So whether the time is over is judged only after what had arrived by then was read.
"""

from __future__ import annotations

import asyncio

import anyio
from anyio.lowlevel import checkpoint

from kling_async._event_loop.clock import loop_time
from kling_async._http.wake_limit import WakeLimit

__all__ = ["LAST_READ", "end_after", "last_read"]

LAST_READ = 0.1  # s in which an answer is read that had arrived when the time was over
_TURNS = 50  # of the loop, more than an answer takes that is there, however long each is because many are


def end_after(scope: anyio.CancelScope, seconds: float) -> asyncio.TimerHandle:
    """On asyncio: a timer that ends the scope of a paid exchange after so many seconds and the last read."""
    return asyncio.get_running_loop().call_later(seconds, _allow_last_read, scope, WakeLimit.of_loop())


def _allow_last_read(scope: anyio.CancelScope, wakes: WakeLimit) -> None:
    wakes.wake_all()
    scope.deadline = loop_time() + LAST_READ


async def last_read() -> None:
    """On trio, which has no timers but those of tasks: wait for the last read."""
    await anyio.sleep(LAST_READ)
    for _ in range(_TURNS):
        await checkpoint()

"""Virtual time: an event loop that never sleeps, because its clock moves on when nothing is ready.

Only for tests without real sockets and worker threads: while one of those works, nothing is "ready" either.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

import sniffio
import trio.testing

__all__ = ["JumpingLoop", "SkippingLoop", "backend", "backend_with_clock", "skip"]


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that does not sleep, and counts for how long it would have slept."""

    slept = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            # Nothing is planned and nothing is ready: only a thread could change that, or the test hangs for ever.
            return list(super().select(5))
        self.slept += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in virtual time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the time that was jumped over. Real time is left out, or a busy machine would let timers expire."""
        return self._jumping.slept


def backend(name: str) -> tuple[str, dict[str, Any]]:
    """What anyio's pytest plugin needs to run a test on `name` (asyncio or trio) in virtual time."""
    if name == "trio":
        return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}
    return "asyncio", {"loop_factory": JumpingLoop}


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock a test may put forward. It sleeps as usual, so sockets and threads work."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


def backend_with_clock(name: str) -> tuple[str, dict[str, Any]]:
    """Say how anyio's pytest plugin shall run a test in which `skip` works."""
    if name == "trio":
        return "trio", {"clock": trio.testing.MockClock(rate=1.0)}
    return "asyncio", {"loop_factory": SkippingLoop}


def skip(seconds: float) -> None:
    """Let time pass at once."""
    if sniffio.current_async_library() == "trio":
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(seconds)
    else:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SkippingLoop)
        loop.skipped += seconds

"""The threads of an event loop that read local files."""

from __future__ import annotations

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar

__all__ = ["file_readers"]

_READERS = 2  # More read no faster, keep more in memory, and take more of the interpreter's time at once
_limiter: RunVar[CapacityLimiter] = RunVar("kling_async_file_readers")


def file_readers() -> CapacityLimiter:
    """How many threads of this event loop read local files at once."""
    try:
        return _limiter.get()
    except LookupError:
        made = CapacityLimiter(_READERS)
        _limiter.set(made)
        return made

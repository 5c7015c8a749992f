"""Ctrl-C while the program is still being loaded, which is when an impatient user presses it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["exit_on_sigint"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_STANDARD_ERROR = 2


@contextmanager
def exit_on_sigint() -> Iterator[None]:
    """End the process at SIGINT, in one sentence, until a command begins and answers it itself.

    There is nothing to be cleaned up yet; and an exception out of the middle of an import is not sure to arrive.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # ignored, say, by a shell that put us in the background
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave(_number: int, _frame: FrameType | None) -> None:
    with suppress(OSError):
        os.write(_STANDARD_ERROR, b"interrupted; nothing was bought\n")  # the file object may be in use just now
    os._exit(_INTERRUPTED)

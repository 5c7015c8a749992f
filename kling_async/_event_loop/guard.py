"""The process and the event loop that a client belongs to."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from kling_async._errors import ConfigurationError, Remedy
from kling_async._event_loop.clock import current_loop

__all__ = ["LoopGuard"]


class LoopGuard:
    """Makes sure that a client is used in the process that made it, and by one running event loop at a time.

    Several event loops one after another are allowed. A client shares connections, locks and waiters among its calls,
    and these belong to one event loop.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._loop: object = None
        self._calls = 0

    @property
    def forked(self) -> bool:
        """Whether this is another process than the one that made the client."""
        return os.getpid() != self._pid

    def require_process(self) -> None:
        """Make sure that this is the process that made the client.

        Raises:
            ConfigurationError: It is another one.
        """
        if self.forked:
            raise ConfigurationError(
                f"the client was made in process {self._pid} and is used in process {os.getpid()}",
                remedies=(Remedy("configure", detail="make the client after the fork, one in each process"),),
            )

    @contextmanager
    def call(self) -> Iterator[None]:
        """Surrounds a call of the client.

        Raises:
            ConfigurationError: Another running event loop has calls under way, or this is another process.
        """
        self.require_process()
        loop = current_loop()
        with self._lock:
            if self._calls and self._loop != loop:
                if _runs(self._loop):
                    raise ConfigurationError(
                        "the client is being used by another event loop, in another thread",
                        remedies=(
                            Remedy(
                                "configure",
                                detail="make one client for each event loop, or call this one on its own event loop, "
                                "for example with asyncio.run_coroutine_threadsafe",
                            ),
                        ),
                    )
                self._calls = 0  # the other event loop was stopped in the middle of its calls
            self._loop = loop
            self._calls += 1
        try:
            yield
        finally:
            with self._lock:
                if self._loop == loop:
                    self._calls = max(self._calls - 1, 0)


def _runs(loop: object) -> bool:
    """Return whether an event loop is running. Only asyncio has one that can be stopped in the middle of a call."""
    native = getattr(loop, "native_token", loop)  # anyio wraps the loop, from version 4.11 on
    return not isinstance(native, asyncio.AbstractEventLoop) or native.is_running()

"""Waiting for a free slot at a provider that bounds how many jobs of an account run at once."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import anyio

from kling_async._errors import KlingError
from kling_async._event_loop.clock import Clock

__all__ = ["NoFreeSlot", "SlotQueue"]

T = TypeVar("T")


class NoFreeSlot(Exception):
    """The provider refused a paid call because all slots are taken. Nothing was bought.

    Attributes:
        error: The provider's refusal.
    """

    def __init__(self, error: KlingError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True, eq=False, repr=False)
class _Line:
    """Those who wait for slots of one kind: the first of them asks, the others wait for their turn."""

    turn: anyio.Lock = field(default_factory=anyio.Lock)
    waiting: int = 0
    progress: float = 0.0


class SlotQueue:
    """Lets submissions wait for slots, one line for each kind of slot.

    Only the first of a line asks the provider, more and more seldom, so that a thousand waiting submissions cause no
    more calls than one. A line that gets no slot for `timeout` seconds gives up.

    Args:
        clock: The client's clock.
        timeout: Seconds without one free slot after which those who wait get the provider's refusal.
        speed: How many times faster than documented the provider's jobs run.
    """

    FIRST, LONGEST, FACTOR = 1.0, 10.0, 1.5

    def __init__(self, clock: Clock, timeout: float, speed: Callable[[], float]) -> None:
        self._clock = clock
        self._timeout = timeout
        self._speed = speed
        self._lines: dict[str, _Line] = {}

    def full(self) -> bool:
        """Return whether somebody waits for a slot."""
        return any(line.waiting for line in self._lines.values())

    async def run(self, slot: str, attempt: Callable[[], Awaitable[T]], *, may_wait: bool = True) -> T:
        """Make the attempt, again and again while it raises `NoFreeSlot`.

        Args:
            slot: The kind of slot.
            attempt: The paid call.
            may_wait: Whether it waits for a slot. Otherwise it is refused at once if there is none.

        Raises:
            KlingError: The provider's refusal, where no slot became free in time.
        """
        if not may_wait:
            try:
                return await attempt()
            except NoFreeSlot as full:
                raise full.error from None
        line = self._lines.setdefault(slot, _Line())
        if not line.waiting:
            try:
                return await attempt()
            except NoFreeSlot:
                pass
        if not line.waiting:
            line.progress = self._clock.now()
        line.waiting += 1
        try:
            async with line.turn:
                return await self._first_in_line(line, attempt)
        finally:
            line.waiting -= 1

    async def _first_in_line(self, line: _Line, attempt: Callable[[], Awaitable[T]]) -> T:
        pause = self.FIRST
        while True:
            try:
                done = await attempt()
            except NoFreeSlot as full:
                waited = self._clock.now() - line.progress
                if waited >= self._timeout:
                    raise _gave_up(full.error, waited) from None
            else:
                line.progress = self._clock.now()
                return done
            await anyio.sleep(pause * random.uniform(0.8, 1.2) / self._speed())  # noqa: S311  # jitter
            pause = min(pause * self.FACTOR, self.LONGEST)


def _gave_up(error: KlingError, waited: float) -> KlingError:
    error.message += (
        f"; all slots of the account are taken, and none became free in {waited:.0f} s (Limits.slot_timeout). "
        "Nothing was bought"
    )
    return error

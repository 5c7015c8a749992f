"""Throttling: what to do when a provider answers "not now"."""

from __future__ import annotations

import email.utils
import random
from dataclasses import dataclass, field

import anyio

from kling_async._errors import UnreadableReply
from kling_async._event_loop.clock import Clock
from kling_async._exchange.calls import Reply

__all__ = ["Throttle", "retry_after"]


@dataclass(slots=True, eq=False, repr=False)
class Throttle:
    """The pause of all calls to a provider after "too many calls", and the slow way back.

    After a pause, calls leave one by one, `spacing` seconds apart. Each success brings them closer, each new refusal
    doubles the distance.
    """

    clock: Clock
    until: float = 0.0
    spacing: float = 0.0
    strikes: int = 0
    turn: anyio.Lock = field(default_factory=anyio.Lock)

    FIRST, LONGEST, CLOSEST, WIDEST = 1.0, 120.0, 0.01, 5.0  # s

    @property
    def pause(self) -> float:
        """Seconds until the next call may leave."""
        return max(0.0, self.until - self.clock.now())

    @property
    def busy(self) -> float:
        """Seconds until the next call may leave. Calls that wait already go first."""
        return max(self.pause, self.spacing if self.spacing and self.turn.locked() else 0.0)

    async def wait(self) -> None:
        """Wait until a call may leave."""
        if not self.spacing:
            return
        async with self.turn:
            while (now := self.clock.now()) < self.until:  # noqa: ASYNC110  # a new refusal moves it meanwhile
                await anyio.sleep(self.until - now)
            await anyio.sleep(self.spacing * random.uniform(0.5, 1.5))  # noqa: S311  # jitter

    def on_refusal(self, retry_after: float | None) -> None:
        """The provider throttled a call: pause for as long as it asked, but at most `LONGEST`.

        A longer hint ends the call that received it (see `ProviderTransport`), and need not hold up all others.
        """
        if self.clock.now() >= self.until:
            # Calls that left before the pause and are refused during it say nothing new, however many they are.
            self.strikes += 1
            self.spacing = min(max(0.05, self.spacing * 2), self.WIDEST)
        wait = retry_after if retry_after is not None else self.FIRST * 2 ** min(self.strikes - 1, 6)
        wait = min(max(wait, 0.0), self.LONGEST) * random.uniform(1.0, 1.1)  # noqa: S311  # jitter
        self.until = max(self.until, self.clock.now() + wait)

    def on_success(self) -> None:
        """A call was served, if only with a plain refusal."""
        self.strikes = 0
        if self.spacing:
            self.spacing = self.spacing * 0.9 if self.spacing > self.CLOSEST else 0.0


_LONGEST_HINT = 86400.0  # s. What is longer is no hint but a mistake


def retry_after(reply: Reply, now: float) -> float | None:
    """Seconds that the provider wants to be left alone, or None if it does not say.

    They stand in ``retry-after-ms`` (milliseconds), in ``retry-after`` (seconds, or a date by the provider's own clock,
    which its ``date`` header shows), or in the body.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        given = reply.headers.get(name, "").partition(",")[0].strip()
        if (hint := _hint(given, unit)) is not None:
            return hint
    if (date := _date(reply.headers.get("retry-after", ""))) is not None:
        there = _date(reply.headers.get("date", ""))
        return _bounded(date - (now if there is None else there))
    try:
        body = reply.json()
    except UnreadableReply:
        return None
    for place in (body, body.get("error") if isinstance(body, dict) else None):
        for name in ("retry_after", "retryAfter", "retry_after_seconds"):
            value = place.get(name) if isinstance(place, dict) else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                return _bounded(value)
    return None


def _hint(text: str, unit: float) -> float | None:
    try:
        return _bounded(float(text) / unit)
    except ValueError:
        return None


def _date(text: str) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text.strip()[:100]).timestamp()
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _bounded(seconds: float) -> float | None:
    return max(0.0, float(seconds)) if seconds <= _LONGEST_HINT else None

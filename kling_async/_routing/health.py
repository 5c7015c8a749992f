"""When a provider is passed over. Pure: the time is passed in.

Theory of operation
-------------------
Each provider of a client has one `Health`, which all its submissions report to. It rests the provider:

- after `FAILURES` submissions in a row that failed or whose outcome is unknown, and at once if the account was refused
  (no credits, a refused key). The rest begins with `FIRST` or `ACCOUNT` seconds, and doubles with each further failure;
- for a moment, if the provider answered "not now" or had no free slot. That is no failure.

When a rest is over, one submission goes first: the *probe*. The others pass the provider over until it is answered. An
answer that accepts the submission ends the rest. A failure begins the next one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import ClassVar

__all__ = ["Health"]


@dataclass(slots=True, eq=False, repr=False)
class Health:
    """What the submissions to one provider have shown.

    Attributes:
        reason: Why it rests, or rested last.
        busy: Whether it rests only because it said "not now".
    """

    FAILURES: ClassVar[int] = 3
    FIRST: ClassVar[float] = 30.0  # s
    ACCOUNT: ClassVar[float] = 300.0  # s; a payment or a new key takes that long
    LONGEST: ClassVar[float] = 600.0  # s
    BUSY: ClassVar[float] = 1.0  # s
    LONGEST_BUSY: ClassVar[float] = 30.0  # s
    WINDOW: ClassVar[float] = 600.0  # s for which a failure is recent

    reason: str = ""
    busy: bool = False
    _in_a_row: int = 0
    _rests: int = 0
    _until: float | None = None
    _probing: bool = False
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=100))

    def wait(self, now: float) -> float:
        """Return the seconds for which it is passed over. Infinite while a probe is under way."""
        if self._until is None:
            return 0.0
        return inf if self._probing else max(0.0, self._until - now)

    def failures(self, now: float) -> int:
        """Return how many submissions failed recently."""
        return sum(now - at < self.WINDOW for at in self._recent)

    def begin(self, now: float) -> bool:
        """A submission is about to be sent. Return whether it is the probe."""
        probe = self._until is not None and not self._probing and now >= self._until
        self._probing = self._probing or probe
        return probe

    def abandoned(self, *, probe: bool) -> None:
        """A submission ended without a word from the provider: it was cancelled, or never sent."""
        if probe:
            self._probing = False

    def succeeded(self) -> None:
        """The provider accepted a submission, or answered it in a way that shows that it serves."""
        self._until, self._probing, self.busy = None, False, False
        self._in_a_row = self._rests = 0

    def failed(self, now: float, reason: str, *, probe: bool) -> None:
        """A submission failed, or its outcome is unknown."""
        self._recent.append(now)
        self._in_a_row += 1
        self.reason = reason
        if probe or (self._until is None and self._in_a_row >= self.FAILURES):
            self._rest(now, self.FIRST, self.LONGEST, busy=False)

    def account_refused(self, now: float, reason: str, *, probe: bool) -> None:
        """The provider refused the key, or the account cannot pay."""
        self._recent.append(now)
        self.reason = reason
        if probe or self._until is None or self.busy:
            self._rest(now, self.ACCOUNT, self.LONGEST, busy=False)

    def throttled(self, now: float, reason: str, seconds: float | None, *, probe: bool) -> None:
        """The provider said "not now", or has no free slot.

        Args:
            now: The time.
            reason: Its reason.
            seconds: How long it wants to be left alone, if it asked for that.
            probe: Whether the submission was the probe.
        """
        if not probe and self._until is not None:
            return  # it was sent before the others had reported the same
        self.reason = reason
        self._rest(now, seconds or self.BUSY, self.LONGEST_BUSY, busy=True)

    def _rest(self, now: float, first: float, longest: float, *, busy: bool) -> None:
        if busy is not self.busy:
            self._rests = 0
        self._until = now + min(first * 2.0 ** min(self._rests, 8), max(longest, first))
        self._rests += 1
        self._probing, self.busy = False, busy

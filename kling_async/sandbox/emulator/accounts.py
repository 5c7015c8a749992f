"""The accounts of the simulated customers: money and rate limits."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal

_WINDOW = 60.0  # simulated seconds over which status calls are counted


class OrderError(Exception):
    """The order is refused. Each emulation answers it in the form of its provider."""


class InsufficientCreditsError(OrderError):
    """The account cannot pay the price."""


@dataclass(slots=True)
class Account:
    """A customer's account at one provider.

    Args:
        provider: The provider's name.
        key: The API key (made up: it opens nothing but this sandbox).
        credits: What is left to spend, in the provider's unit. If None, there is no limit.
        rate_limit: Status calls allowed in any 60 simulated seconds. If None, there is no limit.
        revoked: The key was withdrawn: every call with it is unauthorized.
        jitter: Simulated seconds by which the window of the rate limit is shorter (at most by half), so that a client
            which paces its calls exactly is not refused for the delays of a fast simulation.
    """

    provider: str
    key: str = field(repr=False)
    credits: Decimal | None = None
    rate_limit: int | None = None
    revoked: bool = False
    jitter: float = 0.0
    _refunds: list[tuple[float, Decimal]] = field(default_factory=list, repr=False)
    _polls: deque[float] = field(default_factory=deque, repr=False)

    def balance(self, now: float) -> Decimal | None:
        """Credits left, including refunds for failed jobs so far, or None if there is no limit."""
        while self._refunds and self._refunds[0][0] <= now:
            _, price = heapq.heappop(self._refunds)
            if self.credits is not None:
                self.credits += price
        return self.credits

    def charge(self, price: Decimal, refunded: float | None) -> None:
        """Subtract the price of a job. `refunded` is the moment at which it is given back, if it will be."""
        if self.credits is not None:
            self.credits -= price
        if refunded is not None:
            self.refund(price, refunded)

    def refund(self, price: Decimal, moment: float) -> None:
        """Give the price of a job back at that moment."""
        if self.credits is not None:
            heapq.heappush(self._refunds, (moment, price))

    def may_poll(self, now: float) -> bool:
        """Count one status call against the rate limit. Returns False if there were too many."""
        if self.rate_limit is None:
            return True
        while self._polls and self._polls[0] <= now - max(_WINDOW - self.jitter, _WINDOW / 2):
            self._polls.popleft()
        if len(self._polls) >= self.rate_limit:
            return False
        self._polls.append(now)
        return True

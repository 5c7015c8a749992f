"""Who pays: customers, their money and their ration of status calls."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal

_WINDOW = 60.0  # simulated seconds over which status calls are rationed


class OrderError(Exception):
    """The state does not sell this; each emulation answers it in its own words."""


class InsufficientCreditsError(OrderError):
    """The account cannot pay the price."""


@dataclass(slots=True)
class Account:
    """A customer of one provider, known by the API key.

    Args:
        provider: Whose customer.
        key: The API key (made up: it opens nothing but this sandbox).
        credits: What is left to spend in the provider's unit; None: unlimited.
        ration: Status calls allowed in any 60 simulated seconds; None: not rationed.
        revoked: The key was withdrawn: every call with it is unauthorized.
    """

    provider: str
    key: str = field(repr=False)
    credits: Decimal | None = None
    rate_limit: int | None = None
    revoked: bool = False
    _refunds: list[tuple[float, Decimal]] = field(default_factory=list, repr=False)
    _polls: deque[float] = field(default_factory=deque, repr=False)

    def balance(self, now: float) -> Decimal | None:
        """Credits left, what failed jobs gave back by now included; None: unlimited."""
        while self._refunds and self._refunds[0][0] <= now:
            _, price = heapq.heappop(self._refunds)
            if self.credits is not None:
                self.credits += price
        return self.credits

    def charge(self, price: Decimal, refunded: float | None) -> None:
        """Take the price of a job; `refunded` is the moment at which it comes back, if it will."""
        if self.credits is not None:
            self.credits -= price
            if refunded is not None:
                heapq.heappush(self._refunds, (refunded, price))

    def may_poll(self, now: float) -> bool:
        """Count one status call against the ration; False: too many."""
        if self.rate_limit is None:
            return True
        while self._polls and self._polls[0] <= now - _WINDOW:
            self._polls.popleft()
        if len(self._polls) >= self.rate_limit:
            return False
        self._polls.append(now)
        return True

"""What a request would cost, how long it would take, and how well its provider serves, endpoint by endpoint."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from kling_async._models import Cost
from kling_async.providers._base.request import Request

__all__ = ["PriceKind", "ProviderHealth", "Quote"]

PriceKind: TypeAlias = Literal["exact", "estimated", "unknown"]


@dataclass(frozen=True, slots=True)
class ProviderHealth:
    """What a client knows of how well a provider serves. Nothing is asked.

    Attributes:
        paused: Seconds until the next call may leave, because the provider said "not now". 0: at once.
        resting: Seconds for which portable requests pass it over, because it failed. 0: they do not.
        failures: Submissions that failed in the last ten minutes.
        reason: Why the last one failed. Empty if none did.
    """

    paused: float = 0.0
    resting: float = 0.0
    failures: int = 0
    reason: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing speaks against it."""
        return not (self.paused or self.resting or self.failures)


@dataclass(frozen=True, slots=True)
class Quote:
    """What one endpoint would make of a request.

    Attributes:
        endpoint: Its full name.
        model: The model by its common name, for a portable request. None for a provider's own request.
        request: The endpoint's own request, ready to submit. None if the endpoint cannot serve what is wanted.
        reason: Why not. Empty if it can.
        cost: The expected cost: the same figure as that of the budget and of ``client.estimate``. None if not known.
        price: ``"exact"`` (the documented price), ``"estimated"`` (no binding price is documented, or the provider took
            more than the documented one before) or ``"unknown"``.
        source: Where the price comes from.
        date: When it was read there.
        reserve: What a budget sets aside: the cost, or a careful guess where it is not sure.
        median: Seconds within which half of such jobs end.
        p90: Seconds within which nine of ten such jobs end.
        learned: Whether these are learned from jobs of this client or its ledger. Otherwise they are documented.
        health: How well the provider serves.
    """

    endpoint: str
    model: str | None = None
    request: Request | None = field(default=None, repr=False)
    reason: str = ""
    cost: Cost | None = None
    price: PriceKind = "unknown"
    source: str = ""
    date: dt.date | None = None
    reserve: Cost | None = None
    median: float | None = None
    p90: float | None = None
    learned: bool = False
    health: ProviderHealth = ProviderHealth()

    @property
    def available(self) -> bool:
        """Whether the endpoint can serve the request."""
        return self.request is not None

    @property
    def provider(self) -> str:
        """The provider's name."""
        return self.endpoint.partition("/")[0]

    @property
    def shown_cost(self) -> str:
        """The cost as text, such as ``about $0.42`` or ``unknown``."""
        if self.cost is None:
            return "unknown"
        return f"about {self.cost}" if self.price == "estimated" else str(self.cost)

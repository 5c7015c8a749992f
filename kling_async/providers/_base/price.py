"""What a request is expected to cost."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from kling_async._models import Cost

__all__ = ["Price"]


@dataclass(frozen=True, slots=True)
class Price:
    """What a request is expected to cost.

    Attributes:
        amount: How much.
        unit: ``"USD"`` or the provider's ``"credits"``.
        estimated: Whether it is only an estimate: the provider states no binding price for the request.
        source: Where the figure comes from.
        date: When it was read there.
    """

    amount: Decimal
    unit: Literal["USD", "credits"]
    estimated: bool = False
    source: str = ""
    date: dt.date | None = None

    @property
    def cost(self) -> Cost:
        """The price as an amount of money."""
        return Cost(self.amount, self.unit)

    def __str__(self) -> str:
        return f"about {self.cost}" if self.estimated else str(self.cost)

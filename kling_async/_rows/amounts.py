"""Amounts as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from kling_async import Cost

__all__ = ["amount_of", "as_json"]


def as_json(cost: Cost | None) -> dict[str, str] | None:
    """An amount as JSON values."""
    return {"amount": str(cost.amount), "unit": cost.unit} if cost else None


def amount_of(fields: Mapping[str, str] | None) -> Cost | None:
    """The amount that `as_json` wrote."""
    return Cost(Decimal(fields["amount"]), "credits" if fields["unit"] == "credits" else "USD") if fields else None

"""What is known of the price of a request."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, TypeAlias

from kling_async._errors import ConfigurationError
from kling_async._ledger.serialization import request_from_json
from kling_async._models import Cost, Status
from kling_async._records import record
from kling_async.providers import load_providers
from kling_async.providers._base.endpoint import Price
from kling_async.providers._base.provider import Provider
from kling_async.providers._base.request import Request

__all__ = [
    "NO_PRICE_FACTORS",
    "Amount",
    "PriceInfo",
    "Unit",
    "as_cost",
    "documented_price",
    "earlier_price",
    "price_info",
]


Unit: TypeAlias = Literal["USD", "credits"]
Amount: TypeAlias = Decimal | float | str
FALLBACK_PRICE: Mapping[Unit, Decimal] = {"USD": Decimal(1), "credits": Decimal(10)}
"""More than a single job is likely to cost."""
NO_PRICE_FACTORS = frozenset({"prompt", "negative_prompt", "callback_url"})
_ZERO = Decimal(0)
_MARGIN = 2  # estimates are last known prices, and prices change


@record
class PriceInfo:
    """What is known of a request's price before it is submitted.

    Attributes:
        endpoint: Its full name.
        settings: What the price may depend on: all fields except texts, and the number of reference images.
        unit: The unit of the price.
        price: The documented price. None if there is none.
        expected: An estimate of the price, where the provider documents none and reports it with the answer.
        refunds: Whether the provider refunds failed jobs.
    """

    endpoint: str
    settings: frozenset[tuple[str, str]]
    unit: Unit
    price: Decimal | None
    refunds: bool
    expected: Decimal | None = None

    @property
    def reserve(self) -> Decimal:
        """What is reserved while the price is not known: twice the estimate, or `FALLBACK_PRICE`."""
        return FALLBACK_PRICE[self.unit] if self.expected is None else self.expected * _MARGIN


def earlier_price(
    endpoint: str, described: Mapping[str, Any], cost: Cost | None, providers: Mapping[str, Provider]
) -> PriceInfo:
    """Return what is known of the price of a request in the ledger, also of one at a provider that is not in use.

    Args:
        endpoint: The endpoint's full name.
        described: The request as JSON values.
        cost: What the provider reported, if it did.
        providers: The client's providers, by name.
    """
    known: dict[str, Provider | type[Provider]] = {kind.name: kind for kind in load_providers()}
    provider = (known | dict(providers)).get(endpoint.partition("/")[0])
    endpoints = provider.endpoints if provider is not None else ()
    sold = next((one for one in endpoints if one.name == endpoint), None)
    if provider is None or sold is None:
        return PriceInfo(endpoint, _settings(described), cost.unit if cost else "USD", None, refunds=False)
    request = request_from_json(sold.request, described)
    price = sold.price(request) if request is not None else None
    return _info(endpoint, _settings(described), provider, price)


def price_info(provider: Provider, request: Request) -> PriceInfo:
    """Return what is known of a request's price.

    Args:
        provider: Where it goes.
        request: The request.
    """
    price = provider.endpoint(request.endpoint).price(request)
    return _info(request.endpoint, _settings(dict(request)), provider, price)


def documented_price(provider: Provider, request: Request) -> PriceInfo:
    """Return the same without the settings, for a client that learns no prices. They are most of the work."""
    return _info(request.endpoint, frozenset(), provider, provider.endpoint(request.endpoint).price(request))


def _info(
    endpoint: str,
    settings: frozenset[tuple[str, str]],
    provider: Provider | type[Provider],
    price: Price | None,
) -> PriceInfo:
    features = provider.features
    if price is None:
        return PriceInfo(endpoint, settings, features.cost_unit or "USD", None, features.refunds)
    if price.estimated and features.cost_unit is not None:  # the answer will report it
        return PriceInfo(endpoint, settings, price.unit, None, features.refunds, expected=price.amount)
    return PriceInfo(endpoint, settings, price.unit, price.amount, features.refunds)


def _settings(described: Mapping[str, Any]) -> frozenset[tuple[str, str]]:
    """Return the fields of a request that its price may depend on."""
    return frozenset(
        (name, str(_count(value) if name in {"reference", "references"} else value))
        for name, value in described.items()
        if name not in NO_PRICE_FACTORS and value is not None
    )


def _at_least(wanted: PriceInfo, status: Status | None, reported: Cost) -> Cost:
    """Return the least that a job costs. Before its end, the provider may report only a part."""
    ended = status is not None and status.terminal
    if ended or wanted.price is None or wanted.unit != reported.unit:
        return reported
    return Cost(max(reported.amount, wanted.price), reported.unit)


def _count(references: Any) -> int:
    return len(references) if isinstance(references, tuple | list) else 1


def as_cost(call: str, name: str, given: Amount | Cost, unit: Unit = "USD") -> Cost:
    """Return an amount that the user gave as a cost.

    Args:
        call: What the user called, for the message.
        name: The argument.
        given: The amount, or the cost itself.
        unit: The unit of a bare amount.

    Raises:
        ConfigurationError: It is no amount, or negative.
    """
    if isinstance(given, Cost):
        return Cost(_amount(name, given.amount, call), given.unit)
    return Cost(_amount(name, given, call), unit)


def _amount(name: str, given: Amount | None, call: str = "Budget") -> Decimal:
    try:
        amount = _ZERO if given is None else Decimal(str(given))
    except InvalidOperation:
        amount = Decimal("NaN")
    if amount.is_nan() or amount < 0:
        raise ConfigurationError(f"{call}({name}={given!r:.40}): it must be an amount, such as {call}({name}=5)")
    return amount

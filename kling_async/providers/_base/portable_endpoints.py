"""`Video` and `Image` as endpoints: with choices, times and prices, as every endpoint has them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import cache, lru_cache

from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async.providers import load_providers
from kling_async.providers._base.endpoint import Endpoint
from kling_async.providers._base.offers import options
from kling_async.providers._base.portable import Image, PortableRequest, Video
from kling_async.providers._base.price import Price
from kling_async.providers._base.provider import Provider

__all__ = ["portable_endpoints"]

_SECONDS: Mapping[type[PortableRequest], tuple[float, DurationPrior]] = {
    Video: (2100.0, DurationPrior(150.0, 0.4)),
    Image: (1200.0, DurationPrior(30.0, 0.5)),
}
"""Deadline, and the usual duration of a job whose request is not known."""


def portable_endpoints(makers: Iterable[type[Provider]] | None = None) -> dict[str, Endpoint[PortableRequest]]:
    """``video`` and ``image`` as endpoints. Price and duration of a request are those of the cheapest that makes it.

    Args:
        makers: The providers that may make them. Defaults to all.
    """
    return dict(_endpoints(None if makers is None else tuple(makers)))


@cache
def _endpoints(makers: tuple[type[Provider], ...] | None) -> Mapping[str, Endpoint[PortableRequest]]:
    return {kind.endpoint: _endpoint(kind, makers) for kind in _SECONDS}


def _endpoint(kind: type[PortableRequest], makers: tuple[type[Provider], ...] | None) -> Endpoint[PortableRequest]:
    deadline, unknown = _SECONDS[kind]

    @lru_cache(maxsize=1)  # price and duration of one request are asked for one after the other
    def cheapest(request: PortableRequest) -> tuple[DurationPrior, Price | None] | None:
        known = {each.name: each for maker in makers or load_providers() for each in maker.endpoints}
        found = [
            (known[option.endpoint].duration_prior(option.request), known[option.endpoint].price(option.request))
            for option in options(request, makers or load_providers())
            if option.request is not None
        ]
        return min(found, key=lambda one: _rank(*one), default=None)

    def duration(request: PortableRequest | None) -> DurationPrior:
        found = cheapest(request) if request is not None else None
        return unknown if found is None else found[0]

    def price(request: PortableRequest) -> Price | None:
        found = cheapest(request)
        return None if found is None else found[1]

    return Endpoint(
        kind, Progressive(5), deadline, duration, price=price, serves=lambda request: cheapest(request) is not None
    )


def _rank(prior: DurationPrior, price: Price | None) -> tuple[int, Decimal, float]:
    """The order of a client that prefers the cheapest. Credits cannot be compared with dollars."""
    if price is None:
        return 2, Decimal(0), prior.median
    return int(price.unit != "USD"), price.amount, prior.median

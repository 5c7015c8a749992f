"""Four providers that sell the same clip at different prices and speeds, over fake transports in virtual time.

Each speaks RunBlob's wire format at a host of its own. What is theirs is the name, the price, the speed and the fate of
what is sent to them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, ClassVar

import anyio
import httpx

from kling_async import RunBlob
from kling_async.providers.base import DurationPrior, Endpoint, Offer, Price, VideoOffer
from kling_async.providers.runblob import O3Video
from support.fake_runblob import KEY, FakeRunBlob, Generation

__all__ = ["FakeSeller", "Hosts", "seller"]


def seller(name: str, price: str | None, *, seconds: float = 60.0) -> RunBlob:
    """A provider of that name, which documents that price for a clip.

    Args:
        name: Its name, and the host of its address.
        price: In US dollars. If None, it documents none.
        seconds: How long its jobs usually take.
    """
    return _kind(name, price, seconds)(KEY, f"https://{name}.test")


@functools.cache
def _kind(name: str, price: str | None, seconds: float) -> type[RunBlob]:
    request = type("Clip", (O3Video,), {"endpoint": f"{name}/clip", "__module__": __name__})
    amount = None if price is None else Price(Decimal(price), "USD", source=f"{name}'s price list")
    offer = VideoOffer(
        request,
        "kling-3.0-omni",
        lambda wanted: {"duration": wanted.duration, "aspect_ratio": wanted.ratio},
        durations=(5, 10),
        resolutions=("720p",),
    )
    sold = dataclasses.replace(
        RunBlob.endpoints[0],
        request=request,
        price=lambda _: amount,
        duration_prior=lambda _: DurationPrior(seconds, 0.2),
    )

    class Seller(RunBlob):
        endpoints: ClassVar[tuple[Endpoint[Any], ...]] = (sold,)
        portable: ClassVar[Sequence[Offer]] = (offer,)
        features = dataclasses.replace(RunBlob.features, status_calls_per_minute=None)

    Seller.name, Seller.display_name = name, name.title()
    return Seller


class FakeSeller(FakeRunBlob):
    """A RunBlob with a price of its own.

    Attributes:
        price: What it takes for a job.
        fate: What becomes of a submission: ``"ok"``, ``"down"`` (nobody answers at the address), ``"lost"`` (the job is
            made, and the answer is lost), or the word of a refusal, such as ``"INSUFFICIENT_CREDITS"``.
        at_once: How many jobs it runs at once. It answers HTTP 429 to more.
    """

    def __init__(self, *, price: str = "0.15", duration: float = 60.0, latency: float = 0.05) -> None:
        super().__init__(duration=duration, latency=latency)
        self.price = price
        self.outcome = "ok"
        self.at_once: int | None = None
        self.refused = 0
        self._arriving = 0

    @property
    def running(self) -> int:
        return self._arriving + sum(
            anyio.current_time() - job.created < job.duration for job in self.generations.values()
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/generate"):
            return await super().handle_async_request(request)
        if self.outcome == "down":
            self.refused += 1
            raise httpx.ConnectError("nobody answers")
        if self.at_once is not None and self.running >= self.at_once:
            self.refused += 1
            return httpx.Response(429, json={"detail": "RATE_LIMIT_EXCEEDED"})
        if self.outcome not in {"ok", "lost"}:
            self.refused += 1
            return httpx.Response(400, json={"detail": self.outcome})
        self._arriving += 1
        try:
            answer = await super().handle_async_request(request)
        finally:
            self._arriving -= 1
        if self.outcome == "lost":
            raise httpx.ReadError("the connection broke")
        return answer

    def accept(self, kind: str, body: dict[str, object]) -> httpx.Response:
        answer = super().accept(kind, body)
        return httpx.Response(201, json=json.loads(answer.content) | {"price": self.price})

    def by_prompt(self) -> dict[object, list[Generation]]:
        """The jobs by what they show."""
        found: dict[object, list[Generation]] = {}
        for job in self.generations.values():
            found.setdefault(job.body["prompt"], []).append(job)
        return found


class Hosts(httpx.AsyncBaseTransport):
    """Passes each request to the fake at its host."""

    def __init__(self, **sellers: FakeSeller) -> None:
        self.sellers = sellers

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.sellers[request.url.host.partition(".")[0]].handle_async_request(request)

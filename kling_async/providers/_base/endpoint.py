"""What a provider sells, and what its API can do."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Generic, Literal, TypeVar

from kling_async._models import Cost, Status
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async.providers._base.request import Request

__all__ = ["Endpoint", "Features", "Price", "RequestT"]


RequestT = TypeVar("RequestT", bound=Request)


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


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[RequestT]):
    """One thing that a provider sells.

    Attributes:
        request: Its request class.
        schedule: When to poll a job, as the provider documents it.
        deadline: Seconds after which the client stops waiting for a job.
        duration_prior: The documented duration of a request's job. For None (an attached job, whose request is not
            known), the duration of the slowest request.
        variant: The settings that change the duration, as text. Durations are learned for each variant.
        price: The expected price of a request. None if nothing is known.
    """

    request: type[RequestT]
    schedule: Progressive
    deadline: float
    duration_prior: Callable[[RequestT | None], DurationPrior]
    variant: Callable[[RequestT], str] = field(default=lambda _: "")
    price: Callable[[RequestT], Price | None] = field(default=lambda _: None)

    @property
    def name(self) -> str:
        """Full name, ``provider/endpoint``."""
        return self.request.endpoint


@dataclass(frozen=True, slots=True)
class Features:
    """What a provider offers. The README's table is made from these.

    Attributes:
        webhook: Whether it sends a webhook when a job ends.
        stream: Whether it pushes a job's changes over an open connection.
        cancel: Whether a running job can be cancelled.
        batch: The number of jobs that one status call can ask about.
        lists_jobs: Whether it lists the account's jobs. Then a submission whose answer was lost can be searched for.
        client_chosen_id: Whether we choose the job's id. Then a submission whose answer was lost is recovered.
        client_id_lifetime: Seconds for which it surely recognises an id of ours. Few document it. An hour covers a
            retry.
        cost_unit: The unit of the costs that it reports. None if it reports none.
        status_calls_per_minute: Its limit on status calls over all jobs of a key. None if it states none.
        refunds: Whether it gives back the cost of a failed job.
    """

    webhook: bool = False
    stream: bool = False
    cancel: bool = False
    batch: int = 1
    lists_jobs: bool = False
    client_chosen_id: bool = False
    client_id_lifetime: float = 3600.0
    cost_unit: Literal["USD", "credits"] | None = None
    status_calls_per_minute: float | None = None
    refunds: bool = False

    def refunded(self, status: Status | None) -> bool:
        """Whether the cost of a job with that status was given back. None if there is no job."""
        return self.refunds and status is Status.FAILED

"""What a provider sells, and what its API can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from kling_async._models import Cost, Status
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async.providers._base.request import Request

__all__ = ["Endpoint", "Features", "RequestT"]


RequestT = TypeVar("RequestT", bound=Request)


@dataclass(frozen=True, slots=True)
class Endpoint(Generic[RequestT]):
    """One thing that a provider sells.

    Attributes:
        request: Its request class.
        schedule: When to look at a job, as the provider documents it.
        deadline: Seconds after which a job is given up, as documented.
        law: The law of durations that a request's job follows, from the documented times; of the slowest request
            where it is asked about None (a job that was attached).
        variant: What changes the duration, as text: jobs of one variant are learned from together.
        price: The documented price of a request; None where none is documented.
    """

    request: type[RequestT]
    schedule: Progressive
    deadline: float
    duration_prior: Callable[[RequestT | None], DurationPrior]
    variant: Callable[[RequestT], str] = field(default=lambda _: "")
    price: Callable[[RequestT], Cost | None] = field(default=lambda _: None)

    @property
    def name(self) -> str:
        """Full name, ``provider/endpoint``."""
        return self.request.endpoint


@dataclass(frozen=True, slots=True)
class Features:
    """What a provider offers; the README's table is made from these.

    Attributes:
        webhook: It calls back when a job ends.
        stream: It pushes a job's changes over an open connection.
        cancel: A running job can be cancelled.
        batch: How many jobs one status call can ask about.
        list: It lists the account's jobs, so that a submission whose answer was lost can be searched for.
        own_id: We choose the job's id, so that a submission whose answer was lost is recovered.
        cost: Unit of the costs it tells; None: it tells none.
        status_calls_per_minute: Its limit on status calls over all jobs of a key; None: none stated.
        refunds: It gives back what a failed job cost.
    """

    webhook: bool = False
    stream: bool = False
    cancel: bool = False
    batch: int = 1
    lists_jobs: bool = False
    client_chosen_id: bool = False
    cost_unit: Literal["USD", "credits"] | None = None
    status_calls_per_minute: float | None = None
    refunds: bool = False

    def refunded(self, status: Status | None) -> bool:
        """Whether it has given back what a job cost that stands there (None: there is no job)."""
        return self.refunds and status is Status.FAILED

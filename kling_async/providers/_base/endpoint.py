"""What a provider sells, and what its API can do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Generic, Literal, TypeVar

from pydantic import ValidationError

from kling_async._errors import ConfigurationError
from kling_async._models import Status
from kling_async._scheduling.schedules import DurationPrior, Progressive
from kling_async.providers._base.choices import Choice, ImageInput, choices_of, image_inputs, probe_of, values_of
from kling_async.providers._base.price import Price
from kling_async.providers._base.request import Request

__all__ = ["Choice", "Endpoint", "Features", "ImageInput", "Price", "RequestT"]


RequestT = TypeVar("RequestT", bound=Request)


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
        serves: Whether it can make a request that its class accepts. Only for `Video` and `Image` it may be false.
    """

    request: type[RequestT]
    schedule: Progressive
    deadline: float
    duration_prior: Callable[[RequestT | None], DurationPrior]
    variant: Callable[[RequestT], str] = field(default=lambda _: "")
    price: Callable[[RequestT], Price | None] = field(default=lambda _: None)
    serves: Callable[[RequestT], bool] = field(default=lambda _: True)

    @property
    def name(self) -> str:
        """Full name, ``provider/endpoint``."""
        return self.request.endpoint

    @property
    def images(self) -> tuple[ImageInput, ...]:
        """The fields that hold images: how many, which formats, how many bytes."""
        return image_inputs(self.request.model_fields, self.request.reference_fields)

    def choices(self, name: str, request: RequestT | Mapping[str, Any] | None = None) -> tuple[Choice, ...]:
        """The values of a field, each with label, hint, expected duration and price.

        Args:
            name: The field, such as ``"duration"``.
            request: What the other fields are: a request, or the fields that are given. Values that do not go with
                them are left out. Defaults to what the endpoint requires.

        Returns:
            Empty if any text or number will do.

        Raises:
            ConfigurationError: The endpoint has no such field.
        """
        kind = self.request
        if name not in kind.model_fields:
            raise ConfigurationError(f"{self.name} has no field {name!r:.60}; it has {', '.join(kind.model_fields)}")
        return self._choices(name, _schema(kind)["properties"][name], request)

    def all_choices(self, request: RequestT | Mapping[str, Any] | None = None) -> dict[str, tuple[Choice, ...]]:
        """The `choices` of every field that has any, by field.

        Args:
            request: What the other fields are: a request, or the fields that are given. Defaults to what the endpoint
                requires.
        """
        found = {
            name: self._choices(name, part, request)
            for name, part in _schema(self.request)["properties"].items()
            if name not in self.request.reference_fields
        }
        return {name: choices for name, choices in found.items() if choices}

    def _choices(
        self, name: str, schema: Mapping[str, Any], request: RequestT | Mapping[str, Any] | None
    ) -> tuple[Choice, ...]:
        kind = self.request
        given = dict(request) if request is not None else kind.example()
        candidates = [*kind.known_values(name), *values_of(schema)]
        if not candidates:
            return ()
        others = {field: value for field, value in given.items() if field != name}
        usual = _made(kind, others) or _made(kind, given)
        if usual is None:
            return choices_of(name, candidates, kind.labels.get(name, {}), None, schema.get("default"))
        default = getattr(usual, name)
        probe = probe_of(kind.model_validate, given, name, self._forecast)
        return choices_of(name, candidates, kind.labels.get(name, {}), probe, default)

    def _forecast(self, request: RequestT) -> tuple[DurationPrior, Price | None] | None:
        """Duration and price of a request. None if it is not made."""
        return (self.duration_prior(request), self.price(request)) if self.serves(request) else None

    def json_schema(self) -> dict[str, Any]:
        """The JSON schema of the request, with the `choices` of each field under ``x-choices``."""
        schema = copy.deepcopy(_schema(self.request))
        for name, found in self.all_choices().items():
            schema["properties"][name]["x-choices"] = [choice.describe() for choice in found]
        return schema


def _made(kind: type[RequestT], fields: Mapping[str, Any]) -> RequestT | None:
    """The request with these fields. None if it is not acceptable."""
    try:
        return kind.model_validate(fields)
    except ValidationError:
        return None


@cache
def _schema(kind: type[Request]) -> dict[str, Any]:
    """The JSON schema of a request class. Pydantic makes it anew each time, which takes 15 ms for a large one."""
    return kind.model_json_schema()


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

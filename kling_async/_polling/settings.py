"""When to poll jobs: the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kling_async._errors import ConfigurationError
from kling_async._scheduling.schedules import Schedule

__all__ = ["Polling"]


@dataclass(frozen=True, slots=True)
class Polling:
    """When to look at jobs.

    Attributes:
        schedule: The times of the looks. ``Learned(lag_per_look=0.5)`` looks when the lag expected since the last look
            is worth a look, here half a second; it starts from the times that the provider documents and learns from
            each job that ends. ``Progressive(5, 5, 10, 15)`` looks after those intervals, the last repeated.
            ``"documented"``: the intervals that the provider documents for the endpoint. None: ``Learned()``.
        deadline: Seconds after submission at which waiting for a job ends with `GenerationTimeout`. None: the
            endpoint's own.
        status_calls_per_minute: Ration of status calls over all jobs of one provider. None: the provider's own, if it
            states one; ``math.inf``: no ration.
    """

    schedule: Schedule | Literal["documented"] | None = None
    deadline: float | None = None
    status_calls_per_minute: float | None = None

    def __post_init__(self) -> None:
        for name in ("deadline", "status_calls_per_minute"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ConfigurationError(f"Polling({name}={value!r}): it must be a number greater than 0")
        usable = self.schedule in (None, "documented") or hasattr(self.schedule, "timer")
        if not usable or isinstance(self.schedule, type):
            raise ConfigurationError(
                f"Polling(schedule={self.schedule!r:.80}): it must be Learned(), Progressive(5, 5, 10, 15) or the "
                'like, "documented", or None'
            )

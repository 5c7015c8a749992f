"""When to poll jobs: the settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from kling_async._errors import ConfigurationError
from kling_async._scheduling.schedules import Schedule

__all__ = ["Polling"]


@dataclass(frozen=True, slots=True)
class Polling:
    """When to poll jobs.

    Attributes:
        schedule: When each job is polled. ``Learned(lag_per_poll=0.5)`` polls when the expected lag since the last poll
            is worth a poll, here half a second. It starts from the durations that the provider documents and learns
            from each job that ends. ``Progressive(5, 5, 10, 15)`` polls after those intervals, and the last one
            repeats. ``"documented"`` stands for the intervals that the provider documents for the endpoint. Defaults to
            ``Learned()``.
        deadline: Seconds after submission at which waiting for a job ends with `GenerationTimeout`. Defaults to the
            endpoint's own.
        status_calls_per_minute: The limit on status calls over all jobs of one provider. Defaults to the limit that the
            provider states, if it states one. With ``math.inf`` there is no limit.
        share: The part of that limit that this client may use, where several clients share an account: 0.25 for one of
            four.
    """

    schedule: Schedule | Literal["documented"] | None = None
    deadline: float | None = None
    status_calls_per_minute: float | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        for name in ("deadline", "status_calls_per_minute"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ConfigurationError(f"Polling({name}={value!r}): it must be a number greater than 0")
        share: Any = self.share
        if not (isinstance(share, int | float) and 0 < share <= 1):
            raise ConfigurationError(f"Polling(share={self.share!r}): it must be a number greater than 0, at most 1")
        if self.deadline == math.inf:
            raise ConfigurationError(
                "Polling(deadline=inf): waiting for a job must end at some time; pass a large number of seconds, such "
                "as 86400 for a day"
            )
        usable = self.schedule in (None, "documented") or hasattr(self.schedule, "timer")
        if not usable or isinstance(self.schedule, type):
            raise ConfigurationError(
                f"Polling(schedule={self.schedule!r:.80}): it must be Learned(), Progressive(5, 5, 10, 15) or the "
                'like, "documented", or None'
            )

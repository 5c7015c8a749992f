"""Bounds on connections, sizes, times and attempts."""

from __future__ import annotations

from dataclasses import dataclass

from kling_async._errors import ConfigurationError

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what one client does to one provider.

    Attributes:
        connections: Most open connections per provider. It does not bound jobs: 100 connections serve 10 000 jobs.
        keepalive: Seconds for which an idle connection is kept. It is longer than the longest interval between polls.
        paid_max_idle: Most seconds for which a connection may have idled before it carries a paid call. A server that
            drops idle connections would make the outcome of the call unknown.
        connect: Seconds to connect, TLS included.
        call: Seconds from sending a call to the last byte of its answer. Large uploads get more.
        max_attempts: How often a call that fails is made at most, the first time included.
        throttle_timeout: Seconds for which a call waits and tries again while the provider throttles.
        slot_timeout: Seconds without one free slot after which a submission that waits for one gives up.
        retry_budget: Retries of READ calls to one provider beyond one retry for every ten successes.
        cancel_grace: Seconds for which a paid call that was sent is waited for when its task is cancelled.
        poll_failure_timeout: Seconds without one successful poll after which waiting for a job raises the last error.
    """

    connections: int = 100
    keepalive: float = 65.0
    paid_max_idle: float = 1.5
    connect: float = 10.0
    call: float = 60.0
    max_attempts: int = 4
    throttle_timeout: float = 300.0
    slot_timeout: float = 900.0
    retry_budget: int = 100
    cancel_grace: float = 5.0
    poll_failure_timeout: float = 180.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            counted = name in {"connections", "max_attempts"}
            kind, smallest = (int, 1) if counted else (int | float, 0)
            if not (isinstance(value, kind) and value >= smallest):
                number = "whole number" if counted else "number"
                raise ConfigurationError(f"Limits({name}={value!r}): it must be a {number}, at least {smallest}")

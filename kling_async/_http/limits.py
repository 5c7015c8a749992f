"""Bounds on connections, sizes, times and attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kling_async._errors import ConfigurationError

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what one client does to one provider.

    Attributes:
        connections: Most open connections per provider. It does not bound jobs: 100 connections serve 10 000 jobs.
        concurrency: How many jobs may run at once at a provider's account: a number for each account, or numbers by
            provider, such as ``{"fal": 40, "kling": 5}``. Further submissions wait for a free slot before anything is
            sent. With a ledger that processes share, the jobs of all of them count. If None, there is no limit.
        keepalive: Seconds for which an idle connection is kept. It is longer than the longest interval between polls.
        paid_max_idle: Most seconds for which a connection may have idled before it carries a paid call. A server that
            drops idle connections would make the outcome of the call unknown.
        connect: Seconds to connect, TLS included.
        call: Seconds from sending a call to the last byte of its answer. Large uploads get more.
        max_attempts: How often a call that fails is made at most, the first time included.
        throttle_timeout: Seconds for which a call waits and tries again while the provider throttles.
        slot_timeout: Seconds without one free slot after which a submission that waits for one gives up, whether the
            provider has none or `concurrency` allows none.
        retry_budget: Retries of READ calls to one provider beyond one retry for every ten successes.
        cancel_grace: Seconds to wait for the answer to a sent paid call whose task is cancelled. If 0, it ends at once.
        poll_failure_timeout: Seconds without one successful poll after which waiting for a job raises the last error.
    """

    connections: int = 100
    concurrency: int | Mapping[str, int] | None = field(default=None, hash=False, kw_only=True)
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
        self._check_concurrency()
        for name in self.__dataclass_fields__.keys() - {"concurrency"}:
            value = getattr(self, name)
            counted = name in {"connections", "max_attempts"}
            kind, smallest = (int, 1) if counted else (int | float, 0)
            if not (isinstance(value, kind) and value >= smallest):
                number = "whole number" if counted else "number"
                raise ConfigurationError(f"Limits({name}={value!r}): it must be a {number}, at least {smallest}")

    def _check_concurrency(self) -> None:
        anything: Any = self.concurrency  # the user's value, of any type
        if anything is None:
            return
        if isinstance(anything, Mapping):
            object.__setattr__(self, "concurrency", dict(anything))  # the user's own may change
        numbers = list(anything.values()) if isinstance(anything, Mapping) else [anything]
        if not all(isinstance(each, int) and not isinstance(each, bool) and each >= 1 for each in numbers):
            raise ConfigurationError(
                f"Limits(concurrency={anything!r:.200}): it must be a whole number, at least 1, or such numbers by "
                'provider: {"fal": 40, "kling": 5}'
            )

    def concurrency_at(self, provider: str) -> int | None:
        """How many jobs may run at once at the account of a provider. None if there is no limit."""
        if isinstance(self.concurrency, Mapping):
            return self.concurrency.get(provider)
        return self.concurrency

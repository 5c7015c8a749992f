"""Reads along with what a provider answers. A provider's operations are flows, so each reply passes through here."""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass
from time import monotonic
from time import time as now
from typing import Any

from kling_async.providers.base import Call, Flow, Provider, Reply

__all__ = ["Exchange", "tapped"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call and its reply.

    Attributes:
        operation: ``submit`` or ``poll``.
        call: What was sent.
        reply: What was answered.
        seconds: How long the answer took.
        at: When it came, in POSIX seconds.
    """

    operation: str
    call: Call
    reply: Reply
    seconds: float
    at: float


def tapped(provider: Provider, log: list[Exchange]) -> Provider:
    """The same provider, whose exchanges are added to `log`. It polls, also where the provider has a stream."""
    kind: Any = type(provider)

    class Tapped(kind):  # type: ignore[misc]  # of whichever provider it is
        def submit(self, *arguments: Any) -> Flow[Any]:
            return _tap("submit", super().submit(*arguments), log)

        def poll(self, *arguments: Any) -> Flow[Any]:
            return _tap("poll", super().poll(*arguments), log)

        def stream(self, ref: Any) -> None:
            del ref

    Tapped.__name__ = Tapped.__qualname__ = kind.__name__
    found = copy.copy(provider)
    found.__class__ = Tapped
    return found


def _tap(operation: str, flow: Flow[Any], log: list[Exchange]) -> Generator[Call, Reply, Any]:
    try:
        call = next(flow)
        while True:
            started = monotonic()
            try:
                reply = yield call
            except Exception as error:  # noqa: BLE001  # it is the flow's to answer
                call = flow.throw(error)
                continue
            log.append(Exchange(operation, call, reply, monotonic() - started, now()))
            call = flow.send(reply)
    except StopIteration as end:
        return end.value
    finally:
        flow.close()

"""Whether a paid request was sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kling_async._exchange import Effect

__all__ = ["PaidCallTrace"]


@dataclass(slots=True)
class PaidCallTrace:
    """How far the paid call of a flow got. httpcore reports its steps to it; other engines report none.

    Attributes:
        paid: A paid call was begun.
        lost: The answer to an attempt was lost. What came of later ones, under the same id, does not undo that.
        maybe_sent: Part of it may have been written. False only on evidence: steps were seen, and none wrote.
        on_commit: Notified when giving up would lose something (True) and when it would not (False).
        may_repeat: Asked before a paid call whose answer was lost is repeated: whether the provider surely still
            recognises its id.
    """

    paid: bool = False
    lost: bool = False
    on_commit: Callable[[bool], None] = lambda _: None
    may_repeat: Callable[[], bool] = lambda: True
    _steps: int = 0
    _written: bool = False

    @property
    def may_have_been_sent(self) -> bool:
        return self.lost or (self.paid and (self._written or not self._steps))

    def begin(self, effect: Effect) -> None:
        """A call of that effect is about to be made."""
        self.paid = effect is Effect.PAID
        self._steps, self._written = 0, False
        self.on_commit(self.paid or self.lost)

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        del info
        self._steps += 1
        self._written = self._written or ".send_" in event


_NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})
_PLAIN_SPEAKERS = frozenset(
    {"httpx", "httpcore", "httpx2", "httpcore2", "anyio", "trio", "asyncio", "builtins", "socket", "ssl", "respx"}
)


def was_never_sent(error: Exception) -> bool:
    """Whether the error says that no connection was had. Told by its name, which all engines share.

    Engines built on another library translate its errors, and not always well: httpx-aiohttp 0.2 calls a connection
    that was reset a connection that was never made. So a translated error is believed only for what it was before.
    """
    named = any(kind.__name__ in _NEVER_SENT for kind in type(error).__mro__)
    origins: list[BaseException] = []
    origin = error.__cause__ or error.__context__
    while origin is not None and origin not in origins:
        origins.append(origin)
        origin = origin.__cause__ or origin.__context__
    foreign = [origin for origin in origins if type(origin).__module__.partition(".")[0] not in _PLAIN_SPEAKERS]
    return named and all(any(kind.__name__ == "ClientConnectorError" for kind in type(o).__mro__) for o in foreign)

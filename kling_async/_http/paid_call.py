"""How far a paid call got."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kling_async._event_loop.patience import Patience
from kling_async._exchange.calls import Effect

__all__ = ["PaidCallTrace", "SentTwiceError"]


class SentTwiceError(Exception):
    """A backend tried to send a paid call a second time by itself. The second time was prevented."""


@dataclass(slots=True, eq=False, repr=False)
class PaidCallTrace:
    """How far the paid call of a flow got. Our pool and httpcore report its steps to it. Other backends report none.

    Attributes:
        paid: A paid call was begun.
        lost: The answer to an attempt was lost. What came of later ones, under the same id, does not undo that.
        on_commit: Called with True when giving up would lose something, and with False when it would not.
        may_send: Called before a paid call begins, and before its first byte is written. It raises if it must not.
        may_repeat: Asked before a paid call whose answer was lost is repeated: whether the provider surely still
            recognises its id.
        may_wait: Whether the call waits while the provider says "not now" or has no free slot. Otherwise it is refused.
        patience: May be given up while nothing was sent. None if nobody gives up.
    """

    paid: bool = False
    lost: bool = False
    on_commit: Callable[[bool], None] = lambda _: None
    may_send: Callable[[], None] = lambda: None
    may_repeat: Callable[[], bool] = lambda: True
    may_wait: bool = True
    patience: Patience | None = None
    _steps: int = 0
    _written: bool = False

    @property
    def may_have_been_sent(self) -> bool:
        """Whether part of it may have been written. False only on evidence: steps were reported, and none wrote."""
        return self.lost or (self.paid and (self._written or not self._steps))

    def begin(self, effect: Effect) -> None:
        """A call of that effect is about to be made."""
        if effect is Effect.PAID:
            self._require_may_send()
        self.paid = effect is Effect.PAID
        self._steps, self._written = 0, False
        committed = self.paid or self.lost
        self.on_commit(committed)
        if self.patience is not None:
            self.patience.note_sent(maybe=committed)

    def _require_may_send(self) -> None:
        """Make sure that the paid call may be sent now.

        Raises:
            KlingError: It may not. Nothing was sent.
        """
        if self.patience is not None and not self.lost:
            self.patience.require()
        self.may_send()

    def end(self) -> None:
        """Let go of those who are called, and refer to the trace: else the job waits for the garbage collector."""
        self.on_commit, self.may_send, self.may_repeat = _DONE.on_commit, _DONE.may_send, _DONE.may_repeat

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        """Record a step, as httpcore names it.

        Raises:
            SentTwiceError: The request is about to be written a second time: by a transport of the user's that retries.
        """
        self._steps += 1
        # What a proxy is asked for before it passes anything on is no part of the call.
        if ".send_" not in event or getattr(info.get("request"), "method", None) == b"CONNECT":
            return
        if self.paid and self._written and event.endswith(".send_request_headers.started"):
            raise SentTwiceError("a paid call was about to be sent a second time by the transport given as http")
        self._write()

    def send_whole(self) -> None:
        """Record that the call is written in one step, right after this (`ConnectionPool.exchange`).

        Raises:
            KlingError: It must not be sent any more. Nothing was.
        """
        self._steps += 1
        self._write()

    def _write(self) -> None:
        if self.paid and not self._written:
            self._require_may_send()
        self._written = True


_DONE = PaidCallTrace()

"""What the strict servers share: refusals, lost answers, a clock that a test can advance."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

How = Literal["drop", "500", "502", "504"]


class Refusal(Exception):
    """The answer of a server that refuses a request."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status}: {body}")
        self.response = JSONResponse(body, status, dict(headers or {}))


@dataclass(frozen=True)
class Delivery:
    """One webhook, signed, ready to be sent. Send it twice to test duplicates."""

    url: str
    headers: dict[str, str]
    body: bytes


@dataclass
class _Throttle:
    times: int
    retry_after: float
    kind: str | None


@dataclass
class StrictServer:
    """An ASGI app that judges its client.

    Attributes:
        key: The only key that the server accepts.
        violations: What the client did that the facts do not allow, in sentences.
        left_to_default: Inputs that change the price and that the client left to the seller's default.
        unchecked: Models that exist and whose fields no source names.
        duplicates: Ids of accepted submits whose model and input equal those of an earlier one.
        requests: How many requests of each kind arrived.
        connection_lost: Makes the exception that stands for a dropped connection where there is no socket.
    """

    key: str = "made-up-key"
    violations: list[str] = field(default_factory=list)
    left_to_default: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    connection_lost: Callable[[], Exception] = lambda: ConnectionResetError("the strict server dropped the connection")
    _ahead: float = 0.0
    _losses: deque[tuple[bool, How]] = field(default_factory=deque)
    _throttles: list[_Throttle] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            self.violations.append(f"the client opened a {scope['type']}; this API is plain HTTP")
            return
        request = Request(scope, receive)
        try:
            response = await self.answer(request)
        except Refusal as refusal:
            response = refusal.response
        if response is None:
            await self._drop(receive, send)
            return
        await response(scope, receive, send)

    async def answer(self, request: Request) -> Response | None:
        """Answer a request. None drops the connection."""
        raise NotImplementedError

    @property
    def now(self) -> float:
        """The server's clock, in Unix seconds."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        """Move the server's clock forward."""
        self._ahead += seconds

    def lose_next_answer(self, accept: bool, how: How = "drop") -> None:
        """Lose the next submit's answer: accept the job or not, then drop the connection or answer 500, 502, 504."""
        self._losses.append((accept, how))

    def throttle(self, times: int = 1, retry_after: float = 1, kind: str | None = None) -> None:
        """Answer 429 with Retry-After to the next requests. If `kind` is None, to requests of every kind."""
        self._throttles.append(_Throttle(times, retry_after, kind))

    def violate(self, sentence: str) -> None:
        """Record what the client did and the facts do not allow."""
        self.violations.append(sentence)

    def next_loss(self) -> tuple[bool, How] | None:
        """What happens to the answer of this submit."""
        return self._losses.popleft() if self._losses else None

    def throttled(self, kind: str) -> str | None:
        """The value of Retry-After, if a request of this kind is to be refused now."""
        for entry in self._throttles:
            if entry.times > 0 and entry.kind in {None, kind}:
                entry.times -= 1
                return f"{entry.retry_after:g}"
        return None

    async def _drop(self, receive: Receive, send: Send) -> None:
        transport = getattr(getattr(send, "__self__", None), "transport", None)
        if transport is None:  # no socket: the test runs the app in its own process
            raise self.connection_lost()
        transport.abort()
        while (await receive())["type"] != "http.disconnect":
            pass


def lost_answer(how: How, text: str) -> Response | None:
    """The answer that a client sees in place of the lost one. None: the connection drops."""
    return None if how == "drop" else Response(text, int(how), media_type="text/html")


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return

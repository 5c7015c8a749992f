"""What the strict servers share: field checks, refusals, lost answers, a clock that a test can advance."""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

How = Literal["drop", "500", "502", "504"]
Rule = Callable[[Mapping[str, Any]], str | None]


@dataclass(frozen=True)
class Field:
    """One field of a body: its type, its values, and whether its absence leaves the price to the seller.

    Attributes:
        fields: The fields of the object, or of each object in the list.
        check: Returns what is wrong with a value of the right type, to be read after the field's name.
    """

    kind: str
    required: bool = False
    values: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    most: int | None = None
    money: bool = False
    fields: Mapping[str, "Field"] | None = None
    check: Callable[[Any], str | None] | None = None

    def problems(self, name: str, value: Any) -> list[str]:
        """What is wrong with a value, in sentences."""
        if not _KINDS[self.kind](value):
            return [f"{name} must be {self.kind}, not {type(value).__name__} {str(value)[:40]!r}"]
        found = []
        if self.values and value not in self.values:
            found.append(f"{name} is {value!r}, which is not one of {list(self.values)}")
        if self.low is not None and isinstance(value, int | float) and value < self.low:
            found.append(f"{name} is {value!r}, less than {self.low}")
        if self.high is not None and isinstance(value, int | float) and value > self.high:
            found.append(f"{name} is {value!r}, more than {self.high}")
        if self.most is not None and isinstance(value, list) and len(value) > self.most:
            found.append(f"{name} has {len(value)} items, more than {self.most}")
        if self.check is not None and (complaint := self.check(value)) is not None:
            found.append(f"{name} {complaint}")
        if self.fields is not None and isinstance(value, dict):
            found += problems_of(value, self.fields, (), f"{name}.")
        elif self.fields is not None:
            for number, item in enumerate(value):
                found += problems_of(item, self.fields, (), f"{name}[{number}].")
        return found


def _is_url(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    parts = urlsplit(value)
    return (parts.scheme in {"http", "https"} and bool(parts.netloc)) or (parts.scheme == "data" and "," in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "a string": lambda value: isinstance(value, str),
    "a text that is not empty": lambda value: isinstance(value, str) and bool(value.strip()),
    "a boolean": lambda value: isinstance(value, bool),
    "an integer": _is_integer,
    "a number": _is_number,
    "a string or an integer": lambda value: isinstance(value, str) or _is_integer(value),
    "a URL or data URI": _is_url,
    "a list of URLs": lambda value: isinstance(value, list) and all(map(_is_url, value)),
    "a list of strings": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "an object": lambda value: isinstance(value, dict),
    "a list": lambda value: isinstance(value, list),
    "a list of objects": lambda value: isinstance(value, list) and all(isinstance(item, dict) for item in value),
}


@dataclass(frozen=True)
class Model:
    """The body of one model: its fields and the rules between them. If `fields` is None, no source names them."""

    fields: Mapping[str, Field] | None
    rules: Sequence[Rule] = ()


def problems_of(
    body: Mapping[str, Any], fields: Mapping[str, Field], rules: Sequence[Rule], where: str = ""
) -> list[str]:
    """Everything in a body that the facts do not allow."""
    found = [f"{where}{name} is not a field of this model" for name in body if name not in fields]
    for name, known in fields.items():
        if name not in body:
            if known.required:
                found.append(f"{where}{name} is required and absent")
        else:
            found += known.problems(where + name, body[name])
    if not found:
        found += [problem for rule in rules if (problem := rule(body)) is not None]
    return found


def exactly_one(*names: str) -> Rule:
    """A rule: one of the fields, and no other of them."""

    def rule(body: Mapping[str, Any]) -> str | None:
        given = [name for name in names if name in body]
        return None if len(given) == 1 else f"exactly one of {', '.join(names)} must be given, not {given}"

    return rule


def at_least_one(*names: str) -> Rule:
    """A rule: one of the fields or more."""

    def rule(body: Mapping[str, Any]) -> str | None:
        return None if any(name in body for name in names) else f"one of {', '.join(names)} must be given"

    return rule


def together_at_most(most: int, *names: str) -> Rule:
    """A rule: the lists together have at most so many items."""

    def rule(body: Mapping[str, Any]) -> str | None:
        count = sum(len(body.get(name, ())) for name in names)
        return None if count <= most else f"{' and '.join(names)} have {count} items together, more than {most}"

    return rule


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

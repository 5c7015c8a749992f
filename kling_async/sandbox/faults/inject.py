"""Carries out a fault on one exchange of request and answer."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, Response, StreamingResponse

from kling_async.sandbox.faults.catalog import Fault, Rule
from kling_async.sandbox.providers.emulation import reply
from kling_async.sandbox.server.protocol import connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

_RETRY_AFTER = 2.0  # s, when the rule names none
_DRIP = 1.0  # s between two bytes, when the rule names none
_DELAY = 5.0  # s, when the rule names none
_HUGE_BODY = 64 * 1024 * 1024  # bytes, when the rule names none
_HUGE_HEADER = 256 * 1024  # bytes, when the rule names none
_BLOCK = b" " * 65536
_PAGE = "<!doctype html><html><head><title>{0}</title></head><body><h1>{0}</h1><hr>gateway</body></html>\n"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request, and what would be answered if all went well.

    Args:
        request: What was asked.
        answer: Carries the request out.
        error_body: The provider's own JSON for a status, with a wait in it or not.
        expire: Kills the addresses of the job whose file is asked for.
    """

    request: Request
    answer: Callable[[], Awaitable[Response]]
    error_body: Callable[[int, float | None], Any]
    expire: Callable[[], None]


async def inject(rule: Rule, exchange: Exchange) -> Response:
    """Answer an exchange as the fault wants it."""
    return await _FAULTS[rule.fault](rule, exchange)


class _Nothing(Response):
    """No answer at all: the connection is gone or going."""

    async def __call__(self, _scope: Scope, receive: Receive, _send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass


class _CutOff(Response):
    """The beginning of a response under the headers of the whole, and then the end of the connection."""

    def __init__(self, whole: Response, beginning: bytes, request: Request) -> None:
        super().__init__(beginning, whole.status_code)
        self.raw_headers = whole.raw_headers
        self._request = request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        connection(self._request).hang_up()
        await _Nothing()(scope, receive, send)


async def _reset_before_reading(_: Rule, exchange: Exchange) -> Response:
    connection(exchange.request).reset()
    return _Nothing()


async def _accept_then_reset(_: Rule, exchange: Exchange) -> Response:
    await exchange.answer()
    connection(exchange.request).reset()
    return _Nothing()


async def _refuse(rule: Rule, exchange: Exchange) -> Response:
    if rule.accepted:
        await exchange.answer()
    status = rule.status or _STATUS[rule.fault]
    wait = _RETRY_AFTER if rule.seconds is None else rule.seconds
    headers = {}
    if rule.fault is not Fault.server_error:
        if rule.hint == "seconds":
            headers["retry-after"] = str(math.ceil(wait))
        elif rule.hint == "date":
            moment = datetime.now(tz=UTC) + timedelta(seconds=math.ceil(wait))
            headers["retry-after"] = format_datetime(moment, usegmt=True)
        elif rule.hint == "unreadable":
            headers["retry-after"] = "a little while"
    if rule.bare:
        return HTMLResponse(_PAGE.format(f"{status} {HTTPStatus(status).phrase}"), status, headers)
    in_body = rule.hint == "body" and rule.fault is not Fault.server_error
    return reply(exchange.error_body(status, wait if in_body else None), status, headers)


async def _truncate(_: Rule, exchange: Exchange) -> Response:
    whole = await exchange.answer()
    content = await _content(whole)
    return Response(content[: len(content) // 2], whole.status_code, media_type=whole.media_type)


async def _cut_off(_: Rule, exchange: Exchange) -> Response:
    whole = await exchange.answer()
    if isinstance(whole, StreamingResponse):
        beginning = await anext(_pieces(whole), b"")
    else:
        beginning = bytes(whole.body)[: len(whole.body) // 2]
    return _CutOff(whole, beginning, exchange.request)


async def _html(_: Rule, exchange: Exchange) -> Response:
    await exchange.answer()
    return HTMLResponse(_PAGE.format("Please sign in to the network"))


async def _empty_json(_: Rule, exchange: Exchange) -> Response:
    return reply({}, (await exchange.answer()).status_code)


async def _wrong_types(_: Rule, exchange: Exchange) -> Response:
    return await _rewritten(await exchange.answer(), _of_wrong_type)


async def _unknown_status(_: Rule, exchange: Exchange) -> Response:
    return await _rewritten(await exchange.answer(), _of_unknown_status)


async def _drip(rule: Rule, exchange: Exchange) -> Response:
    whole = await exchange.answer()
    content = await _content(whole)
    pause = _DRIP if rule.seconds is None else rule.seconds

    async def drops() -> AsyncIterator[bytes]:
        for byte in content:
            await asyncio.sleep(pause)
            yield bytes([byte])

    headers = {"content-length": str(len(content))}
    return StreamingResponse(drops(), whole.status_code, headers, whole.media_type)


async def _delay(rule: Rule, exchange: Exchange) -> Response:
    whole = await exchange.answer()
    await asyncio.sleep(_DELAY if rule.seconds is None else rule.seconds)
    return whole


async def _huge_body(rule: Rule, exchange: Exchange) -> Response:
    whole = await exchange.answer()
    size = rule.size or _HUGE_BODY

    async def flood() -> AsyncIterator[bytes]:
        for _ in range(size // len(_BLOCK)):
            yield _BLOCK
        yield await _content(whole)

    return StreamingResponse(flood(), whole.status_code, media_type=whole.media_type)


async def _huge_headers(rule: Rule, exchange: Exchange) -> Response:
    whole = await exchange.answer()
    whole.headers["x-padding"] = "x" * (rule.size or _HUGE_HEADER)
    return whole


async def _wrong_content(_: Rule, exchange: Exchange) -> Response:
    whole = await exchange.answer()
    return Response(_PAGE.format("Not what you wanted"), 200, media_type=whole.media_type)


async def _empty_file(_: Rule, exchange: Exchange) -> Response:
    return Response(b"", 200, media_type=(await exchange.answer()).media_type)


async def _expired(rule: Rule, exchange: Exchange) -> Response:
    exchange.expire()
    status = rule.status or HTTPStatus.FORBIDDEN
    return Response("<Error><Code>AccessDenied</Code></Error>", status, media_type="application/xml")


_STATUS = MappingProxyType({Fault.rate_limited: 429, Fault.unavailable: 503, Fault.server_error: 500})

_FAULTS: MappingProxyType[Fault, Callable[[Rule, Exchange], Awaitable[Response]]] = MappingProxyType(
    {
        Fault.reset_before_reading: _reset_before_reading,
        Fault.accept_then_reset: _accept_then_reset,
        Fault.rate_limited: _refuse,
        Fault.unavailable: _refuse,
        Fault.server_error: _refuse,
        Fault.truncated_json: _truncate,
        Fault.cut_off: _cut_off,
        Fault.html: _html,
        Fault.empty_json: _empty_json,
        Fault.wrong_types: _wrong_types,
        Fault.unknown_status: _unknown_status,
        Fault.drip: _drip,
        Fault.delay: _delay,
        Fault.huge_body: _huge_body,
        Fault.huge_headers: _huge_headers,
        Fault.wrong_content: _wrong_content,
        Fault.empty_file: _empty_file,
        Fault.short_file: _cut_off,
        Fault.expired: _expired,
    }
)


async def _pieces(stream: StreamingResponse) -> AsyncIterator[bytes]:
    async for piece in stream.body_iterator:
        yield piece.encode() if isinstance(piece, str) else bytes(piece)


async def _content(whole: Response) -> bytes:
    """The body. For a stream, everything it sends until it ends."""
    if isinstance(whole, StreamingResponse):
        return b"".join([piece async for piece in _pieces(whole)])
    return bytes(whole.body)


async def _rewritten(whole: Response, change: Callable[[Any], Any]) -> Response:
    """The answer with its JSON changed: of a stream, that of every line as it comes. What is no JSON stays as it is."""
    if isinstance(whole, StreamingResponse):
        lines = (_rewritten_lines(piece, change) async for piece in _pieces(whole))
        return StreamingResponse(lines, whole.status_code, media_type=whole.media_type)
    if whole.media_type != "application/json":
        return whole
    return reply(change(json.loads(bytes(whole.body))), whole.status_code)


def _rewritten_lines(piece: bytes, change: Callable[[Any], Any]) -> bytes:
    """Whole lines of a stream, each bare JSON or a field of a server-sent event."""

    def rewritten(line: str) -> str:
        prefix, brace, rest = line.partition("{")
        return prefix + json.dumps(change(json.loads(brace + rest)), separators=(",", ":")) if brace else line

    return "\n".join(map(rewritten, piece.decode().split("\n"))).encode()


def _of_wrong_type(value: Any) -> Any:
    """The same shape, with every text and number of the other type."""
    if isinstance(value, dict):
        return {name: _of_wrong_type(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_of_wrong_type(inner) for inner in value]
    return 12345 if isinstance(value, str) else "12345"


def _of_unknown_status(value: Any) -> Any:
    """The same, with an unknown status: a word for words, a number for numbers."""
    if isinstance(value, list):
        return [_of_unknown_status(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    changed = {name: _of_unknown_status(inner) for name, inner in value.items()}
    for name in {"status", "status_text"} & changed.keys():
        changed[name] = "reticulating" if isinstance(value[name], str) else 99
    return changed

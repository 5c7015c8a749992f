"""The table of errors: what each says about whether a request was sent."""

from __future__ import annotations

import errno
import socket
import ssl

import anyio
import httpcore
import httpx
import pytest

from kling_async._http.connection_pool import PoolClosed
from kling_async._http.failures import _BY_NAME, Sent, was_sent
from kling_async._http.paid_call import PaidCallTrace, SentTwiceError
from kling_async.providers.base import Effect

NOT_SENT = [
    httpx.ConnectError("x"),
    httpx.ConnectTimeout("x"),
    httpx.PoolTimeout("x"),
    httpx.ProxyError("407"),
    httpx.UnsupportedProtocol("x"),
    httpx.InvalidURL("x"),
    httpcore.ConnectError("x"),
    httpcore.ConnectTimeout("x"),
    httpcore.PoolTimeout("x"),
    httpcore.ProxyError("407"),
    httpcore.UnsupportedProtocol("x"),
    PoolClosed("x"),
    socket.gaierror(-2, "x"),
    ConnectionRefusedError("x"),
    ssl.SSLCertVerificationError("x"),
    OSError(errno.EMFILE, "x"),
]
UNKNOWN = [
    httpx.ReadError("x"),
    httpx.ReadTimeout("x"),
    httpx.WriteError("x"),
    httpx.WriteTimeout("x"),
    httpx.CloseError("x"),
    httpx.RemoteProtocolError("x"),
    httpx.LocalProtocolError("x"),
    httpcore.ReadError("x"),
    httpcore.RemoteProtocolError("x"),
    anyio.BrokenResourceError(),
    anyio.ClosedResourceError(),
    anyio.EndOfStream(),
    ssl.SSLError("x"),
    ssl.SSLEOFError("x"),
    ConnectionResetError("x"),
    BrokenPipeError("x"),
    TimeoutError("x"),
    OSError(errno.ENETUNREACH, "x"),
    RuntimeError("x"),
    Exception("x"),
]


@pytest.mark.parametrize("error", NOT_SENT, ids=repr)
def test_an_error_before_the_connection_means_not_sent(error: Exception) -> None:
    assert was_sent(error) is Sent.NO


@pytest.mark.parametrize("error", UNKNOWN, ids=repr)
def test_an_error_of_a_connection_leaves_it_unknown(error: Exception) -> None:
    assert was_sent(error) is Sent.UNKNOWN


@pytest.mark.parametrize("error", [httpx.DecodingError("x"), httpx.TooManyRedirects("x")], ids=repr)
def test_an_error_about_an_answer_means_sent(error: Exception) -> None:
    assert was_sent(error) is Sent.YES


@pytest.mark.parametrize("library", [httpx, httpcore])
def test_every_error_of_the_network_libraries_is_in_the_table(library: object) -> None:
    kinds = {v for v in vars(library).values() if isinstance(v, type) and issubclass(v, Exception)}
    leaves = {kind for kind in kinds if not any(other is not kind and issubclass(other, kind) for other in kinds)}
    unlisted = {kind.__name__ for kind in leaves if not any(base.__name__ in _BY_NAME for base in kind.__mro__)}
    assert unlisted == set()


def test_an_error_that_was_made_from_an_unlike_one_is_not_believed() -> None:
    foreign = type("ClientOSError", (OSError,), {"__module__": "aiohttp.client_exceptions"})
    error = httpx.ConnectError("x")
    error.__cause__ = foreign("reset")
    assert was_sent(error) is Sent.UNKNOWN


class _Request:
    def __init__(self, method: bytes) -> None:
        self.method = method


@pytest.mark.anyio
async def test_what_a_proxy_is_asked_is_no_part_of_the_paid_call() -> None:
    trace = PaidCallTrace()
    trace.begin(Effect.PAID)
    await trace("http11.send_request_headers.started", {"request": _Request(b"CONNECT")})
    assert not trace.may_have_been_sent
    await trace("http11.send_request_headers.started", {"request": _Request(b"POST")})
    assert trace.may_have_been_sent


@pytest.mark.anyio
async def test_a_transport_that_retries_cannot_send_a_paid_call_twice() -> None:
    trace = PaidCallTrace()
    trace.begin(Effect.PAID)
    await trace("http11.send_request_headers.started", {"request": _Request(b"POST")})
    with pytest.raises(SentTwiceError):
        await trace("http11.send_request_headers.started", {"request": _Request(b"POST")})

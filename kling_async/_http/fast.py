"""Status calls by pyreqwest, a client in Rust: ``Client(http="fast")``.

READ calls may be repeated, so they can do without the exact knowledge of what was sent that the connection pool has.
Only they travel here, on asyncio, and where no proxy is in the way. PAID and WRITE calls, streams and files stay with
the pool. The caller bounds the time of a call and how many are under way (`ProviderTransport`).
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpcore
from anyio.lowlevel import checkpoint_if_cancelled

from kling_async._errors import ConfigurationError, Remedy
from kling_async._http.connection_pool import PoolClosed
from kling_async._http.limits import Limits
from kling_async._http.response import Response
from kling_async._urls import Url

if TYPE_CHECKING:
    from pyreqwest.client import Client

__all__ = ["FAST", "FastReads", "require_fast"]

FAST = "fast"
"""The value of ``Client(http=...)`` and of ``KLING_HTTP`` that chooses this."""


def require_fast(source: str) -> None:
    """Make sure that it can be used.

    Args:
        source: Where it was chosen, for the message.

    Raises:
        ConfigurationError: pyreqwest is not installed.
    """
    if importlib.util.find_spec("pyreqwest") is None:
        raise ConfigurationError(
            f"{source} needs one more package, pyreqwest",
            remedies=(Remedy("configure", detail="pip install 'kling-async[fast]'"),),
        )


class FastReads:
    """Sends requests without a body on the running event loop, over connections of its own.

    Args:
        limits: Of them, `connections` and `keepalive` bound the connections that are kept.

    Raises:
        ConfigurationError: The event loop is not asyncio's.
    """

    def __init__(self, limits: Limits) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(
                f"Client(http={FAST!r}) works on asyncio alone, and this event loop is another one",
                remedies=(Remedy("configure", detail="leave http out"),),
            ) from None
        from pyreqwest.client import ClientBuilder  # noqa: PLC0415  # when it is needed
        from pyreqwest.exceptions import PyreqwestError  # noqa: PLC0415  # the same

        self._failure = PyreqwestError
        self._client: Client | None = (
            ClientBuilder()
            .no_proxy()
            .follow_redirects(enable=False)
            .referer(enable=False)
            .default_cookie_store(enable=False)
            .gzip(enable=False)  # what comes is unpacked by `Response`, a piece at a time
            .brotli(enable=False)
            .zstd(enable=False)
            .deflate(enable=False)
            .connect_timeout(timedelta(seconds=limits.connect))
            .pool_max_idle_per_host(limits.connections)
            .pool_idle_timeout(timedelta(seconds=limits.keepalive))
            .build()
        )

    async def send(self, method: str, url: Url, headers: Mapping[str, str]) -> Response:
        """Send a request. The response's body is still to be read, and the response to be closed.

        Raises:
            httpcore.ConnectError: There is no connection.
            httpcore.ReadError: The connection broke.
        """
        if self._client is None:
            raise PoolClosed("the client was closed; nothing was sent")
        stream = self._client.request(method, str(url)).headers(dict(headers)).build_streamed()
        try:
            response = await stream.__aenter__()
        except self._failure as error:
            raise _translated(error) from None
        except asyncio.CancelledError:
            await checkpoint_if_cancelled()  # anyio recognises its own exception, not the one that pyreqwest makes
            raise
        body = _Body(response.body_reader, stream, self._failure)
        return Response(response.status, response.headers.items(), body, body.aclose)

    async def aclose(self) -> None:
        """Close the connections. They go with the last reference to their client."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class _Body:
    """The body of a response. It ends its request at its end, on failure, or when closed."""

    __slots__ = ("_failure", "_reader", "_stream")

    def __init__(self, reader: Any, stream: Any, failure: type[Exception]) -> None:
        self._reader = reader
        self._stream = stream
        self._failure = failure

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            part = await self._reader.read_chunk()
        except self._failure as error:
            raise _translated(error) from None
        except asyncio.CancelledError:
            await checkpoint_if_cancelled()  # the same
            raise
        if part is None:
            await self.aclose()
            raise StopAsyncIteration
        return bytes(part)

    async def aclose(self) -> None:
        """End the request. A connection whose body was not read to its end is not used again."""
        stream, self._stream, self._reader = self._stream, None, None
        if stream is not None:
            await stream.__aexit__(None, None, None)


def _translated(error: Exception) -> httpcore.NetworkError | httpcore.TimeoutException:
    """The error that the pool raises in such a case, so that one table knows them all (`failures`)."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if "ConnectTimeoutError" in names:
        return httpcore.ConnectTimeout(_reason(error))
    return (httpcore.ConnectError if "ConnectError" in names else httpcore.ReadError)(_reason(error))


def _reason(error: Any) -> str:
    """What happened, in the words of the innermost cause. The outer ones repeat the address."""
    causes = (getattr(error, "details", None) or {}).get("causes") or ()
    return str(causes[-1]["message"]) if causes else type(error).__name__

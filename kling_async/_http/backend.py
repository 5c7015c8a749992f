"""Engines: what sends a request and gives back its response, on one event loop.

By default that is our own connection pool (`connection_pool`); or what the user injected, or httpx's own transport
where a proxy is in the way. This is the only file that knows httpx, and it loads it only when it is needed: httpx loads
its own command line program with it (click, rich) wherever that is installed.
"""

from __future__ import annotations

import contextlib
import ssl
import warnings
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, cast
from urllib.parse import urlsplit

import anyio
import httpcore
from anyio import to_thread
from anyio.lowlevel import current_token

from kling_async._errors import ConfigurationError, UnreadableReply
from kling_async._http.connection_pool import ConnectionPool, PoolStatistics
from kling_async._http.limits import Limits
from kling_async._http.proxies import environment_proxy, require_proxy
from kling_async._http.response import _GZIP, _PIECE, Response
from kling_async._http.tls import ssl_context

if TYPE_CHECKING:
    import httpx

__all__ = ["USER_AGENT", "Http", "HttpBackend", "PerLoopBackend"]

USER_AGENT = "kling-async"
Http: TypeAlias = Any
"""What `Client(http=...)` takes: an ``httpx.AsyncClient``, an ``httpx.AsyncBaseTransport``, an ``httpx2.AsyncClient``,
or the URL of a proxy. It is typed loosely because only one of these libraries is installed for certain."""


class HttpBackend:
    """Sends requests on one event loop: through our own pool, or through what the user injected.

    Attributes:
        slots: As many as calls may be under way at once.
        pool: Our own pool; None where another engine is in use.
        owned: Whether it is ours to close.
    """

    def __init__(self, http: Http, limits: Limits, address: str, context: ssl.SSLContext | None) -> None:
        self._timeout = {"connect": limits.connect, "read": limits.call, "write": limits.call}
        self.concurrency = anyio.Semaphore(limits.connections, fast_acquire=True)
        self._client: Any = None
        self._transport: httpx.AsyncBaseTransport
        self.owned = True
        self.pool: ConnectionPool | None = None
        proxy = http if isinstance(http, str) else None if http is not None else environment_proxy(address)
        if http is None and proxy is None:
            self.pool = ConnectionPool(limit=limits.connections, keepalive=limits.keepalive, ssl_context=context)
            return
        import httpx  # noqa: PLC0415  # when it is needed

        if proxy is not None:
            self._transport = httpx.AsyncHTTPTransport(
                proxy=proxy,
                verify=context or True,
                limits=httpx.Limits(
                    max_connections=limits.connections,
                    max_keepalive_connections=limits.connections,
                    # httpx's pool cannot keep old connections from paid calls alone, so here none grows old.
                    keepalive_expiry=limits.paid_max_idle,
                ),
            )
        elif isinstance(http, httpx.AsyncBaseTransport):
            self._transport, self.owned = http, False
        else:
            self._client, self.owned = http, False

    async def send(
        self, method: str, url: str, headers: dict[str, str], body: bytes, extensions: dict[str, Any]
    ) -> Response:
        """Send a request; the response's body is still to be read, and the response to be closed."""
        if self._client is not None:
            request = self._client.build_request(
                method, url, headers=headers, content=body or None, extensions=extensions
            )
            response: Response = await self._client.send(request, stream=True, auth=None, follow_redirects=False)
            return response
        extensions = {**extensions, "timeout": self._timeout}
        if self.pool is not None:
            return await _send(self.pool, method, _target(url), headers, body, extensions)
        import httpx  # noqa: PLC0415  # when it is needed

        return await self._transport.handle_async_request(
            httpx.Request(method, url, headers=headers, content=body or None, extensions=extensions)
        )

    @asynccontextmanager
    async def open(self, method: str, url: str, headers: dict[str, str]) -> AsyncIterator[Response]:
        """A request without a body whose answer is read while it is open."""
        response = await self.send(method, url, headers, b"", {"retry_stale": True})
        try:
            yield response
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    @property
    def connected(self) -> bool:
        """Whether it has connections; of an engine that is not our pool, that is not known, and taken to be so."""
        return self.pool is None or self.pool.statistics().connections > 0

    async def aclose(self) -> None:
        """Close the connections; of an engine that is `owned` only."""
        await (self.pool or self._transport).aclose()


class _Body:
    """A request's body. httpx's own is an async generator, which a connection that breaks leaves unfinished."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._rest: list[bytes] = []

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._rest = [self._content] if self._content else []
        return self

    async def __anext__(self) -> bytes:
        if not self._rest:
            raise StopAsyncIteration
        return self._rest.pop()


class _Answer:
    """A response of our own pool. What httpx would put around it costs as much as the sending."""

    def __init__(self, response: httpcore.Response) -> None:
        self.status_code = response.status
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        self._response = response
        self._parts = aiter(cast("AsyncIterable[bytes]", response.stream))
        packed = self.headers.get("content-encoding", "identity") in {"gzip", "x-gzip"}
        self._unpack = zlib.decompressobj(_GZIP) if packed else None

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        return self

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._unpack is None:
            return await anext(self._parts)
        if not self._unpack.unconsumed_tail:
            packed = await anext(self._parts)
        else:
            packed = self._unpack.unconsumed_tail
        try:
            return self._unpack.decompress(packed, _PIECE)  # a little at a time: whoever reads has a limit
        except zlib.error as error:
            raise UnreadableReply(f"the answer is not the gzip that it says it is: {error}") from error

    async def aclose(self) -> None:
        await self._response.aclose()


async def _send(
    pool: ConnectionPool,
    method: str,
    target: httpcore.URL,
    headers: dict[str, str],
    body: bytes,
    extensions: dict[str, Any],
) -> Response:
    host = target.host.decode("ascii")
    host = f"[{host}]" if ":" in host else host
    framing: dict[str | bytes, str | bytes] = {"host": host if target.port is None else f"{host}:{target.port}"}
    if body:
        framing["content-length"] = str(len(body))
    framing.update(headers)
    request = httpcore.Request(method, target, headers=framing, content=_Body(body), extensions=extensions)
    return _Answer(await pool.handle_async_request(request))


def _target(url: str) -> httpcore.URL:
    """The URL as httpcore wants it; httpx spells out what is not plain."""
    if url.isascii() and " " not in url:
        parts = urlsplit(url)
        path = parts.path or "/"
        return httpcore.URL(
            scheme=parts.scheme,
            host=parts.hostname or "",
            port=parts.port,
            target=f"{path}?{parts.query}" if parts.query else path,
        )
    import httpx  # noqa: PLC0415  # when it is needed

    whole = httpx.URL(url)
    return httpcore.URL(scheme=whole.raw_scheme, host=whole.raw_host, port=whole.port, target=whole.raw_path)


def _require_engine(http: Http) -> None:
    """Refuse what cannot carry a request."""
    import httpx  # noqa: PLC0415  # when it is needed

    shaped = hasattr(http, "build_request") and hasattr(http, "send")
    if not (shaped or isinstance(http, httpx.AsyncBaseTransport)):
        raise ConfigurationError(
            "Client(http=...) takes an httpx.AsyncClient, an httpx.AsyncBaseTransport, another library's client of the "
            f"same shape, or a proxy's URL; {type(http).__name__} is none of them"
        )


class PerLoopBackend:
    """The engines of one address, one for each event loop, each made on first use."""

    _end: AsyncGenerator[None, None] | None = None

    def __init__(self, http: Http, limits: Limits, address: str) -> None:
        if isinstance(http, str):
            require_proxy(http)
        elif http is not None:
            _require_engine(http)
        self._http, self._limits, self._address = http, limits, address
        self._loop: object = None
        self._making: tuple[object, anyio.Lock] | None = None
        self._backend: HttpBackend | None = None
        self._open: list[HttpBackend] = []  # what `_end` is to close: one of ours, or none

    async def current(self) -> HttpBackend:
        """The engine of the running event loop."""
        if self._backend is not None and current_token() == self._loop:
            return self._backend
        making = self._making
        if making is None or making[0] != current_token():  # a lock belongs to a loop; threads may have one each
            making = self._making = (current_token(), anyio.Lock())
        async with making[1]:
            if self._backend is not None and current_token() == self._loop:
                return self._backend
            return await self._make()

    async def _make(self) -> HttpBackend:
        ours = self._http is None or isinstance(self._http, str)
        context = await to_thread.run_sync(ssl_context, limiter=anyio.CapacityLimiter(1)) if ours else None
        engine = self._backend = HttpBackend(self._http, self._limits, self._address, context)
        self._loop = current_token()
        self._end = None
        if engine.owned:
            self._open = [engine]
            self._end = _closing(self._open)
            with contextlib.suppress(StopIteration):
                self._end.__anext__().send(None)  # to its yield; it awaits nothing before
        return engine

    def statistics(self) -> PoolStatistics | None:
        """The connections of the pool in use; None where there is no pool of ours."""
        return self._backend.pool.statistics() if self._backend and self._backend.pool else None

    async def aclose(self) -> None:
        """Close the engine of the running event loop."""
        end, self._end, self._backend = self._end, None, None
        if end is not None and current_token() == self._loop:
            await end.aclose()

    def __del__(self) -> None:
        if self._end is None or not self._open:
            return
        if self._open[0].connected:
            warnings.warn(
                f"a Client was dropped while it had connections to {urlsplit(self._address).netloc}: close it, by "
                "`async with Client(...) as client:` or by `await client.aclose()`",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )
        # Nobody can wait for it to be closed here. Its sockets are closed as they are dropped.
        self._open.clear()
        with contextlib.suppress(StopIteration, RuntimeError):
            self._end.aclose().send(None)


async def _closing(engines: list[HttpBackend]) -> AsyncGenerator[None, None]:
    """Close the engines when this is closed, at the latest by the event loop at its end.

    An engine cannot outlive its loop, and a client that is used over several `asyncio.run` calls is not closed between
    them. But every loop closes the async generators that were begun in it before it ends.
    """
    try:
        yield
    finally:
        while engines:
            with anyio.CancelScope(shield=True):
                await engines.pop().aclose()

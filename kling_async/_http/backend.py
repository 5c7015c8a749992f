"""What sends a request and gives back its response, on one event loop.

By default that is our own connection pool (`connection_pool`), or httpx's transport where a proxy is in the way, or
what the user passed as ``Client(http=...)``. This file loads httpx only when it is needed: httpx loads its own command
line program with it (click, rich) wherever that is installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import os
import ssl
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import anyio
import httpcore
from anyio import to_thread

from kling_async._errors import ConfigurationError, Remedy
from kling_async._event_loop.clock import current_loop
from kling_async._event_loop.threads import file_readers
from kling_async._exchange.calls import FileBody, Reply
from kling_async._exchange.urls import Url
from kling_async._http.codecs import H11Codec, HttptoolsCodec, write_fields, write_head
from kling_async._http.connection_pool import ConnectionPool, PoolStatistics, ResponseStream
from kling_async._http.limits import Limits
from kling_async._http.proxies import Proxy, environment_proxy
from kling_async._http.response import Response, read_headers, read_whole_body, text_headers, too_long
from kling_async._http.tls import ssl_context

if TYPE_CHECKING:
    import httpx

__all__ = ["USER_AGENT", "Http", "HttpBackend", "PerLoopBackend"]

log = logging.getLogger("kling_async")

USER_AGENT = "kling-async"
_VARIABLE = "KLING_HTTP"
_SMALL = 64 * 1024  # bytes of a body that is sent in one write
FAST = "fast"
"""The value of ``Client(http=...)`` and of ``KLING_HTTP`` with which the pool reads HTTP by httptools."""


class _ClientLike(Protocol):
    """The part of ``httpx.AsyncClient`` that is used. ``httpx2.AsyncClient`` has it as well."""

    @property
    def build_request(self) -> Callable[..., Any]: ...

    @property
    def send(self) -> Callable[..., Any]: ...


class _TransportLike(Protocol):
    """The part of ``httpx.AsyncBaseTransport`` that is used."""

    @property
    def handle_async_request(self) -> Callable[..., Any]: ...

    async def aclose(self) -> None: ...


Http: TypeAlias = "_ClientLike | _TransportLike | str | None"
"""What `Client(http=...)` takes: an ``httpx.AsyncClient``, an ``httpx.AsyncBaseTransport``, an ``httpx2.AsyncClient``,
``"fast"``, or the URL of a proxy. Classes of our own, because only httpx of these libraries is surely installed."""

# Of the headers that a user's client adds to every request, these are ours to decide.
_NOT_THE_CLIENTS = frozenset(
    {"authorization", "cookie", "content-length", "content-type", "transfer-encoding", "host", "connection"}
) | {"proxy-authorization", "expect", "range", "if-range"}


class HttpBackend:
    """Sends requests on one event loop.

    Attributes:
        concurrency: As many as calls may be under way at once.
        pool: Our own pool, or None where the user's client or transport is in use.
        owned: Whether it is ours to close.
    """

    def __init__(self, http: Http, limits: Limits, context: ssl.SSLContext | None) -> None:
        self.concurrency = anyio.Semaphore(limits.connections, fast_acquire=True)
        self.owned = http is None or isinstance(http, str)
        self.pool: ConnectionPool | None = None
        self._limits = limits
        self._context = context
        self._client: Any = None
        self._transport: _TransportLike | None = None
        codec = HttptoolsCodec if http == FAST else H11Codec
        http = None if http == FAST else http
        self._proxy = Proxy.parse(http, "Client(http=...)") if isinstance(http, str) else None
        self._routes: dict[tuple[str, str, int], _Route] = {}
        self._proxied: dict[str, _TransportLike] = {}
        if http is None:
            self.pool = ConnectionPool(
                limit=limits.connections, keepalive=limits.keepalive, ssl_context=context, make_codec=codec
            )
        elif hasattr(http, "handle_async_request"):
            self._transport = cast("_TransportLike", http)
        elif not isinstance(http, str):
            self._client = http

    async def send(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        body: bytes | FileBody = b"",
        *,
        seconds: float | None = None,
        extensions: Mapping[str, Any] | None = None,
    ) -> Response:
        """Send a request. The response's body is still to be read, and the response to be closed.

        Args:
            method: Such as ``"GET"``.
            url: Where to.
            headers: All of them. What a user's client adds is not for the provider's eyes, but for a gateway's.
            body: The body.
            seconds: Longest silence while sending and receiving. If None, that of the limits. ``math.inf``: no limit.
            extensions: Of the pool and of httpcore.
        """
        silence = self._limits.call if seconds is None else seconds
        longest = None if silence == math.inf else silence
        timeout = {"connect": self._limits.connect, "read": longest, "write": longest, "pool": None}
        extensions = {**(extensions or {}), "timeout": timeout}
        if self._client is not None:
            return await self._send_by_client(method, url, headers, body, extensions)
        proxy = self.proxy_for(url)
        if proxy is None and self.pool is not None:
            return await _send(self.pool, method, url, headers, body, extensions)
        import httpx  # noqa: PLC0415  # when it is needed

        request = httpx.Request(
            method, str(url), headers=_framed(headers, body), content=_content(body), extensions=extensions
        )
        transport = self._transport if proxy is None else self._through(proxy)
        assert transport is not None  # noqa: S101  # there is a pool, a client, a transport or a proxy
        return _wrap(await transport.handle_async_request(request))

    async def _send_by_client(
        self, method: str, url: Url, headers: Mapping[str, str], body: bytes | FileBody, extensions: Mapping[str, Any]
    ) -> Response:
        """Send by the transport that a user's client has for the address.

        The client itself decides nothing: its time-outs, redirects, authentication, cookies and parameters are for the
        user's own calls, and an answer to a paid call must not be lost to a hook that raises.
        """
        client = self._client
        if getattr(client, "is_closed", False):
            raise ConfigurationError("the client given as http was closed; nothing was sent")
        request = client.build_request(
            method, str(url), headers=_framed({}, body), content=_content(body), extensions=extensions
        )
        request.url = type(request.url)(str(url))  # without the client's own parameters
        for name in _NOT_THE_CLIENTS - ({"content-length", "transfer-encoding"} if body else set()) - {"host"}:
            request.headers.pop(name, None)
        request.headers.update(headers)
        choose = getattr(client, "_transport_for_url", None)
        if choose is None:  # not httpx, but of its shape
            return _wrap(await client.send(request, stream=True, auth=None, follow_redirects=False))
        hooks = getattr(client, "event_hooks", {})
        for hook in hooks.get("request", ()):
            try:
                await hook(request)
            except Exception as error:
                raise ConfigurationError(
                    f"a request hook of the client given as http failed: {type(error).__name__}; nothing was sent"
                ) from error
        response = await choose(request.url).handle_async_request(request)
        response.request = request
        for hook in hooks.get("response", ()):
            try:
                await hook(response)
            except Exception as error:  # noqa: BLE001  # a hook must not lose the answer
                log.warning("a response hook of the client given as http failed: %s", type(error).__name__)
        return _wrap(response)

    async def ask(  # noqa: PLR0913  # the parts of a call, each by its name
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        body: bytes,
        *,
        deadline: float,
        longest: int,
        retry_stale: bool,
        max_idle: float | None = None,
        before: Callable[[], None] | None = None,
    ) -> Reply | None:
        """Make a small call over a kept connection (`ConnectionPool.exchange`).

        Args:
            method: Such as ``"GET"``.
            url: Where to.
            headers: All of them but those of HTTP itself. While those of a method stay the same, they are written once.
            body: The body.
            deadline: When the answer must be whole, on the loop's clock.
            longest: Bytes of the answer's body beyond which it is refused.
            retry_stale: Return None if the connection proves dead before any byte of the answer came. False for a call
                that must not be sent twice.
            max_idle: Seconds of rest after which a connection is not trusted. If None, any kept one will do.
            before: Called before the first byte is written. What it raises is raised, and nothing is sent.

        Returns:
            The reply. None: no connection is at hand for it, so it must be sent by `send`.

        Raises:
            UnreadableReply: The answer is longer than that, or is not packed as its header claims.
            Exception: As from the pool.
        """
        route = self._route(url)
        if self.pool is None or route.proxy is not None or len(body) > _SMALL:
            return None
        answer = await self.pool.exchange(
            route.origin,
            route.write(method, url, headers, body),
            method.encode("ascii"),
            deadline,
            longest,
            retry_stale=retry_stale,
            max_idle=max_idle,
            before=before,
        )
        if answer is None:
            return None
        status, pairs, content = answer
        reply = Reply(status, read_headers(pairs), content)
        if len(content) > longest:
            raise too_long(longest, status)
        if "content-encoding" not in reply.headers:
            return reply
        response = Response(status, reply.headers.items(), _Body(content).__aiter__(), _nothing)
        return Reply(status, reply.headers, await read_whole_body(response, longest))

    def _route(self, url: Url) -> _Route:
        route = self._routes.get((url.scheme, url.host, url.port))
        if route is None:
            proxy = environment_proxy(url) if self.pool is not None else self._proxy
            route = self._routes[(url.scheme, url.host, url.port)] = _Route(url, proxy)
        return route

    def proxy_for(self, url: Url) -> Proxy | None:
        """The proxy for requests to `url`. None if there is none, or if the user's client or transport decides.

        Raises:
            ConfigurationError: The environment names one that cannot be used.
        """
        return self._route(url).proxy

    def _through(self, proxy: Proxy) -> _TransportLike:
        import httpx  # noqa: PLC0415  # when it is needed

        if proxy.url not in self._proxied:
            connections = self._limits.connections
            self._proxied[proxy.url] = httpx.AsyncHTTPTransport(
                proxy=proxy.url,
                verify=self._context or True,
                limits=httpx.Limits(
                    max_connections=connections,
                    max_keepalive_connections=connections,
                    # httpx's pool cannot keep old connections from paid calls alone, so here none grows old.
                    keepalive_expiry=self._limits.paid_max_idle,
                ),
            )
        return self._proxied[proxy.url]

    @asynccontextmanager
    async def open(
        self, method: str, url: Url, headers: Mapping[str, str], *, seconds: float | None = None
    ) -> AsyncIterator[Response]:
        """A request without a body whose answer is read while it is open. `seconds`: as for `send`."""
        response = await self.send(method, url, headers, seconds=seconds, extensions={"retry_stale": True})
        try:
            yield response
        finally:
            await response.aclose()

    @property
    def connected(self) -> bool:
        """Whether it has connections. Of what is not our pool that is not known, and assumed."""
        return bool(self._proxied) or self.pool is None or self.pool.statistics().connections > 0

    async def aclose(self) -> None:
        """Close the connections, if it is `owned`."""
        for closed in (*self._proxied.values(), self.pool):
            if closed is not None:
                await closed.aclose()
        self._proxied.clear()


class _Route:
    """What calls to one origin have in common.

    Attributes:
        proxy: The proxy that they go through, or None.
        origin: The origin as the pool names it.
    """

    __slots__ = ("_host", "_last", "origin", "proxy")

    def __init__(self, url: Url, proxy: Proxy | None) -> None:
        self.proxy = proxy
        self.origin = url.scheme.encode("ascii"), url.host.encode("ascii"), url.port
        self._host = url.netloc
        self._last: dict[str, tuple[Mapping[str, str], bytes]] = {}  # a method's last headers, and as they are written

    def write(self, method: str, url: Url, headers: Mapping[str, str], body: bytes) -> bytes:
        """The bytes of a small request. Headers that are those of the method's last call are not written again."""
        last, written = self._last.get(method, (None, b""))
        if headers is not last and headers != last:
            fields = {"host": self._host, **headers}
            written = write_fields((name.encode("ascii"), fields[name].encode("ascii")) for name in fields)
            self._last[method] = headers, written
        length = b"content-length: %d\r\n" % len(body) if body else b""
        return write_head(method.encode("ascii"), url.target.encode("ascii"), written + length) + body


async def _nothing() -> None:
    """Nothing is to be closed."""


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


class _Pieces:
    """A request's body that has local files in it. They are read in a thread, a piece at a time."""

    def __init__(self, body: FileBody) -> None:
        self._body = body
        self._rest: Iterator[bytes] = iter(())

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._rest = self._body.pieces()
        return self

    async def __anext__(self) -> bytes:
        piece = await to_thread.run_sync(next, self._rest, None, limiter=file_readers())
        if piece is None:
            raise StopAsyncIteration
        return piece


class _Request(httpcore.Request):
    """A request of ours. httpcore's own goes through each header and each part of the address a second time."""

    def __init__(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str],
        content: _Body | _Pieces,
        extensions: dict[str, Any],
    ) -> None:
        self.method = method.encode("ascii")
        self.url = _Address(url)
        self.headers = [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
        self.stream = content
        self.extensions = extensions


class _Address(httpcore.URL):
    """Where it goes."""

    def __init__(self, url: Url) -> None:
        self.scheme = url.scheme.encode("ascii")
        self.host = url.host.encode("ascii")
        self.port = url.port
        self.target = url.target.encode("ascii")


def _content(body: bytes | FileBody) -> bytes | _Pieces | None:
    """A body for httpx and libraries of its shape."""
    return _Pieces(body) if isinstance(body, FileBody) else body or None


def _framed(headers: Mapping[str, str], body: bytes | FileBody) -> dict[str, str]:
    """The headers with the length of a body of which httpx does not know it: without, it would send it in chunks."""
    return {"content-length": str(len(body)), **headers} if isinstance(body, FileBody) else {**headers}


async def _send(
    pool: ConnectionPool,
    method: str,
    url: Url,
    headers: Mapping[str, str],
    body: bytes | FileBody,
    extensions: dict[str, Any],
) -> Response:
    """Send by our own pool. What httpx would put around it costs as much as the sending."""
    framing = {"host": url.netloc}
    if body:
        framing["content-length"] = str(len(body))
    framing.update(headers)
    content = _Pieces(body) if isinstance(body, FileBody) else _Body(body)
    response = await pool.handle_async_request(_Request(method, url, framing, content, extensions))
    stream = cast("ResponseStream", response.stream)
    return Response(response.status, text_headers(response.headers), stream, stream.aclose, take=stream.take)


def _wrap(response: httpx.Response) -> Response:
    """A response of httpx, or of a library of its shape."""
    pairs = response.headers.multi_items()
    if response.is_stream_consumed:  # by a mock, or by a hook of the user's. It is unpacked then
        return Response(response.status_code, pairs, response.aiter_bytes(), response.aclose, unpacked=True)
    return Response(response.status_code, pairs, response.aiter_raw(), response.aclose)


def _require_backend(http: Http) -> None:
    """Refuse what cannot carry a request."""
    import httpx  # noqa: PLC0415  # when it is needed

    shaped = hasattr(http, "build_request") and hasattr(http, "send")
    if not (shaped or isinstance(http, httpx.AsyncBaseTransport)):
        raise ConfigurationError(
            "Client(http=...) takes an httpx.AsyncClient, an httpx.AsyncBaseTransport, another library's client of the "
            f"same shape, {FAST!r}, or a proxy's URL; {type(http).__name__} is none of them"
        )


def _require_fast(source: str) -> None:
    """Make sure that httptools can be used, which was chosen at `source`."""
    if importlib.util.find_spec("httptools") is None:
        raise ConfigurationError(
            f"{source} needs one more package, httptools",
            remedies=(Remedy("configure", detail="pip install 'kling-async[fast]'"),),
        )


class PerLoopBackend:
    """The backends of one address, one for each event loop, each made on first use."""

    _end: AsyncGenerator[None, None] | None = None

    def __init__(self, http: Http, limits: Limits, address: str) -> None:
        if http is None and (chosen := os.environ.get(_VARIABLE)):
            if chosen != FAST:
                raise ConfigurationError(
                    f"the value of {_VARIABLE} is not known: the only one is {FAST!r}",
                    remedies=(Remedy("configure", detail=f"set {_VARIABLE}={FAST}, or unset it"),),
                )
            _require_fast(f"{_VARIABLE}={FAST}")
            http = FAST
        elif http == FAST:
            _require_fast(f"Client(http={FAST!r})")
        elif isinstance(http, str):
            Proxy.parse(http, "Client(http=...)")
        elif http is not None:
            _require_backend(http)
        self._http, self._limits, self._address = http, limits, address
        self._loop: object = None
        self._making: tuple[object, anyio.Lock] | None = None
        self._backend: HttpBackend | None = None
        self._open: list[HttpBackend] = []  # what `_end` is to close: one of ours, or none

    @property
    def ready(self) -> HttpBackend | None:
        """The backend of the running event loop, if it is made already."""
        return self._backend if self._backend is not None and current_loop() == self._loop else None

    async def current(self) -> HttpBackend:
        """The backend of the running event loop."""
        if (ready := self.ready) is not None:
            return ready
        making = self._making
        if making is None or making[0] != current_loop():  # a lock belongs to a loop. Threads may have one each
            making = self._making = (current_loop(), anyio.Lock())
        async with making[1]:
            return self.ready or await self._make()

    async def _make(self) -> HttpBackend:
        ours = self._http is None or isinstance(self._http, str)
        context = await to_thread.run_sync(ssl_context, limiter=anyio.CapacityLimiter(1)) if ours else None
        backend = self._backend = HttpBackend(self._http, self._limits, context)
        self._loop = current_loop()
        self._end = None
        if backend.owned:
            self._open = [backend]
            self._end = _closing(self._open)
            with contextlib.suppress(StopIteration):
                self._end.__anext__().send(None)  # to its yield. It awaits nothing before
        return backend

    def statistics(self) -> PoolStatistics | None:
        """The connections of the pool in use, or None where there is no pool of ours."""
        return self._backend.pool.statistics() if self._backend and self._backend.pool else None

    async def aclose(self) -> None:
        """Close the backend of the running event loop."""
        end, self._end, self._backend = self._end, None, None
        if end is not None and current_loop() == self._loop:
            await end.aclose()

    def __del__(self) -> None:
        if self._end is None or not self._open:
            return
        if self._open[0].connected:
            warnings.warn(
                f"a Client was dropped while it had connections to {Url.parse(self._address).netloc}: close it, by "
                "`async with Client(...) as client:` or by `await client.aclose()`",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )
        # Nobody can wait for it to be closed here. Its sockets are closed as they are dropped.
        self._open.clear()
        with contextlib.suppress(StopIteration, RuntimeError):
            self._end.aclose().send(None)


async def _closing(backends: list[HttpBackend]) -> AsyncGenerator[None, None]:
    """Close the backends when this is closed, at the latest by the event loop at its end.

    A backend cannot outlive its loop, and a client that is used over several `asyncio.run` calls is not closed between
    them. But every loop closes the async generators that were begun in it before it ends.
    """
    try:
        yield
    finally:
        while backends:
            with anyio.CancelScope(shield=True):
                await backends.pop().aclose()

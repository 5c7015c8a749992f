"""A bounded pool of httpcore connections: first come, first served, and O(1) per request.

How it works
============

httpcore does TLS, HTTP/1.1, HTTP/2, timeouts and network errors. The pool only decides which connection carries which
request. A connection is at any moment in exactly one state:

- *leased*: it belongs to one request, from the decision until the response is closed or anything fails. A new
  connection is leased before it connects. To connect is the first thing that its request does.
- *shared* (HTTP/2): it belongs to the requests that it carries. The pool may add more.
- *idle*: it belongs to the pool. Per origin, the last one in is the first one out. Over all origins they are in order
  of age.
- *doomed*: it is given up, but not closed yet. The task that gave it up closes it right after the decision.
- *displaced*: it is given up for a new connection, which took its slot and closes it before it connects.

The bound. All connections but the displaced ones count against `limit`. A slot is free only when its connection has
been closed, and a displaced connection is closed before its successor connects. So there are never more than `limit`
sockets.

The queue. Requests that find no connection wait in one queue over all origins. A request that comes while others wait
goes to the end. Some changes help: a response ended, a connection was closed, a waiter gave up, a new connection turned
out to be HTTP/2. Each of them serves the head of the queue as long as it can be served. It can be served while any
connection is idle, because an idle connection of another origin is displaced.

Why O(1). The newest idle connection of an origin is one end of that origin's deque. The oldest of all is the first of
an ordered dict. A waiter leaves the queue by key. Expired connections are searched at the old end only, and each is
found once in its life. Of all idle sockets, only the one about to be used is asked whether its server has closed it,
which costs one system call. Only `aclose` iterates over connections or waiters.

Why no lock. A pool belongs to one event loop. A decision is a plain function: it reads and changes the state without
awaiting, so no other task sees a state between two. I/O comes after it, on connections that the decision gave to this
task alone. However that I/O ends, also by cancellation, another plain function corrects the state before the exception
goes on. The decision that frees a connection also grants it to a waiter. A waiter that is cancelled between the grant
and its wake-up owns a connection, and passes it on.
"""

import contextlib
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import anyio
import httpcore

from kling_async._event_loop.clock import loop_time
from kling_async._http.codecs import H11Codec, MakeCodec
from kling_async._http.connection import Connection, IdleConnections, Origin, TrackedStream, origin_of
from kling_async._http.http1 import Body, Http1Connection, WholeAnswer
from kling_async._http.network import Network
from kling_async._http.tls import ssl_context

# A value of `max_idle`, in seconds: every kept connection has idled for at least that, so a new one is made.
_NONE_KEPT = 0.0

# What httpcore announces as its own maximum. It would queue streams beyond that, without a bound on the wait.
_STREAMS_PER_CONNECTION = 100

# How a connection that died shows, timeouts aside.
_LOST = (httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError)


class PoolClosed(RuntimeError):
    """The pool was closed before the request had a connection. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """What a pool has now, and what it has done.

    Attributes:
        connections: Connections that count against the limit: `idle + in_use`, and `opened - closed`.
        idle: Kept connections that carry nothing.
        in_use: Connections that are being dialled, carry requests, or are being closed.
        waiting: Requests in the queue.
        opened: Connections made since the pool was.
        reused: Requests that were given a connection made for another.
        closed: Connections given up since the pool was made.
    """

    connections: int
    idle: int
    in_use: int
    waiting: int
    opened: int
    reused: int
    closed: int


class _Ticket:
    """A request's claim to a connection."""

    __slots__ = ("connection", "max_idle", "origin")

    def __init__(self, origin: Origin, max_idle: float) -> None:
        self.origin = origin
        self.max_idle = max_idle
        self.connection: Connection | None = None


class ConnectionPool:
    """Sends httpcore requests over a bounded number of kept connections.

    The pool reads these of a request's `extensions`. All others, such as `trace`, pass through to httpcore:

    - `max_idle` (seconds): use no connection that has idled for so long. 0 asks for a new one. Set below the
      server's patience, it keeps a request whose answer must not be lost off a connection that the server may
      be closing. Default and ceiling: `keepalive`.
    - `retry_stale` (bool): if a kept connection proves dead before any byte of the response came, send the
      request once more, on a new connection. Only for requests that are harmless to repeat and whose body can
      be iterated twice. Default: false.
    - `timeout["pool"]` (seconds): how long to wait for a connection. Default: for ever.

    Args:
        limit: Most connections at any moment, over all origins.
        keepalive: Seconds after which an idle connection is not used any more.
        ssl_context: Shared by all connections. If None, that of all pools, when first needed.
        http1: Speak HTTP/1.1.
        http2: Offer HTTP/2 in the TLS handshake (needs the `h2` package).
        network_backend: What dials. None dials sockets (`network`).
        make_codec: What reads and writes HTTP/1.1 (`codecs`).

    Raises:
        ValueError: The limit admits no connection.
    """

    def __init__(
        self,
        *,
        limit: int = 100,
        keepalive: float = 65.0,
        ssl_context: ssl.SSLContext | None = None,
        http1: bool = True,
        http2: bool = False,
        network_backend: httpcore.AsyncNetworkBackend | None = None,
        make_codec: MakeCodec = H11Codec,
    ) -> None:
        if limit < 1:
            raise ValueError(f"A pool of {limit} connections can send nothing; limit must be at least 1.")
        self._limit = limit
        self._keepalive = keepalive
        self._ssl_context = ssl_context
        self._http1 = http1
        self._http2 = http2
        self._make_codec = make_codec
        self._backend = Network() if network_backend is None else network_backend
        self._connections: set[Connection] = set()  # all that count against the limit
        self._idle = IdleConnections()
        self._shared: dict[Origin, dict[Connection, None]] = {}  # HTTP/2 with room for another request
        self._doomed: list[Connection] = []
        self._waiting: OrderedDict[_Ticket, anyio.Event] = OrderedDict()
        self._opened = 0
        self._reused = 0
        self._closed = False

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request. Its connection comes back when the response's stream is exhausted or closed.

        Raises:
            httpcore.PoolTimeout: No connection within `timeout["pool"]`. Nothing was sent.
            httpcore.UnsupportedProtocol: The URL is neither http nor https. Nothing was sent.
            httpcore.NetworkError: As from httpcore: `ConnectError`, `ReadError`, `WriteError`.
            httpcore.TimeoutException: As from httpcore: `ConnectTimeout`, `ReadTimeout`, `WriteTimeout`.
            httpcore.RemoteProtocolError: The server hung up, or did not answer in HTTP.
            PoolClosed: The pool was closed. Nothing was sent.
        """
        max_idle = min(request.extensions.get("max_idle", self._keepalive), self._keepalive)
        connection = await self._lease(request, max_idle)
        kept = connection.stream.connects
        try:
            return await self._send(request, connection)
        except _LOST as exc:
            # HTTP/2 can say which requests it refused (GOAWAY). Everything else that is dead is silent.
            refused = isinstance(exc.__cause__, httpcore.ConnectionNotAvailable)
            stale = kept and (refused or not connection.stream.received)
            if not (stale and request.extensions.get("retry_stale", False)):
                raise
        return await self._send(request, await self._lease(request, _NONE_KEPT))

    async def exchange(
        self,
        origin: Origin,
        request: bytes,
        method: bytes,
        deadline: float,
        longest: int,
        *,
        retry_stale: bool,
        max_idle: float | None = None,
        before: Callable[[], None] | None = None,
    ) -> WholeAnswer | None:
        """Send a small request over a kept connection (`Http1Connection.exchange`).

        Args:
            origin: Where to.
            request: All its bytes.
            method: Its method.
            deadline: When the answer must be whole, on the loop's clock.
            longest: Bytes of the answer's body beyond which it is not read on.
            retry_stale: Return None if the connection proves dead before any byte of the answer came. False for a
                request that must not be sent twice.
            max_idle: Use no connection that has idled for so many seconds, nor one that its server has closed, as far
                as the system knows. If None, any kept one will do.
            before: Called before the first byte is written. What it raises is raised, and nothing is sent.

        Returns:
            The answer. None: no connection is at hand for it, so it must be sent by `handle_async_request`.

        Raises:
            Exception: As from `Http1Connection.exchange`.
        """
        connection = self._take_quick(origin, max_idle)
        if connection is None:
            return None
        http: Any = connection.http  # an `Http1Connection`
        try:
            answer: WholeAnswer = await http.exchange(request, method, deadline, longest, before)
        except BaseException as exc:
            await self._give_back(connection, served=False)
            if retry_stale and isinstance(exc, _LOST) and not http.answered:
                return None
            raise
        self._return_connection(connection, served=True)
        if self._doomed:
            await self._close_doomed()
        return answer

    def statistics(self) -> PoolStatistics:
        """Count the connections and requests of this moment."""
        return PoolStatistics(
            connections=len(self._connections),
            idle=len(self._idle),
            in_use=len(self._connections) - len(self._idle),
            waiting=len(self._waiting),
            opened=self._opened,
            reused=self._reused,
            closed=self._opened - len(self._connections),
        )

    async def aclose(self) -> None:
        """Close every connection, also busy ones. Waiting requests and later ones fail. Idempotent."""
        self._closed = True
        self._doomed.extend(self._connections)
        self._idle = IdleConnections()
        self._shared.clear()
        while self._waiting:
            _, granted = self._waiting.popitem(last=False)
            granted.set()
        await self._close_doomed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        now = self.statistics()
        state = "closed" if self._closed else f"limit {self._limit}"
        return f"<ConnectionPool {state}: {now.in_use} in use, {now.idle} idle, {now.waiting} waiting>"

    # I/O. What happens between two awaits is decided by the plain functions further down.

    async def _lease(self, request: httpcore.Request, max_idle: float) -> Connection:
        """Return a connection that may be sent on, connected or not. The caller must give it back."""
        self._require_open()
        ticket = _Ticket(origin_of(request.url), max_idle)
        try:
            if self._waiting or not self._assign(ticket):
                granted = self._waiting[ticket] = anyio.Event()
                await self._close_doomed()  # may free the slot that this very ticket waits for
                await self._wait(granted, request)
            else:
                await self._close_doomed()
            connection = self._redeem(ticket)
            await connection.make_room()
        except BaseException:
            self._withdraw(ticket)
            await self._close_doomed()
            raise
        return connection

    @staticmethod
    async def _wait(granted: anyio.Event, request: httpcore.Request) -> None:
        seconds = request.extensions.get("timeout", {}).get("pool")
        if seconds is None:
            await granted.wait()
        else:
            with anyio.move_on_after(seconds):
                await granted.wait()

    async def _send(self, request: httpcore.Request, connection: Connection) -> httpcore.Response:
        if connection.requests == 1:
            connection.stream.received = False
        try:
            response = await connection.http.handle_async_request(request)
            if connection.stream.multiplexed:
                self._answered(connection)
                await self._close_doomed()
            response.stream = ResponseStream(response.stream, connection, self)
        except BaseException as exc:
            await self._give_back(connection, served=False)
            if isinstance(exc, httpcore.ConnectionNotAvailable):
                # httpcore's own pool would send again. Whether that is harmless only the caller knows.
                message = "The server ended the connection instead of answering."
                raise httpcore.RemoteProtocolError(message) from exc
            raise
        return response

    async def _give_back(self, connection: Connection, *, served: bool) -> None:
        self._return_connection(connection, served=served)
        await self._close_doomed()

    async def _close_doomed(self) -> None:
        interruption: BaseException | None = None
        while self._doomed:
            connection = self._doomed.pop()
            try:
                await connection.aclose()
            except BaseException as exc:  # noqa: BLE001  # asyncio's own cancellation pierces shields, raised below
                interruption = exc
            self._connections.discard(connection)
            self._serve_waiting()
        if interruption is not None:
            raise interruption

    # Decisions: plain functions, atomic because they never await.

    def _require_open(self) -> None:
        if self._closed:
            raise PoolClosed("The connection pool was closed; nothing was sent. Use a client that is open.")

    def _redeem(self, ticket: _Ticket) -> Connection:
        self._require_open()
        if ticket.connection is None:
            raise httpcore.PoolTimeout(
                f"No connection became free in time ({self!r}); nothing was sent."
                " Allow more connections, or a longer wait."
            )
        return ticket.connection

    def _assign(self, ticket: _Ticket) -> bool:
        """Give the ticket a connection, if one is available now."""
        now = loop_time()
        self._doom_expired(now)
        ticket.connection = self._take_shared(ticket, now) or self._take_idle(ticket, now)
        if ticket.connection is not None:
            ticket.connection.requests += 1
            self._share(ticket.connection)
            self._reused += 1
        elif len(self._connections) < self._limit:
            ticket.connection = self._make_connection(ticket.origin)
        elif self._idle:
            ticket.connection = self._make_connection(ticket.origin)
            ticket.connection.displaced = self._idle.pop_oldest()
            self._connections.remove(ticket.connection.displaced)
        return ticket.connection is not None

    def _take_quick(self, origin: Origin, max_idle: float | None) -> Connection | None:
        """Take the newest idle connection if nothing speaks against it. What does is judged by `_assign`."""
        if self._waiting or self._doomed or self._closed:
            return None
        connection = self._idle.newest(origin)
        longest = self._keepalive if max_idle is None else min(max_idle, self._keepalive)
        if connection is None or loop_time() - connection.last_used >= longest:
            return None
        http = connection.http
        if not (isinstance(http, Http1Connection) and http.quick) or connection.stream.broken:
            return None
        if max_idle is not None and http.has_expired():
            return None
        self._idle.pop_newest(origin)
        connection.requests += 1
        self._reused += 1
        return connection

    def _take_shared(self, ticket: _Ticket, now: float) -> Connection | None:
        shared = self._shared.get(ticket.origin)
        while shared:
            connection = next(reversed(shared))
            if connection.usable:
                return connection if now - connection.last_used < ticket.max_idle else None
            self._unshare(connection)
        return None

    def _take_idle(self, ticket: _Ticket, now: float) -> Connection | None:
        while connection := self._idle.newest(ticket.origin):
            if now - connection.last_used >= ticket.max_idle:
                return None
            self._idle.pop_newest(ticket.origin)
            if connection.usable and not connection.http.has_expired():
                return connection
            self._doomed.append(connection)
        return None

    def _make_connection(self, origin: Origin) -> Connection:
        scheme, host, port = origin
        if self._ssl_context is None and scheme == b"https":
            self._ssl_context = ssl_context()
        wire = TrackedStream(self._backend, multiplexed=not self._http1)
        target = httpcore.Origin(scheme, host, port)
        http: Http1Connection | httpcore.AsyncHTTPConnection
        if self._http2 or _is_mocked():
            http = httpcore.AsyncHTTPConnection(
                target, ssl_context=self._ssl_context, http1=self._http1, http2=True, network_backend=wire
            )
        else:
            http = Http1Connection(target, self._ssl_context, wire, self._make_codec)
        connection = Connection(origin, http, wire)
        self._connections.add(connection)
        self._opened += 1
        return connection

    def _return_connection(self, connection: Connection, *, served: bool) -> None:
        """End one request of a connection: keep the connection if it is good for another, serve the queue."""
        now = loop_time()
        connection.requests -= 1
        if served:
            connection.last_used = now
        if self._closed or not connection.usable:
            self._unshare(connection)
            if connection.stream.broken or not connection.requests:
                self._doomed.append(connection)
        elif connection.requests:
            self._share(connection)
        else:
            self._unshare(connection)
            (self._idle.push if served else self._idle.put_back)(connection)
        self._doom_expired(now)
        if self._waiting:
            self._serve_waiting()

    def _answered(self, connection: Connection) -> None:
        """Open an HTTP/2 connection to more requests while it carries this one: it has proved to work."""
        connection.last_used = loop_time()
        if connection.usable and not self._closed:
            self._share(connection)
            self._serve_waiting()

    def _share(self, connection: Connection) -> None:
        """Offer a connection to other requests while it has room for one."""
        if connection.stream.multiplexed and connection.requests < _STREAMS_PER_CONNECTION:
            self._shared.setdefault(connection.origin, {})[connection] = None
        else:
            self._unshare(connection)

    def _unshare(self, connection: Connection) -> None:
        shared = self._shared.get(connection.origin) if self._shared else None
        if shared is not None:
            shared.pop(connection, None)
            if not shared:
                del self._shared[connection.origin]

    def _doom_expired(self, now: float) -> None:
        while (oldest := self._idle.oldest()) and now - oldest.last_used >= self._keepalive:
            self._doomed.append(self._idle.pop_oldest())

    def _serve_waiting(self) -> None:
        while self._waiting:
            ticket = next(iter(self._waiting))
            if not self._assign(ticket):
                return
            self._waiting.pop(ticket).set()

    def _withdraw(self, ticket: _Ticket) -> None:
        """Undo a ticket: leave the queue, or pass on what was granted."""
        self._waiting.pop(ticket, None)
        if ticket.connection is not None:
            self._return_connection(ticket.connection, served=False)
        else:
            self._serve_waiting()  # the next in the queue may be content with less


class ResponseStream:
    """The body of a response. It gives the connection back at its end, on failure, or when closed."""

    def __init__(
        self, stream: Iterable[bytes] | AsyncIterable[bytes], connection: Connection, pool: ConnectionPool
    ) -> None:
        if not isinstance(stream, AsyncIterable):
            raise TypeError("An asynchronous connection answered with a synchronous body.")
        self._stream = stream
        self._parts = aiter(stream)
        self._connection = connection
        self._pool = pool
        self._open = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._parts)
        except BaseException:  # the end of the body is one, too
            await self.aclose()
            raise

    async def take(self) -> bytes | None:
        """The whole body, if it has come already. Then the connection is given back. None: read it part by part."""
        content = await self._stream.take() if self._open and isinstance(self._stream, Body) else None
        if content is not None:
            self._open = False
            await self._pool._give_back(self._connection, served=True)  # noqa: SLF001  # the other half of it
        return content

    async def aclose(self) -> None:
        if not self._open:
            return
        self._open = False
        try:
            if not isinstance(self._stream, Body) or self._stream.open:  # what was read to its end needs no scope
                with anyio.CancelScope(shield=True):
                    await _close(self._stream)
                    with contextlib.suppress(RuntimeError):  # another task is reading: it will find the end itself
                        await _close(self._parts)
        finally:
            await self._pool._give_back(self._connection, served=True)  # noqa: SLF001  # the other half of it


def _is_mocked() -> bool:
    """Whether respx answers in place of the network: it replaces a method of httpcore's connections."""
    return not httpcore.AsyncHTTPConnection.handle_async_request.__module__.startswith("httpcore")


async def _close(stream: AsyncIterable[bytes]) -> None:
    """Close a body that can be closed. Streams and generators of httpcore can be, and a mocked body may not."""
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()

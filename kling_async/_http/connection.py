"""What the pool keeps: one httpcore connection with its socket, and the collection of idle ones."""

import contextlib
import math
import ssl
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any, Self

import anyio
import httpcore

from kling_async._http.asyncio_socket import AsyncioSocket
from kling_async._http.http1 import Http1Connection

_PORTS = {b"http": 80, b"https": 443}

Origin = tuple[bytes, bytes, int]  # scheme, host, port: httpcore.Origin cannot be hashed


def origin_of(url: httpcore.URL) -> Origin:
    """Return where a URL connects to, with the scheme's default port filled in.

    Raises:
        httpcore.UnsupportedProtocol: The URL is neither http nor https.
    """
    if url.scheme not in _PORTS:
        raise httpcore.UnsupportedProtocol(
            f"A request must go to http:// or https://, not to {url.scheme.decode()!r}; nothing was sent."
        )
    return url.scheme, url.host, url.port or _PORTS[url.scheme]


class TrackedStream(httpcore.AsyncNetworkBackend, httpcore.AsyncNetworkStream):
    """The network of one connection: it connects once, and then is the stream.

    It knows which socket is open. httpcore does not: if a request is cancelled between connecting and the end of the
    TLS handshake, httpcore drops the socket without closing it.

    It also protects the other requests of an HTTP/2 connection. A write may carry frames of all of them, so it is
    shielded from the cancellation of the request that writes. The write timeout and the size of a frame bound it.

    Attributes:
        multiplexed: Whether HTTP/2 was agreed on, or is known beforehand.
        received: Whether any byte came since this was last cleared.
        broken: Whether a write was broken off all the same, by an error or by `asyncio.Task.cancel`, which no
            shield stops. Frames are missing then, and no request on the connection can count on an answer.
    """

    def __init__(self, backend: httpcore.AsyncNetworkBackend, *, multiplexed: bool) -> None:
        self._backend = backend
        self._stream: httpcore.AsyncNetworkStream | None = None
        self.multiplexed = multiplexed
        self.received = False
        self.broken = False

    @property
    def connects(self) -> bool:
        """Whether a socket was ever connected."""
        return self._stream is not None

    @property
    def direct(self) -> AsyncioSocket | None:
        """The socket itself, where its bytes need to pass nothing else."""
        return getattr(self._stream, "direct", None)

    @property
    def _connected(self) -> httpcore.AsyncNetworkStream:
        if self._stream is None:
            raise RuntimeError("A stream was used before it was connected. This is a bug in the pool.")
        return self._stream

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> Self:
        """Connect, and become the stream."""
        self._stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        return self

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's interface
    ) -> Self:
        """Do the TLS handshake, and become the encrypted stream."""
        self._stream = await self._connected.start_tls(ssl_context, server_hostname, timeout)
        ssl_object = self._stream.get_extra_info("ssl_object")
        self.multiplexed |= ssl_object is not None and ssl_object.selected_alpn_protocol() == "h2"
        return self

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # the same
        """Receive, and record that a byte came."""
        data = await self._connected.read(max_bytes, timeout)
        if data:
            self.received = True
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # the same
        """Send, and record whether the write was broken off."""
        try:
            if self.multiplexed:
                with anyio.CancelScope(shield=True):
                    await self._connected.write(buffer, timeout)
            else:
                await self._connected.write(buffer, timeout)
        except BaseException:
            self.broken = True
            raise

    async def aclose(self) -> None:
        """Close the socket, if there is one. Idempotent."""
        if self._stream is not None:
            await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Same as for httpcore's streams: `ssl_object`, `is_readable`, `socket`, ..."""
        return self._connected.get_extra_info(info)


class Connection:
    """An httpcore connection, leased to its first request, and what the pool knows about it.

    Attributes:
        origin: Where it connects to.
        http: What speaks HTTP on it: our own class, or where HTTP/2 is offered httpcore's.
        wire: Its socket.
        displaced: The connection that was given up for this one and must be closed before this one dials.
        requests: How many it carries now.
        last_used: When it last answered, in seconds on the event loop's clock. One that never did counts as
            expired: httpcore's HTTP/2 connections do not survive a cancellation of their first request.
    """

    __slots__ = ("displaced", "http", "last_used", "origin", "requests", "stream")

    def __init__(
        self, origin: Origin, http: Http1Connection | httpcore.AsyncHTTPConnection, wire: TrackedStream
    ) -> None:
        self.origin = origin
        self.http = http
        self.stream = wire
        self.displaced: Connection | None = None
        self.requests = 1
        self.last_used = -math.inf

    @property
    def usable(self) -> bool:
        """Whether it is sound, and may carry another request: not while it is busy, if it speaks HTTP/1.1."""
        return self.stream.connects and not self.stream.broken and self.http.is_available()

    async def make_room(self) -> None:
        """Close the connection whose slot this one took."""
        if self.displaced is not None:
            displaced, self.displaced = self.displaced, None
            await displaced.aclose()

    async def aclose(self) -> None:
        """Close its sockets, shielded from cancellation. A socket that does not close cleanly is gone as well."""
        with anyio.CancelScope(shield=True):
            await self.make_room()
            with contextlib.suppress(Exception):
                await self.http.aclose()
            with contextlib.suppress(Exception):
                await self.stream.aclose()


class IdleConnections:
    """The idle connections: newest first per origin, oldest first over all. Every operation is O(1)."""

    def __init__(self) -> None:
        self._by_origin: dict[Origin, deque[Connection]] = {}
        self._by_age: OrderedDict[Connection, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_age)

    def push(self, connection: Connection) -> None:
        """Add a connection that was used just now."""
        self._by_origin.setdefault(connection.origin, deque()).append(connection)
        self._by_age[connection] = None

    def put_back(self, connection: Connection) -> None:
        """Add a connection that was taken but not used, at the old end, so that it stands before no newer one."""
        self._by_origin.setdefault(connection.origin, deque()).appendleft(connection)
        self._by_age[connection] = None
        self._by_age.move_to_end(connection, last=False)

    def newest(self, origin: Origin) -> Connection | None:
        """Return the connection of an origin that was used last, without taking it."""
        kept = self._by_origin.get(origin)
        return kept[-1] if kept else None

    def oldest(self) -> Connection | None:
        """Return the connection that has idled longest, without taking it."""
        return next(iter(self._by_age), None)

    def pop_newest(self, origin: Origin) -> Connection:
        """Take the connection of an origin that was used last."""
        connection = self._by_origin[origin].pop()
        self._forget(connection)
        return connection

    def pop_oldest(self) -> Connection:
        """Take the connection that has idled longest: of all, hence of its origin."""
        origin = next(iter(self._by_age)).origin
        connection = self._by_origin[origin].popleft()
        self._forget(connection)
        return connection

    def _forget(self, connection: Connection) -> None:
        del self._by_age[connection]
        if not self._by_origin[connection.origin]:
            del self._by_origin[connection.origin]

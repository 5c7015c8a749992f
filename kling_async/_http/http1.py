"""One HTTP/1.1 connection: a request, its answer, the next request.

It does for the pool what httpcore's connection does, with less around it: no lock, because the pool gives a connection
to one request at a time. No generator, no scope where nothing can block, one write for a small request.
"""

from __future__ import annotations

import enum
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeAlias

import anyio
import httpcore
from anyio.lowlevel import checkpoint_if_cancelled

from kling_async._event_loop.clock import loop_time
from kling_async._http.asyncio_socket import BROKEN, AsyncioSocket
from kling_async._http.codecs import Codec, Headers, MakeCodec
from kling_async._http.last_read import LAST_READ

__all__ = ["Http1Connection", "WholeAnswer"]

WholeAnswer: TypeAlias = tuple[int, Headers, bytes]
"""Status, headers and body."""

_READ = 256 * 1024  # bytes at once: as many as asyncio reads from a socket
_WRITE = 64 * 1024  # bytes of a request that are collected before they are sent


class _State(enum.Enum):
    NEW = enum.auto()
    BUSY = enum.auto()
    IDLE = enum.auto()
    CLOSED = enum.auto()


class Http1Connection:
    """Sends requests to one origin, one after the other.

    Args:
        origin: Where to connect.
        ssl_context: For the handshake, if the scheme is https.
        network: Connects, and then is the stream.
        make_codec: Makes what reads and writes HTTP.

    Attributes:
        answered: Whether a byte of the answer to the last `exchange` came.
    """

    def __init__(
        self, origin: httpcore.Origin, ssl_context: ssl.SSLContext | None, network: Any, make_codec: MakeCodec
    ) -> None:
        self._origin = origin
        self._ssl_context = ssl_context
        self._stream = network
        self._codec: Codec = make_codec()
        self._state = _State.NEW
        self.answered = False
        self._socket: AsyncioSocket | None = None  # once it is connected, if it may be used directly

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request, and return its answer. The answer's stream is to be read or closed.

        Raises:
            httpcore.ConnectionNotAvailable: It is busy or closed. Nothing was sent.
            httpcore.NetworkError: As from httpcore's own connections, also the following.
            httpcore.TimeoutException: The same.
            httpcore.ProtocolError: The same.
        """
        state, codec = self._state, self._codec
        if state is not _State.NEW and state is not _State.IDLE:
            raise httpcore.ConnectionNotAvailable
        await checkpoint_if_cancelled()  # a request that was given up already must not cost the connection
        self._state = _State.BUSY
        timeouts = request.extensions.get("timeout", {})
        read = timeouts.get("read")
        try:
            if state is _State.NEW:
                await self._connect(request, timeouts.get("connect"))
            await self._send(request, timeouts.get("write"))
            while codec.status is None:
                await self.receive(read)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise
        return _Response(codec.status, codec.headers, Body(self, codec, read))

    @property
    def quick(self) -> bool:
        """Whether it may carry a request by `exchange`."""
        return self._state is _State.IDLE and self._socket is not None and not self._socket.has_unread

    async def exchange(
        self,
        request: bytes,
        method: bytes,
        deadline: float,
        longest: int,
        before: Callable[[], None] | None = None,
    ) -> WholeAnswer:
        """Send a small request, and return its whole answer. The connection must be `quick`.

        This is what a call costs above its socket: one write, one future, one pass over the answer. No response, no
        stream and no scope is made.
        At 50 in flight that takes a third of the CPU (`python -m benchmarks.requests --only aiohttp kling-engine`).

        Args:
            request: All its bytes.
            method: Its method.
            deadline: When the answer must be whole, on the loop's clock. What had arrived by then is read.
            longest: Bytes of the answer's body beyond which it is not read on. Then the rest is missing.
            before: Called before the first byte is written. If it raises, nothing is, and the connection stays good.

        Raises:
            TimeoutError: It was not whole by then.
            httpcore.NetworkError: The connection broke.
            httpcore.RemoteProtocolError: The server hung up, or did not answer in HTTP.
        """
        codec, sock = self._codec, self._socket
        assert sock is not None  # noqa: S101  # it is quick
        if before is not None:
            before()
        # Until all went well, the connection is good for nothing more. The pool closes it then.
        self._state = _State.CLOSED
        self.answered = False
        parts: list[bytes] = []
        size = 0
        overdue = False
        codec.begin(method)
        try:
            sock.send_now(request)
            while not codec.complete and size <= longest:
                try:
                    data = await sock.receive_by(deadline)
                except TimeoutError:
                    if overdue:
                        raise
                    overdue, deadline = True, loop_time() + LAST_READ
                    continue
                if data:
                    self.answered = True
                elif not self.answered:
                    raise httpcore.RemoteProtocolError("Server disconnected without sending a response.")
                codec.receive(data)
                while codec.parts:
                    parts.append(codec.parts.popleft())
                    size += len(parts[-1])
        except BROKEN as error:
            raise httpcore.ReadError(str(error)) from error
        assert codec.status is not None  # noqa: S101  # the head came before the body
        if codec.reusable:
            self._state = _State.IDLE
        return codec.status, codec.headers, parts[0] if len(parts) == 1 else b"".join(parts)

    async def _connect(self, request: httpcore.Request, seconds: float | None) -> None:
        host = self._origin.host.decode("ascii")
        trace = request.extensions.get("trace")
        if trace is not None:
            await trace("connection.connect_tcp.started", {"request": request})
        await self._stream.connect_tcp(host, self._origin.port, seconds)
        if self._origin.scheme == b"https":
            assert self._ssl_context is not None  # noqa: S101  # the pool has one
            self._ssl_context.set_alpn_protocols(["http/1.1"])
            await self._stream.start_tls(self._ssl_context, host, seconds)
        self._socket = self._stream.direct

    async def _send(self, request: httpcore.Request, seconds: float | None) -> None:
        codec, write = self._codec, self._stream.write
        waiting = codec.head(request.method, request.url.target, request.headers)
        trace = request.extensions.get("trace")
        if trace is not None:
            await trace("http11.send_request_headers.started", {"request": request})
        try:
            async for part in request.stream:  # type: ignore[union-attr]  # an asynchronous one
                # The head travels with the first part, and the last part with the end.
                if waiting and len(waiting) + len(part) > _WRITE:
                    await write(waiting, seconds)
                    waiting = b""
                waiting += codec.body(part)
            await write(waiting + codec.end(), seconds)
        except httpcore.WriteError:
            pass  # the server may have answered, and then hung up

    async def receive(self, seconds: float | None) -> None:
        """Read once, and take in what came."""
        data = await self._stream.read(_READ, seconds)
        if not data and self._codec.status is None:
            raise httpcore.RemoteProtocolError("Server disconnected without sending a response.")
        self._codec.receive(data)

    async def end(self) -> None:
        """End an answer: be ready for the next request, or close if that cannot be."""
        if self._state is _State.BUSY:
            if self._codec.reusable:
                self._state = _State.IDLE
            else:
                await self.aclose()

    async def aclose(self) -> None:
        """Close the socket."""
        self._state = _State.CLOSED
        await self._stream.aclose()

    def is_available(self) -> bool:
        """Whether it may carry a request."""
        return self._state is _State.IDLE

    def has_expired(self) -> bool:
        """Whether the server has closed it. What comes without having been asked for is nothing else."""
        return self._state is _State.IDLE and bool(self._stream.get_extra_info("is_readable"))


class _Response(httpcore.Response):
    """An answer whose headers are bytes already. httpcore's own goes through each of them again."""

    def __init__(self, status: int, headers: Headers, content: Body) -> None:
        self.status = status
        self.headers = headers
        self.stream = content
        self.extensions = {}
        self._stream_consumed = False


class Body:
    """The body of an answer. Its end, its failure and its closing end the answer.

    Attributes:
        open: Whether it has not ended, and is to be closed.
    """

    __slots__ = ("_codec", "_connection", "_seconds", "open")

    def __init__(self, connection: Http1Connection, codec: Codec, seconds: float | None) -> None:
        self._connection = connection
        self._codec = codec
        self._seconds = seconds
        self.open = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        codec = self._codec
        if not self.open:
            raise StopAsyncIteration
        try:
            while not codec.parts and not codec.complete:
                await self._connection.receive(self._seconds)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise
        if codec.parts:
            return codec.parts.popleft()
        await self.aclose()
        raise StopAsyncIteration

    async def take(self) -> bytes | None:
        """The whole body, if it has come whole and its end does not close the connection. Then this ends the answer."""
        codec = self._codec
        if not (self.open and codec.complete and codec.reusable):
            return None
        content = b"".join(codec.parts)
        await self.aclose()
        return content

    async def aclose(self) -> None:
        """End the answer."""
        if self.open:
            self.open = False
            self._codec.parts.clear()
            await self._connection.end()

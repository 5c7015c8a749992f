"""A socket on asyncio, as a byte stream of anyio.

anyio's own reads from the socket only while somebody waits, which costs two system calls a read, and passes a shielded
checkpoint at each write. This one lets asyncio read on, up to a bound, and returns at once what has come. It encrypts
by itself as well: an answer over TLS is decrypted as it comes, and costs its reader no more steps than any other.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import zip_longest
from typing import Any, cast

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.lowlevel import checkpoint_if_cancelled
from anyio.streams.tls import TLSAttribute

from kling_async._http.wake_limit import WakeLimit

__all__ = ["BROKEN", "AsyncioSocket"]

BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError)
"""What readers and writers of a broken socket get."""

_FULL = 512 * 1024  # bytes that wait for a reader, beyond which the socket is not read on: two reads of asyncio
_RECORDS = 256 * 1024  # bytes that are decrypted at once
_SPARE = 1.0  # s before a reader's deadline in which it does not wait for its turn
_NEXT_ADDRESS = 0.25  # s after which the next address of a host is tried beside the one before (RFC 8305)


class AsyncioSocket(ByteStream, asyncio.Protocol):
    """A connected socket."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._received: deque[bytes] = deque()
        self._size = 0  # bytes in it
        self._paused = False  # whether asyncio reads no more, because nobody takes what it has read
        self._reader: asyncio.Future[None] | None = None
        self._wakes = WakeLimit.of_loop()
        self._writer: asyncio.Future[None] | None = None
        self._full = False  # whether the system takes no more bytes at the moment
        self._ended = False
        self._failure: Exception | None = None
        self._closed = False
        self._deadline = math.inf  # of the reader, on the loop's clock
        self._timer: asyncio.TimerHandle | None = None
        self._tls: _Tls | None = None

    @classmethod
    async def connect(cls, host: str, port: int, local_host: str | None) -> AsyncioSocket:
        """Connect to the first address of the host that answers.

        Raises:
            OSError: None does.
        """
        addresses = await _addresses(host, port)
        local = (local_host, 0) if local_host else None
        if len(addresses) == 1:
            return await cls._connect_to(addresses[0], port, local)
        connected: list[AsyncioSocket] = []
        failures: list[OSError] = []
        try:
            async with anyio.create_task_group() as group:

                async def attempt(address: str, failed: anyio.Event) -> None:
                    try:
                        connected.append(await cls._connect_to(address, port, local))
                    except OSError as error:
                        failures.append(error)
                        failed.set()
                    else:
                        group.cancel_scope.cancel()

                for address in addresses:
                    failed = anyio.Event()
                    group.start_soon(attempt, address, failed)
                    with anyio.move_on_after(_NEXT_ADDRESS):
                        await failed.wait()
        except BaseException:
            for stream in connected:
                stream.drop()
            raise
        for stream in connected[1:]:
            stream.drop()
        if not connected:
            raise failures[0]
        return connected[0]

    @classmethod
    async def _connect_to(cls, address: str, port: int, local: tuple[str, int] | None) -> AsyncioSocket:
        loop = asyncio.get_running_loop()
        # Not by asyncio's own race (`happy_eyeballs_delay`): cancelled as it ends, it leaves a socket open.
        _, stream = await loop.create_connection(cls, address, port, local_addr=local)
        return stream

    async def start_tls(self, context: ssl.SSLContext, hostname: str) -> None:
        """Do the TLS handshake. What is sent and received from then on is encrypted.

        A server that ends the connection without the goodbye of TLS is taken at its word, as by all clients of HTTP.

        Raises:
            ssl.SSLError: It failed, such as for a certificate that is not trusted.
            anyio.EndOfStream: The other end has closed the connection.
            anyio.BrokenResourceError: The connection broke.
        """
        tls = _Tls(context, hostname)
        while not tls.shake_hands():
            await self.send(tls.to_send())
            tls.received(await self.receive())
        await self.send(tls.to_send())
        self._tls = tls
        early, self._received, self._size = self._received, deque(), 0
        for data in (b"", *early):  # the answer to the handshake may have had more behind it
            self.data_received(data)

    # What the readers and writers call.

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return what has come, as soon as something has. Of many that do, some go on in each turn (`WakeLimit`).

        Raises:
            anyio.EndOfStream: The other end has closed the connection.
            anyio.BrokenResourceError: The connection broke.
            anyio.ClosedResourceError: It was closed here.
            anyio.BusyResourceError: Another task reads already.
        """
        if not self._received:
            await self._wait_to_read()
        data = self._received.popleft()
        if len(data) > max_bytes:
            self._received.appendleft(data[max_bytes:])
            data = data[:max_bytes]
        self._size -= len(data)
        if self._paused and self._size < _FULL and not self._closed:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def _wait_to_read(self) -> None:
        if self._reader is not None:
            raise anyio.BusyResourceError("reading from")
        await checkpoint_if_cancelled()  # data that keeps coming would win over a cancellation each time
        while not self._received:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._ended:
                raise anyio.EndOfStream if self._failure is None else anyio.BrokenResourceError from self._failure
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None

    async def receive_by(self, deadline: float) -> bytes:
        """Return what has come, as soon as something has, and nothing when the other end has closed the connection.

        It has no scope of its own: one timer for each socket, which is set again when it fires, takes the place of one
        for each answer.

        Args:
            deadline: On the loop's clock.

        Raises:
            TimeoutError: Nothing came by then.
            anyio.BrokenResourceError: The connection broke.
            anyio.ClosedResourceError: It was closed here.
        """
        if not self._received:
            if self._ended or self._closed:
                return self._nothing()
            self._deadline = deadline
            if self._timer is None or self._timer.when() > deadline:
                self._set_timer()
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader, self._deadline = None, math.inf
            if not self._received:
                return self._nothing()
        data = self._received.popleft()
        self._size -= len(data)
        if self._paused and self._size < _FULL and not self._closed:
            self._paused = False
            self._transport.resume_reading()
        return data

    def _nothing(self) -> bytes:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._failure is not None:
            raise anyio.BrokenResourceError from self._failure
        return b""

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._deadline, self._look_at_clock) if self._deadline < math.inf else None

    def _look_at_clock(self) -> None:
        """End the wait of a reader whose deadline has passed. It may belong to a later answer than the timer."""
        self._timer = None
        if self._deadline > self._loop.time():
            self._set_timer()
        elif self._received:
            self._wake()  # it came in time, and waited for its turn
        elif self._reader is not None and not self._reader.done():
            self._reader.set_exception(TimeoutError())

    def send_now(self, item: bytes) -> None:
        """Send something small, without waiting until the system has taken all of it.

        Raises:
            anyio.BrokenResourceError: The connection broke.
            anyio.ClosedResourceError: It was closed here.
        """
        self._require_writable()
        if self._tls is not None:
            try:
                item = self._tls.encrypt(item)
            except ssl.SSLError as error:
                raise anyio.BrokenResourceError from error
        self._transport.write(item)

    async def send(self, item: bytes) -> None:
        """Send, and return when the system has taken all of it.

        Raises:
            anyio.BrokenResourceError: The connection broke.
            anyio.ClosedResourceError: It was closed here.
        """
        self.send_now(item)
        while self._full:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None
            self._require_writable()

    def _require_writable(self) -> None:
        if self._closed:
            raise anyio.ClosedResourceError
        if self._failure is not None or self._transport.is_closing():
            raise anyio.BrokenResourceError from self._failure

    async def send_eof(self) -> None:
        """Send no more."""
        self._transport.write_eof()

    async def aclose(self) -> None:
        """Close the socket. It is closed when this returns."""
        self._closed = True
        self._transport.abort()
        self._wake()
        await asyncio.sleep(0)  # asyncio closes it in the next turn of its loop

    def drop(self) -> None:
        """Close the socket when nobody holds it any more. The event loop does: it would read on."""
        with suppress(RuntimeError):
            if not self._closed and asyncio.get_running_loop() is self._loop:
                self._transport.abort()

    @property
    def has_unread(self) -> bool:
        """Whether something has come, or the end."""
        return bool(self._received) or self._ended or self._closed

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The socket and its addresses."""
        info, tls = self._transport.get_extra_info, self._tls
        attributes: dict[Any, Callable[[], Any]] = {
            SocketAttribute.raw_socket: lambda: info("socket"),
            SocketAttribute.local_address: lambda: info("sockname"),
            SocketAttribute.remote_address: lambda: info("peername"),
        }
        if tls is not None:
            attributes[TLSAttribute.ssl_object] = lambda: tls.state
        return attributes

    def _wake(self) -> None:
        for waiting in (self._reader, self._writer):
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._transport.set_write_buffer_limits(high=0)  # `send` returns when the system has it all

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._tls is not None:
            data = self._decrypted(self._tls, data)
            if not data:
                return
        self._received.append(data)
        self._size += len(data)
        if self._size >= _FULL and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        if self._reader is not None and not self._reader.done():
            if self._deadline - self._loop.time() > _SPARE:
                self._wakes.wake(self._reader)
            else:  # a process that was stopped finds the answer, this deadline and that of who asks in the same turn
                self._reader.set_result(None)

    def _decrypted(self, tls: _Tls, data: bytes) -> bytes:
        """What these bytes say, which may be nothing yet. What they ask for is sent."""
        try:
            text = tls.decrypt(data)
        except ssl.SSLError as error:
            text = b""
            self._ended, self._failure = True, error
            self._transport.abort()
        if tls.ended:
            self._ended = True
        if (asked := tls.to_send()) and not self._transport.is_closing():
            self._transport.write(asked)
        if self._ended:
            self._wake()
        return text

    def eof_received(self) -> bool:
        """The other end sends no more. It may still read."""
        self._ended = True
        self._wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._ended = True
        self._failure = self._failure or exc
        self._full = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake()

    def pause_writing(self) -> None:
        """The system takes no more bytes for now."""
        self._full = True

    def resume_writing(self) -> None:
        """It has taken all."""
        self._full = False
        self._wake()


class _Tls:
    """One connection's side of TLS, without I/O.

    Attributes:
        state: What ssl knows of the connection.
        ended: Whether the other end has said goodbye.
    """

    def __init__(self, context: ssl.SSLContext, hostname: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # As bytes: of text, ssl would make bytes by an older standard of names (IDNA 2003).
        self.state = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname.encode("ascii"))
        self.ended = False

    def shake_hands(self) -> bool:
        """Go on with the handshake. Returns whether it is done: if it is not, more must be sent and received."""
        try:
            self.state.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def received(self, data: bytes) -> None:
        """Take in what came, during the handshake."""
        self._incoming.write(data)

    def to_send(self) -> bytes:
        """What is to be sent now."""
        return self._outgoing.read()

    def encrypt(self, text: bytes) -> bytes:
        """Return the bytes to send for a text."""
        rest = memoryview(text)
        while rest:
            rest = rest[self.state.write(rest) :]
        return self._outgoing.read()

    def decrypt(self, data: bytes) -> bytes:
        """Return what those bytes say, as far as they do."""
        self._incoming.write(data)
        parts = []
        try:
            while part := self.state.read(_RECORDS):
                parts.append(part)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        return parts[0] if len(parts) == 1 else b"".join(parts)


async def _addresses(host: str, port: int) -> list[str]:
    """The addresses of a host, IPv6 and IPv4 in turn (RFC 8305)."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    by_family: dict[int, dict[str, None]] = {}
    for family, _, _, _, place in found:
        by_family.setdefault(family, {})[str(place[0])] = None
    return [address for each in zip_longest(*by_family.values()) for address in each if address is not None]

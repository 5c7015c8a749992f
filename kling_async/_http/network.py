"""The sockets of the connection pool as httpcore wants them: on asyncio our own (`asyncio_socket`), on trio anyio's.

httpcore has such a backend itself. It opens a scope for a time limit around each read and write, also where there is no
limit. A status call has one limit as a whole (`ProviderTransport`), and needs none for its parts.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpcore
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

from kling_async._event_loop.clock import on_asyncio
from kling_async._http.asyncio_socket import BROKEN, AsyncioSocket

__all__ = ["Network"]


class Network(httpcore.AsyncNetworkBackend):
    """Connects sockets on the event loop that runs, asyncio's or trio's."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of the host that answers."""
        async with _connecting(timeout):
            stream: ByteStream
            if on_asyncio():
                stream = await AsyncioSocket.connect(host, port, local_address)
            else:
                stream = await anyio.connect_tcp(host, port, local_host=local_address)
        for option in socket_options or ():
            stream.extra(SocketAttribute.raw_socket).setsockopt(*option)  # noqa: S610  # no database
        return _Stream(stream)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await anyio.sleep(seconds)


@asynccontextmanager
async def _connecting(seconds: float | None) -> AsyncIterator[None]:
    try:
        with anyio.fail_after(seconds):
            yield
    except TimeoutError as error:
        raise httpcore.ConnectTimeout(str(error)) from error
    except (OSError, anyio.EndOfStream, *BROKEN) as error:  # ssl.SSLError is an OSError
        raise httpcore.ConnectError(str(error)) from error


class _Stream(httpcore.AsyncNetworkStream):
    """A connected socket.

    Attributes:
        direct: The socket itself, where there is nothing between the two that its bytes must pass.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        below = stream.transport_stream if isinstance(stream, TLSStream) else stream
        self._asyncio: AsyncioSocket | None = below if isinstance(below, AsyncioSocket) else None
        self.direct = self._asyncio if below is stream else None
        self._socket: socket.socket = stream.extra(SocketAttribute.raw_socket)  # noqa: S610  # the same
        self._poll: select.poll | None = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # the same
        try:
            if timeout is None:
                return await self._stream.receive(max_bytes)
            with anyio.fail_after(timeout):
                return await self._stream.receive(max_bytes)
        except anyio.EndOfStream:
            return b""
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except BROKEN as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # the same
        if not buffer:
            return
        try:
            if timeout is None:
                await self._stream.send(buffer)
                return
            with anyio.fail_after(timeout):
                await self._stream.send(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except BROKEN as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the same
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with _connecting(timeout):
                secured = self._stream
                # A context that is not Python's own may block: anyio makes its connections in a thread.
                if isinstance(secured, AsyncioSocket) and type(ssl_context) is ssl.SSLContext and server_hostname:
                    await secured.start_tls(ssl_context, server_hostname)
                else:
                    secured = await TLSStream.wrap(
                        self._stream,
                        ssl_context=ssl_context,
                        hostname=server_hostname,
                        standard_compatible=False,
                        server_side=False,
                    )
        except Exception:
            await self.aclose()
            raise
        self._asyncio = None  # it belongs to the other now
        return _Stream(secured)

    def __del__(self) -> None:
        if self._asyncio is not None:
            self._asyncio.drop()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._is_readable()
        if info == "socket":
            return self._socket
        attributes = {
            "ssl_object": TLSAttribute.ssl_object,
            "client_addr": SocketAttribute.local_address,
            "server_addr": SocketAttribute.remote_address,
        }
        return self._stream.extra(attributes[info], None) if info in attributes else None  # noqa: S610  # the same

    def _is_readable(self) -> bool:
        """Whether reading would not wait. A closed socket counts as readable: reading it tells at once."""
        if self._socket.fileno() < 0 or (self._asyncio is not None and self._asyncio.has_unread):
            return True
        if not hasattr(select, "poll"):
            return bool(select.select([self._socket], [], [], 0)[0])
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._socket, select.POLLIN)
        return bool(self._poll.poll(0))

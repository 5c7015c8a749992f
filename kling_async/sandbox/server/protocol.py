"""uvicorn with a hand on each connection: counted, killable by a real RST, and quick to start and stop."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import HTTPConnection

    from kling_async.sandbox.emulator.counters import Counters

_LINGER_ZERO = struct.pack("ii", 1, 0)  # SO_LINGER, no time: close() sends RST instead of FIN
_TICK = 1.0  # real seconds between updates of the Date header


def _is_news(record: logging.LogRecord) -> bool:
    """False for the answers that `Server.shutdown` cancels: uvicorn reports them as failures."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


_log = logging.getLogger("kling_async.sandbox")
_log.addFilter(_is_news)


class Connection(AutoHTTPProtocol):  # type: ignore[misc,valid-type]  # uvicorn picks h11 or httptools at import
    """A client's connection. Endpoints find it at `request.state.connection`."""

    counters: Counters
    keep_alive: Callable[[], float]

    def __init__(self, *args: Any, app_state: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, app_state={**app_state, "connection": self}, **kwargs)
        self.logger = _log
        self.access_log = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection in."""
        counters = self.counters
        counters.connections += 1
        counters.open_connections += 1
        counters.peak_connections = max(counters.peak_connections, counters.open_connections)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection out."""
        self.counters.open_connections -= 1
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Let the connection idle as long as the sandbox now allows."""
        self.timeout_keep_alive = self.keep_alive()
        super().on_response_complete()

    def reset(self) -> None:
        """Kill the connection as a crashed server would: the client reads ECONNRESET, not an orderly end."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self.transport.abort()

    def hang_up(self) -> None:
        """End the connection in an orderly way, in the middle of what was being sent."""
        self.transport.close()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """A connection that has become a WebSocket. `Connection` has counted it in."""

    counters: Counters

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection out."""
        self.counters.open_connections -= 1
        super().connection_lost(exc)


def connection(request: HTTPConnection) -> Connection:
    """The connection that a request or a WebSocket came on."""
    found: Connection = request.state.connection
    return found


class Server(uvicorn.Server):
    """A uvicorn server for a thread of its own: reports when it is ready, stops at once, never in half-seconds.

    Args:
        app: The ASGI application.
        counters: Where connections are counted.
        keep_alive: Real seconds that an idle connection is kept now.
        background: What else runs on the server's loop for as long as it does.
    """

    def __init__(
        self,
        app: Any,
        counters: Counters,
        keep_alive: Callable[[], float],
        background: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        protocol = type("Connection", (Connection,), {"counters": counters, "keep_alive": staticmethod(keep_alive)})
        sockets = type("WebSocketConnection", (WebSocketConnection,), {"counters": counters})
        super().__init__(
            uvicorn.Config(app, http=protocol, ws=sockets, lifespan="off", log_config=None, server_header=False)
        )
        self.ready = threading.Event()
        self._background = background
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()

    async def main_loop(self) -> None:
        """Serve until `stop`."""
        self._loop = asyncio.get_running_loop()
        background = asyncio.create_task(self._background())
        await self.on_tick(0)
        self.ready.set()
        try:
            while not self.should_exit:
                try:
                    await asyncio.wait_for(self._woken.wait(), _TICK)
                except TimeoutError:
                    await self.on_tick(0)
        finally:
            background.cancel()
            await asyncio.gather(background, return_exceptions=True)

    def stop(self) -> None:
        """Ask the server to end, from any thread."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._woken.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close everything now: this server's clients are tests and demos, which have their answers."""
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        for open_connection in list(self.server_state.connections):
            open_connection.transport.abort()
        answering = list(self.server_state.tasks)
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)
        # One more turn of the loop, so that the aborted transports really close their sockets.
        await asyncio.sleep(0)

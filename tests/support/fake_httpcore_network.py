"""HTTP servers in memory: a network backend for httpcore whose sockets answer what a test wants.

Every operation passes one checkpoint, as on real sockets. Time is the event loop's, and can be skipped.
"""

import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import h2.config
import h2.connection
import h2.events
import h11
import httpcore

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OK_AND_CLOSE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@dataclass(frozen=True)
class Received:
    """A request as it reached a server."""

    socket: int
    host: str
    target: str
    body: bytes


class FakeNetwork(httpcore.AsyncNetworkBackend):
    """Every host and port is a server here.

    Attributes:
        answer: What a server writes back to a request. None is silence, b"" is hanging up.
        gate: While it is not set, answers are held back.
        dial_gate: While it is not set, connects do not finish.
        http2: Whether TLS negotiates HTTP/2.
        connect_errors: What the next connects raise, first one first.
        silent_handshake: Whether servers never answer a TLS handshake.
        received: The requests, in order of arrival.
        sockets: The sockets, in order of opening.
        most_open: Most sockets that were open at once.
        timeouts: What httpcore asked for, by operation.
        readable_checks: How often a socket was asked whether it is readable.
        tls_contexts: The contexts used, in order of handshakes.
    """

    def __init__(self) -> None:
        self.answer: Callable[[Received], bytes | None] = lambda _: OK
        self.gate = _open_gate()
        self.dial_gate = _open_gate()
        self.http2 = False
        self.connect_errors: list[Exception] = []
        self.silent_handshake = False
        self.received: list[Received] = []
        self.sockets: list[FakeSocket] = []
        self.most_open = 0
        self.timeouts: dict[str, set[float | None]] = {}
        self.readable_checks = 0
        self.tls_contexts: list[ssl.SSLContext] = []

    @property
    def open(self) -> int:
        return sum(not socket.closed for socket in self.sockets)

    @property
    def targets(self) -> list[str]:
        return [received.target for received in self.received]

    def requests_per_socket(self) -> Counter[int]:
        return Counter(received.socket for received in self.received)

    def hang_up_idle(self) -> None:
        """Close every connection from the server's side, in a way that the client can notice."""
        for socket in self.sockets:
            socket.hang_up()

    def kill(self) -> None:
        """Make every open connection dead, in a way that shows only when it is used."""
        for socket in self.sockets:
            socket.dead = True

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.timeouts.setdefault("connect", set()).add(timeout)
        await anyio.lowlevel.checkpoint()
        await self.dial_gate.wait()
        if self.connect_errors:
            raise self.connect_errors.pop(0)
        socket = FakeSocket(self, len(self.sockets), host)
        self.sockets.append(socket)
        self.most_open = max(self.most_open, self.open)
        return socket


class FakeSocket(httpcore.AsyncNetworkStream):
    def __init__(self, network: FakeNetwork, number: int, host: str) -> None:
        self.network = network
        self.number = number
        self.host = host
        self.closed = False
        self.dead = False
        self.hung_up = False
        self.alpn: str | None = None
        self._server: _Http1Server | _Http2Server = _Http1Server(self)
        self._outgoing = bytearray()
        self._news = anyio.Event()

    def hang_up(self) -> None:
        self.hung_up = True
        self._news.set()

    def say(self, data: bytes) -> None:
        self._outgoing += data
        self._news.set()

    def hear(self, received: Received) -> bytes | None:
        self.network.received.append(received)
        answer = self.network.answer(received)
        if answer == b"":
            self.hang_up()
        return answer

    def refuse_streams(self, last_stream_id: int) -> None:
        """Say goodbye by GOAWAY (HTTP/2), without being noticed before the next read."""
        assert isinstance(self._server, _Http2Server)
        self._server.refuse_streams(last_stream_id)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # the same
    ) -> httpcore.AsyncNetworkStream:
        self.network.tls_contexts.append(ssl_context)
        await anyio.lowlevel.checkpoint()
        if self.network.silent_handshake:
            await anyio.sleep_forever()
        self.alpn = "h2" if self.network.http2 else "http/1.1"
        if self.network.http2:
            self._server = _Http2Server(self)
        return self

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109  # the same
        self.network.timeouts.setdefault("read", set()).add(timeout)
        await anyio.lowlevel.checkpoint()
        while True:
            await self.network.gate.wait()
            if self.closed or self.dead:
                raise httpcore.ReadError
            if self._outgoing:
                data = bytes(self._outgoing[:max_bytes])
                del self._outgoing[:max_bytes]
                return data
            if self.hung_up:
                return b""
            self._news = anyio.Event()
            await self._news.wait()

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109  # the same
        self.network.timeouts.setdefault("write", set()).add(timeout)
        await anyio.lowlevel.checkpoint()
        if self.closed:
            raise httpcore.WriteError
        if buffer and not self.dead:
            self._server.receive(buffer)

    async def aclose(self) -> None:
        self.closed = True
        self._news.set()
        await anyio.lowlevel.checkpoint()

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self if self.alpn else None
        if info == "is_readable":
            self.network.readable_checks += 1
            return self.hung_up
        return None

    def selected_alpn_protocol(self) -> str | None:
        return self.alpn


class _Http1Server:
    def __init__(self, socket: FakeSocket) -> None:
        self._socket = socket
        self._parser = h11.Connection(h11.SERVER)
        self._target = ""
        self._body = bytearray()

    def receive(self, data: bytes) -> None:
        self._parser.receive_data(data)
        while (event := self._parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Request):
                self._target = event.target.decode()
                self._body.clear()
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self._parser = h11.Connection(h11.SERVER)
                socket = self._socket
                received = Received(socket.number, socket.host, self._target, bytes(self._body))
                if answer := socket.hear(received):
                    socket.say(answer)


class _Http2Server:
    def __init__(self, socket: FakeSocket) -> None:
        self._socket = socket
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self._h2.initiate_connection()
        self._targets: dict[int, str] = {}
        socket.say(self._h2.data_to_send())

    def receive(self, data: bytes) -> None:
        for event in self._h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self._targets[event.stream_id] = dict(event.headers)[b":path"].decode()
            elif isinstance(event, h2.events.StreamEnded):
                received = Received(self._socket.number, self._socket.host, self._targets.pop(event.stream_id), b"")
                if self._socket.hear(received) is not None:
                    self._h2.send_headers(event.stream_id, [(":status", "200"), ("content-length", "2")])
                    self._h2.send_data(event.stream_id, b"ok", end_stream=True)
        self._socket.say(self._h2.data_to_send())

    def refuse_streams(self, last_stream_id: int) -> None:
        self._h2.close_connection(last_stream_id=last_stream_id)
        self._socket.say(self._h2.data_to_send())
        self._socket.hung_up = True
        self.receive = lambda data: None  # type: ignore[method-assign]  # deaf from now on


def _open_gate() -> anyio.Event:
    gate = anyio.Event()
    gate.set()
    return gate

"""The sockets of the pool, against real ones: what is read, what a time limit does, and what a broken one raises."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpcore
import pytest
import sniffio
from anyio import to_thread

from kling_async._http.network import Network
from support.certificates import make_certificate

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[httpcore.AsyncNetworkStream, socket.socket]]:
    """A stream of ours, and the other end of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = await Network().connect_tcp("127.0.0.1", server.getsockname()[1], timeout=120)
        peer, _ = server.accept()
        with peer:
            try:
                yield stream, peer
            finally:
                await stream.aclose()


@pytest.mark.parametrize("limit", [None, 120.0])
async def test_bytes_go_both_ways(limit: float | None) -> None:
    async with connected() as (stream, peer):
        await stream.write(b"", limit)
        await stream.write(b"question", limit)
        assert peer.recv(100) == b"question"
        peer.sendall(b"answer")
        assert await stream.read(100, limit) == b"answer"
        peer.shutdown(socket.SHUT_WR)
        assert await stream.read(100, limit) == b""


async def test_a_read_ends_at_its_time_limit() -> None:
    async with connected() as (stream, _):
        with pytest.raises(httpcore.ReadTimeout):
            await stream.read(100, 0.01)


async def test_a_write_ends_at_its_time_limit() -> None:
    async with connected() as (stream, _):
        with pytest.raises(httpcore.WriteTimeout):
            await stream.write(b"x" * 50_000_000, 0.01)  # nobody reads


async def test_a_closed_stream_raises_the_errors_of_httpcore() -> None:
    async with connected() as (stream, _):
        await stream.aclose()
        with pytest.raises(httpcore.ReadError):
            await stream.read(100)
        with pytest.raises(httpcore.WriteError):
            await stream.write(b"x")


async def test_a_refused_connection_raises_the_error_of_httpcore() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(httpcore.ConnectError):
        await Network().connect_tcp("127.0.0.1", port)


async def test_it_shows_when_the_other_end_has_sent_or_hung_up() -> None:
    async with connected() as (stream, peer):
        assert stream.get_extra_info("is_readable") is False
        peer.sendall(b"x")
        with anyio.fail_after(120):
            while not stream.get_extra_info("is_readable"):
                await anyio.lowlevel.checkpoint()
        assert stream.get_extra_info("server_addr") == peer.getsockname()
        assert stream.get_extra_info("ssl_object") is None
        assert stream.get_extra_info("unknown") is None
        await stream.aclose()
        assert stream.get_extra_info("is_readable") is True


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_of_several_addresses_the_first_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host may have IPv6 and listen on IPv4 alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        places = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", port)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

        async def several(host: str, *_: object, **__: object) -> object:
            return places if host == "several.test" else await asked(host, port, type=socket.SOCK_STREAM)

        loop = asyncio.get_running_loop()
        asked = loop.getaddrinfo
        monkeypatch.setattr(loop, "getaddrinfo", several)
        stream = await Network().connect_tcp("several.test", port, timeout=120)
        assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
        await stream.aclose()
    with pytest.raises(httpcore.ConnectError):
        await Network().connect_tcp("several.test", port, timeout=120)


SECRET = b"answer" * 100_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@asynccontextmanager
async def encrypted(
    certificate: Path, speak: Callable[[ssl.SSLSocket], None], *, host: str = "localhost", trusted: bool = True
) -> AsyncIterator[httpcore.AsyncNetworkStream]:
    """A stream after the handshake, with a server that then speaks."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            peer, _ = server.accept()
            try:
                with context.wrap_socket(peer, server_side=True) as secured:
                    speak(secured)
            except OSError:  # the client hung up
                pass

        thread = threading.Thread(target=serve)
        thread.start()
        stream = await Network().connect_tcp("127.0.0.1", server.getsockname()[1], timeout=120)
        try:
            context = ssl.create_default_context(cafile=certificate if trusted else None)
            stream = await stream.start_tls(context, host, timeout=120)
            yield stream
        finally:
            await stream.aclose()
            await to_thread.run_sync(thread.join)


async def read_to_end(stream: httpcore.AsyncNetworkStream) -> bytes:
    received = b""
    while data := await stream.read(65536, 120):
        received += data
    return received


@pytest.mark.parametrize("goodbye", [True, False])
async def test_bytes_go_both_ways_over_tls(certificate: Path, goodbye: bool) -> None:
    asked: list[bytes] = []

    def speak(peer: ssl.SSLSocket) -> None:
        while sum(map(len, asked)) < len(SECRET):
            asked.append(peer.recv(65536))
        peer.sendall(SECRET)
        if goodbye:
            peer.unwrap()

    async with encrypted(certificate, speak) as stream:
        assert stream.get_extra_info("ssl_object").version().startswith("TLS")
        await stream.write(SECRET, 120)
        assert await read_to_end(stream) == SECRET
        assert await stream.read(100, 120) == b""
    assert b"".join(asked) == SECRET


@pytest.mark.parametrize(("host", "trusted"), [("localhost", False), ("elsewhere.test", True)])
async def test_a_certificate_that_does_not_fit_is_no_connection(certificate: Path, host: str, trusted: bool) -> None:
    with pytest.raises(httpcore.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        async with encrypted(certificate, lambda _: None, host=host, trusted=trusted):
            pass


async def test_a_handshake_that_is_cut_off_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = await Network().connect_tcp("127.0.0.1", server.getsockname()[1], timeout=120)
        server.accept()[0].close()
        with pytest.raises(httpcore.ConnectError):
            await stream.start_tls(ssl.create_default_context(), "localhost", timeout=120)


async def test_a_handshake_has_a_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stream = await Network().connect_tcp("127.0.0.1", server.getsockname()[1], timeout=120)
        with pytest.raises(httpcore.ConnectTimeout):
            await stream.start_tls(ssl.create_default_context(), "localhost", timeout=0.05)


async def test_what_is_not_encrypted_after_the_handshake_is_an_error(certificate: Path) -> None:
    def speak(peer: ssl.SSLSocket) -> None:
        peer.recv(1)
        plain = socket.socket(fileno=peer.detach())
        with plain:
            plain.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with encrypted(certificate, speak) as stream:
        await stream.write(b"x", 120)
        with pytest.raises((httpcore.ReadError, ssl.SSLError)):
            await stream.read(100, 120)
        if sniffio.current_async_library() == "asyncio":
            with pytest.raises(httpcore.WriteError):
                await stream.write(b"x", 120)

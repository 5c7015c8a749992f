"""The sockets of the pool, against real ones: what is read, what a time limit does, and what a broken one raises."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpcore
import pytest

from kling_async._http.network import Network

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

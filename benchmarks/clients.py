"""The clients that are compared: each over 100 connections, each imported only in the process that measures it.

None of them closes an idle connection during the measurement: what is compared is a request on a kept connection.
(With a short keep-alive, stock httpx gets cheaper as it goes, because it ends up with a dozen connections to scan.)
"""

import importlib
import importlib.metadata
import importlib.util
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

CONNECTIONS = 100
_KEEPALIVE = 3600.0  # seconds
_MIB = 1024 * 1024
_PATIENCE = 30.0  # seconds to connect or to receive. Waiting for a connection is not bounded

Fetch = Callable[[], Awaitable[bytes]]


@asynccontextmanager
async def _aiohttp(url: str) -> AsyncIterator[Fetch]:
    aiohttp = importlib.import_module("aiohttp")
    connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=_KEEPALIVE)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_PATIENCE, sock_read=_PATIENCE)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def fetch() -> bytes:
            async with session.get(url) as response:
                body: bytes = await response.read()
                return body

        yield fetch


@asynccontextmanager
async def _httpx(url: str, module: str = "httpx", **options: Any) -> AsyncIterator[Fetch]:
    httpx = importlib.import_module(module)
    async with httpx.AsyncClient(timeout=httpx.Timeout(_PATIENCE, pool=None), **options) as client:

        async def fetch() -> bytes:
            response = await client.get(url)
            body: bytes = response.content
            return body

        yield fetch


@asynccontextmanager
async def _stock_httpx(url: str, module: str = "httpx") -> AsyncIterator[Fetch]:
    httpx = importlib.import_module(module)
    limits = httpx.Limits(
        max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=_KEEPALIVE
    )
    async with _httpx(url, module, limits=limits) as fetch:
        yield fetch


def _httpx2(url: str) -> AbstractAsyncContextManager[Fetch]:
    return _stock_httpx(url, "httpx2")


@asynccontextmanager
async def _our_engine(url: str, http: str | None = None) -> AsyncIterator[Fetch]:
    import anyio  # noqa: PLC0415  # in the process that measures it

    from kling_async._event_loop.clock import loop_time  # noqa: PLC0415  # the same
    from kling_async._exchange.urls import Url  # noqa: PLC0415  # the same
    from kling_async._http.backend import HttpBackend  # noqa: PLC0415  # the same
    from kling_async._http.limits import Limits  # noqa: PLC0415  # the same
    from kling_async._http.response import read_whole_body  # noqa: PLC0415  # the same
    from kling_async._http.tls import ssl_context  # noqa: PLC0415  # the same

    engine = HttpBackend(http, Limits(connections=CONNECTIONS, keepalive=_KEEPALIVE), ssl_context())
    target = Url.parse(url)
    headers, extensions = {"accept": "application/json"}, {"retry_stale": True}

    async def fetch() -> bytes:
        # As a status call is sent (`ProviderTransport`): its turn, a kept connection if there is one, one time limit.
        async with engine.concurrency:
            deadline = loop_time() + _PATIENCE
            reply = await engine.ask("GET", target, headers, b"", deadline=deadline, longest=_MIB, retry_stale=True)
            if reply is not None:
                return reply.content
            with anyio.CancelScope(deadline=deadline):
                response = await engine.send("GET", target, headers, seconds=math.inf, extensions=extensions)
                try:
                    return await read_whole_body(response, _MIB)
                finally:
                    await response.aclose()
        raise TimeoutError

    try:
        yield fetch
    finally:
        await engine.aclose()


def _our_fast_reads(url: str) -> AbstractAsyncContextManager[Fetch]:
    return _our_engine(url, "fast")


@dataclass(frozen=True)
class Client:
    """One row of the table.

    Attributes:
        title: What it is called there.
        package: What must be installed for it.
        connect: Makes a function that sends one GET request and returns the body.
        compared: Whether a target names it.
    """

    title: str
    package: str
    connect: Callable[[str], AbstractAsyncContextManager[Fetch]]
    compared: bool = True

    @property
    def installed(self) -> bool:
        """Whether it can be measured here."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def label(self) -> str:
        """Its title, with the version of the package."""
        return self.title.format(importlib.metadata.version(self.package))


AIOHTTP, STOCK, HTTPX2, ENGINE, FAST = "aiohttp", "httpx", "httpx2", "kling-engine", "kling-fast"

CLIENTS = {
    AIOHTTP: Client("aiohttp {}", "aiohttp", _aiohttp),
    STOCK: Client("httpx {}", "httpx", _stock_httpx, compared=False),
    HTTPX2: Client("httpx2 {}", "httpx2", _httpx2, compared=False),
    ENGINE: Client("kling_async's engine", "httpx", _our_engine),
    FAST: Client('kling_async with http="fast" (httptools {})', "httptools", _our_fast_reads),
}

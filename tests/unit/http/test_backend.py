"""What the calls may travel through: our pool (respx included), a proxy, and what the user injects."""

from __future__ import annotations

import gc
import math
import ssl
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread, get_ident
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.from_thread
import anyio.to_thread
import httpx
import pytest
import respx

from kling_async import (
    Client,
    ConfigurationError,
    KlingError,
    Limits,
    MemoryLedger,
    Polling,
    Progressive,
    RunBlob,
    SqliteLedger,
    SubmissionUnknown,
    TransportFailed,
    runblob,
)
from kling_async._http import backend
from kling_async._http.tls import ssl_context
from kling_async.sandbox import Fault, Sandbox

PHOTO = runblob.O3Photo("a boat", resolution="1k")
QUICK = Polling(schedule=Progressive(0.1), status_calls_per_minute=math.inf, deadline=30)
URL = "https://platform.runblob.io/v1/kling/o3-photo"


def provider(sandbox: Sandbox) -> RunBlob:
    return RunBlob(sandbox.api_key("runblob"), sandbox.base_url("runblob"))


class Proxy(BaseHTTPRequestHandler):
    """A forwarding HTTP proxy that counts."""

    forwarded = 0
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        type(self).forwarded += 1
        target = urlsplit(self.path)
        upstream = HTTPConnection(target.netloc)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        upstream.request(self.command, target.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name in ("content-type",):
            self.send_header(name, answer.headers[name])
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        upstream.close()

    do_GET = do_POST = forward  # noqa: N815  # the names that the base class calls

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def proxy() -> Iterator[str]:
    Proxy.forwarded = 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.asyncio
@respx.mock
async def test_respx_mocks_the_client_as_it_is() -> None:
    """Users test their own code with respx: our pool must be caught by it."""
    submit = respx.post(f"{URL}/generate").respond(
        201, json={"generation_id": "1", "status": "pending", "price": "0.05"}
    )
    status = respx.get(f"{URL}/generations/1").mock(
        side_effect=[
            httpx.Response(200, json={"generation_id": "1", "status": "processing"}),
            httpx.Response(200, json={"generation_id": "1", "status": "completed", "image_url": "https://cdn.test/1"}),
        ]
    )
    async with Client(RunBlob("rb_key"), polling=Polling(schedule=Progressive(0.01))) as client:
        result = await client.run(PHOTO)
    assert result.urls == ["https://cdn.test/1"]
    assert (submit.call_count, status.call_count) == (1, 2)
    assert submit.calls.last.request.headers["authorization"] == "Bearer rb_key"


@pytest.mark.asyncio
@respx.mock
@pytest.mark.parametrize("error", [httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError])
async def test_an_error_without_evidence_leaves_the_outcome_unknown(error: type[httpx.TransportError]) -> None:
    submit = respx.post(f"{URL}/generate").mock(side_effect=error)
    async with Client(RunBlob("rb_key")) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(PHOTO)
    assert submit.call_count == 1


@pytest.mark.asyncio
@respx.mock
async def test_a_connection_that_was_never_made_is_tried_again() -> None:
    accepted = httpx.Response(201, json={"generation_id": "1", "status": "pending", "price": "0.05"})
    submit = respx.post(f"{URL}/generate").mock(side_effect=[httpx.ConnectError, httpx.ConnectTimeout, accepted])
    async with Client(RunBlob("rb_key")) as client:
        assert (await client.submit(PHOTO)).ref.id == "1"
    assert submit.call_count == 3


@pytest.mark.asyncio
async def test_a_proxy_is_used(sandbox: Sandbox, proxy: str) -> None:
    async with Client(provider(sandbox), polling=QUICK, http=proxy) as client:
        assert (await client.run(PHOTO)).urls
    assert Proxy.forwarded == sandbox.counters.requests.total() >= 2


@pytest.mark.asyncio
async def test_the_environments_proxy_is_used(sandbox: Sandbox, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    async with Client(provider(sandbox), polling=QUICK) as client:
        assert (await client.run(PHOTO)).urls
    assert Proxy.forwarded >= 2


@pytest.mark.asyncio
async def test_no_proxy_is_obeyed(sandbox: Sandbox, proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with Client(provider(sandbox), polling=QUICK) as client:
        assert (await client.run(PHOTO)).urls
    assert Proxy.forwarded == 0


@asynccontextmanager
async def injected(kind: str) -> AsyncIterator[Any]:
    if kind == "httpx client":
        async with httpx.AsyncClient(headers={"x-own": "1"}) as client:
            yield client
    elif kind == "httpx transport":
        async with httpx.AsyncHTTPTransport() as transport:
            yield transport
    elif kind == "httpx2 client":
        httpx2 = pytest.importorskip("httpx2", reason="httpx2 is not installed; it is in the extra 'dev'")
        async with httpx2.AsyncClient() as client:
            yield client
    else:
        httpx_aiohttp = pytest.importorskip("httpx_aiohttp", reason="httpx-aiohttp is not installed")
        async with httpx_aiohttp.AiohttpTransport() as transport:
            yield transport


ENGINES = ["httpx client", "httpx transport", "httpx2 client", "aiohttp transport"]


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ENGINES)
async def test_an_injected_engine_carries_everything_and_stays_open(kind: str, sandbox: Sandbox, tmp_path: Any) -> None:
    async with injected(kind) as http:
        for _ in range(2):  # closing our client does not close the user's
            async with Client(provider(sandbox), polling=QUICK, http=http) as client:
                result = await client.run(PHOTO)
                [path] = await result.save(tmp_path)
                assert path.suffix in {".png", ".jpg"}
                assert client.statistics().providers["runblob"].connections is None
    assert sandbox.counters.bought["runblob"] == 2


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ENGINES)
async def test_an_answer_lost_by_an_injected_engine_is_unknown(kind: str, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.accept_then_reset, kind="submit", times=1)
    async with injected(kind) as http, Client(provider(sandbox), http=http) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(PHOTO)
    assert sandbox.counters.bought["runblob"] == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ENGINES)
async def test_a_refused_connection_of_an_injected_engine_is_tried_again(kind: str, sandbox: Sandbox) -> None:
    address = sandbox.base_url("runblob")
    sandbox.stop()
    limits = Limits(max_attempts=2)
    async with injected(kind) as http, Client(RunBlob("rb_key", address), http=http, limits=limits) as client:
        with pytest.raises(TransportFailed, match="could not be reached"):
            await client.submit(PHOTO)
        assert client.statistics().providers["runblob"].calls == 2


def test_what_is_no_engine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="dict is none of them"):
        Client(RunBlob("rb_key"), http={})  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_client_serves_two_event_loops(sandbox: Sandbox, backend: str) -> None:
    """And leaves no connection behind in the first."""
    client = Client(provider(sandbox), polling=QUICK)
    job = anyio.run(client.submit, PHOTO, backend=backend)
    assert anyio.run(_outcome, job, backend=backend)
    assert anyio.run(client.run, PHOTO, backend=backend).urls
    del client, job
    gc.collect()


async def _outcome(job: Any) -> Any:
    return await job


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the sockets' own, which follow ours
def test_a_client_that_is_dropped_with_connections_says_how_to_close_it(sandbox: Sandbox, backend: str) -> None:
    """And nothing is said of what it is made of: trio would, of the generator that waits for the loop's end."""

    async def use(*, close: bool) -> None:
        client = Client(provider(sandbox), polling=QUICK)
        await client.run(PHOTO)
        if close:
            await client.aclose()

    async def drop(*, close: bool) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await use(close=close)
            gc.collect()
        return [str(each.message) for each in caught]

    address = urlsplit(sandbox.url).netloc
    reported = anyio.run(partial(drop, close=False), backend=backend)
    [ours] = [text for text in reported if not text.startswith("unclosed ")]
    assert ours == (
        f"a Client was dropped while it had connections to {address}: close it, by `async with Client(...) as "
        "client:` or by `await client.aclose()`"
    )
    assert anyio.run(partial(drop, close=True), backend=backend) == []


def test_the_authorities_that_the_environment_names_are_trusted_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    everyone = ssl_context()
    assert everyone is ssl_context(), "reading them takes long"
    assert len(everyone.get_ca_certs()) > 50
    own = tmp_path / "own.pem"
    own.write_text(ssl.DER_cert_to_PEM_cert(everyone.get_ca_certs(binary_form=True)[0]))
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    assert len(ssl_context().get_ca_certs()) == 1


def test_certificates_that_cannot_be_read_are_named(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")

    async def main() -> None:
        async with Client(provider(sandbox)) as client:
            await client.submit(PHOTO)

    with pytest.raises(ConfigurationError, match=r"SSL_CERT_FILE='/nowhere\.pem' cannot be read"):
        anyio.run(main)
    assert sandbox.counters.jobs_bought == 0


@pytest.mark.anyio
async def test_a_client_that_is_closed_meanwhile_buys_nothing(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call waits for what is loaded beside the event loop. The ledger is closed by then."""
    loading, closed = Event(), Event()

    def load() -> ssl.SSLContext:
        loading.set()
        closed.wait(10)
        return ssl.create_default_context()

    monkeypatch.setattr(backend, "ssl_context", load)
    client = Client(provider(sandbox), ledger=MemoryLedger())

    async def submit() -> None:
        with pytest.raises(ConfigurationError, match="closed before the call was made; nothing was sent"):
            await client.submit(PHOTO, key="a")

    async with anyio.create_task_group() as group:
        group.start_soon(submit)
        await anyio.to_thread.run_sync(loading.wait, 10)
        await client.aclose()
        closed.set()
    assert sandbox.counters.jobs_bought == 0
    assert sandbox.counters.connections == 0


@pytest.mark.anyio
async def test_the_first_calls_may_come_from_every_worker_thread(sandbox: Sandbox) -> None:
    """As from FastAPI's synchronous endpoints: what is loaded beside the loop needs no thread of theirs."""
    anyio.to_thread.current_default_thread_limiter().total_tokens = 2
    async with Client(provider(sandbox), polling=QUICK) as client:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    group.start_soon(anyio.to_thread.run_sync, partial(anyio.from_thread.run, client.run, PHOTO))
    assert sandbox.counters.jobs_bought == 2


@pytest.mark.anyio
async def test_what_takes_long_to_load_is_loaded_beside_the_event_loop(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for all jobs that begin together."""
    made: list[int] = []

    def load() -> ssl.SSLContext:
        made.append(get_ident())
        return ssl.create_default_context()

    monkeypatch.setattr(backend, "ssl_context", load)
    async with Client(provider(sandbox), polling=QUICK) as client, anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(client.run, PHOTO)
    assert len(made) == 1
    assert get_ident() not in made
    assert sandbox.counters.jobs_bought == 10


@pytest.mark.asyncio
async def test_connections_are_kept_between_polls_and_bounded(sandbox: Sandbox) -> None:
    limits = Limits(connections=7, paid_max_idle=60)  # none is replaced, which the server would see as one more
    async with Client(provider(sandbox), polling=QUICK, limits=limits) as client, anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(client.run, PHOTO)
    assert sandbox.counters.peak_connections <= 7
    assert sandbox.counters.jobs_bought == 100


@pytest.mark.asyncio
async def test_a_rehearsal_is_polled_at_its_own_speed(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """On default settings: the sandbox's providers carry its speed, others on this machine take it from a variable."""
    [played] = [one for one in sandbox.providers() if one.name == "runblob"]
    monkeypatch.setenv("KLING_SANDBOX_SPEED", "600")
    for account in (played, provider(sandbox)):
        async with Client(account) as client:
            with anyio.fail_after(10):  # the first poll of a photo would otherwise come after half a minute
                assert (await client.run(PHOTO)).urls
    assert Client(RunBlob("rb_key"))._sessions["runblob"].provider.speed == 1, "never for the real address"


def test_a_speed_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLING_SANDBOX_SPEED", "fast")
    with pytest.raises(ConfigurationError, match="KLING_SANDBOX_SPEED is 'fast'"):
        Client(RunBlob("rb_key", "http://127.0.0.1:1"))


@pytest.mark.anyio
async def test_a_file_that_the_ledger_has_is_not_fetched_again(sandbox: Sandbox, tmp_path: Path) -> None:
    """As when a program is started again, days after the address of the result has expired."""

    async def save(client: Client, folder: str) -> list[Path]:
        return await (await client.run(PHOTO, key="a")).save(tmp_path / folder)

    fetched = []
    for folder in ("out", "out", "elsewhere", "out"):
        async with Client(provider(sandbox), polling=QUICK, ledger=SqliteLedger(tmp_path / "jobs.db")) as client:
            [path] = await save(client, folder)
            assert path.parent == tmp_path / folder
            assert path.stat().st_size > 100
            fetched.append(sandbox.counters.requests["runblob", "download"])
        if len(fetched) == 3:
            path = next((tmp_path / "out").iterdir())
            path.unlink()
    assert fetched == [1, 1, 2, 3]
    assert sandbox.counters.jobs_bought == 1


class RefusingProxy(BaseHTTPRequestHandler):
    """A proxy that wants other credentials."""

    asked: list[str]
    protocol_version = "HTTP/1.1"

    def refuse(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(407)
        self.send_header("proxy-authenticate", 'Basic realm="office"')
        self.send_header("content-length", "0")
        self.end_headers()

    do_CONNECT = do_POST = refuse  # noqa: N815  # the names that the base class calls

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_proxy_that_refuses_its_credentials_buys_nothing(scheme: str) -> None:
    """For https the proxy refuses the tunnel, for http it answers the call in the place of the provider."""
    RefusingProxy.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), RefusingProxy) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            address = f"http://me:hidden@127.0.0.1:{server.server_port}"
            runblob_there = RunBlob("rb_key", f"{scheme}://127.0.0.1:9/v1")
            async with Client(
                runblob_there, http=address, limits=Limits(max_attempts=1), ledger=MemoryLedger()
            ) as client:
                with pytest.raises(KlingError, match="407") as raised:
                    await client.submit(PHOTO)
                assert await client.unresolved() == []
        finally:
            server.shutdown()
            thread.join()
    assert not isinstance(raised.value, SubmissionUnknown)
    assert "hidden" not in str(raised.value)
    assert len(RefusingProxy.asked) == 1

"""Calls over real sockets, by everything that may carry them: our pool with both parsers, an httpx transport."""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import json
import socket
import ssl
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from kling_async import ConfigurationError, KlingError, Limits, RunBlob, TransportFailed
from kling_async._errors import AnswerLost
from kling_async._event_loop.clock import Clock
from kling_async._exchange.calls import Call, Effect, Reply
from kling_async._http.codecs import HttptoolsCodec
from kling_async._http.paid_call import PaidCallTrace
from kling_async._http.tls import ssl_context
from kling_async._http.transport import ProviderTransport
from support.certificates import make_certificate

pytestmark = pytest.mark.asyncio

KEY = "the-key-of-a-user"
PATIENCE = 120.0  # s
CARRIERS = ["pool", "httpx", "fast"]
JSON = b'{"status": "pending"}'
if importlib.util.find_spec("httptools") is None:
    CARRIERS.remove("fast")

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """A server that gives the answers in turn, the last one for ever.

    Attributes:
        requests: The heads of the requests, as they came.
        connections: How many were made.
        open: How many are open now.
    """

    def __init__(self, *answers: Answer | bytes) -> None:
        self._answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = self.open = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(length[0].partition(b":")[2]) if length else 0)
                self.requests.append(head)
                answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                if isinstance(answer, bytes):
                    writer.write(answer)
                else:
                    await answer(writer)
                await writer.drain()
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def all_closed(self) -> None:
        """Wait until no connection is open."""
        with anyio.fail_after(PATIENCE):
            while self.open:  # noqa: ASYNC110  # the server's tasks have no event for it
                await asyncio.sleep(0)


def answer(body: bytes = JSON, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def cut_off(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    await writer.drain()
    writer.close()


async def silence(_: asyncio.StreamWriter) -> None:
    await asyncio.sleep(PATIENCE)


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        await writer.drain()


@asynccontextmanager
async def serving(*answers: Answer | bytes, certificate: Path | None = None) -> AsyncIterator[Server]:
    served = Server(*answers)
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0, ssl=context)
    place = "http://127.0.0.1" if context is None else "https://localhost"
    served.url = f"{place}:{server.sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.close()


@asynccontextmanager
async def carried(carrier: str, url: str, **limits: Any) -> AsyncIterator[ProviderTransport]:
    async with httpx.AsyncHTTPTransport(verify=ssl_context()) as transport:
        http: Any = {"pool": None, "httpx": transport, "fast": "fast"}[carrier]
        sender = ProviderTransport(RunBlob(KEY, url), Limits(**limits), http, Clock())
        try:
            yield sender
        finally:
            await sender.aclose()


async def read(sender: ProviderTransport, **more: Any) -> Reply:
    with anyio.fail_after(PATIENCE):
        return await sender.call(Call.get("/v1/status?x=1", **more), PaidCallTrace(), retry=False)


@pytest.fixture(params=CARRIERS)
def carrier(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def test_what_is_asked_and_answered(carrier: str) -> None:
    async with serving(answer(JSON, "200 OK", "X-Request-Id: 7", "Set-Cookie: a=b")) as server:
        async with carried(carrier, server.url) as sender:
            replies = [await read(sender) for _ in range(3)]
        await server.all_closed()
    assert [reply.json() for reply in replies] == [{"status": "pending"}] * 3
    assert replies[0].headers["x-request-id"] == "7"
    assert server.connections == 1, "it is kept"
    lines = [request.decode().lower().split("\r\n") for request in server.requests]
    assert {each[0] for each in lines} == {"get /v1/status?x=1 http/1.1"}
    sent = [dict(line.split(": ", 1) for line in each[1:] if line) for each in lines]
    host = server.url.removeprefix("http://")
    wanted = {"host": host, "accept": "application/json", "accept-encoding": "gzip", "user-agent": "kling-async"}
    for headers in sent:
        headers.pop("connection", None)
        assert headers == {**wanted, "authorization": f"bearer {KEY}"}, "and no cookie"


async def test_a_packed_answer_is_unpacked(carrier: str) -> None:
    packed = gzip.compress(json.dumps({"text": "x" * 100_000}).encode())
    packing = answer(packed, "200 OK", "Content-Encoding: gzip")
    async with serving(packing) as server, carried(carrier, server.url) as sender:
        assert len((await read(sender)).json()["text"]) == 100_000


@pytest.mark.parametrize(
    "body", [answer(b" " * 100_001), answer(gzip.compress(b" " * 100_001)), endless], ids=["long", "packed", "endless"]
)
async def test_an_answer_beyond_the_cap_is_refused_and_not_read_to_its_end(carrier: str, body: Any) -> None:
    if isinstance(body, bytes) and b"\x1f\x8b" in body:
        body = body.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1)
    async with serving(body) as server:
        async with carried(carrier, server.url) as sender:
            with pytest.raises(KlingError, match="larger than 100000 bytes"):
                await read(sender, max_bytes=100_000)
        await server.all_closed()


async def test_a_redirect_is_not_followed(carrier: str) -> None:
    async with (
        serving(answer(b"{}")) as elsewhere,
        serving(answer(b"", "302 Found", f"Location: {elsewhere.url}/v1/status")) as server,
        carried(carrier, server.url) as sender,
    ):
        with pytest.raises(ConfigurationError, match="redirects are not followed"):
            await read(sender)
    assert elsewhere.connections == 0


@pytest.mark.parametrize("fault", [hang_up, cut_off])
async def test_a_lost_answer_is_asked_for_again(carrier: str, fault: Answer) -> None:
    async with serving(fault, fault, answer()) as server, carried(carrier, server.url) as sender:
        with anyio.fail_after(PATIENCE):
            reply = await sender.call(Call.get("/v1/status"), PaidCallTrace())
        assert reply.json() == {"status": "pending"}
    assert len(server.requests) == 3


async def test_a_broken_connection_names_the_provider_and_shows_no_key(carrier: str) -> None:
    async with serving(cut_off) as server, carried(carrier, server.url) as sender:
        with pytest.raises(
            TransportFailed, match=r"RunBlob at 127\.0\.0\.1:.* broke before the answer was whole"
        ) as caught:
            await read(sender)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert KEY not in shown.replace(f"KEY = {KEY!r}", "")


async def test_an_address_where_nobody_listens_names_the_remedy(carrier: str) -> None:
    async with serving(answer()) as server:
        url = server.url
    async with carried(carrier, url) as sender:
        with pytest.raises(TransportFailed, match="could not be reached") as caught:
            await read(sender)
    assert [remedy.action for remedy in caught.value.remedies] == ["configure"]


async def test_a_call_has_one_time_limit_as_a_whole(carrier: str) -> None:
    async with serving(silence) as server, carried(carrier, server.url, call=0.05) as sender:
        with pytest.raises(TransportFailed, match="no answer in time"):
            await read(sender)


async def test_a_cancelled_call_ends_its_connection_and_the_next_one_works(carrier: str) -> None:
    async with serving(silence, answer()) as server:
        async with carried(carrier, server.url) as sender:
            async with anyio.create_task_group() as group:
                group.start_soon(read, sender)
                with anyio.fail_after(PATIENCE):
                    while not server.requests:  # noqa: ASYNC110  # the same
                        await asyncio.sleep(0)
                group.cancel_scope.cancel()
            assert (await read(sender)).json() == {"status": "pending"}
        await asyncio.sleep(0)
    assert server.connections == 2


class TestKept:
    """On a connection that has answered before."""

    async def test_what_is_asked_is_what_is_asked_on_a_new_one(self, carrier: str) -> None:
        async with serving(answer()) as server, carried(carrier, server.url) as sender:
            for _ in range(3):
                await read(sender)
            await sender.call(Call.post("/v1/other", {"a": 1}, Effect.WRITE), PaidCallTrace(), retry=False)
            await read(sender)
        first, *others, write, last = server.requests
        assert others == [first, first]
        assert last == first
        assert write.startswith(b"POST /v1/other HTTP/1.1\r\n")
        assert b"\r\ncontent-length: 7\r\n" in write.lower()
        assert server.connections == 1

    @pytest.mark.parametrize("fault", [hang_up, cut_off])
    async def test_a_lost_answer_is_asked_for_again(self, carrier: str, fault: Answer) -> None:
        async with serving(answer(), fault, fault, answer()) as server, carried(carrier, server.url) as sender:
            for _ in range(2):
                with anyio.fail_after(PATIENCE):
                    reply = await sender.call(Call.get("/v1/status"), PaidCallTrace())
                assert reply.json() == {"status": "pending"}
        assert len(server.requests) == 4

    async def test_what_must_not_be_sent_again_is_not(self, carrier: str) -> None:
        async with serving(answer(), hang_up, answer()) as server, carried(carrier, server.url) as sender:
            await read(sender)
            with pytest.raises(TransportFailed, match="broke before the answer was whole"):
                await read(sender)
        assert len(server.requests) == 2

    async def test_a_connection_that_was_closed_meanwhile_is_not_used(self, carrier: str) -> None:
        async def last(writer: asyncio.StreamWriter) -> None:
            writer.write(answer())
            await writer.drain()
            writer.close()

        async with serving(last) as server, carried(carrier, server.url) as sender:
            for _ in range(3):
                await read(sender)
                await server.all_closed()
                await asyncio.sleep(0)  # the end is read
        assert len(server.requests) == server.connections == 3

    async def test_one_that_says_more_than_it_was_asked_is_not_used(self, carrier: str) -> None:
        if carrier == "httpx":
            pytest.skip("httpx takes what comes too much for the next answer, unless it sees it in time")
        async with serving(answer() + answer(b"{}"), answer()) as server, carried(carrier, server.url) as sender:
            for _ in range(3):
                assert (await read(sender)).json() == {"status": "pending"}
        assert server.connections == 2

    async def test_the_time_limit_is_that_of_each_call(self, carrier: str) -> None:
        async with (
            serving(answer(), answer(), silence) as server,
            carried(carrier, server.url, call=PATIENCE) as sender,
        ):
            await read(sender)
            await read(sender)
            with pytest.raises(TransportFailed, match="no answer in time"):
                await read(sender, timeout=0.05)
        assert server.connections == 1

    async def test_a_time_limit_that_was_not_reached_ends_no_later_call(self, carrier: str) -> None:
        async def slow(writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.1)
            writer.write(answer())

        async with serving(answer(), answer(), slow) as server, carried(carrier, server.url) as sender:
            await read(sender)
            await read(sender, timeout=0.05)
            assert (await read(sender, timeout=PATIENCE)).ok
        assert server.connections == 1

    async def test_a_cancelled_call_ends_its_connection_and_the_next_one_works(self, carrier: str) -> None:
        async with serving(answer(), silence, answer()) as server:
            async with carried(carrier, server.url) as sender:
                await read(sender)
                async with anyio.create_task_group() as group:
                    group.start_soon(read, sender)
                    with anyio.fail_after(PATIENCE):
                        while len(server.requests) < 2:  # noqa: ASYNC110  # the same
                            await asyncio.sleep(0)
                    group.cancel_scope.cancel()
                assert (await read(sender)).json() == {"status": "pending"}
            await asyncio.sleep(0)
        assert server.connections == 2

    async def test_a_packed_answer_is_unpacked(self, carrier: str) -> None:
        packed = gzip.compress(json.dumps({"text": "x" * 100_000}).encode())
        packing = answer(packed, "200 OK", "Content-Encoding: gzip")
        async with serving(answer(), packing) as server, carried(carrier, server.url) as sender:
            await read(sender)
            assert len((await read(sender)).json()["text"]) == 100_000
            assert len((await read(sender)).json()["text"]) == 100_000

    @pytest.mark.parametrize(
        "body",
        [answer(b" " * 100_001), answer(gzip.compress(b" " * 100_001)), endless],
        ids=["long", "packed", "endless"],
    )
    async def test_an_answer_beyond_the_cap_is_refused_and_shows_no_key(self, carrier: str, body: Any) -> None:
        if isinstance(body, bytes) and b"\x1f\x8b" in body:
            body = body.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1)
        async with serving(answer(), body) as server:
            async with carried(carrier, server.url) as sender:
                await read(sender)
                with pytest.raises(KlingError, match="larger than 100000 bytes") as caught:
                    await read(sender, max_bytes=100_000)
            await server.all_closed()
        shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert KEY not in shown.replace(f"KEY = {KEY!r}", "")

    async def test_a_broken_one_shows_no_key(self, carrier: str) -> None:
        async with serving(answer(), cut_off) as server, carried(carrier, server.url) as sender:
            await read(sender)
            with pytest.raises(TransportFailed) as caught:
                await read(sender)
        shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
        assert KEY not in shown.replace(f"KEY = {KEY!r}", "")

    async def test_new_credentials_are_sent(self, carrier: str) -> None:
        class Renewing(RunBlob):
            number = 0

            def credentials(self) -> Mapping[str, str]:
                self.number += 1
                return {"Authorization": f"Bearer {self.number}"}

        async with serving(answer()) as server, httpx.AsyncHTTPTransport() as transport:
            http: Any = {"pool": None, "httpx": transport, "fast": "fast"}[carrier]
            sender = ProviderTransport(Renewing(KEY, server.url), Limits(), http, Clock())
            for _ in range(3):
                await read(sender)
            await sender.aclose()
        sent = [line for head in server.requests for line in head.lower().split(b"\r\n") if b"authorization" in line]
        assert len(set(sent)) == 3


async def buy(sender: ProviderTransport, trace: PaidCallTrace | None = None, **more: Any) -> Reply:
    call = Call.post("/v1/generate", {"prompt": "a boat"}, Effect.PAID, **more)
    with anyio.fail_after(PATIENCE):
        return await sender.call(call, trace or PaidCallTrace())


def receive_request(connection: socket.socket) -> None:
    """Read a paid call, in a thread."""
    received = b""
    while not received.endswith(b'"a boat"}') and not received.startswith(b"GET"):
        received += connection.recv(65536)


class TestPaid:
    """A paid call, on a connection that was used just now."""

    async def test_what_is_sent_is_what_is_sent_on_a_new_one(self, carrier: str) -> None:
        async with serving(answer()) as server, carried(carrier, server.url) as sender:
            for _ in range(3):
                assert (await buy(sender)).json() == {"status": "pending"}
                await read(sender)
        assert server.requests[0].startswith(b"POST /v1/generate HTTP/1.1\r\n")
        first, status, *others = [sorted(request.split(b"\r\n")) for request in server.requests]
        assert others == [first, status] * 2
        assert server.connections == 1

    @pytest.mark.parametrize("fault", [hang_up, cut_off, answer(b"half a char")])
    async def test_a_lost_answer_is_final(self, carrier: str, fault: Any) -> None:
        trace = PaidCallTrace()
        async with serving(answer(), fault, answer()) as server, carried(carrier, server.url) as sender:
            await read(sender)
            with pytest.raises(AnswerLost):
                await buy(sender, trace)
        assert len(server.requests) == 2
        assert trace.may_have_been_sent

    async def test_it_has_one_time_limit_as_a_whole(self, carrier: str) -> None:
        async with serving(answer(), silence) as server, carried(carrier, server.url) as sender:
            await read(sender)
            with pytest.raises(AnswerLost, match="no answer in time"):
                await buy(sender, timeout=0.05)

    async def test_a_connection_whose_end_was_not_seen_yet_is_not_used(self, carrier: str) -> None:
        """The system knows that the server has closed it. The event loop, which did not run since, does not."""
        if carrier == "httpx":
            pytest.skip("httpx goes to the event loop before it looks")
        closed = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve() -> None:
                for _ in range(2):
                    connection, _ = listener.accept()
                    with connection:
                        receive_request(connection)
                        connection.sendall(answer())
                    closed.set()

            server = threading.Thread(target=serve, daemon=True)
            server.start()
            async with carried(carrier, f"http://127.0.0.1:{listener.getsockname()[1]}") as sender:
                await read(sender)
                assert closed.wait(PATIENCE)  # the event loop is not to run
                assert (await buy(sender)).ok
            server.join(PATIENCE)

    async def test_a_connection_that_has_rested_is_not_used(self, carrier: str) -> None:
        if carrier == "httpx":
            pytest.skip("the user's own transport decides")
        async with serving(answer()) as server, carried(carrier, server.url, paid_max_idle=0.0) as sender:
            for _ in range(2):
                await buy(sender)
        assert server.connections == 2

    async def test_what_may_not_be_sent_any_more_is_not(self, carrier: str) -> None:
        """It is asked before the call begins, and once more before its first byte is written."""
        trace, asked = PaidCallTrace(), 0

        def may_send() -> None:
            nonlocal asked
            asked += 1
            if asked == 2:
                raise ConfigurationError("it may not")

        trace.may_send = may_send
        async with serving(answer()) as server, carried(carrier, server.url) as sender:
            await read(sender)
            with pytest.raises(ConfigurationError, match="it may not"):
                await buy(sender, trace)
            assert not trace.may_have_been_sent
            await read(sender)
        assert [request.partition(b" ")[0] for request in server.requests] == [b"GET", b"GET"]

    async def test_an_answer_that_had_arrived_when_its_time_was_over_is_read(
        self, carrier: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The process is stopped until then: it finds both at the same moment."""
        asked, go, sent = threading.Event(), threading.Event(), threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve() -> None:
                connection, _ = listener.accept()
                with connection:
                    receive_request(connection)
                    connection.sendall(answer())
                    receive_request(connection)
                    asked.set()
                    go.wait(PATIENCE)
                    connection.sendall(answer())
                    sent.set()
                    with suppress(OSError):  # it is closed before, if the test is faster
                        listener.accept()

            threading.Thread(target=serve, daemon=True).start()
            async with carried(carrier, f"http://127.0.0.1:{listener.getsockname()[1]}") as sender:
                await read(sender)
                paying = asyncio.create_task(buy(sender, timeout=PATIENCE / 2))
                while not asked.is_set():  # noqa: ASYNC110  # a thread sets it
                    await asyncio.sleep(0)
                go.set()
                assert sent.wait(PATIENCE)  # the event loop does not run meanwhile
                monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: time.monotonic() + 0.75 * PATIENCE)
                assert (await paying).json() == {"status": "pending"}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


class TestEncrypted:
    """Over TLS, on new connections and on kept ones."""

    @pytest.fixture(autouse=True)
    def _trusted(self, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))

    async def test_what_is_asked_and_answered(self, carrier: str, certificate: Path) -> None:
        async with serving(answer(), certificate=certificate) as server:
            async with carried(carrier, server.url) as sender:
                assert [(await read(sender)).json() for _ in range(3)] == [{"status": "pending"}] * 3
            await server.all_closed()
        assert server.connections == 1
        assert len(set(server.requests)) == 1

    @pytest.mark.parametrize("fault", [hang_up, cut_off])
    async def test_a_lost_answer_is_asked_for_again(self, carrier: str, fault: Answer, certificate: Path) -> None:
        async with (
            serving(answer(), fault, fault, answer(), certificate=certificate) as server,
            carried(carrier, server.url) as sender,
        ):
            for _ in range(2):
                with anyio.fail_after(PATIENCE):
                    reply = await sender.call(Call.get("/v1/status"), PaidCallTrace())
                assert reply.json() == {"status": "pending"}
        assert len(server.requests) == 4

    async def test_a_call_has_one_time_limit_as_a_whole(self, carrier: str, certificate: Path) -> None:
        async with (
            serving(answer(), silence, certificate=certificate) as server,
            carried(carrier, server.url) as sender,
        ):
            await read(sender)
            with pytest.raises(TransportFailed, match="no answer in time"):
                await read(sender, timeout=0.05)

    async def test_an_endless_answer_is_not_read_to_its_end(self, carrier: str, certificate: Path) -> None:
        async with serving(answer(), endless, certificate=certificate) as server:
            async with carried(carrier, server.url) as sender:
                await read(sender)
                with pytest.raises(KlingError, match="larger than 100000 bytes"):
                    await read(sender, max_bytes=100_000)
            await server.all_closed()

    async def test_who_is_not_trusted_gets_no_key(
        self, carrier: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SSL_CERT_FILE")
        async with serving(answer(), certificate=certificate) as server, carried(carrier, server.url) as sender:
            with pytest.raises(
                TransportFailed, match=r"could not be reached: ConnectError .*CERTIFICATE_VERIFY_FAILED"
            ):
                await read(sender)
        assert not server.requests


async def test_a_full_client_keeps_to_its_bound(carrier: str) -> None:
    async def slow(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        writer.write(answer())

    async with serving(slow) as server, carried(carrier, server.url, connections=3) as sender:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(read, sender)
        assert len(server.requests) == 20
        assert server.connections <= 3


@pytest.mark.skipif("fast" not in CARRIERS, reason="httptools is not installed")
class TestFast:
    async def test_a_proxy_of_the_environment_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with serving(answer()) as proxy, serving(answer()) as server:
            monkeypatch.setenv("http_proxy", proxy.url)
            async with carried("fast", server.url) as sender:
                await read(sender)
        assert (proxy.connections, server.connections) == (1, 0)

    async def test_the_environment_chooses_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KLING_HTTP", "fast")
        async with serving(answer()) as server, carried("pool", server.url) as sender:
            await read(sender)
            pool = (await sender._backends.current()).pool
            assert pool is not None
            assert pool._make_codec is HttptoolsCodec
        assert server.connections == 1

    async def test_another_word_in_the_environment_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KLING_HTTP", "quick")
        with pytest.raises(ConfigurationError, match="the value of KLING_HTTP is not known: the only one is 'fast'"):
            ProviderTransport(RunBlob(KEY), Limits(), None, Clock())

    @pytest.mark.parametrize("source", ["Client(http='fast')", "KLING_HTTP=fast"])
    async def test_the_missing_package_is_named(self, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        if source.startswith("KLING"):
            monkeypatch.setenv("KLING_HTTP", "fast")
        with pytest.raises(ConfigurationError) as caught:
            ProviderTransport(RunBlob(KEY), Limits(), "fast" if source.startswith("Client") else None, Clock())
        assert str(caught.value).startswith(source)
        assert caught.value.remedies[0].detail == "pip install 'kling-async[fast]'"

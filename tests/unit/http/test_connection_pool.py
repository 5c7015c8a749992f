from collections.abc import AsyncIterable
from typing import Any

import anyio
import anyio.abc
import httpcore
import httpx
import pytest
import respx

from kling_async._http.connection import Connection, IdleConnections, TrackedStream
from kling_async._http.connection_pool import ConnectionPool, PoolStatistics
from support.fake_httpcore_network import OK, OK_AND_CLOSE, FakeNetwork, Received
from support.virtual_time import backend_with_clock, skip

pytestmark = pytest.mark.anyio

A = "http://a.test"
B = "http://b.test"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return backend_with_clock(request.param)


@pytest.fixture
def network() -> FakeNetwork:
    return FakeNetwork()


async def fetch(pool: ConnectionPool, url: str, **extensions: Any) -> bytes:
    """Send a GET and read the answer, within two minutes."""
    with anyio.fail_after(120):
        response = await pool.handle_async_request(
            httpcore.Request("GET", url, headers=_host(url), extensions=extensions)
        )
        return await response.aread()


async def post(pool: ConnectionPool, url: str, body: bytes, **extensions: Any) -> bytes:
    headers = [*_host(url), (b"Content-Length", str(len(body)).encode())]
    with anyio.fail_after(120):
        request = httpcore.Request("POST", url, headers=headers, content=body, extensions=extensions)
        return await (await pool.handle_async_request(request)).aread()


def _host(url: str) -> list[tuple[bytes, bytes]]:
    return [(b"Host", httpcore.URL(url).host)]


async def fetch_at_once(pool: ConnectionPool, *urls: str) -> None:
    """Send requests that run together, and return when all are answered."""
    async with anyio.create_task_group() as tasks:
        for url in urls:
            tasks.start_soon(fetch, pool, url)


async def start_one_by_one(tasks: anyio.abc.TaskGroup, pool: ConnectionPool, *urls: str) -> None:
    """Send requests in this order, each when those before it rest (trio shuffles what is ready)."""
    for url in urls:
        tasks.start_soon(fetch, pool, url)
        await anyio.wait_all_tasks_blocked()


class TestKeeping:
    async def test_requests_one_after_another_share_one_connection(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            assert [await fetch(pool, f"{A}/{i}") for i in range(5)] == [b"ok"] * 5
            assert pool.statistics() == PoolStatistics(
                connections=1, idle=1, in_use=0, waiting=0, opened=1, reused=4, closed=0
            )
        assert network.open == 0

    async def test_default_port_and_explicit_port_are_one_origin(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            await fetch(pool, "http://a.test/")
            await fetch(pool, "http://a.test:80/")
            await fetch(pool, "http://a.test:81/")
        assert len(network.sockets) == 2

    async def test_the_connection_used_last_is_used_first(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            first, second = await open_responses(pool, A, A)
            await second.aread()
            await first.aread()
            await fetch(pool, f"{A}/again")
        assert network.received[-1] == Received(socket=0, host="a.test", target="/again", body=b"")

    async def test_a_connection_that_idled_for_longer_than_max_idle_is_passed_over_but_kept(
        self, network: FakeNetwork
    ) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            await fetch(pool, A)
            skip(2.0)
            await post(pool, A, b"buy", max_idle=1.5)
            assert pool.statistics().idle == 2
            skip(1.0)
            await post(pool, A, b"buy", max_idle=1.5)
        assert network.requests_per_socket() == {0: 1, 1: 2}

    async def test_max_idle_of_zero_asks_for_a_new_connection(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            await fetch(pool, A)
            await fetch(pool, A, max_idle=0.0)
        assert network.requests_per_socket() == {0: 1, 1: 1}

    async def test_at_the_bound_an_old_connection_makes_room_for_a_fresh_one(self, network: FakeNetwork) -> None:
        async with ConnectionPool(limit=1, network_backend=network) as pool:
            await fetch(pool, A)
            skip(2.0)
            await post(pool, A, b"buy", max_idle=1.5)
            assert (pool.statistics().opened, pool.statistics().closed) == (2, 1)
        assert network.most_open == 1

    async def test_connections_expire_together_and_are_closed_by_the_next_request(self, network: FakeNetwork) -> None:
        async with ConnectionPool(keepalive=65.0, network_backend=network) as pool:
            await fetch_at_once(pool, A, A, A, B, B)
            skip(64.0)
            await fetch(pool, A)
            assert pool.statistics().connections == 5
            skip(2.0)
            await fetch(pool, A)
            assert pool.statistics() == PoolStatistics(
                connections=1, idle=1, in_use=0, waiting=0, opened=5, reused=2, closed=4
            )
            assert network.open == 1

    async def test_expired_connections_are_closed_when_a_response_ends_too(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            (response,) = await open_responses(pool, A)
            await fetch(pool, A)
            skip(100.0)
            await response.aread()
            assert (pool.statistics().connections, network.open) == (1, 1)

    async def test_max_idle_cannot_outlast_keepalive(self, network: FakeNetwork) -> None:
        async with ConnectionPool(keepalive=10.0, network_backend=network) as pool:
            await fetch(pool, A)
            skip(11.0)
            await fetch(pool, A, max_idle=100.0)
        assert network.requests_per_socket() == {0: 1, 1: 1}

    @pytest.mark.parametrize(
        "surplus",
        [b"\r\n", OK, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"x"],
        ids=["a line break", "a second answer", "a 408", "one byte"],
    )
    async def test_a_connection_on_which_more_than_the_answer_came_carries_no_further_request(
        self, network: FakeNetwork, surplus: bytes
    ) -> None:
        """The surplus would be taken for the answer to the next request."""
        network.answer = lambda received: OK + surplus if received.target == "/1" else OK
        async with ConnectionPool(network_backend=network) as pool:
            assert await fetch(pool, "https://a.test/1") == b"ok"
            assert await post(pool, "https://a.test/2", b"paid") == b"ok"
            assert await fetch(pool, "https://a.test/3") == b"ok"
        assert [received.socket for received in network.received] == [0, 1, 1]

    async def test_a_server_that_closes_after_its_answer_is_obeyed(self, network: FakeNetwork) -> None:
        network.answer = lambda _: OK_AND_CLOSE
        async with ConnectionPool(network_backend=network) as pool:
            await fetch(pool, A)
            assert pool.statistics().connections == network.open == 0

    async def test_a_response_closed_before_its_end_closes_the_connection(self, network: FakeNetwork) -> None:
        network.answer = lambda _: OK.removesuffix(b"k")
        async with ConnectionPool(network_backend=network) as pool:
            (response,) = await open_responses(pool, A)
            assert pool.statistics().in_use == 1
            await response.aclose()
            await response.aclose()
            assert pool.statistics().connections == network.open == 0

    async def test_a_response_closed_before_it_was_read_keeps_the_connection_if_it_came_whole(
        self, network: FakeNetwork
    ) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            (response,) = await open_responses(pool, A)
            await response.aclose()
            assert await fetch(pool, A) == b"ok"
        assert network.requests_per_socket() == {0: 2}

    async def test_a_response_left_in_the_middle_of_its_body_closes_the_connection(self, network: FakeNetwork) -> None:
        network.answer = lambda _: OK.removesuffix(b"k")
        async with ConnectionPool(network_backend=network) as pool:
            (response,) = await open_responses(pool, A)
            assert isinstance(response.stream, AsyncIterable)
            async for part in response.stream:
                assert part == b"o"
                break
            await response.aclose()
            assert pool.statistics().connections == network.open == 0


class TestBound:
    async def test_many_requests_finish_over_few_connections(self, network: FakeNetwork) -> None:
        async with ConnectionPool(limit=3, network_backend=network) as pool:
            await fetch_at_once(pool, *[A] * 50)
            assert pool.statistics() == PoolStatistics(
                connections=3, idle=3, in_use=0, waiting=0, opened=3, reused=47, closed=0
            )
        assert network.most_open == 3

    async def test_requests_are_served_in_order_of_arrival_over_all_origins(self, network: FakeNetwork) -> None:
        urls = [f"{origin}/{i}" for i, origin in enumerate([A, B, A, A, B, B, A, B])]
        network.gate = anyio.Event()
        async with (
            ConnectionPool(limit=1, network_backend=network) as pool,
            anyio.create_task_group() as tasks,
        ):
            await start_one_by_one(tasks, pool, *urls)
            assert pool.statistics().waiting == 7
            network.gate.set()
        assert network.targets == [f"/{i}" for i in range(8)]
        assert network.most_open == 1

    async def test_who_comes_while_others_wait_does_not_overtake(self, network: FakeNetwork) -> None:
        """A connection is freed for the waiter. A request that starts at that instant goes behind it."""
        async with (
            ConnectionPool(limit=1, network_backend=network) as pool,
            anyio.create_task_group() as tasks,
        ):
            (response,) = await open_responses(pool, A)
            tasks.start_soon(fetch, pool, f"{A}/waiter")
            await anyio.wait_all_tasks_blocked()
            await response.aread()
            await fetch(pool, f"{A}/latecomer")
        assert network.targets == ["/", "/waiter", "/latecomer"]

    async def test_an_idle_connection_of_another_origin_is_closed_before_the_new_one_is_dialled(
        self, network: FakeNetwork
    ) -> None:
        async with ConnectionPool(limit=2, network_backend=network) as pool:
            await fetch(pool, A)
            await fetch_at_once(pool, B, B)
            assert pool.statistics().connections == 2
            assert [socket.closed for socket in network.sockets] == [True, False, False]
        assert network.most_open == 2

    async def test_the_oldest_idle_connection_goes_first(self, network: FakeNetwork) -> None:
        async with ConnectionPool(limit=3, network_backend=network) as pool:
            await fetch(pool, A)
            await fetch(pool, B)
            await fetch(pool, A)
            await fetch(pool, "http://c.test")
            await fetch(pool, "http://d.test")
            assert [socket.host for socket in network.sockets if not socket.closed] == [
                "a.test",
                "c.test",
                "d.test",
            ]

    async def test_of_one_origin_the_oldest_idle_connection_goes_first(self, network: FakeNetwork) -> None:
        async with ConnectionPool(limit=2, network_backend=network) as pool:
            first, second = await open_responses(pool, A, A)
            await second.aread()
            await first.aread()
            await fetch(pool, B)
            assert [socket.closed for socket in network.sockets] == [False, True, False]

    async def test_waiting_longer_than_the_pool_timeout_sends_nothing(self, network: FakeNetwork) -> None:
        async with ConnectionPool(limit=1, network_backend=network) as pool:
            (response,) = await open_responses(pool, A)
            with pytest.raises(httpcore.PoolTimeout, match="nothing was sent"):
                await fetch(pool, f"{A}/late", timeout={"pool": 0.0})
            assert pool.statistics().waiting == 0
            await response.aread()
            await fetch(pool, f"{A}/in-time", timeout={"pool": 1.0})
        assert network.targets == ["/", "/in-time"]

    async def test_a_failed_connect_gives_its_slot_to_the_next(self, network: FakeNetwork) -> None:
        network.connect_errors = [httpcore.ConnectError("refused")]
        async with (
            ConnectionPool(limit=1, network_backend=network) as pool,
            anyio.create_task_group() as tasks,
        ):
            network.dial_gate = anyio.Event()
            tasks.start_soon(expect, httpcore.ConnectError, pool, f"{A}/refused")
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(fetch, pool, f"{A}/next")
            await anyio.wait_all_tasks_blocked()
            network.dial_gate.set()
        assert network.targets == ["/next"]

    def test_a_limit_below_one_is_refused(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            ConnectionPool(limit=0)


class TestIdleConnections:
    def test_a_connection_put_back_unused_goes_to_the_old_end(self) -> None:
        idle = IdleConnections()
        origin = (b"http", b"a.test", 80)
        wire = TrackedStream(FakeNetwork(), multiplexed=False)
        http = httpcore.AsyncHTTPConnection(httpcore.Origin(*origin), network_backend=wire)
        unused, used, later = (Connection(origin, http, wire) for _ in range(3))
        for connection in (used, later):
            idle.push(connection)
        idle.put_back(unused)
        assert idle.oldest() is idle.pop_oldest() is unused
        assert idle.newest(origin) is idle.pop_newest(origin) is later
        assert idle.pop_oldest() is used
        assert len(idle) == 0
        assert idle.newest(origin) is idle.oldest() is None


class TestDeadConnections:
    async def test_a_connection_that_the_server_closed_while_idle_is_not_used(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            await fetch_at_once(pool, A, A, A)
            network.hang_up_idle()
            await post(pool, A, b"buy")
            assert (pool.statistics().opened, pool.statistics().connections) == (4, 1)
        assert network.requests_per_socket() == {0: 1, 1: 1, 2: 1, 3: 1}

    async def test_at_the_bound_dead_connections_make_room(self, network: FakeNetwork) -> None:
        async with ConnectionPool(limit=2, network_backend=network) as pool:
            await fetch_at_once(pool, A, A)
            network.hang_up_idle()
            await fetch_at_once(pool, A, A, A)
            assert pool.statistics().connections == 2
        assert network.most_open == 2

    async def test_only_the_connection_about_to_be_used_is_asked(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            await fetch_at_once(pool, *[A] * 50)
            asked = network.readable_checks
            await fetch(pool, A)
            assert network.readable_checks == asked + 1

    async def test_a_read_on_a_stale_connection_is_sent_once_more_on_a_new_one(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            await fetch_at_once(pool, A, A)
            network.kill()
            assert await post(pool, A, b"poll", retry_stale=True) == b"ok"
            assert pool.statistics().opened == 3
        assert network.received[-1].body == b"poll"

    async def test_a_server_that_hangs_up_on_a_kept_connection_counts_as_stale(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            await fetch(pool, A)
            network.answer = lambda received: b"" if received.socket == 0 else OK
            assert await fetch(pool, A, retry_stale=True) == b"ok"
        assert network.requests_per_socket() == {0: 2, 1: 1}

    async def test_without_leave_nothing_is_sent_again(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            await fetch(pool, A)
            network.answer = lambda _: b""
            with pytest.raises(httpcore.RemoteProtocolError):
                await post(pool, A, b"buy")
            assert pool.statistics().connections == 0
        assert len(network.received) == 2

    async def test_a_new_connection_that_fails_is_not_stale(self, network: FakeNetwork) -> None:
        network.answer = lambda _: b""
        async with ConnectionPool(network_backend=network) as pool:
            with pytest.raises(httpcore.RemoteProtocolError):
                await fetch(pool, A, retry_stale=True)
        assert len(network.received) == 1

    async def test_a_stale_request_is_sent_again_once_only(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            await fetch(pool, A)
            network.answer = lambda _: b""
            with pytest.raises(httpcore.RemoteProtocolError):
                await fetch(pool, A, retry_stale=True)
            assert pool.statistics().connections == 0
        assert len(network.received) == 3

    async def test_an_answer_that_breaks_off_is_not_stale(self, network: FakeNetwork) -> None:
        def break_off(received: Received) -> bytes:
            network.sockets[received.socket].hang_up()
            return b"HTTP/1.1 2"

        async with ConnectionPool(network_backend=network) as pool:
            await fetch(pool, A)
            network.answer = break_off
            with pytest.raises(httpcore.RemoteProtocolError):
                await fetch(pool, A, retry_stale=True)
        assert len(network.received) == 2


class TestClosing:
    async def test_closing_fails_busy_and_waiting_requests_and_leaves_no_socket(self, network: FakeNetwork) -> None:
        network.answer = lambda _: None
        pool = ConnectionPool(limit=1, network_backend=network)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(expect, httpcore.ReadError, pool, A)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(expect, RuntimeError, pool, A)
            await anyio.wait_all_tasks_blocked()
            assert pool.statistics().waiting == 1
            await pool.aclose()
            await pool.aclose()
        assert pool.statistics() == PoolStatistics(
            connections=0, idle=0, in_use=0, waiting=0, opened=1, reused=0, closed=1
        )
        assert network.open == 0
        assert repr(pool) == "<ConnectionPool closed: 0 in use, 0 idle, 0 waiting>"
        with pytest.raises(RuntimeError, match="was closed; nothing was sent"):
            await fetch(pool, A)

    async def test_a_connection_that_is_being_dialled_when_the_pool_closes_is_closed_too(
        self, network: FakeNetwork
    ) -> None:
        network.dial_gate = anyio.Event()
        pool = ConnectionPool(network_backend=network)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetch, pool, A)
            await anyio.wait_all_tasks_blocked()
            await pool.aclose()
            network.dial_gate.set()
        assert pool.statistics().connections == network.open == 0


class TestPassingThrough:
    async def test_timeouts_reach_the_network(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            await fetch(pool, A, timeout={"connect": 1.0, "write": 2.0, "read": 3.0})
        assert network.timeouts == {"connect": {1.0}, "write": {2.0}, "read": {3.0}}

    async def test_trace_events_reach_the_caller(self, network: FakeNetwork) -> None:
        events: list[str] = []

        async def trace(name: str, info: dict[str, Any]) -> None:
            events.append(name)

        async with ConnectionPool(network_backend=network) as pool:
            await fetch(pool, A, trace=trace)
        assert events == ["connection.connect_tcp.started", "http11.send_request_headers.started"]

    async def test_one_ssl_context_serves_every_connection(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            await fetch_at_once(pool, "https://a.test", "https://a.test", "https://b.test")
        assert len(network.tls_contexts) == 3
        assert len(set(network.tls_contexts)) == 1

    async def test_a_foreign_scheme_is_refused_before_anything_is_sent(self, network: FakeNetwork) -> None:
        async with ConnectionPool(network_backend=network) as pool:
            with pytest.raises(httpcore.UnsupportedProtocol, match="'ftp'; nothing was sent"):
                await fetch(pool, "ftp://a.test")
            assert pool.statistics().opened == 0


class TestHttp2:
    @pytest.fixture
    def network(self) -> FakeNetwork:
        network = FakeNetwork()
        network.http2 = True
        return network

    async def test_requests_share_a_connection(self, network: FakeNetwork) -> None:
        async with ConnectionPool(limit=1, http2=True, network_backend=network) as pool:
            await fetch_at_once(pool, *["https://a.test"] * 50)
            await fetch(pool, "https://a.test")
            assert pool.statistics() == PoolStatistics(
                connections=1, idle=1, in_use=0, waiting=0, opened=1, reused=50, closed=0
            )
        assert network.open == 0

    async def test_a_full_connection_takes_no_more_until_a_request_ends(self, network: FakeNetwork) -> None:
        async with ConnectionPool(limit=1, http2=True, network_backend=network) as pool:
            await fetch(pool, "https://a.test")
            network.gate = anyio.Event()
            async with anyio.create_task_group() as tasks:
                for _ in range(130):
                    tasks.start_soon(fetch, pool, "https://a.test")
                await anyio.wait_all_tasks_blocked()
                assert (pool.statistics().in_use, pool.statistics().waiting) == (1, 30)
                network.gate.set()
            assert pool.statistics().idle == 1
        assert len(network.received) == 131

    async def test_a_request_that_could_share_does_not_overtake_one_that_cannot(self, network: FakeNetwork) -> None:
        async with ConnectionPool(limit=1, http2=True, network_backend=network) as pool:
            await fetch(pool, "https://a.test/first")
            network.gate = anyio.Event()
            async with anyio.create_task_group() as tasks:
                await start_one_by_one(
                    tasks,
                    pool,
                    "https://a.test/shared",
                    "https://b.test/elsewhere",
                    "https://a.test/latecomer",
                )
                assert pool.statistics().waiting == 2
                network.gate.set()
        assert network.targets == ["/first", "/shared", "/elsewhere", "/latecomer"]

    async def test_http1_servers_are_spoken_to_in_http1(self, network: FakeNetwork) -> None:
        network.http2 = False
        async with ConnectionPool(limit=2, http2=True, network_backend=network) as pool:
            await fetch_at_once(pool, *["https://a.test"] * 10)
            assert pool.statistics().opened == 2

    async def test_a_read_that_a_leaving_server_refused_is_sent_again(self, network: FakeNetwork) -> None:
        async with ConnectionPool(http2=True, network_backend=network) as pool:
            await fetch(pool, "https://a.test")
            network.sockets[0].refuse_streams(last_stream_id=1)
            assert await fetch(pool, "https://a.test", retry_stale=True) == b"ok"
            assert (pool.statistics().opened, pool.statistics().connections) == (2, 1)

    async def test_what_a_leaving_server_refused_is_not_sent_again_without_leave(self, network: FakeNetwork) -> None:
        async with ConnectionPool(http2=True, network_backend=network) as pool:
            await fetch(pool, "https://a.test")
            network.sockets[0].refuse_streams(last_stream_id=1)
            with pytest.raises(httpcore.RemoteProtocolError, match="instead of answering"):
                await fetch(pool, "https://a.test")
            assert pool.statistics().connections == 0


class TestSharing:
    async def test_a_shared_connection_that_breaks_is_not_given_to_anyone_else(self) -> None:
        """Its first request has not noticed yet, but the second found out: the third goes elsewhere."""
        network = FakeNetwork()
        network.http2 = True
        async with ConnectionPool(http2=True, network_backend=network) as pool:
            (unread,) = await open_responses(pool, "https://a.test")
            network.kill()
            with pytest.raises(httpcore.ReadError):
                await fetch(pool, "https://a.test")
            await fetch(pool, "https://a.test")
            assert pool.statistics().connections == 2
            await unread.aclose()
            assert pool.statistics().connections == network.open == 1


class _PoolTransport(httpx.AsyncBaseTransport):
    """httpx's view of a pool, as small as it can be."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(str(request.url))
        response = await self._pool.handle_async_request(
            httpcore.Request(request.method, url, headers=request.headers.raw, content=await request.aread())
        )
        return httpx.Response(response.status, headers=response.headers, content=await response.aread())


class TestRespx:
    async def test_respx_answers_in_place_of_the_network(self, network: FakeNetwork) -> None:
        """What respx replaces is a method of httpcore's connections, so a pool of these is caught by it."""
        pool = ConnectionPool(limit=1, network_backend=network)
        async with pool, httpx.AsyncClient(transport=_PoolTransport(pool)) as client:
            with respx.mock(base_url="http://a.test") as router:
                route = router.get("/job").respond(json={"status": "mocked"})
                for _ in range(3):
                    answer = await client.get("http://a.test/job")
                    assert answer.json() == {"status": "mocked"}
            assert route.call_count == 3
            assert network.sockets == []
            assert pool.statistics().connections == 0
            real = await client.get("http://a.test/job")
            assert real.text == "ok"


class TestRealSockets:
    async def test_requests_share_few_sockets_and_a_hang_up_is_noticed(self) -> None:
        hang_up = anyio.Event()
        all_closed = anyio.Event()
        accepted = 0

        async def serve(stream: anyio.abc.SocketStream) -> None:
            nonlocal accepted
            accepted += 1
            number = accepted
            async with stream, anyio.create_task_group() as tasks:
                tasks.start_soon(answer, stream)
                await hang_up.wait()
                if number <= 5:
                    tasks.cancel_scope.cancel()
            closed.add(number)
            if len(closed) == 5:
                all_closed.set()

        async def answer(stream: anyio.abc.SocketStream) -> None:
            async for _ in stream:
                await stream.send(OK)

        closed: set[int] = set()
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  # anyio's extra, not Django's
        url = f"http://127.0.0.1:{port}/"
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            async with ConnectionPool(limit=5) as pool:
                await fetch_at_once(pool, *[url] * 100)
                assert accepted == 5
                hang_up.set()
                with anyio.fail_after(120):
                    await all_closed.wait()
                await fetch(pool, url)
                assert (accepted, pool.statistics().connections) == (6, 1)
            tasks.cancel_scope.cancel()


async def open_responses(pool: ConnectionPool, *urls: str) -> list[httpcore.Response]:
    with anyio.fail_after(120):
        return [await pool.handle_async_request(httpcore.Request("GET", url, headers=_host(url))) for url in urls]


async def expect(error: type[Exception], pool: ConnectionPool, url: str) -> None:
    with pytest.raises(error):
        await fetch(pool, url)

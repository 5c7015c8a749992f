"""Whatever a request is doing when it is cancelled, the pool loses no slot, connection, waiter or socket."""

import asyncio
import contextlib
import random
import ssl
import types
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel
import httpcore
import pytest

from kling_async._http.connection_pool import ConnectionPool
from support.fake_httpcore_network import OK, OK_AND_CLOSE, FakeNetwork
from support.virtual_time import backend_with_clock, skip

pytestmark = [
    pytest.mark.anyio,
    # httpcore iterates over generators without closing them, which trio reports.
    pytest.mark.filterwarnings("ignore:Async generator 'httpcore"),
]

A = "http://a.test"
B = "http://b.test"
SECURE = "https://a.test"
LIMIT = 2
TLS = ssl.create_default_context()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return backend_with_clock(request.param)


async def fetch(pool: ConnectionPool, url: str, **extensions: Any) -> None:
    headers = [(b"Host", httpcore.URL(url).host)]
    with anyio.fail_after(120):
        request = httpcore.Request("GET", url, headers=headers, extensions=extensions)
        response = await pool.handle_async_request(request)
        await response.aread()


async def fetch_or_lose(pool: ConnectionPool, url: str) -> None:
    """Fetch on a connection that another request may ruin: to lose the answer is fair, to hang is not."""
    with contextlib.suppress(httpcore.ReadError, httpcore.WriteError, httpcore.RemoteProtocolError):
        await fetch(pool, url)


@types.coroutine
def stepping(
    coroutine: Coroutine[Any, Any, Any], interrupted_at: int, interrupt: Callable[[], object]
) -> Generator[Any, Any, int]:
    """Run a coroutine to its end, and call `interrupt` at one of its suspensions. Returns how many it had."""
    value: Any = None
    error: BaseException | None = None
    suspensions = 0
    while True:
        try:
            trap = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration:
            return suspensions
        suspensions += 1
        if suspensions == interrupted_at:
            interrupt()
        error = None
        try:
            value = yield trap
        except BaseException as exc:  # noqa: BLE001  # handed on to the coroutine
            error = exc


async def by_scope(victim: Coroutine[Any, Any, Any], step: int) -> bool:
    """Cancel with a cancel scope, as anyio and trio do. Returns whether the step was reached."""
    with anyio.CancelScope() as scope:
        await stepping(victim, step, scope.cancel)
    return scope.cancel_called


async def by_task(victim: Coroutine[Any, Any, Any], step: int) -> bool:
    """Cancel with `asyncio.Task.cancel`, which goes through shields."""

    async def steps() -> None:
        await stepping(victim, step, task.cancel)

    task = asyncio.create_task(steps())
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return task.cancelling() > 0


async def nothing(pool: ConnectionPool, network: FakeNetwork) -> None:
    pass


async def two_idle(pool: ConnectionPool, network: FakeNetwork) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fetch, pool, A)
        tasks.start_soon(fetch, pool, A)


async def two_idle_elsewhere(pool: ConnectionPool, network: FakeNetwork) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fetch, pool, B)
        tasks.start_soon(fetch, pool, B)


async def two_hung_up(pool: ConnectionPool, network: FakeNetwork) -> None:
    await two_idle(pool, network)
    network.hang_up_idle()


async def two_dead(pool: ConnectionPool, network: FakeNetwork) -> None:
    await two_idle(pool, network)
    network.kill()


async def two_expired(pool: ConnectionPool, network: FakeNetwork) -> None:
    await two_idle(pool, network)
    skip(100.0)


async def long_answers(pool: ConnectionPool, network: FakeNetwork) -> None:
    network.answer = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 200_000


async def last_answers(pool: ConnectionPool, network: FakeNetwork) -> None:
    network.answer = lambda _: OK_AND_CLOSE


async def kept_http2(pool: ConnectionPool, network: FakeNetwork) -> None:
    await fetch(pool, SECURE)


@dataclass(frozen=True)
class Scenario:
    """What a request meets.

    Attributes:
        prepare: Brings pool and network into the state that it meets.
        url: Where it goes.
        others: Requests that are on their way when it starts.
        extensions: Its extensions.
        http2: Whether servers speak HTTP/2.
        head_start: Whether the others start first, or in between.
    """

    prepare: Callable[[ConnectionPool, FakeNetwork], Awaitable[None]] = nothing
    url: str = A
    others: tuple[str, ...] = ()
    extensions: dict[str, Any] = field(default_factory=dict)
    http2: bool = False
    head_start: bool = True


SCENARIOS = {
    "new connection": Scenario(),
    "new TLS connection": Scenario(url=SECURE),
    "kept connection": Scenario(prepare=two_idle),
    "waits in the queue": Scenario(others=(A, B, A)),
    "has a pool timeout": Scenario(others=(A, B, A), extensions={"timeout": {"pool": 4.0}}),
    "displaces an idle connection": Scenario(prepare=two_idle_elsewhere),
    "displaces while others wait": Scenario(prepare=two_idle_elsewhere, others=(A, B, B)),
    "wants a fresh connection": Scenario(prepare=two_idle, extensions={"max_idle": 0.0}),
    "meets connections that were hung up": Scenario(prepare=two_hung_up),
    "meets connections that were hung up, with others": Scenario(prepare=two_hung_up, others=(A, B)),
    "meets expired connections": Scenario(prepare=two_expired),
    "is sent again": Scenario(prepare=two_dead, extensions={"retry_stale": True}),
    "gets a long answer": Scenario(prepare=long_answers, others=(A,)),
    "gets the last answer of a connection": Scenario(prepare=last_answers, others=(A, A, A)),
    "new HTTP/2 connection": Scenario(url=SECURE, http2=True),
    "new HTTP/2 connection, with others": Scenario(url=SECURE, http2=True, others=(SECURE,) * 4),
    "kept HTTP/2 connection, with others": Scenario(url=SECURE, http2=True, prepare=kept_http2, others=(SECURE,) * 4),
    "writes frames of others too": Scenario(
        url=SECURE, http2=True, prepare=kept_http2, others=(SECURE,) * 4, head_start=False
    ),
}


async def assert_intact(pool: ConnectionPool, network: FakeNetwork) -> None:
    """The pool is at rest, holds the open sockets and no other, and can carry LIMIT requests at once."""
    now = pool.statistics()
    assert (now.in_use, now.waiting) == (0, 0)
    assert now.connections == now.idle == network.open <= LIMIT
    network.answer = lambda _: OK
    network.gate = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(LIMIT):
            tasks.start_soon(lambda: fetch(pool, A, max_idle=0.0))
        for _ in range(50):  # enough to connect and write. Wait_all_tasks_blocked sleeps on asyncio
            await anyio.lowlevel.checkpoint()
        assert (pool.statistics().in_use, pool.statistics().waiting) == (LIMIT, 0)
        network.gate.set()
    assert network.most_open <= LIMIT


async def interrupt_at(
    step: int, scenario: Scenario, cancelling: Callable[[Coroutine[Any, Any, Any], int], Awaitable[bool]]
) -> bool:
    network = FakeNetwork()
    network.http2 = scenario.http2
    async with ConnectionPool(limit=LIMIT, http2=scenario.http2, ssl_context=TLS, network_backend=network) as pool:
        await scenario.prepare(pool, network)
        async with anyio.create_task_group() as tasks:
            bystander = fetch_or_lose if scenario.http2 and cancelling is by_task else fetch
            for url in scenario.others:
                tasks.start_soon(bystander, pool, url)
            if scenario.head_start and scenario.others:
                await anyio.lowlevel.checkpoint()
            reached = await cancelling(fetch(pool, scenario.url, **scenario.extensions), step)
        network.http2 = False
        await assert_intact(pool, network)
    assert network.open == 0
    return reached


async def interrupt_everywhere(
    scenario: Scenario, cancelling: Callable[[Coroutine[Any, Any, Any], int], Awaitable[bool]]
) -> None:
    step = 1
    while await interrupt_at(step, scenario, cancelling):
        step += 1
    assert step > 3, "the request was hardly suspended: the scenario does not test what it says"


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
async def test_cancelling_a_scope_at_any_checkpoint_loses_nothing(scenario: Scenario) -> None:
    await interrupt_everywhere(scenario, by_scope)


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
async def test_cancelling_a_task_at_any_checkpoint_loses_nothing(scenario: Scenario) -> None:
    await interrupt_everywhere(scenario, by_task)


async def test_a_waiter_cancelled_just_after_its_grant_passes_it_on() -> None:
    network = FakeNetwork()
    async with (
        ConnectionPool(limit=1, network_backend=network) as pool,
        anyio.create_task_group() as tasks,
    ):
        response = await pool.handle_async_request(httpcore.Request("GET", A, headers=[(b"Host", b"a.test")]))
        granted = anyio.CancelScope()

        async def waiter() -> None:
            with granted:
                await fetch(pool, f"{A}/granted")

        tasks.start_soon(waiter)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(fetch, pool, f"{A}/next")
        await anyio.wait_all_tasks_blocked()
        assert pool.statistics().waiting == 2
        await response.aread()
        assert (pool.statistics().waiting, pool.statistics().in_use) == (1, 1)
        granted.cancel()
    assert network.targets[-1] == "/next"
    assert len(network.sockets) == 1 or "/granted" in network.targets


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_task_cancelled_between_grant_and_wakeup_passes_the_connection_on() -> None:
    network = FakeNetwork()
    async with (
        ConnectionPool(limit=1, network_backend=network) as pool,
        anyio.create_task_group() as tasks,
    ):
        response = await pool.handle_async_request(httpcore.Request("GET", A, headers=[(b"Host", b"a.test")]))
        waiter = asyncio.create_task(fetch(pool, f"{A}/granted"))
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(fetch, pool, f"{A}/next")
        await anyio.wait_all_tasks_blocked()
        await response.aread()
        assert pool.statistics().waiting == 1
        waiter.cancel()
        await asyncio.wait([waiter])
        assert waiter.cancelled()
    assert network.targets == ["/", "/next"]
    assert network.requests_per_socket() == {0: 2}


async def test_a_connection_passed_on_unused_is_no_fresher_than_it_was() -> None:
    """Being granted and given back is not being used: the server's patience runs from the last answer."""
    network = FakeNetwork()
    async with ConnectionPool(network_backend=network) as pool:
        await fetch(pool, A)
        skip(10.0)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await fetch(pool, A)
        assert pool.statistics().idle == pool.statistics().connections == 1
        await fetch(pool, A, max_idle=5.0)
    assert network.requests_per_socket() == {0: 1, 1: 1}


async def test_an_http2_connection_whose_first_request_was_cancelled_is_not_kept() -> None:
    """Part of its set-up may have been left out, so it is no good to others."""
    step, reached = 1, True
    while reached:
        network = FakeNetwork()
        network.http2 = True
        async with ConnectionPool(http2=True, ssl_context=TLS, network_backend=network) as pool:
            await fetch(pool, SECURE)
            reached = await by_scope(fetch(pool, SECURE, max_idle=0.0), step)
            await fetch(pool, SECURE)
            assert pool.statistics().opened == 2
            assert pool.statistics().connections == pool.statistics().idle == network.open
        step += 1
    assert step > 100, "the set-up of an HTTP/2 connection was expected to be long"


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
@pytest.mark.parametrize("delay", [0, 1, 2])
async def test_a_torn_http2_connection_fails_the_others_at_once(delay: int) -> None:
    """A task cancelled while it writes the frames of another takes them with it. The other must not hang."""
    step, reached = 1, True
    while reached:
        network = FakeNetwork()
        network.http2 = True
        async with ConnectionPool(limit=LIMIT, http2=True, ssl_context=TLS, network_backend=network) as pool:
            await fetch(pool, SECURE)
            victim = asyncio.create_task(by_task(fetch(pool, SECURE), step))
            for _ in range(delay):
                await anyio.lowlevel.checkpoint()
            await fetch_or_lose(pool, SECURE)
            reached = await victim
            await assert_intact(pool, network)
        step += 1


async def test_an_answer_that_is_complete_when_cancelled_keeps_its_connection() -> None:
    network = FakeNetwork()
    async with ConnectionPool(network_backend=network) as pool:
        response = await pool.handle_async_request(httpcore.Request("GET", A, headers=[(b"Host", b"a.test")]))
        assert isinstance(response.stream, AsyncIterable)
        with anyio.CancelScope() as scope:
            async for part in response.stream:
                assert part == b"ok"
                scope.cancel()
        assert pool.statistics().idle == 1


async def test_when_the_head_of_the_queue_gives_up_the_next_may_be_served_at_once() -> None:
    """Two wait on a full pool: the first for another origin, the second could share the HTTP/2 connection."""
    network = FakeNetwork()
    network.http2 = True
    async with ConnectionPool(limit=1, http2=True, ssl_context=TLS, network_backend=network) as pool:
        await fetch(pool, SECURE)
        network.gate = anyio.Event()
        async with anyio.create_task_group() as tasks:
            head = anyio.CancelScope()

            async def wait_for_another_origin() -> None:
                with head:
                    await fetch(pool, "https://b.test")

            tasks.start_soon(fetch, pool, SECURE)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(wait_for_another_origin)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(fetch, pool, SECURE)
            await anyio.wait_all_tasks_blocked()
            assert pool.statistics().waiting == 2
            head.cancel()
            await anyio.wait_all_tasks_blocked()
            assert (pool.statistics().waiting, len(network.received)) == (0, 3)
            network.gate.set()


async def test_a_socket_whose_tls_handshake_is_cancelled_is_closed() -> None:
    network = FakeNetwork()
    network.silent_handshake = True
    async with (
        ConnectionPool(network_backend=network) as pool,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(fetch, pool, SECURE)
        await anyio.wait_all_tasks_blocked()
        assert network.open == 1
        tasks.cancel_scope.cancel()
    assert network.open == pool.statistics().connections == 0


@pytest.mark.parametrize(
    ("anyio_backend", "cancelling"),
    [("asyncio", by_scope), ("asyncio", by_task), ("trio", by_scope)],
    indirect=["anyio_backend"],
)
async def test_closing_the_pool_goes_on_when_it_is_cancelled(
    cancelling: Callable[[Coroutine[Any, Any, Any], int], Awaitable[bool]],
) -> None:
    for step in range(1, 4):
        network = FakeNetwork()
        pool = ConnectionPool(limit=LIMIT, network_backend=network)
        await two_idle(pool, network)
        assert await cancelling(pool.aclose(), step)
        assert network.open == pool.statistics().connections == 0


@pytest.mark.parametrize("seed", range(5))
async def test_a_storm_of_requests_and_cancellations_leaves_the_pool_intact(seed: int) -> None:
    """Many requests to three origins, most of them cancelled at some moment. Servers hang up at times."""
    dice = random.Random(seed)
    network = FakeNetwork()
    answered = 0

    async def visitor(pool: ConnectionPool) -> None:
        nonlocal answered
        for _ in range(dice.randrange(60)):
            await anyio.lowlevel.checkpoint()
        url = dice.choice([A, B, SECURE])
        max_idle = dice.choice([0.0, 30.0])
        step = dice.randrange(1, 120)
        with anyio.CancelScope() as scope:
            await stepping(fetch(pool, url, max_idle=max_idle, retry_stale=True), step, scope.cancel)
            answered += 1
        if dice.random() < 0.05:
            for socket in network.sockets:
                if not socket.closed and pool.statistics().in_use == 0:
                    socket.hang_up()

    async with ConnectionPool(limit=LIMIT, ssl_context=TLS, network_backend=network) as pool:
        async with anyio.create_task_group() as tasks:
            for _ in range(150):
                tasks.start_soon(visitor, pool)
        assert 0 < answered < 150
        await assert_intact(pool, network)
    assert network.open == 0

"""`Budget`: nothing is sent that does not fit, whatever is under way. In virtual time, against the wire."""

from __future__ import annotations

import json
import math
import random
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

import anyio
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kling_async
from kling_async import (
    Budget,
    BudgetExceeded,
    BulkRun,
    BulkStopped,
    Client,
    ConfigurationError,
    Cost,
    Event,
    JobRef,
    KlingError,
    Ledger,
    MemoryLedger,
    Polling,
    Remedy,
    Request,
    Status,
    Submission,
    SubmissionState,
    pixeldojo,
    runblob,
    runware,
)
from kling_async._submission.budget import BudgetAccount
from kling_async._submission.pricing import price_info
from support import virtual_time
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

PATIENT = Polling(status_calls_per_minute=math.inf)
CLIP = Cost(Decimal("0.15"), "USD")


def clip(number: int = 0) -> runblob.O3Video:
    return runblob.O3Video(f"clip {number}")


def make(server: httpx.AsyncBaseTransport, budget: Budget, ledger: Ledger | None = None) -> Client:
    return Client(kling_async.RunBlob(KEY), http=server, polling=PATIENT, budget=budget, ledger=ledger)


def amounts(costs: tuple[Cost, ...]) -> dict[str, Decimal]:
    return {cost.unit: cost.amount for cost in costs}


async def submit_all(client: Client, requests: Sequence[Request]) -> list[KlingError | None]:
    """Submit all at once, what each came to."""
    ends: list[KlingError | None] = []

    async def one(request: Request) -> None:
        try:
            await client.submit(request)
        except KlingError as error:
            ends.append(error)
        else:
            ends.append(None)

    async with anyio.create_task_group() as group:
        for request in requests:
            group.start_soon(one, request)
    return ends


async def drain(outcomes: BulkRun, into: list[object]) -> None:
    """Collect results. Those that came before an error are kept."""
    async for outcome in outcomes:
        into.append(outcome.result)  # noqa: PERF401  # an error would lose a comprehension's


async def test_a_hundred_at_once_spend_all_of_it_and_no_more(server: FakeRunBlob) -> None:
    budget = Budget(usd=5)
    async with make(server, budget) as client:
        ends = await submit_all(client, [clip(n) for n in range(100)])
        assert client.statistics().budget == budget.statistics()
    assert server.bought == server.requests["submit"] == 33  # 33 clips for $0.15 are $4.95
    assert [type(end).__name__ for end in ends].count("BudgetExceeded") == 67
    assert amounts(budget.statistics().spent) == {"USD": Decimal("4.95")}
    assert amounts(budget.statistics().left) == {"USD": Decimal("0.05")}
    assert budget.statistics().reserved == ()


async def test_the_message_names_the_amounts_and_the_remedy(server: FakeRunBlob) -> None:
    async with make(server, Budget(usd="1.2")) as client:
        for n in range(8):
            await client.submit(clip(n))
        with pytest.raises(BudgetExceeded) as caught:
            await client.submit(clip())
    message = caught.value.message
    assert "runblob/o3-video costs $0.15, and the budget of $1.20 has $0.00 left" in message
    assert "nothing was sent" in message
    assert caught.value.remedies == (Remedy("raise_budget", detail="usd"),)
    assert server.bought == 8


async def test_an_assumed_price_is_reserved_and_estimated_until_a_real_one_is_known(server: FakeRunBlob) -> None:
    assumed = {"runblob/o3-video": "0.2", "runblob": "5"}
    async with make(server, Budget(usd="0.5", assume=assumed)) as client:
        first = await client.estimate(clip())
        assert first is not None
        ends = await submit_all(client, [clip(n) for n in range(10)])
        assert sum(isinstance(end, BudgetExceeded) for end in ends) == 7
    assert server.bought == 3, "each costs 0.15, whatever was assumed"
    with pytest.raises(ConfigurationError, match="assume"):
        Budget(usd=1, assume={"runblob": "much"})


async def test_a_job_of_unknown_price_goes_alone(server: FakeRunBlob) -> None:
    """While the first one's answer is on the way, nothing else is. Then all that fits."""
    under_way, most = 0, []

    async def poller(request: httpx.Request) -> httpx.Response | None:
        nonlocal under_way
        under_way += 1
        await anyio.sleep(1)
        most.append(under_way)
        under_way -= 1
        return None

    server.intercept = poller
    async with make(server, Budget(usd=3)) as client:
        ends = await submit_all(client, [clip(n) for n in range(10)])
    assert ends == [None] * 10
    assert most[0] == 1
    assert max(most) == 9


async def test_no_job_of_unknown_price_is_submitted_when_little_is_left(server: FakeRunBlob) -> None:
    async with make(server, Budget(usd="0.29")) as client:
        with pytest.raises(BudgetExceeded, match=r"\$0.30 is reserved for it, and the budget of \$\S+ has \$0.29 left"):
            await client.submit(clip())
    assert server.requests["submit"] == 0


async def test_what_was_refused_or_not_sent_is_given_back(server: FakeRunBlob) -> None:
    async def refuse(request: httpx.Request) -> httpx.Response | None:
        if server.requests["submit"] % 2:
            return httpx.Response(422, json={"detail": "INVALID_PARAMETERS"})
        raise httpx.ConnectError("refused", request=request)

    server.intercept = refuse
    budget = Budget(usd=2)
    async with make(server, budget) as client:
        ends = await submit_all(client, [clip(n) for n in range(4)])
    assert all(isinstance(end, kling_async.InvalidRequest | kling_async.TransportFailed) for end in ends)
    assert amounts(budget.statistics().left) == {"USD": Decimal(2)}


async def test_an_unknown_submission_stays_reserved(server: FakeRunBlob) -> None:
    async def lose(request: httpx.Request) -> httpx.Response | None:
        if request.method == "POST" and server.bought == 1:
            server.accept("o3-video", {"prompt": "lost"})
            raise httpx.ReadError("reset", request=request)
        return None

    server.intercept = lose
    budget = Budget(usd="1.10")
    async with make(server, budget) as client:
        ends = [*await submit_all(client, [clip()]), *await submit_all(client, [clip(1)])]
        assert isinstance(ends[1], kling_async.SubmissionUnknown)
        statistics = budget.statistics()
        assert (statistics.spent[0], statistics.reserved[0]) == (CLIP, CLIP)


async def test_failed_jobs_are_refunded_where_the_provider_does_so(server: FakeRunBlob) -> None:
    server.failure = "TASK_FAILED"
    budget = Budget(usd=1)
    async with make(server, budget) as client:
        for n in range(20):
            with pytest.raises(kling_async.GenerationFailed):
                await client.run(clip(n))
    assert server.bought == 20
    assert budget.statistics().spent == ()


async def test_a_unit_without_an_amount_may_not_be_spent() -> None:
    client = Client(kling_async.PixelDojo("key"), budget=Budget(usd=100))
    async with client:
        with pytest.raises(BudgetExceeded, match=r"paid in credits.*Budget\(credits=\.\.\.\)"):
            await client.submit(pixeldojo.ImageV3("a boat"))


async def test_documented_prices_are_reserved_without_asking() -> None:
    """Nothing is learned first: what does not fit by the price list is not sent."""
    client = Client(kling_async.Runware("key"), budget=Budget(usd="0.05"))
    async with client:
        with pytest.raises(
            BudgetExceeded, match=r"runware/image-o3 costs \$0\.\d+, and the budget of \$0.05 has \$0.05 left"
        ):
            await client.submit(runware.ImageO3("a boat", resolution="4k", aspect_ratio="1:1", count=4))


async def test_a_bulk_run_ends_with_the_budget(server: FakeRunBlob) -> None:
    budget = Budget(usd=2)
    async with make(server, budget) as client, client.map([clip(n) for n in range(100)]) as outcomes:
        done: list[object] = []
        with pytest.raises(BulkStopped) as stopped:
            await drain(outcomes, done)
    assert isinstance(stopped.value.cause, BudgetExceeded)
    assert sum(result is not None for result in done) == server.bought == 13


async def test_a_rerun_counts_what_earlier_runs_spent(server: FakeRunBlob) -> None:
    """The ledger knows the prices too, so the second run needs no job to learn them."""
    ledger = MemoryLedger()
    first = make(server, Budget(usd=2), ledger)
    jobs = [await first.submit(clip(n), key=f"row-{n}") for n in range(8)]
    await jobs[0]
    budget = Budget(usd=2)
    async with make(server, budget, ledger) as second:
        again = [await second.submit(clip(n), key=f"row-{n}") for n in range(8)]
        assert [job.ref for job in again] == [job.ref for job in jobs]
        assert amounts(budget.statistics().spent) == {"USD": Decimal("1.20")}
        ends = await submit_all(second, [clip(n) for n in range(8, 20)])
    assert server.bought == 13
    assert [type(end).__name__ for end in ends].count("BudgetExceeded") == 7


async def test_rows_submitted_earlier_give_their_results_when_the_budget_is_spent(server: FakeRunBlob) -> None:
    ledger = MemoryLedger()
    first = make(server, Budget(usd=1), ledger)
    job = await first.submit(clip(), key="row")
    async with make(server, Budget(usd="0.15"), ledger) as second:
        assert (await second.submit(clip(), key="row")).ref == job.ref
        with pytest.raises(BudgetExceeded):
            await second.submit(clip(1), key="another")


async def test_a_cancelled_submission_gives_back_what_was_not_sent(server: FakeRunBlob) -> None:
    async def stall(_: httpx.Request) -> httpx.Response | None:
        await anyio.sleep(100)
        return None

    server.intercept = stall
    budget = Budget(usd="0.5")
    async with make(server, budget) as client, anyio.create_task_group() as group:
        group.start_soon(submit_all, client, [clip()])
        await anyio.sleep(1)  # it is being sent, alone
        with anyio.move_on_after(1):
            await client.submit(clip(1))  # waits for the price
        group.cancel_scope.cancel()
    assert amounts(budget.statistics().reserved) == {
        "USD": Decimal("0.30")
    }  # twice the estimate for the one that was sent
    assert server.requests["submit"] == 1


@pytest.mark.parametrize("amount", [-1, "five", math.nan])
def test_an_amount_must_be_one(amount: float | str) -> None:
    with pytest.raises(ConfigurationError, match="it must be an amount, such as Budget"):
        Budget(usd=amount)


def test_a_budget_needs_an_amount_and_shows_itself() -> None:
    with pytest.raises(ConfigurationError, match="needs an amount"):
        Budget()
    assert repr(Budget(usd=5)) == "<Budget $0.00 spent and $0.00 reserved of $5.00>"


class MoodyRunBlob(FakeRunBlob):
    """Sells at prices that depend on the settings, slowly, and does with each submission what chance decides."""

    def __init__(self, dice: random.Random, prices: dict[str, str]) -> None:
        super().__init__(latency=0.0)
        self.dice = dice
        self.prices = prices
        self.charged = Decimal(0)
        self.intercept = self.whim

    async def whim(self, request: httpx.Request) -> httpx.Response | None:
        if request.method != "POST":
            return None
        whim = self.dice.choices(["sell", "refuse", "lose", "eat", "unreached"], [6, 1, 1, 1, 1])[0]
        await anyio.sleep(self.dice.random())
        if whim == "refuse":
            return httpx.Response(422, json={"detail": "INVALID_PARAMETERS"})
        if whim == "unreached":
            raise httpx.ConnectError("no", request=request)
        if whim == "eat":
            raise httpx.ReadError("gone", request=request)
        body = json.loads(await request.aread())
        price = self.prices[f"{body['duration']}{body['model']}"]
        self.charged += Decimal(price)
        self.accept("o3-video", body)
        identity = str(uuid.UUID(int=self.bought))
        await anyio.sleep(self.dice.random())
        if whim == "lose":
            raise httpx.ReadError("gone", request=request)
        return httpx.Response(201, json={"generation_id": identity, "status": "pending", "price": price})


VARIANTS = [(duration, model) for duration in (5, 10, 15) for model in ("kling_o3", "kling_o3_pro")]


def possible_prices(duration: int, model: str) -> st.SearchStrategy[str]:
    """Up to twice the last known price, which is what the budget reserves before the first answer."""
    known = Decimal("0.15") * duration / 5 * (2 if model == "kling_o3_pro" else 1)
    return st.decimals("0.01", 2 * known, places=2).map(str)


PRICES = {f"{duration}{model}": possible_prices(duration, model) for duration, model in VARIANTS}


@settings(max_examples=30, deadline=None)
@given(
    usd=st.decimals("0", "30", places=2),
    prices=st.fixed_dictionaries(PRICES),
    seed=st.integers(0, 2**32),
)
def test_it_never_overshoots_with_a_hundred_in_flight(usd: Decimal, prices: dict[str, str], seed: int) -> None:
    """Whatever the prices, the order of the answers, and how many of them are lost."""
    dice = random.Random(seed)
    server = MoodyRunBlob(dice, prices)
    requests: list[Request] = [
        runblob.O3Video("a clip", duration=dice.choice((5, 10, 15)), model=dice.choice(("kling_o3", "kling_o3_pro")))
        for _ in range(100)
    ]
    budget = Budget(usd=usd)

    async def attempt() -> list[KlingError | None]:
        limits = kling_async.Limits(max_attempts=1)
        client = Client(kling_async.RunBlob(KEY), http=server, polling=PATIENT, budget=budget, limits=limits)
        async with client:
            return await submit_all(client, requests)

    ends = run_virtually(attempt)
    statistics = budget.statistics()
    accounted = sum(amounts(statistics.spent).values()) + sum(amounts(statistics.reserved).values())
    assert server.charged <= accounted <= usd
    assert amounts(statistics.left)["USD"] == usd - accounted
    assert len(ends) == 100


def run_virtually(work: Callable[[], Awaitable[list[KlingError | None]]]) -> list[KlingError | None]:
    _, options = virtual_time.backend("asyncio")
    return anyio.run(partial(work), backend_options=options)


async def test_what_was_spent_before_is_counted_once_though_the_counting_was_cancelled(server: FakeRunBlob) -> None:
    ledger = MemoryLedger()
    requests = [(f"row-{number}", runblob.O3Video(f"clip {number}")) for number in range(120)]
    async with make(server, Budget(usd=1000), ledger).map(requests, in_flight=120) as outcomes:
        assert len([outcome async for outcome in outcomes]) == 120
    for moment in range(25):
        budget = Budget(usd=1000)
        client = make(server, budget, ledger)
        scope = anyio.CancelScope()

        async def submit(client: Client = client, scope: anyio.CancelScope = scope) -> None:
            with scope:
                await client.submit(requests[0][1], key="row-0")

        async with anyio.create_task_group() as group:
            group.start_soon(submit)
            for _ in range(moment):
                await anyio.lowlevel.checkpoint()
            scope.cancel()
        await client.submit(requests[0][1], key="row-0")
        assert budget.statistics().spent == (Cost(Decimal(18), "USD"),)


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_cost_that_is_reported_in_part_does_not_make_room(server: FakeRunBlob, restarted: bool) -> None:
    """Runware tells of each image what it cost, as it is made: of twenty, one at first."""
    request = runware.ImageO3("boats", width=1024, height=1024, count=20)
    part, whole = Cost(Decimal("0.028"), "USD"), Cost(Decimal("0.56"), "USD")
    price = price_info(kling_async.Runware(KEY), request)
    budget = BudgetAccount(usd=1)
    ref = JobRef("runware", "image-o3", "one")
    asked = Submission("a", request.endpoint, {}, "", "one", datetime.now(UTC))
    bought = replace(asked, state=SubmissionState.ACCEPTED, ref=ref)
    if restarted:
        event = Event(0, Status.PROCESSING, datetime.now(UTC), 1.0, "poll", cost=part)
        await budget.load_history([(replace(bought, latest=event), price)])
    else:
        await budget.reserve("one", price)
        budget.commit(bought)
        budget.record_cost(ref, Status.PROCESSING, part)
    with pytest.raises(BudgetExceeded):
        await budget.reserve("two", price)
    budget.record_cost(ref, Status.COMPLETED, whole)
    assert amounts(budget.statistics().spent) == {"USD": whole.amount}

"""Who makes a portable request: the choice, the next one after a refusal, and no other after an unknown outcome."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import anyio
import pytest

from kling_async import (
    AllRefused,
    Budget,
    BudgetExceeded,
    BulkStopped,
    Choice,
    Client,
    ConfigurationError,
    ContentRejected,
    Cost,
    GenerationFailed,
    InsufficientCredits,
    KeyConflict,
    Ledger,
    MemoryLedger,
    NotOffered,
    Polling,
    Progressive,
    SubmissionState,
    SubmissionUnknown,
    Video,
)
from kling_async._ledger.serialization import event_from_json, event_to_json
from support.fake_sellers import FakeSeller, Hosts, seller

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

VIDEO = Video("a paper boat")


class Market:
    """Three providers: alpha is the cheapest, beta the fastest, gamma is dear and slow."""

    def __init__(self) -> None:
        self.alpha = FakeSeller(price="0.10")
        self.beta = FakeSeller(price="0.20", duration=20.0)
        self.gamma = FakeSeller(price="0.30", duration=90.0)

    def client(self, **settings: Any) -> Client:
        providers = [
            seller("alpha", "0.10"),
            seller("beta", "0.20", seconds=20),
            seller("gamma", "0.30", seconds=90),
        ]
        hosts = Hosts(alpha=self.alpha, beta=self.beta, gamma=self.gamma)
        settings.setdefault("polling", Polling(schedule=Progressive(5)))
        return Client(providers, http=hosts, **settings)

    @property
    def bought(self) -> tuple[int, int, int]:
        return self.alpha.bought, self.beta.bought, self.gamma.bought


@pytest.fixture
def market() -> Market:
    return Market()


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


async def states(ledger: Ledger, key: str) -> list[tuple[str, SubmissionState]]:
    return [(attempt.provider, attempt.state) for attempt in await ledger.attempts(key)]


@pytest.mark.parametrize(
    ("prefer", "expected"),
    [
        (None, "alpha/clip"),
        ("cheapest", "alpha/clip"),
        ("fastest", "beta/clip"),
        (["gamma", "alpha"], "gamma/clip"),
        (["beta/clip"], "beta/clip"),
    ],
)
async def test_the_preferred_provider_gets_the_request(market: Market, prefer: Any, expected: str) -> None:
    async with market.client(prefer=prefer) as client:
        assert (await client.submit(VIDEO)).ref.endpoint == expected
    async with market.client() as client:
        assert (await client.submit(VIDEO, prefer=prefer)).ref.endpoint == expected


@pytest.mark.parametrize("prefer", ["best", [], [1], 5, b"alpha"])
async def test_a_preference_of_another_kind_is_refused(market: Market, prefer: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"prefer.*\"cheapest\", \"fastest\" or a list"):
        market.client(prefer=prefer)


async def test_the_first_event_has_the_choice_and_the_ledger_keeps_it(market: Market, ledger: MemoryLedger) -> None:
    async with market.client(ledger=ledger) as client:
        job = await client.submit(VIDEO, key="a")
        assert job.choice == Choice("alpha/clip", "first of 3 by preference; $0.10 (exact), about 60 s")
        assert job.events[0].choice == job.choice
        assert (await ledger.events(job.ref))[0].choice == job.choice
        await job
        assert [event.choice for event in job.events[1:]] == [None] * (len(job.events) - 1)
        own = (await client.quote(VIDEO))[0].request
        assert own is not None
        assert (await client.submit(own)).choice is None


async def test_a_choice_is_stored_with_all_its_parts(market: Market) -> None:
    market.alpha.outcome = "INSUFFICIENT_CREDITS"
    async with market.client() as client:
        event = (await client.submit(VIDEO)).events[0]
    assert event.choice is not None
    assert event.choice.passed_over[0][1].startswith("InsufficientCredits: ")
    assert event_from_json(event_to_json(event)) == event
    assert "beta/clip: number 2 of 3 by preference" in str(event.choice)


@pytest.mark.parametrize("outcome", ["down", "INSUFFICIENT_CREDITS", "MAINTENANCE", "INVALID_PARAMETERS"])
async def test_after_a_proven_refusal_the_next_provider_is_tried(
    market: Market, ledger: MemoryLedger, outcome: str
) -> None:
    market.alpha.outcome = outcome
    async with market.client(ledger=ledger) as client:
        job = await client.submit(VIDEO, key="a")
        assert job.ref.endpoint == "beta/clip"
        assert job.key == "a"
        assert job.choice is not None
        assert [endpoint for endpoint, _ in job.choice.passed_over] == ["alpha/clip"]
        first, second = await ledger.attempts("a")
    assert market.bought == (0, 1, 0)
    assert (first.provider, second.provider) == ("alpha", "beta")
    assert first.state.key_reusable
    assert second.state is SubmissionState.ACCEPTED


async def test_after_an_unknown_outcome_no_other_provider_is_tried(market: Market, ledger: MemoryLedger) -> None:
    market.alpha.outcome = "lost"
    async with market.client(ledger=ledger) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(VIDEO, key="a")
        market.alpha.outcome = "ok"
        with pytest.raises(SubmissionUnknown):
            await client.submit(VIDEO, key="a")
        assert await states(ledger, "a") == [("alpha", SubmissionState.UNKNOWN)]
    assert market.bought == (1, 0, 0)


async def test_without_a_ledger_an_unknown_outcome_stops_too(market: Market) -> None:
    market.alpha.outcome = "lost"
    async with market.client() as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(VIDEO)
    assert market.bought == (1, 0, 0)


async def test_content_that_was_rejected_is_not_offered_to_others(market: Market) -> None:
    market.alpha.outcome = "CONTENT_POLICY_VIOLATION"
    async with market.client() as client:
        with pytest.raises(ContentRejected):
            await client.submit(VIDEO)
    assert market.bought == (0, 0, 0)


async def test_if_all_refuse_the_error_has_the_answer_of_each(market: Market) -> None:
    market.alpha.outcome = market.beta.outcome = "INSUFFICIENT_CREDITS"
    market.gamma.outcome = "down"
    async with market.client() as client:
        with pytest.raises(AllRefused, match="nothing was bought") as caught:
            await client.submit(VIDEO)
    assert [*caught.value.errors] == ["alpha/clip", "beta/clip", "gamma/clip"]
    assert isinstance(caught.value.errors["beta/clip"], InsufficientCredits)


async def test_if_only_one_may_take_it_its_own_error_is_raised(market: Market) -> None:
    market.beta.outcome = "INSUFFICIENT_CREDITS"
    async with market.client(prefer=["beta"]) as client:
        with pytest.raises(InsufficientCredits):
            await client.submit(VIDEO)


async def test_what_nobody_makes_is_refused_with_the_reasons_and_the_nearest_change(market: Market) -> None:
    async with market.client() as client:
        with pytest.raises(NotOffered) as caught:
            await client.submit(Video("a paper boat", duration=12))
    assert caught.value.reasons == dict.fromkeys(
        ("alpha/clip", "beta/clip", "gamma/clip"), "duration is 12; it has 5, 10"
    )
    assert caught.value.change == {"duration": 10}


async def test_a_key_is_paid_for_once_whoever_is_preferred_then(market: Market, ledger: MemoryLedger) -> None:
    async with market.client(ledger=ledger) as client:
        first = await client.submit(VIDEO, key="a")
        again = await client.submit(VIDEO, key="a", prefer="fastest")
        assert again == first
        with pytest.raises(KeyConflict):
            await client.submit(Video("another boat"), key="a")
    assert market.bought == (1, 0, 0)


async def test_many_submissions_of_one_key_buy_one_job(market: Market, ledger: MemoryLedger) -> None:
    market.alpha.outcome = "INSUFFICIENT_CREDITS"
    async with market.client(ledger=ledger) as client:
        refs = []

        async def submit(prefer: Any) -> None:
            refs.append((await client.submit(VIDEO, key="a", prefer=prefer)).ref)

        async with anyio.create_task_group() as group:
            for prefer in ["cheapest", "fastest", ["gamma"], "cheapest", "fastest"] * 3:
                group.start_soon(submit, prefer)
    assert len(set(refs)) == 1
    assert sum(market.bought) == 1


async def test_a_provider_that_fails_is_rested_and_probed_for_all_jobs(market: Market) -> None:
    market.alpha.outcome = "down"
    async with market.client() as client:
        for _ in range(10):
            assert (await client.submit(VIDEO)).ref.provider == "beta"
        sent = market.alpha.refused
        assert sent == 3 * 4, "three submissions, each of four attempts"
        quote = {one.provider: one for one in await client.quote(VIDEO)}["alpha"]
        assert quote.health.resting > 0
        assert quote.health.failures == 3
        assert "nobody answers" in quote.health.reason
        await anyio.sleep(31)
        market.alpha.outcome = "ok"
        assert (await client.submit(VIDEO)).ref.provider == "alpha"
        assert (await client.submit(VIDEO)).ref.provider == "alpha"


async def test_a_probe_that_fails_rests_the_provider_for_longer(market: Market) -> None:
    market.alpha.outcome = "down"
    async with market.client() as client:
        for _ in range(3):
            await client.submit(VIDEO)
        await anyio.sleep(31)
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(client.submit, VIDEO)
        assert market.alpha.refused == 4 * 4, "one of the five was the probe"
        await anyio.sleep(31)
        await client.submit(VIDEO)
        assert market.alpha.refused == 4 * 4


async def test_a_provider_that_loses_answers_is_rested(market: Market) -> None:
    market.alpha.outcome = "lost"
    async with market.client() as client:
        unknown = 0
        for _ in range(10):
            try:
                await client.submit(VIDEO)
            except SubmissionUnknown:
                unknown += 1
    assert unknown == market.alpha.bought == 3
    assert market.beta.bought == 7


async def test_a_busy_provider_passes_the_row_to_the_next(market: Market) -> None:
    market.alpha.at_once = 2
    async with market.client() as client:
        refs = [(await client.submit(VIDEO)).ref.provider for _ in range(4)]
    assert refs == ["alpha", "alpha", "beta", "beta"]


async def test_if_all_are_busy_the_submission_waits_for_the_first_that_is_free(market: Market) -> None:
    for one in (market.alpha, market.beta, market.gamma):
        one.at_once = 1
    async with market.client() as client, client.map([VIDEO] * 9, in_flight=9) as outcomes:
        done = [outcome async for outcome in outcomes]
    assert all(outcome.error is None for outcome in done)
    assert sum(market.bought) == 9
    assert min(market.bought) >= 1


async def test_a_job_that_failed_for_nothing_is_made_elsewhere(market: Market, ledger: MemoryLedger) -> None:
    market.alpha.failure = "API_ERROR"
    async with market.client(ledger=ledger) as client:
        with pytest.raises(GenerationFailed):
            await client.run(VIDEO, key="off")
        result = await client.run(VIDEO, key="a", retry_failed=1)
        assert result.ref.endpoint == "beta/clip"
        attempts = await ledger.attempts("a")
    assert [(one.provider, str(one.status)) for one in attempts] == [("alpha", "failed"), ("beta", "completed")]


async def test_a_job_that_failed_by_its_request_is_not_made_elsewhere(market: Market) -> None:
    market.alpha.failure = "CONTENT_POLICY_VIOLATION"
    async with market.client() as client:
        with pytest.raises(GenerationFailed):
            await client.run(VIDEO, retry_failed=3)
    assert market.bought == (1, 0, 0)


async def test_failed_jobs_are_bounded_by_retry_failed(market: Market) -> None:
    market.alpha.failure = market.beta.failure = market.gamma.failure = "API_ERROR"
    async with market.client() as client:
        with pytest.raises(GenerationFailed):
            await client.run(VIDEO, retry_failed=4)
    assert sum(market.bought) == 5
    assert min(market.bought) >= 1


async def test_bulk_rows_that_failed_for_nothing_are_made_elsewhere(market: Market, ledger: MemoryLedger) -> None:
    market.alpha.failure = "API_ERROR"
    rows = [(f"row-{number}", VIDEO) for number in range(5)]
    async with market.client(ledger=ledger) as client, client.map(rows, retry_failed=1) as outcomes:
        done = [outcome async for outcome in outcomes]
        assert [len(await ledger.attempts(key)) for key, _ in rows] == [2] * 5
    assert [outcome.error for outcome in done] == [None] * 5
    assert {outcome.job.ref.provider for outcome in done if outcome.job} == {"beta"}
    assert {outcome.request.endpoint for outcome in done} == {"video"}
    assert market.bought == (5, 5, 0)


async def test_quotes_are_ordered_by_preference_and_carry_the_figures_of_the_budget(market: Market) -> None:
    async with market.client(budget=Budget(usd=1)) as client:
        quotes = await client.quote(VIDEO)
        assert [(one.endpoint, one.shown_cost, one.price) for one in quotes] == [
            ("alpha/clip", "$0.10", "exact"),
            ("beta/clip", "$0.20", "exact"),
            ("gamma/clip", "$0.30", "exact"),
        ]
        assert quotes[0].source == "alpha's price list"
        assert quotes[1].median == 20
        assert quotes[1].p90 is not None
        assert 20 < quotes[1].p90 < 30
        assert not quotes[1].learned
        for quote in quotes:
            assert quote.request is not None
            assert quote.cost == quote.reserve == await client.estimate(quote.request)
            assert (await client.quote(quote.request))[0].cost == quote.cost
        assert await client.estimate(VIDEO) == quotes[0].cost
        assert (await client.quote(VIDEO, prefer="fastest"))[0].endpoint == "beta/clip"
        reasons = {one.endpoint: one.reason for one in await client.quote(Video("a", duration=12))}
        assert reasons["beta/clip"] == "duration is 12; it has 5, 10"


async def test_quotes_learn_prices_and_durations_from_jobs(market: Market) -> None:
    market.alpha.price, market.alpha.duration = "0.25", 300.0
    async with market.client(budget=Budget(usd=5), polling=Polling()) as client:
        await client.run(VIDEO)
        quote = {one.provider: one for one in await client.quote(VIDEO)}["alpha"]
        assert quote.cost == Cost(Decimal("0.25"), "USD")
        assert quote.price == "estimated"
        assert quote.learned
        assert quote.median is not None
        assert quote.median > 60
        assert (await client.submit(VIDEO)).ref.provider == "beta", "which is the cheapest now"


async def test_a_budget_goes_to_whoever_fits_and_max_cost_bounds_one_job(market: Market) -> None:
    async with market.client(prefer=["gamma", "beta", "alpha"]) as client:
        assert (await client.submit(VIDEO, max_cost=0.25)).ref.provider == "beta"
        with pytest.raises(NotOffered, match=r"\$0.10 would be set aside for it, and max_cost is \$0.05"):
            await client.submit(VIDEO, max_cost="0.05")
        with pytest.raises(NotOffered, match="paid in USD, and max_cost is in credits"):
            await client.submit(VIDEO, max_cost=Cost(Decimal(5), "credits"))
    async with market.client(prefer=["gamma", "beta"], budget=Budget(max_per_job=0.2)) as client:
        assert (await client.submit(VIDEO)).ref.provider == "beta"
        with pytest.raises(BudgetExceeded, match=r"costs \$0.30, and max_per_job is \$0.2"):
            await client.submit(VIDEO, prefer=["gamma"])
        own = next(one.request for one in await client.quote(VIDEO) if one.provider == "gamma")
        assert own is not None
        with pytest.raises(BudgetExceeded, match="max_per_job"):
            await client.run(own)


async def test_max_cost_bounds_a_providers_own_request(market: Market) -> None:
    async with market.client() as client:
        own = (await client.quote(VIDEO))[0].request
        assert own is not None
        with pytest.raises(BudgetExceeded, match=r"costs \$0.10, and max_cost is \$0.09"):
            await client.submit(own, max_cost=0.09)
        await client.submit(own, max_cost=0.10)


async def test_an_unknown_submission_is_resubmitted_to_its_own_endpoint(market: Market, ledger: MemoryLedger) -> None:
    market.alpha.outcome = "lost"
    async with market.client(ledger=ledger) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(VIDEO, key="a")
        market.alpha.outcome = "ok"
        job = await client.resubmit("a")
        assert job.ref.endpoint == "alpha/clip"
        assert await client.submit(VIDEO, key="a") == job


async def test_a_cancelled_submission_leaves_the_probe_to_another(market: Market) -> None:
    market.alpha.outcome = "down"
    async with market.client() as client:
        for _ in range(3):
            await client.submit(VIDEO)
        await anyio.sleep(31)
        with anyio.move_on_after(0.1):
            await client.submit(VIDEO)
        market.alpha.outcome = "ok"
        assert (await client.submit(VIDEO)).ref.provider == "alpha"


async def test_a_bulk_run_stops_when_nobody_can_take_another_row(market: Market) -> None:
    for one in (market.alpha, market.beta, market.gamma):
        one.outcome = "INSUFFICIENT_CREDITS"
    async with market.client() as client:
        kinds: Counter[str] = Counter()
        with pytest.raises(BulkStopped):  # noqa: PT012  # the loop raises at its end
            async with client.map([VIDEO] * 500, in_flight=5) as outcomes:
                async for outcome in outcomes:
                    kinds[type(outcome.error).__name__] += 1
    assert kinds == {"AllRefused": 5}
    assert sum(one.refused for one in (market.alpha, market.beta, market.gamma)) == 15


async def test_cancelled_at_any_moment_of_a_failover_nothing_is_bought_twice(market: Market) -> None:
    """The first provider is down, the second one refuses, the third one accepts."""
    market.alpha.outcome, market.beta.outcome = "down", "INSUFFICIENT_CREDITS"
    cancelled = 0
    for moment in range(60):
        ledger = MemoryLedger()
        async with market.client(ledger=ledger) as client:
            with anyio.move_on_after(moment * 0.05) as scope:
                await client.submit(VIDEO, key="a")
            cancelled += scope.cancelled_caught
            before = market.gamma.bought
            attempts = await ledger.attempts("a")
            assert sum(not attempt.state.key_reusable for attempt in attempts) <= 1
            accepted = [attempt for attempt in attempts if attempt.ref is not None]
            job = await client.submit(VIDEO, key="a")
            assert job.ref.provider == "gamma"
            assert market.gamma.bought == before + (not accepted)
    assert market.alpha.bought == market.beta.bought == 0
    assert cancelled > 10

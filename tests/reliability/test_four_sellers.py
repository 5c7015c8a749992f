"""A bulk run over four providers, of which one dies, one throttles and one loses answers, in virtual time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import anyio
import pytest

from kling_async import Client, MemoryLedger, Outcome, Polling, Progressive, SubmissionUnknown, Video
from support.fake_sellers import FakeSeller, Hosts, seller

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

ROWS = 80
PRICES = {"dies": "0.10", "throttles": "0.12", "loses": "0.15", "steady": "0.30"}


def market() -> dict[str, FakeSeller]:
    fakes = {name: FakeSeller(price=price, duration=60.0) for name, price in PRICES.items()}
    for name, at_once in {"dies": 8, "throttles": 3, "loses": 4, "steady": 8}.items():
        fakes[name].at_once = at_once
    return fakes


def client(fakes: dict[str, FakeSeller], ledger: MemoryLedger, prefer: Any = None) -> Client:
    providers = [seller(name, price) for name, price in PRICES.items()]
    polling = Polling(schedule=Progressive(5))
    return Client(providers, http=Hosts(**fakes), ledger=ledger, polling=polling, prefer=prefer)


class LosesSome(FakeSeller):
    """A provider whose answer to every seventh submission is lost."""

    async def handle_async_request(self, request: Any) -> Any:
        self.outcome = "lost" if request.url.path.endswith("/generate") and self.bought % 7 == 6 else "ok"
        return await super().handle_async_request(request)


@dataclass
class Run:
    outcomes: list[Outcome]
    seconds: float
    fakes: dict[str, FakeSeller]

    @property
    def unknown(self) -> set[str | None]:
        return {outcome.key for outcome in self.outcomes if isinstance(outcome.error, SubmissionUnknown)}

    @property
    def cost(self) -> Decimal:
        return sum((Decimal(fake.price) * fake.bought for fake in self.fakes.values()), Decimal(0))


async def run(fakes: dict[str, FakeSeller], ledger: MemoryLedger, prefer: Any = None) -> Run:
    rows = [(f"row-{number}", Video(f"boat {number}")) for number in range(ROWS)]
    begun = anyio.current_time()

    async def die() -> None:
        await anyio.sleep(100)
        if "dies" in fakes:
            fakes["dies"].outcome = "down"

    async with client(fakes, ledger, prefer) as one, anyio.create_task_group() as group:
        group.start_soon(die)
        async with one.map(rows, in_flight=24) as outcomes:
            found = [outcome async for outcome in outcomes]
        seconds = anyio.current_time() - begun
        group.cancel_scope.cancel()
    return Run(found, seconds, fakes)


async def test_every_row_is_bought_once_whatever_the_providers_do(record_property: Any) -> None:
    fakes = market()
    fakes["loses"] = LosesSome(price=PRICES["loses"])
    fakes["loses"].at_once = 4
    ledger = MemoryLedger()
    done = await run(fakes, ledger)

    assert len(done.outcomes) == ROWS
    for outcome in done.outcomes:
        assert outcome.result is not None or isinstance(outcome.error, SubmissionUnknown), outcome.error
    made = Counter(prompt for fake in fakes.values() for prompt in fake.by_prompt())
    jobs = Counter(job.body["prompt"] for fake in fakes.values() for job in fake.generations.values())
    assert max(jobs.values()) == 1, "nothing is bought twice, at no two providers"
    assert len(made) == sum(jobs.values()) == ROWS, "what is unknown was bought here, too"
    assert done.unknown, "some answers were lost"
    who = Counter(outcome.job.ref.provider for outcome in done.outcomes if outcome.job)
    assert who.keys() == PRICES.keys()

    alone = market()
    single = await run(alone, MemoryLedger(), prefer=["steady"])
    assert all(outcome.result is not None for outcome in single.outcomes)
    assert done.seconds < single.seconds
    assert done.cost < single.cost
    record_property("four", f"{done.seconds:.0f} s, ${done.cost}, {dict(who)}, {len(done.unknown)} unknown")
    record_property("single", f"{single.seconds:.0f} s, ${single.cost}")
    print(f"four: {done.seconds:.0f} s, ${done.cost}, {dict(who)}, {len(done.unknown)} unknown")  # noqa: T201  # the figures
    print(f"single: {single.seconds:.0f} s, ${single.cost}")  # noqa: T201  # the same


async def test_the_same_run_again_buys_nothing() -> None:
    fakes = market()
    rows = [(f"row-{number}", Video(f"boat {number}")) for number in range(30)]
    ledger = MemoryLedger()
    async with client(fakes, ledger) as one:
        async with one.map(rows[:20], in_flight=60) as outcomes:
            first = {outcome.key: outcome.job async for outcome in outcomes}
        fakes["dies"].outcome = "down"
        async with one.map(rows, in_flight=60, prefer=["steady", "dies", "throttles"]) as outcomes:
            second = {outcome.key: outcome.job async for outcome in outcomes}
    assert sum(fake.bought for fake in fakes.values()) == 30
    assert all(second[key] == job for key, job in first.items())

"""What the attempts in a shared ledger come to, and which claims fit: for every ledger that processes may share."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest

from kling_async import (
    Cost,
    Event,
    SqliteLedger,
    Status,
    SubmissionState,
    inspect_ledger,
)
from kling_async._ledger.protocol import Balance, Charge, NoRoom
from support.shared_ledger import NOON, Opened, Shared, file_of_version, ref_of, submission

pytestmark = pytest.mark.anyio

PRICE = Decimal("0.15")


def event(seq: int, status: Status, cost: str | None = None, unit: Any = "USD") -> Event:
    paid = Cost(Decimal(cost), unit) if cost is not None else None
    return Event(seq, status, NOON + timedelta(seconds=seq), float(seq), "poll", cost=paid)


def charge(amount: Decimal = PRICE, limit: str | None = None, **more: Any) -> Charge:
    wanted = Cost(amount, "USD")
    return Charge(wanted, **{"price": amount, **more}, limit=Decimal(limit) if limit is not None else None)


async def accept(ledger: Shared, key: str, of: Charge | None, events: Sequence[Event] = ()) -> None:
    """Buy a job, of which this is recorded."""
    claimed = await ledger.claim(submission(key), of)
    await ledger.record_outcome(replace(claimed, state=SubmissionState.ACCEPTED, ref=ref_of(key)))
    for one in events:
        await ledger.append_events(ref_of(key), [one])


async def sums(ledger: Shared, unit: str = "USD") -> tuple[Any, Any]:
    found = (await ledger.read_balances()).get(unit, Balance())
    return found.spent, found.reserved


async def test_claims_of_several_processes_never_exceed_the_limit(opened: Opened) -> None:
    ledgers = [opened() for _ in range(3)]
    won: list[str] = []
    refused: list[Balance] = []

    async def claim(ledger: Shared, key: str) -> None:
        try:
            won.append((await ledger.claim(submission(key), charge(limit="1"))).key)
        except NoRoom as error:
            refused.append(error.balance)

    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(claim, ledgers[number % 3], f"row-{number}")
    assert len(won) == 6, "six for $0.15 are $0.90"
    assert {balance.total for balance in refused if balance.total > Decimal("0.85")} == {Decimal("0.90")}
    assert await sums(ledgers[0]) == (0, Decimal("0.90"))
    stored = await ledgers[0].submissions()
    assert sorted(one.key for one in stored) == sorted(won), "what was refused is not stored"


async def test_each_claim_has_the_limit_of_its_own_client(opened: Opened) -> None:
    small, large = opened(), opened()
    await small.claim(submission("1"), charge(limit="0.3"))
    await large.claim(submission("2"), charge(limit="0.5"))
    with pytest.raises(NoRoom):
        await small.claim(submission("3"), charge(limit="0.3"))
    await large.claim(submission("4"), charge(limit="0.5"))
    await small.claim(submission("5"), charge())  # it has no limit, and counts for the others
    with pytest.raises(NoRoom) as caught:
        await large.claim(submission("6"), charge(limit="0.5"))
    assert caught.value.balance.total == Decimal("0.6")


async def test_a_key_that_is_in_use_needs_no_room(opened: Opened) -> None:
    ledger = opened()
    first = await ledger.claim(submission("1"), charge(limit="0.2"))
    again = replace(submission("1"), attempt_id="another")
    assert await ledger.claim(again, charge(limit="0.2")) == first
    assert await sums(ledger) == (0, PRICE)


async def test_what_is_bought_for_nothing_is_given_back(opened: Opened) -> None:
    ledger = opened()
    claimed = await ledger.claim(submission("1"), charge(limit="0.2"))
    await ledger.record_outcome(replace(claimed, state=SubmissionState.UNKNOWN, reason="lost"))
    assert await sums(ledger) == (0, PRICE), "it may have been bought"
    with pytest.raises(NoRoom):
        await ledger.claim(submission("2"), charge(limit="0.2"))
    await ledger.record_outcome(replace(claimed, state=SubmissionState.NOT_SUBMITTED, reason="forgotten"))
    assert await sums(ledger) == (0, 0)
    await ledger.claim(submission("2"), charge(limit="0.2"))
    again = replace(submission("1"), attempt_id="another")
    with pytest.raises(NoRoom):
        await ledger.claim(again, charge(limit="0.2"))
    found = await ledger.find(key="1")
    assert found is not None, "a claim that is refused leaves the key as it was"
    assert found.attempt_id == claimed.attempt_id


async def test_a_job_counts_for_its_price_until_its_end_and_then_for_its_cost(opened: Opened) -> None:
    ledger = opened()
    await accept(ledger, "1", charge(), [event(0, Status.PENDING)])
    assert await sums(ledger) == (0, PRICE)
    await ledger.append_events(ref_of("1"), [event(1, Status.PROCESSING, "0.05")])
    assert await sums(ledger) == (PRICE, 0), "its provider may have reported a part"
    await ledger.append_events(ref_of("1"), [event(2, Status.PROCESSING, "0.20")])
    assert await sums(ledger) == (Decimal("0.20"), 0)
    await ledger.append_events(ref_of("1"), [event(3, Status.COMPLETED, "0.123456789")])
    assert await sums(ledger) == (Decimal("0.123456789"), 0)


async def test_costs_of_other_units_ends_without_a_cost_and_refunds(opened: Opened) -> None:
    ledger = opened()
    await accept(ledger, "1", charge(), [event(0, Status.COMPLETED, "7", "credits")])
    assert await sums(ledger) == (0, 0)
    assert await sums(ledger, "credits") == (7, 0)
    await accept(ledger, "2", charge(), [event(0, Status.COMPLETED)])
    assert await sums(ledger) == (PRICE, 0), "nothing was reported"
    await accept(ledger, "3", charge(refunds=True), [event(0, Status.PENDING, "0.15"), event(1, Status.FAILED, "0.15")])
    assert await sums(ledger) == (PRICE, 0), "a failed job costs nothing"
    await accept(ledger, "4", charge(refunds=False), [event(0, Status.FAILED, "0.15")])
    assert await sums(ledger) == (2 * PRICE, 0)
    await ledger.release("4", "a-4", "submitted again")
    await accept(ledger, "5", charge(Decimal(0)))
    assert await sums(ledger) == (2 * PRICE, 0)


async def test_events_that_were_recorded_before_the_outcome_count(opened: Opened) -> None:
    ledger = opened()
    await ledger.claim(submission("1"), charge())
    await ledger.append_events(ref_of("1"), [event(0, Status.COMPLETED, "0.11")])
    await ledger.record_outcome(submission("1", state=SubmissionState.ACCEPTED, ref=ref_of("1")))
    assert await sums(ledger) == (Decimal("0.11"), 0)


async def test_of_those_whose_price_is_guessed_one_is_sent_at_a_time(opened: Opened) -> None:
    one, other = opened(), opened()
    guess = charge(Decimal(1), price=None, guessed=True, limit="10")
    first = await one.claim(submission("1"), guess)
    with pytest.raises(NoRoom) as caught:
        await other.claim(submission("2"), guess)
    assert (caught.value.balance.guesses, str(caught.value.balance.pending)) == (1, "1")
    await other.claim(submission("3"), charge(limit="10"))  # its price is known
    await one.record_outcome(replace(first, state=SubmissionState.ACCEPTED, ref=ref_of("1")))
    await other.claim(submission("2"), guess)


async def test_a_process_that_dies_while_it_sends_leaves_its_charge(opened: Opened) -> None:
    """It may have been bought, but no answer is on the way any more that could make room."""
    dead, alive = opened(), opened()
    await dead.claim(submission("1"), charge(limit="0.2"))
    assert (await alive.read_balances())["USD"].pending == PRICE
    dead._leases.sending.clear()
    await dead.aclose()  # as if its lease had expired
    assert (await alive.read_balances())["USD"] == Balance(reserved=PRICE)
    with pytest.raises(NoRoom):
        await alive.claim(submission("2"), charge(limit="0.2"))


async def test_attempts_that_were_stored_without_a_charge_are_counted_once(opened: Opened) -> None:
    one, other = opened(), opened()
    await accept(one, "ended", None, [event(0, Status.PENDING), event(1, Status.COMPLETED, "0.25")])
    await accept(one, "running", None, [event(0, Status.PROCESSING)])
    await accept(one, "failed", None, [event(0, Status.FAILED)])
    await one.claim(submission("sent"), None)
    refused = await one.claim(submission("refused"), None)
    await one.record_outcome(replace(refused, state=SubmissionState.REFUSED, reason="no"))
    assert await sums(one) == (0, 0)
    [found], [same] = await one.uncounted(["prompt"]), await other.uncounted(["prompt"])
    assert (found.endpoint, found.request["duration"], len(found.numbers)) == ("runblob/o3-video", 5, 5)
    await one.count([(found.numbers, charge(refunds=True))])
    await other.count([(same.numbers, charge(Decimal(9)))])  # too late
    assert await sums(other) == (Decimal("0.25"), 2 * PRICE)
    assert await other.uncounted() == []
    await other.append_events(ref_of("running"), [event(1, Status.COMPLETED, "0.1")])
    assert await sums(one) == (Decimal("0.35"), PRICE)


async def test_the_sums_are_those_of_the_attempts_whatever_happens(opened: Opened) -> None:
    """A hundred random histories by two processes. The sums are compared with what the rows say."""
    ledgers, dice = [opened(), opened()], random.Random(7)
    expected: dict[str, Decimal] = {}

    async def live(number: int) -> None:
        key, ledger = str(number), ledgers[number % 2]
        fate = dice.choice(["sending", "refused", "unknown", "running", "partial", "completed", "failed"])
        expected[key] = {
            "refused": Decimal(0),
            "partial": PRICE,
            "completed": Decimal("0.07"),
            "failed": Decimal(0),
        }.get(fate, PRICE)
        claimed = await ledger.claim(submission(key), charge(refunds=True, limit="1000"))
        if fate in {"refused", "unknown"}:
            await ledger.record_outcome(replace(claimed, state=SubmissionState(fate)))
        if fate in {"sending", "refused", "unknown"}:
            return
        await ledger.record_outcome(replace(claimed, state=SubmissionState.ACCEPTED, ref=ref_of(key)))
        status = {"completed": Status.COMPLETED, "failed": Status.FAILED}.get(fate, Status.PROCESSING)
        cost = None if fate == "running" else "0.07"
        await ledgers[(number + 1) % 2].append_events(ref_of(key), [event(0, Status.PENDING), event(1, status, cost)])

    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(live, number)
    assert sum(await sums(ledgers[0])) == sum(expected.values())
    known = ledgers[1].balances or await ledgers[1].read_balances()
    assert known["USD"].total == sum(expected.values())


async def test_what_a_process_knows_is_up_to_date_after_its_writes(opened: Opened) -> None:
    ledger = opened()
    assert ledger.balances == {}
    await ledger.read_balances()
    await accept(ledger, "1", charge(limit="5"))
    assert ledger.balances["USD"] == Balance(reserved=PRICE)
    await ledger.append_events(ref_of("1"), [event(0, Status.COMPLETED, "0.15")])
    assert ledger.balances["USD"] == Balance(spent=PRICE)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_file_of_the_version_before_is_upgraded_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    file_of_version(
        path,
        4,
        (
            """INSERT INTO attempts (key, attempt_id, endpoint, request, fingerprint, started, state, ref)
                VALUES ('1', 'a', 'runblob/o3-video', '{"prompt": "x"}', 'f', 1, 'accepted', 'runblob/o3-video/1'),
                    ('2', 'b', 'runblob/o3-video', 'damaged', 'f', 1, 'unknown', NULL)""",
            (),
        ),
        (
            "INSERT INTO events (ref, seq, terminal, event) VALUES ('runblob/o3-video/1', 0, 1, ?)",
            ('{"status": "completed", "cost": {"amount": "0.125", "unit": "USD"}}',),
        ),
    )
    assert [one.key for one in (await inspect_ledger(path)).submissions] == ["1", "2"], "reading needs no upgrade"
    ledger = SqliteLedger(path)
    groups = await ledger.uncounted()
    assert sorted(len(group.numbers) for group in groups) == [1, 1]
    await ledger.count([(group.numbers, charge()) for group in groups])
    assert await sums(ledger) == (Decimal("0.125"), PRICE)
    await ledger.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_claim_that_waits_for_the_sums_can_be_cancelled(tmp_path: Path) -> None:
    """Another process holds the file. Nothing of the claim is left once it lets go."""
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.read_balances()
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        task = asyncio.ensure_future(ledger.claim(submission("1"), charge(limit="1")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        other.execute("ROLLBACK")
    found = await ledger.find(key="1")
    spent, reserved = await sums(ledger)
    assert (spent, reserved) == (0, PRICE if found is not None else 0), "as a whole or not at all"
    await ledger.aclose()

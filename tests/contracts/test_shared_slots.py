"""The slots of a provider's account in a shared ledger: for every ledger that processes may share."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from kling_async import Cost, Event, JobRef, SqliteLedger, Status, SubmissionState
from kling_async._ledger.leases import now_with_sleep
from kling_async._ledger.protocol import Charge, NoRoom, NoSlot, Slot
from support.shared_ledger import NOON, Opened, Shared, file_of_version, ref_of, submission

pytestmark = pytest.mark.anyio

PATIENCE = 120.0
ACCOUNT = "runblob 0123456789abcdef"
TWO = Slot(ACCOUNT, 2)
_numbers = count()


@pytest.fixture
def options() -> dict[str, float]:
    """A process that dies in the queue is out of it after this lease."""
    return {"lease": 1}


async def accept(ledger: Shared, key: str, slot: Slot | None = TWO) -> None:
    claimed = await ledger.claim(submission(key), None, slot)
    await ledger.record_outcome(replace(claimed, state=SubmissionState.ACCEPTED, ref=ref_of(key)))


async def end(ledger: Shared, key: str, status: Status = Status.COMPLETED) -> None:
    await ledger.append_events(ref_of(key), [Event(0, status, NOON + timedelta(seconds=1), 1.0, "poll")])


async def free_slots(ledger: Shared, slot: Slot = TWO) -> int:
    """How many more claims find a slot. They are withdrawn."""
    won = []
    for _ in range(4):
        probe = f"probe-{next(_numbers)}"
        try:
            won.append(await ledger.claim(submission(probe), None, replace(slot, queued=False)))
        except NoSlot:
            break
    for one in won:
        await ledger.record_outcome(replace(one, state=SubmissionState.NOT_SUBMITTED))
    return len(won)


async def test_claims_of_several_processes_at_once_find_as_many_slots_as_there_are(
    opened: Opened,
) -> None:
    ledgers = [opened() for _ in range(3)]
    won: list[str] = []
    full: list[NoSlot] = []

    async def claim(ledger: Shared, key: str) -> None:
        try:
            won.append((await ledger.claim(submission(key), None, Slot(ACCOUNT, 5, queued=False))).key)
        except NoSlot as error:
            full.append(error)

    async with anyio.create_task_group() as group:
        for number in range(30):
            group.start_soon(claim, ledgers[number % 3], f"row-{number}")
    assert len(won) == 5
    assert {error.running for error in full} <= set(range(6))
    assert sorted(one.key for one in await ledgers[0].submissions()) == sorted(won), "what was refused is not stored"


@pytest.mark.parametrize(
    ("state", "left"),
    [
        (SubmissionState.NOT_SUBMITTED, 2),
        (SubmissionState.REFUSED, 2),
        (SubmissionState.UNKNOWN, 1),
        (SubmissionState.SENDING, 1),
        (SubmissionState.ACCEPTED, 1),
    ],
)
async def test_a_slot_is_held_while_a_job_may_run(opened: Opened, state: SubmissionState, left: int) -> None:
    ledger = opened()
    claimed = await ledger.claim(submission("1"), None, TWO)
    ref = ref_of("1") if state is SubmissionState.ACCEPTED else None
    if state is not SubmissionState.SENDING:
        await ledger.record_outcome(replace(claimed, state=state, ref=ref))
    assert await free_slots(ledger) == left
    await ledger.release("1", claimed.attempt_id, "forgotten")
    assert await free_slots(ledger) == 2, "the user knows that it does not run"


async def test_a_slot_is_free_once_any_process_has_recorded_the_end(opened: Opened) -> None:
    one, other = opened(), opened()
    for key, status in (("1", Status.COMPLETED), ("2", Status.FAILED), ("3", Status.CANCELLED)):
        await accept(one, key)
        assert await free_slots(other) == 1
        await end(other, key, status)
        assert await free_slots(one) == 2
    await one.claim(submission("4"), None, TWO)
    await end(other, "4")  # a webhook that was earlier than the answer
    await one.record_outcome(submission("4", state=SubmissionState.ACCEPTED, ref=ref_of("4")))
    assert await free_slots(one) == 2


async def test_each_account_has_its_slots_and_jobs_without_a_limit_count(opened: Opened) -> None:
    ledger = opened()
    await accept(ledger, "1", Slot("runblob other", 1))
    assert await free_slots(ledger) == 2
    await accept(ledger, "2", Slot(ACCOUNT))
    assert await free_slots(ledger) == 1
    await accept(ledger, "3", None)  # of which only the provider is known
    assert await free_slots(ledger) == 0
    assert await free_slots(ledger, Slot(ACCOUNT, 3)) == 1, "each claim has the limit of its own client"


async def test_a_key_that_is_in_use_needs_no_slot(opened: Opened) -> None:
    ledger = opened()
    first = await ledger.claim(submission("1"), None, Slot(ACCOUNT, 1))
    again = replace(submission("1"), attempt_id="another")
    assert await ledger.claim(again, None, Slot(ACCOUNT, 1)) == first
    await ledger.record_outcome(replace(first, state=SubmissionState.REFUSED, reason="no"))
    assert (await ledger.claim(again, None, Slot(ACCOUNT, 1))).attempt_id == "another"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(("slot", "in_file", "on_server"), [(None, 5, 6), (Slot(ACCOUNT), 5, 6), (TWO, 6, 8)])
async def test_a_claim_without_a_limit_sends_no_more_statements_than_before_there_were_limits(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, slot: Slot | None, in_file: int, on_server: int
) -> None:
    ledger, sent = opened(), list[str]()
    await ledger.claim(submission("1"), None, slot)
    if isinstance(ledger, SqliteLedger):
        await ledger._read(lambda connection: connection.set_trace_callback(sent.append))
    else:
        execute = psycopg.Connection.execute

        def counted(connection: Any, *arguments: Any, **more: Any) -> Any:
            sent.append("one")
            return execute(connection, *arguments, **more)

        monkeypatch.setattr(psycopg.Connection, "execute", counted)
    ledger._leases.renewed = now_with_sleep() + PATIENCE  # its row is not renewed meanwhile
    await ledger.claim(submission("2"), None, slot)
    monkeypatch.undo()
    statements = [each for each in sent if not each.startswith("--")]  # SQLite tells the parts of triggers, too
    assert len(statements) == (in_file if isinstance(ledger, SqliteLedger) else on_server)


async def test_the_budget_is_asked_first_and_both_hold(opened: Opened) -> None:
    ledger, one = opened(), Slot(ACCOUNT, 1)
    charge = Charge(Cost(Decimal(1), "USD"), Decimal(1), limit=Decimal(2))
    await ledger.claim(submission("1"), charge, one)
    with pytest.raises(NoSlot):
        await ledger.claim(submission("2"), charge, one)
    with pytest.raises(NoRoom):
        await ledger.claim(submission("3"), replace(charge, limit=Decimal(1)), one)
    assert (await ledger.read_balances())["USD"].total == 1, "what finds no slot counts for nothing"


async def test_unknown_submissions_that_hold_slots_are_named(opened: Opened) -> None:
    dead, ledger = opened(), opened()
    await dead.claim(submission("sent"), None, TWO)
    dead._leases.sending.clear()
    await dead.aclose()  # as if its lease had expired
    lost = await ledger.claim(submission("lost"), None, TWO)
    await ledger.record_outcome(replace(lost, state=SubmissionState.UNKNOWN, reason="lost"))
    with pytest.raises(NoSlot) as full:
        await ledger.claim(submission("3"), None, TWO)
    assert (full.value.running, list(full.value.unknown)) == (2, ["sent", "lost"])


async def test_who_waits_is_woken_in_the_order_of_the_queue_and_a_newcomer_waits_behind(
    opened: Opened,
) -> None:
    """The process that records an end is the first to know of it. It takes no slot before those that waited longer."""
    busy, patient, later = opened(), opened(), opened()
    slot = Slot(ACCOUNT, 1)
    await accept(busy, "running", slot)
    order: list[str] = []

    async def wait(ledger: Shared, key: str, queued: anyio.Event) -> None:
        while True:
            try:
                await ledger.claim(submission(key), None, slot)
            except NoSlot:
                queued.set()
                await ledger.slot_free(submission(key), slot)
            else:
                order.append(key)
                await ledger.record_outcome(submission(key, state=SubmissionState.NOT_SUBMITTED))
                return

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            for ledger, key in ((patient, "first"), (later, "second"), (busy, "third")):
                queued = anyio.Event()
                group.start_soon(wait, ledger, key, queued)
                await queued.wait()
            await end(busy, "running")
            with pytest.raises(NoSlot) as full:
                await busy.claim(submission("newcomer"), None, replace(slot, queued=False))
    assert order == ["first", "second", "third"]
    assert full.value.ahead > 0


async def test_who_leaves_the_queue_or_dies_in_it_holds_up_nobody(opened: Opened) -> None:
    busy, leaves, dies, waits = opened(), opened(), opened(), opened()
    slot = Slot(ACCOUNT, 1)
    await accept(busy, "running", slot)
    for ledger, key in ((leaves, "leaves"), (dies, "dies"), (waits, "waits")):
        with pytest.raises(NoSlot):
            await ledger.claim(submission(key), None, slot)
    leaves.leave_queue(submission("leaves"))
    dies._leases.sending.clear()  # it renews its row no more, as a process that was killed
    await end(busy, "running")
    with anyio.fail_after(PATIENCE):
        await waits.slot_free(submission("waits"), slot)
        assert (await waits.claim(submission("waits"), None, slot)).attempt_id == "a-waits"


async def test_the_count_is_that_of_the_attempts_whatever_happens(opened: Opened) -> None:
    """A hundred random histories by two processes. The free slots are compared with what the rows say."""
    ledgers, dice = [opened(), opened()], random.Random(7)
    slot, held = Slot(ACCOUNT, 1000), 0

    async def live(number: int, fate: str) -> None:
        key, ledger = str(number), ledgers[number % 2]
        claimed = await ledger.claim(submission(key), None, slot)
        if fate in {"refused", "unknown"}:
            await ledger.record_outcome(replace(claimed, state=SubmissionState(fate)))
        if fate in {"running", "completed", "released"}:
            await ledger.record_outcome(replace(claimed, state=SubmissionState.ACCEPTED, ref=ref_of(key)))
        if fate == "completed":
            await end(ledgers[(number + 1) % 2], key)
        if fate == "released":
            await ledger.release(key, claimed.attempt_id, "forgotten")

    async with anyio.create_task_group() as group:
        for number in range(100):
            fate = dice.choice(["sending", "refused", "unknown", "running", "completed", "released"])
            held += fate in {"sending", "unknown", "running"}
            group.start_soon(live, number, fate)
    with pytest.raises(NoSlot) as full:
        await ledgers[0].claim(submission("one more"), None, Slot(ACCOUNT, 1, queued=False))
    assert full.value.running == held


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_file_of_the_version_before_is_upgraded_and_its_jobs_hold_slots(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    file_of_version(
        path,
        5,
        (
            """INSERT INTO attempts (key, attempt_id, endpoint, request, fingerprint, started, state, ref, ended)
                VALUES ('1', 'a', 'runblob/o3-video', '{}', 'f', 1, 'accepted', 'runblob/o3-video/1', NULL),
                    ('2', 'b', 'runblob/o3-video', '{}', 'f', 1, 'accepted', 'runblob/o3-video/2', 1),
                    ('3', 'c', 'fal/o3-video', '{}', 'f', 1, 'unknown', NULL, NULL)""",
            (),
        ),
    )
    ledger = SqliteLedger(path)
    assert await free_slots(ledger) == 1, "for every account of its provider"
    assert await free_slots(ledger, Slot("fal x", 2)) == 1
    await ledger.append_events(JobRef("runblob", "o3-video", "1"), [Event(0, Status.COMPLETED, NOON, 1.0, "poll")])
    assert await free_slots(ledger) == 2
    await ledger.aclose()

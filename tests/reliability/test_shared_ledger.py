"""Several clients with one ledger: each key is bought once, each job is polled by one, and all see its events."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

from kling_async import (
    Budget,
    BudgetExceeded,
    Client,
    ConfigurationError,
    Event,
    Job,
    JobRef,
    Learned,
    LedgerFailed,
    Polling,
    PostgresLedger,
    Progressive,
    SqliteLedger,
    Status,
    Submission,
    SubmissionState,
    Webhooks,
    inspect_ledger,
    open_ledger,
    runblob,
)
from kling_async._ledger.group_commit import News, Operation
from kling_async._ledger.postgres_database import PostgresDatabase
from kling_async._ledger.protocol import NOT_STORABLE
from kling_async._ledger.sqlite_database import SqliteDatabase
from kling_async.sandbox import Sandbox
from kling_async.starlette import webhook_route
from support.asgi_server import PATIENCE, Site, serve

pytestmark = [pytest.mark.anyio, pytest.mark.network_sandbox]

REQUEST = runblob.O3Video("a paper boat", duration=5)
REF = JobRef("runblob", "o3-video", "550e8400-e29b-41d4-a716-446655440000")
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
SECRET = "an old and very secret secret"


class Processes:
    """Makes clients that share one ledger, as several processes do.

    Attributes:
        place: The file, or the address of the database.
    """

    def __init__(self, sandbox: Sandbox, place: Path | str, stack: AsyncExitStack) -> None:
        self.sandbox = sandbox
        self.place = place
        self._stack = stack

    @property
    def path(self) -> Path:
        assert isinstance(self.place, Path)
        return self.place

    def ledger(self, *, lease: float = 30.0) -> SqliteLedger | PostgresLedger:
        made = open_ledger(self.place, lease=lease)
        self._stack.push_async_callback(made.aclose)
        return made

    async def client(self, *, lease: float = 30.0, **settings: Any) -> Client:
        [provider] = [each for each in self.sandbox.providers() if each.name == "runblob"]
        made = Client(provider, ledger=self.ledger(lease=lease), **settings)
        return await self._stack.enter_async_context(made)

    @property
    def bought(self) -> int:
        return self.sandbox.counters.bought["runblob"]

    @property
    def polls(self) -> int:
        return self.sandbox.counters.requests["runblob", "status"]


@pytest.fixture
async def processes(
    request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path, kind: str
) -> AsyncIterator[Processes]:
    place: Path | str = tmp_path / "jobs.db"
    if kind == "postgres":
        server = request.getfixturevalue("postgres")
        place = f"{server.dsn()}?schema={server.schema()}"
    async with AsyncExitStack() as stack:
        yield Processes(sandbox, place, stack)


@pytest.fixture
def kind() -> str:
    """What the processes share: a file, unless the test is for both kinds."""
    return "sqlite"


both = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


def statuses(job: Job) -> list[Status]:
    return [event.status for event in job.events]


@both
async def test_a_key_that_two_submit_at_once_is_bought_once(processes: Processes) -> None:
    clients = [await processes.client() for _ in range(3)]
    refs = []

    async def generate(client: Client) -> None:
        job = await client.submit(REQUEST, key="boat")
        refs.append(job.ref)
        with anyio.fail_after(PATIENCE):
            await job

    async with anyio.create_task_group() as group:
        for client in clients:
            group.start_soon(generate, client)
    assert len(set(refs)) == 1
    assert processes.bought == 1


@both
@pytest.mark.sandbox(speed=60)
async def test_one_of_those_who_wait_for_a_job_polls_it_and_all_see_its_events(processes: Processes) -> None:
    first, second = await processes.client(), await processes.client()
    one = await first.submit(REQUEST, key="boat")
    [other] = await second.resume()
    async with anyio.create_task_group() as group:
        for job in (one, other):
            group.start_soon(job.wait)
    assert statuses(one) == statuses(other)
    assert one.status is Status.COMPLETED
    assert [event.source for event in other.events[1:]] == ["ledger"] * (len(other.events) - 1)
    assert second.statistics().providers["runblob"].polls == 0
    assert processes.polls == first.statistics().providers["runblob"].polls >= 1


@both
@pytest.mark.parametrize("waiting", [False, True])
async def test_what_others_record_between_two_waits_is_read(processes: Processes, waiting: bool) -> None:
    """The job is ours to poll, and its webhook reached another process while nobody waited for it here."""
    first = await processes.client(polling=Polling(schedule=Progressive(3600), deadline=7200))
    second = open_ledger(processes.place)
    job, other = [await first.submit(REQUEST, key=key) for key in ("boat", "fox")]
    async with anyio.create_task_group() as group:
        if waiting:  # for another job, so that the ledger's thread looks for news all the time
            group.start_soon(other.wait)
            await anyio.wait_all_tasks_blocked()
        log = await second.events(job.ref)
        await second.append_events(job.ref, [Event(log[-1].seq + 1, Status.FAILED, NOON, 1.0, "webhook")])
        if waiting:
            ledger: Any = first.ledger
            with anyio.fail_after(PATIENCE):
                while not ledger._leases.others:  # noqa: ASYNC110  # its thread has seen it
                    await anyio.sleep(0.01)
        await second.aclose()
        with anyio.fail_after(PATIENCE):
            assert await job.wait() is Status.FAILED
        group.cancel_scope.cancel()
    assert processes.polls == 0


async def test_whoever_waits_takes_over_from_a_process_that_ends(processes: Processes) -> None:
    first, second = await processes.client(), await processes.client()
    await first.submit(REQUEST, key="boat")
    [job] = await second.resume()
    async with anyio.create_task_group() as group:
        group.start_soon(job.wait)
        await first.aclose()
    assert job.status is Status.COMPLETED
    assert processes.bought == 1


BUYER = """
import sys
import anyio
from kling_async import Client, RunBlob, SqliteLedger, runblob

async def main():
    async with Client(RunBlob(), ledger=SqliteLedger(sys.argv[1], lease=3600)) as client:
        await client.submit(runblob.O3Video("a paper boat", duration=5), key="boat")
        print("bought", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)

anyio.run(main)
"""


@pytest.mark.sandbox(environment=["runblob"])
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the killed program is the same
async def test_the_jobs_of_a_killed_process_are_polled_at_once_by_whoever_waits(processes: Processes) -> None:
    """Its lease lasts for an hour. What it may be sending would be unknown no earlier than that."""
    command = [sys.executable, "-c", BUYER, str(processes.path)]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        with anyio.fail_after(PATIENCE):
            assert (await process.stdout.receive()).strip() == b"bought"
        process.kill()
        await process.wait()
    client = await processes.client()
    [job] = await client.resume()
    with anyio.fail_after(PATIENCE):
        assert await job.wait() is Status.COMPLETED
    with closing(sqlite3.connect(processes.path)) as connection:
        [gone] = connection.execute("SELECT gone FROM owners WHERE expires > unixepoch() + 600").fetchall()
    assert gone == (1,)


@both
async def test_a_lease_that_nobody_wants_any_more_is_given_back(processes: Processes) -> None:
    """The process that submitted lives on, and nobody waits for the job in it."""
    first, second = await processes.client(), await processes.client()
    await first.submit(REQUEST, key="boat")
    [job] = await second.resume()
    with anyio.fail_after(PATIENCE):
        assert await job.wait() is Status.COMPLETED


async def test_a_process_that_is_stopped_for_longer_than_its_lease_polls_no_more(processes: Processes) -> None:
    """It is woken when the job has ended elsewhere, and reads the end from the ledger."""
    first, second = await processes.client(lease=1.0), await processes.client(lease=1.0)
    job = await first.submit(REQUEST, key="boat")
    first_ledger: Any = first.ledger
    before = first_ledger._leases.owner
    with closing(sqlite3.connect(processes.path)) as connection, connection:
        connection.execute("UPDATE owners SET expires = 0 WHERE id = ?", (before,))
    [other] = await second.resume()
    async with anyio.create_task_group() as group:
        group.start_soon(job.wait)
        group.start_soon(other.wait)
    assert statuses(job) == statuses(other)
    assert job.status is Status.COMPLETED
    assert first_ledger._leases.owner != before, "it has become another owner"


def sending(key: str) -> Submission:
    """What a process stores before it sends a request."""
    return Submission(key, "runblob/o3-video", {"prompt": "a paper boat"}, "f", key, NOON)


async def test_a_submission_is_unknown_once_the_lease_of_its_sender_has_expired(processes: Processes) -> None:
    sender = SqliteLedger(processes.path, lease=2.0)
    await sender.claim(sending("boat"))
    client = await processes.client()
    assert await client.unresolved() == []  # it is being sent
    with pytest.raises(ConfigurationError, match="is being sent right now"):
        await client.forget("boat")
    sender._leases.sending.clear()  # as if the process had died: nothing is renewed any more
    assert await client.resume() == []  # which waits for that
    [left] = await client.unresolved()
    assert (left.key, left.state) == ("boat", SubmissionState.UNKNOWN)
    assert left.reason == "the process ended while it was being sent"
    await sender.aclose()


@both
async def test_whoever_asks_for_a_key_that_another_sends_hears_its_outcome(processes: Processes) -> None:
    sender, other = processes.ledger(), processes.ledger()
    claimed = await sender.claim(sending("boat"))
    heard: list[Submission | None] = []

    async def wait() -> None:
        heard.append(await other.settled(claimed.attempt_id))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await other.find(key="boat")
        assert heard == []
        await sender.record_outcome(replace(claimed, state=SubmissionState.REFUSED, reason="no credits"))
    assert [each and each.state for each in heard] == [SubmissionState.REFUSED]
    assert await other.settled("nobody's") is None


@both
async def test_an_accepted_submission_stays_accepted_when_its_own_process_loses_the_answer(
    processes: Processes,
) -> None:
    ledger = processes.ledger()
    claimed = await ledger.claim(sending("boat"))
    await ledger.record_outcome(replace(claimed, state=SubmissionState.ACCEPTED, ref=REF))
    await ledger.record_outcome(replace(claimed, state=SubmissionState.UNKNOWN, reason="the answer was lost"))
    found = await ledger.find(key="boat")
    assert found is not None
    assert (found.state, found.ref) == (SubmissionState.ACCEPTED, REF)


@both
async def test_two_who_record_an_event_at_once_agree_on_its_number(processes: Processes) -> None:
    first, second = processes.ledger(), processes.ledger()
    mine, theirs = (Event(0, status, NOON, 0.0, "poll") for status in (Status.PENDING, Status.PROCESSING))
    assert await first.append_events(REF, [mine]) == ()
    assert await first.append_events(REF, [mine]) == ()
    assert await second.append_events(REF, [theirs]) == [mine]
    assert await second.events(REF) == [mine]


async def test_a_file_that_another_computer_has_open_is_refused(processes: Processes) -> None:
    ledger = SqliteLedger(processes.path)
    await ledger.claim(sending("boat"))
    with closing(sqlite3.connect(processes.path)) as connection, connection:
        connection.execute("UPDATE owners SET host = 'another', process = 17")
    client = await processes.client()
    with pytest.raises(LedgerFailed, match=r"open in process 17 of another computer.*PostgresLedger"):
        await client.submit(REQUEST, key="a")
    assert processes.bought == 0
    await ledger.aclose()


@both
async def test_a_paid_call_is_not_sent_once_the_lease_has_expired(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await processes.client()
    ledger: Any = client.ledger
    monkeypatch.setattr(ledger, "lease_left", lambda: 0.0)  # this process was stopped between the claim and the call
    with pytest.raises(LedgerFailed, match="this process was stopped for so long"):
        await client.submit(REQUEST, key="boat")
    monkeypatch.undo()
    assert processes.bought == 0
    await (await client.submit(REQUEST, key="boat"))
    assert processes.bought == 1


@both
async def test_an_attached_job_that_the_ledger_has_is_replayed_from_it(processes: Processes) -> None:
    first, second = await processes.client(), await processes.client()
    job = await first.submit(REQUEST, key="boat", tags={"customer": "17"})
    await job
    before = processes.polls
    again = second.attach(job.ref)
    assert (await again).artifacts
    assert statuses(again) == statuses(job)
    assert (again.key, again.tags) == ("boat", {"customer": "17"})
    assert processes.polls == before


async def test_an_attached_job_is_followed_while_the_ledger_cannot_be_read(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = await processes.client(), await processes.client()
    job = await first.submit(REQUEST, key="boat")

    async def fail(**_: object) -> None:
        raise LedgerFailed("the ledger cannot be used")

    monkeypatch.setattr(second.ledger, "find", fail)
    assert (await second.attach(job.ref)).artifacts
    assert f"job {job.ref} is followed without what the ledger may have of it" in caplog.text


async def test_what_others_did_while_a_ledger_was_broken_is_read_afterwards(
    processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what belongs to the jobs that are waited for is read again, not the whole ledger."""
    first, second = await processes.client(), await processes.client()
    await (await first.submit(REQUEST, key="earlier"))
    job = await first.submit(REQUEST, key="boat")
    [other] = await second.resume()
    read: list[str] = []
    real = SqliteDatabase.logs
    broken = True

    def news(self: SqliteDatabase, *, restart: bool) -> News:
        if broken and not restart:
            raise sqlite3.OperationalError("disk I/O error")
        return real_news(self, restart=restart)

    def logs(self: SqliteDatabase, refs: Sequence[str]) -> News:
        read.extend(refs)
        return real(self, refs)

    real_news = SqliteDatabase.news
    monkeypatch.setattr(SqliteDatabase, "news", news)
    monkeypatch.setattr(SqliteDatabase, "logs", logs)
    async with anyio.create_task_group() as group:
        group.start_soon(job.wait)
        group.start_soon(other.wait)
        with anyio.fail_after(PATIENCE):
            while not job.status.terminal:  # noqa: ASYNC110  # the first process reads nothing of others
                await anyio.sleep(0.05)
        broken = False
    assert statuses(other) == statuses(job)
    assert set(read) == {job.ref}


@both
async def test_those_who_follow_take_over_jobs_that_no_process_polls(processes: Processes) -> None:
    first, second = await processes.client(), await processes.client()
    jobs = [await first.submit(REQUEST, key=f"row-{row}") for row in range(5)]
    await first.aclose()
    async with anyio.create_task_group() as group:
        group.start_soon(second.follow)
        with anyio.fail_after(PATIENCE):
            while (await inspect_ledger(processes.place)).unfinished:  # noqa: ASYNC110  # another process
                await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    assert processes.bought == len(jobs)


@both
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the endpoint is served by uvicorn, which knows asyncio alone
@pytest.mark.parametrize("confirm", [True, False])
async def test_a_webhook_that_reaches_another_process_wakes_whoever_waits(processes: Processes, confirm: bool) -> None:
    """The fallback poll is an hour away, so that only the webhook can end the wait."""
    site = Site()
    webhooks = Webhooks(f"{site.url}/kling", SECRET, confirm=confirm, backstop=3600)
    waiting, reached = [await processes.client(webhooks=webhooks) for _ in range(2)]
    async with serve(site, Starlette(routes=[webhook_route(reached, "/kling")])):
        job = await waiting.submit(REQUEST, key="boat")
        with anyio.fail_after(PATIENCE):
            assert await job.wait() is Status.COMPLETED
    assert processes.polls <= 3 if confirm else processes.polls == 0


@both
async def test_the_limit_on_status_calls_holds_for_all_who_share_the_ledger(processes: Processes) -> None:
    ledgers = [processes.ledger() for _ in range(4)]
    waits = [await ledger.next_call("runblob of one key", 2.0) for _ in range(3) for ledger in ledgers]
    assert [round(wait / 2) for wait in waits] == list(range(12))
    assert await ledgers[0].next_call("runblob of another key", 2.0) == 0


@both
async def test_one_budget_holds_for_all_who_share_the_ledger(processes: Processes) -> None:
    """Six clips for $0.15 fit into a dollar, whoever buys them. Both clients say what is left."""
    clients = [await processes.client(budget=Budget(usd=1)) for _ in range(2)]
    refusals: list[str] = []

    async def buy(client: Client, row: int) -> None:
        try:
            job = await client.submit(REQUEST, key=f"row-{row}")
        except BudgetExceeded as error:
            refusals.append(error.message)
        else:
            await job.wait()

    async with anyio.create_task_group() as group:
        for row in range(20):
            group.start_soon(buy, clients[row % 2], row)
    assert processes.bought == 6
    assert len(refusals) == 14
    assert all("and the budget of $1.00 has" in refusal for refusal in refusals)
    for client in clients:
        with pytest.raises(BudgetExceeded, match=r"\(\$0.90 spent, \$0.00 reserved\); nothing was sent"):
            await client.submit(REQUEST, key="one more")
        budget = client.statistics().budget
        assert budget is not None
        assert (str(budget.spent[0]), budget.reserved, str(budget.left[0])) == ("$0.90", (), "$0.10")
    larger = await processes.client(budget=Budget(usd="1.10"))
    await (await larger.submit(REQUEST, key="one more"))
    assert processes.bought == 7


@both
async def test_what_all_have_learned_of_durations_is_kept(processes: Processes) -> None:
    """Whoever closes last replaces nothing."""
    clients = [await processes.client(polling=Polling(schedule=Learned())) for _ in range(3)]
    for row, client in enumerate(clients):
        await (await client.submit(REQUEST, key=f"row-{row}"))
    async with anyio.create_task_group() as group:
        for client in clients:
            group.start_soon(client.aclose)
    [ends] = (await processes.ledger().get_value("durations"))["ends"].values()
    assert len(ends) == 3


@both
async def test_what_could_not_be_written_is_written_without_being_asked_for(
    processes: Processes, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process learns of the outcome, though the one that has it does nothing any more."""
    database: Any = SqliteDatabase if kind == "sqlite" else PostgresDatabase
    real, broken = database.commit, True

    def commit(self: object, operations: Sequence[Operation]) -> None:
        if broken and any(operation.keep is not None for operation in operations):
            raise LedgerFailed("the disk is full")
        real(self, operations)

    monkeypatch.setattr(database, "commit", commit)
    buyer, other = await processes.client(), processes.ledger()
    job = await buyer.submit(REQUEST, key="boat")
    found = await other.find(key="boat")
    assert found is not None
    assert found.state is SubmissionState.SENDING
    assert "the disk is full. Jobs that run are followed" in caplog.text
    broken = False
    with anyio.fail_after(PATIENCE):
        settled = await other.settled(found.attempt_id)
        while not await other.events(job.ref):  # noqa: ASYNC110  # another process
            await anyio.sleep(0.05)
    assert settled is not None
    assert (settled.state, settled.ref) == (SubmissionState.ACCEPTED, job.ref)
    await other.release("boat", found.attempt_id, "not wanted")
    await other.record_outcome(replace(settled, reason="resolved elsewhere"))
    await buyer.submit(REQUEST, key="another")
    later = await other.find(attempt_id=found.attempt_id)
    assert later is not None
    assert later.reason == "resolved elsewhere", "what is stored is not stored once more"


@both
@pytest.mark.parametrize("code", [None, NOT_STORABLE])
@pytest.mark.sandbox(speed=60)
async def test_a_job_that_cannot_be_recorded_is_polled_all_the_same(
    processes: Processes, kind: str, code: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else knows of it, so there is nobody to wait for."""
    database: Any = SqliteDatabase if kind == "sqlite" else PostgresDatabase
    real = database.commit

    def commit(self: object, operations: Sequence[Operation]) -> None:
        if any(operation.keep is not None for operation in operations):
            raise LedgerFailed("it cannot be written", code=code)
        real(self, operations)

    def take(self: object, refs: Sequence[str]) -> Sequence[str]:
        raise LedgerFailed("it cannot be written")

    monkeypatch.setattr(database, "commit", commit)
    monkeypatch.setattr(database, "take", take)
    buyer = await processes.client()
    job = await buyer.submit(REQUEST, key="boat")
    with anyio.fail_after(PATIENCE):
        assert (await job).artifacts
    assert processes.bought == 1


@both
@pytest.mark.sandbox(speed=60)
async def test_all_jobs_are_those_of_every_process(processes: Processes) -> None:
    """They are polled where they were, and the history of each is there."""
    first, second, viewer = [await processes.client() for _ in range(3)]
    jobs = [await client.submit(REQUEST, key=f"row-{row}") for row, client in enumerate((first, second))]
    seen = await viewer.all_jobs()
    assert [(job.ref, job.key, len(job.events)) for job in seen] == [(job.ref, job.key, 1) for job in jobs]
    async with anyio.create_task_group() as group:
        for job in (*jobs, *seen):
            group.start_soon(job.wait)
    assert [statuses(job) for job in seen] == [statuses(job) for job in jobs]
    assert viewer.statistics().providers["runblob"].polls == 0
    assert await viewer.all_jobs() == []


@both
async def test_those_who_follow_share_the_jobs(processes: Processes) -> None:
    """Each takes its part of the jobs that no process polls, and leaves the rest to the others."""
    buyer = await processes.client()
    for row in range(8):
        await buyer.submit(REQUEST, key=f"row-{row}")
    await buyer.aclose()
    ledgers = [processes.ledger() for _ in range(4)]
    for ledger in ledgers:
        await ledger.set_value("anything", 1)  # so that it is known to live
    taken = [len(await ledger.take_over(500, since=NOON)) for ledger in ledgers]
    assert taken == [2, 2, 1, 1], "a fourth of what is left, rounded up"
    assert [len(await ledger.take_over(500, since=NOON)) for ledger in ledgers] == [1, 1, 0, 0]
    polled = await ledgers[0].take_over(500, since=NOON)
    assert polled == [], "all of them are polled"


@both
async def test_what_others_buy_without_a_budget_counts(processes: Processes) -> None:
    careful, careless = await processes.client(budget=Budget(usd="0.4")), await processes.client()
    await (await careful.submit(REQUEST, key="1"))
    await (await careless.submit(REQUEST, key="2"))
    with pytest.raises(BudgetExceeded, match=r"has \$0.10 left"):
        await careful.submit(REQUEST, key="3")
    with pytest.raises(BudgetExceeded, match="nothing was sent"):
        await careful.resubmit("2", force=True)
    current = await careful.ledger.find(key="2") if careful.ledger is not None else None
    assert current is not None
    assert current.released is None, "the key is not freed for an attempt that does not fit"
    assert processes.bought == 2


async def test_status_calls_take_their_turns_in_the_ledger(processes: Processes) -> None:
    polling = Polling(status_calls_per_minute=6000)
    first, second = [await processes.client(polling=polling) for _ in range(2)]
    jobs = [await client.submit(REQUEST, key=f"row-{row}") for row, client in enumerate((first, second))]
    async with anyio.create_task_group() as group:
        for job in jobs:
            group.start_soon(job.wait)
    with closing(sqlite3.connect(processes.path)) as connection:
        accounts = connection.execute("SELECT account FROM calls").fetchall()
    assert [account.split()[0] for (account,) in accounts] == ["runblob"]
    assert all(key not in account for (account,) in accounts for key in first._providers["runblob"].config.secret_texts)

"""What a hostile day does to a ledger: clocks that jump, moments that fall badly, odd keys, odd files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import anyio
import httpx
import pytest

from kling_async import (
    Artifact,
    Client,
    ConfigurationError,
    Cost,
    Event,
    GenerationFailed,
    GenerationTimeout,
    InvalidRequest,
    JobRef,
    KlingError,
    Ledger,
    LedgerFailed,
    Limits,
    MemoryLedger,
    Polling,
    Progressive,
    RunBlob,
    SqliteLedger,
    Status,
    Submission,
    SubmissionState,
    SubmissionUnknown,
    inspect_ledger,
)
from kling_async._ledger.sqlite_schema import record_outcome
from kling_async.providers._base.endpoint import Features
from kling_async.providers._base.provider import Accepted
from kling_async.providers.base import Call, Effect, Flow, StatusReport
from kling_async.providers.runblob import O3Video
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = pytest.mark.anyio
virtual = pytest.mark.virtual_time

VIDEO = O3Video("a paper boat in the rain")
SECOND_LOOK = Polling(schedule=Progressive(5.0), deadline=600)
MADE: list[Client] = []


@pytest.fixture
def ledger() -> MemoryLedger:
    return MemoryLedger()


@pytest.fixture(autouse=True)
async def closed_at_last() -> AsyncIterator[None]:
    """Clients that a test leaves as a crash would are closed after it."""
    yield
    while MADE:
        await MADE.pop().aclose()


def make(server: FakeRunBlob, ledger: Ledger | None, provider: RunBlob | None = None, **settings: Any) -> Client:
    settings.setdefault("polling", SECOND_LOOK)
    client = Client(provider or RunBlob(KEY), http=server, ledger=ledger, **settings)
    MADE.append(client)
    return client


def submission(key: str = "a", **fields: Any) -> Submission:
    started = datetime.now(UTC)
    values: dict[str, Any] = {"endpoint": "runblob/o3-video", "request": {"prompt": "x"}, "fingerprint": "f"}
    return Submission(key=key, attempt_id=f"purchase of {key}", started=started, **(values | fields))


class OwnId(RunBlob):
    """A RunBlob that takes our id for the job."""

    features: ClassVar[Features] = dataclasses.replace(RunBlob.features, client_chosen_id=True)

    def submit(self, request: Any, key: str, callback_url: str | None) -> Flow[Accepted]:
        payload = {"prompt": request.prompt, "id": key}
        self.errors.expect_json((yield Call.post("/v1/kling/o3-video/generate", payload, Effect.PAID, repeatable=True)))
        return Accepted(key, StatusReport(Status.PENDING))


class Script:
    """What becomes of the submissions, one after the other. The rest are accepted as usual."""

    def __init__(self, server: FakeRunBlob, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        server.intercept = self

    async def __call__(self, request: httpx.Request) -> httpx.Response | None:
        if not request.url.path.endswith("/generate") or not self.answers:
            return None
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def lose(server: FakeRunBlob, ledger: Ledger, key: str) -> None:
    """A submission under our id whose answer is lost however often it is asked for."""
    Script(server, *(httpx.ReadError("reset") for _ in range(1000)))
    with pytest.raises(SubmissionUnknown):
        await make(server, ledger, OwnId(KEY)).submit(VIDEO, key=key)
    server.intercept = None


# Clocks


@virtual
@pytest.mark.parametrize("backwards", [60.0, 86_400.0])
async def test_a_clock_set_back_between_runs_delays_no_poll(
    server: FakeRunBlob, ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch, backwards: float
) -> None:
    """The job's times lie in the future then: neither the next poll nor the deadline waits for them."""
    await make(server, ledger).submit(VIDEO, key="a")
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() - backwards)
    for generation in server.generations.values():
        generation.duration = 0
    began = anyio.current_time()
    [job] = await make(server, ledger).resume()
    assert (await job).urls
    assert anyio.current_time() - began < 10
    assert all(event.elapsed >= 0 for event in job.events)
    [stored] = await ledger.submissions()
    assert not stored.unfinished


@virtual
async def test_an_id_from_the_far_future_is_not_sent_again_by_itself(
    server: FakeRunBlob, ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a jump of the clock nobody knows how old it is, so nobody knows whether the provider recognises it."""
    await lose(server, ledger, "a")
    sent = server.requests["submit"]
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() - 86_400)
    client = make(server, ledger, OwnId(KEY))
    assert await client.resume() == []
    assert server.requests["submit"] == sent
    [lost] = await client.unresolved()
    assert str(lost.remedies[0]) == "client.resubmit('a') to send the same id again"


# Moments


class Life:
    """A process that dies at its n-th step: what it does afterwards reaches neither the ledger nor the provider."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @property
    def over(self) -> bool:
        return self.left <= 0

    def step(self) -> None:
        self.left -= 1
        if self.over:
            raise RuntimeError("the process is dead")


class Mortal(MemoryLedger):
    """A ledger whose process may die before and after each write."""

    life = Life(10**9)

    async def claim(self, submission: Submission) -> Submission:
        self.life.step()
        stored = await super().claim(submission)
        self.life.step()
        return stored

    async def record_outcome(self, submission: Submission) -> None:
        self.life.step()
        await super().record_outcome(submission)
        self.life.step()

    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> Sequence[Event]:
        self.life.step()
        theirs = await super().append_events(ref, events)
        self.life.step()
        return theirs


@virtual
async def test_a_process_that_dies_between_any_two_steps_loses_no_job_and_pays_none_twice(
    server: FakeRunBlob,
) -> None:
    """Before and after each write to the ledger and each call to the provider: the next process settles it."""
    steps = lost = taken_up = 0
    over = True
    while over:
        steps += 1
        key, ledger, bought = f"step {steps}", Mortal(), server.bought
        life = ledger.life = Life(steps)

        async def mortal(request: httpx.Request, life: Life = life) -> httpx.Response | None:
            life.step()
            await anyio.sleep(0.05)
            if request.url.path.endswith("/generate"):
                answer = server.accept("o3-video", json.loads(await request.aread()))
            else:
                answer = server.status("o3-video", request.url.path.rpartition("/")[2])
            life.step()
            return answer

        server.intercept = mortal
        with anyio.move_on_after(300), contextlib.suppress(KlingError, RuntimeError):
            await make(server, ledger).run(VIDEO, key=key)
        over = life.over
        server.intercept, ledger.life = None, Life(10**9)
        client = make(server, ledger)
        resumed = await client.resume()
        taken_up += len(resumed)
        try:
            job = await client.submit(VIDEO, key=key)
        except SubmissionUnknown:
            lost += 1
            assert [s.key for s in await client.unresolved()] == [key]
            assert server.bought <= bought + 1
        else:
            assert (await job).urls
            assert resumed in ([], [job])
            assert server.bought == bought + 1
            assert await client.resume() == []
    assert steps > 14
    assert taken_up > 8
    assert lost == 4, "after the claim, around the paid call, before its answer is written"


@virtual
async def test_of_two_resumes_at_once_the_second_undoes_nothing(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    """One takes "a" and the other "b". When the first comes to "b", it is accepted, and is not sent again."""
    for key in "ab":
        await lose(server, ledger, key)
    sent = server.requests["submit"]
    client = make(server, ledger, OwnId(KEY))
    async with anyio.create_task_group() as group:
        group.start_soon(client.resume)
        group.start_soon(client.resume)
    assert server.requests["submit"] == sent + 2
    assert [s.state for s in await ledger.submissions()] == [SubmissionState.ACCEPTED] * 2
    assert {job.ref for job in client.jobs} == {s.ref for s in await ledger.submissions()}


@virtual
async def test_what_is_forgotten_while_resume_comes_to_it_is_not_sent_again(
    server: FakeRunBlob, ledger: MemoryLedger
) -> None:
    for key in "ab":
        await lose(server, ledger, key)
    client = make(server, ledger, OwnId(KEY))

    async def meanwhile(_: httpx.Request) -> None:
        server.intercept = None
        await client.forget("b")  # while "a" is being sent

    server.intercept = meanwhile
    [job] = await client.resume()
    assert (await ledger.find(ref=job.ref)) == next(s for s in await ledger.submissions() if s.key == "a")
    stored = {s.key: s.state for s in await ledger.submissions()}
    assert stored == {"a": SubmissionState.ACCEPTED, "b": SubmissionState.NOT_SUBMITTED}
    assert server.bought == 1


@virtual
@pytest.mark.parametrize("awaited", [0.0, 20.0])
async def test_a_job_that_was_attached_first_is_recorded_once_it_is_resumed(
    server: FakeRunBlob, ledger: MemoryLedger, awaited: float
) -> None:
    job = await make(server, ledger).submit(VIDEO, key="a")
    client = make(server, ledger)
    attached = client.attach(job.ref)
    await attached.wait(awaited)
    [resumed] = await client.resume()
    assert resumed == attached
    assert (await resumed).urls
    seen = [event.seq for event in resumed.events]
    assert seen == list(range(len(seen)))
    recorded = await ledger.events(job.ref)
    assert [event.seq for event in recorded] == list(range(len(recorded)))
    assert recorded[-1].status is Status.COMPLETED
    assert recorded[-1].artifacts == resumed.events[-1].artifacts
    ranks = [list(Status).index(event.status) for event in recorded]
    assert ranks == sorted(ranks)
    assert await client.resume() == []


@virtual
async def test_a_job_that_was_attached_and_is_found_to_have_ended_runs_no_more(
    server: FakeRunBlob, ledger: MemoryLedger
) -> None:
    result = await make(server, ledger).run(VIDEO, key="a")
    client = make(server, ledger)
    attached = client.attach(result.ref)
    assert await client.submit(VIDEO, key="a") == attached
    assert attached.status is Status.COMPLETED
    assert (client.jobs, client.statistics().running) == ((), 0)


@virtual
async def test_resuming_twice_and_while_jobs_are_awaited_gives_the_same_jobs(
    server: FakeRunBlob, ledger: MemoryLedger
) -> None:
    await make(server, ledger).submit(VIDEO, key="a")
    client = make(server, ledger)
    [job] = await client.resume()
    assert list(client.jobs) == [job]
    async with anyio.create_task_group() as group:
        group.start_soon(job.wait)
        await anyio.sleep(12)
        assert await client.resume() == [job]
        assert await client.submit(VIDEO, key="a") == job
    assert job.status is Status.COMPLETED
    assert not client.jobs
    assert [event.seq for event in await ledger.events(job.ref)] == [0, 1, 2]
    assert server.bought == 1


@virtual
async def test_a_client_that_is_closed_during_the_paid_call_says_what_became_of_it(
    server: FakeRunBlob, ledger: MemoryLedger
) -> None:
    """The job's id came. That it cannot be written any more is no reason to withhold it."""
    client = make(server, ledger)
    answered = anyio.Event()

    async def slow(request: httpx.Request) -> httpx.Response | None:
        if not request.url.path.endswith("/generate"):
            return None
        answer = server.accept("o3-video", json.loads(await request.aread()))
        await answered.wait()
        return answer

    server.intercept = slow
    jobs = []

    async def submit() -> None:
        jobs.append(await client.submit(VIDEO, key="a"))

    async with anyio.create_task_group() as group:
        group.start_soon(submit)
        await anyio.wait_all_tasks_blocked()
        await client.aclose()
        answered.set()
    [job] = jobs
    assert job.ref.id in server.generations
    ledger._closed = False  # as the next process opens it
    [stored] = await ledger.submissions()
    assert stored.unfinished


@virtual
async def test_a_key_whose_job_failed_is_that_job(server: FakeRunBlob, ledger: MemoryLedger) -> None:
    server.failure = "TIMEOUT"
    with pytest.raises(GenerationFailed):
        await make(server, ledger).run(VIDEO, key="a")
    again = await make(server, ledger).submit(VIDEO, key="a")
    assert again.status is Status.FAILED
    with pytest.raises(GenerationFailed, match="TIMEOUT"):
        await again
    assert server.bought == 1


@virtual
async def test_a_key_whose_deadline_passed_gives_its_job_and_one_poll(
    server: FakeRunBlob, ledger: MemoryLedger
) -> None:
    client = make(server, ledger, polling=Polling(schedule=Progressive(5.0), deadline=20))
    with pytest.raises(GenerationTimeout):
        await client.run(VIDEO, key="a")
    assert not client.jobs
    await anyio.sleep(60)
    again = await client.submit(VIDEO, key="a")
    assert (await again).urls
    assert [event.seq for event in await ledger.events(again.ref)] == [0, 1, 2]
    assert server.bought == 1


class Full(MemoryLedger):
    """A disk that can be full."""

    full = False

    async def record_outcome(self, submission: Submission) -> None:
        if self.full:
            raise LedgerFailed("no space")
        await super().record_outcome(submission)


@virtual
async def test_what_is_written_late_does_not_undo_what_the_user_decides_later(server: FakeRunBlob) -> None:
    ledger = Full()
    client = make(server, ledger)
    ledger.full = True
    job = await client.submit(VIDEO, key="a")
    with pytest.raises(LedgerFailed):
        await client.forget("a")
    ledger.full = False
    with pytest.raises(ConfigurationError, match=f"is job {job.ref}, which still runs"):
        await client.resubmit("a")
    await client.forget("a")
    again = await client.submit(VIDEO, key="a")
    assert again.ref != job.ref
    [stored] = await ledger.submissions()
    assert stored.ref == again.ref


# Keys and contents


@virtual
@pytest.mark.parametrize("key", ["\x1b[2J\n\t", "k" * 10_000, "schlüssel 🔑", "'; --", " ", "[1]"])
async def test_any_text_is_a_key(server: FakeRunBlob, tmp_path: Path, key: str) -> None:
    client = make(server, SqliteLedger(tmp_path / "jobs.db"))
    job = await client.submit(VIDEO, key=key)
    assert await client.submit(VIDEO, key=f"{key} ") != job
    await client.aclose()
    client = make(server, SqliteLedger(tmp_path / "jobs.db"))
    assert (await client.submit(VIDEO, key=key)).ref == job.ref
    assert [s.key for s in await client._ledger.ledger.submissions()] == [key, f"{key} "]
    assert server.bought == 2


@virtual
@pytest.mark.parametrize("key", ["row \ud83d", "\x00", "a\x00b"])
async def test_a_key_that_cannot_be_stored_is_refused_before_anything_is_sent(
    server: FakeRunBlob, tmp_path: Path, key: str
) -> None:
    client = make(server, SqliteLedger(tmp_path / "jobs.db"))
    with pytest.raises(ConfigurationError, match="cannot be stored"):
        await client.submit(VIDEO, key=key)
    assert server.requests["submit"] == 0
    assert await client._ledger.ledger.submissions() == []


@virtual
async def test_neither_the_key_nor_a_callback_token_reaches_the_file(server: FakeRunBlob, tmp_path: Path) -> None:
    """Not by the request, not by an answer that repeats them, not by a refusal, not by a failure."""
    token = "t0ken-of-the-callback"
    request = O3Video("a boat", callback_url=f"https://user:{token}@example.com/hook/{token}?t={token}")
    client = make(server, SqliteLedger(tmp_path / "jobs.db"))
    hooked = {"callback_url": request.callback_url, "api_key": KEY}
    Script(server, httpx.Response(400, json={"detail": f"INVALID {KEY} {request.callback_url}", **hooked}))
    with pytest.raises(InvalidRequest):
        await client.submit(request, key="refused")
    job = await client.submit(request, key="failed")
    words = f"the hook {request.callback_url} of {KEY} is bad"

    async def reported(_: httpx.Request) -> httpx.Response:
        answer = {"generation_id": job.ref.id, "status": "failed", "message": words, "error": words, **hooked}
        return httpx.Response(200, json=answer)

    server.intercept = reported
    with pytest.raises(GenerationFailed):
        await job
    await client.aclose()
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"failed" in content
    assert KEY.encode() not in content
    assert token.encode() not in content


async def test_inline_files_and_the_balance_come_back_as_they_were(tmp_path: Path) -> None:
    ref = JobRef("runware", "image-o3", "x")
    artifact = Artifact("image", data=bytes(range(256)) * 10, expires=datetime.now(UTC) + timedelta(hours=1))
    event = Event(
        0, Status.COMPLETED, datetime.now(UTC), 1.5, "poll", artifacts=(artifact,), balance=Cost(Decimal("9.50"), "USD")
    )
    first = SqliteLedger(tmp_path / "jobs.db")
    await first.append_events(ref, [event])
    await first.aclose()
    second = SqliteLedger(tmp_path / "jobs.db")
    assert await second.events(ref) == [event]
    await second.aclose()


# Files


async def test_a_link_to_the_file_is_the_same_ledger(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.db").symlink_to(tmp_path / "jobs.db")
    first, second = SqliteLedger(tmp_path / "jobs.db"), SqliteLedger(tmp_path / "elsewhere" / "link.db")
    await first.set_value("a", 1)
    assert await second.get_value("a") == 1
    claimed = await first.claim(submission())
    assert (await second.claim(replace(claimed, attempt_id="another"))).attempt_id == claimed.attempt_id
    await first.aclose()
    await second.aclose()


async def test_a_relative_path_means_the_directory_of_its_making(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ledger = SqliteLedger("jobs.db")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    await ledger.set_value("a", 1)
    await ledger.aclose()
    assert (tmp_path / "jobs.db").exists()
    assert not list((tmp_path / "other").iterdir())


@pytest.mark.parametrize(
    ("column", "value"),
    [("state", "confused"), ("request", "{"), ("ref", "no reference"), ("started", "yesterday")],
)
async def test_a_damaged_record_is_listed_as_such_beside_the_others(tmp_path: Path, column: str, value: str) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    for key in ("good", "bad"):
        await ledger.claim(submission(key))
    await ledger.aclose()
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute(f"UPDATE attempts SET {column} = ? WHERE key = 'bad'", (value,))  # noqa: S608  # ours
    connection.close()
    for listed in (
        (await inspect_ledger(tmp_path / "jobs.db")).submissions,
        await ledger_of(tmp_path).submissions(),
    ):
        found = {each.key: each for each in listed}
        assert set(found) == {"good", "bad"}
        assert "the ledger's record of it cannot be read" in str(found["bad"].reason)
        assert found["bad"].unfinished


OPENED: list[SqliteLedger] = []


def ledger_of(folder: Path) -> SqliteLedger:
    """The ledger in that folder, the same within a test."""
    if not OPENED or OPENED[-1].path != folder / "jobs.db":
        OPENED.append(SqliteLedger(folder / "jobs.db"))
    return OPENED[-1]


@pytest.fixture(autouse=True)
async def ledgers_closed() -> AsyncIterator[None]:
    yield
    while OPENED:
        await OPENED.pop().aclose()


async def test_a_torn_page_is_reported_and_nothing_is_submitted(server: FakeRunBlob, tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    for number in range(200):
        await ledger.claim(submission(f"key {number}"))
    await ledger.aclose()
    content = bytearray((tmp_path / "jobs.db").read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    (tmp_path / "jobs.db").write_bytes(content)
    client = make(server, SqliteLedger(tmp_path / "jobs.db"))
    with pytest.raises(LedgerFailed, match=r"jobs\.db cannot be used.*Nothing is submitted without it"):
        await client.submit(VIDEO, key="a")
    assert server.requests["submit"] == 0
    with pytest.raises(LedgerFailed):
        await inspect_ledger(tmp_path / "jobs.db")


async def test_a_directory_that_cannot_be_written_is_reported_and_nothing_is_submitted(
    server: FakeRunBlob, tmp_path: Path
) -> None:
    (tmp_path / "jobs.db-wal").mkdir()  # as root, a test cannot forbid itself to write
    client = make(server, SqliteLedger(tmp_path / "jobs.db"))
    with pytest.raises(LedgerFailed, match=r"jobs\.db cannot be used: .*check the file"):
        await client.submit(VIDEO, key="a")
    assert server.requests["submit"] == 0
    (tmp_path / "jobs.db-wal").rmdir()
    await client.submit(VIDEO, key="a")
    assert server.bought == 1


# Inspecting


async def test_inspecting_changes_nothing_and_names_the_processes(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    ledger = SqliteLedger(path)
    await ledger.claim(submission())
    seen = await inspect_ledger(path)
    assert (seen.processes, [s.state for s in seen.submissions]) == ((os.getpid(),), [SubmissionState.SENDING])
    await ledger.record_outcome(submission(state=SubmissionState.ACCEPTED, ref=JobRef("runblob", "o3-video", "x")))
    assert [s.state for s in (await inspect_ledger(path)).submissions] == [SubmissionState.ACCEPTED]
    await ledger.aclose()
    before = path.read_bytes()
    assert (await inspect_ledger(path)).processes == ()
    assert path.read_bytes() == before


async def test_what_nobody_sends_any_more_is_seen_as_unknown(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.claim(submission())
    await ledger.aclose()
    [seen] = (await inspect_ledger(tmp_path / "jobs.db")).submissions
    assert (seen.state, seen.reason) == (SubmissionState.UNKNOWN, "the process ended while it was being sent")


async def test_inspecting_a_file_that_is_no_ledger_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no ledger"):
        await inspect_ledger(tmp_path / "none.db")
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.set_value("a", 1)
    await ledger.aclose()
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(KlingError, match="newer version"):
        await inspect_ledger(tmp_path / "jobs.db")


async def test_a_late_outcome_of_an_old_attempt_does_not_replace_the_newer_one(tmp_path: Path) -> None:
    """Both are written in one transaction, the stale one last."""
    ledger = SqliteLedger(tmp_path / "jobs.db")
    new = dataclasses.replace(submission(), attempt_id="new")
    await ledger.claim(new)
    ref = JobRef("runblob", "o3-video", "x")
    accepted = dataclasses.replace(new, state=SubmissionState.ACCEPTED, ref=ref)
    stale = dataclasses.replace(new, attempt_id="old", state=SubmissionState.UNKNOWN, reason="lost")
    await ledger._read(lambda connection: record_outcome(connection, [accepted, stale]))
    [stored] = await ledger.submissions()
    assert (stored.state, stored.ref) == (SubmissionState.ACCEPTED, ref)
    await ledger.aclose()


async def test_a_cancelled_submission_has_its_grace_with_a_ledger_in_a_file(
    server: FakeRunBlob, tmp_path: Path
) -> None:
    """Cancelled while the answer is on its way: the id is caught, written, and found by the next process."""
    client = make(server, SqliteLedger(tmp_path / "jobs.db"), limits=Limits(cancel_grace=5.0))
    bought = anyio.Event()

    async def slow(request: httpx.Request) -> httpx.Response | None:
        if not request.url.path.endswith("/generate"):
            return None
        answer = server.accept("o3-video", json.loads(await request.aread()))
        bought.set()
        await anyio.sleep(0.01)
        return answer

    server.intercept = slow
    async with anyio.create_task_group() as group:
        group.start_soon(client.submit, VIDEO)
        await bought.wait()
        group.cancel_scope.cancel()
    [job] = client.jobs
    [stored] = await client._ledger.ledger.submissions()
    assert (stored.state, stored.ref) == (SubmissionState.ACCEPTED, job.ref)

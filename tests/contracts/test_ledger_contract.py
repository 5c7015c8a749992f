"""The contract of `Ledger`, once for every implementation, then what only the file can get wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Any

import anyio
import pytest

from kling_async import (
    Artifact,
    ConfigurationError,
    Cost,
    Event,
    Failure,
    JobRef,
    Ledger,
    LedgerFailed,
    MemoryLedger,
    PostgresLedger,
    ReceivedAnswer,
    SqliteLedger,
    Status,
    Submission,
    SubmissionState,
    inspect_ledger,
)

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 5, 4, 12, 0, 0, 123456, UTC)
REF = JobRef("runblob", "o3-video", "550e8400-e29b-41d4-a716-446655440000")


def submission(key: str = "row-1", purchase: str = "p-1", **more: Any) -> Submission:
    facts: dict[str, Any] = {
        "endpoint": "runblob/o3-video",
        "request": {"prompt": "a boat, 船", "duration": 5, "keep_original_sound": True},
        "fingerprint": "f-1",
        "started": NOON,
    }
    return Submission(key=key, attempt_id=purchase, **{**facts, **more})


def event(seq: int, status: Status = Status.PROCESSING, **more: Any) -> Event:
    return Event(seq, status, NOON + timedelta(seconds=seq), float(seq), "poll", **more)


FULL = event(
    3,
    Status.COMPLETED,
    progress=1.0,
    message="done",
    artifacts=(
        Artifact("video", "https://cdn.test/1.mp4", id="f1", seed=7, expires=NOON + timedelta(days=1), flagged=False),
        Artifact("image", data=bytes(range(256)), index=1),
    ),
    failures=(Failure("TIMEOUT", "too slow", retryable=True),),
    cost=Cost(Decimal("0.1500"), "USD"),
    step=2,
    raw={"generation_id": "1", "nested": [1, None, {"a": 0.5}]},
)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    made: Ledger
    if request.param == "memory":
        made = MemoryLedger()
    elif request.param == "sqlite":
        made = SqliteLedger(tmp_path / "jobs.db")
    else:
        server = request.getfixturevalue("postgres")
        made = PostgresLedger(server.dsn(), schema=server.schema())
    yield made
    await made.aclose()


async def test_a_new_key_is_claimed(ledger: Ledger) -> None:
    assert await ledger.claim(submission()) == submission()
    assert await ledger.find(key="row-1") == submission()
    assert await ledger.find(attempt_id="p-1") == submission()
    assert await ledger.find(key="row-2") is None


async def test_tags_are_stored_with_the_attempt_that_has_them(ledger: Ledger) -> None:
    tagged = submission(tags={"customer": "17", "船": "\n"})
    assert (await ledger.claim(tagged)).tags == tagged.tags
    await ledger.record_outcome(submission(state=SubmissionState.REFUSED))
    again = submission(purchase="p-2", tags={})
    await ledger.claim(again)
    assert [attempt.tags for attempt in await ledger.attempts("row-1")] == [tagged.tags, {}]


@pytest.mark.parametrize("state", [SubmissionState.SENDING, SubmissionState.ACCEPTED, SubmissionState.UNKNOWN])
async def test_a_taken_key_is_not_claimed_again(ledger: Ledger, state: SubmissionState) -> None:
    await ledger.claim(submission())
    stored = submission(state=state, ref=REF if state is SubmissionState.ACCEPTED else None)
    await ledger.record_outcome(stored)
    assert await ledger.claim(submission(purchase="p-2", fingerprint="f-2")) == stored
    assert await ledger.find(attempt_id="p-2") is None


@pytest.mark.parametrize("state", [SubmissionState.NOT_SUBMITTED, SubmissionState.REFUSED])
async def test_a_free_key_is_claimed_again_even_for_another_request(ledger: Ledger, state: SubmissionState) -> None:
    await ledger.claim(submission())
    await ledger.record_outcome(submission(state=state, reason="no credits"))
    found = await ledger.find(key="row-1")
    assert found is not None
    assert (found.state, found.reason, found.unfinished) == (state, "no credits", False)
    again = submission(purchase="p-2", fingerprint="f-2", started=NOON + timedelta(hours=1))
    assert await ledger.claim(again) == again
    assert await ledger.submissions() == [again]


async def test_of_many_claims_of_one_key_one_wins(ledger: Ledger) -> None:
    winners: list[str] = []

    async def claim(number: int) -> None:
        stored = await ledger.claim(submission(purchase=f"p-{number}"))
        winners.append(stored.attempt_id)

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(claim, number)
    assert len(winners) == 50
    assert len(set(winners)) == 1


async def test_settling_may_be_repeated_and_leaves_a_newer_purchase_alone(ledger: Ledger) -> None:
    await ledger.claim(submission())
    refused = submission(state=SubmissionState.REFUSED, reason="bad prompt")
    await ledger.record_outcome(refused)
    await ledger.record_outcome(refused)
    newer = await ledger.claim(submission(purchase="p-2"))
    await ledger.record_outcome(replace(refused, state=SubmissionState.ACCEPTED, ref=REF))
    assert await ledger.find(key="row-1") == newer


async def test_the_first_event_may_come_with_the_outcome(ledger: Ledger) -> None:
    first = event(0, Status.PENDING, cost=Cost(Decimal("0.15"), "USD"), raw={"status": "pending"})
    await ledger.claim(submission())
    accepted = submission(state=SubmissionState.ACCEPTED, ref=REF, latest=first)
    assert await ledger.record_outcome(accepted)
    assert await ledger.find(key="row-1") == accepted
    assert await ledger.events(REF) == [first]
    assert await ledger.record_outcome(accepted), "it may be stored twice"
    assert not await ledger.append_events(REF, [first])
    assert await ledger.events(REF) == [first]


async def test_a_first_event_that_another_process_recorded_stays(ledger: Ledger) -> None:
    theirs = [event(0, Status.PROCESSING), event(1, Status.COMPLETED, cost=Cost(Decimal(2), "USD"))]
    await ledger.claim(submission())
    await ledger.append_events(REF, theirs)
    own = event(0, Status.PENDING)
    assert not await ledger.record_outcome(submission(state=SubmissionState.ACCEPTED, ref=REF, latest=own))
    assert await ledger.events(REF) == theirs
    found = await ledger.find(key="row-1")
    assert found is not None
    assert (found.state, found.latest, found.unfinished) == (SubmissionState.ACCEPTED, theirs[1], False)
    assert await ledger.append_events(REF, [own]) == theirs, "the client is told when it appends its own"


async def test_of_claims_in_one_group_each_gets_its_own_answer(ledger: Ledger) -> None:
    """New keys, one that is free again and one that is taken, all at once."""
    for key, state in (("free", SubmissionState.REFUSED), ("taken", SubmissionState.UNKNOWN)):
        await ledger.claim(submission(key, f"old-{key}"))
        await ledger.record_outcome(submission(key, f"old-{key}", state=state))
    found: dict[str, str] = {}

    async def claim(key: str, purchase: str) -> None:
        found[purchase] = (await ledger.claim(submission(key, purchase))).attempt_id

    async with anyio.create_task_group() as group:
        for number, key in enumerate(("new", "free", "free", "taken", "other")):
            group.start_soon(claim, key, f"p-{number}")
    assert (found["p-0"], found["p-3"], found["p-4"]) == ("p-0", "old-taken", "p-4")
    assert found["p-1"] == found["p-2"]
    assert found["p-1"] in {"p-1", "p-2"}
    assert [len(await ledger.attempts(key)) for key in ("new", "free", "taken", "other")] == [1, 2, 1, 1]


async def test_a_resubmission_keeps_all_attempts_of_its_key(ledger: Ledger) -> None:
    first = submission(state=SubmissionState.ACCEPTED, ref=REF)
    await ledger.claim(submission())
    await ledger.record_outcome(first)
    await ledger.append_events(REF, [event(0), replace(FULL, seq=1)])
    await ledger.release("row-1", "p-1", "submitted again")
    found = await ledger.find(key="row-1")
    assert found is not None
    assert (found.released, found.ref, found.cost, found.unfinished) == ("submitted again", REF, FULL.cost, False)
    second = await ledger.claim(submission(purchase="p-2", started=NOON + timedelta(hours=1)))
    assert second.attempt_id == "p-2"
    await ledger.record_outcome(replace(second, state=SubmissionState.UNKNOWN, reason="the answer was lost"))
    attempts = await ledger.attempts("row-1")
    assert [(a.attempt_id, a.state, a.ref, a.reason, a.cost) for a in attempts] == [
        ("p-1", SubmissionState.ACCEPTED, REF, None, FULL.cost),
        ("p-2", SubmissionState.UNKNOWN, None, "the answer was lost", None),
    ]
    assert await ledger.submissions() == [attempts[1]]
    assert await ledger.find(ref=REF) == attempts[0]
    assert await ledger.find(attempt_id="p-1") == attempts[0]
    assert await ledger.attempts("row-2") == []


async def test_only_the_current_attempt_releases_its_key(ledger: Ledger) -> None:
    await ledger.claim(submission())
    await ledger.record_outcome(submission(state=SubmissionState.REFUSED))
    newer = await ledger.claim(submission(purchase="p-2"))
    await ledger.release("row-1", "p-1", "too late")
    await ledger.release("row-2", "p-2", "another key")
    assert await ledger.find(key="row-1") == newer
    assert (await ledger.claim(submission(purchase="p-3"))).attempt_id == "p-2"


async def test_the_answer_to_a_submission_of_unknown_outcome_is_kept(ledger: Ledger) -> None:
    answer = ReceivedAnswer(502, {"content-type": "text/html", "server": "cloudflare"}, "<html>船")
    await ledger.claim(submission())
    await ledger.record_outcome(submission(state=SubmissionState.UNKNOWN, answer=answer))
    found = await ledger.find(key="row-1")
    assert found is not None
    assert found.answer == answer


async def test_spending_is_grouped_and_leaves_out_what_is_unfinished_or_bought_nothing(ledger: Ledger) -> None:
    async def buy(number: int, status: Status | None, cost: str | None, **request: Any) -> JobRef:
        ref = JobRef("runblob", "o3-video", f"job-{number}")
        claimed = submission(f"row-{number}", f"p-{number}", request={"prompt": f"boat {number}", **request})
        await ledger.claim(claimed)
        await ledger.record_outcome(replace(claimed, state=SubmissionState.ACCEPTED, ref=ref))
        if status is not None:
            reported = Cost(Decimal(cost), "USD") if cost else None
            await ledger.append_events(ref, [event(0), event(1, status, cost=reported)])
        return ref

    await buy(0, Status.COMPLETED, "0.15", references=["sha256:a"], duration=5)
    await buy(1, Status.COMPLETED, "0.15", references=["https://a.test/b.png"], duration=5)
    await buy(2, Status.COMPLETED, "0.15", references=["sha256:a", "sha256:b"], duration=5, image="data:image/png,a")
    await buy(3, Status.FAILED, None, duration=5)
    await buy(4, None, None, duration=5)  # unfinished
    await buy(5, None, None, duration=5)
    await ledger.release("row-5", "p-5", "forgotten")
    for state in SubmissionState:
        await ledger.claim(submission(f"row-{state}", f"p-{state}"))
        await ledger.record_outcome(submission(f"row-{state}", f"p-{state}", state=state))
    await ledger.release("row-unknown", "p-unknown", "submitted again")
    groups = {
        (g.status, g.cost, len(g.request.get("references", ()))): g.count for g in await ledger.spending(["prompt"])
    }
    price = Cost(Decimal("0.15"), "USD")
    assert groups == {
        (Status.COMPLETED, price, 1): 2,
        (Status.COMPLETED, price, 2): 1,
        (Status.FAILED, None, 0): 1,
        (Status.PENDING, None, 0): 1,
        (None, None, 0): 1,
    }
    assert sum(group.count for group in await ledger.spending()) == 6
    assert len(await ledger.spending()) == 6


async def test_events_come_back_as_they_were(ledger: Ledger) -> None:
    await ledger.claim(submission())
    await ledger.record_outcome(submission(state=SubmissionState.ACCEPTED, ref=REF))
    await ledger.append_events(REF, [event(0, Status.PENDING), event(1), event(2, progress=0.5)])
    await ledger.append_events(REF, [FULL])
    log = await ledger.events(REF)
    assert log == [event(0, Status.PENDING), event(1), event(2, progress=0.5), FULL]
    assert log[-1].raw == FULL.raw
    assert log[-1].cost == Cost(Decimal("0.1500"), "USD")
    assert str(log[-1].cost) == "$0.15"
    assert log[-1].at.utcoffset() == timedelta(0)
    assert await ledger.events(JobRef("runblob", "o3-video", "other")) == []


async def test_an_event_recorded_twice_is_kept_once(ledger: Ledger) -> None:
    await ledger.append_events(REF, [event(0), event(1)])
    await ledger.append_events(REF, [event(1, message="another"), event(2)])
    assert [e.seq for e in await ledger.events(REF)] == [0, 1, 2]
    assert (await ledger.events(REF))[1].message is None


async def test_a_submission_tells_where_its_job_stands(ledger: Ledger) -> None:
    await ledger.claim(submission())
    accepted = submission(state=SubmissionState.ACCEPTED, ref=REF)
    await ledger.record_outcome(accepted)
    found = await ledger.find(ref=REF)
    assert found == accepted
    assert (found.status, found.unfinished) == (Status.PENDING, True)
    await ledger.append_events(REF, [event(0), event(1), event(2), FULL])
    await ledger.record_file(REF, 1, "s3://bucket/out/b.png")
    await ledger.record_file(REF, 0, Path("tmp/a.mp4"))
    await ledger.record_file(REF, 0, Path("out/a.mp4"))
    found = await ledger.find(key="row-1")
    assert found is not None
    assert (found.status, found.unfinished, found.cost) == (Status.COMPLETED, False, FULL.cost)
    assert found.latest == FULL
    assert found.files == (Path("out/a.mp4"), "s3://bucket/out/b.png")


async def test_what_needs_attention_is_distinguished_from_what_does_not(ledger: Ledger) -> None:
    def ref(name: str) -> JobRef:
        return JobRef("runblob", "o3-video", name)

    states = {
        "free": SubmissionState.NOT_SUBMITTED,
        "refused": SubmissionState.REFUSED,
        "sending": SubmissionState.SENDING,
        "lost": SubmissionState.UNKNOWN,
        "running": SubmissionState.ACCEPTED,
        "done": SubmissionState.ACCEPTED,
    }
    for age, (key, state) in enumerate(states.items()):
        begun = submission(key, f"p-{key}", started=NOON - timedelta(seconds=age))
        await ledger.claim(begun)
        await ledger.record_outcome(
            replace(begun, state=state, ref=ref(key) if state is SubmissionState.ACCEPTED else None)
        )
    await ledger.append_events(ref("running"), [event(0)])
    await ledger.append_events(ref("done"), [event(0), event(1, Status.FAILED)])
    assert [s.key for s in await ledger.submissions()] == list(reversed(states))
    assert [s.key for s in await ledger.submissions(unfinished=True)] == ["running", "lost", "sending"]


async def test_values_are_kept_by_name(ledger: Ledger) -> None:
    assert await ledger.get_value("cadence") is None
    await ledger.set_value("cadence", {"version": 1, "ends": {"a": [[1.5, None]]}})
    await ledger.set_value("cadence", {"version": 1, "ends": {}})
    assert await ledger.get_value("cadence") == {"version": 1, "ends": {}}


async def test_it_is_closed_twice_and_then_refuses(ledger: Ledger) -> None:
    await ledger.claim(submission())
    await ledger.aclose()
    await ledger.aclose()
    with pytest.raises(ConfigurationError, match="closed"):
        await ledger.find(key="row-1")


async def test_closing_an_unused_ledger_makes_no_file(tmp_path: Path) -> None:
    await SqliteLedger(tmp_path / "jobs.db").aclose()
    assert not [path async for path in anyio.Path(tmp_path).iterdir()]


async def test_a_cancelled_write_is_written_wholly_or_not_at_all(ledger: Ledger) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await ledger.claim(submission())
    found = await ledger.find(key="row-1")
    assert found in (None, submission())


# The file


async def test_everything_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    first = SqliteLedger(tmp_path / "jobs.db")
    await first.claim(submission())
    await first.record_outcome(submission(state=SubmissionState.ACCEPTED, ref=REF))
    await first.append_events(REF, [event(0), event(1), event(2), FULL])
    await first.set_value("cadence", {"a": 1})
    await first.aclose()
    second = SqliteLedger(tmp_path / "jobs.db")
    found = await second.find(key="row-1")
    assert found == submission(state=SubmissionState.ACCEPTED, ref=REF, latest=FULL)
    assert await second.events(REF) == [event(0), event(1), event(2), FULL]
    assert await second.get_value("cadence") == {"a": 1}
    await second.aclose()


async def test_what_was_being_sent_when_the_process_ended_is_unknown(tmp_path: Path) -> None:
    first = SqliteLedger(tmp_path / "jobs.db")
    await first.claim(submission())
    await first.aclose()
    second = SqliteLedger(tmp_path / "jobs.db")
    [found] = await second.submissions(unfinished=True)
    assert found.state is SubmissionState.UNKNOWN
    assert found.reason == "the process ended while it was being sent"
    await second.aclose()


HOLD = """
import sys, anyio
from kling_async import SqliteLedger
async def main():
    await SqliteLedger(sys.argv[1]).set_value("mark", "made by the other process")
    print("held", end="", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.read)
anyio.run(main)
"""


async def test_two_processes_use_one_file_and_one_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    """Row 19."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "jobs.db")]
    ledger = SqliteLedger(tmp_path / "jobs.db")
    async with await anyio.open_process(command, stderr=None, env=dict(os.environ)) as process:
        assert process.stdout is not None
        with anyio.fail_after(60):
            assert await process.stdout.receive() == b"held"
        assert await ledger.get_value("mark") == "made by the other process"
        assert (await inspect_ledger(tmp_path / "jobs.db")).processes == (process.pid,)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    assert (await inspect_ledger(tmp_path / "jobs.db")).processes == ()
    await ledger.set_value("mark", "made here")
    await ledger.aclose()


async def test_a_foreign_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE submissions (a)")
    connection.close()
    before = path.read_bytes()
    ledger = SqliteLedger(path)
    with pytest.raises(ConfigurationError, match="is a database, but not a ledger"):
        await ledger.claim(submission())
    await ledger.aclose()
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"remember the milk\n" * 100)
    ledger = SqliteLedger(path)
    with pytest.raises(LedgerFailed, match=r"notes\.txt cannot be used: file is not a database"):
        await ledger.claim(submission())
    await ledger.aclose()
    assert path.read_bytes() == b"remember the milk\n" * 100


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.set_value("a", 1)
    await ledger._read(lambda connection: connection.execute("PRAGMA user_version = 99"))
    await ledger.aclose()
    again = SqliteLedger(tmp_path / "jobs.db")
    with pytest.raises(ConfigurationError, match="newer version"):
        await again.get_value("a")
    await again.aclose()


VERSION_1 = """
CREATE TABLE submissions (
    key TEXT PRIMARY KEY, purchase TEXT NOT NULL UNIQUE, endpoint TEXT NOT NULL, request TEXT NOT NULL,
    fingerprint TEXT NOT NULL, started REAL NOT NULL, state TEXT NOT NULL, ref TEXT, reason TEXT);
CREATE INDEX submissions_by_ref ON submissions (ref) WHERE ref IS NOT NULL;
CREATE TABLE events (
    ref TEXT NOT NULL, seq INTEGER NOT NULL, terminal INTEGER NOT NULL, event BLOB NOT NULL, PRIMARY KEY (ref, seq));
CREATE TABLE files (ref TEXT NOT NULL, position INTEGER NOT NULL, path TEXT NOT NULL, PRIMARY KEY (ref, position));
CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO submissions VALUES ('row-1', 'p-1', 'runblob/o3-video', '{"prompt": "a boat"}', 'f-1', 1777896000.5,
    'accepted', 'runblob/o3-video/550e8400-e29b-41d4-a716-446655440000', NULL);
INSERT INTO submissions VALUES ('row-2', 'p-2', 'runblob/o3-video', '{}', 'f-2', 1777896001.5, 'sending', NULL, NULL);
INSERT INTO files VALUES ('runblob/o3-video/550e8400-e29b-41d4-a716-446655440000', 0, '/out/a.mp4');
INSERT INTO kept VALUES ('owner', '1');
INSERT INTO kept VALUES ('durations', '{"version": 1, "ends": {}}');
PRAGMA user_version = 1;
PRAGMA application_id = 1263291975;
"""


async def test_a_file_of_version_1_is_upgraded(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        connection.executescript(VERSION_1)
    ledger = SqliteLedger(tmp_path / "jobs.db")
    accepted, unknown = await ledger.submissions()
    assert (accepted.key, accepted.attempt_id, accepted.ref, accepted.files) == (
        "row-1",
        "p-1",
        REF,
        (Path("/out/a.mp4"),),
    )
    assert (unknown.key, unknown.state) == ("row-2", SubmissionState.UNKNOWN)
    assert await ledger.get_value("durations") == {"version": 1, "ends": {}}
    assert (await ledger.claim(submission(purchase="p-3"))).attempt_id == "p-1"
    await ledger.aclose()


DAMAGES = {
    "request": "UPDATE attempts SET request = '[1'",
    "request that is a list": "UPDATE attempts SET request = '[1]'",
    "started": "UPDATE attempts SET started = 1e300",
    "started that is a text": "UPDATE attempts SET started = 'noon'",
    "state": "UPDATE attempts SET state = 'elsewhere'",
    "ref": "UPDATE attempts SET ref = 'nowhere'",
    "answer": "UPDATE attempts SET answer = '{\"a\": 1}'",
    "event": "UPDATE events SET event = '{'",
    "event that lacks fields": "UPDATE events SET event = '{}'",
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_row_that_cannot_be_read_is_listed_and_hides_no_other(tmp_path: Path, damage: str) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.claim(submission("row-1", "p-1"))
    await ledger.record_outcome(submission("row-1", "p-1", state=SubmissionState.ACCEPTED, ref=REF))
    await ledger.append_events(REF, [event(0)])
    await ledger._read(lambda connection: connection.execute(DAMAGES[damage]))
    await ledger.claim(submission("row-2", "p-2"))
    listed = {found.key: found for found in await ledger.submissions()}
    assert set(listed) == {"row-1", "row-2"}
    assert "cannot be read" in str(listed["row-1"].reason)
    assert (await ledger.claim(submission("row-1", "p-3"))).attempt_id == "p-1"
    assert {found.key for found in await ledger.submissions(unfinished=True)} == {"row-1", "row-2"}
    assert len(await ledger.events(REF)) <= 1
    assert len(await ledger.spending()) == 0
    await ledger.release("row-1", "p-1", "forgotten")
    assert len(await ledger.spending()) == 1
    await ledger.aclose()


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "nowhere" / "jobs.db")
    with pytest.raises(ConfigurationError, match="there is no directory"):
        await ledger.claim(submission())
    (tmp_path / "nowhere").mkdir()
    await ledger.claim(submission())
    await ledger.aclose()


async def test_only_the_owner_of_the_file_may_read_it(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.claim(submission())
    assert (tmp_path / "jobs.db").stat().st_mode & 0o077 == 0
    assert (tmp_path / "jobs.db-wal").stat().st_mode & 0o077 == 0
    await ledger.aclose()


async def test_a_full_disk_fails_the_write_that_found_it_full_and_leaves_no_trace(tmp_path: Path) -> None:
    """SQLite's own error for a full disk, by a limit on the file's pages. The ledger works on when there is space."""
    ledger = SqliteLedger(tmp_path / "jobs.db")
    await ledger.claim(submission())
    await ledger._read(_limit_pages(0))
    outcomes: list[str] = []
    errors: list[str] = []

    async def attempt(key: str, size: int) -> None:
        try:
            await ledger.claim(submission(key, f"p-{key}", request={"prompt": "x" * size}))
            outcomes.append(f"{key} written")
        except LedgerFailed as error:
            outcomes.append(f"{key} failed")
            errors.append(str(error))

    async with anyio.create_task_group() as group:
        group.start_soon(attempt, "large", 100_000)
        group.start_soon(attempt, "small", 1)
        group.start_soon(attempt, "huge", 1_000_000)
    assert all("database or disk is full" in error and "free some space" in error for error in errors)
    assert sorted(outcomes) == ["huge failed", "large failed", "small written"]
    assert [s.key for s in await ledger.submissions()] == ["row-1", "small"]
    await ledger._read(_limit_pages(1_000_000))
    await attempt("large", 100_000)
    assert outcomes[-1] == "large written"
    await ledger.aclose()


def _limit_pages(extra: int) -> Callable[[sqlite3.Connection], None]:
    def limit(connection: sqlite3.Connection) -> None:
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + extra}")

    return limit


async def test_writes_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    """While the thread is held up, a thousand writes queue. They then take a few statements, commits included."""
    ledger = SqliteLedger(tmp_path / "jobs.db")
    statements: list[str] = []
    hold, stored = threading.Event(), anyio.Event()

    async def write(number: int) -> None:
        await ledger.claim(submission(f"row-{number}", f"p-{number}"))

    async def block() -> None:
        stored.set()
        await ledger._read(lambda _: hold.wait(10))

    await ledger._read(lambda connection: connection.set_trace_callback(statements.append))
    statements.clear()
    async with anyio.create_task_group() as group:
        group.start_soon(block)
        await stored.wait()
        for number in range(1000):
            group.start_soon(write, number)
        await anyio.wait_all_tasks_blocked()
        hold.set()
    assert statements.count("COMMIT") <= 5
    assert sum(1 for _ in groupby(statements)) <= 25  # a statement is listed again for each run of its triggers
    assert len(await ledger.submissions()) == 1000
    await ledger.aclose()


async def test_a_long_list_is_read_in_pages_between_which_others_write(tmp_path: Path) -> None:
    """What is written between two pages makes none of the others come twice, or not at all."""
    ledger = SqliteLedger(tmp_path / "jobs.db")
    count = 1700
    made = [
        submission(f"row-{i}", f"p-{i}", started=NOON - timedelta(seconds=i), state=SubmissionState.REFUSED)
        for i in range(count)
    ]
    async with anyio.create_task_group() as group:
        for each in made:
            group.start_soon(ledger.claim, each)
    statements: list[str] = []
    await ledger._read(lambda connection: connection.set_trace_callback(statements.append))
    again = submission("row-0", "again", started=NOON + timedelta(seconds=1))
    found: list[Submission] = []
    hold, stored = threading.Event(), anyio.Event()

    async def block() -> None:
        stored.set()
        await ledger._read(lambda _: hold.wait(10))

    async def poll() -> None:
        found.extend(await ledger.submissions())

    async with anyio.create_task_group() as group:
        group.start_soon(block)
        await stored.wait()
        group.start_soon(poll)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(ledger.claim, again)
        await anyio.wait_all_tasks_blocked()
        hold.set()
    pages = [number for number, text in enumerate(statements) if text.startswith("SELECT s.key") and "number >" in text]
    written = next(number for number, text in enumerate(statements) if text.startswith("INSERT INTO attempts"))
    assert len(pages) == 4
    assert pages[0] < written < pages[1]
    assert [s.key for s in found[-3:]] == ["row-2", "row-1", "row-0"]
    assert sorted(s.key for s in found) == sorted(s.key for s in made)
    assert len(await ledger.submissions(unfinished=True)) == 1
    await ledger.aclose()


async def test_claims_and_settlements_in_one_commit_are_distinguished(tmp_path: Path) -> None:
    """Many keys, new, taken and free, in one group: each task hears of its own."""
    ledger = SqliteLedger(tmp_path / "jobs.db")
    hold = threading.Event()
    claims: dict[str, Submission] = {}
    for number in range(30):
        begun = submission(f"row-{number}", f"old-{number}")
        await ledger.claim(begun)
        state = [SubmissionState.ACCEPTED, SubmissionState.REFUSED, SubmissionState.UNKNOWN][number % 3]
        await ledger.record_outcome(replace(begun, state=state, reason=str(number)))

    async def claim(key: str, purchase: str) -> None:
        claims[purchase] = await ledger.claim(submission(key, purchase))

    async with anyio.create_task_group() as group:
        group.start_soon(ledger._read, lambda _: hold.wait(10))
        for number in range(60):
            group.start_soon(claim, f"row-{number % 40}", f"new-{number}")
        await anyio.wait_all_tasks_blocked()
        hold.set()
    for number in range(60):
        row = number % 40
        stored = claims[f"new-{number}"]
        assert stored.key == f"row-{row}"
        if row < 30 and row % 3 != 1:
            assert (stored.attempt_id, stored.reason) == (f"old-{row}", str(row))
        else:
            assert stored.attempt_id in {f"new-{row}", f"new-{row + 40}"}
            assert stored == await ledger.find(key=f"row-{row}")
    await ledger.aclose()


async def test_a_stalled_disk_does_not_stall_the_loop(tmp_path: Path) -> None:
    """While a commit hangs, the event loop goes on. The write is answered when the disk comes back."""
    ledger = SqliteLedger(tmp_path / "jobs.db")
    hold = threading.Event()
    answered: list[str] = []

    async def stall() -> None:
        assert await ledger._read(lambda _: hold.wait(20))

    async def write() -> None:
        await ledger.claim(submission())
        answered.append("written")

    async with anyio.create_task_group() as group:
        group.start_soon(stall)
        group.start_soon(write)
        for _ in range(1000):
            await anyio.lowlevel.checkpoint()
        answered.append("the loop went round a thousand times")
        hold.set()
    assert answered == ["the loop went round a thousand times", "written"]
    await ledger.aclose()


async def test_a_write_that_is_wrong_in_itself_harms_no_other(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    failures: list[Exception] = []

    async def wrong() -> None:
        try:
            await ledger.set_value("a", object())
        except TypeError as error:
            failures.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(wrong)
        group.start_soon(ledger.set_value, "b", 2)
    assert len(failures) == 1
    assert await ledger.get_value("b") == 2
    await ledger.aclose()


def test_one_ledger_serves_several_event_loops_one_after_the_other(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")

    async def use(number: int) -> int:
        await ledger.claim(submission(f"row-{number}", f"p-{number}"))
        return len(await ledger.submissions())

    assert asyncio.run(use(1)) == 1
    assert anyio.run(use, 2, backend="trio") == 2
    assert asyncio.run(use(3)) == 3
    assert [thread.name for thread in threading.enumerate() if "jobs.db" in thread.name] == ["ledger jobs.db"]
    asyncio.run(ledger.aclose())
    assert not [thread.name for thread in threading.enumerate() if "jobs.db" in thread.name]


def test_a_loop_that_ends_before_its_write_is_answered_harms_nobody(tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "jobs.db")
    hold = threading.Event()

    async def leave() -> None:
        with anyio.move_on_after(0.05):
            await ledger._read(lambda _: hold.wait(20))

    async def poll() -> Any:
        await ledger.set_value("a", 1)
        return await ledger.get_value("a")

    asyncio.run(leave())
    hold.set()
    assert asyncio.run(poll()) == 1
    asyncio.run(ledger.aclose())


def test_a_program_that_never_closes_its_ledger_ends(tmp_path: Path) -> None:
    script = (
        "import sys, anyio\nfrom kling_async._ledger.sqlite import SqliteLedger\n"
        "anyio.run(SqliteLedger(sys.argv[1]).set_value, 'a', 1)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "jobs.db")]
    subprocess.run(command, timeout=30, check=True, env=dict(os.environ))
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        assert connection.execute("SELECT value FROM stored_values WHERE name = 'a'").fetchone() == ("1",)
    connection.close()

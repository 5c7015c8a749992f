"""What a provider sent cannot be stored: others are, nothing paid is forgotten, and the user is told."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from psycopg import sql

from kling_async import (
    Artifact,
    Cost,
    Event,
    Failure,
    JobRef,
    LedgerFailed,
    PostgresLedger,
    ReceivedAnswer,
    SqliteLedger,
    Status,
    Submission,
    SubmissionState,
)
from kling_async._ledger.protocol import NOT_STORABLE
from kling_async._ledger.writer import LedgerWriter
from support.postgres import Server

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
REF = JobRef("runblob", "o3-video", "1")
HALF, NUL = "half \ud800 a character", "a \0 null"


class Place:
    """Where a ledger is: a file, or a schema on a server."""

    def __init__(self, place: Path | Server) -> None:
        self._place = place
        self._schema = place.schema() if isinstance(place, Server) else ""

    def ledger(self) -> SqliteLedger | PostgresLedger:
        """Opens it."""
        if isinstance(self._place, Path):
            return SqliteLedger(self._place)
        return PostgresLedger(self._place.dsn(), schema=self._schema)

    def refuse(self, table: str, condition: str) -> None:
        """From now on, the database does not take such rows."""
        if isinstance(self._place, Path):
            with closing(sqlite3.connect(self._place)) as connection:
                for moment in ("INSERT", "UPDATE"):
                    connection.execute(
                        f"""CREATE TRIGGER no_{table}_{moment} BEFORE {moment} ON {table} WHEN {condition}
                            BEGIN SELECT RAISE(ABORT, 'too large a value'); END"""
                    )
            return
        with self._place.connect() as connection:
            statements = [
                f"""CREATE FUNCTION {{s}}.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    IF {condition} THEN RAISE EXCEPTION 'too large a value' USING ERRCODE = '22003'; END IF;
                    RETURN NEW; END $$""",
                f"""CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {{s}}.{table}
                    FOR EACH ROW EXECUTE FUNCTION {{s}}.refuse()""",
            ]
            for statement in statements:
                connection.execute(sql.SQL(statement).format(s=sql.Identifier(self._schema)))


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.getfixturevalue("postgres") if request.param == "postgres" else tmp_path / "jobs.db")


def submission(key: str, **more: Any) -> Submission:
    return Submission(key, "runblob/o3-video", {"prompt": "a boat"}, "f", f"a-{key}", NOON, **more)


def event(seq: int, status: Status = Status.PROCESSING, **more: Any) -> Event:
    return Event(seq, status, NOON, 1.0, "poll", **more)


async def test_what_no_database_stores_is_replaced_and_the_rest_is_kept(place: Place) -> None:
    writer = LedgerWriter(place.ledger(), {})
    await writer.claim(submission("1"))
    await writer.record_outcome(submission("1", state=SubmissionState.ACCEPTED, ref=REF))
    odd: list[dict[str, Any]] = [
        {"message": HALF, "raw": {HALF: [HALF, NUL]}, "failures": (Failure(HALF, HALF),), "logs": (HALF, NUL)},
        {"artifacts": (Artifact("video", f"https://a.test/{HALF}"),), "message": NUL},
        {"cost": Cost(Decimal("NaN"), "USD")},
        {"cost": Cost(Decimal("1e140000"), "USD")},
        {"cost": Cost(Decimal(1), HALF)},  # type: ignore[arg-type]
        {"cost": Cost(Decimal(1), NUL)},  # type: ignore[arg-type]
        {"raw": {"a": 10**400}},
    ]
    for number, facts in enumerate(odd):
        await writer.append_events(REF, event(number, **facts))
    await writer.append_events(REF, event(len(odd), Status.COMPLETED))
    log = await writer.events(REF)
    assert [each.seq for each in log] == list(range(len(odd) + 1))
    assert log[0].message == "half � a character"
    lost = submission(
        "2", state=SubmissionState.UNKNOWN, reason=HALF + NUL, answer=ReceivedAnswer(500, {HALF: NUL}, HALF)
    )
    await writer.claim(submission("2"))
    await writer.record_outcome(lost)
    await writer.record_file(REF, 0, Path("/out/\udcff.mp4"))  # the name of a file that is no text
    found = {one.key: one for one in await writer.ledger.submissions()}
    assert (found["1"].status, found["1"].files) == (Status.COMPLETED, (Path("/out/�.mp4"),))
    assert (found["2"].state, found["2"].reason) == (SubmissionState.UNKNOWN, "half � a charactera � null")
    assert found["2"].answer == ReceivedAnswer(500, {"half � a character": "a � null"}, "half � a character")
    await writer.aclose(None)


async def test_an_event_that_the_database_refuses_is_stored_without_the_providers_words(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    writer = LedgerWriter(place.ledger(), {})
    await writer.claim(submission("1"))
    await writer.record_outcome(submission("1", state=SubmissionState.ACCEPTED, ref=REF))
    place.refuse("events", "NEW.event LIKE '%poison%'")
    async with anyio.create_task_group() as group:  # in one group with others
        group.start_soon(writer.append_events, REF, event(0, message="poison", cost=Cost(Decimal("0.15"), "USD")))
        for number in range(5):
            group.start_soon(writer.claim, submission(f"other-{number}"))
    await writer.append_events(REF, event(1, Status.COMPLETED, artifacts=(Artifact("video", "https://poison.test"),)))
    first, last = await writer.events(REF)
    assert (first.message, first.cost) == (None, Cost(Decimal("0.15"), "USD"))
    assert (last.status, last.artifacts) == (Status.COMPLETED, ())
    assert f"job {REF}, event 0: the ledger" in caplog.text
    assert "too large a value" in caplog.text
    assert "what the provider said is left out" in caplog.text
    assert "only its status is stored" in caplog.text
    assert len(await writer.ledger.submissions()) == 6
    await writer.claim(submission("later"))
    await writer.aclose(None)


async def test_what_can_never_be_stored_holds_up_nobody_and_is_named(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    writer = LedgerWriter(place.ledger(), {})
    await writer.claim(submission("1"))
    place.refuse("attempts", "NEW.ref IS NOT NULL")
    await writer.record_outcome(submission("1", state=SubmissionState.ACCEPTED, ref=REF))
    assert f"submission '1' is accepted (job {REF}), and the ledger does not know it" in caplog.text
    await writer.claim(submission("2"))
    await writer.record_outcome(submission("2", state=SubmissionState.REFUSED, reason="no"))
    found = {one.key: one.state for one in await writer.ledger.submissions()}
    assert found == {"1": SubmissionState.SENDING, "2": SubmissionState.REFUSED}, "it is never taken for unsent"
    await writer.aclose(None)


async def test_an_outcome_that_waited_for_the_database_and_is_refused_then_holds_up_nobody(
    place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread tries it again by itself. It must not seem to be stored, because it was not."""
    ledger = place.ledger()
    writer = LedgerWriter(ledger, {})
    await writer.claim(submission("1"))
    tried = anyio.Event()
    loop = asyncio.get_running_loop()
    explain = ledger._explained
    kinds: list[Exception] = [LedgerFailed("the disk is full"), LedgerFailed("too long", code=NOT_STORABLE)]

    def explained(error: Exception) -> Exception:
        if "too large a value" not in str(error):
            return explain(error)
        if len(kinds) == 1:
            loop.call_soon_threadsafe(tried.set)
        return kinds.pop(0) if kinds else explain(error)

    monkeypatch.setattr(ledger._thread, "_explain", explained)
    place.refuse("attempts", "NEW.reason IS NOT NULL")
    await writer.record_outcome(submission("1", state=SubmissionState.UNKNOWN, reason="lost"))
    with anyio.fail_after(120):
        await tried.wait()
    await writer.claim(submission("2"))
    assert "The reason and the answer are left out" in caplog.text
    found = {one.key: one.state for one in await writer.ledger.submissions()}
    assert found["1"] is SubmissionState.UNKNOWN
    await writer.aclose(None)


async def test_a_key_that_is_too_long_is_the_error_of_its_own_row(postgres: Server) -> None:
    ledger = PostgresLedger(postgres.dsn(), schema=postgres.schema())
    too_long = "".join(f"{number:x}" for number in range(4000))
    with pytest.raises(LedgerFailed, match=r"cannot store this: index row.*Other submissions are not affected") as no:
        await ledger.claim(submission(too_long))
    assert (no.value.code, no.value.temporary) == (NOT_STORABLE, False)
    await ledger.claim(submission("2"))
    await ledger.aclose()

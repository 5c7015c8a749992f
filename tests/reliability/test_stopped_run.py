"""A bulk run that is stopped: what was sent is followed to its end, and a second run buys exactly the rest."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from kling_async import BulkRun, Client, Limits, Outcome, Polling, Progressive, Request, SqliteLedger, runblob
from kling_async.sandbox import Fault, Sandbox

pytestmark = pytest.mark.anyio

PATIENCE = 120.0
COUNT, LIMIT = 12, 2


def rows() -> list[tuple[str, Request]]:
    return [(f"row-{number}", runblob.O3Photo(f"a boat, study {number}", resolution="1k")) for number in range(COUNT)]


def client_of(sandbox: Sandbox, ledger: SqliteLedger | None, concurrency: int | None = LIMIT) -> Client:
    [provider] = [each for each in sandbox.providers() if each.name == "runblob"]
    polling = Polling(schedule=Progressive(0.02), status_calls_per_minute=float("inf"))
    return Client(provider, ledger=ledger, limits=Limits(concurrency=concurrency), polling=polling)


@pytest.fixture(params=["no ledger", "sqlite"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "jobs.db" if request.param == "sqlite" else None


class Heard(logging.Handler):
    """Learns from the log that a submission waits."""

    def __init__(self) -> None:
        super().__init__()
        self.refusal = anyio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "waits for" in record.getMessage():
            self.refusal.set()


@pytest.fixture
async def heard() -> AsyncIterator[Heard]:
    handler, log = Heard(), logging.getLogger("kling_async")
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


async def outcomes_of(run: BulkRun, *, stop_after: int = COUNT + 1) -> list[Outcome]:
    """The outcomes of a run, which is stopped after so many of them."""
    found: list[Outcome] = []
    with anyio.fail_after(PATIENCE):
        async for outcome in run:
            found.append(outcome)
            if len(found) == stop_after:
                run.stop()
    return found


async def buy_the_rest(sandbox: Sandbox, path: Path | None, first: list[Outcome]) -> None:
    """Make the run again. Nothing that a row has left behind is in its way."""
    known = {outcome.key for outcome in first}
    ledger = SqliteLedger(path) if path is not None else None
    rest = [row for row in rows() if ledger is not None or row[0] not in known]
    async with client_of(sandbox, ledger) as client, client.map(rest) as run:
        again = await outcomes_of(run)
        assert ledger is None or await client.unresolved() == []
    assert [outcome.error for outcome in again] == [None] * len(rest)
    assert {outcome.key for outcome in again if outcome.new} == {key for key, _ in rows()} - known
    assert sandbox.counters.bought["runblob"] == COUNT


async def test_rows_that_wait_for_a_slot_are_left_and_a_second_run_buys_exactly_them(
    sandbox: Sandbox, path: Path | None
) -> None:
    ledger = SqliteLedger(path) if path is not None else None
    async with client_of(sandbox, ledger) as client, client.map(rows()) as run:
        first = await outcomes_of(run, stop_after=3)
        statistics = run.statistics()
        assert not client.jobs
    bought = sandbox.counters.bought["runblob"]
    assert [outcome.error for outcome in first] == [None] * bought
    assert 3 <= bought <= 3 + LIMIT, "of the others nothing was sent"
    assert (statistics.left, statistics.in_flight) == (COUNT - bought, 0)
    await buy_the_rest(sandbox, path, first)


async def test_rows_whose_provider_says_not_now_are_left_and_a_second_run_buys_them(
    sandbox: Sandbox, path: Path | None, heard: Heard
) -> None:
    ledger = SqliteLedger(path) if path is not None else None
    async with client_of(sandbox, ledger, None) as client, client.map(rows()) as run:
        refusal = sandbox.faults.add(Fault.rate_limited, kind="submit", seconds=PATIENCE)
        with anyio.fail_after(PATIENCE / 2):
            await heard.refusal.wait()
            run.stop()
            first = await outcomes_of(run)
        assert (first, run.statistics().left) == ([], COUNT)
        sandbox.faults.remove(refusal)
    await buy_the_rest(sandbox, path, first)

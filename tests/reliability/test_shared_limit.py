"""The limit on status calls holds for processes together, counted where they are answered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from kling_async import Ledger
from support.remote_sandbox import RemoteSandbox
from support.sharing_process import Notes, Team

ROWS = 12  # of each process
LIMIT = 1200  # status calls a minute
PROCESSES = 4


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the limit is the ledger's
async def test_the_limit_on_status_calls_holds_for_four_processes_together(
    tmp_path: Path, shared: tuple[Callable[[str], Ledger], str]
) -> None:
    """They begin one after the other: whoever was alone at first shares its limit when the next one comes."""
    opened, place = shared
    with RemoteSandbox("--speed", "60", "--rate-limit", "0") as sandbox:
        seller, path = sandbox.providers["runblob"], tmp_path / "notes"
        keys = [[f"{number}-{row}" for row in range(ROWS)] for number in range(PROCESSES)]
        teams = [Team(seller, opened, place, path, own, LIMIT) for own in keys]
        for team in teams:
            await anyio.to_thread.run_sync(team.start)
        for team in teams:
            await anyio.to_thread.run_sync(team.join)
        requests = sandbox.counters()["requests"]
    notes = Notes(path)
    begins = [poll.begin for poll in notes.polls()]
    assert requests["runblob/status"] == len(begins) >= PROCESSES * ROWS
    seconds = max(begins) - min(notes.waits().values())
    assert len(begins) <= seconds * LIMIT / 60 + PROCESSES
    assert len({poll.process for poll in notes.polls()}) == PROCESSES

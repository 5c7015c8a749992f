from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kling_async import Ledger
from support import sharing_process
from support.postgres import Server


@pytest.fixture(params=["sqlite", "postgres"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Callable[[str], Ledger], str]:
    """Each kind of ledger that processes share: how one opens it, and where it is."""
    if request.param == "sqlite":
        return sharing_process.sqlite, str(tmp_path / "jobs.db")
    server: Server = request.getfixturevalue("postgres")
    return sharing_process.postgres, f"{server.dsn()}?schema={server.schema()}"

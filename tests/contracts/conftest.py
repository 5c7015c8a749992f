"""Ledgers that several processes may share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from support.shared_ledger import Opened, shared_ledger


@pytest.fixture
def options() -> dict[str, Any]:
    """The arguments of the ledgers. A file of tests may have its own."""
    return {}


@pytest.fixture(params=["sqlite", "postgres"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path, options: dict[str, Any]) -> AsyncIterator[Opened]:
    """Opens the ledger once more, as another process does."""
    server = request.getfixturevalue("postgres") if request.param == "postgres" else None
    async with shared_ledger(tmp_path / "jobs.db", server, **options) as made:
        yield made

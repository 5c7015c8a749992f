"""What was spent today and in all, by provider and unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from kling_async._client import Client
from kling_async._ledger.protocol import Ledger, Submission, SubmissionState
from kling_async._models import Cost
from kling_async.studio.jobs import Jobs

__all__ = ["spending"]


async def spending(client: Client, ledger: Ledger, jobs: Jobs) -> dict[str, Any]:
    """What was spent today (by the clock of this machine), and in all, and what is left of the budget."""
    today = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    current = await ledger.submissions()
    every: list[Submission] = []
    for one in current:
        # Attempts before the current one exist only where a key was submitted again, which leaves a later start.
        every += await ledger.attempts(one.key) if one.started >= today else [one]
    budget = client.statistics().budget
    return {
        "today": _sums((one for one in every if one.started >= today), jobs),
        "all": _sums(every, jobs),
        "left": [str(amount) for amount in budget.left] if budget else None,
    }


def _sums(submissions: Iterable[Submission], jobs: Jobs) -> list[dict[str, Any]]:
    """The sums by provider and unit, with how much of each is an estimate."""
    sums: dict[tuple[str, str], dict[str, Any]] = {}
    for one in submissions:
        if one.state not in {SubmissionState.ACCEPTED, SubmissionState.UNKNOWN, SubmissionState.SENDING}:
            continue
        cost, estimated = jobs.cost(one)
        unit = cost.unit if cost else "unknown"
        row = sums.setdefault((one.provider, unit), _empty(one.provider, unit))
        row["jobs"] += 1
        if cost is None or jobs.refunded(one):
            continue
        row["amount"] += cost.amount
        row["estimated"] += cost.amount if estimated else 0
        row["uncertain"] += one.state is not SubmissionState.ACCEPTED
    return [_shown(row) for _, row in sorted(sums.items())]


def _empty(provider: str, unit: str) -> dict[str, Any]:
    return {
        "provider": provider,
        "unit": unit,
        "amount": Decimal(0),
        "estimated": Decimal(0),
        "jobs": 0,
        "uncertain": 0,
    }


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    def text(amount: Decimal) -> str | None:
        return None if row["unit"] == "unknown" else str(Cost(amount, row["unit"]))

    share = row["estimated"]
    return {**row, "amount": text(row["amount"]), "estimated": text(share) if share else None}

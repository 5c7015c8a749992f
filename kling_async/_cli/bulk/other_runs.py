"""The other runs of an output folder: shards, and runs of the whole file. Each has a ledger and results of its own.

A row that another run has bought is not bought again. If it is done, its result is taken over, so that the run of the
whole file joins the reports of all shards. If it is not done, or its files are missing, the run that has it must finish
it first. A run does not start while another one that may buy the same rows is active.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from pathlib import Path

from kling_async import Cost, Submission, inspect_ledger
from kling_async._cli.bulk.plan import OutputPaths, Task
from kling_async._cli.bulk.results import Results
from kling_async._cli.bulk.run_lock import active_run
from kling_async._cli.errors import CommandError
from kling_async._rows.reader import Row, Shard
from kling_async._submission.budget import BudgetAccount  # sums the spending of other ledgers by the budget's rules
from kling_async._submission.pricing import Unit, earlier_price  # the same

__all__ = [
    "OtherRun",
    "Unit",
    "adopt_results",
    "budget_left",
    "other_runs",
    "refuse_overlap",
    "remaining_budget",
    "spent_by",
]

_WHOLE = Shard(1, 1)
_LEDGER = re.compile(r"ledger(?:-(\d+)-of-(\d+))?\.db")
_SHOWN = 3  # rows that a message names
_CENT_OF_A_CENT = Decimal("0.0001")
_DONE = frozenset({"completed", "failed"})


@dataclass(frozen=True, slots=True)
class OtherRun:
    """Another run of the same folder.

    Attributes:
        ledger: Its ledger.
        shard: Which rows it buys.
        submissions: What it has bought, or may have.
        process: The process that runs it now. None if none does.
    """

    ledger: Path
    shard: Shard
    submissions: Sequence[Submission]
    process: str | None


async def other_runs(places: OutputPaths) -> list[OtherRun]:
    """The other runs of the folder, by their ledgers.

    Raises:
        KlingError: A ledger cannot be read.
    """
    found = []
    for path in sorted(places.directory.glob("ledger*.db")):
        name = _LEDGER.fullmatch(path.name)
        if name is None or (places.ledger is not None and path.resolve() == places.ledger.resolve()):
            continue
        contents = await inspect_ledger(path)
        bought = [submission for submission in contents.submissions if not submission.key_reusable]
        shard = Shard(int(name[1]), int(name[2])) if name[1] else _WHOLE
        found.append(
            OtherRun(
                path, shard, bought, active_run(path.with_name(f"results{path.stem.removeprefix('ledger')}.jsonl"))
            )
        )
    return found


def adopt_results(rows: Iterable[Row], results: Results, places: OutputPaths) -> None:
    """Take over what other runs of the folder have done about these rows."""
    others = [path for path in sorted(places.directory.glob("results*.jsonl")) if path != results.path]
    known = [Results(path).records for path in others]
    for row in rows:
        own = results.records.get(row.key)
        if own is not None and own.state not in {"waiting", "refused"}:
            continue
        for records in known:
            record = records.get(row.key)
            if record is not None and record.state in _DONE:
                results.records[row.key] = record


async def refuse_overlap(plan: Sequence[Task], places: OutputPaths, shard: Shard | None) -> frozenset[str]:
    """Make sure that no row of the plan was or is being bought by another run of the folder.

    Returns:
        The keys that this run's own ledger has.

    Raises:
        CommandError: A row was, or may be at any moment. The message names the run's ledger.
    """
    part = shard or _WHOLE
    own: set[str] = set()
    if places.ledger is not None and places.ledger.exists():
        own = {submission.key for submission in (await inspect_ledger(places.ledger)).submissions}
    for run in await other_runs(places):
        if run.process is not None and _overlap(run.shard, part):
            raise CommandError(
                f"another run of {places.directory} is active (process {run.process}, {run.ledger}) and may buy "
                "the same rows; wait for its end, then give this command again"
            )
        theirs = {submission.key for submission in run.submissions} - own
        common = [task for task in plan if task.key in theirs]
        if common:
            lines = ", ".join(f"line {task.row.line}" for task in common[:_SHOWN])
            more = f" and {len(common) - _SHOWN} more" if len(common) > _SHOWN else ""
            option = "" if run.shard == _WHOLE else f" --shard {run.shard.number}/{run.shard.of}"
            raise CommandError(
                f"another run of {places.directory} has bought {lines}{more}, and their results are not complete: "
                f"{run.ledger} has these jobs. Finish that run first (the same command "
                f"{f'with{option}' if option else 'without --shard'}), then give this command again"
            )
    return frozenset(own)


def _overlap(one: Shard, other: Shard) -> bool:
    """Whether a row may belong to both."""
    common = math.gcd(one.of, other.of)
    return (one.number - other.number) % common == 0


async def spent_by(submissions: Iterable[Submission]) -> dict[Unit, Decimal]:
    """What submissions cost or may cost, by unit, as `Budget` counts it."""
    budget = BudgetAccount(usd=math.inf, credits=math.inf)
    priced = [(s, earlier_price(s.endpoint, s.request, s.cost, {})) for s in submissions]
    await budget.load_history(priced)
    statistics = budget.statistics()
    sums: dict[Unit, Decimal] = {}
    for cost in (*statistics.spent, *statistics.reserved):
        sums[cost.unit] = sums.get(cost.unit, Decimal(0)) + cost.amount
    return sums


async def remaining_budget(
    amounts: Mapping[Unit, Decimal], places: OutputPaths, shard: Shard | None, share: Decimal | None
) -> tuple[dict[Unit, Decimal], str | None]:
    """What a run may spend of the budget that all runs of its folder have together.

    Args:
        amounts: The budget.
        places: The folder.
        shard: Which part of the rows the run buys. The shards of one partition have a part of the budget each.
        share: That part: the shard's rows, divided by all rows. If None, the user named a ledger, which counts what all
            shards spend that are given the same one.

    Returns:
        The amounts, and a sentence about them if they are not the whole budget.
    """
    part = shard or _WHOLE
    others = [run for run in await other_runs(places) if part == _WHOLE or run.shard.of != part.of]
    spent = await spent_by(submission for run in others for submission in run.submissions)
    left: dict[Unit, Decimal] = {}
    for unit, amount in amounts.items():
        left[unit] = max(amount - spent.get(unit, Decimal(0)), Decimal(0))
        if share is not None and share != 1:
            left[unit] = (left[unit] * share).quantize(_CENT_OF_A_CENT, ROUND_DOWN)
    if left == amounts:
        common = f"the budget of {_listed(amounts)} is for all shards that are given the ledger {places.ledger}"
        return left, common if share is None and shard is not None else None
    paid = _listed(spent)
    reasons = [f"other runs of {places.directory} spent {paid}"] if paid else []
    reasons += [f"this shard has {share:.0%} of the rows"] if share not in {None, 1} else []
    return left, f"of the budget of {_listed(amounts)}, this run may spend {_listed(left)}: {', and '.join(reasons)}"


async def budget_left(amounts: Mapping[Unit, Decimal], places: OutputPaths) -> str:
    """How much of this run's budget is left, in words."""
    spent: Mapping[Unit, Decimal] = {}
    if places.ledger is not None and places.ledger.exists():
        bought = [one for one in (await inspect_ledger(places.ledger)).submissions if not one.state.key_reusable]
        spent = await spent_by(bought)
    left = {unit: max(amount - spent.get(unit, Decimal(0)), Decimal(0)) for unit, amount in amounts.items()}
    return f"{_listed(left)} left of {_listed(amounts)}"


def _listed(amounts: Mapping[Unit, Decimal]) -> str:
    return " and ".join(str(Cost(amount, unit)) for unit, amount in amounts.items())

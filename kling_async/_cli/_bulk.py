"""``kling bulk``: a file of prompts, bought once each, within a budget, with pictures at the end.

What survives the program, in the output directory: the ledger (what was bought), ``results.jsonl`` (what has become of
each row), the files, and ``report.html``. The same command again takes it from there.
"""

from __future__ import annotations

import gc
import math
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from kling_async._budget import Budget
from kling_async._bulk import Outcome, Outcomes
from kling_async._cadence import Progressive
from kling_async._cli._exits import FAILED, UNKNOWN, UNREACHABLE, UNSAVED, CommandError, explain
from kling_async._cli._fields import find
from kling_async._cli._generate import AsJson, Timeout
from kling_async._cli._page import write_page
from kling_async._cli._plan import Places, Task, conflicts, estimate, plan_of, record_before
from kling_async._cli._progress import JsonBulkReport, PlainBulkReport, Tally, choose_bulk_report, trouble
from kling_async._cli._results import Record, Results, record_of
from kling_async._cli._rows import Row, Shard, read_cells, rows_from
from kling_async._cli._run import answering, destination, open_client, run
from kling_async._client import Client
from kling_async._errors import BulkStopped, DownloadFailed
from kling_async._media import writable
from kling_async._models import Artifact, Result
from kling_async._poller import Polling
from kling_async.providers import KNOWN

__all__ = ["bulk", "parse_budget"]

_TICK = 0.25  # s between two looks at how far the run is
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(usd|credits?)|\$(\d+(?:\.\d+)?)", re.IGNORECASE)


def bulk(  # noqa: PLR0913  # typer reads the options of the command from this signature
    rows: Annotated[
        str, typer.Argument(metavar="FILE", help="JSONL, CSV or Parquet; - reads JSONL from standard input.")
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where all that comes of it goes.")],
    endpoint: Annotated[
        str | None, typer.Option(metavar="ENDPOINT", help="Of rows that name none, such as runblob/o3-video.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="jsonl, csv or parquet. (default: by the file's name)"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every row, estimate the cost, and buy nothing.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="Spend at most this, such as 5usd, 200credits or 5usd,200credits."),
    ] = None,
    in_flight: Annotated[int, typer.Option(metavar="N", min=1, help="Jobs that run at once.")] = 100,
    downloads: Annotated[int, typer.Option(metavar="N", min=1, help="Results that are saved at once.")] = 8,
    no_save: Annotated[
        bool, typer.Option("--no-save", help="Save no files; results.jsonl has their addresses.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts, by a digest of the rows' keys.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Buy again what failed for a reason that may pass, or was refused.")
    ] = False,
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What was bought is written down here. (default: DIR/ledger.db)")
    ] = None,
    no_ledger: Annotated[
        bool, typer.Option("--no-ledger", help="Keep none: a run that is killed forgets the jobs that it has bought.")
    ] = False,
    poll: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.05, help="Look at each job this often. (default: when it pays)"),
    ] = None,
    status_calls: Annotated[
        float | None,
        typer.Option(metavar="N", min=0, help="Looks in a minute at each provider; 0: any. (default: as documented)"),
    ] = None,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Buy every row of a file once, and save what comes of it. The same command again continues.

    The columns are the fields of the requests (see kling endpoints), endpoint, and, if you
    like, key, the row's name; or request, the provider's own JSON. References are URLs, or
    paths from the file's directory; in CSV with | between them.

    Every row is checked before anything is paid for. Ctrl-C once stops buying and waits for
    what is in flight; twice leaves at once.

    kling bulk prompts.jsonl -o out/ --endpoint runblob/o3-video --budget 20usd
    """
    report = choose_bulk_report(as_json=as_json)
    with answering(report):
        part = Shard.parse(shard) if shard else None
        source = None if rows == "-" else Path(rows)
        if endpoint is not None:
            find(endpoint)
        cells = read_cells(source, form)
        good, bad = rows_from(cells, default=endpoint, folder=source.parent if source else Path(), shard=part)
        places = Places.of(destination(output), part, None if no_ledger else ledger, kept=not no_ledger)
        results = Results(places.results)
        bad += list(conflicts(good, results, places))
        if bad:
            report.bad(bad)
            raise CommandError(f"{len({row.line for row in bad})} rows are not acceptable; nothing was bought")
        plan = plan_of(good, results, places, retry=retry_failed, save=not no_save)
        if dry_run:
            estimate(plan, good, results, report)
            return
        spend = parse_budget(budget) if budget else None
        polling = Polling(
            None if poll is None else Progressive(poll),
            timeout,
            None if status_calls is None else status_calls or math.inf,
        )
        title = source.name if source else "standard input"
        work = _Bulk(good, plan, results, report, places, title=title, save=None if no_save else downloads)
        try:
            if plan:
                client = _client(plan, polling, spend, places)
                gc.freeze()  # the rows stay until the end: going through them again and again would hold up the run
                run(partial(work.run, client, in_flight), report, stop=work.stop)
        finally:
            gc.unfreeze()
            if work.begun or not plan:
                work.conclude()
        raise typer.Exit(work.code())


def parse_budget(text: str) -> Budget:
    """The budget that ``5usd,200credits`` spells.

    Raises:
        CommandError: It spells none.
    """
    amounts: dict[str, Decimal] = {}
    for part in text.split(","):
        found = _AMOUNT.fullmatch(part.strip())
        if found is None:
            raise CommandError(f"--budget {text!r:.40}: an amount looks like 5usd or 200credits")
        name = "credits" if (found[2] or "").lower().startswith("credit") else "usd"
        if name in amounts:
            raise CommandError(f"--budget {text!r:.40}: it names {name} twice")
        amounts[name] = Decimal(found[1] or found[3])
    return Budget(usd=amounts.get("usd"), credits=amounts.get("credits"))


def _client(plan: Sequence[Task], polling: Polling, budget: Budget | None, places: Places) -> Client:
    used = {task.row.endpoint.name.partition("/")[0] for task in plan}
    kinds = [kind for kind in KNOWN if kind.name in used]
    for kind in kinds:
        open_client([kind], None)  # each of them needs its key
    return open_client(kinds, None, places.ledger, polling=polling, budget=budget)


@dataclass(slots=True)
class _Bulk:
    """One run: rows go in, records come out."""

    rows: Sequence[Row]
    plan: Sequence[Task]
    results: Results
    report: PlainBulkReport | JsonBulkReport
    places: Places
    title: str
    save: int | None
    """How many results are saved at once; None: none is saved."""
    tally: Tally = field(init=False)
    begun: bool = False
    """Whether the output directory is ours."""
    halted: bool = False
    stopped: BulkStopped | None = None
    _outcomes: Outcomes | None = None

    def __post_init__(self) -> None:
        todo = {task.row.key for task in self.plan}
        known = self.results.records
        states: Counter[str] = Counter("waiting" if row.key in todo else known[row.key].state for row in self.rows)
        self.tally = Tally(len(self.rows), states)

    def stop(self) -> bool:
        """Buy no more. False: that was said before, or there is nothing to wait for."""
        if self.halted or self._outcomes is None:
            return False
        self.halted = True
        self.report.say("stopping: what is in flight is waited for (Ctrl-C again leaves at once)")
        self._outcomes.stop()
        return True

    async def run(self, client: Client, in_flight: int) -> None:
        """Buy what is to be bought, and save what comes of it."""
        async with client:
            await writable(self.places.directory)
            if self.places.ledger is not None:
                await client.unresolved()  # takes the ledger, or says who has it
            self.begun = True
            for task in self.plan:
                if task.attempt > 1:  # so that whatever happens, the next run goes on with this attempt
                    self.results.add(record_before(task.row, task.attempt))
            requests = [(task.key, task.row.request) for task in self.plan]
            async with client.map(requests, in_flight=in_flight) as self._outcomes, anyio.create_task_group() as group:
                self.report.watch(self.tally)
                group.start_soon(self._tick)
                slots = anyio.Semaphore(self.save or 1)
                try:
                    async for outcome in self._outcomes:
                        await self._take(outcome, slots, group)
                except BulkStopped as stopped:
                    self.stopped = stopped
                for _ in range(self.save or 1):
                    await slots.acquire()
                self._count()
                group.cancel_scope.cancel()

    async def _take(self, outcome: Outcome, slots: anyio.Semaphore, group: anyio.abc.TaskGroup) -> None:
        task = self.plan[outcome.index]
        record = record_of(task.row, task.attempt, outcome)
        if outcome.result is None or self.save is None:
            state = record.state if outcome.result is None else "completed"
            self._settle(replace(record, state=state))
            return
        await slots.acquire()
        self.tally.saving += 1
        group.start_soon(self._save, outcome.result, record, slots)

    async def _save(self, result: Result, record: Record, slots: anyio.Semaphore) -> None:
        try:
            paths = await result.save(self.places.directory / "files")
            files = tuple(self._file(artifact, path) for artifact, path in zip(result.artifacts, paths, strict=True))
            self._settle(replace(record, state="completed", files=files, urls=()))
        except DownloadFailed as error:
            problem = explain(error)
            self._settle(replace(record, error={"kind": problem.kind, "message": problem.message, "code": error.code}))
        finally:
            self.tally.saving -= 1
            slots.release()

    def _file(self, artifact: Artifact, path: Path) -> dict[str, Any]:
        place = path.relative_to(self.places.directory).as_posix()
        told = {"path": place, "kind": artifact.kind, "bytes": path.stat().st_size, "seed": artifact.seed}
        return {name: fact for name, fact in told.items() if fact is not None}

    def _settle(self, record: Record) -> None:
        """A row has come to its end, for this run."""
        self.results.add(record)
        self.tally.states["waiting"] -= 1
        self.tally.states[record.state] += 1
        self.tally.ended += 1
        if (text := trouble(record)) is not None:
            self.tally.errors.append(text)
        self.report.row(record)

    def _count(self) -> None:
        if self._outcomes is not None:
            statistics = self._outcomes.statistics()
            self.tally.in_flight = statistics.in_flight
            self.tally.spent = statistics.cost

    async def _tick(self) -> None:
        while True:
            self._count()
            self.report.tick()
            await anyio.sleep(_TICK)

    def conclude(self) -> None:
        """Write the results and the page, whatever has happened."""
        if not self.places.directory.is_dir():
            return
        order = [row.key for row in self.rows]
        self.results.close(order)
        known = self.results.records
        records = [
            replace(known[row.key], line=row.line) if row.key in known else record_before(row, 1) for row in self.rows
        ]
        seconds = self.tally.seconds if self.plan else 0.0
        write_page(self.places.page, records, title=self.title, now=datetime.now(UTC), seconds=seconds)
        self.report.done(self.tally, [path for path in (self.places.results, self.places.page) if path.exists()])

    def code(self) -> int:
        """The exit code.

        Raises:
            KeyboardInterrupt: The user stopped it.
        """
        if self.stopped is not None:
            problem = explain(self.stopped)
            self.report.failed(problem)
            return problem.code
        states = self.tally.states
        if states["unknown"] and self.places.ledger is not None:
            ledger = shlex.join(["--ledger", str(self.places.ledger)])
            self.report.say(f"what may have been bought is listed by: kling jobs {ledger}; then run this again")
        if self.halted and states["waiting"]:
            raise KeyboardInterrupt
        ends = (
            ("unknown", UNKNOWN),
            ("failed", FAILED),
            ("refused", FAILED),
            ("running", FAILED),
            ("waiting", UNREACHABLE),
            ("unsaved", UNSAVED),
        )
        return next((code for state, code in ends if states[state] > 0), 0)

"""One run of ``kling bulk``: rows are bought, files are saved, and everything that happens is recorded."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import anyio

from kling_async import BulkStopped, Client, DownloadFailed, KlingError, Outcome, Result
from kling_async._cli.bulk.html_report import write_page
from kling_async._cli.bulk.other_runs import refuse_overlap
from kling_async._cli.bulk.plan import OutputPaths, Task, record_before
from kling_async._cli.bulk.progress import BulkProgress
from kling_async._cli.bulk.results import Results, makers
from kling_async._cli.bulk.run_lock import run_lock
from kling_async._cli.bulk.store import RunStore
from kling_async._cli.errors import FAILED, UNKNOWN, UNREACHABLE, UNSAVED, CommandError, explain
from kling_async._cli.file_names import ensure_writable
from kling_async._cli.output.events import JobStarted, RowDone, RunDone, RunProgressed, RunStarted
from kling_async._cli.output.formatting import error_line, plural
from kling_async._cli.output.reports import Report
from kling_async._cli.webhook_listener import Listener
from kling_async._rows.reader import Row, Shard
from kling_async._rows.records import Record, described, record_of

__all__ = ["BulkExecution"]

_TICK = 0.25  # s between two updates of the run's progress
_COPIED_EVERY = 60.0  # s between two copies of the results to an object store


class Counts(Protocol):
    """How far rows have come."""

    @property
    def in_flight(self) -> int: ...

    @property
    def done(self) -> int: ...


class Outcomes(Protocol):
    """Rows that are being bought."""

    def stop(self) -> None: ...

    def statistics(self) -> Counts: ...


@dataclass(slots=True)
class BulkExecution:
    """One run: rows go in, records come out."""

    rows: Sequence[Row]
    plan: Sequence[Task]
    results: Results
    report: Report
    places: OutputPaths
    title: str
    save: int | None
    """How many results are saved at once. If None, none is saved."""
    shard: Shard | None = None
    listener: Listener | None = None
    name: str | None = None
    """The template for the names of the files. If None, they are named after the jobs."""
    progress: BulkProgress = field(init=False)
    begun: bool = False
    """Whether the output directory is ours."""
    halted: bool = False
    stopped: BulkStopped | None = None
    _outcomes: Outcomes | None = None
    _bought_before: frozenset[str] = frozenset()
    _made: int = 0
    """Rows with a result about which nothing more is to be done."""

    def __post_init__(self) -> None:
        todo = {task.row.key for task in self.plan}
        known = self.results.records
        states: Counter[str] = Counter("waiting" if row.key in todo else known[row.key].state for row in self.rows)
        self.progress = BulkProgress(len(self.rows), states, todo=len(todo))

    def stop(self) -> bool:
        """Buy no more rows. Return False if that was asked before, or there is nothing to wait for."""
        if self.halted or self._outcomes is None:
            return False
        self._outcomes.stop()
        self._count()  # without the rows that waited, which are not bought
        self.halted = self.progress.stopping = True
        running = [plural(self.progress.in_flight, "running job")] if self.progress.in_flight else []
        running += [plural(self.progress.saving, "download")] if self.progress.saving else []
        waiting = f"; waiting for {' and '.join(running)} (Ctrl-C again exits at once)" if running else ""
        self.report.say(f"stopping: no further row is bought{waiting}")
        return True

    async def run(self, client: Client, in_flight: int) -> None:
        """Buy what is to be bought, and save what comes of it."""
        async with client, self.listener.receiving(client) if self.listener else nullcontext():
            await self.ensure_writable()
            with run_lock(self.places.results):
                if self.places.ledger is not None:
                    await client.unresolved()  # opens the ledger, or raises
                await self.begin()
                try:
                    await self._buy(client, in_flight)
                finally:
                    with anyio.CancelScope(shield=True):
                        self.report.interrupt_note = await self._interrupt_note(client)

    async def ensure_writable(self) -> None:
        """Make sure that the results can be saved.

        Raises:
            ConfigurationError: They cannot.
        """
        await ensure_writable(self.places.directory)
        if self.places.store is not None:
            await ensure_writable(self.places.store.url)

    async def begin(self) -> None:
        """Take the output directory.

        Raises:
            CommandError: Another run has it, or may buy the same rows.
        """
        # Again, now that we own our ledger: of two runs that start at once, at least one sees the other.
        self._bought_before = await refuse_overlap(self.plan, self.places, self.shard)
        if self.places.store is not None:
            await self.places.store.claim(self.places.results)
        self.begun = True
        for task in self.plan:
            if task.record.attempt > 1:  # so that in every case the next run goes on with this attempt
                self.results.add(task.record)

    async def _buy(self, client: Client, in_flight: int) -> None:
        requests = [(task.key, task.row.request) for task in self.plan]
        async with client.map(requests, in_flight=in_flight) as outcomes, self.watching(outcomes) as group:
            slots = anyio.Semaphore(self.save or 1)
            try:
                async for outcome in outcomes:
                    await self._take(outcome, slots, group)
            except BulkStopped as stopped:
                self.stopped = stopped
            for _ in range(self.save or 1):
                await slots.acquire()

    @asynccontextmanager
    async def watching(self, outcomes: Outcomes) -> AsyncIterator[anyio.abc.TaskGroup]:
        """Show the progress while rows are bought, and copy the results to the store."""
        self._outcomes = outcomes
        async with anyio.create_task_group() as group:
            self.report.emit(RunStarted(self.progress))
            group.start_soon(self._tick)
            if self.places.store is not None:
                group.start_soon(self._publish, self.places.store)
            yield group
            self._count()
            group.cancel_scope.cancel()

    async def _interrupt_note(self, client: Client) -> str:
        """The message if the run is interrupted: what it has bought, and how to go on."""
        ledger, running = self.places.ledger, client.jobs
        advice = "The same command goes on"
        if ledger is not None:
            advice = f"{advice}, and buys nothing twice"
            ours = {task.key for task in self.plan}
            try:
                unknown = sum(s.key in ours and s.ref is None for s in await client.unresolved())
            except KlingError as error:
                return f"{_sums(client, 0)}, as far as is known: {explain(error).message}. {advice}"
            lists = f"; `{_listing(ledger)}` lists them" if running or unknown else ""
            return f"{_sums(client, unknown)}{lists}. {advice}"
        for job in running:
            self.report.emit(JobStarted(job.ref))
        unknown = self.progress.states["unknown"] + max(self.progress.in_flight - len(running), 0)
        if running or unknown:
            advice = "No ledger has them (--no-ledger): check the account before you give the same command again"
        return f"{_sums(client, unknown)}. {advice}"

    async def _take(self, outcome: Outcome, slots: anyio.Semaphore, group: anyio.abc.TaskGroup) -> None:
        task = self.plan[outcome.index]
        record = record_of(task.record, outcome)
        if task.key not in self._bought_before:
            self.progress.add_cost(record)
        if outcome.result is None or self.save is None:
            state = record.state if outcome.result is None else "completed"
            self.record(replace(record, state=state))
            return
        await slots.acquire()
        group.start_soon(self._save, outcome.result, record, slots)

    async def _save(self, result: Result, record: Record, slots: anyio.Semaphore) -> None:
        try:
            store = self.places.store
            place = self.places.directory / "files" if store is None else store.files
            paths = await result.save(place, name=self.name)
            saved = zip(result.artifacts, paths, strict=True)
            files = [await self.file_of(path, artifact.kind, artifact.seed) for artifact, path in saved]
            self.record(replace(record, state="completed", files=tuple(files), urls=()))
        except DownloadFailed as error:
            self.record(replace(record, error=described(error)))
        finally:
            slots.release()

    async def file_of(self, saved: Path | str, kind: str, seed: int | None) -> dict[str, Any]:
        """What `results.jsonl` has of a saved file."""
        store = self.places.store
        if store is not None:
            place, size = str(saved).removeprefix(f"{store.url}/"), await store.size(str(saved))
        else:
            path = Path(saved).absolute()  # noqa: ASYNC240  # it asks for the working directory
            place = path.relative_to(self.places.directory.absolute()).as_posix()
            size = path.stat().st_size
        facts = {"path": place, "kind": kind, "bytes": size, "seed": seed}
        return {name: fact for name, fact in facts.items() if fact is not None}

    def record(self, record: Record) -> None:
        """A row has come to its end, for this run."""
        self._made += record.state in {"completed", "unsaved"}
        self.results.add(record)
        self.progress.states["waiting"] -= 1
        self.progress.states[record.state] += 1
        self.progress.ended += 1
        self._count()
        if (text := error_line(record)) is not None and not record.stopped_by:
            self.progress.errors.append(text)
        self.report.emit(RowDone(record))

    def _count(self) -> None:
        if self._outcomes is not None:
            statistics = self._outcomes.statistics()
            self.progress.in_flight = statistics.in_flight
            self.progress.saving = max(statistics.done - self._made, 0)  # also those that wait for their turn

    async def _publish(self, store: RunStore) -> None:
        """Copy the results to the store once a minute."""
        while True:
            await anyio.sleep(_COPIED_EVERY)
            try:
                await store.publish([self.places.results])
            except CommandError as error:  # the end of the run tries again, and its failure counts
                self.report.say(str(error))

    async def _tick(self) -> None:
        while True:
            self._count()
            self.report.emit(RunProgressed())
            await anyio.sleep(_TICK)

    def conclude(self) -> None:
        """Write the results and the page, even after a failure."""
        if not self.places.directory.is_dir():
            return
        order = [row.key for row in self.rows]
        self.results.close(order)
        known = self.results.records
        records = [
            replace(known[row.key], line=row.line) if row.key in known else record_before(row, self.places.directory)
            for row in self.rows
        ]
        seconds = self.progress.seconds if self.plan else 0.0
        write_page(self.places.page, records, title=self.title, now=datetime.now(UTC), seconds=seconds)
        self.progress.over = True
        outputs: Sequence[Path | str] = [path for path in (self.places.results, self.places.page) if path.exists()]
        if self.places.store is not None:
            outputs = anyio.run(self.places.store.publish, [self.places.results, self.places.page])
        cause = self.stopped.cause if self.stopped is not None else None
        self.report.emit(RunDone(self.progress, outputs, type(cause).__name__ if cause is not None else None))
        for line in makers(records):
            self.report.say(f"made by {line}")

    def code(self) -> int:
        """The exit code.

        Raises:
            KeyboardInterrupt: The user stopped it.
        """
        if self.stopped is not None:
            problem = explain(self.stopped)
            self.report.failed(problem)
            return problem.code
        states = self.progress.states
        if self.halted and states["waiting"]:
            raise KeyboardInterrupt
        if states["unknown"] and self.places.ledger is not None:
            self.report.say(
                f"what may have been bought is listed by: {_listing(self.places.ledger)}; then run this again"
            )
        ends = (
            ("unknown", UNKNOWN),
            ("failed", FAILED),
            ("refused", FAILED),
            ("running", FAILED),
            ("waiting", UNREACHABLE),
            ("unsaved", UNSAVED),
        )
        return next((code for state, code in ends if states[state] > 0), 0)


def _listing(ledger: Path) -> str:
    """The command that lists what a ledger has unfinished."""
    return shlex.join(["kling", "jobs", "--ledger", str(ledger), "--unfinished"])


def _sums(client: Client, unknown: int) -> str:
    """What a client has bought, in a clause."""
    bought, running = client.statistics().submitted, len(client.jobs)
    sums = [f"{_jobs(bought)} bought"] if bought or not unknown else []
    sums += [f"{running} {'go' if running > 1 else 'goes'} on at the provider"] if running else []
    sums += [f"of {unknown} submission{'s' if unknown > 1 else ''} the outcome is not known"] if unknown else []
    return ", ".join(sums)


def _jobs(count: int) -> str:
    return {0: "nothing was", 1: "1 job was"}.get(count, f"{count} jobs were")

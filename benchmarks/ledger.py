"""What the ledger costs: durable writes a second, and how long they block the event loop.

    python -m benchmarks.ledger [--quick] [--directory DIR] [--postgres DSN] [--concurrency N]

Each of 1, 10, 100, 1 000 and 10 000 tasks writes one job after the other, as the client does: intent, acceptance, three
events, of which the first comes with the acceptance. So a fifth of what is written are submissions. Another task
measures the longest time for which the event loop did not come round. Compared:

- `SqliteLedger`: one writer thread, group commit, `synchronous=FULL`.
- `PostgresLedger`, with `--postgres`: in schemas of its own, which are removed afterwards.
- with `--concurrency`: the same ledgers, whose claims keep within a limit on the jobs at once.
- one commit for each write in a worker thread, with the same SQL and settings.
- one commit for each write on the event loop.

The file lies in a temporary directory (`--directory`: its place, because the disk decides what a commit costs). Writes
`benchmarks/results/ledger.{md,json}`.
"""

import argparse
import asyncio
import contextlib
import json
import platform
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.process import cpu_seconds
from kling_async import Event, JobRef, Ledger, PostgresLedger, SqliteLedger, Status, Submission, SubmissionState
from kling_async._ledger import sqlite_leases
from kling_async._ledger.group_commit import Kind
from kling_async._ledger.protocol import Slot

DATABASE = ""  # its address
SLOT: Slot | None = None  # what a claim takes
RESULTS = Path(__file__).parent / "results"
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
STATUSES = (Status.PENDING, Status.PROCESSING, Status.COMPLETED)
WRITES = 2 + len(STATUSES)  # for each job
REQUEST = {"prompt": "a paper boat in the rain, " * 10, "duration": 5, "aspect_ratio": "16:9", "model": "kling_o3"}


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        ledger: Which one.
        tasks: Tasks that wrote at once.
        writes: Durable writes that were made.
        seconds: What they took.
        stall: The longest time that the event loop did not come round, in seconds.
        cpu: What this process computed meanwhile, in seconds. A database server computes besides.
    """

    ledger: str
    tasks: int
    writes: int
    seconds: float
    stall: float
    cpu: float

    @property
    def rate(self) -> float:
        """Writes a second."""
        return self.writes / self.seconds

    @property
    def cpu_per_job(self) -> float:
        """Microseconds of CPU for the writes of a job."""
        return 1e6 * self.cpu / self.writes * WRITES


class _OneCommitEach(SqliteLedger):
    """The same file and SQL, written without a queue: each write is a transaction of its own."""

    threaded = True

    async def _perform(self, kind: Kind, argument: Any, keep: str | None = None, *, shielded: bool = False) -> Any:
        del shielded
        if not hasattr(self, "_file"):
            await super()._perform(kind, argument, keep)  # makes the tables
            await super().aclose()
            self._file = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA synchronous = FULL")
            sqlite_leases.prepare(self._file, None)
            self._turn = asyncio.Lock()

        def commit() -> Any:
            self._file.execute("BEGIN IMMEDIATE")
            [value] = kind(self._file, [argument])
            self._file.execute("COMMIT")
            return value

        async with self._turn:
            return await asyncio.to_thread(commit) if self.threaded else commit()

    async def aclose(self) -> None:
        self._file.close()


class _OnTheLoop(_OneCommitEach):
    threaded = False


LEDGERS: dict[str, Callable[[Path], Ledger]] = {
    "SqliteLedger": SqliteLedger,
    "PostgresLedger": lambda path: PostgresLedger(DATABASE, schema=f"benchmark_{path.stem}"),
    "commit each, worker thread": _OneCommitEach,
    "commit each, on the loop": _OnTheLoop,
}


async def _write_job(ledger: Ledger, number: int) -> None:
    ref = JobRef("runblob", "o3-video", f"job-{number}")
    submission = Submission(
        key=f"row-{number}",
        endpoint="runblob/o3-video",
        request=REQUEST,
        fingerprint="f" * 64,
        attempt_id=f"purchase-{number}",
        started=NOON,
    )
    shared: Any = ledger
    await shared.claim(submission, None, SLOT)
    first, *later = [Event(seq, status, NOON, float(seq), "poll") for seq, status in enumerate(STATUSES)]
    await ledger.record_outcome(replace(submission, state=SubmissionState.ACCEPTED, ref=ref, latest=first))
    for event in later:
        await ledger.append_events(ref, [event])


class Stopwatch:
    """Measures the longest time for which the event loop was blocked."""

    def __init__(self) -> None:
        self._longest, self._last = 0.0, time.perf_counter()

    def read(self) -> float:
        """The longest so far, in seconds."""
        now = time.perf_counter()
        self._longest, self._last = max(self._longest, now - self._last), now
        return self._longest

    async def run(self) -> None:
        """Keep the time, until cancelled."""
        while True:
            await asyncio.sleep(0)
            self.read()


async def idle(seconds: float) -> float:
    """The longest time for which a loop with nothing to do did not come round: what the machine itself adds."""
    stopwatch = Stopwatch()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopwatch.run()
    return stopwatch.read()


async def measure(name: str, tasks: int, seconds: float, directory: Path) -> Figure:
    """Let `tasks` tasks write jobs for about `seconds` seconds."""
    ledger = LEDGERS[name](directory / f"{name}-{tasks}.db".replace(" ", "-"))
    await ledger.get_value("opens the file")
    done = 0
    ends = time.perf_counter() + seconds

    async def write(task: int) -> None:
        nonlocal done
        number = task
        while time.perf_counter() < ends or number == task:
            await _write_job(ledger, number)
            number += tasks
            done += 1

    began, cpu = time.perf_counter(), cpu_seconds()
    stopwatch = Stopwatch()
    watcher = asyncio.create_task(stopwatch.run())
    async with asyncio.TaskGroup() as group:
        for task in range(tasks):
            group.create_task(write(task))
            if task % 50 == 0:
                await asyncio.sleep(0)
    took, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    stall = stopwatch.read()
    watcher.cancel()
    await ledger.aclose()
    return Figure(name, tasks, done * WRITES, took, stall, cpu)


def table(figures: Sequence[Figure], seconds: float, noise: float) -> str:
    """The figures as Markdown."""
    levels = sorted({figure.tasks for figure in figures})
    lines = [
        "# The ledger",
        "",
        f"`python -m benchmarks.ledger`, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}.",
        "",
        f"Durable writes a second, over {seconds:g} s. In brackets: ms for which the event loop did not come round.",
        "",
        f"A loop with nothing to do did not come round for {1000 * noise:.1f} ms on this machine.",
        "",
        "| | " + " | ".join(f"{level:,} tasks" for level in levels) + " |",
        "|---|" + "---:|" * len(levels),
    ]
    rates: dict[str, dict[int, Figure]] = {name: {f.tasks: f for f in figures if f.ledger == name} for name in LEDGERS}
    for name, row in rates.items():
        cells = [f"{row[level].rate:,.0f} ({1000 * row[level].stall:.1f})" if level in row else "" for level in levels]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Microseconds of CPU in this process, for the writes of a job:", ""]
    lines += ["| | " + " | ".join(f"{level:,} tasks" for level in levels) + " |", "|---|" + "---:|" * len(levels)]
    for name, row in rates.items():
        cells = [f"{row[level].cpu_per_job:,.0f}" if level in row else "" for level in levels]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
    ours, naive = rates["SqliteLedger"], rates["commit each, worker thread"]
    cells = [f"{ours[level].rate / naive[level].rate:.1f}" if level in naive else "" for level in levels]
    lines += ["SqliteLedger, how many times as many writes as one commit each in a worker thread:", ""]
    lines += ["| " + " | ".join(f"{level:,} tasks" for level in levels) + " |", "|" + "---:|" * len(levels)]
    lines += ["| " + " | ".join(cells) + " |", ""]
    return "\n".join(lines)


def drop_schemas() -> None:
    """Remove what `PostgresLedger` has written here."""
    import psycopg  # noqa: PLC0415  # only where a database is given

    with psycopg.connect(DATABASE, autocommit=True) as connection:
        rows = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'benchmark\\_%'").fetchall()
        for (name,) in rows:
            connection.execute(psycopg.sql.SQL("DROP SCHEMA {} CASCADE").format(psycopg.sql.Identifier(name)))


def main() -> None:
    global DATABASE, SLOT  # noqa: PLW0603  # set once, at the start
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="half a second each instead of three")
    parser.add_argument("--directory", help="where the files are written")
    parser.add_argument("--concurrency", type=int, help="a limit on the jobs at once, large enough for all tasks")
    parser.add_argument("--postgres", default="", help="the address of a PostgreSQL database to measure as well")
    arguments = parser.parse_args()
    DATABASE = arguments.postgres
    SLOT = Slot("runblob benchmark", arguments.concurrency)
    if not DATABASE:
        del LEDGERS["PostgresLedger"]
    seconds = 0.5 if arguments.quick else 3.0
    figures = []
    noise = asyncio.run(idle(seconds))
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        for name in LEDGERS:
            for tasks in (1, 10, 100, 1_000, 10_000):
                if name == "PostgresLedger":
                    drop_schemas()
                if tasks == 10_000 and name.startswith("commit each"):
                    continue  # one job for each task would take minutes
                figures.append(asyncio.run(partial(measure, name, tasks, seconds, Path(directory))()))
                shown = figures[-1]
                print(f"{name}, {tasks:,} tasks: {shown.rate:,.0f}/s, {1000 * shown.stall:.1f} ms", flush=True)
    if DATABASE:
        drop_schemas()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ledger.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    (RESULTS / "ledger.md").write_text(table(figures, seconds, noise))
    print((RESULTS / "ledger.md").read_text())


if __name__ == "__main__":
    main()

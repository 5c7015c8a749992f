"""What runs in an actor: one client, which generates the rows of many blocks.

Theory of operation
-------------------
An actor has an event loop in a thread of its own, and a client there. Ray calls the actor in other threads, once for
each block of rows. All blocks share the client: its connections, its ledger, its limits, and the number of jobs that
may run at once.

Ray repeats a block whose actor or node died. The rows of the block have keys, and the ledger knows which keys were
paid for. So the repeated block finds its jobs, and buys only what was not bought before. What a block returns has the
order of its rows, because Ray may take one part of it from the first time and another part from the second time.
"""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio
from anyio.from_thread import start_blocking_portal

from kling_async import (
    BulkRun,
    BulkStopped,
    Client,
    InsufficientCredits,
    KlingError,
    LedgerFailed,
    Outcome,
    Request,
    Unauthorized,
)
from kling_async._ledger.protocol import NOT_STORABLE
from kling_async._ray.settings import Settings
from kling_async._rows.reader import BadRow, Cells, Row, RowReader
from kling_async._rows.records import Record, described, record_of

__all__ = ["COLUMNS", "Task", "Worker"]

COLUMNS = (
    "key",
    "status",
    "endpoint",
    "ref",
    "cost",
    "unit",
    "files",
    "urls",
    "error",
    "error_kind",
    "error_code",
    "started",
    "elapsed",
)
"""The columns of a generated row."""


@dataclass(frozen=True, slots=True)
class Task:
    """A row to be bought.

    Attributes:
        place: A number of the caller's.
        key: The key of the purchase.
        request: What is to be generated.
        record: What is known of it before.
    """

    place: int
    key: str
    request: Request
    record: Record


class Worker:
    """Generates rows. Ray makes one in each actor. See the module.

    Args:
        settings: How.

    Raises:
        ConfigurationError: The client cannot be made.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._thread = start_blocking_portal("asyncio", name="kling_async")
        self._portal = self._thread.__enter__()
        self._stopped: dict[str | None, KlingError] = {}  # by provider, why nothing is bought there. None: nowhere
        self._halted = False
        self._runs: set[BulkRun] = set()  # one for each block
        self._slots: anyio.Semaphore
        self._client: Client
        self._portal.call(self._open)

    async def _open(self) -> None:
        self._slots = anyio.Semaphore(self._settings.in_flight)
        arguments = dict(self._settings.client)
        budget = arguments.pop("budget")
        self._client = Client(
            **arguments, budget=budget() if budget is not None else None, ledger=self._settings.ledger.open()
        )

    def stop(self) -> None:
        """Submit no more rows. Those of jobs in flight still end, and the others come back as they were."""
        self._portal.call(self._halt)

    def _halt(self) -> None:
        self._halted = True
        for run in self._runs:
            run.stop()

    def close(self) -> None:
        """Close the client and end the thread."""
        self._portal.call(self._client.aclose)
        self._thread.__exit__(None, None, None)

    def generate(self, rows: Sequence[Cells]) -> list[dict[str, Any]]:
        """Generate the rows of a block. Returns what has become of each, in their order."""
        reader = RowReader(**self._settings.reader)
        found: list[Record | None] = [None] * len(rows)
        tasks = []
        for place, cells in enumerate(rows):
            row = reader.parse(0, cells)
            if not isinstance(row, Row):
                found[place] = _refused(cells, row)
            elif not row.named:  # rows without a column of keys were given one before: this column has gaps
                missing = BadRow(0, "key", "it is missing; name every row, or leave the column out")
                found[place] = _refused(cells, [missing])
            else:
                record = Record(row.key, row.digest, row.line, row.endpoint.name, "waiting")
                tasks.append(Task(place, row.key, row.request, record))
        for place, record in self.stream(tasks):
            found[place] = record
        return [_fields(record) for record in found if record is not None]

    def stream(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Record]]:
        """Generate rows, and yield what has become of each as it ends, with its place."""
        ended: queue.SimpleQueue[tuple[int, Record] | None] = queue.SimpleQueue()

        async def pump() -> None:
            try:
                async for task, record in self._generate(tasks):
                    ended.put((task.place, record))
            finally:
                ended.put(None)

        future = self._portal.start_task_soon(pump)
        try:
            while (one := ended.get()) is not None:
                yield one
            future.result()
        finally:
            future.cancel()

    async def _generate(self, tasks: Sequence[Task]) -> AsyncIterator[tuple[Task, Record]]:
        left = {task.place: task for task in tasks}
        cause: KlingError | None = None
        try:
            async for task, outcome in self._outcomes([task for task in tasks if self._stop_of(task) is None]):
                if (
                    isinstance(outcome.error, LedgerFailed)
                    and outcome.job is None
                    and outcome.error.code != NOT_STORABLE
                ):
                    continue  # it was not submitted. `BulkStopped` follows
                del left[task.place]
                yield task, _ended(task, outcome)
        except BulkStopped as stopped:
            cause = stopped.cause or stopped
            of_provider = isinstance(cause, Unauthorized | InsufficientCredits)
            self._stopped[cause.provider if of_provider else None] = cause  # no other block tries it again
        except KlingError as error:
            cause = error
        for task in left.values():
            yield task, _waiting(task, self._stop_of(task) or cause)

    def _stop_of(self, task: Task) -> KlingError | None:
        """Why a row is not submitted any more. None if it is."""
        return self._stopped.get(None) or self._stopped.get(task.record.endpoint.partition("/")[0])

    async def _outcomes(self, tasks: Sequence[Task]) -> AsyncIterator[tuple[Task, Outcome]]:
        """Buy rows. Of all blocks together, no more are under way than the settings allow."""
        taken = 0

        async def source() -> AsyncIterator[tuple[str, Request]]:
            nonlocal taken
            for task in tasks:
                await self._slots.acquire()
                if self._halted:
                    self._slots.release()
                    return
                taken += 1
                yield task.key, task.request

        try:
            async with self._client.map(source(), in_flight=max(len(tasks), 1), **self._settings.run) as outcomes:
                self._runs.add(outcomes)
                try:
                    async for outcome in outcomes:
                        taken -= 1
                        self._slots.release()
                        yield tasks[outcome.index], outcome
                finally:
                    self._runs.discard(outcomes)
        finally:
            for _ in range(taken):
                self._slots.release()


def _ended(task: Task, outcome: Outcome) -> Record:
    record = record_of(task.record, outcome)
    if outcome.result is None:
        return record
    files = [
        {"path": str(file), "kind": artifact.kind, **({} if artifact.seed is None else {"seed": artifact.seed})}
        for artifact, file in zip(outcome.result.artifacts, outcome.files, strict=False)
    ]
    return replace(record, state="completed" if outcome.error is None else "unsaved", files=tuple(files))


def _refused(cells: Cells, problems: Sequence[BadRow]) -> Record:
    """A row that is not valid."""
    key, endpoint = (str(cells.get(name) or "") for name in ("key", "endpoint"))
    words = "; ".join(f"{problem.field}: {problem.reason}" for problem in problems)
    error = {"kind": "InvalidRequest", "message": f"{words}; nothing was bought", "code": None}
    return Record(key, "", 0, endpoint, "refused", error=error)


def _waiting(task: Task, cause: KlingError | None) -> Record:
    """A row that was not submitted. The same run, made again, submits it."""
    if cause is None:
        return task.record
    return replace(task.record, error=described(cause, "not submitted: "))


def _fields(record: Record) -> dict[str, Any]:
    """The columns of a generated row. See `COLUMNS`."""
    error = record.error or {}
    cost = record.reported_cost
    return {
        "key": record.key,
        "status": record.state,
        "endpoint": record.endpoint,
        "ref": record.ref,
        "cost": float(cost.amount) if cost is not None else None,
        "unit": cost.unit if cost is not None else None,
        "files": [str(file["path"]) for file in record.files],
        "urls": list(record.urls),
        "error": error.get("message"),
        "error_kind": error.get("kind"),
        "error_code": error.get("code"),
        "started": record.started,
        "elapsed": record.elapsed,
    }

"""A program of which several share a ledger, and of which some are killed. Run in processes of their own."""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio

from kling_async import (
    Client,
    JobRef,
    Ledger,
    LedgerFailed,
    Limits,
    Polling,
    PostgresLedger,
    Progressive,
    RunBlob,
    SqliteLedger,
    SubmissionUnknown,
)
from kling_async.providers.runblob import O3Photo
from support.program import fork_server

__all__ = ["LEASE", "Notes", "Poll", "Team", "Watched", "make_client", "postgres", "run", "sqlite"]

LEASE = 2.0  # s
_AT_ONCE = 40
_PATIENCE = 120.0  # s


def sqlite(place: str) -> Ledger:
    """The ledger in a file."""
    return SqliteLedger(place, lease=LEASE)


def postgres(place: str) -> Ledger:
    """The ledger on a server."""
    return PostgresLedger(place, lease=LEASE)


@dataclass(frozen=True, slots=True)
class Poll:
    """A status call, as the process that made it saw it. Times are of the clock that all processes share.

    Attributes:
        process: Who made it.
        ref: About which job.
        begin: When, in seconds.
        end: When it was over. None if its process was killed meanwhile.
    """

    process: int
    ref: str
    begin: float
    end: float | None


class Notes:
    """What processes write down as they work, so that it can be read when they were killed.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, what: str, ref: JobRef) -> None:
        """Note that something happens to a job now."""
        os.write(self._file, f"{what} {os.getpid()} {ref} {time.monotonic()}\n".encode())

    def polls(self) -> Iterator[Poll]:
        """The status calls, in the order of their ends."""
        begun: dict[tuple[int, str], float] = {}
        for what, process, ref, moment in self._read():
            if what == "begin":
                begun[process, ref] = moment
            elif what == "end":
                yield Poll(process, ref, begun.pop((process, ref)), moment)
        for (process, ref), begin in begun.items():
            yield Poll(process, ref, begin, None)

    def waits(self) -> dict[tuple[str, int], float]:
        """Since when each process waited for each job, by job and process."""
        return {(ref, process): moment for what, process, ref, moment in self._read() if what == "wait"}

    def _read(self) -> Iterator[tuple[str, int, str, float]]:
        for line in self._path.read_text().splitlines():
            what, process, ref, moment = line.split()
            yield what, int(process), ref, float(moment)


class Watched(RunBlob):
    """Notes its status calls.

    Args:
        api_key: Same as `RunBlob`.
        base_url: Same as `RunBlob`.
        notes: Where.
    """

    def __init__(self, api_key: str, base_url: str, notes: Notes) -> None:
        super().__init__(api_key, base_url)
        self._notes = notes

    def poll(self, refs: Sequence[JobRef]) -> Any:
        """The same, and note when it begins and ends."""
        [ref] = refs
        self._notes.write("begin", ref)
        try:
            return (yield from super().poll(refs))
        finally:
            self._notes.write("end", ref)


def make_client(provider: RunBlob, ledger: Ledger, limit: float = math.inf, concurrency: int | None = None) -> Client:
    """The client of each process: so many status calls a minute, and so many jobs at once, at most."""
    polling = Polling(schedule=Progressive(0.05), status_calls_per_minute=limit, deadline=600)
    return Client(provider, ledger=ledger, polling=polling, limits=Limits(concurrency=concurrency))


def run(  # the facts of one process, each by its name
    ready: Connection,
    seller: Mapping[str, str],
    opened: Callable[[str], Ledger],
    place: str,
    path: Path,
    keys: Sequence[str],
    limit: float,
    seed: int,
    *,
    concurrency: int | None = None,
) -> None:
    """Submit all keys, in an order of its own, and wait for their jobs."""
    mine = list(keys)
    notes = Notes(path)
    random.Random(seed).shuffle(mine)

    async def work(client: Client) -> None:
        while mine:
            key = mine.pop()
            try:
                job = await client.submit(O3Photo(f"a boat for {key}", resolution="1k"), key=key)
            except SubmissionUnknown:  # its sender was killed. The test counts these
                continue
            except LedgerFailed as error:
                if not error.temporary:
                    raise
                mine.append(key)  # the machine did not let this process run for as long as its lease lasts
                continue
            notes.write("wait", job.ref)
            await job

    async def main() -> None:
        provider = Watched(seller["api_key"], seller["base_url"], notes)
        async with make_client(provider, opened(place), limit, concurrency) as client:
            ready.send(None)
            async with anyio.create_task_group() as group:
                for _ in range(_AT_ONCE):
                    group.start_soon(work, client)

    anyio.run(main)


class Team:
    """Processes that all submit the same keys.

    Args:
        seller: Where they buy.
        opened: Opens the ledger.
        place: Where it is.
        notes: The file of their notes.
        keys: What they submit.
        limit: Status calls a minute.
        concurrency: How many jobs may run at once. If None, there is no limit.
    """

    def __init__(
        self,
        seller: Mapping[str, str],
        opened: Callable[[str], Ledger],
        place: str,
        notes: Path,
        keys: Sequence[str],
        limit: float = math.inf,
        concurrency: int | None = None,
    ) -> None:
        self._arguments = (seller, opened, place, notes, keys, limit)
        self._concurrency = concurrency
        self._context = fork_server()
        self.running: list[Any] = []
        self.killed: dict[int, float] = {}  # when, by process
        self._started = 0

    def start(self) -> None:
        """Start one more, and wait until it works."""
        receiving, sending = self._context.Pipe(duplex=False)
        arguments = (sending, *self._arguments, self._started)
        process = self._context.Process(target=run, args=arguments, kwargs={"concurrency": self._concurrency})
        process.start()
        assert receiving.poll(_PATIENCE)
        self.running.append(process)
        self._started += 1

    def kill(self, index: int) -> None:
        """Kill one, if it is still at work."""
        process = self.running.pop(index)
        if process.is_alive():
            process.kill()
            process.join()
            self.killed[process.pid] = time.monotonic()

    def join(self) -> None:
        """Wait until all have ended."""
        for process in self.running:
            process.join(_PATIENCE)
            assert process.exitcode == 0

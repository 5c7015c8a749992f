"""The fault matrix of the ledger on real sockets and real files, judged by the sandbox's counters."""

from __future__ import annotations

import asyncio
import math
import os
import random
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from subprocess import run
from typing import Any
from unittest import mock

import anyio
import pytest
import trio

from kling_async import (
    Client,
    Job,
    KeyConflict,
    LedgerFailed,
    Limits,
    Polling,
    Progressive,
    RunBlob,
    SqliteLedger,
    Status,
    Submission,
    SubmissionState,
    SubmissionUnknown,
    inferencesh,
    inspect_ledger,
    runware,
)
from kling_async._ledger.rows import submission_from_row
from kling_async.providers.runblob import O3Photo
from kling_async.sandbox import Fault, Sandbox
from support import crash_process as victim
from support.program import fork_server
from support.remote_sandbox import RemoteSandbox

PHOTO = O3Photo("a boat", resolution="1k")
QUICK = Polling(schedule=Progressive(0.05), status_calls_per_minute=math.inf, deadline=60)


def make_client(sandbox: Sandbox, path: Path, **settings: Any) -> Client:
    [provider] = [provider for provider in sandbox.providers() if provider.name == "runblob"]
    return Client(provider, ledger=SqliteLedger(path), polling=QUICK, **settings)


# Row 15


class _CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that calls `moment` after each of its turns."""

    moment: Callable[[], None] | None = None

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]  # private, and the only place that every turn passes
        if self.moment is not None:
            self.moment()


class _Counting(trio.abc.Instrument):
    """Calls `moment` after each step of a task."""

    moment: Callable[[], None] | None = None

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.moment is not None:
            self.moment()


class _Cancellation:
    """Cancels a scope at the k-th moment, and says whether it came to that."""

    def __init__(self, scope: anyio.CancelScope, moments: int) -> None:
        self.scope, self.left = scope, moments

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("grace", [0.0, 5.0])
def test_cancelled_at_every_moment_of_a_submission(tmp_path: Path, backend: str, grace: float) -> None:
    """Cancelled in the k-th turn of the loop, k = 1 .. n: what was bought is in the ledger as accepted or unknown."""
    instrument = _Counting()
    states: list[SubmissionState | None] = []

    def at(moment: Callable[[], None] | None) -> None:
        if backend == "asyncio":
            loop = asyncio.get_running_loop()
            assert isinstance(loop, _CountingLoop)
            loop.moment = moment
        else:
            instrument.moment = moment

    async def attempt(sandbox: Sandbox, moments: int) -> bool:
        path = tmp_path / f"{moments}.db"
        async with make_client(sandbox, path, limits=Limits(cancel_grace=grace)) as client:
            await client.unresolved()  # opens the file. That is not what is cancelled here
            with anyio.CancelScope() as scope:
                cancellation = _Cancellation(scope, moments)
                at(cancellation)
                await client.submit(PHOTO, key="a")
            at(None)
            found = await client._ledger.ledger.find(key="a")
            states.append(found.state if found else None)
            assert client._submitter._in_flight == {}
            transport = client._sessions["runblob"].transport
            assert (await transport._backends.current()).concurrency.value == client._limits.connections
        return cancellation.left <= 0

    async def main() -> None:
        async with Sandbox(speed=0) as sandbox:
            moments = 1
            while await attempt(sandbox, moments):
                moments += 1
            bought = sandbox.counters.bought["runblob"]
        accepted, unknown = states.count(SubmissionState.ACCEPTED), states.count(SubmissionState.UNKNOWN)
        assert SubmissionState.SENDING not in states
        assert accepted <= bought <= accepted + unknown
        assert moments > 15
        assert accepted > 1 or grace == 0
        assert unknown or grace > 0  # a fast answer leaves few moments for that

    if backend == "asyncio":
        anyio.run(main, backend_options={"loop_factory": _CountingLoop})
    else:
        anyio.run(main, backend="trio", backend_options={"instruments": [instrument]})


# Row 16


@pytest.fixture
def remote() -> Iterator[RemoteSandbox]:
    """A sandbox in a process of its own, whose answers to half of the submissions are slow."""
    faults = ["--fault", "delay:submit:every=2,seconds=0.05"]
    with RemoteSandbox("--speed", "600", *faults) as running:
        yield running


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the killed program is the same. Once is enough
@pytest.mark.slow
async def test_killed_at_twenty_moments_no_job_is_bought_twice_or_forgotten(
    remote: RemoteSandbox, tmp_path: Path
) -> None:
    """`kill -9` of a process with single jobs. The next one takes up, submits the same keys again, and resolves all."""
    seller = remote.providers["runblob"]
    context = fork_server()
    dice = random.Random(20)  # moments
    accepted = unknown = interrupted = 0
    for kill in range(20):
        path = str(tmp_path / f"{kill}.db")
        keys = [f"kill-{kill}-row-{row}" for row in range(victim.ROWS)]
        receiving, sending = context.Pipe(duplex=False)
        arguments = (sending, seller["api_key"], seller["base_url"], path, keys)
        process = context.Process(target=victim.run, args=arguments)
        process.start()
        assert await anyio.to_thread.run_sync(receiving.poll, 20)
        await anyio.sleep(dice.uniform(0.0, 0.4))  # the moment of death: what this test is about
        interrupted += process.is_alive()
        process.kill()
        await anyio.to_thread.run_sync(process.join)
        async with victim.make_client(RunBlob(seller["api_key"], seller["base_url"]), path) as client:
            resumed = await client.resume()
            jobs, lost = await _submit_again(client, keys)
            assert {job.ref for job in resumed} <= {job.ref for job in jobs}
            for job in jobs:
                assert await job.wait() is Status.COMPLETED
                assert [event.seq for event in job.events] == list(range(len(job.events)))
            assert sorted(s.key for s in await client.unresolved()) == sorted(lost)
            assert await client.resume() == []
        assert len(jobs) + len(lost) == len(keys)
        accepted, unknown = accepted + len(jobs), unknown + len(lost)
        counters = await anyio.to_thread.run_sync(remote.counters)
        assert accepted <= counters["bought"].get("runblob", 0) <= accepted + unknown
    assert interrupted >= 15
    assert unknown >= 1


async def _submit_again(client: Client, keys: list[str]) -> tuple[list[Job], list[str]]:
    jobs, lost = [], []
    for key in keys:
        try:
            jobs.append(await client.submit(victim.request(key), key=key))
        except SubmissionUnknown as error:
            lost.append(error.key)
    return jobs, lost


# Rows 18 and 19


@asynccontextmanager
async def full_disk(ledger: SqliteLedger) -> AsyncIterator[None]:
    """No page can be added to the file, which is how SQLite meets a full disk."""

    def limit(connection: sqlite3.Connection) -> None:
        [pages] = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")

    await ledger._read(limit)
    yield
    await ledger._read(lambda connection: connection.execute("PRAGMA max_page_count = 1000000"))


@pytest.mark.anyio
async def test_a_full_disk_stops_submitting_and_keeps_following(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "jobs.db"
    async with make_client(sandbox, path) as client:
        ledger = client._ledger.ledger
        assert isinstance(ledger, SqliteLedger)
        jobs = [await client.submit(PHOTO, key=f"row-{row}") for row in range(10)]
        async with full_disk(ledger):
            stopped = 0
            for row in range(100):  # what space the last page has is used up first
                try:
                    await client.submit(O3Photo("x" * 2500), key=f"more-{row}")
                except LedgerFailed as error:
                    assert "database or disk is full" in str(error)  # noqa: PT017  # how many fail is counted, too
                    stopped += 1
            assert stopped >= 90
            bought = sandbox.counters.bought["runblob"]
            assert bought == 110 - stopped
            for job in jobs:
                assert (await job).urls
        assert "Jobs that run are followed" in caplog.text
        await client.submit(PHOTO, key="space again")
        for job in jobs:
            assert (await ledger.events(job.ref))[-1].status is Status.COMPLETED
    assert sandbox.counters.bought["runblob"] == bought + 1


@pytest.mark.anyio
async def test_a_key_of_another_request_is_refused_in_every_process(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    async with make_client(sandbox, path) as first, make_client(sandbox, path) as second:
        await first.submit(PHOTO, key="a")
        for client in (first, second):
            with pytest.raises(KeyConflict):
                await client.submit(O3Photo("another boat"), key="a")
    assert sandbox.counters.requests["runblob", "submit"] == 1


# Secrets


@pytest.mark.anyio
async def test_no_secret_is_in_the_file(sandbox: Sandbox, tmp_path: Path) -> None:
    """Not the API key, nor a token in a callback address, whether the submission is accepted, refused or lost."""
    path = tmp_path / "jobs.db"
    request = O3Photo("a boat", resolution="1k", callback_url="https://app.test/hooks/t0ken-in-path?t0ken=in-query")
    api_key = sandbox.api_key("runblob")
    async with make_client(sandbox, path) as client:
        await client.run(request, key="accepted")
        sandbox.faults.add(Fault.accept_then_reset, kind="submit", times=1)
        with pytest.raises(SubmissionUnknown):
            await client.submit(request, key="lost")
        stored = await _bytes(tmp_path)
    assert b"a boat" in stored
    assert b"https://app.test/" in stored
    for content in (stored, await _bytes(tmp_path)):
        assert api_key.encode() not in content
        assert b"t0ken" not in content


async def _bytes(directory: Path) -> bytes:
    return b"".join([await file.read_bytes() async for file in anyio.Path(directory).iterdir()])


@pytest.mark.anyio
async def test_the_files_of_a_job_are_known_after_a_restart(sandbox: Sandbox, tmp_path: Path) -> None:
    async with make_client(sandbox, tmp_path / "jobs.db") as client:
        result = await client.run(PHOTO, key="a")
        paths = await result.save(tmp_path / "out")
    began = time.time()
    async with make_client(sandbox, tmp_path / "jobs.db") as client:
        found = await client._ledger.ledger.find(key="a")
        assert found is not None
        assert found.files == tuple(paths)
        job = await client.submit(PHOTO, key="a")
        assert (await job).urls == result.urls
        assert job.events[-1].at.timestamp() < began
        assert await (await job).save(tmp_path / "again")
    assert sandbox.counters.bought["runblob"] == 1


# The ways out, at the providers that give one


@pytest.mark.anyio
async def test_runware_resolves_a_lost_submission_by_itself(sandbox: Sandbox, tmp_path: Path) -> None:
    """Every answer is lost until the client gives up and dies. The next one sends the same id, and buys one job."""
    fault = sandbox.faults.add(Fault.accept_then_reset, kind="submit", provider="runware")
    request = runware.ImageO3("a boat", resolution="1k", aspect_ratio="1:1")
    [provider] = [provider for provider in sandbox.providers() if provider.name == "runware"]
    path = tmp_path / "jobs.db"
    async with Client(provider, ledger=SqliteLedger(path), limits=Limits(max_attempts=1)) as client:
        with pytest.raises(SubmissionUnknown, match=r"client\.resume\(\) to send the same id again"):
            await client.submit(request, key="a")
    sandbox.faults.remove(fault)
    async with Client(provider, ledger=SqliteLedger(path), polling=QUICK) as client:
        [job] = await client.resume()
        assert (await job).artifacts
        assert (await client.submit(request, key="a")).ref == job.ref
        assert await client.unresolved() == []
    assert sandbox.counters.bought["runware"] == 1


@pytest.mark.anyio
async def test_inference_sh_finds_lost_submissions_in_its_list(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Fault.accept_then_reset, kind="submit", provider="inferencesh")
    [provider] = [provider for provider in sandbox.providers() if provider.name == "inferencesh"]
    async with Client(provider, ledger=SqliteLedger(tmp_path / "jobs.db"), polling=QUICK) as client:
        for key in ("boat", "fox"):
            with pytest.raises(SubmissionUnknown, match="to search the provider's list"):
                await client.submit(inferencesh.ImageO1(f"a {key}"), key=key)
        jobs = await client.resume()
        assert [job.request for job in jobs] == [inferencesh.ImageO1("a boat"), inferencesh.ImageO1("a fox")]
        for job in jobs:
            assert (await job).artifacts
        assert await client.unresolved() == []
    assert sandbox.counters.bought["inferencesh"] == 2


# The file is not what it was


@pytest.mark.anyio
@pytest.mark.parametrize("loss", ["deleted", "moved", "replaced"])
async def test_nothing_is_bought_once_the_file_is_deleted_or_moved(sandbox: Sandbox, tmp_path: Path, loss: str) -> None:
    path = tmp_path / "jobs.db"
    async with make_client(sandbox, path) as client:
        running = await client.submit(PHOTO, key="before")
        path.rename(tmp_path / "elsewhere.db")
        if loss == "deleted":
            (tmp_path / "elsewhere.db").unlink()
        if loss == "replaced":
            path.write_bytes(b"")
        for key in ("a", "b"):
            with pytest.raises(LedgerFailed, match="was deleted, moved or replaced while it was in use"):
                await client.submit(PHOTO, key=key)
        assert (await running).urls  # a job that was bought is followed all the same
        assert sandbox.counters.bought["runblob"] == 1
        if loss == "moved":
            (tmp_path / "elsewhere.db").rename(path)
            await client.submit(PHOTO, key="after")
            assert (await client._ledger.ledger.events(running.ref))[-1].status is Status.COMPLETED


FORK = """
import os, sys, anyio
from kling_async import ConfigurationError, SqliteLedger
ledger = SqliteLedger(sys.argv[1])
anyio.run(ledger.set_value, "a", 1)
if child := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    anyio.run(ledger.set_value, "a", 3)
    assert anyio.run(ledger.get_value, "a") == 3
    anyio.run(ledger.aclose)
else:
    async def use():
        for backend in (ledger, SqliteLedger(sys.argv[1])):
            try:
                with anyio.fail_after(10):
                    with anyio.CancelScope(shield=True):
                        await backend.set_value("a", 2)
                print("written", flush=True)
            except ConfigurationError as error:
                print(error, flush=True)
            await backend.aclose()
    anyio.run(use)
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_is_refused_at_once_and_harms_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORK, str(tmp_path / "jobs.db")]
    done = run(command, timeout=60, check=True, capture_output=True, text=True)
    inherited, opened_again = done.stdout.splitlines()
    assert "was opened before this process was forked" in inherited
    assert opened_again == "written"  # a ledger of its own


# Reading large ledgers


@pytest.mark.anyio
async def test_a_large_ledger_is_inspected_without_reading_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    ledger = SqliteLedger(path)
    await ledger.set_value("a", 1)
    await ledger._read(
        lambda connection: connection.execute(
            """WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19999)
            INSERT INTO attempts (key, attempt_id, endpoint, request, fingerprint, started, state, ref)
            SELECT 'row-' || i, 'id-' || i, iif(i % 4, 'runblob/o3-photo', 'runware/image-o3'),
                json_object('prompt', 'boat ' || i, 'resolution', '1k'), '', 1.8e9 + i,
                iif(i % 1000, 'accepted', 'unknown'), iif(i % 1000, 'runblob/o3-photo/job-' || i, NULL) FROM n"""
        )
    )
    await ledger._read(
        lambda connection: connection.execute(
            """INSERT INTO events (ref, seq, terminal, event)
                SELECT ref, 0, 1, json_object('status', 'completed', 'cost',
                json_object('amount', '0.05', 'unit', 'USD'), 'artifacts', json_array('a')) FROM attempts
                WHERE ref IS NOT NULL"""
        )
    )
    groups = await ledger.spending({"prompt"})
    assert sum(group.count for group in groups) == 19_980
    assert len(groups) == 2
    parsed = 0
    real = submission_from_row

    def counted(*row: Any) -> Submission:
        nonlocal parsed
        parsed += 1
        return real(*row)

    with mock.patch("kling_async._ledger.sqlite_schema.submission_from_row", counted):
        seen = await inspect_ledger(path, last=3)
        assert [s.key for s in seen.submissions] == ["row-19997", "row-19998", "row-19999"]
        assert (seen.total, seen.unfinished, seen.processes) == (20_000, 20, (os.getpid(),))
        assert (await inspect_ledger(path, unsaved=True, last=1)).total == 19_980
        seen = await inspect_ledger(
            path, endpoint="runware", unfinished=True, since=datetime.fromtimestamp(1.8e9 + 10_000, UTC)
        )
        assert (seen.total, seen.submissions[0].key) == (10, "row-10000")
        assert (
            await inspect_ledger(path, endpoint="runblob/o3-photo", status=Status.COMPLETED, last=1)
        ).total == 15_000
        assert (await inspect_ledger(path, key="row-7")).submissions[0].key == "row-7"
    assert parsed == 16
    await ledger.aclose()

"""The fault matrix of the ledger on real sockets and real files, judged by the sandbox's counters."""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
import random
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import anyio
import httpx
import pytest
import trio

from kling_async import (
    Client,
    ConfigurationError,
    Job,
    KeyConflict,
    LedgerFailed,
    Limits,
    Polling,
    Progressive,
    RunBlob,
    SqliteLedger,
    Status,
    SubmissionState,
    SubmissionUnknown,
    inferencesh,
    runware,
)
from kling_async.providers.runblob import O3Photo
from kling_async.sandbox import Fault, Sandbox
from support import crash_process as victim

PHOTO = O3Photo("a boat", resolution="1k")
QUICK = Polling(schedule=Progressive(0.05), status_calls_per_minute=math.inf, deadline=60)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(speed=600) as made:
        yield made


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
    """Cancels a scope at the k-th moment; says whether it came to that."""

    def __init__(self, scope: anyio.CancelScope, moments: int) -> None:
        self.scope, self.left = scope, moments

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("grace", [0.0, 5.0])
def test_row_15_cancelled_at_every_moment_of_a_submission(tmp_path: Path, backend: str, grace: float) -> None:
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
            await client.unresolved()  # opens the file; that is not what is cancelled here
            with anyio.CancelScope() as scope:
                cancellation = _Cancellation(scope, moments)
                at(cancellation)
                await client.submit(PHOTO, key="a")
            at(None)
            found = await client._book.ledger.find(key="a")
            states.append(found.state if found else None)
            assert client._buyer._in_flight == {}
            transport = client._accounts["runblob"].transport
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
        assert unknown > 1 or grace > 0

    if backend == "asyncio":
        anyio.run(main, backend_options={"loop_factory": _CountingLoop})
    else:
        anyio.run(main, backend="trio", backend_options={"instruments": [instrument]})


# Row 16


@pytest.fixture
def company() -> Iterator[dict[str, Any]]:
    """A sandbox in a process of its own, whose answers to half of the submissions are slow."""
    command = [sys.executable, "-m", "kling_async.sandbox", "--speed", "600", "--until-eof"]
    faults = ["--fault", "delay:submit:every=2,seconds=0.05"]
    with Popen([*command, *faults], stdin=PIPE, stdout=PIPE) as process:  # this interpreter
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.stdin.close()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the killed program is the same; once is enough
async def test_row_16_killed_at_twenty_moments_no_job_is_bought_twice_or_forgotten(
    company: dict[str, Any], tmp_path: Path
) -> None:
    """`kill -9` of a process with single jobs; the next one takes up, submits the same keys again, and settles all."""
    seller = company["providers"]["runblob"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kling_async"])
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
        async with httpx.AsyncClient() as http:
            counters = (await http.get(f"{company['url']}/_sandbox/counters")).json()
        assert accepted <= counters["bought"]["runblob"] <= accepted + unknown
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
async def test_row_18_a_full_disk_stops_submitting_and_keeps_following(
    sandbox: Sandbox, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "jobs.db"
    async with make_client(sandbox, path) as client:
        ledger = client._book.ledger
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
async def test_row_19_a_ledger_in_use_and_a_key_of_another_request_are_refused(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    path = tmp_path / "jobs.db"
    async with make_client(sandbox, path) as owner:
        await owner.submit(PHOTO, key="a")
        async with make_client(sandbox, path) as second:
            with pytest.raises(ConfigurationError, match=r"jobs\.db is in use by another client of this process"):
                await second.submit(PHOTO, key="b")
        with pytest.raises(KeyConflict):
            await owner.submit(O3Photo("another boat"), key="a")
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
        found = await client._book.ledger.find(key="a")
        assert found is not None
        assert found.files == tuple(paths)
        job = await client.submit(PHOTO, key="a")
        assert (await job).urls == result.urls
        assert job.events[-1].at.timestamp() < began
        assert await (await job).save(tmp_path / "again")
    assert sandbox.counters.bought["runblob"] == 1


# The ways out, at the providers that give one


@pytest.mark.anyio
async def test_runware_settles_a_lost_submission_by_itself(sandbox: Sandbox, tmp_path: Path) -> None:
    """Every answer is lost until the client gives up and dies; the next one sends the same id, and buys one job."""
    fault = sandbox.faults.add(Fault.accept_then_reset, kind="submit", provider="runware")
    request = runware.ImageO3("a boat", resolution="1k", aspect_ratio="1:1")
    [provider] = [provider for provider in sandbox.providers() if provider.name == "runware"]
    path = tmp_path / "jobs.db"
    async with Client(provider, ledger=SqliteLedger(path), limits=Limits(max_attempts=1)) as client:
        with pytest.raises(SubmissionUnknown, match=r"client\.resume\(\) settles it"):
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
            with pytest.raises(SubmissionUnknown, match="searches the provider's list"):
                await client.submit(inferencesh.ImageO1(f"a {key}"), key=key)
        jobs = await client.resume()
        assert [job.request for job in jobs] == [inferencesh.ImageO1("a boat"), inferencesh.ImageO1("a fox")]
        for job in jobs:
            assert (await job).artifacts
        assert await client.unresolved() == []
    assert sandbox.counters.bought["inferencesh"] == 2

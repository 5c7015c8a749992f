"""Paid calls that are under way when an event loop ends, on real sockets, judged by the sandbox's counters."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from kling_async import (
    Client,
    Limits,
    MemoryLedger,
    Polling,
    Progressive,
    RunBlob,
    SqliteLedger,
    inspect_ledger,
    runblob,
)
from kling_async.sandbox import Fault, Sandbox

PHOTO = runblob.O3Photo("a boat", resolution="1k")
QUICK = Polling(schedule=Progressive(0.1), status_calls_per_minute=math.inf, deadline=60)
JOBS = 10
MANY = 40  # more than are woken in one turn of the loop
PATIENCE = 120.0  # s


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(speed=600) as made:
        made.faults.add(Fault.delay, kind="submit", seconds=0.5)
        yield made


def make_client(sandbox: Sandbox, **settings: Any) -> Client:
    [provider] = [provider for provider in sandbox.providers() if provider.name == "runblob"]
    return Client(provider, polling=QUICK, **settings)


async def buy(sandbox: Sandbox, client: Client) -> set[asyncio.Task[Any]]:
    """Begin to submit, and return when the provider has received every request."""
    tasks = {asyncio.create_task(client.submit(PHOTO, key=f"row-{number}")) for number in range(JOBS)}
    while sandbox.counters.requests["runblob", "submit"] < JOBS:  # noqa: ASYNC110  # another thread counts
        await asyncio.sleep(0.01)
    return tasks


def test_the_end_of_asyncio_run_waits_for_paid_calls_that_were_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    client = make_client(sandbox, ledger=SqliteLedger(tmp_path / "jobs.db"), limits=Limits(cancel_grace=60))
    kept: list[set[asyncio.Task[Any]]] = []

    async def program() -> None:
        kept.append(await buy(sandbox, client))

    asyncio.run(program())
    assert sandbox.counters.bought["runblob"] == JOBS
    assert len(list(client.jobs)) == JOBS
    assert all(task.cancelled() for task in kept[0])
    asyncio.run(client.aclose())
    stored = asyncio.run(inspect_ledger(tmp_path / "jobs.db")).submissions
    assert [submission.state for submission in stored] == ["accepted"] * JOBS


def test_a_program_that_cancels_all_tasks_loses_no_job(sandbox: Sandbox) -> None:
    async def program() -> None:
        async with make_client(sandbox, limits=Limits(cancel_grace=60)) as client:
            await buy(sandbox, client)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.wait(others)
            assert len(list(client.jobs)) == JOBS

    asyncio.run(program())
    assert sandbox.counters.bought["runblob"] == JOBS


def test_the_grace_time_bounds_the_end_of_asyncio_run(sandbox: Sandbox) -> None:
    sandbox.faults.clear()
    sandbox.faults.add(Fault.delay, kind="submit", seconds=600)
    client = make_client(sandbox, limits=Limits(cancel_grace=0.2, call=1000))

    async def program() -> None:
        await buy(sandbox, client)

    asyncio.run(program())
    assert list(client.jobs) == []
    asyncio.run(client.aclose())


class LateAnswers(ThreadingHTTPServer):
    """Accepts jobs, and answers when it has so many of them and is told to.

    Attributes:
        received: Set when the last request is there.
        go: To be set for the answers.
        answered: Set when all of them are on their way.
    """

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, jobs: int) -> None:
        super().__init__(("127.0.0.1", 0), LateAnswer)
        self.received, self.go, self.answered = threading.Event(), threading.Event(), threading.Event()
        self.arrivals = threading.Barrier(jobs, action=self.received.set)
        self.departures = threading.Barrier(jobs, action=self.answered.set)


class LateAnswer(BaseHTTPRequestHandler):
    server: LateAnswers

    def do_POST(self) -> None:  # the name is that of the standard library
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.arrivals.wait(PATIENCE)
        assert self.server.go.wait(PATIENCE)
        answer = json.dumps({"generation_id": str(uuid.uuid4()), "status": "pending", "price": "0.1500"}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.server.departures.wait(PATIENCE)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is that of the standard library
        """Print nothing."""


@pytest.fixture
def late_answers() -> Iterator[LateAnswers]:
    with LateAnswers(MANY) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.go.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_answers_that_came_before_the_grace_time_was_over_are_used_however_many_they_are(
    late_answers: LateAnswers, backend: str
) -> None:
    """A process that is stopped while it ends finds all answers and the end of the grace time at the same moment."""
    grace = 0.5
    provider = RunBlob("key", base_url=f"http://127.0.0.1:{late_answers.server_port}")

    async def program() -> None:
        ledger = MemoryLedger()
        async with Client(provider, polling=QUICK, ledger=ledger, limits=Limits(cancel_grace=grace)) as client:
            async with anyio.create_task_group() as group:
                for _ in range(MANY):
                    group.start_soon(client.submit, PHOTO)
                while not late_answers.received.is_set():  # noqa: ASYNC110  # another thread sets it
                    await anyio.sleep(0.01)
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await anyio.wait_all_tasks_blocked()
                stopped = time.monotonic()
                late_answers.go.set()
                assert late_answers.answered.wait(PATIENCE)
                while time.monotonic() < stopped + 2 * grace:
                    time.sleep(0.05)  # noqa: ASYNC251  # nothing goes on here meanwhile
            stored = await ledger.submissions()
        assert [submission.state for submission in stored] == ["accepted"] * MANY

    anyio.run(program, backend=backend)

"""The synchronous client: what it adds to the asynchronous one, on a real server."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import kling_async
from kling_async import (
    BulkStopped,
    ConfigurationError,
    GenerationFailed,
    InsufficientCredits,
    Limits,
    Request,
    RunBlob,
    SqliteLedger,
    Status,
    runblob,
    sync,
)
from kling_async.sandbox import Sandbox

pytestmark = pytest.mark.sandbox(speed=200)

PAIRS = [
    (kling_async.Client, sync.Client),
    (kling_async.Job, sync.Job),
    (kling_async.Result, sync.Result),
    (kling_async.Artifact, sync.Artifact),
    (kling_async.BulkRun, sync.BulkRun),
    (kling_async.Outcome, sync.Outcome),
]
INTERNAL = {"aclose", "saved_by", "identity", "on_done"}


def boat() -> Request:
    return runblob.O3Photo("a paper boat", resolution="1k")


def account(sandbox: Sandbox) -> RunBlob:
    """The sandbox's customer at RunBlob."""
    provider = RunBlob(sandbox.api_key("runblob"), sandbox.base_url("runblob"))
    provider.speed = sandbox.state.clock.speed
    return provider


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[sync.Client]:
    with sync.Client(account(sandbox)) as opened:
        yield opened


@pytest.mark.parametrize(("asynchronous", "synchronous"), PAIRS)
def test_it_has_every_public_name_of_the_asynchronous_class_with_the_same_arguments(
    asynchronous: type, synchronous: type
) -> None:
    for name in {name for name in dir(asynchronous) if not name.startswith("_")} - INTERNAL:
        assert hasattr(synchronous, name), name
        original = getattr(asynchronous, name)
        if inspect.isfunction(original):
            theirs, ours = inspect.signature(original), inspect.signature(getattr(synchronous, name))
            assert list(theirs.parameters) == list(ours.parameters), name
            assert getattr(synchronous, name).__doc__, name
    assert inspect.signature(kling_async.Client) == inspect.signature(sync.Client)


def test_a_job_is_submitted_iterated_and_saved_without_await(client: sync.Client, tmp_path: Path) -> None:
    job = client.submit(boat())
    statuses = [event.status for event in job]
    assert statuses[-1] is Status.COMPLETED
    result = job.result()
    (path,) = result.save(tmp_path)
    (artifact,) = result.artifacts
    assert path.read_bytes() == artifact.read() == b"".join(artifact.stream())
    assert job.cost == result.cost
    assert client.jobs == ()
    assert client.attach(str(job.ref)) == job
    assert client.statistics().submitted == 1


def test_a_failed_job_raises_an_error_whose_job_is_synchronous(sandbox: Sandbox) -> None:
    sandbox.plan_next("runblob", fail="generation_failed")
    with sync.Client(account(sandbox)) as client:
        with pytest.raises(GenerationFailed) as caught:
            client.run(boat())
        job: Any = caught.value.job
        assert isinstance(job, sync.Job)
        assert job.wait() is Status.FAILED


def test_many_threads_share_one_client(client: sync.Client, sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda _: client.run(boat()), range(32)))
    assert len({result.ref for result in results}) == 32
    assert sandbox.counters.jobs_bought == 32


def test_a_bulk_run_pulls_rows_from_a_generator_that_uses_the_client_itself(client: sync.Client) -> None:
    def rows() -> Iterator[tuple[str, Request]]:
        for number in range(5):
            assert client.statistics().submitted <= number + 1
            yield f"row-{number}", boat()

    with client.map(rows(), in_flight=2) as outcomes:
        found = list(outcomes)
        assert outcomes.statistics().done == 5
    assert {outcome.key for outcome in found} == {f"row-{number}" for number in range(5)}
    assert all(isinstance(outcome.job, sync.Job) and isinstance(outcome.result, sync.Result) for outcome in found)


def test_leaving_a_bulk_run_stops_it_and_what_stopped_it_is_raised_as_ever(sandbox: Sandbox) -> None:
    with sync.Client(account(sandbox)) as client:
        with client.map(boat() for _ in range(10_000)) as outcomes:
            next(iter(outcomes))
        bought = sandbox.counters.jobs_bought
        assert bought < 1000
    with Sandbox(speed=200, credits=0) as poor, sync.Client(account(poor)) as client:
        with client.map([boat()] * 3) as outcomes, pytest.raises(BulkStopped) as caught:
            list(outcomes)
        assert isinstance(caught.value.cause, InsufficientCredits)


def test_a_stopped_bulk_run_leaves_the_rows_that_wait_for_a_slot(sandbox: Sandbox) -> None:
    with sync.Client(account(sandbox), limits=Limits(concurrency=1)) as client, client.map([boat()] * 6) as outcomes:
        found = []
        for outcome in outcomes:
            outcomes.stop()
            found.append(outcome.error)
        assert found == [None] * sandbox.counters.jobs_bought
        assert 1 <= len(found) == 6 - outcomes.statistics().left < 4


def test_what_is_unfinished_in_a_ledger_is_resumed(sandbox: Sandbox, tmp_path: Path) -> None:
    with sync.Client(account(sandbox), ledger=SqliteLedger(tmp_path / "jobs.db")) as client:
        submitted = client.submit(boat(), key="boat")
    with sync.Client(account(sandbox), ledger=SqliteLedger(tmp_path / "jobs.db")) as client:
        (job,) = client.resume()
        assert (job.ref, job.key) == (submitted.ref, "boat")
        job.result()
    assert sandbox.counters.jobs_bought == 1


def test_closing_ends_the_thread_and_what_other_threads_wait_for(sandbox: Sandbox) -> None:
    before = threading.active_count()
    client = sync.Client(account(sandbox))
    client.submit(boat())
    errors: list[Exception] = []

    def follow() -> None:
        try:
            client.follow()
        except ConfigurationError as error:
            errors.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    while not thread.is_alive():
        time.sleep(0.01)
    client.close()
    client.close()
    thread.join(30)
    assert [str(error) for error in errors] == ["the client is closed; make a new one"]
    with pytest.raises(ConfigurationError, match="closed"):
        client.run(boat())
    patience = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < patience:  # a thread of the loop ends a moment later
        time.sleep(0.01)
    assert threading.active_count() == before


def test_a_client_that_nobody_uses_any_more_ends_its_thread(sandbox: Sandbox) -> None:
    client = sync.Client(account(sandbox))
    client.run(boat())
    assert any(thread.name == "kling_async" for thread in threading.enumerate())
    del client
    gc.collect()
    assert not any(thread.name == "kling_async" for thread in threading.enumerate())


def test_what_came_from_a_client_works_though_nobody_kept_the_client(sandbox: Sandbox, tmp_path: Path) -> None:
    """``print(Client().run(...).save("out"))`` is the shortest program. At its end the client is closed."""
    assert all(path.is_file() for path in sync.Client(account(sandbox)).run(boat()).save(tmp_path))
    gc.collect()
    assert not any(thread.name == "kling_async" for thread in threading.enumerate())


def test_a_progress_callback_that_calls_the_client_gets_a_clear_error(client: sync.Client, tmp_path: Path) -> None:
    result = client.run(boat())

    def progress(_done: int, _total: int | None) -> None:
        client.statistics()

    with pytest.raises(ConfigurationError, match="its own thread"):
        result.save(tmp_path, progress=progress)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_client_is_refused_in_a_process_that_was_forked_from_its_own(sandbox: Sandbox) -> None:
    program = f"""
        import os
        from kling_async import RunBlob, ConfigurationError
        from kling_async.sync import Client
        client = Client(RunBlob("key", {account(sandbox).base_url!r}))
        client.statistics()
        if (child := os.fork()) == 0:
            try:
                client.statistics()
            except ConfigurationError as error:
                print(error, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """
    done = subprocess.run(  # noqa: PLW1510  # its output tells
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    assert "make the client after the fork" in done.stdout, done.stderr


def test_ctrl_c_cancels_the_call_after_the_answer_to_the_paid_call(sandbox: Sandbox, tmp_path: Path) -> None:
    """The process ends with KeyboardInterrupt, and the ledger has the job that was bought."""
    sandbox.faults.add("delay:submit:seconds=1.5:provider=runblob")
    provider = account(sandbox)
    program = f"""
        import signal
        from kling_async import RunBlob, SqliteLedger, runblob
        from kling_async.sync import Client
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        provider = RunBlob({sandbox.api_key("runblob")!r}, {provider.base_url!r})
        client = Client(provider, ledger=SqliteLedger({str(tmp_path / "l.db")!r}))
        client.statistics()
        print("ready", flush=True)
        client.run(runblob.O3Photo("a paper boat", resolution="1k"), key="boat")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while not sandbox.counters.requests["runblob", "submit"]:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    with sync.Client(provider, ledger=SqliteLedger(tmp_path / "l.db")) as client:
        assert [job.key for job in client.resume()] == ["boat"]
    assert sandbox.counters.jobs_bought == 1

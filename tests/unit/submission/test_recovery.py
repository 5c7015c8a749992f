"""Money that must not be lost: budgets over several runs, attempts of one key, and what becomes of a paid job."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import kling_async
from kling_async import (
    Budget,
    BudgetExceeded,
    Client,
    ConfigurationError,
    Cost,
    GenerationTimeout,
    Limits,
    MemoryLedger,
    Polling,
    Remedy,
    RunBlob,
    SubmissionState,
    SubmissionUnknown,
)
from kling_async.providers.runblob import O3Video
from kling_async.webhooks import Delivery
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

VIDEO = O3Video("a paper boat in the rain")
CLIP = Cost(Decimal("0.15"), "USD")


class KeptLedger(MemoryLedger):
    """A ledger that the next client can open, as a file would be."""

    async def aclose(self) -> None:
        """Stay open."""


@pytest.fixture
def ledger() -> KeptLedger:
    return KeptLedger()


def make(server: httpx.AsyncBaseTransport, ledger: MemoryLedger | None = None, **settings: Any) -> Client:
    settings.setdefault("polling", Polling(status_calls_per_minute=math.inf))
    return Client(RunBlob(KEY), http=server, ledger=ledger, **settings)


# Budgets


async def test_a_budget_counts_what_was_spent_at_providers_that_the_client_does_not_have(
    server: FakeRunBlob, ledger: KeptLedger
) -> None:
    async with make(server, ledger) as client:
        await client.run(VIDEO, key="a")
    budget = Budget(usd=10)
    async with Client(kling_async.Runware("key"), http=server, ledger=ledger, budget=budget) as client:
        await client.estimate(kling_async.runware.ImageO3("a boat"))
    assert budget.statistics().spent == (CLIP,)


async def test_a_budget_counts_all_attempts_of_a_key_after_a_restart(server: FakeRunBlob, ledger: KeptLedger) -> None:
    async with make(server, ledger, budget=Budget(usd=10)) as client:
        await client.run(VIDEO, key="a")
        await (await client.resubmit("a", force=True))
    budget = Budget(usd="0.45")
    async with make(server, ledger, budget=budget) as client:
        await client.run(VIDEO, key="b")
        assert budget.statistics().spent == (Cost(Decimal("0.45"), "USD"),)
        with pytest.raises(BudgetExceeded):
            await client.submit(VIDEO, key="c")
    assert server.bought == 3


async def test_an_estimate_is_the_same_as_the_budgets(server: FakeRunBlob, ledger: KeptLedger) -> None:
    async with make(server, ledger) as client:
        await client.run(VIDEO, key="a")
    budget = Budget(usd=10)
    async with make(server, ledger, budget=budget) as with_budget, make(server, ledger) as without:
        estimate = await without.estimate(VIDEO)
        assert estimate == await with_budget.estimate(VIDEO) == CLIP
        await with_budget.submit(VIDEO, key="b")
        assert budget.statistics().spent[0].amount >= estimate.amount


async def test_a_run_reports_only_the_cost_of_jobs_that_it_submitted(server: FakeRunBlob, ledger: KeptLedger) -> None:
    for spent, new in (((CLIP,), True), ((), False)):
        async with make(server, ledger) as client, client.map([("a", VIDEO)]) as outcomes:
            [outcome] = [outcome async for outcome in outcomes]
            assert outcome.new is new
            assert outcomes.statistics().cost == spent
    assert server.bought == 1


# Attempts


async def test_a_completed_job_is_submitted_again_only_on_request(server: FakeRunBlob, ledger: KeptLedger) -> None:
    async with make(server, ledger) as client:
        job = await client.submit(VIDEO, key="a")
        await job
        with pytest.raises(ConfigurationError, match="is completed") as refused:
            await client.resubmit("a")
        assert refused.value.ref == str(job.ref)
        assert refused.value.remedies[0] == Remedy("attach", "a", str(job.ref), "to read its result")
        assert server.bought == 1
        again = await client.resubmit("a", force=True)
        assert again.ref != job.ref
        assert [attempt.ref for attempt in await ledger.attempts("a")] == [job.ref, again.ref]


async def test_a_key_whose_result_has_expired_can_be_freed(server: FakeRunBlob, ledger: KeptLedger) -> None:
    async with make(server, ledger) as client:
        await client.run(VIDEO, key="a")
        await client.forget("a")
        await client.submit(VIDEO, key="a")
    assert server.bought == 2
    assert len(await ledger.attempts("a")) == 2


# Jobs are not lost


async def test_a_limited_run_raises_a_timeout_with_the_job(server: FakeRunBlob) -> None:
    async with make(server) as client:
        with pytest.raises(GenerationTimeout, match="after waiting for 3 s") as late:
            await client.run(VIDEO, key="a", timeout=3)
        assert [job.ref for job in client.jobs] == [late.value.job.ref]
        assert late.value.job.key == "a"
        assert (await late.value.job).urls


async def test_a_cancelled_run_leaves_its_job_among_the_clients(server: FakeRunBlob) -> None:
    async with make(server) as client:
        with anyio.move_on_after(3):
            await client.run(VIDEO)
        [job] = client.jobs
        assert (await job).urls


async def test_resumed_jobs_have_their_keys(server: FakeRunBlob, ledger: KeptLedger) -> None:
    async with make(server, ledger) as client:
        assert (await client.submit(VIDEO, key="row-1")).key == "row-1"
    async with make(server, ledger) as client:
        [job] = await client.resume()
        assert job.key == "row-1"
        assert client.attach("runblob/o3-video/other").key is None


async def test_a_request_that_was_changed_without_validation_is_refused_before_it_is_sent(server: FakeRunBlob) -> None:
    changed = VIDEO.model_copy(update={"duration": 7})
    async with make(server) as client:
        with pytest.raises(ValueError, match="duration"):
            await client.submit(changed)
        async with client.map([changed, VIDEO]) as outcomes:
            found = [outcome async for outcome in outcomes]
    assert sorted(outcome.error is None for outcome in found) == [False, True]
    assert server.bought == 1


async def test_an_error_in_the_forecast_of_a_job_does_not_lose_it(
    server: FakeRunBlob, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = RunBlob.endpoints[0]
    prior = endpoint.duration_prior

    def broken(request: Any) -> Any:
        if request is not None:
            raise KeyError(7)
        return prior(None)

    monkeypatch.setattr(type(endpoint), "duration_prior", property(lambda _: broken), raising=False)
    async with make(server) as client:
        job = await client.submit(VIDEO)
        assert (await job).urls
    assert "its duration cannot be estimated" in caplog.text


async def test_closing_waits_for_paid_calls_that_were_sent(server: FakeRunBlob, ledger: KeptLedger) -> None:
    async def slow(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/generate"):
            await anyio.sleep(2)
        return None

    server.intercept = slow
    client = make(server, ledger, limits=Limits(cancel_grace=5))
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(client.submit, VIDEO)
        await anyio.sleep(1)
        await client.aclose()
        with pytest.raises(ConfigurationError, match="closed"):
            await client.submit(VIDEO)
    assert [submission.state for submission in await ledger.submissions()] == [SubmissionState.ACCEPTED] * 3


async def test_the_job_of_a_cancelled_submission_is_logged_where_no_ledger_has_it(
    server: FakeRunBlob, caplog: pytest.LogCaptureFixture
) -> None:
    async def slow(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/generate"):
            await anyio.sleep(2)
        return None

    server.intercept = slow
    async with make(server) as client:
        with anyio.move_on_after(1):
            await client.submit(VIDEO)
        [job] = client.jobs
    assert f"the submission was cancelled after job {job.ref} was bought" in caplog.text


async def test_a_paid_call_is_not_repeated_when_its_id_is_older_than_an_hour(
    server: FakeRunBlob, ledger: KeptLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The computer was suspended during the call: the client's clock stood still, the wall clock did not."""

    class OwnId(RunBlob):
        def submit(self, request: Any, attempt_id: str, callback_url: str | None) -> Any:
            flow = super().submit(request, attempt_id, callback_url)
            call = next(flow)
            reply = yield dataclasses.replace(call, repeatable=True)
            try:
                flow.send(reply)
            except StopIteration as end:
                return end.value

    real = time.time
    sent = 0

    async def lose(request: httpx.Request) -> httpx.Response | None:
        nonlocal sent
        if request.url.path.endswith("/generate"):
            sent += 1
            monkeypatch.setattr(time, "time", lambda: real() + 8 * 3600)
            raise httpx.ReadError("reset")
        return None

    server.intercept = lose
    async with Client(OwnId(KEY), http=server, ledger=ledger) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(VIDEO, key="a")
    assert sent == 1


# Bulk runs that save


async def test_a_run_saves_results_while_it_goes_on(
    server: FakeRunBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = most = 0

    async def save(self: kling_async.Result, directory: Path, **_: Any) -> list[Path]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await anyio.sleep(5)
        at_once -= 1
        return [directory / f"{self.ref.id}.mp4"]

    monkeypatch.setattr(kling_async.Result, "save", save)
    async with make(server) as client:
        async with client.map([VIDEO] * 20, in_flight=20, save_to=tmp_path / "out", downloads=3) as outcomes:
            found = [outcome async for outcome in outcomes]
        assert outcomes.statistics().saving == 0
    assert most == 3
    assert len({outcome.files for outcome in found}) == 20
    assert all(outcome.error is None and outcome.job is not None for outcome in found)


async def test_a_result_that_cannot_be_saved_is_the_error_of_its_row(
    server: FakeRunBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def save(self: kling_async.Result, directory: Path, **_: Any) -> list[Path]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kling_async.Result, "save", save)
    async with make(server) as client, client.map([VIDEO], save_to=tmp_path) as outcomes:
        [outcome] = [outcome async for outcome in outcomes]
    assert isinstance(outcome.error, kling_async.DownloadFailed)
    assert outcome.result is not None
    assert outcome.error.ref == str(outcome.result.ref)


# Event loops and processes


def test_a_client_that_one_event_loop_uses_is_refused_to_another(server: FakeRunBlob) -> None:
    client = Client(RunBlob(KEY), http=server)
    waiting, done = threading.Event(), threading.Event()

    async def hold() -> None:
        async def wait(request: httpx.Request) -> httpx.Response | None:
            waiting.set()
            await asyncio.to_thread(done.wait)
            return None

        server.intercept = wait
        await client.submit(VIDEO)

    thread = threading.Thread(target=asyncio.run, args=(hold(),))
    thread.start()
    try:
        assert waiting.wait(10)
        with pytest.raises(ConfigurationError, match="another event loop"):
            asyncio.run(client.submit(VIDEO))
        with pytest.raises(ConfigurationError, match="run_coroutine_threadsafe"):
            asyncio.run(client.deliver(Delivery("runblob", "key", "token", b"{}")))
    finally:
        done.set()
        thread.join()
    server.intercept = None
    asyncio.run(client.submit(VIDEO))
    assert server.bought == 2


def test_a_client_is_refused_in_another_process(server: FakeRunBlob, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(RunBlob(KEY), http=server)
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    with pytest.raises(ConfigurationError, match="was made in process"):
        asyncio.run(client.submit(VIDEO))
    asyncio.run(client.aclose())
    assert server.bought == 0

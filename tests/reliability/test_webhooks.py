"""Webhooks resolve jobs: rows 11 to 14 of the fault matrix on real sockets, and what it costs, in counts."""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette

import kling_async
from kling_async import (
    Client,
    Event,
    GenerationFailed,
    Job,
    MemoryLedger,
    Polling,
    Status,
    SubmissionState,
    SubmissionUnknown,
    Webhooks,
    fal,
    inferencesh,
    pixeldojo,
    runblob,
    runware,
)
from kling_async.sandbox import Fault, Sandbox
from kling_async.starlette import webhook_route
from support.asgi_server import PATIENCE, Site, serve

pytestmark = pytest.mark.anyio

SECRET = "an old and very secret secret"
PHOTO = runblob.O3Photo("a boat", resolution="1k")
UNRATIONED = Polling(status_calls_per_minute=math.inf)
FOREIGN = "attacker.invalid"

REQUESTS = {
    "runblob": PHOTO,
    "runware": runware.ImageO3("a boat", width=1024, height=1024),
    "inferencesh": inferencesh.ImageO1("a boat"),
    "pixeldojo": pixeldojo.ImageV3("a boat"),
    "fal": fal.Image("a boat"),
}

BOTH_MODES = pytest.mark.parametrize("confirm", [True, False], ids=["confirm", "believe"])


@pytest.fixture
def anyio_backend() -> str:
    """The endpoint is served by uvicorn, which knows asyncio alone."""
    return "asyncio"


class Reported:
    """A client whose jobs are reported to a real endpoint."""

    def __init__(self, client: Client, site: Site, sandbox: Sandbox) -> None:
        self.client = client
        self.site = site
        self.sandbox = sandbox

    @property
    def polls(self) -> int:
        return self.sandbox.counters.status_calls


@contextlib.asynccontextmanager
async def reported(
    sandbox: Sandbox, provider: str = "runblob", *, confirm: bool = True, backstop: float = 60.0, **settings: Any
) -> AsyncIterator[Reported]:
    site = Site()
    [chosen] = [each for each in sandbox.providers() if each.name == provider]
    webhooks = Webhooks(f"{site.url}/kling", SECRET, confirm=confirm, backstop=backstop)
    async with (
        Client(chosen, webhooks=webhooks, **{"polling": UNRATIONED, **settings}) as client,
        serve(site, Starlette(routes=[webhook_route(client, "/kling")])),
    ):
        yield Reported(client, site, sandbox)


async def finish(job: Job) -> kling_async.Result:
    with anyio.fail_after(PATIENCE):
        return await job


def require_story(job: Job) -> None:
    """The log is whole, rises, and ends once."""
    assert [event.seq for event in job.events] == list(range(len(job.events)))
    assert [event.status.terminal for event in job.events] == [False] * (len(job.events) - 1) + [True]


def no_foreign(job: Job) -> None:
    assert all(FOREIGN not in (artifact.url or "") for event in job.events for artifact in event.artifacts)


# What it costs.


@pytest.mark.parametrize("provider", REQUESTS)
@BOTH_MODES
async def test_a_webhook_resolves_a_job_of_every_provider(sandbox: Sandbox, provider: str, confirm: bool) -> None:
    async with reported(sandbox, provider, confirm=confirm) as at:
        job = await at.client.submit(REQUESTS[provider])
        result = await finish(job)
        assert result.artifacts
        await at.site.answered(1)
    require_story(job)
    assert set(at.site.statuses) == {200}
    assert at.polls <= 2


@pytest.mark.parametrize(("confirm", "most", "source"), [(True, 200, "poll"), (False, 0, "webhook")])
async def test_200_jobs_take_at_most_one_poll_each(sandbox: Sandbox, confirm: bool, most: int, source: str) -> None:
    """One poll each where the provider is asked to confirm, none where its webhook is believed."""
    jobs: list[Job] = []
    async with reported(sandbox, confirm=confirm) as at:

        async def one() -> None:
            job = await at.client.submit(PHOTO)
            jobs.append(job)
            await job

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for _ in range(200):
                    group.start_soon(one)
            await at.site.answered(200)
    assert len(jobs) == 200
    assert {job.status for job in jobs} == {Status.COMPLETED}
    assert {job.events[-1].source for job in jobs} == {source}
    assert at.polls == most
    assert sandbox.counters.webhooks["runblob"] == sandbox.counters.bought["runblob"] == 200


async def test_many_waiters_wake_from_one_delivery(sandbox: Sandbox) -> None:
    logs: list[list[Event]] = []
    async with reported(sandbox, confirm=False) as at:
        job = await at.client.submit(PHOTO)

        async def read() -> None:
            logs.append([event async for event in job])

        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(read)
    assert logs == [list(job.events)] * 20
    assert (at.polls, job.events[-1].source) == (0, "webhook")


@BOTH_MODES
async def test_a_failure_is_reported_with_its_code(sandbox: Sandbox, confirm: bool) -> None:
    sandbox.plan_next(fail="CONTENT_POLICY_VIOLATION")
    async with reported(sandbox, confirm=confirm) as at:
        job = await at.client.submit(PHOTO)
        with pytest.raises(GenerationFailed) as failed:
            await finish(job)
    assert failed.value.code == "CONTENT_POLICY_VIOLATION"
    assert job.events[-1].source == ("poll" if confirm else "webhook")
    assert at.polls == confirm
    require_story(job)


async def test_a_stream_and_a_webhook_that_race_make_one_log(sandbox: Sandbox) -> None:
    async with reported(sandbox, "inferencesh", confirm=False) as at:
        job = await at.client.submit(REQUESTS["inferencesh"])
        await finish(job)
        await at.site.answered(1)
    require_story(job)
    assert at.site.statuses == [200]


async def test_each_picture_of_runware_is_reported_and_the_job_ends_once(sandbox: Sandbox) -> None:
    async with reported(sandbox, "runware", confirm=False) as at:
        job = await at.client.submit(runware.ImageO3("a boat", width=1024, height=1024, count=4))
        result = await finish(job)
        assert len(result.artifacts) == 4
        await at.site.answered(4)
    require_story(job)
    assert at.site.statuses == [200] * 4


async def test_a_request_that_brings_its_own_address_is_polled(sandbox: Sandbox) -> None:
    request = PHOTO.model_copy(update={"callback_url": "http://127.0.0.1:1/own"})
    async with reported(sandbox, polling=Polling(kling_async.Progressive(0.1), status_calls_per_minute=math.inf)) as at:
        job = await at.client.submit(request)
        await finish(job)
    assert at.site.answers == []
    assert job.events[-1].source == "poll"


# Row 11.


@BOTH_MODES
@pytest.mark.parametrize("fault", [Fault.webhook_twice, Fault.webhook_out_of_order])
async def test_repeated_and_late_webhooks_change_nothing(sandbox: Sandbox, fault: Fault, confirm: bool) -> None:
    sandbox.faults.add(fault)
    async with reported(sandbox, confirm=confirm) as at:
        job = await at.client.submit(PHOTO)
        await finish(job)
        await at.site.answered(2)
    require_story(job)
    assert at.site.statuses == [200, 200]
    assert at.polls == confirm


# Row 12.


@BOTH_MODES
async def test_forged_webhooks_change_nothing(sandbox: Sandbox, confirm: bool) -> None:
    """A guessed token, a foreign id, broken JSON and 10 MB come before the real one. All name a foreign URL."""
    sandbox.faults.add(Fault.webhook_forged)
    async with reported(sandbox, confirm=confirm) as at:
        job = await at.client.submit(PHOTO)
        await finish(job)
        await at.site.answered(5)
    assert at.site.statuses == [404, 404, 404, 413, 200]
    require_story(job)
    no_foreign(job)
    assert at.polls == confirm


async def test_another_jobs_token_is_no_token(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    sandbox.plan_next(stuck=True, times=2)
    async with reported(sandbox) as at, httpx.AsyncClient(trust_env=False) as web:
        jobs = [await at.client.submit(PHOTO) for _ in range(2)]
        first, second = [bought.order.callback_url or "" for bought in sandbox.state.jobs.values()]
        mixed = first.rpartition("/")[0] + "/" + second.rpartition("/")[2]
        bodies = [
            {"generation_id": job.ref.id, "status": "completed", "image_url": f"https://{FOREIGN}/"} for job in jobs
        ]
        answers = [await web.post(mixed, json=body) for body in bodies]
        # The right address, with a body about the other job.
        answers.append(await web.post(first, json=bodies[1]))
    assert [answer.status_code for answer in answers] == [404] * 3
    assert {answer.text for answer in answers} == {answers[0].text}
    assert [len(job.events) for job in jobs] == [1, 1]
    assert at.polls == 0
    tokens = [url.rpartition("/")[2] for url in (first, second)]
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("kling_async")]
    assert not any(token in line or SECRET in line for token in tokens for line in ours)


async def test_hundreds_of_forged_mutations_change_nothing(sandbox: Sandbox) -> None:
    """Whatever part of a real delivery's address is changed, in whatever way, with whatever body."""
    chance = random.Random(6)
    sandbox.plan_next(stuck=True)
    async with reported(sandbox, confirm=False) as at, httpx.AsyncClient(trust_env=False) as web:
        job = await at.client.submit(PHOTO)
        [bought] = sandbox.state.jobs.values()
        base, *parts = (bought.order.callback_url or "").rsplit("/", 3)
        body = b'{"generation_id":"%s","status":"completed","image_url":"https://%s/x.png"}' % (
            job.ref.id.encode(),
            FOREIGN.encode(),
        )

        async def forge(number: int) -> None:
            address = list(parts)
            place = number % 3
            while address == parts:
                address[place] = _mutated(address[place], chance)
            content = body if chance.random() < 0.5 else _mutated(body.decode(), chance).encode(errors="replace")
            answer = await web.post("/".join([base, *address]), content=content)
            assert answer.status_code == 404, address

        for number in range(300):
            await forge(number)
        assert len(job.events) == 1
        assert at.polls == 0
        # The address as it was still works: the mutations were forged, and nothing else was wrong with them.
        answer = await web.post("/".join([base, *parts]), content=body)
        assert (answer.status_code, job.status) == (200, Status.COMPLETED)
    assert sandbox.counters.requests.total() == 1


def _mutated(text: str, chance: random.Random) -> str:
    """The text with a letter changed, dropped, doubled or put elsewhere, cut, or replaced by another of its kind."""
    deliveries = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    at = chance.randrange(len(text))
    return chance.choice(
        [
            text[:at] + chance.choice(deliveries) + text[at + 1 :],
            text[:at] + text[at + 1 :] or "x",
            text[:at] + text[at] + text[at:],
            text[at:] + text[:at],
            text[: at + 1],
            text.swapcase(),
            "".join(chance.choice(deliveries) for _ in text),
            text + "%00",
        ]
    ).replace("/", "-")


# Row 13.


@BOTH_MODES
async def test_a_webhook_before_the_answer_waits_for_it(sandbox: Sandbox, confirm: bool) -> None:
    sandbox.faults.add(Fault.webhook_early)
    async with reported(sandbox, confirm=confirm) as at:
        job = await at.client.submit(PHOTO)
        await finish(job)
    require_story(job)
    assert job.events[0].source == "submit"
    assert job.cost is not None
    assert (at.site.statuses, at.polls) == ([200], confirm)


@BOTH_MODES
@pytest.mark.parametrize("ledger", [True, False], ids=["ledger", "no-ledger"])
async def test_a_webhook_before_a_lost_answer_is_the_answer(sandbox: Sandbox, confirm: bool, ledger: bool) -> None:
    """The delivery came while the paid call was on its way. That call's answer was lost, and nobody hears of it."""
    sandbox.faults.add(Fault.webhook_early)
    sandbox.faults.add(Fault.accept_then_reset, kind="submit")
    async with reported(sandbox, confirm=confirm, ledger=MemoryLedger() if ledger else None) as at:
        job = await at.client.submit(PHOTO, key="row-13")
        await finish(job)
        if ledger:
            assert await at.client.submit(PHOTO, key="row-13") is not None
            assert await at.client.unresolved() == []
    require_story(job)
    assert sandbox.counters.bought["runblob"] == sandbox.counters.requests["runblob", "submit"] == 1


@BOTH_MODES
async def test_a_webhook_resolves_a_lost_submission_of_the_ledger(sandbox: Sandbox, confirm: bool) -> None:
    sandbox.faults.add(Fault.accept_then_reset, kind="submit", times=1)
    ledger = MemoryLedger()
    async with reported(sandbox, confirm=confirm, ledger=ledger) as at:
        with pytest.raises(SubmissionUnknown):
            await at.client.submit(PHOTO, key="row-13")
        [lost] = await at.client.unresolved()
        assert lost.state is SubmissionState.UNKNOWN
        await at.site.answered(1)
        assert await at.client.unresolved() == []
        job = await at.client.submit(PHOTO, key="row-13")
        result = await finish(job)
        assert result.artifacts
    require_story(job)
    assert at.site.statuses == [200]
    assert sandbox.counters.bought["runblob"] == sandbox.counters.requests["runblob", "submit"] == 1


async def test_a_webhook_resolves_a_lost_submission_without_a_ledger(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """The job becomes one of the client's: `wait` brings it to its end."""
    sandbox.faults.add(Fault.accept_then_reset, kind="submit", times=1)
    async with reported(sandbox) as at:
        with pytest.raises(SubmissionUnknown):
            await at.client.submit(PHOTO, key="row-13")
        await at.site.answered(1)
        assert at.client.statistics().running == 1
        [bought] = sandbox.state.jobs.values()
        job = at.client.attach(f"runblob/o3-photo/{bought.id}")
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(at.client.follow)
                await job
                group.cancel_scope.cancel()
    assert job.status is Status.COMPLETED
    assert "'row-13', whose answer was lost, is job runblob/o3-photo/" in caplog.text
    assert sandbox.counters.bought["runblob"] == 1


@BOTH_MODES
async def test_a_webhook_for_a_job_of_an_earlier_process_is_recorded(sandbox: Sandbox, confirm: bool) -> None:
    """Nobody holds the job in memory: the first client is gone."""
    ledger = _Kept()
    sandbox.plan_next(duration=600)
    site = Site()
    webhooks = Webhooks(f"{site.url}/kling", SECRET, confirm=confirm, backstop=60)
    [provider] = [each for each in sandbox.providers() if each.name == "runblob"]
    async with Client(provider, webhooks=webhooks, ledger=ledger) as first:
        ref = (await first.submit(PHOTO, key="row")).ref
    async with (
        Client(provider, webhooks=webhooks, ledger=ledger, polling=UNRATIONED) as second,
        serve(site, Starlette(routes=[webhook_route(second, "/kling")])),
        anyio.create_task_group() as group,
    ):
        group.start_soon(second.follow)
        await site.answered(1)
        with anyio.fail_after(PATIENCE):
            await (await second.submit(PHOTO, key="row")).wait()
        group.cancel_scope.cancel()
    assert site.statuses == [200]
    assert [event.status for event in await ledger.events(ref)] == [Status.PENDING, Status.COMPLETED]
    assert sandbox.counters.status_calls == confirm


class _Kept(MemoryLedger):
    """A ledger that outlives its client, as a file does."""

    async def aclose(self) -> None:
        """Nothing is lost."""


# Row 14.


async def test_a_webhook_that_never_comes_is_made_up_for_by_a_poll(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.webhook_never)
    quick = Polling(kling_async.Progressive(0.1), status_calls_per_minute=math.inf)
    async with reported(sandbox, confirm=False, backstop=0.5, polling=quick) as at:
        job = await at.client.submit(PHOTO)
        await finish(job)
    require_story(job)
    assert at.site.answers == []
    assert job.events[-1].source == "poll"
    assert 1 <= at.polls <= 3

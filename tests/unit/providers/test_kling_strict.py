"""Kling's own API against a strict fake, which was written from the facts by somebody who did not know this code."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from kling_async import InsufficientCredits, JobRef, Kling, KlingError, Limits, RateLimited, Status, Unauthorized, kling
from kling_async._event_loop.clock import Clock
from kling_async._http.transport import ProviderTransport
from kling_async.providers._base.provider import Accepted
from kling_async.providers._base.request import Request
from kling_async.providers.base import StatusReport
from support.kling_requests import BARE, CALLBACK, FULL, SPEECH
from support.strict_kling import KlingOutcome, StrictKling

ATTEMPT = "6f1c1f0e-3c1b-4c7e-9a55-0d7f6a1f2b3c"


@asynccontextmanager
async def transport_to(
    fake: StrictKling, provider: Kling | None = None, **limits: Any
) -> AsyncIterator[ProviderTransport]:
    fake.characters = frozenset({"902"})
    fake.connection_lost = lambda: httpx.ReadError("the connection broke")
    http = httpx.AsyncClient(transport=httpx.ASGITransport(fake))
    transport = ProviderTransport(provider or Kling(fake.key), Limits(**limits), http, Clock())
    try:
        yield transport
    finally:
        await transport.aclose()
        await http.aclose()


async def buy(transport: ProviderTransport, request: Request, attempt: str = ATTEMPT) -> Accepted:
    return await transport.run(transport.provider.submit(request, attempt, CALLBACK))


def name(request: object) -> str:
    return type(request).__name__


@pytest.mark.anyio
@pytest.mark.parametrize("request_", [*BARE, *FULL, *SPEECH], ids=name)
async def test_the_strict_fake_accepts_every_request(request_: Request, anyio_backend: str) -> None:
    """Each with no field but the required ones and with all of them, and nothing that costs money is left out."""
    fake = StrictKling()
    async with transport_to(fake) as transport:
        accepted = await buy(transport, request_)
    assert (fake.violations, fake.left_to_default) == ([], [])
    assert fake.bought >= 1
    assert accepted.report.status in {Status.PENDING, Status.COMPLETED}


@pytest.mark.anyio
@pytest.mark.parametrize("request_", BARE, ids=name)
async def test_every_job_is_followed_to_its_result(request_: Request, anyio_backend: str) -> None:
    fake = StrictKling(reads_to_finish=2)
    async with transport_to(fake) as transport:
        accepted = await buy(transport, request_)
        ref = JobRef("kling", request_.endpoint.partition("/")[2], accepted.id)
        first = (await transport.run(transport.provider.poll([ref])))[ref]
        second = (await transport.run(transport.provider.poll([ref])))[ref]
    assert isinstance(first, StatusReport)
    assert isinstance(second, StatusReport)
    assert (first.status, second.status) == (Status.PENDING, Status.COMPLETED)
    assert second.artifacts
    assert all(artifact.url and artifact.expires for artifact in second.artifacts)
    assert fake.violations == []


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["drop", "500", "502", "504"])
@pytest.mark.parametrize("accept", [True, False])
@pytest.mark.parametrize("request_", [BARE[0], BARE[4]], ids=name)
async def test_a_lost_answer_buys_one_job(request_: Request, how: Any, *, accept: bool, anyio_backend: str) -> None:
    fake = StrictKling()
    async with transport_to(fake) as transport:
        for _ in range(2):
            fake.lose_next_answer(accept, how)
        accepted = await buy(transport, request_)
    assert accepted.id == ATTEMPT
    assert (fake.bought, fake.duplicates, fake.violations) == (1, [], [])


@pytest.mark.anyio
async def test_the_reason_of_a_failure_is_the_tasks_own(anyio_backend: str) -> None:
    fake = StrictKling(reads_to_finish=1)
    async with transport_to(fake) as transport:
        for request in (BARE[0], BARE[4]):
            fake.tasks.clear()
            fake.outcomes.append(KlingOutcome("the picture shows a person"))
            accepted = await buy(transport, request)
            ref = JobRef("kling", request.endpoint.partition("/")[2], accepted.id)
            report = (await transport.run(transport.provider.poll([ref])))[ref]
            assert isinstance(report, StatusReport)
            assert (report.status, report.message) == (Status.FAILED, "the picture shows a person")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("code", "kind"),
    [(1100, InsufficientCredits), (1101, InsufficientCredits), (1102, InsufficientCredits), (1304, Unauthorized)],
)
async def test_a_429_that_waiting_does_not_lift_is_final(code: int, kind: type[KlingError], anyio_backend: str) -> None:
    fake = StrictKling()
    fake.refuse_next(code)
    async with transport_to(fake) as transport:
        with pytest.raises(kind) as refused:
            await buy(transport, BARE[0])
    assert (refused.value.code, fake.requests["create"], fake.bought) == (str(code), 1, 0)


@pytest.mark.anyio
async def test_a_submission_waits_for_a_slot_with_a_bound(anyio_backend: str) -> None:
    """The first of the line asks, more and more seldom. Without any free slot it gives up."""
    fake = StrictKling(concurrency=0)
    provider = Kling(fake.key)
    provider.speed = 1000
    async with transport_to(fake, provider, slot_timeout=0.05) as transport:
        with pytest.raises(RateLimited, match="none became free in 0 s") as refused:
            await buy(transport, BARE[0])
    assert (refused.value.code, fake.bought) == ("1303", 0)


@pytest.mark.anyio
async def test_a_waiting_submission_does_not_hold_up_polls_or_other_models(anyio_backend: str) -> None:
    fake = StrictKling(concurrency=1, queued_seconds=0.1, running_seconds=0.1)
    provider = Kling(fake.key)
    provider.speed = 50
    async with transport_to(fake, provider) as transport:
        await buy(transport, kling.TextToVideo("one"), "6f1c1f0e-3c1b-4c7e-9a55-0d7f6a1f2b31")
        await buy(transport, kling.TextToVideo("two"), "6f1c1f0e-3c1b-4c7e-9a55-0d7f6a1f2b32")
        await buy(transport, kling.OmniImage("three"), "6f1c1f0e-3c1b-4c7e-9a55-0d7f6a1f2b33")
    assert (fake.bought, fake.violations) == (3, [])


@pytest.mark.anyio
async def test_a_token_works_for_the_older_endpoints_and_is_refused_before_the_others(anyio_backend: str) -> None:
    fake = StrictKling(reads_to_finish=1)
    provider = Kling(access_key=fake.access_key, secret_key=fake.secret_key)
    async with transport_to(fake, provider) as transport:
        accepted = await buy(transport, BARE[4])
        ref = JobRef("kling", "omni-image", accepted.id)
        report = (await transport.run(provider.poll([ref])))[ref]
        assert isinstance(report, StatusReport)
        assert report.status is Status.COMPLETED
        with pytest.raises(KlingError, match=r"kling/text-to-video needs an API key.*Nothing was sent"):
            await buy(transport, BARE[0])
        fake.refuse_next(1004)
        await buy(transport, kling.OmniImage("again"), "6f1c1f0e-3c1b-4c7e-9a55-0d7f6a1f2b3d")
    assert fake.bought == 2


@pytest.mark.anyio
async def test_a_batch_has_twenty_ids_and_names_the_unknown_ones(anyio_backend: str) -> None:
    fake = StrictKling()
    refs = [JobRef("kling", "text-to-video", ATTEMPT[:-2] + f"{n:02}") for n in range(45)]
    async with transport_to(fake) as transport:
        await buy(transport, BARE[0], refs[44].id)
        found = await transport.run(transport.provider.poll(refs))
    assert (fake.requests["read"], fake.violations) == (3, [])
    assert [type(found[ref]).__name__ for ref in (refs[0], refs[44])] == ["JobNotFound", "StatusReport"]


@pytest.mark.anyio
async def test_the_speech_whose_answer_is_lost_stays_unknown(anyio_backend: str) -> None:
    fake = StrictKling()
    fake.lose_next_answer(accept=True)
    async with transport_to(fake) as transport:
        with pytest.raises(KlingError) as lost:
            await buy(transport, SPEECH[0])
    assert type(lost.value).__name__ == "AnswerLost"
    assert (fake.bought, fake.requests["create"]) == (1, 1)

"""The sandbox's Replicate, on real sockets: as strict as the documents, and understood by the client."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette

from kling_async import (
    Client,
    Event,
    GenerationCancelled,
    GenerationFailed,
    InsufficientCredits,
    InvalidRequest,
    MemoryLedger,
    Polling,
    Progressive,
    Replicate,
    Request,
    SqliteLedger,
    Status,
    SubmissionUnknown,
    Unauthorized,
    Webhooks,
    replicate,
)
from kling_async.sandbox import Sandbox
from kling_async.starlette import webhook_route
from support.asgi_server import PATIENCE, Site, serve

pytestmark = pytest.mark.asyncio
IMAGE = "https://x.example/a.png"
VIDEO = "https://x.example/a.mp4"
QUICK = Polling(schedule=Progressive(0.01), status_calls_per_minute=1e9)
REQUESTS: list[Request] = [
    replicate.V3Video("a boat"),
    replicate.V3OmniVideo("<<<image_1>>> sails", references=[IMAGE]),
    replicate.O1Video("a boat"),
    replicate.V25TurboVideo("a boat"),
    replicate.V21Video("a boat", IMAGE),
    replicate.V20Video("a boat"),
    replicate.LipSync(VIDEO, speech="hello"),
    replicate.Request(model="somebody/other-model", input={"prompt": "a boat"}),
]


@pytest.fixture
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with Sandbox(speed=getattr(request, "param", 2000), scale=0.1, rate_limit=None) as running:
        yield running


def client_of(sandbox: Sandbox, **more: Any) -> Client:
    provider = Replicate(sandbox.api_key("replicate"), sandbox.base_url("replicate"))
    provider.speed = sandbox.state.clock.speed or 1.0
    return Client(provider, **{"polling": QUICK, **more})


def api_of(sandbox: Sandbox) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {sandbox.api_key('replicate')}"}
    return httpx.AsyncClient(base_url=sandbox.base_url("replicate"), headers=headers, trust_env=False)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
async def test_every_endpoint_makes_its_file(sandbox: Sandbox, request_: Request, tmp_path: Any) -> None:
    async with client_of(sandbox) as client:
        result = await client.run(request_)
        (path,) = await result.save(tmp_path)
    assert path.read_bytes()[4:8] == b"ftyp"
    assert result.artifacts[0].expires is not None
    assert sandbox.counters.bought["replicate"] == 1


async def test_how_a_job_fails_and_is_cancelled(sandbox: Sandbox) -> None:
    async with client_of(sandbox) as client:
        with pytest.raises(GenerationFailed, match="NSFW"):
            await client.run(replicate.V3Video("a boat [sandbox: fail=NSFW]"))
        job = await client.submit(replicate.V3Video("a boat [sandbox: stuck]"))
        assert await job.cancel()
        with pytest.raises(GenerationCancelled):
            await job


async def test_what_is_cancelled_before_its_start_is_aborted_and_not_billed() -> None:
    with Sandbox(speed=0, credits=1) as sandbox:
        async with client_of(sandbox) as client:
            job = await client.submit(replicate.V3Video("a boat [sandbox: duration=1000]", cancel_after=5))
            with pytest.raises(InsufficientCredits):
                await client.submit(replicate.V3Video("a boat"))
            sandbox.state.clock.advance(6)
            assert await job.refresh() is Status.CANCELLED
            assert "not billed" in str(job.events[-1].message)
            await client.submit(replicate.V3Video("a boat"))


async def test_lost_answers_are_found_in_the_list_or_stay_unknown(sandbox: Sandbox) -> None:
    """Nothing is sent twice, and every job that was bought is found by its input."""
    ledger = MemoryLedger()
    sandbox.faults.add("accept-then-reset:submit:every=2")
    async with client_of(sandbox, ledger=ledger) as client:
        for number in range(6):
            try:
                await client.submit(replicate.V3Video(f"boat {number}"), key=f"boat-{number}")
            except SubmissionUnknown:
                assert number % 2
        jobs = await client.resume()
        assert [job.key for job in jobs] == [f"boat-{number}" for number in range(6)]
        assert await client.unresolved() == []
        async with anyio.create_task_group() as group:
            for job in jobs:
                group.start_soon(job.result)
    assert sandbox.counters.bought["replicate"] == sandbox.counters.requests["replicate", "submit"] == 6


@pytest.mark.parametrize("fault", ["accept-then-reset", "server-error:accepted=true", "html", "cut-off", "empty-json"])
async def test_no_answer_is_a_reason_to_buy_twice(sandbox: Sandbox, fault: str) -> None:
    name, _, option = fault.partition(":")
    sandbox.faults.add(f"{name}:submit:times=1{',' if option else ''}{option}")
    async with client_of(sandbox, ledger=MemoryLedger()) as client:
        with pytest.raises(SubmissionUnknown):
            await client.submit(replicate.V3Video("a boat"), key="boat")
        (job,) = await client.resume()
        assert (await job).urls
    assert sandbox.counters.bought["replicate"] == sandbox.counters.requests["replicate", "submit"] == 1


@pytest.mark.parametrize("sandbox", [60], indirect=True)
async def test_signed_webhooks_end_a_job_without_a_poll(sandbox: Sandbox) -> None:
    async with api_of(sandbox) as api:
        secret = (await api.get("/webhooks/default/secret")).json()["key"]
    site = Site()
    own = "a secret of this test, and long"
    webhooks = Webhooks(f"{site.url}/kling", own, confirm=False, signing_secrets={"replicate": secret})
    async with (
        client_of(sandbox, webhooks=webhooks, polling=Polling()) as client,
        serve(site, Starlette(routes=[webhook_route(client, "/kling")])),
    ):
        with anyio.fail_after(PATIENCE):
            events: list[Event] = [event async for event in await client.submit(replicate.V3Video("a boat"))]
    assert (events[-1].status, events[-1].source) == (Status.COMPLETED, "webhook")
    assert set(site.statuses) == {200}
    assert sandbox.counters.status_calls == 0


async def test_a_webhook_with_the_signature_of_another_secret_is_refused(sandbox: Sandbox) -> None:
    site = Site()
    other = {"replicate": "whsec_b3RoZXJzZWNyZXRvdGhlcnNlY3JldG90aGVyc2VjcmU="}
    webhooks = Webhooks(f"{site.url}/kling", "a secret of this test, and long", confirm=False, signing_secrets=other)
    async with (
        client_of(sandbox, webhooks=webhooks) as client,
        serve(site, Starlette(routes=[webhook_route(client, "/kling")])),
    ):
        with anyio.fail_after(PATIENCE):
            job = await client.submit(replicate.V3Video("a boat"))
            await job
            await site.answered(1)
    assert {event.source for event in job.events} <= {"submit", "poll"}
    assert 200 not in site.statuses


async def test_a_large_image_is_uploaded_and_a_small_one_sent(sandbox: Sandbox) -> None:
    small, large = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64)).save(small, "PNG")
    Image.effect_noise((800, 800), 90).save(large, "PNG")
    assert len(large.getvalue()) > 256 * 1024
    async with client_of(sandbox) as client:
        await client.run(replicate.V21Video("a boat", small.getvalue()))
        assert sandbox.counters.requests["replicate", "upload"] == 0
        await client.run(replicate.V21Video("a boat", large.getvalue()))
    assert sandbox.counters.requests["replicate", "upload"] == 1
    assert sandbox.counters.bought["replicate"] == 2


async def test_the_sandbox_refuses_what_the_documents_do(sandbox: Sandbox) -> None:
    path = "/models/kwaivgi/kling-v3-video/predictions"
    async with api_of(sandbox) as api:

        async def said(body: Any, where: str = path, **headers: str) -> tuple[int, str]:
            answer = await api.post(where, json=body, headers=headers)
            assert answer.headers["content-type"] == "application/problem+json"
            return answer.status_code, answer.json()["detail"]

        assert await said({"prompt": "a boat"}) == (422, "prompt is not allowed; input is required, and an object")
        assert (await said({"input": {"prompt": "a boat", "duration": 99}}))[0] == 422
        assert (await said({"input": {"start_image": f"data:image/png;base64,{'A' * 300_000}", "prompt": "x"}}))[
            0
        ] == 422
        assert (await said({"input": {}, "webhook": "nowhere"}))[0] == 422
        assert (await said({"input": {"prompt": "x"}}, "/models/kwaivgi/kling-v9/predictions"))[0] == 404
        assert (await said({"input": {"prompt": "x"}}, prefer="wait=90"))[0] == 422
        assert (await said({"input": {"prompt": "x"}}, **{"cancel-after": "soon"}))[0] == 422
        assert (await api.get("/predictions/none")).status_code == 404
        assert (await api.get("/predictions?created_after=yesterday")).status_code == 422
    assert sandbox.counters.jobs_bought == 0
    async with Client(Replicate("r8_wrong", sandbox.base_url("replicate"))) as client:
        with pytest.raises(Unauthorized):
            await client.submit(replicate.V3Video("a boat"))
    async with client_of(sandbox) as client:
        with pytest.raises(InvalidRequest, match="version"):
            await client.submit(
                replicate.Request(model="kwaivgi/kling-v3-video", input={"prompt": "a", "version": "1"})
            )


async def test_the_list_has_pages_and_the_input_is_removed_after_an_hour() -> None:
    with Sandbox(speed=0) as sandbox:
        async with client_of(sandbox) as client, api_of(sandbox) as api:
            for number in range(130):
                await client.submit(replicate.V3Video(f"boat {number} [sandbox: duration=10]"))
            first = (await api.get("/predictions")).json()
            second = (await api.get(first["next"])).json()
            assert [len(first["results"]), len(second["results"])] == [100, 30]
            assert first["results"][0]["input"]["prompt"].startswith("boat 129")
            sandbox.state.clock.advance(3700)
            shown = (await api.get(f"/predictions/{first['results'][0]['id']}")).json()
            assert (shown["status"], shown["input"], shown["output"], shown["data_removed"]) == (
                "succeeded",
                {},
                None,
                True,
            )


async def test_the_same_key_buys_once(sandbox: Sandbox, tmp_path: Path) -> None:
    client = client_of(sandbox, ledger=SqliteLedger(tmp_path / "jobs.db"))
    async with client, anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(lambda: client.run(replicate.V3Video("a boat"), key="row-1"))
    assert sandbox.counters.bought["replicate"] == 1


async def test_the_token_is_never_sent_to_the_host_of_the_files(sandbox: Sandbox, tmp_path: Path) -> None:
    seen: list[httpx.Request] = []

    async def note(request: httpx.Request) -> None:
        seen.append(request)

    async with (
        httpx.AsyncClient(event_hooks={"request": [note]}, trust_env=False) as http,
        client_of(sandbox, http=http) as client,
    ):
        await (await client.run(replicate.V3Video("a boat"))).save(tmp_path)
    api = sandbox.base_url("replicate")
    files = [request for request in seen if not str(request.url).startswith(api)]
    assert files
    assert not any(sandbox.api_key("replicate") in str(request.headers.raw) for request in files)

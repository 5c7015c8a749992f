"""inference.sh on real sockets: the client against the sandbox's dialect, judged by the sandbox's counters."""

from __future__ import annotations

import io
import json
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from PIL import Image

import kling_async
from kling_async import Client, InferenceSh, Job, Limits, Polling, Progressive, Status, SubmissionUnknown, inferencesh
from kling_async._event_loop.clock import Clock
from kling_async._http.transport import ProviderTransport
from kling_async.providers.inferencesh.tasks import OLDER
from kling_async.sandbox import Fault, Sandbox
from kling_async.sandbox.providers.inferencesh import Options
from support.asgi_server import PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox(speed=100)]

NAME = "inferencesh"
REQUEST = inferencesh.ImageO1("a paper boat in the rain")
QUICK = Polling(schedule=Progressive(0.05), status_calls_per_minute=math.inf, deadline=30)
STAGES = ["received", "queued", "dispatched", "preparing", "serving", "setting_up", "running", "uploading", "completed"]


BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@pytest.fixture
def anyio_backend() -> str:
    """Asyncio alone, except for the tests marked `BOTH`. `test_streams` runs on both throughout."""
    return "asyncio"


@pytest.fixture
def habits(sandbox: Sandbox) -> Options:
    made = sandbox.options(NAME)
    assert isinstance(made, Options)
    return made


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[Client]:
    async with make_client(sandbox) as made:
        yield made


def make_client(sandbox: Sandbox, **settings: Any) -> Client:
    provider = InferenceSh(sandbox.api_key(NAME), sandbox.base_url(NAME), **settings)
    return Client(provider, polling=QUICK)


def picture(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (320, 320), (20, 90, 200)).save(file, kind)
    return file.getvalue()


def requests(sandbox: Sandbox) -> dict[str, int]:
    return {kind: count for (provider, kind), count in sandbox.counters.requests.items() if provider == NAME}


def names(job: Job) -> list[str]:
    """The stages in the log."""
    return [event.message or event.status for event in job.events]


def check_log(job: Job) -> None:
    """No event twice, none out of order, one end."""
    seen = names(job)
    assert seen == [stage for stage in STAGES if stage in seen]
    assert [event.seq for event in job.events] == list(range(len(seen)))
    assert [event.status.terminal for event in job.events] == [False] * (len(seen) - 1) + [True]


@BOTH
@pytest.mark.sandbox(speed=100, scale=None)
async def test_a_local_image_is_uploaded_and_the_result_saved(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    source = tmp_path / "in.jpeg"
    source.write_bytes(picture("JPEG"))
    job = await client.submit(inferencesh.ImageO1("a boat", source, resolution="2k", aspect_ratio="1:1"))
    result = await job
    [path] = await result.save(tmp_path)
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (2048, 2048))
    assert requests(sandbox) | {"status": 0} == {"upload": 2, "submit": 1, "stream": 1, "download": 1, "status": 0}
    [made] = sandbox.state.jobs.values()
    async with httpx.AsyncClient(trust_env=False) as other:
        stored = await other.get(made.order.params["input"]["image"])
    assert stored.content == source.read_bytes()


@BOTH
@pytest.mark.sandbox(speed=60)  # each status lasts long enough to be sent, also by a slow machine
async def test_a_job_is_followed_on_one_stream(sandbox: Sandbox, client: Client) -> None:
    job = await client.submit(REQUEST)
    await job
    check_log(job)
    assert names(job)[-2:] == ["uploading", "completed"]
    assert {event.source for event in job.events[1:]} == {"stream"}
    assert requests(sandbox) == {"submit": 1, "stream": 1}


@BOTH
async def test_events_can_be_iterated(client: Client) -> None:
    job = await client.submit(REQUEST)
    assert [event async for event in job] == list(job.events)
    check_log(job)


@BOTH
@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_stream_is_taken_up_again(
    sandbox: Sandbox, client: Client, habits: Options, *, reset: bool
) -> None:
    sandbox.plan_next(NAME, duration=100)
    habits.lines, habits.reset = 2, reset
    job = await client.submit(REQUEST)
    await job
    check_log(job)
    assert requests(sandbox)["stream"] >= 3
    assert sandbox.counters.bought[NAME] == 1


@BOTH
async def test_when_no_stream_holds_the_job_is_polled(sandbox: Sandbox, client: Client, habits: Options) -> None:
    sandbox.plan_next(NAME, duration=100)
    habits.lines = 0
    job = await client.submit(REQUEST)
    await job
    check_log(job)
    assert job.events[-1].source == "poll"
    assert requests(sandbox)["stream"] == 5
    assert requests(sandbox)["status"] >= 3


@pytest.mark.parametrize(
    "fault",
    [
        Fault.reset_before_reading,
        Fault.accept_then_reset,
        Fault.server_error,
        Fault.unavailable,
        Fault.rate_limited,
        Fault.html,
        Fault.empty_json,
        Fault.wrong_types,
        Fault.unknown_status,
        Fault.huge_headers,
    ],
)
async def test_whatever_streams_suffer_the_job_ends_well(sandbox: Sandbox, client: Client, fault: Fault) -> None:
    sandbox.plan_next(NAME, duration=60)
    sandbox.faults.add(fault, provider=NAME, kind="stream", seconds=0.1)
    job = await client.submit(REQUEST)
    await job
    check_log(job)
    assert requests(sandbox)["stream"] <= 10, "five, each sent once more where the connection seemed stale"
    assert sandbox.counters.bought[NAME] == 1


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_the_lines_of_a_stream_are_spoiled_as_they_come(
    sandbox: Sandbox, client: Client, habits: Options, accept: str
) -> None:
    """Not once the stream has ended: its first line is there while the task runs on."""
    sandbox.plan_next(NAME, stuck=True)
    habits.statuses = "words"
    job = await client.submit(REQUEST)
    headers = {"accept": accept, "authorization": f"Bearer {sandbox.api_key(NAME)}"}
    address = f"{sandbox.base_url(NAME)}/tasks/{job.ref.id}/stream"
    spoiled = {Fault.wrong_types: 12345, Fault.unknown_status: "reticulating"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as other:
        for fault, status in spoiled.items():
            rule = sandbox.faults.add(fault, kind="stream")
            async with other.stream("GET", address) as answer:
                assert answer.status_code == 200
                lines = answer.aiter_lines()
                first = await anext(lines)
                if accept == "text/event-stream":
                    assert first == "event: update"
                    first = (await anext(lines)).removeprefix("data: ")
                assert json.loads(first)["status"] == status
                await lines.aclose()  # type: ignore[attr-defined]  # httpx says that it is any iterator
            sandbox.faults.remove(rule)
    assert sandbox.counters.faults == dict.fromkeys(spoiled, 1)


@pytest.mark.parametrize("fault", [Fault.wrong_types, Fault.unknown_status])
async def test_an_empty_answer_has_nothing_to_spoil(sandbox: Sandbox, client: Client, fault: Fault) -> None:
    """An upload's second call is answered by an empty body: that stays, and is no error of the server's."""
    sandbox.faults.add(fault, provider=NAME, kind="upload", skip=1)
    result = await client.run(inferencesh.ImageO1("a boat", picture()))
    assert result.urls
    assert not sandbox.counters.refused


async def test_ten_minutes_of_heartbeats_are_no_failure() -> None:
    async with Sandbox(speed=600) as sandbox, make_client(sandbox) as client:
        sandbox.plan_next(NAME, duration=600)
        sandbox.options(NAME).deaf = True
        job = await client.submit(REQUEST)
        await job
        check_log(job)
        assert job.status is Status.COMPLETED
        assert sandbox.state.clock.now() >= 600
        assert requests(sandbox)["stream"] == 1


@pytest.mark.sandbox(speed=0)
async def test_progress_is_reported_where_it_is_given(sandbox: Sandbox, client: Client, habits: Options) -> None:
    habits.progress = True
    job = await client.submit(REQUEST)

    async def pass_time() -> None:
        while not job.status.terminal:
            sandbox.state.clock.advance(1)
            await anyio.sleep(0.01)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(pass_time)
            await job
    parts = [event.progress for event in job.events]
    assert parts[0] == 0
    assert parts[-1] == 1
    assert None not in parts
    assert parts == sorted(part for part in parts if part is not None)


@pytest.mark.parametrize("envelope", ["current", "v1", "v2"])
@pytest.mark.parametrize("statuses", ["current", "older", "words"])
async def test_every_envelope_with_every_kind_of_status(
    sandbox: Sandbox, habits: Options, envelope: Any, statuses: Any
) -> None:
    habits.envelope, habits.statuses = envelope, statuses
    table = {"statuses": OLDER} if statuses == "older" else {}
    async with make_client(sandbox, **table) as client:
        job = await client.submit(REQUEST)
        result = await job
        assert len(result.urls) == 1
        check_log(job)
        assert await client.attach(job.ref).refresh() is Status.COMPLETED
        sandbox.plan_next(NAME, fail="WORKER_LOST")
        failed = await client.submit(REQUEST)
        with pytest.raises(kling_async.GenerationFailed, match="WORKER_LOST") as failure:
            await failed
        assert (failure.value.code, failure.value.retryable) == ("WORKER_LOST", True)


@BOTH
async def test_a_job_is_cancelled_for_real(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan_next(NAME, stuck=True)
    job = await client.submit(REQUEST)
    assert await job.cancel() is True
    with pytest.raises(kling_async.GenerationCancelled):
        await job
    assert await job.cancel() is False, "nothing is asked any more"
    [made] = sandbox.state.jobs.values()
    assert made.cancelled is not None
    assert requests(sandbox)["cancel"] == 1


@pytest.mark.parametrize("envelope", ["current", "v1"])
async def test_cancelling_an_ended_job_says_so(
    sandbox: Sandbox, client: Client, habits: Options, envelope: Any
) -> None:
    habits.envelope = envelope
    job = await client.submit(REQUEST)
    await job
    stranger = client.attach(job.ref)
    assert await stranger.cancel() is False
    assert stranger.status is Status.COMPLETED
    assert requests(sandbox)["cancel"] == 1


@pytest.mark.parametrize("envelope", ["current", "v1", "v2"])
async def test_an_empty_account_is_reported_in_every_envelope(envelope: Any) -> None:
    async with Sandbox(speed=100, credits=0.05) as poor, make_client(poor) as client:
        poor.options(NAME).envelope = envelope
        await client.submit(REQUEST)
        with pytest.raises(kling_async.InsufficientCredits):
            await client.submit(REQUEST)
        assert poor.counters.bought[NAME] == 1


async def test_a_wrong_key_is_reported(sandbox: Sandbox) -> None:
    async with Client(InferenceSh("inf_wrong", sandbox.base_url(NAME))) as client:
        with pytest.raises(kling_async.Unauthorized, match="INFERENCE_API_KEY"):
            await client.submit(REQUEST)
    assert sandbox.counters.bought[NAME] == 0


async def test_a_lost_submission_is_found_in_the_list(sandbox: Sandbox, client: Client) -> None:
    """One that was bought is found. One that never arrived is not."""
    since = datetime.now(UTC)
    sandbox.faults.add(Fault.accept_then_reset, kind="submit", times=1)
    with pytest.raises(SubmissionUnknown):
        await client.submit(REQUEST)
    await client.submit(inferencesh.ImageO1("something else"))
    provider = InferenceSh(sandbox.api_key(NAME), sandbox.base_url(NAME))
    transport = ProviderTransport(provider, Limits(), None, Clock())
    try:
        [found] = await transport.run(provider.search(REQUEST, None, since))
        assert await transport.run(provider.search(inferencesh.ImageO1("never sent"), None, since)) == []
        assert await transport.run(provider.search(REQUEST, "https://example.com/never-sent", since)) == []
    finally:
        await transport.aclose()
    job = client.attach(f"inferencesh/image-o1/{found.id}")
    assert (await job).ref.id == found.id
    assert sandbox.counters.bought[NAME] == 2


async def test_the_callback_address_tells_twins_apart(sandbox: Sandbox, client: Client) -> None:
    since = datetime.now(UTC) - timedelta(seconds=1)
    addresses = [f"https://hooks.invalid/{number}" for number in range(3)]
    jobs = [await client.submit(REQUEST.model_copy(update={"callback_url": address})) for address in addresses]
    provider = InferenceSh(sandbox.api_key(NAME), sandbox.base_url(NAME))
    transport = ProviderTransport(provider, Limits(), None, Clock())
    try:
        for job, address in zip(jobs, addresses, strict=True):
            [found] = await transport.run(provider.search(REQUEST, address, since))
            assert found.id == job.ref.id
    finally:
        await transport.aclose()


@pytest.mark.parametrize("statuses", ["current", "older", "words"])
@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_a_webhook_body_is_read_whatever_its_numbers_mean(
    sandbox: Sandbox, client: Client, habits: Options, statuses: Any, end: str
) -> None:
    """Where the number alone cannot tell, the reading has no status, which means: poll."""
    habits.statuses = statuses
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610  # anyio's, not Django's
    arrived: list[bytes] = []

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            text = b""
            while not text.endswith(b"}"):
                text += await stream.receive()
            arrived.append(text.partition(b"\r\n\r\n")[2])
            await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        group.cancel_scope.cancel()

    if end == "failed":
        sandbox.plan_next(NAME, fail="TIMEOUT")
    if end == "cancelled":
        sandbox.plan_next(NAME, stuck=True)
    with anyio.fail_after(20):
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, answer)
            job = await client.submit(REQUEST.model_copy(update={"callback_url": f"http://127.0.0.1:{port}/"}))
            if end == "cancelled":
                await job.cancel()
    [delivered] = InferenceSh("key").parse_webhook(arrived[0], {})
    expected = None if (end, statuses) == ("cancelled", "older") else Status(end)
    assert (delivered.id, delivered.report.status) == (job.ref.id, expected)
    assert set(httpx.Response(200, content=arrived[0]).json()) == {
        "id",
        "status",
        "output",
        "error",
        "session_id",
        "created_at",
        "updated_at",
    }


# The dialect's strictness.


@pytest.fixture
async def bare(sandbox: Sandbox) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client with the customer's key."""
    headers = {"authorization": f"Bearer {sandbox.api_key(NAME)}"}
    async with httpx.AsyncClient(base_url=sandbox.base_url(NAME), headers=headers, trust_env=False) as made:
        yield made


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"app": "klingai/image-o1", "input": {"prompt": "x"}}, 200),
        ({"app": "klingai/image-o1@ab1:run", "input": {"prompt": "x", "image": None}, "infra": "cloud"}, 200),
        ({"app": "klingai/image-o1", "input": {}}, 422),
        ({"app": "klingai/image-o1", "input": {"prompt": "x", "n": 10}}, 422),
        ({"app": "klingai/image-o1", "input": {"prompt": "x", "n": "1"}}, 422),
        ({"app": "klingai/image-o1", "input": {"prompt": "x", "seed": 1}}, 422),
        ({"app": "klingai/image-o1", "input": {"prompt": "x", "image": "in.png"}}, 422),
        ({"app": "klingai/image-o1", "input": {"prompt": "x"}, "callback_url": "https://example.com"}, 422),
        ({"app": "klingai/image-o1", "input": {"prompt": "x"}, "webhook": "http://example.com"}, 422),
        ({"app": "klingai/unheard-of", "input": {"prompt": "x"}}, 404),
        ({"input": {"prompt": "x"}}, 422),
        ([], 422),
    ],
)
async def test_runs_are_checked_strictly(sandbox: Sandbox, bare: httpx.AsyncClient, body: Any, status: int) -> None:
    answer = await bare.post("/apps/run", json=body)
    assert answer.status_code == status, answer.text
    assert sandbox.counters.bought[NAME] == (1 if status == 200 else 0)
    if status != 200:
        assert answer.json()["type"].startswith("https://api.inference.sh/errors/")


async def test_an_upload_must_be_what_was_announced(bare: httpx.AsyncClient) -> None:
    content = picture()
    announced = {"filename": "a.png", "content_type": "image/png", "size": len(content)}
    [file] = (await bare.post("/files", json={"files": [announced]})).json()["data"]
    png = {"content-type": "image/png"}
    run = {"app": "klingai/image-o1", "input": {"prompt": "x", "image": file["uri"]}}
    async with httpx.AsyncClient(trust_env=False) as stranger:
        url = file["upload_url"]
        refusals = [
            await stranger.put(url.partition("?")[0], content=content, headers=png),
            await stranger.put(url, content=content, headers={"content-type": "image/jpeg"}),
            await stranger.put(url, content=content[:-1], headers=png),
            await stranger.put(url, content=content + b"x", headers=png),
            await bare.put(url, content=content, headers=png),
        ]
        assert [refusal.status_code for refusal in refusals] == [403, 403, 400, 400, 400]
        assert (await bare.post("/apps/run", json=run)).status_code == 422, "it has not come yet"
        assert (await stranger.put(url, content=content, headers=png)).status_code == 200
    assert (await bare.post("/apps/run", json=run)).status_code == 200


async def test_without_the_accept_header_a_stream_is_of_events(bare: httpx.AsyncClient) -> None:
    task = (await bare.post("/apps/run", json={"app": "klingai/image-o1", "input": {"prompt": "x"}})).json()["data"]
    answer = await bare.get(f"/tasks/{task['id']}/stream")
    assert answer.headers["content-type"].startswith("text/event-stream")
    provider = InferenceSh("key")
    stream = provider.stream(kling_async.JobRef(NAME, "image-o1", task["id"]))
    reports = [stream.read(line) for line in answer.text.splitlines() if line]
    assert [report.status for report in reports if report is not None][-1] is Status.COMPLETED


async def test_the_list_has_pages(bare: httpx.AsyncClient) -> None:
    for number in range(5):
        await bare.post("/apps/run", json={"app": "klingai/image-o1", "input": {"prompt": f"{number}"}})
    first = (await bare.post("/tasks/list", json={"limit": 3})).json()["data"]
    rest = (await bare.post("/tasks/list", json={"limit": 3, "cursor": first["next_cursor"]})).json()["data"]
    assert [item["input"]["prompt"] for item in first["items"] + rest["items"]] == ["4", "3", "2", "1", "0"]
    assert (first["has_next"], rest["has_next"], rest["has_previous"]) == (True, False, True)

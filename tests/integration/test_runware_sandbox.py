"""Runware on real sockets: the client against the sandbox, judged by the sandbox's counters, and the sandbox itself."""

from __future__ import annotations

import io
import json
import queue
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import kling_async
from kling_async import Client, Cost, GenerationFailed, JobRef, Limits, Polling, Progressive, Runware, Status, runware
from kling_async.providers._base.images import data_uri as data_uri_of
from kling_async.providers.runware.request import SIZES
from kling_async.sandbox import Fault, Sandbox, ScriptedOutcome

pytestmark = pytest.mark.sandbox(speed=200, scale=0.05)

ImageO3 = runware.ImageO3
QUICK = Polling(schedule=Progressive(0.05), deadline=30)
BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
AIR = "klingai:kling-image@o3"
PATIENCE = 120


@pytest.fixture
def anyio_backend() -> str:
    """What the wire does is read by the same code on both libraries: asyncio alone, except for tests marked `BOTH`."""
    return "asyncio"


@pytest.fixture
async def client(sandbox: Sandbox) -> AsyncIterator[Client]:
    async with Client(provider(sandbox), polling=QUICK) as made:
        yield made


def provider(sandbox: Sandbox, kind: type[Runware] = Runware) -> Runware:
    return kind(sandbox.api_key("runware"), sandbox.base_url("runware"))


def bought(sandbox: Sandbox) -> int:
    return sandbox.counters.bought["runware"]


def requests(sandbox: Sandbox, kind: str) -> int:
    return sandbox.counters.requests["runware", kind]


# Whole jobs.


@BOTH
@pytest.mark.anyio
async def test_a_job_from_submission_to_file(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    job = await client.submit(ImageO3(prompt="a boat", resolution="1k", aspect_ratio="16:9", output_format="png"))
    result = await job
    [path] = await result.save(tmp_path)
    assert path.suffix == ".png"
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > image.height
    assert result.cost is not None
    assert (str(result.cost), result.artifacts[0].flagged) == ("$0.028", None)
    assert bought(sandbox) == 1


@pytest.mark.anyio
async def test_every_image_is_an_event(sandbox: Sandbox, client: Client) -> None:
    """Images come one by one, and so do the events. The last one ends the job."""
    sandbox.state.clock.speed = 0
    job = await client.submit(ImageO3(prompt="boats", count=3, safety="fast"))
    planned = sandbox.state.jobs[job.ref.id.partition("~")[0]]
    await job.refresh()
    assert job.status is Status.PENDING
    seen = []
    for file in planned.files:
        sandbox.state.clock.advance(file.ready - sandbox.state.clock.now())
        await job.refresh()
        seen.append((job.status, len(job.events[-1].artifacts)))
    assert seen == [(Status.PROCESSING, 1), (Status.PROCESSING, 2), (Status.COMPLETED, 3)]
    assert [event.seq for event in job.events] == list(range(len(job.events)))
    result = await job
    assert len({artifact.id for artifact in result.artifacts}) == 3
    assert len({artifact.seed for artifact in result.artifacts}) == 3
    assert [artifact.flagged for artifact in result.artifacts] == [False] * 3
    assert str(result.cost) == "$0.084"


@pytest.mark.parametrize("delivery", ["async", "sync"])
@pytest.mark.parametrize("output_type", ["URL", "base64Data", "dataURI"])
@pytest.mark.anyio
async def test_every_output_ends_as_files(
    sandbox: Sandbox, client: Client, tmp_path: Path, delivery: str, output_type: str
) -> None:
    fields = {"prompt": "x", "count": 2, "delivery": delivery, "output_type": output_type, "output_format": "webp"}
    result = await client.run(ImageO3.model_validate(fields))
    paths = await result.save(tmp_path)
    assert len(set(paths)) == 2
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "WEBP"
    assert bool(result.urls) == (output_type == "URL")
    assert (requests(sandbox, "status") == 0) == (delivery == "sync")
    assert requests(sandbox, "download") == (2 if output_type == "URL" else 0)


@pytest.mark.anyio
async def test_cost_is_reported_only_where_it_was_asked_for(client: Client) -> None:
    assert (await client.run(ImageO3(prompt="x", include_cost=False))).cost is None


@pytest.mark.anyio
async def test_a_partial_success_is_reported_as_it_is(sandbox: Sandbox, client: Client, tmp_path: Path) -> None:
    """Some images and some errors: the job completed, with the failures listed, and the cost of what was made."""
    sandbox.state.plan_next(ScriptedOutcome(fail="timeoutProvider", files=1), provider="runware")
    result = await client.run(ImageO3(prompt="x", count=3))
    assert len(result.artifacts) == 2
    assert [(failure.code, failure.retryable) for failure in result.failures] == [("timeoutProvider", True)]
    assert str(result.cost) == "$0.056"
    assert len(await result.save(tmp_path)) == 2


@pytest.mark.parametrize(("code", "retryable"), [("timeoutProvider", True), ("contentPolicyViolation", False)])
@pytest.mark.parametrize("delivery", ["async", "sync"])
@pytest.mark.anyio
async def test_no_image_at_all_is_a_failure(
    sandbox: Sandbox, client: Client, code: str, delivery: str, *, retryable: bool
) -> None:
    sandbox.plan_next("runware", fail=code)
    with pytest.raises(GenerationFailed) as failed:
        await client.run(ImageO3.model_validate({"prompt": "x", "count": 2, "delivery": delivery}))
    assert (failed.value.code, failed.value.retryable) == (code, retryable)
    assert len(failed.value.job.events[-1].failures) == 2


@pytest.mark.anyio
async def test_a_runware_job_cannot_be_cancelled(client: Client) -> None:
    job = await client.submit(ImageO3(prompt="x"))
    with pytest.raises(kling_async.ConfigurationError, match="no way to cancel"):
        await job.cancel()


@pytest.mark.anyio
async def test_attaching_needs_no_more_than_the_uuid(sandbox: Sandbox, client: Client) -> None:
    """The count in the reference is our own knowledge. Without it the rows tell the end."""
    job = await client.submit(ImageO3(prompt="x", count=3))
    assert job.ref.id.endswith("~3")
    async with Client(provider(sandbox), polling=QUICK) as other:
        by_text = await other.attach(str(job.ref))
        by_uuid = await other.attach(f"runware/image-o3/{job.ref.id.partition('~')[0]}")
    assert len(by_text.artifacts) == len(by_uuid.artifacts) == 3


# Lost answers.


@pytest.mark.parametrize(
    "fault",
    [
        Fault.accept_then_reset,
        Fault.cut_off,
        Fault.truncated_json,
        Fault.html,
        Fault.empty_json,
        Fault.wrong_types,
        Fault.reset_before_reading,
    ],
)
@pytest.mark.anyio
async def test_a_lost_answer_buys_one_job_and_finds_it(sandbox: Sandbox, client: Client, fault: Fault) -> None:
    """The same taskUUID is sent again, and "exists already" is the receipt."""
    sandbox.faults.add(fault, provider="runware", kind="submit", times=1)
    result = await client.run(ImageO3(prompt="x"))
    assert len(result.urls) == 1
    assert bought(sandbox) == 1
    assert requests(sandbox, "submit") == 2
    assert set(sandbox.state.jobs) == {result.ref.id}


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.anyio
async def test_a_server_error_after_the_purchase_buys_one_job(sandbox: Sandbox, client: Client, *, bare: bool) -> None:
    sandbox.faults.add(Fault.server_error, provider="runware", kind="submit", times=1, accepted=True, bare=bare)
    await client.run(ImageO3(prompt="x"))
    assert (bought(sandbox), requests(sandbox, "submit")) == (1, 2)


@BOTH
@pytest.mark.anyio
async def test_many_lost_answers_buy_one_job_each(sandbox: Sandbox, client: Client) -> None:
    sandbox.faults.add(Fault.accept_then_reset, provider="runware", kind="submit", times=20)
    jobs: list[kling_async.Job] = []

    async def submit(number: int) -> None:
        jobs.append(await client.submit(ImageO3(prompt=f"boat {number}")))

    async with anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(submit, number)
    assert len({job.ref for job in jobs}) == bought(sandbox) == 60
    assert requests(sandbox, "submit") == 80
    assert {job.ref.id for job in jobs} == set(sandbox.state.jobs)


@pytest.mark.anyio
async def test_an_answer_that_never_comes_is_unknown_and_bought_once(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.accept_then_reset, provider="runware", kind="submit")
    async with Client(provider(sandbox), polling=QUICK, limits=Limits(max_attempts=2)) as client:
        with pytest.raises(kling_async.SubmissionUnknown):
            await client.submit(ImageO3(prompt="x"))
    assert bought(sandbox) == 1


@pytest.mark.anyio
async def test_a_sync_answer_lost_to_a_gateway_is_polled_for(sandbox: Sandbox, client: Client) -> None:
    sandbox.plan_next("runware", duration=150)
    result = await client.run(ImageO3(prompt="x", delivery="sync"))
    assert len(result.urls) == 1
    assert bought(sandbox) == 1
    assert sandbox.counters.refused["runware", 504] == 1
    assert requests(sandbox, "status") >= 1


# Refusals.


@pytest.mark.anyio
async def test_an_empty_account_refuses_and_sells_nothing() -> None:
    async with Sandbox(credits={"runware": 0.05}) as sandbox, Client(provider(sandbox)) as client:
        await client.submit(ImageO3(prompt="x"))
        with pytest.raises(kling_async.InsufficientCredits) as refused:
            await client.submit(ImageO3(prompt="y"))
        assert (refused.value.http_status, refused.value.code) == (402, "insufficientCredits")
        assert bought(sandbox) == 1


@pytest.mark.anyio
async def test_a_wrong_key_is_refused_and_not_repeated(sandbox: Sandbox) -> None:
    async with Client(Runware("rw-wrong", sandbox.base_url("runware"))) as client:
        with pytest.raises(kling_async.Unauthorized) as refused:
            await client.submit(ImageO3(prompt="x"))
        assert "rw-wrong" not in str(refused.value)
    assert requests(sandbox, "submit") == 1


@pytest.mark.anyio
async def test_a_reference_that_runware_refuses_is_an_invalid_request(sandbox: Sandbox, client: Client) -> None:
    with pytest.raises(kling_async.InvalidRequest, match="invalidReferenceImages"):
        await client.submit(ImageO3(prompt="x", references=(str(uuid.uuid4()),)))
    assert bought(sandbox) == 0


@pytest.mark.anyio
async def test_a_job_not_known_at_first_is_only_late(sandbox: Sandbox, client: Client) -> None:
    sandbox.faults.add(Fault.not_found_at_first, provider="runware", polls=3, times=1)
    assert len((await client.run(ImageO3(prompt="x"))).urls) == 1


# Polls together.


@pytest.mark.anyio
async def test_a_reference_that_spoils_the_batch_harms_only_itself(sandbox: Sandbox, client: Client) -> None:
    """An array with a UUID of another version is refused as a whole. The halves find it."""
    jobs = [await client.submit(ImageO3(prompt=f"boat {number}")) for number in range(20)]
    stranger = client.attach("runware/image-o3/6f1c1f0e-3c1b-1c7e-9a55-0d7f6a1f2b3c")
    async with anyio.create_task_group() as group:
        group.start_soon(stranger.wait, 5)
        for job in jobs:
            group.start_soon(job.wait)
        for job in jobs:
            await job
        group.cancel_scope.cancel()
    assert sandbox.counters.refused["runware", 400] >= 1
    assert stranger.status is Status.PENDING


@pytest.mark.anyio
async def test_inline_jobs_travel_alone_and_the_others_together(sandbox: Sandbox, client: Client) -> None:
    sandbox.state.clock.speed = 0
    fields = [{}, {}, {}, {"output_type": "base64Data"}]
    jobs = [await client.submit(ImageO3.model_validate({"prompt": "x", **more})) for more in fields]
    sandbox.state.clock.advance(600)
    flow = provider(sandbox).poll([job.ref for job in jobs])
    transport = client._sessions["runware"].transport
    reports = await transport.run(flow)
    assert [report.status for report in reports.values()] == [Status.COMPLETED] * 4  # type: ignore[union-attr]  # no errors
    assert requests(sandbox, "status") == 2


@pytest.mark.anyio
@pytest.mark.sandbox(speed=10)
async def test_one_status_call_asks_for_many_of_hundreds_of_jobs(sandbox: Sandbox) -> None:
    """More than twenty on an idle machine. Fewer are due together where a busy one buys them slowly."""
    calls = asked = 0

    async def count(request: httpx.Request) -> None:
        nonlocal calls, asked
        tasks = json.loads(await request.aread()) if request.method == "POST" else []
        wanted = sum(task["taskType"] == "getResponse" for task in tasks)
        calls += bool(wanted)
        asked += wanted

    polling = Polling(schedule=Progressive(1.0), deadline=600)
    sandbox.plan_next("runware", duration=60, times=200)
    rows = [ImageO3(prompt=f"boat {number}") for number in range(200)]
    async with (
        httpx.AsyncClient(event_hooks={"request": [count]}, trust_env=False) as http,
        Client(provider(sandbox), polling=polling, http=http) as client,
        client.map(rows, in_flight=200) as outcomes,
    ):
        errors = [outcome.error async for outcome in outcomes]
    assert errors == [None] * 200
    assert bought(sandbox) == 200
    assert calls == requests(sandbox, "status")
    assert asked >= 5 * calls, (asked, calls)


# Webhooks, as the sandbox sends them.


@pytest.mark.anyio
async def test_each_image_is_called_back_and_our_reader_understands_it(sandbox: Sandbox, client: Client) -> None:
    sandbox.state.plan_next(ScriptedOutcome(fail="timeoutProvider", files=1), provider="runware")
    job = await client.submit(ImageO3(prompt="x", count=3, callback_url=f"{sandbox.url}/nobody-listens"))
    await job
    with anyio.fail_after(10):
        while len(sandbox.deliveries) < 3:  # noqa: ASYNC110  # another thread delivers
            await anyio.sleep(0.01)
    made, failed = [], []
    for delivery in sandbox.deliveries[:3]:
        [reported] = provider(sandbox).parse_webhook(delivery.body, {})
        assert reported.id == job.ref.id.partition("~")[0]
        assert reported.report.status is Status.PROCESSING
        made += [str(artifact.id) for artifact in reported.report.artifacts]
        failed += [failure.code for failure in reported.report.failures]
    assert sorted(made) == sorted(str(artifact.id) for artifact in (await job).artifacts)
    assert failed == ["timeoutProvider"]


# The dialect.


@pytest.fixture
def world() -> Iterator[Sandbox]:
    with Sandbox(speed=0, scale=0.05, rate_limit=100) as running:
        yield running


@pytest.fixture
def post(world: Sandbox) -> Iterator[Any]:
    with httpx.Client(trust_env=False, timeout=30) as http:

        def send(*tasks: Any, key: str | None = None) -> httpx.Response:
            header = {"authorization": f"Bearer {key or world.api_key('runware')}"} if key != "" else {}
            return http.post(world.base_url("runware"), json=list(tasks), headers=header)

        yield send


def task(**more: Any) -> dict[str, Any]:
    named = {"taskType": "imageInference", "taskUUID": str(uuid.uuid4()), "model": AIR, "positivePrompt": "a boat"}
    return {**named, "width": 1024, "height": 1024, "deliveryMethod": "async", **more}


def poll(identity: str) -> dict[str, Any]:
    return {"taskType": "getResponse", "taskUUID": identity}


@pytest.mark.parametrize(
    ("fields", "code", "parameter"),
    [
        ({"positivePrompt": ""}, "invalidPositivePrompt", "positivePrompt"),
        ({"positivePrompt": "x" * 2501}, "invalidPositivePrompt", "positivePrompt"),
        ({"model": "klingai:kling-image@2"}, "invalidModel", "model"),
        ({"width": 1000}, "invalidDimensions", ["width", "height"]),
        ({"width": "1024"}, "invalidWidth", "width"),
        ({"numberResults": 21}, "invalidNumberResults", "numberResults"),
        ({"outputQuality": 100}, "invalidOutputQuality", "outputQuality"),
        ({"outputFormat": "jpeg"}, "invalidOutputFormat", "outputFormat"),
        ({"outputType": "url"}, "invalidOutputType", "outputType"),
        ({"ttl": 59}, "invalidTtl", "ttl"),
        ({"ttl": 60, "outputType": "dataURI"}, "incompatibleParameters", "ttl"),
        ({"seed": 1}, "unsupportedSeed", "seed"),
        ({"resolution": "1k"}, "unsupportedResolution", "resolution"),
        ({"webhookURL": "http://example.com"}, "invalidWebhookURL", "webhookURL"),
        ({"deliveryMethod": "stream"}, "invalidDeliveryMethod", "deliveryMethod"),
        ({"inputs": {"referenceImages": []}}, "invalidInputs", "inputs.referenceImages"),
        ({"inputs": {"image": "x"}}, "unsupportedInputs", "inputs.image"),
        ({"inputs": {"referenceImages": ["https://x.invalid/a"]}}, "invalidReferenceImages", "inputs.referenceImages"),
        ({"inputs": {"referenceImages": ["a.png"]}}, "invalidReferenceImages", "inputs.referenceImages"),
        ({"includeCost": 1}, "invalidIncludeCost", "includeCost"),
        ({"safety": {"mode": "full"}}, "invalidSafety", "safety.mode"),
    ],
)
def test_the_sandbox_refuses_what_runware_refuses(
    world: Sandbox, post: Any, fields: dict[str, Any], code: str, parameter: Any
) -> None:
    sent = task(**fields)
    reply = post(sent)
    [error] = reply.json()["errors"]
    assert (reply.status_code, error["code"], error["parameter"]) == (400, code, parameter)
    assert error["taskUUID"] == sent["taskUUID"]
    assert bought(world) == 0


@pytest.mark.parametrize("missing", ["taskUUID", "model", "positivePrompt", "width", "height"])
def test_the_sandbox_names_what_is_missing(world: Sandbox, post: Any, missing: str) -> None:
    reply = post({name: value for name, value in task().items() if name != missing})
    code = "invalidTaskUUID" if missing == "taskUUID" else f"missing{missing[0].upper()}{missing[1:]}"
    assert (reply.status_code, reply.json()["errors"][0]["code"]) == (400, code)
    assert bought(world) == 0


def test_every_task_of_an_array_has_its_own_outcome(world: Sandbox, post: Any) -> None:
    good, bad, twice = task(), task(width=1), task()
    reply = post(good, bad, twice, twice)
    assert reply.status_code == 200
    assert [row["taskUUID"] for row in reply.json()["data"]] == [good["taskUUID"], twice["taskUUID"]]
    errors = {row["taskUUID"]: row["code"] for row in reply.json()["errors"]}
    assert errors == {bad["taskUUID"]: "invalidDimensions", twice["taskUUID"]: "conflictTaskUUID"}
    assert bought(world) == 2


def test_a_task_uuid_is_sold_once(world: Sandbox, post: Any) -> None:
    sent = task()
    assert post(sent).json() == {"data": [{"taskType": "imageInference", "taskUUID": sent["taskUUID"]}]}
    reply = post({**sent, "positivePrompt": "another"})
    assert (reply.status_code, reply.json()["errors"][0]["code"]) == (400, "conflictTaskUUID")
    assert bought(world) == 1


def test_rows_grow_until_all_are_there(world: Sandbox, post: Any) -> None:
    """No rows in the queue, then a row for every image, cumulative. An unknown task has none ever."""
    sent = task(numberResults=2, includeCost=True)
    identity = sent["taskUUID"]
    post(sent)
    job = world.state.jobs[identity]

    def words() -> list[str]:
        rows = post(poll(str(uuid.uuid4())), poll(identity)).json()["data"]
        assert {row["taskUUID"] for row in rows} <= {identity}
        return [row["status"] for row in rows]

    assert words() == []
    world.state.clock.advance(job.began - world.state.clock.now())
    assert words() == ["processing", "processing"]
    world.state.clock.advance(job.files[0].ready - world.state.clock.now())
    assert words() == ["success", "processing"]
    world.state.clock.advance(job.ends - world.state.clock.now())
    assert words() == words() == ["success", "success"]
    assert requests(world, "status") == 5


def test_failed_images_move_to_errors_at_http_200(world: Sandbox, post: Any) -> None:
    world.plan_next("runware", fail="timeoutProvider")
    sent = task(numberResults=2)
    post(sent)
    world.state.clock.advance(1000)
    reply = post(poll(sent["taskUUID"]))
    assert (reply.status_code, reply.json()["data"]) == (200, [])
    assert [(row["code"], row["status"]) for row in reply.json()["errors"]] == [("timeoutProvider", "error")] * 2


def test_the_key_may_stand_in_the_header_or_at_the_head_of_the_array(world: Sandbox, post: Any) -> None:
    key = world.api_key("runware")
    assert post(task(), key="wrong").status_code == 401
    assert post(task(), key="").json()["errors"][0]["code"] == "missingApiKey"
    assert post({"taskType": "authentication", "apiKey": "wrong"}, task(), key="").status_code == 401
    assert post({"taskType": "authentication", "apiKey": key}, task(), key="").status_code == 200
    assert bought(world) == 1


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"[1]", b"[{}]", b"null", b'{"taskType":"getResponse"}'], ids=repr)
def test_what_is_no_array_of_tasks_is_refused(world: Sandbox, body: bytes) -> None:
    header = {"authorization": f"Bearer {world.api_key('runware')}"}
    reply = httpx.post(world.base_url("runware"), content=body, headers=header, trust_env=False)
    assert reply.status_code == 400
    assert reply.json()["errors"][0]["code"]


def test_an_uploaded_image_may_be_named_by_its_uuid(world: Sandbox, post: Any) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    data_uri = data_uri_of(file.getvalue())
    [row] = post({"taskType": "imageUpload", "taskUUID": str(uuid.uuid4()), "image": data_uri}).json()["data"]
    references = {"referenceImages": [row["imageUUID"], data_uri, data_uri.partition(",")[2], "https://a.example/b"]}
    assert post(task(inputs=references)).status_code == 200
    assert requests(world, "upload") == 1


def test_a_rate_limit_counts_posts_and_not_tasks(world: Sandbox, post: Any) -> None:
    many = [poll(str(uuid.uuid4())) for _ in range(40)]
    codes = [post(*many).status_code for _ in range(101)]
    assert codes == [200] * 100 + [429]


def test_the_sandbox_and_the_client_know_the_same_sizes_and_prices(post: Any, world: Sandbox) -> None:
    """Each has its own copy of the table, so that a slip in one shows."""
    endpoint = Runware.endpoints[0]
    spent = []
    for (resolution, ratio), (width, height) in SIZES.items():
        sent = task(width=width, height=height, includeCost=True)
        assert post(sent).status_code == 200, (resolution, ratio)
        price = endpoint.price(ImageO3(prompt="x", width=width, height=height))
        assert price is not None
        assert price.cost == Cost(world.state.jobs[sent["taskUUID"]].order.price, "USD")
        spent.append(price.cost)
    assert len(spent) == 24


def test_a_reference_of_ours_is_a_reference() -> None:
    """The count and the mark for inline images are characters that a reference may have."""
    for identity in ("~20", "~1i", ""):
        text = f"runware/image-o3/{uuid.uuid4()}{identity}"
        assert str(JobRef.parse(text)) == text


def test_an_image_with_a_ttl_can_be_downloaded_for_so_long(world: Sandbox, post: Any) -> None:
    sent = task(ttl=60, deliveryMethod="async")
    post(sent)
    [job] = world.state.jobs.values()
    world.state.clock.advance(job.ends - world.state.clock.now() + 59)
    url = world.state.file_url(job, job.files[0])
    assert httpx.get(url, trust_env=False).status_code == 200
    world.state.clock.advance(2)
    assert httpx.get(url, trust_env=False).status_code == 403


def test_an_upload_endpoint_gets_every_image_with_put(world: Sandbox, post: Any) -> None:
    received: queue.Queue[tuple[str, str, bytes]] = queue.Queue()

    class Store(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            received.put((self.path, self.headers["Content-Type"], body))

        def log_message(self, *_: object) -> None:
            """Keep the test output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as store:
        threading.Thread(target=store.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{store.server_port}/bucket/x?signature=1"
        sent = task(uploadEndpoint=url, numberResults=2, outputFormat="PNG", deliveryMethod="async")
        assert post(sent).status_code == 200
        world.state.clock.advance(1000)
        uploads = [received.get(timeout=20) for _ in range(2)]
        store.shutdown()
    [job] = world.state.jobs.values()
    expected = {httpx.get(world.state.file_url(job, file), trust_env=False).content for file in job.files}
    assert {body for *_, body in uploads} == expected
    assert {(path, kind) for path, kind, _ in uploads} == {("/bucket/x?signature=1", "image/png")}


def test_an_image_upload_may_name_a_delivery_method(post: Any) -> None:
    """The official Python package sends `deliveryMethod` with every task."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    upload = {"taskType": "imageUpload", "taskUUID": str(uuid.uuid4()), "deliveryMethod": "sync"}
    reply = post({**upload, "image": data_uri_of(file.getvalue())})
    assert reply.status_code == 200
    [row] = reply.json()["data"]
    assert row["imageUUID"] == str(uuid.UUID(row["imageUUID"]))


# The WebSocket, which Runware's own SDK uses.


def conversation(sandbox: Sandbox, **options: Any) -> Any:
    return connect(sandbox.base_url("runware").replace("http", "ws"), **options)


async def ask(socket: ClientConnection, *tasks: dict[str, Any]) -> dict[str, Any]:
    await socket.send(json.dumps(tasks))
    return await received(socket)


async def received(socket: ClientConnection) -> dict[str, Any]:
    frame: dict[str, Any] = json.loads(await socket.recv())
    return frame


async def authenticated(socket: ClientConnection, sandbox: Sandbox, **more: str) -> str:
    task = {"taskType": "authentication", "apiKey": sandbox.api_key("runware"), **more}
    session: str = (await ask(socket, task))["data"][0]["connectionSessionUUID"]
    return session


def picture_task(**more: Any) -> dict[str, Any]:
    task = {"taskType": "imageInference", "taskUUID": str(uuid.uuid4()), "model": AIR, "positivePrompt": "a boat"}
    return {**task, "width": 1024, "height": 1024, **more}


@pytest.mark.anyio
async def test_a_websocket_answers_tasks_in_frames_of_their_own(sandbox: Sandbox) -> None:
    async with conversation(sandbox) as socket:
        assert (await ask(socket, picture_task()))["errors"][0]["code"] == "missingApiKey"
        wrong = {"taskType": "authentication", "apiKey": "wrong"}
        assert (await ask(socket, wrong))["errors"][0]["code"] == "invalidApiKey"
        await authenticated(socket, sandbox)
        assert await ask(socket, {"taskType": "ping", "ping": True}) == {"data": [{"taskType": "ping", "pong": True}]}
        task = picture_task(numberResults=2, includeCost=True)
        frames = [await ask(socket, task), await received(socket)]
        rows = [frame["data"][0] for frame in frames]
        assert {row["taskUUID"] for row in rows} == {task["taskUUID"]}
        assert len({row["imageURL"] for row in rows}) == 2
        refused = await ask(socket, picture_task(width=7))
        assert refused["errors"][0]["code"] == "invalidDimensions"
        later = picture_task(deliveryMethod="async")
        assert await ask(socket, later) == {"data": [{"taskType": "imageInference", "taskUUID": later["taskUUID"]}]}
        question = {"taskType": "accountManagement", "taskUUID": str(uuid.uuid4()), "operation": "getDetails"}
        account = (await ask(socket, question))["data"][0]
        assert account["usage"]["total"] == {"credits": 0.084, "requests": 2}
        assert account["balance"] > 0
    assert bought(sandbox) == 2
    assert sandbox.api_key("runware") not in json.dumps(account)


@pytest.mark.anyio
@pytest.mark.sandbox(speed=0, scale=0.05)
async def test_a_result_waits_for_the_session_to_come_back(sandbox: Sandbox) -> None:
    async with conversation(sandbox) as socket:
        session = await authenticated(socket, sandbox)
        task = picture_task()
        await socket.send(json.dumps([task]))
        await ask(socket, {"taskType": "ping", "ping": True})  # the task before it has begun
    sandbox.state.clock.advance(600)
    async with conversation(sandbox) as socket:
        with anyio.fail_after(PATIENCE):
            await authenticated(socket, sandbox, connectionSessionUUID=session)
            row = (await received(socket))["data"][0]
    assert row["taskUUID"] == task["taskUUID"]
    assert bought(sandbox) == 1


@pytest.mark.anyio
async def test_a_websocket_can_lose_the_answer_to_a_task_that_was_bought(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.accept_then_reset, provider="runware", kind="submit")
    async with conversation(sandbox) as socket:
        await authenticated(socket, sandbox)
        with pytest.raises(ConnectionClosed):
            await ask(socket, picture_task())
    assert bought(sandbox) == 1


@pytest.mark.anyio
async def test_a_web_page_cannot_open_a_websocket(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidStatus):
        await conversation(sandbox, origin="https://evil.example")
    with pytest.raises(InvalidStatus):
        await connect(sandbox.url.replace("http", "ws") + "/runblob")

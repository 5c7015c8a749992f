"""FastAPI and Starlette: the webhook endpoint, the client in handlers, and events streamed to browsers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import TypeAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from kling_async import (
    Client,
    ConfigurationError,
    ContentRejected,
    Event,
    InvalidRequest,
    JobNotFound,
    JobRef,
    KeyConflict,
    KlingError,
    LedgerFailed,
    MemoryLedger,
    Polling,
    Progressive,
    RateLimited,
    RunBlob,
    Status,
    Submission,
    Unauthorized,
    Video,
    Webhooks,
    runblob,
    runware,
)
from kling_async.fastapi import (
    CurrentClient,
    CurrentJob,
    LastEventId,
    Public,
    current_client,
    event_response,
    event_stream,
    exception_handlers,
    lifespan,
    router,
)
from kling_async.providers import ALL_PROVIDERS
from kling_async.starlette import webhook_route
from kling_async.webhooks import MAX_BODY
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

SECRET = "an old and very secret secret"
VIDEO = runblob.O3Video("a paper boat in the rain")
WEBHOOKS = Webhooks("https://example.com/kling", SECRET)


def make_client(server: FakeRunBlob, **more: Any) -> Client:
    polling = Polling(Progressive(5, 5, 10, 15))
    return Client(RunBlob(KEY), http=server, **{"webhooks": WEBHOOKS, "polling": polling, **more})


@contextlib.asynccontextmanager
async def browsing(app: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, **options)
    async with httpx.AsyncClient(transport=transport, base_url="https://example.com") as web:
        yield web


def reported(server: FakeRunBlob, number: int = -1) -> tuple[str, dict[str, Any]]:
    """The path and the body of a job's webhook."""
    identity, generation = list(server.generations.items())[number]
    path = str(generation.body["callback_url"]).removeprefix("https://example.com")
    return path, {"generation_id": identity, "status": "completed", "video_url": f"https://cdn.runblob.test/{identity}"}


# The endpoint.


async def test_a_webhook_is_taken_in_and_every_repetition_acknowledged(server: FakeRunBlob) -> None:
    async with make_client(server) as client:
        app = FastAPI()
        app.include_router(router(client), prefix="/kling")
        job = await client.submit(VIDEO)
        await anyio.sleep(70)
        path, body = reported(server)
        async with browsing(app) as web:
            answers = [await web.post(path, json=body) for _ in range(2)]
            await job
            answers.append(await web.post(path, json=body))
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {"status": "received"})] * 3
    assert job.events[-1].status is Status.COMPLETED
    assert server.requests == {"submit": 1, "poll": 1}


async def test_the_endpoint_does_not_wait_for_the_poll(server: FakeRunBlob) -> None:
    async with make_client(server) as client:
        app = FastAPI()
        app.include_router(router(client), prefix="/kling")
        await client.submit(VIDEO)
        path, body = reported(server)
        async with browsing(app) as web:
            assert (await web.post(path, json=body)).status_code == 200
    assert server.requests == {"submit": 1}


async def test_a_bad_token_is_answered_like_an_address_that_is_not_there(server: FakeRunBlob) -> None:
    async with make_client(server) as client:
        app = FastAPI()
        app.include_router(router(client), prefix="/kling")
        await client.submit(VIDEO)
        path, body = reported(server)
        wrong = [
            path[:-1] + "_",
            "/kling/runblob/row/x",
            "/kling/nobody/row/x",
            "/kling/runblob/%2F..%00/%ff",
            "/nowhere",
        ]
        async with browsing(app) as web:
            answers = [await web.post(each, json=body) for each in wrong]
            answers.append(await web.post(path, content=b"not JSON"))
    assert {(answer.status_code, answer.text) for answer in answers} == {(404, '{"detail":"Not Found"}')}


@pytest.mark.parametrize("announced", [True, False], ids=["content-length", "chunked"])
async def test_a_large_body_is_not_read_to_its_end(server: FakeRunBlob, announced: bool) -> None:
    taken = 0

    async def flood() -> Any:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b"x" * MAX_BODY, "more_body": taken < 160}

    async with make_client(server) as client:
        app = FastAPI()
        app.include_router(router(client), prefix="/kling")
        await client.submit(VIDEO)
        path, _ = reported(server)
        headers = [(b"content-length", str(160 * MAX_BODY).encode())] if announced else []
        sent = await call(app, "POST", path, flood, headers)
    assert sent[0]["status"] == 413
    assert taken <= 2


class _Full(MemoryLedger):
    """A ledger that can be read, and not written any more."""

    full = False

    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> Sequence[Event]:
        if self.full:
            raise LedgerFailed("the disk is full")
        return await super().append_events(ref, events)


async def test_what_cannot_be_written_down_is_to_be_sent_again(server: FakeRunBlob) -> None:
    ledger = _Full()
    async with make_client(server, ledger=ledger, webhooks=Webhooks(WEBHOOKS.url, SECRET, confirm=False)) as client:
        app = FastAPI()
        app.include_router(router(client), prefix="/kling")
        await client.submit(VIDEO)
        path, body = reported(server)
        async with browsing(app) as web:
            ledger.full = True
            assert (await web.post(path, json=body)).status_code == 503
            ledger.full = False
            assert (await web.post(path, json=body)).status_code == 200
    async with browsing(app) as web:
        assert (await web.post(path, json=body)).status_code == 503, "the client is closed"


async def test_several_routers_serve_several_clients_under_any_prefix(server: FakeRunBlob) -> None:
    """Two accounts in one application. One below a prefix with a parameter, one in an application mounted in it."""
    other = FakeRunBlob()
    async with (
        make_client(server, webhooks=Webhooks("https://example.com/tenants/7/kling", SECRET)) as first,
        make_client(other, webhooks=Webhooks("https://example.com/inner/hooks", SECRET + "!")) as second,
    ):
        inner = FastAPI()
        inner.include_router(router(second), prefix="/hooks")
        outer = APIRouter(prefix="/tenants/{tenant}")
        outer.include_router(router(first), prefix="/kling")
        app = FastAPI()
        app.include_router(outer)
        app.mount("/inner", inner)
        jobs = [await first.submit(VIDEO), await second.submit(VIDEO)]
        await anyio.sleep(70)
        async with browsing(app) as web:
            for provider in (server, other):
                path, body = reported(provider)
                assert (await web.post(path, json=body)).status_code == 200
            crossed = reported(server)[0].replace("/tenants/7/kling", "/inner/hooks")
            assert (await web.post(crossed, json={})).status_code == 404
        assert [await job.refresh() for job in jobs] == [Status.COMPLETED] * 2


async def test_it_works_behind_a_proxy_that_strips_a_path(server: FakeRunBlob) -> None:
    async with make_client(server, webhooks=Webhooks("https://example.com/public/kling", SECRET)) as client:
        app = FastAPI()
        app.include_router(router(client), prefix="/kling")
        await client.submit(VIDEO)
        path, body = reported(server)
        async with browsing(app, root_path="/public") as web:
            assert (await web.post(path, json=body)).status_code == 200
            assert (await web.post(path.removeprefix("/public"), json=body)).status_code == 200
            assert "/kling/{provider}/{attempt_id}/{token}" in (await web.get("/openapi.json")).json()["paths"]


async def test_the_client_can_be_replaced_in_a_users_tests(server: FakeRunBlob) -> None:
    app = FastAPI()
    app.include_router(router(), prefix="/kling")

    @app.get("/running")
    async def running(client: CurrentClient) -> int:
        return client.statistics().running

    async with make_client(server) as client, browsing(app) as web:
        app.dependency_overrides[current_client] = lambda: client
        await client.submit(VIDEO)
        path, body = reported(server)
        assert (await web.post(path, json=body)).status_code == 200
        assert (await web.get("/running")).json() == 1


async def test_openapi_says_what_the_endpoint_does(server: FakeRunBlob) -> None:
    app = FastAPI()
    app.include_router(router(), prefix="/kling")
    [(path, operations)] = app.openapi()["paths"].items()
    operation = operations["post"]
    assert path == "/kling/{provider}/{attempt_id}/{token}"
    assert set(operation["responses"]) == {"200", "400", "404", "408", "413", "503"}
    assert [(each["name"], each["in"]) for each in operation["parameters"]] == [
        ("provider", "path"),
        ("attempt_id", "path"),
        ("token", "path"),
    ]
    assert "application/json" in operation["requestBody"]["content"]


async def test_starlette_alone_takes_webhooks_in(server: FakeRunBlob) -> None:
    async with make_client(server) as client:
        job = await client.submit(VIDEO)
        await anyio.sleep(70)
        path, body = reported(server)
        mounted = Starlette(routes=[Mount("/kling", routes=[webhook_route(client)])])
        for app in (Starlette(routes=[webhook_route(client, "/kling")]), mounted):
            async with browsing(app) as web:
                assert (await web.post(path, json=body)).json() == {"status": "received"}
                assert (await web.post(path + "x", json=body)).status_code == 404
                assert (await web.get(path)).status_code == 405
        await job


# The client in handlers.


async def test_the_lifespan_opens_a_client_follows_its_jobs_and_closes_it(server: FakeRunBlob) -> None:
    made: list[Client] = []

    def make() -> Client:
        made.append(make_client(server, webhooks=None))
        return made[-1]

    app = FastAPI(lifespan=lifespan(make))

    @app.post("/videos")
    async def submit(client: CurrentClient) -> str:
        return str((await client.submit(VIDEO)).ref)

    for _ in range(2):
        async with app.router.lifespan_context(app) as state, browsing(_with_state(app, state)) as web:
            ref = (await web.post("/videos")).json()
            job = made[-1].attach(ref)
            await anyio.sleep(70)
            assert job.status is Status.COMPLETED, "nobody waited, and it went on"
    assert len(made) == 2
    assert all("closed" in repr(client) for client in made)


async def test_a_lifespan_that_does_not_follow_makes_no_call(server: FakeRunBlob) -> None:
    client = make_client(server)
    app = FastAPI(lifespan=lifespan(client, follow=False))
    async with app.router.lifespan_context(app):
        job = await client.submit(VIDEO)
        await anyio.sleep(70)
        assert job.status is Status.PENDING
    assert server.requests == {"submit": 1}


async def test_the_lifespan_takes_up_the_jobs_of_an_earlier_process(server: FakeRunBlob) -> None:
    class Kept(MemoryLedger):
        async def aclose(self) -> None:
            """It outlives the client, as a file does."""

    ledger = Kept()
    async with make_client(server, ledger=ledger) as first:
        ref = (await first.submit(VIDEO)).ref
    app = FastAPI(lifespan=lifespan(lambda: make_client(server, ledger=ledger)))
    async with app.router.lifespan_context(app):
        await anyio.sleep(70)
    assert [event.status for event in await ledger.events(ref)][-1] is Status.COMPLETED


async def test_a_ledger_that_cannot_be_read_does_not_keep_the_application_from_serving(
    server: FakeRunBlob, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MemoryLedger):
        async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
            raise LedgerFailed("the file is damaged")

    client = make_client(server, ledger=Broken())
    app = FastAPI(lifespan=lifespan(client))
    async with app.router.lifespan_context(app):
        job = await client.submit(VIDEO)
        await anyio.sleep(250)
        assert job.status is Status.COMPLETED, "it is followed all the same"
    assert "jobs of earlier processes are not followed: the file is damaged" in caplog.text


async def test_a_handler_without_a_lifespan_says_what_is_missing(server: FakeRunBlob) -> None:
    app = FastAPI()
    app.include_router(router(), prefix="/kling")
    async with browsing(app) as web:
        with pytest.raises(ConfigurationError, match="lifespan"):
            await web.post("/kling/runblob/row/token", json={})


@pytest.mark.parametrize("problem", ["in use by process 7", "is a database, but not a ledger"])
async def test_an_application_does_not_start_with_a_ledger_that_it_cannot_use(
    server: FakeRunBlob, problem: str
) -> None:
    class Taken(MemoryLedger):
        async def get_value(self, name: str) -> Any:
            raise ConfigurationError(f"the ledger /srv/jobs.db {problem}")

    app = FastAPI(lifespan=lifespan(make_client(server, ledger=Taken())))
    with pytest.raises(ConfigurationError, match=problem):
        async with app.router.lifespan_context(app):
            pass


# What strangers send.


async def scope_of(app: FastAPI, path: str, *messages: Any) -> tuple[list[Any], int]:
    """Call the application as a server does, what it sent, and how many messages it received."""
    waiting, sent = list(messages), []
    received = 0

    async def receive() -> Any:
        nonlocal received
        if not waiting:
            await anyio.sleep_forever()
        received += 1
        return waiting.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "https",
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
        "client": ("192.0.2.1", 1),
        "server": ("h", 443),
        "state": {},
        "extensions": {},
    }
    await app(scope, receive, send)
    return [message["status"] for message in sent if "status" in message], received


async def test_the_token_is_checked_before_the_body_is_read(server: FakeRunBlob) -> None:
    async with make_client(server) as client:
        app = FastAPI()
        app.include_router(router(client), prefix="/kling")
        chunk = {"type": "http.request", "body": b"x", "more_body": True}
        assert await scope_of(app, "/kling/runblob/1/wrong", chunk) == ([404], 0)


async def test_a_body_that_takes_longer_than_ten_seconds_is_given_up(server: FakeRunBlob) -> None:
    async with make_client(server) as client:
        app = FastAPI()
        app.include_router(router(client), prefix="/kling")
        await client.submit(VIDEO)
        path, _ = reported(server)
        before = anyio.current_time()
        assert await scope_of(app, path, {"type": "http.request", "body": b"x", "more_body": True}) == ([408], 1)
        assert anyio.current_time() - before == pytest.approx(10, abs=0.1)


async def test_a_sender_that_hangs_up_is_no_error(server: FakeRunBlob, caplog: pytest.LogCaptureFixture) -> None:
    async with make_client(server) as client:
        app = FastAPI()
        app.include_router(router(client), prefix="/kling")
        await client.submit(VIDEO)
        path, _ = reported(server)
        chunk = {"type": "http.request", "body": b"x", "more_body": True}
        assert await scope_of(app, path, chunk, {"type": "http.disconnect"}) == ([400], 2)
    assert not [record for record in caplog.records if record.name == "kling_async" and record.levelname != "DEBUG"]


async def test_a_delivery_for_another_process_is_logged_once(
    server: FakeRunBlob, caplog: pytest.LogCaptureFixture
) -> None:
    async with make_client(server) as client, make_client(server) as other:
        app = FastAPI()
        app.include_router(router(client), prefix="/kling")
        for _ in range(3):
            await other.submit(VIDEO)
        async with browsing(app) as web:
            for number in range(3):
                path, body = reported(server, number)
                assert (await web.post(path, json=body)).status_code == 200
    assert caplog.text.count("Do several processes serve the endpoint?") == 1


def public_app(client: Client) -> FastAPI:
    app = FastAPI(exception_handlers=exception_handlers)
    app.dependency_overrides[current_client] = lambda: client

    @app.post("/videos", status_code=202)
    async def submit(request: Public[runblob.O3Video], client: CurrentClient) -> str:
        return str((await client.submit(request)).ref)

    @app.post("/anybody", status_code=202)
    async def submit_anywhere(request: Public[Video], client: CurrentClient) -> str:
        return str((await client.submit(request)).ref)

    @app.post("/images", status_code=202)
    async def submit_image(request: Public[runware.ImageO3]) -> str:
        return request.endpoint

    return app


async def test_a_public_body_takes_no_field_that_belongs_to_the_operator(server: FakeRunBlob) -> None:
    async with make_client(server) as client, browsing(public_app(client)) as web:
        good = {"prompt": "a boat", "duration": 10, "references": ["data:image/png;base64,iVBORw0KGgo="]}
        evil = await web.post("/videos", json={**good, "callback_url": "https://evil.example/x"})
        assert evil.status_code == 422
        assert "callback_url" in evil.text
        for name, value in (("upload_endpoint", "https://evil.example/x"), ("ttl", 60), ("delivery", "sync")):
            assert (await web.post("/images", json={"prompt": "a boat", name: value})).status_code == 422
        assert server.requests["submit"] == 0
        assert (await web.post("/videos", json={"prompt": "a boat"})).status_code == 202
        assert (await web.post("/videos", json={"prompt": "a boat", "duration": 7})).status_code == 422
        [generation] = server.generations.values()
        assert str(generation.body["callback_url"]).startswith("https://example.com/kling/")


async def test_a_portable_public_body_is_bought_where_it_is_made(server: FakeRunBlob) -> None:
    async with make_client(server) as client, browsing(public_app(client)) as web:
        for evil in ({"callback_url": "https://evil.example/x"}, {"first_frame": "/etc/passwd"}, {"duration": 99}):
            assert (await web.post("/anybody", json={"prompt": "a boat", **evil})).status_code == 422
        assert server.requests["submit"] == 0
        bought = await web.post("/anybody", json={"prompt": "a boat", "model": "kling-o3", "duration": 10})
        assert bought.status_code == 202
        assert bought.json().startswith("runblob/o3-video/")
        [generation] = server.generations.values()
        assert str(generation.body["callback_url"]).startswith("https://example.com/kling/")


async def test_the_document_of_a_public_body_shows_what_a_visitor_can_send(server: FakeRunBlob) -> None:
    async with make_client(server) as client:
        document = public_app(client).openapi()
    body = document["paths"]["/videos"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    while "$ref" in body:
        body = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert "callback_url" not in body["properties"]
    assert body["required"] == ["prompt"]
    references = json.dumps(body["properties"]["references"])
    assert "data:image/png;base64" in references
    assert '"format": "path"' not in json.dumps(document)


INPUTS = {"video_url"}  # what is read, not where results go
OPERATOR = re.compile("url|webhook|callback|endpoint|ttl|app$|delivery|storage|upload|task_id|metadata")


@pytest.mark.parametrize(
    "endpoint", [e for provider in ALL_PROVIDERS for e in provider.endpoints], ids=lambda e: e.name
)
def test_no_public_body_has_a_field_by_which_results_leave(endpoint: Any) -> None:
    shown = TypeAdapter(Public[endpoint.request]).json_schema()["properties"]
    assert shown
    assert not [name for name in shown if OPERATOR.search(name) and name not in INPUTS]


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (InvalidRequest("account 7", code="INVALID_IMAGE"), 400, {"error": "InvalidRequest", "code": "INVALID_IMAGE"}),
        (ContentRejected("account 7"), 422, {"error": "ContentRejected"}),
        (KeyConflict("account 7"), 409, {"error": "KeyConflict"}),
        (JobNotFound("account 7"), 404, {"error": "JobNotFound"}),
        (RateLimited("account 7", retry_after=12.2), 429, {"error": "RateLimited"}),
        (LedgerFailed("/srv/jobs.db is in use by process 11346"), 502, {"error": "LedgerFailed"}),
        (Unauthorized("the key of account 7"), 502, {"error": "Unauthorized"}),
    ],
)
async def test_strangers_learn_what_to_do_and_nothing_of_the_service(
    error: KlingError, status: int, body: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI(exception_handlers=exception_handlers)

    @app.get("/")
    async def fail() -> None:
        raise error

    caplog.set_level("INFO", "kling_async")
    async with browsing(app) as web:
        answer = await web.get("/")
    assert answer.status_code == status
    assert {**body, "detail": answer.json()["detail"]} == answer.json()
    assert str(error.message) not in answer.text
    assert str(error.message) in caplog.text
    assert answer.headers.get("retry-after") == ("13" if status == 429 else None)


# Events for browsers.


async def test_a_stream_ends_without_an_end_message_when_the_server_shuts_down(
    server: FakeRunBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Server:
        should_exit = False

        def handle_exit(self) -> None:
            """The handler of signals."""

    running = Server()
    monkeypatch.setattr("kling_async.starlette.signal.getsignal", lambda _: running.handle_exit)
    async with make_client(server) as client, browsing(streaming_app(client)) as web:
        job = await client.submit(VIDEO)

        async def stop() -> None:
            await anyio.sleep(20)
            running.should_exit = True

        async with anyio.create_task_group() as group:
            group.start_soon(stop)
            before = anyio.current_time()
            answer = await web.get(f"/fastapi/{job.ref}")
            assert anyio.current_time() - before < 22
    assert "data:" in answer.text
    assert "event: end" not in answer.text


def streaming_app(client: Client) -> FastAPI:
    app = FastAPI()

    async def this_client() -> Client:
        return client

    app.dependency_overrides[current_client] = this_client

    @app.get("/fastapi/{ref:path}", response_class=EventSourceResponse)  # noqa: FAST003  # the dependency reads it
    async def events(job: CurrentJob, last_event_id: LastEventId = None) -> AsyncIterator[ServerSentEvent]:
        async for event in event_stream(job, last_event_id):
            yield event

    async def plain(request: Request) -> Response:
        job = client.attach(request.path_params["ref"])
        return event_response(job, request.headers.get("last-event-id"), ping=20)

    app.router.routes.append(Route("/starlette/{ref:path}", plain))
    return app


def messages(text: str) -> list[dict[str, str]]:
    """The messages of a stream, as a browser reads them, comments under ``""``."""
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in text.split("\n\n") if block]


WAYS = pytest.mark.parametrize("way", ["fastapi", "starlette"])


async def test_no_ping_is_sent_after_the_end(server: FakeRunBlob) -> None:
    """A slow connection: while the end is being written, pings wait for their turn."""
    sent: list[bool] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            sent.append(message["more_body"])
        for _ in range(3):  # each event waits for all pings before it, so with ten there would be ten thousand
            await anyio.lowlevel.checkpoint()

    async def receive() -> Any:
        await anyio.sleep_forever()

    async with make_client(server, webhooks=None) as client:
        job = await client.submit(VIDEO)
        await job.wait()
        await event_response(job, ping=0)({"type": "http"}, receive, send)
    assert sent[-1] is False
    assert all(sent[:-1])


@WAYS
async def test_events_are_streamed_with_ids_pings_and_an_end(server: FakeRunBlob, way: str) -> None:
    async with make_client(server, webhooks=None) as client, browsing(streaming_app(client)) as web:
        job = await client.submit(VIDEO)
        answer = await web.get(f"/{way}/{job.ref}")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    frames = messages(answer.text)
    assert {"": "ping"} in frames
    *events, end = [message for message in frames if "" not in message]
    assert [message["id"] for message in events] == ["0", "1", "2"]
    assert [json.loads(message["data"])["status"] for message in events] == ["pending", "processing", "completed"]
    [file] = json.loads(events[-1]["data"])["artifacts"]
    assert file["url"] == f"https://cdn.runblob.test/{job.ref.id}"
    assert end["event"] == "end"
    assert int(end["retry"]) > 3_600_000, "a page that does not close it does not come back at once"


@WAYS
async def test_a_browser_that_reconnects_gets_what_it_has_not(server: FakeRunBlob, way: str) -> None:
    async with make_client(server, webhooks=None) as client, browsing(streaming_app(client)) as web:
        job = await client.submit(VIDEO)
        ids = {}

        async def reconnect(last: str) -> None:
            answer = await web.get(f"/{way}/{job.ref}", headers={"last-event-id": last})
            ids[last] = [message["id"] for message in messages(answer.text) if "id" in message]

        async with anyio.create_task_group() as group:
            for last in ("0", "1", "2", "99", "nonsense", "-1", "9" * 5000):
                group.start_soon(reconnect, last)
    everything = ["0", "1", "2"]
    assert ids.pop("0") == ["1", "2"]
    assert ids.pop("1") == ids.pop("2") == ids.pop("99") == ["2"], "the end is told in any case"
    assert list(ids.values()) == [everything] * 3


@WAYS
async def test_what_keeps_a_job_from_being_followed_ends_the_stream_in_words(server: FakeRunBlob, way: str) -> None:
    server.duration = 10_000
    async with make_client(server, webhooks=None) as client, browsing(streaming_app(client)) as web:
        job = await client.submit(VIDEO)
        answer = await web.get(f"/{way}/{job.ref}")
    *_, problem, end = messages(answer.text)
    assert (problem["event"], end["event"]) == ("job-error", "end")
    assert json.loads(problem["data"])["error"] == "GenerationTimeout"


async def test_a_reference_that_is_none_is_not_found(server: FakeRunBlob) -> None:
    async with make_client(server) as client, browsing(streaming_app(client)) as web:
        for ref in ("nonsense", "nobody/o3-video/1", "runblob/o9-video/1", "runware/image-o3/1"):
            assert (await web.get(f"/fastapi/{ref}")).status_code == 404


@WAYS
async def test_a_browser_that_goes_away_stops_watching_and_cancels_nothing(server: FakeRunBlob, way: str) -> None:
    async with make_client(server, webhooks=None) as client:
        job = await client.submit(VIDEO)

        async def leave() -> Any:
            await anyio.sleep(12)
            return {"type": "http.disconnect"}

        sent = await call(streaming_app(client), "GET", f"/{way}/{job.ref}", leave)
        await anyio.sleep(30)
        assert server.requests["poll"] == 2, "nobody polled after the browser had gone"
        assert b'"status": "pending"' in b"".join(message.get("body", b"") for message in sent)
        assert (await job).urls


async def call(app: Any, method: str, path: str, receive: Any, headers: Sequence[Any] = ()) -> list[Any]:
    """Call the application as a server does, what it sent."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    await app({**scope, "headers": list(headers), "asgi": {"spec_version": "2.3"}}, receive, send)
    return sent


def _with_state(app: Any, state: Any) -> Any:
    """The application, as a server calls it that has run its lifespan."""

    async def served(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return served


# Without FastAPI.


@pytest.mark.parametrize(("module", "missing"), [("fastapi", "fastapi"), ("starlette", "starlette")])
def test_without_the_extra_its_name_is_reported(module: str, missing: str) -> None:
    script = f"import sys; sys.modules[{missing!r}] = None; import kling_async.{module}"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(f"ImportError: kling_async.{module} needs {missing}")
    assert "pip install 'kling-async[fastapi]'" in last


STREAMING_APP = """
import sys
import uvicorn
from collections.abc import AsyncIterator
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse, ServerSentEvent
from kling_async import Client, RunBlob, runblob
from kling_async.fastapi import CurrentClient, CurrentJob, event_stream, lifespan
from support.fake_runblob import KEY, FakeRunBlob

app = FastAPI(lifespan=lifespan(lambda: Client(RunBlob(KEY), http=FakeRunBlob(duration=1000))))

@app.get("/start")
async def start(client: CurrentClient) -> str:
    return str((await client.submit(runblob.O3Video("a boat"))).ref)

@app.get("/events/{ref:path}", response_class=EventSourceResponse)
async def events(job: CurrentJob) -> AsyncIterator[ServerSentEvent]:
    async for event in event_stream(job):
        yield event

uvicorn.run(app, fd=int(sys.argv[1]), log_level="warning")
"""


def test_uvicorn_ends_at_sigterm_while_a_stream_is_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        command = [sys.executable, "-c", STREAMING_APP, str(listener.fileno())]
        paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        environment = {**os.environ, "PYTHONPATH": paths}
        with subprocess.Popen(command, pass_fds=[listener.fileno()], env=environment) as process:
            try:
                ref = httpx.get(f"{url}/start", timeout=30).json()
                with httpx.stream("GET", f"{url}/events/{ref}", timeout=30) as stream:
                    lines = stream.iter_lines()
                    assert next(lines).startswith("data:")
                    process.terminate()
                    assert "event: end" not in list(lines)
                process.wait(10)
            finally:
                process.kill()

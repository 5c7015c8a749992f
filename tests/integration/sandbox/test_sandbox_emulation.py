"""What a new emulation gets from the server: kinds by body, streams, cancelled jobs that call back."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import threading
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.responses import Response, StreamingResponse

from kling_async.providers.runblob import RunBlob
from kling_async.sandbox import Fault
from kling_async.sandbox.emulator.accounts import Account
from kling_async.sandbox.emulator.clock import Clock
from kling_async.sandbox.emulator.jobs import IMAGE_DURATION, Job, Order, Picture
from kling_async.sandbox.emulator.provider_state import ProviderState
from kling_async.sandbox.faults.catalog import FaultRegistry
from kling_async.sandbox.providers.emulation import Emulation, Operation, Webhook, reply
from kling_async.sandbox.server.app import App
from kling_async.sandbox.server.protocol import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from starlette.requests import Request

PATIENCE = 120.0
LINES = [b'{"status": "queued"}\n', b'{"status": "running"}\n', b'{"status": "done"}\n']


@dataclass
class Acme:
    """A provider with one address for buying and looking, a stream, and a cancel."""

    state: ProviderState

    async def tasks(self, request: Request) -> Response:
        task = await request.json()
        (account,) = self.state.accounts("acme")
        if task["do"] == "poll":
            job = self.state.status(account, task["id"])
            return reply({"status": None if job is None else self.state.phase(job)})
        picture = Picture(64, 64, "png", task["prompt"])
        job = self.state.submit(
            Order(
                account, "image", task["prompt"], (picture,), IMAGE_DURATION, Decimal(1), callback_url=task.get("hook")
            )
        )
        return reply({"id": job.id})

    async def stream(self, _: Request) -> Response:
        async def lines() -> AsyncIterator[bytes]:
            for line in LINES:
                yield line

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    async def cancel(self, request: Request) -> Response:
        return reply({"cancelled": self.state.cancel(self.state.jobs[request.path_params["job_id"]])})

    def moments(self, job: Job) -> list[float]:
        return [job.ends if job.cancelled is None else job.cancelled]

    def emulation(self) -> Emulation:
        return Emulation(
            name="acme",
            api_key="key",
            operations=[
                Operation(_kind, "POST", "/tasks", self.tasks),
                Operation("stream", "GET", "/stream", self.stream),
                Operation("cancel", "POST", "/{job_id}/cancel", self.cancel),
            ],
            error_body=lambda status, _path, _seconds: {"errors": [{"code": status}]},
            client=RunBlob,
            webhook=Webhook(
                moments=self.moments,
                body=lambda job, _: {"id": job.id, "status": job.phase(self.state.clock.now())},
                running=lambda job: {"id": job.id, "status": "processing"},
                pauses=(),
            ),
            base_path="/v9",
        )


def _kind(body: bytes) -> str:
    return "status" if json.loads(body)["do"] == "poll" else "submit"


@dataclass
class Running:
    """The emulation behind a real server."""

    state: ProviderState
    app: App
    client: httpx.Client


@pytest.fixture
def acme() -> Iterator[Running]:
    state = ProviderState(Clock(0), faults=FaultRegistry(0, ["acme"]))
    state.open_account(Account("acme", "key"))
    app = App(state, (Acme(state).emulation(),))
    server = Server(app, state.counters, app.keep_alive, app.background)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        assert server.ready.wait(PATIENCE)
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/acme/v9"
        with httpx.Client(base_url=url, trust_env=False) as client:
            yield Running(state, app, client)
        server.stop()
        thread.join(PATIENCE)


def test_one_address_is_counted_and_spoiled_by_what_the_body_asks(acme: Running) -> None:
    acme.app.faults.add(Fault.server_error, kind="status", times=1)
    job = acme.client.post("/tasks", json={"do": "buy", "prompt": "a fox"}).json()["id"]
    answers = [acme.client.post("/tasks", json={"do": "poll", "id": job}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [500, 200]
    assert answers[0].json() == {"errors": [{"code": 500}]}
    assert acme.state.counters.requests == {("acme", "submit"): 1, ("acme", "status"): 2}


def test_a_misspelt_directive_is_refused_for_every_dialect(acme: Running) -> None:
    answer = acme.client.post("/tasks", json={"do": "buy", "prompt": "[sandbox: explode]"})
    assert (answer.status_code, "explode" in answer.text) == (400, True)


def test_a_stream_arrives_whole(acme: Running) -> None:
    assert acme.client.get("/stream").content == b"".join(LINES)


def test_a_stream_is_cut_after_its_first_line(acme: Running) -> None:
    acme.app.faults.add(Fault.cut_off, kind="stream")
    pieces: list[bytes] = []
    with acme.client.stream("GET", "/stream") as answer, pytest.raises(httpx.RemoteProtocolError):
        pieces.extend(answer.iter_raw())
    assert b"".join(pieces) == LINES[0]


@pytest.mark.parametrize("fault", [Fault.truncated_json, Fault.drip, Fault.huge_body])
def test_other_faults_take_a_stream_as_the_text_that_it_says(acme: Running, fault: Fault) -> None:
    acme.app.faults.add(fault, seconds=0.0, size=100_000)
    content = acme.client.get("/stream").content
    whole = b"".join(LINES)
    expected = {Fault.truncated_json: whole[: len(whole) // 2], Fault.drip: whole, Fault.huge_body: whole}[fault]
    assert content.lstrip() == expected


def test_a_cancelled_job_calls_back_once_when_it_is_cancelled(acme: Running) -> None:
    calls: queue.Queue[dict[str, Any]] = queue.Queue()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        calls.put(json.loads(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async def scenario() -> list[dict[str, Any]]:
        async with await asyncio.start_server(take, "127.0.0.1", 0) as hook:
            port = hook.sockets[0].getsockname()[1]
            order = {"do": "buy", "prompt": "a fox", "hook": f"http://127.0.0.1:{port}/"}
            job = (await asyncio.to_thread(acme.client.post, "/tasks", json=order)).json()["id"]
            await asyncio.to_thread(acme.client.post, f"/{job}/cancel")
            first = await asyncio.to_thread(calls.get, timeout=PATIENCE)
            acme.state.clock.advance(1e6)
            acme.app.faults.add(Fault.webhook_early)
            order["prompt"] = "a later fox"  # it comes through the same courier, so nothing overtook it
            await asyncio.to_thread(acme.client.post, "/tasks", json=order)
            return [first, await asyncio.to_thread(calls.get, timeout=PATIENCE)]

    first, second = asyncio.run(scenario())
    assert first["status"] == "cancelled"
    assert second == {"id": second["id"], "status": "completed"}
    assert second["id"] != first["id"]
    assert acme.state.counters.webhooks == {"acme": 2}

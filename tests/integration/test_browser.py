"""A browser watches a job: Chromium's own EventSource, a real server, and webhooks from the sandbox."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from kling_async import Client, Webhooks, runblob
from kling_async.fastapi import CurrentClient, CurrentJob, LastEventId, event_response, event_stream, lifespan, router
from kling_async.sandbox import Sandbox
from support.asgi_server import Site, serve

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--no-first-run",
    "--no-proxy-server",
)
PATIENCE = 60.0  # s. A browser that was never started before takes its time

# Submits, watches, and tells the test what it saw. Leaves after so many messages, if it was told to.
PAGE = """<!doctype html><title>watch</title><script>
const seen = [], leave = Number(new URLSearchParams(location.search).get("leave"))
const way = new URLSearchParams(location.search).get("way")
const done = (why) => fetch("/seen", {method: "POST", body: JSON.stringify({why, seen})})
fetch("/videos", {method: "POST"}).then((answer) => answer.json()).then(({ref}) => {
  const source = new EventSource(`/${way}/${ref}`)
  source.onmessage = (message) => {
    seen.push({id: message.lastEventId, ...JSON.parse(message.data)})
    if (seen.length === leave) { source.close(); done("left") }
  }
  source.addEventListener("end", () => { source.close(); done("end") })
})
</script>"""

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"),
]


class Watched:
    """The service that the browser is shown, and what it saw."""

    def __init__(self) -> None:
        self.seen: dict[str, Any] = {}
        self.reported = anyio.Event()


def service(site: Site, watched: Watched, sandbox: Sandbox) -> FastAPI:
    webhooks = Webhooks(f"{site.url}/kling", "a secret for this test alone", confirm=False, backstop=60)
    app = FastAPI(lifespan=lifespan(lambda: Client(sandbox.providers(), webhooks=webhooks)))
    app.include_router(router(), prefix="/kling")

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        return PAGE

    @app.post("/videos")
    async def submit(client: CurrentClient) -> dict[str, str]:
        return {"ref": str((await client.submit(runblob.O3Video("a boat"))).ref)}

    @app.get("/fastapi/{ref:path}", response_class=EventSourceResponse)  # noqa: FAST003  # the dependency reads it
    async def events(job: CurrentJob, last_event_id: LastEventId = None) -> AsyncIterator[ServerSentEvent]:
        async for event in event_stream(job, last_event_id):
            yield event

    @app.get("/starlette/{ref:path}")  # noqa: FAST003  # the dependency reads it
    async def plain(job: CurrentJob, last_event_id: LastEventId = None) -> Any:
        return event_response(job, last_event_id)

    @app.post("/seen")
    async def seen(request: Request) -> None:
        watched.seen = json.loads(await request.body())
        watched.reported.set()

    return app


@contextlib.asynccontextmanager
async def browser(url: str, profile: Path) -> AsyncIterator[None]:
    """Chromium at an address, with a fresh profile, until the block ends."""
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", url]
    silent: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = await anyio.open_process(command, **silent)
    try:
        yield
    finally:
        process.kill()
        with anyio.CancelScope(shield=True):
            await process.wait()
            await process.aclose()


async def poller(site: Site, app: Any, watched: Watched, profile: Path, query: str) -> dict[str, Any]:
    """What a browser saw that opened the page."""
    async with serve(site, app), browser(f"{site.url}/?{query}", profile):
        with anyio.fail_after(PATIENCE):
            await watched.reported.wait()
    return watched.seen


@pytest.mark.parametrize("way", ["fastapi", "starlette"])
async def test_a_browser_sees_a_job_from_its_submission_to_its_end(way: str, tmp_path: Path) -> None:
    async with Sandbox(speed=600) as sandbox:
        site, watched = Site(), Watched()
        seen = await poller(site, service(site, watched, sandbox), watched, tmp_path, f"way={way}")
        assert seen["why"] == "end"
        assert [(each["id"], each["status"]) for each in seen["seen"]] == [("0", "pending"), ("1", "completed")]
        assert seen["seen"][-1]["artifacts"][0]["url"].startswith(sandbox.url)
        assert sandbox.counters.status_calls == 0
        assert [status for path, status in site.answers if path.startswith("/kling/")] == [200]


async def test_a_browser_that_was_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    """The first connection breaks after the first event. The browser's own reconnection asks for the rest."""
    async with Sandbox(speed=600) as sandbox:
        sandbox.plan_next(duration=600)
        site, watched = Site(), Watched()
        app = service(site, watched, sandbox)
        asked: list[str | None] = []

        async def cutting(scope: Any, receive: Any, send: Any) -> None:
            if not scope.get("path", "").startswith("/starlette/"):
                await app(scope, receive, send)
                return
            asked.append(dict(scope["headers"]).get(b"last-event-id", b"").decode() or None)
            if len(asked) > 1:
                await app(scope, receive, send)
                return

            async def cut(message: Any) -> None:
                if message.get("body"):
                    await send(message | {"body": message["body"] + b"retry: 20\n\n", "more_body": False})
                    group.cancel_scope.cancel()
                    await anyio.lowlevel.checkpoint()
                await send(message)

            async with anyio.create_task_group() as group:
                await app(scope, receive, cut)

        seen = await poller(site, cutting, watched, tmp_path, "way=starlette")
        assert asked == [None, "0"]
        assert [(each["id"], each["status"]) for each in seen["seen"]] == [("0", "pending"), ("1", "completed")]


async def test_a_browser_that_leaves_cancels_nothing(tmp_path: Path) -> None:
    async with Sandbox(speed=600) as sandbox:
        site, watched = Site(), Watched()
        app = service(site, watched, sandbox)
        async with serve(site, app), browser(f"{site.url}/?way=fastapi&leave=1", tmp_path):
            with anyio.fail_after(PATIENCE):
                await watched.reported.wait()
                while not any(path.startswith("/kling/") for path, _ in site.answers):
                    await site.answered(len(site.answers) + 1)
        assert watched.seen["why"] == "left"
        assert sandbox.counters.webhooks["runblob"] == 1
        assert sandbox.counters.requests["runblob", "cancel"] == 0

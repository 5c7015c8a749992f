"""A web service: a page that asks for a clip, streams what happens, and plays it. The provider reports by webhook.

python examples/web_service.py, then open http://127.0.0.1:8000

PUBLIC_URL is where the provider reaches this service, such as that of a tunnel. WEBHOOK_SECRET signs the addresses.
"""

import os
import secrets
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from kling_async import Budget, Client, SqliteLedger, Video, Webhooks
from kling_async.fastapi import (
    CurrentClient,
    CurrentJob,
    LastEventId,
    Public,
    event_stream,
    exception_handlers,
    lifespan,
    router,
)
from kling_async.sandbox import sandbox_without_key

ADDRESS = "http://127.0.0.1:8000"
PAGE = """<!doctype html><title>Clips</title>
<form><input name="prompt" size="60" value="a paper boat in the rain"><button>Make</button></form>
<p id="status"></p><video id="clip" controls loop hidden></video>
<script type="module">
const say = (text) => { document.querySelector("#status").textContent = text }
document.querySelector("form").onsubmit = async (submitted) => {
  submitted.preventDefault()
  const prompt = new FormData(submitted.target).get("prompt")
  const headers = { "Content-Type": "application/json" }
  const answer = await fetch("/videos", { method: "POST", headers, body: JSON.stringify({ prompt }) })
  const made = await answer.json()
  if (!answer.ok) return say(JSON.stringify(made.detail))
  const source = new EventSource(made.events)
  source.onmessage = (message) => {
    const event = JSON.parse(message.data)
    say(event.status)
    if (event.status === "completed") Object.assign(clip, { src: event.artifacts[0].url, hidden: false })
  }
  source.addEventListener("job-error", (message) => say(JSON.parse(message.data).detail))
  source.addEventListener("end", () => source.close())
}
</script>"""


def make_client() -> Client:
    secret = os.environ.get("WEBHOOK_SECRET") or secrets.token_urlsafe(32)
    webhooks = Webhooks(os.environ.get("PUBLIC_URL", ADDRESS) + "/kling", secret)
    return Client(webhooks=webhooks, ledger=SqliteLedger("service.db"), budget=Budget(usd=20, max_per_job=2))


app = FastAPI(lifespan=lifespan(make_client), exception_handlers=exception_handlers)
app.include_router(router(), prefix="/kling")


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


@app.post("/videos", status_code=202)
async def submit(request: Public[Video], client: CurrentClient) -> dict[str, str]:
    job = await client.submit(request)
    return {"events": f"/videos/{job.ref}/events"}


@app.get("/videos/{ref:path}/events", response_class=EventSourceResponse)
async def events(job: CurrentJob, last_event_id: LastEventId = None) -> AsyncIterator[ServerSentEvent]:
    async for event in event_stream(job, last_event_id):
        yield event


if __name__ == "__main__":
    with sandbox_without_key():
        uvicorn.run(app, port=8000)

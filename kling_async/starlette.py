"""The client on the web, on Starlette alone: taking webhooks in, and streaming a job's events to a browser.

FastAPI applications use `kling_async.fastapi`, which is made of this.
"""

import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass
from typing import Any

import anyio

from kling_async._client import Client
from kling_async._errors import ConfigurationError, KlingError, LedgerFailed, WebhookRejected
from kling_async._job import Job
from kling_async._models import Event
from kling_async.webhooks import MAX_BODY, Delivery

try:
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send
except ModuleNotFoundError as missing:
    raise ImportError(
        f"kling_async.starlette needs {missing.name}, which is not installed: pip install 'kling-async[fastapi]'"
    ) from missing

__all__ = ["WEBHOOK_PATH", "Message", "event_response", "messages", "receive", "webhook_route"]

log = logging.getLogger("kling_async")

WEBHOOK_PATH = "/{provider}/{key}/{token}"
"""What follows the URL of `Webhooks` in a callback address."""

_PING = 15.0  # s; proxies close connections on which nothing was said for a minute or less
_NEVER = 86_400_000  # ms after which a browser that does not close an ended stream asks again


async def receive(client: Client, request: Request) -> int:
    """Take in a webhook that came to `WEBHOOK_PATH`, and say by which HTTP status to answer it.

    Returns:
        200: It was taken in, or there is nothing to do. 404: It is not authentic, or not readable. 413: It is larger
        than `MAX_BODY`. 503: It could not be written down, or the client is closing; the provider shall try again.
    """
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_BODY:
                return 413
    provider, key, token = (request.path_params[name] for name in ("provider", "key", "token"))
    delivery = Delivery(provider, key, token, bytes(body), request.headers)
    try:
        await client.deliver(delivery)
    except WebhookRejected as error:
        log.info("%s", error)
        return 404
    except (LedgerFailed, ConfigurationError) as error:
        log.error("a webhook was not taken in, and the provider was asked to try again: %s", error)  # noqa: TRY400  # the error says it all
        return 503
    return 200


def webhook_route(client: Client, prefix: str = "") -> Route:
    """The endpoint of `Webhooks` for an application on Starlette.

    Args:
        client: Whose jobs are reported.
        prefix: The path of `Webhooks.url`, such as ``"/kling"``, unless the route is mounted there.
    """

    async def endpoint(request: Request) -> Response:
        status = await receive(client, request)
        return JSONResponse({"status": "received"} if status == 200 else {"detail": "Not taken"}, status)  # noqa: PLR2004  # HTTP's

    return Route(prefix + WEBHOOK_PATH, endpoint, methods=["POST"])


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream of Server-Sent Events.

    Attributes:
        data: What is said, ready for JSON.
        event: Its kind: None for an event of the job, ``"problem"`` or ``"end"``.
        id: What a browser that reconnects sends as ``Last-Event-ID``.
        retry: Milliseconds after which a browser whose connection ended is to reconnect.
    """

    data: Any
    event: str | None = None
    id: str | None = None
    retry: int | None = None

    def encode(self) -> bytes:
        """The message as the standard has it (html.spec.whatwg.org, Server-sent events)."""
        fields = {"event": self.event, "data": json.dumps(self.data), "id": self.id, "retry": self.retry}
        lines = [f"{name}: {value}\n" for name, value in fields.items() if value is not None]
        return "".join([*lines, "\n"]).encode()


async def messages(job: Job, last_event_id: str | None = None) -> AsyncGenerator[Message, None]:
    """A job's events as messages, from the one after `last_event_id` on; the end is told in any case.

    What keeps the job from being followed is a ``problem``; the last message is always ``end``, at which a page closes
    its ``EventSource``.
    """
    seen = int(last_event_id) if last_event_id and re.fullmatch("[0-9]{1,9}", last_event_id) else -1
    try:
        async for event in job:
            if event.seq > seen or event.status.terminal:
                yield Message(_described(job, event), id=str(event.seq))
    except KlingError as error:
        yield Message({"ref": str(job.ref), "error": type(error).__name__, "message": str(error)}, "problem")
    yield Message({"ref": str(job.ref), "status": job.status}, "end", retry=_NEVER)


def event_response(job: Job, last_event_id: str | None = None, *, ping: float = _PING) -> Response:
    """The answer that streams a job's events to a browser's ``EventSource``; see `messages`.

    A browser that goes away stops watching and cancels nothing.

    Args:
        job: The job.
        last_event_id: The header ``Last-Event-ID`` of the request: what the browser has already.
        ping: Seconds between the comments that keep an idle connection open.
    """
    return _EventResponse(job, last_event_id, ping)


class _EventResponse(Response):
    media_type = "text/event-stream"

    def __init__(self, job: Job, last_event_id: str | None, ping: float) -> None:  # no body to call the parent's with
        self.status_code = 200
        self.background = None
        # Proxies must neither keep it nor wait until it is whole.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._messages = messages(job, last_event_id)
        self._ping = ping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the job ends or the browser goes away."""
        del scope
        turn = anyio.Lock()

        async def say(text: bytes, *, more: bool = True) -> None:
            async with turn:
                await send({"type": "http.response.body", "body": text, "more_body": more})

        async def ping() -> None:
            while True:
                await anyio.sleep(self._ping)
                await say(b": ping\n\n")

        async def mind() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with anyio.create_task_group() as group:
            group.start_soon(ping)
            group.start_soon(mind)
            async with aclosing(self._messages) as told:
                async for message in told:
                    await say(message.encode())
            await say(b"", more=False)
            group.cancel_scope.cancel()


def _described(job: Job, event: Event) -> Mapping[str, Any]:
    """What a browser is told of an event: not the provider's raw answer, which is not meant for it."""
    files = [{"kind": a.kind, "url": a.url, "expires": a.expires and a.expires.isoformat()} for a in event.artifacts]
    return {
        "ref": str(job.ref),
        "seq": event.seq,
        "status": event.status,
        "at": event.at.isoformat(),
        "elapsed": round(event.elapsed, 3),
        "progress": event.progress,
        "message": event.message,
        "artifacts": files,
        "failures": [asdict(failure) for failure in event.failures],
        "cost": event.cost and str(event.cost),
    }

"""The client in a Starlette application: webhooks, a job's events for a browser, and answers to errors.

FastAPI applications use `kling_async.fastapi`, which builds on this module.
"""

import json
import logging
import math
import re
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import RunVar, checkpoint

from kling_async._client import Client
from kling_async._errors import (
    ConfigurationError,
    ContentRejected,
    InvalidRequest,
    JobNotFound,
    KeyConflict,
    KlingError,
    LedgerFailed,
    RateLimited,
    WebhookRejected,
)
from kling_async._exchange.redaction import HiddenText
from kling_async._job.job import Job
from kling_async._models import Event
from kling_async.webhooks import MAX_BODY, Delivery

try:
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import Receive, Scope, Send
except ModuleNotFoundError as missing:
    raise ImportError(
        f"kling_async.starlette needs {missing.name}, which is not installed: pip install 'kling-async[fastapi]'"
    ) from missing

__all__ = [
    "WEBHOOK_PATH",
    "Message",
    "error_response",
    "event_response",
    "messages",
    "public_error",
    "receive",
    "webhook_route",
]

log = logging.getLogger("kling_async")

WEBHOOK_PATH = "/{provider}/{attempt_id}/{token}"
"""What follows the URL of `Webhooks` in a callback URL."""

_PING = 15.0  # s. Proxies close connections that are silent for a minute or less
_NEVER = 86_400_000  # ms after which a browser that does not close an ended stream connects again
_BODY_TIMEOUT = 10.0  # s
_PINGS_AT_ONCE = 100  # in a turn of the event loop. Streams that were opened together are due together
_SHUTDOWN_CHECK = 0.5  # s


async def receive(client: Client, request: Request) -> int:
    """Receive a webhook that came to `WEBHOOK_PATH`. The token is checked before the body is read.

    Returns:
        The HTTP status of the answer. 200: It was received, or there is nothing to do. 400: The sender hung up. 404: It
        is not authentic, or not readable. 408: Its body took longer than 10 seconds. 413: It is larger than `MAX_BODY`.
        503: It could not be stored, or the client is closing. The provider shall repeat it.
    """
    path = request.path_params
    delivery = Delivery(path["provider"], path["attempt_id"], HiddenText(path["token"]), b"", request.headers)
    if client.webhooks is not None and not client.webhooks.accepts(delivery):
        log.info("a webhook delivery was rejected: its URL was not made by this client, or the secret was replaced")
        return HTTPStatus.NOT_FOUND
    body = await _read_body(request)
    if isinstance(body, HTTPStatus):
        return body
    try:
        await client.deliver(Delivery(delivery.provider, delivery.attempt_id, delivery.token, body, request.headers))
    except WebhookRejected as error:
        log.info("%s", error)
        return HTTPStatus.NOT_FOUND
    except (LedgerFailed, ConfigurationError) as error:
        log.error("a webhook was not stored, and the provider was asked to repeat it: %s", error)  # noqa: TRY400  # the message is complete
        return HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.OK


async def _read_body(request: Request) -> bytes | HTTPStatus:
    """The body, or the status by which to answer that there is none."""
    body = bytearray()
    try:
        with anyio.CancelScope(deadline=anyio.current_time() + _BODY_TIMEOUT):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > MAX_BODY:
                        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            return bytes(body)
    except ClientDisconnect:
        log.debug("the sender of a webhook hung up before its body was complete")
        return HTTPStatus.BAD_REQUEST
    return HTTPStatus.REQUEST_TIMEOUT


def webhook_route(client: Client, prefix: str = "") -> Route:
    """The endpoint of `Webhooks` for an application on Starlette.

    Args:
        client: The client that submitted the jobs.
        prefix: The path of `Webhooks.url`, such as ``"/kling"``, unless the route is mounted there.
    """

    async def endpoint(request: Request) -> Response:
        status = await receive(client, request)
        return JSONResponse({"status": "received"} if status == HTTPStatus.OK else {"detail": "Not taken"}, status)

    return Route(prefix + WEBHOOK_PATH, endpoint, methods=["POST"])


_PUBLIC_ERRORS: Mapping[type[KlingError], tuple[HTTPStatus, str]] = {
    ContentRejected: (HTTPStatus.UNPROCESSABLE_ENTITY, "The content policy does not allow this request. Change it."),
    InvalidRequest: (HTTPStatus.BAD_REQUEST, "The request is not valid. Change it."),
    KeyConflict: (HTTPStatus.CONFLICT, "The key was used for another request."),
    JobNotFound: (HTTPStatus.NOT_FOUND, "There is no such job."),
    RateLimited: (HTTPStatus.TOO_MANY_REQUESTS, "Too many requests. Try again later."),
}
_OUR_ERROR = (HTTPStatus.BAD_GATEWAY, "The generation service cannot be used at the moment.")
_RETRY_AFTER = 30.0  # s, where the provider names no time


def public_error(error: KlingError) -> tuple[HTTPStatus, dict[str, Any]]:
    """The HTTP status and the JSON body by which a service answers an error, for readers that it does not know.

    400, 409, 422: the visitor's request is at fault. 404: there is no such job. 429: too many requests. 502: everything
    else, which the visitor cannot change. The body has ``error`` (the class), ``detail``, and ``code`` (the provider's
    own code, for 400 and 422). It contains no path, process, account or message of a provider.
    """
    known = (found for kind, found in _PUBLIC_ERRORS.items() if isinstance(error, kind))
    status, detail = next(known, _OUR_ERROR)
    body: dict[str, Any] = {"error": type(error).__name__, "detail": detail}
    if status in {HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY} and error.code is not None:
        body["code"] = error.code
    return status, body


async def error_response(request: Request, error: Exception) -> Response:
    """Answer a `KlingError` that a handler raised, in the form of `public_error`. The error itself is logged.

    Use it as the handler of an application: ``Starlette(exception_handlers={KlingError: error_response})``.
    """
    if not isinstance(error, KlingError):
        raise error
    status, body = public_error(error)
    level = logging.ERROR if status == HTTPStatus.BAD_GATEWAY else logging.INFO
    log.log(level, "%s %s is answered with %d: %s", request.method, request.url.path, status, error)
    headers: dict[str, str] = {}
    if isinstance(error, RateLimited):
        after = getattr(error, "retry_after", None)
        headers["retry-after"] = str(math.ceil(_RETRY_AFTER if after is None else after))
    return JSONResponse(body, status, headers=headers)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a stream of Server-Sent Events.

    Attributes:
        data: The content, ready for JSON.
        event: Its type: None for an event of the job, ``"job-error"`` or ``"end"``.
        id: What a browser that reconnects sends as ``Last-Event-ID``.
        retry: Milliseconds after which a browser whose connection ended is to reconnect.
    """

    data: Any
    event: str | None = None
    id: str | None = None
    retry: int | None = None

    def encode(self) -> bytes:
        """The message in the format of the standard (html.spec.whatwg.org, Server-sent events)."""
        fields = {"event": self.event, "data": json.dumps(self.data), "id": self.id, "retry": self.retry}
        lines = [f"{name}: {value}\n" for name, value in fields.items() if value is not None]
        return "".join([*lines, "\n"]).encode()


async def messages(job: Job, last_event_id: str | None = None) -> AsyncGenerator[Message, None]:
    """A job's events as messages, from the one after `last_event_id` on. The last event is always sent.

    An error that ends the stream is a ``job-error`` with the fields of `public_error`. (The name ``error`` belongs to
    the browser, which uses it for lost connections.) The last message is ``end``, at which a page closes its
    ``EventSource``. When the server shuts down, the stream ends without it, and the browser connects again.
    """
    with suppress(_ShutDown):
        async with aclosing(_messages(job, last_event_id, _next_event)) as stream:
            async for message in stream:
                yield message


async def _messages(
    job: Job, last_event_id: str | None, next_event: Callable[[Any], Awaitable[Event | None]]
) -> AsyncGenerator[Message, None]:
    """The same, by a function that returns the next event."""
    seen = int(last_event_id) if last_event_id and re.fullmatch("[0-9]{1,9}", last_event_id) else -1
    events = aiter(job)
    try:
        while (event := await next_event(events)) is not None:
            if event.seq > seen or event.status.terminal:
                yield Message(_described(job, event), id=str(event.seq))
    except KlingError as error:
        _, body = public_error(error)
        log.warning("the events of job %s end with an error: %s", job.ref, error)
        yield Message({"ref": str(job.ref), **body}, "job-error")
    yield Message({"ref": str(job.ref), "status": job.status}, "end", retry=_NEVER)


class _ShutDown(Exception):  # not an error
    """The server is shutting down."""


async def _next_event(events: Any) -> Event | None:
    """The next event. None after the last one.

    Raises:
        KlingError: The job cannot be followed any more.
        _ShutDown: The server is shutting down.
    """
    event: Event | None = None
    failure: KlingError | None = None
    arrived = False
    async with anyio.create_task_group() as group:
        group.start_soon(cancel_at_shutdown, group.cancel_scope)
        try:
            event = await anext(events, None)
            arrived = True
        except KlingError as error:  # a task group would wrap it
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not arrived:
        raise _ShutDown
    return event


async def cancel_at_shutdown(scope: anyio.CancelScope) -> None:
    """Cancel the scope of an open stream when the server is asked to stop, which would wait for the stream for ever."""
    try:
        watch = _WATCH.get()
    except LookupError:
        watch = _ShutdownWatch()
        _WATCH.set(watch)
    await watch.stopping()
    scope.cancel()


class _ShutdownWatch:
    """The open streams of one event loop. One of them at a time looks whether the server is to stop, for all.

    The server notifies nobody. If each of ten thousand streams looked twice a second, that would take a whole core.
    """

    def __init__(self) -> None:
        self._looking = False
        self._resting: dict[anyio.Event, None] = {}

    async def stopping(self) -> None:
        """Return when the server is to stop."""
        try:
            while not _server_is_stopping():
                if self._looking:
                    called = anyio.Event()
                    self._resting[called] = None
                    try:
                        await called.wait()
                    finally:
                        self._resting.pop(called, None)
                else:
                    self._looking = True
                    try:
                        await anyio.sleep(_SHUTDOWN_CHECK)
                    finally:
                        self._looking = False
        finally:
            self._call()

    def _call(self) -> None:
        """Let the next one look, or leave, unless somebody does. Everybody who stops waiting calls this."""
        if not self._looking and self._resting:
            called = next(iter(self._resting))
            del self._resting[called]
            called.set()


_WATCH: RunVar[_ShutdownWatch] = RunVar("kling_async.starlette.watch")


def _server_is_stopping() -> bool:
    """Whether uvicorn has been asked to stop.

    Uvicorn waits for open streams before it ends the application's lifespan, so nothing of the application is notified.
    Its signal handler is a method of the server, which knows.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))


def event_response(job: Job, last_event_id: str | None = None, *, ping: float = _PING) -> Response:
    """The response that streams a job's events to a browser's ``EventSource``. See `messages`.

    A browser that disconnects cancels nothing.

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
        # Proxies must neither store it nor wait until it is complete.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._messages = _messages(job, last_event_id, lambda events: anext(events, None))
        self._ping = ping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the job ends, the browser disconnects or the server shuts down."""
        del scope

        async def wait_for_disconnect() -> None:
            # A cancelled task leaves 40 objects that only the garbage collector frees. This one ends like any other.
            with suppress(anyio.get_cancelled_exc_class()):
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with anyio.create_task_group() as group:
            stream = _OpenStream(send, group, self._ping)
            group.start_soon(wait_for_disconnect)
            with _open_streams().keeping(stream), stream.reading:
                async with aclosing(self._messages) as events:
                    async for message in events:
                        await stream.write(message.encode())
            await stream.write(b"", more=False)
            group.cancel_scope.cancel()


class _OpenStream:
    """An open response of events.

    Attributes:
        group: Its tasks.
        ping: Seconds between two comments.
        next_ping: When the next one is due.
        reading: The scope in which it reads events. It is cancelled when the server is to stop.
    """

    __slots__ = ("_complete", "_lock", "_send", "group", "next_ping", "ping", "reading")

    def __init__(self, send: Send, group: TaskGroup, ping: float) -> None:
        self._send = send
        self._lock = anyio.Lock(fast_acquire=True)
        self._complete = False
        self.group = group
        self.ping = ping
        self.next_ping = anyio.current_time() + ping
        self.reading = anyio.CancelScope()

    async def write(self, text: bytes, *, more: bool = True) -> None:
        """Send a part of the body. After the last one, nothing is sent."""
        async with self._lock:
            if not self._complete:  # a comment may have waited for the end to be written
                self._complete = not more
                await self._send({"type": "http.response.body", "body": text, "more_body": more})


class _OpenStreams:
    """The open responses of one event loop. A task in the group of one of them looks after all.

    It keeps idle connections open, and ends the streams when the server is to stop. Tasks of its own for each would be
    most of what ten thousand readers take of memory (``python -m benchmarks.fanout``).
    """

    def __init__(self) -> None:
        self._streams: dict[_OpenStream, None] = {}
        self._keeper: _OpenStream | None = None  # in whose group the task is

    @contextmanager
    def keeping(self, stream: _OpenStream) -> Iterator[None]:
        """Look after the stream within this block, which is left before its group ends."""
        self._streams[stream] = None
        if self._keeper is None:
            self._pass_on()
        try:
            yield
        finally:
            self._leave(stream)

    def _leave(self, stream: _OpenStream) -> None:
        self._streams.pop(stream, None)
        if self._keeper is stream:
            self._pass_on()

    def _pass_on(self) -> None:
        self._keeper = next(iter(self._streams), None)
        if self._keeper is not None:
            self._keeper.group.start_soon(self._keep, self._keeper)

    async def _keep(self, keeper: _OpenStream) -> None:
        try:
            while self._keeper is keeper:
                stopping, now = _server_is_stopping(), anyio.current_time()
                pings = 0
                for stream in list(self._streams):
                    if stopping:
                        stream.reading.cancel()
                    elif stream.next_ping <= now and stream in self._streams:
                        stream.next_ping = now + stream.ping
                        stream.group.start_soon(stream.write, b": ping\n\n")  # a slow browser holds up its own alone
                        pings += 1
                        if pings % _PINGS_AT_ONCE == 0:
                            await checkpoint()
                await anyio.sleep(min(_SHUTDOWN_CHECK, *(stream.ping for stream in self._streams)))
        finally:
            self._leave(keeper)  # if it was cancelled


_STREAMS: RunVar[_OpenStreams] = RunVar("kling_async.starlette.streams")


def _open_streams() -> _OpenStreams:
    """Those of this event loop."""
    try:
        return _STREAMS.get()
    except LookupError:
        made = _OpenStreams()
        _STREAMS.set(made)
        return made


def _described(job: Job, event: Event) -> Mapping[str, Any]:
    """What a browser receives of an event. The provider's raw answer is not meant for it."""
    files = [{"kind": a.kind, "url": a.url, "expires": a.expires and a.expires.isoformat()} for a in event.artifacts]
    return {
        "ref": str(job.ref),
        "seq": event.seq,
        "status": event.status,
        "at": event.at.isoformat(),
        "elapsed": round(event.elapsed, 3),
        "progress": event.progress,
        "message": event.message,
        "queue_position": event.queue_position,
        "logs": event.logs,
        "artifacts": files,
        "failures": [asdict(failure) for failure in event.failures],
        "cost": event.cost and str(event.cost),
    }

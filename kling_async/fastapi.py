"""The client in a FastAPI application: webhooks, the client in handlers, public request bodies, events for browsers.

::

    app = FastAPI(
        lifespan=lifespan(lambda: Client(webhooks=Webhooks("https://example.com/kling", secret))),
        exception_handlers=exception_handlers,
    )
    app.include_router(router(), prefix="/kling")

    @app.post("/videos", status_code=202)
    async def submit(request: Public[runblob.O3Video], client: CurrentClient) -> dict[str, str]:
        job = await client.submit(request)
        return {"events": f"/videos/{job.ref}/events"}
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import anyio
from pydantic import BaseModel

from kling_async._client import Client
from kling_async._errors import ConfigurationError, KlingError
from kling_async._job.job import Job
from kling_async.providers._base.public_body import PublicBody
from kling_async.providers._base.request import Request as KlingRequest

try:
    from fastapi import APIRouter, Depends, Header, HTTPException, Request
    from fastapi.requests import HTTPConnection
    from fastapi.sse import ServerSentEvent
except ModuleNotFoundError as missing:
    raise ImportError(
        f"kling_async.fastapi needs {missing.name} (FastAPI 0.135 or later), which is not installed: "
        "pip install 'kling-async[fastapi]'"
    ) from missing

from kling_async.starlette import WEBHOOK_PATH, error_response, event_response, messages, receive

__all__ = [
    "CurrentClient",
    "CurrentJob",
    "LastEventId",
    "Public",
    "PublicBody",
    "current_client",
    "current_job",
    "event_response",
    "event_stream",
    "exception_handlers",
    "lifespan",
    "router",
]

log = logging.getLogger("kling_async")

_STATE = "kling_async_client"


def lifespan(
    client: Client | Callable[[], Client], *, follow: bool = True
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """A lifespan that opens the client, gives it to handlers (`CurrentClient`), and closes it.

    The application does not start when the client's ledger cannot be used. Several workers may share one ledger.

    In a lifespan of your own: ``async with lifespan(client)(app) as state: yield {**state, ...}``.

    Args:
        client: The client, or a function that makes it. An application that is started several times, as in tests,
            needs a new client each time.
        follow: Whether jobs go on when nobody waits for them (`Client.follow`). With a ledger, also those of earlier
            processes (`Client.resume`).
    """

    @asynccontextmanager
    async def opened(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        del app
        made = client if isinstance(client, Client) else client()
        async with made:
            if made.ledger is not None:
                await made.ledger.get_value("startup")  # opens it, or raises what is wrong with it
            async with anyio.create_task_group() as group:
                if follow:
                    group.start_soon(_follow, made)
                yield {_STATE: made}
                group.cancel_scope.cancel()

    return opened


async def _follow(client: Client) -> None:
    if client.ledger is not None:
        try:
            await client.resume()
        except KlingError as error:
            log.error("jobs of earlier processes are not followed: %s", error)  # noqa: TRY400  # the message is complete
    await client.follow()


exception_handlers: dict[int | type[Exception], Any] = {KlingError: error_response}
"""Answers for errors that handlers raise: ``FastAPI(exception_handlers=exception_handlers)``.

The visitor's own errors are 400, 404, 409 or 422, too many requests are 429 with ``Retry-After``, and everything else
is 502. The answer does not show paths, processes or accounts, and the error itself is logged. See
`kling_async.starlette.public_error`.
"""


RequestT = TypeVar("RequestT", bound=KlingRequest)

Public: TypeAlias = Annotated[RequestT, PublicBody()]
"""The body of an endpoint for strangers: ``async def submit(request: Public[runblob.O3Video])``.

It is the request, without the fields that belong to the operator of the service: addresses to which the provider sends
results, where it stores them and for how long, and its app. A body with such a field is answered with 422. For another
choice of fields: ``Annotated[runblob.O3Video, PublicBody(hidden=[...])]``.
"""


async def current_client(connection: HTTPConnection) -> Client:
    """The dependency that gives a handler the client of the application's `lifespan`.

    Raises:
        ConfigurationError: The application has no such lifespan, or was not started.
    """
    client: Client | None = getattr(connection.state, _STATE, None)
    if client is None:
        raise ConfigurationError(
            "the application has no client: make it with FastAPI(lifespan=kling_async.fastapi.lifespan(client)), and "
            "start it (in tests: with TestClient(app))"
        )
    return client


CurrentClient: TypeAlias = Annotated[Client, Depends(current_client)]
"""A handler's parameter of this type is the client."""


async def current_job(ref: str, client: CurrentClient) -> Job:
    """The dependency that gives a handler the job that the path parameter ``ref`` names, as in ``/jobs/{ref:path}``.

    Everyone who knows a job's reference sees the job. If that matters, check first that it is the visitor's own.

    Raises:
        HTTPException: 404: it names none of this client's providers and endpoints.
    """
    try:
        return client.attach(ref)
    except (ValueError, ConfigurationError) as error:
        raise HTTPException(HTTPStatus.NOT_FOUND) from error


CurrentJob: TypeAlias = Annotated[Job, Depends(current_job)]
"""A handler's parameter of this type is the job that the path parameter ``ref`` names."""

LastEventId: TypeAlias = Annotated[str | None, Header()]
"""A handler's parameter ``last_event_id`` of this type is what a browser that reconnects has already."""


async def event_stream(job: Job, last_event_id: str | None = None) -> AsyncIterator[ServerSentEvent]:
    """A job's events for a handler that streams them by FastAPI's own means, which adds the pings.

    ::

        @app.get("/jobs/{ref:path}/events", response_class=EventSourceResponse)
        async def events(job: CurrentJob, last_event_id: LastEventId = None) -> AsyncIterator[ServerSentEvent]:
            async for event in event_stream(job, last_event_id):
                yield event

    An event's ``data`` is JSON: ``ref``, ``seq``, ``status``, ``at``, ``elapsed`` (s), ``progress``, ``message``,
    ``artifacts``, ``failures``, ``cost``. A message of type ``job-error`` says why the job is not followed any more.
    The last message is of type ``end``. A page closes its ``EventSource`` at it. A browser that disconnects cancels
    nothing. When the server shuts down, the stream ends, and the browser connects again. `event_response` does the same
    as a response, for routes of Starlette.

    Args:
        job: The job.
        last_event_id: What the browser has already: events up to that one are left out, the end never.
    """
    async with aclosing(messages(job, last_event_id)) as stream:
        async for message in stream:
            yield ServerSentEvent(data=message.data, event=message.event, id=message.id, retry=message.retry)


class Received(BaseModel):
    """The answer to a webhook that need not come again."""

    status: Literal["received"] = "received"


class Refused(BaseModel):
    """The answer to a webhook that was not received."""

    detail: str


_REASONS = {
    400: "The sender hung up before the body was complete.",
    404: "It is not authentic, or not readable, or about another job than its URL.",
    408: "Its body took too long.",
    413: "It is larger than any webhook of a provider.",
    503: "It could not be stored; repeat it.",
}
_PARTS = {
    "provider": "The provider that reports.",
    "attempt_id": "The submission that it reports about.",
    "token": "The proof that the URL was made by the client.",
}


async def _given(client: Client) -> Client:
    return client  # asynchronous, because FastAPI calls a plain function in a thread


def router(client: Client | Callable[..., Client | Awaitable[Client]] = current_client) -> APIRouter:
    """The endpoint for webhooks: include it under the path of `Webhooks.url`.

    It makes no call to a provider before it answers, except that fal's public keys are read once a day. A
    delivery wakes the tasks that wait for the job. ``lifespan(client, follow=True)`` waits for all jobs.

    Args:
        client: The client that submitted the jobs, or a dependency that gives it. Defaults to the client of the
            `lifespan`. Tests replace it: ``app.dependency_overrides[current_client] = lambda: other``.
    """
    provided = partial(_given, client) if isinstance(client, Client) else client
    made = APIRouter()

    @made.post(
        WEBHOOK_PATH,
        summary="Receive a webhook",
        response_description="It was received, or there is nothing to do. The provider need not repeat it.",
        responses={status: {"model": Refused, "description": reason} for status, reason in _REASONS.items()},
        openapi_extra={
            # Declared by hand: FastAPI's own declaration of a parameter brings a 422 that cannot happen.
            "parameters": [
                {"name": name, "in": "path", "required": True, "description": meaning, "schema": {"type": "string"}}
                for name, meaning in _PARTS.items()
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": {}}}},
        },
    )
    async def receive_webhook(request: Request, client: Annotated[Client, Depends(provided)]) -> Received:
        """Called by the provider when a job changes, at the address that the submission gave it."""
        status = await receive(client, request)
        if status != HTTPStatus.OK:
            raise HTTPException(status)
        return Received()

    return made

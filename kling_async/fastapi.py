"""The client in a FastAPI application: webhooks taken in, handlers given the client, events streamed to browsers.

::

    app = FastAPI(lifespan=lifespan(lambda: Client(webhooks=Webhooks("https://example.com/kling", secret))))
    app.include_router(router(), prefix="/kling")
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from typing import Annotated, Any, Literal, TypeAlias

import anyio
from pydantic import BaseModel

from kling_async._client import Client
from kling_async._errors import ConfigurationError, KlingError
from kling_async._job import Job

try:
    from fastapi import APIRouter, Depends, Header, HTTPException, Request
    from fastapi.requests import HTTPConnection
    from fastapi.sse import ServerSentEvent
except ModuleNotFoundError as missing:
    raise ImportError(
        f"kling_async.fastapi needs {missing.name} (FastAPI 0.135 or later), which is not installed: "
        "pip install 'kling-async[fastapi]'"
    ) from missing

from kling_async.starlette import WEBHOOK_PATH, event_response, messages, receive

__all__ = [
    "CurrentClient",
    "CurrentJob",
    "LastEventId",
    "current_client",
    "current_job",
    "event_response",
    "event_stream",
    "lifespan",
    "router",
]

log = logging.getLogger("kling_async")

_STATE = "kling_async_client"


def lifespan(
    client: Client | Callable[[], Client], *, follow: bool = True
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any]]]:
    """A lifespan that opens the client, gives it to handlers (`CurrentClient`), and closes it.

    In a lifespan of your own: ``async with lifespan(client)(app) as state: yield {**state, ...}``.

    Args:
        client: The client, or what makes it: an application that is started again, as tests do, needs a new one.
        follow: Whether jobs go on when nobody waits for them (`Client.wait`); with a ledger, also those of earlier
            processes (`Client.resume`).
    """

    @asynccontextmanager
    async def opened(app: Any) -> AsyncIterator[Mapping[str, Any]]:
        del app
        made = client if isinstance(client, Client) else client()
        async with made, anyio.create_task_group() as group:
            if follow:
                group.start_soon(_follow, made)
            yield {_STATE: made}
            group.cancel_scope.cancel()

    return opened


async def _follow(client: Client) -> None:
    if client._ledger.enabled:  # noqa: SLF001  # a part of the library asks the client
        try:
            await client.resume()
        except KlingError as error:
            log.error("jobs of earlier processes are not followed: %s", error)  # noqa: TRY400  # the error says it all
    await client.follow()


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

    Whoever knows a job's reference is shown the job: check first whose it is, where that matters.

    Raises:
        HTTPException: 404: it names none of this client's providers and endpoints.
    """
    try:
        return client.attach(ref)
    except (ValueError, ConfigurationError) as error:
        raise HTTPException(404) from error


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
    ``artifacts``, ``failures``, ``cost_unit``. A message of type ``problem`` says why the job is not followed any more.
    The last message is of type ``end``; a page closes its ``EventSource`` at it. A browser that goes away stops
    watching and cancels nothing. `event_response` does the same as a response, for routes of Starlette.

    Args:
        job: The job.
        last_event_id: What the browser has already: events up to that one are left out, the end never.
    """
    async with aclosing(messages(job, last_event_id)) as told:
        async for message in told:
            yield ServerSentEvent(data=message.data, event=message.event, id=message.id, retry=message.retry)


class Received(BaseModel):
    """The answer to a webhook that need not come again."""

    status: Literal["received"] = "received"


class Refused(BaseModel):
    """The answer to a webhook that was not taken in."""

    detail: str


_REASONS = {
    404: "It is not authentic, or not readable, or about another job than its address.",
    413: "It is larger than any webhook of a provider.",
    503: "It could not be written down; try again.",
}
_PARTS = {
    "provider": "The provider that reports.",
    "key": "The purchase that it reports about.",
    "token": "What proves that the address is of the client's making.",
}


async def _given(client: Client) -> Client:
    return client  # asynchronous, because FastAPI calls a plain function in a thread


def router(client: Client | Callable[..., Client | Awaitable[Client]] = current_client) -> APIRouter:
    """The endpoint below which `Webhooks.url` lies: include it under that path.

    It makes no call to a provider before it answers. What it takes in wakes whoever waits for the job;
    ``lifespan(client, follow=True)`` waits for all of them.

    Args:
        client: Whose jobs are reported, or a dependency that gives it: by default, the one of the `lifespan`. Tests
            replace it: ``app.dependency_overrides[current_client] = lambda: other``.
    """
    provided = partial(_given, client) if isinstance(client, Client) else client
    made = APIRouter()

    @made.post(
        WEBHOOK_PATH,
        summary="Take in a webhook",
        response_description="It was taken in, or there is nothing to do; the provider need not try again.",
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
        if status != 200:  # noqa: PLR2004  # HTTP's
            raise HTTPException(status)
        return Received()

    return made

"""The application: the page, and what the page asks for."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from kling_async._client import Client
from kling_async._errors import ConfigurationError, InvalidRequest, KlingError, Remedy
from kling_async._ledger.protocol import Ledger
from kling_async.starlette import cancel_at_shutdown, public_error
from kling_async.studio.access import LOOPBACK, Access
from kling_async.studio.code import as_code
from kling_async.studio.forms import Forms, problems
from kling_async.studio.jobs import MEDIA, Jobs, described
from kling_async.studio.spending import spending

__all__ = ["app"]

_PAGE = Path(__file__).parent / "page"
_PING = 15.0  # s. Proxies close connections that are silent for a minute or less
_MOST_BYTES = 128 * 1024 * 1024  # of one call: five images of 10 MiB as text, with room


def app(
    client: Client,
    *,
    directory: str | Path = "kling-studio",
    token: str | None = None,
    hosts: Collection[str] = LOOPBACK,
    ask_above: float = 1.0,
    sandbox: bool = False,
) -> Starlette:
    """Return the studio as an application, to be served by itself or mounted into another one.

    Jobs are followed and saved while it is served, or, mounted, while a page is open. It does not close the client.

    Args:
        client: The client, with a ledger. Its providers are those that the page offers.
        directory: Where results are saved. It is made if need be.
        token: A secret that the first call must bring: ``/?token=...``. It becomes a cookie. If None, the studio asks
            nobody who they are: then your application must, because the page spends money.
        hosts: The host names, without ports, under which it is served. Others are refused.
        ask_above: The page asks before it buys anything that costs more: US dollars, or as many credits.
        sandbox: Say on the page that nothing is bought.

    Raises:
        ConfigurationError: The client has no ledger.
    """
    if client.ledger is None:
        raise ConfigurationError(
            "the studio remembers everything in a ledger, and the client has none",
            remedies=(Remedy("configure", detail="Client(ledger=SqliteLedger(path))"),),
        )
    facts = {"ask_above": ask_above, "sandbox": sandbox}
    pages = _Pages(client, client.ledger, Path(directory).expanduser().resolve(), facts)
    return Starlette(
        routes=pages.routes(),
        middleware=[Middleware(Access, token=token, hosts=hosts)],
        exception_handlers={KlingError: _refused, ValidationError: _refused, KeyError: _not_found},
        lifespan=pages.lifespan,
    )


class _Pages:
    """The handlers."""

    def __init__(self, client: Client, ledger: Ledger, directory: Path, facts: dict[str, Any]) -> None:
        self._client = client
        self._ledger = ledger
        self._facts = facts
        self._forms = Forms(client)
        self._jobs = Jobs(client, ledger, self._forms, directory)

    def routes(self) -> list[Route | Mount]:
        return [
            Route("/", self.page),
            Mount("/static", StaticFiles(directory=_PAGE)),
            Route("/api/start", self.start),
            Route("/api/form", self.form),
            Route("/api/check", self.check, methods=["POST"]),
            Route("/api/jobs", self.jobs, methods=["GET"]),
            Route("/api/jobs", self.submit, methods=["POST"]),
            Route("/api/job", self.act, methods=["POST"]),
            Route("/api/request", self.again),
            Route("/api/money", self.money),
            Route("/api/events", self.events),
            Route("/files/{ref:path}/{index:int}", self.file),
        ]

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with anyio.create_task_group() as group:
            group.start_soon(self._jobs.drive)
            yield
            group.cancel_scope.cancel()

    async def page(self, _: Request) -> Response:
        return FileResponse(_PAGE / "index.html")

    async def start(self, _: Request) -> Response:
        return _json({**self._facts, "endpoints": self._forms.listed()})

    async def form(self, request: Request) -> Response:
        return _json(await anyio.to_thread.run_sync(self._forms.described, request.query_params["endpoint"]))

    async def check(self, request: Request) -> Response:
        given = await _body(request)
        return _json(await self._forms.check(str(given["endpoint"]), given["fields"]))

    async def jobs(self, _: Request) -> Response:
        return _json(await self._jobs.listed())

    async def submit(self, request: Request) -> Response:
        given = await _body(request)
        wanted = self._forms.request(str(given["endpoint"]), given["fields"])
        place = given.get("place")
        if place and wanted.endpoint in {"video", "image"}:
            quotes = {quote.endpoint: quote for quote in await self._client.quote(wanted)}
            wanted = quotes[str(place)].request or wanted
        return _json(await self._jobs.submit(wanted, str(given["key"])[:100]), 201)

    async def act(self, request: Request) -> Response:
        given = await _body(request)
        try:
            return _json(await self._jobs.act(str(given["key"]), str(given["action"]), given.get("ref")))
        except ValueError as error:
            return _json({"message": str(error), "fields": {}, "remedies": []}, 422)

    async def again(self, request: Request) -> Response:
        one, fields = await self._jobs.request(request.query_params["key"])
        endpoint = self._forms.endpoints[one.endpoint]
        kind = self._forms.providers.get(one.provider)
        return _json({"endpoint": one.endpoint, "fields": fields, "code": as_code(kind, endpoint.request, fields)})

    async def money(self, _: Request) -> Response:
        return _json(await spending(self._client, self._ledger, self._jobs))

    async def events(self, _: Request) -> Response:
        return _Events(self._jobs)

    async def file(self, request: Request) -> Response:
        path = await self._jobs.file(request.path_params["ref"], request.path_params["index"])
        if path is None:
            return _json({"message": "this file is not there any more", "fields": {}, "remedies": []}, 404)
        download = path.name if "download" in request.query_params else None
        return FileResponse(path, media_type=MEDIA[path.suffix.lower()], filename=download)


class _Events(Response):
    """Cards as they change, as Server-Sent Events."""

    media_type = "text/event-stream"

    def __init__(self, jobs: Jobs) -> None:  # no body to call the parent's with
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        self._jobs = jobs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the browser leaves or the server shuts down."""
        del scope
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with anyio.create_task_group() as group:
            group.start_soon(self._leave, receive, group.cancel_scope)
            group.start_soon(cancel_at_shutdown, group.cancel_scope)
            group.start_soon(self._jobs.drive)  # where no lifespan does, because this is mounted
            seen = self._jobs.count
            await _write(send, "retry: 1000\nevent: hello\ndata: {}\n\n")
            while True:
                cards: list[dict[str, Any]] = []
                with anyio.move_on_after(_PING):
                    seen, cards = await self._jobs.changes(seen)
                await _write(send, "".join(f"data: {json.dumps(card)}\n\n" for card in cards) or ": ping\n\n")

    async def _leave(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()


async def _write(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a call."""
    size = 0
    pieces = []
    async for piece in request.stream():
        size += len(piece)
        if size > _MOST_BYTES:
            raise InvalidRequest(f"the images are more than {_MOST_BYTES // 2**20} MiB together; send fewer")
        pieces.append(piece)
    try:
        found = json.loads(b"".join(pieces))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("fields", {}), dict):
        raise InvalidRequest("the page sent something that is not a form; reload it")
    return found


def _json(value: Any, status: int = 200) -> Response:
    return JSONResponse(value, status)


async def _refused(_: Request, error: Exception) -> Response:
    """What happened, to which field or submission, and what to do next."""
    if isinstance(error, ValidationError):
        return _json({"message": "Nothing was sent.", "fields": problems(error), "remedies": []}, 422)
    if not isinstance(error, KlingError):
        raise error
    status = public_error(error)[0]
    found = {"message": error.message[:2000], "fields": {}, "remedies": described(error.remedies)}
    return _json({**found, "error": type(error).__name__}, status)


async def _not_found(_: Request, error: Exception) -> Response:
    return _json(
        {"message": f"there is nothing called {error} here; reload the page", "fields": {}, "remedies": []}, 404
    )

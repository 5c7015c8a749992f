"""The ASGI application: one thin wrapper around each endpoint counts the request and answers it."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.routing import Route, Router

from kling_async.sandbox._dialect import Dialect, Operation, reply
from kling_async.sandbox._jobs import UnknownDirectiveError
from kling_async.sandbox._renderer import Renderer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from kling_async.sandbox._world import World


class App:
    """Routes requests to the dialects.

    Args:
        world: Who sells.
        dialects: Who is spoken.
        scale: Size of results relative to what was asked.
    """

    def __init__(self, world: World, dialects: Sequence[Dialect], scale: float | None) -> None:
        self.world = world
        self.renderer = Renderer(scale, world.counters)
        world.draw = self.renderer.draw
        routes = [self._route(dialect, operation) for dialect in dialects for operation in dialect.operations]
        self._router = Router(routes, redirect_slashes=False, default=_nothing_here)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._router(scope, receive, send)

    def keep_alive(self) -> float:
        """Real seconds that an idle connection is kept."""
        return 75.0

    async def chores(self) -> None:
        """What the server's loop does besides answering."""

    def close(self) -> None:
        """Release what the application holds."""
        self.renderer.close()

    def _route(self, dialect: Dialect, operation: Operation) -> Route:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            kind = operation.kind if isinstance(operation.kind, str) else operation.kind(body)
            counters = self.world.counters
            counters.requests[dialect.name, kind] += 1
            try:
                response = await operation.endpoint(request)
            except UnknownDirectiveError as error:
                response = reply({"detail": str(error)}, 400)
            if response.status_code >= HTTPStatus.BAD_REQUEST:
                counters.refused[dialect.name, response.status_code] += 1
            return response

        path = f"/{dialect.name}{dialect.base_path}{operation.path}"
        return Route(path, endpoint, methods=[operation.method])


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    await reply({"detail": "Not Found"}, 404)(scope, receive, send)

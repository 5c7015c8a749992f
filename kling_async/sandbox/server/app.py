"""The ASGI application: one thin wrapper around each endpoint counts the request and lets a fault have it."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.routing import Route, Router

from kling_async.sandbox.emulator.jobs import UnknownDirectiveError
from kling_async.sandbox.faults.catalog import Fault, FaultRegistry
from kling_async.sandbox.faults.inject import Exchange, inject
from kling_async.sandbox.media.render import clip_extension
from kling_async.sandbox.media.renderer import Renderer
from kling_async.sandbox.providers.emulation import Emulation, Operation, reply
from kling_async.sandbox.server import cdn as _cdn
from kling_async.sandbox.server.admin import Admin
from kling_async.sandbox.server.webhooks import WebhookSender

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from kling_async.sandbox.emulator.jobs import Job
    from kling_async.sandbox.emulator.provider_state import ProviderState

_KEEP_ALIVE = 75.0  # s; what load balancers commonly grant an idle connection


class App:
    """Routes requests to the dialects, the content delivery network and the administration.

    Args:
        world: Who sells.
        dialects: Who is spoken.
        scale: Size of results relative to what was asked; None: see `Renderer`.
    """

    def __init__(self, world: ProviderState, dialects: Sequence[Emulation], scale: float | None) -> None:
        self.world = world
        self.faults = FaultRegistry(world.seed, [each.name for each in dialects])
        self.renderer = Renderer(scale, world.counters)
        self.courier = WebhookSender(world, {each.name: each.webhook for each in dialects if each.webhook}, self.faults)
        world.draw = self.renderer.draw
        world.clip_extension = clip_extension()
        world.afflict = self._afflict
        self._router = Router(
            [
                *(self._route(dialect, operation) for dialect in dialects for operation in dialect.operations),
                Route("/cdn/{name}", self._download, methods=["GET"]),
                *Admin(world, self.faults).routes(),
            ],
            redirect_slashes=False,
            default=_nothing_here,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._router(scope, receive, send)

    def keep_alive(self) -> float:
        """Real seconds that an idle connection is kept now."""
        limit = self.faults.idle_limit()
        return _KEEP_ALIVE if limit is None else limit

    async def chores(self) -> None:
        """What the server's loop does besides answering: it delivers webhooks."""
        await self.courier.run()

    def close(self) -> None:
        """Release what the application holds."""
        self.renderer.close()

    def _route(self, dialect: Emulation, operation: Operation) -> Route:
        async def endpoint(request: Request) -> Response:
            kind = operation.kind
            if callable(kind):
                kind = kind(await request.body())

            async def answer() -> Response:
                try:
                    response = await operation.endpoint(request)
                except UnknownDirectiveError as error:
                    return reply({"detail": str(error)}, 400)
                await self.courier.overtake()
                return response

            def error_body(status: int, retry_after: float | None) -> Any:
                return dialect.error_body(status, request.url.path, retry_after)

            return await self._serve(dialect.name, kind, Exchange(request, answer, error_body, _nothing))

        path = f"/{dialect.name}{dialect.base_path}{operation.path}"
        return Route(path, endpoint, methods=[operation.method])

    async def _download(self, request: Request) -> Response:
        known = _cdn.found(self.world, request.path_params["name"])
        provider = known[0].provider if known else "nobody"

        async def answer() -> Response:
            return await _cdn.download(self.world, request)

        def expire() -> None:
            if known:
                self.world.expire(known[0])

        def error_body(status: int, _retry_after: float | None) -> Any:
            return {"status": status}

        return await self._serve(provider, "download", Exchange(request, answer, error_body, expire))

    async def _serve(self, provider: str, kind: str, exchange: Exchange) -> Response:
        counters = self.world.counters
        counters.requests[provider, kind] += 1
        rule = self.faults.draw(provider, kind)
        if rule is None:
            response = await exchange.answer()
        else:
            counters.faults[rule.fault] += 1
            response = await inject(rule, exchange)
        if response.status_code >= HTTPStatus.BAD_REQUEST:
            counters.refused[provider, response.status_code] += 1
        return response

    def _afflict(self, job: Job) -> None:
        """Let a fault have a job that is being bought."""
        rule = self.faults.draw(job.provider, "job")
        if rule is None:
            return
        self.world.counters.faults[rule.fault] += 1
        if rule.fault is Fault.not_found_at_first:
            job.hidden = rule.looks
        elif rule.fault is Fault.stuck:
            job.end_at(math.inf)
        else:
            job.end_at(job.created)
            self.courier.hurry(job)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    await reply({"detail": "Not Found"}, 404)(scope, receive, send)


def _nothing() -> None:
    """An API answer has no address that could expire."""

"""The ASGI application: one thin wrapper around each endpoint counts the request and lets a fault have it."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Route, Router, WebSocketRoute

from kling_async.sandbox.emulator.jobs import UnknownDirectiveError
from kling_async.sandbox.faults.inject import Exchange, inject
from kling_async.sandbox.providers.emulation import Emulation, Operation, reply
from kling_async.sandbox.server import cdn as _cdn
from kling_async.sandbox.server.admin import Admin
from kling_async.sandbox.server.origin import is_foreign_page, is_local_host
from kling_async.sandbox.server.status_page import status_page
from kling_async.sandbox.server.webhooks import WebhookSender

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

    from kling_async.sandbox.emulator.provider_state import ProviderState

_KEEP_ALIVE = 75.0  # s. What load balancers commonly grant an idle connection


class App:
    """Routes requests to the emulations, the content delivery network and the administration.

    Args:
        state: The accounts and jobs.
        emulations: The providers' APIs.
    """

    def __init__(self, state: ProviderState, emulations: Sequence[Emulation]) -> None:
        self.state = state
        self.faults = state.faults
        self._emulations = {each.name: each for each in emulations}
        self.sender = WebhookSender(state, {each.name: each.webhook for each in emulations if each.webhook})
        self._apis: dict[str, Router] = {}
        self._router = _router(
            [
                Route("/cdn/{name}", self._download, methods=["GET"]),
                *Admin(state).routes(),
                Route("/", self._status, methods=["GET"]),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, unless a web page of another site sent it."""
        if scope["type"] == "websocket":
            headers = Headers(scope=scope)
            if not is_local_host(headers) or is_foreign_page(headers):  # a page of any site may open one
                await send({"type": "websocket.close"})
                return
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if not is_local_host(headers):
                detail = "The sandbox answers only to the host 127.0.0.1 or localhost."
                await reply({"detail": detail}, HTTPStatus.MISDIRECTED_REQUEST)(scope, receive, send)
                return
            if scope["path"].startswith("/_sandbox") and is_foreign_page(headers):
                detail = "The sandbox cannot be controlled by web pages."
                await reply({"detail": detail}, HTTPStatus.FORBIDDEN)(scope, receive, send)
                return
        await self._router_of(scope.get("path", ""))(scope, receive, send)

    def keep_alive(self) -> float:
        """Real seconds that an idle connection is kept now."""
        limit = self.faults.idle_limit()
        return _KEEP_ALIVE if limit is None else limit

    async def background(self) -> None:
        """What the server's loop does besides answering: it delivers webhooks."""
        await self.sender.run()

    async def _status(self, _: Request) -> Response:
        return status_page(self.state, self._emulations)

    def _router_of(self, path: str) -> Router:
        """Each provider has its own, made when the first request comes: most sandboxes play one or two."""
        name = path[1:].partition("/")[0]
        emulation = self._emulations.get(name)
        if emulation is None:
            return self._router
        if name not in self._apis:
            routes: list[BaseRoute] = [self._route(emulation, operation) for operation in emulation.operations]
            if emulation.websocket is not None:
                routes.append(WebSocketRoute(f"/{name}{emulation.base_path}", emulation.websocket))
            self._apis[name] = _router(routes)
        return self._apis[name]

    def _route(self, emulation: Emulation, operation: Operation) -> Route:
        async def endpoint(request: Request) -> Response:
            kind = operation.kind
            if callable(kind):
                kind = kind(await request.body())

            async def answer() -> Response:
                try:
                    response = await operation.endpoint(request)
                except UnknownDirectiveError as error:
                    return reply({"detail": str(error)}, 400)
                await self.sender.send_before_answer()
                return response

            def error_body(status: int, retry_after: float | None) -> Any:
                return emulation.error_body(status, request.url.path, retry_after)

            return await self._serve(emulation.name, kind, Exchange(request, answer, error_body, _nothing))

        base = emulation.base_path.rpartition("/")[0] if operation.outside_base else emulation.base_path
        path = f"/{emulation.name}{base}{operation.path}"
        return Route(path, endpoint, methods=[operation.method])

    async def _download(self, request: Request) -> Response:
        known = _cdn.found(self.state, request.path_params["name"])
        provider = known[0].provider if known else "nobody"

        async def answer() -> Response:
            return await _cdn.download(self.state, request)

        def expire() -> None:
            if known:
                self.state.expire(known[0])

        def error_body(status: int, _retry_after: float | None) -> Any:
            return {"status": status}

        return await self._serve(provider, "download", Exchange(request, answer, error_body, expire))

    async def _serve(self, provider: str, kind: str, exchange: Exchange) -> Response:
        counters = self.state.counters
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


def _router(routes: Sequence[BaseRoute]) -> Router:
    return Router(routes, redirect_slashes=False, default=_nothing_here)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    await reply({"detail": "Not Found"}, 404)(scope, receive, send)


def _nothing() -> None:
    """An API answer has no address that could expire."""

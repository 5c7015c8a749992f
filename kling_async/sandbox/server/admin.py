"""The administration under `/_sandbox`, for a judge in another process: counters, scripts, faults, clock."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from kling_async.sandbox.emulator.jobs import ScriptedOutcome
from kling_async.sandbox.providers.emulation import reply

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from kling_async.sandbox.emulator.provider_state import ProviderState


@dataclass(frozen=True, slots=True)
class Admin:
    """What the Python objects offer in-process, over HTTP.

    Args:
        state: Whose counters, scripts and clock.
    """

    state: ProviderState

    def routes(self) -> list[Route]:
        """The addresses, all below `/_sandbox`."""
        return [
            Route("/_sandbox/counters", self.counters, methods=["GET"]),
            Route("/_sandbox/script", _checked(self.plan_next), methods=["POST"]),
            Route("/_sandbox/faults", _checked(self.change_faults), methods=["GET", "POST", "DELETE"]),
            Route("/_sandbox/advance", _checked(self.advance), methods=["POST"]),
        ]

    async def counters(self, _: Request) -> Response:
        """`GET /_sandbox/counters`: `Counters.as_dict()`."""
        return reply(self.state.counters.as_dict())

    async def plan_next(self, request: Request) -> Response:
        """`POST /_sandbox/script` `{"provider", "times", "fail", "duration", "stuck", "files"}`."""
        wanted = _object(await request.body())
        provider, times = wanted.pop("provider", None), wanted.pop("times", 1)
        self.state.plan_next(ScriptedOutcome(**wanted), provider=provider, times=times)
        return reply({"scripted": times})

    async def change_faults(self, request: Request) -> Response:
        """`/_sandbox/faults`: GET lists, POST `{"fault": "drip:submit:every=10"}` adds, DELETE clears."""
        if request.method == "DELETE":
            self.state.faults.clear()
        elif request.method == "POST":
            self.state.faults.add(str(_object(await request.body())["fault"]))
        return reply({"faults": [rule.as_dict() for rule in self.state.faults.rules]})

    async def advance(self, request: Request) -> Response:
        """`POST /_sandbox/advance` `{"seconds": 300}`: the clock jumps ahead."""
        self.state.clock.advance(float(_object(await request.body())["seconds"]))
        return reply({"now": self.state.clock.now()})


def _object(body: bytes) -> dict[str, Any]:
    value = json.loads(body)
    if not isinstance(value, dict):
        raise TypeError("a JSON object is wanted")
    return value


def _checked(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Answer what cannot be understood with 400 and the reason."""

    async def checked(request: Request) -> Response:
        try:
            return await endpoint(request)
        except (KeyError, TypeError, ValueError) as error:
            return reply({"detail": f"{type(error).__name__}: {error}"}, 400)

    return checked

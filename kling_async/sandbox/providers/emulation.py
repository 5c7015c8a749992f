"""The interface between the server and the emulation of one provider's API.

To add a provider, add a module (or package) `providers/NAME.py` with the function `emulate(state) -> Emulation`. The
sandbox finds it by its name. Its endpoints are ordinary Starlette endpoints: they find the account with
`state.account`, validate the request, accept it with `state.submit(Order(...))`, read a job with `state.status`, and
answer with `reply`. The server counts requests, applies faults, serves result files and sends webhooks.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

if TYPE_CHECKING:
    from kling_async.providers._base.provider import Provider
    from kling_async.sandbox.emulator.jobs import Job

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One verb of a provider's API.

    Args:
        kind: What it is, for counters and faults: `submit` (buys), `status` (polls), `cancel`, `list`,
            `upload`, `stream`, or a function that decides from the body, where one address serves several
            verbs (`reset-before-reading` then comes after the body).
        method: HTTP method.
        path: Starlette path pattern below the emulation's base URL, such as `/jobs/{job_id}`. May be empty.
        outside_base: The path is not below the `base_path`, but below the part of it that comes before the version.
        endpoint: What answers. The body is already read: `await request.body()` costs nothing.
    """

    kind: str | Callable[[bytes], str]
    method: str
    path: str
    endpoint: Endpoint
    outside_base: bool = False


@dataclass(frozen=True, slots=True)
class Webhook:
    """How a provider sends webhooks.

    Args:
        moments: The simulated moments at which a job's deliveries are due (one at the end, or one per file).
            Infinite ones are never sent.
        body: The JSON of the delivery with that index (or an awaitable of it), made when it is sent.
        running: The JSON of a delivery with the status of a running job, which is sent only out of order.
        pauses: Simulated seconds before each further attempt after an answer that is not 2xx.
        timeout: Real seconds to wait for the answer.
        headers: More headers for a delivery, such as its signature.
    """

    moments: Callable[[Job], Sequence[float]]
    body: Callable[[Job, int], Any]
    running: Callable[[Job], Any]
    pauses: Sequence[float]
    timeout: float = 30.0
    headers: Callable[[Job, bytes], Mapping[str, str]] = lambda _job, _body: {}


@dataclass(frozen=True, slots=True)
class Emulation:
    """One provider's API as the server needs to know it.

    Args:
        name: The provider's name as in refs: `runblob`. Its address is the server's plus `/{name}`.
        api_key: The key that the sandbox's only customer uses.
        operations: Its verbs.
        error_body: The provider's own JSON for an error: of this status (404, 429, 500, 503 ...), for a
            request to this path, and, where the wait stands in the body, with these seconds.
        client: Makes the library's provider object from a key and a base URL (imported when called).
        webhook: How it calls back, or None if it never does.
        options: How it speaks where the provider's versions differ. An object that tests may change. None: nothing to
            choose.
        base_path: What follows the prefix in the base URL that clients are given, such as `/v1`.
        rate_limit: Status calls a minute that the provider documents. If None, it documents no limit.
        websocket: What answers a WebSocket at the base URL. If None, there is none.
    """

    name: str
    api_key: str
    operations: Sequence[Operation]
    error_body: Callable[[int, str, float | None], Any]
    client: Callable[[str, str], Provider]
    webhook: Webhook | None = None
    options: Any = None
    base_path: str = ""
    rate_limit: int | None = None
    websocket: Callable[[WebSocket], Awaitable[None]] | None = None


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON."""
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    return Response(content, status, headers, media_type="application/json")

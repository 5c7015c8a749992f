"""Programs that buy from a sandbox at a seller of choice, and die: run in a process of their own and killed."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import anyio

from kling_async import Client, Polling, Progressive, Request, SqliteLedger, fal, kling, replicate, runware
from kling_async.providers import ALL_PROVIDERS
from kling_async.sandbox import Sandbox
from support.asgi_server import PATIENCE
from support.program import fork_server

__all__ = ["SELLERS", "buying_program", "client_of", "request"]

QUICK = Polling(schedule=Progressive(0.02), status_calls_per_minute=math.inf)
SELLERS: dict[str, Callable[[str], Request]] = {
    "fal": fal.Image,
    "kling": kling.ImageGeneration,
    "replicate": replicate.V3Video,
    "runware": runware.ImageO3,
}
"""What each of them makes of a prompt."""
_PROVIDERS: dict[str, Any] = {kind.name: kind for kind in ALL_PROVIDERS}


def request(name: str, row: str) -> Request:
    """What a row buys at that provider."""
    return SELLERS[name](f"boat {row}")


def client_of(sandbox: Sandbox, name: str, **more: Any) -> Client:
    """A client with the sandbox's provider of that name."""
    provider = _PROVIDERS[name](sandbox.api_key(name), sandbox.base_url(name))
    provider.speed = sandbox.state.clock.speed or 1.0
    return Client(provider, **{"polling": QUICK, **more})


def _buy(ready: Connection, name: str, api_key: str, base_url: str, path: str) -> None:
    """Submit jobs with a ledger, one after the other, and say when the first is accepted."""

    async def main() -> None:
        provider = _PROVIDERS[name](api_key, base_url)
        async with Client(provider, ledger=SqliteLedger(path, lease=1.0), polling=QUICK) as client:
            for number in range(1000):
                await client.submit(request(name, f"row-{number}"), key=f"row-{number}")
                if number == 0:
                    ready.send(None)

    anyio.run(main)


@asynccontextmanager
async def buying_program(sandbox: Sandbox, name: str, path: Path) -> AsyncIterator[None]:
    """A program that has bought its first job and goes on. It is killed at the end of the block, whatever happens."""
    context = fork_server()
    receiving, sending = context.Pipe(duplex=False)
    program = context.Process(
        target=_buy, args=(sending, name, sandbox.api_key(name), sandbox.base_url(name), str(path))
    )
    program.start()
    try:
        assert await anyio.to_thread.run_sync(receiving.poll, PATIENCE)
        yield
    finally:
        program.kill()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(program.join)
        receiving.close()
        sending.close()

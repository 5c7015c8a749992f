"""A program that is killed: it submits single jobs with a ledger and waits for them. Run in a process of its own."""

from __future__ import annotations

import asyncio
import math
from multiprocessing.connection import Connection

from kling_async import Client, Polling, Progressive, RunBlob, SqliteLedger
from kling_async.providers.runblob import O3Photo

__all__ = ["ROWS", "make_client", "request", "run"]

ROWS = 12


def request(row: str) -> O3Photo:
    """What row `row` buys."""
    return O3Photo(f"a boat for {row}", resolution="1k")


def make_client(provider: RunBlob, path: str) -> Client:
    """The client of the program, and of the one that goes on after it."""
    polling = Polling(schedule=Progressive(0.02), status_calls_per_minute=math.inf, deadline=600)
    return Client(provider, ledger=SqliteLedger(path, lease=1.0), polling=polling)


def run(ready: Connection, api_key: str, base_url: str, path: str, keys: list[str]) -> None:
    """The program: says when it begins."""

    async def one(client: Client, key: str) -> None:
        await client.run(request(key), key=key)

    async def main() -> None:
        async with make_client(RunBlob(api_key, base_url), path) as client, asyncio.TaskGroup() as group:
            ready.send(None)
            for key in keys:
                group.create_task(one(client, key))
                await asyncio.sleep(0.02)

    asyncio.run(main())

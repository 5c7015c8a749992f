"""A program that is killed: it submits portable requests, of which the first provider refuses many."""

from __future__ import annotations

import asyncio
import math
from multiprocessing.connection import Connection

from kling_async import Client, Image, PixelDojo, Polling, Progressive, RunBlob, SqliteLedger

__all__ = ["ROWS", "make_client", "request", "run"]

ROWS = 8
Sellers = dict[str, dict[str, str]]


def request(row: str) -> Image:
    """What row `row` buys."""
    return Image(f"a boat for {row}")


def make_client(sellers: Sellers, path: str) -> Client:
    """The client of the program, and of the one that goes on after it."""
    kinds = {"pixeldojo": PixelDojo, "runblob": RunBlob}
    providers = [kind(sellers[name]["api_key"], sellers[name]["base_url"]) for name, kind in kinds.items()]
    polling = Polling(schedule=Progressive(0.02), status_calls_per_minute=math.inf, deadline=600)
    return Client(providers, ledger=SqliteLedger(path, lease=1.0), polling=polling, prefer=["pixeldojo", "runblob"])


def run(ready: Connection, sellers: Sellers, path: str, keys: list[str]) -> None:
    """The program: says when it begins."""

    async def one(client: Client, key: str) -> None:
        await client.run(request(key), key=key)

    async def main() -> None:
        async with make_client(sellers, path) as client, asyncio.TaskGroup() as group:
            ready.send(None)
            for key in keys:
                group.create_task(one(client, key))
                await asyncio.sleep(0.02)

    asyncio.run(main())

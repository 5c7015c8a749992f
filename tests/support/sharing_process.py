"""A program of which several share a ledger, and of which some are killed. Run in processes of their own."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection

import anyio

from kling_async import Client, Ledger, Polling, Progressive, RunBlob, SqliteLedger, SubmissionUnknown
from kling_async.providers.runblob import O3Photo

__all__ = ["LEASE", "make_client", "run", "sqlite"]

LEASE = 2.0  # s
_AT_ONCE = 40


def sqlite(place: str) -> Ledger:
    """The ledger in a file."""
    return SqliteLedger(place, lease=LEASE)


def make_client(api_key: str, base_url: str, ledger: Ledger) -> Client:
    """The client of each process."""
    polling = Polling(schedule=Progressive(0.05), status_calls_per_minute=math.inf, deadline=600)
    return Client(RunBlob(api_key, base_url), ledger=ledger, polling=polling)


def run(  # the facts of one process, each by its name
    ready: Connection,
    api_key: str,
    base_url: str,
    opened: Callable[[str], Ledger],
    place: str,
    keys: Sequence[str],
    seed: int,
) -> None:
    """Submit all keys, in an order of its own, and wait for their jobs."""
    mine = list(keys)
    random.Random(seed).shuffle(mine)

    async def work(client: Client) -> None:
        while mine:
            key = mine.pop()
            with suppress(SubmissionUnknown):  # its sender was killed. The test counts these
                await client.run(O3Photo(f"a boat for {key}", resolution="1k"), key=key)

    async def main() -> None:
        async with make_client(api_key, base_url, opened(place)) as client:
            ready.send(None)
            async with anyio.create_task_group() as group:
                for _ in range(_AT_ONCE):
                    group.start_soon(work, client)

    anyio.run(main)

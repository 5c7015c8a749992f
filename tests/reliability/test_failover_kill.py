"""A process that dies in the middle of going on to the next provider."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from kling_async import Status, SubmissionUnknown
from support import failover_process as victim
from support.program import fork_server
from support.remote_sandbox import RemoteSandbox

FAULTS = (
    "rate-limited:submit:every=3,seconds=0.02,hint=body,provider=pixeldojo",
    "delay:submit:every=2,seconds=0.05,provider=runblob",
)


@pytest.fixture
def remote() -> Iterator[RemoteSandbox]:
    """A sandbox in a process of its own, in which PixelDojo refuses every third submission."""
    faults = [word for fault in FAULTS for word in ("--fault", fault)]
    with RemoteSandbox("--speed", "600", *faults) as running:
        yield running


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # the killed program is the same. Once is enough
async def test_killed_in_the_middle_of_a_failover_nothing_is_bought_twice(
    remote: RemoteSandbox, tmp_path: Path
) -> None:
    sellers = remote.providers
    context = fork_server()
    dice = random.Random(15)  # moments
    accepted = unknown = elsewhere = 0
    for kill in range(5):
        path = str(tmp_path / f"{kill}.db")
        keys = [f"kill-{kill}-row-{row}" for row in range(victim.ROWS)]
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=victim.run, args=(sending, sellers, path, keys))
        process.start()
        assert await anyio.to_thread.run_sync(receiving.poll, 60)
        await anyio.sleep(dice.uniform(0.0, 0.5))  # the moment of death: what this test is about
        process.kill()
        await anyio.to_thread.run_sync(process.join)
        async with victim.make_client(sellers, path) as client:
            await client.resume()
            jobs = {}
            for key in keys:
                try:
                    jobs[key] = await client.submit(victim.request(key), key=key)
                except SubmissionUnknown:
                    unknown += 1
            for key, job in jobs.items():
                assert await job.wait() is Status.COMPLETED
                assert await client.submit(victim.request(key), key=key) == job
            assert client.ledger is not None
            elsewhere += sum([len(await client.ledger.attempts(key)) > 1 for key in keys])
        accepted += len(jobs)
        counters = await anyio.to_thread.run_sync(remote.counters)
        assert accepted <= sum(counters["bought"].values()) <= accepted + unknown
    assert set(counters["bought"]) >= {"pixeldojo", "runblob"}
    assert elsewhere > 0

"""The client's clock over several event loops, and a wall clock that is set back or forth meanwhile."""

from __future__ import annotations

import time

import anyio
import pytest

import kling_async
from kling_async import Client, Job, Result, runblob
from kling_async._event_loop.clock import Clock
from support import virtual_time
from support.fake_runblob import KEY, FakeRunBlob


@pytest.mark.parametrize("jump", [-86400.0, 0.0, 86400.0])
def test_it_never_goes_back(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()

    async def now() -> float:
        return clock.now()

    wall = time.time
    before = anyio.run(now)
    monkeypatch.setattr(time, "time", lambda: wall() + jump)
    after = anyio.run(now)
    assert max(jump, 0) <= after - before < max(jump, 0) + 60


@pytest.mark.parametrize("jump", [-3600.0, 600.0])
def test_a_job_is_looked_at_on_time_after_the_wall_clock_was_set(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """One client over two event loops, under a rate limit: the second loop does not wait for the first one's time."""
    server = FakeRunBlob()
    client = Client(kling_async.RunBlob(KEY), http=server)
    name, options = virtual_time.backend("asyncio")

    async def begin() -> Job:
        job = await client.submit(runblob.O3Video("a boat"))
        await job.wait(20)
        await anyio.sleep(100)
        return job

    async def finish() -> tuple[Result, float]:
        start = anyio.current_time()
        return await job, anyio.current_time() - start

    job = anyio.run(begin, backend=name, backend_options=options)
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + jump)
    server.generations[job.ref.id].duration = -1e9  # its clock is the loop's, too
    result, seconds = anyio.run(finish, backend=name, backend_options=options)
    assert result.urls
    assert seconds < 120

"""The limit on status calls, counted at a provider that is ill, on real sockets."""

from __future__ import annotations

import anyio
import pytest

from kling_async import Client, Polling, Progressive, runblob
from kling_async.sandbox import Fault, Sandbox

pytestmark = pytest.mark.anyio

JOBS = 50
LIMIT = 600  # status calls a minute
SECONDS = 3.0


@pytest.mark.parametrize("fault", [Fault.server_error, Fault.reset_before_reading, Fault.unavailable])
async def test_status_calls_that_fail_on_real_sockets_are_counted_against_the_limit(fault: Fault) -> None:
    """Whatever the pool and the transport would send again is within the limit."""
    async with Sandbox(speed=1, rate_limit=None) as sandbox:
        [provider] = [provider for provider in sandbox.providers() if provider.name == "runblob"]
        polling = Polling(schedule=Progressive(0.1), status_calls_per_minute=LIMIT)
        async with Client(provider, polling=polling) as client:
            jobs = [await client.submit(runblob.O3Photo("a boat", resolution="1k")) for _ in range(JOBS)]
            sandbox.faults.add(fault, kind="status")
            begin = anyio.current_time()
            with anyio.move_on_after(SECONDS):
                async with anyio.create_task_group() as group:
                    for job in jobs:
                        group.start_soon(job.wait)
            elapsed = anyio.current_time() - begin
        calls = sandbox.counters.requests["runblob", "status"]
    assert 1 <= calls <= elapsed * LIMIT / 60 + 2

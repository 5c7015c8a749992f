"""Cancelled at every step: nothing is left behind, nothing is lost, and others go on. In virtual time."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

import kling_async
from kling_async import Client, Job, Limits, Polling, Status, runblob
from support.cancel_at_step import cancelled_at
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

VIDEO = runblob.O3Video("a paper boat in the rain")


def clean(client: Client) -> None:
    """Nothing of anybody is left in the client's transports and pollers."""
    account = client._sessions["runblob"]
    poller, transport = account.poller, account.transport
    left = (poller._election, poller._workers, poller._batches, poller._granted, poller._resting)
    assert not any(left)
    assert not any(job._tracked.subscribers for job in client.jobs)
    assert len(poller._queue) == poller._rate_limiter._callers == poller._stream_follower._open == 0
    engine = transport._backends._backend
    assert engine is None or engine.concurrency.value == 3
    assert not transport._throttle.turn.locked()
    assert not any(job._tracked.being_polled or job._tracked.poll_granted for job in client.jobs)


async def wait(job: Job) -> None:
    await job


async def read(job: Job) -> None:
    async for _ in job:
        pass


async def refresh(job: Job) -> None:
    await job.refresh()
    await job.refresh()


async def follow(job: Job, client: Client) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(client.follow)
        await job
        group.cancel_scope.cancel()


async def bulk(job: Job, client: Client) -> None:
    async with client.map([VIDEO] * 5, in_flight=2) as outcomes:
        async for _ in outcomes:
            pass


OPERATIONS: dict[str, Callable[[Job, Client], Awaitable[Any]]] = {
    "await": lambda job, _: wait(job),
    "events": lambda job, _: read(job),
    "refresh": lambda job, _: refresh(job),
    "follow": follow,
    "map": bulk,
    "submit": lambda _, client: client.submit(VIDEO),
}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
async def test_cancelled_at_any_step_nothing_is_left_and_others_go_on(
    name: str, others: bool, native: bool, anyio_backend_name: str
) -> None:
    if native and anyio_backend_name == "trio":
        pytest.skip("a task cannot be cancelled but by its scope")
    server = FakeRunBlob(duration=40)
    polling = Polling(schedule="documented", status_calls_per_minute=math.inf if native else 600)
    limits = Limits(connections=3)
    async with Client(kling_async.RunBlob(KEY), http=server, polling=polling, limits=limits) as client:
        count = 0
        under_way = True
        while under_way and count < 400:
            count += 1
            job = await client.submit(VIDEO)
            async with anyio.create_task_group() as group:
                if others:
                    group.start_soon(wait, job)
                under_way = await cancelled_at(count, partial(OPERATIONS[name], job, client), native=native)
            if others:
                assert job.status is Status.COMPLETED, "who waited beside it goes on"
            clean(client)
            assert {str(other.ref.id) for other in client.jobs} <= set(server.generations)
            for other in client.jobs:  # the one that was cancelled, and those that were bought meanwhile
                with anyio.fail_after(400):
                    await other
            clean(client)
            assert client.statistics().submitted == server.bought, "every job that was bought is known"
        assert not under_way
        assert count > 1

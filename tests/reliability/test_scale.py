"""The counts that matter: a thousand jobs at once on real sockets, counted by a sandbox in a process of its own.

Ten thousand are measured by `python -m benchmarks.jobs`.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from kling_async import (
    Client,
    InferenceSh,
    KlingError,
    PixelDojo,
    Polling,
    Progressive,
    Request,
    Result,
    RunBlob,
    Runware,
    SubmissionUnknown,
    inferencesh,
    pixeldojo,
    runblob,
    runware,
)
from support.remote_sandbox import RemoteSandbox

PROVIDERS: dict[str, Any] = {
    "runblob": (RunBlob, runblob.O3Photo("a boat", resolution="1k")),
    "runware": (Runware, runware.ImageO3("a boat")),
    "inferencesh": (InferenceSh, inferencesh.ImageO1("a boat")),
    "pixeldojo": (PixelDojo, pixeldojo.ImageV3("a boat")),
}


@pytest.fixture
def sandbox(request: pytest.FixtureRequest) -> Iterator[RemoteSandbox]:
    """A sandbox in another process. Its calls are not limited, like the client's."""
    with RemoteSandbox("--speed", "100", "--rate-limit", "0", *getattr(request, "param", ())) as running:
        yield running


def provider(sandbox: RemoteSandbox, name: str) -> Any:
    account = sandbox.providers[name]
    return PROVIDERS[name][0](account["api_key"], account["base_url"])


async def run_all(client: Client, request: Request, count: int) -> list[Result | KlingError]:
    found = await asyncio.gather(*(client.run(request) for _ in range(count)), return_exceptions=True)
    for one in found:
        if not isinstance(one, Result | KlingError):
            raise one
    return [one for one in found if isinstance(one, Result | KlingError)]


@pytest.mark.asyncio
@pytest.mark.slow
async def test_a_thousand_jobs_at_once_all_finish_over_a_hundred_connections(sandbox: RemoteSandbox) -> None:
    """Default limits. Every job is submitted once.

    The connections are counted where they are bounded. The server may count one more for each that we have closed and
    whose end it has not read yet: a paid call replaces a connection that has idled.
    """
    polling = Polling(schedule=Progressive(1.5, 3), status_calls_per_minute=math.inf)
    most = 0

    async def count() -> None:
        nonlocal most
        while True:
            pool = client.statistics().providers["runblob"].connections
            most = max(most, pool.connections if pool else 0)
            await asyncio.sleep(0.01)

    async with Client(provider(sandbox, "runblob"), polling=polling) as client:
        counting = asyncio.create_task(count())
        found = await run_all(client, PROVIDERS["runblob"][1], 1000)
        counting.cancel()
        statistics = client.statistics()
    counters = sandbox.counters()
    errors = Counter(one.message for one in found if isinstance(one, KlingError))
    assert not errors, errors.most_common(3)
    assert len(found) == 1000
    assert counters["bought"] == {"runblob": 1000}
    assert counters["requests"]["runblob/submit"] == 1000
    assert 1 < most <= 100, "few are enough where the server is faster than we are"
    assert counters["open_connections"] <= 101, "a hundred of ours at most, and one that reads these counters"
    assert statistics.running == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("sandbox", [("--fault", "accept-then-reset:submit:every=10")], indirect=True)
@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.slow
async def test_every_tenth_answer_lost_buys_no_job_twice(sandbox: RemoteSandbox, name: str) -> None:
    """100 submissions at each provider. Where we choose the id, not even one stays unknown."""
    polling = Polling(schedule=Progressive(0.3), status_calls_per_minute=math.inf)
    async with Client(provider(sandbox, name), polling=polling) as client:
        found = await run_all(client, PROVIDERS[name][1], 100)
    bought = sandbox.counters()["bought"][name]
    unknown = sum(isinstance(one, SubmissionUnknown) for one in found)
    done = sum(isinstance(one, Result) for one in found)
    assert bought == done + unknown == 100
    assert unknown == (0 if name == "runware" else 10)

"""The counts that matter: thousands at once on real sockets, with the sandbox in a process of its own as the judge."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
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

PROVIDERS: dict[str, Any] = {
    "runblob": (RunBlob, runblob.O3Photo("a boat", resolution="1k")),
    "runware": (Runware, runware.ImageO3("a boat")),
    "inferencesh": (InferenceSh, inferencesh.ImageO1("a boat")),
    "pixeldojo": (PixelDojo, pixeldojo.ImageV3("a boat")),
}


class Judge:
    """A sandbox in another process."""

    def __init__(self, described: dict[str, Any]) -> None:
        self.url: str = described["url"]
        self.providers: dict[str, dict[str, str]] = described["providers"]

    def provider(self, name: str) -> Any:
        account = self.providers[name]
        return PROVIDERS[name][0](account["api_key"], account["base_url"])

    def counters(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/_sandbox/counters").json()
        return found

    def fault(self, text: str) -> None:
        httpx.post(f"{self.url}/_sandbox/faults", json={"add": text}).raise_for_status()


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    arguments = getattr(request, "param", ())
    options = ("--speed", "100", "--rate-limit", "0", "--until-eof", *arguments)  # no limit, like the client
    command = [sys.executable, "-m", "kling_async.sandbox", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield Judge(json.loads(process.stdout.readline()))
        process.stdin.close()
        process.wait(10)


async def run_all(client: Client, request: Request, count: int) -> list[Result | KlingError]:
    found = await asyncio.gather(*(client.run(request) for _ in range(count)), return_exceptions=True)
    for one in found:
        if not isinstance(one, Result | KlingError):
            raise one
    return [one for one in found if isinstance(one, Result | KlingError)]


@pytest.mark.asyncio
@pytest.mark.slow
async def test_three_thousand_jobs_at_once_all_finish_over_a_hundred_connections(judge: Judge) -> None:
    """Ration off, default limits. Every job submitted once.

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

    async with Client(judge.provider("runblob"), polling=polling) as client:
        counting = asyncio.create_task(count())
        found = await run_all(client, PROVIDERS["runblob"][1], 3000)
        counting.cancel()
        statistics = client.statistics()
    counters = judge.counters()
    errors = Counter(one.message for one in found if isinstance(one, KlingError))
    assert not errors, errors.most_common(3)
    assert len(found) == 3000
    assert counters["bought"] == {"runblob": 3000}
    assert counters["requests"]["runblob/submit"] == 3000
    assert 1 < most <= 100, "few are enough where the server is faster than we are"
    assert counters["open_connections"] <= 101, "a hundred of ours at most, and one that reads these counters"
    assert statistics.running == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("judge", [("--fault", "accept-then-reset:submit:every=10")], indirect=True)
@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.slow
async def test_every_tenth_answer_lost_buys_no_job_twice(judge: Judge, name: str) -> None:
    """300 submissions at each provider. Where we choose the id, not even one stays unknown."""
    polling = Polling(schedule=Progressive(0.3), status_calls_per_minute=math.inf)
    async with Client(judge.provider(name), polling=polling) as client:
        found = await run_all(client, PROVIDERS[name][1], 300)
    bought = judge.counters()["bought"][name]
    unknown = sum(isinstance(one, SubmissionUnknown) for one in found)
    done = sum(isinstance(one, Result) for one in found)
    assert bought == done + unknown == 300
    assert unknown == (0 if name == "runware" else 30)

"""How many status calls hundreds of jobs at Kling cost."""

from __future__ import annotations

import httpx
import pytest

from kling_async import Client, Kling, Polling, Progressive, kling
from support.strict_kling import StrictKling


class Counting(httpx.ASGITransport):
    """Counts status calls, and the jobs that they ask about."""

    calls = 0
    jobs = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        ids = request.url.params.get("external_task_ids")
        if ids is not None:
            self.calls += 1
            self.jobs += len(ids.split(","))
        return await super().handle_async_request(request)


@pytest.mark.asyncio
async def test_hundreds_of_jobs_cost_a_fifteenth_of_the_status_calls_of_polling_one_by_one() -> None:
    fake = StrictKling(queued_seconds=1.0, running_seconds=1.0)
    counting = Counting(fake)
    requests = [kling.OmniImage(f"lamp {number}") for number in range(400)]
    polling = Polling(schedule=Progressive(1.0), status_calls_per_minute=1e9)
    async with (
        httpx.AsyncClient(transport=counting) as http,
        Client(Kling(fake.key), polling=polling, http=http) as client,
        client.map(requests, in_flight=400) as run,
    ):
        errors = [outcome.error async for outcome in run]
    assert errors == [None] * 400
    assert (fake.bought, fake.violations) == (400, [])
    assert counting.jobs >= 15 * counting.calls, f"{counting.calls} calls asked about {counting.jobs} jobs"

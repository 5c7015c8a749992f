"""How long after its end a job's waiter wakes: by a webhook, compared with polls on a schedule.

    python -m benchmarks.webhooks [--quick]

Five-second videos of the RunBlob dialect, in real time: the sandbox ends each after 2 to 3 minutes and calls back over
HTTP. Four clients buy as many each and wait for them all:

- webhooks that are believed (`confirm=False`), received by `kling_async.starlette` on uvicorn.
- webhooks that lead to a poll (`confirm=True`, the default), the same.
- polls on the schedule that RunBlob documents.
- polls by the learned schedule, which is the default.

All keep RunBlob's rate limit, 60 status calls a minute. The *lag* is from the job's end to its waiter's waking. From
the delivery's arrival to the waiter is the part of it that is ours. `--quick` lets time run 60 times as fast, which
shows that everything works, and no lag worth quoting.

Writes `benchmarks/results/webhooks.{md,json}`.
"""

import argparse
import asyncio
import contextlib
import json
import platform
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette

from kling_async import Client, Learned, Polling, Progressive, Webhooks, runblob
from kling_async.sandbox import Sandbox
from kling_async.starlette import webhook_route

RESULTS = Path(__file__).parent / "results"
SECRET = "a secret for this benchmark alone"  # noqa: S105  # it guards nothing
REQUEST = runblob.O3Video("a paper boat in the rain", duration=5)
DOCUMENTED = Polling(schedule=Progressive(5, 5, 10, 15))
LEARNED = Polling(schedule=Learned())


@dataclass
class Figure:
    """What one client measured.

    Attributes:
        way: How it learned of the ends.
        jobs: How many jobs it waited for.
        polls: Status calls that it made.
        lags: Seconds from a job's end to its waiter's waking, by job.
        within: Seconds from the arrival of a job's delivery to its waiter's waking, by job. Empty without webhooks.
    """

    way: str
    jobs: int = 0
    polls: int = 0
    lags: list[float] = field(default_factory=list)
    within: list[float] = field(default_factory=list)


class Endpoint:
    """The endpoint of one client, which remembers when each delivery arrived."""

    def __init__(self) -> None:
        self.arrivals: dict[str, float] = {}
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Note the time, and pass the call on."""
        self.arrivals.setdefault(scope["path"], time.perf_counter())
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def serving(self, client: Client) -> AsyncIterator[None]:
        """Receive the client's webhooks until the block ends."""
        self._app = Starlette(routes=[webhook_route(client)])
        server = _Server(uvicorn.Config(self, lifespan="off", ws="none", log_config=None))
        task = asyncio.create_task(server.serve([self.socket]))
        try:
            yield
        finally:
            server.should_exit = True
            await task


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # there are several servers in this process


async def measure(way: str, sandbox: Sandbox, jobs: int, polling: Polling, *, confirm: bool | None) -> Figure:
    """Buy so many jobs, wait for them all, and note when each waiter woke.

    Args:
        way: The figure's name.
        sandbox: Where to buy.
        jobs: How many.
        polling: When to poll.
        confirm: Same as for `Webhooks`. None if there are none.
    """
    figure, endpoint = Figure(way, jobs), Endpoint()
    webhooks = None if confirm is None else Webhooks(endpoint.url, SECRET, confirm=confirm)
    [provider] = [each for each in sandbox.providers() if each.name == "runblob"]
    async with Client(provider, webhooks=webhooks, polling=polling) as client, endpoint.serving(client):

        async def one() -> None:
            job = await client.submit(REQUEST)
            await job
            woke = time.perf_counter()
            bought = sandbox.state.jobs[job.ref.id]
            figure.lags.append(sandbox.state.clock.now() - bought.ends)
            if bought.order.callback_url is not None:
                figure.within.append(woke - endpoint.arrivals[urlsplit(bought.order.callback_url).path])

        await asyncio.gather(*(one() for _ in range(jobs)))
        transport = client.statistics().providers["runblob"]
    figure.polls = transport.calls - jobs
    return figure


async def measure_all(jobs: int, speed: float) -> list[Figure]:
    """All four at once: each has its own sandbox, so that none disturbs another."""

    async def one(way: str, polling: Polling, *, confirm: bool | None) -> Figure:
        async with Sandbox(speed=speed) as sandbox:
            return await measure(way, sandbox, jobs, polling, confirm=confirm)

    figures = await asyncio.gather(
        one("webhook, believed", DOCUMENTED, confirm=False),
        one("webhook, confirmed by a poll", DOCUMENTED, confirm=True),
        one("polls, documented schedule", DOCUMENTED, confirm=None),
        one("polls, learned schedule", LEARNED, confirm=None),
    )
    return list(figures)


def report(figures: list[Figure]) -> str:
    """The figures as a table."""
    what = f"{figures[0].jobs} videos a client, which end 2 to 3 minutes after their submission"
    rows = [
        "# From a job's end to its waiter",
        "",
        f"`python -m benchmarks.webhooks`, Python {platform.python_version()}: {what}.",
        "",
        "| | lag, median | lag, worst | delivery to waiter, median | worst | status calls a job |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for figure in figures:
        within = [f"{1000 * each:.1f} ms" for each in (_middle(figure.within), max(figure.within, default=0.0)) if each]
        lag = f"{_middle(figure.lags):.3f} s | {max(figure.lags):.3f} s"
        rows.append(f"| {figure.way} | {lag} | {' | '.join(within or ['', ''])} | {figure.polls / figure.jobs:.2f} |")
    return "\n".join([*rows, ""])


def _middle(values: list[float]) -> float:
    return statistics.median(values) if values else 0.0


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="let time run 60 times as fast; writes nothing")
    quick = parser.parse_args().quick
    figures = asyncio.run(measure_all(10 if quick else 40, 60.0 if quick else 1.0))
    print(report(figures))
    if not quick:
        (RESULTS / "webhooks.md").write_text(report(figures), encoding="utf-8")
        numbers = json.dumps([asdict(figure) for figure in figures], indent=1)
        (RESULTS / "webhooks.json").write_text(numbers + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

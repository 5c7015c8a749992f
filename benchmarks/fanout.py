"""What a service costs that passes jobs on: readers of events, waiters, and webhooks, many at once in one process.

    python -m benchmarks.fanout [--quick]

- 10 000 readers of the events of 1 000 jobs, ten each, as browsers read them (`kling_async.fastapi.event_response`).
- 10 000 tasks that await one job.
- 5 000 webhooks at one FastAPI application, believed (`confirm=False`), ten at a time: so many a second of CPU. As many
  go to a route of the same application that decodes the JSON and does nothing: what the framework takes.

All in one process without a network: what a server such as uvicorn adds is not measured. The applications are called as
a server calls them (ASGI), and the provider is a function that answers at once. Each figure comes from a fresh process.

Writes `benchmarks/results/fanout.{md,json}`.
"""

import argparse
import asyncio
import gc
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.process import cpu_seconds, resident_bytes

RESULTS = Path(__file__).parent / "results"
SECRET = "a secret for this benchmark alone"  # noqa: S105  # it guards nothing
CASES = {"readers": (1_000, 10), "waiters": (1, 10_000), "webhooks": (5_000, 0)}  # jobs, and readers of each
QUICK = {"readers": (100, 10), "waiters": (1, 1_000), "webhooks": (500, 0)}
_AT_ONCE = 10  # deliveries, and readers that begin
_TICK = 0.005  # s


class Provider:
    """RunBlob as a function: it sells, says that jobs run, and remembers where their ends are to be reported."""

    def __init__(self) -> None:
        self.callbacks: dict[str, str] = {}

    def __call__(self, request: Any) -> Any:
        """Answer a request."""
        import httpx  # noqa: PLC0415  # in the process that measures

        if request.method == "POST":
            identity = f"job-{len(self.callbacks)}"
            self.callbacks[identity] = urlsplit(json.loads(request.content)["callback_url"]).path
            return httpx.Response(200, json={"generation_id": identity, "status": "pending", "price": "0.1"})
        identity = request.url.path.rpartition("/")[2]
        return httpx.Response(200, json={"generation_id": identity, "status": "processing"})


class Stall:
    """The longest time for which the event loop did nothing else, in seconds of this thread's CPU."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            due, busy = time.monotonic() + _TICK, time.thread_time()
            await asyncio.sleep(_TICK)
            self.longest = max(self.longest, min(time.monotonic() - due, time.thread_time() - busy))


async def _called(app: Any, method: str, path: str, body: bytes = b"") -> int:
    """Call an ASGI application, and return the status of its answer."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
        "root_path": "",
        "state": {},
    }
    unread = [{"type": "http.request", "body": body, "more_body": False}]
    status = 0

    async def receive() -> Any:
        if unread:
            return unread.pop()
        await asyncio.Event().wait()  # the other end stays
        raise AssertionError

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(scope, receive, send)
    return status


async def _bare(request: Any) -> Any:
    """What the framework takes of a webhook."""
    from starlette.responses import JSONResponse  # noqa: PLC0415  # in the process that measures

    json.loads(await request.body())
    return JSONResponse({"status": "received"})


async def measure(case: str, jobs: int, readers: int) -> dict[str, float]:
    """Buy the jobs, let so many read each, and end them all by webhooks."""
    import httpx  # noqa: PLC0415  # in the process that measures
    from fastapi import FastAPI  # noqa: PLC0415  # the same
    from starlette.routing import Route  # noqa: PLC0415  # the same

    from kling_async import Client, RunBlob, Webhooks, runblob  # noqa: PLC0415  # the same
    from kling_async.fastapi import event_response  # noqa: PLC0415  # the same
    from kling_async.starlette import webhook_route  # noqa: PLC0415  # the same

    provider, stall = Provider(), Stall()
    webhooks = Webhooks("https://example.com", SECRET, confirm=False)
    async with Client(RunBlob("key"), webhooks=webhooks, http=httpx.MockTransport(provider)) as client:
        app = FastAPI()
        app.router.routes.append(webhook_route(client))
        app.router.routes.append(Route("/bare/{provider}/{attempt_id}/{token}", _bare, methods=["POST"]))
        bought = [await client.submit(runblob.O3Video("a boat")) for _ in range(jobs)]

        async def deliver(path: str, identity: str) -> None:
            end = {"generation_id": identity, "status": "completed", "video_url": f"https://cdn.test/{identity}.mp4"}
            assert await _called(app, "POST", path, json.dumps(end).encode()) == 200

        async def deliver_all(prefix: str = "") -> None:
            places = list(provider.callbacks.items())
            for start in range(0, jobs, _AT_ONCE):
                part = places[start : start + _AT_ONCE]
                await asyncio.gather(*(deliver(prefix + path, identity) for identity, path in part))

        async def read(job: Any) -> None:
            if case == "readers":
                await _called(event_response(job), "GET", "/events")
            else:
                await job

        gc.collect()
        watching = asyncio.create_task(stall.watch())
        memory, cpu = resident_bytes(), cpu_seconds()
        reading = []
        for job in (job for job in bought for _ in range(readers)):
            reading.append(asyncio.create_task(read(job)))
            if len(reading) % _AT_ONCE == 0:
                await asyncio.sleep(0)  # a server accepts them one after the other, too
        await asyncio.sleep(1)
        opened, memory = cpu_seconds() - cpu, resident_bytes() - memory
        opening_stall, stall.longest = stall.longest, 0.0
        cpu = cpu_seconds()
        await deliver_all()
        await asyncio.gather(*reading)
        ended = cpu_seconds() - cpu
        watching.cancel()
        cpu = cpu_seconds()
        if not readers:
            await deliver_all("/bare")
        bare = cpu_seconds() - cpu
    count = jobs * readers or jobs
    return {
        "count": count,
        "opened": opened / count if readers else 0.0,
        "ended": ended / count,
        "bare": bare / count,
        "memory": memory / count if readers else 0.0,
        "opening_stall": opening_stall,
        "stall": stall.longest,
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    """Lay the figures out as Markdown."""
    lines = [
        "# Readers, waiters and webhooks at scale",
        "",
        f"In one process, without a network. Python {platform.python_version()}.",
        "Made by `python -m benchmarks.fanout`.",
        "",
        "| | how many | CPU to open one, us | KiB each | CPU to end one, us | stall, opening, ms | stall, ending, ms |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for case, each in figures.items():
        cells = [
            f"{each['count']:,.0f}",
            f"{each['opened'] * 1e6:.0f}" if each["opened"] else "",
            f"{each['memory'] / 1024:.1f}" if each["memory"] else "",
            f"{each['ended'] * 1e6:.0f}",
            f"{each['opening_stall'] * 1e3:.0f}" if each["opened"] else "",
            f"{each['stall'] * 1e3:.0f}",
        ]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    if "webhooks" in figures:
        ours, bare = figures["webhooks"]["ended"], figures["webhooks"]["bare"]
        lines += ["", f"Webhooks in a second of CPU: {1 / ours:,.0f}. A route that does nothing: {1 / bare:,.0f}."]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth as many; writes nothing")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        case, jobs, readers = options.one
        print(json.dumps(asyncio.run(measure(case, int(jobs), int(readers)))))
        return
    figures = {}
    for case, (jobs, readers) in (QUICK if options.quick else CASES).items():
        command = [sys.executable, "-m", "benchmarks.fanout", "--one", case, str(jobs), str(readers)]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603  # this module
        figures[case] = json.loads(run.stdout)
    print(table(figures))
    if not options.quick:
        (RESULTS / "fanout.md").write_text(table(figures))
        (RESULTS / "fanout.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()

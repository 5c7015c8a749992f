"""Workers that share a ledger: from a webhook at one of them to the reader of the job's events at another.

    python -m benchmarks.replicas [--jobs N] [--workers N] [--postgres DSN] [--speed N]

`uvicorn --workers 4` serves a FastAPI application (`kling_async.fastapi`: submissions, webhooks, Server-Sent Events).
Workers share one `SqliteLedger`, or with `--postgres` a `PostgresLedger` in a schema of its own. A thousand five-second
videos of the RunBlob dialect are submitted at any worker, each is read at any worker, and the sandbox delivers its
webhook to any worker: the kernel chooses. Webhooks are believed (`confirm=False`), and the fallback's first poll is an
hour away, so a wake-up that is lost is a reader that never ends.

The *lag* is from the last byte of the delivery in one process to the event at the reader in another, on the clock that
all processes of a machine share. Writes `benchmarks/results/replicas.{md,json}`, with a row for each ledger.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from kling_async import Client, Polling, Webhooks, open_ledger, runblob
from kling_async.fastapi import CurrentClient, event_response, exception_handlers, lifespan, router

RESULTS = Path(__file__).parent / "results"
SECRET = "a secret for this benchmark alone"  # noqa: S105  # it guards nothing
LEDGER, ADDRESS, ARRIVALS = "BENCHMARK_LEDGER", "BENCHMARK_ADDRESS", "BENCHMARK_ARRIVALS"  # variables of the workers
AN_HOUR = 3600.0
SUBMISSIONS = 20  # at once
PATIENCE = 120.0  # s for which a reader waits for the end of its job


@dataclass(frozen=True)
class Figure:
    """What was measured with one ledger.

    Attributes:
        ledger: Which one.
        workers: Processes that shared it.
        jobs: Jobs whose end arrived at their readers.
        lost: Jobs whose readers heard of no end.
        elsewhere: Jobs whose reader was at another worker than the webhook.
        polls: Status calls that the provider received.
        lags: Seconds from each delivery to its reader's event.
    """

    ledger: str
    workers: int
    jobs: int
    lost: int
    elsewhere: int
    polls: int
    lags: list[float]

    def lag(self, part: float) -> float:
        """The lag in seconds that this part of the jobs does not exceed."""
        return sorted(self.lags)[max(math.ceil(part * len(self.lags)) - 1, 0)]


class Noting:
    """The application of a worker. It notes when a delivery has arrived, and names the worker in its answers.

    Args:
        app: The application.
    """

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        body = b""

        async def noting_receive() -> Any:
            nonlocal body
            message = await receive()
            if message["type"] == "http.request" and scope["path"].startswith("/kling/"):
                body += message.get("body", b"")
                if not message.get("more_body"):
                    _note(body)
            return message

        async def naming_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-worker", str(os.getpid()).encode())]
            await send(message)

        await self._app(scope, noting_receive, naming_send)


def _note(body: bytes) -> None:
    arrival = {"job": json.loads(body)["generation_id"], "worker": os.getpid(), "at": time.monotonic()}
    with Path(os.environ[ARRIVALS]).open("a") as file:
        file.write(f"{json.dumps(arrival)}\n")


def _make_client() -> Client:
    webhooks = Webhooks(os.environ[ADDRESS] + "/kling", SECRET, confirm=False, backstop=AN_HOUR)
    return Client(webhooks=webhooks, polling=Polling(deadline=AN_HOUR), ledger=open_ledger(os.environ[LEDGER]))


def app() -> Noting:
    """The application, as uvicorn makes it in each worker."""
    made = FastAPI(lifespan=lifespan(_make_client), exception_handlers=exception_handlers)
    made.include_router(router(), prefix="/kling")

    @made.post("/jobs/{key}")
    async def submit(key: str, client: CurrentClient) -> dict[str, str]:
        job = await client.submit(runblob.O3Video("a paper boat in the rain", duration=5), key=key)
        return {"ref": str(job.ref)}

    @made.get("/events/{ref:path}", response_model=None)
    async def events(ref: str, client: CurrentClient) -> Any:
        return event_response(client.attach(ref))

    return Noting(made)


@contextlib.contextmanager
def serving(workers: int, environment: dict[str, str]) -> Iterator[str]:
    """The workers, and their address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = ["uvicorn", "benchmarks.replicas:app", "--factory", f"--workers={workers}", f"--port={port}"]
    process = subprocess.Popen(  # noqa: S603  # ours
        [sys.executable, "-m", *command, "--log-level=warning", "--no-access-log"],
        env={**os.environ, **environment, ADDRESS: address},
    )
    try:
        for _ in range(int(PATIENCE * 5)):
            try:
                httpx.get(f"{address}/openapi.json")
                break
            except httpx.ConnectError:
                time.sleep(0.2)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)


@contextlib.contextmanager
def selling(speed: float) -> Iterator[dict[str, Any]]:
    """A sandbox in a process of its own, as it describes itself."""
    command = ["-m", "kling_async.sandbox", f"--speed={speed:g}", "--rate-limit=0", "--until-eof"]
    with subprocess.Popen(  # noqa: S603  # ours
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.stdin.close()


class Readers:
    """Buys jobs and reads their events, each over a connection of its own.

    Args:
        address: The workers.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._slots = asyncio.Semaphore(SUBMISSIONS)
        self.ends: dict[str, tuple[str, float]] = {}  # by job: the reader's worker, and when the end arrived there

    async def run(self, jobs: int) -> None:
        """Buy so many jobs and read until all have ended, or their readers have waited for `PATIENCE` seconds."""
        # The next call is accepted by any worker, because no connection is kept.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=self._address, timeout=PATIENCE, limits=limits) as http:
            await asyncio.gather(*(self._one(http, f"order {number}") for number in range(jobs)))

    async def _one(self, http: httpx.AsyncClient, key: str) -> None:
        async with self._slots:
            answer = await http.post(f"/jobs/{key}")
        ref = answer.raise_for_status().json()["ref"]
        with contextlib.suppress(TimeoutError):  # a wake-up was lost. It is counted
            async with asyncio.timeout(PATIENCE), http.stream("GET", f"/events/{ref}") as stream:
                async for status in _statuses(stream):
                    if status == "completed":
                        end = stream.headers["x-worker"], time.monotonic()
                        self.ends.setdefault(ref.rpartition("/")[2], end)


async def _statuses(stream: httpx.Response) -> AsyncIterator[str]:
    async for line in stream.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: ")).get("status", "")


def measure(name: str, ledger: str, workers: int, jobs: int, speed: float) -> Figure:
    """Measure with one ledger."""
    with tempfile.TemporaryDirectory() as folder, selling(speed) as sandbox:
        arrivals = Path(folder) / "arrivals"
        seller = sandbox["providers"]["runblob"]
        environment = {
            "RUNBLOB_API_KEY": seller["api_key"],
            "RUNBLOB_BASE_URL": seller["base_url"],
            "KLING_SANDBOX_SPEED": f"{speed:g}",
            LEDGER: ledger or str(Path(folder) / "jobs.db"),
            ARRIVALS: str(arrivals),
        }
        with serving(workers, environment) as address:
            readers = Readers(address)
            asyncio.run(readers.run(jobs))
        first: dict[str, tuple[str, float]] = {}
        for line in arrivals.read_text().splitlines():
            arrival = json.loads(line)
            first.setdefault(arrival["job"], (str(arrival["worker"]), arrival["at"]))
        requests = httpx.get(f"{sandbox['url']}/_sandbox/counters").json()["requests"]
    ends = readers.ends
    found = Figure(
        ledger=name,
        workers=workers,
        jobs=len(ends),
        lost=jobs - len(ends),
        elsewhere=sum(first[job][0] != worker for job, (worker, _) in ends.items()),
        polls=requests.get("runblob/status", 0),
        lags=[at - first[job][1] for job, (_, at) in ends.items()],
    )
    print(table([found]), flush=True)
    return found


def table(figures: list[Figure]) -> str:
    """The figures as Markdown."""
    one = figures[0]
    machine = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    jobs = f"{one.jobs + one.lost:,} videos, `uvicorn --workers {one.workers}`"
    lines = [
        "# From a webhook at one worker to a reader at another",
        "",
        f"`python -m benchmarks.replicas`, {machine}: {jobs}. Readers and provider share the machine.",
        "",
        "| ledger | lag, median | 99 of 100 | worst | reader elsewhere | lost | status calls |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for figure in figures:
        lags = " | ".join(f"{1000 * figure.lag(part):.0f} ms" for part in (0.5, 0.99, 1.0))
        counts = f"{figure.elsewhere:,} | {figure.lost} | {figure.polls}"
        lines.append(f"| {figure.ledger} | {lags} | {counts} |")
    return "\n".join([*lines, ""])


def drop(address: str, schema: str) -> None:
    """Remove what the workers have written there."""
    import psycopg  # noqa: PLC0415  # only where a database is given

    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(psycopg.sql.Identifier(schema)))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--speed", type=float, default=5.0, help="simulated seconds per second (default: 5)")
    parser.add_argument("--postgres", default="", help="the address of a PostgreSQL database to measure as well")
    chosen = parser.parse_args()
    figures = [measure("SqliteLedger", "", chosen.workers, chosen.jobs, chosen.speed)]
    if chosen.postgres:
        mark, schema = "&" if "?" in chosen.postgres else "?", f"replicas_{os.getpid()}"
        place = f"{chosen.postgres}{mark}schema={schema}"
        try:
            figures.append(measure("PostgresLedger", place, chosen.workers, chosen.jobs, chosen.speed))
        finally:
            drop(chosen.postgres, schema)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "replicas.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    (RESULTS / "replicas.md").write_text(table(figures))


if __name__ == "__main__":
    main()

"""The clients that `benchmarks.jobs` compares: each imported only in the process that measures it.

A candidate takes prompts and reports each job that is done. All but the official clients of other providers poll their
jobs at the same fixed interval and keep at most 100 connections. Those are used as their documentation shows.
"""

import asyncio
import importlib
import importlib.metadata
import importlib.util
import math
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONNECTIONS = 100
_KEEPALIVE = 3600.0  # s
_KEY = "benchmark"

Done = Callable[[float | None], None]
"""Called for each job that is done, with the time (``time.monotonic``), where the client passes that on."""


@dataclass(frozen=True)
class Order:
    """What is bought.

    Attributes:
        url: Where.
        prompts: One a job.
        interval: Seconds between two polls of a job.
        done: Called for each job.
        failed: Called for each job that the client gives up, with the error. If None, the first error ends all.
    """

    url: str
    prompts: Sequence[str]
    interval: float
    done: Done
    failed: Callable[[Exception], None] | None = None


def _client(order: Order, http: str | None = None, ledger: Path | None = None) -> Any:
    kling = importlib.import_module("kling_async")
    polling = kling.Polling(schedule=kling.Progressive(order.interval), status_calls_per_minute=math.inf)
    kept = kling.SqliteLedger(ledger) if ledger else None
    return kling.Client(kling.RunBlob(_KEY, order.url), polling=polling, http=http, ledger=kept)


def _requests(order: Order) -> Iterator[Any]:
    kling = importlib.import_module("kling_async")
    return (kling.runblob.O3Video(prompt) for prompt in order.prompts)


async def _map(order: Order, http: str | None = None, ledger: Path | None = None) -> None:
    client = _client(order, http, ledger)
    async with client, client.map(_requests(order), in_flight=len(order.prompts)) as outcomes:
        async for outcome in outcomes:
            order.done(outcome.result.raw["ended"])


async def _fast(order: Order) -> None:
    await _map(order, "fast")


async def _with_ledger(order: Order) -> None:
    with tempfile.TemporaryDirectory() as directory:
        await _map(order, ledger=Path(directory, "jobs.db"))


async def _run(order: Order) -> None:
    async def one(request: Any) -> None:
        result = await client.run(request)
        order.done(result.raw["ended"])

    async with _client(order) as client:
        await asyncio.gather(*[one(request) for request in _requests(order)])


async def _by_hand(order: Order, call: Callable[[str, str, dict[str, str] | None], Awaitable[Any]]) -> None:
    """What one writes without a library: a task a job, that submits, sleeps and asks."""

    async def one(prompt: str) -> None:
        job = await call("POST", "/v1/kling/o3-video/generate", {"prompt": prompt})
        status = job
        while status["status"] != "completed":
            await asyncio.sleep(order.interval)
            status = await call("GET", f"/v1/kling/o3-video/generations/{job['generation_id']}", None)
        order.done(status["ended"])

    await asyncio.gather(*[one(prompt) for prompt in order.prompts])


async def _aiohttp(order: Order) -> None:
    aiohttp = importlib.import_module("aiohttp")
    connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=_KEEPALIVE)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def call(method: str, path: str, body: dict[str, str] | None) -> Any:
            async with session.request(method, order.url + path, json=body) as response:
                return await response.json()

        await _by_hand(order, call)


async def _httpx(order: Order) -> None:
    httpx = importlib.import_module("httpx")
    limits = httpx.Limits(
        max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=_KEEPALIVE
    )
    async with httpx.AsyncClient(limits=limits, timeout=httpx.Timeout(30, pool=None), base_url=order.url) as client:

        async def call(method: str, path: str, body: dict[str, str] | None) -> Any:
            return (await client.request(method, path, json=body)).json()

        await _by_hand(order, call)


async def _gather(order: Order, one: Callable[[str], Awaitable[Any]]) -> None:
    async def buy(prompt: str) -> None:
        try:
            await one(prompt)
        except Exception as error:
            if order.failed is None:
                raise
            order.failed(error)
        else:
            order.done(None)

    await asyncio.gather(*[buy(prompt) for prompt in order.prompts])


async def _runblob(order: Order) -> None:
    runblob = importlib.import_module("runblob")
    # Its own bounds of 50 requests a second and five failures in a row are for one account of the real provider.
    async with runblob.RunBlob(api_key=_KEY, base_url=order.url, rate_limit_rps=1e6) as client:
        await _gather(order, lambda prompt: client.kling.generate_o3_video_and_wait(prompt=prompt))


async def _defaults(order: Order) -> None:
    kling = importlib.import_module("kling_async")
    async with kling.Client(kling.RunBlob(_KEY, order.url)) as client:
        await _gather(order, lambda prompt: client.run(kling.runblob.O3Video(prompt)))


async def _fal(order: Order) -> None:
    fal = importlib.import_module("fal_client.client")
    vars(fal)["QUEUE_URL_FORMAT"] = f"{order.url}/"
    client = fal.AsyncClient(key=_KEY)
    await _gather(order, lambda prompt: client.subscribe("fal-ai/kling", {"prompt": prompt}))


async def _replicate(order: Order) -> None:
    replicate = importlib.import_module("replicate.client")
    client = replicate.Client(api_token=_KEY, base_url=order.url)

    async def one(prompt: str) -> None:
        prediction = await client.predictions.async_create("1", {"prompt": prompt})
        await prediction.async_wait()

    await _gather(order, one)


async def _runway(order: Order) -> None:
    runwayml = importlib.import_module("runwayml")
    os.environ["RUNWAYML_API_SECRET"] = _KEY
    client = runwayml.AsyncRunwayML(base_url=order.url)

    async def one(prompt: str) -> None:
        task = client.image_to_video.create(
            model="gen4_turbo",
            prompt_image="https://cdn.test/a.png",
            prompt_text=prompt,
            ratio="1280:720",
            duration=5,
        )
        await (await task).wait_for_task_output()

    await _gather(order, one)


@dataclass(frozen=True)
class Candidate:
    """One row of the table.

    Attributes:
        title: What it is called there.
        package: What must be installed for it.
        buy: Buys, and returns when all jobs are done.
        freezes: Its program calls ``gc.freeze()`` before it buys.
        beside: It is measured only where it is asked for.
    """

    title: str
    package: str
    buy: Callable[[Order], Awaitable[None]]
    freezes: bool = False
    beside: bool = False

    @property
    def installed(self) -> bool:
        """Whether it can be measured here."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def label(self) -> str:
        """Its title, with the version of the package."""
        version = "" if self.package == "kling_async" else importlib.metadata.version(self.package)
        return self.title.format(version)


MAP, FAST, RUN, LEDGER, DEFAULTS, AIOHTTP, HTTPX = "map", "fast", "run", "ledger", "defaults", "aiohttp", "httpx"
RUNBLOB, FAL, REPLICATE, RUNWAY = "runblob", "fal", "replicate", "runwayml"

CANDIDATES = {
    MAP: Candidate("client.map", "kling_async", _map),
    "frozen": Candidate("client.map after gc.freeze()", "kling_async", _map, freezes=True),
    FAST: Candidate('client.map with http="fast" (httptools {})', "httptools", _fast),
    RUN: Candidate("gather(client.run)", "kling_async", _run),
    AIOHTTP: Candidate("aiohttp {} + gather", "aiohttp", _aiohttp),
    HTTPX: Candidate("httpx {} + gather", "httpx", _httpx),
    LEDGER: Candidate("client.map with a SqliteLedger", "kling_async", _with_ledger, beside=True),
    DEFAULTS: Candidate("kling_async, defaults", "kling_async", _defaults, beside=True),
    RUNBLOB: Candidate("runblob {}", "runblob", _runblob),
    FAL: Candidate("fal-client {}", "fal_client", _fal),
    REPLICATE: Candidate("replicate {}", "replicate", _replicate),
    RUNWAY: Candidate("runwayml {}", "runwayml", _runway),
}

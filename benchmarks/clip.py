"""How many requests one clip of three minutes costs: this client beside the official ones, with their defaults.

    python -m benchmarks.clip

All clients run in one process against one sandbox in real time, each with one job that takes 180 seconds. The sandbox
counts the requests of each. It takes about three and a half minutes, and needs the extra `bench`. fal-client sleeps
0.1 s after each answer, so a slow machine makes it ask less: at most 1 800 times.
"""

import asyncio
import importlib
import threading
from collections.abc import Callable
from typing import Any

from kling_async import Client, Fal, Replicate, fal, replicate
from kling_async.sandbox import Sandbox

SECONDS = 180
PROMPT = f"a paper boat [sandbox: duration={SECONDS}]"
MODEL = "fal-ai/kling-video/v3/standard/text-to-video"


def ours(sandbox: Sandbox) -> dict[str, int]:
    """Requests of this client at each of the two, with learned polling and no webhook."""

    async def main() -> None:
        providers = [
            Fal(sandbox.api_key("fal"), sandbox.base_url("fal")),
            Replicate(sandbox.api_key("replicate"), sandbox.base_url("replicate")),
        ]
        async with Client(providers) as client, asyncio.TaskGroup() as group:
            group.create_task(client.run(fal.TextToVideo(PROMPT)))
            group.create_task(client.run(replicate.V3Video(PROMPT)))

    asyncio.run(main())
    return counted(sandbox)


def fal_client(sandbox: Sandbox) -> dict[str, int]:
    """Requests of `fal_client.subscribe`."""
    module: Any = importlib.import_module("fal_client.client")
    module.QUEUE_URL_FORMAT = f"{sandbox.base_url('fal')}/"
    module.SyncClient(key=sandbox.api_key("fal")).subscribe(MODEL, {"prompt": PROMPT, "duration": "5"})
    return counted(sandbox)


def replicate_client(sandbox: Sandbox) -> dict[str, int]:
    """Requests of `replicate.run`."""
    module: Any = importlib.import_module("replicate")
    address = sandbox.base_url("replicate").removesuffix("/v1")
    client = module.Client(api_token=sandbox.api_key("replicate"), base_url=address)
    client.run("kwaivgi/kling-v3-video", input={"prompt": PROMPT, "duration": 5})
    return counted(sandbox)


def counted(sandbox: Sandbox) -> dict[str, int]:
    """All requests so far, by provider."""
    found: dict[str, int] = {}
    for (provider, _), count in sandbox.counters.requests.items():
        found[provider] = found.get(provider, 0) + count
    return found


def measured(name: str, client: Callable[[Sandbox], dict[str, int]], results: dict[str, Any]) -> None:
    """Run one client on a sandbox of its own."""
    with Sandbox(scale=0.1) as sandbox:
        try:
            results[name] = client(sandbox)
        except Exception as error:  # noqa: BLE001  # of somebody else's program: it is the result
            results[name] = f"{type(error).__name__}: {error}; requests so far: {counted(sandbox)}"


def main() -> None:
    results: dict[str, Any] = {}
    clients = {"kling_async": ours, "fal-client": fal_client, "replicate": replicate_client}
    threads = [threading.Thread(target=measured, args=(name, run, results)) for name, run in clients.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in clients:
        print(f"{name:<12} {results[name]}")


if __name__ == "__main__":
    main()

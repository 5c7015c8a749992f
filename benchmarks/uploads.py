"""What sending local references and saving results cost: memory, CPU and the longest stall of the event loop.

    python -m benchmarks.uploads [--quick]

Uploads: pictures of 8.3 MiB as references of jobs at RunBlob, which takes them as base64 in JSON, beside code by hand
that does the same with httpx and aiohttp (`read_bytes`, `b64encode`, `json=`). Downloads: results of 64 MiB to disk,
beside `aiohttp` and a file. Every figure comes from a fresh process, and the server has a process of its own.

Writes `benchmarks/results/uploads.{md,json}`.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.process import cpu_seconds, resident_bytes

RESULTS = Path(__file__).parent / "results"
MIB = 1024 * 1024
PICTURE_BYTES = 8_700_000
RESULT_BYTES = 64 * MIB
RESULT_COUNT = 4
HEAD = b"\x89PNG\r\n\x1a\n"
JOB = "550e8400-e29b-41d4-a716-446655440000"
UPLOADS = ("one reference", "ten references", "ten references, ledger", "ten jobs at once, ledger")
CLIENTS = ("kling_async", "httpx by hand", "aiohttp by hand")


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a body of any length, and answer as RunBlob does. A path that ends with ``.png`` is a result."""
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while head := await reader.readuntil(b"\r\n\r\n"):
            lines = head.decode("latin-1").split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
            left = int(fields.get("content-length", 0))
            while left:
                left -= len(await reader.read(min(left, MIB)))
            path = lines[0].split(" ")[1]
            if path.endswith(".png"):
                writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: %d\r\netag: "one"\r\n\r\n' % RESULT_BYTES + HEAD)
                left, piece = RESULT_BYTES - len(HEAD), bytes(MIB)
                while left:
                    writer.write(piece[:left])
                    left -= min(left, MIB)
                    await writer.drain()
                continue
            picture = f"http://{fields['host']}/{path.rpartition('/')[2]}.png"
            state = {"generation_uuid": JOB, "generation_id": JOB, "status": "completed", "result_image_url": picture}
            body = json.dumps({"success": True, **state, "data": state}).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            await writer.drain()
    writer.close()


async def _serve() -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, limit=MIB)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The address of a server in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.uploads", "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # this module
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def measured(work: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """Growth of the process in MiB, seconds of CPU and of the clock, and the longest stall in milliseconds."""
    start = peak = resident_bytes()
    stall = 0.0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.002):
            peak = max(peak, resident_bytes())

    async def beat() -> None:
        nonlocal stall
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            stall = max(stall, time.perf_counter() - before - 0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    beating = asyncio.create_task(beat())
    await asyncio.sleep(0.01)
    cpu, begin = cpu_seconds(), time.perf_counter()
    await work()
    seconds, cpu = time.perf_counter() - begin, cpu_seconds() - cpu
    await asyncio.sleep(0.01)  # a stall at the end is counted, too
    over.set()
    thread.join()
    beating.cancel()
    return {"growth": max(peak - start, 0) / MIB, "cpu": cpu, "seconds": seconds, "stall": stall * 1000}


async def upload(client: str, case: str, url: str, folder: Path) -> dict[str, float]:
    """Send references by one of the clients, after one small request that opens what is needed."""
    paths = sorted(folder.glob("*.png"))[: 1 if case.startswith("one") else 10]
    groups = [[path] for path in paths] if "at once" in case else [paths]
    small = folder / "small" / "small.png"
    if client == "kling_async":
        from kling_async import Client, RunBlob, SqliteLedger, runblob  # noqa: PLC0415  # only this client

        ledger = SqliteLedger(folder / f"{os.getpid()}.db") if "ledger" in case else None
        async with Client([RunBlob("key", base_url=url)], ledger=ledger) as ours:
            await ours.submit(runblob.O3Photo("a boat", references=[small]))
            jobs = [runblob.O3Photo(f"boat {number}", references=group) for number, group in enumerate(groups)]
            return await measured(lambda: asyncio.gather(*(ours.submit(job) for job in jobs)))

    def body(group: Sequence[Path]) -> dict[str, Any]:
        images = [f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}" for path in group]
        return {"prompt": "a boat", "images_base64": images}

    if client.startswith("httpx"):
        import httpx  # noqa: PLC0415  # the same

        async with httpx.AsyncClient(timeout=120) as theirs:
            await theirs.post(f"{url}/job", json=body([small]))
            return await measured(
                lambda: asyncio.gather(*(theirs.post(f"{url}/job", json=body(group)) for group in groups))
            )
    import aiohttp  # noqa: PLC0415  # the same

    async with aiohttp.ClientSession() as session:

        async def post(group: Sequence[Path]) -> None:
            async with session.post(f"{url}/job", json=body(group)) as answer:
                await answer.read()

        await post([small])
        return await measured(lambda: asyncio.gather(*(post(group) for group in groups)))


async def download(client: str, url: str, folder: Path) -> dict[str, float]:
    """Save results, one after the other."""
    if client == "kling_async":
        from kling_async import Client, RunBlob  # noqa: PLC0415  # only this client

        async with Client([RunBlob("key", base_url=url)]) as ours:
            result = await ours.attach(f"runblob/o3-photo/{JOB}")

            async def save_all() -> None:
                for number in range(RESULT_COUNT):
                    await result.artifacts[0].save(folder / f"{os.getpid()}-{number}.png")

            return await measured(save_all)
    import aiohttp  # noqa: PLC0415  # the same

    async with aiohttp.ClientSession() as session:

        async def fetch_all() -> None:
            for number in range(RESULT_COUNT):
                path = folder / f"{os.getpid()}-{number}.png"
                async with session.get(f"{url}/{number}.png") as answer:
                    with path.open("wb") as file:
                        async for piece in answer.content.iter_chunked(256 * 1024):
                            file.write(piece)
                        file.flush()
                        os.fsync(file.fileno())  # as ours: a saved file survives a crash

        return await measured(fetch_all)


def fresh(*arguments: str) -> dict[str, float]:
    """Measure one client and case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.uploads", *arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603  # this module
    figures: dict[str, float] = json.loads(run.stdout)
    return figures


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    lines = [
        "# Sending files and saving results",
        "",
        f"Made by `python -m benchmarks.uploads`. Python {platform.python_version()}.",
        "Growth: of the process over its start. Stall: for how long the event loop stood still.",
        "",
        "| | client | files | growth | CPU | seconds | stall |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['case']} | {row['client']} | {row['mib']:.1f} MiB | {row['growth']:.1f} MiB | {row['cpu']:.2f} s "
        f"| {row['seconds']:.2f} | {row['stall']:.0f} ms |"
        for row in rows
    ]
    targets = "Targets: uploads grow the process by at most 4 MiB, and results are saved no slower than by aiohttp."
    return "\n".join([*lines, "", targets, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="our own client alone; writes nothing")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(_serve())
        return
    if options.one:
        client, case, url, folder = options.one
        work = download(client, url, Path(folder)) if case == "download" else upload(client, case, url, Path(folder))
        print(json.dumps(asyncio.run(work)))
        return
    rows = []
    clients = CLIENTS[:1] if options.quick else CLIENTS
    with serving() as url, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "small").mkdir()
        (folder / "small" / "small.png").write_bytes(HEAD + os.urandom(20_000))
        for number in range(10):
            (folder / f"{number}.png").write_bytes(HEAD + os.urandom(PICTURE_BYTES))
        cases = [
            (case, client) for case in UPLOADS for client in clients if "ledger" not in case or client == clients[0]
        ]
        for case, client in cases:
            size = PICTURE_BYTES * (1 if case.startswith("one") else 10)
            rows.append({"case": case, "client": client, "mib": size / MIB, **fresh("--one", client, case, url, name)})
        (folder / "saved").mkdir()
        for client in [one for one in clients if not one.startswith("httpx")]:
            figures = fresh("--one", client, "download", url, str(folder / "saved"))
            rows.append({"case": "results", "client": client, "mib": RESULT_COUNT * RESULT_BYTES / MIB, **figures})
    print(table(rows))
    if not options.quick:
        (RESULTS / "uploads.md").write_text(table(rows))
        (RESULTS / "uploads.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

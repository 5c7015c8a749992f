"""What the official clients ask and buy: requests a job, and jobs bought when answers are lost.

    python -m benchmarks.lost

Twenty jobs of twelve seconds each, for each client with its defaults, in real time: once with a provider that works,
and once with one that loses the answer to every fourth submission. The job is bought, and then the connection ends, or
is reset, in turn, as when a proxy or the network fails. A client that sends such a submission again buys a second job.

The clients run at the same time, each in a process of its own, because time is not what is measured. It takes a minute.
Writes `benchmarks/results/lost.{md,json}`.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from benchmarks.candidates import CANDIDATES, DEFAULTS, FAL, REPLICATE, RUNBLOB, RUNWAY, Order
from benchmarks.generation_server import generation_server
from benchmarks.jobs import RESULTS

_CLIENTS = (DEFAULTS, RUNBLOB, FAL, REPLICATE, RUNWAY)
_JOBS = 20
_SECONDS = 12.0  # that a job takes
_LOSE = 4  # the answer to every so many submissions is lost
_PATIENCE = 300  # s for a client. One that hangs is an error of this benchmark


@dataclass(frozen=True)
class Figure:
    """What became of the jobs of one client.

    Attributes:
        candidate: Key in `CANDIDATES`.
        lose: The answer to every so many submissions was lost. 0: none was.
        done: Jobs that the client finished.
        errors: Types of the errors with which it gave up others, and how many.
        requests: Requests that it sent.
        bought: Jobs that the provider sold.
    """

    candidate: str
    lose: int
    done: int
    errors: dict[str, int]
    requests: int
    bought: int


async def _buy(candidate: str, url: str) -> None:
    """Buy in this process, and print what came of it."""
    done, errors = 0, dict[str, int]()

    def finished(_: float | None) -> None:
        nonlocal done
        done += 1

    def failed(error: Exception) -> None:
        name = type(error).__name__
        errors[name] = errors.get(name, 0) + 1

    prompts = [f"{_SECONDS} a boat in the rain"] * _JOBS
    await CANDIDATES[candidate].buy(Order(url, prompts, _SECONDS, finished, failed))
    print(json.dumps({"done": done, "errors": errors}))


def measure(candidate: str, lose: int) -> Figure:
    """Let one client buy from a provider of its own."""
    with generation_server(1, lose=lose) as url:
        command = [sys.executable, "-m", __spec__.name, "--buy", candidate, url]
        # Ourselves. What clients and their loggers write to the terminal is theirs.
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE)  # noqa: S603
        with urllib.request.urlopen(f"{url}/counts") as answer:  # noqa: S310  # our own server
            counts = json.load(answer)
    return Figure(candidate, lose, **json.loads(output.stdout.splitlines()[-1]), **counts)


def table(figures: list[Figure]) -> str:
    """Lay the figures out as Markdown."""
    lines = [
        "# What a client asks and buys",
        "",
        (
            f"{_JOBS} jobs of {_SECONDS:g} s, each client with its defaults. On the right, the answer to every"
            f" {_LOSE}th submission was lost after the job was bought. Made by `python -m benchmarks.lost`."
        ),
        "",
        f"| client | requests a job | bought for {_JOBS} jobs, answers lost | of these used | given up |",
        "|---|---:|---:|---:|---|",
    ]
    for sound, faulty in zip(figures[::2], figures[1::2], strict=True):
        errors = ", ".join(f"{count} {name}" for name, count in faulty.errors.items()) or "none"
        cells = [f"{sound.requests / _JOBS:.1f}", str(faulty.bought), str(faulty.done), errors]
        lines.append(f"| {CANDIDATES[sound.candidate].label} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--buy", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.buy:
        asyncio.run(_buy(*arguments.buy))
        return
    clients = [candidate for candidate in _CLIENTS if CANDIDATES[candidate].installed]
    pairs = [(candidate, lose) for candidate in clients for lose in (0, _LOSE)]
    with ThreadPoolExecutor(len(pairs)) as threads:
        figures = list(threads.map(lambda pair: measure(*pair), pairs))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "lost.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    (RESULTS / "lost.md").write_text(table(figures))
    print(table(figures))


if __name__ == "__main__":
    main()

"""What a whole job costs: CPU, memory, the longest stall of the event loop and lag, with 100 to 10 000 jobs in flight.

    python -m benchmarks.jobs [--quick] [--only map aiohttp]

Every figure comes from a fresh process that is pinned to core 0, buys so many jobs at once and follows each to its end.
The server has core 1 for itself and takes 50 ms for an answer. A job takes about four and a half intervals between two
polls, so that it is submitted once and polled five times. Measured are

- CPU: user + system time of the client process, by job that is done.
- memory: what the process occupies at most, over what it did before the first job.
- stall: the most CPU time that went by before the event loop got around to a timer that was due, with the interpreter's
  cyclic garbage collector as it is by default, and less what that took.
- lag: from a job's end to the client's knowledge of it, less half an interval, which is what the polling itself costs.

A client that is not through after a minute of CPU or two and a half of time is stopped, reported by how many jobs it
finished, and not tried with more.

Writes `benchmarks/results/jobs.{md,png,json}`.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks import charts
from benchmarks.candidates import AIOHTTP, CANDIDATES, CONNECTIONS, FAST, HTTPX, MAP, Order
from benchmarks.generation_server import LATENCY, generation_server
from benchmarks.job_server import pin_to_core
from benchmarks.process import cpu_seconds, resident_bytes

CLIENT_CORE, SERVER_CORE = 0, 1
RESULTS = Path(__file__).parent / "results"
_DEFAULT = [name for name, candidate in CANDIDATES.items() if not candidate.beside]
_TICK = 0.005  # s
_SETTLE = 0.5  # s before the first job, for the process to have its final size


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        intervals: Seconds between two polls of a job, by how many are in flight, so that no client is overloaded.
        cap: Seconds of CPU after which a client is stopped.
        patience: Seconds of real time, for the same.
        polls: How often a job is polled, about.
    """

    intervals: dict[int, float]
    cap: int
    patience: int
    polls: int = 5


FULL = Plan({100: 1.0, 1_000: 2.0, 10_000: 10.0}, cap=60, patience=150)
QUICK = Plan({100: 0.5, 1_000: 1.0}, cap=20, patience=40)
SCALE = Plan({1_000: 6.0, 10_000: 30.0, 20_000: 50.0, 100_000: 200.0}, cap=1_200, patience=2_400, polls=2)
PLANS = {"full": FULL, "quick": QUICK, "scale": SCALE}


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        candidate: Key in `CANDIDATES`.
        in_flight: Jobs that were bought at once.
        done: Jobs that were done.
        cpu: Seconds of user + system time that they took together.
        memory: Bytes that the process grew by at most.
        stall: Seconds that the event loop was late at most.
        own_stall: The same, less the time that the garbage collector took.
        lag: Mean seconds from a job's end to the knowledge of it, beyond half an interval. None if unknown.
        capped: Whether it was stopped.
    """

    candidate: str
    in_flight: int
    done: int
    cpu: float
    memory: int
    stall: float
    own_stall: float
    lag: float | None
    capped: bool

    @property
    def milliseconds(self) -> float:
        """CPU per job that is done, infinite if none is."""
        return 1e3 * self.cpu / self.done if self.done else float("inf")


class Measurement:
    """Measures one candidate in this process, and prints the figure in any state of the event loop."""

    def __init__(self, candidate: str, in_flight: int, plan: Plan) -> None:
        self._candidate = candidate
        self._in_flight = in_flight
        self._plan = plan
        self._done = 0
        self._lags: list[float] = []
        self._cpu = 0.0
        self._before = self._memory = 0
        self._stall = self._own_stall = 0.0
        self._collecting = self._collected = 0.0

    async def run(self, url: str) -> None:
        """Measure, report, and end the process."""
        interval = self._plan.intervals[self._in_flight]
        dice = random.Random(self._in_flight)  # noqa: S311  # equal jobs for everyone
        seconds = [interval * (self._plan.polls - 0.5 + dice.uniform(-0.5, 0.5)) for _ in range(self._in_flight)]
        prompts = [f"{each:.3f} a boat in the rain" for each in seconds]
        buy = CANDIDATES[self._candidate].buy
        await buy(Order(url, ["0.1 warm up"], 0.2, lambda _: None))
        await asyncio.sleep(_SETTLE)
        gc.collect()
        if CANDIDATES[self._candidate].freezes:
            gc.freeze()
        gc.callbacks.append(self._collects)
        self._before = self._memory = resident_bytes()
        poller = asyncio.create_task(self._watch())
        signal.signal(signal.SIGPROF, self._out_of_time)
        signal.setitimer(signal.ITIMER_PROF, self._plan.cap)
        signal.signal(signal.SIGALRM, self._out_of_time)
        signal.alarm(self._plan.patience)
        self._cpu = cpu_seconds()
        try:
            await buy(Order(url, prompts, interval, self._note))
        except Exception as error:  # noqa: BLE001  # a client that breaks under the load is a result
            print(f"{self._candidate} broke: {type(error).__name__}: {error}"[:200], file=sys.stderr)
            self._report(capped=True)
        poller.cancel()
        self._report(capped=False)

    def _note(self, ended: float | None) -> None:
        self._done += 1
        if ended is not None:
            self._lags.append(time.monotonic() - ended)

    async def _watch(self) -> None:
        """Note how late the loop is, and how large the process."""
        while True:
            due, busy, collected = time.monotonic() + _TICK, time.thread_time(), self._collected
            await asyncio.sleep(_TICK)
            # Not what another process of the machine has taken: that is nobody's doing here.
            late = min(time.monotonic() - due, time.thread_time() - busy)
            self._stall = max(self._stall, late)
            self._own_stall = max(self._own_stall, late - (self._collected - collected))
            self._memory = max(self._memory, resident_bytes())

    def _collects(self, phase: str, _: dict[str, int]) -> None:
        now = time.thread_time()
        if phase == "start":
            self._collecting = now
        else:
            self._collected += now - self._collecting

    def _out_of_time(self, _signal: int, _frame: FrameType | None) -> None:
        self._report(capped=True)

    def _report(self, *, capped: bool) -> NoReturn:
        signal.setitimer(signal.ITIMER_PROF, 0)
        cpu = cpu_seconds() - self._cpu
        lag = None
        if self._lags:
            lag = sum(self._lags) / len(self._lags) - self._plan.intervals[self._in_flight] / 2
        memory = max(self._memory, resident_bytes()) - self._before
        figure = Figure(
            self._candidate, self._in_flight, self._done, cpu, memory, self._stall, self._own_stall, lag, capped
        )
        print(json.dumps(asdict(figure)), flush=True)
        os._exit(0)  # closing 10 000 jobs in an orderly way is not what is measured


def measure(candidate: str, in_flight: int, url: str, plan: str) -> Figure:
    """Measure a candidate in a fresh process, by one of `PLANS`."""
    command = [sys.executable, "-m", "benchmarks.jobs", "--measure", candidate, str(in_flight), url, plan]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603  # ourselves
    return Figure(**json.loads(output))


def table(figures: Iterable[Figure], plan: Plan) -> str:
    """Lay the figures out as Markdown, and say how they meet the targets."""
    by_candidate: dict[str, dict[int, Figure]] = {}
    for figure in figures:
        by_candidate.setdefault(figure.candidate, {})[figure.in_flight] = figure
    levels = list(plan.intervals)
    lines = [
        "# What a whole job costs",
        "",
        (
            f"Jobs that are submitted once and polled about {plan.polls} times, so many in flight at once, over at most"
            f" {CONNECTIONS} connections to a server that takes {LATENCY * 1e3:.0f} ms for an answer. A fresh process"
            f" per figure, pinned to one core. Polls of a job are"
            f" {', '.join(f'{plan.intervals[level]:g} s' for level in levels)} apart. The official clients of other"
            f" providers poll as they do by default. Python {platform.python_version()}, {os.cpu_count()} cores."
            " Made by `python -m benchmarks.jobs`."
        ),
        "",
    ]
    columns: tuple[tuple[str, Callable[[Figure], str]], ...] = (
        ("CPU, ms per job", lambda figure: f"{figure.milliseconds:,.2f}"),
        ("memory at most, MiB more than before", lambda figure: f"{figure.memory / 2**20:,.1f}"),
        ("longest stall of the event loop, ms", lambda figure: f"{figure.stall * 1e3:,.0f}"),
        ("the same, less garbage collection, ms", lambda figure: f"{figure.own_stall * 1e3:,.0f}"),
        ("lag beyond half an interval, ms", lambda figure: "" if figure.lag is None else f"{figure.lag * 1e3:,.0f}"),
    )
    for title, cell in columns:
        lines += [f"| {title} | " + " | ".join(f"{level:,} in flight" for level in levels) + " |"]
        lines += ["|---|" + "---:|" * len(levels)]
        for candidate, row in by_candidate.items():
            cells = [_cell(row[level], cell(row[level])) if level in row else "" for level in levels]
            lines.append(f"| {CANDIDATES[candidate].label} | " + " | ".join(cells) + " |")
        lines.append("")
    slopes = [
        f"| {CANDIDATES[candidate].label} | {_slope(row[levels[-2]], row[levels[-1]]):.1f} |"
        for candidate, row in by_candidate.items()
        if len(levels) > 1 and not any(row[level].capped for level in levels[-2:] if level in row) and levels[-1] in row
    ]
    lines += [f"| memory, KiB per job in flight, {levels[-2]:,} to {levels[-1]:,} | |", "|---|---:|", *slopes, ""]
    lines += ["Targets: `client.map` at most 4 KiB per job in flight, no stall beyond 50 ms at 10 000,"]
    lines += ["CPU per job at 10 000 at most 1.1 times that at 100, and at most 3.2 times that of bare aiohttp."]
    lines += ["The garbage collector goes through everything that is alive, the program's modules included. A program"]
    lines += ["that calls `gc.freeze()` when it has started, as `kling bulk` does, spares it those.", ""]
    return "\n".join(lines + _ratios(by_candidate, levels))


def _ratios(by_candidate: dict[str, dict[int, Figure]], levels: list[int]) -> list[str]:
    lines = []
    for candidate, peer in ((MAP, AIOHTTP), (FAST, AIOHTTP), (MAP, HTTPX)):
        ours, theirs = by_candidate.get(candidate, {}), by_candidate.get(peer, {})
        label = f"{CANDIDATES[candidate].label} / {CANDIDATES[peer].label}"
        for level in levels:
            if level in ours and level in theirs and theirs[level].done:
                ratio = ours[level].milliseconds / theirs[level].milliseconds
                lines.append(f"- CPU of {label} at {level:,}: {ratio:.2f}")
    ours = by_candidate.get(MAP, {})
    if levels[0] in ours and levels[-1] in ours:
        ratio = ours[levels[-1]].milliseconds / ours[levels[0]].milliseconds
        lines.append(f"- CPU of {CANDIDATES[MAP].label} at {levels[-1]:,} / at {levels[0]:,}: {ratio:.2f}")
    return [*lines, ""]


def _slope(few: Figure, many: Figure) -> float:
    return (many.memory - few.memory) / (many.in_flight - few.in_flight) / 1024


def _cell(figure: Figure, text: str) -> str:
    if not figure.capped:
        return text
    count = f"{figure.done:,} of {figure.in_flight:,} done"
    return f"{text} ({count})" if figure.done else count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="up to 1 000 in flight")
    parser.add_argument("--only", nargs="+", choices=list(CANDIDATES), default=_DEFAULT, help="these clients")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        candidate, in_flight, url, name = arguments.measure
        pin_to_core(CLIENT_CORE)
        asyncio.run(Measurement(candidate, int(in_flight), PLANS[name]).run(url))
    name = "quick" if arguments.quick else "full"
    plan = PLANS[name]

    figures: list[Figure] = []
    for candidate in arguments.only:
        if not CANDIDATES[candidate].installed:
            print(f"{candidate}: not installed, left out")
            continue
        for in_flight in plan.intervals:
            with generation_server(SERVER_CORE) as url:
                figures.append(measure(candidate, in_flight, url, name))
            last = figures[-1]
            stalls = f"{last.stall * 1e3:.0f} ms, {last.own_stall * 1e3:.0f} of them its own"
            text = f"{last.milliseconds:.2f} ms, {last.memory / 2**20:.1f} MiB, stall {stalls}"
            print(f"{CANDIDATES[candidate].label}, {in_flight:,} in flight: {_cell(last, text)}", flush=True)
            if last.capped:
                break
    _write(figures, plan)


def _write(figures: list[Figure], plan: Plan) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "jobs.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    (RESULTS / "jobs.md").write_text(table(figures, plan))
    series = {
        CANDIDATES[candidate].label: {
            f.in_flight: f.milliseconds for f in figures if f.candidate == candidate and f.done
        }
        for candidate in dict.fromkeys(figure.candidate for figure in figures)
    }
    charts.lines(
        RESULTS / "jobs.png",
        series,
        title="Client CPU per whole job",
        x_label="jobs in flight",
        y_label="milliseconds of CPU per job",
    )
    print((RESULTS / "jobs.md").read_text())


if __name__ == "__main__":
    main()

"""What one status request costs: client CPU at 1, 50, 500 and 5 000 requests in flight, against other clients.

    python -m benchmarks.requests [--quick] [--tls]

Every figure comes from a fresh process that is pinned to core 0 and keeps so many requests of 213 bytes of JSON in
flight over at most 100 kept connections. The server has core 1 for itself. CPU is user + system time of the client
process per finished request, after a warm-up that opens the connections. A client that is not through after ten
seconds of CPU is stopped, and reported by how many requests it finished. The clients are measured in turn.

Writes `benchmarks/results/requests.{md,png,json}`, with ``--tls`` `requests-tls.*`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks import charts
from benchmarks.clients import AIOHTTP, CLIENTS, CONNECTIONS, ENGINE, FAST, STOCK, Fetch
from benchmarks.job_server import STATUS_BYTES, job_server, make_certificate, pin_to_core
from benchmarks.process import cpu_seconds

CLIENT_CORE, SERVER_CORE = 0, 1
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        requests: How many requests are sent, by how many are in flight.
        cap: Seconds of CPU after which a client is stopped.
        repeats: Processes per figure, of which the median counts. Clients that no target speaks of are measured once.
    """

    requests: dict[int, int]
    cap: int
    repeats: int


FULL = Plan({1: 2_000, 50: 5_000, 500: 5_000, 5_000: 10_000}, cap=10, repeats=3)
QUICK = Plan({1: 500, 50: 2_000, 500: 2_000, 5_000: 10_000}, cap=5, repeats=1)


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        client: Key in `CLIENTS`.
        in_flight: Requests that were kept in flight.
        done: Requests that were finished.
        cpu: Seconds of user + system time that they took together.
        capped: Whether the CPU time ran out.
    """

    client: str
    in_flight: int
    done: int
    cpu: float
    capped: bool

    @property
    def microseconds(self) -> float:
        """CPU per finished request, infinite if there was none."""
        return 1e6 * self.cpu / self.done if self.done else float("inf")


class Measurement:
    """Measures one client in this process, and prints the figure in any state of the event loop."""

    def __init__(self, client: str, in_flight: int, requests: int, cap: int) -> None:
        self._client = client
        self._in_flight = in_flight
        self._left = requests
        self._cap = cap
        self._done = 0
        self._cpu = 0.0

    async def run(self, url: str) -> None:
        """Warm up, measure, report, and end the process."""
        async with CLIENTS[self._client].connect(url) as fetch:
            await asyncio.gather(*[fetch() for _ in range(min(self._in_flight, CONNECTIONS))])
            signal.signal(signal.SIGPROF, self._out_of_time)
            signal.setitimer(signal.ITIMER_PROF, self._cap)
            self._cpu = cpu_seconds()
            await asyncio.gather(*[self._keep_asking(fetch) for _ in range(self._in_flight)])
            self._report(capped=False)

    async def _keep_asking(self, fetch: Fetch) -> None:
        while self._left > 0:
            self._left -= 1
            body = await fetch()
            assert len(body) == STATUS_BYTES
            self._done += 1

    def _out_of_time(self, _signal: int, _frame: FrameType | None) -> None:
        self._report(capped=True)

    def _report(self, *, capped: bool) -> NoReturn:
        cpu = cpu_seconds() - self._cpu
        figure = Figure(self._client, self._in_flight, self._done, cpu, capped)
        print(json.dumps(asdict(figure)), flush=True)
        os._exit(0)  # closing 5 000 requests in an orderly way is not what is measured


def measure(client: str, in_flight: int, plan: Plan, url: str) -> Figure:
    """Measure a client in a fresh process."""
    arguments = [client, str(in_flight), str(plan.requests[in_flight]), str(plan.cap), url]
    command = [sys.executable, "-m", "benchmarks.requests", "--measure", *arguments]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603  # ourselves
    return Figure(**json.loads(output))


def measure_all(clients: Sequence[str], plan: Plan, url: str) -> list[Figure]:
    """Measure clients in turn, so that what else the machine does falls on all. Of each, the median run counts."""
    runs: dict[tuple[str, int], list[Figure]] = {}
    for repeat in range(plan.repeats):
        for in_flight in plan.requests:
            for client in clients:
                if not repeat or CLIENTS[client].compared:
                    run = measure(client, in_flight, plan, url)
                    runs.setdefault((client, in_flight), []).append(run)
                    print(f"{CLIENTS[client].label}, {in_flight:,} in flight: {_cell(run)}", flush=True)
    medians = [sorted(each, key=lambda figure: figure.microseconds)[len(each) // 2] for each in runs.values()]
    return sorted(medians, key=lambda figure: (clients.index(figure.client), figure.in_flight))


def table(figures: Iterable[Figure], plan: Plan, connections: str) -> str:
    """Lay the figures out as Markdown: CPU per request, and the ratios that the targets speak of."""
    by_client: dict[str, dict[int, Figure]] = {}
    for figure in figures:
        by_client.setdefault(figure.client, {})[figure.in_flight] = figure
    levels = list(plan.requests)
    lines = [
        "# CPU per status request",
        "",
        (
            f"Microseconds of client CPU (user + system) per request of {STATUS_BYTES} bytes of JSON, at most"
            f" {CONNECTIONS} kept {connections}. Median of {plan.repeats} fresh process(es) (httpx: 1), in turn,"
            f" pinned to one core. Python {platform.python_version()}, {os.cpu_count()} cores."
            " Made by `python -m benchmarks.requests`."
        ),
        "",
        "| client | " + " | ".join(f"{level:,} in flight" for level in levels) + " |",
        "|---|" + "---:|" * len(levels),
    ]
    for client, row in by_client.items():
        cells = [_cell(row[level]) for level in levels]
        lines.append(f"| {CLIENTS[client].label} | " + " | ".join(cells) + " |")
    lines += ["", "| ratio | " + " | ".join(f"{level:,}" for level in levels) + " |", "|---|" + "---:|" * len(levels)]
    for peer in (STOCK, AIOHTTP):
        for ours in (ENGINE, FAST):
            if ours in by_client and peer in by_client:
                ratios = [_ratio(by_client[ours][level], by_client[peer][level]) for level in levels]
                lines.append(f"| {CLIENTS[ours].label} / {CLIENTS[peer].label} | " + " | ".join(ratios) + " |")
    lines += [
        "",
        "Targets at 50 and 500 in flight: against stock httpx at most 0.15 and 0.05, against aiohttp at most 2.2,",
    ]
    lines += ["and with httptools at most 1.0.", ""]
    return "\n".join(lines)


def _cell(figure: Figure) -> str:
    if not figure.capped:
        return f"{figure.microseconds:,.0f}"
    count = f"{figure.done:,} done in {figure.cpu:.0f} s of CPU"
    return f"{figure.microseconds:,.0f} ({count})" if figure.done else count


def _ratio(ours: Figure, peer: Figure) -> str:
    return f"{ours.microseconds / peer.microseconds:.3f}" if peer.done else f"{peer.done} done"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer requests, one process each, a cap of 5 s of CPU")
    parser.add_argument("--tls", action="store_true", help="over TLS (needs the program openssl)")
    parser.add_argument("--only", nargs="+", choices=list(CLIENTS), default=list(CLIENTS), help="these clients")
    parser.add_argument("--measure", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        client, in_flight, requests, cap, url = arguments.measure
        pin_to_core(CLIENT_CORE)
        asyncio.run(Measurement(client, int(in_flight), int(requests), int(cap)).run(url))

    plan = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        certificate = make_certificate(Path(folder)) if arguments.tls else None
        if certificate is not None:
            os.environ["SSL_CERT_FILE"] = str(certificate)  # every client heeds it
        url = stack.enter_context(job_server(SERVER_CORE, certificate))
        for client in arguments.only:
            if not CLIENTS[client].installed:
                print(f"{client}: not installed, left out")
        figures = measure_all([client for client in arguments.only if CLIENTS[client].installed], plan, url)
    RESULTS.mkdir(exist_ok=True)
    place = RESULTS / ("requests-tls" if arguments.tls else "requests")
    place.with_suffix(".json").write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")
    place.with_suffix(".md").write_text(table(figures, plan, "TLS connections" if arguments.tls else "connections"))
    series = {
        CLIENTS[client].label: {f.in_flight: f.microseconds for f in figures if f.client == client and f.done}
        for client in dict.fromkeys(figure.client for figure in figures)
    }
    charts.lines(
        place.with_suffix(".png"),
        series,
        title="Client CPU per status request",
        x_label="requests in flight",
        y_label="microseconds of CPU per request",
    )
    print(place.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()

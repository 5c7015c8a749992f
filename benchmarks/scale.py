"""Whether a hundred thousand jobs in one process cost as little each as a thousand.

    python -m benchmarks.scale                          # up to 10 000 in flight: five minutes
    python -m benchmarks.scale --only map --jobs 1000 100000     # one client: eight minutes
    python -m benchmarks.scale --jobs 1000 100000                # all three: half an hour

All jobs are in flight at once with one `client.map`, each submitted once and polled about twice, far apart. The rest is
as in `benchmarks.jobs`: a fresh process per figure, pinned to a core, without `gc.freeze()`.

Figures of an earlier run stay where this one makes none. Writes `benchmarks/results/scale.{md,json}`.
"""

import argparse
import json
import os
import platform
from dataclasses import asdict

from benchmarks import jobs
from benchmarks.candidates import CANDIDATES, FAST, LEDGER, MAP
from benchmarks.generation_server import generation_server

_CLIENTS = (MAP, FAST, LEDGER)
_LEVELS = tuple(jobs.SCALE.intervals)
_FILE = jobs.RESULTS / "scale.json"

Figures = dict[tuple[str, int], jobs.Figure]


def table(figures: Figures) -> str:
    """Lay the figures out as Markdown, beside the targets."""
    lines = [
        "# Many jobs in one process",
        "",
        (
            f"Jobs that are all in flight at once, each submitted once and polled about {jobs.SCALE.polls} times."
            f" Python {platform.python_version()}, {os.cpu_count()} cores. Made by `python -m benchmarks.scale`."
            " Targets: no error, at most 1.5 KiB a job, no stall beyond 50 ms, CPU a job at 100 000 at most 1.15 times"
            " that at 1 000, and a ledger adds at most 30 %."
        ),
        "",
        "| client | in flight | done | CPU, ms a job | against 1 000 | KiB a job | stall, ms | without GC |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (candidate, in_flight), figure in sorted(
        figures.items(), key=lambda each: (_CLIENTS.index(each[0][0]), each[0][1])
    ):
        first = figures.get((candidate, _LEVELS[0]))
        below = [figures[candidate, level] for level in _LEVELS if level < in_flight and (candidate, level) in figures]
        cells = [
            CANDIDATES[candidate].label,
            f"{in_flight:,}",
            f"{figure.done:,}",
            f"{figure.milliseconds:.2f}",
            f"{figure.milliseconds / first.milliseconds:.2f}" if first else "",
            f"{_slope(below[-1], figure):.2f}" if below else "",
            f"{figure.stall * 1e3:,.0f}",
            f"{figure.own_stall * 1e3:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "KiB a job: what the jobs add that are more than in the row above.", ""]
    for level in _LEVELS:
        plain, kept = figures.get((MAP, level)), figures.get((LEDGER, level))
        if plain and kept:
            added = kept.milliseconds / plain.milliseconds - 1
            lines.append(f"- The ledger adds at {level:,} in flight: {added:.0%} of the CPU")
    return "\n".join([*lines, ""])


def _slope(few: jobs.Figure, many: jobs.Figure) -> float:
    return (many.memory - few.memory) / (many.in_flight - few.in_flight) / 1024


def _known() -> Figures:
    """The figures of earlier runs."""
    stored = json.loads(_FILE.read_text()) if _FILE.exists() else []
    return {(each["candidate"], each["in_flight"]): jobs.Figure(**each) for each in stored}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=_CLIENTS, default=_CLIENTS, help="these clients")
    parser.add_argument("--jobs", nargs="+", type=int, choices=_LEVELS, default=_LEVELS[:2], help="so many in flight")
    arguments = parser.parse_args()
    figures = _known()
    for in_flight in arguments.jobs:
        for candidate in arguments.only:
            with generation_server(jobs.SERVER_CORE) as url:
                figures[candidate, in_flight] = jobs.measure(candidate, in_flight, url, "scale")
            _FILE.write_text(json.dumps([asdict(figure) for figure in figures.values()], indent=1) + "\n")
            (jobs.RESULTS / "scale.md").write_text(table(figures))
            print(figures[candidate, in_flight], flush=True)
    print(table(figures))


if __name__ == "__main__":
    main()

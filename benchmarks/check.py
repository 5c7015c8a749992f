"""Whether the library has become slower: a few ratios to a peer, against those that were committed. Two minutes.

    python -m benchmarks.check            # compare, and fail where a ratio is a quarter above the committed one
    python -m benchmarks.check --write    # measure, and commit what comes out: benchmarks/results/check.json

Each ratio is the median of several pairs, ours and the peer's in turn, so that a busy machine slows both. It is no test
of the suite: on a machine that is very busy, a ratio may still be wrong by a fifth.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import clients, jobs, requests, uploads
from benchmarks.candidates import AIOHTTP, CANDIDATES, FAST, MAP
from benchmarks.generation_server import generation_server
from benchmarks.job_server import job_server

COMMITTED = Path(__file__).parent / "results" / "check.json"
_TOLERANCE = 1.25
_PAIRS = 5
_IN_FLIGHT = 50
_REQUESTS = requests.Plan({_IN_FLIGHT: 2_000}, cap=30, repeats=1)
_JOBS = 100


def _of_request(client: str) -> float:
    with job_server(requests.SERVER_CORE) as url:
        return requests.measure(client, _IN_FLIGHT, _REQUESTS, url).microseconds


def _of_job(candidate: str) -> float:
    with generation_server(jobs.SERVER_CORE) as url:
        return jobs.measure(candidate, _JOBS, url, "quick").milliseconds


def _of_results(client: str) -> float:
    with uploads.serving() as url, tempfile.TemporaryDirectory() as folder:
        return uploads.fresh("--one", client, "download", url, folder)["cpu"]


def _ratio(measure: Callable[[str], float], ours: str, peer: str) -> float:
    return round(statistics.median(measure(ours) / measure(peer) for _ in range(_PAIRS)), 2)


def ratios() -> dict[str, float]:
    """Measure. What needs a package that is not installed is left out."""
    found = {}
    for ours in (clients.ENGINE, clients.FAST):
        if clients.CLIENTS[ours].installed:
            found[f"a status call, {ours} / aiohttp"] = _ratio(_of_request, ours, clients.AIOHTTP)
    for ours in (MAP, FAST):
        if CANDIDATES[ours].installed:
            found[f"a whole job, {ours} / aiohttp"] = _ratio(_of_job, ours, AIOHTTP)
    ours, _, peer = uploads.CLIENTS
    found[f"saving results, {ours} / {peer}"] = _ratio(_of_results, ours, peer)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="commit the ratios instead of comparing them")
    arguments = parser.parse_args()
    if not clients.CLIENTS[clients.AIOHTTP].installed:
        sys.exit("aiohttp is not installed: pip install -e '.[bench,fast]'")
    measured = ratios()
    if arguments.write:
        COMMITTED.write_text(json.dumps(measured, indent=1) + "\n")
    committed: dict[str, float] = json.loads(COMMITTED.read_text()) if COMMITTED.exists() else {}
    slower = [name for name, ratio in measured.items() if ratio > committed.get(name, ratio) * _TOLERANCE]
    for name, ratio in measured.items():
        print(f"{name}: {ratio} (committed: {committed.get(name, 'none')})" + ("  SLOWER" if name in slower else ""))
    if slower:
        sys.exit(f"{len(slower)} of {len(measured)} ratios are more than {_TOLERANCE - 1:.0%} above the committed ones")


if __name__ == "__main__":
    main()

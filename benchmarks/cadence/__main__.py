"""``python -m benchmarks.cadence [--quick]``: measures, writes tables and charts, fails if a target is missed."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

from benchmarks.cadence import charts, study
from benchmarks.cadence.durations import DISTRIBUTIONS, Nature
from benchmarks.cadence.report import Results, markdown, targets
from kling_async._scheduling.schedules import DurationPrior

K = TypeVar("K")
V = TypeVar("V")

RESULTS = Path(__file__).parent.parent / "results"


def measure(size: study.Size) -> Results:
    with ProcessPoolExecutor() as pool:
        natures = {
            (name, share): Nature(distribution, share)
            for share in (0.0, study.CONGESTED)
            for name, distribution in DISTRIBUTIONS.items()
        }
        learned = {
            (*key, prior): pool.submit(
                study.learned, nature, DurationPrior(nature.prior.median * factor, nature.prior.sigma), size
            )
            for key, nature in natures.items()
            for prior, factor in study.PRIORS.items()
        }
        fixed = {key: pool.submit(study.fixed, key[0], nature, size) for key, nature in natures.items()}
        kept = {number: pool.submit(study.kept_in_flight, number, size) for number in study.IN_FLIGHT}
        bursts = {number: pool.submit(study.burst, number, size) for number in study.BURSTS}
        return Results(_done(fixed), _done(learned), _done(kept), _done(bursts), study.arithmetic())


def _done(futures: dict[K, Future[V]]) -> dict[K, V]:
    return {key: future.result() for key, future in futures.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cadence", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: half a minute, rougher figures")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory for the tables and charts")
    parser.add_argument("--no-charts", action="store_true", help="tables only; charts need matplotlib")
    options = parser.parse_args()
    results = measure(study.QUICK if options.quick else study.FULL)
    text = markdown(results, "python -m benchmarks.cadence" + (" --quick" if options.quick else ""))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "cadence.md").write_text(text, encoding="utf-8")
    print(text)
    if not options.no_charts:
        charts.draw(results, options.out)
    return 0 if all(target.holds for target in targets(results)) else 1


if __name__ == "__main__":
    sys.exit(main())

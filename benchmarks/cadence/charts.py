"""The results as charts."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from benchmarks.cadence.durations import CLIPS, DISTRIBUTIONS
from benchmarks.cadence.report import Results
from benchmarks.cadence.study import CHECKPOINTS, LAMBDA, PRIORS

_FIXED = "#8a8f98"
_OURS = "#1565c0"
_BOUND = "#2e7d32"
_SOURCE = "#c62828"


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw all charts as PNG files, and return where they are."""
    # Looked up by name: only this module needs matplotlib, and the library's type check shall not.
    pyplot = importlib.import_module("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    pyplot.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    return [
        _save(pyplot, figure, directory / name)
        for figure, name in (
            (_schedules(pyplot, results), "cadence-schedules.png"),
            (_learning(pyplot, results), "cadence-learning.png"),
            (_rate_limit(pyplot, results), "cadence-rate-limit.png"),
        )
    ]


def _save(pyplot: Any, figure: Any, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)
    return path


def _schedules(pyplot: Any, results: Results) -> Any:
    figure, panels = pyplot.subplots(1, len(DISTRIBUTIONS), figsize=(12, 3.4))
    for panel, distribution in zip(panels, DISTRIBUTIONS, strict=True):
        for name, cost in results.fixed[distribution, 0.0].items():
            colour = {"source documents": _SOURCE, "optimum": _BOUND}.get(name, _FIXED)
            panel.plot(cost.polls, cost.lag, "*" if name == "optimum" else "o", color=colour, markersize=7)
            below = {"xytext": (0, -13), "ha": "center"} if name == "optimum" else {"xytext": (6, 2)}
            panel.annotate(name, (cost.polls, cost.lag), textcoords="offset points", color=colour, fontsize=7, **below)
        ours = [results.learned[distribution, 0.0, "right"][done] for done in CHECKPOINTS]
        panel.plot([c.polls for c in ours], [c.lag for c in ours], ".-", color=_OURS, linewidth=1)
        panel.set(xscale="log", yscale="log", title=distribution, xlabel="polls per job")
        panel.margins(0.3)
    panels[0].set_ylabel("mean lag, s")
    panels[0].annotate(
        f"Learned, 0 to {CHECKPOINTS[-1]} completions", (0.03, 0.05), xycoords="axes fraction", color=_OURS, fontsize=7
    )
    return figure


def _learning(pyplot: Any, results: Results) -> Any:
    figure, panels = pyplot.subplots(1, len(DISTRIBUTIONS), figsize=(12, 3.4))
    places = range(len(CHECKPOINTS))
    for panel, distribution in zip(panels, DISTRIBUTIONS, strict=True):
        for (prior, factor), style in zip(PRIORS.items(), ("-", "--", ":"), strict=True):
            costs = [results.learned[distribution, 0.0, prior][done].total for done in CHECKPOINTS]
            panel.plot(places, costs, style, color=_OURS, marker=".", label=f"documents say {factor:g} x the truth")
        fixed = results.fixed[distribution, 0.0]
        panel.axhline(fixed["source documents"].total, color=_SOURCE, linewidth=1, label="source documents' schedule")
        panel.axhline(fixed["optimum"].total, color=_BOUND, linewidth=1, label="optimum")
        panel.set(title=distribution, xlabel="completions", ylim=(0, 1.08 * fixed["source documents"].total))
        panel.set_xticks(places, [str(done) for done in CHECKPOINTS])
    panels[0].set_ylabel(f"lag + {LAMBDA:g} s per poll, s")
    panels[0].legend(fontsize=7, frameon=False, loc="lower left")
    return figure


def _rate_limit(pyplot: Any, results: Results) -> Any:
    figure, panel = pyplot.subplots(figsize=(6.4, 3.8))
    numbers = list(results.kept)
    for name, colour in (("round_robin", _SOURCE), ("learned", _OURS), ("clairvoyant", _BOUND)):
        costs = [getattr(row, name) for row in results.kept.values()]
        panel.plot(numbers, [cost.lag for cost in costs], "o-", color=colour, label=name.replace("_", " "))
        panel.plot(numbers, [cost.late for cost in costs], ":", color=colour, linewidth=1)
    panel.axvline(CLIPS["5 s clip"].median, color=_FIXED, linewidth=1, linestyle="--")
    panel.annotate(
        "one end a second", (CLIPS["5 s clip"].median, 0), (4, 170), textcoords="offset points", color=_FIXED
    )
    panel.set(
        xlabel="5 s clips kept in flight",
        ylabel="lag, s (dotted: 95th percentile)",
        title="60 polls a minute for all of them",
    )
    panel.legend(frameon=False)
    return figure

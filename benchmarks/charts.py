"""Charts of what the benchmarks measured."""

import importlib
from collections.abc import Mapping
from pathlib import Path


def lines(
    path: Path,
    series: Mapping[str, Mapping[int, float]],
    *,
    title: str,
    x_label: str,
    y_label: str,
) -> None:
    """Draw one line per series over logarithmic axes, each labelled at its end, and write it as PNG.

    Args:
        path: Where the chart goes.
        series: Name of a line, and its points as y by x.
        title: What the chart shows.
        x_label: What x is, with its unit.
        y_label: What y is, with its unit.
    """
    plt = importlib.import_module("matplotlib.pyplot")  # slow to import, and only the process that draws needs it
    figure, axes = plt.subplots(figsize=(8, 5), dpi=150, layout="constrained")
    for name, points in series.items():
        axes.plot(list(points), list(points.values()), marker="o", label=name)
    axes.set(xscale="log", yscale="log", title=title, xlabel=x_label, ylabel=y_label)
    ticks = sorted({x for points in series.values() for x in points})
    axes.set_xticks(ticks, labels=[f"{x:,}" for x in ticks])
    axes.xaxis.set_minor_locator(plt.NullLocator())
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)
    plt.close(figure)

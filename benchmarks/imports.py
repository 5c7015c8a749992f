"""What importing costs: CPU and modules, against the four dependencies and the clients of other providers.

    python -m benchmarks.imports [--quick]

Every figure comes from fresh processes with compiled bytecode, one of each row in turn: user + system time of the whole
process, less that of one that does nothing. The median counts. pydantic and anyio load next to nothing themselves until
they are used, so the dependencies are measured both ways: imported, and with what the first model, client, lock and
retry load. Peers that are not installed are left out.

Writes `benchmarks/results/imports.{md,json}`.
"""

import argparse
import ast
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
NOTHING, IMPORTED, USED = "nothing", "the four dependencies, imported", "the four dependencies, used"
IMPORT_ALL = "import anyio, httpx, pydantic, stamina"
USE_ALL = (
    f"{IMPORT_ALL}; anyio.Lock; httpx.AsyncHTTPTransport(verify=False); "
    "pydantic.create_model('Model', prompt=(str, ...)); stamina.AsyncRetryingCaller()"
)
PROGRAM = "import typer; from kling_async._cli import main; main(['{}'])"
ROWS: Mapping[str, str] = {
    NOTHING: "pass",
    IMPORTED: IMPORT_ALL,
    USED: USE_ALL,
    "the four dependencies, used, and asyncio, which any event loop loads": f"{USE_ALL}; import asyncio",
    "`import kling_async`": "import kling_async",
    "`from kling_async import KlingError, Result`": "from kling_async import KlingError, Result",
    "`from kling_async import runblob`": "from kling_async import runblob",
    "`from kling_async import Client, runblob`": "from kling_async import Client, runblob",
    "`from kling_async import *`": "from kling_async import *",
    "`kling --version`": PROGRAM.format("--version"),
    "`kling --help`": PROGRAM.format("--help"),
    "`import typer`": "import typer",
    "`import fal_client`": "import fal_client",
    "`import replicate`": "import replicate",
    "`import runwayml`": "import runwayml",
}


@dataclass(frozen=True)
class Figure:
    """One measurement.

    Attributes:
        row: Key in `ROWS`.
        modules: How many modules a process has loaded that has run it, beyond those of one that does nothing.
        cpu: Seconds of CPU, the median of its processes, less those of one that does nothing.
    """

    row: str
    modules: int
    cpu: float


def run(code: str, bytecode: str) -> tuple[int, float]:
    """The number of modules that a fresh process has after `code`, and the seconds of CPU that it used."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(  # noqa: S603  # our own rows
        [sys.executable, "-c", f"{code}\nimport sys; print(len(sys.modules), file=sys.stderr)"],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": bytecode},
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise RuntimeError(f"{code!r} failed:\n{process.stderr}")
    return int(process.stderr.split()[-1]), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def installed(code: str) -> bool:
    """Whether the packages are there that a row imports."""
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import)]
    return all(importlib.util.find_spec(alias.name) for node in imports for alias in node.names)


def measure(repeats: int) -> list[Figure]:
    """Run every row so many times, in turn."""
    rows = {name: code for name, code in ROWS.items() if installed(code)}
    modules: dict[str, int] = {}
    spent: dict[str, list[float]] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as bytecode:
        for name, code in rows.items():
            modules[name], _ = run(code, bytecode)  # compiles
        for _ in range(repeats):
            for name, code in rows.items():
                spent[name].append(run(code, bytecode)[1])
    bare = statistics.median(spent[NOTHING])
    return [
        Figure(name, modules[name] - modules[NOTHING], statistics.median(spent[name]) - bare)
        for name in rows
        if name != NOTHING
    ]


def table(figures: Sequence[Figure], repeats: int) -> str:
    """The figures as Markdown."""
    cpu = {figure.row: figure.cpu for figure in figures}
    how = f"median of {repeats} fresh processes per figure, bytecode compiled. Python {platform.python_version()}"
    lines = [
        "# What importing costs",
        "",
        f"Milliseconds of CPU (user + system) and modules, beyond those of a process that does nothing; {how}.",
        "Made by `python -m benchmarks.imports`.",
        "",
        "| | CPU | modules | / dependencies imported | / dependencies used |",
        "|---|---:|---:|---:|---:|",
    ]
    for figure in figures:
        ratios = f"{figure.cpu / cpu[IMPORTED]:.2f} | {figure.cpu / cpu[USED]:.2f}"
        lines.append(f"| {figure.row} | {1000 * figure.cpu:.0f} | {figure.modules} | {ratios} |")
    lines += ["", "Target: `import kling_async` at most 1.15 of the four dependencies, imported.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="three processes per figure instead of fifteen; writes nothing"
    )
    quick = parser.parse_args().quick
    repeats = 3 if quick else 15
    figures = measure(repeats)
    print(table(figures, repeats))
    if not quick:
        (RESULTS / "imports.md").write_text(table(figures, repeats))
        (RESULTS / "imports.json").write_text(json.dumps([asdict(figure) for figure in figures], indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The oldest versions that pyproject.toml allows, as constraints for pip: every ``>=`` as ``==``.

::

    python tests/support/lowest_versions.py > lowest.txt
    pip install -c lowest.txt '.[all]'
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

__all__ = ["PYPROJECT", "TOOLS", "lowest_versions"]

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
TOOLS = frozenset({"dev", "bench", "docs"})
"""The extras of those who work on the library. No user has them, and the newest of each is what is used."""

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_BOUND = re.compile(r">=\s*([0-9][0-9A-Za-z.]*)")


def lowest_versions(text: str) -> list[str]:
    """One constraint for each dependency, by name: of the core and of every extra that is not in `TOOLS`.

    Raises:
        ValueError: A dependency has no lower bound, or two that differ.
    """
    project = tomllib.loads(text)["project"]
    extras = project.get("optional-dependencies", {})
    wanted = [*project["dependencies"], *(line for name in extras if name not in TOOLS for line in extras[name])]
    found: dict[str, str] = {}
    for line in wanted:
        requirement = line.partition(";")[0]
        name = _NAME.match(requirement)
        if name is None:
            raise ValueError(f"{line!r} is no requirement")
        if name[0] == project["name"]:
            continue
        bound = _BOUND.search(requirement)
        if bound is None:
            raise ValueError(f"{line!r} has no lower bound (>=)")
        if found.setdefault(name[0], bound[1]) != bound[1]:
            raise ValueError(f"{name[0]} has two lower bounds: {found[name[0]]} and {bound[1]}")
    return [f"{name}=={version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    print("\n".join(lowest_versions(PYPROJECT.read_text(encoding="utf-8"))))  # noqa: T201  # its output

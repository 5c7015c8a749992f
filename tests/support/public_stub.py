"""Writes ``kling_async/__init__.pyi``, what type checkers read of the package, from the one list of public names.

Run ``python tests/support/public_stub.py`` after a change of that list or of the registry of providers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kling_async
from kling_async.providers import BUILT_IN

__all__ = ["LAZY", "PATH", "stub"]

LAZY: Any = kling_async  # its private names are not in the stub
PATH = Path(kling_async.__file__).with_suffix(".pyi")


def stub() -> str:
    """The text of the stub."""
    modules = {f"kling_async.{home}": sorted(names) for home, names in LAZY._PUBLIC.items()}
    modules |= {f"kling_async.providers.{module}": [kind] for module, kind in BUILT_IN.items()}
    modules["kling_async.providers"] = sorted(BUILT_IN)
    lines = ["# Made by tests/support/public_stub.py from the list in __init__.py: do not edit.", ""]
    lines += [f"from kling_async import {module} as {module}" for module in LAZY._MODULES]
    for module in sorted(modules):
        lines += [f"from {module} import (", *(f"    {name}," for name in modules[module]), ")"]
    lines += ["", "__version__: str", "__all__ = [", *(f'    "{name}",' for name in kling_async.__all__), "]", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PATH.write_text(stub(), encoding="utf-8")

"""Where the program keeps what it remembers, and where it reads its settings: the XDG base directories.

They are two lines each, so no package is needed for them. macOS has them, too, as most programs for its terminal do.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

__all__ = ["config_file", "history_file", "program", "state_file"]


def state_file(*names: str) -> Path:
    """A file in the directory of this user for what programs remember."""
    root = os.environ.get("XDG_STATE_HOME") or os.environ.get("LOCALAPPDATA") or Path.home() / ".local" / "state"
    return Path(root).expanduser().joinpath("kling", *names)


def config_file() -> Path:
    """The file of this user's settings."""
    root = os.environ.get("XDG_CONFIG_HOME") or os.environ.get("APPDATA") or Path.home() / ".config"
    return Path(root).expanduser() / "kling" / "config.toml"


def history_file() -> Path:
    """The ledger of the commands that are given none. What is made on a sandbox has one of its own."""
    # A plain http address is acceptable only if it leads to this machine. Where none is set, no provider is loaded.
    if not any(value.startswith("http:") for value in os.environ.values()):
        return state_file("history.db")
    from kling_async.providers import ALL_PROVIDERS  # noqa: PLC0415  # rarely needed

    used = [kind for kind in ALL_PROVIDERS if kind.identity().found_in(os.environ)]
    rehearsal = bool(used) and all(os.environ.get(kind.env_vars[1], "").startswith("http:") for kind in used)
    return state_file("sandbox.db" if rehearsal else "history.db")


def program() -> str:
    """How to start this program again: ``kling`` where a shell finds it, else as it was started."""
    started = Path(sys.argv[0])
    if started.stem == "__main__":
        return shlex.join([_near(Path(sys.executable)), "-m", "kling_async"])
    if started.stem != "kling":  # another program called it
        return "kling"
    found = shutil.which("kling")
    same = found is not None and Path(found).absolute() == started.absolute()
    return "kling" if same else shlex.quote(_near(started))


def _near(path: Path) -> str:
    """A path, seen from the working directory where it lies in it."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)

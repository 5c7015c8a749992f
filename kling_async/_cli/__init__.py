"""The command line program, ``kling``: every use of the library that needs no code.

Results go to standard output, talk goes to standard error, so that the program can stand in a pipe.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kling_async._cli.interrupts import exit_on_sigint

__all__ = ["main"]

_EXTRA = frozenset({"typer", "rich"})
_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: What follows the program's name. If None, those of this process.

    Returns:
        The exit code. ``kling --help`` lists them.
    """
    try:
        with exit_on_sigint():
            from kling_async._cli.app import run  # noqa: PLC0415  # an optional extra, missed with a sentence

            return run(arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(f"kling needs {error.name}, which is not installed: pip install 'kling-async[cli]'\n")
        return _USAGE

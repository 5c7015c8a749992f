"""Which ledger a command works on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from kling_async import ConfigurationError, SqliteLedger
from kling_async._cli.errors import CommandError
from kling_async._cli.output.advice import advise_with

__all__ = ["HERE", "LedgerFile", "existing", "expanded", "work_with"]

_VARIABLE = "KLING_LEDGER"
HERE = Path("kling.db")
"""The ledger that is taken where none is named."""


def expanded(path: Path | None) -> Path | None:
    """The path with the home directory in place of ``~``, where the shell does not replace it.

    Raises:
        BadParameter: It is an address, such as that of a database server.
    """
    if path is None:
        return None
    try:
        SqliteLedger(path)  # refuses what is no file name. It opens nothing
    except ConfigurationError as error:
        raise typer.BadParameter(error.message) from None
    return path.expanduser()


LedgerFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        metavar="FILE",
        callback=expanded,
        envvar=_VARIABLE,
        help="Durable record of submissions and jobs; a crash loses none.",
    ),
]


def work_with(ledger: Path | None) -> None:
    """Have the commands that are advised from now on name that ledger, where they would not take it by themselves."""
    advise_with(ledger, os.environ.get(_VARIABLE) or str(HERE))


def existing(given: Path | None) -> Path:
    """The ledger that is named by the option or by ``KLING_LEDGER``, or ``kling.db`` in the working directory.

    Raises:
        CommandError: None is named, and there is none here, or the one that is named is not there.
    """
    if given is None and not HERE.exists():
        raise CommandError(
            f"which ledger? Name it with --ledger FILE or export {_VARIABLE}=FILE; without, {HERE} in the working "
            "directory is taken, and there is none"
        )
    chosen = given or HERE
    if not chosen.exists():
        raise CommandError(f"there is no ledger {chosen}; it is made by: kling generate --ledger {chosen} ...")
    work_with(chosen)
    return chosen

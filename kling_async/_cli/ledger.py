"""Which ledger a command works on: the one that is named, or else the user's history."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias

import anyio
import typer

from kling_async import ConfigurationError, JobRef, SqliteLedger, inspect_ledger
from kling_async._cli.errors import CommandError
from kling_async._cli.output.advice import advise_with
from kling_async._cli.output.reports import Report
from kling_async._cli.places import history_file

__all__ = ["HERE", "LedgerFile", "NoLedger", "existing", "expanded", "kept", "key_of", "usual", "work_with"]

_VARIABLE = "KLING_LEDGER"
HERE = Path("kling.db")
"""The ledger that is taken where none is named, if there is one."""


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
        show_default="kling.db if there is one, or your history",
    ),
]
NoLedger: TypeAlias = Annotated[
    bool, typer.Option("--no-ledger", help="Keep no record. If the program is killed, its job is lost.")
]


def usual() -> Path:
    """The ledger of the commands that are given none: ``kling.db`` in the working directory, or the history."""
    return HERE if HERE.exists() else history_file()


def kept(given: Path | None, report: Report, *, wanted: bool = True) -> Path | None:
    """The ledger that a purchase is recorded in.

    Args:
        given: The one that is named. It is used, or the command fails.
        report: Is told of a new history, or why there is none.
        wanted: Whether a record is wanted (no ``--no-ledger``).

    Returns:
        The file. None if no record is wanted, or the history cannot be used now.

    Raises:
        CommandError: A ledger is named, and none is wanted.
    """
    if not wanted:
        if given is not None and not os.environ.get(_VARIABLE):
            raise CommandError("--ledger names a ledger, and --no-ledger wants none: leave one of them out")
        return None
    if given is not None or HERE.exists():
        return given or HERE
    path = history_file()
    new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(None, "Permission denied")
    except OSError as error:
        report.say(
            f"this job is in no history: {path.parent} cannot be written ({error.strerror}); name a ledger with "
            "--ledger FILE, or say --no-ledger"
        )
        return None
    if new:
        report.say(f"your history is kept in {path}: kling jobs lists it, and --no-ledger keeps none")
    return path


def key_of(ref: JobRef, given: Path | None) -> tuple[Path, str] | None:
    """The ledger that has a job which is not finished, or whose files are not saved, and its key there.

    Args:
        ref: The job.
        given: The ledger that is named. If None, the usual one.

    Returns:
        None if the ledger is not there, or does not have the job.
    """
    path = given or usual()
    if not path.exists():
        return None
    try:
        contents = anyio.run(partial(inspect_ledger, path, endpoint=ref.endpoint, unfinished=True, unsaved=True))
    except ConfigurationError:
        return None
    return next(((path, found.key) for found in contents.submissions if found.ref == ref), None)


def work_with(ledger: Path | None) -> None:
    """Have the commands that are advised from now on name that ledger, where they would not take it by themselves."""
    advise_with(ledger, os.environ.get(_VARIABLE) or str(usual()))


def existing(given: Path | None) -> Path:
    """The ledger that is named by the option or by ``KLING_LEDGER``, or the usual one.

    Raises:
        CommandError: It is not there.
    """
    chosen = given or usual()
    if not chosen.exists():
        if given is None:
            raise CommandError(
                f"there is no history yet ({chosen}): kling generate begins it; name another ledger with --ledger FILE "
                f"or export {_VARIABLE}=FILE"
            )
        raise CommandError(f"there is no ledger {chosen}; it is made by: kling generate --ledger {chosen} ...")
    work_with(chosen)
    return chosen

"""Which ledger a command works on: the one that is named, or else the user's history."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import anyio
import typer

import kling_async  # what is named by it is loaded where it is used
from kling_async import ConfigurationError, JobRef, inspect_ledger
from kling_async._cli.errors import CommandError
from kling_async._cli.output.reports import Report
from kling_async._cli.places import history_file
from kling_async._rows.advice import advise_with

__all__ = ["HERE", "LedgerFile", "NoLedger", "existing", "kept", "key_of", "place_of", "usual", "work_with"]

_VARIABLE = "KLING_LEDGER"
HERE = Path("kling.db")
"""The ledger that is taken where none is named, if there is one."""


class DatabaseAddress(os.PathLike[str]):
    """The address of a ledger in a database, in place of the path of one in a file. Its text has no password.

    Args:
        dsn: The address.
        shown: The same without the password.
    """

    def __init__(self, dsn: str, shown: str) -> None:
        self._dsn = dsn
        self._shown = shown

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"<DatabaseAddress {self._shown}>"

    def __fspath__(self) -> str:
        """The whole address, for `open_ledger` and `inspect_ledger`."""
        return self._dsn

    @staticmethod
    def exists() -> bool:
        """Whether there is such a ledger. It is made by the first use."""
        return True

    is_file = exists

    def resolve(self) -> DatabaseAddress:
        """The address itself."""
        return self


def place_of(text: str) -> Path | DatabaseAddress:
    """The file or the database that ``--ledger`` names, with the home directory in place of ``~``.

    Raises:
        BadParameter: It is another address, or one that cannot be read.
    """
    try:
        made = kling_async.open_ledger(text)  # it opens nothing
    except ConfigurationError as error:
        raise typer.BadParameter(error.message) from None
    if isinstance(made, kling_async.PostgresLedger):
        return DatabaseAddress(text, made.address)
    return Path(text).expanduser()


LedgerFile: TypeAlias = Annotated[
    Any,  # a path, or a `DatabaseAddress`
    typer.Option(
        "--ledger",
        metavar="FILE",
        parser=place_of,
        envvar=_VARIABLE,
        help="Durable record of submissions and jobs; a crash loses none. A file, or postgresql://...",
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
    named = os.environ.get(_VARIABLE)
    advise_with(ledger, str(place_of(named) if named else usual()))


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

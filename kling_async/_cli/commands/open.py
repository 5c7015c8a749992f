"""``kling open``: show what a job made."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer

from kling_async import JobRef, Submission, inspect_ledger
from kling_async._cli.commands.jobs import GIVEN_UP, standing
from kling_async._cli.errors import NOT_FOUND, UNSAVED, CommandError
from kling_async._cli.ledger import LedgerFile, existing
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._exchange.urls import is_url  # decides as the library does whether a text is a URL or a path

__all__ = ["open"]

_PAGE = "report.html"


def open(  # noqa: A001  # it is the command's name
    what: Annotated[str, typer.Argument(metavar="REF|KEY|DIR", help="A job, its key, or a directory of kling bulk.")],
    *,
    ledger: LedgerFile = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the file or the address, and open nothing.")
    ] = False,
) -> None:
    """Open the saved file of a job, or its address.

    Of a directory that kling bulk wrote, the page is opened. A job is looked up in --ledger, KLING_LEDGER, kling.db in
    the working directory, or your history. Nothing is bought.
    """
    report = choose_report(as_json=False, directory=None)
    with handle_errors(report):
        page = Path(what).expanduser() / _PAGE
        place = str(page) if page.is_file() else _place_of(_found(what, existing(ledger)))
        report.product(place)
        if not only_print:
            _open(place)


def _found(what: str, ledger: Path) -> Submission:
    """The submission with that key, or of that job.

    Raises:
        CommandError: There is none.
    """
    [*found] = anyio.run(partial(inspect_ledger, ledger, key=what)).submissions
    if not found:
        try:
            ref = JobRef.parse(what)
        except ValueError:
            ref = None
        if ref is not None:
            contents = anyio.run(partial(inspect_ledger, ledger, endpoint=ref.endpoint))
            found = [submission for submission in contents.submissions if submission.ref == ref]
    if not found:
        raise CommandError(
            f"the ledger {ledger} has no job {what!r:.200}; kling jobs lists what it has, and kling watch REF saves "
            "the files of a job that it does not have",
            code=NOT_FOUND,
        )
    return found[-1]


def _place_of(submission: Submission) -> str:
    """A file that was saved, or an address that the provider gave.

    Raises:
        CommandError: There is nothing to be opened.
    """
    saved = [path for path in submission.files if path != GIVEN_UP]
    for path in saved:
        if isinstance(path, str) or path.is_file():  # the address of an object, or a file
            return str(path)
    artifacts = submission.latest.artifacts if submission.latest else ()
    now = datetime.now(UTC)
    for artifact in artifacts:
        if artifact.url and is_url(artifact.url) and (artifact.expires is None or artifact.expires > now):
            return artifact.url
    if saved:
        raise CommandError(f"{saved[0]} is not there any more, and its address has expired", code=UNSAVED)
    step = f"; kling watch {submission.ref} follows it" if submission.ref and submission.unfinished else ""
    raise CommandError(f"{submission.key!r:.200} has made no file: it is {standing(submission)}{step}", code=UNSAVED)


def _open(place: str) -> None:
    """Open a file or an address with the program that the user has for it.

    Raises:
        CommandError: There is none.
    """
    try:
        code = typer.launch(place)
    except OSError as error:
        code = error.errno or 1
    if code:
        where = "" if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") else " (there is no display)"
        raise CommandError(f"no program could open {place}{where}; --print prints it alone", code=UNSAVED)

"""Files of a run that are replaced as a whole: the old one stays until the new one is complete."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kling_async._cli.errors import UNSAVED, CommandError
from kling_async._files.atomic import written_atomically  # replaces a file as the library does

__all__ = ["unwritten", "written_anew"]


@contextmanager
def written_anew(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write, which takes the place of `path` when the block ends without an error.

    Raises:
        CommandError: It cannot be written. What was there before is still there.
    """
    try:
        with written_atomically(path) as file:
            yield file
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: OSError) -> CommandError:
    """The error that a file of a run cannot be written."""
    return CommandError(
        f"{path} cannot be written: {error.strerror or error}. Remove the cause and give the same command again: the "
        "ledger, if one is kept, has what was bought",
        code=UNSAVED,
    )

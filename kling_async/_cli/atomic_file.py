"""Files that are written anew: the old one stays until the new one is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from kling_async._cli.errors import UNSAVED, CommandError

__all__ = ["unwritten", "written_anew"]


@contextmanager
def written_anew(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of `path` at once when it is whole.

    Raises:
        CommandError: It cannot be written; what was there before is there still.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError):
            raise unwritten(path, error) from error
        raise


def unwritten(path: Path, error: OSError) -> CommandError:
    """The error that a file of a run cannot be written."""
    return CommandError(
        f"{path} cannot be written: {error.strerror or error}. Remove the cause and give the same command again: the "
        "ledger, if one is kept, has what was bought",
        code=UNSAVED,
    )

"""Atomic writes: a file has its name only when it is whole and on the disk.

Each write goes to a temporary file beside the final name. The temporary file is synced, and then renamed. A reader sees
the old file or the new one, also after a crash.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from kling_async._files.names import bounded_name

__all__ = ["publish", "sync_folder", "written_atomically"]

_LONGEST_BEGINNING = 120  # bytes of the final name that a temporary name repeats


@contextmanager
def written_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file, and give it the name `path` when the block ends without an error.

    If the block raises, the temporary file is removed and `path` stays as it was. Each call has a temporary file of its
    own, so two writes at once do not mix. The temporary file is always new: a link with its name is not followed.

    Raises:
        OSError: The file cannot be written.
    """
    beginning = bounded_name(path.name, _LONGEST_BEGINNING)
    temporary = path.with_name(f".{beginning}.{uuid.uuid4().hex}.part")
    file = temporary.open("xb")
    try:
        with file:
            yield file
            publish(file, temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def publish(file: IO[bytes], temporary: Path, path: Path) -> None:
    """Sync the open `file`, close it where an open file cannot be renamed, and rename it from `temporary` to `path`.

    Raises:
        OSError: It cannot be synced or renamed.
    """
    file.flush()
    os.fsync(file.fileno())
    if os.name != "posix":
        file.close()
    temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """Sync the names of a folder, which are data of their own on POSIX. Other systems need nothing.

    Raises:
        OSError: It cannot be synced.
    """
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

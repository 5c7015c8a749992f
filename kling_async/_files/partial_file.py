"""A download under way, beside its final name."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import anyio
from anyio import to_thread

from kling_async._media_types import HEAD_BYTES

try:
    import fcntl
except ImportError:  # Windows
    _LOCKS = False
else:
    _LOCKS = True

__all__ = ["PartialFile", "TransferBroken"]


def lock_exclusively(path: Path) -> IO[bytes] | None:
    """The file, open for nobody else; None: somebody has it, or that cannot be known here."""
    if not _LOCKS:
        return None
    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it may have renamed or removed it between the two.
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        except OSError:  # it is locked, or the file system has no locks
            file.close()
            return None
        file.close()


class PartialFile:
    """The file under its temporary name. All disk work happens off the event loop.

    Left by a broken transfer it stays, so that the next one continues it; left by anything else it is removed. While
    one transfer has it, another of the same file, in this process or another, writes to a file of its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.size = 0
        self.head = b""
        self.lasting = True
        """Whether the next transfer can continue it."""
        self._placed = False

    async def __aenter__(self) -> Self:
        def start() -> None:
            self._file = lock_exclusively(self._path)
            if self._file is None:
                self._path = self._path.with_suffix(f".{uuid.uuid4().hex}.part")
                self._file = self._path.open("x+b")
                self.lasting = False
            self._file.seek(0)
            self.head = self._file.read(HEAD_BYTES)
            self.size = self._file.seek(0, os.SEEK_END)

        await to_thread.run_sync(start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        def leave() -> None:
            if self._file is None or self._placed:
                return
            stays = isinstance(error, TransferBroken) and self.size > 0 and self.lasting
            with self._file:
                if not stays and _LOCKS:  # before it is anybody's
                    self._path.unlink(missing_ok=True)
            if not stays and not _LOCKS:
                self._path.unlink(missing_ok=True)

        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(leave)

    async def write(self, chunk: bytes) -> None:
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
        await to_thread.run_sync(self._open.write, chunk)
        self.size += len(chunk)

    async def restart(self) -> None:
        """Throw away what is there."""

        def empty() -> None:
            self._open.seek(0)
            self._open.truncate()

        if self.size:
            await to_thread.run_sync(empty)
        self.size, self.head = 0, b""

    async def finish(self, path: Path) -> Path:
        """Sync the file and give it its name."""

        def rename() -> None:
            self._open.flush()
            os.fsync(self._open.fileno())
            if not _LOCKS:
                self._open.close()  # an open file cannot be renamed there
            self._path.replace(path)
            self._placed = True
            self._open.close()
            if os.name == "posix":  # the directory entry is data of its own there
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(rename)
        return path

    @property
    def _open(self) -> IO[bytes]:
        assert self._file is not None  # noqa: S101  # entered
        return self._file


class TransferBroken(Exception):
    """The transfer failed in a way that may pass."""

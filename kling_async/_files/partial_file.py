"""What a download writes to: a file beside its final name, or a temporary file without a name."""

from __future__ import annotations

import json
import os
import stat
import tempfile
import uuid
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

import anyio
from anyio import to_thread

from kling_async._files.atomic import publish, sync_folder, written_atomically
from kling_async._media.media_types import HEAD_BYTES
from kling_async._records import record

try:
    import fcntl
except ImportError:  # Windows
    _LOCKS = False
else:
    _LOCKS = True

__all__ = ["PartialFile", "Sink", "Spool", "TransferBroken", "Version"]

_LONGEST_NOTE = 4096  # bytes
_AT_ONCE = 1024**2  # bytes that are collected before they are written: each write costs a way into a thread and back
# A name that somebody else made is not trusted: a link is not followed, and opening a pipe does not wait.
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class TransferBroken(Exception):
    """The transfer failed, and trying it again may succeed.

    Attributes:
        retry_after: Seconds that the server asks to wait. If None, it does not say.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@record
class Version:
    """Which version of a file the server sends.

    Attributes:
        validator: Its strong ETag, or else its Last-Modified. The value of ``If-Range``.
        total: The size of the whole file. If None, it is not known.
    """

    validator: str
    total: int | None


class Sink(Protocol):
    """What a transfer writes to.

    Attributes:
        size: Bytes written so far.
        head: The first of them, which determine the media type.
        version: The version of the file that they are of. If None, the transfer cannot be continued.
    """

    size: int
    head: bytes
    version: Version | None

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Append some bytes. What is returned must be awaited before more follow. None: they may follow at once."""
        ...

    async def restart(self) -> None:
        """Remove what was written."""
        ...


def lock_exclusively(path: Path) -> IO[bytes] | None:
    """Open the regular file `path` for this owner alone.

    Returns:
        The file. If None, another owner has it, it is no regular file with this one name, or locks do not work here.
    """
    if not _LOCKS:
        return None
    while True:
        try:
            descriptor = os.open(path, _OPEN_FLAGS, 0o666)
        except OSError:  # a link, a directory, or a file of another user
            return None
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
                os.close(descriptor)
                return None
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have renamed or removed it between the two.
            current = path.lstat()
        except FileNotFoundError:
            os.close(descriptor)
            continue
        except OSError:  # it is locked, or the file system has no locks
            os.close(descriptor)
            return None
        if (current.st_dev, current.st_ino) == (facts.st_dev, facts.st_ino):
            return os.fdopen(descriptor, "r+b")
        os.close(descriptor)


class PartialFile:
    """The file under its temporary name. All disk work happens off the event loop.

    A broken transfer leaves it, with a note of the version that it is a part of, so that the next transfer continues
    it. In every other case it is removed. While one transfer has it, another transfer of the same file, in this process
    or another, writes to a file of its own.

    The note is written last and removed first. So there is no note, and the file is begun again, after a crash.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._note = path.with_name(f"{path.name}.version")
        self._file: IO[bytes] | None = None
        self._shared = True  # whether the next transfer finds it
        self._placed = False
        self._collected: list[bytes] = []
        self._pending = 0
        self.size = 0
        self.head = b""
        self.version: Version | None = None

    async def __aenter__(self) -> Self:
        def start() -> None:
            self._file = lock_exclusively(self._path)
            if self._file is None:
                self._path = self._path.with_suffix(f".{uuid.uuid4().hex}.part")
                self._file = self._path.open("x+b")
                self._shared = False
                return
            size = self._file.seek(0, os.SEEK_END)
            self.version = self._take_note(size)
            if self.version is None:
                self._file.truncate(0)
                size = 0
            self._file.seek(0)
            self.head = self._file.read(HEAD_BYTES)
            self.size = self._file.seek(size)

        await to_thread.run_sync(start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        def leave() -> None:
            if self._file is None or self._placed:
                return
            stays = isinstance(error, TransferBroken) and self.size > 0 and self._shared
            with self._file:
                if not (stays and self._leave_note(self._file)) and _LOCKS:  # before another transfer has it
                    self._path.unlink(missing_ok=True)
            if not _LOCKS:
                self._path.unlink(missing_ok=True)

        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(leave)

    def _take_note(self, size: int) -> Version | None:
        """Remove the note, and return its version if it describes a part of that size."""
        try:
            descriptor = os.open(self._note, os.O_RDONLY | (_OPEN_FLAGS & ~(os.O_RDWR | os.O_CREAT)))
        except OSError:
            with suppress(OSError):
                self._note.unlink()  # a link
            return None
        with os.fdopen(descriptor, "rb") as file:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            text = file.read(_LONGEST_NOTE) if regular else b""
        self._note.unlink(missing_ok=True)
        try:
            match json.loads(text):
                case {"validator": str(validator), "total": int() | None as total, "size": int(noted)}:
                    return Version(validator, total) if noted == size > 0 else None
        except (ValueError, RecursionError):
            pass
        return None

    def _leave_note(self, file: IO[bytes]) -> bool:
        """Note of which version this is a part. Returns whether that succeeded and the part can be continued."""
        if self.version is None:
            return False
        try:
            self._write_collected()
            file.flush()
            os.fsync(file.fileno())
            with written_atomically(self._note) as note:
                note.write(json.dumps(asdict(self.version) | {"size": self.size}).encode())
        except OSError:  # the disk is full
            return False
        return True

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Append some bytes. See `Sink`."""
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
        self._collected.append(chunk)
        self._pending += len(chunk)
        self.size += len(chunk)
        return to_thread.run_sync(self._write_collected) if self._pending >= _AT_ONCE else None

    def _write_collected(self) -> None:
        collected, self._collected, self._pending = self._collected, [], 0
        self._open.writelines(collected)

    async def restart(self) -> None:
        """Remove what was written."""
        self._collected, self._pending = [], 0

        def empty() -> None:
            self._open.seek(0)
            self._open.truncate()

        if self.size:
            await to_thread.run_sync(empty)
        self.size, self.head, self.version = 0, b"", None

    async def finish(self, path: Path) -> Path:
        """Sync the file and give it its name."""

        def rename() -> None:
            self._write_collected()
            publish(self._open, self._path, path)
            self._placed = True
            self._open.close()
            sync_folder(path.parent)

        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(rename)
        return path

    @property
    def _open(self) -> IO[bytes]:
        assert self._file is not None  # noqa: S101  # entered
        return self._file


class Spool:
    """A temporary file without a name, for a file that is read and not saved.

    Args:
        in_memory: Bytes up to which it stays in memory. 0 means that it always does.
    """

    def __init__(self, in_memory: int) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=in_memory)  # noqa: SIM115  # `close` closes it
        self._collected: list[bytes] = []
        self._pending = 0
        self.size = 0
        self.head = b""
        self.version: Version | None = None

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Append some bytes. See `Sink`."""
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
        self._collected.append(chunk)
        self._pending += len(chunk)
        self.size += len(chunk)
        return to_thread.run_sync(self._write_collected) if self._pending >= _AT_ONCE else None

    def _write_collected(self) -> None:
        collected, self._collected, self._pending = self._collected, [], 0
        self._file.writelines(collected)

    async def restart(self) -> None:
        """Remove what was written."""
        self._collected, self._pending = [], 0
        self._file.seek(0)
        self._file.truncate()
        self.size, self.head, self.version = 0, b"", None

    async def rewind(self) -> None:
        """Begin to read what was written."""
        await to_thread.run_sync(self._write_collected)
        self._file.seek(0)

    async def read(self, most: int) -> bytes:
        """Read the next bytes. At the end there are none."""
        return await to_thread.run_sync(self._file.read, most)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

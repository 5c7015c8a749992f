"""A local file that is sent without ever being in memory as a whole."""

from __future__ import annotations

import base64
import hashlib
import stat
import uuid
from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Self

from kling_async._media.media_types import HEAD_BYTES, media_type
from kling_async._records import record

__all__ = ["PIECE", "FileChanged", "FileText", "LocalFile"]

PIECE = 48 * 1024
"""Bytes of a file that are in memory at once. A multiple of 3, so that base64 of pieces is base64 of the file."""


class FileChanged(Exception):
    """A file is not what it was when it was checked, or cannot be read any more. The message names it."""


@record
class LocalFile:
    """A file as it was when it was checked.

    Attributes:
        path: Where it is.
        size: Its bytes.
        digest: Their SHA-256, as hexadecimal text.
        head: The first of them, which determine the media type.
        version: What the operating system changes with the content: the inode and the time of the last change (ns).
    """

    path: Path
    size: int
    digest: str = field(repr=False)
    head: bytes = field(repr=False)
    version: tuple[int, int] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> LocalFile:
        """Read a file once, piece by piece. It blocks.

        Raises:
            OSError: It cannot be read.
        """
        with path.open("rb", buffering=0) as file:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise OSError(0, "it is not a regular file", str(path))
            head = file.read(HEAD_BYTES)
            digest, size = hashlib.sha256(head), len(head)
            while piece := file.read(PIECE):
                digest.update(piece)
                size += len(piece)
        return cls(path, size, digest.hexdigest(), head, (found.st_ino, found.st_mtime_ns))

    def __len__(self) -> int:
        return self.size

    @property
    def media_name(self) -> str | None:
        """The format that its first bytes show, such as ``jpeg``. If None, it is no image."""
        found = media_type(self.head)
        return found.name if found is not None and found.kind == "image" else None

    def content(self) -> bytes:
        """All of it. It blocks.

        Raises:
            FileChanged: It is not what it was.
        """
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """Its content, piece by piece. The last piece comes only if all of it is what it was. Each step blocks.

        The file is open only while a piece is read, so that a call that is given up leaves nothing open.

        Raises:
            FileChanged: It is not what it was.
        """
        digest, place = hashlib.sha256(), 0
        while place < self.size:
            piece = self._piece(place)
            digest.update(piece)
            place += len(piece)
            if place == self.size and digest.hexdigest() != self.digest:
                raise self._changed()
            yield piece

    def _piece(self, place: int) -> bytes:
        try:
            with self.path.open("rb", buffering=0) as file:
                found = self.path.stat()
                file.seek(place)
                piece = file.read(PIECE)
        except OSError as error:
            raise FileChanged(f"{self.path} cannot be read any more: {error.strerror or error}") from None
        expected = min(PIECE, self.size - place)
        if (found.st_ino, found.st_mtime_ns) != self.version or found.st_size != self.size or len(piece) != expected:
            raise self._changed()
        return piece

    def _changed(self) -> FileChanged:
        return FileChanged(f"{self.path} was changed after it was checked")


class FileText(str):
    """Stands in a JSON payload for a text that ends with the base64 of a file. The body is then sent in pieces.

    Attributes:
        file: The file.
        prefix: What comes before it, such as ``data:image/png;base64,``.
    """

    __slots__ = ("file", "prefix")

    file: LocalFile
    prefix: str

    def __new__(cls, file: LocalFile, prefix: str = "") -> Self:
        """A text that no other text contains."""
        made = super().__new__(cls, f"file:{uuid.uuid4().hex}")
        made.file, made.prefix = file, prefix
        return made

    def __str__(self) -> str:
        return self

    def pieces(self) -> Iterator[bytes]:
        """The whole text, encoded, piece by piece. See `LocalFile.pieces`."""
        yield self.prefix.encode()
        for piece in self.file.pieces():
            yield base64.b64encode(piece)

    @property
    def length(self) -> int:
        """Characters of the whole text."""
        return len(self.prefix) + (self.file.size + 2) // 3 * 4

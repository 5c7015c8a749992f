"""``kling bulk -o s3://bucket/run``: the results of a run in an object store.

An object cannot be appended to. So a run keeps its ledger and its progress in a directory of this machine, as always,
and copies ``results.jsonl`` and ``report.html`` to the store: at its beginning, once a minute, and at its end. The
files of the results go to the store at once. ``results.jsonl`` in the store also shows another machine that the run is
taken. Without this run's ledger, the other machine would buy the same rows again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kling_async._cli.atomic_file import written_anew
from kling_async._cli.errors import UNSAVED, CommandError
from kling_async._cli.places import state_file
from kling_async._files.object_store import (  # the same object stores as `save_to` of the library
    ObjectUrl,
    StoreFailed,
    list_objects,
    object_size,
    read_object,
    write_object,
)

__all__ = ["RunStore", "working_directory"]

_TYPES = {".jsonl": "application/jsonl", ".html": "text/html; charset=utf-8"}


def working_directory(url: ObjectUrl) -> Path:
    """The directory of this machine in which a run keeps its ledger and its progress."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", f"{url.scheme}-{url.bucket}-{url.key}")[:80].strip("-")
    return state_file("bulk", f"{name}-{hashlib.sha256(str(url).encode()).hexdigest()[:12]}")


@dataclass(slots=True)
class RunStore:
    """The folder of an object store that a run saves to.

    Attributes:
        url: Where it is.
        sizes: The bytes of each object there, by its name in the folder, when the run was opened.
    """

    url: ObjectUrl
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def files(self) -> str:
        """Where the files of results go."""
        return f"{self.url}/files"

    async def open(self, results: Path, ledger: Path | None) -> None:
        """Find out what is there.

        Args:
            results: The results on this machine.
            ledger: The ledger on this machine. If None, none is kept.

        Raises:
            CommandError: It cannot be read, or has the results of a run whose ledger is not here.
        """
        try:
            self.sizes = await list_objects(self.url)
            if results.name not in self.sizes or results.exists():  # noqa: ASYNC240  # once, before the run
                return
            if ledger is None or not ledger.exists():  # noqa: ASYNC240  # the same
                raise CommandError(
                    f"{self.url} has the results of a run that was started on another machine or with another ledger; "
                    "its rows would be bought again. Give the command there, or name its ledger with --ledger, or "
                    "choose another --output. Nothing was bought"
                )
            content = await read_object(self.url / results.name)
        except StoreFailed as error:
            raise CommandError(f"{self.url} cannot be read: {error.strerror}; nothing was bought") from None
        results.parent.mkdir(parents=True, exist_ok=True)
        with written_anew(results) as file:
            file.write(content or b"")

    async def claim(self, results: Path) -> None:
        """Write the results for the first time, so that no other machine begins the same run.

        Raises:
            CommandError: It cannot be written, or another machine was faster.
        """
        content = results.read_bytes() if results.exists() else b""  # noqa: ASYNC240  # once, before the run
        new = results.name not in self.sizes
        try:
            await write_object(self.url / results.name, content, _TYPES[results.suffix], new=new)
        except StoreFailed as error:
            raise CommandError(f"{self.url} cannot be written: {error.strerror}; nothing was bought") from None
        self.sizes[results.name] = len(content)

    async def publish(self, paths: Iterable[Path]) -> list[str]:
        """Copy files of this machine to the store, those that exist. Returns their addresses.

        Raises:
            CommandError: One cannot be written. It is still on this machine.
        """
        copied = []
        for path in paths:
            if not path.exists():
                continue
            url = self.url / path.name
            try:
                await write_object(url, path.read_bytes(), _TYPES[path.suffix])
            except StoreFailed as error:
                raise CommandError(
                    f"{url} cannot be written: {error.strerror}. {path} has it: give the same command again, which "
                    "copies it and buys nothing twice",
                    code=UNSAVED,
                ) from None
            copied.append(str(url))
        return copied

    async def size(self, url: str) -> int:
        """The bytes of an object that was saved just now."""
        name = url.removeprefix(f"{self.url}/")
        self.sizes[name] = await object_size(ObjectUrl.parse(url))
        return self.sizes[name]

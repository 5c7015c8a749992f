"""Names that users choose for the files of a job: ``-o boat.mp4`` or ``--name "{key}-{index}"``."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from kling_async import Artifact, Result
from kling_async._cli.errors import CommandError
from kling_async._files.local import ensure_writable  # tries it before anything is paid for, as the library does

__all__ = ["Names", "ensure_writable", "prepare", "template_of_rows"]

_FIELDS = ("key", "index", "id", "endpoint")
_UNSAFE = re.compile(r"[^\w.=@ -]+")
_LONGEST = 120  # characters. Most file systems allow 255 bytes


@dataclass(frozen=True, slots=True)
class Names:
    """The names of the files of one job.

    Args:
        directory: Where the files go.
        template: A file's name. ``{key}``, ``{index}``, ``{id}`` and ``{endpoint}`` are replaced.
        key: The submission's key.

    Raises:
        CommandError: The template has another field, or names a directory.
    """

    directory: Path
    template: str
    key: str

    def __post_init__(self) -> None:
        try:
            used = {name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None}
        except ValueError as error:
            raise CommandError(f"--name {self.template!r:.60}: {error}") from error
        if used - set(_FIELDS):
            fields = ", ".join(f"{{{name}}}" for name in _FIELDS)
            raise CommandError(f"--name {self.template!r:.60}: it may contain {fields}, and no other field")
        if not self.template.strip() or "/" in self.template or self.template.startswith("."):
            raise CommandError(
                f"--name {self.template!r:.60}: it must be a file name without a directory (see --output)"
            )

    async def save(self, result: Result, progress: Callable[[int, int | None], None] | None = None) -> list[Path]:
        """Save the files of a job under these names.

        Raises:
            DownloadFailed: One could not be saved.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        names = [self._name(result, artifact, number) for number, artifact in enumerate(result.artifacts, 1)]
        return [
            await artifact.save(self.directory / name, progress=progress)
            for artifact, name in zip(result.artifacts, names, strict=True)
        ]

    def _name(self, result: Result, artifact: Artifact, number: int) -> str:
        facts = {
            "key": self.key,
            "index": number,
            "id": result.ref.id,
            "endpoint": result.ref.endpoint.replace("/", "-"),
        }
        name = _UNSAFE.sub("_", self.template.format(**facts))
        stem, dot, suffix = name.rpartition(".")
        if not dot or not suffix.isalnum():
            stem, suffix = name, _suffix(artifact)
        if number > 1 and "{index}" not in self.template:
            stem = f"{stem}-{number}"
        return f"{stem[:_LONGEST]}.{suffix}"


def template_of_rows(template: str, rows: Iterable[tuple[str, int]]) -> str:
    """The template for the files of many rows, without an ending: each file has its own.

    Args:
        template: What ``--name`` gives.
        rows: The key of each row, and the number of its files.

    Raises:
        CommandError: It is none, or files of two rows would have one name, so that one would replace the other.
    """
    Names(Path(), template, "")
    template = _ENDING.sub("", template)
    if "{id}" in template:  # no two jobs have one
        return template
    owners: dict[str, str] = {}
    for key, count in rows:
        for number in range(1, count + 1):
            name = _UNSAFE.sub("_", template.format(key=key, index=number, endpoint=""))
            name += f"-{number}" if number > 1 and "{index}" not in template else ""
            other = owners.setdefault(name.casefold(), key)  # some file systems take A and a for one
            if other != key:
                raise CommandError(
                    f"--name {template!r:.60}: files of the rows {other!r:.60} and {key!r:.60} would both be named "
                    f"{name:.60}; put {{key}}, or {{id}}, into it"
                )
    return template


_ENDING = re.compile(r"\.(gif|jpe?g|mov|mp3|mp4|png|wav|webm|webp)$", re.IGNORECASE)


async def prepare(place: Path | Names) -> None:
    """Make the directory for the files of a job, and make sure that files can be written there.

    Raises:
        ConfigurationError: They cannot.
    """
    await ensure_writable(place.directory if isinstance(place, Names) else place)


def _suffix(artifact: Artifact) -> str:
    suffix = PurePosixPath(urlsplit(artifact.url or "").path).suffix.lstrip(".").lower()
    if suffix.isalnum() and len(suffix) <= len("jpeg"):
        return suffix
    return "mp4" if artifact.kind == "video" else "png"

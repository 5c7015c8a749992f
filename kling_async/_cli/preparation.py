"""``--prepare``: local images are converted, turned upright and made small enough for their endpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from kling_async import PreparedImage, prepare_image
from kling_async._cli.atomic_file import written_anew
from kling_async._cli.output.formatting import counted
from kling_async._rows.prepared_images import Preparer

__all__ = ["MaxSide", "Prepare", "PreparedFiles", "prepared_content"]

Prepare: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--prepare",
        help="Convert local images (HEIC, TIFF, ...), turn them upright, and make them as small as the endpoint asks.",
    ),
]
MaxSide: TypeAlias = Annotated[
    int | None,
    typer.Option("--max-side", metavar="PIXELS", min=1, help="Also scale larger local images down. Means --prepare."),
]


def prepared_content(max_side: int | None, say: Callable[[str], None]) -> Preparer:
    """Prepares images in memory, and says of each what was done."""

    def prepare(path: Path, most: int) -> PreparedImage:
        made = prepare_image(path, max_side=max_side, max_bytes=most)
        say(f"{path.name}: {made.describe()}")
        return made

    return prepare


@dataclass(slots=True)
class PreparedFiles:
    """Prepares images as files, each once however many rows have it.

    Attributes:
        directory: Where they are written. A file that is as it should be is not written, and stays where it is.
        max_side: The most pixels of the longer side.
        originals: The image of which a file was made, by the file.
    """

    directory: Path
    max_side: int | None = None
    originals: dict[str, str] = field(default_factory=dict)
    _known: dict[tuple[Path, int], Path] = field(default_factory=dict)

    def __call__(self, path: Path, most: int) -> Path:
        """The file to give to the request."""
        if (path, most) not in self._known:
            self._known[path, most] = self._written(path, most)
        return self._known[path, most]

    def _written(self, path: Path, most: int) -> Path:
        # An image that an earlier run has made is taken as it is, so that the row of a job that is bought is the same.
        digest = hashlib.sha256(path.read_bytes() + f" {self.max_side} {most}".encode()).hexdigest()[:16]
        places = {
            form: self.directory.absolute() / f"{path.stem[:80]}-{digest}.{ending}"
            for form, ending in (("jpeg", "jpg"), ("png", "png"))
        }
        place = next((place for place in places.values() if place.exists()), None)
        if place is None:
            made = prepare_image(path, max_side=self.max_side, max_bytes=most)
            if not made.changes:
                return path
            place = places[made.format]
            place.parent.mkdir(parents=True, exist_ok=True)
            with written_anew(place) as file:
                file.write(made)
        self.originals[str(place)] = str(path)
        return place

    def summary(self) -> str:
        """What was done, in one line."""
        asked, changed = len({path for path, _ in self._known}), len({*self.originals.values()})
        place = f" (in {self.directory})" if changed else ""
        return f"{counted(asked, 'image')} prepared: {changed} changed{place}, {asked - changed} as before"

"""Writes the table of ``docs/guides/choosing.md``: which endpoint serves which portable requests, from the offers.

Run ``python tests/support/portable_table.py`` after a change of an offer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kling_async.providers import ALL_PROVIDERS
from kling_async.providers.base import Offer, VideoOffer

__all__ = ["PATH", "tables", "with_tables"]

PATH = Path(__file__).parents[2] / "docs" / "guides" / "choosing.md"
BEGIN, END = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"
_FRAMES = {"no": "no", "optional": "yes", "required": "required"}


def _run(values: Sequence[Any]) -> str:
    numbers = len(values) > 2 and all(isinstance(value, int) for value in values)
    whole = numbers and list(values) == list(range(values[0], values[0] + len(values)))
    return f"{values[0]} to {values[-1]}" if whole else ", ".join(map(str, values))


def _cells(offer: Offer) -> list[str]:
    references, negative = str(offer.references or "no"), "yes" if offer.negative_prompt else "no"
    if not isinstance(offer, VideoOffer):
        count = f"1 to {offer.count}" if offer.count > 1 else "1"
        return [count, ", ".join(offer.resolutions), references, negative]
    sound = "if wanted" if len(offer.audio) > 1 else "always" if offer.audio[0] else "no"
    frames = f"first: {_FRAMES[offer.first_frame]}, last: {'yes' if offer.last_frame else 'no'}"
    return [_run(offer.durations), ", ".join(offer.resolutions), sound, frames, references, negative]


def _rows(kind: type[Any]) -> Iterator[list[str]]:
    for provider in ALL_PROVIDERS:
        for offer in provider.portable:
            if isinstance(offer, VideoOffer) is (kind is VideoOffer):
                yield [f"`{offer.model}`", f"`{offer.request.endpoint}`", *_cells(offer)]


def _table(heads: Sequence[str], rows: Iterator[list[str]]) -> list[str]:
    lines = [list(heads), ["---"] * len(heads), *sorted(rows, key=lambda row: row[0], reverse=True)]
    return [f"| {' | '.join(line)} |" for line in lines]


def tables() -> str:
    """Both tables as Markdown."""
    videos = ("Model", "Endpoint", "Seconds", "Resolutions", "Sound", "Frames", "References", "Negative prompt")
    images = ("Model", "Endpoint", "Pictures", "Resolutions", "References", "Negative prompt")
    return "\n".join(
        [
            "`Video`:",
            "",
            *_table(videos, _rows(VideoOffer)),
            "",
            "`Image`:",
            "",
            *_table(images, _rows(object)),
            "",
        ]
    )


def with_tables(text: str) -> str:
    """The document with the tables as they are now."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{tables()}\n{END}{tail}"


if __name__ == "__main__":
    PATH.write_text(with_tables(PATH.read_text(encoding="utf-8")), encoding="utf-8")

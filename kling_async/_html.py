"""Jobs and results as HTML, for notebooks. Nothing is fetched: a file is shown where it was saved, or came inline."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import PurePath
from typing import Literal
from urllib.parse import quote

from kling_async._media_types import HEAD_BYTES, media_type

__all__ = ["media", "table"]

_LARGEST_INLINE = 5_000_000  # bytes. A notebook stores what it shows
_TAGS = {
    "image": '<img alt="" src="{}" style="max-width:24em">',
    "video": '<video controls loop src="{}" style="max-width:32em"></video>',
    "audio": '<audio controls src="{}"></audio>',
}


def table(title: str, rows: Iterable[Sequence[object]]) -> str:
    """A table with a title. The cells are text."""
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div><code>{escape(title)}</code><table>{body}</table></div>"


def media(kind: Literal["image", "video", "audio"], url: str | None, data: bytes | None, file: object) -> str:
    """One file: shown if it came inline or was saved below the working directory, otherwise a link.

    Args:
        kind: What it is.
        url: Where the provider has it. It is linked, and not loaded.
        data: The file itself.
        file: Where it was saved: a path or the URL of an object. None if it was not.
    """
    if data is not None and len(data) <= _LARGEST_INLINE:
        known = media_type(data[:HEAD_BYTES])
        source = f"data:{known.mime if known else 'application/octet-stream'};base64,{b64encode(data).decode()}"
        return f"<div>{_TAGS[kind].format(source)}</div>"
    if isinstance(file, PurePath):
        shown = f"<code>{escape(str(file))}</code>"
        if file.is_absolute():  # a browser opens no such path
            return f"<div>{kind}: {shown}</div>"
        return f"<div>{_TAGS[kind].format(escape(quote(file.as_posix())))}<br>{shown}</div>"
    if file is not None:
        return f"<div>{kind}: <code>{escape(str(file))}</code></div>"
    if url is not None and url.startswith("https://"):
        link = f'<a href="{escape(url)}" target="_blank" rel="noreferrer noopener">open at the provider</a>'
        return f'<div>{kind}: {link}, not saved: <code>await result.save("out")</code></div>'
    return f'<div>{kind}, not saved: <code>await result.save("out")</code></div>'

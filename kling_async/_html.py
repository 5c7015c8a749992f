"""Jobs, results and bulk runs as HTML, for notebooks.

Nothing is fetched: a file is shown where it was saved, or came inline.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from itertools import compress
from pathlib import PurePath
from typing import Literal
from urllib.parse import quote

from kling_async._media.media_types import HEAD_BYTES, media_type

__all__ = ["bar", "media", "table", "title"]

_HIDDEN = 'With <code>client.run(..., save_to="out")</code> a result is saved, and shown here.'
_LARGEST_INLINE = 5_000_000  # bytes. A notebook stores what it shows
_TAGS = {
    "image": '<img alt="" src="{}" style="max-width:24em">',
    "video": '<video controls loop src="{}" style="max-width:32em"></video>',
    "audio": '<audio controls src="{}"></audio>',
}


def title(text: str) -> str:
    """A line above something."""
    return f"<div><code>{escape(text)}</code></div>"


def table(rows: Iterable[Sequence[object]]) -> str:
    """A table. The cells are text, and a column without any is left out."""
    texts = [[str(cell) for cell in row] for row in rows]
    shown = [any(column) for column in zip(*texts, strict=True)]
    cell = '<td style="text-align:left">{}</td>'.format
    body = "".join(f"<tr>{''.join(cell(escape(text)) for text in compress(row, shown))}</tr>" for row in texts)
    return f"<table>{body}</table>"


def bar(done: int, total: int | None, words: str) -> str:
    """How far something has come: a bar, and the same in words.

    Args:
        done: How many of them are done.
        total: How many there are. If None, that is not known, and there is no bar.
        words: What is written below it.
    """
    drawn = f'<progress value="{done}" max="{total}" style="width:32em"></progress><br>' if total else ""
    return f"<div>{drawn}{escape(words)}</div>"


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
        return f"<div>{kind}: {link}. {_HIDDEN}</div>"
    return f"<div>{kind}. {_HIDDEN}</div>"

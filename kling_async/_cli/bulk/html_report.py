"""``report.html``: one page that shows what a bulk run made, without anything from elsewhere.

All text of users and providers travels as JSON in the page, in which no character can end the element that
holds it, and is shown as text. The page's own style and script are named by their digests, so that nothing else runs.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from kling_async import Cost
from kling_async._cli.atomic_file import written_anew
from kling_async._cli.bulk.results import makers
from kling_async._cli.output.formatting import duration, printable
from kling_async._rows.records import Record
from kling_async._rows.requests import find_any, is_url
from kling_async.providers import ALL_PROVIDERS

__all__ = ["write_page"]

_TITLES = {kind.name: kind.display_name for kind in ALL_PROVIDERS}
_SHOWN = ("key", "started", "attempt")


def write_page(path: Path, records: Sequence[Record], *, title: str, now: datetime, seconds: float) -> None:
    """Write the page, in place of an earlier one at once.

    Args:
        path: The file. Paths of files in the page count from its directory.
        records: One a row, in the order of the page.
        title: What it is about.
        now: When the run ended (aware).
        seconds: How long it took. 0: nothing was to be done.

    Raises:
        CommandError: It cannot be written.
    """
    title = printable(title)
    contents = {
        "title": title,
        "when": f"{now:%Y-%m-%d %H:%M} UTC" + (f", after {duration(seconds)}" if seconds else ""),
        "sums": _sums(records),
        "providers": _TITLES,
        "rows": [_row(record) for record in records],
    }
    page = resources.files(__package__).joinpath("report.html").read_text("utf-8")
    style, script = (_between(page, tag) for tag in ("style", "script"))
    page = page.replace("@STYLE_HASH@", _source(style)).replace("@SCRIPT_HASH@", _source(script))
    page = page.replace("@TITLE@", html.escape(title))
    page = page.replace("@DATA@", _embedded(contents), 1)
    with written_anew(path) as file:
        file.write(page.encode())


def _between(page: str, tag: str) -> str:
    """The text of the page's only element of that tag that has no attributes."""
    return page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]


def _source(text: str) -> str:
    """How a content security policy names this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _embedded(value: Any) -> str:
    """The value as JSON of ASCII alone, without a character that means something to HTML."""
    return re.sub(r"[<>&]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value))


def _row(record: Record) -> Mapping[str, Any]:
    pictures = _references(record)
    shown = {"prompt", *(name for name, _ in pictures)}
    settings = [
        (name, _words(value)) for name, value in record.request.items() if name not in shown and value not in (None, [])
    ]
    columns = [(name, _words(value)) for name, value in record.columns.items()]
    facts = [(name, str(getattr(record, name))) for name in _SHOWN if getattr(record, name) is not None]
    refunds = [("refunded", str(record.price))] if record.refunded and record.price else []
    seeds = [("seed", str(file["seed"])) for file in record.files if file.get("seed") is not None]
    return {
        "key": record.key,
        "line": record.line,
        "endpoint": record.endpoint,
        "provider": record.endpoint.partition("/")[0],
        "state": record.state,
        "prompt": str(record.request.get("prompt", "")),
        "ref": record.ref,
        "seconds": record.elapsed or 0,
        "price": _price(record.spent),
        "elapsed": None if record.elapsed is None else duration(record.elapsed),
        "cost": str(record.spent) if record.spent else None,
        "files": [
            {"src": quote(file["path"]), "kind": file["kind"], "name": PurePosixPath(file["path"]).name}
            for file in record.files
        ],
        "urls": record.urls,
        "references": [{"field": name, **_picture(text, record)} for name, texts in pictures for text in texts],
        "reason": record.error["message"] if record.error and record.state != "completed" else None,
        "details": [*facts, *refunds, *settings, *columns, *seeds],
    }


def _price(cost: Cost | None) -> float:
    """A number that orders costs: amounts in dollars above those in credits, which cannot be compared."""
    return (float(cost.amount) + (1e9 if cost.unit == "USD" else 0)) if cost else 0


def _words(value: Any) -> str:
    """A setting as people write it: ``yes``, ``5``, ``a, b``."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(_words(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _references(record: Record) -> list[tuple[str, list[str]]]:
    """The images of the request, by field."""
    found: list[tuple[str, list[str]]] = []
    for name in find_any(record.asked or record.endpoint)[1].request.reference_fields:
        value = record.request.get(name)
        texts = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
        if texts:
            found.append((name, texts))
    return found


def _picture(text: str, record: Record) -> dict[str, str]:
    """A reference: a local file is shown, and a URL is only named, because opening the page must call nobody.

    Of an image that was prepared, such as a HEIC, which few browsers show, the file is shown that was sent.
    """
    if text.startswith("sha256:"):
        return {"name": f"inline image {text[:15]}..."}
    if is_url(text):
        return {"name": text}
    path = PurePosixPath(record.prepared.get(text) or PurePosixPath(record.folder) / text)
    return {
        "name": PurePosixPath(text).name,
        "src": f"file://{quote(str(path))}" if path.is_absolute() else quote(str(path)),
    }


def _sums(records: Sequence[Record]) -> list[tuple[str, str]]:
    states = Counter(record.state for record in records)
    files = sum(len(record.files) for record in records)
    sums = [(f"{states['completed']:,}", f"of {len(records):,} rows"), (f"{files:,}", "files")]
    sums += [(str(cost), "spent") for cost in _costs(records)]
    guesses = [(_TITLES.get(name, name), cost) for name, cost in _estimates(records)]
    sums += [(f"about {cost}", f"at {title}, which reports no price") for title, cost in guesses]
    sums += [(line.partition(": ")[2], f"by {line.partition(': ')[0]}") for line in makers(records)]
    failed = states["failed"] + states["refused"]
    sums += [(f"{failed:,}", "failed")] if failed else []
    taken = sorted(record.elapsed for record in records if record.elapsed is not None)
    sums += [(duration(taken[len(taken) // 2]), "median wait")] if taken else []
    return sums


def _estimates(records: Iterable[Record]) -> list[tuple[str, Cost]]:
    sums: dict[str, Cost] = {}
    for record in records:
        if (cost := record.estimated) is not None:
            name = record.endpoint.partition("/")[0]
            sums[name] = Cost(cost.amount + sums[name].amount, cost.unit) if name in sums else cost
    return sorted(sums.items())


def _costs(records: Iterable[Record]) -> list[Cost]:
    spent: dict[Any, Decimal] = {}
    for record in records:
        if (cost := record.spent) is not None:
            spent[cost.unit] = spent.get(cost.unit, Decimal(0)) + cost.amount
    return [Cost(amount, unit) for unit, amount in sorted(spent.items())]

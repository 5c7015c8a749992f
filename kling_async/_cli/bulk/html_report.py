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
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kling_async import Cost
from kling_async._cli.atomic_file import written_anew
from kling_async._cli.bulk.results import Record, makers
from kling_async._cli.output.formatting import duration, printable
from kling_async.providers import ALL_PROVIDERS

__all__ = ["write_page"]

_TITLES = {kind.name: kind.display_name for kind in ALL_PROVIDERS}
_SHOWN = ("key", "ref", "started", "attempt")


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
    told = {
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
    page = page.replace("@DATA@", _embedded(told), 1)
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
    settings = [
        (name, str(value)) for name, value in record.request.items() if name != "prompt" and value not in (None, [])
    ]
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
        "elapsed": None if record.elapsed is None else duration(record.elapsed),
        "cost": str(record.spent) if record.spent else None,
        "files": [{"src": quote(file["path"]), "kind": file["kind"]} for file in record.files],
        "reason": record.error["message"] if record.error and record.state != "completed" else None,
        "details": [*facts, *refunds, *settings, *seeds],
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

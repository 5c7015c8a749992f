"""``kling quote``: what a request costs, how long it takes and who can make it, endpoint by endpoint."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import kling_async  # what is named by it is loaded where it is used
from kling_async._cli.ledger import LedgerFile, usual
from kling_async._cli.options import AsJson, PreferOption, options_from, preference
from kling_async._cli.output.formatting import duration, printable
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._cli.request_arguments import build, parse_settings
from kling_async._rows.amounts import as_json
from kling_async._rows.requests import NAMED, find_any
from kling_async.providers.base import Provider

if TYPE_CHECKING:
    from kling_async import NotOffered, Quote, Request

__all__ = ["quote"]

_PANEL = "Fields of the request"


def _option(metavar: str, meaning: str, *names: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=meaning, rich_help_panel=_PANEL, show_default=False)


@dataclass(frozen=True, slots=True)
class _Options:
    """What ``kling quote`` is given."""

    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What is to be generated.")]
    endpoint: Annotated[
        str,
        typer.Option("--endpoint", metavar="NAME", help="video or image, or one endpoint, such as runblob/o3-video."),
    ] = "video"
    duration: Annotated[str | None, _option("SECONDS", "Length of the video.")] = None
    aspect_ratio: Annotated[str | None, _option("W:H", "Such as 16:9.")] = None
    resolution: Annotated[str | None, _option("SIZE", "Such as 1080p or 2k.")] = None
    model: Annotated[str | None, _option("NAME", "Such as kling-3.0.")] = None
    negative_prompt: Annotated[str | None, _option("TEXT", "What to avoid.")] = None
    count: Annotated[str | None, _option("N", "Number of images.")] = None
    reference: Annotated[list[str] | None, _option("IMAGE", "A reference image: a file or a URL; may be repeated.")] = (
        None
    )
    setting: Annotated[list[str] | None, _option("NAME=VALUE", "Any other field. May be repeated.", "--set")] = None
    prefer: PreferOption = None
    ledger: LedgerFile = None
    as_json: AsJson = False


@options_from(_Options)
def quote(options: _Options) -> None:
    """Show what a request costs and how long it takes, provider by provider. Nothing is bought.

    No key is needed. Prices and times are learned from the jobs in your history, or in --ledger.

    kling quote "a paper boat" --duration 10
    """
    report = choose_report(as_json=options.as_json, directory=None)
    with handle_errors(report):
        kinds, endpoint = find_any(options.endpoint)
        named = {name: word for name in NAMED if (word := getattr(options, name)) is not None}
        request = build(
            endpoint, options.prompt, options.reference or (), {**named, **parse_settings(options.setting or ())}
        )
        keyed = {kind.name for kind in kinds if kind.identity().found_in(os.environ)}
        quotes = anyio.run(_quotes, kinds, request, options)
        for each in quotes if options.as_json else ():
            print(json.dumps(_facts(each, keyed)))  # noqa: T201  # what was asked for
        if not options.as_json:
            _print(quotes, [kind.env_vars[0] for kind in kinds if kind.name not in keyed])
        if not any(each.available for each in quotes):
            raise _not_offered(request, kinds)


async def _quotes(kinds: list[type[Provider]], request: Request, options: _Options) -> list[Quote]:
    """Ask a client that makes no call. A provider whose key is missing gets a text in its place."""
    providers = [kind() if kind.identity().found_in(os.environ) else kind("a key, which is not sent") for kind in kinds]
    path = options.ledger or usual()
    ledger = kling_async.open_ledger(path) if path.is_file() else None
    async with kling_async.Client(providers, ledger=ledger) as client:
        return await client.quote(request, prefer=preference(options.prefer))


def _not_offered(request: Any, kinds: list[type[Provider]]) -> NotOffered:
    from kling_async.providers.base import not_offered, options  # noqa: PLC0415  # rarely needed

    return not_offered(request, options(request, kinds), "no provider")


def _facts(each: Quote, keyed: set[str]) -> dict[str, Any]:
    facts = {
        "type": "quote",
        "endpoint": each.endpoint,
        "model": each.model,
        "available": each.available,
        "reason": each.reason or None,
        "cost": as_json(each.cost),
        "price": each.price if each.available else None,
        "source": each.source or None,
        "date": each.date.isoformat() if each.date else None,
        "median_seconds": round(each.median, 1) if each.median is not None else None,
        "p90_seconds": round(each.p90, 1) if each.p90 is not None else None,
        "learned": each.learned,
        "key": each.provider in keyed,
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _print(quotes: list[Quote], missing: list[str]) -> None:
    """Print the table of those that make it, the sources of their prices, and the others with the reasons.

    Args:
        quotes: The quotes.
        missing: The variables of the keys that are not in the environment.
    """
    console = Console(highlight=False)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("Endpoint", "Model", "Cost", "50% in", "90% in"):
        table.add_column(title, justify="left" if title in {"Endpoint", "Model"} else "right", no_wrap=True)
    sources = dict[str, None]()
    for each in quotes:
        if each.available:
            about = "about " if each.price == "estimated" else ""
            cost = f"{about}{each.cost}" if each.cost is not None else "unknown"
            table.add_row(each.endpoint, each.model or "", cost, duration(each.median or 0), duration(each.p90 or 0))
            if each.source:
                sources[f"{each.source}{f' ({each.date})' if each.date else ''}"] = None
    if table.row_count:
        console.print(table)
    if sources:
        console.print(Text(f"Prices from {'; '.join(map(printable, sources))}", style="dim"))
    others = [each for each in quotes if not each.available]
    if others:
        console.print(Text("Not offered:", style="bold"))
        for each in others:
            console.print(Text(f"  {each.endpoint}: {printable(each.reason)}"), soft_wrap=True)
    if missing:
        console.print(Text(f"Not in the environment: {', '.join(missing)}", style="dim"))

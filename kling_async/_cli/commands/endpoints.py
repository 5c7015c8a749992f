"""``kling endpoints``: the endpoints with their fields, allowed values, prices and times."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kling_async import Cost
from kling_async._cli.options import AsJson
from kling_async._cli.output.formatting import duration, printable
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._cli.request_arguments import complete_endpoint
from kling_async._rows.requests import PORTABLE, fields, find_any
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers.base import Endpoint

__all__ = ["endpoints"]

_EACH = 5  # values whose prices are all shown


def endpoints(
    endpoint: Annotated[
        str | None,
        typer.Argument(metavar="ENDPOINT", help="One endpoint. Defaults to all.", autocompletion=complete_endpoint),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List the endpoints with their fields."""
    report = choose_report(as_json=as_json, directory=None)
    with handle_errors(report):
        every: list[tuple[str, Endpoint[Any]]] = [("that of any provider", each) for each in PORTABLE.values()]
        every += [(kind.env_vars[0], each) for kind in ALL_PROVIDERS for each in kind.endpoints]
        if endpoint is not None:
            kinds, found = find_any(endpoint)
            every = [(" or ".join(kind.env_vars[0] for kind in kinds), found)]
        console = Console(highlight=False)
        for keys, each in every:
            if as_json:
                facts: dict[str, Any] = {"type": "endpoint", "endpoint": each.name, "schema": each.json_schema()}
                price = _price(each)
                facts |= {"price": str(price) if price else None, "typical_seconds": _typical(each)}
                facts |= {"prices": {f.name: prices for f in fields(each) if (prices := _prices(each, f.name))}}
                print(json.dumps(facts))  # noqa: T201  # what was asked for
                continue
            summary = (each.request.__doc__ or "").partition("\n")[0]
            if each is not every[0][1]:
                console.print()
            console.print(Text.assemble((each.name, "bold cyan"), f"  {summary} Key: {keys}"))
            console.print(f"  {_facts(each)}", soft_wrap=True)
            table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
            table.add_column(no_wrap=True, style="green", min_width=20)
            table.add_column()
            schema = each.request.model_json_schema()["properties"]
            for field in fields(each):
                default = "" if field.default is None else f" [{field.default}]"
                meaning = re.sub(r" Defaults to \S+\.$", "", printable(field.meaning))  # the brackets say it
                allowed = _allowed(schema.get(field.name, {}), field.meaning) + _priced(_prices(each, field.name))
                table.add_row(Text(field.option), Text.assemble(meaning, allowed, (default, "dim")))
            console.print(table)


def _price(endpoint: Endpoint[Any]) -> Cost | None:
    """The documented price with the default settings. If None, it depends on the request or is not documented."""
    try:
        request = endpoint.request.model_validate({"prompt": "a prompt"})
    except ValidationError:  # it needs more than a prompt, and its price may depend on that
        return None
    price = endpoint.price(request)
    return Cost(price.amount, price.unit) if price else None


def _prices(endpoint: Endpoint[Any], name: str) -> dict[str, str]:
    """The documented price of each value of a field, the others at their defaults. Empty if it makes no difference."""
    prices = {
        str(choice.value): str(Cost(choice.price.amount, choice.price.unit))
        for choice in endpoint.choices(name)
        if choice.price is not None
    }
    return prices if len(set(prices.values())) > 1 else {}


def _priced(prices: Mapping[str, str]) -> str:
    """The same in words: each, or the first and the last of many."""
    pairs = list(prices.items())
    if len(pairs) > _EACH:
        pairs, link = [pairs[0], pairs[-1]], " to "
    else:
        link = ", "
    return f" Price: {link.join(f'{value} {price}' for value, price in pairs)}." if pairs else ""


def _typical(endpoint: Endpoint[Any]) -> float:
    """The documented seconds for a job, at most with the default settings."""
    return round(endpoint.duration_prior(None).median, 1)


def _facts(endpoint: Endpoint[Any]) -> str:
    price = _price(endpoint)
    cost = f"{price} with the defaults" if price else "depends on the request"
    typical, deadline = duration(_typical(endpoint)), duration(endpoint.deadline)
    return f"Price: {cost}. Usual time: up to {typical}. Default timeout: {deadline}."


def _allowed(schema: Mapping[str, Any], meaning: str) -> str:
    """The values or limits that the field's schema has, and its description lacks."""
    values = [str(value) for value in schema.get("enum", ())]
    if values and not all(value in meaning for value in values):
        return f" One of {', '.join(values)}."
    longest = schema.get("maxLength")
    if longest is not None and str(longest) not in meaning.replace(",", "").replace(" ", ""):
        return f" At most {longest:,} characters."
    return ""

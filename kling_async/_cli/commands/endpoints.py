"""``kling endpoints``: what can be asked for, and how."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kling_async._cli.options import AsJson
from kling_async._cli.output.formatting import printable
from kling_async._cli.request_arguments import fields, find
from kling_async._cli.runner import choose_report, handle_errors
from kling_async.providers import ALL_PROVIDERS

__all__ = ["endpoints"]


def endpoints(
    endpoint: Annotated[
        str | None, typer.Argument(metavar="ENDPOINT", help="One of them; all, if none is named.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List the known endpoints with their fields."""
    report = choose_report(as_json=as_json, directory=None)
    with handle_errors(report):
        chosen = [find(endpoint)] if endpoint else [(kind, each) for kind in ALL_PROVIDERS for each in kind.endpoints]
        console = Console(highlight=False)
        for kind, each in chosen:
            if as_json:
                told = {"type": "endpoint", "endpoint": each.name, "schema": each.request.model_json_schema()}
                print(json.dumps(told))  # noqa: T201  # what was asked for
                continue
            summary = (each.request.__doc__ or "").partition("\n")[0]
            if each is not chosen[0][1]:
                console.print()
            console.print(Text.assemble((each.name, "bold cyan"), f"  {summary} Key: {kind.env_vars[0]}"))
            table = Table(box=None, padding=(0, 2, 0, 2), show_header=False)
            table.add_column(no_wrap=True, style="green", min_width=20)
            table.add_column()
            for field in fields(each):
                default = "" if field.default is None else f" [{field.default}]"
                table.add_row(Text(field.option), Text.assemble(printable(field.meaning), (default, "dim")))
            console.print(table)

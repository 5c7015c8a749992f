"""``kling mcp``: the library as tools of an assistant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kling_async import Budget
from kling_async._cli.errors import CommandError
from kling_async._cli.ledger import LedgerFile
from kling_async._cli.options import Output
from kling_async._cli.places import state_file
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._cli.runner import open_client
from kling_async.providers import ALL_PROVIDERS

__all__ = ["mcp"]


def mcp(
    *,
    budget: Annotated[
        float | None, typer.Option("--budget", metavar="USD", min=0, help="US dollars to spend at most.")
    ] = None,
    budget_credits: Annotated[
        float | None, typer.Option("--budget-credits", metavar="N", min=0, help="Credits to spend at most.")
    ] = None,
    output: Output = Path("out"),
    ledger: LedgerFile = None,
) -> None:
    """Serve an assistant by the Model Context Protocol, within a budget.

    It talks over standard input and output. The assistant buys generations within the budget, which counts over all
    starts with the same ledger. It reads no API key. Results are saved in the output directory. An entry of its
    configuration:

    {"command": "kling", "args": ["mcp", "--budget", "5", "--ledger", "/home/me/kling.db", "-o", "/home/me/out"]}
    """
    report = choose_report(as_json=False, directory=output)
    with handle_errors(report):
        if budget is None and budget_credits is None:
            raise CommandError("an assistant decides what is bought: give --budget USD or --budget-credits N")
        try:
            from kling_async.mcp import server  # noqa: PLC0415  # an extra that only this command needs
        except ImportError as error:
            raise CommandError(str(error)) from error
        output.mkdir(parents=True, exist_ok=True)
        memory = ledger or state_file("mcp.db")  # not the history: the budget counts all that its ledger has
        if isinstance(memory, Path):
            memory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        client = open_client(ALL_PROVIDERS, None, memory, budget=Budget(usd=budget, credits=budget_credits))
        server(client, output.resolve()).run()

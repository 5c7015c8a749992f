"""``kling balance``: what the accounts have left."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from kling_async import Client, ConfigurationError, Cost, KlingError, inspect_ledger
from kling_async._cli.errors import NO_KEY, USAGE, CommandError, explain
from kling_async._cli.ledger import LedgerFile, usual
from kling_async._cli.options import AsJson
from kling_async._cli.output.formatting import printable
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._cli.runner import open_client, run
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers.base import Provider

__all__ = ["balance"]

_RECENT = 200  # submissions in which a reported balance is looked for


def balance(
    provider: Annotated[
        str | None, typer.Argument(metavar="PROVIDER", help="Such as runware. Defaults to all whose keys are set.")
    ] = None,
    *,
    ledger: LedgerFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what the accounts have left, where the providers tell.

    Kling and Runware are asked. PixelDojo tells it with each purchase, so the last one of the ledger or of your history
    is shown. The others tell it on their websites alone.
    """
    report = choose_report(as_json=as_json, directory=None)
    with handle_errors(report):
        kinds = _chosen(provider)
        rows: list[dict[str, Any]] = []
        client = open_client(kinds, None)

        async def work() -> None:
            async with client:
                asked = [kind for kind in kinds if kind.name in client.statistics().providers]
                rows.extend([await _row(client, kind, ledger or usual()) for kind in asked])

        run(work, report)
        if as_json:
            for row in rows:
                print(json.dumps({"type": "balance", **row}))  # noqa: T201  # what was asked for
        else:
            _show(rows)
        codes = [row["exit_code"] for row in rows if "exit_code" in row]
        raise typer.Exit(codes[0] if codes else 0)


def _chosen(provider: str | None) -> list[type[Provider]]:
    if provider is None:
        return list(ALL_PROVIDERS)
    found = [kind for kind in ALL_PROVIDERS if kind.name == provider]
    if not found:
        known = ", ".join(kind.name for kind in ALL_PROVIDERS)
        raise CommandError(f"there is no provider {provider!r:.60} (known: {known})", code=USAGE)
    if not found[0].identity().found_in(os.environ):
        raise CommandError(f"no API key for {found[0].display_name}: export {found[0].env_vars[0]}=...", code=NO_KEY)
    return found


async def _row(client: Client, kind: type[Provider], history: Any) -> dict[str, Any]:
    """What one provider tells. Its error does not hide the others."""
    named = {"provider": kind.name}
    ask = getattr(getattr(client, kind.name, None), "balance", None)
    if ask is None:
        return named | await _reported(kind, history)
    try:
        balance = await ask()
    except KlingError as error:
        problem = explain(error)
        return named | {"left": None, "note": problem.sentence, "exit_code": problem.code}
    if isinstance(balance, Cost):
        return named | {"left": str(balance), "note": ""}
    return named | {"left": _words(balance), "note": "as the provider writes it"}


async def _reported(kind: type[Provider], history: Any) -> dict[str, Any]:
    """The last balance that came with a job."""
    try:
        contents = await inspect_ledger(history, endpoint=kind.name, last=_RECENT)
    except ConfigurationError:  # there is no history
        contents = None
    for submission in reversed(contents.submissions if contents else []):
        if submission.latest is not None and submission.latest.balance is not None:
            when = f"{submission.latest.at:%Y-%m-%d %H:%M} UTC"
            return {"left": str(submission.latest.balance), "note": f"after the last purchase, {when}"}
    return {"left": None, "note": f"{kind.display_name}'s API does not tell; see its website"}


def _words(fields: Mapping[str, Any]) -> str:
    """Fields that no document describes, as they are."""
    return ", ".join(f"{name} {value}" for name, value in fields.items() if isinstance(value, str | int | float))


def _show(rows: list[dict[str, Any]]) -> None:
    """Print a line for each. The notes may be long, and are not broken."""
    console = Console(highlight=False)
    width = max((len(row["left"] or "-") for row in rows), default=0)
    for row in rows:
        style = "red" if "exit_code" in row else "dim"
        left = f"{row['provider']:<12}{printable(row['left'] or '-'):<{width}}  "
        console.print(Text.assemble(left, (printable(row["note"]), style)), soft_wrap=True)

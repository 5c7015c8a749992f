"""``kling doctor``: whether everything is in place, each finding with its remedy."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import anyio
import typer
from rich.console import Console
from rich.text import Text

from kling_async import Cost
from kling_async._cli.atomic_file import written_anew
from kling_async._cli.bulk.command import parse_amounts
from kling_async._cli.bulk.other_runs import Unit
from kling_async._cli.doctor.checks import at_home, at_providers, keyed
from kling_async._cli.doctor.findings import Finding
from kling_async._cli.doctor.spend import Purchase, Trial, affordable, cheapest
from kling_async._cli.errors import FAILED, NO_KEY, CommandError
from kling_async._cli.file_names import ensure_writable
from kling_async._cli.ledger import LedgerFile
from kling_async._cli.options import AsJson, Timeout, options_from
from kling_async._cli.output.formatting import printable
from kling_async._cli.output.reports import Report
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._cli.runner import destination, run
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers.base import Provider

__all__ = ["doctor"]

_COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "error": "bold red"}


@dataclass(frozen=True, slots=True)
class _Options:
    """The arguments of ``kling doctor``."""

    offline: Annotated[bool, typer.Option("--offline", help="Make no call.")] = False
    spend: Annotated[
        bool, typer.Option("--spend", help="Buy the cheapest generation at each provider, and compare the replies.")
    ] = False
    budget: Annotated[
        str | None,
        typer.Option(metavar="AMOUNT", help="With --spend: at most this, such as 1usd or 1usd,20credits."),
    ] = None
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --spend: do not ask.")] = False
    provider: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this provider. May be repeated.")] = (
        None
    )
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="With --spend: where results and report.json go.")
    ] = Path("kling-doctor")
    timeout: Timeout = None
    ledger: LedgerFile = None
    as_json: AsJson = False

    def kinds(self) -> list[type[Provider]]:
        """The providers that are asked.

        Raises:
            CommandError: One is not known.
        """
        known = {kind.name: kind for kind in ALL_PROVIDERS}
        for name in self.provider or ():
            if name not in known:
                raise CommandError(f"--provider {name!r:.60}: it is one of {', '.join(known)}")
        return [kind for kind in keyed() if not self.provider or kind.name in self.provider]


@options_from(_Options)
def doctor(options: _Options) -> None:
    """Check keys, region, clock, proxy, certificates, ledger and versions. It costs nothing.

    Each finding is a line with its remedy. Exit code 1: there is an error. Each provider whose key is set is asked for
    a job that nobody has.

    With --spend it buys the cheapest generation at each of them, within --budget, after it has told the price and
    asked. It compares the shape of every reply with the recorded ones, and writes report.json without keys, ids,
    prompts and addresses, to be attached to an issue.
    """
    report = choose_report(as_json=options.as_json, directory=options.output, resumable=options.spend)
    with handle_errors(report):
        kinds = options.kinds()
        if options.spend and options.budget is None:
            raise CommandError("--spend buys: give --budget AMOUNT, such as 1usd or 1usd,20credits; nothing was bought")
        if options.spend and options.offline:
            raise CommandError("--spend makes calls, and --offline makes none: leave one of them out")
        amounts = parse_amounts(options.budget) if options.budget is not None else {}
        findings = anyio.run(at_home, options.ledger)
        _show(findings, as_json=options.as_json)
        if not options.offline and kinds:
            asked = anyio.run(at_providers, kinds)
            _show(asked, as_json=options.as_json)
            findings += asked
        if options.spend:
            findings += _spend(options, kinds, amounts, findings, report)
        errors = sum(finding.state == "error" for finding in findings)
        warnings = sum(finding.state == "warning" for finding in findings)
        report.say(f"{errors or 'no'} error{'s' * (errors != 1)}, {warnings or 'no'} warning{'s' * (warnings != 1)}")
        raise typer.Exit(FAILED if errors else 0)


def _spend(
    options: _Options,
    kinds: Sequence[type[Provider]],
    amounts: Mapping[Unit, Decimal],
    findings: Sequence[Finding],
    report: Report,
) -> list[Finding]:
    """Buy, after the price was told and agreed to.

    Raises:
        CommandError: There is no key, nothing fits, or nobody agreed.
    """
    if not kinds:
        raise CommandError("no API key is set: there is nothing to try; nothing was bought", code=NO_KEY)
    broken = {finding.area for finding in findings if finding.state == "error"}
    found = {kind.name: cheapest(kind) for kind in kinds if kind.name not in broken}
    unpriced = [
        Finding(name, "note", "not tried: it states no price that is known before a purchase")
        for name, purchase in found.items()
        if purchase is None
    ]
    fitting, left_out = affordable([each for each in found.values() if each is not None], amounts)
    _show([*unpriced, *left_out], as_json=options.as_json)
    if not fitting:
        raise CommandError("there is nothing to try within the budget; nothing was bought")
    _agree(fitting, report, yes=options.yes)
    directory = destination(options.output) / f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    trial = Trial(directory, report, options.timeout)
    anyio.run(ensure_writable, directory)
    report.interrupt_note = None
    try:
        run(lambda: trial.run(fitting, amounts), report)
    finally:
        path = directory / "report.json"
        with written_anew(path) as file:
            file.write(json.dumps(trial.written([*findings, *trial.findings]), indent=1).encode())
        _show(trial.findings, as_json=options.as_json)
        report.product(str(path))
    return [*unpriced, *left_out, *trial.findings]


def _agree(purchases: Sequence[Purchase], report: Report, *, yes: bool) -> None:
    """Tell the price, and ask.

    Raises:
        CommandError: The user does not agree, or is not there to be asked.
    """
    for purchase in purchases:
        report.say(f"  {purchase}")
    sums: dict[Unit, Decimal] = {}
    for purchase in purchases:
        sums[purchase.price.unit] = sums.get(purchase.price.unit, Decimal(0)) + purchase.price.amount
    report.say(f"together: {' and '.join(str(Cost(amount, unit)) for unit, amount in sums.items())}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandError("nobody is there to be asked: to buy these, add --yes; nothing was bought")
    if not typer.confirm("Buy them?", err=True):
        raise CommandError("nothing was bought")


def _show(findings: Sequence[Finding], *, as_json: bool) -> None:
    console = Console(highlight=False)
    for finding in findings:
        if as_json:
            print(json.dumps(finding.as_json()), flush=True)  # noqa: T201  # what was asked for
            continue
        state = (f"{finding.state:<8}", _COLOURS[finding.state])
        console.print(Text.assemble(state, (f"{finding.area:<12}", "bold"), printable(finding.text)), soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"{'':8}{'':12}-> {printable(finding.remedy)}", style="dim"), soft_wrap=True)

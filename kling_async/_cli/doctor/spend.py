"""``kling doctor --spend``: the cheapest generation at each provider, and how its replies differ from the recorded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import kling_async
from kling_async import Budget, Client, Cost, KlingError, Polling, Request, SqliteLedger
from kling_async._cli.bulk.other_runs import Unit
from kling_async._cli.doctor.findings import Finding
from kling_async._cli.doctor.shapes import Difference, differences, redacted
from kling_async._cli.doctor.taps import Exchange, tapped
from kling_async._cli.errors import explain
from kling_async._cli.output.events import JobStarted
from kling_async._cli.output.formatting import duration, plural
from kling_async._cli.output.reports import Report
from kling_async._cli.runner import collect, sandbox_speed
from kling_async.providers.base import Endpoint, Price, Provider, UnreadableReply

__all__ = ["Purchase", "Trial", "affordable", "cheapest"]

_PROMPT = "a red cube on a white table"
_FIELDS = ("resolution", "duration", "model", "mode", "quality", "audio", "sound")
"""What a price depends on."""
_ID = re.compile(r"[0-9a-fA-F-]{16,}|[A-Za-z0-9_-]{20,}|\d{6,}")
_SHOWN = 5  # differences that are named


@dataclass(frozen=True, slots=True)
class Purchase:
    """One generation that would be bought."""

    kind: type[Provider]
    endpoint: Endpoint[Any]
    request: Request
    price: Price

    def __str__(self) -> str:
        about = "about " if self.price.estimated else ""
        return f"{self.endpoint.name}: {about}{Cost(self.price.amount, self.price.unit)}"


def cheapest(kind: type[Provider]) -> Purchase | None:
    """The cheapest generation that needs no more than a prompt. None if the provider states no price."""
    found = [made for endpoint in kind.endpoints if (made := _cheapest_at(kind, endpoint)) is not None]
    return min(found, key=lambda each: each.price.amount, default=None)


def _cheapest_at(kind: type[Provider], endpoint: Endpoint[Any]) -> Purchase | None:
    given: dict[str, Any] = {"prompt": _PROMPT}
    try:
        request = endpoint.request.model_validate(given)
    except ValidationError:  # it needs more than a prompt
        return None
    price = endpoint.price(request)
    for name in _FIELDS:
        if name not in endpoint.request.model_fields:
            continue
        for choice in endpoint.choices(name, request):
            if choice.price is None or (price is not None and choice.price.amount >= price.amount):
                continue
            try:
                request, given = (
                    endpoint.request.model_validate({**given, name: choice.value}),
                    {**given, name: choice.value},
                )
            except ValidationError:
                continue
            price = endpoint.price(request)
    return None if price is None else Purchase(kind, endpoint, request, price)


def affordable(purchases: Sequence[Purchase], amounts: Mapping[Unit, Decimal]) -> tuple[list[Purchase], list[Finding]]:
    """What fits into the budget, the cheapest first, and what does not."""
    left = dict(amounts)
    fitting, findings = [], []
    for each in sorted(purchases, key=lambda purchase: purchase.price.amount):
        unit = each.price.unit
        if left.get(unit, Decimal(0)) < each.price.amount:
            text = f"not bought, because the budget has no room for it: {each}"
            findings.append(Finding(each.kind.name, "note", text, f"give a larger --budget, in {unit}"))
            continue
        left[unit] -= each.price.amount
        fitting.append(each)
    return fitting, findings


@dataclass(slots=True)
class Trial:
    """The purchases, and what came of them.

    Attributes:
        directory: Where the ledger, the results and the report go.
        report: Receives the events of the jobs.
        findings: What was found, by provider.
        entries: The same for the file.
    """

    directory: Path
    report: Report
    timeout: float | None = None
    findings: list[Finding] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)

    async def run(self, purchases: Sequence[Purchase], amounts: Mapping[Unit, Decimal]) -> None:
        """Buy one after the other. A failure is a finding, and does not stop the others."""
        logs: dict[str, list[Exchange]] = {each.kind.name: [] for each in purchases}
        providers = [tapped(each.kind().with_environment(os.environ), logs[each.kind.name]) for each in purchases]
        budget = Budget(usd=amounts.get("USD"), credits=amounts.get("credits"))
        ledger = SqliteLedger(self.directory / "ledger.db")
        polling = Polling(deadline=self.timeout)
        async with Client(providers, ledger=ledger, budget=budget, polling=polling) as client:
            for each in purchases:
                await self._buy(client, each, logs[each.kind.name])

    async def _buy(self, client: Client, purchase: Purchase, log: list[Exchange]) -> None:
        failure: KlingError | None = None
        job = None
        try:
            job = await client.submit(purchase.request, key=purchase.endpoint.name)
            expected = purchase.endpoint.duration_prior(purchase.request).median / sandbox_speed(purchase.kind)
            self.report.emit(JobStarted(job.ref, expected))
            await collect(job, self.directory, self.report)
        except KlingError as error:
            failure = error
        name = purchase.kind.name
        found = list(
            dict.fromkeys((each.operation, d) for each in log for d in differences(name, each.operation, each.reply))
        )
        seconds = job.events[-1].elapsed if job is not None and job.events else None
        cost = str(job.cost) if job is not None and job.cost is not None else None
        self.findings.extend(self._judged(purchase, failure, found, log, seconds, cost))
        self.entries.append(
            {
                "provider": name,
                "endpoint": purchase.endpoint.name,
                "settings": {k: v for k, v in purchase.request.describe().items() if k != "prompt"},
                "price": str(Cost(purchase.price.amount, purchase.price.unit)),
                "cost": cost,
                "status": None if job is None else str(job.status),
                "seconds": seconds,
                "documented_median_seconds": purchase.endpoint.duration_prior(purchase.request).median,
                "error": None
                if failure is None
                else {"kind": type(failure).__name__, "code": failure.code, "http_status": failure.http_status},
                "differences": [
                    {"operation": op, "kind": d.kind, "place": d.place, "found": d.found} for op, d in found
                ],
                "exchanges": [_told(each) for each in log],
            }
        )

    def _judged(
        self,
        purchase: Purchase,
        failure: KlingError | None,
        found: Sequence[tuple[str, Difference]],
        log: Sequence[Exchange],
        seconds: float | None,
        cost: str | None,
    ) -> Iterator[Finding]:
        name, page = purchase.kind.name, self.directory / "report.json"
        if failure is not None:
            problem = explain(failure)
            yield Finding(name, "error", f"{purchase.endpoint.name}: {problem.message}", "; ".join(problem.next_steps))
        else:
            usual = duration(purchase.endpoint.duration_prior(purchase.request).median / sandbox_speed(purchase.kind))
            took = "" if seconds is None else f" in {duration(seconds)} (usually {usual})"
            quoted = Cost(purchase.price.amount, purchase.price.unit)
            charged = cost or "a cost that it does not tell"
            yield Finding(name, "ok", f"{purchase.endpoint.name}: made{took}, for {charged} (quoted: {quoted})")
            if cost is not None and cost != str(quoted) and not purchase.price.estimated:
                yield Finding(name, "warning", f"it cost {cost}, and {quoted} was quoted", f"attach {page} to an issue")
        telling = [(operation, d) for operation, d in found if d.kind != "header"]
        if telling:
            shown = "; ".join(f"{operation}: {difference}" for operation, difference in telling[:_SHOWN])
            more = f"; and {len(telling) - _SHOWN} more" if len(telling) > _SHOWN else ""
            text = f"{plural(len(telling), 'difference')} from the recorded replies: {shown}{more}"
            yield Finding(name, "warning", text, f"attach {page} to an issue; it has no key, id, prompt or address")
        elif log:
            yield Finding(name, "ok", f"{plural(len(log), 'answer')}, shaped as recorded")

    def written(self, findings: Sequence[Finding]) -> dict[str, Any]:
        """The file that can be attached to an issue."""
        return {
            "kling_async": kling_async.__version__,
            "findings": [{"area": each.area, "state": each.state} for each in findings],
            "providers": self.entries,
        }


def _told(exchange: Exchange) -> dict[str, Any]:
    """An exchange without anything that is somebody's."""
    try:
        body = redacted(exchange.reply.json())
    except UnreadableReply:
        body = f"<{exchange.reply.media_type or 'no content type'}, {len(exchange.reply.content)} bytes>"
    path = exchange.call.url.partition("?")[0]
    return {
        "operation": exchange.operation,
        "method": exchange.call.method,
        "path": _ID.sub("<id>", path) if path.startswith("/") else "<address>",
        "http_status": exchange.reply.status,
        "headers": sorted(exchange.reply.headers),
        "milliseconds": round(exchange.seconds * 1000),
        "body": body,
    }

"""The page at `/`: the newest jobs, the counters, the active faults, and what a prompt or a fault can ask for."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse

from kling_async.sandbox.emulator.jobs import DIRECTIVES, Phase
from kling_async.sandbox.faults.catalog import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kling_async.sandbox.emulator.jobs import Job
    from kling_async.sandbox.emulator.provider_state import ProviderState
    from kling_async.sandbox.providers.emulation import Emulation

_SHOWN = 100  # jobs
_PROMPT = 120  # characters
_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
_HOW_TO = (
    "<p>Switch a fault on with <code>--fault NAME:KIND:OPTION=VALUE</code>, with <code>POST /_sandbox/faults</code> "
    "or with <code>sandbox.faults.add(...)</code>.</p>"
)
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem }
:root { color-scheme: light dark }
table { border-collapse: collapse; width: 100%; margin-bottom: 1.5rem }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; vertical-align: top }
code { font-size: .9em; overflow-wrap: anywhere }
.completed { color: #188038 } .failed, .cancelled { color: #d93025 }
"""


def status_page(state: ProviderState, emulations: Mapping[str, Emulation]) -> HTMLResponse:
    """The page as it is now. It reloads itself, holds no key, and only links to results, so that none is drawn."""
    jobs = list(state.jobs.values())
    counters = state.counters
    newest = [_job(state, job) for job in reversed(jobs[-_SHOWN:])]
    providers = [_provider(state, name, emulation) for name, emulation in emulations.items()]
    rules = [(rule.fault, _options(rule.as_dict())) for rule in state.faults.rules]
    facts = (
        f"{len(jobs)} jobs",
        f"{counters.status_calls} status calls",
        f"{counters.renders} files drawn",
        f"speed {state.clock.speed:g}",
    )
    parts = [
        f"<h1>kling sandbox</h1><p>{', '.join(facts)}. Nothing here costs money.</p>",
        _table("Jobs", ("Job", "Status", "Age", "Prompt", "Results"), newest),
        _table("Providers", ("Provider", "Base URL", "Jobs", "Status calls", "Rate limit"), providers),
        _table("Active faults", ("Fault", "Options"), (map(_code, rule) for rule in rules)),
        _table(
            "Directives in a prompt", ("Directive", "Effect"), ((_code(a), escape(b)) for a, b in DIRECTIVES.items())
        ),
        _table("Faults", ("Fault", "Effect"), ((_code(fault), escape(fault.description)) for fault in Fault)),
        _HOW_TO,
    ]
    head = '<meta charset="utf-8"><meta http-equiv="refresh" content="3"><title>kling sandbox</title>'
    page = (
        f'<!doctype html><html lang="en"><head>{head}<style>{_STYLE}</style></head><body>{"".join(parts)}</body></html>'
    )
    return HTMLResponse(page, headers=_HEADERS)


def _table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{head}</th>" for head in heads)
    return f"<h2>{title}</h2>" + (f"<table><tr>{head}</tr>{body}</table>" if body else "<p>None.</p>")


def _job(state: ProviderState, job: Job) -> tuple[str, ...]:
    phase = state.phase(job)
    end = job.ends if phase.terminal else state.clock.now()
    prompt = job.order.prompt
    shown = prompt if len(prompt) <= _PROMPT else f"{prompt[:_PROMPT]}..."
    files = [file for file in job.files if file.failure is None] if phase is Phase.COMPLETED else []
    links = " ".join(f'<a href="{escape(state.file_url(job, file))}">{n}</a>' for n, file in enumerate(files, 1))
    reason = f": {escape(job.failure)}" if phase is Phase.FAILED and job.failure else ""
    name = f"{job.provider}/{job.order.endpoint}<br>{_code(job.id)}"
    return name, f'<span class="{phase}">{phase}</span>{reason}', f"{end - job.created:.0f} s", escape(shown), links


def _provider(state: ProviderState, name: str, emulation: Emulation) -> tuple[str, ...]:
    limits = {account.rate_limit for account in state.accounts(name)}
    limit = ", ".join("none" if limit is None else f"{limit} status calls a minute" for limit in limits)
    calls = state.counters.requests[name, "status"]
    return name, _code(f"/{name}{emulation.base_path}"), str(state.counters.bought[name]), str(calls), limit


def _options(rule: Mapping[str, object]) -> str:
    given = {name: value for name, value in rule.items() if name != "fault" and value not in {None, False}}
    return " ".join(f"{name}={value}" for name, value in given.items())


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"

"""How a status report changes a job: the only way into its event log.

Theory of operation
-------------------
The answer to a submission, a poll, a line of a stream, a webhook and an entry of the ledger all become *status
reports*. Reports may come twice, late, or contradict each other. `advance` compares a report with the latest *event*,
which holds all that is known. It returns the next event, or None if the report changes nothing. So:

- A status only rises (`STATUS_ORDER`). Within a status the provider's own steps only rise, progress only grows, and
  files and log lines are only added. A late or repeated report changes nothing. The position in the provider's queue
  is what was reported last, while the job is pending.
- A terminal status is final. Later reports are dropped, so the first end that is reported is the end.
- A report with a status that is not understood does not change the status.

The reports may come in any order, several times, or in part: if the end is among them, the job comes to the same end.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from kling_async._models import Artifact, Event, Source, Status, StatusReport

__all__ = ["STATUS_ORDER", "advance"]

STATUS_ORDER = {
    Status.PENDING: 0,
    Status.PROCESSING: 1,
    Status.COMPLETED: 2,
    Status.FAILED: 2,
    Status.CANCELLED: 2,
}


def advance(latest: Event | None, report: StatusReport, *, source: Source, at: float, started: float) -> Event | None:
    """Return the event that follows from a status report. None if the report changes nothing.

    Args:
        latest: The job's last event. None if it has none yet.
        report: What was reported.
        source: How it was reported.
        at: When it was reported, in POSIX seconds.
        started: When the job was submitted, in POSIX seconds.
    """
    when = datetime.fromtimestamp(at, UTC)
    base = latest or _NOTHING_KNOWN
    changes = _changes(base, report, when)
    if changes is None:
        return None
    return Event(seq=base.seq + 1, at=when, elapsed=max(0.0, at - started), source=source, **changes)


_NOTHING_KNOWN = Event(-1, Status.PENDING, datetime.fromtimestamp(0, UTC), 0.0, "submit", step=-1)


def repeats(report: StatusReport, status: Status) -> bool:
    """Whether a report says of a job that has an event only what is known: `advance` would find that nothing changes.

    Most polls say no more, and `advance` costs twenty times as much as this.
    """
    return report.status is status and not (
        report.step
        or report.progress is not None
        or report.queue_position is not None
        or report.artifacts
        or report.logs
    )


def _changes(base: Event, report: StatusReport, when: datetime) -> dict[str, Any] | None:
    """Return what `base` and the report of that time together come to, by field. None if the report changes nothing."""
    if base.status.terminal:
        return None
    status = report.status or base.status
    step = report.step if report.status else max(base.step, 0)
    reported, known = (STATUS_ORDER[status], step), (STATUS_ORDER[base.status], base.step)
    progress = max((part for part in (base.progress, report.progress) if part is not None), default=None)
    artifacts = _union(base.artifacts, report, when)
    position = base.queue_position
    if reported >= known and report.queue_position is not None:
        position = report.queue_position
    if status is not Status.PENDING:
        position = None
    logs = report.logs if len(report.logs) > len(base.logs) else base.logs
    more = len(artifacts) > len(base.artifacts) or len(logs) > len(base.logs)
    moved = progress != base.progress or position != base.queue_position
    if not (reported > known or more or moved):
        return None
    higher = reported > known
    return {
        "status": status if higher else base.status,
        "step": step if higher else base.step,
        # A message belongs to the status it came with: a late report must not put an old message on a new status.
        "message": report.message if reported >= known else base.message,
        "choice": report.choice,  # of the first event alone
        "progress": progress,
        "artifacts": artifacts,
        "failures": report.failures or base.failures,
        "cost": report.cost or base.cost,
        "balance": report.balance or base.balance,
        "queue_position": position,
        "logs": logs,
        "raw": report.raw if status.terminal else base.raw,
    }


def _union(known: tuple[Artifact, ...], report: StatusReport, when: datetime) -> tuple[Artifact, ...]:
    """Return the known files and the new ones, numbered in the order in which they became known."""
    if not report.artifacts:
        return known
    files = {artifact.identity: artifact for artifact in known}
    for artifact in report.artifacts:
        if artifact.identity not in files:
            expires = artifact.expires if report.lifetime is None else when + timedelta(seconds=report.lifetime)
            files[artifact.identity] = replace(artifact, index=len(files), expires=expires)
    return tuple(files.values())

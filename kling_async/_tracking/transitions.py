"""The one door through which everything said about a job enters its log.

Theory of operation
-------------------
Submit answers, polls, stream lines, webhook bodies and ledger entries are all *readings*: claims, made once, that may
repeat, arrive late, or contradict each other. `advance` compares a reading with the latest *event*, which is the whole
of what is known, and answers with the next event, or with None when the reading says nothing new. So:

- A status only rises (`STATUS_ORDER`); within a status the provider's own steps only rise; progress only grows; files
  only accumulate. A late or repeated reading changes nothing.
- A terminal status is absorbing: whatever comes after it is dropped, so the first end that is heard is the end.
- A reading whose status is not understood leaves the status alone.

Any order, repetition or loss of readings that include the end leads to the same end, and the log is monotone.
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
    """The event that `report` amounts to, or None if it changes nothing.

    Args:
        latest: The job's last event; None if it has none yet.
        report: What was said.
        source: Where it was said.
        at: When, in POSIX seconds.
        started: When the job was submitted, in POSIX seconds.
    """
    when = datetime.fromtimestamp(at, UTC)
    if report.lifetime is not None:
        expires = when + timedelta(seconds=report.lifetime)
        report = replace(report, artifacts=tuple(replace(a, expires=expires) for a in report.artifacts))
    base = latest or Event(-1, Status.PENDING, when, 0.0, source, step=-1)
    changes = _changes(base, report)
    if changes is None:
        return None
    elapsed = max(0.0, at - started)
    return replace(base, seq=base.seq + 1, at=when, elapsed=elapsed, source=source, **changes)


def _changes(base: Event, report: StatusReport) -> dict[str, Any] | None:
    """The fields of `base` that `report` changes; None if it brings no news."""
    if base.status.terminal:
        return None
    status = report.status or base.status
    step = report.step if report.status else max(base.step, 0)
    said, known = (STATUS_ORDER[status], step), (STATUS_ORDER[base.status], base.step)
    progress = max((part for part in (base.progress, report.progress) if part is not None), default=None)
    artifacts = _union(base.artifacts, report.artifacts)
    if not (said > known or progress != base.progress or len(artifacts) > len(base.artifacts)):
        return None
    changes: dict[str, Any] = {
        "progress": progress,
        "artifacts": artifacts,
        "failures": report.failures or base.failures,
        "cost": report.cost or base.cost,
        "balance": report.balance or base.balance,
    }
    if said > known:
        changes |= {"status": status, "step": step}
    if said >= known:
        # Words belong to the stage they were said about: a late reading must not put old ones on a new stage.
        changes["message"] = report.message
    if status.terminal:
        changes["raw"] = report.raw
    return changes


def _union(known: tuple[Artifact, ...], named: tuple[Artifact, ...]) -> tuple[Artifact, ...]:
    """The files known and the ones newly named, numbered in the order in which they became known."""
    files = {artifact.identity: artifact for artifact in known}
    for artifact in named:
        files.setdefault(artifact.identity, replace(artifact, index=len(files)))
    return tuple(files.values())

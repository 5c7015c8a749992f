"""Events as JSON lines for programs, on standard output, and nothing else there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kling_async import Artifact, Event, JobRef, Status, Submission
from kling_async._cli.errors import INTERRUPTED
from kling_async._cli.output.events import (
    CancellationRequested,
    Estimated,
    Failed,
    FilesSaved,
    Interrupted,
    JobChanged,
    JobSubmitted,
    JobUnresolved,
    ReportEvent,
    RowDone,
    RowsRejected,
    RunDone,
    SellerChosen,
    Unfinished,
    Warned,
)
from kling_async._cli.output.text import say
from kling_async._rows.advice import as_commands
from kling_async._rows.amounts import as_json

if TYPE_CHECKING:
    from kling_async._cli.bulk.progress import BulkProgress

__all__ = ["JsonRenderer"]


class JsonRenderer:
    """Shows events as JSON objects, one a line. Each has a ``type``."""

    def render(self, event: ReportEvent) -> None:
        """Write an event, or nothing if programs need not read it."""
        match event:
            case Warned(text):
                say(text)  # the user of the program sees it, and no reader of the results does
            case SellerChosen(ref, choice):
                passed_over = [{"endpoint": endpoint, "reason": reason} for endpoint, reason in choice.passed_over]
                _write(
                    type="chosen",
                    ref=str(ref),
                    endpoint=choice.endpoint,
                    reason=choice.reason,
                    passed_over=passed_over,
                )
            case JobChanged(ref, change):
                _write(type="event", **_change(ref, change))
            case FilesSaved(result, paths):
                artifacts = [_artifact(artifact, path) for artifact, path in zip(result.artifacts, paths, strict=True)]
                _write(
                    type="result",
                    ref=str(result.ref),
                    status=Status.COMPLETED,
                    cost=as_json(result.cost),
                    artifacts=artifacts,
                    failures=[str(failure) for failure in result.failures],
                )
            case JobSubmitted(ref, cost, command):
                _write(type="submitted", ref=str(ref), cost=as_json(cost), watch=command)
            case CancellationRequested(ref, accepted, status):
                _write(type="cancel", ref=str(ref), accepted=accepted, status=status)
            case JobUnresolved(submission):
                _write(type="unresolved", **_unresolved(submission))
            case Failed(problem, unfinished):
                _write(**problem.as_json(), **_unfinished(unfinished))
            case Interrupted(message, unfinished):
                _write(type="interrupted", message=message, exit_code=INTERRUPTED, **_unfinished(unfinished))
            case _:
                _render_bulk(event)

    def close(self) -> None:
        """Do nothing: every line is complete."""


def _render_bulk(event: ReportEvent) -> None:
    match event:
        case RowsRejected(rows):
            for row in rows:
                _write(type="bad-row", **asdict(row))
        case Estimated(rows, todo, endpoints):
            sums = {name: each.as_json() for name, each in endpoints.items()}
            _write(type="dry-run", rows=rows, todo=todo, endpoints=sums)
        case RowDone(record):
            _write(type="row", **asdict(record))
        case RunDone(progress, outputs):
            _write(type="summary", **_summary(progress), outputs=outputs)


def _write(**fields: Any) -> None:
    """Write one line. Non-ASCII is escaped, so a line is safe to show on a terminal, too."""
    print(json.dumps(fields, default=str), flush=True)  # noqa: T201  # a command line program prints


def _change(ref: JobRef, event: Event) -> dict[str, Any]:
    return {
        "ref": str(ref),
        "seq": event.seq,
        "status": event.status,
        "at": event.at.isoformat(),
        "elapsed": round(event.elapsed, 3),
        "source": event.source,
        "progress": event.progress,
        "message": event.message,
        "queue_position": event.queue_position,
        "logs": event.logs,
    }


def _artifact(artifact: Artifact, path: Path) -> dict[str, Any]:
    return {
        "kind": artifact.kind,
        "path": str(path),
        "bytes": path.stat().st_size,
        "url": artifact.url,
        "seed": artifact.seed,
        "expires": artifact.expires.isoformat() if artifact.expires else None,
    }


def _unresolved(submission: Submission) -> dict[str, Any]:
    return {
        "key": submission.key,
        "endpoint": submission.endpoint,
        "state": submission.state,
        "reason": submission.reason,
        "next_steps": as_commands(submission.remedies),
    }


def _unfinished(unfinished: Iterable[Unfinished]) -> dict[str, Any]:
    left = [{"ref": str(job.ref), "status": job.status, "watch": job.command} for job in unfinished]
    return {"unfinished": left} if left else {}


def _summary(progress: BulkProgress) -> dict[str, Any]:
    return {
        "rows": progress.rows,
        "states": {state: count for state, count in progress.states.items() if count},
        "spent": {cost.unit: cost.amount.normalize() + 0 for cost in progress.spent.values()},
        "estimated": {name: as_json(cost) for name, cost in progress.estimated.items()},
        "seconds": round(progress.seconds, 3),
    }

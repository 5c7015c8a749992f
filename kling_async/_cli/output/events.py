"""What a command reports: one dataclass for each kind of event. The renderers decide what users see of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from kling_async import Choice, Cost, Event, JobRef, Result, Status, Submission
from kling_async._cli.errors import Problem

if TYPE_CHECKING:
    from kling_async._cli.bulk.plan import EndpointEstimate
    from kling_async._cli.bulk.progress import BulkProgress
    from kling_async._rows.reader import BadRow
    from kling_async._rows.records import Record

__all__ = [
    "AllJobsEnded",
    "CancellationRequested",
    "Estimated",
    "Failed",
    "FileProgress",
    "FilesSaved",
    "Interrupted",
    "JobChanged",
    "JobOver",
    "JobStarted",
    "JobSubmitted",
    "JobUnresolved",
    "Note",
    "Product",
    "ReportEvent",
    "RowDone",
    "RowsRejected",
    "RunDone",
    "RunProgressed",
    "RunStarted",
    "SellerChosen",
    "Submitting",
    "Unfinished",
    "Warned",
]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A job whose files are not saved.

    Attributes:
        ref: The job.
        status: Its last known status.
        command: The command that continues with it.
    """

    ref: JobRef
    status: Status
    command: str


@dataclass(frozen=True, slots=True)
class Note:
    """A message for a person."""

    text: str


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning of the library. It is shown to people also if programs read the results."""

    text: str


@dataclass(frozen=True, slots=True)
class Product:
    """A line of what the user asked for: it goes to standard output."""

    text: str


@dataclass(frozen=True, slots=True)
class Submitting:
    """The paid call is being made, which may take a minute."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class JobStarted:
    """The command follows a job from now on. `expected` is the usual number of seconds, if it is known."""

    ref: JobRef
    expected: float | None = None


@dataclass(frozen=True, slots=True)
class SellerChosen:
    """A provider took a portable request, or had taken it before."""

    ref: JobRef
    choice: Choice

    @property
    def text(self) -> str:
        """It in words."""
        return f"chosen: {self.choice}"


@dataclass(frozen=True, slots=True)
class JobChanged:
    """A job has a new event."""

    ref: JobRef
    event: Event


@dataclass(frozen=True, slots=True)
class FileProgress:
    """A part of a job's file has arrived: bytes so far, and in all if that is known."""

    ref: JobRef
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class FilesSaved:
    """All files of a job are saved."""

    result: Result
    paths: Sequence[Path]


@dataclass(frozen=True, slots=True)
class JobSubmitted:
    """A job was bought, and the command does not wait for it."""

    ref: JobRef
    cost: Cost | None
    command: str


@dataclass(frozen=True, slots=True)
class JobOver:
    """A job ended without files, so there is nothing to continue with."""

    ref: JobRef


@dataclass(frozen=True, slots=True)
class CancellationRequested:
    """The provider was asked to cancel a job, and accepted that or not. The job has this status now."""

    ref: JobRef
    accepted: bool
    status: Status


@dataclass(frozen=True, slots=True)
class JobUnresolved:
    """The outcome of a submission of the ledger is still not known."""

    submission: Submission


@dataclass(frozen=True, slots=True)
class AllJobsEnded:
    """No job changes any more. Only messages follow."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An error, about one job or about the command, and the jobs that it leaves unfinished."""

    problem: Problem
    unfinished: Sequence[Unfinished] = ()


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The user stopped the command. `message` names what was bought."""

    message: str
    unfinished: Sequence[Unfinished] = ()


@dataclass(frozen=True, slots=True)
class RowsRejected:
    """Rows of a bulk file are not valid."""

    rows: Sequence[BadRow]


@dataclass(frozen=True, slots=True)
class Estimated:
    """What a bulk run would cost: all rows, the rows that it would buy, and a sum for each endpoint."""

    rows: int
    todo: int
    endpoints: Mapping[str, EndpointEstimate]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A bulk run begins. `progress` is updated while it runs."""

    progress: BulkProgress


@dataclass(frozen=True, slots=True)
class RunProgressed:
    """Some time of a bulk run has passed."""


@dataclass(frozen=True, slots=True)
class RowDone:
    """A bulk run is done with a row."""

    record: Record


@dataclass(frozen=True, slots=True)
class RunDone:
    """A bulk run has ended.

    Attributes:
        progress: How far it came.
        outputs: The files or objects that describe it.
        cause: The kind of the error that stopped it, which is reported next. If None, it came to its end.
    """

    progress: BulkProgress
    outputs: Sequence[Path | str]
    cause: str | None = None


ReportEvent: TypeAlias = (
    Note
    | SellerChosen
    | Warned
    | Product
    | Submitting
    | JobStarted
    | JobChanged
    | FileProgress
    | FilesSaved
    | JobSubmitted
    | JobOver
    | CancellationRequested
    | JobUnresolved
    | AllJobsEnded
    | Failed
    | Interrupted
    | RowsRejected
    | Estimated
    | RunStarted
    | RunProgressed
    | RowDone
    | RunDone
)

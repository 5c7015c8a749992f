"""What has become of one row of a bulk run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kling_async._errors import DownloadFailed, KlingError
from kling_async._files.object_store import ObjectUrl
from kling_async._job.job import Job
from kling_async._models import Result
from kling_async.providers._base.request import Request

__all__ = ["Outcome", "saved"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of a bulk run.

    Attributes:
        index: The row's place in the input, from 0.
        key: Its key, if it was given one.
        request: What was to be generated.
        job: The job. None if the submission failed.
        result: The result. None if there is an `error`, except one of saving.
        error: Why there is no result, or why it could not be saved.
        new: Whether this run paid for the job. False if it was submitted earlier, under the same key.
        files: Where the result was saved, with ``save_to``: paths, or URLs (str) of objects.
        tags: The job's tags. Those of the row if there is no job.
    """

    index: int
    key: str | None
    request: Request
    job: Job | None = None
    result: Result | None = None
    error: KlingError | ValidationError | None = None
    new: bool = False
    files: tuple[Path | Any, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)


async def saved(outcome: Outcome, directory: Path | ObjectUrl) -> Outcome:
    """Save the result of a row. Return its outcome with the files, or with the error."""
    if outcome.result is None:
        return outcome
    try:
        files = await outcome.result.save(directory if isinstance(directory, Path) else str(directory))
    except KlingError as error:
        return replace(outcome, error=error)
    except OSError as error:
        ref = str(outcome.result.ref)
        failure = DownloadFailed(f"the result cannot be saved to {directory}: {error.strerror or error}", ref=ref)
        failure.__cause__ = error
        return replace(outcome, error=failure)
    return replace(outcome, files=tuple(files))

"""Runs what a command does: on an event loop, with signals as cancellation, and with a client."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup, TaskStatus

import kling_async  # what is named by it is loaded where it is used
from kling_async import ConfigurationError, GenerationCancelled, GenerationFailed, JobNotFound, Result
from kling_async._cli.errors import NO_KEY, CommandError
from kling_async._cli.file_names import Names
from kling_async._cli.ledger import work_with
from kling_async._cli.options import preference
from kling_async._cli.output.events import FileProgress, FilesSaved, JobChanged, JobOver
from kling_async._cli.output.reports import Report
from kling_async._rows.requests import find
from kling_async.providers.base import Provider

if TYPE_CHECKING:
    from kling_async import Budget, Client, Job, Limits, Polling, Webhooks

__all__ = ["collect", "destination", "open_client", "patience", "place_of", "run", "sandbox_speed"]

_HANG_UP = getattr(signal, "SIGHUP", None)  # the terminal was closed. Windows has no such signal
_SOON = 0.5  # s for which nobody wonders
_FILES = frozenset({".mp4", ".mov", ".webm", ".png", ".jpg", ".jpeg", ".webp", ".gif"})


def run(work: Callable[[], Awaitable[None]], report: Report, stop: Callable[[], bool] = lambda: False) -> None:
    """Run `work` to its end. SIGINT, SIGTERM and SIGHUP cancel it, however often they come.

    SIGINT and SIGTERM go to `stop` first. If that returns True, nothing is cancelled.

    The client holds a cancellation back while a paid call is on its way, so that the job's address is known before we
    leave. A raw ``KeyboardInterrupt`` would break through that, so signals are received as data.

    Raises:
        KeyboardInterrupt: It was cancelled by a signal, and has been cleaned up.
    """
    failure: list[Exception] = []

    async def supervise() -> bool:
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as group:
            await group.start(_listen, group, scope, report, stop)
            with scope:
                try:
                    await work()
                except Exception as error:  # noqa: BLE001  # carried out of the task group as it is
                    failure.append(_first(error))
            group.cancel_scope.cancel()
        return scope.cancelled_caught

    interrupted = anyio.run(supervise)
    if failure:
        raise failure[0]
    if interrupted:
        raise KeyboardInterrupt


def _first(error: Exception) -> Exception:
    """The error itself, without the groups that task groups make. Of several, the first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _listen(
    group: TaskGroup,
    scope: anyio.CancelScope,
    report: Report,
    stop: Callable[[], bool],
    *,
    task_status: TaskStatus[None],
) -> None:
    received = [signal.SIGINT, signal.SIGTERM]
    if _HANG_UP is not None and signal.getsignal(_HANG_UP) is not signal.SIG_IGN:  # nohup ignores it
        received.append(_HANG_UP)
    with anyio.open_signal_receiver(*received) as signals:
        task_status.started()
        async for number in signals:
            if scope.cancel_called or (number != _HANG_UP and stop()):
                continue
            scope.cancel()
            group.start_soon(_excuse, report)


async def _excuse(report: Report) -> None:
    """Say why the program still runs, if it takes a while."""
    await anyio.sleep(_SOON)
    with suppress(OSError):  # the terminal may be gone
        report.say("waiting a few seconds for the provider's answer, to know what was bought")


def open_client(  # noqa: PLR0913  # the settings of a client, each by its name
    kinds: Sequence[type[Provider]],
    timeout: float | None,
    ledger: Path | None = None,
    *,
    polling: Polling | None = None,
    limits: Limits | None = None,
    budget: Budget | None = None,
    webhooks: Webhooks | None = None,
    prefer: str | None = None,
    fast: bool = False,
) -> Client:
    """A client of those providers whose keys are in the environment. Their addresses are taken from there, too.

    Args:
        kinds: The providers.
        timeout: Seconds after submission at which waiting for a job ends. If None, as the endpoint documents.
        ledger: The file of its ledger. If None, it keeps none.
        polling: When to poll jobs, in place of `timeout`.
        limits: How many jobs may run at once. If None, there is no limit.
        budget: How much may be spent.
        webhooks: Where providers report to. If None, nowhere.
        prefer: Who makes portable requests, as ``--prefer`` names it.
        fast: Read HTTP by httptools, if it is installed.

    Raises:
        CommandError: There is no key of any, or one cannot be a key.
        ConfigurationError: An address is not acceptable.
    """
    keyed = [kind for kind in kinds if kind.identity().found_in(os.environ)]
    if not keyed:
        titles = " or ".join(kind.display_name for kind in kinds)
        exports = " or ".join(f"export {kind.env_vars[0]}=..." for kind in kinds)
        raise CommandError(
            f"no API key for {titles} in the environment: {exports} (to try without one: kling demo)", code=NO_KEY
        )
    for kind in keyed:
        names = {secret.variable for group in kind.identity().secrets for secret in group} & os.environ.keys()
        try:
            kind().with_environment({name: os.environ[name] for name in names})
        except ConfigurationError as error:
            raise CommandError(f"{error.message}; check {' and '.join(sorted(names))}", code=NO_KEY) from error
    work_with(ledger)
    kept = None if ledger is None else kling_async.open_ledger(ledger)
    return kling_async.Client(
        [kind() for kind in keyed],
        polling=polling or kling_async.Polling(deadline=patience(timeout)),
        limits=limits,
        ledger=kept,
        budget=budget,
        webhooks=webhooks,
        prefer=preference(prefer),
        http="fast" if fast and importlib.util.find_spec("httptools") is not None else None,
    )


def patience(timeout: float | None) -> float | None:
    """The seconds that ``--timeout`` gives, or None if it is not given.

    Raises:
        CommandError: It gives none.
    """
    if timeout is not None and not timeout > 0:
        raise CommandError(f"--timeout {timeout:g}: it is the number of seconds to wait, and greater than 0")
    return timeout


def destination(text: Path) -> Path:
    """The directory that ``--output`` names.

    Raises:
        CommandError: It is a file, or its name has a file's ending.
    """
    text = text.expanduser()
    if text.is_file():
        raise CommandError(f"--output {text}: it is a file, not a directory; name the directory for the results")
    if text.suffix.lower() in _FILES and not text.is_dir():
        raise CommandError(f"--output {text}: several results need a directory; name one")
    return text


def place_of(output: Path, name: str | None, key: str) -> Path | Names:
    """Where ``--output`` and ``--name`` put the files of one job: a directory, or names of their own.

    Raises:
        CommandError: The names are not possible, or a file is there already.
    """
    output = output.expanduser()
    if output.suffix.lower() in _FILES and not output.is_dir():
        if name is not None:
            raise CommandError(f"--output {output} names the file, and so does --name: leave one of them out")
        if output.exists():
            raise CommandError(f"--output {output}: this file exists already; choose another name")
        return Names(output.parent, output.name, key)
    directory = destination(output)
    return directory if name is None else Names(directory, name, key)


def sandbox_speed(kind: type[Provider]) -> float:
    """How many times faster than documented the provider's jobs run: 1, except on a sandbox."""
    return kind().config.with_environment(os.environ).speed


async def collect(job: Job, place: Path | Names, report: Report, *, replay: bool = True) -> tuple[Result, list[Path]]:
    """Follow a job to its end and save its files. Return what it made, and where that is.

    Args:
        job: The job.
        place: The directory for its files, or their names.
        report: Receives what happens.
        replay: Report all events of a job that has ended already. Otherwise only the last one is reported.

    Raises:
        KlingError: The job failed, or a file could not be saved.
    """
    ended = job.status.terminal
    try:
        async for event in job:
            if ended and not replay and not event.status.terminal:
                continue
            report.emit(JobChanged(job.ref, event))
        result = await job
    except (GenerationFailed, GenerationCancelled, JobNotFound) as error:
        report.emit(JobOver(job.ref))
        if not isinstance(error, JobNotFound) and job.cost is not None:
            refunded = find(job.ref.endpoint)[0].features.refunded(job.status)
            report.say(f"{job.cost} was {'refunded' if refunded else 'charged'} for the {job.status} job")
        raise

    def progress(done: int, total: int | None) -> None:
        report.emit(FileProgress(job.ref, done, total))

    if isinstance(place, Names):
        paths = await place.save(result, progress)  # noqa: ASYNC240  # not a method of Path
    else:
        paths = await result.save(place, progress=progress)
    report.emit(FilesSaved(result, paths))
    return result, paths

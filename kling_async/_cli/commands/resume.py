"""``kling resume`` and ``kling resolve``: what a ledger has unfinished, brought to its end."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import typer

from kling_async import (
    Client,
    DownloadFailed,
    Job,
    JobRef,
    KlingError,
    Remedy,
    Status,
    Submission,
    SubmissionState,
    inspect_ledger,
    open_ledger,
)
from kling_async._cli.commands.jobs import GIVEN_UP, unsaved
from kling_async._cli.errors import UNKNOWN, CommandError, explain
from kling_async._cli.file_names import ensure_writable
from kling_async._cli.interrupts import submit_or_note
from kling_async._cli.ledger import LedgerFile, existing, usual
from kling_async._cli.options import AsJson, Output, Timeout
from kling_async._cli.output.events import JobStarted, JobUnresolved
from kling_async._cli.output.formatting import printable
from kling_async._cli.output.reports import Report, take_up_command
from kling_async._cli.reporting import choose_report, handle_errors
from kling_async._cli.runner import collect, destination, open_client, run
from kling_async._rows.advice import as_command
from kling_async._rows.requests import find
from kling_async.providers import ALL_PROVIDERS

__all__ = ["resolve", "resume"]


def resume(
    *,
    ledger: LedgerFile = None,
    output: Output = Path(),
    as_json: AsJson = False,
    timeout: Timeout = None,
) -> None:
    """Wait for all unfinished jobs of a ledger, and save their files.

    A submission with an unknown outcome is searched where the provider allows it. Otherwise it is listed with what you
    can do. Nothing is bought twice. The ledger is --ledger, KLING_LEDGER,
    kling.db in the working directory if there is one, or else your history.
    """
    report = choose_report(as_json=as_json, directory=output, ledger=ledger or usual())
    with handle_errors(report):
        path = existing(ledger)
        contents = anyio.run(partial(inspect_ledger, path, unfinished=True, unsaved=True))
        left = [s for s in contents.submissions if s.unfinished or unsaved(s)]
        if not left:
            report.say("All jobs are done.")
            return
        client = open_client(ALL_PROVIDERS, timeout, path)
        recovery = _Recovery(client, destination(output), report)
        run(lambda: recovery.run([s for s in left if not s.unfinished]), report)
        raise typer.Exit(recovery.code)


@dataclass(slots=True)
class _Recovery:
    """One run of ``kling resume``."""

    client: Client
    directory: Path
    report: Report
    code: int = 0
    keys: dict[JobRef, str] = field(default_factory=dict)

    async def run(self, unsaved: list[Submission]) -> None:
        """Bring everything to its end. A job's failure is reported and does not stop the others.

        Args:
            unsaved: Submissions whose jobs have ended, and whose files were not all saved.
        """
        async with self.client:
            await ensure_writable(self.directory)
            self.report.interrupt_note = "the ledger has what is unfinished, and the same command goes on with it"
            self.keys = {submission.ref: submission.key for submission in unsaved if submission.ref is not None}
            jobs = await self.client.resume()
            jobs += [await self._ended(submission) for submission in unsaved if self._known(submission)]
            async with anyio.create_task_group() as group:
                for job in jobs:
                    group.start_soon(self._finish, job)
            for submission in await self.client.unresolved():
                self.code = self.code or UNKNOWN
                self.report.emit(JobUnresolved(submission))

    def _known(self, submission: Submission) -> bool:
        return submission.provider in self.client.statistics().providers

    async def _ended(self, submission: Submission) -> Job:
        """The handle to a job that has ended, as the ledger has it. To say what is known already makes no call."""
        if submission.ref is None:
            raise AssertionError("a job that has ended has an address")
        return await self.client.resolve(submission.key, submission.ref)

    async def _finish(self, job: Job) -> None:
        self.report.emit(JobStarted(job.ref))
        try:
            await collect(job, self.directory, self.report)
        except KlingError as error:
            problem = explain(error)
            if isinstance(error, DownloadFailed) and job.ref in self.keys:
                command = as_command(Remedy("forget", self.keys[job.ref], detail="if its files have expired"))
                problem = replace(problem, next_steps=(*problem.next_steps, command))
            self.code = self.code or problem.code
            self.report.failed(problem)


def resolve(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The submission's key. kling jobs lists them.")],
    ref: Annotated[
        str | None, typer.Argument(metavar="REF", help="Its job, as the provider's website shows it.")
    ] = None,
    *,
    forget: Annotated[
        bool, typer.Option("--forget", help="It bought nothing, or its job or files are not wanted.")
    ] = False,
    resubmit: Annotated[bool, typer.Option("--resubmit", help="Submit it again. This may buy a second job.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --resubmit: buy a second job although the first one is completed.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    ledger: LedgerFile = None,
    as_json: AsJson = False,
) -> None:
    """Decide about a submission with an unknown outcome: it is job REF, forget it, or submit it again.

    The ledger is --ledger, KLING_LEDGER, kling.db in the working directory if there is one, or else your history.
    """
    report = choose_report(as_json=as_json, directory=Path(), ledger=ledger or usual())
    with handle_errors(report):
        if (ref is not None) + forget + resubmit != 1:
            raise CommandError("give one of these: the REF of its job, --forget or --resubmit")
        path = existing(ledger)
        address = None if ref is None else _address(ref)
        found = next(iter(anyio.run(partial(inspect_ledger, path, key=key)).submissions), None)
        if found is None:
            raise CommandError(f"the ledger {path} has no submission {key!r:.200}; kling jobs lists what it has")
        if resubmit:
            _confirm(found, force=force, yes=yes)
        if forget and unsaved(found):
            anyio.run(_give_up_files, path, found)
            report.say(f"the files of {key} are given up; kling resume does not try to save them again")
            return
        if forget and not yes and found.ref is not None and found.unfinished:
            risk = f"{key!r:.200} is job {found.ref}, which was bought and still runs; forgotten, its key buys another"
            _ask(risk, "Forget it?", f"To have it, run: {take_up_command(path, None)}; to forget it, say --yes")
        kind, _ = find(found.endpoint)
        client = open_client([kind], None, path)
        run(lambda: _resolve(client, found, address, report, forget=forget, force=force), report)


def _address(ref: str) -> JobRef:
    try:
        return JobRef.parse(ref)
    except ValueError as error:
        raise CommandError(str(error)) from error


async def _give_up_files(path: Path, submission: Submission) -> None:
    """Record that the files of a completed job will not be saved: their URLs have expired, or nobody wants them."""
    if submission.ref is None or submission.latest is None:
        return
    ledger = open_ledger(path)
    try:
        for index in range(len(submission.latest.artifacts)):
            await ledger.record_file(submission.ref, index, GIVEN_UP)
    finally:
        await ledger.aclose()


def _confirm(submission: Submission, *, force: bool, yes: bool) -> None:
    """Ask before money may be spent twice.

    Raises:
        CommandError: The job is completed and `force` is False, the user declines, or there is nobody to ask.
    """
    kind, _ = find(submission.endpoint)
    if submission.status is Status.COMPLETED:
        cost = f", and cost {submission.cost}" if submission.cost else ""
        risk = f"{submission.key!r:.200} is job {submission.ref}, which is completed{cost}"
        if not force:
            raise CommandError(f"{risk}. Nothing was bought; to buy a second job, add --force")
        if not yes:
            _ask(f"{risk}; submitting it again buys a second job", "Buy it?", "To buy it, add --yes")
        return
    if yes:
        return
    if submission.state not in {SubmissionState.UNKNOWN, SubmissionState.SENDING} or kind.features.client_chosen_id:
        return
    risk = f"{submission.key!r:.200} may have been bought ({submission.reason}); submitting it may buy a second job"
    _ask(risk, "Submit it again?", f"Check the {kind.display_name} account first, then give --yes")


def _ask(risk: str, question: str, otherwise: str) -> None:
    """Have the user agree to a risk.

    Raises:
        CommandError: The user does not, or is not there to be asked.
    """
    if not sys.stdin.isatty():
        raise CommandError(f"{risk}. {otherwise}")
    if not typer.confirm(f"{printable(risk)}. {question}", err=True):
        raise CommandError("nothing was done")


async def _resolve(
    client: Client, submission: Submission, ref: JobRef | None, report: Report, *, forget: bool, force: bool
) -> None:
    async with client:
        if forget:
            await client.forget(submission.key)
            report.say(f"{submission.key} is forgotten; its key may be used again")
        elif ref is not None:
            job = await client.resolve(submission.key, ref)
            report.say(f"{submission.key} is {job.ref}; see how it ends with: {report.command(job.ref)}")
        else:
            job = await submit_or_note(client.resubmit(submission.key, force=force), client, submission.key, report)
            report.submitted(job.ref, job.cost)

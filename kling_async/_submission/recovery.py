"""Recovers submissions: those of earlier processes, and those whose answer was lost."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import anyio

from kling_async._errors import ConfigurationError, KeyConflict, KlingError, LedgerFailed, Remedy
from kling_async._event_loop.turns import cooperative_map
from kling_async._ledger.protocol import Submission, SubmissionState
from kling_async._ledger.serialization import fingerprint
from kling_async._ledger.writer import LedgerWriter
from kling_async._models import JobRef, Status
from kling_async._submission.remedies import RecoveryAdvisor, provider_of
from kling_async._submission.submitter import Submitter, require_resubmittable
from kling_async._tracking.tracked_job import TrackedJob
from kling_async.providers._base.offers import served_by
from kling_async.providers._base.portable import PortableRequest
from kling_async.providers._base.provider import Provider
from kling_async.providers._base.request import Request

__all__ = ["Recovery"]

log = logging.getLogger("kling_async")

_TAKE_OVER_INTERVAL = 5.0  # s between two looks for jobs that no process polls
_TAKEN_AT_ONCE = 500
_TAKEN_REMEMBERED = 10_000


class Recovery:
    """Carries out what a client offers for submissions in its ledger. See the methods of `Client`.

    Args:
        submitter: The client's submitter.
        ledger: Where submissions are stored.
        advisor: Decides what can be done about a submission.
        providers: The client's providers, by name.
    """

    def __init__(
        self,
        submitter: Submitter,
        ledger: LedgerWriter,
        advisor: RecoveryAdvisor,
        providers: Mapping[str, Provider],
    ) -> None:
        self._submitter = submitter
        self._providers = providers
        self._ledger = ledger
        self._advisor = advisor

    async def resume(self) -> list[TrackedJob]:
        """Track the unfinished jobs, and recover the submissions whose outcome is unknown. See `Client.resume`."""
        await self._submitter.load_history()
        jobs = []
        for submission in await self._unfinished():
            tracked = await self._resume(submission)
            if tracked is not None:
                log.info("resumed %s (key %r), %s", tracked.ref, tracked.key, tracked.status)
                jobs.append(tracked)
                continue
            reason = self._advisor.missing(submission) or submission.reason or "its outcome is unknown"
            advice = ", or ".join(map(str, submission.remedies))
            log.warning(
                "submission %r is not resumed: %s. Next step: %s",
                submission.key,
                reason,
                advice,
                extra={"event": "not_resumed", "key": submission.key},
            )
        return jobs

    async def _resume(self, submission: Submission) -> TrackedJob | None:
        if self._advisor.missing(submission):
            return None
        if submission.state is SubmissionState.SENDING and self._ledger.shared is not None:
            log.info("submission %r is being sent by another process; its outcome is waited for", submission.key)
            settled = await self._ledger.shared.settled(submission.attempt_id)
            if settled is None or settled.key_reusable:
                return None
            submission = replace(settled, remedies=self._advisor.remedies(settled))
        if submission.ref is not None:
            return await self._submitter.adopt(submission, submission.ref)
        request = self._advisor.restored(submission)
        if request is None:
            return None
        try:
            found = await self._submitter.recover(request, submission)
        except KlingError as error:
            log.info("submission %r: %s", submission.key, error)
            return None
        return found.tracked if found is not None else None

    async def take_over_jobs(self, longest_deadline: float) -> None:
        """Track the running jobs that no process polls, again and again, until cancelled. See `Client.follow`.

        Args:
            longest_deadline: Seconds after its submission for which any job is polled.
        """
        shared = self._ledger.shared
        if shared is None:
            return
        taken: dict[JobRef, None] = {}  # those that end here without an end, by their deadlines, come only once
        while True:
            since = datetime.now(UTC) - timedelta(seconds=longest_deadline)
            try:
                found = await shared.take_over(_TAKEN_AT_ONCE, since=since, without=list(taken))
            except LedgerFailed as error:
                log.warning("jobs of other processes are not taken over at the moment: %s", error)
                found = ()
            for submission in found:
                if submission.ref is not None and not self._advisor.missing(submission):
                    taken[submission.ref] = None
                    tracked = await self._submitter.adopt(submission, submission.ref)
                    log.info("took over %s (key %r), %s", tracked.ref, tracked.key, tracked.status)
            while len(taken) > _TAKEN_REMEMBERED:
                del taken[next(iter(taken))]
            await anyio.sleep(_TAKE_OVER_INTERVAL)

    async def _unfinished(self) -> list[Submission]:
        """Return the submissions that need attention, except those that are under way in this process."""
        found = [s for s in await self._ledger.unfinished() if not self._submitter.under_way(s.key)]
        return await cooperative_map(lambda s: replace(s, remedies=self._advisor.remedies(s)), found)

    async def running(self) -> list[TrackedJob]:
        """Return the unfinished jobs of all processes. See `Client.all_jobs`."""
        return [
            await self._submitter.adopt(submission, submission.ref, kept=False)
            for submission in await self._ledger.unfinished()
            if submission.ref is not None and not self._advisor.missing(submission)
        ]

    async def unresolved(self) -> list[Submission]:
        """Return the submissions that `resume` cannot follow, or cannot be sure to. See `Client.unresolved`."""
        return [
            s
            for s in await self._unfinished()
            if (s.ref is None and not self._sent_elsewhere(s)) or self._advisor.missing(s)
        ]

    def _sent_elsewhere(self, submission: Submission) -> bool:
        """Whether another process is sending it. Where the ledger is not shared, its sender has died."""
        return submission.state is SubmissionState.SENDING and self._ledger.shared is not None

    async def _require(self, key: str) -> Submission:
        """Return the submission of that key.

        Raises:
            ConfigurationError: There is none, or it is under way in this process.
        """
        found = await self._ledger.find(key)
        if found is None:
            raise ConfigurationError(
                f"the ledger has no submission {key!r}", remedies=(Remedy("retry", key, detail="check the key"),)
            )
        if self._submitter.under_way(key) or self._sent_elsewhere(found):
            raise ConfigurationError(
                f"the submission {key!r} is being sent right now",
                remedies=(Remedy("retry", key, detail="wait for its outcome"),),
            )
        return found

    async def resolve(self, key: str, ref: JobRef) -> TrackedJob:
        """Record, on the user's word, that `ref` is the job of the submission. See `Client.resolve`.

        Raises:
            ConfigurationError: There is no such submission, it is of another endpoint, or it surely bought nothing.
            KeyConflict: It is known to be another job, or the job to be another submission's.
        """
        found = await self._require(key)
        owner = await self._ledger.ledger.find(ref=ref)
        if owner is not None and owner.key != key:
            raise KeyConflict(f"job {ref} belongs to the submission {owner.key!r}, so it cannot be that of {key!r}")
        if found.ref not in {None, ref}:
            raise KeyConflict(f"the submission {key!r} is known to be job {found.ref}, so it cannot be {ref}")
        if ref.endpoint != found.endpoint:
            raise ConfigurationError(f"the submission {key!r} is of {found.endpoint}, and {ref} is of {ref.endpoint}")
        if found.key_reusable:
            raise ConfigurationError(
                f"the submission {key!r} bought nothing ({found.state}), so it cannot be job {ref}",
                remedies=(Remedy("attach", key, str(ref), "to follow the job"),),
            )
        await self._submitter.accept(found, ref)
        return await self._submitter.adopt(found, ref)

    async def forget(self, key: str, *, force: bool = False) -> None:
        """Free the key, on the user's word that nothing was bought or that the job is not wanted.

        Raises:
            ConfigurationError: There is no such submission, or its result was saved and `force` is False.
        """
        found = await self._require(key)
        if found.key_reusable:
            return
        if found.files and found.status is Status.COMPLETED and not force:
            raise ConfigurationError(
                f"the submission {key!r} has a result that was saved (job {found.ref}), so its key is not freed",
                ref=str(found.ref),
                remedies=(Remedy("retry", key, detail="pass force=True to free it all the same"),),
            )
        if found.ref is None:
            await self._submitter.withdraw(found)
        else:
            await self._submitter.release_key(found, "forgotten")

    async def resubmit(self, key: str, request: Request | None, *, force: bool = False) -> TrackedJob:
        """Submit again what failed, was refused, or may or may not have been bought. See `Client.resubmit`.

        Raises:
            ConfigurationError: There is no such submission, its job is running, the job is completed and `force` is
                False, or the request is needed.
        """
        submission = await self._require(key)
        require_resubmittable(submission, force=force)
        provider_of(self._providers, submission.endpoint)  # which raises if there is none
        mark = None if request is not None else submission.fingerprint
        if isinstance(request, PortableRequest):
            provider = provider_of(self._providers, submission.endpoint)
            request, mark = served_by(request, provider, submission.endpoint), fingerprint(request)
        request = request or self._advisor.restored(submission, exact=True)
        if request is None:
            raise ConfigurationError(
                f"the ledger has not kept all of the request of {key!r} (inline images, callback address)",
                remedies=(Remedy("resubmit", key, needs_request=True),),
            )
        again = await self._submitter.submit(request, key, resubmit=True, force=force, mark=mark, tags=submission.tags)
        return again.tracked

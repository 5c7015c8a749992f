"""Buying a generation: paid at most once, and written down on the way.

Theory of operation
-------------------
With a ledger, a submission goes through these steps; what is known after a crash is what the last one wrote:

1. *Turn.* Submissions of one key take turns in this process. The second finds what the first has left.
2. *Claim.* The intent is written down (``sending``). A key that is taken is not bought again: its job is handed out if
   there is one; its outcome is settled if the provider can tell; else `SubmissionUnknown` is raised again.
3. *Payment.* The paid call, which the lane decides to be accepted, refused, not sent or lost.
4. *Settlement.* What became of it is written down, also when the task is cancelled, before anyone hears of it.

A ledger that cannot be written stops step 2, so nothing more is bought; see `_ledger.writer`.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from kling_async._clock import Clock
from kling_async._concurrency import cooperative_map
from kling_async._errors import (
    AnswerLost,
    ConfigurationError,
    KeyConflict,
    KlingError,
    Remedy,
    TransportFailed,
)
from kling_async._http.paid_call import PaidCallTrace
from kling_async._http.transport import ProviderTransport
from kling_async._ledger.protocol import Submission, SubmissionState
from kling_async._ledger.serialization import fingerprint, request_to_json
from kling_async._ledger.writer import LedgerWriter
from kling_async._models import JobRef, Status, StatusReport
from kling_async._submission.early_deliveries import EarlyDeliveries, LostSubmission, identify_job
from kling_async._submission.pricing import PriceInfo, price_info
from kling_async._submission.remedies import RecoveryAdvisor
from kling_async.providers._base.provider import Accepted, WebhookItem
from kling_async.providers._base.request import Request

__all__ = ["AcceptedSubmission", "Submitter"]

T = TypeVar("T")
log = logging.getLogger("kling_async")

# SQLite ends a text in JSON at a null, so that two keys would be one; half a surrogate pair is no text at all.
_UNFIT = re.compile(r"[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class AcceptedSubmission:
    """A submission that was accepted.

    Attributes:
        ref: Its job.
        started: When it was sent, in POSIX seconds.
        reading: What the provider said on accepting it; None: it was accepted before.
        purchase: Under which it was bought; deliveries are addressed by it.
        key: Its key.
        letters: What was delivered about it before it was accepted.
    """

    ref: JobRef
    started: float
    report: StatusReport | None
    attempt_id: str
    key: str
    deliveries: Sequence[WebhookItem] = ()

    @classmethod
    def before(cls, submission: Submission, ref: JobRef) -> AcceptedSubmission:
        """A submission that was accepted at an earlier time."""
        return cls(ref, submission.started.timestamp(), None, submission.attempt_id, submission.key)


@dataclass(slots=True)
class InFlight:
    """A submission under way in this process."""

    intent: Submission
    done: anyio.Event = field(default_factory=anyio.Event)


class Submitter:
    """Buys generations for one client.

    Args:
        book: Where submissions are written down.
        lanes: Where calls go, by provider.
        clock: The client's clock.
        remedies: Knows what can be done about a submission.
        letterbox: The callback addresses of purchases, and what comes there early.
        settled: Told what became of a submission, as soon as that is written down; None: nobody is.
    """

    def __init__(
        self,
        book: LedgerWriter,
        transports: Mapping[str, ProviderTransport],
        clock: Clock,
        remedies: RecoveryAdvisor,
        early: EarlyDeliveries,
        settled: Callable[[Submission], None] | None = None,
    ) -> None:
        self._ledger = book
        self._transports = transports
        self._clock = clock
        self._remedies = remedies
        self._early = early
        self._settled: Callable[[Submission], None] = settled or (lambda _: None)
        self._in_flight: dict[str, InFlight] = {}

    async def prepare(self, request: Request, key: str | None) -> Submission:
        """The submission of a request, as it will be written down.

        Args:
            request: Its local files are replaced by their content.
            key: The user's name for it; None: it is named after its purchase.
        """
        if not isinstance(key, str | None):
            raise ConfigurationError(f"the key of a submission is text, not {key!r:.80}; give str(key)")
        if key == "":
            raise ConfigurationError("the key of a submission is empty; leave it out or give it a name")
        if key is not None and _UNFIT.search(key):
            raise ConfigurationError(
                f"the key {key!r:.200} has a null or half a character in it, and cannot be stored; change it"
            )
        purchase = str(uuid.uuid4())
        description: Mapping[str, Any] = {}
        mark = ""
        if self._ledger.enabled:
            keep_images = self._ledger.ledger.keep_images

            def describe() -> tuple[Mapping[str, Any], str]:
                return request_to_json(request, keep_images=keep_images), fingerprint(request)

            # Hashing an image takes milliseconds, which are not the event loop's to give.
            description, mark = await to_thread.run_sync(describe) if request.inline else describe()
        started = datetime.fromtimestamp(self._clock.now(), UTC)
        return Submission(key or purchase, request.endpoint, description, mark, purchase, started)

    @asynccontextmanager
    async def exclusive(self, intent: Submission) -> AsyncIterator[None]:
        """Wait until no other submission of that key is under way, and keep others waiting meanwhile.

        Raises:
            KeyConflict: The one under way is of another request.
        """
        if not self._ledger.enabled:
            yield
            return
        while (flight := self._in_flight.get(intent.key)) is not None:
            _require_same(intent, flight.intent)
            await flight.done.wait()
        flight = self._in_flight[intent.key] = InFlight(intent)
        try:
            yield
        finally:
            del self._in_flight[intent.key]
            flight.done.set()

    async def submit(
        self,
        transport: ProviderTransport,
        request: Request,
        intent: Submission,
        trace: PaidCallTrace,
        *,
        force: bool = False,
    ) -> AcceptedSubmission:
        """Buy it, unless that was done before. To be called in the submission's `acquire`.

        Args:
            transport: Where the calls go.
            request: What to buy.
            intent: The submission.
            trace: Told how far the paid call gets.
            force: The user asked for a repetition: what failed or may have been bought is bought again, under its own
                id where the provider recognises that.

        Raises:
            KeyConflict: The key was used for another request.
            ConfigurationError: The user insists, and the job still runs.
            SubmissionUnknown: A job may have been bought, now or earlier; it is not sent again.
            KlingError: It was refused or not sent; the key may be used again.
        """
        if not self._ledger.enabled:
            return await self._pay(transport, request, intent, trace)
        with anyio.CancelScope(shield=True):
            if force:
                await self._reopen(transport, intent)
            taken = await self._ledger.claim(intent)
        if taken.attempt_id == intent.attempt_id:
            return await self._pay(transport, request, intent, trace)
        _require_same(intent, taken)
        if taken.ref is not None:
            return AcceptedSubmission.before(taken, taken.ref)
        return await self.recover(transport, request, taken, trace, force=force)

    async def recover(
        self,
        transport: ProviderTransport,
        request: Request,
        lost: Submission,
        trace: PaidCallTrace,
        *,
        force: bool = False,
    ) -> AcceptedSubmission:
        """Find out what became of a submission whose answer was lost, where the provider gives a way. See `submit`.

        Raises:
            SubmissionUnknown: There is none, or it did not tell.
        """
        if transport.provider.features.client_chosen_id and (force or self._remedies.young(lost)):
            trace.lost = True  # it was sent before under the same id: until it is accepted, it stays unknown
            return await self._pay(transport, request, lost, trace)
        if transport.provider.features.lists_jobs:
            found = await self._search(transport, request, lost)
            if found is not None:
                return found
        raise self._remedies.unknown(lost, lost.reason or "the process ended while it was being sent")

    async def recover_current(
        self, transport: ProviderTransport, request: Request, lost: Submission, trace: PaidCallTrace
    ) -> AcceptedSubmission | None:
        """As `recover`, for a submission that was read before its `acquire` came: others may have settled it meanwhile.

        Returns:
            None: it is settled in another way; it was forgotten, say.
        """
        current = await self._ledger.find(lost.key)
        if current is None or current.attempt_id != lost.attempt_id or current.key_reusable:
            return None
        if current.ref is not None:
            return AcceptedSubmission.before(current, current.ref)
        return await self.recover(transport, request, current, trace)

    async def _search(
        self, transport: ProviderTransport, request: Request, lost: Submission
    ) -> AcceptedSubmission | None:
        """The job among those that the provider lists, if exactly one fits and belongs to no other submission."""
        callback = self._early.callback_url(lost)
        candidates = await transport.run(transport.provider.search(request, callback, lost.started))
        free = [a for a in candidates if await self._ledger.ledger.find(ref=_ref(lost, a)) is None]
        if len(free) != 1:
            log.info("submission %r: %d jobs in the provider's list may be its own", lost.key, len(free))
            return None
        return await self._accepted(lost, free[0])

    async def _pay(
        self, transport: ProviderTransport, request: Request, intent: Submission, trace: PaidCallTrace
    ) -> AcceptedSubmission:
        """Make the paid call, and write down what became of it.

        Args:
            transport: Where it goes.
            request: What to buy.
            intent: The submission.
            trace: Told how far the call gets. If an earlier one under the same id is `lost`, the submission stays
                unknown until it is accepted, whatever is answered.
        """
        with self._early.open(intent) as letters:
            flow = transport.provider.submit(request, intent.attempt_id, self._early.callback_url(intent))
            try:
                accepted = await transport.run(flow, trace)
            except BaseException as error:  # noqa: BLE001  # it is raised by `_lost`, unless a delivery knows better
                own_id = transport.provider.client_chosen_id(request, intent.attempt_id)
                accepted = await self._lost(
                    transport, LostSubmission(intent, own_id, self._clock.now()), error, trace, letters
                )
            return replace(await self._accepted(intent, accepted), deliveries=letters)

    async def _lost(
        self,
        transport: ProviderTransport,
        lost: LostSubmission,
        error: BaseException,
        trace: PaidCallTrace,
        letters: Sequence[WebhookItem],
    ) -> Accepted:
        """Write down what became of a paid call that raised, and raise it; or return what deliveries told instead."""
        intent = lost.submission
        state, reason = classify_failure(error, trace)
        ref = identify_job(transport.provider, lost, letters) if state is SubmissionState.UNKNOWN else None
        if ref is not None:
            log.info("submission %r: %s, but a webhook tells that it is job %s", intent.key, reason, ref)
            if isinstance(error, Exception):
                return Accepted(ref.id, StatusReport(Status.PENDING))
            await self.accept(intent, ref)
            raise error
        with anyio.CancelScope(shield=True):
            await self._settle(replace(intent, state=state, reason=reason))
        if state is not SubmissionState.UNKNOWN:
            raise error
        self._early.remember(lost)
        if isinstance(error, KlingError):
            answer = error.answer if isinstance(error, AnswerLost) else None
            raise self._remedies.unknown(intent, reason, answer) from error
        log.warning("submission %r: %s; a job may have been bought", intent.key, reason)
        raise error

    async def _accepted(self, intent: Submission, accepted: Accepted) -> AcceptedSubmission:
        ref = _ref(intent, accepted)
        await self.accept(intent, ref)
        return AcceptedSubmission(ref, intent.started.timestamp(), accepted.report, intent.attempt_id, intent.key)

    async def accept(self, submission: Submission, ref: JobRef) -> None:
        """Write down that a submission has become a job: by its answer, the provider's list, a webhook, the user."""
        self._early.found(submission)
        with anyio.CancelScope(shield=True):
            await self._settle(replace(submission, state=SubmissionState.ACCEPTED, ref=ref, reason=None))

    async def _settle(self, submission: Submission) -> None:
        try:
            await self._ledger.record_outcome(submission)
        finally:
            self._settled(submission)

    async def key_in_use(self, intent: Submission) -> bool:
        """Whether the submission's key is in use, so that submitting it buys nothing more."""
        held = await self._ledger.find(intent.key) if self._ledger.enabled else None
        return held is not None and not held.key_reusable

    async def unfinished(self) -> list[Submission]:
        """The submissions of the ledger that need attention, without those that are under way in this process."""
        found = [s for s in await self._ledger.unfinished() if s.key not in self._in_flight]
        return await cooperative_map(lambda s: replace(s, remedies=self._remedies.remedies(s)), found)

    async def history(self) -> list[tuple[Submission, PriceInfo]]:
        """What the ledger has of this client's providers, with what is known of the prices."""
        if not self._ledger.enabled:
            return []
        found = await cooperative_map(self._priced, await self._ledger.ledger.submissions())
        return [priced for priced in found if priced is not None]

    def _priced(self, s: Submission) -> tuple[Submission, PriceInfo] | None:
        """The submission with what is known of its price; None: it is not of this client's providers."""
        if self._remedies.missing(s) is not None:
            return None
        return s, price_info(self._transports[s.provider].provider, s.endpoint, self._remedies.restored(s), s.request)

    async def require(self, key: str) -> Submission:
        """The submission of that key.

        Raises:
            ConfigurationError: There is none, or it is under way in this process.
        """
        found = await self._ledger.find(key)
        if found is None:
            raise ConfigurationError(
                f"the ledger has no submission {key!r}", remedies=(Remedy("retry", key, detail="check the key"),)
            )
        if key in self._in_flight:
            raise ConfigurationError(
                f"the submission {key!r} is being sent right now",
                remedies=(Remedy("retry", key, detail="wait for its outcome"),),
            )
        return found

    async def resolve(self, key: str, ref: JobRef) -> Submission:
        """Take the user's word that `ref` is the job of the submission.

        Raises:
            ConfigurationError: There is no such submission, it is of another endpoint, or surely bought nothing.
            KeyConflict: It is known to be another job, or the job to be another submission's.
        """
        found = await self.require(key)
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
        await self.accept(found, ref)
        return replace(found, state=SubmissionState.ACCEPTED, ref=ref)

    async def forget(self, key: str) -> None:
        """Take the user's word that the submission bought nothing, or that its job is not wanted: its key is free.

        Raises:
            ConfigurationError: There is no such submission, or its job has ended.
        """
        found = await self.require(key)
        if found.key_reusable:
            return
        if not found.unfinished:
            raise ConfigurationError(
                f"the submission {key!r} has a job that has ended ({found.ref}): nothing to forget"
            )
        if found.ref is not None:
            await self._release_key(found, "forgotten")
            return
        self._early.found(found)
        nothing = replace(found, state=SubmissionState.NOT_SUBMITTED, reason="forgotten")
        await self._ledger.ledger.record_outcome(nothing)
        self._settled(nothing)

    async def _reopen(self, transport: ProviderTransport, intent: Submission) -> None:
        """Set the key of a submission free that is to be sent again, unless it is sent again under its own id."""
        submission = await self._ledger.ledger.find(key=intent.key)
        if submission is None or submission.key_reusable:
            return
        _require_same(intent, submission)
        if submission.ref is not None and submission.unfinished:
            raise ConfigurationError(
                f"the submission {submission.key!r} is job {submission.ref}, which still runs",
                ref=str(submission.ref),
                remedies=(
                    Remedy("resume", submission.key, str(submission.ref), "to follow it"),
                    Remedy("forget", submission.key, detail="if it is not wanted"),
                ),
            )
        if submission.ref is not None or not transport.provider.features.client_chosen_id:
            await self._release_key(submission, "submitted again")

    async def _release_key(self, submission: Submission, reason: str) -> None:
        """Free the key. The attempt stays in the ledger, and a delivery that comes for it after all changes nothing."""
        self._early.found(submission)
        await self._ledger.ledger.release(submission.key, submission.attempt_id, reason)
        self._settled(replace(submission, released=reason))


def _require_same(intent: Submission, other: Submission) -> None:
    if intent.fingerprint != other.fingerprint:
        raise KeyConflict(
            f"the key {intent.key!r} was used for another {other.endpoint} request at "
            f"{other.started.isoformat(timespec='seconds')}; nothing was sent",
            remedies=(Remedy("change_request", intent.key, detail="the key, or submit the same request"),),
            provider=intent.provider,
            ref=str(other.ref) if other.ref else None,
        )


def classify_failure(error: BaseException, trace: PaidCallTrace) -> tuple[SubmissionState, str]:
    """What became of a paid call that raised, and why."""
    if isinstance(error, KlingError):
        if trace.lost or isinstance(error, AnswerLost):
            return SubmissionState.UNKNOWN, error.message
        refused = not isinstance(error, TransportFailed | ConfigurationError)
        return SubmissionState.REFUSED if refused else SubmissionState.NOT_SUBMITTED, error.message
    reason = f"it failed with {type(error).__name__}" if isinstance(error, Exception) else "it was cancelled"
    if trace.may_have_been_sent:
        return SubmissionState.UNKNOWN, f"{reason} while its answer was on the way"
    return SubmissionState.NOT_SUBMITTED, f"{reason} before it was sent"


def _ref(submission: Submission, accepted: Accepted) -> JobRef:
    provider, _, endpoint = submission.endpoint.partition("/")
    return JobRef(provider, endpoint, accepted.id)

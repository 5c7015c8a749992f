"""Submits requests: paid at most once, and recorded on the way.

Theory of operation
-------------------
With a ledger, a submission goes through these steps. After a crash, the ledger has what the last finished step wrote:

1. *Lock.* Only one submission of a key is under way in this process. The next one waits, and finds what it has left.
2. *Reserve.* The budget sets aside what the submission may cost, and a slot of the account is taken, where these are
   limited (see `running_jobs`). With a ledger that several processes share, the claim does both, for all of them.
3. *Claim.* The attempt is stored (``sending``) before the paid call. A key that is in use is not paid for again: while
   another process sends it, its outcome is waited for. Its job is returned if there is one. Otherwise the outcome is
   recovered if the provider can report it, or `SubmissionUnknown` is raised again.
4. *Pay.* The transport makes the paid call, and decides whether it was accepted, refused, not sent or lost.
5. *Record.* The outcome is stored, also when the task is cancelled, before anyone is notified.

A ledger that cannot be written fails in step 3, so nothing more is paid for. See `_ledger.writer`.

The caller that is cancelled, and the client that is closed, both wait for a paid call that was sent, for
``Limits.cancel_grace`` seconds at most.
"""

from __future__ import annotations

import logging
import math
import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import anyio
from anyio import to_thread

from kling_async._errors import (
    AnswerLost,
    ConfigurationError,
    KeyConflict,
    KlingError,
    LedgerFailed,
    Remedy,
    TransportFailed,
)
from kling_async._event_loop.clock import Clock
from kling_async._event_loop.patience import Patience
from kling_async._event_loop.turns import cooperative_map
from kling_async._http.paid_call import PaidCallTrace
from kling_async._http.transport import ProviderTransport
from kling_async._ledger.protocol import (
    NoRoom,
    NoSlot,
    SharedLedger,
    Slot,
    SpendingGroup,
    Submission,
    SubmissionState,
)
from kling_async._ledger.serialization import fingerprint, request_to_json
from kling_async._ledger.writer import LedgerWriter
from kling_async._models import Choice, Cost, Event, JobRef, Status, StatusReport
from kling_async._records import record
from kling_async._scheduling.schedules import Learned
from kling_async._submission.budget import BudgetAccount, as_charge
from kling_async._submission.cancellation import finish_within_grace
from kling_async._submission.early_deliveries import EarlyDeliveries, LostSubmission, identify_job
from kling_async._submission.observer import JobEnd, Observer, observed, suppressed
from kling_async._submission.pricing import NO_PRICE_FACTORS, PriceInfo, documented_price, earlier_price, price_info
from kling_async._submission.remedies import RecoveryAdvisor, provider_of
from kling_async._submission.running_jobs import AccountSlots
from kling_async._tracking.registry import AcceptedSubmission, JobRegistry
from kling_async._tracking.tracked_job import TrackedJob
from kling_async._tracking.transitions import advance
from kling_async._validation import given
from kling_async.providers._base.provider import Accepted, WebhookItem
from kling_async.providers._base.request import Request

__all__ = [
    "DeliveryHandler",
    "SubmittedJob",
    "Submitter",
    "accepted_earlier",
    "require_key",
    "require_request",
    "require_resubmittable",
    "require_tags",
]

EarlierT = TypeVar("EarlierT", Submission, SpendingGroup)
log = logging.getLogger("kling_async")

_NO_WAIT: AbstractAsyncContextManager[None] = nullcontext()  # where there is nothing to wait for, nor to take
_EVER = datetime.fromtimestamp(0, UTC)
_LEAST_LEASE = 0.5  # s that must be left of our lease when a paid call begins: until its first byte is written
# SQLite ends a text in JSON at a null, so two keys would be one. Half a surrogate pair cannot be stored at all.
_UNFIT = re.compile(r"[\x00\ud800-\udfff]")


@record
class SubmittedJob:
    """The job of a submission.

    Attributes:
        tracked: The job.
        new: Whether this call paid for it. False if it was submitted before, under the same key.
    """

    tracked: TrackedJob
    new: bool


@dataclass(slots=True)
class InFlight:
    """A submission that is under way in this process."""

    submission: Submission
    done: anyio.Event | None = None
    """Set when it is over. Made by the first who waits, because hardly anybody does."""


class DeliveryHandler(Protocol):
    """Applies what webhooks report to a job."""

    async def apply(self, tracked: TrackedJob, items: Sequence[WebhookItem]) -> bool:
        """Apply the items that are about the job. Return whether there are any."""
        ...


class Submitter:
    """Validates, reserves, claims, pays and records the submissions of one client.

    Args:
        transports: The client's transports, by provider.
        ledger: Where submissions are stored.
        registry: Where their jobs go.
        advisor: Decides what can be done about a submission.
        early: The callback URLs of attempts, and what is reported there before the job is known.
        handler: Applies that once the job is known.
        clock: The client's clock.
        budget: How much may be spent. If None, there is no limit.
        learned: The duration model to load from the ledger. If None, there is none.
        observer: Notified of submissions and of the ends of jobs. If None, nobody is.
        slots: The slots of accounts whose jobs are limited, by provider.
    """

    def __init__(  # noqa: PLR0913  # the parts of a client, each by its name
        self,
        transports: Mapping[str, ProviderTransport],
        ledger: LedgerWriter,
        registry: JobRegistry,
        advisor: RecoveryAdvisor,
        early: EarlyDeliveries,
        handler: DeliveryHandler,
        *,
        clock: Clock,
        budget: BudgetAccount | None = None,
        learned: Learned | None = None,
        observer: Observer | None = None,
        slots: Mapping[str, AccountSlots] | None = None,
    ) -> None:
        self._transports = transports
        self._ledger = ledger
        self._registry = registry
        self._advisor = advisor
        self._early = early
        self._handler = handler
        self._clock = clock
        self._budget = budget
        self._learned = learned
        self._observer = observer
        self._estimates = budget
        self._slots = slots or {}
        self._accounts = {name: transport.provider.config.account for name, transport in transports.items()}
        self._in_flight: dict[str, InFlight] = {}  # by key
        self._traces: list[PaidCallTrace] = []  # of the submissions under way
        self._ended: anyio.Event | None = None  # while somebody waits for the end of one of them
        self._history_loaded = False
        self._loading = anyio.Lock()
        self.submitted = 0
        """How many jobs were paid for."""
        registry.on_release = self._released

    async def submit(  # noqa: PLR0913  # settings of one submission, each by its name
        self,
        request: Request,
        key: str | None = None,
        *,
        resubmit: bool = False,
        force: bool = False,
        mark: str | None = None,
        choice: Choice | None = None,
        may_wait: bool = True,
        patience: Patience | None = None,
        max_cost: Cost | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> SubmittedJob:
        """Submit a request, unless that was done before under the same key.

        Args:
            request: Its local files are replaced by their content.
            key: The user's key. If None, the submission gets a key of its own.
            resubmit: The user asked for another attempt: what failed or may have been bought is submitted again, with
                the same id where the provider recognises that.
            force: Pay for another attempt also if the job is completed.
            mark: The fingerprint of what the user asked for. Defaults to that of the request. A portable request keeps
                its own, whichever endpoint it goes to.
            choice: Why the endpoint was chosen. It becomes a part of the job's first event.
            may_wait: Whether it waits while the provider says "not now". Otherwise it is refused.
            patience: May be given up while nothing was sent. If None, nobody gives up.
            max_cost: The most that it may cost. If None, only the budget limits it.
            tags: What the user stores with it.

        Raises:
            KeyConflict: The key was used for another request.
            ConfigurationError: It is not to be resubmitted: see `require_resubmittable`.
            SubmissionUnknown: A job may have been bought, now or earlier. The request is not sent again.
            BudgetExceeded: It does not fit into the budget.
            GivenUp: It was given up, and nothing was sent.
            pydantic.ValidationError: The request is not valid, because it was made without validation.
            KlingError: It was refused or not sent. The key may be used again.
        """
        transport = provider_of(self._transports, request.endpoint)
        request = _validated(request)
        await self.load_history()
        intent = await self.prepare(request, key, mark)
        own_tags = require_tags(tags)
        with observed(self._observer, intent, request) as attempt:
            if attempt.tags or own_tags:
                intent = replace(intent, tags=require_tags({**attempt.tags, **own_tags}))
            async with self.exclusive(intent), self._reserved(request, intent, resubmit=resubmit, max_cost=max_cost):
                if resubmit:
                    await self._reopen(transport, intent, force=force)

                async def run(trace: PaidCallTrace) -> SubmittedJob:
                    trace.may_wait, trace.patience = may_wait, patience
                    async with self._slot(intent, trace):
                        accepted = await self._claim_and_pay(
                            transport, request, intent, trace, choice, resubmit=resubmit
                        )
                    # A key that another process used at the same time may have gone to another endpoint.
                    own = request if accepted.ref.endpoint == request.endpoint else None
                    return await self._adopt(accepted, own)

                submitted = await self._finish(run)
                attempt.ref, attempt.new = submitted.tracked.ref, submitted.new
        return submitted

    async def _adopt(self, accepted: AcceptedSubmission, request: Request | None) -> SubmittedJob:
        """Track the job of a submission that was accepted. From here on, nothing may lose its reference."""
        tracked = await self._registry.adopt(accepted, request)
        new = accepted.report is not None
        if accepted.report is not None:
            self.submitted += 1
            log.info("submitted %s (key %r)", accepted.ref, accepted.key)
            try:
                if accepted.first is None or not tracked.begin(accepted.first):
                    await tracked.apply(accepted.report, "submit")
                await self._handler.apply(tracked, accepted.deliveries)
            except Exception:  # the job was paid for: an error of what only observes it must not hide it
                log.exception("job %s was submitted, but its first status could not be processed", accepted.ref)
        self.record_cost(tracked)
        return SubmittedJob(tracked, new)

    async def _finish(self, operation: _PaidOperation) -> SubmittedJob:
        """Run a paid operation. If the caller is cancelled after the request was sent, wait for its answer first."""
        trace = PaidCallTrace()
        self._traces.append(trace)
        finished: list[SubmittedJob] = []

        async def run() -> SubmittedJob:
            finished.append(await operation(trace))
            return finished[0]

        try:
            return await finish_within_grace(run, trace, self._grace)
        except BaseException:
            if finished and not self._ledger.enabled:
                ref = finished[0].tracked.ref
                message = "the submission was cancelled after job %s was bought; client.attach(%r)"
                log.warning(message, ref, str(ref), extra={"event": "bought_while_cancelled"})
            raise
        finally:
            trace.end()
            self._traces = [other for other in self._traces if other is not trace]
            if self._ended is not None:
                self._ended.set()
                self._ended = None

    @property
    def _grace(self) -> float:
        return max((transport.limits.cancel_grace for transport in self._transports.values()), default=0.0)

    async def drain(self) -> None:
        """Let nobody wait for a slot, and wait for the paid calls that were sent, for the grace period at most."""
        for slots in self._slots.values():
            slots.close()
        with anyio.move_on_after(self._grace):
            while any(trace.paid or trace.lost for trace in self._traces):
                self._ended = self._ended or anyio.Event()
                await self._ended.wait()

    async def load_history(self) -> None:
        """Load, once, what earlier processes learned about durations, spent of the budget and left unfinished."""
        if self._history_loaded:
            return
        async with self._loading:
            if not self._history_loaded:
                if self._learned is not None:
                    self._learned.restore(await self._ledger.load())
                if self._slots and self._ledger.enabled and self._ledger.shared is None:
                    unfinished = await self._ledger.ledger.submissions(unfinished=True)
                    for slots in self._slots.values():
                        slots.load(unfinished)
                if self._budget is not None:
                    await self._load_spending(self._budget)
                    if self._ledger.shared is not None:
                        await self._count_earlier(self._budget, self._ledger.shared)
                self._history_loaded = True

    async def estimate(self, request: Request) -> Cost | None:
        """Return what a request is expected to cost. See `Client.estimate`."""
        return (await self._prices()).estimate(self._price_info(request))

    async def reserve_for(self, request: Request) -> Cost:
        """Return what a budget sets aside for a request: its cost, or more where that is not sure."""
        return (await self._prices()).needed(self._price_info(request))

    def _price_info(self, request: Request) -> PriceInfo:
        return price_info(provider_of(self._transports, request.endpoint).provider, request)

    async def _prices(self) -> BudgetAccount:
        """The budget, or an account that only learns prices."""
        await self.load_history()
        if self._estimates is None:
            assumed = self._budget.assumed if self._budget is not None else None
            self._estimates = BudgetAccount(usd=math.inf, credits=math.inf, assumed=assumed)
            await self._load_spending(self._estimates)
        return self._estimates

    async def _load_spending(self, budget: BudgetAccount) -> None:
        """Load what the ledger has of earlier prices and costs."""
        if not self._ledger.enabled:
            return
        providers = {name: transport.provider for name, transport in self._transports.items()}

        def priced(earlier: EarlierT) -> tuple[EarlierT, PriceInfo]:
            return earlier, earlier_price(earlier.endpoint, earlier.request, earlier.cost, providers)

        ended = await cooperative_map(priced, await self._ledger.ledger.spending(NO_PRICE_FACTORS))
        unfinished = await cooperative_map(priced, await self._ledger.ledger.submissions(unfinished=True))
        await budget.load_history(unfinished, ended)

    async def _count_earlier(self, budget: BudgetAccount, shared: SharedLedger) -> None:
        """Let the ledger count for all processes, and count in it what earlier versions stored."""
        providers = {name: transport.provider for name, transport in self._transports.items()}
        found = await shared.uncounted(NO_PRICE_FACTORS)
        charges = await cooperative_map(
            lambda one: (one.numbers, budget.earlier_charge(earlier_price(one.endpoint, one.request, None, providers))),
            found,
        )
        if charges:
            await shared.count(charges)
        await budget.share(shared)

    def _reserved(
        self, request: Request, intent: Submission, *, resubmit: bool, max_cost: Cost | None
    ) -> AbstractAsyncContextManager[None]:
        """Set a part of the budget aside for a submission, unless its key has a job already."""
        if self._budget is None and max_cost is None:
            return _NO_WAIT
        return self._reserving(request, intent, resubmit=resubmit, max_cost=max_cost)

    @asynccontextmanager
    async def _reserving(
        self, request: Request, intent: Submission, *, resubmit: bool, max_cost: Cost | None
    ) -> AsyncIterator[None]:
        if not resubmit and await self._key_in_use(intent):
            yield
            return
        (await self._prices()).require_within(self._price_info(request), max_cost, "max_cost")
        if self._budget is None:
            yield
            return
        if resubmit and self._ledger.shared is not None:  # before its key is freed
            await self._budget.wait_until_it_fits(self._price_info(request))
        reservation = await self._budget.reserve(intent.attempt_id, self._price_info(request))
        try:
            yield
        finally:
            self._budget.release(reservation)

    def _released(self, tracked: TrackedJob) -> None:
        """Note that a job of ours has ended, or that its deadline has passed."""
        self.record_cost(tracked)
        latest = tracked.latest
        if latest is None or not tracked.ended:
            return
        if (slots := self._slots.get(tracked.ref.provider)) is not None:
            slots.end(tracked.ref)
        log.info("job %s: %s after %.1f s (key %r)", tracked.ref, tracked.status, latest.elapsed, tracked.key)
        if self._observer is None or latest.source == "ledger":  # the process that recorded the end has reported it
            return
        polled = latest.source == "poll" and tracked.last_seen_running > tracked.started
        lag = latest.at.timestamp() - tracked.last_seen_running if polled else None
        started = datetime.fromtimestamp(tracked.started, UTC)
        with suppressed():
            self._observer.ended(JobEnd(tracked.ref, tracked.key, tracked.tags, started, tracked.events, lag))

    def record_cost(self, tracked: TrackedJob) -> None:
        """Report what is known of a job's cost to the budget."""
        if self._budget is not None:
            self._budget.record_cost(tracked.ref, tracked.status, tracked.cost)

    async def prepare(self, request: Request, key: str | None, asked: str | None = None) -> Submission:
        """Return the submission of a request, as it will be stored.

        Args:
            request: Its local files are replaced by their content.
            key: The user's key. If None, the key is the UUID of the attempt.
            asked: The fingerprint of what the user asked for, if that is not the request itself.
        """
        require_key(key)
        attempt_id = str(uuid.uuid4())
        description: Mapping[str, Any] = {}
        mark = ""
        if self._ledger.enabled:
            keep_images = self._ledger.ledger.keep_images

            def describe() -> tuple[Mapping[str, Any], str]:
                described = request_to_json(request, keep_images=keep_images)
                return described, asked or fingerprint(request, None if keep_images else described)

            # Hashing an image takes milliseconds, so it is done in a thread.
            description, mark = await to_thread.run_sync(describe) if request.inline else describe()
        started = datetime.fromtimestamp(self._clock.now(), UTC)
        return Submission(key or attempt_id, request.endpoint, description, mark, attempt_id, started)

    def exclusive(self, submission: Submission) -> AbstractAsyncContextManager[None]:
        """Wait until no other submission of that key is under way, and make others wait meanwhile.

        Raises:
            KeyConflict: The one under way is of another request.
        """
        return self._exclusive(submission) if self._ledger.enabled else _NO_WAIT

    @asynccontextmanager
    async def _exclusive(self, submission: Submission) -> AsyncIterator[None]:
        while (other := self._in_flight.get(submission.key)) is not None:
            require_same_request(submission, other.submission)
            other.done = other.done or anyio.Event()
            await other.done.wait()
        mine = self._in_flight[submission.key] = InFlight(submission)
        try:
            yield
        finally:
            del self._in_flight[submission.key]
            if mine.done is not None:
                mine.done.set()

    def under_way(self, key: str) -> bool:
        """Return whether a submission of that key is under way in this process."""
        return key in self._in_flight

    async def _claim_and_pay(
        self,
        transport: ProviderTransport,
        request: Request,
        intent: Submission,
        trace: PaidCallTrace,
        choice: Choice | None,
        *,
        resubmit: bool,
    ) -> AcceptedSubmission:
        if not self._ledger.enabled:
            return await self._pay(transport, request, intent, trace, choice)
        while True:
            current = await self._claim(request, intent, trace)
            if current.attempt_id == intent.attempt_id:
                return await self._pay(transport, request, intent, trace, choice)
            require_same_request(intent, current)
            if current.state is not SubmissionState.SENDING or self._ledger.shared is None:
                break
            await self._ledger.shared.settled(current.attempt_id)  # another process sends it
        if current.ref is not None:
            return accepted_earlier(current, current.ref)
        if current.endpoint != intent.endpoint:  # another process submits the same portable request elsewhere
            raise self._advisor.unknown(current, current.reason or "it is being sent")
        return await self._recover(transport, request, current, trace, choice, resubmit=resubmit)

    async def _claim(self, request: Request, intent: Submission, trace: PaidCallTrace) -> Submission:
        """Claim the key. Waits while the account has no free slot for it.

        Raises:
            RateLimited: None became free.
            BudgetExceeded: It does not fit into what all processes have left of the budget.
        """
        slots, shared = self._slots.get(intent.provider), self._ledger.shared
        if slots is None or shared is None:
            return await self._claim_when_it_fits(request, intent, Slot(self._accounts[intent.provider]))
        claim = partial(self._claim_when_it_fits, request, intent)
        if slots.crowded and await self._key_in_use(intent):  # it needs no slot
            with suppress(NoSlot):
                return await claim(slots.slot(queued=False))
        try:
            return await slots.run(
                intent.key,
                claim,
                partial(shared.slot_free, intent),
                partial(self._take_over, shared, self._accounts[intent.provider]),
                may_wait=trace.may_wait,
            )
        except BaseException:
            shared.leave_queue(intent)
            raise

    async def _claim_when_it_fits(self, request: Request, intent: Submission, slot: Slot) -> Submission:
        """Claim the key. Waits while answers are on the way, here or in other processes, that may make room for it.

        Raises:
            NoSlot: The account has no free slot.
            BudgetExceeded: It does not fit into what all processes have left of the budget.
        """
        budget, wanted, charge = self._budget, None, None
        while True:
            if budget is not None and self._ledger.shared is not None:
                wanted = self._price_info(request)
                charge = budget.charge(wanted)
            elif self._ledger.shared is not None:
                charge = as_charge(documented_price(self._transports[intent.provider].provider, request))
            try:
                return await self._ledger.claim(intent, charge, slot)
            except NoRoom as refused:
                if budget is not None and wanted is not None:
                    await budget.wait_for_room(wanted, refused.balance)

    def _slot(self, intent: Submission, trace: PaidCallTrace) -> AbstractAsyncContextManager[None]:
        """Take a slot of the account for a submission, where they are counted here. A key with a job needs none."""
        slots = self._slots.get(intent.provider)
        return _NO_WAIT if slots is None or self._ledger.shared is not None else self._taken(slots, intent, trace)

    @asynccontextmanager
    async def _taken(self, slots: AccountSlots, intent: Submission, trace: PaidCallTrace) -> AsyncIterator[None]:
        if await self._key_in_use(intent):
            yield
            return
        await slots.run(intent.key, lambda _: slots.take(intent), slots.freed, may_wait=trace.may_wait)
        try:
            yield
        finally:
            slots.release(intent)

    async def _take_over(
        self, shared: SharedLedger, account: str, limit: int, without: Sequence[JobRef]
    ) -> Sequence[TrackedJob]:
        """Take over jobs of an account that no process polls, and that may hold its slots for ever otherwise."""
        try:
            found = await shared.take_over(limit, since=_EVER, without=without, account=account)
            return [
                await self.adopt(each, each.ref, kept=False)
                for each in found
                if each.ref is not None and not self._advisor.missing(each)
            ]
        except LedgerFailed as error:
            log.debug("jobs of other processes are not taken over at the moment: %s", error)
            return ()

    async def recover(self, request: Request, lost: Submission) -> SubmittedJob | None:
        """Find out the outcome of a submission whose answer was lost, where the provider has a way to.

        Raises:
            SubmissionUnknown: It has none, or it gave no answer.

        Returns:
            None if the outcome is known by now, and there is no job.
        """
        transport = self._transports[lost.provider]

        async def run(trace: PaidCallTrace) -> SubmittedJob:
            current = await self._ledger.find(lost.key)
            if current is None or current.attempt_id != lost.attempt_id or current.key_reusable:
                raise _Outdated
            if current.ref is not None:
                accepted = accepted_earlier(current, current.ref)
            else:
                accepted = await self._recover(transport, request, current, trace)
            return await self._adopt(accepted, request)

        try:
            async with self.exclusive(lost):
                return await self._finish(run)
        except _Outdated:
            return None

    async def _recover(
        self,
        transport: ProviderTransport,
        request: Request,
        lost: Submission,
        trace: PaidCallTrace,
        choice: Choice | None = None,
        *,
        resubmit: bool = False,
    ) -> AcceptedSubmission:
        if transport.provider.deduplicates(lost.endpoint) and (resubmit or self._advisor.young(lost)):
            known = await transport.run(transport.provider.find(request, lost.attempt_id))
            if known is not None:
                return await self._accepted(lost, known, choice)
            trace.lost = True  # it was sent before with the same id: until it is accepted, it stays unknown
            return await self._pay(transport, request, lost, trace, choice)
        if transport.provider.features.lists_jobs:
            found = await self._search(transport, request, lost, choice)
            if found is not None:
                return found
        raise self._advisor.unknown(lost, lost.reason or "the process ended while it was being sent")

    async def _search(
        self, transport: ProviderTransport, request: Request, lost: Submission, choice: Choice | None
    ) -> AcceptedSubmission | None:
        """Find the job in the provider's list, if exactly one fits that belongs to no other submission."""
        callback = self._early.callback_url(lost)
        candidates = await transport.run(transport.provider.search(request, callback, lost.started))
        free = [a for a in candidates if await self._ledger.ledger.find(ref=_ref(lost, a)) is None]
        if len(free) != 1:
            log.info("submission %r: %d jobs in the provider's list may be its own", lost.key, len(free))
            return None
        return await self._accepted(lost, free[0], choice)

    async def _pay(
        self,
        transport: ProviderTransport,
        request: Request,
        intent: Submission,
        trace: PaidCallTrace,
        choice: Choice | None,
    ) -> AcceptedSubmission:
        """Make the paid call, and record its outcome.

        Args:
            transport: Where it goes.
            request: What to submit.
            intent: The submission.
            trace: Reports how far the call gets. If an earlier call with the same id was `lost`, the submission stays
                unknown until it is accepted, after any other answer.
            choice: Why the endpoint was chosen.
        """
        trace.may_repeat = lambda: self._advisor.young(intent)
        trace.may_send = partial(self._require_lease, intent, trace)
        with self._early.open(intent) as deliveries:
            flow = transport.provider.submit(request, intent.attempt_id, self._early.callback_url(intent))
            try:
                accepted = await transport.run(flow, trace)
            except BaseException as error:  # noqa: BLE001  # `_lost` raises it, unless a webhook reported the job
                own_id = transport.provider.client_chosen_id(request, intent.attempt_id)
                accepted = await self._lost(
                    transport, LostSubmission(intent, own_id, self._clock.now()), error, trace, deliveries
                )
            return await self._accepted(intent, accepted, choice, deliveries)

    def _require_lease(self, intent: Submission, trace: PaidCallTrace) -> None:
        """Make sure, before a paid call is sent, that other processes still take it for being sent.

        One that is sent again with the same id buys at most one job, whoever else sends it.

        Raises:
            LedgerFailed: They may not: this process was stopped for longer than its lease lasts.
        """
        shared = self._ledger.shared
        if shared is not None and not trace.lost and shared.lease_left() < _LEAST_LEASE:
            raise LedgerFailed(
                f"this process was stopped for so long that others may have given up the submission {intent.key!r}; "
                "nothing was sent, submit it again",
                temporary=True,
                provider=intent.provider,
            )

    async def _lost(
        self,
        transport: ProviderTransport,
        lost: LostSubmission,
        error: BaseException,
        trace: PaidCallTrace,
        deliveries: Sequence[WebhookItem],
    ) -> Accepted:
        """Record the outcome of a paid call that raised, and raise its error, or return what webhooks reported."""
        intent = lost.submission
        state, reason = classify_failure(error, trace)
        ref = identify_job(transport.provider, lost, deliveries) if state is SubmissionState.UNKNOWN else None
        if ref is not None:
            log.info("submission %r: %s, but a webhook reported that it is job %s", intent.key, reason, ref)
            if isinstance(error, Exception):
                return Accepted(ref.id, StatusReport(Status.PENDING))
            await self.accept(intent, ref)
            raise error
        with anyio.CancelScope(shield=True):
            answer = error.answer if isinstance(error, AnswerLost) else None
            await self._record(replace(intent, state=state, reason=reason, answer=answer))
            known = await self._named_elsewhere(intent) if state is SubmissionState.UNKNOWN else None
        if known is not None and isinstance(error, Exception):
            log.info("submission %r: %s, but a webhook to another process named job %s", intent.key, reason, known)
            return Accepted(known.id, StatusReport(Status.PENDING))
        if state is not SubmissionState.UNKNOWN:
            raise error
        self._early.remember(lost)
        if isinstance(error, KlingError):
            raise self._advisor.unknown(intent, reason, answer) from error
        log.warning("submission %r: %s; a job may have been bought", intent.key, reason)
        raise error

    async def _named_elsewhere(self, lost: Submission) -> JobRef | None:
        """Return the job of a submission whose answer was lost, if a webhook to another process has named it."""
        if self._ledger.shared is None:
            return None
        try:
            found = await self._ledger.ledger.find(attempt_id=lost.attempt_id)
        except LedgerFailed:
            return None
        return found.ref if found is not None else None

    async def _accepted(
        self,
        intent: Submission,
        accepted: Accepted,
        choice: Choice | None,
        deliveries: Sequence[WebhookItem] = (),
    ) -> AcceptedSubmission:
        """Record that a submission has a job, and the event that follows from its answer."""
        ref, started, report = _ref(intent, accepted), intent.started.timestamp(), accepted.report
        if choice is not None:
            report = replace(report, choice=choice)
        first = None
        try:
            if self._ledger.enabled and not report.unrecognized:
                first = advance(None, report, source="submit", at=self._clock.now(), started=started)
        except Exception:  # the job was paid for: its reference is stored all the same
            log.exception("job %s was submitted, but its first status could not be processed", ref)
        stored = await self.accept(intent, ref, first)
        return AcceptedSubmission(
            ref, started, report, intent.attempt_id, intent.key, deliveries, intent.tags, first if stored else None
        )

    async def accept(self, submission: Submission, ref: JobRef, first: Event | None = None) -> bool:
        """Record that a submission has a job: by its answer, the provider's list, a webhook or the user's word.

        Args:
            submission: The submission.
            ref: Its job.
            first: The job's first event, if it is known.

        Returns:
            Whether that event is stored.
        """
        self._early.found(submission)
        accepted = replace(submission, state=SubmissionState.ACCEPTED, ref=ref, reason=None, latest=first)
        return await self._record(accepted)

    async def adopt(self, submission: Submission, ref: JobRef, *, kept: bool = True) -> TrackedJob:
        """Track the job of a submission that was accepted earlier. See `JobRegistry.adopt`."""
        accepted = accepted_earlier(submission, ref)
        tracked = await self._registry.adopt(accepted, self._advisor.restored(submission), kept=kept)
        self.record_cost(tracked)
        return tracked

    async def recall(self, tracked: TrackedJob) -> None:
        """Take over what the ledger has of a job that was only attached. It is asked once."""
        if tracked.recorded or tracked.sought or not self._ledger.enabled:
            return
        tracked.sought = True
        try:
            found = await self._ledger.ledger.find(ref=tracked.ref)
            if found is not None and found.ref is not None:
                await self.adopt(found, found.ref, kept=False)
        except LedgerFailed as error:
            log.warning("job %s is followed without what the ledger may have of it: %s", tracked.ref, error)

    async def _record(self, submission: Submission) -> bool:
        try:
            return await self._ledger.record_outcome(submission)
        finally:
            self._commit(submission)

    def _commit(self, submission: Submission) -> None:
        """Let the budget and the account's slots process the outcome of a submission."""
        if self._budget is not None:
            self._budget.commit(submission)
        if (slots := self._slots.get(submission.provider)) is None:
            return
        slots.commit(submission)
        if submission.state is SubmissionState.UNKNOWN:
            message = "submission %r keeps one of the %d slots of the %s account until its outcome is known"
            log.warning(message, submission.key, slots.limit, slots.provider)

    async def _key_in_use(self, intent: Submission) -> bool:
        """Return whether the submission's key has a job or may have one, so that submitting it costs nothing more."""
        current = await self._ledger.find(intent.key) if self._ledger.enabled else None
        if current is not None and current.state is SubmissionState.SENDING and self._ledger.shared is not None:
            current = await self._ledger.shared.settled(current.attempt_id)  # another process sends it
        return current is not None and not current.key_reusable

    async def _reopen(self, transport: ProviderTransport, intent: Submission, *, force: bool) -> None:
        """Free the key of a submission that is to be sent again, unless it is sent again with its own id."""
        submission = await self._ledger.find(intent.key)
        if submission is None or submission.key_reusable:
            return
        require_same_request(intent, submission)
        require_resubmittable(submission, force=force)
        if submission.ref is not None or not transport.provider.deduplicates(submission.endpoint):
            await self.release_key(submission, "submitted again")

    async def release_key(self, submission: Submission, reason: str) -> None:
        """Free the key. The attempt stays in the ledger, and a webhook that comes for it afterwards changes nothing."""
        self._early.found(submission)
        await self._ledger.ledger.release(submission.key, submission.attempt_id, reason)
        if (slots := self._slots.get(submission.provider)) is not None:
            slots.forget(submission)

    async def withdraw(self, submission: Submission) -> None:
        """Record, on the user's word, that the submission bought nothing."""
        self._early.found(submission)
        nothing = replace(submission, state=SubmissionState.NOT_SUBMITTED, reason="forgotten")
        await self._ledger.ledger.record_outcome(nothing)
        self._commit(nothing)


class _Outdated(Exception):
    """The outcome of the submission is known by now, and there is no job."""


class _PaidOperation(Protocol):
    async def __call__(self, trace: PaidCallTrace) -> SubmittedJob: ...


def accepted_earlier(submission: Submission, ref: JobRef) -> AcceptedSubmission:
    """Return the submission as one that was accepted at an earlier time."""
    return AcceptedSubmission(
        ref, submission.started.timestamp(), None, submission.attempt_id, submission.key, tags=submission.tags
    )


def _validated(request: Request) -> Request:
    """Return the request, validated once more: ``model_copy(update=...)`` and an old pickle skip the validation."""
    checked = type(request).model_validate(dict(request))
    return request if checked == request else checked


_NO_TAGS: Mapping[str, str] = MappingProxyType({})  # one for all submissions


def require_tags(tags: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the tags, which do not change afterwards.

    Raises:
        ConfigurationError: They are no mapping of texts to texts, or cannot be stored.
    """
    if not tags and isinstance(tags, Mapping | None):
        return _NO_TAGS
    wanted = "tags are texts by their names, such as {'customer': '17'}"
    anything: Any = tags  # the user's value, of any type
    if not isinstance(anything, Mapping):
        raise ConfigurationError(f"{wanted}, not {given(tags)}; nothing was sent")
    for name, value in anything.items():
        for part in (name, value):
            if not isinstance(part, str):
                raise ConfigurationError(f"{wanted}; the tag {name!r:.40} has {given(part)}; nothing was sent")
            if _UNFIT.search(part):
                raise ConfigurationError(
                    f"{wanted}; the tag {name!r:.40} has a character that cannot be stored; nothing was sent"
                )
    return MappingProxyType(dict(anything))


def require_request(request: object) -> None:
    """Make sure that it is a request.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(request, Request):
        raise TypeError(f"a request is submitted, such as runblob.O3Video('a paper boat'), not {given(request)}")


def require_key(key: object) -> None:
    """Make sure that a key of the user's can be stored.

    Raises:
        ConfigurationError: It is no text, it is empty, or it has characters that cannot be stored.
    """
    if not isinstance(key, str | None):
        raise ConfigurationError(f"the key of a submission is text, not {key!r:.80}; give str(key)")
    if key == "":
        raise ConfigurationError("the key of a submission is empty; leave it out or give it a name")
    if key is not None and _UNFIT.search(key):
        raise ConfigurationError(
            f"the key {key!r:.200} has a null or half a character in it, and cannot be stored; change it"
        )


def require_same_request(submission: Submission, other: Submission) -> None:
    """Make sure that two submissions of one key have the same request.

    Raises:
        KeyConflict: They have different ones.
    """
    if submission.fingerprint != other.fingerprint:
        raise KeyConflict(
            f"the key {submission.key!r} was used for another {other.endpoint} request at "
            f"{other.started.isoformat(timespec='seconds')}; nothing was sent",
            remedies=(Remedy("change_request", submission.key, detail="the key, or submit the same request"),),
            provider=submission.provider,
            ref=str(other.ref) if other.ref else None,
        )


def require_resubmittable(submission: Submission, *, force: bool) -> None:
    """Make sure that another attempt makes sense.

    Raises:
        ConfigurationError: Its job is running, or it is completed and `force` is False.
    """
    if submission.ref is None or submission.key_reusable:
        return
    key, ref = submission.key, str(submission.ref)
    if submission.unfinished:
        raise ConfigurationError(
            f"the submission {key!r} is job {ref}, which still runs",
            ref=ref,
            remedies=(Remedy("resume", key, ref, "to follow it"), Remedy("forget", key, detail="if it is not wanted")),
        )
    if submission.status is Status.COMPLETED and not force:
        raise ConfigurationError(
            f"the submission {key!r} is completed (job {ref}), and submitting it again pays for a second result",
            ref=ref,
            remedies=(
                Remedy("attach", key, ref, "to read its result"),
                Remedy("retry", key, detail="pass force=True to pay for another one"),
            ),
        )


def classify_failure(error: BaseException, trace: PaidCallTrace) -> tuple[SubmissionState, str]:
    """Return the outcome of a paid call that raised, and the reason."""
    if isinstance(error, KlingError):
        if trace.lost or isinstance(error, AnswerLost):
            return SubmissionState.UNKNOWN, error.message
        refused = not isinstance(error, TransportFailed | ConfigurationError | LedgerFailed)
        return SubmissionState.REFUSED if refused else SubmissionState.NOT_SUBMITTED, error.message
    reason = f"it failed with {type(error).__name__}" if isinstance(error, Exception) else "it was cancelled"
    if trace.may_have_been_sent:
        return SubmissionState.UNKNOWN, f"{reason} while its answer was on the way"
    return SubmissionState.NOT_SUBMITTED, f"{reason} before it was sent"


def _ref(submission: Submission, accepted: Accepted) -> JobRef:
    provider, _, endpoint = submission.endpoint.partition("/")
    return JobRef(provider, endpoint, accepted.id)

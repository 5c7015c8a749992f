"""The client: submits requests, hands out jobs, and closes what it opened."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

import anyio

from kling_async._bulk import BulkRun, Course, Rows
from kling_async._clock import Clock
from kling_async._errors import ConfigurationError, KlingError, Remedy
from kling_async._files.local import load
from kling_async._http.backend import Http, PerLoopBackend
from kling_async._http.limits import Limits
from kling_async._http.paid_call import PaidCallTrace
from kling_async._http.transport import ProviderStatistics, ProviderTransport
from kling_async._job import Job, ProviderSession
from kling_async._ledger.protocol import Ledger, Submission
from kling_async._ledger.writer import LedgerWriter
from kling_async._models import Event, JobRef, Result
from kling_async._polling.poller import Poller
from kling_async._polling.settings import Polling
from kling_async._scheduling.schedules import Learned
from kling_async._submission.budget import Budget, BudgetStatistics
from kling_async._submission.cancellation import finish_within_grace
from kling_async._submission.early_deliveries import EarlyDeliveries
from kling_async._submission.pricing import price_info
from kling_async._submission.remedies import RecoveryAdvisor
from kling_async._submission.submitter import AcceptedSubmission, Submitter
from kling_async._tracking.tracked_job import TrackedJob
from kling_async._validation import given, require
from kling_async._webhooks.receiver import WebhookReceiver
from kling_async.providers import load_providers
from kling_async.providers._base.endpoint import Endpoint
from kling_async.providers._base.provider import Provider
from kling_async.providers._base.request import Request
from kling_async.webhooks import Delivery, Webhooks

__all__ = ["Client", "Statistics"]

log = logging.getLogger("kling_async")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a client has done so far.

    Attributes:
        submitted: Jobs bought.
        running: Jobs it knows to be unfinished.
        lanes: Calls and connections, by provider.
        budget: What is spent, reserved and left; None: the client has no budget.
    """

    submitted: int
    running: int
    providers: dict[str, ProviderStatistics]
    budget: BudgetStatistics | None = None


class Client:
    """Submits generations to their providers and follows them.

    It runs nothing in the background, so it may be made anywhere (at import, in a FastAPI lifespan), used from any task
    and over several event loops, on asyncio or trio. ``async with`` closes it; so does `aclose`.

    Args:
        providers: The providers to use. None: every one whose key is in the environment (``RUNBLOB_API_KEY``, ...).
        limits: Bounds of what is done to one provider.
        polling: When to look at jobs.
        ledger: Where submissions and their jobs are written down, so that a crash loses none:
            ``SqliteLedger("jobs.db")``. It belongs to this client, which closes it. None: nowhere.
        webhooks: Where providers are to report to; what arrives there is for `deliver`. None: jobs are only looked at.
        budget: How much may be spent: ``Budget(usd=5)``; it belongs to this client. None: whatever the account has.
        http: In place of the connection pool of this library: an ``httpx.AsyncClient`` or a transport of your own,
            or the URL of a proxy. What you pass is yours to close.

    Raises:
        ConfigurationError: No provider, two of one kind, or one without a key; or an argument of the wrong kind.
    """

    def __init__(
        self,
        providers: Iterable[Provider] | Provider | None = None,
        *,
        limits: Limits | None = None,
        polling: Polling | None = None,
        ledger: Ledger | None = None,
        webhooks: Webhooks | None = None,
        budget: Budget | None = None,
        http: Http = None,
    ) -> None:
        require("Client(limits=...)", limits, Limits | None, "settings such as Limits(connections=100)")
        require("Client(polling=...)", polling, Polling | None, "settings such as Polling(deadline=900)")
        require("Client(webhooks=...)", webhooks, Webhooks | None, "Webhooks(url, secret)")
        require("Client(budget=...)", budget, Budget | None, "a budget such as Budget(usd=5)")
        self._limits = limits or Limits()
        self._polling = polling or Polling()
        self._schedule = self._polling.schedule or Learned()
        self._clock = Clock()
        self._accounts: dict[str, ProviderSession] = {}
        self._running: dict[str, TrackedJob] = {}  # by reference
        self._arrival = anyio.Event()
        self._submitted = 0
        self._closed = False
        transports: dict[str, ProviderTransport] = {}
        for provider in _configured(providers):
            if provider.name in transports:
                raise ConfigurationError(
                    f"two providers are {provider.display_name}; use one client for each account",
                    provider=provider.name,
                )
            transports[provider.name] = ProviderTransport(provider, self._limits, http, self._clock)
        sellers = {name: transport.provider for name, transport in transports.items()}
        self._downloads = PerLoopBackend(http, self._limits, next(iter(sellers.values())).base_url)
        self._book = LedgerWriter(
            ledger,
            {name: seller.config.secret_texts for name, seller in sellers.items()},
        )
        book = self._book if self._book.enabled else None
        for name, transport in transports.items():
            calls = self._polling.status_calls_per_minute or transport.provider.status_calls_per_minute
            watch = Poller(transport, self._clock, None if calls is None or calls == math.inf else calls)
            self._accounts[name] = ProviderSession(transport, watch, self._downloads, book)
        self._budget = budget
        early = EarlyDeliveries(webhooks)
        self._remedies = RecoveryAdvisor(sellers, self._clock, kept=self._book.enabled)
        settled = budget.commit if budget else None
        self._buyer = Submitter(self._book, transports, self._clock, self._remedies, early, settled)
        self._deliveries = WebhookReceiver(
            webhooks,
            providers=sellers,
            pollers={name: account.poller for name, account in self._accounts.items()},
            book=self._book,
            buyer=self._buyer,
            remedies=self._remedies,
            early=early,
            adopt=self._found,
        )
        self._on_settled = self._settled  # one bound method for all jobs: each would keep one of its own
        self._recalled = False
        self._recalling = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Client {', '.join(self._accounts)}{' closed' if self._closed else ''}>"

    async def __aenter__(self) -> Self:
        self._require_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections and the ledger. Jobs go on at their providers. Closing twice is harmless."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            learned = self._learned.state() if self._learned is not None else {}
            await self._book.aclose(learned if learned.get("ends") else None)
            for account in self._accounts.values():
                await account.transport.aclose()
            await self._downloads.aclose()

    async def submit(self, request: Request, *, key: str | None = None) -> Job:
        """Buy one generation.

        The paid call is never repeated when its outcome is unknown. Cancelling it, once it was sent, is held back until
        the answer is there, for ``Limits.cancel_grace`` seconds at most, so that the job is not lost.

        Args:
            request: What to generate; it goes to its own provider.
            key: Your name for this submission; errors carry it. With a ledger, a key is bought once, in this process or
                another: a second submission of the same request gives the same job.

        Returns:
            The job, accepted by the provider.

        Raises:
            ConfigurationError: The client has no such provider, or is closed; or the key is no text.
            TypeError: It is no request.
            pydantic.ValidationError: A local file is not acceptable any more.
            InvalidRequest, Unauthorized, InsufficientCredits, ContentRejected, RateLimited, ProviderUnavailable:
                The provider refused; nothing was bought.
            TransportFailed: The provider was not reached; nothing was bought.
            SubmissionUnknown: The answer was lost; a job may have been bought, and it is not sent again.
            KeyConflict: The key was used for another request; nothing was sent.
            LedgerFailed: The ledger cannot be written; nothing was sent.
            BudgetExceeded: It would overstep the client's budget; nothing was sent.
        """
        return self._handle(await self._submit(request, key))

    async def _submit(self, request: Request, key: str | None, *, insist: bool = False) -> TrackedJob:
        self._require_open()
        _require_request(request)
        account = self._account(request.endpoint)
        if request.files:
            request = request.with_files(await load(request.files))
        await self._recall()
        intent = await self._buyer.prepare(request, key)
        async with self._buyer.exclusive(intent), self._reserved(account, request, intent, insist):
            return await finish_within_grace(
                partial(self._buy, account, request, intent, insist), self._limits.cancel_grace
            )

    @asynccontextmanager
    async def _reserved(
        self, account: ProviderSession, request: Request, intent: Submission, insist: bool
    ) -> AsyncIterator[None]:
        """Hold a part of the budget for a submission, unless its key is known to be bought already."""
        if self._budget is None or (not insist and await self._buyer.key_in_use(intent)):
            yield
            return
        hold = await self._budget.reserve(intent.attempt_id, price_info(account.provider, request.endpoint, request))
        try:
            yield
        finally:
            self._budget.release(hold)

    async def _buy(
        self, account: ProviderSession, request: Request, intent: Submission, insist: bool, trace: PaidCallTrace
    ) -> TrackedJob:
        bought = await self._buyer.submit(account.transport, request, intent, trace, force=insist)
        tracked = await self._adopt(account, bought, request)
        self._account_for(tracked)
        return tracked

    async def _adopt(self, account: ProviderSession, bought: AcceptedSubmission, request: Request | None) -> TrackedJob:
        """Follow a job that was bought, now or before."""
        events: list[Event] = []
        if bought.report is None and bought.ref not in self._running and self._book.enabled:
            events = await self._book.ledger.events(bought.ref)
        if (known := self._running.get(bought.ref)) is not None:
            if self._book.enabled and not known.recorded:  # it was only attached, and the ledger has it
                await known.start_recording(self._book.append_events, await self._book.ledger.events(known.ref))
            known.key = bought.key
            self._deliveries.register(bought.attempt_id, known)
            return known
        new = bought.report is not None and (request is None or request.callback_url is None)
        tracked = self._track(account, bought.ref, request, bought.started, events, reported=new)
        tracked.key = bought.key
        self._deliveries.register(bought.attempt_id, tracked)
        if bought.report is not None:
            self._submitted += 1
            await tracked.apply(bought.report, "submit")
            await self._deliveries.replay(tracked, bought.deliveries)
        return tracked

    async def _found(self, submission: Submission, ref: JobRef) -> TrackedJob:
        """The job of a submission, as a webhook tells."""
        bought = AcceptedSubmission.before(submission, ref)
        return await self._adopt(self._account(submission.endpoint), bought, self._remedies.restored(submission))

    async def run(self, request: Request, *, key: str | None = None) -> Result:
        """Submit, then wait for the result.

        Args:
            request: What to generate.
            key: Your name for this submission.

        Raises:
            KlingError: As of `submit`.
            GenerationFailed, GenerationCancelled, GenerationTimeout: How the job ended; each carries it.
        """
        return await (await self.submit(request, key=key))

    def map(self, requests: Rows, *, in_flight: int = 100, ordered: bool = False) -> BulkRun:
        """Generate many: ``async with client.map(requests) as outcomes: async for outcome in outcomes: ...``.

        A row is pulled from the input only when there is room for it, so the input may be endless. One row's error is
        its outcome's `error` and stops nothing, unless no further row can be bought.

        Args:
            requests: Requests, or pairs of a key and a request, from any iterable or async iterable. With a ledger and
                keys, a run that was interrupted is continued by the same call, and buys nothing twice.
            in_flight: How many jobs may run at once.
            ordered: Yield outcomes in the order of the rows, not as they come.

        Returns:
            The run. Leaving its block stops submitting; jobs that were bought go on at their providers.

        Raises:
            BulkStopped: From the loop, after the last outcome: no credits, a refused key, a spent budget or a full
                ledger stopped the submissions; what was in flight has finished.
        """
        self._require_open()
        course = Course(self._submit, self._accounts, self._limits.connections)
        return BulkRun(requests, course, in_flight=in_flight, ordered=ordered)

    def attach(self, ref: JobRef | str) -> Job:
        """The handle to a job that exists already; no call is made, and the ledger is not told of it.

        Args:
            ref: Its address, or the text of it.

        Raises:
            ValueError: The text is no address.
            TypeError: It is neither an address nor text.
            ConfigurationError: The client has no such provider, or the provider no such endpoint.
        """
        self._require_open()
        ref = JobRef.of(ref)
        account = self._account(ref.endpoint)
        account.provider.endpoint(ref.endpoint)
        return self._handle(self._running.get(ref) or self._track(account, ref, None, None))

    async def resume(self) -> list[Job]:
        """Take up what the ledger has unfinished, from this process or an earlier one.

        Jobs that run go on under the same limits: their deadlines count from when they were submitted, and their events
        so far are replayed. Submissions whose outcome is unknown are settled where the provider gives a way: Runware by
        sending the same id again, inference.sh by its list of tasks. What can be neither followed nor settled stays in
        `unresolved`, and is logged.

        Returns:
            The jobs, in the order of their submission; wait for them as for any other.

        Raises:
            ConfigurationError: The client has no ledger.
            LedgerFailed: It cannot be read.
        """
        self._require_open()
        await self._recall()
        jobs = []
        for submission in await self._buyer.unfinished():
            tracked = await self._resumed(submission)
            if tracked is not None:
                jobs.append(self._handle(tracked))
            else:
                reason = self._remedies.missing(submission) or submission.reason or "its outcome is unknown"
                advice = ", or ".join(map(str, submission.remedies))
                facts = {"event": "not_resumed", "key": submission.key}
                log.warning(
                    "submission %r is not resumed: %s. Next step: %s", submission.key, reason, advice, extra=facts
                )
        return jobs

    async def _resumed(self, submission: Submission) -> TrackedJob | None:
        account = self._accounts.get(submission.provider)
        if account is None or self._remedies.missing(submission):
            return None
        request = self._remedies.restored(submission)
        if submission.ref is not None:
            bought = AcceptedSubmission.before(submission, submission.ref)
            return await self._adopt(account, bought, request)
        if request is None:
            return None
        try:
            async with self._buyer.exclusive(submission):
                return await finish_within_grace(
                    partial(self._settle, account, request, submission), self._limits.cancel_grace
                )
        except KlingError as error:
            log.info("submission %r: %s", submission.key, error)
            return None

    async def _settle(
        self, account: ProviderSession, request: Request, submission: Submission, trace: PaidCallTrace
    ) -> TrackedJob | None:
        bought = await self._buyer.recover_current(account.transport, request, submission, trace)
        return None if bought is None else await self._adopt(account, bought, request)

    async def unresolved(self) -> list[Submission]:
        """The submissions of the ledger that need you: `resume` cannot follow them, or cannot be sure to.

        The ``reason`` of each says what is known of it, its ``remedies`` what can be done. No call is made.

        Raises:
            ConfigurationError: The client has no ledger.
            LedgerFailed: It cannot be read.
        """
        self._require_open()
        return [s for s in await self._buyer.unfinished() if s.ref is None or self._remedies.missing(s)]

    async def resolve(self, key: str, ref: JobRef | str) -> Job:
        """Say that a submission whose outcome is unknown is that job.

        Args:
            key: The submission's key.
            ref: The job's address, or the text of it.

        Returns:
            The job, followed like any other.

        Raises:
            KeyConflict: The ledger knows better: it is another job, or the job is another submission's.
            ConfigurationError: There is no such submission, or it cannot be that job.
        """
        self._require_open()
        ref = JobRef.of(ref)
        account = self._account(ref.endpoint)
        submission = await self._buyer.resolve(key, ref)
        bought = AcceptedSubmission.before(submission, ref)
        return self._handle(await self._adopt(account, bought, self._remedies.restored(submission)))

    async def forget(self, key: str) -> None:
        """Say that a submission bought nothing, or that its job is not wanted: the key may be used again.

        Args:
            key: The submission's key.

        Raises:
            ConfigurationError: There is no such submission, it is being sent, or its job has ended.
        """
        self._require_open()
        await self._buyer.forget(key)

    async def resubmit(self, key: str, request: Request | None = None) -> Job:
        """Submit again what failed, was refused, or may or may not have been bought. This may buy a second job.

        Where the provider recognises our id (Runware), a submission whose outcome is unknown is sent with the same one,
        and buys at most one job all the same.

        Args:
            key: The submission's key.
            request: The request, where the ledger has not kept all of it: inline images are kept as digests unless it
                was made with ``keep_images=True``, and callback addresses are not kept.

        Raises:
            ConfigurationError: There is no such submission, its job still runs, or the request is needed.
            KeyConflict: The request is another one.
            KlingError: As of `submit`.
        """
        self._require_open()
        submission = await self._buyer.require(key)
        self._account(submission.endpoint)  # which says so if it is missing
        request = request or self._remedies.restored(submission, exact=True)
        if request is None:
            raise ConfigurationError(
                f"the ledger has not kept all of the request of {key!r} (inline images, callback address)",
                remedies=(Remedy("resubmit", key, needs_request=True),),
            )
        return self._handle(await self._submit(request, key, insist=True))

    async def deliver(self, delivery: Delivery) -> bool:
        """Take in a webhook. It makes no call to a provider, so it may be awaited before the webhook is answered.

        With ``Webhooks(confirm=True)`` the job is looked at next, by whoever waits for it or will; else an end that it
        tells is the job's end. It may come twice, late, or before the submission is answered; it also settles a
        submission whose answer was lost.

        Args:
            delivery: The webhook, as it came.

        Returns:
            Whether it concerns a job or a submission that is known here. False: acknowledge it all the same.

        Raises:
            WebhookRejected: It is not authentic, too large, not readable, or about another job than its address.
            LedgerFailed: What it tells could not be written down; let the provider try again.
            ConfigurationError: The client expects no webhooks, or is closed.
        """
        self._require_open()
        return await self._deliveries.receive(delivery)

    async def follow(self) -> None:
        """Look at every unfinished job of this client, also those submitted later, until cancelled.

        For services that start jobs for which nobody waits. Run it as a task of your own; it never returns, and no
        job's end makes it raise.
        """
        self._require_open()
        followed: set[str] = set()
        async with anyio.create_task_group() as group:
            while True:
                arrival = self._arrival = anyio.Event()
                for ref, tracked in self._running.items():
                    if ref not in followed:
                        followed.add(ref)
                        group.start_soon(_follow, self._handle(tracked), followed)
                await arrival.wait()

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The unfinished jobs that this client knows, oldest first: submitted, resumed or attached here."""
        return tuple(self._handle(tracked) for tracked in self._running.values())

    def statistics(self) -> Statistics:
        """What the client has done so far."""
        transports = {name: account.transport.statistics() for name, account in self._accounts.items()}
        budget = self._budget.statistics() if self._budget is not None else None
        return Statistics(self._submitted, len(self._running), transports, budget)

    def _handle(self, tracked: TrackedJob) -> Job:
        return Job(tracked, self._accounts[tracked.ref.provider])

    def _track(
        self,
        account: ProviderSession,
        ref: JobRef,
        request: Request | None,
        started: float | None,
        events: Sequence[Event] = (),
        *,
        reported: bool = False,
    ) -> TrackedJob:
        """Follow a job, until it ends.

        Args:
            account: Where it runs.
            ref: Its address.
            request: What was submitted, if that is known.
            started: When it was submitted; None: we did not.
            events: Its log, as the ledger has it.
            reported: Its provider was given the address of our webhooks.
        """
        now = self._clock.now()
        endpoint: Endpoint[Request] = account.provider.endpoint(ref.endpoint)
        schedule = self._schedule
        if schedule == "documented" or (isinstance(schedule, Learned) and started is None):
            # A law says when a job of known age will end; that of a job that was attached is not known.
            schedule = endpoint.schedule.faster(account.provider.speed)
        variant = f"{ref.endpoint} {endpoint.variant(request)}" if request is not None else ref.endpoint
        law = endpoint.duration_prior(request).faster(account.provider.speed)
        cadence = schedule.timer(variant.rstrip(), law)
        if reported:
            cadence = self._deliveries.timer(ref, cadence, law)
        recorded = self._book.enabled and started is not None
        # A clock that was set back since would put the next look, and the deadline, off by as much.
        since = now if started is None else min(started, now)
        tracked = TrackedJob(
            ref,
            cadence,
            request=request,
            started=since,
            deadline=since + (self._polling.deadline or endpoint.deadline),
            clock=self._clock,
            record=self._book.append_events if recorded else None,
            settled=self._on_settled,
            submitted_here=started is not None,
        )
        tracked.replay(events)
        if not tracked.ended:
            self._running[str(ref)] = tracked
            self._arrival.set()
        return tracked

    def _settled(self, ref: JobRef) -> None:
        tracked = self._running.pop(ref, None)
        if tracked is not None:
            self._account_for(tracked)

    def _account_for(self, tracked: TrackedJob) -> None:
        """Tell the budget what is known of a job's cost."""
        if self._budget is not None:
            self._budget.record_cost(tracked.ref, tracked.status, tracked.cost)

    @property
    def _learned(self) -> Learned | None:
        return self._schedule if isinstance(self._schedule, Learned) else None

    async def _recall(self) -> None:
        """Take up, once, what earlier processes have learned of durations and spent of the budget."""
        if self._recalled:
            return
        async with self._recalling:
            if not self._recalled:
                if self._learned is not None:
                    self._learned.restore(await self._book.load())
                if self._budget is not None:
                    await self._budget.load_history(await self._buyer.history())
                self._recalled = True

    def _account(self, name: str) -> ProviderSession:
        provider = name.partition("/")[0]
        try:
            return self._accounts[provider]
        except KeyError:
            known = {kind.name: kind for kind in load_providers()}
            message = f"this client has no provider for {name} (it has {', '.join(self._accounts)})"
            if provider not in known:
                message += (
                    f"; known endpoints are {', '.join(e.name for kind in load_providers() for e in kind.endpoints)}"
                )
                raise ConfigurationError(message) from None
            kind = known[provider]
            remedies = (
                Remedy("configure", detail=kind.env_vars[0]),
                Remedy("configure", detail=f"pass {kind.__name__}(...)"),
            )
            raise ConfigurationError(message, remedies=remedies) from None

    def _require_open(self) -> None:
        if self._closed:
            raise ConfigurationError("the client is closed; make a new one")


def _configured(providers: Iterable[Provider] | Provider | None) -> list[Provider]:
    """The providers, their keys and addresses completed from the environment."""
    if isinstance(providers, Provider):
        providers = [providers]
    if providers is None:
        providers = [kind() for kind in load_providers() if kind.identity().found_in(os.environ)]
        if not providers:
            variables = ", ".join(kind.env_vars[0] for kind in load_providers())
            raise ConfigurationError(f"no API key in the environment: set one of {variables}, or pass providers=[...]")
    anything: Any = providers  # whatever was given
    several = isinstance(anything, Iterable) and not isinstance(anything, str | type)
    found = [_made(provider).with_environment(os.environ) for provider in (anything if several else [anything])]
    if not found:
        raise ConfigurationError("the list of providers is empty; pass at least one, such as RunBlob()")
    return found


def _made(provider: object) -> Provider:
    """The provider that it is. What is none is not repeated in the error: it may be a key."""
    if isinstance(provider, Provider):
        return provider
    near = [kind for kind in load_providers() if provider is kind or provider == kind.name]
    example = f"{near[0].__name__ if near else 'RunBlob'}(api_key=...)"
    raise ConfigurationError(f"Client(...) was given {given(provider)} for a provider; make one, such as {example}")


def _require_request(request: object) -> None:
    if not isinstance(request, Request):
        raise TypeError(f"a request is submitted, such as runblob.O3Video('a paper boat'), not {given(request)}")


async def _follow(job: Job, followed: set[str]) -> None:
    try:
        await job.wait()
    except KlingError as error:
        log.warning("job %s is not followed any more: %s", job.ref, error)
    followed.discard(job.ref)

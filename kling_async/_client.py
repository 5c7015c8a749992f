"""The client: its public methods, and how its parts are connected."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from kling_async._bulk.run import BulkRun
from kling_async._bulk.source import Rows
from kling_async._errors import ConfigurationError, GenerationFailed, KlingError
from kling_async._event_loop.clock import Clock
from kling_async._event_loop.guard import LoopGuard
from kling_async._exchange.calls import Flow
from kling_async._files.local import ensure_writable, with_local_files
from kling_async._files.object_store import destination
from kling_async._http.backend import Http, PerLoopBackend
from kling_async._http.limits import Limits
from kling_async._http.transport import ProviderStatistics, ProviderTransport
from kling_async._job.job import Job, OnEvent
from kling_async._job.session import ProviderSession
from kling_async._ledger.protocol import Ledger, Submission
from kling_async._ledger.writer import LedgerWriter
from kling_async._models import Cost, JobRef, Result
from kling_async._polling.leases import JobLeases
from kling_async._polling.poller import Poller
from kling_async._polling.settings import Polling
from kling_async._routing.quotes import Quote
from kling_async._routing.router import Prefer, Router, may_retry
from kling_async._scheduling.schedules import Learned
from kling_async._submission.budget import Budget, BudgetStatistics, account_of
from kling_async._submission.early_deliveries import EarlyDeliveries
from kling_async._submission.observer import Observer, suppressed
from kling_async._submission.pricing import Amount, as_cost
from kling_async._submission.recovery import Recovery
from kling_async._submission.remedies import RecoveryAdvisor, provider_of
from kling_async._submission.running_jobs import AccountSlots
from kling_async._submission.submitter import Submitter, require_request
from kling_async._tracking.registry import JobRegistry
from kling_async._tracking.tracked_job import TrackedJob
from kling_async._validation import count_of, given, require, require_seconds
from kling_async._webhooks.applier import WebhookApplier
from kling_async._webhooks.receiver import WebhookReceiver
from kling_async.providers import load_providers
from kling_async.providers._base.portable import PortableRequest
from kling_async.providers._base.provider import Provider
from kling_async.providers._base.request import Request
from kling_async.webhooks import Delivery, Webhooks

__all__ = ["Client", "Statistics"]

log = logging.getLogger("kling_async")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a client has done so far.

    Attributes:
        submitted: Jobs that it submitted.
        running: Unfinished jobs that it knows.
        providers: Calls and connections, by provider.
        budget: What is spent, reserved and left. None if the client has no budget.
    """

    submitted: int
    running: int
    providers: dict[str, ProviderStatistics]
    budget: BudgetStatistics | None = None


class Client:
    """Submits generations to their providers and tracks their jobs.

    It runs nothing in the background, so it may be made anywhere (at import, in a FastAPI lifespan) and used from any
    task, on asyncio or trio. Several event loops may use it one after another, but not at the same time. After a fork,
    each process needs a client of its own. ``async with`` closes it, and so does `aclose`.

    Args:
        providers: The providers to use. If None, every one whose key is in the environment (``RUNBLOB_API_KEY``, ...).
        limits: Limits on the calls to each provider, and on the jobs that run at once at its account.
        polling: When to poll jobs.
        ledger: Where submissions and their jobs are stored, so that a crash loses none: ``SqliteLedger("jobs.db")``. It
            belongs to this client, which closes it. If None, nothing is stored.
        webhooks: The URL that providers report to. Pass what they send to `deliver`. If None, jobs are only polled.
        budget: How much may be spent: ``Budget(usd=5)``. It belongs to this client, and counts what all processes spend
            that share the ledger. If None, there is no limit.
        http: Used in place of this library's connection pool: an ``httpx.AsyncClient`` or a transport of your own, the
            URL of a proxy, or ``"fast"``: the pool, which reads HTTP by httptools then (needs ``kling-async[fast]``;
            the variable ``KLING_HTTP=fast`` does the same). You close what you pass.
        prefer: Who makes portable requests (`Video`, `Image`): ``"cheapest"``, ``"fastest"``, or a list of providers
            or endpoints, the best first, such as ``["kling", "runblob"]``. Those that are not listed are not used.
            Defaults to the cheapest.
        observer: Is told of submissions and of the ends of jobs, for telemetry: ``kling_async.otel.Telemetry()``.

    Raises:
        ConfigurationError: No provider, two of one kind, or one without a key, or an argument of the wrong kind.
    """

    def __init__(  # noqa: PLR0913  # settings, each by its name
        self,
        providers: Iterable[Provider] | Provider | None = None,
        *,
        limits: Limits | None = None,
        polling: Polling | None = None,
        ledger: Ledger | None = None,
        webhooks: Webhooks | None = None,
        budget: Budget | None = None,
        http: Http = None,
        prefer: Prefer | None = None,
        observer: Observer | None = None,
    ) -> None:
        require("Client(limits=...)", limits, Limits | None, "settings such as Limits(connections=100)")
        require("Client(polling=...)", polling, Polling | None, "settings such as Polling(deadline=900)")
        require("Client(webhooks=...)", webhooks, Webhooks | None, "Webhooks(url, secret)")
        require("Client(budget=...)", budget, Budget | None, "a budget such as Budget(usd=5)")
        require("Client(observer=...)", observer, Observer | None, "an observer such as otel.Telemetry()")
        self._limits = limits or Limits()
        polling = polling or Polling()
        schedule = polling.schedule or Learned()
        self._learned = schedule if isinstance(schedule, Learned) else None
        self._budget = budget
        self._closed = False
        self._guard = LoopGuard()
        clock = Clock()
        transports: dict[str, ProviderTransport] = {}
        for provider in _configured(providers):
            if provider.name in transports:
                raise ConfigurationError(
                    f"two providers are {provider.display_name}; use one client for each account",
                    provider=provider.name,
                )
            transports[provider.name] = ProviderTransport(provider, self._limits, http, clock)
        self._providers = {name: transport.provider for name, transport in transports.items()}
        _require_known(self._limits, transports)
        self._downloads = PerLoopBackend(http, self._limits, next(iter(self._providers.values())).base_url)
        self._ledger = LedgerWriter(
            ledger, {name: provider.config.secret_texts for name, provider in self._providers.items()}
        )
        stored = self._ledger if self._ledger.enabled else None
        leases = JobLeases(self._ledger.shared)
        pollers = {
            name: Poller(transport, clock, _status_calls(polling, transport.provider), leases)
            for name, transport in transports.items()
        }
        if webhooks is not None:
            webhooks = webhooks.with_environment(_secret_variables(self._providers.values()), os.environ)
        self._webhooks = webhooks
        self._longest_deadline = polling.deadline or max(
            endpoint.deadline for provider in self._providers.values() for endpoint in provider.endpoints
        )
        early = EarlyDeliveries(webhooks)
        applier = WebhookApplier(webhooks, self._providers, pollers)
        advisor = RecoveryAdvisor(self._providers, clock, kept=self._ledger.enabled)
        self._registry = JobRegistry(
            self._providers, schedule, polling.deadline, clock, self._ledger, applier if webhooks else None
        )
        self._submitter = Submitter(
            transports,
            self._ledger,
            self._registry,
            advisor,
            early,
            applier,
            clock=clock,
            budget=account_of(budget) if budget is not None else None,
            learned=self._learned,
            observer=observer,
            slots={
                name: AccountSlots(
                    name,
                    transport.provider.config.account,
                    most,
                    self._limits.slot_timeout,
                    clock=clock,
                    registry=self._registry,
                    poller=pollers[name],
                )
                for name, transport in transports.items()
                if (most := self._limits.concurrency_at(name)) is not None
            },
        )
        self._sessions = {
            name: ProviderSession(transport, pollers[name], self._downloads, stored, self._submitter, self._guard)
            for name, transport in transports.items()
        }
        self._router = Router(
            self._submitter, transports, self._ledger, clock=clock, learned=self._learned, prefer=prefer
        )
        self._recovery = Recovery(self._submitter, self._ledger, advisor, self._providers)
        self._receiver = WebhookReceiver(
            webhooks,
            transports=transports,
            ledger=self._ledger,
            registry=self._registry,
            submitter=self._submitter,
            advisor=advisor,
            early=early,
            applier=applier,
        )
        self._observer = observer
        self._counts = lambda: {name: transport.counts for name, transport in transports.items()}
        if observer is not None:
            with suppressed():
                observer.opened(self._counts)

    if not TYPE_CHECKING:  # type checkers would take every misspelt method for one that is found here

        def __getattr__(self, name: str) -> Any:
            """The account of the provider of that name, such as `client.kling`, where it has more than jobs."""
            session = self.__dict__.get("_sessions", {}).get(name)
            account = session and session.provider.account(lambda flow: self._run(session.transport, flow))
            if account is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return account

    async def _run(self, transport: ProviderTransport, flow: Flow[Any]) -> Any:
        with self._call():
            return await transport.run(flow)

    def __repr__(self) -> str:
        return f"<Client {', '.join(self._sessions)}{' closed' if self._closed else ''}>"

    async def __aenter__(self) -> Self:
        self._require_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections and the ledger. Jobs go on at their providers. Closing twice is harmless.

        New calls are refused. Paid calls that were sent are waited for, for ``Limits.cancel_grace`` seconds at most.
        """
        closed, self._closed = self._closed, True
        if self._guard.forked:
            return  # connections and ledger belong to the process that made the client
        with anyio.CancelScope(shield=True):
            for session in self._sessions.values():
                session.transport.refuse_calls()
            await self._submitter.drain()
            for session in self._sessions.values():
                await session.transport.aclose()
            await self._downloads.aclose()
            await self._ledger.aclose(self._learned)
        if self._observer is not None and not closed:
            with suppressed():
                self._observer.closed(self._counts)

    async def submit(
        self,
        request: Request,
        *,
        key: str | None = None,
        max_cost: Amount | Cost | None = None,
        prefer: Prefer | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Job:
        """Submit one generation, which the provider charges for.

        The paid call is never repeated when its outcome is unknown. If you cancel it after it was sent, it first waits
        for the answer, for ``Limits.cancel_grace`` seconds at most, so that the job is not lost.

        Args:
            request: What to generate. Its class decides the provider. A portable request (`Video`, `Image`) goes to the
                best provider that makes exactly that. If that one refuses it before it accepts it, the next one is
                tried. If the outcome is unknown, no other one is.
            key: Your idempotency key for this submission. Errors carry it. With a ledger, a key is paid for once, in
                this process or another: a second submission of the same request returns the same job.
            max_cost: The most that it may cost, in US dollars, or as a `Cost`. If None, only the budget limits it.
            prefer: Who makes a portable request. If None, same as ``Client(prefer=...)``.
            tags: Texts by their names that are stored with the submission, such as ``{"customer": "17"}``. The job has
                them as ``job.tags``, also after a restart. A key that was submitted before keeps its tags.

        Returns:
            The job, accepted by the provider.

        Raises:
            ConfigurationError: The client has no such provider, is closed, or the key is not text.
            TypeError: It is not a request.
            pydantic.ValidationError: It is not valid, or a local file is not acceptable any more.
            InvalidRequest, Unauthorized, InsufficientCredits, ContentRejected, RateLimited, ProviderUnavailable:
                The provider refused. Nothing was bought.
            TransportFailed: The provider was not reached. Nothing was bought.
            SubmissionUnknown: The answer was lost. A job may have been bought, and the request is not sent again.
            KeyConflict: The key was used for another request. Nothing was sent.
            LedgerFailed: The ledger cannot be written. Nothing was sent.
            BudgetExceeded: It does not fit into the client's budget. Nothing was sent.
            NotOffered: No provider of the client makes exactly what a portable request describes. Nothing was sent.
            AllRefused: Several providers make it, and all of them refused. Nothing was bought.
        """
        require_request(request)
        most = None if max_cost is None else as_cost("submit", "max_cost", max_cost)
        with self._call():
            request = await with_local_files(request)
            submitted = await self._router.submit(request, key, prefer=prefer, max_cost=most, tags=tags)
            return self._known(submitted.tracked)

    async def run(  # noqa: PLR0913  # settings of one call, each by its name
        self,
        request: Request,
        *,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  # a bound on the wait
        max_cost: Amount | Cost | None = None,
        prefer: Prefer | None = None,
        retry_failed: int = 0,
        tags: Mapping[str, str] | None = None,
        on_event: OnEvent | None = None,
        save_to: str | os.PathLike[str] | None = None,
    ) -> Result:
        """Submit, then wait for the result.

        If the wait is cancelled, the job goes on, and `jobs` has it.

        Args:
            request: What to generate.
            key: Your key for this submission.
            timeout: Seconds to wait for the result, after the submission. If None, until the job's deadline.
            max_cost: Same as `submit`.
            prefer: Same as `submit`.
            retry_failed: How often a job that failed is submitted again, if it failed by the provider's own fault and
                the provider charges nothing for it. A portable request then goes to another provider, if there is one.
                All attempts have the same key.
            tags: Same as `submit`.
            on_event: Called with every event of the job, a function or a coroutine function. An error that it raises
                ends the wait. The job goes on.
            save_to: A directory, or an address such as ``s3://bucket/prefix``. The result is saved there, and
                ``result.files`` has the paths or addresses. If None, it is not saved.

        Raises:
            DownloadFailed: The result could not be saved.
            KlingError: Same as `submit`.
            GenerationFailed, GenerationCancelled, GenerationTimeout: How the job ended. Each has the job as ``job``.
            ConfigurationError: Same as `submit`, or an argument is not of its kind. Nothing was sent.
        """
        count_of("retry_failed", retry_failed)
        require_seconds("run(timeout=...)", timeout)
        if on_event is not None and not callable(on_event):
            raise ConfigurationError(f"run(on_event=...) takes a function, not {given(on_event)}; nothing was sent")
        folder = None if save_to is None else destination(save_to)
        if folder is not None:
            await ensure_writable(folder)
        job = await self.submit(request, key=key, max_cost=max_cost, prefer=prefer, tags=tags)
        most = None if max_cost is None else as_cost("run", "max_cost", max_cost)
        failed: list[str] = []
        while True:
            try:
                result = await job.result(timeout, on_event=on_event)
                if folder is None:
                    return result
                files = await result.save(folder if isinstance(folder, Path) else str(folder))
                return replace(result, files=tuple(files))
            except GenerationFailed as error:
                again = len(failed) < retry_failed and may_retry(error, refunded=job.refunded, cost=job.cost)
                if not again:
                    raise
            failed.append(job.ref.endpoint)
            with self._call():
                submitted = await self._router.after_failure(
                    await with_local_files(request),
                    job.key,
                    job.ref,
                    prefer=prefer,
                    max_cost=most,
                    failed=failed,
                    tags=tags,
                )
            job = self._handle(submitted.tracked)

    def map(
        self,
        requests: Rows,
        *,
        in_flight: int = 100,
        ordered: bool = False,
        save_to: str | os.PathLike[str] | None = None,
        downloads: int = 8,
        prefer: Prefer | None = None,
        retry_failed: int = 0,
    ) -> BulkRun:
        """Generate many: ``async with client.map(requests) as outcomes: async for outcome in outcomes: ...``.

        A row is pulled from the input only when there is room for it, so the input may be endless. The error of one row
        is its outcome's `error`. It does not stop the run, unless no further row can be submitted.

        Args:
            requests: Requests, pairs of a key and a request, or triples of a key, a request and tags, from any iterable
                or async iterable. With a ledger and keys, the same call continues a run that was interrupted, and pays
                for nothing twice.
            in_flight: How many jobs may run at once.
            ordered: Yield outcomes in the order of the rows. If False, in the order in which they end.
            save_to: A directory, or an address such as ``s3://bucket/prefix``. Results are saved there while the run
                goes on, and ``outcome.files`` has the paths or addresses. If None, results are not saved.
            downloads: How many results are saved at once.
            prefer: Who makes portable rows. If None, same as ``Client(prefer=...)``. When the best provider is at its
                limit, the next one takes the row.
            retry_failed: How often a row is submitted again whose job failed. Same as `run`.

        Returns:
            The run. Leaving its block stops submitting. Jobs that were submitted go on at their providers.

        Raises:
            BulkStopped: From the loop, after the last outcome: no credits, a refused key, a spent budget or a full
                ledger stopped the submissions. The jobs in flight have finished.
        """
        self._require_open()
        return BulkRun(
            requests,
            self._router,
            self._sessions,
            workers=self._limits.connections,
            in_flight=in_flight,
            ordered=ordered,
            save_to=save_to,
            downloads=downloads,
            prefer=prefer,
            retry_failed=retry_failed,
        )

    def attach(self, ref: JobRef | str) -> Job:
        """Return the handle to a job that exists already. No call is made, and nothing is stored in the ledger.

        Args:
            ref: Its reference, or the text of it.

        Raises:
            ValueError: The text is not a reference.
            TypeError: It is neither a reference nor text.
            ConfigurationError: The client has no such provider, or the provider no such endpoint.
        """
        self._require_open()
        ref = JobRef.of(ref)
        provider_of(self._providers, ref.endpoint).endpoint(ref.endpoint)
        return self._handle(self._registry.attach(ref))

    async def resume(self) -> list[Job]:
        """Resume what is unfinished in the ledger, from this process or an earlier one.

        Jobs go on under the same limits: their deadlines count from when they were submitted, and their events so far
        are replayed. Where the provider has a way to find out, submissions whose outcome is unknown are recovered:
        Runware by sending the same id again, inference.sh by its list of tasks. All others stay in `unresolved`, and
        are logged.

        Returns:
            The jobs, in the order of their submission. Wait for them as for any other.

        Raises:
            ConfigurationError: The client has no ledger.
            LedgerFailed: It cannot be read.
        """
        with self._call():
            return [self._known(tracked) for tracked in await self._recovery.resume()]

    async def all_jobs(self) -> list[Job]:
        """Return the unfinished jobs in the ledger, whichever process submitted them, the oldest first.

        No call is made, and nothing changes: a job that another process polls stays there. Whoever waits for it here
        sees its events, and takes it over if that process dies. Their history is replayed from the ledger. Jobs at
        providers that this client does not have are left out. `resume` also makes them this client's own, and recovers
        submissions whose outcome is unknown.

        Raises:
            ConfigurationError: The client has no ledger.
            LedgerFailed: It cannot be read.
        """
        with self._call():
            return [self._handle(tracked) for tracked in await self._recovery.running()]

    async def unresolved(self) -> list[Submission]:
        """Return the submissions that need your decision: `resume` cannot recover them, or cannot be sure to.

        The ``reason`` of each is what is known about it, and its ``remedies`` are what can be done. No call is made.

        Raises:
            ConfigurationError: The client has no ledger.
            LedgerFailed: It cannot be read.
        """
        with self._call():
            return await self._recovery.unresolved()

    async def resolve(self, key: str, ref: JobRef | str) -> Job:
        """Record that a submission whose outcome is unknown is that job.

        Args:
            key: The submission's key.
            ref: The job's reference, or the text of it.

        Returns:
            The job.

        Raises:
            KeyConflict: The ledger has it as another job, or that the job is another submission's.
            ConfigurationError: There is no such submission, or it cannot be that job.
        """
        with self._call():
            return self._known(await self._recovery.resolve(key, JobRef.of(ref)))

    async def forget(self, key: str, *, force: bool = False) -> None:
        """Free a key: the submission bought nothing, its job is not wanted, or its result has expired.

        Args:
            key: The submission's key.
            force: Free it also if its result was saved.

        Raises:
            ConfigurationError: There is no such submission, it is being sent, or its result was saved.
        """
        with self._call():
            await self._recovery.forget(key, force=force)

    async def resubmit(self, key: str, request: Request | None = None, *, force: bool = False) -> Job:
        """Submit again what failed, was refused, or may or may not have been bought. This may pay for a second job.

        Where the provider recognises our id (Runware), a submission whose outcome is unknown is sent with the same one,
        and buys at most one job.

        Args:
            key: The submission's key.
            request: The request, where the ledger has not kept all of it: inline images are kept as digests unless it
                was made with ``keep_images=True``, and callback URLs are not kept.
            force: Pay for another job also if the submission's job is completed.

        Raises:
            ConfigurationError: There is no such submission, its job still runs, it is completed and `force` is False,
                or the request is needed.
            KeyConflict: The request is another one.
            KlingError: Same as `submit`.
        """
        with self._call():
            if request is not None:
                require_request(request)
                request = await with_local_files(request)
            return self._known(await self._recovery.resubmit(key, request, force=force))

    async def estimate(self, request: Request) -> Cost | None:
        """Return what a request is expected to cost: the same estimate as the budget's.

        It is the documented price, or what the provider took for the same settings if that was more. No call is made.

        Args:
            request: The request. Of a portable one it is the cost at the provider that is preferred.

        Returns:
            None if the price is not known before one was bought.
        """
        require_request(request)
        with self._call():
            if isinstance(request, PortableRequest):
                best = (await self._router.quote(request))[:1]
                return best[0].cost if best else None
            return await self._submitter.estimate(request)

    async def quote(self, request: Request, *, prefer: Prefer | None = None) -> list[Quote]:
        """Return what a request would cost, how long it would take, and how well its provider serves. No call is made.

        Args:
            request: A portable request, for which every endpoint of the client's providers that makes such things has a
                quote; or a provider's own, which has one.
            prefer: The order of the quotes. If None, same as ``Client(prefer=...)``.

        Returns:
            The quotes, the best first. Those of endpoints that cannot serve the request come last, with the `reason`.
        """
        require_request(request)
        with self._call():
            return await self._router.quote(request, prefer)

    async def deliver(self, delivery: Delivery) -> bool:
        """Process a webhook. It may be awaited before the webhook is answered.

        It makes no call to a provider. The exception is fal, whose public keys are read once a day.

        With ``Webhooks(confirm=True)`` the webhook only makes the next poll of the job urgent. With ``confirm=False`` a
        final status in the webhook ends the job without a poll. It may come twice, late, or before the submission is
        answered. It also resolves a submission whose answer was lost.

        Args:
            delivery: The webhook as it was received.

        Returns:
            Whether it is about a job or a submission that is known here. Acknowledge it also if False.

        Raises:
            WebhookRejected: It is not authentic, too large, not readable, or about another job than its URL.
            LedgerFailed: It could not be recorded. Let the provider try again.
            ConfigurationError: The client expects no webhooks, is closed, or is being used by the event loop of another
                thread.
        """
        with self._call():
            return await self._receiver.receive(delivery)

    async def follow(self) -> None:
        """Poll every unfinished job that was submitted or resumed here, also later ones, until cancelled.

        For services that start jobs for which nobody waits. Run it as a task of your own. It never returns, and the end
        of a job does not make it raise. Where several processes share a ledger, it also takes over jobs that no process
        polls any more. All processes that follow share them out.
        """
        followed: set[str] = set()
        with self._call():
            async with anyio.create_task_group() as group:
                if self._ledger.shared is not None:
                    group.start_soon(self._recovery.take_over_jobs, self._longest_deadline)
                while True:
                    arrival = self._registry.arrival
                    for ref, tracked in self._registry.running.items():
                        if ref not in followed:
                            followed.add(ref)
                            group.start_soon(_follow, self._handle(tracked), followed)
                    await arrival.wait()

    @property
    def ledger(self) -> Ledger | None:
        """The ledger that this client was made with."""
        return self._ledger.ledger if self._ledger.enabled else None

    @property
    def webhooks(self) -> Webhooks | None:
        """The webhook settings that this client was made with."""
        return self._webhooks

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The unfinished jobs that this client knows: submitted, resumed or attached here, the oldest first.

        Those of all processes that share the ledger: `all_jobs`.
        """
        return tuple(self._handle(tracked) for tracked in self._registry)

    def statistics(self) -> Statistics:
        """What the client has done so far."""
        providers = {name: session.transport.statistics() for name, session in self._sessions.items()}
        budget = self._budget.statistics() if self._budget is not None else None
        return Statistics(self._submitter.submitted, len(self._registry), providers, budget)

    def _known(self, tracked: TrackedJob) -> Job:
        """The handle to a job that is known to exist, and may have been attached before that was known."""
        self._sessions[tracked.ref.provider].poller.rank_again(tracked)
        return self._handle(tracked)

    def _handle(self, tracked: TrackedJob) -> Job:
        return Job(tracked, self._sessions[tracked.ref.provider])

    @contextmanager
    def _call(self) -> Iterator[None]:
        """Surrounds a call: the client must be open, and be used by one event loop at a time."""
        self._require_open()
        with self._guard.call():
            yield

    def _require_open(self) -> None:
        if self._closed:
            raise ConfigurationError("the client is closed; make a new one")


def _require_known(limits: Limits, used: Iterable[str]) -> None:
    """Make sure that a limit is of a provider that exists. A misspelt name would set none.

    Raises:
        ConfigurationError: It is not.
    """
    if not isinstance(limits.concurrency, Mapping):
        return
    known = {*used, *(kind.name for kind in load_providers())}
    if unknown := [name for name in limits.concurrency if name not in known]:
        names = ", ".join(sorted(known))
        raise ConfigurationError(
            f"Limits(concurrency=...) names {unknown[0]!r:.80}, which is no provider; there are {names}"
        )


def _status_calls(polling: Polling, provider: Provider) -> float | None:
    """Return the limit on status calls per minute. None if there is none."""
    calls = polling.status_calls_per_minute or provider.status_calls_per_minute
    return None if calls is None or calls == math.inf else calls * polling.share


def _configured(providers: Iterable[Provider] | Provider | None) -> list[Provider]:
    """Return the providers, with keys and URLs from the environment."""
    if isinstance(providers, Provider):
        providers = [providers]
    if providers is None:
        providers = [kind() for kind in load_providers() if kind.identity().found_in(os.environ)]
        if not providers:
            variables = ", ".join(kind.env_vars[0] for kind in load_providers())
            raise ConfigurationError(f"no API key in the environment: set one of {variables}, or pass providers=[...]")
    anything: Any = providers  # the user's value, of any type
    several = isinstance(anything, Iterable) and not isinstance(anything, str | type)
    found = [_made(provider).with_environment(os.environ) for provider in (anything if several else [anything])]
    if not found:
        raise ConfigurationError("the list of providers is empty; pass at least one, such as RunBlob()")
    return found


def _made(provider: object) -> Provider:
    """Return the provider. An error does not show what was given instead, because that may be a key."""
    if isinstance(provider, Provider):
        return provider
    near = [kind for kind in load_providers() if provider is kind or provider == kind.name]
    example = f"{near[0].__name__ if near else 'RunBlob'}(api_key=...)"
    raise ConfigurationError(f"Client(...) was given {given(provider)} for a provider; make one, such as {example}")


async def _follow(job: Job, followed: set[str]) -> None:
    try:
        await job.wait()
    except KlingError as error:
        log.warning("job %s is not followed any more: %s", job.ref, error, extra={"event": "not_followed"})
    followed.discard(job.ref)


def _secret_variables(providers: Iterable[Provider]) -> dict[str, str]:
    """The environment variables of the secrets that sign webhooks, by provider."""
    return {
        provider.name: provider.webhook_secret_variable
        for provider in providers
        if provider.webhook_secret_variable is not None
    }

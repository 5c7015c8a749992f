"""The client: submits requests, hands out jobs, and closes what it opened."""

from __future__ import annotations

import logging
import math
import os
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

import anyio

from kling_async._clock import Clock
from kling_async._engine import Engines, Http, Limits
from kling_async._errors import AnswerLost, ConfigurationError, KlingError, SubmissionUnknown
from kling_async._job import Job
from kling_async._media import load
from kling_async._models import JobRef, Result
from kling_async._poller import Polling, Watch
from kling_async._provider import Accepted, Endpoint, Provider
from kling_async._requests import Request
from kling_async._trail import Trail
from kling_async._transport import Lane, LaneStatistics, Trace
from kling_async.providers import KNOWN

__all__ = ["Client", "Statistics"]

T = TypeVar("T")
log = logging.getLogger("kling_async")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a client has done so far.

    Attributes:
        submitted: Jobs bought.
        running: Jobs it knows to be unfinished.
        lanes: Calls and connections, by provider.
    """

    submitted: int
    running: int
    lanes: dict[str, LaneStatistics]


@dataclass(frozen=True, slots=True)
class _Account:
    """One provider, and all that goes to it."""

    provider: Provider
    lane: Lane
    watch: Watch


class Client:
    """Submits generations to their providers and follows them.

    It runs nothing in the background, so it may be made anywhere (at import, in a FastAPI lifespan), used from any task
    and over several event loops, on asyncio or trio. ``async with`` closes it; so does `aclose`.

    Args:
        providers: The providers to use. None: every one whose key is in the environment (``RUNBLOB_API_KEY``, ...).
        limits: Bounds of what is done to one provider.
        polling: When to look at jobs.
        http: In place of the connection pool of this library: an ``httpx.AsyncClient`` or a transport of your own,
            or the URL of a proxy. What you pass is yours to close.

    Raises:
        ConfigurationError: No provider, two of one kind, or one without a key.
    """

    def __init__(
        self,
        providers: Iterable[Provider] | Provider | None = None,
        *,
        limits: Limits | None = None,
        polling: Polling | None = None,
        http: Http = None,
    ) -> None:
        self._limits = limits or Limits()
        self._polling = polling or Polling()
        self._clock = Clock()
        self._accounts: dict[str, _Account] = {}
        self._running: dict[JobRef, Job] = {}
        self._arrival = anyio.Event()
        self._submitted = 0
        self._closed = False
        for provider in _configured(providers):
            if provider.name in self._accounts:
                raise ConfigurationError(
                    f"two providers are {provider.title}; use one client for each account",
                    provider=provider.name,
                )
            lane = Lane(provider, self._limits, http, self._clock)
            calls = self._polling.status_calls_per_minute or provider.features.status_calls_per_minute
            watch = Watch(lane, self._clock, None if calls is None or calls == math.inf else calls)
            self._accounts[provider.name] = _Account(provider, lane, watch)
        first = next(iter(self._accounts.values())).provider
        self._downloads = Engines(http, self._limits, first.base_url)

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
        """Close the connections. Jobs go on at their providers. Closing twice is harmless."""
        self._closed = True
        with anyio.CancelScope(shield=True):
            for account in self._accounts.values():
                await account.lane.aclose()
            await self._downloads.aclose()

    async def submit(self, request: Request, *, key: str | None = None) -> Job:
        """Buy one generation.

        The paid call is never repeated when its outcome is unknown. Cancelling it is held back until the answer is there,
        for ``Limits.grace`` seconds at most, so that the job is not lost.

        Args:
            request: What to generate; it goes to its own provider.
            key: Your name for this submission; errors carry it.

        Returns:
            The job, accepted by the provider.

        Raises:
            ConfigurationError: The client has no such provider, or is closed.
            pydantic.ValidationError: A local file is not acceptable any more.
            InvalidRequest, Unauthorized, InsufficientCredits, ContentRejected, RateLimited, ProviderUnavailable:
                The provider refused; nothing was bought.
            TransportFailed: The provider was not reached; nothing was bought.
            SubmissionUnknown: The answer was lost; a job may have been bought, and it is not sent again.
        """
        self._require_open()
        account = self._account(request.endpoint)
        if request.files:
            request = request.with_files(await load(request.files))
        return await _held(lambda: self._buy(account, request, key), self._limits.grace)

    async def _buy(self, account: _Account, request: Request, key: str | None) -> Job:
        purchase = str(uuid.uuid4())
        started, trace = self._clock.now(), Trace()
        try:
            flow = account.provider.submit(request, purchase, None)
            accepted = await account.lane.perform(flow, trace)
        except AnswerLost as error:
            raise self._unknown(account.provider, request, key or purchase, started, error) from error
        except BaseException as error:
            if trace.maybe_sent and not isinstance(error, Exception):
                log.warning(
                    "submission %s was cancelled while its answer was on the way: a job may have been bought",
                    key or purchase,
                )
            raise
        return await self._accepted(account, request, accepted, started)

    async def _accepted(self, account: _Account, request: Request, accepted: Accepted, started: float) -> Job:
        ref = JobRef(account.provider.name, request.endpoint.partition("/")[2], accepted.id)
        endpoint = account.provider.endpoint(request.endpoint)
        job = self._job(account, endpoint, ref, request, started)
        self._submitted += 1
        await job._trail.apply(accepted.reading, "submit")  # noqa: SLF001  # the client makes jobs
        return job

    @staticmethod
    def _unknown(
        provider: Provider, request: Request, key: str, started: float, error: AnswerLost
    ) -> SubmissionUnknown:
        when = datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds")
        return SubmissionUnknown(
            f"the answer to the {request.endpoint} submission {key!r} of {when} was lost ({error.message}). A job may have "
            f"been bought, so it is not sent again: look at the {provider.title} account, attach the job if it is there, "
            "and submit again only if it is not",
            key=key,
            provider=provider.name,
        )

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

    def attach(self, ref: JobRef | str) -> Job:
        """The handle to a job that exists already; no call is made.

        Args:
            ref: Its address, or the text of it.

        Raises:
            ValueError: The text is no address.
            ConfigurationError: The client has no such provider, or the provider no such endpoint.
        """
        self._require_open()
        ref = JobRef.parse(ref) if isinstance(ref, str) else ref
        if ref in self._running:
            return self._running[ref]
        account = self._account(ref.name)
        return self._job(account, account.provider.endpoint(ref.name), ref, None, None)

    async def follow(self) -> None:
        """Look at every unfinished job of this client, also those submitted later, until cancelled.

        For services that start jobs for which nobody waits. Run it as a task of your own; it never returns, and no job's
        end makes it raise.
        """
        self._require_open()
        followed: set[JobRef] = set()
        async with anyio.create_task_group() as group:
            while True:
                arrival = self._arrival = anyio.Event()
                for ref, job in self._running.items():
                    if ref not in followed:
                        followed.add(ref)
                        group.start_soon(_follow, job, followed)
                await arrival.wait()

    def statistics(self) -> Statistics:
        """What the client has done so far."""
        lanes = {name: account.lane.statistics() for name, account in self._accounts.items()}
        return Statistics(self._submitted, len(self._running), lanes)

    def _job(
        self,
        account: _Account,
        endpoint: Endpoint[Request],
        ref: JobRef,
        request: Request | None,
        started: float | None,
    ) -> Job:
        """A handle, registered until its job ends. `started` is None for a job that we did not submit."""
        now = self._clock.now()
        schedule = self._polling.schedule or endpoint.schedule
        variant = f"{ref.name} {endpoint.variant(request)}" if request is not None else ref.name
        cadence = schedule.cadence(variant.rstrip(), endpoint.law(request))
        trail = Trail(
            ref,
            cadence,
            started=now if started is None else started,
            deadline=(now if started is None else started) + (self._polling.deadline or endpoint.deadline),
            clock=self._clock,
            fresh=started is not None,
            settled=self._settled,
        )
        job = Job(trail, account.watch, account.lane, self._downloads, request)
        self._running[ref] = job
        self._arrival.set()
        return job

    def _settled(self, ref: JobRef) -> None:
        self._running.pop(ref, None)

    def _account(self, name: str) -> _Account:
        provider = name.partition("/")[0]
        try:
            return self._accounts[provider]
        except KeyError:
            known = {kind.name: kind for kind in KNOWN}
            remedy = (
                f"set {known[provider].variables[0]} or pass {known[provider].__name__}(...)"
                if provider in known
                else f"known endpoints are {', '.join(e.name for kind in KNOWN for e in kind.endpoints)}"
            )
            raise ConfigurationError(
                f"this client has no provider for {name} (it has {', '.join(self._accounts)}); {remedy}"
            ) from None

    def _require_open(self) -> None:
        if self._closed:
            raise ConfigurationError("the client is closed; make a new one")


def _configured(providers: Iterable[Provider] | Provider | None) -> list[Provider]:
    """The providers, their keys and addresses completed from the environment."""
    if isinstance(providers, Provider):
        providers = [providers]
    if providers is None:
        providers = [kind() for kind in KNOWN if os.environ.get(kind.variables[0])]
        if not providers:
            variables = ", ".join(kind.variables[0] for kind in KNOWN)
            raise ConfigurationError(f"no API key in the environment: set one of {variables}, or pass providers=[...]")
    found = [provider.configured(os.environ) for provider in providers]
    if not found:
        raise ConfigurationError("the list of providers is empty; pass at least one, such as RunBlob()")
    return found


async def _follow(job: Job, followed: set[JobRef]) -> None:
    try:
        await job.wait()
    except KlingError as error:
        log.warning("job %s is not followed any more: %s", job.ref, error)
    followed.discard(job.ref)


async def _held(operation: Callable[[], Awaitable[T]], grace: float) -> T:
    """Run a paid operation; if the task is cancelled meanwhile, give it `grace` seconds to come to its end first."""
    done = anyio.Event()
    shield = anyio.CancelScope(shield=True)
    outcome: list[T] = []
    failure: list[Exception] = []

    async def run() -> None:
        with shield:
            try:
                outcome.append(await operation())
            except Exception as error:  # noqa: BLE001  # carried out of the task group as it is, not in an exception group
                failure.append(error)
        done.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        try:
            await done.wait()
        except anyio.get_cancelled_exc_class():
            shield.deadline = anyio.current_time() + grace
            raise
    if failure:
        raise failure[0]
    return outcome[0]

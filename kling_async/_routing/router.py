"""Chooses who makes a portable request, and goes on to the next provider after a proven refusal.

Theory of operation
-------------------
A portable request has several *options*: endpoints that make exactly what it describes. They are ranked by preference.
The best one that is not passed over (`_routing.health`) is submitted to, like any other request. Then:

- Accepted: done. The job's first event has the choice and its reasons.
- Refused or not sent, which is proven: the next option is tried. The refused attempt stays in the ledger.
- "Not now": the option is passed over for a moment, and the next one takes the request. If all are busy, the submission
  waits for the first that is free again.
- Unknown: `SubmissionUnknown` is raised. Nothing else is ever tried, because a job may have been bought.
- Rejected for its content: raised. The next provider would get the same request.

All attempts have one key. Before anything is chosen, the ledger is asked for the key. If it has a job, or may have one,
only that attempt is continued, at its own endpoint. So a process that dies between two attempts buys nothing twice: the
first was refused on record, or it is still the only one.

Requests of a provider's own go through here too: their outcomes count for the provider's health.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal, TypeAlias

import anyio
from anyio import to_thread

from kling_async._errors import (
    AllRefused,
    BudgetExceeded,
    ConfigurationError,
    ContentRejected,
    GenerationFailed,
    InsufficientCredits,
    InvalidRequest,
    KeyConflict,
    KlingError,
    NotOffered,
    ProviderUnavailable,
    RateLimited,
    Remedy,
    SubmissionUnknown,
    TransportFailed,
    Unauthorized,
)
from kling_async._event_loop.clock import Clock
from kling_async._event_loop.patience import Patience
from kling_async._http.transport import ProviderTransport
from kling_async._ledger.protocol import Submission
from kling_async._ledger.serialization import fingerprint, request_from_json
from kling_async._ledger.writer import LedgerWriter
from kling_async._models import Choice, Cost, JobRef
from kling_async._records import record
from kling_async._routing.health import Health
from kling_async._routing.quotes import PriceKind, ProviderHealth, Quote
from kling_async._scheduling.schedules import Learned
from kling_async._submission.remedies import provider_of
from kling_async._submission.submitter import SubmittedJob, Submitter, require_key
from kling_async._validation import given
from kling_async.providers._base.offers import Option, Unmet, not_offered, options, served_by
from kling_async.providers._base.portable import PortableRequest
from kling_async.providers._base.request import Request

__all__ = ["Prefer", "Router", "may_retry", "require_preference"]

Prefer: TypeAlias = Literal["cheapest", "fastest"] | Sequence[str]
"""Who makes a portable request: the cheapest, the fastest, or the first of these providers or endpoints."""

_PASSED_ON = (
    BudgetExceeded,
    InsufficientCredits,
    InvalidRequest,
    ProviderUnavailable,
    RateLimited,
    TransportFailed,
    Unauthorized,
)
"""Errors that prove that nothing was bought, after which another provider may take the request."""
_SERVING = (ContentRejected, InvalidRequest)
"""Refusals that show that the provider serves."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of one request."""

    cost: Cost | None
    kind: PriceKind
    source: str
    date: date | None
    reserve: Cost
    median: float
    p90: float
    learned: bool


@record
class _Ranked:
    """An option with what is expected of it."""

    option: Option
    request: Request
    forecast: Forecast

    @property
    def endpoint(self) -> str:
        return self.option.endpoint

    @property
    def provider(self) -> str:
        return self.option.provider


class Router:
    """Submits requests to the providers of one client.

    Args:
        submitter: Submits a provider's own request.
        transports: The client's transports, by provider.
        ledger: Where submissions are stored.
        clock: The client's clock.
        learned: The client's duration model. If None, it has none.
        prefer: Who makes a portable request. Defaults to the cheapest.
    """

    def __init__(
        self,
        submitter: Submitter,
        transports: Mapping[str, ProviderTransport],
        ledger: LedgerWriter,
        *,
        clock: Clock,
        learned: Learned | None = None,
        prefer: Prefer | None = None,
    ) -> None:
        self._submitter = submitter
        self._transports = transports
        self._ledger = ledger
        self._clock = clock
        self._learned = learned
        self._prefer: Prefer = require_preference(prefer, "Client(prefer=...)") or "cheapest"
        self._health: dict[str, Health] = {}
        self._change: anyio.Event | None = None  # set when a provider may have become free

    async def submit(
        self,
        request: Request,
        key: str | None = None,
        *,
        prefer: Prefer | None = None,
        max_cost: Cost | None = None,
        last: Collection[str] = (),
        tags: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> SubmittedJob:
        """Submit a request: a provider's own, or a portable one at the best provider that takes it.

        Args:
            request: Its local files are replaced by their content.
            key: The user's key.
            prefer: Who makes a portable request. If None, what the client prefers.
            max_cost: The most that it may cost.
            last: Endpoints that are tried after all others, because they failed before.
            tags: What the user stores with it.
            patience: May be given up while nothing was sent. If None, nobody gives up.

        Raises:
            NotOffered: No endpoint makes exactly what a portable request describes.
            AllRefused: Several were tried, and all of them refused.
            KlingError: Same as `Submitter.submit`.
        """
        if not isinstance(request, PortableRequest):
            name = request.endpoint.partition("/")[0]
            return await self._attempt(
                name,
                lambda: self._submitter.submit(request, key, max_cost=max_cost, tags=tags, patience=patience),
            )
        require_key(key)
        wanted = request.validated()
        mark = await to_thread.run_sync(fingerprint, wanted) if wanted.inline else fingerprint(wanted)
        current = await self._ledger.find(key) if self._ledger.enabled and key is not None else None
        if current is not None and not current.key_reusable:
            return await self._continue(wanted, current, mark, patience)
        ranked, found = await self._ranked(wanted, require_preference(prefer) or self._prefer, max_cost)
        if not ranked:
            raise not_offered(wanted, found)
        ranked.sort(key=lambda one: one.endpoint in last)
        return await self._first_accepted(ranked, key or str(uuid.uuid4()), mark, max_cost, tags, patience)

    async def _continue(
        self, wanted: PortableRequest, current: Submission, mark: str, patience: Patience | None
    ) -> SubmittedJob:
        """Return the job of a key that is in use, or find out what became of it. Nothing is bought elsewhere."""
        provider = provider_of(self._transports, current.endpoint).provider
        request: Request | None = None
        if mark == current.fingerprint:
            with suppress(NotOffered):
                request = served_by(wanted, provider, current.endpoint)
        if request is None:
            request = request_from_json(provider.endpoint(current.endpoint).request, current.request)
        if request is None:
            raise KeyConflict(
                f"the key {current.key!r} was used for a request to {current.endpoint}, which is not this one; "
                "nothing was sent",
                remedies=(Remedy("change_request", current.key, detail="the key, or submit the same request"),),
                provider=current.provider,
            )
        return await self._submitter.submit(request, current.key, mark=mark, patience=patience)

    async def _first_accepted(
        self,
        ranked: Sequence[_Ranked],
        key: str,
        mark: str,
        max_cost: Cost | None,
        tags: Mapping[str, str] | None,
        patience: Patience | None,
    ) -> SubmittedJob:
        refused: dict[str, KlingError] = {}
        passed_over: dict[str, str] = {}
        give_up = self._clock.now() + max(one.limits.throttle_timeout for one in self._transports.values())
        while True:
            left = [one for one in ranked if one.endpoint not in refused]
            if not left:
                raise _all_refused(refused)
            chosen = await self._free(left, passed_over, give_up)
            choice = Choice(chosen.endpoint, self._why(chosen, ranked), tuple(passed_over.items()))
            may_wait = len(left) == 1 or self._clock.now() >= give_up

            async def buy(one: _Ranked = chosen, choice: Choice = choice, may_wait: bool = may_wait) -> SubmittedJob:
                return await self._submitter.submit(
                    one.request,
                    key,
                    mark=mark,
                    choice=choice,
                    may_wait=may_wait,
                    patience=patience,
                    max_cost=max_cost,
                    tags=tags,
                )

            try:
                return await self._attempt(chosen.provider, buy)
            except _PASSED_ON as error:
                if patience is not None:
                    patience.note_sent(maybe=False)
                passed_over[chosen.endpoint] = f"{type(error).__name__}: {error.message}"
                longest = self._transports[chosen.provider].limits.throttle_timeout
                too_long = (getattr(error, "retry_after", None) or 0.0) > longest
                if may_wait or too_long or not self._health_of(chosen.provider).busy:
                    refused[chosen.endpoint] = error

    async def _free(self, left: Sequence[_Ranked], passed_over: dict[str, str], give_up: float) -> _Ranked:
        """Return the best option that is not passed over now. Waits while all of them are busy."""
        while True:
            now = self._clock.now()
            waits = [self._wait(one.provider, now) for one in left]
            for one, wait in zip(left, waits, strict=True):
                if wait <= 0:
                    return one
                passed_over[one.endpoint] = self._passed_over(one.provider)
            if now >= give_up or not any(self._is_busy(one.provider) for one in left):
                return left[0]  # nothing else is left, and its own error is more exact than that it rests
            with anyio.move_on_after(max(min(*waits, give_up - now, _LONGEST_WAIT), _SHORTEST_WAIT)):
                self._change = self._change or anyio.Event()
                await self._change.wait()

    def _wait(self, provider: str, now: float) -> float:
        return max(self._transports[provider].busy, self._health_of(provider).wait(now))

    def _is_busy(self, provider: str) -> bool:
        return self._transports[provider].busy > 0 or self._health_of(provider).busy

    def _passed_over(self, provider: str) -> str:
        if self._is_busy(provider):
            return "busy: it said not now"
        return f"resting: {self._health_of(provider).reason}"

    def _why(self, chosen: _Ranked, ranked: Sequence[_Ranked]) -> str:
        forecast = chosen.forecast
        cost = f"{forecast.cost} ({forecast.kind})" if forecast.cost is not None else "price unknown"
        place = ranked.index(chosen) + 1
        rank = "first" if place == 1 else f"number {place}"
        return f"{rank} of {len(ranked)} by preference; {cost}, about {forecast.median:.0f} s"

    async def _attempt(self, provider: str, buy: Callable[[], Awaitable[SubmittedJob]]) -> SubmittedJob:
        """Submit, and report the outcome to the provider's health."""
        health = self._health_of(provider)
        probe = health.begin(self._clock.now())
        try:
            submitted = await buy()
        except KlingError as error:
            self._report(health, error, probe=probe)
            raise
        except BaseException:
            health.abandoned(probe=probe)
            raise
        else:
            if submitted.new:
                health.succeeded()
            else:
                health.abandoned(probe=probe)
            return submitted
        finally:
            if self._change is not None:
                self._change.set()
                self._change = None

    def _report(self, health: Health, error: KlingError, *, probe: bool) -> None:
        now, reason = self._clock.now(), f"{type(error).__name__}: {error.message}"
        hint = getattr(error, "retry_after", None)
        if isinstance(error, RateLimited) or (isinstance(error, ProviderUnavailable) and hint is not None):
            health.throttled(now, reason, hint, probe=probe)
        elif isinstance(error, InsufficientCredits | Unauthorized):
            health.account_refused(now, reason, probe=probe)
        elif isinstance(error, ProviderUnavailable | TransportFailed | SubmissionUnknown):
            health.failed(now, reason, probe=probe)
        elif isinstance(error, _SERVING):
            health.succeeded()
        else:
            health.abandoned(probe=probe)

    def _health_of(self, provider: str) -> Health:
        health = self._health.get(provider)
        if health is None:
            health = self._health[provider] = Health()
        return health

    async def _ranked(
        self, wanted: PortableRequest, prefer: Prefer, max_cost: Cost | None
    ) -> tuple[list[_Ranked], list[Option]]:
        """Return the options that may be used, the best first; and all others with the reason."""
        ranked: list[_Ranked] = []
        others: list[Option] = []
        for option in options(wanted, (one.provider for one in self._transports.values())):
            if option.request is None:
                others.append(option)
                continue
            forecast = await self._forecast(option.request)
            reason = _excluded(option, forecast, prefer, max_cost)
            if reason:
                others.append(Option(option.endpoint, option.model, None, (Unmet("prefer", reason),)))
            else:
                ranked.append(_Ranked(option, option.request, forecast))
        ranked.sort(key=lambda one: self._rank(one, prefer))
        return ranked, others

    def _rank(self, one: _Ranked, prefer: Prefer) -> tuple[Any, ...]:
        forecast = one.forecast
        # Each provider sets the value of its credits, so they cannot be compared with dollars: they come after these.
        unit = 2 if forecast.cost is None else int(forecast.cost.unit != "USD")
        amount = forecast.cost.amount if forecast.cost is not None else 0
        if prefer == "cheapest":
            return unit, amount, forecast.median
        if prefer == "fastest":
            return forecast.median + self._transports[one.provider].busy, unit, amount
        return (min(place for place, name in enumerate(prefer) if name in {one.provider, one.endpoint}),)

    async def _forecast(self, request: Request) -> Forecast:
        """Return what a provider's own request is expected to cost, and how long it is expected to take."""
        provider = provider_of(self._transports, request.endpoint).provider
        endpoint = provider.endpoint(request.endpoint)
        cost, reserve = await self._submitter.estimate(request), await self._submitter.reserve_for(request)
        documented = endpoint.price(request)
        kind: PriceKind = "unknown"
        source, read = "", None
        if documented is not None and cost == documented.cost:
            kind = "estimated" if documented.estimated else "exact"
            source, read = documented.source, documented.date
        elif cost is not None:
            kind, source = "estimated", "what the provider took for the same settings"
        prior = endpoint.duration_prior(request).faster(provider.speed)
        variant = f"{endpoint.name} {endpoint.variant(request)}".rstrip()
        curve = self._learned.curve(variant, prior) if self._learned is not None else None
        median, p90 = (prior.median, prior.p90) if curve is None else (curve.median, curve.quantile(0.9))
        return Forecast(cost, kind, source, read, reserve, median, p90, curve is not None)

    async def quote(self, request: Request, prefer: Prefer | None = None) -> list[Quote]:
        """Return what a request would cost, and how long it would take, endpoint by endpoint. See `Client.quote`."""
        if not isinstance(request, PortableRequest):
            return [self._quote(request.endpoint, None, request, await self._forecast(request))]
        ranked, others = await self._ranked(request.validated(), require_preference(prefer) or self._prefer, None)
        found = [self._quote(one.endpoint, one.option.model, one.request, one.forecast) for one in ranked]
        return found + [
            Quote(one.endpoint, one.model, reason=one.reason, health=self._provider_health(one.provider))
            for one in others
        ]

    def _quote(self, endpoint: str, model: str | None, request: Request, forecast: Forecast) -> Quote:
        return Quote(
            endpoint,
            model,
            request,
            cost=forecast.cost,
            price=forecast.kind,
            source=forecast.source,
            date=forecast.date,
            reserve=forecast.reserve,
            median=forecast.median,
            p90=forecast.p90,
            learned=forecast.learned,
            health=self._provider_health(endpoint.partition("/")[0]),
        )

    def _provider_health(self, name: str) -> ProviderHealth:
        health, now, transport = self._health_of(name), self._clock.now(), self._transports[name]
        resting = 0.0 if health.busy else health.wait(now)
        if math.isinf(resting):
            resting = 0.0  # a probe is under way
        return ProviderHealth(transport.busy, resting, health.failures(now), health.reason)

    async def after_failure(
        self,
        request: Request,
        key: str | None,
        ref: JobRef,
        *,
        prefer: Prefer | None = None,
        max_cost: Cost | None = None,
        failed: Iterable[str] = (),
        tags: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> SubmittedJob:
        """Submit again what failed by the provider's fault, elsewhere if that is possible. See `may_retry`.

        Args:
            request: What was to be generated.
            key: The key of the submission that failed.
            ref: The job that failed.
            prefer: Who makes a portable request.
            max_cost: The most that it may cost.
            failed: The endpoints that failed before. They are tried last.
            tags: What the user stored with the submission that failed.
            patience: May be given up while nothing was sent. If None, nobody gives up.
        """
        if self._ledger.enabled and key is not None:
            current = await self._ledger.find(key)
            if current is not None and current.ref == ref and not current.key_reusable:
                await self._submitter.release_key(current, "the job failed, and it was submitted again")
        last = {*failed, ref.endpoint}
        return await self.submit(
            request, key, prefer=prefer, max_cost=max_cost, last=last, tags=tags, patience=patience
        )


def may_retry(error: object, *, refunded: bool, cost: Cost | None) -> bool:
    """Return whether a job that failed may be bought again: by the provider's own fault, and nothing was charged."""
    free = refunded or (cost is not None and cost.amount == 0)
    return isinstance(error, GenerationFailed) and bool(error.retryable) and free


def _excluded(option: Option, forecast: Forecast, prefer: Prefer, max_cost: Cost | None) -> str:
    """Why an option that could serve a request is not used. Empty if it may be."""
    if not isinstance(prefer, str) and not {option.provider, option.endpoint} & {*prefer}:
        return "it is not among those that are preferred"
    if max_cost is None:
        return ""
    if forecast.reserve.unit != max_cost.unit:
        return f"it is paid in {forecast.reserve.unit}, and max_cost is in {max_cost.unit}"
    if forecast.reserve.amount > max_cost.amount:
        return f"{forecast.reserve} would be set aside for it, and max_cost is {max_cost}"
    return ""


def _all_refused(refused: Mapping[str, KlingError]) -> KlingError:
    errors = list(refused.values())
    if len(errors) == 1:
        return errors[0]
    listed = "; ".join(f"{endpoint}: {error.message}" for endpoint, error in refused.items())
    remedies = tuple(dict.fromkeys(remedy for error in errors for remedy in error.remedies))
    return AllRefused(
        f"all {len(errors)} endpoints that make it refused, and nothing was bought ({listed})",
        errors=refused,
        remedies=remedies or (Remedy("retry", detail="submit it again later"),),
    )


def require_preference(prefer: Any, where: str = "prefer") -> Prefer | None:
    """Return the preference, checked.

    Raises:
        ConfigurationError: It is neither ``"cheapest"``, ``"fastest"`` nor a list of names.
    """
    if prefer is None or prefer in ("cheapest", "fastest"):
        return prefer  # type: ignore[no-any-return]  # one of these
    named = not isinstance(prefer, str | bytes) and isinstance(prefer, Sequence)
    if not named or not prefer or not all(isinstance(name, str) for name in prefer):
        raise ConfigurationError(
            f'{where} takes "cheapest", "fastest" or a list such as ["kling", "runblob"], not {given(prefer)}'
        )
    return tuple(prefer)


_LONGEST_WAIT = 5.0  # s until the options are compared again while all of them are busy
_SHORTEST_WAIT = 0.05  # s

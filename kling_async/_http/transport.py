"""The transport pool: one lane per provider, through which every call to that provider goes.

Theory of operation
-------------------
A *lane* performs flows. For each `Call` a flow yields, it waits at the gate (a provider that said "too many" pauses the
whole lane, and calls then come back slowly), sends the call, reads the whole reply under a total deadline and a size
cap, and decides what became of it:

=========  =====================================================================================================
not sent   The connection was never made, or nothing had been written to it. Sent again, whatever the effect.
refused    A complete answer in the provider's own error shape. Handed to the flow, which raises the typed error.
           "Not now" (429; 503 in the provider's own words) pauses the lane and is sent again.
answered   A complete, readable answer with success status. Handed to the flow.
lost       Everything else. READ and WRITE calls are sent again. A PAID call is sent again only if the provider
           recognises the repetition by an id of ours; otherwise `AnswerLost` is raised and it is never sent again.
=========  =====================================================================================================

A call that succeeds at once meets no retry machinery; stamina enters after a first failure. Repetitions of READs draw
on a quota that only successes refill, so that a burst of 5xx under thousands of pollers does not become a storm.

Underneath is an engine (`backend`). This is the only file that knows stamina. What stamina logs of a repetition, or
counts in Prometheus, is decided by its hooks. There is one set of them for the whole program, and (as of 26.1) none for
a single call, so they are the program's, and are left alone here.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
import stamina
from anyio.lowlevel import checkpoint_if_cancelled

from kling_async._clock import Clock
from kling_async._errors import (
    AnswerLost,
    ConfigurationError,
    KlingError,
    ProviderUnavailable,
    RateLimited,
    TransportFailed,
    UnreadableReply,
)
from kling_async._exchange import Call, Effect, Flow, Reply
from kling_async._http.backend import USER_AGENT, Http, HttpBackend, PerLoopBackend
from kling_async._http.connection_pool import PoolStatistics
from kling_async._http.limits import Limits
from kling_async._http.paid_call import PaidCallTrace, was_never_sent
from kling_async._http.response import Response, read_body
from kling_async._http.throttle import Throttle, retry_after
from kling_async.providers._base.provider import Provider

__all__ = ["ProviderStatistics", "ProviderTransport"]

T = TypeVar("T")
log = logging.getLogger("kling_async")


class RetryableFailure(Exception):
    """An attempt failed, and may be made again.

    Attributes:
        error: What to raise when it is not.
        patient: It failed because the provider said "not now", which may last.
    """

    def __init__(self, error: KlingError, *, patient: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.throttled = patient


@dataclass(frozen=True, slots=True)
class ProviderStatistics:
    """What one lane has done so far.

    Attributes:
        calls: Calls sent, repetitions included.
        repeated: Calls sent again after a failure.
        refused: "Not now" answers.
        lost: Paid calls whose answer was lost.
        paused: Whether the lane waits because the provider said so.
        connections: The pool's state; None where the user's own engine is in use.
    """

    calls: int
    retried: int
    throttled: int
    lost: int
    paused: bool
    connections: PoolStatistics | None


class ProviderTransport:
    """Everything that goes to one provider.

    Args:
        provider: Whose calls these are.
        limits: The bounds.
        http: What the user injected, or None.
        clock: The client's clock.
    """

    def __init__(self, provider: Provider, limits: Limits, http: Http, clock: Clock) -> None:
        self.provider = provider
        self.limits = limits
        self._backends = PerLoopBackend(http, limits, provider.base_url)
        self._closed = False
        self._throttle = Throttle(clock)
        self._clock = clock
        self._quota = float(limits.retry_budget)
        self._counts = {"calls": 0, "retried": 0, "throttled": 0, "lost": 0}

    async def run(self, flow: Flow[T], trace: PaidCallTrace | None = None) -> T:
        """Run a flow to its end.

        Args:
            flow: What to run.
            trace: Told how far its paid call got; read it when the flow is cancelled.

        Raises:
            AnswerLost: A paid call was sent and its outcome is not known.
            KlingError: What the flow raises, or what became of a call.
        """
        trace = trace or PaidCallTrace()
        reply = None
        try:
            call = next(flow)
            while True:
                reply = await self.call(call, trace)
                call = flow.send(reply)
        except StopIteration as end:
            value: T = end.value
            return value
        except UnreadableReply as error:
            if reply is not None:
                self._warn(call, reply, "cannot be used")
            if trace.paid:
                self._counts["lost"] += 1
                raise self._lost(error.message) from error
            raise
        except AnswerLost:
            self._counts["lost"] += 1
            raise
        finally:
            flow.close()

    async def call(self, call: Call, trace: PaidCallTrace) -> Reply:
        """Make one call, again where that is safe and may help; the reply may be a refusal that is final."""
        try:
            return await self._attempt(call, trace)
        except RetryableFailure as failed:
            first = failed
        others = 0
        # The alternative to one more repetition of a paid call is a submission whose outcome nobody knows.
        attempts = self.limits.max_attempts * (2 if call.repeatable else 1)

        def again(failure: Exception) -> bool | float:
            nonlocal others
            if not isinstance(failure, RetryableFailure):
                return False
            trace.lost = trace.lost or isinstance(failure.error, AnswerLost)
            trace.begin(Effect.READ)  # nothing paid is on its way until the next attempt: it may be cancelled at once
            if trace.lost and not trace.may_repeat():
                return False
            if failure.throttled:
                return 0.01  # the gate does the waiting, for all calls of the lane alike
            others += 1
            return others < attempts and (call.effect is Effect.PAID or self._take_retry_token())

        try:
            async for attempt in stamina.retry_context(
                on=again,
                attempts=None,
                timeout=self.limits.throttle_timeout,
                wait_initial=0.2,
                wait_max=10.0,
                wait_jitter=0.5,
            ):
                with attempt:
                    if attempt.num == 1:
                        raise first
                    self._counts["retried"] += 1
                    return await self._attempt(call, trace)
        except RetryableFailure as failure:
            raise failure.error from failure.__cause__
        raise AssertionError("stamina ends with a return or an exception")

    def _take_retry_token(self) -> bool:
        """Take one repetition from the lane's quota."""
        if self._quota < 1:
            return False
        self._quota -= 1
        return True

    async def _attempt(self, call: Call, trace: PaidCallTrace) -> Reply:
        """Make the call once.

        Raises:
            _Again: It failed in a way that allows to make it again.
            KlingError: It failed for good.
        """
        trace.begin(Effect.READ)
        await self._throttle.wait()
        engine = await self._backends.current()
        self._require_open()
        try:
            # Waiting for a connection is not the provider's slowness: it comes before the deadline starts, and before
            # anything can have been sent.
            async with engine.concurrency:
                await checkpoint_if_cancelled()  # the one that held the slot may have gone by the same cancellation
                self._require_open()
                trace.begin(call.effect)
                self._counts["calls"] += 1
                with anyio.fail_after(call.timeout or self.limits.call + len(call.body) / _SLOWEST_UPLOAD):
                    reply = await self._exchange(engine, call, trace)
        except ConfigurationError:
            raise
        except KlingError as error:
            raise self._classify_failure(call, error, sent=True) from error
        except Exception as error:
            # Any engine's error lands here: httpx's, httpx2's, aiohttp's behind httpx, plain OS errors.
            reached = not was_never_sent(error)
            reason = (
                "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__} {error}".strip()
            )
            where = f"{self.provider.display_name} at {_host(call, self.provider)}"
            failure = TransportFailed(
                f"the connection to {where} broke before the answer was whole: {reason}"
                if reached
                else f"{where} could not be reached: {reason}; check the network and the address"
            )
            raise self._classify_failure(call, failure, sent=reached and trace.may_have_been_sent) from error
        return self._classify_reply(call, reply)

    async def _exchange(self, engine: HttpBackend, call: Call, trace: PaidCallTrace) -> Reply:
        own = self.provider.is_own(call.url)
        headers = {"accept": "application/json", "accept-encoding": "gzip", "user-agent": USER_AGENT}
        headers.update(call.headers)
        if own:
            headers.update(self.provider.credentials())
        extensions: dict[str, Any] = {"retry_stale": True}
        if call.effect is Effect.PAID:
            extensions = {"max_idle": self.limits.paid_max_idle, "trace": trace}
        url = self.provider.base_url + call.url if call.url.startswith("/") else call.url
        response = await engine.send(call.method, url, headers, call.body, extensions)
        try:
            content = await _read(response, call.max_bytes)
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()
        return Reply(response.status_code, {k.lower(): v for k, v in response.headers.items()}, content)

    def _classify_reply(self, call: Call, reply: Reply) -> Reply:
        """The reply if it is final; else why it is not."""
        if reply.ok:
            self._throttle.on_success()
            self._quota = min(self._quota + 0.1, self.limits.retry_budget)
            if call.json and reply.status != _NO_CONTENT:
                try:
                    reply.json()
                except UnreadableReply as error:
                    self._warn(call, reply, "cannot be read")
                    raise self._classify_failure(call, error, sent=True) from error
            return reply
        refusal = self.provider.errors.parse_error(reply)
        if reply.status == _TOO_MANY or (reply.status == _UNAVAILABLE and refusal is not None):
            return self._not_now(reply, refusal)
        if reply.status in _PASSING or reply.status >= _SERVER_ERROR:
            self._warn(call, reply, "reports a passing fault")
            fault = refusal or self.provider.errors.make_error(
                reply.status, None, "a gateway's answer, not the provider's"
            )
            raise self._classify_failure(call, fault, sent=True)
        if call.effect is Effect.PAID and refusal is None:
            self._warn(call, reply, "refuses a paid call in words that are not the provider's")
            raise self._classify_failure(call, self.provider.errors.make_error(reply.status, None, None), sent=True)
        self._throttle.on_success()
        return reply

    def _not_now(self, reply: Reply, refusal: KlingError | None) -> Reply:
        self._counts["throttled"] += 1
        after = retry_after(reply, self._clock.now())
        error = refusal or self.provider.errors.make_error(reply.status, None, None)
        if isinstance(error, RateLimited | ProviderUnavailable):
            error.retry_after = after
        else:
            # A refusal that waiting does not lift, dressed as one that it does (an empty account, say).
            return reply
        self._throttle.on_refusal(after)
        raise RetryableFailure(error, patient=True)

    def _classify_failure(self, call: Call, error: KlingError, *, sent: bool) -> KlingError | RetryableFailure:
        """What to raise for a call that got no usable answer."""
        error.provider = self.provider.name
        if call.effect is not Effect.PAID or not sent or call.repeatable:
            return RetryableFailure(self._lost(error.message) if sent and call.effect is Effect.PAID else error)
        return self._lost(error.message)

    def _lost(self, reason: str) -> AnswerLost:
        return AnswerLost(reason, provider=self.provider.name)

    def _warn(self, call: Call, reply: Reply, what: str) -> None:
        # The key is looked for in more than is shown, so that no part of it is left at the end.
        head = self.provider.errors.redact(repr(reply.content[:4096]), 120)
        log.warning("%s %s: HTTP %d %s: %s", call.method, call.url.partition("?")[0], reply.status, what, head)

    async def stream(self, call: Call, line: Callable[[str], Awaitable[None]]) -> None:
        """Open a stream of lines and pass each on, until the provider closes it.

        There is no deadline: a stream is silent for as long as nothing happens. Who listens must bound the wait.

        Raises:
            KlingError: It could not be opened, broke off, or sent something that is no line.
        """
        await self._throttle.wait()
        self._counts["calls"] += 1
        engine = await self._backends.current()
        headers = {"user-agent": USER_AGENT, **call.headers, **self.provider.credentials()}
        try:
            async with (
                engine.concurrency,
                engine.open(call.method, self.provider.base_url + call.url, headers) as response,
            ):
                if response.status_code != _OK:
                    content = await _read(response, call.max_bytes)
                    reply = Reply(response.status_code, {k.lower(): v for k, v in response.headers.items()}, content)
                    if reply.status == _TOO_MANY:
                        self._throttle.on_refusal(retry_after(reply, self._clock.now()))
                    self.provider.errors.expect_json(reply)
                await _pass_on(response, call.max_bytes, line)
        except KlingError:
            raise
        except Exception as error:
            raise TransportFailed(
                f"the stream from {self.provider.display_name} broke off: {type(error).__name__} {error}".rstrip(),
                provider=self.provider.name,
            ) from error

    def statistics(self) -> ProviderStatistics:
        """What the lane has done so far."""
        paused = bool(self._throttle.spacing)
        return ProviderStatistics(**self._counts, paused=paused, connections=self._backends.statistics())

    def _require_open(self) -> None:
        """Make no call, a paid one least of all, once the client is closed: its ledger is, too."""
        if self._closed:
            raise ConfigurationError("the client was closed before the call was made; nothing was sent")

    def refuse_calls(self) -> None:
        """Refuse new calls from now on. Those that were sent go on."""
        self._closed = True

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        await self._backends.aclose()


async def _read(response: Response, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0

    async def take(part: bytes) -> None:
        nonlocal size
        size += len(part)
        if size > limit:
            raise UnreadableReply(f"the answer is larger than {limit} bytes", http_status=response.status_code)
        parts.append(part)

    await read_body(response, take)
    return b"".join(parts)


async def _pass_on(response: Response, limit: int, line: Callable[[str], Awaitable[None]]) -> None:
    """Pass each line of a body on as it comes, until one cannot be taken; blank ones are left out.

    Raises:
        UnreadableReply: One is longer than `limit` bytes.
    """
    rest = b""

    async def take(part: bytes) -> None:
        nonlocal rest
        *whole, rest = (rest + part).split(b"\n")
        for text in whole:
            if text.strip():
                await line(text.decode("utf-8", "replace").strip())
        if len(rest) > limit:
            raise UnreadableReply(f"a line of the stream is longer than {limit} bytes")

    await read_body(response, take)
    if rest.strip():
        await line(rest.decode("utf-8", "replace").strip())


_OK = 200
_NO_CONTENT = 204
_TOO_MANY = 429
_UNAVAILABLE = 503
_SERVER_ERROR = 500
_SLOWEST_UPLOAD = 100_000  # bytes a second; a slower one runs into the deadline
_PASSING = frozenset({408, 425})


def _host(call: Call, provider: Provider) -> str:
    return urlsplit(provider.base_url if call.url.startswith("/") else call.url).netloc

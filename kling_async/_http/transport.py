"""Every call to one provider goes through one `ProviderTransport`.

Theory of operation
-------------------
The transport runs flows. For each `Call` that a flow yields, it waits at the throttle (after "too many calls" all calls
to the provider pause, and then come back slowly), sends the call, reads the whole reply under a total deadline and a
size limit, and decides what became of it:

=========  =====================================================================================================
not sent   The connection was never made, or nothing had been written to it. Sent again, also if the call is paid.
refused    A complete answer with a refusing status (`status_codes`). The flow raises the typed error. "Not now" (429,
           503 in the provider's own words) pauses all calls and is sent again, unless the provider names a time that
           is longer than the limits allow to wait.
answered   A complete, readable answer with success status. Handed to the flow.
lost       Everything else. READ and WRITE calls are sent again. A PAID call is sent again only if the provider
           recognises the repetition by an id of ours. Otherwise `AnswerLost` is raised and it is never sent again.
=========  =====================================================================================================

Whether a request was sent is decided by the steps that httpcore reports (`paid_call`) and by one table of errors
(`failures`). Retries of READ calls draw on a quota that only successes refill, so that a burst of 5xx while thousands
of jobs are polled does not become a storm.

This is the only file that knows stamina. What stamina itself logs of a retry is decided by its hooks, which belong to
the whole program. It is silent unless the program configures logging. Our own record has the call, reason and wait.
"""

from __future__ import annotations

import logging
import math
import random
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any, TypeVar

import anyio
import stamina
from anyio.lowlevel import checkpoint_if_cancelled

from kling_async._errors import (
    AnswerLost,
    ConfigurationError,
    KlingError,
    LedgerFailed,
    ProviderUnavailable,
    RateLimited,
    ReceivedAnswer,
    Remedy,
    TransportFailed,
    UnreadableReply,
)
from kling_async._event_loop.clock import Clock, loop_time, on_asyncio
from kling_async._exchange.calls import Call, Effect, Flow, Reply
from kling_async._exchange.redaction import HiddenText
from kling_async._exchange.urls import Url
from kling_async._http.backend import USER_AGENT, Http, HttpBackend, PerLoopBackend
from kling_async._http.connection_pool import PoolStatistics
from kling_async._http.failures import Sent, forget_frames, was_sent
from kling_async._http.last_read import LAST_READ, end_after, last_read
from kling_async._http.limits import Limits
from kling_async._http.paid_call import PaidCallTrace
from kling_async._http.response import Response, read_body, read_whole_body
from kling_async._http.slots import NoFreeSlot, SlotQueue
from kling_async._http.status_codes import Meaning, meaning_of
from kling_async._http.throttle import Throttle, retry_after
from kling_async._media.local_file import FileChanged
from kling_async.providers._base.provider import Provider

__all__ = ["ProviderStatistics", "ProviderTransport"]

T = TypeVar("T")
log = logging.getLogger("kling_async")
# Without a handler, Python prints the warnings of a logger to the terminal of whoever uses the program.
log.addHandler(logging.NullHandler())
logging.getLogger("stamina").addHandler(logging.NullHandler())


class RetryableFailure(Exception):
    """An attempt failed, and may be made again.

    Attributes:
        error: What to raise when it is not.
        throttled: It failed because the provider throttled it, which may last.
    """

    def __init__(self, error: KlingError, *, throttled: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.throttled = throttled


@dataclass(frozen=True, slots=True)
class ProviderStatistics:
    """What was sent to one provider so far.

    Attributes:
        calls: Calls sent, retries included.
        polls: Polls among them, retries not included.
        retried: Calls sent again after a failure.
        throttled: "Not now" answers.
        lost: Paid calls whose answer was lost.
        paused: Whether calls wait because the provider asked for a pause.
        connections: The pool's state, or None where the user's own client or transport is in use.
    """

    calls: int
    polls: int
    retried: int
    throttled: int
    lost: int
    paused: bool
    connections: PoolStatistics | None


class ProviderTransport:
    """Sends everything that goes to one provider.

    Args:
        provider: Whose calls these are.
        limits: The bounds.
        http: What the user passed as ``Client(http=...)``, or None.
        clock: The client's clock.
    """

    def __init__(self, provider: Provider, limits: Limits, http: Http, clock: Clock) -> None:
        self.provider = provider
        self.limits = limits
        self._backends = PerLoopBackend(http, limits, provider.base_url)
        self._closed = False
        self._throttle = Throttle(clock)
        self._slots = SlotQueue(clock, limits.slot_timeout, lambda: self.provider.speed)
        self._clock = clock
        self._quota = float(limits.retry_budget)
        self._counts = {"calls": 0, "polls": 0, "retried": 0, "throttled": 0, "lost": 0}
        self._last_credentials: Mapping[str, str] = {}
        self._last_headers: dict[str, tuple[Mapping[str, str], Mapping[str, str], Mapping[str, str]]] = {}  # by method

    async def run(self, flow: Flow[T], trace: PaidCallTrace | None = None, *, retry: bool = True) -> T:
        """Run a flow to its end.

        Args:
            flow: What to run.
            trace: Records how far its paid call got. Read it when the flow is cancelled.
            retry: Whether a call that failed may be sent again. False for a caller that counts every call itself, such
                as the poller under a rate limit.

        Raises:
            AnswerLost: A paid call was sent and its outcome is not known.
            KlingError: What the flow raises, or what became of a call.
        """
        trace = trace or PaidCallTrace()
        reply = None
        paid = False
        try:
            call = next(flow)
            while True:
                if call.effect is Effect.PAID:
                    paid = True
                elif paid:
                    # The flow reads what became of its paid call. Until it knows, the submission's outcome is unknown.
                    trace.lost = True
                reply = await self.call(call, trace, retry=retry)
                call = flow.send(reply)
        except StopIteration as end:
            value: T = end.value
            return value
        except UnreadableReply as error:
            if reply is not None:
                self._warn(call, reply, "cannot be used")
            if trace.paid:
                self._counts["lost"] += 1
                raise self._lost(error.message, reply) from error
            raise
        except AnswerLost:
            self._counts["lost"] += 1
            raise
        finally:
            flow.close()

    def call(self, call: Call, trace: PaidCallTrace, *, retry: bool = True) -> Coroutine[Any, Any, Reply]:
        """Make one call, again where that is safe and may help. The reply may be a refusal that is final."""
        if call.slot:
            return self._slots.run(
                call.slot, lambda: self._ask_for_slot(call, trace, retry=retry), may_wait=trace.may_wait
            )
        return self._call(call, trace, retry=retry)

    async def _ask_for_slot(self, call: Call, trace: PaidCallTrace, *, retry: bool) -> Reply:
        try:
            return await self._call(call, trace, retry=retry)
        except NoFreeSlot:
            trace.begin(Effect.READ)  # it was refused: nothing paid is on its way while it waits
            raise

    async def _call(self, call: Call, trace: PaidCallTrace, *, retry: bool) -> Reply:
        begin = self._clock.now()
        try:
            return await self._attempt(call, trace, retry_stale=retry)
        except RetryableFailure as failure:
            if not retry:
                raise failure.error from failure.__cause__
            first = failure
        return await self._retry(call, trace, first, begin)

    async def _retry(self, call: Call, trace: PaidCallTrace, first: RetryableFailure, begin: float) -> Reply:
        """Make a call again that has failed once. A call that succeeds at once does not pay for the machinery."""
        failed = 0
        # The alternative to one more attempt of a paid call is a submission whose outcome nobody knows.
        attempts = self.limits.max_attempts * (2 if call.repeatable else 1)

        def again(failure: Exception) -> bool | float:
            nonlocal failed
            if not isinstance(failure, RetryableFailure):
                return False
            trace.lost = trace.lost or isinstance(failure.error, AnswerLost)
            trace.begin(Effect.READ)  # nothing paid is on its way until the next attempt: it may be cancelled at once
            if trace.lost and not trace.may_repeat():
                return False
            if failure.throttled:
                return trace.may_wait and self._waits_for_provider(call, failure.error, begin)
            failed += 1
            return failed < attempts and self._waits_to_retry(call, failed, failure)

        try:
            async for attempt in stamina.retry_context(on=again, attempts=None, timeout=self.limits.throttle_timeout):
                with attempt:
                    if attempt.num == 1:
                        raise first
                    self._counts["retried"] += 1
                    return await self._attempt(call, trace)
        except RetryableFailure as failure:
            raise failure.error from failure.__cause__
        raise AssertionError("stamina ends with a return or an exception")

    def _waits_to_retry(self, call: Call, failed: int, failure: Exception) -> bool | float:
        """How long to wait after that many failures, False if the quota of retries is used up."""
        if call.effect is not Effect.PAID and not self._take_retry_token():
            return False
        wait: float = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (failed - 1)) + random.uniform(0, _JITTER)  # noqa: S311
        log.info("%s is sent again in %.1f s: %s", _shown(call), wait, failure)
        return wait

    def _waits_for_provider(self, call: Call, error: KlingError, begin: float) -> bool | float:
        """Whether to wait after "not now": not beyond what the limits allow. The throttle does the waiting."""
        hint = getattr(error, "retry_after", None)
        if hint is not None and self._clock.now() - begin + hint > self.limits.throttle_timeout:
            return False
        level = logging.WARNING if call.effect is Effect.PAID else logging.INFO
        log.log(level, "%s waits for %.0f s: %s", _shown(call), self._throttle.pause, error)
        return 0.01

    def _take_retry_token(self) -> bool:
        """Take one retry from the quota."""
        if self._quota < 1:
            return False
        self._quota -= 1
        return True

    async def _attempt(self, call: Call, trace: PaidCallTrace, *, retry_stale: bool = True) -> Reply:
        """Make the call once.

        Raises:
            RetryableFailure: It failed in a way that allows to make it again.
            KlingError: It failed for good.
        """
        trace.begin(Effect.READ)
        if self._throttle.spacing:
            await self._throttle.wait()
        backend = self._backends.ready or await self._backends.current()
        self._require_open()
        url = self._url(call)
        backend.proxy_for(url)  # a proxy that cannot be used is found before anything counts as sent
        seconds = call.timeout or self.limits.call + len(call.content) / _SLOWEST_UPLOAD
        begin = loop_time()
        try:
            # Waiting for a connection is not the provider's slowness: it comes before the deadline starts, and before
            # anything can have been sent.
            slots = backend.concurrency
            if waits := not slots.value:
                await slots.acquire()
                begin = loop_time()
            else:
                slots.acquire_nowait()
            try:
                if waits or call.effect is not Effect.READ:
                    # The one that held the slot may have gone by the same cancellation. A call that only asks need not
                    # know before it is sent: it is cancelled as it waits for its answer.
                    await checkpoint_if_cancelled()
                self._require_open()
                if call.effect is not Effect.READ:
                    trace.begin(call.effect)
                self._counts["calls"] += 1
                deadline = begin + seconds
                if call.effect is Effect.PAID:
                    reply = await self._exchange_paid(backend, call, url, deadline, trace)
                else:
                    reply = await self._exchange_harmless(backend, call, url, deadline, retry_stale=retry_stale)
            finally:
                slots.release()
        except (ConfigurationError, LedgerFailed):
            raise
        except FileChanged as error:
            trace.begin(Effect.READ)  # the last piece was kept back, so nobody has received this call
            again = "" if trace.lost else " and nothing was bought. Submit it again with the file as it is"
            raise ConfigurationError(
                f"{error}; the call was not completed{again}", provider=self.provider.name
            ) from None
        except Exception as error:
            raise self._classify_error(backend, call, url, error, trace, begin) from error
        if log.isEnabledFor(logging.DEBUG):
            request_id = self.provider.errors.redact(reply.headers.get("x-request-id", "-"), _LONGEST_ID)
            log.debug(
                "%s: HTTP %d in %.0f ms, request id %s", _shown(call), reply.status, _milliseconds(begin), request_id
            )
        return self._classify_reply(call, reply)

    def _classify_error(
        self, backend: HttpBackend, call: Call, url: Url, error: Exception, trace: PaidCallTrace, begin: float
    ) -> KlingError | RetryableFailure:
        """What to raise for a call that was begun at `begin` and raised that."""
        if isinstance(error, KlingError):
            return self._classify_failure(call, error, sent=True)
        # Errors of any backend: of httpx, httpx2, aiohttp behind httpx, and plain ones of the operating system.
        forget_frames(error)
        sent = was_sent(error)
        log.debug("%s: %s after %.0f ms", _shown(call), type(error).__name__, _milliseconds(begin))
        return self._classify_failure(
            call,
            self._transport_failed(backend, url, error, sent),
            sent=sent is not Sent.NO and trace.may_have_been_sent,
        )

    def _url(self, call: Call) -> Url:
        """Where a call goes.

        Raises:
            ConfigurationError: The URL cannot be used. Nothing was sent.
        """
        own = call.url.startswith("/")
        try:
            if not own:
                return Url.parse(call.url)
            base = _base(self.provider.base_url)
            try:
                return base.below(call.url)
            except ValueError:
                return base.below(_escaped(call.url))
        except ValueError as error:
            what = f"the address of {self.provider.display_name}" if own else "the address that a call goes to"
            raise ConfigurationError(
                f"{what} cannot be opened: {error}; nothing was sent", provider=self.provider.name
            ) from None

    async def _exchange_paid(
        self, backend: HttpBackend, call: Call, url: Url, deadline: float, trace: PaidCallTrace
    ) -> Reply:
        """Make a paid exchange: in one step over a connection that was used just now, or else as any other.

        Its time is over only after what had arrived by then was read: see `last_read`.
        """
        max_idle, headers = self.limits.paid_max_idle, self._headers(call)
        if call.streamed is None:
            whole = await backend.ask(
                call.method,
                url,
                headers,
                call.body,
                deadline=deadline,
                longest=call.max_bytes,
                retry_stale=False,
                max_idle=max_idle,
                before=trace.send_whole,
            )
            if whole is not None:
                return whole
        extensions = {"max_idle": max_idle, "trace": trace}
        if not on_asyncio():
            return await self._exchange_watched(backend, call, url, headers, deadline - loop_time(), extensions)
        replies: list[Reply] = []
        with anyio.CancelScope() as scope:
            timer = end_after(scope, deadline - loop_time())
            try:
                replies.append(await self._exchange(backend, call, url, headers, math.inf, extensions))
            finally:
                timer.cancel()
        if not replies:
            raise TimeoutError
        return replies[0]

    async def _exchange_watched(
        self,
        backend: HttpBackend,
        call: Call,
        url: Url,
        headers: Mapping[str, str],
        seconds: float,
        extensions: Mapping[str, Any],
    ) -> Reply:
        """The same on trio, which has no timers but those of tasks."""
        replies: list[Reply] = []
        failure: Exception | None = None

        async with anyio.create_task_group() as group:

            async def watch() -> None:
                try:
                    await anyio.sleep(seconds)
                    await last_read()
                except anyio.get_cancelled_exc_class():
                    return  # by code that ends all tasks. The exchange must go on, and has its own time-out
                group.cancel_scope.cancel()

            group.start_soon(watch)
            try:
                # The backend's own time-out must not be the first to fire.
                replies.append(await self._exchange(backend, call, url, headers, seconds + 2 * LAST_READ, extensions))
            except Exception as error:  # noqa: BLE001  # raised below, and not as a group
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not replies:
            raise TimeoutError
        return replies[0]

    async def _exchange_harmless(
        self, backend: HttpBackend, call: Call, url: Url, deadline: float, *, retry_stale: bool
    ) -> Reply:
        """Make an exchange that may be made twice: over a kept connection as fast as can be, or else as any other."""
        headers = self._headers(call)
        if call.streamed is None:
            reply = await backend.ask(
                call.method,
                url,
                headers,
                call.body,
                deadline=deadline,
                longest=call.max_bytes,
                retry_stale=retry_stale,
            )
            if reply is not None:
                return reply
        replies: list[Reply] = []
        with anyio.CancelScope(deadline=deadline):  # the one limit. Its parts need none
            replies.append(await self._exchange(backend, call, url, headers, math.inf, {"retry_stale": retry_stale}))
        if not replies:
            raise TimeoutError
        return replies[0]

    @staticmethod
    async def _exchange(
        backend: HttpBackend,
        call: Call,
        url: Url,
        headers: Mapping[str, str],
        seconds: float,
        extensions: Mapping[str, Any],
    ) -> Reply:
        response = await backend.send(call.method, url, headers, call.content, seconds=seconds, extensions=extensions)
        try:
            content = await read_whole_body(response, call.max_bytes)
        finally:
            await response.aclose()
        return Reply(response.status_code, response.headers, content)

    def _headers(self, call: Call) -> Mapping[str, str]:
        """All headers of a call. Those of a method's last call are returned again, if they are the same."""
        credentials = self._credentials() if self.provider.is_own(call.url) else _NO_CREDENTIALS
        last = self._last_headers.get(call.method)
        if last is not None and last[0] == call.headers and last[1] is credentials:
            return last[2]
        headers = {"accept": "application/json", "accept-encoding": "gzip", "user-agent": USER_AGENT}
        headers.update(call.headers)
        headers.update(credentials)
        self._last_headers[call.method] = call.headers, credentials, headers
        return headers

    def _credentials(self) -> Mapping[str, str]:
        """The headers with the secrets, one object as long as they are the same."""
        given = self.provider.credentials()
        if given != self._last_credentials:
            self._last_credentials = {name: HiddenText(value) for name, value in given.items()}
        return self._last_credentials

    def _transport_failed(self, backend: HttpBackend, url: Url, error: Exception, sent: Sent) -> TransportFailed:
        where = f"{self.provider.display_name} at {url.netloc}"
        reason = "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__} {error}".strip()
        reason = self.provider.errors.redact(reason)
        if sent is not Sent.NO:
            return TransportFailed(f"the connection to {where} broke before the answer was whole: {reason}")
        proxy = backend.proxy_for(url)
        if proxy is None:
            return TransportFailed(
                f"{where} could not be reached: {reason}",
                remedies=(Remedy("configure", detail="check the network and the address"),),
            )
        # The library's message about a proxy may contain its address, and that a password.
        reason = reason.replace(proxy.url, proxy.shown)
        return TransportFailed(
            f"{where} could not be reached through the proxy {proxy.shown}: {reason}; nothing was sent",
            remedies=(Remedy("configure", detail=f"check {proxy.source}"),),
        )

    def _classify_reply(self, call: Call, reply: Reply) -> Reply:
        """The reply if it is final, else why it is not.

        Raises:
            RetryableFailure: The call may be made again.
            KlingError: It failed for good.
        """
        if reply.ok:
            self._throttle.on_success()
            self._quota = min(self._quota + 0.1, self.limits.retry_budget)
            if call.json and reply.status != _NO_CONTENT:
                try:
                    reply.json()
                except UnreadableReply as error:
                    self._warn(call, reply, "cannot be read")
                    raise self._classify_failure(call, error, sent=True, reply=reply) from error
            return reply
        if call.any_status:
            self._throttle.on_success()
            return reply
        refusal = self.provider.errors.parse_error(reply)
        unsure = self.provider.errors.uncertain_codes
        # A code that may follow a purchase counts as no refusal of a paid call that must not be sent twice.
        once = call.effect is Effect.PAID and not call.repeatable
        stated = refusal is not None and not (once and refusal.code in unsure)
        meaning = meaning_of(reply.status, stated=stated)
        if call.slot and refusal is not None and refusal.code in self.provider.errors.no_slot_codes:
            self._counts["throttled"] += 1
            raise NoFreeSlot(refusal)
        if meaning is Meaning.THROTTLED:
            return self._throttled(reply, refusal)
        if meaning is Meaning.MOVED:
            raise self._moved(call, reply)
        if meaning is Meaning.REFUSED:
            if refusal is None:
                self._warn(call, reply, "is a refusal in words that are not the provider's")
            self._throttle.on_success()
            return reply
        paid = call.effect is Effect.PAID
        self._warn(call, reply, "does not say what became of the call" if paid else "reports a temporary fault")
        fault = refusal or self.provider.errors.make_error(reply.status, None, reply.excerpt())
        raise self._classify_failure(call, fault, sent=True, reply=reply)

    def _moved(self, call: Call, reply: Reply) -> ConfigurationError:
        """The error for a redirect. It is not followed: the API key would go to an address that nobody chose."""
        name, variable = self.provider.display_name, self.provider.identity().url_variable
        redact = self.provider.errors.redact
        try:
            target = self._url(call).join(reply.headers.get("location", ""))
        except ValueError:
            target = None
        path = call.url.partition("?")[0]
        advice = f"check {variable}, or the base_url that was passed"
        if target is not None and target.target.partition("?")[0].endswith(path):
            base = target.origin + target.target.partition("?")[0].removesuffix(path)
            advice = f"if that address is right, set {variable}={redact(base)}"
        shown = redact(f"{target.origin}{target.target}") if target is not None else "no usable address"
        bought = ". Nothing was bought" if call.effect is Effect.PAID else ""
        return ConfigurationError(
            f"{name} redirects {call.method} {path} to {shown}, and redirects are not followed because the API key "
            f"would go with them{bought}",
            provider=self.provider.name,
            http_status=reply.status,
            remedies=(Remedy("configure", detail=advice),),
        )

    def _throttled(self, reply: Reply, refusal: KlingError | None) -> Reply:
        self._counts["throttled"] += 1
        after = retry_after(reply, self._clock.now())
        error = refusal or self.provider.errors.make_error(reply.status, None, reply.excerpt())
        if isinstance(error, RateLimited | ProviderUnavailable):
            error.retry_after = after
        else:
            # A refusal that waiting does not lift, in the form of one that it does (an empty account, say).
            return reply
        self._throttle.on_refusal(after)
        raise RetryableFailure(error, throttled=True)

    def _classify_failure(
        self, call: Call, error: KlingError, *, sent: bool, reply: Reply | None = None
    ) -> KlingError | RetryableFailure:
        """What to raise for a call that got no usable answer."""
        error.provider = self.provider.name
        if call.effect is not Effect.PAID or not sent:
            return RetryableFailure(error)
        # A provider's "try again later" is no advice here.
        clear = reply is None or isinstance(error, UnreadableReply)
        lost = self._lost(error.message if clear else "", reply)
        return RetryableFailure(lost) if call.repeatable else lost

    def _lost(self, reason: str, reply: Reply | None = None) -> AnswerLost:
        """The error for a paid call whose outcome is unknown, with what came back of it."""
        if reply is None:
            return AnswerLost(reason, provider=self.provider.name)
        return AnswerLost(
            f"{reason}{'; ' if reason else ''}the answer was HTTP {reply.status}, "
            f"{self.provider.errors.redact(reply.excerpt())}",
            answer=self._received(reply),
            provider=self.provider.name,
            http_status=reply.status,
            request_id=self.provider.errors.redact(reply.headers.get("x-request-id", ""), _LONGEST_ID) or None,
        )

    def _received(self, reply: Reply) -> ReceivedAnswer:
        """What is kept of an answer that does not tell what became of a paid call: enough to ask the provider."""
        redact = self.provider.errors.redact
        headers = {name: redact(value, _LONGEST_ID) for name, value in reply.headers.items() if name != "set-cookie"}
        return ReceivedAnswer(reply.status, headers, redact(reply.content[:4096].decode("utf-8", "replace"))[:_KEPT])

    def _warn(self, call: Call, reply: Reply, what: str) -> None:
        # The key is searched for in more than is shown, so that no part of it is left at the end.
        text = reply.content[:4096].decode("utf-8", "replace")
        head = self.provider.errors.redact(repr(text), 120) if text else "nothing"
        log.warning("%s: the answer (HTTP %d) %s: %s", _shown(call), reply.status, what, head)

    async def stream(self, call: Call, line: Callable[[str], Awaitable[None]]) -> None:
        """Open a stream of lines and pass each on, until the provider closes it.

        There is no deadline: a stream is silent for as long as nothing happens. Who listens must bound the wait.

        Raises:
            KlingError: It could not be opened, broke off, or sent something that is no line.
        """
        await self._throttle.wait()
        self._counts["calls"] += 1
        backend = await self._backends.current()
        url = self._url(call)
        headers = {"user-agent": USER_AGENT, **call.headers, **self._credentials()}
        try:
            async with backend.concurrency, backend.open(call.method, url, headers) as response:
                if response.status_code != HTTPStatus.OK:
                    reply = Reply(
                        response.status_code, response.headers, await read_whole_body(response, call.max_bytes)
                    )
                    if reply.status == HTTPStatus.TOO_MANY_REQUESTS:
                        self._throttle.on_refusal(retry_after(reply, self._clock.now()))
                    self.provider.errors.expect_json(reply)
                await _pass_on(response, call.max_bytes, line)
        except KlingError:
            raise
        except Exception as error:
            forget_frames(error)
            reason = self.provider.errors.redact(f"{type(error).__name__} {error}".rstrip())
            raise TransportFailed(
                f"the stream from {self.provider.display_name} broke off: {reason}", provider=self.provider.name
            ) from error

    @property
    def busy(self) -> float:
        """Seconds until a call may leave, because the provider said "not now". 0: at once."""
        return self._throttle.busy

    def count_poll(self) -> None:
        """Count a poll."""
        self._counts["polls"] += 1

    @property
    def counts(self) -> Mapping[str, int]:
        """The counters of `ProviderStatistics`, as they are now. May be read from any thread."""
        return self._counts.copy()

    def statistics(self) -> ProviderStatistics:
        """What was sent so far."""
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


async def _pass_on(response: Response, limit: int, line: Callable[[str], Awaitable[None]]) -> None:
    """Pass each line of a body on as it comes, until one cannot be taken. Blank ones are left out.

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


_SLOWEST_UPLOAD = 100_000  # bytes a second. A slower one runs into the deadline
_LONGEST_ID = 100  # characters of a request id
_KEPT = 300  # characters of an answer that does not tell what became of a paid call
_FIRST_WAIT = 0.2  # s. Doubled with each attempt
_LONGEST_WAIT = 10.0  # s
_JITTER = 0.5  # s


def _shown(call: Call) -> str:
    """The call as it is named in the log: without its query, which may contain what nobody should see."""
    return f"{call.method} {call.url.partition('?')[0]}"


def _milliseconds(begin: float) -> float:
    return (loop_time() - begin) * 1000


def _escaped(path: str) -> str:
    """A path of the provider with what no address may contain percent-encoded."""
    return _FORBIDDEN.sub(lambda found: f"%{ord(found[0]):02X}", path)


_base = lru_cache(maxsize=64)(Url.parse)  # the addresses of the providers
_NO_CONTENT = HTTPStatus.NO_CONTENT.value
_NO_CREDENTIALS: Mapping[str, str] = {}
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\]")

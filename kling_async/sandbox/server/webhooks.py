"""Calls the customers back: at the end of a job, again after a refusal, and badly if the faults want it."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
import math
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kling_async.sandbox.faults.catalog import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kling_async.sandbox.emulator.jobs import Job
    from kling_async.sandbox.emulator.provider_state import ProviderState
    from kling_async.sandbox.providers.emulation import Webhook

_REMEMBERED = 10_000  # deliveries that tests can look at
_AT_ONCE = 100  # deliveries in flight; more wait for their turn
_LATE = 60.0  # simulated s, when the rule names none
_EARLY_TIMEOUT = 5.0  # s that a submit answer waits for the delivery that overtakes it
_CONNECT_TIMEOUT = 10.0  # s
_FOREIGN = "https://attacker.invalid/not-yours"
_FLOOD = 10 * 1024 * 1024  # bytes of a forged body that is too large


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to call back, as it went.

    Args:
        job: Whose.
        url: Where to.
        body: What was said.
        attempt: 1 for the first.
        status: HTTP status of the answer; None: there was none.
        forged: It came from a stranger.
    """

    job: Job
    url: str
    body: bytes
    attempt: int
    status: int | None
    forged: bool = False


@dataclass(frozen=True, slots=True)
class _Message:
    """What to say; made when it is said, because addresses of results may change until then."""

    url: str
    body: Callable[[], bytes]
    forged: bool = False


@dataclass(frozen=True, slots=True)
class _Due:
    """Messages about one job that go out together, in this order."""

    job: Job
    messages: tuple[_Message, ...]
    attempt: int = 1


class WebhookSender:
    """Delivers the webhooks of all providers.

    Args:
        state: Whose jobs.
        webhooks: How each provider calls back.
    """

    def __init__(self, state: ProviderState, webhooks: Mapping[str, Webhook]) -> None:
        self.delivered: deque[Delivery] = deque(maxlen=_REMEMBERED)
        self._news = threading.Condition()
        self._state = state
        self._webhooks = webhooks
        self._heap: list[tuple[float, int, _Due]] = []
        self._order = itertools.count()
        self._changed = asyncio.Event()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._sending: set[asyncio.Task[None]] = set()
        self._early_tasks: set[asyncio.Task[None]] = set()
        state.subscribe(self._notice)

    async def run(self) -> None:
        """Deliver what falls due, until cancelled; may be run again, in another loop."""
        self._changed, self._slots = asyncio.Event(), asyncio.Semaphore(_AT_ONCE)
        try:
            while True:
                self._changed.clear()
                while self._heap and self._heap[0][0] <= self._state.clock.now():
                    self._start(heapq.heappop(self._heap)[2])
                await self._state.clock.until(self._heap[0][0] if self._heap else math.inf, self._changed)
        finally:
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    def wait_for(self, count: int, timeout: float) -> list[Delivery]:
        """Block a thread other than the server's until so many deliveries were attempted and answered.

        Raises:
            TimeoutError: They were not, in so many real seconds.
        """
        with self._news:
            if not self._news.wait_for(lambda: len(self.delivered) >= count, timeout):
                raise TimeoutError(f"{len(self.delivered)} of {count} webhook deliveries in {timeout} s")
            return list(self.delivered)

    async def wait_for_early_deliveries(self) -> None:
        """Wait until the hurried deliveries are through; costs nothing when there are none."""
        if self._early_tasks:
            await asyncio.wait(self._early_tasks, timeout=_EARLY_TIMEOUT)
            self._early_tasks.clear()

    def _notice(self, job: Job) -> None:
        """Plan the deliveries of a job that was bought or cancelled."""
        webhook = self._webhooks.get(job.provider)
        if webhook is None or job.order.callback_url is None:
            return
        if job.cancelled is not None:
            self._heap = [entry for entry in self._heap if entry[2].job is not job]
            heapq.heapify(self._heap)
        for index, moment in enumerate(webhook.moments(job)):
            if math.isfinite(moment):
                self._plan(webhook, job, index, moment)

    def _plan(self, webhook: Webhook, job: Job, index: int, moment: float) -> None:
        """Plan one delivery, as the faults want it."""
        honest = _Message(job.order.callback_url or "", partial(_said, webhook.body, job, index))
        rule = self._state.faults.draw(job.provider, "webhook")
        messages = [honest]
        if rule is not None:
            self._state.counters.faults[rule.fault] += 1
            if rule.fault is Fault.webhook_never:
                return
            if rule.fault is Fault.webhook_late:
                moment += _LATE if rule.seconds is None else rule.seconds
            elif rule.fault is Fault.webhook_twice:
                messages = [honest, honest]
            elif rule.fault is Fault.webhook_out_of_order:
                messages = [honest, _Message(honest.url, partial(_said, webhook.running, job))]
            elif rule.fault is Fault.webhook_forged:
                messages = [*_forgeries(honest, job), honest]
        due = _Due(job, tuple(messages))
        if job.webhook_first and job.cancelled is None:
            self._early_tasks.add(self._start(due))
        else:
            self._push(due, moment)

    def _push(self, due: _Due, moment: float) -> None:
        heapq.heappush(self._heap, (moment, next(self._order), due))
        self._changed.set()

    def _start(self, due: _Due) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._deliver(due))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _deliver(self, due: _Due) -> None:
        webhook = self._webhooks[due.job.provider]
        for message in due.messages:
            body = message.body()
            self._state.counters.webhooks[due.job.provider] += 1
            async with self._slots:
                status = await _post(message.url, body, webhook.timeout)
            with self._news:
                self.delivered.append(Delivery(due.job, message.url, body, due.attempt, status, forged=message.forged))
                self._news.notify_all()
            accepted = status is not None and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
            if not accepted and not message.forged and due.attempt <= len(webhook.pauses):
                pause = webhook.pauses[due.attempt - 1]
                self._push(_Due(due.job, (message,), due.attempt + 1), self._state.clock.now() + pause)


def _said(body: Callable[..., Any], *facts: Any) -> bytes:
    return json.dumps(body(*facts)).encode()


def _forgeries(honest: _Message, job: Job) -> Iterator[_Message]:
    """What a stranger might send: a guessed address, somebody else's job, half a body, too much of one."""
    guessed = honest.url[:-1] + ("0" if honest.url[-1] != "0" else "1")

    def abused(job_id: str) -> bytes:
        return json.dumps(_abused(json.loads(honest.body()), job.id, job_id)).encode()

    yield _Message(guessed, partial(abused, job.id), forged=True)
    yield _Message(honest.url, partial(abused, "00000000-0000-4000-8000-000000000000"), forged=True)
    yield _Message(honest.url, lambda: honest.body()[:-9], forged=True)
    yield _Message(honest.url, lambda: b'{"padding":"' + b"x" * _FLOOD + b'"}', forged=True)


def _abused(value: Any, job_id: str, other_id: str) -> Any:
    """The same body about another job, with addresses that lead elsewhere."""
    if isinstance(value, dict):
        return {name: _abused(inner, job_id, other_id) for name, inner in value.items()}
    if isinstance(value, list):
        return [_abused(inner, job_id, other_id) for inner in value]
    if isinstance(value, str) and value.startswith("http"):
        return _FOREIGN
    return other_id if value == job_id else value


async def _post(url: str, body: bytes, timeout: float) -> int | None:  # noqa: ASYNC109 - a fact of the provider's
    """The status of the answer; None when there was none in time.

    Written on bare streams: thousands of one-shot calls with nothing to configure need no client.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = (
        f"POST {target} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        async with asyncio.timeout(timeout):
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_connection(host, port, ssl=True if secure else None)
            try:
                writer.write(head.encode("ascii") + body)
                await writer.drain()
                return int((await reader.readline()).split()[1])
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError, IndexError):
        return None

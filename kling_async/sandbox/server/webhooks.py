"""Sends what the providers send on their own: webhooks, and result files to an address of the customer."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import inspect
import itertools
import json
import math
import ssl
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from kling_async.sandbox.emulator.jobs import Clip
from kling_async.sandbox.faults.catalog import Fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from kling_async.sandbox.emulator.jobs import File, Job
    from kling_async.sandbox.emulator.provider_state import ProviderState
    from kling_async.sandbox.providers.emulation import Webhook

_KEPT = 10_000  # deliveries that tests can read
_CONCURRENT = 100  # deliveries in flight
_LATE = 60.0  # simulated s of `webhook-late`, if the rule has no `seconds`
_EARLY_TIMEOUT = 5.0  # s that a submit response waits for a webhook that comes before it
_CONNECT_TIMEOUT = 10.0  # s
_UPLOAD_TIMEOUT = 60.0  # s
_FOREIGN = "https://attacker.invalid/not-yours"
_NOWHERE = (".example", ".invalid")  # names that no server ever has (RFC 2606): nobody is asked for their address
_FLOOD = 10 * 1024 * 1024  # bytes of a forged body that is too large


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to deliver a webhook.

    Args:
        job: The job that it is about.
        url: The callback URL.
        body: The body that was sent.
        attempt: 1 for the first.
        status: HTTP status of the answer, or None if there was none.
        forged: It imitates a webhook, but the provider did not send it.
    """

    job: Job
    url: str
    body: bytes
    attempt: int
    status: int | None
    forged: bool = False


@dataclass(frozen=True, slots=True)
class _Message:
    """One body for one URL. The body is made when it is sent, because the URLs of results may change until then."""

    url: str
    body: Callable[[], Awaitable[bytes]]
    forged: bool = False


@dataclass(frozen=True, slots=True)
class _Due:
    """Messages about one job that are sent together, in this order."""

    job: Job
    messages: tuple[_Message, ...]
    attempt: int = 1


class WebhookSender:
    """Sends the webhooks of all providers, and uploads results to the URLs that orders name.

    Args:
        state: The jobs.
        webhooks: How each provider sends webhooks.
    """

    def __init__(self, state: ProviderState, webhooks: Mapping[str, Webhook]) -> None:
        self.delivered: deque[Delivery] = deque(maxlen=_KEPT)
        self._answered = threading.Condition()
        self._state = state
        self._webhooks = webhooks
        self._heap: list[tuple[float, int, _Due | _Upload]] = []
        self._order = itertools.count()
        self._changed = asyncio.Event()
        self._slots = asyncio.Semaphore(_CONCURRENT)
        self._sending: set[asyncio.Task[None]] = set()
        self._early: set[asyncio.Task[None]] = set()
        state.subscribe(self._plan_job)

    async def run(self) -> None:
        """Send what is due, until cancelled. May be run again, in another loop."""
        self._changed, self._slots = asyncio.Event(), asyncio.Semaphore(_CONCURRENT)
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
        """Block a thread other than the server's until `count` deliveries were attempted and answered.

        Raises:
            TimeoutError: There were fewer after `timeout` real seconds.
        """
        with self._answered:
            if not self._answered.wait_for(lambda: len(self.delivered) >= count, timeout):
                raise TimeoutError(f"{len(self.delivered)} of {count} webhook deliveries in {timeout} s")
            return list(self.delivered)

    async def send_before_answer(self) -> None:
        """Wait until the webhooks that come before their submit response were sent. Returns at once without them."""
        if self._early:
            await asyncio.wait(self._early, timeout=_EARLY_TIMEOUT)
            self._early.clear()

    def _plan_job(self, job: Job) -> None:
        """Plan what is sent for a job that was submitted or cancelled."""
        if job.cancelled is not None:
            self._heap = [entry for entry in self._heap if entry[2].job is not job]
            heapq.heapify(self._heap)
        elif job.order.upload_url is not None and not job.failure:
            for file in job.files:
                if file.failure is None and math.isfinite(file.ready):
                    self._push(_Upload(job, file, job.order.upload_url), file.ready)
        webhook = self._webhooks.get(job.provider)
        if webhook is None or job.order.callback_url is None:
            return
        for index, moment in enumerate(webhook.moments(job)):
            if math.isfinite(moment):
                self._plan_webhook(webhook, job, index, moment)

    def _plan_webhook(self, webhook: Webhook, job: Job, index: int, moment: float) -> None:
        """Plan one delivery, changed by the faults that are due."""
        honest = _Message(job.order.callback_url or "", partial(_encoded, webhook.body, job, index))
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
                messages = [honest, _Message(honest.url, partial(_encoded, webhook.running, job))]
            elif rule.fault is Fault.webhook_forged:
                messages = [*_forgeries(honest, job), honest]
        due = _Due(job, tuple(messages))
        if job.webhook_first and job.cancelled is None:
            self._early.add(self._start(due))
        else:
            self._push(due, moment)

    def _push(self, due: _Due | _Upload, moment: float) -> None:
        heapq.heappush(self._heap, (moment, next(self._order), due))
        self._changed.set()

    def _start(self, due: _Due | _Upload) -> asyncio.Task[None]:
        sending = self._deliver(due) if isinstance(due, _Due) else self._upload(due)
        task = asyncio.get_running_loop().create_task(sending)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def _deliver(self, due: _Due) -> None:
        webhook = self._webhooks[due.job.provider]
        for message in due.messages:
            body = await message.body()
            headers = {} if message.forged else webhook.headers(due.job, body)
            self._state.counters.webhooks[due.job.provider] += 1
            async with self._slots:
                status = await _send("POST", message.url, body, {**_JSON, **headers}, webhook.timeout)
            with self._answered:
                self.delivered.append(Delivery(due.job, message.url, body, due.attempt, status, forged=message.forged))
                self._answered.notify_all()
            accepted = status is not None and HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES
            if not accepted and not message.forged and due.attempt <= len(webhook.pauses):
                pause = webhook.pauses[due.attempt - 1]
                self._push(_Due(due.job, (message,), due.attempt + 1), self._state.clock.now() + pause)

    async def _upload(self, due: _Upload) -> None:
        content = await self._state.draw(due.file)
        async with self._slots:
            await _send("PUT", due.url, content, {"Content-Type": due.content_type}, _UPLOAD_TIMEOUT)
        self._state.counters.uploads[due.job.provider] += 1


@dataclass(frozen=True, slots=True)
class _Upload:
    """A result file that is sent to a URL of the customer."""

    job: Job
    file: File
    url: str

    @property
    def content_type(self) -> str:
        """The media type of the file."""
        return "video/mp4" if isinstance(self.file.media, Clip) else f"image/{self.file.media.format}"


_JSON = {"Content-Type": "application/json"}


async def _encoded(body: Callable[..., Any], *facts: Any) -> bytes:
    value = body(*facts)
    return json.dumps(await value if inspect.isawaitable(value) else value).encode()


def _forgeries(honest: _Message, job: Job) -> Iterator[_Message]:
    """What an attacker might send: to a guessed URL, about another job, half a body, and a body that is too large."""
    guessed = honest.url[:-1] + ("0" if honest.url[-1] != "0" else "1")

    async def abused(job_id: str) -> bytes:
        return json.dumps(_abused(json.loads(await honest.body()), job.id, job_id)).encode()

    async def half() -> bytes:
        return (await honest.body())[:-9]

    async def flood() -> bytes:
        return b'{"padding":"' + b"x" * _FLOOD + b'"}'

    yield _Message(guessed, partial(abused, job.id), forged=True)
    yield _Message(honest.url, partial(abused, "00000000-0000-4000-8000-000000000000"), forged=True)
    yield _Message(honest.url, half, forged=True)
    yield _Message(honest.url, flood, forged=True)


def _abused(value: Any, job_id: str, other_id: str) -> Any:
    """The same body about another job, with URLs of another site."""
    if isinstance(value, dict):
        return {name: _abused(inner, job_id, other_id) for name, inner in value.items()}
    if isinstance(value, list):
        return [_abused(inner, job_id, other_id) for inner in value]
    if isinstance(value, str) and value.startswith("http"):
        return _FOREIGN
    return other_id if value == job_id else value


@functools.cache
def _tls() -> ssl.SSLContext:
    """The certificates that the system trusts, read once: each reading takes 20 to 40 ms."""
    return ssl.create_default_context()


async def _send(method: str, url: str, body: bytes, headers: Mapping[str, str], limit: float) -> int | None:
    """The status of the answer, or None if there was none within `limit` real seconds.

    Written on plain streams: thousands of single calls with nothing to configure need no HTTP client.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if secure else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    fields = {
        "Host": parts.netloc.rpartition("@")[2],
        "Connection": "close",
        "Content-Length": str(len(body)),
        **headers,
    }
    if host.rstrip(".").lower().endswith(_NOWHERE):
        return None
    head = f"{method} {target} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    try:
        async with asyncio.timeout(limit):
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_connection(host, port, ssl=_tls() if secure else None)
            try:
                writer.write(f"{head}\r\n".encode("ascii") + body)
                await writer.drain()
                return int((await reader.readline()).split()[1])
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, TimeoutError, ValueError, IndexError):
        return None

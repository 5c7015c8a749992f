"""The five invariants of reliability, under any sequence of submissions, polls, deliveries, crashes and cancellations.

A hypothesis state machine in virtual time. A crash takes everything but the ledger and the provider: whatever the dying
process still does has no effect on either.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Awaitable, Coroutine
from typing import Any
from unittest import mock

import anyio
import httpx
import hypothesis.strategies as st
from anyio.lowlevel import checkpoint
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kling_async import (
    Client,
    GenerationTimeout,
    Job,
    JobRef,
    KeyConflict,
    KlingError,
    Ledger,
    Limits,
    MemoryLedger,
    RunBlob,
)
from kling_async._tracking.transitions import STATUS_ORDER
from kling_async.providers.runblob import O3Video
from support.fake_runblob import KEY, FakeRunBlob
from support.virtual_time import JumpingLoop

KEYS = st.sampled_from(["a", "b", "c"])
VARIANTS = st.sampled_from([0, 0, 0, 1])
OUTCOMES = st.sampled_from(["accepted", "accepted", "lost after acceptance", "lost before", "refused", "unreachable"])
MOMENTS = st.floats(0.0, 3.0)
FAILURES = st.sampled_from([None, None, "TIMEOUT"])


NOON = 1_777_896_000.0  # POSIX seconds


class Died(BaseException):
    """The process is not there any more."""


class Process:
    """What dies in a crash: a hold on the ledger, and connections."""

    def __init__(self, store: Ledger, seller: Seller) -> None:
        self.store, self.seller, self.dead = store, seller, False

    async def does(self, what: Awaitable[Any]) -> Any:
        """Something outside of the process. It happens or does not. A dead process does not learn which."""
        try:
            await checkpoint()
            self.check()
            result = await what
            await checkpoint()
        finally:
            if isinstance(what, Coroutine):
                what.close()
        self.check()
        return result

    def check(self) -> None:
        if self.dead:
            raise Died


class Hold:
    """The ledger as one process holds it."""

    keep_images = False

    def __init__(self, process: Process) -> None:
        self._process = process

    def __getattr__(self, name: str) -> Any:
        if name == "aclose":
            return checkpoint
        return lambda *values, **named: self._process.does(getattr(self._process.store, name)(*values, **named))


class Wire(httpx.AsyncBaseTransport):
    """The network as one process uses it."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response: httpx.Response = await self._process.does(self._process.seller.handle_async_request(request))
        return response


class Seller(FakeRunBlob):
    """The provider. It accepts when it hears of a submission. Its answer takes a while."""

    def __init__(self) -> None:
        super().__init__(duration=60.0, latency=0.0)
        self.outcome = "accepted"
        self.bought_by: defaultdict[str, list[str]] = defaultdict(list)

    def accept(self, kind: str, body: dict[str, object]) -> httpx.Response:
        answer = super().accept(kind, body)
        identity = f"job-{len(self.generations)}"
        self.generations[identity] = self.generations.pop(answer.json()["generation_id"])
        return httpx.Response(201, json={**answer.json(), "generation_id": identity})

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/generate"):
            await anyio.sleep(0.5)
            return await super().handle_async_request(request)
        if self.outcome == "unreachable":
            await anyio.sleep(0.1)
            raise httpx.ConnectError("refused")
        if self.outcome == "refused":
            await anyio.sleep(1.0)
            return httpx.Response(402, json={"detail": "INSUFFICIENT_CREDITS"})
        if self.outcome != "lost before":
            answer = await super().handle_async_request(request)
            body = json.loads(await request.aread())
            self.bought_by[body["prompt"][0]].append(answer.json()["generation_id"])
        await anyio.sleep(1.0)
        if self.outcome.startswith("lost"):
            raise httpx.ReadError("connection reset")
        return answer


class Machine(RuleBasedStateMachine):
    """One user, one provider, one ledger, and processes that come and go."""

    @initialize()
    def start(self) -> None:
        self.loop = JumpingLoop()
        self.wall = mock.patch("time.time", self.now)
        self.wall.start()
        self.store = MemoryLedger()
        self.seller = Seller()
        self.jobs: dict[JobRef, Job] = {}
        self.allowed: Counter[str] = Counter(a=1, b=1, c=1)
        self.given_up: set[str] = set()
        self.run(self.begin())

    def now(self) -> float:
        return NOON + self.loop.time()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.run(self.loop.shutdown_asyncgens())
            self.loop.close()
            self.wall.stop()

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(what)

    async def begin(self) -> None:
        """A process starts and takes up what there is."""
        self.process = Process(self.store, self.seller)
        limits = Limits(cancel_grace=0.5, max_attempts=2)
        self.client = Client(RunBlob(KEY), http=Wire(self.process), ledger=Hold(self.process), limits=limits)
        self.jobs = {job.ref: job for job in await self.client.resume()}

    async def submit(self, key: str, variant: int) -> None:
        stored = await self.store.find(key=key)
        before = self.seller.requests["submit"]
        try:
            job = await self.client.submit(O3Video(f"{key} {variant}"), key=key)
        except KeyConflict:
            assert stored is not None
            assert not stored.key_reusable
            assert self.seller.requests["submit"] == before
        except KlingError:
            pass
        else:
            assert job.request is None or job.request.prompt == f"{key} {variant}"  # type: ignore[attr-defined]  # an O3Video
            assert await self.store.find(ref=job.ref) is not None  # what is handed out is known after a crash
            self.jobs[job.ref] = job

    @rule(key=KEYS, variant=VARIANTS, outcome=OUTCOMES, failure=FAILURES)
    def submits(self, key: str, variant: int, outcome: str, failure: str | None) -> None:
        self.seller.outcome, self.seller.failure = outcome, failure
        self.run(self.submit(key, variant))

    @rule(key=KEYS, variant=VARIANTS, outcome=OUTCOMES)
    def submits_twice_at_once(self, key: str, variant: int, outcome: str) -> None:
        async def both() -> None:
            await asyncio.gather(self.submit(key, variant), self.submit(key, variant))

        self.seller.outcome = outcome
        self.run(both())

    @rule(key=KEYS, outcome=OUTCOMES, moment=MOMENTS)
    def submits_and_is_cancelled(self, key: str, outcome: str, moment: float) -> None:
        async def cancelled() -> None:
            with anyio.move_on_after(moment):
                await self.submit(key, 0)

        self.seller.outcome = outcome
        self.run(cancelled())

    @rule(key=KEYS, outcome=OUTCOMES, moment=MOMENTS)
    def submits_and_crashes(self, key: str, outcome: str, moment: float) -> None:
        async def crash() -> None:
            task = asyncio.ensure_future(self.submit(key, 0))
            await asyncio.wait([task], timeout=moment)
            await self.crash(task)

        self.seller.outcome = outcome
        self.run(crash())

    @rule(moment=MOMENTS, data=st.data())
    @precondition(lambda self: self.jobs)
    def waits_and_crashes(self, moment: float, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.jobs.values(), key=str)))

        async def crash() -> None:
            task = asyncio.ensure_future(job.wait())
            await asyncio.wait([task], timeout=5 + moment)
            await self.crash(task)

        self.run(crash())

    async def crash(self, task: asyncio.Future[Any]) -> None:
        self.process.dead = True
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Died, BaseExceptionGroup):
            await task
        await self.begin()

    @rule()
    def restarts_in_good_order(self) -> None:
        async def restart() -> None:
            await self.client.aclose()
            await self.begin()

        self.run(restart())

    @rule(seconds=st.floats(0.0, 100.0))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule(data=st.data())
    @precondition(lambda self: self.jobs)
    def polls(self, data: st.DataObject) -> None:
        self.run(data.draw(st.sampled_from(sorted(self.jobs.values(), key=str))).refresh())

    @rule(data=st.data(), late=st.booleans())
    @precondition(lambda self: self.jobs)
    def is_called_back(self, data: st.DataObject, late: bool) -> None:
        """A webhook body as the provider sends it: at its time, repeated, or one of before."""
        job = data.draw(st.sampled_from(sorted(self.jobs.values(), key=str)))

        async def deliver() -> None:
            answer = self.seller.status(job.ref.endpoint_id, job.ref.id).json()
            if late:
                answer = {**answer, "status": "processing", "video_url": None}
            [delivered] = RunBlob(KEY).parse_webhook(json.dumps(answer).encode(), {})
            await job._tracked.apply(delivered.report, "webhook", exact=True)

        self.run(deliver())

    @rule(data=st.data())
    @precondition(lambda self: self.jobs)
    def waits_to_the_end(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.jobs.values(), key=str)))

        async def read() -> None:
            try:
                events = [event async for event in job]
            except GenerationTimeout:
                return
            assert [event.seq for event in events] == list(range(len(events)))
            assert [event.status.terminal for event in events] == [False] * (len(events) - 1) + [True]

        self.run(read())

    @rule(key=KEYS)
    def the_user_resolves_what_is_unknown(self, key: str) -> None:
        """After a check of the provider's account."""

        async def resolve() -> None:
            for listed in await self.client.unresolved():
                if listed.key == key:
                    bought = [ref for ref in self.seller.bought_by[key] if ref not in self.given_up]
                    known = [ref for ref in bought if await self.store.find(ref=JobRef("runblob", "o3-video", ref))]
                    if missing := set(bought) - set(known):
                        job = await self.client.resolve(key, f"runblob/o3-video/{missing.pop()}")
                        self.jobs[job.ref] = job
                    else:
                        await self.client.forget(key)

        self.run(resolve())

    @rule(key=KEYS, outcome=OUTCOMES)
    def the_user_insists(self, key: str, outcome: str) -> None:
        """A second purchase in so many words."""

        async def resubmit() -> None:
            stored = await self.store.find(key=key)
            earlier = list(self.seller.bought_by[key])
            try:
                job = await self.client.resubmit(key)
                self.jobs[job.ref] = job
            except KlingError:
                pass
            if stored is not None and (
                len(self.seller.bought_by[key]) > len(earlier) or await self.freed(stored.attempt_id)
            ):
                self.given_up.update(earlier)
                self.allowed[key] += not stored.key_reusable

        self.seller.outcome = outcome
        self.run(resubmit())

    async def freed(self, purchase: str) -> bool:
        found = await self.store.find(attempt_id=purchase)
        return found is None or found.key_reusable

    @invariant()
    def nothing_is_bought_twice(self) -> None:
        for key, bought in self.seller.bought_by.items():
            assert len(bought) <= self.allowed[key], key

    @invariant()
    def no_accepted_job_is_forgotten(self) -> None:
        async def check() -> None:
            listed = {submission.key for submission in await self.client.unresolved()}
            for key, bought in self.seller.bought_by.items():
                for identity in set(bought) - self.given_up:
                    known = await self.store.find(ref=JobRef("runblob", "o3-video", identity))
                    assert known is not None or key in listed, (key, identity)

        self.run(check())

    @invariant()
    def logs_are_monotone_and_durable_before_they_are_published(self) -> None:
        async def check() -> None:
            for ref, job in self.jobs.items():
                durable = await self.store.events(ref)
                for log in (durable, job.events):
                    assert [event.seq for event in log] == list(range(len(log)))
                    ranks = [STATUS_ORDER[event.status] for event in log]
                    assert ranks == sorted(ranks)
                    assert not any(event.status.terminal for event in log[:-1])
                stated = [(event.seq, event.status, event.at) for event in durable]
                assert stated[: len(job.events)] == [(event.seq, event.status, event.at) for event in job.events]

        self.run(check())

    @invariant()
    def nothing_leaks(self) -> None:
        async def resolve() -> None:
            await asyncio.sleep(0)

        self.run(resolve())
        assert asyncio.all_tasks(self.loop) == set()
        assert self.client._submitter._in_flight == {}

    @invariant()
    def no_secret_is_written_down(self) -> None:
        assert KEY not in repr(self.store._attempts)
        assert KEY not in repr(self.store._events)


class TestLedger(Machine.TestCase):  # type: ignore[valid-type,misc]  # hypothesis makes it
    """What `Machine` says."""

    settings = settings(
        max_examples=150, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )

    def setUp(self) -> None:
        logging.getLogger("kling_async").setLevel(logging.CRITICAL)

    def tearDown(self) -> None:
        logging.getLogger("kling_async").setLevel(logging.NOTSET)

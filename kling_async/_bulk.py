"""Bulk runs: thousands of requests, a bounded number of them in flight, one outcome each.

Theory of operation
-------------------
There is no task per job. A few *submitters* pull the next row when there is room, and buy it. A job that was bought is
*pursued*: it competes for looks in its provider's watch, and the few tasks that patrol there make them (`poller`).
What a job in flight costs is its place in a heap, its log and its request.

Room is two numbers: jobs in flight, and outcomes that nobody has taken yet. So a slow reader slows the run instead of
filling the memory.

One row's error is that row's outcome. An error that says that no further row can be bought (no credits, the key
refused, the budget spent, the ledger full) stops the submissions to that provider; what is in flight finishes, is
yielded, and then `BulkStopped` says what is left.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from types import TracebackType
from typing import Any, Self, TypeAlias

import anyio
from pydantic import ValidationError

from kling_async._errors import (
    BudgetExceeded,
    BulkStopped,
    ConfigurationError,
    InsufficientCredits,
    KlingError,
    LedgerFailed,
    Remedy,
    SubmissionUnknown,
    Unauthorized,
)
from kling_async._job import Job, ProviderSession
from kling_async._models import Cost, Result
from kling_async._polling.poller import DeadlinePassed
from kling_async._tracking.tracked_job import TrackedJob
from kling_async._validation import given
from kling_async.providers._base.request import Request

__all__ = ["BulkRun", "BulkStatistics", "Outcome", "Rows"]

Rows: TypeAlias = Iterable[Request | tuple[str, Request]] | AsyncIterable[Request | tuple[str, Request]]
"""What `Client.map` takes: requests, or pairs of a key and a request."""

_PAIR = 2
_STOPPING = (Unauthorized, InsufficientCredits, BudgetExceeded, LedgerFailed)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of a bulk run.

    Attributes:
        index: The row's place in the input, from 0.
        key: Its key, if it was given one.
        request: What was to be generated.
        job: The job, if one was bought; None when the submission failed.
        result: What came of it; None if `error` says otherwise.
        error: Why there is no result.
    """

    index: int
    key: str | None
    request: Request
    job: Job | None = None
    result: Result | None = None
    error: KlingError | ValidationError | None = None


@dataclass(frozen=True, slots=True)
class BulkStatistics:
    """How far a bulk run has come.

    Attributes:
        submitted: Jobs bought (or found in the ledger).
        in_flight: Of these, not ended yet.
        done: Rows with a result.
        failed: Rows with an error, the unknown ones not counted.
        unknown: Rows whose submission may or may not have bought a job.
        left: Rows that were not submitted, because submissions to their provider have stopped.
        cost: What the jobs that have ended cost as far as providers told, less what these gave back for jobs that
            failed; one entry a unit.
        rate: Rows ended per second, over the whole run.
        eta: Seconds until the last row, at that rate; None while it cannot be told.
    """

    submitted: int
    in_flight: int
    done: int
    failed: int
    unknown: int
    left: int
    cost: tuple[Cost, ...]
    rate: float
    eta: float | None


@dataclass(slots=True)
class _Counts:
    submitted: int = 0
    in_flight: int = 0
    done: int = 0
    failed: int = 0
    unknown: int = 0
    left: int = 0
    costs: dict[str, Decimal] = field(default_factory=dict)

    @property
    def ended(self) -> int:
        return self.done + self.failed + self.unknown


@dataclass(frozen=True, slots=True)
class Course:
    """How a client carries out a bulk run.

    Attributes:
        submit: Buys a row.
        accounts: The client's providers, by name.
        workers: Rows that are bought at once, and jobs that are looked at at once, at most.
    """

    submit: Callable[[Request, str | None], Awaitable[TrackedJob]]
    accounts: Mapping[str, ProviderSession]
    workers: int


class BulkRun:
    """A bulk run: ``async with client.map(requests) as outcomes: async for outcome in outcomes: ...``.

    Leaving the block ends the submissions and the looking. It loses nothing: jobs that were bought go on, and the
    ledger, if there is one, knows them.
    """

    def __init__(self, rows: Rows, course: Course, *, in_flight: int, ordered: bool) -> None:
        # A request is iterable, too: over its fields.
        if isinstance(rows, Request) or not isinstance(rows, Iterable | AsyncIterable):
            raise ConfigurationError(f"Client.map(requests) takes a list of requests or the like, not {given(rows)}")
        count: Any = in_flight  # whatever was given
        if not (isinstance(count, int) and count >= 1):
            raise ConfigurationError(f"in_flight is {in_flight!r}; it must be a whole number, at least 1")
        self._rows = rows
        self._course = course
        self._limit = in_flight
        self._ordered = ordered
        self._counts = _Counts()
        self._total: int | None = operator.length_hint(rows, -1) if hasattr(rows, "__len__") else None
        self._pulled = 0
        self._next = 0
        self._ready: deque[Outcome] = deque()
        self._waiting: dict[int, Outcome | None] = {}  # None: a row that was left out
        # By job its rows: index, key, and the request if the job has another. Plain data: there may be ten thousand.
        self._subscribed: dict[TrackedJob, tuple[tuple[int, str | None, Request | None], ...]] = {}
        self._stopped: dict[str, KlingError] = {}
        self._error: Exception | None = None
        self._submitting = 0
        self._started = self._ended = 0.0
        self._reserved = 0  # room taken by submitters who wait for their row
        self._wanting: deque[anyio.Event] = deque()  # submitters who wait for room
        self._entered = self._left = False
        self._arrived = anyio.Event()
        self._pull = anyio.Lock()
        self._halted = False
        self._pulling: anyio.CancelScope | None = None
        self._iterator: Iterator[Any] | AsyncIterator[Any] = iter(())
        self._group = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        self._started = anyio.current_time()
        rows = self._rows
        self._iterator = aiter(rows) if isinstance(rows, AsyncIterable) else iter(rows)
        await self._group.__aenter__()
        self._entered = True
        workers = min(self._course.workers, self._limit)
        for account in self._course.accounts.values():
            self._group.start_soon(account.poller.run_workers, workers)
        self._submitting = workers
        for _ in range(self._submitting):
            self._group.start_soon(self._submit_rows)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left = True
        self._group.cancel_scope.cancel()
        try:
            # The user's own exception is not the group's: it would come out of it in an exception group.
            ours = error if isinstance(error, anyio.get_cancelled_exc_class()) else None
            await self._group.__aexit__(type(ours) if ours else None, ours, trace if ours else None)
        finally:
            pursued, self._subscribed = self._subscribed, {}  # giving one up may be the end of another's pursuit
            for tracked in pursued:
                self._account(tracked).poller.unsubscribe(tracked, self)
            if isinstance(self._iterator, AsyncGenerator):
                with anyio.CancelScope(shield=True):
                    await self._iterator.aclose()

    def __aiter__(self) -> AsyncIterator[Outcome]:
        return self

    async def __anext__(self) -> Outcome:
        if not self._entered:
            raise ConfigurationError(
                "the run has not begun: async with client.map(...) as outcomes, then async for outcome in outcomes"
            )
        while True:
            if self._ready:
                outcome = self._ready.popleft()
                self._wake_submitter()
                return outcome
            if self._left:
                raise StopAsyncIteration
            if not self._submitting and not self._counts.in_flight:
                raise self._final_error()
            await self._arrived.wait()

    def stop(self) -> None:
        """Submit no more rows. The loop goes on with what is in flight, and then ends as if the input had ended.

        A row that is being submitted already still is. With a ledger and keys, the same run made again goes on with
        the rest.
        """
        self._halted = True
        if self._pulling is not None:
            self._pulling.cancel()
        while self._wanting:
            self._wake_submitter()

    def statistics(self) -> BulkStatistics:
        """How far the run has come."""
        counts = self._counts
        seconds = max((self._ended or anyio.current_time()) - self._started, 1e-9)
        rate = counts.ended / seconds
        known = self._total is not None and rate > 0
        return BulkStatistics(
            submitted=counts.submitted,
            in_flight=counts.in_flight,
            done=counts.done,
            failed=counts.failed,
            unknown=counts.unknown,
            left=counts.left,
            cost=tuple(Cost(amount, unit) for unit, amount in sorted(counts.costs.items())),  # type: ignore[arg-type]  # units come from Costs
            rate=rate,
            eta=((self._total or 0) - counts.ended - counts.left) / rate if known else None,
        )

    def _final_error(self) -> Exception:
        """How the iteration ends."""
        self._ended = self._ended or anyio.current_time()
        if self._error is not None:
            trouble, self._error = self._error, None
            return trouble
        if self._stopped:
            cause = next(iter(self._stopped.values()))
            self._stopped = {}
            counts = self._counts
            return BulkStopped(
                f"the run stopped submitting: {cause.message}. {counts.done} rows are done, "
                f"{counts.failed + counts.unknown} failed, at least {counts.left} were not submitted",
                cause=cause,
                remedies=(*cause.remedies, Remedy("retry", detail="then run the same rows again")),
                provider=cause.provider,
            )
        return StopAsyncIteration()

    async def _submit_rows(self) -> None:
        try:
            while await self._room() and (row := await self._pull_row()) is not None:
                await self._submit(*row)
        except Exception as error:  # noqa: BLE001  # of the input: it ends the run, after what is in flight
            self._error = self._error or error
        finally:
            self._submitting -= 1
            self._announce()

    async def _room(self) -> bool:
        """Wait for room for one more job, and take it. False: no more rows are to be submitted."""
        while True:
            if self._halted or self._error is not None or len(self._stopped) >= len(self._course.accounts):
                return False
            taken = self._counts.in_flight + self._reserved
            if taken < self._limit and len(self._ready) + len(self._waiting) < self._limit:
                self._reserved += 1
                return True
            turn = anyio.Event()
            self._wanting.append(turn)
            await turn.wait()

    async def _pull_row(self) -> tuple[int, str | None, Request] | None:
        """The next row; None after the last. The room that was taken for it is given back if there is none."""
        try:
            async with self._pull:
                ended = True
                with anyio.CancelScope() as self._pulling, suppress(StopAsyncIteration):
                    row = await self._next_row()
                    ended = False
                if ended:
                    self._wake_submitter()  # to find the same
                    return None
                index, self._pulled = self._pulled, self._pulled + 1
        finally:
            self._reserved -= 1
        key, request = row if isinstance(row, tuple) and len(row) == _PAIR else (None, row)
        if not isinstance(request, Request):
            raise TypeError(
                f"row {index} of the input is {type(row).__name__}, not a request or a pair of a key and a request"
            )
        return index, key, request

    async def _next_row(self) -> Any:
        if self._halted:
            raise StopAsyncIteration
        if isinstance(self._iterator, AsyncIterator):
            return await anext(self._iterator)
        try:
            return next(self._iterator)
        except StopIteration:
            raise StopAsyncIteration from None  # a StopIteration cannot leave a coroutine

    async def _submit(self, index: int, key: str | None, request: Request) -> None:
        if request.endpoint.partition("/")[0] in self._stopped:
            self._counts.left += 1
            self._put(index, None)
            return
        self._counts.in_flight += 1
        try:
            tracked = await self._course.submit(request, key)
        except (KlingError, ValidationError) as error:
            self._finish(Outcome(index, key, request, error=error))
            return
        except BaseException:
            self._counts.in_flight -= 1
            raise
        self._counts.submitted += 1
        rows = self._subscribed.get(tracked, ())
        self._subscribed[tracked] = (*rows, (index, key, None if request is tracked.request else request))
        if not rows:
            self._account(tracked).poller.subscribe(tracked, self)

    def on_done(self, tracked: TrackedJob, reason: KlingError | DeadlinePassed | None) -> None:
        """A job has ended, or is not pursued any more; see `Subscriber`."""
        job = Job(tracked, self._account(tracked))
        for index, key, request in self._subscribed.pop(tracked, ()):
            end = job.judge(reason)
            result, error = (end, None) if isinstance(end, Result) else (None, end)
            wanted: Any = request or tracked.request  # one of them is the row's
            self._finish(Outcome(index, key, wanted, job, result, error))

    def _account(self, tracked: TrackedJob) -> ProviderSession:
        return self._course.accounts[tracked.ref.provider]

    def _finish(self, outcome: Outcome) -> None:
        counts, error = self._counts, outcome.error
        counts.in_flight -= 1
        counts.done += error is None
        counts.unknown += isinstance(error, SubmissionUnknown)
        counts.failed += error is not None and not isinstance(error, SubmissionUnknown)
        if (cost := self._spent(outcome.job)) is not None:
            counts.costs[cost.unit] = counts.costs.get(cost.unit, Decimal(0)) + cost.amount
        if isinstance(error, _STOPPING):
            self._stopped.setdefault(outcome.request.endpoint.partition("/")[0], error)
            while self._wanting:
                self._wake_submitter()
        self._put(outcome.index, outcome)
        self._wake_submitter()

    def _spent(self, job: Job | None) -> Cost | None:
        """What a job cost in the end, as far as is told."""
        if job is None or self._course.accounts[job.ref.provider].provider.features.refunded(job.status):
            return None
        return job.cost

    def _put(self, index: int, outcome: Outcome | None) -> None:
        """Hand an outcome to the reader, in order if that is wanted; None: the row has none."""
        if not self._ordered:
            self._ready.extend([outcome] if outcome else [])
        else:
            self._waiting[index] = outcome
            while self._next in self._waiting:
                following = self._waiting.pop(self._next)
                self._next += 1
                self._ready.extend([following] if following else [])
        self._announce()

    def _announce(self) -> None:
        """Wake the reader."""
        self._arrived.set()
        self._arrived = anyio.Event()

    def _wake_submitter(self) -> None:
        """Wake one submitter, for one place that has become free."""
        if self._wanting:
            self._wanting.popleft().set()

"""Bulk runs: thousands of requests, a bounded number of them in flight, one outcome each.

Theory of operation
-------------------
There is no task per job. A few tasks pull the next row when there is room, and submit it. The run then *subscribes*
to the job: a few tasks per provider poll all subscribed jobs (`_polling.poller`). A job in flight costs its place in
the poll queue, its events and its request.

Two numbers limit the run: jobs in flight, and outcomes that the reader has not taken yet. So a slow reader slows the
run instead of filling the memory.

The error of one row is that row's outcome. An error after which no further row can be submitted (no credits, the key
refused, the budget spent, the ledger full) stops the submissions to that provider. Jobs in flight finish and are
yielded. Then `BulkStopped` reports how many rows are left.

A ledger on a database server may be away for a moment, while that is started anew. Nothing is bought meanwhile: rows
that are to be submitted wait for it, for some minutes.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import anyio
from pydantic import ValidationError

from kling_async._bulk.outcome import Outcome, saved
from kling_async._bulk.progress import BulkStatistics, Progress, counted_rows
from kling_async._bulk.source import Row, Rows, RowSource
from kling_async._errors import (
    AllRefused,
    BudgetExceeded,
    BulkStopped,
    ConfigurationError,
    InsufficientCredits,
    KlingError,
    LedgerFailed,
    Remedy,
    Unauthorized,
)
from kling_async._event_loop.patience import Patience
from kling_async._event_loop.spared_heap import SparedHeap
from kling_async._event_loop.turns import cooperative_map
from kling_async._files.local import ensure_writable, with_local_files
from kling_async._files.object_store import ObjectUrl, destination
from kling_async._job.job import Job, final_outcome
from kling_async._job.session import ProviderSession
from kling_async._ledger.protocol import NOT_STORABLE
from kling_async._models import Result
from kling_async._polling.poller import DeadlinePassed
from kling_async._routing.router import Prefer, Router, may_retry, require_preference
from kling_async._submission.submitter import SubmittedJob
from kling_async._tracking.packed_request import PackedRequest, pack_request, unpack_request
from kling_async._tracking.tracked_job import TrackedJob
from kling_async._validation import count_of
from kling_async.providers._base.offers import options
from kling_async.providers._base.portable import PortableRequest
from kling_async.providers._base.request import Request

__all__ = ["BulkRun"]

log = logging.getLogger("kling_async")

_LEDGER_PATIENCE = 300.0  # s for which a row waits for a ledger whose server is away
_LEDGER_PAUSE = 1.0  # s between two tries
_OF_ONE_ROW = frozenset({"max_cost", "max_per_job", NOT_STORABLE})
"""The codes of errors of the budget and the ledger that another row may not have."""
_STOPPING = (Unauthorized, InsufficientCredits, BudgetExceeded, LedgerFailed)

_Place: TypeAlias = int | tuple[int, str | None, bool, PackedRequest | None]
"""The row of a job: its index and key, whether the job is new, and the request if the job has another one.

The index alone for a row without a key whose job is new and has its request: 80 bytes less.
"""


class BulkRun:
    """A bulk run: ``async with client.map(requests) as outcomes: async for outcome in outcomes: ...``.

    Leaving the block ends the submissions and the polling. It loses nothing: jobs that were submitted go on at their
    providers, and the ledger, if there is one, has them.
    """

    def __init__(  # noqa: PLR0913  # the settings of a run, each by its name
        self,
        rows: Rows,
        router: Router,
        sessions: Mapping[str, ProviderSession],
        *,
        workers: int,
        in_flight: int,
        ordered: bool,
        save_to: str | os.PathLike[str] | None,
        downloads: int,
        prefer: Prefer | None = None,
        retry_failed: int = 0,
    ) -> None:
        """Called by `Client.map`.

        Args:
            rows: The input.
            router: Submits the rows.
            sessions: The client's providers.
            workers: How many rows are submitted at once, and how many jobs are polled at once, at most.
            in_flight: How many jobs may run at once.
            ordered: Yield outcomes in the order of the rows.
            save_to: The directory or address for the results. If None, they are not saved.
            downloads: How many results are saved at once.
            prefer: Who makes portable rows.
            retry_failed: How often a row is submitted again whose job failed.
        """
        self._source = RowSource(rows)
        self._limit = count_of("in_flight", in_flight, 1)
        self._downloads = count_of("downloads", downloads, 1)
        self._router = router
        self._prefer = require_preference(prefer)
        self._retry_failed = count_of("retry_failed", retry_failed)
        self._failed: dict[int, list[str]] = {}  # by row, the endpoints at which its jobs failed
        self._sessions = sessions
        self._workers = min(workers, in_flight)
        self._guard = next(iter(sessions.values())).guard
        self._call: AbstractContextManager[None] = nullcontext()
        self._ordered = ordered
        self._directory = None if save_to is None else destination(save_to)
        self._progress = Progress(self._source.total)
        self._next = 0
        self._ready: deque[Outcome] = deque()
        self._waiting: dict[int, Outcome | None] = {}  # None: a row that was not submitted
        self._unsaved: deque[Outcome] = deque()
        self._save = anyio.Event()
        # By job its row, or rows. Plain data, because there may be a hundred thousand.
        self._subscribed: dict[TrackedJob, _Place | list[_Place]] = {}
        self._heap = SparedHeap()
        self._stopped: dict[str, KlingError] = {}  # by provider, the error that stopped the submissions
        self._error: Exception | None = None
        self._submitting = 0
        self._reserved = 0  # places taken for rows that are being pulled
        self._wanting: deque[anyio.Event] = deque()  # tasks that wait for a place
        self._waiting_to_be_sent: set[Patience] = set()  # one for each row that is being submitted
        self._ledger_away = False
        self._entered = self._left = False
        self._arrived: anyio.Event | None = None  # while the reader waits
        self._group = anyio.create_task_group()

    async def __aenter__(self) -> Self:
        if self._directory is not None:
            await ensure_writable(self._directory)
        self._call = self._guard.call()
        self._call.__enter__()
        self._heap.begin(self._limit if self._source.total is None else min(self._limit, self._source.total))
        self._progress.started = anyio.current_time()
        self._source.start()
        await self._group.__aenter__()
        self._entered = True
        for session in self._sessions.values():
            self._group.start_soon(session.poller.run_workers, self._workers)
        self._submitting = self._workers
        for _ in range(self._workers):
            self._group.start_soon(self._submit_rows)
        if self._directory is not None:
            for _ in range(self._downloads):
                self._group.start_soon(self._save_results, self._directory)
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
            try:
                await self._unsubscribe()
            finally:
                self._heap.end()
                self._call.__exit__(None, None, None)
                self._progress.stopped = self._progress.stopped or anyio.current_time()
                await self._source.aclose()

    async def _unsubscribe(self) -> None:
        """Have the jobs that are left polled no more. A hundred thousand in one turn would be half a second."""
        subscribed, self._subscribed = self._subscribed, {}  # to unsubscribe from one may end another
        with anyio.CancelScope(shield=True):
            await cooperative_map(
                lambda tracked: self._session(tracked).poller.unsubscribe(tracked, self), list(subscribed)
            )

    def __repr__(self) -> str:
        progress = self._progress
        return (
            f"<BulkRun {counted_rows(progress.ended + progress.left, progress.total)}, {progress.in_flight} in flight>"
        )

    def _repr_html_(self) -> str:
        """For notebooks: how far it has come. `kling_async.notebook.live` shows that while it runs."""
        from kling_async._html import bar  # noqa: PLC0415  # notebooks alone need it

        statistics = self.statistics()
        return bar(statistics.ended, statistics.total, str(statistics))

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
            if not self._submitting and not self._progress.in_flight and not self._progress.saving:
                raise self._final_error()
            self._arrived = self._arrived or anyio.Event()
            await self._arrived.wait()

    def stop(self) -> None:
        """Submit no more rows. The loop goes on with the jobs in flight, and then ends as if the input had ended.

        A row of which nothing was sent is not bought, whatever it waits for: a free slot, a provider that says "not
        now", room in a budget. It has no outcome, and counts as ``left``. A row whose submission is on its way is
        followed to its end. With a ledger and keys, the same run made again buys the rest, and nothing twice.
        """
        self._source.stop()
        for patience in tuple(self._waiting_to_be_sent):
            patience.give_up()
        while self._wanting:
            self._wake_submitter()

    def statistics(self) -> BulkStatistics:
        """How far the run has come."""
        return self._progress.statistics(sum(patience.leaving for patience in self._waiting_to_be_sent))

    def _final_error(self) -> Exception:
        """Return the exception that ends the iteration."""
        progress = self._progress
        progress.stopped = progress.stopped or anyio.current_time()
        if self._error is not None:
            error, self._error = self._error, None
            return error
        if self._stopped:
            cause = next(iter(self._stopped.values()))
            self._stopped = {}
            return BulkStopped(
                f"the run stopped submitting: {cause.message}. {progress.done} rows are done, "
                f"{progress.failed + progress.unknown} failed, at least {progress.left} were not submitted",
                cause=cause,
                remedies=(*cause.remedies, Remedy("retry", detail="then run the same rows again")),
                provider=cause.provider,
            )
        return StopAsyncIteration()

    async def _submit_rows(self) -> None:
        try:
            while await self._take_place():
                try:
                    row = await self._source.pull()
                finally:
                    self._reserved -= 1
                if row is None:
                    self._wake_submitter()  # the next one finds the same
                    break
                await self._submit(row)
                del row  # it is not to be kept while this task waits for a place
        except Exception as error:  # noqa: BLE001  # of the input: it ends the run, after the jobs in flight
            self._error = self._error or error
        finally:
            self._submitting -= 1
            self._announce()

    async def _take_place(self) -> bool:
        """Wait for a place for one more job, and take it. False if no more rows are to be submitted."""
        while True:
            if self._source.stopped or self._error is not None or len(self._stopped) >= len(self._sessions):
                return False
            taken = self._progress.in_flight + self._reserved
            unread = len(self._ready) + len(self._waiting) + self._progress.saving
            if taken < self._limit and unread < self._limit:
                self._reserved += 1
                return True
            turn = anyio.Event()
            self._wanting.append(turn)
            await turn.wait()

    async def _submit(self, row: Row) -> None:
        index, key, request = row.index, row.key, row.request
        if self._is_stopped(request):
            self._progress.left += 1
            self._put(index, None)
            return
        self._progress.in_flight += 1
        try:
            submitted = await self._unless_stopped(
                request,
                lambda read, patience: self._router.submit(
                    read, key, prefer=self._prefer, tags=row.tags, patience=patience
                ),
            )
        except (KlingError, ValidationError) as error:
            self._job_ended(Outcome(index, key, request, error=error, tags=row.tags))
            return
        except BaseException:
            self._progress.in_flight -= 1
            raise
        if submitted is None:
            self._progress.in_flight -= 1
            self._progress.left += 1
            self._put(index, None)
            return
        self._progress.submitted += 1
        self._follow(row, submitted)

    async def _unless_stopped(
        self, request: Request, submit: Callable[[Request, Patience], Awaitable[SubmittedJob]]
    ) -> SubmittedJob | None:
        """Submit a request. None if the run was stopped while it waited, and nothing was sent."""
        submitted: SubmittedJob | None = None
        if self._source.stopped:
            return submitted
        patience = Patience()
        self._waiting_to_be_sent.add(patience)
        try:
            with patience:
                read = await with_local_files(request)
                submitted = await self._when_recorded(lambda: submit(read, patience))
        finally:
            self._waiting_to_be_sent.discard(patience)
        return submitted

    async def _when_recorded(self, submit: Callable[[], Awaitable[SubmittedJob]]) -> SubmittedJob:
        """Submit a row, if need be when the server of the ledger is back. Until then nothing is sent."""
        until = None
        while True:
            try:
                submitted = await submit()
            except LedgerFailed as error:
                now = anyio.current_time()
                until = until or now + _LEDGER_PATIENCE
                if not error.temporary or now >= until:
                    raise
                if not self._ledger_away:
                    log.warning("%s. Rows wait for it for up to %g s; jobs are followed", error, _LEDGER_PATIENCE)
                self._ledger_away = True
            else:
                self._ledger_away = False
                return submitted
            await anyio.sleep(_LEDGER_PAUSE)

    def _follow(self, row: Row, submitted: SubmittedJob) -> None:
        """Subscribe to the job of a row."""
        index, key, request = row.index, row.key, row.request
        tracked = submitted.tracked
        own: PackedRequest | None = None if request is tracked.request else request
        if self._source.total is None:  # the rows of a list are alive all the same
            own = None if own is None else pack_request(request)
            tracked.pack_request()
        place: _Place = index if key is None and own is None and submitted.new else (index, key, submitted.new, own)
        known = self._subscribed.get(tracked)
        if known is None:
            self._subscribed[tracked] = place
            self._heap.grow(len(self._subscribed))
            self._session(tracked).poller.subscribe(tracked, self)
        else:
            self._subscribed[tracked] = [*known, place] if isinstance(known, list) else [known, place]

    def on_done(self, tracked: TrackedJob, reason: KlingError | DeadlinePassed | None) -> None:
        """A job has ended, or is not polled any more. See `Subscriber`."""
        job = Job(tracked, self._session(tracked))
        places = self._subscribed.pop(tracked, [])
        for place in places if isinstance(places, list) else [places]:
            index, key, new, own = (place, None, True, None) if isinstance(place, int) else place
            end = final_outcome(job, reason)
            result, error = (end, None) if isinstance(end, Result) else (None, end)
            wanted: Any = tracked.request if own is None else unpack_request(own)  # one of them is the row's
            outcome = Outcome(index, key, wanted, job, result, error, new, tags=job.tags)
            if self._is_retried(index, job, error):
                self._group.start_soon(self._submit_again, outcome, job)
            else:
                self._job_ended(outcome)

    def _is_retried(self, index: int, job: Job, error: object) -> bool:
        """Whether a row whose job failed is submitted again."""
        if self._left or self._source.stopped or len(self._failed.get(index, ())) >= self._retry_failed:
            return False
        return may_retry(error, refunded=job.refunded, cost=job.cost)

    async def _submit_again(self, failure: Outcome, failed: Job) -> None:
        """Submit a row again, elsewhere if that is possible. It stays in flight meanwhile."""
        row = Row(failure.index, failure.key, failure.request, failure.tags)
        endpoints = self._failed.setdefault(row.index, [])
        endpoints.append(failed.ref.endpoint)
        try:
            submitted = await self._unless_stopped(
                row.request,
                lambda read, patience: self._router.after_failure(
                    read,
                    failed.key,
                    failed.ref,
                    prefer=self._prefer,
                    failed=endpoints,
                    tags=row.tags,
                    patience=patience,
                ),
            )
        except (KlingError, ValidationError) as error:
            self._job_ended(Outcome(row.index, row.key, row.request, error=error, tags=row.tags))
            return
        if submitted is None:
            self._job_ended(failure)
        else:
            self._follow(row, submitted)

    def _is_stopped(self, request: Request) -> bool:
        """Whether a request is not submitted any more, because nobody who could make it takes submissions."""
        if not isinstance(request, PortableRequest):
            return request.endpoint.partition("/")[0] in self._stopped
        if not self._stopped:
            return False
        takers = {one.provider for one in options(request, (each.provider for each in self._sessions.values()))}
        return takers <= self._stopped.keys()

    def _stop_after(self, request: Request, error: object) -> None:
        """Stop the submissions to the providers whose errors no further row would escape."""
        errors = [*error.errors.values()] if isinstance(error, AllRefused) else [error]
        for one in errors:
            if not isinstance(one, _STOPPING) or one.code in _OF_ONE_ROW:
                continue
            if isinstance(one, LedgerFailed) and isinstance(request, PortableRequest):
                self._stopped = dict.fromkeys(self._sessions, one)
            elif one.provider in self._sessions or not isinstance(request, PortableRequest):
                self._stopped.setdefault(one.provider or request.endpoint.partition("/")[0], one)
        while self._stopped and self._wanting:
            self._wake_submitter()

    def _session(self, tracked: TrackedJob) -> ProviderSession:
        return self._sessions[tracked.ref.provider]

    def _job_ended(self, outcome: Outcome) -> None:
        """A row is not in flight any more: save its result first if that is wanted."""
        self._progress.in_flight -= 1
        if outcome.error is not None:
            self._stop_after(outcome.request, outcome.error)
        if self._directory is None or outcome.result is None:
            self._finish(outcome)
        else:
            self._progress.saving += 1
            self._unsaved.append(outcome)
            save, self._save = self._save, anyio.Event()
            save.set()
        self._wake_submitter()

    async def _save_results(self, directory: Path | ObjectUrl) -> None:
        """Save results as their jobs end. Several tasks do this."""
        while True:
            while not self._unsaved:
                await self._save.wait()
            outcome = self._unsaved.popleft()
            outcome = await saved(outcome, directory)
            self._progress.saving -= 1
            self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        self._progress.end(outcome)
        self._put(outcome.index, outcome)
        self._wake_submitter()

    def _put(self, index: int, outcome: Outcome | None) -> None:
        """Pass an outcome to the reader, in order if that is wanted. None if the row has none."""
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
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None

    def _wake_submitter(self) -> None:
        """Wake one task that submits rows, for one place that has become free."""
        if self._wanting:
            self._wanting.popleft().set()

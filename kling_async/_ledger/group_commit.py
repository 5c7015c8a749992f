"""The thread that owns a ledger's connection: group commit.

Theory of operation
-------------------
One thread owns the connection. Nothing else touches it. An operation is put into a queue that never blocks, and the
task that put it there waits for something of its own event loop: a future of asyncio, or an event of trio.

*Group commit.* While the thread commits one transaction, operations pile up, and all of them go into the next one. A
commit costs one ``fsync``, however many writes it holds, so the busier the ledger is, the cheaper a write becomes. An
operation is answered after the commit that made it durable. A transaction that fails is rolled back and tried again
operation by operation, so that one that cannot be written does not take the others with it.

A transaction costs as much as ten writes. So the thread waits until as many operations have come as it has just done,
for 5 ms for each of them and 160 ms at most. A task that writes alone is not held up, nor are many that write again at
once. In a bulk run, whose tasks do something else between two writes, the transactions are fewer and larger. The
operation that makes them enough wakes the thread.

*Few steps.* All operations of one kind in a group are done at once. The waiting tasks are woken a few at a time, so
that the event loop can run others in between.

*Other processes.* Between its groups, the thread tends what the ledger shares with other processes (see `leases`).
While somebody waits for a job, it looks twenty times a second whether others have written, and five times a second
while it knows of no others. Then it reads what they recorded, takes leases that have become free, and does the
operations again that had no result yet (`NOT_YET`).

*Kept operations.* What became of a paid call, or of a job, cannot be had a second time. If that cannot be written, its
task is told, and the thread keeps the operation, too. It tries again by itself, also when nobody uses the ledger, until
it succeeds or a later operation of the same name takes its place. An operation whose own values cannot be stored is not
tried again: whoever began it stores less of it (see `writer`).

A process that was forked while the ledger was open must not use it: the connection, and the thread, belong to the
parent.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeAlias

import anyio
from anyio import to_thread
from anyio.lowlevel import current_token

from kling_async._errors import ConfigurationError, KlingError, LedgerFailed
from kling_async._event_loop.clock import on_asyncio
from kling_async._ledger.leases import LOOK, Leases
from kling_async._ledger.protocol import NOT_STORABLE, LeaseWatcher
from kling_async._models import Event

__all__ = ["NOT_YET", "Database", "Kind", "LedgerThread", "News", "Operation", "by_kind", "not_storable"]

log = logging.getLogger("kling_async")

_GROUP = 500  # operations in one transaction at most
_PATIENCE = 0.005  # s for which an operation waits for each of those that are expected with it
_LONGEST_WAIT = 0.16  # s for all of them. A thousand jobs took 70 to 115 transactions, and 100 to 130 at half of it
_MORE = 0.5  # of that time once more, for those that come a moment later: else groups would only become smaller
_LONGEST_MORE = 0.008  # s
_PAUSE = 1.0  # s after a failure before the thread tries again what nobody asks for
_LONGEST_PAUSE = 30.0  # s between two tries to write what is kept
_AT_ONCE = 8  # tasks woken in one turn of the event loop. Fifty held it up for 34 ms, and eight for 19

NOT_YET = object()
"""The value of an operation that is to be done again later, when others have written."""

Kind: TypeAlias = Callable[[Any, Sequence[Any]], Any]
"""What is done for all operations of a kind at once: takes the connection and their arguments, gives what the
`Database` makes their results of."""


@dataclass(slots=True)
class Operation:
    """Work for the thread, and what came of it."""

    kind: Kind
    argument: Any
    keep: str | None = None
    """Its name, if it is kept when it fails."""
    again: bool = False
    """Whether it was kept, so that nobody waits for it."""
    loop: Any = None
    """The event loop of the task that waits, if one does."""
    done: asyncio.Future[None] | anyio.Event | None = None
    """What that task waits for."""
    answered: bool = False
    """Whether that task was woken. Used by its event loop alone."""
    value: Any = None
    error: Exception | None = None
    abandoned: bool = False


class _Inbox:
    """The operations on their way to the thread, which sleeps until enough have come."""

    def __init__(self) -> None:
        self._operations: deque[Operation] = deque()
        self._enough: float = 1
        self._called = threading.Event()

    def __len__(self) -> int:
        return len(self._operations)

    def put(self, operation: Operation) -> None:
        """Add an operation. Never blocks, and may be called from any thread."""
        self._operations.append(operation)
        if len(self._operations) >= self._enough:
            self._called.set()

    def call(self) -> None:
        """Wake the thread: there is something else to do."""
        self._called.set()

    def wait(self, enough: int, seconds: float | None) -> None:
        """In the thread: wait until so many operations are here, the thread is called, or so many seconds are over."""
        self._enough = enough  # before they are counted: whoever adds one afterwards wakes the thread
        if len(self._operations) < enough:
            self._called.wait(seconds)
        self._enough = math.inf  # while the thread works, nobody wakes it
        self._called.clear()

    def take(self, most: int) -> list[Operation]:
        """In the thread: take operations out, the first that came first."""
        return [self._operations.popleft() for _ in range(min(len(self._operations), most))]


@dataclass(frozen=True, slots=True)
class News:
    """What other processes have recorded of jobs that are waited for here.

    Attributes:
        events: References with events, in order.
        requests: References with the reports of `SharedLedger.request_poll`.
    """

    events: Sequence[tuple[str, Sequence[Event]]] = ()
    requests: Sequence[tuple[str, Any]] = ()


class Database(Protocol):
    """The open database, used by the thread alone."""

    def commit(self, operations: Sequence[Operation]) -> None:
        """Do the operations in one transaction, and set the value of each.

        Raises:
            Exception: Nothing was written.
        """
        ...

    def close(self) -> None:
        """Close it."""
        ...

    def end(self) -> None:
        """Let others have at once what this process owns."""
        ...

    def renew(self) -> None:
        """Renew this process's row in a transaction of its own."""
        ...

    def changed(self) -> bool:
        """Whether others have written since the last call."""
        ...

    def news(self, *, restart: bool) -> News:
        """Read what others have recorded since the last call.

        Args:
            restart: Begin at this moment: nobody has waited for anything before.
        """
        ...

    def logs(self, refs: Sequence[str]) -> News:
        """Read the whole logs of jobs."""
        ...

    def take(self, refs: Sequence[str]) -> Sequence[str]:
        """Take the leases of these jobs that are free. Return those that are ours now."""
        ...

    def give_back(self, refs: Sequence[str]) -> None:
        """Let others poll these jobs."""
        ...


class LedgerThread:
    """Does the operations of one ledger. It is started by the first one.

    Args:
        name: What the ledger is called in messages.
        label: What the thread is called.
        connect: Opens the database. It is called again after an error that left the database closed.
        explain: Makes the error for one task that waits of an error of the database.
        leases: What this process owns in the ledger.
    """

    def __init__(
        self,
        name: str,
        label: str,
        connect: Callable[[], Database],
        explain: Callable[[Exception], Exception],
        leases: Leases,
    ) -> None:
        self._name = name
        self._label = label
        self._connect = connect
        self._explain = explain
        self._leases = leases
        self._inbox = _Inbox()
        self._thread: threading.Thread | None = None
        self._process: int | None = None
        self._expected = 0  # operations in the next group
        self._unsettled: list[Operation] = []  # done again later
        self._watching = self._failing = False
        self._kept: dict[str, Operation] = {}
        self._next_try, self._pause = 0.0, _PAUSE
        self._loop: Any = None  # in which the watcher is notified
        self.watcher: LeaseWatcher | None = None
        """The client's side, which is notified."""
        self.closed = False

    async def perform(self, kind: Kind, argument: Any, keep: str | None = None, *, shielded: bool = False) -> Any:
        """Let the thread do something, and wait until it is durable.

        Args:
            kind: What.
            argument: With what.
            keep: If it fails, the thread tries again by itself, until it succeeds or the next operation of this name
                begins. If None, it does not.
            shielded: Wait for its end also if a scope around the task is cancelled, same as within a shielded scope.

        Raises:
            ConfigurationError: The ledger is closed, or was opened before this process was forked.
        """
        self._start()
        operation = Operation(kind, argument, keep)
        try:
            if on_asyncio():  # a future costs a fifth of an event of anyio, and a job writes four times
                loop = operation.loop = asyncio.get_running_loop()
                operation.done = future = loop.create_future()
                self._inbox.put(operation)
                try:
                    await future
                except asyncio.CancelledError:
                    if not shielded or anyio.current_effective_deadline() > -math.inf:  # asyncio's pierces shields, too
                        raise
                    # A scope costs more than all else here, so it is made for the few that are cancelled.
                    with anyio.CancelScope(shield=True):
                        if not operation.answered:
                            operation.done = future = loop.create_future()
                            await future
            else:
                operation.loop = current_token().native_token
                operation.done = event = anyio.Event()
                self._inbox.put(operation)
                with anyio.CancelScope(shield=shielded):
                    await event.wait()
        finally:
            operation.abandoned = True  # of no use if it is unsettled
        if operation.error is not None:
            raise operation.error
        return operation.value

    def post(self, kind: Kind, argument: Any, keep: str) -> None:
        """Let the thread do something for which nobody waits. Same as `perform`, if the ledger is in use here."""
        if self._thread is not None and self._process == os.getpid():
            self._inbox.put(Operation(kind, argument, keep))

    def keeps(self, name: str) -> bool:
        """Whether an operation of that name failed, and is tried again."""
        return name in self._kept

    def want(self, ref: str) -> bool:
        """See `SharedLedger.want`."""
        idle = not self._leases.watching
        held = self._leases.want(ref)
        if idle or not held:
            self._loop = current_token().native_token
            self._start()
            self._inbox.call()
        return held

    def unwant(self, ref: str, *, ended: bool) -> None:
        """See `SharedLedger.unwant`."""
        self._leases.unwant(ref, ended=ended)

    def _start(self) -> None:
        if self.closed:
            raise ConfigurationError(f"the ledger {self._name} is closed; make a new one")
        if self._process not in {None, os.getpid()}:
            raise ConfigurationError(
                f"the ledger {self._name} was opened before this process was forked from process {self._process}, and "
                "cannot be used here; make a new client, with a ledger of its own, in each process after the fork "
                '(multiprocessing: the start method "spawn"; gunicorn: no preloading)'
            )
        if self._thread is None:
            self._process = os.getpid()
            # A daemon: a program that ends without closing its ledger must end all the same, and loses nothing by it.
            self._thread = threading.Thread(target=self._run, name=self._label, daemon=True)
            self._thread.start()

    async def aclose(self) -> None:
        """Finish what is queued, give all leases back and close the database. Closing twice is harmless."""
        self.closed = True
        thread, self._thread = self._thread, None
        if thread is not None and self._process == os.getpid():
            self._inbox.call()
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(thread.join)

    def _run(self) -> None:
        """The thread: it commits group after group, until the ledger is closed and everything queued is done."""
        database: Database | None = None
        while self._inbox or not self.closed:
            group = self._next_group()
            try:
                if due := self._due():
                    group = [*due, *group]
                if group or self._leases.active:
                    database = database or self._connect()
                if database is not None:
                    self._commit(database, group)
                    done, group = group, []
                    self._finish(done)
                    self._tend(database, wrote=bool(done))
                    self._failing = False
            except Exception as error:  # noqa: BLE001  # every error must reach the tasks that wait
                self._give_up([*group, *self._unsettled], self._explain(error))
                _close(database)
                database = None  # it is opened anew
        self._give_up(self._unsettled, ConfigurationError(f"the ledger {self._name} was closed"))
        if database is not None:
            with suppress(Exception):  # what it owns expires by itself
                database.end()
            _close(database)

    def _give_up(self, operations: Sequence[Operation], error: Exception) -> None:
        """Tell the tasks that wait, and begin anew with the next connection. What is seen no more is logged once."""
        for operation in operations:
            operation.error = error
            self._keep(operation)
        _answer(operations)
        self._unsettled = []
        self._leases.look_again()
        if self._leases.watching and not self.closed:
            level = logging.DEBUG if self._failing else logging.WARNING
            log.log(level, "%s. Jobs that other processes poll are not seen until it works again", error)
        self._watching, self._failing = False, True

    def _finish(self, operations: Iterable[Operation]) -> None:
        """Answer operations that were done. Those that had no result yet are done again later."""
        done: list[Operation] = []
        for operation in operations:
            if operation.keep is not None and operation.error is None:
                self._leases.sending.discard(operation.keep)
            (self._unsettled if operation.value is NOT_YET and operation.error is None else done).append(operation)
        _answer(done)

    def _tend(self, database: Database, *, wrote: bool) -> None:
        """Do what the ledger shares with other processes.

        Args:
            database: Where it is.
            wrote: Whether this process has written, so that operations without a result may have one now.
        """
        leases = self._leases
        self._notify("on_lost", leases.take_lost())
        watching = self._watch(database)
        fresh = leases.take_fresh()
        if fresh:
            self._report(database.logs(fresh))
        if watching or self._unsettled:
            changed, retry = database.changed(), leases.retry_due()
            if changed and watching:
                self._report(database.news(restart=False))
            if (fresh or retry) and (missing := leases.missing()):
                leases.grant(database.take(missing))
            if changed or retry or wrote:
                self._settle(database)
        if granted := leases.take_granted():
            if again := [ref for ref in granted if ref not in fresh]:
                self._report(database.logs(again))  # what its owner recorded before it died
            self._notify("on_leased", granted)
        if idle := leases.take_idle():
            database.give_back(idle)
        if leases.must_renew():
            database.renew()

    def _watch(self, database: Database) -> bool:
        """Whether any job is waited for. If that begins now, logs are read to which others have added meanwhile."""
        watching = self._leases.watching
        if watching and not self._watching:
            if database.changed():
                self._leases.look_again()
            database.news(restart=True)
        self._watching = watching
        return watching

    def _settle(self, database: Database) -> None:
        """Do the operations again that had no result yet."""
        waiting, self._unsettled = [each for each in self._unsettled if not each.abandoned], []
        self._commit(database, waiting)
        self._finish(waiting)

    def _report(self, news: News) -> None:
        """Notify the client of what others have recorded."""
        for ref, events in news.events:
            self._notify("on_recorded", ref, events)
        for ref, report in news.requests:
            self._notify("on_poll_requested", ref, report)

    def _notify(self, method: str, first: Any, *rest: Any) -> None:
        """Call the watcher in its event loop."""
        if first and self.watcher is not None and self._loop is not None:
            _schedule(self._loop, partial(getattr(self.watcher, method), first, *rest))

    def _commit(self, database: Database, operations: Sequence[Operation]) -> None:
        """Do the operations in one transaction, or, where that fails, each in one of its own."""
        if not operations:
            return
        for operation in operations:
            if operation.keep is not None and not operation.again:
                self._kept.pop(operation.keep, None)
        try:
            database.commit(operations)
            for operation in operations:
                if operation.keep is not None:  # it is not taken for stored before it is
                    self._kept.pop(operation.keep, None)
        except Exception as error:  # noqa: BLE001  # carried to the task that waits for it
            if len(operations) == 1:
                operations[0].error = self._explain(error)
                if operations[0].keep is not None and not isinstance(operations[0].error, KlingError):
                    operations[0].error = not_storable(self._name, f"{type(error).__name__}: {error}")
                self._keep(operations[0])
                return
            for operation in operations:
                self._commit(database, [operation])

    def _keep(self, operation: Operation) -> None:
        """Keep an operation that has failed, if it is to be kept."""
        if operation.keep is not None and isinstance(operation.error, LedgerFailed) and not self.closed:
            hopeless = operation.error.code == NOT_STORABLE
            if hopeless and not operation.again:
                return  # who waits for it stores less of it
            if not self._kept:
                self._next_try, self._pause = time.monotonic() + _PAUSE, _PAUSE
            self._kept[operation.keep] = operation

    def _due(self) -> list[Operation]:
        """What is kept and to be tried now. Nobody waits for it."""
        if not self._kept or self.closed or time.monotonic() < self._next_try:
            return []
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._next_try = time.monotonic() + self._pause
        due = [each for each in self._kept.values() if getattr(each.error, "code", None) != NOT_STORABLE]
        return [replace(each, error=None, again=True, done=None) for each in due]

    def _next_group(self) -> list[Operation]:
        """What is queued, up to the size of a group. Waits for the first, or until there is something else to do."""
        patience = LOOK if self._unsettled else self._leases.patience()
        if self._failing and patience is not None:
            patience = max(patience, _PAUSE)
        if self._kept and not self.closed:
            pause = max(self._next_try - time.monotonic(), 0.0)
            patience = pause if patience is None else min(patience, pause)
        self._inbox.wait(1, patience)
        begin = time.monotonic()
        end = begin + min(_PATIENCE * self._expected, _LONGEST_WAIT)
        while 0 < len(self._inbox) < self._expected and not self.closed and (left := end - time.monotonic()) > 0:
            self._inbox.wait(self._expected, left)
        if self._expected > 1 and self._inbox and not self.closed:
            time.sleep(min(_MORE * (time.monotonic() - begin), _LONGEST_MORE))
        group = self._inbox.take(_GROUP)
        self._expected = len(group)
        return group


def not_storable(name: str, text: str) -> LedgerFailed:
    """The error for values that a ledger cannot store."""
    return LedgerFailed(
        f"the ledger {name} cannot store this: {text}. Other submissions are not affected; change what it names",
        code=NOT_STORABLE,
    )


def _close(database: Database | None) -> None:
    """Close the database, whatever state it is in."""
    if database is not None:
        with suppress(Exception):
            database.close()


def by_kind(operations: Sequence[Operation]) -> dict[Kind, list[Operation]]:
    """The operations of each kind."""
    kinds: dict[Kind, list[Operation]] = {}
    for operation in operations:
        kinds.setdefault(operation.kind, []).append(operation)
    return kinds


def _answer(operations: Iterable[Operation]) -> None:
    """Wake the tasks that wait, with one call into each event loop."""
    by_loop: dict[Any, list[Operation]] = {}
    for operation in operations:
        if operation.done is not None:
            by_loop.setdefault(operation.loop, []).append(operation)
    for loop, waiting in by_loop.items():
        _schedule(loop, partial(_wake, loop, waiting))


def _wake(loop: Any, waiting: Sequence[Operation]) -> None:
    """In the event loop: wake the tasks that wait, a few in each turn."""
    for operation in waiting[:_AT_ONCE]:
        operation.answered = True
        if isinstance(operation.done, anyio.Event):
            operation.done.set()
        elif operation.done is not None and not operation.done.done():  # its task was cancelled
            operation.done.set_result(None)
    if len(waiting) > _AT_ONCE:
        # From within asyncio's loop, there is no other thread to interrupt, which takes three system calls.
        schedule = getattr(loop, "call_soon", None) or loop.run_sync_soon
        schedule(_wake, loop, waiting[_AT_ONCE:])


def _schedule(loop: Any, call: Callable[[], object]) -> None:
    """Have a function called in an event loop."""
    # asyncio's name for it, and trio's
    schedule = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
    try:
        schedule(call)
    except RuntimeError:
        log.debug("an event loop ended before the ledger answered it")

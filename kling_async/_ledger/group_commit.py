"""The thread that owns a ledger's connection: group commit.

Theory of operation
-------------------
One thread owns the connection. Nothing else touches it. An operation is put into a queue that never blocks, and the
task that put it there waits for an event of its own event loop. So it works on asyncio and trio.

*Group commit.* While the thread commits one transaction, operations pile up, and all of them go into the next one. A
commit costs one ``fsync``, however many writes it holds, so the busier the ledger is, the cheaper a write becomes. An
operation is answered after the commit that made it durable. A transaction that fails is rolled back and tried again
operation by operation, so that one that cannot be written does not take the others with it.

*Few steps.* All operations of one kind in a group are done at once. The waiting tasks are woken a few at a time, so
that the event loop can run others in between.

A process that was forked while the ledger was open must not use it: the connection, and the thread, belong to the
parent.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import anyio
from anyio import to_thread
from anyio.lowlevel import current_token

from kling_async._errors import ConfigurationError

__all__ = ["Database", "Kind", "LedgerThread", "Operation", "by_kind"]

log = logging.getLogger("kling_async")

_GROUP = 500  # operations in one transaction at most
_AT_ONCE = 50  # tasks woken in one turn of the event loop

Kind: TypeAlias = Callable[[Any, Sequence[Any]], Sequence[Any]]
"""What is done for all operations of a kind at once: takes the connection and their arguments, gives their results."""


@dataclass(slots=True)
class Operation:
    """Work for the thread, and what came of it."""

    kind: Kind
    argument: Any
    token: Any = field(default_factory=current_token)
    done: anyio.Event = field(default_factory=anyio.Event)
    value: Any = None
    error: Exception | None = None


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


class LedgerThread:
    """Does the operations of one ledger. It is started by the first one.

    Args:
        name: What the ledger is called in messages.
        label: What the thread is called.
        connect: Opens the database. It is called again after an error that left the database closed.
        explain: Makes the error for one task that waits of an error of the database.
    """

    def __init__(
        self, name: str, label: str, connect: Callable[[], Database], explain: Callable[[Exception], Exception]
    ) -> None:
        self._name = name
        self._label = label
        self._connect = connect
        self._explain = explain
        self._queue: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process: int | None = None
        self.closed = False

    async def perform(self, kind: Kind, argument: Any) -> Any:
        """Let the thread do something, and wait until it is durable.

        Raises:
            ConfigurationError: The ledger is closed, or was opened before this process was forked.
        """
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
        operation = Operation(kind, argument)
        self._queue.put(operation)
        await operation.done.wait()
        if operation.error is not None:
            raise operation.error
        return operation.value

    async def aclose(self) -> None:
        """Finish what is queued, and close the database. Closing twice is harmless."""
        self.closed = True
        thread, self._thread = self._thread, None
        if thread is not None and self._process == os.getpid():
            self._queue.put(None)
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(thread.join)

    def _run(self) -> None:
        """The thread: it commits group after group, until the queue holds the stop mark."""
        database: Database | None = None
        stop = False
        while not stop:
            group = self._next_group()
            operations = [operation for operation in group if operation is not None]
            stop = len(operations) < len(group)
            try:
                if operations:
                    database = database or self._connect()
                    self._commit(database, operations)
            except Exception as error:  # noqa: BLE001  # every error must reach the tasks that wait
                for operation in operations:
                    operation.error = self._explain(error)
                if database is not None:
                    database.close()
                    database = None  # the next group opens it anew
            _answer(operations)
        if database is not None:
            database.close()

    def _commit(self, database: Database, operations: Sequence[Operation]) -> None:
        """Do the operations in one transaction, or, where that fails, each in one of its own."""
        try:
            database.commit(operations)
        except Exception as error:  # noqa: BLE001  # carried to the task that waits for it
            if len(operations) == 1:
                operations[0].error = self._explain(error)
                return
            for operation in operations:
                self._commit(database, [operation])

    def _next_group(self) -> list[Operation | None]:
        """What is queued, up to the size of a group. Waits for the first."""
        group = [self._queue.get()]
        try:
            while len(group) < _GROUP and group[-1] is not None:
                group.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return group


def by_kind(operations: Sequence[Operation]) -> dict[Kind, list[Operation]]:
    """The operations of each kind."""
    kinds: dict[Kind, list[Operation]] = {}
    for operation in operations:
        kinds.setdefault(operation.kind, []).append(operation)
    return kinds


def _answer(operations: Iterable[Operation]) -> None:
    """Wake the tasks that wait, with one call into each event loop."""
    by_loop: dict[Any, list[anyio.Event]] = {}
    for operation in operations:
        by_loop.setdefault(operation.token.native_token, []).append(operation.done)
    for loop, events in by_loop.items():
        # asyncio's name for it, and trio's
        schedule = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
        try:
            schedule(_wake, schedule, events)
        except RuntimeError:
            log.debug("an event loop ended before the ledger answered it")


def _wake(schedule: Callable[..., object], events: Sequence[anyio.Event]) -> None:
    for event in events[:_AT_ONCE]:
        event.set()
    if len(events) > _AT_ONCE:
        schedule(_wake, schedule, events[_AT_ONCE:])

"""The ledger in a SQLite file.

Theory of operation
-------------------
One thread owns the connection. Nothing else touches the file. An operation is put into a queue that never blocks, and
the task that put it there waits for an event of its own event loop.

*Group commit.* While the thread commits one transaction, operations pile up, and all of them go into the next one. A
commit costs one ``fsync``, however many writes it holds, so the busier the ledger is, the cheaper a write becomes. An
operation is answered after the commit that made it durable. A transaction that fails is rolled back and tried again
operation by operation, so that one that cannot be written does not take the others with it.

*Few steps.* All operations of one kind in a group are one statement (see `sqlite_schema`). The waiting tasks are woken
a few at a time, so that the event loop can run others in between. A long list is read page by page, so that writes can
take place in between.

*Durability.* WAL with ``synchronous=FULL``: a commit survives ``kill -9`` and a power cut.

*Ownership.* One process owns the file (see `sqlite_file`). Reading needs no ownership and disturbs nobody, because WAL
lets others read (see `inspection`). A process that was forked while the ledger was open must not use it: SQLite's
connections, and the thread, belong to the parent.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
from anyio import to_thread
from anyio.lowlevel import current_token

from kling_async._errors import ConfigurationError
from kling_async._ledger import sqlite_schema as statements
from kling_async._ledger.protocol import SpendingGroup, Submission
from kling_async._ledger.sqlite_file import File, Identity, explained, require_file_name
from kling_async._ledger.sqlite_schema import Kind
from kling_async._models import Event, JobRef
from kling_async._validation import require

__all__ = ["SqliteLedger"]

T = TypeVar("T")
log = logging.getLogger("kling_async")

_GROUP = 500  # operations in one transaction at most
_AT_ONCE = 50  # tasks woken in one turn of the event loop
_PAGE = 500  # attempts read in one operation


@dataclass(slots=True)
class _Operation:
    """Work for the thread, and what came of it."""

    kind: Kind
    argument: Any
    token: Any = field(default_factory=current_token)
    done: anyio.Event = field(default_factory=anyio.Event)
    value: Any = None
    error: Exception | None = None


class SqliteLedger:
    """A ledger in a SQLite file. It is opened by the first call and closed by `aclose`, which the client calls.

    Works on asyncio and trio, and over several event loops one after the other.

    Args:
        path: The file. It is made if need be, readable by its owner only. Its directory must exist.
        keep_images: Keep inline images as they are (a third larger), so that such requests can be submitted again
            after a restart without giving them again. Otherwise they are kept as a digest.

    Raises:
        ConfigurationError: The path is an address, such as that of a database server.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep_images: bool = False) -> None:
        require("SqliteLedger(path)", path, str | os.PathLike, 'a path, such as "jobs.db"')
        require_file_name(path)
        self.path = Path(path).absolute()  # the working directory may change before it is opened
        self.keep_images = keep_images
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process: int | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<SqliteLedger {self.path}{' closed' if self._closed else ''}>"

    async def claim(self, submission: Submission) -> Submission:
        """See `Ledger.claim`."""
        claimed: Submission = await self._perform(statements.claim, submission)
        return claimed

    async def record_outcome(self, submission: Submission) -> None:
        """See `Ledger.record_outcome`."""
        await self._perform(statements.record_outcome, submission)

    async def release(self, key: str, attempt_id: str, reason: str) -> None:
        """See `Ledger.release`."""
        await self._perform(statements.release, (key, attempt_id, reason))

    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> None:
        """See `Ledger.append_events`."""
        await self._perform(statements.append_events, (ref, events))

    async def record_file(self, ref: JobRef, index: int, place: Path | str) -> None:
        """See `Ledger.record_file`."""
        await self._perform(statements.record_file, (str(ref), index, str(place)))

    async def find(
        self, *, key: str | None = None, attempt_id: str | None = None, ref: JobRef | None = None
    ) -> Submission | None:
        """See `Ledger.find`."""
        if key is not None:
            condition, value = "s.current AND s.key = ?", key
        elif attempt_id is not None:
            condition, value = "s.attempt_id = ?", attempt_id
        else:
            condition, value = "s.ref = ?", str(ref)
        found = await self._read(lambda connection: statements.select(connection, condition, value))
        return found[-1] if found else None

    async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
        """See `Ledger.submissions`."""
        condition = statements.UNFINISHED if unfinished else statements.CURRENT
        found: dict[str, Submission] = {}  # a key that is claimed again between two pages is on both
        last: int | None = 0
        while last is not None:
            page, last = await self._read(partial(statements.page, condition=condition, after=last, size=_PAGE))
            found.update((submission.key, submission) for submission in page)
        return sorted(found.values(), key=attrgetter("started"))

    async def attempts(self, key: str) -> list[Submission]:
        """See `Ledger.attempts`."""
        return await self._read(partial(statements.attempts, key=key))

    async def spending(self, ignored_fields: Collection[str] = ()) -> list[SpendingGroup]:
        """See `Ledger.spending`."""
        return await self._read(partial(statements.spending, ignored_fields=ignored_fields))

    async def events(self, ref: JobRef) -> list[Event]:
        """See `Ledger.events`."""
        return await self._read(partial(statements.events, ref=ref))

    async def set_value(self, name: str, value: Any) -> None:
        """See `Ledger.set_value`."""
        await self._perform(statements.set_value, (name, json.dumps(value)))

    async def get_value(self, name: str) -> Any:
        """See `Ledger.get_value`."""
        return await self._read(partial(statements.get_value, name=name))

    async def aclose(self) -> None:
        """Finish what is queued, close the file and give it free. Closing twice is harmless."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None and self._process == os.getpid():
            self._queue.put(None)
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(thread.join)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Let the thread do any work with the connection."""
        return cast("T", await self._perform(statements.each, work))

    async def _perform(self, kind: Kind, argument: Any) -> Any:
        """Let the thread do something, and wait until it is durable."""
        if self._closed:
            raise ConfigurationError(f"the ledger {self.path} is closed; make a new one")
        if self._process not in {None, os.getpid()}:
            raise ConfigurationError(
                f"the ledger {self.path} was opened before this process was forked from process {self._process}, and "
                "cannot be used here; make a new client, with a ledger of its own, in each process after the fork "
                '(multiprocessing: the start method "spawn"; gunicorn: no preloading)'
            )
        if self._thread is None:
            self._process = os.getpid()
            # A daemon: a program that ends without closing its ledger must end all the same, and loses nothing by it.
            self._thread = threading.Thread(target=self._run, name=f"ledger {self.path.name}", daemon=True)
            self._thread.start()
        operation = _Operation(kind, argument)
        self._queue.put(operation)
        await operation.done.wait()
        if operation.error is not None:
            raise operation.error
        return operation.value

    def _run(self) -> None:
        """The thread: it commits group after group, until the queue holds the stop mark."""
        file: File | None = None
        identity: Identity | None = None
        stop = False
        while not stop:
            group = self._next_group()
            operations = [operation for operation in group if operation is not None]
            stop = len(operations) < len(group)
            try:
                if operations:
                    file = file or File(self.path, identity)
                    identity = file.identity
                    _commit(file, operations)
            except Exception as error:  # noqa: BLE001  # every error must reach the tasks that wait
                for operation in operations:
                    operation.error = explained(self.path, error)
                if file is not None:
                    file.close()
                    file = None  # the next group opens it anew
            _answer(operations)
        if file is not None:
            file.close()

    def _next_group(self) -> list[_Operation | None]:
        """What is queued, up to the size of a group. Waits for the first."""
        group = [self._queue.get()]
        try:
            while len(group) < _GROUP and group[-1] is not None:
                group.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return group


def _commit(file: File, operations: Sequence[_Operation]) -> None:
    """Do the operations in one transaction, or, where that fails, each in one of its own."""
    connection = file.connection
    try:
        connection.execute("BEGIN IMMEDIATE")
        file.require_same_file()
        if any(operation.kind is statements.claim for operation in operations):
            file.require_ownership()
        by_kind: dict[Kind, list[_Operation]] = {}
        for operation in operations:
            by_kind.setdefault(operation.kind, []).append(operation)
        for kind, alike in by_kind.items():
            values = kind(connection, [operation.argument for operation in alike])
            for operation, value in zip(alike, values, strict=True):
                operation.value = value
        connection.execute("COMMIT")
    except Exception as error:  # noqa: BLE001  # carried to the task that waits for it
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if len(operations) == 1:
            operations[0].error = explained(file.path, error)
            return
        for operation in operations:
            _commit(file, [operation])


def _answer(operations: Iterable[_Operation]) -> None:
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

"""The ledger in a SQLite file.

Theory of operation
-------------------
One thread owns the connection; nothing else touches the file. An operation is put into a queue that never blocks, and
the task that put it there waits for an event of its own event loop.

*Group commit.* While the thread commits one transaction, operations pile up, and all of them go into the next one. A
commit costs one ``fsync``, however many writes it holds, so the busier the ledger is, the cheaper a write becomes. An
operation is answered after the commit that made it durable. A transaction that fails is rolled back and tried again
operation by operation, so that one that cannot be written does not take the others with it.

*Few steps.* All operations of one kind in a group are one SQL statement over a JSON array. `sqlite3` lets go of the
interpreter's lock around each step of a statement, and under a busy event loop it takes milliseconds to get it back: a
statement for each write would be as slow as a commit for each write. The tasks that wait are woken a few at a time, so
that the loop comes round in between.

*Durability.* WAL with ``synchronous=FULL``: a commit survives ``kill -9`` and a power cut.

*Ownership.* A second connection holds a write lock on an empty database beside the file (``jobs.db-lock``) for as long
as the ledger is open. The operating system releases it when the process ends, however it ends, so it is never stale.
Whoever only wants to see what is there (`inspect`) needs no ownership and disturbs nobody: WAL lets him read.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
from anyio import to_thread
from anyio.lowlevel import current_token

from kling_async._errors import ConfigurationError, KlingError, LedgerFailed
from kling_async._ledger import Submission, SubmissionState
from kling_async._models import Event, JobRef
from kling_async._records import event_from_json, event_to_json

__all__ = ["Contents", "SqliteLedger", "inspect"]

T = TypeVar("T")
log = logging.getLogger("kling_async")

_APPLICATION = 0x4B4C4E47  # "KLNG"; marks the file as ours
_GROUP = 500  # operations in one transaction at most
_AT_ONCE = 50  # tasks woken in one turn of the event loop
_BUSY = 5.0  # s for which a commit waits for somebody else's look at the file
_PROBE = 0.25  # s for which an owner to be waits for somebody else's look at the lock

_DIED = "the process ended while it was being sent"

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE submissions (
            key TEXT PRIMARY KEY, purchase TEXT NOT NULL UNIQUE, endpoint TEXT NOT NULL, request TEXT NOT NULL,
            fingerprint TEXT NOT NULL, started REAL NOT NULL, state TEXT NOT NULL, ref TEXT, reason TEXT)""",
        "CREATE INDEX submissions_by_ref ON submissions (ref) WHERE ref IS NOT NULL",
        """CREATE TABLE events (
            ref TEXT NOT NULL, seq INTEGER NOT NULL, terminal INTEGER NOT NULL, event BLOB NOT NULL,
            PRIMARY KEY (ref, seq))""",
        """CREATE TABLE files (
            ref TEXT NOT NULL, position INTEGER NOT NULL, path TEXT NOT NULL, PRIMARY KEY (ref, position))""",
        "CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    ),
)
"""One entry a version of the file; ``user_version`` counts those that have been applied."""

_COLUMNS = """s.key, s.purchase, s.endpoint, s.request, s.fingerprint, s.started, s.state, s.ref, s.reason,
    (SELECT event FROM events WHERE ref = s.ref ORDER BY seq DESC LIMIT 1),
    (SELECT json_group_array(path) FROM (SELECT path FROM files WHERE ref = s.ref ORDER BY position))"""
_UNFINISHED = """s.state IN ('sending', 'unknown') OR (s.state = 'accepted' AND NOT EXISTS
    (SELECT 1 FROM events WHERE ref = s.ref AND terminal))"""


Kind = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
"""What is done for all operations of a kind at once: takes their arguments, gives their results."""


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
        path: The file; it is made if need be, readable by its owner only. Its directory must exist.
        keep_images: Keep inline images as they are (a third larger), so that such requests can be submitted again
            after a restart without giving them again. Otherwise they are kept as a digest.
    """

    def __init__(self, path: str | os.PathLike[str], *, keep_images: bool = False) -> None:
        self.path = Path(path).absolute()  # the working directory may change before it is opened
        self.keep_images = keep_images
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<SqliteLedger {self.path}{' closed' if self._closed else ''}>"

    async def begin(self, submission: Submission) -> Submission:
        """See `Ledger.begin`."""
        claimed: Submission = await self._perform(_begin, submission)
        return claimed

    async def settle(self, submission: Submission) -> None:
        """See `Ledger.settle`."""
        await self._perform(_settle, submission)

    async def record(self, ref: JobRef, events: Sequence[Event]) -> None:
        """See `Ledger.record`."""
        await self._perform(_record, (ref, events))

    async def saved(self, ref: JobRef, index: int, path: Path) -> None:
        """See `Ledger.saved`."""
        await self._perform(_saved, (str(ref), index, str(path)))

    async def find(
        self, *, key: str | None = None, purchase: str | None = None, ref: JobRef | None = None
    ) -> Submission | None:
        """See `Ledger.find`."""
        condition = "s.key = ?" if key is not None else "s.purchase = ?" if purchase is not None else "s.ref = ?"
        found = await self._read(partial(_select, condition=condition, value=str(key or purchase or ref)))
        return found[0] if found else None

    async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
        """See `Ledger.submissions`."""
        return await self._read(partial(_select, condition=_UNFINISHED if unfinished else "1"))

    async def events(self, ref: JobRef) -> list[Event]:
        """See `Ledger.events`."""

        def read(connection: sqlite3.Connection) -> list[Event]:
            rows = connection.execute("SELECT event FROM events WHERE ref = ? ORDER BY seq", (str(ref),))
            return [event_from_json(event) for (event,) in rows]

        return await self._read(read)

    async def keep(self, name: str, value: Any) -> None:
        """See `Ledger.keep`."""
        await self._perform(_keep, (name, json.dumps(value)))

    async def kept(self, name: str) -> Any:
        """See `Ledger.kept`."""

        def read(connection: sqlite3.Connection) -> Any:
            row = connection.execute("SELECT value FROM kept WHERE name = ?", (name,)).fetchone()
            return json.loads(row[0]) if row else None

        return await self._read(read)

    async def aclose(self) -> None:
        """Finish what is queued, close the file and give it free. Closing twice is harmless."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(thread.join)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Let the thread do any work with the connection."""
        return cast("T", await self._perform(_each, work))

    async def _perform(self, kind: Kind, argument: Any) -> Any:
        """Let the thread do something, and wait until it is durable."""
        if self._closed:
            raise ConfigurationError(f"the ledger {self.path} is closed; make a new one")
        if self._thread is None:
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
        """The thread: group after group, until told to stop."""
        file: _File | None = None
        stop = False
        while not stop:
            group = self._next_group()
            operations = [operation for operation in group if operation is not None]
            stop = len(operations) < len(group)
            try:
                if operations:
                    file = file or _File(self.path)
                    file.commit(operations)
            except Exception as error:  # noqa: BLE001  # whatever it is, the tasks that wait must hear of it
                for operation in operations:
                    operation.error = _explained(self.path, error)
                if file is not None:
                    file.close()
                    file = None  # the next group opens it anew
            _answer(operations)
        if file is not None:
            file.close()

    def _next_group(self) -> list[_Operation | None]:
        """What is queued, up to the size of a group; waits for the first."""
        group = [self._queue.get()]
        try:
            while len(group) < _GROUP and group[-1] is not None:
                group.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return group


class _File:
    """The open file: the connection that reads and writes it, and the one that holds the lock. Of one thread.

    Raises:
        ConfigurationError: It is owned by another process, or is not a ledger that this version can read.
        sqlite3.Error: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.parent.is_dir():
            raise ConfigurationError(f"the ledger {path} cannot be made: there is no directory {path.parent}")
        self._lock = sqlite3.connect(_lock_of(path), timeout=_PROBE, isolation_level=None)
        try:
            self._own()
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
            try:
                self._prepare(self._connection)
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            self._lock.close()
            raise

    def commit(self, operations: Sequence[_Operation]) -> None:
        """Do the operations in one transaction, or, where that fails, each in one of its own."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            by_kind: dict[Kind, list[_Operation]] = {}
            for operation in operations:
                by_kind.setdefault(operation.kind, []).append(operation)
            for kind, alike in by_kind.items():
                values = kind(self._connection, [operation.argument for operation in alike])
                for operation, value in zip(alike, values, strict=True):
                    operation.value = value
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001  # carried to the task that waits for it
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if len(operations) == 1:
                operations[0].error = _explained(self._path, error)
                return
            for operation in operations:
                self.commit([operation])

    def close(self) -> None:
        """Close the file and give it free."""
        with closing(self._lock), closing(self._connection):
            pass

    def _own(self) -> None:
        try:
            self._lock.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            owner = _owner(self._path)
            user, remedy = f"process {owner}" if owner else "another process", "Wait for it, end it"
            if owner == str(os.getpid()):
                user, remedy = "another client of this process", "Share that client, close it first"
            raise ConfigurationError(
                f"the ledger {self._path} is in use by {user}: a ledger belongs to one client at a time. {remedy}, "
                "or use another file"
            ) from None

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = _version(self._path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        for number, statements in enumerate(_MIGRATIONS[version:], version + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute("INSERT OR REPLACE INTO kept VALUES ('owner', ?)", (str(os.getpid()),))
        # Nobody else can be sending: we own the ledger. Whoever was sending died, and it is not known how far it came.
        connection.execute("UPDATE submissions SET state = 'unknown', reason = ? WHERE state = 'sending'", (_DIED,))
        connection.execute("COMMIT")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a ledger had when somebody looked.

    Attributes:
        submissions: All of them, in the order of their start.
        owner: The process that has it open (``"?"``: one that has not said yet); None: nobody has.
    """

    submissions: list[Submission]
    owner: str | None


async def inspect(path: Path) -> Contents:
    """Look into a ledger without owning it, also while another process does. Nothing is changed.

    What nobody is sending any more (its process ended) is told as unknown.

    Raises:
        ConfigurationError: There is no such file, or it is not a ledger that this version can read.
        LedgerFailed: It cannot be read.
    """

    def look() -> Contents:
        if not path.is_file():
            raise ConfigurationError(f"there is no ledger {path}")
        try:
            with closing(sqlite3.connect(_read_only(path), uri=True, timeout=_BUSY)) as connection:
                known = _version(path, connection)
                owner = (_owner(path) or "?") if _is_owned(path) else None
                submissions = _select(connection, "1") if known else []
        except sqlite3.Error as error:
            raise _explained(path, error) from error
        if owner is None:
            submissions = [_abandoned(submission) for submission in submissions]
        return Contents(submissions, owner)

    return await to_thread.run_sync(look)


def _lock_of(path: Path) -> Path:
    """The lock's file: one for a ledger, by whatever link it is reached."""
    whole = path.resolve()
    return whole.with_name(f"{whole.name}-lock")


def _read_only(path: Path) -> str:
    return f"{path.resolve().as_uri()}?mode=ro"


def _is_owned(path: Path) -> bool:
    """Whether a process holds the lock. To find out, it is taken for a moment, for which an owner to be waits."""
    if not _lock_of(path).exists():
        return False
    with closing(sqlite3.connect(_lock_of(path), timeout=0.0, isolation_level=None)) as lock:
        try:
            lock.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            return error.sqlite_errorcode == sqlite3.SQLITE_BUSY  # anything else: it is not ours to take
        lock.execute("ROLLBACK")
    return False


def _abandoned(submission: Submission) -> Submission:
    """The submission as its ledger tells it once nobody is sending it any more."""
    if submission.state is not SubmissionState.SENDING:
        return submission
    return replace(submission, state=SubmissionState.UNKNOWN, reason=_DIED)


def _version(path: Path, connection: sqlite3.Connection) -> int:
    """The version of the file; 0: it is new.

    Raises:
        ConfigurationError: It is no ledger, or of a version that this one does not know.
    """
    version, application = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("user_version", "application_id")
    )
    if application != _APPLICATION and connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise ConfigurationError(f"{path} is a database, but not a ledger; choose another file")
    if version > len(_MIGRATIONS):
        raise ConfigurationError(f"the ledger {path} was written by a newer version of kling_async; upgrade this one")
    return int(version)


def _begin(connection: sqlite3.Connection, submissions: Sequence[Submission]) -> Sequence[Submission]:
    rows = [
        (s.key, s.purchase, s.endpoint, json.dumps(s.request), s.fingerprint, s.started.timestamp(), s.state)
        for s in submissions
    ]
    connection.execute(
        f"""INSERT INTO submissions SELECT {_fields(7)}, NULL, NULL FROM json_each(?) WHERE 1
            ON CONFLICT (key) DO UPDATE SET (purchase, endpoint, request, fingerprint, started, state, ref, reason) =
            (excluded.purchase, excluded.endpoint, excluded.request, excluded.fingerprint, excluded.started,
            excluded.state, NULL, NULL) WHERE submissions.state IN ('not-submitted', 'refused')""",  # noqa: S608  # constants
        (json.dumps(rows),),
    )
    taken = _select(
        connection,
        "s.purchase != json_extract(value, '$[1]')",
        json.dumps([(s.key, s.purchase) for s in submissions]),
        source="json_each(?) CROSS JOIN submissions s ON s.key = json_extract(value, '$[0]')",
    )
    held = {submission.key: submission for submission in taken}
    return [held.get(s.key, s) for s in submissions]


def _settle(connection: sqlite3.Connection, submissions: Sequence[Submission]) -> Sequence[None]:
    # By purchase, too: a claim that is not the key's any more must not push out the word about the one that is.
    last = {
        (s.key, s.purchase): (s.key, s.purchase, s.state, str(s.ref) if s.ref else None, s.reason) for s in submissions
    }
    connection.execute(
        f"""UPDATE submissions SET state = new.c2, ref = new.c3, reason = new.c4
            FROM (SELECT {_fields(5, named=True)} FROM json_each(?)) AS new
            WHERE submissions.key = new.c0 AND submissions.purchase = new.c1""",  # noqa: S608  # constants
        (json.dumps(list(last.values())),),
    )
    return [None] * len(submissions)


def _record(connection: sqlite3.Connection, entries: Sequence[tuple[JobRef, Sequence[Event]]]) -> Sequence[None]:
    rows = [(str(ref), e.seq, e.status.terminal, event_to_json(e)) for ref, events in entries for e in events]
    statement = f"INSERT OR IGNORE INTO events SELECT {_fields(4)} FROM json_each(?)"  # noqa: S608  # constants
    connection.execute(statement, (json.dumps(rows),))
    return [None] * len(entries)


def _saved(connection: sqlite3.Connection, rows: Sequence[tuple[str, int, str]]) -> Sequence[None]:
    connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
    return [None] * len(rows)


def _keep(connection: sqlite3.Connection, rows: Sequence[tuple[str, str]]) -> Sequence[None]:
    connection.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", rows)
    return [None] * len(rows)


def _each(connection: sqlite3.Connection, works: Sequence[Callable[[sqlite3.Connection], Any]]) -> Sequence[Any]:
    return [work(connection) for work in works]


def _fields(count: int, *, named: bool = False) -> str:
    """The columns of a JSON array of rows."""
    return ", ".join(f"json_extract(value, '$[{i}]')" + (f" AS c{i}" if named else "") for i in range(count))


def _select(
    connection: sqlite3.Connection, condition: str, value: str | None = None, *, source: str = "submissions s"
) -> list[Submission]:
    """Submissions by a condition of ours, with at most one value in it."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM {source} WHERE {condition} ORDER BY s.started, s.rowid",  # noqa: S608  # constants
        () if value is None else (value,),
    )
    return [_submission(*row) for row in rows]


def _submission(key: str, purchase: str, endpoint: str, request: str, fingerprint: str, *rest: Any) -> Submission:
    started, state, ref, reason, latest, files = rest
    try:
        return Submission(
            key=key,
            endpoint=endpoint,
            request=json.loads(request),
            fingerprint=fingerprint,
            purchase=purchase,
            started=datetime.fromtimestamp(started, UTC),
            state=SubmissionState(state),
            ref=JobRef.parse(ref) if ref else None,
            reason=reason,
            latest=event_from_json(latest) if latest else None,
            files=tuple(Path(path) for path in json.loads(files)),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LedgerFailed(
            f"the ledger's record of {key!r:.200} cannot be read ({error}): the file is damaged, or was changed by "
            "something else. Restore it from a copy, or use another one"
        ) from error


def _owner(path: Path) -> str | None:
    """The process that owns the file, as it wrote there itself."""
    try:
        with closing(sqlite3.connect(_read_only(path), uri=True, timeout=1.0)) as connection:
            return str(connection.execute("SELECT value FROM kept WHERE name = 'owner'").fetchone()[0])
    except (sqlite3.Error, TypeError):
        return None  # it was opened a moment ago, and has written nothing yet


def _explained(path: Path, error: Exception) -> Exception:
    """The error for one task that waits."""
    if isinstance(error, KlingError):
        return type(error)(error.message)
    if not isinstance(error, sqlite3.Error | OSError):
        return error
    remedy = "check the file, or use another one"
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        remedy = "free some space and try again"
    failure = LedgerFailed(f"the ledger {path} cannot be used: {error}. Nothing is submitted without it; {remedy}")
    failure.__cause__ = error
    return failure


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

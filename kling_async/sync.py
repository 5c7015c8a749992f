"""The client without ``await``: for scripts, threads and notebooks.

::

    from kling_async import runblob
    from kling_async.sync import Client

    with Client() as client:
        job = client.submit(runblob.O3Video("a paper boat in the rain"))
        for event in job:
            print(event.status)
        print(job.result().save("out"))

Every method is the one of `kling_async.Client` (`Job`, `Result`, ...) that has its name, with the same arguments and
errors. It blocks its thread until the answer is there. The event loop runs in a thread of its own, which starts with
the first call and ends with `Client.close`. Any number of threads may use one client. A call that is interrupted by
Ctrl-C is cancelled like a task: a paid call that was sent first waits for its answer, for ``Limits.cancel_grace``
seconds at most.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial, wraps
from inspect import iscoroutinefunction
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, NoReturn, ParamSpec, Self, TypeVar

from anyio import to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import ValidationError

import kling_async
from kling_async._errors import ConfigurationError, KlingError, Remedy
from kling_async._event_loop.guard import LoopGuard
from kling_async._ledger.protocol import Ledger
from kling_async._models import Choice, Cost, Event, EventLog, Failure, JobRef, Status
from kling_async.providers._base.request import Request
from kling_async.webhooks import Webhooks

__all__ = ["Artifact", "BulkRun", "Client", "Job", "Outcome", "Result"]

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")
A = TypeVar("A")

_END = object()


class _Thread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._guard = LoopGuard()
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._thread: int | None = None
        self.closed = False

    def portal(self) -> BlockingPortal:
        """The way into the thread, which starts if need be.

        Raises:
            ConfigurationError: The client is closed, or this is another process, or the thread itself.
        """
        self._guard.require_process()
        with self._lock:
            if self.closed:
                raise _closed()
            if self._portal is None:
                self._portal = self._stack.enter_context(start_blocking_portal("asyncio", name="kling_async"))
                self._thread = self._portal.call(threading.get_ident)
        if threading.get_ident() == self._thread:
            raise ConfigurationError(
                "the synchronous client was called on its own thread, which runs its calls",
                remedies=(Remedy("configure", detail="hand the work to another thread, for example through a queue"),),
            )
        return self._portal

    def close(self, client: kling_async.Client) -> None:
        """Close the client, and end the thread. Calls under way in other threads end with an error."""
        if self._guard.forked:
            return
        with self._lock:
            closed, self.closed = self.closed, True
            portal, self._portal = self._portal, None
        if closed or portal is None:
            return
        with self._stack, suppress(RuntimeError):  # it has ended with the interpreter
            portal.call(client.aclose)
            portal.call(portal.stop, True)  # noqa: FBT003  # an argument of anyio: cancel what still runs

    def dispose(self, client: kling_async.Client) -> None:
        """Close a client that nobody uses any more."""
        if threading.get_ident() == self._thread:  # the garbage collector may run on any thread
            threading.Thread(target=self.close, args=(client,), daemon=True).start()
        else:
            self.close(client)


class _Loop:
    """Calls coroutines of a client on the event loop of its thread.

    The client and all that came from it have this object. When the last of them is gone, the client is closed: a
    result can be saved though nobody kept the client.
    """

    def __init__(self, client: kling_async.Client) -> None:
        self._client = client
        self._thread = _Thread()
        weakref.finalize(self, self._thread.dispose, client)

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Call a coroutine function there, and wait for what it returns."""
        portal = self.portal()
        ended = threading.Event()

        async def run() -> T:
            try:
                return await function()
            finally:
                ended.set()

        try:
            future = portal.start_task_soon(run)
        except RuntimeError as error:
            raise _closed() from error
        try:
            return future.result()
        except CancelledError:
            raise _closed() from None
        except KlingError as error:
            _with_job(self, error)
            raise
        finally:
            if future.cancel():  # Ctrl-C, while the call was under way
                ended.wait()

    def portal(self) -> BlockingPortal:
        """The way into the thread. See `_Thread.portal`."""
        return self._thread.portal()

    def close(self) -> None:
        """Close the client. See `_Thread.close`."""
        self._thread.close(self._client)


class _Handle(Generic[A]):
    """Something that belongs to an asynchronous client, and the event loop on which it is called."""

    __slots__ = ("_inner", "_loop")

    def __init__(self, loop: _Loop, inner: A) -> None:
        self._loop = loop
        self._inner = inner

    def __eq__(self, other: object) -> bool:
        return bool(self._inner == other._inner) if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._inner)

    def __repr__(self) -> str:
        return repr(self._inner)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} of the synchronous client cannot be pickled; pickle the job's ref")


class _Same(Generic[T]):
    """An attribute with the value that the asynchronous object has under the same name.

    Args:
        wrap: Makes a synchronous object of the value.
    """

    def __init__(self, wrap: Callable[[_Loop, Any], T] | None = None) -> None:
        self._wrap = wrap

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, handle: _Handle[Any] | None, owner: type) -> T:
        if handle is None:
            return self  # type: ignore[return-value]  # as a property does on its class
        value = getattr(handle._inner, self._name)  # noqa: SLF001  # a part of the handle
        if self._wrap is None or value is None:
            return value  # type: ignore[no-any-return]  # the type in the annotation of the attribute
        return self._wrap(handle._loop, value)  # noqa: SLF001  # the same


def _blocking(
    method: Callable[Concatenate[Any, P], Awaitable[T]], wrap: Callable[[_Loop, T], R]
) -> Callable[Concatenate[Any, P], R]:
    """Return the method of that name which waits for the answer."""

    @wraps(method)
    def call(self: _Handle[Any], /, *args: P.args, **kwargs: P.kwargs) -> R:
        return wrap(self._loop, self._loop.call(partial(method, self._inner, *args, **kwargs)))

    return call


def _immediate(
    method: Callable[Concatenate[Any, P], T], wrap: Callable[[_Loop, T], R]
) -> Callable[Concatenate[Any, P], R]:
    """Return the method of that name which makes no call. It runs on the event loop like all others."""

    async def run(inner: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return method(inner, *args, **kwargs)

    return wraps(method)(_blocking(run, wrap))


def _same_arguments(
    method: Callable[Concatenate[Any, P], Any],
) -> Callable[[Callable[..., R]], Callable[Concatenate[Any, P], R]]:
    """Give a function the arguments of that method, for type checkers and `help`."""

    def decorate(function: Callable[..., R]) -> Callable[Concatenate[Any, P], R]:
        return wraps(method, assigned=())(function)

    return decorate


def _plain(_: _Loop, value: T) -> T:
    return value


def _jobs(loop: _Loop, jobs: Iterable[kling_async.Job]) -> list[Job]:
    return [Job(loop, job) for job in jobs]


def _artifacts(loop: _Loop, artifacts: Iterable[kling_async.Artifact]) -> tuple[Artifact, ...]:
    return tuple(Artifact(loop, artifact) for artifact in artifacts)


def _with_job(loop: _Loop, error: T) -> T:
    """Return the error with a synchronous job, if it has a job."""
    if isinstance(error, KlingError) and isinstance(job := getattr(error, "job", None), kling_async.Job):
        error.job = Job(loop, job)  # type: ignore[attr-defined]  # of the errors that have one
    return error


def _closed() -> ConfigurationError:
    return ConfigurationError("the client is closed; make a new one")


def _pieces(loop: _Loop, source: AsyncIterator[T]) -> Iterator[T]:
    """Yield what an asynchronous iterator yields."""
    try:
        while (piece := loop.call(partial(anext, source, _END))) is not _END:
            yield piece
    finally:
        if isinstance(source, AsyncGenerator):
            with suppress(ConfigurationError):  # the client was closed meanwhile
                loop.call(source.aclose)


def _rows(rows: Any) -> Any:
    """Return the rows of a bulk run. Those of a generator are pulled in a thread, because it may block."""
    lazy = isinstance(rows, Iterable) and not isinstance(rows, Sized | Request)
    return _pulled(iter(rows)) if lazy else rows


async def _pulled(rows: Iterator[T]) -> AsyncIterator[T]:
    while (row := await to_thread.run_sync(next, rows, _END, abandon_on_cancel=True)) is not _END:
        yield row  # type: ignore[misc]  # the end is not one


class _Account:
    """What an account has besides jobs, such as ``client.kling``. Its methods block."""

    def __init__(self, loop: _Loop, inner: Any) -> None:
        self._loop = loop
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if iscoroutinefunction(found):
            return wraps(found)(lambda *args, **kwargs: self._loop.call(partial(found, *args, **kwargs)))
        return found if callable(found) else _Account(self._loop, found)


class Artifact(_Handle[kling_async.Artifact]):
    """One file that a job made. See `kling_async.Artifact`."""

    __slots__ = ()

    kind = _Same[str]()
    url = _Same[str | None]()
    data = _Same[bytes | None]()
    id = _Same[str | None]()
    seed = _Same[int | None]()
    expires = _Same[Any]()
    flagged = _Same[bool | None]()
    index = _Same[int]()
    save = _blocking(kling_async.Artifact.save, _plain)
    read = _blocking(kling_async.Artifact.read, _plain)

    def stream(self) -> Iterator[bytes]:
        """Download the file and iterate over its content. See `kling_async.Artifact.stream`."""
        return _pieces(self._loop, self._inner.stream())


class Result(_Handle[kling_async.Result]):
    """Outcome of a completed job. See `kling_async.Result`."""

    __slots__ = ()

    ref = _Same[JobRef]()
    artifacts = _Same(_artifacts)
    cost = _Same[Cost | None]()
    failures = _Same[tuple[Failure, ...]]()
    raw = _Same[Any]()
    balance = _Same[Cost | None]()
    files = _Same[tuple[Any, ...]]()
    urls = _Same[list[str]]()
    save = _blocking(kling_async.Result.save, _plain)

    def _repr_html_(self) -> str:
        return self._inner._repr_html_()


class Job(_Handle[kling_async.Job]):
    """Handle to one generation: ``job.result()`` waits for its end, ``for event in job`` yields its events.

    See `kling_async.Job`.
    """

    __slots__ = ()

    ref = _Same[JobRef]()
    key = _Same[str | None]()
    tags = _Same[Mapping[str, str]]()
    request = _Same[Request | None]()
    status = _Same[Status]()
    events = _Same[EventLog]()
    cost = _Same[Cost | None]()
    choice = _Same[Choice | None]()
    refunded = _Same[bool]()
    result = _blocking(kling_async.Job.result, Result)
    wait = _blocking(kling_async.Job.wait, _plain)
    refresh = _blocking(kling_async.Job.refresh, _plain)
    cancel = _blocking(kling_async.Job.cancel, _plain)

    def __iter__(self) -> Iterator[Event]:
        """Yield every event from the first on. It ends after the terminal one."""
        return self._pieces(aiter)

    def _pieces(self, over: Callable[[kling_async.Job], AsyncIterator[Any]]) -> Iterator[Any]:
        return _pieces(self._loop, over(self._inner))

    def _repr_html_(self) -> str:
        return self._inner._repr_html_()


class Outcome(_Handle[kling_async.Outcome]):
    """One row of a bulk run. See `kling_async.Outcome`."""

    __slots__ = ()

    index = _Same[int]()
    key = _Same[str | None]()
    tags = _Same[Mapping[str, str]]()
    request = _Same[Request]()
    job = _Same[Job | None](Job)
    result = _Same[Result | None](Result)
    error = _Same[KlingError | ValidationError | None](_with_job)
    new = _Same[bool]()
    files = _Same[tuple[Any, ...]]()


class BulkRun(_Handle[kling_async.BulkRun]):
    """A bulk run: ``with client.map(requests) as outcomes: for outcome in outcomes: ...``.

    See `kling_async.BulkRun`.
    """

    __slots__ = ("_block",)

    _block: AbstractContextManager[Any]

    stop = _immediate(kling_async.BulkRun.stop, _plain)
    statistics = _immediate(kling_async.BulkRun.statistics, _plain)

    def _repr_html_(self) -> str:
        try:
            return _immediate(kling_async.BulkRun._repr_html_, _plain)(self)
        except ConfigurationError:  # the client is closed, so the run has ended
            return self._inner._repr_html_()

    def __enter__(self) -> Self:
        self._block = self._loop.portal().wrap_async_context_manager(self._inner)
        self._block.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._block.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[Outcome]:
        return self._pieces(aiter)

    def _pieces(self, over: Callable[[kling_async.BulkRun], AsyncIterator[Any]]) -> Iterator[Any]:
        """Yield the outcomes that `over` yields, and what else it yields."""
        for piece in _pieces(self._loop, over(self._inner)):
            yield Outcome(self._loop, piece) if isinstance(piece, kling_async.Outcome) else piece


class Client(_Handle[kling_async.Client]):
    """Submits generations and waits for them. See `kling_async.Client`: the arguments, methods and errors are the same.

    ``with Client() as client`` closes it at the end of the block, as does `close`. Any number of threads may use it.
    """

    __slots__ = ()

    @_same_arguments(kling_async.Client.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        client = kling_async.Client(*args, **kwargs)
        super().__init__(_Loop(client), client)

    def __enter__(self) -> Self:
        self._loop.portal()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and the ledger, and end the thread. Jobs go on at their providers.

        Paid calls that were sent are waited for, for ``Limits.cancel_grace`` seconds at most. Other calls under way in
        other threads end with a `ConfigurationError`. Closing twice is harmless.
        """
        self._loop.close()

    submit = _blocking(kling_async.Client.submit, Job)
    run = _blocking(kling_async.Client.run, Result)
    attach = _immediate(kling_async.Client.attach, Job)
    resume = _blocking(kling_async.Client.resume, _jobs)
    all_jobs = _blocking(kling_async.Client.all_jobs, _jobs)
    unresolved = _blocking(kling_async.Client.unresolved, _plain)
    resolve = _blocking(kling_async.Client.resolve, Job)
    forget = _blocking(kling_async.Client.forget, _plain)
    resubmit = _blocking(kling_async.Client.resubmit, Job)
    estimate = _blocking(kling_async.Client.estimate, _plain)
    quote = _blocking(kling_async.Client.quote, _plain)
    deliver = _blocking(kling_async.Client.deliver, _plain)
    follow = _blocking(kling_async.Client.follow, _plain)
    ledger = _Same[Ledger | None]()
    webhooks = _Same[Webhooks | None]()
    jobs = _Same(lambda loop, jobs: tuple(_jobs(loop, jobs)))
    statistics = _immediate(kling_async.Client.statistics, _plain)

    @_same_arguments(kling_async.Client.map)
    def map(self, requests: Any, **options: Any) -> BulkRun:
        """Generate many: ``with client.map(requests) as outcomes: for outcome in outcomes: ...``.

        See `kling_async.Client.map`. Rows of a generator are pulled in a thread of their own, so it may itself block,
        or use this client.
        """

        async def prepare() -> kling_async.BulkRun:
            return self._inner.map(_rows(requests), **options)

        return BulkRun(self._loop, self._loop.call(prepare))

    if not TYPE_CHECKING:  # as in the asynchronous client

        def __getattr__(self, name: str) -> Any:
            """The account of the provider of that name, such as `client.kling`, where it has more than jobs."""
            if name.startswith("_"):
                raise AttributeError(name)
            return _Account(self._loop, getattr(self._inner, name))

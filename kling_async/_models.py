"""What a job is made of: its reference, its statuses, reports and events, and its result."""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from kling_async._records import record

__all__ = [
    "Artifact",
    "Choice",
    "Cost",
    "Event",
    "EventLog",
    "Failure",
    "JobRef",
    "Progress",
    "Result",
    "Saver",
    "Source",
    "Status",
    "StatusReport",
]

Source = Literal["submit", "poll", "stream", "webhook", "ledger"]
"""Where an event was learned from."""

Progress = Callable[[int, int | None], None]
"""Called while a file is saved, with the bytes so far and the bytes in all (None if unknown)."""


class Status(enum.StrEnum):
    """Where a job stands. The last three are terminal."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    terminal: bool
    """Whether the job has ended."""

    def __init__(self, value: str) -> None:
        self.terminal = value not in {"pending", "processing"}  # asked thirty times a job


class JobRef(str):
    """Reference of a job as plain text, ``provider/endpoint/id``. It stays valid after the process has ended.

    It is that text: it may be compared with it, put into JSON, a database or a log.

    Args:
        provider: Such as ``"runblob"``.
        endpoint: Such as ``"o3-video"``.
        id: The provider's own id of the job.

    Raises:
        ValueError: The parts do not make an address.
    """

    __slots__ = ()
    __match_args__ = ("provider", "endpoint", "id")

    def __new__(cls, provider: str, endpoint: str, id: str) -> Self:  # noqa: A002  # the provider's own word for it
        # The id goes into URLs and file names, so anything that could change their meaning is refused here.
        # An id that is no text (a provider's null, say) would spell one.
        text = f"{provider}/{endpoint}/{id}"
        given: tuple[Any, ...] = provider, endpoint, id
        texts = isinstance(given[0], str) and isinstance(given[1], str) and isinstance(given[2], str)
        if not (texts and _REF.fullmatch(text)):
            raise ValueError(_NO_REF.format(text))
        return super().__new__(cls, text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """As a field of a pydantic model, or of a FastAPI answer, it is the text."""
        from pydantic_core import core_schema  # noqa: PLC0415  # results are read without pydantic

        return core_schema.no_info_after_validator_function(cls.of, core_schema.str_schema())

    def __reduce__(self) -> tuple[type[JobRef], tuple[str, str, str]]:
        return JobRef, (self.provider, self.endpoint_id, self.id)

    def __repr__(self) -> str:
        return f"JobRef({self.provider!r}, {self.endpoint_id!r}, {self.id!r})"

    @property
    def provider(self) -> str:
        """Such as ``"runblob"``."""
        return self.partition("/")[0]

    @property
    def endpoint_id(self) -> str:
        """Such as ``"o3-video"``."""
        return self.split("/")[1]

    @property
    def id(self) -> str:
        """The provider's own id of the job."""
        return self.rpartition("/")[2]

    @property
    def endpoint(self) -> str:
        """The endpoint's full name, ``provider/endpoint``."""
        return self.rpartition("/")[0]

    @classmethod
    def parse(cls, text: str) -> JobRef:
        """The reference that `text` spells.

        Raises:
            ValueError: It does not have the form ``provider/endpoint/id``.
        """
        parts = text.strip().split("/")
        if len(parts) != 3:  # noqa: PLR2004  # provider, endpoint, id
            raise ValueError(_NO_REF.format(text))
        return cls(*parts)

    @classmethod
    def of(cls, ref: JobRef | str) -> JobRef:
        """`ref` itself, or the reference that it spells.

        Raises:
            ValueError: It does not have the form ``provider/endpoint/id``.
            TypeError: It is neither text nor a reference.
        """
        if isinstance(ref, JobRef):
            return ref
        if not isinstance(ref, str):
            raise TypeError(f"a job is named by its reference (job.ref) or the text of it, not by {ref!r:.80}")
        return cls.parse(ref)


_NO_REF = (
    "{!r:.200} is not a job reference; one looks like provider/endpoint/id, "
    "for example runblob/o3-video/550e8400-e29b-41d4-a716-446655440000"
)
_REF = re.compile(r"[a-z0-9]+/[a-z0-9][a-z0-9-]*/(?!\.)[A-Za-z0-9._:~+|=@,-]{1,500}")


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount of money: what a job cost, or what an account has left.

    Attributes:
        amount: How much.
        unit: ``"USD"`` or the provider's own ``"credits"``.
    """

    amount: Decimal
    unit: Literal["USD", "credits"]

    @classmethod
    @lru_cache(maxsize=256)  # thousands of jobs of one price share it
    def parse(cls, text: str, unit: Literal["USD", "credits"]) -> Cost | None:
        """The amount that `text` spells, or None if it is no finite number."""
        try:
            amount = Decimal(text)
        except InvalidOperation:
            return None
        return cls(amount, unit) if amount.is_finite() else None

    def __str__(self) -> str:
        """The amount without unneeded zeros: ``$0.60``, ``$0.056`` or ``3 credits``."""
        least = Decimal("0.01") if self.unit == "USD" else Decimal(1)
        amount = self.amount.normalize() + least - least  # back from 5E+1
        if self.unit == "USD":
            return f"${amount}"
        return f"{amount} {'credit' if amount == 1 else 'credits'}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job, or one file of it, was not made.

    Attributes:
        code: The provider's word, such as ``"TIMEOUT"``, ``"unknown"`` where it gave none.
        message: The provider's explanation, if any.
        retryable: Whether submitting the same request again may succeed. If None, the code does not decide that.
    """

    code: str
    message: str | None = None
    retryable: bool | None = None

    def __str__(self) -> str:
        if not self.message:
            return self.code
        return self.message if self.message.startswith(self.code) else f"{self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which endpoint was chosen to make a portable request, and why.

    Attributes:
        endpoint: Its full name.
        reason: Its rank among those that make it, its price and its usual time.
        passed_over: Endpoints that were tried or considered before, each with the reason why it did not take it.
    """

    endpoint: str
    reason: str
    passed_over: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        before = "; ".join(f"{endpoint} did not take it ({reason})" for endpoint, reason in self.passed_over)
        return f"{self.endpoint}: {self.reason}{f'; {before}' if before else ''}"


class Saver(Protocol):
    """Downloads an artifact and writes it to disk. The job of the artifact provides it."""

    async def save(
        self,
        artifact: Artifact,
        target: str | Path,
        *,
        directory: bool,
        progress: Progress | None,
        name: str | None = None,
    ) -> Path | str:
        """Save to the file `target`, or into `target` as a directory (made if need be), or to an object store.

        There, it is named after the job, or by the template `name`.
        """
        ...

    async def read(self, artifact: Artifact) -> bytes:
        """Return the content of the whole file."""
        ...

    def stream(self, artifact: Artifact) -> AsyncIterator[bytes]:
        """Return the content of the whole file, piece by piece."""
        ...


class _Savable:
    """Holds how an artifact is saved. It is no field: a pickle and ``dataclasses.asdict`` are without it."""

    __slots__ = ("_saver",)

    _saver: Saver


@dataclass(frozen=True, slots=True, repr=False)
class Artifact(_Savable):
    """One file that a job made.

    It may be pickled, and travels without the connection it would be saved over: what was pickled cannot `save`, but
    ``await client.attach(result.ref)`` gives a result that can.

    Attributes:
        kind: ``"image"``, ``"video"`` or ``"audio"``.
        url: Where the file is, until it expires, or None when the provider sent the file itself.
        data: The file itself, where the provider sent it inline.
        id: The provider's id of the file, if it has one.
        seed: The seed it was made from, if reported.
        expires: When the URL is documented to stop working, or None if not documented.
        flagged: Whether the provider's safety check marked it, or None if not checked.
        index: Its position among the job's files, from 0.
    """

    kind: Literal["image", "video", "audio"]
    url: str | None = None
    data: bytes | None = field(default=None, repr=False)
    id: str | None = None
    seed: int | None = None
    expires: datetime | None = None
    flagged: bool | None = None
    index: int = 0

    def __repr__(self) -> str:
        return f"<Artifact {self.index}: {self.kind} {f'of {len(self.data)} bytes' if self.data else self.url}>"

    def saved_by(self, saver: Saver) -> Self:
        """The same artifact, ready to save."""
        ready = type(self)(*self._facts())
        object.__setattr__(ready, "_saver", saver)  # frozen for users
        return ready

    def __deepcopy__(self, memo: object) -> Artifact:
        return self  # nothing in it changes

    def __reduce__(self) -> tuple[Any, ...]:
        # What saves it belongs to its process.
        return Artifact, self._facts()

    def _facts(self) -> tuple[Any, ...]:
        return self.kind, self.url, self.data, self.id, self.seed, self.expires, self.flagged, self.index

    @property
    def identity(self) -> object:
        """What makes it the same file when a provider names it twice."""
        return self.id or self.url or self.data

    async def save(self, path: str | Path, *, progress: Progress | None = None) -> Path | Any:
        """Download to `path`, on this machine or in an object store.

        The file appears under its name only when it is whole: it is written beside it, synced and renamed. One that the
        client's ledger knows to be in that directory, and that is still there, is not fetched again.

        Args:
            path: The file to write. An existing directory, or a path ending in ``/``: the file is named after
                the job and its real content type. ``s3://bucket/name``, ``gs://`` and ``az://`` (extra ``cloud``) are
                objects, also with ``/`` at the end.
            progress: Called with bytes so far and bytes in all.

        Returns:
            The path of the file. The URL (str) of an object.

        Raises:
            DownloadFailed: It could not be downloaded or written. The job is kept, and saving may be tried again.
            RuntimeError: It was pickled, or belongs to an event.
        """
        return await self._ready().save(self, path, directory=str(path).endswith("/"), progress=progress)

    async def _save(self, directory: str | Path, *, name: str | None, progress: Progress | None) -> Path | Any:
        return await self._ready().save(self, directory, directory=True, progress=progress, name=name)

    async def read(self) -> bytes:
        """Download the file into memory.

        It has the checks, limits and further attempts of `save`: what is returned is the whole file.

        Returns:
            The content of the file.

        Raises:
            DownloadFailed: It could not be had. The job is kept, and reading may be tried again.
            RuntimeError: It was pickled, or belongs to an event.
        """
        return await self._ready().read(self)

    def stream(self) -> AsyncIterator[bytes]:
        """Download the file and iterate over its content, such as to upload it to an object store.

        It has the checks, limits and further attempts of `save`. So the file is first downloaded as a whole, and no
        piece of a broken file is ever returned. A large file is kept in a temporary file without a name meanwhile.

        Returns:
            The content in pieces of at most 256 KiB.

        Raises:
            DownloadFailed: It could not be had. It is raised before the first piece.
            RuntimeError: It was pickled, or belongs to an event.
        """
        return self._ready().stream(self)

    def _ready(self) -> Saver:
        saver: Saver | None = getattr(self, "_saver", None)
        if saver is None:
            raise RuntimeError(
                "this artifact was pickled, or belongs to an event, so it has no client to be saved with; "
                "take it from the result of `await job`, or of `await client.attach(ref)` for the job's ref"
            )
        return saver


def _summary(artifacts: tuple[Artifact, ...], failures: tuple[Failure, ...], cost: Cost | None) -> str:
    """What was made, what was not, and what it cost, in a few words."""
    kinds = Counter(artifact.kind for artifact in artifacts)
    words = [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in kinds.items()]
    words += [f"failed: {failure.code}" for failure in failures]
    words += [str(cost)] if cost is not None else []
    return ", ".join(words)


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """Outcome of a completed job. It can be hashed and pickled. Same as an `Artifact`, a pickled one cannot `save`.

    Attributes:
        ref: The job's address.
        artifacts: The files it made.
        cost: What it cost, if the provider reports it.
        failures: Files that were asked for and not made (a partial success), empty otherwise.
        raw: The provider's last answer about the job, decoded, without the key and callback addresses.
        balance: What the account last had left, or None if the provider does not report it.
        files: Where ``client.run(request, save_to=...)`` saved the files: paths, or URLs (str) of objects.
    """

    ref: JobRef
    artifacts: tuple[Artifact, ...]
    cost: Cost | None = None
    failures: tuple[Failure, ...] = ()
    raw: Any = field(default=None, repr=False, hash=False)
    balance: Cost | None = None
    files: tuple[Path | Any, ...] = ()

    def __repr__(self) -> str:
        return f"<Result {self.ref}: {_summary(self.artifacts, self.failures, self.cost)}>"

    def _repr_html_(self) -> str:
        """For notebooks: the files that were saved, and links to the others. Nothing is fetched."""
        from kling_async._html import media, title  # noqa: PLC0415  # notebooks alone need it

        files: tuple[object, ...] = (*self.files, *(None,) * len(self.artifacts))
        shown = [media(made.kind, made.url, made.data, file) for made, file in zip(self.artifacts, files, strict=False)]
        return title(repr(self)) + "".join(shown)

    @property
    def urls(self) -> list[str]:
        """The URLs of the files. They expire, typically after a day."""
        return [artifact.url for artifact in self.artifacts if artifact.url is not None]

    async def save(
        self, directory: str | Path, *, name: str | None = None, progress: Progress | None = None
    ) -> list[Path | Any]:
        """Download every file into `directory`, which is made if need be.

        Into an object store, files are streamed without a temporary file. An object appears when it is whole. One that
        was saved from the same file before is not fetched again.

        Args:
            directory: Where to: a path, or ``s3://bucket/prefix``, ``gs://...`` or ``az://container/prefix`` (extra
                ``cloud``). The credentials are those of the environment.
            name: A template for the names of the files, without the extension, such as ``"{key}-{index}"``. ``{key}``
                is the key of the submission, ``{index}`` counts the files from 1, ``{id}`` and ``{endpoint}`` are the
                job's. Without ``{index}``, the second file and later ones get a number. Characters that file systems
                do not take become ``_``. A file of that name is replaced. If None, files are named after the job.
            progress: Called, file after file, with bytes so far and bytes in all.

        Returns:
            The paths, in the order of `artifacts`. URLs (str) of objects.

        Raises:
            DownloadFailed: One could not be downloaded or written. The job is kept, and saving may be tried again.
            ValueError: The template has another field, or is not the name of a file.
        """
        return [await artifact._save(directory, name=name, progress=progress) for artifact in self.artifacts]  # noqa: SLF001  # the same module


@record
class StatusReport:
    """What a provider reported about a job once. It may repeat, be late, or contradict what is known.

    Attributes:
        status: The status. None if the report has none that we understand.
        step: Order of the provider's own stages within a status. Higher is later.
        progress: Part done, 0.0 to 1.0, if reported.
        message: The provider's words on the stage or the end.
        artifacts: The files named.
        failures: Why the job, or some files of it, failed.
        cost: What it costs.
        lifetime: Seconds for which the files' URLs are documented to work.
        unrecognized: What in the answer was not understood, such as an unknown status word. It is logged.
        raw: The decoded answer.
        balance: What the account has left, if reported.
        choice: Why the endpoint was chosen. Only of the answer to a portable request.
        queue_position: How many jobs are ahead of it in the provider's queue, if reported.
        logs: The lines that the job has logged so far, if reported.
    """

    status: Status | None
    step: int = 0
    progress: float | None = None
    message: str | None = None
    artifacts: tuple[Artifact, ...] = ()
    failures: tuple[Failure, ...] = ()
    cost: Cost | None = None
    lifetime: float | None = None
    unrecognized: str | None = None
    raw: Any = field(default=None, repr=False, hash=False)
    balance: Cost | None = None
    choice: Choice | None = None
    queue_position: int | None = None
    logs: tuple[str, ...] = field(default=(), repr=False)

    @property
    def has_reason(self) -> bool:
        """Whether it gives a reason for a failure."""
        return any(failure.code != "unknown" or failure.message for failure in self.failures)


class EventLog(tuple["Event", ...]):
    """The events of a job, in order."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """For notebooks: one line for each event."""
        from kling_async._html import table  # noqa: PLC0415  # notebooks alone need it

        return table(
            [
                (
                    f"{event.elapsed:.0f} s",
                    event.status,
                    "" if event.progress is None else f"{event.progress:.0%}",
                    event.source,
                    event.message or "",
                )
                for event in self
            ],
        )


@dataclass(frozen=True, slots=True, repr=False)
class Event:
    """A change of a job, and the whole of what is known of the job after it.

    Attributes:
        seq: Number of the event within its job, from 0.
        status: Where the job stands.
        at: When we learned of it (aware, UTC).
        elapsed: Seconds since the job was submitted (since it was attached, where that is not known).
        source: Where we learned it from.
        progress: Part done, 0.0 to 1.0, if the provider reports it.
        message: The provider's words, if any.
        artifacts: The files made so far.
        failures: Why the job, or some files of it, failed.
        cost: What it costs, if reported.
        raw: The provider's answer that ended the job, decoded, without the key and callback addresses, None before.
        balance: What the account last had left, or None if the provider does not report it.
        choice: Why the endpoint was chosen. Only the first event of a portable request has it.
        queue_position: How many jobs are ahead of it in the provider's queue, if reported.
        logs: The lines that the job has logged so far, if reported.
    """

    seq: int
    status: Status
    at: datetime
    elapsed: float
    source: Source
    progress: float | None = None
    message: str | None = None
    artifacts: tuple[Artifact, ...] = ()
    failures: tuple[Failure, ...] = ()
    cost: Cost | None = None
    step: int = field(default=0, repr=False)
    raw: Any = field(default=None, repr=False, compare=False)
    balance: Cost | None = None
    choice: Choice | None = None
    queue_position: int | None = None
    logs: tuple[str, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        progress = f" {self.progress:.0%}" if self.progress is not None and not self.status.terminal else ""
        queue = f", {self.queue_position} ahead in the queue" if self.queue_position is not None else ""
        known = _summary(self.artifacts, self.failures, self.cost)
        message = f", {self.message[:80]!r}" if self.message else ""
        known = f", {known}" if known else ""
        when = f"after {self.elapsed:.1f} s ({self.source})"
        return f"<Event {self.seq}: {self.status}{progress} {when}{queue}{message}{known}>"

    def result(self, ref: JobRef, saver: Saver) -> Result:
        """The job's outcome, its artifacts ready to save."""
        artifacts = tuple(artifact.saved_by(saver) for artifact in self.artifacts)
        return Result(ref, artifacts, self.cost, self.failures, self.raw, self.balance)

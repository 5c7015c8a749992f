"""Saving and reading what a job made.

A file is downloaded to a temporary name beside its final one, synced, and renamed when it is whole and is an image, a
video or audio. No broken file ever stands under a final name. A transfer that breaks leaves its part, and the next one
continues it if the server still has the same version of the file. To an object store it is streamed without a temporary
file: see `kling_async._files.object_store`.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import to_thread

from kling_async._errors import DownloadFailed, KlingError
from kling_async._event_loop.clock import loop_time
from kling_async._exchange.calls import Reply
from kling_async._exchange.urls import Url
from kling_async._files.atomic import written_atomically
from kling_async._files.names import bounded_name, named
from kling_async._files.object_store import ObjectUpload, ObjectUrl, StoreFailed, destination, object_is, write_object
from kling_async._files.partial_file import PartialFile, Sink, Spool, TransferBroken, Version
from kling_async._http.backend import USER_AGENT, HttpBackend, PerLoopBackend
from kling_async._http.response import Response, read_body
from kling_async._http.throttle import retry_after
from kling_async._media.media_types import HEAD_BYTES, media_type
from kling_async._models import Artifact, JobRef, Progress
from kling_async._records import record

__all__ = ["Downloader", "Saved"]

log = logging.getLogger("kling_async")

_T = TypeVar("_T")

_MAX_BYTES = 2 * 1024**3  # larger than any clip on offer. A server that sends without end is stopped
_STALL = 60.0  # s without a byte
_OFTEN = 0.5  # s between two looks at the clock while bytes come: a time limit that is moved costs more than a byte
_SLOWEST = 20_000  # bytes a second, counted after the first minute. A slower transfer is broken off
_ATTEMPTS = 4
_FIRST_WAIT = 0.5  # s before the second attempt. It doubles from one attempt to the next
_LONGEST_WAIT = 60.0  # s that a server may ask to wait
_EARLY = 30.0  # s after the end of a job in which its file may still be on its way to the file store
_REDIRECTS = 5
_LONGEST_NAME = 128  # bytes, without the extension
_IN_MEMORY = 8 * 1024**2  # bytes of a stream that stay in memory
_PIECE = 256 * 1024  # bytes of a stream at once
_EXPIRED = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_REDIRECTED = frozenset(
    {
        HTTPStatus.MOVED_PERMANENTLY,
        HTTPStatus.FOUND,
        HTTPStatus.SEE_OTHER,
        HTTPStatus.TEMPORARY_REDIRECT,
        HTTPStatus.PERMANENT_REDIRECT,
    }
)
_PASSING = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
_LIKELY = {"image": (".png", ".jpg", ".webp"), "video": (".mp4",), "audio": (".mp3", ".wav")}
"""By kind of file the extensions under which an object that was saved before is looked for."""
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')


class _Expired(Exception):
    """The URL does not work.

    Attributes:
        missing: Whether the server has no such file, which may be the case for a moment after the end of a job.
        retry_after: Seconds that the server asks to wait. If None, it does not say.
    """

    def __init__(self, message: str, *, missing: bool, retry_after: float | None) -> None:
        super().__init__(message)
        self.missing = missing
        self.retry_after = retry_after


Saved = Callable[[JobRef, int, Path | str], Awaitable[None]]
"""Records that the file of a job with that index was saved there: its path, or the address of its object."""


@record
class Downloader:
    """Saves and reads the artifacts of one job.

    Args:
        engines: What downloads go through. It never carries credentials.
        ref: The job, after which files are named.
        local: Whether plain http to this machine is acceptable, because the provider itself is there (a sandbox).
        renew: Asks the provider for fresh artifacts when a URL has expired.
        saved: Records where each file was saved. If None, it is recorded nowhere.
        files: Returns where files of the job were saved before. If None, that is not known.
        key: The key of the job's submission, for templates of names.
        stem: The name of the file without its extension. If None, it is named after the job.
        ended: When the job ended. For half a minute a file that is missing is waited for. If None, it is not.
    """

    engines: PerLoopBackend
    ref: JobRef
    local: bool
    renew: Callable[[], Awaitable[tuple[Artifact, ...]]]
    saved: Saved | None = None
    files: Callable[[JobRef], Awaitable[Sequence[Path | str]]] | None = None
    ended: datetime | None = None
    key: str | None = None
    stem: str | None = None

    async def save(
        self,
        artifact: Artifact,
        target: str | Path,
        *,
        directory: bool,
        progress: Progress | None,
        name: str | None = None,
    ) -> Path | str:
        """See `kling_async._models.Saver`."""
        chosen = self if name is None else replace(self, stem=named(name, self.ref, self.key, artifact.index))
        place = destination(target)
        path: Path | str
        if isinstance(place, ObjectUrl):
            path = await chosen._save_object(artifact, place, directory, progress)  # noqa: SLF001  # a copy of this object
        else:
            path = await chosen._save(artifact, place, directory, progress)  # noqa: SLF001  # the same
        if self.saved is not None:
            with anyio.CancelScope(shield=True):
                await self.saved(self.ref, artifact.index, path)
        return path

    async def read(self, artifact: Artifact) -> bytes:
        """See `kling_async._models.Saver`."""
        if artifact.data is not None:
            return artifact.data
        return b"".join([piece async for piece in self._stream(artifact, 0)])

    def stream(self, artifact: Artifact) -> AsyncIterator[bytes]:
        """See `kling_async._models.Saver`."""
        return self._stream(artifact, _IN_MEMORY)

    async def _stream(self, artifact: Artifact, in_memory: int) -> AsyncIterator[bytes]:
        if (data := artifact.data) is not None:
            for place in range(0, len(data), _PIECE):
                yield data[place : place + _PIECE]
            return
        spool = Spool(in_memory)
        try:
            try:
                await self._attempted(artifact, partial(self._fill, spool=spool))
            except OSError as error:
                raise self._failed(
                    f"writing to a temporary file failed: {error.strerror or error}; free space in the folder for "
                    "temporary files"
                ) from error
            await spool.rewind()
            while piece := await spool.read(_PIECE):
                yield piece
        finally:
            spool.close()

    async def _there(self, artifact: Artifact, folder: Path) -> Path | None:
        """Return the file, if it was saved in that directory before and is still there."""
        known = await self.files(self.ref) if self.files is not None else ()
        for path in known:
            if isinstance(path, str):
                continue
            same = path.stem == self._stem(artifact) and path.parent == await anyio.Path(folder).absolute()
            if same and await anyio.Path(path).is_file():
                return folder / path.name
        return None

    async def _save(self, artifact: Artifact, target: Path, directory: bool, progress: Progress | None) -> Path:
        try:
            directory = directory or await anyio.Path(target).is_dir()
            if directory and (there := await self._there(artifact, target)) is not None:
                return there
            folder = target if directory else target.parent
            await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
            if artifact.data is not None:
                return await to_thread.run_sync(self._save_inline, artifact, target, directory)
            return await self._attempted(
                artifact, partial(self._fetch, target=target, directory=directory, progress=progress)
            )
        except OSError as error:
            raise self._failed(
                f"writing to {target} failed: {error.strerror or error}; free or choose another place"
            ) from error

    async def _save_object(
        self, artifact: Artifact, target: ObjectUrl, directory: bool, progress: Progress | None
    ) -> str:
        """Save to an object store, unless the object is there. It says itself which file of which job it is."""
        mark = f"{self.ref}#{artifact.index}"

        def named_after(extension: str) -> ObjectUrl:
            return target / f"{self._stem(artifact)}{extension}" if directory or not target.key else target

        try:
            for url in dict.fromkeys(named_after(extension) for extension in _LIKELY[artifact.kind]):
                if await object_is(url, mark):
                    return str(url)
            if (data := artifact.data) is not None:
                kind = media_type(data[:HEAD_BYTES])
                url = named_after(_extension(data[:HEAD_BYTES]) or ".bin")
                await write_object(url, data, kind.mime if kind else "application/octet-stream", mark)
                return str(url)
            async with ObjectUpload(lambda: named_after(self._recognised(artifact, upload)), mark) as upload:
                await self._attempted(artifact, partial(self._fill, spool=upload, progress=progress))
                return str(await upload.finish())
        except StoreFailed as error:
            raise self._failed(f"writing to {target} failed: {error.strerror}. Then save it again") from None

    def _save_inline(self, artifact: Artifact, target: Path, directory: bool) -> Path:
        data = artifact.data or b""
        path = self._final(artifact, target, directory, _extension(data[:HEAD_BYTES]))
        with written_atomically(path) as file:
            file.write(data)
        return path

    async def _attempted(self, artifact: Artifact, fetch: Callable[[Artifact], Awaitable[_T]]) -> _T:
        """Fetch until it succeeds: after a broken transfer, while the file is not there yet, and with a fresh URL.

        Raises:
            DownloadFailed: It failed for good.
            OSError: The disk failed.
        """
        now = datetime.now(UTC)
        early = min(max(_EARLY - (now - self.ended).total_seconds(), 0.0), _EARLY) if self.ended is not None else 0.0
        patience = anyio.current_time() + early  # the clock of the event loop never jumps
        renewed = False
        attempt = missed = 0
        while True:
            try:
                return await fetch(artifact)
            except TransferBroken as error:
                attempt += 1
                log.info("download of %s file %d: %s", self.ref, artifact.index, error)
                wait = max(_FIRST_WAIT * 2 ** (attempt - 1), error.retry_after or 0.0)
                if attempt == _ATTEMPTS:
                    raise self._failed(
                        f"{error}; {_ATTEMPTS} attempts were made. Try again later; a save continues where it can"
                    ) from error
                if wait > _LONGEST_WAIT:
                    raise self._failed(f"{error} and asks to wait {wait:.0f} s; save it again after that") from error
            except _Expired as error:
                left = patience - anyio.current_time()
                if error.missing and left > 0:
                    wait = min(_FIRST_WAIT * 2**missed, left)
                    if error.retry_after is not None:
                        wait = min(max(wait, error.retry_after), _LONGEST_WAIT)
                    missed += 1
                    log.info("the file %d of %s is not there yet", artifact.index, self.ref)
                elif renewed:
                    raise self._failed(f"{error}, and asking for a new URL did not help; try again later") from error
                else:
                    renewed, attempt, wait = True, 0, 0.0
                    artifact = await self._renewed(artifact, str(error))
            await anyio.sleep(wait)

    async def _renewed(self, artifact: Artifact, reason: str) -> Artifact:
        """Return the same file with a fresh URL."""
        try:
            artifacts = await self.renew()
        except KlingError as error:
            raise self._failed(f"{reason}, and asking for a new URL failed: {error}") from error
        # An id identifies a file better than its index: the provider may number its files in another order.
        for fresh in artifacts:
            if fresh.id == artifact.id and (artifact.id is not None or fresh.index == artifact.index):
                return fresh
        raise self._failed(f"{reason}, and {self.ref.provider} does not name the file any more")

    async def _fetch(self, artifact: Artifact, *, target: Path, directory: bool, progress: Progress | None) -> Path:
        """Save the file with one transfer, which continues the part of an earlier one.

        Raises:
            TransferBroken, _Expired, DownloadFailed, OSError: It failed.
        """
        folder = target if directory else target.parent
        digest = hashlib.sha256(re.split("[?#]", artifact.url or "", maxsplit=1)[0].encode()).hexdigest()
        async with PartialFile(folder / f".{self._stem(artifact)}.{digest[:12]}.part") as part:
            kind = await self._fill(artifact, part, progress)
            return await part.finish(self._final(artifact, target, directory, kind))

    async def _fill(self, artifact: Artifact, spool: Sink, progress: Progress | None = None) -> str:
        """Fill the sink with one transfer, check what came, and return its extension.

        Raises:
            TransferBroken, _Expired, DownloadFailed, OSError: It failed.
        """
        if spool.size and spool.version is None:
            await spool.restart()
        engine = await self.engines.current()
        async with engine.concurrency:
            try:
                await self._transfer(engine, artifact.url or "", spool, progress)
            except (TransferBroken, _Expired, OSError, KlingError):
                raise
            except Exception as error:  # each backend has errors of its own
                raise TransferBroken(f"the transfer broke off: {type(error).__name__} {error}".rstrip()) from error
        return self._recognised(artifact, spool)

    async def _transfer(self, backend: HttpBackend, address: str, part: Sink, progress: Progress | None) -> None:
        url = self._judged(lambda: Url.parse(address))
        for _ in range(_REDIRECTS + 1):
            headers = {"user-agent": USER_AGENT, "accept": "*/*", "accept-encoding": "identity"}
            if part.size and part.version is not None:
                headers |= {"range": f"bytes={part.size}-", "if-range": part.version.validator}
            with anyio.CancelScope() as stall:
                stall.deadline = anyio.current_time() + _STALL
                async with backend.open("GET", url, headers, seconds=math.inf) as response:  # `stall` is the limit
                    location = response.headers.get("location")
                    if response.status_code in _REDIRECTED and location is not None:
                        url = self._judged(partial(url.join, location))
                        continue
                    await self._receive(response, part, progress, stall)
            if stall.cancelled_caught:
                raise TransferBroken(f"nothing came for {_STALL:.0f} s, or less than {_SLOWEST} bytes a second")
            return
        raise self._failed(f"the result's address redirects more than {_REDIRECTS} times; it was given up")

    def _judged(self, parse: Callable[[], Url]) -> Url:
        """Return the address that a provider or a server named, if it may be opened.

        The address that is checked is the one that is opened.

        Raises:
            DownloadFailed: It may not.
        """
        try:
            url = parse()
        except ValueError as error:
            raise self._failed(f"the address of the result cannot be opened: {error}") from None
        if self.local and url.on_this_machine:
            return url
        if url.scheme != "https" or url.private or url.user:
            flaw = (
                "not an https address"
                if url.scheme != "https"
                else "an address with a password"
                if url.user
                else "an address inside a private network"
            )
            raise self._failed(f"the address of the result is {url.origin!r:.100}, {flaw}; it was not opened")
        return url

    async def _begin(self, response: Response, part: Sink) -> int | None:
        """Check the head of a response, and make `part` fit it. Returns the size of the whole file, if it is known."""
        status = response.status_code
        if status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            return await self._whole(response, part) if status == HTTPStatus.OK else await self._rest(response, part)
        hint = retry_after(Reply(status, response.headers), datetime.now(UTC).timestamp())
        if status in _EXPIRED:
            raise _Expired(
                f"the URL of the result does not work any more (HTTP {status})",
                missing=status == HTTPStatus.NOT_FOUND,
                retry_after=hint,
            )
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            await part.restart()
            raise TransferBroken("the server does not continue the file")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _PASSING:
            raise TransferBroken(f"the server answered HTTP {status}", hint)
        raise self._failed(f"the result's address answered HTTP {status}; save it again later")

    async def _whole(self, response: Response, part: Sink) -> int | None:
        await part.restart()
        if response.packed:  # lengths and places mean the packed bytes, which are not what is written
            return None
        length = response.headers.get("content-length", "")
        total = int(length) if length.isdecimal() else None
        validator = _validator(response.headers)
        part.version = Version(validator, total) if validator is not None else None
        return total

    async def _rest(self, response: Response, part: Sink) -> int | None:
        version = part.version
        piece = re.match(rf"bytes {part.size}-\d+/(\d+|\*)", response.headers.get("content-range", ""))
        if piece is None or response.packed:
            await part.restart()
            raise TransferBroken("the server continued the file at the wrong place")
        total = int(piece[1]) if piece[1].isdecimal() else None
        if part.size == 0:  # the server answers in pieces of its own accord
            validator = _validator(response.headers)
            part.version = Version(validator, total) if validator is not None else None
        elif version is None or not _same_version(version, response.headers, total):
            await part.restart()
            raise TransferBroken("the server has another file there now")
        return total

    async def _receive(
        self, response: Response, part: Sink, progress: Progress | None, stall: anyio.CancelScope
    ) -> None:
        total = await self._begin(response, part)
        began, size = loop_time(), part.size
        extended = began

        def go_on() -> None:
            nonlocal extended
            extended = loop_time()
            stall.deadline = min(extended + _STALL, began + _STALL + (part.size - size) / _SLOWEST)

        async def written(work: Awaitable[None]) -> None:
            stall.deadline = math.inf  # how long the disk or the store takes is not the server's fault
            await work
            go_on()
            tell()

        def tell() -> None:
            if progress is not None:
                progress(part.size, total)

        def take(chunk: bytes) -> Awaitable[None] | None:
            if part.size + len(chunk) > _MAX_BYTES:
                raise self._failed(f"the result is larger than {_MAX_BYTES} bytes; the download was stopped")
            work = part.write(chunk)
            if work is not None:
                return written(work)
            if loop_time() - extended >= _OFTEN:
                go_on()
            tell()
            return None

        await read_body(response, take)
        if total is not None and part.size != total:
            raise TransferBroken(f"the file ended after {part.size} of {total} bytes")

    def _recognised(self, artifact: Artifact, part: Sink) -> str:
        """Return the file's extension, according to its content."""
        if part.size == 0:
            raise TransferBroken("the file is empty")
        found = _extension(part.head)
        if found is None:
            shown = part.head[:60].decode("utf-8", "replace")
            raise self._failed(
                f"what came is no {artifact.kind} but begins with {shown!r}; it was not saved, try again later"
            )
        return found

    def _stem(self, artifact: Artifact) -> str:
        if self.stem is not None:
            return bounded_name(self.stem, _LONGEST_NAME)
        identity = re.sub(r"[^A-Za-z0-9._-]", "_", self.ref.id)
        if identity != self.ref.id:  # so that two ids do not get one name
            identity += f"-{hashlib.sha256(self.ref.id.encode()).hexdigest()[:8]}"
        number = f"-{artifact.index}" if artifact.index else ""
        return (
            bounded_name(f"{self.ref.provider}-{self.ref.endpoint_id}-{identity}", _LONGEST_NAME - len(number)) + number
        )

    def _final(self, artifact: Artifact, target: Path, directory: bool, extension: str | None) -> Path:
        return target / f"{self._stem(artifact)}{extension or '.bin'}" if directory else target

    def _failed(self, message: str) -> DownloadFailed:
        return DownloadFailed(message, provider=self.ref.provider, ref=str(self.ref))


def _extension(head: bytes) -> str | None:
    """Return the extension for a file that begins so. If None, it is nothing that a job makes."""
    found = media_type(head)
    return found.extension if found is not None and found.name != "svg" else None


def _validator(headers: Mapping[str, str]) -> str | None:
    """Return what distinguishes this version of a file from all others (RFC 9110, 8.8).

    A weak ETag does not, and neither does a Last-Modified of the second in which the file was sent.
    """
    etag = headers.get("etag", "")
    if etag:
        return etag if _STRONG_ETAG.fullmatch(etag) else None
    modified = headers.get("last-modified", "")
    try:
        age = parsedate_to_datetime(headers.get("date", "")) - parsedate_to_datetime(modified)
    except (ValueError, TypeError, OverflowError):
        return None
    return modified if age.total_seconds() >= 1 else None


def _same_version(version: Version, headers: Mapping[str, str], total: int | None) -> bool:
    """Whether a partial answer is of that version. A server that does not know ``If-Range`` sends a part of any."""
    if version.total is not None and total is not None and version.total != total:
        return False
    if version.validator.startswith('"'):
        return headers.get("etag") == version.validator
    return headers.get("last-modified", version.validator) == version.validator

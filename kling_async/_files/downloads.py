"""Files: reading the local images of a request, and saving what a job made.

A download is written beside its place, synced, and renamed when it is whole and is what it should be: no broken file
ever stands under a final name. What a broken connection left is kept as ``.part`` and continued by the next attempt.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path

import anyio
from anyio import to_thread

from kling_async._errors import DownloadFailed, KlingError
from kling_async._files.partial_file import PartialFile, TransferBroken
from kling_async._http.backend import USER_AGENT, HttpBackend, PerLoopBackend
from kling_async._http.response import Response, read_body
from kling_async._media_types import HEAD_BYTES, media_type
from kling_async._models import Artifact, JobRef, Progress
from kling_async._urls import Url

__all__ = ["Downloader", "Saved"]

log = logging.getLogger("kling_async")

_MAX_BYTES = 2 * 1024**3  # larger than any clip on offer; a server that sends without end is stopped
_STALL = 60.0  # s without a byte
_ATTEMPTS = 4
_REDIRECTS = 5
_EXPIRED = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_REDIRECTED = frozenset({301, 302, 303, 307, 308})
_RANGE_REFUSED = 416
_PARTIAL = 206
_OK = 200
_SERVER_ERROR = 500


class _Expired(Exception):
    """The URL does not work any more."""


Saved = Callable[[JobRef, int, Path], Awaitable[None]]
"""Told that the job's file of that index was saved at that path."""


@dataclass(frozen=True, slots=True)
class Downloader:
    """Saves the artifacts of one job.

    Args:
        engines: What downloads go through. It never carries credentials.
        ref: The job, after which files are named.
        local: Whether plain http to this machine is acceptable, because the provider itself is there (a sandbox).
        renew: Asks the provider for fresh artifacts, for when a URL has expired.
        saved: Told where each file was saved.
        files: Knows where files of the job were saved before.
    """

    engines: PerLoopBackend
    ref: JobRef
    local: bool
    renew: Callable[[], Awaitable[tuple[Artifact, ...]]]
    saved: Saved | None = None
    files: Callable[[JobRef], Awaitable[Sequence[Path]]] | None = None

    async def save(self, artifact: Artifact, target: Path, *, directory: bool, progress: Progress | None) -> Path:
        """See `kling_async._models.Saver`."""
        path = await self._save(artifact, target, directory, progress)
        if self.saved is not None:
            with anyio.CancelScope(shield=True):
                await self.saved(self.ref, artifact.index, path)
        return path

    async def _there(self, artifact: Artifact, folder: Path) -> Path | None:
        """The file, if it was saved in that directory before, and is still there: under its name it is whole."""
        known = await self.files(self.ref) if self.files is not None else ()
        for path in known:
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
            return await self._download(artifact, target, directory, progress)
        except OSError as error:
            raise self._failed(
                f"writing to {target} failed: {error.strerror or error}; free or choose another place"
            ) from error

    def _save_inline(self, artifact: Artifact, target: Path, directory: bool) -> Path:
        data = artifact.data or b""
        path = self._final(artifact, target, directory, _extension(data[:HEAD_BYTES]))
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return path

    async def _download(self, artifact: Artifact, target: Path, directory: bool, progress: Progress | None) -> Path:
        renewed = False
        broken = "nothing was tried"
        attempt = 0
        while attempt < _ATTEMPTS:
            if attempt:
                await anyio.sleep(0.25 * 2**attempt)
            attempt += 1
            try:
                return await self._fetch(artifact, target, directory, progress)
            except TransferBroken as error:
                broken = str(error)
                log.info("download of %s file %d: %s", self.ref, artifact.index, broken)
            except _Expired as error:
                if renewed:
                    raise self._failed(f"{error}, and asking for a new URL did not help; try again later") from error
                renewed, attempt = True, 0
                artifact = await self._renewed(artifact, str(error))
        raise self._failed(f"{broken}; {_ATTEMPTS} attempts were made. Save it again to continue where it stopped")

    async def _renewed(self, artifact: Artifact, reason: str) -> Artifact:
        """The same file under a fresh URL."""
        try:
            artifacts = await self.renew()
        except KlingError as error:
            raise self._failed(f"{reason}, and asking for a new URL failed: {error}") from error
        # Where files have ids they tell them apart: we number files as they become known, the provider as it likes.
        for fresh in artifacts:
            if fresh.id == artifact.id and (artifact.id is not None or fresh.index == artifact.index):
                return fresh
        raise self._failed(f"{reason}, and {self.ref.provider} does not name the file any more")

    async def _fetch(self, artifact: Artifact, target: Path, directory: bool, progress: Progress | None) -> Path:
        """One transfer, continuing what an earlier one left.

        Raises:
            _Broken, _Expired, DownloadFailed, OSError: It failed.
        """
        url = artifact.url or ""
        engine = await self.engines.current()
        folder = target if directory else target.parent
        digest = hashlib.sha256(re.split("[?#]", url, maxsplit=1)[0].encode()).hexdigest()
        async with PartialFile(folder / f".{self._stem(artifact)}.{digest[:12]}.part") as part, engine.concurrency:
            try:
                await self._transfer(engine, url, part, progress)
            except (TransferBroken, _Expired, OSError, KlingError):
                raise
            except Exception as error:  # any engine's own errors
                raise TransferBroken(f"the transfer broke off: {type(error).__name__} {error}".rstrip()) from error
            kind = self._recognised(artifact, part)
            return await part.finish(self._final(artifact, target, directory, kind))

    async def _transfer(self, backend: HttpBackend, address: str, part: PartialFile, progress: Progress | None) -> None:
        url = self._judged(lambda: Url.parse(address))
        for _ in range(_REDIRECTS + 1):
            headers = {"user-agent": USER_AGENT, "accept": "*/*", "accept-encoding": "identity"}
            if part.size:
                headers["range"] = f"bytes={part.size}-"
            with anyio.CancelScope() as stall:
                stall.deadline = anyio.current_time() + _STALL
                async with backend.open("GET", url, headers) as response:
                    location = response.headers.get("location")
                    if response.status_code in _REDIRECTED and location is not None:
                        url = self._judged(partial(url.join, location))
                        continue
                    await self._receive(response, part, progress, stall)
            if stall.cancelled_caught:
                raise TransferBroken(f"nothing came for {_STALL:.0f} s")
            return
        raise self._failed(f"the result's address redirects more than {_REDIRECTS} times; it was given up")

    def _judged(self, parse: Callable[[], Url]) -> Url:
        """The address that a provider or a server named, if it may be opened: what is judged is what is opened.

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

    async def _begin(self, response: Response, part: PartialFile) -> int | None:
        """Judge a response by its head, and make `part` fit it. Returns the size of the whole file, if it is told."""
        status = response.status_code
        if status in _EXPIRED:
            raise _Expired(f"the URL of the result does not work any more (HTTP {status})")
        if status == _RANGE_REFUSED:
            await part.restart()
            raise TransferBroken("the server does not continue the file")
        if status not in {_OK, _PARTIAL}:
            if status >= _SERVER_ERROR or status in {408, 425, 429}:
                raise TransferBroken(f"the server answered HTTP {status}")
            raise self._failed(f"the result's address answered HTTP {status}; save it again later")
        # Of what is packed all the same, lengths and places mean the packed bytes, which are not what is written.
        packed = response.packed
        part.lasting = not packed
        if status == _OK:
            await part.restart()
            length = response.headers.get("content-length", "")
            return int(length) if length.isdecimal() and not packed else None
        piece = re.match(rf"bytes {part.size}-\d+/(\d+|\*)", response.headers.get("content-range", ""))
        if piece is None or packed:
            await part.restart()
            raise TransferBroken("the server continued the file at the wrong place")
        return int(piece[1]) if piece[1].isdecimal() else None

    async def _receive(
        self, response: Response, part: PartialFile, progress: Progress | None, stall: anyio.CancelScope
    ) -> None:
        total = await self._begin(response, part)

        async def take(chunk: bytes) -> None:
            stall.deadline = anyio.current_time() + _STALL
            await part.write(chunk)
            if part.size > _MAX_BYTES:
                raise self._failed(f"the result is larger than {_MAX_BYTES} bytes; the download was stopped")
            if progress is not None:
                progress(part.size, total)

        await read_body(response, take)
        if total is not None and part.size != total:
            raise TransferBroken(f"the file ended after {part.size} of {total} bytes")

    def _recognised(self, artifact: Artifact, part: PartialFile) -> str:
        """The file's extension, told from its content."""
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
        identity = re.sub(r"[^A-Za-z0-9._-]", "_", self.ref.id)
        if identity != self.ref.id:  # two ids must not become one name
            identity += f"-{hashlib.sha256(self.ref.id.encode()).hexdigest()[:8]}"
        number = f"-{artifact.index}" if artifact.index else ""
        return f"{self.ref.provider}-{self.ref.endpoint_id}-{identity}{number}"

    def _final(self, artifact: Artifact, target: Path, directory: bool, extension: str | None) -> Path:
        return target / f"{self._stem(artifact)}{extension or '.bin'}" if directory else target

    def _failed(self, message: str) -> DownloadFailed:
        return DownloadFailed(message, provider=self.ref.provider, ref=str(self.ref))


def _extension(head: bytes) -> str | None:
    """The extension for a file that begins so; None: it is no picture or video that a job makes."""
    found = media_type(head)
    return found.extension if found is not None and found.name != "svg" else None

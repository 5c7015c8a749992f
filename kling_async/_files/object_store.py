"""Object stores: ``s3://``, ``gs://`` and ``az://``. The only module that knows obstore.

An object becomes visible when it is whole, and not before: a small one is sent with one PUT, a larger one as a
multipart upload that is completed at its end. Whatever ends an upload earlier aborts it, so no parts are left that
somebody pays for. obstore calls block, so they run in threads, and work the same on asyncio and trio.

What a store answers to a refused call names access keys, signatures and tokens. So no text of obstore's errors is ever
shown: the messages here are made of the status and of the store's own error code.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
from anyio import from_thread, to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from kling_async._errors import ConfigurationError
from kling_async._files.partial_file import Version
from kling_async._media.media_types import HEAD_BYTES, media_type
from kling_async._records import record
from kling_async._validation import given

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = [
    "ObjectUpload",
    "ObjectUrl",
    "StoreFailed",
    "destination",
    "ensure_object_writable",
    "list_objects",
    "object_is",
    "object_size",
    "read_object",
    "write_object",
]

_T = TypeVar("_T")

_PART = 8 * 1024**2  # bytes of a part. Objects up to this size are sent at once. S3 asks for at least 5 MiB
_PARTS_AT_ONCE = 2  # parts of one object that are on their way
_PIECE = 1024**2  # bytes that are handed to the thread at once
_MARK = "klingfile"  # the object's own record of which file it is. Azure allows letters and digits only
_PROBE = ".kling-probe"
_RETRIES = {"max_retries": 4}
_ADVICE = {
    "s3": "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION (with boto3 installed, AWS_PROFILE and the "
    "files in ~/.aws work as well)",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file, or run `gcloud auth application-default login`",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_TOKEN)",
}
_ENVIRONMENT = ("AWS_", "GOOGLE_", "AZURE_")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,221}")
_CODE = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_STATUS = re.compile(r"status code: ([1-5]\d\d)")
_NO_CREDENTIALS = re.compile(r"169\.254\.|metadata\.google|Account must be specified|MissingAccount|MissingAccessKey")


class StoreFailed(OSError):
    """A store could not be read or written. ``strerror`` says why, in words that may be shown."""

    def __init__(self, reason: str) -> None:
        super().__init__(0, reason)


@record
class ObjectUrl:
    """The address of an object, or of a folder of objects.

    Attributes:
        scheme: ``"s3"``, ``"gs"`` or ``"az"``.
        bucket: The bucket, on Azure the container.
        key: The name within the bucket. Empty for the bucket itself.
    """

    scheme: str
    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> ObjectUrl:
        """Read an address such as ``s3://bucket/prefix``.

        Raises:
            ConfigurationError: It is none.
        """
        found = _URL.fullmatch(text)
        scheme = found[1].lower() if found else ""
        if found is None or scheme not in _ADVICE:
            known = ", ".join(f"{name}://" for name in _ADVICE)
            raise ConfigurationError(f"{scheme}:// is no place for results; give a directory, or one of {known}")
        bucket, _, key = found[2].partition("/")
        if not _BUCKET.fullmatch(bucket):  # it may hold a password, so it is not quoted
            raise ConfigurationError(
                f"the {scheme}:// address names no bucket; write {scheme}://BUCKET/PREFIX, without a password, and "
                "give the credentials by the environment"
            )
        key = key.rstrip("/")
        if any(part in {"", ".", ".."} for part in key.split("/") if key) or not key.isprintable():
            raise ConfigurationError(
                f"{scheme}://{bucket}/... has an empty part, . or .., or a character that cannot be printed, in the "
                "name of the object; write it without"
            )
        return cls(scheme, bucket, key)

    def __truediv__(self, name: str) -> ObjectUrl:
        return replace(self, key=f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}".rstrip("/")


def destination(place: str | os.PathLike[str]) -> Path | ObjectUrl:
    """Return where results are to be saved: a directory (``~`` is that of the user), or a folder in an object store.

    Raises:
        ConfigurationError: It is an address that is no place for results, or no path at all.
    """
    anything: Any = place  # the user's value, of any type
    if not isinstance(anything, str | os.PathLike):
        raise ConfigurationError(
            f"results are saved in a directory or at an address such as s3://bucket/prefix, not in {given(anything)}"
        )
    if isinstance(place, str) and _URL.fullmatch(place):
        return ObjectUrl.parse(place)
    path = Path(place)
    scheme = path.parts[0].lower() if path.parts else ""
    if scheme.removesuffix(":") in _ADVICE and scheme.endswith(":"):
        raise ConfigurationError(
            f"{str(path)!r:.80} is a path on this machine; give the address of an object store as text, with two "
            f"slashes: {scheme}//bucket/prefix (on the command line, only kling bulk takes one)"
        )
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigurationError(f"results cannot be saved to {path}: {error}") from error


async def ensure_object_writable(folder: ObjectUrl) -> None:
    """Write a small object and remove it, to test before anything is paid for that results can be saved there.

    Raises:
        ConfigurationError: They cannot.
    """
    probe = folder / _PROBE
    try:
        await write_object(probe, b"", "application/octet-stream")
        await _quietly(_call(probe, lambda store: _obstore().delete(store, probe.key)))
    except StoreFailed as error:
        raise ConfigurationError(
            f"results cannot be written to {folder}: {error.strerror}; nothing was bought"
        ) from None


async def _quietly(work: Awaitable[object]) -> None:
    """Do what need not succeed: credentials that may only write cannot remove the empty object, or read."""
    try:
        await work
    except StoreFailed:
        return


async def object_is(url: ObjectUrl, mark: str) -> bool:
    """Whether the object was saved from the file with that mark, and is whole. False if the store does not tell.

    Raises:
        StoreFailed: The store cannot be reached.
    """

    def ask(store: ObjectStore) -> bool:
        found = _obstore().get(store, url.key, options={"range": (0, HEAD_BYTES)})
        return found.attributes.get(_MARK) == mark and media_type(bytes(found.bytes())) is not None

    try:
        return await _call(url, ask)
    except (_Missing, _Refused):
        return False


async def read_object(url: ObjectUrl) -> bytes | None:
    """Return the content of a small object. If None, there is none.

    Raises:
        StoreFailed: It cannot be read.
    """
    try:
        return await _call(url, lambda store: bytes(_obstore().get(store, url.key).bytes()))
    except _Missing:
        return None


async def list_objects(folder: ObjectUrl) -> dict[str, int]:
    """Return the bytes of every object in a folder, by the rest of its name.

    Raises:
        StoreFailed: They cannot be listed.
    """

    def ask(store: ObjectStore) -> dict[str, int]:
        found: dict[str, int] = {}
        for several in _obstore().list(store, folder.key or None):
            found |= {one["path"].removeprefix(f"{folder.key}/"): one["size"] for one in several}
        return found

    return await _call(folder, ask)


async def object_size(url: ObjectUrl) -> int:
    """Return the bytes of an object.

    Raises:
        StoreFailed: There is none, or it cannot be asked for.
    """
    return await _call(url, lambda store: int(_obstore().head(store, url.key)["size"]))


async def write_object(
    url: ObjectUrl, content: bytes, mime: str, mark: str | None = None, *, new: bool = False
) -> None:
    """Write an object at once, in place of an earlier one.

    Args:
        url: The object.
        content: All of it.
        mime: Its media type.
        mark: Which file it is, for `object_is`. If None, it is not asked for.
        new: Write it only if there is none.

    Raises:
        StoreFailed: It cannot be written. An earlier one is as it was.
    """
    options = {"attributes": _attributes(mime, mark), "mode": "create" if new else "overwrite"}
    await _call(url, lambda store: _obstore().put(store, url.key, content, use_multipart=False, **options))


class ObjectUpload:
    """The object that a transfer writes to. See `kling_async._files.partial_file.Sink`.

    Leaving the block without `finish` leaves no object and no parts.

    Args:
        named: Returns the address, once the beginning of the file is known. It raises if that is no file for saving.
        mark: Which file it is.
    """

    def __init__(self, named: Callable[[], ObjectUrl], mark: str) -> None:
        self._named = named
        self._mark = mark
        self._group = anyio.create_task_group()
        self._buffer = bytearray()
        self._sending: MemoryObjectSendStream[bytes] | None = None
        self._ended = anyio.Event()
        self._failure: Exception | None = None
        self.size = 0
        self.head = b""
        self.version: Version | None = None

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._abort()
        # The task raises nothing, and what the block raised is not the group's.
        ours = error if isinstance(error, anyio.get_cancelled_exc_class()) else None
        await self._group.__aexit__(type(ours) if ours else None, ours, trace if ours else None)

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Append some bytes. See `Sink`."""
        if len(self.head) < HEAD_BYTES:
            self.head += chunk[: HEAD_BYTES - len(self.head)]
        self.size += len(chunk)
        self._buffer += chunk
        return self._pass_on() if len(self._buffer) > (_PART if self._sending is None else _PIECE) else None

    async def restart(self) -> None:
        """Abort what was written, and begin again."""
        await self._abort()
        self._buffer.clear()
        self._failure = None
        self.size, self.head, self.version = 0, b"", None

    async def finish(self) -> ObjectUrl:
        """Complete the object.

        Raises:
            StoreFailed: It cannot be. There is no object then, and an earlier one is as it was.
        """
        url = self._named()
        if self._sending is None:
            await write_object(url, bytes(self._buffer), _mime(self.head), self._mark)
            return url
        await self._pass_on()
        await self._send(b"")
        await self._ended.wait()
        self._sending.close()
        self._sending = None
        if self._failure is not None:
            raise self._failure
        return url

    async def _pass_on(self) -> None:
        """Hand what was collected to the thread that sends it."""
        if self._sending is None:
            url = self._named()
            self._sending, receiving = anyio.create_memory_object_stream[bytes](0)
            self._ended = anyio.Event()
            self._group.start_soon(self._upload, url, receiving, self._ended)
        piece = bytes(self._buffer)
        self._buffer.clear()
        if piece:
            await self._send(piece)

    async def _send(self, piece: bytes) -> None:
        assert self._sending is not None  # noqa: S101  # begun
        try:
            await self._sending.send(piece)
        except anyio.BrokenResourceError:
            await self._ended.wait()
            raise self._failure or StoreFailed("the upload ended early") from None

    async def _upload(self, url: ObjectUrl, receiving: MemoryObjectReceiveStream[bytes], ended: anyio.Event) -> None:
        def pieces() -> Iterator[bytes]:
            # The stream that is closed without an empty piece raises here, on which obstore aborts the upload.
            while piece := from_thread.run(receiving.receive):
                yield piece

        def put(store: ObjectStore) -> None:
            _obstore().put(
                store,
                url.key,
                pieces(),
                attributes=_attributes(_mime(self.head), self._mark),
                use_multipart=True,
                chunk_size=_PART,
                max_concurrency=_PARTS_AT_ONCE,
            )

        try:
            with anyio.CancelScope(shield=True):  # it ends by the stream, and then leaves no parts
                await _call(url, put)
        except Exception as error:  # noqa: BLE001  # raised where the transfer writes
            self._failure = error
        finally:
            receiving.close()
            ended.set()

    async def _abort(self) -> None:
        if self._sending is not None:
            self._sending.close()
            self._sending = None
            await self._ended.wait()


class _Missing(StoreFailed):
    """There is no such object, or no such bucket."""


class _Refused(StoreFailed):
    """The credentials may not do this, which also hides whether there is an object."""


async def _call(url: ObjectUrl, work: Callable[[ObjectStore], _T]) -> _T:
    """Work with the store of an address, in a thread.

    Raises:
        StoreFailed: It failed.
        ConfigurationError: obstore is not installed.
    """

    def run() -> _T:
        environment = frozenset(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT))
        return work(_store(url.scheme, url.bucket, environment))

    _obstore()
    try:
        # A transfer keeps its thread for as long as it takes: it must not use up those that others need.
        return await to_thread.run_sync(run, limiter=anyio.CapacityLimiter(1))
    except (StoreFailed, ConfigurationError):
        raise
    except Exception as error:  # noqa: BLE001  # obstore's errors have no common class, and name secrets
        taken = type(error).__name__ == "AlreadyExistsError"
        failure = StoreFailed(f"somebody else has written {url} in between") if taken else _failure(url, error)
    raise failure


def _failure(url: ObjectUrl, error: Exception) -> StoreFailed:
    """Return what went wrong, in words without secrets."""
    text = f"{error}"
    code, status = _CODE.search(text), _STATUS.search(text)
    detail = f" ({code[1]})" if code else f" (HTTP {status[1]})" if status else ""
    if _NO_CREDENTIALS.search(text):
        return StoreFailed(f"no credentials for {url.scheme}:// were found; {_ADVICE[url.scheme]}")
    if isinstance(error, FileNotFoundError) or (status and status[1] in {"404", "416"}):  # 416: an empty object's
        missing = f"there is no bucket {url.bucket}" if code and "Bucket" in code[1] else f"there is no {url}"
        return _Missing(f"{missing}{detail}; create it, or correct the address")
    if status is not None and status[1] in {"401", "403"}:
        return _Refused(f"the store refuses the credentials{detail}; {_ADVICE[url.scheme]}")
    if status is not None:
        return StoreFailed(f"the store answered HTTP {status[1]}{f' ({code[1]})' if code else ''}; try again later")
    if isinstance(error, ValueError):
        return StoreFailed(f"the environment's settings for {url.scheme}:// cannot be used; {_ADVICE[url.scheme]}")
    return StoreFailed(
        f"the store of {url} cannot be reached ({type(error).__name__}); check the network and the address"
    )


def _obstore() -> Any:
    """Return obstore.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import obstore  # noqa: PLC0415  # an optional extra
    except ImportError as error:
        raise ConfigurationError(
            "object stores need obstore: pip install 'kling-async[cloud]'; nothing was saved there"
        ) from error
    return obstore


@lru_cache(maxsize=16)  # a store keeps its connections
def _store(scheme: str, bucket: str, environment: frozenset[tuple[str, str]]) -> ObjectStore:
    from obstore.store import from_url  # noqa: PLC0415  # an optional extra

    variables = dict(environment)
    options = _s3_options(variables) if scheme == "s3" else {}
    return from_url(f"{scheme}://{bucket}", retry_config=_RETRIES, **options)  # type: ignore[call-overload, no-any-return]


def _s3_options(variables: Mapping[str, str]) -> dict[str, Any]:
    """What users of S3 expect beyond obstore: a service of their own on plain http, and the files in ``~/.aws``."""
    options: dict[str, Any] = {}
    endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
    if endpoint:
        options = {"endpoint": endpoint, "client_options": {"allow_http": endpoint.startswith("http://")}}
    if "AWS_ACCESS_KEY_ID" not in variables and importlib.util.find_spec("boto3"):
        boto3 = importlib.import_module("boto3")
        session = boto3.Session()
        if session.get_credentials() is not None:
            from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415  # it needs boto3

            options["credential_provider"] = Boto3CredentialProvider(session)
            if session.region_name and "AWS_REGION" not in variables:
                options["region"] = session.region_name
    return options


def _attributes(mime: str, mark: str | None) -> dict[str, str]:
    return {"Content-Type": mime} | ({_MARK: mark} if mark is not None else {})


def _mime(head: bytes) -> str:
    found = media_type(head)
    return found.mime if found is not None else "application/octet-stream"

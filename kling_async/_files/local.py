"""Local reference images, and directories for results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

from anyio import to_thread

from kling_async._errors import ConfigurationError
from kling_async._event_loop.threads import file_readers
from kling_async._files.object_store import ObjectUrl, destination, ensure_object_writable
from kling_async._media.local_file import LocalFile
from kling_async.providers._base.request import Request

__all__ = ["ensure_writable", "with_local_files"]

RequestT = TypeVar("RequestT", bound=Request)


async def with_local_files(request: RequestT) -> RequestT:
    """Return the request with its local files as they are now. They are read once, in a thread, piece by piece.

    What is sent later is compared with that. So a file that changes in between is noticed.

    Raises:
        ConfigurationError: One cannot be read any more.
        pydantic.ValidationError: A file's content is not acceptable any more.
    """
    if not request.files:
        return request

    def read() -> RequestT:
        return request.with_files({path: LocalFile.read(path) for path in request.files})

    try:
        return await to_thread.run_sync(read, limiter=file_readers())
    except OSError as error:
        raise ConfigurationError(
            f"the reference image {error.filename} cannot be read: {error.strerror}; nothing was sent"
        ) from error


async def ensure_writable(place: Path | ObjectUrl) -> None:
    """Make the directory if it does not exist, and test that files can be written there before anything is paid for.

    Of an object store only the test is made: a bucket is not.

    Raises:
        ConfigurationError: They cannot, or the path was made of the address of an object store.
    """
    if isinstance(place, ObjectUrl):
        await ensure_object_writable(place)
        return
    directory = place
    destination(directory)  # refuses a path that was made of the address of an object store

    def prove() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".kling-{os.getpid()}.probe"
        probe.touch()
        probe.unlink(missing_ok=True)  # another task of this process tests the same

    try:
        await to_thread.run_sync(prove)
    except OSError as error:
        raise ConfigurationError(
            f"results cannot be written to {directory}: {error.strerror}; choose another directory"
        ) from error

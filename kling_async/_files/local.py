"""Local reference images, and directories for results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from anyio import to_thread

from kling_async._errors import ConfigurationError
from kling_async._files.object_store import ObjectUrl, ensure_object_writable
from kling_async.providers._base.request import Request

__all__ = ["ensure_writable", "load", "with_local_files"]


async def load(paths: Iterable[Path]) -> Mapping[Path, bytes]:
    """Return the contents of local files. They are read in a thread.

    Raises:
        ConfigurationError: One cannot be read any more.
    """

    def read() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in paths}

    try:
        return await to_thread.run_sync(read)
    except OSError as error:
        raise ConfigurationError(
            f"the reference image {error.filename} cannot be read: {error.strerror}; nothing was sent"
        ) from error


async def with_local_files(request: Request) -> Request:
    """Return the request with its local files replaced by their contents.

    Raises:
        ConfigurationError: One cannot be read any more.
        pydantic.ValidationError: A file's content is not acceptable any more.
    """
    return request.with_files(await load(request.files)) if request.files else request


async def ensure_writable(place: Path | ObjectUrl) -> None:
    """Make the directory if it does not exist, and test that files can be written there before anything is paid for.

    Of an object store only the test is made: a bucket is not.

    Raises:
        ConfigurationError: They cannot.
    """
    if isinstance(place, ObjectUrl):
        await ensure_object_writable(place)
        return
    directory = place

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

"""Local reference images, and directories for results."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self
from urllib.parse import urljoin
import anyio
from anyio import to_thread
from kling_async._errors import ConfigurationError, DownloadFailed, KlingError
from kling_async._http.backend import USER_AGENT, Engine, Engines
from kling_async._http.response import Response, consume
from kling_async._models import Artifact, JobRef, Progress
from kling_async._urls import is_secure
from kling_async._files.partial_file import _Part

__all__ = ["load", "writable"]


async def load(paths: Iterable[Path]) -> Mapping[Path, bytes]:
    """The contents of local files, read off the event loop.

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


async def writable(directory: Path) -> None:
    """Make the directory if need be and prove that files can be written there: before something is paid for.

    Raises:
        ConfigurationError: They cannot.
    """

    def prove() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".kling-{os.getpid()}.probe"
        probe.touch()
        probe.unlink(missing_ok=True)  # another run of this process proves the same

    try:
        await to_thread.run_sync(prove)
    except OSError as error:
        raise ConfigurationError(
            f"results cannot be written to {directory}: {error.strerror}; choose another directory"
        ) from error

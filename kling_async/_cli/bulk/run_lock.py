"""One run at a time writes the results of a folder, or of one shard. The system ends the lock with the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kling_async._cli.errors import CommandError

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where two runs are not kept apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["active_run", "run_lock"]


@contextmanager
def run_lock(results: Path) -> Iterator[None]:
    """Keep other runs from these results within the block.

    Raises:
        CommandError: Another run is active. The message names its process.
    """
    if fcntl is None:
        yield
        return
    path = _lock_of(results)
    descriptor = _locked(path)
    if descriptor is None:
        raise CommandError(
            f"another run writes {results} (process {_process(path)}); wait for its end, then give this command again"
        )
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def active_run(results: Path) -> str | None:
    """The process of the run that writes these results now. None if there is none."""
    path = _lock_of(results)
    if fcntl is None:
        return None
    if not path.exists():
        return None
    descriptor = _locked(path)
    if descriptor is None:
        return _process(path)
    path.unlink(missing_ok=True)  # of a run that was killed
    os.close(descriptor)
    return None


def _lock_of(results: Path) -> Path:
    return results.with_name(f".{results.name}.lock")


def _locked(path: Path) -> int | None:
    """A descriptor with the lock. None if another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # the one who had it has removed the file meanwhile


def _process(path: Path) -> str:
    with suppress(OSError):
        return path.read_text("ascii") or "?"
    return "?"

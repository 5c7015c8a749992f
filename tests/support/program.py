"""Programs that start in milliseconds: forked from a server that has loaded their modules once.

Such a program is a process like any other, with an id, streams and an environment of its own, and it can be killed.
It does not show how an interpreter starts. Tests of that use `support.cli_process.spawn`.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.context
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

__all__ = ["CLOSED", "Program", "fork_server"]

CLOSED = -9  # as a stream: the program has none, as after `>&-` in a shell
_TESTS = Path(__file__).parents[1]


def fork_server() -> multiprocessing.context.ForkServerContext:
    """The server of this test process. It starts with the first program, and loads `support.preloaded`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.preloaded"])
    own = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_TESTS), *([own] if own else [])])  # where it finds that
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["PYTHONPATH"]
        if own is not None:
            os.environ["PYTHONPATH"] = own
    return context


class Program:
    """A module that runs as a program. It is used like a `subprocess.Popen` with text streams."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        variables: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.PIPE,
        stderr: int | IO[Any] = subprocess.PIPE,
    ) -> None:
        self.returncode: int | None = None
        opened: list[int] = []
        ours: list[IO[str] | None] = []
        theirs: list[_Descriptor | None] = []
        for stream, mode in ((stdin, "w"), (stdout, "r"), (stderr, "r")):
            own: IO[str] | None = None
            if stream == CLOSED:
                theirs.append(None)
            elif stream == subprocess.PIPE:
                reading, writing = os.pipe()
                mine, other = (writing, reading) if mode == "w" else (reading, writing)
                own = os.fdopen(mine, mode, buffering=1)
                opened.append(other)
                theirs.append(_Descriptor(other))
            elif stream == subprocess.DEVNULL:
                opened.append(os.open(os.devnull, os.O_RDWR))
                theirs.append(_Descriptor(opened[-1]))
            else:
                theirs.append(_Descriptor(stream if isinstance(stream, int) else stream.fileno()))
            ours.append(own)
        self.stdin, self.stdout, self.stderr = ours
        environment = {**os.environ, **(variables or {})}
        self._process = fork_server().Process(
            target=_run, args=(module, arguments, environment, cwd or Path.cwd(), theirs)
        )
        try:
            self._process.start()
        finally:
            for descriptor in opened:
                os.close(descriptor)
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, if it has ended. A signal that ended it is negative."""
        self.returncode = self._process.exitcode
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, if it runs."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Close its input and read its output until it ends."""
        if self.stdin:
            self.stdin.close()
        texts = ["", ""]

        def read(number: int, stream: IO[str]) -> None:
            with stream:
                texts[number] = stream.read()

        readers = [
            threading.Thread(target=read, args=(number, stream), daemon=True)
            for number, stream in enumerate((self.stdout, self.stderr))
            if stream and not stream.closed
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return texts[0], texts[1]


class _Descriptor:
    """A file descriptor, which the new process gets a copy of. It arrives as a number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _detach, (DupFd(self._number),)


def _detach(sent: Any) -> int:
    number: int = sent.detach()
    return number


def _run(
    module: str, arguments: tuple[str, ...], environment: dict[str, str], cwd: Path, streams: list[int | None]
) -> None:
    """Be the program: in the new process, with its streams, environment and folder."""
    for number, stream in enumerate(streams):
        if stream is None:
            os.close(number)
        else:
            os.dup2(stream, number)
            os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (
        None if stream is None else open(number, mode, buffering=1, errors=errors, closefd=False)  # noqa: SIM115
        for (number, stream), mode, errors in zip(
            enumerate(streams), ("r", "w", "w"), ("strict", "strict", "backslashreplace"), strict=True
        )
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)

"""The program `kling` as tests run it: in this process, as a process, on a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from kling_async.providers import ALL_PROVIDERS
from kling_async.sandbox import Sandbox
from support.program import Program

PROGRAM = ("-m", "kling_async._cli")
ROOT = Path(__file__).parents[2]
VIDEO = "runblob/o3-video"
PHOTO = "runblob/o3-photo"
QUICK = ("--resolution", "1k")
PATIENCE = 120.0  # s; a slow machine runs many programs at once


class Answer:
    """What a run of the program left behind."""

    def __init__(self, code: int | None, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


Run = Callable[..., Answer]


def environment(sandbox: Sandbox) -> dict[str, str]:
    """What leads the program to a sandbox."""
    return {"RUNBLOB_API_KEY": sandbox.api_key("runblob"), "RUNBLOB_BASE_URL": sandbox.base_url("runblob")}


def environment_of(sandbox: Sandbox, providers: Collection[str] | None = None) -> dict[str, str]:
    """What leads the program to a sandbox, at these providers, or at every one that it emulates."""
    emulated = {provider.name for provider in sandbox.providers()}
    wanted = emulated if providers is None else emulated & set(providers)
    return {
        variable: value
        for kind in ALL_PROVIDERS
        if kind.name in wanted
        for variable, value in zip(
            kind.env_vars, (sandbox.api_key(kind.name), sandbox.base_url(kind.name)), strict=True
        )
    }


def spawn(*arguments: str, variables: Mapping[str, str] | None = None, **settings: Any) -> subprocess.Popen[str]:
    """A Python process, in which this library is found. Its output is for the test to read."""
    defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    ours = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(variables or {})}
    return subprocess.Popen([sys.executable, *arguments], env=ours, **(defaults | settings))


def launch(*arguments: str, **settings: Any) -> Program:
    """The program `kling` as a process that starts at once. See `support.program` for what differs from `spawn`."""
    return Program(PROGRAM[1], *arguments, **settings)


def finish(process: subprocess.Popen[str] | Program, patience: float = PATIENCE) -> Answer:
    """Wait for its end. A traceback is never an answer."""
    try:
        out, err = process.communicate(timeout=patience)
    finally:
        process.kill()
    assert "Traceback" not in (err or "")
    return Answer(process.returncode, out or "", err or "")


def on_terminal(folder: Path, *arguments: str) -> Answer:
    """Run the program on a terminal. All that is written to it counts as standard output."""
    controller, terminal = pty.openpty()
    process = launch(*arguments, cwd=folder, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    pieces = []
    try:
        while select.select([controller], [], [], PATIENCE)[0]:
            try:
                pieces.append(os.read(controller, 4096))
            except OSError:  # how Linux says that the other side is closed
                break
            if not pieces[-1]:
                break
        process.wait(PATIENCE)
    finally:
        process.kill()
        os.close(controller)
    return Answer(process.returncode, b"".join(pieces).decode(), "")

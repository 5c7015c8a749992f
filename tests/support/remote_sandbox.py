"""A sandbox in a process of its own, as the judge of programs that are killed."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from types import TracebackType
from typing import Any, Self

from kling_async.providers import ALL_PROVIDERS
from support.cli_process import PATIENCE, spawn

__all__ = ["RemoteSandbox"]


class RemoteSandbox:
    """It ends with the test, however that one ends: it reads our end of its standard input."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._process = spawn(
            "-m", "kling_async.sandbox", "--until-eof", *self._options, stdin=subprocess.PIPE, stderr=sys.stderr
        )
        assert self._process.stdout is not None
        told = json.loads(self._process.stdout.readline())
        self._url = told["url"]
        for kind in ALL_PROVIDERS:
            if kind.name in told["providers"]:
                played = told["providers"][kind.name]
                self.environment |= zip(kind.env_vars, (played["api_key"], played["base_url"]), strict=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._process.communicate(timeout=PATIENCE)
        finally:
            self._process.kill()

    def counters(self) -> dict[str, Any]:
        """What it has seen so far."""
        with urllib.request.urlopen(f"{self._url}/_sandbox/counters", timeout=PATIENCE) as answer:  # noqa: S310  # ours
            found: dict[str, Any] = json.load(answer)
            return found

"""A sandbox in a process of its own, as the judge of programs that are killed."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from types import TracebackType
from typing import Any, Self

from kling_async.providers import ALL_PROVIDERS
from support.cli_process import PATIENCE
from support.program import Program

__all__ = ["RemoteSandbox"]


class RemoteSandbox:
    """It ends with the test, however that one ends: it reads our end of its standard input."""

    def __init__(self, *options: str) -> None:
        self._options = options
        self.environment: dict[str, str] = {}
        self.providers: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Self:
        options = ("--until-eof", *self._options)
        self._process = Program("kling_async.sandbox", *options, stdin=subprocess.PIPE, stderr=sys.stderr)
        assert self._process.stdout is not None
        described = json.loads(self._process.stdout.readline())
        self.url: str = described["url"]
        self.providers = described["providers"]
        for kind in ALL_PROVIDERS:
            if kind.name in self.providers:
                account = self.providers[kind.name]
                self.environment |= zip(kind.env_vars, (account["api_key"], account["base_url"]), strict=True)
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
        with urllib.request.urlopen(f"{self.url}/_sandbox/counters", timeout=PATIENCE) as answer:  # noqa: S310  # ours
            found: dict[str, Any] = json.load(answer)
            return found

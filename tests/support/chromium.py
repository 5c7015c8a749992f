"""A headless Chromium, driven over its debugging pipe: what a page really does."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["PROGRAM", "Chromium"]

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--window-size=1400,1600",
    "--remote-debugging-pipe",
)
_PATIENCE = 30.0  # s
# The browser reads from descriptor 3 and writes to descriptor 4, whatever they were here.
_LAUNCH = """
import os, sys
for ours, theirs in zip(sys.argv[1:3], (3, 4)):
    os.dup2(int(ours), theirs)
os.execv(sys.argv[3], sys.argv[3:])
"""
_LOADED = "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))"


class Chromium:
    """One page in a browser of its own.

    Args:
        folder: Where the browser may write.
        address: What to open.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._address = address
        self._number = 0
        self._buffer = b""
        self._session: str | None = None
        self.complaints: list[str] = []
        """What the page wrote to its console as errors, and what its policy forbade."""

    def __enter__(self) -> Self:
        theirs_read, self._write = _pipe()
        self._read, theirs_write = _pipe()
        assert PROGRAM is not None
        browser = [PROGRAM, *_FLAGS, f"--user-data-dir={self._folder}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(theirs_read), str(theirs_write), *browser],
            pass_fds=(theirs_read, theirs_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_read)
        os.close(theirs_write)
        try:
            self._open()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _open(self) -> None:
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")
        self._ask("Page.navigate", url=self._address)
        self.evaluate(_LOADED)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page. A promise is waited for."""
        answer = self._ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Save what it looks like, as PNG."""
        path.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot")["data"]))

    def _ask(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            reported = self._next()
            self._note(reported)
            if reported.get("id") == self._number:
                assert "error" not in reported, reported["error"]
                return reported["result"]

    def _note(self, reported: dict[str, Any]) -> None:
        if reported.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(reported["params"]["exceptionDetails"]))
        if reported.get("method") == "Log.entryAdded" and reported["params"]["entry"]["level"] == "error":
            self.complaints.append(reported["params"]["entry"]["text"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], _PATIENCE)[0], "the browser does not answer"
            piece = os.read(self._read, 1 << 16)
            assert piece, "the browser has ended"
            self._buffer += piece
        text, _, self._buffer = self._buffer.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are none of those that the browser wants."""
    low: list[int] = []
    ends = os.pipe()
    while min(ends) <= 4:
        low.extend(ends)
        ends = os.pipe()
    for descriptor in low:
        os.close(descriptor)
    return ends

"""A server of one file, which can be told to break off, to stall, to expire."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["PICTURE", "Cdn", "Reply", "whole"]

PICTURE = b"\x89PNG\r\n\x1a\n" + os.urandom(300_000)
Reply = tuple[int, dict[str, str], bytes]


class Cdn(ThreadingHTTPServer):
    """A server of one file.

    Attributes:
        answer: What is answered to a request's range (its start, 0: none); None: the whole file, or the rest of it.
        requests: Path and range of each request.
        piece: Bytes that are sent at once.
        hold: While it is not set, an answer stops after its first piece.
        etag: The validator of its file. If empty, it has none.
        trickle: Seconds between two bytes. If 0, an answer is sent at once.
        conditions: The ``If-Range`` of each request.
        content: The file.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Callable[[str, int], Reply | None] = lambda _path, _start: None
        self.requests: list[tuple[str, int]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.started = threading.Event()
        self.etag = '"one"'
        self.trickle = 0.0
        self.content = PICTURE
        self.conditions: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Cdn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        start = int(found[1]) if found else 0
        self.server.requests.append((self.path, start))
        status, headers, body = self.server.answer(self.path, start) or whole(start, self.server.content)
        self.send_response(status)
        self.server.conditions.append(self.headers.get("if-range"))
        for name, value in ({"content-length": str(len(body)), "etag": self.server.etag} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:1000])
        self.wfile.flush()
        self.server.started.set()
        self.server.hold.wait(20)
        try:
            for byte in body[1000:] if self.server.trickle else b"":
                self.wfile.write(bytes([byte]))
                time.sleep(self.server.trickle)
            self.wfile.write(body[1000:])
        except OSError:
            self.close_connection = True
        if int(headers.get("content-length") or len(body)) != len(body) or headers.get("connection") == "close":
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


def whole(start: int = 0, content: bytes = PICTURE) -> Reply:
    """The answer of a server that has the file: all of it, or the rest of it."""
    if not start:
        return 200, {}, content
    return 206, {"content-range": f"bytes {start}-{len(content) - 1}/{len(content)}"}, content[start:]

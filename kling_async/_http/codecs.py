"""HTTP/1.1 as bytes, without I/O: what a request looks like, and what an answer means.

Two well-kept parsers know the rules. h11 is written in Python and always there. httptools is llhttp, the parser of
Node.js, in C (``Client(http="fast")``, extra ``[fast]``), and costs a fifth. Both are strict, and the same tests hold
for both.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

import h11
import httpcore

__all__ = ["Codec", "H11Codec", "Headers", "HttptoolsCodec", "MakeCodec"]

Headers: TypeAlias = "list[tuple[bytes, bytes]]"

_LONGEST_HEAD = 100 * 1024  # bytes of a status line and headers. What is longer is refused
_UPGRADED = 101  # the status of an answer after which HTTP ends
_FINAL = 200  # the first status of an answer that is not followed by another
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[^\x00\r\n]*")
_TARGET = re.compile(rb"[\x21-\x7e]+")


@lru_cache(maxsize=256)  # the names are the same in all requests
def _is_name(name: bytes) -> bool:
    return _NAME.fullmatch(name) is not None


class Codec(Protocol):
    """One connection's side of HTTP/1.1.

    Attributes:
        status: The status code of the answer that is being received. None before its head is complete.
        headers: Its headers.
        parts: What has come of its body, and was not taken yet.
        complete: Whether the answer is complete.
        reusable: Whether the connection may carry another request, now that the request and the answer are complete.
    """

    status: int | None
    headers: Headers
    parts: deque[bytes]
    complete: bool

    @property
    def reusable(self) -> bool: ...

    def head(self, method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Begin a request, and return its first bytes.

        Raises:
            httpcore.LocalProtocolError: A header cannot be sent.
        """

    def body(self, part: bytes) -> bytes:
        """Return the bytes for a part of the request's body."""

    def end(self) -> bytes:
        """End the request, and return its last bytes.

        Raises:
            httpcore.LocalProtocolError: The body is not as long as its header says.
        """

    def receive(self, data: bytes) -> None:
        """Take in what came. No bytes: the server has closed the connection.

        Raises:
            httpcore.RemoteProtocolError: It is not HTTP, or ends in the middle.
        """


MakeCodec: TypeAlias = Callable[[], Codec]


class H11Codec:
    """By h11."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)
        self.status: int | None = None
        self.headers: Headers = []
        self.parts: deque[bytes] = deque()
        self.complete = False

    @property
    def reusable(self) -> bool:
        """Whether both sides are done and nothing came after the answer."""
        state = self._h11
        return state.our_state is h11.DONE and state.their_state is h11.DONE and state.trailing_data == (b"", False)

    def head(self, method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Begin a request, and return its first bytes."""
        if self.complete:
            self._h11.start_next_cycle()
        self.status, self.complete = None, False
        try:
            return self._h11.send(h11.Request(method=method, target=target, headers=list(headers))) or b""
        except h11.LocalProtocolError as error:
            raise httpcore.LocalProtocolError(str(error)) from error

    def body(self, part: bytes) -> bytes:
        """Return the bytes for a part of the request's body."""
        return self._send(h11.Data(data=part))

    def end(self) -> bytes:
        """End the request, and return its last bytes."""
        return self._send(h11.EndOfMessage())

    def _send(self, event: h11.Data | h11.EndOfMessage) -> bytes:
        try:
            return self._h11.send(event) or b""
        except h11.LocalProtocolError as error:
            raise httpcore.LocalProtocolError(str(error)) from error

    def receive(self, data: bytes) -> None:
        """Take in what came."""
        try:
            self._h11.receive_data(data)
            while not self.complete:
                event: Any = self._h11.next_event()
                kind = type(event)
                if kind is h11.Response or (kind is h11.InformationalResponse and event.status_code == _UPGRADED):
                    self.status, self.headers = event.status_code, event.headers.raw_items()
                elif kind is h11.Data:
                    self.parts.append(bytes(event.data))
                elif kind is h11.EndOfMessage or event is h11.PAUSED:
                    self.complete = True
                elif event is h11.NEED_DATA:
                    return
        except h11.RemoteProtocolError as error:
            raise httpcore.RemoteProtocolError(str(error)) from error


class HttptoolsCodec:
    """By httptools. Only requests whose body has a known length can be sent."""

    def __init__(self) -> None:
        import httptools  # noqa: PLC0415  # when it is needed

        self._failure = httptools.HttpParserError
        self._parser = httptools.HttpResponseParser(self)
        self._method = b""
        self._left = 0  # bytes of the request's body that are still to be sent. -1: the request has ended
        self._begun = 0  # answers whose first byte came since the last request began
        self._head_size = 0
        self._coming: Headers = []
        self._sound = True
        self.status: int | None = None
        self.headers: Headers = []
        self.parts: deque[bytes] = deque()
        self.complete = False

    @property
    def reusable(self) -> bool:
        """Whether both sides are done and nothing came after the answer."""
        return self._sound and self.complete and self._left < 0

    def head(self, method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Begin a request, and return its first bytes."""
        self.status, self.complete, self._method = None, False, method
        self._left = self._begun = self._head_size = 0
        lines = [b"%b %b HTTP/1.1\r\n" % (method, target)]
        sound = _TARGET.fullmatch(target) and _is_name(method)
        values = []
        for name, value in headers:
            sound = sound and _is_name(name)
            values.append(value)
            lines.append(b"%b: %b\r\n" % (name, value))
            if name.lower() == b"content-length":
                self._left = int(value)
        if not (sound and _VALUE.fullmatch(b"".join(values))):
            raise httpcore.LocalProtocolError("the request has a header that cannot be sent")
        lines.append(b"\r\n")
        return b"".join(lines)

    def body(self, part: bytes) -> bytes:
        """Return the bytes for a part of the request's body."""
        self._left -= len(part)
        if self._left < 0:
            raise httpcore.LocalProtocolError("Too much data for declared Content-Length")
        return part

    def end(self) -> bytes:
        """End the request, and return its last bytes."""
        if self._left:
            raise httpcore.LocalProtocolError("Too little data for declared Content-Length")
        self._left = -1
        return b""

    def receive(self, data: bytes) -> None:
        """Take in what came."""
        if not data:
            self._sound = False
            if self.status is None or not self._ends_with_connection():
                raise httpcore.RemoteProtocolError("the server closed the connection in the middle of its answer")
            self.complete = True
            return
        if self.status is None:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except self._failure as error:
            self._sound = False
            if not self.complete:
                raise httpcore.RemoteProtocolError(str(error.__context__ or error)) from error
        if self.status is None and self._head_size > _LONGEST_HEAD:
            raise httpcore.RemoteProtocolError("the head of the answer is too long")

    def _ends_with_connection(self) -> bool:
        """Whether the answer's body has no length of its own."""
        names = {name.lower() for name, _ in self.headers}
        return not names & {b"content-length", b"transfer-encoding"}

    # What httptools calls.

    def on_message_begin(self) -> None:
        """An answer begins. More than one to a request is one too many."""
        self._coming = []
        self._sound = self._sound and not self.complete

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer after the body."""
        if self.status is None:
            self._coming.append((name, value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        """The head is complete. Of those that only announce another, nothing is kept."""
        status = self._parser.get_status_code()
        if self.complete or (status < _FINAL and status != _UPGRADED):
            return
        self.status, self.headers = status, self._coming
        if self._method == b"HEAD" or status == _UPGRADED:
            self.complete, self._sound = True, False  # the parser would wait for a body

    def on_body(self, part: bytes) -> None:
        """A part of the body."""
        if not self.complete:
            self.parts.append(part)

    def on_message_complete(self) -> None:
        """An answer ends."""
        if self.status is not None and not self.complete:
            self.complete = True
            self._sound = self._sound and self._parser.should_keep_alive()

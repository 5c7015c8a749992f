"""HTTP/1.1 as bytes, without I/O: what a request looks like, and what an answer means.

Two well-kept parsers know the rules. h11 is written in Python and always there. httptools is llhttp, the parser of
Node.js, in C (``Client(http="fast")``, extra ``[fast]``). Both are strict, and the same tests hold for both. Requests
are written here, and with h11 an ordinary answer is read here as well (`OrdinaryAnswer`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

import h11
import httpcore

__all__ = ["Codec", "H11Codec", "Headers", "HttptoolsCodec", "MakeCodec", "OrdinaryAnswer"]
__all__ += ["write_fields", "write_head"]

Headers: TypeAlias = "list[tuple[bytes, bytes]]"

_LONGEST_HEAD = 100 * 1024  # bytes of a status line and headers. What is longer is refused
_UPGRADED = 101  # the status of an answer after which HTTP ends
_FINAL = 200  # the first status of an answer that is not followed by another
_NO_BODY = frozenset({b"204", b"304"})
_NAME_CHARACTERS = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_NAME = re.compile(_NAME_CHARACTERS + rb"+")
_VALUE = re.compile(rb"[^\x00\r\n]*")
_TARGET = re.compile(rb"[\x21-\x7e]+")


@lru_cache(maxsize=256)  # the names are the same in all requests
def _is_name(name: bytes) -> bool:
    return _NAME.fullmatch(name) is not None


def write_fields(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write the headers of a request.

    Raises:
        httpcore.LocalProtocolError: One cannot be sent.
    """
    lines = []
    for name, value in headers:
        if not (_is_name(name) and _VALUE.fullmatch(value)):
            raise httpcore.LocalProtocolError("the request has a header that cannot be sent")
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def write_head(method: bytes, target: bytes, fields: bytes) -> bytes:
    """Write the first bytes of a request.

    Args:
        method: Such as ``b"GET"``.
        target: Path and query.
        fields: From `write_fields`.

    Raises:
        httpcore.LocalProtocolError: The method or the target cannot be sent.
    """
    if not (_TARGET.fullmatch(target) and _is_name(method)):
        raise httpcore.LocalProtocolError("the request has a method or an address that cannot be sent")
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, fields)


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

    def begin(self, method: bytes) -> None:
        """Begin a request that was written elsewhere, and is sent whole."""

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


class _Codec:
    """What all have in common: only requests whose body has a known length can be sent."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: Headers = []
        self.parts: deque[bytes] = deque()
        self.complete = False
        self._method = b""
        self._left = 0  # bytes of the request's body that are still to be sent. -1: the request has ended

    def begin(self, method: bytes) -> None:
        """Begin a request that was written elsewhere, and is sent whole."""
        self.status, self.complete, self._method, self._left = None, False, method, -1

    def head(self, method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """Begin a request, and return its first bytes."""
        pairs = list(headers)
        text = write_head(method, target, write_fields(pairs))
        self.begin(method)
        self._left = next((int(value) for name, value in pairs if name.lower() == b"content-length"), 0)
        return text

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


class OrdinaryAnswer:
    """An answer whose head comes whole, in a form about which no two parsers disagree, read in one pass.

    That is nearly every answer. All others are h11's: a head in two parts, folded or repeated headers that decide where
    the body ends, a status without a body, trailers, a connection that ends. So this reads less than h11, never more
    (`tests/unit/http/test_ordinary_answers.py` compares the two), and what it does not read is not begun.

    Of a status call of 213 bytes it takes 5 us, h11 90 us. To repeat: `python -m benchmarks.requests --only aiohttp
    kling-engine`, with and without the line in `H11Codec.receive` that tries it.

    Attributes:
        status: The status code.
        headers: The headers.
        content: What has come of the body.
        missing: Bytes of the body that are still to come.
    """

    __slots__ = ("content", "headers", "missing", "status")

    _HEAD = re.compile(
        rb"HTTP/1\.1 ([2-5]\d\d)(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n"
        rb"((?:" + _NAME_CHARACTERS + rb"++:[\t\x20-\x7e\x80-\xff]*+(?<![\t ])\r\n)++)\r\n"
    )
    _FIELD = re.compile(rb"([^:]++):[\t ]*+([^\r]*+)\r\n")
    _CHUNK = re.compile(rb"([0-9A-Fa-f]{1,6})\r\n")
    _LAST = b"0\r\n\r\n"
    _LONGEST_LENGTH = 15  # digits

    def __init__(self, status: int, headers: Headers, content: bytes, missing: int) -> None:
        self.status = status
        self.headers = headers
        self.content = content
        self.missing = missing

    @classmethod
    def read(cls, data: bytes) -> OrdinaryAnswer | None:
        """Read what came first. None: it is not as ordinary as that, or has bytes behind it."""
        found = cls._HEAD.match(data, 0, _LONGEST_HEAD)
        if found is None or found[1] in _NO_BODY:
            return None
        headers: Headers = cls._FIELD.findall(data, *found.span(2))
        length = -1
        chunked = False
        for name, value in headers:
            name = name.lower()  # noqa: PLW2901  # only this is looked at
            if name == b"content-length":
                if length >= 0 or chunked or not value.isdigit() or len(value) > cls._LONGEST_LENGTH:
                    return None
                length = int(value)
            elif name == b"transfer-encoding":
                if length >= 0 or chunked or value != b"chunked":
                    return None
                chunked = True
            elif name == b"connection" and value.lower() != b"keep-alive":
                return None
        if chunked:
            whole = cls._chunks(data, found.end())
            return None if whole is None else cls(int(found[1]), headers, whole, 0)
        content = data[found.end() :]
        missing = length - len(content)
        return cls(int(found[1]), headers, content, missing) if length >= 0 <= missing else None

    @classmethod
    def _chunks(cls, data: bytes, place: int) -> bytes | None:
        """A body in chunks, if it has come whole and nothing behind it."""
        parts = []
        while not data.startswith(cls._LAST, place):
            found = cls._CHUNK.match(data, place)
            if found is None:
                return None
            begin, size = found.end(), int(found[1], 16)
            place = begin + size + 2
            if not size or data[place - 2 : place] != b"\r\n":
                return None
            parts.append(data[begin : place - 2])
        return b"".join(parts) if len(data) == place + len(cls._LAST) else None


class H11Codec(_Codec):
    """By h11, and ordinary answers in one pass."""

    def __init__(self) -> None:
        super().__init__()
        self._h11: h11.Connection | None = None  # reads the answer, unless it is ordinary
        self._missing = 0  # bytes of the body of an ordinary one that are still to come
        self._sound = True

    @property
    def reusable(self) -> bool:
        """Whether both sides are done and nothing came after the answer."""
        if not self.complete or self._left >= 0:
            return False
        state = self._h11
        return self._sound if state is None else state.their_state is h11.DONE and state.trailing_data == (b"", False)

    def begin(self, method: bytes) -> None:
        """Begin a request that was written elsewhere, and is sent whole."""
        super().begin(method)
        self._h11, self._missing, self._sound = None, 0, True

    def receive(self, data: bytes) -> None:
        """Take in what came."""
        if self._h11 is not None:
            self._receive_by_h11(self._h11, data)
        elif self.status is not None:
            self._receive_rest(data)
        elif self._method != b"HEAD" and (ordinary := OrdinaryAnswer.read(data)) is not None:
            self.status, self.headers, self._missing = ordinary.status, ordinary.headers, ordinary.missing
            if ordinary.content:
                self.parts.append(ordinary.content)
            self.complete = not self._missing
        else:
            # Of the request it wants to know the method. That there is no more of it to come is looked after here.
            self._h11 = h11.Connection(our_role=h11.CLIENT, max_incomplete_event_size=_LONGEST_HEAD)
            self._h11.send(h11.Request(method=self._method, target=b"/", headers=[(b"host", b"h")]))
            self._h11.send(h11.EndOfMessage())
            self._receive_by_h11(self._h11, data)

    def _receive_rest(self, data: bytes) -> None:
        """Take in more of an ordinary answer's body."""
        missing = self._missing
        if self.complete or len(data) > missing or not data:
            self._sound = False
        if self.complete:
            return
        if not data:
            raise httpcore.RemoteProtocolError("the server closed the connection in the middle of its answer")
        self.parts.append(data[:missing])
        self._missing = max(missing - len(data), 0)
        self.complete = not self._missing

    def _receive_by_h11(self, state: h11.Connection, data: bytes) -> None:
        try:
            state.receive_data(data)
            while not self.complete:
                event: Any = state.next_event()
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


class HttptoolsCodec(_Codec):
    """By httptools."""

    def __init__(self) -> None:
        import httptools  # noqa: PLC0415  # when it is needed

        super().__init__()
        self._failure = httptools.HttpParserError
        self._parser = httptools.HttpResponseParser(self)
        self._head_size = 0
        self._coming: Headers = []
        self._sound = True

    @property
    def reusable(self) -> bool:
        """Whether both sides are done and nothing came after the answer."""
        return self._sound and self.complete and self._left < 0

    def begin(self, method: bytes) -> None:
        """Begin a request that was written elsewhere, and is sent whole."""
        super().begin(method)
        self._head_size = 0

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

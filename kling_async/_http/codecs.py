"""HTTP/1.1 as bytes, without I/O: what a request looks like, and what an answer means. The rules are h11's."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

import h11
import httpcore

__all__ = ["Codec", "H11Codec", "Headers", "MakeCodec"]

Headers: TypeAlias = "list[tuple[bytes, bytes]]"

_LONGEST_HEAD = 100 * 1024  # bytes of a status line and headers. What is longer is refused
_UPGRADED = 101  # the status of an answer after which HTTP ends


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

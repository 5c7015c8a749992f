"""An HTTP response, whichever backend it comes from: its headers by the standard, its body unpacked and in pieces."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence

import anyio

from kling_async._errors import UnreadableReply

__all__ = [
    "Response",
    "header_values",
    "join_headers",
    "read_body",
    "read_headers",
    "read_whole_body",
    "text_headers",
    "too_long",
]

_PIECE = 256 * 1024  # bytes that are unpacked at once
_CODINGS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


def join_headers(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Headers by lower-case name. A header that is repeated is one list (RFC 9110, 5.3)."""
    joined: dict[str, str] = {}
    for given, value in pairs:
        name = given.lower()
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def read_headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The same of headers as they came."""
    joined: dict[str, str] = {}
    for given, raw in pairs:
        name, value = given.decode("latin-1").lower(), raw.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    return joined


def text_headers(pairs: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[str, str]]:
    """Headers as text."""
    return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs)


def header_values(headers: Mapping[str, str], name: str) -> list[str]:
    """The members of a header that is a list of words: lower case, without parameters and empty members."""
    members = (member.partition(";")[0].strip().lower() for member in headers.get(name, "").split(","))
    return [member for member in members if member]


class Response:
    """A response whose body is still to be read. It must be closed.

    Args:
        status: The status code.
        headers: Name and value of each header, in the order in which they came.
        parts: The body as it came, piece by piece.
        close: Gives the connection back.
        unpacked: Whether `parts` are unpacked already.
        take: Returns the whole body as it came and ends the answer, if it has come whole already, else None.

    Attributes:
        status_code: The status code.
        headers: Header values by lower-case name.
        packed: Whether the body came packed, so that lengths in the headers are not those of its content.
    """

    def __init__(
        self,
        status: int,
        headers: Iterable[tuple[str, str]],
        parts: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
        *,
        unpacked: bool = False,
        take: Callable[[], Awaitable[bytes | None]] | None = None,
    ) -> None:
        self.status_code = status
        self.headers = join_headers(headers)
        codings = [coding for coding in header_values(self.headers, "content-encoding") if coding != "identity"]
        self.packed = bool(codings)
        self._parts = parts
        self._close = close
        self._take = take
        self._closed = False  # what sends a body gives its connection back at the end of the body
        self._codings: Sequence[str] = () if unpacked else codings
        self._unpackers: list[_Unpacker] | None = None
        self._ready: Iterator[bytes] = iter(())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._codings:
            return await self._part()
        if self._unpackers is None:
            self._unpackers = [_Unpacker(coding) for coding in reversed(self._codings)]
        while True:
            try:
                piece = next(self._ready, None)
            except zlib.error as error:
                raise UnreadableReply(
                    f"the answer is not the {self._codings[-1]} that its header claims: {error}"
                ) from error
            if piece is not None:
                return piece
            try:
                packed = await self._part()
            except StopAsyncIteration:
                if not all(unpacker.complete for unpacker in self._unpackers):
                    raise UnreadableReply("the packed answer ends in the middle") from None
                raise
            self._ready = _unpack(self._unpackers, packed)

    async def _part(self) -> bytes:
        try:
            return await anext(self._parts)
        except StopAsyncIteration:
            self._closed = True
            raise

    async def whole(self) -> bytes | None:
        """The body, if it is here already, as that of a status call is. It takes no step for each part and the end."""
        if self._take is None or self._codings:
            return None
        content = await self._take()
        self._closed = content is not None
        return content

    async def aclose(self) -> None:
        """Give the connection back, shielded from cancellation."""
        if not self._closed:
            self._closed = True
            with anyio.CancelScope(shield=True):
                await self._close()


class _Unpacker:
    """One coding of a body. A gzip body may consist of several members (RFC 1952, 2.2)."""

    def __init__(self, coding: str) -> None:
        if coding not in _CODINGS:
            raise UnreadableReply(f"the answer is packed as {coding[:40]!r}, which was not asked for")
        self._window = _CODINGS[coding]
        self._member = zlib.decompressobj(self._window)
        self._begun = False
        self._members = 0

    @property
    def complete(self) -> bool:
        """Whether no member is cut off."""
        return not self._begun

    def unpack(self, packed: bytes) -> Iterator[bytes]:
        while packed:
            if not self._begun and self._members and not packed.lstrip(b"\0"):
                return  # padding after the last member
            self._begun = True
            piece = self._member.decompress(packed, _PIECE)  # a little at a time: the reader has a limit
            if piece:
                yield piece
            packed = self._member.unconsumed_tail
            while not packed and len(piece) == _PIECE and not self._member.eof:
                piece = self._member.decompress(b"", _PIECE)
                if piece:
                    yield piece
            if self._member.eof:
                packed = self._member.unused_data
                self._member, self._begun = zlib.decompressobj(self._window), False
                self._members += 1


def _unpack(unpackers: Sequence[_Unpacker], packed: bytes) -> Iterator[bytes]:
    first, *others = unpackers
    for piece in first.unpack(packed):
        if others:
            yield from _unpack(others, piece)
        else:
            yield piece


def too_long(limit: int, status: int) -> UnreadableReply:
    """The error for an answer that is longer than that."""
    return UnreadableReply(f"the answer is larger than {limit} bytes", http_status=status)


async def read_whole_body(response: Response, limit: int) -> bytes:
    """Return the body.

    Raises:
        UnreadableReply: It is longer than `limit` bytes, or is not packed as its header claims.
    """
    content = await response.whole()
    if content is not None and len(content) <= limit:
        return content
    parts: list[bytes] = []
    size = 0 if content is None else len(content)
    async for part in response:
        size += len(part)
        if size > limit:
            break
        parts.append(part)
    if size > limit:
        with anyio.CancelScope() as reading:  # what is read is ended from within: see `read_body`
            reading.cancel()
            async for _ in response:
                pass
        raise too_long(limit, response.status_code)
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def read_body(response: Response, take: Callable[[bytes], Awaitable[None] | None]) -> None:
    """Pass each part of a body on as it comes, until one cannot be taken.

    What takes a part returns what is to be awaited before the next one, shielded, or None.

    A loop that is left by an exception leaves the generators that it runs on open, httpx's too, and nobody to close
    them. So the loop is never left: a failure cancels the wait for the next part, which ends them from within.
    """
    failure: Exception | None = None
    with anyio.CancelScope() as reading:
        async for part in response:
            if failure is not None:
                continue
            try:
                work = take(part)
                if work is not None:
                    with anyio.CancelScope(shield=True):
                        await work
            except Exception as error:  # noqa: BLE001  # raised below
                failure = error
                reading.cancel()
    if failure is not None:
        raise failure

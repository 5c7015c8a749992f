"""One HTTP exchange as plain data, and flows: provider protocols without I/O."""

from __future__ import annotations

import enum
from collections.abc import Generator, Iterator, Mapping
from dataclasses import field
from typing import Any, TypeAlias, TypeVar

import pydantic_core

from kling_async._errors import UnreadableReply
from kling_async._exchange.json_body import read_json
from kling_async._media.local_file import FileText, LocalFile
from kling_async._records import record

__all__ = ["Call", "Effect", "FileBody", "Flow", "Reply"]

MIB = 1024 * 1024
_EXCERPT = 300  # bytes of an answer that a message quotes


class Effect(enum.Enum):
    """What sending a call twice would do."""

    READ = "read"
    """Nothing: it only asks."""
    WRITE = "write"
    """Nothing harmful: an upload, a cancellation."""
    PAID = "paid"
    """Buy twice."""


@record
class FileBody:
    """A body with local files in it, which are read while it is sent. Its length is known before.

    Attributes:
        parts: What it consists of: bytes, files as they are, and files as base64.
    """

    parts: tuple[bytes | LocalFile | FileText, ...]

    def __len__(self) -> int:
        return sum(part.length if isinstance(part, FileText) else len(part) for part in self.parts)

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """The body, piece by piece, from its beginning. Each step may block.

        Raises:
            FileChanged: A file is not what it was. The rest of it did not come, so nobody has received a whole body.
        """
        for part in self.parts:
            pieces = (part,) if isinstance(part, bytes) else part.pieces()
            yield from (piece for piece in pieces if piece)

    @classmethod
    def of_json(cls, text: bytes, files: list[FileText]) -> FileBody:
        """The body of a JSON text in which those files stand, in that order."""
        parts: list[bytes | LocalFile | FileText] = []
        for file in files:
            before, _, text = text.partition(file.encode())
            parts += [before, file]
        return cls((*parts, text))


@record
class Call:
    """One HTTP request to make.

    Attributes:
        method: ``"GET"``, ``"POST"``, ...
        url: A path such as ``"/v1/jobs"`` belongs to the provider's own address and is sent with its credentials.
            An absolute URL (an upload address, say) is never sent with credentials.
        effect: What sending it twice would do.
        body: The body, ready to send.
        streamed: The body where it has local files in it, which are read while it is sent. Then `body` is empty.
        headers: Headers besides the credentials.
        repeatable: For PAID calls: the provider recognises a repetition by an id that we chose, so a call whose
            answer was lost may be sent again.
        json: The answer is JSON. An answer with success status that is not JSON is unreadable.
        slot: For PAID calls of a provider that bounds running jobs: what it counts them by.
        timeout: Seconds from start to the last byte of the answer. If None, the transport's own limit.
        max_bytes: The largest decoded body that is accepted.
        any_status: For READ calls: the status code belongs to what is read, such as the result of a job that failed
            with 500. So the flow receives every complete answer, and decides what it means.
    """

    method: str
    url: str
    effect: Effect
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    repeatable: bool = False
    json: bool = True
    slot: str = ""
    timeout: float | None = None
    max_bytes: int = 16 * MIB
    any_status: bool = False
    streamed: FileBody | None = field(default=None, repr=False)

    @property
    def content(self) -> bytes | FileBody:
        """The body in whichever form it has."""
        return self.body if self.streamed is None else self.streamed

    @classmethod
    def get(cls, url: str, **more: Any) -> Call:
        """A READ call with GET. Its answer is small: status answers have no more than some kilobytes."""
        return cls("GET", url, Effect.READ, **{"max_bytes": MIB, **more})

    @classmethod
    def post(cls, url: str, payload: Any, effect: Effect, **more: Any) -> Call:
        """A POST of a JSON payload. Bytes in it must already be text: the encoder makes one copy, not three."""
        body = pydantic_core.to_json(payload)
        streamed = None
        if files := list(_files_in(payload)):
            body, streamed = b"", FileBody.of_json(body, files)
        headers = {"content-type": "application/json", **more.pop("headers", {})}
        return cls("POST", url, effect, body, headers, streamed=streamed, **more)

    @classmethod
    def upload(cls, method: str, url: str, content: bytes | LocalFile, headers: Mapping[str, str], **more: Any) -> Call:
        """A WRITE call whose body is one file."""
        if isinstance(content, LocalFile):
            return cls(method, url, Effect.WRITE, headers=headers, streamed=FileBody((content,)), **more)
        return cls(method, url, Effect.WRITE, content, headers, **more)


@record
class Reply:
    """One HTTP response, read to its end.

    Attributes:
        status: The status code.
        headers: Header values by lower-case name.
        content: The decoded body.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    content: bytes = field(default=b"", repr=False)
    _decoded: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)  # empty, or the value

    @property
    def ok(self) -> bool:
        """Whether the status is a success (2xx)."""
        return 200 <= self.status < 300  # noqa: PLR2004  # the range of success codes is HTTP's

    def json(self) -> Any:
        """The decoded body. It is decoded once.

        Raises:
            UnreadableReply: The body is not JSON.
        """
        if self._decoded:
            return self._decoded[0]
        try:
            self._decoded.append(read_json(self.content))
            return self._decoded[0]
        except ValueError as error:
            raise UnreadableReply(
                f"the answer is not JSON: {len(self.content)} bytes of {self.media_type or 'no content type'}",
                http_status=self.status,
            ) from error

    @property
    def media_type(self) -> str:
        """The type that the answer's ``Content-Type`` names, without parameters, empty if it names none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()[:80]

    def excerpt(self) -> str:
        """Description of an answer that is not in the provider's words: type, sender, and how it begins.

        It may contain a secret, so it must be redacted before it is shown.
        """
        server = self.headers.get("server", "").strip()[:40]
        text = " ".join(self.content[:_EXCERPT].decode("utf-8", "replace").split())
        origin = f"{self.media_type or 'no content type'}{f' from {server}' if server else ''}"
        return f"{origin}: {text}" if text else f"{origin}, empty"


def _files_in(payload: Any) -> Iterator[FileText]:
    """The files in a payload, in the order in which JSON has them."""
    if isinstance(payload, FileText):
        yield payload
    elif isinstance(payload, str | int | float | None):
        pass  # nearly all
    elif isinstance(payload, Mapping):
        for value in payload.values():
            yield from _files_in(value)
    elif isinstance(payload, list | tuple):
        for value in payload:
            yield from _files_in(value)


T = TypeVar("T")
Flow: TypeAlias = Generator[Call, Reply, T]
"""A provider's operation: yields the calls to make, is sent their replies, returns a value."""

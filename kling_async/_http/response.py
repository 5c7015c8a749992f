"""A response whose body is read in pieces."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

import anyio

__all__ = ["Response", "read_body"]


_GZIP = 16 + zlib.MAX_WBITS
_PIECE = 256 * 1024  # bytes that are unpacked at once


class Response(Protocol):
    """The part of a response, of whichever engine, that is used."""

    status_code: int
    headers: Any

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The decoded body, piece by piece."""
        ...

    async def aclose(self) -> None:
        """Give the connection back."""
        ...


async def read_body(response: Response, take: Callable[[bytes], Awaitable[None]]) -> None:
    """Pass each part of a body on as it comes, until one cannot be taken.

    A loop that is left by an exception leaves the generators that it runs on open, httpx's too, and nobody to close
    them. So the loop is never left: a failure cancels the wait for the next part, which ends them from within.
    """
    failure: Exception | None = None
    with anyio.CancelScope() as report:
        async for part in response.aiter_bytes():
            if failure is not None:
                continue
            try:
                with anyio.CancelScope(shield=True):
                    await take(part)
            except Exception as error:  # noqa: BLE001  # raised below
                failure = error
                report.cancel()
    if failure is not None:
        raise failure

"""The input of a bulk run: its rows, pulled one at a time."""

from __future__ import annotations

import operator
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import field
from typing import Any, TypeAlias

import anyio

from kling_async._errors import ConfigurationError
from kling_async._event_loop.turns import TurnLimit
from kling_async._records import record
from kling_async._submission.submitter import require_tags
from kling_async._validation import given
from kling_async.providers._base.request import Request

__all__ = ["Row", "RowSource", "Rows"]

InputRow: TypeAlias = Request | tuple[str, Request] | tuple[str | None, Request, Mapping[str, str]]
"""A request, or one with a key, or one with a key and tags."""
Rows: TypeAlias = Iterable[InputRow] | AsyncIterable[InputRow]
"""What `Client.map` takes."""

_AT_ONCE = 2  # rows that are begun in one turn of the event loop. A hundred would hold it up for 50 ms
_PAIR = 2
_TRIPLE = 3
_END: Any = object()


@record
class Row:
    """One row of the input."""

    index: int
    key: str | None
    request: Request
    tags: Mapping[str, str] = field(default_factory=dict)


class RowSource:
    """Pulls rows from the input, one at a time, and numbers them.

    Args:
        rows: The input.
    """

    def __init__(self, rows: Rows) -> None:
        # A request is iterable, too: over its fields.
        if isinstance(rows, Request) or not isinstance(rows, Iterable | AsyncIterable):
            raise ConfigurationError(f"Client.map(requests) takes a list of requests or the like, not {given(rows)}")
        self._rows = rows
        self.total: int | None = operator.length_hint(rows, -1) if hasattr(rows, "__len__") else None
        """How many rows there are, where the input has a length."""
        self._iterator: Iterator[Any] | AsyncIterator[Any] = iter(())
        self._index = 0
        self._stopped = False
        self._lock = anyio.Lock()
        self._pulling: anyio.CancelScope | None = None
        self._turns = TurnLimit(_AT_ONCE)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def start(self) -> None:
        """Begin with the first row."""
        self._iterator = aiter(self._rows) if isinstance(self._rows, AsyncIterable) else iter(self._rows)

    def stop(self) -> None:
        """End the input here, also while a row is being pulled."""
        self._stopped = True
        if self._pulling is not None:
            self._pulling.cancel()

    async def pull(self) -> Row | None:
        """Return the next row. None after the last.

        Raises:
            TypeError: It is not a request or a pair of a key and a request.
        """
        if isinstance(self._iterator, AsyncIterator):
            async with self._lock:
                row = await self._pull_next(self._iterator)
        else:
            await self._turns.step()
            row = _END if self._stopped else next(self._iterator, _END)
        if row is _END:
            return None
        index, self._index = self._index, self._index + 1
        key, request, tags = None, row, None
        if isinstance(row, tuple) and len(row) == _PAIR:
            key, request = row
        elif isinstance(row, tuple) and len(row) == _TRIPLE:
            key, request, tags = row
        if not isinstance(request, Request):
            raise TypeError(
                f"row {index} of the input is {type(row).__name__}, not a request or a pair of a key and a request"
            )
        return Row(index, key, request, require_tags(tags))

    async def _pull_next(self, iterator: AsyncIterator[Any]) -> Any:
        """The next row of an async iterator. `stop` ends the wait for it."""
        row: Any = _END
        if not self._stopped:
            with anyio.CancelScope() as self._pulling, suppress(StopAsyncIteration):
                row = await anext(iterator)
        return row

    async def aclose(self) -> None:
        """Close the input, if it is an async generator."""
        if isinstance(self._iterator, AsyncGenerator):
            with anyio.CancelScope(shield=True):
                await self._iterator.aclose()

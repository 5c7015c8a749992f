"""Cancel an operation when it suspends for the k-th time."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio

__all__ = ["cancelled_at", "reached"]


@types.coroutine
def stepwise(
    operation: Awaitable[Any], count: int, cancel: Callable[[], object]
) -> Generator[Any, Any, tuple[int, object]]:
    """Await `operation`, and call `cancel` when it suspends for the `count`-th time. Gives the steps it took."""
    steps = 0
    iterator = operation.__await__()
    answer: Any = None
    failure: BaseException | None = None
    while True:
        try:
            wanted = iterator.throw(failure) if failure is not None else iterator.send(answer)
        except StopIteration as end:
            return steps, end.value
        steps += 1
        if steps == count:
            cancel()
        answer, failure = None, None
        try:
            answer = yield wanted
        except BaseException as error:  # noqa: BLE001  # it is the operation's to deal with
            failure = error


async def cancelled_at(count: int, operation: Callable[[], Awaitable[Any]], *, native: bool) -> bool:
    """Whether the operation was still under way at that step, and was cancelled there."""
    _, ended = await _run(count, operation, native=native)
    return not ended


async def reached(count: int, operation: Callable[[], Awaitable[Any]], *, native: bool) -> bool:
    """Whether the operation came to that step. It was cancelled there, which it may have held back."""
    called, _ = await _run(count, operation, native=native)
    return called


async def _run(count: int, operation: Callable[[], Awaitable[Any]], *, native: bool) -> tuple[bool, bool]:
    """Whether it was told to stop, and whether it came to its own end."""
    called: list[None] = []
    ended: list[object] = []

    async def run(cancel: Callable[[], object]) -> None:
        def stop() -> None:
            called.append(None)
            cancel()

        ended.append(await stepwise(operation(), count, stop))

    if native:

        async def task() -> None:
            current = asyncio.current_task()
            assert current is not None
            await run(current.cancel)

        started = asyncio.create_task(task())
        await asyncio.wait([started])
        if not started.cancelled():
            started.result()
    else:
        with anyio.CancelScope() as scope:
            await run(scope.cancel)
    return bool(called), bool(ended)

"""How many tasks go on in a turn of asyncio's loop when answers have come to all of them."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from kling_async._http.asyncio_socket import AsyncioSocket
from kling_async._http.wake_limit import WakeLimit

PATIENCE = 120.0  # s


class Readers:
    """Tasks that each read from a socket of their own.

    Attributes:
        read: The numbers of those that have their answers, in order.
        late: The numbers of those whose time was over before.
        turns: How many had theirs after each turn.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self.sockets = [AsyncioSocket() for _ in range(count)]
        self.read: list[int] = []
        self.late: list[int] = []
        self.turns: list[int] = []
        self._deadline = asyncio.get_running_loop().time() + seconds
        self.tasks = [asyncio.create_task(self._read(number)) for number in range(count)]

    async def _read(self, number: int) -> None:
        try:
            assert await self.sockets[number].receive_by(self._deadline) == b"answer"
        except TimeoutError:
            self.late.append(number)
        else:
            self.read.append(number)

    async def finish(self) -> None:
        """Wait for all of them, and count turns."""
        with anyio.fail_after(PATIENCE):
            while not all(task.done() for task in self.tasks):
                await asyncio.sleep(0)
                self.turns.append(len(self.read))


@asynccontextmanager
async def reading(count: int, seconds: float = PATIENCE) -> AsyncIterator[Readers]:
    readers = Readers(count, seconds)
    await asyncio.sleep(0)  # all of them wait
    try:
        yield readers
    finally:
        for stream in readers.sockets:
            stream.connection_lost(None)


@pytest.mark.asyncio
async def test_of_a_hundred_answers_eight_are_used_in_a_turn_and_in_order() -> None:
    async with reading(100) as readers:
        for stream in readers.sockets:
            stream.data_received(b"answer")
        await readers.finish()
    assert readers.read == list(range(100))
    steps = [later - earlier for earlier, later in itertools.pairwise([0, *readers.turns])]
    assert max(steps) == 8
    assert len([step for step in steps if step]) == 13, "no turn is lost between"


@pytest.mark.asyncio
async def test_answers_that_come_one_after_the_other_do_not_wait() -> None:
    async with reading(40) as readers:
        for stream in readers.sockets:
            stream.data_received(b"answer")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert readers.sockets[len(readers.read) - 1] is stream
        await readers.finish()


@pytest.mark.asyncio
async def test_those_who_leave_while_they_wait_for_their_turn_hold_up_nobody() -> None:
    async with reading(100) as readers:
        for stream in readers.sockets:
            stream.data_received(b"answer")
        for task in readers.tasks[4:90]:
            task.cancel()
        await readers.finish()
    assert readers.read == [*range(4), *range(90, 100)]


@pytest.mark.asyncio
async def test_an_answer_that_came_just_before_the_time_was_over_does_not_wait() -> None:
    """A process that was stopped finds the answer and the time limit of whoever asked in the same turn."""
    async with reading(100, seconds=0.9) as readers:
        for stream in readers.sockets:
            stream.data_received(b"answer")
        await readers.finish()
    assert readers.turns[0] == 100


@pytest.mark.asyncio
async def test_an_answer_whose_time_is_over_while_it_waits_for_its_turn_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()
    async with reading(100) as readers:
        for stream in readers.sockets[:-1]:
            stream.data_received(b"answer")
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now + PATIENCE + 1)
        await readers.finish()
        monkeypatch.undo()
    assert sorted(readers.read) == list(range(99))
    assert readers.late == [99], "nothing came for the last one"


@pytest.mark.asyncio
async def test_all_that_have_come_are_used_at_once_where_the_time_of_a_paid_call_is_over() -> None:
    async with reading(100) as readers:
        for stream in readers.sockets:
            stream.data_received(b"answer")
        WakeLimit.of_loop().wake_all()
        await readers.finish()
    assert readers.turns[0] == 100


@pytest.mark.asyncio
async def test_what_ends_the_wait_otherwise_is_not_ended_again() -> None:
    limit = WakeLimit.of_loop()
    assert WakeLimit.of_loop() is limit
    futures = [asyncio.get_running_loop().create_future() for _ in range(20)]
    for future in futures:
        limit.wake(future)
        if not future.done():
            future.set_exception(TimeoutError())
            limit.wake(future)
    results = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(each) for each in results] == [type(None)] * 8 + [TimeoutError] * 12
    last = asyncio.get_running_loop().create_future()
    limit.wake(last)
    await last


def test_an_event_loop_that_is_over_is_forgotten() -> None:
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def use() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        async with reading(40) as readers:
            for stream in readers.sockets:
                stream.data_received(b"answer")
        for task in readers.tasks:
            task.cancel()  # the loop ends before most of them are woken

    asyncio.run(use())
    gc.collect()
    assert [loop() for loop in loops] == [None]

"""The clock of `kling_async.testing`: time jumps where nothing is ready, and threads are waited for."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import anyio
import pytest
from anyio import to_thread

from kling_async.testing import VirtualClock


def test_sleep_passes_at_once_and_in_order() -> None:
    order: list[str] = []

    async def wait(name: str, seconds: float) -> None:
        await anyio.sleep(seconds)
        order.append(name)

    async def main() -> float:
        begin = asyncio.get_running_loop().time()
        async with anyio.create_task_group() as group:
            group.start_soon(wait, "an hour", 3600)
            group.start_soon(wait, "a minute", 60)
        return asyncio.get_running_loop().time() - begin

    with VirtualClock() as clock:
        passed = asyncio.run(main())
    assert order == ["a minute", "an hour"]
    assert passed == pytest.approx(3600, abs=1)
    assert clock.passed == pytest.approx(3600, abs=1)


@pytest.mark.asyncio
async def test_it_may_begin_and_end_inside_of_a_running_loop() -> None:
    with VirtualClock() as clock:
        await asyncio.sleep(500)
    assert clock.passed == pytest.approx(500, abs=1)


def test_time_limits_end_what_waits() -> None:
    async def main() -> bool:
        with anyio.move_on_after(1000) as scope:
            await anyio.sleep_forever()
        return scope.cancelled_caught

    with VirtualClock():
        assert asyncio.run(main())


@pytest.mark.parametrize("how", ["anyio", "executor"])
def test_work_in_threads_is_waited_for(how: str) -> None:
    """A time limit of seconds does not pass while a thread works for a while of real time."""

    async def main() -> None:
        with anyio.fail_after(5):
            if how == "anyio":
                await to_thread.run_sync(time.sleep, 0.2)
            else:
                await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0.2)

    with VirtualClock() as clock:
        asyncio.run(main())
    assert clock.passed < 5


def test_the_end_of_the_loop_waits_for_threads() -> None:
    """The loop waits at most five minutes for them since Python 3.12, and warns. Those minutes do not jump."""
    done: list[bool] = []

    def work() -> None:
        time.sleep(0.2)
        done.append(True)

    async def main() -> None:
        executor = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(executor)
        executor.submit(work)  # unknown to the event loop, as a thread that has still to end is

    with VirtualClock() as clock:
        asyncio.run(main())
    assert done == [True]
    assert clock.passed < 5


def test_other_threads_keep_real_time() -> None:
    times: list[float] = []

    def other() -> None:
        with closing(asyncio.new_event_loop()) as loop:
            times.append(loop.time() - time.monotonic())

    async def main() -> None:
        await anyio.sleep(3600)

    with VirtualClock():
        asyncio.run(main())
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert abs(times[0]) < 60


def test_everything_is_as_before_afterwards() -> None:
    before = (asyncio.BaseEventLoop.time, asyncio.BaseEventLoop.run_in_executor, to_thread.run_sync)
    with VirtualClock():
        pass
    assert (asyncio.BaseEventLoop.time, asyncio.BaseEventLoop.run_in_executor, to_thread.run_sync) == before

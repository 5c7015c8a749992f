"""One time limit for many steps, and what wakes one task."""

from __future__ import annotations

import math

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kling_async._event_loop.clock import loop_time
from kling_async._event_loop.moving_limit import MovingLimit
from kling_async._event_loop.notifier import Notifier

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def test_a_step_ends_at_its_own_limit() -> None:
    begin = loop_time()
    with anyio.CancelScope() as scope:
        limit = MovingLimit(scope)
        for seconds in (100.0, 5.0, 50.0):
            limit.begin(loop_time() + seconds)
            await anyio.sleep(4)
            limit.end()
        limit.begin(loop_time() + 7)
        await anyio.sleep(1_000)
    assert scope.cancelled_caught
    assert loop_time() - begin == pytest.approx(3 * 4 + 7)


async def test_an_earlier_limit_ends_no_later_step_and_no_rest() -> None:
    with anyio.CancelScope() as scope:
        limit = MovingLimit(scope)
        limit.begin(loop_time() + 5)
        limit.end()
        await anyio.sleep(10)
        limit.begin(loop_time() + 5)
        limit.begin(loop_time() + 100)
        await anyio.sleep(50)
        limit.end()
        limit.close()
        await anyio.sleep(1_000)
    assert not scope.cancel_called
    assert scope.deadline == math.inf


async def test_a_limit_that_is_closed_leaves_no_timer() -> None:
    with anyio.CancelScope() as scope:
        limit = MovingLimit(scope)
        limit.begin(loop_time() + 5)
        limit.close()
        limit.end()
        await anyio.sleep(10)
    assert not scope.cancel_called


async def test_a_notifier_wakes_who_waits_each_time() -> None:
    notifier, woken = Notifier(), 0

    async def wait() -> None:
        nonlocal woken
        for _ in range(3):
            await notifier.wait()
            woken += 1

    async with anyio.create_task_group() as group:
        notifier.notify()  # nobody waits: it is not remembered
        group.start_soon(wait)
        for number in range(3):
            await anyio.sleep(1)
            assert woken == number
            notifier.notify()
            notifier.notify()
    assert woken == 3


async def test_a_notifier_whose_task_left_wakes_the_next_wait() -> None:
    notifier = Notifier()
    with anyio.move_on_after(1) as scope:
        await notifier.wait()
    assert scope.cancelled_caught
    notifier.notify()
    async with anyio.create_task_group() as group:
        group.start_soon(notifier.wait)
        await anyio.sleep(1)
        assert not group.cancel_scope.cancel_called
        notifier.notify()
    await checkpoint()

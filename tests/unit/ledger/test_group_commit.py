"""The ledger's thread, over a database that fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import anyio
import pytest

from kling_async import LedgerFailed
from kling_async._ledger import group_commit
from kling_async._ledger.group_commit import LedgerThread, News, Operation, _Inbox
from kling_async._ledger.leases import Leases

pytestmark = pytest.mark.anyio

PATIENCE = 120.0  # s
TRIES = 5


class Broken:
    """A database of which only operations work."""

    def commit(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            [operation.value] = operation.kind(self, [operation.argument])

    def close(self) -> None: ...

    def end(self) -> None: ...

    def renew(self) -> None:
        raise OSError("the disk is gone")

    def changed(self) -> bool:
        raise OSError("the disk is gone")

    def news(self, *, restart: bool) -> News:
        del restart
        return News()

    def logs(self, refs: Sequence[str]) -> News:
        del refs
        return News()

    def take(self, refs: Sequence[str]) -> Sequence[str]:
        return refs

    def give_back(self, refs: Sequence[str]) -> None:
        del refs
        raise OSError("the disk is gone")


class Waits(_Inbox):
    """An inbox that notes how long the thread would have waited, and does not wait after a failure."""

    def __init__(self) -> None:
        super().__init__()
        self.failed: list[float] = []
        self.enough = threading.Event()

    def wait(self, enough: int, seconds: float | None) -> None:
        if seconds is None or len(self.failed) >= TRIES:
            super().wait(enough, None)
            return
        self.failed.append(seconds)
        if len(self.failed) == TRIES:
            self.enough.set()


@pytest.mark.parametrize("watched", [True, False])
async def test_a_thread_whose_database_fails_waits_between_its_tries(
    watched: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It has leases, or somebody waits for a job. What is asked for is answered all the same, in between."""
    leases = Leases()
    leases.grant(["job"])
    if watched:
        leases.want("job")
    thread = LedgerThread("jobs.db", "ledger", Broken, lambda error: LedgerFailed(str(error)), leases)
    waits = thread._inbox = Waits()
    assert await thread.perform(lambda _, arguments: arguments, "asked") == "asked"
    with anyio.fail_after(PATIENCE):
        await anyio.to_thread.run_sync(waits.enough.wait)
    assert await thread.perform(lambda _, arguments: arguments, "again") == "again"
    await thread.aclose()
    assert all(wait >= 1.0 for wait in waits.failed[1:])
    seen = [each for each in caplog.records if "are not seen until it works again" in each.getMessage()]
    assert len([each for each in seen if each.levelname == "WARNING"]) == watched


def operation(name: str) -> Operation:
    return Operation(lambda _, arguments: arguments, name)


async def test_the_thread_wakes_when_enough_operations_have_come_and_when_it_is_called() -> None:
    inbox = _Inbox()
    woken = threading.Event()

    def wait(enough: int) -> None:
        inbox.wait(enough, PATIENCE)
        woken.set()

    for enough in (1, 2):
        threading.Thread(target=wait, args=(enough,), daemon=True).start()
        inbox.put(operation(f"number {enough}"))
        assert woken.wait(PATIENCE / 2)
        woken.clear()
    threading.Thread(target=wait, args=(9,), daemon=True).start()
    inbox.call()
    assert woken.wait(PATIENCE / 2)
    inbox.wait(2, None)  # they are here already
    assert [each.argument for each in inbox.take(1)] == ["number 1"]
    assert [each.argument for each in inbox.take(9)] == ["number 2"]
    assert not inbox


async def test_a_task_that_is_cancelled_does_not_keep_others_from_being_answered() -> None:
    """What it asked for is done all the same, in one group with what others ask for."""
    begun, go = threading.Event(), threading.Event()
    done: list[str] = []

    def kind(_: object, arguments: Sequence[str]) -> Sequence[str]:
        begun.set()
        go.wait(PATIENCE)
        done.extend(arguments)
        return arguments

    thread = LedgerThread("jobs.db", "ledger", Broken, lambda error: LedgerFailed(str(error)), Leases())
    async with anyio.create_task_group() as group:
        group.start_soon(thread.perform, kind, "first")
        await anyio.to_thread.run_sync(begun.wait)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await thread.perform(kind, "cancelled")
        assert scope.cancelled_caught
        group.start_soon(thread.perform, kind, "last")
        go.set()
    await thread.aclose()
    assert done == ["first", "cancelled", "last"]


class Held:
    """A kind of operation that waits until it may go on."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def kind(self, _: object, arguments: Sequence[str]) -> Sequence[str]:
        self.begun.set()
        self.go.wait(PATIENCE)
        return arguments


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("shielded", [False, True])
async def test_a_shielded_write_is_waited_for_though_its_scope_is_cancelled(shielded: bool, early: bool) -> None:
    held, ended, scope = Held(), anyio.Event(), anyio.CancelScope()
    answers: list[str] = []

    async def write() -> None:
        with scope:
            if early:
                scope.cancel()
            answers.append(await thread.perform(held.kind, "write", shielded=shielded))
            await anyio.lowlevel.checkpoint()
            answers.append("after the cancellation")
        ended.set()

    thread = LedgerThread("jobs.db", "ledger", Broken, lambda error: LedgerFailed(str(error)), Leases())
    async with anyio.create_task_group() as group:
        group.start_soon(write)
        await anyio.to_thread.run_sync(held.begun.wait)
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert ended.is_set() is not shielded
        held.go.set()
        with anyio.fail_after(PATIENCE):
            await ended.wait()
    await thread.aclose()
    assert answers == (["write"] if shielded else [])
    assert scope.cancelled_caught


async def test_a_whole_write_may_be_answered_in_the_turn_in_which_its_scope_is_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, scope, scheduled = Held(), anyio.CancelScope(), threading.Event()
    answers: list[str] = []

    def schedule(loop: object, call: Callable[[], object]) -> None:
        original(loop, call)
        scheduled.set()

    async def write() -> None:
        with scope:
            answers.append(await thread.perform(held.kind, "write", shielded=True))

    original = group_commit._schedule
    monkeypatch.setattr(group_commit, "_schedule", schedule)
    thread = LedgerThread("jobs.db", "ledger", Broken, lambda error: LedgerFailed(str(error)), Leases())
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(write)
            await anyio.to_thread.run_sync(held.begun.wait)
            held.go.set()
            assert scheduled.wait(PATIENCE)  # it holds up the loop, so that the answer comes after the cancellation
            scope.cancel()
    await thread.aclose()
    assert answers == ["write"]


async def test_a_task_that_is_cancelled_by_asyncio_does_not_wait_for_its_whole_write(anyio_backend_name: str) -> None:
    """Same as a shielded scope of anyio: the end of a loop cancels all tasks, and waits for them."""
    if anyio_backend_name == "trio":
        pytest.skip("a task cannot be cancelled but by its scope")
    held = Held()
    thread = LedgerThread("jobs.db", "ledger", Broken, lambda error: LedgerFailed(str(error)), Leases())
    task = asyncio.create_task(thread.perform(held.kind, "write", shielded=True))
    await anyio.to_thread.run_sync(held.begun.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    held.go.set()
    await thread.aclose()

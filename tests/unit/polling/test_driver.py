"""The election of a driver, without HTTP and without jobs."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import anyio
import pytest

import kling_async
from kling_async._polling.driver import DriverElection
from kling_async._tracking.poll_state import PollState

pytestmark = pytest.mark.anyio


class Waiter:
    """Drives if nobody does, else rests. It counts how often it did which."""

    def __init__(self, election: DriverElection[Waiter]) -> None:
        self.election = election
        self.busy = False
        self.drove = 0
        self.finished = False
        self._changed = anyio.Event()

    def wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def run(self, *, task_status: anyio.abc.TaskStatus[anyio.CancelScope] = anyio.TASK_STATUS_IGNORED) -> None:
        with anyio.CancelScope() as scope:
            task_status.started(scope)
            try:
                while not self.finished:
                    if self.election.driver is None:
                        with self.election.driving(self):
                            assert self.election.driver is self
                            self.drove += 1
                            await self._changed.wait()
                    else:
                        self.election.begin_rest(self)
                        try:
                            await self._changed.wait()
                        finally:
                            self.election.end_rest(self)
            finally:
                self.election.call()


@pytest.fixture
def election() -> DriverElection[Waiter]:
    return DriverElection()


async def test_one_of_those_who_wait_drives(election: DriverElection[Waiter]) -> None:
    waiters = [Waiter(election) for _ in range(5)]
    async with anyio.create_task_group() as group:
        for waiter in waiters:
            await group.start(waiter.run)
        await anyio.wait_all_tasks_blocked()
        assert [waiter.drove for waiter in waiters] == [1, 0, 0, 0, 0]
        assert election.driver is waiters[0]
        group.cancel_scope.cancel()
    assert not election


async def test_a_driver_that_leaves_hands_over_to_exactly_one(election: DriverElection[Waiter]) -> None:
    waiters = [Waiter(election) for _ in range(5)]
    async with anyio.create_task_group() as group:
        scopes = [await group.start(waiter.run) for waiter in waiters]
        for number, scope in enumerate(scopes[:-1]):
            await anyio.wait_all_tasks_blocked()
            assert election.driver is waiters[number]
            scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert election.driver is waiters[-1]
        assert [waiter.drove for waiter in waiters] == [1] * 5
        group.cancel_scope.cancel()
    assert not election


async def test_one_who_is_called_and_leaves_at_once_calls_another(election: DriverElection[Waiter]) -> None:
    first, second, third = (Waiter(election) for _ in range(3))
    async with anyio.create_task_group() as group:
        scopes = [await group.start(waiter.run) for waiter in (first, second, third)]
        await anyio.wait_all_tasks_blocked()
        scopes[0].cancel()
        scopes[1].cancel()  # it was to be the next
        await anyio.wait_all_tasks_blocked()
        assert election.driver is third
        group.cancel_scope.cancel()


async def test_a_busy_one_is_not_called(election: DriverElection[Waiter]) -> None:
    first, second, third = (Waiter(election) for _ in range(3))
    async with anyio.create_task_group() as group:
        scopes = [await group.start(waiter.run) for waiter in (first, second, third)]
        await anyio.wait_all_tasks_blocked()
        second.busy = True
        scopes[0].cancel()
        await anyio.wait_all_tasks_blocked()
        assert election.driver is third
        group.cancel_scope.cancel()


def test_only_the_polling_package_writes_what_the_poller_knows_of_a_job() -> None:
    """`PollState` is one object with the job's log. Who writes its fields is bounded all the same."""
    fields = set(PollState.__slots__) - {"timer", "started", "deadline", "submitted_here"}
    root = Path(kling_async.__file__).parent
    queue = root / "_scheduling" / "poll_queue.py"  # the poller's, which numbers the jobs in it
    allowed = {root / "_tracking" / "poll_state.py", queue, *(root / "_polling").glob("*.py")}
    named = re.compile(rf"\.\s*({'|'.join(fields)})\b")
    for path in set(root.rglob("*.py")) - allowed:
        text = path.read_text("utf-8")
        if not named.search(text):  # it need not be parsed
            continue
        written = {
            node.attr
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        }
        assert not written & fields, f"{path.relative_to(root)} writes {written & fields}"

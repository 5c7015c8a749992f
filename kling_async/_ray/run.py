"""A run whose rows are handed to the actors of a cluster, and come back as they end: ``kling bulk --ray``."""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import anyio

from kling_async import ConfigurationError
from kling_async._ray import ray
from kling_async._ray.settings import Settings
from kling_async._ray.worker import Task, Worker
from kling_async._rows.records import Record

__all__ = ["ClusterRun", "ClusterStatistics", "connect"]

_PAUSE = 1.0  # s before rows of an actor that died are handed out again
_REACHED = 10.0  # s within which a cluster accepts a connection
_GOODBYE = 20.0  # s in which an actor closes its client


def connect(address: str) -> None:
    """Connect this process to a cluster.

    Args:
        address: Its address. ``auto`` stands for the cluster that runs on this machine, or for a new one on it alone.

    Raises:
        ConfigurationError: There is none.
    """
    if ray.is_initialized():
        return
    try:
        if address not in {"auto", "local"}:
            _reach(address)
        ray.init(address=None if address == "auto" else address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ConfigurationError(
            f"there is no Ray cluster at {address!r:.100} ({reason}); start one (ray start --head), or use --ray auto. "
            "Nothing was bought"
        ) from None


def _reach(address: str) -> None:
    """Make sure that somebody listens there. Ray itself would try for minutes.

    Raises:
        OSError: Nobody does.
        ValueError: It is no address.
    """
    place = urlsplit(address if "://" in address else f"ray://{address}")
    if not place.hostname or not place.port:
        raise ValueError("an address is HOST:PORT, or ray://HOST:PORT")
    socket.create_connection((place.hostname, place.port), _REACHED).close()


@dataclass(frozen=True, slots=True)
class ClusterStatistics:
    """How far a run has come.

    Attributes:
        in_flight: Rows that are under way in the actors.
        done: Rows that have come back with a result.
    """

    in_flight: int
    done: int


class ClusterRun:
    """Rows that actors generate. Iterate over it for what has become of each, in the order in which they end.

    The rows of an actor that died are handed out again. The ledger has their keys, so nothing is bought twice.

    Args:
        tasks: The rows.
        settings: How.
        actors: How many actors there are.
    """

    def __init__(self, tasks: Iterable[Task], settings: Settings, actors: int) -> None:
        self._left = deque(tasks)
        self._settings = settings
        self._most = settings.in_flight * actors
        self._count = actors
        self._actors: list[Any] = []
        self._handed = self._done = 0
        self._feeding = 0
        self._group = anyio.create_task_group()
        self._sending, self._ended = anyio.create_memory_object_stream[tuple[int, Record]](1000)

    async def __aenter__(self) -> Self:
        options = {
            "num_cpus": 0,
            "scheduling_strategy": "SPREAD",
            "max_restarts": -1,
            "max_concurrency": self._settings.blocks_at_once + 2,  # and `stop`, and `close`
        }
        kind: Any = ray.remote(**options)(Worker)
        self._actors = [kind.remote(self._settings) for _ in range(self._count)]
        await self._group.__aenter__()
        for actor in self._actors:
            for _ in range(self._settings.blocks_at_once):
                self._feeding += 1
                self._group.start_soon(self._feed, actor)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._group.cancel_scope.cancel()
        try:
            await self._group.__aexit__(None, None, None)
        finally:
            self._sending.close()
            self._ended.close()
            with anyio.move_on_after(_GOODBYE, shield=True):
                for actor in self._actors:
                    try:
                        await actor.close.remote()
                    except ray.exceptions.RayError:
                        continue  # it is dead
            for actor in self._actors:
                ray.kill(actor)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Record]]:
        async for place, record in self._ended:
            yield place, record

    def stop(self) -> None:
        """Submit no more rows. The loop goes on with the jobs in flight."""
        self._left.clear()
        for actor in self._actors:
            actor.stop.remote()

    def statistics(self) -> ClusterStatistics:
        """How far the run has come."""
        return ClusterStatistics(min(self._handed, self._most), self._done)

    async def _feed(self, actor: Any) -> None:
        """Hand blocks of rows to an actor, one after the other."""
        try:
            while self._left:
                size = min(self._settings.rows_per_block, len(self._left))
                block = [self._left.popleft() for _ in range(size)]
                self._handed += size
                await self._generate(actor, block)
        finally:
            self._feeding -= 1
            if not self._feeding:
                self._sending.close()

    async def _generate(self, actor: Any, block: Sequence[Task]) -> None:
        left = {task.place: task for task in block}
        while left:
            try:
                async for answer in actor.stream.options(num_returns="streaming").remote(list(left.values())):
                    place, record = await answer
                    if left.pop(place, None) is not None:
                        self._handed -= 1
                        self._done += record.state == "completed"
                        await self._sending.send((place, record))
            except ray.exceptions.RayTaskError:
                raise  # a fault of ours
            except ray.exceptions.RayError:
                await anyio.sleep(_PAUSE)  # the actor or its node died. Ray starts it again

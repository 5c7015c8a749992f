"""A file server, and what the library fetches from it with."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from kling_async import Limits
from kling_async._http.backend import PerLoopBackend
from support.cdn import Cdn


@pytest.fixture
def cdn() -> Iterator[Cdn]:
    with Cdn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.hold.set()
            server.shutdown()
            thread.join()


@pytest.fixture
async def engines() -> AsyncIterator[PerLoopBackend]:
    made = PerLoopBackend(None, Limits(), "http://127.0.0.1")
    yield made
    await made.aclose()

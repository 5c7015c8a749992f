"""Fixtures for the tests of an application: a sandbox, a client for it, faults, and time that passes at once.

pytest finds them by itself where this package is installed. `kling_sandbox`, `kling_client` and `kling_faults` need the
extra ``sandbox``. Nothing here is loaded before a test asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kling_async import Client
    from kling_async.sandbox import Sandbox
    from kling_async.sandbox.faults.catalog import FaultRegistry
    from kling_async.testing.clock import VirtualClock

__all__ = ["kling_client", "kling_clock", "kling_faults", "kling_sandbox"]

_SPEED = 5000.0  # simulated seconds in a real one: three minutes take 36 ms
_SCALE = 0.1  # of the size of pictures and clips


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marker."""
    config.addinivalue_line(
        "markers",
        "kling_sandbox(**options): arguments of Sandbox for the fixture kling_sandbox (speed, seed, scale, rate_limit, "
        "credits, lifetime, emulations)",
    )


@pytest.fixture
def kling_sandbox(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A local server that plays all providers. The environment has its keys and addresses, so that `Client()` uses it.

    No other key of a provider is left in the environment. A job of three minutes takes 36 ms.
    ``@pytest.mark.kling_sandbox(speed=60, credits=5)`` passes arguments to `Sandbox`.
    """
    from kling_async.providers import load_providers  # noqa: PLC0415  # loaded when a test asks for it
    from kling_async.sandbox import Sandbox  # noqa: PLC0415

    options: dict[str, Any] = {"speed": _SPEED, "scale": _SCALE}
    for marker in reversed(list(request.node.iter_markers("kling_sandbox"))):  # the nearest one last
        options |= marker.kwargs
    for kind in load_providers():
        for secrets in kind.identity().secrets:
            for secret in secrets:
                monkeypatch.delenv(secret.variable, raising=False)
    with Sandbox(**options) as sandbox:
        monkeypatch.delenv("KLING_SANDBOX_SPEED", raising=False)
        for variable, value in sandbox.environment().items():
            monkeypatch.setenv(variable, value)
        yield sandbox


@pytest.fixture
def kling_client(kling_sandbox: Sandbox) -> Iterator[Client]:
    """A client for the sandbox, with all its providers. It is closed after the test."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  # loaded when a test asks for it

    import anyio  # noqa: PLC0415

    from kling_async import Client  # noqa: PLC0415

    client = Client(kling_sandbox.providers())
    yield client
    # In a thread: an event loop that ran here would take the place of the one that pytest-asyncio keeps.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(anyio.run, client.aclose).result()


@pytest.fixture
def kling_faults(kling_sandbox: Sandbox) -> FaultRegistry:
    """What goes wrong in the sandbox: ``kling_faults.add("accept-then-reset:submit:times=1")``."""
    return kling_sandbox.faults


@pytest.fixture
def kling_clock() -> Iterator[VirtualClock]:
    """Time that passes at once, for tests whose HTTP is mocked. See `kling_async.testing.VirtualClock`."""
    from kling_async.testing.clock import VirtualClock  # noqa: PLC0415  # loaded when a test asks for it

    with VirtualClock() as clock:
        yield clock

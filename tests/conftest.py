from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kling_async.providers import load_providers
from support import virtual_time


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str | tuple[str, dict[str, Any]]:
    """Tests marked `anyio` run on both libraries. Those also marked `virtual_time` without ever sleeping."""
    name: str = request.param
    if request.node.get_closest_marker("virtual_time"):
        return virtual_time.backend(name)
    return name


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests marked `asyncio` and `virtual_time` run on the loop whose clock jumps."""
    del config
    if item.get_closest_marker("virtual_time"):
        return {"virtual": virtual_time.JumpingLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees a key, an address or a proxy of the machine it runs on."""
    for identity in (kind.identity() for kind in load_providers()):
        secrets = [secret.variable for group in identity.secrets for secret in group]
        for variable in (*secrets, identity.url_variable):
            monkeypatch.delenv(variable, raising=False)
    for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.lower(), raising=False)

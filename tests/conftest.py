from __future__ import annotations

import asyncio
import functools
import gc
import os
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any

import pytest

# What tests, their programs and their processes load is compiled once, and not by each of them.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# ruff: noqa: E402  # what is loaded before would not be kept
import certifi
from _pytest.runner import runtestprotocol  # as plugins that run a test again use it
from hypothesis import HealthCheck, settings

from kling_async import Client, Polling, RunBlob
from kling_async.providers import load_providers
from kling_async.sandbox import Sandbox
from support import virtual_time
from support.cli_process import environment_of
from support.fake_runblob import KEY, FakeRunBlob
from support.postgres import Server, find_programs, shared_server
from support.s3 import Bucket, bucket_of, serving

# A busy machine makes an example slow, and nothing else.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


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


def pytest_xdist_auto_num_workers() -> int:
    """Two processes more than cores: in a third of its time, a test waits for a socket, a process or a thread.

    Each more would cost what it takes to collect all tests once more.
    """
    return 2 + (os.cpu_count() or 1)


@pytest.hookimpl
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """A process reports of a test what counts: how its call ended, and what went wrong before and after it.

    Six messages a test, which the process that collects them decodes, take more than two milliseconds of CPU.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return None
    for report in runtestprotocol(item, log=False, nextitem=nextitem):
        if report.when == "call" or not report.passed:
            item.ihook.pytest_runtest_logreport(report=report)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    """What a process tells of each step of a test is a third shorter without its marks, which nobody reads there."""
    told = yield
    if told and "keywords" in told:
        told["keywords"] = {}
    return told


def _parts() -> int:
    """How many processes collect and run the tests."""
    return int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def _own_part() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Each process begins with another part of each folder, so that in a new clone not all compile the same files."""
    report = yield
    if isinstance(collector, pytest.Directory):
        first = len(report.result) * _own_part() // _parts()
        report.result = [*report.result[first:], *report.result[:first]]
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what talks to a sandbox: ``-m "not network_sandbox"`` leaves it out. And run slow tests first."""
    for item in items:
        if "sandbox" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.network_sandbox)
    items.sort(key=lambda item: item.path)  # the same order in all processes
    # Each process begins with its own part of the list, so each part begins with its share of the slow tests.
    parts = _parts()
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = iter([item for item in items if not item.get_closest_marker("slow")])
    # Those of one file stay together: what they share, such as a browser, is started once.
    shares: list[list[pytest.Item]] = [[] for _ in range(parts)]
    for tests in sorted((list(tests) for _, tests in groupby(slow, key=lambda item: item.path)), key=len, reverse=True):
        min(shares, key=len).extend(tests)
    size = -(-len(items) // parts)
    ordered: list[pytest.Item] = []
    for share in shares:
        ordered += [*share, *islice(others, max(0, size - len(share)))]
    items[:] = ordered


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays to the end. The garbage collector need not visit it, now or in any test."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def no_keys() -> Iterator[None]:
    """No test sees a key, an address, a setting or a proxy of the machine it runs on."""
    own = {"KLING_CONFIG", "KLING_LEDGER", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
    own |= {"SSL_CERT_FILE", "SSL_CERT_DIR"}  # with these, each client would read the certificates again
    for identity in (kind.identity() for kind in load_providers()):
        own |= {identity.url_variable, *(secret.variable for group in identity.secrets for secret in group)}
    with pytest.MonkeyPatch.context() as patch:
        for variable in own | {name.lower() for name in own}:
            patch.delenv(variable, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def authorities_read_once() -> Iterator[None]:
    """The certificates of Mozilla's authorities are read once. Each httpx client reads them, for 20 to 40 ms."""
    read = ssl.create_default_context
    mozillas = functools.cache(lambda: read(cafile=certifi.where()))

    def context(*purpose: ssl.Purpose, **given: Any) -> ssl.SSLContext:
        return mozillas() if not purpose and given == {"cafile": certifi.where()} else read(*purpose, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", context)
        yield


@pytest.fixture
def server() -> FakeRunBlob:
    """RunBlob in memory."""
    return FakeRunBlob()


@pytest.fixture
def polling() -> Polling:
    """How `client` polls. A file of tests may have its own."""
    return Polling(schedule="documented")


@pytest.fixture
async def client(server: FakeRunBlob, polling: Polling) -> AsyncIterator[Client]:
    """A client of `server`. Files that test another provider, or real sockets, have their own."""
    async with Client(RunBlob(KEY), http=server, polling=polling) as made:
        yield made


@pytest.fixture(scope="session")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tests of this process have what a user has at home."""
    return tmp_path_factory.mktemp("homes")


_numbers = count()


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch, homes: Path) -> None:
    """No test reads settings of the user who runs it, or writes to a home. What it keeps there is its own."""
    home = homes / str(next(_numbers))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))


@pytest.fixture(scope="session")
def s3_client() -> Iterator[Any]:
    """Amazon's client for an S3 server in this process. One serves all tests."""
    with serving() as client:
        yield client


@pytest.fixture
def bucket(s3_client: Any, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket of its own, to which the environment leads."""
    made = bucket_of(s3_client)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real PostgreSQL server. One serves all tests of all processes, each in a schema of its own."""
    if find_programs() is None:
        pytest.skip("there are no programs of a PostgreSQL server for this computer")
    own = tmp_path_factory.getbasetemp()
    with shared_server(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) as server:
        yield server


@pytest.fixture
def sandbox_defaults() -> dict[str, Any]:
    """The arguments of `sandbox` that a folder of tests has in common."""
    return {"speed": 600, "scale": 0.1}


@pytest.fixture
def sandbox(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, sandbox_defaults: dict[str, Any]
) -> Iterator[Sandbox]:
    """A sandbox that serves. The mark ``sandbox(...)`` gives its arguments.

    ``environment=True`` leads every provider there by its variables, and a list of names those providers alone. Clients
    know how fast its time passes. Where it stands still, they poll early: no test waits for the usual time of a job.
    """
    mark = request.node.get_closest_marker("sandbox")
    settings = {**sandbox_defaults, **(mark.kwargs if mark else {})}
    environment = settings.pop("environment", ())
    with Sandbox(**settings) as running:
        for variable, value in environment_of(running, None if environment is True else environment).items():
            monkeypatch.setenv(variable, value)
        monkeypatch.setenv("KLING_SANDBOX_SPEED", running.environment().get("KLING_SANDBOX_SPEED", "1"))
        yield running

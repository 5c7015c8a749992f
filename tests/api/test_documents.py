"""Every Python block of the README and of `docs/` runs as it stands, against the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kling_async.sandbox import Sandbox
from support.asgi_server import Site, serve
from support.documents import BLOCKS, Block

SCRIPTS = [block for block in BLOCKS if not block.is_service and not block.needs_ray]
SERVICES = [block for block in BLOCKS if block.is_service]
KINDS = (b"\x89PNG\r\n\x1a\n", b"\0\0\0 ftyp")

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415408d763f8cfc000000301010018dd8db00000000049454e44ae426082"
)


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox that the environment points to, from an empty directory with one picture."""
    with Sandbox(speed=600, scale=0.1) as made:
        for provider in made.providers():
            key, address = provider.env_vars
            monkeypatch.setenv(key, made.api_key(provider.name))
            monkeypatch.setenv(address, made.base_url(provider.name))
        monkeypatch.setenv("KLING_SANDBOX_SPEED", "600")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "boat.png").write_bytes(PIXEL)
        yield made


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda block: block.name)
def test_scripts_run(
    script: Block,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if "KLING_LEDGER" in script.code:
        server = request.getfixturevalue("postgres")
        monkeypatch.setenv("KLING_LEDGER", f"{server.dsn()}?schema={server.schema()}")
    exec(compile(script.code, script.document, "exec"), {"__name__": "__main__"})  # noqa: S102  # our own document
    assert sandbox.counters.jobs_bought == script.bought
    if ".save(" in script.code:
        files = list((tmp_path / "out").iterdir())
        assert len(files) == script.bought
        assert all(path.read_bytes().startswith(KINDS) for path in files)


@pytest.mark.asyncio
@pytest.mark.parametrize("service", SERVICES, ids=lambda block: block.name)
async def test_services_serve(service: Block, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real server, to which the sandbox reports, and a browser's requests over sockets."""
    site = Site()
    monkeypatch.setenv("PUBLIC_URL", site.url)
    monkeypatch.setenv("WEBHOOK_SECRET", "a secret for this test alone")
    names: dict[str, Any] = {"__name__": "service"}
    exec(compile(service.code, service.document, "exec"), names)  # noqa: S102  # our own document
    async with serve(site, names["app"]), httpx.AsyncClient(base_url=site.url, trust_env=False) as web:
        submitted = await web.post("/videos", json={"prompt": "a boat"})
        assert submitted.status_code == 202
        answer = await web.get(submitted.json()["events"])
    assert '"completed"' in answer.text
    assert answer.text.endswith("\n\n")
    assert "event: end" in answer.text
    assert sandbox.counters.webhooks == {"runblob": 1}
    assert sandbox.counters.status_calls == 1


def test_the_service_is_short() -> None:
    assert all(len(service.code.splitlines()) < 40 for service in SERVICES)

"""The MCP server as an assistant uses it: the protocol's own client, over standard input and output."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mcp import Client

from kling_async import Budget, ConfigurationError, MemoryLedger, RunBlob, SqliteLedger
from kling_async import Client as KlingClient
from kling_async.sandbox import Sandbox

pytestmark = [
    pytest.mark.skipif(find_spec("mcp") is None, reason="the extra [mcp] is not installed"),
    pytest.mark.anyio,
    pytest.mark.sandbox(speed=100, scale=0.2),
]
PHOTO = {"prompt": "a paper boat", "resolution": "1k"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def assistant(sandbox: Sandbox, folder: Path, *, budget: str) -> AsyncIterator[Client]:
    """An assistant that has started `kling mcp`."""
    environment = {
        **os.environ,
        "RUNBLOB_API_KEY": sandbox.api_key("runblob"),
        "RUNBLOB_BASE_URL": sandbox.base_url("runblob"),
        "KLING_SANDBOX_SPEED": "100",
    }
    places = ("--ledger", str(folder / "jobs.db"), "-o", str(folder / "out"))
    command = ["-m", "kling_async", "mcp", *places, "--budget", budget]
    from mcp import Client, StdioServerParameters  # noqa: PLC0415  # it takes seconds, and few tests need it

    started = StdioServerParameters(command=sys.executable, args=command, env=environment)
    async with Client(started, raise_exceptions=False) as client:
        yield client


@asynccontextmanager
async def assistant_here(sandbox: Sandbox, folder: Path, *, budget: str) -> AsyncIterator[Client]:
    """An assistant of a server in this process, with the same messages. `kling mcp` takes three seconds to start."""
    from mcp import Client  # noqa: PLC0415  # the same

    from kling_async.mcp import server  # noqa: PLC0415  # the same

    (folder / "out").mkdir(exist_ok=True)
    buyer = KlingClient(
        RunBlob(sandbox.api_key("runblob"), sandbox.base_url("runblob")),
        ledger=SqliteLedger(folder / "jobs.db"),
        budget=Budget(usd=float(budget)),
    )
    async with Client(server(buyer, folder / "out"), mode="legacy") as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    return answer.structured_content or answer.content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error
    return "".join(getattr(part, "text", "") for part in answer.content)


async def test_an_assistant_makes_an_image_sees_it_and_saves_it(sandbox: Sandbox, tmp_path: Path) -> None:
    async with assistant(sandbox, tmp_path, budget="5") as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert names == {"list_endpoints", "describe_endpoint", "quote", "generate", "watch", "list_jobs", "save"}
        endpoints = (await call(client, "list_endpoints"))["result"]
        assert {one["endpoint"] for one in endpoints} >= {"runblob/o3-photo", "runblob/o3-video"}
        schema = await call(client, "describe_endpoint", endpoint="runblob/o3-photo")
        assert "prompt" in schema["properties"]
        assert "callback_url" not in json.dumps(schema)
        quote = await call(client, "quote", endpoint="runblob/o3-photo", fields=PHOTO)
        assert quote["budget_left"] == "$5.00"
        made = await call(client, "generate", key="boat", endpoint="runblob/o3-photo", fields=PHOTO)
        again = await call(client, "generate", key="boat", endpoint="runblob/o3-photo", fields=PHOTO)
        assert made["ref"] == again["ref"]
        text, image = await call(client, "watch", key="boat")
        assert json.loads(text.text)["status"] == "completed"
        assert base64.b64decode(image.data).startswith(b"\xff\xd8")
        saved = await call(client, "save", key="boat")
        assert Path(saved["files"][0]).parent == tmp_path / "out"
        assert Path(saved["files"][0]).is_file()
        assert sandbox.counters.jobs_bought == 1
        edited = {**PHOTO, "references": saved["files"]}
        await call(client, "generate", key="boat-2", endpoint="runblob/o3-photo", fields=edited)
    assert sandbox.counters.jobs_bought == 2


async def test_an_assistant_buys_from_whoever_makes_it(sandbox: Sandbox, tmp_path: Path) -> None:
    async with assistant_here(sandbox, tmp_path, budget="5") as client:
        listed = (await call(client, "list_endpoints"))["result"]
        assert [one["endpoint"] for one in listed[:2]] == ["video", "image"]
        fields = (await call(client, "describe_endpoint", endpoint="image"))["properties"]
        assert "resolution" in fields
        assert "callback_url" not in fields
        assert (await call(client, "quote", endpoint="image", fields=PHOTO))["endpoint"] == "runblob/o3-photo"
        why = await refused(client, "quote", endpoint="video", fields={"prompt": "a boat", "duration": 17})
        assert "runblob/o3-video: duration is 17; it has 5, 10, 15" in why
        assert "callback_url" in await refused(
            client, "generate", key="boat", endpoint="image", fields={**PHOTO, "callback_url": "https://x.example"}
        )
        job = await call(client, "generate", key="boat", endpoint="image", fields=PHOTO)
        assert job["endpoint"] == "runblob/o3-photo"
        assert job["choice"].startswith("runblob/o3-photo: first of 1 by preference")
        assert (await call(client, "generate", key="boat", endpoint="image", fields=PHOTO))["ref"] == job["ref"]
    assert sandbox.counters.jobs_bought == 1


async def test_the_ledger_is_the_memory_of_the_next_start_and_the_budget_goes_on(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    async with assistant_here(sandbox, tmp_path, budget="5") as client:
        first = await call(client, "generate", key="boat", endpoint="runblob/o3-photo", fields=PHOTO)
    async with assistant(sandbox, tmp_path, budget="5") as client:
        (job,) = (await call(client, "list_jobs"))["result"]
        assert (job["key"], job["ref"]) == ("boat", first["ref"])
        text, *_ = await call(client, "watch", key="boat")
        assert json.loads(text.text)["status"] == "completed"
        assert json.loads(text.text)["budget_left"] != "$5.00"
    assert sandbox.counters.jobs_bought == 1


async def test_a_client_that_asks_for_a_task_gets_the_job_at_once(sandbox: Sandbox, tmp_path: Path) -> None:
    """By the protocol, a server that offers no tasks ignores that one is asked for: it is bought once, as without."""
    from mcp import types  # noqa: PLC0415  # the same

    async with assistant_here(sandbox, tmp_path, budget="5") as client:
        wanted = {"key": "boat", "endpoint": "runblob/o3-photo", "fields": PHOTO}
        asked = types.CallToolRequestParams(name="generate", arguments=wanted, task=types.TaskMetadata(ttl=60_000))
        answer = await client.session.send_request(types.CallToolRequest(params=asked), types.CallToolResult)
        assert answer.structured_content is not None
        assert answer.structured_content["status"] == "pending"
        assert (await call(client, "generate", **wanted))["ref"] == answer.structured_content["ref"]
    assert sandbox.counters.jobs_bought == 1


async def test_what_cannot_be_bought_is_explained_and_nothing_is_bought(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    async with assistant_here(sandbox, tmp_path, budget="0.0001") as client:
        say: Any = {"key": "boat", "endpoint": "runblob/o3-photo"}
        assert "budget" in await refused(client, "generate", **say, fields=PHOTO)
        assert "resolution" in await refused(client, "generate", **say, fields={**PHOTO, "resolution": "9k"})
        outside = await refused(client, "generate", **say, fields={**PHOTO, "references": [str(secret)]})
        assert "reference 1" in outside
        reported = await refused(client, "generate", **say, fields={**PHOTO, "callback_url": "https://evil.example"})
        assert "callback_url" in reported
        assert "runblob/o3-photo" in await refused(client, "quote", endpoint="runblob/o9", fields=PHOTO)
        assert "list_jobs" in await refused(client, "watch", key="plane")
        assert sandbox.api_key("runblob") not in outside + reported
    assert sandbox.counters.jobs_bought == 0


async def test_a_client_without_budget_or_ledger_is_refused(tmp_path: Path) -> None:
    from kling_async.mcp import server  # noqa: PLC0415  # the same

    with pytest.raises(ConfigurationError, match="budget and a ledger"):
        server(KlingClient(RunBlob("key"), ledger=MemoryLedger()), tmp_path)

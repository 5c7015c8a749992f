"""A sandbox whose clock stands still unless a test moves it, and clients that know its keys."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image

from kling_async.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TLS = httpx.create_ssl_context()  # made once: it takes longer than a sandbox takes to start
VIDEO = "/v1/kling/o3-video"
PHOTO = "/v1/kling/o3-photo"


@pytest.fixture
def sandbox_defaults() -> dict[str, Any]:
    """A clock that stands still."""
    return {"speed": 0}


@pytest.fixture
def connect() -> Iterator[Callable[[Sandbox], httpx.Client]]:
    """Make clients of RunBlob's customer at a given sandbox."""
    clients: list[httpx.Client] = []

    def make(sandbox: Sandbox) -> httpx.Client:
        key = sandbox.api_key("runblob")
        client = httpx.Client(
            base_url=sandbox.base_url("runblob"),
            headers={"Authorization": f"Bearer {key}"},
            timeout=30,
            trust_env=False,
            verify=TLS,
        )
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(sandbox: Sandbox, connect: Callable[[Sandbox], httpx.Client]) -> httpx.Client:
    return connect(sandbox)


@pytest.fixture
def data_uri() -> Callable[..., str]:
    """Make a small image as a data URI, of one format, under the name of another if wanted."""

    def make(kind: str = "png", *, called: str | None = None, side: int = 8) -> str:
        file = io.BytesIO()
        options = {"compress_level": 0} if kind == "png" else {}
        Image.new("RGB", (side, side), "orange").save(file, kind, **options)
        return f"data:image/{called or kind};base64,{base64.b64encode(file.getvalue()).decode()}"

    return make


@pytest.fixture
def bought(client: httpx.Client) -> Callable[..., str]:
    """Buy a job and give its id."""

    def buy(page: str = VIDEO, prompt: str = "a fox in the snow", **fields: object) -> str:
        answer = client.post(f"{page}/generate", json={"prompt": prompt, **fields})
        assert answer.status_code == 201, answer.text
        generation_id: str = answer.json()["generation_id"]
        return generation_id

    return buy

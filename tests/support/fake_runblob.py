"""RunBlob as an httpx transport: no sockets, so that it works in virtual time."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import httpx

__all__ = ["KEY", "FakeRunBlob", "Generation"]

KEY = "rb_test_key_7e57"
Answer = Callable[[httpx.Request], Awaitable[httpx.Response | None]]


@dataclass
class Generation:
    """One job at the fake."""

    kind: str
    body: dict[str, object]
    created: float
    duration: float
    failure: str | None = None
    polls: list[float] = field(default_factory=list)


class FakeRunBlob(httpx.AsyncBaseTransport):
    """Answers like RunBlob, after `latency` seconds. Jobs take `duration` seconds, each `spread` more than the last.

    `intercept` sees every request first. What it returns is the answer, unless it is None.
    """

    def __init__(self, *, duration: float = 60.0, latency: float = 0.05) -> None:
        self.duration = duration
        self.spread = 0.0
        self.latency = latency
        self.failure: str | None = None
        self.generations: dict[str, Generation] = {}
        self.requests: Counter[str] = Counter()
        self.intercept: Answer | None = None

    @property
    def bought(self) -> int:
        return len(self.generations)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        kind, _, rest = request.url.path.removeprefix("/v1/kling/").partition("/")
        self.requests["submit" if rest == "generate" else "poll"] += 1
        if self.intercept is not None and (answer := await self.intercept(request)) is not None:
            return answer
        await anyio.sleep(self.latency)
        if rest == "generate":
            return self.accept(kind, json.loads(await request.aread()))
        return self.status(kind, rest.removeprefix("generations/"))

    def accept(self, kind: str, body: dict[str, object]) -> httpx.Response:
        identity = str(uuid.uuid4())
        now = anyio.current_time()
        duration = self.duration + self.spread * (self.bought % 7)
        self.generations[identity] = Generation(kind, body, now, duration, self.failure)
        answer = {"generation_id": identity, "status": "pending", "price": "0.1500"}
        return httpx.Response(201, json=answer)

    def status(self, kind: str, identity: str) -> httpx.Response:
        job = self.generations.get(identity)
        if job is None:
            return httpx.Response(404, json={"detail": "GENERATION_NOT_FOUND"})
        now = anyio.current_time()
        job.polls.append(now - job.created)
        age = now - job.created
        field_name = "image_url" if kind == "o3-photo" else "video_url"
        answer: dict[str, object] = {"generation_id": identity, "prompt": job.body["prompt"], field_name: None}
        if age < job.duration:
            answer["status"] = "pending" if age < job.duration / 5 else "processing"
        elif job.failure:
            answer |= {"status": "failed", "message": job.failure}
        else:
            answer |= {"status": "completed", field_name: f"https://cdn.runblob.test/{identity}"}
        return httpx.Response(200, json=answer)

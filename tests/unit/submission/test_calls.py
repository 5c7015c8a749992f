"""What a call of the client takes beside the request: tags, a function for events, a directory for the result."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import anyio
import pytest

import kling_async
from kling_async import (
    Client,
    ConfigurationError,
    Event,
    GenerationTimeout,
    MemoryLedger,
    Polling,
    RunBlob,
    Status,
)
from kling_async.providers.runblob import O3Video
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

VIDEO = O3Video("a paper boat in the rain")
TAGS = {"customer": "17", "order": "a b"}


def make(server: FakeRunBlob, **settings: Any) -> Client:
    return Client(
        RunBlob(KEY), http=server, polling=Polling("documented", status_calls_per_minute=math.inf), **settings
    )


# Tags


async def test_a_job_has_the_tags_of_its_submission(server: FakeRunBlob) -> None:
    async with make(server) as client:
        job = await client.submit(VIDEO, tags=TAGS)
        assert job.tags == client.jobs[0].tags == TAGS
        assert client.attach("runblob/o3-video/other").tags == {}
        with pytest.raises(TypeError):
            job.tags["customer"] = "18"  # type: ignore[index]  # which they refuse


class KeptLedger(MemoryLedger):
    """A ledger that the next client can open, as a file would be."""

    async def aclose(self) -> None:
        """Stay open."""


async def test_tags_are_kept_over_a_restart_and_another_attempt(server: FakeRunBlob) -> None:
    ledger = KeptLedger()
    async with make(server, ledger=ledger) as client:
        await client.submit(VIDEO, key="a", tags=TAGS)
    async with make(server, ledger=ledger) as client:
        [job] = await client.resume()
        assert job.tags == TAGS
        assert (await client.submit(VIDEO, key="a", tags={"customer": "18"})).tags == TAGS
        await job
        again = await client.resubmit("a", force=True)
        assert again.ref != job.ref
        assert again.tags == TAGS
    assert [submission.tags for submission in await ledger.attempts("a")] == [TAGS, TAGS]


async def test_the_outcomes_of_a_run_have_the_tags_of_their_rows(server: FakeRunBlob) -> None:
    rows: list[Any] = [("a", VIDEO, TAGS), (None, VIDEO, {"customer": "18"}), ("c", VIDEO), VIDEO]
    async with make(server) as client, client.map(rows, ordered=True) as outcomes:
        found = [outcome async for outcome in outcomes]
    assert [outcome.tags for outcome in found] == [TAGS, {"customer": "18"}, {}, {}]
    assert [outcome.key for outcome in found] == ["a", None, "c", None]


@pytest.mark.parametrize("tags", ["customer", {"a": 1}, {1: "a"}, {"a": "\x00"}, {"a": "\ud83d"}, [("a", "b")]])
async def test_tags_that_cannot_be_stored_are_refused_before_anything_is_sent(server: FakeRunBlob, tags: Any) -> None:
    async with make(server) as client:
        with pytest.raises(ConfigurationError, match="tags are texts"):
            await client.submit(VIDEO, tags=tags)
    assert server.requests.total() == 0


# Events


async def test_a_function_is_called_with_every_event_of_a_run(server: FakeRunBlob) -> None:
    events: list[Event] = []

    async def later(event: Event) -> None:
        await anyio.sleep(1)
        events.append(event)

    async with make(server) as client:
        for on_event in (events.append, later):
            events.clear()
            await client.run(VIDEO, on_event=on_event)
            assert [event.status for event in events] == [Status.PENDING, Status.PROCESSING, Status.COMPLETED]


async def test_the_time_limit_of_a_run_with_a_function_is_kept(server: FakeRunBlob) -> None:
    async with make(server) as client:
        with pytest.raises(GenerationTimeout, match=r"after waiting for 30\.5 s") as late:
            await client.run(VIDEO, timeout=30.5, on_event=lambda _: None, tags=TAGS, key="a")
        assert (late.value.job.key, late.value.job.tags) == ("a", TAGS)
        assert await late.value.job.wait() is Status.COMPLETED


async def test_an_error_of_the_function_ends_the_wait_and_the_job_goes_on(server: FakeRunBlob) -> None:
    def fail(_: Event) -> None:
        raise LookupError("mine")

    async with make(server) as client:
        with pytest.raises(LookupError, match="mine"):
            await client.run(VIDEO, on_event=fail)
        [job] = client.jobs
        assert await job.wait() is Status.COMPLETED
        with pytest.raises(ConfigurationError, match="takes a function"):
            await client.run(VIDEO, on_event=5)  # type: ignore[arg-type]  # what is refused
    assert server.bought == 1


# The result in a directory


async def test_a_run_saves_its_result(server: FakeRunBlob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def save(self: kling_async.Result, directory: Path, **_: Any) -> list[Path]:
        return [directory / f"{self.ref.id}.mp4"]

    monkeypatch.setattr(kling_async.Result, "save", save)
    async with make(server, ledger=MemoryLedger()) as client:
        result = await client.run(VIDEO, save_to=tmp_path / "out")
        assert result.files == (tmp_path / "out" / f"{result.ref.id}.mp4",)
        (tmp_path / "file").touch()
        with pytest.raises(ConfigurationError, match="file"):
            await client.run(VIDEO, save_to=tmp_path / "file")
    assert server.bought == 1

"""The public API as type checkers see it. Nothing here is run.

`test_typing` checks it with mypy and pyright. A line with an ignore is a mistake that both must find: an ignore that
is not needed is an error, too.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path
from typing import Any, Literal, assert_type

import PIL.Image

import kling_async
from kling_async import (
    Artifact,
    Budget,
    Choice,
    Client,
    Cost,
    Event,
    GenerationFailed,
    Job,
    Learned,
    Limits,
    Polling,
    Progressive,
    Quote,
    Remedy,
    Request,
    Result,
    RunBlob,
    Runware,
    SqliteLedger,
    Status,
    Submission,
    Video,
    inferencesh,
    pixeldojo,
    prepare_image,
    runblob,
    runware,
)


def requests() -> list[Request]:
    """By position and by name, with lists and tuples of images."""
    return [
        runblob.O3Video("a boat"),
        runblob.O3Video("a boat", (), 10, "9:16", "kling_o3_pro", False),  # noqa: FBT003  # every field by position
        runblob.O3Video(prompt="a boat", references=[Path("boat.png")], duration=15, keep_original_sound=True),
        runblob.O3Photo("a boat", ("https://img.example/1.png", "https://img.example/2.png"), resolution="2k"),
        runblob.O3Photo("a boat", references=[b"..."], callback_url="https://app.example/hook"),
        runware.ImageO3("a boat", [Path("boat.png"), b"..."], width=1024, height=1024),
        runware.ImageO3("a boat", resolution="4k", aspect_ratio="16:9", count=3, output_format="webp", ttl=60),
        inferencesh.ImageO1("a boat", Path("boat.png"), "rain", resolution="2k"),
        pixeldojo.ImageV3("a boat", "rain", aspect_ratio="16:9", count=2),
    ]


def images(pixels: PIL.Image.Image, path: Path, other: os.PathLike[str]) -> list[Request]:
    """Every form that works when the program runs."""
    with path.open("rb") as file, open("boat.png", "rb") as opened:  # noqa: PTH123  # both ways to open
        return [
            runblob.O3Photo("a boat", references=[pixels, file, opened, io.BytesIO(b"..."), memoryview(b"...")]),
            kling_async.Image("a boat", references=[prepare_image(path, max_side=2048), bytearray(b"...")]),
            runblob.O3Photo("a boat", references=path),  # one needs no list
            runblob.O3Photo("a boat", references=pixels),
            runblob.O3Photo("a boat", references=file),
            kling_async.Video("a boat", references=bytearray(b"...")),
            runblob.O3Photo("a boat", references=other),  # any os.PathLike
            runblob.O3Photo("a boat", [other, "https://img.example/1.png"]),
            inferencesh.ImageO1("a boat", other),
            inferencesh.ImageO1("a boat", pixels),
            inferencesh.ImageO1("a boat", opened),
            runblob.O3Photo("a boat", references=[io.StringIO("text")]),  # type: ignore[list-item]
            inferencesh.ImageO1("a boat", 5),  # type: ignore[arg-type]
        ]


def mistakes(path: Path) -> None:
    """What a checker must find before pydantic does."""
    kling_async.Clent()  # type: ignore[attr-defined]
    kling_async.runblob.O3Vidio("a boat")  # type: ignore[attr-defined]
    runblob.O3Video()  # type: ignore[call-arg]
    runblob.O3Video(5)  # type: ignore[arg-type]
    runblob.O3Video("a boat", durration=5)  # type: ignore[call-arg]
    runblob.O3Video("a boat", duration=6)  # type: ignore[arg-type]
    runblob.O3Video("a", (), 5, "1:1", "kling_o3", True, None, None, False, False, "https://x.test")  # type: ignore[call-arg]  # noqa: FBT003  # the same
    runblob.O3Photo("a boat", references=5)  # type: ignore[arg-type]
    runblob.O3Photo("a boat", references=[5])  # type: ignore[list-item]
    runware.ImageO3("a boat", output_format="gif")  # type: ignore[arg-type]
    inferencesh.ImageO1("a boat", references=[path])  # type: ignore[call-arg]
    pixeldojo.ImageV3("a boat", resolution="4k")  # type: ignore[arg-type]
    runblob.O3Video("a boat").prompt = "a ship"  # type: ignore[misc]
    Client("runblob")  # type: ignore[arg-type]
    Client(RunBlob)  # type: ignore[arg-type]
    Client(ledger="jobs.db")  # type: ignore[arg-type]
    Limits(call="3")  # type: ignore[arg-type]
    Polling(schedule="progressive")  # type: ignore[arg-type]


def attributes(request: runblob.O3Video, error: GenerationFailed) -> None:
    """The types of what is read."""
    assert_type(request.prompt, str)
    assert_type(request.duration, Literal[5, 10, 15])
    assert_type(request.references, tuple[str | Path | bytes, ...])
    assert_type(request.files, list[Path])
    assert_type(error.job.status, Status)
    assert_type(error.remedies, tuple[Remedy, ...])
    assert_type(error.retryable, bool | None)
    assert_type(error.code, str | None)


async def client() -> None:
    """A client, its jobs and what comes of them."""
    made = Client(
        [RunBlob(api_key="..."), Runware(base_url="https://proxy.example")],
        limits=Limits(connections=20),
        polling=Polling(schedule=Progressive(5, 5, 10), deadline=60),
        ledger=SqliteLedger("jobs.db"),
        budget=Budget(usd=5),
    )
    async with made as opened:
        assert_type(opened, Client)
        job = await opened.submit(runblob.O3Video("a boat"), key="row-17")
        assert_type(job, Job)
        async for event in job:
            assert_type(event, Event)
            assert_type(event.status, Status)
        assert_type(await job, Result)
        assert_type(await job.wait(timeout=5), Status)
        assert_type(await job.cancel(), bool)
        wanted = Video("a boat", duration=10)
        assert_type(wanted.for_("runblob"), Request)
        assert_type(await opened.quote(wanted, prefer="fastest"), list[Quote])
        assert_type((await opened.submit(wanted, prefer=["kling"], max_cost=1)).choice, Choice | None)
        result = await opened.run(runblob.O3Photo("a boat"))
        assert_type(result.artifacts, tuple[Artifact, ...])
        assert_type(result.urls, list[str])
        assert_type(result.cost, Cost | None)
        assert_type(await result.save("s3://bucket/prefix"), list[Path | Any])
        assert_type(await result.artifacts[0].save(Path("boat.png")), Path | Any)
        assert_type(await opened.resume(), list[Job])
        assert_type(await opened.all_jobs(), list[Job])
        assert_type(await opened.unresolved(), list[Submission])
        assert_type(opened.attach(job.ref), Job)
        assert_type(opened.attach("runblob/o3-video/1"), Job)
        both = await asyncio.gather(job, opened.attach(str(job.ref)))
        assert_type(both[0], Result)
        async with opened.map([("row-1", runblob.O3Video("a boat"))], in_flight=5) as outcomes:
            async for outcome in outcomes:
                assert_type(outcome.job, Job | None)
                assert_type(outcome.result, Result | None)


def settings() -> Any:
    """The ways to say when to poll."""
    return [Polling(), Polling(Learned(lag_per_poll=0.5)), Polling("documented"), Client(RunBlob())]

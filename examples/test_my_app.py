"""Tests of an application of one's own: no key, no cost, and a job of minutes takes milliseconds.

pytest examples/test_my_app.py

The fixtures come with the package (kling-async[sandbox], pytest, pytest-asyncio).
"""

from pathlib import Path

import pytest

from kling_async import Client, GenerationFailed, SubmissionUnknown, Video
from kling_async.sandbox import Sandbox
from kling_async.sandbox.faults.catalog import FaultRegistry


async def make_trailer(client: Client, title: str, folder: Path) -> Path | None:
    """The application: a trailer for a title. None if the title is not acceptable."""
    try:
        result = await client.run(Video(f"a trailer of {title}"), key=f"trailer-{title}", save_to=folder)
    except GenerationFailed as error:
        if error.code == "CONTENT_POLICY_VIOLATION":
            return None
        raise
    return Path(result.files[0])


@pytest.mark.asyncio
async def test_a_trailer_is_made(kling_client: Client, kling_sandbox: Sandbox, tmp_path: Path) -> None:
    path = await make_trailer(kling_client, "Boats", tmp_path)
    assert path is not None
    assert path.suffix == ".mp4"
    assert kling_sandbox.counters.jobs_bought == 1


@pytest.mark.asyncio
async def test_a_title_that_is_refused_makes_no_trailer(
    kling_client: Client, kling_sandbox: Sandbox, tmp_path: Path
) -> None:
    kling_sandbox.plan_next(fail="CONTENT_POLICY_VIOLATION")
    assert await make_trailer(kling_client, "Pirates", tmp_path) is None


@pytest.mark.asyncio
async def test_a_lost_answer_buys_no_second_trailer(
    kling_client: Client, kling_faults: FaultRegistry, kling_sandbox: Sandbox, tmp_path: Path
) -> None:
    kling_faults.add("accept-then-reset:submit:times=1")
    with pytest.raises(SubmissionUnknown):
        await make_trailer(kling_client, "Boats", tmp_path)
    assert kling_sandbox.counters.jobs_bought == 1

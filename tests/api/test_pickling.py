"""Results and errors travel: to another process, into a task queue, through `copy` and `asdict`."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

import kling_async
from kling_async import (
    BulkStopped,
    Client,
    GenerationCancelled,
    GenerationFailed,
    GenerationTimeout,
    InsufficientCredits,
    JobRef,
    KlingError,
    RateLimited,
    Result,
    SubmissionUnknown,
    runblob,
)
from support.fake_runblob import FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

VIDEO = runblob.O3Video("a boat")
ABOUT_JOBS = {GenerationFailed, GenerationCancelled, GenerationTimeout}
ERRORS = [
    thing
    for name in kling_async.__all__
    if isinstance(thing := getattr(kling_async, name), type) and issubclass(thing, KlingError)
]


def pickled(protocol: int) -> Callable[[Any], Any]:
    return lambda thing: pickle.loads(pickle.dumps(thing, protocol))  # noqa: S301  # our own bytes


HERE: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy]
WAYS: list[Callable[[Any], Any]] = [
    *HERE,
    *(pickled(protocol) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)),
]


@pytest.mark.parametrize("way", WAYS)
async def test_a_result_arrives_whole_but_for_the_way_to_save_it(
    way: Callable[[Any], Any], client: Client, tmp_path: Path
) -> None:
    result = await client.run(VIDEO)
    arrived = way(result)
    assert arrived == result
    assert hash(arrived) == hash(result)
    assert arrived.raw == result.raw
    assert way(result.artifacts[0]) == result.artifacts[0]
    if way not in HERE:
        with pytest.raises(RuntimeError, match=r"await client\.attach\(ref\)"):
            await arrived.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_a_result_as_a_dictionary_has_what_the_result_has(client: Client) -> None:
    result = await client.run(VIDEO)
    record = dataclasses.asdict(result)
    assert record["ref"] == f"runblob/o3-video/{result.ref.id}"
    assert [artifact["url"] for artifact in record["artifacts"]] == result.urls
    assert "saver" not in str(record)


async def test_events_and_requests_travel(client: Client) -> None:
    job = await client.submit(VIDEO)
    await job
    for way in WAYS:
        assert way(job.events) == job.events
        assert way(job.request) == VIDEO


async def test_a_failure_arrives_with_all_its_facts_and_without_its_job(client: Client, server: FakeRunBlob) -> None:
    server.failure = "TIMEOUT"
    with pytest.raises(GenerationFailed) as caught:
        await client.run(VIDEO)
    error = caught.value
    for way in WAYS:
        arrived = way(error)
        assert type(arrived) is GenerationFailed
        assert str(arrived) == str(error)
        assert (arrived.ref, arrived.code, arrived.retryable) == (error.ref, error.code, error.retryable)
        assert arrived.job is (error.job if way in HERE else None), "a handle belongs to its process"
    assert error.job.status is kling_async.Status.FAILED
    assert error.ref is not None
    assert client.attach(error.ref).ref == error.job.ref


@pytest.mark.parametrize("kind", ERRORS)
async def test_every_error_can_be_pickled(kind: type[KlingError], client: Client) -> None:
    facts: dict[str, Any] = {"provider": "runblob", "http_status": 402, "code": "NO", "request_id": "r-1"}
    if kind in ABOUT_JOBS:
        facts["job"] = client.attach("runblob/o3-video/1")
    if kind is GenerationFailed:
        facts["retryable"] = True
    error = kind("it did not work", **facts)
    error.add_note("row 17")
    arrived = pickled(pickle.HIGHEST_PROTOCOL)(error)
    assert type(arrived) is kind
    assert (str(arrived), arrived.args) == (str(error), error.args)
    assert {**vars(arrived), "job": None} == {**vars(error), "job": None}


async def test_errors_keep_what_is_their_own() -> None:
    again = pickled(pickle.HIGHEST_PROTOCOL)
    assert again(RateLimited("later", retry_after=7.5)).retry_after == 7.5
    assert again(SubmissionUnknown("lost", key="row-17")).key == "row-17"
    stopped = again(BulkStopped("no money", cause=InsufficientCredits("none left", code="NO_CREDITS")))
    assert (type(stopped.cause), stopped.cause.code) == (InsufficientCredits, "NO_CREDITS")


async def test_a_job_says_how_it_travels(client: Client) -> None:
    job = client.attach("runblob/o3-video/1")
    with pytest.raises(TypeError, match=r"client\.attach\('runblob/o3-video/1'\)"):
        pickle.dumps(job)


async def test_results_are_fields_of_pydantic_models(client: Client) -> None:
    """As FastAPI makes of what a handler is annotated to return."""
    result = await client.run(VIDEO)
    kind = TypeAdapter(Result)
    assert kind.validate_python(kind.dump_python(result)) == result
    assert json.loads(kind.dump_json(result))["ref"] == result.ref
    assert type(TypeAdapter(JobRef).validate_python(str(result.ref))) is JobRef
    with pytest.raises(ValidationError, match="is not a job reference"):
        TypeAdapter(JobRef).validate_python("nothing")

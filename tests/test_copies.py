"""Errors and results travel: copied, deeply copied, pickled to another process."""

from __future__ import annotations

import copy
import pickle

import pytest

import kling_async
from fake_runblob import KEY, FakeRunBlob
from kling_async import BulkStopped, Client, GenerationFailed, KlingError, RateLimited, SubmissionUnknown, runblob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]


async def failed() -> GenerationFailed:
    server = FakeRunBlob()
    server.failure = "TIMEOUT"
    async with Client(kling_async.RunBlob(KEY), http=server) as client:
        with pytest.raises(GenerationFailed) as failure:
            await client.run(runblob.O3Video("a boat"))
    return failure.value


async def test_errors_are_copied_with_their_facts_and_their_job() -> None:
    error = await failed()
    for same in (copy.copy(error), copy.deepcopy(error)):
        assert type(same) is GenerationFailed
        assert (str(same), same.job, same.code, same.retryable) == (str(error), error.job, "TIMEOUT", True)


async def test_errors_are_pickled_without_what_belongs_to_the_process() -> None:
    error = await failed()
    stopped = BulkStopped("stopped", cause=error)
    same = pickle.loads(pickle.dumps(stopped)).cause  # noqa: S301  # our own bytes
    assert (str(same), same.job, same.ref, same.retryable) == (str(error), None, error.ref, True)
    assert KEY.encode() not in pickle.dumps(stopped)


@pytest.mark.parametrize(
    "error", [SubmissionUnknown("lost", key="k"), RateLimited("slowly", retry_after=3.0)], ids=repr
)
async def test_errors_without_a_job_keep_everything(error: KlingError) -> None:
    same = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert (type(same), str(same), vars(same)) == (type(error), str(error), vars(error))


async def test_results_are_copied_and_pickled() -> None:
    async with Client(kling_async.RunBlob(KEY), http=FakeRunBlob()) as client:
        result = await client.run(runblob.O3Video("a boat"))
    assert copy.deepcopy(result).artifacts[0].saver is result.artifacts[0].saver
    same = pickle.loads(pickle.dumps(result))  # noqa: S301  # our own bytes
    assert same == result
    assert KEY.encode() not in pickle.dumps(result)
    with pytest.raises(RuntimeError, match="belongs to no job"):
        await same.artifacts[0].save("x")

"""Runs that save to an object store: a sandbox on one side, an S3 server on the other."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kling_async import Client, ConfigurationError, Polling, Progressive, SqliteLedger, inspect_ledger, runblob
from kling_async.sandbox import Sandbox
from support.s3 import Bucket

pytestmark = [pytest.mark.anyio, pytest.mark.sandbox(scale=0.1)]


async def test_runs_save_their_results_as_objects(sandbox: Sandbox, bucket: Bucket) -> None:
    folder = bucket.url("run")
    often = Polling(Progressive(0.05), status_calls_per_minute=math.inf)
    async with Client(sandbox.providers(), polling=often) as client:
        alone = await client.run(runblob.O3Photo("a boat"), save_to=folder)
        rows = [(f"row {number}", runblob.O3Photo(f"boat {number}")) for number in range(2)]
        async with client.map(rows, save_to=folder, downloads=2) as outcomes:
            saved = [file async for outcome in outcomes for file in outcome.files]
    keys = bucket.keys()
    assert sorted([*alone.files, *saved]) == [bucket.url(key) for key in keys]
    assert len(keys) == 3
    assert all(key.startswith("run/runblob-o3-photo-") for key in keys)
    assert {bucket.media_type(key) for key in keys} <= {"image/png", "image/jpeg"}
    assert all(len(bucket.read(key)) > 500 for key in keys)


async def test_nothing_is_bought_if_results_cannot_be_saved(sandbox: Sandbox, bucket: Bucket) -> None:
    async with Client(sandbox.providers()) as client:
        with pytest.raises(ConfigurationError, match="there is no bucket nobodys-bucket"):
            await client.run(runblob.O3Photo("a boat"), save_to="s3://nobodys-bucket/run")
        with pytest.raises(ConfigurationError, match="there is no bucket nobodys-bucket"):
            async with client.map([runblob.O3Photo("a boat")], save_to="s3://nobodys-bucket"):
                pass
        with pytest.raises(ConfigurationError, match=r"https:// is no place for results"):
            await client.run(runblob.O3Photo("a boat"), save_to="https://bucket.s3.amazonaws.com/run")
        with pytest.raises(ConfigurationError, match=r"names no bucket"):
            client.map([runblob.O3Photo("a boat")], save_to="s3://")
    assert sandbox.counters.jobs_bought == 0
    assert bucket.keys() == []


async def test_the_ledger_knows_the_objects_so_that_nothing_is_saved_again(
    sandbox: Sandbox, bucket: Bucket, tmp_path: Path
) -> None:
    ledger = tmp_path / "jobs.db"
    often = Polling(Progressive(0.05), status_calls_per_minute=math.inf)
    async with Client(sandbox.providers(), polling=often, ledger=SqliteLedger(ledger)) as client:
        result = await client.run(runblob.O3Photo("a boat"), key="boat", save_to=bucket.url("run"))
    (address,) = result.files
    contents = await inspect_ledger(ledger)
    assert [submission.files for submission in contents.submissions] == [(address,)]
    assert [address] == list(map(bucket.url, bucket.keys()))
    assert not (await inspect_ledger(ledger, unsaved=True)).submissions

"""`kling bulk -o s3://...`: a sandbox on one side, an S3 server on the other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kling_async.sandbox import Sandbox
from support.cli_process import Answer, Run
from support.s3 import SECRET, Bucket

pytestmark = pytest.mark.sandbox(speed=600, scale=0.02, environment=True)

FAST = ("--poll", "0.1", "--status-calls", "0")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this machine keeps the progress of runs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "kling" / "bulk"


@pytest.fixture
def bulk(kling: Run, bucket: Bucket, state: Path, tmp_path: Path) -> Run:
    del state
    rows = [{"endpoint": "runware/image-o3", "prompt": f"row {n}", "key": f"row {n}"} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*arguments: str) -> Answer:
        return kling("bulk", "rows.jsonl", "-o", bucket.url("run"), *FAST, *arguments)

    return run


def records(bucket: Bucket) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bucket.read("run/results.jsonl").splitlines()]


def test_a_run_saves_its_files_results_and_page_to_the_store(
    bulk: Run, bucket: Bucket, sandbox: Sandbox, state: Path
) -> None:
    first = bulk()
    assert first.code == 0, first.err
    assert first.out.splitlines() == [bucket.url("run/results.jsonl"), bucket.url("run/report.html")]
    found = records(bucket)
    assert [record["state"] for record in found] == ["completed"] * 3
    for record in found:
        [file] = record["files"]
        assert file["path"].startswith("files/")
        assert len(bucket.read(f"run/{file['path']}")) == file["bytes"] > 0
    assert b"row 2" in bucket.read("run/report.html")
    assert len(bucket.keys()) == 5
    assert not list(state.rglob("*.png"))
    assert SECRET not in first.out + first.err

    requests = sandbox.counters.requests.copy()
    assert bulk().code == 0
    assert sandbox.counters.requests == requests  # nothing was asked for, and nothing bought

    lost = f"run/{found[0]['files'][0]['path']}"
    bucket.client.delete_object(Bucket=bucket.name, Key=lost)
    assert bulk().code == 0
    assert lost in bucket.keys()  # noqa: SIM118  # a method of ours
    assert sandbox.counters.jobs_bought == 3


def test_another_machine_without_the_ledger_buys_nothing(
    bulk: Run, bucket: Bucket, sandbox: Sandbox, state: Path, tmp_path: Path
) -> None:
    assert bulk().code == 0
    [ledger] = state.rglob("ledger.db")
    shutil.copy(ledger, tmp_path / "copy.db")
    shutil.rmtree(state)
    refused = bulk()
    assert refused.code == 2
    assert f"{bucket.url('run')} has the results of a run that was started on another machine" in _line(refused.err)
    assert sandbox.counters.jobs_bought == 3
    assert bulk("--ledger", "copy.db").code == 0
    assert sandbox.counters.jobs_bought == 3
    assert [record["state"] for record in records(bucket)] == ["completed"] * 3


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("s3://nobodys-bucket/run", "there is no bucket nobodys-bucket"),
        ("s3://", "names no bucket"),
        ("ftp://host/run", "ftp:// is no place for results"),
    ],
)
def test_a_store_that_cannot_be_used_costs_nothing(
    output: str, message: str, bulk: Run, kling: Run, sandbox: Sandbox
) -> None:
    del bulk
    refused = kling("bulk", "rows.jsonl", "-o", output, *FAST)
    assert refused.code == 2
    assert message in _line(refused.err)
    assert refused.out == ""
    assert sandbox.counters.jobs_bought == 0


def _line(text: str) -> str:
    return " ".join(text.split())

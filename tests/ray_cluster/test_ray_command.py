"""``kling bulk --ray``, and the page about many machines: programs that start a cluster of this machine alone."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'kling-async[ray]'")

import pyarrow as pa
from pyarrow import parquet

from support.cli_process import PATIENCE, spawn
from support.documents import BLOCKS, Block
from support.postgres import PASSWORD, Server
from support.remote_sandbox import RemoteSandbox
from support.s3 import Bucket

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROWS = 40


@pytest.fixture(scope="module")
def box() -> Iterator[RemoteSandbox]:
    """A sandbox, and a directory in which ``auto`` finds no other cluster. Sockets in it need a short name."""
    with (
        tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as home,
        RemoteSandbox("--speed", "600", "--scale", "0.1") as running,
    ):
        running.environment |= {"KLING_SANDBOX_SPEED": "600", "RAY_TMPDIR": home}
        yield running


def kling(box: RemoteSandbox, folder: Path, *arguments: str) -> tuple[int, str, str]:
    process = spawn("-m", "kling_async", *arguments, variables=box.environment, cwd=folder)
    out, err = process.communicate(timeout=2 * PATIENCE)
    return process.returncode, out, err


def test_a_file_is_bought_on_a_cluster_once(box: RemoteSandbox, tmp_path: Path) -> None:
    before = box.counters()["jobs_bought"]
    parquet.write_table(pa.table({"prompt": [f"boat {row}" for row in range(ROWS)]}), tmp_path / "rows.parquet")
    command = ("bulk", "rows.parquet", "-o", "out", "--endpoint", "runblob/o3-photo", "--status-calls", "0")
    code, out, err = kling(box, tmp_path, *command, "--ray", "auto")
    assert (code, out.split()) == (0, ["out/results.jsonl", "out/report.html"]), err
    assert f"{ROWS} of {ROWS} rows done: {ROWS} completed; $2.00 spent" in err
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {record["state"] for record in records} == {"completed"}
    files = [tmp_path / "out" / file["path"] for record in records for file in record["files"]]
    assert [path.stat().st_size for path in files] == [file["bytes"] for record in records for file in record["files"]]
    assert len(files) == ROWS
    assert box.counters()["jobs_bought"] == before + ROWS
    code, _, err = kling(box, tmp_path, *command)  # and goes on without a cluster
    assert (code, box.counters()["jobs_bought"]) == (0, before + ROWS), err


def test_a_run_on_a_cluster_keeps_its_ledger_on_a_server_and_its_files_in_a_store(
    box: RemoteSandbox, tmp_path: Path, postgres: Server, bucket: Bucket
) -> None:
    before = box.counters()["jobs_bought"]
    (tmp_path / "rows.txt").write_text("".join(f"fox {row}\n" for row in range(ROWS)))
    ledger = f"{postgres.dsn()}?schema={postgres.schema()}"
    command = ("bulk", "rows.txt", "-o", bucket.url("run"), "--endpoint", "runblob/o3-photo", "--status-calls", "0")
    for cluster in (("--ray", "auto", "--actors", "2"), ()):  # and goes on without a cluster
        code, out, err = kling(box, tmp_path, *command, "--ledger", ledger, *cluster)
        assert code == 0, err
        assert out.split() == [bucket.url("run/results.jsonl"), bucket.url("run/report.html")]
        assert PASSWORD not in err
        assert ledger not in err
        assert box.counters()["jobs_bought"] == before + ROWS
    records = [json.loads(line) for line in bucket.read("run/results.jsonl").decode().splitlines()]
    assert [record["state"] for record in records] == ["completed"] * ROWS
    files = {file["path"]: file["bytes"] for record in records for file in record["files"]}
    assert len(files) == ROWS
    assert {path: len(bucket.read(f"run/{path}")) for path in files} == files
    assert bucket.unfinished() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray", "127.0.0.1:9"], "there is no Ray cluster at '127.0.0.1:9'"),
        (["--ray", "auto", "--no-ledger"], "--ray needs a ledger"),
        (["--ray", "auto", "--listen", "8000", "--webhook-url", "https://a.test/kling"], "--ray polls jobs"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(
    box: RemoteSandbox, tmp_path: Path, options: list[str], message: str
) -> None:
    before = box.counters()["jobs_bought"]
    (tmp_path / "rows.txt").write_text("a boat\n")
    code, _, err = kling(box, tmp_path, "bulk", "rows.txt", "-o", "out", "--endpoint", "runblob/o3-photo", *options)
    assert code == 2, err
    assert message in " ".join(err.split())
    assert box.counters()["jobs_bought"] == before


@pytest.mark.parametrize("script", [one for one in BLOCKS if one.needs_ray], ids=lambda block: block.name)
def test_scripts_of_the_documents_run(script: Block, box: RemoteSandbox, tmp_path: Path) -> None:
    before = box.counters()["jobs_bought"]
    (tmp_path / "script.py").write_text(script.code)
    process = spawn("script.py", variables=box.environment, cwd=tmp_path, stderr=subprocess.STDOUT)
    out, _ = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 0, out
    assert box.counters()["jobs_bought"] == before + script.bought
    assert len(list((tmp_path / "out").iterdir())) == script.bought

"""A Ray cluster of two nodes on this machine: rows in, rows out, whatever dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from psycopg import sql

pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'kling-async[ray]'")

import ray
import ray.data
from ray.cluster_utils import Cluster

from kling_async import Budget, ConfigurationError, Ledger, Polling, SqliteLedger, runware
from kling_async.ray import generate
from support.cli_process import PATIENCE, spawn
from support.postgres import PASSWORD, Server
from support.remote_sandbox import RemoteSandbox

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]

ROWS = 2000
MEMORY = 80 * 1024**2  # bytes of a node's object store
ANY = Polling(status_calls_per_minute=1e9)
LEASE = "3"  # s, so that nobody waits for 30 s for the jobs of an actor that died


@pytest.fixture(scope="module")
def box() -> Iterator[RemoteSandbox]:
    """A sandbox in a process of its own, to which the environment of all actors leads."""
    with RemoteSandbox("--speed", "600") as running:
        running.environment["KLING_SANDBOX_SPEED"] = "600"
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A node for the driver alone, and two nodes that work."""
    patch = pytest.MonkeyPatch()
    patch.setenv("KLING_LEASE", LEASE)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": MEMORY})
    for _ in range(2):
        made.add_node(num_cpus=1, resources={"mortal": 1}, object_store_memory=MEMORY)
    ray.init(address=made.address, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    yield made
    ray.shutdown()
    made.shutdown()
    patch.undo()


@pytest.fixture
def keys(box: RemoteSandbox, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in box.environment.items():
        monkeypatch.setenv(name, value)
    return box.environment


def one_file(path: Path) -> Callable[[], Ledger]:
    """A ledger in a file that both nodes have, because they are one machine."""
    return lambda: SqliteLedger(path)


def logs_with(*secrets: bytes) -> list[Path]:
    """The files that Ray has written, and that have one of these in them."""
    logs = [path for path in Path("/tmp/ray/session_latest/").rglob("*") if path.is_file()]  # noqa: S108  # Ray's
    assert logs
    return [path for path in logs if any(secret in path.read_bytes() for secret in secrets)]


def workers() -> Iterator[tuple[int, int]]:
    """The processes of actors that generate, each with the process of its node."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes()
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has ended
        if b"MapWorker" in command or b"Generator" in command:
            yield int(place.name), parent


def node_process(node: Any) -> int:
    """The process of a node."""
    return int(node.all_processes["raylet"][0].process.pid)


def homes() -> set[int]:
    """The processes of the nodes that have an actor."""
    return {home for _, home in workers()}


def wait_for(condition: Callable[[], Any]) -> Any:
    limit = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.05)
    return found


def test_rows_come_back_with_what_has_become_of_them(
    cluster: Cluster, box: RemoteSandbox, keys: dict[str, str], tmp_path: Path
) -> None:
    before = box.counters()["jobs_bought"]
    prompts = ["a boat", "a boat", "a fox", " "]
    rows = [{"prompt": prompt, "mine": number} for number, prompt in enumerate(prompts)]
    made = generate(
        ray.data.from_items(rows),
        ledger=one_file(tmp_path / "jobs.db"),
        endpoint="runware/image-o3",
        ignore_columns=True,
        polling=ANY,
    )
    assert box.counters()["jobs_bought"] == before  # nothing before it is read
    found = sorted(made.take_all(), key=lambda row: row["mine"])
    assert [row["status"] for row in found] == ["completed", "completed", "completed", "refused"]
    assert found[1]["key"] == f"{found[0]['key']}-2"
    assert all(row["ref"].startswith("runware/image-o3/") and row["urls"] for row in found[:3])
    assert (found[0]["unit"], found[0]["cost"] > 0, found[0]["error"]) == ("USD", True, None)
    assert "prompt: it contains only blanks" in found[3]["error"]
    again = generate(
        ray.data.from_items(rows[::-1]),
        ledger=one_file(tmp_path / "jobs.db"),
        endpoint="runware/image-o3",
        ignore_columns=True,
        polling=ANY,
    )
    assert {row["ref"] for row in again.take_all()} == {row["ref"] for row in found}
    assert box.counters()["jobs_bought"] == before + 3
    secret = keys["RUNWARE_API_KEY"].encode()
    assert not logs_with(secret)


def test_what_is_on_one_machine_is_refused_on_several(cluster: Cluster, keys: dict[str, str], tmp_path: Path) -> None:
    rows = ray.data.from_items([{"prompt": "a boat", "key": "boat"}])
    with pytest.raises(ConfigurationError, match=r"jobs.db is a file of one machine, and the cluster has 3 nodes"):
        generate(rows, ledger=tmp_path / "jobs.db")
    with pytest.raises(ConfigurationError, match=r"out is a directory of one machine, and the cluster has 3 nodes"):
        generate(rows, ledger=one_file(tmp_path / "jobs.db"), save_to=tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_command_with_a_file_as_ledger_is_refused_on_several_machines(
    cluster: Cluster, keys: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "rows.txt").write_text("a boat\n")
    command = ("bulk", "rows.txt", "-o", "out", "--endpoint", "runware/image-o3", "--ray", cluster.address)
    process = spawn("-m", "kling_async", *command, "--ledger", "jobs.db", variables=keys, cwd=tmp_path)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "jobs.db is a file of one machine, and the cluster has 3 nodes" in " ".join(err.split())
    assert "use a database server" in " ".join(err.split())


def test_settings_that_cannot_be_used_are_refused(
    cluster: Cluster, keys: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ray.data.from_items([{"prompt": "a boat", "key": "boat"}])
    ledger = one_file(tmp_path / "jobs.db")
    with pytest.raises(ConfigurationError, match="takes a Ray dataset"):
        generate([runware.ImageO3("a boat")], ledger=ledger)
    with pytest.raises(ConfigurationError, match=r"every actor opens the ledger for itself"):
        generate(rows, ledger=SqliteLedger(tmp_path / "jobs.db"))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"begins with postgresql://"):
        generate(rows, ledger="mysql://host/jobs")
    with pytest.raises(ConfigurationError, match=r"actors=...\) is 0; it must be a whole number"):
        generate(rows, ledger=ledger, actors=0)
    with pytest.raises(ConfigurationError, match="3 actors for 2 jobs at once"):
        generate(rows, ledger=ledger, actors=3, in_flight=2)
    with pytest.raises(ConfigurationError, match="a budget needs one actor, and not 2, with a ledger that a function"):
        generate(rows, ledger=ledger, actors=2, budget=lambda: Budget(usd=1))
    for name in keys:
        monkeypatch.delenv(name)
    with pytest.raises(ConfigurationError, match="no API key in the environment"):
        generate(rows, ledger=ledger)
    assert not list(tmp_path.iterdir())


def test_all_actors_spend_one_budget(
    cluster: Cluster, box: RemoteSandbox, keys: dict[str, str], postgres: Server
) -> None:
    before = box.counters()["jobs_bought"]
    made = generate(
        ray.data.from_items([{"prompt": f"boat {number}", "key": f"row {number}"} for number in range(24)]),
        ledger=f"{postgres.dsn()}?schema={postgres.schema()}",
        endpoint="runblob/o3-photo",
        in_flight=8,
        actors=2,
        polling=ANY,
        budget=lambda: Budget(usd="0.25"),
    )
    found = made.take_all()
    paid = [row for row in found if row["status"] == "completed"]
    assert 0 < sum(row["cost"] for row in paid) < 0.2501
    assert box.counters()["jobs_bought"] - before == len(paid)
    assert {row["status"] for row in found} == {"completed", "waiting"}


def test_an_actor_and_a_node_that_die_cost_nothing(
    cluster: Cluster, box: RemoteSandbox, keys: dict[str, str], postgres: Server
) -> None:
    schema = postgres.schema()
    before = box.counters()["jobs_bought"]
    made = generate(
        ray.data.from_items([{"prompt": f"boat {number}", "key": f"row {number}"} for number in range(ROWS)]),
        ledger=f"{postgres.dsn()}?schema={schema}",
        endpoint="runware/image-o3",
        in_flight=128,
        resources={"mortal": 0.1},  # not on the node of the driver, which must not die
        polling=ANY,
    )
    failures: list[BaseException] = []

    def kill() -> None:
        try:
            wait_for(lambda: box.counters()["jobs_bought"] > before + ROWS // 4)
            (first, _) = wait_for(lambda: list(workers()))[0]
            os.kill(first, signal.SIGKILL)
            wait_for(lambda: box.counters()["jobs_bought"] > before + ROWS // 2)
            node = wait_for(lambda: [node for node in cluster.worker_nodes if node_process(node) in homes()])[0]
            cluster.remove_node(node, allow_graceful=False)
        except BaseException as error:  # noqa: BLE001  # the test raises it
            failures.append(error)

    killer = threading.Thread(target=kill)
    killer.start()
    found = made.take_all()
    killer.join(PATIENCE)
    assert failures == []
    assert Counter(row["status"] for row in found) == {"completed": ROWS}
    assert {row["key"] for row in found} == {f"row {number}" for number in range(ROWS)}
    assert len({row["ref"] for row in found}) == ROWS
    assert box.counters()["jobs_bought"] == before + ROWS
    with postgres.connect() as connection:
        table = sql.Identifier(schema, "attempts")
        stored = connection.execute(
            sql.SQL("SELECT key, ref FROM {} WHERE state = 'accepted'").format(table)
        ).fetchall()
    assert {row[0]: row[1] for row in stored} == {row["key"]: row["ref"] for row in found}
    assert not logs_with(PASSWORD.encode(), quote(PASSWORD, safe="").encode())

"""Starting, stopping, and being judged from another process."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from kling_async.sandbox import Fault, Sandbox
from support.cli_process import finish, spawn
from support.program import Program

ROOT = Path(__file__).parents[3]
VIDEO = "/v1/kling/o3-video"
PATIENCE = 120.0  # seconds that a process gets to start or to end


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_it_serves_inside_asyncio_and_trio() -> None:
    async with Sandbox(speed=0) as sandbox:
        headers = {"Authorization": f"Bearer {sandbox.api_key('runblob')}"}
        async with httpx.AsyncClient(base_url=sandbox.base_url("runblob"), headers=headers) as client:
            answer = await client.post(f"{VIDEO}/generate", json={"prompt": "a fox"})
            assert answer.status_code == 201
        assert sandbox.counters.jobs_bought == 1
    assert not _reachable(sandbox)


def test_it_serves_inside_synchronous_code_and_ends_with_it() -> None:
    before = threading.active_count()
    with Sandbox() as sandbox:
        assert _reachable(sandbox)
        assert threading.active_count() == before + 1
    assert not _reachable(sandbox)
    assert threading.active_count() == before


def _reachable(sandbox: Sandbox) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2])), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_it_listens_on_this_machine_only_at_an_address_with_a_path() -> None:
    with Sandbox() as sandbox:
        assert sandbox.url.startswith("http://127.0.0.1:")
        assert sandbox.base_url("runblob") == f"{sandbox.url}/runblob"


def test_keys_are_made_up_and_by_seed() -> None:
    keys = [Sandbox(seed=seed).api_key("runblob") for seed in (1, 1, 2, None, None)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_it_makes_provider_objects_for_the_client() -> None:
    runblob = pytest.importorskip("kling_async.providers.runblob")
    with Sandbox() as sandbox:
        made = [provider for provider in sandbox.providers() if isinstance(provider, runblob.RunBlob)]
        assert len(made) == 1
        assert sandbox.api_key("runblob") not in repr(made[0])


def test_a_port_in_use_is_a_clear_error() -> None:
    with Sandbox() as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(OSError, match=f"port {port} is in use .* choose another with --port"):
            Sandbox(port=port).start()


def test_it_can_be_stopped_twice_and_started_again_on_the_same_port() -> None:
    sandbox = Sandbox(scale=0.05, speed=0)
    sandbox.stop()
    for run in (1, 2):
        with sandbox:
            headers = {"Authorization": f"Bearer {sandbox.api_key('runblob')}"}
            with httpx.Client(base_url=sandbox.base_url("runblob"), headers=headers) as client:
                posted = client.post("/v1/kling/o3-photo/generate", json={"prompt": "a fox"})
                sandbox.state.clock.advance(1000)
                place = f"/v1/kling/o3-photo/generations/{posted.json()['generation_id']}"
                assert client.get(client.get(place).json()["image_url"]).status_code == 200
        sandbox.stop()
        assert sandbox.counters.jobs_bought == run


def test_it_stops_in_the_middle_of_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """A sleeping answer and an idle connection hold nothing up."""
    with Sandbox(speed=0) as sandbox, httpx.Client(trust_env=False) as client:
        client.get(f"{sandbox.url}/_sandbox/counters")
        sandbox.faults.add(Fault.delay, seconds=3600)
        arrived = threading.Event()
        sandbox.state.subscribe(lambda _: arrived.set())
        broken: list[Exception] = []

        def submit() -> None:
            headers = {"Authorization": f"Bearer {sandbox.api_key('runblob')}"}
            try:
                httpx.post(
                    f"{sandbox.base_url('runblob')}{VIDEO}/generate",
                    json={"prompt": "a fox"},
                    headers=headers,
                    timeout=PATIENCE,
                    trust_env=False,
                )
            except httpx.TransportError as error:
                broken.append(error)

        thread = threading.Thread(target=submit)
        thread.start()
        assert arrived.wait(PATIENCE)
    thread.join(PATIENCE)
    assert len(broken) == 1
    assert not caplog.records
    assert sandbox.counters.open_connections == 0


def test_connections_are_counted(sandbox: Sandbox) -> None:
    for _ in range(3):
        with httpx.Client(trust_env=False) as client:
            for _ in range(5):
                client.get(f"{sandbox.url}/_sandbox/counters")
            assert sandbox.counters.open_connections >= 1
    assert sandbox.counters.connections == 3
    assert 1 <= sandbox.counters.peak_connections <= 3


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "PIL", "av"])
def test_without_the_extra_the_import_says_what_to_install(package: str) -> None:
    code = f"import sys; sys.modules['{package}'] = None; import kling_async.sandbox"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 1
    assert f"ImportError: the sandbox needs {package}, which is not installed" in run.stderr
    assert "pip install 'kling-async[sandbox]'" in run.stderr


def test_importing_the_library_does_not_import_the_server() -> None:
    code = (
        "import sys; from kling_async import *; "
        "sys.exit(bool({'starlette', 'uvicorn', 'PIL', 'av'} & set(sys.modules)) or 'Client' not in globals())"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert run.returncode == 0


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    """Run `kling_async.sandbox` as a program."""
    processes: list[Program] = []

    def begin(*arguments: str) -> Program:
        processes.append(Program("kling_async.sandbox", *arguments, stdin=subprocess.PIPE))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait(PATIENCE)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def test_a_process_of_its_own_is_scripted_and_judged_over_http(start: Start) -> None:
    process = start("--speed", "0", "--credits", "1", "--until-eof", "--fault", "not-found-at-first:polls=1")
    assert process.stdin is not None
    assert process.stdout is not None
    about = json.loads(process.stdout.readline())
    provider = about["providers"]["runblob"]
    with httpx.Client(
        base_url=provider["base_url"],
        headers={"Authorization": f"Bearer {provider['api_key']}"},
        trust_env=False,
    ) as client:
        desk = f"{about['url']}/_sandbox"
        script = {"provider": "runblob", "fail": "TASK_FAILED", "duration": 10}
        assert client.post(f"{desk}/script", json=script).status_code == 200
        job = client.post(f"{VIDEO}/generate", json={"prompt": "a fox"}).json()["generation_id"]
        assert client.post(f"{desk}/advance", json={"seconds": 10}).json() == {"now": 10.0}
        codes = [client.get(f"{VIDEO}/generations/{job}").status_code for _ in range(2)]
        assert codes == [404, 200]
        added = client.post(f"{desk}/faults", json={"fault": "server-error:status:times=1"}).json()["faults"]
        assert [rule["fault"] for rule in added] == ["not-found-at-first", "server-error"]
        assert client.get(f"{VIDEO}/generations/{job}").status_code == 500
        assert client.delete(f"{desk}/faults").json() == {"faults": []}
        assert client.get(f"{VIDEO}/generations/{job}").json()["status"] == "failed"
        counters = client.get(f"{desk}/counters").json()
    assert counters["bought"] == {"runblob": 1}
    assert counters["requests"] == {"runblob/submit": 1, "runblob/status": 4}
    assert counters["faults"] == {"not-found-at-first": 1, "server-error": 1}
    assert counters["connections"] == 1
    process.stdin.close()
    assert process.wait(PATIENCE) == 0


def test_sigterm_ends_it_in_an_orderly_way() -> None:
    """Here as `python -m kling_async.sandbox`, which starts as users start it."""
    process = spawn("-m", "kling_async.sandbox")
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["url"].startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGTERM)
    finally:
        assert finish(process).code == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ("--fault", "gremlins"),
            "unknown fault 'gremlins'; there are: reset-before-reading, accept-then-reset",
        ),
        (("--speed", "-1"), "speed=-1.0 is not a usable speed"),
    ],
)
def test_bad_arguments_are_reported_on_stderr(start: Start, arguments: tuple[str, ...], complaint: str) -> None:
    process = start(*arguments)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert complaint in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", {"fault": "drip:every=x"}),
        ("faults", {}),
        ("script", {"explode": True}),
        ("script", []),
        ("advance", {"seconds": "soon"}),
    ],
)
def test_the_desk_says_what_it_does_not_understand(sandbox: Sandbox, path: str, body: object) -> None:
    answer = httpx.post(f"{sandbox.url}/_sandbox/{path}", json=body, trust_env=False)
    assert answer.status_code == 400
    assert answer.json()["detail"]

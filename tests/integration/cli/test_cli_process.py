"""`kling` as a process: signals, pipes, terminals, and what an interpreter loads."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from kling_async.providers import ALL_PROVIDERS
from kling_async.sandbox import Sandbox
from support.cli_process import PATIENCE, PHOTO, QUICK, VIDEO, Answer, Run, finish, launch, on_terminal, spawn
from support.program import CLOSED

SMALL = ("--scale", "0.1")  # files are drawn in a moment


@pytest.fixture
def attempt_id(sandbox: Sandbox) -> threading.Event:
    """Set when a job is bought."""
    bought = threading.Event()
    sandbox.state.subscribe(lambda _: bought.set())
    return bought


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_job_running_and_tells_how_to_go_on(
    kling: Run, sandbox: Sandbox, tmp_path: Path, number: signal.Signals
) -> None:
    process = launch("generate", PHOTO, "a fox", *QUICK, "-o", "out", cwd=tmp_path)
    assert process.stderr is not None
    seen = ""
    while "pending" not in seen:
        seen = process.stderr.readline()
        assert seen, "the program ended before its job began"
    process.send_signal(number)
    answer = finish(process)
    assert answer.code == 130, answer
    assert answer.out == ""
    [command] = re.findall(r"kling (watch .*)", answer.err)
    sandbox.state.clock.advance(600)
    again = kling(*command.split())
    assert again.code == 0, again
    assert Path(again.out.strip()).is_file()
    assert sandbox.counters.jobs_bought == 1


def test_a_signal_during_the_paid_call_waits_for_the_id(
    sandbox: Sandbox, attempt_id: threading.Event, tmp_path: Path
) -> None:
    """The job is bought before its answer is sent. Leaving in between must not lose its address, nor must haste."""
    sandbox.faults.add("delay:submit:seconds=1")
    process = launch("generate", VIDEO, "a boat", "--json", cwd=tmp_path)
    assert attempt_id.wait(PATIENCE)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    [job] = sandbox.state.jobs.values()
    [reported] = answer.objects
    assert (answer.code, reported["type"], reported["exit_code"]) == (130, "interrupted", 130)
    assert reported["unfinished"] == [
        {"ref": f"{VIDEO}/{job.id}", "status": "pending", "watch": f"kling watch {VIDEO}/{job.id}"}
    ]


@pytest.mark.parametrize("moment", ["kling_async._cli.app", "typer", "kling_async._cli.commands.endpoints"])
def test_an_interrupt_during_the_start_is_reported_in_a_sentence(moment: str) -> None:
    """The signal comes while that module is searched."""
    answer = interrupted(moment, "endpoints")
    assert (answer.code, answer.out, answer.err) == (130, "", "interrupted; nothing was bought\n")


def test_an_interrupt_before_a_command_works_is_reported_in_a_sentence(tmp_path: Path) -> None:
    """The demo searches for the sandbox when the command has begun, and its work has not."""
    answer = interrupted("kling_async.sandbox", "demo", "-o", str(tmp_path))
    assert (answer.code, answer.out, answer.err) == (130, "", "interrupted; nothing was bought\n")


def test_an_interrupt_that_is_ignored_stays_so() -> None:
    """As by `nohup`, and in the background of a shell script."""
    answer = interrupted("typer", "--version", before="signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert answer.code == 0, answer
    assert "kling_async" in answer.out


def interrupted(moment: str, *arguments: str, before: str = "") -> Answer:
    """What the program says when SIGINT comes while it searches for the module `moment`."""
    return finish(
        spawn(
            "-c",
            f"""
import os, signal, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == {moment!r}:
            os.kill(os.getpid(), signal.SIGINT)
{before}
sys.meta_path.insert(0, Watch())
from kling_async._cli import main
sys.exit(main())
""",
            *arguments,
        )
    )


@pytest.mark.parametrize("module", ["kling_async", "kling_async._cli"])
def test_the_program_runs_where_its_script_is_not_installed(module: str) -> None:
    answer = finish(spawn("-m", module, "--version"))
    assert answer.code == 0, answer
    assert answer.out.startswith("kling_async ")


def test_a_reader_that_leaves_is_no_crash_and_the_job_is_named(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.plan_next(duration=0)
    process = launch("generate", PHOTO, "a fox", *QUICK, "--json", "--timeout", "1", cwd=tmp_path)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["status"] == "pending"
    process.stdout.close()
    process.stdout = None
    answer = finish(process)
    [job] = sandbox.state.jobs.values()
    assert answer.code == 141, answer
    assert f"kling watch {PHOTO}/{job.id}" in answer.err
    assert "Exception" not in answer.err


@pytest.mark.parametrize("arguments", [["endpoints"], ["endpoints", "--json"], ["--help"], ["--version"], []])
def test_a_reader_that_left_before_anything_was_said_is_code_141(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        answer = finish(launch(*arguments, stdout=writing))
    finally:
        os.close(writing)
    assert (answer.code, answer.err) == (141, "")


def test_the_demo_makes_a_playable_video_and_two_pictures(tmp_path: Path) -> None:
    answer = finish(launch("demo", "--speed", "120", *SMALL, "--json", "-o", "out", cwd=tmp_path))
    assert answer.code == 0, answer
    results = [reported for reported in answer.objects if reported["type"] == "result"]
    kinds = sorted(artifact["kind"] for result in results for artifact in result["artifacts"])
    assert kinds.count("video") >= 1
    assert kinds.count("image") >= 2
    for result in results:
        for artifact in result["artifacts"]:
            head = (tmp_path / artifact["path"]).read_bytes()[:12]
            assert head[4:8] == b"ftyp" if artifact["kind"] == "video" else b"PNG" in head or head[:2] == b"\xff\xd8"
    assert not list((tmp_path / "out").glob(".*"))


def test_the_demo_keeps_the_sandbox_when_asked_to_and_until_asked_to_end(tmp_path: Path) -> None:
    process = launch("demo", "--speed", "120", *SMALL, "--keep", "-o", "out", cwd=tmp_path)
    assert process.stdout is not None
    line = process.stdout.readline()
    while line and not line.startswith("export RUNBLOB_BASE_URL=http://127.0.0.1:"):
        line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    assert line, answer
    assert answer.code == 0, answer


def test_an_interrupted_demo_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    process = launch("demo", "--speed", "1", *SMALL, "-o", "out", cwd=tmp_path)
    assert process.stderr is not None
    seen = "x"
    while seen and "pending" not in seen:
        seen = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    assert answer.code == 130, answer
    assert "kling watch" not in answer.err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(
    ("full", "option"),
    [
        (("stdout",), "--json"),
        (("stdout",), "--no-wait"),
        (("stderr",), "--no-wait"),
        (("stderr",), "--timeout=9"),
        (("stdout", "stderr"), "--json"),
        (("stdout", "stderr"), "--timeout=9"),
    ],
)
def test_output_that_has_no_place_does_not_hide_what_was_bought(
    sandbox: Sandbox, tmp_path: Path, full: tuple[str, ...], option: str
) -> None:
    """The job is named where that can still be written, with the command that goes on with it.

    Without a history, because the sentence about a new one is written before anything is bought.
    """
    with Path("/dev/full").open("w") as device:
        streams: dict[str, Any] = dict.fromkeys(full, device)
        process = launch(
            "generate", PHOTO, "a fox", *QUICK, "-o", "out", option, "--no-ledger", cwd=tmp_path, **streams
        )
        answer = finish(process)
    [job] = sandbox.state.jobs.values()
    assert answer.code == 10, answer
    reported = answer.out + answer.err
    assert ("No space left on device; send it to another place" in reported) == (len(full) == 1)
    assert (f"kling watch {PHOTO}/{job.id} -o out" in reported) == (len(full) == 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_an_error_is_reported_though_the_output_has_no_place(sandbox: Sandbox, tmp_path: Path) -> None:
    """It is what the user has to know. That the output is full comes second."""
    sandbox.faults.add("accept-then-reset:submit")
    with Path("/dev/full").open("w") as device:
        process = launch("generate", PHOTO, "a fox", *QUICK, "--json", cwd=tmp_path, stdout=device)
        answer = finish(process)
    assert answer.code == 9, answer
    assert "A job may have been bought, so it is not sent again" in answer.err


@pytest.mark.parametrize("closed", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_output_that_was_closed_is_not_missed(sandbox: Sandbox, tmp_path: Path, closed: tuple[str, ...]) -> None:
    streams: dict[str, Any] = dict.fromkeys(closed, CLOSED)
    answer = finish(launch("generate", PHOTO, "a fox", *QUICK, "--no-wait", cwd=tmp_path, **streams))
    assert answer.code == 0, answer
    assert sandbox.counters.jobs_bought == 1


def test_on_a_terminal_the_table_is_live_and_the_paths_come_last(tmp_path: Path) -> None:
    answer = on_terminal(tmp_path, "demo", "--speed", "120", *SMALL, "-o", "out")
    assert answer.code == 0, answer
    screen = answer.out
    assert "\x1b[?25l" in screen, "the cursor is hidden while the table moves"
    assert screen.index("processing") < screen.index("saved")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    paths = [line for line in plain.splitlines() if line.startswith("out/")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(Path(path).name for path in paths)
    assert paths[-1] == "out/report.html"
    assert plain.rindex("saved") < plain.index(paths[0])
    assert " open out" in plain
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")


def test_the_live_table_shows_hostile_words_and_obeys_none(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.plan_next(fail="[blink]evil[/blink]\x1b]0;owned\x07\x1b[2J\u202egnp", duration=0)
    answer = on_terminal(tmp_path, "generate", VIDEO, "x", "--timeout", "0.3")
    assert answer.code == 1, answer
    assert "[blink]evil[/blink]" in answer.out
    assert not re.search(r"\x1b\]|\x07|\x1b\[2J|\u202e", answer.out)


def test_the_sandbox_serves_until_it_is_asked_to_end(
    kling: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its output is a shell script that leads the program to it."""
    process = launch("sandbox", "--port", "0", "--speed", "60", cwd=tmp_path)
    try:
        assert process.stdout is not None
        played = Sandbox().describe()["providers"]
        variables = [variable for kind in ALL_PROVIDERS if kind.name in played for variable in kind.env_vars]
        for variable in ("KLING_SANDBOX_SPEED", *variables):
            export, _, assignment = process.stdout.readline().strip().partition(" ")
            name, _, value = assignment.partition("=")
            assert (export, name) == ("export", variable)
            monkeypatch.setenv(name, value)
        bought = kling("generate", PHOTO, "a fox", "--no-wait")
        assert bought.code == 0, bought
        port = os.environ["RUNBLOB_BASE_URL"].split(":")[2].partition("/")[0]
        second = kling("sandbox", "--port", port)
        assert second.code == 2, second
        assert f"port {port} is in use" in second.err
        process.send_signal(signal.SIGINT)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    answer = finish(process)
    assert (answer.code, answer.out) == (0, ""), answer


def test_a_fault_that_there_is_not_is_reported(kling: Run) -> None:
    answer = kling("sandbox", "--port", "0", "--fault", "lightning:submit")
    assert answer.code == 2, answer
    assert "lightning" in answer.err
    assert "accept-then-reset" in answer.err


def python(code: str) -> Answer:
    return finish(spawn("-c", code))


def test_the_library_loads_nothing_of_the_program_or_the_sandbox() -> None:
    """Rich is compared with what httpx loads of its own accord, where rich is installed."""
    answer = python(
        "import sys, httpx; theirs = set(sys.modules); from kling_async import *;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - theirs})"
    )
    assert answer.code == 0, answer
    loaded = set(answer.out.split())
    assert not loaded & {"typer", "rich", "starlette", "fastapi", "uvicorn", "PIL", "av"}


@pytest.mark.parametrize("argument", ["--version", "--help", "generat"])
def test_what_needs_no_command_loads_none_and_no_library(argument: str) -> None:
    """A wrong command is answered, with the one that was meant, as quickly as `--help`."""
    answer = python(
        f"import sys; from kling_async._cli import main; main([{argument!r}]);"
        "print(*(name for name in sys.modules if name.startswith('kling_async.')), file=sys.stderr)"
    )
    *_, modules = answer.err.splitlines()
    rooms = {"kling_async._cli", "kling_async._errors", "kling_async.providers"}
    names = ("app", "options", "errors", "interrupts", "output", "output.formatting")
    parts = {f"kling_async._cli.{name}" for name in names}
    parts |= {"kling_async._rows", "kling_async._rows.advice", "kling_async._rows.errors"}
    assert set(modules.split()) == rooms | parts


def test_the_library_works_where_the_extras_are_not_installed() -> None:
    answer = python(
        "import sys\n"
        "for name in ('typer', 'rich', 'click', 'starlette', 'fastapi', 'uvicorn', 'PIL', 'av'):"
        " sys.modules[name] = None\n"
        "import kling_async; kling_async.Client(kling_async.RunBlob('key'))"
    )
    assert answer.code == 0, answer


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_the_program_says_what_to_install(missing: str) -> None:
    answer = python(
        f"import sys; sys.modules[{missing!r}] = None; from kling_async._cli import main; sys.exit(main(['demo']))"
    )
    assert answer.code == 2, answer
    assert missing in answer.err
    assert "pip install 'kling-async[cli]'" in answer.err


def test_one_command_runs_on_a_sandbox_of_its_own(tmp_path: Path) -> None:
    answer = finish(launch("--sandbox", "generate", PHOTO, "a fox", *QUICK, "-o", "out", cwd=tmp_path))
    assert answer.code == 0, answer.err
    assert "nothing is bought" in answer.err
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_a_program_runs_on_a_sandbox_and_gives_its_exit_code(tmp_path: Path) -> None:
    program = "import os, sys; print(os.environ['RUNBLOB_BASE_URL'], len(os.environ['KLING_API_KEY']) > 9); sys.exit(7)"
    answer = finish(launch("sandbox", "--", sys.executable, "-c", program, cwd=tmp_path))
    assert answer.code == 7
    assert answer.out.startswith("http://127.0.0.1:")
    assert answer.out.endswith("/runblob True\n")
    missing = finish(launch("sandbox", "--", "no-such-program", cwd=tmp_path))
    assert (missing.code, "cannot be started" in missing.err) == (2, True)


def test_the_help_of_the_sandbox_lists_faults_and_directives(tmp_path: Path) -> None:
    shown = finish(launch("sandbox", "--help", cwd=tmp_path)).out
    for word in ("accept-then-reset", "webhook-never", "[sandbox: fail=CODE]", "--option"):
        assert word in shown

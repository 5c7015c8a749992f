"""The program `kling`, against a real sandbox: what it says, where it says it, its exit codes, and what it buys.

Tests of processes (signals, terminals, pipes) run the program as one; the others call its `main` here.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kling_async._cli import main
from kling_async._cli._exits import EXITS
from kling_async.providers import KNOWN
from kling_async.sandbox import Sandbox

PROGRAM = [sys.executable, "-m", "kling_async._cli"]
ROOT = Path(__file__).parent.parent
VIDEO = "runblob/o3-video"
PHOTO = "runblob/o3-photo"
QUICK = ("--resolution", "1k")
PATIENCE = 20.0  # s; no wait of these tests is longer, and none should come near it

Run = Callable[..., "Answer"]


class Answer:
    """What a run of the program left behind."""

    def __init__(self, code: int | None, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@pytest.fixture
def sandbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox whose clock stands still, and an environment that leads to it."""
    with Sandbox(speed=0, scale=0.1) as running:
        for name, value in environment(running).items():
            monkeypatch.setenv(name, value)
        yield running


def environment(sandbox: Sandbox) -> dict[str, str]:
    return {"RUNBLOB_API_KEY": sandbox.api_key("runblob"), "RUNBLOB_BASE_URL": sandbox.base_url("runblob")}


@pytest.fixture
def kling(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The program in this process, in a directory of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return run


def spawn(*arguments: str, **settings: Any) -> subprocess.Popen[str]:
    """The program as a process, whose output is read by a test."""
    defaults: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen([*PROGRAM, *arguments], env=variables, **(defaults | settings))


def finish(process: subprocess.Popen[str]) -> Answer:
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert "Traceback" not in err
    return Answer(process.returncode, out or "", err or "")


# --- the usual ways


def test_generate_buys_one_job_and_prints_the_path_of_what_it_made(kling: Run, sandbox: Sandbox) -> None:
    """Standard output has the result and nothing else, so that it can be piped."""
    sandbox.script(duration=0)
    answer = kling("generate", PHOTO, "a fox", *QUICK, "-o", "out", "--timeout", "0.2")
    assert answer.code == 0, answer
    [path] = answer.out.splitlines()
    assert Path(path).parent == Path("out")
    assert Image.open(path).format == "PNG"
    assert [line.split()[1] for line in answer.err.splitlines() if line.startswith(PHOTO)] == ["pending", "completed"]
    assert "$0.0500" in answer.err
    assert sandbox.counters.jobs_bought == 1


def test_generate_json_tells_events_and_the_result(kling: Run, sandbox: Sandbox) -> None:
    sandbox.script(duration=0)
    answer = kling("generate", PHOTO, "a fox", *QUICK, "--json", "--timeout", "0.2")
    assert answer.code == 0, answer
    *events, result = answer.objects
    assert [(event["type"], event["seq"], event["status"]) for event in events] == [
        ("event", 0, "pending"),
        ("event", 1, "completed"),
    ]
    assert result["type"] == "result"
    assert result["cost"] == {"amount": "0.0500", "unit": "USD"}
    [artifact] = result["artifacts"]
    assert artifact["kind"] == "image"
    assert Path(artifact["path"]).stat().st_size == artifact["bytes"]
    assert answer.err == ""


def test_fields_and_reference_images_reach_the_provider(kling: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    Image.new("RGB", (320, 320), "teal").save(tmp_path / "photo.jpg")
    answer = kling(
        *("generate", VIDEO, "a boat", "--no-wait", "--duration", "10", "--aspect-ratio", "9:16"),
        *("--reference", "photo.jpg", "--set", "keep_original_sound=false", "--set", "mode=pro"),
    )
    assert answer.code == 0, answer
    [job] = sandbox.world.jobs.values()
    sent = job.order.params["sent"]
    assert (sent["duration"], sent["aspect_ratio"], sent["model"]) == ("10", "9:16", "kling_o3_pro")
    assert sent["keep_original_sound"] is False


def test_no_wait_prints_the_reference_and_watch_goes_on_with_it(kling: Run, sandbox: Sandbox) -> None:
    bought = kling("generate", PHOTO, "a fox", *QUICK, "--no-wait")
    assert bought.code == 0, bought
    ref = bought.out.strip()
    assert ref.startswith(f"{PHOTO}/")
    assert f"kling watch {ref}" in bought.err
    sandbox.world.clock.advance(600)
    watched = kling("watch", ref, "-o", "out")
    assert watched.code == 0, watched
    assert Path(watched.out.strip()).is_file()
    assert sandbox.counters.jobs_bought == 1


def test_the_prompt_may_come_from_standard_input(kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("ein Fuchs im Schnee, grün\n".encode())))
    assert kling("generate", PHOTO, "-", "--no-wait").code == 0
    [job] = sandbox.world.jobs.values()
    assert job.order.prompt == "ein Fuchs im Schnee, grün"


def test_a_prompt_from_standard_input_that_is_not_text_buys_nothing(
    kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe")))
    answer = kling("generate", PHOTO, "-")
    assert (answer.code, sandbox.counters.jobs_bought) == (2, 0)
    assert "UTF-8" in answer.err


def test_endpoints_lists_every_field_of_every_endpoint(kling: Run) -> None:
    answer = kling("endpoints")
    assert answer.code == 0, answer
    for kind in KNOWN:
        for endpoint in kind.endpoints:
            assert endpoint.name in answer.out
            for field in endpoint.request.model_fields:
                assert re.search(rf"PROMPT|--reference|--{field.replace('_', '-')}|{field}=", answer.out), field


def test_endpoints_json_has_the_schema(kling: Run) -> None:
    [told] = kling("endpoints", VIDEO, "--json").objects
    assert told["endpoint"] == VIDEO
    assert set(told["schema"]["properties"]) > {"prompt", "duration"}


def test_help_documents_every_exit_code(kling: Run) -> None:
    for command in ([], ["generate"], ["watch"]):
        answer = kling(*command, "--help")
        assert answer.code == 0, answer
        for code, meaning in EXITS.items():
            assert re.search(rf"\b{code} +{re.escape(meaning[:40])}", answer.out), answer


# --- bad input: told clearly, nothing sent


def bad_files(folder: Path) -> None:
    (folder / "text.png").write_text("I am a text\n")
    (folder / "folder").mkdir()
    with (folder / "big.png").open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        file.truncate(11 * 1024 * 1024)


SIX = [word for number in range(6) for word in ("--reference", f"https://example.com/{number}.png")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([VIDEO, ""], ["prompt", "at least 1 character"]),
        ([VIDEO, "x" * 2501], ["prompt", "at most 2500 characters", "got 2501"]),
        (["runblob/o3-vidoe", "x"], ["runblob/o3-vidoe", "did you mean runblob/o3-video", PHOTO]),
        ([VIDEO, "x", *SIX], ["references", "6 reference images", "at most 5"]),
        ([VIDEO, "x", "--reference", "folder"], ["references", "folder", "is a directory"]),
        ([VIDEO, "x", "--reference", "missing.png"], ["missing.png", "No such file"]),
        ([VIDEO, "x", "--reference", "text.png"], ["text.png", "not an image by its content", "PNG"]),
        ([VIDEO, "x", "--reference", "big.png"], ["big.png", "11.0 MiB", "at most 10 MiB"]),
        ([VIDEO, "x", "--duration", "7"], ["duration", "5, 10 or 15", "got 7"]),
        ([VIDEO, "x", "--set", "fps=30"], ["fps", "no such field", "aspect_ratio", "keep_original_sound"]),
        ([VIDEO, "x", "--count", "2"], ["count", "no such field"]),
        ([VIDEO, "x", "--set", "fps"], ["--set 'fps'", "name=value"]),
        ([VIDEO, "x", "--set", "prompt=y"], ["prompt", "given already"]),
        ([VIDEO, "x", "--duration", "5", "--set", "duration=5"], ["duration", "given already"]),
        ([VIDEO, "x", "--set", "mode=pro", "--set", "mode=std"], ["mode is set twice"]),
        ([VIDEO, "x", "-o", "text.png/out"], ["text.png/out", "Not a directory"]),
        ([VIDEO, "x", "-o", "clip.mp4"], ["clip.mp4", "directory"]),
        ([VIDEO, "x", "--timeout", "0"], ["--timeout", "greater than 0"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input_is_told_and_nothing_is_sent(
    kling: Run, sandbox: Sandbox, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    bad_files(tmp_path)
    answer = kling("generate", *arguments)
    assert answer.code == 2, answer
    assert answer.out == ""
    for word in words:
        assert word in answer.err, answer
    assert not sandbox.counters.requests


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("550e8400-e29b-41d4-a716-446655440000", ["550e8400", "not a job reference", "runblob/o3-video/"]),
        ("runblob/o3-video/../secret", ["not a job reference"]),
        ("runblob/o4-video/550e8400", ["no endpoint 'runblob/o4-video'", VIDEO]),
    ],
)
def test_a_bad_reference_is_told_and_nothing_is_sent(kling: Run, sandbox: Sandbox, ref: str, words: list[str]) -> None:
    answer = kling("watch", ref)
    assert answer.code == 2, answer
    for word in words:
        assert word in answer.err, answer
    assert not sandbox.counters.requests


def test_bad_input_as_json_names_the_fields(kling: Run, sandbox: Sandbox) -> None:
    answer = kling("generate", VIDEO, "x", "--duration", "7", "--json")
    [error] = answer.objects
    assert (answer.code, error["type"], error["exit_code"]) == (2, "error", 2)
    assert list(error["fields"]) == ["duration"]
    assert not sandbox.counters.requests


# --- what goes wrong at the provider: a code for each


def test_without_a_key_the_variable_is_named(kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNBLOB_API_KEY")
    answer = kling("generate", VIDEO, "x")
    assert (answer.code, sandbox.counters.requests.total()) == (3, 0)
    assert "export RUNBLOB_API_KEY=" in answer.err


@pytest.mark.parametrize(("key", "requests"), [("wrong", 1), ("broken\nkey", 0)])
def test_a_key_that_is_not_accepted(
    kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, key: str, requests: int
) -> None:
    monkeypatch.setenv("RUNBLOB_API_KEY", key)
    answer = kling("generate", VIDEO, "x")
    assert answer.code == 3, answer
    assert "RUNBLOB_API_KEY" in answer.err
    assert key not in answer.err
    assert (sandbox.counters.requests.total(), sandbox.counters.jobs_bought) == (requests, 0)


def test_an_account_that_cannot_pay(kling: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(speed=0, credits=0) as broke:
        for name, value in environment(broke).items():
            monkeypatch.setenv(name, value)
        answer = kling("generate", VIDEO, "x", "--json")
        assert broke.counters.jobs_bought == 0
    [error] = answer.objects
    assert (answer.code, error["error"], error["http_status"]) == (4, "InsufficientCredits", 402)


def test_a_failed_generation_is_code_1_and_there_is_nothing_to_go_on_with(kling: Run, sandbox: Sandbox) -> None:
    sandbox.script(fail="CONTENT_POLICY_VIOLATION", duration=0)
    answer = kling("generate", VIDEO, "x", "--timeout", "0.2")
    assert answer.code == 1, answer
    assert "CONTENT_POLICY_VIOLATION" in answer.err
    assert "kling watch" not in answer.err


def test_a_job_that_takes_too_long_is_code_5_and_how_to_go_on(kling: Run, sandbox: Sandbox) -> None:
    answer = kling("generate", VIDEO, "x", "-o", "my out", "--timeout", "0.1")
    assert answer.code == 5, answer
    [ref] = {word for word in answer.err.split() if word.startswith(f"{VIDEO}/")}
    assert f"kling watch {ref} -o 'my out'" in answer.err
    assert sandbox.counters.jobs_bought == 1


def test_a_lost_answer_is_code_9_and_is_not_sent_again(kling: Run, sandbox: Sandbox) -> None:
    sandbox.faults.add("accept-then-reset:submit")
    answer = kling("generate", VIDEO, "x", "--json")
    [error] = answer.objects
    assert (answer.code, error["error"]) == (9, "SubmissionUnknown")
    assert sandbox.counters.jobs_bought == 1


def test_a_job_that_is_not_there_is_code_7(kling: Run, sandbox: Sandbox) -> None:
    answer = kling("watch", f"{VIDEO}/550e8400-e29b-41d4-a716-446655440000")
    assert answer.code == 7, answer
    assert len(answer.err.splitlines()) == 1
    assert sandbox.counters.jobs_bought == 0


def test_a_result_that_is_no_media_is_code_10_and_can_be_saved_later(kling: Run, sandbox: Sandbox) -> None:
    sandbox.script(duration=0)
    sandbox.faults.add("html:download:times=1")
    answer = kling("generate", PHOTO, "x", *QUICK, "--timeout", "0.2", "-o", "out")
    assert answer.code == 10, answer
    [command] = re.findall(r"kling (watch .*)", answer.err)
    assert kling(*command.split()).code == 0
    assert sandbox.counters.jobs_bought == 1


def test_text_from_elsewhere_cannot_disturb_the_terminal(kling: Run, sandbox: Sandbox) -> None:
    """Not the provider's words, not the prompt, not a file's name: no escape sequence, no markup, no turned text."""
    hostile = "[red]evil[/red]\x1b[31m\x1b]0;owned\x07\u202egnp.exe\r\x9b2J"
    sandbox.script(fail=hostile, duration=0)
    failed = kling("generate", VIDEO, hostile, "--timeout", "0.2")
    refused = kling("generate", VIDEO, hostile, "--reference", f"{hostile}.png", "--set", f"{hostile}=1")
    assert (failed.code, refused.code) == (1, 2)
    for answer in (failed, refused):
        assert "[red]evil[/red]" in answer.err
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", answer.err), answer

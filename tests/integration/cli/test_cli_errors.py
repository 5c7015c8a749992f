"""What goes wrong: each with a message that names the thing, an exit code of its own, and nothing bought in vain."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from kling_async import JobRef
from kling_async._cli.output.events import JobStarted
from kling_async._cli.output.reports import Report, resume_command
from kling_async._cli.output.text import TextRenderer
from kling_async._cli.reporting import handle_errors
from kling_async.sandbox import Sandbox
from support.cli_process import PHOTO, QUICK, VIDEO, Run, environment


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
        ([VIDEO, ""], ["prompt", "it is empty"]),
        ([VIDEO, "x" * 2501], ["prompt", "it has 2501 characters", "at most 2500"]),
        (["runblob/o3-vidoe", "x"], ["runblob/o3-vidoe", "did you mean runblob/o3-video", PHOTO]),
        ([VIDEO, "x", *SIX], ["--reference", "6 reference images", "at most 5"]),
        ([VIDEO, "x", "--reference", "folder"], ["--reference", "folder", "is a directory"]),
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
        ([VIDEO, "x", "-o", "text.png"], ["text.png", "this file exists already"]),
        ([VIDEO, "x", "--timeout", "0"], ["--timeout", "greater than 0"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input_is_reported_and_nothing_is_sent(
    kling: Run, sandbox: Sandbox, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    bad_files(tmp_path)
    soon = () if "--timeout" in arguments else ("--timeout", "1")
    answer = kling("generate", *soon, *arguments)
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
def test_a_bad_reference_is_reported_and_nothing_is_sent(
    kling: Run, sandbox: Sandbox, ref: str, words: list[str]
) -> None:
    answer = kling("watch", ref)
    assert answer.code == 2, answer
    for word in words:
        assert word in answer.err, answer
    assert not sandbox.counters.requests


@pytest.mark.parametrize(
    ("command", "refusal"),
    [
        (
            "doctor --budget 5usd --budget 200credits",
            "--budget is given more than once.*such as --budget 5usd,200credits",
        ),
        ("bulk rows.jsonl -o out --budget 5usd --budget 5usd", "--budget is given more than once"),
        ("bulk rows.jsonl -o out --output other", "--output is given more than once.*give it once$"),
        ("mcp --budget 5 --budget 6", "--budget is given more than once.*give it once$"),
    ],
)
def test_an_option_of_one_value_that_is_given_twice_is_refused(
    kling: Run, sandbox: Sandbox, command: str, refusal: str
) -> None:
    """The first value would not count, and nobody would learn of it."""
    answer = kling(*command.split())
    assert answer.code == 2
    assert re.search(refusal, answer.err.strip()), answer.err
    assert not sandbox.counters.requests


def test_bad_input_as_json_names_the_fields(kling: Run, sandbox: Sandbox) -> None:
    answer = kling("generate", VIDEO, "x", "--duration", "7", "--json")
    [error] = answer.objects
    assert (answer.code, error["type"], error["exit_code"]) == (2, "error", 2)
    assert list(error["fields"]) == ["duration"]
    assert not sandbox.counters.requests


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
    assert "api_key" not in answer.err
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
    sandbox.plan_next(fail="TASK_FAILED", duration=0)
    answer = kling("generate", VIDEO, "x", "--timeout", "0.2")
    assert answer.code == 1, answer
    assert "TASK_FAILED" in answer.err
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
    assert "`kling watch REF` follows a job that is there" in error["next_steps"][0]
    assert sandbox.counters.jobs_bought == 1


def test_a_job_that_is_not_there_is_code_7(kling: Run, sandbox: Sandbox) -> None:
    answer = kling("watch", f"{VIDEO}/550e8400-e29b-41d4-a716-446655440000")
    assert answer.code == 7, answer
    assert [line.partition(":")[0].strip() for line in answer.err.splitlines()] == ["error", "next"]
    assert sandbox.counters.jobs_bought == 0


def test_a_job_that_fails_by_policy_is_code_6(kling: Run, sandbox: Sandbox) -> None:
    ref = kling("generate", VIDEO, "x [sandbox: fail=CONTENT_POLICY_VIOLATION]", "--no-wait").out.strip()
    sandbox.state.clock.advance(3600)
    answer = kling("watch", ref)
    assert answer.code == 6, answer
    assert "change the request" in answer.err


def test_a_provider_that_is_not_there_is_code_8(kling: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with Sandbox(speed=0) as gone:
        variables = environment(gone)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    answer = kling("generate", VIDEO, "x")
    assert answer.code == 8, answer
    assert "could not be reached" in answer.err
    assert "stamina" not in answer.err


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_polls_that_fail_are_reported_once_while_the_job_goes_on(kling: Run, sandbox: Sandbox, form: list[str]) -> None:
    """On standard error, so that a program which reads JSON meets JSON alone."""
    ref = kling("generate", VIDEO, "x", "--no-wait").out.strip()
    sandbox.faults.add("server-error:status:status=418")
    answer = kling("watch", ref, "--timeout", "0.5", *form)
    assert answer.code == 5, answer
    [warning] = [line for line in answer.err.splitlines() if line.startswith("warning: ")]
    assert re.match(f"warning: the poll of job {ref} failed and is repeated later: .*HTTP 418", warning)
    assert "warning" not in answer.out


def test_a_poll_that_fails_for_good_is_reported_as_the_error_that_it_is(kling: Run, sandbox: Sandbox) -> None:
    answer = kling("watch", f"{VIDEO}/00000000-0000-4000-8000-000000000000")
    assert (answer.code, sandbox.counters.jobs_bought) == (7, 0)
    assert "warning" not in answer.err


def test_a_result_that_is_no_media_is_code_10_and_can_be_saved_later(kling: Run, sandbox: Sandbox) -> None:
    sandbox.plan_next(duration=0)
    sandbox.faults.add("html:download:times=1")
    answer = kling("generate", PHOTO, "x", *QUICK, "--timeout", "0.2", "-o", "out")
    assert answer.code == 10, answer
    [command] = re.findall(r"kling (watch .*)", answer.err)
    assert kling(*command.split()).code == 0
    assert sandbox.counters.jobs_bought == 1


def test_text_from_elsewhere_cannot_disturb_the_terminal(kling: Run, sandbox: Sandbox) -> None:
    """Not the provider's words, not the prompt, not a file's name: no escape sequence, no markup, no turned text."""
    hostile = "[red]evil[/red]\x1b[31m\x1b]0;owned\x07\u202egnp.exe\r\x9b2J"
    sandbox.plan_next(fail=hostile, duration=0)
    failed = kling("generate", VIDEO, hostile, "--timeout", "0.2")
    refused = kling("generate", VIDEO, hostile, "--reference", f"{hostile}.png", "--set", f"{hostile}=1")
    assert (failed.code, refused.code) == (1, 2)
    for answer in (failed, refused):
        assert "[red]evil[/red]" in answer.err
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", answer.err), answer


def test_a_fault_of_the_program_is_reported_with_the_jobs_that_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has paid must learn of it, and whoever searches for the fault must see where it is."""
    report = Report(TextRenderer(), lambda ref: resume_command(ref, None))
    report.emit(JobStarted(JobRef("runblob", "o3-video", "a")))
    with pytest.raises(typer.Exit) as caught, handle_errors(report):
        raise ZeroDivisionError("by nothing")
    assert caught.value.exit_code == 70
    said = capsys.readouterr().err
    assert "error: ZeroDivisionError: by nothing. This is an internal error of kling; KLING_TRACEBACK=1" in said
    assert f"kling watch {VIDEO}/a" in said
    monkeypatch.setenv("KLING_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError), handle_errors(report):
        raise ZeroDivisionError("by nothing")

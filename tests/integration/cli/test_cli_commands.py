"""The commands of `kling`, against a real sandbox: what they say, where, their exit codes, and what they buy."""

from __future__ import annotations

import importlib
import inspect
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from kling_async._cli.app import _COMMANDS
from kling_async._cli.errors import EXITS
from kling_async._cli.runner import sandbox_speed
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers.runblob import RunBlob
from kling_async.sandbox import Sandbox
from support.cli_process import PHOTO, QUICK, VIDEO, Run


def test_generate_buys_one_job_and_prints_the_path_of_what_it_made(kling: Run, sandbox: Sandbox) -> None:
    """Standard output has the result and nothing else, so that it can be piped."""
    sandbox.plan_next(duration=0)
    answer = kling("generate", PHOTO, "a fox", *QUICK, "-o", "out", "--timeout", "0.2")
    assert answer.code == 0, answer
    [path] = answer.out.splitlines()
    assert Path(path).parent == Path("out")
    with Image.open(path) as image:
        assert image.format == "PNG"
    assert [line.split()[1] for line in answer.err.splitlines() if line.startswith(PHOTO)] == ["pending", "completed"]
    assert "bought for $0.05\n" in answer.err
    assert sandbox.counters.jobs_bought == 1


def test_generate_json_tells_events_and_the_result(kling: Run, sandbox: Sandbox) -> None:
    sandbox.plan_next(duration=0)
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
    [job] = sandbox.state.jobs.values()
    sent = job.order.params["sent"]
    assert (sent["duration"], sent["aspect_ratio"], sent["model"]) == ("10", "9:16", "kling_o3_pro")
    assert sent["keep_original_sound"] is False


def test_no_wait_prints_the_reference_and_watch_goes_on_with_it(kling: Run, sandbox: Sandbox) -> None:
    bought = kling("generate", PHOTO, "a fox", *QUICK, "--no-wait")
    assert bought.code == 0, bought
    ref = bought.out.strip()
    assert ref.startswith(f"{PHOTO}/")
    assert f"kling watch {ref}" in bought.err
    sandbox.state.clock.advance(600)
    watched = kling("watch", ref, "-o", "out")
    assert watched.code == 0, watched
    assert Path(watched.out.strip()).is_file()
    assert sandbox.counters.jobs_bought == 1


@pytest.mark.parametrize("place", ["s3://bucket/run", "gs://bucket/boat.png", "az:/box"])
def test_what_cannot_be_saved_to_is_refused_before_anything_is_bought(
    kling: Run, sandbox: Sandbox, place: str, tmp_path: Path
) -> None:
    answer = kling("generate", PHOTO, "a fox", *QUICK, "-o", place)
    assert answer.code == 2, answer
    assert "only kling bulk takes one" in answer.err
    assert sandbox.counters.jobs_bought == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.sandbox(environment=["fal", "runblob"])
class TestCancel:
    def test_a_running_job_is_cancelled_at_its_provider(self, kling: Run, sandbox: Sandbox) -> None:
        ref = kling("generate", "fal/image", "a fox", "--no-wait").out.strip()
        answer = kling("cancel", ref)
        assert answer.code == 0, answer
        assert answer.out == f"{ref} cancelled\n"
        assert "the job is cancelled; most providers charge for the job all the same" in answer.err
        assert sandbox.counters.jobs_bought == 1

    def test_a_job_that_has_ended_is_not(self, kling: Run, sandbox: Sandbox) -> None:
        ref = kling("generate", "fal/image", "a fox", "--no-wait").out.strip()
        sandbox.state.clock.advance(600)
        answer = kling("cancel", ref, "--json")
        assert answer.code == 0, answer
        assert answer.objects == [{"type": "cancel", "ref": ref, "accepted": False, "status": "completed"}]
        assert f"it is completed. To save its files: kling watch {ref}" in kling("cancel", ref).err

    def test_a_provider_that_cannot_says_what_happens_to_the_job(self, kling: Run, sandbox: Sandbox) -> None:
        ref = kling("generate", PHOTO, "a fox", *QUICK, "--no-wait").out.strip()
        answer = kling("cancel", ref)
        assert answer.code != 0
        assert "RunBlob has no way to cancel a job: it runs on and is charged as usual" in answer.err
        assert sandbox.counters.requests["runblob", "status"] == 0

    @pytest.mark.parametrize("ref", ["", "fox", "fal/image", "nobody/image/1"])
    def test_what_is_no_job_is_refused(self, kling: Run, sandbox: Sandbox, ref: str) -> None:
        answer = kling("cancel", ref)
        assert answer.code == 2
        assert "job reference" in answer.err or "endpoint" in answer.err
        assert sum(sandbox.counters.requests.values()) == 0


def test_the_prompt_may_come_from_standard_input(kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("ein Fuchs im Schnee, grün\n".encode())))
    assert kling("generate", PHOTO, "-", "--no-wait").code == 0
    [job] = sandbox.state.jobs.values()
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
    assert {"video", "image"} <= set(re.findall(r"^(\w+) ", answer.out, re.MULTILINE))
    for kind in ALL_PROVIDERS:
        for endpoint in kind.endpoints:
            assert endpoint.name in answer.out
            for field in endpoint.request.model_fields:
                assert re.search(rf"PROMPT|--reference|--{field.replace('_', '-')}|{field}=", answer.out), field


def test_endpoints_json_has_the_schema(kling: Run) -> None:
    [reported] = kling("endpoints", VIDEO, "--json").objects
    assert reported["endpoint"] == VIDEO
    assert set(reported["schema"]["properties"]) > {"prompt", "duration"}
    [portable] = kling("endpoints", "video", "--json").objects
    for one in (reported, portable):
        five, *_ = [each for each in one["schema"]["properties"]["duration"]["x-choices"] if each["value"] == 5]
        assert five["label"] == "5 seconds"
        assert "usually" in five["hint"]
        assert float(five["price"]["amount"]) > 0
        assert len(five["seconds"]) == 2


def test_every_command_is_listed_in_the_words_of_its_own_help(kling: Run) -> None:
    listed = kling("--help")
    assert listed.code == 0, listed
    for name, (home, summary, _) in _COMMANDS.items():
        command = getattr(importlib.import_module(f"kling_async._cli.{home}"), name)
        assert (inspect.getdoc(command) or "").partition("\n\n")[0].split() == summary.split()
        assert re.search(rf"\b{name} +{re.escape(summary[:30])}", listed.out), listed


def test_help_documents_every_exit_code(kling: Run) -> None:
    answer = kling("--help")
    assert answer.code == 0, answer
    for code, meaning in EXITS.items():
        assert re.search(rf"\b{code} +{re.escape(meaning[:40])}", answer.out), answer
    for command in ("generate", "watch", "bulk", "resume", "resolve"):
        assert "Exit codes: kling --help" in kling(command, "--help").out


def test_output_may_name_the_file(kling: Run, sandbox: Sandbox) -> None:
    sandbox.plan_next(duration=0)
    answer = kling("generate", PHOTO, "a fox", *QUICK, "-o", "out/fox.png", "--timeout", "0.2")
    assert answer.code == 0, answer
    assert answer.out.splitlines() == ["out/fox.png"]
    again = kling("generate", PHOTO, "a fox", *QUICK, "-o", "out/fox.png")
    assert again.code == 2
    assert "exists already" in again.err
    assert sandbox.counters.jobs_bought == 1


def test_files_may_be_named_by_a_template(kling: Run, sandbox: Sandbox) -> None:
    sandbox.plan_next(duration=0)
    named = ("--ledger", "k.db", "--key", "a/fox", "--name", "{key}-{index}")
    answer = kling("generate", PHOTO, "a fox", *QUICK, "-o", "out", *named, "--timeout", "0.2")
    assert answer.out.splitlines() == ["out/a_fox-1.png"], answer
    for wrong in ("{prompt}", "a/b", "{key", ".hidden"):
        assert kling("generate", PHOTO, "a fox", "--name", wrong).code == 2
    assert sandbox.counters.jobs_bought == 1


@pytest.mark.parametrize(("reason", "code"), [("CONTENT_POLICY_VIOLATION", 6), ("TASK_FAILED", 1)])
def test_a_failed_job_ends_with_its_code_and_says_whether_it_is_refunded(
    kling: Run, sandbox: Sandbox, reason: str, code: int
) -> None:
    sandbox.plan_next(fail=reason, duration=0)
    answer = kling("generate", VIDEO, "a fox", "--timeout", "0.2")
    assert answer.code == code, answer
    assert "$0.15 was refunded for the failed job" in answer.err


def test_the_expected_time_follows_the_speed_of_the_sandbox(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    del sandbox
    monkeypatch.setenv("KLING_SANDBOX_SPEED", "20")
    assert sandbox_speed(RunBlob) == 20
    monkeypatch.setenv("RUNBLOB_BASE_URL", "https://api.example.com")
    assert sandbox_speed(RunBlob) == 1, "the provider's own servers have no other speed"


def test_endpoints_show_the_price_of_each_value_that_changes_it(kling: Run) -> None:
    page = " ".join(kling("endpoints", VIDEO).out.split())
    assert "Price: 5 $0.15, 10 $0.30, 15 $0.45. [5]" in page
    [facts] = kling("endpoints", VIDEO, "--json").objects
    assert facts["prices"]["duration"] == {"5": "$0.15", "10": "$0.30", "15": "$0.45"}
    assert "aspect_ratio" not in facts["prices"]

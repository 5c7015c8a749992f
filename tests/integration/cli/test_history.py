"""The history that `kling` keeps by itself, and the commands that read it: `jobs`, `resume`, `watch`, `open`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from kling_async.sandbox import Sandbox
from support.cli_process import PATIENCE, PHOTO, QUICK, VIDEO, Run, finish, launch

BUY = ("generate", PHOTO, "a fox", *QUICK)


def history() -> Path:
    return Path(os.environ["XDG_STATE_HOME"]) / "kling" / "sandbox.db"


def test_a_history_is_kept_and_reported_once(kling: Run, sandbox: Sandbox) -> None:
    first = kling(*BUY, "--no-wait")
    assert first.code == 0, first
    assert f"your history is kept in {history()}" in first.err
    second = kling(*BUY, "--no-wait", "--key", "fox")
    assert "history" not in second.err, second
    refs = [answer.out.strip() for answer in (first, second)]
    assert [job["ref"] for job in kling("jobs", "--json").objects] == refs
    again = kling(*BUY, "--no-wait", "--key", "fox")
    assert again.out == second.out
    assert sandbox.counters.jobs_bought == 2


def test_a_job_that_was_left_is_resumed_watched_and_opened_without_naming_a_ledger(
    kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def launch(place: str) -> int:
        opened.append(place)
        return 0

    monkeypatch.setattr("typer.launch", launch)
    watched, resumed = (kling(*BUY, "--no-wait", "--key", key).out.strip() for key in ("one", "two"))
    early = kling("open", "one")
    assert (early.code, early.out) == (10, "")
    assert f"kling watch {watched} follows it" in early.err
    sandbox.state.clock.advance(600)
    saved = kling("watch", watched, "-o", "out", "--timeout", "5")
    assert saved.code == 0, saved
    one, two = kling("jobs", "--json").objects
    assert one["files"] == [str(Path(saved.out.strip()).absolute())]
    rest = kling("resume", "-o", "out", "--timeout", "5")
    assert rest.code == 0, rest
    assert resumed.rpartition("/")[2] in rest.out
    assert watched.rpartition("/")[2] not in rest.out
    assert two["ref"] == resumed
    assert kling("open", "one").code == kling("open", watched).code == 0
    assert opened == one["files"] * 2
    Path(opened[0]).unlink()
    address = kling("open", "one", "--print")
    assert address.out.startswith("http://127.0.0.1")
    assert len(opened) == 2


@pytest.mark.parametrize("what", ["nobody", f"{PHOTO}/550e8400-e29b-41d4-a716-446655440000"])
def test_what_the_history_does_not_have_is_not_opened(kling: Run, sandbox: Sandbox, what: str) -> None:
    kling(*BUY, "--no-wait")
    answer = kling("open", what)
    assert (answer.code, answer.out) == (7, "")
    assert "kling jobs lists what it has" in answer.err


def test_without_a_history_the_commands_say_how_it_begins(kling: Run, sandbox: Sandbox) -> None:
    for command in (("jobs",), ("resume",), ("open", "x")):
        answer = kling(*command)
        assert answer.code == 2, answer
        assert "kling generate begins it" in answer.err


def test_no_ledger_keeps_none(kling: Run, sandbox: Sandbox) -> None:
    answer = kling(*BUY, "--no-wait", "--no-ledger")
    assert answer.code == 0, answer
    assert not history().exists()
    for contradiction in (("--key", "x"), ("--ledger", "x.db")):
        refused = kling(*BUY, "--no-ledger", *contradiction)
        assert refused.code == 2, refused
        assert "leave one of them out" in refused.err
    assert sandbox.counters.jobs_bought == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser writes everywhere")
def test_a_home_that_cannot_be_written_is_no_reason_not_to_buy(kling: Run, sandbox: Sandbox) -> None:
    history().parent.parent.mkdir(parents=True)
    history().parent.parent.chmod(0o500)
    answer = kling(*BUY, "--no-wait")
    assert answer.code == 0, answer
    assert "this job is in no history" in answer.err


def test_a_home_that_is_no_directory_is_no_reason_not_to_buy(kling: Run, sandbox: Sandbox) -> None:
    history().parent.parent.parent.mkdir(parents=True)
    history().parent.parent.write_text("in the way")
    answer = kling(*BUY, "--no-wait")
    assert answer.code == 0, answer
    assert "this job is in no history" in answer.err
    assert kling(*BUY, "--no-wait", "--key", "x").code == 2
    assert sandbox.counters.jobs_bought == 1


def test_a_ledger_in_the_working_directory_comes_before_the_history(kling: Run, sandbox: Sandbox) -> None:
    kling(*BUY, "--no-wait", "--ledger", "kling.db", "--key", "mine")
    kling(*BUY, "--no-wait", "--key", "too")
    assert [job["key"] for job in kling("jobs", "--json").objects] == ["mine", "too"]
    assert not history().exists()


def test_quiet_says_results_alone_and_verbose_logs_calls(kling: Run, sandbox: Sandbox) -> None:
    quiet = kling(*BUY, "--no-wait", "-q")
    assert (quiet.code, quiet.err) == (0, "")
    assert quiet.out.startswith(PHOTO)
    verbose = kling(*BUY, "--no-wait", "-v")
    assert "info: submitted" in verbose.err
    assert "debug:" not in verbose.err
    calls = kling(*BUY, "--no-wait", "-vv")
    assert "debug: POST" in calls.err
    assert sandbox.api_key("runblob") not in calls.err
    assert "debug:" not in kling(*BUY, "--no-wait").err
    both = kling(*BUY, "-q", "-v")
    assert both.code == 2
    assert sandbox.counters.jobs_bought == 4


@pytest.mark.sandbox(environment=["kling", "runware", "pixeldojo", "fal"], credits=500)
def test_balance_asks_those_who_tell(kling: Run, sandbox: Sandbox) -> None:
    bought = kling("generate", "pixeldojo/text-to-video", "a fox", "--no-wait")
    assert bought.code == 0, bought
    answer = kling("balance")
    assert answer.code == 0, answer
    rows = {line.split()[0]: line for line in answer.out.splitlines()}
    assert "$500" in rows["runware"]
    assert "balance 500" in rows["kling"]
    assert "after the last purchase" in rows["pixeldojo"]
    assert "fal's API does not tell" in rows["fal"]
    assert [row["provider"] for row in kling("balance", "--json").objects] == list(rows)


def test_a_balance_that_cannot_be_had_is_an_error(
    kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kling("balance", "runware").code == 3
    assert "known: " in kling("balance", "acme").err
    monkeypatch.setenv("RUNWARE_API_KEY", "wrong-key")
    monkeypatch.setenv("RUNWARE_BASE_URL", sandbox.base_url("runware"))
    answer = kling("balance", "runware")
    assert answer.code == 3, answer
    assert "wrong-key" not in answer.out + answer.err


def test_the_studio_and_the_commands_have_one_history(kling: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    """What one of them has bought, the other shows, and neither is told where the ledger is."""
    bought = kling(*BUY, "--no-wait", "--key", "fox")
    assert bought.code == 0, bought
    studio = launch("studio", "--no-browser", "--port", "0", "-o", str(tmp_path / "out"), cwd=tmp_path)
    try:
        assert studio.stdout is not None
        address = studio.stdout.readline().strip()
        origin = address.partition("/?")[0]
        with httpx.Client(base_url=origin, follow_redirects=True, trust_env=False, timeout=PATIENCE) as page:
            assert page.get(address).status_code == 200
            assert [card["key"] for card in page.get("/api/jobs").json()] == ["fox"]
            asked = {"endpoint": VIDEO, "fields": {"prompt": "an owl"}, "key": "owl"}
            assert page.post("/api/jobs", json=asked, headers={"origin": origin}).status_code == 201
        studio.send_signal(signal.SIGINT)
    finally:
        answer = finish(studio)
    assert answer.code == 0, answer
    assert f"the ledger is {history()}" in answer.err
    assert [job["key"] for job in kling("jobs", "--json").objects] == ["fox", "owl"]
    assert sandbox.counters.jobs_bought == 2

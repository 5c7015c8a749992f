"""`kling generate --ledger`, `jobs`, `resume`, `resolve`: a crash loses no job and buys none twice."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import anyio
import pytest

from kling_async import Remedy, SqliteLedger, Status, Submission
from kling_async._rows.advice import as_commands
from kling_async.sandbox import Sandbox
from kling_async.sync import Client
from support.cli_process import PHOTO, QUICK, VIDEO, Run, finish, launch
from support.postgres import PASSWORD, Server

KEPT = ("--ledger", "jobs.db")
RESUME = ("resume", *KEPT, "-o", "out", "--timeout", "0.3")


def buy(kling: Run, key: str, *more: str) -> str:
    """Buy a picture and leave, its reference."""
    answer = kling("generate", PHOTO, "a fox", *QUICK, *KEPT, "--key", key, "--no-wait", *more)
    assert answer.code == 0, answer
    return answer.out.strip()


def lose(kling: Run, sandbox: Sandbox, key: str) -> None:
    """Buy a picture whose answer is lost."""
    sandbox.faults.add("accept-then-reset:submit:times=1")
    answer = kling("generate", PHOTO, "a fox", *QUICK, *KEPT, "--key", key)
    assert answer.code == 9, answer
    assert f"kling resolve {shlex.quote(key)} --forget" in answer.err
    assert "client." not in answer.err


def test_a_killed_program_is_taken_up_again_and_nothing_is_bought_twice(
    kling: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    process = launch("generate", PHOTO, "a fox", *QUICK, *KEPT, "--key", "row-1", "-o", "out", cwd=tmp_path)
    assert process.stderr is not None
    seen = "x"
    while seen and "pending" not in seen:
        seen = process.stderr.readline()
    busy = kling("jobs", *KEPT)
    assert f"In use by process {process.pid}" in busy.err
    process.kill()
    assert finish(process).code == -9
    [job] = kling("jobs", *KEPT, "--unfinished", "--json").objects
    assert (job["key"], job["state"], job["status"], job["files"]) == ("row-1", "accepted", "pending", [])
    sandbox.state.clock.advance(600)
    resumed = kling("resume", *KEPT, "-o", "out", "--timeout", "0.3")
    assert resumed.code == 0, resumed
    [path] = resumed.out.splitlines()
    assert Path(path).is_file()
    [job] = kling("jobs", *KEPT, "--json").objects
    assert (job["status"], job["files"]) == ("completed", [str(Path(path).absolute())])
    again = kling("generate", PHOTO, "a fox", *QUICK, *KEPT, "--key", "row-1", "-o", "out")
    assert (again.code, again.out) == (0, resumed.out), again
    assert "bought before" in again.err
    assert sandbox.counters.jobs_bought == 1
    assert sandbox.counters.requests["runblob", "submit"] == 1


def test_jobs_needs_no_key_and_shows_each_submission_on_a_line(
    kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = buy(kling, "row-1")
    lose(kling, sandbox, "row-2")
    before = sandbox.counters.requests.total()
    monkeypatch.delenv("RUNBLOB_API_KEY")
    answer = kling("jobs", *KEPT)
    assert answer.code == 0, answer
    head, first, second = answer.out.splitlines()
    assert head.split() == ["Key", "Endpoint", "Status", "Cost", "Age", "Files"]
    assert first.split()[:4] == ["row-1", PHOTO, "pending", "$0.05"]
    assert ref in first
    assert second.split()[:3] == ["row-2", PHOTO, "unknown"]
    assert "2 to be finished: `kling resume`" in answer.err
    assert len(kling("jobs", *KEPT, "--json", "--last", "1").objects) == 1
    assert sandbox.counters.requests.total() == before


def test_jobs_lists_the_last_hundred_unless_asked_otherwise(kling: Run, tmp_path: Path) -> None:
    async def fill() -> None:
        ledger = SqliteLedger(tmp_path / "jobs.db")
        for n in range(120):
            when = datetime.fromtimestamp(n, UTC)
            await ledger.claim(Submission(f"row-{n}", PHOTO, {"prompt": "a fox"}, "same", str(n), when))
        await ledger.aclose()

    def listed(*arguments: str) -> list[str]:
        return [line.split()[0] for line in kling("jobs", *KEPT, *arguments).out.splitlines()[1:]]

    anyio.run(fill)
    names = [f"row-{n}" for n in range(120)]
    assert listed() == names[20:]
    assert "These are the last 100 of 120; --last 0 lists all." in kling("jobs", *KEPT).err
    assert listed("--last", "3") == names[117:]
    assert listed("--last", "0") == names
    assert [job["key"] for job in kling("jobs", *KEPT, "--json").objects] == names


def test_jobs_does_not_count_what_was_refunded(kling: Run, sandbox: Sandbox) -> None:
    sandbox.plan_next(fail="TIMEOUT")
    buy(kling, "bad")
    sandbox.state.clock.advance(600)
    assert kling(*RESUME).code == 1
    assert kling("jobs", *KEPT).out.splitlines()[1].split()[:4] == ["bad", PHOTO, "failed", "refunded"]
    [job] = kling("jobs", *KEPT, "--json").objects
    assert (job["refunded"], job["cost"]) == (True, {"amount": "0.0500", "unit": "USD"})


def test_resume_saves_what_ended_unsaved_and_tells_the_way_out_of_the_rest(kling: Run, sandbox: Sandbox) -> None:
    """A job that ended just before the crash is saved. One whose answer was lost is told, with code 9."""
    sandbox.plan_next(duration=0)
    sandbox.faults.add("html:download:times=1")
    first = kling("generate", PHOTO, "a fox", *QUICK, *KEPT, "--key", "ended", "-o", "out", "--timeout", "0.2")
    assert first.code == 10, first
    assert "kling resume --ledger jobs.db -o out" in first.err
    assert "(not saved)" in kling("jobs", *KEPT).out
    lose(kling, sandbox, "lost")
    answer = kling(*RESUME)
    assert answer.code == 9, answer
    assert [Path(line).is_file() for line in answer.out.splitlines()] == [True]
    assert "unresolved: lost" in answer.err
    assert "kling resolve lost REF" in answer.err
    assert "warning" not in answer.err
    [saved, lost] = kling("jobs", *KEPT, "--json").objects
    assert (len(saved["files"]), lost["state"]) == (1, "unknown")
    [reported] = kling(*RESUME, "--json").objects
    assert (reported["type"], reported["key"], reported["state"]) == ("unresolved", "lost", "unknown")
    assert (sandbox.counters.jobs_bought, sandbox.counters.requests["runblob", "submit"]) == (2, 2)


def test_one_failure_spoils_none_of_the_others(kling: Run, sandbox: Sandbox) -> None:
    sandbox.plan_next(fail="TIMEOUT")
    bad = buy(kling, "bad")
    good = buy(kling, "good")
    sandbox.state.clock.advance(600)
    answer = kling(*RESUME)
    assert answer.code == 1, answer
    assert f"job {bad}" in answer.err
    assert good.rpartition("/")[2] in answer.out
    assert "goes on at its provider" not in answer.err
    after = kling(*RESUME)
    assert (after.code, after.out) == (0, ""), after
    assert "All jobs are done" in after.err


def test_resolve_takes_the_users_word_for_the_job(kling: Run, sandbox: Sandbox) -> None:
    lose(kling, sandbox, "row 2")
    [job] = sandbox.state.jobs.values()
    ref = f"{PHOTO}/{job.id}"
    answer = kling("resolve", "row 2", ref, *KEPT)
    assert answer.code == 0, answer
    assert "kling resume --ledger jobs.db" in answer.err
    sandbox.state.clock.advance(600)
    assert kling(*RESUME).code == 0
    assert sandbox.counters.jobs_bought == 1


def test_resolve_forget_frees_the_key(kling: Run, sandbox: Sandbox) -> None:
    lose(kling, sandbox, "row-2")
    assert kling("resolve", "row-2", "--forget", *KEPT).code == 0
    assert kling("jobs", *KEPT, "--unfinished").out == ""
    buy(kling, "row-2")
    assert sandbox.counters.jobs_bought == 2, "the lost one and the new one: the user gave the first up"


def test_forgetting_a_job_that_runs_takes_a_yes(kling: Run, sandbox: Sandbox) -> None:
    bought = kling("generate", PHOTO, "a fox", *KEPT, "--key", "runs", "-o", "out", "--timeout", "0.2")
    assert bought.code == 5
    refused = kling("resolve", "runs", "--forget", *KEPT)
    assert refused.code == 2
    assert "was bought and still runs" in refused.err
    assert "kling resume --ledger" in refused.err
    assert kling("resolve", "runs", "--forget", *KEPT, "--yes").code == 0
    assert sandbox.counters.jobs_bought == 1


def test_resubmitting_what_may_have_been_bought_takes_a_yes(kling: Run, sandbox: Sandbox) -> None:
    lose(kling, sandbox, "row-2")
    answer = kling("resolve", "row-2", "--resubmit", *KEPT)
    assert answer.code == 2, answer
    assert "may buy a second job" in answer.err
    assert "--yes" in answer.err
    assert sandbox.counters.jobs_bought == 1
    answer = kling("resolve", "row-2", "--resubmit", "--yes", *KEPT)
    assert answer.code == 0, answer
    assert answer.out.startswith(f"{PHOTO}/")
    assert sandbox.counters.jobs_bought == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["jobs"], ["no history yet", "--ledger", "KLING_LEDGER", "kling generate"]),
        (["jobs", "--ledger", "none.db"], ["no ledger none.db", "kling generate"]),
        (["resume", "--ledger", "none.db"], ["no ledger none.db"]),
        (["jobs", "--ledger", "notes.txt"], ["notes.txt", "not a database"]),
        (["generate", VIDEO, "x", "--key", "a", "--no-ledger"], ["--key", "--no-ledger"]),
        (["generate", VIDEO, "x", *KEPT, "--key", ""], ["key", "is empty"]),
        (["generate", VIDEO, "x", "--ledger", "no/where.db"], ["no/where.db", "there is no directory"]),
        (["resolve", "a", *KEPT], ["give one of these", "--forget", "--resubmit"]),
        (["resolve", "a", f"{PHOTO}/x", "--forget", *KEPT], ["give one of these"]),
        (["resolve", "nobody", "--forget", *KEPT], ["no submission 'nobody'", "kling jobs"]),
        (["resolve", "row-1", "foo", *KEPT], ["'foo' is not a job reference"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_a_wrong_ledger_or_word_is_reported_and_nothing_is_bought(
    kling: Run, sandbox: Sandbox, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    buy(kling, "row-1")
    (tmp_path / "notes.txt").write_text("remember the milk\n" * 100)
    answer = kling(*arguments)
    assert answer.code in {2, 12}, answer
    for word in words:
        assert word in answer.err, answer
    assert answer.out == ""
    assert sandbox.counters.jobs_bought == 1
    assert not (tmp_path / "none.db").exists()


def test_the_ledger_is_named_by_the_environment_or_stands_in_the_working_directory(
    kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    del sandbox
    monkeypatch.setenv("KLING_LEDGER", "kling.db")
    answer = kling("generate", PHOTO, "a fox", *QUICK, "--no-wait")
    assert answer.code == 0, answer
    monkeypatch.delenv("KLING_LEDGER")
    [job] = kling("jobs", "--json").objects
    assert job["ref"] == answer.out.strip()


def test_without_the_key_of_its_provider_a_job_is_reported_as_unresolved(
    kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    buy(kling, "row-1")
    monkeypatch.delenv("RUNBLOB_API_KEY")
    answer = kling(*RESUME)
    assert answer.code == 3, answer
    assert "RUNBLOB_API_KEY" in answer.err
    monkeypatch.setenv("PIXELDOJO_API_KEY", "another")
    answer = kling(*RESUME)
    assert answer.code == 9, answer
    assert "export RUNBLOB_API_KEY" in answer.err
    assert "client." not in answer.err
    assert sandbox.counters.status_calls == 0


def test_two_programs_use_one_ledger(kling: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    buy(kling, "row-1")

    with Client(sandbox.providers(), ledger=SqliteLedger(tmp_path / "jobs.db")) as client:
        [job] = client.resume()
        sandbox.state.clock.advance(600)
        answer = kling(*RESUME)
        assert answer.code == 0, answer
        assert job.wait() is Status.COMPLETED
    assert sandbox.counters.jobs_bought == 1


def test_a_key_cannot_disturb_the_terminal(kling: Run, sandbox: Sandbox) -> None:
    del sandbox
    buy(kling, "\x1b]0;owned\x07[red]row\u202e")
    answer = kling("jobs", *KEPT)
    assert "[red]row" in answer.out
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", answer.out)


@pytest.mark.parametrize("key", ["row-1", "it's", 'a "b" c', "back\\slash", "new\nline", "$(rm -rf ~)"])
def test_advice_quotes_a_key_for_the_shell(key: str) -> None:
    reported = ", or ".join(as_commands([Remedy("resubmit", key), Remedy("forget", key)]))
    for words, option in zip(re.findall(r"`([^`]*)`", reported), ["--resubmit", "--forget"], strict=True):
        assert shlex.split(words) == ["kling", "resolve", key, option]


def test_resubmitting_a_completed_job_is_refused_unless_forced(kling: Run, sandbox: Sandbox) -> None:
    first = buy(kling, "row-1")
    sandbox.state.clock.advance(600)
    assert kling(*RESUME).code == 0
    refused = kling("resolve", "row-1", "--resubmit", "--yes", *KEPT)
    assert refused.code == 2, refused
    assert f"'row-1' is job {first}, which is completed" in refused.err
    assert "add --force" in refused.err
    unasked = kling("resolve", "row-1", "--resubmit", "--force", *KEPT)
    assert unasked.code == 2, "there is no terminal to ask at"
    assert "add --yes" in unasked.err
    assert sandbox.counters.jobs_bought == 1
    assert kling("resolve", "row-1", "--resubmit", "--force", "--yes", *KEPT).code == 0
    assert sandbox.counters.jobs_bought == 2


def test_files_that_cannot_be_saved_any_more_can_be_given_up(kling: Run, sandbox: Sandbox) -> None:
    sandbox.plan_next(duration=0)
    sandbox.faults.add("html:download")
    generate = ("generate", PHOTO, "a fox", *QUICK, *KEPT, "--key", "row-1", "-o", "out", "--timeout", "0.2")
    assert kling(*generate).code == 10
    again = kling(*RESUME)
    assert again.code == 10
    assert "`kling resolve row-1 --forget --ledger jobs.db` if its files have expired" in again.err
    assert kling("resolve", "row-1", "--forget", *KEPT).code == 0
    done = kling(*RESUME)
    assert (done.code, done.out) == (0, ""), done
    assert "(given up)" in kling("jobs", *KEPT).out
    assert sandbox.counters.jobs_bought == 1


def test_jobs_are_chosen_by_status_endpoint_and_time_and_summed(kling: Run, sandbox: Sandbox) -> None:
    for key in ("one", "two"):
        assert kling("generate", PHOTO, "a boat", *QUICK, *KEPT, "--key", key, "--no-wait").code == 0
    shown = kling("jobs", *KEPT, "--endpoint", "runblob", "--since", "1h")
    assert [line.split()[0] for line in shown.out.splitlines()[1:]] == ["one", "two"]
    assert "2 jobs: $0.10." in shown.err
    for nothing in (("--status", "completed"), ("--endpoint", "runware"), ("--since", "2999-01-01")):
        assert kling("jobs", *KEPT, *nothing).out == ""
    sandbox.faults.add("accept-then-reset:submit:times=1")
    kling("generate", PHOTO, "a boat", *QUICK, *KEPT, "--key", "lost", "--no-wait")
    assert [job["key"] for job in kling("jobs", *KEPT, "--status", "unknown", "--json").objects] == ["lost"]
    for wrong in (("--status", "done"), ("--since", "soon")):
        answer = kling("jobs", *KEPT, *wrong)
        assert (answer.code, wrong[0] in answer.err) == (2, True)


def test_on_a_terminal_no_key_and_no_path_is_broken(
    kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    del sandbox
    key = "a5b577b4-3f1b-474f-b453-bad3d41dd1c3-and-some-more-of-it"
    assert kling("generate", PHOTO, "a boat", *QUICK, *KEPT, "--key", key, "--no-wait").code == 0
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    shown = kling("jobs", *KEPT).out.splitlines()
    assert shown[0].endswith(key)
    assert shown[1].startswith("  runblob/o3-photo/")


@pytest.mark.parametrize("command", ["jobs", "generate", "bulk"])
@pytest.mark.parametrize(
    "address", ["mysql://me:hidden-word@db.test/jobs", "postgresql://me:hidden-word/1@db.test/jobs"]
)
def test_an_address_that_cannot_be_read_is_refused_without_its_password(
    kling: Run, tmp_path: Path, command: str, address: str
) -> None:
    more = (PHOTO, "a fox") if command == "generate" else ("rows.csv",) if command == "bulk" else ()
    answer = kling(command, *more, "--ledger", address)
    assert answer.code == 2, answer
    assert "--ledger" in answer.err
    assert "hidden-word" not in answer.out + answer.err
    assert not list(tmp_path.glob("**/*.db*"))


@pytest.mark.sandbox(speed=600)
def test_every_command_works_on_a_database(
    kling: Run, sandbox: Sandbox, postgres: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = f"{postgres.dsn()}?schema={postgres.schema()}"
    monkeypatch.setenv("KLING_LEDGER", address)
    answers = [
        kling("jobs"),
        kling("generate", PHOTO, "a boat", *QUICK, "--key", "boat"),
        kling("generate", PHOTO, "a boat", *QUICK, "--key", "boat"),
        kling("generate", PHOTO, "a fox", *QUICK, "--key", "fox", "--no-wait"),
        kling("jobs", "--unfinished"),
        kling("resume"),
        kling("jobs"),
        kling("quote", "a boat"),
    ]
    (tmp_path / "rows.csv").write_text(f"endpoint,prompt,resolution,key\n{PHOTO},a boat,1k,boat-2\n")
    answers += [kling("bulk", "rows.csv", "-o", "run", "--ledger", address) for _ in range(2)]
    assert [answer.code for answer in answers] == [0] * len(answers), answers
    assert sandbox.counters.bought["runblob"] == 3
    assert "fox" in answers[4].out
    assert "boat" in answers[6].out
    assert all(
        PASSWORD not in one.out + one.err and quote(PASSWORD, safe="") not in one.out + one.err for one in answers
    )
    assert not list(tmp_path.glob("**/*.db*"))

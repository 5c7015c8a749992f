"""`kling bulk` in this process: what it checks, what it buys, what it keeps, and what it says at the end."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image

from kling_async import Cost, SqliteLedger, runblob
from kling_async._cli.bulk.command import parse_amounts, parse_concurrency
from kling_async._cli.bulk.plan import OutputPaths, plan_of
from kling_async._cli.bulk.progress import BulkProgress
from kling_async._cli.bulk.results import Results
from kling_async._cli.bulk.run_lock import run_lock
from kling_async._cli.errors import CommandError
from kling_async._cli.output.events import RowDone, RunDone
from kling_async._cli.output.text import TextRenderer
from kling_async._rows.reader import Row
from kling_async._rows.records import Record, State
from kling_async._rows.requests import find
from kling_async.providers import ALL_PROVIDERS
from kling_async.sandbox import Fault, Sandbox
from support.cli_process import Answer, Run, on_terminal

pytestmark = pytest.mark.sandbox(speed=600, scale=0.02, environment=True)

FAST = ("--poll", "0.1", "--status-calls", "0")
FAILS = "[sandbox: fail=TASK_FAILED duration=1]"
ENDPOINTS = ("runblob/o3-photo", "runware/image-o3", "inferencesh/image-o1", "pixeldojo/image-v3")


@pytest.fixture
def bulk(kling: Run) -> Run:
    def run(*arguments: str) -> Answer:
        fast = () if "--poll" in arguments else FAST
        return kling("bulk", "rows.jsonl", "-o", "out", *fast, *arguments)

    return run


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def mixed(count: int) -> list[dict[str, Any]]:
    return [{"endpoint": ENDPOINTS[n % len(ENDPOINTS)], "prompt": f"row {n}"} for n in range(count)]


def clips(*prompts: str) -> list[dict[str, Any]]:
    return [{"endpoint": "runblob/o3-video", "prompt": prompt, "key": f"row {n}"} for n, prompt in enumerate(prompts)]


def results(folder: Path, name: str = "results.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out" / name).read_text().splitlines()]


def states(folder: Path) -> list[str]:
    return [record["state"] for record in results(folder)]


def test_every_row_is_bought_once_and_saved(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, mixed(12))
    first = bulk()
    assert first.code == 0
    assert first.out.splitlines() == ["out/results.jsonl", "out/report.html"]
    found = results(tmp_path)
    assert [record["line"] for record in found] == list(range(1, 13))
    assert all((tmp_path / "out" / record["files"][0]["path"]).is_file() for record in found)
    requests = sandbox.counters.requests.copy()
    assert bulk().code == 0
    assert sandbox.counters.requests == requests, "the second run made calls"
    assert sandbox.counters.jobs_bought == 12


def test_a_file_that_is_gone_is_downloaded_again_and_not_bought(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, mixed(4))
    bulk()
    gone = tmp_path / "out" / results(tmp_path)[2]["files"][0]["path"]
    gone.unlink()
    assert bulk().code == 0
    assert gone.is_file()
    assert sandbox.counters.jobs_bought == 4


def test_bad_rows_are_listed_and_nothing_is_bought(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, [*mixed(3), *({"endpoint": ENDPOINTS[0], "prompt": ""} for _ in range(50))])
    answer = bulk()
    assert answer.code == 2
    assert "line 4: prompt: " in answer.err
    assert "... and 30 more" in answer.err
    assert "50 rows are not valid; nothing was bought" in answer.err
    assert sandbox.counters.requests == {}
    assert not (tmp_path / "out").exists()
    reported = bulk("--json").objects
    assert [line["line"] for line in reported if line["type"] == "bad-row"] == list(range(4, 54))


def test_the_error_that_stops_the_run_is_shown_once(
    bulk: Run, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNBLOB_API_KEY", "wrong")
    write(tmp_path, clips(*"abcdefgh"))
    answer = bulk("--in-flight", "8")
    assert answer.code == 3, answer
    lines = [line for line in answer.err.splitlines() if "does not accept the API key" in line]
    assert len(lines) == 1
    assert lines[0].startswith("error: the run stopped: RunBlob does not accept")
    assert "0 of 8 rows done: 8 not submitted" in answer.err
    assert sandbox.counters.jobs_bought == 0


def test_a_dry_run_estimates_and_buys_nothing(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, mixed(8))
    answer = bulk("--dry-run")
    assert answer.code == 0
    assert "8 valid rows, 0 of them done" in answer.err
    words = " ".join(answer.out.split())
    assert "runware/image-o3 2 $0.056" in words
    assert "pixeldojo/image-v3 2 2 credits" in words
    assert "runblob/o3-photo 2 about $0.10" in words
    assert sandbox.counters.requests == {}
    [reported] = bulk("--dry-run", "--json").objects
    sums = {"rows": 2, "unpriced": 0, "cost": "$0.056", "estimated": True}
    assert reported["endpoints"]["inferencesh/image-o1"] == sums


@pytest.mark.parametrize(
    "change",
    [
        {"state": 5},
        {"line": []},
        {"cost": {"amount": "x", "unit": "USD"}},
        {"cost": {"unit": "USD"}},
        {"files": [{}]},
        {"key": None},
    ],
)
def test_a_record_of_the_wrong_form_is_named_and_nothing_is_bought(
    bulk: Run, sandbox: Sandbox, tmp_path: Path, change: dict[str, object]
) -> None:
    write(tmp_path, mixed(1))
    (tmp_path / "out").mkdir()
    record = {"key": "k", "digest": "d", "line": 1, "endpoint": "runblob/o3-photo", "state": "completed", **change}
    (tmp_path / "out" / "results.jsonl").write_text("{}"[:1] + "\n" + json.dumps(record) + "\n")
    answer = bulk()
    assert answer.code == 2, answer
    assert "results.jsonl, line 2: it is not a record of kling bulk" in answer.err
    assert sandbox.counters.jobs_bought == 0


def test_a_dry_run_needs_no_key(bulk: Run, tmp_path: Path) -> None:
    write(tmp_path, mixed(4))
    assert bulk("--dry-run").code == 0
    answer = bulk()
    assert answer.code == 3
    assert "RUNBLOB_API_KEY" in answer.err


def test_failed_rows_stay_failed_until_they_are_to_be_retried(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.plan_next(fail="TASK_FAILED", duration=1)
    write(tmp_path, clips("a", "b", f"never {FAILS.replace('TASK_FAILED', 'CONTENT_POLICY_VIOLATION')}"))
    assert bulk("--in-flight", "1").code == 1
    assert states(tmp_path) == ["failed", "completed", "failed"]
    assert bulk().code == 1
    assert sandbox.counters.jobs_bought == 3
    assert bulk("--retry-failed").code == 1, "policy is never retried"
    assert states(tmp_path) == ["completed", "completed", "failed"]
    assert sandbox.counters.jobs_bought == 4
    assert results(tmp_path)[0]["attempt"] == 2


def test_what_a_provider_refunds_is_not_spent(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    """RunBlob gives back what a failed job cost, and does not tell. PixelDojo tells that it cost nothing."""
    fails = f"never {FAILS}"
    write(
        tmp_path,
        [
            {"endpoint": endpoint, "prompt": prompt}
            for endpoint in ("runblob/o3-video", "pixeldojo/image-v3")
            for prompt in ("made", fails)
        ],
    )
    answer = bulk("--json")
    assert answer.objects[-1]["spent"] == {"USD": "0.15", "credits": "1"}
    clip, failed_clip, _, failed_picture = results(tmp_path)
    assert (clip["cost"], "refunded" in clip) == ({"amount": "0.1500", "unit": "USD"}, False)
    assert ("cost" in failed_clip, failed_clip["refunded"]) == (False, clip["cost"])
    assert failed_picture["cost"] == {"amount": "0", "unit": "credits"}
    reported = json.loads(page_data(tmp_path / "out" / "report.html"))
    assert ["$0.15", "spent"] in reported["sums"]
    assert ["1 credit", "spent"] in reported["sums"]
    assert [row["cost"] for row in reported["rows"]] == ["$0.15", None, "1 credit", "0 credits"]
    assert ["refunded", "$0.15"] in reported["rows"][1]["details"]


def test_what_earlier_attempts_cost_is_spent_too(tmp_path: Path) -> None:
    """Where it was not given back: a row is the sum of its attempts, however often it is tried."""
    row = Row(1, "fox", "digest", find("runblob/o3-video")[1], runblob.O3Video("a fox"))
    results = Results(tmp_path / "results.jsonl")
    places = OutputPaths(tmp_path, results.path, tmp_path / "report.html", tmp_path / "ledger.db")
    spent = []
    for price in ("1", "2", "4"):
        [task] = plan_of([row], results, places, retry=True, save=True)
        cost = {"amount": price, "unit": "USD"}
        ended = replace(task.record, state="failed", retryable=True, cost=cost)
        spent.append((ended.attempt, ended.spent))
        results.add(replace(task.record, state="waiting"))  # an attempt that is interrupted goes on as the same one
        [again] = plan_of([row], results, places, retry=True, save=True)
        assert again == task
        results.add(ended)
    results.close(["fox"])
    assert spent == [(n, Cost(Decimal(total), "USD")) for n, total in ((1, 1), (2, 3), (3, 7))]
    assert Results(results.path).records["fox"].spent == Cost(Decimal(7), "USD")


def page_data(page: Path) -> str:
    """What the page is told, as JSON."""
    return page.read_text().partition('id="data">')[2].partition("</script>")[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--timeout", "0"], "--timeout 0: it is the number of seconds to wait"),
        (["--poll", "inf"], "--poll inf: it is the number of seconds"),
        (["--format", "xml"], "--format 'xml': it must be jsonl, csv, parquet or txt"),
        (["--no-ledger", "--ledger", "a.db"], "leave one of them out"),
        (["--budget", ""], "--budget '': write an amount like 5usd"),
        (["--shard", "4/3"], "--shard '4/3': write it like 3/16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_that_makes_no_sense_is_reported_and_nothing_is_bought(
    bulk: Run, sandbox: Sandbox, tmp_path: Path, arguments: list[str], words: str
) -> None:
    write(tmp_path, mixed(2))
    answer = bulk(*arguments)
    assert answer.code == 2
    assert words in answer.err
    assert sandbox.counters.requests == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.jsonl", "there is no such file"),
        ("folder", "folder is a directory"),
        ("folder/rows.dat", "its name does not show the format"),
        ("empty.jsonl", "empty.jsonl has no rows"),
        ("head.csv", "head.csv has no rows"),
        ("utf-16.jsonl", "utf-16.jsonl is UTF-16 text"),
    ],
)
def test_a_file_without_rows_is_reported(kling: Run, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "rows.dat").touch()
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "head.csv").write_text("prompt,endpoint\n")
    (tmp_path / "utf-16.jsonl").write_bytes('{"prompt": "x"}'.encode("utf-16"))
    answer = kling("bulk", name, "-o", "out")
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err
    assert not (tmp_path / "out").exists()


def test_results_that_cannot_be_written_are_reported_and_the_ledger_has_what_was_bought(
    bulk: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    write(tmp_path, mixed(4))
    obstacle = tmp_path / "out" / "report.html"
    obstacle.mkdir(parents=True)
    answer = bulk()
    assert answer.code == 10, answer
    assert "out/report.html cannot be written: Is a directory." in answer.err
    assert "the ledger, if one is kept, has what was bought" in answer.err
    obstacle.rmdir()
    assert bulk().code == 0
    assert states(tmp_path) == ["completed"] * 4
    assert sandbox.counters.jobs_bought == 4


def test_a_line_of_results_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    found = Results(tmp_path / "results.jsonl")
    found.path.symlink_to("/dev/full")
    with pytest.raises(CommandError, match="No space left on device") as caught:
        found.add(Record("key", "digest", 1, "runblob/o3-video", "completed"))
    assert caught.value.code == 10


def test_a_retry_that_is_interrupted_is_the_same_retry_afterwards(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    """The attempt is written down before it is bought, so no third one is made."""
    sandbox.plan_next(fail="TASK_FAILED", duration=1)
    write(tmp_path, clips("a"))
    assert bulk().code == 1
    path = tmp_path / "out" / "results.jsonl"
    before = path.read_text()
    assert bulk("--retry-failed").code == 0
    record = json.loads(before)
    torn = json.dumps(record | {"state": "waiting", "attempt": 2}) + "\n" + '{"key": "row 0", "dig'
    path.write_text(before + torn)  # as a run leaves it that was killed after it had bought the second attempt
    assert bulk().code == 0
    assert states(tmp_path) == ["completed"]
    assert sandbox.counters.jobs_bought == 2


def test_a_lost_answer_is_not_bought_again(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Fault.accept_then_reset, kind="submit", times=1)
    write(tmp_path, clips("a", "b"))
    answer = bulk("--in-flight", "1")
    assert answer.code == 9
    assert "kling jobs --ledger out/ledger.db" in answer.err
    assert states(tmp_path) == ["unknown", "completed"]
    assert bulk().code == 9
    assert sandbox.counters.jobs_bought == 2


def test_the_advised_command_does_what_it_says(bulk: Run, kling: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Fault.reset_before_reading, kind="submit", times=1)
    write(tmp_path, clips("a", "b"))
    [advised] = re.findall("`kling (resolve [^`]*--forget[^`]*)`", bulk("--in-flight", "1").err)
    assert kling(*shlex.split(advised), "--yes").code == 0
    assert bulk().code == 0
    assert states(tmp_path) == ["completed", "completed"]
    assert sandbox.counters.jobs_bought == 2


def test_without_a_ledger_what_may_have_been_bought_is_left_alone(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Fault.accept_then_reset, kind="submit", times=1)
    write(tmp_path, clips("a", "b"))
    assert bulk("--in-flight", "1", "--no-ledger").code == 9
    assert bulk("--no-ledger").code == 9
    assert sandbox.counters.jobs_bought == 2
    assert not (tmp_path / "out" / "ledger.db").exists()


def test_a_spent_budget_stops_the_run_and_counts_in_the_next(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, [{"endpoint": "pixeldojo/image-v3", "prompt": f"row {n}"} for n in range(20)])
    answer = bulk("--budget", "5credits")
    assert answer.code == 13
    assert answer.err.count("the budget of 5 credits has 0 credits left") == 1
    assert "5 of 20 rows done: 5 completed, 15 not submitted" in answer.err
    assert sandbox.counters.jobs_bought == 5
    assert bulk("--budget", "5credits").code == 13
    assert sandbox.counters.jobs_bought == 5
    assert bulk("--budget", "20credits").code == 0
    assert sandbox.counters.jobs_bought == 20


def test_a_key_that_is_another_row_now_is_refused_before_anything_is_bought(
    bulk: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    write(tmp_path, clips("a", "b"))
    bulk()
    write(tmp_path, clips("a", "something else", "c"))
    answer = bulk()
    assert answer.code == 2
    assert "line 2: key: 'row 1' is another row in out/results.jsonl; use another key" in answer.err
    assert sandbox.counters.jobs_bought == 2


def test_shards_share_a_directory_and_buy_each_row_once(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, mixed(20))
    codes = [bulk("--shard", f"{n}/3").code for n in (1, 2, 3)]
    assert codes == [0, 0, 0]
    parts = [results(tmp_path, f"results-{n}-of-3.jsonl") for n in (1, 2, 3)]
    assert sorted(record["line"] for part in parts for record in part) == list(range(1, 21))
    assert sandbox.counters.jobs_bought == 20


def test_two_runs_do_not_share_a_directory(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, mixed(4))
    bulk()
    before = (tmp_path / "out" / "results.jsonl").stat()
    write(tmp_path, mixed(6))
    with run_lock(tmp_path / "out" / "results.jsonl"):
        answer = bulk()
    assert answer.code == 2
    assert f"another run writes out/results.jsonl (process {os.getpid()})" in answer.err
    after = (tmp_path / "out" / "results.jsonl").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert bulk().code == 0
    assert sandbox.counters.jobs_bought == 6


def test_json_tells_every_row_and_a_summary(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, mixed(4))
    *rows, summary = bulk("--json", "--no-save").objects
    assert {row["type"] for row in rows} == {"row"}
    assert all(row["urls"] and not row["files"] for row in rows)
    assert summary["states"] == {"completed": 4}
    assert summary["spent"] == {"USD": "0.078", "credits": "1"}
    assert bulk().code == 0, "the files are saved now"
    assert all(record["files"] for record in results(tmp_path))
    assert sandbox.counters.jobs_bought == 4


def test_a_result_that_cannot_be_saved_is_kept_and_saved_by_the_next_run(
    bulk: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    write(tmp_path, clips("a", "b"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "files").write_text("in the way")
    assert bulk().code == 10
    assert states(tmp_path) == ["unsaved", "unsaved"]
    (tmp_path / "out" / "files").unlink()
    assert bulk().code == 0
    assert sandbox.counters.jobs_bought == 2


def test_on_a_terminal_the_run_is_shown(sandbox: Sandbox, tmp_path: Path) -> None:
    """Hostile words do not reach the terminal as commands, and the last state is the whole of it."""
    write(tmp_path, [*mixed(6), *clips(f"\x1b]0;owned\x07 red \x1b[31m {FAILS}")])
    answer = on_terminal(tmp_path, "bulk", "rows.jsonl", "-o", "out", *FAST)
    assert answer.code == 1
    assert "7 of 7 rows" in answer.out
    assert "6 completed" in answer.out
    assert "1 failed" in answer.out
    assert "owned" not in answer.out


@pytest.mark.parametrize("text", ["5", "5eur", "usd5", "5usd,6usd", "-5usd", "", "5usd;4credits"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CommandError, match="--budget"):
        parse_amounts(text)


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("5usd", {"USD": 5}),
        ("$2.50", {"USD": Decimal("2.5")}),
        ("200credits", {"credits": 200}),
        ("1credit, 3 USD", {"credits": 1, "USD": 3}),
    ],
)
def test_a_budget_is_an_amount_with_its_unit(text: str, amounts: dict[str, Decimal]) -> None:
    assert parse_amounts(text) == amounts


def photos(count: int) -> list[dict[str, Any]]:
    return [{"endpoint": "pixeldojo/image-v3", "prompt": f"row {n}"} for n in range(count)]


def test_a_run_of_the_whole_file_joins_the_results_of_its_shards(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, photos(8))
    assert [bulk("--shard", f"{n}/2").code for n in (1, 2)] == [0, 0]
    assert "8 of them done" in bulk("--dry-run").err
    assert bulk().code == 0
    assert [record["line"] for record in results(tmp_path)] == list(range(1, 9))
    assert states(tmp_path) == ["completed"] * 8
    assert len(json.loads(page_data(tmp_path / "out" / "report.html"))["rows"]) == 8
    assert sandbox.counters.jobs_bought == 8


def test_a_shard_does_not_buy_what_a_run_of_the_whole_file_has_bought(
    bulk: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    write(tmp_path, photos(12))
    assert bulk("--budget", "5credits").code == 13
    assert [bulk("--budget", "5credits", "--shard", f"{n}/3").code for n in (1, 2, 3)] == [13, 13, 13]
    assert sandbox.counters.jobs_bought == 5
    assert [bulk("--shard", f"{n}/3").code for n in (1, 2, 3)] == [0, 0, 0]
    assert sandbox.counters.jobs_bought == 12


def test_the_shards_of_a_run_share_one_budget(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, photos(30))
    answers = [bulk("--budget", "12credits", "--shard", f"{n}/3") for n in (1, 2, 3)]
    assert {answer.code for answer in answers} == {13}
    assert 9 <= sandbox.counters.jobs_bought <= 12
    assert "of the budget of 12 credits, this run may spend" in answers[0].err


def test_shards_with_one_ledger_spend_one_budget_to_its_end(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    """None of them is held to a part of it."""
    write(tmp_path, photos(30))
    options = ("--budget", "12credits", "--ledger", "all.db")
    answers = [bulk(*options, "--shard", f"{n}/3") for n in (1, 2, 3)]
    assert answers[-1].code == 13
    assert sandbox.counters.jobs_bought == 12
    assert "the budget of 12 credits is for all shards that are given the ledger all.db" in answers[0].err


def test_rows_that_another_run_has_not_finished_are_not_bought(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Fault.accept_then_reset, kind="submit", times=1)
    write(tmp_path, clips("a", "b"))
    assert bulk("--in-flight", "1").code == 9
    answer = bulk("--shard", "1/1")
    assert answer.code == 2, answer
    assert "another run of out has bought line 1, and their results are not complete: out/ledger.db" in answer.err
    assert sandbox.counters.jobs_bought == 2


def test_a_run_does_not_start_while_another_one_may_buy_the_same_rows(
    bulk: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    write(tmp_path, photos(6))
    (tmp_path / "out").mkdir()
    anyio.run(SqliteLedger(tmp_path / "out" / "ledger-1-of-2.db").submissions)
    with run_lock(tmp_path / "out" / "results-1-of-2.jsonl"):
        codes = [bulk(*shard).code for shard in ((), ("--shard", "1/4"), ("--shard", "3/4"), ("--shard", "2/2"))]
    assert codes == [2, 2, 2, 0], "the second half is another matter"


def test_a_row_that_is_only_saved_again_costs_nothing(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, photos(2))
    assert bulk("--json").objects[-1]["spent"] == {"credits": "2"}
    (tmp_path / "out" / results(tmp_path)[0]["files"][0]["path"]).unlink()
    assert bulk("--json").objects[-1]["spent"] == {}
    assert sandbox.counters.jobs_bought == 2


def test_sums_name_what_they_only_estimate(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    del sandbox
    write(tmp_path, mixed(8))
    answer = bulk()
    assert "about $0.056 at inferencesh, which reports no price" in answer.err
    assert ["about $0.056", "at inference.sh, which reports no price"] in json.loads(
        page_data(tmp_path / "out" / "report.html")
    )["sums"]


def test_a_dry_run_mentions_what_is_left_of_the_budget(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    del sandbox
    write(tmp_path, photos(4))
    assert bulk("--budget", "3credits").code == 13
    assert "the budget: 0 credits left of 3 credits" in bulk("--dry-run", "--budget", "3credits").err


def test_rows_that_resemble_bought_ones_are_named_before_anything_is_bought(
    kling: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    first = {"endpoint": "runblob/o3-photo", "prompt": "A paper  boat", "resolution": "1k"}
    rows.write_text(json.dumps(first))
    assert kling("bulk", "rows.jsonl", "-o", "out", "--no-save", "--timeout", "0.2").code == 1
    again = [{**first, "prompt": "a paper boat\r\n"}, {**first, "resolution": "2k"}, {**first, "prompt": "a plane"}]
    rows.write_text("\n".join(map(json.dumps, again)))
    answer = kling("bulk", "rows.jsonl", "-o", "out", "--dry-run")
    assert (
        "2 rows are new, but an earlier row had the same endpoint, and the same prompt but for case and blanks "
        "(line 1, 2)" in answer.err
    )
    assert sandbox.counters.jobs_bought == 1


def test_an_assumed_price_counts_in_the_estimate_and_in_the_budget(
    kling: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"endpoint": "replicate/kling-o1", "prompt": "a boat"}))
    command = ("bulk", "rows.jsonl", "-o", "out", "--no-save")
    assert "$1.20" in kling(*command, "--dry-run", "--assume-price", "replicate/kling-o1=1.2").out
    refused = kling(*command, "--budget", "1usd", "--assume-price", "replicate=1.2")
    assert (refused.code, "replicate/kling-o1 costs $1.20" in refused.err) == (13, True)
    assert sandbox.counters.jobs_bought == 0
    for wrong in ("replicate/kling-o9=1", "replicate=much"):
        assert kling(*command, "--assume-price", wrong).code == 2


@pytest.mark.parametrize(
    ("texts", "limit"),
    [
        ((), None),
        (("40",), 40),
        (("fal=40", "kling=5"), {"fal": 40, "kling": 5}),
        (("2", "fal=40"), {**{kind.name: 2 for kind in ALL_PROVIDERS}, "fal": 40}),
    ],
)
def test_the_jobs_at_once_are_limited_by_account(texts: tuple[str, ...], limit: Any) -> None:
    assert parse_concurrency(texts) == limit


def test_a_run_keeps_within_the_limit_on_jobs_at_once(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, [{"endpoint": "runblob/o3-photo", "prompt": f"row {n}"} for n in range(5)])
    assert bulk("--concurrency", "runblob=2", "--no-save").code == 0
    jobs = list(sandbox.state.jobs.values())
    assert len(jobs) == 5
    assert max(sum(other.created <= job.created < other.ends for other in jobs) for job in jobs) == 2


@pytest.mark.parametrize("wrong", ["0", "many", "fal=", "fal=-1", "fall=3", "fal=2.5", "2 3", "fal=2 4 fal=3"])
def test_a_limit_on_jobs_that_is_none_or_is_given_twice_is_refused(wrong: str) -> None:
    with pytest.raises(CommandError, match="--concurrency"):
        parse_concurrency(wrong.split())


def test_results_are_rows_as_well(bulk: Run, kling: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    """In the same folder they are done, in another one they are bought, and each row is the same row."""
    (tmp_path / "img").mkdir()
    Image.new("RGB", (400, 400)).save(tmp_path / "img" / "boat.png")
    write(
        tmp_path,
        [
            {"endpoint": "runblob/o3-photo", "prompt": "a boat", "references": ["img/boat.png"], "key": "boat"},
            {"endpoint": "image", "prompt": "a fox"},
            {
                "endpoint": "runblob/o3-video",
                "prompt": "a tram",
                "first_frame": "img/boat.png",
                "last_frame": "img/boat.png",
            },
        ],
    )
    assert bulk("--no-save").code == 0
    first = results(tmp_path)
    assert first[1]["asked"] == "image"
    again = kling("bulk", "out/results.jsonl", "-o", "out", "--no-save", "--dry-run")
    assert "3 valid rows, 3 of them done" in again.err
    assert sandbox.counters.jobs_bought == 3
    answer = kling("bulk", "out/results.jsonl", "-o", "two/deep", "--no-save", *FAST)
    assert answer.code == 0, answer
    assert sandbox.counters.jobs_bought == 6
    second = [json.loads(line) for line in (tmp_path / "two" / "deep" / "results.jsonl").read_text().splitlines()]
    for name in ("key", "digest", "request", "asked"):
        assert [record.get(name) for record in second] == [record.get(name) for record in first]
    assert [record["folder"] for record in second] == ["../.."] * 3


def test_a_dry_run_needs_no_output_directory(kling: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    del sandbox
    (tmp_path / "rows.txt").write_text("a boat\na fox\n")
    answer = kling("bulk", "rows.txt", "--endpoint", "pixeldojo/image-v3", "--dry-run")
    assert answer.code == 0
    assert "2 valid rows, 0 of them done" in answer.err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.txt"]
    answer = kling("bulk", "rows.txt", "--endpoint", "pixeldojo/image-v3")
    assert answer.code == 2
    assert "--output is missing" in answer.err


def test_a_row_that_stays_out_for_another_reason_is_shown() -> None:
    """Two accounts may end one run: the error that is raised is one, and the row shows the other."""
    lines: list[str] = []
    renderer = TextRenderer(lines.append, lines.append)
    for number, kind in enumerate(["BudgetExceeded", "BudgetExceeded", "Unauthorized", "GenerationFailed"], 1):
        state: State = "failed" if kind == "GenerationFailed" else "waiting"
        error = {"kind": kind, "message": f"because of {kind}", "code": None}
        renderer.render(RowDone(Record(f"{number}", "", number, "runblob/o3-photo", state, error=error)))
    progress = BulkProgress(4, Counter(failed=1, waiting=3), todo=4)
    progress.over = True
    renderer.render(RunDone(progress, [], "BudgetExceeded"))
    assert lines == [
        "line 4: because of GenerationFailed",
        "line 3: because of Unauthorized",
        "1 of 4 rows done: 1 failed, 3 not submitted",
    ]


def test_an_error_that_many_rows_have_is_shown_for_the_first_few() -> None:
    lines: list[str] = []
    renderer = TextRenderer(lines.append, lines.append)
    error = {"kind": "GenerationFailed", "message": "it failed", "code": None}
    for number in range(1, 6):
        renderer.render(RowDone(Record(f"{number}", "", number, "runblob/o3-photo", "failed", error=error)))
    renderer.render(RunDone(BulkProgress(5, Counter(failed=5), todo=5), []))
    assert lines[:4] == [*(f"line {number}: it failed" for number in (1, 2, 3)), "... and 2 more rows: it failed"]


def test_the_progress_has_each_row_once() -> None:
    progress = BulkProgress(20, Counter(waiting=15, completed=4, failed=1), in_flight=6, saving=2, todo=20, ended=5)
    assert progress.words() == ("5 of 20 rows done: 6 running, 2 being saved, 4 completed, 1 failed, 7 not submitted")
    assert progress.eta is not None
    progress.stopping = True
    assert progress.words().startswith("stopping; 5 of 20 rows done: 6 running")
    assert progress.eta is None
    assert BulkProgress(1, Counter(completed=1)).words() == "1 of 1 row done: 1 completed"


def test_files_are_named_as_the_user_says(bulk: Run, sandbox: Sandbox, tmp_path: Path) -> None:
    write(tmp_path, [{"endpoint": "runware/image-o3", "prompt": "a boat", "key": "ship/1", "count": 2}])
    assert bulk("--name", "{key} {index}.png").code == 0
    names = sorted(path.stem for path in (tmp_path / "out" / "files").iterdir())
    assert names == ["ship_1 1", "ship_1 2"]
    [record] = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert sorted(Path(file["path"]).stem for file in record["files"]) == names


@pytest.mark.parametrize(
    ("keys", "count", "name", "words"),
    [
        (["a", "b"], 1, "boat", "files of the rows 'a' and 'b' would both be named boat"),
        (["a/1", "A_1"], 1, "{key}", "would both be named A_1"),
        (["a", "a-2"], 2, "{key}", "would both be named a-2"),
        (["a"], 1, "{number}", "it may contain {key}, {index}, {id}, {endpoint}, and no other field"),
        (["a"], 1, "../{key}", "a file name without a directory"),
    ],
)
def test_names_that_would_replace_files_are_refused(
    bulk: Run, sandbox: Sandbox, tmp_path: Path, keys: list[str], count: int, name: str, words: str
) -> None:
    rows = [{"endpoint": "runware/image-o3", "prompt": f"boat {key}", "key": key, "count": count} for key in keys]
    write(tmp_path, rows)
    answer = bulk("--name", name)
    assert answer.code == 2
    assert words in answer.err
    assert not sandbox.state.jobs

"""`kling quote`, and `video` and `image` as endpoints of the other commands, against the sandbox."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kling_async.sandbox import Fault, Sandbox
from support.cli_process import Run

pytestmark = pytest.mark.sandbox(speed=600, scale=0.02, environment=True)

FAST = ("--poll", "0.1", "--status-calls", "0")


def test_quotes_are_shown_with_prices_times_and_reasons_and_need_no_key(kling: Run) -> None:
    answer = kling("quote", "a paper boat", "--duration", "10")
    assert answer.code == 0
    lines = {line.split()[0]: line for line in answer.out.splitlines()}
    assert "$0.84" in lines["kling/text-to-video"]
    assert "about $0.30" in lines["runblob/o3-video"]
    assert "RUNBLOB_API_KEY" in answer.out
    assert "kling/image-to-video: a first frame is needed" in answer.out


def test_quotes_as_json_have_the_facts(kling: Run) -> None:
    answer = kling("quote", "a paper boat", "--endpoint", "image", "--count", "2", "--json")
    quotes = {line["endpoint"]: line for line in answer.objects}
    assert quotes["runware/image-o3"]["price"] == "exact"
    assert quotes["runware/image-o3"]["cost"]["unit"] == "USD"
    assert quotes["runblob/o3-photo"] == {
        "type": "quote",
        "endpoint": "runblob/o3-photo",
        "model": "kling-image-3.0-omni",
        "available": False,
        "reason": "count is 2; it has 1",
        "learned": False,
        "key": False,
    }


def test_a_quote_of_one_endpoint_has_one_line(kling: Run) -> None:
    answer = kling("quote", "a paper boat", "--endpoint", "kling/text-to-video", "--json")
    assert [line["endpoint"] for line in answer.objects] == ["kling/text-to-video"]


def test_what_nobody_makes_ends_with_the_nearest_change(kling: Run) -> None:
    answer = kling("quote", "a paper boat", "--duration", "17")
    assert answer.code == 2
    assert "duration is 17; it has 3 to 15" in answer.out
    assert "change duration to 15" in answer.err


def test_one_picture_is_made_by_the_preferred_provider(kling: Run, sandbox: Sandbox) -> None:
    answer = kling("generate", "image", "a paper boat", "--prefer", "pixeldojo,runblob")
    assert answer.code == 0, answer.err
    assert "chosen: pixeldojo/image-v3: first of 2 by preference" in answer.err
    assert sandbox.counters.bought["pixeldojo"] == 1
    assert sandbox.counters.jobs_bought == 1


def test_json_says_who_was_chosen_and_why(kling: Run, sandbox: Sandbox) -> None:
    answer = kling("generate", "image", "a paper boat", "--prefer", "pixeldojo,runblob", "--json", "--no-wait")
    assert answer.code == 0, answer.err
    chosen, submitted = answer.objects
    assert chosen["type"] == "chosen"
    assert chosen["endpoint"] == "pixeldojo/image-v3"
    assert chosen["reason"].startswith("first of 2 by preference; ")
    assert chosen["passed_over"] == []
    assert chosen["ref"] == submitted["ref"]
    assert sandbox.counters.jobs_bought == 1


def test_bulk_rows_go_to_the_next_provider_and_the_report_says_who_made_what(
    kling: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    rows = [{"endpoint": "image", "prompt": f"boat {number}", "key": f"row {number}"} for number in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sandbox.faults.add(Fault.rate_limited, provider="runware", kind="submit", skip=3, seconds=30)
    arguments = ("bulk", "rows.jsonl", "-o", "out", *FAST, "--prefer", "runware,runblob", "--in-flight", "1")
    dry = kling(*arguments, "--dry-run", "--json").objects[-1]
    assert dry["endpoints"] == {
        "runware/image-o3": {
            "rows": 8,
            "unpriced": 0,
            "cost": dry["endpoints"]["runware/image-o3"]["cost"],
            "estimated": False,
        }
    }
    answer = kling(*arguments)
    assert answer.code == 0, answer.err
    assert sandbox.counters.bought["runware"] == 3
    assert sandbox.counters.bought["runblob"] == 5
    found = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {record["endpoint"] for record in found} == {"runware/image-o3", "runblob/o3-photo"}
    assert "made by runblob/o3-photo: 5 rows, $" in answer.err
    assert kling(*arguments).code == 0
    assert sandbox.counters.jobs_bought == 8


def test_a_row_that_nobody_makes_is_found_before_anything_is_bought(
    kling: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    rows = [{"endpoint": "video", "prompt": "a boat"}, {"endpoint": "video", "prompt": "a boat", "duration": 17}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = kling("bulk", "rows.jsonl", "-o", "out")
    assert answer.code == 2
    assert "line 2: duration: " in answer.err
    assert "change duration to 15" in answer.err
    assert sandbox.counters.requests == {}

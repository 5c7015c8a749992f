"""`kling doctor`: each finding has its remedy, nothing is bought without being agreed to, and no secret is written."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from kling_async._cli.doctor.checks import at_home
from kling_async._cli.doctor.shapes import Difference, differences, redacted
from kling_async.providers.base import Reply
from kling_async.sandbox import Sandbox
from support.cli_process import Answer, Run
from support.shapes import PATH, shapes

PICTURE = {"generation_id": "0b0f6d0e-1111-4222-8333-944445555666", "status": "completed", "image_url": "https://x/y"}


def findings(answer: Answer) -> list[tuple[str, str, str]]:
    return [(one["area"], one["state"], one["text"]) for one in answer.objects if one["type"] == "finding"]


def of(answer: Answer, area: str) -> list[tuple[str, str]]:
    return [(state, text) for name, state, text in findings(answer) if name == area]


def test_without_a_key_it_says_which_to_set_and_makes_no_call(kling: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = kling("doctor")
    assert answer.code == 1, answer
    assert "no API key is set" in answer.out
    assert "-> export one of KLING_API_KEY" in answer.out
    assert "1 error, no warnings" in answer.err


@pytest.mark.sandbox(environment=True)
def test_each_provider_accepts_its_key_and_nothing_is_bought(kling: Run, sandbox: Sandbox) -> None:
    answer = kling("doctor", "--json")
    assert answer.code == 0, answer
    accepted = {area for area, state, text in findings(answer) if state == "ok" and "accepts the key" in text}
    assert accepted == {provider.name for provider in sandbox.providers()}
    assert sandbox.counters.jobs_bought == 0
    assert not [key for name in accepted if (key := sandbox.api_key(name)) in answer.out + answer.err]


@pytest.mark.sandbox(environment=["runblob", "kling"])
def test_a_refused_key_and_an_unreachable_provider_are_errors(
    kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLING_API_KEY", "wrong-key-1234")
    monkeypatch.setenv("FAL_KEY", "some-key")
    monkeypatch.setenv("FAL_BASE_URL", "http://127.0.0.1:9")
    answer = kling("doctor")
    assert answer.code == 1, answer
    assert "does not accept the key" in answer.out
    assert "a key of one site is not valid at the other" in answer.out
    assert "cannot be reached" in answer.out
    assert "FAL_BASE_URL" in answer.out
    assert "wrong-key-1234" not in answer.out + answer.err


def test_a_clock_that_is_wrong_is_noticed(kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kling_async._cli.doctor.taps.now", lambda: time.time() + 400)
    [(state, text)] = of(kling("doctor", "--json"), "clock")
    assert state == "warning"
    assert "ahead of that of runblob" in text


def test_what_is_wrong_on_this_machine_is_said_without_secrets(
    kling: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("OTHER_KEY=sk-secret\n")
    (tmp_path / ".env").chmod(0o644)
    (tmp_path / "kling.db").write_text("no database")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:sk-secret@proxy.example:3128")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("RUNWARE_API_KEY", "with blanks sk-secret")
    answer = kling("doctor", "--offline", "--json")
    assert answer.code == 1, answer
    assert of(answer, "settings") == [("warning", ".env has keys, and others may read it")]
    assert of(answer, "proxy") == [("note", "HTTPS_PROXY=http://...@proxy.example:3128")]
    assert "error" in [state for state, _ in of(answer, "TLS")]
    assert [state for state, _ in of(answer, "ledger")] == ["error"]
    assert all(one["remedy"] for one in answer.objects if one["state"] in {"warning", "error"})
    assert "sk-secret" not in answer.out + answer.err
    assert sandbox.counters.requests.total() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--spend",), "give --budget"),
        (("--spend", "--budget", "much"), "write an amount"),
        (("--spend", "--budget", "1usd", "--offline"), "leave one of them out"),
        (("--spend", "--budget", "1usd"), "nobody is there to be asked"),
        (("--spend", "--budget", "0.001usd", "--yes"), "nothing to try within the budget"),
        (("--spend", "--budget", "1usd", "--provider", "acme"), "it is one of"),
    ],
)
def test_nothing_is_bought_without_a_budget_and_consent(
    kling: Run, sandbox: Sandbox, arguments: tuple[str, ...], words: str
) -> None:
    answer = kling("doctor", *arguments)
    assert answer.code == 2, answer
    assert words in answer.err
    assert sandbox.counters.jobs_bought == 0


def spend(kling: Run, *more: str) -> tuple[Answer, dict[str, Any]]:
    answer = kling("doctor", "--spend", "--budget", "1usd,50credits", "--yes", "--json", "--timeout", "60", *more)
    [path] = Path("kling-doctor").glob("*/report.json")
    return answer, json.loads(path.read_text())


@pytest.mark.sandbox(environment=["runblob", "runware"], speed=3600)
def test_the_cheapest_generation_is_bought_and_its_replies_are_as_recorded(kling: Run, sandbox: Sandbox) -> None:
    answer, told = spend(kling)
    assert answer.code == 0, answer
    assert "together: " not in answer.out
    assert sandbox.counters.bought == {"runblob": 1, "runware": 1}
    made = {one["provider"]: one for one in told["providers"]}
    assert made["runware"]["cost"] == "$0.028"
    assert all(one["differences"] == [] and one["exchanges"] for one in made.values()), told
    text = json.dumps(told)
    secrets = [sandbox.api_key(name) for name in made] + ["red cube", "127.0.0.1", *sandbox.state.jobs]
    assert not [secret for secret in secrets if secret in text]
    again = kling("doctor", "--spend", "--budget", "0.03usd", "--yes", "--json", "--timeout", "60")
    assert any("the budget has no room for it" in text for _, _, text in findings(again)), again
    assert sandbox.counters.bought == {"runblob": 1, "runware": 2}


@pytest.mark.sandbox(speed=3600)
def test_replies_of_another_shape_are_named_and_reported(kling: Run, sandbox: Sandbox) -> None:
    sandbox.faults.add("unknown-status:status:times=2")  # the first call asks whether the key is good
    answer, told = spend(kling)
    assert [state for state, text in of(answer, "runblob") if "differences" in text or "difference" in text] == [
        "warning"
    ], answer
    [one] = told["providers"]
    assert {(each["kind"], each["place"]) for each in one["differences"]} == {("status word", "status")}


def test_a_job_that_fails_is_an_error_with_its_remedy(kling: Run, sandbox: Sandbox) -> None:
    sandbox.plan_next(fail="CONTENT_POLICY_VIOLATION", duration=0)
    answer, told = spend(kling)
    assert answer.code == 1, answer
    assert told["providers"][0]["error"]["kind"] == "GenerationFailed"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"new": {"inner": 1}}, [Difference("field", "new", "object")]),
        ({"status": "sublimating"}, [Difference("status word", "status", "sublimating")]),
        ({"image_url": 7}, [Difference("type", "image_url", "number, and not null or text")]),
        ({"image_url": None}, []),
    ],
)
def test_fields_types_and_words_are_compared(change: dict[str, Any], expected: list[Difference]) -> None:
    reply = Reply(200, {"content-type": "application/json", "date": "now"}, json.dumps(PICTURE | change).encode())
    assert [str(one) for one in differences("runblob", "poll", reply)] == [str(one) for one in expected]


def test_codes_headers_and_bodies_are_compared() -> None:
    reply = Reply(218, {"content-type": "text/html", "x-new-thing": "1"}, b"<html>")
    assert {one.kind for one in differences("runblob", "poll", reply)} == {"HTTP status", "body"}
    reply = Reply(200, {"x-new-thing": "1"}, json.dumps(PICTURE).encode())
    assert [(one.kind, one.place) for one in differences("runblob", "poll", reply)] == [("header", "x-new-thing")]


def test_what_is_written_has_types_in_place_of_values() -> None:
    body = {"status": "completed", "url": "https://a/?token=x", "n": 5, "list": [{"id": "7"}], "ok": True, "no": None}
    assert redacted(body) == {
        "status": "completed",
        "url": "<text>",
        "n": "<number>",
        "list": [{"id": "<text>"}],
        "ok": True,
        "no": None,
    }


def test_the_shapes_are_those_of_the_samples() -> None:
    assert PATH.read_text("utf-8") == shapes(), "run python tests/support/shapes.py"


@pytest.mark.anyio
async def test_a_history_that_is_not_there_yet_is_fine() -> None:
    found = [finding for finding in await at_home(None) if finding.area == "ledger"]
    assert [finding.state for finding in found] == ["ok"]
    assert os.environ["XDG_STATE_HOME"] in found[0].text

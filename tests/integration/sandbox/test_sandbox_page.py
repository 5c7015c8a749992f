"""The status page at `/`, and `--help`: what runs, and what can be asked for."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from kling_async.sandbox import Fault, Sandbox
from kling_async.sandbox.__main__ import main

Buy = Callable[..., str]
VIDEO = "/v1/kling/o3-video"


def _page(sandbox: Sandbox) -> str:
    answer = httpx.get(f"{sandbox.url}/", trust_env=False)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text


def test_the_page_shows_jobs_with_status_and_links_to_results(sandbox: Sandbox, bought: Buy) -> None:
    sandbox.plan_next(fail="TASK_FAILED", duration=10)
    failed, completed = bought(VIDEO), bought(VIDEO)
    sandbox.state.clock.advance(500)
    running = bought(VIDEO)
    page = _page(sandbox)
    for text in (failed, "TASK_FAILED", completed, running, "pending", "runblob/o3-video"):
        assert text in page
    assert page.count(f'href="{sandbox.url}/cdn/') == 1
    assert sandbox.counters.renders == 0  # results are linked, not drawn


def test_the_page_holds_no_key_and_no_markup_of_a_prompt(sandbox: Sandbox, bought: Buy) -> None:
    bought(VIDEO, "<script>alert(1)</script>" + "x" * 2000)
    page = _page(sandbox)
    assert "<script" not in page
    assert sandbox.api_key("runblob") not in page
    assert "x" * 200 not in page


def test_the_page_lists_faults_directives_rate_limits_and_what_is_active(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.drip, kind="submit", seconds=0.5)
    page = _page(sandbox)
    assert all(fault.description in page for fault in Fault)
    assert "[sandbox: fail=CODE]" in page
    assert "kind=submit every=1" in page
    assert "60 status calls a minute" in page


def test_help_lists_faults_and_directives(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(fault in text and fault.description in text for fault in Fault)
    assert "[sandbox: duration=SECONDS]" in text


def test_rate_limits_are_the_documented_ones_unless_changed() -> None:
    def limits(sandbox: Sandbox) -> list[int | None]:
        return [sandbox.state.accounts(name)[0].rate_limit for name in ("runblob", "pixeldojo")]

    assert limits(Sandbox()) == [60, None]
    assert limits(Sandbox(rate_limit=None)) == [None, None]
    assert limits(Sandbox(rate_limit={"pixeldojo": 7})) == [None, 7]


def test_options_are_changed_by_their_text_form(sandbox: Sandbox) -> None:
    sandbox.set_option("inferencesh.progress=yes")
    sandbox.set_option("inferencesh.lines=3")
    assert (sandbox.options("inferencesh").progress, sandbox.options("inferencesh").lines) == (True, 3)


@pytest.mark.parametrize(
    "text", ["inferencesh.progress=maybe", "inferencesh.nothing=1", "runblob.progress=1", "", "=", "x"]
)
def test_wrong_options_are_refused_with_what_there_is(sandbox: Sandbox, text: str) -> None:
    with pytest.raises(ValueError, match=r"inferencesh\.progress"):
        sandbox.set_option(text)

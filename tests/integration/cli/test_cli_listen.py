"""`kling generate --webhook-url ... --listen ...`: told of the end by a real webhook."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from kling_async.sandbox import Fault, Sandbox
from support.cli_process import PHOTO, QUICK, VIDEO, Answer, Run

pytestmark = pytest.mark.sandbox(speed=600, scale=0.1, environment=["runblob"])


@pytest.fixture
def port(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> int:
    """A free one. The program polls as late as a provider needs, so that the webhook comes first."""
    del sandbox
    monkeypatch.delenv("KLING_SANDBOX_SPEED")
    with socket.create_server(("127.0.0.1", 0)) as free:
        number: int = free.getsockname()[1]
    return number


@pytest.mark.parametrize("path", ["", "/hooks/kling"])
def test_a_webhook_ends_the_wait_and_one_poll_confirms_it(kling: Run, sandbox: Sandbox, port: int, path: str) -> None:
    url = f"http://127.0.0.1:{port}{path}"
    answer = kling("generate", PHOTO, "a fox", *QUICK, "-o", "out", "--webhook-url", url, "--listen", str(port))
    assert answer.code == 0, answer
    assert Path(answer.out.strip()).is_file()
    assert (sandbox.counters.webhooks["runblob"], sandbox.counters.status_calls) == (1, 1)
    assert [delivery.status for delivery in sandbox.deliveries] == [200]
    assert "Traceback" not in answer.err


def test_it_listens_before_it_buys(kling: Run, sandbox: Sandbox, port: int) -> None:
    """The webhook overtakes the answer to the purchase."""
    sandbox.faults.add(Fault.webhook_early)
    url = f"http://127.0.0.1:{port}"
    answer = kling("generate", PHOTO, "a fox", *QUICK, "--webhook-url", url, "--listen", f"127.0.0.1:{port}")
    assert answer.code == 0, answer
    assert [delivery.status for delivery in sandbox.deliveries] == [200]


def test_a_port_that_is_taken_costs_nothing(kling: Run, sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = kling("generate", VIDEO, "a fox", "--webhook-url", f"http://127.0.0.1:{port}", "--listen", port)
    _refused(answer, "cannot be listened on")
    assert sandbox.counters.jobs_bought == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--listen", "8000"], "belong together"),
        (["--webhook-url", "https://example.com"], "belong together"),
        (["--webhook-url", "https://example.com", "--listen", "a port"], "it is a port"),
        (["--webhook-url", "https://example.com", "--listen", "99999"], "it is a port"),
        (["--webhook-url", "http://example.com", "--listen", "8000"], "must be an https:// URL"),
        (["--webhook-url", "https://example.com", "--listen", "8000", "--no-wait"], "leave one of them out"),
    ],
)
def test_options_that_make_no_sense_cost_nothing(kling: Run, sandbox: Sandbox, options: list[str], words: str) -> None:
    _refused(kling("generate", VIDEO, "a fox", *options), words)
    assert sandbox.counters.jobs_bought == 0


def _refused(answer: Answer, words: str) -> None:
    assert answer.code == 2, answer
    assert words in " ".join(answer.err.split())


def test_a_bulk_run_receives_webhooks(kling: Run, sandbox: Sandbox, port: int, tmp_path: Path) -> None:
    rows = [{"endpoint": PHOTO, "prompt": f"row {n}", "resolution": "1k"} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    url = f"http://127.0.0.1:{port}"
    answer = kling("bulk", "rows.jsonl", "-o", "out", "--webhook-url", url, "--listen", str(port))
    assert answer.code == 0, answer
    assert sandbox.counters.webhooks["runblob"] == 4
    assert [delivery.status for delivery in sandbox.deliveries] == [200] * 4

"""Ctrl-C: what the program says then is the case for the user's money."""

from __future__ import annotations

import json
import math
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from kling_async import Budget, Client, Limits, MemoryLedger, RunBlob, runblob
from kling_async._cli.interrupts import submit_or_note
from kling_async._cli.output.reports import Report, resume_command
from kling_async._cli.output.text import TextRenderer
from kling_async.sandbox import Sandbox
from support.cli_process import PATIENCE, VIDEO, Answer, Run, finish, launch
from support.fake_runblob import KEY, FakeRunBlob

NOTHING = "interrupted; nothing was bought"


class DeadEnd:
    """An address at which something listens, and nothing answers: every TLS handshake fails."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self._held: list[socket.socket] = []
        self.variables = {
            "RUNBLOB_API_KEY": "a-key",
            "RUNBLOB_BASE_URL": f"https://127.0.0.1:{self._listener.getsockname()[1]}",
        }

    def hang_up(self, times: int) -> None:
        """Accept so many connections and close them at once."""
        for _ in range(times):
            connection, _ = self._listener.accept()
            connection.close()

    def hold(self) -> None:
        """Accept one connection, and keep it open without a word."""
        connection, _ = self._listener.accept()
        self._held.append(connection)

    def refuse(self) -> None:
        """Answer one paid call that there is no room now."""
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as call:
            assert call.readline().startswith(b"POST ")
            [length] = [
                int(line.split()[1]) for line in iter(call.readline, b"\r\n") if b"content-length" in line.lower()
            ]
            call.read(length)
            connection.sendall(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def close(self) -> None:
        for each in (self._listener, *self._held):
            each.close()


@pytest.fixture
def dead_end() -> Iterator[DeadEnd]:
    place = DeadEnd()
    yield place
    place.close()


def interrupted(dead_end: DeadEnd, folder: Path, *arguments: str) -> Answer:
    """What the program says when SIGINT comes while the provider is tried for the third time."""
    process = launch(*arguments, cwd=folder, variables=dead_end.variables)
    try:
        dead_end.hang_up(2)
    finally:
        process.send_signal(signal.SIGINT)
    answer = finish(process)
    assert answer.code == 130, answer
    return answer


def test_nothing_is_bought_from_a_provider_that_cannot_be_reached(dead_end: DeadEnd, tmp_path: Path) -> None:
    assert NOTHING in interrupted(dead_end, tmp_path, "generate", VIDEO, "x").err.splitlines()
    [reported] = interrupted(dead_end, tmp_path, "generate", VIDEO, "x", "--json").objects
    assert reported == {"type": "interrupted", "message": NOTHING, "exit_code": 130}


def test_the_ledger_says_the_same(dead_end: DeadEnd, kling: Run, tmp_path: Path) -> None:
    kept = ("--ledger", "kling.db")
    assert NOTHING in interrupted(dead_end, tmp_path, "generate", VIDEO, "x", *kept, "--key", "a").err.splitlines()
    [job] = kling("jobs", *kept, "--json").objects
    assert (job["key"], job["state"]) == ("a", "not-submitted")


@pytest.mark.parametrize("kept", [True, False])
def test_a_bulk_run_says_that_it_bought_nothing(dead_end: DeadEnd, tmp_path: Path, kept: bool) -> None:
    """Once, its submissions are given up as they fail. A second time, at once."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "x", "endpoint": VIDEO}))
    arguments = ["bulk", "rows.jsonl", "-o", "out", *([] if kept else ["--no-ledger"])]
    process = launch(*arguments, cwd=tmp_path, variables=dead_end.variables)
    assert process.stderr is not None
    try:
        dead_end.hang_up(2)
        dead_end.hold()  # else the first signal could find it between two tries, and end it
        process.send_signal(signal.SIGINT)
        while "stopping" not in (line := process.stderr.readline()):
            assert line, "the program ended before it was stopped"
    finally:
        process.send_signal(signal.SIGINT)
    answer = finish(process)
    assert answer.code == 130, answer
    said = answer.err.splitlines()[-1]
    if kept:
        assert said == f"{NOTHING}. The same command goes on, and buys nothing twice"
    else:
        assert said.startswith("interrupted; of 1 submission the outcome is not known. No ledger has them")


def test_a_refusal_that_is_waited_for_has_bought_nothing(dead_end: DeadEnd, tmp_path: Path) -> None:
    variables = {
        **dead_end.variables,
        "RUNBLOB_BASE_URL": dead_end.variables["RUNBLOB_BASE_URL"].replace("https", "http"),
    }
    process = launch("generate", VIDEO, "x", cwd=tmp_path, variables=variables)
    try:
        dead_end.refuse()
        dead_end.refuse()
    finally:
        process.send_signal(signal.SIGINT)
    answer = finish(process)
    assert answer.code == 130, answer
    assert NOTHING in answer.err.splitlines()


def test_a_wait_for_the_answer_to_a_paid_call_is_explained(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add("delay:submit:seconds=1.5")
    paid = threading.Event()
    sandbox.state.subscribe(lambda _: paid.set())
    process = launch("generate", VIDEO, "x", "--no-ledger", cwd=tmp_path)
    assert paid.wait(PATIENCE)
    process.send_signal(signal.SIGINT)
    answer = finish(process)
    [job] = sandbox.state.jobs.values()
    assert answer.code == 130, answer
    assert answer.err.splitlines() == [
        "waiting a few seconds for the provider's answer, to know what was bought",
        "interrupted",
        f"job {VIDEO}/{job.id} goes on at its provider; see how it ends with:",
        f"  kling watch {VIDEO}/{job.id}",
    ]


class Case:
    """A purchase whose answer takes ten seconds of virtual time, and which is interrupted after one."""

    def __init__(self, *, kept: bool, grace: float) -> None:
        self.server = FakeRunBlob(latency=10.0)
        self.client = Client(
            RunBlob(KEY),
            http=self.server,
            limits=Limits(cancel_grace=grace),
            ledger=MemoryLedger() if kept else None,
            budget=None if kept else Budget(usd=math.inf, credits=math.inf),
        )
        self.report = Report(TextRenderer(), lambda ref: resume_command(ref, None))

    async def interrupt(self, after: float = 1.0) -> str:
        """What is said then."""
        with anyio.move_on_after(after):
            submission = self.client.submit(runblob.O3Video("x"), key="row 1")
            await submit_or_note(submission, self.client, "row 1", self.report)
        await self.client.aclose()
        return "\n".join([self.report.farewell(), *self.report.hints()])


@pytest.mark.anyio
@pytest.mark.virtual_time
@pytest.mark.parametrize("kept", [True, False])
class TestAPurchaseThatIsInterrupted:
    async def test_before_it_is_sent_it_has_bought_nothing(self, kept: bool) -> None:
        case = Case(kept=kept, grace=5.0)
        assert await case.interrupt(after=0.0) == NOTHING
        assert case.server.bought == 0

    async def test_while_its_answer_is_awaited_its_job_is_named(self, kept: bool) -> None:
        case = Case(kept=kept, grace=20.0)
        said = await case.interrupt()
        [identity] = case.server.generations
        assert said.splitlines()[0] == "interrupted"
        assert f"kling watch {VIDEO}/{identity}" in said

    async def test_when_its_answer_does_not_come_it_may_have_bought_a_job(self, kept: bool) -> None:
        said = await Case(kept=kept, grace=5.0).interrupt()
        assert said.startswith("interrupted; a job may have been bought")
        assert ("kling resolve 'row 1' --resubmit" if kept else "kling watch REF") in said
        assert "nothing was bought" not in said

"""The error of a submission with an unknown outcome tells what came, if something came."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest

from kling_async import Client, RunBlob, SqliteLedger, SubmissionUnknown, runblob

pytestmark = pytest.mark.anyio


def client_that_gets(answer: httpx.Response | None) -> Client:
    def answered(request: httpx.Request) -> httpx.Response:
        if answer is None:
            raise httpx.ReadError("reset", request=request)
        return answer

    return Client(RunBlob("key"), http=httpx.MockTransport(answered))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (httpx.Response(500, json={"x": 1}), 'the answer was HTTP 500, application/json: {"x":1}'),
        (httpx.Response(502, content=b""), "the answer was HTTP 502, no content type, empty"),
        (httpx.Response(200, html="<b>hi"), "the answer is not JSON: 5 bytes of text/html; the answer was HTTP 200, "),
    ],
)
async def test_an_answer_that_came_is_not_called_lost(
    answer: httpx.Response, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with client_that_gets(answer) as client:
        with pytest.raises(SubmissionUnknown) as caught:
            await client.submit(runblob.O3Photo("a boat"), key="row-1")
    assert f"does not tell whether a job was bought ({told}" in str(caught.value)
    assert "lost" not in str(caught.value)
    assert "b'" not in caplog.text


async def test_an_answer_that_never_came_is_called_lost() -> None:
    async with client_that_gets(None) as client:
        with pytest.raises(SubmissionUnknown) as caught:
            await client.submit(runblob.O3Photo("a boat"), key="row-1")
    assert " was lost (" in str(caught.value)


async def test_what_came_is_kept_in_the_error_and_in_the_ledger_without_the_key(tmp_path: Path) -> None:
    ledger = tmp_path / "l.db"
    body = "the-key-of-mine " + "x" * 1000
    answer = httpx.Response(
        500, text=body, headers={"server": "edge", "set-cookie": "a=b", "x-echo": "the-key-of-mine"}
    )
    client = Client(RunBlob("the-key-of-mine"), http=httpx.MockTransport(lambda _: answer), ledger=SqliteLedger(ledger))
    async with client:
        with pytest.raises(SubmissionUnknown) as caught:
            await client.submit(runblob.O3Photo("a boat"), key="row-1")
        [kept] = await client.unresolved()
    found = caught.value.answer
    assert found is not None
    assert found == kept.answer
    assert (found.status, found.headers["server"], found.headers["x-echo"]) == (500, "edge", "[the key]")
    assert "set-cookie" not in found.headers
    assert found.body.startswith("[the key] xxx")
    assert 290 < len(found.body) < 310

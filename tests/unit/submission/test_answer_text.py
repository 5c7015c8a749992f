"""What a submit answer may look like, and what the error tells of one that cannot be used."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest

from kling_async import Client, InferenceSh, RunBlob, SqliteLedger, SubmissionUnknown, inferencesh, runblob

pytestmark = pytest.mark.anyio


def client_that_gets(answer: httpx.Response | None) -> Client:
    def answered(request: httpx.Request) -> httpx.Response:
        if answer is None:
            raise httpx.ReadError("reset", request=request)
        return answer

    return Client(RunBlob("key"), http=httpx.MockTransport(answered))


@pytest.mark.parametrize(
    ("answer", "reported"),
    [
        (httpx.Response(500, json={"x": 1}), 'the answer was HTTP 500, application/json: {"x":1}'),
        (httpx.Response(502, content=b""), "the answer was HTTP 502, no content type, empty"),
        (httpx.Response(200, html="<b>hi"), "the answer is not JSON: 5 bytes of text/html; the answer was HTTP 200, "),
    ],
)
async def test_an_answer_that_came_is_not_called_lost(
    answer: httpx.Response, reported: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with client_that_gets(answer) as client:
        with pytest.raises(SubmissionUnknown) as caught:
            await client.submit(runblob.O3Photo("a boat"), key="row-1")
    assert f"does not tell whether a job was bought ({reported}" in str(caught.value)
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


@pytest.mark.parametrize("given", [12345, "task+9", "gen|7", "YWJj==", "x" * 300])
async def test_an_unusual_id_is_taken(given: object) -> None:
    async with client_that_gets(httpx.Response(201, json={"generation_id": given, "status": "pending"})) as client:
        job = await client.submit(runblob.O3Photo("a boat"))
    assert job.ref.id == str(given)


async def test_an_id_that_cannot_be_used_is_in_the_message() -> None:
    async with client_that_gets(httpx.Response(201, json={"generation_id": "a/b", "status": "pending"})) as client:
        with pytest.raises(SubmissionUnknown, match="its job id cannot be used: 'a/b'"):
            await client.submit(runblob.O3Photo("a boat"))


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"\xef\xbb\xbf%s", {}),  # a byte order mark
        (b"%s", {"content-type": "APPLICATION/JSON; Charset=UTF-8"}),
        (b"%s  \r\n", {"content-type": "text/plain"}),
    ],
)
async def test_an_answer_is_read_whatever_its_form(body: bytes, headers: dict[str, str]) -> None:
    reported = rb'{"generation_id": "1", "status": "pending", "note": "\ud83d", "much": NaN, "more": 1e999}'
    async with client_that_gets(httpx.Response(201, content=body % reported, headers=headers)) as client:
        job = await client.submit(runblob.O3Photo("a boat"))
    assert job.ref.id == "1"


async def test_an_id_outweighs_the_word_that_nothing_succeeded() -> None:
    answer = httpx.Response(200, json={"success": False, "data": {"id": "abc123"}})
    client = Client(InferenceSh("key"), http=httpx.MockTransport(lambda _: answer))
    async with client:
        job = await client.submit(inferencesh.ImageO1("a boat"))
    assert job.ref.id == "abc123"


@pytest.mark.parametrize("prompt", ["data: rain of numbers", "data:image/png;base64,AAAA"])
async def test_a_prompt_that_looks_like_a_data_uri_is_text(prompt: str, tmp_path: Path) -> None:
    answer = httpx.Response(201, json={"generation_id": "1", "status": "pending"})
    client = Client(RunBlob("key"), http=httpx.MockTransport(lambda _: answer), ledger=SqliteLedger(tmp_path / "l.db"))
    async with client:
        job = await client.submit(runblob.O3Photo(prompt), key="row-1")
    assert job.request is not None
    assert prompt in repr(job.request)
    assert job.request.describe()["prompt"] == prompt

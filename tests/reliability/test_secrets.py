"""No key and no token in anything that is shown or stored, whatever a provider repeats, wherever it repeats it."""

from __future__ import annotations

import copy
import json
import logging
import math
import traceback
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from kling_async import (
    Client,
    Delivery,
    KlingError,
    Polling,
    Progressive,
    RunBlob,
    SqliteLedger,
    WebhookRejected,
    Webhooks,
    runblob,
)
from kling_async._exchange.calls import Flow
from kling_async._exchange.redaction import redact_json, redact_tokens, redact_urls
from kling_async.providers._base.provider import Accepted, Provider, WebhookItem
from kling_async.providers.base import StatusReport
from kling_async.starlette import messages
from support.fake_runblob import KEY as RUNBLOB_KEY
from support.fake_runblob import FakeRunBlob
from support.samples import DISTINCT, KEY, PURCHASE, Sample, drive

ADDRESS = Webhooks("https://app.test/kling", "s3cret-and-no-other-text").callback_url("runblob", PURCHASE)
TOKEN = ADDRESS.rpartition("/")[2]
ECHOES = {
    "plain": ADDRESS,
    "in a sentence": f"could not call ({ADDRESS}), gave up",
    "in JSON": json.dumps({"callback": ADDRESS}).replace("/", "\\/"),
    "in JSON in JSON": json.dumps(json.dumps({"callback": ADDRESS}).replace("/", "\\/")),
    "in JSON, as code points": ADDRESS.replace("/", "\\u002f"),
    "in a query": f"https://relay.test/?to={urllib.parse.quote(ADDRESS, safe='')}",
    "in a query in a query": urllib.parse.quote(urllib.parse.quote(ADDRESS, safe=""), safe=""),
    "without the host": f"POST /kling/runblob/{PURCHASE}/{TOKEN} -> 404",
    "in capitals": f"{ADDRESS[: -len(TOKEN)].upper()}{TOKEN}",
    "the token alone": f"no such hook: {TOKEN}.",
    "the key": f"the key {KEY} is not good",
}

every_echo = pytest.mark.parametrize("echo", ECHOES.values(), ids=list(ECHOES))


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the texts of a JSON value are."""
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*place, name))


def poisoned(value: Any, place: Sequence[Any], text: str) -> Any:
    """The same JSON with another text at a place."""
    if not place:
        return text
    changed = copy.copy(value)
    changed[place[0]] = poisoned(value[place[0]], place[1:], text)
    return changed


def variants(sample: Sample, echo: str) -> Iterator[Sample]:
    """The sample with one text of its replies, its body or its lines replaced, each in turn."""
    bodies = [("exchanges", index, "reply", "json") for index in range(len(sample.exchanges))]
    parts: list[tuple[Any, ...]] = [
        (*place,) for place in bodies if "json" in sample.data["exchanges"][place[1]]["reply"]
    ]
    parts += [("body",)] if "body" in sample.data else []
    for part in parts:
        value = sample.data
        for name in part:
            value = value[name]
        for place in leaves(value):
            yield replace(sample, data=poisoned(sample.data, (*part, *place), echo))
    for index, line in enumerate(sample.data.get("lines", ())):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        for place in leaves(said):
            yield replace(sample, data=poisoned(sample.data, ("lines", index), json.dumps(poisoned(said, place, echo))))


def outcomes(sample: Sample, provider: Provider, begin: Callable[[], Flow[Any]] | None) -> list[Any]:
    """The readings and errors that come of a sample, or of a variant of it."""
    try:
        if sample.kind == "webhook":
            return list(provider.parse_webhook(sample.payload, sample.data.get("headers", {})))
        if sample.kind == "stream":
            stream = provider.stream(sample.refs[0])
            assert stream is not None
            return [stream.read(line) for line in sample.data["lines"]]
    except KlingError as error:
        return [error]
    assert begin is not None
    value, _ = drive(begin(), sample.replies)
    return list(value.values()) if isinstance(value, dict) else [value]


def words(value: Any) -> str:
    """All that may be shown or stored of it. The addresses of files are what they are."""
    if isinstance(value, WebhookItem | Accepted):
        return words(value.report)
    if isinstance(value, KlingError):
        return f"{value} {value!r} {vars(value)}"
    if isinstance(value, StatusReport):
        ended = value.status is not None and value.status.terminal
        bare = replace(value, artifacts=(), raw=None)
        return f"{bare!r} {json.dumps(value.raw, default=str) if ended else ''}"
    return ""


@pytest.mark.parametrize("sample", DISTINCT, ids=lambda sample: sample.name)
def test_no_field_of_any_answer_brings_a_secret_to_light(sample: Sample) -> None:
    """Every text of every recorded answer, in turn, is what must not be seen."""
    provider = sample.provider()
    begin = sample.flows(provider) if sample.exchanges else None
    shown = (
        (echo, words(made))
        for echo in ECHOES.values()
        for variant in variants(sample, echo)
        for made in outcomes(variant, provider, begin)
    )
    leaks = [(echo, text) for echo, text in shown if TOKEN in text or KEY in text]
    assert leaks == []


@every_echo
def test_no_text_keeps_a_token(echo: str) -> None:
    for shown in (redact_tokens(echo), redact_urls(echo), json.dumps(redact_json({"said": [echo]}, KEY))):
        assert TOKEN not in shown


@pytest.mark.parametrize(
    "text",
    [
        "https://cdn.test/550e8400-e29b-41d4-a716-446655440000/image.png",
        "https://cdn.test/550e8400-e29b-41d4-a716-446655440000/550e8400-e29b-41d4-a716-446655440000.mp4",
        f"https://cdn.test/{'0f' * 32}.png",
        f"https://cdn.test/files/{TOKEN}.png",
        "550e8400-e29b-41d4-a716-446655440000",
        "a paper boat in the rain",
    ],
)
def test_what_is_no_token_is_kept(text: str) -> None:
    assert redact_json({"said": text}, KEY) == {"said": text}


class Indiscreet(FakeRunBlob):
    """Repeats the callback address and the key, in the words of `echo`, wherever RunBlob has words."""

    def __init__(self, echo: str) -> None:
        super().__init__(duration=0.0, latency=0.0)
        self.echo = echo
        self.seen: list[str] = []

    def words(self, address: str) -> str:
        return self.echo.replace(TOKEN, address.rpartition("/")[2]).replace(KEY, RUNBLOB_KEY)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            body = json.loads(await request.aread())
            self.seen.append(body["callback_url"])
            if body["prompt"] == "refused":
                return httpx.Response(422, json={"detail": self.words(body["callback_url"])})
            if body["prompt"] == "garbled":
                return httpx.Response(200, text=f"<html>{self.words(body['callback_url'])}</html>")
            return self.accept("o3-photo", body)
        job = self.generations[request.url.path.rpartition("/")[2]]
        job.polls.append(0.0)
        said = self.words(str(job.body["callback_url"]))
        answer = {"generation_id": request.url.path.rpartition("/")[2], "echo": said}
        if len(job.polls) == 1:
            return httpx.Response(200, json={**answer, "status": said})  # a status that nobody knows
        if job.body["prompt"] == "failed":
            return httpx.Response(200, json={**answer, "status": "failed", "message": said})
        return httpx.Response(200, json={**answer, "status": "completed", "image_url": "https://cdn.test/1.png"})


@every_echo
@pytest.mark.anyio
async def test_nothing_that_a_program_writes_has_a_secret(
    echo: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its log, the file of its ledger, its errors, the reprs of what it holds, and what it sends to browsers."""
    caplog.set_level(logging.DEBUG)
    server = Indiscreet(echo)
    shown: list[str] = []
    raised: list[str] = []
    quick = Polling(schedule=Progressive(0.001), status_calls_per_minute=math.inf)
    client = Client(
        RunBlob(RUNBLOB_KEY),
        http=server,
        polling=quick,
        ledger=SqliteLedger(tmp_path / "jobs.db"),
        webhooks=Webhooks("https://app.test/kling", "s3cret-and-no-other-text", backstop=0.001, confirm=False),
    )
    async with client:
        for prompt in ("refused", "garbled", "failed", "completed"):
            request = runblob.O3Photo(prompt)
            try:
                job = await client.submit(request, key=prompt)
                shown += [json.dumps([message.data async for message in messages(job)]), repr(job), repr(job.events)]
                shown += [json.dumps(job.events[-1].raw), repr(await job)]
            except KlingError as error:
                raised.append(type(error).__name__)
                shown += [str(error), repr(error), str(vars(error)), "".join(traceback.format_exception(error))]
        _, attempt_id, token = server.seen[1].rsplit("/", 2)
        late = Delivery("runblob", attempt_id, token, json.dumps({"status": server.seen[1]}).encode())
        with pytest.raises(WebhookRejected) as rejected:
            await client.deliver(late)
        shown += [str(rejected.value), repr(late), repr(await client.unresolved()), repr(client.statistics())]
    assert raised == ["InvalidRequest", "SubmissionUnknown", "GenerationFailed"]
    assert "not understood" in caplog.text
    assert "cannot be read" in caplog.text
    shown += [caplog.text, (tmp_path / "jobs.db").read_bytes().decode("utf-8", "replace")]
    secrets = {RUNBLOB_KEY, *(address.rpartition("/")[2] for address in server.seen)}
    assert len(secrets) == 5
    assert [secret for secret in secrets for text in shown if secret in text] == []


def test_a_request_shows_of_its_own_callback_address_the_host() -> None:
    """Whoever made the address may have put a token into it, in whatever form."""
    request = runblob.O3Photo("a boat", callback_url="https://user:word@app.test/t0ken?signature=t0ken")
    for shown in (repr(request), str(request), json.dumps(request.describe())):
        assert "t0ken" not in shown
        assert "word" not in shown
        assert "https://app.test/[not kept]" in shown
    assert request.describe(inline=True)["callback_url"] == request.callback_url


def test_a_key_of_which_a_part_looks_like_a_token_is_left_out_whole() -> None:
    """The signature of a JSON web token is as long as a token of ours."""
    key = f"{'A' * 43}.{'secret' * 4}.{'B' * 43}"
    assert RunBlob(key).errors.redact(f"bad key {key}") == "bad key [the key]"


def test_what_is_no_address_of_ours_stays_in_an_answer() -> None:
    """A digest, the name of a file, and a result's address are as long as a token now and then."""
    answer = {
        "sha256": "LXEWQrcmsEQBYnyp-6wy9chTD7GQPMTbAiWHF5IaSIE",
        "name": "a-very-long-but-entirely-ordinary-file-name.png",
        "url": f"https://cdn.test/{PURCHASE}/{TOKEN}.mp4?expires=1",
    }
    assert redact_json(answer, KEY) == answer
    assert redact_json({"url": ADDRESS}, KEY) == {"url": "[a callback address]"}

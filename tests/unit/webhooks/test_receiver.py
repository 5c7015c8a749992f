"""What a delivery does to a client: in virtual time, on asyncio and trio, without sockets."""

from __future__ import annotations

import itertools
import json
import logging
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kling_async import (
    Client,
    ConfigurationError,
    Delivery,
    Event,
    Failure,
    GenerationTimeout,
    Job,
    JobRef,
    LedgerFailed,
    MemoryLedger,
    Outcome,
    Polling,
    Progressive,
    RunBlob,
    Status,
    Submission,
    SubmissionUnknown,
    WebhookRejected,
    Webhooks,
)
from kling_async._submission.early_deliveries import EarlyDeliveries, LostSubmission
from kling_async._tracking.transitions import STATUS_ORDER
from kling_async.providers._base.provider import WebhookItem
from kling_async.providers.base import StatusReport
from kling_async.providers.runblob import O3Photo, O3Video
from kling_async.webhooks import MAX_BODY
from support import virtual_time
from support.fake_runblob import KEY, FakeRunBlob

SECRET = "an old and very secret secret"
NEWER = "a newer and even more secret one"
URL = "https://example.com/kling"
VIDEO = O3Video("a paper boat in the rain")

virtual = pytest.mark.virtual_time
on_both = pytest.mark.anyio


@dataclass
class Setting:
    """Which client a test wants."""

    confirm: bool = True
    ledger: MemoryLedger | None = None


@pytest.fixture
def setting() -> Setting:
    return Setting()


@pytest.fixture
async def client(server: FakeRunBlob, setting: Setting) -> AsyncIterator[Client]:
    made = make_client(server, setting.confirm, ledger=setting.ledger)
    yield made
    await made.aclose()


def make_client(server: FakeRunBlob, confirm: bool, **more: Any) -> Client:
    webhooks = Webhooks(URL, SECRET, confirm=confirm)
    return Client(RunBlob(KEY), http=server, webhooks=webhooks, polling=Polling(Progressive(5, 5, 10, 15)), **more)


def delivery(url: object, body: object) -> Delivery:
    """A delivery to the address that a submission named."""
    assert isinstance(url, str)
    provider, key, token = url.removeprefix(f"{URL}/").split("/")
    return Delivery(provider, key, token, body if isinstance(body, bytes) else json.dumps(body).encode())


def completed(server: FakeRunBlob, number: int = -1, **more: Any) -> Delivery:
    """What RunBlob sends at the end of its so-maniest job."""
    identity, generation = list(server.generations.items())[number]
    said = {"generation_id": identity, "status": "completed", "video_url": f"https://cdn.runblob.test/{identity}"}
    return delivery(generation.body["callback_url"], said | more)


def polls(server: FakeRunBlob) -> list[float]:
    """The seconds after submission at which jobs were polled."""
    return [round(at) for generation in server.generations.values() for at in generation.polls]


# The address.


def test_a_token_is_good_for_its_address_alone() -> None:
    webhooks = Webhooks(URL, SECRET)
    known = delivery(webhooks.callback_url("runblob", "row"), b"")
    assert webhooks.accepts(known)
    assert not webhooks.accepts(replace(known, attempt_id="row2"))
    assert not webhooks.accepts(replace(known, provider="runware"))
    for token in ("", known.token[:-1], known.token + "A", known.token.swapcase(), "\udcff", "é" * 43):
        assert not webhooks.accepts(replace(known, token=token))


def test_a_secret_is_replaced_without_losing_what_is_on_its_way() -> None:
    old, both, new = (Webhooks(URL, secret) for secret in (SECRET, [NEWER, SECRET], NEWER))
    before, after = (delivery(webhooks.callback_url("runblob", "row"), b"") for webhooks in (old, both))
    assert (old.accepts(before), both.accepts(before), new.accepts(before)) == (True, True, False)
    assert (old.accepts(after), both.accepts(after), new.accepts(after)) == (False, True, True)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/kling",
        "example.com",
        "https://example.com/?a=b",
        "https://example.com/#a",
        "https://u:p@a.b/",
    ],
)
def test_an_address_that_providers_cannot_call_safely_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="https://"):
        Webhooks(url, SECRET)


@pytest.mark.parametrize("secret", ["", "short", [], [SECRET, "short"]])
def test_a_secret_that_can_be_guessed_is_refused(secret: str | list[str]) -> None:
    with pytest.raises(ConfigurationError, match="at least 16 characters") as refused:
        Webhooks(URL, secret)
    assert SECRET not in str(refused.value)


def test_a_backstop_that_is_no_time_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="greater than 0"):
        Webhooks(URL, SECRET, backstop=0)


def test_nothing_shows_a_secret_or_a_token() -> None:
    webhooks = Webhooks(URL + "/", [NEWER, SECRET])
    known = delivery(webhooks.callback_url("runblob", "row"), b"the body")
    shown = f"{webhooks!r} {webhooks} {known!r} {known}"
    assert webhooks.url == URL
    assert all(word not in shown for word in (SECRET, NEWER, known.token, "the body"))


# What it counts for.


@on_both
@virtual
async def test_a_delivery_leads_to_one_poll_and_the_answer_counts(client: Client, server: FakeRunBlob) -> None:
    server.duration = 100
    job = await client.submit(VIDEO)
    async with anyio.create_task_group() as group:
        group.start_soon(job.wait)
        await anyio.sleep(100)
        # It says "failed", and the provider says "completed".
        assert await client.deliver(completed(server, status="failed", message="TIMEOUT"))
    assert polls(server) == [100]
    assert job.status is Status.COMPLETED
    assert [event.source for event in job.events] == ["submit", "poll"]


@on_both
@virtual
@pytest.mark.parametrize("setting", [Setting(confirm=False)], ids=["believe"])
async def test_a_delivery_that_is_believed_ends_the_job_without_a_call(client: Client, server: FakeRunBlob) -> None:
    job = await client.submit(VIDEO)
    calls = server.requests.total()
    assert await client.deliver(completed(server))
    assert (await job).urls == [f"https://cdn.runblob.test/{job.ref.id}"]
    assert server.requests.total() == calls


@on_both
@virtual
async def test_delivering_makes_no_call_and_the_next_who_waits_polls_at_once(
    client: Client, server: FakeRunBlob
) -> None:
    job = await client.submit(VIDEO)
    await anyio.sleep(70)
    assert await client.deliver(completed(server))
    assert polls(server) == []
    await anyio.sleep(7)
    await job
    assert polls(server) == [77]


@on_both
@virtual
async def test_a_premature_delivery_is_not_the_last_word(client: Client, server: FakeRunBlob) -> None:
    """The poll says "not yet": from then on the job is polled as if there were no webhooks."""
    job = await client.submit(VIDEO)
    async with anyio.create_task_group() as group:
        group.start_soon(job.wait)
        await anyio.sleep(40)
        await client.deliver(completed(server))
    assert polls(server) == [40, 55, 70]
    assert job.status is Status.COMPLETED


@on_both
@virtual
async def test_a_delivery_during_a_poll_leads_to_another_only_if_that_one_says_not_yet(
    client: Client, server: FakeRunBlob
) -> None:
    server.latency = 2
    job = await client.submit(VIDEO)
    await anyio.sleep(61)
    async with anyio.create_task_group() as group:
        group.start_soon(job.refresh)
        await anyio.sleep(1)
        await client.deliver(completed(server))
    await job
    assert len(polls(server)) == 1


@on_both
@virtual
async def test_repetitions_are_acknowledged_and_cost_nothing(client: Client, server: FakeRunBlob) -> None:
    job = await client.submit(VIDEO)
    await anyio.sleep(70)
    for _ in range(3):
        assert await client.deliver(completed(server))
    await job
    for _ in range(3):
        assert await client.deliver(completed(server))
    assert len(polls(server)) == 1
    assert [event.seq for event in job.events] == [0, 1]


# What is refused.


@on_both
@virtual
@pytest.mark.parametrize("setting", [Setting(confirm=False)], ids=["believe"])
async def test_what_is_not_authentic_or_not_readable_is_refused(client: Client, server: FakeRunBlob) -> None:
    job = await client.submit(VIDEO)
    await client.submit(VIDEO)
    real, other = completed(server, 0), completed(server, 1)
    forged = {
        "URL was not made by this client": [
            replace(real, token=other.token),
            replace(real, attempt_id=other.attempt_id),
            replace(real, provider="runware"),
        ],
        "another job": [replace(real, body=other.body)],
        "more than": [replace(real, body=real.body + b" " * MAX_BODY)],
        "not JSON": [replace(real, body=real.body[:-9]), replace(real, body=b"\xff"), replace(real, body=b"")],
        "cannot be used": [replace(real, body=b"[]"), replace(real, body=b'{"status":"completed"}')],
    }
    for reason, deliveries in forged.items():
        for each in deliveries:
            with pytest.raises(WebhookRejected, match=reason) as rejected:
                await client.deliver(each)
            assert real.token not in str(rejected.value)
            assert other.token not in str(rejected.value)
    assert len(job.events) == 1
    assert polls(server) == []


@on_both
@virtual
async def test_an_authentic_delivery_for_nothing_that_is_known_is_acknowledged(
    client: Client, server: FakeRunBlob
) -> None:
    """Of another process, or of a job that ended long ago."""
    url = Webhooks(URL, SECRET).callback_url("runblob", "00000000-0000-4000-8000-000000000000")
    assert not await client.deliver(
        delivery(url, {"generation_id": "x", "status": "completed", "video_url": "https://a"})
    )
    assert client.statistics().running == 0
    assert server.requests.total() == 0


@on_both
async def test_a_client_without_webhooks_says_so(server: FakeRunBlob) -> None:
    async with Client(RunBlob(KEY), http=server) as client:
        with pytest.raises(ConfigurationError, match="expects no webhooks"):
            await client.deliver(delivery(Webhooks(URL, SECRET).callback_url("runblob", "row"), b"{}"))


# Early, and instead of the answer.


async def _lose(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("the connection broke")


def accept_then_lose(server: FakeRunBlob) -> None:
    """Let the server take the next submission, and its answer be lost."""

    async def intercept(request: httpx.Request) -> httpx.Response | None:
        if request.url.path.endswith("/generate"):
            server.accept("o3-video", json.loads(await request.aread()))
            return await _lose(request)
        return None

    server.intercept = intercept


@on_both
@virtual
async def test_deliveries_that_name_several_jobs_do_not_tell_which_was_bought(server: FakeRunBlob) -> None:
    client = make_client(server, confirm=True)

    async def intercept(request: httpx.Request) -> httpx.Response | None:
        server.accept("o3-video", json.loads(await request.aread()))
        server.intercept = None
        assert await client.deliver(completed(server))
        assert await client.deliver(completed(server, generation_id="another"))
        return await _lose(request)

    server.intercept = intercept
    with pytest.raises(SubmissionUnknown):
        await client.submit(VIDEO)
    assert client.statistics().running == 0
    await client.aclose()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"status": "failed"}, Failure("CONTENT_POLICY_VIOLATION", retryable=False)),
        ({"status": "failed", "message": "TIMEOUT"}, Failure("TIMEOUT", retryable=True)),
        ({"status": "failed", "message": "the model has crashed"}, Failure("unknown", "the model has crashed")),
        ({"status": "completed", "image_url": "https://cdn.test/1.png"}, None),
    ],
    ids=["silent", "another reason", "in words", "not failed at all"],
)
@on_both
@virtual
async def test_the_reason_that_a_delivery_tells_counts_where_the_poll_confirms_the_failure_and_tells_none(
    server: FakeRunBlob, said: dict[str, str], reason: Failure | None
) -> None:
    ledger = MemoryLedger()
    client = make_client(server, confirm=True, ledger=ledger)
    job = await client.submit(O3Photo("a boat"))

    async def answer(request: httpx.Request) -> httpx.Response:
        assert request.method == "GET"
        return httpx.Response(200, json={"generation_id": job.ref.id, **said})

    server.intercept = answer
    [bought] = server.generations.values()
    reported = {"generation_id": job.ref.id, "status": "failed", "message": "CONTENT_POLICY_VIOLATION"}
    assert await client.deliver(delivery(bought.body["callback_url"], reported))
    assert job.status is Status.PENDING
    assert not job.events[-1].failures, "nothing of it counts yet"
    await job.wait()
    assert [event.failures for event in job.events] == [(), (reason,) if reason else ()]
    assert await ledger.events(job.ref) == list(job.events)
    assert server.requests["poll"] == 1
    await client.aclose()


@on_both
@virtual
async def test_a_cancelled_submission_that_was_delivered_meanwhile_is_accepted(server: FakeRunBlob) -> None:
    """The grace ran out. The delivery was acknowledged, so it will not come again."""
    ledger = MemoryLedger()
    client = make_client(server, confirm=True, ledger=ledger)

    async def intercept(request: httpx.Request) -> httpx.Response | None:
        server.accept("o3-video", json.loads(await request.aread()))
        assert await client.deliver(completed(server))
        await anyio.sleep_forever()
        return None

    server.intercept = intercept
    with anyio.move_on_after(1):
        await client.submit(VIDEO, key="row")
    submission = await ledger.find(key="row")
    assert submission is not None
    assert submission.ref == JobRef("runblob", "o3-video", next(iter(server.generations)))
    await client.aclose()


@on_both
@virtual
async def test_a_foreign_job_does_not_become_that_of_a_lost_submission(server: FakeRunBlob) -> None:
    client = make_client(server, confirm=True, ledger=MemoryLedger())
    await client.submit(VIDEO, key="first")
    accept_then_lose(server)
    with pytest.raises(SubmissionUnknown):
        await client.submit(VIDEO, key="lost")
    first = next(iter(server.generations))
    for body in ({"generation_id": first}, {"generation_id": "../../etc"}, {"generation_id": None}):
        with pytest.raises(WebhookRejected):
            await client.deliver(completed(server, **body))
    assert [submission.key for submission in await client.unresolved()] == ["lost"]
    await client.aclose()


@on_both
@virtual
async def test_a_delivery_for_a_forgotten_submission_changes_nothing(server: FakeRunBlob) -> None:
    client = make_client(server, confirm=True, ledger=MemoryLedger())
    accept_then_lose(server)
    with pytest.raises(SubmissionUnknown):
        await client.submit(VIDEO, key="row")
    await client.forget("row")
    assert await client.deliver(completed(server))
    assert client.statistics().running == 0
    assert await client.unresolved() == []
    await client.aclose()


@on_both
@virtual
async def test_lost_submissions_are_remembered_for_an_hour_without_a_ledger(
    client: Client, server: FakeRunBlob
) -> None:
    accept_then_lose(server)
    for _ in range(2):
        with pytest.raises(SubmissionUnknown):
            await client.submit(VIDEO)
        await anyio.sleep(2000)
    assert await client.deliver(completed(server, 1))
    assert client.statistics().running == 1
    await anyio.sleep(2000)
    with pytest.raises(SubmissionUnknown):
        await client.submit(VIDEO)
    assert not await client.deliver(completed(server, 0))


@on_both
@virtual
@pytest.mark.parametrize("setting", [Setting(confirm=False)], ids=["believe"])
async def test_a_delivery_after_the_deadline_reaches_whoever_still_holds_the_job(
    client: Client, server: FakeRunBlob
) -> None:
    server.duration = 10_000
    job = await client.submit(VIDEO)
    with pytest.raises(GenerationTimeout):
        await job
    await client.deliver(completed(server))
    assert (await job).urls


def _submission(number: int) -> Submission:
    return Submission(f"row-{number}", VIDEO.endpoint, {}, "", f"purchase-{number}", datetime.now(UTC))


def test_no_more_lost_submissions_are_remembered_than_a_thousand() -> None:
    early = EarlyDeliveries(Webhooks(URL, SECRET))
    for number in range(1500):
        early.remember(LostSubmission(_submission(number), None, since=0.0))
    remembered = [number for number in range(1500) if early.lost(f"purchase-{number}")]
    assert remembered == list(range(500, 1500))


def test_no_more_deliveries_are_parked_than_tell_something() -> None:
    early = EarlyDeliveries(Webhooks(URL, SECRET))
    reported = [WebhookItem("x", StatusReport(Status.PENDING))] * 50
    with early.open(_submission(0)) as letters:
        for _ in range(10):
            assert early.buffer("purchase-0", reported)
        assert len(letters) == 64
    assert not early.buffer("purchase-0", reported)


# With a ledger.


class _Failing(MemoryLedger):
    """A ledger whose disk is full, while it is."""

    full = False

    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> Sequence[Event]:
        if self.full:
            raise LedgerFailed("the disk is full")
        return await super().append_events(ref, events)


@on_both
@virtual
async def test_a_delivery_that_cannot_be_written_down_is_refused_until_it_can(server: FakeRunBlob) -> None:
    ledger = _Failing()
    client = make_client(server, confirm=False, ledger=ledger)
    job = await client.submit(VIDEO)
    ledger.full = True
    with pytest.raises(LedgerFailed, match="full"):
        await client.deliver(completed(server))
    assert job.status is Status.COMPLETED, "what is known is not withheld from who waits"
    with pytest.raises(LedgerFailed, match="full"):
        await client.deliver(completed(server))
    ledger.full = False
    assert await client.deliver(completed(server))
    assert [event.status for event in await ledger.events(job.ref)] == [Status.PENDING, Status.COMPLETED]
    await client.aclose()


@on_both
@virtual
async def test_no_token_is_written_down_or_logged(server: FakeRunBlob, caplog: pytest.LogCaptureFixture) -> None:
    """Not even when the provider repeats the address in what it says."""
    caplog.set_level(logging.DEBUG)
    ledger = MemoryLedger()
    client = make_client(server, confirm=False, ledger=ledger)
    job = await client.submit(VIDEO, key="good")
    real = completed(server)
    url = str(next(iter(server.generations.values())).body["callback_url"])
    await client.deliver(completed(server, callback_url=url))

    async def refuse(request: httpx.Request) -> httpx.Response:
        address = json.loads(await request.aread())["callback_url"]
        return httpx.Response(422, json={"detail": f"callback_url {address} is not reachable"})

    server.intercept = refuse
    with pytest.raises(Exception, match="is not reachable") as refused:
        await client.submit(VIDEO, key="bad")
    bad = await ledger.find(key="bad")
    written = f"{await ledger.events(job.ref)!r} {bad!r} {bad and bad.reason} {refused.value} {caplog.text}"
    assert real.token not in written
    assert "[a callback address]" in written
    await client.aclose()


# When deliveries fail to come.


@on_both
@virtual
async def test_while_deliveries_are_expected_polls_are_few(client: Client, server: FakeRunBlob) -> None:
    """A photo ends after 70 to 210 s, says the documentation: the first poll comes when it is late, near 286 s."""
    server.duration = 10_000
    job = await client.submit(O3Photo("a boat"))
    with anyio.move_on_after(280):
        await job
    assert polls(server) == []
    with anyio.move_on_after(10):
        await job.wait()
    assert polls(server) == [286]


@on_both
@virtual
async def test_a_late_job_is_looked_at_every_minute(client: Client, server: FakeRunBlob) -> None:
    server.duration = 300
    job = await client.submit(VIDEO)
    await job
    assert polls(server) == [202, 262, 322]


@on_both
@virtual
async def test_the_backstop_can_be_chosen(server: FakeRunBlob) -> None:
    webhooks = Webhooks(URL, SECRET, backstop=25)
    async with Client(RunBlob(KEY), http=server, webhooks=webhooks, polling=Polling(schedule="documented")) as client:
        await client.run(VIDEO)
    assert polls(server) == [25, 50, 75]


@on_both
@virtual
async def test_a_bulk_run_is_resolved_by_deliveries_too(client: Client, server: FakeRunBlob) -> None:
    """There no task waits for each job: the run's own tasks poll where a delivery makes that worth while."""
    server.duration = 30
    ended: list[Outcome] = []

    async def report() -> None:
        await anyio.sleep(40)
        for number in range(10):
            await client.deliver(completed(server, number))

    async with anyio.create_task_group() as group:
        group.start_soon(report)
        async with client.map([VIDEO] * 10) as outcomes:
            ended += [outcome async for outcome in outcomes]
    assert all(outcome.result for outcome in ended)
    assert len(polls(server)) == len(ended) == 10


@on_both
@virtual
async def test_after_three_jobs_without_a_delivery_polls_are_as_without_webhooks(
    client: Client, server: FakeRunBlob
) -> None:
    """And a job that was waiting is polled then and there. The next delivery makes polls few again."""
    for _ in range(2):
        await client.run(VIDEO)
    late = [at for generation in server.generations.values() for at in generation.polls]
    assert [round(at) for at in late] == [202, 202]

    waiting: list[Job] = []
    async with anyio.create_task_group() as group:
        third = await client.submit(VIDEO)
        group.start_soon(third.wait)
        await anyio.sleep(100)
        waiting.append(await client.submit(VIDEO))
        group.start_soon(waiting[0].wait)
    generations = list(server.generations.values())
    assert [round(at) for at in generations[2].polls] == [202]
    assert [round(at) for at in generations[3].polls] == [103], "a second after the third: RunBlob's rate limit"

    await client.run(VIDEO)
    assert [round(at) for at in list(server.generations.values())[-1].polls] == [5, 10, 20, 35, 50, 65]

    assert await client.deliver(completed(server))
    await client.run(VIDEO)
    assert [round(at) for at in list(server.generations.values())[-1].polls] == [202]


# Whatever order, repetition and loss.

SAID: list[dict[str, Any]] = [{"status": "pending"}, {"status": "processing"}, {"status": "from the future"}]
END = {"status": "completed", "video_url": "https://cdn.runblob.test/the-one"}
SOURCES = ["webhook", "poll", "stream"]


@given(
    st.lists(st.tuples(st.sampled_from(SOURCES), st.sampled_from([*SAID, END])), max_size=12),
    st.sampled_from(SOURCES),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100, deadline=None)
def test_any_order_repetition_and_loss_ends_alike_with_a_monotone_log(
    said: list[tuple[str, dict[str, Any]]], last: str, chance: random.Random
) -> None:
    """What is said comes by all three ways, in any order. Some of it twice, some never, the end at least once."""
    story = [*said, *chance.sample(said, len(said) // 2), (last, END)]
    chance.shuffle(story)

    async def live() -> tuple[tuple[Event, ...], list[Event]]:
        server, ledger = FakeRunBlob(latency=0), MemoryLedger()
        async with make_client(server, confirm=False, ledger=ledger) as client:
            job = await client.submit(VIDEO)
            [identity] = server.generations
            for source, words in story:
                answer = {"generation_id": identity, **words}
                if source == "webhook":
                    url = server.generations[identity].body["callback_url"]
                    assert await client.deliver(delivery(url, answer))
                elif source == "poll":
                    server.intercept = _answer(answer)
                    await job.refresh()
                else:
                    reading = job._session.provider.parse_webhook(json.dumps(answer).encode(), {})[0].report
                    await job._tracked.apply(reading, "stream", exact=True)
            return job.events, await ledger.events(job.ref)

    name, options = virtual_time.backend(chance.choice(["asyncio", "trio"]))
    events, recorded = anyio.run(live, backend=name, backend_options=options)
    assert [event.seq for event in events] == list(range(len(events)))
    assert list(events) == recorded
    for before, after in itertools.pairwise(events):
        assert STATUS_ORDER[before.status] < STATUS_ORDER[after.status]
        assert before.at <= after.at
    assert events[-1].status is Status.COMPLETED
    assert [artifact.url for artifact in events[-1].artifacts] == [END["video_url"]]


def _answer(words: dict[str, Any]) -> Any:
    async def intercept(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=words)

    return intercept


def test_readings_are_equal_by_whichever_way_they_come() -> None:
    """What the property above rests on: a webhook's body is read as a status answer is."""
    body = json.dumps({"generation_id": "x", **END}).encode()
    [reported] = RunBlob(KEY).parse_webhook(body, {})
    assert isinstance(reported.report, StatusReport)
    assert reported.report.status is Status.COMPLETED

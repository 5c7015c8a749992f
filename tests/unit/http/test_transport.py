"""The transport's decisions about one call, its throttle and its quota. In virtual time, on asyncio and trio."""

from __future__ import annotations

import gzip
import json
import logging
import re
import ssl
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import httpx
import pytest
import stamina

import kling_async
from kling_async import (
    Client,
    ConfigurationError,
    InsufficientCredits,
    KlingError,
    Limits,
    MemoryLedger,
    ProviderUnavailable,
    RateLimited,
    RunBlob,
    TransportFailed,
    runblob,
)
from kling_async._errors import AnswerLost
from kling_async._event_loop.clock import Clock
from kling_async._http.paid_call import PaidCallTrace
from kling_async._http.transport import ProviderTransport
from kling_async.providers.base import Call, Effect, Reply, UnreadableReply
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

OWN = {"detail": "MAINTENANCE"}
FINE = {"status": "pending"}


class Line(httpx.AsyncBaseTransport):
    """What lies under a transport: answers with `answers` in turn, the last one for ever. An exception is raised."""

    def __init__(self, *answers: httpx.Response | Exception | Callable[[], Exception], latency: float = 0.0) -> None:
        self.answers = list(answers)
        self.latency = latency
        self.requests: list[httpx.Request] = []
        self.times: list[float] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.times.append(anyio.current_time())
        await anyio.sleep(self.latency)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        raise answer if isinstance(answer, Exception) else answer()


def transport(line: httpx.AsyncBaseTransport, base_url: str | None = None, **limits: Any) -> ProviderTransport:
    return ProviderTransport(RunBlob(KEY, base_url), Limits(**limits), line, Clock())


def call(effect: Effect, **more: Any) -> Call:
    return Call.post("/v1/kling/o3-photo/generate", {}, effect, **more)


def answer(status: int, body: Any = None, **headers: str) -> httpx.Response:
    content = body if isinstance(body, str) else json.dumps(FINE if body is None else body)
    return httpx.Response(status, text=content, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def outcome(line: Line, what: Call, **limits: Any) -> Reply | KlingError:
    try:
        return await transport(line, **limits).call(what, PaidCallTrace())
    except KlingError as error:
        return error


NOT_SENT = [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.PoolTimeout("full")]
LOST = [
    httpx.ReadError("reset"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("cut"),
    OSError("reset"),
    ssl.SSLError("bad record"),
    RuntimeError("the client has been closed"),
    answer(200, "<html>"),
    answer(201, '{"cut'),
    answer(500, OWN),
    answer(502, "<html>"),
    answer(503, "<html>"),
    answer(504, "<html>"),
    answer(408, OWN),
]


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("fault", NOT_SENT, ids=repr)
async def test_what_was_not_sent_is_sent_again(effect: Effect, fault: Exception) -> None:
    line = Line(fault, fault, answer(200))
    assert isinstance(await outcome(line, call(effect)), Reply)
    assert len(line.requests) == 3


@pytest.mark.parametrize("effect", Effect)
async def test_what_cannot_be_sent_is_reported_after_some_attempts(effect: Effect) -> None:
    line = Line(NOT_SENT[0])
    assert isinstance(await outcome(line, call(effect), max_attempts=3), TransportFailed)
    assert len(line.requests) == 3


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 422])
async def test_what_is_refused_is_handed_to_the_flow(effect: Effect, status: int) -> None:
    line = Line(answer(status, {"detail": "INVALID_MODEL"}))
    reply = await outcome(line, call(effect))
    assert isinstance(reply, Reply)
    assert (reply.status, len(line.requests)) == (status, 1)


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("refusal", [answer(429, OWN), answer(429, "slow down"), answer(503, OWN)], ids=repr)
async def test_not_now_is_waited_for(effect: Effect, refusal: httpx.Response) -> None:
    line = Line(refusal, refusal, answer(200))
    assert isinstance(await outcome(line, call(effect)), Reply)
    assert len(line.requests) == 3


@pytest.mark.parametrize("effect", [Effect.READ, Effect.WRITE])
@pytest.mark.parametrize("fault", LOST, ids=repr)
async def test_a_lost_answer_of_a_harmless_call_is_asked_for_again(effect: Effect, fault: Any) -> None:
    line = Line(fault, answer(200))
    assert isinstance(await outcome(line, call(effect)), Reply)
    assert len(line.requests) == 2


@pytest.mark.parametrize("fault", LOST, ids=repr)
async def test_a_lost_answer_of_a_paid_call_is_final(fault: Any) -> None:
    line = Line(fault)
    assert isinstance(await outcome(line, call(Effect.PAID)), AnswerLost)
    assert len(line.requests) == 1


@pytest.mark.parametrize("fault", LOST, ids=repr)
async def test_a_paid_call_that_may_be_repeated_is(fault: Any) -> None:
    line = Line(fault, fault, answer(200))
    assert isinstance(await outcome(line, call(Effect.PAID, repeatable=True)), Reply)
    assert len(line.requests) == 3


async def test_a_paid_call_that_may_be_repeated_stays_lost_when_no_answer_comes() -> None:
    line = Line(httpx.ReadError("reset"))
    assert isinstance(await outcome(line, call(Effect.PAID, repeatable=True), max_attempts=2), AnswerLost)
    assert len(line.requests) == 4


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("effect", Effect)
async def test_a_refusal_that_waiting_does_not_lift_is_not_waited_for(effect: Effect, status: int) -> None:
    """An empty account, told as "too many" or "unavailable"."""
    line = Line(answer(status, {"detail": "INSUFFICIENT_CREDITS"}))
    reply = await outcome(line, call(effect))
    assert isinstance(reply, Reply)
    assert isinstance(RunBlob(KEY).errors.parse_error(reply), InsufficientCredits)
    assert len(line.requests) == 1


HINTS = {"7": 7.0, "7, 7": 7.0, "-5": 0.0, "0": 0.0, "nan": 1.0, "inf": 1.0, "1e999": 1.0, "86401": 1.0, "200": 120.0}


@pytest.mark.parametrize(("hint", "seconds"), HINTS.items())
async def test_retry_after_in_seconds_is_clamped(hint: str, seconds: float) -> None:
    line = Line(answer(429, OWN, retry_after=hint), answer(200))
    assert isinstance(await outcome(line, call(Effect.READ)), Reply)
    assert seconds <= line.times[1] - line.times[0] <= seconds * 1.1 + 1


@pytest.mark.parametrize(("ahead", "seconds"), [(9, 9.0), (-3600, 0.0), (10**9, 1.0)])
async def test_retry_after_as_a_date_is_clamped(ahead: float, seconds: float) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
    line = Line(answer(429, OWN, retry_after=date), answer(200))
    assert isinstance(await outcome(line, call(Effect.READ)), Reply)
    assert seconds - 2 <= line.times[1] - line.times[0] <= seconds * 1.1 + 1


@pytest.mark.parametrize("fast", [3600, -3600, 0])
async def test_retry_after_as_a_date_is_read_by_the_clock_of_the_provider(fast: float) -> None:
    there = datetime.now(UTC) + timedelta(seconds=fast)
    headers = {"date": format_datetime(there, usegmt=True)}
    headers["retry_after"] = format_datetime(there + timedelta(seconds=9), usegmt=True)
    line = Line(answer(429, OWN, **headers), answer(200))
    assert isinstance(await outcome(line, call(Effect.READ)), Reply)
    assert 9 <= line.times[1] - line.times[0] <= 11


async def test_retry_after_in_milliseconds_is_read() -> None:
    line = Line(answer(429, OWN, retry_after_ms="2500", retry_after="60"), answer(200))
    assert isinstance(await outcome(line, call(Effect.READ)), Reply)
    assert 2.5 <= line.times[1] - line.times[0] <= 4


@pytest.mark.parametrize("effect", Effect)
async def test_a_hint_that_is_longer_than_the_limits_allow_is_raised_at_once(effect: Effect) -> None:
    line = Line(answer(429, "slow down", retry_after="3600"))
    error = await outcome(line, call(effect))
    assert isinstance(error, RateLimited)
    assert (error.retry_after, len(line.requests)) == (3600.0, 1)
    assert anyio.current_time() - line.times[0] < 1


async def test_a_paid_call_that_waits_for_the_provider_says_so(caplog: pytest.LogCaptureFixture) -> None:
    line = Line(answer(429, "slow down", retry_after="60"), answer(200))
    assert isinstance(await outcome(line, call(Effect.PAID)), Reply)
    [said] = [r.getMessage() for r in caplog.records if r.name == "kling_async" and r.levelno == logging.WARNING]
    assert "POST /v1/kling/o3-photo/generate waits for 6" in said
    assert "slow down" in said


@pytest.mark.parametrize("body", ["", "{}", "no", "<html>Access denied</html>", '{"x": 1}'])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 410, 413, 415, 422, 451])
async def test_a_complete_4xx_to_a_paid_call_is_a_refusal_whatever_its_body(status: int, body: str) -> None:
    line = Line(answer(status, body, server="cloudflare", content_type="text/html; charset=utf-8"))
    reply = await outcome(line, call(Effect.PAID))
    assert isinstance(reply, Reply)
    with pytest.raises(KlingError, match="text/html from cloudflare") as refused:
        RunBlob(KEY).errors.expect_json(reply)
    assert not isinstance(refused.value, AnswerLost | UnreadableReply)


@pytest.mark.parametrize("status", [300, 303, 304, 305, 408, 409, 425, 499, 500, 502, 503, 504, 520])
async def test_an_answer_that_does_not_say_what_was_bought_is_unknown_and_quoted(status: int) -> None:
    line = Line(answer(status, f"<html>{KEY} out of order</html>", server="nginx", x_request_id=f"r-{KEY}-{'9' * 500}"))
    error = await outcome(line, call(Effect.PAID))
    assert isinstance(error, AnswerLost)
    assert f"HTTP {status}" in error.message
    assert "out of order" in error.message
    assert KEY not in str(error)
    assert error.http_status == status
    assert error.request_id is not None
    assert len(error.request_id) < 120


@pytest.mark.parametrize("effect", Effect)
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_names_the_new_address_and_the_variable(effect: Effect, status: int) -> None:
    line = Line(answer(status, "", location="https://api.new.test/base/v1/kling/o3-photo/generate"))
    error = await outcome(line, call(effect))
    assert isinstance(error, ConfigurationError)
    variable = RunBlob.identity().url_variable
    [remedy] = error.remedies
    assert (remedy.action, remedy.detail) == (
        "configure",
        f"if that address is right, set {variable}=https://api.new.test/base",
    )
    assert ("Nothing was bought" in str(error)) is (effect is Effect.PAID)
    assert len(line.requests) == 1


@pytest.mark.parametrize("location", ["", "https://a b/", "//[", "https://a.test/other", "https://" + "x" * 5000])
async def test_a_redirect_to_nowhere_is_a_refusal_too(location: str) -> None:
    error = await outcome(Line(answer(302, "", location=location)), call(Effect.PAID))
    assert isinstance(error, ConfigurationError)
    assert RunBlob.identity().url_variable in str(error)
    assert len(str(error)) < 1000


@pytest.mark.parametrize("fault", [httpx.ProxyError("407 Proxy Authentication Required"), *NOT_SENT], ids=repr)
async def test_what_was_not_sent_is_never_unknown(fault: Exception) -> None:
    line = Line(fault)
    error = await outcome(line, call(Effect.PAID), max_attempts=1)
    assert isinstance(error, TransportFailed)
    assert "could not be reached" in str(error)


async def test_a_call_that_must_not_be_repeated_is_made_once() -> None:
    line = Line(answer(500, OWN), answer(200))
    with pytest.raises(ProviderUnavailable):
        await transport(line).call(Call.get("/x"), PaidCallTrace(), retry=False)
    assert len(line.requests) == 1


async def test_an_answer_that_had_arrived_when_the_deadline_passed_is_read() -> None:
    """A process that was stopped finds its deadline and the answer at the same moment."""
    line = Line(answer(200), latency=5.05)
    assert isinstance(await outcome(line, call(Effect.PAID), call=5.0), Reply)
    late = Line(answer(200), latency=5.2)
    assert isinstance(await outcome(late, call(Effect.PAID), call=5.0), AnswerLost)


async def test_a_flaw_in_the_json_of_a_paid_answer_does_not_lose_it() -> None:
    reply = await outcome(Line(answer(201, '\ufeff{"generation_id": "1", "note": "\\ud83d"}')), call(Effect.PAID))
    assert isinstance(reply, Reply)
    assert reply.json()["generation_id"] == "1"


@pytest.mark.parametrize("coding", ["GZIP", "x-gzip", " Gzip ", "identity, gzip", "gzip;q=1"])
async def test_an_answer_is_unpacked_by_the_standard(coding: str) -> None:
    body = gzip.compress(b'{"id":') + gzip.compress(b' "1"}')

    class Packed(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers={"content-encoding": coding}, stream=_Pieces(body))

    reply = await transport(Packed()).call(call(Effect.PAID), PaidCallTrace())
    assert reply.json() == {"id": "1"}


async def test_every_call_is_in_the_debug_log_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="kling_async")
    await transport(Line(answer(200, x_request_id="r-7"))).call(Call.get("/x?token=private"), PaidCallTrace())
    [record] = [r.getMessage() for r in caplog.records if r.levelno == logging.DEBUG]
    assert re.fullmatch(r"GET /x: HTTP 200 in \d+ ms, request id r-7", record)


async def test_a_retry_is_in_the_log_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="kling_async")
    await outcome(Line(httpx.ReadError("reset"), answer(200)), Call.get("/x"))
    assert re.search(r"GET /x is sent again in 0\.\d s: .*ReadError reset", caplog.text)


async def test_the_frames_of_the_network_library_are_not_kept_with_an_error() -> None:
    """They have the key and the body as local variables."""
    failed = await outcome(Line(httpx.ReadError("reset")), call(Effect.PAID))
    assert isinstance(failed, AnswerLost)
    error: BaseException | None = failed
    while error is not None:
        if type(error).__module__.startswith("httpx"):
            assert error.__traceback__ is None or all(
                "httpx" not in frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)
            )
        error = error.__cause__


@pytest.mark.parametrize(
    "body",
    [
        {**OWN, "retry_after": 8},
        {**OWN, "retryAfter": 8.0},
        {"error": {"retry_after_seconds": 8}},
    ],
)
async def test_retry_after_is_found_in_the_body(body: Any) -> None:
    line = Line(answer(429, body), answer(200))
    await outcome(line, call(Effect.READ))
    assert 8 <= line.times[1] - line.times[0] <= 10


@pytest.mark.parametrize("header", ["", "soon", "Mon, 99 Foo 2026", "Mon, 01 Jan 0101 00:00:00 -0000", "1" * 5000])
@pytest.mark.parametrize("hint", [None, "soon", True, [], -1, 10**400, -(10**400)])
async def test_an_odd_hint_is_no_error(header: str, hint: Any) -> None:
    line = Line(answer(429, {**OWN, "retry_after": hint}, retry_after=header), answer(200))
    assert isinstance(await outcome(line, call(Effect.PAID)), Reply)
    assert line.times[1] - line.times[0] < 140


async def test_a_burst_of_refusals_is_one_pause() -> None:
    """Calls that had left before the pause say nothing new: not each of them makes it longer."""
    line = Line(*[answer(429, OWN)] * 100, answer(200), latency=0.1)
    tested = transport(line)
    start = anyio.current_time()
    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(tested.call, call(Effect.READ), PaidCallTrace())
    assert anyio.current_time() - start < 10
    assert len(line.requests) == 200
    assert tested.statistics().throttled == 100


async def test_after_a_pause_calls_leave_one_by_one_in_their_order() -> None:
    line = Line(answer(429, OWN, retry_after="60"), answer(200))
    tested = transport(line)
    first = anyio.Event()

    arrivals: list[str] = []

    async def one(number: int) -> None:
        await first.wait()
        arrivals.append(f"/{number}")
        await tested.call(Call.get(f"/{number}"), PaidCallTrace())

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(one, number)
        group.start_soon(tested.call, Call.get("/first"), PaidCallTrace())
        await anyio.sleep(1)
        first.set()
    paused = [(request.url.path, at) for request, at in zip(line.requests, line.times, strict=True)][1:]
    assert min(at for _, at in paused) - line.times[0] >= 60
    assert len({at for _, at in paused[:5]}) == 5
    assert [path for path, _ in paused if path != "/first"] == arrivals


async def test_waiters_behind_a_pause_do_not_each_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five hundred calls behind one pause hold one timer."""
    line = Line(answer(429, OWN, retry_after="60"), answer(200))
    tested = transport(line, connections=10)
    sleeps = 0
    sleep = anyio.sleep

    async def counted(delay: float) -> None:
        nonlocal sleeps
        sleeps += delay > 0
        await sleep(delay)

    async with anyio.create_task_group() as group:
        group.start_soon(tested.call, Call.get("/first"), PaidCallTrace())
        await anyio.sleep(1)
        monkeypatch.setattr("kling_async._http.transport.anyio.sleep", counted)
        for number in range(500):
            group.start_soon(tested.call, Call.get(f"/{number}"), PaidCallTrace())
        await sleep(50)
        assert (sleeps, len(line.requests)) == (0, 1), "the first one holds the timer"
        await sleep(20)
    assert len(line.requests) == 502
    assert sleeps < 40


async def test_a_cancelled_call_gives_the_gate_on() -> None:
    line = Line(answer(429, OWN, retry_after="30"), answer(200))
    tested = transport(line)
    await anyio.lowlevel.checkpoint()
    with anyio.move_on_after(5):
        await tested.call(Call.get("/cancelled"), PaidCallTrace())
    with anyio.fail_after(60):
        await tested.call(Call.get("/next"), PaidCallTrace())
    assert [request.url.path for request in line.requests] == ["/cancelled", "/next"]


async def test_refusals_bring_the_pace_back_too() -> None:
    """After a pause, calls that the provider answers with a plain refusal have been served."""
    line = Line(answer(429, OWN), answer(404, {"detail": "GENERATION_NOT_FOUND"}))
    tested = transport(line)
    for _ in range(60):
        await tested.call(Call.get("/x"), PaidCallTrace())
    assert not tested.statistics().paused


async def test_repetitions_of_polls_draw_on_a_quota() -> None:
    line = Line(answer(500, OWN))
    tested = transport(line, retry_budget=5)
    for _ in range(10):
        with pytest.raises(KlingError):
            await tested.call(Call.get("/x"), PaidCallTrace())
    assert len(line.requests) == 15


async def test_time_spent_waiting_for_a_slot_is_not_the_calls(caplog: pytest.LogCaptureFixture) -> None:
    line = Line(answer(200), latency=0.9)
    tested = transport(line, connections=1, call=1.0)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(tested.call, call(Effect.PAID), PaidCallTrace())
    assert len(line.requests) == 10
    assert tested.statistics().retried == 0


async def test_a_submission_that_is_cancelled_in_the_queue_was_not_sent() -> None:
    """One connection, one slow paid call on it: the ones behind it bought nothing, and the ledger says so."""
    server = FakeRunBlob(latency=1000)
    ledger = MemoryLedger()
    limits = Limits(connections=1, cancel_grace=0)
    client = Client(RunBlob(KEY), http=server, ledger=ledger, limits=limits)
    with anyio.move_on_after(10):
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(_submit, client, f"row-{number}")
    states = [str(s.state) for s in await ledger.submissions()]
    assert sorted(states) == ["not-submitted"] * 4 + ["unknown"]
    await client.aclose()


async def _submit(client: Client, key: str) -> None:
    await client.submit(runblob.O3Photo("a boat"), key=key)


async def test_a_body_that_unpacks_to_more_than_the_cap_is_refused() -> None:
    bomb = gzip.compress(b"[" + b" " * 50_000_000 + b"]")
    line = Line(httpx.Response(200, headers={"content-encoding": "gzip"}, content=b""))
    line.answers = []

    class Bomb(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=_Pieces(bomb))

    with pytest.raises(UnreadableReply, match="larger than"):
        await transport(Bomb(), max_attempts=1).call(Call.get("/x"), PaidCallTrace())


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> Any:
        for start in range(0, len(self._content), 1000):
            yield self._content[start : start + 1000]


@pytest.mark.parametrize("url", ["https://upload.test/a", "https://platform.runblob.io/v1/x", "http://127.0.0.1:9/a"])
async def test_the_key_is_never_sent_to_an_absolute_address(url: str) -> None:
    line = Line(answer(200))
    await transport(line).call(Call("PUT", url, Effect.WRITE, b"data"), PaidCallTrace())
    assert KEY not in str(line.requests[0].headers.raw)


@pytest.mark.parametrize("path", ["//evil.test/x", "/v1/x", "/@evil.test", "/\\evil.test"])
async def test_a_path_never_leaves_the_providers_host(path: str) -> None:
    line = Line(answer(200))
    await transport(line, "https://gateway.test/kling/proxy/").call(Call.get(path), PaidCallTrace())
    assert line.requests[0].url.host == "gateway.test"
    assert line.requests[0].url.path.startswith("/kling/proxy/")
    assert line.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    line = Line(answer(status, OWN, location="https://evil.test/"))
    await outcome(line, Call.get("/x"), max_attempts=1)
    assert {request.url.host for request in line.requests} == {"platform.runblob.io"}


@pytest.fixture(params=["inactive", "testing"])
def stamina_is(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "inactive":
        stamina.set_active(False)
    else:
        stamina.set_testing(True)
    yield request.param
    stamina.set_active(True)
    stamina.set_testing(False)


async def test_a_process_that_switches_retries_off_meets_the_same_errors(stamina_is: str) -> None:
    """`stamina.set_active(False)` and `stamina.set_testing(True)` are the user's. The errors stay typed."""
    line = Line(httpx.ConnectError("refused"))
    assert isinstance(await outcome(line, call(Effect.PAID)), TransportFailed)
    line = Line(answer(500, OWN))
    assert isinstance(await outcome(line, Call.get("/x")), ProviderUnavailable)
    line = Line(httpx.ReadError("reset"))
    assert isinstance(await outcome(line, call(Effect.PAID)), AnswerLost)
    assert len(line.requests) == 1


@pytest.mark.parametrize("before", [0, 90, 100, 105, 112, 119])
async def test_no_part_of_the_key_is_logged(before: int, caplog: pytest.LogCaptureFixture) -> None:
    """A provider that repeats the key: not even a piece of it, cut off by the end of what is shown, gets out."""
    caplog.set_level(logging.DEBUG, logger="kling_async")
    line = Line(answer(500, "x" * before + KEY + "y" * 50))
    error = await outcome(line, Call.get("/x"), max_attempts=1)
    assert KEY[:8] not in caplog.text + str(error) + repr(error)
    assert caplog.records


async def test_statistics_count_calls_repetitions_and_losses() -> None:
    server = FakeRunBlob()

    async def reset(request: httpx.Request) -> httpx.Response | None:
        raise httpx.ReadError("reset")

    server.intercept = reset
    async with Client(RunBlob(KEY), http=server) as client:
        with pytest.raises(kling_async.SubmissionUnknown):
            await client.submit(runblob.O3Photo("a boat"))
        counted = client.statistics().providers["runblob"]
    assert (counted.calls, counted.retried, counted.throttled, counted.lost) == (1, 0, 0, 1)


@pytest.mark.parametrize("effect", Effect)
async def test_a_request_hook_that_raises_sends_nothing(effect: Effect) -> None:
    """The hook is the user's own mistake, so the call is not made again either."""
    asked: list[httpx.Request] = []
    line = Line(answer(200))

    async def refuse(request: httpx.Request) -> None:
        asked.append(request)
        raise ValueError("secret")

    async with httpx.AsyncClient(transport=line, event_hooks={"request": [refuse]}) as http:
        made = ProviderTransport(RunBlob(KEY), Limits(), http, Clock())
        with pytest.raises(ConfigurationError, match=r"request hook .* ValueError; nothing was sent") as raised:
            await made.call(call(effect), PaidCallTrace())
    assert "secret" not in str(raised.value)
    assert (len(asked), line.requests) == (1, [])


async def test_a_response_hook_that_raises_does_not_lose_the_answer_of_a_paid_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    line = Line(answer(201))

    async def fail(response: httpx.Response) -> None:
        await response.aread()
        response.raise_for_status()
        raise ValueError("secret")

    async with httpx.AsyncClient(transport=line, event_hooks={"response": [fail]}) as http:
        reply = await ProviderTransport(RunBlob(KEY), Limits(), http, Clock()).call(call(Effect.PAID), PaidCallTrace())
    assert (reply.status, reply.json(), len(line.requests)) == (201, FINE, 1)
    assert "a response hook of the client given as http failed: ValueError" in caplog.text
    assert "secret" not in caplog.text


async def test_request_hooks_of_a_users_client_change_what_is_sent() -> None:
    line = Line(answer(201))

    async def sign(request: httpx.Request) -> None:
        request.headers["x-gateway"] = "signed"

    async with httpx.AsyncClient(transport=line, event_hooks={"request": [sign]}) as http:
        await ProviderTransport(RunBlob(KEY), Limits(), http, Clock()).call(call(Effect.PAID), PaidCallTrace())
    assert line.requests[0].headers["x-gateway"] == "signed"

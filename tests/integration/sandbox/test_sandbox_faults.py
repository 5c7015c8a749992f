"""Every misbehaviour on real sockets: what the client sees, and what was really done."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
import pytest

from kling_async.sandbox import Fault, Rule, Sandbox
from kling_async.sandbox.faults.catalog import FaultRegistry, parse

pytestmark = pytest.mark.sandbox(speed=0, scale=0.05)

VIDEO = "/v1/kling/o3-video"
PHOTO = "/v1/kling/o3-photo"
ENOUGH = 1000.0

Buy = Callable[..., str]


def _submit(client: httpx.Client) -> httpx.Response:
    return client.post(f"{VIDEO}/generate", json={"prompt": "a fox"})


def _poll(client: httpx.Client, job: str) -> httpx.Response:
    return client.get(f"{VIDEO}/generations/{job}")


def _fresh(sandbox: Sandbox, client: httpx.Client) -> str:
    """Buy a photo, let it end, and give the address of the picture."""
    job = client.post(f"{PHOTO}/generate", json={"prompt": "a fox", "img_resolution": "1k"}).json()
    sandbox.state.clock.advance(ENOUGH)
    address: str = client.get(f"{PHOTO}/generations/{job['generation_id']}").json()["image_url"]
    return address


# The connection.


def test_accept_then_reset_buys_and_says_nothing(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.accept_then_reset, provider="runblob", kind="submit", every=10)
    lost = 0
    for _ in range(30):
        try:
            assert _submit(client).status_code == 201
        except httpx.ReadError:
            lost += 1
    assert lost == 3
    assert sandbox.counters.bought == {"runblob": 30}
    assert sandbox.counters.faults == {"accept-then-reset": 3}


def test_reset_before_reading_buys_nothing(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.reset_before_reading, kind="submit", times=1)
    # Which of the two: whether the kernel's ECONNRESET met the writing of the body or the reading.
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        _submit(client)
    assert sandbox.counters.jobs_bought == 0
    assert sandbox.counters.requests["runblob", "submit"] == 1
    assert _submit(client).status_code == 201


@pytest.mark.parametrize("fault", [Fault.accept_then_reset, Fault.reset_before_reading])
def test_a_reset_is_a_real_one(sandbox: Sandbox, fault: Fault) -> None:
    """The kernel reports ECONNRESET, not an orderly end."""
    sandbox.faults.add(fault)
    with socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2])), timeout=20) as sock:
        sock.sendall(f"GET /runblob{VIDEO}/generations/1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        with pytest.raises(ConnectionResetError):
            sock.recv(1)


def test_idle_connections_are_dropped_in_an_orderly_way_after_the_time_set(sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.idle_drop, seconds=0.05)
    with socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2])), timeout=20) as sock:
        sock.sendall(b"GET /_sandbox/counters HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        received = b""
        while piece := sock.recv(65536):
            received += piece
        assert received.startswith(b"HTTP/1.1 200")


def test_without_that_fault_connections_stay_longer_than_a_minute(sandbox: Sandbox) -> None:
    assert sandbox._app.keep_alive() > 60
    rule = sandbox.faults.add(Fault.idle_drop, seconds=1)
    assert sandbox._app.keep_alive() == 1
    sandbox.faults.remove(rule)
    assert sandbox._app.keep_alive() > 60


# Refusals.


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Fault.rate_limited, 429, "RATE_LIMIT_EXCEEDED"),
        (Fault.unavailable, 503, "MAINTENANCE"),
        (Fault.server_error, 500, "API_ERROR"),
    ],
)
def test_refusals_speak_the_providers_own_words_and_buy_nothing(
    client: httpx.Client, sandbox: Sandbox, fault: Fault, status: int, code: str
) -> None:
    sandbox.faults.add(fault, hint="absent")
    video = _submit(client)
    photo = client.post(f"{PHOTO}/generate", json={"prompt": "a fox"})
    assert (video.status_code, video.json()) == (status, {"detail": code})
    assert (photo.status_code, photo.json()) == (status, {"success": False, "message": code, "detail": code})
    assert "retry-after" not in video.headers
    assert sandbox.counters.jobs_bought == 0


def test_retry_after_in_seconds(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.rate_limited, seconds=7)
    assert _submit(client).headers["retry-after"] == "7"


def test_retry_after_as_a_date(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.unavailable, hint="date", seconds=3600)
    moment = parsedate_to_datetime(_submit(client).headers["retry-after"])
    assert 3500 < (moment - datetime.now(tz=UTC)).total_seconds() <= 3600


def test_retry_after_in_the_body(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.rate_limited, hint="body", seconds=2.5)
    answer = _submit(client)
    assert answer.json() == {"detail": "RATE_LIMIT_EXCEEDED", "retry_after": 2.5}
    assert "retry-after" not in answer.headers


def test_retry_after_that_nobody_can_read(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.rate_limited, hint="unreadable")
    assert not _submit(client).headers["retry-after"].isdigit()


@pytest.mark.parametrize("accepted", [False, True])
def test_a_bare_gateway_page_tells_nothing_about_what_was_done(
    client: httpx.Client, sandbox: Sandbox, accepted: bool
) -> None:
    sandbox.faults.add(Fault.server_error, status=502, bare=True, accepted=accepted)
    answer = _submit(client)
    assert (answer.status_code, answer.headers["content-type"]) == (502, "text/html; charset=utf-8")
    assert "502 Bad Gateway" in answer.text
    assert sandbox.counters.jobs_bought == int(accepted)


def test_a_burst_ends_after_its_times(client: httpx.Client, sandbox: Sandbox, bought: Buy) -> None:
    job = bought()
    sandbox.faults.add(Fault.server_error, kind="status", skip=1, times=3)
    assert [_poll(client, job).status_code for _ in range(6)] == [200, 500, 500, 500, 200, 200]
    assert sandbox.counters.refused["runblob", 500] == 3


# Answers that cannot be used. The job is bought each time.


def test_truncated_json(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.truncated_json)
    answer = _submit(client)
    assert (answer.status_code, answer.headers["content-type"]) == (201, "application/json")
    with pytest.raises(json.JSONDecodeError):
        answer.json()
    assert sandbox.counters.jobs_bought == 1


def test_a_cut_off_body_breaks_its_promise_of_a_length(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.cut_off)
    with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
        _submit(client)
    assert sandbox.counters.jobs_bought == 1


def test_a_web_page_with_status_200(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.html)
    answer = _submit(client)
    assert (answer.status_code, answer.text[:15]) == (200, "<!doctype html>")
    assert sandbox.counters.jobs_bought == 1


def test_empty_wrong_and_unknown_answers(client: httpx.Client, sandbox: Sandbox, bought: Buy) -> None:
    job = bought()
    honest = _poll(client, job).json()
    answers = []
    for fault in (Fault.empty_json, Fault.wrong_types, Fault.unknown_status):
        rule = sandbox.faults.add(fault, kind="status")
        answers.append(_poll(client, job).json())
        sandbox.faults.remove(rule)
    assert answers[0] == {}
    assert answers[1].keys() == honest.keys()
    assert not any(isinstance(answers[1][name], type(value)) for name, value in honest.items())
    assert answers[2] == {**honest, "status": "reticulating"}


def test_a_drip_sends_the_answer_byte_by_byte(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.drip, seconds=0.001)
    headers = {"content-type": "application/json"}
    with client.stream("POST", f"{VIDEO}/generate", content=b'{"prompt":"a fox"}', headers=headers) as answer:
        pieces = list(answer.iter_raw())
    assert json.loads(b"".join(pieces))["status"] == "pending"
    assert int(answer.headers["content-length"]) == sum(map(len, pieces))
    assert len(pieces) > 10


def test_a_delay_holds_the_answer_back_after_the_purchase(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.delay, seconds=3600)
    with pytest.raises(httpx.ReadTimeout):
        client.post(f"{VIDEO}/generate", json={"prompt": "a fox"}, timeout=0.2)
    assert sandbox.counters.jobs_bought == 1


def test_a_huge_body_is_valid_json_behind_the_white_space(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.huge_body, size=3_000_000)
    answer = _submit(client)
    assert len(answer.content) > 2_900_000
    assert answer.json()["status"] == "pending"


def test_huge_headers_are_more_than_clients_take(client: httpx.Client, sandbox: Sandbox) -> None:
    sandbox.faults.add(Fault.huge_headers)
    with pytest.raises(httpx.RemoteProtocolError):
        _submit(client)
    assert sandbox.counters.jobs_bought == 1


# Jobs.


def test_a_job_is_not_found_at_first(client: httpx.Client, sandbox: Sandbox, bought: Buy) -> None:
    sandbox.faults.add(Fault.not_found_at_first, polls=2, times=1)
    denied, known = bought(), bought()
    assert [_poll(client, denied).status_code for _ in range(4)] == [404, 404, 200, 200]
    assert _poll(client, known).status_code == 200


def test_every_other_job_gets_stuck(client: httpx.Client, sandbox: Sandbox, bought: Buy) -> None:
    sandbox.faults.add(Fault.stuck, every=2)
    jobs = [bought() for _ in range(4)]
    sandbox.state.clock.advance(1e6)
    words = [_poll(client, job).json()["status"] for job in jobs]
    assert words == ["completed", "processing", "completed", "processing"]


# Downloads.


def test_a_web_page_in_a_files_clothes(client: httpx.Client, sandbox: Sandbox) -> None:
    url = _fresh(sandbox, client)
    sandbox.faults.add(Fault.wrong_content)
    answer = httpx.get(url, trust_env=False)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.text.startswith("<!doctype html>")


def test_an_empty_file(client: httpx.Client, sandbox: Sandbox) -> None:
    url = _fresh(sandbox, client)
    sandbox.faults.add(Fault.empty_file, times=1)
    answer = httpx.get(url, trust_env=False)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")
    assert len(httpx.get(url, trust_env=False).content) > 0


def test_a_file_shorter_than_its_content_length(client: httpx.Client, sandbox: Sandbox) -> None:
    url = _fresh(sandbox, client)
    sandbox.faults.add(Fault.short_file, times=1)
    pieces: list[bytes] = []
    with httpx.stream("GET", url, trust_env=False) as answer, pytest.raises(httpx.RemoteProtocolError):
        pieces.extend(answer.iter_raw())
    promised, received = int(answer.headers["content-length"]), sum(map(len, pieces))
    assert 0 < received == promised // 2
    rest = httpx.get(url, headers={"Range": f"bytes={received}-"}, trust_env=False)
    assert (rest.status_code, len(rest.content)) == (206, promised - received)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_expired_address_stays_dead_and_is_replaced(client: httpx.Client, sandbox: Sandbox, status: int) -> None:
    url = _fresh(sandbox, client)
    sandbox.faults.add(Fault.expired, status=status, times=1)
    assert httpx.get(url, trust_env=False).status_code == status
    assert httpx.get(url, trust_env=False).status_code == 403
    (job,) = sandbox.state.jobs.values()
    fresh = client.get(f"{PHOTO}/generations/{job.id}").json()["image_url"]
    assert httpx.get(fresh, trust_env=False).status_code == 200


def test_api_faults_leave_downloads_alone_unless_asked_otherwise(client: httpx.Client, sandbox: Sandbox) -> None:
    url = _fresh(sandbox, client)
    rule = sandbox.faults.add(Fault.server_error)
    assert httpx.get(url, trust_env=False).status_code == 200
    sandbox.faults.remove(rule)
    sandbox.faults.add(Fault.server_error, kind="download", status=504, bare=True)
    assert httpx.get(url, trust_env=False).status_code == 504


# The switchboard and the text form.


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("stuck", Rule(Fault.stuck)),
        ("accept-then-reset:submit:every=10", Rule(Fault.accept_then_reset, kind="submit", every=10)),
        (
            "rate-limited:status:times=3,hint=date,seconds=1.5",
            Rule(Fault.rate_limited, kind="status", times=3, hint="date", seconds=1.5),
        ),
        (
            "server-error:provider=runblob:status=502:bare=yes:accepted=no:skip=1",
            Rule(Fault.server_error, provider="runblob", status=502, bare=True, skip=1),
        ),
        ("drip:probability=0.5", Rule(Fault.drip, probability=0.5)),
        ("expired:download:status=410", Rule(Fault.expired, kind="download", status=410)),
    ],
)
def test_the_text_form(text: str, rule: Rule) -> None:
    assert parse(text) == rule


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "gremlins",
            "unknown fault 'gremlins'; there are: reset-before-reading, accept-then-reset, idle-drop",
        ),
        ("", "unknown fault ''"),
        ("drip:colour=red", "unknown option 'colour'; there are: provider, every, times"),
        ("drip:every=often", "every=often is not a whole number"),
        ("drip:bare=maybe", "bare=maybe is not yes or no"),
        ("drip:every=0", "every and times are 1 or more"),
        ("drip:hint=shout", "hint=shout is unknown; there are seconds, date, body, absent, unreadable"),
        ("expired:submit", "expired affects downloads, not submit"),
        ("drip:sumbit", "kind sumbit is unknown; there are submit, status, cancel, list, upload, stream, download"),
        ("server-error:job", "kind job is unknown; there are submit, status"),
        ("drip:webhook", "kind webhook is unknown; there are submit, status"),
        ("wrong-types:download", "wrong-types changes JSON, and a download is a file: use wrong-content"),
        ("drip:probability=2", "probability=2.0 is not between 0 and 1"),
        ("drip:seconds=-1", "seconds=-1.0 is not a duration"),
    ],
)
def test_a_text_that_is_no_fault_is_refused_with_the_faults_that_there_are(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(text)


def test_options_go_with_a_fault_and_not_with_its_text() -> None:
    with pytest.raises(ValueError, match="brings its own options"):
        FaultRegistry().add("stuck", every=2)


def test_an_option_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    switchboard = FaultRegistry()
    with pytest.raises(ValueError, match="drip: unknown option 'only'; there are: provider, kind, every, times"):
        switchboard.add(Fault.drip, only=2)  # type: ignore[call-arg]
    assert not switchboard.rules


def test_a_provider_that_is_not_played_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match=r"provider runblub is unknown; there are .*runblob"):
        sandbox.faults.add("drip:provider=runblub")


def test_the_fault_added_first_wins_and_others_count_only_what_reaches_them() -> None:
    board = FaultRegistry()
    first = board.add(Fault.html, every=2)
    second = board.add("empty-json:status")
    drawn = [board.draw("runblob", kind) for kind in ("status", "status", "submit", "status")]
    assert drawn == [second, first, None, first]
    assert (first.seen, first.injected, second.seen, second.injected) == (4, 2, 1, 1)
    board.clear()
    assert not board.rules


def test_a_probability_is_drawn_by_the_seed() -> None:
    boards = [FaultRegistry(seed) for seed in (1, 1, 2)]
    for board in boards:
        board.add(Fault.html, probability=0.3)
    drawn = [[board.draw("x", "submit") is not None for _ in range(1000)] for board in boards]
    assert drawn[0] == drawn[1] != drawn[2]
    assert 250 < sum(drawn[0]) < 350


def test_every_fault_is_reachable_by_its_text() -> None:
    assert [parse(fault.value).fault for fault in Fault] == list(Fault)

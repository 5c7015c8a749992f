"""inference.sh by hand: its request, and its flows with recorded replies where a sample file cannot say it."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kling_async import (
    InferenceSh,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    JobRef,
    KlingError,
    Status,
    inferencesh,
)
from kling_async.providers._base.provider import Accepted
from kling_async.providers.base import Call, Effect, Reply, StatusReport, UnreadableReply
from kling_async.providers.inferencesh import ImageO1
from kling_async.providers.inferencesh.tasks import CURRENT, OLDER

KEY = "inf_made_up_7e57"
REF = JobRef("inferencesh", "image-o1", "task-1")
IMAGE = "https://cloud.inference.sh/u/1/out.png"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
JPEG = b"\xff\xd8\xff" + bytes(100)
SINCE = datetime(2026, 10, 11, 9, tzinfo=UTC)


@pytest.fixture
def provider() -> InferenceSh:
    return InferenceSh(KEY)


@dataclass
class Driven:
    """What became of a flow: the calls it made, and its value."""

    calls: list[Call]
    value: Any


def drive(flow: Generator[Call, Reply, Any], *replies: Reply) -> Driven:
    """Run a flow on exactly these replies."""
    calls: list[Call] = []
    answers = iter(replies)
    try:
        call = next(flow)
        while True:
            calls.append(call)
            call = flow.send(next(answers))
    except StopIteration as end:
        assert next(answers, None) is None, "a reply was not asked for"
        return Driven(calls, end.value)


def reply(data: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(status, headers, json.dumps(data).encode())


def sent(call: Call) -> Any:
    return json.loads(call.body)


def poll(provider: InferenceSh, *replies: Reply) -> StatusReport:
    report = drive(provider.poll([REF]), *replies).value[REF]
    assert isinstance(report, StatusReport)
    return report


# The request.


def test_defaults_are_the_app_s_own() -> None:
    request = ImageO1("a boat")
    assert (request.aspect_ratio, request.resolution, request.count) == ("16:9", "1k", 1)
    assert (request.reference, request.negative_prompt, request.app) == (None, None, "klingai/image-o1")


def test_fields_go_by_position_in_the_order_of_the_design() -> None:
    request = ImageO1("a boat", "https://example.com/a.png", "fog", "1:1", "2k", 1, "klingai/image-o1:run")
    assert request == ImageO1(
        prompt="a boat",
        reference="https://example.com/a.png",
        negative_prompt="fog",
        aspect_ratio="1:1",
        resolution="2k",
        count=1,
        app="klingai/image-o1:run",
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", ""),
        ("prompt", "x" * 2501),
        ("prompt", None),
        ("aspect_ratio", "auto"),
        ("aspect_ratio", "5:4"),
        ("resolution", "4k"),
        ("resolution", "1K"),
        ("count", 0),
        ("count", 10),
        ("count", 1.5),
        ("count", True),
        ("count", None),
        ("negative_prompt", 7),
        ("reference", "photo.png"),
        ("reference", "ftp://example.com/a.png"),
        ("reference", ["https://example.com/a.png", "https://example.com/b.png"]),
        ("reference", b""),
        ("reference", b"not an image at all"),
        ("reference", b"GIF89a" + bytes(20)),
        ("reference", b"RIFF\x00\x00\x00\x00WEBPVP8 "),
        ("reference", PNG + bytes(10 * 1024 * 1024)),
        ("reference", "data:image/png;base64,!!!"),
        ("reference", "data:text/plain,hello"),
        ("app", "klingai/image-o3"),
        ("app", "klingai/image-o1@"),
        ("app", "klingai/image-o1@a/b"),
        ("app", "klingai/image-o1\n"),
        ("callback_url", "http://example.com/hook"),
        ("seed", 7),
    ],
)
def test_what_is_outside_of_the_limits_is_refused_naming_the_field(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        ImageO1.model_validate({"prompt": "a boat", field: value})
    assert {error["loc"][0] for error in refused.value.errors()} == {field}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "x"),
        ("prompt", "é" * 2500),
        ("count", 9),
        ("count", "9"),
        ("reference", PNG),
        ("reference", JPEG),
        ("reference", PNG[:8] + bytes(10 * 1024 * 1024 - 8)),
        ("reference", "http://example.com/a.png"),
        ("app", "klingai/image-o1@4h5s6d"),
        ("app", "klingai/image-o1:run"),
        ("app", "klingai/image-o1@4h5s6d:run"),
    ],
)
def test_what_is_just_inside_is_accepted(field: str, value: Any) -> None:
    accepted = getattr(ImageO1.model_validate({"prompt": "a boat", "bill_extra": True, field: value}), field)
    assert str(accepted) == str(value), "a number that is spelled as text is that number"


def test_a_local_file_is_checked_before_anything_is_sent(tmp_path: Path) -> None:
    good = tmp_path / "a.png"
    good.write_bytes(PNG)
    assert ImageO1("a boat", good).files == [good]
    (tmp_path / "b.png").write_text("only called png")
    for path, reason in (
        (tmp_path, "directory"),
        (tmp_path / "none.png", "cannot be read"),
        (tmp_path / "b.png", "not an"),
    ):
        with pytest.raises(ValidationError, match=reason):
            ImageO1("a boat", path)


@pytest.mark.parametrize(
    "native",
    [
        {"prompt": "a boat", "image": "https://example.com/a.png", "n": 1},
        {"input": {"prompt": "a boat", "image": "https://example.com/a.png", "n": 1}},
        {"app": "klingai/image-o1", "input": {"prompt": "a boat", "image": "https://example.com/a.png", "n": 1}},
    ],
)
def test_the_provider_s_own_json_validates(native: Mapping[str, Any]) -> None:
    assert ImageO1.model_validate(native) == ImageO1("a boat", "https://example.com/a.png", count=1)


@pytest.mark.parametrize("fields", [{"count": 2}, {"n": "2"}, {"input": {"prompt": "a boat", "n": 9}}])
def test_a_count_that_is_billed_for_nothing_is_refused_unless_insisted_on(fields: Mapping[str, Any]) -> None:
    request = {} if "input" in fields else {"prompt": "a boat"}
    with pytest.raises(ValidationError, match=r"would be billed \d times, and the app returns one picture"):
        ImageO1.model_validate({**request, **fields})
    assert ImageO1.model_validate({**request, **fields, "bill_extra": True}).count > 1


def test_a_submission_with_an_id_was_accepted_whatever_else_the_answer_says() -> None:
    flow = InferenceSh("key").submit(ImageO1("a boat"), "attempt", None)
    next(flow)
    body = {"success": False, "error": {"code": "internal"}, "data": {"id": "task-9", "status": 2}}
    with pytest.raises(StopIteration) as done:
        flow.send(Reply(200, content=json.dumps(body).encode()))
    assert done.value.value.id == "task-9"


def test_an_end_without_an_id_proves_nothing() -> None:
    ref = JobRef("inferencesh", "image-o1", "task-9")
    flow = InferenceSh("key").poll([ref])
    end = Reply(
        200, content=json.dumps({"status": "completed", "output": {"image": "https://evil.example/x"}}).encode()
    )
    next(flow)
    flow.send(end)
    with pytest.raises(UnreadableReply, match="does not name the job"):
        flow.send(end)


def test_a_whole_run_keeps_its_pinned_app_and_its_webhook() -> None:
    run = {"app": "klingai/image-o1@ab12:run", "input": {"prompt": "a boat"}, "webhook": "https://example.com/hook"}
    request = ImageO1.model_validate(run)
    assert (request.app, request.callback_url) == ("klingai/image-o1@ab12:run", "https://example.com/hook")


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ({"input": "a boat"}, "input must be an object, not str"),
        ({"prompt": "a", "input": {"prompt": "b"}}, "prompt: given both in the input and beside it"),
        ({"input": {"prompt": "a", "n": 1, "count": 2}}, "'n' and 'count' are the same field"),
        ({"input": {"prompt": "a"}, "infra": "cloud"}, "infra\n  There is no such field"),
    ],
)
def test_contradictory_json_is_refused(native: Mapping[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ImageO1.model_validate(native)


def test_the_price_is_per_image_asked_for() -> None:
    endpoint = InferenceSh.endpoints[0]
    cost = endpoint.price(ImageO1("a boat", count=9, bill_extra=True))
    assert cost is not None
    assert (cost.amount, cost.unit, cost.estimated) == (Decimal("0.252"), "USD", True)


# Submitting.


def test_an_inline_image_is_uploaded_without_our_key_before_the_one_paid_call(provider: InferenceSh) -> None:
    target = "https://store.example.com/x?signature=5f"
    done = drive(
        provider.submit(ImageO1("a boat", JPEG), "key", None),
        reply({"data": [{"uri": "https://cloud.inference.sh/u/1/in.jpg", "upload_url": target}]}),
        Reply(200),
        reply({"data": {"id": "task-1", "status": 1}}),
    )
    announce, put, run = done.calls
    assert [call.effect for call in done.calls] == [Effect.WRITE, Effect.WRITE, Effect.PAID]
    assert sent(announce)["files"][0] | {"path": ""} == {
        "uri": "",
        "filename": "reference.jpeg",
        "content_type": "image/jpeg",
        "path": "",
        "size": len(JPEG),
        "public": False,
    }
    assert (put.method, put.url, put.body) == ("PUT", target, JPEG)
    assert dict(put.headers) == {"content-type": "image/jpeg"}
    assert not put.json
    assert sent(run)["input"]["image"] == "https://cloud.inference.sh/u/1/in.jpg"


def test_a_sandbox_may_have_its_storage_on_this_machine() -> None:
    local = InferenceSh(KEY, "http://127.0.0.1:8080")
    done = drive(
        local.submit(ImageO1("a boat", PNG), "key", None),
        reply({"data": [{"uri": "http://127.0.0.1:8080/f", "upload_url": "http://127.0.0.1:8080/put"}]}),
        Reply(200),
        reply({"id": "task-1", "status": 1}),
    )
    assert done.calls[1].url == "http://127.0.0.1:8080/put"


def test_the_request_s_own_callback_goes_before_the_client_s(provider: InferenceSh) -> None:
    request = ImageO1("a boat", callback_url="https://mine.example.com/")
    done = drive(provider.submit(request, "key", "https://client.example.com/"), reply({"id": "task-1", "status": 1}))
    assert sent(done.calls[0])["webhook"] == "https://mine.example.com/"


def test_a_missing_app_is_reported_as_such_and_not_as_a_missing_job(provider: InferenceSh) -> None:
    missing = reply({"type": "https://api.inference.sh/errors/not_found", "title": "Not Found", "status": 404}, 404)
    with pytest.raises(InvalidRequest, match="it has no app klingai/image-o1@gone") as refused:
        drive(provider.submit(ImageO1("a boat", app="klingai/image-o1@gone"), "key", None), missing)
    assert refused.value.http_status == 404


def test_a_run_refused_admission_is_a_lack_of_money_and_no_job(provider: InferenceSh) -> None:
    with pytest.raises(InsufficientCredits, match="no payment method"):
        drive(
            provider.submit(ImageO1("a boat"), "key", None),
            reply({"data": {"id": "task-1", "status": 13, "error": "no payment method"}}),
        )


def test_the_key_is_in_no_error_even_if_the_provider_repeats_it(provider: InferenceSh) -> None:
    body = {"title": "Unauthorized", "status": 401, "detail": f"the key {KEY} is not valid"}
    with pytest.raises(KlingError) as refused:
        drive(provider.submit(ImageO1("a boat"), "key", None), reply(body, 401))
    assert KEY not in str(refused.value)
    assert KEY not in repr(provider)


def test_the_configured_provider_keeps_its_table() -> None:
    provider = InferenceSh(statuses=OLDER).with_environment({"INFERENCE_API_KEY": KEY})
    assert provider.statuses == OLDER
    assert provider.credentials() == {"authorization": f"Bearer {KEY}"}


# Statuses.


@pytest.mark.parametrize("table", [CURRENT, OLDER])
def test_a_chosen_table_is_taken_at_its_word(table: tuple[str, ...]) -> None:
    provider = InferenceSh(KEY, statuses=table)
    ends = {
        "completed": Status.COMPLETED,
        "failed": Status.FAILED,
        "cancelled": Status.CANCELLED,
        "rejected": Status.FAILED,
    }
    for number, name in enumerate(table):
        light = reply({"id": "task-1", "status": number})
        whole = {"id": "task-1", "status": number, "output": {"image": IMAGE} if name == "completed" else None}
        replies = [light, reply(whole)] if name in ends or name == "unknown" else [light]
        report = poll(provider, *replies)
        if name in ends:
            assert report.status is ends[name]
        elif name == "unknown":
            assert report.status is None
        else:
            assert (report.message, report.status) == (name, Status.PENDING if number < 4 else Status.PROCESSING)


@pytest.mark.parametrize("table", [CURRENT, OLDER])
def test_steps_rise_with_the_stages_of_either_table(table: tuple[str, ...]) -> None:
    provider = InferenceSh(KEY, statuses=table)
    running = [number for number, name in enumerate(table) if name not in {"unknown", *CURRENT[10:]}]
    steps = [poll(provider, reply({"id": "task-1", "status": number})).step for number in running]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize(
    ("seconds", "output", "status"),
    [(16, IMAGE, Status.COMPLETED), (14, IMAGE, None), (-5, IMAGE, None), (60, None, Status.PROCESSING), (60, 7, None)],
)
def test_nine_with_its_output_is_completed_once_it_rests(
    provider: InferenceSh, seconds: int, output: Any, status: Status | None
) -> None:
    """An older server says 9 for ever. Today's says it while the upload is at work."""
    updated = SINCE.isoformat()
    date = (SINCE + timedelta(seconds=seconds)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    whole = {"id": "task-1", "status": 9, "updated_at": updated, "output": output and {"image": output}}
    report = poll(provider, reply({"id": "task-1", "status": 9}), reply(whole, date=date))
    assert (report.status, report.unrecognized) == (status, None)


@pytest.mark.parametrize("date", ["", "yesterday", "Sun, 11 Oct 2026 09:09:00 -0000"])
def test_a_missing_or_odd_clock_never_decides_falsely(provider: InferenceSh, date: str) -> None:
    whole = {"id": "task-1", "status": 9, "updated_at": SINCE.isoformat(), "output": {"image": IMAGE}}
    report = poll(provider, reply({"id": "task-1", "status": 9}), reply(whole, date=date))
    assert report.status is (Status.COMPLETED if date.startswith("Sun") else None)


@pytest.mark.parametrize("percent", [0, 50, 100, 12.5])
def test_progress_in_percent_is_passed_on(provider: InferenceSh, percent: float) -> None:
    assert poll(provider, reply({"id": "task-1", "status": 7, "progress": percent})).progress == percent / 100


@pytest.mark.parametrize("percent", [-1, 101, "50", True, None, [50]])
def test_a_progress_that_is_none_is_left_out(provider: InferenceSh, percent: Any) -> None:
    assert poll(provider, reply({"id": "task-1", "status": 7, "progress": percent})).progress is None


def test_a_running_task_costs_one_light_call_a_poll(provider: InferenceSh) -> None:
    done = drive(provider.poll([REF]), reply({"id": "task-1", "status": 7}))
    assert [(call.url, call.effect) for call in done.calls] == [("/tasks/task-1/status", Effect.READ)]


# Streams.


def test_a_stream_asks_for_lines_of_json(provider: InferenceSh) -> None:
    call = provider.stream(REF).call
    assert (call.method, call.url, call.headers["accept"]) == ("GET", "/tasks/task-1/stream", "application/x-ndjson")


def test_each_stream_starts_from_nothing(provider: InferenceSh) -> None:
    """What an earlier stream told is not mixed into the next one's parts."""
    first = provider.stream(REF)
    reported = first.read(json.dumps({"id": "task-1", "status": 10, "output": {"image": IMAGE}}))
    assert reported is not None
    assert reported.status is Status.COMPLETED
    part = json.dumps({"data": {"status": 10}, "fields": ["status"]})
    assert provider.stream(REF).read(part) is None


def test_what_a_stream_said_before_does_not_change_afterwards(provider: InferenceSh) -> None:
    stream = provider.stream(REF)
    first = stream.read(json.dumps({"id": "task-1", "status": 7}))
    stream.read(json.dumps({"data": {"status": 9}, "fields": ["status"]}))
    assert first is not None
    assert first.raw["status"] == 7


# Searching for a lost submission.


def listed(task_id: str, **more: Any) -> dict[str, Any]:
    asked = {"prompt": "a boat", "aspect_ratio": "16:9", "resolution": "1k", "n": 1}
    return {"id": task_id, "status": 7, "created_at": SINCE.isoformat(), "input": asked, **more}


def search(
    provider: InferenceSh, request: ImageO1, callback: str | None, *pages: Mapping[str, Any]
) -> tuple[list[str], list[Call]]:
    done = drive(provider.search(request, callback, SINCE), *(reply({"data": page}) for page in pages))
    assert all(isinstance(found, Accepted) for found in done.value)
    return [found.id for found in done.value], done.calls


def test_a_lost_submission_is_found_by_its_callback_address(provider: InferenceSh) -> None:
    ours = "https://hooks.example.com/k/1"
    tasks = [
        listed("other", webhook="https://hooks.example.com/k/2"),
        listed("ours", webhook=ours),
        listed("never-called-back", webhook=None),
        listed("bare", input={}),
    ]
    found, calls = search(provider, ImageO1("a boat"), ours, {"items": tasks, "has_next": False})
    assert found == ["ours"]
    assert [(call.url, call.effect) for call in calls] == [("/tasks/list", Effect.READ)]
    assert sent(calls[0]) == {"limit": 50, "sort": [{"field": "created_at", "dir": "desc"}]}


def test_without_an_address_the_input_decides(provider: InferenceSh) -> None:
    tasks = [
        listed("ours", app={"namespace": "klingai", "name": "image-o1"}),
        listed("twin", webhook=None),
        listed("another-prompt", input={"prompt": "a fox"}),
        listed("another-app", app="klingai/image-o3"),
        listed("called-back", webhook="https://hooks.example.com/k/2"),
        listed("too-old", created_at=(SINCE - timedelta(minutes=2)).isoformat()),
        {"id": 7},
        "not a task",
    ]
    found, _ = search(provider, ImageO1("a boat"), None, {"items": tasks})
    assert found == ["ours", "twin"]


@pytest.mark.parametrize("uploaded", [True, False])
def test_an_uploaded_image_is_compared_by_being_there(provider: InferenceSh, *, uploaded: bool) -> None:
    given = {"prompt": "a boat", "aspect_ratio": "16:9", "resolution": "1k", "n": 1}
    image = {"image": "https://cloud.inference.sh/u/1/in.png"} if uploaded else {}
    found, _ = search(provider, ImageO1("a boat", PNG), None, {"items": [listed("ours", input=given | image)]})
    assert found == (["ours"] if uploaded else [])


def test_pages_are_turned_until_the_tasks_are_older_than_the_submission(provider: InferenceSh) -> None:
    recent = {"items": [listed(f"n{index}", input={}) for index in range(50)], "has_next": True, "next_cursor": "c2"}
    last = {
        "items": [listed("ours"), listed("old", created_at="2026-01-01T00:00:00Z")],
        "has_next": True,
        "next_cursor": "c3",
    }
    found, calls = search(provider, ImageO1("a boat"), None, recent, last)
    assert found == ["ours"]
    assert [sent(call).get("cursor") for call in calls] == [None, "c2"]


def test_a_list_without_end_is_given_up(provider: InferenceSh) -> None:
    page = {"items": [listed("other", input={})], "has_next": True, "next_cursor": "again"}
    found, calls = search(provider, ImageO1("a boat"), None, *[page] * 20)
    assert (found, len(calls)) == ([], 20)


@pytest.mark.parametrize("data", [[], {}, {"items": None}, None, "x"])
def test_an_answer_that_is_no_list_is_unreadable(provider: InferenceSh, data: Any) -> None:
    with pytest.raises(KlingError, match="it lists no tasks"):
        drive(provider.search(ImageO1("a boat"), None, SINCE), reply({"data": data}))


def test_a_refused_list_is_an_error(provider: InferenceSh) -> None:
    refused = {"type": "https://api.inference.sh/errors/insufficient_scope", "title": "Forbidden", "status": 403}
    with pytest.raises(KlingError, match="insufficient_scope"):
        drive(provider.search(ImageO1("a boat"), None, SINCE), reply(refused, 403))


def test_a_task_that_is_gone_is_not_found(provider: InferenceSh) -> None:
    gone = reply({"type": "https://api.inference.sh/errors/not_found", "title": "Not Found", "status": 404}, 404)
    with pytest.raises(JobNotFound):
        drive(provider.poll([REF]), gone, gone)


def test_the_module_offers_both_tables() -> None:
    assert set(inferencesh.__all__) >= {"CURRENT", "OLDER", "ImageO1", "InferenceSh"}
    assert (OLDER[9], CURRENT[9], CURRENT[10]) == ("completed", "uploading", "completed")

"""Runware's requests, and its flows driven by hand with what the wire says."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

import kling_async
from kling_async import (
    Client,
    ContentRejected,
    Event,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    JobRef,
    KlingError,
    Polling,
    Progressive,
    ProviderUnavailable,
    RateLimited,
    Runware,
    Status,
    Unauthorized,
    runware,
)
from kling_async._tracking.transitions import advance
from kling_async.providers._base.provider import Accepted
from kling_async.providers.base import Call, Effect, Flow, Reply, StatusReport, UnreadableReply
from support.samples import drive

ImageO3 = runware.ImageO3
KEY = "6f1c1f0e-3c1b-4c7e-9a55-0d7f6a1f2b3c"
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII=")
DATA_URI = "data:image/png;base64," + base64.b64encode(PNG).decode()

# The table of runware.ai/docs/models/klingai-image-o3, as it stands there.
TABLE = """
    1:1        3:2 / 2:3            4:3 / 3:4            16:9 / 9:16          21:9
1k  1024x1024  1248x832 / 832x1248  1168x880 / 880x1168  1360x768 / 768x1360  1552x656
2k  2048x2048  2496x1664 / 1664x2496  2336x1760 / 1760x2336  2720x1536 / 1536x2720  3104x1312
4k  4096x4096  4992x3328 / 3328x4992  4736x3520 / 3520x4736  5440x3072 / 3072x5440  6272x2688
"""


def documented_sizes() -> list[tuple[str, str, int, int]]:
    head, *rows = TABLE.replace("/", " ").strip().splitlines()
    ratios = head.split()
    found = []
    for row in rows:
        tier, *sizes = row.split()
        for ratio, size in zip(ratios, sizes, strict=True):
            width, height = size.split("x")
            found.append((tier, ratio, int(width), int(height)))
    return found


# The request.


def test_there_are_24_sizes() -> None:
    assert len(documented_sizes()) == 24


@pytest.mark.parametrize(("tier", "ratio", "width", "height"), documented_sizes())
def test_either_form_of_the_size_gives_the_other(tier: str, ratio: str, width: int, height: int) -> None:
    by_pair = ImageO3(prompt="x", width=width, height=height)
    by_name = ImageO3.model_validate({"prompt": "x", "resolution": tier, "aspect_ratio": ratio})
    assert by_pair == by_name
    assert (by_name.width, by_name.height) == (width, height)
    assert (by_pair.resolution, by_pair.aspect_ratio) == (tier, ratio)
    both = {"width": width, "height": height, "resolution": tier, "aspect_ratio": ratio}
    assert ImageO3.model_validate({"prompt": "x", **both}) == by_pair


@pytest.mark.parametrize(
    ("given_size", "size"),
    [
        ({}, (1024, 1024)),
        ({"resolution": "2k"}, (2048, 2048)),
        ({"aspect_ratio": "16:9"}, (1360, 768)),
        ({"width": "2496", "height": "1664"}, (2496, 1664)),
        ({"width": None, "height": None, "resolution": "4k", "aspect_ratio": None}, (4096, 4096)),
    ],
)
def test_what_is_not_said_of_the_size_is_one_to_one_at_1k(given_size: dict[str, Any], size: tuple[int, int]) -> None:
    request = ImageO3.model_validate({"prompt": "x", **given_size})
    assert (request.width, request.height) == size


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 1024}, "width and height belong together"),
        ({"height": 1024, "resolution": "1k"}, "width and height belong together"),
        ({"width": 1000, "height": 1000}, "1000x1000 is not a size of this model; there are 1k: 1024x1024, 1248x832"),
        ({"width": 1024, "height": 1024, "resolution": "2k"}, "has resolution 1k, but resolution says '2k'"),
        ({"width": 1360, "height": 768, "aspect_ratio": "9:16"}, "has aspect_ratio 16:9, but aspect_ratio says '9:16'"),
        ({"resolution": "1K"}, "Input should be '1k', '2k' or '4k'"),
        ({"resolution": "4k", "aspect_ratio": "9:21"}, "Input should be '1:1', '3:2'"),
        ({"aspect_ratio": "auto"}, "Input should be '1:1', '3:2'"),
        ({"width": "wide", "height": "high"}, "unable to parse string as an integer"),
        ({"width": [1], "height": {}}, "Input should be a valid integer"),
        ({"prompt": ""}, "at least 1 character"),
        ({"prompt": "x" * 2501}, "at most 2500 characters"),
        ({"references": ["https://example.com/a.png"] * 11}, "11 reference images were given; at most 10"),
        ({"references": ["photo.png"]}, "neither an http"),
        ({"references": [b"GIF89a...."]}, "is a GIF by its content; allowed are JPEG, PNG, WEBP"),
        ({"references": [Path("/nonexistent/a.png")]}, "cannot be read: No such file"),
        ({"count": 0}, "greater than or equal to 1"),
        ({"count": 21}, "less than or equal to 20"),
        ({"output_type": "url"}, "Input should be 'URL', 'base64Data' or 'dataURI'"),
        ({"output_format": "gif"}, "Input should be 'jpeg', 'png' or 'webp'"),
        ({"output_quality": 19}, "greater than or equal to 20"),
        ({"output_quality": 100}, "less than or equal to 99"),
        ({"upload_endpoint": "http://example.com/put"}, "upload endpoint must be an https:// URL"),
        ({"callback_url": "http://example.com/hook"}, "callback address must be an https:// URL"),
        ({"safety": "full"}, "Input should be 'none' or 'fast'"),
        ({"safety": {"checkContent": True, "mode": "none"}}, "contradict each other; give one"),
        ({"safety": {"level": 3}}, "safety is an object with the fields checkContent and mode"),
        ({"ttl": 59}, "greater than or equal to 60"),
        ({"ttl": 60, "output_type": "base64Data"}, "ttl is for output type URL"),
        ({"delivery": "stream"}, "Input should be 'async' or 'sync'"),
        ({"seed": 5}, "There is no such field"),
        ({"taskType": "videoInference"}, "taskType is 'videoInference', but this is a request for 'imageInference'"),
        ({"model": "klingai:kling-image@o1"}, "but this is a request for 'klingai:kling-image@o3'"),
        ({"positivePrompt": "y"}, "'positivePrompt' and 'prompt' are the same field; give one"),
        ({"inputs": {"referenceImages": []}, "references": []}, "'inputs' and 'references' are the same field"),
        ({"inputs": {"image": "https://example.com/a.png"}}, "inputs is an object with one field, referenceImages"),
        ({"inputs": {"referenceImages": "https://example.com/a.png"}}, "inputs.referenceImages must be a list"),
    ],
)
def test_a_wrong_field_is_refused_with_what_is_allowed(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ImageO3.model_validate({"prompt": "x", **fields})
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "x" * 2500, "count": 20, "output_quality": 99, "ttl": 60},
        {"prompt": "x", "count": 1, "output_quality": 20, "output_type": "dataURI"},
        {"prompt": "x", "references": [DATA_URI, PNG, KEY, *["https://example.com/a.png"] * 7]},
        {"prompt": "x", "upload_endpoint": "http://127.0.0.1:9/put", "safety": "fast"},
    ],
)
def test_the_limits_themselves_are_allowed(fields: dict[str, Any]) -> None:
    request = ImageO3.model_validate(fields)
    assert {name: getattr(request, name) for name in fields if name != "references"} == {
        name: value for name, value in fields.items() if name != "references"
    }


def test_runware_s_own_json_validates() -> None:
    task = {
        "taskType": "imageInference",
        "taskUUID": "0b7c9f0e-0000-4000-8000-000000000000",
        "model": "klingai:kling-image@o3",
        "positivePrompt": "a boat",
        "width": 2496,
        "height": 1664,
        "inputs": {"referenceImages": ["https://example.com/a.png", DATA_URI.partition(",")[2], KEY]},
        "outputType": "URL",
        "outputFormat": "WEBP",
        "outputQuality": 80,
        "webhookURL": "https://example.com/hook",
        "deliveryMethod": "sync",
        "uploadEndpoint": "https://example.com/put?signature=s",
        "safety": {"checkContent": True},
        "ttl": 120,
        "includeCost": False,
        "numberResults": 3,
    }
    assert ImageO3.model_validate(task) == ImageO3(
        prompt="a boat",
        resolution="2k",
        aspect_ratio="3:2",
        references=("https://example.com/a.png", PNG, KEY),  # bare base64 is an image too
        output_format="webp",
        output_quality=80,
        callback_url="https://example.com/hook",
        delivery="sync",
        upload_endpoint="https://example.com/put?signature=s",
        safety="fast",
        ttl=120,
        include_cost=False,
        count=3,
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({}, "none"),
        ({"checkContent": False}, "none"),
        ({"checkContent": True}, "fast"),
        ({"mode": "fast"}, "fast"),
        ({"checkContent": True, "mode": "fast"}, "fast"),
        ({"checkContent": False, "mode": "none"}, "none"),
    ],
)
def test_safety_is_one_word(theirs: dict[str, Any], ours: str) -> None:
    assert ImageO3.model_validate({"prompt": "x", "safety": theirs}).safety == ours


def test_a_presigned_address_is_not_shown_with_its_signature() -> None:
    request = ImageO3(prompt="x", upload_endpoint="https://bucket.example.com/put?X-Signature=secret")
    assert "secret" not in repr(request)
    assert "bucket.example.com/put" in repr(request)


def test_local_files_travel_as_data_uris(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    request = ImageO3(prompt="x", references=(path,)).with_files({path: PNG})
    assert sent(request)["inputs"] == {"referenceImages": [DATA_URI]}


@pytest.mark.parametrize(
    ("fields", "dollars"), [({}, "0.028"), ({"resolution": "2k", "count": 3}, "0.084"), ({"resolution": "4k"}, "0.056")]
)
def test_the_documented_price(fields: dict[str, Any], dollars: str) -> None:
    endpoint = Runware.endpoints[0]
    cost = endpoint.price(ImageO3.model_validate({"prompt": "x", **fields}))
    assert cost is not None
    assert (str(cost.amount), cost.unit) == (dollars, "USD")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/rw", "http://127.0.0.1:9/rw/", "http://127.0.0.1:9/rw/v1/"])
def test_an_address_is_understood_with_the_version_and_without(address: str) -> None:
    provider = Runware("key", address)
    [call] = drive(provider.poll([ref(KEY)]), [Reply(200, content=b'{"data":[]}')])[1]
    assert provider.base_url + call.url == "http://127.0.0.1:9/rw/v1"


# Flows.


def ref(identity: str) -> JobRef:
    return JobRef("runware", "image-o3", identity)


def sent(request: runware.ImageO3) -> dict[str, Any]:
    call = next(Runware("key").submit(request, KEY, None))
    [task] = json.loads(call.body)
    assert isinstance(task, dict)
    return task


def answer(*, data: Sequence[Any] = (), errors: Sequence[Any] = (), status: int = 200) -> Reply:
    body: dict[str, Any] = {"data": list(data)}
    if errors:
        body["errors"] = list(errors)
    return Reply(status, {}, json.dumps(body).encode())


def image(name: str, uuid: str = KEY, **more: Any) -> dict[str, Any]:
    url = f"https://im.runware.ai/{name}.jpg"
    return {"taskUUID": uuid, "status": "success", "imageUUID": name, "imageURL": url, "cost": 0.028, **more}


def running(uuid: str = KEY) -> dict[str, Any]:
    return {"taskUUID": uuid, "status": "processing"}


def failed(code: str = "timeoutProvider", uuid: str = KEY) -> dict[str, Any]:
    return {"taskUUID": uuid, "status": "error", "code": code, "message": "no luck"}


def read(identity: str, reply: Reply) -> StatusReport:
    reports, calls = drive(Runware("key").poll([ref(identity)]), [reply])
    assert len(calls) == 1
    report = reports[ref(identity)]
    assert isinstance(report, StatusReport)
    return report


def test_a_submission_is_one_repeatable_post_under_our_uuid() -> None:
    accepted, [call] = drive(
        Runware("key").submit(ImageO3(prompt="x"), KEY, None), [answer(data=[{"taskUUID": KEY, "taskType": "x"}])]
    )
    assert isinstance(accepted, Accepted)
    assert accepted.id == KEY
    assert (call.effect, call.repeatable, call.timeout) == (Effect.PAID, True, None)
    assert json.loads(call.body)[0]["taskUUID"] == KEY


def test_a_sync_submission_waits_long() -> None:
    call = next(Runware("key").submit(ImageO3(prompt="x", delivery="sync"), KEY, None))
    assert call.timeout == 300


def test_the_client_s_webhook_address_gives_way_to_the_request_s_own() -> None:
    for own, expected in ((None, "https://client.example"), ("https://own.example", "https://own.example")):
        call = next(Runware("key").submit(ImageO3(prompt="x", callback_url=own), KEY, "https://client.example"))
        assert json.loads(call.body)[0]["webhookURL"] == expected


@pytest.mark.parametrize(
    "lost",
    [Reply(200, {}, b"{}"), Reply(200, {}, b"<html>"), answer(data=[running("other")]), Reply(200, {}, b"[]")],
    ids=["empty", "html", "another task", "list"],
)
def test_an_answer_that_does_not_tell_is_asked_for_once_more(lost: Reply) -> None:
    """The second answer decides: the first POST bought it, or the second, and never both."""
    conflict = answer(errors=[{"code": "conflictTaskUUID", "taskUUID": KEY}], status=400)
    for second in (conflict, answer(data=[{"taskUUID": KEY}])):
        accepted, calls = drive(Runware("key").submit(ImageO3(prompt="x"), KEY, None), [lost, second])
        assert isinstance(accepted, Accepted)
        assert (accepted.id, accepted.report.status) == (KEY, Status.PENDING)
        assert [call.body for call in calls] == [calls[0].body] * 2


def test_a_submission_that_is_never_reported_is_asked_for_twice_and_no_more() -> None:
    error, calls = drive(Runware("key").submit(ImageO3(prompt="x"), KEY, None), [Reply(200, {}, b"{}")])
    assert isinstance(error, ProviderUnavailable)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("code", "kind", "retryable"),
    [
        ("insufficientCredits", InsufficientCredits, False),
        ("quotaExceeded", InsufficientCredits, False),
        ("paymentRequired", InsufficientCredits, False),
        ("rateLimitExceeded", RateLimited, True),
        ("providerRateLimitExceeded", RateLimited, True),
        ("contentPolicyViolation", ContentRejected, False),
        ("providerContentPolicyViolation", ContentRejected, False),
        ("nsfwContentDetected", ContentRejected, False),
        ("promptBlocked", ContentRejected, False),
        ("invalidProviderContent", ContentRejected, False),
        ("invalidApiKey", Unauthorized, False),
        ("authTimeout", Unauthorized, False),
        ("tokenExpired", Unauthorized, False),
        ("organizationDisabled", Unauthorized, False),
        ("timeoutProvider", ProviderUnavailable, True),
        ("inferenceTimeout", ProviderUnavailable, True),
        ("taskFailedOrNotFound", JobNotFound, False),
        ("imageNotFound", InvalidRequest, False),
        ("mediaExpired", InvalidRequest, False),
        ("internalServerError", ProviderUnavailable, True),
        ("providerUnavailable", ProviderUnavailable, True),
        ("modelNotReady", ProviderUnavailable, True),
        ("invalidWidth", InvalidRequest, False),
        ("unsupportedParameter", InvalidRequest, False),
        ("maxDimension", InvalidRequest, False),
    ],
)
def test_codes_fall_into_the_classes_of_the_sdk(code: str, kind: type[KlingError], *, retryable: bool) -> None:
    refused = Runware("key").errors.parse_error(answer(errors=[{"code": code, "message": "no"}], status=418))
    assert type(refused) is kind
    assert refused.code == code
    [failure] = read(KEY, answer(errors=[failed(code)])).failures
    assert (failure.code, failure.retryable) == (code, retryable)


def test_a_code_nobody_knows_goes_by_the_http_status_and_is_not_retried() -> None:
    provider = Runware("key")
    for status, kind in ((400, InvalidRequest), (402, InsufficientCredits), (500, ProviderUnavailable)):
        assert type(provider.errors.parse_error(answer(errors=[{"code": "brandNew"}], status=status))) is kind
    assert not read(KEY, answer(errors=[failed("brandNew")])).failures[0].retryable


def test_the_images_of_a_job_accumulate_to_its_end() -> None:
    """One event for each image, the cost of all, and COMPLETED only with the last."""
    rows = [image("a"), image("b"), image("c")]
    latest: Event | None = None
    log: list[Event] = []
    for made in (0, 1, 1, 2, 3, 2):
        report = read(f"{KEY}~3", answer(data=[*rows[:made], *[running()] * (3 - made)]))
        event = advance(latest, report, source="poll", at=1e9 + len(log), started=1e9)
        latest = event or latest
        log += [event] if event else []
    assert [(event.status, len(event.artifacts)) for event in log] == [
        (Status.PROCESSING, 0),
        (Status.PROCESSING, 1),
        (Status.PROCESSING, 2),
        (Status.COMPLETED, 3),
    ]
    assert [str(event.cost.amount) for event in log if event.cost] == ["0.028", "0.056", "0.084"]
    assert [artifact.index for artifact in log[-1].artifacts] == [0, 1, 2]


@given(st.data())
def test_whatever_polls_tell_in_between_the_end_is_the_same(data: st.DataObject) -> None:
    """Any subsets of the rows, in any order and repeated, then all of them: all images once, all failures, one end."""
    count = data.draw(st.integers(1, 6))
    fails = data.draw(st.integers(0, count))
    rows = [image(f"i{number}") for number in range(count - fails)]
    errors = [failed()] * fails
    everything = answer(data=rows, errors=errors)
    latest: Event | None = None
    ends = 0
    for _ in range(data.draw(st.integers(0, 5))):
        some = data.draw(st.lists(st.sampled_from(rows), max_size=8)) if rows else []
        few = errors[: data.draw(st.integers(0, fails))]
        report = read(f"{KEY}~{count}", answer(data=[*some, running()], errors=few))
        whole = len({row["imageUUID"] for row in some}) + len(few) == count
        assert report.status is not None
        assert report.status.terminal == whole
        event = advance(latest, report, source="poll", at=1e9, started=1e9)
        latest = event or latest
        ends += event is not None and event.status.terminal
    event = advance(latest, read(f"{KEY}~{count}", everything), source="poll", at=1e9, started=1e9)
    ends += event is not None
    latest = event or latest
    assert latest is not None
    assert ends == 1
    assert latest.status is (Status.FAILED if fails == count else Status.COMPLETED)
    assert sorted(str(artifact.id) for artifact in latest.artifacts) == [row["imageUUID"] for row in rows]
    assert len(latest.failures) == fails


def test_nothing_known_changes_nothing() -> None:
    """`{"data": []}` after an image was seen: neither failure nor a step back."""
    seen = advance(None, read(f"{KEY}~2", answer(data=[image("a"), running()])), source="poll", at=1e9, started=1e9)
    assert advance(seen, read(f"{KEY}~2", answer()), source="poll", at=1e9, started=1e9) is None


def test_inline_images_are_kept_once() -> None:
    text = base64.b64encode(PNG).decode()
    row = {"taskUUID": KEY, "status": "success", "imageUUID": "a", "imageBase64Data": text}
    reports, [call] = drive(Runware("key").poll([ref(f"{KEY}~1i")]), [answer(data=[row])])
    [report] = reports.values()
    assert report.artifacts[0].data == PNG
    assert text not in json.dumps(report.raw)
    assert call.max_bytes > 512 * 1024**2


def many(count: int) -> list[JobRef]:
    return [ref(f"{number:08x}-0000-4000-8000-000000000000") for number in range(count)]


def perform(refs: Sequence[JobRef], provider: Callable[[list[str]], Reply]) -> tuple[Any, list[list[str]]]:
    """Poll against a function from the UUIDs that are asked about to the reply."""
    flow = Runware("key").poll(refs)
    asked: list[list[str]] = []

    def reply(call: Call) -> Reply:
        tasks = json.loads(call.body)
        assert call.effect is Effect.READ
        assert all(set(task) == {"taskType", "taskUUID"} for task in tasks)
        asked.append([task["taskUUID"] for task in tasks])
        return provider(asked[-1])

    try:
        call = next(flow)
        while True:
            call = flow.send(reply(call))
    except StopIteration as end:
        return end.value, asked


def test_fifty_jobs_are_one_call() -> None:
    refs = many(50)
    reports, asked = perform(refs, lambda uuids: answer(data=[image(uuid, uuid) for uuid in reversed(uuids)]))
    assert len(asked) == 1
    assert {report.artifacts[0].id for report in reports.values()} == {one.id for one in refs}
    assert all(report.artifacts[0].id == one.id for one, report in reports.items())
    assert Runware.features.batch == len(refs)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
@pytest.mark.parametrize("culprit", [0, 17, 49])
def test_a_rejected_batch_is_halved_down_to_the_culprit(status: int, culprit: int) -> None:
    """The others are answered, the culprit gets the error, and it costs a logarithm of calls."""
    refs = many(50)
    bad = refs[culprit]

    def provider(uuids: list[str]) -> Reply:
        if bad.id in uuids:
            return Reply(status, {}, b'{"errors":[{"code":"validationFailed","message":"no"}]}')
        return answer(data=[running(uuid) for uuid in uuids])

    reports, asked = perform(refs, provider)
    assert isinstance(reports.pop(bad), InvalidRequest)
    assert len(reports) == 49
    assert all(report.status is Status.PROCESSING for report in reports.values())
    assert len(asked) <= 13


def test_a_culprit_that_is_named_costs_one_call_more() -> None:
    refs = many(50)
    bad = refs[3].id

    def provider(uuids: list[str]) -> Reply:
        if bad in uuids:
            return answer(errors=[{"code": "invalidTaskUUID", "taskUUID": bad}], status=400)
        return answer(data=[running(uuid) for uuid in uuids])

    reports, asked = perform(refs, provider)
    assert [len(uuids) for uuids in asked] == [50, 49]
    assert isinstance(reports[refs[3]], InvalidRequest)
    assert sum(isinstance(report, StatusReport) for report in reports.values()) == 49


@pytest.mark.parametrize(("status", "code"), [(401, "invalidApiKey"), (402, "insufficientCredits"), (403, "forbidden")])
def test_what_no_halving_can_cure_is_not_halved(status: int, code: str) -> None:
    refs = many(50)
    reply = answer(errors=[{"code": code, "taskUUID": refs[0].id}], status=status)
    reports, asked = perform(refs, lambda _: reply)
    assert len(asked) == 1
    assert {type(report).__name__ for report in reports.values()} <= {"Unauthorized", "InsufficientCredits"}
    assert len({id(report) for report in reports.values()}) == 50, "each job gets an error of its own"


def test_one_task_under_two_references_is_asked_about_once() -> None:
    reports, asked = perform([ref(KEY), ref(f"{KEY}~2")], lambda _: answer(data=[image("a")]))
    assert asked == [[KEY]]
    assert [report.status for report in reports.values()] == [Status.COMPLETED, Status.PROCESSING]


def test_an_error_that_is_no_end_leaves_the_job_alone() -> None:
    """A refusal of the question is an error of the poll, whatever task it names."""
    for code, kind in (("rateLimitExceeded", RateLimited), ("invalidApiKey", Unauthorized)):
        error = {"code": code, "message": "no", "taskUUID": KEY}
        reports, _ = drive(Runware("key").poll([ref(KEY)]), [answer(errors=[error])])
        assert type(reports[ref(KEY)]) is kind
    question = {"code": "internalServerError", "taskType": "getResponse", "taskUUID": KEY}
    reports, _ = drive(Runware("key").poll([ref(KEY)]), [answer(errors=[question])])
    assert type(reports[ref(KEY)]) is ProviderUnavailable


def test_a_webhook_never_says_that_a_job_has_ended() -> None:
    """One body tells of one image. Neither its end nor its cost is the job's."""
    for body in ({"data": [image("a")]}, {"errors": [failed()]}, image("a"), [image("a"), failed()]):
        [delivered] = Runware("key").parse_webhook(json.dumps(body).encode(), {})
        assert delivered.id == KEY
        assert delivered.report.status is Status.PROCESSING
        assert delivered.report.cost is None


@pytest.mark.anyio
async def test_a_file_is_renewed_under_its_own_address(anyio_backend: str, tmp_path: Path) -> None:
    """Images that became known in another order than Runware lists them in: each is saved from its own new URL."""
    polls = itertools.count()

    def serve(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            if "old" in request.url.path:
                return httpx.Response(410)
            return httpx.Response(200, content=b"\xff\xd8\xff" + request.url.path.encode())
        [task] = json.loads(request.content)
        uuid = task["taskUUID"]
        if task["taskType"] == "imageInference":
            return httpx.Response(200, json={"data": [{"taskUUID": uuid}]})
        poll = next(polls)
        age = "old" if poll < 2 else "new"
        rows = [image("a", uuid), image("b", uuid)]
        rows = [{**row, "imageURL": f"https://im.runware.ai/{age}-{row['imageUUID']}.jpg"} for row in rows]
        return httpx.Response(200, json={"data": [rows[1], running(uuid)] if poll == 0 else rows})

    async with Client(
        Runware("key"), http=httpx.MockTransport(serve), polling=Polling(schedule=Progressive(0.01))
    ) as client:
        result = await client.run(ImageO3(prompt="x", count=2))
        assert [artifact.id for artifact in result.artifacts] == ["b", "a"]
        first, second = await result.save(tmp_path)
    assert first.read_bytes().endswith(b"/new-b.jpg")
    assert second.read_bytes().endswith(b"/new-a.jpg")


# Polls together, in virtual time.


class FakeRunware:
    """Runware in memory: jobs that end at a given time, and every array that was asked about."""

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.asked: list[list[str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        uuids = [task["taskUUID"] for task in json.loads(request.content)]
        self.asked.append(uuids)
        over = anyio.current_time() >= self.ends
        return httpx.Response(200, json={"data": [image(uuid, uuid) if over else running(uuid) for uuid in uuids]})

    def client(self) -> Client:
        polling = Polling(schedule=Progressive(1.0), deadline=60)
        return Client(Runware("key"), http=httpx.MockTransport(self), polling=polling)


@pytest.mark.virtual_time
@pytest.mark.anyio
async def test_jobs_that_are_due_together_travel_together(anyio_backend: Any) -> None:
    """120 jobs, waited for all at once, are three full calls a round, and no job is asked about twice in one."""
    server = FakeRunware(anyio.current_time() + 4.5)
    async with server.client() as client:
        jobs = [client.attach(one) for one in many(120)]
        async with anyio.create_task_group() as group:
            for job in jobs:
                group.start_soon(job.wait)
    assert [job.status for job in jobs] == [Status.COMPLETED] * 120
    rounds = [server.asked[start : start + 3] for start in range(0, len(server.asked), 3)]
    assert len(rounds) <= 7
    for asked in rounds:
        assert sorted(map(len, asked)) == [20, 50, 50]
        assert len({uuid for uuids in asked for uuid in uuids}) == 120


@pytest.mark.virtual_time
@pytest.mark.anyio
async def test_whoever_stops_waiting_takes_no_other_job_along(anyio_backend: Any) -> None:
    """Waiters are cancelled at every moment of a round, also while their poll has been granted. The others finish."""
    server = FakeRunware(anyio.current_time() + 4.5)
    async with server.client() as client:
        jobs = [client.attach(one) for one in many(120)]
        async with anyio.create_task_group() as group:
            for number, job in enumerate(jobs):
                if number % 2:
                    group.start_soon(job.wait)
                else:
                    group.start_soon(job.wait, number / 60)  # up to 2 s, in steps shorter than a poll waits for others
        assert [job.status for job in jobs[1::2]] == [Status.COMPLETED] * 60
        assert not any(job.status.terminal for job in jobs[::2])
        assert len(server.asked) <= 30


@pytest.mark.virtual_time
@pytest.mark.asyncio
async def test_a_poll_that_is_granted_and_not_made_sets_its_batch_free() -> None:
    """The leader of an array is cancelled before it is sent. The others that were in it are polled later."""
    server = FakeRunware(anyio.current_time() + 0.5)
    waiters: dict[kling_async.Job, asyncio.Task[Status]] = {}
    left: list[kling_async.Job] = []

    class Interrupting(Runware):
        def poll(self, refs: Sequence[JobRef]) -> Flow[Mapping[JobRef, StatusReport | KlingError]]:
            if not left:
                left.extend(job for job in waiters if job._tracked.poll_granted)
                for job in left:
                    waiters[job].cancel()
            return super().poll(refs)

    polling = Polling(schedule=Progressive(1.0), deadline=60)
    async with Client(Interrupting("key"), http=httpx.MockTransport(server), polling=polling) as client:
        for job in [client.attach(one) for one in many(120)]:
            waiters[job] = asyncio.create_task(job.wait())
        _, late = await asyncio.wait(waiters.values(), timeout=30)
    assert not late
    assert left
    assert {job for job, waiter in waiters.items() if waiter.cancelled()} == set(left)
    assert all(job.status is Status.COMPLETED for job in waiters if job not in left)


@pytest.mark.parametrize("status", [400, 401, 403, 422])
def test_an_answer_about_another_task_is_no_refusal(status: int) -> None:
    """It belongs to another call. The task is sent again under the same id, and its own answer decides."""
    flow = Runware("key").submit(ImageO3("a boat"), KEY, None)
    next(flow)
    other = {"code": "invalidPrompt", "message": "no", "taskUUID": "11111111-1111-4111-8111-111111111111"}
    repeated = flow.send(answer(errors=[other], status=status))
    assert repeated.repeatable
    with pytest.raises(UnreadableReply, match="names another task"):
        flow.send(answer(errors=[other], status=status))

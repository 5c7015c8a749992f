"""PixelDojo's request and provider: fields, the two names of the count, credits, errors, and when it is polled.

The wire itself is recorded in ``samples/pixeldojo`` and driven by the contract test.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

import httpx
import pytest
from anyio import current_time
from pydantic import ValidationError

from kling_async import (
    Client,
    ConfigurationError,
    Cost,
    GenerationFailed,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    KlingError,
    PixelDojo,
    Polling,
    ProviderUnavailable,
    RateLimited,
    SubmissionUnknown,
    Unauthorized,
    pixeldojo,
)
from kling_async.providers.base import Effect, Reply

KEY = "pd_test_7e57"


def refused(**fields: Any) -> tuple[str, str]:
    """The field that is blamed (empty: the whole request), and what is said about it."""
    with pytest.raises(ValidationError) as caught:
        pixeldojo.ImageV3.model_validate({"prompt": "a fox", **fields})
    [error] = caught.value.errors()
    return ".".join(str(part) for part in error["loc"]), error["msg"].removeprefix("Value error, ")


def sent(request: pixeldojo.ImageV3, provider: PixelDojo | None = None) -> dict[str, Any]:
    """The JSON that is posted for a request."""
    flow = (provider or PixelDojo(KEY)).submit(request, "purchase", None)
    call = next(flow)
    flow.close()
    assert (call.method, call.url, call.effect) == ("POST", "/models/kling-image/run", Effect.PAID)
    assert not call.repeatable
    body: dict[str, Any] = json.loads(call.body)
    return body


# The request (docs/providers/pixeldojo.md, section 3).


def test_the_defaults_are_the_documented_ones() -> None:
    request = pixeldojo.ImageV3("a fox")
    assert (request.resolution, request.aspect_ratio, request.count, request.output_format) == ("1k", "1:1", 1, "png")
    assert request.negative_prompt is None
    assert sent(request) == {"prompt": "a fox", "resolution": "1K", "aspect_ratio": "1:1", "output_format": "png"}


def test_a_prompt_needs_a_character_and_has_no_upper_limit() -> None:
    assert refused(prompt="") == ("prompt", "String should have at least 1 character")
    assert sent(pixeldojo.ImageV3("x" * 10_000))["prompt"] == "x" * 10_000


@pytest.mark.parametrize(("given", "wire"), [("1k", "1K"), ("2k", "2K"), ("1K", "1K"), ("2K", "2K")])
def test_resolutions_are_ours_to_users_and_theirs_on_the_wire(given: str, wire: str) -> None:
    request = pixeldojo.ImageV3.model_validate({"prompt": "a fox", "resolution": given})
    assert request.resolution == wire.lower()
    assert sent(request)["resolution"] == wire


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("resolution", "4k", ["1k", "2k"]),
        ("resolution", 1, ["1k", "2k"]),
        ("resolution", None, ["1k", "2k"]),
        ("aspect_ratio", "auto", ["16:9", "9:16", "1:1", "4:3", "3:4", "3:2", "2:3", "21:9"]),
        ("aspect_ratio", "9:21", ["21:9"]),
        ("output_format", "jpg", ["png", "jpeg", "webp"]),
        ("output_format", "PNG", ["png", "jpeg", "webp"]),
        ("count", 0, ["greater than or equal to 1"]),
        ("count", 10, ["less than or equal to 9"]),
        ("count", 2.5, ["valid integer"]),
        ("count", True, ["valid integer"]),
        ("count", "many", ["valid integer"]),
        ("negative_prompt", 7, ["valid string"]),
        ("callback_url", "http://example.com/hook", ["https://"]),
        ("references", ["https://img.example/1.png"], ["There is no such field"]),
        ("image", "https://img.example/1.png", ["There is no such field"]),
    ],
)
def test_a_value_that_is_not_documented_is_refused(field: str, value: Any, allowed: list[str]) -> None:
    """The message names the field and what is allowed."""
    place, message = refused(**{field: value})
    assert place == field
    assert all(option in message for option in allowed), message


@pytest.mark.parametrize("count", [1, 9, "3"])
def test_counts_up_to_the_limit_are_accepted(count: int | str) -> None:
    request = pixeldojo.ImageV3.model_validate({"prompt": "a fox", "count": count})
    assert request.count == int(count)
    assert sent(request).get("num_outputs", 1) == int(count)


def test_an_empty_negative_prompt_is_not_sent() -> None:
    assert "negative_prompt" not in sent(pixeldojo.ImageV3("a fox", ""))
    assert sent(pixeldojo.ImageV3("a fox", "people"))["negative_prompt"] == "people"


# The two names of the count.


@pytest.mark.parametrize("name", ["num_outputs", "num_images"])
def test_users_json_may_have_the_count_under_either_name(name: str) -> None:
    assert pixeldojo.ImageV3.model_validate({"prompt": "a fox", name: 4}).count == 4
    assert refused(**{name: 4, "count": 4})[1] == f"'{name}' and 'count' are the same field; give one of them"
    assert refused(**{name: 10})[0] == "count"


def test_both_names_at_once_are_refused() -> None:
    assert "are the same field" in refused(num_outputs=2, num_images=2)[1]


@pytest.mark.parametrize("name", ["num_outputs", "num_images"])
def test_the_name_on_the_wire_can_be_chosen(name: Literal["num_outputs", "num_images"]) -> None:
    """Also where key and address come from the environment. One image needs no name."""
    given = PixelDojo(count_field=name)
    provider = given.with_environment({"PIXELDOJO_API_KEY": KEY, "PIXELDOJO_BASE_URL": "http://127.0.0.1:9/api/v1"})
    assert isinstance(provider, PixelDojo)
    assert provider.base_url == "http://127.0.0.1:9/api/v1"
    assert provider.credentials() == {"authorization": f"Bearer {KEY}"}
    body = sent(pixeldojo.ImageV3("a fox", count=2), provider)
    assert {key: value for key, value in body.items() if key.startswith("num_")} == {name: 2}
    assert not [key for key in sent(pixeldojo.ImageV3("a fox"), provider) if key.startswith("num_")]


def test_without_a_key_the_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match="set PIXELDOJO_API_KEY"):
        PixelDojo().with_environment({})


# Errors (docs/providers/pixeldojo.md, section 7).

KINDS: dict[str, tuple[int, type[KlingError]]] = {
    "unauthorized": (401, Unauthorized),
    "invalid_api_key": (401, Unauthorized),
    "insufficient_credits": (402, InsufficientCredits),
    "quota_exceeded": (429, InsufficientCredits),
    "invalid_request": (400, InvalidRequest),
    "model_not_found": (404, InvalidRequest),
    "rate_limited": (429, RateLimited),
    "internal_error": (500, ProviderUnavailable),
    "server_error": (500, ProviderUnavailable),
}


@pytest.mark.parametrize("code", KINDS)
def test_every_code_is_understood_in_every_envelope(code: str) -> None:
    """As an object, as text, as text with a message beside it, and whatever the HTTP status: the code decides."""
    status, kind = KINDS[code]
    for body in ({"error": {"code": code, "message": "Why.", "status": status}}, {"error": code, "message": "Why."}):
        for http in (status, 418):
            error = PixelDojo(KEY).errors.parse_error(Reply(http, content=json.dumps(body).encode()))
            assert type(error) is kind
            assert (error.code, error.http_status) == (code, http)
            assert "Why." in str(error)
    assert type(PixelDojo(KEY).errors.parse_error(Reply(status, content=json.dumps({"error": code}).encode()))) is kind


def test_an_empty_account_is_distinguished_from_a_forbidden_key_by_its_code() -> None:
    """The older description answers 403 to both."""
    provider = PixelDojo(KEY)
    empty = {"error": {"code": "insufficient_credits"}}
    assert type(provider.errors.parse_error(Reply(403, content=json.dumps(empty).encode()))) is InsufficientCredits
    assert (
        type(provider.errors.parse_error(Reply(403, content=b'{"error": "Insufficient credits."}')))
        is InsufficientCredits
    )
    assert type(provider.errors.parse_error(Reply(403, content=b'{"error": "Forbidden"}'))) is Unauthorized


def test_a_job_that_is_not_there_is_not_found() -> None:
    error = PixelDojo(KEY).errors.parse_error(
        Reply(404, content=b'{"error": {"code": "not_found", "message": "No such job"}}')
    )
    assert isinstance(error, JobNotFound)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', b"{}", b'{"error": null}', b'{"error": 7}'])
def test_what_is_no_envelope_is_no_refusal(body: bytes) -> None:
    assert PixelDojo(KEY).errors.parse_error(Reply(400, content=body)) is None


def test_an_error_never_repeats_the_key() -> None:
    for body in ({"error": {"code": KEY, "message": f"bad key {KEY}"}}, {"error": KEY}, {"message": f"bad key {KEY}"}):
        error = PixelDojo(KEY).errors.parse_error(Reply(401, content=json.dumps(body).encode()))
        assert error is not None
        assert KEY not in f"{error} {error!r} {error.code}"


# With a client, in virtual time.


class Server(httpx.AsyncBaseTransport):
    """PixelDojo with one job: `ends` seconds after the submission it says `end`."""

    def __init__(self) -> None:
        self.ends = 20.0
        self.end: dict[str, Any] = {"status": "completed", "output": {"images": ["https://temp.pixeldojo.ai/1.png"]}}
        self.accepted: dict[str, Any] = {
            "jobId": "job_1",
            "status": "pending",
            "statusUrl": "https://evil.example/steal",
            "creditCost": 1,
            "creditsRemaining": 41,
        }
        self.bought = 0
        self.polls: list[float] = []
        self._started = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url).startswith("https://pixeldojo.ai/api/v1/"), "no address of theirs is followed"
        if request.method == "POST":
            self.bought += 1
            self._started = current_time()
            return httpx.Response(202, json=self.accepted)
        assert request.url.path == "/api/v1/jobs/job_1"
        self.polls.append(round(current_time() - self._started))
        over = current_time() - self._started >= self.ends
        return httpx.Response(200, json={"jobId": "job_1", **(self.end if over else {"status": "processing"})})


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    made = Client(PixelDojo(KEY), http=server, polling=Polling(schedule="documented"))
    yield made
    await made.aclose()


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_cost_and_balance_are_reported_in_credits(client: Client, server: Server) -> None:
    job = await client.submit(pixeldojo.ImageV3("a fox"))
    assert job.cost == Cost(Decimal(1), "credits")
    assert job.events[0].balance == Cost(Decimal(41), "credits")
    result = await job
    assert (str(result.cost), str(result.balance)) == ("1 credit", "41 credits")
    assert [str(event.balance) for event in job.events] == ["41 credits"] * 3, "it stays known"
    assert server.bought == 1


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_it_is_looked_at_after_five_seconds_and_then_every_two(client: Client, server: Server) -> None:
    """And never at the address that the submission's answer names."""
    server.ends = 12.0
    job = await client.submit(pixeldojo.ImageV3("a fox"))
    result = await job
    assert server.polls == [5, 7, 9, 11, 13]
    assert result.urls == ["https://temp.pixeldojo.ai/1.png"]
    [artifact] = result.artifacts
    assert artifact.expires is not None
    assert artifact.expires - job.events[-1].at == timedelta(hours=24)


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_credit_given_back_shows_in_the_cost(client: Client, server: Server) -> None:
    server.end = {"status": "failed", "error": {"code": "internal_error", "message": "Oops"}, "creditCost": 0}
    with pytest.raises(GenerationFailed, match=r"internal_error: Oops .*submit the same request again") as failed:
        await client.run(pixeldojo.ImageV3("a fox"))
    assert failed.value.retryable
    assert failed.value.job.cost == Cost(Decimal(0), "credits")


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_fault_with_success_status_leaves_the_submission_in_doubt(client: Client, server: Server) -> None:
    """Whether it was charged is not known, so it is not sent again. A refusal is a refusal."""
    server.accepted = {"error": {"code": "internal_error", "message": "Oops"}}
    with pytest.raises(SubmissionUnknown):
        await client.submit(pixeldojo.ImageV3("a fox"))
    server.accepted = {"error": {"code": "insufficient_credits", "message": "1 credit needed"}}
    with pytest.raises(InsufficientCredits, match="check the PixelDojo account"):
        await client.submit(pixeldojo.ImageV3("a fox"))
    assert server.bought == 2


@pytest.mark.anyio
@pytest.mark.virtual_time
async def test_a_job_that_is_bought_is_kept_whatever_else_is_said(client: Client, server: Server) -> None:
    server.accepted = {"jobId": "job_1", "status": "completed", "output": None, "creditsRemaining": []}
    job = await client.submit(pixeldojo.ImageV3("a fox"))
    assert (job.status, job.cost, job.events[0].balance) == ("pending", None, None)
    assert (await job).urls == ["https://temp.pixeldojo.ai/1.png"]

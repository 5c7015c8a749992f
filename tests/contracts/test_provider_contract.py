"""The contract of all providers: the recorded samples (`samples`), and what holds for every one of them."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kling_async._clock import Clock
from kling_async._errors import ConfigurationError, KlingError
from kling_async._exchange import Call, Effect, Flow
from kling_async._http.limits import Limits
from kling_async._http.transport import ProviderTransport
from kling_async._models import JobRef
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers._base.endpoint import Endpoint
from kling_async.providers._base.images import Reference
from kling_async.providers._base.provider import Provider
from kling_async.providers._base.request import Request
from support.samples import KEY, SAMPLES, Sample, compare, drive, outcome

README = Path(__file__).parents[2] / "README.md"
FLOWS = [sample for sample in SAMPLES if sample.exchanges]
every_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
every_provider = pytest.mark.parametrize("kind", ALL_PROVIDERS, ids=lambda kind: kind.name)
every_endpoint = pytest.mark.parametrize(
    "endpoint", [endpoint for kind in ALL_PROVIDERS for endpoint in kind.endpoints], ids=lambda endpoint: endpoint.name
)


UNPRICED = {
    "kling/effects",
    "kling/virtual-try-on",
    "replicate/kling-lip-sync",
    "replicate/kling-o1",
    "replicate/kling-v2-0",
    "replicate/kling-v2-1",
    "replicate/kling-v2-5-turbo-pro",
    "replicate/kling-v3-omni-video",
    "replicate/model",
}
"""Endpoints for which no source states a price."""


def recorded_requests(endpoint: Endpoint[Any]) -> list[Request]:
    """The requests of the endpoint's recorded submissions; there is at least one."""
    found = [s.request(s.provider()) for s in SAMPLES if s.kind == "submit" and s.endpoint == endpoint.name]
    assert found, f"no submission of {endpoint.name} is recorded in tests/samples"
    return found


@every_sample
def test_the_recorded_replies_give_what_is_expected(sample: Sample) -> None:
    compare(outcome(sample), sample.data["expect"])


@pytest.mark.parametrize("sample", FLOWS, ids=lambda sample: sample.name)
def test_the_flow_makes_the_recorded_calls(sample: Sample) -> None:
    """Method, address, effect and the exact body of every call, and no call more."""
    _, calls = drive(sample.flow(), sample.replies)
    assert len(calls) == len(sample.exchanges)
    for call, exchange in zip(calls, sample.exchanges, strict=True):
        recorded = exchange["call"]
        assert (call.method, call.url, call.effect.value) == (recorded["method"], recorded["url"], recorded["effect"])
        is_json = call.headers.get("content-type") == "application/json"
        assert is_json == ("json" in recorded)
        if is_json:
            assert json.loads(call.body) == recorded["json"]
        elif call.method == "GET":
            assert call.body == b""
    if not sample.refs:
        paid = [call.effect is Effect.PAID for call in calls]
        bodies = {call.body for call in calls if call.effect is Effect.PAID and call.repeatable}
        searches = sum(call.effect is Effect.PAID and not call.repeatable for call in calls)
        assert searches <= 1, "what the provider does not recognise is sent once"
        assert paid.count(True) - searches <= 1 or len(bodies) == 1, "only what the provider recognises is sent twice"
        assert sample.kind == "error" or any(paid), "a submission buys"
        after = calls[max((n for n, one in enumerate(paid) if one), default=len(calls)) + 1 :]
        assert all(call.effect is Effect.READ for call in after), "after the paid call nothing but reading it back"


@every_sample
def test_samples_are_well_formed(sample: Sample) -> None:
    """A directory holds its provider's samples; each names its source, and speaks of jobs and fields that exist."""
    directory = sample.name.partition("/")[0]
    assert sample.data["source"]
    assert sample.kind in {"submit", "poll", "cancel", "error", "webhook", "stream"}
    endpoint = sample.provider().endpoint(sample.endpoint)
    assert sample.endpoint.startswith(f"{directory}/")
    assert all(ref.provider == directory for ref in sample.refs)
    assert set(sample.data.get("request", ())) <= set(endpoint.request.model_fields)
    if sample.kind in {"submit", "poll", "cancel", "error"}:
        assert sample.exchanges, "nothing would be driven"


@every_endpoint
def test_every_endpoint_is_recorded_in_every_operation_it_has(endpoint: Endpoint[Any]) -> None:
    [provider] = [kind for kind in ALL_PROVIDERS if kind.name == endpoint.name.partition("/")[0]]
    features = provider.features
    needed = {"submit", "poll"}
    needed |= {name for name in ("webhook", "stream", "cancel") if getattr(features, name)}
    recorded = [sample for sample in SAMPLES if sample.endpoint == endpoint.name]
    assert needed <= {sample.kind for sample in recorded}
    ends = {
        part.get("status")
        for sample in recorded
        if sample.kind == "poll"
        for part in sample.data["expect"].values()
        if isinstance(part, dict)
    }
    assert {"completed", "failed"} <= ends


@every_provider
def test_every_code_of_a_provider_is_recorded(kind: type[Provider]) -> None:
    """Each code that decides about an error stands in a sample, so that none is a guess of ours alone."""
    text = " ".join(json.dumps(sample.data) for sample in SAMPLES if sample.name.startswith(f"{kind.name}/"))
    assert [code for code in kind.error_mapper.codes if f'"{code}' not in text] == []


def extended(value: Any) -> Any:
    """The same JSON with a field that nobody knows in each of its objects."""
    if isinstance(value, dict):
        return {**{name: extended(part) for name, part in value.items()}, "xUnheardOf": {"a": [1, None]}}
    return [extended(part) for part in value] if isinstance(value, list) else value


@every_sample
def test_fields_of_a_reply_that_nobody_knows_are_ignored(sample: Sample) -> None:
    data = copy.deepcopy(sample.data)
    for exchange in data.get("exchanges", ()):
        if "json" in exchange["reply"]:
            exchange["reply"]["json"] = extended(exchange["reply"]["json"])
    if "body" in data:
        data["body"] = extended(data["body"])
    if "lines" in data:
        data["lines"] = [_extended_line(line) for line in data["lines"]]
    compare(outcome(replace(sample, data=data)), sample.data["expect"])


def _extended_line(line: str) -> str:
    try:
        return json.dumps(extended(json.loads(line)))
    except ValueError:
        return line


# Credentials.


@pytest.mark.parametrize(
    "sample", [s for s in FLOWS if all(r.ok for r in s.replies)], ids=lambda sample: str(sample.name)
)
@pytest.mark.anyio
async def test_credentials_travel_to_the_provider_and_to_nobody_else(sample: Sample, anyio_backend: str) -> None:
    """Calls to the provider's own paths carry the key; calls to absolute URLs (uploads) do not."""
    provider = sample.provider()
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        recorded = sample.replies[min(len(seen), len(sample.replies)) - 1]
        return httpx.Response(recorded.status, headers=dict(recorded.headers), content=recorded.content)

    transport = ProviderTransport(provider, Limits(max_attempts=1), httpx.MockTransport(answer), Clock())
    try:
        await transport.run(sample.flow())
    except KlingError:
        pass  # what comes of it is compared elsewhere
    finally:
        await transport.aclose()
    assert len(seen) == len(sample.exchanges)
    for request, exchange in zip(seen, sample.exchanges, strict=True):
        own = exchange["call"]["url"].startswith("/")
        assert str(request.url).startswith(provider.base_url) == own
        assert any(KEY in value for value in request.headers.values()) == own
        assert KEY not in str(request.url)


@every_provider
@pytest.mark.anyio
async def test_an_address_elsewhere_gets_no_credentials(kind: type[Provider], anyio_backend: str) -> None:
    """Whatever a flow does with an address that a reply named."""
    provider, seen = kind(KEY), list[httpx.Request]()

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={})

    def flow() -> Flow[None]:
        yield Call.get("/own")
        yield Call.get("https://elsewhere.example/upload")
        yield Call.get(f"{provider.base_url}.evil.example/upload")

    transport = ProviderTransport(provider, Limits(), httpx.MockTransport(answer), Clock())
    await transport.run(flow())
    await transport.aclose()
    assert [any(KEY in value for value in request.headers.values()) for request in seen] == [True, False, False]


@every_provider
def test_a_key_is_never_shown(kind: type[Provider]) -> None:
    provider = kind(KEY)
    assert KEY not in f"{provider!r} {provider} {vars(provider)}"


@every_provider
@pytest.mark.parametrize("key", ["", " ", "pd_\n", "pd key\r\nX-Evil: 1", "clé", " pd_1"])
def test_what_cannot_be_a_key_is_refused_without_being_shown(kind: type[Provider], key: str) -> None:
    """The blame is on where it came from; an empty variable is one that is not set."""
    flaw = "has characters that no key has" if key else "is empty"
    with pytest.raises(ConfigurationError, match=f"{flaw}.*check what is passed to {kind.__name__}") as passed:
        kind(key)
    assert kind.env_vars[0] not in str(passed.value)
    wanted = f"{flaw}.*check {kind.env_vars[0]}" if key else f"no API key for .*set {kind.env_vars[0]}"
    with pytest.raises(ConfigurationError, match=wanted) as found:
        kind().with_environment({kind.env_vars[0]: key})
    for refused in (passed, found):
        assert not key.strip() or key not in str(refused.value)


@every_provider
@pytest.mark.parametrize(
    "address", ["http://a.example", "ftp://a.example", "a.example", "https://", "http://127.0.0.1.a.example"]
)
def test_a_key_travels_over_https_or_to_this_machine_only(kind: type[Provider], address: str) -> None:
    with pytest.raises(ConfigurationError, match=f"must be an https:// URL.*check {kind.env_vars[1]}"):
        kind(KEY, address)
    assert kind(KEY, "http://127.0.0.1:8080/x/").base_url == "http://127.0.0.1:8080/x"


@every_provider
def test_key_and_address_come_from_the_environment(kind: type[Provider]) -> None:
    """Each that was not given; what was given stays."""
    key_variable, url_variable = kind.env_vars
    environment = {key_variable: KEY, url_variable: "https://proxy.example/p"}
    found = kind().with_environment(environment)
    assert (found.base_url, found.config.secret_texts) == ("https://proxy.example/p", (KEY,))
    assert kind(None, "https://mine.example").with_environment(environment).base_url == "https://mine.example"
    assert kind(KEY).with_environment({}).base_url == kind.default_url
    assert kind.default_url.startswith("https://")
    with pytest.raises(
        ConfigurationError, match=rf"set {key_variable}(, or .+)?, or pass {kind.__name__}\(api_key=...\)"
    ):
        kind().with_environment({})


# What a provider cannot do, it says.


@every_provider
def test_a_provider_without_cancel_says_so(kind: type[Provider]) -> None:
    ref = JobRef.parse(f"{kind.endpoints[0].name}/job-1")
    if kind.features.cancel:
        assert next(kind(KEY).cancel(ref)).effect is Effect.WRITE
        return
    with pytest.raises(ConfigurationError, match="has no way to cancel a job: it runs on and is charged as usual"):
        next(kind(KEY).cancel(ref))


@every_provider
def test_a_provider_streams_if_it_says_so(kind: type[Provider]) -> None:
    ref = JobRef.parse(f"{kind.endpoints[0].name}/job-1")
    assert (kind(KEY).stream(ref) is not None) == kind.features.stream


@every_provider
def test_an_unknown_endpoint_is_answered_with_the_known_ones(kind: type[Provider]) -> None:
    with pytest.raises(ConfigurationError) as unknown:
        kind(KEY).endpoint(f"{kind.name}/unheard-of")
    assert all(endpoint.name in str(unknown.value) for endpoint in kind.endpoints)


# One surface.


def bare(annotation: Any) -> set[Any]:
    """The types of an annotation: ``Annotated`` and ``None`` taken off, a union apart, a Literal's values as such."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return bare(typing.get_args(annotation)[0])
    if origin in {typing.Union, types.UnionType}:
        return {kind for part in typing.get_args(annotation) for kind in bare(part)} - {type(None)}
    return set(typing.get_args(annotation)) if origin is Literal else {annotation}


REFERENCES = {str, Path, bytes}
CONCEPTS: Mapping[str, Any] = {
    "prompt": lambda kinds: kinds == {str},
    "negative_prompt": lambda kinds: kinds == {str},
    "references": lambda kinds: kinds == {Sequence[Reference]},
    "reference": lambda kinds: kinds == REFERENCES,
    "resolution": lambda kinds: kinds <= {"1k", "2k", "4k"} or kinds <= {"720p", "1080p", "4k"},
    "aspect_ratio": lambda kinds: all(re.fullmatch(r"\d+:\d+|auto", str(value)) for value in kinds),
    "count": lambda kinds: kinds == {int},
    "output_format": lambda kinds: kinds <= {"png", "jpeg", "webp"},
    "callback_url": lambda kinds: kinds == {str},
    "duration": lambda kinds: kinds <= {5, 10, 15} or kinds == {int},
}
OTHER_NAMES = re.compile(
    "text|negative|images?|images?_url|images_base64|reference_images|size|ratio|n|num_outputs|num_images|number_results|"
    "format|webhook|webhook_?url|seconds|length",
    re.IGNORECASE,
)


@every_endpoint
def test_one_concept_has_one_name_and_one_type(endpoint: Endpoint[Any]) -> None:
    """The same concept is spelled and typed alike in all request classes; their own spellings are accepted besides."""
    fields = endpoint.request.model_fields
    assert "callback_url" in fields
    assert not [name for name in fields if OTHER_NAMES.fullmatch(name)]
    kinds = {name: bare(field.annotation) for name, field in fields.items() if name in CONCEPTS}
    wrong = {name: found for name, found in kinds.items() if not CONCEPTS[name](found)}
    assert wrong == {}
    assert set(endpoint.request.wire_names.values()) <= set(fields)


@every_endpoint
def test_a_request_refuses_what_it_does_not_know(endpoint: Endpoint[Any]) -> None:
    """Unknown fields, an empty prompt, a callback to plain http; and it cannot be changed afterwards."""
    good = recorded_requests(endpoint)[0]
    fields = dict(good)
    assert endpoint.request.model_validate(fields) == good
    wrong = {"unheard_of": 1, "prompt": "", "callback_url": "http://example.com/hook"}
    for name, value in wrong.items():
        if name == "prompt" and name not in endpoint.request.model_fields:
            continue
        with pytest.raises(ValidationError) as refused:
            endpoint.request.model_validate({**fields, name: value})
        assert [error["loc"][0] for error in refused.value.errors()] == [name]
    with pytest.raises(ValidationError, match="frozen"):
        good.callback_url = None


@every_endpoint
def test_a_stored_request_can_be_submitted_again(endpoint: Endpoint[Any]) -> None:
    """Every sample's request survives its stored form, and documents each of its fields."""
    for request in recorded_requests(endpoint):
        assert endpoint.request.model_validate(json.loads(json.dumps(request.describe(inline=True)))) == request
    for name in endpoint.request.model_fields:
        assert f"{name}" in (endpoint.request.__doc__ or ""), f"{name} is not documented"


@every_endpoint
def test_every_field_describes_itself_for_help_and_for_the_json_schema(endpoint: Endpoint[Any]) -> None:
    """With a sentence, which must not be lost between the class, its docstring, its signature and its JSON schema."""
    request = endpoint.request
    properties = request.model_json_schema()["properties"]
    parameters = inspect.signature(request).parameters
    for name, info in request.model_fields.items():
        assert info.description is not None, name
        assert info.description[-1] in ".)", name
        assert properties[name]["description"] == info.description
        assert " ".join(info.description.split()) in " ".join((request.__doc__ or "").split())
        assert "Annotated" not in str(parameters[name])
        assert (parameters[name].default is inspect.Parameter.empty) == info.is_required()
    assert list(parameters)[-1] == list(properties)[-1] == "callback_url"
    assert "Args:" not in request.model_json_schema()["description"]


@every_endpoint
def test_help_and_dir_of_a_request_show_what_a_user_needs(endpoint: Endpoint[Any]) -> None:
    shown = {*dir(endpoint.request)}
    assert {"endpoint", "model_validate", "model_json_schema", "validated", "describe"} <= shown
    assert not {name for name in shown if name.startswith("_") or name in {"model_construct", "parse_obj", "copy"}}


@every_endpoint
def test_a_copy_that_was_never_checked_is_checked_by_validated(endpoint: Endpoint[Any]) -> None:
    good = recorded_requests(endpoint)[0]
    assert good.validated() == good
    for wrong in (good.model_copy(update={"prompt": "  "}), endpoint.request.model_construct(), pickled(good)):
        with pytest.raises(ValidationError):
            wrong.validated()


def pickled(request: Any) -> Any:
    """A pickle of an earlier version, in which a field had another type."""
    old = pickle.loads(pickle.dumps(request))  # noqa: S301  # our own
    old.__dict__["prompt"] = 5
    return old


@every_endpoint
@pytest.mark.parametrize("prompt", ["", " ", "\n\t\u2003", "a \ud83d boat"])
def test_a_blank_prompt_and_half_a_character_are_refused(endpoint: Endpoint[Any], prompt: str) -> None:
    with pytest.raises(ValidationError) as refused:
        endpoint.request.model_validate({**dict(recorded_requests(endpoint)[0]), "prompt": prompt})
    assert [error["loc"] for error in refused.value.errors()] == [("prompt",)]


PRICED = [endpoint for kind in ALL_PROVIDERS for endpoint in kind.endpoints if endpoint.name not in UNPRICED]


@pytest.mark.parametrize("endpoint", PRICED, ids=lambda endpoint: endpoint.name)
def test_every_price_says_where_it_comes_from(endpoint: Endpoint[Any]) -> None:
    price = endpoint.price(recorded_requests(endpoint)[0])
    assert price is not None
    assert price.source
    assert price.date is not None
    assert price.amount > 0


@every_provider
@pytest.mark.parametrize("address", ["https://a.example/\0", "https://a.example\\@b.example", "https://a b.example"])
def test_an_address_with_characters_of_no_address_is_refused(kind: type[Provider], address: str) -> None:
    with pytest.raises(ConfigurationError, match="is not plain"):
        kind(KEY, address)


@every_endpoint
def test_every_endpoint_says_how_long_its_jobs_take(endpoint: Endpoint[Any]) -> None:
    """The law, the schedule and the deadline fit together, for a request and for an attached job."""
    good = recorded_requests(endpoint)[0]
    for request in (good, None):
        assert 1 < endpoint.duration_prior(request).median < endpoint.deadline
    assert endpoint.variant(good) == endpoint.variant(good)
    price = endpoint.price(good)
    assert price is None or price.amount > 0


# References.

REF_TEXT = st.from_regex(r"[a-z0-9]{1,12}/[a-z0-9][a-z0-9-]{0,12}/[A-Za-z0-9_~-][A-Za-z0-9._:~-]{0,60}", fullmatch=True)


@given(REF_TEXT)
def test_a_reference_survives_as_text(text: str) -> None:
    ref = JobRef.parse(text)
    assert str(ref) == text
    assert JobRef.parse(str(ref)) == ref
    assert pickle.loads(pickle.dumps(ref)) == copy.deepcopy(ref) == ref  # noqa: S301  # our own
    assert json.loads(json.dumps([ref])) == [text.strip()] == [str(ref)] == [ref]
    assert (type(str(ref)), f"{ref.endpoint}/{ref.id}", ref.endpoint) == (
        str,
        text,
        f"{ref.provider}/{ref.endpoint_id}",
    )
    assert repr(ref) == f"JobRef({ref.provider!r}, {ref.endpoint_id!r}, {ref.id!r})"
    assert ref.endpoint == text.rpartition("/")[0]


NO_REFERENCE = """
x|a/b|a/b/|a/b/c/d|a/b/../c|a/b/.hidden|a/b/c d|a/b/c?x=1|A/b/c|a/b/c#d|a/b/%2e|a/b/\u00e9|a/-b/c|/b/c
""".strip().split("|")


@pytest.mark.parametrize("text", ["", *NO_REFERENCE])
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a job reference; one looks like provider/endpoint/id") as refusal:
        JobRef.parse(text)
    assert str(refusal.value).startswith(repr(text)), "it repeats what was given"


@pytest.mark.parametrize("identity", [None, 7, True, ["x"], {"id": "x"}])
def test_an_id_that_is_no_text_makes_no_reference(identity: Any) -> None:
    with pytest.raises(ValueError, match="is not a job reference"):
        JobRef("runblob", "o3-video", identity)


# The README.

FEW = 3  # endpoints that fit into a row


def _listed(kind: type[Provider]) -> str:
    """The endpoints by name, or how many there are and where they are described."""
    if len(kind.endpoints) <= FEW:
        return ", ".join(f"`{endpoint.name}`" for endpoint in kind.endpoints)
    return f"[{len(kind.endpoints)} endpoints](docs/providers/{kind.name}.md), such as `{kind.endpoints[0].name}`"


def features_table() -> str:
    """What every provider offers, as the README shows it."""
    rows: list[tuple[str, ...]] = [
        (
            "Provider",
            "Endpoints",
            "Webhook",
            "Stream",
            "Cancel",
            "Jobs per status call",
            "Client-chosen id",
            "Cost",
            "Status calls per minute",
        ),
        ("---",) * 9,
    ]
    for kind in ALL_PROVIDERS:
        features = kind.features
        rows.append(
            (
                kind.display_name,
                _listed(kind),
                *("yes" if offered else "no" for offered in (features.webhook, features.stream, features.cancel)),
                str(features.batch),
                "yes" if features.client_chosen_id else "no",
                features.cost_unit or "not reported",
                f"{features.status_calls_per_minute:g}" if features.status_calls_per_minute else "no limit stated",
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def test_the_readme_shows_what_the_providers_offer() -> None:
    """If this fails, paste the table below into README.md, under "Providers"."""
    assert features_table() in README.read_text("utf-8"), f"\n{features_table()}"

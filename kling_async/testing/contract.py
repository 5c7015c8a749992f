"""`ProviderContract`: what holds for every provider, as a class of tests."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import json
import pickle
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import anyio
import httpx
import pytest
from pydantic import ValidationError

from kling_async._errors import ConfigurationError, GenerationFailed, KlingError, SubmissionUnknown
from kling_async._event_loop.clock import Clock
from kling_async._exchange.calls import Call, Effect, Flow
from kling_async._http.limits import Limits
from kling_async._http.transport import ProviderTransport
from kling_async._models import JobRef
from kling_async.providers._base.endpoint import Endpoint
from kling_async.providers._base.images import Reference
from kling_async.providers._base.provider import Provider
from kling_async.providers._base.request import Request
from kling_async.testing.samples import KEY, Sample, compare, drive, load_samples, outcome

if TYPE_CHECKING:
    from kling_async.sandbox import Sandbox

__all__ = ["ProviderContract"]

_NOT_KEYS = ("", " ", "pd_\n", "pd key\r\nX-Evil: 1", "clé", " pd_1")
_NOT_ADDRESSES = (
    "http://a.example",
    "ftp://a.example",
    "a.example",
    "https://",
    "http://127.0.0.1.a.example",
    "https://a.example/\0",
    "https://a.example\\@b.example",
    "https://a b.example",
)
_NOT_PROMPTS = ("", " ", "\n\t\u2003", "a \ud83d boat")
_SPEED = 5000.0
_PATIENCE = 60.0  # s for a job on the sandbox, which takes well below one


class ProviderContract:
    """The contract of a provider: subclass it in a test module, and pytest runs every test of it.

    Each operation of each endpoint is recorded as a sample, which the tests replay. With an emulation, jobs of every
    endpoint run on the sandbox as well::

        class TestAcme(ProviderContract):
            provider = Acme
            samples = Path(__file__).parent / "samples"
            emulation = staticmethod(emulate)

    Attributes:
        provider: The provider.
        samples: The folder of its samples (see `kling_async.testing.samples`).
        emulation: Its emulation for the sandbox. If None, the sandbox's own emulation of that name. Without one, no job
            is run.
        unpriced: Full names of endpoints for which no source states a price.
        unemulated: Full names of endpoints that the emulation does not serve.
        immediate: Full names of endpoints whose jobs end in the answer to their submission.
    """

    provider: ClassVar[type[Provider]]
    samples: ClassVar[Path]
    emulation: ClassVar[Callable[[Any], Any] | None] = None
    unpriced: ClassVar[frozenset[str]] = frozenset()
    unemulated: ClassVar[frozenset[str]] = frozenset()
    immediate: ClassVar[frozenset[str]] = frozenset()
    _running: ClassVar[Sandbox | None] = None

    # Collection.

    @classmethod
    def recorded(cls) -> list[Sample]:
        """The samples."""
        return list(_loaded(cls.samples, cls.provider))

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each sample, flow, endpoint and so on."""
        samples = self.recorded()
        flows = [sample for sample in samples if sample.exchanges]
        served = [flow for flow in flows if all(reply.ok for reply in flow.replies)]
        values: Mapping[str, tuple[Sequence[Any], Callable[[Any], object]]] = {
            "sample": (samples, lambda sample: sample.name),
            "flow": (flows, lambda sample: sample.name),
            "served": (served, lambda sample: sample.name),
            "endpoint": (self.provider.endpoints, lambda endpoint: endpoint.name),
            "not_a_key": (_NOT_KEYS, repr),
            "not_an_address": (_NOT_ADDRESSES, repr),
            "not_a_prompt": (_NOT_PROMPTS, ascii),
        }
        for name, (found, label) in values.items():
            if name in metafunc.fixturenames:
                metafunc.parametrize(name, found, ids=label)

    def requests_of(self, endpoint: Endpoint[Any]) -> list[Request]:
        """The requests of an endpoint's recorded submissions. There is at least one."""
        found = [
            sample.request(sample.provider())
            for sample in self.recorded()
            if sample.kind == "submit" and sample.endpoint == endpoint.name
        ]
        assert found, f"no submission of {endpoint.name} is recorded in {self.samples}"
        return found

    # Replies.

    def test_the_recorded_replies_give_what_is_expected(self, sample: Sample) -> None:
        """The values of the flows, the webhooks and the streams are those that the samples expect."""
        compare(outcome(sample), sample.data["expect"])

    def test_the_flow_makes_the_recorded_calls(self, flow: Sample) -> None:
        """Method, address, effect and the exact body of every call are as recorded, and there are no more calls."""
        _, calls = drive(flow.flow(), flow.replies)
        assert len(calls) == len(flow.exchanges)
        for call, exchange in zip(calls, flow.exchanges, strict=True):
            recorded = exchange["call"]
            assert (call.method, call.url, call.effect.value) == (
                recorded["method"],
                recorded["url"],
                recorded["effect"],
            )
            is_json = call.headers.get("content-type") == "application/json"
            assert is_json == ("json" in recorded)
            if is_json:
                assert json.loads(call.body) == recorded["json"]
            elif call.method == "GET":
                assert call.body == b""
        if not flow.refs:
            _check_paid_calls(flow, calls)

    def test_paid_calls_are_marked_repeatable_exactly_where_our_id_is_recognised(self, flow: Sample) -> None:
        """`Call.repeatable`, `deduplicates` and `Features.client_chosen_id` agree."""
        if flow.kind != "submit":
            return
        _, calls = drive(flow.flow(), flow.replies)
        recognised = flow.provider().deduplicates(flow.endpoint)
        assert [call.repeatable for call in calls if call.effect is Effect.PAID][-1] == recognised
        assert self.provider.features.client_chosen_id or not recognised

    def test_samples_are_well_formed(self, sample: Sample) -> None:
        """Each sample names its source, and jobs and fields that exist."""
        assert sample.data["source"]
        assert sample.kind in {"submit", "poll", "cancel", "error", "webhook", "stream"}
        endpoint = sample.provider().endpoint(sample.endpoint)
        assert all(ref.provider == self.provider.name for ref in sample.refs)
        assert set(sample.data.get("request", ())) <= set(endpoint.request.model_fields)
        if sample.kind in {"submit", "poll", "cancel", "error"}:
            assert sample.exchanges, "nothing would be driven"

    def test_every_operation_of_an_endpoint_is_recorded(self, endpoint: Endpoint[Any]) -> None:
        """There are samples of what the provider's features promise, and of both ends of a job."""
        features = self.provider.features
        needed = {"submit", "poll"}
        needed |= {name for name in ("webhook", "stream", "cancel") if getattr(features, name)}
        recorded = [sample for sample in self.recorded() if sample.endpoint == endpoint.name]
        assert needed <= {sample.kind for sample in recorded}
        ends = {
            part.get("status")
            for sample in recorded
            if sample.kind == "poll"
            for part in sample.data["expect"].values()
            if isinstance(part, dict)
        }
        assert {"completed", "failed"} <= ends

    def test_every_code_of_the_provider_is_recorded(self) -> None:
        """Each code that decides about an error stands in a sample, so that none is only a guess."""
        text = " ".join(json.dumps(sample.data) for sample in self.recorded())
        assert [code for code in self.provider.error_mapper.codes if f'"{code}' not in text] == []

    def test_unknown_fields_of_a_reply_are_ignored(self, sample: Sample) -> None:
        """A field that a provider adds tomorrow changes nothing."""
        data = copy.deepcopy(sample.data)
        for exchange in data.get("exchanges", ()):
            if "json" in exchange["reply"]:
                exchange["reply"]["json"] = _extended(exchange["reply"]["json"])
        if "body" in data:
            data["body"] = _extended(data["body"])
        if "lines" in data:
            data["lines"] = [_extended_line(line) for line in data["lines"]]
        compare(outcome(replace(sample, data=data)), sample.data["expect"])

    # Credentials.

    def test_credentials_are_sent_to_the_provider_and_to_nobody_else(self, served: Sample) -> None:
        """Calls to the provider's own addresses carry the key. Calls to other URLs, such as upload targets, do not."""
        provider = served.provider()
        seen: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            recorded = served.replies[min(len(seen), len(served.replies)) - 1]
            return httpx.Response(recorded.status, headers=dict(recorded.headers), content=recorded.content)

        anyio.run(_run_flow, provider, served.flow, answer)
        assert len(seen) == len(served.exchanges)
        for request, exchange in zip(seen, served.exchanges, strict=True):
            url = exchange["call"]["url"]
            own = provider.is_own(url)
            assert str(request.url).startswith(provider.base_url if url.startswith("/") else url)
            assert any(KEY in value for value in request.headers.values()) == own
            assert KEY not in str(request.url)

    def test_an_address_elsewhere_gets_no_credentials(self) -> None:
        """Also not one that begins like the provider's own."""
        provider, seen = self.provider(KEY), list[httpx.Request]()

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(200, json={})

        def flow() -> Flow[None]:
            yield Call.get("/own")
            yield Call.get("https://elsewhere.example/upload")
            yield Call.get(f"{provider.base_url}.evil.example/upload")

        anyio.run(_run_flow, provider, flow, answer)
        assert [any(KEY in value for value in request.headers.values()) for request in seen] == [True, False, False]

    def test_a_key_is_never_shown(self) -> None:
        """Neither in the repr nor in the attributes."""
        provider = self.provider(KEY)
        assert KEY not in f"{provider!r} {provider} {vars(provider)}"

    def test_what_cannot_be_a_key_is_refused_without_being_shown(self, not_a_key: str) -> None:
        """The error names where it came from. An empty variable is one that is not set."""
        kind = self.provider
        flaw = "has characters that no key has" if not_a_key else "is empty"
        with pytest.raises(ConfigurationError, match=f"{flaw}.*check what is passed to {kind.__name__}") as passed:
            kind(not_a_key)
        assert kind.env_vars[0] not in str(passed.value)
        wanted = f"{flaw}.*check {kind.env_vars[0]}" if not_a_key else f"no API key for .*set {kind.env_vars[0]}"
        with pytest.raises(ConfigurationError, match=wanted) as found:
            kind().with_environment({kind.env_vars[0]: not_a_key})
        for refused in (passed, found):
            assert not not_a_key.strip() or not_a_key not in str(refused.value)

    def test_a_key_is_sent_over_https_or_to_this_machine_only(self, not_an_address: str) -> None:
        """Other addresses are refused when the provider is made."""
        kind = self.provider
        with pytest.raises(ConfigurationError, match=rf"must be an https:// URL.*check {kind.env_vars[1]}"):
            kind(KEY, not_an_address)
        assert kind(KEY, "http://127.0.0.1:8080/x/").base_url == "http://127.0.0.1:8080/x"

    def test_key_and_address_come_from_the_environment(self) -> None:
        """Each that was not given. What was given stays."""
        kind = self.provider
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

    # Features.

    def test_a_provider_cancels_or_says_that_it_cannot(self) -> None:
        """The feature and the operation agree."""
        ref = JobRef.parse(f"{self.provider.endpoints[0].name}/job-1")
        if self.provider.features.cancel:
            assert next(self.provider(KEY).cancel(ref)).effect is Effect.WRITE
            return
        with pytest.raises(ConfigurationError, match="has no way to cancel a job: it runs on and is charged as usual"):
            next(self.provider(KEY).cancel(ref))

    def test_a_provider_streams_if_it_says_so(self) -> None:
        """The feature and the operation agree."""
        ref = JobRef.parse(f"{self.provider.endpoints[0].name}/job-1")
        assert (self.provider(KEY).stream(ref) is not None) == self.provider.features.stream

    def test_an_unknown_endpoint_is_answered_with_the_known_ones(self) -> None:
        """The error lists what the provider sells."""
        with pytest.raises(ConfigurationError) as unknown:
            self.provider(KEY).endpoint(f"{self.provider.name}/unheard-of")
        assert all(endpoint.name in str(unknown.value) for endpoint in self.provider.endpoints)

    # Requests.

    def test_one_concept_has_one_name_and_one_type(self, endpoint: Endpoint[Any]) -> None:
        """Common fields are spelled and typed as in all other requests. Other spellings are accepted besides."""
        fields = endpoint.request.model_fields
        assert "callback_url" in fields
        assert not [name for name in fields if _OTHER_NAMES.fullmatch(name)]
        kinds = {name: _bare(field.annotation) for name, field in fields.items() if name in _CONCEPTS}
        assert {name: found for name, found in kinds.items() if not _CONCEPTS[name](found)} == {}
        assert set(endpoint.request.wire_names.values()) <= set(fields)

    def test_a_request_refuses_what_it_does_not_know(self, endpoint: Endpoint[Any]) -> None:
        """Unknown fields, an empty prompt, a callback over plain http. A request cannot be changed."""
        good = self.requests_of(endpoint)[0]
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

    def test_a_stored_request_can_be_submitted_again(self, endpoint: Endpoint[Any]) -> None:
        """The request of every sample survives its stored form."""
        for request in self.requests_of(endpoint):
            assert endpoint.request.model_validate(json.loads(json.dumps(request.describe(inline=True)))) == request
        for name in endpoint.request.model_fields:
            assert name in (endpoint.request.__doc__ or ""), f"{name} is not documented"

    def test_every_field_describes_itself_for_help_and_for_the_json_schema(self, endpoint: Endpoint[Any]) -> None:
        """With a sentence, which is the same in the class, its docstring, its signature and its JSON schema."""
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

    def test_help_and_dir_of_a_request_show_what_a_user_needs(self, endpoint: Endpoint[Any]) -> None:
        """And nothing of pydantic's machinery."""
        shown = {*dir(endpoint.request)}
        assert {"endpoint", "model_validate", "model_json_schema", "validated", "describe"} <= shown
        assert not {name for name in shown if name.startswith("_") or name in {"model_construct", "parse_obj", "copy"}}

    def test_a_copy_that_was_never_checked_is_checked_by_validated(self, endpoint: Endpoint[Any]) -> None:
        """Copies, constructed requests and old pickles."""
        good = self.requests_of(endpoint)[0]
        assert good.validated() == good
        unchecked: list[Any] = [endpoint.request.model_construct()]
        if "prompt" in endpoint.request.model_fields:
            unchecked += [good.model_copy(update={"prompt": "  "}), _pickled(good)]
        for wrong in unchecked:
            with pytest.raises(ValidationError):
                wrong.validated()

    def test_a_blank_prompt_and_half_a_character_are_refused(self, endpoint: Endpoint[Any], not_a_prompt: str) -> None:
        """Both would be paid for, and neither says what to make."""
        if "prompt" not in endpoint.request.model_fields:
            return
        with pytest.raises(ValidationError) as refused:
            endpoint.request.model_validate({**dict(self.requests_of(endpoint)[0]), "prompt": not_a_prompt})
        assert [error["loc"] for error in refused.value.errors()] == [("prompt",)]

    # Endpoints.

    def test_every_price_says_where_it_comes_from(self, endpoint: Endpoint[Any]) -> None:
        """A price has a source and a date. Endpoints without one are listed in `unpriced`."""
        price = endpoint.price(self.requests_of(endpoint)[0])
        if endpoint.name in self.unpriced:
            assert price is None, f"{endpoint.name} has a price; remove it from `unpriced`"
            return
        assert price is not None
        assert price.source
        assert price.date is not None
        assert price.amount > 0

    def test_every_endpoint_says_how_long_its_jobs_take(self, endpoint: Endpoint[Any]) -> None:
        """Duration, schedule and deadline fit together, for a request and for an attached job."""
        good = self.requests_of(endpoint)[0]
        for request in (good, None):
            assert 1 < endpoint.duration_prior(request).median < endpoint.deadline
        assert endpoint.variant(good) == endpoint.variant(good)

    # Jobs, on the sandbox.

    def test_a_job_of_the_endpoint_ends_with_files(self, endpoint: Endpoint[Any]) -> None:
        """It is bought once, followed, and its result is there."""
        sandbox = self._sandbox(endpoint)
        result = anyio.run(self._run, sandbox, self.requests_of(endpoint)[0])
        assert result.artifacts
        assert self._bought(sandbox) == 1

    def test_a_failed_job_raises_its_reason(self, endpoint: Endpoint[Any]) -> None:
        """And the job, so that the user can look it up."""
        sandbox = self._sandbox(endpoint)
        if endpoint.name in self.immediate:
            pytest.skip(f"a job of {endpoint.name} ends in the answer to its submission")
        sandbox.plan_next(self.provider.name, fail="MADE_UP_REASON")
        with pytest.raises(GenerationFailed) as failed:
            anyio.run(self._run, sandbox, self.requests_of(endpoint)[0])
        assert failed.value.ref is not None
        assert str(failed.value.ref).startswith(f"{endpoint.name}/")

    def test_a_lost_answer_never_buys_twice(self, endpoint: Endpoint[Any]) -> None:
        """The job is found again, or the submission is reported as unknown."""
        sandbox = self._sandbox(endpoint)
        sandbox.faults.add("accept-then-reset:submit:times=1")
        with contextlib.suppress(SubmissionUnknown):
            anyio.run(self._run, sandbox, self.requests_of(endpoint)[0])
        assert self._bought(sandbox) == 1

    def _sandbox(self, endpoint: Endpoint[Any]) -> Sandbox:
        """A sandbox that emulates the provider: one for all tests of the class, as new for each."""
        # Here, because replaying samples needs no sandbox and so no extra.
        from kling_async.sandbox.providers import emulated_providers  # noqa: PLC0415

        own = {} if self.emulation is None else {self.provider.name: self.emulation}
        if self.provider.name not in {*own, *emulated_providers()} or endpoint.name in self.unemulated:
            pytest.skip(f"no emulation serves {endpoint.name}")
        return self._started(own)

    @classmethod
    def _started(cls, emulations: Mapping[str, Any]) -> Sandbox:
        from kling_async.sandbox import Sandbox  # noqa: PLC0415

        if cls._running is None:
            cls._running = Sandbox(speed=_SPEED, scale=0.05, emulations=emulations)
            cls._running.start()
        cls._running.faults.clear()
        cls._running.counters.bought.clear()
        return cls._running

    def _bought(self, sandbox: Sandbox) -> int:
        return sandbox.counters.bought[self.provider.name]

    @classmethod
    def teardown_class(cls) -> None:
        """Stop the sandbox."""
        if cls._running is not None:
            cls._running.stop()
            cls._running = None

    async def _run(self, sandbox: Sandbox, request: Request) -> Any:
        from kling_async import Client, Polling, Progressive  # noqa: PLC0415  # not needed to replay samples

        [provider] = [one for one in sandbox.providers() if one.name == self.provider.name]
        polling = Polling(schedule=Progressive(0.01), status_calls_per_minute=1e9)
        with anyio.fail_after(_PATIENCE):
            async with Client(provider, polling=polling) as client:
                return await client.run(request)


@functools.cache
def _loaded(folder: Path, provider: type[Provider]) -> tuple[Sample, ...]:
    """The samples in a folder, read once for all tests."""
    return tuple(load_samples(folder, provider))


def _check_paid_calls(flow: Sample, calls: Sequence[Call]) -> None:
    paid = [call.effect is Effect.PAID for call in calls]
    bodies = {call.body for call in calls if call.effect is Effect.PAID and call.repeatable}
    searches = sum(call.effect is Effect.PAID and not call.repeatable for call in calls)
    assert searches <= 1, "what the provider does not recognise is sent once"
    assert paid.count(True) - searches <= 1 or len(bodies) == 1, "only what the provider recognises is sent twice"
    assert flow.kind == "error" or any(paid), "a submission buys"
    after = calls[max((n for n, one in enumerate(paid) if one), default=len(calls)) + 1 :]
    assert all(call.effect is Effect.READ for call in after), "after the paid call nothing but reading it back"


async def _run_flow(
    provider: Provider, flow: Callable[[], Flow[Any]], answer: Callable[[httpx.Request], httpx.Response]
) -> None:
    transport = ProviderTransport(provider, Limits(max_attempts=1), httpx.MockTransport(answer), Clock())
    try:
        await transport.run(flow())
    except KlingError:
        pass  # what comes of it is compared elsewhere
    finally:
        await transport.aclose()


def _extended(value: Any) -> Any:
    """The same JSON with an unknown field in each of its objects."""
    if isinstance(value, dict):
        return {**{name: _extended(part) for name, part in value.items()}, "xUnheardOf": {"a": [1, None]}}
    return [_extended(part) for part in value] if isinstance(value, list) else value


def _extended_line(line: str) -> str:
    try:
        return json.dumps(_extended(json.loads(line)))
    except ValueError:
        return line


def _pickled(request: Any) -> Any:
    """A pickle of an earlier version, in which a field had another type."""
    old = pickle.loads(pickle.dumps(request))  # noqa: S301  # made here
    old.__dict__["prompt"] = 5
    return old


def _bare(annotation: Any) -> set[Any]:
    """The types of an annotation: without ``Annotated`` and None, the members of a union, the values of a Literal."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _bare(typing.get_args(annotation)[0])
    if origin in {typing.Union, types.UnionType}:
        return {kind for part in typing.get_args(annotation) for kind in _bare(part)} - {type(None)}
    return set(typing.get_args(annotation)) if origin is Literal else {annotation}


_REFERENCES = {str, Path, bytes}
_CONCEPTS: Mapping[str, Callable[[set[Any]], bool]] = {
    "prompt": lambda kinds: kinds == {str},
    "negative_prompt": lambda kinds: kinds == {str},
    "references": lambda kinds: kinds == {Sequence[Reference]},
    "reference": lambda kinds: kinds == _REFERENCES,
    "resolution": lambda kinds: kinds <= {"1k", "2k", "4k"} or kinds <= {"720p", "1080p", "4k"},
    "aspect_ratio": lambda kinds: all(re.fullmatch(r"\d+:\d+|auto", str(value)) for value in kinds),
    "count": lambda kinds: kinds == {int},
    "output_format": lambda kinds: kinds <= {"png", "jpeg", "webp"},
    "callback_url": lambda kinds: kinds == {str},
    "duration": lambda kinds: kinds <= {5, 10, 15} or kinds == {int},
}
_OTHER_NAMES = re.compile(
    "text|negative|images?|images?_url|images_base64|reference_images|size|ratio|n|num_outputs|num_images|number_results|"
    "format|webhook|webhook_?url|seconds|length",
    re.IGNORECASE,
)

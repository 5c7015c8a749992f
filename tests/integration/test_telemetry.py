"""Spans and metrics, as the SDK's own exporter receives them. No sockets, and no waiting: time is virtual."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kling_async import (
    Attempt,
    Client,
    GenerationFailed,
    InvalidRequest,
    JobEnd,
    MemoryLedger,
    Observer,
    Request,
    RunBlob,
    Submission,
    SubmissionUnknown,
    runblob,
)
from kling_async.otel import Telemetry
from support.documents import ROOT
from support.fake_runblob import KEY, FakeRunBlob

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_time]

PROMPT = "a paper boat for Mrs. Miller"
VIDEO = runblob.O3Video(PROMPT)


class Collected:
    """An SDK in memory, and a telemetry that reports to it."""

    def __init__(self, *, prompts: bool = False) -> None:
        self._spans = InMemorySpanExporter()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.tracer = tracers.get_tracer("the application")
        self._metrics = InMemoryMetricReader()
        meters = MeterProvider([self._metrics])
        self.telemetry = Telemetry(prompts=prompts, tracer_provider=tracers, meter_provider=meters)

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name.partition(" ")[0]: span for span in self._spans.get_finished_spans()}

    def metrics(self) -> dict[str, Any]:
        """The value of each metric with one point: its number, or the sum of a histogram."""
        data = self._metrics.get_metrics_data()
        points = {
            metric.name: metric.data.data_points
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        return {name: getattr(p[0], "value", getattr(p[0], "sum", None)) for name, p in points.items() if len(p) == 1}


@pytest.fixture
def collected() -> Collected:
    return Collected()


async def test_a_submission_and_its_job_are_spans_of_the_callers_trace(collected: Collected) -> None:
    async with Client(RunBlob(KEY), http=FakeRunBlob(duration=60), observer=collected.telemetry) as client:
        with collected.tracer.start_as_current_span("application"):
            job = await client.submit(VIDEO, key="row-1", tags={"customer": "17"})
        await job
    spans = collected.spans()
    outer, submit, generate = spans["application"], spans["submit"], spans["generate_content"]
    assert submit.parent is not None
    assert generate.parent is not None
    assert (submit.parent.span_id, generate.parent.span_id) == (outer.context.span_id, submit.context.span_id)
    assert generate.attributes is not None
    assert (
        dict(generate.attributes).items()
        >= {
            "gen_ai.operation.name": "generate_content",
            "gen_ai.provider.name": "runblob",
            "gen_ai.request.model": "runblob/o3-video",
            "gen_ai.response.id": str(job.ref),
            "gen_ai.output.type": "video",
            "kling.key": "row-1",
            "kling.status": "completed",
        }.items()
    )
    assert generate.end_time is not None
    assert generate.start_time is not None
    assert (generate.end_time - generate.start_time) / 1e9 == pytest.approx(job.events[-1].elapsed, abs=0.01)
    assert [event.name for event in generate.events] == [str(event.status) for event in job.events]
    assert job.tags["customer"] == "17"


async def test_metrics_count_what_was_sent_and_what_became_of_it(collected: Collected) -> None:
    server = FakeRunBlob(duration=400)
    async with Client(RunBlob(KEY), http=server, observer=collected.telemetry) as client:
        job = await client.submit(VIDEO)
        await job
        during = collected.metrics()
    after = collected.metrics()
    assert during["kling.polls"] == after["kling.polls"] == server.requests["poll"]
    assert after["kling.calls"] == server.requests.total()
    assert after["kling.jobs"] == after["kling.submissions"] == 1
    assert after["kling.throttled"] == after["kling.lost"] == 0
    assert after["gen_ai.client.operation.duration"] == pytest.approx(job.events[-1].elapsed)
    assert 0 < after["kling.job.lag"] < 200


async def test_the_totals_of_closed_clients_stay(collected: Collected) -> None:
    for _ in range(2):
        async with Client(RunBlob(KEY), http=FakeRunBlob(), observer=collected.telemetry) as client:
            await client.submit(VIDEO)
    assert collected.metrics()["kling.calls"] == 2


async def test_a_job_resumed_elsewhere_belongs_to_the_trace_of_its_submission() -> None:
    """The second client has another SDK, as another process has."""
    first, second = Collected(), Collected()
    server, ledger = FakeRunBlob(), MemoryLedger()
    client = Client(RunBlob(KEY), http=server, ledger=ledger, observer=first.telemetry)
    await client.submit(VIDEO, key="row-1")
    other = Client(RunBlob(KEY), http=server, ledger=ledger, observer=second.telemetry)
    [job] = await other.resume()
    await job
    submit, generate = first.spans()["submit"], second.spans()["generate_content"]
    assert "generate_content" not in first.spans()
    assert generate.parent is not None
    assert generate.parent.is_remote
    assert (generate.context.trace_id, generate.parent.span_id) == (submit.context.trace_id, submit.context.span_id)
    await client.aclose()
    await other.aclose()


@pytest.mark.parametrize("prompts", [False, True])
async def test_prompts_are_reported_only_if_asked(prompts: bool) -> None:
    collected = Collected(prompts=prompts)
    async with Client(RunBlob(KEY), http=FakeRunBlob(), observer=collected.telemetry) as client:
        await client.run(VIDEO)
    text = "".join(span.to_json() for span in collected.spans().values())
    assert ("Mrs. Miller" in text) is prompts
    assert KEY not in text
    if prompts:
        attributes = collected.spans()["submit"].attributes or {}
        [message] = json.loads(str(attributes["gen_ai.input.messages"]))
        assert message["parts"] == [{"type": "text", "content": PROMPT}]


@pytest.mark.parametrize(
    ("status", "kind", "outcome"), [(400, InvalidRequest, "refused"), (502, SubmissionUnknown, "unknown")]
)
async def test_a_submission_that_fails_names_its_outcome(
    collected: Collected, status: int, kind: type[Exception], outcome: str
) -> None:
    server = FakeRunBlob()

    async def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"error": PROMPT})

    server.intercept = answer
    async with Client(RunBlob(KEY), http=server, observer=collected.telemetry) as client:
        with pytest.raises(kind):
            await client.submit(VIDEO)
    span = collected.spans()["submit"]
    assert span.attributes is not None
    assert (span.attributes["kling.outcome"], span.attributes["error.type"]) == (outcome, kind.__name__)
    assert not span.status.is_ok
    assert "Mrs. Miller" not in span.to_json()
    assert collected.metrics()["kling.lost"] == (outcome == "unknown")


async def test_a_job_that_failed_is_an_error(collected: Collected) -> None:
    server = FakeRunBlob()
    server.failure = "no such luck"
    async with Client(RunBlob(KEY), http=server, observer=collected.telemetry) as client:
        with pytest.raises(GenerationFailed):
            await client.run(VIDEO)
    span = collected.spans()["generate_content"]
    assert not span.status.is_ok
    assert (span.attributes or {})["kling.status"] == "failed"
    assert "no such luck" not in span.to_json()


class Clumsy(Observer):
    """Raises an error wherever it can."""

    def opened(self, counts: object) -> None:
        raise RuntimeError("opened")

    def closed(self, counts: object) -> None:
        raise RuntimeError("closed")

    def submission(self, submission: Submission, request: Request, attempt: Attempt) -> AbstractContextManager[object]:
        raise RuntimeError("submission")

    def ended(self, job: JobEnd) -> None:
        raise RuntimeError("ended")


async def test_an_observer_that_fails_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeRunBlob()
    async with Client(RunBlob(KEY), http=server, observer=Clumsy()) as client:
        assert (await client.run(VIDEO)).artifacts
    assert server.bought == 1
    raised = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert raised == ["opened", "submission", "ended", "closed"]


@pytest.mark.parametrize("failure", [None, "no such luck"])
async def test_the_log_tells_a_jobs_story(failure: str | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kling_async")
    server, ledger = FakeRunBlob(), MemoryLedger()
    server.failure = failure
    first = Client(RunBlob(KEY), http=server, ledger=ledger)
    job = await first.submit(VIDEO, key="row-1")
    second = Client(RunBlob(KEY), http=server, ledger=ledger)
    [resumed] = await second.resume()
    await resumed.wait()
    story = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert [line.split(" ")[0] for line in story] == ["submitted", "resumed", "job"]
    end = "failed" if failure else "completed"
    assert story[-1].startswith(f"job {job.ref}: {end} after ")
    assert PROMPT not in "".join(story)
    await first.aclose()
    await second.aclose()


def test_without_an_sdk_nothing_is_recorded_and_nothing_fails() -> None:
    script = (
        "import anyio; from kling_async import Client, RunBlob, runblob; from kling_async.otel import Telemetry;"
        "from support.fake_runblob import KEY, FakeRunBlob;"
        "client = Client(RunBlob(KEY), http=FakeRunBlob(), observer=Telemetry());"
        "print(dict(anyio.run(client.submit, runblob.O3Video('a boat')).tags))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": ""},
    )
    assert (run.stdout.strip(), run.stderr) == ("{}", "")
    assert not trace.get_current_span().is_recording()

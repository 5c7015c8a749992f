"""Traces and metrics with OpenTelemetry: ``Client(observer=Telemetry())``. Needs ``kling-async[otel]``.

A span for every submission, and one for every job, from its submission to its end. Names and attributes follow the
semantic conventions for generative AI where these fit. The trace context is stored with the submission as its tag
``traceparent``, so a job that is resumed by another process belongs to the same trace.

Only the OpenTelemetry API is used. Without an SDK that your program configures, nothing is recorded.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial

from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from kling_async import __version__
from kling_async._errors import KlingError, SubmissionUnknown
from kling_async._ledger.protocol import Submission
from kling_async._models import Event
from kling_async._models import Status as JobStatus
from kling_async._submission.observer import Attempt, CallCounts, JobEnd, Observer
from kling_async.providers._base.request import Request

__all__ = ["Telemetry"]

_COUNTERS = {
    "calls": "Calls sent to a provider, retries included",
    "polls": "Status calls sent to a provider",
    "retried": "Calls sent again after a failure",
    "throttled": "Answers with which a provider asked to wait",
    "lost": "Paid calls whose answer was lost",
}
_W3C = TraceContextTextMapPropagator()  # what is stored can be read whatever propagators either process has


class Telemetry(Observer):
    """Reports what clients do as OpenTelemetry spans and metrics. One may observe several clients.

    Spans: ``submit ENDPOINT`` and ``generate_content ENDPOINT``. Metrics: ``gen_ai.client.operation.duration``,
    ``kling.jobs``, ``kling.job.cost``, ``kling.job.lag``, ``kling.submissions``, ``kling.calls``, ``kling.polls``,
    ``kling.retried``, ``kling.throttled``, ``kling.lost``.

    Args:
        prompts: Whether spans have the prompts, as ``gen_ai.input.messages``. They may be personal data.
        tracer_provider: Where spans go. If None, the program's own.
        meter_provider: Where metrics go. If None, the program's own.
    """

    def __init__(
        self,
        *,
        prompts: bool = False,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._prompts = prompts
        self._tracer = trace.get_tracer("kling_async", __version__, tracer_provider)
        meter = metrics.get_meter("kling_async", __version__, meter_provider)
        self._lock = threading.Lock()  # metrics are read by a thread of the SDK
        self._open: list[CallCounts] = []
        self._finished: Counter[tuple[str, str]] = Counter()  # what closed clients have counted
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "Time from the submission of a job to its end"
        )
        self._lag = meter.create_histogram("kling.job.lag", "s", "Longest time for which a job's end was not noticed")
        self._jobs = meter.create_counter("kling.jobs", "{job}", "Jobs that ended, by their status")
        self._cost = meter.create_counter("kling.job.cost", "1", "What jobs cost, in the currency `kling.cost.unit`")
        self._submissions = meter.create_counter("kling.submissions", "{submission}", "Submissions, by their outcome")
        for name, description in _COUNTERS.items():
            meter.create_observable_counter(f"kling.{name}", [partial(self._observe, name)], "{call}", description)

    def opened(self, counts: CallCounts) -> None:
        """Read the counts of this client from now on."""
        with self._lock:
            self._open.append(counts)

    def closed(self, counts: CallCounts) -> None:
        """Keep the last counts of this client."""
        with self._lock:
            if counts in self._open:
                self._open.remove(counts)
                self._finished.update(_flat(counts))

    @contextmanager
    def submission(self, submission: Submission, request: Request, attempt: Attempt) -> Iterator[None]:
        """Surround a submission with a span, which is the parent of the job's span."""
        attributes = _attributes(submission.endpoint)
        span = self._tracer.start_span(
            f"submit {submission.endpoint}",
            kind=SpanKind.CLIENT,
            attributes={**attributes, "kling.key": submission.key, "kling.attempt_id": submission.attempt_id},
        )
        prompt = getattr(request, "prompt", None)
        if self._prompts and isinstance(prompt, str) and span.is_recording():
            message = {"role": "user", "parts": [{"type": "text", "content": prompt}]}
            span.set_attribute("gen_ai.input.messages", json.dumps([message], ensure_ascii=False))
        outcome = "accepted"
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            carrier: dict[str, str] = {}
            _W3C.inject(carrier)
            attempt.tags = carrier
            try:
                yield
                outcome = "accepted" if attempt.new else "known"
            except BaseException as error:
                outcome = _outcome(error)
                _fail(span, error)
                raise
            finally:
                if attempt.ref is not None:
                    span.set_attribute("gen_ai.response.id", str(attempt.ref))
                span.set_attribute("kling.outcome", outcome)
                self._submissions.add(1, {**attributes, "kling.outcome": outcome})

    def ended(self, job: JobEnd) -> None:
        """Report the span of a job, as a child of its submission's, and its metrics."""
        last = job.last
        attributes = _attributes(job.ref.endpoint)
        kinds = sorted({artifact.kind for artifact in last.artifacts})
        if kinds:
            attributes["gen_ai.output.type"] = "video" if "video" in kinds else kinds[0]
        failed = last.status is not JobStatus.COMPLETED
        error_type = {"error.type": _reason(last)} if failed else {}
        span = self._tracer.start_span(
            f"generate_content {job.ref.endpoint}",
            context=_W3C.extract(dict(job.tags)),
            kind=SpanKind.CLIENT,
            start_time=_nanoseconds(job.started),
            attributes={**attributes, **error_type, "gen_ai.response.id": str(job.ref), "kling.status": last.status},
        )
        if job.key is not None:
            span.set_attribute("kling.key", job.key)
        if job.cost is not None:
            span.set_attributes({"kling.cost": float(job.cost.amount), "kling.cost.unit": job.cost.unit})
        for event in job.events:
            span.add_event(str(event.status), {"kling.source": event.source}, _nanoseconds(event.at))
        if failed:
            span.set_status(Status(StatusCode.ERROR, _reason(last)))
        span.end(_nanoseconds(last.at))
        self._duration.record(last.elapsed, {**attributes, **error_type})
        self._jobs.add(1, {**attributes, "kling.status": last.status})
        if job.cost is not None:
            self._cost.add(float(job.cost.amount), {**attributes, "kling.cost.unit": job.cost.unit})
        if job.lag is not None:
            self._lag.record(job.lag, attributes)

    def _observe(self, name: str, options: CallbackOptions) -> Iterable[Observation]:
        """The calls of a kind so far, one number for each provider. Called when metrics are collected."""
        del options
        with self._lock:
            total = Counter(self._finished)
            for counts in self._open:
                total.update(_flat(counts))  # not "+", which leaves out what is 0
        return [
            Observation(number, {"gen_ai.provider.name": provider})
            for (provider, kind), number in total.items()
            if kind == name
        ]


def _flat(counts: CallCounts) -> Counter[tuple[str, str]]:
    return Counter({(provider, kind): n for provider, kinds in counts().items() for kind, n in kinds.items()})


def _attributes(endpoint: str) -> dict[str, AttributeValue]:
    return {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": endpoint.partition("/")[0],
        "gen_ai.request.model": endpoint,
    }


def _outcome(error: BaseException) -> str:
    if isinstance(error, SubmissionUnknown):
        return "unknown"
    return "refused" if isinstance(error, KlingError) else "interrupted"


def _fail(span: Span, error: BaseException) -> None:
    """Name the error. Its message may quote the request, so it is left out."""
    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR, type(error).__name__))


def _reason(last: Event) -> str:
    """Why a job failed: the provider's code, or else its status."""
    codes = [str(failure.code) for failure in last.failures if failure.code]
    return codes[0] if codes else str(last.status)


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000

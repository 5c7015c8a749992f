"""Recorded wire samples: one JSON file each. The contract suite replays them.

Fields of a sample:

- ``source``: where the shape is documented. ``kind``: submit, poll, cancel, error, webhook or stream.
- ``endpoint``: the full name. ``request`` in our words or ``native`` in the provider's own; ``key`` (the UUID of the
  attempt), ``callback_url``, ``options`` (of the provider's constructor). Or ``refs``: the jobs that are polled or
  cancelled.
- ``exchanges``: the calls that the flow must make, each with the recorded reply. ``json`` is the exact body of a call.
- ``body`` or ``text`` of a webhook, with ``headers``. ``lines`` of a stream.
- ``expect``: what must come out. Only what is named is compared. An error stands as ``{"error": class, "code": ...}``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from kling_async._errors import KlingError
from kling_async._exchange.calls import Call, Flow, Reply
from kling_async._models import Cost, JobRef, StatusReport
from kling_async.providers._base.provider import Accepted, Provider
from kling_async.providers._base.request import Request

__all__ = ["KEY", "PURCHASE", "Sample", "compare", "drive", "load_samples", "outcome"]

KEY = "sk-contract-5f2c0a"
"""A made-up key."""
PURCHASE = "6f1c1f0e-3c1b-4c7e-9a55-0d7f6a1f2b3c"
"""The UUID of the attempt, where a sample gives none."""
MOST_CALLS = 20


@dataclass(frozen=True)
class Sample:
    """One recorded conversation.

    Attributes:
        name: ``provider/file``, without the ending.
        data: The file's JSON.
        provider_type: The provider whose conversation it is.
    """

    name: str
    data: dict[str, Any]
    provider_type: type[Provider]

    @property
    def kind(self) -> str:
        """What is recorded: submit, poll, cancel, error, webhook or stream."""
        return str(self.data["kind"])

    @property
    def endpoint(self) -> str:
        """Full name of the endpoint."""
        return str(self.data["endpoint"])

    @property
    def exchanges(self) -> list[dict[str, Any]]:
        """The calls, each with its reply."""
        found: list[dict[str, Any]] = self.data.get("exchanges", [])
        return found

    @property
    def refs(self) -> list[JobRef]:
        """The jobs that are polled or cancelled."""
        return [JobRef.parse(text) for text in self.data.get("refs", ())]

    @property
    def replies(self) -> list[Reply]:
        """The recorded replies."""
        return [reply(exchange["reply"]) for exchange in self.exchanges]

    @property
    def payload(self) -> bytes:
        """The body of a webhook."""
        return content(self.data)

    def provider(self) -> Provider:
        """A provider object with a made-up key."""
        return self.provider_type(KEY, **self.data.get("options", {}))

    def request(self, provider: Provider) -> Request:
        """What was submitted."""
        model: type[Request] = provider.endpoint(self.endpoint).request
        return model.model_validate(self.data.get("request", self.data.get("native")))

    def flow(self) -> Flow[Any]:
        """The operation that the sample records."""
        return self.flows(self.provider())()

    def flows(self, provider: Provider) -> Callable[[], Flow[Any]]:
        """What begins the operation that the sample records, of this provider, as often as it is called."""
        if not self.refs:
            callback = self.data.get("callback_url")
            return partial(provider.submit, self.request(provider), self.data.get("key", PURCHASE), callback)
        writes = self.exchanges and self.exchanges[-1]["call"]["effect"] == "write"
        if self.kind == "cancel" or (self.kind == "error" and writes):
            return partial(provider.cancel, self.refs[0])
        return partial(provider.poll, self.refs)


def content(place: Mapping[str, Any], *, name: str = "body") -> bytes:
    """What was sent: JSON under `endpoint`, or text."""
    return json.dumps(place[name]).encode() if name in place else str(place.get("text", "")).encode()


def reply(recorded: Mapping[str, Any]) -> Reply:
    """A recorded reply as the transport would hand it over."""
    kind = "application/json" if "json" in recorded else "text/html"
    headers = {name.lower(): value for name, value in recorded.get("headers", {}).items()}
    return Reply(recorded["status"], {"content-type": kind, **headers}, content(recorded, name="json"))


def load_samples(folder: Path, provider: type[Provider]) -> list[Sample]:
    """The samples in a folder, by name."""
    return [
        Sample(f"{folder.name}/{path.stem}", json.loads(path.read_text("utf-8")), provider)
        for path in sorted(folder.glob("*.json"))
    ]


def drive(flow: Flow[Any], replies: Sequence[Reply]) -> tuple[Any, list[Call]]:
    """Run a flow on these replies, the last one repeated: its value, or the `KlingError` it raised, and its calls."""
    calls: list[Call] = []
    try:
        calls.append(next(flow))
        while len(calls) <= MOST_CALLS:
            calls.append(flow.send(replies[min(len(calls), len(replies)) - 1]))
    except StopIteration as end:
        return end.value, calls
    except KlingError as error:
        return error, calls
    finally:
        flow.close()
    raise AssertionError(f"the flow made more than {MOST_CALLS} calls")


def outcome(sample: Sample, replies: Sequence[Reply] | None = None) -> Any:
    """What comes of the sample, in the form of an expectation."""
    if sample.kind == "webhook":
        try:
            delivered = sample.provider().parse_webhook(sample.payload, sample.data.get("headers", {}))
        except KlingError as error:
            return shown(error)
        return [{"id": item.id, **shown(item.report)} for item in delivered]
    if sample.kind == "stream":
        return stream_reports(sample, sample.data["lines"])
    value, _ = drive(sample.flow(), sample.replies if replies is None else replies)
    if sample.kind == "poll":
        answers = dict.fromkeys(sample.refs, value) if isinstance(value, KlingError) else value
        return {str(ref): shown(answer) for ref, answer in answers.items()}
    return shown(value)


def stream_reports(sample: Sample, lines: Sequence[str]) -> list[Any]:
    """The report in each line of a stream."""
    stream = sample.provider().stream(sample.refs[0])
    assert stream is not None
    found: list[Any] = []
    for line in lines:
        try:
            found.append(shown(stream.read(line)))
        except KlingError as error:
            found.append(shown(error))
    return found


def shown(value: Any) -> Any:
    """A value of a flow in the form of an expectation."""
    if isinstance(value, KlingError):
        return {"error": type(value).__name__, "code": value.code, "message": value.message, "http": value.http_status}
    if isinstance(value, Accepted):
        return {"id": value.id, **shown(value.report)}
    if isinstance(value, Cost):
        return {"amount": value.amount, "unit": value.unit}
    if isinstance(value, StatusReport):
        return {
            "status": value.status,
            "step": value.step,
            "progress": value.progress,
            "message": value.message,
            "urls": [artifact.url for artifact in value.artifacts if artifact.url],
            "artifacts": [
                {"kind": a.kind, "url": a.url, "id": a.id, "seed": a.seed, "flagged": a.flagged, "inline": bool(a.data)}
                for a in value.artifacts
            ],
            "failures": [{"code": f.code, "message": f.message, "retryable": f.retryable} for f in value.failures],
            "cost": shown(value.cost),
            "balance": shown(value.balance),
            "queue_position": value.queue_position,
            "logs": list(value.logs),
            "lifetime": value.lifetime,
            "unrecognized": value.unrecognized,
        }
    return value


def compare(found: Any, expected: Any, place: str = "expect") -> None:
    """Check everything that an expectation names."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), f"{place}: {found!r} instead of {expected!r}"
        for name, part in expected.items():
            assert name in found, f"{place}.{name}: not there, only {sorted(found)}"
            compare(found[name], part, f"{place}.{name}")
    elif isinstance(expected, list):
        assert isinstance(found, list), f"{place}: {found!r} instead of {expected!r}"
        assert len(found) == len(expected), f"{place}: {found!r} instead of {expected!r}"
        for index, (one, part) in enumerate(zip(found, expected, strict=True)):
            compare(one, part, f"{place}[{index}]")
    elif isinstance(found, Decimal):
        assert found == Decimal(str(expected)), place
    else:
        assert found == expected, f"{place}: {found!r} instead of {expected!r}"

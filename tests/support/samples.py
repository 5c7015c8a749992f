"""Recorded wire samples: one JSON file each, ``tests/samples/<provider>/<name>.json``.

- ``source``: where the shape is documented. ``kind``: submit, poll, cancel, error, webhook or stream.
- ``endpoint_id``; and ``request`` in our words or ``native`` in the provider's; ``attempt_id``, ``callback_url``,
  ``options`` (of the provider's constructor). Or ``refs``: the jobs that are polled or cancelled.
- ``exchanges``: the calls that the flow must make, each with the recorded reply. ``json`` is the exact body of a call.
- ``body`` or ``text`` of a webhook with ``headers``; ``lines`` of a stream.
- ``register``: what must come out. Only what is named is compared. An error stands as ``{"error": class, "code":
  ...}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from kling_async._errors import KlingError
from kling_async._exchange import Call, Flow, Reply
from kling_async._models import Cost, JobRef, StatusReport
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers._base.provider import Accepted, Provider
from kling_async.providers._base.request import Request

__all__ = ["KEY", "SAMPLES", "Sample", "compare", "drive", "outcome"]

HERE = Path(__file__).parents[1]
KEY = "sk-contract-5f2c0a"
PURCHASE = "6f1c1f0e-3c1b-4c7e-9a55-0d7f6a1f2b3c"
MOST_CALLS = 20


@dataclass(frozen=True)
class Sample:
    """One recorded conversation."""

    name: str
    data: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.data["kind"])

    @property
    def endpoint(self) -> str:
        return str(self.data["endpoint"])

    @property
    def exchanges(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.data.get("exchanges", [])
        return found

    @property
    def refs(self) -> list[JobRef]:
        return [JobRef.parse(text) for text in self.data.get("refs", ())]

    @property
    def replies(self) -> list[Reply]:
        return [reply(exchange["reply"]) for exchange in self.exchanges]

    @property
    def payload(self) -> bytes:
        return content(self.data)

    def provider(self) -> Provider:
        kinds = {kind.name: kind for kind in ALL_PROVIDERS}
        return kinds[self.endpoint.partition("/")[0]](KEY, **self.data.get("options", {}))

    def request(self, provider: Provider) -> Request:
        model: type[Request] = provider.endpoint(self.endpoint).request
        return model.model_validate(self.data.get("request", self.data.get("native")))

    def flow(self) -> Flow[Any]:
        """The operation that the sample records."""
        provider = self.provider()
        if not self.refs:
            callback = self.data.get("callback_url")
            return provider.submit(self.request(provider), self.data.get("key", PURCHASE), callback)
        writes = self.exchanges and self.exchanges[-1]["call"]["effect"] == "write"
        if self.kind == "cancel" or (self.kind == "error" and writes):
            return provider.cancel(self.refs[0])
        return provider.poll(self.refs)


def content(place: Mapping[str, Any], *, name: str = "body") -> bytes:
    """What was sent: JSON under `endpoint`, or text."""
    return json.dumps(place[name]).encode() if name in place else str(place.get("text", "")).encode()


def reply(recorded: Mapping[str, Any]) -> Reply:
    """A recorded reply as the lane would hand it over."""
    kind = "application/json" if "json" in recorded else "text/html"
    headers = {name.lower(): value for name, value in recorded.get("headers", {}).items()}
    return Reply(recorded["status"], {"content-type": kind, **headers}, content(recorded, name="json"))


def load() -> list[Sample]:
    paths = sorted((HERE / "samples").glob("*/*.json"))
    return [Sample(f"{path.parent.name}/{path.stem}", json.loads(path.read_text("utf-8"))) for path in paths]


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
        return heard(sample, sample.data["lines"])
    value, _ = drive(sample.flow(), sample.replies if replies is None else replies)
    if sample.kind == "poll":
        answers = dict.fromkeys(sample.refs, value) if isinstance(value, KlingError) else value
        return {str(ref): shown(answer) for ref, answer in answers.items()}
    return shown(value)


def heard(sample: Sample, lines: Sequence[str]) -> list[Any]:
    """What each line of a stream says."""
    stream = sample.provider().stream(sample.refs[0])
    assert stream is not None
    said: list[Any] = []
    for line in lines:
        try:
            said.append(shown(stream.read(line)))
        except KlingError as error:
            said.append(shown(error))
    return said


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
            "lifetime": value.lifetime,
            "oddity": value.unrecognized,
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


SAMPLES = load()

"""Whatever a provider answers, whatever the provider: a reading, or one of our errors, never anything else.

The recorded samples, bent: every part of every answer replaced by what it should not be, cut, or foreign altogether.
"""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kling_async import Artifact, JobRef, KlingError
from kling_async._models import Progress
from kling_async._tracking.transitions import advance
from kling_async.providers import ALL_PROVIDERS
from kling_async.providers._base.provider import Accepted, Provider
from kling_async.providers.base import StatusReport
from support.letters import LETTERS
from support.samples import DISTINCT, KEY, SAMPLES, Sample, drive

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(LETTERS, max_size=8)
    | st.sampled_from(["completed", "failed", "pending", KEY, "../../x", "http://169.254.169.254/", "-1", "NaN", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(LETTERS, max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every part of a JSON value, the whole included."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from places(part, (*path, name))


@st.composite
def broken(draw: st.DrawFn, value: Any) -> Any:
    """The JSON with one part taken out or replaced by something else."""
    path = draw(st.sampled_from(list(places(value))))
    if not path:
        return draw(JSON)
    value = copy.deepcopy(value)
    parent = value
    for step in path[:-1]:
        parent = parent[step]
    if draw(st.booleans()):
        parent[path[-1]] = draw(JSON)
    else:
        del parent[path[-1]]
    return value


@st.composite
def garbled(draw: st.DrawFn, value: Any) -> bytes:
    """The bytes of a broken JSON value: cut, foreign, or of the wrong types."""
    how = draw(st.sampled_from(["broken", "broken", "broken", "cut", "foreign"]))
    if how == "foreign":
        return draw(st.sampled_from([b"", b"<html>502</html>", b"null", b"\xff\xfe", b"[]", b"{}", b'"x"', b"[[[["]))
    text = json.dumps(draw(broken(value)) if how == "broken" else value).encode()
    return text[: draw(st.integers(0, len(text)))] if how == "cut" else text


class Saver:
    async def save(
        self,
        artifact: Artifact,
        target: str | Path,
        *,
        directory: bool,
        progress: Progress | None,
        name: str | None = None,
    ) -> Path:
        return Path(target)

    async def read(self, artifact: Artifact) -> bytes:
        return artifact.data or b""

    async def stream(self, artifact: Artifact) -> AsyncIterator[bytes]:
        yield artifact.data or b""


def sound(value: Any) -> None:
    """Check that something read is fit for what comes after: the lifecycle, the log, the user."""
    if isinstance(value, KlingError):
        assert KEY not in str(value)
        return
    if isinstance(value, Accepted):
        assert JobRef("provider", "endpoint", value.id).id == value.id
        sound(value.report)
    if isinstance(value, StatusReport):
        event = advance(None, value, source="poll", at=1e9, started=1e9 - 5)
        assert event is not None
        for artifact in event.artifacts:
            assert isinstance(artifact.url, str) or isinstance(artifact.data, bytes)
        for failure in value.failures:
            assert failure.code
        assert value.message is None or isinstance(value.message, str)
        assert value.progress is None or 0 <= value.progress <= 1
        assert str(event.result(JobRef("provider", "endpoint", "id"), Saver()))


ODD: list[Any] = [
    None,
    True,
    0,
    -7,
    1.5,
    "",
    "x",
    KEY,
    "NaN",
    "../../x",
    [],
    [None],
    [7],
    ["x"],
    [[]],
    [{}],
    {},
    {"x": None},
]


def replaced(value: Any, path: tuple[Any, ...], part: Any) -> Any:
    """The JSON with the part at the end of the path replaced."""
    if not path:
        return part
    changed = copy.copy(value)
    changed[path[0]] = replaced(value[path[0]], path[1:], part)
    return changed


def tasting(sample: Sample) -> Callable[[int, bytes, int | None], None]:
    """What lets a flow, webhook or stream have this as its reply, body or line, and checks what comes out."""
    provider = sample.provider()
    begin = sample.flows(provider) if sample.exchanges else None
    recorded_replies = sample.replies

    def taste(index: int, content: bytes, status: int | None = None) -> None:
        try:
            if sample.kind == "webhook":
                for item in provider.parse_webhook(content, {}):
                    assert item.id is None or isinstance(item.id, str)
                    sound(item.report)
            elif sample.kind == "stream":
                stream = provider.stream(sample.refs[0])
                assert stream is not None
                for line in [*sample.data["lines"][:index], content.decode("utf-8", "replace")]:
                    sound(stream.read(line))
            else:
                assert begin is not None
                replies = recorded_replies.copy()
                replies[index] = replace(replies[index], status=status or replies[index].status, content=content)
                value, _ = drive(begin(), replies)
                for part in value.values() if isinstance(value, dict) else [value]:
                    sound(part)
        except KlingError as error:
            sound(error)

    return taste


def recorded(sample: Sample) -> list[Any]:
    """The JSON values that the provider sends in the sample, or None for what is no JSON."""
    if sample.kind == "webhook":
        return [sample.data.get("body")]
    if sample.kind == "stream":
        return [_json(line) for line in sample.data["lines"]]
    return [exchange["reply"].get("json") for exchange in sample.exchanges]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


@pytest.mark.parametrize("sample", DISTINCT, ids=lambda sample: sample.name)
def test_a_part_of_the_wrong_type_raises_nothing_but_our_errors(sample: Sample) -> None:
    """Each part of each answer in turn, replaced by everything that it should not be."""
    taste = tasting(sample)
    for index, value in enumerate(recorded(sample)):
        for path in places(value):
            for odd in ODD:
                taste(index, json.dumps(replaced(value, path, odd)).encode(), None)


@pytest.mark.parametrize("kind", ALL_PROVIDERS, ids=lambda kind: kind.name)
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_every_answer_is_a_reading_or_one_of_our_errors(kind: type[Provider], data: st.DataObject) -> None:
    """Truncated, foreign or wrongly typed answers, with any status, never raise anything but `KlingError`."""
    samples = [one for one in SAMPLES if one.name.startswith(f"{kind.name}/")]
    assert samples, f"nothing of {kind.display_name} is recorded in tests/samples"
    sample = data.draw(st.sampled_from(samples))
    values = recorded(sample)
    index = data.draw(st.integers(0, len(values) - 1))
    status = data.draw(st.sampled_from([None, None, 200, 202, 400, 404, 503]))
    tasting(sample)(index, data.draw(garbled(values[index])), status)

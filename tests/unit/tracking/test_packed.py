"""What a job keeps in packed form comes back as it was."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kling_async import Video, kling, runblob
from kling_async._models import Cost, Event, Status
from kling_async._tracking import packed_events
from kling_async._tracking.packed_events import EMPTY, appended, event_at, events_of, length, pack, unpack
from kling_async._tracking.packed_request import pack_request, unpack_request
from kling_async.providers.base import Request
from support.letters import LETTERS

COSTS = st.none() | st.builds(Cost, st.decimals(0, 100, places=4), st.sampled_from(["USD", "credits"]))
EVENTS = st.builds(
    Event,
    st.integers(0, 9),
    st.sampled_from(Status),
    st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # given there
    st.floats(0, 1e6),
    st.sampled_from(["poll", "webhook"]),
    st.none() | st.floats(0, 1),
    st.none() | st.text(LETTERS, max_size=5),
    cost=COSTS,
    step=st.integers(0, 3),
    balance=COSTS,
    queue_position=st.none() | st.integers(0, 9),
    logs=st.lists(st.text(LETTERS, max_size=5), max_size=2).map(tuple),
)


@given(EVENTS)
def test_an_event_of_plain_values_comes_back_equal(event: Event) -> None:
    packed = pack(event)
    assert isinstance(packed, tuple)
    assert unpack(packed) == event
    assert unpack(packed).at.tzinfo is UTC


@given(st.lists(EVENTS, max_size=5))
def test_a_log_has_its_events_in_order(events: list[Event]) -> None:
    log = EMPTY
    for count, event in enumerate(events):
        assert length(log) == count
        log = appended(log, event)
    assert list(events_of(log)) == events
    assert [event_at(log, place - len(events)) for place in range(len(events))] == events
    with pytest.raises(IndexError):
        event_at(log, len(events))


def _running(cost: str = "0.15") -> list[Event]:
    at = datetime(2026, 11, 28, 12, 30, 1, 234567, UTC)
    return [
        Event(0, Status.PENDING, at, 0.25, "submit", cost=Cost.parse(cost, "USD")),
        Event(1, Status.PROCESSING, at.replace(minute=31), 60.1, "poll", cost=Cost.parse(cost, "USD")),
    ]


def test_the_log_of_a_job_that_runs_is_a_few_bytes() -> None:
    log = EMPTY
    for event in _running():
        log = appended(log, event)
    assert isinstance(log, bytes)
    assert len(log) == 36
    ended = Event(2, Status.COMPLETED, datetime(2026, 11, 28, 12, 33, tzinfo=UTC), 180.0, "poll", raw={"a": 1})
    log = appended(log, ended)
    assert [*events_of(log)] == [*_running(), ended]
    assert event_at(log, -1).raw == {"a": 1}


def test_what_events_share_is_kept_of_a_limited_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_events, "_shared", {})
    monkeypatch.setattr(packed_events, "_numbers", {})
    monkeypatch.setattr(packed_events, "_MOST_SHARED", 3)
    logs = [appended(appended(EMPTY, one), two) for one, two in (_running(f"0.1{number}") for number in range(9))]
    assert [[*events_of(log)] for log in logs] == [_running(f"0.1{number}") for number in range(9)]
    assert len(packed_events._shared) == 3


@pytest.mark.parametrize(
    "request_",
    [
        runblob.O3Video("a boat"),
        runblob.O3Video(
            prompt="a boat",
            duration=10,
            model="kling_o3_pro",
            first_frame="https://cdn.test/a.png",
            last_frame="https://cdn.test/b.png",
        ),
        runblob.O3Photo("a boat", references=["https://cdn.test/a.png"]),
        runblob.O3Photo("a boat", references=[b"\x89PNG\r\n\x1a\n" + b"\0" * 40]),
        kling.TextToVideo("a boat", callback_url="https://example.com/x"),
        Video("a boat", duration=5),
        runblob.O3Video("a boat").model_copy(update={"duration": 15}),
    ],
    ids=lambda request: type(request).__name__,
)
def test_a_request_comes_back_equal(request_: Request) -> None:
    found = unpack_request(pack_request(request_))
    assert found == request_
    assert type(found) is type(request_)
    assert found.model_fields_set == request_.model_fields_set
    assert repr(found) == repr(request_)
    assert hash(found) == hash(request_)


def test_a_request_with_more_than_plain_values_is_kept_as_it_is() -> None:
    pictures = runblob.O3Photo("a boat", references=["https://cdn.test/a.png"])
    changed = runblob.O3Video("a boat").model_copy()
    object.__setattr__(changed, "duration", Decimal(5))  # a default that is not the class's any more
    for request in (pictures, changed):
        assert pack_request(request) is request
    assert isinstance(pack_request(runblob.O3Video("a boat")), tuple)

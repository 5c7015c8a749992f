"""Whatever order, repetition or loss of readings: the log is monotone and ends in the same state."""

from __future__ import annotations

import gc
import itertools
import random
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from kling_async import Artifact, Cost, Event, Failure, Status
from kling_async._models import Source
from kling_async._tracking.packed_events import pack, unpack
from kling_async._tracking.transitions import STATUS_ORDER, advance
from kling_async.providers.base import StatusReport

SOURCES: list[Source] = ["submit", "poll", "stream", "webhook", "ledger"]


def log(reports: list[StatusReport], seed: int = 0) -> list[Event]:
    """The events that the readings make, one a second."""
    chance = random.Random(seed)
    events: list[Event] = []
    for second, report in enumerate(reports):
        latest = events[-1] if events else None
        source = chance.choice(SOURCES)
        event = advance(latest, report, source=source, at=1000.0 + second, started=1000.0)
        if event is not None:
            events.append(event)
    return events


files = st.lists(
    st.builds(Artifact, st.just("image"), url=st.sampled_from([f"https://cdn.test/{n}" for n in range(4)])), max_size=3
).map(tuple)
running = st.builds(
    StatusReport,
    st.sampled_from([None, Status.PENDING, Status.PROCESSING]),
    step=st.integers(0, 5),
    progress=st.none() | st.floats(0, 1),
    message=st.none() | st.sampled_from(["queued", "rendering"]),
    artifacts=files,
)
ending = st.builds(
    StatusReport,
    st.sampled_from([Status.COMPLETED, Status.FAILED, Status.CANCELLED]),
    artifacts=files,
    failures=st.just(()) | st.just((Failure("TIMEOUT", retryable=True),)),
)


@given(st.lists(running | ending, max_size=30), st.integers())
def test_the_log_is_monotone(reports: list[StatusReport], seed: int) -> None:
    events = log(reports, seed)
    assert [event.seq for event in events] == list(range(len(events)))
    for before, after in itertools.pairwise(events):
        assert not before.status.terminal, "terminal is absorbing"
        assert (STATUS_ORDER[before.status], before.step) <= (STATUS_ORDER[after.status], after.step)
        assert (before.progress or 0) <= (after.progress or 0)
        assert after.artifacts[: len(before.artifacts)] == before.artifacts
        assert before.at <= after.at
    for event in events:
        assert [artifact.index for artifact in event.artifacts] == list(range(len(event.artifacts)))
        assert len({artifact.identity for artifact in event.artifacts}) == len(event.artifacts)


@given(st.lists(running, max_size=10), ending, st.integers())
def test_any_order_and_repetition_ends_alike(reports: list[StatusReport], end: StatusReport, seed: int) -> None:
    story = [*reports, end]
    chance = random.Random(seed)
    scrambled = [chance.choice(story) for _ in range(20)] + story
    chance.shuffle(scrambled)
    ends = [log(order)[-1] for order in (story, scrambled, [end])]
    assert {event.status for event in ends} == {end.status}
    assert {event.failures for event in ends if end.failures} <= {end.failures}
    named = {artifact.identity for artifact in end.artifacts}
    assert all(named <= {artifact.identity for artifact in event.artifacts} for event in ends)


@given(st.lists(running | ending, max_size=10))
def test_repeated_reports_add_nothing(reports: list[StatusReport]) -> None:
    once, again = log(reports), log([*reports, *reports])
    assert again == once or not once[-1].status.terminal
    if once and once[-1].status.terminal:
        assert again == once


def test_an_unknown_status_first_is_pending() -> None:
    [event] = log([StatusReport(None)])
    assert (event.status, event.seq, event.elapsed) == (Status.PENDING, 0, 0.0)


def test_a_late_report_puts_no_old_message_on_a_new_status() -> None:
    events = log(
        [
            StatusReport(Status.PROCESSING, step=1, message="preparing"),
            StatusReport(Status.PROCESSING, step=2, message="rendering"),
            StatusReport(Status.PROCESSING, step=1, message="preparing", progress=0.5),
        ]
    )
    assert (events[-1].message, events[-1].step, events[-1].progress) == ("rendering", 2, 0.5)


def test_files_get_the_expiry_that_the_provider_documents() -> None:
    [event] = log([StatusReport(Status.COMPLETED, artifacts=(Artifact("image", "https://cdn.test/1"),), lifetime=60.0)])
    assert event.artifacts[0].expires == datetime.fromtimestamp(1060.0, UTC)


def test_the_answer_is_kept_from_the_end_alone() -> None:
    events = log([StatusReport(Status.PENDING, raw={"a": 1}), StatusReport(Status.COMPLETED, raw={"b": 2})])
    assert [event.raw for event in events] == [None, {"b": 2}]


costs = st.none() | st.builds(
    Cost, st.decimals(allow_nan=False, allow_infinity=False), st.sampled_from(["USD", "credits"])
)


@given(st.lists(running | ending), costs, costs)
def test_an_event_that_was_packed_is_the_same_event(
    reports: list[StatusReport], cost: Cost | None, balance: Cost | None
) -> None:
    for event in log([replace(report, cost=cost, balance=balance, raw={"a": 1}) for report in reports]):
        again = unpack(pack(event))
        assert again == event
        assert (str(again.cost), str(again.balance), again.raw) == (str(event.cost), str(event.balance), event.raw)


def test_a_packed_event_is_skipped_by_the_garbage_collector() -> None:
    reports = [
        StatusReport(Status.PENDING, cost=Cost(Decimal("0.15"), "USD")),
        StatusReport(Status.PROCESSING, message="now"),
    ]
    at_rest = (*map(pack, log(reports)),)
    assert gc.is_tracked(at_rest)
    for _ in range(2):  # first what it holds, then the tuple that holds nothing else
        gc.collect()
    assert not any(gc.is_tracked(thing) for thing in (at_rest, *at_rest))

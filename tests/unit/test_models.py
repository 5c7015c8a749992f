"""What results, artifacts and events look like when they are printed."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from kling_async import Artifact, Cost, Event, Failure, JobRef, Result, Status

REF = JobRef("runblob", "o3-photo", "550e8400-e29b-41d4-a716-446655440000")
IMAGE = Artifact("image", "https://cdn.example.com/a.png", expires=datetime.now(UTC), seed=7)


def event(status: Status, **facts: object) -> Event:
    return Event(2, status, datetime.now(UTC), 12.34, "poll", **facts)  # type: ignore[arg-type]  # each test gives its own


def test_a_result_is_one_readable_line() -> None:
    result = Result(
        REF, (IMAGE, IMAGE), Cost(Decimal("0.0500"), "USD"), (Failure("TIMEOUT", "long" * 500),), raw={"a": 1}
    )
    assert repr(result) == str(result) == f"<Result {REF}: 2 images, failed: TIMEOUT, $0.05>"


def test_an_artifact_shows_what_it_is_and_where() -> None:
    assert repr(IMAGE) == "<Artifact 0: image https://cdn.example.com/a.png>"
    assert repr(Artifact("audio", data=b"123", index=1)) == "<Artifact 1: audio of 3 bytes>"


def test_an_event_is_one_readable_line() -> None:
    running = event(Status.PROCESSING, progress=0.4, queue_position=3, message="sampling", logs=("a",) * 99)
    assert repr(running) == "<Event 2: processing 40% after 12.3 s (poll), 3 ahead in the queue, 'sampling'>"
    done = event(
        Status.COMPLETED, progress=1.0, artifacts=(IMAGE,), cost=Cost(Decimal(3), "credits"), raw={"a": "b" * 999}
    )
    assert repr(done) == "<Event 2: completed after 12.3 s (poll), 1 image, 3 credits>"
    failed = event(Status.FAILED, failures=(Failure("CONTENT_POLICY_VIOLATION", "x" * 400),), message="y" * 400)
    assert len(repr(failed)) < 200

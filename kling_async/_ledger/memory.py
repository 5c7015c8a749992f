"""A ledger in memory. It fulfils the contract until the process ends."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from kling_async._errors import ConfigurationError
from kling_async._event_loop.turns import cooperative_map
from kling_async._ledger.protocol import SpendingGroup, Submission, SubmissionState
from kling_async._ledger.serialization import comparable_request
from kling_async._models import Event, JobRef

__all__ = ["MemoryLedger"]


class MemoryLedger:
    """A ledger that ends with the process: for tests, and for services that need idempotency keys and no file.

    Args:
        keep_images: See `Ledger.keep_images`.
    """

    def __init__(self, *, keep_images: bool = False) -> None:
        self.keep_images = keep_images
        self._attempts: dict[str, list[Submission]] = {}  # by key, oldest first
        self._keys: dict[str, str] = {}  # by attempt_id
        self._events: dict[JobRef, dict[int, Event]] = {}
        self._files: dict[JobRef, dict[int, Path | str]] = {}
        self._values: dict[str, Any] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryLedger {len(self._attempts)} submissions{' closed' if self._closed else ''}>"

    async def claim(self, submission: Submission) -> Submission:
        """See `Ledger.claim`."""
        self._require_open()
        attempts = self._attempts.setdefault(submission.key, [])
        if not attempts or attempts[-1].key_reusable:
            attempts.append(submission)
            self._keys[submission.attempt_id] = submission.key
        return self._complete(attempts[-1])

    async def record_outcome(self, submission: Submission) -> bool | None:
        """See `Ledger.record_outcome`."""
        self._require_open()
        known = [a for a in self._attempts.get(submission.key, ()) if a.attempt_id == submission.attempt_id]
        if submission.ref is None and any(attempt.state is SubmissionState.ACCEPTED for attempt in known):
            return False
        outcome = {name: getattr(submission, name) for name in ("state", "ref", "reason", "answer")}
        self._change(submission.key, submission.attempt_id, **outcome)
        if submission.ref is None or submission.latest is None:
            return False
        return not self._append(submission.ref, [submission.latest])

    async def release(self, key: str, attempt_id: str, reason: str) -> None:
        """See `Ledger.release`."""
        self._require_open()
        attempts = self._attempts.get(key)
        if attempts and attempts[-1].attempt_id == attempt_id:
            self._change(key, attempt_id, released=reason)

    def _change(self, key: str, attempt_id: str, **changes: Any) -> None:
        attempts = self._attempts.get(key, [])
        for index, attempt in enumerate(attempts):
            if attempt.attempt_id == attempt_id:
                attempts[index] = replace(attempt, **changes)

    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> Sequence[Event]:
        """See `Ledger.append_events`."""
        self._require_open()
        return self._append(ref, events)

    def _append(self, ref: JobRef, events: Sequence[Event]) -> Sequence[Event]:
        log = self._events.setdefault(ref, {})
        for event in events:
            log.setdefault(event.seq, event)
        if all(log[event.seq] == event for event in events):
            return ()
        return [log[seq] for seq in sorted(log) if seq >= events[0].seq]

    async def record_file(self, ref: JobRef, index: int, place: Path | str) -> None:
        """See `Ledger.record_file`."""
        self._require_open()
        self._files.setdefault(ref, {})[index] = place

    async def find(
        self, *, key: str | None = None, attempt_id: str | None = None, ref: JobRef | None = None
    ) -> Submission | None:
        """See `Ledger.find`."""
        self._require_open()
        if attempt_id is not None:
            key = self._keys.get(attempt_id)
        groups = self._attempts.values() if ref is not None else [self._attempts.get(key or "", [])]
        for attempts in groups:
            for attempt in reversed(attempts):
                if attempt_id in {None, attempt.attempt_id} and ref in {None, attempt.ref}:
                    return self._complete(attempt)
        return None

    async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
        """See `Ledger.submissions`."""
        self._require_open()
        current = [attempts[-1] for attempts in self._attempts.values()]
        found = await cooperative_map(self._complete, current)
        return sorted((s for s in found if s.unfinished or not unfinished), key=attrgetter("started"))

    async def attempts(self, key: str) -> list[Submission]:
        """See `Ledger.attempts`."""
        self._require_open()
        return [self._complete(attempt) for attempt in self._attempts.get(key, ())]

    async def spending(self, ignored_fields: Collection[str] = ()) -> list[SpendingGroup]:
        """See `Ledger.spending`."""
        self._require_open()
        groups: dict[Any, SpendingGroup] = {}

        def add(attempt: Submission, *, current: bool) -> None:
            found = self._complete(attempt)
            if found.state.key_reusable or (current and found.unfinished):
                return
            kind = (found.endpoint, comparable_request(found.request, ignored_fields), found.status, found.cost)
            group = groups.get(kind) or SpendingGroup(found.endpoint, found.request, found.status, found.cost, 0)
            groups[kind] = replace(group, count=group.count + 1)

        listed = [(attempt, attempt is group[-1]) for group in self._attempts.values() for attempt in group]
        await cooperative_map(lambda one: add(one[0], current=one[1]), listed)
        return list(groups.values())

    async def events(self, ref: JobRef) -> list[Event]:
        """See `Ledger.events`."""
        self._require_open()
        log = self._events.get(ref, {})
        return [log[seq] for seq in sorted(log)]

    async def set_value(self, name: str, value: Any) -> None:
        """See `Ledger.set_value`."""
        self._require_open()
        self._values[name] = value

    async def get_value(self, name: str) -> Any:
        """See `Ledger.get_value`."""
        self._require_open()
        return self._values.get(name)

    async def aclose(self) -> None:
        """See `Ledger.aclose`."""
        self._closed = True

    def _complete(self, attempt: Submission) -> Submission:
        """The attempt with what is recorded of its job."""
        if attempt.ref is None:
            return attempt
        log, files = self._events.get(attempt.ref), self._files.get(attempt.ref, {})
        latest = log[max(log)] if log else None
        return replace(attempt, latest=latest, files=tuple(files[index] for index in sorted(files)))

    def _require_open(self) -> None:
        if self._closed:
            raise ConfigurationError("the ledger is closed; make a new one")

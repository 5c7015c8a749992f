"""A ledger in memory: it keeps the contract for as long as the process lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from kling_async._concurrency import cooperative_map
from kling_async._errors import ConfigurationError
from kling_async._ledger.protocol import Submission
from kling_async._models import Event, JobRef

__all__ = ["MemoryLedger"]


class MemoryLedger:
    """A ledger that ends with the process: for tests, and for services that want one purchase a key and no file.

    Args:
        keep_images: See `Ledger.keep_images`.
    """

    def __init__(self, *, keep_images: bool = False) -> None:
        self.keep_images = keep_images
        self._submissions: dict[str, Submission] = {}
        self._events: dict[JobRef, dict[int, Event]] = {}
        self._files: dict[JobRef, dict[int, Path]] = {}
        self._values: dict[str, Any] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryLedger {len(self._submissions)} submissions{' closed' if self._closed else ''}>"

    async def claim(self, submission: Submission) -> Submission:
        """See `Ledger.priority`."""
        self._require_open()
        held = self._submissions.get(submission.key)
        if held is None or held.state.key_reusable:
            self._submissions[submission.key] = submission
        return self._complete(self._submissions[submission.key])

    async def record_outcome(self, submission: Submission) -> None:
        """See `Ledger.record_outcome`."""
        self._require_open()
        held = self._submissions.get(submission.key)
        if held is not None and held.attempt_id == submission.attempt_id:
            self._submissions[submission.key] = replace(
                held, state=submission.state, ref=submission.ref, reason=submission.reason
            )

    async def append_events(self, ref: JobRef, events: Sequence[Event]) -> None:
        """See `Ledger.append_events`."""
        self._require_open()
        log = self._events.setdefault(ref, {})
        for event in events:
            log.setdefault(event.seq, event)

    async def record_file(self, ref: JobRef, index: int, path: Path) -> None:
        """See `Ledger.record_file`."""
        self._require_open()
        self._files.setdefault(ref, {})[index] = path

    async def find(
        self, *, key: str | None = None, attempt_id: str | None = None, ref: JobRef | None = None
    ) -> Submission | None:
        """See `Ledger.find`."""
        self._require_open()
        if key is not None:
            held = self._submissions.get(key)
            return self._complete(held) if held is not None else None
        for held in self._submissions.values():
            if attempt_id == held.attempt_id or (ref is not None and ref == held.ref):
                return self._complete(held)
        return None

    async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
        """See `Ledger.submissions`."""
        self._require_open()
        found = await cooperative_map(self._complete, tuple(self._submissions.values()))
        return sorted((s for s in found if s.unfinished or not unfinished), key=attrgetter("started"))

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

    def _complete(self, held: Submission) -> Submission:
        """The submission with what is known of its job."""
        if held.ref is None:
            return held
        log, files = self._events.get(held.ref), self._files.get(held.ref, {})
        latest = log[max(log)] if log else None
        return replace(held, latest=latest, files=tuple(files[index] for index in sorted(files)))

    def _require_open(self) -> None:
        if self._closed:
            raise ConfigurationError("the ledger is closed; make a new one")

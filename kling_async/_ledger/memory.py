"""A ledger in memory: it keeps the contract for as long as the process lives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from kling_async._concurrency import in_turns
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
        self._kept: dict[str, Any] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemoryLedger {len(self._submissions)} submissions{' closed' if self._closed else ''}>"

    async def begin(self, submission: Submission) -> Submission:
        """See `Ledger.begin`."""
        self._require_open()
        held = self._submissions.get(submission.key)
        if held is None or held.state.free:
            self._submissions[submission.key] = submission
        return self._complete(self._submissions[submission.key])

    async def settle(self, submission: Submission) -> None:
        """See `Ledger.settle`."""
        self._require_open()
        held = self._submissions.get(submission.key)
        if held is not None and held.purchase == submission.purchase:
            self._submissions[submission.key] = replace(
                held, state=submission.state, ref=submission.ref, reason=submission.reason
            )

    async def record(self, ref: JobRef, events: Sequence[Event]) -> None:
        """See `Ledger.record`."""
        self._require_open()
        log = self._events.setdefault(ref, {})
        for event in events:
            log.setdefault(event.seq, event)

    async def saved(self, ref: JobRef, index: int, path: Path) -> None:
        """See `Ledger.saved`."""
        self._require_open()
        self._files.setdefault(ref, {})[index] = path

    async def find(
        self, *, key: str | None = None, purchase: str | None = None, ref: JobRef | None = None
    ) -> Submission | None:
        """See `Ledger.find`."""
        self._require_open()
        if key is not None:
            held = self._submissions.get(key)
            return self._complete(held) if held is not None else None
        for held in self._submissions.values():
            if purchase == held.purchase or (ref is not None and ref == held.ref):
                return self._complete(held)
        return None

    async def submissions(self, *, unfinished: bool = False) -> list[Submission]:
        """See `Ledger.submissions`."""
        self._require_open()
        found = await in_turns(self._complete, tuple(self._submissions.values()))
        return sorted((s for s in found if s.unfinished or not unfinished), key=attrgetter("started"))

    async def events(self, ref: JobRef) -> list[Event]:
        """See `Ledger.events`."""
        self._require_open()
        log = self._events.get(ref, {})
        return [log[seq] for seq in sorted(log)]

    async def keep(self, name: str, value: Any) -> None:
        """See `Ledger.keep`."""
        self._require_open()
        self._kept[name] = value

    async def kept(self, name: str) -> Any:
        """See `Ledger.kept`."""
        self._require_open()
        return self._kept.get(name)

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

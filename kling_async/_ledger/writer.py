"""The client's access to its ledger: a write that fails is kept, and repeated when the storage works again.

Theory of operation
-------------------
When the ledger cannot be written (a full disk), nothing more is bought: `claim` raises. Jobs that were bought before go
on: their events are published although they are not recorded, because somebody waits for the end of the job. What could
not be written is *pending*: it stays in memory, and it is written before the next submission, or when the client is
closed. A shared ledger tries by itself, too, so that other processes soon see what has happened. If the process dies
before that, the ledger still has the submission, as unknown or as running, and polling the
provider again yields the same events.

A provider may send what a ledger cannot store. That must not hold up others, so it is not pending: less of it is stored
(without the provider's words and its answer), and that is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from kling_async._errors import ConfigurationError, KlingError, LedgerFailed
from kling_async._exchange.redaction import redact_json
from kling_async._ledger.protocol import (
    LEDGER_METHODS,
    NOT_STORABLE,
    Charge,
    Ledger,
    SharedLedger,
    Slot,
    Submission,
    is_shielded,
)
from kling_async._models import Event, JobRef
from kling_async._scheduling.schedules import Learned, merged
from kling_async._validation import given

__all__ = ["LedgerWriter"]

log = logging.getLogger("kling_async")

_NO_SCOPE = nullcontext()
_LEARNED = "durations"
_LONGEST_BODY = 300  # characters of an answer that are stored


class LedgerWriter:
    """Stores what happens to the submissions of one client.

    A write that has begun is waited for also if a scope around its caller is cancelled: what came of it must be known.

    Args:
        ledger: Where. If None, nothing is stored.
        secrets: Secrets by provider. They are replaced in everything that is stored.
    """

    def __init__(self, ledger: Ledger | None, secrets: Mapping[str, str | Sequence[str]]) -> None:
        missing = (
            [] if ledger is None else [name for name in LEDGER_METHODS if not callable(getattr(ledger, name, None))]
        )
        if missing or isinstance(ledger, type):
            lacking = f" without {', '.join(missing)}" if 0 < len(missing) <= len(LEDGER_METHODS) / 2 else ""
            raise ConfigurationError(
                f'Client(ledger=...) takes a ledger, such as SqliteLedger("jobs.db"), not {given(ledger)}{lacking}'
            )
        self._ledger = ledger
        self._ledger_shields = all(is_shielded(ledger, name) for name in ("claim", "record_outcome", "append_events"))
        self._secrets = secrets
        self._pending: dict[str, Submission] = {}  # by attempt_id
        self._pending_events: dict[JobRef, list[Event]] = {}
        self._pending_files: dict[tuple[JobRef, int], Path | str] = {}
        self._kept: set[str] = set()  # names of what is pending that the ledger tries to store by itself
        self._interrupted = False  # and that was logged
        self._closed = False

    @property
    def enabled(self) -> bool:
        """Whether there is a ledger."""
        return self._ledger is not None

    @property
    def ledger(self) -> Ledger:
        """The ledger.

        Raises:
            ConfigurationError: There is none.
        """
        if self._ledger is None:
            raise ConfigurationError('this client keeps no ledger; make it with Client(ledger=SqliteLedger("jobs.db"))')
        return self._ledger

    @property
    def shared(self) -> SharedLedger | None:
        """The ledger, if several processes may have it open."""
        several: Any = self._ledger
        # Asked of the class: an object that hands every name on would have it, too.
        return several if callable(getattr(type(several), "lease_left", None)) else None

    async def claim(self, submission: Submission, charge: Charge | None = None, slot: Slot | None = None) -> Submission:
        """Store what is pending, then claim the key. See `SharedLedger.claim`.

        Args:
            submission: The submission.
            charge: What it counts for in the budgets of all processes, where they share the ledger. None elsewhere.
            slot: The slot that it takes, where processes share the ledger.

        Raises:
            LedgerFailed: The ledger cannot be written. Nothing may be sent.
            NoRoom: It does not fit into the limit of the charge.
            NoSlot: The account has no free slot.
        """
        with self._shielded():
            await self.flush()
            if self.shared is None:
                return await self.ledger.claim(submission)
            return await self.shared.claim(submission, charge, slot)
        raise AssertionError  # nobody cancels the scope

    async def record_outcome(self, submission: Submission) -> bool:
        """Store the outcome of a submission. If that fails, it is pending. See `Ledger.record_outcome`."""
        if self._ledger is None:
            return False
        secret = self._secrets.get(submission.provider)
        if submission.reason is not None:
            submission = replace(submission, reason=redact_json(submission.reason, secret))
        if submission.answer is not None:
            headers, body = (redact_json(part, secret) for part in (submission.answer.headers, submission.answer.body))
            answer = replace(submission.answer, headers=dict(headers), body=body[:_LONGEST_BODY])
            submission = replace(submission, answer=answer)
        if submission.latest is not None and (shown := _redacted(submission.latest, secret)) is not submission.latest:
            submission = replace(submission, latest=shown)
        try:
            with self._shielded():
                return await self._store_outcome(submission)
        except (LedgerFailed, ConfigurationError) as error:  # it was closed, or taken by another process, meanwhile
            self._add_pending(error, submission.attempt_id)
            self._pending[submission.attempt_id] = replace(submission, latest=None)  # it becomes pending by itself
        return False

    async def append_events(self, ref: JobRef, event: Event) -> Sequence[Event]:
        """Store an event before it is published. If that fails, it is pending.

        Returns:
            What another process stored under its number before.
        """
        event = _redacted(event, self._secrets.get(ref.provider))
        events = [*self._pending_events.get(ref, ()), event] if self._pending_events else [event]
        try:
            with self._shielded():
                theirs = await self._store_events(ref, events)
        except (LedgerFailed, ConfigurationError) as error:  # the same
            self._add_pending(error, str(ref))
            self._pending_events[ref] = events
            return ()
        if self._pending_events:
            self._pending_events.pop(ref, None)
        return theirs or ()  # a ledger of the user's may return nothing

    def _shielded(self) -> AbstractContextManager[object]:
        """A shielded scope for writes, where the ledger does not see to that itself."""
        return _NO_SCOPE if self._ledger_shields and not self._interrupted else anyio.CancelScope(shield=True)

    async def _store_outcome(self, submission: Submission) -> bool:
        """Store an outcome, or less of it if all of it cannot be stored. See `Ledger.record_outcome`."""
        key = submission.key
        try:
            return await self.ledger.record_outcome(submission) or False
        except LedgerFailed as error:
            if error.code != NOT_STORABLE:
                raise
            log.warning("submission %r: %s. The reason and the answer are left out", key, error)
        try:
            await self.ledger.record_outcome(replace(submission, reason=None, answer=None, latest=None))
        except LedgerFailed as error:
            if error.code != NOT_STORABLE:
                raise
            message = "submission %r is %s (job %s), and the ledger does not know it: %s"
            log.error(message, key, submission.state, submission.ref, error)  # noqa: TRY400  # it is complete
        return False

    async def _store_events(self, ref: JobRef, events: Sequence[Event]) -> Sequence[Event]:
        """Store events, or less of them if all of it cannot be stored. See `append_events`."""
        for less, left in _LESS:
            try:
                return await self.ledger.append_events(ref, [less(event) for event in events])
            except LedgerFailed as error:
                if error.code != NOT_STORABLE:
                    raise
                log.warning("job %s, event %d: %s. Of this event, %s", ref, events[-1].seq, error, left)
        return ()

    async def record_file(self, ref: JobRef, index: int, place: Path | str) -> None:
        """Store where a file was saved. If the ledger is away for a while, it is pending. Else a warning is logged."""
        if isinstance(place, Path):
            place = place.absolute()  # noqa: ASYNC240  # it asks for the working directory
        try:
            await self.ledger.record_file(ref, index, place)
        except (LedgerFailed, ConfigurationError) as error:  # the same
            if isinstance(error, LedgerFailed) and error.temporary:
                self._add_pending(error, str(ref))
                self._pending_files[ref, index] = place
            else:
                log.warning("it is not recorded that file %d of job %s was saved to %s: %s", index, ref, place, error)

    async def files(self, ref: JobRef) -> Sequence[Path | str]:
        """Where files of the job were saved, as far as that is stored and can be read."""
        try:
            found = await self.ledger.find(ref=ref)
        except (LedgerFailed, ConfigurationError) as error:
            log.info("it cannot be read where files of job %s were saved: %s", ref, error)
            return ()
        return found.files if found is not None else ()

    async def events(self, ref: JobRef) -> Sequence[Event]:
        """Return the stored events of the job."""
        return await self.ledger.events(ref)

    async def find(self, key: str) -> Submission | None:
        """The current attempt of that key. What is pending is stored first, so that it cannot undo a later decision.

        Raises:
            LedgerFailed: The ledger cannot be written or read.
        """
        await self.flush()
        return await self.ledger.find(key=key)

    async def unfinished(self) -> list[Submission]:
        """The submissions that need attention, with what is pending."""
        self._drop_stored()
        found = await self.ledger.submissions(unfinished=True)
        known = [
            replace(self._pending[s.attempt_id], latest=s.latest, files=s.files) if s.attempt_id in self._pending else s
            for s in found
        ]
        return [submission for submission in known if submission.unfinished]

    async def load(self) -> Mapping[str, Any]:
        """What earlier processes have learned of durations, as JSON."""
        found = await self._ledger.get_value(_LEARNED) if self._ledger is not None else None
        return found if isinstance(found, dict) else {}

    async def aclose(self, learned: Learned | None) -> None:
        """Store what is pending and what was learned of durations, and close. Closing twice is harmless."""
        if self._ledger is None or self._closed:
            return
        self._closed = True
        try:
            await self.flush()
            if learned is not None:
                await self._store(learned)
        except KlingError as error:
            jobs = {*self._pending_events, *(ref for ref, _ in self._pending_files)}
            lost = sorted({str(s.ref or s.key) for s in self._pending.values()} | set(map(str, jobs)))
            log.error(  # noqa: TRY400  # the message is complete. A traceback would hide it
                "%s. The ledger's record of %s is older than what happened", error, ", ".join(lost) or "all jobs"
            )
        await self._ledger.aclose()

    async def _store(self, learned: Learned) -> None:
        """Add what was learned here to what others have stored meanwhile."""
        new = learned.new_state()
        if not new["ends"]:
            return
        if self.shared is not None:
            await self.shared.update_value(_LEARNED, lambda stored: merged(stored, new))
        else:
            await self.ledger.set_value(_LEARNED, merged(await self.ledger.get_value(_LEARNED), new))
        learned.forget_new()

    def _add_pending(self, error: KlingError, name: str) -> None:
        if self.shared is not None and self.shared.keeps(name):
            self._kept.add(name)
        if not self._interrupted:
            log.error("%s. Jobs that run are followed; their events are stored as soon as that is possible", error)
        self._interrupted = True

    async def flush(self) -> None:
        """Store what is pending, if anything is.

        Raises:
            LedgerFailed: The ledger still cannot be written.
        """
        if not self._interrupted:
            return
        self._drop_stored()
        for submission in list(self._pending.values()):
            await self._store_outcome(submission)
            if self._pending.get(submission.attempt_id) is submission:
                del self._pending[submission.attempt_id]
        for ref, events in list(self._pending_events.items()):
            await self._store_events(ref, events)
            if self._pending_events.get(ref) is events:
                del self._pending_events[ref]
        for (ref, index), place in list(self._pending_files.items()):
            await self.ledger.record_file(ref, index, place)
            self._pending_files.pop((ref, index), None)
        self._resume()

    def _drop_stored(self) -> None:
        """Forget what the ledger has stored by itself meanwhile: it must not undo what was decided since."""
        stored = {name for name in self._kept if self.shared is not None and not self.shared.keeps(name)}
        if stored:
            self._kept -= stored
            self._pending = {name: one for name, one in self._pending.items() if name not in stored}
            self._pending_events = {ref: log for ref, log in self._pending_events.items() if str(ref) not in stored}

    def _resume(self) -> None:
        """Say once that nothing is pending any more."""
        if self._interrupted and not (self._pending or self._pending_events or self._pending_files):
            self._interrupted = False
            log.warning("the ledger can be written again, and everything pending was stored")


def _redacted(event: Event, key: str | Sequence[str] | None) -> Event:
    """The event without secrets in what the provider wrote. Most have none, and are returned as they are."""
    if event.raw is None and event.message is None and not event.failures:
        return event
    failures = tuple(
        replace(failure, code=redact_json(failure.code, key), message=redact_json(failure.message, key))
        for failure in event.failures
    )
    raw, message = redact_json(event.raw, key), event.message and redact_json(event.message, key)
    if raw == event.raw and message == event.message and failures == event.failures:
        return event
    return replace(event, raw=raw, message=message, failures=failures)


_LESS: tuple[tuple[Callable[[Event], Event], str], ...] = (
    (lambda event: event, "what the provider said is left out"),
    (
        lambda event: replace(event, message=None, raw=None, failures=(), choice=None, logs=()),
        "only its status is stored",
    ),
    (
        lambda event: Event(event.seq, event.status, event.at, event.elapsed, event.source),
        "nothing of it is stored",
    ),
)
"""How less and less of an event is stored, and what is said when even that cannot be."""

"""The client's side of the ledger: what is to be written is written, at the latest when the disk has space again.

Theory of operation
-------------------
A ledger that cannot be written (a full disk) lets nothing more be bought: `claim` raises. What was bought already goes
on: its events are published although they are not recorded, because withholding a job's end from the one who waits for
it would lose more than it saves. What could not be written is *owed*: it is kept in memory and written before the next
submission, or at the end. If the process dies before, the ledger still has the submission, as unknown or as running,
and asking the provider again yields the same events.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from kling_async._errors import ConfigurationError, KlingError, LedgerFailed
from kling_async._ledger.protocol import LEDGER_METHODS, Ledger, Submission
from kling_async._models import Event, JobRef
from kling_async._redaction import redact_json
from kling_async._scheduling.schedules import Learned
from kling_async._validation import given
from kling_async.providers._base.provider import Provider

__all__ = ["LedgerWriter"]

log = logging.getLogger("kling_async")

_LEARNED = "durations"


class LedgerWriter:
    """Writes down what happens to the submissions of one client.

    Args:
        ledger: Where; None: nowhere.
        providers: Whose keys must not be in it.
    """

    def __init__(self, ledger: Ledger | None, providers: Iterable[Provider]) -> None:
        missing = (
            [] if ledger is None else [name for name in LEDGER_METHODS if not callable(getattr(ledger, name, None))]
        )
        if missing or isinstance(ledger, type):
            lacking = f" without {', '.join(missing)}" if 0 < len(missing) <= len(LEDGER_METHODS) / 2 else ""
            raise ConfigurationError(
                f'Client(ledger=...) takes a ledger, such as SqliteLedger("jobs.db"), not {given(ledger)}{lacking}'
            )
        self._ledger = ledger
        self._keys = {p.name: p.api_key.get_secret_value() for p in providers if p.api_key is not None}
        self._pending: dict[str, Submission] = {}
        self._pending_events: dict[JobRef, list[Event]] = {}
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

    async def claim(self, submission: Submission) -> Submission:
        """Write down what is owed, then claim the key. See `Ledger.priority`.

        Raises:
            LedgerFailed: It cannot be written; nothing may be sent.
        """
        await self.flush()
        return await self.ledger.claim(submission)

    async def record_outcome(self, submission: Submission) -> None:
        """Write down what became of a submission. Where that fails, it is owed."""
        if self._ledger is None:
            return
        if submission.reason is not None:
            reason = redact_json(submission.reason, self._keys.get(submission.provider))
            submission = replace(submission, reason=reason)
        try:
            await self._ledger.record_outcome(submission)
        except (LedgerFailed, ConfigurationError) as error:  # it was closed, or taken by another process, meanwhile
            self._add_pending(error)
            self._pending[submission.key] = submission

    async def append_events(self, ref: JobRef, event: Event) -> None:
        """Write down an event before it is published. Where that fails, it is owed."""
        key = self._keys.get(ref.provider)
        failures = tuple(
            replace(failure, code=redact_json(failure.code, key), message=redact_json(failure.message, key))
            for failure in event.failures
        )
        event = replace(
            event,
            raw=redact_json(event.raw, key),
            message=redact_json(event.message, key),
            failures=failures,
        )
        events = [*self._pending_events.get(ref, ()), event]
        try:
            await self.ledger.append_events(ref, events)
        except (LedgerFailed, ConfigurationError) as error:  # the same
            self._add_pending(error)
            self._pending_events[ref] = events
        else:
            self._pending_events.pop(ref, None)

    async def record_file(self, ref: JobRef, index: int, path: Path) -> None:
        """Write down where a file was saved, if that can be: the file is there all the same."""
        try:
            await self.ledger.record_file(ref, index, path.absolute())  # noqa: ASYNC240  # it asks for the working directory
        except (LedgerFailed, ConfigurationError) as error:  # the same
            log.warning("it is not recorded that file %d of job %s was saved to %s: %s", index, ref, path, error)

    async def files(self, ref: JobRef) -> Sequence[Path]:
        """Where files of the job were saved, as far as that is recorded and can be read."""
        try:
            found = await self.ledger.find(ref=ref)
        except (LedgerFailed, ConfigurationError) as error:
            log.info("it cannot be read where files of job %s were saved: %s", ref, error)
            return ()
        return found.files if found is not None else ()

    async def find(self, key: str) -> Submission | None:
        """The submission of that key, once what is owed is written: it must not undo what is decided about it now.

        Raises:
            LedgerFailed: It cannot be written or read.
        """
        await self.flush()
        return await self.ledger.find(key=key)

    async def unfinished(self) -> list[Submission]:
        """The submissions that need attention, as of the ledger and of what it is owed."""
        found = await self.ledger.submissions(unfinished=True)
        known = [
            replace(self._pending[s.key], latest=s.latest, files=s.files) if s.key in self._pending else s
            for s in found
        ]
        return [submission for submission in known if submission.unfinished]

    async def load(self, learned: Learned | None) -> None:
        """Take up what earlier processes have learned of durations."""
        if self._ledger is not None and learned is not None:
            learned.restore(await self._ledger.get_value(_LEARNED) or {})

    async def aclose(self, learned: Learned | None) -> None:
        """Write down what is owed and what was learned of durations, and close. Closing twice is harmless."""
        if self._ledger is None or self._closed:
            return
        self._closed = True
        try:
            await self.flush()
            if learned is not None and (state := learned.state())["ends"]:
                await self._ledger.set_value(_LEARNED, state)
        except KlingError as error:
            owed = sorted({str(s.ref or s.key) for s in self._pending.values()} | set(map(str, self._pending_events)))
            log.error(  # noqa: TRY400  # the error says it all; a traceback would bury it
                "%s. What it has of %s is older, and true", error, ", ".join(owed) or "all jobs"
            )
        await self._ledger.aclose()

    def _add_pending(self, error: KlingError) -> None:
        if not self._pending and not self._pending_events:
            log.error("%s. Jobs that run are followed; what is heard of them is written when that is possible", error)

    async def flush(self) -> None:
        """Write down what is owed, if anything is.

        Raises:
            LedgerFailed: It still cannot be.
        """
        if not self._pending and not self._pending_events:
            return
        for submission in list(self._pending.values()):
            await self.ledger.record_outcome(submission)
            if self._pending.get(submission.key) is submission:
                del self._pending[submission.key]
        for ref, events in list(self._pending_events.items()):
            await self.ledger.append_events(ref, events)
            if self._pending_events.get(ref) is events:
                del self._pending_events[ref]
        log.warning("the ledger can be written again, and has everything")

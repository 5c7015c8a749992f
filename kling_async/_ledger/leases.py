"""What one open ledger owns: the submissions that it sends, and the jobs that its client polls.

Theory of operation
-------------------
Several processes may have one ledger open. Each open ledger is an *owner*, with a row of its own that says until when
it surely lives. It renews that row for as long as it owns anything. All times in the ledger are read from the
database's clock, so that no two clocks are compared.

- A submission that is being sent belongs to its sender. Once the sender's row has expired, its outcome is unknown.
- A job has a *lease*: its owner polls it. The others that wait for the job read its events from the ledger. A lease
  whose owner has expired may be taken, and at once where the system knows that the owner's process is gone. A lease
  that nobody wants any more in its process is given back. A job that its buyer could not record is the buyer's to poll:
  nobody else knows of it.

An owner that finds its own row expired (the process was stopped, the computer slept) owns nothing any more. It becomes
a new owner, and asks for its leases again.

This module is the part in memory. It is used by the event loop and by the ledger's thread, so a lock guards it. The
statements are those of each database.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from kling_async._errors import ConfigurationError
from kling_async._validation import require

__all__ = ["DEFAULT_LEASE", "LONGEST_ROW", "LOOK", "Leases", "Recorded", "lease_seconds", "now_with_sleep"]

DEFAULT_LEASE = 30.0  # s
LONGEST_ROW = 600.0
"""Seconds for which calls of an account wait in a row at most. A longer row is of a clock that was set back since."""
_SHORTEST = 1.0  # s. A busy computer may not run a process for as long
_RENEWALS = 3  # in the time of a lease, so that two may come late
_IDLE = 2.0  # s for which a lease that nobody wants is kept: whoever reads event after event comes back at once
LOOK = 0.05
"""Seconds between two looks at what other processes have written, while somebody waits for that."""
_FIRST_LOOK = 0.2  # s, while no other process is known. Each look costs a quarter of a millisecond
_RETRY = 1.0  # s between two tries to take leases that others have: theirs may expire without a write


def lease_seconds(name: str, given: float | None) -> float:
    """How long a lease lasts, by the argument of that ledger class, the variable ``KLING_LEASE``, or the default.

    Raises:
        ConfigurationError: It is no number, or too short.
    """
    source, seconds = f"{name}(lease=...)", given
    if given is None:
        source, text = "KLING_LEASE", os.environ.get("KLING_LEASE", "").strip()
        try:
            seconds = float(text) if text else DEFAULT_LEASE
        except ValueError:
            raise ConfigurationError(f"{source} is a number of seconds, such as 30, not {text!r:.40}") from None
    require(source, seconds, int | float, "seconds, such as 30")
    if seconds is None or not seconds >= _SHORTEST:
        raise ConfigurationError(f"{source} is {_SHORTEST:g} s or more, not {seconds:g} s")
    return seconds


def now_with_sleep() -> float:
    """Seconds on a clock that nobody sets, and that goes on while the computer sleeps, where there is one."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.clock_gettime(boot) if boot is not None else time.monotonic()


class Recorded(NamedTuple):
    """What came of recording an outcome.

    Attributes:
        leased: The job whose lease is ours by that: the one who submits a job usually waits for it. None if it is not.
        begun: Whether the job's log begins with the event that came with the outcome.
    """

    leased: str | None
    begun: bool


@dataclass(slots=True)
class Leases:
    """The leases of one open ledger.

    Args:
        seconds: For how long an owner counts as living after its last renewal.

    Attributes:
        owner: Our number in the ledger. None until something is written.
        renewed: When our row was last renewed, on `now_with_sleep`.
        sending: The attempts that are being sent, or wait for a slot.
        others: Whether other processes are at work on the ledger, as far as we know.
    """

    seconds: float = DEFAULT_LEASE
    owner: int | None = None
    renewed: float = -math.inf
    sending: set[str] = field(default_factory=set)
    others: bool = False
    _wanted: dict[str, None] = field(default_factory=dict)
    _fresh: list[str] = field(default_factory=list)
    _held: set[str] = field(default_factory=set)
    _unrecorded: set[str] = field(default_factory=set)
    _idle: dict[str, float] = field(default_factory=dict)
    _lost: list[str] = field(default_factory=list)
    _granted: list[str] = field(default_factory=list)
    _tried: float = -math.inf
    _lock: threading.Lock = field(default_factory=threading.Lock)

    # The event loop's side.

    def want(self, ref: str) -> bool:
        """Note that the job is waited for here. Return whether we have its lease."""
        with self._lock:
            again = ref not in self._wanted
            self._wanted[ref] = None
            self._idle.pop(ref, None)
            held = ref in self._held or ref in self._unrecorded
            if ref in self._held:  # one text for all who keep it, in place of the one that the database gave us
                self._held.discard(ref)
                self._held.add(ref)
            if not held or (again and self.others):  # a webhook may have reached others while nobody waited here
                self._fresh.append(ref)
            return held

    def unwant(self, ref: str, *, ended: bool) -> None:
        """Note that nobody waits for the job here any more. The lease of one that has ended is of no use to anybody."""
        with self._lock:
            self._wanted.pop(ref, None)
            if ended:
                self._held.discard(ref)
                self._unrecorded.discard(ref)
                self._idle.pop(ref, None)
            elif ref in self._held:
                self._idle[ref] = now_with_sleep()

    def own_unrecorded(self, ref: str) -> None:
        """Note that the ledger does not have a job that was bought here. It is ours to poll."""
        with self._lock:
            self._unrecorded.add(ref)

    def left(self) -> float:
        """Seconds for which others surely take us for living."""
        return self.renewed + self.seconds - now_with_sleep()

    # The thread's side.

    @property
    def watching(self) -> bool:
        """Whether any job is waited for here, so that what others do with it matters."""
        return bool(self._wanted)

    @property
    def active(self) -> bool:
        """Whether anything is ours, or waited for, so that the thread has something to do besides the operations."""
        return bool(self._wanted or self._held or self.sending or self._idle)

    def look_again(self) -> None:
        """What others did with the jobs that are waited for may have been missed: read their logs again."""
        with self._lock:
            self._fresh = list(self._wanted)
            self._granted = [ref for ref in self._wanted if ref in self._held]

    def take_fresh(self) -> list[str]:
        """The jobs whose logs are to be read: they are waited for since a moment, or others may have been missed."""
        with self._lock:
            fresh, self._fresh = [ref for ref in self._fresh if ref in self._wanted], []
            return fresh

    def missing(self) -> list[str]:
        """The jobs that are waited for here, and whose leases are not ours."""
        with self._lock:
            return [ref for ref in self._wanted if ref not in self._held]

    def wanted_among(self, refs: Iterable[str]) -> list[str]:
        """Those of the jobs that are waited for here."""
        return [ref for ref in refs if ref in self._wanted]

    def grant(self, refs: Collection[str]) -> None:
        """Note that we have these leases. Those that nobody wants are given back in a while."""
        now = now_with_sleep()
        with self._lock:
            self._granted += [ref for ref in refs if ref in self._wanted and ref not in self._held]
            self._held.update(refs)
            self._unrecorded.difference_update(refs)
            self._idle.update((ref, now) for ref in refs if ref not in self._wanted)

    def take_granted(self) -> list[str]:
        """The leases that came after `want` had said that they are not ours, however they came."""
        with self._lock:
            granted, self._granted = [ref for ref in self._granted if ref in self._held], []
            return granted

    def take_idle(self) -> list[str]:
        """The leases to give back. From here on they are not ours."""
        if not self._idle:
            return []
        now = now_with_sleep()
        with self._lock:
            idle = [ref for ref, since in self._idle.items() if now - since >= _IDLE]
            for ref in idle:
                del self._idle[ref]
            given = [ref for ref in idle if ref in self._held]
            self._held.difference_update(given)
            return given

    def renewed_as(self, owner: int, at: float, *, others: bool) -> None:
        """Note that our row is renewed. If it is another row, the one before had expired: nothing is ours any more.

        Args:
            owner: Our number.
            at: When the renewal began, on `now_with_sleep`.
            others: Whether others live.
        """
        self.others = others
        expired, self.owner, self.renewed = self.owner not in {None, owner}, owner, at
        if expired:
            with self._lock:
                self._lost = [ref for ref in self._held if ref in self._wanted]
                self._held.clear()
                self._idle.clear()

    def take_lost(self) -> list[str]:
        """The leases that expired, of jobs that are waited for here. They are asked for again."""
        lost, self._lost = self._lost, []
        return lost

    def renewal_due(self) -> bool:
        """Whether our row is to be renewed with the next write."""
        return self.owner is None or now_with_sleep() - self.renewed >= self.seconds / _RENEWALS

    def must_renew(self) -> bool:
        """Whether our row is to be renewed now, because others must know that we live."""
        return bool(self._held or self.sending) and self.renewal_due()

    def retry_due(self) -> bool:
        """Whether it is time to try once more what may be free without a write: its owner may have expired."""
        now = now_with_sleep()
        due = now - self._tried >= min(_RETRY, self.seconds / 4)
        if due:
            self._tried = now
        return due

    def patience(self) -> float | None:
        """Seconds that the thread may wait for the next operation. None if there is nothing else to do."""
        if self._wanted:
            return LOOK if self.others else _FIRST_LOOK
        waits = []
        if self._held or self.sending:
            waits.append(self.renewed + self.seconds / _RENEWALS - now_with_sleep())
        if self._idle:
            waits.append(_IDLE)
        return max(min(waits), 0.0) if waits else None

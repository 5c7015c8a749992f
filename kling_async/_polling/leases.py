"""Who among several processes polls a job: the client's side of a ledger that they share.

Theory of operation
-------------------
A job that the ledger has is polled by the process that has its lease. While somebody waits for a job in this process,
the lease is asked for (`want`). Until it is granted, the job's events come from the ledger, as the other process
records them. When that process has ended, or nobody waits there any more, the lease comes here.

A job that the ledger does not have, and every job of a client whose ledger is not shared, is always ours to poll.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kling_async._errors import LedgerFailed
from kling_async._ledger.protocol import SharedLedger
from kling_async._models import Event, Failure, Status, StatusReport
from kling_async._tracking.tracked_job import TrackedJob

__all__ = ["JobLeases", "report_from_json", "report_to_json"]

log = logging.getLogger("kling_async")


class LeaseUser(Protocol):
    """Who polls the jobs of a provider, if they are ours to poll."""

    def lease_changed(self, tracked: TrackedJob) -> None:
        """The job has become ours to poll, or another process's: see its `leased`."""

    def poll_soon(self, tracked: TrackedJob) -> None:
        """A webhook of the job has reached another process."""


@dataclass(slots=True, eq=False, repr=False)
class JobLeases:
    """The leases of the jobs that are waited for in this process.

    Args:
        ledger: Where they are. If None, no other process polls our jobs.
    """

    ledger: SharedLedger | None
    _users: dict[str, LeaseUser] = field(default_factory=dict)  # by provider
    # By address. There may be thousands, so each is one object for all who keep it, and has no other one beside it.
    _wanted: dict[str, TrackedJob] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ledger is not None:
            self.ledger.watch(self)

    def add_user(self, provider: str, user: LeaseUser) -> None:
        """Notify who polls the jobs of a provider."""
        self._users[provider] = user

    def want(self, tracked: TrackedJob) -> None:
        """Ask for the lease of a job, for somebody who waits for it. Each call is followed by one of `unwant`.

        Args:
            tracked: The job. Whether it is ours to poll is its `leased`.
        """
        if self.ledger is None or not tracked.recorded:
            return
        if self._wanted.get(tracked.address) is tracked:
            tracked.lease_waiters += 1
            return
        self._wanted[tracked.address] = tracked
        tracked.lease_waiters = 1
        tracked.leased = self.ledger.want(tracked.address)

    def unwant(self, tracked: TrackedJob) -> None:
        """Note that somebody waits no more."""
        if self.ledger is None:
            return
        if self._wanted.get(tracked.address) is not tracked:
            return
        tracked.lease_waiters -= 1
        if not tracked.lease_waiters:
            del self._wanted[tracked.address]
            self.ledger.unwant(tracked.address, ended=tracked.ended)

    async def next_call(self, account: str, interval: float) -> float:
        """Take the next turn of an account whose status calls are limited, among all processes.

        Returns:
            Seconds until the call may be made. None are known while the ledger cannot be written: 0.
        """
        if self.ledger is None or not interval or not self.ledger.others:
            return 0.0
        try:
            return await self.ledger.next_call(account, interval)
        except LedgerFailed as error:
            log.debug("the limit on status calls is not shared at the moment: %s", error)
            return 0.0

    async def request_poll(self, tracked: TrackedJob) -> None:
        """Let the process that polls the job poll it soon, unless that is this one."""
        polled_here = tracked.address in self._wanted and tracked.leased
        if self.ledger is not None and tracked.recorded and not polled_here:
            await self.ledger.request_poll(tracked.ref, report_to_json(tracked.reported_failure))

    # What the ledger notifies us of. See `LeaseWatcher`.

    def on_leased(self, refs: Sequence[str]) -> None:
        """These jobs are ours to poll now."""
        self._set(refs, leased=True)

    def on_lost(self, refs: Sequence[str]) -> None:
        """These jobs are not ours to poll any more."""
        self._set(refs, leased=False)

    def _set(self, refs: Sequence[str], *, leased: bool) -> None:
        for ref in refs:
            tracked = self._wanted.get(ref)
            if tracked is not None and tracked.leased is not leased:
                tracked.leased = leased
                self._users[tracked.ref.provider].lease_changed(tracked)

    def on_recorded(self, ref: str, events: Sequence[Event]) -> None:
        """Another process has recorded these events of a job."""
        tracked = self._wanted.get(ref)
        if tracked is not None:
            tracked.extend(events)

    def on_poll_requested(self, ref: str, report: Any) -> None:
        """A webhook of the job has reached another process."""
        tracked = self._wanted.get(ref)
        if tracked is not None and tracked.leased:
            if report is not None:
                tracked.reported_failure = report_from_json(report)
            self._users[tracked.ref.provider].poll_soon(tracked)


def report_to_json(report: StatusReport | None) -> Any:
    """The failure that a webhook reported, for another process. None if it reported none."""
    if report is None:
        return None
    failures = [{"code": each.code, "message": each.message, "retryable": each.retryable} for each in report.failures]
    return {"message": report.message, "failures": failures}


def report_from_json(report: Any) -> StatusReport:
    """The report that `report_to_json` wrote."""
    failures = tuple(Failure(**failure) for failure in report["failures"])
    return StatusReport(Status.FAILED, message=report["message"], failures=failures)

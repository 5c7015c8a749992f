"""Deliveries that come before their job does.

A provider may call back before it has answered the submission, or when that answer is lost. The purchase has its name
and its address before the paid call, so the delivery is recognised all the same: it is kept here until the call's
outcome is known, and where the outcome is that nobody knows, it is the delivery that tells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from kling_async._ledger.protocol import Submission
from kling_async._models import JobRef
from kling_async.providers._base.provider import Provider, WebhookItem
from kling_async.webhooks import Webhooks

__all__ = ["EarlyDeliveries", "LostSubmission", "identify_job"]

_PARKED = 64  # deliveries kept for one paid call: 20 pictures, each told three times; more tell nothing new
_LOST = 1000  # submissions whose answer was lost that are remembered without a ledger
_REMEMBERED = 3600.0  # s; no provider is known to repeat a delivery for longer


@dataclass(frozen=True, slots=True)
class LostSubmission:
    """A submission whose answer was lost.

    Attributes:
        submission: The submission.
        own_id: Its job's id, if there is a job, where the provider lets us choose it.
        since: When the answer was lost, in POSIX seconds.
    """

    submission: Submission
    client_chosen_id: str | None
    since: float


class EarlyDeliveries:
    """The callback addresses of a client's purchases, and what came for those that are no jobs yet.

    Args:
        webhooks: Where providers report to; None: nowhere.
    """

    def __init__(self, webhooks: Webhooks | None) -> None:
        self._webhooks = webhooks
        self._open: dict[str, list[WebhookItem]] = {}
        self._lost: dict[str, LostSubmission] = {}

    def callback_url(self, submission: Submission) -> str | None:
        """Where the provider is to report about the purchase; None: nowhere."""
        if self._webhooks is None:
            return None
        return self._webhooks.callback_url(submission.provider, submission.attempt_id)

    @contextmanager
    def open(self, submission: Submission) -> Iterator[list[WebhookItem]]:
        """Keep what comes for the purchase while its paid call is on the way, in the list that this gives."""
        deliveries = self._open[submission.attempt_id] = []
        self._lost.pop(submission.attempt_id, None)
        try:
            yield deliveries
        finally:
            del self._open[submission.attempt_id]

    def buffer(self, attempt_id: str, told: Sequence[WebhookItem]) -> bool:
        """Keep what was delivered, if the purchase's paid call is on the way."""
        deliveries = self._open.get(attempt_id)
        if deliveries is None:
            return False
        deliveries.extend(told[: _PARKED - len(deliveries)])
        return True

    def remember(self, lost: LostSubmission) -> None:
        """The answer to a submission was lost: a later delivery may tell what became of it."""
        self._lost[lost.submission.attempt_id] = lost
        for purchase, other in list(self._lost.items()):
            if lost.since - other.since < _REMEMBERED and len(self._lost) <= _LOST:
                break
            del self._lost[purchase]

    def lost(self, attempt_id: str) -> LostSubmission | None:
        """The submission of that purchase, if it is one of those whose answer was lost."""
        return self._lost.get(attempt_id)

    def found(self, submission: Submission) -> None:
        """It is known what became of the submission."""
        self._lost.pop(submission.attempt_id, None)


def identify_job(provider: Provider, lost: LostSubmission, told: Iterable[WebhookItem]) -> JobRef | None:
    """The job that deliveries for a submission tell of; None if they name none, or several, or what cannot be one.

    Args:
        provider: Who reports.
        lost: Whose callback address they came by.
        told: What they say.
    """
    ids = {one.id for one in told if one.id is not None}
    if lost.client_chosen_id is not None:
        ids = {lost.client_chosen_id for identity in ids if provider.same_job(lost.client_chosen_id, identity)}
    try:
        [identity] = ids
        return JobRef(provider.name, lost.submission.endpoint.partition("/")[2], identity)
    except ValueError:
        return None

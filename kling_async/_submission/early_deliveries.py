"""Webhooks that arrive before their job is known.

A provider may call back before it has answered the submission, or although that answer is lost. The attempt has its
UUID and its callback URL before the paid call, so the webhook is recognised. It is kept here until the outcome of the
call is known. If the answer is lost, the webhook shows which job was bought.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from kling_async._ledger.protocol import Submission
from kling_async._models import JobRef
from kling_async._records import record
from kling_async.providers._base.provider import Provider, WebhookItem
from kling_async.webhooks import Webhooks

__all__ = ["EarlyDeliveries", "LostSubmission", "identify_job"]

_BUFFERED = 64  # webhook items kept for one paid call: 20 images, each reported three times. More add nothing.
_LOST = 1000  # lost submissions that are remembered without a ledger
_REMEMBERED = 3600.0  # s. No provider is known to repeat a webhook for longer.


@record
class LostSubmission:
    """A submission whose answer was lost.

    Attributes:
        submission: The submission.
        client_chosen_id: The id of its job, if there is one, where we choose the id.
        since: When the answer was lost, in POSIX seconds.
    """

    submission: Submission
    client_chosen_id: str | None
    since: float


class EarlyDeliveries:
    """The callback URLs of a client's attempts, and what was reported for those that have no job yet.

    Args:
        webhooks: The client's settings. If None, there are no webhooks.
    """

    def __init__(self, webhooks: Webhooks | None) -> None:
        self._webhooks = webhooks
        self._open: dict[str, list[WebhookItem]] = {}
        self._lost: dict[str, LostSubmission] = {}

    def callback_url(self, submission: Submission) -> str | None:
        """Return the URL that the provider is to report to. None if there are no webhooks."""
        if self._webhooks is None:
            return None
        return self._webhooks.callback_url(submission.provider, submission.attempt_id)

    @contextmanager
    def open(self, submission: Submission) -> Iterator[list[WebhookItem]]:
        """Keep what is reported for the attempt during its paid call, in the list that this yields."""
        deliveries = self._open[submission.attempt_id] = []
        self._lost.pop(submission.attempt_id, None)
        try:
            yield deliveries
        finally:
            del self._open[submission.attempt_id]

    def buffer(self, attempt_id: str, items: Sequence[WebhookItem]) -> bool:
        """Keep what was reported, if the attempt's paid call is under way. Return whether it is."""
        deliveries = self._open.get(attempt_id)
        if deliveries is None:
            return False
        deliveries.extend(items[: _BUFFERED - len(deliveries)])
        return True

    def remember(self, lost: LostSubmission) -> None:
        """Remember a submission whose answer was lost: a later webhook may report its job."""
        self._lost[lost.submission.attempt_id] = lost
        for attempt_id, other in list(self._lost.items()):
            if lost.since - other.since < _REMEMBERED and len(self._lost) <= _LOST:
                break
            del self._lost[attempt_id]

    def lost(self, attempt_id: str) -> LostSubmission | None:
        """Return the submission of that attempt, if its answer was lost."""
        return self._lost.get(attempt_id)

    def found(self, submission: Submission) -> None:
        """Forget a submission whose outcome is known by now."""
        self._lost.pop(submission.attempt_id, None)


def identify_job(provider: Provider, lost: LostSubmission, items: Iterable[WebhookItem]) -> JobRef | None:
    """Return the job that the webhook items identify. None if they identify no job, several jobs, or an invalid id.

    Args:
        provider: The provider that sent them.
        lost: The submission whose callback URL they came to.
        items: What they report.
    """
    submission = lost.submission
    ids = {provider.job_id(item.id, submission.endpoint, submission.request) for item in items if item.id is not None}
    if lost.client_chosen_id is not None:
        ids = {lost.client_chosen_id for identity in ids if provider.same_job(lost.client_chosen_id, identity)}
    try:
        [identity] = ids
        return JobRef(provider.name, submission.endpoint.partition("/")[2], identity)
    except ValueError:
        return None

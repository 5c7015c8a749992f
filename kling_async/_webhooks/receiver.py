"""What becomes of a webhook delivery: which job it is about, and what it counts for.

Theory of operation
-------------------
A delivery is authentic by the token of its address, which also names the purchase. The purchase is one of these:

- *on its way*: the paid call is not answered. The delivery waits in the letterbox until it is.
- *a job that this process holds*: what was said goes through the job's one door, like every other reading.
- *lost*: the paid call was answered, and the answer was lost. The delivery names the job, which is accepted by that.
- *in the ledger* of an earlier process: its job is taken up, so that what was said is recorded.
- *over*, or of another process: there is nothing to do, and the provider need not try again.

With ``confirm`` a delivery is no reading at all, but word that a look is worth while: the job is marked as urgent, and
whoever waits for it looks; if nobody does, whoever waits next. So taking a delivery in makes no call and needs no task.
Of what it says, only the reason of a failure is kept, for when a look finds the failure and no reason (RunBlob's
photos).

While deliveries are expected, looks are a backstop (`FallbackTimer`): rare, and meant for the delivery that never
comes. When several jobs in a row turn out to have ended without one, the provider's jobs are looked at as if there were
no webhooks, until the next delivery shows that there are. They get no grace beyond the backstop's own, because it finds
a job that ended, as a rule, long before; and a delivery that comes after all puts things right.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from kling_async._errors import ConfigurationError, KlingError, WebhookRejected
from kling_async._ledger.writer import LedgerWriter
from kling_async._models import JobRef
from kling_async._submission.early_deliveries import EarlyDeliveries, LostSubmission, identify_job
from kling_async._submission.remedies import RecoveryAdvisor
from kling_async._submission.submitter import Submitter
from kling_async._tracking.registry import JobRegistry
from kling_async._tracking.tracked_job import TrackedJob
from kling_async._validation import require
from kling_async._webhooks.applier import WebhookApplier
from kling_async.providers._base.provider import Provider, WebhookItem
from kling_async.webhooks import MAX_BODY, Delivery, Webhooks

__all__ = ["WebhookReceiver"]

log = logging.getLogger("kling_async")


class WebhookReceiver:
    """Takes in the webhooks of one client.

    Args:
        webhooks: The client's settings. If None, it expects no webhooks.
        providers: The client's providers, by name.
        ledger: Where submissions are stored.
        registry: The jobs of this process.
        submitter: Records the outcome of submissions, and tracks their jobs.
        advisor: Decides what can be done about a submission.
        early: Keeps what is reported before the job is known.
        applier: Applies what is reported to a job.
    """

    def __init__(
        self,
        webhooks: Webhooks | None,
        *,
        providers: Mapping[str, Provider],
        ledger: LedgerWriter,
        registry: JobRegistry,
        submitter: Submitter,
        advisor: RecoveryAdvisor,
        early: EarlyDeliveries,
        applier: WebhookApplier,
    ) -> None:
        self._webhooks = webhooks
        self._providers = providers
        self._ledger = ledger
        self._registry = registry
        self._submitter = submitter
        self._advisor = advisor
        self._early = early
        self._applier = applier

    async def receive(self, delivery: Delivery) -> bool:
        """See `Client.deliver`."""
        provider, told = self._checked(delivery)
        self._applier.delivered(provider.name)
        if self._early.buffer(delivery.attempt_id, told):
            return True
        tracked = self._registry.find_attempt(delivery.attempt_id)
        if tracked is None:
            lost = self._early.lost(delivery.attempt_id) or await self._recorded(provider, delivery.attempt_id)
            if lost is None:
                return False
            tracked = await self._resolved(provider, lost, told)
        if tracked is not None and not await self._applier.apply(tracked, told):
            raise _rejected("it is about another job than its address", tracked.ref)
        await self._ledger.flush()
        return True

    def _checked(self, delivery: Delivery) -> tuple[Provider, Sequence[WebhookItem]]:
        """Who reports, and what.

        Raises:
            WebhookRejected: It is not authentic, or cannot be read.
        """
        if self._webhooks is None:
            raise ConfigurationError("this client expects no webhooks; make it with Client(webhooks=Webhooks(...))")
        require("Client.deliver(delivery)", delivery, Delivery, "what came, as a kling_async.Delivery")
        provider = self._providers.get(delivery.provider)
        if not self._webhooks.accepts(delivery) or provider is None:
            raise _rejected("it did not come by an address of this client's making, or the secret was replaced")
        if len(delivery.body) > MAX_BODY:
            raise _rejected(f"its body has {len(delivery.body)} bytes, more than {MAX_BODY}")
        try:
            return provider, provider.parse_webhook(delivery.body, delivery.headers)
        except KlingError as error:
            raise _rejected(error.message) from error

    async def _recorded(self, provider: Provider, attempt_id: str) -> LostSubmission | None:
        """The submission as the ledger has it, if it has."""
        found = await self._ledger.ledger.find(attempt_id=attempt_id) if self._ledger.enabled else None
        if found is None or found.provider != provider.name:
            return None
        request = None if self._advisor.missing(found) else self._advisor.restored(found)
        return LostSubmission(found, provider.client_chosen_id(request, attempt_id), found.started.timestamp())

    async def _resolved(
        self, provider: Provider, lost: LostSubmission, told: Sequence[WebhookItem]
    ) -> TrackedJob | None:
        """The job of a submission that this process does not hold; None: there is nothing to follow."""
        submission = lost.submission
        lacking = self._advisor.missing(submission)
        if lacking or not submission.unfinished:
            log.log(
                logging.WARNING if lacking else logging.DEBUG, "a webhook changes nothing: %s", lacking or submission
            )
            return None
        if submission.ref is not None:
            return await self._submitter.adopt(submission, submission.ref)
        ref = identify_job(provider, lost, told)
        if ref is None:
            raise _rejected("it is for a submission whose answer was lost, and does not name its job")
        owner = await self._ledger.ledger.find(ref=ref) if self._ledger.enabled else None
        if owner is not None and owner.key != submission.key:
            raise _rejected(f"it names a job of another submission than {submission.key!r}", ref)
        await self._submitter.accept(submission, ref)
        log.warning("submission %r, whose answer was lost, is job %s, as a webhook tells", submission.key, ref)
        return await self._submitter.adopt(submission, ref)


def _rejected(reason: str, ref: JobRef | None = None) -> WebhookRejected:
    facts: dict[str, Any] = {"ref": str(ref)} if ref else {}
    return WebhookRejected(f"a webhook delivery was rejected, and no job was changed: {reason}", **facts)

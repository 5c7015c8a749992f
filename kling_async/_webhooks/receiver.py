"""What happens to a webhook delivery: it is checked, its job is found, and its report is applied.

Theory of operation
-------------------
A delivery is authentic by the token in its URL (see `webhooks`), and by its signature where the provider signs. The URL
also names the attempt, which is one of these:

- *In flight*: its paid call is not answered yet. The delivery waits in `EarlyDeliveries` for the answer.
- *A job that this process tracks*: the report is applied like every other status report.
- *Lost*: the answer to the paid call was lost. The delivery names the job, and the submission is accepted by that.
- *In the ledger* of an earlier process: its job is tracked again, so that the report is recorded.
- *Ended*, or of another process: there is nothing to do, and the provider need not repeat the delivery.

With ``confirm`` a delivery is no status report. It marks the job as one to be polled soon: a waiter polls it at once,
and if nobody waits, the next waiter does. So receiving a delivery makes no call and needs no task. Only the reason of a
failure is kept from it, for a poll that reports the failure without a reason (RunBlob's photos).

While deliveries are expected, polling is a fallback (`FallbackTimer`): rare, and meant for a delivery that never comes.
After several jobs in a row have ended without a delivery, the provider's jobs are polled as without webhooks, until the
next delivery. A delivery that is later than the fallback poll is too late to count, but it corrects this.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from kling_async._errors import ConfigurationError, KlingError, WebhookRejected
from kling_async._http.transport import ProviderTransport
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

_REMEMBERED = 10_000  # attempts. A delivery may be repeated after its job was dropped


class WebhookReceiver:
    """Receives the webhooks of one client.

    Args:
        webhooks: The client's settings. If None, it expects no webhooks.
        transports: The transports of the client's providers, by name.
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
        transports: Mapping[str, ProviderTransport],
        ledger: LedgerWriter,
        registry: JobRegistry,
        submitter: Submitter,
        advisor: RecoveryAdvisor,
        early: EarlyDeliveries,
        applier: WebhookApplier,
    ) -> None:
        self._webhooks = webhooks
        self._providers = {name: transport.provider for name, transport in transports.items()}
        self._transports = transports
        self._ledger = ledger
        self._registry = registry
        self._submitter = submitter
        self._advisor = advisor
        self._early = early
        self._applier = applier
        self._known: deque[str] = deque(maxlen=_REMEMBERED)
        self._warned = False

    async def receive(self, delivery: Delivery) -> bool:
        """See `Client.deliver`."""
        provider, items = await self._authenticate(delivery)
        self._applier.delivered(provider.name)
        if self._early.buffer(delivery.attempt_id, items):
            return True
        tracked = self._registry.find_attempt(delivery.attempt_id)
        if tracked is None:
            lost = self._early.lost(delivery.attempt_id) or await self._recorded(provider, delivery.attempt_id)
            if lost is None:
                self._warn_of_unknown(delivery)
                return False
            tracked = await self._resolved(provider, lost, items)
        if tracked is not None and not await self._applier.apply(tracked, items):
            raise _rejected("it is about another job than its URL", tracked.ref)
        self._known.append(delivery.attempt_id)
        await self._ledger.flush()
        return True

    def _warn_of_unknown(self, delivery: Delivery) -> None:
        """Log once that deliveries come here for submissions of another process."""
        if self._warned or delivery.attempt_id in self._known:
            return
        self._warned = True
        log.warning(
            "an authentic webhook of %s is for a submission that this process does not know (%s), so it has no effect "
            "here. Do several processes serve the endpoint? Each one receives only a part of the deliveries then. This "
            "is logged once",
            delivery.provider,
            delivery.attempt_id,
        )

    async def _authenticate(self, delivery: Delivery) -> tuple[Provider, Sequence[WebhookItem]]:
        """The provider that reports, and its reports.

        Raises:
            WebhookRejected: The delivery is not authentic, or cannot be read.
        """
        if self._webhooks is None:
            raise ConfigurationError("this client expects no webhooks; make it with Client(webhooks=Webhooks(...))")
        require("Client.deliver(delivery)", delivery, Delivery, "what was received, as a kling_async.Delivery")
        provider = self._providers.get(delivery.provider)
        if not self._webhooks.accepts(delivery) or provider is None:
            raise _rejected("its URL was not made by this client, or the secret was replaced")
        if len(delivery.body) > MAX_BODY:
            raise _rejected(f"its body has {len(delivery.body)} bytes, more than {MAX_BODY}")
        if not self._webhooks.accepts_signature(delivery, time.time()):
            raise _rejected(
                f"it is not signed with a secret of Webhooks(signing_secrets=...) for {delivery.provider}, or its time "
                "differs from this computer's by more than five minutes"
            )
        try:
            check = provider.check_signature(delivery.body, delivery.headers, time.time())
            signed = await self._transports[provider.name].run(check)
        except KlingError as error:
            raise _rejected(f"its signature could not be checked: {error.message}") from error
        if not signed:
            raise _rejected(
                f"it is not signed by {provider.display_name}, or its time differs from this computer's by more than "
                "five minutes"
            )
        try:
            return provider, provider.parse_webhook(delivery.body, delivery.headers)
        except KlingError as error:
            raise _rejected(error.message) from error

    async def _recorded(self, provider: Provider, attempt_id: str) -> LostSubmission | None:
        """The submission in the ledger. None if it is not there."""
        found = await self._ledger.ledger.find(attempt_id=attempt_id) if self._ledger.enabled else None
        if found is None or found.provider != provider.name:
            return None
        request = None if self._advisor.missing(found) else self._advisor.restored(found)
        return LostSubmission(found, provider.client_chosen_id(request, attempt_id), found.started.timestamp())

    async def _resolved(
        self, provider: Provider, lost: LostSubmission, items: Sequence[WebhookItem]
    ) -> TrackedJob | None:
        """The job of a submission that this process does not track. None if there is nothing to do."""
        submission = lost.submission
        lacking = self._advisor.missing(submission)
        if lacking or not submission.unfinished:
            log.log(
                logging.WARNING if lacking else logging.DEBUG, "a webhook changes nothing: %s", lacking or submission
            )
            return None
        kept = self._ledger.shared is None  # another process may follow the job, and this one not hear of its end
        if submission.ref is not None:
            return await self._submitter.adopt(submission, submission.ref, kept=kept)
        ref = identify_job(provider, lost, items)
        if ref is None:
            raise _rejected("it is for a submission whose answer was lost, and does not name its job")
        owner = await self._ledger.ledger.find(ref=ref) if self._ledger.enabled else None
        if owner is not None and owner.key != submission.key:
            raise _rejected(f"it names a job of another submission than {submission.key!r}", ref)
        await self._submitter.accept(submission, ref)
        log.warning("submission %r, whose answer was lost, is job %s, according to a webhook", submission.key, ref)
        return await self._submitter.adopt(submission, ref, kept=kept)


def _rejected(reason: str, ref: JobRef | None = None) -> WebhookRejected:
    facts: dict[str, Any] = {"ref": str(ref)} if ref else {}
    return WebhookRejected(f"a webhook delivery was rejected, and no job was changed: {reason}", **facts)

"""Applies what webhooks report to the jobs that this process holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import exp

from kling_async._models import JobRef, Status
from kling_async._polling.poller import Poller
from kling_async._scheduling.durations import DurationPrior
from kling_async._scheduling.schedules import PollTimer
from kling_async._tracking.tracked_job import TrackedJob
from kling_async._webhooks.fallback_polling import FALLBACK_INTERVAL, LATE_DEVIATIONS, FallbackTimer, WebhookHealth
from kling_async.providers._base.provider import Provider, WebhookItem
from kling_async.webhooks import Webhooks

__all__ = ["WebhookApplier"]


class WebhookApplier:
    """Changes jobs by what webhooks report, and slows the polling of jobs while webhooks are expected.

    Args:
        webhooks: The client's settings. If None, there are no webhooks.
        providers: The client's providers, by name.
        pollers: The pollers of their jobs, by provider.
    """

    def __init__(
        self, webhooks: Webhooks | None, providers: Mapping[str, Provider], pollers: Mapping[str, Poller]
    ) -> None:
        self._webhooks = webhooks
        self._providers = providers
        self._pollers = pollers
        self._health = {name: WebhookHealth(poller.reschedule) for name, poller in pollers.items()}

    def delivered(self, provider: str) -> None:
        """Note that an authentic webhook of that provider has arrived."""
        self._health[provider].delivered()

    def timer(self, ref: JobRef, timer: PollTimer, prior: DurationPrior) -> PollTimer:
        """Return the poll timer of a new job: a slow one if a webhook is expected for it."""
        if self._webhooks is None or not self._providers[ref.provider].features.webhook:
            return timer
        late = self._webhooks.backstop or prior.median * exp(LATE_DEVIATIONS * prior.sigma)
        interval = self._webhooks.backstop or min(late, FALLBACK_INTERVAL)
        return FallbackTimer(timer, self._health[ref.provider], late, interval)

    async def apply(self, tracked: TrackedJob, items: Sequence[WebhookItem]) -> bool:
        """Apply the items that are about the job.

        With ``Webhooks(confirm=True)`` they only make the next poll urgent. Of their content, only the reason of a
        failure is kept, because some providers report it in the webhook alone.

        Returns:
            Whether there are any.
        """
        provider = self._providers[tracked.ref.provider]
        mine = [item for item in items if item.id is None or provider.same_job(tracked.ref.id, item.id)]
        if self._webhooks is None or not mine or tracked.ended:
            return bool(mine)
        expected = isinstance(tracked.timer, FallbackTimer)
        if isinstance(tracked.timer, FallbackTimer):
            tracked.timer.delivered = True
        for item in mine:
            if not self._webhooks.confirm:
                await tracked.apply(item.report, "webhook", exact=expected)
            elif item.report.status is Status.FAILED and item.report.has_reason:
                tracked.reported_failure = replace(item.report, raw=None)
        # A believed report that the job has begun needs no poll. One with files does, because more may be there.
        begun = all(each.report.status is not None and not each.report.artifacts for each in mine)
        wanted = self._webhooks.confirm or not begun
        if wanted and not tracked.ended:
            await self._pollers[tracked.ref.provider].request_poll(tracked)
        return True

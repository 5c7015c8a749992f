"""What can be done about a submission: of what became of it, what is missing to follow it, and the ways out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kling_async._clock import Clock
from kling_async._errors import SubmissionUnknown
from kling_async._ledger.protocol import Submission, SubmissionState
from kling_async._ledger.serialization import request_from_json
from kling_async.providers._base.provider import Provider
from kling_async.providers._base.request import Request

__all__ = ["RecoveryAdvisor"]

# s. For how long a provider recognises an id of ours is documented nowhere; a retry within the hour is what it is for.
_REPEATABLE = 3600.0


class RecoveryAdvisor:
    """Knows them, for one client.

    Args:
        providers: The client's, by name.
        clock: The client's clock.
        kept: Whether there is a ledger.
    """

    def __init__(self, providers: Mapping[str, Provider], clock: Clock, *, kept: bool) -> None:
        self._providers = providers
        self._clock = clock
        self._kept = kept

    def missing(self, submission: Submission) -> str | None:
        """What this client lacks to follow the submission's job; None: nothing."""
        provider = self._providers.get(submission.provider)
        if provider is None:
            return f"this client has no provider {submission.provider}: configure it, then call resume()"
        if all(endpoint.name != submission.endpoint for endpoint in provider.endpoints):
            return f"{provider.display_name} has no endpoint {submission.endpoint} in this version"
        return None

    def restored(self, submission: Submission, *, exact: bool = False) -> Request | None:
        """The request of a stored submission; None: it cannot be made again. See `request_from_json`."""
        kind = self._providers[submission.provider].endpoint(submission.endpoint).request
        return request_from_json(kind, submission.request, exact=exact)

    def young(self, submission: Submission) -> bool:
        """Whether the provider surely recognises its id; not if the clock was set back far, for then nobody knows."""
        return abs(self._clock.now() - submission.started.timestamp()) < _REPEATABLE

    def remedy(self, submission: Submission) -> str:
        """What the user can do about a submission that is not finished."""
        lacking = self.missing(submission)
        if lacking:
            return lacking
        if submission.state is SubmissionState.ACCEPTED:
            return "client.resume() follows its job"
        provider = self._providers[submission.provider]
        whole = self.restored(submission, exact=True) is not None
        if provider.features.client_chosen_id and self.young(submission) and whole:
            return "client.resume() settles it: the same id is sent again, which buys at most one job"
        again = f"resubmit({submission.key!r}{'' if whole else ', request'})"
        if provider.features.client_chosen_id:
            return f"client.{again} sends the same id again; client.forget({submission.key!r}) if it is not wanted"
        search = "client.resume() searches the provider's list for it; or " if provider.features.lists_jobs else ""
        return (
            f"{search}look at the {provider.display_name} account: client.resolve({submission.key!r}, ref) if the "
            f"job is "
            f"there, client.{again} or client.forget({submission.key!r}) if it is not"
        )

    def unknown(self, submission: Submission, reason: str) -> SubmissionUnknown:
        """The error of a submission that may have bought a job."""
        title = self._providers[submission.provider].display_name
        advice = f"look at the {title} account, attach the job if it is there, and submit again only if it is not"
        if self._kept:
            advice = self.remedy(replace(submission, state=SubmissionState.UNKNOWN))
        when = submission.started.isoformat(timespec="seconds")
        return SubmissionUnknown(
            f"the answer to the {submission.endpoint} submission {submission.key!r} of {when} was lost ({reason}). "
            f"A job may have been bought, so it is not sent again: {advice}",
            key=submission.key,
            provider=submission.provider,
        )

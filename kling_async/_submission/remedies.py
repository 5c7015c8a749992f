"""Which recovery actions a submission has."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from kling_async._errors import ConfigurationError, ReceivedAnswer, Remedy, SubmissionUnknown
from kling_async._event_loop.clock import Clock
from kling_async._ledger.protocol import Submission, SubmissionState
from kling_async._ledger.serialization import request_from_json
from kling_async._models import JobRef
from kling_async.providers import load_providers
from kling_async.providers._base.provider import Provider
from kling_async.providers._base.request import Request

__all__ = ["RecoveryAdvisor", "provider_of"]

T = TypeVar("T")


class RecoveryAdvisor:
    """Decides which recovery actions are available for a submission: resume, resolve, resubmit or forget.

    Args:
        providers: The client's providers, by name.
        clock: The client's clock.
        kept: Whether there is a ledger.
    """

    def __init__(self, providers: Mapping[str, Provider], clock: Clock, *, kept: bool) -> None:
        self._providers = providers
        self._clock = clock
        self._kept = kept

    def missing(self, submission: Submission) -> str | None:
        """Return what this client lacks to follow the submission's job, or None if it lacks nothing."""
        provider = self._providers.get(submission.provider)
        if provider is None:
            return f"this client has no provider {submission.provider}"
        if all(endpoint.name != submission.endpoint for endpoint in provider.endpoints):
            return f"{provider.display_name} has no endpoint {submission.endpoint} in this version"
        return None

    def restored(self, submission: Submission, *, exact: bool = False) -> Request | None:
        """Return the request of a stored submission, or None if the ledger lacks a part. See `request_from_json`."""
        kind = self._providers[submission.provider].endpoint(submission.endpoint).request
        return request_from_json(kind, submission.request, exact=exact)

    def young(self, submission: Submission) -> bool:
        """Return whether the provider surely recognises its id. A clock that was set back far makes it unsure.

        The wall clock is asked, too: the client's clock stands still while the computer is suspended.
        """
        started = submission.started.timestamp()
        recognised = self._providers[submission.provider].features.client_id_lifetime
        return abs(self._clock.now() - started) < recognised and time.time() - started < recognised

    def remedies(self, submission: Submission) -> tuple[Remedy, ...]:
        """What the user can do about a submission that is not finished, the best first."""
        key = submission.key
        provider = self._providers.get(submission.provider)
        if provider is None:
            kinds = {kind.name: kind for kind in load_providers()}
            kind = kinds.get(submission.provider)
            variable = kind.env_vars[0] if kind else f"configure the provider {submission.provider}"
            return (Remedy("configure", key, detail=variable), Remedy("resume"))
        if self.missing(submission):
            return (Remedy("configure", key, detail="upgrade kling_async"),)
        if submission.state is SubmissionState.ACCEPTED:
            return (Remedy("resume", key, str(submission.ref)), Remedy("forget", key, detail="if it is not wanted"))
        whole = self.restored(submission, exact=True) is not None
        own_id = provider.deduplicates(submission.endpoint)
        unwanted = Remedy("forget", key, detail="if it is not wanted")
        if own_id and self.young(submission) and whole:
            again = Remedy("resume", key, detail="to send the same id again, which buys at most one job")
            return (again, unwanted)
        if own_id:
            detail = "to send the same id again"
            return (Remedy("resubmit", key, detail=detail, needs_request=not whole), unwanted)
        search = (
            (Remedy("resume", key, detail="to search the provider's list"),) if provider.features.lists_jobs else ()
        )
        absent = "if the account does not show it"
        return (
            *search,
            Remedy("check_account", key, detail=provider.display_name),
            Remedy("resolve", key, detail="if the account shows the job"),
            Remedy("resubmit", key, detail=absent, needs_request=not whole),
            Remedy("forget", key, detail=absent),
        )

    def unknown(self, submission: Submission, reason: str, answer: ReceivedAnswer | None = None) -> SubmissionUnknown:
        """The error of a submission that may have bought a job."""
        provider = self._providers[submission.provider]
        ref = self.own_ref(submission)
        if self._kept:
            remedies = self.remedies(replace(submission, state=SubmissionState.UNKNOWN))
        else:
            remedies = (
                Remedy("check_account", submission.key, detail=provider.display_name),
                Remedy("retry", submission.key, detail="submit it again if the account does not show it"),
            )
        if ref is not None:
            remedies = (Remedy("attach", submission.key, ref, "to see whether it was bought"), *remedies)
        when = submission.started.isoformat(timespec="seconds")
        came = "was lost" if answer is None else "does not tell whether a job was bought"
        return SubmissionUnknown(
            f"the answer to the {submission.endpoint} submission {submission.key!r} of {when} {came} ({reason}). "
            f"A job may have been bought, so it is not sent again",
            key=submission.key,
            answer=answer,
            provider=submission.provider,
            ref=ref,
            remedies=remedies,
        )

    def own_ref(self, submission: Submission) -> str | None:
        """The reference of the job if it was bought and we chose its id. None if the provider chooses it."""
        if self.missing(submission):
            return None
        provider = self._providers[submission.provider]
        if not provider.deduplicates(submission.endpoint):
            return None
        chosen = provider.client_chosen_id(self.restored(submission), submission.attempt_id)
        if chosen is None:
            return None
        return str(JobRef(submission.provider, submission.endpoint.partition("/")[2], chosen))


def provider_of(by_name: Mapping[str, T], endpoint: str) -> T:
    """Return what a client has for the provider of an endpoint.

    Raises:
        ConfigurationError: It does not have that provider.
    """
    name = endpoint.partition("/")[0]
    if name in by_name:
        return by_name[name]
    message = f"this client has no provider for {endpoint} (it has {', '.join(by_name)})"
    kind = next((kind for kind in load_providers() if kind.name == name), None)
    if kind is None:
        known = ", ".join(endpoint.name for kind in load_providers() for endpoint in kind.endpoints)
        raise ConfigurationError(f"{message}; known endpoints are {known}")
    remedies = (
        Remedy("configure", detail=kind.env_vars[0]),
        Remedy("configure", detail=f"pass {kind.__name__}(...)"),
    )
    raise ConfigurationError(message, remedies=remedies)

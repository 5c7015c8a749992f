"""What a provider is: its address and credentials, its endpoints, and its protocol written as flows.

A provider never does I/O. Its operations are generators that yield `Call`s and are sent `Reply`s; the transport pool
performs any of them the same way. A new provider is one file of this kind beside its siblings in ``providers/``.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, ClassVar

from pydantic import SecretStr

from kling_async._errors import (
    ConfigurationError,
    ContentRejected,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    KlingError,
    ProviderUnavailable,
    RateLimited,
    Unauthorized,
    UnreadableReply,
)
from kling_async._exchange import Call, Flow, Reply
from kling_async._models import JobRef, StatusReport
from kling_async._redaction import redact_json, redact_tokens
from kling_async._urls import is_secure
from kling_async.providers._base.endpoint import Endpoint, Features

__all__ = ["Accepted", "Provider", "Stream", "WebhookItem"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A submission that the provider took: the job's id, and what was said of it."""

    id: str
    report: StatusReport


@dataclass(frozen=True, slots=True)
class WebhookItem:
    """What a webhook body says of one job: the provider's id of it (None: not told), and the reading."""

    id: str | None
    report: StatusReport


class Stream(abc.ABC):
    """A provider's push channel for one job: the call that opens it, and the reader of its lines."""

    call: Call

    @abc.abstractmethod
    def read(self, line: str) -> StatusReport | None:
        """What `line` says; None for a heartbeat or a line without news.

        Raises:
            UnreadableReply: The line is not of the provider's making.
        """


class Provider(abc.ABC):
    """A company's API.

    Args:
        api_key: The key. None: the client takes it from the environment variable that the provider names.
        base_url: Another address than the provider's own (a sandbox, a proxy); it may carry a path. https only,
            or http to this very machine.

    Raises:
        ConfigurationError: The key is empty or cannot be a header's value, or the address is not acceptable.
    """

    name: ClassVar[str]
    display_name: ClassVar[str]
    default_url: ClassVar[str]
    env_vars: ClassVar[tuple[str, str]]
    endpoints: ClassVar[tuple[Endpoint[Any], ...]]
    features: ClassVar[Features]
    codes: ClassVar[Mapping[str, type[KlingError]]] = {}

    speed = 1.0
    """How many times faster than documented its jobs run. A sandbox sets it for the providers that it plays, or by the
    variable ``KLING_SANDBOX_SPEED``, which counts only for an address on this machine; looks are timed by it."""

    def __init__(self, api_key: str | SecretStr | None = None, base_url: str | None = None) -> None:
        if not isinstance(api_key, str | SecretStr | None):
            kind = type(api_key).__name__
            raise ConfigurationError(f"the {self.display_name} API key must be text, not {kind}", provider=self.name)
        if not isinstance(base_url, str | None):
            kind = type(base_url).__name__
            raise ConfigurationError(
                f"the address given for {self.display_name} must be text, not {kind}", provider=self.name
            )
        key = self._key(api_key, f"what is passed to {type(self).__name__} as api_key")
        self.api_key = key
        if base_url is not None and set("@?#") & set(base_url):
            # It is not repeated: what stands before an @ is a password.
            raise ConfigurationError(
                f"the address given for {self.display_name} is not plain: it must be an https:// URL without user, "
                f"query and "
                f"fragment, such as {self.default_url}; the key is passed as api_key; check {self.env_vars[1]}",
                provider=self.name,
            )
        self.base_url = (base_url or self.default_url).rstrip("/")
        self._given = (api_key is not None, base_url is not None)
        if not is_secure(self.base_url):
            raise ConfigurationError(
                f"{self.base_url!r} cannot be the address of {self.display_name}: it must be an https:// URL "
                f"(http:// only to this machine), because the API key travels to it; check {self.env_vars[1]}",
                provider=self.name,
            )

    def __repr__(self) -> str:
        key = "set" if self.api_key else "missing"
        return f"{type(self).__name__}(base_url={self.base_url!r}, api_key={key})"

    def configured(self, environment: Mapping[str, str]) -> Provider:
        """This provider with what was not given taken from environment variables.

        Raises:
            ConfigurationError: No key was given, and the environment has none; or what it has cannot be used.
        """
        if all(self._given):
            return self
        key_variable, url_variable = self.env_vars
        key = self.api_key or self._key(environment.get(key_variable) or None, key_variable)
        if key is None:
            raise ConfigurationError(
                f"no API key for {self.display_name}: set {key_variable}, or pass {type(self).__name__}(api_key=...)",
                provider=self.name,
            )
        return type(self)(key, self.base_url if self._given[1] else environment.get(url_variable))

    def _key(self, given: str | SecretStr | None, source: str) -> SecretStr | None:
        """The key that was given, if one was.

        Raises:
            ConfigurationError: It cannot be one.
        """
        key = given if isinstance(given, SecretStr | None) else SecretStr(given)
        if key is None:
            return None
        secret = key.get_secret_value()
        if not secret or not secret.isascii() or not secret.isprintable() or secret != secret.strip():
            flaw = "has characters that no key has" if secret else "is empty"
            raise ConfigurationError(f"the {self.display_name} API key {flaw}; check {source}", provider=self.name)
        return key

    def apply_sandbox_speed(self, environment: Mapping[str, str]) -> None:
        """Take the `speed` of a rehearsal from the environment, if the address is of this machine and it is not set.

        Raises:
            ConfigurationError: The variable is no number.
        """
        told = environment.get(SPEED_VARIABLE)
        if told and self.speed == 1 and self.base_url.startswith("http:"):
            self.speed = _speed(told)

    @property
    def status_calls_per_minute(self) -> float | None:
        """Its limit on status calls, at its speed; None: none stated."""
        stated = self.features.status_calls_per_minute
        return None if stated is None else stated * self.speed

    def credentials(self) -> Mapping[str, str]:
        """The headers that authenticate a call to the provider's own address."""
        if self.api_key is None:
            raise ConfigurationError(f"no API key for {self.display_name}: set {self.env_vars[0]}", provider=self.name)
        return {"authorization": f"Bearer {self.api_key.get_secret_value()}"}

    def endpoint(self, name: str) -> Endpoint[Any]:
        """The endpoint of that full name.

        Raises:
            ConfigurationError: The provider has none of that name.
        """
        for endpoint in self.endpoints:
            if endpoint.name == name:
                return endpoint
        known = ", ".join(endpoint.name for endpoint in self.endpoints)
        raise ConfigurationError(f"{self.display_name} has no endpoint {name!r}; it has {known}", provider=self.name)

    @abc.abstractmethod
    def submit(self, request: Any, attempt_id: str, callback_url: str | None) -> Flow[Accepted]:
        """Buy one generation. The flow's last call is PAID.

        Args:
            request: A request of one of the endpoints, its local files replaced by their content.
            attempt_id: A fresh UUID v4 for this purchase; the job's id where the provider lets us choose it.
            callback_url: Where the provider is to report; None: nowhere.
        """

    @abc.abstractmethod
    def poll(self, refs: Sequence[JobRef]) -> Flow[Mapping[JobRef, StatusReport | KlingError]]:
        """Look at jobs, at most ``features.batch`` of them. What cannot be said of one must not harm the others."""

    def cancel(self, ref: JobRef) -> Flow[bool]:
        """Cancel a running job; returns whether the provider took the order.

        Raises:
            ConfigurationError: The provider cannot cancel.
        """
        raise ConfigurationError(
            f"{self.display_name} has no way to cancel a job: it runs on and is charged as usual",
            provider=self.name,
            ref=str(ref),
        )
        yield  # a flow that never calls

    def stream(self, ref: JobRef) -> Stream | None:
        """The push channel of a job; None where the provider has none."""
        del ref
        return None

    def search(self, request: Any, callback_url: str | None, since: datetime) -> Flow[Sequence[Accepted]]:
        """Look for jobs that a submission whose answer was lost may have bought.

        Args:
            request: What was submitted.
            callback_url: The callback address that went with it; None: none did.
            since: When it was sent (aware).

        Returns:
            The jobs that fit, the newest first. None: it was not bought, or is not listed yet, or the provider has no
            list. More than one: the provider tells nothing by which to choose.
        """
        del request, callback_url, since
        return ()
        yield  # a flow that never calls

    def client_chosen_id(self, request: Any, attempt_id: str) -> str | None:
        """The id that the job of a purchase will have, where we choose it; None: the provider chooses.

        Args:
            request: What is bought; None: that is not known any more.
            attempt_id: The purchase's UUID.
        """
        del request, attempt_id
        return None

    def same_job(self, job_id: str, reported: str) -> bool:
        """Whether a webhook that names a job `told` means the one whose id is `identity`."""
        return job_id == reported

    def parse_webhook(self, body: bytes, headers: Mapping[str, str]) -> Sequence[WebhookItem]:
        """What a webhook body says, one entry a job.

        Raises:
            UnreadableReply: The body is not one of the provider's.
        """
        del body, headers
        raise UnreadableReply(f"{self.display_name} sends no webhooks", provider=self.name)

    @abc.abstractmethod
    def error(self, data: Any) -> tuple[str | None, str | None] | None:
        """The code and the message of an error envelope of this provider; None if `data` is none."""

    def refusal(self, reply: Reply) -> KlingError | None:
        """The error that a reply states in the provider's own words; None if it states none."""
        try:
            data = reply.json()
        except UnreadableReply:
            return None
        stated = self.error(data)
        if stated is None:
            return None
        code, message = stated
        return self.make_error(reply.status, code, message, request_id=reply.headers.get("x-request-id"))

    def classify(self, code: str | None) -> type[KlingError] | None:
        """The class of error that the provider's code stands for; None: the code does not tell."""
        return self.codes.get(code or "")

    def make_error(
        self, http_status: int | None, code: str | None, message: str | None, *, request_id: str | None = None
    ) -> KlingError:
        """The typed error for a provider's code (by `classify`) or else for the HTTP status."""
        kind = self.classify(code) or _BY_STATUS.get(http_status or 0)
        if kind is None:
            kind = ProviderUnavailable if (http_status or 0) >= _SERVER_ERROR else InvalidRequest
        code = code and self.redact(code)
        words = self.redact(": ".join(dict.fromkeys(part for part in (code, message) if part)))
        return kind(
            f"{self.display_name} {_VERDICT.get(kind, 'refused the call')} "
            f"({words or 'no reason given'}){self._remedy(kind)}",
            provider=self.name,
            http_status=http_status,
            code=code,
            request_id=request_id,
        )

    def _remedy(self, kind: type[KlingError]) -> str:
        remedies = {
            Unauthorized: f"; check {self.env_vars[0]}",
            InsufficientCredits: f"; add credits to the {self.display_name} account and submit again",
            ContentRejected: "; change the prompt or the images, the same request will be refused again",
            RateLimited: "; wait, or lower the rate",
            ProviderUnavailable: "; try again later",
            JobNotFound: "; check the job's reference and which account's key is in use",
        }
        return remedies.get(kind, "")

    def redact(self, text: str, limit: int = 300) -> str:
        """The beginning of a provider's words, fit for a log: some APIs repeat the key, or the callback address."""
        if self.api_key is not None:  # before the tokens: a part of the key may look like one
            text = text.replace(self.api_key.get_secret_value(), "[the key]")
        text = redact_tokens(text)
        return text if len(text) <= limit else text[:limit] + "..."

    def redact_report(self, reading: StatusReport) -> StatusReport:
        """The reading with the provider's words and its last answer fit for logs, errors, files and browsers."""
        ended = reading.status is not None and reading.status.terminal
        key = self.api_key.get_secret_value() if self.api_key is not None else None
        if not (ended or reading.message or reading.failures or reading.unrecognized):
            return reading

        def fit(text: str | None) -> str | None:
            return text and self.redact(text, _LONGEST_WORDS)

        return replace(
            reading,
            message=fit(reading.message),
            failures=tuple(replace(f, code=self.redact(f.code), message=fit(f.message)) for f in reading.failures),
            unrecognized=reading.unrecognized and self.redact(reading.unrecognized, _LONGEST_ODDITY),
            raw=redact_json(reading.raw, key) if ended else reading.raw,
        )

    def expect(self, reply: Reply) -> Any:
        """The decoded body of a reply that reports success.

        Raises:
            KlingError: The reply is a refusal, or cannot be read.
        """
        if not reply.ok:
            raise self.refusal(reply) or self.make_error(reply.status, None, None)
        return reply.json()

    def accepted(
        self, reply: Reply, endpoint: str, id_field: str, read: Callable[[dict[str, Any], JobRef], StatusReport]
    ) -> Accepted:
        """The submission that the answer to a paid call reports: the job that `id_field` names, as `read` has it.

        Raises:
            KlingError: It is a refusal, or names no job.
        """
        try:
            data = self.expect(reply)
        except JobNotFound as error:
            raise self.nowhere(error) from None
        try:
            ref = JobRef(self.name, endpoint.partition("/")[2], data[id_field])
        except (TypeError, KeyError, ValueError) as error:
            raise self._no_job(reply) from error
        try:
            reading = self.redact_report(read(data, ref))
        except UnreadableReply as error:
            reading = StatusReport(
                None, unrecognized=error.message, raw=data
            )  # the job is bought, whatever else is said of it
        return Accepted(ref.id, reading)

    def nowhere(self, error: JobNotFound) -> InvalidRequest:
        """What "not found" means where a job is submitted: there is no such endpoint at the address."""
        return InvalidRequest(
            f"{self.display_name} has nothing to submit to at {self.base_url} (HTTP {error.http_status}); check "
            f"{self.env_vars[1]}, or the base_url that was passed. Nothing was bought",
            provider=self.name,
            http_status=error.http_status,
            code=error.code,
            request_id=error.request_id,
        )

    def about(self, reply: Reply, ref: JobRef, id_field: str) -> dict[str, Any]:
        """The decoded answer to a status call, made sure to be about that job.

        Raises:
            KlingError: It is a refusal, or about another job, or tells no status.
        """
        data = self.expect(reply)
        if not isinstance(data, dict) or data.get(id_field, ref.id) != ref.id:
            raise self.unreadable("it is about another job, or about none", ref)
        if "status" not in data:
            raise self.refusal(reply) or self.unreadable("it has no status", ref)
        return data

    def _no_job(self, reply: Reply) -> KlingError:
        """The error for a paid call's answer that has success status and no job.

        It is a refusal only if it names a code of `codes` that is one. Else it is unreadable, so that what became of
        the call counts as not known: a job may have been bought.
        """
        refusal = self.refusal(reply)
        if refusal is None or refusal.code not in self.codes or isinstance(refusal, ProviderUnavailable):
            return self.unreadable("it has success status and no job id")
        return refusal

    def unreadable(self, what: str, ref: JobRef | None = None) -> UnreadableReply:
        """The error for an answer that lacks what the provider documents."""
        return UnreadableReply(
            f"the answer of {self.display_name} cannot be used: {self.redact(what)}",
            provider=self.name,
            ref=ref and str(ref),
        )


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise ConfigurationError(f"{SPEED_VARIABLE} is {text!r:.40}; it must be a number greater than 0, such as 60")
    return speed


SPEED_VARIABLE = "KLING_SANDBOX_SPEED"
_SERVER_ERROR = 500
_LONGEST_ODDITY = 200  # characters of what is said and not understood
_LONGEST_WORDS = 1000  # characters of what is said about a job, which may be a whole traceback
_BY_STATUS: Mapping[int, type[KlingError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    402: InsufficientCredits,
    403: Unauthorized,
    404: JobNotFound,
    408: ProviderUnavailable,
    422: InvalidRequest,
    425: ProviderUnavailable,
    429: RateLimited,
}
_VERDICT: Mapping[type[KlingError], str] = {
    Unauthorized: "does not accept the API key",
    InsufficientCredits: "says that the account cannot pay",
    ContentRejected: "refused the content",
    InvalidRequest: "refused the request",
    JobNotFound: "does not know the job",
    RateLimited: "says that too many calls were made",
    ProviderUnavailable: "cannot serve now",
}

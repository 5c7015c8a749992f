"""From a provider's replies to typed errors and plain data: codes, HTTP statuses, texts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, ClassVar

from kling_async._errors import (
    ContentRejected,
    InsufficientCredits,
    InvalidRequest,
    JobNotFound,
    KlingError,
    ProviderUnavailable,
    RateLimited,
    Remedy,
    Unauthorized,
    UnreadableReply,
)
from kling_async._exchange.calls import Reply
from kling_async._exchange.redaction import redact_json, redact_tokens
from kling_async._models import Failure, JobRef, StatusReport
from kling_async._records import record
from kling_async.providers._base.credentials import ProviderConfig

__all__ = ["Accepted", "ErrorMapper", "job_id"]


@record
class Accepted:
    """A submission that the provider accepted.

    Attributes:
        id: The provider's id of the job.
        report: What the provider reported about the job.
    """

    id: str
    report: StatusReport


class ErrorMapper:
    """Reads the replies of one provider.

    A provider subclasses it, names its codes, and reads its error bodies (`read_error`).

    Args:
        config: Whose replies they are. Its secrets are hidden in all texts.
    """

    codes: ClassVar[Mapping[str, type[KlingError]]] = {}
    """The class of error for each code that the provider documents."""
    no_slot_codes: ClassVar[frozenset[str]] = frozenset()
    """Codes that say that the account runs as many jobs as it may, so that a submission waits for one to end."""
    uncertain_codes: ClassVar[frozenset[str]] = frozenset()
    """Codes of a 5xx answer that do not say whether the call was served. A paid call that the provider does not
    deduplicate is then not sent again."""
    request_id_headers: ClassVar[tuple[str, ...]] = ("x-request-id",)
    """Headers, in lower case, that carry the provider's id of an HTTP request."""

    def __init__(self, config: ProviderConfig) -> None:
        self.config = config

    def read_error(self, data: Any) -> tuple[str | None, str | None] | None:
        """The code and the message of an error body.

        Args:
            data: A decoded body.

        Returns:
            Both may be None. None instead of the pair: the body is not an error of this provider.
        """
        raise NotImplementedError

    def classify(self, code: str | None) -> type[KlingError] | None:
        """The class of error for a code. None if the code does not decide."""
        return self.codes.get(code or "")

    def parse_error(self, reply: Reply) -> KlingError | None:
        """The error that a reply states in the provider's own words. None if it states none."""
        try:
            data = reply.json()
        except UnreadableReply:
            return None
        stated = self.read_error(data)
        if stated is None:
            return None
        code, message = stated
        return self.make_error(reply.status, code, message, request_id=self.request_id(reply))

    def request_id(self, reply: Reply) -> str | None:
        """The provider's id of the HTTP request, for its support."""
        given = next((reply.headers[name] for name in self.request_id_headers if name in reply.headers), None)
        return given and self.redact(given, _LONGEST_ID)

    def make_error(
        self, http_status: int | None, code: str | None, message: str | None, *, request_id: str | None = None
    ) -> KlingError:
        """The typed error for a provider's code (see `classify`), or else for the HTTP status."""
        kind = self.classify(code) or _BY_STATUS.get(http_status or 0)
        if kind is None:
            server = (http_status or 0) >= HTTPStatus.INTERNAL_SERVER_ERROR
            kind = ProviderUnavailable if server else InvalidRequest
        code = code and self.redact(code)
        request_id = request_id and self.redact(request_id, _MAX_REQUEST_ID)
        return kind(
            f"{self.config.identity.display_name} {_SUMMARY.get(kind, 'refused the call')} "
            f"({self._reason(code, message)})",
            provider=self.config.identity.name,
            http_status=http_status,
            code=code,
            request_id=request_id,
            remedies=self._remedies(kind),
        )

    def _reason(self, code: str | None, message: str | None) -> str:
        if code and message and message.startswith(code):  # a message that repeats the code
            code = None
        return self.redact(": ".join(part for part in (code, message) if part)) or "no reason given"

    def _remedies(self, kind: type[KlingError]) -> tuple[Remedy, ...]:
        identity = self.config.identity
        known: dict[type[KlingError], Remedy] = {
            Unauthorized: Remedy("configure", detail=f"check {identity.variables}"),
            InsufficientCredits: Remedy("check_account", detail=identity.display_name),
            ContentRejected: Remedy("change_request", detail="the prompt or the images"),
            InvalidRequest: Remedy("change_request"),
            RateLimited: Remedy("retry", detail="wait, or lower the rate"),
            ProviderUnavailable: Remedy("retry"),
            JobNotFound: Remedy(
                "configure", detail="check the job's reference, and that the API key is of the account that bought it"
            ),
        }
        return (known[kind],) if kind in known else ()

    def make_failure(self, code: str | None, message: str | None, passing: Collection[str] = ()) -> Failure:
        """The reason why a job failed, and whether submitting the same request again may succeed.

        Args:
            code: The provider's code. If None, it gave none.
            message: The provider's explanation.
            passing: Codes of failures that pass, in lower case, beside the usual ones.
        """
        word = (code or "").casefold().replace("-", "_")
        kind = self.classify(code)
        retryable: bool | None = None
        if kind in _LASTING or any(part in word for part in _POLICY_WORDS):
            retryable = False
        elif word in _PASSING or word in passing or kind in {ProviderUnavailable, RateLimited}:
            retryable = True
        return Failure(code or "unknown", message, retryable)

    def expect_json(self, reply: Reply) -> Any:
        """The decoded body of a reply that reports success.

        Raises:
            KlingError: The reply is an error, or cannot be read.
        """
        if not reply.ok:
            raise self.parse_error(reply) or self.make_error(
                reply.status, None, reply.excerpt(), request_id=self.request_id(reply)
            )
        return reply.json()

    def parse_accepted(
        self, reply: Reply, endpoint: str, id_field: str, read: Callable[[dict[str, Any], JobRef], StatusReport]
    ) -> Accepted:
        """The job that the answer to a paid call names.

        An id in the answer outweighs everything else in the answer: the job exists.

        Args:
            reply: The answer.
            endpoint: Full name of the endpoint.
            id_field: The field of the job's id.
            read: Reads the rest of the answer as a status report.

        Raises:
            KlingError: The reply is a refusal, or names no job.
        """
        try:
            data = self.expect_json(reply)
        except JobNotFound as error:
            raise self.no_such_endpoint(error) from None
        try:
            ref = JobRef(self.config.identity.name, endpoint.partition("/")[2], job_id(data[id_field]))
        except (TypeError, KeyError, ValueError) as error:
            raise self._no_job(reply, data, id_field) from error
        try:
            report = self.redact_report(read(data, ref))
        except UnreadableReply as error:  # the job is bought, with anything else in the answer
            report = StatusReport(None, unrecognized=error.message, raw=data)
        return Accepted(ref.id, report)

    def no_such_endpoint(self, error: JobNotFound) -> InvalidRequest:
        """The error for "not found" as the answer to a submission: the address has no such endpoint."""
        identity = self.config.identity
        return InvalidRequest(
            f"{identity.display_name} has nothing to submit to at {self.config.base_url} (HTTP {error.http_status}). "
            "Nothing was bought",
            provider=identity.name,
            http_status=error.http_status,
            code=error.code,
            request_id=error.request_id,
            remedies=(Remedy("configure", detail=f"check {identity.url_variable}, or the base_url that was passed"),),
        )

    def expect_job(self, reply: Reply, ref: JobRef, id_field: str, status_field: str = "status") -> dict[str, Any]:
        """The decoded answer to a status call about one job. It may lack the id, see `parse_report`.

        Raises:
            KlingError: The reply is an error, is about another job, or has no status.
        """
        data = self.expect_json(reply)
        if not isinstance(data, dict) or (id_field in data and not self.is_about(data, ref, id_field)):
            raise self.unreadable("it is about another job, or about none", ref)
        if status_field not in data:
            raise self.parse_error(reply) or self.unreadable(f"it has no {status_field}", ref)
        return data

    def is_about(self, data: Mapping[str, Any], ref: JobRef, id_field: str) -> bool:
        """Whether a decoded answer names the job."""
        try:
            return job_id(data.get(id_field)) == ref.id
        except (TypeError, ValueError):
            return False

    def parse_report(
        self,
        reply: Reply,
        ref: JobRef,
        id_field: str,
        read: Callable[[dict[str, Any], JobRef], StatusReport],
        status_field: str = "status",
    ) -> StatusReport:
        """The report in the answer to a status call about one job.

        Args:
            reply: The answer.
            ref: The job that was asked about.
            id_field: The field of the job's id.
            read: Reads the decoded answer.
            status_field: The field of the job's status. An answer without it is no status answer.

        Raises:
            KlingError: The same as for `expect_job`. Or the answer reports a job's end and does not name the job: it
                may belong to another call, so it proves nothing.
        """
        data = self.expect_job(reply, ref, id_field, status_field)
        report = read(data, ref)
        if report.status is not None and report.status.terminal:
            self.require_id(data, ref, id_field)
        return self.redact_report(report)

    def require_id(self, data: Mapping[str, Any], ref: JobRef, id_field: str) -> None:
        """Raise if an answer that reports the end of a job does not name the job.

        Raises:
            UnreadableReply: It does not.
        """
        if not self.is_about(data, ref, id_field):
            raise self.unreadable("it says that a job has ended and does not name the job", ref)

    def _no_job(self, reply: Reply, data: Any, id_field: str) -> KlingError:
        """The error for a paid call's answer that has success status and no usable job id.

        It is a refusal only if it states a documented code of a refusal. Otherwise the answer is unreadable, so that
        the outcome of the call counts as unknown: a job may have been bought.
        """
        refusal = self.parse_error(reply)
        if refusal is None or refusal.code not in self.codes or isinstance(refusal, ProviderUnavailable):
            named = data.get(id_field) if isinstance(data, dict) else None
            shown = f"its job id cannot be used: {named!r:.200}" if named is not None else "it has no job id"
            return self.unreadable(f"it reports success, and {shown}")
        return refusal

    def unreadable(self, what: str, ref: JobRef | None = None) -> UnreadableReply:
        """The error for an answer that lacks what the provider documents."""
        identity = self.config.identity
        return UnreadableReply(
            f"the answer of {identity.display_name} cannot be used: {self.redact(what)}",
            provider=identity.name,
            ref=ref and str(ref),
        )

    def redact(self, text: str, limit: int = 300) -> str:
        """The start of a provider's text without secrets: some APIs repeat the key or the callback address."""
        for secret in self.config.secret_texts:  # before the tokens: a part of the key may resemble one
            text = text.replace(secret, "[the key]")
        text = redact_tokens(text)
        return text if len(text) <= limit else text[:limit] + "..."

    def redact_report(self, report: StatusReport) -> StatusReport:
        """The report with the provider's texts and its last answer fit for logs, errors, files and browsers."""
        ended = report.status is not None and report.status.terminal
        if not (ended or report.message or report.failures or report.logs or report.unrecognized):
            return report

        def fit(text: str | None) -> str | None:
            return text and self.redact(text, _MAX_MESSAGE)

        return replace(
            report,
            message=fit(report.message),
            logs=tuple(self.redact(line, _MAX_MESSAGE) for line in report.logs),
            failures=tuple(replace(f, code=self.redact(f.code), message=fit(f.message)) for f in report.failures),
            unrecognized=report.unrecognized and self.redact(report.unrecognized, _MAX_UNRECOGNIZED),
            raw=redact_json(report.raw, self.config.secret_texts) if ended else report.raw,
        )


def job_id(value: Any) -> str:
    """A provider's job id as text. Some providers write numbers.

    Raises:
        TypeError: It is neither text nor a whole number.
        ValueError: It is empty.
    """
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise TypeError(f"a job id is text, not {type(value).__name__}")
    if value == "":
        raise ValueError("a job id is not empty")
    return str(value)


_MAX_REQUEST_ID = 100  # characters
_MAX_UNRECOGNIZED = 200  # characters of a text that is not understood
_MAX_MESSAGE = 1000  # characters of a message about a job, which may be a whole traceback
_LONGEST_ID = 100  # characters of a request id
_LASTING = frozenset({ContentRejected, InvalidRequest})
# Words that all providers use, so that a code that is not documented is understood where it can be.
_PASSING = frozenset(
    {"timeout", "timed_out", "internal", "internal_error", "server_error", "service_unavailable", "overloaded"}
)
_POLICY_WORDS = ("policy", "moderation", "nsfw", "sensitive", "unsafe")
_BY_STATUS: Mapping[int, type[KlingError]] = {
    HTTPStatus.BAD_REQUEST: InvalidRequest,
    HTTPStatus.UNAUTHORIZED: Unauthorized,
    HTTPStatus.PAYMENT_REQUIRED: InsufficientCredits,
    HTTPStatus.FORBIDDEN: Unauthorized,
    HTTPStatus.NOT_FOUND: JobNotFound,
    HTTPStatus.REQUEST_TIMEOUT: ProviderUnavailable,
    HTTPStatus.UNPROCESSABLE_ENTITY: InvalidRequest,
    HTTPStatus.TOO_EARLY: ProviderUnavailable,
    HTTPStatus.TOO_MANY_REQUESTS: RateLimited,
}
_SUMMARY: Mapping[type[KlingError], str] = {
    Unauthorized: "does not accept the API key",
    InsufficientCredits: "says that the account cannot pay",
    ContentRejected: "refused the content",
    InvalidRequest: "refused the request",
    JobNotFound: "does not know the job",
    RateLimited: "says that too many calls were made",
    ProviderUnavailable: "cannot serve now",
}
